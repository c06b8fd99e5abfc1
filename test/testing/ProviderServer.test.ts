import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, Exit, Fiber, Logger, Predicate, Random, Redacted, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Quota from "../../src/internal/providerServer/quota.ts"
import * as Vendor from "../../src/internal/providerServer/vendor.ts"

const { Fault } = ProviderServer

type Server = ProviderServer.ProviderServer["Service"]
type Json = Readonly<Record<string, unknown>>

const hello: Json = { model: "m", messages: [{ role: "user", content: "Hi there" }] }

const path = (format: ProviderServer.Format): string =>
  format === "openai"
    ? "/chat/completions"
    : format === "anthropic"
    ? "/v1/messages"
    : "/openai/deployments/m/chat/completions?api-version=2024-10-21"

const open = (server: Server, body: Json | string, options: {
  readonly format?: ProviderServer.Format
  readonly key?: string
  readonly signal?: AbortSignal
  readonly headers?: Record<string, string>
} = {}): Effect.Effect<Response, unknown> =>
  Effect.tryPromise({
    try: () =>
      fetch(`${server.url}${path(options.format ?? "openai")}`, {
        method: "POST",
        signal: options.signal ?? null,
        headers: {
          "content-type": "application/json",
          authorization: `Bearer ${options.key ?? "secret"}`,
          ...(options.format === "anthropic" ? { "anthropic-version": "2023-06-01" } : {}),
          ...options.headers
        },
        body: typeof body === "string" ? body : JSON.stringify({ ...body, ...needed(options.format) })
      }),
    catch: (error) => error
  })

const needed = (format: ProviderServer.Format | undefined): Json => format === "anthropic" ? { max_tokens: 100 } : {}

const textOf = (response: Response): Effect.Effect<string, unknown> =>
  Effect.tryPromise({ try: () => response.text(), catch: (error) => error })

const ask = (...args: Parameters<typeof open>) =>
  Effect.gen(function*() {
    const response = yield* open(...args)
    const text = yield* textOf(response)
    const isJson = text.startsWith("{") && text.endsWith("}")
    return { status: response.status, headers: response.headers, text, json: isJson ? JSON.parse(text) : undefined }
  })

const status = (...args: Parameters<typeof open>) => Effect.map(ask(...args), (got) => got.status)

const events = (text: string) =>
  text.split("\n\n").filter((frame) => frame !== "" && !frame.startsWith(":")).map((frame) => {
    const data = frame.slice(frame.indexOf("data: ") + 6)
    return data === "[DONE]" ? data : JSON.parse(data)
  })

// Reads a body to its end or to the error that ended it.
const readAll = (response: Response) => {
  let text = ""
  return Effect.tryPromise(async () => {
    for await (const chunk of response.body!) text += new TextDecoder().decode(chunk)
  }).pipe(Effect.exit, Effect.map((exit) => ({ text, failed: Exit.isFailure(exit) })))
}

// Opens a body and reads until it holds `part`.
const readUntil = (response: Response, part: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const reader = response.body!.getReader()
    let text = ""
    while (!text.includes(part)) text += new TextDecoder().decode((await reader.read()).value)
    reader.releaseLock()
    return text
  })

const causeCode = (error: unknown): unknown =>
  Predicate.hasProperty(error, "cause") && Predicate.hasProperty(error.cause, "code") ? error.cause.code : undefined

const long = "0123456789abcdef".repeat(3)

describe("ProviderServer quotas", () => {
  const rules = Quota.decode({
    requests: { limit: 60, per: "1 minute" },
    tokens: { limit: 1000, per: "1 minute" }
  })
  const small = { input: 10, output: 10 }

  it("refills evenly and never above the burst", () => {
    const [empty] = Quota.admit(rules, Quota.initial(rules, 0), { input: 500, output: 500 }, 0, false)
    const at = (now: number) => Quota.read(rules, empty, now).map((reading) => reading.remaining)
    assert.deepStrictEqual([at(0), at(59), at(60), at(30_000), at(60_000), at(1e9)], [
      [59, 0],
      [59, 0],
      [59, 1],
      [60, 500],
      [60, 1000],
      [60, 1000]
    ])
  })

  it("takes all dimensions or none", () => {
    const before = Quota.initial(rules, 0)
    const [after, refusal] = Quota.admit(rules, before, { input: 1001, output: 0 }, 0, false)
    assert.deepStrictEqual(after, before)
    assert.strictEqual(refusal?.tooLarge, true)
    assert.strictEqual(refusal?.wait, undefined)
  })

  it("a refused request costs one request only when it is counted", () => {
    const one = Quota.decode({ requests: { limit: 2, per: 1000 }, tokens: { limit: 10, per: 1000 } })
    const large = { input: 8, output: 0 }
    const [state] = Quota.admit(one, Quota.initial(one, 0), large, 0, false)
    const [kept] = Quota.admit(one, state, large, 0, false)
    const [charged] = Quota.admit(one, state, large, 0, true)
    assert.deepStrictEqual(Quota.read(one, kept, 0).map((reading) => reading.remaining), [1, 2])
    assert.deepStrictEqual(Quota.read(one, charged, 0).map((reading) => reading.remaining), [0, 2])
    const [hammered, refusal] = Quota.admit(one, charged, large, 0, true)
    assert.deepStrictEqual(hammered, charged)
    assert.strictEqual(refusal?.wait, 600)
  })

  it("settling gives back what was reserved and not used, and frees the slot", () => {
    const one = Quota.decode({ tokens: { limit: 100, per: 1000 }, concurrency: 1 })
    const reserved = { input: 10, output: 80 }
    const [taken] = Quota.admit(one, Quota.initial(one, 0), reserved, 0, false)
    assert.strictEqual(Quota.admit(one, taken, small, 0, false)[1]?.dimension, "concurrency")
    const settled = Quota.settle(one, taken, reserved, { input: 10, output: 5 }, 0)
    assert.strictEqual(settled.active, 0)
    assert.deepStrictEqual(Quota.read(one, settled, 0).map((reading) => reading.remaining), [85])
  })

  it.effect("the stated wait is the shortest that admits the same request", () =>
    Effect.gen(function*() {
      let refusals = 0
      for (let round = 0; round < 300; round++) {
        const draw = (max: number) => Random.nextIntBetween(1, max)
        const rules = Quota.decode({
          requests: { limit: yield* draw(500), per: yield* draw(86_400_000), burst: yield* draw(20) },
          tokens: { limit: yield* draw(1e6), per: yield* draw(60_000), burst: yield* draw(5000) }
        })
        let state = Quota.initial(rules, 0)
        let now = 0
        for (let i = 0; i < 20; i++) {
          const request = { input: yield* draw(1000), output: yield* draw(1000) }
          const [next, refusal] = Quota.admit(rules, state, request, now, i % 2 === 0)
          state = next
          if (refusal?.wait !== undefined) {
            refusals++
            assert.isDefined(Quota.admit(rules, state, request, now + refusal.wait - 1, false)[1])
            assert.isUndefined(Quota.admit(rules, state, request, now + refusal.wait, false)[1])
          }
          now += yield* draw(1000)
        }
      }
      assert.isAbove(refusals, 1000)
    }).pipe(Random.withSeed("waits")))

  it.effect("what is admitted never exceeds the burst and the refill", () =>
    Effect.gen(function*() {
      const rules = Quota.decode({ tokens: { limit: 500, per: "1 second", burst: 300 } })
      let state = Quota.initial(rules, 0)
      let admitted = 0
      for (let now = 0; now < 20_000; now += yield* Random.nextIntBetween(0, 40)) {
        const request = { input: yield* Random.nextIntBetween(1, 50), output: 0 }
        const [next, refusal] = Quota.admit(rules, state, request, now, false)
        state = next
        if (refusal === undefined) admitted += request.input
        assert.isAtMost(admitted, 300 + now * 0.5)
      }
      assert.isAbove(admitted, 9500)
    }).pipe(Random.withSeed("bursts")))

  it("states durations as Go does", () => {
    const cases: ReadonlyArray<readonly [number, string]> = [
      [0, "0s"],
      [6, "6ms"],
      [999, "999ms"],
      [1000, "1s"],
      [8640, "8.64s"],
      [60_000, "1m0s"],
      [432_000, "7m12s"],
      [6_467_664, "1h47m47.664s"]
    ]
    for (const [millis, text] of cases) assert.strictEqual(Vendor.goDuration(millis), text)
  })

  it("every vendor states its quotas in its own headers", () => {
    const [state] = Quota.admit(rules, Quota.initial(rules, 0), { input: 50, output: 50 }, 0, false)
    const headers = (vendor: Vendor.Vendor) => Vendor.quotaHeaders(vendor, Quota.read(rules, state, 1), 1)
    assert.deepStrictEqual(headers("openai"), {
      "x-ratelimit-limit-requests": "60",
      "x-ratelimit-remaining-requests": "59",
      "x-ratelimit-reset-requests": "999ms",
      "x-ratelimit-limit-tokens": "1000",
      "x-ratelimit-remaining-tokens": "900",
      "x-ratelimit-reset-tokens": "5.999s"
    })
    assert.deepStrictEqual(headers("anthropic"), {
      "anthropic-ratelimit-requests-limit": "60",
      "anthropic-ratelimit-requests-remaining": "59",
      "anthropic-ratelimit-requests-reset": "1970-01-01T00:00:01Z",
      "anthropic-ratelimit-tokens-limit": "1000",
      "anthropic-ratelimit-tokens-remaining": "900",
      "anthropic-ratelimit-tokens-reset": "1970-01-01T00:00:06Z"
    })
    assert.strictEqual(headers("azure")["x-ratelimit-reset-tokens"], "6")
    assert.strictEqual(headers("azure")["x-ratelimit-renewalperiod-tokens"], "60")
    assert.strictEqual(headers("mistral")["x-ratelimit-remaining-req-minute"], "59")
    assert.deepStrictEqual(headers("deepseek"), {})
    assert.deepStrictEqual(headers("moonshot"), {})
  })

  it.effect("waiting exactly the stated time admits the request", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        limits: { requests: { limit: 7, per: "1 minute" } }
      })
      for (let i = 0; i < 7; i++) assert.strictEqual(yield* status(server, hello), 200)
      const refused = yield* ask(server, hello)
      assert.strictEqual(refused.status, 429)
      assert.strictEqual(refused.headers.get("retry-after-ms"), "8572")
      assert.strictEqual(refused.headers.get("retry-after"), "9")
      assert.strictEqual(refused.headers.get("x-ratelimit-remaining-requests"), "0")
      assert.strictEqual(refused.headers.get("date"), "Thu, 01 Jan 1970 00:00:00 GMT")
      assert.include(
        refused.json.error.message,
        "requests per minute (RPM): Limit 7, Used 7, Requested 1. Please try again in 8.572s."
      )
      assert.strictEqual(refused.json.error.code, "rate_limit_exceeded")
      yield* TestClock.adjust(8571)
      assert.strictEqual(yield* status(server, hello), 429)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* status(server, hello), 200)
    }))

  it.effect("Anthropic states its waits as whole seconds and times", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "anthropic",
        limits: { inputTokens: { limit: 2, per: "3 seconds" }, outputTokens: { limit: 200, per: "1 minute" } }
      })
      const first = yield* ask(server, hello, { format: "anthropic" })
      assert.strictEqual(first.headers.get("anthropic-ratelimit-input-tokens-remaining"), "0")
      assert.strictEqual(first.headers.get("anthropic-ratelimit-input-tokens-reset"), "1970-01-01T00:00:03Z")
      assert.strictEqual(first.headers.get("retry-after"), null)
      yield* TestClock.adjust(500)
      const refused = yield* ask(server, hello, { format: "anthropic" })
      assert.strictEqual(refused.status, 429)
      assert.strictEqual(refused.headers.get("retry-after"), "3")
      assert.strictEqual(refused.headers.get("x-should-retry"), "true")
      assert.strictEqual(refused.json.error.type, "rate_limit_error")
      assert.include(refused.json.error.message, "2 input tokens")
      yield* TestClock.adjust(2500)
      assert.strictEqual(yield* status(server, hello, { format: "anthropic" }), 200)
    }))

  it.live("concurrent requests together never exceed a quota", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        limits: { requests: { limit: 10, per: "1 hour" } }
      })
      const got = yield* Effect.all(Array.from({ length: 50 }, () => status(server, hello)), { concurrency: 50 })
      assert.strictEqual(got.filter((status) => status === 200).length, 10)
      assert.strictEqual(got.filter((status) => status === 429).length, 40)
      const stats = yield* server.received
      assert.deepStrictEqual([stats.requests, stats.answered, stats.refused], [50, 10, 40])
    }))

  it.effect("tokens are reserved by max_tokens and settled by what was sent", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: "four",
        limits: { tokens: { limit: 100, per: "1 hour" } }
      })
      const body = { ...hello, max_tokens: 90 }
      const first = yield* ask(server, body)
      const second = yield* ask(server, body)
      assert.strictEqual(first.headers.get("x-ratelimit-remaining-tokens"), "8")
      assert.strictEqual(second.headers.get("x-ratelimit-remaining-tokens"), "5")
      assert.deepStrictEqual((yield* server.received).tokens, { admitted: 184, input: 4, output: 2 })
    }))

  it.effect("a request larger than the bucket gets the vendor's answer for it, without a wait", () =>
    Effect.gen(function*() {
      const limits = { tokens: { limit: 50, per: "1 minute" } } as const
      const large = { ...hello, max_tokens: 60 }
      const groq = yield* ProviderServer.make({ format: "openai", flavour: "groq", limits })
      const refused = yield* ask(groq, large)
      assert.strictEqual(refused.status, 413)
      assert.strictEqual(refused.headers.get("retry-after"), null)
      assert.include(refused.json.error.message, "Request too large for model `m`")
      const azure = yield* ProviderServer.make({ format: "azure", limits })
      assert.include((yield* ask(azure, large, { format: "azure" })).text, "Please retry after 86400 seconds")
    }))

  it.effect("who shares a quota is the scope's choice", () =>
    Effect.gen(function*() {
      const other = { ...hello, model: "n" }
      const expected = {
        target: [200, 200, 200, 429],
        model: [200, 429, 200, 429],
        key: [200, 200, 429, 429],
        server: [200, 429, 429, 429]
      } as const
      for (const limitScope of ["target", "model", "key", "server"] as const) {
        const server = yield* ProviderServer.make({
          format: "openai",
          limitScope,
          limits: { requests: { limit: 1, per: "1 hour" } }
        })
        const got = [
          yield* status(server, hello, { key: "a" }),
          yield* status(server, hello, { key: "b" }),
          yield* status(server, other, { key: "a" }),
          yield* status(server, hello, { key: "a" })
        ]
        assert.deepStrictEqual(got, [...expected[limitScope]], limitScope)
      }
    }))

  it.effect("an override replaces the limits of its model and key", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        limits: { requests: { limit: 1, per: "1 hour" } },
        overrides: [{ model: "free", limits: {} }, { key: "key-2", limits: { requests: { limit: 2, per: "1 hour" } } }]
      })
      const free = { ...hello, model: "free" }
      assert.deepStrictEqual([yield* status(server, hello), yield* status(server, hello)], [200, 429])
      assert.deepStrictEqual([yield* status(server, free), yield* status(server, free)], [200, 200])
      const second = status(server, hello, { key: "second" })
      assert.deepStrictEqual([yield* second, yield* second, yield* second], [200, 200, 429])
    }))

  it.effect("T17: a concurrency slot is held to the end of the stream", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: long,
        limits: { concurrency: 1 },
        latency: { perChunk: "1 second" }
      })
      const response = yield* open(server, { ...hello, stream: true })
      yield* readUntil(response, "content\":\"0123")
      assert.strictEqual(yield* status(server, hello), 429)
      yield* TestClock.adjust("2 seconds")
      yield* readUntil(response, "[DONE]")
      const stats = yield* server.received
      assert.deepStrictEqual([stats.answered, stats.refused, stats.concurrent.now], [1, 1, 0])
    }))
})

describe("ProviderServer answers", () => {
  it.live("a whole answer looks as the vendor's does", () =>
    Effect.gen(function*() {
      const usage = { prompt_tokens: 2, completion_tokens: 5, total_tokens: 7 }
      for (const format of ["openai", "azure"] as const) {
        const server = yield* ProviderServer.make({ format })
        const { headers, json, status } = yield* ask(server, hello, { format })
        assert.strictEqual(status, 200)
        assert.strictEqual(json.object, "chat.completion")
        assert.strictEqual(json.model, "m")
        assert.strictEqual(json.choices[0].message.content, "You said: Hi there")
        assert.strictEqual(json.choices[0].finish_reason, "stop")
        assert.include(json.usage, usage)
        assert.isNotNull(headers.get(format === "azure" ? "apim-request-id" : "x-request-id"))
      }
      const server = yield* ProviderServer.make({ format: "anthropic" })
      const { headers, json } = yield* ask(server, { ...hello, system: "Be" }, { format: "anthropic" })
      assert.deepStrictEqual(json.content, [{ type: "text", text: "You said: Hi there" }])
      assert.strictEqual(json.stop_reason, "end_turn")
      assert.include(json.usage, { input_tokens: 3, output_tokens: 5 })
      assert.strictEqual(headers.get("request-id"), "req_00000001")
    }))

  it.live("an OpenAI stream has deltas, the usage when asked for, and [DONE]", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", reply: { reasoning: "Hm", text: `${long}😀` } })
      const response = yield* ask(server, { ...hello, stream: true, stream_options: { include_usage: true } })
      assert.include(response.headers.get("content-type"), "text/event-stream")
      const list = events(response.text)
      const deltas = list.slice(0, -2).map((event) => event.choices[0].delta)
      assert.strictEqual(deltas[0].role, "assistant")
      assert.strictEqual(deltas.map((delta) => delta.reasoning_content ?? "").join(""), "Hm")
      assert.strictEqual(deltas.map((delta) => delta.content ?? "").join(""), `${long}😀`)
      assert.deepStrictEqual(list.slice(0, -2).map((event) => event.usage), list.slice(0, -2).map(() => null))
      assert.strictEqual(list.at(-3).choices[0].finish_reason, "stop")
      assert.deepStrictEqual(list.at(-2).choices, [])
      assert.deepInclude(list.at(-2).usage, {
        prompt_tokens: 2,
        completion_tokens: 14,
        completion_tokens_details: { reasoning_tokens: 1 }
      })
      assert.strictEqual(list.at(-1), "[DONE]")
      const without = events((yield* ask(server, { ...hello, stream: true })).text)
      assert.isFalse(without.some((event) => "usage" in Object(event)))
    }))

  it.live("vendors put the usage of a stream where they do", () =>
    Effect.gen(function*() {
      for (const flavour of ["groq", "mistral", "deepseek", "moonshot"] as const) {
        const server = yield* ProviderServer.make({ format: "openai", flavour })
        const list = events((yield* ask(server, { ...hello, stream: true })).text)
        assert.strictEqual(list.at(-2).choices[0].finish_reason, "stop")
        assert.strictEqual(list.at(-2).usage.completion_tokens, 5)
      }
      const xai = yield* ProviderServer.make({
        format: "openai",
        flavour: "xai",
        reply: { reasoning: long, text: "four" }
      })
      const { json } = yield* ask(xai, hello)
      assert.include(json.usage, { prompt_tokens: 2, completion_tokens: 1, total_tokens: 15 })
    }))

  it.live("an Azure stream begins with the prompt's filter results", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "azure" })
      const list = events((yield* ask(server, { ...hello, stream: true }, { format: "azure" })).text)
      assert.deepStrictEqual(list[0].choices, [])
      assert.isArray(list[0].prompt_filter_results)
      assert.strictEqual(list.at(-1), "[DONE]")
    }))

  it.live("an Anthropic stream has named events with blocks, cumulative usage and message_stop", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "anthropic",
        reply: { reasoning: "Hm", text: long, toolCalls: [{ name: "add", arguments: { a: 1 } }] }
      })
      const { text } = yield* ask(server, { ...hello, stream: true }, { format: "anthropic" })
      const list = events(text)
      for (const [index, frame] of text.split("\n\n").slice(0, -1).entries()) {
        assert.isTrue(frame.startsWith(`event: ${list[index].type}\n`))
      }
      const types = list.map((event) => event.type).filter((type) => type !== "content_block_delta")
      assert.deepStrictEqual(types, [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop"
      ])
      const deltas = list.filter((event) => event.type === "content_block_delta").map((event) => event.delta)
      assert.strictEqual(deltas.map((delta) => delta.thinking ?? "").join(""), "Hm")
      assert.strictEqual(deltas.map((delta) => delta.text ?? "").join(""), long)
      assert.strictEqual(deltas.map((delta) => delta.partial_json ?? "").join(""), "{\"a\":1}")
      const last = list.at(-2)
      assert.deepStrictEqual([last.delta.stop_reason, last.usage.output_tokens], ["tool_use", 16])
    }))

  it.live("an answer is cut to max_tokens", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", reply: () => long })
      const { json } = yield* ask(server, { ...hello, max_completion_tokens: 3 })
      assert.strictEqual(json.choices[0].message.content, long.slice(0, 12))
      assert.strictEqual(json.choices[0].finish_reason, "length")
      assert.strictEqual(json.usage.completion_tokens, 3)
    }))

  it.live("a demanded tool is called and a demanded schema followed", () =>
    Effect.gen(function*() {
      const schema = {
        type: "object",
        properties: { unit: { enum: ["C", "F"] }, days: { type: "array", items: { $ref: "#/$defs/Day" } } },
        $defs: { Day: { type: "integer", minimum: 3 } }
      }
      const server = yield* ProviderServer.make({ format: "openai" })
      const tools = [{ type: "function", function: { name: "weather", parameters: schema } }]
      const whole = yield* ask(server, { ...hello, tools, tool_choice: "required" })
      const call = whole.json.choices[0].message.tool_calls[0]
      assert.deepStrictEqual([call.function.name, JSON.parse(call.function.arguments)], [
        "weather",
        { unit: "C", days: [3] }
      ])
      assert.strictEqual(whole.json.choices[0].finish_reason, "tool_calls")
      const stream = yield* ask(server, { ...hello, tools, tool_choice: tools[0], stream: true })
      const calls = events(stream.text).flatMap((event) => event.choices?.[0]?.delta.tool_calls ?? [])
      assert.strictEqual(calls[0].function.name, "weather")
      assert.strictEqual(calls.map((part) => part.function.arguments).join(""), call.function.arguments)
      const structured = yield* ask(server, {
        ...hello,
        response_format: { type: "json_schema", json_schema: { name: "x", schema } }
      })
      assert.deepStrictEqual(JSON.parse(structured.json.choices[0].message.content), { unit: "C", days: [3] })
    }))

  it.live("what is wrong with a request is said as the vendor says it", () =>
    Effect.gen(function*() {
      const keys = [{ id: "k1", value: Redacted.make("right") }]
      const models = ["m"]
      const openai = yield* ProviderServer.make({ format: "openai", keys, models })
      const bad = yield* ask(openai, hello, { key: "wrong" })
      assert.deepStrictEqual([bad.status, bad.json.error.code], [401, "invalid_api_key"])
      const unknown = yield* ask(openai, { ...hello, model: "x" }, { key: "right" })
      assert.deepStrictEqual([unknown.status, unknown.json.error.code], [404, "model_not_found"])
      assert.strictEqual(yield* status(openai, "{", { key: "right" }), 400)
      assert.strictEqual(yield* status(openai, { model: "m" }, { key: "right" }), 400)
      assert.strictEqual(yield* status(openai, { ...hello, max_tokens: 0 }, { key: "right" }), 400)
      assert.strictEqual(yield* status(openai, hello, { key: "right" }), 200)
      const stats = yield* openai.received
      assert.deepStrictEqual([stats.rejected, stats.answered], [5, 1])
      assert.deepStrictEqual(stats.byKey, { unknown: 1, k1: 5 })

      const xai = yield* ProviderServer.make({ format: "openai", flavour: "xai", keys })
      const flat = yield* ask(xai, hello)
      assert.deepStrictEqual([flat.status, typeof flat.json.error], [400, "string"])
      const mistral = yield* ProviderServer.make({ format: "openai", flavour: "mistral", keys })
      const silent = yield* ask(mistral, hello)
      assert.deepStrictEqual([silent.status, silent.text], [401, ""])
      const azure = yield* ProviderServer.make({ format: "azure", models: ["other"] })
      assert.strictEqual((yield* ask(azure, hello, { format: "azure" })).json.error.code, "DeploymentNotFound")
      const anthropic = yield* ProviderServer.make({ format: "anthropic", models, keys })
      const as = { format: "anthropic", headers: { "x-api-key": "right" } } as const
      const missing = yield* ask(anthropic, { ...hello, model: "x" }, as)
      assert.deepStrictEqual([missing.status, missing.json.error.type], [404, "not_found_error"])
      assert.strictEqual(yield* status(anthropic, JSON.stringify(hello), as), 400)
      assert.strictEqual(yield* status(anthropic, hello, as), 200)
    }))

  it.effect("an answer takes the time of its first token and of its chunks", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: long,
        latency: { firstToken: "10 seconds", perChunk: { min: "1 second", max: "1 second" } }
      })
      const asked = yield* Effect.forkChild(ask(server, hello))
      yield* server.awaitRequests(1)
      yield* TestClock.adjust(12_999)
      assert.strictEqual((yield* server.received).log[0]?.status, undefined)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Fiber.join(asked)).status, 200)
      const streamed = yield* Effect.forkChild(open(server, { ...hello, stream: true }))
      yield* server.awaitRequests(2)
      yield* TestClock.adjust("10 seconds")
      const response = yield* Fiber.join(streamed)
      assert.strictEqual((yield* server.received).answered, 1)
      yield* TestClock.adjust("2 seconds")
      assert.include((yield* readAll(response)).text, "[DONE]")
    }))

  it.live("a reply that throws is a 500 that says so", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: () => {
          throw new Error("boom")
        }
      })
      const got = yield* ask(server, hello)
      assert.strictEqual(got.status, 500)
      assert.include(got.json.error.message, "boom")
      assert.strictEqual((yield* server.received).rejected, 1)
    }))

  it.live("a scripted header that HTTP does not allow closes the connection", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      yield* server.enqueue(Fault.Status({ status: 500, headers: { "x-bad": "\n" } }))
      yield* Effect.flip(ask(server, hello))
      assert.strictEqual((yield* server.received).concurrent.now, 0)
    }).pipe(Effect.provide(Logger.layer([]))))
})

describe("ProviderServer faults", () => {
  const streaming = { ...hello, stream: true }

  it.live("Status answers with the vendor's envelope and the stated wait", () =>
    Effect.gen(function*() {
      for (const format of ["openai", "azure", "anthropic"] as const) {
        const server = yield* ProviderServer.make({ format })
        for (const code of [400, 401, 403, 404, 429, 500, 502, 503, 504, 529]) {
          yield* server.enqueue(Fault.Status({ status: code }))
          const got = yield* ask(server, hello, { format })
          assert.strictEqual(got.status, code)
          assert.isString(got.json.error.message)
          assert.isNull(got.headers.get("retry-after"))
        }
        yield* server.enqueue(Fault.Status({ status: 429, retryAfter: 1500, headers: { "X-Extra": "1" } }))
        const got = yield* ask(server, hello, { format })
        assert.strictEqual(got.headers.get("retry-after"), "2")
        assert.strictEqual(got.headers.get("x-extra"), "1")
        assert.strictEqual(got.headers.get("retry-after-ms"), format === "anthropic" ? null : "1500")
        yield* server.enqueue(Fault.Status({ status: 418, body: "tea" }))
        assert.strictEqual((yield* ask(server, hello, { format })).text, "tea")
        assert.strictEqual(yield* status(server, hello, { format }), 200)
      }
    }))

  it.live("Reset ends the connection before or after the headers", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      yield* server.enqueue(Fault.Reset({}))
      assert.strictEqual(causeCode(yield* Effect.flip(open(server, hello))), "ECONNRESET")
      for (const body of [hello, streaming]) {
        yield* server.enqueue(Fault.Reset({ afterHeaders: true }))
        const response = yield* open(server, body)
        assert.strictEqual(response.status, 200)
        assert.deepStrictEqual(yield* readAll(response), { text: "", failed: true })
      }
      assert.strictEqual((yield* server.received).faulted, 3)
    }))

  it.live("T38: NoAnswer says nothing until the client leaves, which is seen at once", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      yield* server.outage(Fault.NoAnswer())
      const controller = new AbortController()
      const asked = yield* Effect.forkChild(Effect.flip(open(server, hello, { signal: controller.signal })))
      yield* server.awaitRequests(1)
      assert.strictEqual((yield* server.received).concurrent.now, 1)
      controller.abort()
      yield* Fiber.join(asked)
      yield* server.awaitIdle
      yield* server.awaitDisconnected
      const { aborted, concurrent, log, sockets } = yield* server.received
      assert.deepStrictEqual([aborted, concurrent, sockets.now], [1, { now: 0, max: 1 }, 0])
      assert.deepStrictEqual([log[0]?.outcome, log[0]?.fault, log[0]?.status], ["aborted", "NoAnswer", undefined])
    }))

  it.effect("SlowFirstToken sends the headers at once and the content later", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      for (const body of [hello, streaming]) {
        yield* server.enqueue(Fault.SlowFirstToken({ delay: "5 seconds" }))
        const response = yield* open(server, body)
        assert.strictEqual(response.status, 200)
        assert.strictEqual((yield* server.received).concurrent.now, 1)
        yield* TestClock.adjust("5 seconds")
        assert.include((yield* readAll(response)).text, "You said")
      }
    }))

  it.live("Cut ends a stream after its chunks without the terminal event", () =>
    Effect.gen(function*() {
      for (const format of ["openai", "anthropic"] as const) {
        const server = yield* ProviderServer.make({ format, reply: long })
        for (const [after, expected] of [[0, 0], [2, 32], [99, 48]] as const) {
          for (const clean of [false, true]) {
            yield* server.enqueue(Fault.Cut({ after, clean }))
            const { failed, text } = yield* Effect.flatMap(open(server, streaming, { format }), readAll)
            assert.strictEqual(failed, !clean)
            const content = events(text).map((event) => event.choices?.[0].delta.content ?? event.delta?.text ?? "")
              .join("")
            assert.strictEqual(content, long.slice(0, expected))
            assert.notMatch(text, /\[DONE\]|message_stop|finish_reason":"stop/)
          }
        }
        yield* server.enqueue(Fault.Cut({}), { times: 1 })
        const whole = yield* Effect.flatMap(open(server, hello, { format }), readAll)
        assert.isTrue(whole.failed && whole.text.length > 0)
      }
    }))

  it.effect("T35: Stall sends nothing more, or only keep-alives", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", reply: long })
      yield* server.enqueue(Fault.Stall({ keepAlive: "1 second" }))
      const response = yield* open(server, streaming)
      const first = yield* readUntil(response, "0123456789abcdef")
      assert.strictEqual(events(first).length, 2)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* readUntil(response, "keep-alive\n\n"), ": keep-alive\n\n")
      yield* Effect.promise(() => response.body!.cancel())
      yield* server.awaitIdle
      yield* server.enqueue(Fault.Stall({ after: 2 }))
      const silent = yield* open(server, streaming)
      yield* readUntil(silent, "0123456789abcdef\"},\"finish_reason\":null,\"logprobs\":null}]}\n\ndata")
      yield* TestClock.adjust("1 hour")
      yield* Effect.promise(() => silent.body!.cancel())
      yield* server.awaitIdle
      assert.strictEqual((yield* server.received).aborted, 2)
    }))

  it.live("MalformedChunk puts half a JSON document into a stream that goes on", () =>
    Effect.gen(function*() {
      for (const format of ["openai", "anthropic"] as const) {
        const server = yield* ProviderServer.make({ format, reply: long })
        yield* server.enqueue(Fault.MalformedChunk({ after: 1 }), { times: 2 })
        const { text } = yield* ask(server, streaming, { format })
        assert.throws(() => events(text))
        assert.match(text, /\[DONE\]|message_stop/)
        const whole = yield* ask(server, hello, { format })
        assert.strictEqual(whole.status, 200)
        assert.throws(() => JSON.parse(whole.text))
      }
    }))

  it.live("ErrorEvent puts the vendor's error into a stream that began with 200", () =>
    Effect.gen(function*() {
      const openai = yield* ProviderServer.make({ format: "openai", reply: long })
      yield* openai.enqueue(Fault.ErrorEvent({ after: 1, status: 429 }))
      const list = events((yield* ask(openai, streaming)).text)
      assert.strictEqual(list.at(-2).error.code, "rate_limit_exceeded")
      assert.strictEqual(list.at(-1), "[DONE]")
      assert.isFalse(list.some((event) => event.choices?.[0].finish_reason === "stop"))
      const anthropic = yield* ProviderServer.make({ format: "anthropic" })
      yield* anthropic.enqueue(Fault.ErrorEvent({ after: 0 }), { times: 2 })
      const { text } = yield* ask(anthropic, streaming, { format: "anthropic" })
      assert.include(text, "event: error\n")
      assert.strictEqual(events(text).at(-1).error.type, "overloaded_error")
      const whole = yield* ask(anthropic, hello, { format: "anthropic" })
      assert.deepStrictEqual([whole.status, whole.json.type], [200, "error"])
    }))

  it.live("EmptyBody and HtmlPage are what an edge sends", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      yield* server.enqueue(Fault.EmptyBody())
      const empty = yield* ask(server, streaming)
      assert.deepStrictEqual([empty.status, empty.text], [200, ""])
      assert.include(empty.headers.get("content-type"), "event-stream")
      yield* server.enqueue(Fault.HtmlPage({}))
      const page = yield* ask(server, hello)
      assert.strictEqual(page.status, 502)
      assert.include(page.text, "502 Bad Gateway")
    }))

  it.live("enqueued faults meet the next matching requests, before an outage, until healed", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      const other = { ...hello, model: "n" }
      yield* server.outage(Fault.Status({ status: 503 }), { key: "key-2" })
      yield* server.enqueue(Fault.Status({ status: 500 }), { times: 2, model: "n" })
      const got = [
        yield* status(server, hello),
        yield* status(server, other, { key: "second" }),
        yield* status(server, other),
        yield* status(server, other),
        yield* status(server, hello, { key: "second" }),
        yield* status(server, hello, { key: "second" })
      ]
      assert.deepStrictEqual(got, [200, 500, 500, 200, 503, 503])
      yield* server.enqueue(Fault.Status({ status: 500 }))
      yield* server.heal
      assert.strictEqual(yield* status(server, hello, { key: "second" }), 200)
    }))

  it.live("a fault that replaces the answer costs no quota, and a refusal uses up no fault", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", limits: { requests: { limit: 1, per: "1 hour" } } })
      yield* server.enqueue(Fault.Status({ status: 500 }))
      assert.strictEqual(yield* status(server, hello), 500)
      assert.strictEqual(yield* status(server, hello), 200)
      yield* server.enqueue(Fault.ErrorEvent({}))
      assert.strictEqual(yield* status(server, hello), 429)
      const other = yield* ask(server, { ...hello, model: "n" })
      assert.strictEqual(other.json.error.type, "server_error")
    }))

  it.live("the same seed meets the same faults", () =>
    Effect.gen(function*() {
      const run = (seed: string) =>
        Effect.gen(function*() {
          const server = yield* ProviderServer.make({
            format: "openai",
            seed,
            faultRates: [{ rate: 0.5, fault: Fault.Status({ status: 500 }) }]
          })
          return yield* Effect.all(Array.from({ length: 20 }, () => status(server, hello)))
        })
      const first = yield* run("a")
      assert.deepStrictEqual(yield* run("a"), first)
      assert.notDeepEqual(yield* run("b"), first)
      assert.isTrue(first.includes(200) && first.includes(500))
    }))
})

describe("ProviderServer counts", () => {
  it.live("everything received is counted, by model, key and status", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", logSize: 2 })
      yield* server.enqueue(Fault.Status({ status: 500 }), { model: "n" })
      yield* status(server, hello)
      yield* status(server, hello, { key: "second" })
      yield* status(server, { ...hello, model: "n" })
      const stats = yield* server.received
      assert.deepInclude(stats, {
        requests: 3,
        byModel: { m: 2, n: 1 },
        byKey: { "key-1": 2, "key-2": 1 },
        byStatus: { 200: 2, 500: 1 },
        answered: 2,
        faulted: 1
      })
      assert.strictEqual(stats.log.length, 2)
      assert.deepStrictEqual(stats.log[1]?.body, { ...hello, model: "n" })
      assert.deepInclude(stats.log[1], {
        method: "POST",
        path: "/v1/chat/completions",
        outcome: "faulted",
        status: 500
      })
      yield* server.reset
      const { log, requests, sockets } = yield* server.received
      assert.deepStrictEqual([log, requests, sockets.opened], [[], 0, sockets.now])
    }))

  it.live("T40: no secret is in what was received", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        keys: [{ id: "k1", value: Redacted.make("sk-canary") }]
      })
      const headers = { "x-api-key": "sk-canary", "api-key": "sk-canary" }
      assert.strictEqual(yield* status(server, hello, { key: "sk-canary", headers }), 200)
      const stats = yield* server.received
      assert.strictEqual(stats.log[0]?.headers["authorization"], "<redacted>")
      assert.notInclude(JSON.stringify(stats), "sk-canary")
    }))

  it.effect("a client that leaves a stream is charged what was written", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: long,
        limits: { tokens: { limit: 100, per: "1 hour" } },
        latency: { perChunk: "1 second" }
      })
      const response = yield* open(server, { ...hello, stream: true, max_tokens: 98 })
      yield* readUntil(response, "cdef")
      yield* Effect.promise(() => response.body!.cancel())
      yield* server.awaitIdle
      const { aborted, tokens } = yield* server.received
      assert.deepStrictEqual([aborted, tokens], [1, { admitted: 100, input: 2, output: 4 }])
      assert.strictEqual((yield* open(server, { ...hello, stream: true, max_tokens: 93 })).status, 429)
      assert.strictEqual((yield* open(server, { ...hello, stream: true, max_tokens: 92 })).status, 200)
    }))

  it.live("closing the scope destroys every socket at once", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* Scope.provide(ProviderServer.make({ format: "openai" }), scope)
      yield* server.outage(Fault.Stall({}), { model: "stalled" })
      yield* server.outage(Fault.NoAnswer(), { model: "silent" })
      const stalled = yield* open(server, { ...hello, model: "stalled", stream: true })
      const silent = yield* Effect.forkChild(Effect.flip(open(server, { ...hello, model: "silent" })))
      yield* status(server, hello)
      yield* server.awaitRequests(3)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue((yield* readAll(stalled)).failed)
      yield* Fiber.join(silent)
      assert.deepInclude(yield* server.received, { sockets: { now: 0, opened: 3 }, aborted: 2 })
      assert.strictEqual(causeCode(yield* Effect.flip(open(server, hello))), "ECONNREFUSED")
    }))

  it.live("what waits for counts is released by the request that completes them", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      const two = yield* Effect.forkChild(server.awaitRequests(2), { startImmediately: true })
      const failed = yield* Effect.forkChild(server.awaitStats((stats) => stats.byStatus[500] === 1), {
        startImmediately: true
      })
      yield* status(server, hello)
      assert.isUndefined(two.pollUnsafe())
      yield* server.enqueue(Fault.Status({ status: 500 }))
      yield* status(server, hello)
      yield* Fiber.join(two)
      yield* Fiber.join(failed)
    }))

  it.live("a port that is taken is a ServeError", () =>
    Effect.gen(function*() {
      const { port } = yield* ProviderServer.make({ format: "openai" })
      const error = yield* Effect.flip(ProviderServer.make({ format: "openai", port }))
      assert.strictEqual(error._tag, "ServeError")
    }))

  it.live("options and faults that make no sense are refused by name", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [Partial<ProviderServer.Options>, string]> = [
        [{ limits: { requests: { limit: 0, per: "1 second" } } }, "requests.limit"],
        [{ limits: { tokens: { limit: 1, per: "1 nano" } } }, "tokens.per"],
        [{ limits: { concurrency: 0.5 } }, "concurrency"],
        [{ format: "azure", flavour: "groq" }, "flavour"],
        [{ chunkSize: 0 }, "chunkSize"],
        [{ logSize: -1 }, "logSize"],
        [{ faultRates: [{ rate: 2, fault: Fault.NoAnswer() }] }, "faultRates.rate"],
        [{ faultRates: [{ rate: 1, fault: Fault.Cut({ after: -1 }) }] }, "Cut.after"],
        [{ latency: { firstToken: { min: 2, max: 1 } } }, "latency.firstToken"]
      ]
      for (const [options, field] of wrong) {
        const exit = yield* Effect.exit(ProviderServer.make({ format: "openai", ...options }))
        assert.isTrue(Exit.isFailure(exit))
        assert.include(String(exit), `ProviderServer: ${field}`)
      }
      const server = yield* ProviderServer.make({ format: "openai" })
      const refused = yield* Effect.exit(server.enqueue(Fault.Status({ status: 99 })))
      assert.include(String(refused), "Status.status")
    }))

  it.live("the layer provides a server", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.ProviderServer
      assert.match(server.url, /^http:\/\/127\.0\.0\.1:\d+\/v1$/)
      assert.strictEqual(yield* status(server, hello), 200)
    }).pipe(Effect.provide(ProviderServer.layer({ format: "openai" }))))
})
