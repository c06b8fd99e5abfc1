import { assert, describe, it } from "@effect/vitest"
import { DateTime } from "effect"
import * as Bucket from "../../../src/internal/limiter/bucket.ts"
import * as Calendar from "../../../src/internal/limiter/calendar.ts"
import * as Heap from "../../../src/internal/limiter/heap.ts"
import * as Limits from "../../../src/internal/limiter/limits.ts"
import * as SlidingLog from "../../../src/internal/limiter/slidingLog.ts"

/** Numbers in [0, 1) that are the same in every run. */
const randoms = (seed: number) => (): number => {
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed / 2147483648
}

const zone = (name: string): DateTime.TimeZone => DateTime.zoneMakeNamedUnsafe(name)

describe("bucket", () => {
  it("tells level, wait and time to full as a generic cell rate would", () => {
    const bucket = Bucket.make({ capacity: 1, perMs: 1 / 1000 }, 0)
    assert.strictEqual(Bucket.waitFor(bucket, 1, 0), 0)
    Bucket.take(bucket, 1, 0)
    assert.strictEqual(Bucket.waitFor(bucket, 1, 0), 1000)
    assert.closeTo(Bucket.waitFor(bucket, 1, 999), 1, 1e-6)
    assert.strictEqual(Bucket.waitFor(bucket, 1, 1000), 0)
  })

  it("a full one begins to refill a while after something was taken, one that is not full goes on", () => {
    const bucket = Bucket.make({ capacity: 2, perMs: 1 / 1000, lagMs: 50 }, 0)
    Bucket.take(bucket, 1, 1000)
    assert.strictEqual(Bucket.waitFor(bucket, 2, 1000), 1050)
    Bucket.take(bucket, 1, 1550)
    assert.strictEqual(Bucket.available(bucket, 2050), 1)
    assert.strictEqual(Bucket.available(bucket, 3050), 2)
    Bucket.take(bucket, 0, 9000)
    assert.strictEqual(Bucket.waitFor(bucket, 2, 9000), 0)
  })

  it("what is sent as soon as it grants is never refused where it arrives, however requests overtake each other", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = randoms(seed)
      const capacity = 1 + Math.floor(random() * 10)
      const perMs = 1 / (20 + random() * 1000)
      const ours = Bucket.make({ capacity, perMs, lagMs: 50 }, 0)
      const arrivals: Array<number> = []
      let now = 0
      for (let n = 0; n < 300; n++) {
        // Sometimes nobody asks for a while, and the bucket fills up.
        if (random() < 0.05) now += random() * 3 * capacity / perMs
        now += Bucket.waitFor(ours, 1, now)
        Bucket.take(ours, 1, now)
        arrivals.push(now + 100 + random() * 50)
      }
      const theirs = Bucket.make({ capacity, perMs }, 0)
      for (const at of arrivals.toSorted((a, b) => a - b)) {
        assert.isAtLeast(Bucket.available(theirs, at), 1 - 1e-6, `seed ${seed}`)
        Bucket.take(theirs, 1, at)
      }
    }
  })

  it("saves up its capacity while idle, and no more", () => {
    const bucket = Bucket.make({ capacity: 3, perMs: 0.01, initial: 0 }, 0)
    assert.strictEqual(Bucket.available(bucket, 3_600_000), 3)
  })

  it("grants what it starts with and nothing after, when nothing comes back", () => {
    const bucket = Bucket.make({ capacity: 1, perMs: 0 }, 0)
    assert.strictEqual(Bucket.waitFor(bucket, 1, 0), 0)
    Bucket.take(bucket, 1, 0)
    assert.strictEqual(Bucket.waitFor(bucket, 1, 3_600_000), Number.POSITIVE_INFINITY)
    const slow = Bucket.make({ capacity: 1, perMs: 1e-13, initial: 0 }, 0)
    assert.isAbove(Bucket.waitFor(slow, 1, 1000), 1e12)
  })

  it("refills in whole steps when told to, counted from the step", () => {
    const bucket = Bucket.make({ capacity: 9, perMs: 5 / 6, stepMs: 6, initial: 0 }, 0)
    assert.deepStrictEqual([5, 6, 11, 12].map((now) => Bucket.available(bucket, now)), [0, 5, 5, 9])
    const slow = Bucket.make({ capacity: 10, perMs: 10 / 60_000, stepMs: 60_000, initial: 0 }, 0)
    assert.strictEqual(Bucket.waitFor(slow, 1, 0), 60_000)
    assert.strictEqual(Bucket.waitFor(slow, 1, 15_000), 45_000)
  })

  it("owes what was used beyond the estimate, up to a bound, and takes back no more than it holds", () => {
    const bucket = Bucket.make({ capacity: 100, perMs: 1, initial: 0 }, 0)
    assert.strictEqual(Bucket.overdraw(bucket, 400, 1000, 201), 400)
    assert.strictEqual(Bucket.available(bucket, 201), -300)
    assert.strictEqual(Bucket.waitFor(bucket, 0, 201), 300)
    assert.strictEqual(Bucket.overdraw(bucket, 400, 350, 201), 50)
    Bucket.giveBack(bucket, 9999, 201)
    assert.strictEqual(Bucket.available(bucket, 201), 100)
  })

  it("counts elapsed time at the old rate when the rate changes, and cuts what exceeds a lower capacity", () => {
    const bucket = Bucket.make({ capacity: 10, perMs: 0.001, initial: 0 }, 0)
    Bucket.resize(bucket, 10, 0.01, 500)
    assert.strictEqual(Bucket.available(bucket, 550), 1)
    Bucket.resize(bucket, 0.5, 0.01, 550)
    assert.strictEqual(Bucket.available(bucket, 550), 0.5)
  })

  it("refills to a larger capacity once it has one", () => {
    const bucket = Bucket.make({ capacity: 10, perMs: 1 }, 0)
    Bucket.resize(bucket, 50, 2, 0)
    assert.deepStrictEqual([0, 10, 60].map((now) => Bucket.available(bucket, now)), [10, 30, 50])
  })

  it("takes for there what rounding has lost: a billionth of the capacity, or of one", () => {
    const wait = (capacity: number, missing: number): number =>
      Bucket.waitFor(Bucket.make({ capacity, perMs: 1e-12, initial: 0 }, 0), missing, 0)
    assert.strictEqual(wait(1e6, 9e-4), 0)
    assert.isAbove(wait(1e6, 1.1e-3), 0)
    assert.strictEqual(wait(0.5, 9e-10), 0)
    assert.isAbove(wait(0.5, 1.1e-9), 0)
    assert.isAbove(wait(1, 1.1e-9), 0)
  })

  it("is not worth a timer that is a thousandth of a millisecond away", () => {
    const bucket = Bucket.make({ capacity: 1, perMs: 1, initial: 0 }, 0)
    assert.strictEqual(Bucket.waitFor(bucket, 0.001, 0), 0)
    assert.isAbove(Bucket.waitFor(bucket, 0.002, 0), 0)
  })

  it("loses no step to rounding, neither in refills nor in waits", () => {
    // 0.3 / 0.1 is a little less than 3 in floating point, and 0.1 * 3 / 0.1 a little more.
    const bucket = Bucket.make({ capacity: 9, perMs: 10, stepMs: 0.1, initial: 0 }, 0)
    assert.closeTo(Bucket.available(bucket, 0.3), 3, 1e-9)
    const slow = Bucket.make({ capacity: 9, perMs: 1, stepMs: 0.1, initial: 0 }, 0)
    assert.closeTo(Bucket.waitFor(slow, 0.1 * 3, 0), 0.3, 1e-9)
  })

  it("refills later by as much as may go over the brim where it is copied from", () => {
    const after = (initial: number, amount: number, lagMs = 5): ReadonlyArray<number> => {
      const bucket = Bucket.make({ capacity: 10, perMs: 1, lagMs, initial }, 100)
      Bucket.take(bucket, amount, 100)
      return [100, 101, 102, 105, 106].map((now) => Bucket.available(bucket, now))
    }
    assert.deepStrictEqual(after(10, 4), [6, 6, 6, 6, 7])
    assert.deepStrictEqual(after(7, 4), [3, 3, 3, 6, 7])
    assert.deepStrictEqual(after(5.5, 4), [1.5, 2, 3, 6, 7])
    assert.deepStrictEqual(after(5, 4), [1, 2, 3, 6, 7])
    assert.deepStrictEqual(after(10, 4, 0), [6, 7, 8, 10, 10])
    assert.deepStrictEqual(after(10, 4, 1), [6, 6, 7, 10, 10])
    // What takes nothing delays nothing.
    assert.deepStrictEqual(after(9.5, 0), [9.5, 10, 10, 10, 10])
    assert.deepStrictEqual(after(9.5, -0.25), [9.75, 10, 10, 10, 10])
  })

  it("a clock that goes back gives nothing twice", () => {
    const bucket = Bucket.make({ capacity: 100, perMs: 1, initial: 0 }, 1000)
    assert.strictEqual(Bucket.available(bucket, 1010), 10)
    assert.strictEqual(Bucket.available(bucket, 0), 10)
    assert.strictEqual(Bucket.available(bucket, 1010), 10)
    assert.strictEqual(Bucket.waitFor(bucket, 20, 1005), 15)
  })
})

describe("sliding log", () => {
  it("an entry exactly one window old is out", () => {
    const log = SlidingLog.make({ limit: 2, windowMs: 1000 }, 0)
    SlidingLog.take(log, 1, 0)
    SlidingLog.take(log, 1, 400)
    assert.strictEqual(SlidingLog.waitFor(log, 1, 999), 1)
    assert.strictEqual(SlidingLog.waitFor(log, 2, 999), 401)
    assert.strictEqual(SlidingLog.waitFor(log, 1, 1000), 0)
  })

  it("T7: admits no more than the limit in any interval of one window, with few entries and with many", () => {
    for (const limit of [10, 5000]) {
      const random = randoms(limit)
      const log = SlidingLog.make({ limit, windowMs: 1000 }, 0)
      const admitted: Array<readonly [time: number, amount: number]> = []
      let now = 0
      for (let each = 0; each < 20_000; each++) {
        now += random() * 600 / limit
        const amount = 1 + Math.floor(random() * 2)
        if (SlidingLog.waitFor(log, amount, now) > 0) continue
        SlidingLog.take(log, amount, now)
        admitted.push([now, amount])
      }
      let sum = 0
      let first = 0
      for (const [time, amount] of admitted) {
        sum += amount
        for (let oldest = admitted[first]; oldest !== undefined && time - oldest[0] >= 1000; oldest = admitted[first]) {
          sum -= oldest[1]
          first++
        }
        assert.isAtMost(sum, limit)
      }
      assert.isAtMost(log.entries.length, 4096)
      assert.isAbove(admitted.length, 1000)
    }
  })

  it("tells the wait until so much is there, of several limits as many windows", () => {
    const filled = (entries: ReadonlyArray<readonly [at: number, amount: number]>): SlidingLog.SlidingLog => {
      const log = SlidingLog.make({ limit: 10, windowMs: 1000 }, 0)
      for (const [at, amount] of entries) SlidingLog.take(log, amount, at)
      return log
    }
    const table: ReadonlyArray<
      readonly [entries: ReadonlyArray<readonly [number, number]>, waits: ReadonlyArray<readonly [number, number]>]
    > = [
      [[], [[0, 0], [10, 0], [11, 1000], [20, 1000], [21, 2000]]],
      [[[0, 4]], [[6, 0], [7, 500], [10, 500], [15, 1000], [16, 1000], [17, 1500]]],
      [[[0, 4], [400, 6]], [[0, 0], [1, 500], [4, 500], [5, 900], [10, 900], [11, 1500], [14, 1500], [20, 1900], [
        21,
        2500
      ]]]
    ]
    for (const [entries, waits] of table) {
      for (const [amount, wait] of waits) {
        assert.strictEqual(SlidingLog.waitFor(filled(entries), amount, 500), wait, `${amount}`)
      }
    }
  })

  it("in debt makes even nothing wait", () => {
    const log = SlidingLog.make({ limit: 10, windowMs: 1000 }, 0)
    SlidingLog.amend(log, SlidingLog.take(log, 10, 0), 8, 20, 0)
    assert.strictEqual(SlidingLog.available(log, 0), -8)
    assert.deepStrictEqual([0, 1, 10].map((amount) => SlidingLog.waitFor(log, amount, 300)), [700, 700, 700])
  })

  it("loses nothing to fractions: neither what is there, nor what was taken", () => {
    const log = SlidingLog.make({ limit: 1, windowMs: 1000 }, 0)
    for (let at = 0; at < 3; at++) SlidingLog.take(log, 0.1, at)
    assert.strictEqual(SlidingLog.available(log, 1002), 1)
    // 0.1 + 0.2 + 0.3 - 0.1 - 0.2 - 0.3 is not zero.
    for (const [place, amount] of [0.1, 0.2, 0.3].entries()) SlidingLog.take(log, amount, 2000 + place)
    assert.strictEqual(SlidingLog.available(log, 3002), 1)
    assert.strictEqual(SlidingLog.waitFor(log, 1 + 9e-10, 3002), 0)
    assert.isAbove(SlidingLog.waitFor(log, 1 + 1.1e-9, 3002), 0)
    const small = SlidingLog.make({ limit: 0.5, windowMs: 1000 }, 0)
    assert.strictEqual(SlidingLog.waitFor(small, 0.5 + 9e-10, 0), 0)
    assert.isAbove(SlidingLog.waitFor(small, 0.5 + 1.1e-9, 0), 0)
    const large = SlidingLog.make({ limit: 1e6, windowMs: 1000 }, 0)
    assert.strictEqual(SlidingLog.waitFor(large, 1e6 + 9e-4, 0), 0)
    assert.isAbove(SlidingLog.waitFor(large, 1e6 + 1.1e-3, 0), 0)
    // Less than a nanosecond before its end an entry is out.
    SlidingLog.take(large, 5, 0.1)
    assert.strictEqual(SlidingLog.available(large, 1000.1 - 2e-6), 1e6 - 5)
    assert.strictEqual(SlidingLog.available(large, 1000.1 - 5e-7), 1e6)
  })

  it("has one entry for what comes at the same time, and for what comes close to many", () => {
    const log = SlidingLog.make({ limit: 1e6, windowMs: 10_240 }, 0)
    const first = SlidingLog.take(log, 1, 0)
    assert.strictEqual(SlidingLog.take(log, 2, 0), first)
    assert.deepStrictEqual(log.entries, [{ at: 0, amount: 3 }])
    for (let at = 1; at < 1024; at++) SlidingLog.take(log, 1, at)
    assert.strictEqual(log.entries.length, 1024)
    const last = SlidingLog.take(log, 1, 1032)
    assert.deepStrictEqual([log.entries.length, last], [1024, { at: 1032, amount: 2 }])
    SlidingLog.take(log, 1, 1042)
    assert.strictEqual(log.entries.length, 1025)
    // Of those that are out none is close to anything.
    for (let at = 10_260; at < 10_264; at++) SlidingLog.take(log, 1, at)
    assert.strictEqual(SlidingLog.available(log, 10_263), 1e6 - (1028 - 26 + 4))
    assert.strictEqual(log.entries.at(-1)?.at, 10_263)
    assert.strictEqual(log.entries.at(-2)?.at, 10_262)
  })

  it("takes back no more than an entry has, and adds no more than debt allows", () => {
    const log = SlidingLog.make({ limit: 10, windowMs: 1000 }, 0)
    const entry = SlidingLog.take(log, 3, 0)
    assert.strictEqual(SlidingLog.amend(log, entry, -5, 5, 0), -3)
    assert.strictEqual(SlidingLog.amend(log, entry, 99, 5, 0), 15)
    assert.strictEqual(SlidingLog.amend(log, entry, 1, 2, 0), 0)
    assert.strictEqual(SlidingLog.amend(log, entry, 0, 9, 0), 0)
    assert.strictEqual(SlidingLog.available(log, 0), -5)
  })

  it("corrects an entry while it counts, and not after", () => {
    const log = SlidingLog.make({ limit: 100, windowMs: 1000 }, 0)
    const entry = SlidingLog.take(log, 80, 0)
    assert.strictEqual(SlidingLog.amend(log, entry, -60, 100, 500), -60)
    assert.strictEqual(SlidingLog.available(log, 500), 80)
    assert.strictEqual(SlidingLog.amend(log, entry, 500, 100, 500), 180)
    assert.strictEqual(SlidingLog.available(log, 500), -100)
    assert.strictEqual(SlidingLog.available(log, 1000), 100)
    assert.strictEqual(SlidingLog.amend(log, entry, -20, 100, 1000), 0)
    assert.strictEqual(SlidingLog.available(log, 1000), 100)
  })
})

describe("calendar", () => {
  const at = (iso: string): number => DateTime.toEpochMillis(DateTime.makeUnsafe(iso))
  const period = (unit: Calendar.Period, name: string, iso: string) => {
    const { end, start } = Calendar.periodAt(unit, zone(name), at(iso))
    return [start, end].map((time) => new Date(time).toISOString())
  }
  const day = 86_400_000

  it("days begin at midnight of the time zone, and last 23 or 25 hours when clocks change", () => {
    assert.deepStrictEqual(period(day, "UTC", "2026-11-21T13:00:00Z"), [
      "2026-11-21T00:00:00.000Z",
      "2026-11-22T00:00:00.000Z"
    ])
    assert.deepStrictEqual(period(day, "America/Los_Angeles", "2026-11-21T07:59:00Z"), [
      "2026-11-20T08:00:00.000Z",
      "2026-11-21T08:00:00.000Z"
    ])
    assert.deepStrictEqual(period(day, "Europe/Berlin", "2026-03-29T12:00:00Z"), [
      "2026-03-28T23:00:00.000Z",
      "2026-03-29T22:00:00.000Z"
    ])
    assert.deepStrictEqual(period(day, "Europe/Berlin", "2026-10-25T12:00:00Z"), [
      "2026-10-24T22:00:00.000Z",
      "2026-10-25T23:00:00.000Z"
    ])
  })

  it("weeks begin on Monday, months on the first, hours on the hour", () => {
    assert.deepStrictEqual(period(7 * day, "UTC", "2026-11-22T13:00:00Z"), [
      "2026-11-16T00:00:00.000Z",
      "2026-11-23T00:00:00.000Z"
    ])
    assert.deepStrictEqual(period("month", "UTC", "2026-12-31T13:00:00Z"), [
      "2026-12-01T00:00:00.000Z",
      "2027-01-01T00:00:00.000Z"
    ])
    assert.deepStrictEqual(period(3_600_000, "UTC", "2026-12-31T23:12:00Z"), [
      "2026-12-31T23:00:00.000Z",
      "2027-01-01T00:00:00.000Z"
    ])
  })

  it("gives everything back at the end of the period, and nothing when the clock goes back over it", () => {
    const start = at("2026-11-21T00:00:00Z")
    const calendar = Calendar.make({ limit: 10, period: day, zone: zone("UTC") }, start)
    Calendar.take(calendar, 10, start + 1000)
    assert.strictEqual(Calendar.waitFor(calendar, 1, start + 1000), day - 1000)
    assert.strictEqual(Calendar.waitFor(calendar, 11, start + 1000), 2 * day - 1000)
    assert.strictEqual(Calendar.available(calendar, start + day), 10)
    Calendar.take(calendar, 4, start + day)
    assert.strictEqual(Calendar.available(calendar, start), 6)
  })

  it("is of a day, a week, a month or a part that divides a day", () => {
    const periods = [day, 7 * day, 1, 3_600_000, 8 * 3_600_000]
    const none = [0, -1, 2 * day, 6 * day, 8 * day, 5 * 3_600_000, day + 1, day - 1, 0.7]
    assert.deepStrictEqual([...periods, ...none].map(Calendar.isPeriod), [
      ...periods.map(() => true),
      ...none.map(() => false)
    ])
  })

  it("the last part of a day ends with it, however long that is", () => {
    assert.deepStrictEqual(period(6 * 3_600_000, "Europe/Berlin", "2026-10-25T22:30:00Z"), [
      "2026-10-25T22:00:00.000Z",
      "2026-10-25T23:00:00.000Z"
    ])
    assert.deepStrictEqual(period(6 * 3_600_000, "Europe/Berlin", "2026-03-29T21:59:59Z"), [
      "2026-03-29T17:00:00.000Z",
      "2026-03-29T22:00:00.000Z"
    ])
  })

  it("weeks and months begin in their time zone, also when clocks change in them", () => {
    assert.deepStrictEqual(period(7 * day, "Europe/Berlin", "2026-10-25T12:00:00Z"), [
      "2026-10-18T22:00:00.000Z",
      "2026-10-25T23:00:00.000Z"
    ])
    assert.deepStrictEqual(period("month", "America/Los_Angeles", "2026-11-15T12:00:00Z"), [
      "2026-11-01T07:00:00.000Z",
      "2026-12-01T08:00:00.000Z"
    ])
  })

  it("tells the wait until so much is there, of several limits as many periods", () => {
    const used = (amount: number, limit = 10): Calendar.Calendar => {
      const calendar = Calendar.make({ limit, period: day, zone: zone("UTC") }, 0)
      Calendar.take(calendar, amount, 0)
      return calendar
    }
    const table: ReadonlyArray<readonly [used: number, amount: number, days: number]> = [
      [0, 10, 0],
      [6, 4, 0],
      [6, 5, 1],
      [6, 14, 1],
      [6, 15, 2],
      [10, 0, 0],
      [10, 10, 1],
      [10, 11, 2],
      [25, 0, 1],
      [25, 1, 1],
      [25, 11, 2]
    ]
    for (const [before, amount, days] of table) {
      const wait = Calendar.waitFor(used(before), amount, 1000)
      assert.strictEqual(wait, days === 0 ? 0 : days * day - 1000, `${before} ${amount}`)
    }
    assert.strictEqual(Calendar.waitFor(used(0.5, 0.5), 9e-10, 0), 0)
    assert.isAbove(Calendar.waitFor(used(0.5, 0.5), 1.1e-9, 0), 0)
    assert.strictEqual(Calendar.waitFor(used(1e6, 1e6), 9e-4, 0), 0)
    assert.strictEqual(Calendar.waitFor(used(1e6, 1e6), 1e6 + 9e-4, 0), day)
    assert.isAbove(Calendar.waitFor(used(1e6, 1e6), 1.1e-3, 0), 0)
  })

  it("takes back no more than is used, and adds no more than debt allows", () => {
    const calendar = Calendar.make({ limit: 10, period: day, zone: zone("UTC") }, 0)
    const start = Calendar.take(calendar, 3, 0)
    assert.strictEqual(Calendar.amend(calendar, start, -5, 5, 0), -3)
    assert.strictEqual(Calendar.amend(calendar, start, 99, 5, 0), 15)
    assert.strictEqual(Calendar.amend(calendar, start, 1, 2, 0), 0)
    assert.strictEqual(Calendar.amend(calendar, start, 0, 9, 0), 0)
    assert.strictEqual(Calendar.available(calendar, 0), -5)
  })

  it("corrects the period of a charge only while it is the current one", () => {
    const calendar = Calendar.make({ limit: 10, period: day, zone: zone("UTC") }, 0)
    const first = Calendar.take(calendar, 8, 0)
    assert.strictEqual(Calendar.amend(calendar, first, -5, 10, 1), -5)
    Calendar.take(calendar, 3, day)
    assert.strictEqual(Calendar.amend(calendar, first, -3, 10, day), 0)
    assert.strictEqual(Calendar.available(calendar, day), 7)
  })
})

describe("limits", () => {
  const rejected: ReadonlyArray<readonly [field: string, limits: Limits.Limits]> = [
    ["requests.limit", { requests: { limit: 0, per: "1 minute" } }],
    ["tokens.limit", { tokens: { limit: -1, per: "1 minute" } }],
    ["inputTokens.limit", { inputTokens: { limit: Number.NaN, per: "1 minute" } }],
    ["outputTokens[1].per", { outputTokens: [{ limit: 1, per: "1 minute" }, { limit: 1, per: 0 }] }],
    ["requests.per", { requests: { limit: 1, per: Number.POSITIVE_INFINITY } }],
    ["requests.per", { requests: { limit: 1, per: "month" } }],
    ["requests.per", { requests: { limit: 1, per: "soon" as "1 second" } }],
    ["requests.limit", { requests: { limit: Number.POSITIVE_INFINITY, per: "1 minute" } }],
    ["minInterval", { minInterval: 0 }],
    ["requests.per", { requests: { limit: 1, per: "5 hours", window: "calendar" } }],
    ["requests.burst", { requests: { limit: 1, per: "1 minute", burst: 0 } }],
    ["requests.burst", { requests: { limit: 1, per: "1 minute", burst: 2, window: "sliding" } }],
    ["requests.timeZone", { requests: { limit: 1, per: "1 day", window: "calendar", timeZone: "Mars/Olympus" } }],
    ["requests.timeZone", { requests: { limit: 1, per: "1 day", timeZone: "UTC" } }],
    ["concurrency", { concurrency: 0 }],
    ["concurrency", { concurrency: 1.5 }],
    ["minInterval", { minInterval: "-1 seconds" }]
  ]

  it("rejects what makes no sense, and names the field", () => {
    for (const [field, limits] of rejected) {
      assert.throws(() => Limits.plan(limits), RangeError, field)
    }
  })

  it("names who rejects it", () => {
    assert.throws(() => Limits.plan({ concurrency: 0 }), RangeError, /^RateLimiter: concurrency must be/)
    assert.throws(() => Limits.plan({ concurrency: 0 }, "Target"), RangeError, /^Target: concurrency must be/)
  })

  const plan = Limits.plan({
    requests: { limit: 6, per: "1 minute", burst: 2 },
    tokens: [{ limit: 90, per: "1 millis" }, { limit: 30, per: "1 hour", window: "sliding" }],
    inputTokens: { limit: 600, per: "month", window: "calendar" },
    outputTokens: { limit: 12, per: "1 day", window: "calendar", timeZone: "Europe/Berlin" },
    concurrency: 5,
    minInterval: "2 seconds"
  })

  it("are a rule each, with a name of its window and words for it", () => {
    assert.deepStrictEqual(
      plan.rules.map(({ dimension, id, label, limit, window }) => [dimension, id, label, limit, window]),
      [
        ["requests", "requests:continuous:60000", "6 per 1m", 6, { _tag: "Continuous", capacity: 2, windowMs: 60_000 }],
        ["tokens", "tokens:continuous:1", "90 per 1ms", 90, { _tag: "Continuous", capacity: 90, windowMs: 1 }],
        ["tokens", "tokens:sliding:3600000", "30 per 1h", 30, { _tag: "Sliding", windowMs: 3_600_000 }],
        ["inputTokens", "inputTokens:calendar:month:UTC", "600 per month", 600, {
          _tag: "Calendar",
          period: "month",
          zone: zone("UTC")
        }],
        ["outputTokens", "outputTokens:calendar:86400000:Europe/Berlin", "12 per 1d", 12, {
          _tag: "Calendar",
          period: 86_400_000,
          zone: zone("Europe/Berlin")
        }]
      ]
    )
    assert.deepStrictEqual([plan.concurrency, plan.minIntervalMs], [5, 2000])
    assert.deepStrictEqual(Limits.plan({}), { rules: [], concurrency: Number.POSITIVE_INFINITY, minIntervalMs: 0 })
  })

  it("of one process are a part of the whole: a request at a time at least", () => {
    assert.strictEqual(Limits.partOf(plan, 1), plan)
    const half = Limits.partOf(plan, 2)
    assert.deepStrictEqual(half.rules.map(({ limit }) => limit), [3, 45, 15, 300, 6])
    assert.deepStrictEqual(half.rules[0]?.window, { _tag: "Continuous", capacity: 1, windowMs: 60_000 })
    assert.deepStrictEqual([half.concurrency, half.minIntervalMs], [2, 4000])
    assert.strictEqual(half.rules[0]?.label, "6 per 1m, a part of 2")
    assert.strictEqual(half.rules[2]?.label, "30 per 1h, a part of 2")
    const part = Limits.partOf(plan, 100)
    assert.deepStrictEqual(part.rules.map(({ limit }) => limit), [0.06, 0.9, 0.3, 6, 0.12])
    assert.deepStrictEqual(part.rules[0]?.window, { _tag: "Continuous", capacity: 1, windowMs: 60_000 })
    assert.deepStrictEqual(part.rules[1]?.window, { _tag: "Continuous", capacity: 0.9, windowMs: 1 })
    assert.strictEqual(part.concurrency, 1)
    const sliding = Limits.plan({ requests: { limit: 5, per: "1 hour", window: "sliding" } })
    assert.deepStrictEqual(Limits.partOf(sliding, 100).rules.map(({ limit }) => limit), [1])
  })

  it("are the same when windows, limits, bursts, slots and interval are", () => {
    const of = (limits: Limits.Limits): Limits.Plan => Limits.plan(limits)
    const requests = { limit: 6, per: "1 minute" } as const
    const whole = { requests, tokens: { limit: 9, per: "1 hour" }, concurrency: 5, minInterval: 100 } as const
    const others: ReadonlyArray<Limits.Limits> = [
      { ...whole, requests: { ...requests, limit: 7, burst: 6 } },
      { ...whole, requests: { ...requests, burst: 5 } },
      { ...whole, requests: { ...requests, per: "2 minutes" } },
      { ...whole, requests: { ...requests, window: "sliding" } },
      { ...whole, tokens: undefined },
      { ...whole, inputTokens: { limit: 1, per: "1 hour" } },
      { ...whole, concurrency: 4 },
      { ...whole, minInterval: 101 }
    ]
    assert.isTrue(Limits.samePlan(of(whole), of({ ...whole, requests: { ...requests, per: "60 seconds", burst: 6 } })))
    for (const other of others) {
      assert.isFalse(Limits.samePlan(of(whole), of(other)))
      assert.isFalse(Limits.samePlan(of(other), of(whole)))
    }
  })

  it("of two rules for one window count the lower limit, and of the same limit the smaller burst", () => {
    const first = (
      ...quotas: ReadonlyArray<Limits.Quota>
    ): readonly [number | undefined, Limits.Window | undefined] => {
      const { rules } = Limits.plan({ requests: quotas })
      assert.strictEqual(rules.length, 1)
      return [rules[0]?.limit, rules[0]?.window]
    }
    const quota = (limit: number, burst: number): Limits.Quota => ({ limit, burst, per: "1 second" })
    const window = (capacity: number): Limits.Window => ({ _tag: "Continuous", capacity, windowMs: 1000 })
    for (
      const [a, b, limit, burst] of [
        [quota(5, 1), quota(4, 9), 4, 9],
        [quota(5, 3), quota(5, 2), 5, 2],
        [quota(4, 3), quota(5, 2), 4, 3]
      ] as const
    ) {
      assert.deepStrictEqual(first(a, b), [limit, window(burst)])
      assert.deepStrictEqual(first(b, a), [limit, window(burst)])
    }
  })

  it("counts one window once, by its strictest rule", () => {
    const a = Limits.plan({
      requests: [{ limit: 5, per: "1 minute" }, { limit: 3, per: "60 seconds" }],
      concurrency: 4
    })
    const b = Limits.plan({ requests: { limit: 4, per: "1 minute" }, concurrency: 2, minInterval: 5 })
    const both = Limits.strictest(a, b)
    assert.deepStrictEqual(both.rules.map((rule) => rule.limit), [3])
    assert.deepStrictEqual([both.concurrency, both.minIntervalMs], [2, 5])
  })
})

describe("heap", () => {
  it("removes and moves nothing at a place that it has not", () => {
    const places: Array<readonly [item: number, place: number]> = []
    const heap = Heap.make<number>((a, b) => a < b, (item, place) => void places.push([item, place]))
    for (const item of [3, 1, 2]) Heap.push(heap, item)
    places.length = 0
    for (const place of [-1, 3]) {
      Heap.removeAt(heap, place)
      Heap.update(heap, place)
    }
    assert.deepStrictEqual([heap.items, places], [[1, 3, 2], []])
    Heap.removeAt(heap, 2)
    assert.deepStrictEqual([heap.items, places], [[1, 3], [[2, -1]]])
  })

  it("tells every item its place", () => {
    const random = randoms(11)
    const places = new Map<{ readonly value: number }, number>()
    const heap = Heap.make<{ readonly value: number }>((a, b) => a.value < b.value, (item, place) => {
      places.set(item, place)
    })
    const check = (): void => {
      for (const [place, item] of heap.items.entries()) {
        assert.strictEqual(places.get(item), place)
        const above = heap.items[(place - 1) >> 1]
        if (place > 0 && above !== undefined) assert.isAtMost(above.value, item.value)
      }
    }
    for (let step = 0; step < 200; step++) {
      if (random() < 0.6) Heap.push(heap, { value: Math.floor(random() * 50) })
      else Heap.removeAt(heap, Math.floor(random() * heap.items.length))
      check()
    }
  })

  it("gives its items out in order, whatever is moved and removed between", () => {
    interface Item {
      value: number
      place: number
    }
    const random = randoms(7)
    const heap = Heap.make<Item>((a, b) => a.value < b.value, (item, index) => {
      item.place = index
    })
    const items = Array.from({ length: 500 }, () => ({ value: random(), place: -1 }))
    for (const item of items) Heap.push(heap, item)
    for (const item of items.slice(0, 100)) Heap.removeAt(heap, item.place)
    for (const item of items.slice(100, 200)) {
      item.value = random()
      Heap.update(heap, item.place)
    }
    for (const item of heap.items) item.value = 1 - item.value
    Heap.rebuild(heap)
    const out: Array<number> = []
    for (let item = heap.items[0]; item !== undefined; item = heap.items[0]) {
      out.push(item.value)
      Heap.removeAt(heap, 0)
    }
    assert.deepStrictEqual(out, items.slice(100).map((item) => item.value).sort((a, b) => a - b))
  })
})
