/**
 * Runs effects in virtual time: a clock that jumps to the next sleeper as soon as nothing is left to do.
 *
 * It brings a scheduler of its own, so it knows when nothing is left to do, and no step waits for the host's event loop.
 * What runs on it should wait for its clock and for other fibers of the machine alone: virtual time does not stop for a
 * promise or a socket, unless nothing else is going on.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scheduler from "effect/Scheduler"
import * as Heap from "../limiter/heap.ts"

interface Sleeper {
  readonly at: number
  readonly order: number
  readonly wake: () => void
  slot: number
}

/** @internal */
export interface Machine {
  /** Milliseconds since the epoch, now. */
  readonly now: () => number
  /** Runs an effect to its end, from time to time making way for others of the host; `turned` is told each time. */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    turned?: (now: number) => Effect.Effect<void>
  ) => Effect.Effect<A, E, R>
}

const nanos = BigInt(1_000_000)

/** How many steps are done before others of the host get their turn. */
const stepsPerTurn = 5_000

/** How many turns in a row the host may take to do what is waited for, such as loading a module. */
const defaultIdleTurns = 1_000_000

/**
 * Creates a machine whose clock shows `start` milliseconds since the epoch. Time passes in whole milliseconds, as
 * timers of a host do; a sleep ends no earlier than asked.
 *
 * @internal
 */
export const make = (start: number, options: { readonly mostIdleTurns?: number } = {}): Machine => {
  const { mostIdleTurns = defaultIdleTurns } = options
  let now = start
  let order = 0
  let ready: Array<(() => void) | undefined> = []
  const sleepers = Heap.make<Sleeper>(
    (a, b) => a.at < b.at || (a.at === b.at && a.order < b.order),
    (sleeper, slot) => {
      sleeper.slot = slot
    }
  )

  const sleepUntil = (at: number): Effect.Effect<void> =>
    Effect.callback<void>((resume) => {
      const sleeper: Sleeper = { at, order: order++, wake: () => resume(Effect.void), slot: -1 }
      Heap.push(sleepers, sleeper)
      return Effect.sync(() => {
        if (sleeper.slot >= 0) Heap.removeAt(sleepers, sleeper.slot)
      })
    })

  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => now,
    currentTimeMillis: Effect.sync(() => now),
    currentTimeNanosUnsafe: () => BigInt(now) * nanos,
    currentTimeNanos: Effect.sync(() => BigInt(now) * nanos),
    monotonicTimeNanosUnsafe: () => BigInt(now - start) * nanos,
    monotonicTimeNanos: Effect.sync(() => BigInt(now - start) * nanos),
    sleep: (duration) => {
      const millis = Math.ceil(Duration.toMillis(duration))
      if (millis <= 0) return Effect.yieldNow
      return millis === Infinity ? Effect.never : Effect.suspend(() => sleepUntil(now + millis))
    }
  }

  const scheduler = new Scheduler.MixedScheduler("sync", (task) => {
    const index = ready.push(task) - 1
    const list = ready
    return () => {
      list[index] = undefined
    }
  })

  /** Does all that can be done now, or lets time pass; says how much was done. */
  const step = (): number => {
    if (ready.length > 0) {
      const tasks = ready
      ready = []
      for (const task of tasks) task?.()
      return tasks.length
    }
    const [first] = sleepers.items
    if (first === undefined) return 0
    now = first.at
    Heap.removeAt(sleepers, first.slot)
    first.wake()
    return 1
  }

  const services = Context.make(Clock.Clock, clock).pipe(Context.add(Scheduler.Scheduler, scheduler))

  const run: Machine["run"] = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    turned: (now: number) => Effect.Effect<void> = () => Effect.void
  ) =>
    Effect.contextWith((context: Context.Context<R>) =>
      Effect.suspend(() => {
        const fiber = Effect.runForkWith(Context.merge(context, services))(effect)
        let idleTurns = 0
        /** Does a turn's worth of steps; ends with the exit of the effect once there is one. */
        const turn: Effect.Effect<A, E> = Effect.suspend(() => {
          let left = stepsPerTurn
          while (left > 0) {
            const exit = fiber.pollUnsafe()
            if (exit !== undefined) return exit
            const done = step()
            if (done === 0) {
              return ++idleTurns > mostIdleTurns
                ? Effect.die(new Error("the simulation stands still: it waits for something that does not happen"))
                : Effect.andThen(Effect.yieldNow, turn)
            }
            idleTurns = 0
            left -= done
          }
          return Effect.flatMap(Effect.andThen(turned(now), Effect.yieldNow), () => turn)
        })
        return Effect.onInterrupt(turn, () =>
          Effect.sync(() => {
            fiber.interruptUnsafe()
            while (fiber.pollUnsafe() === undefined && step() > 0);
          }))
      })
    )

  return { now: () => now, run }
}
