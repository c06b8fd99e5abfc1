import { assert, describe, it } from "@effect/vitest"
import { type LLMError, Target } from "breakwater"
import { Response } from "effect/ai"
import type { Spent } from "../../../src/internal/call/call.ts"
import * as Completions from "../../../src/internal/call/completion.ts"

const priced = (price?: Target.Price): Target.Target => Target.make({ provider: "acme", model: "m", price })

const reported = (input?: number, output?: number, cacheRead?: number): Spent => ({
  _tag: "Reported",
  usage: new Response.Usage({
    inputTokens: { total: input, uncached: undefined, cacheRead, cacheWrite: undefined },
    outputTokens: { total: output, text: output, reasoning: undefined }
  })
})

const price: Target.Price = { input: 3, output: 15 }

describe("cost", () => {
  const table: ReadonlyArray<readonly [string, Target.Price | undefined, Spent, number | undefined]> = [
    ["is input and output by their prices", price, reported(1000, 100), 0.0045],
    ["has what was cached at its own price", { ...price, cachedInput: 0.3 }, reported(1000, 100, 600), 0.002_88],
    ["has it at the full price where it has none", price, reported(1000, 100, 600), 0.0045],
    ["has no more cached than there was", { ...price, cachedInput: 0 }, reported(1000, 0, 5000), 0],
    ["is unknown without a price", undefined, reported(1000, 100), undefined],
    ["is unknown without input", price, reported(undefined, 100), undefined],
    ["is unknown without output", price, reported(1000), undefined],
    ["is that of what the caller tells", price, { _tag: "Told", usage: { input: 1000, output: 100 } }, 0.0045],
    ["is unknown when the caller does not know", price, { _tag: "Told", usage: "unknown" }, undefined],
    ["is nothing for what was not sent", price, { _tag: "Told", usage: "nothing-sent" }, 0]
  ]
  for (const [rule, of, spent, expected] of table) {
    it(rule, () => {
      const cost = Completions.cost(priced(of), spent)
      if (expected === undefined) assert.isUndefined(cost)
      else assert.closeTo(cost ?? Number.NaN, expected, 1e-12)
    })
  }
})

describe("total", () => {
  const attempt = (fields: Partial<LLMError.Attempt>): LLMError.Attempt => ({
    target: "acme/m",
    provider: "acme",
    model: "m",
    chosen: "first",
    startedMs: 0,
    waitedMs: 0,
    durationMs: 0,
    outcome: "success",
    maybeBilled: true,
    skipped: [],
    ...fields
  })
  const answer = attempt({ cost: 2 })
  const unsent = attempt({ outcome: "failure", maybeBilled: false })
  const lost = attempt({ outcome: "failure" })
  const cancelled = attempt({ outcome: "interrupted" })
  const table: ReadonlyArray<readonly [string, ReadonlyArray<LLMError.Attempt>, Completions.Total]> = [
    ["of nothing is nothing known", [], { cost: undefined, costAtLeast: false }],
    ["of an answer is exact", [answer], { cost: 2, costAtLeast: false }],
    ["is exact after what was not billed", [unsent, unsent, answer], { cost: 2, costAtLeast: false }],
    ["is at least that after what may have been billed (T33)", [lost, answer], { cost: 2, costAtLeast: true }],
    ["is at least that after what was cancelled", [cancelled, answer], { cost: 2, costAtLeast: true }],
    ["of failures that were not billed is nothing known", [unsent], { cost: undefined, costAtLeast: false }],
    ["of a failure that may have been billed is at least anything", [lost], { cost: undefined, costAtLeast: true }],
    ["of an answer without a price is at least anything", [attempt({})], { cost: undefined, costAtLeast: true }]
  ]
  for (const [rule, attempts, expected] of table) {
    it(rule, () => {
      assert.deepStrictEqual(Completions.total(attempts), expected)
    })
  }
})
