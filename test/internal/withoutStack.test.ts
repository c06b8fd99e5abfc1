import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import { withoutStack } from "../../src/internal/withoutStack.ts"

describe("withoutStack", () => {
  it("leaves out the frames of the error that is made, and no others", () => {
    const { stackTraceLimit } = Error
    const error = withoutStack(() => LLMError.make("rate_limit", { provider: "groq", reason: "rate_limit" }))
    assert.notInclude(error.stack ?? "", "    at ")
    assert.include(new Error("other").stack ?? "", "    at ")
    assert.strictEqual(Error.stackTraceLimit, stackTraceLimit)
  })

  it("throws what is thrown, and restores the limit then, too", () => {
    const { stackTraceLimit } = Error
    const wrong = new RangeError("wrong")
    assert.throws(() =>
      withoutStack(() => {
        throw wrong
      }), wrong)
    assert.strictEqual(Error.stackTraceLimit, stackTraceLimit)
  })
})
