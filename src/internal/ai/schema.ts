/**
 * A JSON schema that the structured output of every provider takes.
 *
 * @internal
 */
import type * as LanguageModel from "effect/ai/LanguageModel"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import type * as JsonSchema from "effect/JsonSchema"

/**
 * The subset of OpenAI (every property required, no others) without the bounds that Anthropic refuses; both stand in the
 * descriptions, and the codec still checks them.
 */
export const portable: LanguageModel.CodecTransformer = (schema) => {
  const { codec, jsonSchema } = toCodecOpenAI(schema)
  return { codec, jsonSchema: withoutBounds(jsonSchema) }
}

const bounds: ReadonlySet<string> = new Set([
  "multipleOf",
  "minimum",
  "exclusiveMinimum",
  "maximum",
  "exclusiveMaximum",
  "minItems",
  "maxItems"
])

const withoutBounds = (schema: JsonSchema.JsonSchema): JsonSchema.JsonSchema => {
  const out: JsonSchema.JsonSchema = {}
  for (const [key, value] of Object.entries(schema)) if (!bounds.has(key)) out[key] = inner(key, value)
  return out
}

const inner = (key: string, value: unknown): unknown => {
  switch (key) {
    case "properties":
    case "$defs":
      return isSchema(value)
        ? Object.fromEntries(Object.entries(value).map(([name, one]) => [name, whole(one)]))
        : value
    case "items":
      return whole(value)
    case "anyOf":
      return Array.isArray(value) ? value.map(whole) : value
    default:
      return value
  }
}

const whole = (value: unknown): unknown => isSchema(value) ? withoutBounds(value) : value

const isSchema = (value: unknown): value is JsonSchema.JsonSchema =>
  typeof value === "object" && value !== null && !Array.isArray(value)
