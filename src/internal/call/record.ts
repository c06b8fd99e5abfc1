/**
 * The decision record of a call, and what it writes to the log.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Errors from "../../LLMError.ts"
import type { Timings } from "../../LLMService.ts"
import type { Attempt, Call } from "./call.ts"

const line = (call: Call, attempt: Attempt): Omit<Errors.Attempt, "outcome" | "maybeBilled"> => ({
  target: attempt.member.target.id,
  provider: attempt.member.target.provider,
  model: attempt.member.target.model,
  chosen: attempt.chosen,
  startedMs: attempt.startedAt - call.startedAt,
  waitedMs: attempt.waitedMs,
  durationMs: call.clock.currentTimeMillisUnsafe() - attempt.startedAt,
  skipped: attempt.skipped
})

export const success = (call: Call, attempt: Attempt): void => {
  call.attempts.push({ ...line(call, attempt), outcome: "success", maybeBilled: true })
}

export const failure = (call: Call, attempt: Attempt, error: Errors.LLMError): void => {
  call.attempts.push({
    ...line(call, attempt),
    outcome: "failure",
    errorClass: error.errorClass,
    reason: error.reason,
    scope: error.scope,
    maybeBilled: error.maybeBilled,
    ...(error.status === undefined ? undefined : { status: error.status }),
    ...(error.requestId === undefined ? undefined : { requestId: error.requestId }),
    ...(error.retryAfter === undefined ? undefined : { retryAfterMs: Duration.toMillis(error.retryAfter) })
  })
}

export const timings = (call: Call, attempt: Attempt): Timings => {
  const now = call.clock.currentTimeMillisUnsafe()
  return { totalMs: now - call.startedAt, waitedMs: call.waitedMs, attemptMs: now - attempt.startedAt }
}

export const logFailure = (call: Call, error: Errors.LLMError): Effect.Effect<void> =>
  Effect.logWarning(`${error.message} (attempt ${call.attempts.length}/${call.engine.maxAttempts})`)

export const logCooldown = (scopeKey: string, millis: number, reason: Errors.Reason): Effect.Effect<void> =>
  Effect.logInfo(`cooling ${scopeKey} for ${Duration.format(Duration.millis(millis))} (${reason})`)

/** Says why it is this target, unless it is simply the first one. */
export const logChoice = (call: Call, attempt: Attempt): Effect.Effect<void> => {
  const skipped = attempt.skipped.length === 0 ? Effect.void : Effect.logDebug(
    attempt.skipped.map((_) =>
      `skipped ${_.target}: ${_.why}${_.remainingMs === undefined ? "" : `, ${Math.ceil(_.remainingMs / 1000)} s left`}`
    ).join("; ")
  )
  return call.attempts.length === 0 ? skipped : Effect.andThen(
    skipped,
    Effect.logInfo(
      `attempt ${call.attempts.length + 1}/${call.engine.maxAttempts}: ${attempt.chosen} ${attempt.member.target.id}`
    )
  )
}

export const logStop = (call: Call, error: Errors.LLMError): Effect.Effect<void> =>
  error.exhaustion === undefined
    ? Effect.void
    : Effect.logError(`${error.message} after ${call.attempts.length} attempts`)
