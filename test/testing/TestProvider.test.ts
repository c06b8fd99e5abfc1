import { assert, describe, it } from "@effect/vitest"
import { LLMService, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Fiber, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"

const target = Target.make({ provider: "p", model: "m", price: { input: 1, output: 2 } })

const scripted = (...steps: ReadonlyArray<TestProvider.Step>) =>
  Layer.provideMerge(LLMService.layerProvider(target), TestProvider.layer({ "p/m": steps }))

const complete = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "hi", ...request }))

const stream = Stream.unwrap(Effect.map(LLMService.LLMService, (llm) => llm.stream({ prompt: "hi" })))

describe("TestProvider", () => {
  it.effect("answers step by step and repeats the last step", () =>
    Effect.gen(function*() {
      const texts = [yield* complete(), yield* complete(), yield* complete()].map((_) => _.text)
      assert.deepStrictEqual(texts, ["one", "two", "two"])
    }).pipe(Effect.provide(scripted(TestProvider.reply("one"), TestProvider.reply("two")))))

  it.effect("a reply takes its time by the Clock and counts as in flight", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const fiber = yield* Effect.forkChild(complete())
      yield* TestClock.adjust("2999 millis")
      assert.strictEqual(yield* provider.inFlight, 1)
      yield* TestClock.adjust("1 millis")
      const completion = yield* Fiber.join(fiber)
      assert.strictEqual(completion.timings.attemptMs, 3000)
      assert.strictEqual(yield* provider.inFlight, 0)
    }).pipe(Effect.provide(scripted(TestProvider.reply("ok", { connect: "1 second", delay: "2 seconds" })))))

  it.effect("a completion has usage, cost, tool calls and one attempt", () =>
    Effect.gen(function*() {
      const completion = yield* complete()
      assert.strictEqual(completion.finishReason, "tool-calls")
      assert.deepStrictEqual(completion.content.map((_) => _.type), ["text", "tool-call"])
      assert.strictEqual(completion.cost, 0.00002)
      assert.strictEqual(completion.attempts.length, 1)
    }).pipe(Effect.provide(scripted(TestProvider.reply("calling", {
      toolCalls: [{ name: "add", params: { a: 1 } }],
      usage: { input: 10, output: 5 }
    })))))

  it.effect("a stream sends its chunks at their times and ends with a finish part that has the record", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const fiber = yield* Effect.forkChild(
        Stream.runForEach(stream, (part) => Effect.sync(() => seen.push(part.type)))
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, ["response-metadata", "text-start"])
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(seen.slice(2), ["text-delta"])
      yield* TestClock.adjust("500 millis")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen.slice(3), ["text-delta", "text-end", "finish"])
    }).pipe(Effect.provide(scripted(
      TestProvider.reply(["a", "b"], { connect: "1 second", delay: "2 seconds", gap: "500 millis" })
    ))))

  it.effect("a cut stream is an error, never a short success (T35)", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Stream.runDrain(stream))
      assert.deepStrictEqual([error._tag, error.reason, error.maybeBilled], [
        "TransientNetworkError",
        "stream_truncated",
        true
      ])
    }).pipe(Effect.provide(scripted(TestProvider.cut(["half"])))))

  it.effect("a failure carries its fields and the target", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(complete())
      assert.deepStrictEqual([error._tag, error.reason, error.status, error.target], [
        "AuthenticationError",
        "invalid_key",
        401,
        "p/m"
      ])
    }).pipe(Effect.provide(scripted(TestProvider.fail("authentication", { reason: "invalid_key", status: 401 })))))

  it.effect("a deadline ends a stalled call, and the provider sees the interruption", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const fiber = yield* Effect.forkChild(Effect.flip(complete({ deadline: "5 seconds" })))
      yield* TestClock.adjust("5 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error._tag, error.reason], ["TimeoutError", "deadline"])
      assert.deepStrictEqual((yield* provider.calls).map((_) => _.outcome), ["interrupted"])
    }).pipe(Effect.provide(scripted(TestProvider.stall()))))

  it.effect("a script can be replaced while the test runs", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      yield* complete()
      yield* provider.script("p/m", [TestProvider.reply("new")])
      assert.strictEqual((yield* complete()).text, "new")
      assert.deepStrictEqual((yield* provider.calls).map((_) => _.kind), ["complete", "complete"])
    }).pipe(Effect.provide(scripted(TestProvider.reply("old")))))

  it.effect("a target without a script is a defect of the test", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(complete())
      assert.include(String(exit), "no script for \"p/m\"")
    }).pipe(
      Effect.provide(LLMService.layerProvider(target).pipe(Layer.provide(TestProvider.layer())))
    ))
})
