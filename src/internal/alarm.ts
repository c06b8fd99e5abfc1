/**
 * Alarms on one timer a clock: most of them are cleared long before they ring, and a timer of its own for each would
 * cost more than all else that a limit of time does.
 *
 * The timer runs on when its alarm is cleared and looks at the others when it wakes. When none is left it is stopped; for
 * work that has ended not before the scheduler has come round, so that who makes one call after the other keeps it.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import * as Heap from "./limiter/heap.ts"

/** @internal */
export interface Alarm {
  readonly timer: Timer
  /** Milliseconds of the monotonic clock. */
  readonly at: number
  readonly order: number
  readonly ring: () => void
  /** Its place in the heap; -1 when it has rung or was cleared. */
  slot: number
}

interface Timer {
  readonly clock: Clock.Clock
  readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  readonly dispatcher: Scheduler.SchedulerDispatcher
  readonly alarms: Heap.Heap<Alarm>
  order: number
  sleeping: Fiber.Fiber<void> | undefined
  wakesAt: number
  ringing: boolean
  stopping: boolean
}

const timers = new WeakMap<Clock.Clock, Timer>()

const timerOf = (clock: Clock.Clock, scheduler: Scheduler.Scheduler): Timer => {
  const known = timers.get(clock)
  if (known !== undefined) return known
  // Nothing of whoever sets the first alarm is kept but what the timer needs.
  const context = Context.add(Context.make(Clock.Clock, clock), Scheduler.Scheduler, scheduler)
  const timer: Timer = {
    clock,
    fork: Effect.runForkWith(context),
    dispatcher: scheduler.makeDispatcher(),
    alarms: Heap.make<Alarm>((a, b) => a.at < b.at || (a.at === b.at && a.order < b.order), (alarm, slot) => {
      alarm.slot = slot
    }),
    order: 0,
    sleeping: undefined,
    wakesAt: 0,
    ringing: false,
    stopping: false
  }
  timers.set(clock, timer)
  return timer
}

const timeOf = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

/**
 * Sets an alarm that rings once, after so many milliseconds.
 *
 * @internal
 */
export const set = (
  clock: Clock.Clock,
  scheduler: Scheduler.Scheduler,
  waitMs: number,
  ring: () => void
): Alarm => {
  const timer = timerOf(clock, scheduler)
  const now = timeOf(clock)
  const alarm: Alarm = { timer, at: now + waitMs, order: timer.order++, ring, slot: -1 }
  Heap.push(timer.alarms, alarm)
  arm(timer, now)
  return alarm
}

/**
 * Clears an alarm; one that has rung is left alone. When it was the last, the timer stops now or soon.
 *
 * @internal
 */
export const clear = ({ slot, timer }: Alarm, stops: "soon" | "now"): void => {
  if (slot < 0) return
  Heap.removeAt(timer.alarms, slot)
  if (timer.alarms.items.length > 0 || timer.sleeping === undefined) return
  if (stops === "now") return stop(timer)
  if (timer.stopping) return
  timer.stopping = true
  timer.dispatcher.scheduleTask(() => {
    timer.stopping = false
    if (timer.alarms.items.length === 0) stop(timer)
  }, 0)
}

/**
 * Keeps the timer of the clock for as long as the scope is open, for whom alarms are set over and over: to stop it after
 * each and to start it for the next costs a call as much as to take its body from the socket.
 *
 * @internal
 */
export const keep: Effect.Effect<void, never, Scope.Scope> = Effect.withFiber((fiber) =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.sync(() => set(fiber.getRef(Clock.Clock), fiber.getRef(Scheduler.Scheduler), Infinity, () => undefined)),
    (alarm) => Effect.sync(() => clear(alarm, "now"))
  ))
)

const stop = (timer: Timer): void => {
  const { sleeping } = timer
  timer.sleeping = undefined
  sleeping?.interruptUnsafe()
}

const arm = (timer: Timer, now: number): void => {
  const [first] = timer.alarms.items
  if (first === undefined || timer.ringing || (timer.sleeping !== undefined && timer.wakesAt <= first.at)) return
  stop(timer)
  timer.wakesAt = first.at
  const sleeping = timer.fork(timer.clock.sleep(Duration.millis(Math.max(0, first.at - now))))
  timer.sleeping = sleeping
  sleeping.addObserver((exit) => {
    if (timer.sleeping !== sleeping || Exit.isFailure(exit)) return
    timer.sleeping = undefined
    ring(timer)
  })
}

// Who is told goes on at once and may set alarms of its own: those wait until all have been told.
const ring = (timer: Timer): void => {
  // What the sleep says counts: it may end up to a millisecond before the clock agrees.
  const now = Math.max(timer.wakesAt, timeOf(timer.clock))
  timer.ringing = true
  for (let [first] = timer.alarms.items; first !== undefined && first.at <= now; [first] = timer.alarms.items) {
    Heap.removeAt(timer.alarms, first.slot)
    first.ring()
  }
  timer.ringing = false
  arm(timer, timeOf(timer.clock))
}
