/**
 * Adapter for the chat completions format of OpenAI and of the many providers that copied it.
 *
 * What differs between them is data: a `Preset` names the address and the deviations, and `presets` holds the known
 * ones. Any other server of this format is reached with the `generic` preset and a target that has a `baseUrl`.
 *
 * **Details**
 *
 * A request body is built from the request, then the target's `parameters`, then the request's `extra`: later ones
 * win, field by field. The field `stream` is never theirs, because it decides how the reply is read. Only the first
 * choice of a reply is read.
 *
 * `options: { openai: { fields: { name: "bob" } } }` on a message or part of a prompt adds fields to it as they are.
 *
 * A refusal of the model is a text part with `metadata.breakwater.refusal`, and its finish reason is
 * `content-filter`. Reasoning in a prompt is sent back only together with the tool calls it led to, and only to
 * providers that take it.
 *
 * **Gotchas**
 *
 * A stream is complete when a finish reason has arrived; `[DONE]` without one is a cut stream. Arguments of a tool
 * call that are not JSON fail the call with a `ServerError`, except when the answer itself was cut by its token
 * limit: then the tool call is left out and the finish reason says `length`.
 *
 * **Example** (Pointing the format at a server of your own)
 *
 * ```ts import.meta.vitest
 * import { OpenAiCompatible, Target } from "breakwater"
 *
 * const target = Target.make({ provider: "vllm", model: "qwen3-32b", baseUrl: "http://10.0.0.7:8000/v1" })
 *
 * OpenAiCompatible.requestBody(OpenAiCompatible.generic, target, { prompt: "Hello", maxTokens: 20 })
 * // => { model: "qwen3-32b", messages: [{ role: "user", content: "Hello" }], max_tokens: 20 }
 * ```
 *
 * @since 0.1.0
 */
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import type * as EventStream from "effect/encoding/Sse"
import * as HttpClient from "effect/http/HttpClient"
import * as Result from "effect/Result"
import { adapter, type Format } from "../internal/wire/http.ts"
import * as Json from "../internal/wire/json.ts"
import * as Parts from "../internal/wire/parts.ts"
import * as Wire from "../internal/wire/prompt.ts"
import type { Machine, Step } from "../internal/wire/sse.ts"
import type { CompletionRequest, ContentPart, ProviderPart } from "../LLMService.ts"
import type { Adapter } from "../Provider.ts"
import type { Target } from "../Target.ts"

/**
 * How a provider deviates from the format of OpenAI.
 *
 * @category models
 * @since 0.1.0
 */
export interface Preset {
  /** Address used when the target has none, up to and including the version: `https://api.groq.com/openai/v1`. */
  readonly baseUrl: string | undefined
  /** Field that limits the reply. */
  readonly maxTokensField: "max_tokens" | "max_completion_tokens"
  /** Whether usage has to be asked for in a streaming request. Never sent to a provider that rejects the field. */
  readonly streamUsage: boolean
  /** Whether the content of a message may be a list of parts, or has to be a text where it holds nothing else. */
  readonly content: "parts" | "text"
  /** Whether a JSON schema can be enforced; where not, a schema that is not `strict` is asked for in words. */
  readonly jsonSchema: boolean
  /** What `toolChoice: "required"` is called. */
  readonly toolRequired: "required" | "any"
  /** Field in which reasoning goes back to the provider together with its tool calls. */
  readonly reasoningField: "reasoning_content" | "reasoning" | undefined
  /** Which ids of tool calls are accepted; ids from elsewhere are mapped to the accepted form. */
  readonly toolCallIds: "any" | "nine"
  /** Response headers that may hold the request id, the best one first. */
  readonly requestIds: ReadonlyArray<string>
}

/**
 * The preset of a server nothing is known about, other than that it speaks the format.
 *
 * @category presets
 * @since 0.1.0
 */
export const generic: Preset = {
  baseUrl: undefined,
  maxTokensField: "max_tokens",
  streamUsage: true,
  content: "parts",
  jsonSchema: true,
  toolRequired: "required",
  reasoningField: undefined,
  toolCallIds: "any",
  requestIds: ["x-request-id", "request-id", "cf-ray"]
}

/**
 * The presets of the known providers.
 *
 * @category presets
 * @since 0.1.0
 */
export const presets = {
  openai: { ...generic, baseUrl: "https://api.openai.com/v1", maxTokensField: "max_completion_tokens" },
  groq: { ...generic, baseUrl: "https://api.groq.com/openai/v1" },
  mistral: {
    ...generic,
    baseUrl: "https://api.mistral.ai/v1",
    streamUsage: false,
    toolRequired: "any",
    toolCallIds: "nine",
    requestIds: ["mistral-correlation-id", "x-kong-request-id", "x-request-id", "cf-ray"]
  },
  deepseek: {
    ...generic,
    baseUrl: "https://api.deepseek.com",
    content: "text",
    jsonSchema: false,
    reasoningField: "reasoning_content",
    requestIds: ["x-ds-trace-id", "x-request-id"]
  },
  xai: { ...generic, baseUrl: "https://api.x.ai/v1" },
  moonshot: { ...generic, baseUrl: "https://api.moonshot.ai/v1", reasoningField: "reasoning_content" },
  openrouter: { ...generic, baseUrl: "https://openrouter.ai/api/v1", reasoningField: "reasoning" },
  ollama: { ...generic, baseUrl: "http://127.0.0.1:11434/v1" }
} as const satisfies Record<string, Preset>

/**
 * Creates the adapter of a preset over the `HttpClient` of the context.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (preset: Preset): Effect.Effect<Adapter, never, HttpClient.HttpClient> =>
  Effect.map(HttpClient.HttpClient, (client) => fromClient(client, preset))

/**
 * Creates the adapter of a preset over a given HTTP client.
 *
 * **Gotchas**
 *
 * Give it a bare client: one with its own retries or limits would stack them under the policies of this library.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromClient = (client: HttpClient.HttpClient, preset: Preset): Adapter => adapter(client, format(preset))

/**
 * Returns the body that a request becomes, for tests and for looking at what is sent.
 *
 * @category accessors
 * @since 0.1.0
 */
export const requestBody = (
  preset: Preset,
  target: Target,
  request: CompletionRequest,
  options?: { readonly stream?: boolean | undefined }
): Readonly<Record<string, unknown>> => encode(preset, target, request, options?.stream ?? false).body

const format = (preset: Preset): Format<State> => ({
  url: Wire.once((target) => {
    const base = target.baseUrl ?? preset.baseUrl
    return base === undefined ? undefined : Wire.join(base, "/chat/completions")
  }),
  request: (target, request, stream) => ({ headers: {}, ...encode(preset, target, request, stream) }),
  authorize: (key) => ["authorization", `Bearer ${key}`],
  reply,
  machine,
  requestIds: preset.requestIds
})

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

/** @internal */
export const encode = (
  preset: Preset,
  target: Target,
  request: CompletionRequest,
  stream: boolean
): { readonly body: Wire.Body; readonly problems: ReadonlyArray<string> } => {
  const draft = Wire.draft(request)
  const { problems } = draft
  const body: Wire.Body = { model: target.model, messages: messages(preset, draft, request) }
  const limit = Wire.maxTokens(target, request)
  const limited = Wire.overridden(target, request, "max_tokens") ||
    Wire.overridden(target, request, "max_completion_tokens")
  if (limit !== undefined && !limited) body[preset.maxTokensField] = limit
  if (request.temperature !== undefined) body["temperature"] = request.temperature
  if (request.topP !== undefined) body["top_p"] = request.topP
  if (request.stop !== undefined) body["stop"] = request.stop
  if (draft.tools.length > 0) {
    body["tools"] = draft.tools.map((tool) => ({
      type: "function",
      function: {
        name: tool.name,
        ...(tool.description === undefined ? {} : { description: tool.description }),
        parameters: tool.schema,
        ...(tool.strict === undefined ? {} : { strict: tool.strict })
      }
    }))
    // A choice without tools is an error to most providers.
    if (request.toolChoice !== undefined) body["tool_choice"] = toolChoice(preset, request.toolChoice)
  }
  const shape = responseFormat(preset, request)
  if (shape !== undefined) body["response_format"] = shape
  if (stream && preset.streamUsage) body["stream_options"] = { include_usage: true }
  return { body: Wire.overlay(body, target, request, stream), problems }
}

const toolChoice = (preset: Preset, choice: NonNullable<CompletionRequest["toolChoice"]>): unknown =>
  typeof choice === "object"
    ? { type: "function", function: { name: choice.tool } }
    : choice === "required"
    ? preset.toolRequired
    : choice

const isAskedInWords = (preset: Preset, request: CompletionRequest): boolean =>
  request.responseFormat?.type === "json_schema" && request.responseFormat.strict === false && !preset.jsonSchema

const responseFormat = (preset: Preset, request: CompletionRequest): unknown => {
  const wanted = request.responseFormat
  if (wanted === undefined || wanted.type === "text") return undefined
  if (wanted.type === "json_object" || isAskedInWords(preset, request)) return { type: "json_object" }
  return {
    type: "json_schema",
    json_schema: {
      name: wanted.name,
      ...(wanted.description === undefined ? {} : { description: wanted.description }),
      strict: wanted.strict ?? true,
      schema: wanted.schema
    }
  }
}

const messages = (preset: Preset, draft: Wire.Draft, request: CompletionRequest): ReadonlyArray<unknown> => {
  const out: Array<unknown> = []
  if (isAskedInWords(preset, request) && request.responseFormat?.type === "json_schema") {
    const schema = Wire.json(request.responseFormat.schema, "responseFormat.schema", draft.problems)
    out.push({
      role: "system",
      content: `Answer with one JSON object of this JSON schema and nothing else:\n${schema}`
    })
  }
  for (const message of draft.messages) {
    switch (message.role) {
      case "system":
        out.push({ ...fieldsOf(message.options), role: "system", content: message.content })
        break
      case "user":
        out.push({
          ...fieldsOf(message.options),
          role: "user",
          content: userContent(preset, message.content, draft.problems)
        })
        break
      case "assistant": {
        const assistant = assistantMessage(preset, message.content, draft.problems)
        if (assistant !== undefined) out.push({ ...fieldsOf(message.options), ...assistant })
        break
      }
      case "tool":
        for (const part of message.content) {
          if (part.type !== "tool-result") continue
          out.push({
            ...fieldsOf(message.options),
            role: "tool",
            tool_call_id: toolCallId(preset, part.id),
            content: Wire.toolResultText(part, draft.problems)
          })
        }
        break
    }
  }
  return out
}

/** Fields that go to the provider as they are, beside what the format says of a message or part. */
const fieldsOf = (options: Prompt.ProviderOptions): Readonly<Record<string, unknown>> | undefined => {
  const fields = Json.field(options["openai"], "fields")
  return Json.isObject(fields) ? fields : undefined
}

const toolCallId = (preset: Preset, id: string): string => preset.toolCallIds === "nine" ? Wire.shortId(id) : id

const userContent = (
  preset: Preset,
  parts: ReadonlyArray<Prompt.UserMessagePart>,
  problems: Array<string>
): unknown => {
  const texts = parts.flatMap((part) => part.type === "text" ? [part.text] : [])
  const isText = preset.content === "text" ||
    (texts.length <= 1 && parts.every((part) => fieldsOf(part.options) === undefined))
  if (texts.length === parts.length && isText) return texts.join("\n\n")
  return parts.map((part) => {
    const block = part.type === "text" ? { type: "text", text: part.text } : filePart(part, problems)
    return block === undefined ? undefined : { ...fieldsOf(part.options), ...block }
  })
}

const filePart = (part: Prompt.FilePart, problems: Array<string>): Wire.Body | undefined => {
  const source = Wire.fileSource(part)
  if (part.mediaType.startsWith("image/")) {
    const detail = Json.text(Json.field(part.options["openai"], "imageDetail"))
    const image = { url: Wire.fileUrl(source), ...(detail === undefined ? {} : { detail }) }
    return { type: "image_url", image_url: image }
  }
  if (source._tag === "Base64") {
    switch (part.mediaType) {
      case "application/pdf":
        return {
          type: "file",
          file: { filename: part.fileName ?? "document.pdf", file_data: Wire.fileUrl(source) }
        }
      case "audio/wav":
        return { type: "input_audio", input_audio: { data: source.data, format: "wav" } }
      case "audio/mp3":
      case "audio/mpeg":
        return { type: "input_audio", input_audio: { data: source.data, format: "mp3" } }
    }
  }
  problems.push(`a file of type ${part.mediaType} cannot be sent ${source._tag === "Url" ? "as an address" : "at all"}`)
  return undefined
}

const assistantMessage = (
  preset: Preset,
  parts: ReadonlyArray<Prompt.AssistantMessagePart>,
  problems: Array<string>
): Wire.Body | undefined => {
  let text = ""
  let reasoning = ""
  const calls: Array<unknown> = []
  for (const part of parts) {
    if (part.type === "text") text += part.text
    else if (part.type === "reasoning") reasoning += part.text
    else if (part.type === "tool-call" && !part.providerExecuted) {
      calls.push({
        id: toolCallId(preset, part.id),
        type: "function",
        function: { name: part.name, arguments: Wire.json(part.params ?? {}, `parameters of ${part.name}`, problems) }
      })
    }
  }
  if (calls.length === 0) return text === "" ? undefined : { role: "assistant", content: text }
  return {
    role: "assistant",
    content: text === "" ? null : text,
    ...(preset.reasoningField === undefined || reasoning === "" ? {} : { [preset.reasoningField]: reasoning }),
    tool_calls: calls
  }
}

// -----------------------------------------------------------------------------
// replies
// -----------------------------------------------------------------------------

const finishReason = (reason: string): Response.FinishReason => {
  switch (reason) {
    case "stop":
    case "eos":
      return "stop"
    case "length":
    case "model_length":
      return "length"
    case "tool_calls":
    case "function_call":
      return "tool-calls"
    case "content_filter":
      return "content-filter"
    default:
      return "other"
  }
}

/** A finish reason by which a provider says that it gave up. */
const gaveUp = (reason: string): Parts.Failure | undefined => {
  switch (reason) {
    case "insufficient_system_resource":
      return Parts.unusable("the provider ran out of resources while it answered", "capacity")
    case "error":
      return Parts.unusable("the provider failed while it answered", "internal_error")
    default:
      return undefined
  }
}

/** Providers agree on where an answer is and not on where an error is. */
const isError = (body: unknown): boolean => {
  const error = Json.field(body, "error")
  if (error !== undefined && error !== null && error !== false && error !== "") return true
  if (Json.field(Json.field(body, "x_groq"), "error") !== undefined) return true
  return Array.isArray(body)
    ? body.some(isError)
    : Json.field(body, "object") === "error" ||
      (Json.field(body, "choices") === undefined &&
        (Json.field(body, "message") !== undefined || Json.field(body, "detail") !== undefined))
}

/**
 * Usage in any of the shapes seen: cached tokens by four names, and reasoning inside or beside the completion, which
 * only the stated total tells apart.
 */
const usage = (raw: unknown): Response.Usage => {
  const input = Json.count(Json.field(raw, "prompt_tokens"))
  const completion = Json.count(Json.field(raw, "completion_tokens"))
  const total = Json.count(Json.field(raw, "total_tokens"))
  const reasoning = Json.count(Json.field(Json.field(raw, "completion_tokens_details"), "reasoning_tokens"))
  const cacheRead = Json.count(Json.field(Json.field(raw, "prompt_tokens_details"), "cached_tokens")) ??
    Json.count(Json.field(raw, "prompt_cache_hit_tokens")) ?? Json.count(Json.field(raw, "cached_tokens"))
  const beside = input !== undefined && completion !== undefined && reasoning !== undefined && reasoning > 0 &&
    total === input + completion + reasoning
  return Parts.usage({
    input,
    cacheRead,
    cacheWrite: undefined,
    uncached: input === undefined ? undefined : Math.max(0, input - (cacheRead ?? 0)),
    output: beside ? completion + reasoning : completion,
    reasoning
  })
}

const rawUsage = (body: unknown, choice: unknown): unknown => {
  for (const raw of [Json.field(body, "usage"), Json.field(Json.field(body, "x_groq"), "usage")]) {
    if (Json.isObject(raw)) return raw
  }
  const inner = Json.field(choice, "usage")
  return Json.isObject(inner) ? inner : undefined
}

/** Pieces of a message or delta, in the order in which they are meant to be read. */
interface Content {
  readonly reasoning: string
  readonly text: string
}

const content = (message: unknown): Content => {
  let reasoning = Json.text(Json.field(message, "reasoning_content")) ?? Json.text(Json.field(message, "reasoning")) ??
    ""
  const raw = Json.field(message, "content")
  if (!Array.isArray(raw)) return { reasoning, text: Json.string(raw) ?? "" }
  let text = ""
  for (const part of raw) {
    const thinking = Json.field(part, "thinking")
    if (thinking === undefined) text += Json.string(Json.field(part, "text")) ?? ""
    else if (typeof thinking === "string") reasoning += thinking
    else for (const piece of Json.array(thinking)) reasoning += Json.string(Json.field(piece, "text")) ?? ""
  }
  return { reasoning, text }
}

/** Arguments as text: providers send a JSON text, or nothing, or the object itself. */
const argumentsOf = (call: unknown): string => {
  const raw = Json.field(call, "arguments")
  return typeof raw === "string" ? raw : Json.isObject(raw) ? JSON.stringify(raw) : ""
}

const refusalMetadata = { breakwater: { refusal: true } }

/** What is reported when a refusal or a tool call says more than the reason the provider gave. */
const refine = (reason: Response.FinishReason, refused: boolean, called: boolean): Response.FinishReason =>
  reason !== "stop" ? reason : refused ? "content-filter" : called ? "tool-calls" : reason

const badArguments = (name: string): Parts.Failure => Parts.unusable(`the arguments of tool call ${name} are not JSON`)

const reply = (
  target: Target,
  body: unknown,
  text: string
): Result.Result<Parts.WireReply, Parts.Failure> => {
  if (isError(body)) return Result.fail({ _tag: "Reported", event: undefined, body: text })
  const choice = Json.array(Json.field(body, "choices"))[0]
  const message = Json.field(choice, "message")
  if (!Json.isObject(message)) return Result.fail(Parts.unusable("the response has no choices[0].message"))
  const stated = Json.string(Json.field(choice, "finish_reason"))
  const failed = stated === undefined ? undefined : gaveUp(stated)
  if (failed !== undefined) return Result.fail(failed)
  const reason = stated === undefined ? "unknown" : finishReason(stated)

  const parts: Array<ContentPart> = []
  const pieces = content(message)
  if (pieces.reasoning !== "") parts.push(Parts.reasoning(pieces.reasoning))
  if (pieces.text !== "") parts.push(Parts.text(pieces.text))
  const refusal = Json.text(Json.field(message, "refusal"))
  if (refusal !== undefined) parts.push(Parts.text(refusal, refusalMetadata))
  let called = false
  let ordinal = 0
  for (const call of Json.array(Json.field(message, "tool_calls"))) {
    const described = Json.field(call, "function")
    const name = Json.text(Json.field(described, "name")) ?? ""
    const id = Json.text(Json.field(call, "id")) ?? `call_${ordinal}`
    ordinal++
    const params = Parts.toolParams(argumentsOf(described))
    if (params !== undefined) {
      called = true
      parts.push(Parts.toolCall(id, name, params))
    } else if (!Parts.isCut(reason)) return Result.fail(badArguments(name))
  }
  return Result.succeed({
    content: parts,
    usage: usage(rawUsage(body, choice)),
    finishReason: refine(reason, refusal !== undefined, called),
    model: Json.text(Json.field(body, "model")) ?? target.model
  })
}

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

interface Call {
  readonly index: number | undefined
  readonly id: string
  readonly name: string
  readonly args: string
}

/** @internal */
export interface State {
  readonly model: string
  /** The block that is being written. */
  readonly open: "text" | "reasoning" | "refusal" | undefined
  /** Blocks begun so far; the id of the open one is one less. */
  readonly blocks: number
  readonly calls: ReadonlyArray<Call>
  readonly refused: boolean
  readonly reason: Response.FinishReason | undefined
  readonly usage: unknown
}

const initial = (target: Target): State => ({
  model: target.model,
  open: undefined,
  blocks: 0,
  calls: [],
  refused: false,
  reason: undefined,
  usage: undefined
})

const step = (state: State, event: EventStream.Event): Step<State> => {
  if (event.data.trim() === "[DONE]") {
    const parts = end(state)
    return parts === undefined ? [state, nothing, { _tag: "Truncated" }] : [state, parts, "done"]
  }
  const chunk = Json.parse(event.data)
  if (event.event === "error" || isError(chunk)) {
    return [state, nothing, { _tag: "Reported", event: event.event, body: event.data }]
  }
  if (!Json.isObject(chunk)) return [state, nothing, Parts.unusable("an event of the stream is not a JSON object")]
  const choice = Json.array(chunk["choices"]).find((_) => (Json.field(_, "index") ?? 0) === 0)
  const out: Array<ProviderPart> = []
  let next = readHead(state, chunk, choice)
  if (choice === undefined || next.reason !== undefined) return [next, nothing]

  // Some servers put a whole message where the delta belongs in their last chunk.
  const delta = Json.field(choice, "delta") ?? Json.field(choice, "message")
  const pieces = content(delta)
  next = write(next, "reasoning", pieces.reasoning, out)
  next = write(next, "text", pieces.text, out)
  next = write(next, "refusal", Json.string(Json.field(delta, "refusal")) ?? "", out)
  for (const fragment of Json.array(Json.field(delta, "tool_calls"))) next = callFragment(next, fragment, out)

  const stated = Json.text(Json.field(choice, "finish_reason"))
  if (stated === undefined) return [next, out]
  const failed = gaveUp(stated)
  return failed === undefined ? close(next, finishReason(stated), out) : [next, out, failed]
}

const nothing: ReadonlyArray<ProviderPart> = []

const readHead = (state: State, chunk: unknown, choice: unknown): State => {
  const model = Json.text(Json.field(chunk, "model")) ?? state.model
  const usage = rawUsage(chunk, choice) ?? state.usage
  return model === state.model && usage === state.usage ? state : { ...state, model, usage }
}

/** Appends text to a block, beginning a new one when another kind is open. */
const write = (state: State, kind: NonNullable<State["open"]>, text: string, out: Array<ProviderPart>): State => {
  if (text === "") return state
  let next = state
  if (state.open !== kind) {
    next = { ...shut(state, out), open: kind, blocks: state.blocks + 1, refused: state.refused || kind === "refusal" }
    const id = String(state.blocks)
    out.push(
      kind === "reasoning"
        ? Parts.reasoningStart(id)
        : Parts.textStart(id, kind === "refusal" ? refusalMetadata : undefined)
    )
  }
  const id = String(next.blocks - 1)
  out.push(kind === "reasoning" ? Parts.reasoningDelta(id, text) : Parts.textDelta(id, text))
  return next
}

/** Ends the open block. */
const shut = (state: State, out: Array<ProviderPart>): State => {
  if (state.open === undefined) return state
  const id = String(state.blocks - 1)
  out.push(state.open === "reasoning" ? Parts.reasoningEnd(id) : Parts.textEnd(id))
  return { ...state, open: undefined }
}

/**
 * Adds a fragment to the tool call it belongs to.
 *
 * The index says which one; servers that leave it out, or number every call 0, give a new id with each new call.
 */
const callFragment = (state: State, fragment: unknown, out: Array<ProviderPart>): State => {
  const index = Json.count(Json.field(fragment, "index"))
  const described = Json.field(fragment, "function")
  const id = Json.text(Json.field(fragment, "id"))
  const name = Json.text(Json.field(described, "name"))
  const args = argumentsOf(described)
  const known = state.calls.findLastIndex((call) => index === undefined || call.index === index)
  const call = state.calls[known]
  if (call === undefined || (id !== undefined && id !== call.id && name !== undefined)) {
    const opened: Call = { index, id: id ?? `call_${state.calls.length}`, name: name ?? "", args }
    const next = shut(state, out)
    out.push(Parts.toolStart(opened.id, opened.name))
    if (args !== "") out.push(Parts.toolDelta(opened.id, args))
    return { ...next, calls: [...next.calls, opened] }
  }
  if (args !== "") out.push(Parts.toolDelta(call.id, args))
  const longer: Call = { ...call, name: call.name === "" ? name ?? "" : call.name, args: call.args + args }
  return { ...state, calls: state.calls.with(known, longer) }
}

/** Ends all blocks when the finish reason has come; the usage may still follow. */
const close = (state: State, reason: Response.FinishReason, out: Array<ProviderPart>): Step<State> => {
  const next = shut(state, out)
  let called = false
  for (const call of next.calls) {
    out.push(Parts.toolEnd(call.id))
    const params = Parts.toolParams(call.args)
    if (params !== undefined) {
      called = true
      out.push(Parts.toolCall(call.id, call.name, params))
    } else if (!Parts.isCut(reason)) return [next, out, badArguments(call.name)]
  }
  return [{ ...next, calls: [], reason: refine(reason, next.refused, called) }, out]
}

const end = (state: State): ReadonlyArray<ProviderPart> | undefined =>
  state.reason === undefined ? undefined : [Parts.finish(state.reason, usage(state.usage), state.model)]

/** @internal */
export const machine: Machine<State> = { initial, step, end }

/** @internal */
export const decodeReply = reply
