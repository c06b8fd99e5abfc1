import { assert, describe, it } from "@effect/vitest"
import { Cooldown, Target } from "breakwater"
import { Duration, Effect, Redacted } from "effect"
import { TestClock } from "effect/testing"

const rule = (name: string, body: Effect.Effect<void, never, Cooldown.Cooldown>) =>
  it.effect(name, () => Effect.provide(body, Cooldown.layerMemory))

describe("Cooldown", () => {
  rule(
    "a shorter cooldown never cuts a longer one (T20)",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("provider:openai", "1 minute", "rate_limit")
      yield* cooldown.start("provider:openai", "1 second", "attempt")
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* cooldown.remaining("provider:openai"), Duration.seconds(30))
      assert.strictEqual((yield* cooldown.active)[0]?.reason, "rate_limit")
    })
  )

  rule(
    "a longer cooldown extends the one that runs and takes over its reason",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("key:groq@a", "10 seconds", "attempt")
      yield* cooldown.start("key:groq@a", "1 hour", "invalid_key")
      assert.deepStrictEqual(yield* cooldown.remaining("key:groq@a"), Duration.hours(1))
      assert.strictEqual((yield* cooldown.active)[0]?.reason, "invalid_key")
    })
  )

  rule(
    "expiry needs no sweep and is exact to the millisecond",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("model:a", 1000, "rate_limit")
      yield* TestClock.adjust(999)
      assert.deepStrictEqual(yield* cooldown.remaining("model:a"), Duration.millis(1))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* cooldown.remaining("model:a"), Duration.zero)
      assert.isUndefined((yield* cooldown.latest([["model:a"]]))[0])
      assert.deepStrictEqual(yield* cooldown.active, [])
    })
  )

  rule(
    "many groups read as few do, before and after what is cooling changes",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      const groups = Array.from({ length: 500 }, (_, index) => [`target:${index}`, `key:${index % 7}`, "provider:p"])
      const oneByOne = Effect.forEach(groups, (group) => Effect.map(cooldown.latest([group]), ([entry]) => entry))
      for (const [key, seconds] of [["key:3", 5], ["target:10", 9], ["target:11", 2], ["provider:p", 4]] as const) {
        yield* cooldown.start(key, `${seconds} seconds`, "rate_limit")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* cooldown.latest(groups), yield* oneByOne)
      }
    })
  )

  rule(
    "the latest of a group of keys is the one that ends last",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("key:a", "5 seconds", "rate_limit")
      yield* cooldown.start("provider:p", "9 seconds", "ip_blocked")
      const [both, one, none] = yield* cooldown.latest([["key:a", "provider:p"], ["key:a"], ["key:b"]])
      assert.deepStrictEqual([both?.reason, both?.remainingMs], ["ip_blocked", 9000])
      assert.deepStrictEqual([one?.reason, one?.remainingMs], ["rate_limit", 5000])
      assert.isUndefined(none)
    })
  )

  rule(
    "clear ends one, clearAll ends all, and both say what was running",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      for (const key of ["a", "b", "c"]) yield* cooldown.start(key, "1 minute", "rate_limit")
      assert.isTrue(yield* cooldown.clear("a"))
      assert.isFalse(yield* cooldown.clear("a"))
      assert.strictEqual(yield* cooldown.clearAll, 2)
      assert.deepStrictEqual(yield* cooldown.active, [])
    })
  )

  rule(
    "clearExpired counts what was over and leaves what runs",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("short", "1 second", "rate_limit")
      yield* cooldown.start("long", "1 minute", "rate_limit")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* cooldown.clearExpired, 1)
      assert.strictEqual((yield* cooldown.active).length, 1)
    })
  )

  rule(
    "what is over is forgotten within a minute while others start, whoever asks for it or not",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      for (let index = 0; index < 1000; index++) yield* cooldown.start(`key-${index}`, "1 second", "rate_limit")
      yield* TestClock.adjust("1 minute")
      yield* cooldown.start("another", "1 second", "rate_limit")
      assert.strictEqual(yield* cooldown.clearExpired, 0)
    })
  )

  rule(
    "a zero or negative cooldown starts nothing",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("a", 0, "rate_limit")
      yield* cooldown.start("a", -5, "rate_limit")
      assert.deepStrictEqual(yield* cooldown.active, [])
    })
  )

  rule(
    "the status counts by provider and by scope and lists what runs, the one that ends first first",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      const a = Target.make({ provider: "groq", model: "a", key: { id: "k", value: Redacted.make("secret") } })
      const b = Target.make({ provider: "openai", model: "b" })
      for (
        const [target, scope, duration, reason] of [
          [a, "model", "22 minutes", "rate_limit"],
          [a, "target", "10 seconds", "attempt"],
          [b, "provider", "1 minute", "ip_blocked"],
          [b, "key", "1 second", "invalid_key"]
        ] as const
      ) {
        yield* cooldown.start(Target.scopeKey(target, scope) ?? "", duration, reason)
      }
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* cooldown.status, {
        total: 3,
        byProvider: { groq: 2, openai: 1 },
        byScope: { model: 1, target: 1, provider: 1 },
        entries: [
          {
            key: "target:groq/a@k",
            scope: "target",
            provider: "groq",
            reason: "attempt",
            until: 10_000,
            remainingMs: 5000
          },
          {
            key: "provider:openai",
            scope: "provider",
            provider: "openai",
            reason: "ip_blocked",
            until: 60_000,
            remainingMs: 55_000
          },
          {
            key: "model:groq/a@k",
            scope: "model",
            provider: "groq",
            reason: "rate_limit",
            until: 1_320_000,
            remainingMs: 1_315_000
          }
        ]
      })
    })
  )

  rule(
    "the status of nothing is empty",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      assert.deepStrictEqual(yield* cooldown.status, { total: 0, byProvider: {}, byScope: {}, entries: [] })
    })
  )

  rule(
    "a key that is no scope key is in the total and in the list only",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("mine", "1 minute", "rate_limit")
      yield* cooldown.start("target:mine", "1 minute", "rate_limit")
      yield* cooldown.start("provider:__proto__", "1 minute", "rate_limit")
      const { byProvider, byScope, entries, total } = yield* cooldown.status
      assert.strictEqual(total, 3)
      assert.deepStrictEqual(Object.entries(byProvider), [["__proto__", 1]])
      assert.deepStrictEqual(byScope, { target: 1, provider: 1 })
      assert.deepStrictEqual(entries.map((_) => [_.key, _.scope, _.provider]), [
        ["mine", undefined, undefined],
        ["target:mine", "target", undefined],
        ["provider:__proto__", "provider", "__proto__"]
      ])
    })
  )
})

describe("Cooldown.available", () => {
  const key = (id: string) => ({ id, value: Redacted.make("secret") })
  const target = (provider: string, model: string, id?: string) =>
    Target.make({ provider, model, key: id === undefined ? undefined : key(id) })
  const targets = [
    target("groq", "a", "1"),
    target("groq", "a", "2"),
    target("groq", "b", "1"),
    target("openai", "c")
  ]
  const during = (...scopeKeys: ReadonlyArray<string>) =>
    Cooldown.available(targets, scopeKeys.map((scopeKey) => ({ scopeKey })))

  it("counts targets and names each model once", () => {
    assert.deepStrictEqual(during(), {
      groq: { available: 3, total: 3, models: ["a", "b"] },
      openai: { available: 1, total: 1, models: ["c"] }
    })
  })

  it("a model is left while one of its keys is", () => {
    assert.deepStrictEqual(during("model:groq/a@1").groq, { available: 2, total: 3, models: ["a", "b"] })
    assert.deepStrictEqual(during("model:groq/a@1", "target:groq/a@2").groq, { available: 1, total: 3, models: ["b"] })
  })

  it("a cooldown of a key or a provider reaches all of its targets", () => {
    assert.deepStrictEqual(during("key:groq@1").groq, { available: 1, total: 3, models: ["a"] })
    assert.deepStrictEqual(during("provider:openai").openai, { available: 0, total: 1, models: [] })
  })

  it("a cooldown of something else changes nothing", () => {
    assert.deepStrictEqual(during("model:mistral/a@1", "mine"), during())
  })
})
