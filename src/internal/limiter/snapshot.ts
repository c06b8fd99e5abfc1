/**
 * The figures of one scope, as plain data.
 *
 * @internal
 */
import * as Account from "./account.ts"
import * as Meter from "./meter.ts"
import type { Dimension } from "./observation.ts"

/** One limit. */
export interface LimitFigures {
  readonly dimension: Dimension
  readonly window: "continuous" | "sliding" | "calendar"
  /** Length of the window; 0 for slots. */
  readonly windowMs: number
  /** The limit in force. */
  readonly limit: number
  /** The limit as configured; `undefined` when it was learned only. */
  readonly configured: number | undefined
  /** Whether what a provider said has lowered or made the limit. */
  readonly learned: boolean
  /** What may be used now. */
  readonly remaining: number
  /** Share of what may be used at once that is used, above 1 in debt. */
  readonly utilisation: number
  /** What was used beyond what there was. */
  readonly debt: number
  /** Time until nothing is used any more. */
  readonly resetMs: number
  /** Time for which nothing passes because a provider asked for it. */
  readonly blockedMs: number
}

/** All figures of one scope. */
export interface Snapshot {
  readonly key: string
  readonly limits: ReadonlyArray<LimitFigures>
  /** The highest utilisation among the limits. */
  readonly utilisation: number
  readonly inFlight: number
  readonly peakInFlight: number
  readonly waiting: number
  readonly peakWaiting: number
  readonly waitingByPriority: {
    readonly emergency: number
    readonly high: number
    readonly normal: number
    readonly low: number
    readonly background: number
  }
  readonly granted: number
  /** Grants of `emergency` requests. */
  readonly emergencies: number
  readonly denied: { readonly [R in Account.Denial]: number }
  readonly deniedTotal: number
  readonly lastDenial: {
    readonly reason: Account.Denial
    readonly dimension: Dimension | undefined
    /** Milliseconds of the clock. */
    readonly at: number
  } | undefined
  /** Requests that went away while they waited. */
  readonly cancelled: number
  /** Refusals of the provider that were reported. */
  readonly throttled: number
  /** Share of ended requests whose usage became known; 1 before any has ended. */
  readonly successRate: number
  readonly averageWaitMs: number
  readonly p99WaitMs: number
  readonly longestWaitMs: number
  /** The busiest minute. */
  readonly peakRequestsPerMinute: number
  readonly peakTokensPerMinute: number
  readonly reservedTokens: number
  readonly grantedTokens: number
  readonly settledTokens: number
  readonly refundedTokens: number
  readonly overusedTokens: number
  readonly cachedTokens: number
}

/** @internal */
export const make = (account: Account.Account, now: Meter.Now): Snapshot => {
  const { counts } = account
  const limits = account.meters.map((meter) => figuresOf(meter, now))
  const slots = Account.slots(account)
  if (slots !== Number.POSITIVE_INFINITY) limits.push(slotFigures(account, slots))
  const [emergency = 0, high = 0, normal = 0, low = 0, background = 0] = account.waiting
  const ended = counts.settled + counts.notSent + counts.unknown
  return {
    key: account.key,
    limits,
    utilisation: limits.reduce((most, { utilisation }) => Math.max(most, utilisation), 0),
    inFlight: account.inFlight,
    peakInFlight: counts.peakInFlight,
    waiting: account.waitingCount,
    peakWaiting: counts.peakWaiting,
    waitingByPriority: { emergency, high, normal, low, background },
    granted: counts.granted,
    emergencies: counts.emergency,
    denied: { ...counts.denied },
    deniedTotal: Object.values(counts.denied).reduce((sum, count) => sum + count, 0),
    lastDenial: counts.lastDenial,
    cancelled: counts.cancelled,
    throttled: counts.throttled,
    successRate: ended === 0 ? 1 : counts.settled / ended,
    averageWaitMs: counts.granted === 0 ? 0 : counts.waitedMs / counts.granted,
    p99WaitMs: Account.waitQuantile(account, 0.99),
    longestWaitMs: counts.longestWaitMs,
    peakRequestsPerMinute: counts.peakRequests,
    peakTokensPerMinute: counts.peakTokens,
    reservedTokens: counts.reservedTokens,
    grantedTokens: counts.grantedTokens,
    settledTokens: counts.settledTokens,
    refundedTokens: counts.refundedTokens,
    overusedTokens: counts.overusedTokens,
    cachedTokens: counts.cachedTokens
  }
}

const figuresOf = (meter: Meter.Meter, now: Meter.Now): LimitFigures => {
  const left = Meter.available(meter, now)
  const capacity = Meter.capacity(meter)
  const guessed = meter.most === Number.POSITIVE_INFINITY && meter.rule !== undefined
  const limit = Meter.limit(meter)
  return {
    dimension: meter.dimension,
    window: meter._tag === "Bucket" ? "continuous" : meter._tag === "Sliding" ? "sliding" : "calendar",
    windowMs: meter.rule === undefined
      ? meter._tag === "Bucket" ? 1 / meter.bucket.perMs : 0
      : Meter.windowOf(meter.rule),
    limit,
    configured: guessed ? undefined : meter.rule?.limit ?? capacity,
    learned: guessed || (meter.rule !== undefined && limit !== meter.rule.limit),
    remaining: Math.max(0, left),
    utilisation: (capacity - left) / capacity,
    debt: Math.max(0, -left),
    resetMs: Meter.resetAfter(meter, now),
    blockedMs: Math.max(0, meter.blockedUntil - now.mono)
  }
}

const slotFigures = (account: Account.Account, limit: number): LimitFigures => ({
  dimension: "concurrency",
  window: "continuous",
  windowMs: 0,
  limit,
  configured: account.plan.concurrency === Number.POSITIVE_INFINITY ? undefined : account.plan.concurrency,
  learned: limit !== account.plan.concurrency,
  remaining: Math.max(0, limit - account.inFlight),
  utilisation: account.inFlight / limit,
  debt: Math.max(0, account.inFlight - limit),
  resetMs: 0,
  blockedMs: 0
})
