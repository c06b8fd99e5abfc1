/**
 * An `HttpClient` for Node with a transport that does what an exchange with a provider needs and nothing else: a request
 * with a text, answered whole or in pieces, let go of when nobody needs it any more.
 *
 * **Details**
 *
 * The transport speaks to Undici's dispatcher directly. `NodeHttpClient.layerUndici` goes through two `AbortController`s,
 * a promise and a Node stream for each request, and aborts every request at the end of its scope, answered or not.
 *
 * @internal
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import type * as Undici from "@effect/platform-node/Undici"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import type * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Transport from "./transport.ts"

type Failure = HttpClientError.HttpClientError

/** Bytes that may wait for a reader before the socket is no longer read. */
const highWaterMark = 64 * 1024

const left = new Error("the request was given up")

const decoder = new TextDecoder()

/** One request on the wire, and its response as soon as there is one; Undici calls its handlers. */
class Exchange implements Undici.Dispatcher.DispatchHandler, Transport.Response {
  private controller: Undici.Dispatcher.DispatchController | undefined
  private chunks: Array<Uint8Array> = []
  private size = 0
  private isDone = false
  private isLeft = false
  private failure: Failure | undefined
  /** Who waits for what comes next: the response, or more of its body. */
  private wake: (() => void) | undefined
  private isWaking = false
  /** 0 until there is a response. */
  status = 0
  headers: Readonly<Record<string, string>> = {}
  private readonly request: Transport.Request

  constructor(request: Transport.Request) {
    this.request = request
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
    this.status = status
    this.headers = joined(headers)
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
    this.broken(cause)
    this.awake()
  }

  private broken(cause: unknown): void {
    this.isDone = true
    const request = HttpClientRequest.post(this.request.url)
    const reason = new HttpClientError.TransportError({ request, cause })
    this.failure = new HttpClientError.HttpClientError({ reason })
  }

  // What one read of the socket has brought, a head with its body or a hundred events, is worth one awakening.
  private awake(): void {
    if (this.wake === undefined || this.isWaking) return
    this.isWaking = true
    queueMicrotask(() => {
      const { wake } = this
      this.isWaking = false
      this.wake = undefined
      wake?.()
    })
  }

  send(dispatcher: Undici.Dispatcher): void {
    const { body, headers, url } = this.request
    const dispatched = Result.try(() => {
      const { origin, path } = addressOf(url)
      // Limits of time are the business of the caller.
      dispatcher.dispatch({ method: "POST", headers, origin, path, body, headersTimeout: 0, bodyTimeout: 0 }, this)
    })
    if (Result.isFailure(dispatched)) this.broken(dispatched.failure)
  }

  /** Ends the request, if it has not ended by itself. */
  leave(): void {
    if (this.isDone || this.isLeft) return
    this.isLeft = true
    this.wake = undefined
    this.controller?.abort(left)
  }

  /** Waits until `look` finds something. */
  private wait<A, E>(look: () => Effect.Effect<A, E> | undefined): Effect.Effect<A, E> {
    return look() ?? Effect.callback<A, E>((resume) => {
      const attempt = (): void => {
        const found = look()
        if (found === undefined) this.wake = attempt
        else resume(found)
      }
      this.wake = attempt
      return Effect.sync(() => this.leave())
    })
  }

  /** The response, as soon as it has begun. */
  readonly head: Effect.Effect<Transport.Response, Failure> = Effect.suspend(() =>
    this.wait(() =>
      this.status !== 0
        ? Effect.succeed(this)
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
  private readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure> = Effect.suspend(() =>
    this.wait((): Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, Failure> | undefined => {
      if (this.chunks.length > 0) {
        const chunks = this.take()
        if (Arr.isArrayNonEmpty(chunks)) return Effect.succeed(chunks)
      }
      if (this.failure !== undefined) return Effect.fail(this.failure)
      return this.isDone ? Cause.done() : undefined
    })
  )

  get bytes(): Stream.Stream<Uint8Array, Failure> {
    return Stream.fromPull(Effect.succeed(this.pull))
  }

  // What is paused would never end, so whatever has come is taken at once.
  get text(): Effect.Effect<string, Failure> {
    const all: Array<Uint8Array> = []
    return Effect.suspend(() =>
      this.wait(() => {
        all.push(...this.take())
        if (this.failure !== undefined) return Effect.fail(this.failure)
        return this.isDone ? Effect.succeed(textOf(all)) : undefined
      })
    )
  }
}

const textOf = (chunks: ReadonlyArray<Uint8Array>): string => {
  const [only] = chunks
  if (only !== undefined && chunks.length === 1) return decoder.decode(only)
  const decoding = new TextDecoder()
  let text = ""
  for (const chunk of chunks) text += decoding.decode(chunk, { stream: true })
  return text + decoding.decode()
}

type RawHeaders = Undici.Dispatcher.ResponseData["headers"]

const isJoined = (headers: RawHeaders): headers is Record<string, string> => {
  for (const name in headers) if (typeof headers[name] !== "string") return false
  return true
}

// Undici names them in lower case, and lists the values of a header that came several times.
const joined = (headers: RawHeaders): Readonly<Record<string, string>> =>
  isJoined(headers)
    ? headers
    : Object.fromEntries(Object.entries(headers).map(([name, value = ""]) => [name, [value].flat().join(", ")]))

interface Address {
  readonly origin: string
  readonly path: string
}

// Whoever calls a provider calls it again.
const addresses = new Map<string, Address>()

const addressOf = (url: string): Address => {
  const known = addresses.get(url)
  if (known !== undefined) return known
  const { origin, pathname, search } = new URL(url)
  const address = { origin, path: pathname + search }
  if (addresses.size >= 1000) addresses.clear()
  addresses.set(url, address)
  return address
}

const transport = (dispatcher: Undici.Dispatcher): Transport.Transport => ({
  open: (request) =>
    Effect.flatMap(Effect.scope, (scope) => {
      const exchange = new Exchange(request)
      return Effect.flatMap(Scope.addFinalizer(scope, Effect.sync(() => exchange.leave())), () => {
        exchange.send(dispatcher)
        return exchange.head
      })
    }),
  use: (request, then) =>
    Effect.suspend(() => {
      const exchange = new Exchange(request)
      const sent = Effect.suspend(() => {
        exchange.send(dispatcher)
        return exchange.head
      })
      return Effect.onExitPrimitive(Effect.matchEffect(sent, then), () => {
        exchange.leave()
        return undefined
      })
    })
})

/** @internal */
export const layer: Layer.Layer<HttpClient.HttpClient> = Layer.effect(
  HttpClient.HttpClient,
  Effect.map(
    Effect.zip(NodeHttpClient.Dispatcher, NodeHttpClient.makeUndici),
    ([dispatcher, client]) => Transport.register(client, transport(dispatcher))
  )
).pipe(Layer.provide(NodeHttpClient.layerDispatcher))
