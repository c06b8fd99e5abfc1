/**
 * Second requests beside slow first ones: `Hedging.race`, and the delay and the budget of `Hedging`.
 */
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import * as Hedging from "breakwater/Hedging"
import type { LLMError } from "breakwater/LLMError"
import * as RateLimiter from "breakwater/RateLimiter"
import * as Timeouts from "breakwater/Timeouts"
import * as Usage from "breakwater/Usage"
import { Cause, Clock, Data, Duration, Effect, Exit, Option, Result, Schema, Scope, Stream } from "effect"
import * as Policies from "../../../src/internal/budget/policies.ts"
import { settle, timeline } from "../../support/Virtual.ts"
import { type Checks, kind, oneOrMore, optionalBoolean, optionalNumber, optionalString, same, Skip } from "../kind.ts"
import { outcomeOf } from "./timeout.ts"

const key = "groq/llama"

const optionalNumbers = Schema.optionalKey(Schema.Array(Schema.Number))

const Config = Schema.Struct({
  maxAttempts: optionalNumber,
  delayMs: Schema.optionalKey(Schema.NullOr(Schema.Number)),
  budget: Schema.optionalKey(Schema.Struct({
    maxRate: Schema.Number,
    minConcurrency: Schema.Number,
    initialExecutions: optionalNumber,
    initialRetries: optionalNumber
  }))
})

type Config = (typeof Config)["Type"]

/** An attempt: how long it takes from its own start, and how it ends. */
const Attempt = Schema.Struct({ ms: Schema.Number, outcome: optionalString, pushbackMs: optionalNumber })

type Attempt = (typeof Attempt)["Type"]

/** Work that takes a while; an infinite one never ends. */
const taking = (millis: number): Effect.Effect<void> => millis === Infinity ? Effect.never : Effect.sleep(millis)

class AttemptError extends Data.TaggedError("AttemptError")<{ readonly name: string; readonly isFatal: boolean }> {}

const isFatal = (error: unknown): boolean => error instanceof AttemptError && error.isFatal

const attempted = (
  { ms, outcome = "success", pushbackMs }: Attempt,
  name: string
): Effect.Effect<string, AttemptError> => {
  if (pushbackMs !== undefined) {
    return Effect.die(new Skip({ variant: "pushback", reason: "by design: a signal of gRPC" }))
  }
  switch (outcome) {
    case "success":
      return Effect.as(taking(ms), name)
    case "failure":
    case "fatal":
      return Effect.andThen(taking(ms), Effect.fail(new AttemptError({ name, isFatal: outcome === "fatal" })))
    default:
      return Effect.die(new Skip({ variant: `outcome ${outcome}`, reason: "an outcome that we do not know" }))
  }
}

/** A negative delay is Polly's for none by time; the budget of the peers counts what is in flight. */
const optionsOf = ({ budget, delayMs, maxAttempts }: Config): Hedging.RaceOptions<unknown> => {
  const ledger = budget === undefined ? undefined : Policies.concurrent(
    { ratio: budget.maxRate, minimum: budget.minConcurrency },
    { attempts: budget.initialExecutions ?? 0, retries: budget.initialRetries ?? 0 }
  )
  return {
    maxAttempts,
    delay: delayMs === undefined || delayMs === null || delayMs < 0 ? null : delayMs,
    isFatal,
    mayStart: () => Effect.sync(() => ledger?.apply({ _tag: "Withdrawn", cost: "transient" }, 0) ?? true)
  }
}

type Run<A, B, E> = (attempt: A, index: number) => Effect.Effect<B, E>

/** Runs a race in virtual time, within something else; the last attempt stands for those after it. */
const racedWithin = Effect.fnUntraced(function*<A, B, E, F>(
  attempts: ReadonlyArray<A>,
  run: Run<A, B, E>,
  options: Hedging.RaceOptions<E>,
  around: (race: Effect.Effect<B, E>) => Effect.Effect<B, F>
) {
  const begin = yield* Clock.currentTimeMillis
  const starts: Array<number> = []
  const cancelled: Array<number> = []
  const won: Array<number> = []
  const race = Hedging.race((index) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      starts.push(now - begin)
      const attempt = attempts[Math.min(index, attempts.length - 1)]
      if (attempt === undefined) return Effect.die(new Skip({ variant: "shape", reason: "a race without attempts" }))
      return Effect.onExit(run(attempt, index), (exit) =>
        Effect.sync(() => {
          if (Exit.isSuccess(exit)) won.push(index)
          else if (Cause.hasInterrupts(exit.cause)) cancelled.push(index)
        }))
    }), options)
  const { at, exit } = yield* settle(around(race), "1000 days")
  const defect = Exit.isFailure(exit) ? Cause.findDefect(exit.cause) : Result.fail(undefined)
  if (Result.isSuccess(defect)) return yield* Effect.die(defect.success)
  return {
    at,
    exit,
    starts,
    cancelled: cancelled.toSorted((a, b) => a - b),
    winner: Exit.isSuccess(exit) ? won[0] : undefined
  }
})

const raced = <A, B, E>(attempts: ReadonlyArray<A>, run: Run<A, B, E>, options: Hedging.RaceOptions<E>) =>
  racedWithin(attempts, run, options, (race) => race)

const raceKind = kind(
  Schema.Struct({
    config: Config,
    attempts: Schema.Array(Attempt),
    expect: Schema.Struct({
      starts: optionalNumbers,
      winner: optionalNumber,
      at: optionalNumber,
      failedAt: optionalNumber,
      cancelled: optionalNumbers
    })
  }),
  Effect.fnUntraced(function*({ attempts, config, expect }) {
    const { at, cancelled, exit, starts, winner } = yield* raced(
      attempts,
      (attempt, index) => attempted(attempt, `${index}`),
      optionsOf(config)
    )
    return [
      ...same("starts", starts, expect.starts),
      ...same("winner", winner, expect.winner),
      ...same("at", at, expect.at),
      ...same("failed at", Exit.isFailure(exit) ? at : undefined, expect.failedAt),
      ...same("cancelled", cancelled, expect.cancelled)
    ]
  })
)

export const hedge = raceKind
export const hedgeBudget = raceKind

/** What an attempt that streams has to tell: its headers are no content, and its first token is. */
const StreamAttempt = Schema.Struct({
  headersMs: optionalNumber,
  firstTokenMs: optionalNumber,
  doneMs: optionalNumber,
  outcome: optionalString
})

/** Opens a stream up to its first content; the rest is to be read when it has won. */
const opened = Effect.fnUntraced(function*(attempt: (typeof StreamAttempt)["Type"]) {
  const { doneMs = attempt.firstTokenMs, firstTokenMs, headersMs } = attempt
  if (attempt.outcome === "failure" || attempt.outcome === "fatal") {
    yield* attempted({ ms: doneMs ?? headersMs ?? 0, outcome: attempt.outcome }, "stream")
  }
  const parts = [
    ...(headersMs === undefined ? [] : [{ t: headersMs, ping: true }]),
    ...(firstTokenMs === undefined ? [] : [{ t: firstTokenMs }])
  ]
  const scope = yield* Scope.make()
  const closeUnlessWon = <A, E>(exit: Exit.Exit<A, E>) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit)
  return yield* Effect.gen(function*() {
    const pull = yield* Scope.provide(Stream.toPull(timeline(parts, doneMs)), scope)
    for (let chunk = yield* pull; !chunk.some((part) => part.ping !== true);) chunk = yield* pull
    return Effect.ensuring(Effect.ignore(Effect.forever(pull)), Scope.close(scope, Exit.void))
  }).pipe(
    // A stream that ends without content has failed.
    Effect.mapError(() => new AttemptError({ name: "stream", isFatal: false })),
    Effect.onExit(closeUnlessWon)
  )
})

export const hedgeStream = kind(
  Schema.Struct({
    config: Schema.optionalKey(Config),
    attempts: Schema.Array(StreamAttempt),
    expect: Schema.Struct({
      starts: optionalNumbers,
      winner: optionalNumber,
      at: optionalNumber,
      decidedAt: optionalNumber,
      firstTokenAt: optionalNumber,
      doneAt: optionalNumber,
      failedAt: optionalNumber,
      cancelled: optionalNumbers
    })
  }),
  Effect.fnUntraced(function*({ attempts, config = {}, expect }) {
    const begin = yield* Clock.currentTimeMillis
    let doneAt: number | undefined
    let decidedAt: number | undefined
    const { at, cancelled, exit, starts, winner } = yield* racedWithin(
      attempts,
      opened,
      optionsOf(config),
      (race: Effect.Effect<Effect.Effect<void>, AttemptError>) =>
        Effect.tap(race, (rest) =>
          Effect.gen(function*() {
            decidedAt = (yield* Clock.currentTimeMillis) - begin
            yield* rest
            doneAt = (yield* Clock.currentTimeMillis) - begin
          }))
    )
    return [
      ...same("starts", starts, expect.starts),
      ...same("winner", winner, expect.winner),
      ...same("at", decidedAt, expect.at),
      ...same("decided at", decidedAt, expect.decidedAt),
      ...same("first token at", decidedAt, expect.firstTokenAt),
      ...same("done at", doneAt, expect.doneAt),
      ...same("failed at", Exit.isFailure(exit) ? at : undefined, expect.failedAt),
      ...same("cancelled", cancelled, expect.cancelled)
    ]
  })
)

/** The primary's errors come last and first, so that neither order nor time alone decides. */
const errorOf = Effect.fnUntraced(function*(names: ReadonlyArray<string>, expected: string | undefined) {
  const checks: Array<Checks> = []
  for (const slow of [true, false]) {
    const attempts = names.map((_, index): Attempt => ({ ms: slow ? 100 - index : 1, outcome: "failure" }))
    const { exit } = yield* raced(
      attempts,
      (attempt, index) => attempted(attempt, names[index] ?? "none"),
      { maxAttempts: names.length, delay: slow ? 0 : null }
    )
    const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : Option.none()
    // What is attached to the error, in brackets, is not ours.
    const actual = Option.isSome(error) ? error.value.name : undefined
    checks.push(same("error", actual, expected?.replace(/\s*\(.*/, "")))
  }
  return checks.flat()
})

const disposals = Effect.fnUntraced(function*(winner: string | number) {
  const primary = winner === "primary" || winner === 0
  const disposed = [false, false]
  const { exit } = yield* raced(
    [{ ms: primary ? 200 : 10_000 }, { ms: primary ? 10_000 : 200 }],
    (attempt, index) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        yield* Scope.addFinalizer(scope, Effect.sync(() => disposed[index] = true))
        const taken = attempted(attempt, `${index}`)
        return yield* Effect.onExit(taken, (exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit))
      }),
    { delay: 100 }
  )
  const [won = false, lost = false] = primary ? disposed : disposed.toReversed()
  return { won, lost, primary: disposed[0], hasWon: Exit.isSuccess(exit) }
})

export const hedgeResult = kind(
  Schema.Struct({
    input: Schema.Struct({
      failures: Schema.optionalKey(Schema.Array(Schema.String)),
      winner: Schema.optionalKey(Schema.Union([Schema.String, Schema.Number]))
    }),
    expect: Schema.Struct({
      error: optionalString,
      primaryDisposed: optionalBoolean,
      secondaryDisposed: optionalBoolean,
      loserDisposed: optionalBoolean,
      winnerDisposed: optionalBoolean
    })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const checks: Array<Checks> = []
    if (input.failures !== undefined) checks.push(yield* errorOf(input.failures, expect.error))
    if (input.winner !== undefined) {
      const { lost, primary, won } = yield* disposals(input.winner)
      const hasPrimaryWon = input.winner === "primary" || input.winner === 0
      checks.push(
        same("primary disposed", primary, expect.primaryDisposed),
        same("secondary disposed", hasPrimaryWon ? lost : won, expect.secondaryDisposed),
        same("loser disposed", lost, expect.loserDisposed),
        same("winner disposed", won, expect.winnerDisposed)
      )
    }
    return checks.flat()
  })
)

const Request = Schema.Struct({ retryable: optionalBoolean, clonable: optionalBoolean, cloneable: optionalBoolean })

export const hedgeEligibility = kind(
  Schema.Struct({
    input: oneOrMore(Request),
    expect: Schema.Struct({ starts: Schema.optionalKey(Schema.Array(oneOrMore(Schema.Number))) })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const requests = Array.isArray(input) ? input : [input]
    const starts: Array<ReadonlyArray<number>> = []
    for (const { clonable, cloneable, retryable } of requests) {
      const maxAttempts = Hedging.isEligible({ retryable, clonable: clonable ?? cloneable }) ? 2 : 1
      const race = yield* raced([{ ms: 100 }], (attempt) => attempted(attempt, ""), { maxAttempts, delay: 10 })
      starts.push(race.starts)
    }
    return same("starts", Array.isArray(input) ? starts : starts[0], expect.starts)
  })
)

const counted = [
  "Zero",
  "One",
  "Two",
  "Three",
  "Four",
  "Five",
  "Six",
  "Seven",
  "Eight",
  "Nine",
  "Ten",
  "Eleven",
  "Twelve"
]

/** `withNinePoints` is what is known after nine of the samples. */
const pointsOf = (field: string): number | undefined => {
  const [, name] = /^with(\w+?)Points?$/.exec(field) ?? []
  if (name === undefined) return undefined
  return /^\d+$/.test(name) ? Number(name) : counted.includes(name) ? counted.indexOf(name) : undefined
}

const delayAfter = (latencies: ReadonlyArray<number>, options: Hedging.Options) =>
  Effect.gen(function*() {
    const hedging = yield* Hedging.Hedging
    for (const latency of latencies) yield* hedging.observe(key, latency)
    const delay = yield* hedging.delay(key)
    return delay === undefined ? null : Duration.toMillis(delay)
  }).pipe(Effect.provide(Hedging.layerMemory(options)))

export const hedgePercentile = kind(
  Schema.Struct({
    input: Schema.Struct({
      latenciesMs: Schema.Array(Schema.Number),
      percentile: optionalNumber,
      minDataPoints: optionalNumber,
      minMs: optionalNumber,
      maxMs: optionalNumber
    }),
    expect: Schema.Record(Schema.String, Schema.NullOr(Schema.Number))
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const { latenciesMs, maxMs, minDataPoints = 1, minMs, percentile } = input
    const options: Hedging.Options = {
      quantile: percentile,
      minSamples: Math.max(1, minDataPoints),
      min: minMs ?? 0,
      max: maxMs ?? "1 day"
    }
    const checks: Array<Checks> = []
    for (const [field, expected] of Object.entries(expect)) {
      const points = field === "delayMs" ? latenciesMs.length : pointsOf(field)
      if (points === undefined) continue
      checks.push(same(field, yield* delayAfter(latenciesMs.slice(0, points), options), expected))
    }
    return checks.flat()
  })
)

export const hedgeBudgetLoad = kind(
  Schema.Struct({
    input: Schema.Struct({
      maxExtraLoad: Schema.Number,
      ttlMs: optionalNumber,
      requestsInTtl: oneOrMore(Schema.Number)
    }),
    expect: Schema.Struct({ hedgesAllowed: oneOrMore(Schema.Number) })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const { maxExtraLoad, requestsInTtl, ttlMs = 10_000 } = input
    const hedges = (requests: number) =>
      Effect.gen(function*() {
        const hedging = yield* Hedging.Hedging
        for (let request = 0; request < requests; request++) yield* hedging.request(key)
        let granted = 0
        while (yield* hedging.withdraw(key)) granted++
        return granted
      }).pipe(Effect.provide(Hedging.layerMemory({ maxExtraLoad, window: ttlMs })))
    if (!Array.isArray(requestsInTtl)) {
      return same("hedges allowed", yield* hedges(Number(requestsInTtl)), expect.hedgesAllowed)
    }
    return same("hedges allowed", yield* Effect.forEach(requestsInTtl, hedges), expect.hedgesAllowed)
  })
)

export const hedgeTimeout = kind(
  Schema.Struct({
    input: Schema.Struct({
      perTryTimeoutMs: Schema.Number,
      maxAttempts: optionalNumber,
      first: Attempt,
      second: Schema.optionalKey(Attempt)
    }),
    expect: Schema.Struct({ attemptsStarted: optionalNumber, starts: optionalNumbers, winner: optionalNumber })
  }),
  Effect.fnUntraced(function*({ expect, input }) {
    const { first, maxAttempts = 3, perTryTimeoutMs } = input
    // It still runs when the first one fails, and ends before it is slow itself.
    const second = input.second ?? { ms: perTryTimeoutMs * 0.9 }
    const { starts, winner } = yield* raced([first, second], (attempt) => attempted(attempt, ""), {
      maxAttempts,
      delay: perTryTimeoutMs,
      onFailure: "stop"
    })
    return [
      ...same("attempts started", starts.length, expect.attemptsStarted),
      ...same("starts", starts, expect.starts),
      ...same("winner", winner, expect.winner)
    ]
  })
)

/** A hedge wins while the first attempt, in its limits and its circuit, has streamed some tokens. */
export const hedgeAccounting = kind(
  Schema.Struct({
    input: Schema.Struct({ reserved: Schema.Number, promptTokens: Schema.Number, streamedTokens: Schema.Number }),
    expect: Schema.Struct({ settledTokens: optionalNumber, breakerOutcome: optionalString })
  }),
  ({ expect, input }) =>
    Effect.gen(function*() {
      const { promptTokens, reserved, streamedTokens } = input
      const limiter = yield* RateLimiter.RateLimiter
      const breaker = yield* CircuitBreaker.make()
      const tokens = { input: promptTokens, output: reserved - promptTokens }
      const limit = 2 * reserved
      const scopes = [{ key, limits: { tokens: { limit, per: "1 hour" as const, window: "sliding" as const } } }]
      const estimate: Usage.Estimate = { ...tokens, text: promptTokens, attachments: 0, exact: false }
      const loser = Effect.scoped(Effect.gen(function*() {
        const reservation = yield* limiter.tryReserve({ scopes, tokens })
        yield* Effect.onInterrupt(breaker.execute(key, Effect.never), () => {
          const { input, output } = Usage.settlement({ _tag: "Interrupted", sent: true }, estimate, streamedTokens)
          return reservation.settle({ input, output })
        })
      }))
      const race = Hedging.race<void, LLMError, never>((index) => index === 0 ? loser : Effect.sleep(100), {
        delay: 10
      })
      // What is looked at afterwards is forgotten after a while.
      yield* settle(race, "1 second")
      const [snapshot] = yield* limiter.snapshot
      const { outcomes } = yield* breaker.history(key)
      return [
        ...same("settled tokens", limit - (snapshot?.limits[0]?.remaining ?? Number.NaN), expect.settledTokens),
        ...same("breaker outcome", outcomes.map(({ result }) => result).join(), expect.breakerOutcome)
      ]
    }).pipe(Effect.provide(RateLimiter.layerMemory()), Effect.orDie)
)

const limited = <A, E>(effect: Effect.Effect<A, E>, which: typeof Timeouts.attempt, millis: number | undefined) =>
  millis === undefined ? effect : which(effect, millis, { provider: "groq" })

/** The limits and the hedging of a vector, by name or as a list from the outside to the inside. */
const layersOf = (config: TimeoutConfig) => {
  const { order = [] } = config
  const hedgeAt = order.findIndex((policy) => policy.startsWith("hedge"))
  const value = (index: number, name: string): number | undefined => {
    const policy = order[index]
    return policy !== undefined && policy.startsWith(`${name}:`) ? Number(policy.slice(name.length + 1)) : undefined
  }
  const timeout = (from: number, to: number): number | undefined =>
    order.slice(from, to).map((_, index) => value(from + index, "timeout")).find((millis) => millis !== undefined)
  return {
    totalMs: config.totalMs ?? config.timeoutMs ?? (hedgeAt < 0 ? undefined : timeout(0, hedgeAt)),
    attemptMs: config.attemptMs ?? (hedgeAt < 0 ? undefined : timeout(hedgeAt + 1, order.length)),
    delayMs: config.delayMs ?? config.hedgeDelayMs ?? value(hedgeAt, "hedge"),
    maxAttempts: config.maxAttempts ?? (config.maxHedges === undefined ? undefined : config.maxHedges + 1)
  }
}

const TimeoutConfig = Schema.Struct({
  ...Config.fields,
  order: Schema.optionalKey(Schema.Array(Schema.String)),
  totalMs: optionalNumber,
  timeoutMs: optionalNumber,
  attemptMs: optionalNumber,
  hedgeDelayMs: optionalNumber,
  maxHedges: optionalNumber
})

type TimeoutConfig = (typeof TimeoutConfig)["Type"]

export const timeoutHedge = kind(
  Schema.Struct({
    config: TimeoutConfig,
    attempts: Schema.optionalKey(Schema.Array(Attempt)),
    input: Schema.optionalKey(Schema.Struct({ taskMs: optionalNumber, task: optionalString })),
    expect: Schema.Struct({
      outcome: optionalString,
      result: optionalString,
      at: optionalNumber,
      failedAt: optionalNumber,
      starts: optionalNumbers,
      attempts: optionalNumber,
      hedges: optionalNumber,
      winner: Schema.optionalKey(Schema.NullOr(Schema.Number)),
      cancelled: Schema.optionalKey(Schema.Union([Schema.Number, Schema.Array(Schema.Number)]))
    })
  }),
  Effect.fnUntraced(function*({ attempts, config, expect, input = {} }) {
    const { attemptMs, delayMs, maxAttempts, totalMs } = layersOf(config)
    const { at, cancelled, exit, starts, winner } = yield* racedWithin(
      attempts ?? [{ ms: input.taskMs ?? 0, outcome: input.task ?? "success" }],
      (attempt, index) => limited(attempted(attempt, `${index}`), Timeouts.attempt, attemptMs),
      { ...optionsOf({ ...config, delayMs: delayMs ?? null }), maxAttempts },
      (race) => limited(race, Timeouts.total, totalMs)
    )
    const outcome = outcomeOf(exit)
    return [
      ...same("outcome", outcome, expect.outcome),
      ...same("result", outcome.split(":")[0], expect.result),
      ...same("at", at, expect.at),
      ...same("failed at", Exit.isFailure(exit) ? at : undefined, expect.failedAt),
      ...same("starts", starts, expect.starts),
      ...same("attempts", starts.length, expect.attempts),
      ...same("hedges", starts.length - 1, expect.hedges),
      ...same("winner", winner ?? null, expect.winner),
      ...same("cancelled", typeof expect.cancelled === "number" ? cancelled.length : cancelled, expect.cancelled)
    ]
  })
)
