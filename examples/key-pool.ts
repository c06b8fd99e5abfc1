/**
 * Four keys of one provider, three of which fail: what the pool does at once, and how the keys come back.
 *
 * Run it with `node examples/key-pool.ts`. Time is virtual and the provider is scripted, so it needs no keys.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cooldown, Health, LLMService, Presets, Resilience, Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Effect, Fiber, Layer, Random, Redacted, References } from "effect"
import { TestClock } from "effect/testing"

// Limits, timeouts, cooldowns and circuits all come with the preset; a spread changes any of them.
const pool = Presets.keyPool({
  provider: "mistral",
  model: "mistral-small-latest",
  keys: ["one", "two", "three", "four"].map((secret) => Redacted.make(secret))
})

const id = (key: number): string => `mistral/mistral-small-latest@mistral-${key}`
const ok = TestProvider.reply("ok", { delay: "300 millis" })

const provider = TestProvider.layer({
  [id(1)]: [TestProvider.stall(), ok],
  [id(2)]: [TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "key", status: 429 }), ok],
  [id(3)]: [TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 }), ok],
  [id(4)]: [ok]
})

const ask = Effect.gen(function*() {
  const llm = yield* LLMService.LLMService
  const fiber = yield* Effect.forkChild(llm.complete({ prompt: "How high is the tide?" }))
  yield* TestClock.adjust("61 seconds")
  const completion = yield* Fiber.join(fiber)
  yield* Console.log(`answered by ${completion.target} after ${completion.attempts.length} attempt(s):`)
  for (const attempt of completion.attempts) {
    const key = attempt.target.split("@")[1]
    const ended = attempt.outcome === "success" ? "answered" : `${attempt.errorClass} (${attempt.reason})`
    yield* Console.log(`  ${key}  ${attempt.chosen.padEnd(5)}  ${ended}, ${attempt.durationMs} ms`)
  }
})

const report = Effect.gen(function*() {
  const cooldown = yield* Cooldown.Cooldown
  const health = yield* Health.Health
  for (const target of pool.targets) {
    const score = Math.round(yield* health.score(`target:${target.id}`))
    // What is known of a key is kept under several names: the target's, the model's, the key's.
    const [entry] = yield* cooldown.latest([[`target:${target.id}`, `key:mistral@${target.key?.id}`]])
    const state = entry === undefined ? "free" : `rests ${Math.ceil(entry.remainingMs / 1000)} s (${entry.reason})`
    yield* Console.log(`  ${target.key?.id}  health ${String(score).padStart(3)}  ${state}`)
  }
})

const main = Effect.gen(function*() {
  yield* Console.log("the first key hangs, the second is limited, the third is revoked")
  yield* ask
  yield* report
  yield* TestClock.adjust("1 minute")
  yield* Console.log("a minute later")
  yield* ask
  yield* report
  yield* TestClock.adjust("1 hour")
  yield* Console.log("an hour later")
  yield* report
})

const service = Router.layer(pool).pipe(
  Layer.provideMerge(Layer.merge(provider, Resilience.layerMemory(pool)))
)

NodeRuntime.runMain(main.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Random.withSeed("tide"),
  Effect.provideService(References.MinimumLogLevel, "None")
))
