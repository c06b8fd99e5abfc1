/**
 * The frame of a call of a client: who it is, whether it is let in, and what every response to it says.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import type { AccessKey, Plan } from "./config.ts"
import type { Envelope, Face } from "./face.ts"
import * as Keys from "./keys.ts"
import type { Model, State } from "./models.ts"
import * as Refusals from "./refusal.ts"

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

export type Response = HttpServerResponse.HttpServerResponse
export type Handler = Effect.Effect<Response, never, HttpServerRequest.HttpServerRequest | Scope.Scope>

/** A call on its way: what every response to it says. */
export interface Visit {
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

/** Handles a request in a face: what fails becomes the face's error, with the status that fits. */
export const handler = (
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
export const enterModel = (visit: Visit, model: string): void => {
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
// responses
// ---------------------------------------------------------------------------------------------------------------------

/** How a call went, as far as it is known. */
export interface Course {
  readonly target: string | undefined
  readonly attempts: number
  readonly waitedMs: number
}

export const headersOf = ({ desk, envelope, face }: Visit, course: Course | undefined): Record<string, string> => ({
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
