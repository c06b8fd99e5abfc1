import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import { Duration, Effect, Schema } from "effect"

const classes: ReadonlyArray<LLMError.ErrorClass> = LLMError.ErrorClass.literals

describe("LLMError", () => {
  it("there are seven classes, each with its own tag", () => {
    const tags = classes.map((errorClass) => LLMError.make(errorClass, { provider: "p", reason: "unknown" })._tag)
    assert.deepStrictEqual(tags, [
      "TransientNetworkError",
      "RateLimitError",
      "TimeoutError",
      "ServerError",
      "AuthenticationError",
      "PermanentError",
      "UnknownError"
    ])
  })

  for (
    const [errorClass, reason, shouldRetry, expected] of [
      ["transient_network", "conn_reset", undefined, true],
      ["rate_limit", "rate_limit", undefined, true],
      ["rate_limit", "insufficient_quota", undefined, false],
      ["rate_limit", "insufficient_quota", true, false],
      ["rate_limit", "billing_disabled", undefined, false],
      ["timeout", "attempt", undefined, true],
      ["timeout", "deadline", undefined, false],
      ["server_error", "overloaded", undefined, true],
      ["server_error", "overloaded", false, false],
      ["authentication", "invalid_key", true, false],
      ["permanent", "invalid_request", true, false],
      ["unknown", "unknown", undefined, true],
      ["unknown", "client_abort", undefined, false]
    ] as const
  ) {
    it(`${errorClass} with reason ${reason} and x-should-retry ${shouldRetry} is retryable: ${expected}`, () => {
      assert.strictEqual(LLMError.make(errorClass, { provider: "p", reason, shouldRetry }).isRetryable, expected)
    })
  }

  it("a message names the target, the reason, the status, the wait and the provider's words", () => {
    const error = new LLMError.RateLimitError({
      provider: "groq",
      model: "m",
      target: "groq/m@k1",
      reason: "daily_quota",
      status: 429,
      retryAfter: Duration.seconds(90),
      detail: "Used 100 of 100"
    })
    assert.strictEqual(error.message, "groq/m@k1: rate limited (daily_quota, 429), retry after 1m 30s: Used 100 of 100")
  })

  it("an exhaustion counts what is free per provider and rounds the wait up", () => {
    const exhaustion = {
      targets: 3,
      providers: [{ provider: "groq", available: 0, total: 2 }, { provider: "openai", available: 1, total: 1 }],
      earliestMs: 899_001
    }
    const error = new LLMError.RateLimitError({ provider: "groq", reason: "rate_limit", exhaustion })
    assert.strictEqual(
      error.message,
      "rate limited on all 3 targets; earliest capacity in 15 m (groq 0/2, openai 1/1)"
    )
  })

  it.effect("an error survives a process boundary", () =>
    Effect.gen(function*() {
      const error = new LLMError.ServerError({
        provider: "openai",
        reason: "overloaded",
        status: 503,
        retryAfter: Duration.seconds(3),
        attempts: [{
          target: "openai/m",
          provider: "openai",
          model: "m",
          chosen: "first",
          startedMs: 0,
          waitedMs: 0,
          durationMs: 12,
          outcome: "failure",
          errorClass: "server_error",
          maybeBilled: true,
          skipped: [{ target: "groq/a", why: "cooldown", remainingMs: 10 }]
        }]
      })
      const codec = Schema.toCodecJson(LLMError.LLMError)
      const json = JSON.stringify(yield* Schema.encodeEffect(codec)(error))
      const back = yield* Schema.decodeUnknownEffect(codec)(JSON.parse(json))
      assert.strictEqual(back._tag, "ServerError")
      assert.deepStrictEqual(back.retryAfter, Duration.seconds(3))
      assert.deepStrictEqual(back.attempts, error.attempts)
    }))

  it("an update replaces what it names and keeps the rest", () => {
    const error = new LLMError.TimeoutError({ provider: "p", reason: "idle", detail: "d", maybeBilled: true })
    const updated = LLMError.update(error, { target: "p/m" })
    assert.deepStrictEqual(
      [updated._tag, updated.target, updated.reason, updated.detail, updated.maybeBilled],
      ["TimeoutError", "p/m", "idle", "d", true]
    )
  })

  it("the guard knows the seven and nothing else", () => {
    assert.isTrue(LLMError.isLLMError(LLMError.make("unknown", { provider: "p", reason: "unknown" })))
    for (const other of [undefined, null, {}, new Error("x"), { _tag: "RateLimitError" }]) {
      assert.isFalse(LLMError.isLLMError(other))
    }
  })
})
