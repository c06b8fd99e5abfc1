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
