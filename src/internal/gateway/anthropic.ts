/**
 * The face of Anthropic: messages, whole and as events.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import type * as Arr from "effect/Array"
import type * as Result from "effect/Result"
import type { Completion, CompletionRequest, StreamPart } from "../../LLMService.ts"
import * as Json from "../wire/json.ts"
import * as Extras from "./extras.ts"
import type { Asked, Envelope, Face, Writer } from "./face.ts"
import * as Reading from "./reading.ts"
import type { Refusal } from "./refusal.ts"

// ---------------------------------------------------------------------------------------------------------------------
// requests
// ---------------------------------------------------------------------------------------------------------------------

const known: ReadonlySet<string> = new Set([
  "model",
  "messages",
  "system",
  "stream",
  "max_tokens",
  "temperature",
  "top_p",
  "stop_sequences",
  "tools",
  "tool_choice",
  "output_format"
])

const read = (json: unknown): Result.Result<Asked, Refusal> =>
  Reading.reading(() => {
    const body = Reading.body(json)
    const model = Reading.name(body["model"], "model")
    const messages = Reading.list(body["messages"], "messages")
    if (messages.length === 0) Reading.wrong("messages", "must not be empty")
    const maxTokens = Reading.integer(body, "max_tokens") ?? Reading.wrong("max_tokens", "is required")
    const schema = Json.field(Json.field(body["output_config"], "format"), "schema") ??
      Json.field(body["output_format"], "schema")
    const { output_config: output, ...rest } = Reading.others(body, known)
    // What asks for more than a schema goes whole to those who know it.
    const isMore = Json.isObject(output) && Object.keys(output).some((_) => _ !== "format")
    const request: CompletionRequest = {
      prompt: prompt(body["system"], messages),
      maxTokens,
      temperature: Reading.upTo(body, "temperature", Infinity),
      topP: Reading.upTo(body, "top_p", 1),
      stop: Reading.stops(body, "stop_sequences"),
      tools: tools(body["tools"]),
      toolChoice: toolChoice(body["tool_choice"]),
      responseFormat: schema === undefined
        ? undefined
        : {
          type: "json_schema",
          name: "output",
          schema: Reading.object(schema, "output_config.format.schema"),
          strict: true
        }
    }
    return {
      model,
      stream: Reading.boolean(body, "stream") ?? false,
      choices: 1,
      includeUsage: true,
      request: Extras.add(request, "anthropic", { fields: isMore ? { ...rest, output_config: output } : rest })
    }
  })

const prompt = (system: unknown, messages: ReadonlyArray<unknown>): Prompt.Prompt => {
  const toolNames = new Map<string, string>()
  const out: Array<Prompt.Message> = []
  if (typeof system === "string") {
    if (system !== "") out.push(Prompt.makeMessage("system", { content: system }))
  } else if (system !== undefined && system !== null) {
    Reading.list(system, "system").forEach((block, index) => {
      const content = Reading.text(Json.field(block, "text"), `system[${index}].text`)
      out.push(Prompt.makeMessage("system", { content, options: cached(block) }))
    })
  }
  messages.forEach((item, index) => {
    const path = `messages[${index}]`
    const message = Reading.object(item, path)
    const content = message["content"]
    const blocks = typeof content === "string"
      ? [{ type: "text", text: content }]
      : Reading.list(content, `${path}.content`).map((block, at) => Reading.object(block, `${path}.content[${at}]`))
    switch (message["role"]) {
      case "user":
        out.push(...userMessages(blocks, `${path}.content`, toolNames))
        break
      case "assistant":
        out.push(Prompt.makeMessage("assistant", {
          content: blocks.flatMap((block, at) => assistantPart(block, `${path}.content[${at}]`, toolNames))
        }))
        break
      default:
        Reading.wrong(`${path}.role`, "must be user or assistant")
    }
  })
  return Prompt.fromMessages(out)
}

/** The mark by which a client asks for its prompt to be cached. */
const cached = (block: unknown): Prompt.ProviderOptions => {
  const type = Json.text(Json.field(Json.field(block, "cache_control"), "type"))
  const ttl = Json.text(Json.field(Json.field(block, "cache_control"), "ttl"))
  return type === undefined ? {} : { anthropic: { cacheControl: ttl === undefined ? { type } : { type, ttl } } }
}

/** Results of tools are a turn of the user there, and messages of their own here. */
const userMessages = (
  blocks: ReadonlyArray<Reading.Fields>,
  path: string,
  toolNames: ReadonlyMap<string, string>
): ReadonlyArray<Prompt.Message> => {
  const messages: Array<Prompt.Message> = []
  let parts: Array<Prompt.UserMessagePart> = []
  let results: Array<Prompt.ToolMessagePart> = []
  const flush = (): void => {
    if (results.length > 0) messages.push(Prompt.makeMessage("tool", { content: results }))
    if (parts.length > 0) messages.push(Prompt.makeMessage("user", { content: parts }))
    results = []
    parts = []
  }
  blocks.forEach((block, index) => {
    const at = `${path}[${index}]`
    if (block["type"] === "tool_result") {
      if (parts.length > 0) flush()
      results.push(toolResult(block, at, toolNames))
    } else parts.push(contentPart(block, at))
  })
  flush()
  return messages
}

const toolResult = (
  block: Reading.Fields,
  path: string,
  toolNames: ReadonlyMap<string, string>
): Prompt.ToolResultPart => {
  const id = Reading.name(block["tool_use_id"], `${path}.tool_use_id`)
  const content = block["content"] ?? ""
  const common = {
    id,
    name: toolNames.get(id) ?? "tool",
    isFailure: block["is_error"] === true,
    providerExecuted: false,
    options: cached(block)
  }
  if (typeof content === "string") return Prompt.makePart("tool-result", { ...common, result: content })
  const parts = Reading.list(content, `${path}.content`).map((part, index) =>
    contentPart(Reading.object(part, `${path}.content[${index}]`), `${path}.content[${index}]`)
  )
  const texts = parts.flatMap((part) => part.type === "text" ? [part.text] : [])
  return Prompt.makePart("tool-result", {
    ...common,
    result: texts.join("\n"),
    ...(texts.length === parts.length && parts.length <= 1 ? {} : { modelOutput: parts })
  })
}

const contentPart = (block: Reading.Fields, path: string): Prompt.TextPart | Prompt.FilePart => {
  const options = cached(block)
  const type = block["type"]
  switch (type) {
    case "text":
      return Prompt.makePart("text", { text: Reading.text(block["text"], `${path}.text`), options })
    case "image":
    case "document": {
      const source = Reading.object(block["source"], `${path}.source`)
      const fallback = type === "image" ? "image/*" : "application/pdf"
      const mediaType = Json.text(source["media_type"]) ?? fallback
      const fileName = Json.text(block["title"])
      switch (source["type"]) {
        case "base64":
          return Prompt.makePart("file", {
            mediaType,
            fileName,
            data: Reading.name(source["data"], `${path}.source.data`),
            options
          })
        case "url":
          return Prompt.makePart("file", {
            mediaType,
            fileName,
            data: Reading.name(source["url"], `${path}.source.url`),
            options
          })
        case "text":
          return Prompt.makePart("text", { text: Reading.text(source["data"], `${path}.source.data`), options })
        default:
          return Reading.wrong(`${path}.source.type`, "must be one of base64, url, text")
      }
    }
    default:
      return Reading.wrong(`${path}.type`, "must be one of text, image, document, tool_result")
  }
}

const assistantPart = (
  block: Reading.Fields,
  path: string,
  toolNames: Map<string, string>
): ReadonlyArray<Prompt.AssistantMessagePart> => {
  switch (block["type"]) {
    case "text":
      return [Prompt.makePart("text", { text: Reading.text(block["text"], `${path}.text`), options: cached(block) })]
    case "thinking": {
      const signature = Json.text(block["signature"])
      return [Prompt.makePart("reasoning", {
        text: Json.string(block["thinking"]) ?? "",
        ...(signature === undefined ? {} : { options: { anthropic: { info: { type: "thinking", signature } } } })
      })]
    }
    case "redacted_thinking":
      return [Prompt.makePart("reasoning", {
        text: "",
        options: {
          anthropic: { info: { type: "redacted_thinking", redactedData: Json.string(block["data"]) ?? "" } }
        }
      })]
    case "tool_use": {
      const id = Reading.name(block["id"], `${path}.id`)
      const name = Reading.name(block["name"], `${path}.name`)
      toolNames.set(id, name)
      return [Prompt.makePart("tool-call", {
        id,
        name,
        params: block["input"] ?? {},
        providerExecuted: false,
        options: cached(block)
      })]
    }
    default:
      return Reading.wrong(`${path}.type`, "must be one of text, thinking, redacted_thinking, tool_use")
  }
}

const tools = (given: unknown): ReadonlyArray<Tool.Any> | undefined => {
  if (given === undefined || given === null) return undefined
  return Reading.list(given, "tools").map((item, index) => {
    const path = `tools[${index}]`
    const described = Reading.object(item, path)
    if ((described["type"] ?? "custom") !== "custom") {
      Reading.wrong(`${path}.type`, "tools that a provider executes are not handed on")
    }
    const strict = described["strict"]
    return Reading.tool({
      name: Reading.name(described["name"], `${path}.name`),
      description: Json.text(described["description"]),
      schema: described["input_schema"],
      strict: typeof strict === "boolean" ? strict : undefined
    }, `${path}.input_schema`)
  })
}

const toolChoice = (choice: unknown): CompletionRequest["toolChoice"] => {
  if (choice === undefined || choice === null) return undefined
  const type = Json.field(choice, "type")
  switch (type) {
    case "auto":
    case "none":
      return type
    case "any":
      return "required"
    case "tool":
      return { tool: Reading.name(Json.field(choice, "name"), "tool_choice.name") }
    default:
      return Reading.wrong("tool_choice.type", "must be one of auto, any, tool, none")
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// answers
// ---------------------------------------------------------------------------------------------------------------------

const stopReason = (reason: Response.FinishReason): string => {
  switch (reason) {
    case "length":
      return "max_tokens"
    case "tool-calls":
      return "tool_use"
    case "content-filter":
      return "refusal"
    case "pause":
      return "pause_turn"
    case "stop":
    case "error":
    case "other":
    case "unknown":
      return "end_turn"
  }
}

const usage = ({ inputTokens, outputTokens }: Response.Usage) => {
  const read = inputTokens.cacheRead ?? 0
  const written = inputTokens.cacheWrite ?? 0
  return {
    input_tokens: inputTokens.uncached ?? Math.max(0, (inputTokens.total ?? 0) - read - written),
    cache_creation_input_tokens: written,
    cache_read_input_tokens: read,
    output_tokens: outputTokens.total ?? 0
  }
}

const thinking = (text: string, metadata: Response.ProviderMetadata): Reading.Fields => {
  const info = Json.field(metadata["anthropic"], "info")
  const redacted = Json.text(Json.field(info, "redactedData"))
  return redacted === undefined
    ? { type: "thinking", thinking: text, signature: Json.string(Json.field(info, "signature")) ?? "" }
    : { type: "redacted_thinking", data: redacted }
}

const whole = (envelope: Envelope, [completion]: Arr.NonEmptyReadonlyArray<Completion>): unknown => ({
  id: idOf(envelope),
  type: "message",
  role: "assistant",
  model: completion.model,
  content: completion.content.flatMap((part): ReadonlyArray<unknown> => {
    switch (part.type) {
      case "text":
        return part.text === "" ? [] : [{ type: "text", text: part.text }]
      case "reasoning":
        return [thinking(part.text, part.metadata)]
      case "tool-call":
        return [{ type: "tool_use", id: part.id, name: part.name, input: part.params ?? {} }]
      case "file":
      case "source":
        return []
    }
  }),
  stop_reason: stopReason(completion.finishReason),
  stop_sequence: null,
  usage: usage(completion.usage)
})

const idOf = ({ requestId }: Envelope): string => `msg_${requestId}`

// ---------------------------------------------------------------------------------------------------------------------
// events
// ---------------------------------------------------------------------------------------------------------------------

interface Block {
  readonly key: string
  /** Events that wait until the blocks before have ended: the format knows no two open blocks. */
  readonly waiting: Array<Reading.Fields>
  ended: boolean
}

const event = (type: string, fields: Reading.Fields): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`

const writer = (envelope: Envelope, { model: asked }: Asked): Writer => {
  let model = asked
  let begun = false
  let index = -1
  const blocks: Array<Block> = []
  const seen = new Set<string>()

  const started = (): string => {
    if (begun) return ""
    begun = true
    return event("message_start", {
      message: {
        id: idOf(envelope),
        type: "message",
        role: "assistant",
        model,
        content: [],
        stop_reason: null,
        stop_sequence: null,
        // What was read is known at the end only, and stands in `message_delta`.
        usage: { input_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 0 }
      }
    })
  }

  const numbered = ({ type, ...fields }: Reading.Fields): string => event(String(type), { index, ...fields })

  const open = (key: string, content: Reading.Fields): string => {
    const first = { type: "content_block_start", content_block: content }
    const block: Block = { key, waiting: [], ended: false }
    blocks.push(block)
    if (blocks.length > 1) {
      block.waiting.push(first)
      return ""
    }
    index++
    return started() + numbered(first)
  }

  const write = (key: string, fields: Reading.Fields): string => {
    const block = blocks.find((_) => _.key === key)
    if (block === undefined) return ""
    if (block === blocks[0]) return numbered(fields)
    block.waiting.push(fields)
    return ""
  }

  const close = (key: string): string => {
    const block = blocks.find((_) => _.key === key)
    if (block === undefined) return ""
    block.ended = true
    let text = ""
    while (blocks[0]?.ended === true) {
      text += numbered({ type: "content_block_stop" })
      blocks.shift()
      const [next] = blocks
      if (next === undefined) break
      index++
      for (const fields of next.waiting) text += numbered(fields)
    }
    return text
  }

  const delta = (key: string, value: Reading.Fields): string =>
    write(key, { type: "content_block_delta", delta: value })

  const part = (part: StreamPart): string => {
    switch (part.type) {
      case "response-metadata":
        model = part.modelId ?? model
        return ""
      case "text-start":
        return open(`text ${part.id}`, { type: "text", text: "" })
      case "text-delta":
        return delta(`text ${part.id}`, { type: "text_delta", text: part.delta })
      case "text-end":
        return close(`text ${part.id}`)
      case "reasoning-start":
        // Whether it can be read is told by its first words, or by its end.
        return ""
      case "reasoning-delta": {
        const key = `reasoning ${part.id}`
        const opened = blocks.some((_) => _.key === key) ? "" : open(key, thinking("", {}))
        return opened + delta(key, { type: "thinking_delta", thinking: part.delta })
      }
      case "reasoning-end": {
        const ending = thinking("", part.metadata)
        if (ending["type"] === "redacted_thinking") {
          return open(`reasoning ${part.id}`, ending) + close(`reasoning ${part.id}`)
        }
        const signature = Json.text(ending["signature"])
        return (signature === undefined
          ? ""
          : delta(`reasoning ${part.id}`, { type: "signature_delta", signature })) + close(`reasoning ${part.id}`)
      }
      case "tool-params-start":
        seen.add(part.id)
        return open(`tool ${part.id}`, { type: "tool_use", id: part.id, name: part.name, input: {} })
      case "tool-params-delta":
        return delta(`tool ${part.id}`, { type: "input_json_delta", partial_json: part.delta })
      case "tool-params-end":
        return close(`tool ${part.id}`)
      case "tool-call": {
        if (seen.has(part.id)) return ""
        const key = `tool ${part.id}`
        const json = JSON.stringify(part.params ?? {})
        return open(key, { type: "tool_use", id: part.id, name: part.name, input: {} }) +
          delta(key, { type: "input_json_delta", partial_json: json }) + close(key)
      }
      case "finish":
        return started() + blocks.slice().map(({ key }) => close(key)).join("") +
          event("message_delta", {
            delta: { stop_reason: stopReason(part.reason), stop_sequence: null },
            usage: usage(part.usage)
          }) + event("message_stop", {})
      case "restarted": {
        const { discarded, errorClass, from, reason, target } = part
        const ended = blocks.slice().map(({ key }) => close(key)).join("")
        return ended + event("breakwater_restarted", { from, target, error_class: errorClass, reason, discarded })
      }
      case "file":
      case "source":
        return ""
    }
  }

  return {
    parts: (parts) => {
      let text = ""
      for (const each of parts) text += part(each)
      return text
    },
    failure: (refused) => `event: error\ndata: ${JSON.stringify(refusal(envelope, refused))}\n\n`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

const typeOf = (status: number): string => {
  switch (status) {
    case 401:
      return "authentication_error"
    case 403:
      return "permission_error"
    case 404:
      return "not_found_error"
    case 413:
      return "request_too_large"
    case 429:
      return "rate_limit_error"
    case 503:
      return "overloaded_error"
    case 408:
    case 504:
      return "timeout_error"
    default:
      return status < 500 ? "invalid_request_error" : "api_error"
  }
}

const refusal = (envelope: Pick<Envelope, "requestId">, { message, status }: Refusal): unknown => ({
  type: "error",
  error: { type: typeOf(status), message },
  request_id: envelope.requestId
})

// The vendor has a status of its own for what a 503 says elsewhere.
const status = (refused: Refusal): number => refused.code === "overloaded" ? 529 : refused.status

export const face: Face = {
  name: "anthropic",
  read,
  whole,
  writer,
  refusal,
  status,
  headers: ["anthropic-beta"],
  requestIdHeader: "request-id"
}
