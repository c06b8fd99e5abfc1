import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cooldown, LLMService, Resilience, Retry, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import {
  Cause,
  Context,
  Effect,
  Exit,
  Fiber,
  Inspectable,
  Layer,
  Logger,
  Redacted,
  Ref,
  References,
  Stream,
  Tracer
} from "effect"

// Real sockets need real time. Nothing here sleeps to see something happen: limits are short, and waits are for events.
const { Fault } = ProviderServer

const quick: Partial<Resilience.Options> = {
  retry: Retry.standardWith({ retries: 2, base: "2 millis", max: "10 millis" }),
  timeouts: { attempt: "300 millis", connect: "300 millis", firstToken: "300 millis", idle: "300 millis" }
}

const canary = "sk-canary-0123456789abcdef"

/** Two servers of different formats behind one service. */
const setup = (options: Partial<Resilience.Options> = {}) =>
  Effect.gen(function*() {
    const first = yield* ProviderServer.make({ format: "openai", flavour: "groq" })
    const second = yield* ProviderServer.make({ format: "anthropic" })
    const key = { id: "k", value: Redacted.make(canary) }
    const targets = [
      Target.make({ provider: "groq", model: "llama", baseUrl: first.url, key }),
      Target.make({ provider: "anthropic", model: "claude", baseUrl: second.url, key, price: { input: 3, output: 15 } })
    ]
    const loud = yield* Layer.build(
      Resilience.layer({ targets, ...quick, ...options }).pipe(Layer.provide(NodeHttpClient.layerUndici))
    )
    return { first, second, loud, context: Context.add(loud, References.MinimumLogLevel, "None") }
  })

const complete = Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "Say tide", maxTokens: 32 }))
const stream = Stream.unwrap(
  Effect.map(LLMService.LLMService, (llm) => llm.stream({ prompt: "Say tide", maxTokens: 32 }))
)
const textOf = (parts: ReadonlyArray<LLMService.StreamPart>) =>
  parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")

describe("one call that survives, over real HTTP", () => {
  it.live("the first provider answers, whole and streamed", () =>
    Effect.gen(function*() {
      const { context, first, second } = yield* setup({ timeouts: {} })
      const completion = yield* Effect.provideContext(complete, context)
      assert.strictEqual(completion.text, "You said: Say tide")
      assert.strictEqual(completion.target, "groq/llama@k")
      const parts = yield* Effect.provideContext(Stream.runCollect(stream), context)
      assert.strictEqual(textOf(parts), "You said: Say tide")
      assert.strictEqual((yield* first.received).answered, 2)
      assert.strictEqual((yield* second.received).requests, 0)
    }).pipe(Effect.scoped))

  const beforeContent: ReadonlyArray<readonly [string, ProviderServer.Fault]> = [
    ["401", Fault.Status({ status: 401 })],
    ["403", Fault.Status({ status: 403 })],
    ["404", Fault.Status({ status: 404 })],
    ["429 with a wait", Fault.Status({ status: 429, retryAfter: "1 hour" })],
    ["429 without a wait", Fault.Status({ status: 429 })],
    ["500", Fault.Status({ status: 500 })],
    ["503", Fault.Status({ status: 503 })],
    ["529", Fault.Status({ status: 529 })],
    ["a reset", Fault.Reset({})],
    ["a reset after the headers", Fault.Reset({ afterHeaders: true })],
    ["no answer", Fault.NoAnswer()],
    ["an empty body", Fault.EmptyBody()],
    ["an HTML page", Fault.HtmlPage({})],
    ["a slow first token", Fault.SlowFirstToken({ delay: "1 hour" })],
    ["an error event first", Fault.ErrorEvent({ after: 0 })],
    ["a malformed chunk first", Fault.MalformedChunk({ after: 0 })],
    ["a cut before content", Fault.Cut({ after: 0 })],
    ["a clean end before content", Fault.Cut({ after: 0, clean: true })],
    ["a stall before content, with keep-alives (T35)", Fault.Stall({ after: 0, keepAlive: "20 millis" })]
  ]
  for (const [name, fault] of beforeContent) {
    it.live(`${name} on the first provider, and the second one answers, whole and streamed`, () =>
      Effect.gen(function*() {
        for (const kind of ["complete", "stream"] as const) {
          const { context, first, second } = yield* setup()
          yield* first.outage(fault)
          const text = kind === "complete"
            ? Effect.map(complete, (_) => _.text)
            : Effect.map(Stream.runCollect(stream), textOf)
          assert.strictEqual(yield* Effect.provideContext(text, context), "You said: Say tide")
          assert.strictEqual((yield* second.received).answered, 1)
          assert.isAtMost((yield* first.received).requests, 3)
          // The server counts connections that carry no request any more as kept alive; a failed exchange leaves none.
          yield* first.awaitIdle
        }
      }).pipe(Effect.scoped))
  }

  for (
    const [name, fault, reason] of [
      ["a cut", Fault.Cut({ after: 1 }), ["conn_reset", "premature_close", "stream_truncated", "protocol"]],
      ["a clean end without a terminal event", Fault.Cut({ after: 1, clean: true }), ["stream_truncated"]],
      ["a stall", Fault.Stall({ after: 1 }), ["idle"]],
      ["a stall with keep-alives", Fault.Stall({ after: 1, keepAlive: "20 millis" }), ["idle"]],
      ["an error event", Fault.ErrorEvent({ after: 1 }), ["internal_error", "overloaded"]],
      ["a malformed chunk", Fault.MalformedChunk({ after: 1 }), ["invalid_response"]]
    ] as const
  ) {
    it.live(`${name} after content is one typed error with the record, never a short success (T35, T36)`, () =>
      Effect.gen(function*() {
        const { context, first, second } = yield* setup()
        yield* first.enqueue(fault)
        const seen = yield* Ref.make("")
        const error = yield* stream.pipe(
          Stream.runForEach((part) =>
            part.type === "text-delta" ? Ref.update(seen, (text) => text + part.delta) : Effect.void
          ),
          Effect.flip,
          Effect.provideContext(context)
        )
        assert.include(reason, error.reason)
        assert.isTrue(error.maybeBilled)
        assert.strictEqual(error.attempts.at(-1)?.outcome, "failure")
        assert.isTrue("You said: Say tide".startsWith(yield* Ref.get(seen)))
        assert.strictEqual((yield* second.received).requests, 0)
        yield* first.awaitIdle
      }).pipe(Effect.scoped))
  }

  it.live("a stated wait is cooled, counted and obeyed by the next call (T30)", () =>
    Effect.gen(function*() {
      const { context, first } = yield* setup()
      yield* first.enqueue(Fault.Status({ status: 429, retryAfter: "7 minutes" }))
      yield* Effect.provideContext(Effect.andThen(complete, complete), context)
      assert.strictEqual((yield* first.received).requests, 1)
      const cooldown = yield* Effect.provideContext(Cooldown.Cooldown, context)
      const [entry] = yield* cooldown.active
      assert.strictEqual(entry?.reason, "rate_limit")
      assert.isAbove(entry?.remainingMs ?? 0, 400_000)
    }).pipe(Effect.scoped))

  it.live("when nobody is left the error counts what is free per provider", () =>
    Effect.gen(function*() {
      const { context, first, second } = yield* setup({ timeouts: { total: "1 second" } })
      for (const server of [first, second]) {
        yield* server.outage(Fault.Status({ status: 429, retryAfter: "15 minutes" }))
      }
      const error = yield* Effect.provideContext(Effect.flip(complete), context)
      assert.match(
        error.message,
        /^rate limited on all 2 targets; earliest capacity in 15 m \(groq 0\/1, anthropic 0\/1\)$/
      )
    }).pipe(Effect.scoped))

  for (
    const [name, call] of [["complete", Effect.asVoid(complete)], ["stream", Stream.runDrain(stream)]] as const
  ) {
    it.live(`an interrupted ${name} closes its socket and leaves no fiber (T38)`, () =>
      Effect.gen(function*() {
        const { context, first } = yield* setup({ timeouts: { attempt: "1 hour", connect: "1 hour" } })
        yield* first.outage(Fault.NoAnswer())
        const fiber = yield* Effect.forkChild(Effect.provideContext(call, context))
        yield* first.awaitRequests(1)
        assert.strictEqual((yield* first.received).sockets.now, 1)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        yield* first.awaitDisconnected
        yield* first.awaitStats((stats) => stats.aborted === 1 && stats.concurrent.now === 0)
      }).pipe(Effect.scoped))
  }

  it.live("a consumer that takes no more parts closes the socket (T38)", () =>
    Effect.gen(function*() {
      const { context, first } = yield* setup()
      yield* first.outage(Fault.Stall({ after: 1 }))
      yield* Effect.provideContext(Stream.runDrain(Stream.take(stream, 3)), context)
      yield* first.awaitDisconnected
      yield* first.awaitStats((stats) => stats.aborted === 1 && stats.concurrent.now === 0)
    }).pipe(Effect.scoped))

  it.live("a secret never reaches an error, a log or a span (T40)", () =>
    Effect.gen(function*() {
      const { first, loud, second } = yield* setup()
      const written: Array<string> = []
      const logger = Logger.make((options) => {
        written.push(Inspectable.toStringUnknown([options.message, Cause.pretty(options.cause)]))
      })
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const echo = JSON.stringify({
        error: { message: `Incorrect API key provided: ${canary}`, type: "x", code: null }
      })
      for (const server of [first, second]) {
        yield* server.outage(Fault.Status({ status: 500, body: echo, headers: { "x-echo": canary } }))
      }
      const error = yield* Effect.flip(complete).pipe(
        Effect.provideContext(loud),
        Effect.withSpan("call"),
        Effect.provideService(References.MinimumLogLevel, "All"),
        Effect.provideService(Tracer.Tracer, tracer),
        Effect.provide(Logger.layer([logger]))
      )
      const everything = [
        String(error),
        error.message,
        error.stack,
        JSON.stringify(error),
        Inspectable.toStringUnknown(error),
        Inspectable.toStringUnknown(error.cause),
        ...written,
        ...spans.map((span) => JSON.stringify([span.name, Array.from(span.attributes)]))
      ].join("\n")
      assert.isAbove(written.length, 3)
      assert.notInclude(everything, canary)
      assert.notInclude(everything, "0123456789abcdef")
      const { log } = yield* first.received
      assert.isUndefined(log[0]?.headers["traceparent"])
      assert.isUndefined(log[0]?.headers["b3"])
    }).pipe(Effect.scoped))

  it.live("forty calls at once are all answered, each by one attempt, and leave nothing open", () =>
    Effect.gen(function*() {
      const { context, first } = yield* setup()
      const completions = yield* Effect.provideContext(
        Effect.all(Array.from({ length: 40 }, () => complete), { concurrency: "unbounded" }),
        context
      )
      assert.isTrue(completions.every((_) => _.text === "You said: Say tide" && _.attempts.length === 1))
      assert.strictEqual((yield* first.received).answered, 40)
      yield* first.awaitIdle
    }).pipe(Effect.scoped))
})
