import { assert, describe, it } from "@effect/vitest"
import * as Limits from "../../../src/internal/limiter/limits.ts"
import * as Meter from "../../../src/internal/limiter/meter.ts"

const day = 86_400_000

const at = (mono: number): Meter.Now => ({ mono, wall: mono })

const ruleOf = (quota: Limits.Quota): Limits.Rule => {
  const [rule] = Limits.plan({ tokens: quota }).rules
  assert.isDefined(rule)
  return rule
}

// 10 tokens a second, 100 at once.
const continuous: Limits.Quota = { limit: 600, per: "1 minute", burst: 100 }
const sliding: Limits.Quota = { limit: 100, per: "1 minute", window: "sliding" }
const calendar: Limits.Quota = { limit: 100, per: "1 day", window: "calendar" }

const manner: Meter.Manner = { adaptive: false, lagMs: 0 }

const meterOf = (quota: Limits.Quota, adaptive = false): Meter.Meter =>
  Meter.make(ruleOf(quota), { ...manner, adaptive }, at(0))

const left = (meter: Meter.Meter, mono = 0): number => Meter.available(meter, at(mono))

describe("a meter", () => {
  it("has at once what its window gives at once, and a limit a window", () => {
    for (
      const [quota, capacity, limit, windowMs] of [
        [continuous, 100, 600, 60_000],
        [sliding, 100, 100, 60_000],
        [calendar, 100, 100, day],
        [{ ...calendar, per: "month" }, 100, 100, 30 * day]
      ] as const
    ) {
      const meter = meterOf(quota)
      assert.deepStrictEqual([left(meter), Meter.capacity(meter), Meter.limit(meter), meter.most], [
        capacity,
        capacity,
        limit,
        capacity
      ])
      assert.strictEqual(Meter.windowOf(ruleOf(quota)), windowMs)
    }
  })

  it("learns when it is told to, unless it counts by the calendar", () => {
    for (const [quota, limit] of [[continuous, 600], [sliding, 100]] as const) {
      assert.isUndefined(meterOf(quota).learner)
      assert.deepInclude(meterOf(quota, true).learner?.options, {
        windowMs: 60_000,
        initial: limit,
        ceiling: limit,
        floor: Math.max(1, limit / 100)
      })
    }
    assert.isUndefined(meterOf(calendar, true).learner)
    assert.strictEqual(meterOf({ limit: 0.5, per: "1 minute" }, true).learner?.options.floor, 0.5)
    assert.strictEqual(meterOf({ limit: 50, per: "1 minute" }, true).learner?.options.floor, 1)
  })

  it("of an interval lets one pass, and saves nothing up", () => {
    const meter = Meter.interval(200, at(0))
    assert.deepStrictEqual([left(meter), Meter.capacity(meter), Meter.limit(meter)], [1, 1, 1])
    Meter.charge(meter, 1, at(0))
    assert.deepStrictEqual([0, 100, 200, 900].map((mono) => left(meter, mono)), [0, 0.5, 1, 1])
  })

  it("that is guessed has a sixth of its limit at once, and no bound", () => {
    const meter = Meter.guessed(ruleOf({ limit: 600, per: "1 minute" }), at(0))
    assert.deepStrictEqual([left(meter), Meter.limit(meter), meter.most], [100, 600, Number.POSITIVE_INFINITY])
    Meter.charge(meter, 100, at(0))
    assert.closeTo(left(meter, 1000), 10, 1e-9)
    assert.deepInclude(meter.learner?.options, { initial: 600, floor: 6, ceiling: Number.POSITIVE_INFINITY })
    assert.strictEqual(Meter.capacity(Meter.guessed(ruleOf({ limit: 3, per: "1 minute" }), at(0))), 1)
  })
})

describe("the wait", () => {
  const waits = (
    table: ReadonlyArray<readonly [amount: number, ahead: number, kept: number, wait: number]>,
    blockedUntil = Number.NEGATIVE_INFINITY
  ): void => {
    for (const [amount, ahead, kept, wait] of table) {
      const meter = meterOf(continuous)
      Meter.charge(meter, 60, at(0))
      meter.blockedUntil = blockedUntil
      assert.closeTo(Meter.waitFor(meter, amount, ahead, kept, at(0)), wait, 1e-6, `${amount} ${ahead} ${kept}`)
    }
  }

  it("is for what others take before, and for what is kept", () => {
    waits([
      [0, 0, 0, 0],
      [0, 0, 90, 0],
      [40, 0, 0, 0],
      [50, 0, 0, 1000],
      [40, 0, 10, 1000],
      [30, 20, 0, 1000],
      [0, 50, 0, 1000],
      [0, 50, 10, 2000]
    ])
  })

  it("of more than there is room for is that of all there is, and of others before", () => {
    waits([[100, 0, 0, 6000], [250, 0, 0, 6000], [90, 0, 50, 6000], [250, 10, 0, 7000]])
  })

  it("is at least as long as a provider has asked to wait, and nothing where that is over", () => {
    waits([[0, 0, 0, 500], [40, 0, 0, 500], [50, 0, 0, 1000]], 500)
    waits([[0, 0, 0, 0.002], [40, 0, 0, 0.002]], 0.002)
    waits([[0, 0, 0, 0], [40, 0, 0, 0]], 0.0005)
  })

  it("until all is back is that of the whole", () => {
    const meter = meterOf(continuous)
    assert.strictEqual(Meter.resetAfter(meter, at(0)), 0)
    Meter.charge(meter, 60, at(0))
    assert.closeTo(Meter.resetAfter(meter, at(0)), 6000, 1e-6)
    const log = meterOf(sliding)
    Meter.charge(log, 5, at(0))
    Meter.charge(log, 5, at(10))
    assert.strictEqual(Meter.resetAfter(log, at(10)), 60_000)
    const daily = meterOf(calendar)
    Meter.charge(daily, 5, at(0))
    assert.strictEqual(Meter.resetAfter(daily, at(10)), day - 10)
  })
})

describe("a correction", () => {
  for (const [name, quota] of [["bucket", continuous], ["log", sliding], ["calendar", calendar]] as const) {
    it(`of a ${name} gives back what was not used, and makes bounded debt of what was used beyond`, () => {
      const meter = meterOf(quota)
      const stamp = Meter.charge(meter, 60, at(0))
      assert.strictEqual(left(meter), 40)
      Meter.correct(meter, stamp, -20, 1, at(0))
      assert.strictEqual(left(meter), 60)
      Meter.correct(meter, stamp, 0, 1, at(0))
      assert.strictEqual(left(meter), 60)
      Meter.correct(meter, stamp, 0.5, 1, at(0))
      assert.strictEqual(left(meter), 59.5)
      Meter.correct(meter, stamp, 1, 1, at(0))
      assert.strictEqual(left(meter), 58.5)
      Meter.correct(meter, stamp, 78.5, 1, at(0))
      assert.strictEqual(left(meter), -20)
      Meter.correct(meter, stamp, 900, 0.5, at(0))
      assert.strictEqual(left(meter), -50)
    })
  }

  it("of a window that is over, or of nothing, changes nothing", () => {
    for (const quota of [sliding, calendar]) {
      const meter = meterOf(quota)
      const stamp = Meter.charge(meter, 60, at(0))
      Meter.correct(meter, undefined, -20, 1, at(0))
      assert.strictEqual(left(meter), 40)
      Meter.correct(meter, stamp, 20, 1, at(day))
      assert.strictEqual(left(meter, day), 100)
    }
  })
})

describe("another limit", () => {
  it("of the same window keeps what is used, what is blocked and what was noted", () => {
    for (const quota of [continuous, sliding, calendar]) {
      const meter = meterOf(quota)
      Meter.charge(meter, 60, at(0))
      Meter.reconcile(meter, 40, 0, at(0))
      meter.blockedUntil = 77
      const next = Meter.configure(meter, ruleOf({ ...quota, limit: 300 }), manner, at(0))
      assert.strictEqual(next._tag, meter._tag)
      assert.deepStrictEqual([next.blockedUntil, next.history], [77, meter.history])
      assert.isDefined(next.history)
      assert.strictEqual(Meter.limit(next), 300)
      assert.strictEqual(left(next), quota === continuous ? 40 : 240)
      assert.strictEqual(next.most, quota === continuous ? 100 : 300)
    }
  })

  it("of a bucket counts at the new rate from now on, and goes on learning if it did", () => {
    const meter = meterOf(continuous, true)
    Meter.charge(meter, 100, at(0))
    const next = Meter.configure(meter, ruleOf({ limit: 1200, per: "1 minute", burst: 50 }), manner, at(1000))
    assert.closeTo(left(next, 1000), 10, 1e-9)
    assert.closeTo(left(next, 2000), 30, 1e-9)
    assert.strictEqual(left(next, 60_000), 50)
    assert.strictEqual(next.learner?.options.ceiling, 1200)
    assert.isUndefined(Meter.configure(meterOf(continuous), ruleOf(continuous), manner, at(0)).learner)
  })
})

describe("what a provider states", () => {
  it("lowers a limit, and never raises it above what is configured", () => {
    for (const [quota, capacity] of [[continuous, 50], [sliding, 50], [calendar, 50]] as const) {
      const meter = meterOf(quota)
      const limit = Meter.limit(meter)
      Meter.state(meter, limit / 2, at(0))
      assert.strictEqual(Meter.capacity(meter), capacity)
      Meter.state(meter, limit * 2, at(0))
      assert.strictEqual(Meter.capacity(meter), 100)
    }
    const interval = Meter.interval(200, at(0))
    Meter.state(interval, 0.5, at(0))
    assert.strictEqual(Meter.capacity(interval), 1)
  })

  it("leaves a bucket as much of its burst as of its limit", () => {
    const meter = meterOf({ ...continuous, burst: 300 })
    Meter.state(meter, 200, at(0))
    assert.strictEqual(Meter.capacity(meter), 100)
  })

  it("leaves a bucket room for one at least", () => {
    const meter = meterOf(continuous)
    Meter.state(meter, 1, at(0))
    assert.strictEqual(Meter.capacity(meter), 1)
    Meter.charge(meter, 1, at(0))
    assert.closeTo(left(meter, 30_000), 0.5, 1e-9)
  })

  it("becomes the limit of a meter that learns, and that of a guess without a bound", () => {
    const meter = meterOf(continuous, true)
    Meter.state(meter, 300, at(0))
    assert.deepStrictEqual([Meter.limit(meter), Meter.capacity(meter)], [300, 50])
    const log = meterOf(sliding, true)
    Meter.state(log, 40, at(0))
    assert.deepStrictEqual([Meter.limit(log), Meter.capacity(log)], [40, 40])
    const guess = Meter.guessed(ruleOf({ limit: 60, per: "1 minute" }), at(0))
    Meter.state(guess, 6000, at(0))
    assert.deepStrictEqual([Meter.limit(guess), Meter.capacity(guess)], [6000, 1000])
    Meter.state(guess, 3, at(0))
    assert.strictEqual(Meter.capacity(guess), 1)
  })

  it("in a refusal empties the bucket, and nothing is saved up during the wait", () => {
    const meter = meterOf(continuous, true)
    const { learner } = meter
    assert.isDefined(learner)
    Meter.charge(meter, 1, at(0))
    Meter.learn(meter, learner, { _tag: "Throttled", sentAt: 0, cost: 1, retryAfterMs: 2000, random: 0 }, at(5000))
    assert.deepStrictEqual([meter.blockedUntil, left(meter, 5000), left(meter, 7000)], [7000, 0, 0])
    assert.isAbove(left(meter, 7100), 0)
    assert.isBelow(Meter.limit(meter), 600)
    // One that comes with less to wait does not shorten it.
    Meter.learn(meter, learner, { _tag: "Throttled", sentAt: 5500, cost: 1, retryAfterMs: 10, random: 0 }, at(6000))
    assert.strictEqual(meter.blockedUntil, 7000)
  })

  it("when it serves raises what had been lowered", () => {
    const meter = meterOf(continuous, true)
    const { learner } = meter
    assert.isDefined(learner)
    for (let mono = 0; mono < 5000; mono += 100) Meter.charge(meter, 1, at(mono))
    Meter.learn(
      meter,
      learner,
      { _tag: "Throttled", sentAt: 4900, cost: 1, retryAfterMs: undefined, random: 0 },
      at(5000)
    )
    const lowered = Meter.limit(meter)
    Meter.served(meter, learner, 5001, at(5001))
    for (let mono = 5001; mono < 30_000; mono += 100) {
      Meter.charge(meter, 1, at(mono))
      Meter.served(meter, learner, mono, at(mono))
    }
    assert.isAbove(Meter.limit(meter), lowered)
    assert.closeTo(Meter.capacity(meter), Meter.limit(meter) / 6, 1e-9)
    const grown = Meter.limit(meter)
    // Without use there is nothing to learn.
    for (let mono = 200_000; mono < 300_000; mono += 10_000) Meter.served(meter, learner, mono, at(mono))
    assert.strictEqual(Meter.limit(meter), grown)
  })
})

describe("the outlook of a wait", () => {
  it("is the part of what is known that a cut limit has left", () => {
    const meter = meterOf(continuous, true)
    const { learner } = meter
    if (learner === undefined) return assert.fail("no learner")
    const outlook = (limit: number, known: number): number =>
      Meter.outlook({ ...meter, learner: { ...learner, state: { ...learner.state, limit, known } } })
    assert.deepStrictEqual([outlook(300, 600), outlook(600, 300), outlook(600, 0), outlook(0.25, 0.5)], [
      0.5,
      1,
      1,
      0.25
    ])
    assert.strictEqual(Meter.outlook(meterOf(continuous)), 1)
  })
})

describe("a balance that a provider states", () => {
  it("counts as of when the request was sent: what came back since is added, what was sent since is taken", () => {
    const meter = meterOf(continuous)
    Meter.charge(meter, 30, at(0))
    Meter.reconcile(meter, 50, 0, at(1000))
    assert.closeTo(left(meter, 1000), 60, 1e-9)
    Meter.charge(meter, 5, at(2000))
    Meter.reconcile(meter, 40, 1500, at(2500))
    assert.closeTo(left(meter, 2500), 45, 1e-9)
    // What was sent at the same time is in the balance.
    Meter.reconcile(meter, 20, 2000, at(2500))
    assert.closeTo(left(meter, 2500), 25, 1e-9)
    const stamp = Meter.charge(meter, 10, at(2600))
    Meter.correct(meter, stamp, -4, 1, at(2700))
    Meter.reconcile(meter, 15, 2550, at(2700))
    assert.closeTo(left(meter, 2700), 15 + 1.5 - 6, 1e-9)
  })

  it("only ever lowers what is left, and to a debt of the whole at most", () => {
    const meter = meterOf(continuous)
    Meter.charge(meter, 30, at(0))
    Meter.reconcile(meter, 71, 0, at(0))
    Meter.reconcile(meter, 70, 5000, at(0))
    assert.strictEqual(left(meter), 70)
    Meter.reconcile(meter, 69.5, 0, at(0))
    assert.strictEqual(left(meter), 69.5)
    Meter.charge(meter, 60, at(10))
    Meter.charge(meter, 60, at(20))
    Meter.reconcile(meter, 0, 0, at(20))
    assert.closeTo(left(meter, 20), -100, 1e-9)
  })

  it("of a window in which nothing comes back before its end is what it is", () => {
    for (const quota of [sliding, calendar]) {
      const meter = meterOf(quota)
      Meter.charge(meter, 30, at(0))
      Meter.reconcile(meter, 40, 0, at(1000))
      assert.strictEqual(left(meter, 1000), 40)
    }
  })

  it("given back more than was taken is nothing sent, and what is long ago is forgotten", () => {
    const meter = meterOf({ limit: 6e6, per: "1 minute", burst: 1e6 })
    Meter.reconcile(meter, 1e6, 0, at(0))
    const stamp = Meter.charge(meter, 10, at(1))
    Meter.correct(meter, stamp, -10, 1, at(3))
    Meter.reconcile(meter, 500_000, 2, at(3))
    assert.closeTo(left(meter, 3), 500_000 + 100, 1e-6)
    for (let mono = 10; mono < 1010; mono++) Meter.charge(meter, 1, at(mono))
    assert.isAtMost(meter.history?.times.length ?? 0, 256)
    Meter.reconcile(meter, 300_000, 999, at(1009))
    assert.closeTo(left(meter, 1009), 300_000 + 1000 - 10, 1e-6)
    Meter.reconcile(meter, 100_000, 900, at(1009))
    assert.closeTo(left(meter, 1009), 100_000 + 10_900 - 109, 1e-6)
  })
})
