import { assert, describe, it } from "@effect/vitest"
import * as Engine from "../../../src/internal/limiter/engine.ts"
import type { Limits } from "../../../src/internal/limiter/limits.ts"
import type { Observation } from "../../../src/internal/limiter/observation.ts"
import * as Snapshot from "../../../src/internal/limiter/snapshot.ts"
import { type Asked, make } from "./drive.ts"

type Drive = ReturnType<typeof make>

// A token each 100 ms, ten at once.
const tokens: Limits = { tokens: { limit: 10, per: "1 second", burst: 10 } }

const scope = (key: string, limits: Limits = {}) => ({ key, limits })

const snapshot = (drive: Drive, key = "scope"): Snapshot.Snapshot => {
  const account = drive.engine.accounts.get(key)
  return account === undefined ? assert.fail(`no scope ${key}`) : Snapshot.make(account, drive.engine.now)
}

const limitsOf = (drive: Drive, key = "scope") =>
  snapshot(drive, key).limits.map((
    { dimension, limit, remaining }
  ) => [dimension, limit, Math.round(remaining * 1e6) / 1e6])

const foresee = (drive: Drive, asked: Asked & { readonly scopes: NonNullable<Asked["scopes"]> }): Engine.Refusal =>
  Engine.foresee(drive.engine, {
    scopes: asked.scopes,
    input: asked.input ?? 0,
    output: asked.output ?? 0,
    slots: asked.slots ?? 1,
    level: asked.level ?? 2,
    tenant: asked.tenant ?? "",
    maxWaitMs: asked.maxWaitMs ?? Infinity,
    since: asked.since
  })

describe("a refusal", () => {
  it("tells the scope, the dimension, the rule, what was asked for and the wait", () => {
    const drive = make(tokens)
    drive.acquire("a", { input: 8 })
    drive.acquire("b", { input: 5, output: 1, maxWaitMs: 0 })
    assert.deepStrictEqual(drive.refusalOf("b"), {
      reason: "rate_limit",
      key: "scope",
      dimension: "tokens",
      waitMs: 400,
      rule: "10 per 1s",
      asked: 6
    })
  })

  it("for slots does not know a wait", () => {
    const drive = make({ concurrency: 2 })
    drive.acquire("a")
    drive.acquire("b", { slots: 2, maxWaitMs: 0 })
    assert.deepStrictEqual(drive.refusalOf("b"), {
      reason: "concurrency",
      key: "scope",
      dimension: "concurrency",
      waitMs: Infinity,
      rule: "",
      asked: 2
    })
  })

  it("of what is larger than a limit tells that limit", () => {
    const drive = make({ ...tokens, concurrency: 2 })
    drive.acquire("a", { input: 11 })
    assert.deepStrictEqual(drive.refusalOf("a"), {
      reason: "request_exceeds_limit",
      key: "scope",
      dimension: "tokens",
      waitMs: Infinity,
      rule: "10 at once, 10 per 1s",
      asked: 11
    })
    drive.acquire("b", { slots: 3 })
    assert.deepInclude(drive.refusalOf("b"), { dimension: "concurrency", rule: "2 at the same time", asked: 3 })
  })

  it("is told by the limit that takes longest, of all scopes", () => {
    const scopes = [
      scope("a", { requests: { limit: 1, per: "1 second" } }),
      scope("b", { requests: { limit: 1, per: "3 seconds" }, tokens: { limit: 10, per: "10 seconds" } }),
      scope("c", { requests: { limit: 1, per: "2 seconds" } })
    ]
    const drive = make({})
    drive.acquire("first", { scopes, input: 10 })
    drive.acquire("few", { scopes, input: 1, maxWaitMs: 0 })
    assert.deepInclude(drive.refusalOf("few"), {
      key: "b",
      dimension: "requests",
      rule: "1 per 3s",
      waitMs: 3000,
      asked: 1
    })
    drive.acquire("many", { scopes, input: 9, maxWaitMs: 0 })
    assert.deepInclude(drive.refusalOf("many"), { key: "b", dimension: "tokens", rule: "10 per 10s", waitMs: 9000 })
    assert.deepInclude(snapshot(drive, "c").denied, { rate_limit: 2 })
    assert.deepInclude(snapshot(drive, "a").lastDenial, { reason: "rate_limit", dimension: "tokens" })
  })

  it("of a full queue counts those of the same scopes", () => {
    const drive = make(tokens, { maxQueue: 2 })
    drive.acquire("a", { input: 10 })
    for (const id of ["b", "c", "d"]) drive.acquire(id, { input: 1 })
    assert.deepInclude(drive.refusalOf("d"), { reason: "queue_full", dimension: "tokens", waitMs: 300 })
    assert.isUndefined(drive.refusalOf("c"))
    const scopes = [scope("scope", tokens), scope("other")]
    drive.acquire("e", { scopes, input: 1 })
    assert.isUndefined(drive.refusalOf("e"))
    const none = make(tokens, { maxQueue: 0 })
    none.acquire("a", { input: 10 })
    none.acquire("b", { input: 1 })
    none.acquire("c", { input: 1, maxWaitMs: 0 })
    for (const id of ["b", "c"]) assert.deepInclude(none.refusalOf(id), { reason: "queue_full", waitMs: 100 })
  })
})

describe("what is foreseen", () => {
  const scopes = [scope("scope", tokens)]

  it("is nothing to wait for where there is room, and reserves none of it", () => {
    const drive = make(tokens)
    const free = { reason: "rate_limit", key: "", dimension: undefined, waitMs: 0, rule: "", asked: 0 } as const
    for (let each = 0; each < 3; each++) assert.deepStrictEqual(foresee(drive, { scopes, input: 10 }), free)
    assert.deepInclude(foresee(drive, { scopes, input: 11 }), { reason: "request_exceeds_limit", asked: 11 })
    assert.deepStrictEqual(limitsOf(drive), [["tokens", 10, 10]])
  })

  it("is the wait behind all who go first", () => {
    const drive = make(tokens)
    drive.acquire("a", { input: 10 })
    assert.deepInclude(foresee(drive, { scopes, input: 3 }), { waitMs: 300, dimension: "tokens", asked: 3 })
    drive.acquire("b", { input: 5 })
    drive.acquire("c", { input: 2, level: 3 })
    assert.strictEqual(foresee(drive, { scopes, input: 3 }).waitMs, 800)
    assert.strictEqual(foresee(drive, { scopes, input: 3, level: 1 }).waitMs, 300)
    assert.strictEqual(foresee(drive, { scopes, input: 3, level: 3 }).waitMs, 1000)
    drive.acquire("first", { input: 2, level: 0 })
    assert.strictEqual(foresee(drive, { scopes, input: 3, level: 1 }).waitMs, 500)
    drive.cancel("first")
    // Whoever waits in the same scopes waits elsewhere, too.
    const both = [scope("scope", tokens), scope("other", tokens)]
    drive.acquire("d", { scopes: both, input: 4 })
    assert.strictEqual(foresee(drive, { scopes: both, input: 3 }).waitMs, 1200)
    assert.strictEqual(foresee(drive, { scopes: [scope("other", tokens)], input: 3 }).waitMs, 0)
  })

  it("counts who waits in the same scopes at each of them", () => {
    const slow = scope("slow", { tokens: { limit: 2, per: "1 second", burst: 4 } })
    const drive = make({})
    drive.acquire("a", { scopes, input: 10 })
    drive.acquire("b", { scopes: [...scopes, slow], input: 4 })
    // Three more than there are, at two a second; at the other one seven at ten a second.
    assert.deepInclude(foresee(drive, { scopes: [...scopes, slow], input: 3 }), { key: "slow", waitMs: 1500 })
    assert.strictEqual(foresee(drive, { scopes: [...scopes, slow], input: 3, level: 1 }).waitMs, 300)
  })

  it("is the wait behind those who began before, taking them to have begun evenly", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    drive.advance(100)
    drive.acquire("a", { input: 5 })
    drive.advance(300)
    drive.acquire("b", { input: 5 })
    const wait = (since?: number): number =>
      Math.round(foresee(drive, { scopes, input: 5, ...(since === undefined ? undefined : { since }) }).waitMs)
    // Three of the five are there.
    assert.deepStrictEqual([50, 100, 200, 250, 300, 400, undefined].map(wait), [200, 200, 700, 950, 1200, 1200, 1200])
  })

  it("is the wait for what comes back by itself, where a slot is missing, too", () => {
    const limits: Limits = { ...tokens, concurrency: 1 }
    const drive = make(limits)
    drive.acquire("a", { input: 10 })
    assert.deepInclude(foresee(drive, { scopes: [scope("scope", limits)], input: 3 }), {
      waitMs: 300,
      dimension: "tokens"
    })
    assert.deepInclude(foresee(drive, { scopes: [scope("scope", limits)] }), {
      waitMs: Infinity,
      dimension: "concurrency"
    })
  })

  it("is unknown where a slot is missing, or others wait for one", () => {
    const limits: Limits = { concurrency: 2 }
    const drive = make(limits)
    const slots = [scope("scope", limits)]
    drive.acquire("a")
    assert.strictEqual(foresee(drive, { scopes: slots }).waitMs, 0)
    drive.acquire("b", { slots: 2, level: 3 })
    assert.deepInclude(foresee(drive, { scopes: slots, level: 3 }), { waitMs: Infinity, dimension: "concurrency" })
    assert.strictEqual(foresee(drive, { scopes: slots, level: 2 }).waitMs, 0)
    assert.deepInclude(foresee(drive, { scopes: slots, slots: 2, level: 2 }), {
      waitMs: Infinity,
      reason: "concurrency"
    })
    assert.strictEqual(foresee(drive, { scopes: [scope("new")] }).waitMs, 0)
  })

  it("leaves the reserve to the first level", () => {
    const drive = make(tokens, { reserve: 0.5 })
    drive.acquire("a", { input: 5 })
    assert.strictEqual(foresee(drive, { scopes, input: 1 }).waitMs, 100)
    assert.strictEqual(foresee(drive, { scopes, input: 5, level: 0 }).waitMs, 0)
    assert.strictEqual(foresee(drive, { scopes, input: 6, level: 0 }).waitMs, 100)
    const slots = make({ concurrency: 4 }, { reserve: 0.5 })
    const few = [scope("scope", { concurrency: 4 })]
    slots.acquire("a", { slots: 2 })
    assert.strictEqual(foresee(slots, { scopes: few }).waitMs, Infinity)
    assert.strictEqual(foresee(slots, { scopes: few, slots: 2, level: 0 }).waitMs, 0)
  })

  it("is less behind a limit that returns from a cut within seconds", () => {
    const drive = make(tokens, { adaptive: true })
    drive.acquire("a", { input: 10 })
    Engine.throttled(drive.engine, "scope", {
      dimension: undefined,
      overloaded: true,
      sentAt: 0,
      tokens: 1,
      retryAfterMs: undefined,
      random: 0
    })
    // Seven a second for now, of which ten are known.
    assert.closeTo(foresee(drive, { scopes, input: 7 }).waitMs, 700, 1e-6)
  })
})

describe("headroom", () => {
  it("is that of the tightest scope, all of one that nobody has named", () => {
    const drive = make({})
    const scopes = [scope("a", tokens), scope("b", tokens)]
    drive.acquire("1", { scopes: [scope("a", tokens)], input: 5 })
    drive.acquire("2", { scopes: [scope("b", tokens)], input: 2 })
    assert.strictEqual(Engine.headroom(drive.engine, scopes), 0.5)
    assert.strictEqual(Engine.headroom(drive.engine, scopes.slice(1)), 0.8)
    assert.strictEqual(Engine.headroom(drive.engine, [scope("c", tokens)]), 1)
    assert.strictEqual(Engine.headroom(drive.engine, []), 1)
  })
})

describe("scopes", () => {
  it("in any order are the same, and those who wait for them wait in one queue", () => {
    const a = scope("a", tokens)
    const b = scope("b")
    const drive = make({})
    drive.acquire("all", { scopes: [a], input: 10 })
    drive.acquire("1", { scopes: [a, b], input: 2 })
    drive.acquire("2", { scopes: [b, a], input: 1 })
    drive.acquire("3", { scopes: [a, b], input: 1 })
    assert.strictEqual(drive.engine.lanes.size, 1)
    drive.advance(1000)
    assert.deepStrictEqual(drive.order, ["all", "1", "2", "3"])
    assert.strictEqual(drive.engine.lanes.size, 0)
  })

  it("that differ have queues of their own", () => {
    const drive = make({})
    const ids = ["a", "b", "ab"]
    for (const id of ids) drive.acquire(`first ${id}`, { scopes: [scope(id, tokens)], input: 10 })
    for (const id of ids) drive.acquire(id, { scopes: [scope(id, tokens)], input: 1 })
    drive.acquire("a and b", { scopes: [scope("a", tokens), scope("b", tokens)], input: 1 })
    drive.acquire("a and ab", { scopes: [scope("a", tokens), scope("ab", tokens)], input: 1 })
    assert.strictEqual(drive.engine.lanes.size, 5)
  })

  it("take over limits that change, and keep those that are set", () => {
    const drive = make({})
    const asked = (limit: number) => [scope("a", { requests: { limit, per: "1 hour" } })]
    const limit = (): number | undefined => snapshot(drive, "a").limits[0]?.limit
    drive.acquire("1", { scopes: asked(5) })
    drive.acquire("2", { scopes: asked(3) })
    assert.deepStrictEqual(limitsOf(drive, "a"), [["requests", 3, 2]])
    drive.setLimits("a", { requests: { limit: 9, per: "1 hour" } })
    drive.acquire("3", { scopes: asked(5) })
    assert.strictEqual(limit(), 9)
    assert.isTrue(Engine.reset(drive.engine, "a"))
    assert.deepStrictEqual(limitsOf(drive, "a"), [["requests", 9, 9]])
    drive.acquire("4", { scopes: asked(5) })
    assert.strictEqual(limit(), 5)
    assert.isFalse(Engine.reset(drive.engine, "b"))
  })

  it("that are named twice count once, by the strictest limits, now and when they are named once", () => {
    const drive = make({})
    const hour = (limit: number, concurrency: number): Limits => ({ requests: { limit, per: "1 hour" }, concurrency })
    const [large, small, other] = [hour(9, 2), hour(4, 3), hour(1, 1)]
    drive.acquire("1", { scopes: [scope("a", large), scope("b", other), scope("a", small)] })
    assert.deepStrictEqual(limitsOf(drive, "a"), [["requests", 4, 3], ["concurrency", 2, 1]])
    drive.acquire("2", { scopes: [scope("a", large)] })
    assert.deepStrictEqual(limitsOf(drive, "a"), [["requests", 9, 2], ["concurrency", 2, 0]])
    drive.acquire("3", { scopes: [scope("a", large), scope("a", small)], maxWaitMs: 0 })
    assert.deepStrictEqual(limitsOf(drive, "a"), [["requests", 4, 2], ["concurrency", 2, 0]])
    drive.acquire("4", { scopes: [scope("a", large)], maxWaitMs: 0 })
    assert.strictEqual(snapshot(drive, "a").limits[0]?.limit, 9)
  })

  it("have limits before anybody has named them, and are looked at anew when they are reset", () => {
    const drive = make(tokens)
    drive.setLimits("new", { requests: { limit: 1, per: "1 hour" } })
    assert.deepStrictEqual(limitsOf(drive, "new"), [["requests", 1, 1]])
    drive.acquire("a", { input: 10 })
    drive.acquire("b", { input: 4 })
    Engine.reset(drive.engine, "scope")
    assert.deepStrictEqual(drive.engine.done.map(([, { _tag }]) => _tag), ["Granted"])
    assert.deepStrictEqual(limitsOf(drive), [["tokens", 10, 6]])
  })

  it("may be none", () => {
    const drive = make({})
    drive.acquire("a", { scopes: [], input: 1000 })
    assert.strictEqual(drive.grantedAt("a"), 0)
    assert.strictEqual(foresee(drive, { scopes: [] }).waitMs, 0)
  })

  it("are in use for as long after a request as before", () => {
    const drive = make({}, { idleMs: 1000 })
    const same = [scope("scope")]
    const ask = (id: string): void => {
      drive.acquire(id, { scopes: same })
      drive.settle(id, "nothing-sent")
      drive.release(id)
    }
    ask("a")
    drive.advance(600)
    ask("b")
    for (const [time, size] of [[1599, 1], [1600, 0]] as const) {
      drive.advance(time)
      Engine.sweepAll(drive.engine)
      assert.strictEqual(drive.engine.accounts.size, size)
    }
  })

  it("at rest are forgotten, two at each request, those in use are not", () => {
    const drive = make({}, { idleMs: 1000 })
    const limits: Limits = { requests: { limit: 10, per: "1 second" } }
    for (let each = 0; each < 6; each++) {
      drive.acquire(`${each}`, { scopes: [scope(`k${each}`, limits)] })
      if (each === 0) continue
      drive.settle(`${each}`, { input: 0, output: 0 })
      drive.release(`${each}`)
    }
    drive.advance(999)
    drive.acquire("soon", { scopes: [scope("k5", limits)] })
    assert.strictEqual(drive.engine.accounts.size, 6)
    drive.advance(1000)
    const sizes = ["a", "b", "c", "d", "e", "f"].map((id) => {
      drive.acquire(id, { scopes: [scope("k5", limits)] })
      return drive.engine.accounts.size
    })
    assert.strictEqual(sizes.at(-1), 2)
    for (const [place, size] of sizes.entries()) assert.isAtLeast(size, (sizes[place - 1] ?? 6) - 2)
    assert.deepStrictEqual([...drive.engine.accounts.keys()], ["k0", "k5"])
  })
})

describe("waiting", () => {
  it("is counted, and how it ended", () => {
    const drive = make(tokens)
    drive.acquire("a", { input: 10 })
    drive.acquire("b", { input: 1, level: 1 })
    drive.acquire("c", { input: 1, level: 3, maxWaitMs: 5000 })
    drive.acquire("d", { input: 5, level: 4, maxWaitMs: 900 })
    drive.acquire("e", { input: 1, level: 4 })
    assert.deepInclude(snapshot(drive), { waiting: 4, peakWaiting: 4, granted: 1 })
    assert.deepStrictEqual(snapshot(drive).waitingByPriority, {
      emergency: 0,
      high: 1,
      normal: 0,
      low: 1,
      background: 2
    })
    drive.cancel("e")
    drive.advance(100)
    drive.acquire("f", { input: 5, level: 1 })
    drive.advance(901)
    assert.deepInclude(snapshot(drive), {
      waiting: 0,
      peakWaiting: 4,
      cancelled: 1,
      granted: 4,
      averageWaitMs: (100 + 500 + 700) / 4
    })
    assert.deepStrictEqual(drive.refusalOf("d"), {
      reason: "queue_timeout",
      key: "scope",
      dimension: "tokens",
      waitMs: 300,
      rule: "10 per 1s",
      asked: 5
    })
    assert.deepStrictEqual(["b", "f", "c"].map(drive.grantedAt), [100, 600, 700])
    const grant = drive.grantOf("c")
    assert.deepInclude(grant, { at: 700, waitedMs: 700, binding: "tokens", inFlight: 4 })
    assert.deepInclude(drive.grantOf("a"), { at: 0, waitedMs: 0, binding: undefined, inFlight: 1 })
    // One that has gone does not go again.
    drive.cancel("e")
    drive.cancel("c")
    assert.strictEqual(snapshot(drive).cancelled, 1)
    assert.strictEqual(Engine.wakeAt(drive.engine), Infinity)
    assert.deepStrictEqual(drive.engine.accounts.get("scope")?.parked.items, [])
    assert.deepStrictEqual([drive.engine.waiting, drive.engine.lanes.size, drive.engine.wakes.items.length], [0, 0, 0])
  })

  it("ends in the order of its limits, those that came first of the same", () => {
    const drive = make({ concurrency: 1 })
    drive.acquire("a")
    for (const [id, maxWaitMs] of [["b", 300], ["c", 100], ["d", 200], ["e", 100], ["f", Infinity]] as const) {
      drive.acquire(id, { maxWaitMs })
    }
    assert.strictEqual(Engine.wakeAt(drive.engine), 100)
    const ended: Array<readonly [string, number]> = []
    for (let time = 0; time <= 400; time += 50) {
      drive.advance(time)
      for (const [id, { at }] of drive.results) {
        if (id !== "a" && !ended.some(([known]) => known === id)) ended.push([id, at])
      }
    }
    assert.deepStrictEqual(ended, [["c", 100], ["e", 100], ["d", 200], ["b", 300]])
    assert.deepInclude(drive.refusalOf("b"), { reason: "queue_timeout", dimension: "concurrency" })
  })

  it("of many scopes ends in the order in which they have room", () => {
    const drive = make({})
    const rates = [3, 1, 2, 5, 4]
    for (const rate of rates) {
      const scopes = [scope(`k${rate}`, { requests: { limit: 1, per: `${rate} seconds` } })]
      drive.acquire(`first ${rate}`, { scopes })
      drive.acquire(`k${rate}`, { scopes })
    }
    assert.strictEqual(Engine.wakeAt(drive.engine), 1000)
    drive.advance(2500)
    assert.strictEqual(Engine.wakeAt(drive.engine), 3000)
    drive.advance(10_000)
    assert.deepStrictEqual(drive.order.slice(5), ["k1", "k2", "k3", "k4", "k5"])
    assert.deepStrictEqual(rates.map((rate) => drive.grantedAt(`k${rate}`)), rates.map((rate) => rate * 1000))
  })

  it("lifts each a level when it has waited for long, in the order in which they came", () => {
    const drive = make({ concurrency: 1 }, { ageingMs: 1000 })
    drive.acquire("running")
    drive.acquire("a", { level: 4 })
    drive.advance(500)
    drive.acquire("b", { level: 4 })
    drive.acquire("gone", { level: 4 })
    drive.acquire("c", { level: 4 })
    drive.advance(800)
    drive.acquire("d", { level: 3 })
    drive.cancel("gone")
    assert.strictEqual(Engine.wakeAt(drive.engine), 1000)
    const levels = () =>
      [...drive.engine.lanes.values()].flatMap((lane) =>
        lane.levels.map(({ order }) => order.items.reduce((count, flow) => count + flow.waiters.items.length, 0))
      )
    drive.advance(999)
    assert.deepStrictEqual(levels(), [0, 0, 0, 1, 3])
    drive.advance(1000)
    assert.deepStrictEqual(levels(), [0, 0, 0, 2, 2])
    drive.advance(1500)
    assert.deepStrictEqual(levels(), [0, 0, 0, 4, 0])
    drive.advance(1800)
    assert.deepStrictEqual(levels(), [0, 0, 1, 3, 0])
    drive.advance(2000)
    assert.deepStrictEqual(levels(), [0, 0, 2, 2, 0])
    drive.advance(60_000)
    Engine.advance(drive.engine)
    // Nobody ages into the level that passes the queue.
    assert.deepStrictEqual(levels(), [0, 4, 0, 0, 0])
    for (const id of ["running", "a", "b", "c"]) drive.release(id)
    assert.deepStrictEqual(drive.order, ["running", "a", "b", "c", "d"])
  })

  it("one who is lifted past the others may go at once", () => {
    const drive = make(tokens, { ageingMs: 1000 })
    drive.acquire("all", { input: 10 })
    drive.acquire("late", { input: 10, level: 3 })
    drive.advance(950)
    drive.acquire("many", { input: 10, level: 2 })
    drive.advance(1000)
    assert.strictEqual(drive.grantedAt("late"), 1000)
    assert.strictEqual(drive.grantedAt("many"), undefined)
    const fits = make(tokens, { ageingMs: 500 })
    fits.acquire("all", { input: 10 })
    fits.acquire("small", { input: 5, level: 3, scopes: [scope("scope", tokens), scope("other")] })
    fits.advance(300)
    fits.acquire("large", { input: 10, level: 2 })
    fits.advance(5000)
    assert.deepStrictEqual(["small", "large"].map(fits.grantedAt), [500, 1500])
    const alone = make({ concurrency: 1 }, { ageingMs: 1000 })
    alone.acquire("running")
    alone.acquire("waits", { level: 3 })
    alone.advance(5000)
    alone.release("running")
    assert.strictEqual(alone.grantedAt("waits"), 5000)
  })

  it("one of a better level passes at once where there is room for it, and is told at once", () => {
    const drive = make(tokens)
    drive.acquire("a", { input: 5 })
    drive.acquire("big", { input: 8, level: 3 })
    assert.strictEqual(drive.acquire("same", { input: 1, level: 3 })._tag, "Waiting")
    assert.strictEqual(drive.acquire("better", { input: 1, level: 2 })._tag, "Granted")
    assert.deepInclude(drive.grantOf("better"), { waitedMs: 0 })
    assert.deepStrictEqual(drive.engine.done, [])
  })

  it("one behind who has waited for too long goes at once, if there is room for it", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    drive.acquire("large", { input: 10, level: 3, maxWaitMs: 1000 })
    drive.acquire("small", { input: 5, level: 3 })
    drive.advance(500)
    drive.acquire("better", { input: 5, level: 1 })
    drive.advance(3000)
    assert.deepStrictEqual(["better", "large", "small"].map(drive.grantedAt), [500, undefined, 1000])
  })

  it("nobody passes who came first, though there is room; those of a better level do", () => {
    const drive = make({})
    const x = scope("x", tokens)
    drive.acquire("a", { scopes: [x], input: 5 })
    drive.acquire("large", { scopes: [x], input: 8 })
    drive.acquire("small", { scopes: [x, scope("b")], input: 1 })
    drive.acquire("worse", { scopes: [x, scope("c")], input: 1, level: 3 })
    drive.acquire("better", { scopes: [x, scope("d")], input: 1, level: 1 })
    drive.acquire("first", { scopes: [x, scope("e")], input: 1, level: 0 })
    assert.deepStrictEqual(drive.order, ["a", "better", "first"])
    assert.deepInclude(snapshot(drive, "x"), { emergencies: 1, waiting: 3, peakInFlight: 3 })
    assert.deepInclude(snapshot(drive, "e"), { emergencies: 1, peakInFlight: 1 })
    drive.advance(2000)
    assert.deepStrictEqual(["large", "small", "worse"].map(drive.grantedAt), [500, 600, 700])
  })

  it("one that began earlier goes before those who came meanwhile", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    drive.advance(100)
    drive.acquire("a", { input: 5 })
    drive.advance(200)
    drive.acquire("earlier", { input: 5, since: 50 })
    drive.acquire("elsewhere", { scopes: [scope("scope", tokens), scope("other")], input: 5, since: 75 })
    drive.acquire("later", { input: 5 })
    drive.advance(5000)
    assert.deepStrictEqual(["earlier", "elsewhere", "a", "later"].map(drive.grantedAt), [500, 1000, 1500, 2000])
    const waits = make({ tokens: { limit: 10, per: "1 second", burst: 10 } })
    waits.acquire("some", { input: 5 })
    waits.advance(100)
    waits.acquire("large", { input: 10 })
    waits.acquire("small", { scopes: [scope("scope", tokens), scope("other")], input: 1, since: 50 })
    assert.strictEqual(waits.grantedAt("small"), 100)
    // In the same queue as well, and without having waited.
    assert.strictEqual(waits.acquire("smaller", { input: 1, since: 60 })._tag, "Granted")
    assert.deepInclude(waits.grantOf("smaller"), { waitedMs: 0 })
    assert.deepStrictEqual(waits.engine.done, [])
    waits.advance(5000)
    assert.strictEqual(waits.grantedAt("large"), 700)
  })

  it("is told by what was missing last", () => {
    const drive = make({ ...tokens, concurrency: 1 })
    drive.acquire("a", { input: 10 })
    drive.acquire("b", { input: 10 })
    drive.advance(1500)
    drive.release("a")
    assert.deepInclude(drive.grantOf("b"), { at: 1500, binding: "concurrency" })
    const later = make({ ...tokens, concurrency: 1 })
    later.acquire("a", { input: 10 })
    later.release("a")
    later.acquire("b", { input: 10 })
    later.advance(500)
    later.acquire("urgent", { level: 0 })
    later.advance(1500)
    assert.isUndefined(later.grantedAt("b"))
    later.release("urgent")
    assert.deepInclude(later.grantOf("b"), { at: 1500, binding: "concurrency" })
    const elsewhere = make({})
    const second = scope("second", { requests: { limit: 1, per: "4 seconds" } })
    elsewhere.acquire("all", { scopes: [scope("first", tokens)], input: 10 })
    elsewhere.acquire("b", { scopes: [scope("first", tokens), second], input: 10 })
    elsewhere.advance(500)
    elsewhere.acquire("other", { scopes: [second], level: 1 })
    elsewhere.advance(9000)
    assert.deepInclude(elsewhere.grantOf("b"), { at: 4500, binding: "requests" })
  })

  /** Two scopes; `large` needs all of both, and others take one or the other while it waits for the first. */
  const moving = (): Drive => {
    const x = [scope("x", tokens)]
    const y = [scope("y", tokens)]
    const drive = make({})
    drive.acquire("x0", { scopes: x, input: 10 })
    drive.acquire("y0", { scopes: y, input: 10 })
    drive.acquire("large", { scopes: [...x, ...y], input: 10 })
    for (const [time, id, scopes, input] of [[500, "y1", y, 5], [1100, "x1", x, 10], [1600, "y2", y, 10]] as const) {
      drive.advance(time)
      drive.acquire(id, { scopes, input })
      assert.strictEqual(drive.grantedAt(id), time)
    }
    drive.advance(2200)
    assert.isUndefined(drive.grantedAt("large"))
    return drive
  }

  it("one who was moved three times holds all it needs: nobody of its level takes any of it", () => {
    const drive = moving()
    drive.acquire("x2", { scopes: [scope("x", tokens)], input: 1 })
    drive.acquire("worse", { scopes: [scope("x", tokens), scope("z")], input: 1, level: 3 })
    drive.acquire("better", { scopes: [scope("x", tokens), scope("z")], input: 1, level: 1 })
    drive.advance(3000)
    assert.deepStrictEqual(["better", "large", "x2", "worse"].map(drive.grantedAt), [2200, 2600, 2700, 2800])
    drive.acquire("x3", { scopes: [scope("x", tokens)], input: 1 })
    drive.acquire("y3", { scopes: [scope("y", tokens)], input: 1 })
    assert.deepStrictEqual(["x3", "y3"].map(drive.grantedAt), [3000, 3000])
    for (const key of ["x", "y"]) assert.deepStrictEqual(drive.engine.accounts.get(key)?.holders, [])
  })

  it("one who goes away holds nothing any more", () => {
    const drive = moving()
    drive.acquire("x2", { scopes: [scope("x", tokens)], input: 1 })
    drive.advance(2300)
    assert.isUndefined(drive.grantedAt("x2"))
    drive.cancel("large")
    assert.strictEqual(drive.grantedAt("x2"), 2300)
    for (const key of ["x", "y"]) assert.deepStrictEqual(drive.engine.accounts.get(key)?.holders, [])
  })

  it("of two who hold the older one goes first", () => {
    const drive = moving()
    const both = [scope("x", tokens), scope("y", tokens), scope("z")]
    drive.acquire("second", { scopes: both, input: 5 })
    drive.acquire("third", { scopes: [scope("x", tokens), scope("z")], input: 1 })
    drive.advance(4000)
    assert.deepStrictEqual(["large", "second", "third"].map(drive.grantedAt), [2600, 3100, 3200])
  })

  it("those who wait for another scope are passed, those who wait for this one are not", () => {
    const a = scope("a", tokens)
    const b = scope("b", tokens)
    const drive = make({})
    drive.acquire("all of a", { scopes: [a], input: 10 })
    drive.acquire("both", { scopes: [a, b], input: 3 })
    drive.acquire("b alone", { scopes: [b], input: 3 })
    assert.strictEqual(drive.grantedAt("b alone"), 0)
    drive.acquire("a alone", { scopes: [a], input: 1 })
    drive.advance(299)
    assert.strictEqual(drive.grantedAt("a alone"), undefined)
    drive.advance(1000)
    assert.deepStrictEqual(["both", "a alone"].map(drive.grantedAt), [300, 400])
  })

  it("one who waits takes a turn of its tenant's, by tokens and weight", () => {
    const drive = make({ concurrency: 1 }, { weight: (tenant) => tenant === "heavy" ? 4 : 1 })
    drive.acquire("running")
    const ask = (id: string, tenant: string, input: number) => drive.acquire(id, { tenant, input })
    for (let each = 0; each < 4; each++) ask(`h${each}`, "heavy", 40)
    for (let each = 0; each < 4; each++) ask(`l${each}`, "light", 10)
    for (let each = 0; each < 2; each++) ask(`n${each}`, "nothing", 0)
    for (let each = 0; each < 10; each++) drive.release(drive.order.at(-1) ?? "")
    const small = make({ concurrency: 1 })
    small.acquire("running")
    for (let each = 0; each < 3; each++) {
      // A request counts for a token at least.
      small.acquire(`p${each}`, { tenant: "p" })
      small.acquire(`q${each}`, { tenant: "q", input: 2 })
    }
    small.acquire("p3", { tenant: "p" })
    for (let each = 0; each < 7; each++) small.release(small.order.at(-1) ?? "")
    assert.deepStrictEqual(small.order, ["running", "p0", "q0", "p1", "q1", "p2", "p3", "q2"])
    assert.deepStrictEqual(drive.order, ["running", "h0", "l0", "n0", "n1", "h1", "l1", "h2", "l2", "h3", "l3"])
  })

  it("what is taken while nobody waits is no turn", () => {
    const drive = make(tokens)
    for (const id of ["a1", "a2"]) drive.acquire(id, { input: 5, tenant: "a" })
    drive.acquire("a", { input: 1, tenant: "a" })
    drive.acquire("b", { input: 1, tenant: "b" })
    drive.advance(1000)
    assert.deepStrictEqual(drive.order, ["a1", "a2", "a", "b"])
  })

  it("is known to be so many in flight, at the scope with most", () => {
    const drive = make({})
    for (let each = 0; each < 3; each++) drive.acquire(`${each}`, { scopes: [scope("a")] })
    drive.acquire("both", { scopes: [scope("a"), scope("b")] })
    drive.acquire("none", { scopes: [scope("c")], slots: 0 })
    assert.deepStrictEqual(["both", "none"].map((id) => drive.grantOf(id).inFlight), [4, 0])
  })

  it("one of normal priority is lifted, too", () => {
    const drive = make({ concurrency: 1 }, { ageingMs: 1000 })
    drive.acquire("running")
    drive.acquire("normal")
    assert.strictEqual(Engine.wakeAt(drive.engine), 1000)
    drive.advance(1000)
    assert.strictEqual(Engine.wakeAt(drive.engine), Infinity)
  })

  it("a limit that is lowered refuses the only one who waits, if it asks for too much", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    drive.acquire("large", { input: 6 })
    drive.setLimits("scope", { tokens: { limit: 10, per: "1 second", burst: 5 } })
    assert.deepInclude(drive.refusalOf("large"), { reason: "request_exceeds_limit" })
  })

  it("a limit that is lowered refuses who asks for more than it can ever give, in every queue of its scope", () => {
    const drive = make({})
    const a = scope("a", tokens)
    drive.acquire("all", { scopes: [a], input: 10 })
    drive.acquire("large", { scopes: [a], input: 6 })
    drive.acquire("small", { scopes: [a], input: 2 })
    drive.acquire("large, too", { scopes: [a, scope("b")], input: 6, level: 4, tenant: "x" })
    drive.acquire("elsewhere", { scopes: [scope("c", tokens)], input: 10 })
    drive.acquire("waits elsewhere", { scopes: [scope("c", tokens)], input: 6 })
    drive.setLimits("a", { tokens: { limit: 10, per: "1 second", burst: 5 } })
    for (const id of ["large", "large, too"]) {
      assert.deepInclude(drive.refusalOf(id), {
        reason: "request_exceeds_limit",
        rule: "5 at once, 10 per 1s",
        asked: 6
      })
    }
    drive.advance(1000)
    assert.deepStrictEqual(["small", "waits elsewhere"].map(drive.grantedAt), [200, 600])
    assert.deepInclude(snapshot(drive, "a").denied, { request_exceeds_limit: 2 })
  })
})

describe("an overload", () => {
  it("holds all to the wait of the largest that it refuses", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    for (let each = 0; each < 8; each++) drive.acquire(`queued ${each}`, { input: 5 })
    // Four seconds behind others, and one for ten tokens of its own.
    for (let each = 0; each < 7; each++) drive.acquire(`large ${each}`, { input: 10, maxWaitMs: 4500 })
    assert.deepInclude(drive.refusalOf("large 6"), { reason: "queue_timeout", waitMs: 5000 })
    drive.acquire("small, before", { input: 1, maxWaitMs: 4500 })
    assert.isUndefined(drive.refusalOf("small, before"))
    drive.cancel("small, before")
    drive.acquire("large 7", { input: 10, maxWaitMs: 4500 })
    drive.acquire("small", { input: 1, maxWaitMs: 4500 })
    assert.deepInclude(drive.refusalOf("small"), { reason: "queue_timeout", waitMs: 4100 })
    // There is time for a large one in its place.
    drive.acquire("patient", { input: 1, maxWaitMs: 5000 })
    assert.isUndefined(drive.refusalOf("patient"))
    drive.acquire("idle", { input: 0, maxWaitMs: 9000 })
    assert.isUndefined(drive.refusalOf("idle"))
  })

  it("is not made by requests whose wait nobody knows", () => {
    const drive = make({ concurrency: 1 })
    drive.acquire("running")
    for (let each = 0; each < 20; each++) drive.acquire(`${each}`, { maxWaitMs: 1 })
    assert.isUndefined(drive.refusalOf("19"))
  })
})

describe("settling", () => {
  it("counts what was reserved, used, given back and used beyond", () => {
    const drive = make({ tokens: { limit: 100_000, per: "1 minute" } })
    for (const id of ["a", "b", "c", "d"]) drive.acquire(id, { input: 60, output: 40 })
    assert.deepInclude(snapshot(drive), { reservedTokens: 400, grantedTokens: 400, successRate: 1, inFlight: 4 })
    drive.settle("a", { input: 50, output: 10, cachedInput: 20 })
    drive.settle("b", { input: 60, output: 90 })
    drive.settle("c", "nothing-sent")
    drive.settle("d", "unknown")
    assert.deepInclude(snapshot(drive), {
      reservedTokens: 0,
      grantedTokens: 400,
      settledTokens: 60 + 150 + 0 + 100,
      refundedTokens: 40 + 100,
      overusedTokens: 50,
      cachedTokens: 20,
      successRate: 0.5
    })
    assert.deepStrictEqual(limitsOf(drive), [["tokens", 100_000, 100_000 - 310]])
    drive.settle("a", { input: 0, output: 0 })
    assert.strictEqual(snapshot(drive).settledTokens, 310)
  })

  it("counts as served what was used, and nothing else", () => {
    const drive = make({ requests: { limit: 60, per: "1 minute" } }, { adaptive: true })
    const limit = () => snapshot(drive).limits[0]?.limit
    for (const id of ["a", "b", "c"]) drive.acquire(id)
    const event = { dimension: undefined, overloaded: true, tokens: 0, retryAfterMs: undefined, random: 0 }
    Engine.throttled(drive.engine, "scope", { ...event, sentAt: 0 })
    assert.strictEqual(limit(), 42)
    drive.advance(2000)
    drive.settle("a", "unknown")
    drive.settle("b", "nothing-sent")
    assert.strictEqual(limit(), 42)
    drive.settle("c", { input: 0, output: 0 })
    assert.isAbove(limit() ?? 0, 42)
  })

  it("counts no more as cached than there is input", () => {
    const drive = make({ inputTokens: { limit: 1000, per: "1 minute" } })
    drive.acquire("a", { input: 100 })
    drive.settle("a", { input: 80, output: 0, cachedInput: 500 })
    assert.deepStrictEqual(limitsOf(drive), [["inputTokens", 1000, 1000]])
  })

  it("and releasing serve those who wait, each once", () => {
    const drive = make({ ...tokens, concurrency: 2 })
    drive.acquire("a", { input: 10 })
    drive.acquire("b", { input: 4 })
    drive.settle("a", { input: 6, output: 0 })
    assert.strictEqual(drive.grantedAt("b"), 0)
    drive.acquire("c", { input: 0 })
    drive.release("a")
    drive.release("a")
    assert.strictEqual(drive.grantedAt("c"), 0)
    assert.strictEqual(snapshot(drive).inFlight, 2)
    drive.release("b")
    drive.release("c")
    assert.strictEqual(snapshot(drive).inFlight, 0)
  })

  it("of one scope serves who waits for another, too", () => {
    const slot = scope("slot", { concurrency: 1 })
    const a = scope("a", { requests: { limit: 1, per: "1 second" } })
    const drive = make({})
    drive.acquire("1", { scopes: [slot, a] })
    drive.acquire("2", { scopes: [slot] })
    drive.acquire("3", { scopes: [slot, a] })
    drive.settle("1", "nothing-sent")
    assert.deepStrictEqual(drive.order, ["1"])
    drive.release("1")
    assert.deepStrictEqual(drive.order, ["1", "2"])
    drive.release("2")
    assert.deepStrictEqual(drive.order, ["1", "2", "3"])
    assert.strictEqual(drive.grantedAt("3"), 0)
  })
})

describe("what a provider says", () => {
  const adaptive = { adaptive: true }
  const say = (drive: Drive, ...said: ReadonlyArray<Observation>): void => {
    Engine.stated(drive.engine, "scope", said, drive.engine.now.mono)
  }
  const minute: Limits = { requests: { limit: 60, per: "1 minute" } }

  it("lowers the limit of the window it is about, to within a tenth, or else of the shortest one", () => {
    const limits: Limits = {
      requests: [{ limit: 1000, per: "1 hour" }, { limit: 60, per: "1 minute" }, { limit: 9000, per: "1 day" }],
      tokens: { limit: 500, per: "1 minute" }
    }
    const rates = (...said: ReadonlyArray<Observation>) => {
      const drive = make(limits)
      drive.acquire("a")
      say(drive, ...said)
      return snapshot(drive).limits.map(({ utilisation, windowMs }) => [windowMs, Math.round(utilisation * 1e6) / 1e6])
    }
    const own = [[3_600_000, 0.001], [60_000, 0.016667], [86_400_000, 0.000111], [60_000, 0]]
    const minuteFull = own.map((each, place) => place === 1 ? [60_000, 1] : each)
    const hourFull = own.map((each, place) => place === 0 ? [3_600_000, 1] : each)
    const requests = { dimension: "requests", remaining: 0 } as const
    assert.deepStrictEqual(rates(requests), minuteFull)
    assert.deepStrictEqual(rates({ ...requests, windowMs: 60_000 }), minuteFull)
    assert.deepStrictEqual(rates({ ...requests, windowMs: 3_960_000 }), hourFull)
    assert.deepStrictEqual(rates({ ...requests, windowMs: 3_240_000 }), hourFull)
    assert.deepStrictEqual(rates({ ...requests, windowMs: 3_960_001 }), own)
    assert.deepStrictEqual(rates({ ...requests, windowMs: 3_239_999 }), own)
    assert.deepStrictEqual(rates({ dimension: "inputTokens", remaining: 0 }), own)
    assert.deepStrictEqual(rates({ ...requests, remaining: -5 }), minuteFull)
    assert.deepStrictEqual(rates({ dimension: "interval", remaining: 0 }), own)
    Engine.stated(make(limits).engine, "nobody", [requests], 0)
    const drive = make({ requests: { limit: 60, per: "1 minute" }, minInterval: 100 })
    drive.acquire("a")
    say(drive, { dimension: "interval", limit: 5, remaining: 0 }, { dimension: "requests", remaining: 30 })
    say(drive, { dimension: "requests", limit: 0 }, { dimension: "requests", limit: -1 })
    assert.deepStrictEqual(limitsOf(drive), [["requests", 60, 30], ["interval", 1, 0]])
    drive.advance(10_000)
    assert.deepStrictEqual(limitsOf(drive), [["requests", 60, 40], ["interval", 1, 1]])
  })

  it("is put into force, for those who wait as well", () => {
    const drive = make(minute, adaptive)
    drive.acquire("a")
    say(drive, { dimension: "requests", limit: 30 })
    assert.strictEqual(snapshot(drive).limits[0]?.limit, 30)
    say(drive, { dimension: "requests", limit: 0 })
    say(drive, { dimension: "requests", remaining: 70 })
    assert.strictEqual(snapshot(drive).limits[0]?.limit, 30)
    say(drive, { dimension: "requests", limit: 0.5 })
    assert.strictEqual(snapshot(drive).limits[0]?.limit, 1)
    const waits = make(tokens)
    waits.acquire("all", { input: 10 })
    waits.acquire("b", { input: 1 })
    waits.setLimits("scope", tokens)
    say(waits, { dimension: "tokens", limit: 5 })
    waits.advance(1000)
    assert.strictEqual(waits.grantedAt("b"), 200)
  })

  it("limits slots, for as long as no fewer are configured", () => {
    const drive = make({ concurrency: 5 })
    const limit = () => snapshot(drive).limits.find(({ dimension }) => dimension === "concurrency")?.limit
    drive.acquire("a")
    say(drive, { dimension: "concurrency", limit: 3 })
    assert.strictEqual(limit(), 3)
    for (const limit of [0, 0.9]) say(drive, { dimension: "concurrency", limit })
    say(drive, { dimension: "concurrency", remaining: 2 })
    assert.strictEqual(limit(), 3)
    say(drive, { dimension: "concurrency", limit: 1 })
    assert.strictEqual(limit(), 1)
    drive.acquire("b")
    say(drive, { dimension: "concurrency", limit: 9 })
    assert.strictEqual(limit(), 5)
    drive.release("a")
    assert.strictEqual(drive.grantedAt("b"), 0)
    say(drive, { dimension: "concurrency", limit: 2 })
    Engine.reset(drive.engine, "scope")
    assert.strictEqual(limit(), 5)
    const taught = make({ concurrency: 20 }, adaptive)
    const refused = (sentAt: number): void =>
      Engine.throttled(taught.engine, "scope", {
        dimension: "concurrency",
        overloaded: false,
        sentAt,
        tokens: 0,
        retryAfterMs: undefined,
        random: 0
      })
    for (let each = 0; each < 10; each++) taught.acquire(`${each}`)
    taught.advance(5000)
    refused(10)
    say(taught, { dimension: "concurrency", limit: 6 })
    taught.advance(9000)
    // What was sent before the last cut says nothing new.
    refused(4900)
    assert.strictEqual(snapshot(taught).limits[0]?.limit, 6)
  })

  it("makes a limit where none is configured, when limits are learned", () => {
    const guessed = (options: Partial<Engine.Options>, observation: Observation) => {
      const drive = make({}, options)
      drive.acquire("a", { input: 5 })
      say(drive, observation)
      return snapshot(drive).limits.map((
        { dimension, limit, remaining, windowMs }
      ) => [dimension, windowMs, limit, remaining])
    }
    assert.deepStrictEqual(guessed(adaptive, { dimension: "tokens", limit: 600 }), [["tokens", 60_000, 600, 100]])
    assert.deepStrictEqual(guessed(adaptive, { dimension: "tokens", limit: 600, remaining: 40, windowMs: 1000 }), [
      ["tokens", 1000, 600, 40]
    ])
    assert.deepStrictEqual(guessed(adaptive, { dimension: "tokens", limit: 1 }), [["tokens", 60_000, 1, 1]])
    assert.deepStrictEqual(guessed({}, { dimension: "tokens", limit: 600 }), [])
    assert.deepStrictEqual(guessed(adaptive, { dimension: "tokens", remaining: 5 }), [])
    assert.deepStrictEqual(guessed(adaptive, { dimension: "tokens", limit: 0 }), [])
    assert.deepStrictEqual(guessed(adaptive, { dimension: "interval", limit: 5 }), [])
  })
})

describe("a refusal of the provider", () => {
  const throttle = (drive: Drive, changes: Partial<Parameters<typeof Engine.throttled>[2]> = {}): void =>
    Engine.throttled(drive.engine, "scope", {
      dimension: undefined,
      overloaded: false,
      sentAt: drive.engine.now.mono,
      tokens: 7,
      retryAfterMs: undefined,
      random: 0,
      ...changes
    })
  const blocked = (drive: Drive) => snapshot(drive).limits.map(({ blockedMs, dimension }) => [dimension, blockedMs])
  const both: Limits = { requests: { limit: 60, per: "1 minute" }, tokens: { limit: 6000, per: "1 minute" } }

  it("blocks the limit that is used most, for as long as it states", () => {
    const drive = make(both)
    drive.acquire("a", { input: 600 })
    throttle(drive, { retryAfterMs: 5000 })
    assert.deepStrictEqual(blocked(drive), [["requests", 0], ["tokens", 5000]])
    throttle(drive, { dimension: "requests", retryAfterMs: 4000, random: 0.5 })
    assert.deepStrictEqual(blocked(drive), [["requests", 4200], ["tokens", 5000]])
    throttle(drive, { retryAfterMs: 1000 })
    throttle(drive)
    assert.deepStrictEqual(blocked(drive), [["requests", 4200], ["tokens", 5000]])
    assert.deepInclude(snapshot(drive), { throttled: 4 })
    const many = make(both)
    for (let each = 0; each < 6; each++) many.acquire(`${each}`, { input: 10 })
    throttle(many, { random: 0.5 })
    assert.deepStrictEqual(blocked(many), [["requests", 0], ["tokens", 0]])
    throttle(many, { retryAfterMs: 1000 })
    assert.deepStrictEqual(blocked(many), [["requests", 1000], ["tokens", 0]])
    const unused = make(both)
    unused.acquire("a", { input: 10 })
    unused.settle("a", "nothing-sent")
    throttle(unused, { retryAfterMs: 1000 })
    assert.deepStrictEqual(blocked(unused), [["requests", 1000], ["tokens", 0]])
    throttle(make(both))
  })

  it("leaves intervals and calendars alone", () => {
    const limits: Limits = { requests: { limit: 5, per: "1 day", window: "calendar" }, minInterval: 100 }
    const drive = make(limits)
    drive.acquire("a")
    throttle(drive, { retryAfterMs: 5000 })
    assert.deepStrictEqual(blocked(drive), [["requests", 0], ["interval", 0]])
  })

  it("lowers what is learned: of the limit that it is about, or that is used most of late", () => {
    const learned = (changes: Partial<Parameters<typeof Engine.throttled>[2]>, input = 150) => {
      const drive = make(both, { adaptive: true })
      for (let time = 0; time < 20_000; time += 1000) {
        drive.advance(time)
        drive.acquire(`${time}`, { input })
        drive.release(`${time}`)
      }
      throttle(drive, changes)
      return snapshot(drive).limits.map(({ limit }) => limit)
    }
    // A request a second is all of one limit, and 150 tokens are more than all of the other.
    assert.deepStrictEqual(learned({}), [60, 4200])
    assert.deepStrictEqual(learned({}, 50), [42, 6000])
    assert.deepStrictEqual(learned({ dimension: "requests" }), [42, 6000])
    assert.deepStrictEqual(learned({ overloaded: true }), [60, 4200])
  })

  it("counts what it refuses as not served: one request, or its tokens", () => {
    const units = (dimension: "requests" | "tokens") => {
      const drive = make({ ...both, requests: { limit: 600, per: "1 minute" } }, { adaptive: true })
      drive.acquire("a", { input: 50 })
      throttle(drive, { dimension })
      drive.advance(500)
      for (const id of ["b", "c"]) drive.acquire(id, { input: 10 })
      throttle(drive, { dimension, sentAt: 400 })
      return drive.engine.accounts.get("scope")?.meters.find((meter) => meter.dimension === dimension)?.learner?.state
        .units
    }
    assert.deepStrictEqual([units("requests"), units("tokens")], [1, 13])
  })

  it("makes a limit of requests where none is known: as many as of late, unless it was an overload", () => {
    const guess = (calls: number, pauseMs: number, changes: Partial<Parameters<typeof Engine.throttled>[2]> = {}) => {
      const drive = make({}, { adaptive: true })
      drive.advance(60_000)
      for (let each = 0; each < calls; each++) drive.acquire(`${each}`)
      drive.advance(60_000 + pauseMs)
      drive.acquire("last")
      throttle(drive, changes)
      return snapshot(drive).limits.map((
        { configured, dimension, learned, limit }
      ) => [dimension, limit, configured, learned])
    }
    const requests = (limit: number) => [["requests", limit, undefined, true]]
    // Cut by three tenths, as any limit that was refused: of 20, of 19 and of 1.
    assert.deepStrictEqual(guess(19, 59_999), requests(14))
    assert.deepStrictEqual(guess(19, 60_000), requests(13))
    assert.deepStrictEqual(guess(19, 120_000), requests(1))
    assert.deepStrictEqual(guess(19, 0, { overloaded: true }), [])
    const idle = make({}, { adaptive: true })
    for (let each = 0; each < 9; each++) idle.acquire(`${each}`)
    idle.advance(120_000)
    throttle(idle)
    assert.deepInclude(snapshot(idle).limits[0], { dimension: "requests", limit: 1 })
  })

  it("about slots lowers those, from what was in use at most, and answers raise them", () => {
    const drive = make({ concurrency: 20 }, { adaptive: true })
    const limit = () => snapshot(drive).limits.find(({ dimension }) => dimension === "concurrency")?.limit
    for (let each = 0; each < 10; each++) drive.acquire(`${each}`)
    drive.advance(5000)
    throttle(drive, { dimension: "concurrency", sentAt: 10 })
    assert.strictEqual(limit(), 7)
    for (let each = 0; each < 10; each++) drive.settle(`${each}`, each < 3 ? "unknown" : { input: 0, output: 0 })
    // Each of the last seven answers has added a seventh at most.
    assert.strictEqual(limit(), 7)
    for (let each = 0; each < 6; each++) drive.release(`${each}`)
    drive.acquire("next")
    drive.settle("next", { input: 0, output: 0 })
    assert.strictEqual(limit(), 8)
    drive.advance(8000)
    throttle(drive, { dimension: "concurrency", sentAt: 7000 })
    assert.strictEqual(limit(), 5)
    drive.setLimits("scope", { concurrency: 20 })
    assert.strictEqual(limit(), 20)
    const plain = make({ concurrency: 20 })
    plain.acquire("a")
    throttle(plain, { dimension: "concurrency" })
    assert.deepInclude(snapshot(plain).limits[0], { limit: 20 })
  })

  it("puts off those who wait", () => {
    const drive = make(tokens)
    drive.acquire("all", { input: 10 })
    drive.acquire("b", { input: 1 })
    throttle(drive, { retryAfterMs: 3000 })
    drive.advance(10_000)
    assert.strictEqual(drive.grantedAt("b"), 3000)
  })
})
