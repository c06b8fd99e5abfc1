/**
 * Server-sent events of a provider, decoded into parts, with the rule that only a terminal event is a success.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as EventStream from "effect/encoding/Sse"
import type { HttpClientError } from "effect/http/HttpClientError"
import type * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import type { LLMError } from "../../LLMError.ts"
import type { ProviderPart } from "../../LLMService.ts"
import type { Target } from "../../Target.ts"
import { type Failure, unusable } from "./parts.ts"

/** What an event did: the next state, the parts it completed, and how the stream ended if it did. */
export type Step<S> = readonly [state: S, parts: ReadonlyArray<ProviderPart>, end?: "done" | Failure]

/** A wire format's stream as a pure fold. */
export interface Machine<S> {
  readonly initial: (target: Target) => S
  readonly step: (state: S, event: EventStream.Event) => Step<S>
  /** The last parts when the connection ended after the terminal event, `undefined` when it ended before. */
  readonly end: (state: S) => ReadonlyArray<ProviderPart> | undefined
}

export interface Options<S> {
  /** The part handed over before the first byte of the body. */
  readonly head: ProviderPart
  readonly bytes: Stream.Stream<Uint8Array, HttpClientError>
  readonly machine: Machine<S>
  readonly target: Target
  /** Reads a body that turned out not to be a stream of events. */
  readonly whole: (text: string) => Effect.Effect<ReadonlyArray<ProviderPart>, LLMError>
  readonly fail: (failure: Failure, contentSeen: boolean) => Effect.Effect<never, LLMError>
  readonly lost: (error: HttpClientError) => Effect.Effect<never, LLMError>
}

/** A whole reply under a wrong content type is still recognised up to this length. */
const wholeLimit = 256 * 1024

/** The connection broke before the terminal event. */
interface Lost {
  readonly _tag: "Lost"
  readonly error: HttpClientError
}

type Chunk = Arr.NonEmptyReadonlyArray<ProviderPart>

export const decode = <S>(options: Options<S>): Stream.Stream<ProviderPart, LLMError> =>
  Stream.transformPull(options.bytes, (upstream) => Effect.sync(() => decoder(options, upstream)))

const decoder = <S>(
  options: Options<S>,
  upstream: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, HttpClientError>
): Pull.Pull<Chunk, LLMError> => {
  const { machine } = options
  const utf8 = new TextDecoder()
  const events: Array<EventStream.Event> = []
  const parser = EventStream.makeParser((event) => {
    // A reconnection delay means nothing here: a completion cannot be resumed.
    if (event._tag === "Event") events.push(event)
  })
  let state = machine.initial(options.target)
  let end: "done" | Failure | Lost | undefined
  let headSent = false
  let ended = false
  let contentSeen = false
  let eventSeen = false
  let unparsed = ""

  /** Feeds text and folds the events it completed; what follows the end of the stream is nobody's. */
  const feed = (text: string): Array<ProviderPart> => {
    if (!eventSeen && unparsed.length < wholeLimit) unparsed += text
    const tooLarge = parser.feed(text) !== undefined
    const out: Array<ProviderPart> = []
    for (const event of events) {
      if (end !== undefined) break
      eventSeen = true
      const step = machine.step(state, event)
      state = step[0]
      for (const part of step[1]) out.push(part)
      end = step[2]
    }
    events.length = 0
    if (out.length > 0) contentSeen = true
    if (tooLarge) end ??= unusable("an event of the stream is too large")
    return out
  }

  const pull: Pull.Pull<Chunk, LLMError> = Effect.suspend(() => {
    if (!headSent) {
      headSent = true
      return Effect.succeed<Chunk>([options.head])
    }
    if (end === undefined) return ended ? Cause.done() : read
    if (end === "done") return ended ? Cause.done() : linger
    return end._tag === "Lost" ? options.lost(end.error) : options.fail(end, contentSeen)
  })

  const emit = (out: Array<ProviderPart>): Pull.Pull<Chunk, LLMError> =>
    Arr.isArrayNonEmpty(out) ? Effect.succeed(out) : pull

  const read: Pull.Pull<Chunk, LLMError> = Effect.matchEffect(upstream, {
    onSuccess: (chunk) => {
      if (chunk.length === 1) return emit(feed(utf8.decode(chunk[0], { stream: true })))
      const out: Array<ProviderPart> = []
      for (const bytes of chunk) out.push(...feed(utf8.decode(bytes, { stream: true })))
      return emit(out)
    },
    onFailure: (error) => {
      ended = true
      // Servers that forget the blank line after their last event are forgiven; half an event is no event.
      const out = feed(`${utf8.decode()}\n\n`)
      if (isUnreadable(end)) end = { _tag: "Truncated" }
      if (end !== undefined) return emit(out)
      const rest = machine.end(state)
      if (rest !== undefined) {
        end = "done"
        return emit([...out, ...rest])
      }
      if (!isEnd(error) || eventSeen) {
        end = isEnd(error) ? { _tag: "Truncated" } : { _tag: "Lost", error }
        return emit(out)
      }
      return Effect.flatMap(options.whole(unparsed.replace(/^:.*$/gm, "")), (parts) => emit([...parts]))
    }
  })

  // The answer is complete, so the connection's own end is waited for only so long that it can be used again.
  const linger: Pull.Pull<Chunk, LLMError> = Effect.andThen(
    Effect.timeoutOption(Effect.ignore(Effect.forever(upstream)), "100 millis"),
    Cause.done()
  )

  return pull
}

/** A body that ended in order, or that never was: the transport has nothing to complain about. */
const isEnd = (error: HttpClientError | Cause.Done): error is Cause.Done =>
  Cause.isDone(error) || error.reason._tag === "EmptyBodyError"

const isUnreadable = (end: "done" | Failure | Lost | undefined): boolean =>
  end !== undefined && end !== "done" && end._tag === "Unusable" && end.reason === "invalid_response"
