/**
 * Turns whatever a provider, a client library or the network answers with into one of the seven errors.
 *
 * The functions are total and pure: they read a response, a frame of a stream or a thrown value, never throw, and give
 * the same error for the same input. They keep no state.
 *
 * **Details**
 *
 * What is wrapped is unwrapped first: arrays, JSON inside a string, a gateway's copy of the provider's answer, Python's
 * notation, causes of causes. Then a known code or sentence decides, then the status, then words alone. A stated wait
 * is read from `retry-after-ms`, `retry-after`, fields of the body, sentences, and last from the reset headers of a
 * 429, when nothing remains; it is rounded up to whole milliseconds and otherwise kept as stated.
 *
 * **Gotchas**
 *
 * A spent credit is not a limit that heals, even as a 429: look at `isRetryable`, not at the status. Headers of a
 * response that did not fail state no wait. `detail` and `cause` hold the provider's words without credentials and
 * without what the provider repeated of the request; a secret of an unknown shape is only recognised when it is given
 * in `secrets`.
 *
 * **Example** (Classifying a response)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { Classifier } from "breakwater"
 *
 * const error = Classifier.fromHttp({
 *   provider: "groq",
 *   status: 429,
 *   headers: {},
 *   body: "Rate limit reached on tokens per day (TPD): Limit 100000. Please try again in 9m38.016s."
 * })
 *
 * error.errorClass // => "rate_limit"
 * error.reason // => "daily_quota"
 * error.scope // => "model"
 * error.retryAfter && Duration.toMillis(error.retryAfter) // => 578016
 * ```
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import { diagnose, maybeBilled, type Symptoms } from "./internal/diagnosis.ts"
import * as Evidence from "./internal/evidence.ts"
import { detail, scrub } from "./internal/redact.ts"
import * as Wait from "./internal/retryAfter.ts"
import { withoutStack } from "./internal/withoutStack.ts"
import { type Fields, isLLMError, type LLMError, make, type Reason } from "./LLMError.ts"

/**
 * Headers by name in any case; a repeated header has a list of values.
 *
 * @category models
 * @since 0.1.0
 */
export type HeaderMap = Readonly<Record<string, string | ReadonlyArray<string> | undefined>>

/**
 * What is known of a call whatever its failure looks like.
 *
 * @category models
 * @since 0.1.0
 */
export interface Context {
  /** Provider name, such as `groq`. */
  readonly provider: string
  /** Model name. */
  readonly model?: string | undefined
  /** Target id. */
  readonly target?: string | undefined
  /** Whether the request was written to the connection; `false` means that it cannot have been executed. */
  readonly sent?: boolean | undefined
  /** Epoch milliseconds at which the failure arrived, for dates in responses without a `Date`. */
  readonly receivedAt?: number | undefined
  /** Credentials of the call, which are removed from every text. */
  readonly secrets?: ReadonlyArray<Redacted.Redacted<string>> | undefined
}

/**
 * A response that is not the answer that was asked for.
 *
 * @category models
 * @since 0.1.0
 */
export interface HttpFailure extends Context {
  /** HTTP status; 0 when it is not known. */
  readonly status: number
  readonly headers: HeaderMap
  /** The body as text. */
  readonly body: string
}

/**
 * A failure inside a stream of server-sent events.
 *
 * @category models
 * @since 0.1.0
 */
export interface SseFailure extends Context {
  /** HTTP status of the response that carries the stream. */
  readonly status?: number | undefined
  readonly headers?: HeaderMap | undefined
  /** Name of the event. */
  readonly event?: string | undefined
  /** The frame, or its data alone. */
  readonly body: string
  /** Whether content had arrived before. */
  readonly contentSeen?: boolean | undefined
}

const requestIdHeaders: ReadonlyArray<string> = [
  "x-request-id",
  "request-id",
  "apim-request-id",
  "x-amzn-requestid",
  "x-amz-request-id",
  "mistral-correlation-id",
  "x-kong-request-id",
  "x-ds-trace-id",
  "x-ms-request-id",
  "x-goog-request-id",
  "x-generation-id",
  "msh-request-id",
  "cf-ray"
]

const requestIdOf = (headers: Wait.Headers, evidence: Evidence.Evidence): string | undefined => {
  for (const name of requestIdHeaders) {
    const value = headers[name]
    if (value !== undefined && value !== "") return value
  }
  return evidence.requestId
}

const shouldRetryOf = (headers: Wait.Headers): boolean | undefined => {
  const value = headers["x-should-retry"]
  return value === "true" ? true : value === "false" ? false : undefined
}

// Azure's reset headers are bare numbers of which nobody says what they count.
const hasBareResets = (provider: string): boolean => !provider.toLowerCase().includes("azure")

const waitOf = (
  provider: string,
  headers: Wait.Headers,
  failed: boolean,
  status: number,
  evidence: Evidence.Evidence,
  text: string,
  receivedAt: number | undefined
): number | undefined => {
  const stated = failed ? Wait.explicitWait(headers, receivedAt) : undefined
  if (stated !== undefined) return stated
  const time = Wait.responseTime(headers, receivedAt)
  const bareNumbers = hasBareResets(provider)
  return (evidence.headers === undefined ? undefined : Wait.explicitWait(evidence.headers, time))
    ?? evidence.waitMs
    ?? Wait.textWait(text, time)
    ?? (status === 429 && failed ? Wait.resetWait(headers, receivedAt, { bareNumbers }) : undefined)
    ?? (status === 429 && evidence.headers !== undefined
      ? Wait.resetWait(evidence.headers, time, { bareNumbers })
      : undefined)
}

// Words of a gateway or a client about somebody else's failure.
const aboutOthers =
  /^(?:provider returned error|fetch failed|connection error\.?|terminated|error|bad request|an error occurred(?: in effect\.\w+)?)$/i

const detailOf = (
  texts: ReadonlyArray<string>,
  secrets: ReadonlyArray<Redacted.Redacted<string>>
): string | undefined => {
  const own = texts.find((text) => !aboutOthers.test(text)) ?? texts[0]
  return own === undefined ? undefined : detail(own, secrets)
}

interface Finding {
  readonly context: Context
  readonly status: number | undefined
  readonly headers: Wait.Headers
  readonly symptoms: Symptoms
  /** Whether the response failed as a whole, so that its headers speak of the failure. */
  readonly failed: boolean
  readonly contentSeen: boolean
  readonly cause?: unknown
}

const conclude = (finding: Finding): LLMError => {
  const { context, headers, symptoms } = finding
  const { evidence } = symptoms
  const verdict = diagnose(symptoms)
  const wait = waitOf(
    context.provider,
    headers,
    finding.failed,
    verdict.status,
    evidence,
    verdict.text,
    context.receivedAt
  )
  const secrets = context.secrets ?? []
  const requestId = requestIdOf(headers, evidence)
  const fields: Fields = {
    provider: context.provider,
    model: context.model,
    target: context.target,
    reason: verdict.reason,
    scope: verdict.scope,
    status: finding.status ?? (verdict.status === 0 ? undefined : verdict.status),
    requestId: requestId === undefined ? undefined : scrub(requestId.slice(0, 200), context.secrets ?? []),
    retryAfter: wait === undefined ? undefined : Duration.millis(Wait.roundUp(wait)),
    shouldRetry: finding.failed ? shouldRetryOf(headers) : undefined,
    maybeBilled: finding.contentSeen || maybeBilled(verdict, symptoms.links, context.sent),
    detail: detailOf(evidence.texts, secrets),
    ...(finding.cause === undefined ? undefined : { cause: finding.cause })
  }
  return withoutStack(() => make(verdict.errorClass, fields))
}

const isFailure = (status: number): boolean => status >= 400 && status <= 599

const addErrorType = (evidence: Evidence.Evidence, headers: Wait.Headers): void => {
  const type = headers["x-amzn-errortype"]
  if (type !== undefined) Evidence.collect(evidence, { __type: type })
}

/**
 * Returns the error for a response.
 *
 * **When to use**
 *
 * Use for every response with an error status, and for one with status 200 whose body is an error or no answer at all.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromHttp = (failure: HttpFailure): LLMError => {
  const headers = Wait.lowerCased(failure.headers)
  const evidence = Evidence.empty()
  addErrorType(evidence, headers)
  Evidence.collect(evidence, failure.body)
  const failed = isFailure(failure.status)
  const succeeded = failure.status >= 200 && failure.status < 300
  const silent = failure.body.trim() === "" ? "empty_response" : "invalid_response"
  // Whoever sends us elsewhere is not the provider that we took it for; the request is as good as before.
  const redirected = failure.status >= 300 && failure.status < 400
  const otherwise: Reason = succeeded ? silent : redirected ? "invalid_response" : "unknown"
  return conclude({
    context: failure,
    status: failure.status > 0 ? failure.status : undefined,
    headers,
    failed,
    contentSeen: false,
    symptoms: { provider: failure.provider, status: failed ? failure.status : 0, evidence, links: [], otherwise }
  })
}

/**
 * Returns the error for a failure that arrived inside a stream.
 *
 * **Details**
 *
 * The status of a stream is 200 whatever happens in it, so its headers state no wait. With `contentSeen` the provider
 * has begun to answer and may bill.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromSse = (failure: SseFailure): LLMError => {
  const evidence = Evidence.empty()
  Evidence.collect(evidence, failure.body)
  const status = failure.status ?? 0
  const failed = isFailure(status)
  return conclude({
    context: failure,
    status: failure.status,
    headers: Wait.lowerCased(failure.headers ?? {}),
    failed,
    contentSeen: failure.contentSeen === true,
    symptoms: {
      provider: failure.provider,
      status: failed ? status : 0,
      evidence,
      links: [],
      otherwise: "internal_error"
    }
  })
}

const isKnown = Option.liftThrowable(isLLMError)
const passThrough = (error: unknown): error is LLMError => Option.getOrElse(isKnown(error), () => false)

// The wrapper of `Effect.try` has words of its own, which say nothing about what it wraps.
const unwrap = Option.liftThrowable((error: unknown) => Cause.isUnknownError(error) ? error.cause : error)

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const at = (value: unknown, key: string): unknown => isRecord(value) ? value[key] : undefined

const statusKeys = ["status", "statusCode", "status_code", "httpStatusCode"]
const responsePaths = ["response", "$metadata", "http", "reason", "lastError", "cause", "error"]

const statusOf = (plain: unknown, depth: number): number => {
  if (!isRecord(plain)) return 0
  for (const key of statusKeys) {
    const status = at(plain, key)
    if (typeof status === "number" && isFailure(status)) return status
  }
  if (depth > 4) return 0
  for (const key of responsePaths) {
    const status = statusOf(at(plain, key), depth + 1)
    if (status !== 0) return status
  }
  const attempts = at(plain, "errors")
  return Array.isArray(attempts) ? statusOf(attempts.at(-1), depth + 1) : 0
}

const describeCause = (
  links: ReadonlyArray<Evidence.Link>,
  secrets: ReadonlyArray<Redacted.Redacted<string>>
): unknown => {
  // What Effect.tryPromise wraps around an error is not its name.
  const outer = links.find((link) => !aboutOthers.test(link.message)) ?? links[0]
  if (outer === undefined) return undefined
  const inner = links.findLast((link) => link.code !== "") ?? outer
  const messages = new Set(links.slice(0, 5).map((link) => detail(link.message, secrets)))
  messages.delete(undefined)
  return {
    name: detail(outer.name || outer.constructorName, secrets, 80) ?? "Error",
    ...(inner.code === "" ? undefined : { code: detail(inner.code, secrets, 80) }),
    message: Array.from(messages).join(": ")
  }
}

const wrap = (error: unknown): unknown => typeof error === "string" ? { message: error } : error

/**
 * Returns the error for a thrown value.
 *
 * **Details**
 *
 * Knows the errors of Node, undici, axios, got and node-fetch, of the vendors' client libraries, of the AI SDK, and
 * Effect's `HttpClientError` and `AiError`. One of the seven errors passes through unchanged. The thrown value itself
 * is not kept, as it may hold headers: `cause` has its name, code and text.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromUnknown = (thrown: unknown, context: Context): LLMError => {
  const error = Option.getOrElse(unwrap(thrown), () => thrown)
  if (passThrough(error)) return error
  const plain = wrap(Evidence.snapshot(error))
  const links = Evidence.chain(plain)
  const evidence = Evidence.empty()
  Evidence.collect(evidence, plain)
  const status = statusOf(plain, 0)
  const headers = evidence.headers ?? {}
  addErrorType(evidence, headers)
  evidence.headers = undefined
  return conclude({
    context,
    status: status === 0 ? undefined : status,
    headers,
    failed: status !== 0,
    contentSeen: false,
    cause: describeCause(links, context.secrets ?? []),
    symptoms: { provider: context.provider, status, evidence, links, otherwise: "unknown" }
  })
}

/**
 * Returns the error for a stream that ended before its terminal event.
 *
 * @category constructors
 * @since 0.1.0
 */
export const streamTruncated = (
  context: Context & { readonly requestId?: string | undefined; readonly status?: number | undefined }
): LLMError =>
  make("transient_network", {
    provider: context.provider,
    model: context.model,
    target: context.target,
    reason: "stream_truncated",
    scope: "provider",
    status: context.status,
    requestId: context.requestId,
    maybeBilled: true,
    detail: "the stream ended before its terminal event"
  })

/**
 * Returns the wait in milliseconds that the headers of a failed response state.
 *
 * **Details**
 *
 * `retry-after-ms` comes before `retry-after`, and both before the reset headers, which count only on a 429 and only
 * for limits of which nothing remains. `now` is the local time in epoch milliseconds; the response's own `Date` takes
 * precedence. The result may have a fraction; 0 states that there is no wait.
 *
 * @category accessors
 * @since 0.1.0
 */
export const retryAfterMs = (
  response: { readonly status: number; readonly headers: HeaderMap; readonly provider?: string | undefined },
  now?: number
): number | undefined => {
  if (!isFailure(response.status)) return undefined
  const headers = Wait.lowerCased(response.headers)
  const explicit = Wait.explicitWait(headers, now)
  if (explicit !== undefined || response.status !== 429) return explicit
  return Wait.resetWait(headers, now, { bareNumbers: hasBareResets(response.provider ?? "") })
}

/**
 * Returns whether a status is worth another attempt, unless the response's `x-should-retry` says otherwise.
 *
 * @category guards
 * @since 0.1.0
 */
export const isRetryableStatus = (status: number, shouldRetry?: string | boolean | undefined): boolean => {
  const stated = typeof shouldRetry === "boolean" ? String(shouldRetry) : shouldRetry
  if (stated === "true" || stated === "false") return stated === "true"
  return status === 408 || status === 409 || status === 429 || status >= 500
}
