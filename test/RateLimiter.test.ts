import { assert, describe, it } from "@effect/vitest"
import * as LLMError from "breakwater/LLMError"
import * as LLMService from "breakwater/LLMService"
import * as RateLimiter from "breakwater/RateLimiter"
import * as Timeouts from "breakwater/Timeouts"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Option, Scope, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"

const scopesOf = (limits: RateLimiter.Limits, key = "scope") => [{ key, limits }]

const tokens = (limit: number, burst = limit): RateLimiter.Limits => ({ tokens: { limit, per: "1 second", burst } })

const limiter = RateLimiter.RateLimiter

/** Reserves in a scope of its own and keeps it open. */
const hold = (request: RateLimiter.Request) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const service = yield* limiter
    const reservation = yield* Scope.provide(service.reserve(request), scope)
    return { ...reservation, close: Scope.close(scope, Exit.void) }
  })

const millis = (reservation: { readonly waited: Duration.Duration }) => Duration.toMillis(reservation.waited)

const snapshotOf = (key: string) =>
  Effect.flatMap(limiter, (service) => Effect.map(service.snapshotOf(key), Option.getOrThrow))

describe("RateLimiter", () => {
  it.effect("T1: calls at the same time are admitted up to the limit, and the others wait their turn", () =>
    Effect.gen(function*() {
      const request = { scopes: scopesOf(tokens(100)), tokens: { input: 50, output: 0 } }
      const fiber = yield* Effect.forkChild(
        Effect.all([1, 2, 3, 4, 5].map(() => hold(request)), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("2 seconds")
      const held = yield* Fiber.join(fiber)
      assert.deepStrictEqual(held.map(millis), [0, 0, 500, 1000, 1500])
      assert.deepStrictEqual(held.map((each) => each.bindingDimension), [
        undefined,
        undefined,
        "tokens",
        "tokens",
        "tokens"
      ])
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T9: a request larger than the limit fails at once and names the dimension", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(
        hold({
          scopes: scopesOf({ inputTokens: { limit: 100, per: "1 minute" } }, "group:acme"),
          tokens: { input: 101, output: 0 },
          context: { provider: "groq", model: "llama" }
        })
      )
      assert.strictEqual(error._tag, "RateLimitError")
      assert.strictEqual(error.origin, "limiter")
      assert.strictEqual(error.reason, "request_exceeds_limit")
      assert.isFalse(error.isRetryable)
      assert.isUndefined(error.retryAfter)
      assert.include(error.message, "groq/llama")
      assert.include(error.message, "inputTokens of group:acme asks for 101")
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("one that began to wait before it came keeps its place", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 minute")
      const request = { scopes: scopesOf(tokens(1)), tokens: { input: 1, output: 0 } }
      const order: Array<string> = []
      const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
      for (const [name, since] of [["first"], ["second"], ["back", 50_000], ["from tomorrow", 1e9]] as const) {
        const held = Effect.map(hold({ ...request, since }), () => order.push(name))
        fibers.push(yield* Effect.forkChild(held, { startImmediately: true }))
      }
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(order, ["first", "back", "second", "from tomorrow"])
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("a reservation taken without a scope is charged like any other, until it is ended or cancelled", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      const scopes = scopesOf({ concurrency: 1, tokens: { limit: 100, per: "1 minute" } })
      const request = { scopes, tokens: { input: 40, output: 10 } }
      const first = yield* service.take(request)
      assert.strictEqual((yield* Effect.flip(service.take(request))).reason, "concurrency")
      yield* first.end({ input: 40, output: 40 })
      yield* first.end({ input: 0, output: 0 })
      assert.strictEqual((yield* Effect.flip(service.take(request))).reason, "rate_limit")
      const small = { scopes, tokens: { input: 10, output: 0 } }
      yield* (yield* service.take(small)).cancel
      const settled = yield* service.take(small)
      yield* settled.settle({ input: 5, output: 0 })
      assert.deepInclude(yield* snapshotOf("scope"), { inFlight: 1, settledTokens: 85 })
      yield* settled.end("unknown")
      assert.deepInclude(yield* snapshotOf("scope"), { inFlight: 0, reservedTokens: 0, settledTokens: 85, granted: 3 })
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("the end of a reservation without a scope wakes whoever waits for its slot", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      const scopes = scopesOf({ concurrency: 1 })
      const first = yield* service.take({ scopes })
      const fiber = yield* Effect.forkChild(Effect.scoped(service.reserve({ scopes })))
      yield* TestClock.adjust("1 second")
      assert.isUndefined(fiber.pollUnsafe())
      yield* first.end("unknown")
      assert.strictEqual(millis(yield* Fiber.join(fiber)), 1000)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("the headroom of scopes is what their tightest limit has left, and reading it charges nothing", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      const wide = { key: "wide", limits: { requests: { limit: 10, per: "1 minute" } } } as const
      const tight = {
        key: "tight",
        limits: { inputTokens: { limit: 100, per: "1 minute" }, concurrency: 4, minInterval: "1 second" }
      } as const
      const sets = [[wide], [wide, tight], [tight], [{ key: "never named", limits: wide.limits }], []]
      assert.deepStrictEqual(yield* service.headrooms(sets), [1, 1, 1, 1, 1])
      assert.deepStrictEqual(yield* service.snapshot, [])
      const held = yield* service.take({ scopes: [wide, tight], tokens: { input: 10, output: 1000 } })
      assert.deepStrictEqual(yield* service.headrooms(sets), [0.9, 0.75, 0.75, 1, 1])
      yield* held.end({ input: 90, output: 1000 })
      assert.deepStrictEqual(yield* service.headrooms(sets), [0.9, 0.1, 0.1, 1, 1])
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* service.headrooms(sets), [1, 0.6, 0.6, 1, 1])
      yield* service.observe("wide", { refused: { dimension: "requests", retryAfter: Duration.seconds(5) } })
      assert.deepStrictEqual((yield* service.headrooms(sets)).slice(0, 3), [0, 0, 0.6])
      assert.strictEqual((yield* snapshotOf("wide")).granted, 1)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T11: no estimate is needed where no tokens are limited", () =>
    Effect.gen(function*() {
      const held = yield* hold({ scopes: scopesOf({ requests: { limit: 1, per: "1 minute" } }) })
      assert.strictEqual(millis(held), 0)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("a wait that would outlast maxWait or the deadline fails at once, with the time that it would take", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ requests: { limit: 1, per: "1 second" } })
      yield* hold({ scopes })
      const late = yield* Effect.flip(hold({ scopes, maxWait: 999 }))
      assert.strictEqual(late.reason, "queue_timeout")
      assert.deepStrictEqual(late.retryAfter, Duration.seconds(1))
      const passed = yield* Effect.flip(Effect.provideService(hold({ scopes }), Timeouts.CurrentDeadline, 500))
      assert.strictEqual(passed.reason, "queue_timeout")
      const fiber = yield* Effect.forkChild(hold({ scopes, maxWait: 1000 }))
      yield* TestClock.adjust(1000)
      assert.strictEqual(millis(yield* Fiber.join(fiber)), 1000)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("a wait whose end nobody could foretell ends at maxWait", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ concurrency: 1 })
      yield* hold({ scopes })
      const fiber = yield* Effect.forkChild(Effect.flip(hold({ scopes })))
      yield* TestClock.adjust(14_999)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason, "queue_timeout")
      assert.include(error.detail, "concurrency of scope")
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("tryReserve never waits, and does not go before those who do", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      const scopes = scopesOf(tokens(10, 10))
      const small = { scopes, tokens: { input: 1, output: 0 } }
      yield* hold({ scopes, tokens: { input: 9, output: 0 } })
      const big = yield* Effect.forkChild(hold({ scopes, tokens: { input: 5, output: 0 } }))
      yield* TestClock.adjust(0)
      const error = yield* Effect.flip(Effect.scoped(service.tryReserve(small)))
      assert.strictEqual(error.reason, "rate_limit")
      assert.deepStrictEqual(error.retryAfter, Duration.millis(500))
      const forecast = yield* service.waitFor(small)
      assert.deepStrictEqual(forecast.wait, Duration.millis(500))
      assert.strictEqual(forecast.bindingDimension, "tokens")
      yield* TestClock.adjust(400)
      assert.strictEqual(millis(yield* Fiber.join(big)), 400)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T16 T17: a slot is held until the scope closes, settled or not, and is handed to the next", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ concurrency: 1 })
      const first = yield* hold({ scopes })
      yield* first.settle({ input: 0, output: 0 })
      const next = yield* Effect.forkChild(hold({ scopes }))
      yield* TestClock.adjust(5000)
      assert.isUndefined(next.pollUnsafe())
      yield* first.close
      assert.strictEqual(millis(yield* Fiber.join(next)), 5000)
      assert.strictEqual((yield* snapshotOf("scope")).inFlight, 1)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T3: what is not settled keeps its estimate, what was not sent costs nothing, and the first word counts", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ tokens: { limit: 100, per: "1 hour" }, requests: { limit: 10, per: "1 hour" } })
      const request = { scopes, tokens: { input: 20, output: 20 } }
      yield* Effect.flatMap(hold(request), (held) => held.close)
      const unsent = yield* hold(request)
      yield* unsent.settle("nothing-sent")
      yield* unsent.settle({ input: 100, output: 100 })
      yield* unsent.close
      const snapshot = yield* snapshotOf("scope")
      assert.deepStrictEqual(snapshot.limits.map((each) => each.remaining), [9, 60])
      assert.strictEqual(snapshot.inFlight, 0)
      assert.strictEqual(snapshot.successRate, 0)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("cancel gives back slots and tokens at once", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ concurrency: 1, tokens: { limit: 10, per: "1 hour" } })
      const request = { scopes, tokens: { input: 10, output: 0 } }
      const first = yield* hold(request)
      yield* first.cancel
      yield* hold(request)
      yield* first.close
      assert.strictEqual((yield* snapshotOf("scope")).inFlight, 1)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T8: ten thousand waiting calls, interrupted at random, delay the next one as if they had never come", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ tokens: { limit: 10, per: "1 second", burst: 10 }, concurrency: 100 })
      yield* hold({ scopes, tokens: { input: 10, output: 0 } })
      const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
      for (let each = 0; each < 10_000; each++) {
        fibers.push(
          yield* Effect.forkChild(
            hold({ scopes, tokens: { input: 1 + each % 10, output: 0 }, tenant: `${each % 7}`, maxWait: "1 day" })
          )
        )
      }
      const next = yield* Effect.forkChild(hold({ scopes, tokens: { input: 5, output: 0 }, maxWait: "1 day" }))
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* snapshotOf("scope")).waiting, 10_001)
      let seed = 1
      fibers.sort(() => (seed = (seed * 16807) % 2147483647) % 2 === 0 ? 1 : -1)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      yield* TestClock.adjust(500)
      assert.strictEqual(millis(yield* Fiber.join(next)), 500)
      const snapshot = yield* snapshotOf("scope")
      assert.deepStrictEqual([snapshot.waiting, snapshot.inFlight, snapshot.cancelled], [0, 2, 10_000])
    }).pipe(Effect.provide(RateLimiter.layerMemory({ maxQueue: 20_000 }))))

  it.effect("T13: processes that do not know of each other keep a limit together", () =>
    Effect.gen(function*() {
      const processes = 4
      const limits: RateLimiter.Limits = {
        requests: { limit: 40, per: "1 minute", window: "sliding" },
        tokens: { limit: 4000, per: "1 minute" },
        concurrency: 8,
        minInterval: "100 millis"
      }
      const grants: Array<number> = []
      const open: Array<Effect.Effect<void>> = []
      const alone = Effect.gen(function*() {
        const service = yield* limiter
        const scope = yield* Scope.make()
        for (;;) {
          const request = { scopes: scopesOf(limits), tokens: { input: 50, output: 50 } }
          const granted = yield* Effect.exit(Scope.provide(service.tryReserve(request), scope))
          if (Exit.isFailure(granted)) return open.push(Scope.close(scope, Exit.void))
          grants.push(yield* Clock.currentTimeMillis)
        }
      })
      const all = yield* Effect.forEach(
        Array.from({ length: processes }),
        () => Layer.build(RateLimiter.layerMemory({ processes, adaptive: false }))
      )
      for (let at = 0; at < 300_000; at += 50) {
        for (const process of all) yield* Effect.provideContext(alone, process)
        assert.isAtMost(grants.filter((grant) => grant > at - 60_000).length, 40)
        yield* TestClock.adjust(50)
        for (const close of open.splice(0)) yield* close
      }
      assert.isAtLeast(grants.length, 0.98 * 40 * 5)
    }).pipe(Effect.scoped))

  it.effect("T18: whatever is interrupted and when, everything is back at the end", () =>
    Effect.gen(function*() {
      const scopes = [
        { key: "a", limits: { concurrency: 5, requests: { limit: 50, per: "1 second" as const, burst: 10 } } },
        { key: "b", limits: { concurrency: 3, tokens: { limit: 1000, per: "1 second" as const, burst: 100 } } }
      ]
      let seed = 7
      const random = (below: number) => (seed = (seed * 16807) % 2147483647) % below
      let running = 0
      let most = 0
      const call = Effect.scoped(Effect.gen(function*() {
        const service = yield* limiter
        const reservation = yield* service.reserve({ scopes, tokens: { input: random(60), output: 0 }, maxWait: 400 })
        running++
        most = Math.max(most, running)
        yield* Effect.ensuring(Effect.sleep(random(200)), Effect.sync(() => running--))
        yield* reservation.settle({ input: random(60), output: 0 })
      }))
      const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
      for (let each = 0; each < 300; each++) {
        fibers.push(yield* Effect.forkChild(call))
        yield* TestClock.adjust(random(12))
        if (random(3) === 0) yield* Fiber.interrupt(fibers[random(fibers.length)] ?? Fiber.getCurrent()!)
      }
      yield* TestClock.adjust(1000)
      assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() !== undefined))
      assert.strictEqual(most, 3)
      yield* TestClock.adjust("1 minute")
      for (const key of ["a", "b"]) {
        const snapshot = yield* snapshotOf(key)
        assert.deepStrictEqual([snapshot.inFlight, snapshot.waiting, snapshot.reservedTokens], [0, 0, 0])
        assert.isTrue(snapshot.limits.every((each) => each.resetMs === 0 && each.utilisation === 0))
        assert.strictEqual(
          snapshot.grantedTokens + snapshot.overusedTokens,
          snapshot.settledTokens + snapshot.refundedTokens
        )
      }
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("thousands of calls that end at once do not overflow the stack", () =>
    Effect.gen(function*() {
      const scopes = scopesOf({ concurrency: 1 })
      const first = yield* hold({ scopes })
      const call = Effect.scoped(Effect.flatMap(limiter, (service) => service.reserve({ scopes })))
      const fibers = yield* Effect.forEach(Array.from({ length: 20_000 }), () => Effect.forkChild(call))
      yield* TestClock.adjust(0)
      yield* first.close
      yield* Effect.forEach(fibers, Fiber.join)
      assert.strictEqual((yield* snapshotOf("scope")).granted, 20_001)
    }).pipe(Effect.provide(RateLimiter.layerMemory({ maxQueue: 50_000 }))))

  it.effect("changed limits hold for those who wait, until reset", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      const scopes = scopesOf({ requests: { limit: 1, per: "10 seconds" } })
      yield* hold({ scopes })
      const next = yield* Effect.forkChild(hold({ scopes }))
      yield* TestClock.adjust(1000)
      yield* service.setLimits("scope", { requests: { limit: 10, per: "10 seconds", burst: 1 } })
      yield* TestClock.adjust(900)
      assert.strictEqual(millis(yield* Fiber.join(next)), 1900)
      assert.isTrue(yield* service.reset("scope"))
      assert.isFalse(yield* service.reset("other"))
      yield* hold({ scopes })
      assert.strictEqual((yield* snapshotOf("scope")).limits[0]?.limit, 1)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  describe("what providers say", () => {
    const minute = { requests: { limit: 60, per: "1 minute" as const } }

    it.effect("a balance in headers lowers what is left, and never raises it", () =>
      Effect.gen(function*() {
        const service = yield* limiter
        const held = yield* hold({ scopes: scopesOf(minute) })
        const said = (remaining: number) =>
          service.observe("scope", { limits: [{ dimension: "requests", remaining }], sentAt: held.grantedAt })
        yield* said(10)
        assert.strictEqual((yield* snapshotOf("scope")).limits[0]?.remaining, 10)
        yield* said(50)
        assert.strictEqual((yield* snapshotOf("scope")).limits[0]?.remaining, 10)
      }).pipe(Effect.provide(RateLimiter.layerMemory())))

    it.effect("a limit in headers is a ceiling, never above what is configured", () =>
      Effect.gen(function*() {
        const service = yield* limiter
        yield* hold({ scopes: scopesOf(minute) })
        yield* service.observe("scope", { limits: [{ dimension: "requests", limit: 30 }] })
        assert.strictEqual((yield* snapshotOf("scope")).limits[0]?.limit, 30)
        yield* service.observe("scope", { limits: [{ dimension: "requests", limit: 600 }] })
        assert.isAtMost((yield* snapshotOf("scope")).limits[0]?.limit ?? Number.NaN, 60)
      }).pipe(Effect.provide(RateLimiter.layerMemory())))

    it.effect("T25: refusals shrink a limit once a round trip, and nothing passes before the stated wait", () =>
      Effect.gen(function*() {
        const service = yield* limiter
        const held = yield* hold({ scopes: scopesOf(minute) })
        yield* TestClock.adjust(1000)
        const refused = service.observe("scope", {
          refused: { retryAfter: Duration.seconds(5) },
          sentAt: held.grantedAt
        })
        yield* refused
        const once = (yield* snapshotOf("scope")).limits[0]
        yield* Effect.repeat(refused, { times: 20 })
        const often = (yield* snapshotOf("scope")).limits[0]
        assert.isBelow(once?.limit ?? Number.NaN, 60)
        assert.strictEqual(often?.limit, once?.limit)
        const forecast = yield* service.waitFor({ scopes: scopesOf(minute) })
        assert.isAtLeast(Duration.toMillis(forecast.wait), 5000)
      }).pipe(Effect.provide(RateLimiter.layerMemory())))

    it.effect("a refusal limits a scope that had no limits", () =>
      Effect.gen(function*() {
        const service = yield* limiter
        for (let each = 0; each < 20; each++) yield* hold({ scopes: scopesOf({}) })
        yield* service.observe("scope", { refused: {} })
        const learned = (yield* snapshotOf("scope")).limits[0]
        assert.strictEqual(learned?.dimension, "requests")
        assert.isTrue(learned?.learned)
        assert.isAtMost(learned?.limit ?? Number.NaN, 20)
        assert.isAbove(Duration.toMillis((yield* service.waitFor({ scopes: scopesOf({}) })).wait), 0)
      }).pipe(Effect.provide(RateLimiter.layerMemory())))
  })

  it.effect("calendar quotas come back at midnight of their time zone", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2026-11-21T20:00:00Z"))
      const scopes = scopesOf({
        requests: { limit: 1, per: "1 day", window: "calendar", timeZone: "America/New_York" }
      })
      yield* hold({ scopes })
      const error = yield* Effect.flip(hold({ scopes }))
      assert.deepStrictEqual(error.retryAfter, Duration.hours(9))
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it.effect("T40: scopes that are at rest are forgotten", () =>
    Effect.gen(function*() {
      const service = yield* limiter
      for (let each = 0; each < 5000; each++) {
        const held = yield* hold({ scopes: scopesOf(tokens(1000), `user:${each}`), tokens: { input: 1, output: 0 } })
        yield* held.close
      }
      yield* TestClock.adjust("11 minutes")
      assert.strictEqual((yield* service.snapshot).length, 0)
    }).pipe(Effect.provide(RateLimiter.layerMemory())))

  it("rejects options that make no sense, and names them", () => {
    for (
      const [field, options] of [
        ["maxQueue", { maxQueue: -1 }],
        ["emergencyReserve", { emergencyReserve: 1 }],
        ["maxDebt", { maxDebt: Number.NaN }],
        ["tenantWeights.a", { tenantWeights: { a: 0 } }],
        ["ageing", { ageing: 0 }],
        ["idleTimeToLive", { idleTimeToLive: "-1 seconds" }]
      ] as const
    ) {
      assert.throws(() => RateLimiter.layerMemory(options), RangeError, field)
    }
  })

  describe("limit", () => {
    const scopes = scopesOf({ tokens: { limit: 100, per: "1 hour" }, requests: { limit: 10, per: "1 hour" } })
    const request = { scopes, tokens: { input: 20, output: 20 } }
    const remaining = Effect.map(snapshotOf("scope"), ({ limits }) => limits.map((each) => each.remaining))
    const fails = (fields: Partial<LLMError.Fields>) =>
      Effect.fail(new LLMError.RateLimitError({ provider: "groq", reason: "rate_limit", ...fields }))

    it.effect("settles what a success used and what a failure cost", () =>
      Effect.gen(function*() {
        yield* RateLimiter.limit(Effect.succeed(5), { ...request, usage: (output) => ({ input: 20, output }) })
        assert.deepStrictEqual(yield* remaining, [9, 75])
        yield* Effect.flip(RateLimiter.limit(fails({ origin: "circuit" }), request))
        assert.deepStrictEqual(yield* remaining, [9, 75])
        yield* Effect.flip(RateLimiter.limit(fails({ reason: "daily_quota" }), request))
        assert.deepStrictEqual(yield* remaining, [8, 75])
        yield* Effect.flip(RateLimiter.limit(fails({ maybeBilled: true, reason: "daily_quota" }), request))
        assert.deepStrictEqual(yield* remaining, [7, 35])
      }).pipe(Effect.provide(RateLimiter.layerMemory())))

    it.effect("an interrupted effect keeps its estimate and gives its slot back", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(RateLimiter.limit(Effect.never, request))
        yield* TestClock.adjust(0)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* remaining, [9, 60])
        assert.strictEqual((yield* snapshotOf("scope")).inFlight, 0)
      }).pipe(Effect.provide(RateLimiter.layerMemory())))
  })

  describe("layerLLMService", () => {
    const usage = Response.Usage.make({
      inputTokens: { uncached: 10, total: 10, cacheRead: 0, cacheWrite: undefined },
      outputTokens: { total: 7, text: 7, reasoning: undefined }
    })
    const delta = Response.makePart("text-delta", { id: "0", delta: "x".repeat(40) })
    const finish = Response.makePart("finish", { reason: "stop", usage, response: undefined })
    const service = (stream: Stream.Stream<LLMService.StreamPart, LLMError.LLMError>) =>
      RateLimiter.layerLLMService({
        scopes: scopesOf({ concurrency: 1, tokens: { limit: 1000, per: "1 hour" } }),
        context: { provider: "groq" },
        estimate: () => ({ input: 100, output: 100 })
      }).pipe(
        Layer.provide(Layer.succeed(
          LLMService.LLMService,
          LLMService.LLMService.of({
            complete: () => Effect.die("not asked"),
            stream: () => stream
          })
        )),
        Layer.provideMerge(RateLimiter.layerMemory())
      )
    const left = Effect.map(snapshotOf("scope"), (snapshot) => [snapshot.inFlight, snapshot.limits[0]?.remaining])

    it.effect("T2 T17: a stream holds its slot to its end, and settles its usage", () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        yield* Stream.runForEach(llm.stream({ prompt: "hi" }), () =>
          Effect.map(left, (during) => assert.deepStrictEqual(during, [1, 800])))
        assert.deepStrictEqual(yield* left, [0, 983])
      }).pipe(Effect.provide(service(Stream.make(delta, finish)))))

    it.effect("T3: a stream that is left after content settles what was given, and before it keeps the estimate", () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        yield* Stream.runDrain(Stream.take(llm.stream({ prompt: "hi" }), 1))
        assert.deepStrictEqual(yield* left, [0, 890])
      }).pipe(Effect.provide(service(Stream.concat(Stream.make(delta), Stream.never)))))
  })
})
