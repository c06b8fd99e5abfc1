/**
 * Waits as providers state them: header values, dates, durations and sentences.
 *
 * @internal
 */

/** @internal */
export type HeaderMap = Readonly<Record<string, string | ReadonlyArray<string> | undefined>>

/**
 * Headers under lower-case names.
 *
 * @internal
 */
export type Headers = Readonly<Record<string, string | undefined>>

/** Longest wait that is told apart; a longer one is stated, but never ends. */
const longestMs = Number.MAX_SAFE_INTEGER

/**
 * Returns headers under lower-case names, with the values of a repeated header as one list.
 *
 * @internal
 */
export const lowerCased = (headers: HeaderMap): Headers => {
  const result: Record<string, string> = {}
  for (const key of Object.keys(headers)) {
    const value = headers[key]
    if (value !== undefined) result[key.toLowerCase()] = typeof value === "string" ? value : value.join(", ")
  }
  return result
}

// ---------------------------------------------------------------------------------------------------------------------
// dates
// ---------------------------------------------------------------------------------------------------------------------

const months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
const imfDate = /^[a-z]{3,9}, (\d{1,2})[ -]([a-z]{3})[ -](\d{4}|\d{2}) (\d{2}):(\d{2}):(\d{2}) gmt$/
const ascDate = /^[a-z]{3} ([a-z]{3}) {1,2}(\d{1,2}) (\d{2}):(\d{2}):(\d{2}) (\d{4})$/
const isoDate =
  /^(\d{4})-(\d{2})-(\d{2})(?:[t ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)? ?(z|utc|[+-]\d{2}:?\d{2})?$/

const fields = (year: number, month: number, day: number, hour: number, minute: number, second: number) =>
  month < 0 || month > 11 || day < 1 || day > 31 || hour > 24 || minute > 59 || second > 60
    ? undefined
    : Date.UTC(year, month, day, hour, minute, second)

/**
 * Returns the epoch milliseconds of an HTTP date (all three forms) or an ISO 8601 date; without a zone it is UTC.
 *
 * @internal
 */
export const parseDate = (input: string): number | undefined => {
  const text = input.trim().toLowerCase()
  const imf = imfDate.exec(text)
  if (imf !== null) {
    const [, day = "", month = "", year = "", hour = "", minute = "", second = ""] = imf
    // RFC 850 has two digits of the year; language models are younger than 1970.
    const full = year.length === 2 ? 2000 + Number(year) : Number(year)
    return fields(full, months.indexOf(month), Number(day), Number(hour), Number(minute), Number(second))
  }
  const asc = ascDate.exec(text)
  if (asc !== null) {
    const [, month = "", day = "", hour = "", minute = "", second = "", year = ""] = asc
    return fields(Number(year), months.indexOf(month), Number(day), Number(hour), Number(minute), Number(second))
  }
  const iso = isoDate.exec(text)
  if (iso === null) return undefined
  const [, year = "", month = "", day = "", hour = "0", minute = "0", second = "0", fraction = "0", zone = "z"] = iso
  const seconds = fields(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second))
  if (seconds === undefined) return undefined
  const offset = zone.length > 3
    ? (zone[0] === "-" ? -1 : 1) * (Number(zone.slice(1, 3)) * 60 + Number(zone.slice(-2)))
    : 0
  return seconds + Number(`0.${fraction}`) * 1000 - offset * 60_000
}

// ---------------------------------------------------------------------------------------------------------------------
// durations
// ---------------------------------------------------------------------------------------------------------------------

const units: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  msec: 1,
  millisecond: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  m: 60_000,
  min: 60_000,
  minute: 60_000,
  h: 3_600_000,
  hr: 3_600_000,
  hour: 3_600_000,
  d: 86_400_000,
  day: 86_400_000,
  week: 604_800_000
}

const unit = "(?:milliseconds?|msecs?|ms|ns|us|µs|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?)"
const quantity = `\\d{1,12}(?:\\.\\d{1,12})?[\\s\\\\]{0,3}${unit}(?![a-z])`
const compact = `\\d{1,12}(?:\\.\\d{1,12})?${unit}`
/** `1h47m17.664s`, `1h 5m`, `1 hour and 5 minutes`, `900.2ms`. */
const durationSource = `(?:${compact}){0,3}${quantity}(?:(?:,|, and| and)? ?${quantity}){0,3}`
const wholeDuration = new RegExp(`^${durationSource}$`)
const parts = new RegExp(`(\\d+(?:\\.\\d+)?)[\\s\\\\]*(${unit})`, "g")

const unitMillis = (name: string): number => units[name] ?? units[name.replace(/s$/, "")] ?? 0

const sumParts = (text: string): number => {
  let total = 0
  for (const [, amount = "0", name = ""] of text.matchAll(parts)) total += Number(amount) * unitMillis(name)
  return total
}

/**
 * Returns the milliseconds of a duration that names its units, such as `6m0s`; a bare number states none.
 *
 * @internal
 */
export const parseDuration = (input: string): number | undefined => {
  const text = input.trim().toLowerCase()
  if (text.length > 64 || !wholeDuration.test(text)) return undefined
  return sumParts(text)
}

/**
 * Returns whole milliseconds, rounded up, without the dust of binary fractions.
 *
 * @internal
 */
export const roundUp = (millis: number): number => Math.min(longestMs, Math.ceil(millis - 1e-6) + 0)

// ---------------------------------------------------------------------------------------------------------------------
// headers
// ---------------------------------------------------------------------------------------------------------------------

const decimal = /^\d+(?:\.\d+)?$/

const parseDecimal = (text: string, scale: number): number | undefined =>
  decimal.test(text) ? Math.min(longestMs, Number(text) * scale) : undefined

const until = (at: number | undefined, now: number | undefined): number | undefined =>
  at === undefined || now === undefined ? undefined : Math.max(0, at - now)

const longer = (left: number | undefined, right: number | undefined): number | undefined =>
  left === undefined ? right : right === undefined ? left : Math.max(left, right)

const parseValue = (value: string, scale: number, now: () => number | undefined): number | undefined => {
  const text = value.trim()
  const whole = parseDecimal(text, scale) ?? until(parseDate(text), now())
  if (whole !== undefined) return whole
  // A repeated header arrives as one list: the longest wait satisfies all of them.
  return text.split(",").reduce<number | undefined>(
    (longest, part) => longer(longest, parseDecimal(part.trim(), scale)),
    undefined
  )
}

/**
 * Returns the time of a response: its own `Date` if it has one, as its dates are relative to that, or the local time.
 *
 * @internal
 */
export const responseTime = (headers: Headers, now: number | undefined): number | undefined => {
  const date = headers["date"]
  return (date === undefined ? undefined : parseDate(date)) ?? now
}

/**
 * Returns the wait of `retry-after-ms` or else `retry-after`, in milliseconds.
 *
 * @internal
 */
export const explicitWait = (headers: Headers, now: number | undefined): number | undefined => {
  const millis = headers["retry-after-ms"] ?? headers["x-ms-retry-after-ms"]
  const exact = millis === undefined ? undefined : parseValue(millis, 1, () => undefined)
  if (exact !== undefined) return exact
  const seconds = headers["retry-after"]
  return seconds === undefined ? undefined : parseValue(seconds, 1000, () => responseTime(headers, now))
}

// The same field has a unit, an RFC 3339 date, an epoch or bare seconds, depending on the provider.
const parseReset = (value: string, now: number | undefined): number | undefined => {
  const text = value.trim()
  const duration = parseDuration(text) ?? until(parseDate(text), now)
  if (duration !== undefined) return duration
  if (!decimal.test(text)) return undefined
  const amount = Number(text)
  if (amount > 1e14) return undefined
  if (amount > 1e12) return until(amount, now)
  if (amount > 1e9) return until(amount * 1000, now)
  return amount * 1000
}

const isReset = /^(?:x-)?(?:anthropic-)?rate-?limit(?:bysize)?-(?:[a-z0-9_-]+-)?reset(?:-[a-z0-9_-]+)?$/

/**
 * Returns the longest reset among the limits of which nothing remains, in milliseconds.
 *
 * **Details**
 *
 * Azure sends bare numbers of an unknown unit in these headers; with `bareNumbers: false` they are ignored.
 *
 * @internal
 */
export const resetWait = (
  headers: Headers,
  now: number | undefined,
  options: { readonly bareNumbers: boolean }
): number | undefined => {
  const time = responseTime(headers, now)
  let longest: number | undefined
  for (const name of Object.keys(headers)) {
    if (!isReset.test(name)) continue
    const remaining = headers[name.replace("reset", "remaining")]
    if (remaining === undefined || !decimal.test(remaining.trim()) || Number(remaining) !== 0) continue
    const value = headers[name]
    if (value === undefined || (!options.bareNumbers && decimal.test(value.trim()))) continue
    const wait = parseReset(value, time)
    if (wait !== undefined && wait > 0) longest = longer(longest, wait)
  }
  return longest
}

// ---------------------------------------------------------------------------------------------------------------------
// sentences
// ---------------------------------------------------------------------------------------------------------------------

// "Retrying in 4 seconds" and "will retry in 4 s" are a client's words about its own backoff.
const hint = new RegExp(
  "\\b(?:" +
    "(?:try|retry)(?: (?:again|your request|this request|the request|it))?(?: again)?,? (?:in|after)(?: about| around| approximately)?" +
    "|retry[-_ ]?after(?:[-_ ]?seconds)?['\"]?\\s?[:=]?\\s?['\"]?" +
    "|retrydelay['\"]?\\s?[:=]\\s?['\"]?" +
    "|(?:(?:please |must |need to )wait(?: for)?|wait for)(?: at least| about| another)?" +
    "|resets? (?:in|after)|available (?:again )?in" +
    `)\\s?(${durationSource})`,
  "g"
)
const clientsWords = /(?:will|'ll|going to|about to|auto-?|automatically)[ -]$/
const bareSeconds = /\bretry[-_ ]after(?:[-_ ]?seconds)?['"]?\s?[:=]\s?['"]?(\d{1,9}(?:\.\d{1,9})?)(?![\w.:/-])/
const chineseHint = /请?(?:在|等待|于)?\s?(\d{1,6})\s?(秒|分钟|小时)(?:后|之后|再)/
const chineseUnits: Readonly<Record<string, number>> = { 秒: 1000, 分钟: 60_000, 小时: 3_600_000 }
const dateHint = new RegExp(
  "\\b(?:regain access on|resets? (?:at|on)|(?:try again|retry) (?:at|after|on)|available (?:again )?(?:at|on))[: ]{1,2}" +
    "(\\d{4}-\\d{2}-\\d{2}(?:(?:t| at | )\\d{2}:\\d{2}(?::\\d{2}(?:\\.\\d{1,9})?)?)?(?: ?(?:z|utc))?)"
)
const epochHint = /limit reached\|(\d{10})\b/

/**
 * Returns the wait that a lower-cased text of a provider states, in milliseconds.
 *
 * @internal
 */
export const textWait = (text: string, now: number | undefined): number | undefined => {
  if (!/\d/.test(text) || !/try|wait|reset|available|regain|reached\||[秒钟时]/.test(text)) return undefined
  for (const sentence of text.matchAll(hint)) {
    if (
      !/^(?:re)?try/.test(sentence[0]) ||
      !clientsWords.test(text.slice(Math.max(0, sentence.index - 14), sentence.index))
    ) {
      return sumParts(sentence[1] ?? "")
    }
  }
  const bare = bareSeconds.exec(text)
  if (bare !== null) return Number(bare[1]) * 1000
  const date = dateHint.exec(text)
  if (date !== null) return until(parseDate((date[1] ?? "").replace(" at ", " ")), now)
  const epoch = epochHint.exec(text)
  if (epoch !== null) return until(Number(epoch[1]) * 1000, now)
  const chinese = chineseHint.exec(text)
  return chinese === null ? undefined : Number(chinese[1]) * (chineseUnits[chinese[2] ?? ""] ?? 0)
}
