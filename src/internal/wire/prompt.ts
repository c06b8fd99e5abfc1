/**
 * What the request encoders of all wire formats share: the prompt, tools and files of a request.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Base64 from "effect/encoding/Base64"
import * as Hash from "effect/Hash"
import type * as JsonSchema from "effect/JsonSchema"
import * as Result from "effect/Result"
import type { CompletionRequest } from "../../LLMService.ts"
import type { Target } from "../../Target.ts"

/** A request body before it is turned into text. */
export type Body = Record<string, unknown>

/**
 * A request with its prompt and tools decoded; `problems` collects what the wire format cannot express.
 *
 * Problems name fields and media types and never quote the prompt, because they end up in an error.
 */
export interface Draft {
  readonly messages: ReadonlyArray<Prompt.Message>
  readonly tools: ReadonlyArray<ToolDefinition>
  readonly problems: Array<string>
}

export interface ToolDefinition {
  readonly name: string
  readonly description: string | undefined
  readonly schema: JsonSchema.JsonSchema
  readonly strict: boolean | undefined
}

// Tools are immutable and a schema costs far more to derive than the request that carries it.
const toolSchemas = new WeakMap<Tool.Any, Result.Result<JsonSchema.JsonSchema, unknown>>()

const toolSchema = (tool: Tool.Any): Result.Result<JsonSchema.JsonSchema, unknown> => {
  const cached = toolSchemas.get(tool)
  if (cached !== undefined) return cached
  const schema = Result.try(() => Tool.getJsonSchema(tool))
  toolSchemas.set(tool, schema)
  return schema
}

export const draft = (request: CompletionRequest): Draft => {
  const problems: Array<string> = []
  const prompt = Result.try(() => Prompt.make(request.prompt))
  if (Result.isFailure(prompt)) problems.push("prompt holds messages or parts that are not valid")
  const tools: Array<ToolDefinition> = []
  for (const tool of request.tools ?? []) {
    if (Tool.isProviderDefined(tool)) {
      problems.push(`tool ${tool.name} is defined by a provider: send it through extra.tools`)
      continue
    }
    const schema = toolSchema(tool)
    if (Result.isFailure(schema)) {
      problems.push(`tool ${tool.name} has parameters without a JSON schema`)
      continue
    }
    tools.push({
      name: tool.name,
      description: Tool.getDescription(tool),
      schema: schema.success,
      strict: Tool.getStrictMode(tool)
    })
  }
  return { messages: Result.isSuccess(prompt) ? prompt.success.content : [], tools, problems }
}

/** Where a file's bytes are: in the request as base64, or at an address. */
export type FileSource =
  | { readonly _tag: "Base64"; readonly mediaType: string; readonly data: string }
  | { readonly _tag: "Url"; readonly url: string }

const dataUrl = /^data:([^;,]+)(?:;[^;,]+)*;base64,(.*)$/s

/** A wildcard media type is no media type to a provider; JPEG is what image decoders sniff past. */
const concrete = (mediaType: string): string => mediaType === "image/*" ? "image/jpeg" : mediaType

export const fileSource = (part: Prompt.FilePart): FileSource => {
  const mediaType = concrete(part.mediaType)
  if (part.data instanceof Uint8Array) return { _tag: "Base64", mediaType, data: Base64.encode(part.data) }
  const text = part.data instanceof URL ? part.data.href : part.data
  const embedded = dataUrl.exec(text)
  if (embedded !== null) {
    return { _tag: "Base64", mediaType: concrete(embedded[1] ?? mediaType), data: embedded[2] ?? "" }
  }
  return /^https?:\/\//i.test(text) ? { _tag: "Url", url: text } : { _tag: "Base64", mediaType, data: text }
}

export const fileUrl = (source: FileSource): string =>
  source._tag === "Url" ? source.url : `data:${source.mediaType};base64,${source.data}`

/** Serialises a tool's result or parameters; a value that JSON cannot hold is a problem of the request. */
export const json = (value: unknown, what: string, problems: Array<string>): string => {
  const text = Result.try(() => JSON.stringify(value ?? null))
  if (Result.isSuccess(text)) return text.success ?? "null"
  problems.push(`${what} is not JSON`)
  return "null"
}

/** The text a model reads as the result of a tool. */
export const toolResultText = (part: Prompt.ToolResultPart, problems: Array<string>): string =>
  part.modelOutput !== undefined
    ? Prompt.toolModelOutputToText(part.modelOutput)
    : typeof part.result === "string"
    ? part.result
    : json(part.result, `result of tool ${part.name}`, problems)

/** Tokens of a reply that may be asked for: the request's wish, capped by what the target can. */
export const maxTokens = (target: Target, request: CompletionRequest): number | undefined =>
  request.maxTokens === undefined
    ? undefined
    : target.maxOutputTokens === undefined
    ? request.maxTokens
    : Math.min(request.maxTokens, target.maxOutputTokens)

export const stops = (request: CompletionRequest): ReadonlyArray<string> | undefined =>
  request.stop === undefined ? undefined : typeof request.stop === "string" ? [request.stop] : request.stop

/**
 * Puts the target's standing fields and then the request's `extra` over the body.
 *
 * `stream` stays ours whatever they say, because it decides how the reply is read.
 */
export const overlay = (body: Body, target: Target, request: CompletionRequest, stream: boolean): Body => {
  const { stream: _theirs, ...whole }: Body = { ...body, ...target.parameters, ...request.extra }
  return stream ? { ...whole, stream } : whole
}

/** Whether the target's parameters or the request's `extra` set a field themselves. */
export const overridden = (target: Target, request: CompletionRequest, key: string): boolean =>
  Object.hasOwn(target.parameters, key) || (request.extra !== undefined && Object.hasOwn(request.extra, key))

/** A stable id of nine letters and digits, for providers that accept no other form of tool call id. */
export const shortId = (id: string): string =>
  /^[a-zA-Z0-9]{9}$/.test(id)
    ? id
    : ((Hash.string(id) >>> 0).toString(36) + (Hash.string(`${id}#`) >>> 0).toString(36)).padStart(9, "0").slice(-9)

/** What follows from a target alone, worked out once. */
export const once = <A>(make: (target: Target) => A): (target: Target) => A => {
  const known = new WeakMap<Target, A>()
  return (target) => {
    const before = known.get(target)
    if (before !== undefined) return before
    const made = make(target)
    known.set(target, made)
    return made
  }
}

/** A path appended to a base URL, whose query stays behind it. */
export const join = (base: string, path: string, query?: Readonly<Record<string, string>>): string => {
  const url = new URL(base)
  url.pathname = url.pathname.replace(/\/+$/, "") + path
  for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value)
  return url.href
}
