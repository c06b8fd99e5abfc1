/**
 * Which tests run for which mutant, and in which order.
 */
import { dirname } from "node:path"
import type { Mutant } from "./mutate.ts"
import type { Surveyed } from "./worker.ts"

/** Longer tests are left out, or those mutants that nobody notices would take minutes each. */
const longestMs = 400

/** For each mutant tests run that take so long altogether without it: those near to it, then the quickest ones. */
const mostMs = 2000

/** How many of the tests that killed last are tried first. */
const recent = 8

export interface Plan {
  /** Tests that are run for no mutant. */
  readonly leftOut: ReadonlyArray<Surveyed>
  /** The tests that cover a mutant. */
  readonly of: (mutant: number) => ReadonlyArray<number>
  /**
   * The tests of all files with a test that covers one of the mutants: what was made while loading may be read without
   * a trace.
   */
  readonly around: (mutants: ReadonlyArray<number>) => ReadonlyArray<number>
  /** Puts those first that have killed a mutant of the same file: neighbours often fall to the same one. */
  readonly sorted: (file: string, tests: ReadonlyArray<number>) => ReadonlyArray<number>
  readonly killed: (file: string, test: number) => void
}

/** Whether a test file is that of a source file, or of its neighbours. */
const isNear = (test: string, source: string): boolean => {
  const place = source.replace(/^src\//, "test/").replace(/\.ts$/, "")
  return test === `${place}.test.ts` || test.startsWith(`${dirname(place)}/`)
}

export const make = (mutants: ReadonlyArray<Mutant>, tests: ReadonlyArray<Surveyed>): Plan => {
  const isLong = ({ millis }: Surveyed): boolean => millis > longestMs
  const quickestFirst = Array.from(tests.entries())
    .filter(([, test]) => !isLong(test))
    .sort(([, a], [, b]) => a.millis - b.millis)
  const byMutant = new Map(mutants.map(({ id }) => [id, Array<number>()]))
  for (const [number, { covers }] of quickestFirst) for (const id of covers) byMutant.get(id)?.push(number)
  for (const { file, id } of mutants) {
    // What is written for a module says more about it than what happens to use it.
    const all = Map.groupBy(byMutant.get(id) ?? [], (number) => isNear(tests[number]?.file ?? "", file))
    let left = mostMs
    const some = [...all.get(true) ?? [], ...all.get(false) ?? []].filter((number) => {
      left -= tests[number]?.millis ?? 0
      return left > 0
    })
    byMutant.set(id, some)
  }
  const killers = new Map<string, ReadonlyArray<number>>()
  const of = (mutant: number): ReadonlyArray<number> => byMutant.get(mutant) ?? []
  return {
    leftOut: tests.filter(isLong),
    of,
    around: (ids) => {
      const files = new Set(ids.flatMap((id) => of(id).map((number) => tests[number]?.file)))
      return quickestFirst.flatMap(([number, { file }]) => files.has(file) ? [number] : [])
    },
    sorted: (file, numbers) => {
      const among = new Set(numbers)
      return [...new Set([...(killers.get(file) ?? []).filter((number) => among.has(number)), ...numbers])]
    },
    killed: (file, test) => {
      const others = (killers.get(file) ?? []).filter((number) => number !== test)
      killers.set(file, [test, ...others].slice(0, recent))
    }
  }
}
