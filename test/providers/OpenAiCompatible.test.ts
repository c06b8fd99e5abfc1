import { assert, describe, it } from "@effect/vitest"
import * as OpenAiCompatible from "breakwater/providers/OpenAiCompatible"
import { Effect, Schema } from "effect"
import { Prompt, Tool } from "effect/ai"
import * as Arbitrary from "effect/Arbitrary"
import {
  adapterOf,
  bytesOf,
  canary,
  chunk,
  collect,
  complete,
  data,
  eventStream,
  json,
  memoryClient,
  plain,
  presetNames,
  streams,
  targetOf
} from "./harness.ts"

type Request = Parameters<typeof OpenAiCompatible.requestBody>[2]

const { presets, requestBody } = OpenAiCompatible

const body = (provider: keyof typeof presets, request: Request, options?: { stream?: boolean }) =>
  JSON.parse(JSON.stringify(requestBody(presets[provider], targetOf(provider), request, options)))

const Weather = Tool.make("weather", {
  description: "Current weather",
  parameters: Schema.Struct({ city: Schema.String })
})

const schema = { type: "object", properties: { a: { type: "number" } }, required: ["a"], additionalProperties: false }

const conversation = Prompt.make([
  { role: "system", content: "Be brief." },
  { role: "user", content: [{ type: "text", text: "Weather in Bonn?" }] },
  {
    role: "assistant",
    content: [
      { type: "reasoning", text: "I should look." },
      { type: "text", text: "Looking." },
      { type: "tool-call", id: "call-1", name: "weather", params: { city: "Bonn" } }
    ]
  },
  {
    role: "tool",
    content: [{ type: "tool-result", id: "call-1", name: "weather", isFailure: false, result: { celsius: 7 } }]
  }
])

describe("OpenAiCompatible requests", () => {
  it("a conversation keeps its roles, tool calls and results", () => {
    assert.deepStrictEqual(body("openai", { prompt: conversation }), {
      model: "test-model",
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Weather in Bonn?" },
        {
          role: "assistant",
          content: "Looking.",
          tool_calls: [
            { id: "call-1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Bonn\"}" } }
          ]
        },
        { role: "tool", tool_call_id: "call-1", content: "{\"celsius\":7}" }
      ]
    })
  })

  it("reasoning goes back with its tool calls only to providers that take it", () => {
    const assistant = (provider: keyof typeof presets) => body(provider, { prompt: conversation }).messages[2]
    assert.strictEqual(assistant("deepseek").reasoning_content, "I should look.")
    assert.strictEqual(assistant("moonshot").reasoning_content, "I should look.")
    assert.strictEqual(assistant("openrouter").reasoning, "I should look.")
    for (const provider of ["openai", "groq", "mistral", "xai", "ollama"] as const) {
      assert.deepStrictEqual(Object.keys(assistant(provider)), ["role", "content", "tool_calls"])
    }
    const plainTurn = Prompt.make([
      { role: "assistant", content: [{ type: "reasoning", text: "hm" }, { type: "text", text: "yes" }] },
      { role: "assistant", content: [{ type: "reasoning", text: "only this" }] }
    ])
    assert.deepStrictEqual(body("deepseek", { prompt: plainTurn }).messages, [{ role: "assistant", content: "yes" }])
  })

  it("tool call ids are mapped to nine characters for Mistral, the same for call and result", () => {
    const { messages } = body("mistral", { prompt: conversation })
    const id = messages[2].tool_calls[0].id
    assert.match(id, /^[a-zA-Z0-9]{9}$/)
    assert.strictEqual(messages[3].tool_call_id, id)
    const own = Prompt.make([{
      role: "assistant",
      content: [{ type: "tool-call", id: "abc123DEF", name: "f", params: {} }]
    }])
    assert.strictEqual(body("mistral", { prompt: own }).messages[0].tool_calls[0].id, "abc123DEF")
  })

  it("files become the part their media type asks for", () => {
    const content = body("openai", {
      prompt: [{
        role: "user",
        content: [
          { type: "text", text: "Look:" },
          { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
          { type: "file", mediaType: "image/*", data: "AQID" },
          { type: "file", mediaType: "image/png", data: new URL("https://example.com/a.png") },
          { type: "file", mediaType: "image/png", data: "data:image/webp;base64,AQID" },
          { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "AQID" },
          { type: "file", mediaType: "audio/mpeg", data: "AQID" }
        ]
      }]
    }).messages[0].content
    assert.deepStrictEqual(content, [
      { type: "text", text: "Look:" },
      { type: "image_url", image_url: { url: "data:image/png;base64,AQID" } },
      { type: "image_url", image_url: { url: "data:image/jpeg;base64,AQID" } },
      { type: "image_url", image_url: { url: "https://example.com/a.png" } },
      { type: "image_url", image_url: { url: "data:image/webp;base64,AQID" } },
      { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,AQID" } },
      { type: "input_audio", input_audio: { data: "AQID", format: "mp3" } }
    ])
  })

  it("several texts are parts, and one text where a provider takes nothing else", () => {
    const prompt = Prompt.make([{
      role: "user",
      content: [{ type: "text", text: "a" }, { type: "text", text: "b" }]
    }])
    assert.deepStrictEqual(body("openai", { prompt }).messages[0].content, [
      { type: "text", text: "a" },
      { type: "text", text: "b" }
    ])
    assert.strictEqual(body("deepseek", { prompt }).messages[0].content, "a\n\nb")
  })

  it("tools, their choice and the response format take the provider's words", () => {
    const request: Request = { prompt: "Hello", tools: [Weather], toolChoice: "required" }
    const sent = body("openai", request)
    assert.strictEqual(sent.tools[0].type, "function")
    assert.strictEqual(sent.tools[0].function.name, "weather")
    assert.strictEqual(sent.tools[0].function.description, "Current weather")
    assert.strictEqual(sent.tools[0].function.parameters.properties.city.type, "string")
    assert.strictEqual(sent.tool_choice, "required")
    assert.strictEqual(body("mistral", request).tool_choice, "any")
    assert.deepStrictEqual(body("openai", { ...request, toolChoice: { tool: "weather" } }).tool_choice, {
      type: "function",
      function: { name: "weather" }
    })
    assert.notProperty(body("openai", { prompt: "Hello", toolChoice: "auto" }), "tool_choice")

    const jsonSchema = { type: "json_schema", name: "answer", schema } as const
    assert.deepStrictEqual(body("groq", { prompt: "Hello", responseFormat: jsonSchema }).response_format, {
      type: "json_schema",
      json_schema: { name: "answer", strict: true, schema }
    })
    assert.deepStrictEqual(body("xai", { prompt: "Hello", responseFormat: { type: "json_object" } }).response_format, {
      type: "json_object"
    })
    assert.notProperty(body("xai", { prompt: "Hello", responseFormat: { type: "text" } }), "response_format")
  })

  it("a schema that need not be enforced is asked for in words where a provider has no schemas", () => {
    const loose = { type: "json_schema", name: "answer", schema, strict: false } as const
    const sent = body("deepseek", { prompt: "Hello", responseFormat: loose })
    assert.deepStrictEqual(sent.response_format, { type: "json_object" })
    assert.include(sent.messages[0].content, JSON.stringify(schema))
    const strict = body("deepseek", { prompt: "Hello", responseFormat: { ...loose, strict: true } })
    assert.strictEqual(strict.response_format.type, "json_schema")
  })

  it("the reply is limited by the field each provider knows, and never beyond the target", () => {
    for (const provider of presetNames as ReadonlyArray<keyof typeof presets>) {
      const sent = body(provider, { prompt: "Hello", maxTokens: 50 })
      const field = provider === "openai" ? "max_completion_tokens" : "max_tokens"
      assert.strictEqual(sent[field], 50, provider)
      assert.lengthOf(Object.keys(sent).filter((_) => _.startsWith("max_")), 1, provider)
    }
    const capped = targetOf("groq", { maxOutputTokens: 20 })
    assert.strictEqual(requestBody(presets.groq, capped, { prompt: "Hello", maxTokens: 50 })["max_tokens"], 20)
    assert.notProperty(requestBody(presets.groq, capped, { prompt: "Hello" }), "max_tokens")
    const own = requestBody(presets.openai, capped, { prompt: "Hello", maxTokens: 50, extra: { max_tokens: 7 } })
    assert.strictEqual(own["max_tokens"], 7)
    assert.notProperty(own, "max_completion_tokens")
  })

  it("usage is asked for in streams, and never from Mistral", () => {
    for (const provider of presetNames as ReadonlyArray<keyof typeof presets>) {
      const sent = body(provider, { prompt: "Hello" }, { stream: true })
      assert.strictEqual(sent.stream, true)
      assert.deepStrictEqual(
        sent.stream_options,
        provider === "mistral" ? undefined : { include_usage: true },
        provider
      )
      assert.notProperty(body(provider, { prompt: "Hello" }), "stream_options")
    }
  })

  it("T39 the model and standing parameters come from the target, and extra wins over everything but stream", () => {
    const target = targetOf("openai", { parameters: { reasoning_effort: "low", temperature: 1, top_p: 0.5 } })
    assert.deepStrictEqual(
      JSON.parse(JSON.stringify(requestBody(presets.openai, target, {
        prompt: "Hello",
        temperature: 0.2,
        topP: 0.1,
        stop: ["END"],
        extra: { top_p: 0.9, seed: 7, stream: true }
      }))),
      {
        model: "test-model",
        messages: [{ role: "user", content: "Hello" }],
        temperature: 1,
        top_p: 0.9,
        stop: ["END"],
        reasoning_effort: "low",
        seed: 7
      }
    )
  })

  it.effect("a request goes to the preset's address or the target's own, with the key in one header", () =>
    Effect.gen(function*() {
      const { client, sent } = memoryClient(() =>
        json({ choices: [{ message: { content: "" }, finish_reason: "stop" }] })
      )
      const send = (provider: string, baseUrl?: string) =>
        Effect.flatMap(
          adapterOf(provider, client),
          (_) =>
            _.complete(targetOf(provider, baseUrl === undefined ? {} : { baseUrl, headers: { "X-Team": "red" } }), {
              prompt: "Hello"
            })
        )
      yield* send("groq")
      yield* send("vllm", "http://127.0.0.1:8000/v1/?tenant=a")
      assert.strictEqual(sent[0]?.url, "https://api.groq.com/openai/v1/chat/completions")
      assert.strictEqual(sent[0]?.headers["authorization"], `Bearer ${canary}`)
      assert.strictEqual(sent[0]?.headers["content-type"], "application/json")
      assert.strictEqual(sent[0]?.headers["user-agent"], "breakwater")
      assert.strictEqual(sent[1]?.url, "http://127.0.0.1:8000/v1/chat/completions?tenant=a")
      assert.strictEqual(sent[1]?.headers["x-team"], "red")
    }))
})

describe("OpenAiCompatible replies", () => {
  const message = (message: Record<string, unknown>, more?: Record<string, unknown>) => () =>
    json({ model: "served-model", choices: [{ index: 0, message, ...more }] })

  it.effect("text, reasoning, tool calls, usage, model and request id are read", () =>
    Effect.gen(function*() {
      const reply = yield* complete("openai", () =>
        json({
          model: "served-model",
          choices: [{
            index: 0,
            finish_reason: "tool_calls",
            message: {
              content: "Looking.",
              reasoning_content: "hm",
              tool_calls: [
                { id: "a", type: "function", function: { name: "weather", arguments: "{\"city\":\"Bonn\"}" } },
                { id: "b", type: "function", function: { name: "now", arguments: "" } },
                { function: { name: "raw", arguments: { x: 1 } } }
              ]
            }
          }],
          usage: {
            prompt_tokens: 12,
            completion_tokens: 9,
            total_tokens: 21,
            prompt_tokens_details: { cached_tokens: 4 },
            completion_tokens_details: { reasoning_tokens: 3 }
          }
        }))
      assert.deepStrictEqual(plain(reply.content), [
        { type: "reasoning", text: "hm" },
        { type: "text", text: "Looking." },
        { type: "tool-call", id: "a", name: "weather", params: { city: "Bonn" } },
        { type: "tool-call", id: "b", name: "now", params: {} },
        { type: "tool-call", id: "call_2", name: "raw", params: { x: 1 } }
      ])
      assert.deepStrictEqual(JSON.parse(JSON.stringify(reply.usage)), {
        inputTokens: { total: 12, uncached: 8, cacheRead: 4 },
        outputTokens: { total: 9, reasoning: 3, text: 6 }
      })
      assert.strictEqual(reply.finishReason, "tool-calls")
      assert.strictEqual(reply.model, "served-model")
      assert.strictEqual(reply.requestId, "req-1")
    }))

  const usages: ReadonlyArray<readonly [string, Record<string, unknown>, unknown]> = [
    ["reasoning beside the completion (xAI)", {
      prompt_tokens: 12,
      completion_tokens: 1,
      total_tokens: 303,
      completion_tokens_details: { reasoning_tokens: 290 }
    }, { inputTokens: { total: 12, uncached: 12 }, outputTokens: { total: 291, reasoning: 290, text: 1 } }],
    ["cache hits by another name (DeepSeek)", {
      prompt_tokens: 10,
      completion_tokens: 5,
      total_tokens: 15,
      prompt_cache_hit_tokens: 8,
      prompt_cache_miss_tokens: 2
    }, { inputTokens: { total: 10, uncached: 2, cacheRead: 8 }, outputTokens: { total: 5 } }],
    ["counts that are none", { prompt_tokens: "10", completion_tokens: -1, total_tokens: 1.5 }, {
      inputTokens: {},
      outputTokens: {}
    }]
  ]
  for (const [name, usage, expected] of usages) {
    it.effect(`usage with ${name}`, () =>
      Effect.gen(function*() {
        const reply = yield* complete("xai", () =>
          json({ choices: [{ message: { content: "x" }, finish_reason: "stop" }], usage }))
        assert.deepStrictEqual(JSON.parse(JSON.stringify(reply.usage)), expected)
      }))
  }

  const reasons = {
    stop: "stop",
    eos: "stop",
    length: "length",
    model_length: "length",
    tool_calls: "tool-calls",
    function_call: "tool-calls",
    content_filter: "content-filter",
    something_new: "other"
  }
  for (const [stated, expected] of Object.entries<string>(reasons)) {
    it.effect(`the finish reason ${stated} is ${expected}, streaming or not`, () =>
      Effect.gen(function*() {
        const reply = yield* complete("groq", message({ content: "x" }, { finish_reason: stated }))
        assert.strictEqual(reply.finishReason, expected)
        const parts = yield* collect("groq", () => eventStream([bytesOf(chunk({ content: "x" }, stated))]))
        const last = parts.at(-1)
        assert.strictEqual(last?.type === "finish" ? String(last.reason) : "none", expected)
      }))
  }

  it.effect("a refusal is a marked text and ends with content-filter", () =>
    Effect.gen(function*() {
      const reply = yield* complete("openai", message({ content: null, refusal: "No." }, { finish_reason: "stop" }))
      assert.deepStrictEqual(plain(reply.content), [
        { type: "text", text: "No.", metadata: { breakwater: { refusal: true } } }
      ])
      assert.strictEqual(reply.finishReason, "content-filter")
    }))

  it.effect("tool calls under the finish reason stop are tool calls", () =>
    Effect.gen(function*() {
      const calls = [{ id: "a", function: { name: "f", arguments: "null" } }]
      const reply = yield* complete("ollama", message({ tool_calls: calls }, { finish_reason: "stop" }))
      assert.strictEqual(reply.finishReason, "tool-calls")
      assert.deepStrictEqual(plain(reply.content)[0]?.["params"], {})
    }))

  it.effect("arguments that are not JSON fail, except when the answer itself was cut", () =>
    Effect.gen(function*() {
      const calls = [{ id: "a", function: { name: "f", arguments: "{oops" } }]
      const error = yield* Effect.flip(
        complete("openai", message({ tool_calls: calls }, { finish_reason: "tool_calls" }))
      )
      assert.strictEqual(error._tag, "ServerError")
      assert.strictEqual(error.reason, "invalid_response")
      const cut = yield* complete("openai", message({ tool_calls: calls }, { finish_reason: "length" }))
      assert.deepStrictEqual(plain(cut.content), [])
      assert.strictEqual(cut.finishReason, "length")
    }))

  it.effect("giving up is a server error", () =>
    Effect.gen(function*() {
      for (const [stated, reason] of [["insufficient_system_resource", "capacity"], ["error", "internal_error"]]) {
        const error = yield* Effect.flip(complete("deepseek", message({ content: "x" }, { finish_reason: stated })))
        assert.strictEqual(error._tag, "ServerError")
        assert.strictEqual(error.reason, reason)
        assert.isTrue(error.maybeBilled)
      }
    }))

  for (
    const [name, body] of Object.entries({
      object: { error: { message: "Rate limit reached for requests", type: "requests", code: "rate_limit_exceeded" } },
      "object beside choices": { choices: [], error: { message: "Rate limit reached", code: 429 } },
      text: { code: "rate_limit_exceeded", error: "Rate limit reached" },
      flat: { object: "error", message: "Requests rate limit exceeded", type: "rate_limited", code: "1300" },
      list: [{ error: { code: 429, message: "Rate limit reached", status: "RESOURCE_EXHAUSTED" } }]
    })
  ) {
    it.effect(`an error as ${name} in a reply with status 200 is that error`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete("openrouter", () => json(body)))
        assert.strictEqual(error._tag, "RateLimitError")
      }))
  }
})

describe("OpenAiCompatible streams", () => {
  const tables: Record<string, ReadonlyArray<Record<string, unknown>>> = {
    "openai text with usage": [
      { type: "text-start", id: "0" },
      { type: "text-delta", id: "0", delta: "Grüß " },
      { type: "text-delta", id: "0", delta: "dich 👋" },
      { type: "text-end", id: "0" },
      {
        type: "finish",
        reason: "stop",
        usage: {
          inputTokens: { total: 12, uncached: 8, cacheRead: 4 },
          outputTokens: { total: 9, reasoning: 3, text: 6 }
        },
        metadata: { breakwater: { model: "served-model" } }
      }
    ],
    "parallel tool calls in fragments": [
      { type: "tool-params-start", id: "call_a", name: "weather" },
      { type: "tool-params-delta", id: "call_a", delta: "{\"city\":" },
      { type: "tool-params-start", id: "call_b", name: "time" },
      { type: "tool-params-delta", id: "call_a", delta: "\"Köln\"}" },
      { type: "tool-params-end", id: "call_a" },
      { type: "tool-call", id: "call_a", name: "weather", params: { city: "Köln" } },
      { type: "tool-params-end", id: "call_b" },
      { type: "tool-call", id: "call_b", name: "time", params: {} },
      {
        type: "finish",
        reason: "tool-calls",
        usage: { inputTokens: {}, outputTokens: {} },
        metadata: { breakwater: { model: "served-model" } }
      }
    ],
    "mistral thinking parts": [
      { type: "reasoning-start", id: "0" },
      { type: "reasoning-delta", id: "0", delta: "hm" },
      { type: "reasoning-end", id: "0" },
      { type: "text-start", id: "1" },
      { type: "text-delta", id: "1", delta: "yes" },
      { type: "text-end", id: "1" },
      { type: "tool-params-start", id: "abc123def", name: "weather" },
      { type: "tool-params-delta", id: "abc123def", delta: "{\"city\":\"Bonn\"}" },
      { type: "tool-params-end", id: "abc123def" },
      { type: "tool-call", id: "abc123def", name: "weather", params: { city: "Bonn" } },
      {
        type: "finish",
        reason: "tool-calls",
        usage: { inputTokens: { total: 3, uncached: 3 }, outputTokens: { total: 4 } },
        metadata: { breakwater: { model: "served-model" } }
      }
    ],
    "a refusal": [
      { type: "text-start", id: "0", metadata: { breakwater: { refusal: true } } },
      { type: "text-delta", id: "0", delta: "I can" },
      { type: "text-delta", id: "0", delta: "not" },
      { type: "text-end", id: "0" },
      {
        type: "finish",
        reason: "content-filter",
        usage: { inputTokens: {}, outputTokens: {} },
        metadata: { breakwater: { model: "served-model" } }
      }
    ]
  }
  for (const [name, expected] of Object.entries(tables)) {
    it.effect(`${name} becomes these parts`, () =>
      Effect.gen(function*() {
        const { events, provider } = streams[name]!
        const parts = plain(yield* collect(provider, () => eventStream([bytesOf(events.join(""))])))
        assert.deepStrictEqual(parts.slice(1), expected)
      }))
  }

  it.effect("usage is found on the finish chunk, after it, and under x_groq", () =>
    Effect.gen(function*() {
      for (
        const [name, total] of [["deepseek reasoning with keep-alives", 10], ["groq usage under x_groq", 2]] as const
      ) {
        const { events, provider } = streams[name]!
        const parts = yield* collect(provider, () => eventStream([bytesOf(events.join(""))]))
        const last = parts.at(-1)
        assert.strictEqual(last?.type === "finish" && last.usage.inputTokens.total, total)
      }
    }))

  it.effect("tool calls that all claim index 0, or none, are told apart by their ids", () =>
    Effect.gen(function*() {
      const call = (id: string, index?: number) =>
        chunk({
          tool_calls: [{ ...(index === undefined ? {} : { index }), id, function: { name: `f${id}`, arguments: "{}" } }]
        })
      for (const index of [0, undefined]) {
        const parts = plain(
          yield* collect("ollama", () =>
            eventStream([bytesOf(call("a", index) + call("b", index) + chunk({}, "tool_calls"))]))
        )
        assert.deepStrictEqual(
          parts.filter((_) =>
            _["type"] === "tool-call"
          ).map((_) => [_["id"], _["name"]]),
          [["a", "fa"], ["b", "fb"]]
        )
      }
    }))

  it.effect.prop(
    "tool calls survive any fragmentation and interleaving of their arguments",
    {
      calls: Arbitrary.schema(Schema.Array(Schema.Struct({ text: Schema.String, list: Schema.Array(Schema.Int) }))),
      cuts: Arbitrary.schema(Schema.Array(Schema.Int))
    },
    ({ calls, cuts }) =>
      Effect.gen(function*() {
        const rest = calls.map((params) => JSON.stringify(params))
        const events = calls.map((_, index) =>
          chunk({ tool_calls: [{ index, id: `id-${index}`, function: { name: `f${index}`, arguments: "" } }] })
        )
        for (let turn = 0; rest.some((_) => _ !== ""); turn++) {
          const index = turn % rest.length
          const size = 1 + Math.abs(cuts[turn % Math.max(1, cuts.length)] ?? 0) % 5
          const piece = rest[index]!.slice(0, size)
          rest[index] = rest[index]!.slice(size)
          if (piece !== "") events.push(chunk({ tool_calls: [{ index, function: { arguments: piece } }] }))
        }
        events.push(chunk({}, "tool_calls"), data("[DONE]"))
        const parts = plain(yield* collect("openai", () => eventStream([bytesOf(events.join(""))])))
        assert.deepStrictEqual(
          parts.filter((_) => _["type"] === "tool-call").map((_) => _["params"]),
          calls.map((_) => JSON.parse(JSON.stringify(_)))
        )
        for (const [index, params] of calls.entries()) {
          const deltas = parts.filter((_) => _["type"] === "tool-params-delta" && _["id"] === `id-${index}`)
          assert.strictEqual(deltas.map((_) => _["delta"]).join(""), JSON.stringify(params))
        }
      })
  )
})
