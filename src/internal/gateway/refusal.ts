/**
 * What a client is told when it gets no answer, in the words of no vendor.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import { type Attempt, type LLMError, update } from "../../LLMError.ts"

export interface Refusal {
  readonly status: number
  /** Why, as a code: an `LLMError`'s reason, or one of ours. */
  readonly code: string
  readonly message: string
  /** Field of the request that is wrong. */
  readonly param: string | undefined
  /** Milliseconds after which another try may succeed. */
  readonly retryAfterMs: number | undefined
  /** Whether the client is told not to try again: all that can be tried has been tried. */
  readonly isFinal: boolean
  readonly target: string | undefined
  readonly attempts: ReadonlyArray<Attempt>
}

const refusal = (
  status: number,
  code: string,
  message: string,
  options: Partial<Omit<Refusal, "status" | "code" | "message">> = {}
): Refusal => ({
  status,
  code,
  message,
  param: undefined,
  retryAfterMs: undefined,
  isFinal: true,
  target: undefined,
  attempts: [],
  ...options
})

export const invalid = (message: string, param?: string): Refusal => refusal(400, "invalid_request", message, { param })

export const unreadable: Refusal = invalid("the body could not be read")

export const unauthorized = (isMissing: boolean): Refusal =>
  refusal(
    401,
    "invalid_api_key",
    isMissing
      ? "this gateway needs a key: send it as a bearer token or as x-api-key"
      : "the key is not one of this gateway's"
  )

export const unknownModel = (model: string): Refusal =>
  refusal(404, "model_not_found", `the model ${JSON.stringify(model)} does not exist here, or the key may not use it`, {
    param: "model"
  })

export const unknownRoute = (method: string, url: string): Refusal =>
  refusal(
    404,
    "unknown_url",
    `there is no ${method} ${url.split("?")[0]} here${/^\/(?:openai\/)?v1\//.test(url) ? "" : ": paths begin with /v1"}`
  )

export const tooLarge = (limit: number): Refusal =>
  refusal(413, "payload_too_large", `the request body is larger than ${limit} bytes`)

export const encoded = (encoding: string): Refusal =>
  refusal(
    415,
    "unsupported_media_type",
    `the request body must be sent as it is, not with content-encoding ${encoding}`
  )

export const tooSlow = (millis: number): Refusal =>
  refusal(408, "request_timeout", `the request body did not arrive within ${millis} ms`, { isFinal: false })

/** The call may be made again at once, elsewhere or after the restart. */
export const draining = (retryAfterMs: number): Refusal =>
  refusal(503, "shutting_down", "the gateway is shutting down and takes no new calls", { retryAfterMs, isFinal: false })

export const defect: Refusal = refusal(500, "internal_error", "the gateway failed while it handled the call")

/** What becomes of a call's error: the status that fits what happened, whatever a provider called it. */
export const ofError = (error: LLMError): Refusal => {
  const isOurs = isOfOurAccount(error)
  return refusal(
    isOurs ? 502 : statusOf(error),
    isOurs ? "upstream_authentication" : error.reason,
    isOurs ? `${messageOf(error)}: the gateway's own credentials, not the client's` : messageOf(error),
    { retryAfterMs: waitOf(error), target: error.target, attempts: error.attempts }
  )
}

// A client that is told of a wrong key looks for it in its own settings, and would not find it there. An account without
// credit is a limit like any other: the clients of OpenAI know it as a 429.
const isOfOurAccount = ({ errorClass, reason }: LLMError): boolean =>
  errorClass === "authentication" && !spent.has(reason)

const spent: ReadonlySet<string> = new Set(["insufficient_quota", "billing_disabled"])

/**
 * What a client may read of an error: the words of a provider, unless they are about our account; never those of our
 * runtime, which name the addresses of our network. The log has both.
 */
const messageOf = (error: LLMError): string =>
  error.origin === "router" && error.detail !== undefined
    ? error.detail.replace(/^request\./, "")
    : error.cause !== undefined || isOfOurAccount(error)
    ? update(error, { detail: undefined }).message
    : error.message

const waitOf = ({ exhaustion, retryAfter }: LLMError): number | undefined => {
  const millis = retryAfter === undefined ? exhaustion?.earliestMs : Duration.toMillis(retryAfter)
  return millis === undefined || !Number.isFinite(millis) ? undefined : millis
}

const statusOf = (error: LLMError): number => {
  // A target that is not asked at present is not there, whatever it failed with before.
  if (error.origin === "circuit") return 503
  switch (error.errorClass) {
    case "rate_limit":
    case "authentication":
      return 429
    case "timeout":
      return 504
    case "transient_network":
      return 502
    case "server_error":
      return serverStatus(error)
    case "permanent":
      return permanentStatus(error)
    case "unknown":
      return error.status !== undefined && error.status >= 400 ? error.status : 502
  }
}

const serverStatus = ({ reason, status }: LLMError): number => {
  if (reason === "overloaded" || reason === "capacity") return 503
  if (reason === "gateway_timeout") return 504
  // 52x are the codes of an edge for an origin that does not answer, and nothing that clients know.
  if (status === 500 || status === 501 || status === 502 || status === 503 || status === 504) return status
  return reason === "internal_error" ? 500 : 502
}

const permanentStatus = ({ reason, status }: LLMError): number => {
  switch (reason) {
    case "context_length_exceeded":
    case "content_filter":
    case "unsupported_parameter":
    case "tool_use_failed":
      return 400
    case "model_not_found":
      return 404
    case "payload_too_large":
      return 413
    default:
      return status !== undefined && status >= 400 && status < 500
        ? status
        : reason === "request_exceeds_limit"
        ? 413
        : 400
  }
}
