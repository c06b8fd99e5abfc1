/**
 * How many retries are granted: the rules of `RetryBudget`.
 */
import { LLMError } from "breakwater"
import * as RetryBudget from "breakwater/RetryBudget"
import { Effect, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Policies from "../../../src/internal/budget/policies.ts"
import { type Check, kind, optionalNumber, optionalString, pureKind, same, Skip } from "../kind.ts"

const key = "groq/llama"

const given = <K extends string>(name: K, value: number | undefined): { readonly [_ in K]?: number } =>
  // The computed name is K, which the compiler widens to string.
  (value === undefined ? {} : { [name]: value }) as { readonly [_ in K]?: number }

const Ttl = Schema.Struct({ ttlMs: optionalNumber, minRetriesPerSec: optionalNumber, ratio: optionalNumber })

/** The window of the peers, which state the minimum as a rate. */
export const windowedOf = ({ minRetriesPerSec, ratio, ttlMs }: (typeof Ttl)["Type"]): RetryBudget.Policy =>
  RetryBudget.windowed({
    ...given("window", ttlMs),
    ...given("ratio", ratio),
    ...given("minimum", minRetriesPerSec === undefined ? undefined : minRetriesPerSec * (ttlMs ?? 60_000) / 1000)
  })

export const ttlBudget = kind(
  Schema.Struct({
    config: Ttl,
    steps: Schema.Array(Schema.Struct({
      t: Schema.Number,
      op: Schema.Literals(["deposit", "withdraw"]),
      times: optionalNumber,
      expect: Schema.optionalKey(Schema.Boolean)
    }))
  }),
  ({ config, steps }) =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      const checks: Array<Check> = []
      for (const [index, { expect, op, t, times = 1 }] of steps.entries()) {
        yield* TestClock.setTime(t)
        for (let time = 0; time < times; time++) {
          if (op === "deposit") yield* budget.deposit(key)
          else checks.push(...same(`step ${index}, time ${time}`, yield* budget.withdraw(key), expect))
        }
      }
      return checks
    }).pipe(
      Effect.provide(RetryBudget.layerMemory({ policy: windowedOf(config) }))
    )
)

const Grpc = Schema.Struct({ maxTokens: Schema.Number, tokenRatio: Schema.Number })

export const grpcThrottle = pureKind(
  Schema.Struct({
    config: Grpc,
    input: Schema.Struct({ events: Schema.Union([Schema.String, Schema.Array(Schema.String)]) }),
    expect: Schema.Struct({
      retryAllowedAfterEach: Schema.optionalKey(Schema.Array(Schema.Boolean)),
      tokens: optionalNumber
    })
  }),
  ({ config, expect, input }) => {
    const policy = RetryBudget.throttle(config)
    if (policy._tag !== "Throttle") throw new Skip({ variant: policy._tag, reason: "another rule" })
    const ledger = Policies.throttle(policy)
    const allowed = [...input.events].map((event) => {
      if (event !== "F" && event !== "S") throw new Skip({ variant: event, reason: "an event that we do not know" })
      ledger.apply(
        { _tag: "Ended", retry: false, outcome: event === "F" ? "failure" : "success", cost: "transient" },
        0
      )
      return ledger.apply({ _tag: "Withdrawn", cost: "transient" }, 0)
    })
    return [
      ...same("retry allowed after each", allowed, expect.retryAllowedAfterEach),
      ...same("tokens", ledger.tokens(), expect.tokens, 1e-9)
    ]
  }
)

/** What gRPC's statuses are among our errors. */
const errors: Readonly<Record<string, LLMError.LLMError>> = {
  UNAVAILABLE: LLMError.make("server_error", { provider: "p", reason: "overloaded", status: 503 }),
  RESOURCE_EXHAUSTED: LLMError.make("rate_limit", { provider: "p", reason: "rate_limit", status: 429 }),
  INTERNAL: LLMError.make("server_error", { provider: "p", reason: "internal_error", status: 500 }),
  INVALID_ARGUMENT: LLMError.make("permanent", { provider: "p", reason: "invalid_request", scope: "request" }),
  NOT_FOUND: LLMError.make("permanent", { provider: "p", reason: "model_not_found" }),
  UNAUTHENTICATED: LLMError.make("authentication", { provider: "p", reason: "invalid_key" }),
  PERMISSION_DENIED: LLMError.make("authentication", { provider: "p", reason: "permission_denied" }),
  "pushback -1": LLMError.make("server_error", { provider: "p", reason: "overloaded", shouldRetry: false })
}

export const classification = pureKind(
  Schema.Struct({ input: Schema.Array(Schema.String), expect: Schema.Array(Schema.Boolean) }),
  ({ expect, input }) =>
    input.flatMap((name, index) => {
      const error = errors[name]
      if (error === undefined) throw new Skip({ variant: name, reason: "a status that our errors do not have" })
      return same(`${name} counts`, RetryBudget.outcomeOf(error) === "failure", expect[index])
    })
)

export const concurrentBudget = pureKind(
  Schema.Struct({
    config: Schema.Struct({
      maxRate: Schema.Number,
      minConcurrency: Schema.Number,
      initialExecutions: optionalNumber,
      initialRetries: optionalNumber
    }),
    steps: Schema.Array(Schema.Struct({
      op: Schema.Literals(["acquire", "release"]),
      times: optionalNumber,
      expect: Schema.optionalKey(Schema.Boolean)
    }))
  }),
  ({ config, steps }) => {
    const policy = RetryBudget.concurrent({ ratio: config.maxRate, minimum: config.minConcurrency })
    if (policy._tag !== "Concurrent") throw new Skip({ variant: policy._tag, reason: "another rule" })
    const ledger = Policies.concurrent(policy, {
      attempts: config.initialExecutions ?? 0,
      retries: config.initialRetries ?? 0
    })
    return steps.flatMap(({ expect, op, times = 1 }, index) =>
      Array.from({ length: times }, () =>
        op === "acquire"
          ? ledger.apply({ _tag: "Withdrawn", cost: "transient" }, 0)
          : ledger.apply({ _tag: "Ended", retry: true, outcome: "failure", cost: "transient" }, 0)).flatMap(
          (actual, time) => time === times - 1 ? same(`step ${index}`, actual, expect) : []
        )
    )
  }
)

export const envoyBudget = pureKind(
  Schema.Struct({
    config: Schema.Struct({ budgetPercent: optionalNumber, minRetryConcurrency: optionalNumber }),
    input: Schema.Struct({ activeAndPending: Schema.Number, activeRetries: Schema.Number }),
    expect: Schema.Struct({ retryAllowed: Schema.Boolean })
  }),
  ({ config, expect, input }) => {
    const policy = RetryBudget.concurrent({
      ...given("ratio", config.budgetPercent === undefined ? undefined : config.budgetPercent / 100),
      ...given("minimum", config.minRetryConcurrency)
    })
    if (policy._tag !== "Concurrent") throw new Skip({ variant: policy._tag, reason: "another rule" })
    const ledger = Policies.concurrent(policy, { attempts: input.activeAndPending, retries: input.activeRetries })
    return same("retry allowed", ledger.apply({ _tag: "Withdrawn", cost: "transient" }, 0), expect.retryAllowed)
  }
)

const costOf = (name: string | undefined): RetryBudget.Cost =>
  /throttl|rate/i.test(name ?? "") ? "throttling" : "transient"

export const quota = kind(
  Schema.Struct({
    config: Schema.optionalKey(Schema.Struct({
      capacity: optionalNumber,
      transientCost: optionalNumber,
      retryCost: optionalNumber,
      throttlingCost: optionalNumber,
      reward: optionalNumber
    })),
    steps: Schema.Array(Schema.Struct({
      op: Schema.Literals(["acquire", "retry", "withdraw", "release", "refund", "success", "retry-success"]),
      type: optionalString,
      errorType: optionalString,
      times: optionalNumber,
      expect: Schema.optionalKey(Schema.Boolean)
    }))
  }),
  ({ config = {}, steps }) =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      const checks: Array<Check> = []
      for (const [index, { errorType, expect, op, times = 1, type = errorType }] of steps.entries()) {
        const cost = costOf(type)
        for (let time = 1; time <= times; time++) {
          switch (op) {
            case "acquire":
            case "retry":
            case "withdraw": {
              const isGranted = yield* budget.withdraw(key, cost)
              if (time === times) checks.push(...same(`step ${index}`, isGranted, expect))
              break
            }
            case "release":
            case "refund":
            case "retry-success":
              yield* budget.settle(key, { retry: true, outcome: "success", cost })
              break
            case "success":
              yield* budget.settle(key, { retry: false, outcome: "success" })
              break
          }
        }
      }
      return checks
    }).pipe(
      Effect.provide(RetryBudget.layerMemory({
        policy: RetryBudget.tokens({
          ...given("capacity", config.capacity),
          ...given("transient", config.transientCost ?? config.retryCost),
          ...given("throttling", config.throttlingCost),
          ...given("reward", config.reward)
        })
      }))
    )
)
