/**
 * An `HttpClient` for Node that does what an exchange with a provider needs and nothing else: a request with a text,
 * answered whole or in pieces, let go of when its scope closes.
 *
 * **Details**
 *
 * It speaks to Undici's dispatcher directly. `NodeHttpClient.layerUndici` goes through two `AbortController`s, a promise
 * and a Node stream for each request, and aborts every request at the end of its scope, answered or not: a quarter
 * of what a call through the gateway costs.
 *
 * @internal
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import type * as Undici from "@effect/platform-node/Undici"
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
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { pipeArguments } from "effect/Pipeable"
import type * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as ScopedClient from "./scopedClient.ts"

type Failure = HttpClientError.HttpClientError

/** Bytes that may wait for a reader before the socket is no longer read. */
const highWaterMark = 64 * 1024

const left = new Error("the request was given up")

/** One request on the wire; Undici calls its handlers. */
class Exchange implements Undici.Dispatcher.DispatchHandler {
  private controller: Undici.Dispatcher.DispatchController | undefined
  private chunks: Array<Uint8Array> = []
  private size = 0
  private isDone = false
  private isLeft = false
  private failure: Failure | undefined
  /** Who waits for what comes next: the response, or more of its body. */
  private wake: (() => void) | undefined
  response: Response | undefined
  readonly request: HttpClientRequest.HttpClientRequest
  readonly url: URL

  constructor(request: HttpClientRequest.HttpClientRequest, url: URL) {
    this.request = request
    this.url = url
  }

  onRequestStart(controller: Undici.Dispatcher.DispatchController): void {
    this.controller = controller
    if (this.isLeft) controller.abort(left)
  }

  onResponseStart(
    _controller: Undici.Dispatcher.DispatchController,
    status: number,
    headers: Undici.Dispatcher.ResponseData["headers"]
  ): void {
    if (status < 200) return
    this.response = new Response(this, status, headers)
    this.awake()
  }

  onResponseData(controller: Undici.Dispatcher.DispatchController, chunk: Uint8Array): void {
    this.chunks.push(chunk)
    this.size += chunk.length
    if (this.size >= highWaterMark && this.wake === undefined) controller.pause()
    this.awake()
  }

  onResponseEnd(): void {
    this.isDone = true
    this.awake()
  }

  onResponseError(_controller: Undici.Dispatcher.DispatchController | undefined, cause: Error): void {
    if (this.isDone) return
    this.isDone = true
    const { request, response } = this
    this.failure = new HttpClientError.HttpClientError({
      reason: response === undefined
        ? new HttpClientError.TransportError({ request, cause })
        : new HttpClientError.DecodeError({ request, response, cause })
    })
    this.awake()
  }

  private awake(): void {
    const { wake } = this
    this.wake = undefined
    wake?.()
  }

  /** Ends the request, if it has not ended by itself. */
  leave(): void {
    if (this.isDone || this.isLeft) return
    this.isLeft = true
    this.wake = undefined
    this.controller?.abort(left)
  }

  /** Waits until `look` finds something. */
  private wait<A>(look: () => Effect.Effect<A, Failure> | undefined): Effect.Effect<A, Failure> {
    return Effect.callback<A, Failure>((resume) => {
      const attempt = (): void => {
        const found = look()
        if (found === undefined) this.wake = attempt
        else resume(found)
      }
      attempt()
      return Effect.sync(() => this.leave())
    })
  }

  readonly head: Effect.Effect<Response, Failure> = Effect.suspend(() =>
    this.wait(() =>
      this.response !== undefined
        ? Effect.succeed(this.response)
        : this.failure === undefined
        ? undefined
        : Effect.fail(this.failure)
    )
  )

  private take(): Array<Uint8Array> {
    const { chunks } = this
    this.chunks = []
    if (this.size >= highWaterMark) this.controller?.resume()
    this.size = 0
    return chunks
  }

  /** The next pieces of the body. */
  readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure> = Effect.suspend(() =>
    Effect.flatMap(
      this.wait((): Effect.Effect<ReadonlyArray<Uint8Array>, Failure> | undefined => {
        if (this.chunks.length > 0) return Effect.succeed(this.take())
        if (this.failure !== undefined) return Effect.fail(this.failure)
        return this.isDone ? Effect.succeed([]) : undefined
      }),
      (chunks) => Arr.isReadonlyArrayNonEmpty(chunks) ? Effect.succeed(chunks) : Cause.done()
    )
  )

  /** The whole body; what is paused would never end. */
  readonly bytes: Effect.Effect<Uint8Array, Failure> = Effect.suspend(() => {
    const all: Array<Uint8Array> = []
    return this.wait(() => {
      all.push(...this.take())
      if (this.failure !== undefined) return Effect.fail(this.failure)
      return this.isDone ? Effect.succeed(all.length === 1 && all[0] !== undefined ? all[0] : concat(all)) : undefined
    })
  })
}

const concat = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const whole = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0))
  let offset = 0
  for (const chunk of chunks) {
    whole.set(chunk, offset)
    offset += chunk.length
  }
  return whole
}

const decoder = new TextDecoder()

class Response extends Inspectable.Class implements HttpClientResponse.HttpClientResponse {
  readonly [HttpIncomingMessage.TypeId]: typeof HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: typeof HttpClientResponse.TypeId = HttpClientResponse.TypeId
  readonly status: number
  readonly headers: Headers.Headers
  private readonly exchange: Exchange
  private readonly raw: Undici.Dispatcher.ResponseData["headers"]

  constructor(exchange: Exchange, status: number, raw: Undici.Dispatcher.ResponseData["headers"]) {
    super()
    this.exchange = exchange
    this.status = status
    this.raw = raw
    this.headers = Headers.fromInput(raw)
  }

  get request(): HttpClientRequest.HttpClientRequest {
    return this.exchange.request
  }

  get url(): string {
    return this.exchange.url.href
  }

  get remoteAddress(): Option.Option<string> {
    return Option.none()
  }

  get cookies(): Cookies.Cookies {
    return Cookies.fromSetCookie(this.raw["set-cookie"] ?? [])
  }

  get stream(): Stream.Stream<Uint8Array, Failure> {
    return Stream.fromPull(Effect.succeed(this.exchange.pull))
  }

  get text(): Effect.Effect<string, Failure> {
    return Effect.map(this.exchange.bytes, (bytes) => decoder.decode(bytes))
  }

  get json(): Effect.Effect<Schema.Json, Failure> {
    return this.decoded(this.text, (text) => text === "" ? null : JSON.parse(text))
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, Failure> {
    return this.decoded(this.text, (text) => UrlParams.fromInput(new URLSearchParams(text)))
  }

  get arrayBuffer(): Effect.Effect<ArrayBuffer, Failure> {
    return Effect.map(this.exchange.bytes, (bytes) => Uint8Array.from(bytes).buffer)
  }

  get formData(): Effect.Effect<FormData, Failure> {
    return this.unsupported
  }

  get upgrade(): Effect.Effect<never, Failure> {
    return this.unsupported
  }

  private get unsupported(): Effect.Effect<never, Failure> {
    return this.decoded(Effect.void, () => {
      throw new Error("not supported by this client")
    })
  }

  private decoded<A, B>(effect: Effect.Effect<A, Failure>, decode: (value: A) => B): Effect.Effect<B, Failure> {
    return Effect.flatMap(effect, (value) =>
      Effect.try({
        try: () => decode(value),
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

const transport = (request: HttpClientRequest.HttpClientRequest, cause: unknown): Failure =>
  new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })

const bodyOf = ({ body }: HttpClientRequest.HttpClientRequest): Uint8Array | null | undefined =>
  body._tag === "Uint8Array" ? body.body : body._tag === "Empty" ? null : undefined

const dispatch = (
  dispatcher: Undici.Dispatcher,
  exchange: Exchange,
  body: Uint8Array | null
): Effect.Effect<HttpClientResponse.HttpClientResponse, Failure> =>
  Effect.suspend(() => {
    const { request, url } = exchange
    const dispatched = Result.try(() =>
      dispatcher.dispatch({
        method: request.method,
        headers: request.headers,
        origin: url.origin,
        path: url.pathname + url.search,
        body,
        // Limits of time are the business of the caller.
        headersTimeout: 0,
        bodyTimeout: 0
      }, exchange)
    )
    return Result.isFailure(dispatched) ? Effect.fail(transport(request, dispatched.failure)) : exchange.head
  })

/** @internal */
export const make: Effect.Effect<HttpClient.HttpClient, never, NodeHttpClient.Dispatcher> = Effect.gen(function*() {
  const dispatcher = yield* NodeHttpClient.Dispatcher
  const others = yield* NodeHttpClient.makeUndici
  const execute = (
    request: HttpClientRequest.HttpClientRequest
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, Failure> => {
    const body = bodyOf(request)
    if (body === undefined) return others.execute(request)
    const url = Option.getOrUndefined(HttpClientRequest.toUrl(request))
    if (url === undefined) return Effect.fail(transport(request, new TypeError("not an address")))
    const exchange = new Exchange(request, url)
    const sent = dispatch(dispatcher, exchange, body)
    return Effect.withFiber((fiber) => {
      const scope = Context.getOption(fiber.context, Scope.Scope)
      return Option.isNone(scope)
        ? sent
        : Effect.andThen(Scope.addFinalizer(scope.value, Effect.sync(() => exchange.leave())), sent)
    })
  }
  return ScopedClient.add(HttpClient.makeWith<Failure, never, Failure, never>(Effect.flatMap(execute), Effect.succeed))
})

/** @internal */
export const layer: Layer.Layer<HttpClient.HttpClient> = Layer.effect(HttpClient.HttpClient, make).pipe(
  Layer.provide(NodeHttpClient.layerDispatcher)
)
