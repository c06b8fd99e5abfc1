/**
 * Reads a chat request of one of the three wire formats.
 *
 * @since 0.1.0
 */
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Format } from "./vendor.ts"

/**
 * A chat request as the server understood it, whatever its wire format.
 *
 * @category models
 * @since 0.1.0
 */
export interface ChatRequest {
  readonly model: string
  /** Name of the key it came with; never the secret. */
  readonly key: string
  readonly stream: boolean
  readonly messages: ReadonlyArray<{ readonly role: string; readonly text: string }>
  readonly maxTokens: number | undefined
  readonly tools: ReadonlyArray<{ readonly name: string; readonly schema: unknown }>
  /** Tool that the reply has to call: its name, `required` for any of them, `undefined` for none. */
  readonly toolChoice: { readonly name: string } | "required" | undefined
  /** JSON schema that the reply has to follow. */
  readonly jsonSchema: unknown
  /** Input tokens: characters of the messages ÷ 4. */
  readonly inputTokens: number
  /** The body as it was sent. */
  readonly body: unknown
}

/** @internal */
export interface Parsed extends ChatRequest {
  readonly includeUsage: boolean
}

/** @internal */
export interface Invalid {
  readonly message: string
  readonly param: string | undefined
}

/** @internal */
export const tokensOf = (text: string): number => Math.ceil(text.length / 4)

const MaxTokens = Schema.Int.check(Schema.isGreaterThan(0))

const Message = Schema.Struct({ role: Schema.String, content: Schema.optional(Schema.Unknown) })

const OpenAiBody = Schema.Struct({
  messages: Schema.Array(Message),
  stream: Schema.optional(Schema.NullOr(Schema.Boolean)),
  stream_options: Schema.optional(
    Schema.NullOr(Schema.Struct({ include_usage: Schema.optional(Schema.NullOr(Schema.Boolean)) }))
  ),
  max_tokens: Schema.optional(Schema.NullOr(MaxTokens)),
  max_completion_tokens: Schema.optional(Schema.NullOr(MaxTokens)),
  tools: Schema.optional(
    Schema.NullOr(Schema.Array(Schema.Struct({
      function: Schema.Struct({ name: Schema.String, parameters: Schema.optional(Schema.Unknown) })
    })))
  ),
  tool_choice: Schema.optional(
    Schema.NullOr(
      Schema.Union([Schema.String, Schema.Struct({ function: Schema.Struct({ name: Schema.String }) })])
    )
  ),
  response_format: Schema.optional(
    Schema.NullOr(Schema.Struct({
      type: Schema.String,
      json_schema: Schema.optional(Schema.Struct({ schema: Schema.optional(Schema.Unknown) }))
    }))
  )
})

const AnthropicBody = Schema.Struct({
  messages: Schema.Array(Message),
  max_tokens: MaxTokens,
  system: Schema.optional(Schema.Unknown),
  stream: Schema.optional(Schema.Boolean),
  tools: Schema.optional(
    Schema.Array(Schema.Struct({ name: Schema.String, input_schema: Schema.optional(Schema.Unknown) }))
  ),
  tool_choice: Schema.optional(Schema.Struct({ type: Schema.String, name: Schema.optional(Schema.String) })),
  output_config: Schema.optional(Schema.Unknown),
  output_format: Schema.optional(Schema.Unknown)
})

const decodeOpenAi = Schema.decodeUnknownResult(OpenAiBody)
const decodeAnthropic = Schema.decodeUnknownResult(AnthropicBody)

/** @internal */
export const json = (text: string): Option.Option<unknown> => Option.liftThrowable((): unknown => JSON.parse(text))()

/**
 * Returns the model a body names, or the empty string.
 *
 * @internal
 */
export const modelOf = (body: unknown): string =>
  Predicate.hasProperty(body, "model") && typeof body.model === "string" ? body.model : ""

// Content is a string or parts; text is under `text`, or under `content` again in a tool's result.
const textOf = (content: unknown): string => {
  if (typeof content === "string") return content
  if (Array.isArray(content)) return content.map(textOf).join("")
  if (Predicate.hasProperty(content, "text")) return textOf(content.text)
  if (Predicate.hasProperty(content, "content")) return textOf(content.content)
  return ""
}

const field = (value: unknown, ...path: ReadonlyArray<string>): unknown =>
  path.reduce<unknown>((at, name) => Predicate.hasProperty(at, name) ? at[name] : undefined, value)

/** @internal */
export const parse = (
  format: Format,
  body: unknown,
  options: { readonly model: string; readonly key: string }
): Result.Result<Parsed, Invalid> => {
  if (options.model === "") {
    return Result.fail({ message: format === "anthropic" ? "model: Field required" : missingModel, param: undefined })
  }
  return format === "anthropic" ? parseAnthropic(body, options) : parseOpenAi(body, options)
}

const missingModel = "you must provide a model parameter"

const invalid = (error: Schema.SchemaError): Invalid => ({
  message: `Invalid request body: ${error.message.split("\n").map((line) => line.trim()).join(" ")}`,
  param: /\["(\w+)"\]/.exec(error.message)?.[1]
})

const inputTokens = (messages: ChatRequest["messages"]): number =>
  Math.ceil(messages.reduce((sum, message) => sum + message.text.length, 0) / 4)

const parseOpenAi = (
  body: unknown,
  options: { readonly model: string; readonly key: string }
): Result.Result<Parsed, Invalid> =>
  Result.map(Result.mapError(decodeOpenAi(body), invalid), (wire) => {
    const messages = wire.messages.map(({ content, role }) => ({ role, text: textOf(content) }))
    const choice = wire.tool_choice ?? undefined
    return {
      ...options,
      stream: wire.stream === true,
      includeUsage: wire.stream_options?.include_usage === true,
      messages,
      maxTokens: wire.max_completion_tokens ?? wire.max_tokens ?? undefined,
      tools: (wire.tools ?? []).map((tool) => ({ name: tool.function.name, schema: tool.function.parameters })),
      toolChoice: typeof choice === "object"
        ? choice.function
        : choice === "required" || choice === "any"
        ? "required"
        : undefined,
      jsonSchema: wire.response_format?.json_schema?.schema ??
        (wire.response_format?.type === "json_object" ? { type: "object" } : undefined),
      inputTokens: inputTokens(messages),
      body
    }
  })

const parseAnthropic = (
  body: unknown,
  options: { readonly model: string; readonly key: string }
): Result.Result<Parsed, Invalid> => {
  if (!Predicate.hasProperty(body, "max_tokens")) {
    return Result.fail({ message: "max_tokens: Field required", param: undefined })
  }
  return Result.map(Result.mapError(decodeAnthropic(body), invalid), (wire) => {
    const system = textOf(wire.system)
    const messages = [
      ...(system === "" ? [] : [{ role: "system", text: system }]),
      ...wire.messages.map(({ content, role }) => ({ role, text: textOf(content) }))
    ]
    const choice = wire.tool_choice
    return {
      ...options,
      stream: wire.stream === true,
      includeUsage: true,
      messages,
      maxTokens: wire.max_tokens,
      tools: (wire.tools ?? []).map((tool) => ({ name: tool.name, schema: tool.input_schema })),
      toolChoice: choice?.type === "any"
        ? "required"
        : choice?.type === "tool" && choice.name !== undefined
        ? { name: choice.name }
        : undefined,
      jsonSchema: field(wire.output_config, "format", "schema") ?? field(wire.output_format, "schema"),
      inputTokens: inputTokens(messages),
      body
    }
  })
}
