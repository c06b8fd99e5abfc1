/**
 * One HTTP exchange with a provider: sent once, without trace headers, its socket bound to a scope.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as Classifier from "../../Classifier.ts"
import * as LLMError from "../../LLMError.ts"
import type { CompletionRequest, ProviderPart } from "../../LLMService.ts"
import type { Adapter, Reply } from "../../Provider.ts"
import type { Target } from "../../Target.ts"
import * as Json from "./json.ts"
import { OnResponse } from "./onResponse.ts"
import * as Parts from "./parts.ts"
import type { Body } from "./prompt.ts"
import * as Sse from "./sse.ts"
import * as Transport from "./transport.ts"

/** A request as a format describes it; `problems` says what it could not express. */
export interface WireRequest {
  readonly headers: Readonly<Record<string, string>>
  readonly body: Body
  readonly problems: ReadonlyArray<string>
}

/** A wire format: pure functions between requests, replies and bytes. */
export interface Format<S> {
  /** Where requests of a target go; `undefined` when there is no such place. */
  readonly url: (target: Target) => string | undefined
  readonly request: (target: Target, request: CompletionRequest, stream: boolean) => WireRequest
  /** The header that carries the key. */
  readonly authorize: (key: string) => readonly [name: string, value: string]
  readonly reply: (target: Target, body: unknown, text: string) => Result.Result<Parts.WireReply, Parts.Failure>
  readonly machine: Sse.Machine<S>
  /** Response headers that may hold the request id, the best one first. */
  readonly requestIds: ReadonlyArray<string>
}

/** Builds the adapter of a wire format over an HTTP client. */
export const adapter = <S>(client: HttpClient.HttpClient, format: Format<S>): Adapter => {
  const transport = Transport.of(client)
  return {
    check: (target) => format.url(target) === undefined ? withoutUrl(target) : undefined,
    complete: (target, request) =>
      Effect.suspend(() => {
        const sending = prepared(format, target, format.url(target), format.request(target, request, false), false)
        if (Result.isFailure(sending)) return Effect.fail(sending.failure)
        return whole(transport, format, sending.success, (exchange, text) =>
          Result.match(readReply(format, exchange, text), {
            onSuccess: (reply): Effect.Effect<Reply, LLMError.LLMError> =>
              Effect.succeed({ ...reply, requestId: exchange.requestId }),
            onFailure: (failure) =>
              fail(exchange, failure, false)
          }))
      }),
    stream: (target, request) =>
      Stream.unwrap(Effect.suspend(() => {
        const sending = prepared(format, target, format.url(target), format.request(target, request, true), true)
        if (Result.isFailure(sending)) return Effect.fail(sending.failure)
        const { caller, request: sent } = sending.success
        return Effect.matchEffect(transport.open(sent), {
          onSuccess: (response) =>
            opened(format, caller, response, (exchange) => Effect.succeed(parts(format, exchange))),
          onFailure: (error) => lost(caller, error, undefined)
        })
      }))
  }
}

/** Sends any request of a target and reads its reply as JSON, with the errors that a completion would have. */
export const postJson = (
  client: HttpClient.HttpClient,
  format: Pick<Format<never>, "authorize" | "requestIds">,
  target: Target,
  url: string | undefined,
  wire: WireRequest,
  isReply: (body: unknown) => boolean
): Effect.Effect<unknown, LLMError.LLMError> =>
  Effect.suspend(() => {
    const sending = prepared(format, target, url, wire, false)
    if (Result.isFailure(sending)) return Effect.fail(sending.failure)
    return whole(Transport.of(client), format, sending.success, (exchange, text) => {
      const body = Json.parse(text)
      if (isReply(body)) {
        return Effect.succeed(body)
      }
      if ((Json.field(body, "error") ?? undefined) !== undefined) {
        return fail(exchange, { _tag: "Reported", event: undefined, body: text }, false)
      }
      const failure = text.trim() === ""
        ? Parts.unusable("the response has no body", "empty_response")
        : Parts.unusable("the response is no reply", text.trim().startsWith("<") ? "html_error_page" : undefined)
      return fail(exchange, failure, false)
    })
  })

/** A response with status 2xx, and what an error about it has to say. */
interface Exchange extends Caller {
  readonly response: Transport.Response
  readonly requestId: string | undefined
}

/** Whom an error is about, and what it must not show. */
interface Caller {
  readonly target: Target
  readonly url: string
  readonly key: string | undefined
}

interface Sending {
  readonly caller: Caller
  readonly request: Transport.Request
}

const errorBodyLimit = 64 * 1024

/** What is sent, or why it cannot be. */
const prepared = (
  format: Pick<Format<never>, "authorize">,
  target: Target,
  url: string | undefined,
  wire: WireRequest,
  stream: boolean
): Result.Result<Sending, LLMError.LLMError> => {
  if (url === undefined) return Result.fail(rejected(target, `target.${withoutUrl(target)}`, "target"))
  const problem = wire.problems[0]
  if (problem !== undefined) return Result.fail(rejected(target, problem, "request"))
  const body = Result.try(() => JSON.stringify(wire.body))
  if (Result.isFailure(body)) {
    return Result.fail(rejected(target, "extra or parameters hold a value that is not JSON", "request"))
  }

  const key = target.key === undefined ? undefined : Redacted.value(target.key.value).trim()
  const headers: Record<string, string> = {
    accept: stream ? "text/event-stream" : "application/json",
    // Some edges refuse who does not say what it is.
    "user-agent": "breakwater",
    ...wire.headers
  }
  for (const name in target.headers) headers[name.toLowerCase()] = target.headers[name] ?? ""
  headers["content-type"] = "application/json"
  if (key !== undefined) {
    const [name, value] = format.authorize(key)
    headers[name] = value
  }
  return Result.succeed({
    caller: { target, url, key },
    request: { url, headers, body: body.success }
  })
}

/** Sends a request and reads the text of its response. */
const whole = <A>(
  transport: Transport.Transport,
  format: Pick<Format<never>, "requestIds">,
  { caller, request }: Sending,
  read: (exchange: Exchange, text: string) => Effect.Effect<A, LLMError.LLMError>
): Effect.Effect<A, LLMError.LLMError> =>
  transport.use(request, {
    onSuccess: (response) =>
      opened(format, caller, response, (exchange) =>
        Effect.matchEffect(response.text, {
          onSuccess: (text) => read(exchange, text),
          onFailure: (error) => lost(caller, error, true)
        })),
    onFailure: (error) => lost(caller, error, undefined)
  })

/** Tells who wants to know of a response that has begun, and goes on with it when it is no refusal. */
const opened = <A>(
  { requestIds }: Pick<Format<never>, "requestIds">,
  caller: Caller,
  response: Transport.Response,
  next: (exchange: Exchange) => Effect.Effect<A, LLMError.LLMError>
): Effect.Effect<A, LLMError.LLMError> =>
  Effect.withFiber((fiber) => {
    const { headers, status } = response
    const observe = fiber.getRef(OnResponse)
    const isRefused = status < 200 || status >= 300
    const goOn = isRefused
      ? refused(caller, response)
      : next({ ...caller, response, requestId: requestIdOf(headers, requestIds) })
    return observe === undefined ? goOn : Effect.andThen(observe({ target: caller.target, status, headers }), goOn)
  })

/** What to mend where there is nowhere to go. */
const withoutUrl = (target: Target): string =>
  `baseUrl is missing: provider ${target.provider} has no address of its own`

/** An error of the caller's making, found before anything was sent. */
const rejected = (target: Target, detail: string, scope: "request" | "target"): LLMError.LLMError =>
  new LLMError.PermanentError({
    provider: target.provider,
    model: target.model,
    target: target.id,
    reason: "invalid_request",
    scope,
    detail
  })

const contextOf = (caller: Caller, receivedAt: number) => ({
  provider: caller.target.provider,
  model: caller.target.model,
  target: caller.target.id,
  receivedAt,
  secrets: secretsOf(caller)
})

/** The connection could not be made or broke; `sent` says that the provider had the request for certain. */
const lost = (caller: Caller, error: unknown, sent: boolean | undefined): Effect.Effect<never, LLMError.LLMError> =>
  Effect.flatMap(
    Clock.currentTimeMillis,
    (now) => Effect.fail(Classifier.fromUnknown(error, { ...contextOf(caller, now), sent }))
  )

const refused = (
  caller: Caller,
  response: Transport.Response
): Effect.Effect<never, LLMError.LLMError> =>
  Effect.flatMap(cappedText(response), (body) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.fail(
        Classifier.fromHttp({ ...contextOf(caller, now), status: response.status, headers: response.headers, body })
      )))

/** The beginning of a body: enough to name the error, whatever its size, and whether or not the rest arrives. */
const cappedText = (response: Transport.Response): Effect.Effect<string> =>
  Effect.suspend(() => {
    const decoder = new TextDecoder()
    let text = ""
    const read = Stream.runForEachWhile(response.bytes, (bytes) =>
      Effect.sync(() => {
        text += decoder.decode(bytes, { stream: true })
        return text.length < errorBodyLimit
      }))
    return Effect.map(Effect.ignore(read), () => text.slice(0, errorBodyLimit))
  })

const fail = (
  exchange: Exchange,
  failure: Parts.Failure,
  contentSeen: boolean
): Effect.Effect<never, LLMError.LLMError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.fail(toError(exchange, failure, contentSeen, now)))

const toError = (
  exchange: Exchange,
  failure: Parts.Failure,
  contentSeen: boolean,
  now: number
): LLMError.LLMError => {
  const context = contextOf(exchange, now)
  const status = exchange.response.status
  switch (failure._tag) {
    case "Reported":
      return Classifier.fromSse({
        ...context,
        status,
        headers: exchange.response.headers,
        event: failure.event,
        body: failure.body,
        contentSeen
      })
    case "Truncated":
      return Classifier.streamTruncated({ ...context, status, requestId: exchange.requestId, sent: true })
    case "Unusable":
      return new LLMError.ServerError({
        provider: context.provider,
        model: context.model,
        target: context.target,
        reason: failure.reason,
        scope: "target",
        status,
        requestId: exchange.requestId,
        maybeBilled: true,
        detail: failure.detail
      })
  }
}

/** A whole reply, or why the body is none. */
const readReply = <S>(
  format: Format<S>,
  exchange: Exchange,
  text: string
): Result.Result<Parts.WireReply, Parts.Failure> => {
  const trimmed = text.trim()
  if (trimmed === "") return Result.fail(Parts.unusable("the response has no body", "empty_response"))
  const body = Json.parse(trimmed)
  if (body !== undefined) return format.reply(exchange.target, body, trimmed)
  return Result.fail(
    trimmed.startsWith("<")
      ? Parts.unusable("the response is an HTML page", "html_error_page")
      : Parts.unusable("the response is not JSON")
  )
}

/** The parts of a streamed answer; a provider that answers a streaming request with a whole reply is understood too. */
const parts = <S>(format: Format<S>, exchange: Exchange): Stream.Stream<ProviderPart, LLMError.LLMError> => {
  const head = Parts.metadata(exchange.target.model, exchange.requestId)
  const whole = (text: string) =>
    Result.match(readReply(format, exchange, text), {
      onSuccess: (reply): Effect.Effect<ReadonlyArray<ProviderPart>, LLMError.LLMError> =>
        Effect.succeed(Parts.ofReply(reply)),
      onFailure: (failure) => fail(exchange, failure, false)
    })
  if (/json|html/i.test(exchange.response.headers["content-type"] ?? "")) {
    const rest = Effect.flatMap(Effect.catch(exchange.response.text, (error) => lost(exchange, error, true)), whole)
    return Stream.concat(Stream.succeed(head), Stream.fromIterableEffect(rest))
  }
  return Sse.decode({
    head,
    bytes: exchange.response.bytes,
    machine: format.machine,
    target: exchange.target,
    whole,
    fail: (failure, contentSeen) => fail(exchange, failure, contentSeen),
    lost: (error) => lost(exchange, error, true)
  })
}

const requestIdOf = (
  headers: Readonly<Record<string, string>>,
  names: ReadonlyArray<string>
): string | undefined => {
  for (const name of names) {
    const value = headers[name]
    if (value !== undefined && value !== "") return value
  }
  return undefined
}

const secretHeader = /auth|key|token|cookie|secret/i

/** Everything that must not come back in an error, wherever a provider or a runtime may echo it. */
const secretsOf = ({ key, target, url }: Caller): ReadonlyArray<Redacted.Redacted<string>> => {
  const secrets: Array<string> = key === undefined ? [] : [key]
  for (const [name, value] of Object.entries(target.headers)) {
    if (secretHeader.test(name)) secrets.push(value, value.replace(/^\S+\s+/, ""))
  }
  if (/[?@]/.test(url)) {
    const parsed = new URL(url)
    secrets.push(parsed.password, Result.getOrElse(Result.try(() => decodeURIComponent(parsed.password)), () => ""))
    for (const [name, value] of parsed.searchParams) {
      if (secretHeader.test(name)) secrets.push(value)
    }
  }
  return secrets.filter((_) => _ !== "").map((_) => Redacted.make(_))
}
