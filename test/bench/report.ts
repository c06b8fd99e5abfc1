/** Runs all benchmarks and renders what they found. */
import { Effect, type Scope } from "effect"
import { cpus, release, totalmem, type } from "node:os"
import * as Harness from "./harness.ts"
import * as Breaker from "./rows/breaker.ts"
import * as Calls from "./rows/call.ts"
import * as Classifying from "./rows/classifier.ts"
import * as Gateways from "./rows/gateway.ts"
import * as Hedging from "./rows/hedging.ts"
import * as Limiter from "./rows/limiter.ts"
import * as Selecting from "./rows/selection.ts"
import * as State from "./rows/state.ts"
import * as Streams from "./rows/stream.ts"
import * as Times from "./rows/timeouts.ts"

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
  /** Microseconds, all of them. */
  readonly rows: ReadonlyArray<Harness.Row>
}

type Groups = ReadonlyArray<Effect.Effect<Harness.Group, never, Scope.Scope>>

/** What is measured in this process alone, by the name of its file. */
const byName: Readonly<Record<string, Groups>> = {
  limiter: Limiter.groups,
  breaker: Breaker.groups,
  call: Calls.groups,
  stream: Streams.groups,
  timeouts: Times.groups,
  hedging: Hedging.groups,
  classifier: Classifying.groups,
  state: State.groups,
  selection: Selecting.groups
}

export const inProcess: Groups = Object.values(byName).flat()

/** All there is; the gateways have processes of their own. */
export const everything: Readonly<Record<string, Groups>> = { ...byName, gateway: Gateways.groups }

/** Sets up one group after the other, measures it and takes it down again. */
export const make = (settings: Harness.Settings, groups: Groups): Effect.Effect<Report> =>
  Effect.gen(function*() {
    const start = performance.now()
    const date = new Date().toISOString()
    const rows: Array<Harness.Row> = []
    for (const group of groups) {
      const measured = Effect.flatMap(group, (group) => Effect.promise(() => Harness.measure(group, settings)))
      rows.push(...(yield* Effect.scoped(measured)))
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
      rows
    }
  })

/** Renders a report as a table. */
export const table = (report: Report): string => {
  const { machine } = report
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}, Node ${machine.node}`,
    `${report.date}, ${report.seconds} s, one process, rounds interleaved; medians of microseconds an operation`
  ]
  let group = ""
  for (const row of report.rows) {
    if (row.group !== group) {
      group = row.group
      lines.push("", `${group.padEnd(62)}${"median".padStart(9)}${"p10".padStart(9)}${"p90".padStart(9)}`)
      if (row.note !== undefined) lines.push(`  (${row.note})`)
    }
    const ratios = row.ratios.map(({ peer, ratio }) => `${ratio.toPrecision(2)}× ${peer}`).join(", ")
    const budgets = row.budgets.map(({ budget, met }) => `budget ${budget}: ${met ? "met" : "missed"}`).join("; ")
    const name = `  ${row.name}${row.over === undefined ? "" : ` (added)`}`
    const figures = [row.median, row.p10, row.p90].map((value) => format(value).padStart(9)).join("")
    lines.push([name.padEnd(62) + figures, ratios, budgets].filter((text) => text !== "").join("  | "))
  }
  const budgets = report.rows.flatMap((row) => row.budgets)
  lines.push("", `${budgets.filter((_) => _.met).length} of ${budgets.length} budgets met`)
  return lines.join("\n")
}

const format = (value: number): string => value.toFixed(Math.abs(value) < 10 ? 2 : 1)
