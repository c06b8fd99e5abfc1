/**
 * What a failure says about its target, and what it is to the caller.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Errors from "../../LLMError.ts"
import type { Forecast } from "../../RateLimiter.ts"
import { plan } from "../limiter/limits.ts"
import * as Meter from "../limiter/meter.ts"
import type { Attempt, Call, Member } from "./call.ts"

/** Less than this is too little to say that a target is slow of which nothing is known. */
const enoughMs = 5000

/** What a failure is to the caller, and what it says about the target. */
interface Judgement {
  readonly error: Errors.LLMError
  readonly evidence: Errors.LLMError
  /** Longest time the target has to rest, when our own limits say how long it takes. */
  readonly restMs: number
}

/**
 * A refusal for a rate, by a target whose limit is used up by our own count as well, is over with one window of that
 * limit: nobody has to guess for how long the target must rest that does not say.
 */
export const judged = (call: Call, attempt: Attempt, error: Errors.LLMError): Effect.Effect<Judgement> => {
  const { grant, member } = attempt
  if (error.reason !== "rate_limit" || error.retryAfter !== undefined || grant === undefined) {
    return cutShort(call, attempt, error)
  }
  const again = { scopes: member.limits, tokens: grant.estimate }
  return Effect.map(call.engine.limiter.waitFor(again), (forecast) => ({
    error,
    evidence: error,
    restMs: Duration.isZero(forecast.wait) ? Number.POSITIVE_INFINITY : windowMs(member, forecast)
  }))
}

const windowMs = ({ limits }: Member, { bindingDimension, key }: Forecast): number => {
  const limit = limits.find((scope) => scope.key === key)?.limits
  if (limit === undefined || bindingDimension === undefined) return Number.POSITIVE_INFINITY
  const windows = plan(limit).rules.filter(({ dimension }) => dimension === bindingDimension).map(Meter.windowOf)
  return windows.length === 0 ? Number.POSITIVE_INFINITY : Math.max(...windows)
}

/**
 * An attempt that was cut short by the deadline, its own part of it or all that was left, says nothing about its target,
 * unless it had twice the time that answers take there: then the target is as slow as one that used up its limit.
 */
const cutShort = (call: Call, attempt: Attempt, error: Errors.LLMError): Effect.Effect<Judgement> => {
  const restMs = Number.POSITIVE_INFINITY
  const tookMs = call.clock.currentTimeMillisUnsafe() - attempt.startedAt
  // A timer may be early by a millisecond; what gave up sooner had a shorter limit of its own.
  const isSlice = hurried.has(error.reason) && tookMs >= attempt.sliceMs - 1
  const isDeadline = error.reason === "deadline" && attempt.firstContentAt === undefined
  if (error.errorClass !== "timeout" || !(isSlice || isDeadline)) {
    return Exit.succeed({ error, evidence: error, restMs })
  }
  return Effect.map(call.engine.health.figures(attempt.member.health[0] ?? ""), (figures) => {
    const usualMs = call.need.kind === "stream" ? figures?.firstTokenP95Ms : figures?.latencyP95Ms
    const isSlow = tookMs >= (usualMs === undefined ? enoughMs : 2 * usualMs)
    if (isDeadline) {
      const evidence = isSlow
        ? Errors.update(error, { origin: "provider", reason: "attempt", scope: "target" })
        : error
      return { error, evidence, restMs }
    }
    const hasty = isSlow ? error : Errors.update(error, {
      origin: "deadline",
      detail: `${error.detail ?? "no answer"}, the part of the deadline that leaves the other targets a start`
    })
    return { error: hasty, evidence: hasty, restMs }
  })
}

const hurried: ReadonlySet<Errors.Reason> = new Set<Errors.Reason>(["attempt", "first_token", "connect_timeout"])
