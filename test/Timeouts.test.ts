import { assert, describe, it } from "@effect/vitest"
import { LLMError, type LLMService } from "breakwater"
import * as Retry from "breakwater/Retry"
import * as Timeouts from "breakwater/Timeouts"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Pull, Queue, Random, Result, Schedule, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"

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

interface Settled<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly at: number
}

/** Runs an effect in virtual time; returns how it ended and when. */
const settle = <A, E, R>(effect: Effect.Effect<A, E, R>, within: Duration.Input = "1 day") =>
  Effect.gen(function*() {
    const begin = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(
      Effect.flatMap(
        Effect.exit(effect),
        (exit) => Effect.map(Clock.currentTimeMillis, (now): Settled<A, E> => ({ exit, at: now - begin }))
      )
    )
    // What happens at the first instant happens before the clock moves.
    yield* Effect.repeat(Effect.yieldNow, { times: 20 })
    yield* TestClock.adjust(within)
    const done = fiber.pollUnsafe()
    assert.isDefined(done, "not settled in time")
    return yield* done
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

interface Part {
  readonly t: number
  readonly ping?: boolean
}

/** Emits every part at its time, whether or not somebody asks for it; ends at `endsAt`. */
const timeline = (parts: ReadonlyArray<Part>, endsAt?: number): Stream.Stream<Part> =>
  Stream.unwrap(Effect.gen(function*() {
    const queue = yield* Queue.unbounded<Part, Cause.Done>()
    const begin = yield* Clock.currentTimeMillis
    const until = (time: number) => Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sleep(begin + time - now))
    const produce = Effect.gen(function*() {
      for (const part of parts) {
        yield* until(part.t)
        yield* Queue.offer(queue, part)
      }
      if (endsAt === undefined) return
      yield* until(endsAt)
      yield* Queue.end(queue)
    })
    yield* Effect.forkScoped(produce)
    return Stream.fromQueue(queue)
  }))

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

// -----------------------------------------------------------------------------
// Conformance vectors
// -----------------------------------------------------------------------------

interface VectorBase<Kind extends string, Config, Input, Expect> {
  readonly id: string
  readonly kind: Kind
  readonly title: string
  readonly config: Config
  readonly input: Input
  readonly expect: Expect
}

interface TimeoutRetry extends
  VectorBase<
    "timeout-retry",
    {
      readonly totalMs?: number
      readonly attemptMs?: number
      readonly maxAttempts: number
      readonly delayMs?: number
      readonly deadlineAware?: boolean
    },
    undefined,
    { readonly attempts?: number; readonly outcome: string; readonly at: number; readonly attemptTimeouts?: number }
  >
{
  readonly attempts: ReadonlyArray<{ readonly ms: number; readonly outcome: "success" | "failure" }>
}

interface StreamIdle extends
  VectorBase<
    "stream-idle",
    { readonly firstMs?: number; readonly idleMs?: number; readonly totalMs?: number; readonly consumerMs?: number },
    undefined,
    { readonly outcome: string; readonly at: number; readonly chunks?: number }
  >
{
  readonly chunks: ReadonlyArray<{ readonly t: number; readonly ping?: boolean; readonly end?: boolean }>
}

type Vector =
  | TimeoutRetry
  | StreamIdle
  | VectorBase<
    "timeout-fallback",
    { readonly order: ReadonlyArray<string> },
    { readonly taskMs: number; readonly task: "success" | "failure"; readonly fallbackMs: number },
    { readonly timeouts: number; readonly fallbacks: number; readonly result: "fallback" | "timeout" | "success" }
  >
  | VectorBase<
    "timeout-cancel",
    undefined,
    { readonly timeoutMs: number; readonly callerCancelsAt: number; readonly taskMs: number },
    { readonly outcome: string; readonly timeoutEvents: number; readonly retried: boolean }
  >
  | VectorBase<
    "timeout-cooperative",
    undefined,
    { readonly timeoutMs: number; readonly taskMs: number },
    { readonly ours: string }
  >
  | VectorBase<
    "timeout-uninterruptible",
    undefined,
    { readonly timeoutMs: number; readonly finalizerMs: number },
    { readonly oursAt: number }
  >
  | VectorBase<
    "stream-timeout-typed",
    undefined,
    { readonly idleMs: number; readonly gapsMs: ReadonlyArray<number> },
    { readonly ours: string }
  >

const vectors: ReadonlyArray<Vector> =
  JSON.parse(readFileSync(new URL("./fixtures/vectors/timeout.json", import.meta.url), "utf8")).vectors

const limited = <A, E>(effect: Effect.Effect<A, E>, which: typeof Timeouts.attempt, millis: number | undefined) =>
  millis === undefined ? effect : which(effect, millis, context)

const reasons: Readonly<Record<string, string>> = {
  attempt: "timeout:attempt",
  deadline: "timeout:total",
  idle: "timeout:idle",
  first_token: "timeout:first"
}

const outcomeOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return "success"
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  const error = Result.getOrThrow(Cause.findError(exit.cause))
  return error instanceof LLMError.TimeoutError ? reasons[error.reason] ?? error.reason : "failure"
}

const broken = new LLMError.ServerError({ provider: "groq", reason: "internal_error" })

const timeoutRetry = Effect.fnUntraced(function*({ attempts, config, expect }: TimeoutRetry) {
  let made = 0
  let attemptTimeouts = 0
  const task = Effect.suspend((): Effect.Effect<void, LLMError.LLMError> => {
    const { ms, outcome } = attempts[Math.min(made, attempts.length - 1)] ?? { ms: 0, outcome: "failure" }
    made++
    return Effect.andThen(Effect.sleep(ms), outcome === "success" ? Effect.void : Effect.fail(broken))
  })
  const attempt = Effect.tapError(limited(task, Timeouts.attempt, config.attemptMs), (error) =>
    Effect.sync(() => {
      if (error.reason === "attempt") attemptTimeouts++
    }))
  const schedule = Schedule.spaced(config.delayMs ?? 0).pipe(Schedule.upTo({ times: config.maxAttempts - 1 }))
  const policy = config.deadlineAware === true ? Retry.withinDeadline(schedule) : schedule
  const { at, exit } = yield* settle(limited(Effect.retry(attempt, policy), Timeouts.total, config.totalMs))
  const actual = { attempts: made, outcome: outcomeOf(exit), at, attemptTimeouts }
  assert.deepStrictEqual({ ...actual, ...expect }, actual)
})

const streamIdle = Effect.fnUntraced(function*({ chunks, config, expect }: StreamIdle) {
  const parts = chunks.filter((chunk) => chunk.end !== true)
  const { at, exit, received } = yield* consume(timeline(parts, chunks.find((chunk) => chunk.end)?.t), {
    firstToken: config.firstMs,
    idle: config.idleMs,
    total: config.totalMs
  }, config.consumerMs)
  const outcome = Exit.isSuccess(exit) ? "complete" : outcomeOf(exit)
  const actual = { outcome, at, chunks: received.length }
  assert.deepStrictEqual({ ...actual, ...expect }, actual)
})

const runVector = Effect.fnUntraced(function*(vector: Vector) {
  switch (vector.kind) {
    case "timeout-retry":
      return yield* timeoutRetry(vector)
    case "stream-idle":
      return yield* streamIdle(vector)
    case "timeout-fallback": {
      const { expect, input } = vector
      let fallbacks = 0
      let timeouts = 0
      const task: Effect.Effect<string, LLMError.LLMError> = Effect.andThen(
        Effect.sleep(input.taskMs),
        input.task === "success" ? Effect.succeed("success") : Effect.fail(broken)
      )
      const fallback = Effect.suspend(() => {
        fallbacks++
        return Effect.as(Effect.sleep(input.fallbackMs), "fallback")
      })
      const composed = vector.config.order.toReversed().reduce((inner, policy) => {
        if (policy === "fallback") return Effect.catch(inner, () => fallback)
        return Effect.tapError(
          Timeouts.attempt(inner, Number(policy.split(":")[1]), context),
          (error) => Effect.sync(() => error.reason === "attempt" && timeouts++)
        )
      }, task)
      const { exit } = yield* settle(composed)
      const result = Exit.isSuccess(exit) ? exit.value : outcomeOf(exit).split(":")[0]
      return assert.deepStrictEqual({ timeouts, fallbacks, result }, expect)
    }
    case "timeout-cancel": {
      const { expect, input } = vector
      let attempts = 0
      let timeouts = 0
      const call = Effect.suspend(() => {
        attempts++
        return Effect.sleep(input.taskMs)
      }).pipe(
        Timeouts.attempt(input.timeoutMs, context),
        Effect.tapError(() => Effect.sync(() => timeouts++)),
        Effect.retry(Schedule.recurs(3))
      )
      const fiber = yield* Effect.forkChild(call)
      yield* TestClock.adjust(input.callerCancelsAt)
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 hour")
      const outcome = outcomeOf(yield* Fiber.await(fiber))
      assert.deepStrictEqual([outcome, timeouts, attempts > 1], [expect.outcome, expect.timeoutEvents, expect.retried])
      return
    }
    case "timeout-cooperative": {
      const { expect, input } = vector
      const deaf = Effect.uninterruptible(Effect.as(Effect.sleep(input.taskMs), "late"))
      const { at, exit } = yield* settle(Timeouts.attempt(deaf, input.timeoutMs, context))
      assert.strictEqual(outcomeOf(exit), "timeout:attempt")
      return assert.strictEqual(`timeout at ${at} ms; the late value is discarded`, expect.ours)
    }
    case "timeout-uninterruptible": {
      const { expect, input } = vector
      const slow = Effect.onInterrupt(Effect.never, () => Effect.sleep(input.finalizerMs))
      const { at } = yield* settle(Timeouts.attempt(slow, input.timeoutMs, context))
      return assert.strictEqual(at, expect.oursAt)
    }
    case "stream-timeout-typed": {
      const { expect, input } = vector
      let t = 0
      const parts = input.gapsMs.map((gap) => content(t += gap))
      const { at, exit, received } = yield* consume(timeline(parts, t), { idle: input.idleMs })
      return assert.strictEqual(`${outcomeOf(exit)} at ${at} after ${received.length} chunks`, expect.ours)
    }
  }
})

describe("timeout vectors", () => {
  for (const vector of vectors) it.effect(`${vector.id}: ${vector.title}`, () => runVector(vector))
})
