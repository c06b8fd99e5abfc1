/**
 * A real HTTP server on loopback that behaves like a vendor of language models, with quotas and faults on demand.
 *
 * It speaks the OpenAI, Azure OpenAI and Anthropic formats, whole and streamed, keeps exact request and token quotas
 * that answer 429 with true headers, and does what goes wrong in production: errors, resets, silence, cut and stalled
 * streams. Everything it received is counted. State lives in the server and ends with its scope, which destroys all
 * sockets at once.
 *
 * **Details**
 *
 * A request meets, in this order: a scripted fault that takes the place of the answer, the check of its key, of its
 * model and body, the quota, and then its answer, which may hold one of the other faults. A fault of `enqueue` comes
 * before `outage`, and that before `faultRates`.
 *
 * Quotas refill evenly and start full. A request is admitted when its input (characters of its messages ÷ 4) and the
 * output it reserves (`max_tokens`, or the length of the reply when it sets none) fit all dimensions at once; when the
 * answer ends, the reservation is replaced by what was sent. A client that leaves a stream is charged what was written
 * until then, one that leaves a whole answer all of it. Times come from `Clock`, chance from `seed`.
 *
 * A stated wait is the shortest that admits the same request if no other comes first, rounded up to the precision of
 * the header. Vendors that state no wait (Mistral, DeepSeek) state none here; Moonshot states it in the text only.
 *
 * **Gotchas**
 *
 * Under a `TestClock` the latencies wait for the clock, but the sockets do not: use a live clock, and short latencies.
 *
 * **Example** (Meeting a rate limit)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as ProviderServer from "breakwater/testing/ProviderServer"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const server = yield* ProviderServer.make({
 *     format: "openai",
 *     limits: { requests: { limit: 1, per: "1 minute" } }
 *   })
 *   const ask = Effect.promise(() =>
 *     fetch(`${server.url}/chat/completions`, {
 *       method: "POST",
 *       headers: { authorization: "Bearer any" },
 *       body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hi" }] })
 *     }).then((response) => response.status)
 *   )
 *   return [yield* ask, yield* ask, (yield* server.received).refused]
 * }))
 *
 * await Effect.runPromise(program) // => [200, 429, 1]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import { ServeError } from "effect/http/HttpServerError"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"
import type { Socket } from "node:net"
import type { Book, Exchange, Stats } from "../internal/providerServer/book.ts"
import { makeBook } from "../internal/providerServer/book.ts"
import type { Decision, Desk, Matching } from "../internal/providerServer/desk.ts"
import { makeDesk } from "../internal/providerServer/desk.ts"
import { Fault } from "../internal/providerServer/plan.ts"
import type { Behaviour } from "../internal/providerServer/settings.ts"
import { settingsOf } from "../internal/providerServer/settings.ts"

export {
  /**
   * Faults of a provider: a union and its constructors.
   *
   * @category models
   * @since 0.1.0
   */
  Fault
}

export type { Exchange, Stats } from "../internal/providerServer/book.ts"
export type { Matching } from "../internal/providerServer/desk.ts"
export type { Delay, During, Latencies } from "../internal/providerServer/latency.ts"
export type { Limits, Quota } from "../internal/providerServer/quota.ts"
export type { FinishReason, Reply } from "../internal/providerServer/reply.ts"
export type { ChatRequest } from "../internal/providerServer/request.ts"
export type { Behaviour } from "../internal/providerServer/settings.ts"
export type { Flavour, Format } from "../internal/providerServer/vendor.ts"

/**
 * A running test provider.
 *
 * @category services
 * @since 0.1.0
 */
export class ProviderServer extends Context.Service<ProviderServer, {
  /** Base URL, for `Target.baseUrl`: with `/v1` for the OpenAI format, the server's root for Azure and Anthropic. */
  readonly url: string
  readonly port: number
  /** Lets the next matching requests meet a fault; by default the next one. */
  readonly enqueue: (fault: Fault, options?: Matching & { readonly times?: number | undefined }) => Effect.Effect<void>
  /** Lets all matching requests meet a fault until `heal`. */
  readonly outage: (fault: Fault, options?: Matching) => Effect.Effect<void>
  /** Ends all outages and drops the faults still enqueued. Requests that met their fault stay as they are. */
  readonly heal: Effect.Effect<void>
  readonly received: Effect.Effect<Stats>
  /** Forgets all counts and the log, heals, and fills all quotas. */
  readonly reset: Effect.Effect<void>
  /** Waits until so many requests were received. */
  readonly awaitRequests: (count: number) => Effect.Effect<void>
  /** Waits until no request is in progress. */
  readonly awaitIdle: Effect.Effect<void>
  /** Waits until no socket is open. */
  readonly awaitDisconnected: Effect.Effect<void>
  /** Waits until the counts are as wanted; looks whenever one of them changes. */
  readonly awaitStats: (predicate: (stats: Stats) => boolean) => Effect.Effect<void>
}>()("breakwater/testing/ProviderServer") {}

/**
 * Options of `make`: how the provider behaves, and where it listens.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends Behaviour {
  /**
   * Seed of fault rates and latencies.
   *
   * @default the `Random` service of the caller
   */
  readonly seed?: string | number | undefined
  /**
   * Port to listen on.
   *
   * @default a free one
   */
  readonly port?: number | undefined
  /**
   * Address to listen on.
   *
   * @default "127.0.0.1"
   */
  readonly host?: string | undefined
}

/**
 * Starts a test provider that lives as long as its scope.
 *
 * **Gotchas**
 *
 * Dies with a `RangeError` that names the field when an option makes no sense; fails with a `ServeError` when it cannot
 * listen.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (options: Options) => Effect.Effect<ProviderServer["Service"], ServeError, Scope.Scope> = Effect
  .fnUntraced(function*(options: Options) {
    const settings = settingsOf(options)
    const random = yield* options.seed === undefined
      ? Effect.service(Random.Random)
      : Random.withSeed(Effect.service(Random.Random), options.seed)
    const clock = yield* Effect.service(Clock.Clock)
    const book = makeBook(settings.logSize)
    const desk = makeDesk(settings, random, clock)
    const server = yield* Effect.acquireRelease(
      Effect.sync(() => Http.createServer({ keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0 })),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    )
    const run = yield* FiberSet.makeRuntime<never, void, never>()
    server.on("connection", (socket: Socket) => {
      book.connected(1)
      socket.on("close", () => book.connected(-1))
    })
    server.on("request", (request, response) => {
      const fiber = run(serve(book, desk, request, response))
      // The fiber ends before its response is closed, unless the client left first.
      response.on("close", () => fiber.interruptUnsafe())
      response.on("error", () => {})
    })
    const host = options.host ?? "127.0.0.1"
    const port = yield* listen(server, host, options.port ?? 0)
    const origin = `http://${host.includes(":") ? `[${host}]` : host}:${port}`
    return ProviderServer.of({
      url: options.format === "openai" ? `${origin}/v1` : origin,
      port,
      enqueue: (fault, options) => Effect.sync(() => desk.enqueue(fault, options)),
      outage: (fault, options) => Effect.sync(() => desk.outage(fault, options)),
      heal: Effect.sync(desk.heal),
      received: Effect.sync(book.stats),
      reset: Effect.sync(() => {
        desk.reset()
        book.reset()
      }),
      awaitRequests: (count) => book.until((stats) => stats.requests >= count),
      awaitIdle: book.until((stats) => stats.concurrent.now === 0),
      awaitDisconnected: book.until((stats) => stats.sockets.now === 0),
      awaitStats: book.until
    })
  })

/**
 * Provides a test provider.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<ProviderServer, ServeError> =>
  Layer.effect(ProviderServer, make(options))

const listen = (server: Http.Server, host: string, port: number): Effect.Effect<number, ServeError> =>
  Effect.callback<number, ServeError>((resume) => {
    const failed = (cause: Error): void => resume(Effect.fail(new ServeError({ cause })))
    server.once("error", failed)
    server.listen(port, host, () => {
      server.off("error", failed)
      const address = server.address()
      resume(
        typeof address === "object" && address !== null
          ? Effect.succeed(address.port)
          : Effect.fail(new ServeError({ cause: new Error("no TCP address") }))
      )
    })
  })

// ---------------------------------------------------------------------------
// the wire
// ---------------------------------------------------------------------------

const serve = Effect.fnUntraced(
  function*(book: Book, desk: Desk, request: Http.IncomingMessage, response: Http.ServerResponse) {
    const visit = book.arrived()
    let decision: Decision | undefined
    let output = 0
    let over = false
    const leave = (outcome: Exchange["outcome"]): void => {
      if (over) return
      over = true
      if (decision?.admitted !== undefined) {
        visit.output(output)
        decision.settle(output)
      }
      visit.left(decision?.entry, outcome)
    }
    const play = Effect.gen(function*() {
      const text = yield* readText(request)
      const onTheWay = desk.network()
      if (onTheWay > 0) yield* Effect.sleep(onTheWay)
      const { admitted, entry, outcome, steps } = decision = desk.decide({
        method: request.method ?? "GET",
        path: request.url ?? "/",
        headers: flatten(request.headers),
        text
      })
      visit.received(entry)
      if (admitted !== undefined) {
        visit.admitted(admitted.tokens)
        output = admitted.leaving
      }
      for (const step of steps) {
        switch (step._tag) {
          case "Head":
            visit.status(entry, step.status)
            response.writeHead(step.status, { ...step.headers })
            response.flushHeaders()
            break
          case "Sleep":
            if (step.millis > 0) yield* Effect.sleep(step.millis)
            break
          case "Write":
            output = step.output
            if (!response.write(step.data)) yield* drained(response)
            break
          case "Release":
            leave(outcome)
            break
          case "End":
            response.end()
            break
          case "Destroy":
            yield* flushed(response)
            leave(outcome)
            if (step.reset) response.socket?.resetAndDestroy()
            else response.destroy()
            break
          case "Hang":
            return yield* hang(response, step.every, step.data)
        }
      }
    })
    yield* Effect.onExit(play, (exit) =>
      Effect.suspend(() => {
        leave("aborted")
        if (Exit.isSuccess(exit) || Exit.hasInterrupts(exit)) return Effect.void
        // A scripted header that HTTP does not allow must not leave the client waiting.
        response.destroy()
        return Effect.logError("ProviderServer: a request could not be answered", exit.cause)
      }))
  }
)

const flatten = (headers: Http.IncomingHttpHeaders): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value ?? ""])
  )

const readText = (request: Http.IncomingMessage): Effect.Effect<string> =>
  Effect.callback<string>((resume) => {
    let text = ""
    request.setEncoding("utf8")
    request.on("data", (chunk: string) => {
      text += chunk
    })
    request.on("end", () => resume(Effect.succeed(text)))
    // A client that leaves while it sends closes the response too, which ends this fiber.
    request.on("error", () => {})
  })

const drained = (response: Http.ServerResponse): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const done = (): void => resume(Effect.void)
    response.once("drain", done)
    return Effect.sync(() => response.off("drain", done))
  })

// What was written before the end of a connection must reach the client: an empty write is called back behind it.
const flushed = (response: Http.ServerResponse): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const { socket } = response
    if (socket === null || socket.destroyed) resume(Effect.void)
    else socket.write("", () => resume(Effect.void))
  })

const hang = (response: Http.ServerResponse, every: number | undefined, data: string): Effect.Effect<never> =>
  every === undefined
    ? Effect.never
    : Effect.forever(Effect.andThen(Effect.sleep(every), Effect.sync(() => response.write(data))))
