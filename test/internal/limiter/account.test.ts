import { assert, describe, it } from "@effect/vitest"
import * as Account from "../../../src/internal/limiter/account.ts"
import * as Heap from "../../../src/internal/limiter/heap.ts"
import * as Limits from "../../../src/internal/limiter/limits.ts"
import * as Meter from "../../../src/internal/limiter/meter.ts"
import { laneBefore } from "../../../src/internal/limiter/queue.ts"
import * as Snapshot from "../../../src/internal/limiter/snapshot.ts"

const at = (mono: number): Meter.Now => ({ mono, wall: 1_000_000 + mono })

const manner: Meter.Manner = { adaptive: false, lagMs: 0 }

const account = (limits: Limits.Limits = {}, mono = 0): Account.Account =>
  Account.make("scope", Limits.plan(limits), {
    levels: 5,
    ...manner,
    parked: Heap.make(laneBefore, () => {})
  }, at(mono))

/** Takes from every meter of an account, as a grant does. */
const charge = (account: Account.Account, wanted: Partial<Account.Amounts>, mono = 0): void => {
  for (const meter of account.meters) Meter.charge(meter, wanted[meter.dimension] ?? 0, at(mono))
  account.inFlight += wanted.concurrency ?? 0
}

const left = (account: Account.Account, mono = 0): ReadonlyArray<number> =>
  account.meters.map((meter) => Meter.available(meter, at(mono)))

describe("amounts", () => {
  it("count a request once in each dimension, and tokens together and apart", () => {
    const sum = Account.amounts(1, 20, 3, 4)
    assert.deepStrictEqual(sum, {
      requests: 1,
      tokens: 23,
      inputTokens: 20,
      outputTokens: 3,
      concurrency: 4,
      interval: 1
    })
    Account.addTo(sum, Account.amounts(1, 2, 1, 1), 1)
    assert.deepStrictEqual(sum, {
      requests: 2,
      tokens: 26,
      inputTokens: 22,
      outputTokens: 4,
      concurrency: 5,
      interval: 2
    })
    Account.addTo(sum, Account.amounts(2, 22, 4, 5), -1)
    assert.deepStrictEqual(sum, Account.amounts(0, 0, 0, 0))
  })
})

describe("an account", () => {
  it("begins with nothing used, nobody waiting and nothing counted", () => {
    const fresh = account({ requests: { limit: 10, per: "1 minute" } }, 5000)
    assert.deepStrictEqual(Snapshot.make(fresh, at(5000)), {
      key: "scope",
      limits: [{
        dimension: "requests",
        window: "continuous",
        windowMs: 60_000,
        limit: 10,
        configured: 10,
        learned: false,
        remaining: 10,
        utilisation: 0,
        debt: 0,
        resetMs: 0,
        blockedMs: 0
      }],
      utilisation: 0,
      inFlight: 0,
      peakInFlight: 0,
      waiting: 0,
      peakWaiting: 0,
      waitingByPriority: { emergency: 0, high: 0, normal: 0, low: 0, background: 0 },
      granted: 0,
      emergencies: 0,
      denied: { rate_limit: 0, concurrency: 0, request_exceeds_limit: 0, queue_full: 0, queue_timeout: 0 },
      deniedTotal: 0,
      lastDenial: undefined,
      cancelled: 0,
      throttled: 0,
      successRate: 1,
      averageWaitMs: 0,
      p99WaitMs: 0,
      longestWaitMs: 0,
      peakRequestsPerMinute: 0,
      peakTokensPerMinute: 0,
      reservedTokens: 0,
      grantedTokens: 0,
      settledTokens: 0,
      refundedTokens: 0,
      overusedTokens: 0,
      cachedTokens: 0
    })
    assert.isFalse(fresh.pinned)
    assert.deepInclude(fresh.counts, { lastRequests: 0, minute: 0, minuteRequests: 0, minuteTokens: 0 })
    assert.strictEqual(fresh.wakeAt, Number.POSITIVE_INFINITY)
    assert.strictEqual(fresh.wakeSlot, -1)
    assert.isTrue(fresh.queued.every(({ requests, tokens }) => requests === 0 && tokens === 0))
    assert.isTrue(fresh.fair.every(({ next, virtual }) => virtual === 0 && next.size === 0))
  })

  it("keeps what is used when its limits change, as far as the window is the same", () => {
    const changing = account({
      requests: { limit: 10, per: "1 minute" },
      tokens: { limit: 100, per: "1 minute", window: "sliding" },
      minInterval: "1 second"
    })
    charge(changing, { requests: 4, tokens: 30, interval: 1 })
    const plan = Limits.plan({
      requests: { limit: 20, per: "1 minute" },
      tokens: { limit: 100, per: "1 hour", window: "sliding" },
      minInterval: "1 second"
    })
    changing.learnedSlots = { limit: 3, decreasedAt: 0 }
    Account.configure(changing, plan, manner, at(0))
    assert.deepStrictEqual(left(changing), [6, 100, 0])
    assert.deepStrictEqual(left(changing, 3000), [7, 100, 1])
    assert.strictEqual(changing.plan, plan)
    assert.isUndefined(changing.learnedSlots)
    charge(changing, { interval: 1 }, 3000)
    Account.configure(changing, Limits.plan({ minInterval: "2 seconds" }), manner, at(3000))
    assert.deepStrictEqual(left(changing, 3000), [1])
    Account.configure(changing, Limits.plan({ minInterval: 1 }), manner, at(3000))
    assert.deepStrictEqual(left(changing, 3000), [1])
    Account.configure(changing, Limits.plan({}), manner, at(0))
    assert.deepStrictEqual(changing.meters, [])
  })

  it("tells windows of one dimension apart", () => {
    const minute = { limit: 10, per: "1 minute" } as const
    const hour = { limit: 100, per: "1 hour" } as const
    const changing = account({ requests: [minute, hour] })
    charge(changing, { requests: 4 })
    Account.configure(changing, Limits.plan({ requests: [hour, minute] }), manner, at(0))
    assert.deepStrictEqual(left(changing), [96, 6])
  })

  it("makes a guessed limit anew once it is configured", () => {
    const changing = account()
    const [rule] = Limits.plan({ requests: { limit: 60, per: "1 minute" } }).rules
    assert.isDefined(rule)
    changing.meters = [Meter.guessed(rule, at(0))]
    charge(changing, { requests: 5 })
    Account.configure(changing, Limits.plan({ requests: { limit: 60, per: "1 minute" } }), manner, at(0))
    assert.deepStrictEqual(left(changing), [60])
  })
})

describe("slots", () => {
  it("are the fewest of those configured and learned, in whole numbers", () => {
    const some = account({ concurrency: 5 })
    assert.strictEqual(Account.slots(some), 5)
    some.learnedSlots = { limit: 3.9, decreasedAt: 0 }
    assert.strictEqual(Account.slots(some), 3)
    some.learnedSlots = { limit: 9, decreasedAt: 0 }
    assert.strictEqual(Account.slots(some), 5)
    assert.strictEqual(Account.slots(account()), Number.POSITIVE_INFINITY)
  })

  const table: ReadonlyArray<
    readonly [rule: string, limits: Limits.Limits, inFlight: number, wanted: number, kept: number, expected: boolean]
  > = [
    ["fit up to the limit", { concurrency: 5 }, 3, 2, 0, true],
    ["do not fit beyond the limit", { concurrency: 5 }, 3, 3, 0, false],
    ["fit whoever wants none", { concurrency: 5 }, 9, 0, 0, true],
    ["fit without a limit", {}, 1000, 1000, 0.9, true],
    ["keep a share, rounded down", { concurrency: 5 }, 3, 1, 0.3, true],
    ["keep a share of those that are left", { concurrency: 5 }, 3, 2, 0.3, false],
    ["fit one who wants more than there are, alone", { concurrency: 5 }, 0, 9, 0.5, true],
    ["do not fit one who wants more than there are beside another", { concurrency: 5 }, 1, 9, 0, false]
  ]
  for (const [rule, limits, inFlight, wanted, kept, expected] of table) {
    it(rule, () => {
      const some = account(limits)
      some.inFlight = inFlight
      assert.strictEqual(Account.hasSlots(some, wanted, kept), expected)
    })
  }
})

describe("headroom", () => {
  const limits: Limits.Limits = {
    requests: { limit: 10, per: "1 minute" },
    tokens: { limit: 1000, per: "1 minute" },
    concurrency: 4,
    minInterval: "1 second"
  }

  it("is the share that is left of the tightest limit, slots among them, an interval not", () => {
    const some = account(limits)
    assert.strictEqual(Account.headroom(some, at(0)), 1)
    charge(some, { requests: 2, tokens: 100, concurrency: 1, interval: 1 })
    assert.strictEqual(Account.headroom(some, at(0)), 0.75)
    charge(some, { requests: 3, tokens: 600, concurrency: 1 })
    assert.strictEqual(Account.headroom(some, at(0)), 0.3)
    charge(some, { requests: 0, tokens: 900 })
    assert.strictEqual(Account.headroom(some, at(0)), 0)
    assert.strictEqual(Account.headroom(account(), at(0)), 1)
  })

  it("is nothing as long as a provider has asked to wait", () => {
    const some = account({ requests: { limit: 10, per: "1 minute" } })
    for (const meter of some.meters) meter.blockedUntil = 100
    assert.strictEqual(Account.headroom(some, at(99)), 0)
    assert.strictEqual(Account.headroom(some, at(100)), 1)
  })
})

describe("rest", () => {
  const changes: ReadonlyArray<readonly [name: string, change: (account: Account.Account) => void]> = [
    ["somebody is in flight", (some) => some.inFlight++],
    ["tokens are reserved", (some) => some.counts.reservedTokens = 1],
    ["it is pinned", (some) => some.pinned = true],
    ["somebody waits", (some) => some.waitingCount++],
    ["something is used", (some) => charge(some, { requests: 1 })],
    ["a provider has asked to wait", (some) => some.meters.forEach((meter) => meter.blockedUntil = 1)]
  ]
  it("is everything back and nobody there", () => {
    assert.isTrue(Account.isIdle(account({ requests: { limit: 10, per: "1 minute" } }), at(0)))
  })
  for (const [name, change] of changes) {
    it(`is not as long as ${name}`, () => {
      const some = account({ requests: { limit: 10, per: "1 minute" }, tokens: { limit: 10, per: "1 minute" } })
      change(some)
      assert.isFalse(Account.isIdle(some, at(0)))
      if (name === "something is used") assert.isTrue(Account.isIdle(some, at(6000)))
      if (name === "a provider has asked to wait") assert.isTrue(Account.isIdle(some, at(1)))
    })
  }
})

describe("counts", () => {
  it("a denial is counted by its reason, and the last one is told", () => {
    const some = account()
    Account.deny(some, "queue_full", "tokens", at(3))
    Account.deny(some, "queue_timeout", undefined, at(4))
    Account.deny(some, "queue_full", "requests", at(5))
    const { denied, deniedTotal, lastDenial } = Snapshot.make(some, at(9))
    assert.deepInclude(denied, { queue_full: 2, queue_timeout: 1, rate_limit: 0 })
    assert.strictEqual(deniedTotal, 3)
    assert.deepStrictEqual(lastDenial, { reason: "queue_full", dimension: "requests", at: 1_000_005 })
  })

  it("a grant counts what it reserves, in all and in the busiest minute", () => {
    const some = account({}, 30_000)
    const grant = (mono: number, tokens: number, inFlight: number): void => {
      some.inFlight = inFlight
      Account.count(some, Account.amounts(1, tokens, 0, 1), 0, at(mono))
    }
    grant(30_000, 10, 1)
    grant(59_999, 20, 3)
    grant(60_000, 25, 2)
    assert.deepInclude(some.counts, { lastRequests: 2, minuteRequests: 1, minuteTokens: 25 })
    assert.deepInclude(Snapshot.make(some, at(60_000)), {
      granted: 3,
      grantedTokens: 55,
      reservedTokens: 55,
      peakRequestsPerMinute: 2,
      peakTokensPerMinute: 30,
      peakInFlight: 3,
      averageWaitMs: 0,
      longestWaitMs: 0
    })
    Account.rollMinute(some, at(119_999))
    assert.deepInclude(some.counts, { lastRequests: 2, minuteRequests: 1 })
    Account.rollMinute(some, at(120_000))
    assert.deepInclude(some.counts, { lastRequests: 1, minuteRequests: 0, minuteTokens: 0 })
    grant(120_000, 1, 1)
    Account.rollMinute(some, at(240_000))
    assert.deepInclude(some.counts, { lastRequests: 0, minuteRequests: 0 })
  })

  it("waits are told on average, at the longest, and by quantiles to within a fifth", () => {
    const some = account()
    for (let each = 1; each <= 100; each++) {
      Account.count(some, Account.amounts(1, 0, 0, 1), each > 50 ? each * 10 : 0, at(0))
    }
    const { averageWaitMs, longestWaitMs, p99WaitMs } = Snapshot.make(some, at(0))
    assert.strictEqual(averageWaitMs, 377.5)
    assert.strictEqual(longestWaitMs, 1000)
    assert.isTrue(p99WaitMs >= 990 && p99WaitMs <= 1000, String(p99WaitMs))
    for (const [quantile, exact] of [[0.55, 550], [0.75, 750], [0.9, 900]] as const) {
      const found = Account.waitQuantile(some, quantile)
      assert.isTrue(found >= exact && found <= 1.2 * exact, `${quantile}: ${found}`)
    }
    assert.deepStrictEqual([0, 0.5].map((quantile) => Account.waitQuantile(some, quantile)), [0, 0])
  })

  it("waits of less than a millisecond are one", () => {
    const some = account()
    Account.count(some, Account.amounts(1, 0, 0, 1), 0.5, at(0))
    Account.count(some, Account.amounts(1, 0, 0, 1), 2, at(0))
    assert.deepStrictEqual([0.4, 0.6].map((quantile) => Account.waitQuantile(some, quantile)), [1, 2])
  })
})
