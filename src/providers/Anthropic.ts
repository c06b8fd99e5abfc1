/**
 * Adapter for the messages format of Anthropic.
 *
 * **Details**
 *
 * System messages are lifted to the top level, consecutive turns of one role are merged, and `max_tokens`, which this
 * format demands, is the request's `maxTokens`, else the target's `maxOutputTokens`, else `defaultMaxTokens`. A
 * temperature above 1 is sent as 1. A JSON schema goes into `output_config.format`, which the models since Claude 4.5
 * enforce; `json_object` is asked for in words, because the format knows no such mode.
 *
 * A request body is built from the request, then the target's `parameters`, then the request's `extra`: later ones
 * win, field by field, except for `stream`.
 *
 * Thinking is a reasoning part; its signature travels in `metadata.anthropic.info` and goes back from there when the
 * answer becomes part of a prompt. Reasoning without a signature, such as another provider's, is left out. Prompt
 * caching is asked for with `options: { anthropic: { cacheControl: { type: "ephemeral" } } }` on a message or part.
 *
 * **Gotchas**
 *
 * `input_tokens` of this provider leaves out what came from the cache; `usage.inputTokens.total` here is the sum.
 *
 * **Example** (Looking at what is sent)
 *
 * ```ts import.meta.vitest
 * import { Anthropic, Target } from "breakwater"
 *
 * const target = Target.make({ provider: "anthropic", model: "claude-sonnet-4-5" })
 *
 * Anthropic.requestBody(target, { prompt: "Hello", stop: "END" })
 * // => { model: "claude-sonnet-4-5", max_tokens: 4096, messages: [{ role: "user", content: [{ type: "text", text: "Hello" }] }], stop_sequences: ["END"] }
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
 * Tokens a reply may have when neither the request nor the target says.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultMaxTokens = 4096

/**
 * Address used when a target names none.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultBaseUrl = "https://api.anthropic.com"

/**
 * Creates the Anthropic adapter over the `HttpClient` of the context.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<Adapter, never, HttpClient.HttpClient> = Effect.map(
  HttpClient.HttpClient,
  (client) => fromClient(client)
)

/**
 * Creates the Anthropic adapter over a given HTTP client.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromClient = (client: HttpClient.HttpClient): Adapter => adapter(client, format)

/**
 * Returns the body that a request becomes, for tests and for looking at what is sent.
 *
 * @category accessors
 * @since 0.1.0
 */
export const requestBody = (
  target: Target,
  request: CompletionRequest,
  options?: { readonly stream?: boolean | undefined }
): Readonly<Record<string, unknown>> => encode(target, request, options?.stream ?? false).body

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

const encode = (
  target: Target,
  request: CompletionRequest,
  stream: boolean
): { readonly body: Wire.Body; readonly problems: ReadonlyArray<string> } => {
  const draft = Wire.draft(request)
  const { system, turns } = conversation(draft)
  if (request.responseFormat?.type === "json_object") {
    system.push({ type: "text", text: "Answer with one JSON object and nothing else." })
  }
  const stops = Wire.stops(request)
  const body: Wire.Body = {
    model: target.model,
    max_tokens: Wire.maxTokens(target, request) ?? target.maxOutputTokens ?? defaultMaxTokens,
    messages: turns
  }
  if (system.length > 0) body["system"] = system
  if (request.temperature !== undefined) body["temperature"] = Math.min(request.temperature, 1)
  if (request.topP !== undefined) body["top_p"] = request.topP
  if (stops !== undefined) body["stop_sequences"] = stops
  if (draft.tools.length > 0) {
    body["tools"] = draft.tools.map((tool) => ({
      name: tool.name,
      ...(tool.description === undefined ? {} : { description: tool.description }),
      input_schema: tool.schema,
      ...(tool.strict === undefined ? {} : { strict: tool.strict })
    }))
    if (request.toolChoice !== undefined) body["tool_choice"] = toolChoice(request.toolChoice)
  }
  if (request.responseFormat?.type === "json_schema") {
    body["output_config"] = { format: { type: "json_schema", schema: request.responseFormat.schema } }
  }
  return { body: Wire.overlay(body, target, request, stream), problems: draft.problems }
}

const toolChoice = (choice: NonNullable<CompletionRequest["toolChoice"]>): unknown =>
  typeof choice === "object"
    ? { type: "tool", name: choice.tool }
    : { type: choice === "required" ? "any" : choice }

type Block = Readonly<Record<string, unknown>>

interface Turn {
  readonly role: "user" | "assistant"
  readonly content: Array<Block>
}

const conversation = (draft: Wire.Draft): { readonly system: Array<Block>; readonly turns: ReadonlyArray<Turn> } => {
  const system: Array<Block> = []
  const turns: Array<Turn> = []
  const add = (role: Turn["role"], blocks: ReadonlyArray<Block>): void => {
    if (blocks.length === 0) return
    const last = turns.at(-1)
    if (last?.role === role) last.content.push(...blocks)
    else turns.push({ role, content: [...blocks] })
  }
  for (const message of draft.messages) {
    switch (message.role) {
      case "system":
        if (message.content !== "") {
          system.push(cached({ type: "text", text: message.content }, message.options))
        }
        break
      case "user":
        add("user", lastCached(message.content.flatMap((part) => partBlock(part, draft.problems)), message.options))
        break
      case "assistant":
        add(
          "assistant",
          lastCached(message.content.flatMap((part) => assistantBlock(part, draft.problems)), message.options)
        )
        break
      case "tool":
        add(
          "user",
          lastCached(
            message.content.flatMap((part) => part.type === "tool-result" ? [resultBlock(part, draft.problems)] : []),
            message.options
          )
        )
        break
    }
  }
  return { system, turns: trimPrefill(turns) }
}

/** A prefilled answer may not end in white space. */
const trimPrefill = (turns: ReadonlyArray<Turn>): ReadonlyArray<Turn> => {
  const last = turns.at(-1)
  const block = last?.content.at(-1)
  if (last?.role !== "assistant" || typeof block?.["text"] !== "string") return turns
  const content = [...last.content.slice(0, -1), { ...block, text: block["text"].trimEnd() }]
  return [...turns.slice(0, -1), { ...last, content }]
}

const cached = (block: Block, options: Prompt.ProviderOptions): Block => {
  const control = Json.field(options["anthropic"], "cacheControl")
  return control === undefined || control === null ? block : { ...block, cache_control: control }
}

/** A message's own cache mark belongs to its last block. */
const lastCached = (blocks: ReadonlyArray<Block>, options: Prompt.ProviderOptions): ReadonlyArray<Block> => {
  const last = blocks.at(-1)
  return last === undefined ? blocks : [...blocks.slice(0, -1), cached(last, options)]
}

/** Empty texts are rejected by the provider and say nothing. */
const textBlock = (text: string): ReadonlyArray<Block> => text === "" ? [] : [{ type: "text", text }]

const partBlock = (part: Prompt.TextPart | Prompt.FilePart, problems: Array<string>): ReadonlyArray<Block> =>
  (part.type === "text" ? textBlock(part.text) : fileBlock(part, problems)).map((_) => cached(_, part.options))

const fileBlock = (part: Prompt.FilePart, problems: Array<string>): ReadonlyArray<Block> => {
  const file = Wire.fileSource(part)
  const source = file._tag === "Url"
    ? { type: "url", url: file.url }
    : { type: "base64", media_type: file.mediaType, data: file.data }
  if (part.mediaType.startsWith("image/")) return [{ type: "image", source }]
  if (part.mediaType === "application/pdf") {
    return [{ type: "document", source, ...(part.fileName === undefined ? {} : { title: part.fileName }) }]
  }
  problems.push(`a file of type ${part.mediaType} cannot be sent`)
  return []
}

const assistantBlock = (part: Prompt.AssistantMessagePart, problems: Array<string>): ReadonlyArray<Block> => {
  switch (part.type) {
    case "text":
      return partBlock(part, problems)
    case "reasoning":
      return thinkingBlock(part)
    case "tool-call":
      return part.providerExecuted
        ? []
        : [cached({ type: "tool_use", id: toolId(part.id), name: part.name, input: part.params ?? {} }, part.options)]
    case "file":
    case "tool-result":
    case "tool-approval-request":
      return []
  }
}

const thinkingBlock = (part: Prompt.ReasoningPart): ReadonlyArray<Block> => {
  const info = Json.field(part.options["anthropic"], "info")
  const signature = Json.text(Json.field(info, "signature"))
  if (signature !== undefined) return [{ type: "thinking", thinking: part.text, signature }]
  const data = Json.text(Json.field(info, "redactedData"))
  return data === undefined ? [] : [{ type: "redacted_thinking", data }]
}

const resultBlock = (part: Prompt.ToolResultPart, problems: Array<string>): Block =>
  cached(
    {
      type: "tool_result",
      tool_use_id: toolId(part.id),
      content: part.modelOutput === undefined
        ? Wire.toolResultText(part, problems)
        : part.modelOutput.flatMap((_) => partBlock(_, problems)),
      ...(part.isFailure ? { is_error: true } : {})
    },
    part.options
  )

/** Other providers' ids may hold characters that this one rejects. */
const toolId = (id: string): string => id.replace(/[^a-zA-Z0-9_-]/g, "_")

// -----------------------------------------------------------------------------
// replies
// -----------------------------------------------------------------------------

const finishReason = (reason: string): Response.FinishReason => {
  switch (reason) {
    case "end_turn":
    case "stop_sequence":
      return "stop"
    case "max_tokens":
    case "model_context_window_exceeded":
      return "length"
    case "tool_use":
      return "tool-calls"
    case "refusal":
      return "content-filter"
    case "pause_turn":
      return "pause"
    default:
      return "other"
  }
}

const isError = (body: unknown): boolean =>
  Json.field(body, "type") === "error" || (Json.field(body, "error") ?? undefined) !== undefined

/** Token counts as last reported; later reports are totals, not differences. */
interface Counts {
  readonly input: number | undefined
  readonly cacheRead: number | undefined
  readonly cacheWrite: number | undefined
  readonly output: number | undefined
}

const noCounts: Counts = { input: undefined, cacheRead: undefined, cacheWrite: undefined, output: undefined }

const counts = (before: Counts, raw: unknown): Counts =>
  Json.isObject(raw)
    ? {
      input: Json.count(raw["input_tokens"]) ?? before.input,
      cacheRead: Json.count(raw["cache_read_input_tokens"]) ?? before.cacheRead,
      cacheWrite: Json.count(raw["cache_creation_input_tokens"]) ?? before.cacheWrite,
      output: Json.count(raw["output_tokens"]) ?? before.output
    }
    : before

const usage = (of: Counts): Response.Usage =>
  Parts.usage({
    input: of.input === undefined ? undefined : of.input + (of.cacheRead ?? 0) + (of.cacheWrite ?? 0),
    uncached: of.input,
    cacheRead: of.cacheRead,
    cacheWrite: of.cacheWrite,
    output: of.output,
    reasoning: undefined
  })

const signatureMetadata = (signature: string) => ({ anthropic: { info: { type: "thinking", signature } } })

const redactedMetadata = (redactedData: string) => ({
  anthropic: { info: { type: "redacted_thinking", redactedData } }
})

const reply = (target: Target, body: unknown, text: string): Result.Result<Parts.WireReply, Parts.Failure> => {
  if (isError(body)) return Result.fail({ _tag: "Reported", event: undefined, body: text })
  const blocks = Json.field(body, "content")
  if (!Array.isArray(blocks)) return Result.fail(Parts.unusable("the response has no content"))
  const content: Array<ContentPart> = []
  for (const block of blocks) {
    switch (Json.field(block, "type")) {
      case "text":
        content.push(Parts.text(Json.string(Json.field(block, "text")) ?? ""))
        break
      case "thinking": {
        const signature = Json.text(Json.field(block, "signature"))
        const thinking = Json.string(Json.field(block, "thinking")) ?? ""
        content.push(Parts.reasoning(thinking, signature === undefined ? undefined : signatureMetadata(signature)))
        break
      }
      case "redacted_thinking":
        content.push(Parts.reasoning("", redactedMetadata(Json.string(Json.field(block, "data")) ?? "")))
        break
      case "tool_use":
        content.push(
          Parts.toolCall(
            Json.string(Json.field(block, "id")) ?? "",
            Json.string(Json.field(block, "name")) ?? "",
            Json.field(block, "input") ?? {}
          )
        )
        break
    }
  }
  const stated = Json.text(Json.field(body, "stop_reason"))
  return Result.succeed({
    content,
    usage: usage(counts(noCounts, Json.field(body, "usage"))),
    finishReason: stated === undefined ? "unknown" : finishReason(stated),
    model: Json.text(Json.field(body, "model")) ?? target.model
  })
}

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

/** A block that has begun and not ended. */
type Open =
  | { readonly type: "text"; readonly index: number }
  | { readonly type: "thinking"; readonly index: number; readonly signature: string }
  | { readonly type: "redacted"; readonly index: number; readonly data: string }
  | { readonly type: "tool"; readonly index: number; readonly id: string; readonly name: string; readonly args: string }

interface State {
  readonly model: string
  readonly open: ReadonlyArray<Open>
  readonly counts: Counts
  readonly reason: Response.FinishReason | undefined
  /** Name of a tool call whose arguments were not JSON, which only the stop reason can excuse. */
  readonly broken: string | undefined
}

const initial = (target: Target): State => ({
  model: target.model,
  open: [],
  counts: noCounts,
  reason: undefined,
  broken: undefined
})

const nothing: ReadonlyArray<ProviderPart> = []

const step = (state: State, event: EventStream.Event): Step<State> => {
  const data = Json.parse(event.data)
  if (event.event === "error" || isError(data)) {
    return [state, nothing, { _tag: "Reported", event: event.event, body: event.data }]
  }
  if (!Json.isObject(data)) return [state, nothing, Parts.unusable("an event of the stream is not a JSON object")]
  const index = Json.count(data["index"]) ?? 0
  switch (data["type"]) {
    case "message_start": {
      const message = data["message"]
      return [{
        ...state,
        model: Json.text(Json.field(message, "model")) ?? state.model,
        counts: counts(state.counts, Json.field(message, "usage"))
      }, nothing]
    }
    case "content_block_start":
      return begin(state, index, data["content_block"])
    case "content_block_delta":
      return extend(state, index, data["delta"])
    case "content_block_stop":
      return finishBlock(state, index)
    case "message_delta": {
      const stated = Json.text(Json.field(data["delta"], "stop_reason"))
      return [{
        ...state,
        reason: stated === undefined ? state.reason : finishReason(stated),
        counts: counts(state.counts, data["usage"])
      }, nothing]
    }
    case "message_stop":
      return stop(state)
    default:
      // Pings, and whatever is added to the format later.
      return [state, nothing]
  }
}

const begin = (state: State, index: number, block: unknown): Step<State> => {
  const id = String(index)
  switch (Json.field(block, "type")) {
    case "text": {
      const text = Json.string(Json.field(block, "text")) ?? ""
      return [
        { ...state, open: [...state.open, { type: "text", index }] },
        text === "" ? [Parts.textStart(id)] : [Parts.textStart(id), Parts.textDelta(id, text)]
      ]
    }
    case "thinking": {
      const thinking = Json.string(Json.field(block, "thinking")) ?? ""
      const signature = Json.string(Json.field(block, "signature")) ?? ""
      return [
        { ...state, open: [...state.open, { type: "thinking", index, signature }] },
        thinking === ""
          ? [Parts.reasoningStart(id)]
          : [Parts.reasoningStart(id), Parts.reasoningDelta(id, thinking)]
      ]
    }
    case "redacted_thinking": {
      const data = Json.string(Json.field(block, "data")) ?? ""
      return [{ ...state, open: [...state.open, { type: "redacted", index, data }] }, [Parts.reasoningStart(id)]]
    }
    case "tool_use": {
      const call = {
        type: "tool" as const,
        index,
        id: Json.string(Json.field(block, "id")) ?? "",
        name: Json.string(Json.field(block, "name")) ?? "",
        args: ""
      }
      // The input is announced empty and comes in fragments; servers that copy the format may send it whole.
      const input = Json.field(block, "input")
      const whole = Json.isObject(input) && Object.keys(input).length > 0 ? JSON.stringify(input) : ""
      return [
        { ...state, open: [...state.open, { ...call, args: whole }] },
        whole === ""
          ? [Parts.toolStart(call.id, call.name)]
          : [Parts.toolStart(call.id, call.name), Parts.toolDelta(call.id, whole)]
      ]
    }
    default:
      return [state, nothing]
  }
}

const extend = (state: State, index: number, delta: unknown): Step<State> => {
  const at = state.open.findIndex((_) => _.index === index)
  const block = state.open[at]
  const id = String(index)
  switch (block?.type) {
    case "text": {
      const text = Json.text(Json.field(delta, "text"))
      return [state, text === undefined ? nothing : [Parts.textDelta(id, text)]]
    }
    case "thinking": {
      const thinking = Json.text(Json.field(delta, "thinking"))
      if (thinking !== undefined) return [state, [Parts.reasoningDelta(id, thinking)]]
      const signature = Json.string(Json.field(delta, "signature")) ?? ""
      return [replace(state, at, { ...block, signature: block.signature + signature }), nothing]
    }
    case "tool": {
      const fragment = Json.text(Json.field(delta, "partial_json"))
      return fragment === undefined
        ? [state, nothing]
        : [replace(state, at, { ...block, args: block.args + fragment }), [Parts.toolDelta(block.id, fragment)]]
    }
    case "redacted":
    case undefined:
      return [state, nothing]
  }
}

const replace = (state: State, at: number, block: Open): State => ({ ...state, open: state.open.with(at, block) })

const finishBlock = (state: State, index: number): Step<State> => {
  const block = state.open.find((_) => _.index === index)
  if (block === undefined) return [state, nothing]
  const rest: State = { ...state, open: state.open.filter((_) => _ !== block) }
  const id = String(index)
  switch (block.type) {
    case "text":
      return [rest, [Parts.textEnd(id)]]
    case "thinking":
      return [rest, [Parts.reasoningEnd(id, block.signature === "" ? undefined : signatureMetadata(block.signature))]]
    case "redacted":
      return [rest, [Parts.reasoningEnd(id, redactedMetadata(block.data))]]
    case "tool": {
      const params = Parts.toolParams(block.args)
      return params === undefined
        ? [{ ...rest, broken: block.name }, [Parts.toolEnd(block.id)]]
        : [rest, [Parts.toolEnd(block.id), Parts.toolCall(block.id, block.name, params)]]
    }
  }
}

const stop = (state: State): Step<State> => {
  const out: Array<ProviderPart> = []
  let next = state
  for (const block of state.open) {
    const [closed, parts] = finishBlock(next, block.index)
    next = closed
    out.push(...parts)
  }
  const reason = next.reason ?? "unknown"
  if (next.broken !== undefined && !Parts.isCut(reason)) {
    return [next, out, Parts.unusable(`the arguments of tool call ${next.broken} are not JSON`)]
  }
  out.push(Parts.finish(reason, usage(next.counts), next.model))
  return [next, out, "done"]
}

// `message_stop` ends the stream by itself, so a connection that ends before it was cut.
const machine: Machine<State> = { initial, step, end: () => undefined }

const format: Format<State> = {
  url: Wire.once((target) => {
    const base = target.baseUrl ?? defaultBaseUrl
    const versioned = /\/v\d+\/*$/.test(new URL(base).pathname)
    return Wire.join(base, versioned ? "/messages" : "/v1/messages")
  }),
  request: (target, request, stream) => ({
    headers: { "anthropic-version": "2023-06-01" },
    ...encode(target, request, stream)
  }),
  authorize: (key) => ["x-api-key", key],
  reply,
  machine,
  requestIds: ["request-id", "x-request-id", "cf-ray"]
}
