/**
 * Reads what a response's headers say about quotas: limits, what remains of them, when they are full again.
 *
 * **Details**
 *
 * The names are the same at many providers and mean different things: `x-ratelimit-limit-requests` counts a minute at
 * OpenAI (a day in its small tiers), a day at Groq. A window is stated only where the provider documents it or where
 * the figures prove it: OpenAI's buckets fill evenly, so one that is `limit - remaining` short of full and needs `reset`
 * to fill up gives back `limit` in one window.
 *
 * **Gotchas**
 *
 * A reset is a bucket's state and not a wait; `internal/retryAfter` reads waits. Figures on failed responses are read as
 * well, except on 401 and 403, where they describe nobody's bucket, and on 5xx, which gateways answer for others.
 *
 * @internal
 */
import type { Dimension, Observation } from "./limiter/observation.ts"
import { type HeaderMap, type Headers, lowerCased, parseDate, parseDuration, responseTime } from "./retryAfter.ts"

const second = 1000
const minute = 60_000
const hour = 3_600_000
const day = 86_400_000
/** The longest month, so that a rate that is derived from it is never too high. */
const month = 31 * day

/** How the value of a reset header is read. */
type ResetFormat =
  /** A Go duration, an RFC 3339 date, or a bare number of seconds or since the epoch. */
  | "any"
  /** As `any`, but a bare number has no known unit. */
  | "units"

/** One triple of headers and what it counts. */
interface Family {
  readonly dimension: Dimension
  readonly limit?: string
  readonly remaining?: string
  readonly reset?: string
  /** Header that holds the window in seconds. */
  readonly period?: string
  readonly windowMs?: number
  /** Whether the figures themselves may tell the window. */
  readonly inferred?: boolean
  readonly format?: ResetFormat
}

const triple = (
  dimension: Dimension,
  suffix: string,
  options?: Pick<Family, "windowMs" | "inferred" | "format" | "period">
): Family => ({
  dimension,
  limit: `x-ratelimit-limit${suffix}`,
  remaining: `x-ratelimit-remaining${suffix}`,
  reset: `x-ratelimit-reset${suffix}`,
  ...options
})

const anthropic = (dimension: Dimension, name: string): Family => ({
  dimension,
  limit: `anthropic-ratelimit-${name}-limit`,
  remaining: `anthropic-ratelimit-${name}-remaining`,
  reset: `anthropic-ratelimit-${name}-reset`,
  windowMs: minute
})

const minuteOrInferred = { windowMs: minute, inferred: true } as const

const openAi: ReadonlyArray<Family> = [
  triple("requests", "-requests", { inferred: true }),
  triple("tokens", "-tokens", minuteOrInferred),
  triple("requests", "-project-requests", { inferred: true }),
  triple("tokens", "-project-tokens", minuteOrInferred),
  triple("tokens", "-tokens_usage_based", minuteOrInferred)
]

const azure: ReadonlyArray<Family> = [
  triple("requests", "-requests", { windowMs: minute, format: "units", period: "x-ratelimit-renewalperiod-requests" }),
  triple("tokens", "-tokens", { windowMs: minute, format: "units", period: "x-ratelimit-renewalperiod-tokens" })
]

const groq: ReadonlyArray<Family> = [
  triple("requests", "-requests", { windowMs: day }),
  triple("tokens", "-tokens", { windowMs: minute })
]

const mistral: ReadonlyArray<Family> = [
  triple("requests", "-req-second", { windowMs: second }),
  triple("requests", "-req-10-second", { windowMs: 10 * second }),
  triple("requests", "-req-minute", { windowMs: minute }),
  triple("tokens", "-tokens-minute", { windowMs: minute }),
  triple("tokens", "-tokens-month", { windowMs: month }),
  {
    dimension: "tokens",
    limit: "ratelimitbysize-limit",
    remaining: "ratelimitbysize-remaining",
    reset: "ratelimitbysize-reset",
    windowMs: minute
  },
  {
    dimension: "tokens",
    limit: "x-ratelimitbysize-limit-minute",
    remaining: "x-ratelimitbysize-remaining-minute",
    windowMs: minute
  },
  {
    dimension: "tokens",
    limit: "x-ratelimitbysize-limit-month",
    remaining: "x-ratelimitbysize-remaining-month",
    windowMs: month
  }
]

const cohere: ReadonlyArray<Family> = [
  {
    dimension: "requests",
    limit: "x-trial-endpoint-call-limit",
    remaining: "x-trial-endpoint-call-remaining",
    windowMs: minute
  },
  {
    dimension: "requests",
    limit: "x-endpoint-monthly-call-limit",
    remaining: "x-endpoint-monthly-call-remaining",
    windowMs: month
  }
]

const xAi: ReadonlyArray<Family> = [
  triple("requests", "-requests"),
  triple("tokens", "-tokens", { windowMs: minute })
]

const plain: Family = triple("requests", "")

const anthropicFamilies: ReadonlyArray<Family> = [
  anthropic("requests", "requests"),
  anthropic("tokens", "tokens"),
  anthropic("inputTokens", "input-tokens"),
  anthropic("outputTokens", "output-tokens")
]

const families: ReadonlyMap<string, ReadonlyArray<Family>> = new Map([
  ["openai", openAi],
  ["azure", azure],
  ["anthropic", anthropicFamilies],
  ["groq", groq],
  ["mistral", mistral],
  ["cohere", cohere],
  ["xai", xAi],
  ["together", [triple("requests", "", { windowMs: second }), ...xAi]],
  ["openrouter", [plain]]
])

// Nothing is known of the provider, so no window is assumed.
const generic: ReadonlyArray<Family> = [
  triple("requests", "-requests"),
  triple("tokens", "-tokens"),
  triple("inputTokens", "-input-tokens"),
  triple("outputTokens", "-output-tokens"),
  ...anthropicFamilies,
  plain
]

/** LiteLLM passes the headers of the provider behind it on under this prefix. */
const proxyPrefix = "llm_provider-"

const behindProxy: ReadonlyArray<Family> = [...anthropicFamilies, ...generic.slice(0, 4)]
  .map((family) => ({
    ...family,
    ...(family.limit === undefined ? undefined : { limit: proxyPrefix + family.limit }),
    ...(family.remaining === undefined ? undefined : { remaining: proxyPrefix + family.remaining }),
    ...(family.reset === undefined ? undefined : { reset: proxyPrefix + family.reset })
  }))

/**
 * Returns what a response says about each quota it names; nothing when it names none.
 *
 * **Details**
 *
 * `receivedAt` is local time in milliseconds. Dates are compared with the response's own `Date`. The same dimension
 * appears once per quota: Mistral limits requests in ten seconds and tokens a minute and a month.
 *
 * @internal
 */
export const observations = (
  provider: string,
  status: number,
  headers: HeaderMap,
  receivedAt: number
): ReadonlyArray<Observation> => {
  if (status === 401 || status === 403 || (status >= 500 && status !== 529)) return []
  const lower = lowerCased(headers)
  const names = Object.keys(lower)
  if (!names.some((name) => name.includes("limit"))) return []
  const proxied = names.some((name) => name.startsWith(proxyPrefix))
  const now = responseTime(lower, receivedAt)
  const found: Array<Observation> = []
  const own = families.get(provider) ?? generic
  for (const family of proxied ? [...own, ...behindProxy] : own) {
    const observation = read(family, lower, now)
    if (observation !== undefined && !found.some((other) => same(other, observation))) found.push(observation)
  }
  return found
}

const read = (family: Family, headers: Headers, now: number | undefined): Observation | undefined => {
  const limit = positive(count(headers, family.limit))
  const remaining = count(headers, family.remaining)
  if (limit === undefined && remaining === undefined) return undefined
  const resetMs = reset(headers, family, now)
  const period = count(headers, family.period)
  const windowMs = period !== undefined && period > 0
    ? period * second
    : (family.inferred === true ? inferWindow(limit, remaining, resetMs) : undefined) ?? family.windowMs
  return {
    dimension: family.dimension,
    ...(limit === undefined ? undefined : { limit }),
    ...(remaining === undefined ? undefined : { remaining }),
    ...(resetMs === undefined ? undefined : { resetMs }),
    ...(windowMs === undefined ? undefined : { windowMs })
  }
}

const same = (left: Observation, right: Observation): boolean =>
  left.dimension === right.dimension && left.limit === right.limit && left.remaining === right.remaining &&
  (right.windowMs === undefined || left.windowMs === right.windowMs)

const whole = /^\d{1,15}(?:\.0+)?$/

/** A repeated header is a list; the smallest of its figures is the safe one. */
const count = (headers: Headers, name: string | undefined): number | undefined => {
  const value = name === undefined ? undefined : headers[name]
  if (value === undefined) return undefined
  let smallest: number | undefined
  for (const part of value.split(",")) {
    const text = part.trim()
    if (!whole.test(text)) return undefined
    const figure = Number(text)
    smallest = smallest === undefined ? figure : Math.min(smallest, figure)
  }
  return smallest
}

/** A limit of 0 is how gateways say that there is none. */
const positive = (limit: number | undefined): number | undefined => limit === 0 ? undefined : limit

const bare = /^\d{1,15}(?:\.\d{1,9})?$/

const reset = (headers: Headers, family: Family, now: number | undefined): number | undefined => {
  const text = family.reset === undefined ? undefined : headers[family.reset]?.trim()
  if (text === undefined || text === "") return undefined
  const duration = parseDuration(text)
  if (duration !== undefined) return duration
  const date = parseDate(text)
  if (date !== undefined) return now === undefined ? undefined : Math.max(0, date - now)
  if (family.format === "units" || !bare.test(text)) return undefined
  const figure = Number(text)
  if (figure > 1e14) return undefined
  const at = figure > 1e12 ? figure : figure > 1e9 ? figure * second : undefined
  if (at === undefined) return figure * second
  return now === undefined ? undefined : Math.max(0, at - now)
}

const windows = [second, 10 * second, minute, hour, day]

/** The usual window nearest to what the figures give, when they give one at all. */
const inferWindow = (
  limit: number | undefined,
  remaining: number | undefined,
  resetMs: number | undefined
): number | undefined => {
  if (limit === undefined || remaining === undefined || resetMs === undefined || !(resetMs > 0)) return undefined
  const missing = limit - remaining
  if (!(missing > 0)) return undefined
  const estimate = resetMs * limit / missing
  // Resets are rounded to a millisecond and remainders to whole units: a fifth covers both, and windows are far apart.
  return windows.find((window) => Math.abs(estimate - window) <= 0.2 * window)
}
