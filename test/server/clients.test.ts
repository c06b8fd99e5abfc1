import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Deferred, Effect } from "effect"
import * as Clients from "../support/Clients.ts"
import * as Harness from "./harness.ts"

// The SDKs of five vendors over real sockets, so in real time: none of them is told that it talks to a gateway.
const { Fault } = ProviderServer

const sentence = "The tide turns twice a day, and the harbour with it."

// Calls the tool that it is given, then says what came of it.
const reply = (request: ProviderServer.ChatRequest): string | ProviderServer.Reply => {
  const last = request.messages.at(-1)
  const [tool] = request.tools
  if (last?.text.startsWith("6.5 m") === true) return { text: `The tide stands at ${last.text}.` }
  if (tool !== undefined) return { toolCalls: [{ name: tool.name, arguments: { harbour: "Dover" } }] }
  if (request.jsonSchema !== undefined) return { text: JSON.stringify({ harbour: "Dover", metres: 6.5 }) }
  return last?.text.includes("filtered") === true ? { text: sentence, finishReason: "content_filter" } : sentence
}

const models = { openai: "gpt-4o-mini", anthropic: "claude-3-5-haiku-20241022" } as const
const vendors = ["openai", "anthropic"] as const

/** A gateway before a server of each format, and a virtual model for each, both, and both with an answer held back. */
const fixture = Effect.gen(function*() {
  const openai = yield* ProviderServer.make({ format: "openai", reply })
  const anthropic = yield* ProviderServer.make({ format: "anthropic", reply })
  const once = { maxAttempts: 1, timeouts: { attempt: "400 millis", firstToken: "400 millis", idle: "400 millis" } }
  const { port } = yield* Harness.serve({
    providers: Harness.providers({ openai, anthropic }),
    models: {
      openai: { targets: [`openai/${models.openai}`], ...once },
      anthropic: { targets: [`anthropic/${models.anthropic}`], ...once },
      patient: { targets: [`openai/${models.openai}`] },
      single: { targets: [`openai/${models.openai}`], maxAttempts: 1 },
      both: { targets: [`openai/${models.openai}`, `anthropic/${models.anthropic}`], retry: { base: "2 millis" } },
      buffered: { targets: [`openai/${models.openai}`], streamPolicy: "buffer", ...once }
    }
  })
  const ask = (model: string): Clients.Ask => ({
    origin: `http://127.0.0.1:${port}`,
    apiKey: "any",
    model,
    question: "What does the tide do?"
  })
  return { upstreams: { openai, anthropic }, ask }
})

const kinds = ["chat", "stream"] as const

/** The words of a client for an end, by the one of OpenAI. */
const finishes = {
  "openai": { stop: "stop", content_filter: "content_filter" },
  "groq-sdk": { stop: "stop", content_filter: "content_filter" },
  "@anthropic-ai/sdk": { stop: "end_turn", content_filter: "refusal" },
  "ai": { stop: "stop", content_filter: "content-filter" },
  "@langchain/openai": { stop: "stop", content_filter: "content_filter" }
} as const

/** What a client throws for a status. */
const classOf = (client: Clients.Client, status: number): string => {
  if (client.name === "ai") return "APICallError"
  if (client.face === "anthropic" && status === 504) return "GatewayTimeoutError"
  if (client.face === "anthropic" && status === 529) return "OverloadedError"
  if (status >= 500) return "InternalServerError"
  const classes: Readonly<Record<number, string>> = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError"
  }
  return classes[status] ?? "APIError"
}

/** What a client throws for an error event. */
const midStream = {
  "openai": "APIError",
  "groq-sdk": "APIError",
  "@anthropic-ai/sdk": "APIError",
  "ai": "StreamProviderError",
  "@langchain/openai": "APIError"
} as const

/** Clients with the name of a class that is theirs. */
type Name = keyof typeof midStream
const nameOf = (client: Clients.Client): Name => client.name as Name

/** As its users have it: only where a header does not stop the retries of the SDK, they are turned off. */
const unchanged = (client: Clients.Client, ask: Clients.Ask): Clients.Ask =>
  client.obeys ? ask : { ...ask, maxRetries: 0 }

const thrownBy = (call: () => Promise<unknown>) =>
  Effect.tryPromise({ try: call, catch: Clients.thrownOf }).pipe(
    Effect.flatMap((value) => Effect.die(new Error(`no error, but ${JSON.stringify(value)}`))),
    Effect.flip
  )

interface Expected {
  readonly fault: ProviderServer.Fault
  readonly status: number
  /** The code in the format of OpenAI, where it is not the same for a whole answer and a stream. */
  readonly code: string | { readonly chat: string; readonly stream: string }
  /** The type in the format of Anthropic. */
  readonly type: string
  /** What the provider states, or for how long the only target rests. */
  readonly retryAfter?: string
}

const answered = (status: number, error: object) => Fault.Status({ status, body: JSON.stringify({ error }) })

const expectations: Readonly<Record<string, Expected>> = {
  "a limit": {
    fault: Fault.Status({ status: 429, retryAfter: "22 seconds" }),
    status: 429,
    code: "rate_limit_exceeded",
    type: "rate_limit_error",
    retryAfter: "22"
  },
  "a spent credit": {
    fault: answered(429, { message: "You exceeded your current quota.", code: "insufficient_quota" }),
    status: 429,
    code: "insufficient_quota",
    type: "rate_limit_error",
    retryAfter: "3600"
  },
  "an internal error": {
    fault: Fault.Status({ status: 500 }),
    status: 500,
    code: "internal_error",
    type: "api_error"
  },
  "an overload": {
    fault: Fault.Status({ status: 503 }),
    status: 503,
    code: "overloaded",
    type: "overloaded_error"
  },
  "a wrong key of the gateway": {
    fault: Fault.Status({ status: 401 }),
    status: 502,
    code: "upstream_authentication",
    type: "api_error",
    retryAfter: "3600"
  },
  "a retired model": {
    fault: answered(404, { message: "The model does not exist", code: "model_not_found" }),
    status: 404,
    code: "model_not_found",
    type: "not_found_error",
    retryAfter: "3600"
  },
  "a prompt that is too long": {
    fault: answered(400, {
      message: "This model's maximum context length is 8192 tokens.",
      code: "context_length_exceeded"
    }),
    status: 400,
    code: "context_length_exceeded",
    type: "invalid_request_error"
  },
  "a prompt that is filtered": {
    fault: answered(400, { message: "The response was filtered", code: "content_filter" }),
    status: 400,
    code: "content_filter",
    type: "invalid_request_error"
  },
  "a page of an edge": { fault: Fault.HtmlPage({}), status: 502, code: "html_error_page", type: "api_error" },
  "no answer": {
    fault: Fault.NoAnswer(),
    status: 504,
    code: { chat: "attempt", stream: "first_token" },
    type: "timeout_error",
    retryAfter: "10"
  },
  "a reset": { fault: Fault.Reset({}), status: 502, code: "conn_reset", type: "api_error" },
  "a cut before any content": {
    fault: Fault.Cut({ after: 0 }),
    status: 502,
    code: "premature_close",
    type: "api_error"
  },
  "an end before any content": {
    fault: Fault.Cut({ after: 0, clean: true }),
    status: 502,
    code: { chat: "invalid_response", stream: "stream_truncated" },
    type: "api_error"
  },
  "an empty body": { fault: Fault.EmptyBody(), status: 502, code: "empty_response", type: "api_error" },
  "an error event at once": {
    fault: Fault.ErrorEvent({ after: 0 }),
    status: 500,
    code: "internal_error",
    type: "api_error"
  }
}

/** Faults after a part of the answer, which no client may take for all of it. */
const breaks: Readonly<Record<string, ProviderServer.Fault>> = {
  "a cut": Fault.Cut({ after: 2 }),
  "an end without a word": Fault.Cut({ after: 2, clean: true }),
  "a stall": Fault.Stall({ after: 2 }),
  "a stall with keep-alives": Fault.Stall({ after: 2, keepAlive: "50 millis" }),
  "an error event": Fault.ErrorEvent({ after: 2 }),
  "half a JSON document": Fault.MalformedChunk({ after: 2 })
}

describe.concurrent("clients", () => {
  for (const client of Clients.all) {
    describe(client.name, () => {
      for (const vendor of vendors) {
        it.live(`asks, streams, calls tools and gets objects, from ${vendor}`, () =>
          Effect.gen(function*() {
            const { ask, upstreams } = yield* fixture
            const question = ask(vendor)
            for (const kind of kinds) {
              const pieces: Array<string> = []
              const seen = yield* Effect.promise(() => client[kind](question, (text) => pieces.push(text)))
              assert.deepStrictEqual(seen, {
                text: sentence,
                model: models[vendor],
                finish: finishes[nameOf(client)].stop,
                usage: kind === "stream" && client.name === "groq-sdk" ? [undefined, undefined] : [6, 13]
              }, kind)
              if (kind === "stream") {
                assert.strictEqual(pieces.join(""), sentence)
                assert.isAbove(pieces.length, 1)
              }
            }
            const asked: Array<string> = []
            const text = yield* Effect.promise(() =>
              client.tools(question, (harbour) => {
                asked.push(harbour)
                return `6.5 m at ${harbour}`
              })
            )
            assert.deepStrictEqual([text, asked], ["The tide stands at 6.5 m at Dover.", ["Dover"]])
            assert.deepStrictEqual(yield* Effect.promise(() => client.streamedTool(question)), [
              "lookup_tide",
              { harbour: "Dover" }
            ])
            assert.deepStrictEqual(yield* Effect.promise(() => client.structured(question)), {
              harbour: "Dover",
              metres: 6.5
            })
            assert.strictEqual((yield* upstreams[vendor].received).requests, 6)
          }))
      }

      it.live("does not notice that a target fails", () =>
        Effect.gen(function*() {
          const { ask, upstreams } = yield* fixture
          yield* upstreams.openai.outage(Fault.Status({ status: 429, retryAfter: "22 minutes" }))
          for (const kind of kinds) {
            const { model, text } = yield* Effect.promise(() => client[kind](ask("both")))
            assert.deepStrictEqual([text, model], [sentence, models.anthropic])
          }
          const asked: Array<string> = []
          yield* Effect.promise(() =>
            client.tools(ask("both"), (harbour) => {
              asked.push(harbour)
              return `6.5 m at ${harbour}`
            })
          )
          assert.deepStrictEqual(asked, ["Dover"])
        }))

      it.live("sees why there is no answer, once, and with the class it has for that", () =>
        Effect.gen(function*() {
          for (const [name, expected] of Object.entries(expectations)) {
            for (const kind of kinds) {
              // Each in a gateway of its own, which knows of no failure yet.
              const seen = yield* Effect.scoped(Effect.gen(function*() {
                const { ask, upstreams } = yield* fixture
                yield* upstreams.openai.outage(expected.fault)
                const model = name === "no answer" ? "openai" : "single"
                const thrown = yield* thrownBy(() => client[kind](unchanged(client, ask(model))))
                return [thrown, (yield* upstreams.openai.received).requests] as const
              }))
              const [{ error, retryAfter, says, status }, requests] = seen
              const which = `${name}, ${kind}`
              assert.strictEqual(requests, 1, which)
              if (name === "a prompt that is too long" && client.name === "@langchain/openai") {
                assert.strictEqual(error, "ContextOverflowError", which)
                continue
              }
              // In the format of Anthropic an overload has a status of its own.
              const overload = client.face === "anthropic" && expected.type === "overloaded_error"
              assert.strictEqual(status, overload ? 529 : expected.status, which)
              assert.strictEqual(error, classOf(client, status ?? 0), which)
              const code = typeof expected.code === "string" ? expected.code : expected.code[kind]
              assert.strictEqual(says.at(-1), client.face === "anthropic" ? expected.type : code, which)
              assert.strictEqual(retryAfter, expected.retryAfter, which)
            }
          }
        }), 20_000)

      it.live("never takes the beginning of an answer for all of it", () =>
        Effect.gen(function*() {
          for (const [name, fault] of Object.entries(breaks)) {
            yield* Effect.scoped(Effect.gen(function*() {
              const { ask, upstreams } = yield* fixture
              for (const vendor of vendors) {
                yield* upstreams[vendor].outage(fault)
                let text = ""
                const call = () => client.stream(unchanged(client, ask(vendor)), (piece) => text += piece)
                const { error, message } = yield* thrownBy(call)
                const which = `${name} of ${vendor}: ${message}`
                assert.strictEqual(error, midStream[nameOf(client)], which)
                assert.isTrue(sentence.startsWith(text) && text !== sentence, which)
                assert.strictEqual((yield* upstreams[vendor].received).requests, 1, which)
              }
            }))
            // Where the answer is held back, there is a status for all that.
            yield* Effect.scoped(Effect.gen(function*() {
              const { ask, upstreams } = yield* fixture
              yield* upstreams.openai.outage(fault)
              const { error, status = 0 } = yield* thrownBy(() => client.stream(unchanged(client, ask("buffered"))))
              assert.strictEqual(error, classOf(client, status), name)
              assert.isAtLeast(status, 500, name)
            }))
          }
        }), 20_000)

      it.live("sees that an answer was filtered", () =>
        Effect.gen(function*() {
          const { ask } = yield* fixture
          for (const vendor of vendors) {
            for (const kind of kinds) {
              const seen = yield* Effect.promise(() =>
                client[kind]({ ...ask(vendor), question: "Say what is filtered" })
              )
              assert.strictEqual(seen.finish, finishes[nameOf(client)].content_filter, `${kind} of ${vendor}`)
            }
          }
        }))

      it.live("sees that a model is not there", () =>
        Effect.gen(function*() {
          const { ask } = yield* fixture
          for (const kind of kinds) {
            const { error, status } = yield* thrownBy(() => client[kind](ask("nobody")))
            assert.deepStrictEqual([error, status], [classOf(client, 404), 404])
          }
        }))

      it.live("ends the call of its provider when it leaves", () =>
        Effect.gen(function*() {
          const { ask, upstreams } = yield* fixture
          for (const kind of kinds) {
            yield* upstreams.openai.reset
            yield* upstreams.openai.outage(kind === "chat" ? Fault.NoAnswer() : Fault.Stall({ after: 2 }))
            const leaving = new AbortController()
            const begun = Deferred.makeUnsafe<void>()
            const asking = { ...unchanged(client, ask("patient")), signal: leaving.signal }
            const call = client[kind](asking, () => Deferred.doneUnsafe(begun, Effect.void)).catch((_) => _)
            yield* kind === "chat" ? upstreams.openai.awaitRequests(1) : Deferred.await(begun)
            leaving.abort()
            yield* Effect.timeout(upstreams.openai.awaitStats((_) => _.aborted === 1), "1 second")
            yield* Effect.promise(() => call)
            assert.strictEqual((yield* upstreams.openai.received).requests, 1)
          }
        }))
    })
  }
})
