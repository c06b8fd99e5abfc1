/**
 * The limiter as its users see it: `RateLimiter.layerMemory` in virtual time, with one scope.
 */
import * as RateLimiter from "breakwater/RateLimiter"
import { Clock, Duration, Effect, Fiber, Option, Schema } from "effect"
import { TestClock } from "effect/testing"
import {
  type Checks,
  kind,
  optionalBoolean,
  optionalNumber,
  optionalString,
  peers,
  same,
  Skip,
  type Vector
} from "../kind.ts"

/** The scope that all requests of a vector name. */
export const key = "vector"

/** A request that was made, and what has become of it. */
export interface Call {
  readonly n: number
  readonly fiber: Fiber.Fiber<void>
  readonly reservation: () => RateLimiter.Reservation | undefined
  readonly grantedAt: () => number | undefined
  readonly refused: () => string | undefined
  settled: boolean
}

/** Makes a request, which waits in the background when it has to. */
export const call = Effect.fnUntraced(function*(n: number, request: RateLimiter.Request) {
  const limiter = yield* RateLimiter.RateLimiter
  let reservation: RateLimiter.Reservation | undefined
  let grantedAt: number | undefined
  let refused: string | undefined
  const fiber = yield* limiter.reserve(request).pipe(
    Effect.flatMap((granted) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        reservation = granted
        grantedAt = now
      })
    ),
    Effect.catch((error) => Effect.sync(() => refused = error.reason)),
    Effect.asVoid,
    Effect.forkChild({ startImmediately: true })
  )
  const made: Call = {
    n,
    fiber,
    reservation: () => reservation,
    grantedAt: () => grantedAt,
    refused: () => refused,
    settled: false
  }
  return made
})

export const isWaiting = (call: Call): boolean => call.fiber.pollUnsafe() === undefined

const priorities: ReadonlyArray<RateLimiter.Priority> = ["high", "normal", "low", "background"]

const isPriority = (name: unknown): name is RateLimiter.Priority =>
  name === "emergency" || priorities.some((priority) => priority === name)

export const Rank = Schema.optionalKey(Schema.Union([Schema.Number, Schema.String]))

/**
 * Our priorities for those of a vector: names as they are, numbers by their rank, the lowest first. With `exact`, the
 * distance between numbers counts.
 */
export const priorityOf = (
  ranks: ReadonlyArray<number | string | undefined>,
  otherwise: number,
  exact = false
): (rank: number | string | undefined) => RateLimiter.Priority => {
  const numbers = [...new Set(ranks.map((rank) => rank ?? otherwise).filter((rank) => typeof rank === "number"))]
    .sort((a, b) => a - b)
  const first = numbers[0] ?? 0
  return (rank = otherwise) => {
    const priority = typeof rank === "string" ? rank : priorities[exact ? rank - first : numbers.indexOf(rank)]
    if (isPriority(priority)) return priority
    throw new Skip({
      variant: `priority ${rank}`,
      reason: "we have four priorities that wait their turn, and no numbers"
    })
  }
}

// A limit has to be above zero: one request in thirty thousand years is none.
const least = 1e-12

const Config = Schema.Struct({
  ratePerSec: Schema.Number,
  burst: Schema.Number,
  toleranceMs: optionalNumber,
  maxQueue: optionalNumber,
  maxWaitMs: optionalNumber
})

/** The bucket of a vector, whose rate and burst its steps may change. */
const bucketOf = (config: (typeof Config)["Type"]) => {
  let { burst, ratePerSec } = config
  let limits = limitsOf(ratePerSec, burst)
  return {
    /** Limits that are the same object until they change, as those of a configuration are. */
    scopes: () => [{ key, limits }],
    change: (step: { readonly ratePerSec?: number; readonly burst?: number }) =>
      Effect.suspend(() => {
        ratePerSec = step.ratePerSec ?? ratePerSec
        burst = step.burst ?? burst
        limits = limitsOf(ratePerSec, burst)
        return Effect.flatMap(RateLimiter.RateLimiter, (limiter) => limiter.setLimits(key, limits))
      })
  }
}

/** What is infinite has no limit. */
const limitsOf = (ratePerSec: number, burst: number): RateLimiter.Limits =>
  ratePerSec === Infinity || burst === Infinity
    ? {}
    : { tokens: { limit: Math.max(ratePerSec, least), per: "1 second", burst: Math.max(burst, least) } }

const levelOf = Effect.map(
  Effect.flatMap(RateLimiter.RateLimiter, (limiter) => limiter.snapshotOf(key)),
  Option.match({
    onNone: () => undefined,
    onSome: ({ limits: [figures] }) => figures === undefined ? undefined : figures.remaining - figures.debt
  })
)

const precisionMs = 0.01

const waitOf = (millis: number | undefined): Duration.Duration =>
  millis === undefined ? Duration.infinity : Duration.millis(Math.max(0, millis))

// ---------------------------------------------------------------------------------------------------------------------
// reserve
// ---------------------------------------------------------------------------------------------------------------------

const Id = Schema.optionalKey(Schema.Union([Schema.String, Schema.Number]))

const Reserve = Schema.Struct({
  config: Config,
  steps: Schema.Array(Schema.Struct({
    t: Schema.Number,
    op: Schema.String,
    id: Id,
    n: optionalNumber,
    times: optionalNumber,
    maxWaitMs: optionalNumber,
    ratePerSec: optionalNumber,
    burst: optionalNumber,
    expect: Schema.optionalKey(Schema.Struct({
      ok: optionalBoolean,
      tokensBefore: optionalNumber,
      tokensAfter: optionalNumber,
      tokens: optionalNumber,
      actAt: optionalNumber
    }))
  }))
})

/** A reservation acts when its request is granted: the forecast says when, and what happens is compared with it. */
const runReserve = Effect.fnUntraced(function*({ config, steps }: (typeof Reserve)["Type"]) {
  const limiter = yield* RateLimiter.RateLimiter
  const bucket = bucketOf(config)
  const tolerance = config.toleranceMs ?? precisionMs
  const calls: Array<{ readonly call: Call; readonly actAt: number; readonly what: string }> = []
  const byId = new Map<string | number, Call>()
  const checks: Array<Checks> = []
  const steady = steps.every(({ op }) => op === "allow" || op === "reserve")
  const level = Effect.map(
    levelOf,
    (left) => (left ?? config.burst) - calls.reduce((sum, { call }) => isWaiting(call) ? sum + call.n : sum, 0)
  )
  for (const [index, step] of steps.entries()) {
    yield* TestClock.setTime(step.t)
    const { expect = {}, n = 1, op, times = 1 } = step
    const what = `step ${index} ${op}`
    for (let time = 1; time <= times; time++) {
      const before = yield* level
      let ok = true
      let actAt: number | undefined
      const request: RateLimiter.Request = {
        scopes: bucket.scopes(),
        tokens: { input: n, output: 0 },
        maxWait: waitOf(step.maxWaitMs ?? config.maxWaitMs)
      }
      switch (op) {
        case "allow":
          ok = Option.isSome(yield* Effect.option(limiter.tryReserve(request)))
          break
        case "reserve": {
          const forecast = yield* limiter.waitFor(request)
          const made = yield* call(n, request)
          ok = made.refused() === undefined
          if (!ok) break
          actAt = step.t + Duration.toMillis(forecast.wait)
          calls.push({ call: made, actAt, what })
          if (step.id !== undefined) byId.set(step.id, made)
          break
        }
        case "cancel": {
          const made = byId.get(step.id ?? "")
          if (made !== undefined) yield* Fiber.interrupt(made.fiber)
          break
        }
        case "setRate":
        case "setBurst":
          yield* bucket.change(step)
          break
        case "tokens":
        case "advance":
          break
        default:
          throw new Skip({ variant: `op ${op}`, reason: "an operation that we do not have" })
      }
      if (time < times) continue
      checks.push(
        same(`${what} ok`, ok, expect.ok),
        same(`${what} tokensBefore`, before, expect.tokensBefore, 0.01),
        same(`${what} tokens`, before, expect.tokens, 0.01),
        same(`${what} actAt`, actAt, expect.actAt, tolerance)
      )
      if (expect.tokensAfter !== undefined) {
        checks.push(same(`${what} tokensAfter`, yield* level, expect.tokensAfter, 0.01))
      }
    }
  }
  yield* TestClock.adjust("1 day")
  // Without cancellations and changes nothing moves a reservation: it is granted when it was said to be.
  if (steady) {
    for (const { actAt, call, what } of calls) {
      checks.push(same(`${what} granted`, call.grantedAt(), actAt, precisionMs))
    }
  }
  return checks.flat()
})

export const reserve = kind(
  Reserve,
  (fields, { adopt }: Vector) =>
    adopt === "no" ? Effect.fail(peers) : runReserve(fields).pipe(
      Effect.scoped,
      Effect.provide(RateLimiter.layerMemory({ maxQueue: fields.config.maxQueue }))
    )
)

// ---------------------------------------------------------------------------------------------------------------------
// queue-bucket
// ---------------------------------------------------------------------------------------------------------------------

const QueueBucket = Schema.Struct({
  config: Config,
  steps: Schema.Array(Schema.Struct({
    t: Schema.Number,
    op: Schema.String,
    id: Id,
    n: optionalNumber,
    times: optionalNumber,
    maxWaitMs: optionalNumber,
    deadlineMs: optionalNumber,
    priority: Rank,
    reserved: optionalNumber,
    actual: optionalNumber,
    ratePerSec: optionalNumber,
    burst: optionalNumber
  })),
  expect: Schema.Record(
    Schema.String,
    Schema.Struct({ granted: Schema.Boolean, at: optionalNumber, reason: optionalString })
  )
})

/** Our reasons for a refusal, and the names that vectors have for them. */
const reasonNames: Readonly<Record<string, ReadonlyArray<string>>> = {
  request_exceeds_limit: ["exceeds-capacity"],
  queue_timeout: ["max-wait", "deadline", "timeout"],
  queue_full: ["queue-full", "full"],
  rate_limit: ["max-wait", "deadline", "rejected"],
  concurrency: ["max-wait", "deadline", "rejected"],
  cancelled: ["cancelled", "interrupted"]
}

const sameReason = (what: string, actual: string | undefined, expected: string | undefined): Checks => {
  const names = reasonNames[actual ?? "cancelled"] ?? []
  return same(what, expected !== undefined && names.includes(expected) ? expected : names[0] ?? actual, expected)
}

const runQueueBucket = Effect.fnUntraced(function*({ config, expect, steps }: (typeof QueueBucket)["Type"]) {
  const bucket = bucketOf(config)
  const calls = new Map<string, Call>()
  const priority = priorityOf(steps.filter(({ op }) => op === "acquire").map(({ priority }) => priority), 5)
  for (const [index, step] of steps.entries()) {
    yield* TestClock.setTime(step.t)
    const { n = 1, op, times = 1 } = step
    switch (op) {
      case "acquire":
        for (let time = 0; time < times; time++) {
          const maxWaitMs = step.deadlineMs === undefined ? step.maxWaitMs : step.deadlineMs - step.t
          const made = yield* call(n, {
            scopes: bucket.scopes(),
            tokens: { input: n, output: 0 },
            priority: priority(step.priority),
            maxWait: waitOf(maxWaitMs ?? config.maxWaitMs)
          })
          calls.set(String(step.id ?? index), made)
        }
        break
      case "cancel": {
        const made = calls.get(String(step.id))
        if (made !== undefined) yield* Fiber.interrupt(made.fiber)
        break
      }
      case "settle": {
        const open = [...calls.values()].filter((made) => !made.settled && made.reservation() !== undefined)
        const made = step.id === undefined
          ? open.find((made) => made.n === step.reserved)
          : calls.get(String(step.id))
        const reservation = made?.reservation()
        if (made === undefined || reservation === undefined) throw new Error(`step ${index}: nothing to settle`)
        made.settled = true
        yield* reservation.settle({ input: step.actual ?? 0, output: 0 })
        break
      }
      case "setRate":
      case "setBurst":
        yield* bucket.change(step)
        break
      default:
        throw new Skip({ variant: `op ${op}`, reason: "an operation that we do not have" })
    }
  }
  yield* TestClock.adjust("1 day")
  return Object.entries(expect).flatMap(([id, expected]): Checks => {
    const made = calls.get(id)
    const at = made?.grantedAt()
    return [
      ...same(`${id} granted`, at !== undefined, expected.granted),
      ...same(`${id} at`, at, expected.at, config.toleranceMs ?? precisionMs),
      ...(at === undefined ? sameReason(`${id} reason`, made?.refused(), expected.reason) : [])
    ]
  })
})

export const queueBucket = kind(
  QueueBucket,
  (fields, { adopt }: Vector) =>
    adopt === "no" ? Effect.fail(peers) : runQueueBucket(fields).pipe(
      Effect.scoped,
      Effect.provide(RateLimiter.layerMemory({ maxQueue: fields.config.maxQueue }))
    )
)
