import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Windows from "../../../src/internal/circuit/window.ts"

const never = Windows.none.hintUntil

const fill = (window: Windows.Window, calls: ReadonlyArray<readonly [at: number, value: number]>) =>
  calls.reduce<Windows.Window>((filled, [at, value]) => Windows.record(filled, value, never, at), window)

describe("a window of time", () => {
  it("drops a bucket once its first call is as old as the window", () => {
    const window = fill(Windows.time(10_000), Array.from({ length: 10 }, (_, second) => [second * 1000, 1] as const))
    assert.deepInclude(Windows.read(window, 9999), { calls: 10, sum: 10 })
    assert.deepInclude(Windows.read(window, 10_000), { calls: 9, sum: 9 })
    assert.deepInclude(Windows.read(window, 11_000), { calls: 8, sum: 8 })
    assert.deepInclude(Windows.read(window, 60_000), { calls: 0, sum: 0 })
  })

  it("tells the latest end of the waits that its calls state, whichever was stated first", () => {
    for (const hints of [[9000, 5000], [5000, 9000]]) {
      const window = hints.reduce<Windows.Window>(
        (filled, hint) => Windows.record(filled, 1, hint, 0),
        Windows.time(1000)
      )
      assert.strictEqual(Windows.read(window, 999).hintUntil, 9000)
      assert.strictEqual(Windows.read(window, 1000).hintUntil, never)
    }
  })

  it("is one bucket when it is too short to be divided", () => {
    assert.strictEqual(Windows.time(199).bucketMs, 199)
    assert.strictEqual(Windows.time(200).bucketMs, 20)
  })

  it("holds at most eleven buckets, whatever is recorded", () => {
    let window: Windows.Window = Windows.time(1000)
    for (let at = 0; at < 100_000; at += 37) window = Windows.record(window, 1, never, at)
    assert.isTrue(window._tag === "Time" && window.buckets.length <= 11)
  })

  it.prop(
    "counts every call of the last nine tenths and none that is as old as the window",
    { gaps: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 400 }))) },
    ({ gaps }) => {
      let window: Windows.Window = Windows.time(1000)
      let now = 0
      const calls: Array<number> = []
      for (const gap of gaps) {
        now += gap
        calls.push(now)
        window = Windows.record(window, 1, never, now)
      }
      const counted = Windows.read(window, now).calls
      assert.isAtLeast(counted, calls.filter((at) => now - at < 900).length)
      assert.isAtMost(counted, calls.filter((at) => now - at < 1000).length)
    }
  )
})

describe("a window of calls", () => {
  it.prop(
    "sums exactly the last calls",
    {
      size: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 20 })),
      values: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 })))
    },
    ({ size, values }) => {
      const totals = Windows.read(fill(Windows.count(size), values.map((value) => [0, value] as const)), 0)
      const last = values.slice(-size)
      assert.deepInclude(totals, { calls: last.length, sum: last.reduce((sum, value) => sum + value, 0) })
    }
  )

  it("goes on from any window it was before", () => {
    const full = fill(Windows.count(2), [[0, 3], [0, 5]])
    Windows.record(full, 7, never, 0)
    assert.deepInclude(Windows.read(Windows.record(full, 1, never, 0), 0), { calls: 2, sum: 6 })
  })

  it("keeps a wait only where one is stated", () => {
    const window = Windows.record(Windows.record(Windows.count(3), 1, never, 0), 1, 5000, 0)
    assert.isTrue(window._tag === "Count" && window.hints.length === 1)
  })

  it("forgets a stated wait with the call that stated it", () => {
    const stated = Windows.record(Windows.count(2), 1, 5000, 0)
    const kept = Windows.record(stated, 0, never, 1)
    assert.strictEqual(Windows.read(kept, 1).hintUntil, 5000)
    assert.strictEqual(Windows.read(Windows.record(kept, 0, never, 2), 2).hintUntil, never)
  })
})

it("recording leaves the window before it as it was", () => {
  for (const before of [fill(Windows.count(2), [[0, 1], [0, 0]]), fill(Windows.time(1000), [[0, 1], [10, 0]])]) {
    const read = Windows.read(before, 20)
    Windows.record(before, 1, 9000, 20)
    assert.deepStrictEqual(Windows.read(before, 20), read)
  }
})
