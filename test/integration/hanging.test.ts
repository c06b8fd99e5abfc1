import { assert, describe, it } from "@effect/vitest"
import { LLMService, type RateLimiter, Selection } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Fiber, Random, References, Stream } from "effect"
import { TestClock } from "effect/testing"
import { callCounts, complete, concurrently, target, withRouter } from "../support/Calls.ts"

const keys = (count: number, limits?: RateLimiter.Limits) =>
  Array.from({ length: count }, (_, n) => target(`acme/m@${n + 1}`, { limits }))

const answer = (delay: `${number} seconds`): TestProvider.Step => TestProvider.reply("ok", { delay })

/** Calls one after the other, so many a second for so many seconds; returns how long each took to its answer. */
const offer = (perSecond: number, seconds: number, request: Partial<LLMService.CompletionRequest> = {}) =>
  Effect.gen(function*() {
    const fibers: Array<Fiber.Fiber<LLMService.Completion, unknown>> = []
    for (let n = 0; n < perSecond * seconds; n++) {
      fibers.push(yield* Effect.forkChild(complete({ deadline: "1 minute", ...request }), { startImmediately: true }))
      yield* TestClock.adjust(1000 / perSecond)
    }
    return fibers
  })

const joined = (fibers: ReadonlyArray<Fiber.Fiber<LLMService.Completion, unknown>>) =>
  Effect.gen(function*() {
    yield* TestClock.adjust("2 minutes")
    return yield* Fiber.joinAll(fibers)
  })

const strategies = [
  Selection.weighted,
  Selection.leastBusy,
  Selection.powerOfTwo,
  Selection.lowestLatency,
  Selection.healthiest,
  Selection.mostHeadroom,
  Selection.score()
]

describe("a key that hangs among others that answer", () => {
  for (const strategy of strategies) {
    it.effect(`${strategy.name}: at most 15 of 400 calls are sent to it, and no other call waits for it`, () =>
      Effect.gen(function*() {
        const completions = yield* joined(yield* offer(20, 20))
        const counts = yield* callCounts
        assert.isAtLeast(counts["acme/m@1"] ?? 0, 1)
        assert.isAtMost(counts["acme/m@1"] ?? 0, 15)
        const late = completions.filter((_) => _.timings.totalMs > 2000)
        assert.isAtMost(late.length, 15)
        assert.isTrue(completions.every((_) => _.target !== "acme/m@1"))
      }).pipe(
        Effect.provide(withRouter({ targets: keys(5), strategy }, {
          "acme/m@1": [TestProvider.stall()],
          "*": [answer("1 seconds")]
        })),
        Random.withSeed(7),
        Effect.provideService(References.MinimumLogLevel, "None")
      ))
  }

  it.effect("ordered: at most 20 calls are sent to it as long as others have to help", () =>
    Effect.gen(function*() {
      yield* joined(yield* offer(20, 20))
      assert.isAtMost((yield* callCounts)["acme/m@1"] ?? 0, 20)
    }).pipe(
      Effect.provide(withRouter({ targets: keys(6, { requests: { limit: 5, per: "1 second" } }) }, {
        "acme/m@1": [TestProvider.stall()],
        "*": [answer("1 seconds")]
      })),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))

  it.effect("under twice the load, calls queue for the others rather than join those that wait for it", () =>
    Effect.gen(function*() {
      const fibers = yield* offer(40, 30)
      yield* TestClock.adjust("2 minutes")
      const exits = yield* Effect.forEach(fibers, Fiber.await)
      const counts = yield* callCounts
      // Five at once and five a second, until the others have overtaken it.
      assert.isAtMost(counts["acme/m@1"] ?? 0, 30)
      const answered = exits.filter((_) => _._tag === "Success").length
      // Four keys with five a second each, for 30 s and what may wait after that.
      assert.isAtLeast(answered, 0.99 * 4 * 5 * 30)
    }).pipe(
      Effect.provide(withRouter({ targets: keys(5, { requests: { limit: 5, per: "1 second" } }) }, {
        "acme/m@1": [TestProvider.stall()],
        "*": [answer("1 seconds")]
      })),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))

  it.effect("it is asked again once anything comes back from it", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      yield* joined(yield* offer(20, 5))
      const before = (yield* callCounts)["acme/m@1"] ?? 0
      yield* provider.script("acme/m@1", [answer("1 seconds")])
      const completions = yield* joined(yield* offer(20, 5))
      assert.isAtLeast(completions.filter((_) => _.target === "acme/m@1").length, 15)
      assert.isAtMost(before, 15)
    }).pipe(
      Effect.provide(withRouter(
        { targets: keys(5), strategy: Selection.leastBusy, timeouts: { attempt: "30 seconds" } },
        { "acme/m@1": [TestProvider.stall()], "*": [answer("1 seconds")] },
        { circuit: { disabled: true } }
      )),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))

  for (const streamPolicy of ["fail", "buffer"] as const) {
    it.effect(`streams (${streamPolicy}) leave it as whole answers do`, () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        const fibers: Array<Fiber.Fiber<void, unknown>> = []
        for (let n = 0; n < 400; n++) {
          const stream = llm.stream({ prompt: "hi", deadline: "1 minute", streamPolicy })
          fibers.push(yield* Effect.forkChild(Stream.runDrain(stream), { startImmediately: true }))
          yield* TestClock.adjust(50)
        }
        yield* TestClock.adjust("2 minutes")
        yield* Fiber.joinAll(fibers)
        assert.isAtMost((yield* callCounts)["acme/m@1"] ?? 0, 15)
      }).pipe(
        Effect.provide(withRouter({ targets: keys(5), strategy: Selection.leastBusy }, {
          "acme/m@1": [TestProvider.stall()],
          "*": [answer("1 seconds")]
        })),
        Effect.provideService(References.MinimumLogLevel, "None")
      ))
  }
})

describe("a model that begins to hang", () => {
  it.effect("another one takes over long before the first timeout, and only until it answers again", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      yield* joined(yield* offer(10, 5))
      yield* provider.script("acme/m", [TestProvider.stall()])
      const during = yield* offer(10, 30)
      const sent = ((yield* callCounts)["acme/m"] ?? 0) - 50
      // A dozen, and what comes until the last of them has waited for five seconds.
      assert.isAtMost(sent, 12 + 50 + 1)
      yield* provider.script("acme/m", [answer("1 seconds")])
      const [first] = yield* joined(during)
      assert.strictEqual(first?.target, "other/n")
      // Its circuit has opened by now; the first calls after that are its probes.
      yield* TestClock.adjust("1 minute")
      yield* joined(yield* offer(1, 5))
      const after = yield* joined(yield* offer(10, 5))
      assert.isTrue(after.every((_) => _.target === "acme/m"))
    }).pipe(
      Effect.provide(withRouter(
        { targets: [target("acme/m"), target("other/n")] },
        { "*": [answer("1 seconds")] }
      )),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))
})

describe("targets that take their time", () => {
  it.effect("the only one is sent all there is, however long it takes", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      yield* joined(yield* offer(10, 5))
      yield* provider.script("acme/m", [answer("50 seconds")])
      const fibers = yield* offer(10, 20)
      assert.strictEqual((yield* callCounts)["acme/m"], 250)
      assert.strictEqual((yield* joined(fibers)).length, 200)
    }).pipe(Effect.provide(withRouter({ targets: [target("acme/m")] }, { "*": [answer("1 seconds")] }))))

  it.effect("200 calls at once are all sent at once to keys that nothing is known of", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      yield* concurrently(200, complete())
      yield* Effect.repeat(Effect.yieldNow, { times: 20 })
      assert.strictEqual((yield* provider.calls).length, 200)
    }).pipe(Effect.provide(withRouter({ targets: keys(4), strategy: Selection.leastBusy }, {
      "*": [answer("20 seconds")]
    }))))

  it.effect("a key that takes three times as long as the others keeps its share", () =>
    Effect.gen(function*() {
      const completions = yield* joined(yield* offer(20, 60))
      const slow = completions.filter((_) => _.target === "acme/m@1").length
      assert.isAtLeast(slow, 0.9 * completions.length / 5)
    }).pipe(
      Effect.provide(withRouter({ targets: keys(5), strategy: Selection.weighted }, {
        "acme/m@1": [answer("3 seconds")],
        "*": [answer("1 seconds")]
      })),
      Random.withSeed(3)
    ))
})
