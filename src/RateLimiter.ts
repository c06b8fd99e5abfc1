/**
 * Spends quotas exactly: reserves what a request may use before it is sent, settles what it did use after it.
 *
 * A request names scopes (a provider, a group of keys, a model, a tenant), each with its limits: requests, tokens, input
 * and output tokens per window, requests in flight, time between starts. It is granted when it fits in all of them at
 * once; otherwise it waits in a queue, by priority, fairly among tenants, first come first served, and for no longer than
 * it may. State lives in the service; `layerMemory` keeps it in the process.
 *
 * **Details**
 *
 * Estimates are charged when a request is granted, and `Reservation.settle` replaces them by the usage: what was not used
 * goes back, what was used beyond the estimate becomes debt that later requests wait for. Whoever waits holds nothing, so
 * an interrupted request leaves no trace. Slots of `concurrency` are held until the scope of the reservation closes, for
 * a stream that is its end. A reservation that is never settled keeps its estimate.
 *
 * **Gotchas**
 *
 * A request larger than a limit can ever grant fails at once. Refusals are `RateLimitError`s with origin `limiter`; their
 * `detail` names the limit, and their `retryAfter` is when the request would pass as far as is known now.
 *
 * **Example** (Three calls that share 2000 tokens a second)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Fiber } from "effect"
 * import { TestClock } from "effect/testing"
 * import { RateLimiter } from "breakwater"
 *
 * const scopes = [{ key: "group:acme", limits: { tokens: { limit: 2000, per: "1 second" as const } } }]
 *
 * const call = Effect.scoped(Effect.gen(function*() {
 *   const limiter = yield* RateLimiter.RateLimiter
 *   const reservation = yield* limiter.reserve({ scopes, tokens: { input: 1000, output: 1000 } })
 *   yield* reservation.settle({ input: 1000, output: 500 })
 *   return Duration.toMillis(reservation.waited)
 * }))
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Effect.forkChild(Effect.all([call, call, call], { concurrency: "unbounded" }))
 *   yield* TestClock.adjust("2 seconds")
 *   return yield* Fiber.join(calls)
 * }).pipe(Effect.provide(RateLimiter.layerMemory()), Effect.provide(TestClock.layer()))
 *
 * await Effect.runPromise(program) // => [0, 750, 1500]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Engine from "./internal/limiter/engine.ts"
import type * as Limiting from "./internal/limiter/limits.ts"
import type { Dimension as AnyDimension, Observation as AnyObservation } from "./internal/limiter/observation.ts"
import type { Waiter } from "./internal/limiter/queue.ts"
import { isRefusal } from "./internal/limiter/refusal.ts"
import * as Snapshots from "./internal/limiter/snapshot.ts"
import * as Step from "./internal/step.ts"
import { withoutStack } from "./internal/withoutStack.ts"
import { isLLMError, type LLMError, RateLimitError } from "./LLMError.ts"
import { type CompletionRequest, LLMService, type StreamPart } from "./LLMService.ts"
import * as Timeouts from "./Timeouts.ts"
import * as Usages from "./Usage.ts"

/**
 * Service that admits requests within their limits.
 *
 * @category services
 * @since 0.1.0
 */
export class RateLimiter extends Context.Service<RateLimiter, {
  /** Waits until a request fits in all its limits, and charges it. Ends with the scope. */
  readonly reserve: (request: Request) => Effect.Effect<Reservation, RateLimitError, Scope.Scope>
  /** Charges a request if it fits now and nobody goes first, and fails otherwise; never waits. */
  readonly tryReserve: (request: Request) => Effect.Effect<Reservation, RateLimitError, Scope.Scope>
  /**
   * Does what `tryReserve` does, without a scope and in half the time: whoever has the reservation has to `end` or
   * `cancel` it, whatever happens, as an uninterruptible region and `Effect.onExit` make sure.
   */
  readonly take: (request: Request) => Effect.Effect<Reservation, RateLimitError>
  /** Foretells how long a request would wait, and charges nothing. */
  readonly waitFor: (request: Request) => Effect.Effect<Forecast>
  /**
   * Returns for each set of scopes the share of its tightest limit that is left now, from 0 to 1: of requests, tokens,
   * input, output and concurrency. 1 where nothing is limited or nothing has been used. Charges nothing.
   */
  readonly headrooms: (sets: ReadonlyArray<Request["scopes"]>) => Effect.Effect<ReadonlyArray<number>>
  /** Takes in what a provider said about a scope. A scope that no request has named yet is left alone. */
  readonly observe: (key: string, observation: Observation) => Effect.Effect<void>
  /** Replaces the limits of a scope, whatever requests say, until `reset`; those who wait are looked at anew. */
  readonly setLimits: (key: string, limits: Limits) => Effect.Effect<void>
  /** Returns the figures of all scopes in use. */
  readonly snapshot: Effect.Effect<ReadonlyArray<Snapshot>>
  /** Returns the figures of one scope. */
  readonly snapshotOf: (key: string) => Effect.Effect<Option.Option<Snapshot>>
  /** Forgets what a scope has used and learned; returns whether it was in use. What is in flight stays in flight. */
  readonly reset: (key: string) => Effect.Effect<boolean>
  /** Forgets what all scopes have used and learned; returns how many were in use. */
  readonly resetAll: Effect.Effect<number>
}>()("breakwater/RateLimiter") {}

/**
 * How much may be used in how long.
 *
 * @category models
 * @since 0.1.0
 */
export interface Quota extends Limiting.Quota {}

/**
 * All limits of one scope. What has no limit is not limited.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limits extends Limiting.Limits {}

/**
 * What a limit counts.
 *
 * @category models
 * @since 0.1.0
 */
export type Dimension = AnyDimension

/**
 * How urgent a request is: `emergency` passes the queue and may use the reserve, `background` waits for all others.
 *
 * @category models
 * @since 0.1.0
 */
export type Priority = "emergency" | "high" | "normal" | "low" | "background"

/**
 * What a request asks for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  /** All scopes the request counts in, the narrowest first. A key that is named twice counts once, by its strictest limits. */
  readonly scopes: ReadonlyArray<{ readonly key: string; readonly limits: Limits }>
  /** Tokens it is expected to use; nothing is reserved for what is left out, and settling charges it. */
  readonly tokens?: { readonly input: number; readonly output: number } | undefined
  /**
   * Slots of `concurrency` it takes.
   *
   * @default 1
   */
  readonly slots?: number | undefined
  /** @default "normal" */
  readonly priority?: Priority | undefined
  /**
   * Longest wait in the queue; `Timeouts.CurrentDeadline` bounds it as well.
   *
   * @default "15 seconds"
   */
  readonly maxWait?: Duration.Input | undefined
  /** Among whom the limits are shared fairly. */
  readonly tenant?: string | undefined
  /**
   * When whoever asks began to wait, in milliseconds of the `Clock`: one that comes back, as after a failure, keeps its
   * place among those who wait.
   *
   * @default now
   */
  readonly since?: number | undefined
  /** Whom the request is for, for the error. */
  readonly context?: Timeouts.ErrorContext | undefined
}

/**
 * What a request used: its tokens, nothing because it was never sent, or something that nobody knows.
 *
 * **Details**
 *
 * `input` includes `cachedInput`, which counts towards `tokens` but not towards `inputTokens`.
 *
 * @category models
 * @since 0.1.0
 */
export type Usage =
  | { readonly input: number; readonly output: number; readonly cachedInput?: number | undefined }
  | "nothing-sent"
  | "unknown"

/**
 * Capacity held for a request.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reservation {
  /** Replaces the estimate by the usage; calls after the first change nothing. */
  readonly settle: (usage: Usage) => Effect.Effect<void>
  /** Does what `settle` does, and gives the slots back at once instead of with the scope. */
  readonly end: (usage: Usage) => Effect.Effect<void>
  /** Gives everything back, slots included, for a request that is not sent after all. */
  readonly cancel: Effect.Effect<void>
  /** How long it waited. */
  readonly waited: Duration.Duration
  /** What it waited for; `undefined` when it did not wait. */
  readonly bindingDimension: Dimension | undefined
  /** When it was granted, in milliseconds of the `Clock`, for `observe`. */
  readonly grantedAt: number
}

/**
 * How long a request would wait.
 *
 * @category models
 * @since 0.1.0
 */
export interface Forecast {
  /** Zero when it would be granted now; infinite when that depends on others ending, or can never be. */
  readonly wait: Duration.Duration
  /** What it would wait for. */
  readonly bindingDimension: Dimension | undefined
  /** The scope it would wait in. */
  readonly key: string | undefined
  /** Whether it is larger than a limit can ever grant. */
  readonly oversize: boolean
}

/**
 * What a provider said: limits from response headers, or that a request was too much.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observation {
  /** What the headers said. */
  readonly limits?: ReadonlyArray<AnyObservation> | undefined
  /** Set when the provider refused the request for its rate: 429, 529 or an overload. */
  readonly refused?: {
    /** Which limit was hit, when that is known. */
    readonly dimension?: Dimension | undefined
    /** The wait that was stated. */
    readonly retryAfter?: Duration.Duration | undefined
    /** Tokens the request would have used. */
    readonly tokens?: number | undefined
    /** Whether it was overload rather than a limit: known limits shrink, but none is made up. */
    readonly overloaded?: boolean | undefined
  } | undefined
  /**
   * Set when nothing could be sent for a while: requests that were saved up meanwhile are void but for one, so that those
   * who have waited do not resume in a burst.
   */
  readonly rested?: boolean | undefined
  /**
   * When the request was sent, in milliseconds of the `Clock`: `Reservation.grantedAt`.
   *
   * @default now
   */
  readonly sentAt?: number | undefined
}

/**
 * The figures of one scope.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot extends Snapshots.Snapshot {}

/**
 * Options of `layerMemory`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Longest queue for one set of scopes; 0 refuses whatever does not fit at once.
   *
   * @default 1000
   */
  readonly maxQueue?: number | undefined
  /**
   * Time after which a waiting request goes up one priority, `emergency` excepted; `Infinity` for never.
   *
   * @default "10 seconds"
   */
  readonly ageing?: Duration.Input | undefined
  /**
   * Share of every limit, between 0 and 1, that only `emergency` requests may use.
   *
   * @default 0
   */
  readonly emergencyReserve?: number | undefined
  /**
   * Most debt that usage beyond the estimates may run up, as a multiple of what a limit grants at once.
   *
   * @default 1
   */
  readonly maxDebt?: number | undefined
  /** Shares of tenants in a queue, by their tokens; 1 for those that are not named. */
  readonly tenantWeights?: Readonly<Record<string, number>> | undefined
  /**
   * Time after which a scope at rest, with everything back, is forgotten.
   *
   * @default "10 minutes"
   */
  readonly idleTimeToLive?: Duration.Input | undefined
  /**
   * Whether limits shrink when a provider refuses requests, and grow back up to what is configured while they are used.
   *
   * @default true
   */
  readonly adaptive?: boolean | undefined
  /**
   * By how much one request may be longer on its way than another. A provider counts requests when they arrive, so a
   * limit of which nothing was used comes back so much later here, and what was sent quickly is not refused for coming too
   * early.
   *
   * @default "0 millis"; `defaultTransit` in `Resilience.layer`, `Resilience.layerExecute` and the gateway
   */
  readonly transit?: Duration.Input | undefined
  /**
   * How many processes share the limits without knowing of each other: each uses its part of every limit, so that all
   * together keep the whole. One request, and one at a time, is always a part.
   *
   * @default 1
   */
  readonly processes?: number | undefined
}

/**
 * The `transit` that suits providers beyond a network: 50 ms.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultTransit: Duration.Duration = Duration.millis(50)

/**
 * Provides a `RateLimiter` that lives in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one makes no sense.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<RateLimiter> => {
  const decoded = decode(options)
  return Layer.effect(
    RateLimiter,
    Effect.flatMap(Effect.zip(Clock.Clock, Effect.context<Scope.Scope>()), ([clock, context]) => {
      const desk = makeDesk(Engine.make(decoded), clock, Effect.runForkWith(context))
      return Effect.as(Effect.addFinalizer(() => Effect.sync(desk.close)), RateLimiter.of(desk.service))
    })
  )
}

/**
 * Limits an effect: reserves before it, settles after it, and holds its slots while it runs.
 *
 * **Details**
 *
 * `usage` reads what was used from a success; without it the estimate stands. After a failure `usageOfFailure` decides,
 * and a refusal by the provider is reported to the first scope. An interrupted effect keeps its estimate.
 *
 * @category combinators
 * @since 0.1.0
 */
export const limit: {
  <A>(
    request: Request & { readonly usage?: ((value: A) => Usage) | undefined }
  ): <E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimitError, R | RateLimiter>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    request: Request & { readonly usage?: ((value: A) => Usage) | undefined }
  ): Effect.Effect<A, E | RateLimitError, R | RateLimiter>
} = dual(2, <A, E, R>(
  self: Effect.Effect<A, E, R>,
  request: Request & { readonly usage?: ((value: A) => Usage) | undefined }
): Effect.Effect<A, E | RateLimitError, R | RateLimiter> =>
  Effect.flatMap(RateLimiter, (limiter) => {
    const settled = (reservation: Reservation) =>
      Effect.onExit(self, (exit) => {
        if (Exit.isSuccess(exit)) return reservation.settle(request.usage?.(exit.value) ?? "unknown")
        const error = Exit.findErrorOption(exit)
        return settleFailure(limiter, request, reservation, Option.getOrUndefined(error))
      })
    return Effect.scopedWith((scope) => Effect.flatMap(Scope.provide(limiter.reserve(request), scope), settled))
  }))

const settleFailure = (
  limiter: RateLimiter["Service"],
  request: Request,
  reservation: Reservation,
  error: unknown
): Effect.Effect<void> => {
  if (!isLLMError(error)) return reservation.settle("unknown")
  const settled = reservation.settle(usageOfFailure(error, request.tokens))
  const key = request.scopes[0]?.key
  if (key === undefined || !isRefusal(error)) return settled
  const { input = 0, output = 0 } = request.tokens ?? {}
  return Effect.andThen(
    settled,
    limiter.observe(key, {
      refused: {
        retryAfter: error.retryAfter,
        tokens: input + output,
        overloaded: error.reason === "overloaded"
      },
      sentAt: reservation.grantedAt
    })
  )
}

/**
 * Returns what a failed request has used, as far as its error tells: the rules of `Usage.settlement`, for a request
 * whose tokens are known from elsewhere.
 *
 * @category accessors
 * @since 0.1.0
 */
export const usageOfFailure = (error: LLMError, tokens: Request["tokens"] = { input: 0, output: 0 }): Usage => {
  const settled = Usages.settlement(
    { _tag: "Failure", error },
    { ...tokens, text: tokens.input, attachments: 0, exact: false },
    0
  )
  return settled.requests === 0 ? "nothing-sent" : settled
}

/**
 * Options of `layerLLMService`.
 *
 * @category options
 * @since 0.1.0
 */
export interface LLMServiceOptions {
  /** Scopes each request counts in. */
  readonly scopes: Request["scopes"]
  /** Whom the requests are for, for the error. */
  readonly context: Timeouts.ErrorContext
  /** Tokens a request is expected to use; by default a quarter of its characters, and `maxTokens` or 1000 for the reply. */
  readonly estimate?: ((request: CompletionRequest) => { readonly input: number; readonly output: number }) | undefined
  /** Priority of a request; by default `normal`. */
  readonly priority?: ((request: CompletionRequest) => Priority) | undefined
  /** Tenant of a request; by default all are one. */
  readonly tenant?: ((request: CompletionRequest) => string) | undefined
  /** Longest wait in the queue. */
  readonly maxWait?: Duration.Input | undefined
}

/**
 * Puts limits in front of the `LLMService` below.
 *
 * **When to use**
 *
 * Use for a single provider, such as that of `LLMService.layerProvider`. A router has limits per target instead.
 *
 * **Details**
 *
 * A stream holds its reservation to its end, and settles the usage of its `finish` part. A stream that ends early settles
 * its input and a quarter of the characters it has given.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLLMService = (
  options: LLMServiceOptions
): Layer.Layer<LLMService, never, LLMService | RateLimiter> =>
  Layer.effect(
    LLMService,
    Effect.map(Effect.zip(LLMService, RateLimiter), ([service, limiter]) => {
      const requestOf = (request: CompletionRequest): Request => ({
        scopes: options.scopes,
        tokens: (options.estimate ?? estimate)(request),
        priority: options.priority?.(request),
        maxWait: options.maxWait,
        tenant: options.tenant?.(request),
        context: options.context
      })
      return LLMService.of({
        complete: (request) => {
          const limited = Effect.suspend(() =>
            limit(service.complete(request), {
              ...requestOf(request),
              usage: ({ usage }) => usageOf(usage) ?? "unknown"
            })
          ).pipe(Effect.provideService(RateLimiter, limiter))
          return request.deadline === undefined
            ? limited
            : Timeouts.total(limited, request.deadline, options.context)
        },
        stream: (request) => {
          const limited = Stream.suspend(() => {
            const asked = requestOf(request)
            return Stream.unwrap(
              Effect.map(
                limiter.reserve(asked),
                (reservation) => settledStream(service.stream(request), limiter, asked, reservation)
              )
            )
          })
          return request.deadline === undefined ? limited : Timeouts.stream(limited, {
            total: request.deadline,
            isContent: Timeouts.isContentPart,
            context: options.context
          })
        }
      })
    })
  )

const settledStream = (
  parts: Stream.Stream<StreamPart, LLMError>,
  limiter: RateLimiter["Service"],
  request: Request,
  reservation: Reservation
): Stream.Stream<StreamPart, LLMError> => {
  let given = 0
  let usage: Usage | undefined
  const counted = Stream.map(parts, (part) => {
    if (part.type === "finish") usage = usageOf(part.usage)
    else if ("delta" in part) given += part.delta.length
    return part
  })
  // Tokens that were given were used, whatever the end; without any, the end tells.
  const partial = (): Usage => ({ input: request.tokens?.input ?? 0, output: Math.ceil(given / 4) })
  return Stream.onExit(counted, (exit) => {
    if (usage !== undefined) return reservation.settle(usage)
    if (given > 0) return reservation.settle(partial())
    if (Exit.isSuccess(exit)) return reservation.settle("unknown")
    return settleFailure(limiter, request, reservation, Option.getOrUndefined(Exit.findErrorOption(exit)))
  })
}

/** Usage of a completion, when the provider reported it. */
const usageOf = (usage: Extract<StreamPart, { readonly type: "finish" }>["usage"]): Usage | undefined => {
  const input = usage.inputTokens.total
  const output = usage.outputTokens.total
  if (input === undefined && output === undefined) return undefined
  return { input: input ?? 0, output: output ?? 0, cachedInput: usage.inputTokens.cacheRead }
}

const estimate = (request: CompletionRequest): { readonly input: number; readonly output: number } => ({
  input: Usages.fromCharacters(
    (typeof request.prompt === "string" ? request.prompt : JSON.stringify(request.prompt)).length
  ),
  output: request.maxTokens ?? 1000
})

// ---------------------------------------------------------------------------------------------------------------------
// the shell: clock, timer and fibers around the engine
// ---------------------------------------------------------------------------------------------------------------------

const levels: Readonly<Record<Priority, number>> = { emergency: 0, high: 1, normal: 2, low: 3, background: 4 }

const decode = (options: Options): Engine.Options => {
  const { adaptive = true, emergencyReserve = 0, maxDebt = 1, maxQueue = 1000, processes = 1, tenantWeights = {} } =
    options
  if (!(Number.isInteger(processes) && processes >= 1)) throw invalid("processes", "a whole number >= 1", processes)
  if (!(maxQueue >= 0)) throw invalid("maxQueue", "a number >= 0", maxQueue)
  if (!(emergencyReserve >= 0 && emergencyReserve < 1)) {
    throw invalid("emergencyReserve", "a number >= 0 and < 1", emergencyReserve)
  }
  if (!(Number.isFinite(maxDebt) && maxDebt >= 0)) throw invalid("maxDebt", "a number >= 0", maxDebt)
  const weights = new Map(Object.entries(tenantWeights))
  for (const [tenant, weight] of weights) {
    if (!(Number.isFinite(weight) && weight > 0)) throw invalid(`tenantWeights.${tenant}`, "a number > 0", weight)
  }
  return {
    levels: 5,
    maxQueue,
    lagMs: transitOf(options.transit ?? Duration.zero),
    ageingMs: millis("ageing", options.ageing ?? Duration.seconds(10)),
    reserve: emergencyReserve,
    maxDebt,
    idleMs: millis("idleTimeToLive", options.idleTimeToLive ?? Duration.minutes(10)),
    adaptive,
    processes,
    weight: (tenant) => weights.get(tenant) ?? 1
  }
}

const millis = (field: string, input: Duration.Input): number => {
  const value = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  if (!(value > 0)) throw invalid(field, "a duration > 0", input)
  return value
}

const transitOf = (input: Duration.Input): number => {
  const value = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  if (!(value >= 0 && Number.isFinite(value))) throw invalid("transit", "a finite duration >= 0", input)
  return value
}

const invalid = (field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`RateLimiter: ${field} must be ${demand}, got ${String(got)}`)

const defaultMaxWaitMs = 15_000

const amount = (field: string, value: number | undefined): number => {
  if (value === undefined) return 0
  if (!(Number.isFinite(value) && value >= 0)) throw invalid(field, "a number >= 0", value)
  return value
}

const askOf = (request: Request, maxWaitMs: number, now: Engine.Engine["now"]): Engine.Ask => ({
  scopes: request.scopes,
  input: amount("tokens.input", request.tokens?.input),
  output: amount("tokens.output", request.tokens?.output),
  slots: request.slots === undefined ? 1 : amount("slots", request.slots),
  level: levels[request.priority ?? "normal"],
  tenant: request.tenant ?? "",
  maxWaitMs,
  since: request.since === undefined ? undefined : now.mono - Math.max(0, now.wall - request.since)
})

const maxWaitOf = (request: Request): number => {
  if (request.maxWait === undefined) return defaultMaxWaitMs
  const value = Option.match(Duration.fromInput(request.maxWait), {
    onNone: () => Number.NaN,
    onSome: Duration.toMillis
  })
  if (!(value >= 0)) throw invalid("maxWait", "a duration >= 0", request.maxWait)
  return value
}

/** Someone who waits: how to tell, or what there is to be told. */
interface Pending {
  resume: ((effect: Effect.Effect<Engine.Done>) => void) | undefined
  done: Engine.Done | undefined
}

const makeDesk = (
  engine: Engine.Engine,
  clock: Clock.Clock,
  fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
): { readonly service: RateLimiter["Service"]; readonly close: () => void } => {
  const pending = new Map<Waiter, Pending>()
  let timer: Fiber.Fiber<void> | undefined
  let wakesAt = 0
  let handingOut = false

  const tick = (moment?: Step.Moment): void =>
    moment?.clock === clock
      ? Engine.at(engine, Step.elapsed(moment), Step.millis(moment))
      : Engine.at(engine, Number(clock.monotonicTimeNanosUnsafe()) / 1e6, clock.currentTimeMillisUnsafe())

  // Fibers that go on may end requests and so let others go on: those are told by the loop and not from within.
  const handOut = (): void => {
    if (handingOut || engine.done.length === 0) return
    handingOut = true
    while (engine.done.length > 0) {
      const ended = engine.done
      engine.done = []
      for (const [waiter, done] of ended) {
        const waiting = pending.get(waiter)
        pending.delete(waiter)
        if (waiting === undefined) continue
        waiting.done = done
        waiting.resume?.(Effect.succeed(done))
      }
    }
    handingOut = false
  }

  // One timer serves all who wait: it wakes for the first of them, and looks again when it woke early.
  const arm = (): void => {
    const at = Engine.wakeAt(engine)
    if (at === Number.POSITIVE_INFINITY) return disarm()
    if (timer !== undefined && wakesAt <= at) return
    disarm()
    wakesAt = at
    // Below a hundredth of a millisecond the sum of a time and a wait may be the time itself.
    const sleeping = fork(clock.sleep(Duration.millis(Math.max(0.01, at - engine.now.mono))))
    timer = sleeping
    sleeping.addObserver((exit) => {
      if (timer !== sleeping || Exit.isFailure(exit)) return
      timer = undefined
      tick()
      Engine.advance(engine)
      finish()
    })
  }

  const disarm = (): void => {
    const running = timer
    timer = undefined
    running?.interruptUnsafe()
  }

  const finish = (): void => {
    handOut()
    if (engine.waiting > 0 || timer !== undefined) arm()
  }

  const step = <A>(f: () => A): Effect.Effect<A> =>
    Effect.sync(() => {
      tick()
      const result = f()
      finish()
      return result
    })

  const settle = (grant: Engine.Grant, usage: Usage, moment: Step.Moment): void => {
    if (typeof usage === "object") {
      amount("usage.input", usage.input)
      amount("usage.output", usage.output)
      amount("usage.cachedInput", usage.cachedInput)
    }
    tick(moment)
    Engine.settle(engine, grant, usage)
  }

  const reservationOf = (grant: Engine.Grant): Reservation => ({
    settle: (usage) =>
      Step.sync((moment) => {
        if (grant.settled) return
        settle(grant, usage, moment)
        finish()
      }),
    end: (usage) =>
      Step.sync((moment) => {
        if (grant.settled && grant.released) return
        settle(grant, usage, moment)
        Engine.release(engine, grant)
        finish()
      }),
    cancel: Step.sync((moment) => {
      tick(moment)
      giveBack(grant)
      finish()
    }),
    waited: grant.waitedMs === 0 ? Duration.zero : Duration.millis(grant.waitedMs),
    bindingDimension: grant.binding,
    grantedAt: engine.now.wall
  })

  const giveBack = (grant: Engine.Grant): void => {
    Engine.settle(engine, grant, "nothing-sent")
    Engine.release(engine, grant)
  }

  // Closing tells nothing about usage: what has not been settled by now keeps its estimate.
  const attach = (scope: Scope.Scope, grant: Engine.Grant): Effect.Effect<Reservation> =>
    Effect.as(
      Scope.addFinalizerExit(scope, () => {
        tick()
        Engine.settle(engine, grant, "unknown")
        Engine.release(engine, grant)
        finish()
        return Effect.void
      }),
      reservationOf(grant)
    )

  const wait = (waiter: Waiter): Effect.Effect<Engine.Done> => {
    const waiting: Pending = { resume: undefined, done: undefined }
    pending.set(waiter, waiting)
    return Effect.callback<Engine.Done>((resume) => {
      if (waiting.done !== undefined) resume(Effect.succeed(waiting.done))
      else waiting.resume = resume
    })
  }

  // One who went away while being told gives back what was granted, and it goes to whoever is next.
  const abandon = (waiter: Waiter, waiting: Pending | undefined): void => {
    pending.delete(waiter)
    tick()
    if (waiting?.done?._tag === "Granted") giveBack(waiting.done.grant)
    else Engine.cancel(engine, waiter)
    finish()
  }

  const take = (request: Request): Effect.Effect<Reservation, RateLimitError> =>
    Step.make((moment) => {
      tick(moment)
      const outcome = Engine.reserve(engine, askOf(request, 0, engine.now))
      if (engine.done.length > 0 || engine.waiting > 0) finish()
      switch (outcome._tag) {
        case "Granted":
          return Exit.succeed(reservationOf(outcome.grant))
        case "Refused":
          return Exit.fail(errorOf(request, outcome.refusal))
        case "Waiting":
          return Effect.die(new RangeError("RateLimiter: a request that may not wait has been queued"))
      }
    })

  const admit = (request: Request, queueing: boolean): Effect.Effect<Reservation, RateLimitError, Scope.Scope> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) => {
        tick()
        const scope = Context.getUnsafe(fiber.context, Scope.Scope)
        const ask = askOf(request, queueing ? Math.min(maxWaitOf(request), deadlineOf(fiber)) : 0, engine.now)
        const outcome = Engine.reserve(engine, ask)
        if (engine.done.length > 0 || engine.waiting > 0) finish()
        switch (outcome._tag) {
          case "Granted":
            return attach(scope, outcome.grant)
          case "Refused":
            return Effect.fail(errorOf(request, outcome.refusal))
          case "Waiting": {
            const { waiter } = outcome
            const waited = wait(waiter)
            const waiting = pending.get(waiter)
            return Effect.flatMap(
              Effect.onExit(restore(waited), (exit) =>
                Exit.isFailure(exit) ? Effect.sync(() => abandon(waiter, waiting)) : Effect.void),
              (done) =>
                done._tag === "Granted" ? attach(scope, done.grant) : Effect.fail(errorOf(request, done.refusal))
            )
          }
        }
      })
    )

  const deadlineOf = (fiber: Fiber.Fiber<unknown, unknown>): number => {
    const deadline = fiber.getRef(Timeouts.CurrentDeadline)
    return deadline === undefined ? Number.POSITIVE_INFINITY : Math.max(0, deadline - clock.currentTimeMillisUnsafe())
  }

  return {
    service: {
      reserve: (request) => admit(request, true),
      tryReserve: (request) => admit(request, false),
      take,
      waitFor: (request) => step(() => forecastOf(Engine.foresee(engine, askOf(request, 0, engine.now)))),
      headrooms: (sets) =>
        Step.sync((moment) => {
          tick(moment)
          return sets.map((scopes) => Engine.headroom(engine, scopes))
        }),
      observe: (key, observation) =>
        Effect.map(Random.next, (random) => {
          tick()
          observe(engine, key, observation, random)
          finish()
        }),
      setLimits: (key, limits) => step(() => Engine.setLimits(engine, key, limits)),
      snapshot: step(() => {
        Engine.sweepAll(engine)
        return Array.from(engine.accounts.values(), (account) => Snapshots.make(account, engine.now))
      }),
      snapshotOf: (key) =>
        step(() =>
          Option.map(Option.fromUndefinedOr(engine.accounts.get(key)), (account) => Snapshots.make(account, engine.now))
        ),
      reset: (key) => step(() => Engine.reset(engine, key)),
      resetAll: step(() => Array.from(engine.accounts.keys(), (key) => Engine.reset(engine, key)).length)
    },
    close: () => {
      disarm()
      for (const waiting of pending.values()) waiting.resume?.(Effect.interrupt)
      pending.clear()
    }
  }
}

const observe = (engine: Engine.Engine, key: string, observation: Observation, random: number): void => {
  const { limits, refused, rested, sentAt } = observation
  const sent = engine.now.mono - Math.max(0, engine.now.wall - (sentAt ?? engine.now.wall))
  if (refused !== undefined) {
    const { dimension, overloaded = false, retryAfter, tokens = 0 } = refused
    Engine.throttled(engine, key, {
      dimension,
      overloaded,
      sentAt: sent,
      tokens,
      retryAfterMs: retryAfter === undefined ? undefined : Duration.toMillis(retryAfter),
      random
    })
  }
  if (rested === true) Engine.rested(engine, key)
  if (limits !== undefined) Engine.stated(engine, key, limits, sent)
}

const forecastOf = ({ dimension, key, reason, waitMs }: Engine.Refusal): Forecast => ({
  wait: durationOf(waitMs) ?? Duration.infinity,
  bindingDimension: dimension,
  key: key === "" ? undefined : key,
  oversize: reason === "request_exceeds_limit"
})

// Rounded up to a microsecond, so that nobody comes back a rounding error too early.
const durationOf = (waitMs: number): Duration.Duration | undefined =>
  waitMs === Number.POSITIVE_INFINITY ? undefined : Duration.millis(Math.ceil(waitMs * 1000 - 0.001) / 1000)

const errorOf = (request: Request, refusal: Engine.Refusal): RateLimitError =>
  withoutStack(() =>
    new RateLimitError({
      provider: request.context?.provider ?? "unknown",
      model: request.context?.model,
      target: request.context?.target,
      origin: "limiter",
      reason: refusal.reason,
      retryAfter: durationOf(refusal.waitMs),
      shouldRetry: refusal.reason === "request_exceeds_limit" ? false : undefined,
      detail: detailOf(refusal)
    })
  )

const detailOf = (refusal: Engine.Refusal): string => {
  const { asked, dimension, key, reason, rule } = refusal
  const what = dimension === undefined ? key : `${dimension} of ${key}`
  const limited = rule === "" ? "" : ` (${rule})`
  switch (reason) {
    case "request_exceeds_limit":
      return `${what} asks for ${asked}, more than the limit can grant${limited}`
    case "queue_full":
      return `the queue is full, for ${what}${limited}`
    case "queue_timeout":
      return `no room within the longest wait, for ${what}${limited}`
    case "concurrency":
    case "rate_limit":
      return `no room now, for ${what}${limited}`
  }
}
