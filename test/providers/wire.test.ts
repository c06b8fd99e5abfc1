import { assert, describe, it } from "@effect/vitest"
import type * as LLMService from "breakwater/LLMService"
import { Effect, Exit, Stream } from "effect"
import { Tool } from "effect/ai"
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
  named,
  plain,
  streams,
  targetOf
} from "./harness.ts"

type Request = LLMService.CompletionRequest

const whole = (events: ReadonlyArray<string>) => bytesOf(events.join(""))

describe("streams, whatever the provider", () => {
  for (const [name, { events, provider }] of Object.entries(streams)) {
    it.effect(`${name}: the same parts wherever the bytes are split`, () =>
      Effect.gen(function*() {
        const bytes = whole(events)
        const expected = plain(yield* collect(provider, () => eventStream([bytes])))
        assert.strictEqual(expected[0]?.["type"], "response-metadata")
        assert.strictEqual(expected.at(-1)?.["type"], "finish")
        const adapter = (at: number) =>
          collect(provider, () => eventStream([bytes.subarray(0, at), bytes.subarray(at)]))
        for (let at = 1; at < bytes.length; at++) {
          assert.deepStrictEqual(plain(yield* adapter(at)), expected, `split at byte ${at}`)
        }
        const single = yield* collect(provider, () => eventStream([...bytes].map((_) => Uint8Array.of(_))))
        assert.deepStrictEqual(plain(single), expected, "split at every byte")
      }))

    it.effect(`T35 ${name}: a cut before the terminal event is an error and never a short success`, () =>
      Effect.gen(function*() {
        const { terminal } = streams[name]!
        for (const broken of [undefined, new TypeError("terminated")]) {
          for (let count = 0; count <= events.length; count++) {
            const exit = yield* Effect.exit(
              collect(
                provider,
                () => eventStream([whole(events.slice(0, count))], broken === undefined ? {} : { broken })
              )
            )
            const where = `after event ${count}, ${broken === undefined ? "closed" : "broken"}`
            assert.strictEqual(Exit.isSuccess(exit), count > terminal, where)
            if (Exit.isSuccess(exit)) assert.strictEqual(exit.value.at(-1)?.type, "finish", where)
          }
        }
      }))

    it.effect(`T35 ${name}: a cut inside an event is an error and never a short success`, () =>
      Effect.gen(function*() {
        const { terminal } = streams[name]!
        const until = whole(events.slice(0, terminal + 1))
        // The closing brace and the line ends of the terminal event are all that may be missing.
        const complete = until.lastIndexOf("}".charCodeAt(0))
        for (let at = 0; at < complete; at++) {
          const exit = yield* Effect.exit(collect(provider, () => eventStream([until.subarray(0, at)])))
          assert.isTrue(Exit.isFailure(exit), `cut at byte ${at}`)
        }
        const forgiven = yield* Effect.exit(collect(provider, () => eventStream([until.subarray(0, complete + 1)])))
        assert.isTrue(Exit.isSuccess(forgiven), "the blank line after the last event may be missing")
      }))
  }

  it.effect("the metadata part comes before the first byte of the body", () =>
    Effect.gen(function*() {
      const adapter = yield* adapterOf(
        "openai",
        memoryClient(() => new Response(new ReadableStream({}), { headers: { "x-request-id": "req-9" } })).client
      )
      const [head] = plain(
        yield* Stream.runCollect(Stream.take(adapter.stream(targetOf("openai"), { prompt: "Hello" }), 1))
      )
      assert.deepStrictEqual(head, {
        type: "response-metadata",
        id: "req-9",
        modelId: "test-model",
        metadata: { breakwater: { model: "test-model", requestId: "req-9" } }
      })
    }))

  it.effect("[DONE] without a finish reason is a cut stream, with content or without", () =>
    Effect.gen(function*() {
      for (const events of [[data("[DONE]")], [chunk({ content: "half" }), data("[DONE]")]]) {
        const error = yield* Effect.flip(collect("openai", () => eventStream([whole(events)])))
        assert.strictEqual(error.reason, "stream_truncated")
        assert.strictEqual(error._tag, "TransientNetworkError")
        assert.isTrue(error.maybeBilled)
      }
    }))

  it.effect("parts that came before an error are handed over before it", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { client } = memoryClient(() => eventStream([whole([chunk({ content: "half" }), "data: {oops\n\n"])]))
      const adapter = yield* adapterOf("openai", client)
      const error = yield* Effect.flip(
        Stream.runForEach(adapter.stream(targetOf("openai"), { prompt: "Hello" }), (part) =>
          Effect.sync(() => seen.push(part.type)))
      )
      assert.deepStrictEqual(seen, ["response-metadata", "text-start", "text-delta"])
      assert.strictEqual(error._tag, "ServerError")
      assert.strictEqual(error.reason, "invalid_response")
      assert.isTrue(error.maybeBilled)
    }))

  const failures: Record<string, { provider: string; events: ReadonlyArray<string>; tag: string; reason: string }> = {
    "an error object as the very first event": {
      provider: "openai",
      events: [data({ error: { message: "The server had an error", type: "server_error", code: null } })],
      tag: "ServerError",
      reason: "internal_error"
    },
    "an error object after content, followed by [DONE]": {
      provider: "openai",
      events: [
        chunk({ content: "half" }),
        data({ error: { message: "Rate limit reached", type: "tokens", code: "rate_limit_exceeded" } }),
        data("[DONE]")
      ],
      tag: "RateLimitError",
      reason: "rate_limit"
    },
    "an error event of Anthropic as the very first event": {
      provider: "anthropic",
      events: [named("error", { error: { type: "overloaded_error", message: "Overloaded" } })],
      tag: "ServerError",
      reason: "overloaded"
    },
    "an error event of Anthropic after content": {
      provider: "anthropic",
      events: [
        ...streams["anthropic text, thinking and tool"]!.events.slice(0, 8),
        named("error", { error: { details: null, type: "overloaded_error", message: "Overloaded" } })
      ],
      tag: "ServerError",
      reason: "overloaded"
    },
    "DeepSeek running out of resources": {
      provider: "deepseek",
      events: [chunk({ content: "half" }), chunk({}, "insufficient_system_resource"), data("[DONE]")],
      tag: "ServerError",
      reason: "capacity"
    },
    "a finish reason that says error": {
      provider: "mistral",
      events: [chunk({ content: "half" }, "error"), data("[DONE]")],
      tag: "ServerError",
      reason: "internal_error"
    },
    "tool arguments that are not JSON": {
      provider: "openai",
      events: [
        chunk({ tool_calls: [{ index: 0, id: "a", function: { name: "f", arguments: "{oops" } }] }),
        chunk({}, "tool_calls"),
        data("[DONE]")
      ],
      tag: "ServerError",
      reason: "invalid_response"
    },
    "nothing but keep-alives": {
      provider: "deepseek",
      events: [": keep-alive\n\n", ": keep-alive\n\n"],
      tag: "ServerError",
      reason: "empty_response"
    }
  }
  for (const [name, failure] of Object.entries(failures)) {
    it.effect(`${name} fails with ${failure.tag} (${failure.reason})`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(collect(failure.provider, () => eventStream([whole(failure.events)])))
        assert.strictEqual(error._tag, failure.tag)
        assert.strictEqual(error.reason, failure.reason)
        assert.strictEqual(error.provider, failure.provider)
        assert.strictEqual(error.target, targetOf(failure.provider).id)
        assert.strictEqual(error.status, 200)
      }))
  }

  it.effect("a tool call cut by the token limit is left out, and the finish reason says so", () =>
    Effect.gen(function*() {
      const parts = plain(
        yield* collect("openai", () =>
          eventStream([whole([
            chunk({ tool_calls: [{ index: 0, id: "a", function: { name: "f", arguments: "{\"x\": 1" } }] }),
            chunk({}, "length")
          ])]))
      )
      assert.deepStrictEqual(parts.map((_) => _["type"]), [
        "response-metadata",
        "tool-params-start",
        "tool-params-delta",
        "tool-params-end",
        "finish"
      ])
      assert.strictEqual(parts.at(-1)?.["reason"], "length")
    }))

  it.effect("a whole reply to a streaming request is handed over as parts, under any content type", () =>
    Effect.gen(function*() {
      const body = JSON.stringify({
        model: "served-model",
        choices: [{ index: 0, message: { role: "assistant", content: "Hi" }, finish_reason: "stop" }]
      })
      for (const type of ["application/json", "application/octet-stream"]) {
        const parts = plain(yield* collect("openai", () => new Response(body, { headers: { "content-type": type } })))
        assert.deepStrictEqual(parts.map((_) => _["type"]), [
          "response-metadata",
          "text-start",
          "text-delta",
          "text-end",
          "finish"
        ])
      }
    }))

  it.effect("an error body to a streaming request is that error", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(
        collect("openai", () => json({ error: { message: "Rate limit reached", code: "rate_limit_exceeded" } }))
      )
      assert.strictEqual(error._tag, "RateLimitError")
    }))
})

describe("replies that are none, whatever the provider", () => {
  const table: Record<string, { body: string; type: string; tag: string; reason: string }> = {
    "an empty body": { body: "", type: "application/json", tag: "ServerError", reason: "empty_response" },
    "blank lines": { body: "\n\n\n", type: "application/json", tag: "ServerError", reason: "empty_response" },
    "a page": { body: "<html>oh</html>", type: "text/html", tag: "ServerError", reason: "html_error_page" },
    "half of JSON": { body: "{\"id\":", type: "application/json", tag: "ServerError", reason: "invalid_response" },
    "other JSON": { body: "{\"a\":1}", type: "application/json", tag: "ServerError", reason: "invalid_response" }
  }
  for (const provider of ["openai", "azure", "anthropic"]) {
    for (const [name, { body, reason, tag, type }] of Object.entries(table)) {
      it.effect(`${provider}: ${name} with status 200 fails with ${tag} (${reason}), streaming or not`, () =>
        Effect.gen(function*() {
          const response = () => new Response(body, { headers: { "content-type": type, "x-request-id": "req-1" } })
          for (const run of [Effect.asVoid(complete(provider, response)), Effect.asVoid(collect(provider, response))]) {
            const error = yield* Effect.flip(run)
            assert.strictEqual(error._tag, tag)
            assert.strictEqual(error.reason, reason)
            assert.isTrue(error.maybeBilled)
            assert.strictEqual(error.requestId, "req-1")
          }
        }))
    }

    it.effect(`${provider}: a status that is no success is classified with its body and headers`, () =>
      Effect.gen(function*() {
        const response = () =>
          json({ type: "error", error: { type: "rate_limit_error", message: "Rate limit reached" } }, {
            status: 429,
            headers: { "retry-after": "7" }
          })
        for (const run of [Effect.asVoid(complete(provider, response)), Effect.asVoid(collect(provider, response))]) {
          const error = yield* Effect.flip(run)
          assert.strictEqual(error._tag, "RateLimitError")
          assert.strictEqual(error.status, 429)
          assert.strictEqual(error.target, targetOf(provider).id)
          assert.strictEqual(error.message.includes("7s"), true, error.message)
        }
      }))
  }

  it.effect("an error body that is huge, or breaks off, still names the error", () =>
    Effect.gen(function*() {
      const head = bytesOf("{\"error\":{\"message\":\"Rate limit reached\",\"code\":\"rate_limit_exceeded\"}}")
      const filler = bytesOf(" ".repeat(64 * 1024))
      const endless = () =>
        new Response(
          new ReadableStream({
            start: (controller) => controller.enqueue(head),
            pull: (controller) => controller.enqueue(filler)
          }),
          { status: 429 }
        )
      assert.strictEqual((yield* Effect.flip(complete("openai", endless)))._tag, "RateLimitError")
      const broken = () =>
        new Response(eventStream([head], { broken: new TypeError("terminated") }).body, { status: 429 })
      assert.strictEqual((yield* Effect.flip(complete("openai", broken)))._tag, "RateLimitError")
    }))

  it.effect("what the wire format cannot express is refused before anything is sent", () =>
    Effect.gen(function*() {
      const cyclic: Record<string, unknown> = {}
      cyclic["self"] = cyclic
      const nonsense = JSON.parse("[{\"role\":\"user\",\"content\":[{\"type\":\"x\",\"text\":\"top secret\"}]}]")
      const requests: ReadonlyArray<Request> = [
        { prompt: "Hello", extra: { cyclic } },
        {
          prompt: "Hello",
          tools: [Tool.providerDefined({ id: "vendor.search", customName: "search", providerName: "search" })()]
        },
        { prompt: [{ role: "user", content: [{ type: "file", mediaType: "video/mp4", data: "AAAA" }] }] },
        { prompt: nonsense }
      ]
      for (const provider of ["openai", "anthropic"]) {
        for (const request of requests) {
          const { client, sent } = memoryClient(() => json({}))
          const adapter = yield* adapterOf(provider, client)
          const error = yield* Effect.flip(adapter.complete(targetOf(provider), request))
          assert.strictEqual(error._tag, "PermanentError")
          assert.strictEqual(error.reason, "invalid_request")
          assert.strictEqual(error.scope, "request")
          assert.notInclude(JSON.stringify(error) + error.message, "top secret")
          assert.lengthOf(sent, 0)
        }
      }
    }))
})

describe("secrets", () => {
  for (const provider of ["openai", "azure", "anthropic", "groq"]) {
    it.effect(`T40 ${provider}: the key is in its header and in no error`, () =>
      Effect.gen(function*() {
        const echo = `bad key ${canary}`
        const bodies: ReadonlyArray<() => Response> = [
          () => json({ error: { message: echo, code: "invalid_api_key" } }, { status: 401 }),
          () => new Response(echo, { status: 500, headers: { "x-echo": canary } }),
          () => json({ error: { message: echo } }),
          () => json(echo),
          () => new Response(`<html>${canary}</html>`),
          () => eventStream([bytesOf(data({ error: { message: echo } }))]),
          () => eventStream([bytesOf(`data: ${canary}\n\n`)]),
          () => eventStream([bytesOf(chunk({ content: "a" }))], { broken: new TypeError(echo) })
        ]
        for (const [index, body] of bodies.entries()) {
          for (const run of [Effect.asVoid(complete(provider, body)), Effect.asVoid(collect(provider, body))]) {
            const error = yield* Effect.flip(run)
            const shown = JSON.stringify(error) + String(error) + error.message + String(error.stack) +
              JSON.stringify(error.cause ?? null) + String(error.cause)
            assert.notInclude(shown, canary, `body ${index}: ${error._tag}`)
          }
        }
        const { client, sent } = memoryClient(() => json({}))
        yield* Effect.exit((yield* adapterOf(provider, client)).complete(targetOf(provider), { prompt: "Hello" }))
        const carriers = Object.entries(sent[0]?.headers ?? {}).filter(([, value]) => value.includes(canary))
        assert.lengthOf(carriers, 1)
        assert.notInclude(JSON.stringify(sent[0]?.body) + sent[0]?.url, canary)
      }))
  }
})
