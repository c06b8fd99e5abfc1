/**
 * What vendors say when they refuse: error envelopes, texts and rate-limit headers.
 *
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"
import type { Dimension, Reading, Refusal } from "./quota.ts"

/**
 * Wire formats the server speaks.
 *
 * @category models
 * @since 0.1.0
 */
export type Format = "openai" | "azure" | "anthropic"

/**
 * Vendors of the OpenAI format, which differ in error envelopes, headers and where they put the usage of a stream.
 *
 * @category models
 * @since 0.1.0
 */
export type Flavour = "openai" | "groq" | "mistral" | "deepseek" | "xai" | "moonshot"

/** @internal */
export type Vendor = Flavour | "azure" | "anthropic"

/** @internal */
export type Headers = Readonly<Record<string, string>>

/** @internal */
export interface Failure {
  readonly status: number
  readonly message: string
  readonly type: string
  readonly code: string | null
  readonly param?: string | undefined
}

/** @internal */
export interface Answered {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

/**
 * Formats whole milliseconds as Go does: `7m12s`, `8.64s`, `120ms`, `0s`.
 *
 * @internal
 */
export const goDuration = (millis: number): string => {
  if (millis === 0) return "0s"
  if (millis < 1000) return `${millis}ms`
  const hours = Math.floor(millis / 3_600_000)
  const minutes = Math.floor(millis % 3_600_000 / 60_000)
  const seconds = `${millis % 60_000 / 1000}s`
  if (hours > 0) return `${hours}h${minutes}m${seconds}`
  return minutes > 0 ? `${minutes}m${seconds}` : seconds
}

/** @internal */
export const requestIdHeader = (vendor: Vendor): string => {
  switch (vendor) {
    case "anthropic":
      return "request-id"
    case "azure":
      return "apim-request-id"
    case "mistral":
      return "mistral-correlation-id"
    case "deepseek":
      return "x-ds-trace-id"
    default:
      return "x-request-id"
  }
}

const seconds = (millis: number): number => Math.ceil(millis / 1000)

const organization = "org-breakwater"

// ---------------------------------------------------------------------------
// envelopes
// ---------------------------------------------------------------------------

const envelope = (vendor: Vendor, failure: Failure, requestId: string): unknown => {
  const { code, message, param = null, type } = failure
  switch (vendor) {
    case "openai":
      return { error: { message, type, param, code } }
    case "deepseek":
      return { error: { message, type, param, code: "invalid_request_error" } }
    case "groq":
      return { error: code === null ? { message, type } : { message, type, code } }
    case "moonshot":
      return { error: { message, type } }
    case "xai":
      return { code: type, error: message }
    case "azure":
      return { error: { code: code ?? String(failure.status), message } }
    case "mistral":
      return { object: "error", message, type, param, code, raw_status_code: failure.status }
    case "anthropic":
      return { type: "error", error: { type, message }, request_id: requestId }
  }
}

/**
 * Returns the body of a failure inside a stream that has begun with 200.
 *
 * @internal
 */
export const eventBody = (vendor: Vendor, failure: Failure, requestId: string): string =>
  JSON.stringify(
    vendor === "anthropic"
      ? {
        type: "error",
        error: { details: null, type: failure.type, message: failure.message },
        request_id: requestId
      }
      : envelope(vendor, failure, requestId)
  )

/** @internal */
export const answer = (vendor: Vendor, failure: Failure, requestId: string, headers: Headers): Answered => ({
  status: failure.status,
  headers: {
    // DeepSeek labels its errors as binary; a client must not ask for a JSON type before it parses.
    "content-type": vendor === "deepseek" ? "application/octet-stream" : "application/json",
    ...(vendor === "anthropic" ? { "x-should-retry": String(failure.status === 429 || failure.status >= 500) } : {}),
    ...headers
  },
  // Mistral's gateway answers an unknown key without a word.
  body: vendor === "mistral" && failure.status === 401 ? "" : JSON.stringify(envelope(vendor, failure, requestId))
})

// ---------------------------------------------------------------------------
// failures by status
// ---------------------------------------------------------------------------

type Words = readonly [type: string, code: string | null, message: string]

const keyHelp = "You can find your API key at https://platform.openai.com/account/api-keys."

const openai: Readonly<Record<number, Words>> = {
  400: ["invalid_request_error", "invalid_value", "The request is invalid."],
  401: ["invalid_request_error", "invalid_api_key", `Incorrect API key provided: sk-****. ${keyHelp}`],
  402: ["insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan."],
  403: ["request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"],
  404: ["invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."],
  429: ["requests", "rate_limit_exceeded", `Rate limit reached in organization ${organization}.`],
  500: ["server_error", null, "The server had an error while processing your request. Sorry about that!"],
  503: ["server_error", null, "The server is currently overloaded with other requests. Sorry about that!"]
}

const words: Readonly<Record<Vendor, Readonly<Record<number, Words>>>> = {
  openai,
  groq: {
    ...openai,
    401: ["invalid_request_error", "invalid_api_key", "Invalid API Key"],
    498: ["server_error", "capacity_exceeded", "Flex tier capacity exceeded, please try again later."],
    500: ["internal_server_error", null, "Internal Server Error"],
    503: ["service_unavailable", null, "Service Unavailable"]
  },
  mistral: {
    400: ["invalid_request_error", "1000", "Invalid request."],
    403: ["forbidden", "1200", "Forbidden"],
    404: ["invalid_model", "1500", "Invalid model."],
    429: ["rate_limited", "1300", "Rate limit exceeded"],
    500: ["internal_server_error", "1000", "Service unavailable."],
    503: ["service_tier_capacity_exceeded", "3505", "Service tier capacity exceeded for this model."]
  },
  deepseek: {
    400: ["invalid_request_error", null, "Model Not Exist"],
    401: ["authentication_error", null, "Authentication Fails, Your api key: **** is invalid"],
    402: ["unknown_error", null, "Insufficient Balance"],
    429: ["rate_limit_error", null, "Rate limit reached, please pace your requests."],
    500: ["internal_error", null, "Internal Server Error"],
    503: ["service_unavailable_error", null, "Service is too busy. Please retry later."]
  },
  xai: {
    400: ["Client specified an invalid argument", null, "Incorrect API key provided: xa****."],
    401: ["Unauthenticated", null, "Invalid or missing credentials."],
    403: ["The caller does not have permission", null, "Your team is not allowed to use this model."],
    404: ["Some requested entity was not found", null, "The model does not exist or your team cannot access it."],
    429: ["resource-exhausted", null, "Too many requests for team breakwater."],
    503: ["The service is currently unavailable", null, "Service temporarily unavailable."]
  },
  moonshot: {
    400: ["invalid_request_error", null, "Invalid request"],
    401: ["invalid_authentication_error", null, "Invalid Authentication"],
    403: [
      "exceeded_current_quota_error",
      null,
      `Your account is not active, organization <${organization}> exceeded current quota, please check your plan`
    ],
    404: ["resource_not_found_error", null, "Not found the model or Permission denied"],
    429: ["rate_limit_reached_error", null, "Organization Rate limit exceeded"],
    500: ["server_error", null, "Internal server error"],
    503: ["engine_overloaded_error", null, "The engine is currently overloaded, please try again later"]
  },
  azure: {
    400: ["invalid_request_error", "BadRequest", "The request is invalid."],
    401: [
      "invalid_request_error",
      "401",
      "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an " +
      "active subscription and use a correct regional API endpoint for your resource."
    ],
    403: ["forbidden", "403", "Access denied due to Virtual Network/Firewall rules."],
    404: ["not_found", "DeploymentNotFound", "The API deployment for this resource does not exist."],
    429: ["too_many_requests", "429", "Rate limit is exceeded."],
    500: ["server_error", "InternalServerError", "The server had an error while processing your request."],
    503: ["server_error", "ServiceUnavailable", "The service is temporarily unable to process your request."]
  },
  anthropic: {
    400: ["invalid_request_error", null, "The request is invalid."],
    401: ["authentication_error", null, "invalid x-api-key"],
    402: ["billing_error", null, "Your credit balance is too low to access the Anthropic API."],
    403: ["permission_error", null, "Your API key does not have permission to use the specified resource."],
    404: ["not_found_error", null, "Not found"],
    413: ["request_too_large", null, "Request exceeds the maximum size"],
    429: ["rate_limit_error", null, "This request would exceed your account's rate limit. Please try again later."],
    500: ["api_error", null, "Internal server error"],
    504: ["timeout_error", null, "The request timed out while processing."],
    529: ["overloaded_error", null, "Overloaded"]
  }
}

/**
 * Returns what a vendor says with a status; a stated wait is put into the text where the vendor does so.
 *
 * @internal
 */
export const ofStatus = (vendor: Vendor, status: number, wait: number | undefined): Failure => {
  const [type, code, message] = words[vendor][status] ??
    (status >= 500 ? words[vendor][500] : words[vendor][400]) ??
    ["error", null, `HTTP ${status}`]
  // A code that repeats the status of another entry would contradict the status line.
  return {
    status,
    type,
    code: vendor === "azure" && words.azure[status] === undefined ? null : code,
    message: wait === undefined ? message : `${message.replace(/\.$/, "")}.${stated(vendor, wait)}`
  }
}

const stated = (vendor: Vendor, wait: number): string => {
  switch (vendor) {
    case "openai":
    case "groq":
      return ` Please try again in ${goDuration(wait)}.`
    case "azure":
      return ` Please retry after ${plural(seconds(wait), "second")}.`
    case "moonshot":
      return ` Please try again after ${seconds(wait)} seconds.`
    default:
      return ""
  }
}

const plural = (count: number, unit: string): string => count === 1 ? `1 ${unit}` : `${count} ${unit}s`

/** @internal */
export const badKey = (vendor: Vendor): Failure => ofStatus(vendor, vendor === "xai" ? 400 : 401, undefined)

/** @internal */
export const unknownModel = (vendor: Vendor, model: string): Failure => {
  const failure = ofStatus(vendor, vendor === "deepseek" || vendor === "mistral" ? 400 : 404, undefined)
  switch (vendor) {
    case "openai":
    case "groq":
      return { ...failure, message: `The model \`${model}\` does not exist or you do not have access to it.` }
    case "mistral":
      return { ...failure, type: "invalid_model", code: "1500", message: `Invalid model: ${model}` }
    case "xai":
      return { ...failure, message: `The model ${model} does not exist or your team does not have access to it.` }
    case "moonshot":
      return { ...failure, message: `Not found the model ${model} or Permission denied` }
    case "anthropic":
      return { ...failure, message: `model: ${model}` }
    case "azure":
    case "deepseek":
      return failure
  }
}

/** @internal */
export const invalidRequest = (vendor: Vendor, message: string, param: string | undefined): Failure => ({
  ...ofStatus(vendor, 400, undefined),
  ...(vendor === "openai" ? { code: null } : {}),
  ...(vendor === "xai" ? { type: "Client specified an invalid argument" } : {}),
  message,
  param
})

/** @internal */
export const unknownUrl = (vendor: Vendor, method: string, path: string): Failure => ({
  status: 404,
  type: vendor === "anthropic" ? "not_found_error" : "invalid_request_error",
  code: vendor === "azure" ? "404" : vendor === "openai" || vendor === "groq" ? "unknown_url" : null,
  message: vendor === "azure" ? "Resource not found" : `Unknown request URL: ${method} ${path}`
})

// ---------------------------------------------------------------------------
// refusals by quota
// ---------------------------------------------------------------------------

const minuteMillis = 60_000
const dayMillis = 86_400_000

const window = (per: number): readonly [short: string, long: string] => {
  switch (per) {
    case 1000:
      return ["S", "second"]
    case 60_000:
      return ["M", "minute"]
    case 3_600_000:
      return ["H", "hour"]
    case dayMillis:
      return ["D", "day"]
    default:
      return [`/${goDuration(per)}`, `${per % 1000 === 0 ? per / 1000 : goDuration(per)}-second`]
  }
}

const unit = (dimension: Dimension | "concurrency"): string => {
  switch (dimension) {
    case "requests":
      return "requests"
    case "tokens":
      return "tokens"
    case "inputTokens":
      return "input tokens"
    case "outputTokens":
      return "output tokens"
    case "concurrency":
      return "concurrent requests"
  }
}

/**
 * Returns what a vendor says when a quota refuses a request.
 *
 * @internal
 */
export const refused = (vendor: Vendor, model: string, refusal: Refusal): Failure => {
  const base = ofStatus(vendor, 429, undefined)
  const { dimension, limit, requested, tooLarge, used } = refusal
  const [short, long] = window(refusal.per)
  const name = `${dimension === "requests" ? "R" : "T"}P${short}`
  const wait = refusal.wait ?? 0
  const numbers = `Limit ${limit}, ${tooLarge ? "" : `Used ${used}, `}Requested ${requested}`
  const type = dimension === "requests" ? "requests" : "tokens"
  switch (vendor) {
    case "openai":
      if (dimension === "concurrency") {
        return { ...base, message: `Rate limit reached for ${model} on concurrent requests: Limit ${limit}.` }
      }
      return {
        ...base,
        type,
        message: tooLarge
          ? `Request too large for ${model} in organization ${organization} on ${
            unit(dimension)
          } per ${long} (${name}): ` +
            `${numbers}. The input or output tokens must be reduced in order to run successfully.`
          : `Rate limit reached for ${model} in organization ${organization} on ${
            unit(dimension)
          } per ${long} (${name}): ` +
            `${numbers}.${stated(vendor, wait)} Visit https://platform.openai.com/account/rate-limits to learn more.`
      }
    case "groq":
      if (dimension === "concurrency") {
        return { ...base, message: `Too many concurrent requests for model \`${model}\`` }
      }
      return {
        ...base,
        status: tooLarge ? 413 : 429,
        type,
        message: `${tooLarge ? "Request too large" : "Rate limit reached"} for model \`${model}\` in organization ` +
          `\`${organization}\` service tier \`on_demand\` on ${unit(dimension)} per ${long} (${name}): ${numbers}` +
          (tooLarge ? ", please reduce your message size and try again." : `.${stated(vendor, wait)}`)
      }
    case "azure":
      return {
        ...base,
        message: `Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have ` +
          `exceeded ${dimension === "requests" || dimension === "concurrency" ? "call" : "token"} rate limit of your ` +
          // A day is what Azure asks for when the request is larger than the deployment.
          `current OpenAI S0 pricing tier.${
            stated(vendor, tooLarge ? dayMillis : Math.max(wait, 1))
          } Please go here: ` +
          "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
      }
    case "xai":
      return {
        ...base,
        message: `Too many requests for team breakwater and model ${model}. Your team's rate limit is - ` +
          `${dimension === "requests" ? "Requests" : "Tokens"} per ${long} (actual/limit): ${
            used + requested
          }/${limit}.`
      }
    case "moonshot": {
      const what = dimension === "concurrency" ? `concurrency: ${limit}` : `${name}: ${limit}`
      return {
        ...base,
        message: tooLarge
          ? `Your account ${organization} request exceeds max organization ${what}, requested: ${requested}`
          : `Your account ${organization} request reached max organization ${what}, ` +
            `please try again after ${Math.max(1, seconds(wait))} seconds`
      }
    }
    case "anthropic":
      return {
        ...base,
        message: dimension === "concurrency"
          ? "Number of concurrent connections has exceeded your rate limit. Please try again later."
          : `This request would exceed the rate limit for your organization (${organization}) of ` +
            `${limit.toLocaleString("en-US")} ${unit(dimension)} per ${long}. For details, refer to: ` +
            "https://docs.anthropic.com/en/api/rate-limits. Please reduce the prompt length or the maximum tokens " +
            "requested, or try again later."
      }
    case "mistral":
    case "deepseek":
      return base
  }
}

/**
 * Returns the headers that state a wait. What a quota found out is only said by vendors that say such things;
 * `scripted` says it always.
 *
 * @internal
 */
export const waitHeaders = (vendor: Vendor, wait: number | undefined, scripted: boolean): Headers => {
  if (wait === undefined) return {}
  switch (vendor) {
    case "openai":
    case "azure":
      return { "retry-after": String(seconds(wait)), "retry-after-ms": String(wait) }
    case "groq":
    case "xai":
    case "anthropic":
      return { "retry-after": String(seconds(wait)) }
    case "mistral":
    case "deepseek":
    case "moonshot":
      return scripted ? { "retry-after": String(seconds(wait)) } : {}
  }
}

/** Whether a vendor has a header for a quota: some count one window only, whatever else they limit. */
const isStated = (vendor: Vendor, { dimension, per }: Reading): boolean => {
  switch (vendor) {
    case "anthropic":
      return true
    case "groq":
      return dimension === "requests" ? per === dayMillis : dimension === "tokens" && per === minuteMillis
    case "xai":
      return dimension === "requests" || (dimension === "tokens" && per === minuteMillis)
    case "deepseek":
    case "moonshot":
      return false
    default:
      return dimension === "requests" || dimension === "tokens"
  }
}

/**
 * Returns the headers that show how full the buckets are.
 *
 * @internal
 */
export const quotaHeaders = (vendor: Vendor, readings: ReadonlyArray<Reading>, now: number): Headers => {
  const headers: Record<string, string> = {}
  for (const reading of readings) {
    if (!isStated(vendor, reading)) continue
    const { dimension } = reading
    const limit = String(reading.limit)
    const remaining = String(reading.remaining)
    if (vendor === "anthropic") {
      const name = `anthropic-ratelimit-${unit(dimension).replace(" ", "-")}`
      headers[`${name}-limit`] = limit
      headers[`${name}-remaining`] = remaining
      headers[`${name}-reset`] = rfc3339(now + reading.reset)
    } else {
      const suffix = vendor === "mistral"
        ? `${dimension === "requests" ? "req" : "tokens"}-${window(reading.per)[1]}`
        : dimension
      headers[`x-ratelimit-limit-${suffix}`] = limit
      headers[`x-ratelimit-remaining-${suffix}`] = remaining
      if (vendor === "openai" || vendor === "groq") {
        headers[`x-ratelimit-reset-${suffix}`] = goDuration(reading.reset)
      } else if (vendor === "azure") {
        headers[`x-ratelimit-reset-${suffix}`] = String(seconds(reading.reset))
        headers[`x-ratelimit-renewalperiod-${suffix}`] = String(seconds(reading.per))
      }
    }
  }
  return headers
}

// Rounded up to the second, so that the bucket is full at the time stated.
const rfc3339 = (millis: number): string =>
  `${DateTime.formatIso(DateTime.makeUnsafe(seconds(millis) * 1000)).slice(0, 19)}Z`

/** @internal */
export const httpDate = (millis: number): string => DateTime.toDateUtc(DateTime.makeUnsafe(millis)).toUTCString()
