/**
 * Quantiles of durations in bounded memory: a histogram with logarithmic buckets that forgets by time.
 *
 * A bucket is 20 % wide, so a quantile is off by at most 10 %. Rather than shrink all buckets all the time, a new
 * sample weighs more than the old ones; the weights are brought back to 1 before they grow too large. Only the buckets
 * between the shortest and the longest sample exist: the answers of one target are much alike.
 *
 * @internal
 */

const growth = 1.2
const logGrowth = Math.log(growth)
/** From 1 ms to about 15 minutes; what is longer counts into the last bucket. */
const buckets = 76
/** `e^40` is far from the largest number that a bucket holds. */
const largestExponent = 40

/** @internal */
export interface Histogram {
  /** Of the buckets from `first` on. */
  weights: Array<number>
  first: number
  readonly tauMs: number
  /** The time at which a sample weighs 1. */
  landmark: number
  latest: number
  /** What a sample weighs at the latest time. */
  unit: number
  samples: number
  /** What `slow` last found, and how many samples there have to be before it looks again. */
  slow: number | undefined
  slowUntil: number
}

/** @internal */
export const make = (tauMs: number, now: number): Histogram => ({
  weights: [],
  first: 0,
  tauMs,
  landmark: now,
  latest: now,
  unit: 1,
  samples: 0,
  slow: undefined,
  slowUntil: 0
})

/** @internal */
export const add = (histogram: Histogram, millis: number, now: number): void => {
  if (now > histogram.latest) advance(histogram, now)
  histogram.samples++
  const index = millis <= 1 ? 0 : Math.min(buckets - 1, Math.floor(Math.log(millis) / logGrowth))
  const weights = reaching(histogram, index)
  const place = index - histogram.first
  weights[place] = (weights[place] ?? 0) + histogram.unit
}

const advance = (histogram: Histogram, now: number): void => {
  histogram.latest = now
  const exponent = (now - histogram.landmark) / histogram.tauMs
  const unit = Math.exp(exponent)
  histogram.unit = unit
  if (exponent <= largestExponent) return
  histogram.weights = histogram.weights.map((weight) => weight / unit)
  histogram.landmark = now
  histogram.unit = 1
}

/** The weights, with those of a bucket among them. */
const reaching = (histogram: Histogram, index: number): Array<number> => {
  const { first, weights } = histogram
  const end = first + weights.length
  if (index >= first && index < end) return weights
  const from = weights.length === 0 ? index : Math.min(first, index)
  const length = Math.max(end, index + 1) - from
  histogram.first = from
  return histogram.weights = Array.from({ length }, (_, place) => weights[from + place - first] ?? 0)
}

/**
 * Returns the durations below which the given shares of the samples lie; `undefined` without samples.
 *
 * @internal
 */
export const quantiles = (histogram: Histogram, shares: ReadonlyArray<number>): ReadonlyArray<number> | undefined => {
  let total = 0
  for (const weight of histogram.weights) total += weight
  return total === 0 ? undefined : shares.map((share) => quantile(histogram, share * total))
}

/**
 * Returns the 95th percentile, with at most an eighth of the samples missing and never more than 64: reading all
 * buckets for each failure would cost more than all the rest.
 *
 * @internal
 */
export const slow = (histogram: Histogram): number | undefined => {
  if (histogram.samples >= histogram.slowUntil) {
    histogram.slow = quantiles(histogram, [0.95])?.[0]
    histogram.slowUntil = histogram.samples + Math.min(64, Math.max(1, histogram.samples >> 3))
  }
  return histogram.slow
}

const quantile = ({ first, weights }: Histogram, rank: number): number => {
  let below = 0
  let last = 0
  for (const [place, weight] of weights.entries()) {
    if (weight === 0) continue
    below += weight
    last = first + place
    if (below >= rank) break
  }
  return growth ** (last + 0.5)
}
