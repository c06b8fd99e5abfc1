import { assert, describe, it } from "@effect/vitest"
import * as Gateway from "breakwater/server/Gateway"
import { Effect } from "effect"
import { globSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Harness from "./harness.ts"

const root = join(import.meta.dirname, "..", "..")

const providers = { openai: { key: "${KEY}" } }
const chat = { targets: ["openai/gpt-4o-mini"] }

/** The paths of all that is wrong. */
const problems = (config: unknown) =>
  Effect.map(
    Effect.flip(Harness.decode(config)),
    (error) => error.problems.map(({ message, path }) => [path, message] as const)
  )

const paths = (config: unknown) => Effect.map(problems(config), (_) => _.map(([path]) => path))

const examples = globSync("examples/gateway/*.json", { cwd: root }).filter((file) => !file.endsWith("schema.json"))

describe("configuration", () => {
  it.effect("what is needed is little", () =>
    Effect.gen(function*() {
      const { plan } = yield* Harness.decode({ providers, models: { chat } })
      const model = plan.models.get("chat")
      assert.deepStrictEqual(model?.options.targets.map((_) => _.id), ["openai/gpt-4o-mini@openai-1"])
      assert.deepStrictEqual(plan.settings, {
        maxBodyBytes: 32 * 1024 * 1024,
        bodyTimeoutMs: 30_000,
        slowClientMs: 30_000,
        heartbeatMs: 15_000,
        drainMs: 30_000
      })
    }))

  it.effect("a field that nobody knows is named by its path, all of them at once", () =>
    Effect.gen(function*() {
      const wrong = {
        providers: { openai: { key: "${KEY}", retries: 3 } },
        models: { chat: { targets: [{ provider: "openai", model: "a", wieght: 1 }], strategi: "ordered" } },
        sever: {}
      }
      assert.sameMembers([...yield* paths(wrong)], ["providers.openai.retries", "sever"])
      const { sever: _, ...rest } = wrong
      assert.sameMembers(
        [...yield* paths({ ...rest, providers })],
        ["models.chat.targets[0].wieght", "models.chat.strategi"]
      )
    }))

  it.effect("a value of the wrong kind is named by its path and says what is expected", () =>
    Effect.gen(function*() {
      const found = yield* problems({
        providers,
        models: { "my chat": { ...chat, timeouts: { total: "soon" }, maxAttempts: 0, streamPolicy: "retry" } }
      })
      assert.deepStrictEqual(found.map(([path]) => path).toSorted(), [
        "models[\"my chat\"].maxAttempts",
        "models[\"my chat\"].streamPolicy",
        "models[\"my chat\"].timeouts.total"
      ])
      assert.include(found.find(([path]) => path.endsWith("streamPolicy"))?.[1], "\"buffer\"")
    }))

  it.effect("a variable that is missing or empty is named with the place that asks for it", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Harness.decode({
        providers: { openai: { key: "${NOT_THERE}" }, groq: { keys: [{ id: "g", value: "${EMPTY}" }] } },
        models: { chat: { targets: ["openai/a", "groq/b"] } }
      }, { EMPTY: "" }))
      assert.deepStrictEqual(error.problems, [
        { path: "providers.openai.key", message: "the environment variable NOT_THERE is not set, or empty" },
        { path: "providers.groq.keys[0].value", message: "the environment variable EMPTY is not set, or empty" }
      ])
    }))

  it.effect("no error and no plan shows a secret", () =>
    Effect.gen(function*() {
      const config = yield* Harness.decode({ providers, models: { chat } })
      assert.notInclude(JSON.stringify([...config.plan.models]), Harness.canary)
      const error = yield* Effect.flip(
        Harness.decode({ providers: { openai: { key: ["${KEY}"] } }, models: { chat } })
      )
      assert.notInclude(error.message + JSON.stringify(error), Harness.canary)
    }))

  const inert: ReadonlyArray<readonly [string, unknown, string]> = [
    [
      "a provider that no model uses",
      { providers: { ...providers, groq: { key: "k" } }, models: { chat } },
      "providers.groq"
    ],
    [
      "a weight where the strategy knows none",
      { providers, models: { chat: { targets: [{ provider: "openai", model: "a", weight: 2 }] } } },
      "models.chat.targets[0].weight"
    ],
    [
      "a deployment of somebody who is not Azure",
      { providers, models: { chat: { targets: [{ provider: "openai", model: "a", deployment: "d" }] } } },
      "models.chat.targets[0].deployment"
    ],
    ["a hedge with one target", { providers, models: { chat: { ...chat, hedge: {} } } }, "models.chat.hedge"],
    [
      "continue where nobody can",
      { providers, models: { chat: { ...chat, streamPolicy: "continue" } } },
      "models.chat.streamPolicy"
    ],
    [
      "weights of a score that is not used",
      { providers, models: { chat: { ...chat, scoreWeights: { cost: 1 } } } },
      "models.chat.scoreWeights"
    ],
    [
      "an affinity where nothing balances",
      { providers, models: { chat: { ...chat, affinity: "prefix" } } },
      "models.chat.affinity"
    ],
    [
      "key beside keys",
      { providers: { openai: { key: "a", keys: ["b"] } }, models: { chat } },
      "providers.openai.key"
    ]
  ]
  for (const [what, config, path] of inert) {
    it.effect(`${what} is refused`, () =>
      Effect.map(paths(config), (found) => assert.deepStrictEqual([...found], [path])))
  }

  const impossible: ReadonlyArray<readonly [string, unknown, string]> = [
    ["no model", { models: {} }, "models"],
    ["a preset that does not exist", { models: { chat: { preset: "magic" } } }, "models.chat.preset"],
    [
      "a fallback that does not exist",
      { providers, models: { chat: { ...chat, fallbacks: ["x"] } } },
      "models.chat.fallbacks[0]"
    ],
    ["a key that does not exist", {
      providers,
      models: { chat: { targets: [{ provider: "openai", model: "a", key: "k" }] } }
    }, "models.chat.targets[0].key"],
    ["a provider without an address", { models: { chat: { targets: ["own/model"] } } }, "models.chat.targets[0]"],
    ["a provider without a key", { models: { chat } }, "models.chat.targets[0]"],
    ["a model of a key that does not exist", {
      access: [{ name: "a", sha256: "0".repeat(64), models: ["x"] }],
      providers,
      models: { chat }
    }, "access[0].models[0]"],
    [
      "a hash that is none",
      { access: [{ name: "a", sha256: "secret" }], providers, models: { chat } },
      "access[0].sha256"
    ],
    ["limits that contradict each other", {
      providers,
      models: {
        a: { targets: [{ provider: "openai", model: "a", limits: { concurrency: 1 } }] },
        b: { targets: [{ provider: "openai", model: "a", limits: { concurrency: 2 } }] }
      }
    }, "models.b.targets[0].limits"],
    ["one id at two addresses", {
      providers,
      models: { chat: { targets: ["openai/a", { provider: "openai", model: "a", baseUrl: "http://other/v1" }] } }
    }, "models.chat.targets[1]"],
    ["shared limits for nobody", {
      providers,
      models: { chat: { ...chat, limits: { keys: { nobody: { concurrency: 1 } } } } }
    }, "models.chat"]
  ]
  for (const [what, config, path] of impossible) {
    it.effect(`${what} is refused`, () => Effect.map(paths(config), (found) => assert.include([...found], path)))
  }

  it.effect("a provider with several keys makes a target of each, and fallbacks come after all of them", () =>
    Effect.gen(function*() {
      const { plan } = yield* Harness.decode({
        providers: { groq: { keys: ["a", { id: "second", value: "b", group: "org" }] }, openai: { key: "${KEY}" } },
        models: {
          chat: { targets: ["groq/x"], fallbacks: ["spare"] },
          spare: { targets: ["openai/y", { provider: "openai", model: "z", order: 2 }], fallbacks: ["chat"] }
        }
      })
      const targets = plan.models.get("chat")?.options.targets ?? []
      assert.deepStrictEqual(targets.map((_) => [_.id, _.order]), [
        ["groq/x@groq-1", 0],
        ["groq/x@second", 0],
        ["openai/y@openai-1", 1],
        ["openai/z@openai-1", 3]
      ])
      assert.strictEqual(targets[1]?.group, "org")
      assert.strictEqual(plan.models.get("spare")?.options.targets.length, 4)
    }))

  it.effect("`$${NAME}` is no placeholder", () =>
    Effect.gen(function*() {
      const { plan } = yield* Harness.decode({
        providers: { ollama: { headers: { "x-note": "$${HOME}" } } },
        models: { chat: { targets: ["ollama/a"] } }
      })
      assert.deepStrictEqual(plan.models.get("chat")?.options.targets[0]?.headers, { "x-note": "${HOME}" })
    }))
})

describe("published files", () => {
  it("the JSON Schema is that of the command, and knows no other fields", () => {
    const written = JSON.parse(readFileSync(join(root, "examples/gateway/gateway.schema.json"), "utf8"))
    assert.deepStrictEqual(written, JSON.parse(JSON.stringify(Gateway.jsonSchema())))
    assert.isFalse(written.additionalProperties)
  })

  it("there is an example for each preset", () => {
    const presets = examples.flatMap((file) =>
      Object.values<{ preset?: string }>(JSON.parse(readFileSync(join(root, file), "utf8")).models).map((_) => _.preset)
    )
    for (const preset of ["keyPool", "sharedAgents", "catalogue", "alerts"]) assert.include(presets, preset)
  })

  for (const file of examples) {
    it.effect(`${file} can be served`, () =>
      Effect.gen(function*() {
        const json: Harness.Json = JSON.parse(readFileSync(join(root, file), "utf8"))
        const names = [...JSON.stringify(json).matchAll(/\$\{(\w+)\}/g)].map(([, name]) => name)
        assert.isAbove(names.length, 0)
        const values = Object.fromEntries(
          names.map((name) => [name, name === "AZURE_OPENAI_ENDPOINT" ? "https://x.openai.azure.com" : "k"])
        )
        const { plan } = yield* Harness.decode(json, values)
        assert.deepStrictEqual([...plan.models.keys()], Object.keys(json.models))
      }))
  }
})
