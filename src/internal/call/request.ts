/**
 * Checks a request once, before the first attempt, and reads from it what a target must be able to do.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { PermanentError } from "../../LLMError.ts"
import type { CompletionRequest } from "../../LLMService.ts"
import { type Capabilities, tagsOf } from "../../Target.ts"

const prepared = Symbol("breakwater/prepared")

/** A request that was checked, and whose prompt can be read any number of times. */
export interface Prepared extends CompletionRequest {
  readonly prompt: Prompt.Prompt
  readonly [prepared]: true
}

const isPrepared = (request: CompletionRequest): request is Prepared => prepared in request

export const invalid = (detail: string): PermanentError =>
  new PermanentError({ provider: "none", origin: "router", reason: "invalid_request", scope: "request", detail })

const isPositiveInteger = (value: number): boolean => Number.isInteger(value) && value > 0

/** What is wrong with what all calls have in common. */
export const check = (request: Omit<CompletionRequest, "prompt">): string | undefined => {
  const { deadline } = request
  if (deadline !== undefined) {
    const millis = Duration.fromInput(deadline)
    if (millis._tag === "None" || !(Duration.toMillis(millis.value) > 0)) {
      return `deadline must be a duration > 0, got ${String(deadline)}`
    }
  }
  if (request.tenant?.trim() === "") return "tenant must not be empty"
  if (request.affinity === "") return "affinity must not be empty"
  if (request.tags !== undefined && tagsOf(request.tags).some((tag) => tag.trim() === "")) {
    return "tags must not be empty"
  }
  if (request.priority !== undefined && !priorities.has(request.priority)) {
    return `priority must be one of ${Array.from(priorities).join(", ")}, got ${String(request.priority)}`
  }
  return undefined
}

const problem = (request: CompletionRequest): string | undefined => {
  const { maxTokens, responseFormat, temperature, topP } = request
  if (maxTokens !== undefined && !isPositiveInteger(maxTokens)) {
    return `request.maxTokens must be an integer > 0, got ${maxTokens}`
  }
  if (temperature !== undefined && !(Number.isFinite(temperature) && temperature >= 0)) {
    return `request.temperature must be a number >= 0, got ${temperature}`
  }
  if (topP !== undefined && !(topP >= 0 && topP <= 1)) return `request.topP must be between 0 and 1, got ${topP}`
  if (responseFormat?.type === "json_schema" && !/^[A-Za-z0-9_-]{1,64}$/.test(responseFormat.name)) {
    return `request.responseFormat.name must be 1-64 letters, digits, "_" or "-"`
  }
  if (request.streamPolicy !== undefined && !streamPolicies.has(request.streamPolicy)) {
    return `request.streamPolicy must be one of ${Array.from(streamPolicies).join(", ")}, got ${
      String(request.streamPolicy)
    }`
  }
  const common = check(request)
  return common === undefined ? undefined : `request.${common}`
}

const streamPolicies: ReadonlySet<string> = new Set(["fail", "restart", "continue", "buffer"])

const priorities: ReadonlySet<string> = new Set(["emergency", "high", "normal", "low", "background"])

/** A failure is a `PermanentError` that names the field; the prompt itself is never echoed. */
export const prepare = (request: CompletionRequest): Result.Result<Prepared, PermanentError> => {
  if (isPrepared(request)) return Result.succeed(request)
  const wrong = problem(request)
  if (wrong !== undefined) return Result.fail(invalid(wrong))
  // Prompt.make throws on messages that do not decode; the thrown text would repeat the prompt.
  const prompt = Result.try(() => Prompt.make(request.prompt))
  return Result.isFailure(prompt)
    ? Result.fail(invalid("request.prompt must be a text, messages or a Prompt of effect/ai"))
    : prompt.success.content.length === 0
    ? Result.fail(invalid("request.prompt must not be empty"))
    : Result.succeed({ ...request, prompt: prompt.success, [prepared]: true })
}

const hasImage = (prompt: Prompt.Prompt): boolean =>
  prompt.content.some((message) =>
    message.role !== "system" &&
    message.content.some((part) => part.type === "file" && part.mediaType.startsWith("image/"))
  )

/** Whether the prompt ends with the beginning of the reply. */
export const isPrefilled = (prompt: Prompt.Prompt): boolean =>
  prompt.content[prompt.content.length - 1]?.role === "assistant"

/** The first thing a request needs that a target has declared it cannot do. */
export const missing = (
  capabilities: Capabilities,
  request: Pick<CompletionRequest, "tools" | "responseFormat"> & { readonly prompt: Prompt.Prompt }
): keyof Capabilities | undefined => {
  if (capabilities.tools === false && (request.tools?.length ?? 0) > 0) return "tools"
  if (capabilities.jsonSchema === false && request.responseFormat?.type === "json_schema") return "jsonSchema"
  if (capabilities.images === false && hasImage(request.prompt)) return "images"
  if (capabilities.prefill === false && isPrefilled(request.prompt)) return "prefill"
  return undefined
}

/** The characters of a prompt that a model reads, and of images and files what they cannot exceed in tokens. */
export const size = (prompt: Prompt.Prompt): number => {
  let characters = 0
  for (const message of prompt.content) {
    if (message.role === "system") characters += message.content.length
    else {
      for (const part of message.content) {
        characters += part.type === "text" || part.type === "reasoning" ? part.text.length : attachment
      }
    }
  }
  return characters
}

/** More than any part but a text is known to cost; what is larger is estimated properly. */
const attachment = 1_000_000

/** The beginning of a prompt, which calls that share it have in common: what a provider's cache can hold. */
export const prefix = (prompt: Prompt.Prompt, characters: number): string => {
  let text = ""
  for (const message of prompt.content) {
    if (text.length >= characters) break
    if (message.role === "system") text += message.content
    else for (const part of message.content) if (part.type === "text") text += part.text
  }
  return text.slice(0, characters)
}
