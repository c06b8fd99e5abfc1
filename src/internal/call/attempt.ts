/**
 * One attempt at a whole answer, of a model or of any effect, under its limits of time.
 *
 * @internal
 */
import type * as Effect from "effect/Effect"
import type { LLMError } from "../../LLMError.ts"
import type { Adapter, Reply } from "../../Provider.ts"
import * as Timeouts from "../../Timeouts.ts"
import * as Admissions from "./admit.ts"
import type { Attempt, Call } from "./call.ts"
import type { Prepared } from "./request.ts"

/** Runs an effect as the attempt: within its time, with the headers it receives read. */
export const attempted = <A, R>(
  call: Call,
  attempt: Attempt,
  effect: Effect.Effect<A, LLMError, R>
): Effect.Effect<A, LLMError, R> => timed(call, attempt, effect, Admissions.observing(call, attempt))

/** Limits an attempt to its own time, or to what is left of the call's. */
export const timed = <A, R>(
  call: Call,
  { member, remainingMs, sliceMs }: Attempt,
  effect: Effect.Effect<A, LLMError, R>,
  change?: Timeouts.ContextChange
): Effect.Effect<A, LLMError, R> => {
  const millis = Math.min(call.engine.limits.attempt, sliceMs)
  return millis < remainingMs
    ? Timeouts.limit(effect, "attempt", millis, member.about, change)
    : Timeouts.limit(effect, "deadline", remainingMs, member.about, change)
}

export const complete = (
  call: Call,
  attempt: Attempt,
  adapter: Adapter,
  request: Prepared
): Effect.Effect<Reply, LLMError> => attempted(call, attempt, adapter.complete(attempt.member.target, request))
