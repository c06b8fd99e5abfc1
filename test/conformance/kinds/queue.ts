/**
 * Requests in flight, and who goes next: slots, weights, priorities, shares, races.
 */
import * as RateLimiter from "breakwater/RateLimiter"
import * as Timeouts from "breakwater/Timeouts"
import { Clock, Duration, Effect, Exit, Fiber, Option, Schema, type Scope } from "effect"
import { TestClock } from "effect/testing"
import {
  type Checks,
  kind,
  listOf,
  oneOrMore,
  optionalBoolean,
  optionalNumber,
  optionalString,
  type Runner,
  same,
  Skip
} from "../kind.ts"
import { key, priorityOf, Rank } from "./limiter.ts"

const Id = Schema.Union([Schema.String, Schema.Number])

type Id = (typeof Id)["Type"]

const waitOf = (millis: number | undefined): Duration.Duration =>
  millis === undefined ? Duration.infinity : Duration.millis(Math.max(0, millis))

/** Runs a vector with a limiter and a scope of its own. */
const limited = <A>(
  schema: Schema.Codec<A, unknown>,
  optionsOf: (fields: A) => RateLimiter.Options,
  run: (fields: A) => Effect.Effect<Checks, Skip, RateLimiter.RateLimiter | Scope.Scope>
): Runner =>
  kind(
    schema,
    (fields) =>
      run(fields).pipe(
        Effect.scoped,
        Effect.provide(RateLimiter.layerMemory({ ageing: Infinity, ...optionsOf(fields) }))
      )
  )

const inFlight = Effect.map(
  Effect.flatMap(RateLimiter.RateLimiter, (limiter) => limiter.snapshotOf(key)),
  Option.match({ onNone: () => 0, onSome: (snapshot) => snapshot.inFlight })
)

// ---------------------------------------------------------------------------------------------------------------------
// jobs
// ---------------------------------------------------------------------------------------------------------------------

interface Job {
  readonly id: Id
  readonly t: number
  readonly ms: number
  readonly slots: number
  readonly priority: RateLimiter.Priority
  readonly maxWaitMs: number | undefined
  readonly cancelAt: number | undefined
  readonly expirationMs: number | undefined
  readonly tenant: string | undefined
}

/** When jobs started, in that order, and what became of those that did not or did not end. */
interface Ran {
  readonly starts: Map<Id, number>
  readonly refused: Map<Id, string>
  readonly expired: ReadonlyArray<Id>
  readonly cancelled: ReadonlyArray<Id>
}

/** Begins every job at its time, in the order given, and lets all of them end. */
const runJobs = Effect.fnUntraced(function*(limits: RateLimiter.Limits, jobs: ReadonlyArray<Job>) {
  const limiter = yield* RateLimiter.RateLimiter
  const starts = new Map<Id, number>()
  const refused = new Map<Id, string>()
  const expired: Array<Id> = []
  const cancelled: Array<Id> = []
  const scopes = [{ key, limits }]
  const fibers = new Map<Id, Fiber.Fiber<void>>()

  const runJob = ({ expirationMs, id, maxWaitMs, ms, priority, slots, tenant }: Job) =>
    Effect.gen(function*() {
      const begin = yield* Clock.currentTimeMillis
      const reserved = yield* Effect.result(
        limiter.reserve({ scopes, slots, priority, tenant, maxWait: waitOf(maxWaitMs) })
      )
      const now = yield* Clock.currentTimeMillis
      if (reserved._tag === "Failure") {
        refused.set(id, reserved.failure.reason === "queue_timeout" ? `timeout@${now}` : reserved.failure.reason)
        return
      }
      starts.set(id, now)
      const work = Effect.sleep(ms)
      if (expirationMs === undefined) return yield* work
      const left = Math.max(0.001, begin + expirationMs - now)
      const exit = yield* Effect.exit(Timeouts.attempt(work, left, { provider: "groq" }))
      if (Exit.isFailure(exit)) expired.push(id)
    }).pipe(Effect.scoped, Effect.onInterrupt(() => Effect.sync(() => cancelled.push(id))))

  const events = [
    ...jobs.map((job) => ({ at: job.t, job, begins: true })),
    ...jobs.flatMap((job) => job.cancelAt === undefined ? [] : [{ at: job.cancelAt, job, begins: false }])
  ].sort((a, b) => a.at - b.at)
  for (const { at, begins, job } of events) {
    yield* TestClock.setTime(at)
    if (begins) {
      fibers.set(job.id, yield* Effect.forkChild(runJob(job), { startImmediately: true }))
    } else {
      const fiber = fibers.get(job.id)
      if (fiber !== undefined) yield* Fiber.interrupt(fiber)
    }
  }
  yield* TestClock.adjust("2 days")
  const ran: Ran = { starts, refused, expired, cancelled }
  return ran
})

// ---------------------------------------------------------------------------------------------------------------------
// bulkhead
// ---------------------------------------------------------------------------------------------------------------------

const stateOf = (ran: Ran, id: string): number | string | undefined => {
  const find = <A>(map: Map<Id, A>) => [...map].find(([other]) => String(other) === id)?.[1]
  const refused = find(ran.refused)
  if (ran.cancelled.some((other) => String(other) === id) && find(ran.starts) === undefined) return "cancelled"
  if (refused === undefined) return find(ran.starts)
  return refused === "queue_full" ? "rejected:full" : `rejected:${refused}`
}

export const bulkhead = limited(
  Schema.Struct({
    config: Schema.Struct({ permits: Schema.Number, maxQueue: optionalNumber, maxWaitMs: optionalNumber }),
    calls: Schema.Array(Schema.Struct({
      id: Id,
      t: optionalNumber,
      ms: optionalNumber,
      cancelAt: optionalNumber,
      maxWaitMs: optionalNumber
    })),
    expect: Schema.Record(Schema.String, Schema.Union([Schema.Number, Schema.String]))
  }),
  ({ config }) => ({ maxQueue: config.maxQueue ?? Infinity }),
  Effect.fnUntraced(function*({ calls, config, expect }) {
    const jobs = calls.map((call): Job => ({
      id: call.id,
      t: call.t ?? 0,
      ms: call.ms ?? 0,
      slots: 1,
      priority: "normal",
      maxWaitMs: call.maxWaitMs ?? config.maxWaitMs,
      cancelAt: call.cancelAt,
      expirationMs: undefined,
      tenant: undefined
    }))
    const ran = yield* runJobs({ concurrency: config.permits }, jobs)
    return Object.entries(expect).flatMap(([id, expected]) => {
      const state = stateOf(ran, id)
      // Without a time, a refusal matches at any.
      const actual = typeof expected === "string" && !expected.includes("@") && typeof state === "string"
        ? state.split("@")[0]
        : state
      return same(`call ${id}`, actual, expected, 1e-6)
    })
  })
)

// ---------------------------------------------------------------------------------------------------------------------
// jobs in order
// ---------------------------------------------------------------------------------------------------------------------

const Jobs = Schema.Struct({
  config: Schema.Struct({
    maxConcurrent: optionalNumber,
    permits: optionalNumber,
    minTimeMs: optionalNumber,
    maxQueue: optionalNumber,
    maxWaitMs: optionalNumber,
    agingMs: optionalNumber,
    ageingMs: optionalNumber,
    expirationMs: optionalNumber,
    reservoir: optionalNumber,
    refreshMs: optionalNumber,
    refreshAmount: optionalNumber
  }),
  jobs: Schema.Array(Schema.Struct({
    id: Id,
    t: optionalNumber,
    ms: optionalNumber,
    weight: optionalNumber,
    priority: Rank,
    maxWaitMs: optionalNumber,
    cancelAt: optionalNumber,
    expirationMs: optionalNumber,
    tenant: optionalString
  })),
  expect: Schema.Struct({
    order: Schema.optionalKey(Schema.Array(Id)),
    startsMs: Schema.optionalKey(
      Schema.Union([Schema.Array(Schema.Number), Schema.Record(Schema.String, Schema.NullOr(Schema.Number))])
    ),
    rejected: Schema.optionalKey(Schema.Array(Id)),
    expired: Schema.optionalKey(Schema.Array(Id)),
    cancelled: Schema.optionalKey(Schema.Array(Id))
  })
})

type Jobs = (typeof Jobs)["Type"]

const dayMs = 86_400_000

/** A reservoir that is refilled at whole intervals is a calendar quota; one that never is lasts a month. */
const reservoirOf = ({ refreshAmount, refreshMs, reservoir }: Jobs["config"]): RateLimiter.Limits => {
  if (reservoir === undefined) return {}
  if (refreshAmount !== undefined && refreshAmount !== reservoir) {
    throw new Skip({ variant: "refreshAmount", reason: "a quota comes back as what it was" })
  }
  if (refreshMs === undefined) return { requests: { limit: reservoir, per: "month", window: "calendar" } }
  if (dayMs % refreshMs !== 0) throw new Skip({ variant: "refreshMs", reason: "calendar windows divide a day" })
  return { requests: { limit: reservoir, per: refreshMs, window: "calendar" } }
}

const jobsKind = (options: { readonly exactPriority: boolean }): Runner =>
  limited(
    Jobs,
    ({ config }) => ({
      maxQueue: config.maxQueue ?? Infinity,
      ageing: config.agingMs ?? config.ageingMs ?? (options.exactPriority ? "10 seconds" : Infinity)
    }),
    Effect.fnUntraced(function*({ config, expect, jobs }) {
      const priority = priorityOf(jobs.map((job) => job.priority), 5, options.exactPriority)
      const concurrency = config.maxConcurrent ?? config.permits
      const ran = yield* runJobs(
        {
          ...reservoirOf(config),
          ...(concurrency === undefined ? {} : { concurrency }),
          ...(config.minTimeMs === undefined || config.minTimeMs === 0 ? {} : { minInterval: config.minTimeMs })
        },
        jobs.map((job): Job => ({
          id: job.id,
          t: job.t ?? 0,
          ms: job.ms ?? 0,
          slots: job.weight ?? 1,
          priority: priority(job.priority),
          maxWaitMs: job.maxWaitMs ?? config.maxWaitMs,
          cancelAt: job.cancelAt,
          expirationMs: job.expirationMs ?? config.expirationMs,
          tenant: job.tenant
        }))
      )
      const startsMs = expect.startsMs === undefined
        ? []
        : Array.isArray(expect.startsMs)
        ? same("startsMs", [...ran.starts.values()], expect.startsMs)
        : Object.entries(expect.startsMs).flatMap(([id, expected]) => {
          const state = stateOf(ran, id)
          return same(`start of ${id}`, typeof state === "number" ? state : null, expected, 1e-6)
        })
      return [
        ...same("order", [...ran.starts.keys()], expect.order),
        ...startsMs,
        ...same("rejected", [...ran.refused.keys()], expect.rejected),
        ...same("expired", ran.expired, expect.expired),
        ...same("cancelled", ran.cancelled, expect.cancelled)
      ]
    })
  )

export const priority = jobsKind({ exactPriority: false })
export const weights = priority
export const reservoir = priority
export const expiration = priority
export const ageing = jobsKind({ exactPriority: true })

// ---------------------------------------------------------------------------------------------------------------------
// shares
// ---------------------------------------------------------------------------------------------------------------------

/** Partitions are tenants of one limit: each may use what is there, and none more than there is. */
export const partitioned = limited(
  Schema.Struct({
    config: Schema.Struct({ limit: Schema.Number, partitions: Schema.Record(Schema.String, Schema.Number) }),
    steps: Schema.Array(Schema.Struct({
      op: Schema.String,
      partition: optionalString,
      limit: optionalNumber,
      times: optionalNumber,
      expect: optionalBoolean
    }))
  }),
  ({ config }) => ({
    // A share of nothing is no weight.
    tenantWeights: Object.fromEntries(Object.entries(config.partitions).filter(([, share]) => share > 0))
  }),
  Effect.fnUntraced(function*({ config, steps }) {
    const limiter = yield* RateLimiter.RateLimiter
    const scopes = [{ key, limits: { concurrency: config.limit } }]
    const held = new Map<string, Array<RateLimiter.Reservation>>()
    const checks: Array<Checks> = []
    let limit = config.limit
    for (const [index, { expect, limit: next = limit, op, partition = "", times = 1 }] of steps.entries()) {
      const mine = held.get(partition) ?? []
      held.set(partition, mine)
      for (let time = 0; time < times; time++) {
        switch (op) {
          case "acquire": {
            const isFull = [...held.values()].reduce((sum, some) => sum + some.length, 0) >= limit
            if (isFull && mine.length < Math.floor((config.partitions[partition] ?? 0) * limit + 1e-9)) {
              throw new Skip({
                variant: "beyond the total",
                reason: "by design: shares never exceed the limit they share"
              })
            }
            const reserved = yield* Effect.option(limiter.tryReserve({ scopes, tenant: partition }))
            if (Option.isSome(reserved)) mine.push(reserved.value)
            checks.push(same(`step ${index} acquire ${time}`, Option.isSome(reserved), expect))
            break
          }
          case "release": {
            const reservation = mine.pop()
            if (reservation !== undefined) yield* reservation.cancel
            break
          }
          case "setLimit":
            limit = next
            yield* limiter.setLimits(key, { concurrency: limit })
            break
          default:
            throw new Skip({ variant: `op ${op}`, reason: "an operation that we do not have" })
        }
      }
    }
    return checks.flat()
  })
)

// ---------------------------------------------------------------------------------------------------------------------
// races and resizing
// ---------------------------------------------------------------------------------------------------------------------

/** Holds a slot for a while, unless there is none in time. */
const contender = (permits: number, waitMs: number, holdMs: number) =>
  Effect.flatMap(
    RateLimiter.RateLimiter,
    (limiter) =>
      limiter.reserve({ scopes: [{ key, limits: { concurrency: permits } }], maxWait: waitMs }).pipe(
        Effect.andThen(Effect.sleep(holdMs)),
        Effect.scoped,
        Effect.exit
      )
  )

const Race = Schema.Struct({
  input: Schema.Struct({
    permits: Schema.Number,
    held: optionalNumber,
    rounds: optionalNumber,
    contendersPerRound: optionalNumber,
    actors: optionalNumber,
    waitMs: optionalNumber
  }),
  expect: Schema.Struct({ inflightAfterEachRound: optionalNumber, available: optionalNumber })
})

/**
 * Contenders for the slots that are left: a slot comes back at the instant at which the wait for it ends, and in every
 * other round some of them are interrupted at that instant.
 */
export const race = limited(
  Race,
  () => ({}),
  Effect.fnUntraced(function*({ expect, input }) {
    const limiter = yield* RateLimiter.RateLimiter
    const { actors, contendersPerRound = actors ?? 2, held = 0, permits, rounds = 10, waitMs = 10 } = input
    const scopes = [{ key, limits: { concurrency: permits } }]
    for (let index = 0; index < held; index++) yield* Effect.orDie(limiter.reserve({ scopes }))
    const checks: Array<Checks> = []
    for (let round = 0; round < rounds; round++) {
      const fibers = yield* Effect.forEach(
        Array.from({ length: contendersPerRound }, (_, index) => index),
        (index) =>
          Effect.forkChild(contender(permits, waitMs, index === 0 ? waitMs : 1), { startImmediately: index % 2 === 0 })
      )
      yield* TestClock.adjust(waitMs)
      if (round % 2 === 1) {
        yield* Effect.forEach(fibers.filter((_, index) => index % 3 === 1), (fiber) => Fiber.interrupt(fiber))
      }
      yield* TestClock.adjust("1 minute")
      const left = yield* inFlight
      checks.push(
        same(`in flight after round ${round}`, left, expect.inflightAfterEachRound),
        same(`available after round ${round}`, permits - left, expect.available)
      )
    }
    return checks.flat()
  })
)

export const resize = limited(
  Schema.Struct({
    input: oneOrMore(Schema.Struct({
      permits: Schema.Number,
      held: Schema.Number,
      resize: Schema.Number,
      release: optionalNumber
    })),
    expect: oneOrMore(Schema.Struct({ acquire: optionalBoolean, inflight: optionalNumber }))
  }),
  () => ({}),
  Effect.fnUntraced(function*({ expect, input }) {
    const limiter = yield* RateLimiter.RateLimiter
    const expected = listOf(expect, [])
    const checks: Array<Checks> = []
    for (const [index, { held, permits, release = 0, resize }] of listOf(input, []).entries()) {
      const scope = `${key} ${index}`
      const scopes = [{ key: scope, limits: { concurrency: permits } }]
      const reservations = yield* Effect.forEach(
        Array.from({ length: held }),
        () => Effect.orDie(limiter.reserve({ scopes }))
      )
      yield* limiter.setLimits(scope, { concurrency: resize })
      for (const reservation of reservations.slice(0, release)) yield* reservation.cancel
      const acquired = Option.isSome(yield* Effect.option(limiter.tryReserve({ scopes })))
      const figures = Option.getOrUndefined(yield* limiter.snapshotOf(scope))
      checks.push(
        same(`case ${index} acquire`, acquired, expected[index]?.acquire),
        same(`case ${index} inflight`, figures?.inFlight, expected[index]?.inflight)
      )
    }
    return checks.flat()
  })
)
