/**
 * Decides what a request gets: a fault, an error, a refusal or an answer, as steps on the wire.
 *
 * @since 0.1.0
 */
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Option from "effect/Option"
import type * as Random from "effect/Random"
import * as Result from "effect/Result"
import type { Entry } from "./book.ts"
import { draw, type Latency, type Period, within } from "./latency.ts"
import type { Fault, Pace, Step } from "./plan.ts"
import { check, instead, plain, streamed, whole } from "./plan.ts"
import type { Reading, Rules, State, Tokens } from "./quota.ts"
import { admit, initial, read, settle, wrong } from "./quota.ts"
import type { Frame, Reply } from "./reply.ts"
import { body as wholeBody, frames, resolve } from "./reply.ts"
import type { ChatRequest, Parsed } from "./request.ts"
import { json, modelOf, parse } from "./request.ts"
import type { Failure, Format, Headers, Vendor } from "./vendor.ts"
import {
  answer,
  badKey,
  httpDate,
  invalidRequest,
  ofStatus,
  quotaHeaders,
  refused,
  requestIdHeader,
  unknownModel,
  unknownUrl,
  waitHeaders
} from "./vendor.ts"

/**
 * Requests that a fault or a limit is for; an absent field means all.
 *
 * @category models
 * @since 0.1.0
 */
export interface Matching {
  readonly model?: string | undefined
  /** Name of a key, never its secret. */
  readonly key?: string | undefined
}

/** @internal */
export interface Settings {
  readonly format: Format
  readonly vendor: Vendor
  readonly models: ReadonlySet<string> | undefined
  readonly modelNames: ReadonlyArray<string>
  /** Secret to name. */
  readonly keys: ReadonlyMap<string, string> | undefined
  /** Quotas and latencies of some requests, the first match before the others; the last one matches all. */
  readonly rules: ReadonlyArray<{
    readonly matching: Matching
    readonly period: Period
    readonly rules: Rules | undefined
    readonly latency: Latency | undefined
  }>
  readonly limitScope: "target" | "model" | "key" | "server"
  readonly countRejected: boolean
  /** What headers say, as a multiple of the truth; 0 is silence. */
  readonly claims: { readonly quota: number; readonly wait: number }
  readonly reply: (request: ChatRequest) => string | Reply
  readonly chunkSize: number
  readonly faultRates: ReadonlyArray<
    Matching & { readonly rate: number; readonly fault: Fault; readonly period: Period }
  >
  readonly logSize: number
}

const matches = (matching: Matching, model: string, key: string): boolean =>
  (matching.model === undefined || matching.model === model) && (matching.key === undefined || matching.key === key)

/** @internal */
export interface Incoming {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}

/** @internal */
export interface Decision {
  readonly entry: Entry
  readonly steps: ReadonlyArray<Step>
  readonly outcome: "answered" | "refused" | "rejected" | "faulted"
  /** What was reserved, and the output that is charged when the client leaves at once. */
  readonly admitted: { readonly tokens: Tokens; readonly leaving: number } | undefined
  readonly settle: (output: number) => void
}

const credentials = new Set(["authorization", "api-key", "x-api-key", "cookie", "proxy-authorization"])

const secretOf = (headers: Readonly<Record<string, string>>): string | undefined =>
  headers["x-api-key"] ?? headers["api-key"] ?? /^Bearer +(.+)$/i.exec(headers["authorization"] ?? "")?.[1]

// Names are ASCII, and an escape that is none stays as it stands.
const unescape = (name: string): string =>
  name.replace(/%([2-7][0-9a-f])/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))

const chatRoute = (format: Format, url: URL): { readonly deployment: string | undefined } | undefined => {
  switch (format) {
    case "openai":
      return url.pathname === "/v1/chat/completions" ? { deployment: undefined } : undefined
    case "anthropic":
      return url.pathname === "/v1/messages" ? { deployment: undefined } : undefined
    case "azure": {
      if (url.pathname === "/openai/v1/chat/completions") return { deployment: undefined }
      const deployment = /^\/openai\/deployments\/([^/]+)\/chat\/completions$/.exec(url.pathname)?.[1]
      return deployment === undefined || !url.searchParams.has("api-version")
        ? undefined
        : { deployment: unescape(deployment) }
    }
  }
}

const unlimited: Rules = { lines: [], concurrency: Number.POSITIVE_INFINITY }

const claimed = (reading: Reading, factor: number): Reading => ({
  ...reading,
  limit: Math.round(reading.limit * factor),
  remaining: Math.round(reading.remaining * factor)
})

/** @internal */
export const makeDesk = (
  settings: Settings,
  random: Context.Service.Shape<typeof Random.Random>,
  clock: Clock.Clock
) => {
  const { claims, format, vendor } = settings
  let queue: Array<{ readonly matching: Matching; readonly fault: Fault; times: number }> = []
  let outages: Array<{ readonly matching: Matching; readonly fault: Fault }> = []
  let buckets = new Map<string, { readonly rules: Rules; state: State }>()
  const names = new Map<string, string>()
  let serial = 0
  const begin = clock.currentTimeMillisUnsafe()

  const ruleOf = <A>(
    model: string,
    key: string,
    now: number,
    pick: (rule: Settings["rules"][number]) => A | undefined
  ): { readonly index: number; readonly found: A } | undefined => {
    for (const [index, rule] of settings.rules.entries()) {
      if (!matches(rule.matching, model, key) || !within(rule.period, now - begin)) continue
      const found = pick(rule)
      if (found !== undefined) return { index, found }
    }
    return undefined
  }

  const keyOf = (headers: Readonly<Record<string, string>>): string => {
    const secret = secretOf(headers)
    if (secret === undefined) return "none"
    if (settings.keys !== undefined) return settings.keys.get(secret) ?? "unknown"
    const name = names.get(secret) ?? `key-${names.size + 1}`
    names.set(secret, name)
    return name
  }

  // Finds the fault of a request; `take` uses one of its times up.
  const faultOf = (
    model: string,
    key: string,
    now: number
  ): { readonly fault: Fault; readonly take: () => void } | undefined => {
    const next = queue.find((item) => matches(item.matching, model, key))
    if (next !== undefined) {
      return {
        fault: next.fault,
        take: () => {
          next.times--
          if (next.times <= 0) queue = queue.filter((item) => item !== next)
        }
      }
    }
    const lasting = outages.find((item) => matches(item.matching, model, key))
    const found = lasting ??
      settings.faultRates.find((item) =>
        matches(item, model, key) && within(item.period, now - begin) && random.nextDoubleUnsafe() < item.rate
      )
    return found === undefined ? undefined : { fault: found.fault, take: () => {} }
  }

  const bucketOf = (model: string, key: string, now: number) => {
    const { found: rules, index } = ruleOf(model, key, now, (rule) => rule.rules) ??
      { found: unlimited, index: -1 }
    const owner = {
      target: JSON.stringify([model, key]),
      model,
      key,
      server: ""
    }[settings.limitScope]
    const name = `${index}/${owner}`
    const bucket = buckets.get(name) ?? { rules, state: initial(rules, now) }
    buckets.set(name, bucket)
    return bucket
  }

  const paceOf = (latency: Latency | undefined): Pace & { readonly token: number } => {
    const token = draw(latency?.perToken, random)
    return {
      first: draw(latency?.firstToken, random),
      token,
      chunk: (tokens) => draw(latency?.perChunk, random) + token * tokens
    }
  }

  let dated = { second: Number.NaN, text: "" }

  const dateOf = (now: number): string => {
    const second = Math.floor(now / 1000)
    if (second !== dated.second) dated = { second, text: httpDate(now) }
    return dated.text
  }

  const decide = (incoming: Incoming): Decision => {
    const now = clock.currentTimeMillisUnsafe()
    const requestId = `req_${String(++serial).padStart(8, "0")}`
    const common: Headers = { date: dateOf(now), [requestIdHeader(vendor)]: requestId }
    const parsed = json(incoming.text)
    const url = URL.parse(incoming.path, "http://server")
    const route = incoming.method === "POST" && url !== null ? chatRoute(format, url) : undefined
    const body = Option.getOrUndefined(parsed)
    const model = route?.deployment ?? modelOf(body)
    const key = keyOf(incoming.headers)
    const entry: Entry = {
      at: now,
      method: incoming.method,
      path: incoming.path,
      headers: Object.fromEntries(
        Object.entries(incoming.headers).map(([name, value]) => [name, credentials.has(name) ? "<redacted>" : value])
      ),
      body: Option.getOrElse(parsed, () => incoming.text),
      model,
      key,
      status: undefined,
      fault: undefined,
      outcome: "pending"
    }
    const decided = (outcome: Decision["outcome"], steps: ReadonlyArray<Step>): Decision => ({
      entry,
      outcome,
      steps: steps.map((step) => step._tag === "Head" ? { ...step, headers: { ...common, ...step.headers } } : step),
      admitted: undefined,
      settle: () => {}
    })
    const reject = (failure: Failure): Decision => decided("rejected", plain(answer(vendor, failure, requestId, {})))

    const scripted = faultOf(model, key, now)
    const stream = typeof body === "object" && body !== null && "stream" in body && body.stream === true
    const replaced = scripted === undefined ? undefined : instead(scripted.fault, vendor, requestId, stream)
    if (scripted !== undefined && replaced !== undefined) {
      scripted.take()
      entry.fault = scripted.fault._tag
      return decided("faulted", replaced)
    }
    if (key === "unknown" || (key === "none" && settings.keys !== undefined)) return reject(badKey(vendor))
    if (incoming.method === "GET" && url?.pathname === "/v1/models") {
      const data = settings.modelNames.map((id) => ({ id, object: "model", created: 0, owned_by: vendor }))
      const text = JSON.stringify({ object: "list", data })
      return decided("answered", plain({ status: 200, headers: { "content-type": "application/json" }, body: text }))
    }
    if (route === undefined) return reject(unknownUrl(vendor, incoming.method, incoming.path))
    if (Option.isNone(parsed)) return reject(invalidRequest(vendor, "The body is not valid JSON.", undefined))
    if (format === "anthropic" && incoming.headers["anthropic-version"] === undefined) {
      return reject(invalidRequest(vendor, "anthropic-version: header is required", undefined))
    }
    const request = parse(format, body, { model, key })
    if (Result.isFailure(request)) {
      return reject(invalidRequest(vendor, request.failure.message, request.failure.param))
    }
    if (settings.models !== undefined && !settings.models.has(model)) return reject(unknownModel(vendor, model))
    return admitted(entry, request.success, { now, requestId, common }, scripted)
  }

  const admitted = (
    entry: Entry,
    request: Parsed,
    at: { readonly now: number; readonly requestId: string; readonly common: Headers },
    scripted: { readonly fault: Fault; readonly take: () => void } | undefined
  ): Decision => {
    const { common, now, requestId } = at
    const replied = Result.try(() => settings.reply(request))
    if (Result.isFailure(replied)) {
      const message = `the reply option of the test server threw: ${String(replied.failure)}`
      const failure = { ...ofStatus(vendor, 500, undefined), message }
      return {
        entry,
        outcome: "rejected",
        steps: plain(answer(vendor, failure, requestId, common)),
        admitted: undefined,
        settle: () => {}
      }
    }
    const reply = replied.success
    const resolved = resolve(requestId.slice(4), request, typeof reply === "string" ? { text: reply } : reply)
    const reserved = { input: request.inputTokens, output: request.maxTokens ?? resolved.outputTokens }
    const bucket = bucketOf(request.model, request.key, now)
    const [state, refusal] = admit(bucket.rules, bucket.state, reserved, now, settings.countRejected)
    bucket.state = state
    const quota = claims.quota === 0
      ? {}
      : quotaHeaders(vendor, read(bucket.rules, state, now).map((reading) => claimed(reading, claims.quota)), now)
    if (refusal !== undefined) {
      const wait = refusal.wait === undefined ? undefined : Math.ceil(refusal.wait * claims.wait)
      const headers = { ...common, ...quota, ...(claims.wait === 0 ? {} : waitHeaders(vendor, wait, false)) }
      const failure = claims.wait === 0
        ? ofStatus(vendor, 429, undefined)
        : refused(vendor, request.model, { ...refusal, wait })
      return {
        entry,
        outcome: "refused",
        steps: plain(answer(vendor, failure, requestId, headers)),
        admitted: undefined,
        settle: () => {}
      }
    }
    scripted?.take()
    entry.fault = scripted?.fault._tag
    const envelope = { vendor, id: requestId.slice(4), created: now, model: request.model }
    const list = (): ReadonlyArray<Frame> =>
      frames(envelope, resolved, { includeUsage: request.includeUsage, chunkSize: settings.chunkSize })
    const latency = ruleOf(request.model, request.key, now, (rule) => rule.latency)?.found
    const pace = paceOf(latency)
    const shared = { vendor, requestId, headers: { ...common, ...quota } }
    return {
      entry,
      outcome: scripted === undefined ? "answered" : "faulted",
      steps: request.stream
        ? streamed({ ...shared, frames: list(), pace }, scripted?.fault)
        : whole({
          ...shared,
          body: wholeBody(envelope, resolved),
          output: resolved.outputTokens,
          millis: latency?.perChunk === undefined
            ? pace.first + pace.token * resolved.outputTokens
            : list().reduce((sum, frame) => frame.content ? sum + pace.chunk(0) : sum, pace.first) +
              pace.token * resolved.outputTokens
        }, scripted?.fault),
      admitted: { tokens: reserved, leaving: request.stream ? 0 : resolved.outputTokens },
      settle: (output) => {
        const actual = { input: reserved.input, output }
        bucket.state = settle(bucket.rules, bucket.state, reserved, actual, clock.currentTimeMillisUnsafe())
      }
    }
  }

  return {
    decide,
    /** Draws how long the next request is on its way, in milliseconds. */
    network: (): number => draw(settings.rules.at(-1)?.latency?.network, random),
    enqueue: (fault: Fault, options: Matching & { readonly times?: number | undefined } = {}): void => {
      const { times = 1 } = options
      if (!(Number.isSafeInteger(times) && times > 0)) wrong("times", "a whole number > 0", times)
      check(fault)
      queue.push({ matching: options, fault, times })
    },
    outage: (fault: Fault, options: Matching = {}): void => {
      check(fault)
      outages.push({ matching: options, fault })
    },
    heal: (): void => {
      queue = []
      outages = []
    },
    reset: (): void => {
      queue = []
      outages = []
      buckets = new Map()
    }
  }
}

/** @internal */
export type Desk = ReturnType<typeof makeDesk>
