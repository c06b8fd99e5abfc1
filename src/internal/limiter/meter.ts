/**
 * One limit of one scope, whatever its window: what is left, how long an amount has to wait, charging and refunding.
 *
 * @internal
 */
import * as Bucket from "./bucket.ts"
import * as Calendar from "./calendar.ts"
import * as Learning from "./learning.ts"
import type { Rule } from "./limits.ts"
import type { Dimension } from "./observation.ts"
import * as SlidingLog from "./slidingLog.ts"

/**
 * The present: elapsed time for windows, the wall clock for calendars.
 *
 * @internal
 */
export interface Now {
  readonly mono: number
  readonly wall: number
}

interface Common {
  readonly dimension: Dimension
  /** The rule it enforces; a minimum interval has none. */
  readonly rule: Rule | undefined
  /** What may be taken at once when nothing is used, as configured. */
  most: number
  /** Nothing passes before this time, in elapsed milliseconds. */
  blockedUntil: number
  /** What is known about the provider's real limit, when the meter learns. */
  learner: Learner | undefined
  /** What was charged when, since a provider reports balances. */
  history: History | undefined
}

/** @internal */
export type Meter =
  & Common
  & (
    | { readonly _tag: "Bucket"; readonly bucket: Bucket.Bucket }
    | { readonly _tag: "Sliding"; readonly log: SlidingLog.SlidingLog }
    | { readonly _tag: "Calendar"; readonly calendar: Calendar.Calendar }
  )

interface Learner {
  readonly options: Learning.Options
  state: Learning.State
}

interface History {
  total: number
  readonly times: Array<number>
  readonly totals: Array<number>
}

/**
 * Where an amount was charged: the log entry, the start of the calendar period, or nothing for buckets.
 *
 * @internal
 */
export type Stamp = SlidingLog.Entry | number | undefined

/** How all limits of an engine are kept. @internal */
export interface Manner {
  readonly adaptive: boolean
  /** Milliseconds by which one request may be longer on its way than another. */
  readonly lagMs: number
}

/** @internal */
export const make = (rule: Rule, { adaptive, lagMs }: Manner, now: Now): Meter => {
  const common: Common = {
    dimension: rule.dimension,
    rule,
    most: rule.window._tag === "Continuous" ? rule.window.capacity : rule.limit,
    blockedUntil: Number.NEGATIVE_INFINITY,
    learner: undefined,
    history: undefined
  }
  switch (rule.window._tag) {
    case "Continuous": {
      const { capacity, windowMs } = rule.window
      return {
        ...common,
        _tag: "Bucket",
        bucket: Bucket.make({ capacity, perMs: rule.limit / windowMs, lagMs }, now.mono),
        learner: adaptive ? learner(rule.limit, rule.limit, windowMs, now) : undefined
      }
    }
    case "Sliding": {
      const { windowMs } = rule.window
      return {
        ...common,
        _tag: "Sliding",
        log: SlidingLog.make({ limit: rule.limit, windowMs }, now.mono),
        learner: adaptive ? learner(rule.limit, rule.limit, windowMs, now) : undefined
      }
    }
    case "Calendar":
      return {
        ...common,
        _tag: "Calendar",
        calendar: Calendar.make({ limit: rule.limit, period: rule.window.period, zone: rule.window.zone }, now.wall)
      }
  }
}

/**
 * A minimum interval: a bucket of one, so that nothing is saved up and the first passes at once.
 *
 * @internal
 */
export const interval = (intervalMs: number, now: Now): Meter => ({
  dimension: "interval",
  rule: undefined,
  most: Number.POSITIVE_INFINITY,
  blockedUntil: Number.NEGATIVE_INFINITY,
  learner: undefined,
  history: undefined,
  _tag: "Bucket",
  bucket: Bucket.make({ capacity: 1, perMs: 1 / intervalMs }, now.mono)
})

/**
 * A limit nobody configured: it starts from a guess, without a burst, and is corrected by what the provider says.
 *
 * @internal
 */
export const guessed = (rule: Rule, now: Now): Meter => {
  const windowMs = windowOf(rule)
  return {
    dimension: rule.dimension,
    rule,
    most: Number.POSITIVE_INFINITY,
    blockedUntil: Number.NEGATIVE_INFINITY,
    learner: learner(rule.limit, Number.POSITIVE_INFINITY, windowMs, now),
    history: undefined,
    _tag: "Bucket",
    bucket: Bucket.make({ capacity: Math.max(1, rule.limit / 6), perMs: rule.limit / windowMs }, now.mono)
  }
}

const learner = (limit: number, ceiling: number, windowMs: number, now: Now): Learner => {
  const options: Learning.Options = {
    windowMs,
    initial: limit,
    floor: Math.min(limit, Math.max(1, limit / 100)),
    ceiling
  }
  return { options, state: Learning.initial(options, now.mono) }
}

/** @internal */
export const windowOf = (rule: Rule): number =>
  rule.window._tag === "Calendar"
    ? rule.window.period === "month" ? 30 * 86_400_000 : rule.window.period
    : rule.window.windowMs

/** @internal */
export const available = (meter: Meter, now: Now): number => {
  switch (meter._tag) {
    case "Bucket":
      return Bucket.available(meter.bucket, now.mono)
    case "Sliding":
      return SlidingLog.available(meter.log, now.mono)
    case "Calendar":
      return Calendar.available(meter.calendar, now.wall)
  }
}

/**
 * Returns what may be taken at once now when nothing is used: the configured amount or the learned one.
 *
 * @internal
 */
export const capacity = (meter: Meter): number => {
  switch (meter._tag) {
    case "Bucket":
      return meter.bucket.capacity
    case "Sliding":
      return meter.log.limit
    case "Calendar":
      return meter.calendar.limit
  }
}

/**
 * Returns the limit of a window in force.
 *
 * @internal
 */
export const limit = (meter: Meter): number =>
  meter.learner === undefined ? meter.rule?.limit ?? capacity(meter) : meter.learner.state.limit

/**
 * Returns the milliseconds until a request may take an amount, after `ahead` has been taken by others.
 *
 * **Details**
 *
 * An amount larger than the capacity in force, which a learned limit can make smaller than configured, waits for a full
 * meter and leaves it in debt.
 *
 * @internal
 */
export const waitFor = (meter: Meter, amount: number, ahead: number, kept: number, now: Now): number => {
  const left = meter.blockedUntil - now.mono
  const blocked = left > 0.001 ? left : 0
  if (amount === 0 && ahead === 0) return blocked
  const needed = Math.min(amount + kept, capacity(meter)) + ahead
  return Math.max(blocked, waitForLevel(meter, needed, now))
}

/**
 * Returns which part of a wait behind many others is left when a limit that was cut has returned to what is known, which
 * takes seconds: whoever is told to wait should not be told more.
 *
 * @internal
 */
export const outlook = ({ learner }: Meter): number =>
  learner === undefined ? 1 : Math.min(1, learner.state.limit / Math.max(1, learner.state.known))

const waitForLevel = (meter: Meter, amount: number, now: Now): number => {
  switch (meter._tag) {
    case "Bucket":
      return Bucket.waitFor(meter.bucket, amount, now.mono)
    case "Sliding":
      return SlidingLog.waitFor(meter.log, amount, now.mono)
    case "Calendar":
      return Calendar.waitFor(meter.calendar, amount, now.wall)
  }
}

/**
 * Returns the milliseconds until everything is back.
 *
 * @internal
 */
export const resetAfter = (meter: Meter, now: Now): number => waitForLevel(meter, capacity(meter), now)

/** @internal */
export const charge = (meter: Meter, amount: number, now: Now): Stamp => {
  note(meter, amount, now)
  if (meter.learner !== undefined) Learning.admit(meter.learner.options, meter.learner.state, amount, now.mono)
  return take(meter, amount, now)
}

const take = (meter: Meter, amount: number, now: Now): Stamp => {
  switch (meter._tag) {
    case "Bucket":
      Bucket.take(meter.bucket, amount, now.mono)
      return undefined
    case "Sliding":
      return SlidingLog.take(meter.log, amount, now.mono)
    case "Calendar":
      return Calendar.take(meter.calendar, amount, now.wall)
  }
}

/**
 * Corrects a charge by a difference: less is refunded, more becomes debt of at most `maxDebt` times the capacity. A
 * window that is over is not corrected any more.
 *
 * @internal
 */
export const correct = (meter: Meter, stamp: Stamp, by: number, maxDebt: number, now: Now): void => {
  if (by === 0) return
  note(meter, by, now)
  const debt = maxDebt * capacity(meter)
  switch (meter._tag) {
    case "Bucket":
      if (by < 0) Bucket.giveBack(meter.bucket, -by, now.mono)
      else Bucket.overdraw(meter.bucket, by, debt, now.mono)
      return
    case "Sliding":
      if (typeof stamp === "object") SlidingLog.amend(meter.log, stamp, by, debt, now.mono)
      return
    case "Calendar":
      if (typeof stamp === "number") Calendar.amend(meter.calendar, stamp, by, debt, now.wall)
  }
}

/**
 * Changes the configured limit. What is used stays used.
 *
 * @internal
 */
export const configure = (meter: Meter, rule: Rule, { lagMs }: Manner, now: Now): Meter => {
  const fresh = make(rule, { adaptive: meter.learner !== undefined, lagMs }, now)
  switch (meter._tag) {
    case "Bucket":
      if (rule.window._tag === "Continuous") {
        Bucket.resize(meter.bucket, rule.window.capacity, rule.limit / rule.window.windowMs, now.mono)
        return {
          ...fresh,
          _tag: "Bucket",
          bucket: meter.bucket,
          blockedUntil: meter.blockedUntil,
          history: meter.history
        }
      }
      return fresh
    case "Sliding":
      meter.log.limit = rule.limit
      return { ...fresh, _tag: "Sliding", log: meter.log, blockedUntil: meter.blockedUntil, history: meter.history }
    case "Calendar":
      meter.calendar.limit = rule.limit
      return {
        ...fresh,
        _tag: "Calendar",
        calendar: meter.calendar,
        blockedUntil: meter.blockedUntil,
        history: meter.history
      }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// what providers say
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Lets the learner see an event, and puts what it decides into force.
 *
 * @internal
 */
export const learn = (meter: Meter, learner: Learner, event: Learning.Event, now: Now): void => {
  const before = learner.state.limit
  const [state, decision] = Learning.step(learner.options, learner.state, event, now.mono)
  learner.state = state
  if (decision.resumeAt > now.mono) meter.blockedUntil = Math.max(meter.blockedUntil, decision.resumeAt)
  if (decision.limit !== before) enforce(meter, decision.limit, now)
  if (decision.drain && meter._tag === "Bucket") {
    meter.bucket.level = Math.min(meter.bucket.level, 0)
    // Nothing is saved up during the wait either: who waited resumes evenly, not in a burst.
    meter.bucket.at = Math.max(meter.bucket.at, meter.blockedUntil)
  }
}

/**
 * Lets the learner see that the provider has served a request.
 *
 * @internal
 */
export const served = (meter: Meter, learner: Learner, sentAt: number, now: Now): void => {
  if (!Learning.stay(learner.options, learner.state, now.mono)) {
    learn(meter, learner, { _tag: "Succeeded", sentAt }, now)
  }
}

const enforce = (meter: Meter, limit: number, now: Now): void => {
  const rule = meter.rule
  if (rule === undefined) return
  switch (meter._tag) {
    case "Bucket": {
      const burst = meter.most === Number.POSITIVE_INFINITY ? limit / 6 : meter.most * limit / rule.limit
      Bucket.resize(meter.bucket, Math.max(1, burst), limit / windowOf(rule), now.mono)
      return
    }
    case "Sliding":
      meter.log.limit = limit
      return
    case "Calendar":
      meter.calendar.limit = limit
  }
}

/**
 * Puts a limit that a provider stated into force: as a ceiling, never above what is configured.
 *
 * @internal
 */
export const state = (meter: Meter, limit: number, now: Now): void => {
  if (meter.learner !== undefined) learn(meter, meter.learner, { _tag: "Stated", limit }, now)
  else if (meter.rule !== undefined) enforce(meter, Math.min(meter.rule.limit, limit), now)
}

/**
 * Lowers the balance to what a provider said was left when a request was sent: plus what has come back since, minus
 * what has been sent since.
 *
 * @internal
 */
export const reconcile = (meter: Meter, remaining: number, sentAt: number, now: Now): void => {
  const since = Math.max(0, now.mono - sentAt)
  const bound = remaining + (meter._tag === "Bucket" ? since * meter.bucket.perMs : 0) - chargedSince(meter, sentAt)
  const excess = available(meter, now) - Math.max(bound, -capacity(meter))
  meter.history ??= { total: 0, times: [now.mono], totals: [0] }
  if (excess > 0) take(meter, excess, now)
}

const historySize = 128

const note = (meter: Meter, amount: number, now: Now): void => {
  const { history } = meter
  if (history === undefined) return
  history.total += amount
  history.times.push(now.mono)
  history.totals.push(history.total)
  if (history.times.length > 2 * historySize) {
    history.times.splice(0, historySize)
    history.totals.splice(0, historySize)
  }
}

const chargedSince = (meter: Meter, sentAt: number): number => {
  const { history } = meter
  if (history === undefined) return 0
  let index = history.times.length - 1
  while (index > 0 && (history.times[index] ?? 0) > sentAt) index--
  return Math.max(0, history.total - (history.totals[index] ?? 0))
}
