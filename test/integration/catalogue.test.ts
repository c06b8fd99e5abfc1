import { assert, describe, it } from "@effect/vitest"
import { LLMService, Presets, Resilience, Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Layer, Redacted, References } from "effect"
import { TestClock } from "effect/testing"

const preset = Presets.catalogue({
  keys: { groq: Redacted.make("a"), openai: Redacted.make("b"), anthropic: Redacted.make("c") }
})
const ids = preset.targets.map((target) => target.id)
const [first = "", next = ""] = ids
const groq = ids.filter((id) => id.startsWith("groq/"))

const limited = (retryAfter: Duration.Input) =>
  TestProvider.fail("rate_limit", {
    reason: "rate_limit",
    scope: "model",
    status: 429,
    retryAfter: Duration.fromInputUnsafe(retryAfter)
  })

/** The catalogue over scripts; a target without one answers. */
const catalogue = (scripts: Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>) =>
  Layer.provideMerge(
    Router.layer(preset),
    Layer.merge(
      TestProvider.layer({ "*": [TestProvider.reply("ok")], ...scripts }),
      Resilience.layerMemory(preset)
    )
  ).pipe(Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "None")))

const complete = Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "hi" }))

const asked = Effect.flatMap(
  TestProvider.TestProvider,
  (provider) => Effect.map(provider.calls, (calls) => calls.map((call) => call.target))
)

describe("a catalogue under rate limits", () => {
  it.effect("one 429 and then a success are two calls", () =>
    Effect.gen(function*() {
      const completion = yield* complete
      assert.deepStrictEqual(yield* asked, [first, next])
      assert.strictEqual(completion.target, next)
      assert.deepStrictEqual(completion.attempts.map((_) => [_.target, _.outcome, _.waitedMs]), [
        [first, "failure", 0],
        [next, "success", 0]
      ])
    }).pipe(Effect.provide(catalogue({ [first]: [limited("22 minutes")] }))))

  it.effect("when all models of Groq are limited the next attempt goes to OpenAI", () =>
    Effect.gen(function*() {
      const completion = yield* complete
      assert.strictEqual(groq.length, 15)
      assert.deepStrictEqual(yield* asked, [...groq, "openai/gpt-4o@openai-1"])
      assert.strictEqual(completion.provider, "openai")
      assert.strictEqual(completion.timings.waitedMs, 0)
    }).pipe(Effect.provide(catalogue(Object.fromEntries(groq.map((id) => [id, [limited("5 minutes")]]))))))

  it.effect("a second call at once skips all that is cooling, and says so", () =>
    Effect.gen(function*() {
      yield* complete
      const before = (yield* asked).length
      const second = yield* complete
      assert.deepStrictEqual((yield* asked).slice(before), ["openai/gpt-4o@openai-1"])
      assert.deepStrictEqual(
        second.attempts.map((_) => _.skipped),
        [groq.map((target) => ({ target, why: "cooldown" as const, remainingMs: 300_000 }))]
      )
    }).pipe(Effect.provide(catalogue(Object.fromEntries(groq.map((id) => [id, [limited("5 minutes")]]))))))

  it.effect("the first is tried again once its wait is over, and not a moment before (T30)", () =>
    Effect.gen(function*() {
      yield* complete
      yield* TestClock.adjust(Duration.subtract(Duration.minutes(22), Duration.millis(1)))
      assert.strictEqual((yield* complete).target, next)
      yield* TestClock.adjust("1 millis")
      const later = yield* complete
      assert.strictEqual(later.target, first)
      assert.deepStrictEqual(later.attempts.map((_) => _.chosen), ["first"])
      assert.strictEqual((yield* asked).filter((id) => id === first).length, 2)
    }).pipe(Effect.provide(catalogue({ [first]: [limited("22 minutes"), TestProvider.reply("back")] }))))
})
