/**
 * A whole day of failures and cooldowns in a few milliseconds: a test under `TestClock`.
 *
 * Run it with `node examples/time-travel.ts`. In a test, use `it.effect` of `@effect/vitest`: it brings the clock along.
 */
import { NodeRuntime } from "@effect/platform-node"
import { LLMService, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, DateTime, Duration, Effect, Fiber, Layer, References } from "effect"
import { TestClock } from "effect/testing"
import assert from "node:assert/strict"

const targets = [
  Target.make({ provider: "groq", model: "llama-3.3-70b-versatile" }),
  Target.make({ provider: "openai", model: "gpt-4o-mini" })
]

// Groq says no for six hours, then works; OpenAI is slow all day.
const providers = TestProvider.layer({
  "groq/llama-3.3-70b-versatile": [
    TestProvider.fail("rate_limit", { reason: "daily_quota", scope: "model", retryAfter: Duration.hours(6) }),
    TestProvider.reply("fast and cheap")
  ],
  "openai/gpt-4o-mini": [TestProvider.reply("slow but there", { delay: "12 seconds" })]
})

// A stated wait becomes a cooldown of an hour at most, then the target is asked again: it may be back earlier.
const service = Router.layer({ targets }).pipe(Layer.provide([providers, Resilience.layerMemory()]))

const ask = Effect.gen(function*() {
  const llm = yield* LLMService.LLMService
  const fiber = yield* Effect.forkChild(llm.complete({ prompt: "How high is the tide?" }))
  yield* TestClock.adjust("15 seconds")
  return yield* Fiber.join(fiber)
})

const day = Effect.gen(function*() {
  const answeredBy: Array<string> = []
  for (let hour = 0; hour < 24; hour++) {
    answeredBy.push((yield* ask).target)
    yield* TestClock.adjust("1 hour")
  }
  assert.equal(answeredBy[0], "openai/gpt-4o-mini")
  assert.deepEqual(new Set(answeredBy.slice(1)), new Set(["groq/llama-3.3-70b-versatile"]))
  const now = yield* DateTime.now
  yield* Console.log(
    `24 calls answered by ${DateTime.formatIso(now)} of virtual time: ${answeredBy.slice(0, 3).join(", ")}, …`
  )
})

NodeRuntime.runMain(day.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "None")
))
