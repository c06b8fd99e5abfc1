import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as Record from "../../../src/internal/health/record.ts"

const memory: Record.Memory = { memoryMs: 60_000, idleMemoryMs: 600_000, slowMs: 10_000, penaltyMs: 30_000 }

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", ...fields })

const down = error("server_error", { reason: "overloaded", status: 503 })

type Outcome = (Record.Success & { readonly error?: undefined }) | Record.Failure

const after = (...outcomes: ReadonlyArray<readonly [now: number, outcome: Outcome]>): Record.State => {
  const state = Record.make(memory, 0)
  for (const [now, outcome] of outcomes) {
    if (outcome.error === undefined) Record.recordSuccess(memory, state, outcome, now)
    else Record.recordFailure(memory, state, outcome, now)
  }
  return state
}

const figures = (state: Record.State, now = 0) => Record.figures(memory, state, now)

/** The middle of the bucket of a histogram that a duration lies in. */
const middle = (millis: number): number => 1.2 ** (Math.floor(Math.log(millis) / Math.log(1.2)) + 0.5)

describe("memory", () => {
  it("keeps a third after a short time, and fades slowly from there", () => {
    assert.deepStrictEqual([-5, 0].map((elapsed) => Record.kept(memory, elapsed)), [1, 1])
    assert.closeTo(Record.kept(memory, 1), Math.exp(-1 / 60_000), 1e-12)
    assert.closeTo(Record.kept(memory, 60_000), Math.exp(-1), 1e-12)
    assert.closeTo(Record.kept(memory, 360_000), Math.exp(-1.5), 1e-12)
  })

  it("is read as it is at the time, and written as it was", () => {
    const state = after([0, { durationMs: 100 }], [60_000, { error: down, durationMs: 100 }])
    const { failures, idleMs, successes } = Record.evidence(memory, state, 60_000)
    assert.closeTo(successes, Math.exp(-1), 1e-12)
    assert.deepStrictEqual([failures.server_error, idleMs], [1, 0])
    const later = Record.evidence(memory, state, 120_000)
    assert.closeTo(later.successes, Math.exp(-2), 1e-12)
    assert.closeTo(later.failures.server_error, Math.exp(-1), 1e-12)
    assert.closeTo(later.latencyWeight, Math.exp(-1) + Math.exp(-2), 1e-12)
    assert.strictEqual(later.idleMs, 60_000)
    assert.strictEqual(Record.evidence(memory, state, 0).idleMs, 0)
    const all = after(
      ...LLMError.ErrorClass.literals.map((name) => [0, { error: error(name), durationMs: 1 }] as const)
    )
    for (const kept of Object.values(Record.evidence(memory, all, 60_000).failures)) {
      assert.closeTo(kept, Math.exp(-1), 1e-12)
    }
  })

  it("forgets nothing when the clock goes back", () => {
    const state = after([60_000, { durationMs: 100 }], [0, { durationMs: 300 }])
    assert.deepInclude(figures(state, 60_000), { recentSuccesses: 2, latencyMs: 200 })
  })
})

describe("successes", () => {
  it("are counted, in a row and in all, with their time", () => {
    const state = after([0, { durationMs: 100 }], [0, { durationMs: 300 }], [0, { error: down, durationMs: 1 }], [
      5,
      { durationMs: 200 }
    ])
    assert.deepInclude(figures(state, 5), {
      consecutiveSuccesses: 1,
      consecutiveFailures: 0,
      successes: 3,
      failures: 1,
      requests: 4,
      lastSuccessAt: 5
    })
    assert.strictEqual(figures(after([0, { durationMs: 1 }], [0, { durationMs: 1 }])).consecutiveSuccesses, 2)
  })

  it("tell how long an answer takes, its first token, and the tokens after it", () => {
    const state = after(
      [0, { durationMs: 1000, firstTokenMs: 200, outputTokens: 80 }],
      [0, { durationMs: 3000, firstTokenMs: 400, outputTokens: 260 }],
      [0, { durationMs: 2000 }]
    )
    assert.deepInclude(figures(state), {
      latencyMs: 2000,
      latencyP50Ms: middle(2000),
      latencyP95Ms: middle(3000),
      latencyP99Ms: middle(3000),
      firstTokenMs: 300,
      firstTokenP50Ms: middle(200),
      firstTokenP95Ms: middle(400),
      firstTokenP99Ms: middle(400)
    })
    assert.strictEqual(Record.firstTokenAverage(state), 300)
    assert.closeTo(figures(state).tokensPerSecond ?? Number.NaN, 100, 1e-9)
    assert.closeTo(Record.perTokenAverage(state) ?? Number.NaN, 10, 1e-9)
  })

  it("are told by the median, and by what one in twenty and one in a hundred exceed", () => {
    const state = after(
      ...Array.from({ length: 40 }, (_, each) => [0, { durationMs: each < 38 ? 500 : 9000 }] as const)
    )
    assert.deepInclude(figures(state), {
      latencyP50Ms: middle(500),
      latencyP95Ms: middle(500),
      latencyP99Ms: middle(9000)
    })
  })

  it("in one piece have written their tokens all the time, and at once in a millisecond", () => {
    assert.strictEqual(figures(after([0, { durationMs: 2000, outputTokens: 100 }])).tokensPerSecond, 50)
    const atOnce = after([0, { durationMs: 500, firstTokenMs: 500, outputTokens: 100 }])
    assert.strictEqual(figures(atOnce).tokensPerSecond, 100_000)
    assert.strictEqual(Record.perTokenAverage(atOnce), 0.01)
    assert.isUndefined(Record.perTokenAverage(after([0, { durationMs: 500 }])))
  })

  it("are slow by their first token, or by the whole when they come in one piece", () => {
    const table: ReadonlyArray<readonly [outcome: Record.Success, slow: number]> = [
      [{ durationMs: 10_000 }, 0],
      [{ durationMs: 10_001 }, 1],
      [{ durationMs: 60_000, firstTokenMs: 10_000 }, 0],
      [{ durationMs: 60_000, firstTokenMs: 10_001 }, 1]
    ]
    for (const [outcome, slow] of table) assert.strictEqual(figures(after([0, outcome])).slow, slow)
  })

  it("have a peak, that of the first token where there is one", () => {
    assert.strictEqual(Record.peak(after([0, { durationMs: 900 }]), 0), 900)
    assert.strictEqual(Record.peak(after([0, { durationMs: 900, firstTokenMs: 80 }]), 0), 80)
  })
})

describe("failures", () => {
  const classes = LLMError.ErrorClass.literals

  it("are counted by class, in a row and in all, and the last one is remembered", () => {
    const state = after(...classes.map((name) => [0, { error: error(name), durationMs: 1 }] as const), [
      7,
      { error: down, durationMs: 1 }
    ])
    const expected = Object.fromEntries(classes.map((name) => [name, name === "server_error" ? 2 : 1]))
    const seen = figures(state, 7)
    assert.deepStrictEqual(seen.failuresByClass, expected)
    assert.deepInclude(seen, {
      consecutiveFailures: 8,
      consecutiveSuccesses: 0,
      failures: 8,
      requests: 8,
      rateLimited: 1,
      timeouts: 1,
      slow: 1,
      ignored: 0
    })
    assert.deepStrictEqual(seen.lastError, { errorClass: "server_error", reason: "overloaded", status: 503, at: 7 })
    const kept = Math.exp(-7 / 60_000)
    for (const name of classes) {
      assert.closeTo(seen.recentFailuresByClass[name], name === "server_error" ? 1 + kept : kept, 1e-12, name)
    }
    assert.closeTo(seen.recentFailures, 1 + 7 * kept, 1e-9)
  })

  it("make the rate that successes are the rest of; without outcomes there is none", () => {
    const success = [0, { durationMs: 1 }] as const
    const mixed = figures(after(success, success, success, [0, { error: down, durationMs: 1 }]))
    assert.deepInclude(mixed, { confidence: 4, successRate: 0.75, failureRate: 0.25 })
    assert.deepInclude(figures(after(success)), { confidence: 1, successRate: 1, failureRate: 0 })
    const blank = figures(after())
    assert.deepInclude(blank, { confidence: 0, requests: 0, idleMs: 0, peakMs: 0, since: 0 })
    assert.isUndefined(blank.successRate)
    assert.isUndefined(blank.failureRate)
    assert.isUndefined(blank.latencyMs)
    assert.isUndefined(blank.latencyP50Ms)
    assert.isUndefined(blank.firstTokenP50Ms)
  })

  const latencies: ReadonlyArray<
    readonly [rule: string, outcomes: ReadonlyArray<Outcome>, latencyMs: number, peakMs: number]
  > = [
    ["cost a fixed time while no success tells one", [{ error: down, durationMs: 10 }], 30_000, 30_000],
    ["cost their own time when it is longer", [{ error: down, durationMs: 40_000 }], 40_000, 40_000],
    [
      "cost five slow answers once those are known",
      [{ durationMs: 1000 }, { error: down, durationMs: 10 }],
      (1000 + 5 * middle(1000)) / 2,
      5 * middle(1000)
    ],
    [
      "never look better than what came before",
      [{ error: down, durationMs: 90_000 }, { error: down, durationMs: 10 }],
      90_000,
      90_000
    ]
  ]
  for (const [rule, outcomes, latencyMs, peakMs] of latencies) {
    it(rule, () => {
      const state = after(...outcomes.map((outcome) => [0, outcome] as const))
      assert.closeTo(figures(state).latencyMs ?? Number.NaN, latencyMs, 1e-6)
      assert.closeTo(Record.peak(state, 0), peakMs, 1e-6)
    })
  }

  const firstTokens: ReadonlyArray<
    readonly [rule: string, failure: Partial<Record.Failure>, firstTokenMs: number, peakMs: number]
  > = [
    ["before their first token cost five slow ones", {}, 5 * middle(100), 5 * middle(100)],
    ["after a long while cost that", { durationMs: 9000 }, 9000, 9000],
    ["after their first token cost what it took", { durationMs: 9000, firstTokenMs: 300 }, 300, 5 * middle(100)],
    ["after a quick first token do not look better than before", { firstTokenMs: 1 }, 100, 5 * middle(100)]
  ]
  for (const [rule, failure, firstTokenMs, peakMs] of firstTokens) {
    it(rule, () => {
      const state = after([0, { durationMs: 1000, firstTokenMs: 100 }], [0, {
        error: down,
        durationMs: 10,
        ...failure
      }])
      assert.closeTo(Record.firstTokenAverage(state) ?? Number.NaN, (100 + firstTokenMs) / 2, 1e-6)
      assert.closeTo(Record.peak(state, 0), peakMs, 1e-6)
    })
  }

  it("say nothing about first tokens where no answer had one, or none that is remembered", () => {
    const forgotten = after([0, { durationMs: 1000, firstTokenMs: 100 }], [1e12, { error: down, durationMs: 10 }])
    assert.isUndefined(Record.firstTokenAverage(forgotten))
    const state = after([0, { durationMs: 1000 }], [0, { error: down, durationMs: 10, firstTokenMs: 5 }])
    assert.isUndefined(Record.firstTokenAverage(state))
    assert.isUndefined(figures(state).firstTokenP95Ms)
  })
})

it("quantiles remember five times as long as averages", () => {
  for (const [now, median] of [[200_000, 1000], [215_000, 10]] as const) {
    // Two old samples weigh more than a new one for as long as ln 2 of their memory.
    const state = after([0, { durationMs: 1000 }], [0, { durationMs: 1000 }], [now, { durationMs: 10 }])
    assert.strictEqual(figures(state, now).latencyP50Ms, middle(median))
    assert.isBelow(figures(state, now).latencyMs ?? Number.NaN, 600)
  }
})
