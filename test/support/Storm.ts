/**
 * Many clients at once that read streams, and of which many leave in the middle: at random, but of a seed.
 */
import { Clock, Effect, Random } from "effect"
import * as Http from "node:http"

export interface Options {
  readonly port: number
  readonly model: string
  /** Streams at the same time. */
  readonly streams: number
  readonly millis: number
  /** Streams that there are at least, however long they take. */
  readonly least?: number
  /** Share of the clients that leave at a moment of their own, before the head of the answer or after it. */
  readonly leaving: number
  /** Longest time until a client leaves. */
  readonly leaveWithin: number
  readonly seed: string
}

/** How a stream ended for its client. */
export type Ending =
  /** With all that belongs to an answer. */
  | "complete"
  /** With an error event after a part of the answer. */
  | "failed"
  /** With an error status, before anything of it. */
  | "refused"
  /** The client left. */
  | "left"
  /** Well, by all appearances, but without its end: what must never happen. */
  | "short"
  /** The connection broke without a word. */
  | "lost"

export type Tally = Readonly<Record<Ending, number>> & {
  /** Longest time a stream took that its client did not leave, in milliseconds. */
  readonly longest: number
  /** Times from when a client left to when its connection was closed are the server's business; these are statuses. */
  readonly statuses: Readonly<Record<string, number>>
}

const faces = ["/v1/chat/completions", "/v1/messages"] as const

const endingOf = (path: typeof faces[number], body: string): Ending => {
  if (path === "/v1/messages") {
    return body.includes("event: message_stop") ? "complete" : body.includes("event: error") ? "failed" : "short"
  }
  const done = /"finish_reason":"\w+"/.test(body) && body.includes("data: [DONE]")
  return body.includes("data: {\"error\"") ? "failed" : done ? "complete" : "short"
}

interface Visit {
  readonly ending: Ending
  readonly status: number | undefined
}

/** One stream; its socket is its own and closed at the end. */
const visit = (options: Options, path: typeof faces[number], leaveAfter: number | undefined): Effect.Effect<Visit> =>
  Effect.callback<Visit>((resume) => {
    const content = JSON.stringify({
      model: options.model,
      stream: true,
      max_tokens: 1000,
      messages: [{ role: "user", content: "Say something about the sea" }]
    })
    const request = Http.request({
      host: "127.0.0.1",
      port: options.port,
      path,
      method: "POST",
      agent: false,
      headers: { "content-type": "application/json", "anthropic-version": "2023-06-01" }
    })
    let status: number | undefined
    let body = ""
    let over = false
    const end = (ending: Ending): void => {
      if (over) return
      over = true
      clearTimeout(timer)
      request.destroy()
      resume(Effect.succeed({ ending, status }))
    }
    const timer = leaveAfter === undefined ? undefined : setTimeout(() => end("left"), leaveAfter)
    const lost = (): void => end(status === 200 && endingOf(path, body) === "failed" ? "failed" : "lost")
    request.on("error", lost)
    request.on("response", (response) => {
      status = response.statusCode
      response.setEncoding("utf8")
      response.on("data", (text: string) => {
        body += text
      })
      response.on("error", lost)
      response.on("end", () => end(status !== 200 ? "refused" : endingOf(path, body)))
    })
    request.end(content)
    return Effect.sync(() => end("left"))
  })

/** Lets it storm; ends when the last stream has. */
export const run = (options: Options): Effect.Effect<Tally> =>
  Effect.gen(function*() {
    const counts = { complete: 0, failed: 0, refused: 0, left: 0, short: 0, lost: 0 }
    const statuses: Record<string, number> = {}
    let longest = 0
    let begun = 0
    const until = (yield* Clock.currentTimeMillis) + options.millis
    const client = Effect.gen(function*() {
      for (;;) {
        const start = yield* Clock.currentTimeMillis
        if (start >= until && begun >= (options.least ?? 0)) return
        begun++
        const leaves = (yield* Random.next) < options.leaving
        const leaveAfter = leaves ? (yield* Random.next) * options.leaveWithin : undefined
        const path = (yield* Random.next) < 0.5 ? faces[0] : faces[1]
        const { ending, status } = yield* visit(options, path, leaveAfter)
        counts[ending]++
        if (status !== undefined) statuses[status] = (statuses[status] ?? 0) + 1
        if (ending !== "left") longest = Math.max(longest, (yield* Clock.currentTimeMillis) - start)
      }
    })
    yield* Effect.all(Array.from({ length: options.streams }, () => client), {
      concurrency: "unbounded",
      discard: true
    })
    return { ...counts, longest, statuses }
  }).pipe((_) => Random.withSeed(_, options.seed))

/** Opens a stream and leaves at its first content; says when, or `undefined` when there was none. */
export const leave = ({ model, port }: Pick<Options, "model" | "port">): Effect.Effect<number | undefined> =>
  Effect.callback<number | undefined>((resume) => {
    const request = Http.request({ host: "127.0.0.1", port, path: faces[0], method: "POST", agent: false })
    const done = (leftAt: number | undefined): void => {
      request.destroy()
      resume(Effect.succeed(leftAt))
    }
    request.on("error", () => done(undefined))
    request.on("response", (response) => {
      response.on("error", () => {})
      response.once("data", () => done(response.statusCode === 200 ? performance.now() : undefined))
      response.on("end", () => done(undefined))
    })
    request.end(JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Say something" }] }))
  })
