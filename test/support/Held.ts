/**
 * What calls hold while they run, and whether all of it has been given back.
 */
import { assert } from "@effect/vitest"
import { CircuitBreaker, Events, Hedging, RateLimiter, RetryBudget, Router, Selection } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, type Duration, Effect, Metric, Option, Stream } from "effect"

/** Retries that a `RetryBudget.concurrent()` has left while nothing is in flight. */
const idleRetries = 3

/** Counts what no service knows of. */
export const make = () => {
  const counts = { fibers: 0, timers: 0, hedges: 0 }
  let pending: ReadonlyArray<number> = []
  let counting: Clock.Clock | undefined

  /** Counts the hedges that begin, by how they end. */
  const watching = Effect.flatMap(Events.Events, (events) =>
    Effect.forkChild(
      Stream.runForEach(events.stream, (event) =>
        Effect.sync(() => {
          if (event._tag === "AttemptEnded" && event.attempt.chosen === "hedge") counts.hedges++
        })),
      { startImmediately: true }
    ))

  /** Counts the fibers of a call, its own one as well, and the timers. */
  const count = <A, E, R>(call: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.flatMap(Effect.service(Clock.Clock), (clock) => {
      // What calls share by their clock they go on sharing.
      counting ??= Object.create(clock, {
        sleep: {
          value: (duration: Duration.Duration) =>
            Effect.acquireUseRelease(
              Effect.sync(() => counts.timers++),
              () => clock.sleep(duration),
              () => Effect.sync(() => counts.timers--)
            )
        }
      })
      return call.pipe(
        Effect.provideService(Clock.Clock, counting ?? clock),
        Effect.provideService(Metric.FiberRuntimeMetrics, {
          recordFiberStart: () => {
            counts.fibers++
          },
          recordFiberEnd: () => {
            counts.fibers--
          }
        })
      )
    })

  /** One target after the other; remembers the attempts in flight that it has seen last. */
  const strategy = Selection.make({
    name: "watched",
    reads: [],
    pick: (snapshot, from, to) => {
      pending = Array.from(snapshot.pending)
      return Selection.ordered.pick(snapshot, from, to, () => 0)
    }
  })

  /** Says what is still held; called once no call runs any more. */
  const nothingHeld = (where: string) =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const limiter = yield* RateLimiter.RateLimiter
      const circuits = yield* CircuitBreaker.CircuitBreaker
      const budget = yield* RetryBudget.RetryBudget
      const hedging = yield* Effect.serviceOption(Hedging.Hedging)
      assert.strictEqual(yield* provider.inFlight, 0, `${where}: calls in flight`)
      for (const { inFlight, key, waiting } of yield* limiter.snapshot) {
        assert.deepStrictEqual([inFlight, waiting], [0, 0], `${where}: slots and places in the queue of ${key}`)
      }
      for (const { key, probes } of yield* circuits.snapshot) {
        assert.strictEqual(probes, 0, `${where}: probes of ${key}`)
      }
      for (const { available, key } of yield* budget.snapshot) {
        assert.strictEqual(available, idleRetries, `${where}: retries of ${key}`)
      }
      if (Option.isSome(hedging)) {
        const entries = yield* hedging.value.snapshot
        const sent = entries.reduce((total, { granted, refunded }) => total + granted - refunded, 0)
        assert.strictEqual(sent, counts.hedges, `${where}: hedges granted and not sent`)
      }
      assert.deepStrictEqual([counts.fibers, counts.timers], [0, 0], `${where}: fibers and timers`)
      yield* circuits.resetAll
      yield* Effect.ignore(Router.execute(() => Effect.void))
      assert.isTrue(pending.every((attempts) => attempts === 0), `${where}: attempts in flight ${pending.join()}`)
    })

  return { count, counts, nothingHeld, strategy, watching }
}
