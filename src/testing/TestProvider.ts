/**
 * Scripted providers for tests: replies, delays, failures and broken streams, under `TestClock`.
 *
 * A script says, for each target, what its calls do one after the other; the last step repeats. The layer provides
 * `Provider`, so everything above it (router, limits, your program) is the real thing, and `TestProvider`, which tells
 * what was called.
 *
 * **Gotchas**
 *
 * All delays are `Effect.sleep`: under `TestClock` nothing happens until the test moves the time.
 *
 * **Example** (A provider that is down for one call)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LLMService, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const providers = TestProvider.layer({
 *   "openai/gpt-4o": [TestProvider.fail("server_error", { reason: "overloaded", status: 503 }), TestProvider.reply("up")]
 * })
 * const llm = LLMService.layerProvider(Target.make({ provider: "openai", model: "gpt-4o" }))
 *
 * const program = Effect.gen(function*() {
 *   const service = yield* LLMService.LLMService
 *   const first = yield* Effect.flip(service.complete({ prompt: "hi" }))
 *   const second = yield* service.complete({ prompt: "hi" })
 *   return [first._tag, second.text]
 * }).pipe(Effect.provide(llm.pipe(Layer.provide(providers))))
 *
 * await Effect.runPromise(program) // => ["ServerError", "up"]
 * ```
 *
 * @since 0.1.0
 */
import * as Prompt from "effect/ai/Prompt"
import * as Response from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Classifier from "../Classifier.ts"
import * as Errors from "../LLMError.ts"
import type { CompletionRequest, ContentPart, ProviderPart } from "../LLMService.ts"
import { type Adapter, Provider, type Reply } from "../Provider.ts"
import type { Target } from "../Target.ts"

/**
 * Service that tells what the scripted providers were asked.
 *
 * @category services
 * @since 0.1.0
 */
export class TestProvider extends Context.Service<TestProvider, {
  /** Every call so far, in order. */
  readonly calls: Effect.Effect<ReadonlyArray<Call>>
  /** Calls that are running now: open streams included. */
  readonly inFlight: Effect.Effect<number>
  /** Replaces the script of a target, and starts it from its first step. */
  readonly script: (target: string, steps: ReadonlyArray<Step>) => Effect.Effect<void>
}>()("breakwater/testing/TestProvider") {}

/**
 * One call that a scripted provider received.
 *
 * @category models
 * @since 0.1.0
 */
export interface Call {
  /** Target id. */
  readonly target: string
  /** Milliseconds since the epoch, by the `Clock`. */
  readonly at: number
  readonly kind: "complete" | "stream"
  readonly request: CompletionRequest
  /** How it ended so far. */
  readonly outcome: "running" | "success" | "failure" | "interrupted"
}

/**
 * What one call of a target does.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step {
  /** Time until the response headers of a stream. */
  readonly connect: Duration.Duration
  /** Time from there to the first content, or to the whole answer. */
  readonly delay: Duration.Duration
  /** Time between content parts of a stream. */
  readonly gap: Duration.Duration
  /** Content in pieces; a stream sends one at a time. */
  readonly chunks: ReadonlyArray<string>
  /** Tool calls after the text. */
  readonly toolCalls: ReadonlyArray<{ readonly name: string; readonly params: unknown }>
  readonly usage: { readonly input: number; readonly output: number } | undefined
  readonly finishReason: Response.FinishReason
  readonly ending:
    | { readonly _tag: "Finish" }
    | { readonly _tag: "Fail"; readonly errorClass: Errors.ErrorClass; readonly fields: Partial<Errors.Fields> }
    | { readonly _tag: "Cut" }
    | { readonly _tag: "Stall" }
}

/**
 * Times of a step; all default to zero.
 *
 * @category options
 * @since 0.1.0
 */
export interface Timing {
  /** Time until the response headers of a stream. */
  readonly connect?: Duration.Input | undefined
  /** Time from there to the first content, or to the whole answer or failure. */
  readonly delay?: Duration.Input | undefined
  /** Time between content parts of a stream. */
  readonly gap?: Duration.Input | undefined
}

const step = (timing: Timing, rest: Partial<Step>): Step => ({
  connect: Duration.fromInputUnsafe(timing.connect ?? 0),
  delay: Duration.fromInputUnsafe(timing.delay ?? 0),
  gap: Duration.fromInputUnsafe(timing.gap ?? 0),
  chunks: [],
  toolCalls: [],
  usage: undefined,
  finishReason: "stop",
  ending: { _tag: "Finish" },
  ...rest
})

/**
 * Creates a step that answers.
 *
 * **Details**
 *
 * A stream sends the text word by word unless `chunks` are given. Usage defaults to one token per four characters.
 *
 * @category constructors
 * @since 0.1.0
 */
export const reply = (
  text: string | ReadonlyArray<string>,
  options: Timing & {
    readonly toolCalls?: Step["toolCalls"] | undefined
    readonly usage?: Step["usage"] | undefined
    readonly finishReason?: Response.FinishReason | undefined
  } = {}
): Step =>
  step(options, {
    chunks: typeof text === "string" ? text.match(/\s*\S+\s*$|\s*\S+/g) ?? [] : text,
    toolCalls: options.toolCalls ?? [],
    usage: options.usage,
    finishReason: options.finishReason ?? ((options.toolCalls?.length ?? 0) > 0 ? "tool-calls" : "stop")
  })

/**
 * Creates a step that fails, before any content unless `after` gives some.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (
  errorClass: Errors.ErrorClass,
  fields: Partial<Errors.Fields> & { readonly reason: Errors.Reason },
  options: Timing & { readonly after?: ReadonlyArray<string> | undefined } = {}
): Step => step(options, { chunks: options.after ?? [], ending: { _tag: "Fail", errorClass, fields } })

/**
 * Creates a step whose stream ends after some content without a terminal event; `complete` loses its connection.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cut = (after: ReadonlyArray<string>, options: Timing = {}): Step =>
  step(options, { chunks: after, ending: { _tag: "Cut" } })

/**
 * Creates a step that never ends: no answer at all, or silence after some content.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stall = (after: ReadonlyArray<string> = [], options: Timing = {}): Step =>
  step(options, { chunks: after, ending: { _tag: "Stall" } })

/**
 * Provides scripted providers: a list of steps by target id.
 *
 * **Details**
 *
 * The script under `"*"` serves every target that has none of its own; a target without any script dies, since a test
 * that calls what it did not expect is wrong.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  scripts: Readonly<Record<string, ReadonlyArray<Step>>> = {}
): Layer.Layer<Provider | TestProvider> => Layer.effectContext(Effect.sync(() => make(scripts)))

const make = (
  scripts: Readonly<Record<string, ReadonlyArray<Step>>>
): Context.Context<Provider | TestProvider> => {
  const running = new Map(Object.entries(scripts).map(([target, steps]) => [target, { steps, next: 0 }]))
  const calls: Array<Call> = []
  let inFlight = 0

  const take = (target: Target): Step => {
    const script = running.get(target.id) ?? running.get("*")
    const next = script?.steps[Math.min(script.next, script.steps.length - 1)]
    if (script === undefined || next === undefined) {
      throw new RangeError(`TestProvider: no script for "${target.id}"`)
    }
    script.next++
    return next
  }

  /** Opens the record of a call; the function returned closes it. */
  const begin = (target: Target, request: CompletionRequest, kind: Call["kind"]) =>
    Effect.map(Clock.currentTimeMillis, (at) => {
      const index = calls.push({ target: target.id, at, kind, request, outcome: "running" }) - 1
      inFlight++
      return (outcome: Call["outcome"]): void => {
        const call = calls[index]
        if (call === undefined || call.outcome !== "running") return
        calls[index] = { ...call, outcome }
        inFlight--
      }
    })

  const adapter: Adapter = {
    complete: (target, request) =>
      Effect.suspend(() => {
        const script = take(target)
        return Effect.acquireUseRelease(
          begin(target, request, "complete"),
          () =>
            Effect.andThen(Effect.sleep(Duration.sum(script.connect, script.delay)), answer(target, request, script)),
          (end, exit) => Effect.sync(() => end(outcomeOf(exit)))
        )
      }),
    stream: (target, request) =>
      Stream.unwrap(Effect.suspend(() => {
        const script = take(target)
        const begun = Effect.acquireRelease(
          begin(target, request, "stream"),
          (end) => Effect.sync(() => end("interrupted"))
        )
        return Effect.map(begun, (end) =>
          parts(target, request, script).pipe(
            Stream.concat(Stream.drain(Stream.fromEffect(Effect.sync(() => end("success"))))),
            // A consumer that takes no more closes the stream without a failure: for the provider it went away.
            Stream.onExit((exit) => Effect.sync(() => end(Exit.isSuccess(exit) ? "interrupted" : outcomeOf(exit))))
          ))
      }))
  }

  return Context.make(Provider, Provider.of({ adapter: () => adapter, names: ["any"] })).pipe(
    Context.add(
      TestProvider,
      TestProvider.of({
        calls: Effect.sync(() => calls.slice()),
        inFlight: Effect.sync(() => inFlight),
        script: (target, steps) => Effect.sync(() => void running.set(target, { steps, next: 0 }))
      })
    )
  )
}

const outcomeOf = (exit: Exit.Exit<unknown, unknown>): Call["outcome"] =>
  Exit.isSuccess(exit) ? "success" : Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : "failure"

const failure = (target: Target, script: Step, contentSeen: boolean): Errors.LLMError => {
  const where = { provider: target.provider, model: target.model, target: target.id }
  return script.ending._tag === "Fail"
    ? Errors.make(script.ending.errorClass, { reason: "unknown", ...where, ...script.ending.fields })
    : contentSeen
    ? Classifier.streamTruncated(where)
    : Errors.make("transient_network", { ...where, reason: "premature_close", maybeBilled: true })
}

const answer = (target: Target, request: CompletionRequest, script: Step): Effect.Effect<Reply, Errors.LLMError> => {
  switch (script.ending._tag) {
    case "Stall":
      return Effect.never
    case "Fail":
    case "Cut":
      return Effect.fail(failure(target, script, false))
    case "Finish":
      return Effect.succeed({
        content: content(script),
        usage: usage(request, script),
        finishReason: script.finishReason,
        model: target.model,
        requestId: undefined
      })
  }
}

const content = (script: Step): ReadonlyArray<ContentPart> => {
  const text = script.chunks.join("")
  const calls = script.toolCalls.map((call, index) =>
    Response.toolCallPart({ id: `call_${index}`, name: call.name, params: call.params, providerExecuted: false })
  )
  return text === "" ? calls : [Response.makePart("text", { text }), ...calls]
}

const usage = (request: CompletionRequest, script: Step): Response.Usage => {
  const prompt = Prompt.make(request.prompt)
  const input = script.usage?.input ?? tokens(JSON.stringify(prompt.content.map((message) => message.content)))
  const output = script.usage?.output ?? tokens(script.chunks.join(""))
  return new Response.Usage({
    inputTokens: { uncached: input, total: input, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: output, text: output, reasoning: undefined }
  })
}

const tokens = (text: string): number => Math.ceil(text.length / 4)

const parts = (
  target: Target,
  request: CompletionRequest,
  script: Step
): Stream.Stream<ProviderPart, Errors.LLMError> => {
  const after = (wait: Duration.Duration, part: ProviderPart) => Stream.fromEffect(Effect.as(Effect.sleep(wait), part))
  const deltas = script.chunks.map((delta, index) =>
    after(index === 0 ? script.delay : script.gap, Response.makePart("text-delta", { id: "0", delta }))
  )
  return Stream.fromIterable<Stream.Stream<ProviderPart, Errors.LLMError>>([
    after(script.connect, Response.makePart("response-metadata", { modelId: target.model })),
    ...(deltas.length === 0
      ? []
      : [Stream.succeed<ProviderPart>(Response.makePart("text-start", { id: "0" })), ...deltas]),
    ...(deltas.length === 0 ? [Stream.drain(Stream.fromEffect(Effect.sleep(script.delay)))] : []),
    ending(target, request, script)
  ]).pipe(Stream.flatten())
}

const ending = (
  target: Target,
  request: CompletionRequest,
  script: Step
): Stream.Stream<ProviderPart, Errors.LLMError> => {
  switch (script.ending._tag) {
    case "Stall":
      return Stream.never
    case "Fail":
    case "Cut":
      return Stream.fail(failure(target, script, script.chunks.length > 0))
    case "Finish":
      return Stream.fromIterable<ProviderPart>([
        ...(script.chunks.length === 0 ? [] : [Response.makePart("text-end", { id: "0" })]),
        ...content({ ...script, chunks: [] }).filter((part) => part.type === "tool-call"),
        Response.makePart("finish", { reason: script.finishReason, usage: usage(request, script), response: undefined })
      ])
  }
}
