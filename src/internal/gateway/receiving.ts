/**
 * Receives the bodies of requests, within bounds of size and time.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Scheduler from "effect/Scheduler"
import * as Stream from "effect/Stream"
import { isLLMError } from "../../LLMError.ts"
import * as Timeouts from "../../Timeouts.ts"
import * as Alarms from "../alarm.ts"
import * as Refusals from "./refusal.ts"

export interface Bounds {
  readonly maxBytes: number
  readonly timeoutMs: number
}

type Text = Effect.Effect<string, Refusals.Refusal>

// Not `request.text`: when that is interrupted it takes the connection along, and nobody would be told why.
export const text = (request: HttpServerRequest.HttpServerRequest, bounds: Bounds): Text => {
  const { headers, source } = request
  const encoding = headers["content-encoding"] ?? "identity"
  if (encoding.toLowerCase() !== "identity") return Effect.fail(Refusals.encoded(encoding))
  // Only the stream tells a client to go on that asks whether it may.
  return isReadable(source) && headers["expect"] === undefined
    ? ofReadable(source, bounds)
    : ofStream(request, bounds)
}

const ofStream = (request: HttpServerRequest.HttpServerRequest, { maxBytes, timeoutMs }: Bounds): Text => {
  const received = Effect.suspend(() => {
    const body = new Body(maxBytes)
    const read = Stream.runForEachArray(
      Stream.mapError(request.stream, () => Refusals.unreadable),
      (pieces) => pieces.every((piece) => body.add(piece)) ? Effect.void : Effect.fail(Refusals.tooLarge(maxBytes))
    )
    return Effect.map(read, () => body.text())
  })
  return Effect.catch(
    Timeouts.attempt(received, timeoutMs, { provider: "client" }),
    (error) => Effect.fail(isLLMError(error) ? Refusals.tooSlow(timeoutMs) : error)
  )
}

/** What is used of a Node request. */
interface Readable {
  readonly on: (event: "data" | "end" | "error" | "close", listener: (value: Uint8Array) => void) => unknown
  readonly off: (event: "data" | "end" | "error" | "close", listener: (value: Uint8Array) => void) => unknown
  readonly pause: () => unknown
}

const isReadable = (source: object): source is Readable => "on" in source && "off" in source && "pause" in source

// On Node the request is read as it is: a stream, a channel over it and a fiber for its time take longer than all that is
// done with the body.
const ofReadable = (source: Readable, { maxBytes, timeoutMs }: Bounds): Text =>
  Effect.withFiber((fiber) =>
    Effect.callback<string, Refusals.Refusal>((resume) => {
      const body = new Body(maxBytes)
      const done = (exit: Text): void => {
        leave()
        resume(exit)
      }
      const refuse = (refusal: Refusals.Refusal): void => {
        source.pause()
        done(Effect.fail(refusal))
      }
      const onData = (piece: Uint8Array): void => {
        if (!body.add(piece)) refuse(Refusals.tooLarge(maxBytes))
      }
      const onEnd = (): void => done(Effect.succeed(body.text()))
      const onBroken = (): void => done(Effect.fail(Refusals.unreadable))
      const alarm = Number.isFinite(timeoutMs)
        ? Alarms.set(fiber.getRef(Clock.Clock), fiber.getRef(Scheduler.Scheduler), timeoutMs, () =>
          refuse(Refusals.tooSlow(timeoutMs)))
        : undefined
      const leave = (): void => {
        if (alarm !== undefined) {
          Alarms.clear(alarm, "soon")
        }
        source.off("data", onData)
        source.off("end", onEnd)
        source.off("error", onBroken)
        source.off("close", onBroken)
      }
      source.on("data", onData)
      source.on("end", onEnd)
      source.on("error", onBroken)
      source.on("close", onBroken)
      return Effect.sync(() => {
        source.pause()
        leave()
      })
    })
  )

const decoder = new TextDecoder()

/** The pieces of a body, decoded when the last one has come: most come in one. */
class Body {
  private readonly pieces: Array<Uint8Array> = []
  private size = 0
  private readonly maxBytes: number

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes
  }

  /** Adds a piece, unless there is no room for it. */
  add(piece: Uint8Array): boolean {
    this.size += piece.length
    if (this.size > this.maxBytes) return false
    this.pieces.push(piece)
    return true
  }

  text(): string {
    const [first] = this.pieces
    if (this.pieces.length === 1) return decoder.decode(first)
    const whole = new Uint8Array(this.size)
    let offset = 0
    for (const piece of this.pieces) {
      whole.set(piece, offset)
      offset += piece.length
    }
    return decoder.decode(whole)
  }
}
