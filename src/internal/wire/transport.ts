/**
 * How a request goes to a provider: over any `HttpClient`, or over what a client of ours has besides.
 *
 * An `HttpClient` describes requests and responses for everyone. A client that knows what an exchange with a provider needs
 * registers a transport of its own, and the wire formats, which run anywhere, know nothing of Node.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import { constTrue } from "effect/Function"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import type { Scope } from "effect/Scope"
import type * as Stream from "effect/Stream"

/** A request with a JSON text. */
export interface Request {
  readonly url: string
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export interface Response {
  readonly status: number
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string>>
  readonly text: Effect.Effect<string, HttpClientError>
  readonly bytes: Stream.Stream<Uint8Array, HttpClientError>
}

export interface Transport {
  /** Sends a request; its socket is let go of when the scope closes, whether or not somebody has read the body. */
  readonly open: (request: Request) => Effect.Effect<Response, HttpClientError, Scope>
  /** Sends a request; its socket is let go of when what is done with the response has ended. */
  readonly use: <A, E>(request: Request, then: Then<A, E>) => Effect.Effect<A, E>
}

export interface Then<A, E> {
  readonly onSuccess: (response: Response) => Effect.Effect<A, E>
  readonly onFailure: (error: HttpClientError) => Effect.Effect<A, E>
}

const transports = new WeakMap<HttpClient.HttpClient, Transport>()

/** Gives a client a transport of its own. */
export const register = (client: HttpClient.HttpClient, transport: Transport): HttpClient.HttpClient => {
  transports.set(client, transport)
  return client
}

/** Marks a client whose exchanges end with their scope by themselves. */
export const bound = (client: HttpClient.HttpClient): HttpClient.HttpClient => register(client, over(client.execute))

export const of = (client: HttpClient.HttpClient): Transport => transports.get(client) ?? over(scoped(client).execute)

// Bound to the scope, an exchange lets go of its socket also when nobody ever reads its body.
const scoped = (client: HttpClient.HttpClient): HttpClient.HttpClient.With<HttpClientError, Scope> =>
  HttpClient.transformResponse(
    HttpClient.withScope(client),
    Effect.provideService(HttpClient.TracerDisabledWhen, constTrue)
  )

const over = (
  execute: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<HttpClientResponse, HttpClientError, Scope>
): Transport => {
  const open: Transport["open"] = ({ body, headers, url }) =>
    Effect.map(
      execute(
        HttpClientRequest.post(url).pipe(
          HttpClientRequest.setHeaders(headers),
          HttpClientRequest.bodyText(body, "application/json")
        )
      ),
      (response) => ({
        status: response.status,
        headers: response.headers,
        text: response.text,
        bytes: response.stream
      })
    )
  return { open, use: (request, then) => Effect.scoped(Effect.matchEffect(open(request), then)) }
}
