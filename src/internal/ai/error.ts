/**
 * The seven errors as errors of effect/ai, and back.
 *
 * @internal
 */
import * as AiError from "effect/ai/AiError"
import type * as Response from "effect/ai/Response"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Classifier from "../../Classifier.ts"
import * as Errors from "../../LLMError.ts"
import type { Target } from "../../Target.ts"
import { about } from "../call/about.ts"
import { detail } from "../redact.ts"
import { withoutStack } from "../withoutStack.ts"

const Json = Schema.toCodecJson(Errors.LLMError)
const encode = Schema.encodeSync(Json)
const decode = Schema.decodeUnknownOption(Json)

export const toAiError = (error: Errors.LLMError, method: string): AiError.AiError =>
  withoutStack(() => AiError.make({ module: "breakwater", method, reason: reasonOf(error) }))

const reasonOf = (error: Errors.LLMError): AiError.AiErrorReason => {
  const description = error.message
  // Only reasons that have no metadata keep the error itself, as their cause.
  if (error.errorClass === "transient_network") {
    const url = error.target ?? error.provider
    return new AiError.NetworkError({ reason: "TransportError", method: "POST", url, description, cause: error })
  }
  const common = { metadata: { breakwater: encode(error) }, ...http(error) }
  switch (error.errorClass) {
    case "rate_limit":
      return isSpent(error)
        ? new AiError.QuotaExhaustedError(common)
        : new AiError.RateLimitError({ ...common, retryAfter: error.retryAfter })
    case "authentication":
      return isSpent(error)
        ? new AiError.QuotaExhaustedError(common)
        : new AiError.AuthenticationError({ ...common, kind: kindOf(error.reason), description })
    case "permanent":
      return error.reason === "content_filter"
        ? new AiError.ContentPolicyError({ ...common, description })
        : new AiError.InvalidRequestError({ ...common, description })
    case "server_error":
      return new AiError.InternalProviderError({ ...common, description })
    case "timeout":
      return error.isRetryable
        ? new AiError.InternalProviderError({ ...common, description })
        : new AiError.UnknownError({ ...common, description })
    case "unknown":
      return new AiError.UnknownError({ ...common, description })
  }
}

const isSpent = ({ reason }: Errors.LLMError): boolean =>
  reason === "insufficient_quota" || reason === "billing_disabled"

const kindOf = (reason: Errors.Reason): AiError.AuthenticationError["kind"] => {
  switch (reason) {
    case "invalid_key":
      return "InvalidKey"
    case "expired_credential":
      return "ExpiredKey"
    case "permission_denied":
    case "region_blocked":
    case "ip_blocked":
      return "InsufficientPermissions"
    default:
      return "Unknown"
  }
}

const http = ({ requestId, status }: Errors.LLMError): { readonly http?: typeof AiError.HttpContext.Type } =>
  status === undefined
    ? {}
    : { http: { response: { status, headers: requestId === undefined ? {} : { "x-request-id": requestId } } } }

export const fromAiError = (error: AiError.AiError, context?: Classifier.Context): Errors.LLMError => {
  const { reason } = error
  const ours = restored(reason)
  if (ours !== undefined) return context === undefined ? ours : seenFrom(context, ours)
  const where = context ?? { provider: error.module }
  switch (reason._tag) {
    case "NetworkError":
      return reason.reason === "TransportError"
        ? networkError(reason, where)
        : verdict("permanent", "invalid_request", reason.reason === "EncodeError" ? "request" : "target", error, where)
    case "RateLimitError":
    case "QuotaExhaustedError":
      return withWait(Classifier.fromUnknown(error, where), reason, where)
    case "AuthenticationError":
    case "ContentPolicyError":
    case "InvalidRequestError":
    case "InternalProviderError":
      return Classifier.fromUnknown(error, where)
    case "UnknownError":
      return reason.description === undefined && reason.http === undefined
        ? verdict("unknown", "unknown", "target", error, where)
        : Classifier.fromUnknown(error, where)
    // What follows was found out about an answer or a program, so that words in it are nobody's words about a failure.
    case "InvalidResponseError":
    case "InvalidOutputError":
    case "StructuredOutputError":
      return verdict("server_error", "invalid_response", "model", error, where)
    case "ToolNotFoundError":
    case "ToolParameterValidationError":
      return verdict("permanent", "tool_use_failed", "model", error, where)
    case "UnsupportedSchemaError":
    case "InvalidToolResultError":
    case "ToolResultEncodingError":
    case "ToolConfigurationError":
    case "ToolkitRequiredError":
    case "InvalidUserInputError":
      return verdict("permanent", "invalid_request", "request", error, where)
  }
}

const restored = (reason: AiError.AiErrorReason): Errors.LLMError | undefined => {
  if (reason._tag === "NetworkError") return Errors.isLLMError(reason.cause) ? reason.cause : undefined
  const known = "metadata" in reason ? reason.metadata["breakwater"] : undefined
  return known === undefined ? undefined : Option.getOrUndefined(decode(known))
}

// To whoever calls a service of ours as a target, that service is the provider, whichever part of it has refused.
const seenFrom = ({ model, provider, target }: Classifier.Context, error: Errors.LLMError): Errors.LLMError =>
  Errors.update(error, { provider, model, target, origin: "provider", attempts: [], exhaustion: undefined })

const verdict = (
  errorClass: Errors.ErrorClass,
  reason: Errors.Reason,
  scope: Errors.Scope,
  { reason: { message } }: AiError.AiError,
  { model, provider, secrets = [], target }: Classifier.Context
): Errors.LLMError =>
  withoutStack(() =>
    Errors.make(errorClass, {
      provider,
      model,
      target,
      reason,
      scope,
      maybeBilled: errorClass === "server_error" || errorClass === "unknown" || reason === "tool_use_failed",
      detail: detail(message, secrets)
    })
  )

// A message of effect/ai ends in advice about the connection, which is no evidence: only what was below it counts.
const networkError = (
  { cause, description, reason }: AiError.NetworkError,
  where: Classifier.Context
): Errors.LLMError => {
  const below = Classifier.fromUnknown(cause ?? { name: reason, message: description ?? "network error" }, where)
  return below.errorClass === "unknown"
    ? Errors.make("transient_network", {
      ...where,
      reason: "network",
      scope: "provider",
      maybeBilled: true,
      detail: below.detail,
      cause: below.cause
    })
    : below
}

const withWait = (
  error: Errors.LLMError,
  reason: AiError.RateLimitError | AiError.QuotaExhaustedError,
  { receivedAt }: Classifier.Context
): Errors.LLMError => {
  if (reason._tag === "RateLimitError") {
    return reason.retryAfter === undefined ? error : Errors.update(error, { retryAfter: reason.retryAfter })
  }
  if (reason.resetAt === undefined || receivedAt === undefined) return error
  const left = Math.max(0, DateTime.toEpochMillis(reason.resetAt) - receivedAt)
  return Errors.update(error, { retryAfter: Duration.millis(left) })
}

/** What a target's failure is to be classified with. */
const contextOf = (target: Target, receivedAt: number): Classifier.Context => ({
  ...about(target),
  receivedAt,
  secrets: target.key === undefined ? [] : [target.key.value]
})

/** Fails with one of the seven errors for whatever a model of effect/ai has failed with. */
export const failed = (target: Target, error: unknown, contentSeen = false): Effect.Effect<never, Errors.LLMError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const context = contextOf(target, now)
    const classified = AiError.isAiError(error)
      ? fromAiError(error, context)
      : Errors.isLLMError(error)
      ? seenFrom(context, error)
      : Classifier.fromUnknown(error, context)
    return Effect.fail(contentSeen ? Errors.update(classified, { maybeBilled: true }) : classified)
  })

/** What the error part of a stream holds. */
export const ofPart = (part: Response.ErrorPart): unknown =>
  AiError.isAiErrorReason(part.error)
    ? AiError.make({ module: "LanguageModel", method: "streamText", reason: part.error })
    : part.error
