/**
 * Sends a second request when the first one is slow, and takes the answer that comes first.
 *
 * `race` does so for any effect. The service `Hedging` knows when a request is slow, from the answers of its key, and how
 * many hedges may be sent; a key is any string, usually a provider and a model. State lives in the service;
 * `layerMemory` keeps it in the process and forgets keys that are not used.
 *
 * **Details**
 *
 * A request is slow when it has waited longer for its first content than 95 % of the recent answers, at least one and at
 * most 30 seconds. Hedges are at most 2 % of the requests of the last ten seconds, and there is none that is free: where
 * fewer than 50 requests are made in that time, nothing is hedged.
 *
 * **Gotchas**
 *
 * A provider bills the prompt of a request that was given up, and often what it had written. Hedge nothing that has an
 * effect besides its answer, see `isEligible`.
 *
 * **Example** (Asking again when an answer is slow)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedging } from "breakwater"
 *
 * const answers = [Effect.never, Effect.succeed("hello")]
 *
 * const program = Hedging.race((index) => answers[index] ?? Effect.never, { delay: "5 millis" })
 *
 * await Effect.runPromise(program) // => "hello"
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Policies from "./internal/budget/policies.ts"
import * as Races from "./internal/hedging/run.ts"
import * as Samples from "./internal/hedging/samples.ts"
import * as IdleMap from "./internal/idleMap.ts"
import * as Step from "./internal/step.ts"

/**
 * Service that tells when a request is slow, and whether it may be hedged.
 *
 * **Details**
 *
 * Whoever drives requests calls `request` when a first attempt starts, waits for `delay`, asks `withdraw` before each
 * hedge and `refund`s a granted one that was not sent. `observe` is told the time to the first content of a success.
 *
 * **Gotchas**
 *
 * A request that lost to its hedge was at least as slow as it had waited. Tell `observe` that time, too: without it, the
 * slow answers are just those that are never seen, and the delay shrinks.
 *
 * @category services
 * @since 0.1.0
 */
export class Hedging extends Context.Service<Hedging, {
  /** The options, checked, with the defaults filled in. */
  readonly policy: Policy
  /** Takes in the milliseconds that an answer took to its first content. */
  readonly observe: (key: string, millis: number) => Effect.Effect<void>
  /** Returns after which time to send a hedge; `undefined` while too little is known. */
  readonly delay: (key: string) => Effect.Effect<Duration.Duration | undefined>
  /** Counts a first attempt that starts. */
  readonly request: (key: string) => Effect.Effect<void>
  /** Asks for one hedge; `false` refuses it and takes nothing. */
  readonly withdraw: (key: string) => Effect.Effect<boolean>
  /** Gives back a hedge that was granted, but not sent. */
  readonly refund: (key: string) => Effect.Effect<void>
  /** Returns what is known about every key. */
  readonly snapshot: Effect.Effect<ReadonlyArray<Entry>>
}>()("breakwater/Hedging") {}

/**
 * What is known about one key.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly key: string
  /** Answers of which the time is known. */
  readonly samples: number
  /** Milliseconds after which a hedge would be sent; `undefined` while too little is known. */
  readonly delayMillis: number | undefined
  /** Hedges that would be granted now, one after the other. */
  readonly available: number
  /** Hedges granted. */
  readonly granted: number
  /** Hedges refused. */
  readonly refused: number
  /** Hedges that were granted, but not sent. */
  readonly refunded: number
}

/**
 * A policy of hedging whose options have been checked, see `Options`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  /** `undefined` where the delay is observed. */
  readonly delayMillis: number | undefined
  readonly quantile: number
  readonly minSamples: number
  readonly minMillis: number
  readonly maxMillis: number
  readonly maxHedges: number
  readonly maxExtraLoad: number
  readonly windowMillis: number
  readonly minHealth: number
  readonly maxUtilisation: number
}

/**
 * Options of `layerMemory` and `makePolicy`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * A fixed time after which a request is hedged.
   *
   * @default the observed `quantile`
   */
  readonly delay?: Duration.Input | undefined
  /**
   * Share of the recent answers that came faster than a hedge is sent.
   *
   * @default 0.95
   */
  readonly quantile?: number | undefined
  /**
   * Answers below which nothing is hedged, as far as the delay is observed.
   *
   * @default 20
   */
  readonly minSamples?: number | undefined
  /**
   * Shortest delay that is observed.
   *
   * @default "1 second"
   */
  readonly min?: Duration.Input | undefined
  /**
   * Longest delay that is observed.
   *
   * @default "30 seconds"
   */
  readonly max?: Duration.Input | undefined
  /**
   * Most hedges of one call.
   *
   * @default 1
   */
  readonly maxHedges?: number | undefined
  /**
   * Most hedges for each request of `window`; nothing is granted besides.
   *
   * @default 0.02
   */
  readonly maxExtraLoad?: number | undefined
  /**
   * How long requests and hedges count.
   *
   * @default "10 seconds"
   */
  readonly window?: Duration.Input | undefined
  /**
   * Health below which a target gets no hedges, from 0 to 100.
   *
   * @default 50
   */
  readonly minHealth?: number | undefined
  /**
   * Share of a target's limits beyond which it gets no hedges.
   *
   * @default 0.8
   */
  readonly maxUtilisation?: number | undefined
  /**
   * Time without use after which a key is forgotten; no less than `window`.
   *
   * @default "1 hour"
   */
  readonly forgetAfter?: Duration.Input | undefined
}

/**
 * Options of `race`.
 *
 * @category options
 * @since 0.1.0
 */
export interface RaceOptions<in E> {
  /**
   * Most attempts, the first included.
   *
   * @default 2
   */
  readonly maxAttempts?: number | undefined
  /**
   * Time between the start of an attempt and that of the next: zero starts all at once, `null` a further one only after
   * a failure. A function is asked anew after each start, with the number of the attempt that would be next; where it
   * returns `undefined`, none starts by time.
   */
  readonly delay: Duration.Input | null | ((index: number) => Effect.Effect<Duration.Input | undefined>)
  /**
   * Whether an error ends all attempts and is the result.
   *
   * @default none does
   */
  readonly isFatal?: ((error: E) => boolean) | undefined
  /**
   * Asked right before a further attempt starts. An attempt that is refused is passed over: the next one is due after
   * its delay, or at once when nothing else runs.
   *
   * @default all may
   */
  readonly mayStart?: ((index: number) => Effect.Effect<boolean>) | undefined
  /**
   * What a failure that is not fatal does: `next` starts the next attempt at once and its delay anew, `stop` starts
   * none.
   *
   * @default "next"
   */
  readonly onFailure?: "next" | "stop" | undefined
  /**
   * Longest wait for the attempts that lost to wind up; what takes longer ends in the background.
   *
   * @default "100 millis"
   */
  readonly grace?: Duration.Input | undefined
}

/**
 * Starts an effect again while it runs, and returns the first success.
 *
 * **When to use**
 *
 * Use to hedge what has no effect besides its result. An attempt that opens a stream should succeed with its first
 * content, for headers say little about when it comes.
 *
 * **Details**
 *
 * Attempts are numbered from 0. With a success, a fatal failure or a defect the race is decided: no further attempt
 * starts, and those that run are interrupted. The result waits until they have wound up, though no longer than
 * `grace`, since one that cannot be interrupted would otherwise take the time away that the hedge has won. When all have
 * failed, the result is the failure of the first attempt. An interruption of the caller interrupts all attempts, and it
 * waits for all of them.
 *
 * **Gotchas**
 *
 * Each attempt runs in a fiber of its own: what it forks with `Effect.forkChild` ends with it, also when it wins. What
 * has to live on belongs into a scope that is not the attempt's. Once `mayStart` has granted an attempt, it starts, so
 * giving back what was taken there is up to the attempt; while it is still being asked, a decision interrupts it.
 *
 * Throws a `RangeError` that names the option when `maxAttempts` is not a whole number from 1, or a time is negative.
 *
 * **Example** (Trying the next one after a failure)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedging } from "breakwater"
 *
 * const program = Hedging.race(
 *   (index) => index < 2 ? Effect.fail(`attempt ${index}`) : Effect.succeed(index),
 *   { delay: null, maxAttempts: 3 }
 * )
 *
 * await Effect.runPromise(program) // => 2
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const race = <A, E, R>(
  start: (index: number) => Effect.Effect<A, E, R>,
  options: RaceOptions<E>
): Effect.Effect<A, E, R> => {
  const { delay, isFatal, mayStart, onFailure = "next" } = options
  return Races.run({
    start,
    delay: delay === null ? Infinity : typeof delay === "function" ? delay : millisFrom("delay", delay, 0),
    isFatal,
    mayStart,
    maxAttempts: wholeFrom("maxAttempts", options.maxAttempts ?? 2, 1),
    startsOnFailure: onFailure === "next",
    graceMs: millisFrom("grace", options.grace ?? "100 millis", 0),
    sharesTimer: false
  })
}

/**
 * Returns whether a request may be sent twice: it may when it can be repeated without harm and its content is still
 * there to be sent again. What is not said is taken for granted.
 *
 * **Gotchas**
 *
 * A call is not `retryable` when the provider executes tools or stores the conversation: both requests would do so.
 *
 * @category guards
 * @since 0.1.0
 */
export const isEligible = (request: {
  /** Whether sending it twice does no harm. */
  readonly retryable?: boolean | undefined
  /** Whether its content can be sent again while it is being sent. */
  readonly clonable?: boolean | undefined
}): boolean => request.retryable !== false && request.clonable !== false

/**
 * Checks the options of a policy and fills in the defaults.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when a number or a time is out of its range, or `min` is above `max`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makePolicy = (options: Options = {}): Policy => {
  const { maxExtraLoad = 0.02, maxHedges = 1, maxUtilisation = 0.8, minHealth = 50, minSamples = 20 } = options
  const { quantile = 0.95 } = options
  if (!(quantile > 0 && quantile <= 1)) throw invalid("quantile", "> 0 and <= 1", quantile)
  const minMillis = finiteFrom("min", options.min ?? "1 second", 0)
  const windowMillis = finiteFrom("window", options.window ?? "10 seconds", 0)
  if (windowMillis === 0) throw invalid("window", "a finite duration > 0", options.window)
  return {
    delayMillis: options.delay === undefined ? undefined : finiteFrom("delay", options.delay, 0),
    quantile,
    minSamples: wholeFrom("minSamples", minSamples, 1),
    minMillis,
    maxMillis: finiteFrom("max", options.max ?? "30 seconds", minMillis),
    maxHedges: wholeFrom("maxHedges", maxHedges, 0),
    maxExtraLoad: upTo("maxExtraLoad", maxExtraLoad, 1),
    windowMillis,
    minHealth: upTo("minHealth", minHealth, 100),
    maxUtilisation: upTo("maxUtilisation", maxUtilisation, 1)
  }
}

/** What is kept of a key. */
interface Kept {
  readonly samples: Samples.Samples
  readonly ledger: Policies.Ledger
  granted: number
  refused: number
  refunded: number
}

/** Most samples of a key that are kept, unless `minSamples` are more. */
const maxSamples = 128

/**
 * Provides a `Hedging` that lives in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` as `makePolicy` does, and when `forgetAfter` is shorter than `window`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<Hedging> => {
  const policy = makePolicy(options)
  const { delayMillis, maxExtraLoad, maxMillis, minMillis, minSamples, quantile, windowMillis } = policy
  const forgetMs = finiteFrom("forgetAfter", options.forgetAfter ?? "1 hour", windowMillis)
  const budget: Policies.Windowed = { windowMs: windowMillis, ratio: maxExtraLoad, minimum: 0 }
  return Layer.sync(Hedging, () => {
    const keys = IdleMap.make(forgetMs, (now): Kept => ({
      samples: Samples.make(Math.max(maxSamples, minSamples)),
      ledger: Policies.windowed(budget, now),
      granted: 0,
      refused: 0,
      refunded: 0
    }))

    const delayOf = (kept: Kept | undefined): number | undefined => {
      if (delayMillis !== undefined) return delayMillis
      if (kept === undefined || kept.samples.count < minSamples) return undefined
      const observed = Samples.quantile(kept.samples, quantile)
      return observed === undefined ? undefined : Math.min(maxMillis, Math.max(minMillis, observed))
    }

    // Each is a single step of the fiber: every call asks and tells.
    const at = <A>(use: (now: number) => A): Effect.Effect<A> => Step.sync((moment) => use(Step.millis(moment)))

    return Hedging.of({
      policy,
      observe: (key, millis) =>
        at((now) => {
          // A clock that was set back says nothing.
          if (millis >= 0 && millis < Infinity) Samples.add(keys.use(key, now).samples, millis)
        }),
      delay: (key) =>
        at((now) => {
          const millis = delayOf(keys.peek(key, now))
          return millis === undefined ? undefined : Duration.millis(millis)
        }),
      request: (key) =>
        at((now) => {
          keys.use(key, now).ledger.apply(started, now)
        }),
      withdraw: (key) =>
        at((now) => {
          const kept = keys.use(key, now)
          const isGranted = kept.ledger.apply(withdrawn, now)
          if (isGranted) kept.granted++
          else kept.refused++
          return isGranted
        }),
      refund: (key) =>
        at((now) => {
          const kept = keys.use(key, now)
          kept.refunded++
          kept.ledger.apply(refunded, now)
        }),
      snapshot: at((now) =>
        keys.entries(now).map(([key, kept]) => ({
          key,
          samples: kept.samples.count,
          delayMillis: delayOf(kept),
          available: kept.ledger.available(now),
          granted: kept.granted,
          refused: kept.refused,
          refunded: kept.refunded
        }))
      )
    })
  })
}

const started: Policies.Event = { _tag: "Started" }
const withdrawn: Policies.Event = { _tag: "Withdrawn", cost: "transient" }
const refunded: Policies.Event = { _tag: "Refunded", cost: "transient" }

const millisFrom = (field: string, input: Duration.Input, least: number): number => {
  const millis = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  if (!(millis >= least)) throw invalid(field, `a duration >= ${least} ms`, input)
  return millis
}

const finiteFrom = (field: string, input: Duration.Input, least: number): number => {
  const millis = millisFrom(field, input, least)
  if (millis === Infinity) throw invalid(field, "a finite duration", input)
  return millis
}

const wholeFrom = (field: string, value: number, least: number): number => {
  if (!(Number.isSafeInteger(value) && value >= least)) throw invalid(field, `a whole number >= ${least}`, value)
  return value
}

const upTo = (field: string, value: number, most: number): number => {
  if (!(value >= 0 && value <= most)) throw invalid(field, `between 0 and ${most}`, value)
  return value
}

const invalid = (field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`Hedging: ${field} must be ${demand}, got ${String(got)}`)
