import { assert, describe, it } from "@effect/vitest"
import * as Rendezvous from "../../../src/internal/selection/rendezvous.ts"

const candidatesOf = (
  weights: ReadonlyArray<number>,
  changes: Partial<Rendezvous.Candidates> = {}
): Rendezvous.Candidates => ({
  free: new Uint8Array(weights.length).fill(1),
  health: new Float64Array(weights.length).fill(100),
  weight: Float64Array.from(weights),
  hash: Uint32Array.from(weights, (_, index) => Rendezvous.hash(`target-${index}`)),
  ...changes
})

const winners = (candidates: Rendezvous.Candidates, sessions: number): ReadonlyArray<number> =>
  Array.from(
    { length: sessions },
    (_, session) => Rendezvous.winner(candidates, 0, candidates.hash.length, `session-${session}`, 0)
  )

describe("an affinity", () => {
  it("belongs to the same candidate in every process and every release", () => {
    const even = [5, 6, 3, 1, 0, 3, 7, 5, 4, 3, 6, 0, 4, 7, 3, 6, 0, 5, 4, 3, 6, 1, 7, 4, 4, 3, 4, 7, 0, 7, 7, 6]
    assert.deepStrictEqual(winners(candidatesOf([1, 1, 1, 1, 1, 1, 1, 1]), 32), even)
    const weighted = [0, 6, 3, 1, 0, 3, 0, 5, 0, 3, 3, 0, 4, 7, 3, 0, 0, 5, 4, 0, 1, 1, 7, 4, 4, 3, 0, 0, 0, 0, 7, 6]
    assert.deepStrictEqual(winners(candidatesOf([4, 1, 0, 1, 2, 1, 0.5, 1]), 32), weighted)
    // Those without a weight are there for when there is nobody else, and then alike.
    assert.deepStrictEqual(winners(candidatesOf([0, 0, 0, 0, 0, 0, 0, 0]), 32), even)
  })

  it("falls to candidates by their weights", () => {
    const counts = [0, 0, 0, 0]
    for (const index of winners(candidatesOf([5, 3, 2, 0]), 4000)) counts[index] = (counts[index] ?? 0) + 1
    for (const [index, share] of [0.5, 0.3, 0.2, 0].entries()) assert.closeTo((counts[index] ?? 0) / 4000, share, 0.03)
  })

  it("falls only to who is free, healthy enough and within the bounds", () => {
    const free = Uint8Array.of(0, 1, 1, 1)
    const health = Float64Array.of(100, 49, 50, 100)
    const candidates = candidatesOf([9, 9, 1, 9], { free, health })
    const winner = (from: number, to: number, minHealth: number): number =>
      Rendezvous.winner(candidates, from, to, "any", minHealth)
    assert.deepStrictEqual([winner(0, 3, 50), winner(0, 2, 50), winner(0, 1, 0), winner(2, 2, 0)], [2, -1, -1, -1])
    assert.strictEqual(winner(0, 2, 49), 1)
    assert.strictEqual(winner(3, 4, 50), 3)
    assert.strictEqual(Rendezvous.winner(candidatesOf([0, 0], { health: Float64Array.of(1, 2) }), 0, 2, "any", 2), 1)
  })
})

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
