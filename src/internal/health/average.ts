/**
 * Averages that forget by time, and costs made of them, as pure functions.
 *
 * @internal
 */

/**
 * Returns an average after one more sample: what was known weighs less the longer ago it was learned.
 *
 * @internal
 */
export const timeWeighted = (previous: number, sample: number, elapsedMs: number, tauMs: number): number => {
  const kept = Math.exp(-Math.max(0, elapsedMs) / tauMs)
  return previous * kept + sample * (1 - kept)
}

/**
 * A response time in which a peak replaces the average at once and is forgotten slowly.
 *
 * @internal
 */
export interface Peak {
  /** 0 when nothing is known. */
  readonly millis: number
  readonly at: number
}

/** @internal */
export const noPeak: Peak = { millis: 0, at: Number.NEGATIVE_INFINITY }

/** @internal */
export const observePeak = (peak: Peak, millis: number, tauMs: number, now: number): Peak =>
  millis >= peak.millis
    ? { millis, at: now }
    : { millis: timeWeighted(peak.millis, millis, now - peak.at, tauMs), at: Math.max(now, peak.at) }

/**
 * Returns a peak as it is now: without new samples it fades, so that whoever was slow is tried again.
 *
 * @internal
 */
export const readPeak = (peak: Peak, tauMs: number, now: number): number =>
  peak.millis === 0 ? 0 : timeWeighted(peak.millis, 0, now - peak.at, tauMs)

/**
 * Returns what one more request costs: the time it takes, for each request that is ahead of it and itself. Where
 * nothing is known, work in flight costs `unknownMs`, or a target that has never answered would draw all the traffic.
 *
 * @internal
 */
export const cost = (millis: number, pending: number, unknownMs: number): number =>
  millis === 0 && pending > 0 ? unknownMs + pending : millis * (pending + 1)
