import { assert, describe, it } from "@effect/vitest"
import { LLMError, Recovery } from "breakwater"
import { Duration } from "effect"

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}) =>
  LLMError.make(errorClass, { provider: "p", reason: "unknown", scope: "key", ...fields })

const row = (raised: LLMError.LLMError, recovery = Recovery.make()) => {
  const rule = Recovery.ruleFor(recovery, raised)
  return [
    rule.sameTarget,
    rule.otherTargets,
    Recovery.cooldownMillis(rule, raised),
    Recovery.cooldownScope(rule, raised)
  ]
}

describe("Recovery", () => {
  for (
    const [raised, expected] of [
      [error("rate_limit", { reason: "rate_limit" }), ["stated-wait", "at-once", 60_000, "key"]],
      [error("rate_limit", { retryAfter: Duration.seconds(7) }), ["stated-wait", "at-once", 7000, "key"]],
      [error("rate_limit", { retryAfter: Duration.millis(1) }), ["stated-wait", "at-once", 1000, "key"]],
      [error("rate_limit", { retryAfter: Duration.days(1) }), ["stated-wait", "at-once", 3_600_000, "key"]],
      [error("rate_limit", { retryAfter: Duration.zero }), ["stated-wait", "at-once", 60_000, "key"]],
      [error("rate_limit", { reason: "insufficient_quota" }), ["never", "at-once", 3_600_000, "group"]],
      [
        error("rate_limit", { reason: "insufficient_quota", retryAfter: Duration.seconds(1) }),
        ["never", "at-once", 3_600_000, "group"]
      ],
      [error("timeout", { reason: "attempt", scope: "provider" }), ["never", "at-once", 10_000, "target"]],
      [error("timeout", { reason: "deadline", scope: "request" }), ["never", "never", 0, "request"]],
      [error("server_error", { reason: "overloaded" }), ["backoff", "after-retries", 0, "key"]],
      [error("server_error", { retryAfter: Duration.seconds(9) }), ["backoff", "after-retries", 9000, "key"]],
      [error("transient_network", { reason: "conn_reset" }), ["backoff", "after-retries", 0, "key"]],
      [error("authentication", { reason: "invalid_key" }), ["never", "at-once", 3_600_000, "key"]],
      [error("authentication", { reason: "insufficient_quota" }), ["never", "at-once", 3_600_000, "group"]],
      [error("permanent", { reason: "content_filter" }), ["never", "never", 0, "key"]],
      [error("permanent", { reason: "invalid_request", retryAfter: Duration.seconds(5) }), [
        "never",
        "never",
        0,
        "key"
      ]],
      [error("permanent", { reason: "context_length_exceeded" }), ["never", "larger-window", 0, "key"]],
      [error("permanent", { reason: "model_not_found", scope: "model" }), ["never", "at-once", 3_600_000, "model"]],
      [error("permanent", { reason: "request_exceeds_limit" }), ["never", "at-once", 0, "key"]],
      [error("unknown"), ["backoff", "after-retries", 0, "key"]]
    ] as const
  ) {
    const wait = raised.retryAfter === undefined ? "" : ` stating ${Duration.format(raised.retryAfter)}`
    it(`${raised.errorClass}/${raised.reason}${wait} leads to ${expected.join(", ")}`, () => {
      assert.deepStrictEqual(row(raised), [...expected])
    })
  }

  it("every class has a rule (T39)", () => {
    assert.deepStrictEqual(Object.keys(Recovery.defaults.classes).sort(), [...LLMError.ErrorClass.literals].sort())
  })

  it("another key of the same model comes first where the key is what was refused", () => {
    const { classes, reasons } = Recovery.defaults
    const preferring = [...Object.entries(classes), ...Object.entries(reasons)].flatMap(([name, rule]) =>
      rule.siblingsFirst ? [name] : []
    )
    assert.deepStrictEqual(preferring.sort(), ["authentication", "rate_limit"])
  })

  it("only failures of the provider's servers, of the network and of time count against a circuit", () => {
    const counting = Object.entries(Recovery.defaults.classes).flatMap(([name, rule]) =>
      rule.circuit === "failure" ? [name] : []
    )
    assert.deepStrictEqual(counting.sort(), ["server_error", "timeout", "transient_network", "unknown"])
    const { authentication, permanent, rate_limit } = Recovery.defaults.classes
    for (const { circuit } of [authentication, permanent, rate_limit]) assert.strictEqual(circuit, "ignored")
    assert.isTrue(Object.values(Recovery.defaults.reasons).every((rule) => rule?.circuit === "ignored"))
  })

  it("only unknown failures have a bounded number of retries of their own", () => {
    const { classes, reasons } = Recovery.defaults
    const retries = Object.fromEntries(Object.entries(classes).map(([name, rule]) => [name, rule.retries]))
    assert.deepStrictEqual(retries, {
      rate_limit: 0,
      timeout: 0,
      server_error: Number.POSITIVE_INFINITY,
      transient_network: Number.POSITIVE_INFINITY,
      authentication: 0,
      permanent: 0,
      unknown: 1
    })
    assert.isTrue(Object.values(reasons).every((rule) => rule?.retries === 0))
  })

  it("a change touches its cell alone", () => {
    const recovery = Recovery.make({ reasons: { content_filter: { otherTargets: "at-once" } } })
    assert.deepStrictEqual(row(error("permanent", { reason: "content_filter" }), recovery), [
      "never",
      "at-once",
      0,
      "key"
    ])
    assert.deepStrictEqual(row(error("permanent", { reason: "invalid_request" }), recovery), [
      "never",
      "never",
      0,
      "key"
    ])
    assert.deepStrictEqual(recovery.classes, Recovery.defaults.classes)
  })

  it("a change that is left open changes nothing", () => {
    // As from programs without types.
    const open: Partial<Record<string, never>> = Object.fromEntries(
      ["timeout", "retries", "cooldown"].map((name) => [name, undefined])
    )
    assert.deepStrictEqual(Recovery.make({ classes: open, reasons: undefined }), Recovery.defaults)
    assert.deepInclude(Recovery.make({ classes: { timeout: open } }).classes.timeout, Recovery.defaults.classes.timeout)
  })

  it("a cooldown may be written in any form, and is kept as a duration", () => {
    const { classes } = Recovery.make({ classes: { timeout: { cooldown: "30 seconds" } } })
    assert.deepStrictEqual(classes, {
      ...Recovery.defaults.classes,
      timeout: { ...Recovery.defaults.classes.timeout, cooldown: Duration.seconds(30) }
    })
  })

  it("rejects what is no number of retries and no cooldown, and names the cell", () => {
    for (const retries of [-1, Number.NaN]) {
      assert.throws(() => Recovery.make({ classes: { timeout: { retries } } }), RangeError, "classes.timeout.retries")
    }
    assert.throws(
      () => Recovery.make({ reasons: { deadline: { cooldown: Duration.negate(Duration.seconds(1)) } } }),
      RangeError,
      "reasons.deadline.cooldown"
    )
    assert.strictEqual(Recovery.make({ classes: { timeout: { retries: 0 } } }).classes.timeout.retries, 0)
  })
})
