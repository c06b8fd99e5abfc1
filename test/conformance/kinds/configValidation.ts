/**
 * Options that have to be rejected when they are given, whatever mechanism they belong to.
 */
import * as RateLimiter from "breakwater/RateLimiter"
import * as Retry from "breakwater/Retry"
import * as Timeouts from "breakwater/Timeouts"
import { Effect, Schema, Stream } from "effect"
import { isRejected, pureKind, same, Skip } from "../kind.ts"
import { windowedOf } from "./budget.ts"
import * as Circuit from "./circuit.ts"

type Options = Readonly<Record<string, unknown>>

interface Family {
  readonly fields: ReadonlyArray<string>
  /** Whether the options are among those that peers reject and we take. */
  readonly allows?: (options: Readonly<Record<string, number>>) => boolean
  readonly construct: (options: Readonly<Record<string, number>>) => unknown
}

const given = <K extends string>(name: K, value: number | undefined): { readonly [_ in K]?: number } =>
  // The computed name is K, which the compiler widens to string.
  (value === undefined ? {} : { [name]: value }) as { readonly [_ in K]?: number }

const context: Timeouts.ErrorContext = { provider: "groq" }

const families: ReadonlyArray<Family> = [
  {
    // The peers count attempts from 1, we count from 0.
    fields: ["baseMs", "maxMs", "factor", "jitterRatio", "ratio", "attempt", "maxAttempts"],
    construct: ({ attempt, baseMs, factor, jitterRatio, maxAttempts, maxMs, ratio = jitterRatio }) => {
      const backoff = Retry.makeBackoff({
        ...given("base", baseMs),
        ...given("max", maxMs),
        ...given("factor", factor),
        ...(ratio === undefined ? {} : { jitter: "additive", ratio })
      })
      if (attempt !== undefined) Retry.delayMillis(backoff, attempt - 1, 0.5)
      if (maxAttempts !== undefined) Retry.standardWith({ retries: maxAttempts - 1 })
    }
  },
  { fields: ["ttlMs", "minRetriesPerSec"], construct: windowedOf },
  { fields: Circuit.fields, allows: Circuit.allows, construct: Circuit.construct },
  {
    fields: ["timeoutMs", "attemptMs", "totalMs", "idleMs", "firstMs"],
    construct: ({ attemptMs, firstMs, idleMs, timeoutMs = attemptMs, totalMs }) => {
      if (timeoutMs !== undefined) Timeouts.attempt(Effect.never, timeoutMs, context)
      if (totalMs !== undefined) Timeouts.total(Effect.never, totalMs, context)
      Timeouts.stream(Stream.never, {
        ...given("idle", idleMs),
        ...given("firstToken", firstMs),
        isContent: () => true,
        context
      })
    }
  },
  {
    fields: [
      "acquire",
      "n",
      "setRate",
      "ratePerSec",
      "setBurst",
      "burst",
      "capacity",
      "limit",
      "windowMs",
      "periodMs",
      "permits",
      "maxConcurrent",
      "minTimeMs",
      "maxQueue",
      "maxWaitMs"
    ],
    // A request for nothing looks at the limit and takes nothing.
    allows: ({ acquire, n = acquire }) => n === 0,
    construct: (options) => {
      const { acquire, maxConcurrent, maxQueue, maxWaitMs, minTimeMs, n = acquire, permits = maxConcurrent } = options
      const { limit = 1, ratePerSec = limit, setRate = ratePerSec } = options
      const { capacity, burst = capacity, setBurst = burst } = options
      const { periodMs = 1000, windowMs = periodMs } = options
      const limits: RateLimiter.Limits = {
        tokens: { limit: setRate, per: windowMs, ...given("burst", setBurst) },
        ...given("concurrency", permits),
        ...given("minInterval", minTimeMs)
      }
      const request: RateLimiter.Request = {
        scopes: [{ key: "vector", limits }],
        tokens: { input: n ?? 0, output: 0 },
        ...given("maxWait", maxWaitMs)
      }
      return RateLimiter.RateLimiter.use((limiter) => limiter.reserve(request)).pipe(
        // A refusal is an answer; options that are rejected are a defect.
        Effect.ignore,
        Effect.scoped,
        Effect.provide(RateLimiter.layerMemory({ maxQueue })),
        Effect.runSync
      )
    }
  }
]

const numbersOf = (options: Options): Readonly<Record<string, number>> =>
  Object.fromEntries(
    Object.entries(options).map(([name, value]) => {
      // JSON has no number for what is none.
      if (value === null) return [name, Number.NaN]
      if (typeof value !== "number") throw new Skip({ variant: name, reason: "an option that we do not have" })
      return [name, value]
    })
  )

const familyOf = (options: Options): Family => {
  const names = Object.keys(options)
  const family = families.find(({ fields }) => names.every((name) => fields.includes(name)))
  if (family === undefined) throw new Skip({ variant: names.join(", "), reason: "an option that we do not have" })
  return family
}

export const configValidation = pureKind(
  Schema.Struct({
    input: Schema.Array(Schema.Record(Schema.String, Schema.Unknown)),
    expect: Schema.Union([
      Schema.String,
      Schema.Struct({ valid: Schema.optionalKey(Schema.Array(Schema.Boolean)) })
    ])
  }),
  ({ expect, input }) => {
    const valid = typeof expect === "string" ? undefined : expect.valid
    return input.flatMap((options, index) => {
      const { allows, construct } = familyOf(options)
      const numbers = numbersOf(options)
      const isValid = valid?.[index] ?? allows?.(numbers) ?? false
      return same(`rejected ${JSON.stringify(options)}`, isRejected(() => construct(numbers)), !isValid)
    })
  }
)
