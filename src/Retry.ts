/**
 * Schedules over `LLMError`: backoff with jitter, a backoff per class of error, and waits that providers state.
 *
 * Every function here returns or transforms an ordinary `Schedule`, to be used with `Effect.retry` on any effect that
 * fails with an `LLMError` and to be combined with the rest of `Schedule`. A schedule keeps its progress in the run
 * that uses it, so one value serves all calls.
 *
 * **Details**
 *
 * A wait that would end at the deadline of the call (`Timeouts.CurrentDeadline`) or after it is not begun: the schedule
 * ends, and the last error is raised at once. `delayMillis` and `waitMillis` are the rules behind the schedules, as
 * plain functions.
 *
 * **Gotchas**
 *
 * Retry in one layer only: with three attempts here and three in a vendor's SDK, a call makes nine. Combinators see what
 * is inside them, so apply `respectRetryAfter` after everything that changes a delay.
 *
 * **Example** (Retrying with a schedule of your own)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Schedule } from "effect"
 * import { LLMError, Retry } from "breakwater"
 *
 * const policy = Retry.perClass({
 *   rate_limit: Retry.exponential({ base: "20 millis", jitter: "none" }),
 *   server_error: Retry.exponential({ base: "5 millis", max: "1 second" })
 * }).pipe(
 *   Retry.whileRetryable,
 *   Retry.respectRetryAfter({ maxHint: "30 seconds" }),
 *   Schedule.upTo({ times: 4 })
 * )
 *
 * let attempts = 0
 * const call = Effect.suspend(() =>
 *   ++attempts < 3
 *     ? Effect.fail<LLMError.LLMError>(
 *       new LLMError.RateLimitError({ provider: "groq", reason: "rate_limit", retryAfter: Duration.millis(2) })
 *     )
 *     : Effect.succeed("hello")
 * )
 *
 * await Effect.runPromise(Effect.retry(call, policy)) // => "hello"
 * attempts // => 3
 * ```
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type { ErrorClass, LLMError } from "./LLMError.ts"
import * as RetryBudget from "./RetryBudget.ts"
import { CurrentDeadline } from "./Timeouts.ts"

/**
 * How the delay `d` of an attempt is spread, so that callers that failed together do not come back together.
 *
 * **Details**
 *
 * `none` waits `d`. `full` waits between 0 and `d`, `equal` between `d / 2` and `d`, `additive` between `d` and
 * `d * (1 + ratio)`. `decorrelated` follows a smooth curve on which a delay depends on the one before it: between 0 and
 * `1.5 * d`, with about the mean of `full`. The result never exceeds `max`, so delays of `max` have no `additive` spread.
 *
 * @category models
 * @since 0.1.0
 */
export type Jitter = "none" | "full" | "equal" | "additive" | "decorrelated"

/**
 * Options of `exponential` and `makeBackoff`.
 *
 * @category options
 * @since 0.1.0
 */
export interface BackoffOptions {
  /**
   * Delay before the first retry, without jitter.
   *
   * @default "1 second"
   */
  readonly base?: Duration.Input | undefined
  /**
   * What each delay is multiplied by to give the next; 1 makes all delays equal.
   *
   * @default 2
   */
  readonly factor?: number | undefined
  /**
   * Longest delay, jitter included.
   *
   * @default "30 seconds"
   */
  readonly max?: Duration.Input | undefined
  /**
   * How delays are spread.
   *
   * @default "full"
   */
  readonly jitter?: Jitter | undefined
  /**
   * Largest share of the delay, between 0 and 1, that `additive` jitter adds; no other jitter takes it.
   *
   * @default 0.1
   */
  readonly ratio?: number | undefined
}

/**
 * A backoff whose options have been checked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Backoff {
  readonly baseMillis: number
  readonly factor: number
  readonly maxMillis: number
  readonly jitter: Jitter
  readonly ratio: number
}

/**
 * A list of delays that has been checked: one for each retry, of which the last one repeats.
 *
 * @category models
 * @since 0.1.0
 */
export interface Delays {
  readonly millis: Arr.NonEmptyReadonlyArray<number>
}

/**
 * Options of `respectRetryAfter` and `makeRetryAfter`.
 *
 * @category options
 * @since 0.1.0
 */
export interface RetryAfterOptions {
  /**
   * Longest stated wait that is waited for in place.
   *
   * @default "2 minutes"
   */
  readonly maxHint?: Duration.Input | undefined
  /**
   * Largest share of the stated wait, between 0 and 1, that is added to spread the callers who heard it.
   *
   * @default 0.1
   */
  readonly jitter?: number | undefined
  /**
   * Longest time that `jitter` adds.
   *
   * @default "5 seconds"
   */
  readonly maxJitter?: Duration.Input | undefined
}

/**
 * A rule for stated waits whose options have been checked.
 *
 * @category models
 * @since 0.1.0
 */
export interface RetryAfter {
  readonly maxHintMillis: number
  readonly jitter: number
  readonly maxJitterMillis: number
}

/**
 * Options of `standardWith`.
 *
 * @category options
 * @since 0.1.0
 */
export interface StandardOptions extends BackoffOptions {
  /**
   * Retries after the first attempt.
   *
   * @default 2
   */
  readonly retries?: number | undefined
  /** How stated waits are honoured. */
  readonly retryAfter?: RetryAfterOptions | undefined
}

/**
 * A schedule for each class of error, and one for the classes that have none of their own.
 *
 * @category options
 * @since 0.1.0
 */
export type Classes<Error, Env> =
  & { readonly [Class in ErrorClass]?: Schedule.Schedule<unknown, LLMError, Error, Env> | undefined }
  & { readonly otherwise?: Schedule.Schedule<unknown, LLMError, Error, Env> | undefined }

/**
 * Checks the options of a backoff and fills in the defaults.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field when a duration is not positive, `max` is infinite, `factor` is not
 * positive or `ratio` is not between 0 and 1. The curve of `decorrelated` is made for a factor of 2 and takes no other.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeBackoff = (options: BackoffOptions = {}): Backoff => {
  const { factor = 2, jitter = "full", ratio } = options
  if (!(Number.isFinite(factor) && factor > 0)) throw invalid("factor", "a number > 0", factor)
  if (jitter === "decorrelated" && factor !== 2) throw invalid("factor", "2 with decorrelated jitter", factor)
  if (ratio !== undefined && jitter !== "additive") throw invalid("ratio", "absent without additive jitter", ratio)
  return {
    baseMillis: positiveMillis("base", options.base ?? Duration.seconds(1)),
    factor,
    maxMillis: positiveMillis("max", options.max ?? Duration.seconds(30)),
    jitter,
    ratio: share("ratio", ratio ?? 0.1)
  }
}

/**
 * Checks a list of delays.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when there is none, or one is negative or infinite.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeDelays = (delays: ReadonlyArray<Duration.Input>): Delays => {
  const millis = delays.map((delay) => {
    const millis = Math.round(millisOf(delay))
    if (!(Number.isFinite(millis) && millis >= 0)) throw invalid("delays", "finite durations >= 0", delay)
    return millis
  })
  if (!Arr.isReadonlyArrayNonEmpty(millis)) throw invalid("delays", "a list of one or more", "none")
  return { millis }
}

/**
 * Checks the options for stated waits and fills in the defaults.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field when `maxHint` is not positive, `maxJitter` is negative or one of them is
 * infinite, or when `jitter` is not between 0 and 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeRetryAfter = (options: RetryAfterOptions = {}): RetryAfter => {
  const maxJitterMillis = millisOf(options.maxJitter ?? Duration.seconds(5))
  if (!(Number.isFinite(maxJitterMillis) && maxJitterMillis >= 0)) {
    throw invalid("maxJitter", "a finite duration >= 0", options.maxJitter)
  }
  return {
    maxHintMillis: positiveMillis("maxHint", options.maxHint ?? Duration.minutes(2)),
    jitter: share("jitter", options.jitter ?? 0.1),
    maxJitterMillis
  }
}

/**
 * Returns the delay before a retry in whole milliseconds: `min(base * factor^attempt, max)`, spread by the jitter, or
 * the one of a list.
 *
 * **Details**
 *
 * `attempt` counts from 0, the delay before the first retry. `random` lies between 0 and 1. `decorrelated` also takes the
 * `random` of the attempt before; without it, the same number stands for both. A list has no jitter, and its last delay
 * is that of all later attempts.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when `attempt` is not a whole number from 0.
 *
 * **Example** (Reading the delays of a backoff)
 *
 * ```ts import.meta.vitest
 * import { Retry } from "breakwater"
 *
 * const backoff = Retry.makeBackoff({ base: "1 second", max: "10 seconds", jitter: "equal" })
 *
 * Retry.delayMillis(backoff, 0, 1) // => 1000
 * Retry.delayMillis(backoff, 2, 0) // => 2000
 * Retry.delayMillis(backoff, 3000, 1) // => 10000
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const delayMillis: {
  (delays: Delays, attempt: number): number
  (backoff: Backoff, attempt: number, random: number, previousRandom?: number): number
} = (backoff: Backoff | Delays, attempt: number, random: number = 0, previousRandom: number = random): number => {
  if (!(Number.isInteger(attempt) && attempt >= 0)) throw invalid("attempt", "a whole number >= 0", attempt)
  if ("millis" in backoff) return backoff.millis[attempt] ?? Arr.lastNonEmpty(backoff.millis)
  const { baseMillis, factor, jitter, maxMillis, ratio } = backoff
  const delay = Math.min(baseMillis * factor ** attempt, maxMillis)
  switch (jitter) {
    case "none":
      return whole(delay, maxMillis)
    case "full":
      return whole(delay * random, maxMillis)
    case "equal":
      return whole(delay * (0.5 + random / 2), maxMillis)
    case "additive":
      return whole(delay * (1 + ratio * random), maxMillis)
    case "decorrelated": {
      const step = curve(attempt + random) - (attempt === 0 ? 0 : curve(attempt - 1 + previousRandom))
      // Beyond the largest number the difference is infinite or not a number, and the delay has long been the longest.
      return Number.isFinite(step)
        ? whole(baseMillis * Math.max(0, step) / 1.4, maxMillis)
        : whole(maxMillis, maxMillis)
    }
  }
}

/**
 * Returns how long to wait in place after an error, in whole milliseconds, or `undefined` when that wait is not to be
 * begun.
 *
 * **Details**
 *
 * A stated wait is a lower bound: the larger of `hint` and `delay` is waited, plus a share of the hint that spreads the
 * callers who heard it, as far as `remaining` allows. A hint that is not positive states nothing. A hint longer than
 * `maxHint`, and a wait that would take all of `remaining`, are not begun.
 *
 * @category accessors
 * @since 0.1.0
 */
export const waitMillis = (rule: RetryAfter, options: {
  /** Milliseconds of the caller's own backoff. */
  readonly delay: number
  /** Milliseconds that the provider stated. */
  readonly hint: number | undefined
  /** Milliseconds until the deadline. */
  readonly remaining: number
  /** A number between 0 and 1. */
  readonly random: number
}): number | undefined => {
  const { delay, hint, random, remaining } = options
  if (hint === undefined || !(hint > 0)) return delay < remaining ? delay : undefined
  if (hint > rule.maxHintMillis) return undefined
  const least = Math.ceil(Math.max(hint, delay))
  if (least >= remaining) return undefined
  const spread = Math.min(hint * rule.jitter, rule.maxJitterMillis)
  return Math.min(least + Math.floor(spread * random), Math.ceil(remaining) - 1)
}

/**
 * Creates a schedule of exponential delays that never ends by itself, except for the deadline.
 *
 * **Gotchas**
 *
 * Bound it with `Schedule.upTo`, and select what is retried with `whileRetryable` or `perClass`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const exponential = (options: BackoffOptions = {}): Schedule.Schedule<Duration.Duration> => {
  const backoff = makeBackoff(options)
  return withinDeadline(Schedule.fromStepWithMetadata(Effect.sync(() => {
    let previous: number | undefined
    return ({ attempt }: Schedule.InputMetadata<unknown>) =>
      Effect.map(Random.next, (random): [Duration.Duration, Duration.Duration] => {
        const delay = Duration.millis(delayMillis(backoff, attempt - 1, random, previous))
        previous = random
        return [delay, delay]
      })
  })))
}

/**
 * Creates a schedule of the delays of a list, of which the last one repeats; it never ends by itself, except for the
 * deadline.
 *
 * **Details**
 *
 * The delays have no jitter: `Schedule.jittered` adds some, and `Schedule.modifyDelay` any other.
 *
 * **Gotchas**
 *
 * Bound it with `Schedule.upTo`, also where as many retries are wanted as there are delays. Throws a `RangeError` when
 * there is no delay, or one is negative or infinite.
 *
 * @category constructors
 * @since 0.1.0
 */
export const delays = (list: ReadonlyArray<Duration.Input>): Schedule.Schedule<Duration.Duration> => {
  const checked = makeDelays(list)
  return withinDeadline(Schedule.fromStepWithMetadata(Effect.succeed(({ attempt }: Schedule.InputMetadata<unknown>) => {
    const delay = Duration.millis(delayMillis(checked, attempt - 1))
    return Effect.succeed<[Duration.Duration, Duration.Duration]>([delay, delay])
  })))
}

/**
 * Creates a schedule that gives each class of error a schedule with its own progression.
 *
 * **Details**
 *
 * The classes that `otherwise` covers have a progression each, too. A class without a schedule is not retried. The
 * output is the delay.
 *
 * **Gotchas**
 *
 * Limits within the schedules count per class: bound the whole with `Schedule.upTo`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const perClass = <Error = never, Env = never>(
  schedules: Classes<Error, Env>
): Schedule.Schedule<Duration.Duration, LLMError, Error, Env> =>
  Schedule.fromStep(Effect.sync(() => {
    const steps = new Map<ErrorClass, Step<Error, Env>>()
    return (now: number, error: LLMError): ReturnType<Step<Error, Env>> => {
      const running = steps.get(error.errorClass)
      if (running !== undefined) return running(now, error)
      const schedule = schedules[error.errorClass] ?? schedules.otherwise
      if (schedule === undefined) return Cause.done(Duration.zero)
      return Effect.flatMap(Schedule.toStep(Schedule.map(schedule, ({ duration }) => duration)), (step) => {
        steps.set(error.errorClass, step)
        return step(now, error)
      })
    }
  }))

type Step<Error, Env> = (
  now: number,
  error: LLMError
) => Pull.Pull<[Duration.Duration, Duration.Duration], Error, Duration.Duration, Env>

/**
 * Ends a schedule at the first error that no further attempt can heal.
 *
 * @category combinators
 * @since 0.1.0
 */
export const whileRetryable = <Output, Error, Env>(
  self: Schedule.Schedule<Output, LLMError, Error, Env>
): Schedule.Schedule<Output, LLMError, Error, Env> => Schedule.while(self, ({ input }) => input.isRetryable)

/**
 * Makes a schedule wait at least as long as each error's `retryAfter` asks for.
 *
 * **Details**
 *
 * The stated wait counts from the moment the error arrives and applies to the retry after that error only. It is a lower
 * bound: the schedule's own delay applies when it is longer, and a spread comes on top. The schedule ends when the
 * stated wait is longer than `maxHint` or does not fit before `Timeouts.CurrentDeadline`; the error then keeps its
 * `retryAfter` for whoever can do something else in the meantime.
 *
 * **Gotchas**
 *
 * In a pipe it is called, with or without options: `schedule.pipe(Retry.respectRetryAfter())`.
 *
 * @category combinators
 * @since 0.1.0
 */
export const respectRetryAfter: {
  (
    options?: RetryAfterOptions
  ): <Output, Error, Env>(
    self: Schedule.Schedule<Output, LLMError, Error, Env>
  ) => Schedule.Schedule<Output, LLMError, Error, Env>
  <Output, Error, Env>(
    self: Schedule.Schedule<Output, LLMError, Error, Env>,
    options?: RetryAfterOptions
  ): Schedule.Schedule<Output, LLMError, Error, Env>
} = dual((args) => Schedule.isSchedule(args[0]), <Output, Error, Env>(
  self: Schedule.Schedule<Output, LLMError, Error, Env>,
  options?: RetryAfterOptions
): Schedule.Schedule<Output, LLMError, Error, Env> => {
  const rule = makeRetryAfter(options)
  const waiting = Schedule.modifyDelay(
    self,
    ({ duration, input, now }) =>
      Effect.map(Effect.zip(remaining(now), Random.next), ([remaining, random]) => {
        const hint = input.retryAfter === undefined ? undefined : Duration.toMillis(input.retryAfter)
        // A wait that is not to be begun has no end, and the schedule ends before it.
        return waitMillis(rule, { delay: Duration.toMillis(duration), hint, remaining, random }) ?? Infinity
      })
  )
  return Schedule.while(waiting, ({ duration }) => Duration.isFinite(duration))
})

/**
 * Ends a schedule whose next delay would last until the deadline of the call or longer.
 *
 * @category combinators
 * @since 0.1.0
 */
export const withinDeadline = <Output, Input, Error, Env>(
  self: Schedule.Schedule<Output, Input, Error, Env>
): Schedule.Schedule<Output, Input, Error, Env> =>
  Schedule.while(
    self,
    ({ duration, now }) => Effect.map(remaining(now), (remaining) => Duration.toMillis(duration) < remaining)
  )

/**
 * Creates the schedule that fits most calls: exponential backoff with full jitter, for retryable errors, honouring
 * stated waits, a few times.
 *
 * @category constructors
 * @since 0.1.0
 */
export const standardWith = (options: StandardOptions = {}): Schedule.Schedule<Duration.Duration, LLMError> => {
  const { retries = 2, retryAfter, ...backoffOptions } = options
  if (!(Number.isInteger(retries) && retries >= 0)) throw invalid("retries", "a whole number >= 0", retries)
  return exponential(backoffOptions).pipe(
    whileRetryable,
    respectRetryAfter(retryAfter),
    Schedule.upTo({ times: retries })
  )
}

const remaining = (now: number): Effect.Effect<number> =>
  Effect.map(CurrentDeadline, (deadline) => deadline === undefined ? Infinity : deadline - now)

// The difference of this curve at two points one attempt apart doubles with each attempt and has no jumps.
const curve = (t: number): number => 2 ** t * Math.tanh(Math.sqrt(4 * t))

const whole = (millis: number, max: number): number => Math.min(Math.round(millis), Math.floor(max))

const millisOf = (input: Duration.Input): number =>
  Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })

const positiveMillis = (field: string, input: Duration.Input): number => {
  const millis = millisOf(input)
  if (!(Number.isFinite(millis) && millis > 0)) throw invalid(field, "a finite duration > 0", input)
  return millis
}

const share = (field: string, value: number): number => {
  if (!(value >= 0 && value <= 1)) throw invalid(field, "between 0 and 1", value)
  return value
}

const invalid = (field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`Retry: ${field} must be ${demand}, got ${String(got)}`)

/**
 * The schedule of `standardWith` with its defaults: 2 retries, from 1 second doubling up to 30 seconds, full jitter.
 *
 * @category constructors
 * @since 0.1.0
 */
export const standard: Schedule.Schedule<Duration.Duration, LLMError> = standardWith()

/**
 * Ends a schedule when the shared `RetryBudget` has nothing left for a key.
 *
 * **Details**
 *
 * The same as `RetryBudget.limit`. It asks the budget once for every retry and cannot give back what an interruption
 * keeps from being sent; `RetryBudget.retry` can.
 *
 * @category combinators
 * @since 0.1.0
 */
export const budget: typeof RetryBudget.limit = RetryBudget.limit
