import { assert, describe, it } from "@effect/vitest"
import {
  Cooldown,
  Health,
  LLMError,
  type LLMService,
  Provider,
  Resilience,
  Router,
  Selection,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Random, Schedule, Schema, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { broken, callCounts, calledTargets, complete, concurrently, limited, perMinute, streamParts, target } = Calls
const { underTime, withRouter } = Calls

const keys = (count: number, options: Parameters<typeof target>[1] = {}) =>
  Array.from({ length: count }, (_, n) => target(`acme/m@${n + 1}`, options))

const ok = TestProvider.reply("ok")
const slow = TestProvider.reply("ok", { delay: "1 second" })

/** One attempt a call, and no circuit: what is seen is the strategy alone. */
const alone: Pick<Router.Options, "retry" | "maxAttempts"> = { retry: Schedule.recurs(0), maxAttempts: 1 }
const noCircuit: Resilience.MemoryOptions = { circuit: { disabled: true } }

/** A strategy that tells how many attempts were in flight whenever it was asked. */
const watching = (inner: Selection.Strategy, seen: Array<ReadonlyArray<number>>): Selection.Strategy => ({
  ...inner,
  pick: (snapshot, from, to, random) => {
    seen.push(Array.from(snapshot.pending))
    return inner.pick(snapshot, from, to, random)
  }
})

const times = (count: number, effect: ReturnType<typeof complete>) =>
  Effect.map(
    Effect.forEach(Array.from({ length: count }), () => effect),
    (completions) => completions.map((_) => _.target)
  )

describe("Router strategies", () => {
  it.effect("the healthiest key is asked first, and one that failed again when the others are not free", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const first = yield* complete()
      assert.deepStrictEqual(first.attempts.map((_) => [_.target, _.chosen, _.strategy]), [
        ["acme/m@1", "first", "healthiest"],
        ["acme/m@2", "next", "healthiest"]
      ])
      assert.deepStrictEqual(yield* times(3, complete()), ["acme/m@2", "acme/m@2", "acme/m@2"])
      yield* provider.script("acme/m@1", [ok])
      yield* provider.script("acme/m@2", [limited("1 minute", { scope: "key" }), ok])
      assert.deepStrictEqual(yield* times(3, complete()), ["acme/m@1", "acme/m@1", "acme/m@1"])
      yield* TestClock.adjust("61 seconds")
      assert.strictEqual((yield* complete()).target, "acme/m@2")
    }).pipe(
      Effect.provide(withRouter({ targets: keys(2), strategy: Selection.healthiest, retry: Schedule.recurs(0) }, {
        "acme/m@1": [broken()],
        "acme/m@2": [ok]
      }, noCircuit))
    ))

  for (const [strategy, most] of [[Selection.leastBusy, 3], [Selection.powerOfTwo, 5]] as const) {
    it.effect(`${strategy.name} spreads concurrent calls over the keys by their attempts in flight`, () =>
      Effect.gen(function*() {
        const fibers = yield* concurrently(12, complete())
        yield* TestClock.adjust("1 second")
        yield* Effect.forEach(fibers, Fiber.join)
        const counts = Object.values(yield* callCounts)
        assert.isTrue(counts.length === 4 && Math.max(...counts) <= most, counts.join(" "))
      }).pipe(
        Random.withSeed("spread"),
        Effect.provide(withRouter({ targets: keys(4), strategy }, { "*": [slow] }))
      ))
  }

  it.effect("leastBusy goes by weight, and takes what has none only when nothing else is free", () =>
    Effect.gen(function*() {
      const fibers = yield* concurrently(12, complete())
      yield* TestClock.adjust("1 second")
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(yield* callCounts, { "acme/large": 9, "acme/small": 3 })
      const cooldown = yield* Cooldown.Cooldown
      for (const name of ["large", "small"]) yield* cooldown.start(`target:acme/${name}`, "1 minute", "rate_limit")
      assert.strictEqual((yield* underTime(complete(), "2 seconds")).target, "acme/reserve")
    }).pipe(
      Random.withSeed("weights"),
      Effect.provide(withRouter({
        targets: [
          target("acme/reserve", { weight: 0 }),
          target("acme/large", { weight: 3 }),
          target("acme/small", { weight: 1 })
        ],
        strategy: Selection.leastBusy
      }, { "*": [slow] }))
    ))

  describe("attempts in flight", () => {
    const ends: ReadonlyArray<
      readonly [string, TestProvider.Step, Effect.Effect<unknown, unknown, LLMService.LLMService | Router.Router>]
    > = [
      ["an answer", slow, complete()],
      ["a failure", broken({}, { delay: "1 second" }), complete()],
      ["a timeout", TestProvider.stall(), complete()],
      ["a deadline", TestProvider.stall(), complete({ deadline: "1 second" })],
      ["an interruption", TestProvider.stall(), Effect.timeout(complete(), "1 second")],
      ["the end of a stream", TestProvider.reply(["a", "b"], { delay: "1 second" }), Stream.runDrain(streamParts())],
      ["a stream that breaks", TestProvider.cut(["a"], { delay: "1 second" }), Stream.runDrain(streamParts())],
      ["a stream that stalls", TestProvider.stall(["a"], { delay: "1 second" }), Stream.runDrain(streamParts())],
      [
        "a stream that is left",
        TestProvider.reply(["a", "b", "c"], { delay: "1 second", gap: "1 second" }),
        Stream.runDrain(Stream.take(streamParts(), 3))
      ],
      [
        "a stream that is interrupted",
        TestProvider.stall(["a"]),
        Effect.timeout(Stream.runDrain(streamParts()), "1 second")
      ],
      ["a defect", ok, Router.execute(() => Effect.andThen(Effect.sleep("1 second"), Effect.die("broken")))]
    ]
    for (const [name, step, call] of ends) {
      it.effect(`are counted up, and down again after ${name}`, () => {
        const seen: Array<ReadonlyArray<number>> = []
        return Effect.gen(function*() {
          const fibers = yield* concurrently(3, Effect.exit(call))
          assert.deepStrictEqual(seen, [[0], [1], [2]])
          yield* TestClock.adjust("10 seconds")
          yield* Effect.forEach(fibers, Fiber.join)
          yield* concurrently(1, call)
          assert.deepStrictEqual(seen[3], [0])
        }).pipe(Effect.provide(withRouter(
          {
            ...alone,
            targets: keys(1),
            timeouts: { attempt: "5 seconds", firstToken: "5 seconds", idle: "5 seconds" },
            strategy: watching(Selection.leastBusy, seen),
            recovery: { classes: { timeout: { cooldown: 0 } } }
          },
          { "*": [step] },
          noCircuit
        )))
      })
    }

    it.effect("move with a call from one target to the next, and do not stay while it waits", () => {
      const seen: Array<ReadonlyArray<number>> = []
      return Effect.gen(function*() {
        yield* underTime(complete(), "10 seconds")
        // In a backoff nothing is in flight.
        assert.deepStrictEqual(seen, [[0, 0], [0, 0]])
        yield* concurrently(1, complete())
        yield* concurrently(1, complete())
        assert.deepStrictEqual(seen.slice(2), [[0, 0], [0, 1]])
      }).pipe(Effect.provide(withRouter({
        targets: keys(2),
        strategy: watching(Selection.ordered, seen),
        retry: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 })),
        recovery: { classes: { server_error: { cooldown: "1 hour" } } }
      }, { "acme/m@1": [broken()], "acme/m@2": [ok, TestProvider.stall()] })))
    })
  })

  it.effect("weighted draws by weight, the same ones for the same seed", () =>
    Effect.gen(function*() {
      const drawn = yield* times(400, complete())
      const counts = yield* callCounts
      assert.isUndefined(counts["acme/none"])
      assert.isTrue(Math.abs((counts["acme/large"] ?? 0) - 300) < 30, JSON.stringify(counts))
      const again = Random.withSeed(times(50, complete()), "again")
      assert.deepStrictEqual(yield* again, yield* again)
      assert.notDeepEqual(drawn.slice(0, 50), yield* again)
    }).pipe(
      Random.withSeed("weights"),
      Effect.provide(withRouter({
        targets: [
          target("acme/none", { weight: 0 }),
          target("acme/large", { weight: 3 }),
          target("acme/small", { weight: 1 })
        ],
        strategy: Selection.weighted
      }, { "*": [ok] }))
    ))

  it.effect("cheapest goes by what the call is expected to cost: by its input, and by its output", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* complete({ prompt: "x".repeat(40_000), maxTokens: 100 })).target, "acme/reads")
      assert.strictEqual((yield* complete({ maxTokens: 1000 })).target, "acme/writes")
      assert.deepStrictEqual(
        yield* Router.execute(({ model }) => Effect.succeed(model), { tokens: { input: 10_000, output: 1 } }),
        "reads"
      )
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("target:acme/writes", "1 minute", "rate_limit")
      assert.strictEqual((yield* complete({ maxTokens: 1000 })).target, "acme/reads")
      yield* cooldown.start("target:acme/reads", "1 minute", "rate_limit")
      assert.strictEqual((yield* complete()).target, "acme/unknown")
    }).pipe(Effect.provide(withRouter({
      targets: [
        target("acme/unknown"),
        target("acme/writes", { price: { input: 10, output: 1 } }),
        target("acme/reads", { price: { input: 1, output: 10 } })
      ],
      strategy: Selection.cheapest
    }, { "*": [ok] }))))

  it.effect("mostHeadroom goes where the tightest limit has most left", () =>
    Effect.gen(function*() {
      yield* times(6, complete())
      assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 4, "acme/m@2": 2 })
    }).pipe(Effect.provide(withRouter({
      targets: [
        target("acme/m@1", { limits: { requests: perMinute(20) } }),
        target("acme/m@2", { limits: { requests: perMinute(10), tokens: perMinute(1_000_000) } })
      ],
      strategy: Selection.mostHeadroom
    }, { "*": [ok] }))))

  it.effect("mostHeadroom sees limits that targets share", () =>
    Effect.gen(function*() {
      yield* times(2, complete({ tags: ["second"] }))
      assert.strictEqual((yield* complete()).target, "other/m")
      assert.strictEqual((yield* complete()).target, "acme/first")
    }).pipe(Effect.provide(withRouter({
      targets: [
        target("acme/first"),
        target("acme/second", { tags: ["second"] }),
        target("other/m", { limits: { requests: perMinute(3) } })
      ],
      limits: { providers: { acme: { requests: perMinute(10) } } },
      strategy: Selection.mostHeadroom
    }, { "*": [ok] }))))

  it.effect("lowestLatency asks each target once, and then the fastest; a stream's time is that to its first content", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      for (let n = 0; n < 5; n++) asked.push((yield* underTime(complete(), "3 seconds")).target)
      assert.deepStrictEqual(asked, ["acme/m@1", "acme/m@2", "acme/m@3", "acme/m@2", "acme/m@2"])
      const provider = yield* TestProvider.TestProvider
      yield* provider.script("acme/m@2", [
        TestProvider.reply(["a", "b"], { delay: "100 millis", gap: "20 seconds" })
      ])
      for (let n = 0; n < 2; n++) yield* underTime(Stream.runDrain(streamParts()), "30 seconds", "1 second")
      assert.deepStrictEqual((yield* calledTargets).slice(5), ["acme/m@2", "acme/m@2"])
    }).pipe(
      Effect.provide(withRouter({ targets: keys(3), strategy: Selection.lowestLatency }, {
        "acme/m@1": [TestProvider.reply("ok", { delay: "2 seconds" })],
        "acme/m@2": [TestProvider.reply("ok", { delay: "200 millis" })],
        "acme/m@3": [TestProvider.reply("ok", { delay: "1 second" })]
      }))
    ))

  it.effect("a target that has never answered is asked by one of many calls at once, not by all", () =>
    Effect.gen(function*() {
      const fibers = yield* concurrently(6, complete())
      assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 3, "acme/m@2": 3 })
      yield* Effect.forEach(fibers, Fiber.interrupt)
    }).pipe(
      Effect.provide(withRouter({ targets: keys(2), strategy: Selection.lowestLatency }, {
        "*": [TestProvider.stall()]
      }))
    ))

  it.effect("score weighs health against price", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      assert.strictEqual((yield* complete()).target, "acme/cheap")
      yield* provider.script("acme/cheap", [broken()])
      for (let n = 0; n < 8; n++) yield* Effect.exit(complete())
      yield* provider.script("acme/cheap", [ok])
      const completion = yield* complete()
      assert.deepStrictEqual([completion.target, completion.attempts[0]?.strategy], ["acme/dear", "score"])
    }).pipe(Effect.provide(withRouter(
      {
        ...alone,
        targets: [
          target("acme/dear", { price: { input: 4, output: 4 } }),
          target("acme/cheap", { price: { input: 1, output: 1 } })
        ],
        strategy: Selection.score()
      },
      { "*": [ok] },
      noCircuit
    ))))

  describe("tiers", () => {
    const tiered = [
      target("acme/m@2", { order: 1 }),
      target("reserve/a", { order: 2, price: { input: 9, output: 9 } }),
      target("reserve/b", { order: 2, price: { input: 1, output: 1 } }),
      target("acme/m@1", { order: 1 })
    ]

    it.effect("a higher order is not asked while anything of a lower one is free, whatever the strategy", () =>
      Effect.gen(function*() {
        const fibers = yield* concurrently(8, complete())
        assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 4, "acme/m@2": 4 })
        const cooldown = yield* Cooldown.Cooldown
        yield* cooldown.start("key:acme@1", "1 minute", "invalid_key")
        yield* concurrently(2, complete())
        assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 4, "acme/m@2": 6 })
        yield* cooldown.start("key:acme@2", "1 minute", "invalid_key")
        yield* concurrently(2, complete())
        assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 4, "acme/m@2": 6, "reserve/a": 1, "reserve/b": 1 })
        yield* Effect.forEach(fibers, Fiber.interrupt)
        const provider = yield* TestProvider.TestProvider
        yield* provider.script("*", [ok])
        yield* TestClock.adjust("1 minute")
        assert.include((yield* complete()).target, "acme")
      }).pipe(
        Random.withSeed("tiers"),
        Effect.provide(withRouter({ targets: tiered, strategy: Selection.leastBusy }, { "*": [TestProvider.stall()] }))
      ))

    it.effect("an order whose limits are used up gives way to the next one, call by call", () =>
      Effect.gen(function*() {
        yield* concurrently(5, complete())
        assert.deepStrictEqual(yield* callCounts, { "acme/m@1": 1, "acme/m@2": 1, "reserve/b": 3 })
      }).pipe(Effect.provide(withRouter({
        targets: tiered.map((one) => one.order === 1 ? target(one.id, { order: 1, limits: { concurrency: 1 } }) : one),
        strategy: (order) => order === 1 ? Selection.leastBusy : Selection.cheapest
      }, { "*": [TestProvider.stall()] }))))

    it.effect("each order may have a strategy of its own", () =>
      Effect.gen(function*() {
        const orders: Array<number> = []
        const live = withRouter({
          targets: tiered,
          strategy: (order) => {
            orders.push(order)
            return order === 1 ? Selection.leastBusy : Selection.cheapest
          }
        }, { "acme/m@1": [limited("1 hour")], "acme/m@2": [limited("1 hour")], "*": [ok] })
        yield* Effect.gen(function*() {
          const completion = yield* complete()
          assert.strictEqual(completion.target, "reserve/b")
          assert.deepStrictEqual(completion.attempts.map((_) => _.strategy), ["tiers", "tiers", "tiers"])
          yield* times(3, complete())
          assert.deepStrictEqual(orders, [1, 2])
        }).pipe(Effect.provide(live))
      }))
  })

  describe("of one's own", () => {
    it.effect("byScore chooses by any figure of a candidate", () =>
      Effect.gen(function*() {
        const completion = yield* complete()
        assert.deepStrictEqual([completion.target, completion.attempts[0]?.strategy], ["acme/eu", "local"])
      }).pipe(Effect.provide(withRouter({
        targets: [target("acme/us", { tags: { region: "us" } }), target("acme/eu", { tags: { region: "eu" } })],
        strategy: Selection.byScore("local", (candidate) => candidate.target.tags.has("region:eu") ? 1 : 0)
      }, { "*": [ok] }))))

    it.effect("a choice of what is not free, or of nothing at all, becomes the first that is free", () =>
      Effect.gen(function*() {
        const cooldown = yield* Cooldown.Cooldown
        yield* cooldown.start("target:acme/m@1", "1 hour", "rate_limit")
        assert.deepStrictEqual(yield* times(4, complete()), ["acme/m@2", "acme/m@2", "acme/m@2", "acme/m@2"])
      }).pipe(Effect.provide(withRouter({
        targets: keys(2),
        strategy: Selection.make({
          name: "wrong",
          pick: (_, __, ___, random) => [0, -1, 17, 0.5][random() * 4 | 0] ?? 0
        })
      }, { "*": [ok] }))))
  })

  describe("affinity", () => {
    const sessions = Array.from({ length: 12 }, (_, n) => `session-${n}`)
    const askedBy = (affinity: string) => Effect.map(complete({ affinity }), (_) => _.target)

    it.effect("keeps the calls of a session on one target, and spreads the sessions", () =>
      Effect.gen(function*() {
        const first = yield* Effect.forEach(sessions, askedBy)
        assert.isAtLeast(new Set(first).size, 3)
        for (let round = 0; round < 3; round++) {
          assert.deepStrictEqual(yield* Effect.forEach(sessions, askedBy), first)
        }
        assert.isAtLeast(new Set(yield* times(40, complete())).size, 3, "calls without one are balanced")
      }).pipe(
        Random.withSeed("affinity"),
        Effect.provide(withRouter({ targets: keys(4), strategy: Selection.powerOfTwo }, { "*": [ok] }))
      ))

    it.effect("does not wait for what other calls are in flight there", () =>
      Effect.gen(function*() {
        yield* concurrently(5, complete({ affinity: "one" }))
        assert.strictEqual(Object.keys(yield* callCounts).length, 1)
      }).pipe(
        Effect.provide(withRouter({ targets: keys(4), strategy: Selection.leastBusy }, { "*": [TestProvider.stall()] }))
      ))

    it.effect("moves while its target cools, alone, and returns", () =>
      Effect.gen(function*() {
        const before = yield* Effect.forEach(sessions, askedBy)
        const [home = ""] = before
        const cooldown = yield* Cooldown.Cooldown
        yield* cooldown.start(`target:${home}`, "1 minute", "rate_limit")
        const during = yield* Effect.forEach(sessions, askedBy)
        assert.notInclude(during, home)
        assert.deepStrictEqual(
          during.filter((_, index) => before[index] !== home),
          before.filter((name) => name !== home)
        )
        assert.deepStrictEqual(yield* Effect.forEach(sessions, askedBy), during)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* Effect.forEach(sessions, askedBy), before)
      }).pipe(Effect.provide(withRouter({ targets: keys(4), strategy: Selection.leastBusy }, { "*": [ok] }))))

    it.effect("never blocks failover, and lives within an order", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const home = yield* askedBy("one")
        const other = home === "acme/m@1" ? "acme/m@2" : "acme/m@1"
        yield* provider.script(home, [TestProvider.fail("authentication", { reason: "invalid_key", scope: "key" })])
        assert.strictEqual(yield* askedBy("one"), other)
        yield* provider.script(other, [TestProvider.fail("authentication", { reason: "invalid_key", scope: "key" })])
        assert.strictEqual(yield* askedBy("one"), "reserve/m")
      }).pipe(Effect.provide(withRouter({
        targets: [...keys(2), target("reserve/m", { order: 1 })],
        strategy: Selection.leastBusy
      }, { "*": [ok] }))))

    it.effect("changes nothing where targets are taken in their order", () =>
      Effect.gen(function*() {
        const asked = yield* Effect.forEach(sessions, askedBy)
        assert.deepStrictEqual(new Set(asked), new Set(["acme/m@1"]))
      }).pipe(Effect.provide(withRouter({ targets: keys(4) }, { "*": [ok] }))))

    const shared = "You are a helpful assistant. ".repeat(60)
    const prompts = Array.from({ length: 8 }, (_, n) => `${shared}\nQuestion ${n}`)
    const byPrompt = (prompt: string) => Effect.map(complete({ prompt }), (_) => _.target)

    it.effect("prefix: the beginning of the prompt stands for it, unless the request brings its own", () =>
      Effect.gen(function*() {
        assert.strictEqual(new Set(yield* Effect.forEach(prompts, byPrompt)).size, 1)
        const others = yield* Effect.forEach(prompts, (prompt, n) => byPrompt(`Assistant ${n}. ${prompt}`))
        assert.isAtLeast(new Set(others).size, 2)
        const own = yield* Effect.forEach(sessions, (affinity) => complete({ affinity, prompt: prompts[0] ?? "" }))
        assert.isAtLeast(new Set(own.map((_) => _.target)).size, 2)
      }).pipe(
        Effect.provide(withRouter({ targets: keys(4), strategy: Selection.leastBusy, affinity: "prefix" }, {
          "*": [ok]
        }))
      ))

    it.effect("prefix: system messages count, and without it prompts decide nothing", () =>
      Effect.gen(function*() {
        const prompt = (question: string) => [
          { role: "system" as const, content: shared },
          { role: "user" as const, content: question }
        ]
        const targets = keys(4)
        const strategy = Selection.leastBusy
        const asked = Effect.forEach(prompts, (_, n) => complete({ prompt: prompt(`Question ${n}`) }))
        for (const [affinity, at] of [["prefix", 1], ["request", 3]] as const) {
          const live = withRouter({ targets, strategy, affinity }, { "*": [ok] })
          const completions = yield* asked.pipe(Effect.provide(live), Random.withSeed("prefix"))
          const count = new Set(completions.map((_) => _.target)).size
          assert.isTrue(affinity === "prefix" ? count === at : count >= at, `${affinity}: ${count}`)
        }
      }))

    const briefly = [limited("2 seconds", { scope: "key" }), ok]
    for (const strategy of [Selection.ordered, Selection.leastBusy]) {
      it.effect(`a short stated wait is waited for with an affinity, and without one another key is asked (${strategy.name})`, () =>
        Effect.gen(function*() {
          const provider = yield* TestProvider.TestProvider
          const stays = yield* underTime(complete({ affinity: "one" }), "5 seconds")
          assert.deepStrictEqual(stays.attempts.map((_) => [_.target, _.chosen]), [
            [stays.target, "first"],
            [stays.target, "retry"]
          ])
          assert.isAtLeast(stays.timings.waitedMs, 2000)
          yield* provider.script("*", briefly)
          const moves = yield* complete()
          assert.deepStrictEqual(moves.attempts.map((_) => _.chosen), ["first", "next"])
          assert.strictEqual(new Set(moves.attempts.map((_) => _.target)).size, 2)
        }).pipe(Effect.provide(withRouter({ targets: keys(2), strategy }, { "*": briefly }))))
    }

    it.effect("a stated wait beyond the patience is not waited for, affinity or not", () =>
      Effect.gen(function*() {
        const completion = yield* complete({ affinity: "one" })
        assert.deepStrictEqual(completion.attempts.map((_) => _.target), ["acme/m@1", "acme/m@2"])
      }).pipe(Effect.provide(withRouter({ targets: keys(2) }, {
        "acme/m@1": [limited("4 seconds", { scope: "key" })],
        "acme/m@2": [ok]
      }))))
  })

  describe("pools of more than 32", () => {
    it.effect("are read as a whole before the first choice", () =>
      Effect.gen(function*() {
        const health = yield* Health.Health
        yield* Effect.repeat(health.record("target:acme/m@77", Health.success({ durationMs: 10 })), { times: 9 })
        assert.strictEqual((yield* complete()).target, "acme/m@77")
      }).pipe(Effect.provide(withRouter({ targets: keys(120), strategy: Selection.healthiest }, { "*": [ok] }))))

    it.effect("a failure is seen at the next choice", () =>
      Effect.gen(function*() {
        for (let n = 0; n < 120; n++) yield* Effect.exit(complete())
        assert.strictEqual(new Set(yield* calledTargets).size, 120)
      }).pipe(
        Effect.provide(withRouter({ ...alone, targets: keys(120), strategy: Selection.healthiest }, {
          "*": [broken()]
        }, noCircuit))
      ))

    it.effect("a success and its time are seen at the next choice", () =>
      Effect.gen(function*() {
        for (let n = 0; n < 120; n++) yield* underTime(complete(), "1 second", "5 millis")
        assert.strictEqual(new Set(yield* calledTargets).size, 120)
        assert.strictEqual((yield* underTime(complete(), "1 second", "5 millis")).target, "acme/m@35")
      }).pipe(
        Effect.provide(withRouter({ targets: keys(120), strategy: Selection.lowestLatency }, {
          "*": [TestProvider.reply("ok", { delay: "40 millis" })],
          "acme/m@35": [TestProvider.reply("ok", { delay: "5 millis" })]
        }))
      ))

    it.effect("what an attempt has taken of a limit is seen at the next choice", () =>
      Effect.gen(function*() {
        yield* times(120, complete())
        assert.strictEqual(new Set(yield* calledTargets).size, 120)
      }).pipe(Effect.provide(withRouter({
        targets: keys(120, { limits: { requests: perMinute(10) } }),
        strategy: Selection.mostHeadroom
      }, { "*": [ok] }))))

    it.effect("what nothing happens to is read again in turn: a key recovers by time", () =>
      Effect.gen(function*() {
        const health = yield* Health.Health
        for (let n = 0; n < 8; n++) yield* Effect.exit(complete({ tags: ["failing"] }))
        yield* times(3, complete())
        const before = yield* health.score("target:acme/m@1")
        assert.isBelow(before, 60)
        yield* TestClock.adjust("3 hours")
        // Two readings of a part are enough for all.
        yield* times(2, complete({ tags: ["other"] }))
        assert.strictEqual((yield* complete()).target, "acme/m@1")
      }).pipe(Effect.provide(withRouter({
        ...alone,
        targets: keys(40).map((one, n) => target(one.id, { tags: n === 0 ? ["failing"] : ["other"] })),
        strategy: Selection.byScore("healthy or first", ({ health, target }) =>
          (health > 80 ? 1 : 0) + (target.id === "acme/m@1" ? 1 : 0))
      }, {
        "*": [ok],
        "acme/m@1": [
          ...Array.from({ length: 8 }, () =>
            broken()),
          ok
        ]
      }, noCircuit))))
  })
})

describe("Router walks", () => {
  const reasons: Readonly<Record<LLMError.ErrorClass, ReadonlyArray<LLMError.Reason>>> = {
    transient_network: ["conn_reset", "dns"],
    rate_limit: ["rate_limit", "insufficient_quota", "daily_quota"],
    timeout: ["gateway_timeout", "attempt"],
    server_error: ["overloaded", "internal_error"],
    authentication: ["invalid_key", "permission_denied"],
    permanent: ["model_not_found", "context_length_exceeded", "content_filter", "invalid_request"],
    unknown: ["unknown"]
  }

  const scopes: ReadonlyArray<LLMError.Scope> = ["target", "model", "key", "group", "provider"]

  const oneOf = <A>(values: ReadonlyArray<A>): Effect.Effect<A> =>
    Effect.flatMap(Random.nextIntBetween(0, values.length - 1), (index) => Effect.fromNullishOr(values[index])).pipe(
      Effect.orDie
    )

  const randomError = Effect.gen(function*() {
    const errorClass = yield* oneOf(LLMError.ErrorClass.literals)
    return LLMError.make(errorClass, {
      provider: "any",
      reason: yield* oneOf(reasons[errorClass]),
      scope: yield* oneOf(scopes),
      maybeBilled: yield* Random.nextBoolean,
      retryAfter: (yield* Random.nextBoolean) ? Duration.millis(yield* Random.nextIntBetween(1, 20_000)) : undefined
    })
  })

  /** Answers and fails by chance, and notes every attempt at a target that must not be asked. */
  const judging = (violations: Array<string>) =>
    Layer.effect(
      Provider.Provider,
      Effect.map(Cooldown.Cooldown, (cooldown) => {
        const adapter: Provider.Adapter = {
          stream: () => Stream.die("not asked"),
          complete: Effect.fnUntraced(function*(target, request) {
            const [entry] = yield* cooldown.latest([Target.scopeKeys(target)])
            if (entry !== undefined) violations.push(`${target.id} is cooling until ${entry.until}`)
            for (const tag of Target.tagsOf(request.tags)) {
              if (!target.tags.has(tag)) violations.push(`${target.id} is not ${tag}`)
            }
            if (request.tools !== undefined && target.capabilities.tools === false) violations.push("tools")
            yield* Effect.sleep(yield* oneOf([0, 10, 700, 9000, 90_000]))
            if (yield* Effect.map(Random.next, (_) => _ < 0.7)) return yield* yield* randomError
            return {
              content: [],
              usage: new Response.Usage({
                inputTokens: { total: 1, uncached: 1, cacheRead: 0, cacheWrite: 0 },
                outputTokens: { total: 1, text: 1, reasoning: 0 }
              }),
              finishReason: "stop",
              model: target.model,
              requestId: undefined
            }
          })
        }
        return Provider.Provider.of({ adapter: () => adapter, names: ["any"] })
      })
    )

  const strategies: ReadonlyArray<Router.Options["strategy"]> = [
    undefined,
    Selection.healthiest,
    Selection.mostHeadroom,
    Selection.lowestLatency,
    Selection.lowestLatencyPerToken,
    Selection.cheapest,
    Selection.weighted,
    Selection.leastBusy,
    Selection.powerOfTwo,
    Selection.score(),
    Selection.sticky(Selection.leastBusy, { minHealth: 50 }),
    (order) => order === 0 ? Selection.powerOfTwo : Selection.cheapest,
    Selection.byScore("chance", ({ health, pending }) => health - pending),
    Selection.make({ name: "wild", pick: (_, from, to, random) => from + Math.floor(random() * (to - from + 2)) - 1 })
  ]

  const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

  it.effect.prop(
    "whatever the strategy and the failures: only what is fit and free is asked, within the attempts and the time (T39)",
    {
      seed: between(0, 1_000_000),
      strategy: between(0, strategies.length - 1),
      count: between(1, 40),
      maxAttempts: between(1, 12),
      deadlineMs: between(1, 120_000),
      calls: between(1, 6),
      affinity: Schema.NullOr(Schema.Literals(["one", "two"])),
      tagged: Schema.Boolean,
      concurrency: Schema.NullOr(between(1, 3))
    },
    ({ affinity, calls, concurrency, count, deadlineMs, maxAttempts, seed, strategy, tagged }) => {
      const violations: Array<string> = []
      const targets = Array.from({ length: count }, (_, n) =>
        target(`${"ab"[n % 2]}/m${n % 3}@k${n}`, {
          order: n % 5 === 4 ? 1 : 0,
          weight: n % 4,
          tags: n % 2 === 0 ? ["even"] : [],
          ...(n % 3 === 0 ? { group: "g" } : undefined),
          ...(n % 3 === 1 ? { price: { input: n, output: 1 } } : undefined),
          ...(concurrency === null ? undefined : { limits: { concurrency, requests: perMinute(5) } })
        }))
      const live = Router.layer({ targets, strategy: strategies[strategy], maxAttempts }).pipe(
        Layer.provide(judging(violations)),
        Layer.provideMerge(Resilience.layerMemory())
      )
      const call = Effect.gen(function*() {
        const startedAt = yield* Clock.currentTimeMillis
        const exit = yield* Effect.exit(complete({
          deadline: deadlineMs,
          ...(affinity === null ? undefined : { affinity }),
          ...(tagged ? { tags: ["even"] } : undefined)
        }))
        const error = Exit.findErrorOption(exit)
        const attempts = Exit.isSuccess(exit) ? exit.value.attempts : error._tag === "Some" ? error.value.attempts : []
        assert.isTrue(Exit.isSuccess(exit) || error._tag === "Some", "a call ends in an answer or one of the seven")
        assert.isAtMost(attempts.length, maxAttempts)
        assert.isAtMost((yield* Clock.currentTimeMillis) - startedAt, deadlineMs + 1)
      })
      return Effect.gen(function*() {
        for (let round = 0; round < 3; round++) {
          const fibers = yield* concurrently(calls, call)
          yield* TestClock.adjust(deadlineMs + 1)
          for (const fiber of fibers) {
            assert.isDefined(fiber.pollUnsafe(), "a call ends by its deadline")
            yield* Fiber.join(fiber)
          }
        }
        assert.deepStrictEqual(violations, [])
      }).pipe(Effect.provide(live), Random.withSeed(seed))
    }
  )
})
