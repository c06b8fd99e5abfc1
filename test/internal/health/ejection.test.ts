import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Ejection from "../../../src/internal/health/ejection.ts"

const refusal = (
  why: Ejection.Refusal["why"],
  until: number,
  probing = false
): Ejection.Refusal => ({ why, until, probing })

describe("mayEject", () => {
  it("leaves out half of a pool at most, and never the last one (T19)", () => {
    for (let total = 0; total <= 30; total++) {
      let ejected = 0
      while (Ejection.mayEject(total, ejected)) ejected++
      assert.isAtMost(ejected, Math.max(0, total - 1), `of ${total}`)
      assert.strictEqual(ejected, total < 2 ? 0 : Math.ceil(total / 2), `of ${total}`)
    }
    assert.isTrue(Ejection.mayEject(201, 100))
    assert.isFalse(Ejection.mayEject(200, 100))
  })

  it("takes other shares, and keeps more than one if asked", () => {
    assert.isTrue(Ejection.mayEject(10, 0, { maxPercent: 10, keep: 1 }))
    assert.isFalse(Ejection.mayEject(10, 1, { maxPercent: 10, keep: 1 }))
    assert.isFalse(Ejection.mayEject(1, 0, { maxPercent: 0, keep: 0 }))
    assert.isFalse(Ejection.mayEject(4, 1, { maxPercent: 100, keep: 3 }))
  })
})

describe("overruled", () => {
  it("lets go first what ends first, until half of the pool is in use", () => {
    const open = (until: number) => refusal("circuit", until)
    assert.deepStrictEqual(Ejection.overruled([open(30), open(10), open(20), open(40)]), [1, 2])
    assert.deepStrictEqual(Ejection.overruled([open(30), undefined, undefined, open(40)]), [])
    assert.deepStrictEqual(Ejection.overruled([open(30)]), [0])
  })

  it("obeys every cooldown and what no request can heal, and counts them as left out", () => {
    const refusals = (["cooldown", "authentication", "isolated", "quota"] as const).map((why) => refusal(why, 5))
    assert.deepStrictEqual(Ejection.overruled([...refusals, refusal("circuit", 90)]), [4])
    assert.deepStrictEqual(Ejection.overruled(refusals), [])
  })
})

const Why = Schema.Literals(["circuit", "cooldown", "authentication", "isolated", "quota"])

const Refusals = Schema.Array(Schema.Struct({
  why: Why,
  until: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 200 })),
  probing: Schema.Boolean
})).check(Schema.isMaxLength(8))

describe("lastResort", () => {
  it("waits for what is free first, when that is before the deadline (T19)", () => {
    const refusals = [refusal("circuit", 50), refusal("cooldown", 30), refusal("circuit", 40)]
    assert.deepStrictEqual(Ejection.lastResort(refusals, 60, 10), { _tag: "Use", index: 1, at: 30 })
    assert.deepStrictEqual(Ejection.lastResort(refusals, 31, 10), { _tag: "Use", index: 1, at: 30 })
    assert.deepStrictEqual(Ejection.lastResort(refusals, 30, 10), { _tag: "Fail", recoversAt: 30 })
    assert.deepStrictEqual(Ejection.lastResort(refusals, 60, 35), { _tag: "Use", index: 1, at: 35 })
    assert.deepStrictEqual(Ejection.lastResort(refusals, 60, 55), { _tag: "Use", index: 0, at: 55 })
  })

  it("one call at a time goes to a member", () => {
    const refusals = [refusal("circuit", 50), refusal("cooldown", 30, true)]
    assert.deepStrictEqual(Ejection.lastResort(refusals, 100, 0), { _tag: "Use", index: 0, at: 50 })
    assert.deepStrictEqual(Ejection.lastResort([refusal("cooldown", 30, true)], 100, 0), {
      _tag: "Fail",
      recoversAt: 30
    })
  })

  it("never overrides a credential, an isolation or a spent quota", () => {
    for (const why of ["authentication", "isolated", "quota"] as const) {
      assert.deepStrictEqual(Ejection.lastResort([refusal(why, 5)], 100, 0), { _tag: "Fail", recoversAt: 5 })
      assert.deepStrictEqual(Ejection.lastResort([refusal(why, Infinity)], 100, 0), {
        _tag: "Fail",
        recoversAt: undefined
      })
    }
  })

  it.prop(
    "whatever is refused: what is used may be, recovers first of those, and before the deadline",
    [Refusals, Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 200 }))],
    ([refusals, deadlineAt]) => {
      const now = 20
      const choice = Ejection.lastResort(refusals, deadlineAt, now)
      const usable = refusals.filter((_) =>
        (_.why === "circuit" || _.why === "cooldown") && !_.probing && Math.max(now, _.until) < deadlineAt
      )
      if (choice._tag === "Fail") return assert.strictEqual(usable.length, 0)
      const chosen = refusals[choice.index]
      assert.isDefined(chosen)
      assert.include(usable, chosen)
      assert.isAtLeast(choice.at, Math.max(now, chosen?.until ?? 0))
      for (const other of usable) assert.isAtMost(choice.at, Math.max(now, other.until))
    }
  )
})
