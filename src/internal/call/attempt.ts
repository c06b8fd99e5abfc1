/**
 * One attempt under its limits of time: a whole answer, or a stream up to its first content and from there on.
 *
 * @internal
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Classifier from "../../Classifier.ts"
import type { LLMError } from "../../LLMError.ts"
import type { StreamPart } from "../../LLMService.ts"
import type { Reply } from "../../Provider.ts"
import * as Timeouts from "../../Timeouts.ts"
import { about } from "./about.ts"
import * as Admissions from "./admit.ts"
import type { Attempt, Call } from "./call.ts"
import * as Completions from "./completion.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"
import { failAfter } from "./run.ts"

export const complete = (call: Call, attempt: Attempt): Effect.Effect<Reply, LLMError> => {
  const { adapter, target } = attempt.member
  const { attempt: millis } = call.engine.limits
  const reply = adapter.complete(target, call.request)
  const limited = millis < attempt.remainingMs
    ? Timeouts.attempt(reply, millis, about(attempt.member.target))
    : Timeouts.total(reply, attempt.remainingMs, about(attempt.member.target))
  return Effect.flatMap(Admissions.observing(call, attempt, limited), (reply) => {
    Records.success(call, attempt)
    return Effect.as(Observers.succeeded(call, attempt, reply.usage), reply)
  })
}

type Parts = Arr.NonEmptyReadonlyArray<StreamPart>

/** A stream whose first content part has arrived. */
export interface Opened {
  readonly first: Parts
  readonly rest: Pull.Pull<Parts, LLMError>
}

/** Opens a stream in the scope of its attempt, up to its first content part. */
export const open = (call: Call, attempt: Attempt, scope: Scope.Scope): Effect.Effect<Opened, LLMError> => {
  const { adapter, target } = attempt.member
  const { limits } = call.engine
  const limited = Timeouts.stream(adapter.stream(target, call.request), {
    connect: limits.connect,
    firstToken: limits.firstToken,
    idle: limits.idle,
    total: attempt.remainingMs,
    isContent: Timeouts.isContentPart,
    context: about(attempt.member.target)
  })
  return Admissions.observing(
    call,
    attempt,
    Effect.tap(
      Effect.flatMap(Scope.provide(Stream.toPull(limited), scope), (pull) => untilContent(attempt, pull, [])),
      Observers.firstContent(call, attempt)
    )
  )
}

const isDecisive = (part: StreamPart): boolean => part.type === "finish" || Timeouts.isContentPart(part)

const untilContent = (
  attempt: Attempt,
  pull: Opened["rest"],
  seen: ReadonlyArray<StreamPart>
): Effect.Effect<Opened, LLMError> =>
  Pull.matchEffect(pull, {
    onSuccess: (parts) => {
      const [head = parts[0], ...tail] = [...seen, ...parts]
      const joined: Parts = [head, ...tail]
      return parts.some(isDecisive)
        ? Effect.succeed({ first: joined, rest: pull })
        : untilContent(attempt, pull, joined)
    },
    onFailure: Effect.failCause,
    onDone: () => Effect.fail(Classifier.streamTruncated(about(attempt.member.target)))
  })

/** The stream as the caller sees it: from here on its failure is final. */
export const handOver = (call: Call, attempt: Attempt, opened: Opened): Stream.Stream<StreamPart, LLMError> => {
  const { target } = attempt.member
  let first: Parts | undefined = opened.first
  let finished = false

  const handed = (parts: Parts): Effect.Effect<Parts> => {
    if (attempt.grant !== undefined) { for (const part of parts) attempt.grant.emitted += contentLength(part) }
    const last = parts[parts.length - 1]
    if (last?.type !== "finish") return Effect.succeed(parts)
    finished = true
    Records.success(call, attempt)
    const finish = Completions.annotateFinish(last, target, call.attempts, Records.timings(call, attempt))
    return Effect.as(
      Observers.succeeded(call, attempt, last.usage),
      parts.length === 1 ? [finish] : [parts[0], ...parts.slice(1, -1), finish]
    )
  }

  const rest: Opened["rest"] = Pull.catchDone(
    Effect.flatMap(opened.rest, handed),
    (): Effect.Effect<never, LLMError | Cause.Done> =>
      finished ? Cause.done() : Effect.fail(Classifier.streamTruncated(about(attempt.member.target)))
  )

  const pull: Opened["rest"] = Effect.suspend(() => {
    if (first === undefined) return rest
    const parts = first
    first = undefined
    return handed(parts)
  })

  return Stream.catch(
    Stream.fromPull(Effect.succeed(pull)),
    (error) =>
      Stream.fromEffect(Effect.andThen(Observers.failed(call, attempt, error), failAfter(call, attempt, error)))
  )
}

const contentLength = (part: StreamPart): number => "delta" in part ? part.delta.length : 0
