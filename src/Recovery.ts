/**
 * What to do after a failure, as a table of data.
 *
 * Each class of error has a rule: whether the same target may be tried again, whether others may be tried, and what is
 * cooled down for how long. A reason that needs another answer than its class overrides parts of the rule. `make`
 * merges your changes over `defaults`; the router reads nothing but this table.
 *
 * **Details**
 *
 * | class | same target | other targets | cooldown | circuit |
 * |---|---|---|---|---|
 * | `rate_limit` | after a stated wait within the router's patience | at once, another key of the same model first | the stated wait, 60 s when none is stated | ignored |
 * | `timeout` | no | at once | 10 s, target | failure |
 * | `server_error`, `transient_network` | backoff | when the retries are spent | the stated wait, none when none is stated | failure |
 * | `authentication` | no | at once, another key of the same model first | 1 h | ignored |
 * | `permanent` | no | no | none | ignored |
 * | `unknown` | one retry | when the retry is spent | the stated wait | failure |
 *
 * By reason: `insufficient_quota` and `billing_disabled` cool the group for 1 h and go on; `context_length_exceeded`
 * moves to larger windows only; `model_not_found`, `region_blocked` and `request_exceeds_limit` let others try.
 *
 * Stated waits are clamped to 1 s … 1 h before they become cooldowns, since providers state both 1 ms and 24 h where
 * neither is true. Where none is stated and the limits of the target are used up by the router's own count as well, one
 * window of the limit it waits for is enough, when that is shorter: a second for 5 requests a second.
 *
 * **Example** (A table with one cell changed)
 *
 * ```ts import.meta.vitest
 * import { LLMError, Recovery } from "breakwater"
 *
 * const recovery = Recovery.make({ classes: { timeout: { cooldown: "30 seconds" } } })
 * const slow = new LLMError.TimeoutError({ provider: "groq", reason: "attempt" })
 *
 * Recovery.cooldownMillis(Recovery.ruleFor(recovery, slow), slow) // => 30000
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type { ErrorClass, LLMError, Reason, Scope } from "./LLMError.ts"

/**
 * What to do after one kind of failure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  /**
   * Whether the same target is tried again: `never`, after the retry schedule's `backoff`, or after the `stated-wait`
   * when that is no longer than the router's patience.
   */
  readonly sameTarget: "never" | "backoff" | "stated-wait"
  /** Retries on the same target within one call, besides what the retry schedule allows. */
  readonly retries: number
  /** Whether other targets are tried: `never`, `at-once`, `after-retries`, or only those with a `larger-window`. */
  readonly otherTargets: "never" | "at-once" | "after-retries" | "larger-window"
  /** Whether another key of the same model is preferred to another model. */
  readonly siblingsFirst: boolean
  /** Cooldown when the provider states no wait; zero starts none. */
  readonly cooldown: Duration.Duration
  /** Whether a wait that the provider states becomes the cooldown. */
  readonly statedWait: boolean
  /** What is cooled down: the failure's own scope, or a fixed one. */
  readonly scope: "failure" | Scope
  /** Whether the failure counts against the target's circuit. */
  readonly circuit: "failure" | "ignored"
}

/**
 * The whole table.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recovery {
  readonly classes: Readonly<Record<ErrorClass, Rule>>
  readonly reasons: Partial<Readonly<Record<Reason, Rule>>>
}

/**
 * Changes to a rule; durations in any form.
 *
 * @category options
 * @since 0.1.0
 */
export type RulePatch = Partial<Omit<Rule, "cooldown">> & { readonly cooldown?: Duration.Input }

/**
 * Changes to the table.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly classes?: Partial<Readonly<Record<ErrorClass, RulePatch>>> | undefined
  readonly reasons?: Partial<Readonly<Record<Reason, RulePatch>>> | undefined
}

const backoff: Rule = {
  sameTarget: "backoff",
  retries: Number.POSITIVE_INFINITY,
  otherTargets: "after-retries",
  siblingsFirst: false,
  cooldown: Duration.zero,
  statedWait: true,
  scope: "failure",
  circuit: "failure"
}

const surface: Rule = {
  sameTarget: "never",
  retries: 0,
  otherTargets: "never",
  siblingsFirst: false,
  cooldown: Duration.zero,
  statedWait: false,
  scope: "failure",
  circuit: "ignored"
}

const moveOn: Rule = { ...surface, otherTargets: "at-once", cooldown: Duration.hours(1) }

const spent: Rule = { ...moveOn, scope: "group" }

/**
 * The table that applies when nothing else is said.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaults: Recovery = {
  classes: {
    rate_limit: {
      ...moveOn,
      sameTarget: "stated-wait",
      siblingsFirst: true,
      cooldown: Duration.seconds(60),
      statedWait: true
    },
    timeout: { ...moveOn, cooldown: Duration.seconds(10), scope: "target", circuit: "failure" },
    server_error: backoff,
    transient_network: backoff,
    authentication: { ...moveOn, siblingsFirst: true },
    permanent: surface,
    unknown: { ...backoff, retries: 1 }
  },
  reasons: {
    insufficient_quota: spent,
    billing_disabled: spent,
    model_not_found: moveOn,
    region_blocked: moveOn,
    request_exceeds_limit: { ...moveOn, cooldown: Duration.zero },
    context_length_exceeded: { ...surface, otherTargets: "larger-window" },
    deadline: surface
  }
}

/**
 * Creates a table: the defaults with your changes.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the cell when `retries` or a cooldown is negative or not a number. A change for a
 * reason that has no rule of its own yet starts from the rule of `permanent`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Recovery => ({
  classes: patchAll("classes", defaults.classes, options.classes ?? {}),
  reasons: patchAll("reasons", defaults.reasons, options.reasons ?? {})
})

const patchAll = <Rules extends Partial<Record<string, Rule>>>(
  table: string,
  rules: Rules,
  changes: Partial<Record<string, RulePatch>>
): Rules => {
  const patched: Partial<Record<string, Rule>> = {}
  for (const [name, change] of Object.entries(changes)) {
    if (change !== undefined) patched[name] = patch(`${table}.${name}`, rules[name] ?? surface, change)
  }
  return { ...rules, ...patched }
}

const patch = (path: string, rule: Rule, change: RulePatch): Rule => {
  const cooldown = change.cooldown === undefined ? rule.cooldown : Duration.fromInputUnsafe(change.cooldown)
  const retries = change.retries ?? rule.retries
  if (!(retries >= 0)) throw new RangeError(`Recovery.make: ${path}.retries must be >= 0, got ${retries}`)
  if (!(Duration.toMillis(cooldown) >= 0)) {
    throw new RangeError(`Recovery.make: ${path}.cooldown must be >= 0, got ${Duration.format(cooldown)}`)
  }
  return { ...rule, ...change, cooldown, retries }
}

/**
 * Returns the rule for a failure: that of its reason when there is one, that of its class otherwise.
 *
 * @category accessors
 * @since 0.1.0
 */
export const ruleFor = (recovery: Recovery, error: LLMError): Rule =>
  recovery.reasons[error.reason] ?? recovery.classes[error.errorClass]

const shortestMillis = 1000
const longestMillis = 3_600_000

/**
 * Returns for how many milliseconds a failure cools its scope down; zero is no cooldown.
 *
 * @category accessors
 * @since 0.1.0
 */
export const cooldownMillis = (rule: Rule, error: LLMError): number => {
  if (rule.statedWait && error.retryAfter !== undefined) {
    const stated = Duration.toMillis(error.retryAfter)
    if (stated > 0) return Math.min(Math.max(stated, shortestMillis), longestMillis)
  }
  return Duration.toMillis(rule.cooldown)
}

/**
 * Returns the scope that a failure cools down.
 *
 * @category accessors
 * @since 0.1.0
 */
export const cooldownScope = (rule: Rule, error: LLMError): Scope => rule.scope === "failure" ? error.scope : rule.scope
