import { assert, describe, it } from "@effect/vitest"
import { Cooldown } from "breakwater"
import { Duration, Effect } from "effect"
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
    "a zero or negative cooldown starts nothing",
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      yield* cooldown.start("a", 0, "rate_limit")
      yield* cooldown.start("a", -5, "rate_limit")
      assert.deepStrictEqual(yield* cooldown.active, [])
    })
  )
})
