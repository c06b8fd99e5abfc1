/**
 * Effects and streams in virtual time.
 */
import { type Cause, Clock, type Duration, Effect, type Exit, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"

/** How an effect ended, and how many milliseconds after its start. */
export interface Settled<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly at: number
}

/** Runs an effect in virtual time; returns how it ended and when. */
export const settle = <A, E, R>(effect: Effect.Effect<A, E, R>, within: Duration.Input = "1 day") =>
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
    if (done === undefined) throw new Error("not settled in time")
    return yield* done
  })

/** An element of a stream, and when it arrives. */
export interface Part {
  readonly t: number
  readonly ping?: boolean | undefined
}

/** Emits every part at its time, whether or not somebody asks for it; ends at `endsAt`. */
export const timeline = (parts: ReadonlyArray<Part>, endsAt?: number): Stream.Stream<Part> =>
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
