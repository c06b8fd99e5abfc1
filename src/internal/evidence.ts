/**
 * What a failure says about itself, whatever it is wrapped in: codes, sentences, statuses, waits.
 *
 * @internal
 */
import * as Option from "effect/Option"
import { withoutEcho } from "./redact.ts"
import type { Headers } from "./retryAfter.ts"
import { parseDuration } from "./retryAfter.ts"

/** @internal */
export interface Evidence {
  /** Codes, types, status names and exception names, normalised, outermost first. */
  readonly codes: Array<string>
  /** The same for names that were only mentioned in a sentence. */
  readonly mentioned: Array<string>
  /** Sentences, outermost first. */
  readonly texts: Array<string>
  /** Names of the quotas that were exceeded. */
  readonly quotas: Array<string>
  /** Statuses in the body: the innermost is last. */
  readonly statuses: Array<number>
  /** Rate-limit headers that a gateway put into the body. */
  headers: Headers | undefined
  /** Wait stated as a field, in milliseconds. */
  waitMs: number | undefined
  requestId: string | undefined
  /** What a failure with a page instead of an answer says in its title. */
  html: boolean
  /** Whether any JSON was found. */
  structured: boolean
}

/** Longest text that is read. */
const maxText = 16_384
const maxDepth = 10
const maxNodes = 400

/** @internal */
export const empty = (): Evidence => ({
  codes: [],
  mentioned: [],
  texts: [],
  quotas: [],
  statuses: [],
  headers: undefined,
  waitMs: undefined,
  requestId: undefined,
  html: false,
  structured: false
})

/**
 * Returns the form in which codes are compared: lower-case letters and digits only.
 *
 * @internal
 */
export const normalise = (code: string): string => code.toLowerCase().replace(/[^a-z0-9]+/g, "")

const parseJson = Option.liftThrowable((text: string): unknown => JSON.parse(text))

const isErrorStatus = (value: number): boolean => Number.isInteger(value) && value >= 400 && value <= 599

interface Visit {
  readonly evidence: Evidence
  nodes: number
}

const pushText = (visit: Visit, text: string): void => {
  const trimmed = text.trim()
  if (trimmed !== "" && !visit.evidence.texts.includes(trimmed)) visit.evidence.texts.push(trimmed)
}

const pushCode = (visit: Visit, code: string): void => {
  // A coral name has a namespace before it, an `x-amzn-errortype` a URL after it.
  const local = code.slice(code.indexOf("#") + 1)
  const normal = normalise(local.includes(":http") ? local.slice(0, local.indexOf(":http")) : local)
  if (normal !== "") visit.evidence.codes.push(normal)
}

const fieldKinds: Readonly<Record<string, "code" | "text" | "node" | "quota" | "status" | "request">> = {
  code: "code",
  Code: "code",
  type: "code",
  Type: "code",
  __type: "code",
  _tag: "code",
  name: "code",
  constructorName: "code",
  status: "code",
  Status: "code",
  reason: "code",
  kind: "code",
  error_code: "code",
  errorCode: "code",
  error_type: "code",
  errorType: "code",
  lc_error_code: "code",
  subtype: "code",
  finish_reason: "code",
  finishReason: "code",
  stop_reason: "code",
  stopReason: "code",
  native_finish_reason: "code",
  blockReason: "code",
  block_reason: "code",
  message: "text",
  Message: "text",
  msg: "text",
  detail: "text",
  details: "text",
  description: "text",
  title: "text",
  error: "text",
  err: "text",
  Error: "text",
  error_message: "text",
  errorMessage: "text",
  error_msg: "text",
  error_description: "text",
  statusText: "text",
  status_msg: "text",
  text: "text",
  raw: "text",
  data: "text",
  body: "text",
  response: "text",
  responseBody: "text",
  failure: "text",
  errors: "node",
  innererror: "node",
  inner_error: "node",
  innerError: "node",
  metadata: "node",
  provider_error: "node",
  cause: "text",
  lastError: "node",
  x_groq: "node",
  violations: "node",
  fieldViolations: "node",
  promptFeedback: "node",
  incomplete_details: "node",
  choices: "node",
  candidates: "node",
  $metadata: "node",
  http: "node",
  base_resp: "node",
  quotaId: "quota",
  quota_limit: "quota",
  quota_id: "quota",
  statusCode: "status",
  status_code: "status",
  raw_status_code: "status",
  httpStatusCode: "status",
  http_status: "status",
  http_code: "status",
  upstream_status: "status",
  request_id: "request",
  requestId: "request",
  requestID: "request",
  RequestId: "request"
}

/** Fields that state a wait, with the milliseconds of one unit when they are numbers. */
const waitFields: Readonly<Record<string, number>> = {
  retryDelay: 1000,
  quotaResetDelay: 1000,
  retry_after_ms: 1,
  retryAfterMs: 1,
  retry_after: 1000,
  retryAfter: 1000,
  retry_after_seconds: 1000,
  retryAfterSeconds: 1000,
  resets_in_seconds: 1000
}

const waitOf = (value: unknown, scale: number): number | undefined => {
  if (typeof value === "number") return Number.isFinite(value) && value >= 0 ? value * scale : undefined
  if (typeof value !== "string") return undefined
  return /^\d{1,9}(?:\.\d{1,9})?$/.test(value) ? Number(value) * scale : parseDuration(value)
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const stringHeaders = (value: unknown): Headers | undefined => {
  if (!isRecord(value)) return undefined
  const headers: Record<string, string> = {}
  for (const [name, content] of Object.entries(value)) {
    if (typeof content === "string" || typeof content === "number") headers[name.toLowerCase()] = String(content)
    else if (Array.isArray(content)) headers[name.toLowerCase()] = content.map(String).join(", ")
  }
  return Object.keys(headers).length === 0 ? undefined : headers
}

const visitRecord = (visit: Visit, record: Readonly<Record<string, unknown>>, depth: number): void => {
  const { evidence } = visit
  for (const key of Object.keys(record)) {
    const value = record[key]
    if (value === null || value === undefined) continue
    const scale = waitFields[key]
    if (scale !== undefined) {
      // RetryInfo is the more exact of two fields that state a wait, wherever it stands.
      const wait = waitOf(value, scale)
      if (wait !== undefined && (evidence.waitMs === undefined || key === "retryDelay")) evidence.waitMs = wait
      continue
    }
    if (key === "headers" || key === "responseHeaders") {
      evidence.headers ??= stringHeaders(value)
      continue
    }
    const kind = fieldKinds[key]
    if (kind === undefined) continue
    if (typeof value === "object") {
      if (kind !== "request") visitValue(visit, value, depth + 1)
    } else if (kind === "request") {
      if (typeof value === "string") evidence.requestId ??= value
    } else if (kind === "quota") {
      evidence.quotas.push(String(value).toLowerCase())
    } else if (kind === "text") {
      if (typeof value === "string") visitText(visit, value, depth + 1)
      else if (typeof value === "number" && isErrorStatus(value)) evidence.statuses.push(value)
    } else {
      const status = Number(value)
      if (isErrorStatus(status)) evidence.statuses.push(status)
      // Some put the sentence where the code belongs.
      else if (kind === "code" && typeof value === "string" && /\s/.test(value)) pushText(visit, value)
      else if (kind === "code" && typeof value !== "boolean") pushCode(visit, String(value))
    }
  }
}

const visitValue = (visit: Visit, value: unknown, depth: number): void => {
  if (depth > maxDepth || visit.nodes > maxNodes) return
  visit.nodes++
  if (typeof value === "string") return visitText(visit, value, depth)
  if (Array.isArray(value)) return value.forEach((item) => visitValue(visit, item, depth + 1))
  if (isRecord(value)) return visitRecord(visit, value, depth)
}

const htmlStart = /^\W{0,16}<(?:!doctype|html|head|body|center|h1|title|\?xml)/i
// A client may put the status or a few words before the page; a parser that quotes a page is something else.
const htmlAfterWords = /^[^<{"']{1,160}[\s(]<(?:!doctype html|html)[\s>]/i
const htmlTitle = /<(?:title|h1|h2|code|message)[^>]{0,200}>([^<]{1,300})</gi

const visitHtml = (visit: Visit, text: string): void => {
  visit.evidence.html = true
  pushText(visit, text.slice(0, Math.max(0, text.indexOf("<"))))
  let count = 0
  for (const match of text.matchAll(htmlTitle)) {
    if (++count > 4) return
    pushText(visit, match[1] ?? "")
  }
}

const jsonPair =
  /(["'])(code|type|status|status_code|error_type|message|msg|detail|details|error|reason|request_id|retryDelay|retry_after|quotaId)\1\s{0,4}:\s{0,4}(?:"((?:[^"\\]|\\.){0,2000})"?|'((?:[^'\\]|\\.){0,2000})'?|(\d{1,6}))/g

const unescape = (text: string): string =>
  text.replace(/\\(["'\\nrt])/g, (_, character: string) => /[nrt]/.test(character) ? " " : character)

// Truncated JSON and Python's repr are no JSON, but their pairs can still be read.
const visitPairs = (visit: Visit, text: string, depth: number): boolean => {
  const record: Array<readonly [string, string | number]> = []
  for (const [, , key = "", double, single, digits] of text.matchAll(jsonPair)) {
    if (record.length > 40) break
    record.push([key, digits === undefined ? unescape(double ?? single ?? "") : Number(digits)])
  }
  for (const [key, value] of record) visitRecord(visit, { [key]: value }, depth + 1)
  return record.length > 0
}

/** The end of the JSON value that starts at `start`, or -1. */
const balancedEnd = (text: string, start: number): number => {
  let level = 0
  let quoted = false
  for (let i = start; i < text.length; i++) {
    const character = text[i]
    if (quoted) {
      if (character === "\\") i++
      else if (character === "\"") quoted = false
    } else if (character === "\"") quoted = true
    else if (character === "{" || character === "[") level++
    else if ((character === "}" || character === "]") && --level === 0) return i + 1
  }
  return -1
}

const frameLine = /^(?:data|event|id|retry):/m

const visitFrames = (visit: Visit, text: string, depth: number): boolean => {
  if (!/^\s*(?::|data:|event:|id:|retry:)/.test(text) || !frameLine.test(text)) return false
  for (const frame of text.split(/\r\n\r\n|\n\n|\r\r/)) {
    let data = ""
    for (const line of frame.split(/\r\n|\n|\r/)) {
      if (line.startsWith("data:")) data = data === "" ? line.slice(5).trim() : `${data}\n${line.slice(5).trim()}`
    }
    if (data !== "" && data !== "[DONE]") visitText(visit, data, depth + 1)
  }
  return true
}

const exceptionName = /\b[A-Z][A-Za-z]{2,60}(?:Exception|Error|Timeout)\b/g
const snakeName = /\b[a-z]{2,30}(?:_[a-z]{2,30}){1,7}\b|\b[A-Z]{3,30}_[A-Z_]{2,60}\b/g

// The hints are quick to miss.
const names = [[exceptionName, /Exception|Error|Timeout/], [snakeName, /_/]] as const

const mention = (visit: Visit, text: string): void => {
  const { mentioned } = visit.evidence
  const own = withoutEcho(text)
  for (const [pattern, hint] of names) {
    if (!hint.test(own)) continue
    for (const [name] of own.matchAll(pattern)) {
      if (mentioned.length >= 40) return
      mentioned.push(normalise(name))
    }
  }
}

const visitText = (visit: Visit, input: string, depth: number): void => {
  if (depth > maxDepth || visit.nodes > maxNodes) return
  visit.nodes++
  const text = (input.length > maxText ? input.slice(0, maxText) : input).trim()
  if (text === "") return
  const first = text.charCodeAt(text.charCodeAt(0) === 0xfeff ? 1 : 0)
  if (first === 0x7b || first === 0x5b || first === 0x22) {
    const parsed = parseJson(text)
    if (Option.isSome(parsed)) {
      if (typeof parsed.value === "object") visit.evidence.structured = true
      return visitValue(visit, parsed.value, depth + 1)
    }
  }
  if (text.includes("<") && (htmlStart.test(text) || htmlAfterWords.test(text))) return visitHtml(visit, text)
  if (visitFrames(visit, text, depth)) return
  const brace = /[{[]\s{0,40}\\?["'{[]/.exec(text)
  if (brace !== null) {
    const before = text.slice(0, brace.index)
    if (before.trim() !== "") {
      mention(visit, before)
      pushText(visit, before)
    }
    const end = balancedEnd(text, brace.index)
    const inner = end === -1 ? Option.none() : parseJson(text.slice(brace.index, end))
    if (Option.isSome(inner)) {
      visit.evidence.structured = true
      visitValue(visit, inner.value, depth + 1)
      return end < text.length && text.length - end > 3 ? pushText(visit, text.slice(end)) : undefined
    }
    const rest = text.slice(brace.index)
    if (visitPairs(visit, rest, depth)) return
    if (rest.includes("\\\"") && visitPairs(visit, rest.replaceAll("\\\"", "\""), depth)) return
  }
  mention(visit, text)
  pushText(visit, text)
}

/**
 * Adds what a body or a plain value says to the evidence.
 *
 * @internal
 */
export const collect = (evidence: Evidence, value: unknown): void => visitValue({ evidence, nodes: 0 }, value, 0)

// ---------------------------------------------------------------------------------------------------------------------
// foreign values
// ---------------------------------------------------------------------------------------------------------------------

/** Own keys that are read from instances, whose other properties may be sockets, requests or configuration. */
const instanceKeys: ReadonlyArray<string> = [
  "_tag",
  "name",
  "message",
  "code",
  "type",
  "status",
  "statusCode",
  "statusText",
  "headers",
  "responseHeaders",
  "error",
  "errors",
  "body",
  "responseBody",
  "data",
  "response",
  "cause",
  "lastError",
  "reason",
  "kind",
  "detail",
  "details",
  "description",
  "syscall",
  "event",
  "connect",
  "socket",
  "bytesWritten",
  "bytesRead",
  "metadata",
  "request_id",
  "requestId",
  "requestID",
  "$metadata",
  "httpStatusCode",
  "lc_error_code",
  "http",
  "retryAfterMs",
  "errorDetails",
  "statusMessage"
]

const readProperty = Option.liftThrowable((target: object, key: string): unknown => Reflect.get(target, key))
const ownKeys = Option.liftThrowable((target: object): ReadonlyArray<string> | undefined => {
  const prototype = Reflect.getPrototypeOf(target)
  return prototype === Object.prototype || prototype === null ? Object.keys(target) : undefined
})
const allKeys = Option.liftThrowable((target: object): ReadonlyArray<string> => Object.keys(target))
const listItems = Option.liftThrowable((target: object): ReadonlyArray<unknown> | undefined =>
  Array.isArray(target) ? target.slice(0, 20) : undefined
)
const entries = Option.liftThrowable((target: Iterable<unknown>): ReadonlyArray<unknown> => {
  const items: Array<unknown> = []
  for (const item of target) {
    if (items.push(item) >= 100) break
  }
  return items
})
const asText = Option.liftThrowable((value: unknown): string => String(value))

/** @internal */
export const read = (target: object, key: string): unknown => Option.getOrUndefined(readProperty(target, key))

const isIterable = (value: object): value is Iterable<unknown> =>
  typeof read(value, "forEach") === "function"
  && typeof read(value, "entries") === "function"

const copyHeaders = (value: object): unknown => {
  if (!isIterable(value)) return copyRecord(value, Option.getOrElse(allKeys(value), () => []), 9, new Set())
  const record: Record<string, unknown> = {}
  for (const entry of Option.getOrElse(entries(value), () => [])) {
    if (Array.isArray(entry) && typeof entry[0] === "string") record[entry[0]] = entry[1]
  }
  return record
}

const copyRecord = (target: object, keys: ReadonlyArray<string>, depth: number, seen: Set<object>): unknown => {
  const record: Record<string, unknown> = {}
  for (const key of keys.slice(0, 100)) {
    const value = read(target, key)
    const isHeaders = key === "headers" || key === "responseHeaders"
    const copied = isHeaders && typeof value === "object" && value !== null
      ? copyHeaders(value)
      : copy(value, depth + 1, seen)
    if (copied !== undefined) record[key] = copied
  }
  return record
}

const copy = (value: unknown, depth: number, seen: Set<object>): unknown => {
  switch (typeof value) {
    case "string":
      return value.slice(0, maxText)
    case "number":
    case "boolean":
      return value
    case "bigint":
      return String(value)
    case "symbol":
    case "function":
    case "undefined":
      return undefined
  }
  if (typeof value !== "object" || value === null) return undefined
  if (depth > maxDepth || seen.size > maxNodes || seen.has(value)) return undefined
  seen.add(value)
  const list = Option.getOrUndefined(listItems(value))
  if (list !== undefined) return list.map((item) => copy(item, depth + 1, seen))
  const keys = Option.getOrUndefined(ownKeys(value))
  const record = copyRecord(value, keys ?? instanceKeys, depth, seen)
  if (keys !== undefined || !isRecord(record)) return record
  const constructorFunction = read(value, "constructor")
  const constructorName = typeof constructorFunction === "function" ? read(constructorFunction, "name") : undefined
  return typeof constructorName === "string" ? { ...record, constructorName } : record
}

/**
 * Returns a plain copy of what a foreign value says, without running into cycles or getters that throw.
 *
 * @internal
 */
export const snapshot = (value: unknown): unknown =>
  typeof value === "symbol" || typeof value === "function"
    ? Option.getOrUndefined(asText(value))
    : copy(value, 0, new Set())

/** @internal */
export interface Link {
  readonly name: string
  readonly constructorName: string
  readonly code: string
  readonly type: string
  readonly syscall: string
  readonly message: string
  readonly connecting: boolean
  readonly bytesWritten: number | undefined
  readonly bytesRead: number | undefined
}

const textOf = (value: unknown): string =>
  typeof value === "string" ? value : typeof value === "number" ? String(value) : ""
const numberOf = (value: unknown): number | undefined => typeof value === "number" ? value : undefined

const causeKeys = ["cause", "reason", "error", "lastError", "response"]

const follow = (links: Array<Link>, value: unknown, depth: number): void => {
  if (depth > 5 || links.length > 20) return
  if (typeof value === "string") {
    links.push({
      name: "",
      constructorName: "",
      code: "",
      type: "",
      syscall: "",
      message: value,
      connecting: false,
      bytesWritten: undefined,
      bytesRead: undefined
    })
    return
  }
  if (Array.isArray(value)) return value.slice(0, 8).forEach((item) => follow(links, item, depth))
  if (!isRecord(value)) return
  const socket = isRecord(value["socket"]) ? value["socket"] : {}
  links.push({
    name: textOf(value["name"]) || textOf(value["_tag"]),
    constructorName: textOf(value["constructorName"]),
    code: textOf(value["code"]),
    type: textOf(value["type"]),
    syscall: textOf(value["syscall"]) || textOf(value["event"]),
    message: `${textOf(value["message"])} ${textOf(value["description"])}`.trim(),
    connecting: value["connect"] === true,
    bytesWritten: numberOf(socket["bytesWritten"]),
    bytesRead: numberOf(socket["bytesRead"])
  })
  for (const key of causeKeys) {
    if (typeof value[key] === "object" || (key === "cause" && typeof value[key] === "string")) {
      follow(links, value[key], depth + 1)
    }
  }
  if (!Array.isArray(value["errors"])) return
  // Several addresses were tried: the code of the whole stands for them, and only its own attempts explain it.
  const code = textOf(value["code"])
  for (const item of value["errors"].slice(0, 8)) {
    if (code === "" || (isRecord(item) && item["code"] === code)) follow(links, item, depth + 1)
  }
}

/**
 * Returns the errors of a snapshot from the outermost to the innermost cause.
 *
 * @internal
 */
export const chain = (plain: unknown): ReadonlyArray<Link> => {
  const links: Array<Link> = []
  follow(links, plain, 0)
  return links
}
