import { assert, describe, it } from "@effect/vitest"
import * as Provider from "breakwater/Provider"
import { Effect, Layer, Stream } from "effect"
import { HttpClient } from "effect/http"
import { json, memoryClient, presetNames, targetOf } from "./harness.ts"

const { client, sent } = memoryClient(() => json({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] }))

const http = Layer.succeed(HttpClient.HttpClient, client)

describe("Provider", () => {
  it.effect("the known providers are registered", () =>
    Effect.gen(function*() {
      const { names } = yield* Provider.Provider
      assert.sameMembers([...names], ["azure", "anthropic", ...presetNames])
    }).pipe(Effect.provide(Provider.layer), Effect.provide(http)))

  it.effect("any other name is reached in the chat completions format at its base URL", () =>
    Effect.gen(function*() {
      const adapter = (yield* Provider.Provider).adapter("vllm")!
      const target = targetOf("vllm", { baseUrl: "http://127.0.0.1:8000/v1" })
      assert.strictEqual((yield* adapter.complete(target, { prompt: "Hello" })).model, "test-model")
      assert.strictEqual(sent.at(-1)?.url, "http://127.0.0.1:8000/v1/chat/completions")
    }).pipe(Effect.provide(Provider.layer), Effect.provide(http)))

  it.effect("an unknown provider without a base URL fails with an error that names the field", () =>
    Effect.gen(function*() {
      for (const name of ["vllm", "constructor", "__proto__"]) {
        const adapter = (yield* Provider.Provider).adapter(name)!
        assert.include(adapter.check?.(targetOf(name)), "baseUrl is missing: provider")
        assert.isUndefined(adapter.check?.(targetOf(name, { baseUrl: "http://127.0.0.1:8000/v1" })))
        const before = sent.length
        for (
          const run of [
            Effect.asVoid(adapter.complete(targetOf(name), { prompt: "Hello" })),
            Stream.runDrain(adapter.stream(targetOf(name), { prompt: "Hello" }))
          ]
        ) {
          const error = yield* Effect.flip(run)
          assert.strictEqual(error._tag, "PermanentError")
          assert.strictEqual(error.scope, "target")
          assert.include(error.message, `target.baseUrl is missing: provider ${name}`)
        }
        assert.lengthOf(sent, before)
      }
    }).pipe(Effect.provide(Provider.layer), Effect.provide(http)))

  it.effect("own adapters are added, and replace known ones of the same name", () =>
    Effect.gen(function*() {
      const own: Provider.Adapter = { complete: () => Effect.die("own"), stream: () => Stream.die("own") }
      const { adapter, names } = yield* Effect.provide(Provider.Provider, Provider.layerWith({ mine: own, groq: own }))
      assert.strictEqual(adapter("mine"), own)
      assert.strictEqual(adapter("groq"), own)
      assert.notStrictEqual(adapter("openai"), own)
      assert.include(names, "mine")
    }).pipe(Effect.provide(http)))
})
