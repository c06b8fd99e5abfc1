/**
 * The service an application asks for answers of a language model.
 *
 * `complete` returns a whole answer, `stream` its parts as they arrive. Which provider answers, and what happens when
 * one does not, is the business of the Layer that is provided: `layerProvider` for a single target without policies,
 * `Router.layer` for many targets, `Resilience.layer` for everything wired. Swapping providers is swapping a Layer.
 *
 * Prompts and parts are those of `effect/ai`.
 *
 * **Gotchas**
 *
 * A stream succeeds only after a terminal event of the provider. An answer that was cut is a `TransientNetworkError`
 * with reason `stream_truncated`, never a short success.
 *
 * @since 0.1.0
 */
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as JsonSchema from "effect/JsonSchema"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { about } from "./internal/call/about.ts"
import { adapterOf } from "./internal/call/adapterOf.ts"
import * as Completions from "./internal/call/completion.ts"
import * as Requests from "./internal/call/request.ts"
import type { Attempt, ErrorClass, LLMError, Reason } from "./LLMError.ts"
import * as Provider from "./Provider.ts"
import type { Tags, Target } from "./Target.ts"
import * as Timeouts from "./Timeouts.ts"

/**
 * Service that answers completion requests.
 *
 * @category services
 * @since 0.1.0
 */
export class LLMService extends Context.Service<LLMService, {
  /** Returns the whole answer. */
  readonly complete: (request: CompletionRequest) => Effect.Effect<Completion, LLMError>
  /** Returns the parts of the answer as they arrive; the last one is a `finish` part. */
  readonly stream: (request: CompletionRequest) => Stream.Stream<StreamPart, LLMError>
}>()("breakwater/LLMService") {}

/**
 * What an application asks of a model. The model's name and standing parameters come from the target.
 *
 * @category models
 * @since 0.1.0
 */
export interface CompletionRequest {
  /** A text, messages, or an `effect/ai` prompt. */
  readonly prompt: Prompt.RawInput
  /** Tokens the reply may have. */
  readonly maxTokens?: number | undefined
  readonly temperature?: number | undefined
  readonly topP?: number | undefined
  /** Texts at which the model stops. */
  readonly stop?: string | ReadonlyArray<string> | undefined
  /** Tools the model may call. They are described to the model and never executed here. */
  readonly tools?: ReadonlyArray<Tool.Any> | undefined
  /** Whether, and which, tool has to be called. */
  readonly toolChoice?: "auto" | "none" | "required" | { readonly tool: string } | undefined
  /** What the reply has to look like. */
  readonly responseFormat?: ResponseFormat | undefined
  /** Fields passed through to the provider's request body as they are; they win over everything above. */
  readonly extra?: Readonly<Record<string, unknown>> | undefined
  /** How long the call may take over all attempts and waits. */
  readonly deadline?: Duration.Input | undefined
  /**
   * How urgent the call is where limits leave no capacity.
   *
   * @default "normal"
   */
  readonly priority?: "emergency" | "high" | "normal" | "low" | "background" | undefined
  /** Whom the call is for: limits are shared fairly among tenants, and a tenant may have limits of its own. */
  readonly tenant?: string | undefined
  /** Tags a target must have to serve the call, such as `{ region: "eu" }`; all of them. */
  readonly tags?: Tags | undefined
  /**
   * Whose calls should stay together, such as the id of a conversation: a router that balances keeps them on one target,
   * for its prompt cache, while that target can serve them.
   */
  readonly affinity?: string | undefined
  /**
   * Whether the call may be sent again when nobody knows whether it was executed; `false` for calls with effects on the
   * provider's side. Such a call is never hedged.
   *
   * @default true
   */
  readonly idempotent?: boolean | undefined
  /**
   * What a router does when a stream breaks after its first content: `fail`; `restart` with another attempt, after a
   * `restarted` part; `continue` where it was cut, on targets that declare `prefill`; or `buffer`, which hands nothing
   * over before the whole answer is there.
   *
   * @default the router's `streamPolicy`
   */
  readonly streamPolicy?: StreamPolicy | undefined
}

/**
 * What happens to a stream that breaks after its first content has been handed over.
 *
 * @category models
 * @since 0.1.0
 */
export type StreamPolicy = "fail" | "restart" | "continue" | "buffer"

/**
 * What a reply has to look like: free text, any JSON object, or JSON of a schema.
 *
 * @category models
 * @since 0.1.0
 */
export type ResponseFormat =
  | { readonly type: "text" }
  | { readonly type: "json_object" }
  | {
    readonly type: "json_schema"
    /** Name of the schema: letters, digits, `_` and `-`. */
    readonly name: string
    /** What the object is, for the model. */
    readonly description?: string | undefined
    readonly schema: JsonSchema.JsonSchema
    /**
     * Whether the provider must enforce the schema.
     *
     * @default true
     */
    readonly strict?: boolean | undefined
  }

/**
 * A whole answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Completion {
  /** All parts of the answer: text, reasoning, tool calls. */
  readonly content: ReadonlyArray<ContentPart>
  /** The text parts, joined. */
  readonly text: string
  readonly usage: Response.Usage
  readonly finishReason: Response.FinishReason
  /** Id of the target that answered. */
  readonly target: string
  readonly provider: string
  /** Model that answered, as the provider names it. */
  readonly model: string
  /** The provider's request id. */
  readonly requestId: string | undefined
  /** Every attempt of the call; the last one is the success. */
  readonly attempts: ReadonlyArray<Attempt>
  /** US dollars for all attempts, as far as targets have prices and providers reported usage. */
  readonly cost: number | undefined
  /** Whether providers may have billed more: an attempt failed or was cancelled after it may have been executed. */
  readonly costAtLeast: boolean
  readonly timings: Timings
}

/**
 * Where the time of a call went, in whole milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Timings {
  /** From the call to the answer. */
  readonly totalMs: number
  /** Spent waiting between attempts. */
  readonly waitedMs: number
  /** The answering attempt alone. */
  readonly attemptMs: number
}

/**
 * A part of a whole answer.
 *
 * @category models
 * @since 0.1.0
 */
export type ContentPart =
  | Response.TextPart
  | Response.ReasoningPart
  | Response.ToolCallPart<string, unknown>
  | Response.FilePart
  | Response.DocumentSourcePart
  | Response.UrlSourcePart

/**
 * A part of a streamed answer, as a router hands it over.
 *
 * @category models
 * @since 0.1.0
 */
export type StreamPart = ProviderPart | RestartedPart

/**
 * A part of a streamed answer of one provider.
 *
 * **Details**
 *
 * A `response-metadata` part comes first, as soon as the provider's response headers are there; a router's
 * `metadata.breakwater` on it names the target, the number of attempts so far and what they waited. A `finish` part comes
 * last; its `metadata.breakwater` holds the target, the attempts and the cost, like a `Completion` does.
 *
 * @category models
 * @since 0.1.0
 */
export type ProviderPart =
  | Response.ResponseMetadataPart
  | Response.TextStartPart
  | Response.TextDeltaPart
  | Response.TextEndPart
  | Response.ReasoningStartPart
  | Response.ReasoningDeltaPart
  | Response.ReasoningEndPart
  | Response.ToolParamsStartPart
  | Response.ToolParamsDeltaPart
  | Response.ToolParamsEndPart
  | Response.ToolCallPart<string, unknown>
  | Response.FilePart
  | Response.DocumentSourcePart
  | Response.UrlSourcePart
  | Response.FinishPart

/**
 * Says that the answer begins anew: what was handed over before it belongs to an attempt that broke, and is void.
 *
 * **Details**
 *
 * Only a stream with the policy `restart` has such parts. All blocks that were open are over.
 *
 * @category models
 * @since 0.1.0
 */
export interface RestartedPart {
  readonly type: "restarted"
  /** Target whose answer broke. */
  readonly from: string
  /** Target whose answer follows. */
  readonly target: string
  /** Why it broke. */
  readonly errorClass: ErrorClass
  readonly reason: Reason
  /** Characters of text that are void. */
  readonly discarded: number
}

/**
 * Provides an `LLMService` that sends every call to one target, once, without any policy.
 *
 * **When to use**
 *
 * Use for a single provider where failures are the caller's business, or below a policy of your own.
 *
 * **Details**
 *
 * A request's `deadline` is honoured; no other limit of time applies.
 *
 * **Gotchas**
 *
 * Dies when no adapter is registered for the target's provider, or when it has no address: that is a mistake in the
 * program.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerProvider = (target: Target): Layer.Layer<LLMService, never, Provider.Provider> =>
  Layer.effect(
    LLMService,
    Effect.map(Provider.Provider, (provider) => {
      const adapter = adapterOf(provider, target, `target "${target.id}"`)
      return LLMService.of({
        complete: (request) =>
          Effect.flatMap(
            Effect.zip(Effect.fromResult(Requests.prepare(request)), started(target)),
            ([prepared, record]) => {
              const reply = adapter.complete(target, prepared)
              return Effect.map(
                prepared.deadline === undefined ? reply : Timeouts.total(reply, prepared.deadline, about(target)),
                (reply) => Completions.make(target, reply, ...record(reply.usage))
              )
            }
          ),
        stream: (request) =>
          Stream.unwrap(
            Effect.map(
              Effect.zip(Effect.fromResult(Requests.prepare(request)), started(target)),
              ([prepared, record]) => {
                const parts = adapter.stream(target, prepared)
                return Stream.map(
                  prepared.deadline === undefined
                    ? parts
                    : Timeouts.stream(parts, {
                      total: prepared.deadline,
                      isContent: Timeouts.isContentPart,
                      context: about(target)
                    }),
                  (part) =>
                    part.type === "finish" ? Completions.annotateFinish(part, target, ...record(part.usage)) : part
                )
              }
            )
          )
      })
    })
  )

/** Starts the clock of a single attempt; the function returned writes its record. */
const started = (
  target: Target
): Effect.Effect<(usage: Response.Usage) => readonly [ReadonlyArray<Attempt>, Timings]> =>
  Clock.clockWith((clock) => {
    const startedAt = clock.currentTimeMillisUnsafe()
    return Effect.succeed((usage) => {
      const cost = Completions.cost(target, { _tag: "Reported", usage })
      const durationMs = clock.currentTimeMillisUnsafe() - startedAt
      const attempt: Attempt = {
        target: target.id,
        provider: target.provider,
        model: target.model,
        chosen: "first",
        startedMs: 0,
        waitedMs: 0,
        durationMs,
        outcome: "success",
        maybeBilled: true,
        ...(cost === undefined ? undefined : { cost }),
        skipped: []
      }
      return [[attempt], { totalMs: durationMs, waitedMs: 0, attemptMs: durationMs }]
    })
  })
