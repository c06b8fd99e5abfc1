/**
 * Quotas of calendar periods: so much a day or a month, counted anew at midnight of a time zone.
 *
 * Time is that of the wall clock. A period never gives way to an earlier one, so a clock that is set back adds nothing.
 *
 * @internal
 */
import * as DateTime from "effect/DateTime"

/**
 * A month, or milliseconds: a week, a day, or a part that divides a day.
 *
 * @internal
 */
export type Period = "month" | number

/** @internal */
export interface Calendar {
  used: number
  limit: number
  readonly period: Period
  readonly zone: DateTime.TimeZone
  start: number
  end: number
}

const dayMs = 86_400_000

/** @internal */
export const isPeriod = (millis: number): boolean => millis === 7 * dayMs || (millis > 0 && dayMs % millis === 0)

/** @internal */
export const make = (
  options: { readonly limit: number; readonly period: Period; readonly zone: DateTime.TimeZone },
  wall: number
): Calendar => ({ ...options, ...periodAt(options.period, options.zone, wall), used: 0 })

/**
 * Returns the period that a time lies in: from its first millisecond to the first one after it.
 *
 * @internal
 */
export const periodAt = (
  period: Period,
  zone: DateTime.TimeZone,
  wall: number
): { readonly start: number; readonly end: number } => {
  const at = (millis: number): DateTime.Zoned => DateTime.setZone(DateTime.makeUnsafe(millis), zone)
  const unit = period === "month" ? "month" : period === 7 * dayMs ? "week" : "day"
  const startOf = (zoned: DateTime.Zoned): DateTime.Zoned => DateTime.startOf(zoned, unit, { weekStartsOn: 1 })
  const first = startOf(at(wall))
  const start = DateTime.toEpochMillis(first)
  // Days last 23 to 25 hours: the middle of the next period is found by the calendar, and its start from there.
  const next = DateTime.add(first, unit === "month" ? { months: 1 } : { days: unit === "week" ? 7 : 1 })
  const end = DateTime.toEpochMillis(startOf(DateTime.add(next, { hours: 6 })))
  if (period === "month" || period >= dayMs) return { start, end }
  const part = start + Math.floor((wall - start) / period) * period
  return { start: part, end: Math.min(part + period, end) }
}

/** @internal */
export const available = (calendar: Calendar, wall: number): number => {
  if (wall >= calendar.end) {
    const period = periodAt(calendar.period, calendar.zone, wall)
    calendar.start = period.start
    calendar.end = period.end
    calendar.used = 0
  }
  return calendar.limit - calendar.used
}

/**
 * Returns the milliseconds until `amount` would be there. An amount of several limits takes as many periods.
 *
 * @internal
 */
export const waitFor = (calendar: Calendar, amount: number, wall: number): number => {
  const left = available(calendar, wall)
  const tolerance = 1e-9 * Math.max(1, calendar.limit)
  if (amount <= left + tolerance) return 0
  const periods = Math.max(1, Math.ceil((amount - Math.max(0, left) - tolerance) / calendar.limit))
  return calendar.end - wall + (periods - 1) * (calendar.end - calendar.start)
}

/**
 * Counts an amount; returns the period it was counted in.
 *
 * @internal
 */
export const take = (calendar: Calendar, amount: number, wall: number): number => {
  available(calendar, wall)
  calendar.used += amount
  return calendar.start
}

/**
 * Changes what a period counted, while it is the current one; returns by how much.
 *
 * @internal
 */
export const amend = (calendar: Calendar, start: number, by: number, maxDebt: number, wall: number): number => {
  const left = available(calendar, wall)
  if (calendar.start !== start) return 0
  const change = by <= 0 ? Math.max(by, -calendar.used) : Math.min(by, Math.max(0, left + maxDebt))
  calendar.used += change
  return change
}
