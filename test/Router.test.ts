import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  ClientThrottle,
  Cooldown,
  Health,
  type LLMError,
  LLMService,
  Provider,
  RateLimiter,
  Resilience,
  Retry,
  Router,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Layer, Random, Redacted, Schedule, Stream } from "effect"
import { Response, Tool } from "effect/ai"
import { TestClock } from "effect/testing"

const target = (id: string, options: Partial<Target.Options> = {}): Target.Target => {
  const [provider = "", model = ""] = id.split("/")
  return Target.make({ provider, model, ...options })
}

const a = target("groq/a")
const b = target("groq/b")
const c = target("openai/c")

const limited = (retryAfter?: Duration.Input, fields: Partial<LLMError.Fields> = {}) =>
  TestProvider.fail("rate_limit", {
    reason: "rate_limit",
    scope: "model",
    status: 429,
    retryAfter: retryAfter === undefined ? undefined : Duration.fromInputUnsafe(retryAfter),
    ...fields
  })
const broken = (fields: Partial<LLMError.Fields> = {}) =>
  TestProvider.fail("server_error", { reason: "internal_error", scope: "provider", status: 500, ...fields })

const overflow = TestProvider.fail("permanent", { reason: "context_length_exceeded", scope: "model", status: 400 })

/** Answers with 1000 tokens of input, 800 of them from the cache. */
const cachingAdapter: Provider.Adapter = {
  stream: () => Stream.die("not asked"),
  complete: (target) =>
    Effect.succeed({
      content: [],
      usage: new Response.Usage({
        inputTokens: { total: 1000, uncached: 200, cacheRead: 800, cacheWrite: undefined },
        outputTokens: { total: 10, text: 10, reasoning: undefined }
      }),
      finishReason: "stop",
      model: target.model,
      requestId: undefined
    })
}

type Scripts = Parameters<typeof TestProvider.layer>[0]

const withRouter = (options: Router.Options, scripts: Scripts, state: Resilience.MemoryOptions = {}) => {
  const below = Layer.merge(TestProvider.layer(scripts), Resilience.layerMemory(state))
  return Layer.provideMerge(Router.layer(options), below)
}

const complete = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "hi", ...request }))

const streamParts = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Stream.unwrap(Effect.map(LLMService.LLMService, (llm) => llm.stream({ prompt: "hi", ...request })))

const calledTargets = Effect.flatMap(
  TestProvider.TestProvider,
  (provider) => Effect.map(provider.calls, (calls) => calls.map((call) => call.target))
)

/** Runs an effect while the virtual time goes on, in steps. */
const underTime = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  total: Duration.Input,
  step: Duration.Input = "100 millis"
) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    const steps = Math.ceil(
      Duration.toMillis(Duration.fromInputUnsafe(total)) / Duration.toMillis(Duration.fromInputUnsafe(step))
    )
    for (let index = 0; index < steps && fiber.pollUnsafe() === undefined; index++) yield* TestClock.adjust(step)
    return yield* Fiber.join(fiber)
  })

describe("Router", () => {
  describe("classic cases", () => {
    it.effect("one limit and then a success are two calls", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.strictEqual(completion.target, "groq/b")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/b"])
        assert.deepStrictEqual(completion.attempts.map((_) => [_.target, _.outcome, _.chosen]), [
          ["groq/a", "failure", "first"],
          ["groq/b", "success", "next"]
        ])
      }).pipe(Effect.provide(withRouter({ targets: [a, b] }, {
        "groq/a": [limited("22 minutes")],
        "groq/b": [TestProvider.reply("ok")]
      }))))

    it.effect("when every model of a provider is limited the next attempt goes to the next provider", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.strictEqual(completion.target, "openai/c")
        assert.strictEqual(completion.attempts.length, 3)
      }).pipe(Effect.provide(withRouter({ targets: [a, b, c] }, {
        "groq/a": [limited("1 minute")],
        "groq/b": [limited("1 minute")],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("a second call skips what is cooling and says so", () =>
      Effect.gen(function*() {
        yield* complete()
        const second = yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/b", "groq/b"])
        assert.deepStrictEqual(second.attempts[0]?.skipped, [{
          target: "groq/a",
          why: "cooldown",
          remainingMs: 60_000
        }])
      }).pipe(Effect.provide(withRouter({ targets: [a, b] }, {
        "groq/a": [limited("1 minute")],
        "groq/b": [TestProvider.reply("ok")]
      }))))

    it.effect("after the stated wait the first target is tried first again", () =>
      Effect.gen(function*() {
        yield* complete()
        yield* TestClock.adjust("22 minutes")
        const later = yield* complete()
        assert.strictEqual(later.target, "groq/a")
      }).pipe(Effect.provide(withRouter({ targets: [a, b] }, {
        "groq/a": [limited("22 minutes"), TestProvider.reply("back")],
        "groq/b": [TestProvider.reply("ok")]
      }))))
  })

  describe("recovery", () => {
    it.effect("a server error is retried on the same target before another one is asked", () =>
      Effect.gen(function*() {
        const completion = yield* underTime(complete(), "1 minute")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/a", "groq/a", "openai/c"])
        assert.strictEqual(completion.target, "openai/c")
        assert.deepStrictEqual(completion.attempts.map((_) => _.chosen), ["first", "retry", "retry", "next"])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [broken()],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("a timeout moves on at once and cools the target for 10 s", () =>
      Effect.gen(function*() {
        const completion = yield* underTime(complete(), "61 seconds")
        assert.strictEqual(completion.target, "openai/c")
        assert.deepStrictEqual(completion.attempts.map((_) => [_.reason, _.durationMs]), [
          ["attempt", 60_000],
          [undefined, 0]
        ])
        const cooldown = yield* Cooldown.Cooldown
        assert.deepStrictEqual(
          (yield* cooldown.active).map((_) => [_.scopeKey, _.remainingMs]),
          [["target:groq/a", 10_000]]
        )
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [TestProvider.stall()],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("an unknown failure is retried once and then moves on", () =>
      Effect.gen(function*() {
        yield* underTime(complete(), "1 minute")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/a", "openai/c"])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [TestProvider.fail("unknown", { reason: "unknown" })],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    const key1 = target("groq/a", { key: { id: "k1", value: Redacted.make("secret-1") } })
    const key2 = target("groq/a", { key: { id: "k2", value: Redacted.make("secret-2") } })
    const other1 = target("groq/b", { key: { id: "k1", value: Redacted.make("secret-1") } })

    it.effect("a dead key is out for an hour and another key of the model is asked first (T22)", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.strictEqual(completion.target, "groq/a@k2")
        yield* TestClock.adjust("59 minutes")
        yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a@k1", "groq/a@k2", "groq/a@k2"])
        yield* TestClock.adjust("1 minute")
        yield* complete()
        assert.deepStrictEqual((yield* calledTargets).slice(3), ["groq/a@k1", "groq/a@k2"])
      }).pipe(Effect.provide(withRouter({ targets: [key1, other1, key2] }, {
        "groq/a@k1": [TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 })],
        "groq/a@k2": [TestProvider.reply("ok")]
      }))))

    it.effect("a spent quota takes the whole group out, is not retried, and leaves other groups free (T10, T22)", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.strictEqual(completion.target, "groq/a@z")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a@x", "groq/a@z"])
      }).pipe(Effect.provide(withRouter({
        targets: ["x", "y", "z"].map((id) =>
          target("groq/a", { key: { id, value: Redacted.make(id) }, group: id === "z" ? "free" : "org" })
        )
      }, {
        "groq/a@x": [
          TestProvider.fail("rate_limit", {
            reason: "insufficient_quota",
            scope: "key",
            status: 429,
            retryAfter: Duration.seconds(1)
          })
        ],
        "groq/a@z": [TestProvider.reply("ok")]
      }))))

    it.effect("an overflow only moves to larger windows, an unknown one last (T39)", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["p/m8", "p/m32", "p/unknown"])
        assert.strictEqual(completion.target, "p/unknown")
      }).pipe(Effect.provide(withRouter({
        targets: [
          target("p/m8", { contextWindow: 8192 }),
          target("p/unknown"),
          target("p/m4", { contextWindow: 4096 }),
          target("p/m32", { contextWindow: 32_768 })
        ]
      }, {
        "p/m8": [overflow],
        "p/m32": [overflow],
        "p/unknown": [TestProvider.reply("ok")]
      }))))

    it.effect("a request that is wrong everywhere surfaces at once and cools nothing (T21)", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete())
        assert.strictEqual(error._tag, "PermanentError")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a"])
        const cooldown = yield* Cooldown.Cooldown
        assert.deepStrictEqual(yield* cooldown.active, [])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [TestProvider.fail("permanent", { reason: "content_filter", scope: "model", status: 400 })]
      }))))

    it.effect("a retired model is out for an hour and the next one answers", () =>
      Effect.gen(function*() {
        yield* complete()
        yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/b", "groq/b"])
      }).pipe(Effect.provide(withRouter({ targets: [a, b] }, {
        "groq/a": [TestProvider.fail("permanent", { reason: "model_not_found", scope: "model", status: 404 })],
        "groq/b": [TestProvider.reply("ok")]
      }))))

    it.effect("a short stated wait is waited for in place, a longer one moves on", () =>
      Effect.gen(function*() {
        const short = yield* underTime(complete(), "4 seconds")
        assert.deepStrictEqual([short.target, short.attempts[1]?.chosen], ["groq/a", "retry"])
        const long = yield* underTime(complete(), "10 seconds")
        assert.strictEqual(long.target, "openai/c")
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [limited("2 seconds"), TestProvider.reply("ok"), limited("4 seconds")],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("a patience of zero never waits in place while another target is free", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.strictEqual(completion.target, "openai/c")
      }).pipe(Effect.provide(withRouter({ targets: [a, c], patience: 0 }, {
        "groq/a": [limited("1 second")],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("a retry schedule of the user's own is followed on each target", () =>
      Effect.gen(function*() {
        const completion = yield* underTime(complete(), "30 seconds")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/a", "openai/c", "openai/c"])
        assert.deepStrictEqual(completion.attempts.map((_) => _.waitedMs), [0, 7000, 0, 7000])
        assert.strictEqual(completion.timings.waitedMs, 14_000)
      }).pipe(Effect.provide(withRouter({
        targets: [a, c],
        retry: Schedule.spaced("7 seconds").pipe(Schedule.upTo({ times: 1 }))
      }, {
        "groq/a": [broken()],
        "openai/c": [broken(), TestProvider.reply("ok")]
      }))))

    it.effect("each target may have a retry schedule of its own", () =>
      Effect.gen(function*() {
        yield* Effect.flip(underTime(complete(), "30 seconds"))
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "groq/a", "groq/a", "openai/c"])
      }).pipe(Effect.provide(withRouter({
        targets: [a, c],
        retry: ({ provider }) => Schedule.spaced("1 second").pipe(Schedule.upTo({ times: provider === "groq" ? 2 : 0 }))
      }, { "*": [broken()] }))))

    it.effect("a cell of the table can be changed", () =>
      Effect.gen(function*() {
        yield* Effect.flip(complete())
        assert.deepStrictEqual(yield* calledTargets, ["groq/a"])
      }).pipe(Effect.provide(withRouter({
        targets: [a, c],
        recovery: { classes: { server_error: { sameTarget: "never", otherTargets: "never" } } }
      }, { "groq/a": [broken()] }))))

    it.effect("x-should-retry: false forbids the retry in place, not the next target", () =>
      Effect.gen(function*() {
        yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "openai/c"])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [broken({ shouldRetry: false })],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("a 503 with a stated wait keeps every call away from its scope until then (T30)", () =>
      Effect.gen(function*() {
        yield* complete()
        yield* TestClock.adjust("39 seconds")
        yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "openai/c", "openai/c"])
      }).pipe(Effect.provide(withRouter({ targets: [a, b, c] }, {
        "groq/a": [broken({ status: 503, retryAfter: Duration.seconds(40) })],
        "openai/c": [TestProvider.reply("ok")]
      }))))
  })

  describe("exhaustion", () => {
    it.effect("the error of the target that recovers first is raised, with all attempts and the counts by provider", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ deadline: "1 minute" }))
        assert.strictEqual(error._tag, "RateLimitError")
        assert.strictEqual(error.target, "groq/b")
        assert.deepStrictEqual(error.retryAfter, Duration.minutes(15))
        assert.strictEqual(
          error.message,
          "rate limited on all 3 targets; earliest capacity in 15 m (groq 0/2, openai 0/1)"
        )
        assert.deepStrictEqual(error.attempts.map((_) => _.target), ["groq/a", "groq/b", "openai/c"])
        const again = yield* Effect.flip(complete({ deadline: "1 minute" }))
        assert.deepStrictEqual([again.origin, again.attempts.length], ["cooldown", 0])
        assert.strictEqual(again.message, error.message)
        assert.strictEqual((yield* calledTargets).length, 3)
      }).pipe(Effect.provide(withRouter({ targets: [a, b, c] }, {
        "groq/a": [limited("20 minutes")],
        "groq/b": [limited("15 minutes")],
        "openai/c": [limited("50 minutes")]
      }))))

    it.effect("when all are cooling the earliest is waited for within the deadline, never sooner than stated (T30)", () =>
      Effect.gen(function*() {
        const completion = yield* underTime(complete(), "40 seconds")
        assert.strictEqual(completion.target, "groq/b")
        const last = completion.attempts.at(-1)
        assert.strictEqual(last?.chosen, "earliest")
        assert.isAtLeast(last?.startedMs ?? 0, 20_000)
        assert.isAtMost(last?.startedMs ?? 0, 22_100)
      }).pipe(Effect.provide(withRouter({ targets: [a, b] }, {
        "groq/a": [limited("30 seconds")],
        "groq/b": [limited("20 seconds"), TestProvider.reply("ok")]
      }))))

    it.effect("a wait beyond the deadline fails at once: it neither sleeps nor retries early (T30)", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ deadline: "10 seconds" }))
        assert.strictEqual(error._tag, "RateLimitError")
        assert.strictEqual((yield* calledTargets).length, 1)
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [limited("11 seconds")] }))))

    it.effect("waiters for the same stated wait come back spread, never early (T25)", () =>
      Effect.gen(function*() {
        yield* complete({ deadline: "1 second" }).pipe(Effect.flip)
        const fibers = yield* Effect.forEach(Array.from({ length: 200 }), () => Effect.forkChild(complete()))
        for (let second = 0; second < 50; second++) yield* TestClock.adjust("1 second")
        yield* Effect.forEach(fibers, Fiber.join)
        const provider = yield* TestProvider.TestProvider
        const wakes = (yield* provider.calls).slice(1).map((call) => call.at)
        assert.strictEqual(wakes.length, 200)
        assert.isTrue(wakes.every((at) => at >= 40_000 && at <= 44_001))
        const buckets = Array.from({ length: 10 }, (_, n) =>
          wakes.filter((at) => Math.floor((at - 40_000) / 400.1) === n).length)
        assert.isTrue(
          buckets.every((count) =>
            count <= 40
          ),
          `no bucket above twice the mean: ${buckets.join(" ")}`
        )
      }).pipe(
        Random.withSeed("spread"),
        Effect.provide(withRouter({ targets: [a] }, {
          "groq/a": [limited("40 seconds"), TestProvider.reply("ok")]
        }))
      ))

    it.effect("a call makes at most maxAttempts attempts over all targets (T29, T39)", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(underTime(complete(), "10 minutes"))
        assert.strictEqual(error._tag, "ServerError")
        assert.strictEqual((yield* calledTargets).length, 4)
        assert.strictEqual(error.attempts.length, 4)
      }).pipe(Effect.provide(withRouter({ targets: [a, b, c], maxAttempts: 4 }, { "*": [broken()] }))))

    it.effect("the walk ends when every target has failed for good, with the first cause (T37)", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(underTime(complete(), "10 minutes"))
        assert.strictEqual(error.detail, "boom a")
        assert.strictEqual(error.message, "server error on all 2 targets (groq 0/1, openai 0/1)")
        assert.strictEqual((yield* calledTargets).length, 6)
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [broken({ detail: "boom a" })],
        "openai/c": [broken({ detail: "boom c" })]
      }))))

    it.effect("with a single target the provider's own words are the message", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ deadline: "1 second" }))
        assert.strictEqual(error.message, "groq/a: rate limited (rate_limit, 429), retry after 5s: slow down")
      }).pipe(
        Effect.provide(withRouter({ targets: [a] }, { "groq/a": [limited("5 seconds", { detail: "slow down" })] }))
      ))
  })

  describe("deadline", () => {
    it.effect("one deadline covers attempts and waits, and is told from a provider's timeout", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(underTime(complete({ deadline: "5 seconds" }), "6 seconds"))
        assert.strictEqual(error._tag, "TimeoutError")
        assert.deepStrictEqual([error.origin, error.reason, error.scope], ["deadline", "deadline", "request"])
        assert.deepStrictEqual(error.attempts.map((_) => [_.target, _.durationMs]), [["groq/a", 2500], [
          "openai/c",
          2500
        ]])
        const cooldown = yield* Cooldown.Cooldown
        assert.deepStrictEqual(yield* cooldown.active, [])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, { "*": [TestProvider.stall()] }))))

    it.effect("a backoff that would pass the deadline is not slept for", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ deadline: "10 seconds" }))
        assert.strictEqual(error._tag, "ServerError")
      }).pipe(Effect.provide(withRouter({
        targets: [a],
        retry: Retry.exponential({ base: "1 minute", factor: 2, max: "1 minute", jitter: "none" })
      }, { "groq/a": [broken()] }))))
  })

  describe("candidates", () => {
    const tool = Tool.make("Add")

    it.effect("a target that declares what it cannot do is not asked for it", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ tools: [tool] })).target, "openai/c")
        assert.strictEqual((yield* complete()).target, "groq/a")
      }).pipe(Effect.provide(withRouter({ targets: [target("groq/a", { capabilities: { tools: false } }), c] }, {
        "*": [TestProvider.reply("ok")]
      }))))

    it.effect("a request that no target can serve says what it needs", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ tools: [tool] }))
        assert.deepStrictEqual([error._tag, error.origin, error.reason], [
          "PermanentError",
          "router",
          "unsupported_parameter"
        ])
        assert.include(error.message, "needs tools")
      }).pipe(Effect.provide(withRouter({ targets: [target("groq/a", { capabilities: { tools: false } })] }, {}))))

    it.effect("a lower order is tried first", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete()).target, "openai/first")
      }).pipe(Effect.provide(withRouter({
        targets: [target("groq/second", { order: 2 }), target("openai/first", { order: 1 })]
      }, { "*": [TestProvider.reply("ok")] }))))

    for (
      const [field, request] of [
        ["maxTokens", { maxTokens: 0 }],
        ["temperature", { temperature: Number.NaN }],
        ["topP", { topP: 2 }],
        ["deadline", { deadline: 0 }],
        ["responseFormat.name", { responseFormat: { type: "json_schema", name: "not a name", schema: {} } }],
        ["prompt", { prompt: [] }]
      ] as const satisfies ReadonlyArray<readonly [string, Partial<LLMService.CompletionRequest>]>
    ) {
      it.effect(`a request with a wrong ${field} is refused by name before any attempt`, () =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(complete(request))
          assert.deepStrictEqual([error._tag, error.reason, error.scope], [
            "PermanentError",
            "invalid_request",
            "request"
          ])
          assert.include(error.message, `request.${field}`)
          assert.deepStrictEqual(yield* calledTargets, [])
        }).pipe(Effect.provide(withRouter({ targets: [a] }, {}))))
    }
  })

  describe("streams", () => {
    const texts = (parts: ReadonlyArray<LLMService.StreamPart>) =>
      parts.flatMap((part) => part.type === "text-delta" ? [part.delta] : []).join("")

    it.effect("a stream fails over before its first content part, and its output comes from one target (T36)", () =>
      Effect.gen(function*() {
        const parts = yield* Stream.runCollect(streamParts())
        assert.strictEqual(texts(parts), "all from c")
        const finish = parts.at(-1)
        assert(finish?.type === "finish")
        const record = finish.metadata["breakwater"] as { target: string; attempts: ReadonlyArray<LLMError.Attempt> }
        assert.strictEqual(record.target, "openai/c")
        assert.deepStrictEqual(record.attempts.map((_) => _.outcome), ["failure", "success"])
        assert.strictEqual(parts.filter((part) => part.type === "response-metadata").length, 1)
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [limited("1 hour")],
        "openai/c": [TestProvider.reply("all from c")]
      }))))

    it.effect("after the first content part a failure is the caller's, with the record, and no other target is asked (T36)", () =>
      Effect.gen(function*() {
        const seen: Array<LLMService.StreamPart> = []
        const error = yield* streamParts().pipe(
          Stream.tap((part) => Effect.sync(() => seen.push(part))),
          Stream.runDrain,
          Effect.flip
        )
        assert.deepStrictEqual([error._tag, error.reason], ["TransientNetworkError", "stream_truncated"])
        assert.isTrue(error.maybeBilled)
        assert.deepStrictEqual(error.attempts.map((_) => _.target), ["groq/a"])
        assert.strictEqual(texts(seen), "half an")
        assert.deepStrictEqual(yield* calledTargets, ["groq/a"])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [TestProvider.cut(["half ", "an"])],
        "openai/c": [TestProvider.reply("never asked")]
      }))))

    it.effect("a slow first token moves on, a stall after content fails as idle (T35)", () =>
      Effect.gen(function*() {
        const parts = yield* underTime(Stream.runCollect(streamParts()), "31 seconds")
        assert.strictEqual(texts(parts), "quick")
        const error = yield* Effect.flip(underTime(Stream.runDrain(streamParts()), "31 seconds"))
        assert.deepStrictEqual([error._tag, error.reason], ["TimeoutError", "idle"])
      }).pipe(Effect.provide(withRouter({ targets: [a, c], recovery: { classes: { timeout: { cooldown: 0 } } } }, {
        "groq/a": [TestProvider.reply("late", { delay: "2 minutes" }), TestProvider.stall(["some"])],
        "openai/c": [TestProvider.reply("quick")]
      }))))

    it.effect("an empty answer is a success with its finish part", () =>
      Effect.gen(function*() {
        const parts = yield* Stream.runCollect(streamParts())
        assert.deepStrictEqual(parts.map((part) => part.type), ["response-metadata", "finish"])
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [TestProvider.reply("")] }))))

    it.effect("interrupting a stream ends the provider's call at once (T38)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const taken = yield* Stream.runCollect(Stream.take(streamParts(), 3))
        assert.strictEqual(taken.length, 3)
        assert.strictEqual(yield* provider.inFlight, 0)
        assert.strictEqual((yield* provider.calls)[0]?.outcome, "interrupted")
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [TestProvider.reply(["a", "b", "c", "d"])] }))))
  })

  describe("interruption", () => {
    it.effect("is an interruption, leaves nothing running and cools nothing (T38)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const cooldown = yield* Cooldown.Cooldown
        for (const call of [Effect.asVoid(complete()), Stream.runDrain(streamParts())]) {
          const fiber = yield* Effect.forkChild(call)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* provider.inFlight, 1)
          yield* Fiber.interrupt(fiber)
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
          assert.strictEqual(yield* provider.inFlight, 0)
        }
        assert.deepStrictEqual((yield* provider.calls).map((_) => _.outcome), ["interrupted", "interrupted"])
        assert.deepStrictEqual(yield* cooldown.active, [])
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, { "*": [TestProvider.stall()] }))))

    it.effect("leaves no timer, wherever it comes: in an attempt, a stream, a backoff or a wait (T38)", () =>
      Effect.gen(function*() {
        const clock = yield* Effect.service(Clock.Clock)
        let timers = 0
        const counting: Clock.Clock = Object.create(clock, {
          sleep: {
            value: (duration: Duration.Duration) =>
              Effect.suspend(() => {
                timers++
                return Effect.ensuring(clock.sleep(duration), Effect.sync(() => timers--))
              })
          }
        })
        const provider = yield* TestProvider.TestProvider
        const calls = [Effect.asVoid(complete()), Stream.runDrain(streamParts())]
        for (const script of [TestProvider.stall(), TestProvider.stall(["some"]), broken(), limited("1 minute")]) {
          for (const call of calls) {
            yield* provider.script("groq/a", [script])
            const fiber = yield* Effect.forkChild(Effect.provideService(call, Clock.Clock, counting))
            yield* TestClock.adjust("1 second")
            assert.isAbove(timers, 0)
            yield* Fiber.interrupt(fiber)
            // What all limits of time share stops when the scheduler comes round.
            yield* Effect.yieldNow
            assert.strictEqual(timers, 0)
            assert.strictEqual(yield* provider.inFlight, 0)
            yield* Effect.flatMap(Cooldown.Cooldown, (cooldown) => cooldown.clearAll)
          }
        }
      }).pipe(Effect.provide(withRouter({
        targets: [a],
        retry: Retry.exponential({ base: "10 seconds", jitter: "none" })
      }, {}))))

    it.effect("ends a backoff and a wait for capacity", () =>
      Effect.gen(function*() {
        for (const script of [[broken()], [limited("1 minute")]]) {
          const provider = yield* TestProvider.TestProvider
          yield* provider.script("groq/a", script)
          const fiber = yield* Effect.forkChild(complete())
          yield* TestClock.adjust(0)
          yield* Fiber.interrupt(fiber)
          const before = (yield* provider.calls).length
          yield* TestClock.adjust("5 minutes")
          assert.strictEqual((yield* provider.calls).length, before)
        }
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [broken()] }))))
  })

  describe("limits", () => {
    const perMinute = (limit: number) => ({ limit, per: "1 minute" as const })
    const limitedTo = (id: string, limits: RateLimiter.Limits) => target(id, { limits })
    const inFlight = Effect.flatMap(TestProvider.TestProvider, (provider) => provider.inFlight)

    it.effect("a target without capacity is passed over without an attempt, and the record says so", () =>
      Effect.gen(function*() {
        yield* complete()
        const second = yield* complete()
        assert.deepStrictEqual(yield* calledTargets, ["groq/a", "openai/c"])
        assert.deepStrictEqual(second.attempts.map((_) => [_.target, _.chosen]), [["openai/c", "next"]])
        assert.deepStrictEqual(second.attempts[0]?.skipped.map((_) => [_.target, _.why]), [["groq/a", "limit"]])
      }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { requests: perMinute(1) }), c] }, {
        "*": [TestProvider.reply("ok")]
      }))))

    it.effect("when no target has capacity the call waits for the first that will", () =>
      Effect.gen(function*() {
        yield* complete()
        yield* complete()
        const third = yield* underTime(complete(), "12 seconds")
        assert.strictEqual(third.target, "openai/c")
        assert.deepStrictEqual(third.attempts.map((_) => _.chosen), ["earliest"])
        assert.isAtLeast(third.timings.waitedMs, 9_999)
        assert.isAtMost(third.timings.waitedMs, 10_100)
      }).pipe(Effect.provide(withRouter({
        targets: [
          limitedTo("groq/a", { requests: { limit: 1, per: "30 seconds" } }),
          limitedTo("openai/c", { requests: { limit: 1, per: "10 seconds" } })
        ]
      }, { "*": [TestProvider.reply("ok")] }))))

    it.effect("a wait beyond queueWait or the deadline is refused at once, with the wait and the limit", () =>
      Effect.gen(function*() {
        yield* complete()
        for (const request of [{}, { deadline: "5 seconds" }] as const) {
          const error = yield* Effect.flip(complete(request))
          assert.deepStrictEqual([error._tag, error.origin], ["RateLimitError", "limiter"])
          assert.deepStrictEqual(error.retryAfter, Duration.minutes(1))
          assert.include(error.message, "requests")
        }
        assert.strictEqual((yield* calledTargets).length, 1)
      }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { requests: perMinute(1) })] }, {
        "*": [TestProvider.reply("ok")]
      }))))

    it.effect("a request that can never fit fails at once and names the limit", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ maxTokens: 5000 }))
        assert.deepStrictEqual([error._tag, error.origin, error.retryAfter], ["RateLimitError", "limiter", undefined])
        assert.include(error.message, "tokens")
        assert.deepStrictEqual(yield* calledTargets, [])
      }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { tokens: perMinute(1000) })] }, {}))))

    it.effect("tokens are settled to what was used: what was reserved for nothing is free again", () =>
      Effect.gen(function*() {
        for (let n = 0; n < 5; n++) yield* complete({ maxTokens: 900 })
        const limiter = yield* RateLimiter.RateLimiter
        const [snapshot] = yield* limiter.snapshot
        assert.strictEqual(snapshot?.granted, 5)
        const parts = yield* Stream.runCollect(streamParts({ maxTokens: 900 }))
        assert.strictEqual(parts.at(-1)?.type, "finish")
      }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { tokens: perMinute(1000) })] }, {
        "*": [TestProvider.reply("ok", { usage: { input: 10, output: 5 } })]
      }))))

    for (
      const [name, call] of [["whole", Effect.asVoid(complete())], [
        "streamed",
        Stream.runDrain(streamParts())
      ]] as const
    ) {
      it.effect(`a slot is held to the end of a ${name} answer, and never more are open than there are (T17)`, () =>
        Effect.gen(function*() {
          const fibers = yield* Effect.forEach(Array.from({ length: 7 }), () => Effect.forkChild(call))
          let most = 0
          for (let step = 0; step < 120; step++) {
            yield* TestClock.adjust("100 millis")
            most = Math.max(most, yield* inFlight)
          }
          yield* Effect.forEach(fibers, Fiber.join)
          assert.strictEqual(most, 2)
          assert.strictEqual((yield* calledTargets).length, 7)
        }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { concurrency: 2 })] }, {
          "*": [TestProvider.reply(["a", "b", "c"], { delay: "1 second", gap: "1 second" })]
        }))))
    }

    it.effect("a slot comes back however an attempt ends: failure, timeout, interruption, an abandoned stream (T16)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const ends: ReadonlyArray<
          readonly [TestProvider.Step, Effect.Effect<unknown, unknown, LLMService.LLMService>]
        > = [
          [TestProvider.fail("permanent", { reason: "content_filter" }), Effect.exit(complete())],
          [TestProvider.stall(), Effect.exit(complete({ deadline: "1 second" }))],
          [TestProvider.stall(["a"]), Effect.exit(Stream.runDrain(streamParts({ deadline: "1 second" })))],
          [TestProvider.cut(["a"]), Effect.exit(Stream.runDrain(streamParts()))],
          [TestProvider.reply(["a", "b", "c"]), Stream.runDrain(Stream.take(streamParts(), 3))]
        ]
        for (const [step, call] of ends) {
          yield* provider.script("groq/a", [step])
          yield* underTime(call, "2 seconds")
          yield* provider.script("groq/a", [TestProvider.stall()])
          const fiber = yield* Effect.forkChild(complete())
          yield* TestClock.adjust("1 millis")
          assert.strictEqual(yield* inFlight, 1, "the slot was free")
          yield* Fiber.interrupt(fiber)
          yield* Effect.flatMap(Cooldown.Cooldown, (cooldown) => cooldown.clearAll)
        }
        const limiter = yield* RateLimiter.RateLimiter
        assert.strictEqual((yield* limiter.snapshot)[0]?.inFlight, 0)
      }).pipe(Effect.provide(withRouter({ targets: [limitedTo("groq/a", { concurrency: 1 })] }, {}))))

    it.effect("interrupting a call in the queue leaves the next one's wait as if it had never come (T8)", () =>
      Effect.gen(function*() {
        yield* complete()
        const queued = yield* Effect.forEach(Array.from({ length: 5 }), () => Effect.forkChild(complete()))
        yield* TestClock.adjust(0)
        const last = yield* Effect.forkChild(complete())
        yield* TestClock.adjust(0)
        yield* Effect.forEach(queued, Fiber.interrupt)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* Fiber.join(last)).timings.waitedMs, 10_000)
      }).pipe(
        Effect.provide(
          withRouter({
            targets: [limitedTo("groq/a", { requests: { limit: 1, per: "10 seconds" } })],
            queueWait: "2 minutes"
          }, {
            "*": [TestProvider.reply("ok")]
          })
        )
      ))

    it.effect("limits are shared by provider, group, key, tenant and all calls", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.RateLimiter
        yield* complete({ tenant: "math" })
        const keys = (yield* limiter.snapshot).map((_) => _.key).sort()
        assert.deepStrictEqual(keys, [
          "all",
          "group:groq@org",
          "key:groq@k",
          "model:groq/a@org",
          "provider:groq",
          "tenant:math"
        ])
        const error = yield* Effect.flip(complete({ tenant: "math", deadline: "1 second" }))
        assert.include(error.message, "tenant:math")
        yield* complete({ tenant: "other" })
      }).pipe(Effect.provide(withRouter({
        targets: [
          target("groq/a", {
            group: "org",
            key: { id: "k", value: Redacted.make("x") },
            limits: { requests: perMinute(60) }
          })
        ],
        limits: {
          all: { requests: perMinute(600) },
          providers: { groq: { requests: perMinute(600) } },
          groups: { org: { requests: perMinute(600) } },
          keys: { k: { requests: perMinute(600) } },
          tenants: { math: { requests: perMinute(1) } }
        }
      }, { "*": [TestProvider.reply("ok")] }))))

    it.effect("input from the cache is free where the provider's limit leaves it out, and counts elsewhere", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.RateLimiter
        const used: Array<number> = []
        for (const provider of ["anthropic", "openai"]) {
          yield* complete({ tenant: provider })
          const snapshot = (yield* limiter.snapshot).find((_) => _.key === `model:${provider}/m@none`)
          const [figures] = snapshot?.limits ?? []
          used.push(Math.round((figures?.limit ?? 0) - (figures?.remaining ?? 0)))
          const cooldown = yield* Cooldown.Cooldown
          yield* cooldown.start("provider:anthropic", "1 hour", "rate_limit")
        }
        assert.deepStrictEqual(used, [200, 1000])
      }).pipe(Effect.provide(
        Router.layer({
          targets: ["anthropic/m", "openai/m"].map((id) => limitedTo(id, { inputTokens: perMinute(10_000) }))
        }).pipe(
          Layer.provide(Layer.succeed(
            Provider.Provider,
            Provider.Provider.of({ adapter: () => cachingAdapter, names: ["any"] })
          )),
          Layer.provideMerge(Resilience.layerMemory())
        )
      )))

    it.effect("a more urgent call goes first", () =>
      Effect.gen(function*() {
        yield* complete()
        const order: Array<string> = []
        const ask = (priority: "high" | "low") =>
          Effect.forkChild(Effect.andThen(complete({ priority }), Effect.sync(() => order.push(priority))))
        yield* ask("low")
        yield* TestClock.adjust(0)
        yield* ask("high")
        yield* TestClock.adjust("8 seconds")
        assert.deepStrictEqual(order, ["high", "low"])
      }).pipe(
        Effect.provide(withRouter({ targets: [limitedTo("groq/a", { requests: { limit: 1, per: "4 seconds" } })] }, {
          "*": [TestProvider.reply("ok")]
        }))
      ))

    it.effect("a cooldown that begins while a call waits in the queue is obeyed", () =>
      Effect.gen(function*() {
        yield* complete()
        const queued = yield* Effect.forkChild(complete())
        yield* TestClock.adjust("1 second")
        const cooldown = yield* Cooldown.Cooldown
        yield* cooldown.start("provider:groq", "1 minute", "rate_limit")
        yield* TestClock.adjust("58 seconds")
        assert.strictEqual((yield* calledTargets).length, 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* Fiber.join(queued)).target, "groq/a")
      }).pipe(
        Effect.provide(withRouter({ targets: [limitedTo("groq/a", { requests: { limit: 1, per: "4 seconds" } })] }, {
          "*": [TestProvider.reply("ok")]
        }))
      ))
  })

  describe("circuits", () => {
    it.effect("an outage of 60 s costs the threshold of attempts, every call is answered, and traffic comes back (T27)", () =>
      Effect.gen(function*() {
        const answeredBy: Array<string> = []
        const provider = yield* TestProvider.TestProvider
        for (let second = 0; second < 120; second += 4) {
          if (second === 60) yield* provider.script("groq/a", [TestProvider.reply("back")])
          const fiber = yield* Effect.forkChild(complete())
          yield* TestClock.adjust("4 seconds")
          answeredBy.push((yield* Fiber.join(fiber)).target)
        }
        const during = (yield* provider.calls).filter((call) => call.target === "groq/a" && call.at < 60_000)
        assert.strictEqual(during.length, 5)
        assert.deepStrictEqual(answeredBy.slice(0, 15), Array.from({ length: 15 }, () => "openai/c"))
        const back = answeredBy.indexOf("groq/a") * 4
        assert.isAtMost(back, 60 + 30)
        assert.isTrue(answeredBy.slice(back / 4).every((target) => target === "groq/a"))
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
        "groq/a": [broken({ status: 503 })],
        "openai/c": [TestProvider.reply("ok")]
      }))))

    it.effect("the only target with an open circuit refuses at once and says when to come back (T19)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        for (let n = 0; n < 5; n++) yield* Effect.flip(complete({ deadline: "5 seconds" }))
        assert.strictEqual((yield* provider.calls).length, 5)
        const error = yield* Effect.flip(complete({ deadline: "5 seconds" }))
        assert.deepStrictEqual(
          [error._tag, error.origin, error.reason, error.attempts.length],
          ["ServerError", "circuit", "circuit_open", 0]
        )
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(60))
        assert.strictEqual((yield* provider.calls).length, 5)
        yield* provider.script("groq/a", [TestProvider.reply("back")])
        const waited = yield* underTime(complete(), "70 seconds")
        assert.strictEqual(waited.text, "back")
        assert.isAtLeast(waited.timings.waitedMs, 60_000)
      }).pipe(Effect.provide(withRouter({
        targets: [a],
        retry: Retry.exponential({ base: "1 minute", max: "1 minute", jitter: "none" })
      }, { "groq/a": [broken({ status: 503 })] }))))

    it.effect("poison requests, rate limits, wrong keys, callers' deadlines and interruptions never open one (T21)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const circuits = yield* CircuitBreaker.CircuitBreaker
        const health = yield* Health.Health
        const before = yield* health.score("target:groq/a")
        for (const reason of ["content_filter", "invalid_request", "context_length_exceeded"] as const) {
          yield* provider.script("groq/a", [TestProvider.fail("permanent", { reason, scope: "model", status: 400 })])
          for (let n = 0; n < 6; n++) yield* Effect.flip(complete())
        }
        yield* provider.script("groq/a", [TestProvider.stall()])
        for (let n = 0; n < 6; n++) {
          yield* underTime(Effect.flip(complete({ deadline: "1 second" })), "2 seconds")
          const fiber = yield* Effect.forkChild(complete())
          yield* TestClock.adjust("1 second")
          yield* Fiber.interrupt(fiber)
        }
        assert.strictEqual((yield* circuits.state("target:groq/a")).status, "closed")
        assert.strictEqual(yield* health.score("target:groq/a"), before)
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [broken()] }))))

    it.effect("a stream's probe decides at its first content part, and others may then come in (T23)", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        yield* circuits.trip("target:groq/a", "10 seconds")
        yield* TestClock.adjust("10 seconds")
        const open = yield* Effect.forEach([1, 2], () => Effect.forkChild(Stream.runDrain(streamParts())))
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* circuits.state("target:groq/a")).status, "closed")
        yield* Effect.forEach(open, Fiber.interrupt)
      }).pipe(Effect.provide(withRouter({ targets: [a] }, { "groq/a": [TestProvider.stall(["first"])] }))))

    it.effect("open circuits never take out more than half of a pool, nor its last target", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        for (const id of ["p/1", "p/2", "p/3", "p/4"]) yield* circuits.trip(`target:${id}`, "1 minute")
        yield* circuits.trip("target:p/2", "10 seconds")
        const first = yield* complete()
        assert.strictEqual(first.target, "p/1")
        assert.deepStrictEqual(
          first.attempts[0]?.skipped.filter((_) => _.why === "circuit").length,
          2
        )
      }).pipe(Effect.provide(withRouter({ targets: ["p/1", "p/2", "p/3", "p/4"].map((id) => target(id)) }, {
        "*": [TestProvider.reply("ok")]
      }))))

    it.effect("when all of a pool is down a call costs an attempt a target at most, and what is back is found at once", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        for (let n = 0; n < 8; n++) yield* underTime(Effect.flip(complete({ deadline: "8 seconds" })), "9 seconds")
        const before = (yield* provider.calls).length
        yield* underTime(Effect.flip(complete({ deadline: "8 seconds" })), "9 seconds")
        assert.isAtMost((yield* provider.calls).length - before, 2)
        yield* provider.script("groq/a", [TestProvider.reply("back")])
        yield* provider.script("openai/c", [TestProvider.reply("back")])
        assert.strictEqual((yield* complete()).text, "back")
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, { "*": [broken({ status: 503 })] }))))

    it.effect("a pool may be told to obey every circuit", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        for (const id of ["groq/a", "openai/c"]) yield* circuits.trip(`target:${id}`, "1 minute")
        const error = yield* Effect.flip(complete({ deadline: "1 second" }))
        assert.deepStrictEqual([error.origin, error.reason], ["circuit", "circuit_open"])
        assert.deepStrictEqual(yield* calledTargets, [])
      }).pipe(Effect.provide(withRouter({ targets: [a, c], maxEjected: 1 }, {}))))

    it.effect("an isolated target is passed over until it is released", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        const release = yield* circuits.isolate("target:groq/a", "maintenance")
        const passed = yield* complete()
        assert.deepStrictEqual(passed.attempts[0]?.skipped.map((_) => [_.target, _.why]), [["groq/a", "circuit"]])
        yield* release
        assert.strictEqual((yield* complete()).target, "groq/a")
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, { "*": [TestProvider.reply("ok")] }))))

    it.effect("where all are isolated, a call ends with that", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        for (const id of ["groq/a", "openai/c"]) yield* circuits.isolate(`target:${id}`, "maintenance")
        const error = yield* Effect.flip(complete())
        assert.deepInclude(error, {
          _tag: "ServerError",
          target: "groq/a",
          origin: "circuit",
          reason: "circuit_open",
          retryAfter: undefined
        })
      }).pipe(Effect.provide(withRouter({ targets: [a, c] }, { "*": [TestProvider.reply("ok")] }))))
  })

  describe("retry budget", () => {
    it.effect("over many failing calls, attempts stay within the calls, a fifth of them and the floor (T29)", () =>
      Effect.gen(function*() {
        const calls = 100
        const fibers = yield* Effect.forEach(
          Array.from({ length: calls }),
          () => Effect.forkChild(Effect.exit(complete({ deadline: "30 seconds" })))
        )
        yield* TestClock.adjust("50 seconds")
        yield* Effect.forEach(fibers, Fiber.join)
        const attempts = (yield* calledTargets).length
        assert.isAtMost(attempts, calls * 1.2 + 3)
        assert.isAtLeast(attempts, calls)
      }).pipe(Effect.provide(withRouter({ targets: [a] }, {
        "groq/a": [broken()]
      }, { circuit: { disabled: true } }))))
  })

  describe("client throttle", () => {
    it.effect("sheds requests to a provider that refuses most of them, and lets enough through to see it recover", () =>
      Effect.gen(function*() {
        const call = complete({ deadline: "1 second" })
        for (let n = 0; n < 400; n++) {
          yield* Effect.exit(call)
          yield* TestClock.adjust("50 millis")
        }
        const provider = yield* TestProvider.TestProvider
        const sent = (yield* provider.calls).length
        assert.isAtMost(sent, 200)
        assert.isAtLeast(sent, 40)
        const error = yield* call.pipe(
          Effect.flip,
          Effect.repeat({ until: (error) => error.origin === "limiter" })
        )
        assert.deepStrictEqual([error._tag, error.reason, error.scope], ["RateLimitError", "overloaded", "provider"])
      }).pipe(
        Random.withSeed("shed"),
        Effect.provide(
          Router.layer({ targets: [a], retry: Schedule.recurs(0) }).pipe(
            Layer.provide(ClientThrottle.layerMemory({ grace: "1 millis" })),
            Layer.provideMerge(Layer.merge(
              TestProvider.layer({ "groq/a": [broken({ status: 503 })] }),
              Resilience.layerMemory({ circuit: { disabled: true } })
            ))
          )
        )
      ))
  })

  describe("health", () => {
    it.effect("attempts are recorded for the target, its model, its key and its provider", () =>
      Effect.gen(function*() {
        yield* underTime(complete(), "10 seconds")
        yield* Stream.runDrain(streamParts())
        const health = yield* Health.Health
        const report = yield* health.report
        assert.deepStrictEqual(report.map((_) => _.key).sort(), [
          "key:groq@k",
          "model:groq/a@k",
          "provider:groq",
          "target:groq/a@k"
        ])
        assert.isBelow(report[0]?.score ?? 100, 95)
      }).pipe(
        Effect.provide(withRouter({ targets: [target("groq/a", { key: { id: "k", value: Redacted.make("x") } })] }, {
          "*": [broken(), TestProvider.reply("ok")]
        }))
      ))
  })

  describe("construction", () => {
    const bad = (options: Partial<Router.Options>, message: RegExp) =>
      it(`refuses ${message.source}`, () => {
        assert.throws(() => Router.layer({ targets: [a], ...options }), message)
      })
    bad({ targets: [] }, /targets must not be empty/)
    bad({ targets: [a, a] }, /two targets have the id "groq\/a"/)
    bad({ maxAttempts: 0 }, /maxAttempts must be an integer >= 1, got 0/)
    bad({ patience: -1 }, /patience must be >= 0/)
    bad({ timeouts: { idle: 0 } }, /timeouts.idle must be > 0/)
    bad({ maxEjected: 2 }, /maxEjected must be between 0 and 1, got 2/)
    bad({ queueWait: -1 }, /queueWait must be >= 0/)
    bad({ limits: { providers: { opanai: {} } } }, /limits.providers.opanai is for no target/)
    bad({ limits: { all: { concurrency: 0 } } }, /limits.all.*concurrency must be/)
    bad({ recovery: { classes: { timeout: { cooldown: -5 } } } }, /classes.timeout.cooldown must be >= 0/)
  })

  it.effect("a day of calls over a failing pool replays in virtual time", () =>
    Effect.gen(function*() {
      const hours = 24
      for (let hour = 0; hour < hours; hour++) {
        const completion = yield* underTime(complete(), "1 minute")
        assert.strictEqual(completion.target, hour % 2 === 0 ? "openai/c" : "groq/a")
        yield* TestClock.adjust("1 hour")
      }
      assert.strictEqual((yield* calledTargets).length, 36)
    }).pipe(Effect.provide(withRouter({ targets: [a, c] }, {
      "groq/a": Array.from({ length: 24 }, (_, n) => n % 2 === 0 ? limited("10 minutes") : TestProvider.reply("ok")),
      "openai/c": [TestProvider.reply("ok")]
    }))))
})
