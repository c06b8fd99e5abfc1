import { assert, describe, it } from "@effect/vitest"
import * as Quota from "../../../src/internal/providerServer/quota.ts"

const rules = Quota.decode({
  requests: { limit: 10, per: "1 second", burst: 2 },
  tokens: { limit: 1000, per: "10 seconds" },
  inputTokens: { limit: 800, per: "10 seconds" },
  outputTokens: { limit: 600, per: "10 seconds", burst: 300 },
  concurrency: 3
})

/** A state after requests that were admitted, all of them. */
const after = (rules: Quota.Rules, all: ReadonlyArray<readonly [tokens: Quota.Tokens, now: number]>): Quota.State =>
  all.reduce((state, [tokens, now]) => {
    const [next, refusal] = Quota.admit(rules, state, tokens, now, false)
    assert.isUndefined(refusal)
    return next
  }, Quota.initial(rules, 0))

const nothing = { input: 0, output: 0 }

const remaining = (rules: Quota.Rules, state: Quota.State, now: number): ReadonlyArray<number> =>
  Quota.read(rules, state, now).map((reading) => reading.remaining)

describe("decode", () => {
  it("has a line for each limit, full of its burst", () => {
    assert.deepStrictEqual(rules, {
      lines: [
        { dimension: "requests", limit: 10, per: 1000, burst: 2 },
        { dimension: "tokens", limit: 1000, per: 10_000, burst: 1000 },
        { dimension: "inputTokens", limit: 800, per: 10_000, burst: 800 },
        { dimension: "outputTokens", limit: 600, per: 10_000, burst: 300 }
      ],
      concurrency: 3
    })
    assert.deepStrictEqual(remaining(rules, Quota.initial(rules, 0), 0), [2, 1000, 800, 300])
    assert.deepStrictEqual(Quota.decode({}), { lines: [], concurrency: Number.POSITIVE_INFINITY })
  })

  const wrong: ReadonlyArray<readonly [field: string, limits: Quota.Limits]> = [
    ["requests.limit", { requests: { limit: 0, per: "1 second" } }],
    ["requests.limit", { requests: { limit: 1.5, per: "1 second" } }],
    ["tokens.per", { tokens: { limit: 1, per: 0 } }],
    ["tokens.burst", { tokens: { limit: 1, per: 1, burst: 0 } }],
    ["concurrency", { concurrency: 0 }]
  ]
  it("rejects what is no whole number above 0, and names the field", () => {
    for (const [field, limits] of wrong) assert.throws(() => Quota.decode(limits), RangeError, field)
  })
})

describe("admit", () => {
  it("takes from every line what a request costs there, or nothing", () => {
    const state = after(rules, [[{ input: 500, output: 100 }, 0]])
    assert.deepStrictEqual(remaining(rules, state, 0), [1, 400, 300, 200])
    assert.strictEqual(state.active, 1)
    const [same, refusal] = Quota.admit(rules, state, { input: 301, output: 0 }, 0, false)
    assert.deepStrictEqual(same, state)
    assert.isDefined(refusal)
  })

  const one = after(rules, [[{ input: 500, output: 100 }, 0]])
  const refusals: ReadonlyArray<
    readonly [rule: string, tokens: Quota.Tokens, refusal: Partial<Quota.Refusal> | undefined]
  > = [
    ["what fits exactly is admitted", { input: 300, output: 100 }, undefined],
    [
      "a refusal tells what is used, what is asked for and the wait, in whole milliseconds",
      { input: 301, output: 0 },
      { dimension: "inputTokens", limit: 800, per: 10_000, used: 500, requested: 301, wait: 13, tooLarge: false }
    ],
    [
      "of several lines the one with the longest wait binds",
      { input: 400, output: 100 },
      { dimension: "inputTokens", requested: 400, wait: 1250 }
    ],
    [
      "of lines with the same wait the first binds",
      { input: 380, output: 120 },
      { dimension: "tokens", requested: 500, wait: 1000 }
    ],
    [
      "what is larger than a burst fits at no time, and binds before all that needs a wait",
      { input: 350, output: 301 },
      { dimension: "outputTokens", used: 100, requested: 301, wait: undefined, tooLarge: true }
    ],
    [
      "of lines that never fit the first binds",
      { input: 801, output: 301 },
      { dimension: "tokens", requested: 1102, wait: undefined, tooLarge: true }
    ]
  ]
  for (const [rule, tokens, expected] of refusals) {
    it(rule, () => {
      const [, refusal] = Quota.admit(rules, one, tokens, 0, false)
      if (expected === undefined || refusal === undefined) assert.strictEqual(refusal, expected)
      else assert.deepInclude(refusal, expected)
    })
  }

  it("a stated wait is exact: a millisecond earlier the request is refused, then it is admitted", () => {
    const tokens = { input: 301, output: 0 }
    assert.isDefined(Quota.admit(rules, one, tokens, 12, false)[1])
    assert.isUndefined(Quota.admit(rules, one, tokens, 13, false)[1])
    assert.strictEqual(Quota.admit(rules, one, tokens, 7, false)[1]?.wait, 6)
  })

  it("what is used is told in whole units, of which one that has not come back wholly is used", () => {
    const [, refusal] = Quota.admit(rules, one, { input: 302, output: 0 }, 12, false)
    assert.deepInclude(refusal, { dimension: "inputTokens", used: 500 })
    const late = after(rules, [[nothing, 0], [nothing, 0]])
    assert.deepInclude(Quota.admit(rules, late, nothing, 50, false)[1], { dimension: "requests", used: 2, wait: 50 })
    const overdrawn = Quota.settle(rules, late, nothing, { input: 900, output: 0 }, 0)
    assert.deepInclude(Quota.admit(rules, overdrawn, { input: 1, output: 0 }, 100, false)[1], {
      dimension: "inputTokens",
      used: 892
    })
  })

  it("a full server says so, and does not know for how long", () => {
    const few = Quota.decode({ concurrency: 1, requests: { limit: 9, per: "1 second" } })
    const state = after(few, [[nothing, 0]])
    const [, refusal] = Quota.admit(few, state, nothing, 0, false)
    assert.deepStrictEqual(refusal, {
      dimension: "concurrency",
      limit: 1,
      per: 0,
      used: 1,
      requested: 1,
      wait: undefined,
      tooLarge: false
    })
    assert.isUndefined(Quota.admit(few, Quota.settle(few, state, nothing, nothing, 0), nothing, 0, false)[1])
  })

  it("a refusal costs a request where it counts, and never makes a debt", () => {
    const strict = Quota.decode({
      requests: { limit: 10, per: "1 second", burst: 2 },
      inputTokens: { limit: 5, per: 10 }
    })
    const state = Quota.initial(strict, 0)
    const large = { input: 6, output: 0 }
    const [counted] = Quota.admit(strict, state, large, 0, true)
    assert.deepStrictEqual(remaining(strict, counted, 0), [1, 5])
    const [hammered] = Quota.admit(strict, Quota.admit(strict, counted, large, 0, true)[0], large, 0, true)
    assert.deepStrictEqual(hammered.levels, [0, 50])
    const [kept] = Quota.admit(strict, hammered, large, 0, true)
    assert.deepStrictEqual(kept.levels, [0, 50])
    const [free] = Quota.admit(strict, state, large, 0, false)
    assert.deepStrictEqual(remaining(strict, free, 0), [2, 5])
  })
})

describe("time and settlement", () => {
  it("comes back evenly, up to the burst, and not while the clock goes back", () => {
    const state = after(rules, [[{ input: 500, output: 100 }, 1000]])
    assert.deepStrictEqual(remaining(rules, state, 1050), [1, 405, 304, 203])
    assert.deepStrictEqual(remaining(rules, state, 500), [1, 400, 300, 200])
    assert.deepStrictEqual(remaining(rules, state, 60_000), [2, 1000, 800, 300])
  })

  it("a reading tells what is left in whole units, and when all of it is back", () => {
    const state = after(rules, [[{ input: 501, output: 0 }, 0]])
    assert.deepStrictEqual(Quota.read(rules, state, 3)[2], {
      dimension: "inputTokens",
      limit: 800,
      per: 10_000,
      remaining: 299,
      // 501 × 10 000 ÷ 800 = 6262.5, less 3.
      reset: 6260
    })
  })

  it("settling frees the slot and replaces what was reserved by what was used, which may be more", () => {
    const state = after(rules, [[{ input: 500, output: 100 }, 0]])
    const less = Quota.settle(rules, state, { input: 500, output: 100 }, { input: 500, output: 40 }, 0)
    assert.deepStrictEqual([less.active, remaining(rules, less, 0)], [0, [1, 460, 300, 260]])
    const more = Quota.settle(rules, state, { input: 500, output: 100 }, { input: 500, output: 700 }, 0)
    assert.deepStrictEqual(remaining(rules, more, 0), [1, 0, 300, 0])
    const all = Quota.settle(rules, state, { input: 900, output: 100 }, nothing, 0)
    assert.deepStrictEqual(remaining(rules, all, 0), [1, 1000, 800, 300])
  })
})
