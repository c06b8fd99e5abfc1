/**
 * The candidate with the highest product of factors, each raised to a weight, found without computing most of them.
 *
 * Only ratios to the best candidate so far matter, and for a weight up to 1 a ratio has `ratio ** weight <= 1 - weight +
 * weight * ratio`. The right side costs no power, and what it cannot lift above the best is passed over.
 *
 * @internal
 */

/** @internal */
export interface Candidates {
  readonly free: Uint8Array
  readonly health: Float64Array
  readonly latency: Float64Array
  readonly pending: Int32Array
  readonly headroom: Float64Array
  readonly priceInput: Float64Array
  readonly priceOutput: Float64Array
  readonly tokens: { readonly input: number; readonly output: number }
}

/**
 * Weights of the factors, from 0 to 1: dividing all of them by the largest one changes no choice.
 *
 * @internal
 */
export interface Weights {
  readonly health: number
  readonly headroom: number
  readonly latency: number
  readonly cost: number
}

/** What a request in flight costs where nothing is known. */
const unknownMs = 30_000

/** Health, headroom and cost are no smaller factor than this, so that the others still decide where one is 0. */
const least = 0.001

/** Differences below this are rounding. */
const rounding = 1e-9

/** Where latency has no weight, attempts in flight have this one, to decide between candidates that are equal. */
const pendingWeight = 1e-4

/** What the factors of all candidates are measured by. */
interface Scale {
  readonly weights: Weights
  /** Whether the load is a time; else it is how many attempts are in flight. */
  readonly timed: boolean
  /** The shortest load that is known. */
  readonly quickest: number
  /** What a candidate costs whose prices are not known; 0 leaves cost out. */
  readonly dearest: number
  /** No candidate costs less. */
  readonly cheapest: number
}

/** The best candidate so far, or any other, as its factors. */
interface Factors {
  readonly index: number
  readonly health: number
  readonly headroom: number
  readonly load: number
  readonly cost: number
}

/**
 * Returns the free candidate with the highest product, -1 when none is free. The product of `favourite`, a free candidate
 * or -1, counts `favour` times.
 *
 * @internal
 */
export const highest = (
  candidates: Candidates,
  from: number,
  to: number,
  weights: Weights,
  favourite: number,
  favour: number
): number => {
  const quick = weights.latency > 0 ? quickest(candidates, from, to) : -1
  const start = favourite >= 0 ? favourite : quick >= 0 ? quick : firstFree(candidates, from, to)
  if (start < 0) return -1
  const scale = scaleOf(candidates, weights, quick)
  let best = factorsOf(candidates, scale, start)
  let advantage = favourite >= 0 ? favour : 1
  for (let index = from; index < to; index++) {
    index = next(candidates, index, to, scale, best, advantage)
    if (index < 0) break
    const own = factorsOf(candidates, scale, index)
    if (index === best.index || ratio(own, best, scale.weights) <= advantage) continue
    best = own
    advantage = 1
  }
  return best.index
}

const firstFree = ({ free }: Candidates, from: number, to: number): number => {
  const index = free.indexOf(1, from)
  return index < to ? index : -1
}

const quickest = ({ free, latency, pending }: Candidates, from: number, to: number): number => {
  let chosen = -1
  let least = Number.POSITIVE_INFINITY
  for (let index = from; index < to; index++) {
    if (free[index] !== 1) continue
    const load = (latency[index] ?? 0) * ((pending[index] ?? 0) + 1)
    if (load < least && load > 0) {
      least = load
      chosen = index
    }
  }
  return chosen
}

const scaleOf = (candidates: Candidates, weights: Weights, quick: number): Scale => {
  const { latency, pending, tokens } = candidates
  const prices = pricesOf(candidates)
  const dearest = prices.maxInput * tokens.input + prices.maxOutput * tokens.output
  const cheapest = prices.minInput * tokens.input + prices.minOutput * tokens.output
  const priced = weights.cost > 0 && dearest > 0
  const timed = weights.latency > 0
  return {
    weights: { ...weights, latency: timed ? weights.latency : pendingWeight, cost: priced ? weights.cost : 0 },
    timed,
    quickest: quick < 0 ? 1 : (latency[quick] ?? 0) * ((pending[quick] ?? 0) + 1),
    dearest: priced ? dearest : 1,
    cheapest: priced ? Math.max(cheapest, dearest * least) : 1
  }
}

const factorsOf = (candidates: Candidates, scale: Scale, index: number): Factors => ({
  index,
  health: Math.max((candidates.health[index] ?? 0) / 100, least),
  headroom: Math.max(candidates.headroom[index] ?? 0, least),
  load: loadOf(candidates, scale, index),
  cost: costOf(candidates, scale, index)
})

const loadOf = ({ latency, pending }: Candidates, { quickest, timed }: Scale, index: number): number => {
  const waiting = pending[index] ?? 0
  if (!timed) return waiting + 1
  const millis = latency[index] ?? 0
  return millis > 0 ? millis * (waiting + 1) : waiting > 0 ? unknownMs + waiting : quickest
}

const costOf = (
  { priceInput, priceOutput, tokens }: Candidates,
  { cheapest, dearest, weights }: Scale,
  index: number
): number => {
  if (weights.cost === 0) return 1
  const cost = (priceInput[index] ?? 0) * tokens.input + (priceOutput[index] ?? 0) * tokens.output
  // What is not known compares as false.
  return cost >= cheapest ? cost : cost < cheapest ? cheapest : dearest
}

const ratio = (own: Factors, best: Factors, weights: Weights): number =>
  power(own.health / best.health, weights.health) *
  power(own.headroom / best.headroom, weights.headroom) *
  power(best.load / own.load, weights.latency) *
  power(best.cost / own.cost, weights.cost)

const power = (ratio: number, weight: number): number =>
  weight === 0 || ratio === 1 ? 1 : weight === 1 ? ratio : weight === 0.5 ? Math.sqrt(ratio) : ratio ** weight

/**
 * Returns the next free candidate that may have a higher product than the best, -1 when there is none. Health and load
 * are read of all, the rest of those that would be better if they had the highest headroom and the lowest cost.
 */
const next = (
  candidates: Candidates,
  from: number,
  to: number,
  scale: Scale,
  best: Factors,
  advantage: number
): number => {
  const { free, headroom, health, latency, pending } = candidates
  const { timed, weights } = scale
  const healthSlope = weights.health / best.health / 100
  const healthBase = 1 - weights.health + healthSlope * 100 * least
  const headroomSlope = weights.headroom / best.headroom
  const headroomBase = 1 - weights.headroom + headroomSlope * least
  const loadSlope = weights.latency * best.load
  const loadBase = 1 - weights.latency
  const costSlope = weights.cost * best.cost
  const costBase = 1 - weights.cost
  const share = (1 - rounding) / advantage
  const limit = share * power(1 / best.headroom, weights.headroom) * power(best.cost / scale.cheapest, weights.cost)
  for (let index = from; index < to; index++) {
    const waiting = (pending[index] ?? 0) + 1
    const known = timed ? (latency[index] ?? 0) * waiting : waiting
    const factor = healthBase + healthSlope * (health[index] ?? 0)
    if (factor * (loadBase * known + loadSlope) * limit <= known || free[index] !== 1) continue
    const load = known > 0 ? known : loadOf(candidates, scale, index)
    const cost = costOf(candidates, scale, index)
    const bound = factor * (loadBase * load + loadSlope) * (headroomBase + headroomSlope * (headroom[index] ?? 0)) *
      (costBase * cost + costSlope) * share
    // What is no number, in a column that has no weight, is left to the exact comparison.
    if (!(bound <= load * cost)) return index
  }
  return -1
}

interface Prices {
  minInput: number
  minOutput: number
  maxInput: number
  maxOutput: number
}

const known = new WeakMap<Float64Array, Prices>()

/** Returns the extremes of the prices, which never change, of those candidates that have prices. */
const pricesOf = ({ priceInput, priceOutput }: Candidates): Readonly<Prices> => {
  const found = known.get(priceInput)
  if (found !== undefined) return found
  const prices: Prices = { minInput: Infinity, minOutput: Infinity, maxInput: 0, maxOutput: 0 }
  for (const [index, input] of priceInput.entries()) {
    const output = priceOutput[index] ?? Number.NaN
    if (!(input >= 0 && output >= 0)) continue
    prices.minInput = Math.min(prices.minInput, input)
    prices.minOutput = Math.min(prices.minOutput, output)
    prices.maxInput = Math.max(prices.maxInput, input)
    prices.maxOutput = Math.max(prices.maxOutput, output)
  }
  known.set(priceInput, prices)
  return prices
}
