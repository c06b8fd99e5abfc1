/**
 * The seven errors that a call to a language model can end with.
 *
 * Whatever a provider, the network or a policy of ours does, a call fails with exactly one of
 * `TransientNetworkError`, `RateLimitError`, `TimeoutError`, `ServerError`, `AuthenticationError`, `PermanentError` or
 * `UnknownError`. All seven carry the same fields, so code that only logs or routes needs no case distinction, and
 * code that recovers uses `Effect.catchTag`.
 *
 * **Gotchas**
 *
 * An interrupted call is an interruption, never one of these errors. Errors hold no secret and no prompt: `detail` is
 * the provider's own text with credentials removed, `cause` keeps only the name, code and text of what was thrown.
 *
 * **Example** (Recovering from one class)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect } from "effect"
 * import { LLMError } from "breakwater"
 *
 * const refused = Effect.fail<LLMError.LLMError>(
 *   new LLMError.RateLimitError({
 *     provider: "groq",
 *     model: "llama-3.1-8b-instant",
 *     reason: "rate_limit",
 *     scope: "model",
 *     retryAfter: Duration.seconds(20)
 *   })
 * )
 *
 * const program = Effect.catchTag(refused, "RateLimitError", (error) => Effect.succeed(error.message))
 *
 * await Effect.runPromise(program) // => "groq/llama-3.1-8b-instant: rate limited (rate_limit), retry after 20s"
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * Names of the seven classes, as they appear in reports, metrics and `errorClass`.
 *
 * @category models
 * @since 0.1.0
 */
export const ErrorClass = Schema.Literals([
  "transient_network",
  "rate_limit",
  "timeout",
  "server_error",
  "authentication",
  "permanent",
  "unknown"
])

/**
 * One of the seven class names.
 *
 * @category models
 * @since 0.1.0
 */
export type ErrorClass = typeof ErrorClass.Type

/**
 * Who refused: the provider, or which part of us.
 *
 * @category models
 * @since 0.1.0
 */
export const Origin = Schema.Literals(["provider", "router", "limiter", "circuit", "cooldown", "deadline", "budget"])

/**
 * Who refused: the provider, or which part of us.
 *
 * @category models
 * @since 0.1.0
 */
export type Origin = typeof Origin.Type

/**
 * How far a failure reaches, which decides what is cooled down, tripped or skipped.
 *
 * **Details**
 *
 * `request` is the caller's own fault. `target` is one provider × model × key. `deployment` is one model on one host
 * or resource, whichever key is used (Azure deployments, self-hosted servers). `model` is a model as one account sees
 * it, `key` a credential, `group` the keys that share a quota, `provider` all of a vendor.
 *
 * @category models
 * @since 0.1.0
 */
export const Scope = Schema.Literals(["request", "target", "deployment", "model", "key", "group", "provider"])

/**
 * How far a failure reaches.
 *
 * @category models
 * @since 0.1.0
 */
export type Scope = typeof Scope.Type

/**
 * Why a call failed, as a closed vocabulary.
 *
 * @category models
 * @since 0.1.0
 */
export const Reason = Schema.Literals([
  // limits and quotas
  "rate_limit",
  "daily_quota",
  "monthly_quota",
  "concurrency",
  "insufficient_quota",
  "billing_disabled",
  "request_exceeds_limit",
  // credentials and access
  "invalid_key",
  "expired_credential",
  "permission_denied",
  "region_blocked",
  "ip_blocked",
  // the request itself
  "invalid_request",
  "unsupported_parameter",
  "context_length_exceeded",
  "content_filter",
  "model_not_found",
  "payload_too_large",
  "tool_use_failed",
  // the provider's servers
  "overloaded",
  "capacity",
  "internal_error",
  "gateway_timeout",
  "html_error_page",
  "empty_response",
  "invalid_response",
  // the network
  "conn_refused",
  "conn_reset",
  "dns",
  "tls",
  "protocol",
  "premature_close",
  "network",
  "stream_truncated",
  // time
  "connect_timeout",
  "headers_timeout",
  "body_timeout",
  "client_timeout",
  "first_token",
  "idle",
  "attempt",
  "deadline",
  // the caller, and ourselves
  "client_abort",
  "cooldown",
  "circuit_open",
  "queue_full",
  "queue_timeout",
  "budget_exhausted",
  "unknown"
])

/**
 * Why a call failed, as a closed vocabulary.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * A target that was passed over when an attempt was chosen, and why.
 *
 * @category models
 * @since 0.1.0
 */
export const Skipped = Schema.Struct({
  /** Target id. */
  target: Schema.String,
  /** Why it could not be used. */
  why: Schema.Literals([
    "cooldown",
    "circuit",
    "limit",
    "throttle",
    "failed",
    "spent",
    "context_window",
    "capability",
    "prefill",
    "tags",
    "tenant",
    "service"
  ]),
  /** Milliseconds until it may be used again, when that is known. */
  remainingMs: Schema.optionalKey(Schema.Number)
})

/**
 * A target that was passed over when an attempt was chosen, and why.
 *
 * @category models
 * @since 0.1.0
 */
export type Skipped = typeof Skipped.Type

/**
 * One line of the decision record: what one attempt was sent to, why, and how it ended.
 *
 * **Details**
 *
 * Times are whole milliseconds. `startedMs` counts from the start of the call, `waitedMs` is what the call waited
 * before this attempt (backoff or capacity), `durationMs` is the attempt itself.
 *
 * @category models
 * @since 0.1.0
 */
export const Attempt = Schema.Struct({
  target: Schema.String,
  provider: Schema.String,
  model: Schema.String,
  /**
   * Why this target was chosen: by the strategy as the `first` or, after a failure, as the `next` one; for a `retry`; as
   * the one with the `earliest` capacity; or for a second request beside a slow one, a `hedge`.
   */
  chosen: Schema.Literals(["first", "retry", "next", "earliest", "hedge"]),
  /** Name of the strategy that chose it, unless the targets are taken in their order. */
  strategy: Schema.optionalKey(Schema.String),
  startedMs: Schema.Number,
  waitedMs: Schema.Number,
  durationMs: Schema.Number,
  outcome: Schema.Literals(["success", "failure", "interrupted"]),
  errorClass: Schema.optionalKey(ErrorClass),
  reason: Schema.optionalKey(Reason),
  scope: Schema.optionalKey(Scope),
  status: Schema.optionalKey(Schema.Number),
  requestId: Schema.optionalKey(Schema.String),
  retryAfterMs: Schema.optionalKey(Schema.Number),
  maybeBilled: Schema.Boolean,
  /** US dollars, when the target has prices and the provider reported usage. */
  cost: Schema.optionalKey(Schema.Number),
  /** Targets that were passed over for this attempt. */
  skipped: Schema.Array(Skipped)
})

/**
 * One line of the decision record.
 *
 * @category models
 * @since 0.1.0
 */
export type Attempt = typeof Attempt.Type

/**
 * What is left when no target could serve a call, counted by provider.
 *
 * @category models
 * @since 0.1.0
 */
export const Exhaustion = Schema.Struct({
  /** Targets the call could have used. */
  targets: Schema.Number,
  /** Per provider, in target order: how many targets are free now, and how many there are. */
  providers: Schema.Array(Schema.Struct({ provider: Schema.String, available: Schema.Number, total: Schema.Number })),
  /** Milliseconds until the first target may be used again, when one recovers by time. */
  earliestMs: Schema.optionalKey(Schema.Number)
})

/**
 * What is left when no target could serve a call.
 *
 * @category models
 * @since 0.1.0
 */
export type Exhaustion = typeof Exhaustion.Type

const fields = {
  /** Provider name, such as `groq`. */
  provider: Schema.String,
  /** Model name, when one is known. */
  model: Schema.optional(Schema.String),
  /** Target id, when the failure happened on a target. */
  target: Schema.optional(Schema.String),
  /** Who refused. Defaults to `provider`. */
  origin: Origin.pipe(Schema.withConstructorDefault(Effect.succeed<Origin>("provider"))),
  /** Why, in one word. */
  reason: Reason,
  /** How far the failure reaches. Defaults to `target`. */
  scope: Scope.pipe(Schema.withConstructorDefault(Effect.succeed<Scope>("target"))),
  /** HTTP status, when there was a response. */
  status: Schema.optional(Schema.Number),
  /** The provider's request id, for their support. */
  requestId: Schema.optional(Schema.String),
  /** The wait the provider stated, or the time until a refusal of ours ends. */
  retryAfter: Schema.optional(Schema.DurationFromMillis),
  /** What the provider's `x-should-retry` header said. */
  shouldRetry: Schema.optional(Schema.Boolean),
  /** Whether the provider may have executed, and so billed, the request. */
  maybeBilled: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false))),
  /** The provider's words, truncated and without credentials. */
  detail: Schema.optional(Schema.String),
  /** All attempts of the call, in order. */
  attempts: Schema.Array(Attempt).pipe(Schema.withConstructorDefault(Effect.succeed<ReadonlyArray<Attempt>>([]))),
  /** Set when the call failed because no target was left. */
  exhaustion: Schema.optional(Exhaustion),
  /** Name, code and text of what was thrown. */
  cause: Schema.optional(Schema.Defect())
}

/**
 * The fields that all seven errors share.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fields {
  readonly provider: string
  readonly model?: string | undefined
  readonly target?: string | undefined
  readonly origin?: Origin
  readonly reason: Reason
  readonly scope?: Scope
  readonly status?: number | undefined
  readonly requestId?: string | undefined
  readonly retryAfter?: Duration.Duration | undefined
  readonly shouldRetry?: boolean | undefined
  readonly maybeBilled?: boolean
  readonly detail?: string | undefined
  readonly attempts?: ReadonlyArray<Attempt>
  readonly exhaustion?: Exhaustion | undefined
  readonly cause?: unknown
}

// A spent credit or a switched-off account does not heal by waiting, whatever the status and headers say.
const neverHeals: ReadonlySet<Reason> = new Set<Reason>(["insufficient_quota", "billing_disabled"])

// Whole seconds from one second on: nobody plans by the milliseconds of a wait of minutes.
const formatMillis = (millis: number): string =>
  Duration.format(Duration.millis(millis < 1000 ? Math.ceil(millis) : Math.ceil(millis / 1000) * 1000))
    .replaceAll(/(\d)([a-z])/g, "$1 $2")

const describe = (error: LLMError, verb: string): string => {
  if (error.exhaustion !== undefined) return describeExhaustion(error.exhaustion, verb)
  const where = error.target ?? (error.model === undefined ? error.provider : `${error.provider}/${error.model}`)
  const status = error.status === undefined ? "" : `, ${error.status}`
  const wait = error.retryAfter === undefined ? "" : `, retry after ${Duration.format(error.retryAfter)}`
  const detail = error.detail === undefined ? "" : `: ${error.detail}`
  return `${where}: ${verb} (${error.reason}${status})${wait}${detail}`
}

const describeExhaustion = (exhaustion: Exhaustion, verb: string): string => {
  const counts = exhaustion.providers.map((_) => `${_.provider} ${_.available}/${_.total}`).join(", ")
  const which = exhaustion.targets === 1 ? "the only target" : `all ${exhaustion.targets} targets`
  const when = exhaustion.earliestMs === undefined
    ? ""
    : `; earliest capacity in ${formatMillis(exhaustion.earliestMs)}`
  return `${verb} on ${which}${when} (${counts})`
}

/**
 * Error for a connection that could not be made or broke: refused, reset, DNS, TLS, a stream cut short.
 *
 * @category errors
 * @since 0.1.0
 */
export class TransientNetworkError
  extends Schema.TaggedError<TransientNetworkError>("breakwater/TransientNetworkError")("TransientNetworkError", fields)
{
  /** Name of the class in reports and metrics. */
  readonly errorClass = "transient_network"

  /** Whether another attempt can succeed. */
  get isRetryable(): boolean {
    return this.shouldRetry ?? true
  }

  override get message(): string {
    return describe(this, "network failure")
  }
}

/**
 * Error for a limit or quota that is used up, the provider's or our own.
 *
 * @category errors
 * @since 0.1.0
 */
export class RateLimitError
  extends Schema.TaggedError<RateLimitError>("breakwater/RateLimitError")("RateLimitError", fields)
{
  /** Name of the class in reports and metrics. */
  readonly errorClass = "rate_limit"

  /** Whether another attempt can succeed: not when a credit is spent. */
  get isRetryable(): boolean {
    return !neverHeals.has(this.reason) && (this.shouldRetry ?? true)
  }

  override get message(): string {
    return describe(this, "rate limited")
  }
}

/**
 * Error for a limit of time that passed; `reason` names which one.
 *
 * @category errors
 * @since 0.1.0
 */
export class TimeoutError extends Schema.TaggedError<TimeoutError>("breakwater/TimeoutError")("TimeoutError", fields) {
  /** Name of the class in reports and metrics. */
  readonly errorClass = "timeout"

  /** Whether another attempt can succeed: not when the call's own deadline has passed. */
  get isRetryable(): boolean {
    return this.reason !== "deadline" && (this.shouldRetry ?? true)
  }

  override get message(): string {
    return describe(this, "timed out")
  }
}

/**
 * Error for a provider that failed on its side: 5xx, overload, an unusable answer.
 *
 * @category errors
 * @since 0.1.0
 */
export class ServerError extends Schema.TaggedError<ServerError>("breakwater/ServerError")("ServerError", fields) {
  /** Name of the class in reports and metrics. */
  readonly errorClass = "server_error"

  /** Whether another attempt can succeed. */
  get isRetryable(): boolean {
    return this.shouldRetry ?? true
  }

  override get message(): string {
    return describe(this, "server error")
  }
}

/**
 * Error for a credential that is missing, wrong, expired, blocked or without credit.
 *
 * @category errors
 * @since 0.1.0
 */
export class AuthenticationError
  extends Schema.TaggedError<AuthenticationError>("breakwater/AuthenticationError")("AuthenticationError", fields)
{
  /** Name of the class in reports and metrics. */
  readonly errorClass = "authentication"

  /** Whether another attempt with the same credential can succeed: never. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return describe(this, "not authorised")
  }
}

/**
 * Error for a request that will fail again unless it is changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class PermanentError
  extends Schema.TaggedError<PermanentError>("breakwater/PermanentError")("PermanentError", fields)
{
  /** Name of the class in reports and metrics. */
  readonly errorClass = "permanent"

  /** Whether the same request can succeed: never. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return describe(this, "rejected")
  }
}

/**
 * Error for a failure that no rule recognises.
 *
 * @category errors
 * @since 0.1.0
 */
export class UnknownError extends Schema.TaggedError<UnknownError>("breakwater/UnknownError")("UnknownError", fields) {
  /** Name of the class in reports and metrics. */
  readonly errorClass = "unknown"

  /** Whether another attempt can succeed: it may, except after the caller itself went away. */
  get isRetryable(): boolean {
    return this.reason !== "client_abort" && (this.shouldRetry ?? true)
  }

  override get message(): string {
    return describe(this, "failed for an unknown reason")
  }
}

/**
 * Schema of the seven errors, for errors that cross a process boundary.
 *
 * @category errors
 * @since 0.1.0
 */
export const LLMError = Schema.Union([
  TransientNetworkError,
  RateLimitError,
  TimeoutError,
  ServerError,
  AuthenticationError,
  PermanentError,
  UnknownError
])

/**
 * Any of the seven errors.
 *
 * @category errors
 * @since 0.1.0
 */
export type LLMError =
  | TransientNetworkError
  | RateLimitError
  | TimeoutError
  | ServerError
  | AuthenticationError
  | PermanentError
  | UnknownError

const constructors = {
  transient_network: TransientNetworkError,
  rate_limit: RateLimitError,
  timeout: TimeoutError,
  server_error: ServerError,
  authentication: AuthenticationError,
  permanent: PermanentError,
  unknown: UnknownError
} as const

/**
 * Creates the error of a class.
 *
 * **When to use**
 *
 * Use where the class is data, as in a classifier or a scripted test.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (errorClass: ErrorClass, fields: Fields): LLMError => new constructors[errorClass](fields)

/**
 * Creates a copy of an error with some fields replaced.
 *
 * @category combinators
 * @since 0.1.0
 */
export const update = (error: LLMError, patch: Partial<Fields>): LLMError =>
  make(error.errorClass, {
    provider: error.provider,
    model: error.model,
    target: error.target,
    origin: error.origin,
    reason: error.reason,
    scope: error.scope,
    status: error.status,
    requestId: error.requestId,
    retryAfter: error.retryAfter,
    shouldRetry: error.shouldRetry,
    maybeBilled: error.maybeBilled,
    detail: error.detail,
    attempts: error.attempts,
    exhaustion: error.exhaustion,
    cause: error.cause,
    ...patch
  })

/**
 * Returns whether a value is one of the seven errors.
 *
 * @category guards
 * @since 0.1.0
 */
export const isLLMError: (u: unknown) => u is LLMError = Schema.is(LLMError)
