/**
 * Keeps a full queue from being one for small requests only.
 *
 * A queue that is as long as requests may wait refuses whoever would wait too long, and that is a large request sooner
 * than a small one: its own size is part of its wait. Left alone, an overload would serve hardly any large request. So
 * once a queue has refused several, all requests are held to the largest of those it refused lately.
 *
 * @internal
 */

/** What a queue has refused for its length: this half of a minute, and the one before. */
export interface Shedding {
  since: number
  refused: number
  refusedBefore: number
  /** Longest wait for its own size among the refused, in milliseconds. */
  ownMs: number
  ownMsBefore: number
}

const windowMs = 30_000

// Fewer refusals are no overload, and a single large request should not cost small ones their place.
const overload = 8

export const make = (now: number): Shedding => ({ since: now, refused: 0, refusedBefore: 0, ownMs: 0, ownMsBefore: 0 })

const turn = (shedding: Shedding, now: number): void => {
  const windows = Math.floor((now - shedding.since) / windowMs)
  if (windows <= 0) return
  const idle = windows > 1
  shedding.refusedBefore = idle ? 0 : shedding.refused
  shedding.ownMsBefore = idle ? 0 : shedding.ownMs
  shedding.refused = 0
  shedding.ownMs = 0
  shedding.since += windows * windowMs
}

/** Counts a request that was refused, and what its own size added to its wait. */
export const refused = (shedding: Shedding, ownMs: number, now: number): void => {
  turn(shedding, now)
  shedding.refused++
  shedding.ownMs = Math.max(shedding.ownMs, ownMs)
}

/** The wait that a request is given for its own size at least; zero outside an overload. */
export const floorMs = (shedding: Shedding, now: number): number => {
  turn(shedding, now)
  return shedding.refused + shedding.refusedBefore < overload ? 0 : Math.max(shedding.ownMs, shedding.ownMsBefore)
}
