/**
 * Rolling sums over the last calls, or over the calls of the last time.
 *
 * A window is a value: `record` returns another one. Besides the sum it keeps the latest end of a wait that a failure
 * within it has stated, which leaves the window with that failure.
 *
 * @internal
 */

/** @internal */
export type Window = CountWindow | TimeWindow

/**
 * What a window holds of its calls.
 *
 * @internal
 */
export interface Totals {
  readonly calls: number
  readonly sum: number
  /** The latest time at which a stated wait ends; minus infinity when none was stated. */
  readonly hintUntil: number
}

/**
 * The last `size` calls.
 *
 * @internal
 */
export interface CountWindow {
  readonly _tag: "Count"
  readonly size: number
  readonly values: ReadonlyArray<number>
  /** Calls ever recorded; the next one is written at this number modulo the size. */
  readonly recorded: number
  readonly sum: number
  readonly hints: ReadonlyArray<{ readonly recorded: number; readonly until: number }>
}

/**
 * The calls of the last `windowMs`, in buckets that are dropped as a whole.
 *
 * @internal
 */
export interface TimeWindow {
  readonly _tag: "Time"
  readonly windowMs: number
  readonly bucketMs: number
  readonly buckets: ReadonlyArray<Bucket>
}

/** @internal */
export interface Bucket extends Totals {
  /** Time of its first call. */
  readonly start: number
}

/** @internal */
export const none: Totals = { calls: 0, sum: 0, hintUntil: Number.NEGATIVE_INFINITY }

/** @internal */
export const count = (size: number): CountWindow => ({
  _tag: "Count",
  size,
  values: [],
  recorded: 0,
  sum: 0,
  hints: []
})

// Shares of a window this short would be buckets that hold a call or two.
const smallestDivided = 200

/** @internal */
export const time = (windowMs: number, buckets = windowMs < smallestDivided ? 1 : 10): TimeWindow => ({
  _tag: "Time",
  windowMs,
  bucketMs: windowMs / buckets,
  buckets: []
})

/** @internal */
export const record = (window: Window, value: number, hintUntil: number, now: number): Window =>
  window._tag === "Count" ? recordCount(window, value, hintUntil) : recordTime(window, value, hintUntil, now)

/** @internal */
export const read = (window: Window, now: number): Totals => {
  switch (window._tag) {
    case "Count":
      return {
        calls: window.values.length,
        sum: window.sum,
        hintUntil: window.hints.reduce((latest, hint) => Math.max(latest, hint.until), none.hintUntil)
      }
    case "Time":
      return window.buckets.reduce(
        (totals, bucket) => now - bucket.start >= window.windowMs ? totals : add(totals, bucket),
        none
      )
  }
}

const recordCount = (window: CountWindow, value: number, hintUntil: number): CountWindow => {
  const { hints, recorded, size } = window
  const values = window.values.slice()
  const at = recorded % size
  const dropped = values[at] ?? 0
  values[at] = value
  const kept = hints.length === 0 ? hints : hints.filter((hint) => hint.recorded > recorded - size)
  return {
    _tag: "Count",
    size,
    values,
    recorded: recorded + 1,
    sum: window.sum - dropped + value,
    hints: hintUntil === none.hintUntil ? kept : [...kept, { recorded, until: hintUntil }]
  }
}

const recordTime = (window: TimeWindow, value: number, hintUntil: number, now: number): TimeWindow => {
  const { bucketMs, buckets, windowMs } = window
  const last = buckets[buckets.length - 1]
  const call = { calls: 1, sum: value, hintUntil }
  const continues = last !== undefined && now - last.start < bucketMs
  const kept = continues
    ? buckets.slice(0, -1)
    : buckets.filter((bucket) => now - bucket.start < windowMs)
  kept.push(continues ? { ...add(last, call), start: last.start } : { ...call, start: now })
  return { _tag: "Time", windowMs, bucketMs, buckets: kept }
}

const add = (a: Totals, b: Totals): Totals => ({
  calls: a.calls + b.calls,
  sum: a.sum + b.sum,
  hintUntil: Math.max(a.hintUntil, b.hintUntil)
})
