/**
 * Turns an answer and a fault into the steps the server takes on the wire.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import { wrong } from "./quota.ts"
import type { Frame } from "./reply.ts"
import type { Answered, Headers, Vendor } from "./vendor.ts"
import { answer, eventBody, ofStatus, waitHeaders } from "./vendor.ts"

/**
 * What can go wrong, each with its parameters.
 *
 * **Details**
 *
 * `Status`, `Reset` before the headers, `NoAnswer`, `EmptyBody` and `HtmlPage` take the place of the answer: they come
 * before the checks of key, model and quota and cost no quota. The others happen in the answer to a request that was
 * admitted and cost what such an answer costs. `after` counts content chunks and defaults to 1; a fault in a shorter
 * answer happens after its last content chunk, so always before the terminal event.
 *
 * - `Status`: the vendor's error envelope, or `body`; `retryAfter` in headers and text as the vendor states it.
 * - `Reset`: a TCP reset, or the end of the connection right `afterHeaders`.
 * - `NoAnswer`: accepts the request and says nothing.
 * - `SlowFirstToken`: headers at once; the first content, or the whole answer, after `delay`.
 * - `Cut`: the connection ends after `after` chunks, or after half of a whole answer; `clean` ends the body properly
 *   all the same, without a terminal event.
 * - `Stall`: nothing more after `after` chunks, or after half of a whole answer. Every `keepAlive` a comment
 *   (Anthropic: a ping), in a whole answer a blank line before any of it.
 * - `MalformedChunk`: a chunk that is half a JSON document, then the rest of the stream; in a whole answer half of it.
 * - `ErrorEvent`: the vendor's envelope for `status`, or `body`, inside the 200, then the end.
 * - `EmptyBody`: status 200 and nothing.
 * - `HtmlPage`: an edge's HTML error page.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault = Data.TaggedEnum<{
  Status: {
    readonly status: number
    /** Wait that is stated; none when absent. */
    readonly retryAfter?: Duration.Input | undefined
    readonly headers?: Readonly<Record<string, string>> | undefined
    /** Body instead of the vendor's envelope. */
    readonly body?: string | undefined
    /** Time until the answer. */
    readonly delay?: Duration.Input | undefined
  }
  Reset: {
    /** @default false */
    readonly afterHeaders?: boolean | undefined
  }
  NoAnswer: {}
  SlowFirstToken: { readonly delay: Duration.Input }
  Cut: {
    readonly after?: number | undefined
    /** @default false */
    readonly clean?: boolean | undefined
  }
  Stall: { readonly after?: number | undefined; readonly keepAlive?: Duration.Input | undefined }
  MalformedChunk: { readonly after?: number | undefined }
  ErrorEvent: {
    readonly after?: number | undefined
    /** @default 529 for Anthropic, 500 for the others */
    readonly status?: number | undefined
    /** JSON instead of the vendor's envelope. */
    readonly body?: string | undefined
  }
  EmptyBody: {}
  HtmlPage: {
    /** @default 502 */
    readonly status?: number | undefined
  }
}>

/**
 * Constructors of the faults.
 *
 * @category constructors
 * @since 0.1.0
 */
export const Fault: Data.TaggedEnum.Constructor<Fault> = Data.taggedEnum<Fault>()

/** @internal */
export type Step =
  | { readonly _tag: "Head"; readonly status: number; readonly headers: Headers }
  | { readonly _tag: "Sleep"; readonly millis: number }
  | { readonly _tag: "Write"; readonly data: string; readonly output: number }
  /** The reader may take the next bytes for the end: the slot is free from here on. */
  | { readonly _tag: "Release" }
  | { readonly _tag: "End" }
  | { readonly _tag: "Destroy"; readonly reset: boolean }
  | { readonly _tag: "Hang"; readonly every: number | undefined; readonly data: string }

/** @internal */
export interface Pace {
  /** Time to the first token in milliseconds. */
  readonly first: number
  /** Draws the time before a content chunk of so many tokens in milliseconds. */
  readonly chunk: (tokens: number) => number
}

const millis = (input: Duration.Input): number => Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(input)))

/**
 * Throws a `RangeError` for a fault that could not happen as written.
 *
 * @internal
 */
export const check = (fault: Fault): void => {
  const after = "after" in fault ? fault.after ?? 1 : 1
  if (!(Number.isSafeInteger(after) && after >= 0)) wrong(`${fault._tag}.after`, "a whole number >= 0", after)
  const status = "status" in fault ? fault.status ?? 200 : 200
  if (!(Number.isSafeInteger(status) && status >= 200 && status <= 599)) {
    wrong(`${fault._tag}.status`, "a final HTTP status", status)
  }
  checkTime(`${fault._tag}.delay`, "delay" in fault ? fault.delay ?? 0 : 0, 0)
  checkTime(`${fault._tag}.retryAfter`, "retryAfter" in fault ? fault.retryAfter ?? 0 : 0, 0)
  checkTime(`${fault._tag}.keepAlive`, "keepAlive" in fault ? fault.keepAlive ?? 1 : 1, 1)
}

const checkTime = (field: string, input: Duration.Input, least: number): void => {
  const time = millis(input)
  if (!(Number.isFinite(time) && time >= least)) wrong(field, `a finite time of at least ${least} ms`, time)
}

/** @internal */
export const plain = (answered: Answered, delay = 0): ReadonlyArray<Step> => [
  { _tag: "Sleep", millis: delay },
  {
    _tag: "Head",
    status: answered.status,
    headers: { ...answered.headers, "content-length": String(new TextEncoder().encode(answered.body).length) }
  },
  { _tag: "Release" },
  { _tag: "Write", data: answered.body, output: 0 },
  { _tag: "End" }
]

/**
 * Returns the steps of a fault that takes the place of the answer, `undefined` for one that happens in it.
 *
 * @internal
 */
export const instead = (
  fault: Fault,
  vendor: Vendor,
  requestId: string,
  stream: boolean
): ReadonlyArray<Step> | undefined => {
  switch (fault._tag) {
    case "Status": {
      const wait = fault.retryAfter === undefined ? undefined : millis(fault.retryAfter)
      const answered = answer(vendor, ofStatus(vendor, fault.status, wait), requestId, {
        ...waitHeaders(vendor, wait, true),
        ...Object.fromEntries(Object.entries(fault.headers ?? {}).map(([name, value]) => [name.toLowerCase(), value]))
      })
      return plain(fault.body === undefined ? answered : { ...answered, body: fault.body }, millis(fault.delay ?? 0))
    }
    case "Reset":
      return fault.afterHeaders === true ? undefined : [{ _tag: "Destroy", reset: true }]
    case "NoAnswer":
      return [{ _tag: "Hang", every: undefined, data: "" }]
    case "EmptyBody":
      return plain({ status: 200, headers: { "content-type": stream ? eventStream : "application/json" }, body: "" })
    case "HtmlPage": {
      const status = fault.status ?? 502
      const title = `${status} ${reasons[status] ?? "Error"}`
      return plain({
        status,
        headers: { "content-type": "text/html; charset=UTF-8" },
        body: `<html>\r\n<head><title>${title}</title></head>\r\n<body>\r\n<center><h1>${title}</h1></center>\r\n` +
          "<hr><center>edge</center>\r\n</body>\r\n</html>\r\n"
      })
    }
    case "SlowFirstToken":
    case "Cut":
    case "Stall":
    case "MalformedChunk":
    case "ErrorEvent":
      return undefined
  }
}

const eventStream = "text/event-stream; charset=utf-8"

const reasons: Readonly<Record<number, string>> = {
  403: "Forbidden",
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  524: "A timeout occurred"
}

const errorText = (
  fault: { readonly status?: number | undefined; readonly body?: string | undefined },
  vendor: Vendor,
  requestId: string
): string => {
  const status = fault.status ?? (vendor === "anthropic" ? 529 : 500)
  return fault.body ?? eventBody(vendor, ofStatus(vendor, status, undefined), requestId)
}

/**
 * Returns the steps of a whole answer.
 *
 * @internal
 */
export const whole = (
  options: {
    readonly vendor: Vendor
    readonly requestId: string
    readonly headers: Headers
    readonly body: string
    readonly output: number
    readonly millis: number
  },
  fault: Fault | undefined
): ReadonlyArray<Step> => {
  const { body, output, requestId, vendor } = options
  const bytes = String(new TextEncoder().encode(body).length)
  const head = (length?: string): Step => ({
    _tag: "Head",
    status: 200,
    headers: {
      "content-type": "application/json",
      ...(length === undefined ? {} : { "content-length": length }),
      ...options.headers
    }
  })
  const sleep: Step = { _tag: "Sleep", millis: options.millis }
  const half: Step = { _tag: "Write", data: body.slice(0, body.length >> 1), output }
  const rest: ReadonlyArray<Step> = [{ _tag: "Release" }, { _tag: "Write", data: body, output }, { _tag: "End" }]
  switch (fault?._tag) {
    case "Reset":
      return [sleep, head(bytes), { _tag: "Destroy", reset: false }]
    case "SlowFirstToken":
      return [head(bytes), { _tag: "Sleep", millis: millis(fault.delay) }, ...rest]
    case "Cut":
      return fault.clean === true
        ? [sleep, head(), { _tag: "Release" }, half, { _tag: "End" }]
        : [sleep, head(bytes), half, { _tag: "Destroy", reset: false }]
    case "Stall":
      return fault.keepAlive === undefined
        ? [sleep, head(bytes), half, { _tag: "Hang", every: undefined, data: "" }]
        : [sleep, head(), { _tag: "Hang", every: millis(fault.keepAlive), data: "\n" }]
    case "MalformedChunk":
      return [sleep, head(), { _tag: "Release" }, half, { _tag: "End" }]
    case "ErrorEvent":
      return [
        sleep,
        head(),
        { _tag: "Release" },
        { _tag: "Write", data: errorText(fault, vendor, requestId), output },
        { _tag: "End" }
      ]
    case "Status":
    case "NoAnswer":
    case "EmptyBody":
    case "HtmlPage":
    case undefined:
      return [sleep, head(bytes), ...rest]
  }
}

// Index of the frame before which a fault happens: behind `after` content frames, and before the end in any case.
const position = (frames: ReadonlyArray<Frame>, after: number): number => {
  let seen = 0
  let last = 0
  for (const [index, frame] of frames.entries()) {
    if (!frame.content) continue
    if (seen === after) return seen === 0 ? index : last + 1
    seen++
    last = index
  }
  return last + 1
}

/**
 * Returns the steps of a streamed answer.
 *
 * @internal
 */
export const streamed = (
  options: {
    readonly vendor: Vendor
    readonly requestId: string
    readonly headers: Headers
    readonly frames: ReadonlyArray<Frame>
    readonly pace: Pace
  },
  fault: Fault | undefined
): ReadonlyArray<Step> => {
  const { frames, pace, requestId, vendor } = options
  const head: Step = {
    _tag: "Head",
    status: 200,
    headers: { "content-type": eventStream, "cache-control": "no-cache", ...options.headers }
  }
  const start = position(frames, 0)
  const writes = (from: number, to: number): ReadonlyArray<Step> => {
    const steps: Array<Step> = []
    for (let i = from; i < to; i++) {
      const frame = frames[i]
      if (frame === undefined) continue
      if (frame.content && i > start) {
        steps.push({ _tag: "Sleep", millis: pace.chunk(frame.output - (frames[i - 1]?.output ?? 0)) })
      }
      if (i === frames.length - 1) steps.push({ _tag: "Release" })
      steps.push({ _tag: "Write", data: frame.data, output: frame.output })
    }
    return steps
  }
  const first: Step = { _tag: "Sleep", millis: pace.first }
  const end: Step = { _tag: "End" }
  const after = position(frames, fault !== undefined && "after" in fault ? fault.after ?? 1 : 1)
  const before = (): ReadonlyArray<Step> => [first, head, ...writes(0, after)]
  switch (fault?._tag) {
    case "Reset":
      return [first, head, { _tag: "Destroy", reset: false }]
    case "SlowFirstToken":
      return [
        head,
        ...writes(0, start),
        { _tag: "Sleep", millis: millis(fault.delay) },
        ...writes(start, frames.length),
        end
      ]
    case "Cut":
      return fault.clean === true
        ? [...before(), { _tag: "Release" }, end]
        : [...before(), { _tag: "Destroy", reset: false }]
    case "Stall":
      return [...before(), {
        _tag: "Hang",
        every: fault.keepAlive === undefined ? undefined : millis(fault.keepAlive),
        data: vendor === "anthropic" ? "event: ping\ndata: {\"type\": \"ping\"}\n\n" : ": keep-alive\n\n"
      }]
    case "MalformedChunk": {
      const broken = frames[start]?.data ?? ""
      return [
        ...before(),
        { _tag: "Write", data: `${broken.trimEnd().slice(0, -12)}\n\n`, output: frames[after - 1]?.output ?? 0 },
        ...writes(after, frames.length),
        end
      ]
    }
    case "ErrorEvent": {
      const text = errorText(fault, vendor, requestId)
      return [
        ...before(),
        { _tag: "Release" },
        {
          _tag: "Write",
          // OpenAI-like servers may end even a failed stream with [DONE], which must not be taken for success.
          data: vendor === "anthropic" ? `event: error\ndata: ${text}\n\n` : `data: ${text}\n\ndata: [DONE]\n\n`,
          output: frames[after - 1]?.output ?? 0
        },
        end
      ]
    }
    case "Status":
    case "NoAnswer":
    case "EmptyBody":
    case "HtmlPage":
    case undefined:
      return [first, head, ...writes(0, frames.length), end]
  }
}
