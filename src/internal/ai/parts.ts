/**
 * Parts of our answers as encoded parts of effect/ai, and back.
 *
 * @internal
 */
import * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import * as Base64 from "effect/encoding/Base64"
import type { Completion, ContentPart, ProviderPart, RestartedPart } from "../../LLMService.ts"

// ---------------------------------------------------------------------------------------------------------------------
// ours to theirs
// ---------------------------------------------------------------------------------------------------------------------

const encodeFile = (part: Response.FilePart): Response.FilePartEncoded => ({ ...part, data: Base64.encode(part.data) })

const encodeSource = (
  part: Response.DocumentSourcePart | Response.UrlSourcePart
): Response.DocumentSourcePartEncoded | Response.UrlSourcePartEncoded =>
  part.sourceType === "url" ? { ...part, url: part.url.href } : part

// All other parts are their own encoding.
const encodeContent = (part: ContentPart): Response.PartEncoded =>
  part.type === "file" ? encodeFile(part) : part.type === "source" ? encodeSource(part) : part

/**
 * A whole answer as parts.
 *
 * The provider's request id goes into the metadata only: as the id of a response it would be remembered, and sent to
 * whoever answers next.
 */
export const ofCompletion = (completion: Completion): Array<Response.PartEncoded> => {
  const { attempts, content, cost, costAtLeast, finishReason, model, requestId, target, timings, usage } = completion
  const id = requestId === undefined ? undefined : { requestId }
  return [
    { type: "response-metadata", modelId: model, metadata: { breakwater: { model, target, ...id } } },
    ...content.map(encodeContent),
    {
      type: "finish",
      reason: finishReason,
      usage,
      metadata: {
        breakwater: {
          model,
          target,
          ...id,
          attempts: attempts.map((attempt) => ({ ...attempt, skipped: attempt.skipped.map((_) => ({ ..._ })) })),
          timings: { ...timings },
          costAtLeast,
          ...(cost === undefined ? undefined : { cost })
        }
      }
    }
  ]
}

/** A part of a stream. */
export const encode = (part: ProviderPart): Response.StreamPartEncoded => {
  switch (part.type) {
    case "response-metadata":
      return { type: "response-metadata", modelId: part.modelId, metadata: part.metadata }
    case "finish":
      return { type: "finish", reason: part.reason, usage: part.usage, metadata: part.metadata }
    case "file":
      return encodeFile(part)
    case "source":
      return encodeSource(part)
    default:
      return part
  }
}

/** What is told of an answer in the span of its call. */
export interface Outcome extends Pick<Completion, "finishReason" | "requestId" | "usage"> {
  readonly provider: string | undefined
  readonly model: string | undefined
}

/** What a stream says of itself at its end. */
export const outcomeOf = ({ metadata, reason, usage }: Response.FinishPart): Outcome => {
  const target = known(metadata, "target")
  return {
    provider: target?.split("/", 1)[0],
    model: known(metadata, "model"),
    requestId: known(metadata, "requestId"),
    finishReason: reason,
    usage
  }
}

/** A field that our own adapters and routers write into the metadata of a part. */
const known = (metadata: Response.ProviderMetadata, field: string): string | undefined => {
  const ours: unknown = metadata["breakwater"]
  const value = isRecord(ours) ? ours[field] : undefined
  return typeof value === "string" ? value : undefined
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/** What says that all parts before it are void. */
export const restart = ({ type: _, ...part }: RestartedPart): Response.StreamPartEncoded => ({
  type: "response-metadata",
  metadata: { breakwater: { restarted: part } }
})

// ---------------------------------------------------------------------------------------------------------------------
// theirs to ours
// ---------------------------------------------------------------------------------------------------------------------

/** Tools nobody has declared here. */
export type Tools = Record<string, Tool.Any>

/** Any part of a model whose tool calls nobody has looked at. */
export type Received = Response.StreamPart<Tools, "deferred"> | Response.Part<Tools, "deferred">

/** The provider's id of an answer: of the request when it is a service of ours, otherwise of the response. */
export const requestIdOf = ({ id, metadata }: Response.ResponseMetadataPart): string | undefined =>
  known(metadata, "requestId") ?? id

/** The parts of a whole answer that are content of ours; what a provider did with tools of its own is not. */
export const content = (parts: ReadonlyArray<Received>): ReadonlyArray<ContentPart> =>
  parts.flatMap((part): ReadonlyArray<ContentPart> => {
    switch (part.type) {
      case "text":
      case "reasoning":
      case "file":
      case "source":
        return [part]
      case "tool-call":
        return part.providerExecuted ? [] : [part]
      default:
        return []
    }
  })

const unknownTokens = {
  inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: undefined, text: undefined, reasoning: undefined }
}

export const unknownUsage = new Response.Usage(unknownTokens)

/** Keeps of a stream what is a part of ours. */
export const makeReceiver = (): (part: Exclude<Received, Response.ErrorPart>) => ProviderPart | undefined => {
  const executed = new Set<string>()
  return (part) => {
    switch (part.type) {
      case "response-metadata": {
        const id = requestIdOf(part)
        return id === undefined || part.metadata["breakwater"] !== undefined
          ? part
          : { ...part, metadata: { ...part.metadata, breakwater: { requestId: id } } }
      }
      case "tool-params-start":
        if (part.providerExecuted) executed.add(part.id)
        return part.providerExecuted ? undefined : part
      case "tool-params-delta":
      case "tool-params-end":
        return executed.has(part.id) ? undefined : part
      case "tool-call":
        return part.providerExecuted ? undefined : part
      case "text":
      case "reasoning":
      case "tool-result":
      case "tool-approval-request":
        return undefined
      default:
        return part
    }
  }
}
