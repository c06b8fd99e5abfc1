/**
 * Calls over real HTTP on loopback: a service above test servers, and what a call brings, whole or streamed.
 */
import { NodeHttpClient } from "@effect/platform-node"
import { LLMError, LLMService, Resilience, Retry, Target } from "breakwater"
import type * as ProviderServer from "breakwater/testing/ProviderServer"
import { Context, Effect, Layer, Redacted, References, Schema, Stream } from "effect"

export type Server = ProviderServer.ProviderServer["Service"]

/** The secret of every target, which nothing that can be read may hold. */
export const canary = "sk-canary-0123456789abcdef"

export const kinds = ["complete", "stream"] as const

/** A target at a server. */
export const at = (server: Server, options: Target.Options): Target.Target =>
  Target.make({ key: { id: "k", value: Redacted.make(canary) }, baseUrl: server.url, ...options })

/** Backoffs that take no time. */
export const quick = Retry.standardWith({ retries: 2, base: "2 millis", max: "10 millis" })

/** The services of a program over real HTTP, with a log that says nothing. */
export const service = (options: Resilience.Options) =>
  Layer.build(Resilience.layer({ retry: quick, ...options }).pipe(Layer.provide(NodeHttpClient.layerUndici))).pipe(
    Effect.map(Context.add(References.MinimumLogLevel, "None"))
  )

/** What a call brought, in whichever way it was asked for. */
export interface Answer {
  readonly text: string
  readonly toolCalls: ReadonlyArray<string>
  readonly finishReason: string
  readonly target: string
  readonly model: string | undefined
  readonly usage: { readonly input: number | undefined; readonly output: number | undefined }
  readonly attempts: ReadonlyArray<LLMError.Attempt>
  /** All there is, as JSON. */
  readonly json: string
}

const decodeRecord = Schema.decodeUnknownEffect(
  Schema.Struct({ target: Schema.String, attempts: Schema.Array(LLMError.Attempt) })
)

export const stream = (request: LLMService.CompletionRequest) =>
  Stream.unwrap(Effect.map(LLMService.LLMService, (llm) => llm.stream(request)))

export const textOf = (parts: ReadonlyArray<LLMService.StreamPart>): string =>
  parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")

export const toolCallsOf = (
  parts: ReadonlyArray<LLMService.StreamPart | LLMService.ContentPart>
): ReadonlyArray<string> => parts.flatMap((part) => part.type === "tool-call" ? [part.name] : [])

/** Reads a stream that has ended well. */
export const answerOf = Effect.fnUntraced(function*(parts: ReadonlyArray<LLMService.StreamPart>) {
  const finish = parts.at(-1)
  if (finish?.type !== "finish") return yield* Effect.die(new Error("a stream ended well without a finish part"))
  const record = yield* Effect.orDie(decodeRecord(finish.metadata["breakwater"]))
  const head = parts.find((part) => part.type === "response-metadata")
  const answer: Answer = {
    ...record,
    text: textOf(parts),
    toolCalls: toolCallsOf(parts),
    finishReason: finish.reason,
    model: head?.modelId,
    usage: { input: finish.usage.inputTokens.total, output: finish.usage.outputTokens.total },
    json: JSON.stringify(parts)
  }
  return answer
})

export const ask = (
  kind: typeof kinds[number],
  request: LLMService.CompletionRequest
): Effect.Effect<Answer, LLMError.LLMError, LLMService.LLMService> =>
  kind === "stream"
    ? Effect.flatMap(Stream.runCollect(stream(request)), answerOf)
    : Effect.map(Effect.flatMap(LLMService.LLMService, (llm) => llm.complete(request)), (completion) => ({
      text: completion.text,
      toolCalls: toolCallsOf(completion.content),
      finishReason: completion.finishReason,
      target: completion.target,
      model: completion.model,
      usage: { input: completion.usage.inputTokens.total, output: completion.usage.outputTokens.total },
      attempts: completion.attempts,
      json: JSON.stringify(completion)
    }))
