/**
 * Token bucket with continuous refill, or with refill in whole steps.
 *
 * The level is a fraction and may be negative (debt). Time comes in as milliseconds; a clock that goes back changes
 * nothing until it has caught up. `take` does not ask: whoever admits calls `waitFor` first.
 *
 * @internal
 */

/** @internal */
export interface Bucket {
  level: number
  /** When `level` was true. */
  at: number
  capacity: number
  perMs: number
  /** Milliseconds between two refills; 0 refills all the time. */
  readonly stepMs: number
  /** Milliseconds by which what is taken here may be taken later where this bucket is copied from. */
  readonly lagMs: number
}

// A timer may fire this much early: what is granted then is repaid by the next wait, so nothing drifts.
const earlyMs = 0.001

/** @internal */
export const make = (
  options: {
    readonly capacity: number
    readonly perMs: number
    readonly stepMs?: number
    readonly initial?: number
    readonly lagMs?: number
  },
  now: number
): Bucket => ({
  level: options.initial ?? options.capacity,
  at: now,
  capacity: options.capacity,
  perMs: options.perMs,
  stepMs: options.stepMs ?? 0,
  lagMs: options.lagMs ?? 0
})

/** @internal */
export const available = (bucket: Bucket, now: number): number => {
  if (now > bucket.at) {
    const elapsed = now - bucket.at
    const counted = bucket.stepMs === 0 ? elapsed : Math.floor(elapsed / bucket.stepMs + 1e-9) * bucket.stepMs
    if (counted > 0) {
      bucket.level = Math.min(bucket.capacity, bucket.level + counted * bucket.perMs)
      bucket.at += counted
    }
  }
  return bucket.level
}

/**
 * Returns the milliseconds until `amount` would be there, had the bucket no brim; `Infinity` without a refill.
 *
 * @internal
 */
export const waitFor = (bucket: Bucket, amount: number, now: number): number => {
  const missing = amount - available(bucket, now)
  if (missing <= 1e-9 * Math.max(1, bucket.capacity)) return 0
  const refill = missing / bucket.perMs
  const wait = bucket.stepMs === 0
    ? refill + (bucket.at - now)
    : Math.ceil(refill / bucket.stepMs - 1e-9) * bucket.stepMs - (now - bucket.at)
  return wait <= earlyMs ? 0 : wait
}

/** @internal */
export const take = (bucket: Bucket, amount: number, now: number): void => {
  const level = available(bucket, now)
  if (bucket.lagMs > 0 && amount > 0) {
    // What comes back until then goes over the brim there, so it does not come back here.
    const lost = level / bucket.perMs + bucket.lagMs - bucket.capacity / bucket.perMs
    if (lost > 0) bucket.at = Math.max(bucket.at, now) + Math.min(lost, bucket.lagMs)
  }
  bucket.level = level - amount
}

/**
 * Leaves no more than an amount.
 *
 * @internal
 */
export const spill = (bucket: Bucket, amount: number, now: number): void => {
  bucket.level = Math.min(available(bucket, now), amount)
}

/**
 * Gives back, up to the capacity: what goes beyond has been refilled meanwhile.
 *
 * @internal
 */
export const giveBack = (bucket: Bucket, amount: number, now: number): void => {
  bucket.level = Math.max(bucket.level, Math.min(bucket.capacity, available(bucket, now) + amount))
}

/**
 * Takes what was used beyond the estimate, into debt of at most `maxDebt`; returns what was charged.
 *
 * @internal
 */
export const overdraw = (bucket: Bucket, amount: number, maxDebt: number, now: number): number => {
  const level = available(bucket, now)
  bucket.level = Math.min(level, Math.max(level - amount, -maxDebt))
  return level - bucket.level
}

/**
 * Changes capacity and rate: the time up to now counts at the old rate, and what exceeds the new capacity is cut.
 *
 * @internal
 */
export const resize = (bucket: Bucket, capacity: number, perMs: number, now: number): void => {
  available(bucket, now)
  bucket.capacity = capacity
  bucket.perMs = perMs
  bucket.level = Math.min(bucket.level, capacity)
}
