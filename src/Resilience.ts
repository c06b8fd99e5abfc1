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
 * apply where targets have them.
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
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as ClientThrottle from "./ClientThrottle.ts"
import * as Cooldown from "./Cooldown.ts"
import * as Health from "./Health.ts"
import type { LLMService } from "./LLMService.ts"
import * as Provider from "./Provider.ts"
import * as RateLimiter from "./RateLimiter.ts"
import * as RetryBudget from "./RetryBudget.ts"
import * as Router from "./Router.ts"
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
 * Services that keep the state of all calls.
 *
 * @category services
 * @since 0.1.0
 */
export type State =
  | Cooldown.Cooldown
  | RateLimiter.RateLimiter
  | Usage.Usage
  | CircuitBreaker.CircuitBreaker
  | Health.Health
  | RetryBudget.RetryBudget

/**
 * Provides all services that keep state, in the process.
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
    RetryBudget.layerMemory(options.retryBudget)
  )

/**
 * Provides an `LLMService` over targets, and the services that keep its state.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one makes no sense.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<LLMService | State, never, HttpClient.HttpClient> =>
  Router.layer(options).pipe(
    options.throttle === undefined ? (self) => self : Layer.provide(ClientThrottle.layerMemory(options.throttle)),
    Layer.provideMerge(layerMemory(options)),
    Layer.provide(Provider.layerWith(options.providers ?? {}))
  )
