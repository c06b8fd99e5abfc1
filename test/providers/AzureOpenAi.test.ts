import { assert, describe, it } from "@effect/vitest"
import * as AzureOpenAi from "breakwater/providers/AzureOpenAi"
import { Effect } from "effect"
import {
  adapterOf,
  bytesOf,
  canary,
  collect,
  complete,
  eventStream,
  json,
  memoryClient,
  plain,
  streams,
  targetOf
} from "./harness.ts"

const body = (target: Parameters<typeof AzureOpenAi.requestBody>[0], stream = false) =>
  JSON.parse(JSON.stringify(AzureOpenAi.requestBody(target, { prompt: "Hello", maxTokens: 9 }, { stream })))

describe("AzureOpenAi", () => {
  it("the path names the deployment and the API version, the body no model", () => {
    const target = targetOf("azure", { deployment: "chat eu" })
    assert.strictEqual(
      AzureOpenAi.url(target),
      "https://unit.openai.azure.com/openai/deployments/chat%20eu/chat/completions?api-version=2024-10-21"
    )
    assert.deepStrictEqual(body(target), {
      messages: [{ role: "user", content: "Hello" }],
      max_completion_tokens: 9
    })
    assert.include(AzureOpenAi.url(targetOf("azure")), "/deployments/test-model/")
  })

  it("the v1 surface has no API version, and the deployment is the model", () => {
    const target = targetOf("azure", { deployment: "chat-eu", apiVersion: "v1" })
    assert.strictEqual(AzureOpenAi.url(target), "https://unit.openai.azure.com/openai/v1/chat/completions")
    assert.strictEqual(body(target).model, "chat-eu")
    assert.strictEqual(body(targetOf("azure", { apiVersion: "v1" })).model, "test-model")
  })

  it("old API versions get the fields they know", () => {
    const old = targetOf("azure", { apiVersion: "2024-06-01" })
    assert.strictEqual(body(old, true).max_tokens, 9)
    assert.notProperty(body(old, true), "max_completion_tokens")
    assert.notProperty(body(old, true), "stream_options")
    for (const apiVersion of ["2024-09-01-preview", "2024-10-21", "2025-04-01-preview", "v1"]) {
      const sent = body(targetOf("azure", { apiVersion }), true)
      assert.strictEqual(sent.max_completion_tokens, 9, apiVersion)
      assert.deepStrictEqual(sent.stream_options, { include_usage: true }, apiVersion)
    }
  })

  it.effect("the key goes into api-key, and the request id comes from Azure's header", () =>
    Effect.gen(function*() {
      const { client, sent } = memoryClient(() =>
        json({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] }, {
          headers: { "apim-request-id": "apim-1" }
        })
      )
      const reply = yield* (yield* adapterOf("azure", client)).complete(targetOf("azure"), { prompt: "Hello" })
      assert.strictEqual(reply.requestId, "apim-1")
      assert.strictEqual(sent[0]?.headers["api-key"], canary)
      assert.notProperty(sent[0]?.headers, "authorization")
    }))

  it.effect("a first chunk without choices is no answer, and a filtered answer ends with content-filter", () =>
    Effect.gen(function*() {
      const { events } = streams["azure prompt filter first"]!
      const parts = plain(yield* collect("azure", () => eventStream([bytesOf(events.join(""))])))
      assert.deepStrictEqual(parts.slice(1).map((_) => [_["type"], _["delta"] ?? _["reason"]]), [
        ["text-start", undefined],
        ["text-delta", "Hi"],
        ["text-end", undefined],
        ["finish", "content-filter"]
      ])
    }))

  it.effect("a target without baseUrl fails with an error that names the field", () =>
    Effect.gen(function*() {
      const { client, sent } = memoryClient(() => json({}))
      const target = { ...targetOf("azure"), baseUrl: undefined }
      const error = yield* Effect.flip((yield* adapterOf("azure", client)).complete(target, { prompt: "Hello" }))
      assert.strictEqual(error._tag, "PermanentError")
      assert.include(error.message, "target.baseUrl is missing")
      assert.lengthOf(sent, 0)
    }))

  it.effect("a prompt that the filter refuses is a permanent error", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(complete("azure", () =>
        json({
          error: {
            code: "content_filter",
            message: "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
            innererror: { code: "ResponsibleAIPolicyViolation" }
          }
        }, { status: 400 })))
      assert.strictEqual(error._tag, "PermanentError")
      assert.strictEqual(error.reason, "content_filter")
    }))
})
