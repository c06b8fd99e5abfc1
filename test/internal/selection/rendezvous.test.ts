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
