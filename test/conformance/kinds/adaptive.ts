/**
 * What the limiter learns: limits on requests in flight, refusals ahead of a provider or of a long queue.
 */
import * as RateLimiter from "breakwater/RateLimiter"
import { Duration, Effect, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Learning from "../../../src/internal/limiter/learning.ts"
import { type Checks, kind, optionalBoolean, optionalNumber, pureKind, same, Skip, within } from "../kind.ts"
import { call, key } from "./limiter.ts"

const precision = 1e-9

const Limits = Schema.Struct({ limit: optionalNumber, limits: Schema.optionalKey(Schema.Array(Schema.Number)) })

/** Limits are compared as they are or in whole requests, which is what is admitted. */
const sameLimits = (actual: ReadonlyArray<number>, expect: (typeof Limits)["Type"]): Checks => {
  const one = (what: string, limit: number | undefined, expected: number | undefined) =>
    same(what, expected === Math.floor((limit ?? 0) + precision) ? expected : limit, expected, 1e-6)
  return [
    ...one("limit", actual.at(-1), expect.limit),
    ...(expect.limits ?? []).flatMap((expected, index) => one(`limit after sample ${index}`, actual[index], expected))
  ]
}

const Config = Schema.Struct({
  initial: Schema.Number,
  min: optionalNumber,
  max: optionalNumber,
  backoffRatio: optionalNumber,
  timeoutMs: optionalNumber,
  cooldownMs: optionalNumber,
  increase: Schema.optionalKey(Schema.Literals(["success", "round"]))
})

const optionsOf = (
  { initial: _, ...given }: (typeof Config)["Type"],
  defaults: Partial<Learning.ConcurrencyOptions>
): Learning.ConcurrencyOptions => ({ ...Learning.concurrencyDefaults, ...defaults, ...given })

export const aimd = pureKind(
  Schema.Struct({
    config: Config,
    samples: Schema.Array(Schema.Struct({
      rttMs: optionalNumber,
      inflight: optionalNumber,
      dropped: optionalBoolean,
      times: optionalNumber
    })),
    expect: Limits
  }),
  ({ config, expect, samples }) => {
    const options = optionsOf(config, { increase: "success", cooldownMs: 0 })
    let state = Learning.concurrencyInitial(config.initial)
    let now = 0
    const limits = samples.map(({ dropped = false, inflight = 0, rttMs = 0, times = 1 }) => {
      for (let time = 0; time < times; time++) {
        // Each sample is a round of its own: sent after the one before was answered.
        const sentAt = now + 1
        now = sentAt + rttMs
        state = Learning.concurrency(options, state, { sentAt, inflight, dropped }, now)
      }
      return state.limit
    })
    return sameLimits(limits, expect)
  }
)

const drops = new Set(["429", "503", "529", "throttled", "overloaded", "overload", "dropped", "drop", "failure"])
const successes = new Set(["200", "success", "ok"])

const isDropped = (event: string): boolean => {
  if (drops.has(event)) return true
  if (successes.has(event)) return false
  throw new Skip({ variant: `event ${event}`, reason: "an event that we do not know" })
}

export const llmAimd = pureKind(
  Schema.Struct({
    config: Config,
    samples: Schema.Array(Schema.Struct({
      t: Schema.Number,
      sentAt: optionalNumber,
      event: Schema.Union([Schema.String, Schema.Number]),
      inflight: optionalNumber,
      times: optionalNumber
    })),
    expect: Limits
  }),
  ({ config, expect, samples }) => {
    const options = optionsOf(config, {})
    let state = Learning.concurrencyInitial(config.initial)
    const limits = samples.map(({ event, inflight, sentAt, t, times = 1 }) => {
      for (let time = 0; time < times; time++) {
        const sample = { sentAt: sentAt ?? t, inflight: inflight ?? state.limit, dropped: isDropped(String(event)) }
        state = Learning.concurrency(options, state, sample, t)
      }
      return state.limit
    })
    return sameLimits(limits, expect)
  }
)

// ---------------------------------------------------------------------------------------------------------------------
// refusing ahead
// ---------------------------------------------------------------------------------------------------------------------

const Probability = Schema.Struct({ rejectProbability: Schema.Number, tolerance: optionalNumber })

const Served = {
  requests: Schema.Number,
  accepts: Schema.Number,
  maxRejection: optionalNumber,
  minRequests: optionalNumber
}

const sameProbability = (actual: number, expect: (typeof Probability)["Type"]): Checks =>
  same("rejectProbability", actual, expect.rejectProbability, expect.tolerance ?? precision)

export const sreThrottle = pureKind(
  Schema.Struct({
    input: Schema.Struct({ ...Served, successRateThreshold: optionalNumber }),
    expect: Probability
  }),
  ({ expect, input }) =>
    sameProbability(
      Learning.throttleProbability(input.requests, input.accepts, {
        multiplier: 1 / (input.successRateThreshold ?? 0.9),
        maxProbability: input.maxRejection,
        minRequests: input.minRequests
      }),
      expect
    )
)

export const sreK = pureKind(
  Schema.Struct({ input: Schema.Struct({ ...Served, K: Schema.Number }), expect: Probability }),
  ({ expect, input }) =>
    sameProbability(
      Learning.throttleProbability(input.requests, input.accepts, {
        multiplier: input.K,
        // The formula itself has no other bound.
        maxProbability: input.maxRejection ?? 1,
        minRequests: input.minRequests
      }),
      expect
    )
)

export const queueRejection = pureKind(
  Schema.Struct({
    input: Schema.Struct({ queued: Schema.Number, rejectionThreshold: Schema.Number, maxQueue: Schema.Number }),
    expect: Probability
  }),
  ({ expect, input }) =>
    sameProbability(Learning.queueRejection(input.queued, input.rejectionThreshold, input.maxQueue), expect)
)

/** Envoy raises the probability to a power below 1 for an aggression above 1; we know the plain one. */
export const envoyAdmission = pureKind(
  Schema.Struct({
    input: Schema.Struct({ ...Served, successRateThreshold: optionalNumber, aggression: optionalNumber }),
    expect: Probability
  }),
  ({ expect, input }) => {
    const { accepts, aggression = 1, maxRejection = 0.8, minRequests, requests, successRateThreshold = 0.95 } = input
    if (aggression !== 1) throw new Skip({ variant: "aggression", reason: "by design: one curve is enough to shed" })
    const multiplier = 1 / successRateThreshold
    const options = { multiplier, maxProbability: maxRejection, minRequests }
    return sameProbability(Learning.throttleProbability(requests, accepts, options), expect)
  }
)

const firstOf = (input: Readonly<Record<string, number>>, ...names: ReadonlyArray<string>): number => {
  const value = names.map((name) => input[name]).find((value) => value !== undefined)
  if (value === undefined) throw new Skip({ variant: "shape", reason: `none of ${names.join(", ")}` })
  return value
}

/** The highest limit that what is in flight justifies. */
export const maxLimit = pureKind(
  Schema.Struct({
    input: Schema.Record(Schema.String, Schema.Number),
    expect: Schema.Record(Schema.String, Schema.Number)
  }),
  ({ expect, input }) =>
    same(
      "limit",
      Learning.maxLimit(firstOf(input, "inflight", "inflights"), {
        factor: firstOf(input, "factor", "maxLimitFactor", "maxFactor", "initialFactor"),
        minFactor: input["minFactor"] ?? input["minLimitFactor"] ?? 1,
        decay: input["decay"] ?? input["factorDecay"] ?? input["maxLimitFactorDecay"] ?? 0
      }),
      firstOf(expect, "limit", "maxLimit", "max"),
      1e-6
    )
)

// ---------------------------------------------------------------------------------------------------------------------
// what a peer does worse
// ---------------------------------------------------------------------------------------------------------------------

/**
 * After a shared wait, callers of the peer resume in one instant and without a limit. Ours resume no earlier, one after
 * another, through a bucket whose rate the refusal has lowered.
 */
export const effectCounterexample = kind(
  Schema.Struct({ input: Schema.Struct({ cooldownMs: Schema.Number, waiting: Schema.Number }) }),
  ({ input }) =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.RateLimiter
      const scopes = [{ key, limits: { requests: { limit: 60, per: "1 minute" } } }] as const
      const first = yield* call(1, { scopes })
      yield* limiter.observe(key, {
        refused: { retryAfter: Duration.millis(input.cooldownMs) },
        sentAt: first.grantedAt()
      })
      const waiting = yield* Effect.forEach(
        Array.from({ length: input.waiting }),
        () => call(1, { scopes, maxWait: Duration.infinity })
      )
      yield* TestClock.adjust("1 day")
      const resumed = waiting.map((made) => made.grantedAt() ?? Number.NaN)
      return resumed.flatMap((at, index): Checks => [
        ...within(`resume of ${index}`, at, { gt: input.cooldownMs }),
        ...(index === 0 ? [] : within(`after resume of ${index - 1}`, at - (resumed[index - 1] ?? at), { gt: 1000 }))
      ])
    }).pipe(Effect.scoped, Effect.provide(RateLimiter.layerMemory()))
)
