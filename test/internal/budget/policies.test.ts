import { assert, describe, it } from "@effect/vitest"
import * as Policies from "../../../src/internal/budget/policies.ts"

const started: Policies.Event = { _tag: "Started" }
const withdrawn: Policies.Event = { _tag: "Withdrawn", cost: "transient" }
const refunded: Policies.Event = { _tag: "Refunded", cost: "transient" }
const ended = (outcome: Policies.Ended, retry = false): Policies.Event => ({
  _tag: "Ended",
  retry,
  outcome,
  cost: "transient"
})

const times = (ledger: Policies.Ledger, count: number, event: Policies.Event, now = 0): void => {
  for (let each = 0; each < count; each++) ledger.apply(event, now)
}

const ledgers: ReadonlyArray<readonly [name: string, make: () => Policies.Ledger]> = [
  ["windowed", () => Policies.windowed({ windowMs: 60_000, ratio: 0.2, minimum: 1 }, 0)],
  ["tokens", () => Policies.tokens({ capacity: 10, costs: { transient: 6, throttling: 3 }, reward: 1 })],
  ["throttle", () => Policies.throttle({ maxTokens: 3, tokenRatio: 0.1 })],
  ["concurrent", () => Policies.concurrent({ ratio: 0.2, minimum: 1 })]
]

describe("every ledger", () => {
  for (const [name, make] of ledgers) {
    it(`${name}: refuses retries only, and those when none is available`, () => {
      const ledger = make()
      for (const event of [started, withdrawn, refunded, withdrawn, ended("success", true), ended("neutral")]) {
        assert.isTrue(ledger.apply(event, 0), event._tag)
      }
      for (let asked = 0; asked < 20; asked++) {
        assert.strictEqual(ledger.available(0) >= 1, ledger.apply(withdrawn, 0))
        ledger.apply(ended("failure"), 0)
      }
      // Failures take from a throttle; all others have been asked for more than they have.
      assert.isBelow(ledger.available(0), 1)
    })
  }
})

describe("windowed", () => {
  const windowed = (ratio: number, minimum: number) => Policies.windowed({ windowMs: 60_000, ratio, minimum }, 0)

  it("loses nothing to fractions", () => {
    const ledger = windowed(0.29, 0)
    times(ledger, 100, started)
    // 0.29 × 100 is a little less than 29 in floating point.
    assert.strictEqual(ledger.available(0), 29)
  })

  it("is never below nothing, whatever leaves the window first or is taken back", () => {
    const ledger = windowed(1, 0)
    times(ledger, 5, started)
    times(ledger, 5, withdrawn, 1000)
    assert.strictEqual(ledger.available(60_000), 0)
    const taken = windowed(1, 3)
    times(taken, 2, ended("neutral"))
    assert.strictEqual(taken.available(0), 3)
    taken.apply(ended("neutral", true), 0)
    assert.strictEqual(taken.available(0), 3)
  })

  it("a retry that says nothing about the provider takes no first attempt back", () => {
    const ledger = windowed(1, 0)
    times(ledger, 5, started)
    assert.isTrue(ledger.apply(withdrawn, 0))
    ledger.apply(ended("neutral", true), 0)
    assert.strictEqual(ledger.available(0), 4)
    ledger.apply(ended("neutral"), 0)
    assert.strictEqual(ledger.available(0), 3)
  })

  it("gives back one retry a refund, the oldest that is still in the window", () => {
    const ledger = windowed(0, 3)
    for (const now of [0, 20_000, 40_000]) ledger.apply(withdrawn, now)
    ledger.apply(refunded, 60_000)
    // The first had left the window by itself.
    assert.strictEqual(ledger.available(60_000), 2)
    ledger.apply(refunded, 60_000)
    assert.strictEqual(ledger.available(60_000), 3)
    ledger.apply(refunded, 60_000)
    assert.strictEqual(ledger.available(60_000), 3)
  })
})

describe("tokens", () => {
  it("a success earns what its retry cost, or the reward of a first attempt, up to the capacity", () => {
    const ledger = Policies.tokens({ capacity: 10, costs: { transient: 5, throttling: 2 }, reward: 1 })
    times(ledger, 2, withdrawn)
    assert.strictEqual(ledger.available(0), 0)
    assert.isFalse(ledger.apply({ _tag: "Withdrawn", cost: "throttling" }, 0))
    times(ledger, 2, ended("success"))
    assert.isTrue(ledger.apply({ _tag: "Withdrawn", cost: "throttling" }, 0))
    times(ledger, 3, ended("neutral"))
    times(ledger, 3, ended("failure"))
    assert.strictEqual(ledger.available(0), 0)
    ledger.apply(ended("success", true), 0)
    assert.strictEqual(ledger.available(0), 1)
    times(ledger, 3, refunded)
    assert.strictEqual(ledger.available(0), 2)
  })
})

describe("throttle", () => {
  it("grants as many retries as are asked for above one half, and none at it", () => {
    const ledger = Policies.throttle({ maxTokens: 4, tokenRatio: 0.57 })
    ledger.apply(ended("failure"), 0)
    assert.deepStrictEqual([ledger.tokens(), ledger.available(0)], [3, Number.POSITIVE_INFINITY])
    assert.isTrue(ledger.apply(withdrawn, 0))
    ledger.apply(ended("failure"), 0)
    assert.deepStrictEqual([ledger.tokens(), ledger.available(0)], [2, 0])
    assert.isFalse(ledger.apply(withdrawn, 0))
    ledger.apply(ended("success"), 0)
    assert.deepStrictEqual([ledger.tokens(), ledger.available(0)], [2.57, Number.POSITIVE_INFINITY])
    times(ledger, 9, ended("neutral"))
    assert.strictEqual(ledger.tokens(), 2.57)
    times(ledger, 9, ended("failure"))
    assert.strictEqual(ledger.tokens(), 0)
    times(ledger, 9, ended("success"))
    assert.strictEqual(ledger.tokens(), 4)
  })

  it("counts in thousandths, to the nearest one", () => {
    // 1.001 × 1000 is a little less than 1001 in floating point.
    const ledger = Policies.throttle({ maxTokens: 1.001, tokenRatio: 1.001 })
    assert.strictEqual(ledger.tokens(), 1.001)
    times(ledger, 2, ended("failure"))
    ledger.apply(ended("success"), 0)
    assert.strictEqual(ledger.tokens(), 1.001)
  })
})

describe("concurrent", () => {
  it("grants a share of what is in flight, and counts what ends no more", () => {
    const ledger = Policies.concurrent({ ratio: 1, minimum: 0 }, { attempts: 4, retries: 1 })
    assert.strictEqual(ledger.available(0), 3)
    ledger.apply(ended("success"), 0)
    assert.strictEqual(ledger.available(0), 2)
    ledger.apply(ended("failure", true), 0)
    assert.strictEqual(ledger.available(0), 2)
    assert.isTrue(ledger.apply(withdrawn, 0))
    assert.strictEqual(ledger.available(0), 2)
    assert.isTrue(ledger.apply(withdrawn, 0))
    assert.strictEqual(ledger.available(0), 2)
    ledger.apply(refunded, 0)
    assert.strictEqual(ledger.available(0), 2)
  })

  it("does not count less than nothing, whatever has ended", () => {
    const ledger = Policies.concurrent({ ratio: 1, minimum: 0 })
    times(ledger, 3, ended("success", true))
    times(ledger, 2, started)
    assert.strictEqual(ledger.available(0), 2)
    ledger.apply(withdrawn, 0)
    ledger.apply(ended("success", true), 0)
    assert.strictEqual(ledger.available(0), 2)
  })

  it("loses nothing to fractions, and grants the minimum beside few", () => {
    assert.strictEqual(Policies.concurrentRetries({ ratio: 0.29, minimum: 3 }, 100), 29)
    assert.strictEqual(Policies.concurrentRetries({ ratio: 0.29, minimum: 3 }, 10), 3)
  })
})
