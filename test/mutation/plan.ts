/**
 * Which tests run for which mutant, and in which order.
 */
import type { Surveyed } from "./worker.ts"

/** Longer tests are left out, or those mutants that nobody notices would take minutes each. */
const longestMs = 400

/** Of those that cover a mutant the quickest ones run, for so long altogether without it. */
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

export const make = (tests: ReadonlyArray<Surveyed>): Plan => {
  const isLong = ({ millis }: Surveyed): boolean => millis > longestMs
  const quickestFirst = Array.from(tests.keys())
    .flatMap((number) => {
      const test = tests[number]
      return test === undefined || isLong(test) ? [] : [{ number, test }]
    })
    .sort((a, b) => a.test.millis - b.test.millis)
  const byMutant = new Map<number, { readonly tests: Array<number>; millis: number }>()
  for (const { number, test } of quickestFirst) {
    for (const mutant of test.covers) {
      const entry = byMutant.get(mutant) ?? { tests: [], millis: 0 }
      byMutant.set(mutant, entry)
      entry.millis += test.millis
      if (entry.millis <= mostMs) entry.tests.push(number)
    }
  }
  const killers = new Map<string, ReadonlyArray<number>>()
  const of = (mutant: number): ReadonlyArray<number> => byMutant.get(mutant)?.tests ?? []
  return {
    leftOut: tests.filter(isLong),
    of,
    around: (mutants) => {
      const files = new Set(mutants.flatMap((mutant) => of(mutant).map((number) => tests[number]?.file)))
      return quickestFirst.flatMap(({ number, test }) => files.has(test.file) ? [number] : [])
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
