/**
 * Five SDKs as their users call them, each with its own ways: chat, streams, tools that run, structured output. Here
 * they only say in common words what they saw.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import Anthropic from "@anthropic-ai/sdk"
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema"
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema"
import { type AIMessage, type AIMessageChunk, HumanMessage } from "@langchain/core/messages"
import { tool as langChainTool } from "@langchain/core/tools"
import { ChatOpenAI } from "@langchain/openai"
import * as Ai from "ai"
import Groq from "groq-sdk"
import OpenAI from "openai"
import type { RunnableToolFunctionWithParse } from "openai/lib/RunnableFunction"

/** What a client talks to, and how. */
export interface Ask {
  /** Origin of the server, without a path. */
  readonly origin: string
  readonly apiKey: string
  readonly model: string
  readonly question: string
  /**
   * Retries of the SDK itself.
   *
   * @default what the SDK does when nobody says anything
   */
  readonly maxRetries?: number
  readonly signal?: AbortSignal
}

/** An answer, as the SDK handed it on. */
export interface Seen {
  readonly text: string
  readonly model: string | undefined
  /** In the words of the SDK. */
  readonly finish: string | null | undefined
  readonly usage: readonly [input: number | undefined, output: number | undefined]
}

/** An error, as the SDK threw it. */
export interface Thrown {
  /** Name of its class. */
  readonly error: string
  readonly status: number | undefined
  /** Type or code that the body stated. */
  readonly says: ReadonlyArray<string>
  readonly retryAfter: string | undefined
  readonly message: string
}

export interface Client {
  readonly name: string
  /** Wire format that it speaks. */
  readonly face: "openai" | "anthropic"
  /** Whether `x-should-retry: false` stops the retries of the SDK; they are turned off by hand where it does not. */
  readonly obeys: boolean
  readonly chat: (ask: Ask) => Promise<Seen>
  /** Reads all of a stream; `onText` sees the text as it comes. */
  readonly stream: (ask: Ask, onText?: (text: string) => void) => Promise<Seen>
  /** Lets the model call `lookup_tide`, runs it, gives the result back, and returns what is said then. */
  readonly tools: (ask: Ask, lookup: (harbour: string) => string) => Promise<string>
  /** As `tools`, but the call comes as a stream; returns the arguments that were put together. */
  readonly streamedTool: (ask: Ask) => Promise<unknown>
  /** Asks for an object of `schema`. */
  readonly structured: (ask: Ask) => Promise<unknown>
}

const schema = {
  type: "object",
  properties: { harbour: { type: "string", enum: ["Dover"] }, metres: { type: "number", enum: [6.5] } },
  required: ["harbour", "metres"],
  additionalProperties: false
} as const

const parameters = {
  type: "object",
  properties: { harbour: { type: "string", enum: ["Dover"] } },
  required: ["harbour"],
  additionalProperties: false
} as const

// A schema for the SDKs that want one that may be written to.
type Json = ReturnType<typeof JSON.parse>

const lookupTide = { name: "lookup_tide", description: "Says how high the tide is", parameters } as const

const harbourOf = (input: unknown): string =>
  typeof input === "object" && input !== null && "harbour" in input ? String(input.harbour) : ""

// ---------------------------------------------------------------------------
// openai
// ---------------------------------------------------------------------------

const retries = ({ maxRetries }: Ask) => maxRetries === undefined ? {} : { maxRetries }
const options = ({ signal }: Ask) => signal === undefined ? {} : { signal }

const openAiClient = (ask: Ask) => new OpenAI({ apiKey: ask.apiKey, baseURL: `${ask.origin}/v1`, ...retries(ask) })

const openAiBody = ({ model, question }: Ask) => ({
  model,
  messages: [{ role: "user" as const, content: question }],
  max_tokens: 200
})

const openai: Client = {
  name: "openai",
  face: "openai",
  obeys: true,
  chat: async (ask) => {
    const { choices: [choice], model, usage } = await openAiClient(ask).chat.completions.create(
      openAiBody(ask),
      options(ask)
    )
    return {
      text: choice?.message.content ?? "",
      model,
      finish: choice?.finish_reason,
      usage: [usage?.prompt_tokens, usage?.completion_tokens]
    }
  },
  stream: async (ask, onText) => {
    const stream = await openAiClient(ask).chat.completions.create({
      ...openAiBody(ask),
      stream: true,
      stream_options: { include_usage: true }
    }, options(ask))
    let seen: Seen = { text: "", model: undefined, finish: undefined, usage: [undefined, undefined] }
    for await (const { choices: [choice], model, usage } of stream) {
      const text = choice?.delta.content ?? ""
      if (text !== "") onText?.(text)
      seen = {
        text: seen.text + text,
        model,
        finish: choice?.finish_reason ?? seen.finish,
        usage: usage ? [usage.prompt_tokens, usage.completion_tokens] : seen.usage
      }
    }
    return seen
  },
  tools: async (ask, lookup) => {
    const { description, name } = lookupTide
    const tool: RunnableToolFunctionWithParse<object> = {
      type: "function",
      function: {
        name,
        description,
        parameters: structuredClone<Json>(parameters),
        parse: (text) => JSON.parse(text),
        function: (input) => lookup(harbourOf(input))
      }
    }
    const runner = openAiClient(ask).chat.completions.runTools({ ...openAiBody(ask), tools: [tool] })
    return await runner.finalContent() ?? ""
  },
  streamedTool: async (ask) => {
    const stream = openAiClient(ask).chat.completions.stream({
      ...openAiBody(ask),
      tools: [{ type: "function", function: { ...lookupTide, parameters: { ...parameters } } }]
    })
    const call = (await stream.finalMessage()).tool_calls?.[0]
    return call?.type === "function" ? [call.function.name, JSON.parse(call.function.arguments)] : undefined
  },
  structured: async (ask) => {
    const completion = await openAiClient(ask).chat.completions.parse({
      ...openAiBody(ask),
      response_format: { type: "json_schema", json_schema: { name: "tide", strict: true, schema: { ...schema } } }
    })
    return JSON.parse(completion.choices[0]?.message.content ?? "null")
  }
}

// ---------------------------------------------------------------------------
// groq-sdk, which puts /openai/v1 before its paths itself
// ---------------------------------------------------------------------------

const groqClient = (ask: Ask) => new Groq({ apiKey: ask.apiKey, baseURL: ask.origin, ...retries(ask) })

const groq: Client = {
  name: "groq-sdk",
  face: "openai",
  obeys: true,
  chat: async (ask) => {
    const { choices: [choice], model, usage } = await groqClient(ask).chat.completions.create(
      openAiBody(ask),
      options(ask)
    )
    return {
      text: choice?.message.content ?? "",
      model,
      finish: choice?.finish_reason,
      usage: [usage?.prompt_tokens, usage?.completion_tokens]
    }
  },
  stream: async (ask, onText) => {
    const stream = await groqClient(ask).chat.completions.create({
      ...openAiBody(ask),
      stream: true
    }, options(ask))
    let seen: Seen = { text: "", model: undefined, finish: undefined, usage: [undefined, undefined] }
    // Only Groq itself tells the usage of a stream to a client that has no way to ask for it.
    for await (const { choices: [choice], model } of stream) {
      const text = choice?.delta.content ?? ""
      if (text !== "") onText?.(text)
      const { finish, usage } = seen
      seen = { text: seen.text + text, model, finish: choice?.finish_reason ?? finish, usage }
    }
    return seen
  },
  tools: async (ask, lookup) => {
    const client = groqClient(ask)
    const tools = [{ type: "function" as const, function: lookupTide }]
    const body = openAiBody(ask)
    const message = (await client.chat.completions.create({ ...body, tools })).choices[0]?.message
    const call = message?.tool_calls?.[0]
    if (message === undefined || call === undefined) return ""
    const content = lookup(harbourOf(JSON.parse(call.function.arguments)))
    const messages = [...body.messages, message, { role: "tool" as const, tool_call_id: call.id, content }]
    return (await client.chat.completions.create({ ...body, messages, tools })).choices[0]?.message.content ?? ""
  },
  streamedTool: async (ask) => {
    const tools = [{ type: "function" as const, function: lookupTide }]
    const stream = await groqClient(ask).chat.completions.create({ ...openAiBody(ask), stream: true, tools })
    let name = ""
    let text = ""
    for await (const { choices: [choice] } of stream) {
      const call = choice?.delta.tool_calls?.[0]?.function
      name += call?.name ?? ""
      text += call?.arguments ?? ""
    }
    return [name, JSON.parse(text)]
  },
  structured: async (ask) => {
    const { choices: [choice] } = await groqClient(ask).chat.completions.create({
      ...openAiBody(ask),
      response_format: { type: "json_schema", json_schema: { name: "tide", strict: true, schema } }
    })
    return JSON.parse(choice?.message.content ?? "null")
  }
}

// ---------------------------------------------------------------------------
// @anthropic-ai/sdk
// ---------------------------------------------------------------------------

const anthropicClient = (ask: Ask) => new Anthropic({ apiKey: ask.apiKey, baseURL: ask.origin, ...retries(ask) })

const anthropicText = (content: ReadonlyArray<Anthropic.ContentBlock | Anthropic.Beta.BetaContentBlock>): string =>
  content.map((block) => block.type === "text" ? block.text : "").join("")

const seenByAnthropic = (message: Anthropic.Message): Seen => ({
  text: anthropicText(message.content),
  model: message.model,
  finish: message.stop_reason,
  usage: [message.usage.input_tokens, message.usage.output_tokens]
})

const anthropic: Client = {
  name: "@anthropic-ai/sdk",
  face: "anthropic",
  obeys: true,
  chat: async (ask) => seenByAnthropic(await anthropicClient(ask).messages.create(openAiBody(ask), options(ask))),
  stream: async (ask, onText) => {
    const stream = anthropicClient(ask).messages.stream(openAiBody(ask), options(ask))
    stream.on("text", (text) => onText?.(text))
    return seenByAnthropic(await stream.finalMessage())
  },
  tools: async (ask, lookup) => {
    const { description, name } = lookupTide
    const message = await anthropicClient(ask).beta.messages.toolRunner({
      ...openAiBody(ask),
      tools: [betaTool({ name, description, inputSchema: parameters, run: ({ harbour }) => lookup(harbour) })]
    })
    return anthropicText(message.content)
  },
  streamedTool: async (ask) => {
    const { description, name } = lookupTide
    const stream = anthropicClient(ask).messages.stream({
      ...openAiBody(ask),
      tools: [{ name, description, input_schema: { ...parameters, required: [...parameters.required] } }]
    })
    const block = (await stream.finalMessage()).content.find((block) => block.type === "tool_use")
    return block?.type === "tool_use" ? [block.name, block.input] : undefined
  },
  structured: async (ask) =>
    (await anthropicClient(ask).messages.parse({
      ...openAiBody(ask),
      output_config: { format: jsonSchemaOutputFormat(schema) }
    })).parsed_output
}

// ---------------------------------------------------------------------------
// ai, with @ai-sdk/openai-compatible
// ---------------------------------------------------------------------------

const aiCall = (ask: Ask) => ({
  model: createOpenAICompatible({
    name: "breakwater",
    baseURL: `${ask.origin}/v1`,
    apiKey: ask.apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true
  })(ask.model),
  prompt: ask.question,
  maxOutputTokens: 200,
  ...retries(ask),
  ...(ask.signal === undefined ? {} : { abortSignal: ask.signal })
})

const aiTool = { description: lookupTide.description, inputSchema: Ai.jsonSchema<object>(parameters) }

const ai: Client = {
  name: "ai",
  face: "openai",
  obeys: false,
  chat: async (ask) => {
    const { finishReason, response, text, usage } = await Ai.generateText(aiCall(ask))
    return { text, model: response.modelId, finish: finishReason, usage: [usage.inputTokens, usage.outputTokens] }
  },
  stream: async (ask, onText) => {
    const errors: Array<unknown> = []
    const result = Ai.streamText({ ...aiCall(ask), onError: ({ error }) => void errors.push(error) })
    for await (const text of result.textStream) onText?.(text)
    // What a user of `textStream` sees of an error is this callback.
    if (errors.length > 0) throw errors[0]
    const { inputTokens, outputTokens } = await result.usage
    return {
      text: await result.text,
      model: (await result.response).modelId,
      finish: await result.finishReason,
      usage: [inputTokens, outputTokens]
    }
  },
  tools: async (ask, lookup) =>
    (await Ai.generateText({
      ...aiCall(ask),
      tools: { lookup_tide: Ai.tool({ ...aiTool, execute: (input: object) => lookup(harbourOf(input)) }) },
      stopWhen: Ai.isStepCount(3)
    })).text,
  streamedTool: async (ask) => {
    const result = Ai.streamText({ ...aiCall(ask), tools: { lookup_tide: Ai.tool(aiTool) } })
    const call = (await result.toolCalls)[0]
    return call === undefined ? undefined : [call.toolName, call.input]
  },
  structured: async (ask) =>
    (await Ai.generateText({ ...aiCall(ask), output: Ai.Output.object({ schema: Ai.jsonSchema(schema) }) })).output
}

// ---------------------------------------------------------------------------
// @langchain/openai
// ---------------------------------------------------------------------------

const chatOpenAi = (ask: Ask) =>
  new ChatOpenAI({
    model: ask.model,
    apiKey: ask.apiKey,
    maxTokens: 200,
    configuration: { baseURL: `${ask.origin}/v1` },
    ...retries(ask)
  })

const metadataOf = (metadata: Readonly<Record<string, unknown>>) => ({
  model: metadata["model_name"] === undefined ? undefined : String(metadata["model_name"]),
  finish: metadata["finish_reason"] === undefined ? undefined : String(metadata["finish_reason"])
})

// The type of the SDK is `never` where optional fields are exact.
const usageOf = (
  usage: unknown
): Seen["usage"] => [numberOf(field(usage, "input_tokens")), numberOf(field(usage, "output_tokens"))]

const numberOf = (value: unknown): number | undefined => typeof value === "number" ? value : undefined

const langChain: Client = {
  name: "@langchain/openai",
  face: "openai",
  obeys: false,
  chat: async (ask) => {
    const message: AIMessage = await chatOpenAi(ask).invoke(ask.question, options(ask))
    const { usage_metadata: usage } = message
    return {
      text: message.text,
      ...metadataOf(message.response_metadata),
      usage: usageOf(usage)
    }
  },
  stream: async (ask, onText) => {
    let seen: Seen = { text: "", model: undefined, finish: undefined, usage: [undefined, undefined] }
    const chunks: AsyncIterable<AIMessageChunk> = await chatOpenAi(ask).stream(ask.question, options(ask))
    for await (const chunk of chunks) {
      if (chunk.text !== "") onText?.(chunk.text)
      const { finish, model } = metadataOf(chunk.response_metadata)
      const { usage_metadata: usage } = chunk
      seen = {
        text: seen.text + chunk.text,
        model: model ?? seen.model,
        finish: finish ?? seen.finish,
        usage: usage === undefined ? seen.usage : usageOf(usage)
      }
    }
    return seen
  },
  tools: async (ask, lookup) => {
    const { description, name } = lookupTide
    const lookupTool = langChainTool((input: unknown) => lookup(harbourOf(input)), {
      name,
      description,
      schema: { ...parameters, required: [...parameters.required] }
    })
    const model = chatOpenAi(ask).bindTools([lookupTool])
    const question = new HumanMessage(ask.question)
    const message = await model.invoke([question])
    const call = message.tool_calls?.[0]
    if (call === undefined) return ""
    const result = await lookupTool.invoke({ ...call, type: "tool_call" })
    return (await model.invoke([question, message, result])).text
  },
  streamedTool: async (ask) => {
    const model = chatOpenAi(ask).bindTools([{ type: "function", function: lookupTide }])
    let name = ""
    let text = ""
    for await (const chunk of await model.stream(ask.question)) {
      for (const call of chunk.tool_call_chunks ?? []) {
        name += call.name ?? ""
        text += call.args ?? ""
      }
    }
    return [name, JSON.parse(text)]
  },
  structured: (ask) =>
    chatOpenAi(ask).withStructuredOutput({ ...schema, title: "tide" }, { method: "jsonSchema" }).invoke(ask.question)
}

/** The clients, in no order. */
export const all: ReadonlyArray<Client> = [openai, anthropic, groq, ai, langChain]

const field = (value: unknown, ...names: ReadonlyArray<string>): unknown =>
  names.reduce<unknown>(
    (at, name) =>
      typeof at === "object" && at !== null ? Object.entries(at).find(([key]) => key === name)?.[1] : undefined,
    value
  )

const headerOf = (headers: unknown, name: string): string | undefined => {
  if (headers instanceof Headers) return headers.get(name) ?? undefined
  const value = field(headers, name)
  return typeof value === "string" ? value : undefined
}

/** Says what an SDK threw. */
export const thrownOf = (error: unknown): Thrown => {
  // The `ai` package wraps what it gave up on after retries of its own.
  const last = field(error, "lastError") ?? error
  const status = field(last, "status") ?? field(last, "statusCode")
  // Anthropic's body is in `error`, whole; that of openai is its inner one; that of `ai` is in `data`.
  const body = field(last, "error", "error") ?? field(last, "error") ?? field(last, "data", "error") ?? last
  const says = [field(body, "type"), field(body, "code")].filter((_) => typeof _ === "string")
  return {
    error: last instanceof Error || last instanceof Object ? last.constructor.name : String(last),
    status: typeof status === "number" ? status : undefined,
    says,
    retryAfter: headerOf(field(last, "headers") ?? field(last, "responseHeaders"), "retry-after"),
    message: last instanceof Error ? last.message : String(field(last, "message"))
  }
}
