import { assert, describe, it } from "@effect/vitest"
import * as Anthropic from "breakwater/providers/Anthropic"
import { Effect, Schema } from "effect"
import { Prompt, Tool } from "effect/ai"
import * as Arbitrary from "effect/Arbitrary"
import {
  adapterOf,
  bytesOf,
  canary,
  collect,
  complete,
  eventStream,
  json,
  memoryClient,
  named,
  plain,
  streams,
  targetOf
} from "./harness.ts"

type Request = Parameters<typeof Anthropic.requestBody>[1]

const body = (request: Request, options?: Parameters<typeof targetOf>[1]) =>
  JSON.parse(JSON.stringify(Anthropic.requestBody(targetOf("anthropic", options), request)))

const signed = { anthropic: { info: { type: "thinking", signature: "c2ln" } } }

describe("Anthropic requests", () => {
  it("system messages are lifted, turns of one role merged, and tool results become the user's", () => {
    const prompt = Prompt.make([
      { role: "system", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "Hello" }, { type: "text", text: "" }] },
      { role: "user", content: [{ type: "text", text: "Weather in Bonn?" }] },
      {
        role: "assistant",
        content: [
          { type: "reasoning", text: "Look it up.", options: signed },
          { type: "reasoning", text: "of another provider" },
          { type: "text", text: "Looking." },
          { type: "tool-call", id: "call:1", name: "weather", params: { city: "Bonn" } }
        ]
      },
      {
        role: "tool",
        content: [
          { type: "tool-result", id: "call:1", name: "weather", isFailure: false, result: { celsius: 7 } },
          { type: "tool-result", id: "call_2", name: "time", isFailure: true, result: "no clock" }
        ]
      },
      { role: "system", content: "Be polite." },
      { role: "user", content: [{ type: "text", text: "Thanks" }] }
    ])
    assert.deepStrictEqual(body({ prompt }), {
      model: "claude-test",
      max_tokens: 4096,
      system: [{ type: "text", text: "Be brief." }, { type: "text", text: "Be polite." }],
      messages: [
        { role: "user", content: [{ type: "text", text: "Hello" }, { type: "text", text: "Weather in Bonn?" }] },
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "Look it up.", signature: "c2ln" },
            { type: "text", text: "Looking." },
            { type: "tool_use", id: "call_1", name: "weather", input: { city: "Bonn" } }
          ]
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "call_1", content: "{\"celsius\":7}" },
            { type: "tool_result", tool_use_id: "call_2", content: "no clock", is_error: true },
            { type: "text", text: "Thanks" }
          ]
        }
      ]
    })
  })

  it("max_tokens is the request's, capped by the target, or the target's, or the default", () => {
    assert.strictEqual(body({ prompt: "Hello" }).max_tokens, Anthropic.defaultMaxTokens)
    assert.strictEqual(body({ prompt: "Hello" }, { maxOutputTokens: 900 }).max_tokens, 900)
    assert.strictEqual(body({ prompt: "Hello", maxTokens: 50 }, { maxOutputTokens: 900 }).max_tokens, 50)
    assert.strictEqual(body({ prompt: "Hello", maxTokens: 5000 }, { maxOutputTokens: 900 }).max_tokens, 900)
    assert.strictEqual(body({ prompt: "Hello", maxTokens: 50, extra: { max_tokens: 7 } }).max_tokens, 7)
  })

  it("images and documents carry their source", () => {
    const content = body({
      prompt: [{
        role: "user",
        content: [
          { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
          { type: "file", mediaType: "image/png", data: new URL("https://example.com/a.png") },
          { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "AQID" }
        ]
      }]
    }).messages[0].content
    assert.deepStrictEqual(content, [
      { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } },
      { type: "image", source: { type: "url", url: "https://example.com/a.png" } },
      { type: "document", source: { type: "base64", media_type: "application/pdf", data: "AQID" }, title: "a.pdf" }
    ])
  })

  it("tools, their choice, stops, temperature and schemas take this format's words", () => {
    const weather = Tool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })
    const request: Request = { prompt: "Hello", tools: [weather], stop: "END", temperature: 1.7, topP: 0.5 }
    const sent = body(request)
    assert.strictEqual(sent.tools[0].name, "weather")
    assert.strictEqual(sent.tools[0].input_schema.properties.city.type, "string")
    assert.deepStrictEqual(sent.stop_sequences, ["END"])
    assert.strictEqual(sent.temperature, 1)
    assert.strictEqual(sent.top_p, 0.5)
    const choices = [["auto", { type: "auto" }], ["none", { type: "none" }], ["required", { type: "any" }], [
      { tool: "weather" },
      { type: "tool", name: "weather" }
    ]] as const
    for (const [toolChoice, expected] of choices) {
      assert.deepStrictEqual(body({ ...request, toolChoice }).tool_choice, expected)
    }
    const schema = { type: "object", properties: {}, additionalProperties: false }
    assert.deepStrictEqual(
      body({ prompt: "Hello", responseFormat: { type: "json_schema", name: "a", schema } }).output_config,
      { format: { type: "json_schema", schema } }
    )
    assert.match(body({ prompt: "Hello", responseFormat: { type: "json_object" } }).system[0].text, /JSON object/)
  })

  it("cache marks go to the block or message that carries them", () => {
    const mark = { anthropic: { cacheControl: { type: "ephemeral" } } }
    const sent = body({
      prompt: [
        { role: "system", content: "Long.", options: mark },
        { role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }], options: mark }
      ]
    })
    assert.deepStrictEqual(sent.system[0].cache_control, { type: "ephemeral" })
    assert.deepStrictEqual(sent.messages[0].content.map((_: object) => "cache_control" in _), [false, true])
  })

  it("a prefilled answer does not end in white space", () => {
    const sent = body({ prompt: [{ role: "user", content: "Hello" }, { role: "assistant", content: "Once upon \n" }] })
    assert.strictEqual(sent.messages[1].content[0].text, "Once upon")
  })

  it.effect("the version and the key go into their headers, whatever form the base URL has", () =>
    Effect.gen(function*() {
      const { client, sent } = memoryClient(() => json({ content: [], stop_reason: "end_turn" }))
      const adapter = yield* adapterOf("anthropic", client)
      for (const baseUrl of [undefined, "https://proxy.example/v1/", "https://proxy.example/claude"]) {
        yield* adapter.complete(targetOf("anthropic", baseUrl === undefined ? {} : { baseUrl }), { prompt: "Hello" })
      }
      assert.deepStrictEqual(sent.map((_) => _.url), [
        "https://api.anthropic.com/v1/messages",
        "https://proxy.example/v1/messages",
        "https://proxy.example/claude/v1/messages"
      ])
      assert.strictEqual(sent[0]?.headers["anthropic-version"], "2023-06-01")
      assert.strictEqual(sent[0]?.headers["x-api-key"], canary)
      assert.notProperty(sent[0]?.headers, "authorization")
    }))
})

describe("Anthropic replies", () => {
  it.effect("text, thinking, tool calls, usage, model and request id are read", () =>
    Effect.gen(function*() {
      const reply = yield* complete("anthropic", () =>
        json({
          type: "message",
          model: "claude-served",
          content: [
            { type: "thinking", thinking: "hm", signature: "c2ln" },
            { type: "redacted_thinking", data: "eHh4" },
            { type: "text", text: "Looking." },
            { type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Bonn" } },
            { type: "something_new" }
          ],
          stop_reason: "tool_use",
          usage: { input_tokens: 10, cache_creation_input_tokens: 3, cache_read_input_tokens: 5, output_tokens: 25 }
        }, { headers: { "request-id": "req_011" } }))
      assert.deepStrictEqual(plain(reply.content), [
        { type: "reasoning", text: "hm", metadata: signed },
        {
          type: "reasoning",
          text: "",
          metadata: { anthropic: { info: { type: "redacted_thinking", redactedData: "eHh4" } } }
        },
        { type: "text", text: "Looking." },
        { type: "tool-call", id: "toolu_1", name: "weather", params: { city: "Bonn" } }
      ])
      assert.deepStrictEqual(JSON.parse(JSON.stringify(reply.usage)), {
        inputTokens: { total: 18, uncached: 10, cacheRead: 5, cacheWrite: 3 },
        outputTokens: { total: 25 }
      })
      assert.strictEqual(reply.finishReason, "tool-calls")
      assert.strictEqual(reply.model, "claude-served")
      assert.strictEqual(reply.requestId, "req_011")

      const prompt = Prompt.fromResponseParts(reply.content)
      assert.deepStrictEqual(body({ prompt }).messages[0].content.slice(0, 2), [
        { type: "thinking", thinking: "hm", signature: "c2ln" },
        { type: "redacted_thinking", data: "eHh4" }
      ])
    }))

  const reasons = {
    end_turn: "stop",
    stop_sequence: "stop",
    max_tokens: "length",
    model_context_window_exceeded: "length",
    tool_use: "tool-calls",
    refusal: "content-filter",
    pause_turn: "pause",
    something_new: "other"
  }
  for (const [stated, expected] of Object.entries<string>(reasons)) {
    it.effect(`the stop reason ${stated} is ${expected}, streaming or not`, () =>
      Effect.gen(function*() {
        const reply = yield* complete("anthropic", () => json({ content: [], stop_reason: stated }))
        assert.strictEqual(reply.finishReason, expected)
        const events = named("message_delta", { delta: { stop_reason: stated } }) + named("message_stop", {})
        const last = (yield* collect("anthropic", () => eventStream([bytesOf(events)]))).at(-1)
        assert.strictEqual(last?.type === "finish" ? String(last.reason) : "none", expected)
      }))
  }
})

describe("Anthropic streams", () => {
  const { events } = streams["anthropic text, thinking and tool"]!

  it.effect("blocks become parts, usage is the last report and not a sum", () =>
    Effect.gen(function*() {
      const parts = plain(yield* collect("anthropic", () => eventStream([bytesOf(events.join(""))])))
      assert.deepStrictEqual(parts.slice(1), [
        { type: "reasoning-start", id: "0" },
        { type: "reasoning-delta", id: "0", delta: "Überlegen" },
        { type: "reasoning-end", id: "0", metadata: signed },
        { type: "text-start", id: "1" },
        { type: "text-delta", id: "1", delta: "Das Wetter 🌧" },
        { type: "text-end", id: "1" },
        { type: "tool-params-start", id: "toolu_1", name: "weather" },
        { type: "tool-params-delta", id: "toolu_1", delta: "{\"city\": \"Bo" },
        { type: "tool-params-delta", id: "toolu_1", delta: "nn\"}" },
        { type: "tool-params-end", id: "toolu_1" },
        { type: "tool-call", id: "toolu_1", name: "weather", params: { city: "Bonn" } },
        {
          type: "finish",
          reason: "tool-calls",
          usage: {
            inputTokens: { total: 18, uncached: 10, cacheRead: 5, cacheWrite: 3 },
            outputTokens: { total: 25 }
          },
          metadata: { breakwater: { model: "claude-served" } }
        }
      ])
    }))

  it.effect("a streamed answer goes back into a prompt with its signature", () =>
    Effect.gen(function*() {
      const parts = yield* collect("anthropic", () => eventStream([bytesOf(events.join(""))]))
      assert.deepStrictEqual(body({ prompt: Prompt.fromResponseParts(parts) }).messages[0].content, [
        { type: "thinking", thinking: "Überlegen", signature: "c2ln" },
        { type: "text", text: "Das Wetter 🌧" },
        { type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Bonn" } }
      ])
    }))

  it.effect("arguments that are not JSON fail, except when the answer itself was cut", () =>
    Effect.gen(function*() {
      const stream = (reason: string) => () =>
        eventStream([bytesOf([
          named("content_block_start", {
            index: 0,
            content_block: { type: "tool_use", id: "t", name: "f", input: {} }
          }),
          named("content_block_delta", { index: 0, delta: { type: "input_json_delta", partial_json: "{\"a\":" } }),
          named("content_block_stop", { index: 0 }),
          named("message_delta", { delta: { stop_reason: reason } }),
          named("message_stop", {})
        ].join(""))])
      const error = yield* Effect.flip(collect("anthropic", stream("tool_use")))
      assert.strictEqual(error._tag, "ServerError")
      assert.strictEqual(error.reason, "invalid_response")
      const parts = yield* collect("anthropic", stream("max_tokens"))
      assert.isFalse(parts.some((_) => _.type === "tool-call"))
      assert.isTrue(parts.some((_) => _.type === "finish" && _.reason === "length"))
    }))

  it.effect("a tool call without arguments has empty parameters, and one sent whole keeps them", () =>
    Effect.gen(function*() {
      const stream = (input: object) => () =>
        eventStream([bytesOf([
          named("content_block_start", { index: 0, content_block: { type: "tool_use", id: "t", name: "f", input } }),
          named("content_block_stop", { index: 0 }),
          named("message_stop", {})
        ].join(""))])
      for (const input of [{}, { a: 1 }]) {
        const parts = plain(yield* collect("anthropic", stream(input)))
        assert.deepStrictEqual(parts.find((_) => _["type"] === "tool-call")?.["params"], input)
      }
    }))

  it.effect.prop(
    "a tool call survives any fragmentation of its arguments",
    {
      params: Arbitrary.schema(Schema.Record(Schema.String, Schema.Array(Schema.String))),
      size: Arbitrary.schema(Schema.Int)
    },
    ({ params, size }) =>
      Effect.gen(function*() {
        const text = JSON.stringify(params)
        const step = 1 + Math.abs(size) % 7
        const fragments = Array.from(
          { length: Math.ceil(text.length / step) },
          (_, index) => text.slice(index * step, (index + 1) * step)
        )
        const stream = [
          named("content_block_start", {
            index: 0,
            content_block: { type: "tool_use", id: "t", name: "f", input: {} }
          }),
          ...fragments.map((partial_json) =>
            named("content_block_delta", { index: 0, delta: { type: "input_json_delta", partial_json } })
          ),
          named("content_block_stop", { index: 0 }),
          named("message_stop", {})
        ]
        const parts = plain(yield* collect("anthropic", () => eventStream([bytesOf(stream.join(""))])))
        assert.deepStrictEqual(parts.find((_) => _["type"] === "tool-call")?.["params"], JSON.parse(text))
      })
  )
})
