import { Selection, Target } from "breakwater"
import { Effect } from "effect"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

/** A generator of the same numbers every time. */
const seeded = (seed: number): () => number => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const prices = [0.1, 0.5, 1, 2.5, 5, 15]

/** Targets as they are under load: one in ten may not be tried, a share of them has never answered. */
const candidates = (count: number, unknown: number): ReadonlyArray<Selection.CandidateOptions> => {
  const random = seeded(1)
  return Array.from({ length: count }, (_, index) => {
    const price = prices[index % prices.length] ?? 1
    return {
      target: Target.make({ provider: "p", model: `m-${index}`, price: { input: price, output: 4 * price } }),
      free: random() >= 0.1,
      health: 60 + 40 * random(),
      latencyMs: random() < unknown ? 0 : 300 + 2000 * random(),
      perTokenMs: 5 + 20 * random(),
      pending: Math.floor(5 * random()),
      headroom: random()
    }
  })
}

const constant = [Selection.ordered, Selection.powerOfTwo]

const everyScore = [
  Selection.healthiest,
  Selection.mostHeadroom,
  Selection.cheapest,
  Selection.lowestLatency,
  Selection.leastBusy,
  Selection.weighted,
  Selection.score()
]

const own = Selection.byScore("own", ({ health, latencyMs = 300, pending }) => health / (latencyMs * (pending + 1)))

const subjects = (count: number): ReadonlyArray<Harness.Subject> => {
  const random = seeded(2)
  const all = candidates(count, 0)
  const plain = Selection.snapshot(all, { start: count >> 1 })
  const partly = Selection.snapshot(candidates(count, 0.05))
  const tied = Selection.snapshot(all, { affinity: "session-1" })
  const subject = (name: string, strategy: Selection.Strategy, snapshot: Selection.Snapshot, limit?: number) =>
    Subjects.fromFunction(name, () => strategy.pick(snapshot, 0, count, random), {
      budgets: limit === undefined || count < 10_000 ? [] : [Harness.micros(limit)]
    })
  return [
    ...constant.map((strategy) => subject(strategy.name, strategy, plain, 1)),
    subject("tiers(powerOfTwo)", Selection.tiers(Selection.powerOfTwo), plain, 1),
    ...everyScore.map((strategy) => subject(strategy.name, strategy, plain, 20)),
    subject("score, one in twenty has never answered", Selection.score(), partly),
    subject("score, with an affinity", Selection.score(), tied),
    subject("sticky(powerOfTwo), with an affinity", Selection.sticky(Selection.powerOfTwo), tied, 20),
    subject("byScore", own, plain)
  ]
}

export const groups = [10, 100, 1000, 10_000].map((count): Harness.Group => ({
  name: `selection among ${count} targets`,
  subjects: Effect.sync(() => subjects(count))
}))
