/**
 * Limits of time for effects and streams: connect, first token, idle, attempt and total.
 *
 * Each limit fails with a `TimeoutError` whose `reason` names it. `attempt` and `connect` limit one try, `total` a whole
 * call with its retries and waits, `stream` an answer that arrives in parts. No state outlives the limited effect.
 *
 * **Details**
 *
 * When a limit passes, the work is interrupted and the caller goes on at once: slow finalizers and uninterruptible
 * regions of the work end in the background. When the caller itself is interrupted, it waits for them, and nothing is
 * reported as a timeout. `total` publishes its end as `CurrentDeadline`, so that what runs inside never outlasts it: an
 * attempt whose limit ends with the deadline or later reports the deadline, and a retry that cannot start before it is
 * not waited for.
 *
 * **Gotchas**
 *
 * The limited work runs in a fiber of its own. A limit of `Infinity` is no limit; zero and less throw a `RangeError`.
 *
 * **Example** (Limiting one attempt and the whole call)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Timeouts } from "breakwater"
 *
 * const context = { provider: "groq", model: "llama-3.1-8b-instant" }
 *
 * const program = Effect.never.pipe(
 *   Timeouts.attempt("10 millis", context),
 *   Timeouts.total("1 second", context),
 *   Effect.flip
 * )
 *
 * const error = await Effect.runPromise(program)
 * error.message // => "groq/llama-3.1-8b-instant: timed out (attempt): no answer within 10ms"
 * ```
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Alarms from "./internal/alarm.ts"
import { TimeoutError } from "./LLMError.ts"
import type { StreamPart } from "./LLMService.ts"

/**
 * What a limit puts into its error: whom the caller was waiting for.
 *
 * @category models
 * @since 0.1.0
 */
export interface ErrorContext {
  /** Provider name. */
  readonly provider: string
  /** Model name, when one is known. */
  readonly model?: string | undefined
  /** Target id, when the wait was for a target. */
  readonly target?: string | undefined
}

/**
 * Options of `stream`. A limit that is left out does not apply.
 *
 * @category options
 * @since 0.1.0
 */
export interface StreamOptions<in A> {
  /** Longest wait for the first element of any kind. */
  readonly connect?: Duration.Input | undefined
  /**
   * Longest wait for the first content element, counted from the start.
   *
   * @default `idle`
   */
  readonly firstToken?: Duration.Input | undefined
  /** Longest wait between two content elements, and from the last one to the end. */
  readonly idle?: Duration.Input | undefined
  /** Time from the start after which the stream waits for nothing more. */
  readonly total?: Duration.Input | undefined
  /** Whether an element is part of the answer, and not metadata or a keep-alive. */
  readonly isContent: (element: A) => boolean
  /**
   * Whether an element starts the idle time anew, for upstreams whose keep-alives are a true sign of progress.
   *
   * @default `isContent`
   */
  readonly resetsIdle?: ((element: A) => boolean) | undefined
  /** Whom the stream comes from. */
  readonly context: ErrorContext
}

/**
 * Absolute time, in milliseconds of the `Clock`, after which nobody waits for the running call any more.
 *
 * **Details**
 *
 * `total` and the `total` of `stream` set it for what runs inside them; the earlier of two nested ones counts. `attempt`
 * and `connect` never wait past it, and the schedules of `Retry` end when their next wait would.
 *
 * @category references
 * @since 0.1.0
 */
export const CurrentDeadline: Context.Reference<number | undefined> = Context.Reference<number | undefined>(
  "breakwater/Timeouts/CurrentDeadline",
  { defaultValue: () => undefined }
)

/**
 * The limits that apply when nothing else is configured.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaults: {
  readonly total: Duration.Duration
  readonly attempt: Duration.Duration
  readonly connect: Duration.Duration
  readonly firstToken: Duration.Duration
  readonly idle: Duration.Duration
} = {
  total: Duration.minutes(10),
  attempt: Duration.seconds(60),
  connect: Duration.seconds(20),
  firstToken: Duration.seconds(30),
  idle: Duration.seconds(30)
}

/**
 * Limits one attempt: fails with a retryable `TimeoutError` of reason `attempt`.
 *
 * **Gotchas**
 *
 * The error is `maybeBilled`: the provider may have done the work that nobody waited for.
 *
 * @category combinators
 * @since 0.1.0
 */
export const attempt: {
  (
    duration: Duration.Input,
    context: ErrorContext
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimeoutError, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R>
} = dual(
  3,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R> => limit(self, "attempt", positiveMillis("attempt", duration), context)
)

/**
 * Limits the making of a connection: fails with a retryable `TimeoutError` of reason `connect_timeout`.
 *
 * @category combinators
 * @since 0.1.0
 */
export const connect: {
  (
    duration: Duration.Input,
    context: ErrorContext
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimeoutError, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R>
} = dual(
  3,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R> =>
    limit(self, "connect_timeout", positiveMillis("connect", duration), context)
)

/**
 * Limits a whole call with its attempts, waits and fallbacks: fails with a final `TimeoutError` of reason `deadline`.
 *
 * **Details**
 *
 * Sets `CurrentDeadline` for the effect. Inside another `total` the earlier end counts.
 *
 * @category combinators
 * @since 0.1.0
 */
export const total: {
  (
    duration: Duration.Input,
    context: ErrorContext
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimeoutError, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R>
} = dual(
  3,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input,
    context: ErrorContext
  ): Effect.Effect<A, E | TimeoutError, R> => limit(self, "deadline", positiveMillis("total", duration), context)
)

/**
 * Limits the waits of a stream: fails it with a `TimeoutError` of reason `connect_timeout`, `first_token`, `idle` or
 * `deadline`, and never ends it as if it were complete.
 *
 * **Details**
 *
 * Time counts only while the stream waits for its upstream. What the consumer does with an element costs nothing, and
 * an element that is already there is handed over without a timer. Elements that are not content end no limit but
 * `connect`. Without `firstToken`, `idle` also limits the wait for the first content. `total` runs by the clock, but
 * what has arrived by then is still handed over.
 *
 * When a limit passes, the upstream is interrupted and the consumer goes on at once; the upstream's finalizers run in
 * the background. `total` sets `CurrentDeadline` for the upstream.
 *
 * **Gotchas**
 *
 * Every pull of the upstream runs in a fiber of its own, so a fiber that the upstream starts with `Effect.forkChild`
 * ends with the pull that started it; fork into the stream's scope instead.
 *
 * @category combinators
 * @since 0.1.0
 */
export const stream: {
  <A>(options: StreamOptions<A>): <E, R>(self: Stream.Stream<A, E, R>) => Stream.Stream<A, E | TimeoutError, R>
  <A, E, R>(self: Stream.Stream<A, E, R>, options: StreamOptions<A>): Stream.Stream<A, E | TimeoutError, R>
} = dual(
  2,
  <A, E, R>(self: Stream.Stream<A, E, R>, options: StreamOptions<A>): Stream.Stream<A, E | TimeoutError, R> => {
    const waits = decodeWaits(options)
    return Math.min(waits.connect, waits.first, waits.idle, waits.total) === Infinity
      ? self
      : watched(self, waits, options)
  }
)

/**
 * Returns whether a part of an answer is content: text, reasoning, a tool call, a file or a source.
 *
 * **When to use**
 *
 * Use as `isContent` of `stream` for the parts of an `LLMService`.
 *
 * @category guards
 * @since 0.1.0
 */
export const isContentPart = (part: StreamPart): boolean => {
  switch (part.type) {
    case "text-delta":
      return part.delta !== ""
    case "reasoning-delta":
    case "tool-params-start":
    case "tool-params-delta":
    case "tool-params-end":
    case "tool-call":
    case "file":
    case "source":
      return true
    case "response-metadata":
    case "text-start":
    case "text-end":
    case "reasoning-start":
    case "reasoning-end":
    case "finish":
    case "restarted":
      return false
  }
}

type Chunk<A> = Arr.NonEmptyReadonlyArray<A>

type Limit = "connect_timeout" | "first_token" | "idle" | "attempt" | "deadline"

const positiveMillis = (field: string, input: Duration.Input): number => {
  if (typeof input === "number" && input > 0) return input
  const millis = Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  if (!(millis > 0)) throw new RangeError(`Timeouts: ${field} must be a duration > 0, got ${String(input)}`)
  return millis
}

const timeoutError = (context: ErrorContext, limit: Limit, detail: string, maybeBilled: boolean): TimeoutError =>
  new TimeoutError({
    provider: context.provider,
    model: context.model,
    target: context.target,
    reason: limit,
    // A deadline is the caller's own: it says nothing about the provider.
    origin: limit === "deadline" ? "deadline" : "provider",
    scope: limit === "deadline" ? "request" : "target",
    maybeBilled,
    detail
  })

const expired = (context: ErrorContext, limit: Limit, millis: number): TimeoutError => {
  const within = Duration.format(Duration.millis(millis))
  return timeoutError(context, limit, expiry[limit](within), limit !== "connect_timeout")
}

const expiry: { readonly [L in Limit]: (within: string) => string } = {
  connect_timeout: (within) => `no connection within ${within}`,
  first_token: (within) => `no content within ${within}`,
  idle: (within) => `no content for ${within}`,
  attempt: (within) => `no answer within ${within}`,
  deadline: (within) => `the deadline passed after ${within}`
}

const notStarted = (context: ErrorContext): Effect.Effect<never, TimeoutError> =>
  Effect.fail(timeoutError(context, "deadline", "the deadline had passed before the attempt", false))

/**
 * Changes a setting that is part of a context.
 *
 * @internal
 */
export type ContextChange = <R>(context: Context.Context<R>) => Context.Context<R>

/**
 * Limits an effect as `attempt` and `total` do, in a context that may be changed on the way: what is limited runs in one
 * of its own anyway.
 *
 * @internal
 */
export const limit = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  name: "connect_timeout" | "attempt" | "deadline",
  millis: number,
  errorContext: ErrorContext,
  change?: ContextChange
): Effect.Effect<A, E | TimeoutError, R> => {
  if (millis === Infinity) return change === undefined ? self : Effect.updateContext(self, change<R>)
  return Effect.contextWith((outerContext: Context.Context<R>) => {
    const context = change === undefined ? outerContext : change(outerContext)
    const clock = Context.get(context, Clock.Clock)
    const now = clock.currentTimeMillisUnsafe()
    const outer = Context.get(context, CurrentDeadline) ?? Infinity
    if (outer <= now) return notStarted(errorContext)
    const end = now + millis
    // The outer limit wins a tie, and nothing inside it lasts longer.
    const byDeadline = outer <= end
    const wait = byDeadline ? outer - now : millis
    const inner = name === "deadline" && !byDeadline ? Context.add(context, CurrentDeadline, end) : context
    return runWithin(self, inner, clock, wait, () => expired(errorContext, byDeadline ? "deadline" : name, wait))
  })
}

// Runs the effect in a fiber of its own, which lets the caller go while the effect still winds up. All is done in the
// registration, because from there on an interruption of the caller always finds the finalizer.
const runWithin = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  context: Context.Context<R>,
  clock: Clock.Clock,
  waitMs: number,
  onExpiry: () => TimeoutError
): Effect.Effect<A, E | TimeoutError> =>
  Effect.callback<A, E | TimeoutError>((resume) => {
    const fiber = Effect.runForkWith(context)(self)
    const done = fiber.pollUnsafe()
    if (done !== undefined) return resume(done)
    const alarm = Alarms.set(clock, Context.get(context, Scheduler.Scheduler), waitMs, () => {
      forget()
      fiber.interruptUnsafe()
      resume(Effect.fail(onExpiry()))
    })
    const forget = fiber.addObserver((exit) => {
      Alarms.clear(alarm, "soon")
      resume(exit)
    })
    return Effect.suspend(() => {
      Alarms.clear(alarm, "now")
      return Fiber.interrupt(fiber)
    })
  })

interface Expiry {
  readonly at: number
  readonly limit: Limit
  readonly millis: number
}

interface Waits {
  readonly connect: number
  readonly first: number
  readonly firstLimit: Limit
  readonly idle: number
  readonly total: number
}

const decodeWaits = <A>(options: StreamOptions<A>): Waits => {
  const idle = options.idle === undefined ? Infinity : positiveMillis("idle", options.idle)
  return {
    connect: options.connect === undefined ? Infinity : positiveMillis("connect", options.connect),
    first: options.firstToken === undefined ? idle : positiveMillis("firstToken", options.firstToken),
    firstLimit: options.firstToken === undefined ? "idle" : "first_token",
    idle,
    total: options.total === undefined ? Infinity : positiveMillis("total", options.total)
  }
}

const watched = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  waits: Waits,
  options: StreamOptions<A>
): Stream.Stream<A, E | TimeoutError, R> =>
  Stream.fromChannel(
    Channel.fromTransform((_upstream: unknown, scope: Scope.Scope) =>
      Effect.contextWith((context: Context.Context<R>) => watch(self, waits, options, scope, context))
    )
  )

const watch = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  waits: Waits,
  options: StreamOptions<A>,
  scope: Scope.Scope,
  outerContext: Context.Context<R>
): Effect.Effect<Pull.Pull<Chunk<A>, E | TimeoutError>, TimeoutError> => {
  const { isContent, resetsIdle = isContent } = options
  const clock = Context.get(outerContext, Clock.Clock)
  // Waits are measured on the monotonic clock: a step of the wall clock is not silence.
  const now = (): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const wallNow = clock.currentTimeMillisUnsafe()
  const outer = (Context.get(outerContext, CurrentDeadline) ?? Infinity) - wallNow
  if (outer <= 0) return notStarted(options.context)
  const total = Math.min(waits.total, outer)
  const end = now() + total
  const run = Effect.runForkWith(
    waits.total < outer ? Context.add(outerContext, CurrentDeadline, wallNow + total) : outerContext
  )

  let connecting = true
  let hasContent = false
  let silenceLeft = waits.first
  let waitingSince: number | undefined

  const content = (element: A): boolean => isContent(element)
  const progress = (element: A): boolean => resetsIdle(element)

  const observe = (chunk: Chunk<A>): Chunk<A> => {
    if (waitingSince !== undefined) {
      silenceLeft -= now() - waitingSince
      waitingSince = undefined
    }
    connecting = false
    if (!hasContent && chunk.some(content)) {
      hasContent = true
      silenceLeft = waits.idle
    } else if ((hasContent || waits.firstLimit === "idle") && chunk.some(progress)) {
      silenceLeft = waits.idle
    }
    return chunk
  }

  // The limit that ends a wait beginning now; the outer one wins a tie.
  const nextExpiry = (since: number): Expiry => {
    const silence: Expiry = {
      at: since + silenceLeft,
      limit: hasContent ? "idle" : waits.firstLimit,
      millis: hasContent ? waits.idle : waits.first
    }
    const connected: Expiry = connecting && since + waits.connect < silence.at
      ? { at: since + waits.connect, limit: "connect_timeout", millis: waits.connect }
      : silence
    return end <= connected.at ? { at: end, limit: "deadline", millis: total } : connected
  }

  // The upstream has a scope of its own, so that a consumer who gave up does not wait for it to be closed.
  const upstream = Scope.makeUnsafe()
  let abandoned = false
  let pull: Pull.Pull<Chunk<A>, E, void, R> = Effect.flatMap(Channel.toPullScoped(self.channel, upstream), (made) => {
    pull = Effect.map(made, observe)
    return pull
  })

  let timer: Fiber.Fiber<void> | undefined
  let wakesAt = 0
  let expireAt = Infinity
  // The wait under way: what is pulled, and how to go on.
  let pulled: Fiber.Fiber<Chunk<A>, E | Cause.Done> | undefined
  let resumeWait: ((exit: Effect.Effect<Chunk<A>, E | TimeoutError | Cause.Done>) => void) | undefined

  // One timer serves all waits: it runs on while elements come, and looks at the current wait when it wakes.
  const arm = (time: number): void => {
    if (expireAt === Infinity || (timer !== undefined && wakesAt <= expireAt)) return
    timer?.interruptUnsafe()
    wakesAt = expireAt
    const sleeping = run(clock.sleep(Duration.millis(expireAt - time)))
    timer = sleeping
    sleeping.addObserver((exit) => {
      if (timer !== sleeping || Exit.isFailure(exit)) return
      timer = undefined
      if (waitingSince === undefined) return
      const time = now()
      // A timer may fire up to a millisecond early, and the rest of it is not worth another sleep.
      if (expireAt - time < 1) expire(waitingSince)
      else arm(time)
    })
  }
  const disarm = (): void => {
    const running = timer
    timer = undefined
    running?.interruptUnsafe()
  }

  const expire = (since: number): void => {
    const { limit, millis } = nextExpiry(since)
    const error = expired(options.context, limit, millis)
    abandoned = true
    const winding = pulled === undefined ? Effect.void : Fiber.interrupt(pulled)
    run(Effect.andThen(winding, Scope.close(upstream, Exit.fail(error))))
    resumeWait?.(Effect.fail(error))
  }

  const goOn = (exit: Exit.Exit<Chunk<A>, E | Cause.Done>): void => {
    if (abandoned) return
    if (Exit.isFailure(exit)) disarm()
    resumeWait?.(exit)
  }

  const interrupted = Effect.suspend(() => {
    waitingSince = undefined
    disarm()
    return pulled === undefined ? Effect.void : Fiber.interrupt(pulled)
  })

  // What all waits have in common is made once: a chunk costs little more than the fiber that pulls it.
  const next = Effect.callback<Chunk<A>, E | TimeoutError | Cause.Done>((resume) => {
    const fiber = run(pull)
    const done = fiber.pollUnsafe()
    if (done !== undefined) {
      if (Exit.isFailure(done)) disarm()
      return resume(done)
    }
    pulled = fiber
    resumeWait = resume
    waitingSince = now()
    expireAt = nextExpiry(waitingSince).at
    arm(waitingSince)
    fiber.addObserver(goOn)
    return interrupted
  })

  const close = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => {
    disarm()
    return abandoned ? Effect.void : Scope.close(upstream, exit)
  }
  return Effect.as(Scope.addFinalizerExit(scope, close), next)
}
