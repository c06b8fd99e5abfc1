/**
 * Runs a race: the fibers, the delays and the winding up around the core.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scheduler from "effect/Scheduler"
import * as Alarms from "../alarm.ts"
import * as Core from "./core.ts"

/** @internal */
export interface Race<A, E, R> extends Core.Rules {
  readonly start: (index: number) => Effect.Effect<A, E, R>
  readonly delay: Delay
  readonly isFatal: ((error: E) => boolean) | undefined
  readonly mayStart: ((index: number) => Effect.Effect<boolean>) | undefined
  /** Milliseconds that the result waits for the attempts that lost. */
  readonly graceMs: number
  /** Whether delays are alarms on the one timer of the clock, as the limits of time of calls are, and not fibers. */
  readonly sharesTimer: boolean
}

/**
 * Milliseconds before every further attempt, `Infinity` for none by time; or what to ask before each.
 *
 * @internal
 */
export type Delay = number | ((index: number) => Effect.Effect<Duration.Input | undefined>)

/** @internal */
export const run = <A, E, R>(race: Race<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.contextWith((context: Context.Context<R>) => {
    const fork = Effect.runForkWith(context)
    const clock = Context.get(context, Clock.Clock)
    const scheduler = Context.get(context, Scheduler.Scheduler)

    // All is done in the registration, because from there on an interruption of the caller always finds the finalizer.
    return Effect.callback<A, E>((resume) => {
      const fibers = new Set<Fiber.Fiber<unknown, unknown>>()
      /** Fibers that have not ended, with the one that is being forked. */
      let alive = 0
      let onLast: (() => void) | undefined
      /** Stops the wait for the next attempt. */
      let disarm: (() => void) | undefined
      let grace: Fiber.Fiber<unknown, unknown> | undefined

      const events: Array<Core.Event> = []
      let state = Core.initial
      let isHandling = false
      let isOver = false
      let first: Exit.Exit<A, E> | undefined
      let decisive: Exit.Exit<A, E> | undefined

      const launch = <B, F>(effect: Effect.Effect<B, F, R>, onEnd: (exit: Exit.Exit<B, F>) => void) => {
        alive++
        const fiber = fork(effect)
        fibers.add(fiber)
        fiber.addObserver((exit) => {
          fibers.delete(fiber)
          alive--
          if (!isOver) return onEnd(exit)
          if (alive === 0) onLast?.()
        })
        // The caller may be gone before the fiber is known here.
        if (isOver) fiber.interruptUnsafe()
        return fiber
      }

      const nextEvent = (): Core.Event | undefined =>
        isOver ? undefined : decisive === undefined ? events.shift() : decided

      // An event can cause others while it is handled. They wait for their turn, but nothing starts after a decision.
      const handleAll = (): void => {
        if (isHandling) return
        isHandling = true
        for (let event = nextEvent(); event !== undefined; event = nextEvent()) handle(event)
        isHandling = false
      }

      const tell = (event: Core.Event): void => {
        events.push(event)
        handleAll()
      }

      const decide = (exit: Exit.Exit<A, E>): void => {
        decisive ??= exit
        handleAll()
      }

      const handle = (event: Core.Event): void => {
        const [after, decision] = Core.step(race, state, event)
        state = after
        switch (decision._tag) {
          case "Wait":
            return
          case "Start": {
            disarm?.()
            disarm = undefined
            begin(decision.index)
            if (decision.arms && !isOver && decisive === undefined) arm(decision.index + 1)
            return
          }
          case "End": {
            const exit = decision.result === "first" ? first : decisive
            if (exit !== undefined) end(exit)
          }
        }
      }

      const begin = (index: number): void => {
        const { mayStart } = race
        if (index === 0 || mayStart === undefined) return attempt(index)
        launch(Effect.suspend(() => mayStart(index)), (exit) => {
          if (Exit.isFailure(exit)) return decide(Exit.failCause(exit.cause))
          // Nothing comes between the permission and the attempt.
          if (exit.value) attempt(index)
          else tell(refused)
        })
      }

      const attempt = (index: number): void => {
        const { isFatal } = race
        let isLast = false
        const effect = Effect.suspend(() => race.start(index))
        const judged = isFatal === undefined ? effect : Effect.catchCause(effect, (cause) => {
          const error = Cause.findErrorOption(cause)
          isLast = Option.isSome(error) && isFatal(error.value)
          return Effect.failCause(cause)
        })
        launch(judged, (exit) => {
          if (index === 0) first = exit
          if (Exit.isFailure(exit) && !isLast && mayHeal(exit.cause)) tell(failed)
          else decide(exit)
        })
      }

      const arm = (index: number): void => {
        const { delay } = race
        if (delay === Infinity) return
        const due: Core.Event = { _tag: "Due", index }
        if (typeof delay === "number" && delay <= 0) return tell(due)
        if (typeof delay === "number" && race.sharesTimer) {
          const alarm = Alarms.set(clock, scheduler, delay, () => tell(due))
          disarm = () => Alarms.clear(alarm, "soon")
          return
        }
        const timer = launch(waiting(delay, index), (exit) => {
          if (Exit.isSuccess(exit)) return exit.value ? tell(due) : undefined
          if (!Cause.hasInterruptsOnly(exit.cause)) decide(Exit.failCause(exit.cause))
        })
        disarm = () => timer.interruptUnsafe()
      }

      const stop = (): void => {
        isOver = true
        disarm?.()
        for (const fiber of fibers) fiber.interruptUnsafe()
      }

      const end = (exit: Exit.Exit<A, E>): void => {
        stop()
        if (alive === 0) return resume(exit)
        grace = fork(Effect.sleep(race.graceMs))
        onLast = () => {
          grace?.interruptUnsafe()
          resume(exit)
        }
        grace.addObserver((slept) => {
          if (Exit.isSuccess(slept)) resume(exit)
        })
      }

      tell(began)
      // Here, too, nothing comes between the look at who is left and the wait for the last of them.
      return Effect.callback<void>((resume) => {
        grace?.interruptUnsafe()
        stop()
        if (alive === 0) return resume(Effect.void)
        onLast = () => resume(Effect.void)
      })
    })
  })

const began: Core.Event = { _tag: "Began" }
const refused: Core.Event = { _tag: "Refused" }
const failed: Core.Event = { _tag: "Failed" }
const decided: Core.Event = { _tag: "Decided" }

/** Defects and interruptions from within are no failures that another attempt heals. */
const mayHeal = <E>(cause: Cause.Cause<E>): boolean => Cause.hasFails(cause) && !Cause.hasDies(cause)

/** Waits before an attempt; `false` when there is to be none. */
const waiting = (delay: Delay, index: number): Effect.Effect<boolean> =>
  typeof delay === "number"
    ? Effect.as(Effect.sleep(delay), true)
    : Effect.flatMap(Effect.suspend(() => delay(index)), (input) => {
      const millis = input === undefined ? Infinity : Duration.toMillis(Duration.fromInputUnsafe(input))
      if (millis === Infinity) return Effect.succeed(false)
      return millis > 0 ? Effect.as(Effect.sleep(millis), true) : Effect.succeed(true)
    })
