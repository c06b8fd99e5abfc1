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

  it("an overload is over a minute after its last refusal, and its largest is forgotten with it", () => {
    const shedding = after(Array.from({ length: 20 }, () => [29_000, 2400] as const))
    assert.strictEqual(Shedding.floorMs(shedding, 59_999), 2400)
    assert.strictEqual(Shedding.floorMs(shedding, 60_000), 0)
  })
})
