import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as History from "../../../src/internal/circuit/history.ts"

describe("a history", () => {
  it("tells every kind of outcome as it was added, times to the nearest millisecond", () => {
    const results: ReadonlyArray<History.Result> = ["success", "ignored", ...LLMError.ErrorClass.literals, "defect"]
    const history = History.make(20)
    for (const [at, result] of results.entries()) History.add(history, at, result, 1000 * at + 0.5)
    assert.deepStrictEqual(
      History.entries(history),
      results.map((result, at) => ({ at, result, durationMs: 1000 * at + 1 }))
    )
  })

  it("keeps the latest, oldest first, and nothing of what was before it was cleared", () => {
    const history = History.make(3)
    const times = (): ReadonlyArray<number> => History.entries(history).map(({ at }) => at)
    assert.deepStrictEqual(times(), [])
    for (let at = 1; at <= 3; at++) History.add(history, at, "success", 1)
    assert.deepStrictEqual(times(), [1, 2, 3])
    for (let at = 4; at <= 5; at++) History.add(history, at, "success", 1)
    assert.deepStrictEqual(times(), [3, 4, 5])
    History.clear(history)
    assert.deepStrictEqual(times(), [])
    History.add(history, 9, "timeout", 2)
    assert.deepStrictEqual(History.entries(history), [{ at: 9, result: "timeout", durationMs: 2 }])
  })
})
