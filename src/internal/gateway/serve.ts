/**
 * Handles the calls of clients: who it is, what is asked, which model answers, and how the answer is sent.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Cooldown from "../../Cooldown.ts"
import type { LLMError } from "../../LLMError.ts"
import type { Completion, CompletionRequest, StreamPart } from "../../LLMService.ts"
import * as Json from "../wire/json.ts"
import type { AccessKey, Plan } from "./config.ts"
import * as Embeddings from "./embeddings.ts"
import * as Extras from "./extras.ts"
import type { Asked, Envelope, Face, Writer } from "./face.ts"
import * as Keys from "./keys.ts"
import type { Model, State } from "./models.ts"
import * as Receiving from "./receiving.ts"
import * as Refusals from "./refusal.ts"
import * as Sending from "./sending.ts"

/** What is served at present. */
export interface Current {
  readonly plan: Plan
  readonly models: ReadonlyMap<string, Model>
}

/** The gateway as its handlers see it. */
export interface Desk {
  readonly state: State
  current: Current
  /** Whether new calls are refused. */
  draining: boolean
  /** Calls that have begun and not ended, in all and by model. */
  inFlight: number
  readonly byModel: Map<string, number>
  /** Run when the last call has ended. */
  readonly idle: Set<() => void>
  readonly counts: { calls: number; refused: number; slowClients: number }
}

export const makeDesk = (state: State, current: Current): Desk => ({
  state,
  current,
  draining: false,
  inFlight: 0,
  byModel: new Map(),
  idle: new Set(),
  counts: { calls: 0, refused: 0, slowClients: 0 }
})

type Response = HttpServerResponse.HttpServerResponse
type Handler = Effect.Effect<Response, never, HttpServerRequest.HttpServerRequest | Scope.Scope>

/** A call on its way: what every response to it says. */
interface Visit {
  readonly desk: Desk
  readonly face: Face
  readonly request: HttpServerRequest.HttpServerRequest
  readonly scope: Scope.Scope
  readonly envelope: Envelope
  readonly key: AccessKey | undefined
  /** Whether it is among the calls in flight, and under which model. */
  isIn: boolean
  model: string | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// the frame of a call
// ---------------------------------------------------------------------------------------------------------------------

/** Handles a request in a face: what fails becomes the face's error, with the status that fits. */
const handler = (
  desk: Desk,
  face: Face,
  handle: (visit: Visit) => Effect.Effect<Response, Refusals.Refusal>
): Handler =>
  Effect.contextWith((context: Context.Context<HttpServerRequest.HttpServerRequest | Scope.Scope>) => {
    const now = Context.get(context, Clock.Clock).currentTimeMillisUnsafe()
    const request = Context.get(context, HttpServerRequest.HttpServerRequest)
    const admitted = admit(desk, request)
    const visit: Visit = {
      desk,
      face,
      request,
      scope: Context.get(context, Scope.Scope),
      envelope: { requestId: newId(Context.get(context, Random.Random)), created: Math.floor(now / 1000) },
      key: Result.isSuccess(admitted) ? admitted.success : undefined,
      isIn: false,
      model: undefined
    }
    desk.counts.calls++
    const handled = Result.isFailure(admitted)
      ? Effect.fail(admitted.failure)
      : Effect.flatMap(Scope.addFinalizer(visit.scope, Effect.sync(() => leave(visit))), () => {
        enter(visit)
        return handle(visit)
      })
    return handled.pipe(
      Effect.catch((refusal) => Effect.succeed(refused(visit, refusal))),
      Effect.catchDefect((defect) =>
        Effect.as(Effect.logError("gateway: a call failed", defect), refused(visit, Refusals.defect))
      ),
      Effect.annotateLogs("request", visit.envelope.requestId)
    )
  })

const digits = "abcdefghijklmnopqrstuvwxyz0123456789"

const newId = (random: { readonly nextDoubleUnsafe: () => number }): string => {
  let id = ""
  for (let index = 0; index < 20; index++) id += digits[Math.floor(random.nextDoubleUnsafe() * digits.length)]
  return id
}

const admit = (
  desk: Desk,
  request: HttpServerRequest.HttpServerRequest
): Result.Result<AccessKey | undefined, Refusals.Refusal> => {
  const { access, settings } = desk.current.plan
  // Who comes back when the last call must have ended finds whoever has taken our place.
  if (desk.draining) return Result.fail(Refusals.draining(Math.min(settings.drainMs, 5000)))
  if (access.length === 0) return Result.succeed(undefined)
  const secret = Keys.presented(request.headers)
  const key = secret === undefined ? undefined : Keys.find(access, secret)
  return key === undefined ? Result.fail(Refusals.unauthorized(secret === undefined)) : Result.succeed(key)
}

/** Counts a call; its scope is open to the last byte of its response, and then it leaves. */
const enter = (visit: Visit): void => {
  visit.isIn = true
  visit.desk.inFlight++
}

/** Counts it under its model, too, once that is known. */
const enterModel = (visit: Visit, model: string): void => {
  visit.model = model
  const { byModel } = visit.desk
  byModel.set(model, (byModel.get(model) ?? 0) + 1)
}

const leave = ({ desk, isIn, model }: Visit): void => {
  if (model !== undefined) {
    const left = (desk.byModel.get(model) ?? 0) - 1
    if (left === 0) desk.byModel.delete(model)
    else desk.byModel.set(model, left)
  }
  if (isIn && --desk.inFlight === 0) { for (const resume of desk.idle) resume() }
}

// ---------------------------------------------------------------------------------------------------------------------
// reading
// ---------------------------------------------------------------------------------------------------------------------

const bodyOf = ({ desk, request }: Visit): Effect.Effect<unknown, Refusals.Refusal> => {
  const { bodyTimeoutMs, maxBodyBytes } = desk.current.plan.settings
  if (Number(request.headers["content-length"] ?? 0) > maxBodyBytes) return Effect.fail(Refusals.tooLarge(maxBodyBytes))
  return Effect.flatMap(Receiving.text(request, { maxBytes: maxBodyBytes, timeoutMs: bodyTimeoutMs }), (text) => {
    const body = Json.parse(text)
    return body === undefined ? Effect.fail(Refusals.invalid("the body is not JSON")) : Effect.succeed(body)
  })
}

const modelOf = ({ desk, key }: Visit, name: string): Effect.Effect<Model, Refusals.Refusal> => {
  const model = desk.current.models.get(name)
  return model === undefined || key?.models?.has(name) === false
    ? Effect.fail(Refusals.unknownModel(name))
    : Effect.succeed(model)
}

const priorities = ["emergency", "high", "normal", "low", "background"] as const

/** What a client says about its call in headers of ours. */
const wishes = (
  { desk, key, request: { headers } }: Visit
): Result.Result<
  Pick<CompletionRequest, "priority" | "tenant" | "affinity" | "deadline" | "tags">,
  Refusals.Refusal
> => {
  const given = headers["x-breakwater-priority"]
  const priority = priorities.find((_) => _ === given)
  if (given !== undefined && priority === undefined) {
    return Result.fail(Refusals.invalid(`x-breakwater-priority must be one of ${priorities.join(", ")}`))
  }
  const timeout = headers["x-breakwater-timeout-ms"]
  const deadline = timeout === undefined ? undefined : Number(timeout)
  if (deadline !== undefined && !(deadline > 0)) {
    return Result.fail(Refusals.invalid("x-breakwater-timeout-ms must be a number > 0"))
  }
  const tags = headers["x-breakwater-tags"]?.split(",").map((_) => _.trim()).filter((_) => _ !== "")
  // Where clients are known by their keys, they do not choose whose quota they use.
  const tenant = desk.current.plan.access.length > 0 ? key?.tenant : headers["x-breakwater-tenant"]
  return Result.succeed({
    priority,
    tenant: tenant === "" ? undefined : tenant,
    affinity: headers["x-breakwater-affinity"] === "" ? undefined : headers["x-breakwater-affinity"],
    deadline,
    tags
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// responses
// ---------------------------------------------------------------------------------------------------------------------

/** How a call went, as far as it is known. */
interface Course {
  readonly target: string | undefined
  readonly attempts: number
  readonly waitedMs: number
}

const headersOf = ({ desk, envelope, face }: Visit, course: Course | undefined): Record<string, string> => ({
  [face.requestIdHeader]: envelope.requestId,
  "x-breakwater-request-id": envelope.requestId,
  ...(course === undefined ? {} : {
    ...(course.target === undefined ? {} : { "x-breakwater-target": headerSafe(course.target) }),
    "x-breakwater-attempts": String(course.attempts),
    "x-breakwater-waited-ms": String(Math.round(course.waitedMs))
  }),
  ...(desk.draining ? { connection: "close" } : {})
})

const unsafeInHeader = /[^\x20-\x7e]/

// Ids of targets are chosen freely, and a header holds less than a JSON text.
const headerSafe = (text: string): string => unsafeInHeader.test(text) ? text.replaceAll(/[^\x20-\x7e]/g, "?") : text

const refused = (visit: Visit, refusal: Refusals.Refusal): Response => {
  const { desk, envelope, face } = visit
  desk.counts.refused++
  const course = refusal.target === undefined && refusal.attempts.length === 0 ? undefined : {
    target: refusal.target,
    attempts: refusal.attempts.length,
    waitedMs: refusal.attempts.reduce((sum, attempt) => sum + attempt.waitedMs, 0)
  }
  const wait = refusal.retryAfterMs
  return HttpServerResponse.text(JSON.stringify(face.refusal(envelope, refusal)), {
    status: face.status(refusal),
    contentType: "application/json",
    headers: {
      ...headersOf(visit, course),
      ...(wait === undefined ? {} : {
        "retry-after": String(Math.ceil(wait / 1000)),
        "retry-after-ms": String(Math.ceil(wait))
      }),
      ...(refusal.isFinal ? { "x-should-retry": "false" } : {})
    }
  })
}

/** A whole answer; a long one is watched while the client reads it. */
const answered = (visit: Visit, value: unknown, course: Course): Response => {
  const text = JSON.stringify(value)
  const headers = headersOf(visit, course)
  const contentType = "application/json"
  if (Sending.isShort(text)) return HttpServerResponse.text(text, { headers, contentType })
  const bytes = new TextEncoder().encode(text)
  return HttpServerResponse.stream(watched(visit, Sending.slices(bytes, Cause.done())), {
    headers,
    contentType,
    contentLength: bytes.length
  })
}

const watched = ({ desk, envelope, scope }: Visit, next: Pull.Pull<Uint8Array>): Stream.Stream<Uint8Array> =>
  Sending.body(
    next,
    desk.current.plan.settings.slowClientMs,
    scope,
    Effect.suspend(() => {
      desk.counts.slowClients++
      return Effect.logWarning(`gateway: ${envelope.requestId}: the client has stopped reading, and was cut off`)
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// completions
// ---------------------------------------------------------------------------------------------------------------------

/** Chat completions or messages, whole or streamed. */
export const completions = (desk: Desk, face: Face): Handler =>
  handler(desk, face, (visit) =>
    Effect.flatMap(bodyOf(visit), (body) => {
      const read = Result.flatMap(face.read(body), (asked) =>
        Result.map(
          wishes(visit),
          (wishes) => ({ ...asked, request: { ...handedOn(visit, asked.request), ...wishes } })
        ))
      if (Result.isFailure(read)) {
        return Effect.fail(read.failure)
      }
      const asked = read.success
      return Effect.flatMap(modelOf(visit, asked.model), (model) => {
        enterModel(visit, model.name)
        return asked.stream ? streamed(visit, model, asked) : whole(visit, model, asked)
      })
    }))

/** The request with the headers that targets of the client's own format know. */
const handedOn = ({ face, request: { headers } }: Visit, request: CompletionRequest): CompletionRequest => {
  if (face.headers.length === 0) return request
  const known = face.headers.flatMap((name) => {
    const value = headers[name]
    return value === undefined ? [] : [[name, value]]
  })
  return Extras.add(request, face.name, { headers: Object.fromEntries(known) })
}

const whole = (visit: Visit, model: Model, asked: Asked): Effect.Effect<Response, Refusals.Refusal> => {
  const one = model.service.complete(asked.request)
  const all = asked.choices === 1
    ? Effect.map(one, Arr.of)
    : Effect.all(Arr.makeBy(asked.choices, () => one), { concurrency: "unbounded" })
  return Effect.matchEffect(all, {
    onSuccess: (completions) =>
      Effect.succeed(answered(visit, visit.face.whole(visit.envelope, completions), courseOfAll(completions))),
    onFailure: (error) => refusedBy(visit, model, error)
  })
}

/** Refuses a call that failed; where all targets rest from it, the client is told when the first of them is back. */
const refusedBy = (
  { desk: { state } }: Visit,
  { scopeKeys }: Model,
  error: LLMError
): Effect.Effect<never, Refusals.Refusal> => {
  const refusal = Refusals.ofError(error)
  if (refusal.retryAfterMs !== undefined) return Effect.fail(refusal)
  return Effect.flatMap(Context.get(state.kept, Cooldown.Cooldown).latest(scopeKeys), (cooling) => {
    const waits = cooling.flatMap((entry) => entry === undefined ? [] : [entry.remainingMs])
    return Effect.fail(
      waits.length < scopeKeys.length ? refusal : { ...refusal, retryAfterMs: Math.min(...waits) }
    )
  })
}

const courseOfAll = (completions: Arr.NonEmptyReadonlyArray<Completion>): Course => ({
  target: completions[0].target,
  attempts: completions.reduce((sum, { attempts }) => sum + attempts.length, 0),
  waitedMs: Math.max(...completions.map((_) => _.timings.waitedMs))
})

/** Pieces of a stream, as they come, and how they are read: parts of one choice, or of several in turn. */
interface Pieces<A> {
  readonly stream: Stream.Stream<A, LLMError>
  readonly write: (pieces: ReadonlyArray<A>) => string
  readonly course: (pieces: ReadonlyArray<A>) => Course | undefined
}

/**
 * A stream is opened by its first content, so that whatever fails before that has a status of its own. A wait that lasts
 * opens it all the same, with a comment, and from then on errors are events.
 */
const streamed = (visit: Visit, model: Model, asked: Asked): Effect.Effect<Response, Refusals.Refusal> => {
  const { envelope, face, request } = visit
  const writer = face.writer(envelope, asked)
  const policy = asked.request.streamPolicy ?? model.plan.options.streamPolicy
  // A client that does not know of beginning anew would take two answers for one.
  const understands = request.headers["x-breakwater-restart"] === "true"
  const stream = model.service.stream({
    ...asked.request,
    streamPolicy: policy === "restart" && !understands ? "fail" : policy
  })
  if (asked.choices === 1) {
    return open(visit, model, writer, {
      stream,
      write: (parts) => writer.parts(parts, 0),
      course: ([part]) => courseOf(part)
    })
  }
  const choices = Arr.makeBy(asked.choices, (choice) => Stream.map(stream, (part) => ({ choice, part })))
  return open(visit, model, writer, {
    stream: Stream.mergeAll(choices, { concurrency: "unbounded" }),
    write: (pieces) => pieces.map(({ choice, part }) => writer.parts([part], choice)).join(""),
    course: ([piece]) => courseOf(piece?.part)
  })
}

const open = <A>(
  visit: Visit,
  model: Model,
  writer: Writer,
  pieces: Pieces<A>
): Effect.Effect<Response, Refusals.Refusal> => {
  const { heartbeatMs } = visit.desk.current.plan.settings
  return Effect.flatMap(
    Channel.toPullScoped(Stream.toChannel(pieces.stream), visit.scope),
    (source: Source<A>) =>
      Effect.flatMap(
        Effect.forkIn(source, visit.scope, { startImmediately: true }),
        (first) =>
          Effect.flatMap(within(first, heartbeatMs), (exit) => {
            if (exit === undefined) {
              return Effect.succeed(opened(visit, writer, pieces, source, first, []))
            }
            if (Exit.isSuccess(exit)) {
              return Effect.succeed(opened(visit, writer, pieces, source, undefined, exit.value))
            }
            const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
            if (error === undefined) return Effect.failCause(Cause.map(exit.cause, () => Refusals.defect))
            return Cause.isDone(error) ? Effect.fail(Refusals.defect) : refusedBy(visit, model, error)
          })
      )
  )
}

type Source<A> = Pull.Pull<ReadonlyArray<A>, LLMError>
type First<A> = Fiber.Fiber<ReadonlyArray<A>, LLMError | Cause.Done>

/** Waits for the first content for a while. */
const within = <A>(
  first: First<A>,
  millis: number
): Effect.Effect<Exit.Exit<ReadonlyArray<A>, LLMError | Cause.Done> | undefined> => {
  const exit = first.pollUnsafe()
  if (exit !== undefined) return Effect.succeed(exit)
  return Number.isFinite(millis)
    ? Effect.map(Effect.timeoutOption(Fiber.await(first), millis), Option.getOrUndefined)
    : Fiber.await(first)
}

/** What the head of a stream says about the call. */
const courseOf = (head: StreamPart | undefined): Course | undefined => {
  if (head?.type !== "response-metadata") return undefined
  const known = head.metadata["breakwater"]
  return {
    target: Json.text(Json.field(known, "target")),
    attempts: Json.count(Json.field(known, "attempts")) ?? 1,
    waitedMs: Json.count(Json.field(known, "waitedMs")) ?? 0
  }
}

const heartbeat = ": waiting for the first token\n\n"

const opened = <A>(
  visit: Visit,
  writer: Writer,
  { course, write }: Pieces<A>,
  source: Source<A>,
  first: First<A> | undefined,
  head: ReadonlyArray<A>
): Response => {
  const encoder = new TextEncoder()
  const { heartbeatMs } = visit.desk.current.plan.settings
  let waiting = first
  let begun: string | undefined = first === undefined ? write(head) : heartbeat
  let over = false

  const failed = (cause: Cause.Cause<LLMError | Cause.Done>): Pull.Pull<string> => {
    over = true
    const error = Option.getOrUndefined(Cause.findErrorOption(cause))
    if (error !== undefined && Cause.isDone(error)) return Cause.done()
    if (error === undefined && Cause.hasInterrupts(cause)) return Effect.interrupt
    const refusal = error === undefined ? Refusals.defect : Refusals.ofError(error)
    const why = error === undefined ? Cause.pretty(cause) : error.message
    const told = Effect.logWarning(`gateway: ${visit.envelope.requestId}: the stream broke: ${why}`)
    return Effect.as(told, writer.failure(refusal))
  }

  const text: Pull.Pull<string> = Effect.suspend((): Pull.Pull<string> => {
    if (over) return Cause.done()
    if (begun !== undefined) {
      const text = begun
      begun = undefined
      return written(text)
    }
    if (waiting === undefined) {
      return Effect.matchCauseEffect(source, { onSuccess: (pieces) => written(write(pieces)), onFailure: failed })
    }
    return Effect.flatMap(within(waiting, heartbeatMs), (exit) => {
      if (exit === undefined) return Effect.succeed(heartbeat)
      waiting = undefined
      return Exit.isSuccess(exit) ? written(write(exit.value)) : failed(exit.cause)
    })
  })

  // Parts that say nothing to the client are no piece of the body.
  const written = (piece: string): Pull.Pull<string> => piece === "" ? text : Effect.succeed(piece)

  return HttpServerResponse.stream(watched(visit, Effect.map(text, (piece) => encoder.encode(piece))), {
    contentType: "text/event-stream; charset=utf-8",
    headers: {
      ...headersOf(visit, course(head)),
      "cache-control": "no-cache",
      // A proxy that collects what it hands on would undo the stream.
      "x-accel-buffering": "no"
    }
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// embeddings and models
// ---------------------------------------------------------------------------------------------------------------------

export const embeddings = (desk: Desk, face: Face): Handler =>
  handler(desk, face, (visit) =>
    Effect.flatMap(bodyOf(visit), (body) => {
      const read = Result.flatMap(Embeddings.read(body), (asked) =>
        Result.map(wishes(visit), (wishes) => ({ asked, wishes })))
      if (Result.isFailure(read)) {
        return Effect.fail(read.failure)
      }
      const { asked, wishes: { affinity, deadline, priority, tags, tenant } } = read.success
      return Effect.flatMap(modelOf(visit, asked.model), (model) => {
        const { embeddings } = model
        if (embeddings === undefined) {
          return Effect.fail(Refusals.invalid(`no target of ${model.name} has embeddings`, "model"))
        }
        const { formats } = desk.current.plan
        const executed = embeddings.executeRecorded(
          (target) =>
            Embeddings.ask(desk.state.client, formats.get(target.provider) ?? "generic", target, asked),
          {
            affinity,
            deadline,
            priority,
            tags,
            tenant,
            tokens: { input: asked.tokens, output: 0 },
            usage: Embeddings.used
          }
        )
        enterModel(visit, model.name)
        return Effect.matchEffect(executed, {
          onSuccess: ({ attempts, target, timings, value }) =>
            Effect.succeed(
              answered(visit, value, { target, attempts: attempts.length, waitedMs: timings.waitedMs })
            ),
          onFailure: (error) => refusedBy(visit, model, error)
        })
      })
    }))

/** The models a client may name, in the shape that it knows. */
export const models = (desk: Desk, openai: Face, anthropic: Face): Handler =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers, url }) => {
    const isAnthropic = headers["anthropic-version"] !== undefined
    return handler(desk, isAnthropic ? anthropic : openai, (visit) => {
      const { created } = visit.envelope
      const entry = (name: string) =>
        isAnthropic
          ? {
            type: "model",
            id: name,
            display_name: name,
            created_at: DateTime.formatIso(DateTime.makeUnsafe(created * 1000))
          }
          : { id: name, object: "model", created, owned_by: "breakwater" }
      const wanted = /^(?:\/openai)?\/v1\/models\/([^?]+)/.exec(url)?.[1]
      if (wanted !== undefined) {
        const name = Result.getOrElse(Result.try(() => decodeURIComponent(wanted)), () => wanted)
        return Effect.map(modelOf(visit, name), () => json(visit, entry(name)))
      }
      const names = Array.from(desk.current.models.keys()).filter((name) => visit.key?.models?.has(name) !== false)
      const data = names.map(entry)
      return Effect.succeed(json(
        visit,
        isAnthropic
          ? { data, has_more: false, first_id: names[0] ?? null, last_id: names.at(-1) ?? null }
          : { object: "list", data }
      ))
    })
  })

const json = (visit: Visit, value: unknown): Response =>
  HttpServerResponse.text(JSON.stringify(value), {
    contentType: "application/json",
    headers: headersOf(visit, undefined)
  })

/** Whatever else is asked under `/v1`. */
export const unknown = (desk: Desk, openai: Face, anthropic: Face): Handler =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers, method, url }) =>
    handler(
      desk,
      headers["anthropic-version"] === undefined && !url.startsWith("/v1/messages") ? openai : anthropic,
      () => Effect.fail(Refusals.unknownRoute(method, url))
    ))
