import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { Fault } from "../../../src/internal/providerServer/plan.ts"
import { type Behaviour, settingsOf } from "../../../src/internal/providerServer/settings.ts"
import * as Oracle from "../../../src/internal/simulation/oracle.ts"
import type { Call } from "../../../src/internal/simulation/traffic.ts"

const calls = (times: ReadonlyArray<number>, fields: Partial<Call> = {}): ReadonlyArray<Call> =>
  times.map((at, index) => ({ index, at, traffic: 0, input: 60, output: 40, maxTokens: undefined, ...fields }))

const place = (key: string): Oracle.Place => ({ provider: "acme", model: "m", key })

const possible = (
  behaviour: Partial<Behaviour>,
  question: Partial<Oracle.Question> & { readonly calls: ReadonlyArray<Call> }
) =>
  Oracle.possible({
    providers: new Map([["acme", settingsOf({ format: "openai", ...behaviour })]]),
    places: [[place("a")]],
    deadlines: [60_000],
    warmUpMs: 0,
    durationMs: 1e9,
    ...question
  })

const perMinute = (limit: number, burst = 1) => ({ limit, per: "1 minute" as const, burst })
const every = (ms: number, count: number) => Array.from({ length: count }, (_, n) => n * ms)

describe("what is possible", () => {
  it("without quotas everything is", () => {
    assert.deepStrictEqual(possible({}, { calls: calls(every(1, 100)) }), { answers: 100, tokens: 10_000 })
  })

  it("a quota of requests lets as many through as it gives back until the deadline", () => {
    const { answers } = possible({ limits: { requests: perMinute(60) } }, { calls: calls(every(0, 100)) })
    // One at once, then one a second, the last one just in time.
    assert.strictEqual(answers, 61)
  })

  it("a quota of tokens counts what is used, not what is allowed", () => {
    const limits = { tokens: perMinute(1000, 1000) }
    const all = calls(every(0, 100), { maxTokens: 4000 })
    assert.strictEqual(possible({ limits }, { calls: all, deadlines: [30_000] }).tokens, 1500)
  })

  it("slots are free again when an answer has ended", () => {
    const behaviour = { limits: { concurrency: 2 }, latency: { firstToken: "1 second" as const } }
    assert.strictEqual(possible(behaviour, { calls: calls(every(0, 50)), deadlines: [10_000] }).answers, 20)
  })

  it("an answer that comes after the deadline is none", () => {
    const behaviour = { latency: { firstToken: "2 seconds" as const } }
    assert.strictEqual(possible(behaviour, { calls: calls([0]), deadlines: [1999] }).answers, 0)
    assert.strictEqual(possible(behaviour, { calls: calls([0]), deadlines: [2000] }).answers, 1)
  })

  it("calls wait for the end of an outage, as long as their deadlines allow", () => {
    const outage = { rate: 1, fault: Fault.NoAnswer(), from: Duration.seconds(10), to: Duration.seconds(70) }
    const all = calls([5000, 9999, 10_000, 15_000, 40_000])
    assert.strictEqual(possible({ faultRates: [outage] }, { calls: all, deadlines: [31_000] }).answers, 3)
  })

  it("what fails by chance, or comes late, can be answered", () => {
    const faultRates = [
      { rate: 0.9, fault: Fault.NoAnswer() },
      { rate: 1, fault: Fault.SlowFirstToken({ delay: "1 second" }) }
    ]
    assert.strictEqual(possible({ faultRates }, { calls: calls([0]) }).answers, 1)
  })

  it("takes the place with the earliest room, and none that is down for ever", () => {
    const behaviour = {
      limits: { requests: perMinute(1) },
      faultRates: [{ rate: 1, fault: Fault.Status({ status: 401 }), key: "dead" }]
    }
    const places = [[place("dead"), place("a"), place("b")]]
    assert.strictEqual(possible(behaviour, { calls: calls([0, 0, 0]), places, deadlines: [1000] }).answers, 2)
  })

  it("keys of one account share its quota", () => {
    const behaviour = { limits: { requests: perMinute(1) }, limitScope: "model" as const }
    const places = [[place("a"), place("b")]]
    assert.strictEqual(possible(behaviour, { calls: calls([0, 0, 0]), places, deadlines: [1000] }).answers, 1)
  })

  it("a quota for some time begins full", () => {
    const overrides = [{ from: Duration.seconds(10), limits: { requests: perMinute(1, 5) } }]
    const behaviour = { limits: { requests: perMinute(1) }, overrides }
    assert.strictEqual(possible(behaviour, { calls: calls(every(1000, 20)), deadlines: [500] }).answers, 6)
  })

  it("a request larger than a quota is never answered, and costs others nothing", () => {
    const limits = { tokens: perMinute(100, 100) }
    const all = [...calls([0], { input: 5000 }), ...calls([1])]
    assert.strictEqual(possible({ limits }, { calls: all }).answers, 1)
  })

  it("calls of the warm-up use quotas and are not counted", () => {
    const limits = { requests: perMinute(1) }
    assert.strictEqual(possible({ limits }, { calls: calls([0, 10]), warmUpMs: 5, deadlines: [1000] }).answers, 0)
  })
})
