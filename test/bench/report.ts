/** Runs benchmarks and renders what they found. */
import { Effect } from "effect"
import { cpus, release, totalmem, type } from "node:os"
import * as Harness from "./harness.ts"
import * as Breaker from "./rows/breaker.ts"
import * as Calls from "./rows/call.ts"
import * as Classifying from "./rows/classifier.ts"
import * as Gateways from "./rows/gateway.ts"
import * as Hedging from "./rows/hedging.ts"
import * as Limiter from "./rows/limiter.ts"
import * as Memory from "./rows/memory.ts"
import * as Retrying from "./rows/retry.ts"
import * as Selecting from "./rows/selection.ts"
import * as State from "./rows/state.ts"
import * as Streams from "./rows/stream.ts"
import * as Times from "./rows/timeouts.ts"
import * as Traffic from "./rows/traffic.ts"
import * as Tables from "./table.ts"

export interface Report {
  readonly machine: {
    readonly cpu: string
    readonly cores: number
    readonly memoryGiB: number
    readonly system: string
    readonly node: string
  }
  readonly date: string
  readonly seconds: number
  readonly tables: ReadonlyArray<Tables.Table & { readonly part: string }>
}

/** Something that is measured by itself. */
export interface Item {
  readonly title: string
  readonly run: (settings: Harness.Settings) => Effect.Effect<Tables.Table>
}

/** Items by the name of the part they belong to. */
export type Parts = Readonly<Record<string, ReadonlyArray<Item>>>

const timed = (groups: ReadonlyArray<Harness.Group>): ReadonlyArray<Item> =>
  groups.map((group) => ({
    title: group.name,
    run: (settings) =>
      Effect.scoped(
        Effect.flatMap(group.subjects, (subjects) => Effect.promise(() => Harness.measure(group, subjects, settings)))
      )
  }))

/** What is measured in this process alone. */
export const inProcess: Parts = {
  limiter: timed(Limiter.groups),
  breaker: timed(Breaker.groups),
  retry: timed(Retrying.groups),
  call: timed(Calls.groups),
  stream: timed(Streams.groups),
  timeouts: timed(Times.groups),
  hedging: timed(Hedging.groups),
  classifier: timed(Classifying.groups),
  state: timed(State.groups),
  selection: timed(Selecting.groups)
}

/** All there is; the gateways have processes of their own, and so has what is measured of memory. */
export const everything: Parts = {
  ...inProcess,
  traffic: Traffic.items,
  memory: Memory.items(),
  gateway: timed(Gateways.groups)
}

/** The parts of these names; of the others, the items that have such a text in their title. */
export const select = (parts: Parts, names: ReadonlyArray<string>): Parts => {
  const wanted = names.map((name) => name.toLowerCase())
  const texts = wanted.filter((name) => parts[name] === undefined)
  return Object.fromEntries(
    Object.entries(parts).map(([part, items]) => [
      part,
      wanted.includes(part)
        ? items
        : items.filter(({ title }) => texts.some((text) => title.toLowerCase().includes(text)))
    ])
  )
}

/** Runs one item after the other, and says so. */
export const make = (
  parts: Parts,
  settings: Harness.Settings,
  onProgress: (line: string) => void = () => undefined
): Effect.Effect<Report> =>
  Effect.gen(function*() {
    const start = performance.now()
    const date = new Date().toISOString()
    const items = Object.entries(parts).flatMap(([part, items]) => items.map((item) => ({ ...item, part })))
    const tables: Array<Report["tables"][number]> = []
    for (const [index, { part, run, title }] of items.entries()) {
      onProgress(`[${index + 1}/${items.length}] ${part}: ${title}`)
      tables.push({ part, ...(yield* run(settings)) })
    }
    const [cpu, ...others] = cpus()
    return {
      machine: {
        cpu: cpu?.model.trim() ?? "unknown",
        cores: others.length + 1,
        memoryGiB: Math.round(totalmem() / 2 ** 30),
        system: `${type()} ${release()} ${process.arch}`,
        node: process.version
      },
      date,
      seconds: Math.round((performance.now() - start) / 100) / 10,
      tables
    }
  })

/** All budgets of a report, as a table of its own. */
const budgetsOf = ({ tables }: Report): ReadonlyArray<string> => {
  const verdicts = tables.flatMap(({ rows, title }) =>
    rows.flatMap(({ budgets, name }) => budgets.map((verdict) => ({ ...verdict, where: `${title}: ${name}` })))
  )
  const met = verdicts.filter((_) => _.met).length
  const lines = verdicts.flatMap(({ budget, measured, met, where }) => {
    const verdict = (met ? "met" : "MISSED").padEnd(8) + measured.padStart(7)
    return Tables.wrap(`  ${verdict}  ${budget}: ${where}`, " ".repeat(21))
  })
  return verdicts.length === 0 ? [] : ["", `budgets: ${met} of ${verdicts.length} met`, ...lines]
}

/** Renders a report for a terminal. */
export const render = (report: Report): string => {
  const { machine } = report
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}, Node ${machine.node}`,
    `${report.date}, ${report.seconds} s`,
    ...Tables.wrap(
      "Times: one process, rounds interleaved; medians of microseconds an operation, of the thread's own time unless it " +
        "says otherwise; ratios are medians of the ratios within a round. Traffic: virtual time, the same calls and providers " +
        "for all, seed 1.",
      ""
    ),
    ...report.tables.flatMap((table) => ["", ...Tables.render(table)]),
    ...budgetsOf(report)
  ].join("\n")
}
