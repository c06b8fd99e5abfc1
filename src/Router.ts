/**
 * Sends each call to the target that can serve it: many targets, one answer.
 *
 * Of the targets that can serve a call (tags, tenant, capabilities, context window) and are free, a strategy of
 * `Selection` chooses one; without a strategy they are taken in order. After a failure the recovery table says what is
 * next: the same target after a backoff, another key, model or provider at once, a wait for the earliest capacity, or the
 * end. One deadline bounds queue, attempts, backoff and waits together, and is split so that every later target still
 * gets a start: an attempt may use half of what is left.
 *
 * What outlives a call is in the services the router is made of: cooldowns, limits, circuits, health, the retry budget
 * and what was learned about tokens. Its own are the attempts in flight, which balancing needs.
 *
 * **Details**
 *
 * Before an attempt the target must not be cooling, its circuit must let calls through, and all limits must have room,
 * in this order; the circuit has the last word after a wait for room. A refusal of these is no attempt and no evidence
 * against the target. When every target refuses, the call waits for the one that is free first, if that is before its
 * deadline.
 *
 * A target that hangs is left before its first timeout: when twenty answers of other keys of its model have overtaken
 * three requests to it in a row, or a dozen in a row have each waited longer than its longest answer of the last minute,
 * it is asked last, and three requests at a time, until anything comes back. An only target is never held back.
 *
 * A stream moves on freely until its first content part has been handed over; afterwards a failure is the caller's,
 * unless `streamPolicy` says otherwise. Slots and circuit permits are held to its end. Every completion, every error and
 * every stream's `finish` part carries the decision record, one line an attempt; `explain` turns it into a text.
 *
 * **Gotchas**
 *
 * Let nothing below the router retry: set a vendor SDK's `maxRetries` to 0, or attempts multiply.
 *
 * **Example** (Falling back to another provider)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LLMService, Resilience, Router, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const targets = [
 *   Target.make({ provider: "groq", model: "llama-3.1-8b-instant" }),
 *   Target.make({ provider: "openai", model: "gpt-4o-mini" })
 * ]
 * const providers = TestProvider.layer({
 *   "groq/llama-3.1-8b-instant": [TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "model" })],
 *   "openai/gpt-4o-mini": [TestProvider.reply("Hello from the second one")]
 * })
 *
 * const program = Effect.gen(function*() {
 *   const llm = yield* LLMService.LLMService
 *   const completion = yield* llm.complete({ prompt: "Say hello" })
 *   return [completion.target, completion.attempts.length]
 * }).pipe(
 *   Effect.provide(Router.layer({ targets }).pipe(Layer.provide([providers, Resilience.layerMemory()])))
 * )
 *
 * await Effect.runPromise(program) // => ["openai/gpt-4o-mini", 2]
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import type * as Stream from "effect/Stream"
import { CircuitBreaker } from "./CircuitBreaker.ts"
import { ClientThrottle } from "./ClientThrottle.ts"
import { Cooldown } from "./Cooldown.ts"
import { Events } from "./Events.ts"
import { Health } from "./Health.ts"
import { Hedging } from "./Hedging.ts"
import { adapterOf } from "./internal/call/adapterOf.ts"
import type { Engine } from "./internal/call/call.ts"
import * as Engines from "./internal/call/engine.ts"
import * as Explanations from "./internal/call/explain.ts"
import * as Faces from "./internal/call/face.ts"
import type { Attempt, ErrorClass, LLMError } from "./LLMError.ts"
import {
  type Completion,
  type CompletionRequest,
  LLMService,
  type StreamPart,
  type StreamPolicy,
  type Timings
} from "./LLMService.ts"
import { Provider } from "./Provider.ts"
import { type Limits, RateLimiter, type Usage as Used } from "./RateLimiter.ts"
import type * as Recovery from "./Recovery.ts"
import { RetryBudget } from "./RetryBudget.ts"
import type * as Selection from "./Selection.ts"
import type * as Targets from "./Target.ts"
import { Usage } from "./Usage.ts"

/**
 * Service that sends calls to the target that can serve them: requests of a model, and any effect.
 *
 * @category services
 * @since 0.1.0
 */
export class Router extends Context.Service<Router, {
  /** Runs an effect against the target that is chosen for it, as often and against as many as it takes. */
  readonly execute: <A, E, R>(
    call: (target: Targets.Target) => Effect.Effect<A, E, R>,
    options?: ExecuteOptions<A, E>
  ) => Effect.Effect<A, LLMError, R>
  /** Does what `execute` does, and returns the decision record with the value. */
  readonly executeRecorded: <A, E, R>(
    call: (target: Targets.Target) => Effect.Effect<A, E, R>,
    options?: ExecuteOptions<A, E>
  ) => Effect.Effect<Executed<A>, LLMError, R>
  /** The targets, by their `order`. */
  readonly targets: ReadonlyArray<Targets.Target>
}>()("breakwater/Router") {}

/**
 * Options of a router.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Name of the router, where several share the services that keep state: limits of `limits.all` and `limits.tenants`
   * are then its own.
   *
   * @default all routers without a name share these limits
   */
  readonly name?: string | undefined
  /** Where calls may go, in order of preference within equal `order`. */
  readonly targets: ReadonlyArray<Targets.Target>
  /**
   * Which target is tried first, among those that can serve a call and are free: one strategy for all targets of equal
   * `order`, or which one for which `order`. Lower orders always come first.
   *
   * @default Selection.ordered
   */
  readonly strategy?: Selection.Strategy | ((order: number) => Selection.Strategy) | undefined
  /**
   * What keeps calls together where a strategy balances, for the sake of the providers' prompt caches: the `affinity` of
   * the request, or, for requests without one, the first 1024 characters of the prompt as well. Such a call also waits for
   * a stated wait within `patience` rather than go to another key.
   *
   * @default "request"
   */
  readonly affinity?: "request" | "prefix" | undefined
  /**
   * What happens to a stream that breaks after its first content, unless the request says.
   *
   * @default "fail"
   */
  readonly streamPolicy?: StreamPolicy | undefined
  /** What to do after which failure. */
  readonly recovery?: Recovery.Options | undefined
  /**
   * Attempts of one call over all targets.
   *
   * @default 10
   */
  readonly maxAttempts?: number | undefined
  /**
   * Backoff on one target, for the classes whose rule says `backoff`, or which one for which target; every target of a
   * call has its own run of it.
   *
   * @default Retry.standard
   */
  readonly retry?:
    | Schedule.Schedule<unknown, LLMError>
    | ((target: Targets.Target) => Schedule.Schedule<unknown, LLMError>)
    | undefined
  /**
   * Longest stated wait for which a call stays with its target while others are free.
   *
   * @default "3 seconds"
   */
  readonly patience?: Duration.Input | undefined
  /**
   * Limits of time; `Infinity` is no limit.
   *
   * @default Timeouts.defaults
   */
  readonly timeouts?: TimeoutOptions | undefined
  /** Limits that targets share, besides the limits of each. */
  readonly limits?: SharedLimits | undefined
  /**
   * Longest wait in the limiter's queue, when no target has capacity.
   *
   * @default "15 seconds"
   */
  readonly queueWait?: Duration.Input | undefined
  /**
   * Share of the targets, between 0 and 1, that open circuits may take out of use; the circuits beyond it that end first
   * are tried as probes. Targets that are cooling or isolated do not count, and a single target's circuit is obeyed.
   *
   * @default 0.5
   */
  readonly maxEjected?: number | undefined
}

/**
 * Limits that targets share. Each record is by name; a name that no target has is refused.
 *
 * @category options
 * @since 0.1.0
 */
export interface SharedLimits {
  /** All calls of the router. */
  readonly all?: Limits | undefined
  readonly providers?: Readonly<Record<string, Limits>> | undefined
  readonly groups?: Readonly<Record<string, Limits>> | undefined
  /** By the id of the key. */
  readonly keys?: Readonly<Record<string, Limits>> | undefined
  /** By the `tenant` of the request; a tenant that is not named has no limits of its own. */
  readonly tenants?: Readonly<Record<string, Limits>> | undefined
}

/**
 * Limits of time of a router's calls; what is absent has its default of `Timeouts.defaults`.
 *
 * @category options
 * @since 0.1.0
 */
export interface TimeoutOptions {
  /** The whole call, unless the request brings a deadline of its own. */
  readonly total?: Duration.Input | undefined
  /** One attempt at a whole answer. */
  readonly attempt?: Duration.Input | undefined
  /** From the start of a streamed attempt to the response headers. */
  readonly connect?: Duration.Input | undefined
  /** From the start of a streamed attempt to its first content. */
  readonly firstToken?: Duration.Input | undefined
  /** Between two content parts of a stream. */
  readonly idle?: Duration.Input | undefined
}

/**
 * What a router has to know of an effect.
 *
 * @category options
 * @since 0.1.0
 */
export interface ExecuteOptions<in A, in E> extends Pick<CompletionRequest, SharedFields> {
  /** Tokens the call is expected to use; without them only requests are limited. */
  readonly tokens?: { readonly input: number; readonly output: number } | undefined
  /** Reads from a result what was used; without it the expected tokens stand. */
  readonly usage?: ((value: A) => Used) | undefined
  /**
   * Turns a failure into one of the seven errors.
   *
   * @default Classifier.fromUnknown, which knows the errors of the vendors' SDKs, of fetch and of Node
   */
  readonly classify?: ((error: E, target: Targets.Target) => LLMError) | undefined
  /** Only targets of this provider, of this model (`provider/model`) or with this id. */
  readonly service?: string | undefined
}

/**
 * What an effect returned, and how it came to that.
 *
 * @category models
 * @since 0.1.0
 */
export interface Executed<out A> {
  readonly value: A
  /** Id of the target it came from. */
  readonly target: string
  /** Every attempt of the call; the last one is the success. */
  readonly attempts: ReadonlyArray<Attempt>
  /** US dollars for all attempts, as far as targets have prices and `usage` tells. */
  readonly cost: number | undefined
  /** Whether providers may have billed more. */
  readonly costAtLeast: boolean
  readonly timings: Timings
}

type SharedFields = "priority" | "tenant" | "deadline" | "tags" | "affinity" | "idempotent"

/**
 * Creates a router and the `LLMService` that goes through it.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when there is no target, two targets share an id, a limit is not
 * positive, or a target's provider has no adapter.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options
): Effect.Effect<{ readonly router: Router["Service"]; readonly service: LLMService["Service"] }, never, Services> => {
  const checked = Engines.check(options)
  return Effect.map(Effect.zip(Provider, parts), ([provider, parts]) => {
    const engine = Engines.make(
      options,
      checked,
      parts,
      (target, index) => adapterOf(provider, target, `Router: targets[${index}]`)
    )
    return {
      router: routerOf(engine),
      service: LLMService.of({
        complete: (request): Effect.Effect<Completion, LLMError> => Faces.complete(engine, request),
        stream: (request): Stream.Stream<StreamPart, LLMError> => Faces.stream(engine, request)
      })
    }
  })
}

const routerOf = (engine: Engine): Router["Service"] =>
  Router.of({
    execute: (call, options = {}) => Effect.map(Faces.execute(engine, call, options), ({ value }) => value),
    executeRecorded: (call, options = {}) => Faces.execute(engine, call, options),
    targets: engine.candidates.map((_) => _.target)
  })

const optional = <Identifier, Shape>(key: Context.Key<Identifier, Shape>): Effect.Effect<Shape | undefined> =>
  Effect.map(Effect.serviceOption(key), Option.getOrUndefined)

const parts: Effect.Effect<Engines.Parts, never, State> = Effect.all({
  cooldown: Cooldown,
  limiter: RateLimiter,
  usage: Usage,
  circuits: CircuitBreaker,
  health: Health,
  budget: RetryBudget,
  throttle: optional(ClientThrottle),
  hedging: optional(Hedging),
  events: optional(Events)
})

/**
 * The services that keep what outlives a call. `Resilience.layerMemory` provides them.
 *
 * **Details**
 *
 * Where there is a `ClientThrottle` as well, it is asked before every attempt; with a `Hedging`, slow attempts are joined
 * by a second one; with `Events`, attempts and calls are published as they end.
 *
 * @category services
 * @since 0.1.0
 */
export type State = Cooldown | RateLimiter | Usage | CircuitBreaker | Health | RetryBudget

/**
 * The services a router is made of.
 *
 * @category services
 * @since 0.1.0
 */
export type Services = Provider | State

/**
 * Provides a router, and an `LLMService` that goes through it.
 *
 * **Gotchas**
 *
 * Throws as `make` does, when the layer is created; a provider without an adapter dies when it is built.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Router | LLMService, never, Services> =>
  Layer.effectContext(
    Effect.map(make(options), ({ router, service }) => Context.add(Context.make(Router, router), LLMService, service))
  )

/**
 * Provides a router for effects alone: no adapters, no HTTP client.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerExecute = (options: Options): Layer.Layer<Router, never, State> => {
  const checked = Engines.check(options)
  return Layer.effect(
    Router,
    Effect.map(parts, (parts) => routerOf(Engines.make(options, checked, parts, () => undefined)))
  )
}

/**
 * Runs any effect under all policies of the router: chosen target, limits, circuit, timeouts, retries, fallback.
 *
 * **When to use**
 *
 * Use to call a vendor's SDK, or anything else that has targets and limits. The effect is given the target it is meant
 * for, with its model and key, and runs once per attempt.
 *
 * **Details**
 *
 * Failures become one of the seven errors, by `classify`. Defects and interruptions pass through. Let the effect end
 * when it is interrupted: `Effect.tryPromise` hands an `AbortSignal` to whatever it calls.
 *
 * **Example** (Two targets, one function)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LLMError, Resilience, Router, Target } from "breakwater"
 *
 * const targets = ["small", "large"].map((model) => Target.make({ provider: "acme", model }))
 *
 * const ask = (target: Target.Target) =>
 *   target.model === "small"
 *     ? Effect.fail(new LLMError.RateLimitError({ provider: "acme", reason: "rate_limit" }))
 *     : Effect.succeed(`an answer of ${target.model}`)
 *
 * const program = Router.execute(ask, { tokens: { input: 20, output: 100 } }).pipe(
 *   Effect.provide(Router.layerExecute({ targets }).pipe(Layer.provide(Resilience.layerMemory())))
 * )
 *
 * await Effect.runPromise(program) // => "an answer of large"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const execute = <A, E, R>(
  call: (target: Targets.Target) => Effect.Effect<A, E, R>,
  options?: ExecuteOptions<A, E>
): Effect.Effect<A, LLMError, R | Router> => Effect.flatMap(Router, (router) => router.execute(call, options))

/**
 * Runs any effect as `execute` does, and returns the decision record with its value.
 *
 * @category combinators
 * @since 0.1.0
 */
export const executeRecorded = <A, E, R>(
  call: (target: Targets.Target) => Effect.Effect<A, E, R>,
  options?: ExecuteOptions<A, E>
): Effect.Effect<Executed<A>, LLMError, R | Router> =>
  Effect.flatMap(Router, (router) => router.executeRecorded(call, options))

/**
 * Returns a decision record as a text to read: per attempt its target, why it was chosen, who was passed over and why,
 * what it waited, how it ended, what it took and what it cost.
 *
 * **Details**
 *
 * Takes a completion, an error, or any list of attempts, such as the `metadata.breakwater` of a stream's finish part.
 *
 * **Example** (Why it was this one)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { TestClock } from "effect/testing"
 * import { LLMService, Resilience, Router, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const targets = ["large", "small"].map((model) => Target.make({ provider: "acme", model }))
 * const providers = TestProvider.layer({
 *   "acme/large": [TestProvider.fail("rate_limit", { reason: "rate_limit", status: 429, scope: "model" })],
 *   "acme/small": [TestProvider.reply("Hello")]
 * })
 * const live = Router.layer({ targets }).pipe(Layer.provide([providers, Resilience.layerMemory()]))
 *
 * const program = Effect.gen(function*() {
 *   const llm = yield* LLMService.LLMService
 *   return Router.explain(yield* llm.complete({ prompt: "Say hello" })).split("\n").slice(1)
 * }).pipe(Effect.provide(live), Effect.provide(TestClock.layer()))
 *
 * await Effect.runPromise(program)
 * // => ["1. acme/large, first: rate_limit (429) after 0 ms", "2. acme/small, next: answered after 0 ms", "   passed over: acme/large (cooldown, 60 s left)"]
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const explain = (outcome: Explained): string => Explanations.text(outcome)

/**
 * What `explain` reads of a completion or an error.
 *
 * @category models
 * @since 0.1.0
 */
export interface Explained {
  readonly attempts: ReadonlyArray<Attempt>
  /** The class of the error, when it is one. */
  readonly errorClass?: ErrorClass | undefined
  readonly message?: string | undefined
  readonly timings?: { readonly totalMs: number; readonly waitedMs: number } | undefined
  readonly cost?: number | undefined
  readonly costAtLeast?: boolean | undefined
}
