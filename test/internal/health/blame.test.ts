import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as Blame from "../../../src/internal/health/blame.ts"

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", scope: "target", ...fields })

describe("an error", () => {
  const table: ReadonlyArray<readonly [name: string, error: LLMError.LLMError, evidence: boolean, heals: boolean]> = [
    ["of the provider's servers", error("server_error"), true, true],
    ["of the network", error("transient_network"), true, true],
    ["of nobody knows what", error("unknown"), true, true],
    ["of a rate", error("rate_limit"), true, true],
    ["of time", error("timeout", { reason: "attempt" }), true, true],
    ["of a quota that is spent", error("rate_limit", { reason: "insufficient_quota" }), true, false],
    ["of a bill that is not paid", error("rate_limit", { reason: "billing_disabled" }), true, false],
    ["of a key", error("authentication"), true, false],
    ["of what will never work", error("permanent"), false, false],
    ["of the request", error("server_error", { scope: "request" }), false, false],
    ["of a caller who went", error("transient_network", { reason: "client_abort" }), false, false],
    ["of a caller's deadline", error("timeout", { reason: "deadline" }), false, false],
    ["of a policy of ours", error("rate_limit", { origin: "limiter" }), false, false]
  ]
  for (const [name, error, evidence, heals] of table) {
    it(`${name} is ${evidence ? "" : "no "}evidence, and another attempt ${heals ? "may" : "cannot"} heal it`, () => {
      assert.deepStrictEqual([Blame.isEvidence(error), Blame.mayHeal(error)], [evidence, heals])
    })
  }
})
