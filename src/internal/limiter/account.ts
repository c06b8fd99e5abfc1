/**
 * What a limiter keeps about one scope: its meters, its slots, who waits there, and what it has counted.
 *
 * @internal
 */
import type * as Heap from "./heap.ts"
import type * as Learning from "./learning.ts"
import type { Limits, Plan } from "./limits.ts"
import * as Meter from "./meter.ts"
import type { Dimension } from "./observation.ts"
import type { Lane } from "./queue.ts"
import * as Shedding from "./shedding.ts"

/**
 * How much a request takes in each dimension.
 *
 * @internal
 */
export type Amounts = { [D in Dimension]: number }

/** @internal */
export const amounts = (requests: number, input: number, output: number, slots: number): Amounts => ({
  requests,
  tokens: input + output,
  inputTokens: input,
  outputTokens: output,
  concurrency: slots,
  interval: requests
})

/**
 * Returns the amount in one dimension. A key that varies from meter to meter would take ten times as long to look up.
 *
 * @internal
 */
export const amountIn = (amounts: Amounts, dimension: Dimension): number => {
  switch (dimension) {
    case "requests":
      return amounts.requests
    case "tokens":
      return amounts.tokens
    case "inputTokens":
      return amounts.inputTokens
    case "outputTokens":
      return amounts.outputTokens
    case "concurrency":
      return amounts.concurrency
    case "interval":
      return amounts.interval
  }
}

/**
 * Returns the most that a request may take of limits as they are configured.
 *
 * @internal
 */
export const mostOf = (accounts: ReadonlyArray<Account>): Amounts => {
  const most = amounts(Infinity, Infinity, Infinity, Infinity)
  for (const { meters, plan } of accounts) {
    most.concurrency = Math.min(most.concurrency, plan.concurrency)
    for (const meter of meters) most[meter.dimension] = Math.min(most[meter.dimension], meter.most)
  }
  return most
}

/** @internal */
export const exceeds = (wanted: Amounts, most: Readonly<Amounts>): boolean =>
  wanted.requests > most.requests || wanted.tokens > most.tokens || wanted.inputTokens > most.inputTokens ||
  wanted.outputTokens > most.outputTokens || wanted.concurrency > most.concurrency || wanted.interval > most.interval

/** @internal */
export const addTo = (sum: Amounts, part: Amounts, sign: 1 | -1): void => {
  sum.requests += sign * part.requests
  sum.tokens += sign * part.tokens
  sum.inputTokens += sign * part.inputTokens
  sum.outputTokens += sign * part.outputTokens
  sum.concurrency += sign * part.concurrency
  sum.interval += sign * part.interval
}

/** @internal */
export type Denial = "rate_limit" | "concurrency" | "request_exceeds_limit" | "queue_full" | "queue_timeout"

/** @internal */
export interface Counts {
  granted: number
  emergency: number
  settled: number
  notSent: number
  unknown: number
  readonly denied: Record<Denial, number>
  lastDenial: { readonly reason: Denial; readonly dimension: Dimension | undefined; readonly at: number } | undefined
  /** Provider's refusals that were reported. */
  throttled: number
  cancelled: number
  peakInFlight: number
  peakWaiting: number
  /** Tokens reserved by requests that have not been settled. */
  reservedTokens: number
  grantedTokens: number
  settledTokens: number
  refundedTokens: number
  overusedTokens: number
  cachedTokens: number
  /** Start of the minute being counted, and what was granted in it, in the one before, and in the busiest. */
  minute: number
  minuteRequests: number
  minuteTokens: number
  lastRequests: number
  peakRequests: number
  peakTokens: number
  waitedMs: number
  longestWaitMs: number
  /** Grants by waiting time, four classes to each doubling. */
  readonly waits: Array<number>
}

/**
 * Whose turn it is among tenants of one level: the virtual time of the service, and where each tenant's next begins.
 *
 * @internal
 */
export interface Fair {
  virtual: number
  readonly next: Map<string, number>
}

/**
 * What a set of scopes stands on.
 *
 * @internal
 */
export interface Footing {
  readonly scopes: ReadonlyArray<unknown>
  readonly accounts: ReadonlyArray<Account>
  /** The meters of all accounts. */
  readonly meters: ReadonlyArray<Meter.Meter>
  /** The most that a request may take in each dimension. */
  readonly most: Readonly<Amounts>
  /** Which state of all accounts it is true of. */
  readonly version: number
}

/** @internal */
export interface Account {
  readonly key: string
  /** What the scopes stand on of which this one was the first last time. */
  footing: Footing | undefined
  /** The limits last seen, to notice others without reading them. */
  limits: Limits | undefined
  /** Whether `setLimits` has the last word. */
  pinned: boolean
  plan: Plan
  meters: ReadonlyArray<Meter.Meter>
  inFlight: number
  learnedSlots: Learning.ConcurrencyState | undefined
  /** Lanes that wait for room here, the next one first. */
  readonly parked: Heap.Heap<Lane>
  /** What the parked lanes ask for, by level; a level that nothing waits at has none. */
  readonly queued: Array<Amounts>
  /** By level, of those at which somebody has waited: most accounts never see a queue. */
  readonly fair: Array<Fair>
  /** Lanes that nobody may overtake here, wherever they wait. */
  readonly holders: Array<Lane>
  /** Requests that wait and have this scope among theirs, by the level they asked for. */
  readonly waiting: Array<number>
  waitingCount: number
  /** When the first parked lane can have what it needs here. */
  wakeAt: number
  wakeSlot: number
  touchedAt: number
  readonly shedding: Shedding.Shedding
  readonly counts: Counts
}

/** @internal */
export const make = (
  key: string,
  plan: Plan,
  options: Meter.Manner & { readonly levels: number; readonly parked: Heap.Heap<Lane> },
  now: Meter.Now
): Account => ({
  key,
  footing: undefined,
  limits: undefined,
  pinned: false,
  plan,
  meters: metersOf(plan, [], options, now),
  inFlight: 0,
  learnedSlots: undefined,
  parked: options.parked,
  queued: [],
  fair: [],
  holders: [],
  waiting: Array.from({ length: options.levels }, () => 0),
  waitingCount: 0,
  wakeAt: Number.POSITIVE_INFINITY,
  wakeSlot: -1,
  touchedAt: now.mono,
  shedding: Shedding.make(now.mono),
  counts: {
    granted: 0,
    emergency: 0,
    settled: 0,
    notSent: 0,
    unknown: 0,
    denied: { rate_limit: 0, concurrency: 0, request_exceeds_limit: 0, queue_full: 0, queue_timeout: 0 },
    lastDenial: undefined,
    throttled: 0,
    cancelled: 0,
    peakInFlight: 0,
    peakWaiting: 0,
    reservedTokens: 0,
    grantedTokens: 0,
    settledTokens: 0,
    refundedTokens: 0,
    overusedTokens: 0,
    cachedTokens: 0,
    minute: Math.floor(now.mono / 60_000),
    minuteRequests: 0,
    minuteTokens: 0,
    lastRequests: 0,
    peakRequests: 0,
    peakTokens: 0,
    waitedMs: 0,
    longestWaitMs: 0,
    waits: []
  }
})

const metersOf = (
  plan: Plan,
  meters: ReadonlyArray<Meter.Meter>,
  manner: Meter.Manner,
  now: Meter.Now
): ReadonlyArray<Meter.Meter> => {
  const next = plan.rules.map((rule) => {
    const same = meters.find((meter) => meter.rule?.id === rule.id && meter.most !== Number.POSITIVE_INFINITY)
    return same === undefined ? Meter.make(rule, manner, now) : Meter.configure(same, rule, manner, now)
  })
  if (plan.minIntervalMs > 0) next.push(Meter.interval(plan.minIntervalMs, now))
  return next
}

/**
 * Changes the limits. What is in use and in debt stays so.
 *
 * @internal
 */
export const configure = (account: Account, plan: Plan, manner: Meter.Manner, now: Meter.Now): void => {
  const interval = account.plan.minIntervalMs === plan.minIntervalMs
    ? account.meters.find((meter) => meter.dimension === "interval")
    : undefined
  account.plan = plan
  account.meters = metersOf(plan, account.meters, manner, now)
    .map((meter) => meter.dimension === "interval" ? interval ?? meter : meter)
  account.learnedSlots = undefined
}

/** @internal */
export const slots = (account: Account): number =>
  Math.floor(Math.min(account.plan.concurrency, account.learnedSlots?.limit ?? Number.POSITIVE_INFINITY))

/**
 * Returns whether a request may take slots; one that takes more than are left by a lowered limit goes alone.
 *
 * @internal
 */
export const hasSlots = (account: Account, wanted: number, keptShare: number): boolean => {
  if (wanted === 0) return true
  const limit = slots(account)
  if (limit === Number.POSITIVE_INFINITY) return true
  return account.inFlight + wanted <= limit - Math.floor(keptShare * limit) || account.inFlight === 0
}

/**
 * Returns the share of the tightest limit that is left, from 0 to 1. A minimum interval is no limit of an amount.
 *
 * @internal
 */
export const headroom = (account: Account, now: Meter.Now): number => {
  let least = 1
  for (const meter of account.meters) {
    if (meter.dimension === "interval") continue
    if (meter.blockedUntil > now.mono) return 0
    least = Math.min(least, Meter.available(meter, now) / Meter.capacity(meter))
  }
  const limit = slots(account)
  if (limit !== Number.POSITIVE_INFINITY) least = Math.min(least, (limit - account.inFlight) / limit)
  return least > 0 ? least : 0
}

/**
 * Returns whether forgetting the account changes nothing: it is at rest and everything has come back.
 *
 * @internal
 */
export const isIdle = (account: Account, now: Meter.Now): boolean =>
  account.inFlight === 0 && account.counts.reservedTokens === 0 && !account.pinned &&
  account.waitingCount === 0 &&
  account.meters.every((meter) => meter.blockedUntil <= now.mono && Meter.resetAfter(meter, now) === 0)

/** @internal */
export const deny = (account: Account, reason: Denial, dimension: Dimension | undefined, now: Meter.Now): void => {
  account.counts.denied[reason]++
  account.counts.lastDenial = { reason, dimension, at: now.wall }
}

/** @internal */
export const count = (account: Account, wanted: Amounts, waitedMs: number, now: Meter.Now): void => {
  const { counts } = account
  rollMinute(account, now)
  counts.granted++
  counts.reservedTokens += wanted.tokens
  counts.grantedTokens += wanted.tokens
  counts.minuteRequests += wanted.requests
  counts.minuteTokens += wanted.tokens
  if (counts.minuteRequests > counts.peakRequests) counts.peakRequests = counts.minuteRequests
  if (counts.minuteTokens > counts.peakTokens) counts.peakTokens = counts.minuteTokens
  if (account.inFlight > counts.peakInFlight) counts.peakInFlight = account.inFlight
  if (waitedMs > 0) {
    counts.waitedMs += waitedMs
    counts.longestWaitMs = Math.max(counts.longestWaitMs, waitedMs)
    const place = waitClass(waitedMs)
    counts.waits[place] = (counts.waits[place] ?? 0) + 1
  }
}

/** @internal */
export const rollMinute = (account: Account, now: Meter.Now): void => {
  const { counts } = account
  const minute = Math.floor(now.mono / 60_000)
  if (minute === counts.minute) return
  counts.lastRequests = minute === counts.minute + 1 ? counts.minuteRequests : 0
  counts.minute = minute
  counts.minuteRequests = 0
  counts.minuteTokens = 0
}

const waitClass = (millis: number): number => Math.max(0, Math.ceil(Math.log2(millis) * 4))

/**
 * Returns a quantile of the waits of all grants, those without a wait included, to within a fifth.
 *
 * @internal
 */
export const waitQuantile = (account: Account, quantile: number): number => {
  const { granted, longestWaitMs, waits } = account.counts
  let above = granted * (1 - quantile)
  for (let place = waits.length - 1; place >= 0; place--) {
    above -= waits[place] ?? 0
    if (above < 0) return Math.min(longestWaitMs, 2 ** (place / 4))
  }
  return 0
}
