import { assert, describe, it } from "@effect/vitest"
import * as Histogram from "../../../src/internal/health/histogram.ts"

/** Numbers in [0, 1) that are the same in every run. */
const randoms = (seed: number) => (): number => {
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed / 2147483648
}

const of = (all: ReadonlyArray<number>): Histogram.Histogram => {
  const histogram = Histogram.make(60_000, 0)
  for (const millis of all) Histogram.add(histogram, millis, 0)
  return histogram
}

const times = (count: number, millis: number): ReadonlyArray<number> => Array.from({ length: count }, () => millis)

/** The middle of the bucket that a duration lies in: buckets grow by a fifth. */
const middle = (bucket: number): number => 1.2 ** (bucket + 0.5)

describe("buckets", () => {
  const table: ReadonlyArray<readonly [millis: number, bucket: number]> = [
    [0, 0],
    [0.5, 0],
    [1, 0],
    [1.19, 0],
    [1.5, 2],
    [1000, 37],
    [900_000, 75],
    [10_000_000, 75]
  ]
  for (const [millis, bucket] of table) {
    it(`${millis} ms are in bucket ${bucket}`, () => {
      assert.deepStrictEqual(Histogram.quantiles(of([millis]), [0.01, 1]), [middle(bucket), middle(bucket)])
    })
  }
})

describe("quantiles", () => {
  it("are those of the samples, each weighing less the longer ago it was", () => {
    const tauMs = 1000
    const random = randoms(3)
    const histogram = Histogram.make(tauMs, 5000)
    const samples: Array<{ readonly bucket: number; readonly at: number }> = []
    let now = 5000
    for (let each = 0; each < 400; each++) {
      // Now and then a pause is longer than any weight lasts.
      now += random() < 0.01 ? 300_000 : 300 * random()
      const bucket = Math.floor(30 * random())
      Histogram.add(histogram, middle(bucket), now)
      samples.push({ bucket, at: now })
      const weights = Array.from({ length: 30 }, () => 0)
      for (const { at, bucket } of samples) weights[bucket] = (weights[bucket] ?? 0) + Math.exp((at - now) / tauMs)
      const total = weights.reduce((sum, weight) => sum + weight, 0)
      for (const [place, found] of (Histogram.quantiles(histogram, [0.1, 0.5, 0.95]) ?? []).entries()) {
        const share = [0.1, 0.5, 0.95][place] ?? 0
        const index = Math.round(Math.log(found) / Math.log(1.2) - 0.5)
        const below = weights.slice(0, index).reduce((sum, weight) => sum + weight, 0)
        assert.isAtMost(below, share * total * (1 + 1e-4))
        assert.isAtLeast(below + (weights[index] ?? 0), share * total * (1 - 1e-4))
      }
    }
  })

  it("are exact where a share ends with a bucket, and there are none without samples", () => {
    assert.deepStrictEqual(Histogram.quantiles(of([1, 1, 1000, 1000]), [0.5, 0.51]), [middle(0), middle(37)])
    assert.deepStrictEqual(Histogram.quantiles(of([1000, 1000]), [0]), [middle(37)])
    assert.isUndefined(Histogram.quantiles(of([]), [0.5]))
  })

  it("do not move with a clock that goes back", () => {
    const histogram = Histogram.make(1000, 0)
    Histogram.add(histogram, 1, 10_000)
    for (let each = 0; each < 3; each++) Histogram.add(histogram, 1000, 0)
    assert.deepStrictEqual(Histogram.quantiles(histogram, [0.2, 0.3]), [middle(0), middle(37)])
  })
})

describe("slow", () => {
  it("is the 95th percentile, looked up anew once an eighth more is known, and at the latest after 64", () => {
    for (const [known, more] of [[1, 1], [7, 1], [79, 9], [800, 64], [8000, 64]] as const) {
      const histogram = of(times(known, 1))
      assert.strictEqual(Histogram.slow(histogram), middle(0))
      // Heavy ones, so that they are the percentile as soon as they count.
      for (let each = 1; each <= more; each++) {
        if (each > 1) assert.strictEqual(Histogram.slow(histogram), middle(0), `${known} and ${each - 1}`)
        Histogram.add(histogram, 1000, 1_000_000)
      }
      assert.strictEqual(Histogram.slow(histogram), middle(37), `${known} and ${more}`)
    }
  })

  it("leaves out the slowest twentieth, and is unknown without samples", () => {
    assert.strictEqual(Histogram.slow(of([...times(95, 1), ...times(5, 1000)])), middle(0))
    assert.strictEqual(Histogram.slow(of([...times(94, 1), ...times(6, 1000)])), middle(37))
    const histogram = of([])
    assert.isUndefined(Histogram.slow(histogram))
    Histogram.add(histogram, 1000, 0)
    assert.strictEqual(Histogram.slow(histogram), middle(37))
  })
})
