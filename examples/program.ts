/**
 * A program that asks two providers, and does not notice that the first one is down.
 *
 * Run it with `node examples/program.ts`. Both providers are servers on loopback, so it needs no keys; with real ones,
 * leave out `baseUrl` and put your keys in.
 */
import { NodeHttpClient, NodeRuntime } from "@effect/platform-node"
import { LLMService, Resilience, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Console, Effect, Layer, Redacted, Stream } from "effect"

// What an application writes: it knows LLMService and no provider.
const program = Effect.gen(function*() {
  const llm = yield* LLMService.LLMService

  const completion = yield* llm.complete({ prompt: "Why do harbours have breakwaters?", deadline: "30 seconds" })
  yield* Console.log(`${completion.target} answered after ${completion.attempts.length} attempts: ${completion.text}`)

  yield* llm.stream({ prompt: "And lighthouses?" }).pipe(
    Stream.runForEach((part) => part.type === "text-delta" ? Console.log(`  part: ${part.delta}`) : Effect.void)
  )
}).pipe(
  Effect.catchTag("RateLimitError", (error) => Console.log(`nobody has capacity: ${error.message}`))
)

// What the composition root writes: which targets there are. Swapping providers is swapping this layer.
const main = Effect.gen(function*() {
  const groq = yield* ProviderServer.make({ format: "openai", flavour: "groq" })
  const anthropic = yield* ProviderServer.make({ format: "anthropic" })
  yield* groq.outage(ProviderServer.Fault.Status({ status: 429, retryAfter: "22 minutes" }))

  const live = Resilience.layer({
    targets: [
      Target.make({
        provider: "groq",
        model: "llama-3.3-70b-versatile",
        key: { id: "groq-1", value: Redacted.make("gsk_your_key") },
        baseUrl: groq.url
      }),
      Target.make({
        provider: "anthropic",
        model: "claude-3-5-haiku-20241022",
        key: { id: "anthropic-1", value: Redacted.make("sk-ant-your-key") },
        baseUrl: anthropic.url
      })
    ]
  }).pipe(Layer.provide(NodeHttpClient.layerUndici))

  yield* Effect.provide(program, live)
})

NodeRuntime.runMain(Effect.scoped(main))
