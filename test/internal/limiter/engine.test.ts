import { assert, describe, it } from "@effect/vitest"
import * as Engine from "../../../src/internal/limiter/engine.ts"
import type { Limits } from "../../../src/internal/limiter/limits.ts"
import { make } from "./drive.ts"

const tokens = (perSecond: number, burst: number): Limits => ({ tokens: { limit: perSecond, per: "1 second", burst } })

describe("limiter engine", () => {
  describe("queue of a bucket", () => {
    it("grants in order, when a reservation at call would have", () => {
      const drive = make(tokens(10, 2))
      drive.acquire("a", { input: 2 })
      drive.acquire("b", { input: 2 })
      drive.advance(300)
      drive.acquire("c", { input: 2 })
      drive.advance(1000)
      assert.deepStrictEqual(["a", "b", "c"].map(drive.grantedAt), [0, 200, 400])
    })

    it("T8: one who went away moves everybody behind forward", () => {
      const drive = make(tokens(10, 4))
      drive.acquire("x", { input: 4 })
      drive.acquire("A", { input: 3 })
      drive.acquire("B", { input: 1 })
      drive.acquire("C", { input: 1 })
      drive.advance(100)
      drive.cancel("C")
      drive.cancel("A")
      drive.acquire("D", { input: 3 })
      drive.advance(1000)
      assert.deepStrictEqual(["x", "A", "B", "C", "D"].map(drive.grantedAt), [0, undefined, 100, undefined, 400])
    })

    it("checks the longest wait when entering against all who are ahead, and equal is allowed", () => {
      const drive = make(tokens(1, 1))
      drive.acquire("a", { input: 1 })
      drive.acquire("b", { input: 1 })
      drive.acquire("c", { input: 1, maxWaitMs: 1500 })
      drive.acquire("d", { input: 1, maxWaitMs: 2000 })
      assert.strictEqual(drive.refusalOf("c")?.reason, "queue_timeout")
      assert.strictEqual(drive.refusalOf("c")?.waitMs, 2000)
      drive.advance(5000)
      assert.deepStrictEqual(["a", "b", "d"].map(drive.grantedAt), [0, 1000, 2000])
    })

    it("serves who began to wait first before those who came first, whatever has been granted by then", () => {
      const drive = make(tokens(1, 1))
      drive.advance(10_000)
      drive.acquire("first", { input: 1 })
      drive.acquire("young", { input: 1 })
      drive.acquire("old", { input: 1, since: 2000 })
      drive.acquire("older", { input: 1, since: 1000 })
      drive.advance(11_500)
      drive.acquire("oldest", { input: 1, since: 0 })
      drive.acquire("youngest", { input: 1 })
      drive.advance(20_000)
      const ids = ["first", "older", "oldest", "old", "young", "youngest"]
      assert.deepStrictEqual(ids.map(drive.grantedAt), [10_000, 11_000, 12_000, 13_000, 14_000, 15_000])
    })

    it("lets nobody pass the queue who began to wait before those in it", () => {
      const drive = make({ requests: { limit: 1, per: "1 second" }, tokens: { limit: 10, per: "1 second" } })
      drive.advance(10_000)
      drive.acquire("first", { input: 10 })
      drive.acquire("large", { input: 10 })
      drive.advance(10_900)
      assert.strictEqual(drive.acquire("small", { since: 0 })._tag, "Waiting")
      drive.advance(20_000)
      assert.deepStrictEqual(["small", "large"].map(drive.grantedAt), [11_000, 12_000])
    })

    it("keeps levels and tenants before the time at which one began to wait", () => {
      const drive = make(tokens(1, 1))
      drive.advance(10_000)
      drive.acquire("first", { input: 1, tenant: "a" })
      drive.acquire("a1", { input: 1, tenant: "a" })
      drive.acquire("a2", { input: 1, tenant: "a" })
      drive.acquire("b", { input: 1, tenant: "b" })
      drive.acquire("a0", { input: 1, tenant: "a", since: 0 })
      drive.acquire("high", { input: 1, level: 1 })
      drive.advance(20_000)
      assert.deepStrictEqual(drive.order, ["first", "high", "a0", "b", "a1", "a2"])
    })

    it("foretells the wait of one that comes back by its place in the queue", () => {
      const drive = make(tokens(1, 1))
      drive.advance(100_000)
      drive.acquire("first", { input: 1 })
      for (let n = 0; n < 10; n++) drive.acquire(`waiting ${n}`, { input: 1, since: 90_000 + n * 1000 })
      drive.acquire("eldest", { input: 1, since: 80_000, maxWaitMs: 1000 })
      assert.isUndefined(drive.refusalOf("eldest"))
      drive.acquire("half", { input: 1, since: 93_600, maxWaitMs: 5000 })
      assert.strictEqual(drive.refusalOf("half")?.reason, "queue_timeout")
      drive.acquire("last", { input: 1, maxWaitMs: 11_000 })
      assert.strictEqual(drive.refusalOf("last")?.waitMs, 12_000)
      drive.advance(101_000)
      assert.strictEqual(drive.grantedAt("eldest"), 101_000)
    })

    it("voids what was saved up while nothing was sent, but for one request", () => {
      const drive = make({ requests: { limit: 10, per: "1 second" }, tokens: { limit: 100, per: "1 second" } })
      for (const id of ["a", "b", "c"]) drive.acquire(id, { input: 1 })
      drive.advance(5000)
      drive.rested("scope")
      for (const id of ["d", "e", "f"]) drive.acquire(id, { input: 30 })
      drive.advance(6000)
      assert.deepStrictEqual(["a", "b", "c", "d", "e", "f"].map(drive.grantedAt), [0, 0, 0, 5000, 5100, 5200])
      drive.rested("unknown")
    })

    it("gives nothing to one that has less than that", () => {
      const drive = make({ requests: { limit: 1, per: "1 second" } })
      drive.acquire("a")
      drive.acquire("b")
      drive.rested("scope")
      drive.advance(3000)
      assert.strictEqual(drive.grantedAt("b"), 1000)
    })

    it("refuses what is larger than the capacity at once, names the dimension and holds nobody up", () => {
      const drive = make(tokens(10, 3))
      drive.acquire("big", { input: 4 })
      drive.acquire("a", { input: 3 })
      drive.acquire("b", { input: 1 })
      drive.advance(1000)
      const refusal = drive.refusalOf("big")
      assert.strictEqual(refusal?.reason, "request_exceeds_limit")
      assert.strictEqual(refusal?.dimension, "tokens")
      assert.deepStrictEqual(["a", "b"].map(drive.grantedAt), [0, 100])
    })

    it("lets no small request overtake a large one", () => {
      const drive = make(tokens(10, 10))
      drive.acquire("a", { input: 10 })
      drive.acquire("big", { input: 8 })
      drive.advance(100)
      drive.acquire("s1", { input: 1 })
      drive.advance(200)
      drive.acquire("s2", { input: 1 })
      drive.advance(2000)
      assert.deepStrictEqual(["a", "big", "s1", "s2"].map(drive.grantedAt), [0, 800, 900, 1000])
    })

    it("looks at those who wait anew when the limit changes", () => {
      const drive = make(tokens(1, 1))
      for (const id of ["a", "b", "c"]) drive.acquire(id, { input: 1 })
      drive.advance(500)
      drive.setLimits("scope", tokens(10, 1))
      drive.advance(2000)
      assert.deepStrictEqual(["a", "b", "c"].map(drive.grantedAt), [0, 550, 650])
    })

    it("serves the next at once from what a settlement gives back", () => {
      const drive = make(tokens(10, 100))
      drive.acquire("a", { input: 100 })
      drive.acquire("b", { input: 50 })
      drive.advance(1000)
      drive.settle("a", { input: 30, output: 0 })
      assert.strictEqual(drive.grantedAt("b"), 1000)
    })

    it("does not drift with fractions of milliseconds", () => {
      const drive = make(tokens(0.3, 1))
      for (const id of ["a", "b", "c", "d"]) drive.acquire(id, { input: 1 })
      drive.advance(20_000)
      assert.deepStrictEqual(["a", "b", "c", "d"].map(drive.grantedAt), [0, 3333.333333, 6666.666667, 10_000])
    })

    it("a minimum interval counts from start to start and saves nothing up", () => {
      const drive = make({ minInterval: "100 millis" })
      drive.acquire("1")
      drive.acquire("2")
      drive.advance(1000)
      drive.acquire("3")
      drive.acquire("4")
      drive.advance(2000)
      assert.deepStrictEqual(["1", "2", "3", "4"].map(drive.grantedAt), [0, 100, 1000, 1100])
    })

    it("refuses those who wait for more than a lowered limit can give", () => {
      const drive = make(tokens(10, 10))
      drive.acquire("a", { input: 10 })
      drive.acquire("big", { input: 8 })
      drive.acquire("small", { input: 2 })
      drive.setLimits("scope", tokens(10, 5))
      assert.strictEqual(drive.refusalOf("big")?.reason, "request_exceeds_limit")
      drive.advance(1000)
      assert.strictEqual(drive.grantedAt("small"), 200)
    })
  })

  describe("slots", () => {
    it("refuses without a queue what does not fit", () => {
      const drive = make({ concurrency: 2 }, { maxQueue: 0 })
      for (const id of ["0", "1", "2"]) drive.acquire(id)
      assert.deepStrictEqual(drive.order, ["0", "1"])
      assert.strictEqual(drive.refusalOf("2")?.reason, "queue_full")
    })

    it("one who went away makes room in the queue for the next", () => {
      const drive = make({ concurrency: 1 })
      drive.acquire("a")
      drive.acquire("b")
      drive.acquire("c")
      drive.advance(50)
      drive.cancel("b")
      drive.advance(100)
      drive.release("a")
      assert.strictEqual(drive.grantedAt("b"), undefined)
      assert.strictEqual(drive.grantedAt("c"), 100)
    })

    it("a wait ends at its limit, with an unknown time to retry after", () => {
      const drive = make({ concurrency: 1 })
      drive.acquire("a")
      drive.acquire("b", { maxWaitMs: 50 })
      drive.advance(1000)
      assert.strictEqual(drive.refusalOf("b")?.reason, "queue_timeout")
      assert.strictEqual(drive.refusalOf("b")?.dimension, "concurrency")
      assert.strictEqual(drive.refusalOf("b")?.waitMs, Number.POSITIVE_INFINITY)
      assert.strictEqual(drive.results.get("b")?.at, 50)
    })

    it("a slot that comes back at the instant a wait ends is not lost", () => {
      const drive = make({ concurrency: 4 })
      for (const id of ["h1", "h2", "h3"]) drive.acquire(id)
      for (let round = 0; round < 10; round++) {
        drive.acquire(`o${round}`)
        for (let each = 0; each < 10; each++) drive.acquire(`${round}.${each}`, { maxWaitMs: 10 })
        const end = (round + 1) * 10
        if (round % 2 === 0) {
          drive.engine.now.mono = end
          drive.release(`o${round}`)
          drive.advance(end)
        } else {
          drive.advance(end)
          drive.release(`o${round}`)
        }
        for (let each = 0; each < 10; each++) {
          const id = `${round}.${each}`
          if (drive.grantedAt(id) !== undefined) drive.release(id)
        }
        drive.advance(end + 1)
        assert.strictEqual(drive.engine.accounts.get("scope")?.inFlight, 3)
        assert.strictEqual(drive.engine.waiting, 0)
      }
    })

    it("raising the limit admits one more at once; lowering it admits none until there is room", () => {
      const drive = make({ concurrency: 4 })
      for (const id of ["a", "b", "c", "d", "e", "f"]) drive.acquire(id)
      drive.setLimits("scope", { concurrency: 5 })
      assert.deepStrictEqual(drive.order, ["a", "b", "c", "d", "e"])
      drive.setLimits("scope", { concurrency: 3 })
      drive.release("a")
      drive.release("b")
      assert.strictEqual(drive.grantedAt("f"), undefined)
      drive.release("c")
      assert.strictEqual(drive.grantedAt("f"), 0)
    })

    it("requests of several slots hold their place, and those of none wait behind them", () => {
      const drive = make({ concurrency: 2 })
      drive.acquire("1", { slots: 1 })
      drive.acquire("2", { slots: 2 })
      drive.acquire("3", { slots: 1 })
      drive.acquire("4", { slots: 1 })
      drive.acquire("5", { slots: 0 })
      drive.advance(100)
      drive.release("1")
      drive.advance(300)
      drive.release("2")
      assert.deepStrictEqual(["1", "2", "3", "4", "5"].map(drive.grantedAt), [0, 100, 300, 300, 300])
      drive.acquire("6", { slots: 3 })
      assert.strictEqual(drive.refusalOf("6")?.dimension, "concurrency")
    })
  })

  describe("priority", () => {
    it("serves the better level first, first come first served within it", () => {
      const drive = make({ concurrency: 1, minInterval: "100 millis" })
      drive.acquire("1", { level: 4 })
      drive.acquire("2", { level: 3 })
      drive.acquire("3", { level: 2 })
      drive.acquire("4", { level: 1 })
      drive.acquire("5", { level: 3 })
      drive.advance(50)
      drive.release("1")
      for (const [time, id] of [[100, "4"], [200, "3"], [300, "2"], [400, "5"]] as const) {
        drive.advance(time)
        assert.strictEqual(drive.grantedAt(id), time)
        drive.release(id)
      }
    })

    it("lifts a waiting request by one level each ten seconds", () => {
      const drive = make({ concurrency: 1 })
      drive.acquire("running")
      drive.acquire("background", { level: 4 })
      drive.advance(20_001)
      drive.acquire("normal", { level: 2 })
      drive.acquire("high", { level: 1 })
      drive.release("running")
      assert.deepStrictEqual(drive.order, ["running", "high"])
      drive.release("high")
      assert.deepStrictEqual(drive.order, ["running", "high", "background"])
    })

    it("the first level passes the queue, may use the reserve and still counts", () => {
      const drive = make(tokens(1, 10), { reserve: 0.2 })
      drive.acquire("a", { input: 8 })
      drive.acquire("b", { input: 1 })
      drive.acquire("urgent", { input: 2, level: 0 })
      assert.deepStrictEqual(drive.order, ["a", "urgent"])
      drive.acquire("urgent 2", { input: 1, level: 0 })
      drive.advance(999)
      assert.deepStrictEqual(drive.order, ["a", "urgent"])
      drive.advance(1000)
      assert.deepStrictEqual(drive.order, ["a", "urgent", "urgent 2"])
      drive.advance(4000)
      assert.strictEqual(drive.grantedAt("b"), 4000)
    })
  })

  describe("tenants", () => {
    const served = (drive: ReturnType<typeof make>, prefix: string) =>
      drive.order.filter((id) => id.startsWith(prefix)).length

    it("shares by tokens among those who wait, by weight", () => {
      const drive = make(tokens(100, 100), { weight: (tenant) => tenant === "b" ? 3 : 1 })
      drive.acquire("first", { input: 100 })
      for (let each = 0; each < 100; each++) drive.acquire(`a${each}`, { input: 10, tenant: "a" })
      for (let each = 0; each < 100; each++) drive.acquire(`b${each}`, { input: 30, tenant: "b" })
      drive.advance(10_000)
      assert.closeTo(served(drive, "b") * 30, 3 * served(drive, "a") * 10, 60)
    })

    it("one who comes later is not behind all that another has queued", () => {
      const drive = make(tokens(10, 1))
      for (let each = 0; each < 100; each++) drive.acquire(`a${each}`, { input: 1, tenant: "a" })
      drive.advance(2000)
      drive.acquire("b", { input: 1, tenant: "b" })
      drive.advance(2200)
      assert.isDefined(drive.grantedAt("b"))
    })

    it("T8: those who went away cost their tenant nothing", () => {
      const run = (withGone: boolean) => {
        const drive = make(tokens(10, 1))
        drive.acquire("first", { input: 1 })
        if (withGone) { for (let each = 0; each < 50; each++) drive.acquire(`gone${each}`, { input: 1, tenant: "a" }) }
        for (let each = 0; each < 5; each++) drive.acquire(`b${each}`, { input: 1, tenant: "b" })
        if (withGone) { for (let each = 0; each < 50; each++) drive.cancel(`gone${each}`) }
        drive.acquire("a", { input: 1, tenant: "a" })
        drive.advance(5000)
        return drive.grantedAt("a")
      }
      assert.isDefined(run(false))
      assert.strictEqual(run(true), run(false))
    })
  })

  describe("several scopes", () => {
    const key = (name: string, limits: Limits = {}) => ({ key: name, limits })

    it("T5: a refusal in one dimension changes none", () => {
      const scopes = [
        key("provider", { requests: { limit: 10, per: "1 minute" } }),
        key("key", { tokens: { limit: 100, per: "1 minute" } })
      ]
      const drive = make({})
      drive.acquire("a", { scopes, input: 60 })
      drive.acquire("b", { scopes, input: 60, maxWaitMs: 0 })
      assert.strictEqual(drive.refusalOf("b")?.dimension, "tokens")
      for (let each = 0; each < 9; each++) drive.acquire(`c${each}`, { scopes, maxWaitMs: 0 })
      assert.strictEqual(drive.order.length, 10)
    })

    it("T4: a scope that is named twice counts once, by its strictest limits", () => {
      const scopes = [
        key("org", { requests: { limit: 10, per: "1 minute" }, concurrency: 9 }),
        key("org", { requests: { limit: 3, per: "1 minute" }, concurrency: 10 })
      ]
      const drive = make({})
      for (let each = 0; each < 5; each++) drive.acquire(`${each}`, { scopes, maxWaitMs: 0 })
      assert.deepStrictEqual(drive.order, ["0", "1", "2"])
      assert.strictEqual(drive.engine.accounts.get("org")?.inFlight, 3)
    })

    it("T10: what waits for one key does not hold up another", () => {
      const shared = key("provider", { requests: { limit: 1000, per: "1 minute" } })
      const a = [shared, key("a", { requests: { limit: 1, per: "1 hour" } })]
      const b = [shared, key("b", { requests: { limit: 100, per: "1 hour" } })]
      const drive = make({})
      drive.acquire("a1", { scopes: a })
      for (let each = 0; each < 500; each++) drive.acquire(`wait${each}`, { scopes: a })
      drive.acquire("b1", { scopes: b, maxWaitMs: 0 })
      assert.deepStrictEqual(drive.order, ["a1", "b1"])
    })

    it("nobody who shares the scope that is short goes before who came first", () => {
      const shared = key("provider", tokens(10, 10))
      const drive = make({})
      drive.acquire("all", { scopes: [shared], input: 10 })
      drive.acquire("big", { scopes: [shared, key("a")], input: 10 })
      for (let each = 0; each < 20; each++) drive.acquire(`small${each}`, { scopes: [shared, key("b")], input: 1 })
      drive.advance(1000)
      assert.deepStrictEqual(drive.order, ["all", "big"])
      drive.advance(3000)
      assert.strictEqual(drive.order.length, 22)
    })

    it("a large request is not starved between two scopes that have room in turns", () => {
      const x = key("x", tokens(10, 10))
      const y = key("y", tokens(10, 10))
      const drive = make({})
      drive.acquire("x0", { scopes: [x], input: 10 })
      drive.acquire("y0", { scopes: [y], input: 10 })
      drive.acquire("big", { scopes: [x, y], input: 10 })
      for (let time = 0; time < 30_000; time += 50) {
        drive.advance(time)
        if (drive.grantedAt("big") !== undefined) break
        drive.acquire(`x${time}`, { scopes: [x], input: 1 })
        drive.acquire(`y${time}`, { scopes: [y], input: 1 })
      }
      assert.isBelow(drive.grantedAt("big") ?? Number.POSITIVE_INFINITY, 10_000)
    })

    it("forgets scopes that are at rest, and no others", () => {
      const drive = make({}, { idleMs: 1000 })
      for (let each = 0; each < 1000; each++) {
        drive.acquire(`${each}`, { scopes: [key(`k${each}`, tokens(1000, 10))], input: 1 })
        if (each > 0) {
          drive.settle(`${each}`, { input: 1, output: 0 })
          drive.release(`${each}`)
        }
      }
      drive.advance(2000)
      Engine.sweepAll(drive.engine)
      assert.deepStrictEqual(Array.from(drive.engine.accounts.keys()), ["k0"])
    })
  })

  describe("settling", () => {
    it("never fills a bucket above its capacity, and bounds debt", () => {
      const drive = make(tokens(10, 100))
      drive.acquire("a", { input: 80 })
      drive.advance(5000)
      drive.settle("a", "nothing-sent")
      const meter = drive.engine.accounts.get("scope")?.meters[0]
      assert.strictEqual(meter?._tag === "Bucket" ? meter.bucket.level : 0, 100)
      drive.acquire("b", { input: 50 })
      drive.settle("b", { input: 5000, output: 0 })
      assert.strictEqual(meter?._tag === "Bucket" ? meter.bucket.level : 0, -100)
      drive.settle("b", { input: 0, output: 0 })
      assert.strictEqual(meter?._tag === "Bucket" ? meter.bucket.level : 0, -100)
    })

    it("a window that is over is not corrected by what was reserved in it", () => {
      const drive = make({ tokens: { limit: 100, per: "1 hour", window: "calendar" } })
      drive.acquire("a", { input: 100 })
      drive.advance(3_600_000)
      drive.acquire("b", { input: 60 })
      drive.settle("a", "nothing-sent")
      drive.acquire("c", { input: 60, maxWaitMs: 0 })
      assert.strictEqual(drive.refusalOf("c")?.waitMs, 3_600_000)
      drive.settle("b", { input: 10, output: 0 })
      drive.acquire("d", { input: 60, maxWaitMs: 0 })
      assert.isDefined(drive.grantedAt("d"))
    })

    it("cached input counts towards tokens and not towards input tokens", () => {
      const quota = { limit: 100, per: "1 hour" as const }
      const drive = make({ tokens: quota, inputTokens: quota })
      drive.acquire("a", { input: 80 })
      drive.settle("a", { input: 80, output: 0, cachedInput: 70 })
      const left = drive.engine.accounts.get("scope")?.meters.map((meter) =>
        meter._tag === "Bucket" ? meter.bucket.level : 0
      )
      assert.deepStrictEqual(left, [20, 90])
    })

    it("what was not sent does not count as a request either", () => {
      const drive = make({ requests: { limit: 1, per: "1 hour" } })
      drive.acquire("a")
      drive.settle("a", "nothing-sent")
      drive.acquire("b", { maxWaitMs: 0 })
      drive.acquire("c", { maxWaitMs: 0 })
      assert.deepStrictEqual(drive.order, ["a", "b"])
    })
  })

  it("grants, in the long run, the burst and what the rate gives", () => {
    const drive = make(tokens(100, 100))
    for (let time = 0; time <= 5000; time += 2) {
      drive.advance(time)
      drive.acquire(`${time}`, { input: 1, maxWaitMs: 0 })
    }
    assert.isAtLeast(drive.order.length, 599)
    assert.isAtMost(drive.order.length, 601)
  })

  it("a clock that goes back changes nothing", () => {
    const drive = make(tokens(10, 1))
    drive.advance(1000)
    drive.acquire("a", { input: 1 })
    Engine.at(drive.engine, 0, 0)
    drive.acquire("b", { input: 1 })
    drive.advance(1100)
    assert.strictEqual(drive.grantedAt("b"), 1100)
  })
})
