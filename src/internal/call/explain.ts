/**
 * A decision record in words.
 *
 * @internal
 */
import type * as Errors from "../../LLMError.ts"
import type { Explained } from "../../Router.ts"

/** @internal */
export const text = (outcome: Explained): string => [headline(outcome), ...outcome.attempts.flatMap(lines)].join("\n")

const headline = (outcome: Explained): string => {
  const { attempts, errorClass, message, timings } = outcome
  const last = attempts[attempts.length - 1]
  const count = attempts.length === 1 ? "1 attempt" : `${attempts.length} attempts`
  const result = errorClass !== undefined
    ? `failed with ${errorClass} after ${count}${message === undefined || message === "" ? "" : `: ${message}`}`
    : last?.outcome === "success"
    ? `answered by ${last.target} after ${count}`
    : `no answer after ${count}`
  const times = timings === undefined
    ? ""
    : ` in ${time(timings.totalMs)}${timings.waitedMs > 0 ? `, ${time(timings.waitedMs)} of it waiting` : ""}`
  return `${result}${times}${total(outcome)}`
}

const total = ({ cost, costAtLeast }: Explained): string =>
  cost === undefined ? "" : `, ${costAtLeast === true ? "at least " : ""}${dollars(cost)}`

const lines = (attempt: Errors.Attempt, index: number): ReadonlyArray<string> => {
  const chosen = attempt.strategy === undefined ? attempt.chosen : `${attempt.chosen} by ${attempt.strategy}`
  const waited = attempt.waitedMs > 0 ? ` after a wait of ${time(attempt.waitedMs)}` : ""
  const line = `${index + 1}. ${attempt.target}, ${chosen}${waited}: ${ending(attempt)} after ${
    time(attempt.durationMs)
  }${stated(attempt)}${bill(attempt)}`
  return attempt.skipped.length === 0 ? [line] : [line, `   passed over: ${attempt.skipped.map(skipped).join(", ")}`]
}

const ending = ({ errorClass, outcome, reason, status }: Errors.Attempt): string => {
  switch (outcome) {
    case "success":
      return "answered"
    case "interrupted":
      return "cancelled"
    case "failure": {
      const details = [reason === errorClass ? undefined : reason, status].filter((_) => _ !== undefined)
      return `${errorClass ?? "failed"}${details.length === 0 ? "" : ` (${details.join(", ")})`}`
    }
  }
}

const stated = ({ retryAfterMs }: Errors.Attempt): string =>
  retryAfterMs === undefined ? "" : `, asked to wait ${time(retryAfterMs)}`

const bill = ({ cost, maybeBilled, outcome }: Errors.Attempt): string =>
  cost !== undefined ? `, ${dollars(cost)}` : maybeBilled && outcome !== "success" ? ", perhaps billed" : ""

const skipped = ({ remainingMs, target, why }: Errors.Skipped): string =>
  `${target} (${why.replaceAll("_", " ")}${remainingMs === undefined ? "" : `, ${time(remainingMs)} left`})`

const time = (millis: number): string =>
  millis < 1000
    ? `${Math.round(millis)} ms`
    : millis < 600_000
    ? `${Number((millis / 1000).toFixed(1))} s`
    : `${Math.round(millis / 60_000)} min`

// Two digits that count, however little it was.
const dollars = (cost: number): string =>
  `$${
    cost === 0 || cost >= 0.01
      ? cost.toFixed(cost === 0 ? 0 : 2)
      : Number(cost.toPrecision(2)).toFixed(Math.min(12, 1 - Math.floor(Math.log10(cost))))
  }`
