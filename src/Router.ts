/**
 * Sends each call to the target that can serve it: many targets, one answer.
 *
 * The router takes targets in order, passes over those that are cooling, and after a failure does what the recovery
 * table says: try the same target after a backoff, move to another key, model or provider at once, wait for the
 * earliest capacity, or give up. The walk is circular, and one deadline bounds attempts, backoff and waits together.
 *
 * State that outlives a call is in `Cooldown`; the router itself keeps none.
 *
 * **Details**
 *
 * A stream moves on freely until its first content part has been handed over; afterwards a failure is the caller's.
 * Every completion, every error and every stream's `finish` part carries the decision record: one line an attempt.
 *
 * **Gotchas**
 *
 * Let nothing below the router retry: set a vendor SDK's `maxRetries` to 0, or attempts multiply.
 *
 * **Example** (Falling back to another provider)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Cooldown, LLMService, Router, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const targets = [
 *   Target.make({ provider: "groq", model: "llama-3.1-8b-instant" }),
 *   Target.make({ provider: "openai", model: "gpt-4o-mini" })
 * ]
 * const providers = TestProvider.layer({
 *   "groq/llama-3.1-8b-instant": [TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "model" })],
 *   "openai/gpt-4o-mini": [TestProvider.reply("Hello from the second one")]
 * })
 *
 * const program = Effect.gen(function*() {
 *   const llm = yield* LLMService.LLMService
 *   const completion = yield* llm.complete({ prompt: "Say hello" })
 *   return [completion.target, completion.attempts.length]
 * }).pipe(
 *   Effect.provide(Router.layer({ targets }).pipe(Layer.provide([providers, Cooldown.layerMemory])))
 * )
 *
 * await Effect.runPromise(program) // => ["openai/gpt-4o-mini", 2]
 * ```
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Classifier from "./Classifier.ts"
import { Cooldown } from "./Cooldown.ts"
import { adapterOf } from "./internal/call/adapterOf.ts"
import * as Completions from "./internal/call/completion.ts"
import * as Decisions from "./internal/call/decision.ts"
import * as Requests from "./internal/call/request.ts"
import * as Errors from "./LLMError.ts"
import { type CompletionRequest, LLMService, type StreamPart, type Timings } from "./LLMService.ts"
import { type Adapter, Provider } from "./Provider.ts"
import * as Recovery from "./Recovery.ts"
import * as Retry from "./Retry.ts"
import * as Targets from "./Target.ts"
import * as Timeouts from "./Timeouts.ts"

/**
 * Options of a router.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Where calls may go, in order of preference within equal `order`. */
  readonly targets: ReadonlyArray<Targets.Target>
  /** What to do after which failure. */
  readonly recovery?: Recovery.Options | undefined
  /**
   * Attempts of one call over all targets.
   *
   * @default 10
   */
  readonly maxAttempts?: number | undefined
  /**
   * Backoff on one target, for the classes whose rule says `backoff`; every target of a call has its own run of it.
   *
   * @default Retry.standard
   */
  readonly retry?: Schedule.Schedule<unknown, Errors.LLMError> | undefined
  /**
   * Longest stated wait for which a call stays with its target while others are free.
   *
   * @default "3 seconds"
   */
  readonly patience?: Duration.Input | undefined
  /**
   * Limits of time; `Infinity` is no limit.
   *
   * @default Timeouts.defaults
   */
  readonly timeouts?: TimeoutOptions | undefined
}

/**
 * Limits of time of a router's calls; what is absent has its default of `Timeouts.defaults`.
 *
 * @category options
 * @since 0.1.0
 */
export interface TimeoutOptions {
  /** The whole call, unless the request brings a deadline of its own. */
  readonly total?: Duration.Input | undefined
  /** One attempt at a whole answer. */
  readonly attempt?: Duration.Input | undefined
  /** From the start of a streamed attempt to the response headers. */
  readonly connect?: Duration.Input | undefined
  /** From the start of a streamed attempt to its first content. */
  readonly firstToken?: Duration.Input | undefined
  /** Between two content parts of a stream. */
  readonly idle?: Duration.Input | undefined
}

/** Everything a router is made of, prepared once. */
interface Engine {
  readonly candidates: ReadonlyArray<Member>
  readonly groups: ReadonlyArray<ReadonlyArray<string>>
  readonly selective: boolean
  readonly recovery: Recovery.Recovery
  readonly retry: Schedule.Schedule<unknown, Errors.LLMError>
  readonly maxAttempts: number
  readonly patienceMs: number
  readonly limits: Readonly<Record<keyof TimeoutOptions, number>>
  readonly cooldown: Cooldown["Service"]
}

interface Member extends Decisions.Candidate {
  readonly adapter: Adapter
}

/** One call on its way. */
interface Call {
  readonly engine: Engine
  readonly setup: Decisions.Setup
  readonly members: ReadonlyArray<Member>
  readonly groups: ReadonlyArray<ReadonlyArray<string>>
  readonly clock: Clock.Clock
  readonly startedAt: number
  readonly attempts: Array<Errors.Attempt>
  readonly steps: Map<number, Step>
  state: Decisions.State
  waitedMs: number
  pendingWaitMs: number
}

type Step = (now: number, error: Errors.LLMError) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/** What an attempt works with. */
interface Attempt {
  readonly member: Member
  readonly index: number
  readonly chosen: Errors.Attempt["chosen"]
  readonly skipped: ReadonlyArray<Errors.Skipped>
  readonly startedAt: number
  readonly waitedMs: number
  /** Milliseconds the call has left. */
  readonly remainingMs: number
}

/**
 * Creates an `LLMService` that routes calls over targets.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when there is no target, two targets share an id, a limit is not
 * positive, or a target's provider has no adapter.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<LLMService["Service"], never, Provider | Cooldown> => {
  const check = validate(options)
  return Effect.map(
    Effect.all([Provider, Cooldown]),
    ([provider, cooldown]) => service({ ...check, ...members(options.targets, provider), cooldown })
  )
}

/**
 * Provides an `LLMService` that routes calls over targets.
 *
 * **Gotchas**
 *
 * Throws as `make` does, when the layer is created; a provider without an adapter dies when it is built.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<LLMService, never, Provider | Cooldown> =>
  Layer.effect(LLMService, make(options))

const validate = (options: Options): Omit<Engine, "candidates" | "groups" | "selective" | "cooldown"> => {
  const maxAttempts = options.maxAttempts ?? 10
  const patienceMs = Duration.toMillis(Duration.fromInputUnsafe(options.patience ?? "3 seconds"))
  if (options.targets.length === 0) throw new RangeError("Router: targets must not be empty")
  if (!Number.isInteger(maxAttempts) || maxAttempts < 1) {
    throw new RangeError(`Router: maxAttempts must be an integer >= 1, got ${maxAttempts}`)
  }
  if (!(patienceMs >= 0)) throw new RangeError(`Router: patience must be >= 0, got ${String(options.patience)}`)
  const ids = new Set<string>()
  for (const target of options.targets) {
    if (ids.has(target.id)) {
      throw new RangeError(`Router: two targets have the id "${target.id}"; give one an "id" of its own`)
    }
    ids.add(target.id)
  }
  return {
    recovery: Recovery.make(options.recovery),
    retry: options.retry ?? Retry.standard,
    maxAttempts,
    patienceMs,
    limits: limitsOf(options.timeouts ?? {})
  }
}

const limitsOf = (options: TimeoutOptions): Engine["limits"] => {
  const millis = (field: keyof TimeoutOptions): number => {
    const value = Duration.toMillis(Duration.fromInputUnsafe(options[field] ?? Timeouts.defaults[field]))
    if (!(value > 0)) throw new RangeError(`Router: timeouts.${field} must be > 0, got ${String(options[field])}`)
    return value
  }
  return {
    total: millis("total"),
    attempt: millis("attempt"),
    connect: millis("connect"),
    firstToken: millis("firstToken"),
    idle: millis("idle")
  }
}

const members = (
  targets: ReadonlyArray<Targets.Target>,
  provider: Provider["Service"]
): Pick<Engine, "candidates" | "groups" | "selective"> => {
  const candidates = targets.map((target): Member => {
    const adapter = adapterOf(provider, target)
    return { target, adapter, scopeKeys: Targets.scopeKeys(target) }
  }).sort((a, b) => a.target.order - b.target.order)
  return {
    candidates,
    groups: candidates.map((_) => _.scopeKeys),
    selective: candidates.some((_) => Object.values(_.target.capabilities).includes(false))
  }
}

const service = (engine: Engine): LLMService["Service"] =>
  LLMService.of({
    complete: (request) =>
      Effect.flatMap(begin(engine, request), ({ call, request }) =>
        Effect.map(
          run(call, (attempt) => {
            const { adapter, target } = attempt.member
            return limitAttempt(call, attempt, adapter.complete(target, request))
          }),
          ({ attempt, value }) => {
            recordSuccess(call, attempt)
            return Completions.make(attempt.member.target, value, call.attempts, timings(call, attempt))
          }
        )),
    stream: (request) =>
      Stream.unwrap(
        Effect.flatMap(begin(engine, request), ({ call, request }) =>
          Effect.map(
            run(call, (attempt) => open(call, attempt, attempt.member.adapter.stream(attempt.member.target, request))),
            ({ attempt, value }) => handOver(call, attempt, value)
          ))
      )
  })

// -----------------------------------------------------------------------------
// One call
// -----------------------------------------------------------------------------

const begin = (
  engine: Engine,
  request: CompletionRequest
): Effect.Effect<{ readonly call: Call; readonly request: Requests.Prepared }, Errors.LLMError> =>
  Effect.flatMap(Requests.prepare(request), (prepared) =>
    Effect.flatMap(Clock.clockWith(Effect.succeed), (clock) => {
      const able = engine.selective
        ? engine.candidates.filter((_) => Requests.missing(_.target.capabilities, prepared) === undefined)
        : engine.candidates
      if (able.length === 0) return Effect.fail(unable(engine, prepared))
      const startedAt = clock.currentTimeMillisUnsafe()
      const totalMs = prepared.deadline === undefined
        ? engine.limits.total
        : Duration.toMillis(Duration.fromInputUnsafe(prepared.deadline))
      const call: Call = {
        engine,
        setup: {
          candidates: able,
          maxAttempts: engine.maxAttempts,
          patienceMs: engine.patienceMs,
          deadlineAt: startedAt + totalMs
        },
        members: able,
        groups: able === engine.candidates ? engine.groups : able.map((_) => _.scopeKeys),
        clock,
        startedAt,
        attempts: [],
        steps: new Map(),
        state: Decisions.initial,
        waitedMs: 0,
        pendingWaitMs: 0
      }
      return Effect.succeed({ call, request: prepared })
    }))

const unable = (engine: Engine, request: Requests.Prepared): Errors.LLMError => {
  const needs = new Set(engine.candidates.map((_) => Requests.missing(_.target.capabilities, request)))
  return new Errors.PermanentError({
    provider: engine.candidates[0]?.target.provider ?? "none",
    origin: "router",
    reason: "unsupported_parameter",
    scope: "request",
    detail: `no target can serve a request that needs ${Array.from(needs).join(" and ")}`
  })
}

interface Served<A> {
  readonly value: A
  readonly attempt: Attempt
}

const run = <A, R>(
  call: Call,
  perform: (attempt: Attempt) => Effect.Effect<A, Errors.LLMError, R>
): Effect.Effect<Served<A>, Errors.LLMError, R> => {
  const react = (event: Decisions.Event): Effect.Effect<Served<A>, Errors.LLMError, R> =>
    Effect.flatMap(call.engine.cooldown.latest(call.groups), (cooling) => {
      const now = call.clock.currentTimeMillisUnsafe()
      const [state, decision] = Decisions.decide(call.setup, call.state, event, cooling, now)
      call.state = state
      switch (decision._tag) {
        case "Attempt":
          return attempt(decision, now)
        case "Wait":
          return Effect.andThen(wait(call, decision), react({ ...decision, _tag: "Waited" }))
        case "Stop":
          return Effect.andThen(logStop(call, decision.error), failWith(call, decision.error))
      }
    })

  const attempt = (decision: Extract<Decisions.Decision, { readonly _tag: "Attempt" }>, now: number) => {
    const member = call.members[decision.index]
    if (member === undefined) return Effect.die(new RangeError(`Router: no candidate ${decision.index}`))
    const attempt: Attempt = {
      member,
      index: decision.index,
      chosen: decision.chosen,
      skipped: decision.skipped,
      startedAt: now,
      waitedMs: call.pendingWaitMs,
      remainingMs: call.setup.deadlineAt - now
    }
    call.pendingWaitMs = 0
    const performed = Effect.matchEffect(perform(attempt), {
      onSuccess: (value) => Effect.succeed({ value, attempt }),
      onFailure: (error) => Effect.flatMap(settle(call, attempt, error), react)
    })
    return call.attempts.length === 0 && decision.skipped.length === 0
      ? performed
      : Effect.andThen(logChoice(call, attempt), performed)
  }

  return react({ _tag: "Start" })
}

/** Records a failure, starts its cooldown and asks the retry schedule: everything the decision needs to know. */
const settle = (
  call: Call,
  attempt: Attempt,
  raised: Errors.LLMError
): Effect.Effect<Extract<Decisions.Event, { readonly _tag: "Failed" }>> => {
  const { target } = attempt.member
  const error = raised.target === undefined
    ? Errors.update(raised, { target: target.id, provider: target.provider, model: raised.model ?? target.model })
    : raised
  const rule = Recovery.ruleFor(call.engine.recovery, error)
  recordFailure(call, attempt, error)
  return Effect.andThen(
    cool(call, attempt, error, rule),
    Effect.map(retryDelay(call, attempt.index, error, rule), (retryMs) => ({
      _tag: "Failed" as const,
      index: attempt.index,
      error,
      rule,
      retryMs
    }))
  )
}

const cool = (call: Call, attempt: Attempt, error: Errors.LLMError, rule: Recovery.Rule): Effect.Effect<void> => {
  const millis = Recovery.cooldownMillis(rule, error)
  const scopeKey = Targets.scopeKey(attempt.member.target, Recovery.cooldownScope(rule, error))
  return Effect.andThen(
    logFailure(call, error),
    millis === 0 || scopeKey === undefined
      ? Effect.void
      : Effect.andThen(
        call.engine.cooldown.start(scopeKey, millis, error.reason),
        Effect.logInfo(`cooling ${scopeKey} for ${Duration.format(Duration.millis(millis))} (${error.reason})`)
      )
  )
}

const retryDelay = (
  call: Call,
  index: number,
  error: Errors.LLMError,
  rule: Recovery.Rule
): Effect.Effect<number | undefined> => {
  if (rule.sameTarget !== "backoff" || !error.isRetryable) return Effect.succeed(undefined)
  if (retriesOn(call, index) >= rule.retries) return Effect.succeed(undefined)
  return Effect.flatMap(
    stepOf(call, index),
    (step) =>
      Pull.matchEffect(step(call.clock.currentTimeMillisUnsafe(), error), {
        onSuccess: ([, delay]) => Effect.succeed(Duration.toMillis(delay)),
        onFailure: Effect.failCause,
        onDone: () => Effect.succeed(undefined)
      })
  ).pipe(Effect.provideService(Timeouts.CurrentDeadline, call.setup.deadlineAt))
}

const retriesOn = (call: Call, index: number): number => {
  const id = call.members[index]?.target.id
  return call.attempts.filter((_) => _.target === id).length - 1
}

const stepOf = (call: Call, index: number): Effect.Effect<Step> => {
  const running = call.steps.get(index)
  if (running !== undefined) return Effect.succeed(running)
  return Effect.map(Schedule.toStep(call.engine.retry), (step) => {
    call.steps.set(index, step)
    return step
  })
}

// Which waits are worth it has been decided by now; the rule only spreads them.
const statedWait = Retry.makeRetryAfter({ maxHint: "1 day" })

// A stated wait is a lower bound, and all who heard it must not come back in the same instant.
const wait = (
  call: Call,
  decision: Extract<Decisions.Decision, { readonly _tag: "Wait" }>
): Effect.Effect<void> =>
  Effect.flatMap(decision.stated ? Random.next : Effect.succeed(0), (random) => {
    const remaining = call.setup.deadlineAt - call.clock.currentTimeMillisUnsafe()
    const delayMs = decision.stated
      ? Retry.waitMillis(statedWait, { delay: 0, hint: decision.delayMs, remaining, random }) ?? decision.delayMs
      : decision.delayMs
    call.waitedMs += delayMs
    call.pendingWaitMs += delayMs
    return Effect.sleep(delayMs)
  })

const failWith = (call: Call, error: Errors.LLMError): Effect.Effect<never, Errors.LLMError> =>
  Effect.fail(Errors.update(error, { attempts: call.attempts.slice() }))

// -----------------------------------------------------------------------------
// Attempts
// -----------------------------------------------------------------------------

const about = (attempt: Attempt): Timeouts.ErrorContext => ({
  provider: attempt.member.target.provider,
  model: attempt.member.target.model,
  target: attempt.member.target.id
})

const limitAttempt = <A, R>(
  call: Call,
  attempt: Attempt,
  effect: Effect.Effect<A, Errors.LLMError, R>
): Effect.Effect<A, Errors.LLMError, R> => {
  const { attempt: millis } = call.engine.limits
  return millis < attempt.remainingMs
    ? Timeouts.attempt(effect, millis, about(attempt))
    : Timeouts.total(effect, attempt.remainingMs, about(attempt))
}

/** A stream whose first content part has arrived. */
interface Opened {
  readonly first: Arr.NonEmptyReadonlyArray<StreamPart>
  readonly rest: Pull.Pull<Arr.NonEmptyReadonlyArray<StreamPart>, Errors.LLMError>
}

const open = (
  call: Call,
  attempt: Attempt,
  stream: Stream.Stream<StreamPart, Errors.LLMError>
): Effect.Effect<Opened, Errors.LLMError, Scope.Scope> => {
  const { limits } = call.engine
  const limited = Timeouts.stream(stream, {
    connect: limits.connect,
    firstToken: limits.firstToken,
    idle: limits.idle,
    total: attempt.remainingMs,
    isContent: Timeouts.isContentPart,
    context: about(attempt)
  })
  // The scope of a stream that fails before its first content is closed before the next target is asked.
  return Effect.flatMap(
    Effect.flatMap(Effect.scope, (parent) => Scope.fork(parent)),
    (scope) =>
      Effect.flatMap(Scope.provide(Stream.toPull(limited), scope), (pull) => untilContent(attempt, pull, [])).pipe(
        Effect.onExit((exit) => Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void)
      )
  )
}

const isDecisive = (part: StreamPart): boolean => part.type === "finish" || Timeouts.isContentPart(part)

const untilContent = (
  attempt: Attempt,
  pull: Opened["rest"],
  seen: ReadonlyArray<StreamPart>
): Effect.Effect<Opened, Errors.LLMError> =>
  Pull.matchEffect(pull, {
    onSuccess: (parts) => {
      const all: Arr.NonEmptyReadonlyArray<StreamPart> = [parts[0], ...parts.slice(1)]
      const joined: Arr.NonEmptyReadonlyArray<StreamPart> = seen.length === 0
        ? all
        : [seen[0] ?? all[0], ...seen.slice(1), ...all]
      return parts.some(isDecisive)
        ? Effect.succeed({ first: joined, rest: pull })
        : untilContent(attempt, pull, joined)
    },
    onFailure: (cause) => Effect.failCause(cause),
    onDone: () => Effect.fail(Classifier.streamTruncated(about(attempt)))
  })

/** The stream as the caller sees it: from here on its failure is final. */
const handOver = (
  call: Call,
  attempt: Attempt,
  opened: Opened
): Stream.Stream<StreamPart, Errors.LLMError> => {
  let first: Arr.NonEmptyReadonlyArray<StreamPart> | undefined = opened.first
  let finished = false

  const complete = (parts: Arr.NonEmptyReadonlyArray<StreamPart>): Arr.NonEmptyReadonlyArray<StreamPart> => {
    const last = parts[parts.length - 1]
    if (last?.type !== "finish") return parts
    finished = true
    recordSuccess(call, attempt)
    const finish = Completions.annotateFinish(last, attempt.member.target, call.attempts, timings(call, attempt))
    return parts.length === 1 ? [finish] : [parts[0], ...parts.slice(1, -1), finish]
  }

  const rest: Opened["rest"] = Pull.catchDone(
    Effect.map(opened.rest, complete),
    (): Effect.Effect<never, Errors.LLMError | Cause.Done> =>
      finished ? Cause.done() : Effect.fail(Classifier.streamTruncated(about(attempt)))
  )

  const pull: Opened["rest"] = Effect.suspend(() => {
    if (first === undefined) return rest
    const parts = first
    first = undefined
    return Effect.succeed(complete(parts))
  })

  return Stream.catch(
    Stream.fromPull(Effect.succeed(pull)),
    (error) => Stream.unwrap(Effect.flatMap(settle(call, attempt, error), (failed) => failWith(call, failed.error)))
  )
}

// -----------------------------------------------------------------------------
// The decision record
// -----------------------------------------------------------------------------

const line = (call: Call, attempt: Attempt): Omit<Errors.Attempt, "outcome" | "maybeBilled"> => ({
  target: attempt.member.target.id,
  provider: attempt.member.target.provider,
  model: attempt.member.target.model,
  chosen: attempt.chosen,
  startedMs: attempt.startedAt - call.startedAt,
  waitedMs: attempt.waitedMs,
  durationMs: call.clock.currentTimeMillisUnsafe() - attempt.startedAt,
  skipped: attempt.skipped
})

const recordSuccess = (call: Call, attempt: Attempt): void => {
  call.attempts.push({ ...line(call, attempt), outcome: "success", maybeBilled: true })
}

const recordFailure = (call: Call, attempt: Attempt, error: Errors.LLMError): void => {
  call.attempts.push({
    ...line(call, attempt),
    outcome: "failure",
    errorClass: error.errorClass,
    reason: error.reason,
    scope: error.scope,
    maybeBilled: error.maybeBilled,
    ...(error.status === undefined ? undefined : { status: error.status }),
    ...(error.requestId === undefined ? undefined : { requestId: error.requestId }),
    ...(error.retryAfter === undefined ? undefined : { retryAfterMs: Duration.toMillis(error.retryAfter) })
  })
}

const timings = (call: Call, attempt: Attempt): Timings => {
  const now = call.clock.currentTimeMillisUnsafe()
  return { totalMs: now - call.startedAt, waitedMs: call.waitedMs, attemptMs: now - attempt.startedAt }
}

const logFailure = (call: Call, error: Errors.LLMError): Effect.Effect<void> =>
  Effect.logWarning(`${error.message} (attempt ${call.attempts.length}/${call.engine.maxAttempts})`)

const logChoice = (call: Call, attempt: Attempt): Effect.Effect<void> => {
  const skipped = attempt.skipped.length === 0 ? Effect.void : Effect.logDebug(
    attempt.skipped.map((_) =>
      `skipped ${_.target}: ${_.why}${_.remainingMs === undefined ? "" : `, ${Math.ceil(_.remainingMs / 1000)} s left`}`
    ).join("; ")
  )
  return call.attempts.length === 0 ? skipped : Effect.andThen(
    skipped,
    Effect.logInfo(
      `attempt ${call.attempts.length + 1}/${call.engine.maxAttempts}: ${attempt.chosen} ${attempt.member.target.id}`
    )
  )
}

const logStop = (call: Call, error: Errors.LLMError): Effect.Effect<void> =>
  error.exhaustion === undefined
    ? Effect.void
    : Effect.logError(`${error.message} after ${call.attempts.length} attempts`)
