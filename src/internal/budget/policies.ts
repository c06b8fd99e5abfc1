/**
 * The rules by which retries are granted, each over a state of its own that changes in place.
 *
 * An event is answered with `true`, or with `false` when it is a retry that is refused. A refusal changes nothing.
 *
 * @internal
 */
import * as SlidingLog from "../limiter/slidingLog.ts"

/** @internal */
export type Cost = "transient" | "throttling"

/** @internal */
export type Event =
  /** A first attempt starts. */
  | { readonly _tag: "Started" }
  /** A retry or hedge is asked for. */
  | { readonly _tag: "Withdrawn"; readonly cost: Cost }
  /** A retry that was granted is not sent. */
  | { readonly _tag: "Refunded"; readonly cost: Cost }
  /** An attempt ended; `neutral` says nothing about whoever was called. */
  | { readonly _tag: "Ended"; readonly retry: boolean; readonly outcome: Ended; readonly cost: Cost }

/** @internal */
export type Ended = "success" | "failure" | "neutral"

/** @internal */
export interface Ledger {
  readonly apply: (event: Event, now: number) => boolean
  /** Retries that would be granted now, one after the other. */
  readonly available: (now: number) => number
}

/** Sums of fractions miss whole numbers by less than this. */
const precision = 1e-9

// ---------------------------------------------------------------------------------------------------------------------
// a share of the requests of a window
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Windowed {
  readonly windowMs: number
  readonly ratio: number
  readonly minimum: number
}

/**
 * At each retry that is granted, the retries of the window that ends there are at most `ratio` times its first attempts
 * plus `minimum`.
 *
 * @internal
 */
export const windowed = ({ minimum, ratio, windowMs }: Windowed, now: number): Ledger => {
  const requests = SlidingLog.make({ limit: 0, windowMs }, now)
  const retries = SlidingLog.make({ limit: 0, windowMs }, now)

  const available = (now: number): number => {
    // A log of limit 0 has as much left as it holds, with the other sign.
    const requested = Math.max(0, -SlidingLog.available(requests, now))
    const retried = -SlidingLog.available(retries, now)
    return Math.max(0, Math.floor(requested * ratio + minimum - retried + precision))
  }

  return {
    available,
    apply: (event, now) => {
      switch (event._tag) {
        case "Started":
          SlidingLog.take(requests, 1, now)
          return true
        case "Withdrawn":
          if (available(now) < 1) return false
          SlidingLog.take(retries, 1, now)
          return true
        case "Refunded": {
          SlidingLog.available(retries, now)
          // The oldest leaves the window first, so giving it back never makes room too early.
          const oldest = retries.entries.slice(retries.head).find(({ amount }) => amount >= 1)
          if (oldest !== undefined) SlidingLog.amend(retries, oldest, -1, 0, now)
          return true
        }
        case "Ended":
          // Taken back from now on rather than from its start, which is later and so never too much.
          if (!event.retry && event.outcome === "neutral") SlidingLog.take(requests, -1, now)
          return true
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// tokens that successes earn
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Tokens {
  readonly capacity: number
  readonly costs: Readonly<Record<Cost, number>>
  readonly reward: number
}

/**
 * A retry costs tokens, which its success gives back; a first attempt that succeeds earns some.
 *
 * @internal
 */
export const tokens = ({ capacity, costs, reward }: Tokens): Ledger => {
  let left = capacity
  const add = (amount: number): boolean => {
    left = Math.min(capacity, left + amount)
    return true
  }
  return {
    available: () => Math.floor(left / costs.transient + precision),
    apply: (event) => {
      switch (event._tag) {
        case "Started":
          return true
        case "Withdrawn":
          return left + precision < costs[event.cost] ? false : add(-costs[event.cost])
        case "Refunded":
          return add(costs[event.cost])
        case "Ended":
          return event.outcome !== "success" || add(event.retry ? costs[event.cost] : reward)
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// a switch that failures turn off
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Throttle {
  readonly maxTokens: number
  readonly tokenRatio: number
}

/**
 * Each failure takes a token and each success gives back a part of one; retries are granted while more than half are
 * left.
 *
 * @internal
 */
export const throttle = ({ maxTokens, tokenRatio }: Throttle): Ledger & { readonly tokens: () => number } => {
  // Thousandths add up exactly.
  const full = Math.round(maxTokens * 1000)
  const earned = Math.round(tokenRatio * 1000)
  let left = full
  return {
    tokens: () => left / 1000,
    available: () => left * 2 > full ? Number.POSITIVE_INFINITY : 0,
    apply: (event) => {
      switch (event._tag) {
        case "Started":
        case "Refunded":
          return true
        case "Withdrawn":
          return left * 2 > full
        case "Ended":
          if (event.outcome === "success") left = Math.min(full, left + earned)
          if (event.outcome === "failure") left = Math.max(0, left - 1000)
          return true
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// a share of what is in flight
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Concurrent {
  readonly ratio: number
  readonly minimum: number
}

/**
 * Returns how many retries may be in flight beside so many attempts, first ones and retries together.
 *
 * @internal
 */
export const concurrentRetries = ({ minimum, ratio }: Concurrent, attempts: number): number =>
  Math.max(minimum, Math.floor(ratio * attempts + precision))

/** @internal */
export const concurrent = (
  options: Concurrent,
  initial: { readonly attempts: number; readonly retries: number } = { attempts: 0, retries: 0 }
): Ledger => {
  let { attempts, retries } = initial
  const available = (): number => Math.max(0, concurrentRetries(options, attempts) - retries)
  const end = (retry: boolean): boolean => {
    attempts = Math.max(0, attempts - 1)
    if (retry) retries = Math.max(0, retries - 1)
    return true
  }
  return {
    available,
    apply: (event) => {
      switch (event._tag) {
        case "Started":
          attempts++
          return true
        case "Withdrawn":
          if (available() < 1) return false
          attempts++
          retries++
          return true
        case "Refunded":
          return end(true)
        case "Ended":
          return end(event.retry)
      }
    }
  }
}
