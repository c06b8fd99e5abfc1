import { assert, describe, it } from "@effect/vitest"
import * as Acceptance from "../../../src/internal/budget/acceptance.ts"
import { throttleProbability } from "../../../src/internal/limiter/learning.ts"

const options: Acceptance.Options = {
  multiplier: 1.5,
  maxProbability: 0.9,
  minRequests: 3,
  windowMs: 60_000,
  graceMs: 15_000
}

/** Numbers in [0, 1) that are the same in every run. */
const randoms = (seed: number) => (): number => {
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed / 2147483648
}

interface Sent {
  readonly startedAt: number
  readonly sent: boolean
  outcome: "accepted" | "refused" | "neutral" | undefined
}

// Time is counted in slots of a fifteenth of the grace; a request is young for sixteen of them.
const slotOf = (time: number): number => Math.floor(time / 1000)

const expected = (all: ReadonlyArray<Sent>, now: number): number => {
  let requests = 0
  let accepts = 0
  let young = 0
  for (const { outcome, sent, startedAt } of all) {
    const weight = Math.exp((startedAt - now) / options.windowMs)
    if (outcome !== "neutral") requests += weight
    if (outcome === "accepted") accepts += weight
    if (outcome === undefined && sent && slotOf(now) - slotOf(startedAt) < 16) young++
  }
  return throttleProbability(requests, accepts + young, options)
}

describe("the probability of a refusal", () => {
  for (const seed of [1, 2, 3]) {
    it(`is that of all requests by their age, those in flight taken for served while they are young (${seed})`, () => {
      const random = randoms(seed)
      let now = 1_000_000 + seed * 337
      const state = Acceptance.make(options, now)
      const all: Array<Sent> = []
      let positive = 0
      for (let event = 0; event < 200; event++) {
        // Some pauses are no time at all, as the first one is, some longer than the grace.
        now += event === 0 || random() < 0.2 ? 0 : random() < 0.05 ? 40_000 * random() : 3000 * random()
        const flying = all.filter(({ outcome, sent }) => sent && outcome === undefined)
        const ending = flying[Math.floor(random() * flying.length)]
        if (ending === undefined || random() < 0.5) {
          const sent = random() < 0.8
          Acceptance.start(options, state, now)
          if (sent) Acceptance.send(state)
          all.push({ startedAt: now, sent, outcome: undefined })
        } else {
          ending.outcome = random() < 0.3 ? "accepted" : random() < 0.8 ? "refused" : "neutral"
          Acceptance.end(options, state, ending.startedAt, ending.outcome, now)
        }
        const later = now + (random() < 0.5 ? 0 : 20_000 * random())
        const probability = Acceptance.probability(options, state, later)
        assert.closeTo(probability, expected(all, later), 1e-9)
        if (probability > 0 && probability < options.maxProbability) positive++
      }
      assert.isAbove(positive, 10)
    })
  }

  it("stands still while the clock goes back", () => {
    const state = Acceptance.make(options, 40_000)
    for (let call = 0; call < 10; call++) Acceptance.start(options, state, 40_000)
    Acceptance.end(options, state, 40_000, "refused", 100_000)
    Acceptance.start(options, state, 40_000)
    const requests = 10 / Math.E + 1
    const before = Acceptance.probability(options, state, 100_000)
    assert.closeTo(before, requests / (requests + 1), 1e-12)
    assert.strictEqual(Acceptance.probability(options, state, 50_000), before)
    Acceptance.start(options, state, 50_000)
    Acceptance.end(options, state, 100_000, "neutral", 50_000)
    assert.strictEqual(Acceptance.probability(options, state, 100_000), before)
  })

  it("takes no request for young that is as old as sixteen slots, nor for another one of the same place", () => {
    const probability = (state: Acceptance.State, now: number): number =>
      Math.round((state.requests + 1) * Acceptance.probability({ ...options, windowMs: 1e15 }, state, now))
    const forever = { ...options, windowMs: 1e15 }
    const state = Acceptance.make(forever, 0)
    for (let call = 0; call < 10; call++) Acceptance.start(forever, state, 0)
    for (let call = 0; call < 4; call++) Acceptance.send(state)
    assert.strictEqual(probability(state, 15_999), 10 - 1.5 * 4)
    assert.strictEqual(probability(state, 16_000), 10)
    Acceptance.start(forever, state, 16_000)
    Acceptance.start(forever, state, 16_000)
    Acceptance.send(state)
    Acceptance.send(state)
    Acceptance.end(forever, state, 0, "refused", 16_000)
    assert.strictEqual(probability(state, 16_000), 12 - 1.5 * 2)
    // The place of the first slot is in use again.
    Acceptance.start(forever, state, 47_000)
    assert.strictEqual(probability(state, 47_000), 13)
  })

  it("does not count less than nothing, whatever has ended", () => {
    const state = Acceptance.make(options, 0)
    for (let call = 0; call < 10; call++) Acceptance.end(options, state, 0, "neutral", 0)
    for (let call = 0; call < 10; call++) Acceptance.end(options, state, 0, "refused", 0)
    assert.deepInclude(state, { requests: 0, accepts: 0 })
    for (let call = 0; call < 8; call++) Acceptance.start(options, state, 0)
    assert.closeTo(Acceptance.probability(options, state, 0), 8 / 9, 1e-12)
    Acceptance.send(state)
    assert.closeTo(Acceptance.probability(options, state, 0), 6.5 / 9, 1e-12)
  })
})
