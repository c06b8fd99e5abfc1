/**
 * Stops calling what is down, and finds out carefully when it is back.
 *
 * A breaker holds one circuit per key: a target, a model, a provider. Calls run while the circuit is closed. Trip rules
 * open it; an open circuit refuses at once. When its time is over a few probes decide whether it closes or opens again,
 * for longer. State lives in the process, in the service that `layerMemory` provides.
 *
 * **Details**
 *
 * | status | a call | it ends |
 * |---|---|---|
 * | `closed` | runs | when a trip rule says so |
 * | `open` | is refused | by time, at the next call |
 * | `half-open` | is a probe, or refused when the slots are taken | when the probes have decided |
 * | `ramp` | runs, as far as the growing share of traffic goes | by time, or at the first failure |
 * | `isolated` | is refused | when every isolation has been released |
 * | `disabled` | runs | never; everything is recorded |
 *
 * A refusal is the error of the class that opened the circuit, with `origin: "circuit"`, `reason: "circuit_open"`, the
 * time to the next probe as `retryAfter` and the story as `detail`.
 *
 * Failures of the network, the servers, limits of time, the unknown and defects count; answers that the caller
 * has caused (rate limits, credentials, requests that cannot succeed), refusals of our own and interruptions do not.
 *
 * **Gotchas**
 *
 * A call that was admitted before a transition runs to its end, and its outcome changes nothing. An interrupted probe
 * gives its slot back. Reading a circuit never changes it.
 *
 * **Example** (Refusing calls once a circuit opens)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker, LLMError } from "breakwater"
 *
 * const overloaded = Effect.fail<LLMError.LLMError>(
 *   new LLMError.ServerError({ provider: "groq", reason: "overloaded", status: 529 })
 * )
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(2), open: "30 seconds" })
 *   yield* Effect.flip(breaker.execute("groq", overloaded))
 *   yield* Effect.flip(breaker.execute("groq", overloaded))
 *   const refused = yield* Effect.flip(breaker.execute("groq", overloaded))
 *   return [refused._tag, refused.origin, refused.reason]
 * })
 *
 * await Effect.runPromise(program) // => ["ServerError", "circuit", "circuit_open"]
 * ```
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Core from "./internal/circuit/core.ts"
import * as Histories from "./internal/circuit/history.ts"
import * as Registries from "./internal/circuit/registry.ts"
import * as Trip from "./internal/circuit/trip.ts"
import * as Windows from "./internal/circuit/window.ts"
import * as Step from "./internal/step.ts"
import { withoutStack } from "./internal/withoutStack.ts"
import * as Errors from "./LLMError.ts"
import { LLMService, type StreamPart } from "./LLMService.ts"
import { type ErrorContext, isContentPart } from "./Timeouts.ts"

/**
 * Service that guards calls with one circuit per key.
 *
 * @category services
 * @since 0.1.0
 */
export class CircuitBreaker extends Context.Service<CircuitBreaker, {
  /** Runs a call when its circuit admits it, and records how it ended. */
  readonly execute: <A, E, R>(
    key: string,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | Errors.LLMError, R>
  /** Admits a call whose end is told by hand; closing the scope before that tells nothing and frees the slot. */
  readonly admit: (key: string) => Effect.Effect<Permit, Errors.LLMError, Scope.Scope>
  /**
   * Admits a call without a scope, for less than half the time of `admit`: whoever has the permit has to tell how the
   * call ended, whatever happens, as an uninterruptible region and `Effect.onExit` make sure.
   */
  readonly take: (key: string) => Effect.Effect<Permit, Errors.LLMError>
  /** Says whether a call would be admitted now, without admitting it. */
  readonly check: (key: string) => Effect.Effect<Verdict>
  /** Says for each key whether a call would be admitted now; an empty array when no circuit refuses anything. */
  readonly checkAll: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Verdict>>
  /** Reads one circuit; a key that was never used is closed. */
  readonly state: (key: string) => Effect.Effect<Circuit>
  /** Reads all circuits that are not idle. */
  readonly snapshot: Effect.Effect<ReadonlyArray<Circuit>>
  /** Emits what changes from now on, for any number of subscribers; a slow one misses the oldest. */
  readonly transitions: Stream.Stream<Transition>
  /** Returns the last 100 outcomes and the last 100 transitions of a circuit, oldest first. */
  readonly history: (key: string) => Effect.Effect<History>
  /** Closes a circuit and forgets its failures, openings and isolations. */
  readonly reset: (key: string) => Effect.Effect<void>
  /** Resets all circuits. */
  readonly resetAll: Effect.Effect<void>
  /**
   * Refuses everything until the effect returned is run: by each who has isolated it, once or more often.
   */
  readonly isolate: (key: string, reason: string) => Effect.Effect<Effect.Effect<void>>
  /** Opens a circuit now, for a time or for its next open time; one that is open stays so for the longer of both. */
  readonly trip: (key: string, duration?: Duration.Input) => Effect.Effect<void>
  /** Ends the open time of a circuit: the next calls are probes. */
  readonly probe: (key: string) => Effect.Effect<void>
}>()("breakwater/CircuitBreaker") {}

/**
 * The right to make one call. The first of `success`, `failure`, `ignored` and `settle` counts.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permit {
  readonly key: string
  /** Whether the call is one of the few that decide about a half-open circuit. */
  readonly isProbe: boolean
  /**
   * Tells that content has begun to arrive: a probe has then succeeded and frees its slot, however long its stream is.
   * A failure that is told later still counts as one.
   */
  readonly firstContent: Effect.Effect<void>
  readonly success: Effect.Effect<void>
  readonly ignored: Effect.Effect<void>
  readonly failure: (errorClass: FailureClass, retryAfter?: Duration.Input) => Effect.Effect<void>
  /** Tells how the call ended, to be judged by the breaker's `classify`. */
  readonly settle: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
}

/**
 * What a call counts as when it fails: one of the seven classes, or a defect.
 *
 * @category models
 * @since 0.1.0
 */
export type FailureClass = Errors.ErrorClass | "defect"

/**
 * State of a circuit in a word.
 *
 * @category models
 * @since 0.1.0
 */
export type Status = Core.Status

/**
 * Whether a call would be admitted, and if not, why and for how long.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verdict {
  readonly admits: boolean
  readonly status: Status
  /** Milliseconds to the next chance, zero when it admits, `Infinity` when time alone changes nothing. */
  readonly retryAfterMs: number
  readonly why: string | undefined
}

/**
 * A circuit at the time of reading.
 *
 * @category models
 * @since 0.1.0
 */
export interface Circuit {
  readonly key: string
  readonly status: Status
  /** Milliseconds an open circuit stays so, zero otherwise. */
  readonly remainingMs: number
  /** Openings in a row without a confirmed close. */
  readonly openings: number
  /** Probes in flight. */
  readonly probes: number
  /** Share of calls that is admitted: 1 when closed, growing in a ramp, 0 when only probes or none are. */
  readonly share: number
  /** Why it opened last, while that matters. */
  readonly why: string | undefined
  /** Why it is isolated, one reason for each who did it. */
  readonly isolations: ReadonlyArray<string>
  /** What the trip rules have seen since the last transition. */
  readonly readings: ReadonlyArray<Reading>
}

/**
 * What a trip rule has seen: it opens the circuit when `value` reaches `bound` over `minimumCalls` or more.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reading {
  readonly rule: TripRule["_tag"]
  readonly calls: number
  readonly minimumCalls: number
  readonly value: number
  readonly bound: number
}

/**
 * A change of a circuit.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transition {
  readonly key: string
  readonly from: Status
  readonly to: Status
  /** Milliseconds since the epoch. */
  readonly at: number
  /** Openings in a row, this one included. */
  readonly openings: number
  /** How long it stays open, when it opened. */
  readonly openMs: number | undefined
  readonly why: string | undefined
}

/**
 * What a circuit has seen lately.
 *
 * @category models
 * @since 0.1.0
 */
export interface History {
  readonly outcomes: ReadonlyArray<{
    /** Milliseconds since the epoch. */
    readonly at: number
    readonly result: "success" | "ignored" | FailureClass
    readonly durationMs: number
  }>
  readonly transitions: ReadonlyArray<Transition>
  /** How often each result occurs in `outcomes`. */
  readonly counts: { readonly [Result in "success" | "ignored" | FailureClass]?: number }
}

/**
 * Options of a breaker.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * When a circuit opens: one rule, or several of which any opens it.
   *
   * @default CircuitBreaker.consecutive(5)
   */
  readonly trip?: TripRule | ReadonlyArray<TripRule> | undefined
  /**
   * How long a circuit stays open. A `Schedule` is read once, when the breaker is made: its first 64 delays are those of
   * the openings in a row, the last one repeats.
   *
   * @default "60 seconds"
   */
  readonly open?: Duration.Input | OpenTimes | Schedule.Schedule<unknown, number> | undefined
  /**
   * Largest share, between 0 and 1, by which open times are spread; stated waits are only prolonged by it.
   *
   * @default 0, 0.1 for `exponential` and a `Schedule`
   */
  readonly jitter?: number | undefined
  /**
   * Longest stated wait of a failure that keeps a circuit open.
   *
   * @default "1 hour"
   */
  readonly maxRetryAfter?: Duration.Input | undefined
  /**
   * When earlier openings are forgotten: after it stayed closed as long as it was open, or as soon as it closes.
   *
   * @default "after-stable"
   */
  readonly forget?: "after-stable" | "on-close" | undefined
  /**
   * How many probes run at once, and when they have decided.
   *
   * @default CircuitBreaker.successes({ required: 2 })
   */
  readonly halfOpen?: HalfOpenRule | undefined
  /**
   * How long a probe may go without a result; then it counts as failed, and what it brings later counts as nothing.
   *
   * @default "30 seconds"
   */
  readonly probeTimeout?: Duration.Input | undefined
  /**
   * How long a circuit may be half-open; then it opens again.
   *
   * @default "Infinity"
   */
  readonly halfOpenTimeout?: Duration.Input | undefined
  /** How traffic returns after a close; without it, at once. */
  readonly ramp?: RampOptions | undefined
  /**
   * What the end of a call counts as.
   *
   * @default CircuitBreaker.classify
   */
  readonly classify?: ((exit: Exit.Exit<unknown, unknown>) => Outcome) | undefined
  /** What refusals of a key name, unless the failure that opened it says more; by default the key as provider. */
  readonly context?: ((key: string) => ErrorContext) | undefined
  /**
   * How long an unused circuit is remembered, beyond the time it is open.
   *
   * @default "1 hour"
   */
  readonly idleTimeToLive?: Duration.Input | undefined
  /**
   * Whether everything is recorded and nothing refused.
   *
   * @default false
   */
  readonly disabled?: boolean | undefined
}

/**
 * Options of the return of traffic after a close.
 *
 * **Details**
 *
 * The share of calls that is admitted grows as `(elapsed / window) ^ (1 / aggression)`, never below `minimumShare`. A
 * failure while it grows opens the circuit again.
 *
 * @category options
 * @since 0.1.0
 */
export interface RampOptions {
  /**
   * How long it takes, at least a second.
   *
   * @default "30 seconds"
   */
  readonly window?: Duration.Input | undefined
  /** @default 0.1 */
  readonly minimumShare?: number | undefined
  /** @default 1 */
  readonly aggression?: number | undefined
  /**
   * Whether admissions are spaced evenly over the calls, or drawn.
   *
   * @default "even"
   */
  readonly admission?: "even" | "random" | undefined
}

/**
 * Creates a breaker.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one is out of range or contradicts another.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<CircuitBreaker["Service"]> => {
  const checked = check(options)
  return Effect.flatMap(
    durations(options.open ?? "60 seconds"),
    (durationMs) =>
      Effect.map(
        PubSub.sliding<Transition>(128),
        (pubsub) => service({ ...checked, open: { ...checked.open, durationMs } }, options, pubsub)
      )
  )
}

/**
 * Provides a breaker whose circuits live in the process.
 *
 * **Gotchas**
 *
 * Throws as `make` does, when the layer is created.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<CircuitBreaker> =>
  Layer.effect(CircuitBreaker, make(options))

/**
 * Puts a circuit in front of the `LLMService` below.
 *
 * **When to use**
 *
 * Use for a single provider, such as that of `LLMService.layerProvider`. A router has circuits per target instead.
 *
 * **Details**
 *
 * A stream holds its permit to its end; a stream that probes has decided at its first content.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLLMService = (
  options: { readonly key: string }
): Layer.Layer<LLMService, never, LLMService | CircuitBreaker> =>
  Layer.effect(
    LLMService,
    Effect.map(Effect.zip(LLMService, CircuitBreaker), ([service, breaker]) =>
      LLMService.of({
        complete: (request) => breaker.execute(options.key, service.complete(request)),
        stream: (request) => guardStream(breaker, options.key, service.stream(request))
      }))
  )

/**
 * Runs an effect when the circuit of its key admits it.
 *
 * **Example** (Guarding a call of any kind)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "breakwater"
 *
 * const program = Effect.succeed("hello").pipe(
 *   CircuitBreaker.protect({ key: "groq" }),
 *   Effect.provide(CircuitBreaker.layerMemory())
 * )
 *
 * await Effect.runPromise(program) // => "hello"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const protect: {
  (
    options: { readonly key: string }
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Errors.LLMError, R | CircuitBreaker>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    options: { readonly key: string }
  ): Effect.Effect<A, E | Errors.LLMError, R | CircuitBreaker>
} = dual(2, <A, E, R>(
  self: Effect.Effect<A, E, R>,
  options: { readonly key: string }
): Effect.Effect<A, E | Errors.LLMError, R | CircuitBreaker> =>
  Effect.flatMap(CircuitBreaker, (breaker) => breaker.execute(options.key, self)))

// -----------------------------------------------------------------------------
// Outcomes
// -----------------------------------------------------------------------------

/**
 * What the end of a call counts as.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "Success" }
  | { readonly _tag: "Ignored" }
  | {
    readonly _tag: "Failure"
    readonly errorClass: FailureClass
    /** What it counts, before the weights of a rule. */
    readonly weight: number
    readonly retryAfter: Duration.Duration | undefined
  }

/**
 * Outcome of a call that shows that its target works.
 *
 * @category constructors
 * @since 0.1.0
 */
export const success: Outcome = { _tag: "Success" }

/**
 * Outcome of a call that says nothing about its target.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ignored: Outcome = { _tag: "Ignored" }

/**
 * Creates the outcome of a call that counts against its target.
 *
 * @category constructors
 * @since 0.1.0
 */
export const failure = (
  errorClass: FailureClass,
  options?: { readonly weight?: number | undefined; readonly retryAfter?: Duration.Input | undefined }
): Outcome => ({
  _tag: "Failure",
  errorClass,
  weight: nonNegative("failure", "weight", options?.weight ?? 1),
  retryAfter: options?.retryAfter === undefined ? undefined : Duration.fromInputUnsafe(options.retryAfter)
})

/**
 * Creates a `classify` that counts each class with a weight; a class of weight 0 is ignored.
 *
 * **Details**
 *
 * Refusals of our own (`origin` other than `provider`), failures of scope `request`, calls whose caller went away and
 * interruptions are ignored whatever the weights. A failure that is none of the seven errors counts as `unknown`.
 *
 * **Example** (Counting rate limits by half)
 *
 * ```ts import.meta.vitest
 * import { Exit } from "effect"
 * import { CircuitBreaker, LLMError } from "breakwater"
 *
 * const classify = CircuitBreaker.classifyBy({ rate_limit: 0.5 })
 * const limited = new LLMError.RateLimitError({ provider: "groq", reason: "rate_limit" })
 *
 * classify(Exit.fail(limited))._tag // => "Failure"
 * CircuitBreaker.classify(Exit.fail(limited))._tag // => "Ignored"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const classifyBy = (
  weights: { readonly [Class in FailureClass]?: number | undefined } = {}
): (exit: Exit.Exit<unknown, unknown>) => Outcome => {
  const all: Record<FailureClass, number> = { ...defaultWeights }
  for (const errorClass of failureClasses) {
    all[errorClass] = nonNegative("classifyBy", errorClass, weights[errorClass] ?? defaultWeights[errorClass])
  }
  const weigh = (errorClass: FailureClass, retryAfter: Duration.Duration | undefined): Outcome =>
    all[errorClass] === 0 ? ignored : { _tag: "Failure", errorClass, weight: all[errorClass], retryAfter }
  return (exit) => {
    if (Exit.isSuccess(exit)) return success
    const { reasons } = exit.cause
    const failed = reasons.find(Cause.isFailReason)
    if (failed !== undefined) {
      const { error } = failed
      if (!Errors.isLLMError(error)) return weigh("unknown", undefined)
      return isEvidence(error) ? weigh(error.errorClass, error.retryAfter) : ignored
    }
    return reasons.some(Cause.isDieReason) ? weigh("defect", undefined) : ignored
  }
}

const isEvidence = (error: Errors.LLMError): boolean =>
  error.origin === "provider" && error.scope !== "request" && error.reason !== "client_abort"

const defaultWeights: Readonly<Record<FailureClass, number>> = {
  transient_network: 1,
  rate_limit: 0,
  timeout: 1,
  server_error: 1,
  authentication: 0,
  permanent: 0,
  unknown: 1,
  defect: 1
}

const failureClasses: ReadonlyArray<FailureClass> = [...Errors.ErrorClass.literals, "defect"]

const nonNegative = (where: string, field: string, value: number): number => {
  if (!(value >= 0 && Number.isFinite(value))) throw invalid(where, field, "a number >= 0", value)
  return value
}

/**
 * Says what the end of a call counts as by the recovery table: failures of the provider's side count, all else is
 * ignored.
 *
 * @category accessors
 * @since 0.1.0
 */
export const classify: (exit: Exit.Exit<unknown, unknown>) => Outcome = classifyBy()

// -----------------------------------------------------------------------------
// Rules
// -----------------------------------------------------------------------------

/**
 * When a circuit opens, as data.
 *
 * @category models
 * @since 0.1.0
 */
export type TripRule = Trip.Rule

/**
 * Which failures a rule counts, and for how much.
 *
 * @category options
 * @since 0.1.0
 */
export interface FailureFilter extends Trip.Filter {}

/**
 * Opens after so many failures in a row; only a success ends a row.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when `failures` is not a whole number from 1. "In a row" is in order of completion.
 *
 * @category constructors
 * @since 0.1.0
 */
export const consecutive = (failures: number, filter: FailureFilter = {}): TripRule => ({
  ...filterOf("consecutive", filter),
  _tag: "Consecutive",
  failures: whole("consecutive", "failures", failures, 1)
})

/**
 * Opens when a share of the last `size` calls has failed.
 *
 * **Details**
 *
 * By default half of the last 100 calls, once there are 20 (or `size`, when that is smaller). Every outcome is looked at:
 * a success that completes the minimum can open the circuit.
 *
 * @category constructors
 * @since 0.1.0
 */
export const countWindow = (
  options: FailureFilter & {
    readonly size?: number | undefined
    readonly minimumCalls?: number | undefined
    readonly threshold?: number | undefined
  } = {}
): TripRule => {
  const size = whole("countWindow", "size", options.size ?? 100, 1)
  return {
    ...filterOf("countWindow", options),
    _tag: "Rate",
    span: { size },
    minimumCalls: whole("countWindow", "minimumCalls", options.minimumCalls ?? Math.min(20, size), 1, size, "size"),
    threshold: share("countWindow", "threshold", options.threshold ?? 0.5)
  }
}

/**
 * Opens when a share of the calls of the last `window` has failed.
 *
 * **Details**
 *
 * By default half of the calls of a minute, once there are 20. The window is ten buckets, dropped one by one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const timeWindow = (
  options: FailureFilter & {
    readonly window?: Duration.Input | undefined
    readonly minimumCalls?: number | undefined
    readonly threshold?: number | undefined
  } = {}
): TripRule => ({
  ...filterOf("timeWindow", options),
  _tag: "Rate",
  span: { windowMs: positive("timeWindow", "window", options.window ?? "1 minute") },
  minimumCalls: whole("timeWindow", "minimumCalls", options.minimumCalls ?? 20, 1),
  threshold: share("timeWindow", "threshold", options.threshold ?? 0.5)
})

/**
 * Opens as soon as `failures` of the last `outOf` calls have failed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ratio = (options: FailureFilter & { readonly failures: number; readonly outOf: number }): TripRule => ({
  ...filterOf("ratio", options),
  _tag: "Ratio",
  outOf: whole("ratio", "outOf", options.outOf, 1),
  failures: whole("ratio", "failures", options.failures, 1, options.outOf, "outOf")
})

/**
 * Opens when a share of the calls took longer than a limit, over their whole duration or to their first content.
 *
 * **Details**
 *
 * A call at exactly the limit is not slow. Failed calls can be slow, too. By default half of the calls of a minute, once
 * there are 20; with `size` half of the last so many. `firstToken` looks at streams only.
 *
 * **Gotchas**
 *
 * Answers of language models take as long as they are long: prefer `firstToken`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slowCalls = (
  options:
    & ({ readonly duration: Duration.Input } | { readonly firstToken: Duration.Input })
    & ({ readonly window?: Duration.Input | undefined } | { readonly size: number })
    & { readonly minimumCalls?: number | undefined; readonly threshold?: number | undefined }
): TripRule => {
  const signal = "duration" in options ? "duration" : "firstToken"
  const size = "size" in options ? whole("slowCalls", "size", options.size, 1) : undefined
  const window = "window" in options ? options.window : undefined
  const most = size ?? Number.POSITIVE_INFINITY
  return {
    _tag: "SlowCalls",
    signal,
    limitMs: positive("slowCalls", signal, "duration" in options ? options.duration : options.firstToken),
    span: size === undefined ? { windowMs: positive("slowCalls", "window", window ?? "1 minute") } : { size },
    minimumCalls: whole("slowCalls", "minimumCalls", options.minimumCalls ?? Math.min(20, most), 1, most, "size"),
    threshold: share("slowCalls", "threshold", options.threshold ?? 0.5)
  }
}

/**
 * Opens early, when the line through the last calls says that a bound will be reached.
 *
 * **Details**
 *
 * The line is fitted to the means of ten buckets of `window`, of which half must have calls, and read `horizon` from
 * now; one that does not rise opens nothing. `bound` is a share of failures, or a duration in milliseconds.
 *
 * @category constructors
 * @since 0.1.0
 */
export const trend = (options: {
  readonly of: "failures" | "duration" | "firstToken"
  readonly bound: number
  readonly window?: Duration.Input | undefined
  readonly horizon?: Duration.Input | undefined
  readonly minimumCalls?: number | undefined
}): TripRule => ({
  _tag: "Trend",
  signal: options.of,
  bound: options.of === "failures"
    ? share("trend", "bound", options.bound)
    : positive("trend", "bound", options.bound),
  windowMs: positive("trend", "window", options.window ?? "1 minute"),
  horizonMs: positive("trend", "horizon", options.horizon ?? "15 seconds"),
  minimumCalls: whole("trend", "minimumCalls", options.minimumCalls ?? 20, 1)
})

/**
 * How long the openings in a row last, as data.
 *
 * @category models
 * @since 0.1.0
 */
export type OpenTimes =
  | { readonly _tag: "Sequence"; readonly millis: ReadonlyArray<number> }
  | { readonly _tag: "Exponential"; readonly baseMs: number; readonly factor: number; readonly maxMs: number }

/**
 * Opens for each duration in turn; the last one repeats.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sequence = (durations: ReadonlyArray<Duration.Input>): OpenTimes => {
  if (durations.length === 0) throw invalid("sequence", "durations", "at least one", "none")
  return { _tag: "Sequence", millis: durations.map((_, index) => positive("sequence", `durations[${index}]`, _)) }
}

/**
 * Opens longer each time in a row: 5 seconds, doubling up to 5 minutes by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const exponential = (
  options: {
    readonly base?: Duration.Input | undefined
    readonly factor?: number | undefined
    readonly max?: Duration.Input | undefined
  } = {}
): OpenTimes => {
  const factor = options.factor ?? 2
  if (!(factor >= 1 && Number.isFinite(factor))) throw invalid("exponential", "factor", "a number >= 1", factor)
  const baseMs = positive("exponential", "base", options.base ?? "5 seconds")
  const maxMs = positive("exponential", "max", options.max ?? "5 minutes")
  if (baseMs > maxMs) throw invalid("exponential", "base", `<= max (${maxMs} ms)`, baseMs)
  return { _tag: "Exponential", baseMs, factor, maxMs }
}

/**
 * How many probes run at once, and when they have decided, as data.
 *
 * @category models
 * @since 0.1.0
 */
export type HalfOpenRule = Core.HalfOpenRule

/**
 * Closes after so many successes of probes; one failure opens again. As many probes run at once, unless `permitted` says
 * otherwise.
 *
 * @category constructors
 * @since 0.1.0
 */
export const successes = (
  options: { readonly required: number; readonly permitted?: number | undefined }
): HalfOpenRule => ({
  _tag: "Successes",
  required: whole("successes", "required", options.required, 1),
  permitted: whole("successes", "permitted", options.permitted ?? options.required, 1)
})

/**
 * Closes when `required` of `outOf` probes have succeeded, and opens as soon as they no longer can.
 *
 * @category constructors
 * @since 0.1.0
 */
export const successRatio = (
  options: { readonly required: number; readonly outOf: number; readonly permitted?: number | undefined }
): HalfOpenRule => ({
  _tag: "SuccessRatio",
  outOf: whole("successRatio", "outOf", options.outOf, 1),
  required: whole("successRatio", "required", options.required, 1, options.outOf, "outOf"),
  permitted: whole("successRatio", "permitted", options.permitted ?? options.outOf, 1, options.outOf, "outOf")
})

/**
 * Opens when `failures` of `outOf` probes have failed, and closes as soon as they no longer can.
 *
 * @category constructors
 * @since 0.1.0
 */
export const failureRatio = (
  options: { readonly failures: number; readonly outOf: number; readonly permitted?: number | undefined }
): HalfOpenRule => ({
  _tag: "FailureRatio",
  outOf: whole("failureRatio", "outOf", options.outOf, 1),
  failures: whole("failureRatio", "failures", options.failures, 1, options.outOf, "outOf"),
  permitted: whole("failureRatio", "permitted", options.permitted ?? options.outOf, 1, options.outOf, "outOf")
})

/**
 * Decides by the share of failures, and of slow calls, once `minimumCalls` probes have ended, or all that are permitted.
 *
 * @category constructors
 * @since 0.1.0
 */
export const probeRate = (options: {
  readonly permitted: number
  readonly minimumCalls?: number | undefined
  readonly threshold?: number | undefined
}): HalfOpenRule => ({
  _tag: "Rate",
  permitted: whole("probeRate", "permitted", options.permitted, 1),
  minimumCalls: whole("probeRate", "minimumCalls", options.minimumCalls ?? options.permitted, 1),
  threshold: share("probeRate", "threshold", options.threshold ?? 0.5)
})

/**
 * Decides once a sample of so many probes has ended: closes when no more than the tolerated share of them failed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const probeSample = (
  options: { readonly calls: number; readonly tolerated?: number | undefined }
): HalfOpenRule => {
  const tolerated = options.tolerated ?? 0
  if (!(tolerated >= 0 && tolerated < 1)) throw invalid("probeSample", "tolerated", "in [0, 1)", tolerated)
  return { _tag: "Sample", permitted: whole("probeSample", "calls", options.calls, 1), tolerated }
}

// -----------------------------------------------------------------------------
// Checks
// -----------------------------------------------------------------------------

const check = (options: Options): Core.Config => {
  const rules = listOf(options.trip ?? consecutive(5))
  if (rules.length === 0) throw invalid("make", "trip", "at least one rule", "none")
  const spreads = options.open !== undefined &&
    (Schedule.isSchedule(options.open) || (isOpenTimes(options.open) && options.open._tag === "Exponential"))
  const jitter = options.jitter ?? (spreads ? 0.1 : 0)
  if (!(jitter >= 0 && jitter < 1)) throw invalid("make", "jitter", "in [0, 1)", jitter)
  positive("make", "idleTimeToLive", options.idleTimeToLive ?? "1 hour")
  return {
    rules,
    open: {
      durationMs: () => 0,
      jitter,
      maxHintMs: positive("make", "maxRetryAfter", options.maxRetryAfter ?? "1 hour"),
      forget: options.forget ?? "after-stable"
    },
    halfOpen: options.halfOpen ?? successes({ required: 2 }),
    probeTimeoutMs: limit("make", "probeTimeout", options.probeTimeout ?? "30 seconds"),
    maxWaitMs: limit("make", "halfOpenTimeout", options.halfOpenTimeout ?? Number.POSITIVE_INFINITY),
    ramp: options.ramp === undefined ? undefined : rampOf(options.ramp),
    disabled: options.disabled ?? false
  }
}

const rampOf = (options: RampOptions): Core.Ramp => {
  const windowMs = positive("make", "ramp.window", options.window ?? "30 seconds")
  if (windowMs < 1000) throw invalid("make", "ramp.window", "at least a second", windowMs)
  const aggression = options.aggression ?? 1
  if (!(aggression > 0 && Number.isFinite(aggression))) {
    throw invalid("make", "ramp.aggression", "a number > 0", aggression)
  }
  return {
    windowMs,
    minimumShare: share("make", "ramp.minimumShare", options.minimumShare ?? 0.1),
    aggression,
    admission: options.admission ?? "even"
  }
}

const listOf = (trip: TripRule | ReadonlyArray<TripRule>): ReadonlyArray<TripRule> => "_tag" in trip ? [trip] : trip

const isOpenTimes = (open: Duration.Input | OpenTimes | Schedule.Schedule<unknown, number>): open is OpenTimes =>
  typeof open === "object" && "_tag" in open && (open._tag === "Sequence" || open._tag === "Exponential")

// Longer runs of openings than this are one long outage.
const unrolled = 64

const durations = (
  open: Duration.Input | OpenTimes | Schedule.Schedule<unknown, number>
): Effect.Effect<(attempt: number) => number> => {
  if (Schedule.isSchedule(open)) {
    return Effect.map(unroll(open), (millis) => fromSequence(sequence(millis)))
  }
  return Effect.succeed(
    fromSequence(isOpenTimes(open) ? open : { _tag: "Sequence", millis: [positive("make", "open", open)] })
  )
}

const fromSequence = (open: OpenTimes): (attempt: number) => number => {
  switch (open._tag) {
    case "Sequence":
      return (attempt) => open.millis[Math.min(attempt, open.millis.length) - 1] ?? 0
    case "Exponential":
      return (attempt) => Math.min(open.baseMs * open.factor ** (attempt - 1), open.maxMs)
  }
}

// The schedule's own clock runs through the open times, so that limits of its duration mean time spent open.
const unroll = (schedule: Schedule.Schedule<unknown, number>): Effect.Effect<ReadonlyArray<number>> =>
  Effect.gen(function*() {
    const step = yield* Schedule.toStep(schedule)
    const start = yield* Clock.currentTimeMillis
    const millis: Array<number> = []
    let elapsed = 0
    while (millis.length < unrolled) {
      const exit = yield* Effect.exit(step(start + elapsed, millis.length + 1))
      if (Exit.isFailure(exit)) break
      const delay = Duration.toMillis(exit.value[1])
      elapsed += delay
      millis.push(delay)
    }
    return millis
  })

const millisOf = (input: Duration.Input): number =>
  Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })

const positive = (where: string, field: string, input: Duration.Input): number => {
  const millis = millisOf(input)
  if (!(Number.isFinite(millis) && millis > 0)) throw invalid(where, field, "a finite duration > 0", input)
  return millis
}

const limit = (where: string, field: string, input: Duration.Input): number => {
  const millis = millisOf(input)
  if (!(millis > 0)) throw invalid(where, field, "a duration > 0", input)
  return millis
}

const whole = (
  where: string,
  field: string,
  value: number,
  least: number,
  most = Number.POSITIVE_INFINITY,
  mostName = ""
): number => {
  if (!(Number.isInteger(value) && value >= least)) throw invalid(where, field, `a whole number >= ${least}`, value)
  if (value > most) throw invalid(where, field, `<= ${mostName} (${most})`, value)
  return value
}

const share = (where: string, field: string, value: number): number => {
  if (!(value > 0 && value <= 1)) throw invalid(where, field, "in (0, 1]", value)
  return value
}

const filterOf = (where: string, filter: FailureFilter): Trip.Filter => {
  if (filter.classes?.length === 0) throw invalid(where, "classes", "at least one class", "none")
  for (const [errorClass, weight] of Object.entries(filter.weights ?? {})) {
    if (weight !== undefined) nonNegative(where, `weights.${errorClass}`, weight)
  }
  return {
    ...(filter.classes === undefined ? undefined : { classes: filter.classes }),
    ...(filter.weights === undefined ? undefined : { weights: filter.weights })
  }
}

const invalid = (where: string, field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`CircuitBreaker.${where}: ${field} must be ${demand}, got ${String(got)}`)

// -----------------------------------------------------------------------------
// The service
// -----------------------------------------------------------------------------

/** What a permit tells its breaker. */
interface Desk {
  readonly tell: (held: Held, outcome: Outcome, now: number) => void
  readonly settle: (held: Held, exit: Exit.Exit<unknown, unknown>, now: number) => void
  readonly firstContent: (held: Held, now: number) => void
}

/** A call that has been admitted. As a class, because every call makes one and uses one of its members. */
class Held implements Permit {
  readonly desk: Desk
  readonly cell: Registries.Cell
  readonly clock: Clock.Clock
  readonly startedAt: number
  readonly isProbe: boolean
  permit: Core.Permit
  firstTokenMs: number | undefined
  told: boolean

  constructor(desk: Desk, cell: Registries.Cell, clock: Clock.Clock, startedAt: number, permit: Core.Permit) {
    this.desk = desk
    this.cell = cell
    this.clock = clock
    this.startedAt = startedAt
    this.isProbe = permit.probe !== undefined
    this.permit = permit
    this.firstTokenMs = undefined
    this.told = false
  }

  get key(): string {
    return this.cell.key
  }
  get firstContent(): Effect.Effect<void> {
    return Step.sync((moment) => this.desk.firstContent(this, Step.elapsed(moment)))
  }
  get success(): Effect.Effect<void> {
    return Step.sync((moment) => this.desk.tell(this, success, Step.elapsed(moment)))
  }
  get ignored(): Effect.Effect<void> {
    return Step.sync((moment) => this.desk.tell(this, ignored, Step.elapsed(moment)))
  }
  get failure(): Permit["failure"] {
    return (errorClass, retryAfter) =>
      Step.sync((moment) => this.desk.tell(this, failure(errorClass, { retryAfter }), Step.elapsed(moment)))
  }
  get settle(): Permit["settle"] {
    return (exit) => Step.sync((moment) => this.desk.settle(this, exit, Step.elapsed(moment)))
  }
}

// Open times must not depend on somebody setting the clock of the machine.
const monotonic = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

const historySize = 100

const service = (
  config: Core.Config,
  options: Options,
  pubsub: PubSub.PubSub<Transition>
): CircuitBreaker["Service"] => {
  const judge = options.classify ?? classify
  const idleMs = positive("make", "idleTimeToLive", options.idleTimeToLive ?? "1 hour")
  const registry = Registries.make(config, idleMs, historySize)
  const draws = config.open.jitter > 0 || config.ramp?.admission === "random"
  let nextToken = 1

  const commit = (cell: Registries.Cell, state: Core.State, clock: Clock.Clock): void => {
    // Most of what happens changes nothing.
    if (state === cell.state) return
    registry.commit(cell, state, (_, change) => {
      const epoch = clock.currentTimeMillisUnsafe() - monotonic(clock)
      PubSub.publishUnsafe(pubsub, transitionOf(cell.key, change, epoch))
    })
  }

  const noSeed = () => 0
  const use = (moment: Step.Moment, key: string): Registries.Cell =>
    registry.use(
      key,
      Step.elapsed(moment),
      draws ? () => Math.floor(moment.fiber.getRef(Random.Random).nextDoubleUnsafe() * 2 ** 32) : noSeed
    )

  const admit = (moment: Step.Moment, key: string): Held | Errors.LLMError => {
    const { clock } = moment
    const now = Step.elapsed(moment)
    const cell = use(moment, key)
    passTime(cell, clock, now)
    const [state, decision] = Core.admit(config, cell.state, now)
    commit(cell, state, clock)
    return decision._tag === "Admitted"
      ? new Held(desk, cell, clock, now, decision.permit)
      : refusalOf(cell, decision)
  }

  // What time has changed is a transition of its own, told before the one of the event.
  const passTime = (cell: Registries.Cell, clock: Clock.Clock, now: number): void =>
    commit(cell, Core.advance(config, cell.state, now), clock)

  const tell = (held: Held, outcome: Outcome, now: number, error?: Errors.LLMError): void => {
    if (held.told) return
    held.told = true
    const { cell, clock, permit } = held
    if (cell.forgotten) return
    cell.usedAt = now
    Histories.add(cell.history, now, resultOf(outcome), Math.max(0, now - held.startedAt))
    passTime(cell, clock, now)
    const told = outcome._tag === "Ignored"
      ? nothing
      : { _tag: "Counted" as const, sample: sampleOf(held, outcome, now), evidence: evidenceOf(outcome, error) }
    commit(cell, Core.record(config, cell.state, permit, told, now), clock)
  }

  const settle = (held: Held, exit: Exit.Exit<unknown, unknown>, now: number): void =>
    Exit.isSuccess(exit) ? tell(held, judge(exit), now) : tell(held, judge(exit), now, errorOf(exit.cause))

  const firstContent = (held: Held, now: number): void => {
    const { cell, clock } = held
    if (held.told || held.firstTokenMs !== undefined) return
    held.firstTokenMs = now - held.startedAt
    if (held.permit.probe === undefined || cell.forgotten) return
    passTime(cell, clock, now)
    const [state, permit] = Core.decide(config, cell.state, held.permit, sampleOf(held, success, now), now)
    held.permit = permit
    commit(cell, state, clock)
  }

  const desk: Desk = { tell, settle, firstContent }

  const refusalOf = (cell: Registries.Cell, refused: Refused): Errors.LLMError => {
    const retryAfterMs = Math.ceil(refused.retryAfterMs)
    const { refusal } = cell
    // An error costs more than all the rest, so those refused in the same millisecond share one.
    if (refusal?.retryAfterMs === retryAfterMs && refusal.why === refused.why) return refusal.error
    const why = refused.status === "isolated" ? undefined : cell.state.why
    const evidence = why?.evidence
    const failure = why?.failure
    const context = options.context?.(cell.key)
    const error = withoutStack(() =>
      Errors.make(failure === undefined ? "server_error" : failure === "defect" ? "unknown" : failure, {
        provider: context?.provider ?? evidence?.provider ?? cell.key,
        model: context?.model ?? evidence?.model,
        target: context?.target ?? evidence?.target,
        origin: "circuit",
        reason: "circuit_open",
        retryAfter: Number.isFinite(retryAfterMs) ? Duration.millis(retryAfterMs) : undefined,
        detail: refused.why
      })
    )
    cell.refusal = { retryAfterMs, why: refused.why, error }
    return error
  }

  const verdict = (cell: Registries.Cell | undefined, now: number): Verdict => {
    if (cell === undefined) return config.disabled ? { ...admitting, status: "disabled" } : admitting
    const [state, decision] = Core.admit(config, cell.state, now)
    return decision._tag === "Admitted"
      ? { ...admitting, status: Core.statusOf(config, state) }
      : { admits: false, status: decision.status, retryAfterMs: Math.ceil(decision.retryAfterMs), why: decision.why }
  }

  const reading = <A>(read: (now: number, clock: Clock.Clock) => A): Effect.Effect<A> =>
    Clock.clockWith((clock) => Effect.succeed(read(monotonic(clock), clock)))

  const changing = (key: string, change: (state: Core.State, now: number) => Core.State): Effect.Effect<void> =>
    Step.at((moment) => {
      const { clock } = moment
      const now = Step.elapsed(moment)
      const cell = use(moment, key)
      passTime(cell, clock, now)
      commit(cell, change(cell.state, now), clock)
      return Effect.void
    })

  const reset = (cell: Registries.Cell, clock: Clock.Clock, now: number): void => {
    commit(cell, Core.reset(config, cell.state, now), clock)
    Histories.clear(cell.history)
  }

  return CircuitBreaker.of({
    // The exit is watched before a permit is taken, so no interruption falls between the two.
    execute: <A, E, R>(key: string, effect: Effect.Effect<A, E, R>) =>
      Effect.suspend(() => {
        let held: Held | undefined
        const admitted = Step.at<A, E | Errors.LLMError, R>((moment) => {
          const result = admit(moment, key)
          if (!(result instanceof Held)) return Effect.fail(result)
          held = result
          return effect
        })
        return Effect.onExitPrimitive(admitted, (exit) => {
          if (held !== undefined) settle(held, exit, monotonic(held.clock))
          return undefined
        })
      }),
    // As there, the end is watched first: the scope tells it of whatever is held by then.
    admit: (key) =>
      Effect.withFiber((fiber) => {
        let held: Held | undefined
        let closed = false
        const watched = Scope.addFinalizerExit(Context.getUnsafe(fiber.context, Scope.Scope), () => {
          closed = true
          if (held !== undefined) tell(held, ignored, monotonic(held.clock))
          return Effect.void
        })
        const admitted = Step.at((moment) => {
          const result = admit(moment, key)
          if (!(result instanceof Held)) return Effect.fail(result)
          held = result
          if (closed) tell(result, ignored, Step.elapsed(moment))
          return Effect.succeed(result)
        })
        return Effect.andThen(watched, admitted)
      }),
    take: (key) =>
      Step.make((moment) => {
        const result = admit(moment, key)
        return result instanceof Held ? Exit.succeed(result) : Exit.fail(result)
      }),
    check: (key) => reading((now) => verdict(registry.peek(key, now), now)),
    checkAll: (keys) =>
      Step.make((moment) => {
        if (registry.allClosed()) return noneRefuses
        const now = Step.elapsed(moment)
        let refuses = false
        const verdicts = keys.map((key) => {
          const found = verdict(registry.peek(key, now), now)
          refuses ||= !found.admits
          return found
        })
        return refuses ? Exit.succeed(verdicts) : noneRefuses
      }),
    state: (key) => reading((now) => circuitOf(config, key, registry.peek(key, now)?.state, now)),
    snapshot: reading((now) => registry.cells(now).map((cell) => circuitOf(config, cell.key, cell.state, now))),
    transitions: Stream.fromPubSub(pubsub),
    history: (key) =>
      reading((now, clock) => historyOf(registry.peek(key, now), clock.currentTimeMillisUnsafe() - now)),
    reset: (key) =>
      reading((now, clock) => {
        const cell = registry.peek(key, now)
        if (cell !== undefined) reset(cell, clock, now)
      }),
    resetAll: reading((now, clock) => registry.cells(now).forEach((cell) => reset(cell, clock, now))),
    isolate: (key, reason) =>
      Effect.suspend(() => {
        const token = nextToken++
        return Effect.as(
          changing(key, (state, now) => Core.isolate(config, state, { token, reason }, now)),
          changing(key, (state, now) => Core.release(config, state, token, now))
        )
      }),
    trip: (key, duration) => {
      const forMs = duration === undefined ? undefined : limit("trip", "duration", duration)
      return changing(key, (state, now) => Core.trip(config, state, forMs, now))
    },
    probe: (key) => changing(key, Core.probe)
  })
}

type Refused = Extract<Core.Decision, { readonly _tag: "Refused" }>

const nothing: Core.Outcome = { _tag: "Ignored" }

const noneRefuses: Exit.Exit<ReadonlyArray<Verdict>> = Exit.succeed([])

const admitting: Verdict = { admits: true, status: "closed", retryAfterMs: 0, why: undefined }

const resultOf = (outcome: Outcome): Histories.Result => {
  switch (outcome._tag) {
    case "Success":
      return "success"
    case "Ignored":
      return "ignored"
    case "Failure":
      return outcome.errorClass
  }
}

const sampleOf = (held: Held, outcome: Outcome, now: number): Trip.Sample => {
  const durationMs = Math.max(0, now - held.startedAt)
  const { firstTokenMs } = held
  return outcome._tag !== "Failure"
    ? { failure: undefined, weight: 0, durationMs, firstTokenMs, hintUntil: Windows.none.hintUntil }
    : {
      failure: outcome.errorClass,
      weight: outcome.weight,
      durationMs,
      firstTokenMs,
      hintUntil: outcome.retryAfter === undefined
        ? Windows.none.hintUntil
        : now + Duration.toMillis(outcome.retryAfter)
    }
}

const errorOf = (cause: Cause.Cause<unknown>): Errors.LLMError | undefined => {
  const failed = cause.reasons.find(Cause.isFailReason)?.error
  return Errors.isLLMError(failed) ? failed : undefined
}

// Only what a refusal tells is kept: an error may hold a whole decision record.
const evidenceOf = (outcome: Outcome, error: Errors.LLMError | undefined): Core.Evidence | undefined => {
  if (outcome._tag !== "Failure") return undefined
  const status = error?.status === undefined ? "" : `, ${error.status}`
  return {
    failure: outcome.errorClass,
    text: error === undefined ? outcome.errorClass : `${outcome.errorClass} (${error.reason}${status})`,
    provider: error?.provider,
    model: error?.model,
    target: error?.target
  }
}

const transitionOf = (key: string, change: Registries.Change, epoch: number): Transition => {
  const opened = change.to === "open"
  return {
    key,
    from: change.from,
    to: change.to,
    at: epoch + change.at,
    openings: change.state.attempt,
    openMs: opened ? change.state.openedForMs : undefined,
    why: change.to === "isolated"
      ? change.state.isolations[0]?.reason
      : opened
      ? change.state.why?.text
      : undefined
  }
}

const historyOf = (cell: Registries.Cell | undefined, epoch: number): History => {
  const recorded = cell === undefined ? [] : Histories.entries(cell.history)
  const outcomes = recorded.map((entry) => ({ ...entry, at: epoch + entry.at }))
  const counts: Partial<Record<Histories.Result, number>> = {}
  for (const { result } of outcomes) counts[result] = (counts[result] ?? 0) + 1
  return {
    outcomes,
    transitions: cell?.transitions.map((change) => transitionOf(cell.key, change, epoch)) ?? [],
    counts
  }
}

const circuitOf = (config: Core.Config, key: string, before: Core.State | undefined, now: number): Circuit => {
  const state = Core.advance(config, before ?? Core.initial(config, 0, 0, now), now)
  const { isolations, phase } = state
  const status = Core.statusOf(config, state)
  return {
    key,
    status,
    remainingMs: phase._tag === "Open" ? Math.max(0, phase.until - now) : 0,
    openings: phase._tag === "Closed" ? Core.nextAttempt(config, state, now) - 1 : state.attempt,
    probes: phase._tag === "HalfOpen" ? phase.probes.length : 0,
    share: shareOf(config, status, phase, now),
    why: status === "closed" || status === "disabled" ? undefined : state.why?.text,
    isolations: isolations.map(({ reason }) => reason),
    readings: phase._tag === "Closed"
      ? config.rules.flatMap((rule, index) => {
        const memory = phase.memories[index]
        if (memory === undefined) return []
        const { hintUntil: _, ...seen } = Trip.read(rule, memory, now)
        return [seen]
      })
      : []
  }
}

const shareOf = (config: Core.Config, status: Status, phase: Core.Phase, now: number): number => {
  switch (status) {
    case "closed":
    case "disabled":
      return 1
    case "open":
    case "half-open":
    case "isolated":
      return 0
    case "ramp":
      return config.ramp === undefined || phase._tag !== "Closed" ? 1 : Core.share(config.ramp, now - phase.since)
  }
}

const guardStream = (
  breaker: CircuitBreaker["Service"],
  key: string,
  parts: Stream.Stream<StreamPart, Errors.LLMError>
): Stream.Stream<StreamPart, Errors.LLMError> =>
  Stream.unwrap(
    Effect.map(breaker.admit(key), (permit) => {
      let seen = false
      const watched = Stream.tap(parts, (part) => {
        if (seen || !isContentPart(part)) return Effect.void
        seen = true
        return permit.firstContent
      })
      return Stream.onExit(watched, permit.settle)
    })
  )
