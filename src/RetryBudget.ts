/**
 * Limits how many retries and hedges all calls together may send, so that a provider in trouble is not hit harder the
 * worse it gets.
 *
 * A budget is kept per key, any string: usually a provider and a model. First attempts fill it and are never refused;
 * retries and hedges draw from it, and where it is exhausted a call ends with the error it has. State lives in the
 * service; `layerMemory` keeps it in the process and forgets keys that are not used.
 *
 * **Details**
 *
 * By default the retries of 60 seconds are at most 20 % of the first attempts of the same 60 seconds, and 3 more, since
 * a mere share would forbid the first retry where calls are rare. `tokens`, `throttle` and `concurrent` are other
 * rules. Outcomes that another attempt cannot heal, refusals of our own and interruptions neither fill a budget nor
 * draw from it.
 *
 * Whoever drives attempts itself calls `deposit` when a first attempt starts, `withdraw` before each retry or hedge,
 * `settle` when an attempt of either kind has ended, and `refund` instead when a granted one was not sent. `retry` does
 * all of this for an effect.
 *
 * **Example** (Ending calls when the budget is exhausted)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LLMError, Retry, RetryBudget } from "breakwater"
 *
 * const schedule = Retry.standardWith({ base: "1 millis", retries: 2 })
 *
 * let attempts = 0
 * const down = Effect.suspend(() => {
 *   attempts++
 *   return Effect.fail<LLMError.LLMError>(new LLMError.ServerError({ provider: "groq", reason: "overloaded" }))
 * })
 *
 * const program = Effect.forEach(
 *   Array.from({ length: 20 }),
 *   () => Effect.flip(RetryBudget.retry(down, { schedule, key: "groq/llama-3.1-8b-instant" }))
 * ).pipe(Effect.provide(RetryBudget.layerMemory()))
 *
 * await Effect.runPromise(program).then((errors) => errors.length) // => 20
 * attempts // => 27
 * ```
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Policies from "./internal/budget/policies.ts"
import { mayHeal } from "./internal/health/blame.ts"
import * as IdleMap from "./internal/idleMap.ts"
import * as Step from "./internal/step.ts"
import { isLLMError, type LLMError } from "./LLMError.ts"

/**
 * Service that grants or refuses retries.
 *
 * @category services
 * @since 0.1.0
 */
export class RetryBudget extends Context.Service<RetryBudget, {
  /** Counts a first attempt that starts; it is never refused. */
  readonly deposit: (key: string) => Effect.Effect<void>
  /** Asks for one retry or hedge; `false` refuses it and takes nothing. The cost is `transient` unless said. */
  readonly withdraw: (key: string, cost?: Cost) => Effect.Effect<boolean>
  /** Gives back what a retry or hedge took that was not sent. */
  readonly refund: (key: string, cost?: Cost) => Effect.Effect<void>
  /** Tells how a first attempt, or a retry or hedge that was granted, ended. */
  readonly settle: (key: string, end: End) => Effect.Effect<void>
  /** Returns what is known about every key. */
  readonly snapshot: Effect.Effect<ReadonlyArray<Entry>>
}>()("breakwater/RetryBudget") {}

/**
 * What a retry costs, by what it follows: a rate limit is `throttling`, everything else `transient`. Only `tokens`
 * makes a difference between them.
 *
 * @category models
 * @since 0.1.0
 */
export type Cost = Policies.Cost

/**
 * How an attempt ended, see `outcomeOf`.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome = Policies.Ended

/**
 * The end of an attempt.
 *
 * @category models
 * @since 0.1.0
 */
export interface End {
  /** Whether it was a retry or hedge rather than a first attempt. */
  readonly retry: boolean
  readonly outcome: Outcome
  /**
   * What was withdrawn for it.
   *
   * @default "transient"
   */
  readonly cost?: Cost | undefined
}

/**
 * What is known about the budget of one key.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly key: string
  readonly policy: Policy["_tag"]
  /** Retries that would be granted now, one after the other; `Infinity` where the rule does not count them. */
  readonly available: number
  /** First attempts since the key was first used. */
  readonly deposits: number
  /** Retries and hedges granted. */
  readonly granted: number
  /** Retries and hedges refused. */
  readonly refused: number
  /** Retries and hedges that were granted, but not sent. */
  readonly refunded: number
}

/**
 * A rule by which retries are granted; see `windowed`, `tokens`, `throttle` and `concurrent`.
 *
 * @category models
 * @since 0.1.0
 */
export type Policy =
  | ({ readonly _tag: "Windowed" } & Policies.Windowed)
  | ({ readonly _tag: "Tokens" } & Policies.Tokens)
  | ({ readonly _tag: "Throttle" } & Policies.Throttle)
  | ({ readonly _tag: "Concurrent" } & Policies.Concurrent)

/**
 * Options of `windowed`.
 *
 * @category options
 * @since 0.1.0
 */
export interface WindowedOptions {
  /**
   * How long an attempt counts, from 1 to 60 seconds.
   *
   * @default "60 seconds"
   */
  readonly window?: Duration.Input | undefined
  /**
   * Retries for each first attempt of the window.
   *
   * @default 0.2
   */
  readonly ratio?: number | undefined
  /**
   * Retries of a window that are granted besides.
   *
   * @default 3
   */
  readonly minimum?: number | undefined
}

/**
 * Options of `tokens`.
 *
 * @category options
 * @since 0.1.0
 */
export interface TokensOptions {
  /**
   * Tokens of a full budget; it starts full.
   *
   * @default 500
   */
  readonly capacity?: number | undefined
  /**
   * Tokens that a retry after a rate limit takes.
   *
   * @default 5
   */
  readonly throttling?: number | undefined
  /**
   * Tokens that any other retry takes.
   *
   * @default 14
   */
  readonly transient?: number | undefined
  /**
   * Tokens that a first attempt earns by succeeding.
   *
   * @default 1
   */
  readonly reward?: number | undefined
}

/**
 * Options of `throttle`.
 *
 * @category options
 * @since 0.1.0
 */
export interface ThrottleOptions {
  /**
   * Tokens of a full budget, from 1 to 1000; it starts full.
   *
   * @default 10
   */
  readonly maxTokens?: number | undefined
  /**
   * Tokens that a success gives back, in thousandths.
   *
   * @default 0.1
   */
  readonly tokenRatio?: number | undefined
}

/**
 * Options of `concurrent`.
 *
 * @category options
 * @since 0.1.0
 */
export interface ConcurrentOptions {
  /**
   * Retries in flight for each attempt in flight.
   *
   * @default 0.2
   */
  readonly ratio?: number | undefined
  /**
   * Retries that may be in flight however few attempts are.
   *
   * @default 3
   */
  readonly minimum?: number | undefined
}

/**
 * Creates the rule that grants retries for a share of the first attempts of a window, and a few besides.
 *
 * **Details**
 *
 * Counts are exact: at no retry do the retries of the window that ends there exceed `ratio` times its first attempts
 * plus `minimum`.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when `window` is not between 1 and 60 seconds, `ratio` not between 0 and
 * 1000, or `minimum` negative.
 *
 * @category constructors
 * @since 0.1.0
 */
export const windowed = (options: WindowedOptions = {}): Policy => ({
  _tag: "Windowed",
  windowMs: between("window", millisOf(options.window ?? "60 seconds"), 1000, 60_000),
  ratio: between("ratio", options.ratio ?? 0.2, 0, 1000),
  minimum: between("minimum", options.minimum ?? 3, 0, Number.MAX_SAFE_INTEGER)
})

/**
 * Creates the rule of a bucket of tokens, as the SDKs of AWS have it: retries take tokens, which come back when the
 * retry succeeds, and first attempts that succeed earn some.
 *
 * **Gotchas**
 *
 * Time gives nothing back: after an outage only successes do. Throws a `RangeError` that names the option when a number
 * is negative, or a cost is 0 or above `capacity`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const tokens = (options: TokensOptions = {}): Policy => {
  const capacity = between("capacity", options.capacity ?? 500, Number.MIN_VALUE, Number.MAX_SAFE_INTEGER)
  return {
    _tag: "Tokens",
    capacity,
    costs: {
      transient: between("transient", options.transient ?? 14, Number.MIN_VALUE, capacity),
      throttling: between("throttling", options.throttling ?? 5, Number.MIN_VALUE, capacity)
    },
    reward: between("reward", options.reward ?? 1, 0, capacity)
  }
}

/**
 * Creates the rule of a switch, as gRPC has it: each failure takes a token, each success gives back a part of one, and
 * retries are granted while more than half of the tokens are left.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when `maxTokens` is not between 1 and 1000 or `tokenRatio` not between
 * 0.001 and `maxTokens`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const throttle = (options: ThrottleOptions = {}): Policy => {
  const maxTokens = between("maxTokens", options.maxTokens ?? 10, 1, 1000)
  return {
    _tag: "Throttle",
    maxTokens,
    tokenRatio: between("tokenRatio", options.tokenRatio ?? 0.1, 0.001, maxTokens)
  }
}

/**
 * Creates the rule that limits retries in flight to a share of the attempts in flight, as Envoy has it.
 *
 * **Gotchas**
 *
 * It remembers nothing: retries that fail fast are limited by nothing but `minimum` at a time. Throws a `RangeError`
 * that names the option when `ratio` is not between 0 and 1, or `minimum` negative.
 *
 * @category constructors
 * @since 0.1.0
 */
export const concurrent = (options: ConcurrentOptions = {}): Policy => ({
  _tag: "Concurrent",
  ratio: between("ratio", options.ratio ?? 0.2, 0, 1),
  minimum: between("minimum", options.minimum ?? 3, 0, Number.MAX_SAFE_INTEGER)
})

/**
 * Options of `layerMemory`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Rule of every key.
   *
   * @default windowed()
   */
  readonly policy?: Policy | undefined
  /**
   * Time without use after which a key is forgotten, and its budget starts anew; more than `window`.
   *
   * @default "1 hour"
   */
  readonly forgetAfter?: Duration.Input | undefined
}

/** A budget with what it has done. */
interface Kept {
  readonly ledger: Policies.Ledger
  deposits: number
  granted: number
  refused: number
  refunded: number
}

/**
 * Provides a `RetryBudget` that lives in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when `forgetAfter` is not more than 60 seconds.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<RetryBudget> => {
  const { policy = windowed() } = options
  const forgetMs = between("forgetAfter", millisOf(options.forgetAfter ?? "1 hour"), 60_001, Number.MAX_SAFE_INTEGER)
  return Layer.sync(RetryBudget, () => {
    const keys = IdleMap.make(
      forgetMs,
      (now): Kept => ({ ledger: ledgerOf(policy, now), deposits: 0, granted: 0, refused: 0, refunded: 0 })
    )

    // Each is a single step of the fiber: every call deposits and settles.
    const at = <A>(use: (now: number) => A): Effect.Effect<A> => Step.sync((moment) => use(Step.millis(moment)))

    return RetryBudget.of({
      deposit: (key) =>
        at((now) => {
          const kept = keys.use(key, now)
          kept.deposits++
          kept.ledger.apply(started, now)
        }),
      withdraw: (key, cost = "transient") =>
        at((now) => {
          const kept = keys.use(key, now)
          const isGranted = kept.ledger.apply({ _tag: "Withdrawn", cost }, now)
          if (isGranted) kept.granted++
          else kept.refused++
          return isGranted
        }),
      refund: (key, cost = "transient") =>
        at((now) => {
          const kept = keys.use(key, now)
          kept.refunded++
          kept.ledger.apply({ _tag: "Refunded", cost }, now)
        }),
      settle: (key, { cost = "transient", outcome, retry }) =>
        at((now) => {
          keys.use(key, now).ledger.apply({ _tag: "Ended", retry, outcome, cost }, now)
        }),
      snapshot: at((now) =>
        keys.entries(now).map(([key, { ledger, ...counts }]) => ({
          key,
          policy: policy._tag,
          available: ledger.available(now),
          ...counts
        }))
      )
    })
  })
}

const started: Policies.Event = { _tag: "Started" }

const ledgerOf = (policy: Policy, now: number): Policies.Ledger => {
  switch (policy._tag) {
    case "Windowed":
      return Policies.windowed(policy, now)
    case "Tokens":
      return Policies.tokens(policy)
    case "Throttle":
      return Policies.throttle(policy)
    case "Concurrent":
      return Policies.concurrent(policy)
  }
}

/**
 * Returns what an error costs to retry.
 *
 * @category accessors
 * @since 0.1.0
 */
export const costOf = (error: LLMError): Cost => error.errorClass === "rate_limit" ? "throttling" : "transient"

/**
 * Returns what an error means for a budget: a `failure` when another attempt may heal it, even if the provider asks for
 * none, and `neutral` otherwise.
 *
 * @category accessors
 * @since 0.1.0
 */
export const outcomeOf = (error: LLMError): Outcome => mayHeal(error) ? "failure" : "neutral"

const outcomeOfExit = <A, E>(exit: Exit.Exit<A, E>): Outcome => {
  if (Exit.isSuccess(exit)) return "success"
  const error = Cause.findErrorOption(exit.cause)
  return Option.isSome(error) && isLLMError(error.value) ? outcomeOf(error.value) : "neutral"
}

/**
 * Ends a schedule when the budget of `key` refuses the retry that it would make.
 *
 * **Details**
 *
 * The last error is then raised at once.
 *
 * **Gotchas**
 *
 * Apply it after everything else that may end the schedule, or a retry is charged that is not made. It only draws: the
 * first attempts have to be deposited, which `retry` does.
 *
 * @category combinators
 * @since 0.1.0
 */
export const limit: {
  (options: { readonly key: string }): <Output, Error, Env>(
    self: Schedule.Schedule<Output, LLMError, Error, Env>
  ) => Schedule.Schedule<Output, LLMError, Error, Env | RetryBudget>
  <Output, Error, Env>(
    self: Schedule.Schedule<Output, LLMError, Error, Env>,
    options: { readonly key: string }
  ): Schedule.Schedule<Output, LLMError, Error, Env | RetryBudget>
} = dual(2, <Output, Error, Env>(
  self: Schedule.Schedule<Output, LLMError, Error, Env>,
  options: { readonly key: string }
): Schedule.Schedule<Output, LLMError, Error, Env | RetryBudget> =>
  Schedule.while(
    self,
    ({ input }) => Effect.flatMap(RetryBudget, (budget) => budget.withdraw(options.key, costOf(input)))
  ))

/**
 * Options of `retry`.
 *
 * @category options
 * @since 0.1.0
 */
export interface RetryOptions<Error = never, Env = never> {
  /** When to retry, as far as the budget allows. */
  readonly schedule: Schedule.Schedule<unknown, LLMError, Error, Env>
  /** Whose budget. */
  readonly key: string
}

/**
 * Retries an effect by a schedule as long as a budget allows: every attempt is deposited or withdrawn, and settled by
 * how it ended.
 *
 * **Details**
 *
 * Interrupted during a backoff, it gives back what the retry had taken.
 *
 * @category combinators
 * @since 0.1.0
 */
export const retry: {
  <Error = never, Env = never>(
    options: RetryOptions<Error, Env>
  ): <A, E extends LLMError, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Error, R | Env | RetryBudget>
  <A, E extends LLMError, R, Error = never, Env = never>(
    self: Effect.Effect<A, E, R>,
    options: RetryOptions<Error, Env>
  ): Effect.Effect<A, E | Error, R | Env | RetryBudget>
} = dual(2, <A, E extends LLMError, R, Error = never, Env = never>(
  self: Effect.Effect<A, E, R>,
  { key, schedule }: RetryOptions<Error, Env>
): Effect.Effect<A, E | Error, R | Env | RetryBudget> =>
  Effect.flatMap(RetryBudget, (budget) =>
    Effect.suspend(() => {
      /** What the attempt that is to be made or under way stands for in the budget. */
      let open: Cost | "first" | undefined

      const settle = (outcome: Outcome): Effect.Effect<void> => {
        const cost = open
        open = undefined
        return cost === undefined
          ? Effect.void
          : budget.settle(key, cost === "first" ? { retry: false, outcome } : { retry: true, outcome, cost })
      }

      const deposit = Effect.map(budget.deposit(key), () => {
        open = "first"
      })

      const limited = Schedule.while(schedule, ({ input }) => {
        const cost = costOf(input)
        // Nothing comes between the budget and the note of what was taken from it.
        return Effect.uninterruptible(Effect.map(budget.withdraw(key, cost), (isGranted) => {
          if (isGranted) open = cost
          return isGranted
        }))
      })

      const attempt = Effect.onExit(self, (exit) => settle(outcomeOfExit(exit)))
      const unsent = Effect.suspend(() =>
        open === undefined || open === "first" ? settle("neutral") : budget.refund(key, open)
      )
      return Effect.ensuring(Effect.andThen(Effect.uninterruptible(deposit), Effect.retry(attempt, limited)), unsent)
    })))

const millisOf = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

const between = (field: string, value: number, least: number, most: number): number => {
  if (!(value >= least && value <= most)) {
    const bounds = most === Number.MAX_SAFE_INTEGER ? `>= ${least}` : `between ${least} and ${most}`
    throw new RangeError(`RetryBudget: ${field} must be ${least === Number.MIN_VALUE ? "> 0" : bounds}, got ${value}`)
  }
  return value
}
