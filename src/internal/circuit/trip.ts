/**
 * When a circuit opens: rules as data, and what each of them remembers of the calls.
 *
 * @internal
 */
import type { ErrorClass } from "../../LLMError.ts"
import * as Windows from "./window.ts"

/** @internal */
export type FailureClass = ErrorClass | "defect"

/**
 * Which failures a rule counts, and for how much.
 *
 * @internal
 */
export interface Filter {
  /** The classes that count as failures, all when absent. */
  readonly classes?: ReadonlyArray<FailureClass> | undefined
  /** What a failure of a class counts; 1 for classes that are not named. */
  readonly weights?: { readonly [Class in FailureClass]?: number | undefined } | undefined
}

/** @internal */
export type Span = { readonly size: number } | { readonly windowMs: number }

/** @internal */
export type Signal = "failures" | "duration" | "firstToken"

/** @internal */
export interface Consecutive extends Filter {
  readonly _tag: "Consecutive"
  readonly failures: number
}

/** @internal */
export interface Rate extends Filter {
  readonly _tag: "Rate"
  readonly span: Span
  readonly minimumCalls: number
  readonly threshold: number
}

/** @internal */
export interface Ratio extends Filter {
  readonly _tag: "Ratio"
  readonly failures: number
  readonly outOf: number
}

/** @internal */
export interface SlowCalls {
  readonly _tag: "SlowCalls"
  readonly signal: "duration" | "firstToken"
  readonly limitMs: number
  readonly span: Span
  readonly minimumCalls: number
  readonly threshold: number
}

/** @internal */
export interface Trend {
  readonly _tag: "Trend"
  readonly signal: Signal
  readonly windowMs: number
  readonly horizonMs: number
  readonly minimumCalls: number
  readonly bound: number
}

/** @internal */
export type Rule = Consecutive | Rate | Ratio | SlowCalls | Trend

/**
 * One call as the rules see it.
 *
 * @internal
 */
export interface Sample {
  /** Absent when the call succeeded. */
  readonly failure: FailureClass | undefined
  /** What the failure counts before a rule's own weights. */
  readonly weight: number
  readonly durationMs: number
  readonly firstTokenMs: number | undefined
  /** When the stated wait ends; minus infinity when none was stated. */
  readonly hintUntil: number
}

/**
 * What a rule remembers.
 *
 * @internal
 */
export type Memory = Streak | Windows.Window

/** @internal */
export interface Streak {
  readonly _tag: "Streak"
  readonly length: number
  readonly hintUntil: number
}

const noStreak: Streak = { _tag: "Streak", length: 0, hintUntil: Windows.none.hintUntil }

/** @internal */
export const initial = (rule: Rule): Memory => {
  switch (rule._tag) {
    case "Consecutive":
      return noStreak
    case "Ratio":
      return Windows.count(rule.outOf)
    case "Rate":
    case "SlowCalls":
      return "size" in rule.span ? Windows.count(rule.span.size) : Windows.time(rule.span.windowMs)
    case "Trend":
      return Windows.time(rule.windowMs)
  }
}

/** @internal */
export const record = (rule: Rule, memory: Memory, sample: Sample, now: number): Memory => {
  if (memory._tag === "Streak") {
    if (sample.failure === undefined) return noStreak
    const weight = weightOf(rule, sample)
    return weight === 0 ? memory : {
      _tag: "Streak",
      length: memory.length + weight,
      hintUntil: Math.max(memory.hintUntil, sample.hintUntil)
    }
  }
  const value = valueOf(rule, sample)
  return value === undefined ? memory : Windows.record(memory, value, sample.hintUntil, now)
}

// A failure that a rule does not count is still a call, so it lowers a rate; it neither feeds nor ends a streak.
const weightOf = (filter: Filter | SlowCalls | Trend, sample: Sample): number => {
  if (sample.failure === undefined) return 0
  if (!("classes" in filter || "weights" in filter)) return sample.weight
  if (filter.classes !== undefined && !filter.classes.includes(sample.failure)) return 0
  return sample.weight * (filter.weights?.[sample.failure] ?? 1)
}

const valueOf = (rule: Rule, sample: Sample): number | undefined => {
  switch (rule._tag) {
    case "Consecutive":
    case "Rate":
      return weightOf(rule, sample)
    case "Ratio":
      return weightOf(rule, sample) > 0 ? 1 : 0
    case "SlowCalls": {
      const measured = timeOf(rule.signal, sample)
      return measured === undefined ? undefined : measured > rule.limitMs ? 1 : 0
    }
    case "Trend":
      return rule.signal === "failures" ? weightOf(rule, sample) : timeOf(rule.signal, sample)
  }
}

const timeOf = (signal: "duration" | "firstToken", sample: Sample): number | undefined =>
  signal === "duration" ? sample.durationMs : sample.firstTokenMs

/**
 * Whether a call is slow by one of the rules.
 *
 * @internal
 */
export const isSlow = (rules: ReadonlyArray<Rule>, sample: Sample): boolean =>
  rules.some((rule) => rule._tag === "SlowCalls" && valueOf(rule, sample) === 1)

/**
 * How far a rule is from opening the circuit: it does when `value` has reached `bound` over enough calls.
 *
 * @internal
 */
export interface Reading {
  readonly rule: Rule["_tag"]
  /** Calls the value rests on; for a streak its length. */
  readonly calls: number
  readonly minimumCalls: number
  readonly value: number
  readonly bound: number
  /** The latest time at which a stated wait of these calls ends; minus infinity when none was stated. */
  readonly hintUntil: number
}

/** @internal */
export const read = (rule: Rule, memory: Memory, now: number): Reading => {
  if (memory._tag === "Streak") {
    const { hintUntil, length } = memory
    const bound = rule._tag === "Consecutive" ? rule.failures : Number.POSITIVE_INFINITY
    return { rule: rule._tag, calls: length, minimumCalls: 0, value: length, bound, hintUntil }
  }
  const { calls, hintUntil, sum } = Windows.read(memory, now)
  const share = calls === 0 ? 0 : sum / calls
  const base = { rule: rule._tag, calls, hintUntil }
  switch (rule._tag) {
    case "Consecutive":
      return { ...base, minimumCalls: 0, value: sum, bound: rule.failures }
    case "Ratio":
      return { ...base, minimumCalls: 0, value: sum, bound: rule.failures }
    case "Rate":
    case "SlowCalls":
      return { ...base, minimumCalls: rule.minimumCalls, value: share, bound: rule.threshold }
    case "Trend":
      return {
        ...base,
        minimumCalls: rule.minimumCalls,
        value: memory._tag === "Time" ? predicted(memory, now, rule.horizonMs) : 0,
        bound: rule.bound
      }
  }
}

/** @internal */
export const trips = (reading: Pick<Reading, "calls" | "minimumCalls" | "value" | "bound">): boolean =>
  reading.calls >= reading.minimumCalls && reading.value >= reading.bound

/**
 * Reads the rule that opens the circuit: of several, the one with the longest stated wait.
 *
 * @internal
 */
export const tripped = (
  rules: ReadonlyArray<Rule>,
  memories: ReadonlyArray<Memory>,
  now: number
): Reading | undefined => {
  let longest: Reading | undefined
  for (let i = 0; i < rules.length; i++) {
    const rule = rules[i]
    const memory = memories[i]
    // An unbroken success needs no reading, which is what a healthy circuit does all day.
    if (rule === undefined || memory === undefined || memory === noStreak) continue
    const reading = read(rule, memory, now)
    if (trips(reading) && (longest === undefined || reading.hintUntil > longest.hintUntil)) longest = reading
  }
  return longest
}

// A line through fewer points than half the window has says more about chance than about the future.
const smallestTrend = 5

/** The mean of the calls as the line through their bucket means has it at the horizon; nothing for one that falls. */
const predicted = (window: Windows.TimeWindow, now: number, horizonMs: number): number => {
  const buckets = window.buckets.filter((bucket) => now - bucket.start < window.windowMs)
  if (buckets.length < smallestTrend) return 0
  const calls = buckets.reduce((sum, bucket) => sum + bucket.calls, 0)
  const at = (bucket: Windows.Bucket) => bucket.start + window.bucketMs / 2 - now
  const meanAt = buckets.reduce((sum, bucket) => sum + bucket.calls * at(bucket), 0) / calls
  const mean = buckets.reduce((sum, bucket) => sum + bucket.sum, 0) / calls
  let covariance = 0
  let variance = 0
  for (const bucket of buckets) {
    const distance = at(bucket) - meanAt
    covariance += bucket.calls * distance * (bucket.sum / bucket.calls - mean)
    variance += bucket.calls * distance * distance
  }
  const slope = covariance / variance
  return slope > 0 ? mean + slope * (horizonMs - meanAt) : 0
}

const percent = (share: number): string => `${Math.round(share * 100)} %`

/**
 * Says why a rule opened the circuit.
 *
 * @internal
 */
export const describe = (rule: Reading): string => {
  switch (rule.rule) {
    case "Consecutive":
      return `${rule.value} consecutive ${rule.value === 1 ? "failure" : "failures"}`
    case "Ratio":
      return `${rule.value} of the last ${rule.calls} calls failed`
    case "Rate":
      return `${percent(rule.value)} of ${rule.calls} calls failed`
    case "SlowCalls":
      return `${percent(rule.value)} of ${rule.calls} calls were slow`
    case "Trend":
      return `a trend over ${rule.calls} calls reaches ${Number(rule.value.toPrecision(3))}`
  }
}
