import { assert, describe, it } from "@effect/vitest"
import * as Shedding from "../../../src/internal/limiter/shedding.ts"

const after = (refusals: ReadonlyArray<readonly [at: number, ownMs: number]>): Shedding.Shedding => {
  const shedding = Shedding.make(0)
  for (const [at, ownMs] of refusals) Shedding.refused(shedding, ownMs, at)
  return shedding
}

describe("shedding", () => {
  it("a few refusals hold nobody back", () => {
    const shedding = after(Array.from({ length: 7 }, (_, n) => [n, 2000] as const))
    assert.strictEqual(Shedding.floorMs(shedding, 10), 0)
  })

  it("in an overload everybody is held to the largest that was refused", () => {
    const shedding = after(Array.from({ length: 8 }, (_, n) => [n, n === 3 ? 2400 : 100] as const))
    assert.strictEqual(Shedding.floorMs(shedding, 10), 2400)
  })

  it("refusals of this half of a minute and the one before count together", () => {
    const four = (at: number, ownMs: number) => Array.from({ length: 4 }, () => [at, ownMs] as const)
    assert.strictEqual(Shedding.floorMs(after([...four(10, 700), ...four(29_999, 500)]), 30_000), 700)
    assert.strictEqual(Shedding.floorMs(after([...four(10, 700), ...four(30_000, 500)]), 30_001), 700)
    assert.strictEqual(Shedding.floorMs(after([...four(10, 700), ...four(59_999, 900)]), 59_999), 900)
    assert.strictEqual(Shedding.floorMs(after([...four(10, 700), ...four(59_999, 900)]), 60_000), 0)
    assert.strictEqual(Shedding.floorMs(after([...four(10, 700), ...four(60_000, 500)]), 60_000), 0)
  })

  it("what was refused before is forgotten with its half of a minute, and one that passes idle forgets all", () => {
    const nine = (at: number, ownMs: number) => Array.from({ length: 9 }, () => [at, ownMs] as const)
    const shedding = after([...nine(10, 900), ...nine(30_000, 300)])
    assert.strictEqual(Shedding.floorMs(shedding, 59_999), 900)
    assert.strictEqual(Shedding.floorMs(shedding, 60_000), 300)
    assert.strictEqual(Shedding.floorMs(shedding, 89_999), 300)
    assert.strictEqual(Shedding.floorMs(shedding, 90_000), 0)
    const idle = after(nine(10, 900))
    assert.strictEqual(Shedding.floorMs(idle, 95_000), 0)
    // Halves of minutes are counted from the first.
    for (let each = 0; each < 9; each++) Shedding.refused(idle, 100, 119_000)
    assert.strictEqual(Shedding.floorMs(idle, 119_000), 100)
    assert.strictEqual(Shedding.floorMs(idle, 149_999), 100)
    assert.strictEqual(Shedding.floorMs(idle, 150_000), 0)
  })

  it("nothing is left of it after that", () => {
    const nothing = after(Array.from({ length: 9 }, () => [10, 900] as const))
    assert.strictEqual(Shedding.floorMs(nothing, 95_000), 0)
    for (let each = 0; each < 7; each++) Shedding.refused(nothing, 0.25, 95_000)
    assert.strictEqual(Shedding.floorMs(nothing, 95_000), 0)
    Shedding.refused(nothing, 0.5, 95_000)
    assert.strictEqual(Shedding.floorMs(nothing, 95_000), 0.5)
  })

  it("begins with nothing, whenever that is", () => {
    const shedding = Shedding.make(500_000)
    assert.strictEqual(Shedding.floorMs(shedding, 500_000), 0)
    for (let each = 0; each < 8; each++) Shedding.refused(shedding, 0, 500_000)
    assert.strictEqual(Shedding.floorMs(shedding, 529_999), 0)
    Shedding.refused(shedding, 40, 529_999)
    assert.strictEqual(Shedding.floorMs(shedding, 559_999), 40)
  })

  it("an overload is over a minute after its last refusal, and its largest is forgotten with it", () => {
    const shedding = after(Array.from({ length: 20 }, () => [29_000, 2400] as const))
    assert.strictEqual(Shedding.floorMs(shedding, 59_999), 2400)
    assert.strictEqual(Shedding.floorMs(shedding, 60_000), 0)
  })
})
