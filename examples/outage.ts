/**
 * An outage of 60 seconds, seen through the circuit, the health score and the cooldowns: a timeline in virtual time.
 *
 * Run it with `node examples/outage.ts`. A call is made every four seconds; the first provider is down from 0:20 to 1:20.
 */
import { NodeRuntime } from "@effect/platform-node"
import { CircuitBreaker, Cooldown, Health, LLMService, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Effect, Fiber, Layer, References } from "effect"
import { TestClock } from "effect/testing"

const targets = [
  Target.make({ provider: "groq", model: "llama-3.3-70b-versatile" }),
  Target.make({ provider: "openai", model: "gpt-4o-mini" })
]
const watched = "target:groq/llama-3.3-70b-versatile"

const up = TestProvider.reply("ok", { delay: "400 millis" })
const down = TestProvider.fail("server_error", { reason: "overloaded", scope: "provider", status: 503 }, {
  delay: "100 millis"
})

const clock = (seconds: number): string => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`

const main = Effect.gen(function*() {
  const llm = yield* LLMService.LLMService
  const provider = yield* TestProvider.TestProvider
  const circuits = yield* CircuitBreaker.CircuitBreaker
  const health = yield* Health.Health
  const cooldown = yield* Cooldown.Cooldown

  yield* Console.log("time  answered by  attempts  circuit    health  cooling")
  for (let second = 0; second < 160; second += 4) {
    if (second === 20) yield* provider.script("groq/llama-3.3-70b-versatile", [down])
    if (second === 80) yield* provider.script("groq/llama-3.3-70b-versatile", [up])
    const fiber = yield* Effect.forkChild(llm.complete({ prompt: "How high is the tide?" }))
    yield* TestClock.adjust("4 seconds")
    const completion = yield* Fiber.join(fiber)
    const { status } = yield* circuits.state(watched)
    const score = Math.round(yield* health.score(watched))
    const cooling = (yield* cooldown.active).length
    yield* Console.log(
      `${clock(second)}  ${completion.provider.padEnd(11)}  ${String(completion.attempts.length).padEnd(8)}  ` +
        `${status.padEnd(9)}  ${String(score).padStart(4)}    ${cooling}`
    )
  }
  const during = (yield* provider.calls).filter((call) =>
    call.target.startsWith("groq/") && call.at >= 20_000 && call.at < 80_000
  )
  yield* Console.log(`${during.length} requests were sent into the outage; every call was answered`)
})

const service = Router.layer({ targets }).pipe(
  Layer.provideMerge(Layer.merge(
    TestProvider.layer({ "groq/llama-3.3-70b-versatile": [up], "openai/gpt-4o-mini": [up] }),
    Resilience.layerMemory({ circuit: { open: "20 seconds", ramp: { window: "20 seconds" } } })
  ))
)

NodeRuntime.runMain(main.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "None")
))
