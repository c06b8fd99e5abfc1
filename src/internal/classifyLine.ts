/**
 * One line of the `classify` command: a failure as JSON in, its classification or a problem out.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Classifier from "../Classifier.ts"
import type { ErrorClass, LLMError } from "../LLMError.ts"
import { scrub } from "./redact.ts"
import { parseDate } from "./retryAfter.ts"

/** @internal */
export interface Classified {
  readonly id: string | null
  readonly class: string
  readonly reason: string
  readonly scope: string
  readonly retryAfterMs: number | null
  readonly isRetryable: boolean
  readonly maybeBilled: boolean
}

const headerValue = Schema.Union([
  Schema.String,
  Schema.Number,
  Schema.Boolean,
  Schema.Null,
  Schema.Array(Schema.String)
])

const Line = Schema.Struct({
  id: Schema.optional(Schema.NullOr(Schema.Union([Schema.String, Schema.Number]))),
  provider: Schema.NonEmptyString,
  kind: Schema.Literals(["http", "network", "sse"]),
  status: Schema.optional(Schema.NullOr(Schema.Number)),
  headers: Schema.optional(Schema.NullOr(Schema.Record(Schema.String, headerValue))),
  body: Schema.optional(Schema.NullOr(Schema.String)),
  nodeError: Schema.optional(Schema.Unknown),
  receivedAt: Schema.optional(Schema.NullOr(Schema.Union([Schema.String, Schema.Number])))
})

const expectations: Readonly<Record<string, string>> = {
  id: "a string or a number",
  provider: "a provider name",
  kind: "\"http\", \"network\" or \"sse\"",
  status: "a number",
  headers: "an object of header values",
  body: "a string",
  receivedAt: "an ISO date or epoch milliseconds"
}

const classNames: Readonly<Record<ErrorClass, string>> = {
  transient_network: "TransientNetwork",
  rate_limit: "RateLimit",
  timeout: "Timeout",
  server_error: "ServerError",
  authentication: "Authentication",
  permanent: "Permanent",
  unknown: "Unknown"
}

const parse = Option.liftThrowable((text: string): unknown => JSON.parse(text))
const decode = Schema.decodeUnknownResult(Line)
const standard = SchemaIssue.makeFormatterStandardSchemaV1()

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const show = (value: unknown): string => {
  if (value === undefined) return "nothing"
  const text = scrub(JSON.stringify(value), [])
  return text.length > 60 ? `${text.slice(0, 59)}…` : text
}

const problem = (line: number, field: string, value: unknown): string =>
  `line ${line}: ${field} must be ${expectations[field] ?? "valid"}, got ${show(value)}`

const receivedAtOf = (value: string | number | null | undefined): number | undefined => {
  if (typeof value === "number") return Number.isFinite(value) ? value : undefined
  return typeof value === "string" ? parseDate(value) : undefined
}

const headersOf = (headers: (typeof Line.Type)["headers"]): Classifier.HeaderMap => {
  const result: Record<string, string | ReadonlyArray<string>> = {}
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (value !== null) result[name] = typeof value === "object" ? value : String(value)
  }
  return result
}

const classify = (line: typeof Line.Type, receivedAt: number | undefined): LLMError => {
  const { provider } = line
  const headers = headersOf(line.headers)
  const status = line.status ?? 0
  const thrown = line.nodeError
  if (
    thrown !== undefined && thrown !== null &&
    (line.kind === "network" || line.body === null || line.body === undefined)
  ) {
    // A client library may know the status and the headers of the response that it threw for.
    const whole = isRecord(thrown) && line.headers !== undefined
      ? { ...(status === 0 ? undefined : { status }), headers, ...thrown }
      : thrown
    return Classifier.fromUnknown(whole, { provider, receivedAt })
  }
  const body = line.body ?? ""
  return line.kind === "sse"
    ? Classifier.fromSse({ provider, status, headers, body, receivedAt })
    : Classifier.fromHttp({ provider, status, headers, body, receivedAt })
}

/**
 * Returns the classification of one line of JSON, or what is wrong with it.
 *
 * @internal
 */
export const classifyLine = (text: string, lineNumber: number): Classified | string => {
  const json = parse(text)
  if (Option.isNone(json)) return `line ${lineNumber}: not valid JSON`
  const raw = json.value
  if (!isRecord(raw)) return `line ${lineNumber}: must be an object, got ${show(raw)}`
  const decoded = decode(raw)
  if (Result.isFailure(decoded)) {
    const segment = standard(decoded.failure.issue).issues[0]?.path?.[0]
    const field = String(typeof segment === "object" ? segment.key : segment ?? "line")
    return problem(lineNumber, field, raw[field])
  }
  const line = decoded.success
  const receivedAt = receivedAtOf(line.receivedAt)
  if (receivedAt === undefined && line.receivedAt !== undefined && line.receivedAt !== null) {
    return problem(lineNumber, "receivedAt", line.receivedAt)
  }
  const error = classify(line, receivedAt)
  return {
    id: line.id === undefined || line.id === null ? null : String(line.id),
    class: classNames[error.errorClass],
    reason: error.reason,
    scope: error.scope,
    retryAfterMs: error.retryAfter === undefined ? null : Duration.toMillis(error.retryAfter),
    isRetryable: error.isRetryable,
    maybeBilled: error.maybeBilled
  }
}
