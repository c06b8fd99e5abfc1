/**
 * What a vendor adapter implements, and the registry of adapters.
 *
 * An adapter turns a request into one HTTP exchange with one target and the vendor's reply into parts, or into one of
 * the seven errors. It knows the wire format and nothing of retries, limits or other targets.
 *
 * **Details**
 *
 * `layer` knows `openai`, `azure`, `anthropic`, `groq`, `mistral`, `deepseek`, `xai`, `moonshot`, `openrouter` and
 * `ollama`. Any other name is taken for a server that speaks the chat completions format of OpenAI at the target's
 * `baseUrl`; a target of an unknown provider without one fails with a `PermanentError` that names the field.
 *
 * A key travels in the vendor's authorization header and nowhere else. No span is opened and no trace header sent.
 * An interrupted call closes its connection at once.
 *
 * **Gotchas**
 *
 * Give the layer a bare `HttpClient`: retries or limits of its own would stack under ours. Time limits are this
 * library's business, but clients bring some: Node's `fetch` (`FetchHttpClient.layer`) gives up after 300 s without
 * headers or between two pieces of a body, `NodeHttpClient.layerUndici` after an hour without headers. `fetch` also
 * follows redirects by itself.
 *
 * **Example** (Registering an adapter under a name of your own)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAiCompatible, Provider } from "breakwater"
 *
 * const together = OpenAiCompatible.make({
 *   ...OpenAiCompatible.generic,
 *   baseUrl: "https://api.together.xyz/v1"
 * })
 *
 * const layer = Layer.unwrap(Effect.map(together, (adapter) => Provider.layerWith({ together: adapter }))).pipe(
 *   Layer.provide(FetchHttpClient.layer)
 * )
 *
 * const program = Effect.map(Provider.Provider, (provider) => provider.names.includes("together"))
 *
 * await Effect.runPromise(Effect.provide(program, layer)) // => true
 * ```
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import type * as Stream from "effect/Stream"
import type { LLMError } from "./LLMError.ts"
import type { CompletionRequest, ContentPart, ProviderPart } from "./LLMService.ts"
import * as Anthropic from "./providers/Anthropic.ts"
import * as AzureOpenAi from "./providers/AzureOpenAi.ts"
import * as OpenAiCompatible from "./providers/OpenAiCompatible.ts"
import type { Target } from "./Target.ts"

/**
 * A whole answer, as an adapter returns it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reply {
  readonly content: ReadonlyArray<ContentPart>
  readonly usage: Response.Usage
  readonly finishReason: Response.FinishReason
  /** Model that answered, as the provider names it; the target's model when it does not say. */
  readonly model: string
  readonly requestId: string | undefined
}

/**
 * Speaks one wire format.
 *
 * **Details**
 *
 * Both effects close their socket at once when they are interrupted. A stream emits a `response-metadata` part as soon
 * as the response headers have arrived, content parts as they come, and one `finish` part last; it fails when the
 * provider's terminal event never came.
 *
 * @category models
 * @since 0.1.0
 */
export interface Adapter {
  readonly complete: (target: Target, request: CompletionRequest) => Effect.Effect<Reply, LLMError>
  readonly stream: (target: Target, request: CompletionRequest) => Stream.Stream<ProviderPart, LLMError>
  /**
   * Says what a target lacks, as the field and why, such as `baseUrl is missing: …`; asked once, when a router is built,
   * which then throws. Without it whatever is wrong shows at the first call.
   */
  readonly check?: ((target: Target) => string | undefined) | undefined
}

export {
  /**
   * Observer of response heads, for those who learn from rate-limit headers.
   *
   * **Details**
   *
   * An adapter runs it once for every response, refused ones included, before it reads the body. It is set around a
   * call, not in a layer, and nobody observes by default.
   *
   * @category references
   * @since 0.1.0
   */
  OnResponse
} from "./internal/wire/onResponse.ts"

export type { ResponseHead } from "./internal/wire/onResponse.ts"

/**
 * Registry that returns the adapter of a provider name.
 *
 * @category services
 * @since 0.1.0
 */
export class Provider extends Context.Service<Provider, {
  /**
   * Returns the adapter of a provider, or `undefined` when there is none for that name.
   *
   * The registries of `layer` and `layerWith` have one for every name: the chat completions format is their default.
   */
  readonly adapter: (provider: string) => Adapter | undefined
  /** Names of the registered providers, for error messages. */
  readonly names: ReadonlyArray<string>
}>()("breakwater/Provider") {}

/**
 * Provides the registry of the known providers and of adapters of your own.
 *
 * **Details**
 *
 * An adapter under the name of a known provider replaces it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (
  adapters: Readonly<Record<string, Adapter>>
): Layer.Layer<Provider, never, HttpClient.HttpClient> =>
  Layer.effect(
    Provider,
    Effect.map(HttpClient.HttpClient, (client) => {
      const known = new Map<string, Adapter>([
        ["azure", AzureOpenAi.fromClient(client)],
        ["anthropic", Anthropic.fromClient(client)]
      ])
      for (const [name, preset] of Object.entries(OpenAiCompatible.presets)) {
        known.set(name, OpenAiCompatible.fromClient(client, preset))
      }
      for (const [name, adapter] of Object.entries(adapters)) known.set(name, adapter)
      const generic = OpenAiCompatible.fromClient(client, OpenAiCompatible.generic)
      return Provider.of({
        adapter: (provider) => known.get(provider) ?? generic,
        names: [...known.keys()]
      })
    })
  )

/**
 * Provides the registry of the known providers.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Provider, never, HttpClient.HttpClient> = layerWith({})
