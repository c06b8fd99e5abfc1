/**
 * How many of the recent requests a provider served: sums that decay, updated in place.
 *
 * A request counts when it starts, since a provider that hangs must be seen before its requests time out. Until it is
 * older than `graceMs` a request in flight is taken for served, or every burst would look like an outage while its
 * first answers are being written.
 *
 * @internal
 */
import { throttleProbability } from "../limiter/learning.ts"

/** @internal */
export interface Options {
  readonly multiplier: number
  readonly maxProbability: number
  readonly minRequests: number
  readonly windowMs: number
  readonly graceMs: number
}

/** @internal */
export interface State {
  requests: number
  accepts: number
  /** The latest time seen. */
  at: number
  /** Requests in flight by the slot of time in which they started. */
  readonly young: Int32Array
  /** Number of the slot that is written to, counted from the epoch. */
  slot: number
}

const slots = 16

const slotMs = (options: Options): number => options.graceMs / (slots - 1)

/** @internal */
export const make = (options: Options, now: number): State => ({
  requests: 0,
  accepts: 0,
  at: now,
  young: new Int32Array(slots),
  slot: Math.floor(now / slotMs(options))
})

const weight = (options: Options, ageMs: number): number => Math.exp(-Math.max(0, ageMs) / options.windowMs)

const advance = (options: Options, state: State, now: number): void => {
  if (now <= state.at) return
  const share = weight(options, now - state.at)
  state.requests *= share
  state.accepts *= share
  state.at = now
  const slot = Math.floor(now / slotMs(options))
  for (let passed = Math.max(state.slot + 1, slot - slots + 1); passed <= slot; passed++) {
    state.young[passed % slots] = 0
  }
  state.slot = slot
}

/**
 * Counts a request that starts, refused or not: what callers want is what the provider is spared.
 *
 * @internal
 */
export const start = (options: Options, state: State, now: number): void => {
  advance(options, state, now)
  state.requests++
}

/** @internal */
export const send = (state: State): void => addYoung(state, state.slot, 1)

const addYoung = (state: State, slot: number, amount: number): void => {
  const place = slot % slots
  state.young[place] = Math.max(0, (state.young[place] ?? 0) + amount)
}

/**
 * Counts how a request ended that was sent; its weight is that of its start.
 *
 * @internal
 */
export const end = (
  options: Options,
  state: State,
  startedAt: number,
  outcome: "accepted" | "refused" | "neutral",
  now: number
): void => {
  advance(options, state, now)
  const slot = Math.floor(startedAt / slotMs(options))
  if (slot > state.slot - slots) addYoung(state, slot, -1)
  const left = weight(options, state.at - startedAt)
  if (outcome === "accepted") state.accepts += left
  if (outcome === "neutral") state.requests = Math.max(0, state.requests - left)
}

/**
 * Returns how likely the next request is refused.
 *
 * @internal
 */
export const probability = (options: Options, state: State, now: number): number => {
  const share = weight(options, now - state.at)
  const oldest = Math.floor(Math.max(now, state.at) / slotMs(options)) - slots
  let young = 0
  for (let slot = Math.max(oldest, state.slot - slots) + 1; slot <= state.slot; slot++) {
    young += state.young[slot % slots] ?? 0
  }
  return throttleProbability(state.requests * share, state.accepts * share + young, options)
}
