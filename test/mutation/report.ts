/**
 * What became of the mutants, as data and as text.
 */
import { type Equivalent, meant } from "./equivalents.ts"
import type { Mutant } from "./mutate.ts"

/** How a mutant ended. */
export interface Result {
  readonly mutant: Mutant
  /** `stuck` is killed too: the test never ended. A test that fails without the mutant, too, leaves it `spoiled`. */
  readonly verdict: "killed" | "stuck" | "survived" | "uncovered" | "spoiled"
  /** The test that failed. */
  readonly test: string | undefined
  readonly millis: number
}

/** The mutants of one module. */
export interface Summary {
  readonly module: string
  readonly mutants: number
  readonly killed: number
  readonly survived: number
  readonly equivalent: number
  /** Share of the mutants that are not proven equal which were killed, in percent. */
  readonly score: number
}

export interface Report {
  readonly node: string
  readonly millis: number
  readonly tests: number
  /** Tests that take too long to be run for every mutant. */
  readonly leftOut: ReadonlyArray<string>
  readonly modules: ReadonlyArray<Summary>
  readonly total: Summary
  readonly survivors: ReadonlyArray<Result>
  readonly equivalents: ReadonlyArray<Result & { readonly proof: string }>
  /** Entries of the list of equivalents that a test has killed, or that mean no mutant. */
  readonly wrong: ReadonlyArray<string>
  readonly results: ReadonlyArray<Result>
}

const isKilled = ({ verdict }: Result): boolean => verdict === "killed" || verdict === "stuck"

const summary = (module: string, results: ReadonlyArray<Result>, equivalent: ReadonlySet<Mutant>): Summary => {
  const counted = results.filter(({ mutant }) => !equivalent.has(mutant))
  const killed = counted.filter(isKilled).length
  return {
    module,
    mutants: results.length,
    killed,
    survived: counted.length - killed,
    equivalent: results.length - counted.length,
    score: counted.length === 0 ? 100 : killed / counted.length * 100
  }
}

/** Adds up what became of the mutants of modules. */
export const make = (
  run: Pick<Report, "node" | "millis" | "tests" | "leftOut">,
  modules: Readonly<Record<string, ReadonlyArray<string>>>,
  results: ReadonlyArray<Result>,
  equivalents: ReadonlyArray<Equivalent>
): Report => {
  const files = new Set(Object.values(modules).flat())
  const listed = equivalents.filter(({ file }) => files.has(file)).map((entry) => ({
    entry,
    found: meant(entry, results)
  }))
  const proven = listed.flatMap(({ entry, found }) => found.map((result) => ({ ...result, proof: entry.proof })))
  const equivalent = new Set(proven.map(({ mutant }) => mutant))
  return {
    ...run,
    modules: Object.entries(modules).map(([module, files]) =>
      summary(module, results.filter(({ mutant }) => files.includes(mutant.file)), equivalent)
    ),
    total: summary("all", results, equivalent),
    survivors: results.filter((result) => !isKilled(result) && !equivalent.has(result.mutant)),
    equivalents: proven,
    wrong: [
      ...listed.filter(({ found }) => found.length === 0).map(({ entry }) => `means no mutant: ${titleOf(entry)}`),
      ...proven.filter(isKilled).map(({ mutant, test }) => `killed by "${test}": ${titleOf(mutant)}`)
    ],
    results
  }
}

const titleOf = ({ file, original, replacement, within }: Omit<Mutant, "id" | "line">): string =>
  `${file} ${within}: ${original} → ${replacement}`

const line = ({ equivalent, killed, module, mutants, score, survived }: Summary): string =>
  [
    module.padEnd(16),
    String(mutants).padStart(8),
    String(killed).padStart(8),
    String(survived).padStart(10),
    String(equivalent).padStart(12),
    `${score.toFixed(1)} %`.padStart(9)
  ].join("")

/** One line a module, and one for all. */
export const table = ({ modules, total }: Report): string =>
  [
    "module           mutants  killed  survived  equivalent    score",
    ...modules.map(line),
    line(total)
  ].join("\n")

const place = ({ file, line, original, replacement, within }: Mutant): string =>
  `${file}:${line} ${within}\n  - ${original}\n  + ${replacement}`

/** The table, every survivor, and every mutant that is proven equal. */
export const text = (report: Report): string =>
  [
    table(report),
    "",
    `${report.survivors.length} survived`,
    "",
    ...report.survivors.map(({ mutant, verdict }) => `${place(mutant)}\n  ${verdict}\n`),
    `${report.equivalents.length} cannot be noticed`,
    "",
    ...report.equivalents.map(({ mutant, proof }) => `${place(mutant)}\n  ${proof}\n`),
    ...report.wrong.map((why) => `wrong in the list of equivalents: ${why}`),
    `${report.leftOut.length} tests left out, since they take long`,
    ...report.leftOut.map((name) => `  ${name}`),
    ""
  ].join("\n")
