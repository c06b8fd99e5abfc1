import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Scheduler } from "effect"
import { TestClock } from "effect/testing"
import * as Alarms from "../../src/internal/alarm.ts"

/** A way to set alarms on the test clock, what has rung when, and how many sleeps there are and were. */
const make = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const scheduler = yield* Scheduler.Scheduler
  const sleeps = { pending: 0, started: 0 }
  const counted: Clock.Clock = Object.assign(Object.create(clock), {
    sleep: (duration: Parameters<Clock.Clock["sleep"]>[0]) =>
      Effect.suspend(() => {
        sleeps.pending++
        sleeps.started++
        return clock.sleep(duration)
      }).pipe(Effect.ensuring(Effect.sync(() => sleeps.pending--)))
  })
  const rung: Array<readonly [string, number]> = []
  const set = (name: string, waitMs: number, ring: () => void = () => undefined) =>
    Alarms.set(counted, scheduler, waitMs, () => {
      rung.push([name, clock.currentTimeMillisUnsafe()])
      ring()
    })
  return { clock: counted, set, rung, sleeps }
})

describe("alarms", () => {
  it.effect("ring when the sleep ends, also on a clock that is behind it", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const scheduler = yield* Scheduler.Scheduler
      const behind: Clock.Clock = Object.assign(Object.create(clock), {
        monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe() - clock.monotonicTimeNanosUnsafe() / 1000n
      })
      const rung: Array<string> = []
      Alarms.set(behind, scheduler, 5000, () => rung.push("due"))
      Alarms.set(behind, scheduler, 5001, () => rung.push("later"))
      yield* TestClock.adjust(5000)
      assert.deepStrictEqual(rung, ["due"])
    }))

  it.effect("ring at their times, those of one time in the order in which they were set", () =>
    Effect.gen(function*() {
      const { rung, set, sleeps } = yield* make
      set("last", 3000)
      set("a", 1000)
      set("b", 1000)
      set("middle", 2000)
      yield* TestClock.adjust(999)
      assert.deepStrictEqual(rung, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(rung, [["a", 1000], ["b", 1000]])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(rung.slice(2), [["middle", 2000], ["last", 3000]])
      assert.strictEqual(sleeps.pending, 0)
    }))

  it.effect("never ring once they are cleared, and clearing one that has rung changes nothing", () =>
    Effect.gen(function*() {
      const { rung, set, sleeps } = yield* make
      const first = set("first", 1000)
      const second = set("second", 2000)
      Alarms.clear(first, "soon")
      Alarms.clear(first, "soon")
      yield* TestClock.adjust("1 minute")
      Alarms.clear(second, "soon")
      assert.deepStrictEqual(rung, [["second", 2000]])
      assert.strictEqual(sleeps.pending, 0)
    }))

  it.effect("share one timer, which stops soon after the last is cleared and not before", () =>
    Effect.gen(function*() {
      const { set, sleeps } = yield* make
      for (let call = 0; call < 100; call++) Alarms.clear(set("one by one", 1000), "soon")
      Array.from({ length: 100 }, (_, call) => set("together", 1000 + call)).forEach((alarm) =>
        Alarms.clear(alarm, "soon")
      )
      assert.deepStrictEqual(sleeps, { pending: 1, started: 1 })
      yield* Effect.yieldNow
      assert.deepStrictEqual(sleeps, { pending: 0, started: 1 })
      const kept = set("kept", 1000)
      yield* Effect.yieldNow
      assert.deepStrictEqual(sleeps, { pending: 1, started: 2 })
      Alarms.clear(set("not the last", 1), "now")
      assert.strictEqual(sleeps.pending, 1)
      Alarms.clear(kept, "now")
      assert.strictEqual(sleeps.pending, 0)
    }))

  it.effect("find their timer running as long as somebody keeps it", () =>
    Effect.gen(function*() {
      const { clock, rung, set, sleeps } = yield* make
      const calls = Effect.gen(function*() {
        yield* Alarms.keep
        for (let call = 0; call < 100; call++) {
          Alarms.clear(set("cleared", 1000), "soon")
          yield* Effect.yieldNow
        }
        assert.deepStrictEqual(sleeps, { pending: 1, started: 2 })
        yield* TestClock.adjust("1 minute")
        set("rings", 1000)
        yield* TestClock.adjust(1000)
      })
      yield* Effect.scoped(calls).pipe(Effect.provideService(Clock.Clock, clock))
      assert.deepStrictEqual(rung, [["rings", 61_000]])
      assert.strictEqual(sleeps.pending, 0)
    }))

  it.effect("that are set while others ring, wait for their own time", () =>
    Effect.gen(function*() {
      const { rung, set, sleeps } = yield* make
      set("first", 1000, () => {
        set("next", 500)
        set("at once", 0)
      })
      set("same time", 1000)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(rung, [["first", 1000], ["same time", 1000], ["at once", 1000]])
      assert.deepStrictEqual(sleeps, { pending: 1, started: 2 })
      yield* TestClock.adjust(500)
      assert.deepStrictEqual(rung[3], ["next", 1500])
      assert.strictEqual(sleeps.pending, 0)
    }))
})
