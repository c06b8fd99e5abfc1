import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Random } from "effect"
import * as Machine from "../../../src/internal/simulation/machine.ts"

const now = Clock.currentTimeMillis

describe("a machine of virtual time", () => {
  it.live("lets a year pass at once, and ends with what the effect returns", () =>
    Effect.gen(function*() {
      const machine = Machine.make(1000)
      const [slept, time] = yield* Effect.timed(
        machine.run(Effect.andThen(Effect.sleep("365 days"), Effect.map(now, (at) => at)))
      ).pipe(Effect.map(([duration, at]) => [duration, at] as const))
      assert.strictEqual(time, 1000 + 365 * 86_400_000)
      assert.strictEqual(machine.now(), time)
      assert.isDefined(slept)
    }))

  it.live("wakes sleepers in the order of their times, and those of the same time in that of their sleeps", () =>
    Effect.gen(function*() {
      const woken: Array<string> = []
      const sleeper = (name: string, ms: number) =>
        Effect.andThen(Effect.sleep(ms), Effect.sync(() => woken.push(name)))
      yield* Machine.make(0).run(
        Effect.all([sleeper("late", 30), sleeper("first", 10), sleeper("second", 10), sleeper("now", 0)], {
          concurrency: "unbounded"
        })
      )
      assert.deepStrictEqual(woken, ["now", "first", "second", "late"])
    }))

  it.live("passes in whole milliseconds, never sooner than asked", () =>
    Effect.gen(function*() {
      const at = yield* Machine.make(0).run(Effect.andThen(Effect.sleep(0.25), Effect.andThen(Effect.sleep(1.5), now)))
      assert.strictEqual(at, 3)
    }))

  it.live("does all there is to do before time goes on", () =>
    Effect.gen(function*() {
      const order: Array<string> = []
      yield* Machine.make(0).run(Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        yield* Effect.forkChild(
          Effect.gen(function*() {
            for (let turn = 0; turn < 1000; turn++) yield* Effect.yieldNow
            order.push("busy")
            yield* Deferred.succeed(gate, undefined)
          })
        )
        yield* Effect.forkChild(Effect.andThen(Effect.sleep(1), Effect.sync(() => order.push("later"))))
        yield* Deferred.await(gate)
        yield* Effect.sleep(2)
      }))
      assert.deepStrictEqual(order, ["busy", "later"])
    }))

  it.live("waits for the host where nothing else is to do", () =>
    Effect.gen(function*() {
      const machine = Machine.make(0)
      const text = yield* machine.run(Effect.promise(() => import("node:path").then((path) => path.sep)))
      assert.strictEqual(text, "/")
      assert.strictEqual(machine.now(), 0)
    }))

  it.live("dies when it waits for something that does not happen", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Machine.make(0, { mostIdleTurns: 10 }).run(Effect.never))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
    }))

  it.live("an interruption ends all that runs on it, in its own time", () =>
    Effect.gen(function*() {
      const ended: Array<string> = []
      const machine = Machine.make(0)
      const started = Deferred.makeUnsafe<void>()
      const worker = (name: string) =>
        Effect.onInterrupt(
          Effect.forever(Effect.sleep(10)),
          () => Effect.andThen(Effect.sleep(5), Effect.sync(() => ended.push(name)))
        )
      const running = yield* Effect.forkChild(
        machine.run(
          Effect.all([worker("a"), worker("b")], { concurrency: "unbounded" }),
          () => Deferred.succeed(started, undefined)
        )
      )
      yield* Deferred.await(started)
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(ended, ["a", "b"])
    }))

  it.live("does the same for the same seed", () =>
    Effect.gen(function*() {
      const play = Random.withSeed(
        Effect.suspend(() =>
          Machine.make(0).run(Effect.gen(function*() {
            const log: Array<string> = []
            const player = Effect.fnUntraced(function*(name: number) {
              for (let n = 0; n < 20; n++) {
                yield* Effect.sleep(yield* Random.nextIntBetween(0, 5))
                log.push(`${name}@${yield* now}`)
              }
            })
            yield* Effect.forEach([1, 2, 3], player, { concurrency: "unbounded" })
            return log.join(" ")
          }))
        ),
        "seed"
      )
      assert.strictEqual(yield* play, yield* play)
    }))
})
