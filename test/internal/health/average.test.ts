import { assert, describe, it } from "@effect/vitest"
import * as Average from "../../../src/internal/health/average.ts"

const tau = 10_000

describe("an average that forgets by time", () => {
  it("keeps a third of what was known after the time constant, and all of it at once or when the clock goes back", () => {
    assert.closeTo(Average.timeWeighted(100, 0, tau, tau), 100 / Math.E, 1e-9)
    assert.closeTo(Average.timeWeighted(100, 40, tau, tau), 40 + 60 / Math.E, 1e-9)
    assert.strictEqual(Average.timeWeighted(100, 40, 0, tau), 100)
    assert.strictEqual(Average.timeWeighted(100, 40, -5000, tau), 100)
  })
})

describe("a peak", () => {
  it("is replaced at once by what is no shorter, and approaches what is", () => {
    const first = Average.observePeak(Average.noPeak, 1, tau, 5000)
    assert.deepStrictEqual(first, { millis: 1, at: 5000 })
    const peak = Average.observePeak(first, 100, tau, 6000)
    assert.deepStrictEqual(peak, { millis: 100, at: 6000 })
    assert.deepStrictEqual(Average.observePeak(peak, 100, tau, 7000), { millis: 100, at: 7000 })
    const after = Average.observePeak(peak, 40, tau, 6000 + tau)
    assert.strictEqual(after.at, 6000 + tau)
    assert.closeTo(after.millis, 40 + 60 / Math.E, 1e-9)
  })

  it("stands still while the clock goes back", () => {
    const peak = { millis: 100, at: 6000 }
    assert.deepStrictEqual(Average.observePeak(peak, 40, tau, 1000), peak)
    assert.strictEqual(Average.readPeak(peak, tau, 1000), 100)
  })

  it("fades, however short it is, and is nothing where nothing is known", () => {
    assert.closeTo(Average.readPeak({ millis: 100, at: 6000 }, tau, 6000 + tau), 100 / Math.E, 1e-9)
    assert.strictEqual(Average.readPeak({ millis: 1, at: 6000 }, tau, 6000), 1)
    assert.strictEqual(Average.readPeak(Average.noPeak, tau, 6000), 0)
    assert.strictEqual(Average.noPeak.millis, 0)
  })
})

it("one more request costs its time for each that is ahead and itself, and a guess where only pending is known", () => {
  assert.strictEqual(Average.cost(200, 0, 30_000), 200)
  assert.strictEqual(Average.cost(200, 3, 30_000), 800)
  assert.strictEqual(Average.cost(0, 0, 30_000), 0)
  assert.strictEqual(Average.cost(0, 2, 30_000), 30_002)
})
