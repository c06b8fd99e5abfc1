import { assert, describe, it } from "@effect/vitest"
import { Target } from "breakwater"
import { Redacted } from "effect"

const key = { id: "k1", value: Redacted.make("secret") }

describe("Target", () => {
  it("the id is provider/model@key and never holds the secret", () => {
    assert.strictEqual(Target.make({ provider: "groq", model: "a/b", key }).id, "groq/a/b@k1")
    assert.strictEqual(Target.make({ provider: "ollama", model: "m" }).id, "ollama/m")
    assert.notInclude(JSON.stringify(Target.make({ provider: "groq", model: "m", key })), "secret")
  })

  it("keys of one group share the state of a model, keys of none do not", () => {
    const of = (id: string, group?: string) =>
      Target.make({ provider: "p", model: "m", group, key: { id, value: Redacted.make(id) } })
    const model = (target: Target.Target) => Target.scopeKey(target, "model")
    assert.strictEqual(model(of("a", "org")), model(of("b", "org")))
    assert.notStrictEqual(model(of("a")), model(of("b")))
    assert.notStrictEqual(Target.scopeKey(of("a", "org"), "key"), Target.scopeKey(of("b", "org"), "key"))
  })

  it("a deployment is known per base URL, whichever key is used", () => {
    const of = (id: string, baseUrl: string) =>
      Target.make({ provider: "azure", model: "m", baseUrl, key: { id, value: Redacted.make(id) } })
    const deployment = (target: Target.Target) => Target.scopeKey(target, "deployment")
    assert.strictEqual(deployment(of("a", "https://x.test")), deployment(of("b", "https://x.test")))
    assert.notStrictEqual(deployment(of("a", "https://x.test")), deployment(of("a", "https://y.test")))
  })

  it("a failure of the request has no state", () => {
    assert.isUndefined(Target.scopeKey(Target.make({ provider: "p", model: "m" }), "request"))
  })

  it("the keys of a target are distinct and cover every scope with state", () => {
    const keys = Target.scopeKeys(Target.make({ provider: "p", model: "m", key }))
    assert.strictEqual(new Set(keys).size, 6)
  })

  it("a scope key tells its scope and its provider", () => {
    const plain = Target.make({ provider: "openrouter", model: "meta/llama@1", key, group: "org@home" })
    const azure = Target.make({ provider: "azure", model: "m", baseUrl: "https://x.test/v1@2", key })
    for (const target of [plain, azure]) {
      for (const scope of ["target", "deployment", "model", "key", "group", "provider"] as const) {
        const parsed = Target.parseScopeKey(Target.scopeKey(target, scope) ?? "")
        assert.deepStrictEqual(parsed, { scope, provider: target.provider })
      }
    }
  })

  it("a scope key of a target with an id of its own need not tell the provider", () => {
    const target = Target.make({ provider: "groq", model: "m", id: "fast" })
    const parsed = Target.parseScopeKey(Target.scopeKey(target, "target") ?? "")
    assert.deepStrictEqual(parsed, { scope: "target", provider: undefined })
  })

  for (const key of ["", ":", "x", "target", "request:x", "limit:openai", "all", "constructor:x", "Model:a/b"]) {
    it(`${JSON.stringify(key)} is no scope key`, () => {
      assert.isUndefined(Target.parseScopeKey(key))
    })
  }

  for (
    const [field, options] of [
      ["provider", { provider: " " }],
      ["model", { model: "" }],
      ["id", { id: "" }],
      ["group", { group: "" }],
      ["key.id", { key: { id: "", value: Redacted.make("x") } }],
      ["key.value", { key: { id: "k", value: Redacted.make("") } }],
      ["baseUrl", { baseUrl: "api.openai.com" }],
      ["baseUrl", { baseUrl: "ftp://x" }],
      ["contextWindow", { contextWindow: 0 }],
      ["maxOutputTokens", { maxOutputTokens: -1 }],
      ["price.input", { price: { input: -1, output: 1 } }],
      ["order", { order: Number.NaN }],
      ["limits: concurrency", { limits: { concurrency: 0 } }]
    ] as const
  ) {
    it(`a wrong ${field} is refused by name: ${JSON.stringify(options)}`, () => {
      assert.throws(() => Target.make({ provider: "p", model: "m", ...options }), new RegExp(`${field} must`))
    })
  }

  it("the catalogue has 15 Groq, 7 OpenAI and 5 Anthropic models, in that order", () => {
    const counts = new Map<string, number>()
    for (const entry of Target.catalogue) counts.set(entry.provider, (counts.get(entry.provider) ?? 0) + 1)
    assert.deepStrictEqual(Array.from(counts), [["groq", 15], ["openai", 7], ["anthropic", 5]])
    assert.strictEqual(Target.catalogue[0]?.model, "llama-3.3-70b-versatile")
    assert.strictEqual(Target.catalogue.at(-1)?.model, "claude-3-haiku-20240307")
  })
})
