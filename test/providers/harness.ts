import * as Provider from "breakwater/Provider"
import * as OpenAiCompatible from "breakwater/providers/OpenAiCompatible"
import * as Target from "breakwater/Target"
import { Effect, Layer, Redacted, Stream } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"

/** A secret that must never come back, in a form that no pattern for keys knows. */
export const canary = "canary.8f3b1c77.d2e94a56"

export const targetOf = (
  provider: string,
  options?: Partial<Parameters<typeof Target.make>[0]>
): Target.Target =>
  Target.make({
    provider,
    model: provider === "anthropic" ? "claude-test" : "test-model",
    key: { id: "key-1", value: Redacted.make(canary) },
    ...(provider === "azure" ? { baseUrl: "https://unit.openai.azure.com" } : undefined),
    ...options
  })

export interface Sent {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Record<string, unknown>
}

/** A client that answers from memory and remembers what it was sent. */
export const memoryClient = (respond: () => Response): { client: HttpClient.HttpClient; sent: Array<Sent> } => {
  const sent: Array<Sent> = []
  const client = HttpClient.make((request, url) =>
    Effect.sync(() => {
      if (request.body._tag !== "Uint8Array") throw new Error("expected a body of bytes")
      sent.push({
        method: request.method,
        url: url.href,
        headers: { ...request.headers },
        body: JSON.parse(new TextDecoder().decode(request.body.body))
      })
      return HttpClientResponse.fromWeb(request, respond())
    })
  )
  return { client, sent }
}

export const adapterOf = (provider: string, client: HttpClient.HttpClient): Effect.Effect<Provider.Adapter> =>
  Effect.map(Provider.Provider, (_) => {
    const adapter = _.adapter(provider)
    if (adapter === undefined) throw new Error(`no adapter for ${provider}`)
    return adapter
  }).pipe(Effect.provide(Provider.layer.pipe(Layer.provide(Layer.succeed(HttpClient.HttpClient, client)))))

export const bytesOf = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text)

/** A body that arrives in the given pieces, and then ends or breaks. */
export const pieces = (
  parts: ReadonlyArray<Uint8Array<ArrayBuffer>>,
  broken?: Error
): ReadableStream<Uint8Array<ArrayBuffer>> => {
  let next = 0
  return new ReadableStream({
    pull: (controller) => {
      const part = parts[next++]
      if (part !== undefined) controller.enqueue(part)
      else if (broken !== undefined) controller.error(broken)
      else controller.close()
    }
  })
}

export const eventStream = (
  parts: ReadonlyArray<Uint8Array<ArrayBuffer>>,
  options?: { readonly broken?: Error; readonly headers?: Record<string, string> }
): Response =>
  new Response(pieces(parts, options?.broken), {
    headers: { "content-type": "text/event-stream", "x-request-id": "req-1", ...options?.headers }
  })

export const json = (body: unknown, init?: ResponseInit): Response =>
  new Response(typeof body === "string" ? body : JSON.stringify(body), {
    ...init,
    headers: { "content-type": "application/json", "x-request-id": "req-1", ...init?.headers }
  })

export const complete = (
  provider: string,
  response: () => Response,
  request: Parameters<Provider.Adapter["complete"]>[1] = { prompt: "Hello" }
) => Effect.flatMap(adapterOf(provider, memoryClient(response).client), (_) => _.complete(targetOf(provider), request))

export const collect = (
  provider: string,
  response: () => Response,
  request: Parameters<Provider.Adapter["complete"]>[1] = { prompt: "Hello" }
) =>
  Effect.flatMap(
    adapterOf(provider, memoryClient(response).client),
    (_) => Stream.runCollect(_.stream(targetOf(provider), request))
  )

/** Parts without what every part carries, so that tables stay readable. */
export const plain = (parts: ReadonlyArray<object>): Array<Record<string, unknown>> =>
  parts.map((part) => {
    const out: Record<string, unknown> = {}
    for (const [name, value] of Object.entries(part)) {
      if (name.startsWith("~") || value === undefined || name === "providerExecuted") continue
      if (name === "metadata" && Object.keys(value).length === 0) continue
      out[name] = name === "usage" ? JSON.parse(JSON.stringify(value)) : value
    }
    return out
  })

export const data = (value: unknown): string => `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`

export const chunk = (delta: unknown, finish: string | null = null, more?: Record<string, unknown>): string =>
  data({
    id: "chatcmpl-1",
    object: "chat.completion.chunk",
    model: "served-model",
    choices: [{ index: 0, delta, finish_reason: finish }],
    ...more
  })

export const named = (event: string, value: Record<string, unknown>): string =>
  `event: ${event}\ndata: ${JSON.stringify({ type: event, ...value })}\n\n`

export const presetNames = Object.keys(OpenAiCompatible.presets)

/** Streams as providers send them; each is a list of events in order. */
export const streams: Record<string, { provider: string; events: ReadonlyArray<string>; terminal: number }> = {
  "openai text with usage": {
    provider: "openai",
    events: [
      chunk({ role: "assistant", content: "", refusal: null }, null, { usage: null, obfuscation: "x" }),
      chunk({ content: "Grüß " }, null, { usage: null }),
      chunk({ content: "dich 👋" }, null, { usage: null }),
      chunk({}, "stop", { usage: null }),
      data({
        id: "chatcmpl-1",
        model: "served-model",
        choices: [],
        usage: {
          prompt_tokens: 12,
          completion_tokens: 9,
          total_tokens: 21,
          prompt_tokens_details: { cached_tokens: 4 },
          completion_tokens_details: { reasoning_tokens: 3 }
        }
      }),
      data("[DONE]")
    ],
    terminal: 3
  },
  "parallel tool calls in fragments": {
    provider: "openai",
    events: [
      chunk({ role: "assistant", content: null }),
      chunk({
        tool_calls: [{ index: 0, id: "call_a", type: "function", function: { name: "weather", arguments: "" } }]
      }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: "{\"city\":" } }] }),
      chunk({ tool_calls: [{ index: 1, id: "call_b", type: "function", function: { name: "time", arguments: "" } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: "\"Köln\"}" } }] }),
      chunk({}, "tool_calls"),
      data("[DONE]")
    ],
    terminal: 5
  },
  "deepseek reasoning with keep-alives": {
    provider: "deepseek",
    events: [
      ": keep-alive\n\n",
      chunk({ role: "assistant", content: null, reasoning_content: "Let me" }),
      ": keep-alive\r\n\r\n",
      chunk({ content: null, reasoning_content: " think" }),
      chunk({ content: "42", reasoning_content: null }),
      chunk({ content: "" }, "stop", {
        usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, prompt_cache_hit_tokens: 8 }
      }),
      data("[DONE]")
    ],
    terminal: 5
  },
  "mistral thinking parts": {
    provider: "mistral",
    events: [
      chunk({ content: [{ type: "thinking", thinking: [{ type: "text", text: "hm" }] }] }, null, { p: "abcd" }),
      chunk({ content: [{ type: "text", text: "yes" }] }),
      chunk(
        {
          tool_calls: [{ id: "abc123def", function: { name: "weather", arguments: "{\"city\":\"Bonn\"}" }, index: 0 }]
        },
        "tool_calls",
        {
          usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }
        }
      ),
      data("[DONE]")
    ],
    terminal: 2
  },
  "azure prompt filter first": {
    provider: "azure",
    events: [
      data({ choices: [], created: 0, id: "", model: "", object: "", prompt_filter_results: [{ prompt_index: 0 }] }),
      chunk({ role: "assistant", content: "Hi" }, null),
      chunk({}, "content_filter"),
      data("[DONE]")
    ],
    terminal: 2
  },
  "groq usage under x_groq": {
    provider: "groq",
    events: [
      chunk({ role: "assistant", reasoning: "so" }, null, { x_groq: { id: "req_1" } }),
      chunk({ content: "ok" }),
      chunk({}, "length", {
        x_groq: { id: "req_1", usage: { prompt_tokens: 2, completion_tokens: 1, total_tokens: 3 } }
      }),
      data("[DONE]")
    ],
    terminal: 2
  },
  "a refusal": {
    provider: "openai",
    events: [
      chunk({ role: "assistant", refusal: "I can" }),
      chunk({ refusal: "not" }),
      chunk({}, "stop"),
      data("[DONE]")
    ],
    terminal: 2
  },
  "carriage returns, no [DONE], several data lines": {
    provider: "ollama",
    events: [
      "data: {\"model\":\"served-model\",\rdata: \"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\r\r",
      chunk({ content: "b" }).replaceAll("\n", "\r\n"),
      chunk({}, "stop").replaceAll("\n", "\r\n")
    ],
    terminal: 2
  },
  "anthropic text, thinking and tool": {
    provider: "anthropic",
    events: [
      named("message_start", {
        message: {
          id: "msg_1",
          model: "claude-served",
          usage: { input_tokens: 10, cache_creation_input_tokens: 3, cache_read_input_tokens: 5, output_tokens: 1 }
        }
      }),
      named("content_block_start", { index: 0, content_block: { type: "thinking", thinking: "", signature: "" } }),
      named("ping", {}),
      named("content_block_delta", { index: 0, delta: { type: "thinking_delta", thinking: "Überlegen" } }),
      named("content_block_delta", { index: 0, delta: { type: "signature_delta", signature: "c2ln" } }),
      named("content_block_stop", { index: 0 }),
      named("content_block_start", { index: 1, content_block: { type: "text", text: "" } }),
      named("content_block_delta", { index: 1, delta: { type: "text_delta", text: "Das Wetter 🌧" } }),
      named("content_block_stop", { index: 1 }),
      named("content_block_start", {
        index: 2,
        content_block: { type: "tool_use", id: "toolu_1", name: "weather", input: {} }
      }),
      named("content_block_delta", { index: 2, delta: { type: "input_json_delta", partial_json: "" } }),
      named("content_block_delta", { index: 2, delta: { type: "input_json_delta", partial_json: "{\"city\": \"Bo" } }),
      named("content_block_delta", { index: 2, delta: { type: "input_json_delta", partial_json: "nn\"}" } }),
      named("content_block_stop", { index: 2 }),
      named("message_delta", { delta: { stop_reason: "tool_use", stop_sequence: null }, usage: { output_tokens: 7 } }),
      named("message_delta", { delta: { stop_reason: "tool_use", stop_sequence: null }, usage: { output_tokens: 25 } }),
      named("message_stop", {})
    ],
    terminal: 16
  }
}
