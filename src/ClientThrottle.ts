/**
 * Refuses requests before they are sent when a provider has been refusing them anyway.
 *
 * A provider that is overloaded also pays for the requests it refuses. Where it has served fewer than half of the
 * recent requests of this process, a part of the new ones is refused here, at random, such that about twice as many are
 * sent as are served. Nothing is known beyond the process, and no state is opened or closed: what is refused follows
 * what is served. State lives in the service; `layerMemory` keeps it in the process and forgets keys that are not used.
 *
 * **Details**
 *
 * The probability is `(requests - multiplier × served) / (requests + 1)` over the last two minutes, never above 0.9, so
 * that a recovery is seen. A request counts when it starts and not when it ends, so that a provider that hangs is seen
 * before its requests time out. An error that the provider answers on purpose (a request or credential that is wrong)
 * counts as served. Interruptions and refusals of our own are taken back.
 *
 * **Gotchas**
 *
 * A refusal says nothing about the target it was meant for: start no cooldown for it, and ask another provider.
 *
 * **Example** (Sparing a provider that is down)
 *
 * ```ts import.meta.vitest
 * import { Effect, Random } from "effect"
 * import { ClientThrottle, LLMError } from "breakwater"
 *
 * let sent = 0
 * const down = Effect.suspend(() => {
 *   sent++
 *   return Effect.fail<LLMError.LLMError>(new LLMError.ServerError({ provider: "groq", reason: "overloaded" }))
 * })
 *
 * const program = Effect.gen(function*() {
 *   const throttle = yield* ClientThrottle.ClientThrottle
 *   for (let call = 0; call < 1000; call++) yield* Effect.flip(throttle.execute("groq", down))
 * }).pipe(Effect.provide(ClientThrottle.layerMemory()), Random.withSeed("example"))
 *
 * await Effect.runPromise(program)
 * sent < 200 // => true
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
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Acceptance from "./internal/budget/acceptance.ts"
import { mayHeal } from "./internal/health/blame.ts"
import * as IdleMap from "./internal/idleMap.ts"
import * as Step from "./internal/step.ts"
import { isLLMError, type LLMError, RateLimitError } from "./LLMError.ts"

/**
 * Service that refuses a part of the requests to an overloaded provider.
 *
 * @category services
 * @since 0.1.0
 */
export class ClientThrottle extends Context.Service<ClientThrottle, {
  /** Sends an effect to a provider, or fails at once with a `RateLimitError` of origin `limiter`. */
  readonly execute: <A, E extends LLMError, R>(
    provider: string,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | RateLimitError, R>
  /**
   * Counts a request that starts; `undefined` refuses it. A permit has to be settled by whoever has it, whatever
   * happens.
   */
  readonly admit: (provider: string) => Effect.Effect<Permit | undefined>
  /** Returns what is known about every provider. */
  readonly snapshot: Effect.Effect<ReadonlyArray<Entry>>
}>()("breakwater/ClientThrottle") {}

/**
 * A request that is on its way.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permit {
  /** Tells how it ended; only the first time counts. */
  readonly settle: (outcome: Outcome) => Effect.Effect<void>
}

/**
 * How a request ended, see `outcomeOf`; `neutral` takes it back.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome = "accepted" | "refused" | "neutral"

/**
 * What is known about one provider.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly provider: string
  /** How likely the next request is refused. */
  readonly probability: number
  /** Requests sent. */
  readonly sent: number
  /** Requests refused here. */
  readonly refused: number
}

/**
 * Options of `layerMemory`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Requests that are sent for each one that is served; lower refuses earlier.
   *
   * @default 2
   */
  readonly multiplier?: number | undefined
  /**
   * Highest probability of a refusal, below 1.
   *
   * @default 0.9
   */
  readonly maxProbability?: number | undefined
  /**
   * Recent requests below which none is refused.
   *
   * @default 10
   */
  readonly minRequests?: number | undefined
  /**
   * Time after which a request weighs a third.
   *
   * @default "2 minutes"
   */
  readonly window?: Duration.Input | undefined
  /**
   * How long a request in flight is taken for served; longer than most answers take.
   *
   * @default "30 seconds"
   */
  readonly grace?: Duration.Input | undefined
  /**
   * Time without use after which a provider is forgotten.
   *
   * @default "1 hour"
   */
  readonly forgetAfter?: Duration.Input | undefined
}

/** What is kept of a provider. */
interface Kept {
  readonly state: Acceptance.State
  sent: number
  refused: number
}

/**
 * Provides a `ClientThrottle` that lives in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when `multiplier` is below 1, `maxProbability` is not between 0 and 1 or
 * is 1, `minRequests` is negative, or a time is not positive.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<ClientThrottle> => {
  const { maxProbability = 0.9, minRequests = 10, multiplier = 2 } = options
  if (!(Number.isFinite(multiplier) && multiplier >= 1)) throw invalid("multiplier", "a number >= 1", multiplier)
  if (!(maxProbability >= 0 && maxProbability < 1)) throw invalid("maxProbability", ">= 0 and < 1", maxProbability)
  if (!(minRequests >= 0)) throw invalid("minRequests", "a number >= 0", minRequests)
  const limits: Acceptance.Options = {
    multiplier,
    maxProbability,
    minRequests,
    windowMs: positiveMillis("window", options.window ?? "2 minutes"),
    graceMs: positiveMillis("grace", options.grace ?? "30 seconds")
  }
  const forgetMs = positiveMillis("forgetAfter", options.forgetAfter ?? "1 hour")
  return Layer.sync(ClientThrottle, () => {
    const providers = IdleMap.make(
      forgetMs,
      (now): Kept => ({ state: Acceptance.make(limits, now), sent: 0, refused: 0 })
    )

    const permit = (state: Acceptance.State, startedAt: number): Permit => {
      let isOpen = true
      return {
        settle: (outcome) =>
          Step.sync((moment) => {
            const now = Step.millis(moment)
            if (isOpen) Acceptance.end(limits, state, startedAt, outcome, now)
            isOpen = false
          })
      }
    }

    const admitAt = (provider: string, now: number, random: number): Permit | undefined => {
      const kept = providers.use(provider, now)
      const isRefused = random < Acceptance.probability(limits, kept.state, now)
      Acceptance.start(limits, kept.state, now)
      if (isRefused) {
        kept.refused++
        return undefined
      }
      kept.sent++
      Acceptance.send(kept.state)
      return permit(kept.state, kept.state.at)
    }

    const admit = (provider: string): Effect.Effect<Permit | undefined> =>
      Step.sync((moment) =>
        admitAt(provider, Step.millis(moment), moment.fiber.getRef(Random.Random).nextDoubleUnsafe())
      )

    return ClientThrottle.of({
      admit,
      execute: <A, E extends LLMError, R>(provider: string, effect: Effect.Effect<A, E, R>) =>
        Effect.acquireUseRelease(
          admit(provider),
          (permit): Effect.Effect<A, E | RateLimitError, R> =>
            permit === undefined ? Effect.fail(refusal(provider)) : effect,
          (permit, exit) => permit === undefined ? Effect.void : permit.settle(outcomeOfExit(exit))
        ),
      snapshot: Effect.map(
        Clock.currentTimeMillis,
        (now) =>
          providers.entries(now).map(([provider, { refused, sent, state }]) => ({
            provider,
            probability: Acceptance.probability(limits, state, now),
            sent,
            refused
          }))
      )
    })
  })
}

/**
 * Creates the error of a request that was shed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const refusal = (provider: string): RateLimitError =>
  new RateLimitError({
    provider,
    origin: "limiter",
    reason: "overloaded",
    scope: "provider",
    detail: "the provider refuses most requests, so this one was not sent"
  })

/**
 * Returns what an error means for the throttle: `refused` when the provider could not serve the request, `accepted`
 * when it answered on purpose, and `neutral` when it was not asked.
 *
 * @category accessors
 * @since 0.1.0
 */
export const outcomeOf = (error: LLMError): Outcome =>
  error.origin !== "provider" || error.reason === "client_abort" || error.reason === "deadline"
    ? "neutral"
    : mayHeal(error)
    ? "refused"
    : "accepted"

const outcomeOfExit = <A, E>(exit: Exit.Exit<A, E>): Outcome => {
  if (Exit.isSuccess(exit)) return "accepted"
  const error = Cause.findErrorOption(exit.cause)
  return Option.isSome(error) && isLLMError(error.value) ? outcomeOf(error.value) : "neutral"
}

const positiveMillis = (field: string, input: Duration.Input): number => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(input))
  if (!(Number.isFinite(millis) && millis > 0)) throw invalid(field, "a finite duration > 0", input)
  return millis
}

const invalid = (field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`ClientThrottle: ${field} must be ${demand}, got ${String(got)}`)
