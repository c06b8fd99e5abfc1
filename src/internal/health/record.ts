/**
 * What is remembered of one key: decaying sums, updated in place with each outcome.
 *
 * A sample weighs less the longer ago it was, so every figure is a sum of weighted samples, divided by the sum of the
 * weights where it is an average. The sum of the weights is the confidence. While outcomes come in, memory is short
 * (`memoryMs`); after a pause of that length it fades with `idleMemoryMs`, so that an outage is not forgotten just
 * because nobody calls any more.
 *
 * @internal
 */
import type { ErrorClass, LLMError, Reason } from "../../LLMError.ts"
import * as Average from "./average.ts"
import * as Histogram from "./histogram.ts"

/** @internal */
export interface Memory {
  readonly memoryMs: number
  readonly idleMemoryMs: number
  /** Beyond this a first token, or an answer in one piece, is slow. */
  readonly slowMs: number
  /** What a failure costs at least while no success tells how long an answer takes. */
  readonly penaltyMs: number
}

/** Places of the decaying sums. */
const successes = 0
const firstClass = 1
const latencySum = 8
const latencyWeight = 9
const firstTokenSum = 10
const firstTokenWeight = 11
const generatedTokens = 12
const generatedSeconds = 13
const places = 14

const classes: ReadonlyArray<ErrorClass> = [
  "transient_network",
  "rate_limit",
  "timeout",
  "server_error",
  "authentication",
  "permanent",
  "unknown"
]

const placeOf: Readonly<Record<ErrorClass, number>> = {
  transient_network: firstClass,
  rate_limit: firstClass + 1,
  timeout: firstClass + 2,
  server_error: firstClass + 3,
  authentication: firstClass + 4,
  permanent: firstClass + 5,
  unknown: firstClass + 6
}

/** @internal */
export interface LastError {
  readonly errorClass: ErrorClass
  readonly reason: Reason
  readonly status: number | undefined
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** @internal */
export interface State {
  readonly sums: Array<number>
  readonly latency: Histogram.Histogram
  firstToken: Histogram.Histogram | undefined
  peak: Average.Peak
  /** Time of the latest outcome that counted. */
  at: number
  readonly since: number
  consecutiveFailures: number
  consecutiveSuccesses: number
  readonly totals: Record<ErrorClass | "success" | "slow" | "ignored", number>
  lastSuccessAt: number | undefined
  lastError: LastError | undefined
}

/** Quantiles need more samples than averages. */
const quantileMemory = 5

/** A failure costs as much as this many slow answers. */
const penaltyFactor = 5

const peakMs = 10_000

/** @internal */
export const make = (memory: Memory, now: number): State => ({
  // A typed array would take three times the memory: it has a buffer of its own.
  sums: Array.from({ length: places }, () => 0),
  latency: Histogram.make(quantileMemory * memory.memoryMs, now),
  firstToken: undefined,
  peak: Average.noPeak,
  at: now,
  since: now,
  consecutiveFailures: 0,
  consecutiveSuccesses: 0,
  totals: {
    success: 0,
    transient_network: 0,
    rate_limit: 0,
    timeout: 0,
    server_error: 0,
    authentication: 0,
    permanent: 0,
    unknown: 0,
    slow: 0,
    ignored: 0
  },
  lastSuccessAt: undefined,
  lastError: undefined
})

/**
 * Returns the share of its weight that a sample keeps over a pause.
 *
 * @internal
 */
export const kept = (memory: Memory, elapsedMs: number): number => {
  if (elapsedMs <= 0) return 1
  const busy = Math.min(elapsedMs, memory.memoryMs)
  return Math.exp(-busy / memory.memoryMs - (elapsedMs - busy) / memory.idleMemoryMs)
}

const sum = (state: State, place: number): number => state.sums[place] ?? 0

const add = (state: State, place: number, amount: number): void => {
  state.sums[place] = sum(state, place) + amount
}

const advance = (memory: Memory, state: State, now: number): void => {
  const share = kept(memory, now - state.at)
  if (share === 1) return
  for (let place = 0; place < places; place++) state.sums[place] = sum(state, place) * share
  state.at = now
}

/** @internal */
export interface Success {
  readonly durationMs: number
  readonly firstTokenMs?: number | undefined
  readonly outputTokens?: number | undefined
}

/** @internal */
export const recordSuccess = (memory: Memory, state: State, outcome: Success, now: number): void => {
  advance(memory, state, now)
  const { durationMs, firstTokenMs, outputTokens } = outcome
  add(state, successes, 1)
  add(state, latencySum, durationMs)
  add(state, latencyWeight, 1)
  Histogram.add(state.latency, durationMs, now)
  if (firstTokenMs !== undefined) {
    add(state, firstTokenSum, firstTokenMs)
    add(state, firstTokenWeight, 1)
    state.firstToken ??= Histogram.make(state.latency.tauMs, now)
    Histogram.add(state.firstToken, firstTokenMs, now)
  }
  if (outputTokens !== undefined) {
    add(state, generatedTokens, outputTokens)
    add(state, generatedSeconds, Math.max(1, durationMs - (firstTokenMs ?? 0)) / 1000)
  }
  state.peak = Average.observePeak(state.peak, firstTokenMs ?? durationMs, peakMs, now)
  state.consecutiveFailures = 0
  state.consecutiveSuccesses++
  state.totals.success++
  if ((firstTokenMs ?? durationMs) > memory.slowMs) state.totals.slow++
  state.lastSuccessAt = now
}

/** @internal */
export interface Failure {
  readonly error: LLMError
  readonly durationMs: number
  readonly firstTokenMs?: number | undefined
}

/** @internal */
export const recordFailure = (memory: Memory, state: State, outcome: Failure, now: number): void => {
  advance(memory, state, now)
  const { durationMs, error, firstTokenMs } = outcome
  const wait = penalised(memory, state.latency, durationMs)
  const latencyMs = average(state, latencySum, latencyWeight)
  add(state, placeOf[error.errorClass], 1)
  // What fails fast must not look fast, and no failure may look better than what came before it.
  add(state, latencySum, Math.max(wait, latencyMs ?? 0))
  add(state, latencyWeight, 1)
  let peakMillis = wait
  const known = average(state, firstTokenSum, firstTokenWeight)
  if (state.firstToken !== undefined && known !== undefined) {
    const waited = firstTokenMs ?? penalised(memory, state.firstToken, durationMs)
    add(state, firstTokenSum, Math.max(waited, known))
    add(state, firstTokenWeight, 1)
    peakMillis = penalised(memory, state.firstToken, waited)
  }
  state.peak = Average.observePeak(state.peak, peakMillis, peakMs, now)
  state.consecutiveSuccesses = 0
  state.consecutiveFailures++
  state.totals[error.errorClass]++
  if (error.errorClass === "timeout") state.totals.slow++
  state.lastError = { errorClass: error.errorClass, reason: error.reason, status: error.status, at: now }
}

const penalised = (memory: Memory, histogram: Histogram.Histogram, millis: number): number => {
  const slow = Histogram.slow(histogram)
  return Math.max(millis, slow === undefined ? memory.penaltyMs : penaltyFactor * slow)
}

const average = (state: State, total: number, weight: number): number | undefined =>
  sum(state, weight) === 0 ? undefined : sum(state, total) / sum(state, weight)

/** @internal */
export interface Evidence {
  readonly successes: number
  readonly failures: Readonly<Record<ErrorClass, number>>
  readonly latencyMs: number | undefined
  readonly latencyWeight: number
  readonly firstTokenMs: number | undefined
  readonly firstTokenWeight: number
  readonly consecutiveFailures: number
  readonly idleMs: number
}

/**
 * Evidence that is written anew whenever it is needed: every outcome is followed by a score, for each of its keys.
 *
 * @internal
 */
export type Sheet = { -readonly [Field in Exclude<keyof Evidence, "failures">]: Evidence[Field] } & {
  readonly failures: Record<ErrorClass, number>
}

/**
 * What is known before anything has happened.
 *
 * @internal
 */
export const blank = (): Sheet => ({
  successes: 0,
  failures: {
    transient_network: 0,
    rate_limit: 0,
    timeout: 0,
    server_error: 0,
    authentication: 0,
    permanent: 0,
    unknown: 0
  },
  latencyMs: undefined,
  latencyWeight: 0,
  firstTokenMs: undefined,
  firstTokenWeight: 0,
  consecutiveFailures: 0,
  idleMs: 0
})

/** @internal */
export const evidence = (memory: Memory, state: State, now: number, sheet: Sheet = blank()): Evidence => {
  const idleMs = Math.max(0, now - state.at)
  const share = kept(memory, idleMs)
  const { failures } = sheet
  sheet.successes = sum(state, successes) * share
  failures.transient_network = sum(state, placeOf.transient_network) * share
  failures.rate_limit = sum(state, placeOf.rate_limit) * share
  failures.timeout = sum(state, placeOf.timeout) * share
  failures.server_error = sum(state, placeOf.server_error) * share
  failures.authentication = sum(state, placeOf.authentication) * share
  failures.permanent = sum(state, placeOf.permanent) * share
  failures.unknown = sum(state, placeOf.unknown) * share
  sheet.latencyMs = average(state, latencySum, latencyWeight)
  sheet.latencyWeight = sum(state, latencyWeight) * share
  sheet.firstTokenMs = average(state, firstTokenSum, firstTokenWeight)
  sheet.firstTokenWeight = sum(state, firstTokenWeight) * share
  sheet.consecutiveFailures = state.consecutiveFailures
  sheet.idleMs = idleMs
  return sheet
}

/** @internal */
export const peak = (state: State, now: number): number => Average.readPeak(state.peak, peakMs, now)

/** @internal */
export const firstTokenAverage = (state: State): number | undefined => average(state, firstTokenSum, firstTokenWeight)

/** @internal */
export const perTokenAverage = (state: State): number | undefined => {
  const tokens = sum(state, generatedTokens)
  return tokens === 0 ? undefined : sum(state, generatedSeconds) * 1000 / tokens
}

/** Median, 95th and 99th percentile. */
const shares = [0.5, 0.95, 0.99]

/** @internal */
export const figures = (memory: Memory, state: State, now: number) => {
  const seen = evidence(memory, state, now)
  const failures = classes.reduce((total, name) => total + seen.failures[name], 0)
  const confidence = seen.successes + failures
  const { slow, ignored, success, ...failed } = state.totals
  const [latencyP50Ms, latencyP95Ms, latencyP99Ms] = Histogram.quantiles(state.latency, shares) ?? []
  const [firstTokenP50Ms, firstTokenP95Ms, firstTokenP99Ms] = state.firstToken === undefined
    ? []
    : Histogram.quantiles(state.firstToken, shares) ?? []
  return {
    confidence,
    successRate: confidence === 0 ? undefined : seen.successes / confidence,
    failureRate: confidence === 0 ? undefined : failures / confidence,
    recentSuccesses: seen.successes,
    recentFailures: failures,
    recentFailuresByClass: seen.failures,
    consecutiveFailures: state.consecutiveFailures,
    consecutiveSuccesses: state.consecutiveSuccesses,
    requests: success + classes.reduce((total, name) => total + failed[name], 0),
    successes: success,
    failures: classes.reduce((total, name) => total + failed[name], 0),
    failuresByClass: failed,
    rateLimited: failed.rate_limit,
    timeouts: failed.timeout,
    slow,
    ignored,
    latencyMs: seen.latencyMs,
    latencyP50Ms,
    latencyP95Ms,
    latencyP99Ms,
    firstTokenMs: seen.firstTokenMs,
    firstTokenP50Ms,
    firstTokenP95Ms,
    firstTokenP99Ms,
    tokensPerSecond: average(state, generatedTokens, generatedSeconds),
    peakMs: peak(state, now),
    lastSuccessAt: state.lastSuccessAt,
    lastError: state.lastError,
    since: state.since,
    idleMs: seen.idleMs
  }
}
