import { assert, describe, it } from "@effect/vitest"
import { LLMError, type LLMService } from "breakwater"
import * as Timeouts from "breakwater/Timeouts"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Pull, Random, Result, Schedule, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { type Part, settle, timeline } from "./support/Virtual.ts"

const context: Timeouts.ErrorContext = { provider: "groq", model: "llama", target: "groq/llama@k1" }

/** The test clock, and how many sleeps are under way on it. */
const counting = Effect.map(Clock.Clock, (clock) => {
  const counter = { pending: 0, started: 0 }
  const counted: Clock.Clock = {
    currentTimeMillis: clock.currentTimeMillis,
    currentTimeNanos: clock.currentTimeNanos,
    monotonicTimeNanos: clock.monotonicTimeNanos,
    currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
    currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    sleep: (duration) =>
      Effect.suspend(() => {
        counter.pending++
        counter.started++
        return clock.sleep(duration)
      }).pipe(Effect.ensuring(Effect.sync(() => counter.pending--)))
  }
  return { counter, provide: Effect.provideService(Clock.Clock, counted) }
})

const timeoutOf = <A, E>(exit: Exit.Exit<A, E>): LLMError.TimeoutError => {
  const error = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findError(exit.cause)) : undefined
  if (!(error instanceof LLMError.TimeoutError)) throw new Error(`no TimeoutError: ${String(exit)}`)
  return error
}

const limits = [
  { name: "attempt", limit: Timeouts.attempt, reason: "attempt", origin: "provider", scope: "target", billed: true },
  {
    name: "connect",
    limit: Timeouts.connect,
    reason: "connect_timeout",
    origin: "provider",
    scope: "target",
    billed: false
  },
  { name: "total", limit: Timeouts.total, reason: "deadline", origin: "deadline", scope: "request", billed: true }
] as const

for (const { billed, limit, name, origin, reason, scope } of limits) {
  describe(name, () => {
    it.effect("fails with an error that names the limit and whom the caller waited for", () =>
      Effect.gen(function*() {
        const { at, exit } = yield* settle(limit(Effect.never, "1 second", context))
        const error = timeoutOf(exit)
        assert.strictEqual(at, 1000)
        assert.strictEqual(error.reason, reason)
        assert.strictEqual(error.origin, origin)
        assert.strictEqual(error.scope, scope)
        assert.strictEqual(error.maybeBilled, billed)
        assert.strictEqual(error.isRetryable, name !== "total")
        assert.deepStrictEqual([error.provider, error.model, error.target], ["groq", "llama", "groq/llama@k1"])
        assert.include(error.message, "1s")
      }))

    it.effect("passes on what ends in time, with no timer left", () =>
      Effect.gen(function*() {
        const { counter, provide } = yield* counting
        const early = limit(Effect.delay(Effect.succeed("done"), "999 millis"), "1 second", context)
        assert.deepStrictEqual(yield* settle(provide(early), 999), { exit: Exit.succeed("done"), at: 999 })
        assert.strictEqual(counter.pending, 0)
        const failed = limit(Effect.delay(Effect.fail("no"), "10 millis"), "1 second", context)
        assert.deepStrictEqual((yield* settle(provide(failed), 10)).exit, Exit.fail("no"))
        assert.strictEqual(counter.pending, 0)
        const died = limit(Effect.delay(Effect.die("bug"), "10 millis"), "1 second", context)
        assert.deepStrictEqual((yield* settle(provide(died), 10)).exit, Exit.die("bug"))
        assert.strictEqual(counter.pending, 0)
      }))

    it.effect("starts no timer for what ends at once", () =>
      Effect.gen(function*() {
        const { counter, provide } = yield* counting
        assert.strictEqual(yield* provide(limit(Effect.succeed(1), "1 second", context)), 1)
        assert.strictEqual(yield* provide(Effect.flip(limit(Effect.fail(2), "1 second", context))), 2)
        assert.strictEqual(counter.started, 0)
      }))

    it.effect("lets the caller go at the limit although a finalizer is slow, which ends in the background", () =>
      Effect.gen(function*() {
        let released = 0
        const slow = Effect.onInterrupt(Effect.never, () =>
          Effect.gen(function*() {
            yield* Effect.sleep("3 seconds")
            released = yield* Clock.currentTimeMillis
          }))
        const { at, exit } = yield* settle(limit(slow, "1 second", context), "1 second")
        assert.strictEqual(at, 1000)
        assert.strictEqual(timeoutOf(exit).reason, reason)
        yield* TestClock.adjust("1 day")
        assert.strictEqual(released, 4000)
      }))

    it.effect("lets the caller go at the limit although the work cannot be interrupted, and discards its result", () =>
      Effect.gen(function*() {
        const stubborn = Effect.uninterruptible(Effect.delay(Effect.succeed("late"), "5 seconds"))
        const { at, exit } = yield* settle(limit(stubborn, "1 second", context))
        assert.strictEqual(at, 1000)
        assert.strictEqual(timeoutOf(exit).reason, reason)
      }))

    it.effect("reports an interruption of the caller as an interruption, after the work has wound up", () =>
      Effect.gen(function*() {
        const { counter, provide } = yield* counting
        let released = false
        const work = Effect.onInterrupt(
          Effect.never,
          () => Effect.andThen(Effect.sleep("3 seconds"), Effect.sync(() => released = true))
        )
        const fiber = yield* Effect.forkChild(provide(limit(work, "1 minute", context)))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(counter.pending, 1)
        const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber))
        yield* TestClock.adjust("2 seconds")
        assert.isUndefined(fiber.pollUnsafe())
        assert.strictEqual(counter.pending, 1, "only the finalizer sleeps")
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(interruption)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.isTrue(released)
        assert.strictEqual(counter.pending, 0)
      }))

    it.effect("passes on an interruption that comes from within", () =>
      Effect.gen(function*() {
        const { exit } = yield* settle(limit(Effect.andThen(Effect.sleep(10), Effect.interrupt), "1 second", context))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      }))

    it.effect("can be piped, and without end is the effect itself", () =>
      Effect.gen(function*() {
        const { at } = yield* settle(Effect.never.pipe(limit("2 seconds", context)))
        assert.strictEqual(at, 2000)
        assert.strictEqual(limit(Effect.never, Infinity, context), Effect.never)
      }))

    it("rejects what is not a duration above zero by its name", () => {
      for (const wrong of [0, -1, Number.NaN, "0 seconds"] as const) {
        assert.throws(() => limit(Effect.never, wrong, context), RangeError)
        assert.throws(() => limit(Effect.never, wrong, context), name)
      }
    })
  })
}

describe("nested limits", () => {
  it.effect("report the deadline when an attempt ends with it or would end after it", () =>
    Effect.gen(function*() {
      for (const attempt of [1000, 5000]) {
        const call = Effect.never.pipe(Timeouts.attempt(attempt, context), Timeouts.total(1000, context))
        const { at, exit } = yield* settle(call)
        assert.strictEqual(at, 1000)
        assert.strictEqual(timeoutOf(exit).reason, "deadline")
      }
    }))

  it.effect("report the attempt when it ends before the deadline", () =>
    Effect.gen(function*() {
      const call = Effect.never.pipe(Timeouts.attempt(999, context), Timeouts.total(1000, context))
      assert.strictEqual(timeoutOf((yield* settle(call)).exit).reason, "attempt")
    }))

  it.effect("publish the earlier deadline to what runs inside, and nothing outside", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(500)
      const inner = Timeouts.total(Effect.flatMap(Timeouts.CurrentDeadline, Effect.succeed), 3000, context)
      assert.strictEqual(yield* inner, 3500)
      assert.strictEqual(yield* Timeouts.total(inner, 2000, context), 2500)
      assert.strictEqual(yield* Timeouts.total(inner, 4000, context), 3500)
      assert.isUndefined(yield* Timeouts.CurrentDeadline)
    }))

  it.effect("do not start an attempt after the deadline", () =>
    Effect.gen(function*() {
      let started = false
      const work = Effect.sync(() => started = true)
      yield* TestClock.adjust(1000)
      for (const { limit } of limits) {
        const late = Effect.provideService(limit(work, 5000, context), Timeouts.CurrentDeadline, 1000)
        const error = timeoutOf(yield* Effect.exit(late))
        assert.strictEqual(error.reason, "deadline")
        assert.isFalse(error.maybeBilled)
      }
      const stream = Timeouts.stream(Stream.fromEffect(work), { idle: 5000, isContent: () => true, context })
      const late = Effect.provideService(Stream.runDrain(stream), Timeouts.CurrentDeadline, 1000)
      assert.strictEqual(timeoutOf(yield* Effect.exit(late)).reason, "deadline")
      assert.isFalse(started)
    }))

  it.effect("T31 give every one of several hanging targets a start, and end the call by its deadline", () =>
    Effect.gen(function*() {
      const starts: Array<readonly [string, number]> = []
      const hanging = (target: string) =>
        Effect.andThen(
          Effect.map(Clock.currentTimeMillis, (now) => starts.push([target, now])),
          Effect.never
        ).pipe(Timeouts.attempt("10 seconds", { ...context, target }))
      const call = hanging("a").pipe(
        Effect.catch(() => hanging("b")),
        Effect.catch(() => hanging("c")),
        Timeouts.total("25 seconds", context)
      )
      const { at, exit } = yield* settle(call)
      assert.strictEqual(at, 25_000)
      assert.deepStrictEqual(starts, [["a", 0], ["b", 10_000], ["c", 20_000]])
      assert.strictEqual(timeoutOf(exit).reason, "deadline")
    }))

  it.effect("leave nothing running after many calls that end in every way", () =>
    Effect.gen(function*() {
      const { counter, provide } = yield* counting
      let running = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => running++),
        () =>
          Effect.flatMap(Random.nextIntBetween(0, 3000), (millis) =>
            Effect.delay(millis % 3 === 0 ? Effect.fail("no") : Effect.void, millis)),
        () =>
          Effect.sync(() => running--)
      )
      const call = Effect.flatMap(Random.nextIntBetween(1, 4000), (leavesAt) =>
        work.pipe(
          Timeouts.attempt(1500, context),
          Effect.retry(Schedule.recurs(2)),
          Timeouts.total(2500, context),
          Effect.raceFirst(Effect.sleep(leavesAt)),
          Effect.exit
        ))
      yield* settle(
        provide(Effect.forEach(Array.from({ length: 200 }), () => call, { concurrency: "unbounded", discard: true }))
      )
      assert.strictEqual(running, 0)
      assert.strictEqual(counter.pending, 0)
    }).pipe(Random.withSeed("leaks")))
})

// -----------------------------------------------------------------------------
// Streams
// -----------------------------------------------------------------------------

const isContent = (part: Part): boolean => part.ping !== true

type StreamLimits = Omit<Timeouts.StreamOptions<Part>, "isContent" | "context">

/** Consumes a limited stream, working a while on every part. */
const consume = (stream: Stream.Stream<Part>, options: StreamLimits, workMs = 0) =>
  Effect.suspend(() => {
    const received: Array<number> = []
    return settle(
      Stream.runForEach(Timeouts.stream(stream, { isContent, context, ...options }), (part) =>
        Effect.suspend(() => {
          received.push(part.t)
          return workMs === 0 ? Effect.void : Effect.sleep(workMs)
        }))
    ).pipe(Effect.map(({ at, exit }) => ({
      at,
      received,
      outcome: Exit.isSuccess(exit) ? "complete" : timeoutOf(exit).reason,
      exit
    })))
  })

const ping = (t: number): Part => ({ t, ping: true })
const content = (t: number): Part => ({ t })

describe("stream", () => {
  it.effect("connect limits the wait for the first element of any kind only", () =>
    Effect.gen(function*() {
      const silent = yield* consume(Stream.never, { connect: 2000, firstToken: 9000 })
      assert.deepStrictEqual([silent.outcome, silent.at], ["connect_timeout", 2000])
      assert.isFalse(timeoutOf(silent.exit).maybeBilled)
      const connected = yield* consume(timeline([ping(1999), content(8000)], 9000), { connect: 2000, firstToken: 9000 })
      assert.deepStrictEqual([connected.outcome, connected.at], ["complete", 9000])
    }))

  it.effect("connect also limits the work that opens the stream", () =>
    Effect.gen(function*() {
      const opening = Stream.unwrap(Effect.as(Effect.sleep(5000), Stream.empty))
      const { at, outcome } = yield* consume(opening, { connect: 2000 })
      assert.deepStrictEqual([outcome, at], ["connect_timeout", 2000])
    }))

  it.effect("T35 the wait for the first content has its own limit, counted from the start and not reset by pings", () =>
    Effect.gen(function*() {
      const pings = Array.from({ length: 20 }, (_, index) => ping(index * 1000))
      const { at, exit, outcome } = yield* consume(timeline(pings, 20_000), { firstToken: 7500, idle: 3000 })
      assert.deepStrictEqual([outcome, at], ["first_token", 7500])
      assert.isTrue(timeoutOf(exit).maybeBilled)
      assert.isTrue(timeoutOf(exit).isRetryable)
    }))

  it.effect("T35 keep-alives do not reset the idle time, content does", () =>
    Effect.gen(function*() {
      const pings = Array.from({ length: 30 }, (_, index) => ping(3000 + index * 500))
      const { at, outcome } = yield* consume(timeline([content(0), content(2500), ...pings], 30_000), { idle: 4000 })
      assert.deepStrictEqual([outcome, at], ["idle", 6500])
    }))

  it.effect("T35 a stream that goes silent fails and is never a short success", () =>
    Effect.gen(function*() {
      const { at, exit, received } = yield* consume(timeline([content(0), content(100)]), { idle: 1000 })
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(received, [0, 100])
      assert.strictEqual(at, 1100)
    }))

  it.effect("T35 without a limit of its own the wait for the first content has the idle limit", () =>
    Effect.gen(function*() {
      const { at, outcome } = yield* consume(timeline([ping(500), ping(900)]), { idle: 1000 })
      assert.deepStrictEqual([outcome, at], ["idle", 1000])
    }))

  it.effect("resetsIdle lets keep-alives count as progress after the first content", () =>
    Effect.gen(function*() {
      const pings = Array.from({ length: 6 }, (_, index) => ping(500 + index * 900))
      const parts = timeline([content(0), ...pings])
      const { at, outcome } = yield* consume(parts, { idle: 1000, firstToken: 2000, resetsIdle: () => true })
      assert.deepStrictEqual([outcome, at], ["idle", 6000])
      const before = yield* consume(timeline([ping(900), ping(1800)]), { idle: 1000, resetsIdle: () => true })
      assert.deepStrictEqual([before.outcome, before.at], ["idle", 2800])
    }))

  it.effect("idle also limits the wait for the end", () =>
    Effect.gen(function*() {
      const { at, outcome } = yield* consume(timeline([content(0)], 5000), { firstToken: 9000, idle: 1000 })
      assert.deepStrictEqual([outcome, at], ["idle", 1000])
    }))

  it.effect("the time that the consumer takes does not count", () =>
    Effect.gen(function*() {
      const parts = [content(0), content(10), ping(20), content(30)]
      const slow = yield* consume(timeline(parts, 40), { connect: 500, firstToken: 500, idle: 500 }, 10_000)
      assert.deepStrictEqual([slow.outcome, slow.at, slow.received], ["complete", 40_000, [0, 10, 20, 30]])
      const pings = [ping(0), ping(100), ping(200), content(10_300)]
      const first = yield* consume(timeline(pings, 11_000), { firstToken: 500 }, 3000)
      assert.deepStrictEqual([first.outcome, first.at], ["first_token", 9500])
      const idle = yield* consume(timeline([content(0), content(100), ping(12_000)]), { idle: 2500 }, 5000)
      assert.deepStrictEqual([idle.outcome, idle.at], ["idle", 17_500])
    }))

  it.effect("total runs by the clock, and what has arrived by then is still handed over", () =>
    Effect.gen(function*() {
      const waiting = yield* consume(timeline([content(0), content(900), content(1800)]), { total: 1000, idle: 2000 })
      assert.deepStrictEqual([waiting.outcome, waiting.at, waiting.received], ["deadline", 1000, [0, 900]])
      const arrived = yield* consume(timeline([content(0), content(10), content(20)], 30), { total: 1000 }, 5000)
      assert.deepStrictEqual([arrived.outcome, arrived.at, arrived.received], ["complete", 15_000, [0, 10, 20]])
      const late = yield* consume(timeline([content(0), content(9000)]), { total: 1000 }, 5000)
      assert.deepStrictEqual([late.outcome, late.at], ["deadline", 5000])
    }))

  it.effect("the outer limit wins a tie", () =>
    Effect.gen(function*() {
      const ties: ReadonlyArray<readonly [StreamLimits, string]> = [
        [{ connect: 1000, firstToken: 1000, idle: 1000, total: 1000 }, "deadline"],
        [{ connect: 1000, firstToken: 1000 }, "first_token"],
        [{ connect: 1000, idle: 1000 }, "idle"]
      ]
      for (const [options, reason] of ties) {
        const { at, outcome } = yield* consume(Stream.never, options)
        assert.deepStrictEqual([outcome, at], [reason, 1000])
      }
      const inside = Timeouts.stream(Stream.never, { idle: 1000, isContent, context })
      const { exit } = yield* settle(Timeouts.total(Stream.runDrain(inside), 1000, context))
      assert.strictEqual(timeoutOf(exit).reason, "deadline")
    }))

  it.effect("publishes its deadline to the upstream and obeys the one around it", () =>
    Effect.gen(function*() {
      const seen = (options: StreamLimits) =>
        Stream.runHead(Timeouts.stream(
          Stream.fromEffect(Effect.flatMap(Timeouts.CurrentDeadline, Effect.succeed)),
          { isContent: () => true, context, total: options.total }
        ))
      const own = yield* seen({ total: 2000 })
      const outer = yield* Timeouts.total(seen({ total: 2000 }), 1500, context)
      assert.deepStrictEqual([own, outer].map((_) => _._tag === "Some" ? _.value : undefined), [2000, 1500])
    }))

  it.effect("interrupts the upstream at once and lets the consumer go although it closes slowly", () =>
    Effect.gen(function*() {
      const events: Array<readonly [string, number]> = []
      const note = (event: string) =>
        Effect.map(Clock.currentTimeMillis, (now) => {
          events.push([event, now])
        })
      const upstream = Stream.fromEffect(Effect.onInterrupt(Effect.never, () => note("interrupted"))).pipe(
        Stream.ensuring(Effect.andThen(Effect.sleep(3000), note("closed")))
      )
      const { at, outcome } = yield* consume(upstream, { idle: 1000 })
      assert.deepStrictEqual([outcome, at], ["idle", 1000])
      assert.deepStrictEqual(events, [["interrupted", 1000], ["closed", 4000]])
    }))

  it.effect("closes the upstream only after a pull that cannot be interrupted has ended", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const pull = Effect.uninterruptible(Effect.andThen(Effect.sleep(5000), Effect.sync(() => events.push("pulled"))))
      const upstream = Stream.fromEffect(Effect.as(pull, content(0))).pipe(
        Stream.ensuring(Effect.sync(() => events.push("closed")))
      )
      const { at, outcome } = yield* consume(upstream, { idle: 1000 })
      assert.deepStrictEqual([outcome, at], ["idle", 1000])
      assert.deepStrictEqual(events, ["pulled", "closed"])
    }))

  it.effect("leaves no timer when it has ended, also while its scope is still open", () =>
    Effect.gen(function*() {
      const { counter, provide } = yield* counting
      const one = Stream.fromEffect(Effect.as(Effect.yieldNow, content(0)))
      for (const upstream of [one, Stream.concat(one, Stream.drain(Stream.fromEffect(Effect.yieldNow)))]) {
        const limited = Timeouts.stream(upstream, { idle: 1000, isContent, context })
        const ended = yield* Stream.toPull(limited).pipe(
          Effect.flatMap((pull) => Effect.andThen(pull, Effect.exit(pull))),
          provide
        )
        assert.isTrue(Exit.isFailure(ended) && Pull.isDoneCause(ended.cause))
        assert.strictEqual(counter.pending, 0)
      }
      assert.strictEqual(counter.started, 2)
    }))

  it.effect("leaves no timer when the consumer leaves", () =>
    Effect.gen(function*() {
      const { counter, provide } = yield* counting
      const limited = Timeouts.stream(timeline([content(10), content(20)]), { idle: 1000, isContent, context })
      const { at } = yield* settle(provide(Stream.runCount(Stream.take(limited, 1))), 10)
      assert.strictEqual(at, 10)
      assert.strictEqual(counter.pending, 0)
    }))

  it.effect("closes the upstream with the stream when it completes, fails or is left early", () =>
    Effect.gen(function*() {
      let closed = 0
      const upstream = (end: Stream.Stream<Part, string>) =>
        Timeouts.stream(
          Stream.concat(Stream.succeed(content(0)), end).pipe(Stream.ensuring(Effect.sync(() => closed++))),
          { idle: 1000, isContent, context }
        )
      assert.strictEqual(yield* Stream.runCount(upstream(Stream.empty)), 1)
      assert.strictEqual(yield* Effect.flip(Stream.runDrain(upstream(Stream.fail("cut")))), "cut")
      assert.strictEqual(yield* Stream.runCount(Stream.take(upstream(Stream.never), 1)), 1)
      assert.strictEqual(closed, 3)
    }))

  it.effect("reports an interruption of the consumer as an interruption, after the upstream has closed", () =>
    Effect.gen(function*() {
      const { counter, provide } = yield* counting
      let closed = false
      const upstream = Stream.unwrap(Effect.as(
        Effect.addFinalizer(() => Effect.andThen(Effect.sleep(1000), Effect.sync(() => closed = true))),
        Stream.fromEffect(Effect.onInterrupt(Effect.never, () => Effect.sleep(1000)))
      ))
      // The limit would pass while the upstream winds up.
      const limited = Timeouts.stream(upstream, { idle: 1500, isContent, context })
      const fiber = yield* Effect.forkChild(provide(Stream.runDrain(limited)))
      yield* TestClock.adjust(1000)
      const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust(1500)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(500)
      yield* Fiber.join(interruption)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.isTrue(closed)
      assert.strictEqual(counter.pending, 0)
    }))

  it.effect("starts no timer for elements that are already there, few for a long stream, and leaves none", () =>
    Effect.gen(function*() {
      const { counter, provide } = yield* counting
      const all = { connect: 20_000, firstToken: 30_000, idle: 30_000, total: 600_000, isContent, context }
      const ready = Stream.fromIterable(Array.from({ length: 5000 }, (_, index) => content(index)))
      assert.strictEqual(yield* provide(Stream.runCount(Timeouts.stream(Stream.rechunk(ready, 1), all))), 5000)
      assert.strictEqual(counter.started, 0)

      let asked = 0
      const steady = Stream.fromPull(
        Effect.succeed(
          Effect.suspend(() => ++asked > 2000 ? Cause.done() : Effect.as(Effect.yieldNow, [content(asked)] as const))
        )
      )
      assert.strictEqual(yield* provide(Stream.runCount(Timeouts.stream(steady, all))), 2000)
      assert.isAtMost(counter.started, 3)
      assert.strictEqual(counter.pending, 0)
    }))

  it.effect("passes on an interruption and a defect of the upstream, and a defect of the predicate", () =>
    Effect.gen(function*() {
      const run = (upstream: Stream.Stream<Part>, predicate: (part: Part) => boolean = isContent) =>
        settle(Stream.runDrain(Timeouts.stream(upstream, { idle: 1000, isContent: predicate, context })))
      const interrupted = yield* run(Stream.fromEffect(Effect.andThen(Effect.sleep(10), Effect.interrupt)))
      assert.isTrue(Exit.isFailure(interrupted.exit) && Cause.hasInterruptsOnly(interrupted.exit.cause))
      const died = yield* run(Stream.fromEffect(Effect.andThen(Effect.sleep(10), Effect.die("bug"))))
      assert.deepStrictEqual(died.exit, Exit.die("bug"))
      const predicate = yield* run(timeline([content(5)], 10), () => {
        throw new Error("predicate")
      })
      assert.isTrue(Exit.isFailure(predicate.exit) && Cause.hasDies(predicate.exit.cause))
    }))

  it.effect("can run again, and be piped", () =>
    Effect.gen(function*() {
      const limited = timeline([content(0), content(900)], 1000).pipe(
        Timeouts.stream({ idle: 1000, isContent, context })
      )
      for (let run = 0; run < 2; run++) {
        assert.deepStrictEqual(yield* settle(Stream.runCount(limited)), { exit: Exit.succeed(2), at: 1000 })
      }
    }))

  it("without a limit is the stream itself, and rejects wrong limits by name", () => {
    const upstream = timeline([])
    assert.strictEqual(Timeouts.stream(upstream, { isContent, context }), upstream)
    assert.strictEqual(Timeouts.stream(upstream, { idle: Infinity, isContent, context }), upstream)
    for (const field of ["connect", "firstToken", "idle", "total"] as const) {
      for (const wrong of [0, -1, Number.NaN]) {
        const construct = () => Timeouts.stream(upstream, { [field]: wrong, isContent, context })
        assert.throws(construct, RangeError)
        assert.throws(construct, field)
      }
    }
  })
})

describe("isContentPart", () => {
  it("is true of what belongs to the answer and false of what frames it", () => {
    const usage = new Response.Usage({
      inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: undefined, text: undefined, reasoning: undefined }
    })
    const table: ReadonlyArray<readonly [LLMService.StreamPart, boolean]> = [
      [Response.makePart("text-start", { id: "1" }), false],
      [Response.makePart("text-delta", { id: "1", delta: "" }), false],
      [Response.makePart("text-delta", { id: "1", delta: "a" }), true],
      [Response.makePart("text-end", { id: "1" }), false],
      [Response.makePart("reasoning-start", { id: "1" }), false],
      [Response.makePart("reasoning-delta", { id: "1", delta: "hm" }), true],
      [Response.makePart("reasoning-end", { id: "1" }), false],
      [Response.makePart("tool-params-start", { id: "1", name: "f", providerExecuted: false }), true],
      [Response.makePart("tool-params-delta", { id: "1", delta: "{" }), true],
      [Response.makePart("tool-params-end", { id: "1" }), true],
      [Response.makePart("tool-call", { id: "1", name: "f", params: {}, providerExecuted: false }), true],
      [Response.makePart("file", { mediaType: "text/plain", data: new Uint8Array() }), true],
      [Response.makePart("finish", { reason: "stop", usage, response: undefined }), false]
    ]
    for (const [part, expected] of table) assert.strictEqual(Timeouts.isContentPart(part), expected, part.type)
  })
})

describe("defaults", () => {
  it("are the documented ones", () => {
    const seconds = Object.fromEntries(
      Object.entries(Timeouts.defaults).map(([key, _]) => [key, Duration.toSeconds(_)])
    )
    assert.deepStrictEqual(seconds, { total: 600, attempt: 60, connect: 20, firstToken: 30, idle: 30 })
  })
})
