import { assert, describe, it } from "@effect/vitest"
import * as Rendezvous from "../../../src/internal/selection/rendezvous.ts"

/** A generator of the same numbers every time. */
const seeded = (seed: number): () => number => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const pool = (weights: ReadonlyArray<number>, random: () => number): Rendezvous.Candidates => ({
  free: Uint8Array.from(weights, () => random() < 0.8 ? 1 : 0),
  health: new Float64Array(weights.length).fill(100),
  weight: Float64Array.from(weights),
  hash: Uint32Array.from(weights, (_, index) => Rendezvous.hash(`target-${index}`))
})

/** The lot of every candidate, drawn by the same hash, and the highest one. */
const highestLot = ({ free, hash, weight }: Rendezvous.Candidates, affinity: string): number => {
  const seed = Math.imul(Rendezvous.hash(affinity), 0x9e3779b1)
  let chosen = -1
  let best = 0
  for (let index = 0; index < hash.length; index++) {
    let mixed = Math.imul((hash[index] ?? 0) ^ seed, 0x85ebca6b)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35)
    const lot = (weight[index] ?? 0) / -Math.log1p(-(0x80000000 - mixed) / 0x100000001)
    if (free[index] === 1 && lot > best) {
      best = lot
      chosen = index
    }
  }
  return chosen
}

describe("Rendezvous.winner", () => {
  const random = seeded(5)
  const pools: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
    ["equal weights", Array.from({ length: 200 }, () => 1)],
    ["weights of all sizes", Array.from({ length: 200 }, () => 10 ** (12 * random() - 6))],
    ["one that is far heavier", [1e-9, 1e-9, 1e9, 1e-9]],
    ["one that is far heavier, and not free", [1e9, ...Array.from({ length: 50 }, (_, n) => n / 7)]],
    ["fractions", Array.from({ length: 60 }, () => random())]
  ]
  for (const [name, weights] of pools) {
    it(`is the highest of all lots: ${name}`, () => {
      for (let turn = 0; turn < 400; turn++) {
        const candidates = pool(weights, random)
        const affinity = `session-${turn}`
        const expected = highestLot(candidates, affinity)
        assert.strictEqual(Rendezvous.winner(candidates, 0, weights.length, affinity, 0), expected)
      }
    })
  }

  it("spreads affinities in proportion to the weights", () => {
    const candidates = pool([1, 2, 5], () => 0)
    const counts = [0, 0, 0]
    for (let turn = 0; turn < 8000; turn++) {
      const winner = Rendezvous.winner(candidates, 0, 3, `session-${turn}`, 0)
      counts[winner] = (counts[winner] ?? 0) + 1
    }
    const expected = [1000, 2000, 5000]
    counts.forEach((count, index) => assert.closeTo(count, expected[index] ?? 0, 150))
  })
})
