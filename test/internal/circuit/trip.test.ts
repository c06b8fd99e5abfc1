import { assert, describe, it } from "@effect/vitest"
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import * as Trip from "../../../src/internal/circuit/trip.ts"

const never = Number.NEGATIVE_INFINITY

const ok: Trip.Sample = { failure: undefined, weight: 0, durationMs: 10, firstTokenMs: undefined, hintUntil: never }
const failed = (failure: Trip.FailureClass = "server_error", weight = 1): Trip.Sample => ({ ...ok, failure, weight })
const took = (durationMs: number, firstTokenMs?: number): Trip.Sample => ({ ...ok, durationMs, firstTokenMs })

/** The number of the call that trips a rule, from 1, when one call is made each `everyMs`. */
const tripsAt = (rule: Trip.Rule, samples: ReadonlyArray<Trip.Sample>, everyMs = 0): number | undefined => {
  let memory = Trip.initial(rule)
  for (const [index, sample] of samples.entries()) {
    memory = Trip.record(rule, memory, sample, index * everyMs)
    if (Trip.trips(Trip.read(rule, memory, index * everyMs))) return index + 1
  }
  return undefined
}

const repeat = <A>(times: number, ...values: ReadonlyArray<A>): ReadonlyArray<A> =>
  Array.from({ length: times }, () => values).flat()

describe("consecutive", () => {
  it("trips at the n-th failure in a row, which only a success ends", () => {
    const rule = CircuitBreaker.consecutive(3)
    assert.strictEqual(tripsAt(rule, repeat(3, failed())), 3)
    assert.isUndefined(tripsAt(rule, repeat(20, failed(), failed(), ok)))
  })

  it("neither counts a class it is not for nor ends its row with it", () => {
    const rule = CircuitBreaker.consecutive(2, { classes: ["timeout"] })
    assert.isUndefined(tripsAt(rule, repeat(20, failed("server_error"))))
    assert.strictEqual(tripsAt(rule, [failed("timeout"), failed("server_error"), failed("timeout")]), 3)
  })

  it("counts failures by weight", () => {
    const rule = CircuitBreaker.consecutive(3, { weights: { timeout: 2, unknown: 0.5 } })
    assert.strictEqual(tripsAt(rule, repeat(3, failed("timeout"))), 2)
    assert.strictEqual(tripsAt(rule, repeat(9, failed("unknown"))), 6)
    assert.strictEqual(tripsAt(rule, repeat(9, failed("server_error", 3))), 1)
  })
})

it("a failure that a rule does not count states no wait to it, and a success counts nothing whatever its weight", () => {
  const rule = CircuitBreaker.consecutive(2, { classes: ["timeout"] })
  const begun = Trip.record(rule, Trip.initial(rule), { ...failed("timeout"), hintUntil: 100 }, 0)
  const other = Trip.record(rule, begun, { ...failed("server_error"), hintUntil: 900 }, 0)
  assert.deepInclude(Trip.read(rule, other, 0), { value: 1, hintUntil: 100 })
  const rate = CircuitBreaker.countWindow({ size: 4 })
  assert.strictEqual(Trip.read(rate, Trip.record(rate, Trip.initial(rate), { ...ok, weight: 3 }, 0), 0).value, 0)
})

describe("a reading", () => {
  it("of a window without calls is nothing, of the first failure all", () => {
    for (
      const rule of [
        CircuitBreaker.countWindow({ size: 4, minimumCalls: 3 }),
        CircuitBreaker.slowCalls({ duration: 5 })
      ]
    ) {
      const empty = Trip.read(rule, Trip.initial(rule), 0)
      assert.deepInclude(empty, { rule: rule._tag, calls: 0, value: 0, hintUntil: never })
      const one = Trip.record(rule, Trip.initial(rule), { ...failed(), durationMs: 10 }, 0)
      assert.deepInclude(Trip.read(rule, one, 0), { calls: 1, value: 1 })
    }
  })

  it("of a ratio needs no more calls than it has failures", () => {
    const rule = CircuitBreaker.ratio({ failures: 2, outOf: 5 })
    const memory = Trip.record(rule, Trip.initial(rule), failed("timeout", 7), 0)
    assert.deepStrictEqual(Trip.read(rule, memory, 0), {
      rule: "Ratio",
      calls: 1,
      minimumCalls: 0,
      value: 1,
      bound: 2,
      hintUntil: never
    })
  })
})

describe("windows", () => {
  it("T19: no share trips below the minimum of calls", () => {
    for (
      const rule of [
        CircuitBreaker.countWindow({ size: 10, minimumCalls: 10, threshold: 0.1 }),
        CircuitBreaker.timeWindow({ minimumCalls: 10, threshold: 0.1 }),
        CircuitBreaker.slowCalls({ duration: 5, minimumCalls: 10, threshold: 0.1 })
      ]
    ) {
      assert.strictEqual(tripsAt(rule, repeat(10, failed())), 10)
    }
  })

  it("trip at exactly the threshold, also on a success that completes the sample", () => {
    const rule = CircuitBreaker.countWindow({ size: 10, minimumCalls: 4, threshold: 0.5 })
    assert.strictEqual(tripsAt(rule, [failed(), failed(), ok, ok]), 4)
    assert.isUndefined(tripsAt(rule, repeat(20, ok, ok, failed())))
  })

  it("of time forget what is older, however few calls there were since", () => {
    const rule = CircuitBreaker.timeWindow({ window: "1 minute", minimumCalls: 4, threshold: 0.5 })
    assert.isUndefined(tripsAt(rule, repeat(50, failed()), 25_000))
    assert.strictEqual(tripsAt(rule, repeat(4, failed()), 10_000), 4)
  })
})

describe("ratio", () => {
  it("trips as soon as n of the last m have failed", () => {
    const rule = CircuitBreaker.ratio({ failures: 2, outOf: 3 })
    assert.strictEqual(tripsAt(rule, [failed(), failed()]), 2)
    assert.strictEqual(tripsAt(rule, [failed(), ok, failed()]), 3)
    assert.isUndefined(tripsAt(rule, repeat(20, failed(), ok, ok)))
  })
})

describe("slow calls", () => {
  it("takes a call at exactly the limit as fast", () => {
    const rule = CircuitBreaker.slowCalls({ duration: 100, minimumCalls: 2 })
    assert.isUndefined(tripsAt(rule, repeat(20, took(100))))
    assert.strictEqual(tripsAt(rule, [took(101), took(100)]), 2)
  })

  it("to the first token leaves out calls that have none", () => {
    const rule = CircuitBreaker.slowCalls({ firstToken: 100, minimumCalls: 2 })
    assert.isUndefined(tripsAt(rule, repeat(20, took(60_000))))
    assert.strictEqual(tripsAt(rule, [took(9, 200), took(60_000), took(9, 200)]), 3)
  })
})

describe("trend", () => {
  it("trips before the bound is reached when failures rise towards it", () => {
    const rule = CircuitBreaker.trend({ of: "failures", bound: 0.5, horizon: "30 seconds" })
    const rising = Array.from({ length: 600 }, (_, call) => call % 10 < call / 100 ? failed() : ok)
    const at = tripsAt(rule, rising, 100)
    assert.isDefined(at)
    assert.isBelow(rising.slice(0, at).filter((sample) => sample.failure !== undefined).length / (at ?? 1), 0.5)
  })

  it("never trips on a level or falling rate below the bound", () => {
    const rule = CircuitBreaker.trend({ of: "failures", bound: 0.5, horizon: "30 seconds" })
    assert.isUndefined(tripsAt(rule, repeat(60, ...repeat(7, ok), ...repeat(3, failed())), 100))
    const falling = Array.from({ length: 600 }, (_, call) => call % 10 < 4 - call / 150 ? failed() : ok)
    assert.isUndefined(tripsAt(rule, falling, 100))
  })

  it("follows durations", () => {
    const rule = CircuitBreaker.trend({ of: "duration", bound: 1000 })
    const at = tripsAt(rule, Array.from({ length: 600 }, (_, call) => took(call * 2)), 100)
    assert.isDefined(at)
    assert.isBelow((at ?? 0) * 2, 1000)
    assert.isUndefined(tripsAt(rule, repeat(600, took(900)), 100))
  })
})

it("a call is slow by the limits of slow calls alone, by any of them", () => {
  const rules = [
    CircuitBreaker.consecutive(1),
    CircuitBreaker.slowCalls({ duration: 100 }),
    CircuitBreaker.slowCalls({ firstToken: 20 })
  ]
  const table = [[failed(), false], [took(100, 20), false], [took(101), true], [took(5, 21), true]] as const
  for (const [sample, slow] of table) assert.strictEqual(Trip.isSlow(rules, sample), slow)
  assert.isFalse(Trip.isSlow([], took(9999)))
})

describe("the line of a trend", () => {
  const rule = { ...CircuitBreaker.trend({ of: "duration", bound: 1e9, window: "10 seconds", horizon: "4 seconds" }) }
  const value = (calls: ReadonlyArray<readonly [at: number, millis: number]>, now: number): number =>
    Trip.read(
      rule,
      calls.reduce((memory, [at, millis]) => Trip.record(rule, memory, took(millis), at), Trip.initial(rule)),
      now
    )
      .value

  it("goes through the means of its buckets, each weighing as much as it has calls", () => {
    let seed = 5
    const random = (): number => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648
    let rising = 0
    for (let round = 0; round < 40; round++) {
      const calls: Array<readonly [number, number]> = []
      const points: Array<readonly [at: number, millis: number]> = []
      // A bucket lasts a second from its first call.
      for (let bucket = 0; bucket < 9; bucket++) {
        const begin = 5000 + bucket * 1100 + Math.floor(100 * random())
        const all = Array.from({ length: 1 + Math.floor(4 * random()) }, () => 4 * bucket + Math.floor(200 * random()))
        const mean = all.reduce((sum, millis) => sum + millis, 0) / all.length
        for (const millis of all) {
          calls.push([begin, millis])
          points.push([begin + 500, mean])
        }
      }
      const now = 14_500
      const at = points.reduce((sum, [at]) => sum + at, 0) / points.length
      const mean = points.reduce((sum, [, millis]) => sum + millis, 0) / points.length
      const slope = points.reduce((sum, [x, y]) => sum + (x - at) * (y - mean), 0) /
        points.reduce((sum, [x]) => sum + (x - at) ** 2, 0)
      if (slope > 0) rising++
      assert.closeTo(value(calls, now), slope > 0 ? mean + slope * (now + 4000 - at) : 0, 1e-6)
    }
    assert.isAbove(rising, 10)
    assert.isBelow(rising, 40)
  })

  const line = (buckets: number): ReadonlyArray<readonly [number, number]> =>
    Array.from({ length: buckets }, (_, bucket) => [bucket * 1000, 100 + 10 * bucket] as const)

  it("needs half of the window, and leaves out what is as old as the window", () => {
    assert.strictEqual(value(line(4), 3000), 0)
    assert.closeTo(value(line(5), 4000), 175, 1e-9)
    assert.closeTo(value(line(5), 9999), 234.99, 1e-9)
    assert.strictEqual(value(line(5), 10_000), 0)
  })

  it("is nothing where it is level or falls", () => {
    const level = Array.from({ length: 8 }, (_, bucket) => [bucket * 1000, 500] as const)
    assert.strictEqual(value(level, 7000), 0)
    assert.strictEqual(value(level.map(([at], bucket) => [at, 500 - bucket] as const), 7000), 0)
  })
})

it("says why in round figures", () => {
  const table: ReadonlyArray<readonly [Pick<Trip.Reading, "rule" | "value" | "calls">, string]> = [
    [{ rule: "Consecutive", value: 1, calls: 1 }, "1 consecutive failure"],
    [{ rule: "Consecutive", value: 3, calls: 3 }, "3 consecutive failures"],
    [{ rule: "Ratio", value: 2, calls: 5 }, "2 of the last 5 calls failed"],
    [{ rule: "Rate", value: 2 / 3, calls: 6 }, "67 % of 6 calls failed"],
    [{ rule: "SlowCalls", value: 0.5, calls: 4 }, "50 % of 4 calls were slow"],
    [{ rule: "Trend", value: 1234.5, calls: 50 }, "a trend over 50 calls reaches 1230"]
  ]
  for (const [reading, text] of table) {
    assert.strictEqual(Trip.describe({ ...reading, minimumCalls: 0, bound: 1, hintUntil: never }), text)
  }
})

it("of rules that trip with the same wait the first one counts, and none where none trips", () => {
  const rules = [CircuitBreaker.ratio({ failures: 1, outOf: 5 }), CircuitBreaker.consecutive(1)]
  const tripped = (samples: ReadonlyArray<Trip.Sample>, order = rules): string | undefined =>
    Trip.tripped(
      order,
      order.map((rule) => samples.reduce((memory, sample) => Trip.record(rule, memory, sample, 0), Trip.initial(rule))),
      0
    )?.rule
  assert.strictEqual(tripped([{ ...failed(), hintUntil: 50 }]), "Ratio")
  assert.strictEqual(tripped([{ ...failed(), hintUntil: 50 }], rules.toReversed()), "Consecutive")
  // The wait of the call before is none of the row's.
  assert.strictEqual(tripped([{ ...failed(), hintUntil: 50 }, ok, failed()]), "Ratio")
  assert.isUndefined(tripped([ok]))
})

it("of several rules that trip, the one with the longest stated wait counts", () => {
  const rules = [CircuitBreaker.consecutive(1), CircuitBreaker.ratio({ failures: 1, outOf: 5 })]
  const first = rules.map((rule) => Trip.record(rule, Trip.initial(rule), { ...failed(), hintUntil: 9000 }, 0))
  const second = rules.map((rule, index) => Trip.record(rule, first[index] ?? Trip.initial(rule), ok, 0))
  const third = rules.map((rule, index) => Trip.record(rule, second[index] ?? Trip.initial(rule), failed(), 0))
  assert.strictEqual(Trip.tripped(rules, third, 0)?.rule, "Ratio")
  assert.strictEqual(Trip.tripped(rules, third, 0)?.hintUntil, 9000)
})
