/**
 * Handles the calls of clients: what is asked, and which model answers.
 *
 * @internal
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Result from "effect/Result"
import type { CompletionRequest } from "../../LLMService.ts"
import * as Json from "../wire/json.ts"
import * as Answers from "./answer.ts"
import * as Embeddings from "./embeddings.ts"
import * as Extras from "./extras.ts"
import type { Face } from "./face.ts"
import type { Model } from "./models.ts"
import * as Receiving from "./receiving.ts"
import * as Refusals from "./refusal.ts"
import type { Desk, Handler, Response, Visit } from "./visit.ts"
import * as Visits from "./visit.ts"

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

/** Chat completions or messages, whole or streamed. */
export const completions = (desk: Desk, face: Face): Handler =>
  Visits.handler(desk, face, (visit) =>
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
        Visits.enterModel(visit, model.name)
        return asked.stream ? Answers.streamed(visit, model, asked) : Answers.whole(visit, model, asked)
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

export const embeddings = (desk: Desk, face: Face): Handler =>
  Visits.handler(desk, face, (visit) =>
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
        Visits.enterModel(visit, model.name)
        return Effect.matchEffect(executed, {
          onSuccess: ({ attempts, target, timings, value }) =>
            Effect.succeed(
              Answers.answered(visit, value, { target, attempts: attempts.length, waitedMs: timings.waitedMs })
            ),
          onFailure: (error) => Answers.refusedBy(visit, model, error)
        })
      })
    }))

/** The models a client may name, in the shape that it knows. */
export const models = (desk: Desk, openai: Face, anthropic: Face): Handler =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers, url }) => {
    const isAnthropic = headers["anthropic-version"] !== undefined
    return Visits.handler(desk, isAnthropic ? anthropic : openai, (visit) => {
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
    headers: Visits.headersOf(visit, undefined)
  })

/** Whatever else is asked under `/v1`. */
export const unknown = (desk: Desk, openai: Face, anthropic: Face): Handler =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers, method, url }) =>
    Visits.handler(
      desk,
      headers["anthropic-version"] === undefined && !url.startsWith("/v1/messages") ? openai : anthropic,
      () => Effect.fail(Refusals.unknownRoute(method, url))
    ))
