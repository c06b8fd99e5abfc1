/**
 * What the demo found out, as data and as text.
 *
 * @internal
 */
import type { Attempt, ErrorClass } from "../../LLMError.ts"

export interface Call {
  readonly call: number
  readonly streamed: boolean
  readonly durationMs: number
  readonly answered: boolean
  readonly target: string | undefined
  readonly attempts: ReadonlyArray<Attempt>
  readonly error: string | undefined
}

export interface Outcome {
  readonly seed: number
  readonly live: boolean
  readonly results: ReadonlyArray<Call>
  readonly durationMs: number
  readonly targets: number
  readonly received: ReadonlyArray<{
    readonly provider: string
    readonly requests: number
    readonly byStatus: Readonly<Record<string, number>>
  }>
  readonly outage: { readonly from: number; readonly to: number } | undefined
}

export type Report = ReturnType<typeof make>

const count = <A>(values: ReadonlyArray<A>, key: (value: A) => string | undefined): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const value of values) {
    const name = key(value)
    if (name !== undefined) counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0

export const make = (outcome: Outcome) => {
  const { results } = outcome
  const attempts = results.flatMap((_) => _.attempts)
  const failures = attempts.filter((_) => _.outcome === "failure")
  const durations = results.map((_) => _.durationMs).sort((a, b) => a - b)
  const waited = attempts.reduce((sum, attempt) => sum + attempt.waitedMs, 0)
  return {
    seed: outcome.seed,
    live: outcome.live,
    calls: results.length,
    answered: results.filter((_) => _.answered).length,
    streamed: results.filter((_) => _.streamed).length,
    targets: outcome.targets,
    outage: outcome.outage === undefined
      ? undefined
      : { provider: "openai", firstCall: outcome.outage.from + 1, lastCall: outcome.outage.to },
    byProvider: count(results, (_) => _.target?.split("/")[0]),
    byTarget: count(results, (_) => _.target),
    attempts: attempts.length,
    retries: attempts.filter((_) => _.chosen === "retry").length,
    errorsByClass: count<Attempt>(failures, (_): ErrorClass | undefined => _.errorClass),
    errorsByReason: count<Attempt>(failures, (_) => _.reason),
    rateLimitsSeen: failures.filter((_) => _.status === 429).length,
    received: outcome.received,
    unanswered: results.flatMap((_) => _.error === undefined ? [] : [{ call: _.call, error: _.error }]),
    decisions: results.map((_) => ({
      call: _.call,
      kind: _.streamed ? "stream" : "complete",
      target: _.target ?? null,
      attempts: _.attempts.map((attempt) => `${attempt.chosen} ${attempt.target}: ${attempt.reason ?? "answered"}`)
    })),
    timings: {
      totalMs: outcome.durationMs,
      waitedMs: waited,
      callP50Ms: percentile(durations, 0.5),
      callP99Ms: percentile(durations, 0.99)
    },
    mayDiffer: ["timings"]
  }
}

export const progress = (results: ReadonlyArray<Call>, calls: number): string => {
  const answered = results.filter((_) => _.answered).length
  const attempts = results.reduce((sum, _) => sum + _.attempts.length, 0)
  return `${results.length}/${calls} calls, ${answered} answered, ${attempts} attempts, last by ${
    results.at(-1)?.target ?? "nobody"
  }`
}

const table = (rows: Readonly<Record<string, number>>): string => {
  const entries = Object.entries(rows)
  const width = Math.max(0, ...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join("\n")
}

export const text = (report: Report): string => {
  const { timings } = report
  const sections = [
    `${report.answered} of ${report.calls} calls answered over ${report.targets} targets ` +
    `(${report.streamed} streamed), seed ${report.seed}`,
    `${report.attempts} attempts, ${(report.attempts / report.calls).toFixed(2)} a call; ` +
    `${report.retries} retries in place; ${report.rateLimitsSeen} answers of status 429`,
    `${(timings.totalMs / 1000).toFixed(1)} s in all, ${timings.waitedMs} ms waited between attempts; ` +
    `a call took ${timings.callP50Ms} ms at the median, ${timings.callP99Ms} ms at p99`
  ]
  if (report.outage !== undefined) {
    sections.push(
      `${report.outage.provider} was down (503) from call ${report.outage.firstCall} to ${report.outage.lastCall}`
    )
  }
  sections.push(`\nAnswered by\n${table(report.byTarget)}`)
  if (Object.keys(report.errorsByClass).length > 0) {
    sections.push(`\nFailed attempts by class\n${table(report.errorsByClass)}`)
    sections.push(`\nFailed attempts by reason\n${table(report.errorsByReason)}`)
  }
  if (report.received.length > 0) {
    sections.push(
      "\nWhat the servers received\n" +
        report.received.map((_) =>
          `  ${_.provider.padEnd(10)}  ${_.requests} requests: ${
            Object.entries(_.byStatus).map(([status, n]) => `${n} x ${status}`).join(", ")
          }`
        ).join("\n")
    )
  }
  for (const { call, error } of report.unanswered) sections.push(`call ${call}: ${error}`)
  return sections.join("\n")
}
