/**
 * Learns how much a provider really admits, as pure functions `(state, event, now) => [state, decision]`.
 *
 * `step` learns a rate: how many units (requests, tokens) a window admits. `concurrency` learns how many requests may be
 * in flight. Both shrink by a factor once per round trip when the provider says "too much" and grow slowly while the
 * limit is really used. The clock, chance and what the provider said come in as arguments.
 *
 * **Details**
 *
 * A plain sawtooth between 0.7 and 1 of the truth would waste 15 % of a quota. Between two refusals the provider has
 * admitted exactly what its quota gave back, so that count, divided by the time, is the quota: the limit drops by 0.7 to
 * let the provider recover, climbs back to what was measured within seconds and stays there. It then asks for more at
 * most by 5 % in 10 s, and twice as seldom after each refusal that confirms what is known.
 *
 * Latency does not enter: how long an answer takes is decided by its length, not by a queue. That rules out Vegas and
 * gradient limits. The cubic client rate of some SDKs is left out as well: its curve is in absolute seconds and requests
 * per second, which is far from quotas of three requests a minute.
 *
 * @internal
 */

// ---------------------------------------------------------------------------------------------------------------------
// rates
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Options {
  /** Milliseconds of the window that limits count in. */
  readonly windowMs: number
  /** Units a window starts with: the configured limit, or a guess. */
  readonly initial: number
  /** Units a window never goes below: a limit of nothing could not learn that it is wrong. */
  readonly floor: number
  /** The configured limit; `Infinity` when none is. */
  readonly ceiling: number
}

/** @internal */
export interface State {
  readonly limit: number
  /** What the provider's headers state; `Infinity` until they do. */
  readonly stated: number
  /** What the provider was last measured to admit; 0 when nothing is known. */
  readonly known: number
  /** The limit at the last refusal; 0 before it. */
  readonly refused: number
  readonly startedAt: number
  readonly decreasedAt: number
  /** Only this and what is counted of admissions below may be changed in place. */
  grownAt: number
  readonly resumeAt: number
  readonly holdMs: number
  readonly heldUntil: number
  /** Units and requests admitted since the last decrease and not refused. */
  units: number
  requests: number
  /** Milliseconds since the last decrease that stated waits take up. */
  readonly pausedMs: number
  /** Units sent, forgotten exponentially. */
  recent: number
  countedAt: number
}

/** @internal */
export type Event =
  /** A request of this size was sent. */
  | { readonly _tag: "Admitted"; readonly cost: number }
  /** The provider served a request. */
  | { readonly _tag: "Succeeded"; readonly sentAt: number }
  /**
   * The provider refused a request: for its rate (`Throttled`, 429), or because it had too much to do for everybody
   * (`Overloaded`, 503 and 529), which says nothing of a quota.
   */
  | {
    readonly _tag: "Throttled" | "Overloaded"
    readonly sentAt: number
    readonly cost: number
    /** The wait that was stated. */
    readonly retryAfterMs: number | undefined
    /** A random number in [0, 1) that spreads those who were told the same wait. */
    readonly random: number
    /** Whether by our own count, too, there was no room for another one like it. */
    readonly atEdge?: boolean | undefined
  }
  /** A response header stated the limit of a window. */
  | { readonly _tag: "Stated"; readonly limit: number }

/** @internal */
export interface Decision {
  /** Units a window admits from now on. */
  readonly limit: number
  /** Nothing may be sent before this time, nor saved up for it: who waited resumes evenly, not in a burst. */
  readonly resumeAt: number
  /** The limit has just been cut: what a bucket had saved up is void, so that nothing resumes in a burst. */
  readonly drain: boolean
}

const backoffRatio = 0.7
/** Share of what is known that an overload leaves: the quota is as large as ever once it is over. */
const overloadShare = 0.5
const growth = 0.05
const growthMs = 10_000
/** Growth while nothing is known yet, or what was known no longer holds. */
const fastGrowth = 0.5
/** A rate needs this long to show an effect, however short the round trip. */
const roundMs = 1000
const minHoldMs = 10_000
const maxHoldMs = 120_000
const longestHoldMs = 3_600_000
/** Share of a limit that has to be in use for it to grow. */
const usedShare = 0.75
/** What is left of the knowledge when it alone was refused. */
const lowered = 0.97
/** Beyond this multiple of the limit that was last refused, what was known is obsolete. */
const outgrown = 1.1
/** Shortest time and fewest requests between two refusals that measure a quota. */
const minSampleMs = 5000
const minSample = 4

/** @internal */
export const initial = (options: Options, now: number): State => ({
  limit: Math.max(options.floor, Math.min(options.initial, options.ceiling)),
  stated: Number.POSITIVE_INFINITY,
  known: 0,
  refused: 0,
  startedAt: now,
  decreasedAt: Number.NEGATIVE_INFINITY,
  grownAt: now,
  resumeAt: now,
  holdMs: minHoldMs,
  heldUntil: now,
  units: 0,
  requests: 0,
  pausedMs: 0,
  recent: 0,
  countedAt: now
})

const memoryMs = (options: Options): number => Math.min(60_000, Math.max(10_000, options.windowMs / 6))

const decayed = (options: Options, state: State, now: number): number =>
  now <= state.countedAt ? state.recent : state.recent * Math.exp((state.countedAt - now) / memoryMs(options))

/**
 * Returns the units a window that were sent of late.
 *
 * @internal
 */
export const measured = (options: Options, state: State, now: number): number => {
  const memory = memoryMs(options)
  // Corrects for a memory that is not full yet, without taking the first request for a flood.
  const age = Math.max(1000, now - state.startedAt)
  return decayed(options, state, now) / (memory * (1 - Math.exp(-age / memory))) * options.windowMs
}

/**
 * Returns a grown rate, held to twice what was measured: more than that has been tried by nobody.
 *
 * @internal
 */
export const boundByMeasured = (rate: number, measured: number): number => Math.min(rate, 2 * measured)

/**
 * Returns when to resume after a stated wait: never before it, and spread over a tenth of it.
 *
 * @internal
 */
export const resumeAt = (now: number, waitMs: number, random: number): number =>
  now + waitMs + random * Math.min(10_000, Math.max(100, waitMs * 0.1))

// What nearly every call does to every limit is done in place: a copy of the state would cost more than all the rest.

/**
 * Takes an `Admitted` in.
 *
 * @internal
 */
export const admit = (options: Options, state: State, cost: number, now: number): void => {
  state.units += cost
  state.requests++
  // A memory of ten seconds forgets nothing in less than a millisecond.
  if (now - state.countedAt >= 1) {
    state.recent = decayed(options, state, now)
    state.countedAt = now
  }
  state.recent += cost
}

/**
 * Takes a `Succeeded` in, when so little of the limit is in use that it cannot grow; returns whether that was so.
 *
 * @internal
 */
export const stay = (options: Options, state: State, now: number): boolean => {
  if (state.limit < state.known) return false
  const memory = memoryMs(options)
  const age = Math.max(1000, now - state.startedAt)
  // At least what `measured` returns, because 1 - exp(-x) >= x / (1 + x), and without an exponential.
  const most = state.recent * options.windowMs * (memory + age) / (memory * age)
  if (most >= usedShare * state.limit) return false
  state.grownAt = now
  return true
}

/** @internal */
export const step = (options: Options, state: State, event: Event, now: number): readonly [State, Decision] => {
  switch (event._tag) {
    case "Admitted": {
      const next = { ...state }
      admit(options, next, event.cost, now)
      return keep(next)
    }
    case "Succeeded":
      return keep(grow(options, state, event.sentAt, now))
    case "Throttled":
    case "Overloaded":
      return refuse(options, state, event, now)
    case "Stated":
      return keep(applyStated(options, state, event.limit, now))
  }
}

const keep = (state: State): readonly [State, Decision] => [state, decide(state, false)]

const decide = (state: State, drain: boolean): Decision => ({ limit: state.limit, resumeAt: state.resumeAt, drain })

const ceilingOf = (options: Options, state: State): number =>
  Math.max(options.floor, Math.min(options.ceiling, state.stated))

/** Time of one request at the current limit, assuming requests of the size seen since the last decrease. */
const intervalMs = (options: Options, state: State): number =>
  options.windowMs / state.limit * (state.requests === 0 ? 1 : Math.max(1, state.units / state.requests))

const grow = (options: Options, state: State, sentAt: number, now: number): State => {
  // The way back to what is known tries nothing new, so it takes no heed of how much is sent.
  if (state.limit < state.known) {
    const limit = Math.min(recover(options, state, now), ceilingOf(options, state))
    return { ...state, limit: Math.max(state.limit, limit), grownAt: now }
  }
  const sent = measured(options, state, now)
  if (sent < usedShare * state.limit) return { ...state, grownAt: now }
  // Answers to what was sent before the last decrease say nothing about more than is known.
  const next = now < state.heldUntil || sentAt <= state.decreasedAt ? state.limit : probe(options, state, now)
  const limit = Math.max(state.limit, Math.min(boundByMeasured(next, sent), ceilingOf(options, state)))
  return state.known > 0 && limit > outgrown * state.refused
    ? { ...state, limit, grownAt: now, known: 0, holdMs: minHoldMs }
    : { ...state, limit, grownAt: now }
}

const recover = (options: Options, state: State, now: number): number => {
  const pace = Math.max(1000, 2 * intervalMs(options, state))
  const elapsed = Math.min(pace, Math.max(0, now - Math.max(state.grownAt, state.resumeAt)))
  const limit = state.known - (state.known - state.limit) * Math.exp(-elapsed / pace)
  return limit > 0.995 * state.known ? state.known : limit
}

const probe = (options: Options, state: State, now: number): number => {
  const pace = Math.max(growthMs, 5 * intervalMs(options, state))
  const elapsed = Math.min(pace, Math.max(0, now - Math.max(state.grownAt, state.heldUntil, state.resumeAt)))
  return state.limit * (1 + (state.known === 0 ? fastGrowth : growth)) ** (elapsed / pace)
}

type Refusal = Extract<Event, { readonly random: number }>

const refuse = (options: Options, state: State, event: Refusal, now: number): readonly [State, Decision] => {
  const waited = event.retryAfterMs === undefined ? now : resumeAt(now, event.retryAfterMs, event.random)
  const older = event.sentAt <= state.decreasedAt
  const paused: State = {
    ...state,
    resumeAt: Math.max(state.resumeAt, waited),
    pausedMs: state.pausedMs + Math.max(0, waited - Math.max(now, state.resumeAt)),
    units: Math.max(0, state.units - (older ? 0 : event.cost)),
    requests: Math.max(0, state.requests - (older ? 0 : 1))
  }
  if (older || now - state.decreasedAt < roundMs) return [paused, decide(paused, false)]
  const wait = paused.resumeAt - now
  const cut: State = { ...paused, decreasedAt: now, grownAt: now, units: 0, requests: 0, pausedMs: wait }
  const next = event._tag === "Overloaded"
    ? { ...cut, ...overload(options, state, now) }
    : { ...cut, ...throttle(options, state, paused, now, event.atEdge === true) }
  return [next, decide(next, true)]
}

/** Sends less for a while, and knows where to return to: the first answers lead back there within seconds. */
const overload = (options: Options, state: State, now: number): Partial<State> => {
  const known = Math.max(state.known, state.limit)
  return {
    limit: Math.max(
      options.floor,
      Math.min(state.limit, overloadShare * known),
      Math.floor(state.limit * backoffRatio)
    ),
    known,
    refused: Math.max(state.refused, known),
    heldUntil: Math.max(state.heldUntil, now + minHoldMs)
  }
}

const throttle = (
  options: Options,
  state: State,
  paused: State,
  now: number,
  atEdge: boolean
): Partial<State> => {
  const limit = Math.max(options.floor, Math.floor(state.limit * backoffRatio))
  const interval = intervalMs(options, state)
  const wait = paused.resumeAt - now
  const truth = admitted(options, paused, now)
  const confirmed = truth > 0 && Math.abs(truth - state.known) <= 0.1 * state.known
  // The dearer a refusal, the longer nobody asks for another one.
  const holdMs = confirmed
    ? Math.min(Math.max(maxHoldMs, 100 * interval, Math.min(longestHoldMs, 50 * wait)), 2 * state.holdMs)
    : Math.max(minHoldMs, 20 * interval, Math.min(longestHoldMs, 2 * wait))
  return {
    limit,
    known: Math.max(
      limit,
      truth === 0 && atEdge
        // Before anything could be measured and with the limit used up, a request that came a little early is refused, too.
        ? lowered * state.limit
        // Refused without asking for more than was known: it was too much.
        : Math.min(state.limit, truth, state.limit <= state.known ? lowered * state.known : truth)
    ),
    refused: state.limit,
    holdMs,
    heldUntil: now + holdMs
  }
}

/** What the provider admitted a window between two refusals, or before the first; 0 when there was too little to tell. */
const admitted = (options: Options, state: State, now: number): number => {
  const isFirst = state.decreasedAt === Number.NEGATIVE_INFINITY
  const since = isFirst ? state.startedAt : state.decreasedAt
  // What comes back during a wait is lost when the bucket is small; when it is large it only is asked for too early.
  const elapsed = now - since - (state.pausedMs - (state.resumeAt - now))
  // Before the first refusal the provider also gave what it had saved up, which is a window's worth at most.
  const units = state.units - (isFirst ? options.initial : 0)
  return elapsed >= minSampleMs && state.requests >= minSample ? Math.max(0, units) / elapsed * options.windowMs : 0
}

const applyStated = (options: Options, state: State, stated: number, now: number): State => {
  if (!(Number.isFinite(stated) && stated > 0) || stated === state.stated) return state
  const next = { ...state, stated }
  const ceiling = ceilingOf(options, next)
  // A statement beats a guess; what refusals taught stays, because others may share the quota.
  const limit = state.limit > ceiling || state.decreasedAt === Number.NEGATIVE_INFINITY ? ceiling : state.limit
  return { ...next, limit, known: Math.min(state.known, ceiling), grownAt: now }
}

// ---------------------------------------------------------------------------------------------------------------------
// concurrency
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface ConcurrencyOptions {
  readonly min: number
  readonly max: number
  readonly backoffRatio: number
  /** Added for each success (`success`) or for about one round of them (`round`: 1/limit each). */
  readonly increase: "success" | "round"
  /** Least time between two decreases. */
  readonly cooldownMs: number
  /** A slower answer counts as a refusal; `Infinity` for models, whose answers take as long as they are. */
  readonly timeoutMs: number
}

/** @internal */
export interface ConcurrencyState {
  readonly limit: number
  readonly decreasedAt: number
}

/** @internal */
export interface ConcurrencySample {
  readonly sentAt: number
  /** Requests in flight when this one was sent. */
  readonly inflight: number
  readonly dropped: boolean
}

/** @internal */
export const concurrencyDefaults: ConcurrencyOptions = {
  min: 1,
  max: Number.POSITIVE_INFINITY,
  backoffRatio,
  increase: "round",
  cooldownMs: roundMs,
  timeoutMs: Number.POSITIVE_INFINITY
}

/** @internal */
export const concurrencyInitial = (limit: number): ConcurrencyState => ({
  limit,
  decreasedAt: Number.NEGATIVE_INFINITY
})

/**
 * Returns the number of requests that may be in flight after one of them ended.
 *
 * @internal
 */
export const concurrency = (
  options: ConcurrencyOptions,
  state: ConcurrencyState,
  sample: ConcurrencySample,
  now: number
): ConcurrencyState => {
  if (sample.dropped || now - sample.sentAt > options.timeoutMs) {
    if (sample.sentAt <= state.decreasedAt || now - state.decreasedAt < options.cooldownMs) return state
    return { limit: Math.max(options.min, Math.floor(state.limit * options.backoffRatio)), decreasedAt: now }
  }
  if (sample.inflight * 2 < state.limit) return state
  const added = options.increase === "success" ? 1 : 1 / state.limit
  return { ...state, limit: Math.min(options.max, state.limit + added) }
}

/**
 * Returns the highest limit that a number of requests in flight justifies: a multiple that shrinks with its magnitude.
 *
 * @internal
 */
export const maxLimit = (
  inflight: number,
  options: { readonly factor: number; readonly minFactor: number; readonly decay: number }
): number => inflight * Math.max(options.minFactor, options.factor - options.decay * Math.log10(Math.max(1, inflight)))

// ---------------------------------------------------------------------------------------------------------------------
// shedding
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Returns how likely a request should be refused before it is sent, given how many of the recent ones were served.
 *
 * **Details**
 *
 * Up to `multiplier` requests are sent for each one that is served. The result stays below 1, or recovery would never be
 * seen, and is 0 below `minRequests`.
 *
 * @internal
 */
export const throttleProbability = (
  requests: number,
  accepts: number,
  options: {
    readonly multiplier: number
    readonly maxProbability?: number | undefined
    readonly minRequests?: number | undefined
  }
): number =>
  requests < (options.minRequests ?? 0)
    ? 0
    : Math.min(options.maxProbability ?? 0.9, Math.max(0, (requests - options.multiplier * accepts) / (requests + 1)))

/**
 * Returns how likely a request should be refused by a queue of this length: from 0 at a threshold to 1 when it is full.
 *
 * @internal
 */
export const queueRejection = (queued: number, threshold: number, maxQueue: number): number =>
  queued >= maxQueue ? 1 : queued <= threshold ? 0 : (queued - threshold) / (maxQueue - threshold)
