import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Samples from "../../../src/internal/hedging/samples.ts"

const of = (values: ReadonlyArray<number>, capacity = 128): Samples.Samples => {
  const samples = Samples.make(capacity)
  for (const value of values) Samples.add(samples, value)
  return samples
}

describe("quantile", () => {
  it("is the smallest sample that the share does not exceed", () => {
    const ten = of([1, 1, 1, 1, 1, 1, 1, 1, 10, 10])
    assert.deepStrictEqual([0.5, 0.8, 0.81, 0.9, 1].map((share) => Samples.quantile(ten, share)), [1, 1, 10, 10, 10])
    const hundred = of(Array.from({ length: 100 }, (_, index) => 100 - index))
    // 0.07 × 100 is a little more than 7 in floating point.
    assert.deepStrictEqual([0.01, 0.07, 0.95, 0.99].map((share) => Samples.quantile(hundred, share)), [1, 7, 95, 99])
  })

  it("has no value without samples, and that of the only one", () => {
    assert.isUndefined(Samples.quantile(of([]), 0.95))
    assert.strictEqual(Samples.quantile(of([7]), 0.01), 7)
    assert.strictEqual(Samples.quantile(of([7, 3, 9]), 0), 3)
  })

  it.effect.prop("agrees with sorting the latest samples", {
    values: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20 }))),
    capacity: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 })),
    share: Schema.Number.check(Schema.isBetween({ minimum: 0.01, maximum: 1 }))
  }, ({ capacity, share, values }) =>
    Effect.sync(() => {
      const samples = Samples.make(capacity)
      for (const [index, value] of values.entries()) {
        Samples.add(samples, value)
        const latest = values.slice(Math.max(0, index + 1 - capacity), index + 1).toSorted((a, b) => a - b)
        const rank = Math.max(1, Math.ceil(share * latest.length - 1e-9))
        assert.strictEqual(samples.count, latest.length)
        assert.deepStrictEqual(Array.from(samples.sorted.subarray(0, samples.count)), latest)
        assert.strictEqual(Samples.quantile(samples, share), latest[rank - 1])
      }
    }))
})
