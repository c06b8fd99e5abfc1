/**
 * Quotas of the test provider as a pure state machine: `(state, request, now) => [state, decision]`.
 *
 * Levels are whole numbers (tokens × milliseconds of the window), so a stated wait is exact: nothing is lost to
 * rounding however long the server runs.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"

/**
 * A quantity that comes back evenly over a window.
 *
 * @category models
 * @since 0.1.0
 */
export interface Quota {
  /** Units that come back over one window. */
  readonly limit: number
  /** Length of the window. */
  readonly per: Duration.Input
  /**
   * Units that may be taken at once after a rest.
   *
   * @default `limit`
   */
  readonly burst?: number | undefined
}

/**
 * What one quota bucket allows; an absent field is unlimited.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limits {
  readonly requests?: Quota | undefined
  /** Input and output together. */
  readonly tokens?: Quota | undefined
  readonly inputTokens?: Quota | undefined
  readonly outputTokens?: Quota | undefined
  /** Requests that may be in progress at the same time. */
  readonly concurrency?: number | undefined
}

/** @internal */
export type Dimension = "requests" | "tokens" | "inputTokens" | "outputTokens"

/** @internal */
export interface Line {
  readonly dimension: Dimension
  readonly limit: number
  readonly per: number
  readonly burst: number
}

/** @internal */
export interface Rules {
  readonly lines: ReadonlyArray<Line>
  readonly concurrency: number
}

/** @internal */
export interface State {
  readonly at: number
  readonly active: number
  /** One level a line, in units ÷ `per`. */
  readonly levels: ReadonlyArray<number>
}

/** @internal */
export interface Tokens {
  readonly input: number
  readonly output: number
}

/** @internal */
export interface Reading {
  readonly dimension: Dimension
  readonly limit: number
  readonly per: number
  readonly remaining: number
  /** Milliseconds until the bucket is full again. */
  readonly reset: number
}

/** @internal */
export interface Refusal {
  readonly dimension: Dimension | "concurrency"
  readonly limit: number
  readonly per: number
  readonly used: number
  readonly requested: number
  /** Milliseconds after which the same request is admitted; `undefined` when no wait is certain to be enough. */
  readonly wait: number | undefined
  /** The request is larger than the bucket and fits at no time. */
  readonly tooLarge: boolean
}

const dimensions = ["requests", "tokens", "inputTokens", "outputTokens"] as const

/** @internal */
export const wrong = (field: string, rule: string, value: unknown): never => {
  throw new RangeError(`ProviderServer: ${field} must be ${rule}, got ${String(value)}`)
}

const wholePositive = (field: string, value: number): void => {
  if (!(Number.isSafeInteger(value) && value > 0)) wrong(field, "a whole number > 0", value)
}

/** @internal */
export const decode = (limits: Limits): Rules => {
  const lines: Array<Line> = []
  for (const dimension of dimensions) {
    const quota = limits[dimension]
    if (quota === undefined) continue
    const per = Duration.toMillis(Duration.fromInputUnsafe(quota.per))
    const burst = quota.burst ?? quota.limit
    wholePositive(`${dimension}.limit`, quota.limit)
    wholePositive(`${dimension}.per (in milliseconds)`, per)
    wholePositive(`${dimension}.burst`, burst)
    lines.push({ dimension, limit: quota.limit, per, burst })
  }
  if (limits.concurrency !== undefined) wholePositive("concurrency", limits.concurrency)
  return { lines, concurrency: limits.concurrency ?? Number.POSITIVE_INFINITY }
}

/** @internal */
export const initial = (rules: Rules, now: number): State => ({
  at: now,
  active: 0,
  levels: rules.lines.map((line) => line.burst * line.per)
})

/** @internal */
export const costOf = (dimension: Dimension, tokens: Tokens): number => {
  switch (dimension) {
    case "requests":
      return 1
    case "tokens":
      return tokens.input + tokens.output
    case "inputTokens":
      return tokens.input
    case "outputTokens":
      return tokens.output
  }
}

const advance = (rules: Rules, state: State, now: number): State => {
  const elapsed = now - state.at
  if (elapsed <= 0) return state
  return {
    at: now,
    active: state.active,
    levels: rules.lines.map((line, i) => Math.min(line.burst * line.per, (state.levels[i] ?? 0) + elapsed * line.limit))
  }
}

/**
 * Takes everything the request needs, or nothing; a refusal costs one request when `countRejected`.
 *
 * @internal
 */
export const admit = (
  rules: Rules,
  state: State,
  tokens: Tokens,
  now: number,
  countRejected: boolean
): readonly [State, Refusal | undefined] => {
  const current = advance(rules, state, now)
  const full = current.active >= rules.concurrency
  const fits = rules.lines.every((line, i) => (current.levels[i] ?? 0) >= costOf(line.dimension, tokens) * line.per)
  if (!full && fits) {
    const levels = rules.lines.map((line, i) => (current.levels[i] ?? 0) - costOf(line.dimension, tokens) * line.per)
    return [{ at: current.at, active: current.active + 1, levels }, undefined]
  }
  // An empty bucket stays at zero, so that a client that hammers waits for one refill and not for a debt of hours.
  const after = !countRejected ? current : {
    ...current,
    levels: rules.lines.map((line, i) => {
      const level = current.levels[i] ?? 0
      return line.dimension === "requests" ? Math.min(level, Math.max(0, level - line.per)) : level
    })
  }
  return [after, full ? crowded(rules, after) : binding(rules, after, tokens)]
}

const crowded = (rules: Rules, state: State): Refusal => ({
  dimension: "concurrency",
  limit: rules.concurrency,
  per: 0,
  used: state.active,
  requested: 1,
  wait: undefined,
  tooLarge: false
})

// The line that needs the longest wait binds, as one that fits never does; one that never fits binds before all others.
const binding = (rules: Rules, state: State, tokens: Tokens): Refusal | undefined => {
  let longest: Refusal | undefined
  rules.lines.forEach((line, i) => {
    const requested = costOf(line.dimension, tokens)
    const level = state.levels[i] ?? 0
    const tooLarge = requested > line.burst
    const wait = tooLarge ? undefined : Math.ceil((requested * line.per - level) / line.limit)
    if (longest !== undefined && (longest.wait ?? Infinity) >= (wait ?? Infinity)) return
    const used = line.burst - Math.floor(level / line.per)
    longest = { dimension: line.dimension, limit: line.limit, per: line.per, used, requested, wait, tooLarge }
  })
  return longest
}

/**
 * Ends an admitted request: frees its slot and replaces the tokens it reserved by those it used.
 *
 * @internal
 */
export const settle = (rules: Rules, state: State, reserved: Tokens, actual: Tokens, now: number): State => {
  const current = advance(rules, state, now)
  return {
    at: current.at,
    active: current.active - 1,
    levels: rules.lines.map((line, i) => {
      const refund = (costOf(line.dimension, reserved) - costOf(line.dimension, actual)) * line.per
      return Math.min(line.burst * line.per, (current.levels[i] ?? 0) + refund)
    })
  }
}

/** @internal */
export const read = (rules: Rules, state: State, now: number): ReadonlyArray<Reading> => {
  const current = advance(rules, state, now)
  return rules.lines.map((line, i) => {
    const level = current.levels[i] ?? 0
    return {
      dimension: line.dimension,
      limit: line.limit,
      per: line.per,
      remaining: Math.max(0, Math.floor(level / line.per)),
      reset: Math.ceil((line.burst * line.per - level) / line.limit)
    }
  })
}
