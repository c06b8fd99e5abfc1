/**
 * Parts of an answer, as all wire formats build them.
 *
 * @internal
 */
import * as Response from "effect/ai/Response"
import type { Reason } from "../../LLMError.ts"
import type { ContentPart, ProviderPart } from "../../LLMService.ts"
import * as Json from "./json.ts"

/** Why a reply that arrived cannot be used. */
export type Failure =
  /** The provider reported an error inside a reply that said 200. */
  | { readonly _tag: "Reported"; readonly event: string | undefined; readonly body: string }
  /** The provider's side failed without an error object. */
  | { readonly _tag: "Unusable"; readonly reason: Reason; readonly detail: string }
  /** The reply ended before the format's terminal event. */
  | { readonly _tag: "Truncated" }

export const unusable = (detail: string, reason: Reason = "invalid_response"): Failure => ({
  _tag: "Unusable",
  reason,
  detail
})

/** A reply without what only the HTTP response knows. */
export interface WireReply {
  readonly content: ReadonlyArray<ContentPart>
  readonly usage: Response.Usage
  readonly finishReason: Response.FinishReason
  readonly model: string
}

type Metadata = Response.ProviderMetadata

export const text = (value: string, metadata?: Metadata): Response.TextPart =>
  Response.makePart("text", { text: value, metadata })

export const reasoning = (value: string, metadata?: Metadata): Response.ReasoningPart =>
  Response.makePart("reasoning", { text: value, metadata })

export const toolCall = (id: string, name: string, params: unknown): Response.ToolCallPart<string, unknown> =>
  Response.toolCallPart({ id, name, params, providerExecuted: false })

export const textStart = (id: string, metadata?: Metadata): ProviderPart =>
  Response.makePart("text-start", { id, metadata })

export const textDelta = (id: string, delta: string): ProviderPart => Response.makePart("text-delta", { id, delta })

export const textEnd = (id: string): ProviderPart => Response.makePart("text-end", { id })

export const reasoningStart = (id: string, metadata?: Metadata): ProviderPart =>
  Response.makePart("reasoning-start", { id, metadata })

export const reasoningDelta = (id: string, delta: string): ProviderPart =>
  Response.makePart("reasoning-delta", { id, delta })

export const reasoningEnd = (id: string, metadata?: Metadata): ProviderPart =>
  Response.makePart("reasoning-end", { id, metadata })

export const toolStart = (id: string, name: string): ProviderPart =>
  Response.makePart("tool-params-start", { id, name, providerExecuted: false })

export const toolDelta = (id: string, delta: string): ProviderPart =>
  Response.makePart("tool-params-delta", { id, delta })

export const toolEnd = (id: string): ProviderPart => Response.makePart("tool-params-end", { id })

export const metadata = (model: string, requestId: string | undefined): ProviderPart =>
  Response.makePart("response-metadata", {
    id: requestId,
    modelId: model,
    timestamp: undefined,
    metadata: { breakwater: requestId === undefined ? { model } : { model, requestId } }
  })

export const finish = (reason: Response.FinishReason, usage: Response.Usage, model: string): ProviderPart =>
  Response.makePart("finish", { reason, usage, response: undefined, metadata: { breakwater: { model } } })

/** Counts of tokens as a provider reported them. */
export interface Tokens {
  readonly input: number | undefined
  readonly cacheRead: number | undefined
  readonly cacheWrite: number | undefined
  readonly uncached: number | undefined
  readonly output: number | undefined
  readonly reasoning: number | undefined
}

export const usage = (tokens: Tokens): Response.Usage =>
  new Response.Usage({
    inputTokens: {
      total: tokens.input,
      uncached: tokens.uncached,
      cacheRead: tokens.cacheRead,
      cacheWrite: tokens.cacheWrite
    },
    outputTokens: {
      total: tokens.output,
      reasoning: tokens.reasoning,
      text: tokens.output === undefined || tokens.reasoning === undefined
        ? undefined
        : Math.max(0, tokens.output - tokens.reasoning)
    }
  })

/**
 * Parameters of a tool call from its accumulated arguments; `undefined` when they are not JSON.
 *
 * No arguments are the empty object, which is also what models mean by `null`.
 */
export const toolParams = (args: string): unknown => args.trim() === "" ? {} : Json.parse(args) ?? emptyForNull(args)

const emptyForNull = (args: string): unknown => args.trim() === "null" ? {} : undefined

/** Whether an answer stopped so early that an incomplete tool call is the expected outcome, not a fault. */
export const isCut = (reason: Response.FinishReason): boolean => reason === "length" || reason === "content-filter"

/** The parts a stream would have had, for providers that answer a streaming request with a whole reply. */
export const ofReply = (reply: WireReply): ReadonlyArray<ProviderPart> => {
  const parts: Array<ProviderPart> = []
  reply.content.forEach((part, index) => {
    const id = String(index)
    switch (part.type) {
      case "text":
        parts.push(textStart(id, part.metadata), textDelta(id, part.text), textEnd(id))
        return
      case "reasoning":
        parts.push(reasoningStart(id), reasoningDelta(id, part.text), reasoningEnd(id, part.metadata))
        return
      case "tool-call":
        parts.push(
          toolStart(part.id, part.name),
          toolDelta(part.id, JSON.stringify(part.params)),
          toolEnd(part.id),
          part
        )
        return
      case "file":
      case "source":
        parts.push(part)
        return
    }
  })
  parts.push(finish(reply.finishReason, reply.usage, reply.model))
  return parts
}
