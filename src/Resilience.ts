/**
 * Everything wired: one layer from a list of targets to a resilient `LLMService`.
 *
 * `layer` puts together the providers' adapters, the services that keep state and the router, with defaults that fit
 * most programs. Each of these parts can be used alone; this module adds nothing but the wiring.
 *
 * **Details**
 *
 * The defaults: 10 attempts a call, 2 retries on one target with exponential backoff and full jitter (1 s to 30 s),
 * stated waits up to 3 s waited for in place, 10 minutes in all, 60 s for an attempt, 20 s to connect, 30 s to the first
 * token, 30 s between tokens, 15 s in the queue of a limit, a circuit per target that five failures in a row open for
 * 60 s, retries of at most a fifth of all calls (and always 3 a minute), and the recovery table of `Recovery`. Limits
 * apply where targets have them, and give requests 50 ms to overtake each other on their way.
 *
 * **Gotchas**
 *
 * The HTTP client is yours to choose and must not retry by itself: `FetchHttpClient.layer`, or
 * `NodeHttpClient.layerUndici` of `@effect/platform-node`. Node's own `fetch` gives up after 300 s without headers.
 *
 * **Example** (Two providers, one service)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { LLMService, Resilience, Target } from "breakwater"
 *
 * const key = (id: string) => ({ id, value: Redacted.make("secret") })
 *
 * const live = Resilience.layer({
 *   targets: [
 *     Target.make({ provider: "groq", model: "llama-3.3-70b-versatile", key: key("groq-1") }),
 *     Target.make({ provider: "openai", model: "gpt-4o-mini", key: key("openai-1") })
 *   ],
 *   timeouts: { total: "2 minutes" }
 * }).pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(LLMService.LLMService, (llm) => Object.keys(llm)).pipe(Effect.provide(live))
 *
 * await Effect.runPromise(program) // => ["complete", "stream"]
 * ```
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as ClientThrottle from "./ClientThrottle.ts"
import * as Cooldown from "./Cooldown.ts"
import * as Events from "./Events.ts"
import * as Health from "./Health.ts"
import * as Hedging from "./Hedging.ts"
import type { LLMError } from "./LLMError.ts"
import type { LLMService } from "./LLMService.ts"
import * as Provider from "./Provider.ts"
import * as RateLimiter from "./RateLimiter.ts"
import * as RetryBudget from "./RetryBudget.ts"
import * as Router from "./Router.ts"
import type { Target } from "./Target.ts"
import * as Usage from "./Usage.ts"

/**
 * Options of `layer`: those of the router, adapters of your own, and the services that keep state.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends Router.Options, MemoryOptions {
  /** Adapters by provider name, besides or instead of the known ones. */
  readonly providers?: Readonly<Record<string, Provider.Adapter>> | undefined
  /**
   * Whether requests to a provider that refuses most of them are shed before they are sent, and by which rule.
   *
   * @default no requests are shed
   */
  readonly throttle?: ClientThrottle.Options | undefined
  /**
   * Whether a request that takes longer than most is joined by a second one at another target, and by which rule. It is
   * charged to the retry budget of that target as well.
   *
   * @default no requests are hedged
   */
  readonly hedge?: Hedging.Options | undefined
}

/**
 * Options of the services that keep state.
 *
 * @category options
 * @since 0.1.0
 */
export interface MemoryOptions {
  /** How the limiter queues, lends and learns. */
  readonly limiter?: RateLimiter.Options | undefined
  /** How tokens are estimated. */
  readonly usage?: Usage.Options | undefined
  /** When a target's circuit opens, for how long, and how it closes again. */
  readonly circuit?: CircuitBreaker.Options | undefined
  /** How health is remembered. */
  readonly health?: Health.Options | undefined
  /** How many retries all calls together may make. */
  readonly retryBudget?: RetryBudget.Options | undefined
}

/**
 * Services that keep the state of all calls, and tell what happens to them.
 *
 * @category services
 * @since 0.1.0
 */
export type State = Router.State | Events.Events

/**
 * Provides all services that keep state, in the process, and the events.
 *
 * **When to use**
 *
 * Use below `Router.layer`, with a `Provider` layer of your own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<State> =>
  Layer.mergeAll(
    Cooldown.layerMemory,
    RateLimiter.layerMemory(options.limiter),
    Usage.layer(options.usage),
    CircuitBreaker.layerMemory(options.circuit),
    Health.layerMemory(options.health),
    RetryBudget.layerMemory(options.retryBudget),
    Events.layer
  )

/**
 * Provides an `LLMService` and a `Router` over targets, and the services that keep their state.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one makes no sense.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<LLMService | Router.Router | State, never, HttpClient.HttpClient> =>
  around(options, Router.layer(options)).pipe(Layer.provide(Provider.layerWith(options.providers ?? {})))

/**
 * Provides a `Router` for effects alone, and the services that keep its state; needs no HTTP client.
 *
 * **When to use**
 *
 * Use with `protect` and `Router.execute`, to call vendors' SDKs or any other services under the same policies.
 *
 * **Gotchas**
 *
 * Throws as `layer` does.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerExecute = (options: Omit<Options, "providers">): Layer.Layer<Router.Router | State> =>
  around(options, Router.layerExecute(options))

const around = <A, R>(
  options: Omit<Options, "providers">,
  router: Layer.Layer<A, never, R>
): Layer.Layer<A | State, never, Exclude<R, State>> =>
  router.pipe(
    options.throttle === undefined ? (self) => self : Layer.provide(ClientThrottle.layerMemory(options.throttle)),
    options.hedge === undefined ? (self) => self : Layer.provide(Hedging.layerMemory(options.hedge)),
    Layer.provideMerge(
      layerMemory({ ...options, limiter: { transit: RateLimiter.defaultTransit, ...options.limiter } })
    )
  )

/**
 * Protects any effect as one service: its limits, circuit, cooldowns, retries, timeouts and health.
 *
 * **When to use**
 *
 * Use to put a vendor's SDK, or any call that has limits and can fail, under the policies of `layer` or `layerExecute` by
 * naming the service in one line.
 *
 * **Details**
 *
 * The service is the provider of a target, its model as `provider/model`, or its id. Where it has several targets (keys,
 * models), the call goes to the one that can take it; an effect that needs to know which is written as a function of the
 * target. Failures become one of the seven errors, by `classify`, which knows the errors of the vendors' SDKs.
 *
 * **Gotchas**
 *
 * Set the SDK's own `maxRetries` to 0, or attempts multiply, and hand it the signal of `Effect.tryPromise`, or requests
 * go on that nobody waits for. A service without a target is a `PermanentError`. The decision record of a success is on
 * `Events`.
 *
 * **Example** (One promise, one line)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Resilience, Target } from "breakwater"
 *
 * const sdk = {
 *   create: (question: string, _: { signal: AbortSignal }) => Promise.resolve({ text: `an answer to ${question}` })
 * }
 *
 * const live = Resilience.layerExecute({
 *   targets: [Target.make({ provider: "openai", model: "gpt-4o-mini", limits: { tokens: { limit: 3000, per: "1 minute" } } })]
 * })
 *
 * const program = Resilience.protect("openai", { tokens: { input: 20, output: 200 } })(
 *   Effect.tryPromise((signal) => sdk.create("why", { signal }))
 * )
 *
 * await Effect.runPromise(Effect.provide(program, live)) // => { text: "an answer to why" }
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const protect = <A = unknown, E = unknown>(
  service: string,
  options: Omit<Router.ExecuteOptions<A, E>, "service"> = {}
): <B extends A, F extends E, R>(
  call: Effect.Effect<B, F, R> | ((target: Target) => Effect.Effect<B, F, R>)
) => Effect.Effect<B, LLMError, R | Router.Router> =>
(call) => Router.execute(typeof call === "function" ? call : () => call, { ...options, service })
