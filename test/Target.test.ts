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

  describe("the catalogue", () => {
    const { catalogue } = Target
    const entry = (model: string) => catalogue.find((_) => _.model === model)
    const modelsThat = (can: (capabilities: Target.Capabilities) => boolean) =>
      catalogue.flatMap((_) => can(_.capabilities ?? {}) ? [_.model] : [])

    it("has 15 Groq, 7 OpenAI and 5 Anthropic models, in that order", () => {
      const providers = Map.groupBy(catalogue, (_) => _.provider)
      assert.deepStrictEqual(
        Array.from(providers, ([provider, entries]) => [provider, entries.map((_) => _.model)]),
        [
          ["groq", [
            "llama-3.3-70b-versatile",
            "llama-3.3-70b-specdec",
            "llama-3.1-70b-versatile",
            "llama-3.1-8b-instant",
            "llama-3.2-90b-text-preview",
            "llama-3.2-90b-vision-preview",
            "llama-3.2-11b-text-preview",
            "llama-3.2-11b-vision-preview",
            "llama-3.2-3b-preview",
            "llama-3.2-1b-preview",
            "llama3-70b-8192",
            "llama3-8b-8192",
            "mixtral-8x7b-32768",
            "gemma2-9b-it",
            "gemma-7b-it"
          ]],
          ["openai", [
            "gpt-4o",
            "gpt-4o-mini",
            "gpt-4-turbo",
            "gpt-4-turbo-preview",
            "gpt-4",
            "gpt-3.5-turbo",
            "gpt-3.5-turbo-16k"
          ]],
          ["anthropic", [
            "claude-3-5-sonnet-20241022",
            "claude-3-5-haiku-20241022",
            "claude-3-opus-20240229",
            "claude-3-sonnet-20240229",
            "claude-3-haiku-20240307"
          ]]
        ]
      )
      assert.deepStrictEqual(Array.from(providers.values(), (_) => _.length), [15, 7, 5])
    })

    it("says of every model whether it sees images and whether it enforces a schema", () => {
      const claude = catalogue.slice(22).map((_) => _.model)
      assert.deepStrictEqual(modelsThat((_) => _.images === true), [
        "llama-3.2-90b-vision-preview",
        "llama-3.2-11b-vision-preview",
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4-turbo",
        ...claude
      ])
      assert.deepStrictEqual(modelsThat((_) => _.jsonSchema === true), ["gpt-4o", "gpt-4o-mini"])
      assert.deepStrictEqual(modelsThat((_) => _.images === undefined || _.jsonSchema === undefined), [])
    })

    it("only models of Anthropic are said to continue a prefilled reply", () => {
      assert.deepStrictEqual(modelsThat((_) => _.prefill !== undefined), modelsThat((_) => _.prefill === true))
      assert.deepStrictEqual(modelsThat((_) => _.prefill === true), catalogue.slice(22).map((_) => _.model))
    })

    for (
      const [model, contextWindow, maxOutputTokens, price] of [
        ["llama-3.3-70b-versatile", 131_072, 32_768, { input: 0.59, output: 0.79 }],
        ["llama-3.1-8b-instant", 131_072, undefined, { input: 0.05, output: 0.08 }],
        ["mixtral-8x7b-32768", 32_768, undefined, { input: 0.24, output: 0.24 }],
        ["gemma-7b-it", 8192, undefined, undefined],
        ["gpt-4o", 128_000, 16_384, { input: 2.5, output: 10, cachedInput: 1.25 }],
        ["gpt-4o-mini", 128_000, 16_384, { input: 0.15, output: 0.6, cachedInput: 0.075 }],
        ["gpt-4", 8192, undefined, { input: 30, output: 60 }],
        ["gpt-3.5-turbo", 16_385, 4096, { input: 0.5, output: 1.5 }],
        ["claude-3-5-sonnet-20241022", 200_000, 8192, { input: 3, output: 15, cachedInput: 0.3 }],
        ["claude-3-5-haiku-20241022", 200_000, 8192, { input: 0.8, output: 4, cachedInput: 0.08 }],
        ["claude-3-haiku-20240307", 200_000, 4096, { input: 0.25, output: 1.25, cachedInput: 0.03 }]
      ] as const
    ) {
      it(`knows the figures of ${model}`, () => {
        const found = entry(model)
        assert.deepStrictEqual(
          [found?.contextWindow, found?.maxOutputTokens, found?.price],
          [contextWindow, maxOutputTokens, price]
        )
      })
    }

    it("has plausible figures: what `make` takes, replies within windows, input no dearer than output", () => {
      for (const entry of catalogue) {
        const target = Target.make(entry)
        assert.isAtMost(target.maxOutputTokens ?? 1, target.contextWindow ?? Infinity, target.id)
        const { cachedInput, input, output } = target.price ?? { input: 1, output: 1 }
        assert.isAbove(input, 0, target.id)
        assert.isAtMost(input, output, target.id)
        assert.isBelow(cachedInput ?? 0, input, target.id)
      }
      assert.deepStrictEqual(catalogue.filter((_) => _.price === undefined).map((_) => _.model), ["gemma-7b-it"])
    })
  })

  it("the cheapest come first, equal ones in their order, those without a price last", () => {
    const make = (model: string, price?: Target.Price) => Target.make({ provider: "p", model, price })
    const targets = [
      make("unknown"),
      make("dear", { input: 10, output: 30 }),
      make("first", { input: 1, output: 2 }),
      make("second", { input: 2, output: 1 }),
      make("free", { input: 0, output: 0 }),
      make("also unknown")
    ]
    const order = ["free", "first", "second", "dear", "unknown", "also unknown"]
    assert.deepStrictEqual(Target.cheapestFirst(targets).map((_) => _.model), order)
    assert.strictEqual(targets[0]?.model, "unknown")
  })
})
