/**
 * The circuit as a state machine: `(state, event, now) → (state, decision)`.
 *
 * Every function here is pure. A transition begins a new generation, and a call is recorded only into the generation
 * that admitted it. Chance is a number carried by the state, so that the same state and events give the same circuit.
 *
 * @internal
 */
import * as Trip from "./trip.ts"
import * as Windows from "./window.ts"

/** @internal */
export interface Config {
  readonly rules: ReadonlyArray<Trip.Rule>
  readonly open: OpenTimes
  readonly halfOpen: HalfOpenRule
  /** How long a probe may take. */
  readonly probeTimeoutMs: number
  /** How long a half-open phase may take. */
  readonly maxWaitMs: number
  readonly ramp: Ramp | undefined
  readonly disabled: boolean
}

/** @internal */
export interface OpenTimes {
  /** How long the n-th opening in a row lasts, from 1. */
  readonly durationMs: (attempt: number) => number
  /** Largest share of the duration that is added or taken to spread circuits that opened together. */
  readonly jitter: number
  /** Longest stated wait that is honoured. */
  readonly maxHintMs: number
  /** Whether a close forgets the openings before it, or only having stayed closed as long as the circuit was open. */
  readonly forget: "after-stable" | "on-close"
}

/** @internal */
export type HalfOpenRule =
  | { readonly _tag: "Successes"; readonly required: number; readonly permitted: number }
  | { readonly _tag: "SuccessRatio"; readonly required: number; readonly outOf: number; readonly permitted: number }
  | { readonly _tag: "FailureRatio"; readonly failures: number; readonly outOf: number; readonly permitted: number }
  | { readonly _tag: "Rate"; readonly permitted: number; readonly minimumCalls: number; readonly threshold: number }
  | { readonly _tag: "Sample"; readonly permitted: number; readonly tolerated: number }

/** @internal */
export interface Ramp {
  readonly windowMs: number
  readonly minimumShare: number
  readonly aggression: number
  readonly admission: "even" | "random"
}

/** @internal */
export type Status = "closed" | "open" | "half-open" | "ramp" | "isolated" | "disabled"

/** @internal */
export interface State {
  readonly generation: number
  readonly phase: Phase
  /** Openings in a row without a confirmed close. */
  readonly attempt: number
  /** How long the last opening lasts. */
  readonly openedForMs: number
  readonly isolations: ReadonlyArray<Isolation>
  /** Why it opened last. */
  readonly why: Why | undefined
  /** Milliseconds of the last event; time never runs backwards. */
  readonly lastAt: number
  readonly seed: number
}

/** @internal */
export type Phase = Closed | Open | HalfOpen

/** @internal */
export interface Closed {
  readonly _tag: "Closed"
  readonly since: number
  readonly memories: ReadonlyArray<Trip.Memory>
  /** The failure before, for a circuit that a success opens. */
  readonly failure: Evidence | undefined
  /** What the calls so far have earned of the next admission, while the share of traffic grows. */
  readonly credit: number | undefined
}

/** @internal */
export interface Open {
  readonly _tag: "Open"
  readonly since: number
  readonly until: number
}

/** @internal */
export interface HalfOpen {
  readonly _tag: "HalfOpen"
  readonly since: number
  readonly probes: ReadonlyArray<Probe>
  readonly nextProbe: number
  readonly successes: number
  readonly failures: number
  readonly slow: number
}

/** @internal */
export interface Probe {
  readonly id: number
  readonly deadline: number
}

/** @internal */
export interface Isolation {
  readonly token: number
  readonly reason: string
}

/**
 * A failure, as far as a refusal tells of it.
 *
 * @internal
 */
export interface Evidence {
  readonly failure: Trip.FailureClass
  readonly text: string
  readonly provider: string | undefined
  readonly model: string | undefined
  readonly target: string | undefined
}

/** @internal */
export interface Why {
  readonly text: string
  /** Absent when the circuit was opened by hand. */
  readonly failure: Trip.FailureClass | undefined
  readonly evidence: Evidence | undefined
}

/**
 * The right to make one call; what becomes of the call is recorded with it.
 *
 * @internal
 */
export interface Permit {
  readonly generation: number
  /** Set while the call holds a probe slot. */
  readonly probe: number | undefined
  /** Whether the call has been counted as a success already, at its first content. */
  readonly counted: boolean
}

/** @internal */
export type Outcome =
  | { readonly _tag: "Ignored" }
  | { readonly _tag: "Counted"; readonly sample: Trip.Sample; readonly evidence: Evidence | undefined }

/** @internal */
export type Decision =
  | { readonly _tag: "Admitted"; readonly permit: Permit }
  | { readonly _tag: "Refused"; readonly status: Status; readonly retryAfterMs: number; readonly why: string }

/** @internal */
export const initial = (config: Config, generation: number, seed: number, now: number): State => ({
  generation,
  phase: closed(config, now, false),
  attempt: 0,
  openedForMs: 0,
  isolations: [],
  why: undefined,
  lastAt: now,
  seed
})

/** @internal */
export const statusOf = (config: Config, state: State): Status => {
  if (config.disabled) return "disabled"
  if (state.isolations.length > 0) return "isolated"
  switch (state.phase._tag) {
    case "Closed":
      return state.phase.credit === undefined ? "closed" : "ramp"
    case "Open":
      return "open"
    case "HalfOpen":
      return "half-open"
  }
}

// -----------------------------------------------------------------------------
// Events
// -----------------------------------------------------------------------------

/**
 * Lets time pass: the end of a ramp, of a probe's time, of a half-open phase. Idempotent; at most one transition.
 *
 * @internal
 */
export const advance = (config: Config, state: State, now: number): State => {
  const { phase } = state
  switch (phase._tag) {
    case "Closed":
      return phase.credit === undefined || config.ramp === undefined || now - phase.since < config.ramp.windowMs
        ? state
        : {
          ...state,
          phase: { ...phase, credit: undefined },
          lastAt: Math.max(state.lastAt, phase.since + config.ramp.windowMs)
        }
    case "Open":
      return state
    case "HalfOpen": {
      const overdue = phase.probes.filter((probe) => probe.deadline <= now)
      const endsAt = phase.since + config.maxWaitMs
      const at = overdue.reduce((first, probe) => Math.min(first, probe.deadline), Number.POSITIVE_INFINITY)
      if (at > now && endsAt > now) return state
      if (endsAt <= at) return open(config, state, endsAt, unanswered(config.maxWaitMs), Windows.none.hintUntil)
      const waiting = phase.probes.filter((probe) => probe.deadline > now)
      const failures = phase.failures + overdue.length
      const after: State = { ...state, phase: { ...phase, probes: waiting, failures } }
      return settleProbes(config, after, at, overtime(config.probeTimeoutMs), Windows.none.hintUntil)
    }
  }
}

/**
 * Asks for a permit. An open circuit whose time has come lets a probe through; a refusal makes no transition.
 *
 * @internal
 */
export const admit = (config: Config, before: State, time: number): readonly [State, Decision] => {
  const now = Math.max(time, before.lastAt)
  const state = advance(config, before, now)
  const { generation, isolations, phase } = state
  if (config.disabled) return [state, { _tag: "Admitted", permit: { generation, probe: undefined, counted: false } }]
  const [isolation] = isolations
  if (isolation !== undefined) {
    const retryAfterMs = Number.POSITIVE_INFINITY
    return [state, { _tag: "Refused", status: "isolated", retryAfterMs, why: `isolated: ${isolation.reason}` }]
  }
  switch (phase._tag) {
    case "Closed":
      return phase.credit === undefined
        ? [state, { _tag: "Admitted", permit: { generation, probe: undefined, counted: false } }]
        : admitRamp(config, state, phase, phase.credit, now)
    case "Open":
      return now < phase.until
        ? [state, refuse("open", phase.until - now, `opened after ${state.why?.text ?? "a failure"}`)]
        : admitProbe(config, halfOpen(state, now), now)
    case "HalfOpen":
      return admitProbe(config, state, now)
  }
}

/**
 * Records what became of a call, and opens or closes the circuit. Outcomes of an older generation, and of a probe
 * whose time was over, change nothing.
 *
 * @internal
 */
export const record = (config: Config, before: State, permit: Permit, outcome: Outcome, time: number): State => {
  if (permit.generation !== before.generation) return before
  const now = Math.max(time, before.lastAt)
  const state = advance(config, before, now)
  if (permit.generation !== state.generation) return state
  const { phase } = state
  switch (phase._tag) {
    case "Open":
      return state
    case "Closed":
      return outcome._tag === "Ignored" || (permit.counted && outcome.sample.failure === undefined)
        ? state
        : recordClosed(config, state, phase, outcome.sample, outcome.evidence, now)
    case "HalfOpen":
      return recordProbe(config, state, phase, permit, outcome, now)
  }
}

/**
 * Counts a call as a success at its first content, so that a long stream does not hold a probe slot to its end. The
 * permit returned belongs to the generation that this makes; only a failure of it still counts.
 *
 * @internal
 */
export const decide = (
  config: Config,
  state: State,
  permit: Permit,
  sample: Trip.Sample,
  now: number
): readonly [State, Permit] => {
  const { phase } = state
  if (permit.probe === undefined || permit.generation !== state.generation || phase._tag !== "HalfOpen") {
    return [state, permit]
  }
  const after = record(config, state, permit, { _tag: "Counted", sample, evidence: undefined }, now)
  const succeeded = after.phase._tag === "Closed" ||
    (after.phase._tag === "HalfOpen" && after.phase.successes > phase.successes)
  return [after, { generation: succeeded ? after.generation : fenced, probe: undefined, counted: true }]
}

// No circuit ever has this generation.
const fenced = -1

/**
 * Opens the circuit by hand, or keeps it open longer; never shorter.
 *
 * @internal
 */
export const trip = (config: Config, before: State, forMs: number | undefined, time: number): State => {
  const now = Math.max(time, before.lastAt)
  const state = advance(config, before, now)
  const { phase } = state
  const hint = forMs === undefined ? Windows.none.hintUntil : now + forMs
  if (phase._tag === "Open" && phase.until > now) {
    const until = Math.max(phase.until, hint)
    return { ...state, phase: { ...phase, until }, openedForMs: until - phase.since, lastAt: now }
  }
  const opened = open(config, state, now, byHand, Windows.none.hintUntil)
  return forMs === undefined || opened.phase._tag !== "Open"
    ? opened
    : { ...opened, phase: { ...opened.phase, until: hint }, openedForMs: forMs }
}

/**
 * Lets probes through now, whatever time is left.
 *
 * @internal
 */
export const probe = (state: State, time: number): State => halfOpen(state, Math.max(time, state.lastAt))

/**
 * Closes the circuit and forgets everything, isolations included.
 *
 * @internal
 */
export const reset = (config: Config, state: State, now: number): State => ({
  ...initial(config, state.generation + 1, state.seed, Math.max(now, state.lastAt))
})

/** @internal */
export const isolate = (config: Config, before: State, isolation: Isolation, time: number): State => {
  const now = Math.max(time, before.lastAt)
  const state = advance(config, before, now)
  const isolations = [...state.isolations, isolation]
  if (state.isolations.length > 0) return { ...state, isolations, lastAt: now }
  const { phase } = state
  return {
    ...state,
    isolations,
    generation: state.generation + 1,
    lastAt: now,
    // Nobody will report for the probes in flight: the next one comes after the isolation.
    phase: phase._tag === "HalfOpen" ? { _tag: "Open", since: phase.since, until: now } : phase
  }
}

/**
 * Ends one isolation. After the last one the circuit is what it was: open for the rest of its time, or closed with
 * nothing remembered.
 *
 * @internal
 */
export const release = (config: Config, state: State, token: number, time: number): State => {
  const isolations = state.isolations.filter((isolation) => isolation.token !== token)
  if (isolations.length === state.isolations.length) return state
  const now = Math.max(time, state.lastAt)
  return isolations.length > 0 ? { ...state, isolations, lastAt: now } : {
    ...state,
    isolations,
    generation: state.generation + 1,
    lastAt: now,
    phase: state.phase._tag === "Closed" ? closed(config, now, true) : state.phase
  }
}

// -----------------------------------------------------------------------------
// Phases
// -----------------------------------------------------------------------------

const closed = (config: Config, since: number, ramp: boolean): Closed => ({
  _tag: "Closed",
  since,
  memories: config.rules.map(Trip.initial),
  failure: undefined,
  credit: ramp && config.ramp !== undefined ? 0 : undefined
})

const halfOpen = (state: State, now: number): State => ({
  ...state,
  generation: state.generation + 1,
  lastAt: now,
  phase: { _tag: "HalfOpen", since: now, probes: [], nextProbe: 1, successes: 0, failures: 0, slow: 0 }
})

const close = (config: Config, state: State, now: number): State => ({
  ...state,
  generation: state.generation + 1,
  lastAt: now,
  phase: closed(config, now, true)
})

/**
 * Which opening in a row the next one is.
 *
 * @internal
 */
export const nextAttempt = (config: Config, state: State, now: number): number => {
  const { phase } = state
  if (phase._tag !== "Closed" || phase.credit !== undefined) return state.attempt + 1
  return config.open.forget === "on-close" || now - phase.since >= state.openedForMs ? 1 : state.attempt + 1
}

const open = (config: Config, state: State, now: number, why: Why, hintUntil: number): State => {
  if (config.disabled) return state
  const attempt = nextAttempt(config, state, now)
  const { jitter, maxHintMs } = config.open
  const [random, seed] = jitter === 0 ? [0.5, state.seed] : draw(state.seed)
  const scheduled = config.open.durationMs(attempt) * (1 + jitter * (2 * random - 1))
  // A stated wait is a lower bound: it is only ever prolonged.
  const hint = Math.min(hintUntil - now, maxHintMs) * (1 + jitter * random)
  const openedForMs = Math.max(scheduled, hint)
  return {
    ...state,
    generation: state.generation + 1,
    phase: { _tag: "Open", since: now, until: now + openedForMs },
    attempt,
    openedForMs,
    why,
    lastAt: now,
    seed
  }
}

const byHand: Why = { text: "being tripped by hand", failure: undefined, evidence: undefined }

const overtime = (millis: number): Why => ({
  text: `a probe that had no result within ${millis} ms`,
  failure: "timeout",
  evidence: undefined
})

const unanswered = (millis: number): Why => ({
  text: `probes that decided nothing within ${millis} ms`,
  failure: "timeout",
  evidence: undefined
})

// -----------------------------------------------------------------------------
// Closed, and the ramp after it
// -----------------------------------------------------------------------------

/**
 * The share of traffic that is admitted so long after a close.
 *
 * @internal
 */
export const share = (ramp: Omit<Ramp, "admission">, elapsedMs: number): number => {
  // Within the first second the line through zero says nothing yet.
  const grown = (Math.max(elapsedMs, 1000) / ramp.windowMs) ** (1 / ramp.aggression)
  return Math.min(1, Math.max(ramp.minimumShare, grown))
}

const admitRamp = (
  config: Config,
  state: State,
  phase: Closed,
  credit: number,
  now: number
): readonly [State, Decision] => {
  const { ramp } = config
  if (ramp === undefined) return [state, refuse("ramp", 0, "recovering")]
  const portion = share(ramp, now - phase.since)
  const [random, seed] = ramp.admission === "even" ? [0, state.seed] : draw(state.seed)
  const earned = ramp.admission === "even" ? credit + portion : 0
  const admitted = ramp.admission === "even" ? earned >= 1 - 1e-9 : random < portion
  const after: State = { ...state, seed, phase: { ...phase, credit: admitted ? Math.max(0, earned - 1) : earned } }
  const permit = { generation: state.generation, probe: undefined, counted: false }
  return [
    after,
    admitted ? { _tag: "Admitted", permit } : refuse(
      "ramp",
      ramp.windowMs - (now - phase.since),
      `recovering, ${Math.round(portion * 100)} % of calls admitted, after ${state.why?.text ?? "an isolation"}`
    )
  ]
}

const recordClosed = (
  config: Config,
  state: State,
  phase: Closed,
  sample: Trip.Sample,
  evidence: Evidence | undefined,
  now: number
): State => {
  const failure = evidence ?? phase.failure
  if (phase.credit !== undefined && sample.failure !== undefined) {
    return open(config, state, now, because("a failure while recovering: ", sample.failure, evidence), sample.hintUntil)
  }
  const memories = recordAll(config.rules, phase.memories, sample, now)
  const unchanged = memories === phase.memories && failure === phase.failure
  const after: State = unchanged ? state : { ...state, phase: { ...phase, memories, failure }, lastAt: now }
  const tripped = Trip.tripped(config.rules, memories, now)
  if (tripped === undefined) return after
  const isTime = tripped.rule === "SlowCalls" || (tripped.rule === "Trend" && sample.failure === undefined)
  const why = because(
    `${Trip.describe(tripped)}, the last: `,
    isTime ? "timeout" : sample.failure ?? failure?.failure ?? "timeout",
    isTime ? undefined : failure
  )
  return open(config, after, now, why, tripped.hintUntil)
}

const recordAll = (
  rules: ReadonlyArray<Trip.Rule>,
  memories: ReadonlyArray<Trip.Memory>,
  sample: Trip.Sample,
  now: number
): ReadonlyArray<Trip.Memory> => {
  let changed: Array<Trip.Memory> | undefined
  for (let i = 0; i < rules.length; i++) {
    const rule = rules[i]
    const memory = memories[i]
    if (rule === undefined || memory === undefined) continue
    const next = Trip.record(rule, memory, sample, now)
    if (next === memory) continue
    changed ??= memories.slice()
    changed[i] = next
  }
  return changed ?? memories
}

const because = (lead: string, failure: Trip.FailureClass, evidence: Evidence | undefined): Why => ({
  text: evidence === undefined ? lead.replace(/(, the last)?: $/, "") : lead + evidence.text,
  failure,
  evidence
})

const refuse = (status: Status, retryAfterMs: number, why: string): Decision => ({
  _tag: "Refused",
  status,
  retryAfterMs,
  why
})

// -----------------------------------------------------------------------------
// Half-open
// -----------------------------------------------------------------------------

// Modes that look at a sample of fixed size admit no more probes than the sample needs.
const hasSlot = (rule: HalfOpenRule, phase: HalfOpen): boolean => {
  if (phase.probes.length >= rule.permitted) return false
  return (rule._tag !== "Rate" && rule._tag !== "Sample") ||
    phase.probes.length + phase.successes + phase.failures < rule.permitted
}

const admitProbe = (config: Config, state: State, now: number): readonly [State, Decision] => {
  const { generation, phase } = state
  if (phase._tag !== "HalfOpen") return [state, refuse("half-open", 0, "not half-open")]
  if (!hasSlot(config.halfOpen, phase)) {
    const earliest = phase.probes.reduce((first, { deadline }) => Math.min(first, deadline), Number.POSITIVE_INFINITY)
    const why = `probing after ${state.why?.text ?? "being opened"}`
    return [state, refuse("half-open", Math.min(earliest, phase.since + config.maxWaitMs) - now, why)]
  }
  const id = phase.nextProbe
  const probes = [...phase.probes, { id, deadline: now + config.probeTimeoutMs }]
  return [
    { ...state, lastAt: now, phase: { ...phase, probes, nextProbe: id + 1 } },
    { _tag: "Admitted", permit: { generation, probe: id, counted: false } }
  ]
}

const recordProbe = (
  config: Config,
  state: State,
  phase: HalfOpen,
  permit: Permit,
  outcome: Outcome,
  now: number
): State => {
  const probes = phase.probes.filter((probe) => probe.id !== permit.probe)
  if (probes.length === phase.probes.length && !permit.counted) return state
  const freed: State = { ...state, lastAt: now, phase: { ...phase, probes } }
  if (outcome._tag === "Ignored") return freed
  const { evidence, sample } = outcome
  if (permit.counted && sample.failure === undefined) return freed
  const isSlow = Trip.isSlow(config.rules, sample)
  // A rate has a share for the slow of its own; everywhere else a slow probe proves no recovery.
  const isFailure = sample.failure !== undefined || (isSlow && config.halfOpen._tag !== "Rate")
  const after: State = {
    ...freed,
    phase: {
      ...phase,
      probes,
      successes: phase.successes + (isFailure ? 0 : 1) - (permit.counted ? 1 : 0),
      failures: phase.failures + (isFailure ? 1 : 0),
      slow: phase.slow + (isSlow ? 1 : 0)
    }
  }
  const text = sample.failure === undefined ? "a slow probe: " : "a failed probe: "
  return settleProbes(config, after, now, because(text, sample.failure ?? "timeout", evidence), sample.hintUntil)
}

const settleProbes = (config: Config, state: State, now: number, why: Why, hintUntil: number): State => {
  if (state.phase._tag !== "HalfOpen") return state
  switch (verdict(config, state.phase)) {
    case "close":
      return close(config, state, now)
    case "open":
      return open(config, state, now, why, hintUntil)
    case "wait":
      return state
  }
}

const verdict = (config: Config, phase: HalfOpen): "close" | "open" | "wait" => {
  const { failures, slow, successes } = phase
  const { halfOpen } = config
  switch (halfOpen._tag) {
    case "Successes":
      return failures > 0 ? "open" : successes >= halfOpen.required ? "close" : "wait"
    case "SuccessRatio":
      if (successes >= halfOpen.required) return "close"
      return failures > halfOpen.outOf - halfOpen.required ? "open" : "wait"
    case "FailureRatio":
      if (failures >= halfOpen.failures) return "open"
      return successes > halfOpen.outOf - halfOpen.failures ? "close" : "wait"
    case "Rate": {
      const calls = successes + failures
      if (calls < Math.min(halfOpen.minimumCalls, halfOpen.permitted)) return "wait"
      const slowShare = slowBound(config.rules)
      return failures / calls >= halfOpen.threshold || slow / calls >= slowShare ? "open" : "close"
    }
    case "Sample": {
      const calls = successes + failures
      if (calls < halfOpen.permitted) return "wait"
      return failures / calls > halfOpen.tolerated ? "open" : "close"
    }
  }
}

const slowBound = (rules: ReadonlyArray<Trip.Rule>): number =>
  rules.reduce(
    (bound, rule) => rule._tag === "SlowCalls" ? Math.min(bound, rule.threshold) : bound,
    Number.POSITIVE_INFINITY
  )

/** A number between 0 and 1, and the seed of the next one (mulberry32). */
const draw = (seed: number): readonly [number, number] => {
  const next = (seed + 0x6d2b79f5) >>> 0
  let mixed = Math.imul(next ^ (next >>> 15), next | 1)
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
  return [((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32, next]
}
