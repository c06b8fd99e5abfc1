import { assert, describe, it } from "@effect/vitest"
import type { LLMService, Target } from "breakwater"
import { Result } from "effect"
import { Prompt, Tool } from "effect/ai"
import * as Requests from "../../../src/internal/call/request.ts"

const prepared = (request: Partial<LLMService.CompletionRequest> = {}): Requests.Prepared =>
  Result.getOrThrow(Requests.prepare({ prompt: "hi", ...request }))

const file = (mediaType: string) =>
  Prompt.makePart("file", { mediaType, data: new Uint8Array([1]), fileName: undefined })
const user = (content: ReadonlyArray<Prompt.UserMessagePart>) => Prompt.makeMessage("user", { content })
const text = (value: string) => Prompt.makePart("text", { text: value })

describe("prepare", () => {
  const table: ReadonlyArray<readonly [string, Partial<LLMService.CompletionRequest>]> = [
    ["request.maxTokens must be an integer > 0, got 1.5", { maxTokens: 1.5 }],
    ["request.temperature must be a number >= 0, got -1", { temperature: -1 }],
    ["request.topP must be between 0 and 1, got -0.1", { topP: -0.1 }],
    ["request.deadline must be a duration > 0, got soon", { deadline: "soon" as never }],
    ["request.tenant must not be empty", { tenant: "  " }],
    ["request.affinity must not be empty", { affinity: "" }],
    ["request.tags must not be empty", { tags: ["eu", " "] }],
    ["request.tags must not be empty", { tags: { region: "" } }],
    [
      "request.priority must be one of emergency, high, normal, low, background, got urgent",
      { priority: "urgent" as never }
    ],
    [
      "request.streamPolicy must be one of fail, restart, continue, buffer, got retry",
      { streamPolicy: "retry" as never }
    ],
    ["request.prompt must not be empty", { prompt: [] }],
    [
      "request.prompt must be a text, messages or a Prompt of effect/ai",
      { prompt: [{ role: "nobody", content: "canary" }] as never }
    ]
  ]
  for (const [message, request] of table) {
    it(`says ${message}`, () => {
      const result = Requests.prepare({ prompt: "hi", ...request })
      assert(Result.isFailure(result))
      assert.strictEqual(result.failure.detail, message)
      assert.deepStrictEqual([result.failure.origin, result.failure.reason, result.failure.scope], [
        "router",
        "invalid_request",
        "request"
      ])
      assert.notInclude(JSON.stringify(result.failure), "canary", "the prompt is never echoed")
    })
  }

  it("takes what is at the edge", () => {
    prepared({ maxTokens: 1, temperature: 0, topP: 0, deadline: 1, tags: [], priority: "background" })
    prepared({ deadline: Infinity, tags: {} })
  })
})

describe("missing", () => {
  const image = prepared({ prompt: [user([text("look"), file("image/png")])] })
  const document = prepared({ prompt: [user([file("application/pdf")])] })
  const prefilled = prepared({ prompt: [{ role: "user", content: "a" }, { role: "assistant", content: "b" }] })
  const tools = prepared({ tools: [Tool.make("Add")] })
  const schema = prepared({ responseFormat: { type: "json_schema", name: "x", schema: {} } })
  const table: ReadonlyArray<
    readonly [string, Target.Capabilities, Requests.Prepared, keyof Target.Capabilities | undefined]
  > = [
    ["tools", { tools: false }, tools, "tools"],
    ["no tools in an empty list", { tools: false }, prepared({ tools: [] }), undefined],
    ["a schema", { jsonSchema: false }, schema, "jsonSchema"],
    [
      "no schema in any JSON",
      { jsonSchema: false },
      prepared({ responseFormat: { type: "json_object" } }),
      undefined
    ],
    ["images", { images: false }, image, "images"],
    ["no images in other files", { images: false }, document, undefined],
    ["the beginning of a reply", { prefill: false }, prefilled, "prefill"],
    ["no beginning where the user has the last word", { prefill: false }, tools, undefined],
    ["nothing that is not ruled out", {}, prefilled, undefined],
    ["nothing that is declared", { tools: true, images: true, jsonSchema: true, prefill: true }, image, undefined]
  ]
  for (const [name, capabilities, request, expected] of table) {
    it(`finds ${name}`, () => {
      assert.strictEqual(Requests.missing(capabilities, request), expected)
    })
  }
})

describe("size and prefix", () => {
  const prompt = Prompt.make([
    { role: "system", content: "be kind" },
    { role: "user", content: [{ type: "text", text: "one " }, { type: "text", text: "two" }] },
    { role: "assistant", content: "three" }
  ])

  it("size is what a model reads", () => {
    assert.strictEqual(Requests.size(prompt), "be kindone twothree".length)
    assert.isAtLeast(Requests.size(Prompt.make([user([file("image/png")])])), 1_000_000)
  })

  it("prefix is the beginning, of all messages, and no longer than it may be", () => {
    assert.strictEqual(Requests.prefix(prompt, 1024), "be kindone twothree")
    assert.strictEqual(Requests.prefix(prompt, 9), "be kindon")
    assert.strictEqual(Requests.prefix(Prompt.make([user([file("image/png")])]), 9), "")
  })
})
