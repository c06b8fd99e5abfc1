import { assert, describe, it } from "@effect/vitest"
import type { Account } from "../../../src/internal/limiter/account.ts"
import * as Engine from "../../../src/internal/limiter/engine.ts"
import type { Limits } from "../../../src/internal/limiter/limits.ts"
import * as Meter from "../../../src/internal/limiter/meter.ts"
import { type Asked, make } from "./drive.ts"

/** Numbers in [0, 1) that are the same in every run. */
const randoms = (seed: number) => (): number => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
  return seed / 4294967296
}

const windowMs = 1000

const limits: Readonly<Record<string, Limits>> = {
  provider: { tokens: { limit: 400, per: windowMs, window: "sliding" }, concurrency: 12 },
  a: { requests: { limit: 40, per: "1 second", burst: 5 }, concurrency: 6 },
  b: { outputTokens: { limit: 150, per: windowMs, window: "sliding" }, minInterval: 7 },
  c: { requests: { limit: 100, per: windowMs, window: "sliding" }, concurrency: 3 }
}

const keys = Object.keys(limits)

interface Sent {
  readonly asked: Required<Omit<Asked, "since">>
  readonly at: number
}

const balance = (account: Account, now: Meter.Now) => ({
  inFlight: account.inFlight,
  waiting: account.waitingCount,
  left: account.meters.map((meter) => Meter.available(meter, now))
})

/** Random calls, waits, settlements, releases and interruptions, with checks after each step. */
const run = (seed: number, steps: number, ageingMs: number) => {
  const random = randoms(seed)
  const pick = <A>(all: ReadonlyArray<A>): A => {
    const one = all[Math.floor(random() * all.length)]
    if (one === undefined) throw new Error("nothing to pick from")
    return one
  }
  const drive = make({}, { ageingMs, maxQueue: 40 })
  const { engine } = drive
  const sent = new Map<string, Sent>()
  const live = new Set<string>()
  const waiting = new Set<string>()
  let now = 0

  const check = (): void => {
    for (const account of engine.accounts.values()) {
      const { counts } = account
      assert.isAtLeast(account.inFlight, 0)
      assert.isAtMost(account.inFlight, account.plan.concurrency)
      assert.strictEqual(
        counts.grantedTokens + counts.overusedTokens,
        counts.settledTokens + counts.refundedTokens + counts.reservedTokens
      )
      // The sum over levels of what is queued is that of the lanes that wait here.
      const queued = account.queued.reduce((sum, { requests }) => sum + requests, 0)
      assert.strictEqual(queued, account.parked.items.reduce((sum, lane) => sum + lane.waiting, 0))
    }
    for (const lane of engine.lanes.values()) {
      const { head } = lane
      const alone = lane.accounts.every(({ holders, parked }) =>
        parked.items.every((other) => other === lane) && holders.every((other) => other === lane)
      )
      if (head === undefined || !alone) continue
      const forecast = Engine.foresee(engine, {
        scopes: lane.accounts.map(({ key }) => ({ key, limits: limits[key] ?? {} })),
        input: head.wanted.inputTokens,
        output: head.wanted.outputTokens,
        slots: head.wanted.concurrency,
        level: 0,
        tenant: "",
        maxWaitMs: 0
      })
      assert.isAbove(forecast.waitMs, 0, "a request waits although it fits")
    }
  }

  const collect = (): void => {
    for (const id of waiting) {
      const result = drive.results.get(id)
      const { asked, at } = sent.get(id) ?? { asked: undefined, at: 0 }
      if (result !== undefined) {
        waiting.delete(id)
        assert.isAtMost(result.at, at + (asked?.maxWaitMs ?? 0) + 0.01)
        if (result._tag === "Granted") live.add(id)
      } else assert.isAtMost(now, at + (asked?.maxWaitMs ?? 0) + 0.01)
    }
  }

  for (let step = 0; step < steps; step++) {
    const choice = random()
    if (choice < 0.5) {
      const id = `${step}`
      const names = keys.filter(() => random() < 0.5)
      const asked: Required<Omit<Asked, "since">> = {
        scopes: (names.length === 0 ? ["provider"] : names).map((key) => ({ key, limits: limits[key] ?? {} })),
        input: Math.floor(random() * 60),
        output: Math.floor(random() * 40),
        slots: 1,
        level: 1 + Math.floor(random() * 4),
        tenant: pick(["x", "y", "z"]),
        maxWaitMs: Math.floor(random() * 4000)
      }
      sent.set(id, { asked, at: now })
      const before = Array.from(engine.accounts.values(), (account) => balance(account, engine.now))
      const outcome = drive.acquire(id, asked)
      if (outcome._tag === "Granted") live.add(id)
      else if (outcome._tag === "Waiting") waiting.add(id)
      else {
        const after = Array.from(engine.accounts.values(), (account) => balance(account, engine.now))
        assert.deepStrictEqual(after.slice(0, before.length), before)
      }
    } else if (choice < 0.65 && live.size > 0) {
      const id = pick([...live])
      const asked = sent.get(id)?.asked
      const end = random()
      drive.settle(
        id,
        end < 0.2 ? "nothing-sent" : end < 0.4 ? "unknown" : {
          input: asked?.input ?? 0,
          output: Math.floor((asked?.output ?? 0) * random())
        }
      )
      drive.release(id)
      live.delete(id)
    } else if (choice < 0.75 && waiting.size > 0) {
      const id = pick([...waiting])
      drive.cancel(id)
      waiting.delete(id)
    } else {
      now += random() * 40
      drive.advance(now)
    }
    collect()
    check()
  }

  // Whatever was interrupted, everything is back at the end.
  now += 10_000
  drive.advance(now)
  for (;;) {
    collect()
    if (live.size === 0 && waiting.size === 0) break
    for (const id of live) {
      drive.settle(id, "unknown")
      drive.release(id)
    }
    live.clear()
    now += 5000
    drive.advance(now)
  }
  now += 10_000
  drive.advance(now)
  assert.strictEqual(engine.waiting, 0)
  assert.strictEqual(engine.lanes.size, 0)
  assert.strictEqual(Engine.wakeAt(engine), Number.POSITIVE_INFINITY)
  for (const account of engine.accounts.values()) {
    assert.deepStrictEqual(account.holders, [])
    assert.deepStrictEqual(balance(account, engine.now), {
      inFlight: 0,
      waiting: 0,
      left: account.meters.map((meter) => Meter.capacity(meter))
    })
  }
  return { drive, sent }
}

/** Asserts that in every interval of one window at most the limit was granted, estimates counted. */
const checkWindow = (granted: ReadonlyArray<readonly [at: number, amount: number]>, limit: number): void => {
  const sorted = [...granted].sort((a, b) => a[0] - b[0])
  let sum = 0
  let first = 0
  for (const [at, amount] of sorted) {
    sum += amount
    for (
      let oldest = sorted[first];
      oldest !== undefined && at - oldest[0] >= windowMs - 1e-6;
      oldest = sorted[first]
    ) {
      sum -= oldest[1]
      first++
    }
    assert.isAtMost(sum, limit)
  }
}

describe("limiter under random schedules", () => {
  for (const seed of [1, 2, 3, 4]) {
    it(`T5 T18: keeps its books, strands nobody who fits and has everything back at the end (seed ${seed})`, () => {
      const { drive } = run(seed, 1000, seed % 2 === 0 ? Number.POSITIVE_INFINITY : 500)
      assert.isAbove(drive.order.length, 100)
    })

    it(`first come first served within a set of scopes, a level and a tenant (seed ${seed})`, () => {
      const { drive, sent } = run(seed, 1000, Number.POSITIVE_INFINITY)
      const last = new Map<string, number>()
      let compared = 0
      for (const id of drive.order) {
        const asked = sent.get(id)?.asked
        if (asked === undefined) continue
        const lane = `${asked.scopes.map(({ key }) => key)} ${asked.level} ${asked.tenant}`
        const previous = last.get(lane)
        if (previous !== undefined) {
          compared++
          assert.isAbove(Number(id), previous)
        }
        last.set(lane, Number(id))
      }
      assert.isAbove(compared, 20)
    })
  }

  it("T1 T7: grants at most the limit in every window, when nothing is given back", () => {
    const random = randoms(42)
    const drive = make({})
    const asked = new Map<string, Asked>()
    const scopes = ["provider", "b", "c"].map((key) => ({
      key,
      limits: { ...limits[key], concurrency: undefined, minInterval: undefined }
    }))
    let now = 0
    for (let step = 0; step < 4000; step++) {
      const ask: Asked = {
        scopes: random() < 0.5 ? scopes : scopes.slice(0, 1),
        input: Math.floor(random() * 60),
        output: Math.floor(random() * 40),
        level: Math.floor(random() * 5),
        maxWaitMs: 2000
      }
      asked.set(`${step}`, ask)
      drive.acquire(`${step}`, ask)
      if (random() < 0.1) drive.cancel(`${Math.floor(random() * step)}`)
      now += random() * 60
      drive.advance(now)
    }
    const granted = drive.order.map((id) => {
      const ask = asked.get(id)
      const { at } = drive.results.get(id) ?? { at: 0 }
      return { at, all: (ask?.scopes?.length ?? 0) > 1, input: ask?.input ?? 0, output: ask?.output ?? 0 }
    })
    assert.isAbove(granted.length, 500)
    checkWindow(granted.map(({ at, input, output }) => [at, input + output]), 400)
    checkWindow(granted.filter(({ all }) => all).map(({ at, output }) => [at, output]), 150)
    checkWindow(granted.filter(({ all }) => all).map(({ at }) => [at, 1]), 100)
  })

  it("T8: interrupted requests change nothing for those who stay", () => {
    const limited: Limits = { tokens: { limit: 100, per: "1 second", burst: 100 }, concurrency: 50 }
    const times = (seed: number, withGone: boolean) => {
      const random = randoms(seed)
      const drive = make(limited, { ageingMs: Number.POSITIVE_INFINITY })
      const gone: Array<string> = []
      drive.acquire("first", { input: 100 })
      for (let each = 0; each < 400; each++) {
        const asked: Asked = {
          input: 1 + Math.floor(random() * 50),
          level: 1 + Math.floor(random() * 4),
          tenant: random() < 0.5 ? "x" : "y"
        }
        const leaves = random() < 0.7
        if (leaves && withGone) {
          drive.acquire(`gone${each}`, asked)
          gone.push(`gone${each}`)
        } else if (!leaves) drive.acquire(`stay${each}`, asked)
      }
      for (const id of gone.sort(() => random() - 0.5)) drive.cancel(id)
      const stayed = new Map<string, number | undefined>()
      for (let time = 0; time < 60_000; time += 500) {
        drive.advance(time)
        for (const id of drive.order) drive.release(id)
      }
      for (const id of drive.order) stayed.set(id, drive.grantedAt(id))
      return [...stayed]
    }
    for (const seed of [1, 2, 3]) {
      assert.deepStrictEqual(times(seed, true), times(seed, false))
    }
  })
})
