import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect } from "effect"
import * as Harness from "./harness.ts"

const { Fault } = ProviderServer
const { ask, events, get } = Harness

const hello = { model: "chat", messages: [{ role: "user", content: "Say tide" }] }
const claude = { ...hello, max_tokens: 100 }
const messages = { path: "/v1/messages", headers: { "anthropic-version": "2023-06-01" } }

const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "Looks at the sky",
    parameters: { type: "object", properties: { city: { type: "string", enum: ["Kiel"] } }, required: ["city"] }
  }
}

/** A gateway over one server of each format, the first one first. */
const world = Effect.fnUntraced(function*(options: {
  readonly order?: ReadonlyArray<"openai" | "anthropic">
  readonly model?: object
  readonly config?: object
  readonly server?: Partial<ProviderServer.Options>
} = {}) {
  const openai = yield* ProviderServer.make({ format: "openai", ...options.server })
  const anthropic = yield* ProviderServer.make({ format: "anthropic", ...options.server })
  const targets = (options.order ?? ["openai"]).map((name) => name === "openai" ? "openai/one" : "anthropic/two")
  const servers = Object.fromEntries(
    (options.order ?? ["openai"]).map((name) => [name, name === "openai" ? openai : anthropic])
  )
  const served = yield* Harness.serve({
    providers: Harness.providers(servers),
    models: { chat: { ...Harness.quick, targets, ...options.model } },
    ...options.config
  })
  return { ...served, openai, anthropic }
})

describe("the face of OpenAI", () => {
  it.live("answers with the model and usage of the target that answered, and says which it was", () =>
    Effect.gen(function*() {
      const { openai, port } = yield* world({ order: ["openai", "anthropic"] })
      const reply = yield* ask(port, hello)
      assert.strictEqual(reply.status, 200)
      const { choices, created, id, model, object, usage } = reply.json
      assert.deepStrictEqual([object, model], ["chat.completion", "one"])
      assert.match(id, /^chatcmpl-/)
      assert.isAbove(created, 1_700_000_000)
      assert.strictEqual(choices[0].message.content, "You said: Say tide")
      assert.deepStrictEqual([choices[0].finish_reason, choices[0].message.role], ["stop", "assistant"])
      assert.deepStrictEqual([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens], [2, 5, 7])
      assert.strictEqual(reply.headers["x-breakwater-target"], "openai/one@openai-1")
      assert.strictEqual(reply.headers["x-breakwater-attempts"], "1")
      assert.strictEqual(reply.headers["x-breakwater-waited-ms"], "0")
      assert.strictEqual(reply.headers["x-breakwater-request-id"], reply.headers["x-request-id"])

      yield* openai.outage(Fault.Status({ status: 500 }))
      const second = yield* ask(port, hello)
      assert.deepStrictEqual([second.status, second.json.model], [200, "two"])
      assert.strictEqual(second.headers["x-breakwater-target"], "anthropic/two@anthropic-1")
      assert.strictEqual(second.headers["x-breakwater-attempts"], "3")
      assert.deepStrictEqual(second.json.usage.total_tokens, 7)
    }).pipe(Effect.scoped))

  it.live("streams chunks that end with [DONE], with the usage where it was asked for", () =>
    Effect.gen(function*() {
      for (const order of [["openai"], ["anthropic"]] as const) {
        const { port } = yield* world({ order })
        const reply = yield* ask(port, { ...hello, stream: true, stream_options: { include_usage: true } })
        assert.strictEqual(reply.status, 200)
        assert.match(reply.headers["content-type"] ?? "", /^text\/event-stream/)
        assert.match(
          String(reply.headers["x-breakwater-target"]),
          order[0] === "openai" ? /^openai\/one/ : /^anthropic\/two/
        )
        const seen = Harness.openAiStream(reply.body)
        assert.deepStrictEqual(
          [seen.text, seen.reason, seen.done, seen.error],
          ["You said: Say tide", "stop", true, undefined]
        )
        assert.strictEqual(seen.usage.total_tokens, 7)
        assert.strictEqual(seen.model, order[0] === "openai" ? "one" : "two")
        const chunks = events(reply.body)
        assert.deepStrictEqual(chunks[0]?.data.choices[0].delta, { role: "assistant", content: "" })
        assert.deepStrictEqual(chunks.at(-2)?.data.choices, [])
        const plain = yield* ask(port, { ...hello, stream: true })
        assert.notInclude(plain.body, "usage")
      }
    }).pipe(Effect.scoped))

  it.live("gives as many choices as are asked for, each from whoever can answer", () =>
    Effect.gen(function*() {
      const { anthropic, openai, port } = yield* world({ order: ["openai", "anthropic"] })
      yield* openai.enqueue(Fault.Status({ status: 500 }), { times: 2 })
      const reply = yield* ask(port, { ...hello, n: 3 })
      const { choices, model, usage } = reply.json
      assert.deepStrictEqual(choices.map((_: Harness.Json) => [_.index, _.message.content, _.finish_reason]), [
        [0, "You said: Say tide", "stop"],
        [1, "You said: Say tide", "stop"],
        [2, "You said: Say tide", "stop"]
      ])
      assert.deepStrictEqual([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens], [6, 15, 21])
      assert.include(["one", "two"], model)
      const { requests: first } = yield* openai.received
      const { requests: second } = yield* anthropic.received
      assert.strictEqual(Number(reply.headers["x-breakwater-attempts"]), first + second)
      assert.isAtLeast(first + second, 5)
    }).pipe(Effect.scoped))

  it.live("streams several choices side by side, with one end and the usage of all", () =>
    Effect.gen(function*() {
      for (const order of [["openai"], ["anthropic"]] as const) {
        const { port } = yield* world({ order, server: { latency: { perChunk: "5 millis" } } })
        const asked = { ...hello, n: 3, stream: true, stream_options: { include_usage: true } }
        const reply = yield* ask(port, asked)
        assert.strictEqual(reply.status, 200)
        assert.match(String(reply.headers["x-breakwater-target"]), new RegExp(`^${order[0]}/`))
        const all = events(reply.body)
        for (const index of [0, 1, 2]) {
          const own = all.flatMap((_) => _.data.choices ?? []).filter((_: Harness.Json) => _.index === index)
          assert.deepStrictEqual(own[0].delta, { role: "assistant", content: "" })
          assert.strictEqual(own.map((_: Harness.Json) => _.delta.content ?? "").join(""), "You said: Say tide")
          assert.strictEqual(own.at(-1).finish_reason, "stop")
        }
        assert.deepStrictEqual(all.filter((_) => _.data === "[DONE]").length, 1)
        assert.strictEqual(all.at(-1)?.data, "[DONE]")
        assert.deepStrictEqual([all.at(-2)?.data.choices, all.at(-2)?.data.usage.total_tokens], [[], 21])
      }
    }).pipe(Effect.scoped))

  it.live("ends all choices of a stream with the error of the one that breaks", () =>
    Effect.gen(function*() {
      const { openai, port } = yield* world({ server: { latency: { perChunk: "20 millis" } } })
      yield* openai.enqueue(Fault.Cut({ after: 2 }))
      const reply = yield* ask(port, { ...hello, n: 2, stream: true })
      const seen = Harness.openAiStream(reply.body)
      assert.deepStrictEqual([reply.status, seen.done], [200, false])
      assert.isString(seen.error?.message)
      yield* Effect.timeout(openai.awaitIdle, "1 second")
      yield* openai.enqueue(Fault.Status({ status: 400 }))
      const refused = yield* ask(port, { ...hello, n: 2, stream: true })
      assert.strictEqual(refused.status, 400)
      yield* Effect.timeout(openai.awaitIdle, "1 second")
    }).pipe(Effect.scoped))

  it.live("hands tools, their calls and their results through, in both formats", () =>
    Effect.gen(function*() {
      for (const order of [["openai"], ["anthropic"]] as const) {
        const built = yield* world({ order })
        const { port } = built
        const asked = { ...hello, tools: [weather], tool_choice: "required" }
        const reply = yield* ask(port, asked)
        const [call] = reply.json.choices[0].message.tool_calls
        assert.strictEqual(reply.json.choices[0].finish_reason, "tool_calls")
        assert.isNull(reply.json.choices[0].message.content)
        assert.deepStrictEqual([call.type, call.function.name, JSON.parse(call.function.arguments)], [
          "function",
          "weather",
          { city: "Kiel" }
        ])
        const streamed = events((yield* ask(port, { ...asked, stream: true })).body)
        const deltas = streamed.flatMap((_) => _.data?.choices?.[0]?.delta.tool_calls ?? [])
        assert.strictEqual(deltas[0].function.name, "weather")
        assert.deepStrictEqual(JSON.parse(deltas.map((_) => _.function.arguments).join("")), { city: "Kiel" })

        const next = yield* ask(port, {
          ...hello,
          tools: [weather],
          messages: [
            ...hello.messages,
            { role: "assistant", content: null, tool_calls: [call] },
            { role: "tool", tool_call_id: call.id, content: "rain" }
          ]
        })
        assert.strictEqual(next.json.choices[0].message.content, "You said: rain")
        const { log } = yield* built[order[0]].received
        const body: Harness.Json = log.at(-1)
        assert.isDefined(body)
      }
    }).pipe(Effect.scoped))
})

describe("the face of Anthropic", () => {
  it.live("answers and streams in Anthropic's grammar, whichever format answered", () =>
    Effect.gen(function*() {
      for (const order of [["openai"], ["anthropic"]] as const) {
        const { port } = yield* world({ order })
        const reply = yield* ask(port, claude, messages)
        const model = order[0] === "openai" ? "one" : "two"
        assert.strictEqual(reply.status, 200)
        const { content, role, stop_reason, type, usage } = reply.json
        assert.deepStrictEqual([type, role, reply.json.model, stop_reason], ["message", "assistant", model, "end_turn"])
        assert.deepStrictEqual(content, [{ type: "text", text: "You said: Say tide" }])
        assert.deepStrictEqual([usage.input_tokens, usage.output_tokens], [2, 5])
        assert.strictEqual(reply.headers["request-id"], reply.headers["x-breakwater-request-id"])

        const streamed = Harness.anthropicStream((yield* ask(port, { ...claude, stream: true }, messages)).body)
        assert.deepStrictEqual(
          [streamed.text, streamed.reason, streamed.done, streamed.model],
          ["You said: Say tide", "end_turn", true, model]
        )
        assert.deepStrictEqual([streamed.usage.input_tokens, streamed.usage.output_tokens], [2, 5])
        assert.deepStrictEqual(
          streamed.names.filter((name, index) => name !== streamed.names[index - 1]),
          [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
          ]
        )
      }
    }).pipe(Effect.scoped))

  it.live("hands tools through, and keeps one block open at a time", () =>
    Effect.gen(function*() {
      for (const order of [["openai"], ["anthropic"]] as const) {
        const { port } = yield* world({
          order,
          server: {
            reply: (request) =>
              request.messages.at(-1)?.text.includes("rain") === true ? "Take a coat" : {
                text: "I look",
                toolCalls: [{ name: "weather", arguments: { city: "Kiel" } }, { name: "weather", arguments: {} }]
              }
          }
        })
        const asked = {
          ...claude,
          tools: [{ name: "weather", input_schema: weather.function.parameters }],
          tool_choice: { type: "any" }
        }
        const reply = yield* ask(port, asked, messages)
        assert.deepStrictEqual(reply.json.content.map((_: Harness.Json) => _.type), ["text", "tool_use", "tool_use"])
        assert.deepStrictEqual([reply.json.stop_reason, reply.json.content[1].input], ["tool_use", { city: "Kiel" }])

        const all = events((yield* ask(port, { ...asked, stream: true }, messages)).body)
        let open = -1
        for (const { data, event } of all) {
          if (event === "content_block_start") {
            assert.strictEqual(open, -1)
            open = data.index
          } else if (event === "content_block_delta") assert.strictEqual(data.index, open)
          else if (event === "content_block_stop") open = -1
        }
        const json = all.filter((_) => _.data.index === 1).map((_) => _.data.delta?.partial_json ?? "").join("")
        assert.deepStrictEqual(JSON.parse(json), { city: "Kiel" })

        const next = yield* ask(port, {
          ...asked,
          tool_choice: { type: "auto" },
          messages: [
            ...claude.messages,
            { role: "assistant", content: reply.json.content },
            {
              role: "user",
              content: reply.json.content.slice(1).map((call: Harness.Json) => ({
                type: "tool_result",
                tool_use_id: call.id,
                content: "rain"
              }))
            }
          ]
        }, messages)
        assert.strictEqual(next.json.content[0].text, "Take a coat")
      }
    }).pipe(Effect.scoped))
})

describe("what goes to the provider", () => {
  const pixel = "data:image/png;base64,iVBORw0KGgo="
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }

  it.live("is what the client meant, and fields of a format go to targets of that format alone", () =>
    Effect.gen(function*() {
      const seen: Array<Harness.Json> = []
      const server = {
        reply: (request: ProviderServer.ChatRequest) => {
          seen.push(request.body)
          return "ok"
        }
      }
      const toOpenAi = yield* world({ order: ["openai"], server })
      const toAnthropic = yield* world({ order: ["anthropic"], server })
      const openai = {
        ...hello,
        messages: [
          { role: "developer", content: "Be brief", name: "chief" },
          {
            role: "user",
            name: "bob",
            content: [
              { type: "text", text: "What is it?", cache_control: { type: "ephemeral" } },
              { type: "image_url", image_url: { url: pixel, detail: "low" } }
            ]
          },
          { role: "assistant", content: "A tide", annotations: [], refusal: null, prefix: true },
          { role: "user", content: [{ type: "text", text: "And?", cache_control: { type: "ephemeral" } }] }
        ],
        top_p: 0,
        seed: 7,
        reasoning_effort: "low",
        user: null,
        max_tokens: 50,
        stop: "END",
        temperature: 0.5,
        response_format: {
          type: "json_schema",
          json_schema: { name: "place", description: "Where it is", schema, strict: true }
        }
      }
      assert.strictEqual((yield* ask(toOpenAi.port, openai)).status, 200)
      assert.strictEqual((yield* ask(toAnthropic.port, openai)).status, 200)
      const [one, two] = seen
      assert.deepStrictEqual([one.seed, one.reasoning_effort, one.max_completion_tokens, one.stop, one.temperature], [
        7,
        "low",
        50,
        ["END"],
        0.5
      ])
      assert.notProperty(one, "user")
      assert.deepStrictEqual(one.messages, [
        { role: "system", content: "Be brief", name: "chief" },
        openai.messages[1],
        { role: "assistant", content: "A tide", prefix: true },
        openai.messages[3]
      ])
      assert.deepStrictEqual(one.response_format, openai.response_format)
      assert.strictEqual(one.top_p, 0)
      assert.deepStrictEqual(two.messages[0].content[0], { type: "text", text: "What is it?" })
      assert.notProperty(two, "seed")
      assert.notProperty(two, "reasoning_effort")
      assert.strictEqual(two.max_tokens, 50)
      assert.deepStrictEqual(two.messages[0].content[1].source, {
        type: "base64",
        media_type: "image/png",
        data: "iVBORw0KGgo="
      })
      assert.deepStrictEqual(two.output_config.format, { type: "json_schema", schema })

      seen.length = 0
      const anthropic = {
        ...claude,
        system: [{ type: "text", text: "Be brief", cache_control: { type: "ephemeral" } }],
        top_k: 5,
        thinking: { type: "enabled", budget_tokens: 1024 },
        messages: [
          { role: "user", content: "Why?" },
          {
            role: "assistant",
            content: [{ type: "thinking", thinking: "hm", signature: "c2ln" }, { type: "text", text: "Because" }]
          },
          { role: "user", content: "And?" }
        ]
      }
      const beta = { ...messages, headers: { ...messages.headers, "anthropic-beta": "context-1m-2025-08-07" } }
      assert.strictEqual((yield* ask(toOpenAi.port, anthropic, beta)).status, 200)
      assert.strictEqual((yield* ask(toAnthropic.port, anthropic, beta)).status, 200)
      const [three, four] = seen
      const headers = (of: Harness.Server) => Effect.map(of.received, ({ log }) => log.at(-1)?.headers ?? {})
      assert.notProperty(yield* headers(toOpenAi.openai), "anthropic-beta")
      assert.strictEqual((yield* headers(toAnthropic.anthropic))["anthropic-beta"], "context-1m-2025-08-07")
      assert.notProperty(three, "top_k")
      assert.notProperty(three, "thinking")
      assert.strictEqual(four.top_k, 5)
      assert.deepStrictEqual(four.thinking, anthropic.thinking)
      assert.deepStrictEqual(four.system, anthropic.system)
      assert.deepStrictEqual(four.messages[1].content, anthropic.messages[1]?.content)
    }).pipe(Effect.scoped))
})

describe("models", () => {
  it.live("are listed for both kinds of clients", () =>
    Effect.gen(function*() {
      const { port } = yield* world()
      const list = yield* get(port, "/v1/models")
      assert.deepStrictEqual(list.json.data.map((_: Harness.Json) => [_.id, _.object]), [["chat", "model"]])
      assert.strictEqual((yield* get(port, "/v1/models/chat")).json.id, "chat")
      const other = yield* get(port, "/v1/models", messages.headers)
      assert.deepStrictEqual([other.json.data[0].type, other.json.has_more], ["model", false])
      assert.strictEqual((yield* get(port, "/v1/models/other")).status, 404)
    }).pipe(Effect.scoped))
})
