import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as Retry from "breakwater/Retry"
import * as RetryBudget from "breakwater/RetryBudget"
import { Duration, Effect, Fiber, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Policies from "../src/internal/budget/policies.ts"

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", ...fields })

const down = error("server_error", { reason: "overloaded" })
const key = "groq/llama"

type Body<E = never> = Effect.Effect<void, E, RetryBudget.RetryBudget>

const rule = (name: string, body: Body<LLMError.LLMError>, options: RetryBudget.Options = {}) =>
  it.effect(name, () => Effect.provide(body, RetryBudget.layerMemory(options)))

const grants = Effect.fnUntraced(function*(times: number, cost?: RetryBudget.Cost) {
  const budget = yield* RetryBudget.RetryBudget
  let granted = 0
  for (let asked = 0; asked < times; asked++) if (yield* budget.withdraw(key, cost)) granted++
  return granted
})

const deposits = Effect.fnUntraced(function*(times: number) {
  const budget = yield* RetryBudget.RetryBudget
  for (let started = 0; started < times; started++) yield* budget.deposit(key)
})

const entry = Effect.flatMap(
  RetryBudget.RetryBudget,
  (budget) =>
    Effect.map(budget.snapshot, ([found]): RetryBudget.Entry => {
      assert.isDefined(found)
      return found
    })
)

describe("windowed", () => {
  rule(
    "grants three retries where nothing else was called, and a fifth of the first attempts besides",
    Effect.gen(function*() {
      assert.strictEqual(yield* grants(10), 3)
      yield* deposits(50)
      assert.strictEqual(yield* grants(20), 10)
    })
  )

  rule(
    "counts what is exactly one window old no longer",
    Effect.gen(function*() {
      yield* deposits(10)
      assert.strictEqual(yield* grants(10), 5)
      yield* TestClock.adjust(59_999)
      assert.strictEqual(yield* grants(10), 0)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* grants(10), 3)
    })
  )

  rule(
    "keeps the keys apart and says what it granted and refused",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* deposits(5)
      yield* grants(6)
      assert.isTrue(yield* budget.withdraw("other"))
      yield* budget.refund("other")
      assert.deepStrictEqual(yield* budget.snapshot, [
        { key, policy: "Windowed", available: 0, deposits: 5, granted: 4, refused: 2, refunded: 0 },
        { key: "other", policy: "Windowed", available: 3, deposits: 0, granted: 1, refused: 0, refunded: 1 }
      ])
    })
  )

  rule(
    "gives back what was not sent, and nothing that was",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* grants(3)
      yield* budget.settle(key, { retry: true, outcome: "neutral" })
      yield* budget.settle(key, { retry: true, outcome: "success" })
      assert.strictEqual((yield* entry).available, 0)
      yield* budget.refund(key)
      assert.strictEqual((yield* entry).available, 1)
      for (let again = 0; again < 10; again++) yield* budget.refund(key)
      assert.strictEqual((yield* entry).available, 3)
    })
  )

  rule(
    "a first attempt that no other can heal does not count",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* deposits(10)
      for (let ended = 0; ended < 10; ended++) yield* budget.settle(key, { retry: false, outcome: "neutral" })
      assert.strictEqual((yield* entry).available, 3)
      yield* budget.settle(key, { retry: false, outcome: "neutral" })
      yield* deposits(6)
      assert.strictEqual((yield* entry).available, 4)
    })
  )

  rule(
    "starts anew after an hour without use",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* grants(3)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* budget.snapshot, [])
      assert.strictEqual(yield* grants(4), 3)
    })
  )

  const Op = Schema.Struct({
    pauseMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30_000 })),
    op: Schema.Literals(["deposit", "deposit", "withdraw", "withdraw", "refund", "neutral"])
  })

  it.prop(
    "in the window before any retry there are at most ratio times its first attempts and the minimum (T29)",
    {
      ops: Schema.Array(Op).check(Schema.isMaxLength(120)),
      ratio: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 3 })),
      minimum: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))
    },
    ({ minimum, ops, ratio }) => {
      const windowMs = 60_000
      const ledger = Policies.windowed({ windowMs, ratio, minimum }, 0)
      const deposited: Array<number> = []
      const granted: Array<number> = []
      let now = 0
      for (const { op, pauseMs } of ops) {
        now += pauseMs
        switch (op) {
          case "deposit":
            deposited.push(now)
            ledger.apply({ _tag: "Started" }, now)
            break
          case "withdraw": {
            const isGranted = ledger.apply({ _tag: "Withdrawn", cost: "transient" }, now)
            if (!isGranted) break
            granted.push(now)
            const inWindow = (times: ReadonlyArray<number>) => times.filter((at) => now - at < windowMs).length
            assert.isAtMost(inWindow(granted), ratio * inWindow(deposited) + minimum + 1e-6)
            break
          }
          case "refund": {
            // The latest grant is the one that was not sent: the worst case for what is left.
            if (granted.pop() !== undefined) ledger.apply({ _tag: "Refunded", cost: "transient" }, now)
            break
          }
          case "neutral":
            ledger.apply({ _tag: "Ended", retry: false, outcome: "neutral", cost: "transient" }, now)
            break
        }
        assert.isAtLeast(ledger.available(now), 0)
      }
    },
    { arbitrary: { runs: 300 } }
  )
})

describe("tokens", () => {
  const policy = RetryBudget.tokens()

  rule(
    "500 of them pay for 35 transient retries",
    Effect.map(grants(50), (granted) => assert.strictEqual(granted, 35)),
    { policy }
  )

  rule(
    "500 of them pay for 100 retries after a rate limit",
    Effect.map(grants(150, "throttling"), (granted) => assert.strictEqual(granted, 100)),
    { policy }
  )

  rule(
    "a retry that succeeds gets its cost back, a first attempt that succeeds earns one, and time gives nothing",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* grants(50)
      yield* TestClock.adjust("30 minutes")
      assert.strictEqual((yield* entry).available, 0)
      yield* budget.settle(key, { retry: true, outcome: "failure" })
      assert.strictEqual((yield* entry).available, 0)
      yield* budget.settle(key, { retry: true, outcome: "success" })
      assert.strictEqual((yield* entry).available, 1)
      for (let call = 0; call < 4; call++) yield* budget.settle(key, { retry: false, outcome: "success" })
      assert.strictEqual((yield* entry).available, 2)
      yield* budget.settle(key, { retry: true, outcome: "success", cost: "throttling" })
      assert.strictEqual(yield* grants(10), 2)
      assert.strictEqual(yield* grants(10, "throttling"), 1)
    }),
    { policy }
  )

  rule(
    "never exceed the capacity",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      for (let call = 0; call < 100; call++) yield* budget.settle(key, { retry: false, outcome: "success" })
      assert.strictEqual(yield* grants(50), 35)
    }),
    { policy }
  )
})

describe("throttle", () => {
  rule(
    "refuses all retries once half of the tokens are gone, until successes have given them back",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      const end = (outcome: RetryBudget.Outcome, times: number) =>
        Effect.forEach(Array.from({ length: times }), () => budget.settle(key, { retry: false, outcome }))
      assert.strictEqual(yield* grants(7), 7)
      yield* end("failure", 4)
      assert.strictEqual(yield* grants(7), 7)
      yield* end("failure", 1)
      assert.strictEqual(yield* grants(7), 0)
      yield* end("neutral", 50)
      assert.strictEqual(yield* grants(7), 0)
      yield* end("success", 1)
      assert.strictEqual(yield* grants(1), 1)
      assert.strictEqual((yield* entry).available, Infinity)
    }),
    { policy: RetryBudget.throttle() }
  )
})

describe("concurrent", () => {
  rule(
    "limits retries in flight to a fifth of the attempts in flight, three at least",
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      assert.strictEqual(yield* grants(10), 3)
      yield* budget.refund(key)
      yield* budget.settle(key, { retry: true, outcome: "failure" })
      yield* budget.settle(key, { retry: true, outcome: "neutral" })
      assert.strictEqual(yield* grants(10), 3)
      yield* deposits(32)
      assert.strictEqual(yield* grants(10), 4)
      for (let ended = 0; ended < 32; ended++) yield* budget.settle(key, { retry: false, outcome: "success" })
      assert.strictEqual((yield* entry).available, 0)
    }),
    { policy: RetryBudget.concurrent() }
  )
})

/** An effect that fails as told, and counts its attempts. */
const failing = (raised: LLMError.LLMError) => {
  const seen = { attempts: 0 }
  const effect: Effect.Effect<never, LLMError.LLMError> = Effect.suspend(() => {
    seen.attempts++
    return Effect.andThen(Effect.sleep("100 millis"), Effect.fail(raised))
  })
  return { seen, effect }
}

const schedule = Retry.standardWith({ retries: 5, base: "1 second" })

describe("retry", () => {
  for (const calls of [1, 20, 200]) {
    rule(
      `of ${calls} calls at once that all fail, the provider sees at most their number × 1.2 and three (T29)`,
      Effect.gen(function*() {
        const { effect, seen } = failing(down)
        const call = Effect.exit(RetryBudget.retry(effect, { schedule, key }))
        const fiber = yield* Effect.forkChild(
          Effect.forEach(Array.from({ length: calls }), () => call, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust("59 seconds")
        yield* Fiber.join(fiber)
        assert.isAtMost(seen.attempts, calls * 1.2 + 3)
        assert.isAtLeast(seen.attempts, Math.floor(calls * 1.2 + 3))
      })
    )
  }

  rule(
    "raises the last error at once when the budget is exhausted, and never refuses a first attempt",
    Effect.gen(function*() {
      yield* grants(3)
      const { effect, seen } = failing(down)
      const fiber = yield* Effect.forkChild(Effect.flip(RetryBudget.retry(effect, { schedule, key })))
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Fiber.join(fiber), down)
      assert.strictEqual(seen.attempts, 1)
    })
  )

  rule(
    "what no attempt can heal neither fills the budget nor draws from it",
    Effect.gen(function*() {
      for (const raised of [error("permanent"), error("authentication"), error("rate_limit", { origin: "limiter" })]) {
        for (let call = 0; call < 10; call++) {
          const { effect } = failing(raised)
          const once = schedule.pipe(Schedule.while(({ input }) => input.origin === "provider"))
          const fiber = yield* Effect.forkChild(Effect.flip(effect.pipe(RetryBudget.retry({ schedule: once, key }))))
          yield* TestClock.adjust("100 millis")
          yield* Fiber.join(fiber)
        }
      }
      const seen = yield* entry
      assert.deepStrictEqual([seen.deposits, seen.granted, seen.refused, seen.available], [30, 0, 0, 3])
    })
  )

  rule(
    "a call that is interrupted during a backoff gives back what its retry took",
    Effect.gen(function*() {
      const { effect, seen } = failing(down)
      const wait = Schedule.fixed("10 seconds")
      const fiber = yield* Effect.forkChild(RetryBudget.retry(effect, { schedule: wait, key }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* entry).available, 2)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(seen.attempts, 1)
      assert.strictEqual((yield* entry).available, 3)
      assert.strictEqual((yield* entry).refunded, 1)
    })
  )

  rule(
    "interrupted anywhere, nothing stays in flight (T18)",
    Effect.gen(function*() {
      const wait = Schedule.fixed("1 second")
      for (const millis of [0, 50, 150, 1050, 1150, 2050]) {
        const { effect } = failing(down)
        const fiber = yield* Effect.forkChild(RetryBudget.retry(effect, { schedule: wait, key }))
        yield* TestClock.adjust(millis)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* entry).available, 3, `after ${millis} ms`)
      }
      yield* deposits(16)
      assert.strictEqual((yield* entry).available, 3)
    }),
    { policy: RetryBudget.concurrent() }
  )

  rule(
    "a retry that succeeds gets back what it cost",
    Effect.gen(function*() {
      let attempts = 0
      const effect = Effect.suspend(() => ++attempts % 2 === 1 ? Effect.fail(down) : Effect.succeed("answer"))
      const soon = Schedule.fixed(0)
      for (let call = 0; call < 40; call++) {
        const fiber = yield* Effect.forkChild(RetryBudget.retry(effect, { schedule: soon, key }))
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(fiber), "answer")
      }
      assert.strictEqual(attempts, 80)
      assert.strictEqual((yield* entry).available, 1)
    }),
    { policy: RetryBudget.tokens({ capacity: 20 }) }
  )
})

describe("limit", () => {
  rule(
    "ends a schedule when the budget refuses, data first and data last",
    Effect.gen(function*() {
      const first = RetryBudget.limit(Schedule.fixed("1 second"), { key })
      const last = Schedule.fixed("1 second").pipe(RetryBudget.limit({ key }))
      const { effect, seen } = failing(down)
      const fiber = yield* Effect.forkChild(
        Effect.andThen(Effect.exit(Effect.retry(effect, first)), Effect.exit(Effect.retry(effect, last)))
      )
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(seen.attempts, 5)
    })
  )

  rule(
    "charges less for a retry after a rate limit",
    Effect.gen(function*() {
      const limited = failing(error("rate_limit", { reason: "rate_limit" }))
      const fiber = yield* Effect.forkChild(
        Effect.exit(Effect.retry(limited.effect, RetryBudget.limit(Schedule.fixed("1 second"), { key })))
      )
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(limited.seen.attempts, 5)
    }),
    { policy: RetryBudget.tokens({ capacity: 20 }) }
  )
})

describe("outcomeOf", () => {
  for (
    const [raised, expected] of [
      [error("server_error"), "failure"],
      [error("transient_network"), "failure"],
      [error("timeout", { reason: "attempt" }), "failure"],
      [error("unknown"), "failure"],
      [error("rate_limit", { reason: "rate_limit" }), "failure"],
      [error("server_error", { shouldRetry: false }), "failure"],
      [error("rate_limit", { reason: "insufficient_quota" }), "neutral"],
      [error("rate_limit", { reason: "queue_full", origin: "limiter" }), "neutral"],
      [error("server_error", { reason: "circuit_open", origin: "circuit" }), "neutral"],
      [error("timeout", { reason: "deadline", origin: "deadline" }), "neutral"],
      [error("unknown", { reason: "client_abort" }), "neutral"],
      [error("authentication"), "neutral"],
      [error("permanent"), "neutral"]
    ] as const
  ) {
    const asked = raised.shouldRetry === undefined ? "" : ", though not to be retried"
    it(`${raised.errorClass}/${raised.reason} of the ${raised.origin}${asked} is ${expected}`, () => {
      assert.strictEqual(RetryBudget.outcomeOf(raised), expected)
    })
  }
})

describe("options", () => {
  it("are rejected with the name of the field that is wrong", () => {
    const wrong: ReadonlyArray<readonly [RegExp, () => unknown]> = [
      [/window/, () => RetryBudget.windowed({ window: 0 })],
      [/window/, () => RetryBudget.windowed({ window: "61 seconds" })],
      [/ratio/, () => RetryBudget.windowed({ ratio: -1 })],
      [/ratio/, () => RetryBudget.windowed({ ratio: 1001 })],
      [/minimum/, () => RetryBudget.windowed({ minimum: -1 })],
      [/minimum/, () => RetryBudget.windowed({ minimum: Number.NaN })],
      [/capacity/, () => RetryBudget.tokens({ capacity: 0 })],
      [/transient/, () => RetryBudget.tokens({ transient: 501 })],
      [/throttling/, () => RetryBudget.tokens({ throttling: 0 })],
      [/reward/, () => RetryBudget.tokens({ reward: -1 })],
      [/maxTokens/, () => RetryBudget.throttle({ maxTokens: 0 })],
      [/tokenRatio/, () => RetryBudget.throttle({ tokenRatio: 0 })],
      [/ratio/, () => RetryBudget.concurrent({ ratio: 2 })],
      [/minimum/, () => RetryBudget.concurrent({ minimum: -1 })],
      [/forgetAfter/, () => RetryBudget.layerMemory({ forgetAfter: Duration.minutes(1) })]
    ]
    for (const [field, construct] of wrong) assert.throws(construct, field)
  })
})
