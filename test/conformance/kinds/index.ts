/**
 * The kinds of vectors that we run, and why we do not run others.
 */
import type { Runner } from "../kind.ts"
import * as Adaptive from "./adaptive.ts"
import { backoff } from "./backoff.ts"
import * as Bucket from "./bucket.ts"
import * as Budget from "./budget.ts"
import * as Circuit from "./circuit.ts"
import { configValidation } from "./configValidation.ts"
import * as Health from "./health.ts"
import * as Hedging from "./hedging.ts"
import * as Limiter from "./limiter.ts"
import { property } from "./property.ts"
import * as Queue from "./queue.ts"
import * as RetryAfter from "./retryAfter.ts"
import * as Timeout from "./timeout.ts"
import * as Window from "./window.ts"

export const runners: Readonly<Record<string, Runner>> = {
  backoff,
  "config-validation": configValidation,
  property,
  breaker: Circuit.breaker,
  window: Circuit.window,
  "trip-predicate": Circuit.tripPredicate,
  "retry-after-hint": Circuit.retryAfterHint,
  "gradual-recovery": Circuit.gradualRecovery,
  "retry-after": RetryAfter.retryAfter,
  "retry-status": RetryAfter.retryStatus,
  "reset-duration": RetryAfter.resetDuration,
  "timeout-retry": Timeout.timeoutRetry,
  "timeout-fallback": Timeout.timeoutFallback,
  "timeout-cancel": Timeout.timeoutCancel,
  "timeout-cooperative": Timeout.timeoutCooperative,
  "timeout-uninterruptible": Timeout.timeoutUninterruptible,
  "stream-idle": Timeout.streamIdle,
  "stream-timeout-typed": Timeout.streamTimeoutTyped,
  "timeout-hedge": Hedging.timeoutHedge,
  hedge: Hedging.hedge,
  "hedge-stream": Hedging.hedgeStream,
  "hedge-result": Hedging.hedgeResult,
  "hedge-eligibility": Hedging.hedgeEligibility,
  "hedge-percentile": Hedging.hedgePercentile,
  "hedge-budget": Hedging.hedgeBudget,
  "hedge-budget-load": Hedging.hedgeBudgetLoad,
  "hedge-timeout": Hedging.hedgeTimeout,
  "hedge-accounting": Hedging.hedgeAccounting,
  reserve: Limiter.reserve,
  "queue-bucket": Limiter.queueBucket,
  bulkhead: Queue.bulkhead,
  priority: Queue.priority,
  weights: Queue.weights,
  reservoir: Queue.reservoir,
  expiration: Queue.expiration,
  aging: Queue.ageing,
  partitioned: Queue.partitioned,
  race: Queue.race,
  resize: Queue.resize,
  gcra: Bucket.gcra,
  "multi-bucket": Bucket.multiBucket,
  "bursty-period": Bucket.burstyPeriod,
  cycle: Bucket.burstyPeriod,
  "smooth-aligned": Bucket.smoothAligned,
  "pay-later": Bucket.payLater,
  "sliding-window": Window.slidingWindow,
  "window-settle": Window.windowSettle,
  aimd: Adaptive.aimd,
  "llm-aimd": Adaptive.llmAimd,
  "sre-throttle": Adaptive.sreThrottle,
  "sre-k": Adaptive.sreK,
  "envoy-admission": Adaptive.envoyAdmission,
  "queue-rejection": Adaptive.queueRejection,
  "max-limit": Adaptive.maxLimit,
  "effect-counterexample": Adaptive.effectCounterexample,
  quota: Budget.quota,
  "grpc-throttle": Budget.grpcThrottle,
  "ttl-budget": Budget.ttlBudget,
  "concurrent-budget": Budget.concurrentBudget,
  "envoy-budget": Budget.envoyBudget,
  classification: Budget.classification,
  "ejection-time": Health.ejectionTime,
  "ejection-multiplier": Health.ejectionMultiplier,
  "max-ejection": Health.maxEjection,
  "policy-combination": Health.policyCombination,
  "failure-accrual": Health.failureAccrual,
  "time-ewma": Health.timeEwma,
  "peak-ewma": Health.peakEwma,
  p2c: Health.p2c
}

const latency = "by design: how long an answer takes is decided by its length, so latency is no sign of load"
const cubic = "by design: the curve is in absolute seconds and requests a second, far from quotas of three a minute"

const allFor = (reason: string, ...kinds: ReadonlyArray<string>): Readonly<Record<string, string>> =>
  Object.fromEntries(kinds.map((kind) => [kind, reason]))

/** Why a kind is left out; a kind that is not named here is not known to us. */
export const reasons: Readonly<Record<string, string>> = {
  pushback: "by design: a signal of gRPC, which no provider of language models speaks to us",
  "deadline-shed": "by design: the deadline is in this process, so no skew between hosts needs an allowance",
  "warming-up": "by design: after a pause the rate resumes from an empty bucket, there is no ramp of Guava's shape",
  "aligned-initial": "by design: a calendar quota begins full and is lowered by what the provider states",
  "weighted-window": "by design: an estimate for shared stores; in the process the sliding log is exact",
  "fixed-window-sequence": "by design: fixed windows admit twice the limit around a boundary; the sliding log does not",
  lifo: "by design: first come first served, and refused when the wait would be too long",
  ...allFor(latency, "vegas", "gradient"),
  ...allFor(cubic, "cubic", "cubic-success"),
  "opening-attempts": "a kind of which we know no vector; openings in a row are covered by sequences of open times",
  note: "a remark, nothing to run",
  panic: "by design: when all targets are left out, one call at a time goes to the one that recovers first",
  "success-rate-outlier": "by design: small pools at low rates have no statistics; each target has its own circuit",
  "failure-accrual-ema": "by design: rates are over time; one over a number of requests never forgets",
  minimums: "by design: minimums of statistics over many hosts, which pools of targets do not reach",
  llm: "no vector of this kind is known to us"
}
