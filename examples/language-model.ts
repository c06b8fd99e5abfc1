/**
 * A program of effect/ai with a tool, a stream and an object, over three targets: what it does when they do not answer.
 *
 * Run it with `node examples/language-model.ts`. Time is virtual and the providers are scripted, so it needs no keys.
 */
import { NodeRuntime } from "@effect/platform-node"
import { LanguageModel as Bridge, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Duration, Effect, Layer, References, Schema, Stream } from "effect"
import { Chat, LanguageModel, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"

// -- the program, which knows effect/ai and nothing of us --------------------

const Tide = Tool.make("Tide", {
  description: "Height of the tide in a harbour",
  parameters: Schema.Struct({ harbour: Schema.String }),
  success: Schema.Struct({ metres: Schema.Finite })
})
const harbour = Toolkit.make(Tide)

const handlers = harbour.toLayer({
  Tide: ({ harbour }) => Effect.as(Console.log(`  the tool looks up ${harbour}`), { metres: 6.3 })
})

const Forecast = Schema.Struct({ harbour: Schema.String, metres: Schema.Finite })

const program = Effect.gen(function*() {
  yield* Console.log("a tool: two targets fail before the one that calls it")
  const chat = yield* Chat.empty
  yield* chat.generateText({ prompt: "How high is the tide in Saint-Malo?", toolkit: harbour })
  const { text } = yield* chat.generateText({ prompt: [], toolkit: harbour })
  yield* Console.log(`  ${text}`)

  yield* Console.log("an object")
  const { value } = yield* LanguageModel.generateObject({ prompt: "And tomorrow?", schema: Forecast })
  yield* Console.log(`  ${value.metres} m in ${value.harbour}`)

  yield* Console.log("a stream")
  const streamed = yield* LanguageModel.streamText({ prompt: "Tell me about tides" }).pipe(
    Stream.runFold(() => "", (text, part) => part.type === "text-delta" ? text + part.delta : text)
  )
  yield* Console.log(`  ${streamed}`)
})

// -- what stands below it -----------------------------------------------------

const targets = ["groq/llama-3.3-70b-versatile", "openai/gpt-4o", "anthropic/claude-sonnet-4-5"].map((id) => {
  const [provider = "", model = ""] = id.split("/")
  return Target.make({ provider, model })
})

const providers = TestProvider.layer({
  "groq/llama-3.3-70b-versatile": [
    TestProvider.fail("rate_limit", {
      reason: "daily_quota",
      scope: "model",
      status: 429,
      retryAfter: Duration.minutes(22)
    })
  ],
  "openai/gpt-4o": [
    TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 })
  ],
  "anthropic/claude-sonnet-4-5": [
    TestProvider.reply("", { toolCalls: [{ name: "Tide", params: { harbour: "Saint-Malo" } }] }),
    TestProvider.reply("6.3 m, so mind the causeway."),
    TestProvider.reply(`{"harbour":"Saint-Malo","metres":5.9}`),
    TestProvider.reply("The moon pulls, the water follows.")
  ]
})

const live = Bridge.layer.pipe(
  Layer.provide(Router.layer({ targets })),
  Layer.provideMerge(Layer.merge(providers, Resilience.layerMemory()))
)

const main = Effect.gen(function*() {
  yield* program.pipe(
    Effect.provide(handlers),
    Effect.provideService(Bridge.CallOptions, { deadline: "30 seconds", priority: "high" })
  )
  const asked = yield* Effect.flatMap(TestProvider.TestProvider, (provider) => provider.calls)
  yield* Console.log(`requests: ${asked.map(({ target }) => target.split("/")[0]).join(", ")}`)
})

NodeRuntime.runMain(main.pipe(
  Effect.provide(live),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "None")
))
