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

it("of several rules that trip, the one with the longest stated wait counts", () => {
  const rules = [CircuitBreaker.consecutive(1), CircuitBreaker.ratio({ failures: 1, outOf: 5 })]
  const first = rules.map((rule) => Trip.record(rule, Trip.initial(rule), { ...failed(), hintUntil: 9000 }, 0))
  const second = rules.map((rule, index) => Trip.record(rule, first[index] ?? Trip.initial(rule), ok, 0))
  const third = rules.map((rule, index) => Trip.record(rule, second[index] ?? Trip.initial(rule), failed(), 0))
  assert.strictEqual(Trip.tripped(rules, third, 0)?.rule, "Ratio")
  assert.strictEqual(Trip.tripped(rules, third, 0)?.hintUntil, 9000)
})
