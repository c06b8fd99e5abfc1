import { assert, describe, it } from "@effect/vitest"
import { Hedging } from "breakwater"
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Metric,
  References,
  Schema,
  Scope
} from "effect"
import { TestClock } from "effect/testing"
import { settle } from "./support/Virtual.ts"

interface Attempt {
  readonly ms: number
  readonly error?: string
  readonly defect?: string
}

/**
 * Attempts of which the last one stands for those after it, and what became of them: times count from the first start.
 */
const attempts = (...list: readonly [Attempt, ...ReadonlyArray<Attempt>]) => {
  const log: Array<string> = []
  const open = new Set<number>()
  let begin: number | undefined
  const note = (index: number, what: string) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      begin ??= now
      log.push(`${index} ${what} ${now - begin}`)
    })
  const start = (index: number): Effect.Effect<number, string> => {
    const { defect, error, ms } = list[index] ?? list.at(-1) ?? list[0]
    const end = defect !== undefined
      ? Effect.die(defect)
      : error !== undefined
      ? Effect.fail(error)
      : Effect.succeed(index)
    const work = Effect.andThen(Effect.andThen(note(index, "at"), Effect.sleep(ms)), end)
    return Effect.acquireUseRelease(
      Effect.sync(() => open.add(index)),
      () => Effect.onInterrupt(work, () => note(index, "interrupted")),
      () => Effect.sync(() => open.delete(index))
    )
  }
  return { log, open, start }
}

/** Counts the fibers of an effect, its own one not among them. */
const fibers = () => {
  const counts = { started: 0, alive: 0 }
  const count = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.provideService(effect, Metric.FiberRuntimeMetrics, {
      recordFiberStart: () => {
        counts.started++
        counts.alive++
      },
      recordFiberEnd: () => {
        counts.alive--
      }
    })
  return { counts, count }
}

describe("race", () => {
  it.effect("an interruption gives everything back", () =>
    Effect.gen(function*() {
      for (const after of [0, 50, 150, 250, 1000]) {
        const { counts, count } = fibers()
        const { log, open, start } = attempts({ ms: 10_000 })
        const fiber = yield* Effect.forkChild(count(Hedging.race(start, { delay: 100, maxAttempts: 3 })))
        yield* TestClock.adjust(after)
        assert.isAbove(counts.alive, 0)
        const started = log.length
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual([counts.alive, open.size], [0, 0])
        assert.strictEqual(log.length, 2 * started)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(log.length, 2 * started)
      }
    }))

  it.effect("an interruption waits for the finalizers of all attempts, however long they take", () =>
    Effect.gen(function*() {
      const ended: Array<number> = []
      const attempt = (index: number) =>
        Effect.onInterrupt(
          Effect.never,
          () => Effect.andThen(Effect.sleep(1000 * (index + 1)), Effect.sync(() => ended.push(index)))
        )
      const fiber = yield* Effect.forkChild(Hedging.race(attempt, { delay: 100 }))
      yield* TestClock.adjust(100)
      const interrupt = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust(1999)
      assert.isUndefined(interrupt.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.isDefined(interrupt.pollUnsafe())
      assert.deepStrictEqual(ended, [0, 1])
    }))

  it.effect("an interruption ends, whatever the turn in which it comes and those in which the attempts end", () =>
    Effect.gen(function*() {
      for (let operations = 2; operations < 12; operations++) {
        for (let turns = 0; turns < 40; turns++) {
          const { counts, count } = fibers()
          const attempt = Effect.onInterrupt(Effect.never, () => Effect.yieldNow)
          const race = Hedging.race(() => attempt, { delay: 0 })
          const fiber = yield* Effect.forkChild(
            Effect.provideService(count(race), References.MaxOpsBeforeYield, operations)
          )
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* Effect.forkChild(Fiber.interrupt(fiber))
          for (let turn = 0; turn < 100; turn++) yield* Effect.yieldNow
          assert.isDefined(fiber.pollUnsafe(), `${operations} operations a turn, interrupted after ${turns}`)
          assert.strictEqual(counts.alive, 0)
        }
      }
    }))

  it.effect("an interruption while the losers wind up waits for them", () =>
    Effect.gen(function*() {
      const { counts, count } = fibers()
      const attempt = (index: number) =>
        index === 1 ? Effect.sleep(10) : Effect.onInterrupt(Effect.never, () => Effect.sleep(50))
      const fiber = yield* Effect.forkChild(count(Hedging.race(attempt, { delay: 100 })))
      yield* TestClock.adjust(120)
      assert.isUndefined(fiber.pollUnsafe())
      const interrupt = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust(39)
      assert.isUndefined(interrupt.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.isDefined(interrupt.pollUnsafe())
      assert.strictEqual(counts.alive, 0)
    }))

  it.effect("an attempt that interrupts its own caller leaves nothing behind", () =>
    Effect.gen(function*() {
      // The caller is interrupted once it has let go, which it has when time has passed.
      for (const [delay, which, delays] of [[0, 0, 2], [0, 1, 2], [100, 1, 1]] as const) {
        const { counts, count } = fibers()
        const caller = yield* Deferred.make<Fiber.Fiber<unknown, unknown>>()
        const { open, start } = attempts({ ms: 10_000 })
        let asked = 0
        const kill = Effect.flatMap(Deferred.await(caller), (fiber) => Effect.sync(() => fiber.interruptUnsafe()))
        const race = Hedging.race((index) => Effect.andThen(index === which ? kill : Effect.void, start(index)), {
          maxAttempts: 3,
          delay: () => {
            asked++
            return Effect.succeed(delay)
          }
        })
        const fiber = yield* Effect.forkChild(count(race))
        yield* Deferred.succeed(caller, fiber)
        yield* TestClock.adjust(100)
        const exit = fiber.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual([counts.alive, open.size, asked], [0, 0, delays])
      }
    }))

  it.effect("the losers have wound up when the result is there, and no fiber is left", () =>
    Effect.gen(function*() {
      const { counts, count } = fibers()
      const { log, open, start } = attempts({ ms: 1000 }, { ms: 150 }, { ms: 1000 })
      const race = Hedging.race(start, { delay: 100, maxAttempts: 4 })
      const observed = Effect.map(count(race), (winner) => ({ winner, alive: counts.alive, open: open.size }))
      const { at, exit } = yield* settle(observed)
      assert.deepStrictEqual(exit, Exit.succeed({ winner: 1, alive: 0, open: 0 }))
      assert.strictEqual(at, 250)
      assert.deepStrictEqual(log, ["0 at 0", "1 at 100", "2 at 200", "0 interrupted 250", "2 interrupted 250"])
    }))

  it.effect("the result waits for the finalizers of the losers", () =>
    Effect.gen(function*() {
      const ended: Array<number> = []
      const race = Hedging.race((index) =>
        index === 1
          ? Effect.sleep(10)
          : Effect.onInterrupt(Effect.never, () =>
            Effect.andThen(Effect.sleep(30), Effect.sync(() => ended.push(index)))), { delay: 100 })
      const { at } = yield* settle(Effect.tap(race, () =>
        Effect.sync(() => assert.deepStrictEqual(ended, [0]))))
      assert.strictEqual(at, 140)
    }))

  it.effect("a loser that cannot be interrupted delays the result by the grace only, and ends on its own", () =>
    Effect.gen(function*() {
      for (const [grace, expected] of [[undefined, 210], ["1 second", 1110], [0, 110], ["1 hour", 5000]] as const) {
        const begin = yield* Clock.currentTimeMillis
        const { counts, count } = fibers()
        const race = count(Hedging.race(
          (index) => index === 1 ? Effect.sleep(10) : Effect.uninterruptible(Effect.sleep(5000)),
          { delay: 100, grace }
        ))
        const fiber = yield* Effect.forkChild(Effect.andThen(race, Clock.currentTimeMillis))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* Fiber.join(fiber)) - begin, expected)
        assert.strictEqual(counts.alive, 0)
      }
    }))

  it.live("one that ends before the delay needs a fiber and a timer, and one that ends at once no timer", () =>
    Effect.gen(function*() {
      const slow = fibers()
      yield* slow.count(Hedging.race(() => Effect.sleep(1), { delay: "1 minute" }))
      assert.deepStrictEqual(slow.counts, { started: 2, alive: 0 })
      const fast = fibers()
      yield* fast.count(Hedging.race(() => Effect.void, { delay: 1000 }))
      assert.deepStrictEqual(fast.counts, { started: 1, alive: 0 })
    }))

  it.effect("a delay of zero starts all at once, but nothing after one that succeeds at once", () =>
    Effect.gen(function*() {
      const { log, start } = attempts({ ms: 10 })
      yield* settle(Hedging.race(start, { delay: 0, maxAttempts: 3 }))
      assert.deepStrictEqual(log.slice(0, 3), ["0 at 0", "1 at 0", "2 at 0"])
      let started = 0
      yield* Hedging.race(() => Effect.sync(() => started++), { delay: 0, maxAttempts: 3 })
      assert.strictEqual(started, 1)
    }))

  it.effect("thousands of attempts that fail at once are no depth of calls", () =>
    Effect.gen(function*() {
      let started = 0
      const attempt = () => Effect.suspend(() => ++started < 20_000 ? Effect.fail("no") : Effect.succeed("yes"))
      for (const delay of [null, 0, "1 second"] as const) {
        started = 0
        assert.strictEqual(yield* Hedging.race(attempt, { delay, maxAttempts: 20_000 }), "yes")
      }
    }))

  it.effect("without a delay the next one starts only after a failure", () =>
    Effect.gen(function*() {
      const { log, start } = attempts({ ms: 500, error: "a" }, { ms: 5000 })
      assert.strictEqual((yield* settle(Hedging.race(start, { delay: null }))).at, 5500)
      assert.deepStrictEqual(log, ["0 at 0", "1 at 500"])
    }))

  it.effect("a function says the delay before each attempt, and that there is none", () =>
    Effect.gen(function*() {
      const asked: Array<number> = []
      const { log, start } = attempts({ ms: 10_000 })
      const delays: Readonly<Record<number, Duration.Input>> = { 1: "1 second", 2: 500 }
      const delay = (index: number) =>
        Effect.sync(() => {
          asked.push(index)
          return delays[index]
        })
      yield* settle(Hedging.race(start, { delay, maxAttempts: 5 }))
      assert.deepStrictEqual(log.slice(0, 3), ["0 at 0", "1 at 1000", "2 at 1500"])
      assert.deepStrictEqual(asked, [1, 2, 3])
      assert.lengthOf(log, 5)
    }))

  it.effect("a function is asked anew after a failure", () =>
    Effect.gen(function*() {
      const { log, start } = attempts({ ms: 100, error: "a" }, { ms: 10_000 })
      const delay = (index: number) => Effect.succeed(1000 * index)
      yield* settle(Hedging.race(start, { delay, maxAttempts: 3 }))
      assert.deepStrictEqual(log.slice(0, 3), ["0 at 0", "1 at 100", "2 at 2100"])
    }))

  it.effect("when all have failed, the failure of the first is the result, whenever it came", () =>
    Effect.gen(function*() {
      for (const ms of [1, 100, 1000]) {
        const { start } = attempts({ ms, error: "first" }, { ms: 200, error: "second" }, { ms: 300, error: "third" })
        const { exit } = yield* settle(Hedging.race(start, { delay: 10, maxAttempts: 3 }))
        assert.deepStrictEqual(exit, Exit.fail("first"))
      }
    }))

  it.effect("a fatal failure ends all at once, of whatever attempt it is", () =>
    Effect.gen(function*() {
      const isFatal = (error: string) => error === "fatal"
      const { log, start } = attempts({ ms: 1000 }, { ms: 50, error: "fatal" })
      const second = yield* settle(Hedging.race(start, { delay: 100, maxAttempts: 3, isFatal }))
      assert.deepStrictEqual([second.exit, second.at], [Exit.fail("fatal"), 150])
      assert.deepStrictEqual(log, ["0 at 0", "1 at 100", "0 interrupted 150"])
      const first = attempts({ ms: 50, error: "fatal" })
      const { at, exit } = yield* settle(Hedging.race(first.start, { delay: 100, isFatal }))
      assert.deepStrictEqual([exit, at, first.log.length], [Exit.fail("fatal"), 50, 1])
    }))

  it.effect("onFailure stop starts nothing because of a failure, though still by time", () =>
    Effect.gen(function*() {
      const alone = attempts({ ms: 50, error: "a" })
      const { at, exit } = yield* settle(Hedging.race(alone.start, { delay: 100, onFailure: "stop" }))
      assert.deepStrictEqual([exit, at, alone.log.length], [Exit.fail("a"), 50, 1])
      const both = attempts({ ms: 150, error: "a" }, { ms: 1000 })
      yield* settle(Hedging.race(both.start, { delay: 100, maxAttempts: 3, onFailure: "stop" }))
      assert.deepStrictEqual(both.log.slice(0, 3), ["0 at 0", "1 at 100", "2 at 200"])
    }))

  it.effect("mayStart is asked before further attempts only, and one that is refused is passed over", () =>
    Effect.gen(function*() {
      const asked: Array<number> = []
      const mayStart = (index: number) =>
        Effect.sync(() => {
          asked.push(index)
          return index !== 1
        })
      const slow = attempts({ ms: 10_000 })
      yield* settle(Hedging.race(slow.start, { delay: 100, maxAttempts: 3, mayStart }))
      assert.deepStrictEqual(asked, [1, 2])
      assert.deepStrictEqual(slow.log.slice(0, 2), ["0 at 0", "2 at 200"])
      const broken = attempts({ ms: 10, error: "a" }, { ms: 10 })
      const { at, exit } = yield* settle(Hedging.race(broken.start, { delay: 100, maxAttempts: 3, mayStart }))
      assert.deepStrictEqual([exit, at], [Exit.succeed(2), 20])
      const none = Hedging.race(attempts({ ms: 10, error: "a" }).start, {
        delay: null,
        mayStart: () => Effect.succeed(false)
      })
      assert.deepStrictEqual((yield* settle(none)).exit, Exit.fail("a"))
    }))

  it.effect("an attempt that is still asked for when the race is decided does not start", () =>
    Effect.gen(function*() {
      const { counts, count } = fibers()
      const { log, start } = attempts({ ms: 150 })
      const mayStart = () => Effect.as(Effect.sleep(100), true)
      const { at } = yield* settle(count(Hedging.race(start, { delay: 100, mayStart })))
      assert.strictEqual(at, 150)
      assert.deepStrictEqual(log, ["0 at 0"])
      assert.strictEqual(counts.alive, 0)
    }))

  it.effect("what happens while an attempt is started is taken in turn, but a success goes before a failure", () =>
    Effect.gen(function*() {
      const succeeded = yield* Deferred.make<string>()
      const both = Hedging.race(
        (index) => index === 0 ? Deferred.await(succeeded) : Effect.as(Deferred.succeed(succeeded, "first"), "second"),
        { delay: 0 }
      )
      assert.deepStrictEqual((yield* settle(both)).exit, Exit.succeed("first"))
      const failed = yield* Deferred.make<string, string>()
      const started: Array<number> = []
      const one = Hedging.race((index) => {
        started.push(index)
        return index === 0 ? Deferred.await(failed) : Effect.as(Deferred.fail(failed, "a"), "second")
      }, { delay: 0, maxAttempts: 3 })
      assert.deepStrictEqual((yield* settle(one)).exit, Exit.succeed("second"))
      assert.deepStrictEqual(started, [0, 1])
    }))

  it.live("a failure that starts the next leaves no timer of the one before", () =>
    Effect.gen(function*() {
      const { counts, count } = fibers()
      let fail: (effect: Effect.Effect<never, string>) => void = () => undefined
      const first = Effect.callback<never, string>((resume) => {
        fail = resume
      })
      const race = Hedging.race((index) => index === 0 ? first : Effect.never, { delay: "1 minute", maxAttempts: 3 })
      const fiber = yield* Effect.forkChild(count(race))
      yield* Effect.yieldNow
      assert.strictEqual(counts.alive, 2)
      fail(Effect.fail("a"))
      assert.strictEqual(counts.alive, 2)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(counts.alive, 0)
    }))

  it.effect("nothing starts after one that succeeds while another is being started", () =>
    Effect.gen(function*() {
      const first = yield* Deferred.make<string>()
      const started: Array<number> = []
      const race = Hedging.race((index) => {
        started.push(index)
        return index === 0 ? Deferred.await(first) : Effect.andThen(Deferred.succeed(first, "first"), Effect.never)
      }, { delay: 0, maxAttempts: 5 })
      assert.strictEqual((yield* settle(race)).at, 0)
      assert.deepStrictEqual(started, [0, 1])
    }))

  it.effect("defects end all at once and are the result: of attempts, of what they are made by, and of the options", () =>
    Effect.gen(function*() {
      const boom = () => {
        throw new Error("boom")
      }
      const { counts, count } = fibers()
      const { open, start } = attempts({ ms: 500, error: "a" }, { ms: 1000 })
      const races: ReadonlyArray<Effect.Effect<unknown, string>> = [
        Hedging.race((index) => index === 1 ? Effect.sync(boom) : start(index), { delay: 100 }),
        Hedging.race((index) => index === 1 ? boom() : start(index), { delay: 100 }),
        Hedging.race(start, { delay: () => Effect.sync(boom) }),
        Hedging.race(start, { delay: boom }),
        Hedging.race(start, { delay: 100, mayStart: boom }),
        Hedging.race(start, { delay: null, isFatal: boom })
      ]
      for (const race of races) {
        const { exit } = yield* settle(count(race))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.include(String(Cause.squash(exit.cause)), "boom")
        assert.deepStrictEqual([counts.alive, open.size], [0, 0])
      }
    }))

  it.effect("an attempt that interrupts itself ends all as such", () =>
    Effect.gen(function*() {
      const { exit } = yield* settle(
        Hedging.race((index) => index === 0 ? Effect.never : Effect.interrupt, { delay: 10 })
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))

  it.effect("what the winner has opened stays open, and what the loser has is closed", () =>
    Effect.gen(function*() {
      const closed: Array<number> = []
      const attempt = (index: number) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          yield* Scope.addFinalizer(scope, Effect.sync(() => closed.push(index)))
          return yield* Effect.onExit(
            Effect.as(Effect.sleep(index === 0 ? 1000 : 10), scope),
            (exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit)
          )
        })
      const { exit } = yield* settle(Hedging.race(attempt, { delay: 100 }))
      assert.deepStrictEqual(closed, [0])
      if (Exit.isSuccess(exit)) yield* Scope.close(exit.value, Exit.void)
      assert.deepStrictEqual(closed, [0, 1])
    }))

  it.effect("attempts have the services of the caller and can be interrupted where the caller cannot", () =>
    Effect.gen(function*() {
      class Name extends Context.Service<Name, string>()("Name") {}
      const race = Hedging.race((index) => index === 0 ? Effect.never : Name, { delay: 100 })
      const { at, exit } = yield* settle(Effect.provideService(Effect.uninterruptible(race), Name, "caller"))
      assert.deepStrictEqual([exit, at], [Exit.succeed("caller"), 100])
    }))

  const millis = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 300 }))

  it.effect.prop("whatever happens, each attempt starts once and ends, and no fiber is left", {
    list: Schema.NonEmptyArray(
      Schema.Struct({ ms: millis, error: Schema.optionalKey(Schema.Literals(["a", "fatal"])) })
    ),
    delay: Schema.NullOr(millis),
    maxAttempts: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 })),
    onFailure: Schema.Literals(["next", "stop"]),
    refused: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4 }))),
    askMs: millis,
    interruptAt: Schema.NullOr(millis)
  }, ({ askMs, delay, interruptAt, list, maxAttempts, onFailure, refused }) =>
    Effect.gen(function*() {
      const { counts, count } = fibers()
      const { log, open, start } = attempts(...list)
      const fiber = yield* Effect.forkChild(count(Hedging.race(start, {
        delay,
        maxAttempts,
        onFailure,
        isFatal: (error) => error === "fatal",
        mayStart: (index) => Effect.as(Effect.sleep(askMs), !refused.includes(index))
      })))
      if (interruptAt !== null) {
        yield* TestClock.adjust(interruptAt)
        yield* Fiber.interrupt(fiber)
      }
      yield* TestClock.adjust("1 minute")
      assert.isDefined(fiber.pollUnsafe())
      assert.deepStrictEqual([counts.alive, open.size], [0, 0])
      const started = log.flatMap((line) => line.includes(" at ") ? [Number.parseInt(line, 10)] : [])
      assert.strictEqual(new Set(started).size, started.length)
      assert.isTrue(started.every((index) => index < maxAttempts && !refused.includes(index)))
    }))

  it("rejects options that are out of range, by name", () => {
    const wrong: ReadonlyArray<readonly [RegExp, Hedging.RaceOptions<never>]> = [
      [/maxAttempts/, { delay: 1, maxAttempts: 0 }],
      [/maxAttempts/, { delay: 1, maxAttempts: 1.5 }],
      [/maxAttempts/, { delay: 1, maxAttempts: Infinity }],
      [/delay/, { delay: -1 }],
      [/grace/, { delay: 1, grace: -1 }]
    ]
    for (const [field, options] of wrong) {
      assert.throws(() => Hedging.race(() => Effect.void, options), RangeError, field)
    }
  })
})

describe("isEligible", () => {
  it("is what may be repeated and sent again, as far as is known", () => {
    assert.deepStrictEqual(
      [{}, { retryable: true, clonable: true }, { retryable: false }, { clonable: false }].map(Hedging.isEligible),
      [true, true, false, false]
    )
  })
})

describe("Hedging", () => {
  const key = "groq/llama"

  const rule = (
    name: string,
    body: (hedging: Hedging.Hedging["Service"]) => Effect.Effect<void>,
    options: Hedging.Options = {}
  ) => it.effect(name, () => Effect.provide(Effect.flatMap(Hedging.Hedging, body), Hedging.layerMemory(options)))

  const delayOf = (hedging: Hedging.Hedging["Service"], of = key) =>
    Effect.map(hedging.delay(of), (delay) => delay === undefined ? undefined : Duration.toMillis(delay))

  const grants = Effect.fnUntraced(function*(hedging: Hedging.Hedging["Service"], times: number, of = key) {
    let granted = 0
    for (let asked = 0; asked < times; asked++) if (yield* hedging.withdraw(of)) granted++
    return granted
  })

  const times = (count: number, effect: Effect.Effect<void>) => Effect.repeat(effect, { times: count - 1 })

  rule(
    "knows no delay before twenty answers, and then the one that 95 % do not exceed",
    (hedging) =>
      Effect.gen(function*() {
        for (let answer = 1; answer < 20; answer++) yield* hedging.observe(key, 1000 + answer)
        assert.isUndefined(yield* delayOf(hedging))
        yield* hedging.observe(key, 9000)
        assert.strictEqual(yield* delayOf(hedging), 1019)
        yield* hedging.observe(key, 9000)
        assert.strictEqual(yield* delayOf(hedging), 9000)
        assert.isUndefined(yield* delayOf(hedging, "other"))
      })
  )

  rule("keeps the delay between one and thirty seconds", (hedging) =>
    Effect.gen(function*() {
      yield* times(20, hedging.observe(key, 5))
      assert.strictEqual(yield* delayOf(hedging), 1000)
      yield* times(20, hedging.observe(key, 90_000))
      assert.strictEqual(yield* delayOf(hedging), 30_000)
    }))

  rule("follows the last 128 answers", (hedging) =>
    Effect.gen(function*() {
      yield* times(500, hedging.observe(key, 20_000))
      yield* times(121, hedging.observe(key, 2000))
      assert.strictEqual(yield* delayOf(hedging), 20_000)
      yield* hedging.observe(key, 2000)
      assert.strictEqual(yield* delayOf(hedging), 2000)
    }))

  rule("takes no times that are none", (hedging) =>
    Effect.gen(function*() {
      for (const millis of [-1, Number.NaN, Infinity]) yield* times(20, hedging.observe(key, millis))
      assert.isUndefined(yield* delayOf(hedging))
      assert.deepStrictEqual(yield* hedging.snapshot, [])
    }))

  rule("a fixed delay is that of every key, as it is", (hedging) =>
    Effect.gen(function*() {
      assert.strictEqual(yield* delayOf(hedging), 5)
      yield* times(30, hedging.observe(key, 9000))
      assert.strictEqual(yield* delayOf(hedging), 5)
    }), { delay: "5 millis" })

  rule(
    "waits for as many answers as it is told to, also for more than it would keep",
    (hedging) =>
      Effect.gen(function*() {
        yield* times(199, hedging.observe(key, 2000))
        assert.isUndefined(yield* delayOf(hedging))
        yield* hedging.observe(key, 2000)
        assert.strictEqual(yield* delayOf(hedging), 2000)
      }),
    { minSamples: 200 }
  )

  rule("grants one hedge for fifty requests of ten seconds, and none besides", (hedging) =>
    Effect.gen(function*() {
      assert.strictEqual(yield* grants(hedging, 5), 0)
      yield* times(49, hedging.request(key))
      assert.strictEqual(yield* grants(hedging, 5), 0)
      yield* hedging.request(key)
      assert.strictEqual(yield* grants(hedging, 5), 1)
      yield* times(100, hedging.request(key))
      assert.strictEqual(yield* grants(hedging, 5), 2)
      assert.strictEqual(yield* grants(hedging, 5, "other"), 0)
    }))

  rule("requests and hedges that are exactly one window old count no longer", (hedging) =>
    Effect.gen(function*() {
      yield* times(50, hedging.request(key))
      yield* TestClock.adjust(9999)
      assert.strictEqual(yield* grants(hedging, 2), 1)
      yield* times(50, hedging.request(key))
      assert.strictEqual(yield* grants(hedging, 2), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* grants(hedging, 2), 0)
    }))

  rule("gives back what was granted and not sent, and no more", (hedging) =>
    Effect.gen(function*() {
      yield* times(100, hedging.request(key))
      assert.strictEqual(yield* grants(hedging, 3), 2)
      yield* times(5, hedging.refund(key))
      assert.strictEqual(yield* grants(hedging, 3), 2)
    }))

  rule("says what it knows, and forgets it after an hour without use", (hedging) =>
    Effect.gen(function*() {
      yield* times(50, hedging.request(key))
      yield* grants(hedging, 3)
      yield* times(20, hedging.observe(key, 3000))
      assert.deepStrictEqual(yield* hedging.snapshot, [
        { key, samples: 20, delayMillis: 3000, available: 0, granted: 1, refused: 2, refunded: 0 }
      ])
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(yield* delayOf(hedging))
      assert.deepStrictEqual(yield* hedging.snapshot, [])
    }))

  rule(
    "carries its policy, with the defaults filled in",
    (hedging) =>
      Effect.sync(() =>
        assert.deepStrictEqual(hedging.policy, {
          delayMillis: undefined,
          quantile: 0.95,
          minSamples: 20,
          minMillis: 1000,
          maxMillis: 30_000,
          maxHedges: 2,
          maxExtraLoad: 0.02,
          windowMillis: 10_000,
          minHealth: 50,
          maxUtilisation: 0.8
        })
      ),
    { maxHedges: 2 }
  )

  it("rejects options that are out of range, by name", () => {
    const wrong: ReadonlyArray<readonly [RegExp, Hedging.Options]> = [
      [/delay/, { delay: -1 }],
      [/delay/, { delay: Infinity }],
      [/quantile/, { quantile: 0 }],
      [/quantile/, { quantile: 1.01 }],
      [/quantile/, { quantile: Number.NaN }],
      [/minSamples/, { minSamples: 0 }],
      [/minSamples/, { minSamples: 2.5 }],
      [/min must/, { min: -1 }],
      [/max must/, { min: "2 seconds", max: "1 second" }],
      [/maxHedges/, { maxHedges: -1 }],
      [/maxExtraLoad/, { maxExtraLoad: -0.1 }],
      [/maxExtraLoad/, { maxExtraLoad: 1.1 }],
      [/window/, { window: 0 }],
      [/window/, { window: Infinity }],
      [/minHealth/, { minHealth: 101 }],
      [/maxUtilisation/, { maxUtilisation: 2 }],
      [/forgetAfter/, { forgetAfter: "9 seconds" }]
    ]
    for (const [field, options] of wrong) {
      assert.throws(() => Hedging.layerMemory(options), RangeError, field)
    }
  })
})
