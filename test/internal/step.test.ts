import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Step from "../../src/internal/step.ts"

/** A clock that tells how often it was read. */
const counting = () => {
  const reads = { wall: 0, mono: 0 }
  const clock: Clock.Clock = {
    ...Clock.Clock.defaultValue(),
    currentTimeMillisUnsafe: () => ++reads.wall,
    monotonicTimeNanosUnsafe: () => BigInt(++reads.mono) * 1_000_000n
  }
  return { reads, clock }
}

const millis = Step.sync(Step.millis)
const elapsed = Step.sync(Step.elapsed)

describe("Step", () => {
  it.effect("is an effect like any other when nobody takes it along", () =>
    Effect.gen(function*() {
      assert.isTrue(Effect.isEffect(millis))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* millis, 1000)
      assert.strictEqual(yield* Effect.map(elapsed, (_) => _ + 1), 1001)
      assert.deepStrictEqual(yield* Effect.exit(Step.make(() => Exit.fail("no"))), Exit.fail("no"))
      assert.strictEqual(yield* Step.make(() => Effect.as(Effect.sleep(0), "later")), "later")
      assert.strictEqual(yield* Effect.zipWith(millis, millis, (a, b) => a + b), 2000)
    }))

  it.effect("reads each clock once for all that is taken along, and only when somebody asks", () =>
    Effect.gen(function*() {
      const { clock, reads } = counting()
      const step = Step.at((moment) =>
        Step.flatMap(
          moment,
          millis,
          (first) =>
            Step.flatMap(
              moment,
              Step.make((moment) => Exit.succeed(Step.millis(moment))),
              (second) => Exit.succeed([first, second])
            )
        )
      )
      assert.deepStrictEqual(yield* Effect.provideService(step, Clock.Clock, clock), [1, 1])
      assert.deepStrictEqual(reads, { wall: 1, mono: 0 })
      const both = Step.at((moment) =>
        Step.flatMap(moment, elapsed, (a) => Step.flatMap(moment, elapsed, (b) => Exit.succeed(a + b)))
      )
      assert.strictEqual(yield* Effect.provideService(both, Clock.Clock, clock), 2)
      assert.deepStrictEqual(reads, { wall: 1, mono: 1 })
    }))

  it.effect("reads them again after whatever takes time", () =>
    Effect.gen(function*() {
      const pause = Effect.sleep("1 second")
      const given = Effect.as(pause, "given")
      const handlers = (moment: Step.Moment) => ({
        onSuccess: () => millis,
        onFailure: () => Effect.sync(() => Step.millis(moment))
      })
      const waits: ReadonlyArray<(moment: Step.Moment) => Effect.Effect<number>> = [
        (moment) => Step.flatMap(moment, pause, () => millis),
        (moment) => Step.flatMap(moment, Step.make(() => pause), () => millis),
        (moment) => Step.orDie(moment, given, () => millis),
        (moment) => Step.acquire(moment, given, () => undefined, handlers(moment)),
        (moment) => Step.acquire(moment, Effect.andThen(pause, Effect.fail("no")), () => undefined, handlers(moment)),
        (moment) => Step.flatMap(moment, Step.all(moment, [Effect.asVoid(millis), pause, Effect.void]), () => millis)
      ]
      for (const wait of waits) {
        const step = Step.at((moment) =>
          Step.flatMap(moment, millis, (before) =>
            Step.flatMap(moment, wait(moment), (after) =>
              Exit.succeed(after - before)))
        )
        const fiber = yield* Effect.forkChild(step, { startImmediately: true })
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), 1000)
      }
    }))

  it.effect("keeps what it is given before it goes on, and goes on with a failure", () =>
    Effect.gen(function*() {
      for (const lazy of [false, true]) {
        const kept: Array<string> = []
        const acquire = (effect: Effect.Effect<string, string>) =>
          Step.at((moment) =>
            Step.acquire(moment, lazy ? Effect.suspend(() => effect) : effect, (value) => kept.push(value), {
              onSuccess: () => Effect.sync(() => `with ${kept.join()}`),
              onFailure: (error) => Effect.succeed(`without: ${error}`)
            })
          )
        assert.strictEqual(yield* acquire(Step.sync(() => "a")), "with a")
        assert.strictEqual(yield* acquire(Step.make(() => Exit.succeed("b"))), "with a,b")
        assert.strictEqual(yield* acquire(Step.make(() => Exit.fail("no"))), "without: no")
        assert.deepStrictEqual(kept, ["a", "b"])
      }
    }))

  it.effect("passes failures on, and makes them defects where they would be mistakes", () =>
    Effect.gen(function*() {
      const failing = Step.make(() => Exit.fail("no"))
      const never = () => Effect.die("not reached")
      assert.deepStrictEqual(yield* Effect.exit(Step.at((_) => Step.flatMap(_, failing, never))), Exit.fail("no"))
      assert.deepStrictEqual(yield* Effect.exit(Step.at((_) => Step.orDie(_, failing, never))), Exit.die("no"))
      const told: Array<number> = []
      const tell = (n: number) => Step.sync(() => void told.push(n))
      const all = Step.at((_) => Step.all(_, [tell(1), Step.make(() => Exit.die("no")), tell(2)]))
      assert.deepStrictEqual(yield* Effect.exit(all), Exit.die("no"))
      assert.deepStrictEqual(told, [1])
    }))

  it.effect("does all in order, in one step as far as that goes", () =>
    Effect.gen(function*() {
      const told: Array<number> = []
      const tell = (n: number) => Step.sync(() => void told.push(n))
      const moment = yield* Effect.withFiber((fiber) => Effect.succeed(Step.now(fiber)))
      const done = Step.all(moment, [tell(1), Exit.void, tell(2)])
      assert.deepStrictEqual(told, [1, 2])
      assert.isUndefined(Step.rest(done))
      const left = Step.rest(Step.all(moment, [tell(3), Effect.sync(() => void told.push(4)), tell(5)]))
      assert.deepStrictEqual(told, [1, 2, 3])
      yield* left ?? Effect.void
      assert.deepStrictEqual(told, [1, 2, 3, 4, 5])
    }))
})
