/**
 * Tells what happens, as it happens: one stream of tagged events for whoever listens.
 *
 * A router publishes every attempt and every call as it ends, with the lines of the decision record. Nothing is kept:
 * who subscribes later misses what came before, and while nobody listens no event is made.
 *
 * **Gotchas**
 *
 * Events name targets, tenants, classes and times, never a prompt, an answer or a key. Subscribers that fall 1024 behind
 * miss the oldest ones.
 *
 * **Example** (Watching the attempts of a call)
 *
 * ```ts import.meta.vitest
 * import { Effect, Fiber, Layer, Stream } from "effect"
 * import { Events, LLMService, Resilience, Router, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const targets = ["llama-3.3-70b", "llama-3.1-8b"].map((model) => Target.make({ provider: "groq", model }))
 * const providers = TestProvider.layer({
 *   "groq/llama-3.3-70b": [TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "model" })],
 *   "groq/llama-3.1-8b": [TestProvider.reply("Hello")]
 * })
 *
 * const program = Effect.gen(function*() {
 *   const events = yield* Events.Events
 *   const llm = yield* LLMService.LLMService
 *   const watching = yield* Effect.forkChild(Stream.runCollect(Stream.take(events.stream, 3)), { startImmediately: true })
 *   yield* llm.complete({ prompt: "Say hello" })
 *   return (yield* Fiber.join(watching)).map((event) =>
 *     event._tag === "AttemptEnded" ? `${event.attempt.target}: ${event.attempt.outcome}` : `call: ${event.outcome}`
 *   )
 * }).pipe(
 *   Effect.provide(
 *     Router.layer({ targets }).pipe(Layer.provide(providers), Layer.provideMerge(Resilience.layerMemory()))
 *   )
 * )
 *
 * await Effect.runPromise(program)
 * // => ["groq/llama-3.3-70b: failure", "groq/llama-3.1-8b: success", "call: success"]
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import * as Step from "./internal/step.ts"
import type { Attempt, ErrorClass, Reason } from "./LLMError.ts"

/**
 * Service that publishes events to all who listen.
 *
 * @category services
 * @since 0.1.0
 */
export class Events extends Context.Service<Events, {
  /** Publishes an event; it is made only when somebody listens. */
  readonly publish: (event: () => Event) => Effect.Effect<void>
  /** Whether anybody listens now. */
  readonly isHeard: () => boolean
  /** Emits what happens from now on, for any number of subscribers. */
  readonly stream: Stream.Stream<Event>
}>()("breakwater/Events") {}

/**
 * Something that happened.
 *
 * @category models
 * @since 0.1.0
 */
export type Event = AttemptEnded | CallEnded

/**
 * An attempt has ended: answered, failed or interrupted.
 *
 * @category models
 * @since 0.1.0
 */
export interface AttemptEnded {
  readonly _tag: "AttemptEnded"
  /** Number of the call, from 1, counted by its router. */
  readonly call: number
  /** Milliseconds since the epoch. */
  readonly at: number
  readonly attempt: Attempt
}

/**
 * A call has ended, with its decision record; one that was refused before it began has an empty one.
 *
 * @category models
 * @since 0.1.0
 */
export interface CallEnded {
  readonly _tag: "CallEnded"
  readonly call: number
  /** Milliseconds since the epoch. */
  readonly at: number
  readonly outcome: "success" | "failure" | "interrupted"
  /** Target that answered, or that the error is about. */
  readonly target: string | undefined
  readonly tenant: string | undefined
  readonly errorClass: ErrorClass | undefined
  readonly reason: Reason | undefined
  readonly attempts: ReadonlyArray<Attempt>
  readonly totalMs: number
  readonly waitedMs: number
  /** US dollars, as far as they are known. */
  readonly cost: number | undefined
  /** Whether the provider may have billed more than that. */
  readonly costAtLeast: boolean
}

/**
 * Provides `Events`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Events> = Layer.effect(
  Events,
  Effect.map(Effect.acquireRelease(PubSub.sliding<Event>(1024), PubSub.shutdown), (pubsub) => {
    let listeners = 0
    const subscribed = Effect.acquireRelease(Effect.sync(() => listeners++), () => Effect.sync(() => listeners--))
    return Events.of({
      isHeard: () => listeners > 0,
      publish: (event) => Step.make(() => listeners === 0 ? Exit.void : Effect.asVoid(PubSub.publish(pubsub, event()))),
      stream: Stream.unwrap(
        Effect.map(Effect.andThen(subscribed, PubSub.subscribe(pubsub)), (_) => Stream.fromSubscription(_))
      )
    })
  })
)
