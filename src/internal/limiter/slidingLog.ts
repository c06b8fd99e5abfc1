/**
 * Exact sliding window: a log of what was admitted when.
 *
 * In every interval as long as the window the admitted amounts sum to at most the limit. An entry exactly one window old
 * is out. Beyond `maxEntries` in a window, entries close to each other become one that leaves with the latest of them,
 * so memory is bounded and the limit still holds.
 *
 * @internal
 */

/** @internal */
export interface Entry {
  at: number
  amount: number
}

/** @internal */
export interface SlidingLog {
  readonly entries: Array<Entry>
  /** Place of the oldest entry that counts. */
  head: number
  total: number
  limit: number
  readonly windowMs: number
  /** The latest time seen: a clock that goes back stands still. */
  latest: number
}

const maxEntries = 1024

// Less than a nanosecond: what differences of fractional times lose.
const precisionMs = 1e-6

/** @internal */
export const make = (options: { readonly limit: number; readonly windowMs: number }, now: number): SlidingLog => ({
  entries: [],
  head: 0,
  total: 0,
  limit: options.limit,
  windowMs: options.windowMs,
  latest: now
})

/** @internal */
export const available = (log: SlidingLog, now: number): number => {
  const { entries } = log
  log.latest = Math.max(log.latest, now)
  for (let entry = entries[log.head]; entry !== undefined && isOut(log, entry); entry = entries[log.head]) {
    log.total -= entry.amount
    log.head++
  }
  if (log.head === entries.length) {
    // Sums of fractions do not end at zero by themselves.
    entries.length = 0
    log.head = 0
    log.total = 0
  } else if (log.head > 64 && log.head * 2 > entries.length) {
    entries.splice(0, log.head)
    log.head = 0
  }
  return log.limit - log.total
}

/** @internal */
export const isOut = (log: SlidingLog, entry: Entry): boolean => log.latest - entry.at >= log.windowMs - precisionMs

/**
 * Returns the milliseconds until `amount` would be there. An amount of several limits takes as many windows.
 *
 * @internal
 */
export const waitFor = (log: SlidingLog, amount: number, now: number): number => {
  const left = available(log, now)
  const tolerance = 1e-9 * Math.max(1, log.limit)
  if (amount <= left + tolerance) return 0
  const windows = Math.max(0, Math.ceil((amount - tolerance) / log.limit) - 1)
  let missing = amount - windows * log.limit - left
  if (missing <= tolerance) return windows * log.windowMs
  for (let index = log.head; index < log.entries.length; index++) {
    const entry = log.entries[index]
    if (entry === undefined) break
    missing -= entry.amount
    if (missing <= tolerance) return windows * log.windowMs + entry.at + log.windowMs - log.latest
  }
  return (windows + 1) * log.windowMs
}

/** @internal */
export const take = (log: SlidingLog, amount: number, now: number): Entry => {
  available(log, now)
  log.total += amount
  const last = log.entries.at(-1)
  if (
    last !== undefined &&
    (last.at === log.latest ||
      (log.entries.length - log.head >= maxEntries && log.latest - last.at < log.windowMs / maxEntries))
  ) {
    last.at = log.latest
    last.amount += amount
    return last
  }
  const entry = { at: log.latest, amount }
  log.entries.push(entry)
  return entry
}

/**
 * Changes the amount of an entry that still counts; returns by how much.
 *
 * @internal
 */
export const amend = (log: SlidingLog, entry: Entry, by: number, maxDebt: number, now: number): number => {
  const left = available(log, now)
  if (isOut(log, entry)) return 0
  const change = by <= 0 ? Math.max(by, -entry.amount) : Math.min(by, Math.max(0, left + maxDebt))
  entry.amount += change
  log.total += change
  return change
}
