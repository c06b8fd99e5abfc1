/**
 * What a response says of the wait: `Classifier.retryAfterMs`, `Classifier.isRetryableStatus`, the durations of reset
 * headers, and the decision of `Retry.waitMillis` on the wait.
 */
import { Classifier } from "breakwater"
import * as Retry from "breakwater/Retry"
import { Schema } from "effect"
import { parseDuration } from "../../../src/internal/retryAfter.ts"
import { type Checks, optionalNumber, optionalString, peers, pureKind, same, type Vector, within } from "../kind.ts"

const Headers = Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Array(Schema.String)]))

const RetryAfter = Schema.Struct({
  input: Schema.Struct({
    status: optionalNumber,
    nowMs: optionalNumber,
    headers: Headers,
    computedBackoffMs: optionalNumber,
    remainingMs: optionalNumber
  }),
  expect: Schema.Struct({
    decision: optionalString,
    hintMs: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Number, Schema.Literal("huge")])))
  })
})

type RetryAfter = (typeof RetryAfter)["Type"]

const headerOf = (headers: (typeof Headers)["Type"], wanted: string): string | undefined =>
  Object.entries(headers).find(([name]) => name.toLowerCase() === wanted)?.[1]?.toString()

const isRetried = (status: number, headers: (typeof Headers)["Type"]): boolean =>
  Classifier.isRetryableStatus(status, headerOf(headers, "x-should-retry"))

const decisionOf = ({ input }: RetryAfter, hint: number | undefined): string => {
  const { headers, remainingMs: remaining = Infinity, status = 429 } = input
  if (!isRetried(status, headers)) return "no-retry"
  if (hint === undefined) return "backoff"
  return Retry.waitMillis(Retry.makeRetryAfter(), { delay: 0, hint, remaining, random: 0 }) === undefined
    ? "too-long"
    : "wait"
}

/** Where a peer drops or cuts a wait, ours is never earlier than the wait or the backoff, or not begun at all. */
const notThePeers = ({ input }: RetryAfter, hint: number | undefined): Checks => {
  const delay = input.computedBackoffMs
  if (delay === undefined) throw peers
  const rule = Retry.makeRetryAfter()
  const wait = Retry.waitMillis(rule, { delay, hint, remaining: Infinity, random: 1 })
  if (hint === undefined) return same("wait", wait, delay)
  if (hint > rule.maxHintMillis) return same("wait", wait ?? null, null)
  const least = Math.max(delay, hint)
  return within("wait", wait ?? Number.NaN, {
    gte: least,
    lte: least + Math.min(hint * rule.jitter, rule.maxJitterMillis)
  })
}

export const retryAfter = pureKind(RetryAfter, (fields: RetryAfter, { adopt }: Vector) => {
  const { expect, input } = fields
  const hint = Classifier.retryAfterMs({ status: input.status ?? 429, headers: input.headers }, input.nowMs)
  if (adopt === "no") return notThePeers(fields, hint)
  return [
    ...(expect.hintMs === "huge"
      ? within("hint", hint ?? Number.NaN, { gt: 1e12 })
      : same("hint", hint ?? null, expect.hintMs, 1e-6)),
    ...same("decision", decisionOf(fields, hint), expect.decision)
  ]
})

export const retryStatus = pureKind(
  Schema.Struct({
    input: Schema.Struct({ status: Schema.Number, headers: Schema.optionalKey(Headers) }),
    expect: Schema.Struct({ retry: Schema.Boolean })
  }),
  ({ expect, input }) => same("retried", isRetried(input.status, input.headers ?? {}), expect.retry)
)

export const resetDuration = pureKind(
  Schema.Struct({
    input: Schema.Struct({ value: Schema.String }),
    expect: Schema.Struct({ ms: Schema.NullOr(Schema.Number) })
  }),
  ({ expect, input }) => same("duration", parseDuration(input.value) ?? null, expect.ms, 1e-6)
)
