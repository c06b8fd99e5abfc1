import { assert, describe, it } from "@effect/vitest"
import { LanguageModel, LLMError, LLMService, Provider, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import {
  Context,
  DateTime,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Schema,
  Stream,
  Tracer
} from "effect"
import {
  AiError,
  Chat,
  LanguageModel as Ai,
  Model,
  Prompt,
  Response,
  ResponseIdTracker,
  Tool,
  Toolkit
} from "effect/ai"
import { TestClock } from "effect/testing"

const target = (id: string, options: Partial<Target.Options> = {}): Target.Target => {
  const [provider = "", model = ""] = id.split("/")
  return Target.make({ provider, model, ...options })
}

const a = target("groq/a")
const b = target("openai/b")
const c = target("anthropic/c")

const revoked = TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 })
const limited = TestProvider.fail("rate_limit", {
  reason: "rate_limit",
  scope: "model",
  status: 429,
  retryAfter: Duration.minutes(5)
})

/** A model of effect/ai over a router over scripted providers. */
const live = (
  scripts: Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>,
  options: Partial<Router.Options> = {}
) =>
  LanguageModel.layer.pipe(
    Layer.provideMerge(Router.layer({ targets: [a, b, c], ...options })),
    Layer.provideMerge(Layer.merge(TestProvider.layer(scripts), Resilience.layerMemory()))
  )

const calls = Effect.flatMap(TestProvider.TestProvider, (provider) => provider.calls)
const requests = Effect.map(calls, (all) => all.map(({ request }) => request))
const targets = Effect.map(calls, (all) => all.map(({ target }) => target))

const Tide = Tool.make("Tide", {
  description: "Height of the tide in a harbour",
  parameters: Schema.Struct({ harbour: Schema.String }),
  success: Schema.Struct({ metres: Schema.Finite })
})
const Wind = Tool.make("Wind", {
  parameters: Schema.Struct({ harbour: Schema.String }),
  success: Schema.String
})
const tides = Toolkit.make(Tide)
const both = Toolkit.merge(tides, Toolkit.make(Wind))

const tideCall = { name: "Tide", params: { harbour: "Cherbourg" } }

const soon = Effect.provideService(LanguageModel.CallOptions, { deadline: "1 minute" })

/** Handlers that count how often they run. */
const counted = () => {
  const ran: Array<string> = []
  const handlers = Layer.merge(
    tides.toLayer({ Tide: ({ harbour }) => Effect.sync(() => (ran.push(`Tide ${harbour}`), { metres: 6 })) }),
    Toolkit.make(Wind).toLayer({ Wind: ({ harbour }) => Effect.sync(() => (ran.push(`Wind ${harbour}`), "west")) })
  )
  return { ran, handlers }
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/** What the finish part says about the call. */
const record = (parts: ReadonlyArray<{ readonly type: string; readonly metadata?: unknown }>): unknown => {
  const finish = parts.find((part) => part.type === "finish")
  return isRecord(finish?.metadata) ? finish.metadata["breakwater"] : undefined
}
const attemptsOf = (
  parts: ReadonlyArray<{ readonly type: string; readonly metadata?: unknown }>
): ReadonlyArray<string> => {
  const found = record(parts)
  const attempts = isRecord(found) && Array.isArray(found["attempts"]) ? found["attempts"] : []
  return attempts.map((attempt) => String(attempt["target"]))
}

describe("LanguageModel", () => {
  describe("layer", () => {
    it.effect("answers with the target that can, and says which one", () =>
      Effect.gen(function*() {
        const response = yield* Ai.generateText({ prompt: "hi" })
        assert.strictEqual(response.text, "Hello there")
        assert.strictEqual(response.finishReason, "stop")
        assert.deepStrictEqual(
          [response.usage.inputTokens.total, response.usage.outputTokens.total],
          [12, 3]
        )
        const found = record(response.content)
        assert.deepInclude(found, { target: "openai/b", model: "b" })
        assert.deepStrictEqual(attemptsOf(response.content), ["groq/a", "openai/b"])
        const metadata = response.content.find((part) => part.type === "response-metadata")
        assert.deepStrictEqual([metadata?.modelId, metadata?.id], ["b", undefined])
      }).pipe(Effect.provide(live({
        "groq/a": [limited],
        "openai/b": [TestProvider.reply("Hello there", { usage: { input: 12, output: 3 } })]
      }))))

    it.effect("runs a tool once, whatever failed over before it", () => {
      const { handlers, ran } = counted()
      return Effect.gen(function*() {
        const response = yield* Ai.generateText({ prompt: "how high?", toolkit: tides })
        assert.deepStrictEqual(ran, ["Tide Cherbourg"])
        assert.deepStrictEqual(response.toolResults.map(({ result }) => result), [{ metres: 6 }])
        assert.deepStrictEqual(attemptsOf(response.content), ["groq/a", "openai/b", "anthropic/c"])
        assert.deepStrictEqual((yield* requests).map(({ tools }) => tools?.map(({ name }) => name)), [
          ["Tide"],
          ["Tide"],
          ["Tide"]
        ])
      }).pipe(
        Effect.provide(handlers),
        Effect.provide(live({
          "groq/a": [limited],
          "openai/b": [revoked],
          "anthropic/c": [TestProvider.reply("", { toolCalls: [tideCall] })]
        }))
      )
    })

    it.effect("runs a tool of a stream once, whatever failed over before it", () => {
      const { handlers, ran } = counted()
      return Effect.gen(function*() {
        const parts = yield* Stream.runCollect(Ai.streamText({ prompt: "how high?", toolkit: tides }))
        assert.deepStrictEqual(ran, ["Tide Cherbourg"])
        assert.deepStrictEqual(parts.map(({ type }) => type), [
          "response-metadata",
          "text-start",
          "text-delta",
          "text-end",
          "tool-call",
          "tool-result",
          "finish"
        ])
        assert.deepStrictEqual(attemptsOf(parts), ["groq/a", "openai/b", "anthropic/c"])
      }).pipe(
        Effect.provide(handlers),
        Effect.provide(live({
          "groq/a": [limited],
          "openai/b": [revoked],
          "anthropic/c": [TestProvider.reply("Looking", { toolCalls: [tideCall] })]
        }))
      )
    })

    it.effect("a handler that fails is no failure of a target", () =>
      Effect.gen(function*() {
        const failing = yield* Ai.generateText({ prompt: "how high?", toolkit: tides }).pipe(Effect.flip)
        assert.strictEqual(failing._tag, "AiError")
        yield* Ai.generateText({ prompt: "how high?", toolkit: tides }).pipe(Effect.flip)
        assert.deepStrictEqual(yield* targets, ["groq/a", "groq/a"])
      }).pipe(
        Effect.provide(tides.toLayer({
          Tide: () => Effect.fail(new AiError.InvalidUserInputError({ description: "no such harbour" }))
        })),
        Effect.provide(live({ "groq/a": [TestProvider.reply("", { toolCalls: [tideCall] })] }))
      ))

    it.effect("puts each choice of tools to the target", () => {
      const { handlers, ran } = counted()
      const script = [TestProvider.reply("none needed")]
      return Effect.gen(function*() {
        yield* Ai.generateText({ prompt: "1", toolkit: both })
        yield* Ai.generateText({ prompt: "2", toolkit: both, toolChoice: "required" })
        yield* Ai.generateText({ prompt: "3", toolkit: both, toolChoice: "none" })
        yield* Ai.generateText({ prompt: "4", toolkit: both, toolChoice: { tool: "Wind" } })
        yield* Ai.generateText({ prompt: "5", toolkit: both, toolChoice: { oneOf: ["Wind"] } })
        yield* Ai.generateText({ prompt: "6", toolkit: both, toolChoice: { mode: "required", oneOf: ["Tide"] } })
        yield* Ai.generateText({ prompt: "7" })
        assert.deepStrictEqual(
          (yield* requests).map(({ toolChoice, tools }) => [toolChoice, tools?.map(({ name }) => name)]),
          [
            ["auto", ["Tide", "Wind"]],
            ["required", ["Tide", "Wind"]],
            ["none", ["Tide", "Wind"]],
            [{ tool: "Wind" }, ["Tide", "Wind"]],
            ["auto", ["Wind"]],
            ["required", ["Tide"]],
            [undefined, undefined]
          ]
        )
        assert.deepStrictEqual(ran, [])
      }).pipe(Effect.provide(handlers), Effect.provide(live({ "groq/a": script })))
    })

    it.effect("runs several tools of one answer, and hands their results back in the next prompt", () => {
      const { handlers, ran } = counted()
      return Effect.gen(function*() {
        const chat = yield* Chat.empty
        yield* chat.generateText({ prompt: "weather?", toolkit: both })
        const { text } = yield* chat.generateText({ prompt: [], toolkit: both })
        assert.strictEqual(text, "Stay in")
        assert.deepStrictEqual(ran, ["Tide Cherbourg", "Wind Brest"])
        const last = Prompt.make((yield* requests)[1]?.prompt ?? "")
        assert.deepStrictEqual(last.content.map(({ role }) => role), ["user", "assistant", "tool"])
      }).pipe(
        Effect.provide(handlers),
        Effect.provide(live({
          "groq/a": [
            TestProvider.reply("", { toolCalls: [tideCall, { name: "Wind", params: { harbour: "Brest" } }] }),
            TestProvider.reply("Stay in")
          ]
        }))
      )
    })

    it.effect("an object survives a failover", () =>
      Effect.gen(function*() {
        const { value } = yield* Ai.generateObject({
          prompt: "the tide?",
          objectName: "the tide",
          schema: Schema.Struct({
            metres: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 15 })),
            note: Schema.optional(Schema.String)
          })
        })
        assert.deepStrictEqual(value, { metres: 6 })
        const [request] = yield* requests
        assert.deepStrictEqual(yield* targets, ["groq/a", "openai/b"])
        assert.deepInclude(request?.responseFormat, { type: "json_schema", name: "the_tide", strict: true })
        // What some providers refuse is left to the decoder.
        const json = JSON.stringify(request?.responseFormat)
        assert.notInclude(json, `"minimum"`)
        assert.include(json, `"required":["metres","note"]`)
      }).pipe(Effect.provide(live({
        "groq/a": [limited],
        "openai/b": [TestProvider.reply(`{"metres":6,"note":null}`)]
      }))))

    it.effect("an object that does not match is no evidence against the target", () =>
      Effect.gen(function*() {
        const schema = Schema.Struct({ metres: Schema.Finite })
        for (let i = 0; i < 7; i++) {
          const error = yield* Effect.flip(Ai.generateObject({ prompt: "the tide?", schema }))
          assert.strictEqual(error.reason._tag, "StructuredOutputError")
        }
        assert.deepStrictEqual(new Set(yield* targets), new Set(["groq/a"]))
      }).pipe(Effect.provide(live({ "groq/a": [TestProvider.reply(`{"metres":"high"}`)] }))))

    it.effect("a schema that cannot be sent is an UnsupportedSchemaError", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(
          Ai.generateObject({
            prompt: "?",
            schema: Schema.Union([Schema.Struct({ x: Schema.String }), Schema.Struct({ y: Schema.String })])
          })
        )
        assert.strictEqual(error.reason._tag, "UnsupportedSchemaError")
        assert.deepStrictEqual(yield* calls, [])
      }).pipe(Effect.provide(live({}))))

    it.effect("streams text with its usage", () =>
      Effect.gen(function*() {
        const parts = yield* Stream.runCollect(Ai.streamText({ prompt: "hi" }))
        const text = parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")
        assert.strictEqual(text, "one two three")
        const finish = parts.at(-1)
        assert.strictEqual(finish?.type, "finish")
        if (finish?.type === "finish") {
          assert.deepStrictEqual([finish.usage.inputTokens.total, finish.usage.outputTokens.total], [5, 4])
        }
        assert.deepInclude(record(parts), { target: "openai/b" })
      }).pipe(Effect.provide(live({
        "groq/a": [limited],
        "openai/b": [TestProvider.reply("one two three", { usage: { input: 5, output: 4 } })]
      }))))

    it.effect("a stream that is cut fails, after what had arrived", () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const error = yield* Ai.streamText({ prompt: "hi" }).pipe(
          Stream.runForEach((part) => Effect.sync(() => void seen.push(part.type))),
          Effect.flip
        )
        assert.strictEqual(error.reason._tag, "NetworkError")
        assert.strictEqual(LanguageModel.fromAiError(error).reason, "stream_truncated")
        assert.deepStrictEqual(seen, ["response-metadata", "text-start", "text-delta"])
      }).pipe(Effect.provide(live({ "groq/a": [TestProvider.cut(["one "])] }))))

    it.effect("announces that a stream starts again to those who asked for it, and fails for others", () => {
      const scripts = { "groq/a": [TestProvider.cut(["one "])], "openai/b": [TestProvider.reply("two")] }
      const text = (parts: ReadonlyArray<Response.StreamPart<{}>>) => {
        let text = ""
        for (const part of parts) {
          const ours = part.metadata["breakwater"]
          if (isRecord(ours) && "restarted" in ours) text = ""
          else if (part.type === "text-delta") text += part.delta
        }
        return text
      }
      return Effect.gen(function*() {
        const fiber = yield* Ai.streamText({ prompt: "hi" }).pipe(
          Stream.provideService(LanguageModel.CallOptions, { streamPolicy: "restart" }),
          Stream.runCollect,
          Effect.forkChild
        )
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(text(yield* Fiber.join(fiber)), "two")
      }).pipe(
        Effect.provide(live(scripts, { targets: [a, b], streamPolicy: "restart" })),
        Effect.andThen(
          Effect.gen(function*() {
            const fiber = yield* Effect.forkChild(Effect.flip(Stream.runCollect(Ai.streamText({ prompt: "hi" }))))
            yield* TestClock.adjust("1 minute")
            const error = LanguageModel.fromAiError(yield* Fiber.join(fiber))
            assert.deepStrictEqual([error.reason, error.target], ["stream_truncated", "groq/a"])
          }).pipe(Effect.provide(live(scripts, { targets: [a, b], streamPolicy: "restart" })))
        )
      )
    })

    it.effect("sends an image to a target that reads images", () =>
      Effect.gen(function*() {
        const prompt = Prompt.make([{
          role: "user",
          content: [
            Prompt.makePart("text", { text: "what is this?" }),
            Prompt.makePart("file", { mediaType: "image/png", data: new Uint8Array([1, 2, 3]) })
          ]
        }])
        yield* Ai.generateText({ prompt })
        assert.deepStrictEqual(yield* targets, ["openai/b"])
        assert.deepStrictEqual((yield* requests)[0]?.prompt, prompt)
      }).pipe(Effect.provide(live({ "*": [TestProvider.reply("a harbour")] }, {
        targets: [target("groq/a", { capabilities: { images: false } }), b]
      }))))

    it.effect("hands the options of a call to the service", () =>
      Effect.gen(function*() {
        const options: LanguageModel.CallOptions = {
          priority: "high",
          tenant: "billing",
          tags: { region: "eu" },
          affinity: "conversation-1",
          idempotent: false,
          streamPolicy: "buffer",
          maxTokens: 50,
          temperature: 0.2,
          extra: { seed: 1 }
        }
        yield* Effect.provideService(Ai.generateText({ prompt: "hi" }), LanguageModel.CallOptions, options)
        yield* Ai.streamText({ prompt: "hi" }).pipe(
          Stream.provideService(LanguageModel.CallOptions, options),
          Stream.runDrain
        )
        for (const request of yield* requests) assert.deepInclude(request, options)
        assert.deepStrictEqual(yield* targets, ["openai/eu", "openai/eu"])
      }).pipe(Effect.provide(live({ "*": [TestProvider.reply("ok")] }, {
        targets: [a, target("openai/eu", { tags: { region: "eu" } })]
      }))))

    it.effect("a deadline ends a call", () =>
      Effect.gen(function*() {
        const fiber = yield* Ai.generateText({ prompt: "hi" }).pipe(
          Effect.provideService(LanguageModel.CallOptions, { deadline: "2 seconds" }),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust("2 seconds")
        const error = LanguageModel.fromAiError(yield* Fiber.join(fiber))
        assert.deepStrictEqual([error._tag, error.reason], ["TimeoutError", "deadline"])
      }).pipe(Effect.provide(live({ "*": [TestProvider.stall()] }))))

    it.effect("an interrupted call is interrupted at the target", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const whole = yield* Effect.forkChild(Ai.generateText({ prompt: "hi" }))
        const streamed = yield* Effect.forkChild(Stream.runDrain(Ai.streamText({ prompt: "hi" })))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* provider.inFlight, 2)
        yield* Fiber.interrupt(whole)
        yield* Fiber.interrupt(streamed)
        assert.strictEqual(yield* provider.inFlight, 0)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(whole)))
        assert.deepStrictEqual((yield* provider.calls).map(({ outcome }) => outcome), ["interrupted", "interrupted"])
      }).pipe(Effect.provide(live({ "*": [TestProvider.stall(["one "])] }))))

    it.effect("puts who answered on the span of the call, and no text", () =>
      Effect.gen(function*() {
        const spans: Array<Tracer.Span> = []
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            spans.push(span)
            return span
          }
        })
        yield* Ai.generateText({ prompt: "a secret" }).pipe(Effect.withTracer(tracer))
        yield* Stream.runDrain(Ai.streamText({ prompt: "a secret" })).pipe(Effect.withTracer(tracer))
        const calls = spans.filter(({ name }) => name.startsWith("LanguageModel."))
        assert.deepStrictEqual(calls.map(({ name }) => name), [
          "LanguageModel.generateText",
          "LanguageModel.streamText"
        ])
        for (const { attributes } of calls) {
          assert.strictEqual(attributes.get("gen_ai.provider.name"), "openai")
          assert.strictEqual(attributes.get("gen_ai.usage.output_tokens"), 4)
          assert.deepStrictEqual(attributes.get("gen_ai.response.finish_reasons"), ["stop"])
          assert.notMatch(JSON.stringify(Array.from(attributes)), /secret|lighthouse/)
        }
      }).pipe(Effect.provide(live({
        "groq/a": [revoked],
        "openai/b": [TestProvider.reply("lighthouse", { usage: { input: 5, output: 4 } })]
      }))))

    it.effect("sends the whole prompt, once, though responses are tracked", () =>
      Effect.gen(function*() {
        const tracker = yield* ResponseIdTracker.make
        const messages = Prompt.make([
          { role: "user", content: [Prompt.makePart("text", { text: "one" })] },
          { role: "assistant", content: [Prompt.makePart("text", { text: "two" })] },
          { role: "user", content: [Prompt.makePart("text", { text: "three" })] }
        ])
        tracker.markParts(messages.content.slice(0, 1), "resp_of_another_model")
        const asked = Ai.generateText({ prompt: messages }).pipe(
          Effect.provideService(ResponseIdTracker.ResponseIdTracker, tracker)
        )
        const error = yield* Effect.flip(asked)
        assert.strictEqual(error.reason._tag, "InvalidRequestError")
        const streamed = Ai.streamText({ prompt: messages }).pipe(
          Stream.provideService(ResponseIdTracker.ResponseIdTracker, tracker)
        )
        yield* Effect.flip(Stream.runDrain(streamed))
        assert.deepStrictEqual((yield* requests).map(({ prompt }) => Prompt.make(prompt).content.length), [3, 3])
        yield* asked
        assert.deepStrictEqual(tracker.prepareUnsafe(Prompt.fromMessages(messages.content.slice(2)))._tag, "None")
      }).pipe(Effect.provide(live({
        "groq/a": [
          TestProvider.fail("permanent", { reason: "invalid_request", scope: "request", status: 400 }),
          TestProvider.fail("permanent", { reason: "invalid_request", scope: "request", status: 400 }),
          TestProvider.reply("ok")
        ]
      }))))

    it.effect("without a target left, the error names the wait and all attempts", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(soon(Ai.generateText({ prompt: "hi" })))
        assert.strictEqual(error.reason._tag, "RateLimitError")
        assert.deepStrictEqual(error.retryAfter, Duration.minutes(5))
        assert.deepStrictEqual(LanguageModel.fromAiError(error).attempts.map(({ target }) => target), [
          "groq/a",
          "openai/b",
          "anthropic/c"
        ])
      }).pipe(Effect.provide(live({ "*": [limited] }))))
  })

  describe("errors", () => {
    const all = LLMError.ErrorClass.literals.flatMap((errorClass) =>
      LLMError.Reason.literals.map((reason, index) =>
        LLMError.make(errorClass, {
          provider: "groq",
          model: "a",
          target: "groq/a@one",
          reason,
          scope: LLMError.Scope.literals[index % LLMError.Scope.literals.length] ?? "target",
          status: index % 2 === 0 ? 429 : undefined,
          requestId: index % 3 === 0 ? "req_1" : undefined,
          retryAfter: index % 2 === 0 ? Duration.millis(1500 + index) : undefined,
          maybeBilled: index % 2 === 1,
          detail: "slow down"
        })
      )
    )

    it("every error of ours comes back as it was", () => {
      for (const error of all) {
        const mapped = LanguageModel.toAiError(error)
        assert.deepStrictEqual(LanguageModel.fromAiError(mapped), error)
        // An AiError crosses a process boundary too; only what is below a NetworkError stays behind.
        if (error.errorClass === "transient_network") continue
        const wire = JSON.parse(JSON.stringify(Schema.encodeSync(Schema.toCodecJson(AiError.AiError))(mapped)))
        const back = LanguageModel.fromAiError(Schema.decodeSync(Schema.toCodecJson(AiError.AiError))(wire))
        assert.deepStrictEqual(back, error)
      }
    })

    it("the wait, the status and the request id are where effect/ai has them", () => {
      const error = LanguageModel.toAiError(
        new LLMError.RateLimitError({
          provider: "groq",
          reason: "rate_limit",
          status: 429,
          requestId: "req_1",
          retryAfter: Duration.seconds(3)
        })
      )
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(3))
      assert.isTrue(error.isRetryable)
      assert.deepStrictEqual("http" in error.reason ? error.reason.http?.response : undefined, {
        status: 429,
        headers: { "x-request-id": "req_1" }
      })
    })

    const reasons: ReadonlyArray<readonly [LLMError.ErrorClass, LLMError.Reason, string]> = [
      ["rate_limit", "rate_limit", "RateLimitError"],
      ["rate_limit", "daily_quota", "RateLimitError"],
      ["rate_limit", "insufficient_quota", "QuotaExhaustedError"],
      ["authentication", "billing_disabled", "QuotaExhaustedError"],
      ["authentication", "invalid_key", "AuthenticationError"],
      ["permanent", "content_filter", "ContentPolicyError"],
      ["permanent", "context_length_exceeded", "InvalidRequestError"],
      ["server_error", "overloaded", "InternalProviderError"],
      ["timeout", "first_token", "InternalProviderError"],
      ["timeout", "deadline", "UnknownError"],
      ["transient_network", "conn_reset", "NetworkError"],
      ["unknown", "unknown", "UnknownError"]
    ]
    it.each(reasons)("%s of reason %s is a %s", (errorClass, reason, tag) => {
      const error = LanguageModel.toAiError(LLMError.make(errorClass, { provider: "groq", reason }))
      assert.strictEqual(error.reason._tag, tag)
    })

    const foreign: ReadonlyArray<
      readonly [AiError.AiErrorReason, LLMError.ErrorClass, LLMError.Reason, LLMError.Scope]
    > = [
      [new AiError.RateLimitError({}), "rate_limit", "rate_limit", "model"],
      [new AiError.QuotaExhaustedError({}), "authentication", "insufficient_quota", "key"],
      [new AiError.AuthenticationError({ kind: "InvalidKey" }), "authentication", "invalid_key", "key"],
      [new AiError.AuthenticationError({ kind: "ExpiredKey" }), "authentication", "expired_credential", "key"],
      [new AiError.AuthenticationError({ kind: "MissingKey" }), "authentication", "invalid_key", "key"],
      [new AiError.AuthenticationError({ kind: "Unknown" }), "authentication", "invalid_key", "key"],
      [
        new AiError.AuthenticationError({ kind: "InsufficientPermissions" }),
        "authentication",
        "permission_denied",
        "key"
      ],
      [new AiError.ContentPolicyError({ description: "no" }), "permanent", "content_filter", "model"],
      [new AiError.InvalidRequestError({ description: "bad temperature" }), "permanent", "invalid_request", "request"],
      [
        new AiError.InvalidRequestError({
          description:
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
        }),
        "permanent",
        "context_length_exceeded",
        "model"
      ],
      [new AiError.InternalProviderError({ description: "oops" }), "server_error", "internal_error", "provider"],
      [
        new AiError.NetworkError({ reason: "TransportError", method: "POST", url: "https://x.test" }),
        "transient_network",
        "network",
        "provider"
      ],
      [
        new AiError.NetworkError({
          reason: "TransportError",
          method: "POST",
          url: "https://x.test",
          cause: Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" })
        }),
        "transient_network",
        "conn_refused",
        "provider"
      ],
      [
        new AiError.NetworkError({ reason: "EncodeError", method: "POST", url: "https://x.test" }),
        "permanent",
        "invalid_request",
        "request"
      ],
      [
        new AiError.NetworkError({ reason: "InvalidUrlError", method: "POST", url: "x" }),
        "permanent",
        "invalid_request",
        "target"
      ],
      [new AiError.InvalidResponseError({ description: "rate limit" }), "server_error", "invalid_response", "model"],
      [new AiError.InvalidOutputError({ description: "invalid api key" }), "server_error", "invalid_response", "model"],
      [
        new AiError.StructuredOutputError({ description: "x", responseText: "{}" }),
        "server_error",
        "invalid_response",
        "model"
      ],
      [new AiError.UnsupportedSchemaError({ description: "x" }), "permanent", "invalid_request", "request"],
      [new AiError.UnknownError({}), "unknown", "unknown", "target"],
      [
        new AiError.ToolNotFoundError({ toolName: "x", availableTools: [] }),
        "permanent",
        "tool_use_failed",
        "model"
      ],
      [
        new AiError.ToolParameterValidationError({ toolName: "x", description: "x" }),
        "permanent",
        "tool_use_failed",
        "model"
      ],
      [
        new AiError.InvalidToolResultError({ toolName: "x", description: "x" }),
        "permanent",
        "invalid_request",
        "request"
      ],
      [
        new AiError.ToolResultEncodingError({ toolName: "x", toolResult: 1, description: "x" }),
        "permanent",
        "invalid_request",
        "request"
      ],
      [
        new AiError.ToolConfigurationError({ toolName: "x", description: "x" }),
        "permanent",
        "invalid_request",
        "request"
      ],
      [new AiError.ToolkitRequiredError({ pendingApprovals: [] }), "permanent", "invalid_request", "request"],
      [new AiError.InvalidUserInputError({ description: "x" }), "permanent", "invalid_request", "request"]
    ]
    it("every reason of effect/ai is one of the seven", () => {
      assert.deepStrictEqual(
        foreign.map(([reason]) => {
          const error = LanguageModel.fromAiError(AiError.make({ module: "Acme", method: "generateText", reason }), {
            provider: "openai",
            target: "openai/b"
          })
          return [reason._tag, error.errorClass, error.reason, error.scope, error.target]
        }),
        foreign.map(([{ _tag }, errorClass, reason, scope]) => [_tag, errorClass, reason, scope, "openai/b"])
      )
    })

    it("waits that effect/ai states are kept", () => {
      const from = (reason: AiError.AiErrorReason) =>
        LanguageModel.fromAiError(AiError.make({ module: "Acme", method: "generateText", reason }), {
          provider: "openai",
          receivedAt: 1000
        }).retryAfter
      assert.deepStrictEqual(from(new AiError.RateLimitError({ retryAfter: Duration.seconds(7) })), Duration.seconds(7))
      const resetAt = DateTime.makeUnsafe(61_000)
      assert.deepStrictEqual(from(new AiError.QuotaExhaustedError({ resetAt })), Duration.minutes(1))
      const http = { response: { status: 429, headers: { "retry-after": "9" } }, body: "{}" }
      assert.deepStrictEqual(from(new AiError.RateLimitError({ http })), Duration.seconds(9))
    })

    it("a secret never stays in an error", () => {
      const secret = Redacted.make("hush-hush-1234567890")
      for (
        const reason of [
          new AiError.InvalidOutputError({ description: "got hush-hush-1234567890" }),
          new AiError.UnknownError({ description: "got hush-hush-1234567890" })
        ]
      ) {
        const error = LanguageModel.fromAiError(AiError.make({ module: "Acme", method: "x", reason }), {
          provider: "acme",
          secrets: [secret]
        })
        assert.notInclude(JSON.stringify(Schema.encodeSync(Schema.toCodecJson(LLMError.LLMError))(error)), "hush-hush")
      }
    })
  })

  describe("fromLanguageModel", () => {
    const usage = new Response.Usage({
      inputTokens: { uncached: 4, total: 4, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: 2, text: 2, reasoning: undefined }
    })
    const finish: Response.FinishPartEncoded = { type: "finish", reason: "stop", usage }

    /** A model of effect/ai, and what it was asked. */
    const model = (hooks: {
      readonly text?: ReadonlyArray<Response.PartEncoded> | AiError.AiErrorReason
      readonly stream?: ReadonlyArray<Response.StreamPartEncoded>
      readonly broken?: AiError.AiErrorReason
    }) => {
      const asked: Array<Ai.ProviderOptions> = []
      const error = (reason: AiError.AiErrorReason) => AiError.make({ module: "Acme", method: "x", reason })
      const service = Ai.make({
        generateText: (options) => {
          asked.push(options)
          const text = hooks.text ?? []
          return AiError.isAiErrorReason(text) ? Effect.fail(error(text)) : Effect.succeed(Array.from(text))
        },
        streamText: (options) => {
          asked.push(options)
          const parts = Stream.fromIterable(hooks.stream ?? [])
          return hooks.broken === undefined ? parts : Stream.concat(parts, Stream.fail(error(hooks.broken)))
        }
      })
      return { asked, layer: Layer.effect(Ai.LanguageModel, service) }
    }

    const adapted = (layer: Layer.Layer<Ai.LanguageModel>, options?: LanguageModel.AdapterOptions) =>
      LanguageModel.fromLayer(layer, options)

    it.effect("returns the parts, the usage and the model that answered", () =>
      Effect.gen(function*() {
        const { layer } = model({
          text: [
            { type: "response-metadata", id: "resp_1", modelId: "large-2" },
            { type: "reasoning", text: "hm" },
            { type: "text", text: "Hello" },
            { type: "source", sourceType: "url", id: "s", url: "https://x.test/", title: "X" },
            { type: "file", mediaType: "image/png", data: "AQID" },
            finish
          ]
        })
        const adapter = yield* adapted(layer)
        const reply = yield* adapter.complete(a, { prompt: "hi" })
        assert.deepStrictEqual(reply.content.map(({ type }) => type), ["reasoning", "text", "source", "file"])
        assert.deepStrictEqual([reply.model, reply.requestId, reply.finishReason], ["large-2", "resp_1", "stop"])
        assert.deepStrictEqual(reply.usage, usage)
      }))

    it.effect("describes tools and runs none, even calls of tools nobody knows", () =>
      Effect.gen(function*() {
        const call = { type: "tool-call", id: "1", name: "Tide", params: { harbour: 3 } } as const
        const { asked, layer } = model({ text: [call, { ...call, id: "2", name: "Nobody" }, finish] })
        const adapter = yield* adapted(layer)
        const reply = yield* adapter.complete(a, { prompt: "hi", tools: [Tide], toolChoice: { tool: "Tide" } })
        assert.deepStrictEqual(
          reply.content.map((part) => part.type === "tool-call" ? [part.id, part.name, part.params] : part),
          [["1", "Tide", { harbour: 3 }], ["2", "Nobody", { harbour: 3 }]]
        )
        assert.deepStrictEqual(asked[0]?.tools, [Tide])
        assert.deepStrictEqual(asked[0]?.toolChoice, { tool: "Tide" })
      }))

    it.effect("leaves out what a provider did with tools of its own", () =>
      Effect.gen(function*() {
        const { layer } = model({
          text: [
            { type: "tool-call", id: "1", name: "Tide", params: { harbour: "x" }, providerExecuted: true },
            {
              type: "tool-result",
              id: "1",
              name: "Tide",
              result: { metres: 1 },
              isFailure: false,
              providerExecuted: true
            },
            { type: "text", text: "done" },
            finish
          ],
          stream: [
            { type: "tool-params-start", id: "1", name: "Tide", providerExecuted: true },
            { type: "tool-params-delta", id: "1", delta: "{}" },
            { type: "tool-params-end", id: "1" },
            { type: "tool-call", id: "1", name: "Tide", params: { harbour: "x" }, providerExecuted: true },
            { type: "text-start", id: "2" },
            { type: "text-delta", id: "2", delta: "done" },
            { type: "text-end", id: "2" },
            finish
          ]
        })
        const adapter = yield* adapted(layer)
        const reply = yield* adapter.complete(a, { prompt: "hi", tools: [Tide] })
        assert.deepStrictEqual(reply.content.map(({ type }) => type), ["text"])
        const parts = yield* Stream.runCollect(adapter.stream(a, { prompt: "hi", tools: [Tide] }))
        assert.deepStrictEqual(parts.map(({ type }) => type), ["text-start", "text-delta", "text-end", "finish"])
      }))

    it.effect("asks for an object by its JSON schema, and returns what does not match as well", () =>
      Effect.gen(function*() {
        const responseFormat = {
          type: "json_schema",
          name: "tide",
          schema: { type: "object", properties: { metres: { type: "integer" } }, required: ["metres"] }
        } as const
        const good = model({ text: [{ type: "text", text: `{ "metres": 6 }` }, finish] })
        const reply = yield* (yield* adapted(good.layer)).complete(a, { prompt: "hi", responseFormat })
        assert.deepStrictEqual(reply.content.map((part) => part.type === "text" ? part.text : part), [`{"metres":6}`])
        assert.deepStrictEqual(reply.usage, usage)
        const format = good.asked[0]?.responseFormat
        assert.strictEqual(format?.type === "json" ? format.objectName : undefined, "tide")

        const bad = yield* adapted(model({ text: [{ type: "text", text: "six" }, finish] }).layer)
        const other = yield* bad.complete(a, { prompt: "hi", responseFormat })
        assert.deepStrictEqual(other.content.map((part) => part.type === "text" ? part.text : part), ["six"])

        const streamed = yield* Stream.runCollect(
          (yield* adapted(good.layer)).stream(a, { prompt: "hi", responseFormat })
        )
        assert.deepStrictEqual(streamed.map(({ type }) => type), [
          "response-metadata",
          "text-start",
          "text-delta",
          "text-end",
          "finish"
        ])

        const odd = yield* Effect.flip((yield* adapted(good.layer)).complete(a, {
          prompt: "hi",
          responseFormat: { ...responseFormat, schema: { not: { type: "string" } } }
        }))
        assert.deepStrictEqual([odd.reason, odd.scope], ["unsupported_parameter", "target"])
      }))

    it.effect("asks in words where any object will do", () =>
      Effect.gen(function*() {
        const { asked, layer } = model({ text: [{ type: "text", text: "{}" }, finish] })
        const adapter = yield* adapted(layer)
        yield* adapter.complete(a, { prompt: "hi", responseFormat: { type: "json_object" } })
        assert.deepStrictEqual(asked[0]?.prompt.content.map(({ role }) => role), ["system", "user"])
      }))

    it.effect("a failure is one of the seven, about the target", () =>
      Effect.gen(function*() {
        const { layer } = model({ text: new AiError.RateLimitError({ retryAfter: Duration.seconds(4) }) })
        const error = yield* Effect.flip((yield* adapted(layer)).complete(a, { prompt: "hi" }))
        assert.deepStrictEqual([error._tag, error.target, error.retryAfter], [
          "RateLimitError",
          "groq/a",
          Duration.seconds(4)
        ])
      }))

    it.effect("a stream succeeds only after a finish part", () =>
      Effect.gen(function*() {
        const delta: ReadonlyArray<Response.StreamPartEncoded> = [
          { type: "response-metadata", id: "resp_1", modelId: "m" },
          { type: "text-start", id: "0" },
          { type: "text-delta", id: "0", delta: "one" }
        ]
        const run = (hooks: Parameters<typeof model>[0]) =>
          Effect.gen(function*() {
            const adapter = yield* adapted(model(hooks).layer)
            const seen: Array<string> = []
            const exit = yield* Effect.exit(
              Stream.runForEach(
                adapter.stream(a, { prompt: "hi" }),
                (part) => Effect.sync(() => void seen.push(part.type))
              )
            )
            const error = Exit.isFailure(exit) ? yield* Effect.flip(exit) : undefined
            return [seen.length, error?.errorClass, error?.reason, error?.maybeBilled]
          })
        assert.deepStrictEqual(yield* run({ stream: [...delta, finish] }), [4, undefined, undefined, undefined])
        // What comes after the end of an answer belongs to nothing.
        assert.deepStrictEqual(yield* run({ stream: [...delta, finish, ...delta] }), [
          4,
          undefined,
          undefined,
          undefined
        ])
        assert.deepStrictEqual(yield* run({ stream: delta }), [3, "transient_network", "stream_truncated", true])
        assert.deepStrictEqual(yield* run({ stream: [...delta, { ...finish, reason: "error" }] }), [
          3,
          "server_error",
          "internal_error",
          true
        ])
        assert.deepStrictEqual(
          yield* run({
            stream: [...delta, { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }]
          }),
          [3, "server_error", "overloaded", true]
        )
        assert.deepStrictEqual(
          yield* run({ stream: [{ type: "error", error: new AiError.RateLimitError({}) }, finish] }),
          [
            0,
            "rate_limit",
            "rate_limit",
            false
          ]
        )
        assert.deepStrictEqual(
          yield* run({ stream: delta, broken: new AiError.InternalProviderError({ description: "x" }) }),
          [
            3,
            "server_error",
            "internal_error",
            true
          ]
        )
      }))

    it.effect("a model is asked for whole prompts, with the services it is given", () =>
      Effect.gen(function*() {
        class Config extends Context.Service<Config, { readonly maxTokens: number | undefined }>()("test/Config") {}
        const seen: Array<unknown> = []
        const look = ({ incrementalPrompt, previousResponseId }: Ai.ProviderOptions) =>
          Effect.map(Effect.serviceOption(Config), (config) => {
            seen.push([previousResponseId, incrementalPrompt, Option.getOrUndefined(config)])
            const metadata: Response.ResponseMetadataPartEncoded = { type: "response-metadata", id: "resp_1" }
            return [metadata, finish]
          })
        const layer = Layer.effect(
          Ai.LanguageModel,
          Ai.make({ generateText: look, streamText: (options) => Stream.fromIterableEffect(look(options)) })
        )
        const adapter = yield* adapted(layer, {
          context: (_, { maxTokens }) => Context.make(Config, { maxTokens })
        })
        const tracker = yield* ResponseIdTracker.make
        const prompt = Prompt.make([
          { role: "user", content: [Prompt.makePart("text", { text: "one" })] },
          { role: "assistant", content: [Prompt.makePart("text", { text: "two" })] },
          { role: "user", content: [Prompt.makePart("text", { text: "three" })] }
        ])
        tracker.markParts(prompt.content.slice(0, 1), "resp_of_another_model")
        yield* Effect.provideService(
          Effect.andThen(
            adapter.complete(a, { prompt, maxTokens: 9 }),
            Stream.runDrain(adapter.stream(a, { prompt, maxTokens: 9 }))
          ),
          ResponseIdTracker.ResponseIdTracker,
          tracker
        )
        assert.deepStrictEqual(seen, [
          [undefined, undefined, { maxTokens: 9 }],
          [undefined, undefined, { maxTokens: 9 }]
        ])
        const prepared = Option.getOrUndefined(tracker.prepareUnsafe(prompt))
        assert.strictEqual(prepared?.previousResponseId, "resp_of_another_model")
      }))

    it.effect("tells about the heads of responses", () =>
      Effect.gen(function*() {
        const response = { status: 200, headers: { "X-RateLimit-Remaining-Requests": "3" } }
        const refusal = { response: { status: 429, headers: { "retry-after": "3" } } }
        const heads: Array<Provider.ResponseHead> = []
        const observe = Effect.provideService(
          Provider.OnResponse,
          (head: Provider.ResponseHead) => Effect.sync(() => void heads.push(head))
        )
        const ok = yield* adapted(
          model({ text: [{ ...finish, response }], stream: [{ ...finish, response }] }).layer
        )
        yield* observe(ok.complete(a, { prompt: "hi" }))
        yield* observe(Stream.runDrain(ok.stream(a, { prompt: "hi" })))
        const no = yield* adapted(model({ text: new AiError.RateLimitError({ http: refusal }) }).layer)
        yield* observe(Effect.flip(no.complete(a, { prompt: "hi" })))
        assert.deepStrictEqual(heads, [
          { target: a, status: 200, headers: { "x-ratelimit-remaining-requests": "3" } },
          { target: a, status: 200, headers: { "x-ratelimit-remaining-requests": "3" } },
          { target: a, status: 429, headers: { "retry-after": "3" } }
        ])
      }))

    it.effect("models of a registry need services of their own", () =>
      Effect.gen(function*() {
        class First extends Context.Service<First, string>()("test/First") {}
        class Second extends Context.Service<Second, string>()("test/Second") {}
        const saying = <R>(text: Effect.Effect<string, never, R>) =>
          Layer.unwrap(Effect.map(text, (text) => model({ text: [{ type: "text", text }, finish] }).layer))
        const providers: Layer.Layer<Provider.Provider, never, First | Second> = LanguageModel.layerProvider({
          groq: saying(First),
          openai: Model.make("openai", "b", saying(Second))
        })
        const registry = yield* Effect.provide(Provider.Provider, providers).pipe(
          Effect.provideService(First, "one"),
          Effect.provideService(Second, "two")
        )
        const reply = registry.adapter("openai")?.complete(b, { prompt: "hi" }) ?? Effect.die("none")
        assert.deepStrictEqual((yield* reply).content.map((part) => part.type === "text" ? part.text : part), ["two"])
      }))

    it.effect("a registry of models picks by target, then by provider", () =>
      Effect.gen(function*() {
        const named = (text: string) => model({ text: [{ type: "text", text }, finish] }).layer
        const providers = LanguageModel.layerProvider({
          "groq/a": Model.make("groq", "a", named("by target")),
          groq: named("by provider"),
          "openai/b": named("another")
        })
        const registry = yield* Effect.provide(Provider.Provider, providers)
        assert.deepStrictEqual(registry.names, ["groq", "openai"])
        assert.isUndefined(registry.adapter("anthropic"))
        const text = (one: Target.Target) =>
          Effect.map(
            registry.adapter(one.provider)?.complete(one, { prompt: "hi" }) ?? Effect.die("none"),
            ({ content }) => content.map((part) => part.type === "text" ? part.text : "").join("")
          )
        assert.deepStrictEqual(yield* text(a), "by target")
        assert.deepStrictEqual(yield* text(target("groq/z")), "by provider")
        const error = yield* Effect.flip(text(target("openai/z")))
        assert.deepStrictEqual([error.reason, error.target], ["model_not_found", "openai/z"])
      }))
  })

  describe("round trip", () => {
    /** A service, as a model of effect/ai, as a target of a service, as a model of effect/ai. */
    const nested = (scripts: Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>) => {
      const inner = LanguageModel.layer.pipe(
        Layer.provide(Layer.fresh(Router.layer({ targets: [a, b] }))),
        Layer.provide(Layer.fresh(Resilience.layerMemory())),
        Layer.provideMerge(TestProvider.layer(scripts))
      )
      return Layer.effectContext(Effect.gen(function*() {
        const context = yield* Layer.build(inner)
        const adapter = LanguageModel.fromLanguageModel(Context.get(context, Ai.LanguageModel))
        const provider = Layer.succeed(
          Provider.Provider,
          Provider.Provider.of({ adapter: () => adapter, names: ["inner"] })
        )
        const outer = LanguageModel.layer.pipe(
          Layer.provideMerge(Router.layer({ targets: [target("inner/all", { tags: { region: "eu" } })] })),
          Layer.provide([provider, Resilience.layerMemory()])
        )
        return Context.merge(context, yield* Layer.build(outer))
      }))
    }

    it.effect("keeps text, tools, objects and usage", () => {
      const { handlers, ran } = counted()
      return Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const response = yield* Ai.generateText({ prompt: "how high?", toolkit: tides })
        assert.deepStrictEqual(ran, ["Tide Cherbourg"])
        assert.deepStrictEqual([response.text, response.usage.outputTokens.total], ["Looking", 7])
        assert.deepStrictEqual(attemptsOf(response.content), ["inner/all"])

        yield* provider.script("openai/b", [TestProvider.reply(`{"heights":[["Brest",6]],"note":null}`)])
        const schema = Schema.Struct({
          heights: Schema.Record(Schema.String, Schema.Finite),
          note: Schema.optional(Schema.String)
        })
        const recorded = yield* Effect.exit(Ai.generateObject({ prompt: "heights?", schema }))
        assert.isTrue(Exit.isFailure(recorded))
        yield* provider.script("openai/b", [TestProvider.reply(`{"heights":[{"0":"Brest","1":6}],"note":null}`)])
        const { value } = yield* Ai.generateObject({ prompt: "heights?", schema })
        assert.deepStrictEqual(value.heights, { Brest: 6 })
      }).pipe(
        Effect.provide(handlers),
        Effect.provide(nested({
          "groq/a": [revoked],
          "openai/b": [TestProvider.reply("Looking", { toolCalls: [tideCall], usage: { input: 3, output: 7 } })]
        }))
      )
    })

    it.effect("streams", () =>
      Effect.gen(function*() {
        const parts = yield* Stream.runCollect(Ai.streamText({ prompt: "hi" }))
        assert.deepStrictEqual(parts.map(({ type }) => type), [
          "response-metadata",
          "text-start",
          "text-delta",
          "text-delta",
          "text-end",
          "finish"
        ])
      }).pipe(Effect.provide(nested({ "groq/a": [revoked], "openai/b": [TestProvider.reply("one two")] }))))

    it.effect("hands on what a model is told, and not what the outer router decides", () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        yield* llm.complete({
          prompt: "hi",
          maxTokens: 9,
          tenant: "billing",
          tags: { region: "eu" },
          deadline: "10 seconds",
          streamPolicy: "restart"
        })
        const [request] = yield* requests
        assert.deepInclude(request, { maxTokens: 9, tenant: "billing", deadline: "10 seconds" })
        assert.deepStrictEqual([request?.tags, request?.streamPolicy], [undefined, undefined])
      }).pipe(Effect.provide(nested({ "*": [TestProvider.reply("ok")] }))))

    it.effect("an error keeps its class, reason, scope and wait, and is about the outer target", () =>
      Effect.gen(function*() {
        const error = LanguageModel.fromAiError(yield* Effect.flip(soon(Ai.generateText({ prompt: "hi" }))))
        assert.deepStrictEqual([error._tag, error.reason, error.scope, error.retryAfter, error.target], [
          "RateLimitError",
          "rate_limit",
          "model",
          Duration.minutes(5),
          "inner/all"
        ])
        assert.deepStrictEqual(error.attempts.map(({ target }) => target), ["inner/all"])
      }).pipe(Effect.provide(nested({ "*": [limited] }))))
  })

  it.effect("LLMService and effect/ai share one engine", () =>
    Effect.gen(function*() {
      const llm = yield* LLMService.LLMService
      yield* Ai.generateText({ prompt: "hi" })
      const { attempts } = yield* llm.complete({ prompt: "hi" })
      assert.deepStrictEqual(attempts[0]?.skipped.map(({ target, why }) => [target, why]), [["groq/a", "cooldown"]])
    }).pipe(Effect.provide(live({ "groq/a": [limited], "openai/b": [TestProvider.reply("ok")] }))))
})
