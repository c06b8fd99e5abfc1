/**
 * Limits on time: `Timeouts.attempt`, `total` and `stream`, alone and around a retry or a fallback.
 */
import { LLMError } from "breakwater"
import * as Retry from "breakwater/Retry"
import * as Timeouts from "breakwater/Timeouts"
import { Cause, Effect, Exit, Fiber, Result, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { type Part, settle, timeline } from "../../support/Virtual.ts"
import { kind, optionalBoolean, optionalNumber, optionalString, same, Skip } from "../kind.ts"

const context: Timeouts.ErrorContext = { provider: "groq" }

const broken = new LLMError.ServerError({ provider: "groq", reason: "internal_error" })
const fatal = new LLMError.PermanentError({ provider: "groq", reason: "invalid_request" })

const reasons: Readonly<Record<string, string>> = {
  attempt: "timeout:attempt",
  deadline: "timeout:total",
  idle: "timeout:idle",
  first_token: "timeout:first"
}

/** How a limited effect ended, in the words of the vectors. */
export const outcomeOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return "success"
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  const error = Result.getOrThrow(Cause.findError(exit.cause))
  return error instanceof LLMError.TimeoutError ? reasons[error.reason] ?? error.reason : "failure"
}

const limited = <A, E>(effect: Effect.Effect<A, E>, which: typeof Timeouts.attempt, millis: number | undefined) =>
  millis === undefined ? effect : which(effect, millis, context)

/** Work that takes a while; an infinite one never ends. */
const taking = (millis: number): Effect.Effect<void> => millis === Infinity ? Effect.never : Effect.sleep(millis)

const ends = (outcome: string): Effect.Effect<string, LLMError.LLMError> => {
  switch (outcome) {
    case "success":
      return Effect.succeed(outcome)
    case "failure":
      return Effect.fail(broken)
    case "fatal":
      return Effect.fail(fatal)
    default:
      return Effect.die(new Skip({ variant: `outcome ${outcome}`, reason: "an outcome that we do not know" }))
  }
}

export const timeoutRetry = kind(
  Schema.Struct({
    config: Schema.Struct({
      totalMs: optionalNumber,
      attemptMs: optionalNumber,
      maxAttempts: optionalNumber,
      delayMs: optionalNumber,
      deadlineAware: optionalBoolean
    }),
    attempts: Schema.Array(Schema.Struct({ ms: Schema.Number, outcome: Schema.String })),
    expect: Schema.Struct({
      attempts: optionalNumber,
      outcome: optionalString,
      at: optionalNumber,
      attemptTimeouts: optionalNumber
    })
  }),
  Effect.fnUntraced(function*({ attempts, config, expect }) {
    let made = 0
    let attemptTimeouts = 0
    const task = Effect.suspend(() => {
      const { ms, outcome } = attempts[Math.min(made, attempts.length - 1)] ?? { ms: 0, outcome: "failure" }
      made++
      return Effect.andThen(taking(ms), ends(outcome))
    })
    const attempt = Effect.tapError(limited(task, Timeouts.attempt, config.attemptMs), (error) =>
      Effect.sync(() => {
        if (error.reason === "attempt") attemptTimeouts++
      }))
    const { delayMs = 0, maxAttempts = 1 } = config
    const spaced = Schedule.spaced(delayMs)
    const bounded = maxAttempts === Infinity ? spaced : Schedule.upTo(spaced, { times: maxAttempts - 1 })
    const retryable = Retry.whileRetryable(bounded)
    const policy = config.deadlineAware === true ? Retry.withinDeadline(retryable) : retryable
    const { at, exit } = yield* settle(limited(Effect.retry(attempt, policy), Timeouts.total, config.totalMs))
    return [
      ...same("attempts", made, expect.attempts),
      ...same("outcome", outcomeOf(exit), expect.outcome),
      ...same("at", at, expect.at),
      ...same("attemptTimeouts", attemptTimeouts, expect.attemptTimeouts)
    ]
  })
)

/** Consumes a limited stream, working a while on every part. */
const consume = Effect.fnUntraced(function*(
  stream: Stream.Stream<Part>,
  limits: Partial<Pick<Timeouts.StreamOptions<Part>, "firstToken" | "idle" | "total">>,
  workMs = 0
) {
  let received = 0
  const { at, exit } = yield* settle(
    Stream.runForEach(
      // A keep-alive is no content, but the vectors count it as a sign of life.
      Timeouts.stream(stream, { ...limits, isContent: (part) => part.ping !== true, resetsIdle: () => true, context }),
      () => {
        received++
        return workMs === 0 ? Effect.void : Effect.sleep(workMs)
      }
    )
  )
  return { at, outcome: Exit.isSuccess(exit) ? "complete" : outcomeOf(exit), received }
})

export const streamIdle = kind(
  Schema.Struct({
    config: Schema.Struct({
      firstMs: optionalNumber,
      idleMs: optionalNumber,
      totalMs: optionalNumber,
      consumerMs: optionalNumber
    }),
    chunks: Schema.Array(Schema.Struct({ t: Schema.Number, ping: optionalBoolean, end: optionalBoolean })),
    expect: Schema.Struct({ outcome: optionalString, at: optionalNumber, chunks: optionalNumber })
  }),
  Effect.fnUntraced(function*({ chunks, config, expect }) {
    const parts = chunks.filter((chunk) => chunk.end !== true)
    const { at, outcome, received } = yield* consume(
      timeline(parts, chunks.find((chunk) => chunk.end)?.t),
      { firstToken: config.firstMs, idle: config.idleMs, total: config.totalMs },
      config.consumerMs
    )
    return [
      ...same("outcome", outcome, expect.outcome),
      ...same("at", at, expect.at),
      ...same("chunks", received, expect.chunks)
    ]
  })
)

export const streamTimeoutTyped = kind(
  Schema.Struct({
    input: Schema.Struct({ idleMs: Schema.Number, gapsMs: Schema.Array(Schema.Number) }),
    expect: Schema.Struct({ ours: Schema.String })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    let t = 0
    const parts = input.gapsMs.map((gap) => ({ t: t += gap }))
    const { at, outcome, received } = yield* consume(timeline(parts, t), { idle: input.idleMs })
    const actual = outcome === "complete" ? outcome : `${outcome} at ${at}`
    return same("ours", `${actual} after ${received} chunks`, expect.ours)
  })
)

const composed = (
  order: ReadonlyArray<string>,
  task: Effect.Effect<string, LLMError.LLMError>,
  fallback: Effect.Effect<string, LLMError.LLMError>,
  onTimeout: () => void
) =>
  order.toReversed().reduce((inner, policy) => {
    const [name, value] = policy.split(":")
    switch (name) {
      case "fallback":
        return Effect.catch(inner, () => fallback)
      case "retry":
        return Effect.retry(inner, Schedule.recurs(Number(value ?? 1)))
      case "timeout":
        return Effect.tapError(
          Timeouts.attempt(inner, Number(value), context),
          (error) => Effect.sync(() => error.reason === "attempt" && onTimeout())
        )
      default:
        throw new Skip({ variant: policy, reason: "a policy that we do not know" })
    }
  }, task)

export const timeoutFallback = kind(
  Schema.Struct({
    config: Schema.Struct({ order: Schema.Array(Schema.String) }),
    input: Schema.Struct({ taskMs: optionalNumber, task: optionalString, fallbackMs: optionalNumber }),
    expect: Schema.Struct({
      timeouts: optionalNumber,
      fallbacks: optionalNumber,
      result: optionalString,
      at: optionalNumber
    })
  }),
  Effect.fnUntraced(function*({ config, expect, input }) {
    let fallbacks = 0
    let timeouts = 0
    const task = Effect.andThen(taking(input.taskMs ?? 0), ends(input.task ?? "success"))
    const fallback = Effect.suspend(() => {
      fallbacks++
      return Effect.as(taking(input.fallbackMs ?? 0), "fallback")
    })
    const { at, exit } = yield* settle(composed(config.order, task, fallback, () => timeouts++))
    const result = Exit.isSuccess(exit) ? exit.value : outcomeOf(exit).split(":")[0]
    return [
      ...same("timeouts", timeouts, expect.timeouts),
      ...same("fallbacks", fallbacks, expect.fallbacks),
      ...same("result", result, expect.result),
      ...same("at", at, expect.at)
    ]
  })
)

export const timeoutCancel = kind(
  Schema.Struct({
    input: Schema.Struct({ timeoutMs: Schema.Number, callerCancelsAt: Schema.Number, taskMs: Schema.Number }),
    expect: Schema.Struct({ outcome: optionalString, timeoutEvents: optionalNumber, retried: optionalBoolean })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    let attempts = 0
    let timeouts = 0
    const call = Effect.suspend(() => {
      attempts++
      return taking(input.taskMs)
    }).pipe(
      Timeouts.attempt(input.timeoutMs, context),
      Effect.tapError(() => Effect.sync(() => timeouts++)),
      Effect.retry(Schedule.recurs(3))
    )
    const fiber = yield* Effect.forkChild(call)
    yield* TestClock.adjust(input.callerCancelsAt)
    yield* Fiber.interrupt(fiber)
    yield* TestClock.adjust("1 hour")
    return [
      ...same("outcome", outcomeOf(yield* Fiber.await(fiber)), expect.outcome),
      ...same("timeoutEvents", timeouts, expect.timeoutEvents),
      ...same("retried", attempts > 1, expect.retried)
    ]
  })
)

export const timeoutCooperative = kind(
  Schema.Struct({
    input: Schema.Struct({ timeoutMs: Schema.Number, taskMs: Schema.Number, ignoresSignal: optionalBoolean }),
    expect: Schema.Struct({ ours: optionalString })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const late = Effect.as(taking(input.taskMs), "late")
    const deaf = input.ignoresSignal === false ? late : Effect.uninterruptible(late)
    const { at, exit } = yield* settle(Timeouts.attempt(deaf, input.timeoutMs, context))
    const timely = input.taskMs < input.timeoutMs
    const stated = timely ? "success" : "timeout"
    return [
      ...same("outcome", outcomeOf(exit), timely ? "success" : "timeout:attempt"),
      ...same("at", at, Math.min(input.taskMs, input.timeoutMs)),
      ...same("ours", `${stated} at ${at} ms`, expect.ours?.split(";")[0])
    ]
  })
)

export const timeoutUninterruptible = kind(
  Schema.Struct({
    input: Schema.Struct({
      timeoutMs: Schema.Number,
      finalizerMs: optionalNumber,
      uninterruptibleMs: optionalNumber,
      taskMs: optionalNumber
    }),
    expect: Schema.Struct({ oursAt: Schema.Number })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const deafMs = input.uninterruptibleMs ?? input.taskMs
    const work = deafMs === undefined ? Effect.never : Effect.uninterruptible(taking(deafMs))
    const slow = input.finalizerMs === undefined ? work : Effect.onInterrupt(work, () => taking(input.finalizerMs ?? 0))
    const { at } = yield* settle(Timeouts.attempt(slow, input.timeoutMs, context))
    return same("at", at, expect.oursAt)
  })
)
