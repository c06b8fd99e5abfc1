/**
 * The most recent samples, and exact quantiles of them: they are kept in order, so that a look costs nothing.
 *
 * @internal
 */

/** @internal */
export interface Samples {
  /** In the order of arrival, round about. */
  readonly recent: Float64Array
  /** The same in ascending order, as far as `count`. */
  readonly sorted: Float64Array
  count: number
  /** Place of the next sample in `recent`. */
  next: number
}

/** @internal */
export const make = (capacity: number): Samples => ({
  recent: new Float64Array(capacity),
  sorted: new Float64Array(capacity),
  count: 0,
  next: 0
})

/** @internal */
export const add = (samples: Samples, value: number): void => {
  const { next, recent, sorted } = samples
  if (samples.count === recent.length) {
    const place = placeOf(samples, at(recent, next))
    sorted.copyWithin(place, place + 1, samples.count)
    samples.count--
  }
  const place = placeOf(samples, value)
  sorted.copyWithin(place + 1, place, samples.count)
  sorted[place] = value
  recent[next] = value
  samples.next = (next + 1) % recent.length
  samples.count++
}

/**
 * Returns the smallest sample that at least a share of all samples does not exceed; `undefined` without samples.
 *
 * @internal
 */
export const quantile = ({ count, sorted }: Samples, share: number): number | undefined => {
  if (count === 0) return undefined
  // A product of fractions misses a whole number by less than this.
  const rank = Math.ceil(share * count - 1e-9)
  return at(sorted, Math.min(count, Math.max(1, rank)) - 1)
}

/** The first place whose sample is not smaller. */
const placeOf = ({ count, sorted }: Samples, value: number): number => {
  let low = 0
  let high = count
  while (low < high) {
    const middle = (low + high) >>> 1
    if (at(sorted, middle) < value) low = middle + 1
    else high = middle
  }
  return low
}

const at = (values: Float64Array, index: number): number => values[index] ?? 0
