/**
 * What a face of the gateway has to know: how requests become ours, and answers become the vendor's.
 *
 * @internal
 */
import type * as Arr from "effect/Array"
import type * as Result from "effect/Result"
import type { Completion, CompletionRequest, StreamPart } from "../../LLMService.ts"
import type { Refusal } from "./refusal.ts"

/** A request of a client. */
export interface Asked {
  readonly model: string
  readonly stream: boolean
  readonly request: CompletionRequest
  /** Choices that are asked for: as many calls, each of which is answered by whoever can. */
  readonly choices: number
  /** Whether a stream ends with the usage. */
  readonly includeUsage: boolean
}

/** What all that is said about one call has in common. */
export interface Envelope {
  readonly requestId: string
  /** Seconds since the epoch. */
  readonly created: number
}

/** Writes a stream, part by part. */
export interface Writer {
  /** The events of some parts of a choice. */
  readonly parts: (parts: ReadonlyArray<StreamPart>, choice: number) => string
  /** The event that ends a stream without an answer. */
  readonly failure: (refusal: Refusal) => string
}

export interface Face {
  readonly name: "openai" | "anthropic"
  readonly read: (body: unknown) => Result.Result<Asked, Refusal>
  readonly whole: (envelope: Envelope, completions: Arr.NonEmptyReadonlyArray<Completion>) => unknown
  readonly writer: (envelope: Envelope, asked: Asked) => Writer
  readonly refusal: (envelope: Pick<Envelope, "requestId">, refusal: Refusal) => unknown
  readonly status: (refusal: Refusal) => number
  /** Headers of a client that targets of the format are sent. */
  readonly headers: ReadonlyArray<string>
  /** The header under which clients of the vendor look for the id of a request. */
  readonly requestIdHeader: string
}
