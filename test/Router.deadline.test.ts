import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Cooldown, Health, type Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Duration, Effect, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { calledTargets, complete, limited, streamParts, target, underTime, withRouter } = Calls

const ok = TestProvider.reply("ok")
const pool = (count: number) => Array.from({ length: count }, (_, n) => target(`p${n}/m`))
const retry = Schedule.recurs(0)
const neverCools: Router.Options["recovery"] = { classes: { timeout: { cooldown: 0 } } }

/** What an effect ends with, and after how long. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const startedAt = yield* Clock.currentTimeMillis
    const value = yield* effect
    return [value, (yield* Clock.currentTimeMillis) - startedAt] as const
  })

const startsOf = Effect.flatMap(
  TestProvider.TestProvider,
  (provider) => Effect.map(provider.calls, (calls) => calls.map((call) => [call.target, call.at]))
)

describe("Router deadline", () => {
  for (const [count, deadline] of [[2, 1000], [3, 4000], [10, 10_000], [25, 5000]] as const) {
    it.effect(`each of ${count} hanging targets gets a start within ${deadline} ms, and the call ends then (T31)`, () =>
      Effect.gen(function*() {
        for (const call of [complete({ deadline }), Stream.runDrain(streamParts({ deadline }))]) {
          const before = (yield* calledTargets).length
          const [error, took] = yield* underTime(timed(Effect.flip(call)), deadline + 10, "10 millis")
          assert.deepStrictEqual([error._tag, error.reason, error.origin], ["TimeoutError", "deadline", "deadline"])
          assert.strictEqual(new Set((yield* calledTargets).slice(before)).size, count)
          assert.isAtMost(took, deadline + 10)
        }
      }).pipe(
        Effect.provide(withRouter({ targets: pool(count), maxAttempts: 25, recovery: neverCools }, {
          "*": [TestProvider.stall()]
        }, { circuit: { disabled: true } }))
      ))
  }

  it.effect("only so many starts are provided for as there are attempts", () =>
    Effect.gen(function*() {
      for (const [maxAttempts, expected] of [[1, [0]], [2, [0, 4000]], [3, [0, 4000, 6000]]] as const) {
        const starts = yield* Effect.gen(function*() {
          const startedAt = yield* Clock.currentTimeMillis
          yield* underTime(Effect.flip(complete({ deadline: "8 seconds" })), "9 seconds")
          return (yield* startsOf).map(([, at]) => Number(at) - startedAt)
        }).pipe(
          Effect.provide(withRouter({ targets: pool(5), maxAttempts }, { "*": [TestProvider.stall()] }))
        )
        assert.deepStrictEqual(starts, [...expected])
      }
    }))

  it.effect("what was sent before a target timed out says nothing new when it times out later, what was sent after does", () =>
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      const remaining = Effect.map(cooldown.remaining("target:p0/m"), Duration.toMillis)
      const call = Effect.forkChild(Effect.exit(complete({ deadline: "65 seconds" })))
      yield* call
      yield* TestClock.adjust("4 seconds")
      yield* call
      yield* TestClock.adjust("56 seconds")
      assert.strictEqual(yield* remaining, 10_000)
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(yield* remaining, 6000)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* remaining, 0)
      yield* call
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual(yield* remaining, 10_000)
    }).pipe(Effect.provide(withRouter({ targets: pool(1) }, { "*": [TestProvider.stall()] }))))

  it.effect("a target that is not free gets nothing of the time", () =>
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("target:p1/m", "1 minute", "rate_limit")
      const [completion] = yield* underTime(timed(complete({ deadline: "8 seconds" })), "8 seconds")
      assert.deepStrictEqual(completion.attempts.map((_) => [_.target, _.durationMs]), [["p0/m", 7000]])
    }).pipe(
      Effect.provide(withRouter({ targets: pool(2) }, { "p0/m": [TestProvider.reply("late", { delay: "7 seconds" })] }))
    ))

  it.effect("with plenty of time the limit of an attempt is what it is", () =>
    Effect.gen(function*() {
      for (const request of [{}, { deadline: "5 minutes" }] as const) {
        const error = yield* underTime(Effect.flip(complete(request)), "3 minutes")
        assert.deepStrictEqual(error.attempts.map((_) => _.durationMs), [60_000, 60_000])
        assert.deepStrictEqual([error.origin, error.reason], ["provider", "attempt"])
        yield* Effect.flatMap(Cooldown.Cooldown, (cooldown) => cooldown.clearAll)
      }
    }).pipe(Effect.provide(withRouter({ targets: pool(2), maxAttempts: 2 }, { "*": [TestProvider.stall()] }))))

  it.effect("half of the time is the limit of an attempt where it is the shorter one", () =>
    Effect.gen(function*() {
      const error = yield* underTime(Effect.flip(complete({ deadline: "100 seconds" })), "101 seconds")
      assert.deepStrictEqual(error.attempts.map((_) => _.durationMs), [50_000, 50_000])
    }).pipe(Effect.provide(withRouter({ targets: pool(2) }, { "*": [TestProvider.stall()] }))))

  it.effect("a stream is only cut before its first content", () =>
    Effect.gen(function*() {
      const [parts, took] = yield* underTime(
        timed(Stream.runCollect(streamParts({ deadline: "10 seconds" }))),
        "10 seconds"
      )
      assert.strictEqual(parts.at(-1)?.type, "finish")
      assert.strictEqual(took, 8000)
      assert.deepStrictEqual(yield* calledTargets, ["p0/m"])
    }).pipe(
      Effect.provide(withRouter({ targets: pool(2) }, {
        "p0/m": [TestProvider.reply(["a", "b", "c"], { delay: "2 seconds", gap: "3 seconds" })]
      }))
    ))

  for (
    const [name, step] of [
      ["without headers", TestProvider.reply("late", { connect: "1 minute" })],
      ["without content", TestProvider.reply("late", { delay: "1 minute" })]
    ] as const
  ) {
    it.effect(`a stream ${name} leaves the next target its start`, () =>
      Effect.gen(function*() {
        const [parts, took] = yield* underTime(timed(Stream.runCollect(streamParts({ deadline: "4 seconds" }))), 4000)
        assert.strictEqual(parts.at(-1)?.type, "finish")
        assert.strictEqual(took, 2000)
        const health = yield* Health.Health
        assert.isUndefined(yield* health.figures("target:p0/m"))
      }).pipe(Effect.provide(withRouter({ targets: pool(2) }, { "p0/m": [step], "p1/m": [ok] }))))
  }

  it.effect("a call that may not be sent again has all the time for its one attempt", () =>
    Effect.gen(function*() {
      const call = complete({ deadline: "10 seconds", idempotent: false })
      const [completion, took] = yield* underTime(timed(call), "10 seconds")
      assert.deepStrictEqual([completion.target, took], ["p0/m", 8000])
    }).pipe(
      Effect.provide(withRouter({ targets: pool(2) }, { "p0/m": [TestProvider.reply("ok", { delay: "8 seconds" })] }))
    ))

  describe("an attempt that was cut short for the sake of later ones", () => {
    const known = Effect.gen(function*() {
      const circuits = yield* CircuitBreaker.CircuitBreaker
      const health = yield* Health.Health
      const figures = yield* health.figures("target:p0/m")
      return { circuit: (yield* circuits.state("target:p0/m")).status, timeouts: figures?.timeouts ?? 0 }
    })
    // The second target is limited for longer than the first one cools, so the error is that of the first.
    const calls = (deadline: Duration.Input, times: number) =>
      Effect.gen(function*() {
        const cooldown = yield* Cooldown.Cooldown
        const call = underTime(Effect.flip(complete({ deadline })), deadline)
        let error = yield* call
        const cooled = (yield* cooldown.active).map((_) => [_.scopeKey, _.reason])
        for (let n = 1; n < times; n++) {
          yield* cooldown.clearAll
          error = yield* call
        }
        return { cooled, error }
      })
    const live = withRouter({ targets: pool(2), retry }, {
      "p0/m": [TestProvider.stall()],
      "p1/m": [limited("1 hour", { scope: "target" })]
    })

    it.effect("is our doing when it had less than five seconds: nothing cools, and it is no evidence", () =>
      Effect.gen(function*() {
        const { cooled, error } = yield* calls("9 seconds", 6)
        assert.deepStrictEqual([error._tag, error.target, error.origin, error.reason], [
          "TimeoutError",
          "p0/m",
          "deadline",
          "attempt"
        ])
        assert.include(error.detail ?? "", "the part of the deadline that leaves the other targets a start")
        assert.notDeepInclude(cooled, ["target:p0/m", "attempt"])
        assert.deepStrictEqual(yield* known, { circuit: "closed", timeouts: 0 })
      }).pipe(Effect.provide(live)))

    it.effect("is the target's when it had five seconds: it cools and counts", () =>
      Effect.gen(function*() {
        const { cooled, error } = yield* calls("10 seconds", 5)
        assert.deepStrictEqual([error.target, error.origin, error.reason], ["p0/m", "provider", "attempt"])
        assert.deepInclude(cooled, ["target:p0/m", "attempt"])
        assert.deepStrictEqual(yield* known, { circuit: "open", timeouts: 5 })
      }).pipe(Effect.provide(live)))

    it.effect("is the target's when it had twice the time of its answers, and ours when it had less", () =>
      Effect.gen(function*() {
        yield* underTime(complete(), "1 second")
        yield* underTime(Effect.flip(complete({ deadline: "3 seconds" })), "3 seconds")
        assert.strictEqual((yield* known).timeouts, 0)
        yield* underTime(Effect.flip(complete({ deadline: "5 seconds" })), "5 seconds")
        assert.strictEqual((yield* known).timeouts, 1)
      }).pipe(Effect.provide(withRouter({ targets: pool(2), retry }, {
        "p0/m": [TestProvider.reply("ok", { delay: "1 second" }), TestProvider.stall()],
        "p1/m": [TestProvider.stall()]
      }))))

    it.effect("is the target's as well when it had all that was left: the call has failed by its deadline all the same", () =>
      Effect.gen(function*() {
        const cooldown = yield* Cooldown.Cooldown
        for (const [deadline, timeouts] of [["4 seconds", 0], ["5 seconds", 1]] as const) {
          const error = yield* underTime(Effect.flip(complete({ deadline })), deadline)
          assert.deepStrictEqual([error.origin, error.reason], ["deadline", "deadline"])
          assert.strictEqual((yield* known).timeouts, timeouts)
          assert.strictEqual((yield* cooldown.active).length, timeouts)
        }
      }).pipe(Effect.provide(withRouter({ targets: pool(1), retry }, { "p0/m": [TestProvider.stall()] }))))

    it.effect("a connection that was given up within its own limit, or by the client, is the target's failure", () =>
      Effect.gen(function*() {
        for (const timeouts of [1, 2]) {
          yield* underTime(Stream.runDrain(streamParts({ deadline: "8 seconds" })), "8 seconds")
          assert.deepStrictEqual(yield* known, { circuit: "closed", timeouts })
        }
      }).pipe(Effect.provide(withRouter({
        targets: pool(2),
        timeouts: { connect: "2 seconds" },
        recovery: neverCools
      }, {
        "p0/m": [
          TestProvider.reply("late", { connect: "1 minute" }),
          TestProvider.fail("timeout", { reason: "connect_timeout" }, { connect: "1 second" })
        ],
        "p1/m": [ok]
      }))))

    it.effect("a limit of less than five seconds that was asked for is the target's", () =>
      Effect.gen(function*() {
        yield* underTime(Effect.flip(complete()), "10 seconds")
        assert.deepStrictEqual(yield* known, { circuit: "closed", timeouts: 1 })
      }).pipe(Effect.provide(withRouter({ targets: pool(1), timeouts: { attempt: "4 seconds" }, maxAttempts: 1 }, {
        "*": [TestProvider.stall()]
      }))))
  })
})
