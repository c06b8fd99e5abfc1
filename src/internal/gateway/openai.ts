/**
 * The face of OpenAI: chat completions, whole and as events, and embeddings.
 *
 * The gateway speaks in prompts and parts of `effect/ai` as the library does, so this module and `anthropic.ts` import it.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import type * as Arr from "effect/Array"
import type * as Result from "effect/Result"
import type { Completion, CompletionRequest, ResponseFormat, StreamPart } from "../../LLMService.ts"
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
  "stream",
  "stream_options",
  "n",
  "max_tokens",
  "max_completion_tokens",
  "temperature",
  "top_p",
  "stop",
  "tools",
  "tool_choice",
  "response_format",
  "logprobs",
  "modalities"
])

/** What an answer of ours could not hold: better refused than left out. */
const unsupported = (body: Reading.Fields): void => {
  if ((body["logprobs"] ?? false) !== false) Reading.wrong("logprobs", "log probabilities are not handed on")
  if (body["top_logprobs"] !== undefined && body["top_logprobs"] !== null) {
    Reading.wrong("top_logprobs", "log probabilities are not handed on")
  }
  for (const field of ["functions", "function_call"] as const) {
    if (body[field] !== undefined && body[field] !== null) {
      Reading.wrong(field, "is deprecated: use tools and tool_choice")
    }
  }
  if (Json.array(body["modalities"]).some((_) => _ !== "text")) Reading.wrong("modalities", "only text is handed on")
}

/** As many as the vendor allows. */
const maxChoices = 128

const read = (json: unknown): Result.Result<Asked, Refusal> =>
  Reading.reading(() => {
    const body = Reading.body(json)
    unsupported(body)
    const choices = Reading.integer(body, "n") ?? 1
    if (choices > maxChoices) Reading.wrong("n", `must be at most ${maxChoices}`)
    const model = Reading.name(body["model"], "model")
    const messages = Reading.list(body["messages"], "messages")
    if (messages.length === 0) Reading.wrong("messages", "must not be empty")
    const request: CompletionRequest = {
      prompt: prompt(messages),
      maxTokens: Reading.integer(body, "max_completion_tokens") ?? Reading.integer(body, "max_tokens"),
      temperature: Reading.upTo(body, "temperature", Infinity),
      topP: Reading.upTo(body, "top_p", 1),
      stop: Reading.stops(body, "stop"),
      tools: tools(body["tools"]),
      toolChoice: toolChoice(body["tool_choice"]),
      responseFormat: responseFormat(body["response_format"])
    }
    return {
      model,
      stream: Reading.boolean(body, "stream") ?? false,
      choices,
      includeUsage: Json.field(body["stream_options"], "include_usage") === true,
      request: Extras.add(request, "openai", { fields: Reading.others(body, known) })
    }
  })

const prompt = (messages: ReadonlyArray<unknown>): Prompt.Prompt => {
  const toolNames = new Map<string, string>()
  return Prompt.fromMessages(messages.map((item, index) => {
    const path = `messages[${index}]`
    const message = Reading.object(item, path)
    const content = message["content"] ?? undefined
    const options = own(message, knownOfMessages)
    switch (message["role"]) {
      case "system":
      case "developer":
        return Prompt.makeMessage("system", { content: plainText(content, `${path}.content`), options })
      case "user":
        return Prompt.makeMessage("user", { content: userParts(content, `${path}.content`), options })
      case "assistant":
        return Prompt.makeMessage("assistant", { content: assistantParts(message, path, toolNames), options })
      case "tool": {
        const id = Reading.name(message["tool_call_id"], `${path}.tool_call_id`)
        const result = Prompt.makePart("tool-result", {
          id,
          name: toolNames.get(id) ?? "tool",
          isFailure: false,
          result: plainText(content, `${path}.content`),
          providerExecuted: false
        })
        return Prompt.makeMessage("tool", { content: [result], options })
      }
      default:
        return Reading.wrong(`${path}.role`, "must be one of system, developer, user, assistant, tool")
    }
  }))
}

const knownOfMessages: ReadonlySet<string> = new Set([
  "role",
  "content",
  "tool_calls",
  "tool_call_id",
  "refusal",
  "reasoning",
  "reasoning_content",
  // Answers have them, and whoever sends an answer back means nothing by them.
  "annotations",
  "logprobs"
])

const knownOfParts: ReadonlySet<string> = new Set(["type", "text", "image_url"])

/** The fields that only targets of this format know, for the message or part that has them. */
const own = (
  fields: Reading.Fields,
  known: ReadonlySet<string>,
  options: Readonly<Record<string, string>> = {}
): Prompt.ProviderOptions => {
  const others = Reading.others(fields, known)
  const isMore = Object.keys(others).length > 0 && Json.isJson(others)
  if (!isMore && Object.keys(options).length === 0) return {}
  return { openai: isMore ? { ...options, fields: others } : options }
}

/** Content that can only be text: a string, or text parts. */
const plainText = (content: unknown, path: string): string =>
  typeof content === "string"
    ? content
    : Reading.list(content, path).map((part, index) =>
      Json.field(part, "type") === "text"
        ? Reading.text(Json.field(part, "text"), `${path}[${index}].text`)
        : Reading.wrong(`${path}[${index}].type`, "must be text")
    ).join("")

const userParts = (content: unknown, path: string): ReadonlyArray<Prompt.UserMessagePart> =>
  typeof content === "string"
    ? [Prompt.makePart("text", { text: content })]
    : Reading.list(content, path).map((part, index) =>
      userPart(Reading.object(part, `${path}[${index}]`), `${path}[${index}]`)
    )

const userPart = (part: Reading.Fields, path: string): Prompt.UserMessagePart => {
  switch (part["type"]) {
    case "text":
      return Prompt.makePart("text", {
        text: Reading.text(part["text"], `${path}.text`),
        options: own(part, knownOfParts)
      })
    case "image_url": {
      const url = Reading.name(Json.field(part["image_url"], "url"), `${path}.image_url.url`)
      const detail = Json.text(Json.field(part["image_url"], "detail"))
      return Prompt.makePart("file", {
        mediaType: /^data:(image\/[^;,]+)/.exec(url)?.[1] ?? "image/*",
        data: url,
        options: own(part, knownOfParts, detail === undefined ? {} : { imageDetail: detail })
      })
    }
    case "input_audio": {
      const audio = Json.field(part, "input_audio")
      return Prompt.makePart("file", {
        mediaType: `audio/${Reading.name(Json.field(audio, "format"), `${path}.input_audio.format`)}`,
        data: Reading.name(Json.field(audio, "data"), `${path}.input_audio.data`)
      })
    }
    case "file": {
      const file = Json.field(part, "file")
      const data = Json.text(Json.field(file, "file_data")) ??
        Reading.wrong(`${path}.file.file_data`, "is missing, and ids of uploaded files mean nothing here")
      return Prompt.makePart("file", {
        mediaType: /^data:([^;,]+)/.exec(data)?.[1] ?? "application/pdf",
        fileName: Json.text(Json.field(file, "filename")),
        data
      })
    }
    default:
      return Reading.wrong(`${path}.type`, "must be one of text, image_url, input_audio, file")
  }
}

const assistantParts = (
  message: Reading.Fields,
  path: string,
  toolNames: Map<string, string>
): ReadonlyArray<Prompt.AssistantMessagePart> => {
  const parts: Array<Prompt.AssistantMessagePart> = []
  const reasoning = Json.text(message["reasoning_content"]) ?? Json.text(message["reasoning"])
  if (reasoning !== undefined) parts.push(Prompt.makePart("reasoning", { text: reasoning }))
  const text = assistantText(message["content"] ?? "", `${path}.content`) || (Json.text(message["refusal"]) ?? "")
  if (text !== "") parts.push(Prompt.makePart("text", { text }))
  const calls = message["tool_calls"] ?? undefined
  if (calls !== undefined) {
    Reading.list(calls, `${path}.tool_calls`).forEach((item, index) => {
      const at = `${path}.tool_calls[${index}]`
      const call = Reading.object(item, at)
      const described = Reading.object(call["function"], `${at}.function`)
      const id = Reading.name(call["id"], `${at}.id`)
      const name = Reading.name(described["name"], `${at}.function.name`)
      const written = Reading.text(described["arguments"] ?? "", `${at}.function.arguments`)
      const params = written.trim() === "" ? {} : Json.parse(written)
      if (params === undefined) Reading.wrong(`${at}.function.arguments`, "must be JSON")
      toolNames.set(id, name)
      parts.push(Prompt.makePart("tool-call", { id, name, params, providerExecuted: false }))
    })
  }
  return parts
}

const assistantText = (content: unknown, path: string): string =>
  typeof content === "string"
    ? content
    : Reading.list(content, path).map((part, index) =>
      Json.string(Json.field(part, "text")) ?? Json.string(Json.field(part, "refusal")) ??
        Reading.wrong(`${path}[${index}]`, "must be text or a refusal")
    ).join("")

const tools = (given: unknown): ReadonlyArray<Tool.Any> | undefined => {
  if (given === undefined || given === null) return undefined
  return Reading.list(given, "tools").map((item, index) => {
    const path = `tools[${index}]`
    if (Json.field(item, "type") !== "function") Reading.wrong(`${path}.type`, "must be function")
    const described = Reading.object(Json.field(item, "function"), `${path}.function`)
    const strict = described["strict"]
    return Reading.tool({
      name: Reading.name(described["name"], `${path}.function.name`),
      description: Json.text(described["description"]),
      schema: described["parameters"] ?? undefined,
      strict: typeof strict === "boolean" ? strict : undefined
    }, `${path}.function.parameters`)
  })
}

const toolChoice = (choice: unknown): CompletionRequest["toolChoice"] => {
  if (choice === undefined || choice === null) return undefined
  if (choice === "auto" || choice === "none" || choice === "required") return choice
  const tool = Json.text(Json.field(Json.field(choice, "function"), "name"))
  return tool === undefined
    ? Reading.wrong("tool_choice", "must be auto, none, required or one function")
    : { tool }
}

const responseFormat = (format: unknown): ResponseFormat | undefined => {
  if (format === undefined || format === null) return undefined
  const type = Json.field(format, "type")
  switch (type) {
    case "text":
    case "json_object":
      return { type }
    case "json_schema": {
      const described = Reading.object(Json.field(format, "json_schema"), "response_format.json_schema")
      return {
        type,
        name: Reading.name(described["name"], "response_format.json_schema.name"),
        description: Json.text(described["description"]),
        schema: Reading.object(described["schema"] ?? {}, "response_format.json_schema.schema"),
        strict: described["strict"] === true
      }
    }
    default:
      return Reading.wrong("response_format.type", "must be one of text, json_object, json_schema")
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// answers
// ---------------------------------------------------------------------------------------------------------------------

const finishReason = (reason: Response.FinishReason): string => {
  switch (reason) {
    case "length":
      return "length"
    case "tool-calls":
      return "tool_calls"
    case "content-filter":
      return "content_filter"
    case "stop":
    case "pause":
    case "error":
    case "other":
    case "unknown":
      return "stop"
  }
}

/** What all choices have used; a provider that did not count has used something all the same, and nothing is made up. */
const usage = (usages: ReadonlyArray<Response.Usage>): unknown => {
  const total = { input: 0, output: 0, cached: 0, reasoning: 0 }
  for (const { inputTokens, outputTokens } of usages) {
    if (inputTokens.total === undefined && outputTokens.total === undefined) return undefined
    total.input += inputTokens.total ?? 0
    total.output += outputTokens.total ?? 0
    total.cached += inputTokens.cacheRead ?? 0
    total.reasoning += outputTokens.reasoning ?? 0
  }
  return {
    prompt_tokens: total.input,
    completion_tokens: total.output,
    total_tokens: total.input + total.output,
    prompt_tokens_details: { cached_tokens: total.cached },
    completion_tokens_details: { reasoning_tokens: total.reasoning }
  }
}

const isRefusal = (metadata: Response.ProviderMetadata): boolean =>
  Json.field(metadata["breakwater"], "refusal") === true

const whole = (envelope: Envelope, completions: Arr.NonEmptyReadonlyArray<Completion>): unknown => ({
  id: idOf(envelope),
  object: "chat.completion",
  created: envelope.created,
  model: completions[0].model,
  choices: completions.map(choice),
  usage: usage(completions.map((_) => _.usage))
})

const choice = (completion: Completion, index: number): unknown => {
  let content = ""
  let refusal = ""
  let reasoning = ""
  const calls: Array<unknown> = []
  for (const part of completion.content) {
    if (part.type === "text") {
      if (isRefusal(part.metadata)) refusal += part.text
      else content += part.text
    } else if (part.type === "reasoning") reasoning += part.text
    else if (part.type === "tool-call") {
      calls.push({
        id: part.id,
        type: "function",
        function: { name: part.name, arguments: JSON.stringify(part.params ?? {}) }
      })
    }
  }
  return {
    index,
    message: {
      role: "assistant",
      content: content === "" && (calls.length > 0 || refusal !== "") ? null : content,
      refusal: refusal === "" ? null : refusal,
      ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
      ...(calls.length === 0 ? {} : { tool_calls: calls })
    },
    logprobs: null,
    finish_reason: finishReason(completion.finishReason)
  }
}

const idOf = ({ requestId }: Envelope): string => `chatcmpl-${requestId}`

// ---------------------------------------------------------------------------------------------------------------------
// events
// ---------------------------------------------------------------------------------------------------------------------

interface OpenCall {
  readonly index: number
  written: boolean
}

/** What a client has been told of a choice. */
interface Choice {
  readonly index: number
  begun: boolean
  calls: Map<string, OpenCall>
  refusals: Set<string>
}

const writer = (envelope: Envelope, { choices: count, includeUsage, model: asked }: Asked): Writer => {
  let model = asked
  const choices = Array.from(
    { length: count },
    (_, index): Choice => ({ index, begun: false, calls: new Map(), refusals: new Set() })
  )
  const usages: Array<Response.Usage> = []

  const event = (choices: ReadonlyArray<unknown>, used: unknown): string => {
    const chunk = {
      id: idOf(envelope),
      object: "chat.completion.chunk",
      created: envelope.created,
      model,
      choices,
      ...(includeUsage ? { usage: used } : {})
    }
    return `data: ${JSON.stringify(chunk)}\n\n`
  }

  const delta = ({ index }: Choice, value: unknown, reason: string | null = null): string =>
    event([{ index, delta: value, logprobs: null, finish_reason: reason }], null)

  const started = (choice: Choice, text: string): string => {
    if (choice.begun) return text
    choice.begun = true
    return delta(choice, { role: "assistant", content: "" }) + text
  }

  const callStart = (choice: Choice, id: string, name: string): string => {
    const index = choice.calls.size
    choice.calls.set(id, { index, written: false })
    const call = { index, id, type: "function", function: { name, arguments: "" } }
    return started(choice, delta(choice, { tool_calls: [call] }))
  }

  const callDelta = (choice: Choice, id: string, fragment: string): string => {
    const call = choice.calls.get(id)
    if (call === undefined || fragment === "") return ""
    call.written = true
    return delta(choice, { tool_calls: [{ index: call.index, function: { arguments: fragment } }] })
  }

  /** The last choice to end ends the stream. */
  const finished = (used: Response.Usage): string => {
    usages.push(used)
    if (usages.length < count) return ""
    return (includeUsage ? event([], usage(usages) ?? null) : "") + "data: [DONE]\n\n"
  }

  const part = (choice: Choice, part: StreamPart): string => {
    switch (part.type) {
      case "response-metadata":
        model = part.modelId ?? model
        return ""
      case "text-start":
        if (isRefusal(part.metadata)) choice.refusals.add(part.id)
        return ""
      case "text-delta": {
        const isRefused = choice.refusals.has(part.id)
        return started(choice, delta(choice, isRefused ? { refusal: part.delta } : { content: part.delta }))
      }
      case "reasoning-delta":
        return started(choice, delta(choice, { reasoning_content: part.delta }))
      case "tool-params-start":
        return callStart(choice, part.id, part.name)
      case "tool-params-delta":
        return callDelta(choice, part.id, part.delta)
      case "tool-params-end":
        // Clients parse the arguments of every call, and nothing at all is no JSON.
        return choice.calls.get(part.id)?.written === false ? callDelta(choice, part.id, "{}") : ""
      case "tool-call":
        return choice.calls.has(part.id)
          ? ""
          : callStart(choice, part.id, part.name) + callDelta(choice, part.id, JSON.stringify(part.params ?? {}))
      case "finish":
        return started(choice, delta(choice, {}, finishReason(part.reason))) + finished(part.usage)
      case "restarted": {
        choice.calls = new Map()
        choice.refusals = new Set()
        const { discarded, errorClass, from, reason, target } = part
        return `data: ${
          JSON.stringify({
            id: idOf(envelope),
            object: "breakwater.restarted",
            created: envelope.created,
            model,
            choices: [],
            breakwater: { choice: choice.index, from, target, error_class: errorClass, reason, discarded }
          })
        }\n\n`
      }
      case "text-end":
      case "reasoning-start":
      case "reasoning-end":
      case "file":
      case "source":
        return ""
    }
  }

  return {
    parts: (parts, index) => {
      const choice = choices[index]
      let text = ""
      if (choice !== undefined) { for (const each of parts) text += part(choice, each) }
      return text
    },
    failure: (refused) => `data: ${JSON.stringify(refusal(envelope, refused))}\n\n`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/** The names that clients of this format look for. */
const codes: Readonly<Record<string, string>> = {
  rate_limit: "rate_limit_exceeded",
  daily_quota: "rate_limit_exceeded",
  monthly_quota: "rate_limit_exceeded",
  concurrency: "rate_limit_exceeded",
  queue_full: "rate_limit_exceeded",
  queue_timeout: "rate_limit_exceeded",
  cooldown: "rate_limit_exceeded",
  billing_disabled: "insufficient_quota"
}

const typeOf = (status: number, code: string): string => {
  if (code === "insufficient_quota") return code
  if (status === 429) return "rate_limit_error"
  if (status === 401) return "authentication_error"
  if (status === 403) return "permission_error"
  if (status === 408 || status === 504) return "timeout_error"
  return status < 500 ? "invalid_request_error" : "server_error"
}

const refusal = (envelope: Pick<Envelope, "requestId">, { code: reason, message, param, status }: Refusal): unknown => {
  const code = codes[reason] ?? reason
  return {
    error: { message, type: typeOf(status, code), param: param ?? null, code, request_id: envelope.requestId }
  }
}

export const face: Face = {
  name: "openai",
  read,
  whole,
  writer,
  refusal,
  status: (refused) => refused.status,
  headers: [],
  requestIdHeader: "x-request-id"
}
