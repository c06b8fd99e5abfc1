import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as Retry from "breakwater/Retry"
import * as RetryBudget from "breakwater/RetryBudget"
import * as Timeouts from "breakwater/Timeouts"
import { Clock, Duration, Effect, Exit, Fiber, Random, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"

const failure = (
  errorClass: LLMError.ErrorClass,
  retryAfterMs?: number,
  reason: LLMError.Reason = "unknown"
): LLMError.LLMError =>
  LLMError.make(errorClass, {
    provider: "groq",
    reason,
    retryAfter: retryAfterMs === undefined ? undefined : Duration.millis(retryAfterMs)
  })

/** Fails with the given errors in turn, the last one for ever, and writes down when it was called. */
const failing = (errors: readonly [LLMError.LLMError, ...ReadonlyArray<LLMError.LLMError>]) => {
  const starts: Array<number> = []
  const effect: Effect.Effect<never, LLMError.LLMError> = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    starts.push(now)
    return Effect.fail(errors[starts.length - 1] ?? errors.at(-1) ?? errors[0])
  })
  return { starts, effect }
}

const withDraws = (draws: ReadonlyArray<number>) => {
  let index = 0
  return Effect.provideService(Random.Random, {
    nextDoubleUnsafe: () => draws[index++ % draws.length] ?? 0,
    nextIntUnsafe: () => 0
  })
}

/** Runs an effect to its end, however much virtual time it takes. */
const settle = <A, E>(effect: Effect.Effect<A, E>, within: Duration.Input = "1 day") =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    yield* TestClock.adjust(within)
    return fiber.pollUnsafe()
  })

const server = failure("server_error", undefined, "internal_error")

const jitters: ReadonlyArray<Retry.Jitter> = ["none", "full", "equal", "additive", "decorrelated"]

describe("delayMillis", () => {
  it("grows by the factor up to the maximum", () => {
    const backoff = Retry.makeBackoff({ base: 100, factor: 3, max: 2000, jitter: "none" })
    assert.deepStrictEqual([0, 1, 2, 3, 4].map((attempt) => Retry.delayMillis(backoff, attempt, 0.5)), [
      100,
      300,
      900,
      2000,
      2000
    ])
  })

  it("spreads the delay as the jitter says", () => {
    const table: ReadonlyArray<readonly [Retry.Jitter, number, number, number]> = [
      ["none", 4000, 4000, 4000],
      ["full", 0, 2000, 4000],
      ["equal", 2000, 3000, 4000],
      ["additive", 4000, 4200, 4400]
    ]
    for (const [jitter, low, middle, high] of table) {
      const backoff = Retry.makeBackoff({ base: 1000, jitter })
      assert.deepStrictEqual([0, 0.5, 1].map((random) => Retry.delayMillis(backoff, 2, random)), [low, middle, high])
    }
  })

  it("gives decorrelated delays the mean of full jitter, and makes them depend on the one before", () => {
    const backoff = Retry.makeBackoff({ base: 1000, max: "1 day", jitter: "decorrelated" })
    const grid = Array.from({ length: 100 }, (_, index) => (index + 0.5) / 100)
    for (const attempt of [2, 5, 8]) {
      let sum = 0
      for (const random of grid) {
        for (const previous of grid) sum += Retry.delayMillis(backoff, attempt, random, previous)
      }
      assert.closeTo(sum / grid.length ** 2 / (1000 * 2 ** attempt), 0.5, 0.03)
    }
    assert.isAbove(Retry.delayMillis(backoff, 3, 0.5, 0.1), Retry.delayMillis(backoff, 3, 0.5, 0.9))
  })

  it("stays within the maximum with a factor below one and with a maximum below the base", () => {
    for (const jitter of jitters) {
      const shrinking = jitter === "decorrelated"
        ? Retry.makeBackoff({ base: 500, max: 250, jitter })
        : Retry.makeBackoff({ base: 500, factor: 0.5, max: 250, jitter })
      for (let attempt = 0; attempt < 50; attempt++) {
        assert.isAtMost(Retry.delayMillis(shrinking, attempt, 1), 250)
        assert.isAtLeast(Retry.delayMillis(shrinking, attempt, 0), 0)
      }
    }
    const none = Retry.makeBackoff({ base: 1024, factor: 0.5, jitter: "none" })
    assert.strictEqual(Retry.delayMillis(none, 10, 0), 1)
    assert.strictEqual(Retry.delayMillis(none, 2000, 0), 0)
  })

  it.prop(
    "is a whole number within the bounds of its jitter for any attempt up to 3000",
    {
      base: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e9 })),
      max: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e9 })),
      factor: Schema.Finite.check(Schema.isBetween({ minimum: 0.1, maximum: 10 })),
      attempt: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3000 })),
      random: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
      previous: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
      jitter: Schema.Literals(["none", "full", "equal", "additive", "decorrelated"])
    },
    ({ attempt, base, jitter, max, previous, random, ...options }) => {
      const factor = jitter === "decorrelated" ? 2 : options.factor
      const delay = Retry.delayMillis(Retry.makeBackoff({ base, factor, max, jitter }), attempt, random, previous)
      const plain = Math.min(base * factor ** attempt, max)
      const lowest = { none: plain, full: 0, equal: plain / 2, additive: plain, decorrelated: 0 }[jitter]
      const highest =
        { none: plain, full: plain, equal: plain, additive: plain * 1.1, decorrelated: plain * 1.5 }[jitter]
      assert.isTrue(Number.isInteger(delay))
      assert.isAtLeast(delay, lowest - 0.5)
      assert.isAtMost(delay, Math.min(highest + 0.5, max))
    },
    { arbitrary: { runs: 500 } }
  )

  it.prop(
    "never falls from one attempt to the next without jitter and with a factor of one or more",
    {
      base: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e6 })),
      max: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e9 })),
      factor: Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: 5 })),
      attempt: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2999 }))
    },
    ({ attempt, ...options }) => {
      const backoff = Retry.makeBackoff({ ...options, jitter: "none" })
      assert.isAtMost(Retry.delayMillis(backoff, attempt, 0), Retry.delayMillis(backoff, attempt + 1, 0))
    }
  )
})

describe("options", () => {
  it("are rejected with the name of the field that is wrong", () => {
    const wrong: ReadonlyArray<readonly [RegExp, () => unknown]> = [
      [/base/, () => Retry.exponential({ base: 0 })],
      [/base/, () => Retry.exponential({ base: -1 })],
      [/base/, () => Retry.exponential({ base: Number.NaN })],
      [/base/, () => Retry.makeBackoff({ base: "Infinity" })],
      [/max/, () => Retry.exponential({ max: 0 })],
      [/max/, () => Retry.exponential({ max: Infinity })],
      [/factor/, () => Retry.exponential({ factor: 0 })],
      [/factor/, () => Retry.exponential({ factor: Number.NaN })],
      [/factor/, () => Retry.exponential({ factor: Infinity })],
      [/factor/, () => Retry.exponential({ factor: 3, jitter: "decorrelated" })],
      [/ratio/, () => Retry.exponential({ jitter: "additive", ratio: 1.0001 })],
      [/ratio/, () => Retry.exponential({ jitter: "additive", ratio: -0.0001 })],
      [/ratio/, () => Retry.exponential({ jitter: "full", ratio: 0.5 })],
      [/attempt/, () => Retry.delayMillis(Retry.makeBackoff(), -1, 0.5)],
      [/attempt/, () => Retry.delayMillis(Retry.makeBackoff(), 0.5, 0.5)],
      [/maxHint/, () => Retry.makeRetryAfter({ maxHint: 0 })],
      [/maxHint/, () => Retry.respectRetryAfter(Schedule.forever, { maxHint: Infinity })],
      [/jitter/, () => Retry.makeRetryAfter({ jitter: 1.5 })],
      [/maxJitter/, () => Retry.makeRetryAfter({ maxJitter: -1 })],
      [/retries/, () => Retry.standardWith({ retries: -1 })],
      [/retries/, () => Retry.standardWith({ retries: 1.5 })]
    ]
    for (const [field, construct] of wrong) {
      assert.throws(construct, RangeError)
      assert.throws(construct, field)
    }
  })

  it("have the documented defaults", () => {
    assert.deepStrictEqual(Retry.makeBackoff(), {
      baseMillis: 1000,
      factor: 2,
      maxMillis: 30_000,
      jitter: "full",
      ratio: 0.1
    })
    assert.deepStrictEqual(Retry.makeRetryAfter(), { maxHintMillis: 120_000, jitter: 0.1, maxJitterMillis: 5000 })
  })
})

describe("waitMillis", () => {
  const rule = Retry.makeRetryAfter()
  const base = { delay: 500, hint: undefined, remaining: Infinity, random: 0.5 }

  it("takes the larger of the hint and the backoff and adds a tenth of the hint, five seconds at most", () => {
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 2000 }), 2100)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 2000, delay: 9000 }), 9100)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 100_000 }), 102_500)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 0.4, delay: 0, random: 1 }), 1)
  })

  it("leaves the backoff alone when nothing usable is stated", () => {
    for (const hint of [undefined, 0, -1, Number.NaN]) {
      assert.strictEqual(Retry.waitMillis(rule, { ...base, hint }), 500)
    }
  })

  it("does not wait in place for more than the longest hint or than what is left", () => {
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 120_000, random: 0 }), 120_000)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 120_001 }), undefined)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: Infinity }), undefined)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 5000, remaining: 5000 }), undefined)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, remaining: 500 }), undefined)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, remaining: 501 }), 500)
  })

  it("spreads no further than what is left", () => {
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 5000, remaining: 5100, random: 1 }), 5099)
    assert.strictEqual(Retry.waitMillis(rule, { ...base, hint: 5000, remaining: 5001, random: 1 }), 5000)
  })
})

describe("exponential", () => {
  it.effect("retries any effect after growing delays", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const policy = Retry.exponential({ jitter: "none" }).pipe(Schedule.upTo({ times: 6 }))
      yield* settle(Effect.retry(effect, policy))
      assert.deepStrictEqual(starts, [0, 1000, 3000, 7000, 15_000, 31_000, 61_000])
    }))

  it.effect("begins anew in every run", () =>
    Effect.gen(function*() {
      const policy = Retry.exponential({ jitter: "none" }).pipe(Schedule.upTo({ times: 2 }))
      for (const start of [0, 60_000]) {
        const { effect, starts } = failing([server])
        yield* settle(Effect.retry(effect, policy), "1 minute")
        assert.deepStrictEqual(starts.map((_) => _ - start), [0, 1000, 3000])
      }
    }))

  it.effect("continues the decorrelated curve from the draw before", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const options: Retry.BackoffOptions = { jitter: "decorrelated" }
      const draws = [0.9, 0.2, 0.6]
      yield* settle(
        Effect.retry(effect, Retry.exponential(options).pipe(Schedule.upTo({ times: 3 }))).pipe(
          withDraws(draws)
        )
      )
      const gaps = starts.slice(1).map((start, index) => start - (starts[index] ?? 0))
      const backoff = Retry.makeBackoff(options)
      assert.deepStrictEqual(
        gaps,
        draws.map((draw, index) => Retry.delayMillis(backoff, index, draw, draws[index - 1]))
      )
    }))

  it.effect("is the same for the same seed and another for another", () =>
    Effect.gen(function*() {
      const run = (seed: string) =>
        Effect.gen(function*() {
          const { effect, starts } = failing([server])
          const begin = yield* Clock.currentTimeMillis
          const policy = Retry.exponential({ jitter: "decorrelated" }).pipe(Schedule.upTo({ times: 20 }))
          yield* settle(Effect.retry(effect, policy).pipe(Random.withSeed(seed)), "1 hour")
          return starts.map((start) => start - begin)
        })
      const first = yield* run("a")
      assert.strictEqual(first.length, 21)
      assert.deepStrictEqual(yield* run("a"), first)
      assert.notDeepEqual(yield* run("b"), first)
    }))

  it.effect("replays a day of retries at once", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const policy = Retry.exponential({ base: "30 seconds", max: "10 minutes", jitter: "equal" })
      const fiber = yield* Effect.forkChild(Effect.retry(effect, policy).pipe(Random.withSeed("day")))
      yield* TestClock.adjust("1 day")
      yield* Fiber.interrupt(fiber)
      const gaps = starts.slice(1).map((start, index) => start - (starts[index] ?? 0))
      assert.isTrue(gaps.every((gap, index) => gap >= Math.min(15_000 * 2 ** index, 300_000) && gap <= 600_000))
      assert.closeTo(starts.length, 86_400 / 450, 12)
    }))
})

describe("delays", () => {
  it.effect("waits the delays of the list in turn, and the last one ever after", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const policy = Retry.delays(["1 second", 0, "5 seconds"]).pipe(Schedule.upTo({ times: 5 }))
      assert.deepStrictEqual(yield* settle(Effect.retry(effect, policy)), Exit.fail(server))
      assert.deepStrictEqual(starts, [0, 1000, 1000, 6000, 11_000, 16_000])
    }))

  it.effect("begins anew in every run", () =>
    Effect.gen(function*() {
      const policy = Retry.delays([100, 200]).pipe(Schedule.upTo({ times: 1 }))
      for (const start of [0, 60_000]) {
        const { effect, starts } = failing([server])
        yield* settle(Effect.retry(effect, policy), "1 minute")
        assert.deepStrictEqual(starts.map((_) => _ - start), [0, 100])
      }
    }))

  it("reads the delay of any attempt", () => {
    const list = Retry.makeDelays([3, "6 millis", 9.4])
    assert.deepStrictEqual([0, 1, 2, 3, 3000].map((attempt) => Retry.delayMillis(list, attempt)), [3, 6, 9, 9, 9])
    assert.throws(() => Retry.delayMillis(list, -1), RangeError, /attempt/)
  })

  it("rejects an empty list and delays that cannot be waited for", () => {
    for (const list of [[], [-1], [1, Infinity]]) {
      assert.throws(() => Retry.delays(list), RangeError, /delays/)
    }
  })
})

describe("deadline", () => {
  const context = { provider: "groq" }
  const schedules: ReadonlyArray<readonly [string, Schedule.Schedule<unknown, LLMError.LLMError>]> = [
    ["exponential", Retry.exponential({ base: 1000, jitter: "none" })],
    ["delays", Retry.delays([1000])],
    ["withinDeadline", Schedule.spaced(1000).pipe(Retry.withinDeadline)],
    ["respectRetryAfter", Schedule.spaced(1000).pipe(Retry.respectRetryAfter())]
  ]
  for (const [name, schedule] of schedules) {
    it.effect(`${name} does not sleep into the deadline but raises the last error at once`, () =>
      Effect.gen(function*() {
        const { effect, starts } = failing([server])
        const call = effect.pipe(Effect.retry(schedule), Timeouts.total(1000, context))
        assert.strictEqual(yield* Effect.flip(call), server)
        assert.deepStrictEqual(starts, [0])
        assert.strictEqual(yield* Clock.currentTimeMillis, 0)
      }))
  }

  it.effect("delays that end before the deadline are slept", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const policy = Retry.exponential({ base: 1000, jitter: "none" })
      const exit = yield* settle(effect.pipe(Effect.retry(policy), Timeouts.total(7000, context)))
      assert.deepStrictEqual(starts, [0, 1000, 3000])
      assert.deepStrictEqual(exit, Exit.fail(server))
    }))

  it.effect("a schedule honours a deadline that the caller provides", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      const call = Effect.retry(effect, Retry.exponential({ base: 1000, jitter: "none" })).pipe(
        Effect.provideService(Timeouts.CurrentDeadline, 3500)
      )
      yield* settle(call)
      assert.deepStrictEqual(starts, [0, 1000, 3000])
    }))
})

describe("respectRetryAfter", () => {
  const once = Schedule.recurs(1)

  it.effect("T25 wakes callers who heard the same wait between it and a tenth more, evenly", () =>
    Effect.gen(function*() {
      const callers = 2000
      const wakes: Array<number> = []
      const limited = failure("rate_limit", 60_000)
      const call = Effect.gen(function*() {
        const { effect, starts } = failing([limited])
        yield* Effect.exit(Effect.retry(effect, Retry.respectRetryAfter(once)))
        wakes.push(starts[1] ?? Number.NaN)
      })
      const fiber = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: callers }), () => call, { concurrency: "unbounded", discard: true }).pipe(
          Random.withSeed("T25")
        )
      )
      yield* TestClock.adjust(59_999)
      assert.deepStrictEqual(wakes, [])
      yield* TestClock.adjust(10_000)
      yield* Fiber.join(fiber)
      assert.strictEqual(wakes.length, callers)
      const buckets = Array.from({ length: 10 }, () => 0)
      for (const wake of wakes) {
        assert.isAtLeast(wake, 60_000)
        assert.isBelow(wake, 65_000)
        const bucket = Math.floor((wake - 60_000) / 500)
        buckets[bucket] = (buckets[bucket] ?? 0) + 1
      }
      assert.isTrue(buckets.every((count) => count > 0 && count <= 2 * callers / buckets.length), buckets.join(" "))
    }))

  it.effect("T30 takes every wait from the error that has just arrived", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([
        failure("rate_limit", 10_000),
        failure("rate_limit", 2000),
        server,
        failure("rate_limit", 30_000),
        server
      ])
      const policy = Schedule.spaced(100).pipe(Retry.respectRetryAfter({ jitter: 0 }), Schedule.upTo({ times: 4 }))
      yield* settle(Effect.retry(effect, policy))
      assert.deepStrictEqual(starts, [0, 10_000, 12_000, 12_100, 42_100])
    }))

  it.effect("T30 counts the wait from when the error arrived, not from when the attempt began", () =>
    Effect.gen(function*() {
      const starts: Array<number> = []
      const slow = Effect.gen(function*() {
        starts.push(yield* Clock.currentTimeMillis)
        yield* Effect.sleep(700)
        return yield* Effect.fail(failure("rate_limit", 5000))
      })
      yield* settle(Effect.retry(slow, once.pipe(Retry.respectRetryAfter({ jitter: 0 }))))
      assert.deepStrictEqual(starts, [0, 5700])
    }))

  it.effect("T30 neither sleeps nor retries when the wait does not fit into the deadline", () =>
    Effect.gen(function*() {
      const limited = failure("rate_limit", 20_000)
      const { effect, starts } = failing([limited])
      const call = Effect.retry(effect, Retry.standard).pipe(Timeouts.total("15 seconds", { provider: "groq" }))
      assert.strictEqual(yield* Effect.flip(call), limited)
      assert.deepStrictEqual(starts, [0])
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    }))

  it.effect("T30 neither sleeps nor retries when the wait is longer than the longest one allowed", () =>
    Effect.gen(function*() {
      const limited = failure("rate_limit", 120_001)
      const { effect, starts } = failing([limited])
      assert.strictEqual(yield* Effect.flip(Effect.retry(effect, Retry.respectRetryAfter(once))), limited)
      assert.deepStrictEqual(starts, [0])
    }))

  it.effect("T30 begins no attempt before the latest stated wait has passed, whatever the schedule and the errors", () =>
    Effect.gen(function*() {
      const hints = [0, 1, 17, 900, 4000, 119_000]
      const errors = yield* Effect.forEach(
        Array.from({ length: 40 }),
        () => Effect.map(Random.choice(hints), (hint) => failure("rate_limit", hint))
      )
      const [first = server, ...rest] = errors
      const { effect, starts } = failing([first, ...rest])
      const policy = Retry.standardWith({ retries: 40, base: 10, max: 3000 })
      yield* settle(Effect.retry(effect, policy))
      assert.strictEqual(starts.length, 41)
      errors.forEach((error, index) => {
        const waited = (starts[index + 1] ?? 0) - (starts[index] ?? 0)
        assert.isAtLeast(waited, Duration.toMillis(error.retryAfter ?? Duration.zero))
      })
    }).pipe(Random.withSeed("T30")))

  it.effect("can be used without options in a pipe", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([failure("rate_limit", 4000)])
      yield* settle(Effect.retry(effect, once.pipe(Retry.respectRetryAfter())).pipe(withDraws([0])))
      assert.deepStrictEqual(starts, [0, 4000])
    }))
})

describe("perClass", () => {
  it.effect("gives each class a progression of its own", () =>
    Effect.gen(function*() {
      const limited = failure("rate_limit")
      const { effect, starts } = failing([limited, server, limited, server, limited, server])
      const policy = Retry.perClass({
        rate_limit: Retry.exponential({ base: 100, jitter: "none" }),
        server_error: Retry.exponential({ base: 1000, factor: 3, jitter: "none" })
      }).pipe(Schedule.upTo({ times: 5 }))
      yield* settle(Effect.retry(effect, policy))
      const gaps = starts.slice(1).map((start, index) => start - (starts[index] ?? 0))
      assert.deepStrictEqual(gaps, [100, 1000, 200, 3000, 400])
    }))

  it.effect("ends at a class without a schedule and at the end of a class's schedule", () =>
    Effect.gen(function*() {
      const policy = Retry.perClass({ server_error: Schedule.recurs(2) })
      const permanent = failure("permanent")
      const first = failing([server, permanent])
      assert.strictEqual(yield* Effect.flip(Effect.retry(first.effect, policy)), permanent)
      assert.strictEqual(first.starts.length, 2)
      const second = failing([server])
      assert.strictEqual(yield* Effect.flip(Effect.retry(second.effect, policy)), server)
      assert.strictEqual(second.starts.length, 3)
    }))

  it.effect("covers the other classes with otherwise, one progression each", () =>
    Effect.gen(function*() {
      const timeout = failure("timeout", undefined, "attempt")
      const { effect, starts } = failing([server, timeout, server, timeout, failure("authentication")])
      const policy = Retry.perClass({
        authentication: Schedule.recurs(0),
        otherwise: Retry.exponential({ base: 10, jitter: "none" })
      })
      yield* settle(Effect.retry(effect, policy))
      const gaps = starts.slice(1).map((start, index) => start - (starts[index] ?? 0))
      assert.deepStrictEqual(gaps, [10, 10, 20, 20])
    }))
})

describe("whileRetryable", () => {
  it.effect("stops at an error that cannot heal", () =>
    Effect.gen(function*() {
      const hopeless = [
        failure("authentication", undefined, "invalid_key"),
        failure("permanent", undefined, "invalid_request"),
        failure("rate_limit", undefined, "insufficient_quota"),
        failure("timeout", undefined, "deadline"),
        LLMError.update(server, { shouldRetry: false })
      ]
      for (const error of hopeless) {
        const { effect, starts } = failing([server, error])
        const call = Effect.retry(effect, Schedule.recurs(5).pipe(Retry.whileRetryable))
        assert.strictEqual(yield* Effect.flip(call), error)
        assert.strictEqual(starts.length, 2)
      }
    }))
})

describe("standard", () => {
  it.effect("makes two retries with full jitter from one second", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([server])
      yield* settle(Effect.retry(effect, Retry.standard).pipe(withDraws([1])))
      assert.deepStrictEqual(starts, [0, 1000, 3000])
    }))

  it.effect("makes no retry after an error that cannot heal", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([failure("authentication", undefined, "invalid_key")])
      yield* settle(Effect.retry(effect, Retry.standard))
      assert.strictEqual(starts.length, 1)
    }))

  it.effect("T29 makes three attempts a call and no more, for many calls at once", () =>
    Effect.gen(function*() {
      let attempts = 0
      const call = Effect.suspend(() => {
        attempts++
        return Effect.fail(server)
      }).pipe(Effect.retry(Retry.standard), Effect.exit)
      yield* settle(
        Effect.forEach(Array.from({ length: 100 }), () => call, { concurrency: "unbounded", discard: true })
      )
      assert.strictEqual(attempts, 300)
    }))

  it.effect("stops when the effect succeeds, and when the caller is interrupted", () =>
    Effect.gen(function*() {
      let attempts = 0
      const second = Effect.suspend(() => ++attempts < 2 ? Effect.fail(server) : Effect.succeed("hello"))
      const exit = yield* settle(Effect.retry(second, Retry.standard))
      assert.deepStrictEqual(exit, Exit.succeed("hello"))
      const { effect, starts } = failing([server])
      const fiber = yield* Effect.forkChild(Effect.retry(effect, Retry.standard).pipe(withDraws([1])))
      yield* TestClock.adjust(500)
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(starts.length, 1)
    }))
})

describe("budget", () => {
  it.effect("ends a schedule when the shared budget is spent", () =>
    Effect.gen(function*() {
      const { effect, starts } = failing([failure("server_error")])
      const schedule = Schedule.spaced("1 second").pipe(Retry.budget({ key: "groq" }))
      const fiber = yield* Effect.forkChild(Effect.flip(Effect.retry(effect, schedule)))
      yield* TestClock.adjust("50 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(starts.length, 1 + 3)
    }).pipe(Effect.provide(RetryBudget.layerMemory())))
})
