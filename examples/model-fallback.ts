/**
 * The 27 models of the catalogue: what a call does when models are limited, retired or cannot serve it.
 *
 * Run it with `node examples/model-fallback.ts`. Time is virtual and the providers are scripted, so it needs no keys.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cooldown, LLMService, Presets, Resilience, Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Duration, Effect, Layer, Redacted, References } from "effect"
import { TestClock } from "effect/testing"

// Groq first, then OpenAI, then Anthropic; `order` and `models` change that, `Target.cheapestFirst` sorts models.
const preset = Presets.catalogue({
  keys: { groq: Redacted.make("gsk"), openai: Redacted.make("sk"), anthropic: Redacted.make("sk-ant") }
})

const limited = TestProvider.fail("rate_limit", {
  reason: "rate_limit",
  scope: "model",
  status: 429,
  retryAfter: Duration.minutes(22)
})
const retired = TestProvider.fail("permanent", { reason: "model_not_found", scope: "model", status: 404 })

const ok = TestProvider.reply("ok", { usage: { input: 2000, output: 500 } })

const providers = TestProvider.layer({
  "groq/llama-3.3-70b-versatile@groq-1": [limited, ok],
  "groq/llama-3.3-70b-specdec@groq-1": [retired],
  "*": [ok]
})

const ask = Effect.fnUntraced(function*(title: string, request: Partial<LLMService.CompletionRequest> = {}) {
  const llm = yield* LLMService.LLMService
  const { attempts, cost = 0, target } = yield* llm.complete({ prompt: "How high is the tide?", ...request })
  yield* Console.log(`${title}: ${target} answered at attempt ${attempts.length}, for $${cost.toFixed(6)}`)
  const failures = attempts.flatMap((_) => _.reason === undefined ? [] : [`${_.target} failed (${_.reason})`])
  const more = failures.length > 2 ? [`${failures.length - 2} more failed`] : []
  for (const line of [...failures.slice(0, 2), ...more]) yield* Console.log(`  ${line}`)
  const passedOver = attempts.at(0)?.skipped.map((_) => _.target) ?? []
  if (passedOver.length > 0) yield* Console.log(`  not asked at all: ${passedOver.join(", ")}`)
})

const left = Effect.gen(function*() {
  const cooldown = yield* Cooldown.Cooldown
  const byProvider = Cooldown.available(preset.targets, yield* cooldown.active)
  const counts = Object.entries(byProvider).map(([name, { available, total }]) => `${name} ${available}/${total}`)
  yield* Console.log(`  available: ${counts.join(", ")}`)
})

const main = Effect.gen(function*() {
  yield* ask("the first model is limited for 22 minutes, the second is retired")
  yield* left
  yield* ask("the next call does not ask them again")
  yield* ask("only some models enforce a JSON schema", {
    responseFormat: { type: "json_schema", name: "tide", schema: { type: "object" } }
  })

  const provider = yield* TestProvider.TestProvider
  for (const target of preset.targets.slice(2, 15)) yield* provider.script(target.id, [limited])
  yield* ask("all of Groq is limited")
  yield* left

  yield* TestClock.adjust("22 minutes")
  yield* ask("22 minutes later")
  yield* left
})

const service = Router.layer(preset).pipe(
  Layer.provideMerge(Layer.merge(providers, Resilience.layerMemory(preset)))
)

NodeRuntime.runMain(main.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "None")
))
