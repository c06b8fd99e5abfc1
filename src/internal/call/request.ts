/**
 * Checks a request once, before the first attempt, and reads from it what a target must be able to do.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { PermanentError } from "../../LLMError.ts"
import type { CompletionRequest } from "../../LLMService.ts"
import type { Capabilities } from "../../Target.ts"

/** A request whose prompt can be read any number of times. */
export interface Prepared extends CompletionRequest {
  readonly prompt: Prompt.Prompt
}

const invalid = (detail: string): PermanentError =>
  new PermanentError({ provider: "none", origin: "router", reason: "invalid_request", scope: "request", detail })

const isPositiveInteger = (value: number): boolean => Number.isInteger(value) && value > 0

const problem = (request: CompletionRequest): string | undefined => {
  const { deadline, maxTokens, responseFormat, temperature, topP } = request
  if (maxTokens !== undefined && !isPositiveInteger(maxTokens)) {
    return `request.maxTokens must be an integer > 0, got ${maxTokens}`
  }
  if (temperature !== undefined && !(Number.isFinite(temperature) && temperature >= 0)) {
    return `request.temperature must be a number >= 0, got ${temperature}`
  }
  if (topP !== undefined && !(topP > 0 && topP <= 1)) return `request.topP must be in (0, 1], got ${topP}`
  if (deadline !== undefined) {
    const millis = Duration.fromInput(deadline)
    if (millis._tag === "None" || !(Duration.toMillis(millis.value) > 0)) {
      return `request.deadline must be a duration > 0, got ${String(deadline)}`
    }
  }
  if (responseFormat?.type === "json_schema" && !/^[A-Za-z0-9_-]{1,64}$/.test(responseFormat.name)) {
    return `request.responseFormat.name must be 1-64 letters, digits, "_" or "-"`
  }
  if (request.tenant?.trim() === "") return "request.tenant must not be empty"
  if (request.priority !== undefined && !priorities.has(request.priority)) {
    return `request.priority must be one of ${Array.from(priorities).join(", ")}, got ${String(request.priority)}`
  }
  return undefined
}

const priorities: ReadonlySet<string> = new Set(["emergency", "high", "normal", "low", "background"])

/** Fails with a `PermanentError` that names the field; the prompt itself is never echoed. */
export const prepare = (request: CompletionRequest): Effect.Effect<Prepared, PermanentError> => {
  const wrong = problem(request)
  if (wrong !== undefined) return Effect.fail(invalid(wrong))
  // Prompt.make throws on messages that do not decode; the thrown text would repeat the prompt.
  const prompt = Result.try(() => Prompt.make(request.prompt))
  return Result.isFailure(prompt)
    ? Effect.fail(invalid("request.prompt must be a text, messages or a Prompt of effect/ai"))
    : prompt.success.content.length === 0
    ? Effect.fail(invalid("request.prompt must not be empty"))
    : Effect.succeed({ ...request, prompt: prompt.success })
}

const hasImage = (prompt: Prompt.Prompt): boolean =>
  prompt.content.some((message) =>
    message.role !== "system" &&
    message.content.some((part) => part.type === "file" && part.mediaType.startsWith("image/"))
  )

/** The first thing a request needs that a target has declared it cannot do. */
export const missing = (capabilities: Capabilities, request: Prepared): keyof Capabilities | undefined => {
  if (capabilities.tools === false && (request.tools?.length ?? 0) > 0) return "tools"
  if (capabilities.jsonSchema === false && request.responseFormat?.type === "json_schema") return "jsonSchema"
  if (capabilities.images === false && hasImage(request.prompt)) return "images"
  return undefined
}
