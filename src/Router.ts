/**
 * Sends each call to the target that can serve it: many targets, one answer.
 *
 * The router takes targets in order, passes over those that are cooling, and after a failure does what the recovery
 * table says: try the same target after a backoff, move to another key, model or provider at once, wait for the
 * earliest capacity, or give up. The walk is circular, and one deadline bounds attempts, backoff and waits together.
 *
 * The router keeps no state of its own. What outlives a call is in the services it is made of: cooldowns, limits,
 * circuits, health, the retry budget and what was learned about tokens.
 *
 * **Details**
 *
 * Before an attempt the target must not be cooling, its circuit must let calls through, and all limits must have room,
 * in this order; the circuit has the last word after a wait for room. A refusal of these is no attempt and no evidence
 * against the target. When every target refuses, the call waits for the one that is free first, if that is before its
 * deadline.
 *
 * A stream moves on freely until its first content part has been handed over; afterwards a failure is the caller's.
 * Slots and circuit permits are held to its end. Every completion, every error and every stream's `finish` part carries the decision record: one line an attempt.
 *
 * **Gotchas**
 *
 * Let nothing below the router retry: set a vendor SDK's `maxRetries` to 0, or attempts multiply.
 *
 * **Example** (Falling back to another provider)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LLMService, Resilience, Router, Target } from "breakwater"
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
 *   Effect.provide(Router.layer({ targets }).pipe(Layer.provide([providers, Resilience.layerMemory()])))
 * )
 *
 * await Effect.runPromise(program) // => ["openai/gpt-4o-mini", 2]
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { CircuitBreaker } from "./CircuitBreaker.ts"
import { ClientThrottle } from "./ClientThrottle.ts"
import { Cooldown } from "./Cooldown.ts"
import { Health } from "./Health.ts"
import { adapterOf } from "./internal/call/adapterOf.ts"
import * as Attempts from "./internal/call/attempt.ts"
import type { Engine, LimitScope, Member } from "./internal/call/call.ts"
import * as Completions from "./internal/call/completion.ts"
import * as Records from "./internal/call/record.ts"
import * as Calls from "./internal/call/run.ts"
import { plan } from "./internal/limiter/limits.ts"
import type { LLMError } from "./LLMError.ts"
import { LLMService } from "./LLMService.ts"
import { Provider } from "./Provider.ts"
import { type Limits, RateLimiter } from "./RateLimiter.ts"
import * as Recovery from "./Recovery.ts"
import * as Retry from "./Retry.ts"
import { RetryBudget } from "./RetryBudget.ts"
import * as Targets from "./Target.ts"
import * as Timeouts from "./Timeouts.ts"
import { Usage } from "./Usage.ts"

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
   * Backoff on one target, for the classes whose rule says `backoff`, or which one for which target; every target of a
   * call has its own run of it.
   *
   * @default Retry.standard
   */
  readonly retry?:
    | Schedule.Schedule<unknown, LLMError>
    | ((target: Targets.Target) => Schedule.Schedule<unknown, LLMError>)
    | undefined
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
  /** Limits that targets share, besides the limits of each. */
  readonly limits?: SharedLimits | undefined
  /**
   * Longest wait in the limiter's queue, when no target has capacity.
   *
   * @default "15 seconds"
   */
  readonly queueWait?: Duration.Input | undefined
  /**
   * Share of the targets, between 0 and 1, that open circuits may take out of use; the circuits beyond it that end first
   * are tried as probes. Targets that are cooling or isolated do not count, and a single target's circuit is obeyed.
   *
   * @default 0.5
   */
  readonly maxEjected?: number | undefined
}

/**
 * Limits that targets share. Each record is by name; a name that no target has is refused.
 *
 * @category options
 * @since 0.1.0
 */
export interface SharedLimits {
  /** All calls of the router. */
  readonly all?: Limits | undefined
  readonly providers?: Readonly<Record<string, Limits>> | undefined
  readonly groups?: Readonly<Record<string, Limits>> | undefined
  /** By the id of the key. */
  readonly keys?: Readonly<Record<string, Limits>> | undefined
  /** By the `tenant` of the request; a tenant that is not named has no limits of its own. */
  readonly tenants?: Readonly<Record<string, Limits>> | undefined
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
export const make = (options: Options): Effect.Effect<LLMService["Service"], never, Services> => {
  const check = validate(options)
  return Effect.map(
    Effect.all([
      Provider,
      Cooldown,
      RateLimiter,
      Usage,
      CircuitBreaker,
      Health,
      RetryBudget,
      Effect.serviceOption(ClientThrottle)
    ]),
    ([provider, cooldown, limiter, usage, circuits, health, budget, found]) => {
      const throttle = Option.getOrUndefined(found)
      const services = { cooldown, limiter, usage, circuits, health, budget, throttle }
      return service({ ...check, ...members(options, provider), ...services })
    }
  )
}

/**
 * The services a router is made of. `Resilience.layerMemory` provides all but the `Provider`. Where there is a
 * `ClientThrottle` as well, it is asked before every attempt.
 *
 * @category services
 * @since 0.1.0
 */
export type Services = Provider | Cooldown | RateLimiter | Usage | CircuitBreaker | Health | RetryBudget

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
export const layer = (options: Options): Layer.Layer<LLMService, never, Services> =>
  Layer.effect(LLMService, make(options))

const validate = (
  options: Options
): Pick<Engine, "recovery" | "maxAttempts" | "patienceMs" | "queueWaitMs" | "limits" | "tenants" | "ejection"> => {
  const maxAttempts = options.maxAttempts ?? 10
  const patienceMs = Duration.toMillis(Duration.fromInputUnsafe(options.patience ?? "3 seconds"))
  if (options.targets.length === 0) throw new RangeError("Router: targets must not be empty")
  if (!Number.isInteger(maxAttempts) || maxAttempts < 1) {
    throw new RangeError(`Router: maxAttempts must be an integer >= 1, got ${maxAttempts}`)
  }
  if (!(patienceMs >= 0)) throw new RangeError(`Router: patience must be >= 0, got ${String(options.patience)}`)
  const queueWaitMs = Duration.toMillis(Duration.fromInputUnsafe(options.queueWait ?? "15 seconds"))
  if (!(queueWaitMs >= 0)) throw new RangeError(`Router: queueWait must be >= 0, got ${String(options.queueWait)}`)
  const maxEjected = options.maxEjected ?? 0.5
  if (!(maxEjected >= 0 && maxEjected <= 1)) {
    throw new RangeError(`Router: maxEjected must be between 0 and 1, got ${maxEjected}`)
  }
  checkLimits(options.limits ?? {}, options.targets)
  const ids = new Set<string>()
  for (const target of options.targets) {
    if (ids.has(target.id)) {
      throw new RangeError(`Router: two targets have the id "${target.id}"; give one an "id" of its own`)
    }
    ids.add(target.id)
  }
  return {
    recovery: Recovery.make(options.recovery),
    maxAttempts,
    patienceMs,
    limits: limitsOf(options.timeouts ?? {}),
    queueWaitMs,
    ejection: { maxPercent: maxEjected * 100, keep: maxEjected === 1 ? 0 : 1 },
    tenants: new Map(
      Object.entries(options.limits?.tenants ?? {}).map((
        [tenant, limits]
      ) => [tenant, { key: `tenant:${tenant}`, limits }])
    )
  }
}

const checkLimits = (limits: SharedLimits, targets: ReadonlyArray<Targets.Target>): void => {
  const known = {
    providers: new Set(targets.map((_) => _.provider)),
    groups: new Set(targets.map((_) => _.group)),
    keys: new Set(targets.map((_) => _.key?.id))
  }
  if (limits.all !== undefined) plan(limits.all, "Router: limits.all")
  for (const field of ["providers", "groups", "keys", "tenants"] as const) {
    for (const [name, of] of Object.entries(limits[field] ?? {})) {
      plan(of, `Router: limits.${field}.${name}`)
      if (field !== "tenants" && !known[field].has(name)) {
        throw new RangeError(`Router: limits.${field}.${name} is for no target`)
      }
    }
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

/** The limits an attempt at a target counts in, by the scope keys under which failures are known as well. */
const limitScopes = (target: Targets.Target, shared: SharedLimits): ReadonlyArray<LimitScope> => {
  const scopes: Array<LimitScope> = []
  const add = (key: string | undefined, limits: Limits | undefined): void => {
    if (key !== undefined && limits !== undefined) scopes.push({ key, limits })
  }
  add(Targets.scopeKey(target, "model"), target.limits)
  if (target.key !== undefined) add(Targets.scopeKey(target, "key"), shared.keys?.[target.key.id])
  if (target.group !== undefined) add(Targets.scopeKey(target, "group"), shared.groups?.[target.group])
  add(Targets.scopeKey(target, "provider"), shared.providers?.[target.provider])
  add("all", shared.all)
  return scopes
}

/** Health is known of a target, of its model, of its key and of its provider. */
const healthKeys = (target: Targets.Target): ReadonlyArray<string> =>
  (["target", "model", "key", "provider"] as const).flatMap((scope) => {
    const key = scope === "key" && target.key === undefined ? undefined : Targets.scopeKey(target, scope)
    return key === undefined ? [] : [key]
  })

const members = (
  options: Options,
  provider: Provider["Service"]
): Pick<Engine, "candidates" | "groups" | "circuitKeys" | "selective"> => {
  const candidates = options.targets.map((target): Member => {
    const adapter = adapterOf(provider, target)
    return {
      target,
      adapter,
      scopeKeys: Targets.scopeKeys(target),
      limits: limitScopes(target, options.limits ?? {}),
      retry: typeof options.retry === "function" ? options.retry(target) : options.retry ?? Retry.standard,
      circuit: `target:${target.id}`,
      health: healthKeys(target),
      budget: `${target.provider}/${target.model}`
    }
  }).sort((a, b) => a.target.order - b.target.order)
  return {
    candidates,
    groups: candidates.map((_) => _.scopeKeys),
    circuitKeys: candidates.map((_) => _.circuit),
    selective: candidates.some((_) => Object.values(_.target.capabilities).includes(false))
  }
}

const service = (engine: Engine): LLMService["Service"] =>
  LLMService.of({
    complete: (request) =>
      Effect.flatMap(Calls.begin(engine, request), (call) =>
        Effect.map(
          Calls.run(call, undefined, (attempt) => Attempts.complete(call, attempt)),
          ({ attempt, value }) =>
            Completions.make(attempt.member.target, value, call.attempts, Records.timings(call, attempt))
        )),
    stream: (request) =>
      Stream.unwrap(
        Effect.flatMap(Effect.zip(Calls.begin(engine, request), Effect.scope), ([call, scope]) =>
          Effect.map(
            Calls.run(call, scope, (attempt, scope) => Attempts.open(call, attempt, scope)),
            ({ attempt, value }) => Attempts.handOver(call, attempt, value)
          ))
      )
  })
