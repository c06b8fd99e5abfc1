/**
 * The SDK of a vendor, here the `openai` package, under all policies of a router: two keys, limits, retries, a record.
 *
 * Run it with `node examples/vendor-sdk.ts`. The vendor is a server on loopback, so it needs no keys; with real ones,
 * leave out `baseURL` and put your keys in.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Events, type LLMError, RateLimiter, Resilience, Retry, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Console, Effect, Fiber, Redacted, References, Stream } from "effect"
import OpenAI from "openai"

const keys = ["first", "second"].map((project) => ({ id: project, value: Redacted.make(`sk-${project}`) }))

const targets = keys.map((key) =>
  Target.make({
    provider: "openai",
    model: "gpt-4o-mini",
    key,
    limits: { requests: { limit: 500, per: "1 minute" }, tokens: { limit: 200_000, per: "1 minute" } }
  })
)

// Tokens are reserved before a call and settled to what the answer says; the SDK itself must not retry.
const protect = Resilience.protect("openai", {
  tokens: { input: 20, output: 100 },
  deadline: "30 seconds",
  usage: ({ usage }: OpenAI.ChatCompletion) => ({
    input: usage?.prompt_tokens ?? 0,
    output: usage?.completion_tokens ?? 0
  })
})

const makeAsk = (baseURL: string) => {
  const client = new OpenAI({ apiKey: "that of the target", baseURL, maxRetries: 0 })
  return (question: string) =>
    protect((target) => {
      const apiKey = target.key === undefined ? "" : Redacted.value(target.key.value)
      // The signal ends the request when a limit of time, or whoever waits for the answer, interrupts the effect.
      return Effect.tryPromise((signal) =>
        client.withOptions({ apiKey }).chat.completions.create({
          model: target.model,
          messages: [{ role: "user", content: question }],
          max_tokens: 100
        }, { signal })
      )
    })
}

const print = (attempts: ReadonlyArray<LLMError.Attempt>) =>
  Effect.forEach(attempts, ({ chosen, outcome, reason, status, target }, index) => {
    const ending = outcome === "success" ? "answered" : `${reason} (${status})`
    return Console.log(`  ${index + 1}. ${target}, ${chosen}: ${ending}`)
  }, { discard: true })

const program = Effect.fnUntraced(function*(server: ProviderServer.ProviderServer["Service"]) {
  const ask = makeAsk(server.url)
  const events = yield* Events.Events
  const limiter = yield* RateLimiter.RateLimiter

  // The first key is limited and rests. The second meets a server error, which may have cost what was reserved for it,
  // and is asked again.
  yield* server.enqueue(ProviderServer.Fault.Status({ status: 429, retryAfter: "22 minutes" }))
  yield* server.enqueue(ProviderServer.Fault.Status({ status: 500 }))
  const ended = yield* events.stream.pipe(
    Stream.filter((event) => event._tag === "CallEnded"),
    Stream.runHead,
    Effect.forkChild({ startImmediately: true })
  )
  const completion = yield* ask("Why do harbours have breakwaters?")
  yield* Console.log(completion.choices[0]?.message.content ?? "no text")
  const event = yield* Effect.flatMap(Fiber.join(ended), Effect.fromOption)
  yield* print(event.attempts)
  for (const { grantedTokens, key, refundedTokens, settledTokens } of yield* limiter.snapshot) {
    yield* Console.log(
      `  ${key}: ${grantedTokens} tokens reserved, ${settledTokens} used, ${refundedTokens} given back`
    )
  }

  // Nobody has capacity before the deadline: the call fails at once, and the error has the record.
  yield* server.enqueue(ProviderServer.Fault.Status({ status: 429, retryAfter: "40 minutes" }))
  const error = yield* Effect.flip(ask("And lighthouses?"))
  yield* Console.log(`${error._tag}: ${error.message}`)
  yield* print(error.attempts)
})

const live = Resilience.layerExecute({ targets, retry: Retry.standardWith({ base: "10 millis" }) })

const main = Effect.gen(function*() {
  const server = yield* ProviderServer.make({ format: "openai", reply: "To keep the waves out." })
  yield* Effect.provide(program(server), live)
})

NodeRuntime.runMain(Effect.scoped(main).pipe(Effect.provideService(References.MinimumLogLevel, "None")))
