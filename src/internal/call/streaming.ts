/**
 * One attempt at a stream, up to its first content and from there on, and what follows when it breaks after that.
 *
 * Until content has been handed over, a failure is an attempt like any other. Afterwards it is the caller's, unless the
 * policy lets the call go on: with another answer from its beginning, or with the same one where it was cut.
 *
 * @internal
 */
import * as Prompt from "effect/ai/Prompt"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Classifier from "../../Classifier.ts"
import type * as Errors from "../../LLMError.ts"
import type { RestartedPart, StreamPart, StreamPolicy } from "../../LLMService.ts"
import type { Adapter } from "../../Provider.ts"
import * as Timeouts from "../../Timeouts.ts"
import { fromCharacters } from "../../Usage.ts"
import * as Step from "../step.ts"
import * as Admissions from "./admit.ts"
import * as Attempts from "./attempt.ts"
import type { Attempt, Call, Loop, Served } from "./call.ts"
import * as Completions from "./completion.ts"
import * as Decisions from "./decision.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"
import type * as Requests from "./request.ts"
import * as Calls from "./run.ts"
import { failAfter } from "./settle.ts"

type Parts = Arr.NonEmptyReadonlyArray<StreamPart>

/** A stream whose first content part has arrived. */
export interface Opened {
  readonly first: Parts
  readonly rest: Pull.Pull<Parts, Errors.LLMError>
}

/** What is known of a stream over all its attempts. */
export interface Session {
  readonly policy: StreamPolicy
  readonly original: Requests.Prepared
  /** What the next attempt asks for. */
  request: Requests.Prepared
  /** Text that has been handed over and stands. */
  text: string
  /** Whether a tool call, or a part of one, has been handed over. */
  tools: boolean
  /** Id of the text block that is open. */
  block: string | undefined
  /** Whether a block of reasoning is open. */
  reasoning: boolean
}

export const makeSession = (policy: StreamPolicy, request: Requests.Prepared): Session => ({
  policy,
  original: request,
  request,
  text: "",
  tools: false,
  block: undefined,
  reasoning: false
})

/** Opens a stream in the scope of its attempt, up to its first content part. */
export const open = (
  call: Call,
  session: Session,
  attempt: Attempt,
  adapter: Adapter
): Effect.Effect<Opened, Errors.LLMError> => {
  const { limits } = call.engine
  const { target } = attempt.member
  const limited = Timeouts.stream(adapter.stream(target, session.request), {
    connect: Math.min(limits.connect, attempt.sliceMs),
    firstToken: Math.min(limits.firstToken, attempt.sliceMs),
    idle: limits.idle,
    total: attempt.remainingMs,
    isContent: Timeouts.isContentPart,
    context: attempt.member.about
  })
  const isEnough = session.policy === "buffer" ? isLast : isDecisive
  const opened = Effect.flatMap(
    Channel.toPullScoped(Stream.toChannel(limited), scopeOf(attempt)),
    (pull) => until(isEnough, call, attempt, pull, [])
  )
  const change = Admissions.observing(call, attempt)
  if (session.policy === "buffer") return Attempts.timed(call, attempt, opened, change)
  return change === undefined ? opened : Effect.updateContext(opened, change<never>)
}

// The attempts of a stream have the stream's own scope above them.
const scopeOf = ({ member, scope }: Attempt): Scope.Closeable => {
  if (scope === undefined) throw new RangeError(`Router: no scope for a stream of "${member.target.id}"`)
  return scope
}

const isLast = (part: StreamPart): boolean => part.type === "finish"

const isDecisive = (part: StreamPart): boolean => isLast(part) || Timeouts.isContentPart(part)

const until = (
  isEnough: (part: StreamPart) => boolean,
  call: Call,
  attempt: Attempt,
  pull: Opened["rest"],
  seen: ReadonlyArray<StreamPart>
): Effect.Effect<Opened, Errors.LLMError> =>
  Pull.matchEffect(pull, {
    onSuccess: (parts) => {
      const [head = parts[0], ...tail] = seen.length === 0 ? parts : [...seen, ...parts]
      const joined: Parts = [head, ...tail]
      const next = parts.some(isEnough)
        ? Effect.succeed({ first: joined, rest: pull })
        : until(isEnough, call, attempt, pull, joined)
      return attempt.firstContentAt === undefined && parts.some(isDecisive)
        ? Effect.andThen(Observers.firstContent(call, attempt), next)
        : next
    },
    onFailure: Effect.failCause,
    onDone: () => Effect.fail(Classifier.streamTruncated(attempt.member.about))
  })

type OpenLoop = Loop<Opened>

/** The stream as the caller sees it. */
export const handOver = (
  loop: OpenLoop,
  session: Session,
  { attempt, value: opened }: Served<Opened>,
  joined: ((parts: Parts) => ReadonlyArray<StreamPart>) | undefined
): Stream.Stream<StreamPart, Errors.LLMError> => {
  const { call } = loop
  const { target } = attempt.member
  let first: Parts | undefined = opened.first
  let finished = false

  const handed = (received: Parts): Effect.Effect<Parts, Errors.LLMError | Cause.Done> => {
    if (attempt.grant !== undefined) { for (const part of received) attempt.grant.emitted += contentLength(part) }
    const [head, ...tail] = joined === undefined ? received : joined(received)
    // All that has come belongs to what was handed over before.
    if (head === undefined) return rest
    const parts: Parts = joined === undefined ? received : [head, ...tail]
    if (session.policy === "restart" || session.policy === "continue") note(session, parts)
    const last = parts[parts.length - 1]
    if (last?.type !== "finish") return Effect.succeed(parts)
    finished = true
    const settled = Step.at((moment) =>
      Observers.succeeded(moment, call, attempt, { _tag: "Reported", usage: last.usage })
    )
    return Effect.flatMap(settled, () => {
      const finish = Completions.annotateFinish(last, target, call.attempts, Records.timings(call))
      const all: Parts = parts.length === 1 ? [finish] : [parts[0], ...parts.slice(1, -1), finish]
      return Effect.as(Records.ended(call, target.id), all)
    })
  }

  const rest: Opened["rest"] = Pull.catchDone(
    Effect.flatMap(opened.rest, handed),
    (): Effect.Effect<never, Errors.LLMError | Cause.Done> =>
      finished ? Cause.done() : Effect.fail(Classifier.streamTruncated(attempt.member.about))
  )

  const pull: Opened["rest"] = Effect.suspend(() => {
    if (first === undefined) return rest
    const [head, ...tail] = first
    first = undefined
    return handed(
      head.type === "response-metadata"
        ? [Completions.annotateStart(head, target, call.attempts, call.waitedMs), ...tail]
        : [head, ...tail]
    )
  })

  return Stream.catch(
    Stream.fromPull(Effect.succeed(pull)),
    (error) => broken(loop, session, attempt, error)
  )
}

const contentLength = (part: StreamPart): number => "delta" in part ? part.delta.length : 0

const note = (session: Session, parts: Parts): void => {
  for (const part of parts) {
    switch (part.type) {
      case "text-start":
        session.block = part.id
        break
      case "text-delta":
        session.text += part.delta
        break
      case "text-end":
        session.block = undefined
        break
      case "reasoning-start":
        session.reasoning = true
        break
      case "reasoning-end":
        session.reasoning = false
        break
      case "tool-params-start":
      case "tool-call":
        session.tools = true
        break
      default:
    }
  }
}

/** What becomes of a stream that broke after some of it had been handed over. */
const broken = (
  loop: OpenLoop,
  session: Session,
  attempt: Attempt,
  error: Errors.LLMError
): Stream.Stream<StreamPart, Errors.LLMError> => {
  const { call } = loop
  const failed = Step.at((moment) => Observers.failed(moment, call, attempt, error))
  // A tool may have been called by now: nothing may ask for it a second time.
  const isFinal = session.tools || session.policy === "fail" || session.policy === "buffer" ||
    (session.policy === "continue" && (session.text === "" || session.reasoning))
  if (isFinal) return Stream.fromEffect(Effect.andThen(failed, failAfter(call, attempt, error)))
  const freed = Effect.andThen(failed, Scope.close(scopeOf(attempt), Exit.fail(error)))
  return Stream.unwrap(Effect.andThen(
    freed,
    session.policy === "restart" ? restarted(loop, session, attempt, error) : continued(loop, session, attempt, error)
  ))
}

const restarted = (
  loop: OpenLoop,
  session: Session,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<Stream.Stream<StreamPart, Errors.LLMError>, Errors.LLMError> =>
  Effect.map(Calls.resume(loop, attempt, error, { sameTarget: true }), (served) => {
    const marker: RestartedPart = {
      type: "restarted",
      from: attempt.member.target.id,
      target: served.attempt.member.target.id,
      errorClass: error.errorClass,
      reason: error.reason,
      discarded: session.text.length
    }
    session.text = ""
    session.block = undefined
    session.reasoning = false
    return Stream.concat(Stream.succeed(marker), handOver(loop, session, served, undefined))
  })

const continued = (
  loop: OpenLoop,
  session: Session,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<Stream.Stream<StreamPart, Errors.LLMError>, Errors.LLMError> => {
  const { call } = loop
  // Whatever fails from here on is a consequence of this failure, down to a target that does not take the beginning.
  call.firstCause ??= error
  call.state = Decisions.giveUpAll(call.setup, call.state, "prefill", (target) => target.capabilities.prefill !== true)
  session.request = continuation(session)
  const sameTarget = attempt.member.target.capabilities.prefill === true
  return Effect.map(
    Calls.resume(loop, attempt, error, { sameTarget }),
    (served) => handOver(loop, session, served, joining(session))
  )
}

// Some vendors refuse a beginning that ends in white space.
const beginning = (session: Session): string => session.text.trimEnd()

/** The request for the rest of an answer: what there is of it ends the prompt. */
const continuation = ({ original, ...session }: Session): Requests.Prepared => {
  const text = Prompt.makePart("text", { text: beginning({ original, ...session }) })
  const messages = original.prompt.content
  const last = messages[messages.length - 1]
  const reply = last?.role === "assistant"
    ? [...messages.slice(0, -1), Prompt.makeMessage("assistant", { content: [...last.content, text] })]
    : [...messages, Prompt.makeMessage("assistant", { content: [text] })]
  const { maxTokens } = original
  return {
    ...original,
    prompt: Prompt.fromMessages(reply),
    maxTokens: maxTokens === undefined ? undefined : Math.max(1, maxTokens - fromCharacters(session.text.length))
  }
}

/** Joins the rest of an answer to what was handed over: one text block, with its white space once. */
const joining = (session: Session): (parts: Parts) => ReadonlyArray<StreamPart> => {
  let spaces = session.text.length - beginning(session).length
  const open = session.block
  let block: string | undefined
  let isFirst = true

  const text = (delta: string): string => {
    if (spaces === 0) return delta
    const blank = delta.length - delta.trimStart().length
    const dropped = Math.min(spaces, blank)
    spaces = blank === delta.length ? spaces - dropped : 0
    return delta.slice(dropped)
  }

  const part = (received: StreamPart): ReadonlyArray<StreamPart> => {
    switch (received.type) {
      case "response-metadata":
        return []
      case "text-start": {
        const goesOn = isFirst && open !== undefined
        isFirst = false
        if (!goesOn) return [received]
        block = received.id
        return []
      }
      case "text-delta": {
        const delta = text(received.delta)
        if (delta === "") return []
        return [{ ...received, delta, id: received.id === block && open !== undefined ? open : received.id }]
      }
      case "text-end": {
        const own = received.id === block && open !== undefined
        if (own) block = undefined
        return [own ? { ...received, id: open } : received]
      }
      default:
        return [received]
    }
  }
  return (parts) => parts.flatMap(part)
}
