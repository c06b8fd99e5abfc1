/**
 * The models of the catalogue and what is published about them.
 *
 * A figure stands here when two sources agree on it and none contradicts: the vendors' pages, LiteLLM's table (June 2025
 * for what Groq has retired, 2026 for the rest), models.dev, the tables of LobeChat, Helicone and Portkey. Where they
 * disagree, as on the windows of Groq's previews, which grew while they ran, the field is left out.
 *
 * @internal
 */
interface Figures {
  readonly contextWindow?: number
  readonly maxOutputTokens?: number
  /** US dollars per million tokens. */
  readonly price?: { readonly input: number; readonly output: number; readonly cachedInput?: number }
}

interface Capabilities {
  readonly tools?: true
  readonly images?: boolean
  readonly jsonSchema?: boolean
  readonly prefill?: true
}

interface Entry extends Figures {
  readonly provider: string
  readonly model: string
  readonly capabilities: Capabilities
}

const tools: Capabilities = { tools: true }
const images: Capabilities = { images: true }

// Groq enforces schemas on none of these models, and documents for none that it continues a reply.
const groq = (model: string, figures: Figures, can: Capabilities = {}): Entry => ({
  provider: "groq",
  model,
  ...figures,
  capabilities: { images: false, jsonSchema: false, ...can }
})

const openai = (model: string, figures: Figures, can: Capabilities = {}): Entry => ({
  provider: "openai",
  model,
  ...figures,
  capabilities: { images: false, jsonSchema: false, ...can }
})

// Anthropic enforces schemas since Claude 4.5; it continues a reply that the prompt begins in the models before 4.6.
const anthropic = (model: string, figures: Figures): Entry => ({
  provider: "anthropic",
  model,
  contextWindow: 200_000,
  ...figures,
  capabilities: { tools: true, images: true, jsonSchema: false, prefill: true }
})

/** @internal */
export const models: ReadonlyArray<Entry> = [
  groq("llama-3.3-70b-versatile", {
    contextWindow: 131_072,
    maxOutputTokens: 32_768,
    price: { input: 0.59, output: 0.79 }
  }, tools),
  groq("llama-3.3-70b-specdec", { contextWindow: 8192, price: { input: 0.59, output: 0.99 } }),
  groq("llama-3.1-70b-versatile", { price: { input: 0.59, output: 0.79 } }),
  groq("llama-3.1-8b-instant", { contextWindow: 131_072, price: { input: 0.05, output: 0.08 } }, tools),
  groq("llama-3.2-90b-text-preview", { contextWindow: 8192, price: { input: 0.9, output: 0.9 } }),
  groq("llama-3.2-90b-vision-preview", { maxOutputTokens: 8192, price: { input: 0.9, output: 0.9 } }, images),
  groq("llama-3.2-11b-text-preview", { contextWindow: 8192, price: { input: 0.18, output: 0.18 } }),
  groq("llama-3.2-11b-vision-preview", { maxOutputTokens: 8192, price: { input: 0.18, output: 0.18 } }, images),
  groq("llama-3.2-3b-preview", { maxOutputTokens: 8192, price: { input: 0.06, output: 0.06 } }),
  groq("llama-3.2-1b-preview", { maxOutputTokens: 8192, price: { input: 0.04, output: 0.04 } }),
  groq("llama3-70b-8192", { contextWindow: 8192, maxOutputTokens: 8192, price: { input: 0.59, output: 0.79 } }, tools),
  groq("llama3-8b-8192", { contextWindow: 8192, maxOutputTokens: 8192, price: { input: 0.05, output: 0.08 } }, tools),
  groq("mixtral-8x7b-32768", { contextWindow: 32_768, price: { input: 0.24, output: 0.24 } }, tools),
  groq("gemma2-9b-it", { contextWindow: 8192, maxOutputTokens: 8192, price: { input: 0.2, output: 0.2 } }, tools),
  groq("gemma-7b-it", { contextWindow: 8192 }),

  openai("gpt-4o", {
    contextWindow: 128_000,
    maxOutputTokens: 16_384,
    price: { input: 2.5, output: 10, cachedInput: 1.25 }
  }, { tools: true, images: true, jsonSchema: true }),
  openai("gpt-4o-mini", {
    contextWindow: 128_000,
    maxOutputTokens: 16_384,
    price: { input: 0.15, output: 0.6, cachedInput: 0.075 }
  }, { tools: true, images: true, jsonSchema: true }),
  openai("gpt-4-turbo", { contextWindow: 128_000, maxOutputTokens: 4096, price: { input: 10, output: 30 } }, {
    tools: true,
    images: true
  }),
  openai("gpt-4-turbo-preview", { contextWindow: 128_000, maxOutputTokens: 4096, price: { input: 10, output: 30 } }),
  openai("gpt-4", { contextWindow: 8192, price: { input: 30, output: 60 } }, tools),
  openai("gpt-3.5-turbo", { contextWindow: 16_385, maxOutputTokens: 4096, price: { input: 0.5, output: 1.5 } }),
  openai("gpt-3.5-turbo-16k", { contextWindow: 16_385, maxOutputTokens: 4096, price: { input: 3, output: 4 } }),

  anthropic("claude-3-5-sonnet-20241022", {
    maxOutputTokens: 8192,
    price: { input: 3, output: 15, cachedInput: 0.3 }
  }),
  anthropic("claude-3-5-haiku-20241022", {
    maxOutputTokens: 8192,
    price: { input: 0.8, output: 4, cachedInput: 0.08 }
  }),
  anthropic("claude-3-opus-20240229", { maxOutputTokens: 4096, price: { input: 15, output: 75, cachedInput: 1.5 } }),
  anthropic("claude-3-sonnet-20240229", { maxOutputTokens: 4096, price: { input: 3, output: 15 } }),
  anthropic("claude-3-haiku-20240307", {
    maxOutputTokens: 4096,
    price: { input: 0.25, output: 1.25, cachedInput: 0.03 }
  })
]
