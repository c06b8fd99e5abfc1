import { assert, describe, it } from "@effect/vitest"
import { type LLMError, RateLimiter, Resilience, Router, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Duration, Effect, Fiber, type Layer, Redacted, References } from "effect"
import OpenAI from "openai"
import * as Loopback from "../support/Loopback.ts"

// The vendor's own SDK over real sockets, so in real time. What hangs meets a short limit; nothing sleeps to see
// something happen.
const { Fault } = ProviderServer

const question = "Say tide"

const targetOf = (id: string, options: Partial<Target.Options> = {}) =>
  Target.make({
    provider: "openai",
    model: "gpt-4o-mini",
    key: { id, value: Redacted.make(`${Loopback.canary}${id}`) },
    ...options
  })

const clientOf = (baseURL: string, options: ConstructorParameters<typeof OpenAI>[0] = {}) =>
  new OpenAI({ apiKey: Loopback.canary, baseURL, maxRetries: 0, ...options })

const create = (client: OpenAI, { key, model }: Target.Target) => (signal: AbortSignal) =>
  client.withOptions(key === undefined ? {} : { apiKey: Redacted.value(key.value) }).chat.completions.create({
    model,
    messages: [{ role: "user", content: question }],
    max_tokens: 40
  }, { signal })

const quietly = <A, E, R, L>(effect: Effect.Effect<A, E, R>, live: Layer.Layer<L>) =>
  effect.pipe(Effect.provide(live), Effect.provideService(References.MinimumLogLevel, "None"))

const single = Resilience.layerExecute({ targets: [targetOf("k")], maxAttempts: 1 })

/** Both ways to wrap a promise: `tryPromise` puts what was thrown into an error of its own, unless it is told not to. */
const ways = {
  wrapped: (client: OpenAI, target: Target.Target) => Effect.tryPromise(create(client, target)),
  bare: (client: OpenAI, target: Target.Target) =>
    Effect.tryPromise({ try: create(client, target), catch: (error) => error })
}

interface Case {
  readonly fault?: ProviderServer.Fault
  readonly client?: ConstructorParameters<typeof OpenAI>[0]
  readonly expected: readonly [
    LLMError.ErrorClass,
    LLMError.Reason,
    LLMError.Scope,
    status: number | undefined,
    maybeBilled: boolean
  ]
  readonly retryAfter?: Duration.Input
}

const answered = (status: number, error: object) => Fault.Status({ status, body: JSON.stringify({ error }) })

const cases: Readonly<Record<string, Case>> = {
  "a limit that states a wait": {
    fault: Fault.Status({ status: 429, retryAfter: "22 seconds" }),
    expected: ["rate_limit", "rate_limit", "model", 429, false],
    retryAfter: "22 seconds"
  },
  "a wait in milliseconds": {
    fault: Fault.Status({ status: 429, headers: { "retry-after-ms": "1500" } }),
    expected: ["rate_limit", "rate_limit", "model", 429, false],
    retryAfter: "1500 millis"
  },
  "a spent credit": {
    fault: answered(429, { message: "You exceeded your current quota.", code: "insufficient_quota" }),
    expected: ["rate_limit", "insufficient_quota", "key", 429, false]
  },
  "an internal error": {
    fault: Fault.Status({ status: 500 }),
    expected: ["server_error", "internal_error", "provider", 500, true]
  },
  "an overload": {
    fault: Fault.Status({ status: 503 }),
    expected: ["server_error", "overloaded", "provider", 503, false]
  },
  "an HTML page of an edge": {
    fault: Fault.HtmlPage({ status: 502 }),
    expected: ["server_error", "html_error_page", "provider", 502, true]
  },
  "a wrong key": {
    fault: Fault.Status({ status: 401 }),
    expected: ["authentication", "invalid_key", "key", 401, false]
  },
  "a retired model": {
    fault: answered(404, { message: "The model does not exist", code: "model_not_found" }),
    expected: ["permanent", "model_not_found", "model", 404, false]
  },
  "a prompt that is too long": {
    fault: answered(400, {
      message: "This model's maximum context length is 8192 tokens.",
      code: "context_length_exceeded"
    }),
    expected: ["permanent", "context_length_exceeded", "model", 400, false]
  },
  "the SDK's own timeout": {
    fault: Fault.NoAnswer(),
    client: { timeout: 50 },
    expected: ["timeout", "client_timeout", "provider", undefined, true]
  },
  "a connection that is reset": {
    fault: Fault.Reset({}),
    expected: ["transient_network", "conn_reset", "provider", undefined, true]
  },
  "an answer that is cut": {
    fault: Fault.Cut({}),
    expected: ["transient_network", "premature_close", "provider", undefined, true]
  },
  "half a JSON document": {
    fault: Fault.MalformedChunk({}),
    expected: ["server_error", "invalid_response", "provider", undefined, true]
  }
}

const classified = (client: OpenAI, way: keyof typeof ways) =>
  Effect.flip(quietly(Resilience.protect("openai")((target) => ways[way](client, target)), single))

describe("the openai package, protected", () => {
  for (const [name, { client, expected, fault, retryAfter }] of Object.entries(cases)) {
    it.live(`says what it is: ${name}`, () =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ format: "openai" })
        for (const way of ["wrapped", "bare"] as const) {
          if (fault !== undefined) yield* server.enqueue(fault)
          const error = yield* classified(clientOf(server.url, client), way)
          const { errorClass, maybeBilled, reason, requestId, scope, status } = error
          assert.deepStrictEqual([errorClass, reason, scope, status, maybeBilled], [...expected], way)
          assert.deepStrictEqual(error.retryAfter, retryAfter && Duration.fromInputUnsafe(retryAfter), way)
          assert.strictEqual(requestId !== undefined, status !== undefined, `${way}: a response has an id`)
          assert.strictEqual(error.target, "openai/gpt-4o-mini@k")
          assert.notInclude(JSON.stringify(error), Loopback.canary)
        }
      }))
  }

  it.live("says that a connection was refused, which costs nothing", () =>
    Effect.gen(function*() {
      // The port of a server that is gone.
      const url = yield* Effect.scoped(Effect.map(ProviderServer.make({ format: "openai" }), (_) => _.url))
      const error = yield* classified(clientOf(url), "wrapped")
      assert.deepStrictEqual(
        [error.errorClass, error.reason, error.maybeBilled, error.isRetryable],
        ["transient_network", "conn_refused", false, true]
      )
    }))

  it.live("moves to another key, retries, and settles what was used", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", reply: "tide" })
      const client = clientOf(server.url)
      yield* server.enqueue(Fault.Status({ status: 429, retryAfter: "22 minutes" }))
      yield* server.enqueue(Fault.Status({ status: 500 }))
      const limits = { tokens: { limit: 1000, per: "1 minute" } } as const
      const live = Resilience.layerExecute({
        targets: [targetOf("one", { limits }), targetOf("two", { limits })],
        retry: Loopback.quick
      })
      const protect = Resilience.protect("openai", {
        tokens: { input: 10, output: 40 },
        usage: ({ usage }: OpenAI.ChatCompletion) => ({
          input: usage?.prompt_tokens ?? 0,
          output: usage?.completion_tokens ?? 0
        })
      })
      yield* Effect.gen(function*() {
        const completion = yield* protect((target) => Effect.tryPromise(create(client, target)))
        assert.strictEqual(completion.choices[0]?.message.content, "tide")
        const limiter = yield* RateLimiter.RateLimiter
        // The 500 may have been executed, so what was reserved for it counts as used.
        const used = (yield* limiter.snapshot).map((_) => [_.key, _.inFlight, _.settledTokens])
        assert.deepStrictEqual(used, [
          ["model:openai/gpt-4o-mini@one", 0, 0],
          ["model:openai/gpt-4o-mini@two", 0, 50 + (completion.usage?.total_tokens ?? 0)]
        ])
      }).pipe((_) => quietly(_, live))
      const { byKey, byStatus } = yield* server.received
      assert.deepStrictEqual([byKey, byStatus], [{ "key-1": 1, "key-2": 2 }, { 200: 1, 429: 1, 500: 1 }])
    }))

  it.live("ends the request of an attempt that takes too long, and asks the other key", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai", reply: "tide" })
      const client = clientOf(server.url)
      yield* server.enqueue(Fault.NoAnswer())
      const live = Resilience.layerExecute({
        targets: [targetOf("one"), targetOf("two")],
        timeouts: { attempt: "400 millis" }
      })
      const completion = yield* quietly(
        Resilience.protect("openai")((target) => Effect.tryPromise(create(client, target))),
        live
      )
      assert.strictEqual(completion.choices[0]?.message.content, "tide")
      yield* server.awaitStats((_) => _.aborted === 1 && _.answered === 1)
    }))

  it.live("ends the request of a caller who leaves, which is no failure", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ format: "openai" })
      const client = clientOf(server.url)
      yield* server.enqueue(Fault.NoAnswer())
      const live = Resilience.layerExecute({
        targets: [targetOf("one", { limits: { concurrency: 1 } })]
      })
      yield* Effect.gen(function*() {
        const ask = Router.execute((target) => Effect.tryPromise(create(client, target)), { service: "openai" })
        const caller = yield* Effect.forkChild(ask)
        yield* server.awaitRequests(1)
        yield* Fiber.interrupt(caller)
        yield* server.awaitStats((_) => _.aborted === 1)
        // The slot is free again, and the circuit has seen nothing.
        assert.strictEqual((yield* ask).choices[0]?.message.content, `You said: ${question}`)
      }).pipe((_) => quietly(_, live))
      yield* server.awaitIdle
      assert.strictEqual((yield* server.received).requests, 2)
    }))
})
