import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import type * as File from "../../../src/internal/simulation/schema.ts"
import * as Traffic from "../../../src/internal/simulation/traffic.ts"

const entry = (fields: Partial<File.Traffic>): File.Traffic => ({
  name: "users",
  calls: 10,
  per: Duration.seconds(1),
  input: 100,
  output: 50,
  ...fields
})

const draw = (traffic: ReadonlyArray<File.Traffic>, durationMs: number, seed: string | number = 1) =>
  Traffic.calls(traffic, durationMs, seed)

const countIn = (calls: ReadonlyArray<Traffic.Call>, from: number, to: number) =>
  calls.filter((call) => call.at >= from && call.at < to).length

describe("traffic", () => {
  it.effect("even calls arrive at equal distances, the first after half of one", () =>
    Effect.gen(function*() {
      const calls = yield* draw([entry({ arrivals: "even", calls: 4 })], 1000)
      assert.deepStrictEqual(calls.map((call) => call.at), [125, 375, 625, 875])
    }))

  it.effect("independent calls arrive as often as said, and as irregularly as independent ones do", () =>
    Effect.gen(function*() {
      const calls = yield* draw([entry({ calls: 20 })], 1_000_000)
      assert.closeTo(calls.length, 20_000, 3 * Math.sqrt(20_000))
      const counts = Array.from({ length: 1000 }, (_, second) => countIn(calls, second * 1000, second * 1000 + 1000))
      const mean = calls.length / 1000
      const variance = counts.reduce((sum, count) => sum + (count - mean) ** 2, 0) / 1000
      // The variance of a Poisson process is its mean.
      assert.closeTo(variance / mean, 1, 0.15)
    }))

  it.effect("a load multiplies the calls of its time, and loads that overlap multiply each other", () =>
    Effect.gen(function*() {
      const load = [
        { from: Duration.seconds(100), to: Duration.seconds(200), factor: 10 },
        { from: Duration.seconds(150), factor: 0 }
      ]
      const calls = yield* draw([entry({ arrivals: "even", load })], 300_000)
      assert.strictEqual(countIn(calls, 0, 100_000), 1000)
      assert.closeTo(countIn(calls, 100_000, 150_000), 5000, 1)
      assert.strictEqual(countIn(calls, 150_001, 300_000), 0)
    }))

  it.effect("calls that arrive together are as many as they would be one by one", () =>
    Effect.gen(function*() {
      const calls = yield* draw([entry({ arrivals: "even", calls: 10, together: 5 })], 10_000)
      assert.strictEqual(calls.length, 100)
      assert.strictEqual(new Set(calls.map((call) => call.at)).size, 20)
    }))

  it.effect("from and to bound an entry", () =>
    Effect.gen(function*() {
      const calls = yield* draw([entry({ from: Duration.seconds(2), to: Duration.seconds(3) })], 10_000)
      assert.isTrue(calls.length > 0 && calls.every((call) => call.at >= 2000 && call.at < 3000))
    }))

  it.effect("sizes are those of their distributions", () =>
    Effect.gen(function*() {
      const [even, skewed] = [{ min: 10, max: 20 }, { median: 100, p95: 400 }]
      const calls = yield* draw([entry({ calls: 100, input: even, output: skewed, maxTokens: 300 })], 100_000)
      const inputs = calls.map((call) => call.input)
      assert.strictEqual(Math.min(...inputs), 10)
      assert.strictEqual(Math.max(...inputs), 20)
      const outputs = calls.map((call) => call.output).sort((a, b) => a - b)
      assert.closeTo(outputs[outputs.length >> 1] ?? 0, 100, 5)
      assert.closeTo(outputs[Math.floor(outputs.length * 0.95)] ?? 0, 400, 40)
      assert.isTrue(calls.every((call) => Traffic.used(call) === call.input + Math.min(call.output, 300)))
    }))

  it.effect("the same seed makes the same calls, and an entry draws its own whatever stands beside it", () =>
    Effect.gen(function*() {
      const alone = yield* draw([entry({})], 10_000, 7)
      const beside = yield* draw([entry({ name: "others" }), entry({})], 10_000, 7)
      const times = (calls: ReadonlyArray<Traffic.Call>) => calls.map(({ at, input, output }) => [at, input, output])
      assert.deepStrictEqual(times(yield* draw([entry({})], 10_000, 7)), times(alone))
      assert.deepStrictEqual(times(beside.filter((call) => call.traffic === 1)), times(alone))
      assert.notDeepEqual(times(yield* draw([entry({})], 10_000, 8)), times(alone))
    }))

  it.effect("a prompt has the characters of its tokens, and is answered with the tokens it asks for", () =>
    Effect.gen(function*() {
      const [call] = yield* draw([entry({ arrivals: "even", input: 200, output: 37 })], 1000)
      if (call === undefined) throw new Error("no call")
      const text = Traffic.promptOf(call)
      assert.strictEqual(text.length, 800)
      const reply = Traffic.replyOf({
        model: "m",
        key: "k",
        stream: false,
        messages: [{ role: "user", text }],
        maxTokens: undefined,
        tools: [],
        toolChoice: undefined,
        jsonSchema: undefined,
        inputTokens: 200,
        body: {}
      })
      assert.strictEqual(reply.text?.length, 4 * 37)
    }))
})
