/**
 * The decision record of a call: what it holds, what it writes to the log, which events it makes.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Errors from "../../LLMError.ts"
import type { Timings } from "../../LLMService.ts"
import * as Step from "../step.ts"
import type { Attempt, Call, Engine, Spent } from "./call.ts"
import * as Completions from "./completion.ts"

type Entry = { -readonly [Field in keyof Errors.Attempt]: Errors.Attempt[Field] }

const line = (
  moment: Step.Moment,
  call: Call,
  attempt: Attempt,
  outcome: Errors.Attempt["outcome"],
  maybeBilled: boolean
): Entry => {
  const { member: { target }, chosen } = attempt
  const entry: Entry = {
    target: target.id,
    provider: target.provider,
    model: target.model,
    chosen,
    startedMs: attempt.startedAt - call.startedAt,
    waitedMs: attempt.waitedMs,
    durationMs: Step.millis(moment) - attempt.startedAt,
    outcome,
    maybeBilled,
    skipped: attempt.skipped
  }
  if (call.strategy !== "ordered" && chosen !== "retry" && chosen !== "earliest") entry.strategy = call.strategy
  return entry
}

// The answer is the last line, whatever was cancelled in its favour.
const add = (call: Call, entry: Errors.Attempt): Effect.Effect<void> => {
  const { attempts, engine } = call
  const last = attempts[attempts.length - 1]
  if (entry.outcome === "interrupted" && last?.outcome === "success") attempts.splice(-1, 0, entry)
  else attempts.push(entry)
  return engine.events?.isHeard() !== true ? Exit.void : engine.events.publish(() => ({
    _tag: "AttemptEnded",
    call: call.id,
    at: call.clock.currentTimeMillisUnsafe(),
    attempt: entry
  }))
}

export const success = (moment: Step.Moment, call: Call, attempt: Attempt, spent: Spent): Effect.Effect<void> => {
  const entry = line(moment, call, attempt, "success", true)
  const cost = Completions.cost(attempt.member.target, spent)
  if (cost !== undefined) entry.cost = cost
  return add(call, entry)
}

export const failure = (
  moment: Step.Moment,
  call: Call,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<void> => {
  const entry = line(moment, call, attempt, "failure", error.maybeBilled)
  entry.errorClass = error.errorClass
  entry.reason = error.reason
  entry.scope = error.scope
  if (error.status !== undefined) entry.status = error.status
  if (error.requestId !== undefined) entry.requestId = error.requestId
  if (error.retryAfter !== undefined) entry.retryAfterMs = Duration.toMillis(error.retryAfter)
  return add(call, entry)
}

/** What was sent may have been executed, whoever hung up. */
export const interrupted = (moment: Step.Moment, call: Call, attempt: Attempt): Effect.Effect<void> =>
  add(call, line(moment, call, attempt, "interrupted", true))

/** The times of a call that was answered, by the last line of its record. */
export const timings = ({ attempts, waitedMs }: Call): Timings => {
  const { durationMs = 0, startedMs = 0 } = attempts[attempts.length - 1] ?? {}
  return { totalMs: startedMs + durationMs, waitedMs, attemptMs: durationMs }
}

/** Tells, once, that the call is over: with an answer of this target, with an error, or with neither. */
export const ended = (
  call: Call,
  target: string | undefined,
  error?: Errors.LLMError
): Effect.Effect<void> => {
  const { events } = call.engine
  if (events === undefined || call.over) return Exit.void
  call.over = true
  return !events.isHeard() ? Exit.void : events.publish(() => {
    const at = call.clock.currentTimeMillisUnsafe()
    return {
      _tag: "CallEnded",
      call: call.id,
      at,
      outcome: error !== undefined ? "failure" : target === undefined ? "interrupted" : "success",
      target: target ?? error?.target,
      tenant: call.need.tenant,
      errorClass: error?.errorClass,
      reason: error?.reason,
      attempts: call.attempts.slice(),
      totalMs: at - call.startedAt,
      waitedMs: call.waitedMs,
      ...Completions.total(call.attempts)
    }
  })
}

/** Tells of a call that was refused before it began, and fails it. */
export const refused = (
  engine: Engine,
  { tenant }: { readonly tenant?: string | undefined },
  error: Errors.LLMError
): Effect.Effect<never, Errors.LLMError> => {
  const { events } = engine
  if (events === undefined) return Effect.fail(error)
  return Effect.flatMap(Clock.currentTimeMillis, (at) => {
    const call = ++engine.calls
    const told = events.publish(() => ({
      _tag: "CallEnded",
      call,
      at,
      outcome: "failure",
      target: error.target,
      tenant,
      errorClass: error.errorClass,
      reason: error.reason,
      attempts: [],
      totalMs: 0,
      waitedMs: 0,
      ...Completions.total([])
    }))
    return Effect.andThen(told, Effect.fail(error))
  })
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

/** Says what a call waits for, when somebody may wonder. */
export const logWait = (
  call: Call,
  { chosen, delayMs, index }: { readonly chosen: string; readonly delayMs: number; readonly index: number }
): Effect.Effect<void> =>
  delayMs < 1000
    ? Effect.void
    : Effect.logInfo(
      `waiting ${Math.ceil(delayMs / 1000)} s for ${call.engine.candidates[index]?.target.id} (${chosen})`
    )

export const logStop = (call: Call, error: Errors.LLMError): Effect.Effect<void> =>
  error.exhaustion === undefined
    ? Effect.void
    : Effect.logError(`${error.message} after ${call.attempts.length} attempts`)
