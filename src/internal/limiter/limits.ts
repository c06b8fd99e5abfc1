/**
 * What users say about limits, checked and turned into plain numbers.
 *
 * @internal
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import { isPeriod, type Period } from "./calendar.ts"

/** How much may be used in how long. */
export interface Quota {
  /** Requests or tokens in one `per`. */
  readonly limit: number
  /** Length of the window; `"month"` for calendar windows only. */
  readonly per: Duration.Input | "month"
  /**
   * What may be used at once after idling, for continuous windows only.
   *
   * @default limit
   */
  readonly burst?: number | undefined
  /**
   * How the quota comes back: little by little (`continuous`), each use one `per` after it (`sliding`), or all at the
   * start of a day, week, month, hour or minute (`calendar`).
   *
   * @default "continuous"
   */
  readonly window?: "continuous" | "sliding" | "calendar" | undefined
  /**
   * Time zone of calendar windows, such as `America/Los_Angeles` or `+02:00`.
   *
   * @default "UTC"
   */
  readonly timeZone?: string | undefined
}

/** All limits of one scope. What has no limit is not limited. */
export interface Limits {
  readonly requests?: Quota | ReadonlyArray<Quota> | undefined
  /** Input and output tokens together. */
  readonly tokens?: Quota | ReadonlyArray<Quota> | undefined
  readonly inputTokens?: Quota | ReadonlyArray<Quota> | undefined
  readonly outputTokens?: Quota | ReadonlyArray<Quota> | undefined
  /** Requests in flight at the same time. */
  readonly concurrency?: number | undefined
  /** Shortest time from the start of one request to the start of the next; idle time is not saved up. */
  readonly minInterval?: Duration.Input | undefined
}

/** @internal */
export type Rate = "requests" | "tokens" | "inputTokens" | "outputTokens"

/** @internal */
export const rates: ReadonlyArray<Rate> = ["requests", "tokens", "inputTokens", "outputTokens"]

/** @internal */
export type Window =
  | { readonly _tag: "Continuous"; readonly capacity: number; readonly windowMs: number }
  | { readonly _tag: "Sliding"; readonly windowMs: number }
  | { readonly _tag: "Calendar"; readonly period: Period; readonly zone: DateTime.TimeZone }

/** @internal */
export interface Rule {
  readonly dimension: Rate
  readonly limit: number
  readonly window: Window
  /** Two rules of one id are the same window with perhaps another limit. */
  readonly id: string
  readonly label: string
}

/**
 * Limits as numbers.
 *
 * @internal
 */
export interface Plan {
  readonly rules: ReadonlyArray<Rule>
  /** `Infinity` when there is no limit. */
  readonly concurrency: number
  /** 0 when there is none. */
  readonly minIntervalMs: number
}

/**
 * Checks limits and returns their plan. Throws a `RangeError` that names the field.
 *
 * @internal
 */
export const plan = (limits: Limits, owner = "RateLimiter"): Plan => {
  const rules = rates.flatMap((dimension) => {
    const quotas = limits[dimension]
    return quotas === undefined
      ? []
      : isArray(quotas)
      ? quotas.map((quota, index) => ruleOf(owner, `${dimension}[${index}]`, dimension, quota))
      : [ruleOf(owner, dimension, dimension, quotas)]
  })
  const { concurrency, minInterval } = limits
  if (concurrency !== undefined && !(Number.isInteger(concurrency) && concurrency > 0)) {
    throw invalid(owner, "concurrency", "a whole number > 0", concurrency)
  }
  return {
    rules: merge(rules),
    concurrency: concurrency ?? Number.POSITIVE_INFINITY,
    minIntervalMs: minInterval === undefined ? 0 : millis(owner, "minInterval", minInterval)
  }
}

/**
 * Returns a plan that is as strict as both.
 *
 * @internal
 */
export const strictest = (a: Plan, b: Plan): Plan => ({
  rules: merge([...a.rules, ...b.rules]),
  concurrency: Math.min(a.concurrency, b.concurrency),
  minIntervalMs: Math.max(a.minIntervalMs, b.minIntervalMs)
})

/**
 * Returns the part of a plan that one of several processes may use, so that all of them together keep the whole.
 *
 * A process can always send one request, and one at a time, however many there are.
 *
 * @internal
 */
export const partOf = (plan: Plan, processes: number): Plan =>
  processes === 1 ? plan : {
    rules: plan.rules.map((rule): Rule => {
      const least = rule.dimension === "requests" ? 1 : 0
      const label = `${rule.label}, a part of ${processes}`
      const { window } = rule
      return window._tag === "Continuous"
        ? {
          ...rule,
          limit: rule.limit / processes,
          window: { ...window, capacity: Math.max(window.capacity / processes, least) },
          label
        }
        : { ...rule, limit: Math.max(rule.limit / processes, least), label }
    }),
    concurrency: Math.max(1, Math.floor(plan.concurrency / processes)),
    minIntervalMs: plan.minIntervalMs * processes
  }

// One window is counted once, by its strictest rule.
const merge = (rules: ReadonlyArray<Rule>): ReadonlyArray<Rule> => {
  const merged = new Map<string, Rule>()
  for (const rule of rules) {
    const other = merged.get(rule.id)
    if (
      other === undefined || rule.limit < other.limit ||
      (rule.limit === other.limit && capacity(rule) < capacity(other))
    ) {
      merged.set(rule.id, rule)
    }
  }
  return Array.from(merged.values())
}

/** @internal */
export const samePlan = (a: Plan, b: Plan): boolean =>
  a.concurrency === b.concurrency && a.minIntervalMs === b.minIntervalMs && a.rules.length === b.rules.length &&
  a.rules.every((rule, index) => {
    const other = b.rules[index]
    return other !== undefined && rule.id === other.id && rule.limit === other.limit &&
      capacity(rule) === capacity(other)
  })

const capacity = (rule: Rule): number => rule.window._tag === "Continuous" ? rule.window.capacity : rule.limit

// `Array.isArray` does not narrow readonly arrays.
const isArray = (quotas: Quota | ReadonlyArray<Quota>): quotas is ReadonlyArray<Quota> => Array.isArray(quotas)

const ruleOf = (owner: string, path: string, dimension: Rate, quota: Quota): Rule => {
  const { burst, limit, per, timeZone, window = "continuous" } = quota
  positive(owner, `${path}.limit`, limit)
  if (burst !== undefined) {
    positive(owner, `${path}.burst`, burst)
    if (window !== "continuous") {
      throw invalid(owner, `${path}.burst`, "left out of a window that is not continuous", burst)
    }
  }
  if (timeZone !== undefined && window !== "calendar") {
    throw invalid(owner, `${path}.timeZone`, "left out of a window that is not calendar", timeZone)
  }
  const named = per === "month"
  if (named && window !== "calendar") throw invalid(owner, `${path}.per`, "a duration for this window", per)
  const length = named ? 0 : millis(owner, `${path}.per`, per)
  const label = `${limit} per ${named ? "month" : Duration.format(Duration.millis(length))}`
  switch (window) {
    case "continuous":
      return {
        dimension,
        limit,
        window: { _tag: "Continuous", capacity: burst ?? limit, windowMs: length },
        id: `${dimension}:continuous:${length}`,
        label
      }
    case "sliding":
      return {
        dimension,
        limit,
        window: { _tag: "Sliding", windowMs: length },
        id: `${dimension}:sliding:${length}`,
        label
      }
    case "calendar": {
      if (!named && !isPeriod(length)) {
        throw invalid(
          owner,
          `${path}.per`,
          "a month, a week, a day or a part that divides a day",
          Duration.format(Duration.millis(length))
        )
      }
      const zone = Option.getOrUndefined(DateTime.zoneFromString(timeZone ?? "UTC"))
      if (zone === undefined) throw invalid(owner, `${path}.timeZone`, "a known time zone", timeZone)
      const period: Period = named ? "month" : length
      return {
        dimension,
        limit,
        window: { _tag: "Calendar", period, zone },
        id: `${dimension}:calendar:${period}:${timeZone ?? "UTC"}`,
        label
      }
    }
  }
}

const positive = (owner: string, field: string, value: number): void => {
  if (!(Number.isFinite(value) && value > 0)) throw invalid(owner, field, "a number > 0", value)
}

const millis = (owner: string, field: string, input: Duration.Input): number => {
  const value = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  if (!(Number.isFinite(value) && value > 0)) throw invalid(owner, field, "a finite duration > 0", input)
  return value
}

const invalid = (owner: string, field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`${owner}: ${field} must be ${demand}, got ${String(got)}`)
