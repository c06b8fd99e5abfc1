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

/** Is added to health and headroom and is the least factor of cost, so that the others still decide where one is 0. */
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
  readonly from: number
  readonly to: number
  /** The shortest latency that is known, 0 as long as it has not been needed. */
  quickest: number
  /** What a candidate costs whose prices are not known. */
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
  const start = favourite >= 0 ? favourite : firstFree(candidates, from, to)
  if (start < 0) return -1
  const scale = scaleOf(candidates, from, to, weights)
  let best = factorsOf(candidates, scale, start)
  let bounds = boundsOf(scale, best, favourite >= 0 ? favour : 1)
  for (let index = from; index < to; index++) {
    index = next(candidates, index, to, scale, bounds)
    if (index < 0) break
    if (index === best.index || isRuledOut(candidates, scale, bounds, index)) continue
    const own = factorsOf(candidates, scale, index)
    if (ratio(own, best, scale.weights) <= bounds.advantage) continue
    best = own
    bounds = boundsOf(scale, best, 1)
  }
  return best.index
}

const firstFree = ({ free }: Candidates, from: number, to: number): number => {
  const index = free.indexOf(1, from)
  return index < to ? index : -1
}

const scaleOf = (candidates: Candidates, from: number, to: number, weights: Weights): Scale => {
  const { tokens } = candidates
  const prices = pricesOf(candidates)
  const dearest = prices.maxInput * tokens.input + prices.maxOutput * tokens.output
  const cheapest = prices.minInput * tokens.input + prices.minOutput * tokens.output
  const priced = weights.cost > 0 && dearest > 0
  const timed = weights.latency > 0
  return {
    weights: { ...weights, latency: timed ? weights.latency : pendingWeight, cost: priced ? weights.cost : 0 },
    timed,
    from,
    to,
    quickest: 0,
    dearest: priced ? dearest : 1,
    cheapest: priced ? Math.max(cheapest, dearest * least) : 1
  }
}

const factorsOf = (candidates: Candidates, scale: Scale, index: number): Factors => ({
  index,
  health: (candidates.health[index] ?? 0) / 100 + least,
  headroom: (candidates.headroom[index] ?? 0) + least,
  load: loadOf(candidates, scale, index),
  cost: costOf(candidates, scale, index)
})

const loadOf = (candidates: Candidates, scale: Scale, index: number): number => {
  const waiting = candidates.pending[index] ?? 0
  if (!scale.timed) return waiting + 1
  const millis = candidates.latency[index] ?? 0
  if (millis > 0) return millis * (waiting + 1)
  if (waiting > 0) return unknownMs + waiting
  if (scale.quickest === 0) scale.quickest = quickest(candidates, scale.from, scale.to)
  return scale.quickest
}

/** Returns the shortest latency of those that are free, or any when none has answered yet. */
const quickest = ({ free, latency }: Candidates, from: number, to: number): number => {
  let shortest = Number.MAX_VALUE
  for (let index = from; index < to; index++) {
    const millis = latency[index] ?? 0
    if (millis >= shortest || millis === 0) continue
    if (free[index] === 1) shortest = millis
  }
  return shortest === Number.MAX_VALUE ? 1 : shortest
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

const power = (ratio: number, weight: number): number => {
  if (weight === 0 || ratio === 1) return 1
  if (weight === 1) return ratio
  // Roots cost a tenth of a power.
  if (weight === 0.5) return Math.sqrt(ratio)
  return weight === 0.25 ? Math.sqrt(Math.sqrt(ratio)) : ratio ** weight
}

/** Lines above the powers of the ratios to the best candidate. */
interface Bounds {
  /** How much the best one is better than its factors say. */
  readonly advantage: number
  readonly healthBase: number
  readonly healthSlope: number
  readonly headroomBase: number
  readonly headroomSlope: number
  readonly loadBase: number
  readonly loadSlope: number
  readonly costBase: number
  readonly costSlope: number
  /** The most that headroom and cost can make of the rest. */
  readonly others: number
}

const boundsOf = ({ cheapest, weights }: Scale, best: Factors, advantage: number): Bounds => {
  const headroomSlope = weights.headroom / best.headroom
  const healthSlope = weights.health / best.health / 100
  const share = (1 - rounding) / advantage
  return {
    advantage,
    healthBase: 1 - weights.health + healthSlope * 100 * least,
    healthSlope,
    headroomBase: 1 - weights.headroom + headroomSlope * least,
    headroomSlope,
    loadBase: (1 - weights.latency) * share,
    loadSlope: weights.latency * best.load * share,
    costBase: 1 - weights.cost,
    costSlope: weights.cost * best.cost,
    others: power((1 + least) / best.headroom, weights.headroom) * power(best.cost / cheapest, weights.cost)
  }
}

/**
 * Returns the next free candidate that would be better than the best one if it had all headroom and the lowest cost, -1
 * when there is none.
 *
 * It reads no more than two figures and calls nothing: this is where the time goes.
 */
const next = (
  { free, health, latency, pending }: Candidates,
  from: number,
  to: number,
  { quickest, timed }: Scale,
  bounds: Bounds
): number => {
  const { healthBase, healthSlope } = bounds
  // No free candidate has less of a load, whether it has answered or not.
  const unknown = Math.min(quickest, unknownMs)
  const base = bounds.loadBase * bounds.others
  const slope = bounds.loadSlope * bounds.others
  for (let index = from; index < to; index++) {
    const waiting = (pending[index] ?? 0) + 1
    const load = timed ? Math.max((latency[index] ?? 0) * waiting, unknown) : waiting
    // The form of the comparison is what engines are fast at.
    if ((healthBase + healthSlope * (health[index] ?? 0)) * (base * load + slope) - load <= 0) continue
    if (free[index] === 1) return index
  }
  return -1
}

const isRuledOut = (candidates: Candidates, scale: Scale, bounds: Bounds, index: number): boolean => {
  const load = loadOf(candidates, scale, index)
  const cost = costOf(candidates, scale, index)
  const bound = (bounds.healthBase + bounds.healthSlope * (candidates.health[index] ?? 0)) *
    (bounds.headroomBase + bounds.headroomSlope * (candidates.headroom[index] ?? 0)) *
    (bounds.loadBase * load + bounds.loadSlope) * (bounds.costBase * cost + bounds.costSlope)
  // What is no number, in a column that has no weight, is left to the exact comparison.
  return bound <= load * cost
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
