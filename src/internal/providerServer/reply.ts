/**
 * What the test provider answers, and how the three formats write it down.
 *
 * @since 0.1.0
 */
import * as Predicate from "effect/Predicate"
import type { ChatRequest, Parsed } from "./request.ts"
import { tokensOf } from "./request.ts"
import type { Vendor } from "./vendor.ts"

/**
 * An answer in the words of no vendor; every field may be left out.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reply {
  readonly reasoning?: string | undefined
  readonly text?: string | undefined
  readonly toolCalls?: ReadonlyArray<{ readonly name: string; readonly arguments: unknown }> | undefined
  /**
   * Why the answer ends.
   *
   * @default `tool_calls` when there are any, `length` when `max_tokens` cut the answer, else `stop`
   */
  readonly finishReason?: FinishReason | undefined
}

/**
 * Why an answer ends, as the OpenAI format calls it.
 *
 * @category models
 * @since 0.1.0
 */
export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter"

/** @internal */
export interface Answer {
  readonly reasoning: string
  readonly text: string
  readonly toolCalls: ReadonlyArray<{
    readonly id: string
    readonly name: string
    /** What OpenAI sends as JSON text and Anthropic as JSON. */
    readonly input: unknown
    readonly arguments: string
  }>
  readonly finishReason: FinishReason
  readonly inputTokens: number
  readonly reasoningTokens: number
  readonly outputTokens: number
}

/** @internal */
export interface Envelope {
  readonly vendor: Vendor
  /** Identifies the answer; every id inside it derives from this one. */
  readonly id: string
  readonly created: number
  readonly model: string
}

/**
 * One SSE frame.
 *
 * @internal
 */
export interface Frame {
  readonly data: string
  /** Whether it carries content that a reader hands on. */
  readonly content: boolean
  /** Output tokens sent when this frame has been written. */
  readonly output: number
}

/**
 * Answers from the request alone: the tool it demands, JSON that follows its schema, or its last message.
 *
 * @internal
 */
export const standard = (request: ChatRequest): Reply => {
  const { toolChoice } = request
  if (toolChoice !== undefined) {
    const tool = toolChoice === "required"
      ? request.tools[0]
      : request.tools.find((tool) => tool.name === toolChoice.name)
    if (tool !== undefined) return { toolCalls: [{ name: tool.name, arguments: sample(tool.schema) }] }
  }
  if (request.jsonSchema !== undefined) return { text: JSON.stringify(sample(request.jsonSchema)) }
  return { text: `You said: ${request.messages.at(-1)?.text ?? ""}` }
}

/**
 * Returns the smallest natural value that follows a JSON schema.
 *
 * @internal
 */
export const sample = (schema: unknown): unknown => sampleAt(schema, schema, 0)

const deepest = 16

const get = (value: unknown, name: string): unknown => Predicate.hasProperty(value, name) ? value[name] : undefined

const sampleAt = (schema: unknown, root: unknown, depth: number): unknown => {
  if (depth > deepest) return null
  const reference = get(schema, "$ref")
  if (typeof reference === "string") {
    const names = reference.replace(/^#\/?/, "").split("/").filter((name) => name !== "")
    const referred = names.reduce((at, name) => get(at, name.replaceAll("~1", "/").replaceAll("~0", "~")), root)
    return sampleAt(referred, root, depth + 1)
  }
  const constant = get(schema, "const")
  if (constant !== undefined) return constant
  for (const choices of [get(schema, "enum"), get(schema, "examples")]) {
    if (Array.isArray(choices) && choices.length > 0) return choices[0]
  }
  for (const name of ["anyOf", "oneOf", "allOf"]) {
    const options = get(schema, name)
    if (Array.isArray(options) && options.length > 0) return sampleAt(options[0], root, depth + 1)
  }
  const type = get(schema, "type")
  switch (Array.isArray(type) ? type[0] : type) {
    case "string":
      return "text".padEnd(numberOr(get(schema, "minLength"), 0), "-")
    case "number":
    case "integer":
      return numberOr(get(schema, "minimum"), numberOr(get(schema, "exclusiveMinimum"), 0) + 1)
    case "boolean":
      return true
    case "null":
      return null
    case "array":
      return Array.from(
        { length: numberOr(get(schema, "minItems"), 1) },
        () => sampleAt(get(schema, "items"), root, depth + 1)
      )
    default: {
      const properties = get(schema, "properties")
      return Predicate.isObject(properties)
        ? Object.fromEntries(Object.entries(properties).map(([name, at]) => [name, sampleAt(at, root, depth + 1)]))
        : {}
    }
  }
}

const numberOr = (value: unknown, otherwise: number): number => typeof value === "number" ? value : otherwise

/**
 * Fits a reply into `max_tokens`: reasoning first, then text, then the tool calls that fit whole.
 *
 * @internal
 */
export const resolve = (id: string, request: Parsed, reply: Reply): Answer => {
  let left = request.maxTokens ?? Number.POSITIVE_INFINITY
  let cut = false
  const fit = (text: string): string => {
    const kept = text.length <= left * 4 ? text : prefix(text, left * 4)
    cut = cut || kept.length < text.length
    left -= tokensOf(kept)
    return kept
  }
  const reasoning = fit(reply.reasoning ?? "")
  const text = fit(reply.text ?? "")
  const toolCalls: Array<Answer["toolCalls"][number]> = []
  let toolTokens = 0
  for (const call of reply.toolCalls ?? []) {
    const input = call.arguments ?? {}
    const written = JSON.stringify(input)
    const tokens = tokensOf(call.name) + tokensOf(written)
    if (cut || tokens > left) {
      cut = true
      break
    }
    left -= tokens
    toolTokens += tokens
    toolCalls.push({ id: `call_${id}_${toolCalls.length}`, name: call.name, input, arguments: written })
  }
  const reasoningTokens = tokensOf(reasoning)
  return {
    reasoning,
    text,
    toolCalls,
    finishReason: cut ? "length" : reply.finishReason ?? (toolCalls.length > 0 ? "tool_calls" : "stop"),
    inputTokens: request.inputTokens,
    reasoningTokens,
    outputTokens: reasoningTokens + tokensOf(text) + toolTokens
  }
}

// Never between the two halves of a surrogate pair, which would not survive UTF-8.
const prefix = (text: string, length: number): string => {
  const last = text.charCodeAt(length - 1)
  return text.slice(0, last >= 0xd800 && last <= 0xdbff ? length - 1 : length)
}

const split = (text: string, size: number): ReadonlyArray<string> => {
  const pieces: Array<string> = []
  let rest = text
  while (rest.length > 0) {
    const piece = rest.length <= size ? rest : prefix(rest, size) || rest.slice(0, size + 1)
    pieces.push(piece)
    rest = rest.slice(piece.length)
  }
  return pieces
}

// ---------------------------------------------------------------------------
// content, piece by piece
// ---------------------------------------------------------------------------

interface Piece {
  readonly part: "reasoning" | "text" | "tool"
  readonly index: number
  readonly data: string
  readonly output: number
}

const pieces = (answer: Answer, chunkSize: number): ReadonlyArray<Piece> => {
  const result: Array<Piece> = []
  let done = 0
  const add = (part: Piece["part"], index: number, text: string): void => {
    let characters = 0
    for (const data of split(text, chunkSize)) {
      characters += data.length
      result.push({ part, index, data, output: done + Math.ceil(characters / 4) })
    }
    done += tokensOf(text)
  }
  add("reasoning", 0, answer.reasoning)
  add("text", 0, answer.text)
  answer.toolCalls.forEach((call, index) => {
    done += tokensOf(call.name)
    add("tool", index, call.arguments)
  })
  return result
}

// ---------------------------------------------------------------------------
// OpenAI
// ---------------------------------------------------------------------------

const openAiUsage = (vendor: Vendor, answer: Answer): unknown => {
  // xAI counts reasoning beside the completion, everybody else inside it.
  const completion = vendor === "xai" ? answer.outputTokens - answer.reasoningTokens : answer.outputTokens
  return {
    prompt_tokens: answer.inputTokens,
    completion_tokens: completion,
    total_tokens: answer.inputTokens + answer.outputTokens,
    ...(vendor === "deepseek"
      ? { prompt_cache_hit_tokens: 0, prompt_cache_miss_tokens: answer.inputTokens }
      : { prompt_tokens_details: { cached_tokens: 0 } }),
    completion_tokens_details: { reasoning_tokens: answer.reasoningTokens }
  }
}

const reasoningField = (vendor: Vendor): string => vendor === "groq" ? "reasoning" : "reasoning_content"

const openAiHead = (envelope: Envelope, object: string): Readonly<Record<string, unknown>> => ({
  id: `chatcmpl-${envelope.id}`,
  object,
  created: Math.floor(envelope.created / 1000),
  model: envelope.model
})

const filtered = {
  hate: { filtered: false, severity: "safe" },
  self_harm: { filtered: false, severity: "safe" },
  sexual: { filtered: false, severity: "safe" },
  violence: { filtered: false, severity: "safe" }
}

const openAiBody = (envelope: Envelope, answer: Answer): unknown => {
  const azure = envelope.vendor === "azure"
  return {
    ...openAiHead(envelope, "chat.completion"),
    ...(azure ? { prompt_filter_results: [{ prompt_index: 0, content_filter_results: filtered }] } : {}),
    choices: [{
      index: 0,
      message: {
        role: "assistant",
        content: answer.text === "" && answer.toolCalls.length > 0 ? null : answer.text,
        ...(answer.reasoning === "" ? {} : { [reasoningField(envelope.vendor)]: answer.reasoning }),
        ...(answer.toolCalls.length === 0 ? {} : {
          tool_calls: answer.toolCalls.map((call) => ({
            id: call.id,
            type: "function",
            function: { name: call.name, arguments: call.arguments }
          }))
        })
      },
      finish_reason: answer.finishReason,
      logprobs: null,
      ...(azure ? { content_filter_results: filtered } : {})
    }],
    usage: openAiUsage(envelope.vendor, answer),
    ...(envelope.vendor === "groq" ? { x_groq: { id: `req_${envelope.id}` } } : {})
  }
}

// The usage of a stream is on the finish chunk whether asked for or not, or in a chunk of its own when asked for.
const usageOnFinish = (vendor: Vendor): boolean =>
  vendor === "groq" || vendor === "mistral" || vendor === "deepseek" || vendor === "moonshot"

const openAiFrames = (
  envelope: Envelope,
  answer: Answer,
  options: { readonly includeUsage: boolean; readonly chunkSize: number }
): ReadonlyArray<Frame> => {
  const { vendor } = envelope
  const head = openAiHead(envelope, "chat.completion.chunk")
  const own = options.includeUsage && !usageOnFinish(vendor)
  const frames: Array<Frame> = []
  const push = (content: boolean, output: number, value: Readonly<Record<string, unknown>>): void => {
    frames.push({ content, output, data: `data: ${JSON.stringify({ ...head, ...value })}\n\n` })
  }
  const delta = (value: unknown, finish: FinishReason | null = null): Readonly<Record<string, unknown>> => ({
    choices: [{
      index: 0,
      delta: value,
      finish_reason: finish,
      ...(vendor === "azure" ? { content_filter_results: finish === null ? {} : filtered } : { logprobs: null })
    }],
    ...(own ? { usage: null } : {})
  })
  if (vendor === "azure") {
    push(false, 0, {
      id: "",
      model: "",
      choices: [],
      prompt_filter_results: [{ prompt_index: 0, content_filter_results: filtered }]
    })
  }
  push(false, 0, {
    ...delta({ role: "assistant", content: "" }),
    ...(vendor === "groq" ? { x_groq: { id: `req_${envelope.id}` } } : {})
  })
  let tool = -1
  for (const piece of pieces(answer, options.chunkSize)) {
    if (piece.part === "reasoning") {
      push(true, piece.output, delta({ [reasoningField(vendor)]: piece.data }))
    } else if (piece.part === "text") {
      push(true, piece.output, delta({ content: piece.data }))
    } else {
      const call = piece.index === tool ? undefined : answer.toolCalls[piece.index]
      tool = piece.index
      push(
        true,
        piece.output,
        delta({
          tool_calls: [{
            index: piece.index,
            ...(call === undefined ? {} : { id: call.id, type: "function" }),
            function: { ...(call === undefined ? {} : { name: call.name }), arguments: piece.data }
          }]
        })
      )
    }
  }
  const usage = openAiUsage(vendor, answer)
  push(false, answer.outputTokens, {
    ...delta({}, answer.finishReason),
    ...(usageOnFinish(vendor) ? { usage } : {}),
    ...(vendor === "groq" ? { x_groq: { id: `req_${envelope.id}`, usage } } : {})
  })
  if (own) push(false, answer.outputTokens, { choices: [], usage })
  frames.push({ content: false, output: answer.outputTokens, data: "data: [DONE]\n\n" })
  return frames
}

// ---------------------------------------------------------------------------
// Anthropic
// ---------------------------------------------------------------------------

const stopReason = (finish: FinishReason): string => {
  switch (finish) {
    case "stop":
      return "end_turn"
    case "length":
      return "max_tokens"
    case "tool_calls":
      return "tool_use"
    case "content_filter":
      return "refusal"
  }
}

const anthropicUsage = (answer: Answer, output: number): Readonly<Record<string, unknown>> => ({
  input_tokens: answer.inputTokens,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  output_tokens: output,
  service_tier: "standard"
})

const signature = "c2lnbmF0dXJl"

const anthropicHead = (envelope: Envelope): Readonly<Record<string, unknown>> => ({
  id: `msg_${envelope.id}`,
  type: "message",
  role: "assistant",
  model: envelope.model
})

const anthropicBody = (envelope: Envelope, answer: Answer): unknown => ({
  ...anthropicHead(envelope),
  content: [
    ...(answer.reasoning === "" ? [] : [{ type: "thinking", thinking: answer.reasoning, signature }]),
    ...(answer.text === "" ? [] : [{ type: "text", text: answer.text }]),
    ...answer.toolCalls.map((call) => ({
      type: "tool_use",
      id: call.id.replace(/^call_/, "toolu_"),
      name: call.name,
      input: call.input
    }))
  ],
  stop_reason: stopReason(answer.finishReason),
  stop_sequence: null,
  usage: anthropicUsage(answer, answer.outputTokens)
})

const anthropicFrames = (envelope: Envelope, answer: Answer, chunkSize: number): ReadonlyArray<Frame> => {
  const frames: Array<Frame> = []
  let written = 0
  const push = (type: string, value: Readonly<Record<string, unknown>>, content = false): void => {
    frames.push({ content, output: written, data: `event: ${type}\ndata: ${JSON.stringify({ type, ...value })}\n\n` })
  }
  push("message_start", {
    message: {
      ...anthropicHead(envelope),
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: anthropicUsage(answer, 1)
    }
  })
  let open = ""
  let index = -1
  const close = (): void => {
    if (index < 0) return
    if (open === "reasoning0") push("content_block_delta", { index, delta: { type: "signature_delta", signature } })
    push("content_block_stop", { index })
  }
  for (const piece of pieces(answer, chunkSize)) {
    const block = `${piece.part}${piece.index}`
    if (block !== open) {
      close()
      open = block
      index++
      push("content_block_start", { index, content_block: emptyBlock(piece, answer) })
      if (index === 0) push("ping", {})
    }
    written = piece.output
    push("content_block_delta", { index, delta: blockDelta(piece) }, true)
  }
  close()
  written = answer.outputTokens
  push("message_delta", {
    delta: { stop_reason: stopReason(answer.finishReason), stop_sequence: null },
    usage: { output_tokens: answer.outputTokens }
  })
  push("message_stop", {})
  return frames
}

const emptyBlock = (piece: Piece, answer: Answer): unknown => {
  switch (piece.part) {
    case "reasoning":
      return { type: "thinking", thinking: "", signature: "" }
    case "text":
      return { type: "text", text: "" }
    case "tool": {
      const call = answer.toolCalls[piece.index]
      return { type: "tool_use", id: call?.id.replace(/^call_/, "toolu_"), name: call?.name, input: {} }
    }
  }
}

const blockDelta = (piece: Piece): unknown => {
  switch (piece.part) {
    case "reasoning":
      return { type: "thinking_delta", thinking: piece.data }
    case "text":
      return { type: "text_delta", text: piece.data }
    case "tool":
      return { type: "input_json_delta", partial_json: piece.data }
  }
}

/** @internal */
export const body = (envelope: Envelope, answer: Answer): string =>
  JSON.stringify(envelope.vendor === "anthropic" ? anthropicBody(envelope, answer) : openAiBody(envelope, answer))

/** @internal */
export const frames = (
  envelope: Envelope,
  answer: Answer,
  options: { readonly includeUsage: boolean; readonly chunkSize: number }
): ReadonlyArray<Frame> =>
  envelope.vendor === "anthropic"
    ? anthropicFrames(envelope, answer, options.chunkSize)
    : openAiFrames(envelope, answer, options)
