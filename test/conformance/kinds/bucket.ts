/**
 * Token buckets without a queue: the pure core of the limiter, several at once, and into debt.
 */
import { Schema } from "effect"
import * as Bucket from "../../../src/internal/limiter/bucket.ts"
import {
  type Checks,
  optionalBoolean,
  optionalNumber,
  optionalString,
  pureKind,
  same,
  Skip,
  type Vector,
  within
} from "../kind.ts"

// What sums of fractions lose.
const precision = 1e-6

const wholeTokens = (level: number): number => Math.floor(level + precision)

const timesOf = (step: { readonly times?: number | undefined }): ReadonlyArray<number> =>
  Array.from({ length: step.times ?? 1 }, (_, index) => index)

/** Runs a step as often as it says; its expectation is that of the last time. */
const lastOf = <A>(step: { readonly times?: number | undefined }, run: () => A): A | undefined =>
  timesOf(step).map(run).at(-1)

const unknownOp = (op: string): Skip => new Skip({ variant: `op ${op}`, reason: "an operation that we do not have" })

// ---------------------------------------------------------------------------------------------------------------------
// gcra
// ---------------------------------------------------------------------------------------------------------------------

export const gcra = pureKind(
  Schema.Struct({
    config: Schema.Struct({ emissionMs: Schema.Number, burst: Schema.Number, toleranceMs: optionalNumber }),
    steps: Schema.Array(Schema.Struct({
      t: Schema.Number,
      op: optionalString,
      n: optionalNumber,
      times: optionalNumber,
      expect: Schema.optionalKey(Schema.Struct({
        limited: optionalBoolean,
        remaining: optionalNumber,
        resetAfterMs: optionalNumber,
        retryAfterMs: optionalNumber
      }))
    }))
  }),
  ({ config, steps }) => {
    const { burst, emissionMs, toleranceMs = precision } = config
    const bucket = Bucket.make({ capacity: burst, perMs: 1 / emissionMs }, steps[0]?.t ?? 0)
    return steps.flatMap((step, index): Checks => {
      const { expect, n = 1, op = "take", t } = step
      if (op !== "take") throw unknownOp(op)
      const taken = lastOf(step, () => {
        const retryAfterMs = n > burst ? Infinity : Bucket.waitFor(bucket, n, t)
        if (retryAfterMs === 0) Bucket.take(bucket, n, t)
        return {
          limited: retryAfterMs > 0,
          remaining: wholeTokens(Bucket.available(bucket, t)),
          resetAfterMs: Bucket.waitFor(bucket, burst, t),
          retryAfterMs: retryAfterMs === 0 || retryAfterMs === Infinity ? -1 : retryAfterMs
        }
      })
      const what = `step ${index}`
      return [
        ...same(`${what} limited`, taken?.limited, expect?.limited),
        ...same(`${what} remaining`, taken?.remaining, expect?.remaining),
        ...same(`${what} resetAfterMs`, taken?.resetAfterMs, expect?.resetAfterMs, toleranceMs),
        ...same(`${what} retryAfterMs`, taken?.retryAfterMs, expect?.retryAfterMs, toleranceMs)
      ]
    })
  }
)

// ---------------------------------------------------------------------------------------------------------------------
// several limits at once
// ---------------------------------------------------------------------------------------------------------------------

const wait = Schema.optionalKey(Schema.Union([Schema.Number, Schema.Literal("never")]))

const MultiBucket = Schema.Struct({
  config: Schema.Struct({
    limits: Schema.Array(Schema.Struct({
      capacity: Schema.Number,
      refill: optionalString,
      tokens: optionalNumber,
      period: Schema.Number,
      initial: optionalNumber
    }))
  }),
  steps: Schema.Array(Schema.Struct({
    t: Schema.Number,
    op: Schema.String,
    n: optionalNumber,
    times: optionalNumber,
    force: optionalBoolean,
    ignoreCapacity: optionalBoolean,
    expect: Schema.optionalKey(Schema.Struct({
      ok: optionalBoolean,
      remaining: optionalNumber,
      available: optionalNumber,
      wait,
      debtWait: wait
    }))
  })),
  input: Schema.optionalKey(Schema.Struct({ waitLimit: optionalNumber })),
  expect: Schema.optionalKey(Schema.Struct({ ok: optionalBoolean }))
})

type Limit = (typeof MultiBucket)["Type"]["config"]["limits"][number]

const bucketOf = (limit: Limit): Bucket.Bucket => {
  const { capacity, initial = capacity, period, refill = "greedy", tokens = capacity } = limit
  if (refill !== "greedy" && refill !== "interval") {
    throw new Skip({ variant: `refill ${refill}`, reason: "calendar quotas are whole periods and begin full" })
  }
  const stepMs = refill === "interval" ? period : 0
  return Bucket.make({ capacity, perMs: tokens / period, stepMs, initial }, 0)
}

const stated = (millis: number): number | "never" => millis === Infinity ? "never" : Math.ceil(millis - precision)

/** Runs one operation on all limits in one step, or on none. */
const operate = (
  buckets: ReadonlyArray<Bucket.Bucket>,
  step: (typeof MultiBucket)["Type"]["steps"][number]
): { readonly ok?: boolean; readonly wait?: number } => {
  const { ignoreCapacity = false, n = 1, op, t } = step
  const longest = (amount: number) =>
    Math.max(
      ...buckets.map((bucket) =>
        amount > bucket.capacity && !ignoreCapacity ? Infinity : Bucket.waitFor(bucket, amount, t)
      )
    )
  switch (op) {
    case "tryConsume": {
      const wait = longest(n)
      if (wait === 0) { for (const bucket of buckets) Bucket.take(bucket, n, t) }
      return { ok: wait === 0, wait }
    }
    case "estimate":
      return { wait: longest(n) }
    case "available":
      return {}
    case "debit":
      for (const bucket of buckets) Bucket.overdraw(bucket, n, Infinity, t)
      return { wait: longest(0) }
    case "credit":
      for (const bucket of buckets) Bucket.giveBack(bucket, n, t)
      return {}
    default:
      throw unknownOp(op)
  }
}

export const multiBucket = pureKind(MultiBucket, ({ config, expect, input, steps }, { adopt }: Vector) => {
  const buckets = config.limits.map(bucketOf)
  const capacity = Math.min(...buckets.map((bucket) => bucket.capacity))
  let lastWait = 0
  const checks = steps.flatMap((step, index): Checks => {
    const done = lastOf(step, () => operate(buckets, step)) ?? {}
    const left = wholeTokens(Math.min(...buckets.map((bucket) => Bucket.available(bucket, step.t))))
    const what = `step ${index} ${step.op}`
    lastWait = done.wait ?? lastWait
    // A peer lets credit exceed the capacity; ours never does.
    if (adopt === "no") return within(`${what} available`, left, { lte: capacity })
    return [
      ...same(`${what} ok`, done.ok, step.expect?.ok),
      ...same(`${what} remaining`, left, step.expect?.remaining),
      ...same(`${what} available`, left, step.expect?.available),
      ...same(`${what} wait`, done.wait === undefined ? undefined : stated(done.wait), step.expect?.wait),
      ...same(`${what} debtWait`, done.wait === undefined ? undefined : stated(done.wait), step.expect?.debtWait)
    ]
  })
  const { waitLimit } = input ?? {}
  return waitLimit === undefined ? checks : [...checks, ...same("ok", lastWait <= waitLimit, expect?.ok)]
})

// ---------------------------------------------------------------------------------------------------------------------
// reserving ahead, into debt
// ---------------------------------------------------------------------------------------------------------------------

const Reserving = Schema.Struct({
  config: Schema.Struct({
    permits: optionalNumber,
    periodMs: optionalNumber,
    cycleMs: optionalNumber,
    intervalMs: optionalNumber,
    maxWaitMs: optionalNumber,
    toleranceMs: optionalNumber
  }),
  steps: Schema.Array(Schema.Struct({
    t: Schema.Number,
    op: optionalString,
    id: Schema.optionalKey(Schema.Union([Schema.String, Schema.Number])),
    n: optionalNumber,
    times: optionalNumber,
    maxWaitMs: optionalNumber,
    expect: Schema.optionalKey(Schema.Struct({
      ok: optionalBoolean,
      waitMs: optionalNumber,
      available: optionalNumber
    }))
  }))
})

/** A quota that comes back a period at a time; what is reserved ahead is debt until then. */
const reserving = (capacityOf: (config: (typeof Reserving)["Type"]["config"]) => Bucket.Bucket) =>
  pureKind(Reserving, ({ config, steps }, { adopt }: Vector) => {
    const bucket = capacityOf(config)
    const reserved = new Map<string | number, { readonly n: number; readonly before: number }>()
    return steps.flatMap((step, index): Checks => {
      const { expect, id, maxWaitMs = config.maxWaitMs ?? Infinity, n = 1, op = "reserve", t } = step
      const what = `step ${index}`
      switch (op) {
        case "reserve":
        case "acquire":
        case "try": {
          const waitMs = lastOf(step, () => {
            const before = Bucket.available(bucket, t)
            const wait = Bucket.waitFor(bucket, n, t)
            if (wait > maxWaitMs) return -1
            Bucket.take(bucket, n, t)
            if (id !== undefined) reserved.set(id, { n, before })
            return wait
          })
          return [
            ...same(`${what} ok`, waitMs !== -1, expect?.ok),
            ...same(`${what} waitMs`, waitMs, expect?.waitMs, config.toleranceMs ?? precision),
            ...same(`${what} available`, wholeTokens(Bucket.available(bucket, t)), expect?.available)
          ]
        }
        case "interrupt":
        case "cancel": {
          const one = reserved.get(id ?? "")
          if (one !== undefined) Bucket.giveBack(bucket, one.n, t)
          const left = wholeTokens(Bucket.available(bucket, t))
          // A peer keeps what was interrupted; ours is as if it had never come.
          return same(`${what} available`, left, adopt === "no" ? one?.before : expect?.available)
        }
        case "available":
          return same(`${what} available`, wholeTokens(Bucket.available(bucket, t)), expect?.available)
        default:
          throw unknownOp(op)
      }
    })
  })

export const burstyPeriod = reserving(({ cycleMs, periodMs = cycleMs ?? 1000, permits = 1 }) =>
  Bucket.make({ capacity: permits, perMs: permits / periodMs, stepMs: periodMs }, 0)
)

export const smoothAligned = reserving(({ intervalMs, periodMs = 1000, permits = 1 }) => {
  const stepMs = intervalMs ?? periodMs / permits
  return Bucket.make({ capacity: 1, perMs: 1 / stepMs, stepMs }, 0)
})

// ---------------------------------------------------------------------------------------------------------------------
// paying later
// ---------------------------------------------------------------------------------------------------------------------

/** A request waits for the debt of those before it, never for its own cost; the clock moves on by the wait. */
export const payLater = pureKind(
  Schema.Struct({
    config: Schema.Struct({ ratePerSec: Schema.Number, maxBurstSeconds: optionalNumber, toleranceMs: optionalNumber }),
    steps: Schema.Array(Schema.Struct({
      op: optionalString,
      n: optionalNumber,
      ms: optionalNumber,
      times: optionalNumber,
      timeoutMs: optionalNumber,
      ratePerSec: optionalNumber,
      expect: Schema.optionalKey(Schema.Struct({ ok: optionalBoolean, waitMs: optionalNumber }))
    }))
  }),
  ({ config, steps }) => {
    const { maxBurstSeconds = 1, ratePerSec, toleranceMs = 1e-3 } = config
    const bucket = Bucket.make({ capacity: ratePerSec * maxBurstSeconds, perMs: ratePerSec / 1000, initial: 0 }, 0)
    let now = 0
    const acquire = (n: number, timeoutMs: number): number | undefined => {
      const wait = Bucket.waitFor(bucket, 0, now)
      if (wait > timeoutMs + precision) return undefined
      now += wait
      Bucket.take(bucket, n, now)
      return wait
    }
    return steps.flatMap((step, index): Checks => {
      const { expect, ms = 0, n = 1, op = "acquire", timeoutMs = 0 } = step
      const what = `step ${index}`
      switch (op) {
        case "acquire":
          return same(`${what} waitMs`, lastOf(step, () => acquire(n, Infinity)), expect?.waitMs, toleranceMs)
        case "try":
          return same(`${what} ok`, lastOf(step, () => acquire(n, timeoutMs)) !== undefined, expect?.ok)
        case "advance":
          now += ms
          return []
        case "setRate": {
          if (Math.abs(Bucket.available(bucket, now)) > precision) {
            throw new Skip({ variant: "setRate", reason: "we keep the amount of a balance or debt, Guava its time" })
          }
          const rate = step.ratePerSec ?? ratePerSec
          Bucket.resize(bucket, rate * maxBurstSeconds, rate / 1000, now)
          return []
        }
        default:
          throw unknownOp(op)
      }
    })
  }
)
