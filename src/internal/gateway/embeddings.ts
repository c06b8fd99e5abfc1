/**
 * Embeddings: one small call per target, in the format of OpenAI, under the policies of a router.
 *
 * @internal
 */
import type * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import type * as Result from "effect/Result"
import type { LLMError } from "../../LLMError.ts"
import * as AzureOpenAi from "../../providers/AzureOpenAi.ts"
import type { Usage } from "../../RateLimiter.ts"
import type { Target } from "../../Target.ts"
import * as Http from "../wire/http.ts"
import * as Json from "../wire/json.ts"
import * as Wire from "../wire/prompt.ts"
import { presetOf } from "./config.ts"
import * as Reading from "./reading.ts"
import type { Refusal } from "./refusal.ts"
import type { Format } from "./schema.ts"

/** A request for embeddings: its body goes to the provider as it is, under the target's model. */
export interface Asked {
  readonly model: string
  readonly body: Reading.Fields
  /** Tokens of the input, guessed from its length. */
  readonly tokens: number
}

export const read = (json: unknown): Result.Result<Asked, Refusal> =>
  Reading.reading(() => {
    const body = Reading.body(json)
    const model = Reading.name(body["model"], "model")
    const { input } = body
    if (typeof input !== "string" && !Array.isArray(input)) Reading.wrong("input", "must be a string or an array")
    return { model, body, tokens: Math.ceil(sizeOf(input) / 4) }
  })

const sizeOf = (input: unknown): number =>
  typeof input === "string"
    ? input.length
    // Tokens are numbers, and count as four characters each.
    : typeof input === "number"
    ? 4
    : Json.array(input).reduce<number>((sum, item) => sum + sizeOf(item), 0)

/** Asks one target. */
export const ask = (
  client: HttpClient.HttpClient,
  spoken: Format,
  target: Target,
  asked: Asked
): Effect.Effect<unknown, LLMError> => {
  const body = { ...asked.body, ...target.parameters, model: target.model }
  if (spoken === "azure") {
    return Http.postJson(
      client,
      { authorize: (key) => ["api-key", key], requestIds: ["apim-request-id", "x-request-id"] },
      target,
      AzureOpenAi.url(target)?.replace("/chat/completions", "/embeddings"),
      wire({ ...body, model: target.deployment ?? target.model }),
      isReply
    )
  }
  const preset = spoken === "generic" || spoken === "anthropic" ? undefined : presetOf(spoken)
  const base = target.baseUrl ?? preset?.baseUrl
  return Http.postJson(
    client,
    { authorize: (key) => ["authorization", `Bearer ${key}`], requestIds: preset?.requestIds ?? ["x-request-id"] },
    target,
    base === undefined ? undefined : Wire.join(base, "/embeddings"),
    wire(body),
    isReply
  )
}

const wire = (body: Wire.Body): Http.WireRequest => ({ headers: {}, body, problems: [] })

const isReply = (body: unknown): boolean => Array.isArray(Json.field(body, "data"))

/** What a reply says it has used. */
export const used = (reply: unknown): Usage => {
  const input = Json.count(Json.field(Json.field(reply, "usage"), "prompt_tokens"))
  return input === undefined ? "unknown" : { input, output: 0 }
}
