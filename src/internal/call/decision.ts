/**
 * The router's decisions as a pure function: what happens next, given what happened and what is cooling.
 *
 * Among the targets that are free (not cooling, not given up by this call, able to serve it) the strategy chooses. The
 * walk is finite: a call makes at most `maxAttempts` attempts, and a wait always ends before the deadline. An attempt
 * gets so much of the time left that every later target still gets a start.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import type { Status } from "../../CircuitBreaker.ts"
import type { Entry } from "../../Cooldown.ts"
import * as Errors from "../../LLMError.ts"
import type * as Recovery from "../../Recovery.ts"
import { scopeKey as scopeKeyOf, type Target } from "../../Target.ts"

/** A target with the keys of its state, derived once. */
export interface Candidate {
  readonly target: Target
  readonly scopeKeys: ReadonlyArray<string>
}

/** What does not change during a call. */
export interface Setup {
  readonly candidates: ReadonlyArray<Candidate>
  /** 1 for each candidate that can serve the call. */
  readonly fit: Uint8Array
  /** How many can. */
  readonly fitting: number
  /** Picks one of those marked as free, from where the walk stands; -1 when none is. */
  readonly choose: (free: Uint8Array, start: number) => number
  /** Whether a candidate is sent requests that never come back: it is asked last, and not while others soon have room. */
  readonly isSilent?: ((index: number, now: number) => boolean) | undefined
  readonly maxAttempts: number
  /** Longest time an attempt may take; `Infinity` when nothing limits it. */
  readonly attemptMs: number
  /** Longest stated wait that is waited for in place while other targets are free. */
  readonly patienceMs: number
  /** Whether such a wait is preferred to another key as well, for the sake of a warm cache. */
  readonly stays: boolean
  /** Whether what may have been executed may be sent again. */
  readonly replays: boolean
  /** Milliseconds since the epoch at which the call must be over. */
  readonly deadlineAt: number
}

/** Cooldowns by candidate index; what is absent is free. */
export type Cooling = ReadonlyArray<Blocked | undefined>

/** What blocks a target, and for how long. */
export interface Blocked extends Entry {
  /** Whether that is the longest it can take: a circuit that is probing closes as soon as its probes have answered. */
  readonly atMost?: boolean | undefined
}

type Why = Errors.Skipped["why"]

/** What a call has learned so far. */
export interface State {
  readonly attempts: number
  /** Candidates this call has given up, and why. */
  readonly givenUp: ReadonlyMap<number, Why>
  /** Last error by candidate. */
  readonly errors: ReadonlyMap<number, Errors.LLMError>
  /** Scope keys of failures that reach further than their target; what shares one is asked last. */
  readonly suspects: ReadonlySet<string>
  /** Until when a policy of ours refuses a candidate, by candidate. */
  readonly busy: ReadonlyMap<number, Busy>
}

/** A refusal of ours: no room in the limits, a circuit that lets nobody through, a throttle that sheds. */
export interface Busy {
  readonly until: number
  readonly by: "limit" | "circuit" | "throttle"
}

export type Event =
  | { readonly _tag: "Start" }
  | {
    readonly _tag: "Failed"
    readonly index: number
    readonly error: Errors.LLMError
    readonly rule: Recovery.Rule
    /** Delay of the retry schedule, `undefined` when it allows no further retry here. */
    readonly retryMs: number | undefined
  }
  | { readonly _tag: "Waited"; readonly index: number; readonly chosen: Errors.Attempt["chosen"] }
  /** A policy of ours refused the attempt: no evidence against the target, and no attempt. */
  | {
    readonly _tag: "Refused"
    readonly index: number
    readonly error: Errors.LLMError
    readonly by: Busy["by"]
    /** Whether it was refused after the wait in the queue. */
    readonly queued: boolean
  }

export type Decision =
  | {
    readonly _tag: "Attempt"
    readonly index: number
    readonly chosen: Errors.Attempt["chosen"]
    readonly skipped: ReadonlyArray<Errors.Skipped>
    /** Whether to wait in the limiter's queue: every candidate lacks capacity, and this one has it first. */
    readonly queue: boolean
    /** How long it may take, so that later targets get a start; `Infinity` where nothing is held back for them. */
    readonly sliceMs: number
  }
  | {
    readonly _tag: "Wait"
    readonly index: number
    readonly chosen: Errors.Attempt["chosen"]
    readonly delayMs: number
    /** Whether the delay is somebody's stated wait, which needs jitter on top so that waiters do not wake together. */
    readonly stated: boolean
  }
  | { readonly _tag: "Stop"; readonly error: Errors.LLMError }

export const initial: State = {
  attempts: 0,
  givenUp: new Map(),
  errors: new Map(),
  suspects: new Set(),
  busy: new Map()
}

export const decide = (
  setup: Setup,
  before: State,
  event: Event,
  cooled: Cooling,
  now: number
): readonly [State, Decision] => {
  const state = event._tag === "Refused" ? refused(before, event, now) : before
  const cooling = state.busy.size === 0 ? cooled : withBusy(setup, state, cooled, now)
  switch (event._tag) {
    case "Refused":
      return [
        state,
        // What the queue refused, it has refused for the whole of the wait that was allowed.
        (event.queued && event.by === "limit") || now >= setup.deadlineAt
          ? exhausted(setup, state, cooling)
          : walk(setup, state, event.index + 1, "next", cooling, now)
      ]
    case "Start":
      return [state, walk(setup, state, 0, "first", cooling, now)]
    case "Waited":
      return [
        state,
        now >= setup.deadlineAt
          ? exhausted(setup, state, cooling)
          : isFree(setup, state, cooling, event.index)
          ? attempt(setup, state, event.index, event.chosen, cooling, now)
          : walk(setup, state, event.index, event.chosen, cooling, now)
      ]
    case "Failed":
      return afterFailure(setup, state, event, cooling, now)
  }
}

const refused = (before: State, event: Extract<Event, { readonly _tag: "Refused" }>, now: number): State => {
  const errors = new Map(before.errors).set(event.index, event.error)
  // Neither a request that is too large nor a throttle has a time at which it would be another answer.
  if (event.by === "throttle") return giveUp({ ...before, errors }, event.index, "throttle")
  if (event.error.reason === "request_exceeds_limit") return giveUp({ ...before, errors }, event.index, "limit")
  const wait = event.error.retryAfter
  // Nobody knows when a slot comes back that others hold.
  const waitMs = wait === undefined ? Number.POSITIVE_INFINITY : Math.max(1, Duration.toMillis(wait))
  // How a circuit is now, it is asked each time; only who comes straight back is kept from it.
  const until = now + (event.by === "circuit" ? Math.min(waitMs, lookMs) : waitMs)
  return { ...before, errors, busy: new Map(before.busy).set(event.index, { until, by: event.by }) }
}

// What blocks without our refusal comes first: what the limiter grants during a cooldown could not be used.
const withBusy = (setup: Setup, state: State, cooling: Cooling, now: number): Cooling =>
  setup.candidates.map((_, index) => {
    const busy = state.busy.get(index)
    return cooling[index] ?? (busy === undefined || busy.until <= now
      ? undefined
      : { scopeKey: busy.by, reason: reasonOf[busy.by], until: busy.until, remainingMs: busy.until - now })
  })

/** How soon a call looks again at what may be over at any time. */
const lookMs = 1000

const delayOf = ({ atMost, remainingMs }: Blocked): number =>
  atMost === true ? Math.min(remainingMs, lookMs) : remainingMs

// In the place of a scope key, these say which policy of ours there is to wait for.
const limitKey = "limit"
const circuitKey = "circuit"

const reasonOf = { limit: "rate_limit", circuit: "circuit_open", throttle: "overloaded" } as const

/** Puts circuits that refuse into what is cooling: a router waits for both in the same way. */
export const withCircuits = (
  cooling: Cooling,
  circuits: ReadonlyArray<{ readonly admits: boolean; readonly status: Status; readonly retryAfterMs: number }>,
  now: number
): Cooling =>
  circuits.length === 0 ? cooling : circuits.map(({ admits, retryAfterMs, status }, index) => {
    const entry = cooling[index]
    return admits || (entry !== undefined && entry.remainingMs >= retryAfterMs)
      ? entry
      : {
        scopeKey: circuitKey,
        reason: "circuit_open",
        until: now + retryAfterMs,
        remainingMs: retryAfterMs,
        atMost: status === "half-open" || status === "ramp"
      }
  })

const afterFailure = (
  setup: Setup,
  before: State,
  event: Extract<Event, { readonly _tag: "Failed" }>,
  cooling: Cooling,
  now: number
): readonly [State, Decision] => {
  const { error, index, retryMs, rule } = event
  const errors = new Map(before.errors).set(index, error)
  const state: State = { ...before, attempts: before.attempts + 1, errors }
  const retryFits = rule.sameTarget === "backoff" && retryMs !== undefined &&
    now + retryMs < setup.deadlineAt - startsOf(later(setup, state, cooling, index, now), setup.deadlineAt - now)
  const final = (rule.otherTargets === "never" && rule.sameTarget === "never") ||
    (error.maybeBilled && !setup.replays)
  if (final || now >= setup.deadlineAt) return [state, { _tag: "Stop", error }]
  if (state.attempts >= setup.maxAttempts) return [state, exhausted(setup, state, cooling)]

  const stated = error.retryAfter === undefined ? 0 : Duration.toMillis(error.retryAfter)
  const delayMs = Math.max(stated, cooling[index]?.remainingMs ?? 0)
  const waitFits = rule.sameTarget === "stated-wait" && stated > 0 && stated <= setup.patienceMs &&
    now + delayMs < setup.deadlineAt
  const sibling = rule.siblingsFirst && !(waitFits && setup.stays)
    ? findSibling(setup, state, index, cooling, now)
    : undefined
  if (sibling !== undefined) {
    const onward = rule.sameTarget === "stated-wait" ? state : giveUp(state, index, "failed")
    return [onward, attempt(setup, onward, sibling, "next", cooling, now)]
  }
  if (waitFits) return [state, { _tag: "Wait", index, chosen: "retry", delayMs, stated: true }]

  // A long stated wait is only worth it where there is nowhere else to go.
  if (
    retryFits && (stated <= setup.patienceMs || findFree(setup, state, index + 1, cooling, now, index) === undefined)
  ) {
    return [state, { _tag: "Wait", index, chosen: "retry", delayMs: retryMs, stated: false }]
  }

  const onward = rule.sameTarget === "stated-wait"
    ? state
    : rule.otherTargets === "larger-window"
    ? onlyLargerWindows(setup, state, index)
    : suspect(setup, giveUp(state, index, rule.sameTarget === "backoff" ? "spent" : "failed"), index, error)
  if (rule.otherTargets === "never") return [onward, { _tag: "Stop", error }]
  if (rule.otherTargets === "larger-window") {
    const larger = findLarger(setup, onward, index, cooling, now)
    if (larger !== undefined) return [onward, attempt(setup, onward, larger, "next", cooling, now)]
  }
  return [onward, walk(setup, onward, index + 1, "next", cooling, now)]
}

const giveUp = (state: State, index: number, why: Why): State => ({
  ...state,
  givenUp: new Map(state.givenUp).set(index, why)
})

// What failed for a whole provider or account will most likely fail for its neighbours too.
const suspect = (setup: Setup, state: State, index: number, error: Errors.LLMError): State => {
  const target = setup.candidates[index]?.target
  const scopeKey = target === undefined ? undefined : scopeKeyOf(target, error.scope)
  return scopeKey === undefined ? state : { ...state, suspects: new Set(state.suspects).add(scopeKey) }
}

const isSuspect = (setup: Setup, state: State, index: number): boolean =>
  setup.candidates[index]?.scopeKeys.some((key) => state.suspects.has(key)) === true

// Overflow must never move to a window that is known to be as small; an unknown one may be larger.
const onlyLargerWindows = (setup: Setup, state: State, index: number): State => {
  const failed = setup.candidates[index]?.target
  const window = failed?.contextWindow
  return giveUpAll(
    setup,
    giveUp(state, index, "failed"),
    "context_window",
    (target) =>
      window !== undefined && target.contextWindow !== undefined
        ? target.contextWindow <= window
        : target.provider === failed?.provider && target.model === failed?.model
  )
}

/** Gives up, for the rest of a call, every candidate that a further attempt must not be sent to. */
export const giveUpAll = (setup: Setup, state: State, why: Why, when: (target: Target) => boolean): State => {
  const givenUp = new Map(state.givenUp)
  setup.candidates.forEach(({ target }, index) => {
    if (setup.fit[index] === 1 && when(target) && !givenUp.has(index)) givenUp.set(index, why)
  })
  return { ...state, givenUp }
}

const isFree = (setup: Setup, state: State, cooling: Cooling, index: number): boolean =>
  setup.fit[index] === 1 && cooling[index] === undefined && !state.givenUp.has(index)

const findFree = (
  setup: Setup,
  state: State,
  from: number,
  cooling: Cooling,
  now: number,
  except?: number
): number | undefined => {
  const start = from % setup.candidates.length
  const unmarked = cooling.length === 0 && state.givenUp.size === 0 && except === undefined
  const free = unmarked ? setup.fit : marked(setup, (index) => index !== except && isFree(setup, state, cooling, index))
  if (state.suspects.size === 0) return chosenBy(setup, free, start, now)
  const trusted = marked(setup, (index) => free[index] === 1 && !isSuspect(setup, state, index))
  const index = chosenBy(setup, trusted, start, now)
  return index === undefined || isSilent(setup, index, now) ? chosenBy(setup, free, start, now) ?? index : index
}

/** One that is silent only where all are. */
const chosenBy = (setup: Setup, free: Uint8Array, start: number, now: number): number | undefined => {
  const index = setup.choose(free, start)
  if (index < 0) return undefined
  if (!isSilent(setup, index, now)) return index
  const others = setup.choose(marked(setup, (other) => free[other] === 1 && !isSilent(setup, other, now)), start)
  return others < 0 ? index : others
}

const isSilent = ({ isSilent }: Setup, index: number, now: number): boolean =>
  isSilent !== undefined && isSilent(index, now)

const marked = (setup: Setup, mark: (index: number) => boolean): Uint8Array => {
  const marks = new Uint8Array(setup.candidates.length)
  for (let index = 0; index < marks.length; index++) if (mark(index)) marks[index] = 1
  return marks
}

/** The attempt that may be made beside those that run, `undefined` when there is no other target for it. */
export const beside = (
  setup: Setup,
  state: State,
  running: ReadonlyArray<number>,
  cooling: Cooling,
  now: number
): Extract<Decision, { readonly _tag: "Attempt" }> | undefined => {
  const free = marked(
    setup,
    (index) =>
      !running.includes(index) && isFree(setup, state, cooling, index) && !isSuspect(setup, state, index) &&
      !isSilent(setup, index, now)
  )
  const index = chosenBy(setup, free, ((running[0] ?? 0) + 1) % setup.candidates.length, now)
  if (index === undefined) return undefined
  // It leaves time to later targets as any attempt does, but those that run are not among them.
  const after = running.reduce((state, other) => giveUp(state, other, "failed"), {
    ...state,
    attempts: state.attempts + running.length
  })
  const sliceMs = sliceOf(setup, after, index, cooling, now)
  return { ...attempt(setup, state, index, "hedge", cooling, now), sliceMs }
}

const findSibling = (
  setup: Setup,
  state: State,
  index: number,
  cooling: Cooling,
  now: number
): number | undefined => {
  const failed = setup.candidates[index]?.target
  const free = marked(setup, (other) => {
    const target = setup.candidates[other]?.target
    return other !== index && target?.provider === failed?.provider && target?.model === failed?.model &&
      isFree(setup, state, cooling, other)
  })
  return chosenBy(setup, free, (index + 1) % setup.candidates.length, now)
}

const findLarger = (
  setup: Setup,
  state: State,
  index: number,
  cooling: Cooling,
  now: number
): number | undefined => {
  const free = marked(
    setup,
    (other) =>
      other !== index && setup.candidates[other]?.target.contextWindow !== undefined &&
      isFree(setup, state, cooling, other)
  )
  return chosenBy(setup, free, (index + 1) % setup.candidates.length, now)
}

/** What a later target needs at least, to be worth a start. */
const startMs = 500

const startsOf = (targets: number, remainingMs: number): number =>
  targets === 0 ? 0 : Math.min(targets * startMs, remainingMs * targets / (targets + 1))

/**
 * Returns how much of the time left an attempt may take: half of it, less where there are many more targets to start,
 * and never less than an equal part. The last target gets all there is.
 */
export const slice = (remainingMs: number, targets: number): number =>
  targets === 0
    ? remainingMs
    : Math.max(remainingMs / (targets + 1), Math.min(remainingMs / 2, remainingMs - targets * startMs))

/** How many other targets the call may still start an attempt at. */
const later = (setup: Setup, state: State, cooling: Cooling, index: number, now: number): number => {
  const attempts = setup.maxAttempts - state.attempts - 1
  if (attempts <= 0) return 0
  if (cooling.length === 0 && state.givenUp.size === 0) return Math.min(attempts, setup.fitting - 1)
  let startable = 0
  for (let other = 0; other < setup.candidates.length; other++) {
    if (
      other !== index && (isFree(setup, state, cooling, other) || hasRoomSoon(setup, state, cooling[other], other, now))
    ) {
      startable++
    }
  }
  return Math.min(attempts, startable)
}

// Who only lacks room for now has not failed, and will be there.
const hasRoomSoon = (
  setup: Setup,
  state: State,
  entry: Blocked | undefined,
  index: number,
  now: number
): boolean =>
  entry !== undefined && entry.scopeKey === limitKey && Number.isFinite(entry.remainingMs) &&
  setup.fit[index] === 1 && !state.givenUp.has(index) && isSoon(setup, entry, now)

const sliceOf = (setup: Setup, state: State, index: number, cooling: Cooling, now: number): number => {
  const remainingMs = setup.deadlineAt - now
  const least = Math.min(remainingMs / 2, remainingMs - setup.maxAttempts * startMs)
  // With plenty of time the limit of an attempt leaves enough for all; what must not be sent again has no later targets.
  if (setup.fitting === 1 || least >= setup.attemptMs || !setup.replays) return Number.POSITIVE_INFINITY
  const targets = later(setup, state, cooling, index, now)
  const sliceMs = slice(remainingMs, targets)
  return targets === 0 || sliceMs >= setup.attemptMs ? Number.POSITIVE_INFINITY : sliceMs
}

const walk = (
  setup: Setup,
  state: State,
  from: number,
  chosen: Errors.Attempt["chosen"],
  cooling: Cooling,
  now: number
): Decision => {
  const free = findFree(setup, state, from, cooling, now)
  // Rather than join those that wait for a silent target, a call waits for one that answers.
  const soon = free !== undefined && isSilent(setup, free, now) ? findSoon(setup, state, cooling, now) : undefined
  if (free !== undefined && soon === undefined) return attempt(setup, state, free, chosen, cooling, now)
  const earliest = soon ?? findEarliest(setup, state, cooling)
  const entry = earliest === undefined ? undefined : cooling[earliest]
  // Only the limiter can tell when it is the turn of somebody whose wait nobody knows.
  const unknown = entry?.remainingMs === Number.POSITIVE_INFINITY && entry.scopeKey === limitKey
  if (earliest === undefined || entry === undefined || (!unknown && now + delayOf(entry) >= setup.deadlineAt)) {
    return exhausted(setup, state, cooling)
  }
  return entry.scopeKey === limitKey
    ? { ...attempt(setup, state, earliest, "earliest", cooling, now), queue: true }
    : { _tag: "Wait", index: earliest, chosen: "earliest", delayMs: delayOf(entry), stated: true }
}

const findEarliest = (
  setup: Setup,
  state: State,
  cooling: Cooling,
  isMeant: (entry: Blocked | undefined) => boolean = always
): number | undefined => {
  let earliest: number | undefined
  let soonest = Number.POSITIVE_INFINITY
  for (let index = 0; index < setup.candidates.length; index++) {
    const entry = cooling[index]
    if (setup.fit[index] !== 1 || state.givenUp.has(index) || !isMeant(entry)) continue
    const remaining = entry === undefined ? 0 : delayOf(entry)
    if (earliest === undefined || remaining < soonest) {
      earliest = index
      soonest = remaining
    }
  }
  return earliest
}

const always = (): boolean => true

/** The candidate that is free again first, when that takes no more than half of the time left. */
const findSoon = (setup: Setup, state: State, cooling: Cooling, now: number): number | undefined =>
  findEarliest(setup, state, cooling, (entry) => entry !== undefined && isSoon(setup, entry, now))

// A slot comes back with the next answer.
const isSoon = (setup: Setup, entry: Blocked, now: number): boolean =>
  2 * entry.remainingMs <= setup.deadlineAt - now ||
  (entry.remainingMs === Number.POSITIVE_INFINITY && entry.scopeKey === limitKey)

const attempt = (
  setup: Setup,
  state: State,
  index: number,
  chosen: Errors.Attempt["chosen"],
  cooling: Cooling,
  now: number
): Extract<Decision, { readonly _tag: "Attempt" }> => ({
  _tag: "Attempt",
  index,
  chosen,
  skipped: skippedFor(setup, state, index, cooling),
  queue: false,
  sliceMs: sliceOf(setup, state, index, cooling, now)
})

const none: ReadonlyArray<Errors.Skipped> = []

export const skippedFor = (
  setup: Setup,
  state: State,
  chosen: number,
  cooling: Cooling
): ReadonlyArray<Errors.Skipped> => {
  if (cooling.length === 0 && state.givenUp.size === 0) return none
  const skipped: Array<Errors.Skipped> = []
  setup.candidates.forEach(({ target }, index) => {
    if (index === chosen || setup.fit[index] !== 1) return
    const why = state.givenUp.get(index)
    const entry = cooling[index]
    if (why !== undefined) skipped.push({ target: target.id, why })
    else if (entry !== undefined) {
      const why = entry.scopeKey === limitKey || entry.scopeKey === circuitKey ? entry.scopeKey : "cooldown"
      const { remainingMs } = entry
      skipped.push({ target: target.id, why, ...(Number.isFinite(remainingMs) ? { remainingMs } : undefined) })
    }
  })
  return skipped
}

/** The refusal when nothing is left: the error of the target that recovers first, with the counts by provider. */
export const exhausted = (setup: Setup, state: State, cooling: Cooling): Decision => {
  let surfaced: number | undefined
  let soonest = Number.POSITIVE_INFINITY
  let earliestMs: number | undefined
  const providers = new Map<string, { provider: string; available: number; total: number }>()
  for (let index = 0; index < setup.candidates.length; index++) {
    if (setup.fit[index] !== 1) continue
    const provider = setup.candidates[index]?.target.provider ?? ""
    const counts = providers.get(provider) ?? { provider, available: 0, total: 0 }
    providers.set(provider, counts)
    counts.total++
    if (isFree(setup, state, cooling, index)) counts.available++
    const remaining = cooling[index]?.remainingMs
    const error = state.errors.get(index)
    if (error?.errorClass === "permanent") continue
    if (remaining !== undefined && Number.isFinite(remaining)) earliestMs = Math.min(earliestMs ?? remaining, remaining)
    if (error === undefined && remaining === undefined) continue
    // What never recovers is told, too, where nothing does.
    if (surfaced === undefined || (remaining ?? 0) < soonest) {
      soonest = remaining ?? 0
      surfaced = index
    }
  }
  const exhaustion: Errors.Exhaustion = {
    targets: setup.fitting,
    providers: Array.from(providers.values()),
    ...(earliestMs === undefined ? undefined : { earliestMs })
  }
  return { _tag: "Stop", error: surface(setup, state, cooling, surfaced, exhaustion) }
}

const surface = (
  setup: Setup,
  state: State,
  cooling: Cooling,
  index: number | undefined,
  exhaustion: Errors.Exhaustion
): Errors.LLMError => {
  const retryAfter = exhaustion.earliestMs === undefined
    ? undefined
    : { retryAfter: Duration.millis(exhaustion.earliestMs) }
  const raised = index === undefined ? state.errors.values().next().value : state.errors.get(index)
  // What is wrong with the request says more than a count, and so do, with one target, the provider's own words.
  if (raised !== undefined) {
    const own = setup.fitting === 1 || (raised.errorClass === "permanent" && raised.scope === "request")
    return own ? raised : Errors.update(raised, { exhaustion, ...retryAfter })
  }
  const entry = index === undefined ? undefined : cooling[index]
  const target = index === undefined ? undefined : setup.candidates[index]?.target
  return Errors.make(entry === undefined ? "unknown" : classOf(entry.reason), {
    provider: target?.provider ?? "none",
    model: target?.model,
    target: target?.id,
    origin: entry?.scopeKey === circuitKey ? "circuit" : "cooldown",
    reason: entry?.reason ?? "cooldown",
    exhaustion,
    ...retryAfter
  })
}

// A cooldown remembers its reason only; the class of a refusal follows from it.
const classOf = (reason: Errors.Reason): Errors.ErrorClass => {
  switch (reason) {
    case "invalid_key":
    case "expired_credential":
    case "permission_denied":
    case "ip_blocked":
    case "region_blocked":
      return "authentication"
    case "connect_timeout":
    case "headers_timeout":
    case "body_timeout":
    case "client_timeout":
    case "gateway_timeout":
    case "first_token":
    case "idle":
    case "attempt":
      return "timeout"
    case "model_not_found":
      return "permanent"
    case "overloaded":
    case "capacity":
    case "internal_error":
    case "circuit_open":
      return "server_error"
    default:
      return "rate_limit"
  }
}
