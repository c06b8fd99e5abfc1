/**
 * A strategy of your own for the first tier, a built-in one for the reserve, and sessions that stay where they are.
 *
 * Run it with `node examples/custom-strategy.ts`. Time is virtual and the providers are scripted, so it needs no keys.
 */
import { NodeRuntime } from "@effect/platform-node"
import { LLMService, Resilience, Router, Selection, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Console, Duration, Effect, Fiber, Layer, Random, References } from "effect"
import { TestClock } from "effect/testing"
import assert from "node:assert/strict"

const model = "gpt-4o"
const tokens = { limit: 20_000, per: "1 minute" } as const

// What was paid for in advance comes first; the reserve is only asked when nothing of it is free.
const targets = [
  Target.make({ id: "paris", provider: "azure", model, tags: { region: "eu" }, limits: { tokens }, group: "paris" }),
  Target.make({ id: "dublin", provider: "azure", model, tags: { region: "eu" }, limits: { tokens }, group: "dublin" }),
  Target.make({ id: "texas", provider: "azure", model, tags: { region: "us" }, limits: { tokens }, group: "texas" }),
  Target.make({ id: "reserve-1", provider: "openai", model, order: 1 }),
  Target.make({ id: "reserve-2", provider: "groq", model: "llama-3.3-70b-versatile", order: 1 })
]

// The highest score wins: near ones first, as long as more than half of their quota is left.
const near = Selection.byScore(
  "near",
  ({ headroom, health, target }) => health * (target.tags.has("region:eu") ? headroom : headroom / 2)
)

const strategy = (order: number): Selection.Strategy => order === 0 ? Selection.sticky(near) : Selection.leastBusy

const providers = TestProvider.layer({
  "*": [TestProvider.reply("ok", { delay: "2 seconds", usage: { input: 100, output: 900 } })]
})

/** Asks several times at the same moment, and says how often each target answered. */
const ask = Effect.fnUntraced(
  function*(title: string, count: number, request: (index: number) => Partial<LLMService.CompletionRequest>) {
    const llm = yield* LLMService.LLMService
    const calls = Effect.forEach(
      Array.from({ length: count }, (_, index) => request(index)),
      (request) => llm.complete({ prompt: "How high is the tide?", maxTokens: 1000, ...request }),
      { concurrency: "unbounded" }
    )
    const fiber = yield* Effect.forkChild(calls)
    yield* TestClock.adjust("10 seconds")
    const completions = yield* Fiber.join(fiber)
    const counts = new Map<string, number>()
    for (const { target } of completions) counts.set(target, (counts.get(target) ?? 0) + 1)
    const answers = targets.flatMap(({ id }) => counts.has(id) ? [`${id} ${counts.get(id)}`] : [])
    yield* Console.log(`${title}: ${answers.join(", ")}`)
    return completions
  }
)

/** Asks twice for each of six sessions, which find their prompts in the cache of the target they were at before. */
const askInSessions = Effect.fnUntraced(function*(title: string) {
  const completions = yield* ask(title, 12, (index) => ({ affinity: `session-${index % 6}` }))
  assert.equal(new Set(completions.map(({ target }, index) => `session-${index % 6} at ${target}`)).size, 6)
})

const main = Effect.gen(function*() {
  const provider = yield* TestProvider.TestProvider

  yield* ask("12 calls", 12, () => ({}))
  yield* TestClock.adjust("1 minute")
  yield* ask("30 calls", 30, () => ({}))
  yield* TestClock.adjust("1 minute")
  yield* ask("12 calls that must stay in the US", 12, () => ({ tags: { region: "us" } }))
  yield* TestClock.adjust("1 minute")
  yield* askInSessions("12 calls of 6 sessions")

  const limited = TestProvider.fail("rate_limit", {
    reason: "rate_limit",
    scope: "provider",
    status: 429,
    retryAfter: Duration.minutes(5)
  })
  for (const id of ["paris", "dublin", "texas"]) yield* provider.script(id, [limited])
  const [first] = yield* ask("all of the first tier is limited", 1, () => ({}))
  yield* ask("12 calls meanwhile", 12, () => ({}))
  yield* askInSessions("12 calls of 6 sessions meanwhile")

  if (first !== undefined) yield* Console.log(`\n${Router.explain(first)}`)
})

const service = Router.layer({ targets, strategy }).pipe(
  Layer.provideMerge(Layer.merge(providers, Resilience.layerMemory()))
)

NodeRuntime.runMain(main.pipe(
  Effect.provide(service),
  Effect.provide(TestClock.layer()),
  Random.withSeed("tide"),
  Effect.provideService(References.MinimumLogLevel, "None")
))
