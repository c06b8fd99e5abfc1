/**
 * Four agents share one deployment: 60 requests and 150 000 tokens a minute, 3 at the same time, 100 ms apart.
 *
 * Run it with `node examples/shared-agents.ts`. It plays two minutes in virtual time and prints what each agent waited.
 */
import { NodeRuntime } from "@effect/platform-node"
import { LLMService, RateLimiter, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Effect, Fiber, Layer, Ref, References } from "effect"
import { TestClock } from "effect/testing"

const deployment = Target.make({
  provider: "azure",
  model: "gpt-4o",
  limits: {
    requests: { limit: 60, per: "1 minute", burst: 10 },
    tokens: { limit: 150_000, per: "1 minute" },
    concurrency: 3,
    minInterval: "100 millis"
  }
})

// Each agent is a tenant: where capacity is short, tenants get equal shares of the tokens, whatever they ask for.
const agents = [
  { name: "math", calls: 30, maxTokens: 4000 },
  { name: "adx", calls: 12, maxTokens: 8000 },
  { name: "coordinator", calls: 12, maxTokens: 10_000 },
  { name: "clerk", calls: 20, maxTokens: 500 }
] as const

type Agent = (typeof agents)[number]

const work = Effect.fnUntraced(function*(agent: Agent, waits: Ref.Ref<ReadonlyArray<number>>) {
  const llm = yield* LLMService.LLMService
  for (let call = 0; call < agent.calls; call++) {
    const completion = yield* llm.complete({
      prompt: `${agent.name} asks, number ${call}`,
      maxTokens: agent.maxTokens,
      tenant: agent.name,
      priority: agent.name === "coordinator" ? "high" : "normal"
    })
    yield* Ref.update(waits, (all) => [...all, completion.timings.waitedMs])
  }
})

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`

const main = Effect.gen(function*() {
  const running = yield* Effect.forEach(agents, (agent) =>
    Effect.gen(function*() {
      const waits = yield* Ref.make<ReadonlyArray<number>>([])
      return { agent, waits, fiber: yield* Effect.forkChild(work(agent, waits)) }
    }))
  yield* TestClock.adjust("5 minutes")
  for (const { agent, fiber, waits } of running) {
    yield* Fiber.join(fiber)
    const all = [...(yield* Ref.get(waits))].sort((a, b) => a - b)
    const mean = all.reduce((sum, wait) => sum + wait, 0) / all.length
    yield* Console.log(
      `${agent.name.padEnd(12)} ${String(all.length).padStart(3)} calls, waited ${seconds(mean)} on average, ` +
        `${seconds(all.at(-1) ?? 0)} at most`
    )
  }
  const limiter = yield* RateLimiter.RateLimiter
  for (const snapshot of yield* limiter.snapshot) {
    yield* Console.log(`${snapshot.key}: ${snapshot.granted} granted, ${snapshot.inFlight} in flight now`)
  }
})

// Answers take two seconds; the provider itself would allow more than the agents may use.
const provider = TestProvider.layer({
  "*": [TestProvider.reply("done", { delay: "2 seconds", usage: { input: 50, output: 1500 } })]
})

const service = Router.layer({ targets: [deployment], queueWait: "2 minutes", timeouts: { total: "5 minutes" } }).pipe(
  Layer.provideMerge(Layer.merge(provider, Resilience.layerMemory()))
)

NodeRuntime.runMain(main.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "None")
))
