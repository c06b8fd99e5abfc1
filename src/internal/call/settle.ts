/**
 * What follows a failure: its record, its cooldown, the question to the retry schedule, and the end of the call.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Errors from "../../LLMError.ts"
import * as Recovery from "../../Recovery.ts"
import * as Targets from "../../Target.ts"
import { CurrentDeadline } from "../../Timeouts.ts"
import type { Attempt, Call, Failed, Member, RetryStep } from "./call.ts"
import * as Records from "./record.ts"

/** Starts the cooldown of a failure and asks the retry schedule: everything the decision needs to know. */
export const settle = (
  call: Call,
  attempt: Attempt,
  raised: Errors.LLMError,
  evidence: Errors.LLMError = raised,
  restMs = Number.POSITIVE_INFINITY
): Effect.Effect<Failed> =>
  Effect.suspend(() => {
    const { target } = attempt.member
    const error = raised.target === undefined
      ? Errors.update(raised, { target: target.id, provider: target.provider, model: raised.model ?? target.model })
      : raised
    const rule = ruleFor(call, target, error)
    return Effect.andThen(
      evidence === raised
        ? cool(call, attempt, error, rule, restMs)
        : cool(call, attempt, evidence, ruleFor(call, target, evidence), restMs),
      Effect.map(retryDelay(call, attempt, error, rule), (retryMs) => ({
        _tag: "Failed" as const,
        index: attempt.index,
        error,
        rule,
        retryMs
      }))
    )
  })

/** A target that cannot go on with a reply says so with a 400, which is about itself and not about the request. */
const ruleFor = (call: Call, target: Targets.Target, error: Errors.LLMError): Recovery.Rule =>
  error.errorClass === "permanent" && target.capabilities.prefill !== true && call.need.isPrefilled() &&
    (error.reason === "invalid_request" || error.reason === "unsupported_parameter")
    ? prefillRefused
    : Recovery.ruleFor(call.engine.recovery, error)

const prefillRefused: Recovery.Rule = {
  ...Recovery.defaults.classes.permanent,
  otherTargets: "at-once",
  cooldown: Duration.zero
}

/** Fails a call after a failure that nothing can follow any more. */
export const failAfter = (
  call: Call,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<never, Errors.LLMError> =>
  Effect.flatMap(
    settle(call, attempt, error),
    (failed) => Effect.andThen(Records.ended(call, undefined, failed.error), failWith(call, failed.error))
  )

export const failWith = (call: Call, error: Errors.LLMError): Effect.Effect<never, Errors.LLMError> =>
  Effect.fail(Errors.update(error, { attempts: call.attempts.slice() }))

const cool = (
  call: Call,
  attempt: Attempt,
  error: Errors.LLMError,
  rule: Recovery.Rule,
  restMs: number
): Effect.Effect<void> => {
  // Who was not given the time to answer has done nothing to rest from.
  const millis = error.origin === "deadline" ? 0 : Math.min(restMs, Recovery.cooldownMillis(rule, error))
  const scopeKey = Targets.scopeKey(attempt.member.target, Recovery.cooldownScope(rule, error))
  return Effect.andThen(
    Records.logFailure(call, error),
    millis === 0 || scopeKey === undefined || isOldNews(call, attempt, error, scopeKey)
      ? Effect.void
      : Effect.andThen(
        call.engine.cooldown.start(scopeKey, millis, error.reason),
        Records.logCooldown(scopeKey, millis, error.reason)
      )
  )
}

/**
 * What was sent before others of its kind timed out, and times out after them, tells of the same time as they did: it says
 * nothing of how its target is now, and must not keep it out of use.
 */
const isOldNews = ({ clock, engine: { hung } }: Call, attempt: Attempt, error: Errors.LLMError, scopeKey: string) => {
  if (error.errorClass !== "timeout" || error.retryAfter !== undefined) return false
  const since = hung.get(scopeKey)
  if (since !== undefined && attempt.startedAt < since) return true
  hung.set(scopeKey, clock.currentTimeMillisUnsafe())
  return false
}

const retryDelay = (
  call: Call,
  { index, member }: Attempt,
  error: Errors.LLMError,
  rule: Recovery.Rule
): Effect.Effect<number | undefined> => {
  if (rule.sameTarget !== "backoff" || !error.isRetryable) return Effect.succeed(undefined)
  if (retriesOn(call, member) >= rule.retries) return Effect.succeed(undefined)
  return Effect.flatMap(
    stepOf(call, index, member),
    (step) =>
      Pull.matchEffect(step(call.clock.currentTimeMillisUnsafe(), error), {
        onSuccess: ([, delay]) => Effect.succeed(Duration.toMillis(delay)),
        onFailure: Effect.failCause,
        onDone: () => Effect.succeed(undefined)
      })
  ).pipe(Effect.provideService(CurrentDeadline, call.setup.deadlineAt))
}

const retriesOn = (call: Call, member: Member): number =>
  call.attempts.filter((_) => _.target === member.target.id).length - 1

const stepOf = (call: Call, index: number, member: Member): Effect.Effect<RetryStep> => {
  const steps = call.steps ??= new Map<number, RetryStep>()
  const running = steps.get(index)
  if (running !== undefined) return Effect.succeed(running)
  return Effect.map(Schedule.toStep(member.retry), (step) => {
    steps.set(index, step)
    return step
  })
}
