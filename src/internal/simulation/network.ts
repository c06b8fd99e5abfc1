/**
 * An `HttpClient` whose servers are test providers in the same process: no socket, no time but that of the `Clock`.
 *
 * A request meets the same desk as at `ProviderServer` and gets the same bytes; what would break a connection there fails
 * here with the errors of Node's client.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import type * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Decision, Desk } from "../providerServer/desk.ts"
import type { Step } from "../providerServer/plan.ts"
import type { Format } from "../providerServer/vendor.ts"
import * as Transport from "../wire/transport.ts"

type Failure = HttpClientError.HttpClientError

/** Who is told what arrives at a provider, and what becomes of it. */
export interface Observer {
  readonly arrived: (decision: Decision) => void
  readonly left: (decision: Decision, outcome: Decision["outcome"] | "aborted", output: number) => void
}

/** A provider that can be reached at a host. */
export interface Server {
  readonly desk: Desk
  readonly format: Format
  readonly observer: Observer
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

interface Request extends Transport.Request {
  readonly method: string
}

/** One request, and its response: the steps its server takes, taken when the client asks for what comes next. */
class Exchange implements Transport.Response {
  private readonly request: Request
  private readonly server: Server
  private decision: Decision | undefined
  private index = 0
  private output = 0
  private isOver = false
  status = 0
  headers: Readonly<Record<string, string>> = {}

  constructor(request: Request, server: Server) {
    this.request = request
    this.server = server
  }

  /** The client goes away, or all has been said. */
  leave(outcome: Decision["outcome"] | "aborted"): void {
    const { decision } = this
    if (decision === undefined || this.isOver) return
    this.isOver = true
    if (decision.admitted !== undefined) decision.settle(this.output)
    this.server.observer.left(decision, outcome, this.output)
  }

  private decide(): Decision {
    const { desk, format, observer } = this.server
    const { body, headers, method, url } = this.request
    const decision = desk.decide({ method, path: pathOf(url, format), headers, text: body })
    this.decision = decision
    this.output = decision.admitted?.leaving ?? 0
    observer.arrived(decision)
    return decision
  }

  /** Sends the request and waits for the response. */
  readonly head: Effect.Effect<Transport.Response, Failure> = Effect.suspend(() => {
    const onTheWay = this.server.desk.network()
    const answered = Effect.suspend(() => this.toHead(this.decide().steps))
    return onTheWay > 0 ? Effect.andThen(Effect.sleep(onTheWay), answered) : answered
  })

  private toHead(steps: ReadonlyArray<Step>): Effect.Effect<Transport.Response, Failure> {
    for (;;) {
      const step = steps[this.index++]
      switch (step?._tag) {
        case "Head":
          this.status = step.status
          this.headers = step.headers
          return Effect.succeed(this)
        case "Sleep":
          if (step.millis <= 0) continue
          return Effect.andThen(Effect.sleep(step.millis), Effect.suspend(() => this.toHead(steps)))
        case "Hang":
          return Effect.never
        default:
          this.leave(this.decision?.outcome ?? "faulted")
          return failed(this.request.url, "ECONNRESET", "read ECONNRESET")
      }
    }
  }

  /** The next text of the body; `undefined` behind its end. */
  private readonly next: Effect.Effect<string | undefined, Failure> = Effect.suspend(() => {
    const { decision } = this
    for (;;) {
      const step = decision?.steps[this.index]
      switch (step?._tag) {
        case "Write":
          this.index++
          this.output = step.output
          return Effect.succeed(step.data)
        case "Release":
          this.index++
          this.leave(decision?.outcome ?? "answered")
          continue
        case "Sleep":
          this.index++
          if (step.millis <= 0) continue
          return Effect.andThen(Effect.sleep(step.millis), this.next)
        case "Hang":
          return step.every === undefined ? Effect.never : Effect.as(Effect.sleep(step.every), step.data)
        case "Destroy":
          this.leave(decision?.outcome ?? "faulted")
          return failed(this.request.url, "UND_ERR_SOCKET", "other side closed")
        default:
          return Effect.succeed(undefined)
      }
    }
  })

  private readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure> = Effect.suspend(() =>
    Effect.flatMap(
      this.next,
      (text) => text === undefined ? Cause.done() : Effect.succeed(Arr.of(encoder.encode(text)))
    )
  )

  get bytes(): Stream.Stream<Uint8Array, Failure> {
    return Stream.fromPull(Effect.succeed(this.pull))
  }

  get text(): Effect.Effect<string, Failure> {
    let whole = ""
    const more: Effect.Effect<string, Failure> = Effect.flatMap(this.next, (text) => {
      if (text === undefined) return Effect.succeed(whole)
      whole += text
      return more
    })
    return more
  }
}

/** The path as the desk knows it: some vendors have the chat completions format under prefixes of their own. */
const pathOf = (url: string, format: Format): string => {
  const { pathname, search } = new URL(url)
  return format === "openai" && pathname.endsWith("/chat/completions")
    ? `/v1/chat/completions${search}`
    : pathname + search
}

const failed = (url: string, code: string, message: string): Effect.Effect<never, Failure> => {
  const cause = Object.assign(new Error(message), { code })
  const reason = new HttpClientError.TransportError({ request: HttpClientRequest.post(url), cause })
  return Effect.fail(new HttpClientError.HttpClientError({ reason }))
}

/**
 * Creates the client of some providers, by the host at which each is reached.
 *
 * @internal
 */
export const make = (servers: ReadonlyMap<string, Server>): HttpClient.HttpClient => {
  const exchangeOf = (request: Request): Exchange | Effect.Effect<never, Failure> => {
    const host = URL.parse(request.url)?.host
    const server = host === undefined ? undefined : servers.get(host)
    return server === undefined
      ? failed(request.url, "ENOTFOUND", `getaddrinfo ENOTFOUND ${host ?? request.url}`)
      : new Exchange(request, server)
  }
  const open = (request: Request): Effect.Effect<Transport.Response, Failure, Scope.Scope> =>
    Effect.suspend(() => {
      const exchange = exchangeOf(request)
      return exchange instanceof Exchange
        ? Effect.flatMap(Effect.scope, (scope) =>
          Effect.andThen(
            Scope.addFinalizer(
              scope,
              Effect.sync(() => exchange.leave("aborted"))
            ),
            exchange.head
          ))
        : exchange
    })
  const use: Transport.Transport["use"] = (request, then) =>
    Effect.suspend(() => {
      const exchange = exchangeOf({ ...request, method: "POST" })
      if (!(exchange instanceof Exchange)) return Effect.matchEffect(exchange, then)
      return Effect.onExitPrimitive(Effect.matchEffect(exchange.head, then), () => {
        exchange.leave("aborted")
        return undefined
      })
    })
  return Transport.register(plain(open), { open: (request) => open({ ...request, method: "POST" }), use })
}

/** The same for those who know nothing of transports: a request is let go of when its response has been read. */
const plain = (
  open: (request: Request) => Effect.Effect<Transport.Response, Failure, Scope.Scope>
): HttpClient.HttpClient =>
  HttpClient.make((request, url) => {
    const { body } = request
    if (body._tag !== "Uint8Array" && body._tag !== "Empty") {
      return failed(url.href, "ERR_INVALID_ARG_TYPE", "a simulated provider reads whole bodies only")
    }
    const text = body._tag === "Empty" ? "" : decoder.decode(body.body)
    const opened = open({ url: url.href, method: request.method, headers: request.headers, body: text })
    const scope = Scope.makeUnsafe()
    return Effect.map(
      Effect.onError(Scope.provide(opened, scope), (cause) => Scope.close(scope, Exit.failCause(cause))),
      ({ bytes, headers, status }) =>
        HttpClientResponse.fromWeb(
          request,
          new Response(Stream.toReadableStream(Stream.onExit(bytes, (exit) => Scope.close(scope, exit))), {
            status,
            headers: { ...headers }
          })
        )
    )
  })
