/**
 * Rendezvous hashing: every candidate has a lot for each affinity, the highest one wins, so that a candidate that comes
 * or goes takes or leaves its own share of the affinities and moves no other.
 *
 * @internal
 */

/** @internal */
export interface Candidates {
  readonly free: Uint8Array
  readonly health: Float64Array
  readonly weight: Float64Array
  readonly hash: Uint32Array
}

/**
 * Returns a hash of 32 bits that is the same in every process.
 *
 * @internal
 */
export const hash = (text: string): number => {
  let state = 0x811c9dc5
  for (let index = 0; index < text.length; index++) state = Math.imul(state ^ text.charCodeAt(index), 0x01000193)
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
  return (state ^ (state >>> 16)) >>> 0
}

/**
 * Returns the free candidate that an affinity belongs to, -1 when none is free and healthy enough.
 *
 * @internal
 */
export const winner = (
  candidates: Candidates,
  from: number,
  to: number,
  affinity: string,
  minHealth: number
): number => {
  const seed = Math.imul(hash(affinity), 0x9e3779b1)
  const index = highest(candidates, from, to, seed, minHealth, false)
  return index >= 0 ? index : highest(candidates, from, to, seed, minHealth, true)
}

const lowest = -0x80000000

const known = new WeakMap<Float64Array, number>()

/** Weights never change. */
const heaviestOf = (weight: Float64Array): number => {
  const found = known.get(weight)
  if (found !== undefined) return found
  const heaviest = weight.reduce((most, share) => Math.max(most, share), 0)
  known.set(weight, heaviest)
  return heaviest
}

// The lot of a weight is weight / -ln(u), with u drawn from 0 to 1 by the hash. It is at most weight / (1 - u), and that
// is compared first: few candidates need a logarithm.
const highest = (
  { free, hash, health, weight }: Candidates,
  from: number,
  to: number,
  seed: number,
  minHealth: number,
  reserves: boolean
): number => {
  let chosen = -1
  let best = 0
  // Hashes below this have no chance, whatever the weight: nearly all are passed over by one comparison of integers.
  const heaviest = reserves ? 1 : heaviestOf(weight)
  let least = lowest
  for (let index = from; index < to; index++) {
    let mixed = Math.imul((hash[index] ?? 0) ^ seed, 0x85ebca6b)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35)
    if (mixed < least) continue
    // From 1 to 2 ** 32.
    const gap = 0x80000000 - mixed
    const share = reserves ? 1 : weight[index] ?? 0
    if (share <= best * gap || free[index] !== 1 || (health[index] ?? 0) < minHealth) continue
    const lot = share / -Math.log1p(-gap / 0x100000001) / 0x100000000
    if (lot > best) {
      best = lot
      chosen = index
      least = Math.max(lowest, Math.floor(0x80000000 - heaviest / best)) | 0
    }
  }
  return chosen
}
