/**
 * Sends answers: whole, or as events as they come.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import * as Cooldown from "../../Cooldown.ts"
import type { LLMError } from "../../LLMError.ts"
import type { Completion, StreamPart } from "../../LLMService.ts"
import * as Json from "../wire/json.ts"
import type { Asked, Writer } from "./face.ts"
import type { Model } from "./models.ts"
import * as Refusals from "./refusal.ts"
import * as Sending from "./sending.ts"
import type { Course, Response, Visit } from "./visit.ts"
import * as Visits from "./visit.ts"

/** A whole answer; a long one is watched while the client reads it. */
export const answered = (visit: Visit, value: unknown, course: Course): Response => {
  const text = JSON.stringify(value)
  const headers = Visits.headersOf(visit, course)
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

/** Refuses a call that failed; where all targets rest from it, the client is told when the first of them is back. */
export const refusedBy = (
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

// ---------------------------------------------------------------------------------------------------------------------
// whole answers
// ---------------------------------------------------------------------------------------------------------------------

export const whole = (visit: Visit, model: Model, asked: Asked): Effect.Effect<Response, Refusals.Refusal> => {
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

const courseOfAll = (completions: Arr.NonEmptyReadonlyArray<Completion>): Course => ({
  target: completions[0].target,
  attempts: completions.reduce((sum, { attempts }) => sum + attempts.length, 0),
  waitedMs: Math.max(...completions.map((_) => _.timings.waitedMs))
})

// ---------------------------------------------------------------------------------------------------------------------
// streams
// ---------------------------------------------------------------------------------------------------------------------

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
export const streamed = (visit: Visit, model: Model, asked: Asked): Effect.Effect<Response, Refusals.Refusal> => {
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
      ...Visits.headersOf(visit, course(head)),
      "cache-control": "no-cache",
      // A proxy that collects what it hands on would undo the stream.
      "x-accel-buffering": "no"
    }
  })
}
