/**
 * Windows: the exact sliding log, and quotas of calendar periods with what is settled later.
 */
import { DateTime, Schema } from "effect"
import * as Calendar from "../../../src/internal/limiter/calendar.ts"
import * as SlidingLog from "../../../src/internal/limiter/slidingLog.ts"
import { type Checks, optionalBoolean, optionalNumber, optionalString, pureKind, same, Skip } from "../kind.ts"

const Config = Schema.Struct({
  limit: optionalNumber,
  permits: optionalNumber,
  capacity: optionalNumber,
  windowMs: optionalNumber,
  periodMs: optionalNumber
})

const quotaOf = (config: (typeof Config)["Type"]): { readonly limit: number; readonly windowMs: number } => {
  const limit = config.limit ?? config.permits ?? config.capacity
  const windowMs = config.windowMs ?? config.periodMs
  if (limit === undefined || windowMs === undefined) {
    throw new Skip({ variant: "shape", reason: "a window without a limit or a length" })
  }
  return { limit, windowMs }
}

const id = Schema.optionalKey(Schema.Union([Schema.String, Schema.Number]))

const Step = Schema.Struct({
  t: Schema.Number,
  op: optionalString,
  id,
  n: optionalNumber,
  reserved: optionalNumber,
  actual: optionalNumber,
  times: optionalNumber,
  expect: Schema.optionalKey(
    Schema.Union([
      Schema.Boolean,
      Schema.Struct({
        ok: optionalBoolean,
        admitted: optionalBoolean,
        limited: optionalBoolean,
        waitMs: optionalNumber,
        retryAfterMs: optionalNumber,
        available: optionalNumber,
        remaining: optionalNumber,
        used: optionalNumber
      })
    ])
  )
})

type Step = (typeof Step)["Type"]

interface Window {
  readonly limit: number
  readonly available: (now: number) => number
  readonly waitFor: (amount: number, now: number) => number
  /** Returns how the amount can be corrected later. */
  readonly take: (amount: number, now: number) => (by: number, now: number) => void
}

const sliding = (limit: number, windowMs: number): Window => {
  const log = SlidingLog.make({ limit, windowMs }, 0)
  return {
    limit,
    available: (now) => SlidingLog.available(log, now),
    waitFor: (amount, now) => SlidingLog.waitFor(log, amount, now),
    take: (amount, now) => {
      const entry = SlidingLog.take(log, amount, now)
      return (by, later) => void SlidingLog.amend(log, entry, by, limit, later)
    }
  }
}

const calendar = (limit: number, windowMs: number): Window => {
  const zone = DateTime.zoneMakeOffset(0)
  const quota = Calendar.make({ limit, period: windowMs, zone }, 0)
  return {
    limit,
    available: (now) => Calendar.available(quota, now),
    waitFor: (amount, now) => Calendar.waitFor(quota, amount, now),
    take: (amount, now) => {
      const start = Calendar.take(quota, amount, now)
      return (by, later) => void Calendar.amend(quota, start, by, limit, later)
    }
  }
}

const runSteps = (window: Window, steps: ReadonlyArray<Step>): Checks => {
  const charged = new Map<
    string | number,
    { readonly n: number; readonly correct: (by: number, now: number) => void }
  >()
  return steps.flatMap((step, index) => {
    const { expect, n = 1, op = "take", t } = step
    let waitMs = 0
    switch (op) {
      case "take":
      case "try":
      case "tryConsume":
      case "allow":
      case "acquire":
      case "reserve":
        for (let time = 0; time < (step.times ?? 1); time++) {
          waitMs = n > window.limit ? Infinity : window.waitFor(n, t)
          if (waitMs === 0) charged.set(step.id ?? `step ${index}`, { n, correct: window.take(n, t) })
        }
        break
      case "settle": {
        const one = step.id === undefined ? [...charged.values()].at(-1) : charged.get(step.id)
        one?.correct((step.actual ?? n) - one.n, t)
        break
      }
      case "cancel": {
        const one = charged.get(step.id ?? "")
        one?.correct(-one.n, t)
        break
      }
      case "available":
      case "check":
        break
      default:
        throw new Skip({ variant: `op ${op}`, reason: "an operation that we do not have" })
    }
    const wanted = typeof expect === "boolean" ? { ok: expect } : expect ?? {}
    const left = window.available(t)
    const what = `step ${index} ${op}`
    return [
      ...same(`${what} ok`, waitMs === 0, wanted.ok),
      ...same(`${what} admitted`, waitMs === 0, wanted.admitted),
      ...same(`${what} limited`, waitMs > 0, wanted.limited),
      ...same(`${what} waitMs`, waitMs, wanted.waitMs, 1e-6),
      ...same(`${what} retryAfterMs`, waitMs === Infinity ? -1 : waitMs, wanted.retryAfterMs, 1e-6),
      ...same(`${what} available`, left, wanted.available, 1e-6),
      ...same(`${what} remaining`, left, wanted.remaining, 1e-6),
      ...same(`${what} used`, window.limit - left, wanted.used, 1e-6)
    ]
  })
}

const windowKind = (make: (limit: number, windowMs: number) => Window) =>
  pureKind(Schema.Struct({ config: Config, steps: Schema.Array(Step) }), ({ config, steps }) => {
    const { limit, windowMs } = quotaOf(config)
    return runSteps(make(limit, windowMs), steps)
  })

export const slidingWindow = windowKind(sliding)

/** Fixed windows are where a settlement can come too late: the calendar's. */
export const windowSettle = windowKind(calendar)
