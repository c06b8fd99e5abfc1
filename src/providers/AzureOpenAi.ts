/**
 * Adapter for Azure OpenAI: the chat completions format under Azure's addresses and credentials.
 *
 * The target's `baseUrl` is the origin of the resource, such as `https://my-resource.openai.azure.com`. A request goes
 * to the path of the target's deployment with its `apiVersion`, or, when `apiVersion` is `v1`, to the v1 surface,
 * where the deployment is the model of the body.
 *
 * **Details**
 *
 * The key goes into the `api-key` header. API versions before 2024-09 know neither `max_completion_tokens` nor
 * `stream_options`; they get `max_tokens`, and no usage in streams.
 *
 * **Gotchas**
 *
 * Limits, keys and outages of Azure belong to a resource and its deployment, so give each its own target and group.
 *
 * **Example** (Looking at what the v1 surface gets)
 *
 * ```ts import.meta.vitest
 * import { AzureOpenAi, Target } from "breakwater"
 *
 * const target = Target.make({
 *   provider: "azure",
 *   model: "gpt-4o",
 *   deployment: "chat-eu",
 *   apiVersion: "v1",
 *   baseUrl: "https://my-resource.openai.azure.com"
 * })
 *
 * AzureOpenAi.url(target) // => "https://my-resource.openai.azure.com/openai/v1/chat/completions"
 * AzureOpenAi.requestBody(target, { prompt: "Hello" })
 * // => { model: "chat-eu", messages: [{ role: "user", content: "Hello" }] }
 * ```
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import { adapter, type Format } from "../internal/wire/http.ts"
import * as Wire from "../internal/wire/prompt.ts"
import type { CompletionRequest } from "../LLMService.ts"
import type { Adapter } from "../Provider.ts"
import type { Target } from "../Target.ts"
import * as OpenAiCompatible from "./OpenAiCompatible.ts"

/**
 * API version used when a target names none.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultApiVersion = "2024-10-21"

/**
 * Creates the Azure adapter over the `HttpClient` of the context.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<Adapter, never, HttpClient.HttpClient> = Effect.map(
  HttpClient.HttpClient,
  (client) => fromClient(client)
)

/**
 * Creates the Azure adapter over a given HTTP client.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromClient = (client: HttpClient.HttpClient): Adapter => adapter(client, format)

/**
 * Returns the address that requests of a target go to, or `undefined` when the target has no `baseUrl`.
 *
 * @category accessors
 * @since 0.1.0
 */
export const url = (target: Target): string | undefined => {
  if (target.baseUrl === undefined) return undefined
  if (isV1(target)) return Wire.join(target.baseUrl, "/openai/v1/chat/completions")
  return Wire.join(target.baseUrl, `/openai/deployments/${encodeURIComponent(deployment(target))}/chat/completions`, {
    "api-version": target.apiVersion ?? defaultApiVersion
  })
}

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

const deployment = (target: Target): string => target.deployment ?? target.model

const isV1 = (target: Target): boolean => target.apiVersion === "v1"

/** Dated versions sort as text; the names `v1` and `preview` sort after all of them, as they should. */
const isOld = (target: Target): boolean => (target.apiVersion ?? defaultApiVersion) < "2024-09"

const encode = (target: Target, request: CompletionRequest, stream: boolean) => {
  const preset: OpenAiCompatible.Preset = isOld(target)
    ? { ...OpenAiCompatible.presets.openai, maxTokensField: "max_tokens", streamUsage: false }
    : OpenAiCompatible.presets.openai
  const { body, problems } = OpenAiCompatible.encode(preset, target, request, stream)
  if (Wire.overridden(target, request, "model")) return { body, problems }
  const { model: _model, ...rest } = body
  return { body: isV1(target) ? { model: deployment(target), ...rest } : rest, problems }
}

const format: Format<OpenAiCompatible.State> = {
  url: Wire.once(url),
  request: (target, request, stream) => ({ headers: {}, ...encode(target, request, stream) }),
  authorize: (key) => ["api-key", key],
  reply: OpenAiCompatible.decodeReply,
  machine: OpenAiCompatible.machine,
  requestIds: ["apim-request-id", "x-request-id", "x-ms-client-request-id"]
}
