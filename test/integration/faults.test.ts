import { assert, describe, it } from "@effect/vitest"
import { type CircuitBreaker, type LLMError, type LLMService, Resilience, Router, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Fiber, Inspectable, Layer, Redacted, References, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { TestClock } from "effect/testing"
import * as Loopback from "../support/Loopback.ts"

// Real sockets need real time. Nothing here sleeps to see something happen: what hangs meets a short limit, and where a
// number can be counted it is counted and not timed.
const { Fault } = ProviderServer

/** Limits for attempts that hang; short beside what a fault would last, long beside an answer on loopback. */
const brief = { attempt: "400 millis", connect: "400 millis", firstToken: "400 millis", idle: "400 millis" } as const
const briefMs = 400

const prompt = "Say tide, say it twice, and then say it once more"
const whole = `You said: ${prompt}`

const vendors = {
  groq: { format: "openai", flavour: "groq" },
  anthropic: { format: "anthropic" }
} as const
const orders = [["groq", "anthropic"], ["anthropic", "groq"]] as const

/** Two servers of different formats behind one service, and one way to ask it. */
const world = Effect.fnUntraced(function*(
  kind: typeof Loopback.kinds[number],
  order: typeof orders[number],
  options: Partial<Resilience.Options>
) {
  const [primary, secondary] = order
  const first = yield* ProviderServer.make(vendors[primary])
  const second = yield* ProviderServer.make(vendors[secondary])
  const targets = [
    Loopback.at(first, { provider: primary, model: "one" }),
    Loopback.at(second, { provider: secondary, model: "two" })
  ]
  const context = yield* Loopback.service({ targets, ...options })
  return {
    kind,
    first,
    second,
    context,
    ids: targets.map((target) => target.id),
    ask: Effect.provideContext(Loopback.ask(kind, { prompt, maxTokens: 64 }), context)
  }
})

type World = Effect.Success<ReturnType<typeof world>>

/** Runs a test whole and streamed, with either wire format first, all at once. */
const inEveryWay = <E, R>(
  test: (world: World) => Effect.Effect<void, E, R>,
  options: Partial<Resilience.Options> = {},
  kinds: ReadonlyArray<typeof Loopback.kinds[number]> = Loopback.kinds
) =>
  Effect.forEach(
    kinds.flatMap((kind) => orders.map((order) => [kind, order] as const)),
    ([kind, order]) =>
      Effect.flatMap(world(kind, order, options), test).pipe(
        Effect.scoped,
        Effect.catchDefect((cause) => Effect.die(new Error(`${kind}, ${order[0]} first: ${String(cause)}`, { cause })))
      ),
    { concurrency: "unbounded", discard: true }
  )

const requests = (server: Loopback.Server) => Effect.map(server.received, (_) => _.requests)

/** Targets and reasons of all attempts; a success has no reason. */
const story = (attempts: ReadonlyArray<LLMError.Attempt>) => attempts.map((_) => [_.target, _.reason ?? _.outcome])

describe("rate limits, over real HTTP", () => {
  const limited = Fault.Status({ status: 429, retryAfter: "2 seconds" })

  it.live(
    "a wait of 2 s is honoured within the patience, and where there is no other target (T30)",
    () =>
      Effect.gen(function*() {
        // The only real wait of this file: that 2 s are not less on a real clock can be seen on nothing else.
        const patient = inEveryWay(({ ask, first, ids, second }) =>
          Effect.gen(function*() {
            yield* first.enqueue(limited)
            const { attempts, target } = yield* ask
            assert.strictEqual(target, ids[0])
            assert.deepStrictEqual(attempts.map((_) => _.chosen), ["first", "retry"])
            yield* neverEarly(first, attempts)
            assert.strictEqual(yield* requests(second), 0)
          }), { patience: "3 seconds" })
        const alone = Effect.forEach(Loopback.kinds, (kind) =>
          Effect.scoped(Effect.gen(function*() {
            const server = yield* ProviderServer.make(vendors.groq)
            const target = Loopback.at(server, { provider: "groq", model: "one" })
            const context = yield* Loopback.service({ targets: [target], patience: 0 })
            yield* server.enqueue(limited)
            const { attempts } = yield* Effect.provideContext(Loopback.ask(kind, { prompt }), context)
            assert.deepStrictEqual(attempts.map((_) => _.chosen), ["first", "earliest"])
            yield* neverEarly(server, attempts)
          })), { concurrency: "unbounded", discard: true })
        yield* Effect.all([patient, alone], { concurrency: "unbounded" })
      }),
    20_000
  )

  const neverEarly = Effect.fnUntraced(function*(server: Loopback.Server, attempts: ReadonlyArray<LLMError.Attempt>) {
    const { log } = yield* server.received
    assert.strictEqual(log.length, 2)
    assert.isAtLeast(attempts[1]?.waitedMs ?? 0, 2000)
    // A timer may be some milliseconds ahead of the wall clock.
    assert.isAtLeast((log[1]?.at ?? 0) - (log[0]?.at ?? 0), 1990)
  })

  it.live("without patience a call moves on at once, whichever vendor states the wait, and the next one stays away", () =>
    Effect.gen(function*() {
      const flavours = ["openai", "groq", "mistral", "deepseek", "xai", "moonshot"] as const
      const all: ReadonlyArray<readonly [string, ProviderServer.Options]> = [
        ...flavours.map((flavour) => [flavour, { format: "openai", flavour }] as const),
        ["azure", { format: "azure" }],
        ["anthropic", { format: "anthropic" }]
      ]
      const other = yield* ProviderServer.make({ format: "openai" })
      for (const [provider, options] of all) {
        const server = yield* ProviderServer.make(options)
        const targets = [
          Loopback.at(server, { provider, model: "one" }),
          Loopback.at(other, { provider: "openai", model: "two", key: undefined })
        ]
        const context = yield* Loopback.service({ targets, patience: 0 })
        yield* server.outage(limited)
        const call = Effect.provideContext(Loopback.ask("complete", { prompt }), context)
        const { attempts } = yield* call
        assert.deepStrictEqual(
          attempts.map((_) => [_.target, _.reason, _.retryAfterMs, _.waitedMs]),
          [[targets[0]?.id, "rate_limit", 2000, 0], [targets[1]?.id, undefined, undefined, 0]],
          provider
        )
        const next = yield* call
        assert.deepStrictEqual(next.attempts.map((_) => _.skipped.map((_) => [_.target, _.why])), [
          [[`${targets[0]?.id}`, "cooldown"]]
        ])
        assert.strictEqual(yield* requests(server), 1, provider)
      }
    }).pipe(Effect.scoped))

  for (const retryAfter of ["2 seconds", undefined] as const) {
    const name = retryAfter === undefined ? "without a stated wait" : "with a stated wait"
    it.live(`a lasting 429 ${name} costs one request beside a free target (T30)`, () =>
      inEveryWay(({ ask, first, ids, second }) =>
        Effect.gen(function*() {
          yield* first.outage(Fault.Status({ status: 429, retryAfter }))
          const answers = yield* Effect.replicateEffect(ask, 8)
          assert.isTrue(answers.every((_) => _.target === ids[1] && _.text === whole))
          assert.strictEqual(yield* requests(first), 1)
          assert.strictEqual((yield* second.received).answered, 8)
        }), { patience: 0 }))

    it.live(`a lasting 429 ${name} everywhere is one request each, and then a typed refusal without any (T30)`, () =>
      inEveryWay(({ ask, first, second }) =>
        Effect.gen(function*() {
          for (const server of [first, second]) yield* server.outage(Fault.Status({ status: 429, retryAfter }))
          const error = yield* Effect.flip(ask)
          assert.strictEqual(error._tag, "RateLimitError")
          assert.strictEqual(error.attempts.length, 2)
          assert.deepStrictEqual(error.exhaustion?.providers.map((_) => [_.available, _.total]), [[0, 1], [0, 1]])
          assert.isDefined(error.retryAfter)
          const later = yield* Effect.replicateEffect(Effect.flip(ask), 8)
          assert.isTrue(later.every((_) => _._tag === "RateLimitError" && _.attempts.length === 0))
          assert.deepStrictEqual([yield* requests(first), yield* requests(second)], [1, 1])
        }), { timeouts: { total: "1 second" } }))
  }
})

describe("failures before an answer, over real HTTP", () => {
  for (
    const [name, fault, reason] of [
      ["a 500", Fault.Status({ status: 500 }), "internal_error"],
      ["a 503", Fault.Status({ status: 503 }), undefined],
      ["a reset before the headers", Fault.Reset({}), "conn_reset"]
    ] as const
  ) {
    it.live(`${name}, once: the same target is asked again and answers`, () =>
      inEveryWay(({ ask, first, ids, second }) =>
        Effect.gen(function*() {
          yield* first.enqueue(fault)
          const { attempts, target, text } = yield* ask
          assert.strictEqual(text, whole)
          assert.strictEqual(target, ids[0])
          assert.deepStrictEqual(attempts.map((_) => [_.target, _.outcome, _.chosen]), [
            [`${ids[0]}`, "failure", "first"],
            [`${ids[0]}`, "success", "retry"]
          ])
          if (reason !== undefined) assert.strictEqual(attempts[0]?.reason, reason)
          assert.deepStrictEqual([yield* requests(first), yield* requests(second)], [2, 0])
        })
      ))

    it.live(`${name}, lasting: three attempts there, and then the next target answers (T29)`, () =>
      inEveryWay(({ ask, first, ids, second }) =>
        Effect.gen(function*() {
          yield* first.outage(fault)
          const { attempts, target, text } = yield* ask
          assert.strictEqual(text, whole)
          assert.strictEqual(target, ids[1])
          assert.deepStrictEqual(attempts.map((_) => _.target), [ids[0], ids[0], ids[0], ids[1]])
          assert.deepStrictEqual([yield* requests(first), yield* requests(second)], [3, 1])
        })
      ))
  }

  it.live("no answer at all: one attempt there, and the answer comes within one limit of an attempt (T31)", () =>
    inEveryWay(({ ask, first, ids }) =>
      Effect.gen(function*() {
        yield* first.outage(Fault.NoAnswer())
        const { attempts, text } = yield* ask
        assert.strictEqual(text, whole)
        assert.deepStrictEqual(attempts.map((_) => [_.target, _.errorClass, _.waitedMs]), [
          [`${ids[0]}`, "timeout", 0],
          [`${ids[1]}`, undefined, 0]
        ])
        // The second attempt begins when the first one's limit has passed; the slack is for a busy machine.
        assert.isAtMost(attempts[1]?.startedMs ?? 0, briefMs + 1000)
        assert.strictEqual(yield* requests(first), 1)
        yield* first.awaitDisconnected
      }), { timeouts: brief }))

  it.live("a first token after 20 s where the limit is less: one attempt there, and the next target answers", () =>
    inEveryWay(({ ask, first, ids, kind }) =>
      Effect.gen(function*() {
        yield* first.outage(Fault.SlowFirstToken({ delay: "20 seconds" }))
        const { attempts, text } = yield* ask
        assert.strictEqual(text, whole)
        assert.deepStrictEqual(story(attempts), [
          [`${ids[0]}`, kind === "stream" ? "first_token" : "attempt"],
          [`${ids[1]}`, "success"]
        ])
        assert.isAtMost(attempts[0]?.durationMs ?? 0, briefMs + 1000)
        assert.strictEqual(yield* requests(first), 1)
        yield* first.awaitDisconnected
      }), { timeouts: { ...brief, connect: "10 seconds" } }))
})

describe("answers that break, over real HTTP", () => {
  const breaks = [
    ["a cut", (after) => Fault.Cut({ after })],
    ["an end without a terminal event", (after) => Fault.Cut({ after, clean: true })],
    ["a stall", (after) => Fault.Stall({ after })],
    ["a stall with keep-alives", (after) => Fault.Stall({ after, keepAlive: "20 millis" })],
    ["a malformed chunk", (after) => Fault.MalformedChunk({ after })],
    ["an error event", (after) => Fault.ErrorEvent({ after })]
  ] as const satisfies ReadonlyArray<readonly [string, (after: number) => ProviderServer.Fault]>

  for (const [name, fault] of breaks) {
    it.live(`${name} before content: the next target answers whole, by itself (T35, T36)`, () =>
      inEveryWay(({ ask, first, ids }) =>
        Effect.gen(function*() {
          yield* first.outage(fault(0))
          const { attempts, target, text } = yield* ask
          assert.strictEqual(text, whole)
          assert.strictEqual(target, ids[1])
          assert.isAtMost(yield* requests(first), 3)
          assert.strictEqual(attempts.filter((_) => _.outcome === "success").length, 1)
          yield* first.awaitIdle
        }), { timeouts: brief }))

    it.live(`${name} after content of a stream is one typed error with the record, never a success (T35, T36)`, () =>
      Effect.forEach(
        // Behind the last content, where nothing but the terminal event is missing, a short success would be easiest.
        [1, 1000],
        (after) =>
          inEveryWay(
            ({ context, first, ids, second }) =>
              Effect.gen(function*() {
                yield* first.outage(fault(after))
                const seen: Array<LLMService.StreamPart> = []
                const error = yield* Loopback.stream({ prompt, maxTokens: 64 }).pipe(
                  Stream.runForEach((part) => Effect.sync(() => seen.push(part))),
                  Effect.flip,
                  Effect.provideContext(context)
                )
                const text = Loopback.textOf(seen)
                assert.isTrue(whole.startsWith(text) && text !== "", text)
                assert.strictEqual(text === whole, after === 1000)
                assert.isFalse(seen.some((part) => part.type === "finish"))
                assert.isTrue(error.maybeBilled)
                assert.include(["TransientNetworkError", "ServerError", "TimeoutError"], error._tag)
                assert.deepStrictEqual(story(error.attempts), [[`${ids[0]}`, error.reason]])
                assert.deepStrictEqual([yield* requests(first), yield* requests(second)], [1, 0])
                yield* first.awaitIdle
              }),
            { timeouts: brief },
            ["stream"]
          ),
        { concurrency: "unbounded", discard: true }
      ))
  }
})

describe("requests that are wrong, over real HTTP", () => {
  const tooLong = {
    openai: {
      message: "Please reduce the length of the messages or completion.",
      type: "invalid_request_error",
      param: "messages",
      code: "context_length_exceeded"
    },
    anthropic: { type: "invalid_request_error", message: "prompt is too long: 210000 tokens > 200000 maximum" }
  } as const
  const windows = [
    { model: "small", contextWindow: 8192 },
    { model: "unknown" },
    { model: "smaller", contextWindow: 4096 },
    { model: "as-small", contextWindow: 8192 },
    { model: "large", contextWindow: 32_768 },
    { model: "largest", contextWindow: 131_072 }
  ]

  /** Models that are asked one after the other when some of them find the request too long, and how it ends. */
  const overflow = (format: "openai" | "anthropic", kind: typeof Loopback.kinds[number], full: ReadonlyArray<string>) =>
    Effect.scoped(Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format })
      const body = JSON.stringify({ type: "error", error: tooLong[format] })
      for (const model of full) yield* server.outage(Fault.Status({ status: 400, body }), { model })
      // Another key of a model has its window.
      const targets = [
        ...windows.map((window) => Loopback.at(server, { provider: format, ...window })),
        Loopback.at(server, {
          provider: format,
          model: "small",
          contextWindow: 8192,
          key: { id: "spare", value: Redacted.make("sk-spare") }
        })
      ]
      const context = yield* Loopback.service({ targets })
      const outcome = yield* Effect.result(Effect.provideContext(Loopback.ask(kind, { prompt }), context))
      return { outcome, asked: (yield* server.received).log.map((_) => _.model) }
    }))

  for (const format of ["openai", "anthropic"] as const) {
    it.live(`an overflow in the format of ${format} moves to larger windows only, an unknown one last (T39)`, () =>
      Effect.forEach(Loopback.kinds, (kind) =>
        Effect.gen(function*() {
          const larger = yield* overflow(format, kind, ["small"])
          assert.deepStrictEqual(larger.asked, ["small", "large"])
          assert.isTrue(larger.outcome._tag === "Success" && larger.outcome.success.model === "large")

          const last = yield* overflow(format, kind, ["small", "large", "largest"])
          assert.deepStrictEqual(last.asked, ["small", "large", "largest", "unknown"])
          assert.isTrue(last.outcome._tag === "Success" && last.outcome.success.model === "unknown")

          const none = yield* overflow(format, kind, windows.map((_) => _.model))
          assert.deepStrictEqual(none.asked, ["small", "large", "largest", "unknown"])
          const error = none.outcome._tag === "Failure" ? none.outcome.failure : undefined
          assert.strictEqual(error?._tag, "PermanentError")
          assert.strictEqual(error?.reason, "context_length_exceeded")
          assert.strictEqual(error?.attempts.length, 4)
        }), { discard: true }))
  }

  const filters = {
    openai: {
      message: "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
      type: "invalid_request_error",
      code: "invalid_prompt"
    },
    azure: {
      message: "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
      param: "prompt",
      code: "content_filter",
      innererror: { code: "ResponsibleAIPolicyViolation" }
    },
    anthropic: { type: "invalid_request_error", message: "Output blocked by content filtering policy" }
  } as const

  for (const format of ["openai", "azure", "anthropic"] as const) {
    it.live(`a content filter of ${format} surfaces, no other target is asked, and nobody is blamed (T21)`, () =>
      Effect.gen(function*() {
        const other = yield* ProviderServer.make({ format: "openai" })
        for (const kind of Loopback.kinds) {
          const server = yield* ProviderServer.make({ format })
          const targets = [
            Loopback.at(server, { provider: format, model: "one" }),
            Loopback.at(other, { provider: "groq", model: "two" })
          ]
          const context = yield* Loopback.service({ targets })
          yield* server.enqueue(Fault.Status({ status: 400, body: JSON.stringify({ error: filters[format] }) }))
          const call = Effect.provideContext(Loopback.ask(kind, { prompt }), context)
          const error = yield* Effect.flip(call)
          assert.strictEqual(error._tag, "PermanentError")
          assert.strictEqual(error.reason, "content_filter")
          assert.deepStrictEqual(story(error.attempts), [[`${targets[0]?.id}`, "content_filter"]])
          assert.strictEqual((yield* call).target, targets[0]?.id)
          assert.strictEqual(yield* requests(server), 2)
        }
        assert.strictEqual(yield* requests(other), 0)
      }).pipe(Effect.scoped))
  }

  it.live("an answer that a filter ended says so and is not asked for elsewhere", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: { text: "", finishReason: "content_filter" }
      })
      const other = yield* ProviderServer.make({ format: "openai" })
      const targets = [
        Loopback.at(server, { provider: "openai", model: "one" }),
        Loopback.at(other, { provider: "groq", model: "two" })
      ]
      const context = yield* Loopback.service({ targets })
      for (const kind of Loopback.kinds) {
        const answer = yield* Effect.provideContext(Loopback.ask(kind, { prompt }), context)
        assert.strictEqual(answer.finishReason, "content-filter")
        assert.strictEqual(answer.target, targets[0]?.id)
      }
      assert.deepStrictEqual([yield* requests(server), yield* requests(other)], [2, 0])
    }).pipe(Effect.scoped))
})

describe("what is sent and what is said, over real HTTP", () => {
  it.live("the answer names the target and the model that gave it, with its usage and all attempts", () =>
    inEveryWay(({ ask, first, ids, second }) =>
      Effect.gen(function*() {
        yield* first.enqueue(Fault.Status({ status: 429, retryAfter: "1 hour" }))
        const answer = yield* ask
        assert.strictEqual(answer.target, ids[1])
        assert.strictEqual(answer.model, "two")
        const { tokens } = yield* second.received
        assert.isAbove(tokens.output, 0)
        assert.deepStrictEqual(answer.usage, { input: tokens.input, output: tokens.output })
        assert.deepStrictEqual(answer.attempts.map((_) => [_.target, _.model, _.outcome]), [
          [`${ids[0]}`, "one", "failure"],
          [`${ids[1]}`, "two", "success"]
        ])
      })
    ))

  const Sea = Tool.make("sea_state", {
    description: "State of the sea",
    parameters: Schema.Struct({ place: Schema.String })
  })

  it.live("model, token limit, tools and parameters on the wire are those of the target that is tried (T39)", () =>
    Effect.forEach(Loopback.kinds, (kind) =>
      Effect.gen(function*() {
        const openai = yield* ProviderServer.make({ format: "openai", models: ["gpt"] })
        const groq = yield* ProviderServer.make({ format: "openai", flavour: "groq", models: ["llama"] })
        const azure = yield* ProviderServer.make({ format: "azure", models: ["our-deployment"] })
        const anthropic = yield* ProviderServer.make({ format: "anthropic", models: ["claude"] })
        const servers = [openai, groq, azure, anthropic]
        const context = yield* Loopback.service({
          patience: 0,
          targets: [
            Loopback.at(openai, {
              provider: "openai",
              model: "gpt",
              maxOutputTokens: 100,
              parameters: { reasoning_effort: "low" }
            }),
            Loopback.at(groq, { provider: "groq", model: "llama", maxOutputTokens: 30 }),
            Loopback.at(azure, {
              provider: "azure",
              model: "gpt-4o",
              deployment: "our-deployment",
              maxOutputTokens: 20,
              headers: { "x-team": "tide" }
            }),
            Loopback.at(anthropic, { provider: "anthropic", model: "claude", maxOutputTokens: 10 })
          ]
        })
        for (const server of servers.slice(0, -1)) {
          yield* server.enqueue(Fault.Status({ status: 429, retryAfter: "1 hour" }))
        }
        const request = { prompt, maxTokens: 64, tools: [Sea] }
        yield* Effect.provideContext(Loopback.ask(kind, request), context)

        const sent = yield* Effect.forEach(servers, (server) =>
          Effect.map(server.received, ({ log }) => {
            assert.strictEqual(log.length, 1)
            return log[0]
          }))
        const bodies = sent.map((_) => Schema.decodeUnknownSync(Body)(_?.body))
        assert.deepStrictEqual(sent.map((_) => _?.model), ["gpt", "llama", "our-deployment", "claude"])
        assert.deepStrictEqual(
          bodies.map((_) => [_.max_completion_tokens, _.max_tokens]),
          [[64, undefined], [undefined, 30], [20, undefined], [undefined, 10]]
        )
        assert.deepStrictEqual(bodies.map((_) => _.reasoning_effort), ["low", undefined, undefined, undefined])
        assert.deepStrictEqual(sent.map((_) => _?.headers["x-team"]), [undefined, undefined, "tide", undefined])
        for (const [index, { tools: [tool] }] of bodies.entries()) {
          const anthropicTool = index === 3
          assert.strictEqual(anthropicTool ? tool?.name : tool?.function?.name, Sea.name)
          assert.strictEqual(tool?.type, anthropicTool ? undefined : "function")
          const schema = anthropicTool ? tool?.input_schema : tool?.function?.parameters
          assert.deepStrictEqual(schema?.required, ["place"])
        }
      }).pipe(Effect.scoped), { discard: true }))

  const Parameters = Schema.Struct({ required: Schema.Array(Schema.String) })
  const Body = Schema.Struct({
    max_tokens: Schema.optional(Schema.Number),
    max_completion_tokens: Schema.optional(Schema.Number),
    reasoning_effort: Schema.optional(Schema.String),
    tools: Schema.Array(Schema.Struct({
      type: Schema.optional(Schema.String),
      name: Schema.optional(Schema.String),
      input_schema: Schema.optional(Parameters),
      function: Schema.optional(Schema.Struct({ name: Schema.String, parameters: Parameters }))
    }))
  })

  const echo = `Incorrect API key provided: ${Loopback.canary}`
  const echoes: ReadonlyArray<readonly [string, ProviderServer.Fault]> = [
    ...[400, 401, 403, 404, 429, 500, 503].map((status) =>
      [
        `a ${status}`,
        Fault.Status({
          status,
          headers: { "x-request-id": Loopback.canary, "x-echo": Loopback.canary },
          body: JSON.stringify({ error: { message: echo, type: echo, code: null, param: Loopback.canary } })
        })
      ] as const
    ),
    ["a page", Fault.Status({ status: 502, body: `<html><title>${echo}</title></html>` })],
    ["an error event", Fault.ErrorEvent({ after: 0, body: JSON.stringify({ error: { message: echo } }) })],
    ["a late error event", Fault.ErrorEvent({ after: 1, body: JSON.stringify({ error: { message: echo } }) })],
    ["a reset", Fault.Reset({})]
  ]

  it.live("a key that a provider echoes is in no error, no record and no answer (T40)", () =>
    Effect.gen(function*() {
      for (const [name, fault] of echoes) {
        yield* inEveryWay(({ ask, first, second }) =>
          Effect.gen(function*() {
            yield* first.outage(fault)
            const answer = yield* Effect.result(ask)
            for (const server of [first, second]) yield* server.outage(fault)
            const error = yield* Effect.flip(ask)
            const everything = [
              answer._tag === "Success" ? answer.success.json : JSON.stringify(answer.failure),
              String(error),
              error.message,
              error.stack,
              JSON.stringify(error),
              JSON.stringify(error.attempts),
              Inspectable.toStringUnknown(error),
              Inspectable.toStringUnknown(error.cause)
            ].join("\n")
            assert.notInclude(everything, Loopback.canary, name)
            assert.notInclude(everything, "0123456789abcdef", name)
          }), { timeouts: { total: "500 millis" } })
      }
    }))
})

describe("a primary that is down for 60 s, in virtual time", () => {
  const targets = ["p/a", "q/b"].map((id) => Target.make({ provider: id.slice(0, 1), model: id.slice(2) }))
  // Where every probe of the cooldown takes the time of a limit, the circuit opens late: it must not be open for longer
  // than the primary may take to be back.
  const short: CircuitBreaker.Options = { open: "20 seconds" }
  const outages: ReadonlyArray<readonly [string, TestProvider.Step, CircuitBreaker.Options?]> = [
    ["answers 503", TestProvider.fail("server_error", { reason: "overloaded", scope: "provider", status: 503 })],
    ["refuses connections", TestProvider.fail("transient_network", { reason: "conn_refused", scope: "provider" })],
    ["answers 429", TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "model", status: 429 })],
    ["hangs", TestProvider.stall(), short]
  ]
  const limit = Duration.seconds(2)
  const timeouts = { attempt: limit, connect: limit, firstToken: limit }

  for (const [name, step, circuit] of outages) {
    for (const kind of Loopback.kinds) {
      it.effect(`${name}, ${kind}: calls 4 s apart are all answered, few are sent into it, and it is back within 30 s (T27)`, () =>
        Effect.gen(function*() {
          const provider = yield* TestProvider.TestProvider
          const fibers: Array<Fiber.Fiber<Loopback.Answer, LLMError.LLMError>> = []
          for (let second = 0; second < 96; second += 4) {
            if (second === 60) yield* provider.script("p/a", [TestProvider.reply("back")])
            fibers.push(yield* Effect.forkChild(Loopback.ask(kind, { prompt: "hi" })))
            yield* TestClock.adjust("4 seconds")
          }
          const answers = yield* Effect.forEach(fibers, Fiber.join)
          const into = (yield* provider.calls).filter((call) => call.target === "p/a" && call.at < 60_000)
          // The threshold of the circuit, and a probe more.
          assert.isAtMost(into.length, 6)
          assert.isTrue(answers.slice(0, 15).every((_) => _.target === "q/b" && _.text === "ok"))
          const back = answers.findIndex((_) => _.target === "p/a")
          assert.isAtLeast(back, 15)
          assert.isAtMost(back * 4, 60 + 30)
          assert.isTrue(answers.slice(back).every((_) => _.target === "p/a"))
        }).pipe(
          Effect.provide(
            Router.layer({ targets, timeouts }).pipe(
              Layer.provideMerge(
                Layer.merge(
                  TestProvider.layer({ "p/a": [step], "q/b": [TestProvider.reply("ok")] }),
                  Resilience.layerMemory({ circuit })
                )
              )
            )
          ),
          Effect.provideService(References.MinimumLogLevel, "None")
        ))
    }
  }
})
