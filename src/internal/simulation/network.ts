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
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Cookies from "effect/http/Cookies"
import * as Headers from "effect/http/Headers"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as UrlParams from "effect/http/UrlParams"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import { pipeArguments } from "effect/Pipeable"
import type * as Pull from "effect/Pull"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Decision, Desk } from "../providerServer/desk.ts"
import type { Step } from "../providerServer/plan.ts"
import type { Format } from "../providerServer/vendor.ts"
import * as ScopedClient from "../wire/scopedClient.ts"

type Failure = HttpClientError.HttpClientError

/** Who is told what arrives at a provider, and what becomes of it. */
export interface Observer {
  readonly arrived: (decision: Decision) => void
  readonly left: (decision: Decision, outcome: Decision["outcome"] | "aborted", output: number) => void
}

/** A provider that can be reached at an origin. */
export interface Server {
  readonly desk: Desk
  readonly format: Format
  readonly observer: Observer
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** One request: the steps its server takes, taken when the client asks for what comes next. */
class Exchange {
  readonly request: HttpClientRequest.HttpClientRequest
  readonly url: URL
  private readonly server: Server
  private decision: Decision | undefined
  private index = 0
  private output = 0
  private isOver = false
  response: Response | undefined

  constructor(request: HttpClientRequest.HttpClientRequest, url: URL, server: Server) {
    this.request = request
    this.url = url
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

  private decide(text: string): Decision {
    const { desk, observer } = this.server
    const decision = desk.decide({
      method: this.request.method,
      path: pathOf(this.url, this.server.format),
      headers: this.request.headers,
      text
    })
    this.decision = decision
    this.output = decision.admitted?.leaving ?? 0
    observer.arrived(decision)
    return decision
  }

  /** Sends a body and waits for the response. */
  head(text: string): Effect.Effect<Response, Failure> {
    return Effect.suspend(() => {
      const onTheWay = this.server.desk.network()
      const answered = Effect.suspend(() => this.toHead(this.decide(text).steps))
      return onTheWay > 0 ? Effect.andThen(Effect.sleep(onTheWay), answered) : answered
    })
  }

  private toHead(steps: ReadonlyArray<Step>): Effect.Effect<Response, Failure> {
    for (;;) {
      const step = steps[this.index++]
      switch (step?._tag) {
        case "Head":
          this.response = new Response(this, step.status, step.headers)
          return Effect.succeed(this.response)
        case "Sleep":
          if (step.millis <= 0) continue
          return Effect.andThen(Effect.sleep(step.millis), Effect.suspend(() => this.toHead(steps)))
        case "Hang":
          return Effect.never
        default:
          this.leave(this.decision?.outcome ?? "faulted")
          return Effect.fail(
            new HttpClientError.HttpClientError({
              reason: new HttpClientError.TransportError({
                request: this.request,
                cause: failed("ECONNRESET", "read ECONNRESET")
              })
            })
          )
      }
    }
  }

  /** The next text of the body; `undefined` behind its end. */
  readonly next: Effect.Effect<string | undefined, Failure> = Effect.suspend(() => {
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
          return Effect.fail(this.broken)
        default:
          return Effect.succeed(undefined)
      }
    }
  })

  private get broken(): Failure {
    const { request, response } = this
    const cause = failed("UND_ERR_SOCKET", "other side closed")
    return new HttpClientError.HttpClientError({
      reason: response === undefined
        ? new HttpClientError.TransportError({ request, cause })
        : new HttpClientError.DecodeError({ request, response, cause })
    })
  }

  readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure> = Effect.suspend(() =>
    Effect.flatMap(
      this.next,
      (text) => text === undefined ? Cause.done() : Effect.succeed(Arr.of(encoder.encode(text)))
    )
  )

  readonly text: Effect.Effect<string, Failure> = Effect.suspend(() => {
    let whole = ""
    const more: Effect.Effect<string, Failure> = Effect.flatMap(this.next, (text) => {
      if (text === undefined) return Effect.succeed(whole)
      whole += text
      return more
    })
    return more
  })
}

/** The path as the desk knows it: some vendors have the chat completions format under prefixes of their own. */
const pathOf = ({ pathname, search }: URL, format: Format): string =>
  format === "openai" && pathname.endsWith("/chat/completions") ? `/v1/chat/completions${search}` : pathname + search

const failed = (code: string, message: string): Error => Object.assign(new Error(message), { code })

class Response extends Inspectable.Class implements HttpClientResponse.HttpClientResponse {
  readonly [HttpIncomingMessage.TypeId]: typeof HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: typeof HttpClientResponse.TypeId = HttpClientResponse.TypeId
  readonly status: number
  readonly headers: Headers.Headers
  readonly cookies = Cookies.empty
  readonly remoteAddress = Option.none()
  private readonly exchange: Exchange

  constructor(exchange: Exchange, status: number, headers: Readonly<Record<string, string>>) {
    super()
    this.exchange = exchange
    this.status = status
    this.headers = Headers.fromRecordUnsafe(headers)
  }

  get request(): HttpClientRequest.HttpClientRequest {
    return this.exchange.request
  }

  get url(): string {
    return this.exchange.url.href
  }

  get stream(): Stream.Stream<Uint8Array, Failure> {
    return Stream.fromPull(Effect.succeed(this.exchange.pull))
  }

  get text(): Effect.Effect<string, Failure> {
    return this.exchange.text
  }

  get json(): Effect.Effect<Schema.Json, Failure> {
    return this.decoded((text) => text === "" ? null : JSON.parse(text))
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, Failure> {
    return this.decoded((text) => UrlParams.fromInput(new URLSearchParams(text)))
  }

  get arrayBuffer(): Effect.Effect<ArrayBuffer, Failure> {
    return Effect.map(this.text, (text) => Uint8Array.from(encoder.encode(text)).buffer)
  }

  get formData(): Effect.Effect<FormData, Failure> {
    return this.unsupported
  }

  get upgrade(): Effect.Effect<never, Failure> {
    return this.unsupported
  }

  private get unsupported(): Effect.Effect<never, Failure> {
    return this.decoded(() => {
      throw new Error("not supported by a simulated provider")
    })
  }

  private decoded<A>(decode: (text: string) => A): Effect.Effect<A, Failure> {
    return Effect.flatMap(this.text, (text) =>
      Effect.try({
        try: () => decode(text),
        catch: (cause) =>
          new HttpClientError.HttpClientError({
            reason: new HttpClientError.DecodeError({ request: this.request, response: this, cause })
          })
      }))
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  toJSON(): unknown {
    return HttpIncomingMessage.inspect(this, {
      _id: "HttpClientResponse",
      request: this.request.toJSON(),
      status: this.status
    })
  }
}

const bodyOf = ({ body }: HttpClientRequest.HttpClientRequest): string | undefined => {
  switch (body._tag) {
    case "Uint8Array":
      return decoder.decode(body.body)
    case "Empty":
      return ""
    default:
      return undefined
  }
}

const unsent = (request: HttpClientRequest.HttpClientRequest, message: string, code: string): Failure =>
  new HttpClientError.HttpClientError({
    reason: new HttpClientError.TransportError({ request, cause: failed(code, message) })
  })

/**
 * Creates the client of some providers, by the host at which each is reached.
 *
 * @internal
 */
export const make = (servers: ReadonlyMap<string, Server>): HttpClient.HttpClient => {
  const execute = (
    request: HttpClientRequest.HttpClientRequest
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, Failure> => {
    const url = Option.getOrUndefined(HttpClientRequest.toUrl(request))
    if (url === undefined) return Effect.fail(unsent(request, "not an address", "ERR_INVALID_URL"))
    const server = servers.get(url.host)
    if (server === undefined) return Effect.fail(unsent(request, `getaddrinfo ENOTFOUND ${url.hostname}`, "ENOTFOUND"))
    const body = bodyOf(request)
    if (body === undefined) return Effect.fail(unsent(request, "only whole bodies can be sent", "ERR_INVALID_ARG_TYPE"))
    return Effect.withFiber((fiber) => {
      const exchange = new Exchange(request, url, server)
      const scope = Context.getOption(fiber.context, Scope.Scope)
      const sent = exchange.head(body)
      return Option.isNone(scope)
        ? sent
        : Effect.andThen(Scope.addFinalizer(scope.value, Effect.sync(() => exchange.leave("aborted"))), sent)
    })
  }
  return ScopedClient.add(HttpClient.makeWith<Failure, never, Failure, never>(Effect.flatMap(execute), Effect.succeed))
}
