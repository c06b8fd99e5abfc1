/**
 * Reports of simulations as text.
 *
 * @internal
 */
import type { State } from "./ledger.ts"
import type { Group, Report, Times } from "./report.ts"

const blocks = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]

const marks: Readonly<Record<State, string>> = { ready: "·", cooling: "~", "half-open": "?", open: "x" }

/** A time in one or two units, such as `1 h 20 min`, `4.2 s` or `120 ms`. */
export const time = (ms: number): string => {
  if (ms < 999.5) return `${Math.round(ms)} ms`
  if (ms < 9950) return `${trim(ms / 1000, 1)} s`
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3570) return pair(Math.floor(seconds / 60), "min", seconds % 60, "s")
  const minutes = Math.round(seconds / 60)
  if (minutes < 1410) return pair(Math.floor(minutes / 60), "h", minutes % 60, "min")
  const hours = Math.round(minutes / 60)
  return pair(Math.floor(hours / 24), "d", hours % 24, "h")
}

const pair = (large: number, unit: string, small: number, rest: string): string =>
  small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${rest}`

const trim = (value: number, digits: number): string => String(Number(value.toFixed(digits)))

const percent = (share: number | null): string => {
  if (share === null) return "–"
  const value = share * 100
  // What is not all of it must not look like all of it, nor a little like nothing.
  if (value > 99.99 && value < 100) return "99.99 %"
  if (value > 0 && value < 0.01) return "0.01 %"
  return `${trim(value, value >= 99 || value < 1 ? 2 : 1)} %`
}

const number = (value: number): string => value.toLocaleString("en-US")

const ratio = (value: number | null): string => value === null ? "–" : trim(value, 3)

const times = ({ count, max, p50, p95, p99 }: Times): string =>
  count === 0 ? "–" : `p50 ${time(p50)}, p95 ${time(p95)}, p99 ${time(p99)}, max ${time(max)}`

/** The figures of a report, by name: those of two reports stand beside each other. */
const figures = (report: Report): ReadonlyArray<readonly [name: string, figure: string]> => {
  const { attempts, calls, cost, goodput } = report
  const rows: Array<readonly [string, string]> = [
    ["calls", number(calls.offered)],
    ["answered", `${number(calls.answered)} (${percent(calls.answeredShare)})`],
    ["of the possible answers", percent(goodput.answersShare)],
    ["of the possible tokens", percent(goodput.tokensShare)],
    ["attempts an answer", ratio(attempts.perAnswer)],
    ["refused with 429", `${number(report.refused)} (${percent(report.refusedShare)})`],
    ["waited", times(calls.waitMs)],
    ["latency", times(calls.latencyMs)]
  ]
  if (calls.firstTokenMs.count > 0) rows.push(["first token", times(calls.firstTokenMs)])
  if (cost.usd !== null) rows.push(["cost", `${cost.atLeast ? "at least " : ""}$${trim(cost.usd, 4)}`])
  if (report.fairness.tenants !== null) rows.push(["fairness among tenants", ratio(report.fairness.tenants)])
  if (report.fairness.largeToSmall !== null) {
    rows.push(["large calls to small ones", ratio(report.fairness.largeToSmall)])
  }
  const failures = Object.entries(attempts.failed).map(([name, count]) => `${number(count)} ${name}`)
  if (failures.length > 0) rows.push(["failed attempts", failures.join(", ")])
  const errors = Object.entries(report.errors.byReason).map(([name, count]) => `${number(count)} ${name}`)
  if (errors.length > 0) rows.push(["errors", errors.join(", ")])
  for (const outage of report.outages) {
    const where = [outage.provider, outage.model, outage.key].filter((_) => _ !== undefined).join(" ")
    const recovery = outage.recoveryMs === null ? "not back" : `back after ${time(outage.recoveryMs)}`
    rows.push([
      `outage of ${where}`,
      `${time(outage.fromMs)} to ${time(outage.toMs)}: ${number(outage.requests)} requests for ` +
      `${number(outage.offered)} calls, ${number(outage.lost)} lost, ${recovery}, peak ${ratio(outage.peak)}×`
    ])
  }
  return rows
}

const groups = (title: string, named: Readonly<Record<string, Group>>): ReadonlyArray<string> => {
  const entries = Object.entries(named)
  if (entries.length < 2) return []
  const width = Math.max(...entries.map(([name]) => name.length))
  return [
    "",
    title,
    ...entries.map(([name, group]) =>
      `  ${name.padEnd(width)}  ${percent(group.answeredShare).padStart(8)} of ${number(group.offered)}; waited ${
        times(group.waitMs)
      }`
    )
  ]
}

const spark = (values: ReadonlyArray<number>, most: number): string =>
  values.map((value) =>
    value === 0 ? " " : blocks[Math.max(1, Math.min(8, Math.round(8 * value / Math.max(1, most))))] ?? " "
  ).join("")

/** How many targets a chart shows, the most troubled ones first. */
const mostTargets = 12

const chart = ({ timeline }: Report): ReadonlyArray<string> => {
  const { answered, binMs, failed, offered, refused, requests, states } = timeline
  const most = Math.max(...offered, ...answered, ...failed, ...requests, ...refused)
  const troubled = Object.entries(states)
    .map(([target, row]) => ({ target, row, trouble: row.filter((state) => state !== "ready").length }))
    .filter(({ trouble }) => trouble > 0)
    .sort((a, b) => b.trouble - a.trouble)
  const shown = troubled.slice(0, mostTargets)
  const width = Math.max(8, ...shown.map(({ target }) => target.length))
  const line = (name: string, text: string): string => `  ${name.padEnd(width)} |${text}|`
  const lines = [
    "",
    `timeline, ${time(binMs)} a column, highest ${number(most)}`,
    line("offered", spark(offered, most)),
    line("requests", spark(requests, most)),
    line("answered", spark(answered, most))
  ]
  if (failed.some((count) => count > 0)) lines.push(line("failed", spark(failed, most)))
  if (refused.some((count) => count > 0)) lines.push(line("429", spark(refused, most)))
  if (shown.length > 0) {
    lines.push("", "targets: · ready, ~ cooling, x circuit open, ? half open")
    for (const { row, target } of shown) lines.push(line(target, row.map((state) => marks[state]).join("")))
    if (troubled.length > shown.length) lines.push(`  and ${troubled.length - shown.length} more`)
  }
  return lines
}

/** A report for people to read. */
export const text = (report: Report): string => {
  const rows = figures(report)
  const width = Math.max(...rows.map(([name]) => name.length))
  return [
    ...(report.description === undefined ? [] : [report.description]),
    `policy ${report.policy}, seed ${report.seed}, ${time(report.durationMs)}` +
    (report.warmUpMs === 0 ? "" : `, of which ${time(report.warmUpMs)} warm-up`),
    "",
    ...rows.map(([name, figure]) => `  ${name.padEnd(width)}  ${figure}`),
    ...groups("by priority", report.priorities),
    ...groups("by tenant", report.tenants),
    ...groups("by traffic", report.traffic),
    ...chart(report)
  ].join("\n")
}

/** Two reports beside each other, and the timeline of both. */
export const comparison = (a: Report, b: Report): string => {
  const [left, right] = [figures(a), figures(b)]
  const names = [...new Set([...left, ...right].map(([name]) => name))]
  const find = (rows: typeof left, name: string): string => rows.find(([other]) => other === name)?.[1] ?? "–"
  const width = Math.max(...names.map((name) => name.length))
  const column = Math.max(a.policy.length, ...left.map(([, figure]) => figure.length))
  return [
    ...(a.description === undefined ? [] : [a.description]),
    `seed ${a.seed}, ${time(a.durationMs)}` + (a.warmUpMs === 0 ? "" : `, of which ${time(a.warmUpMs)} warm-up`),
    "",
    `  ${"".padEnd(width)}  ${a.policy.padEnd(column)}  ${b.policy}`,
    ...names.map((name) => `  ${name.padEnd(width)}  ${find(left, name).padEnd(column)}  ${find(right, name)}`),
    "",
    a.policy,
    ...chart(a).slice(1),
    "",
    b.policy,
    ...chart(b).slice(1)
  ].join("\n")
}
