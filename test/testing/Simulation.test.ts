import { assert, describe, it } from "@effect/vitest"
import { LLMService, Resilience, Target } from "breakwater"
import * as Simulation from "breakwater/testing/Simulation"
import { Effect, Fiber, Layer, Redacted } from "effect"
import { TestClock } from "effect/testing"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

const target = { provider: "groq", model: "llama-3.3-70b" }

const quota = (limit: number) => ({ limit, per: "1 minute" })

/** Two calls a second for five minutes to one provider with room for one a second. */
const scenario = {
  description: "twice the quota",
  duration: "5 minutes",
  warmUp: "80 seconds",
  traffic: [{ name: "users", calls: 2, per: "1 second", input: 50, output: 40, maxTokens: 60, deadline: "1 minute" }],
  providers: {
    groq: {
      limits: { requests: quota(60) },
      latency: { network: { min: "5 millis", max: "40 millis" }, firstToken: "300 millis", perToken: "5 millis" }
    }
  },
  policies: {
    right: { models: { chat: { targets: [{ ...target, limits: { requests: quota(60) } }] } } },
    none: { models: { chat: { targets: ["groq/llama-3.3-70b"], patience: "0 millis" } } }
  }
} satisfies Simulation.ScenarioFile

const simulate = (json: unknown, options: Simulation.Options = {}) =>
  Effect.flatMap(Simulation.decode(json), (scenario) => Simulation.run(scenario, options))

describe("Simulation.run", () => {
  it.effect("the same scenario and seed make the same report, byte for byte, and another seed another one", () =>
    Effect.gen(function*() {
      const first = JSON.stringify(yield* simulate(scenario, { seed: 7 }))
      assert.strictEqual(JSON.stringify(yield* simulate(scenario, { seed: 7 })), first)
      assert.notStrictEqual(JSON.stringify(yield* simulate(scenario, { seed: 8 })), first)
    }))

  it.effect("a limit that is right answers what is possible, without a refusal", () =>
    Effect.gen(function*() {
      const report = yield* simulate(scenario)
      assert.isAtLeast(report.goodput.answersShare ?? 0, 0.99)
      assert.strictEqual(report.refused, 0)
      assert.strictEqual(report.attempts.perAnswer, 1)
      assert.isAtMost(report.calls.waitMs.max, 15_000)
      assert.strictEqual(report.calls.answered + report.calls.failed, report.calls.offered)
      assert.strictEqual(report.calls.failed, Object.values(report.errors.byClass).reduce((a, b) => a + b, 0))
      assert.strictEqual(report.attempts.total, report.calls.answered)
      // The latency is what the provider was said to take, and no more than the wait on top of it.
      assert.isAtLeast(report.calls.latencyMs.p50, 505)
    }))

  it.effect("every policy meets the same calls, and the provider refuses those who know no limit", () =>
    Effect.gen(function*() {
      const right = yield* simulate(scenario)
      const none = yield* simulate(scenario, { policy: "none" })
      assert.deepStrictEqual(none.timeline.offered, right.timeline.offered)
      assert.strictEqual(none.goodput.possibleAnswers, right.goodput.possibleAnswers)
      assert.isAbove(none.refused, 0)
      assert.strictEqual(none.providers["groq"]?.refused, none.refused)
      assert.isTrue(none.timeline.states["groq/llama-3.3-70b@groq-1"]?.includes("cooling"))
    }))

  it.effect("brings its own clock and chance: under a TestClock that nobody moves it ends at once, the same", () =>
    Effect.gen(function*() {
      const report = yield* simulate(scenario)
      assert.strictEqual(report.durationMs, 300_000)
      assert.deepStrictEqual(report, yield* TestClock.withLive(simulate(scenario)))
    }))

  it.effect("reports an outage: what was sent into it, what was lost, when it was over", () =>
    Effect.gen(function*() {
      const fault = { from: "2 minutes", to: "3 minutes", fault: { kind: "status", status: 500 } }
      const { groq } = scenario.providers
      const report = yield* simulate({
        ...scenario,
        traffic: [{ ...scenario.traffic[0], calls: 0.5, arrivals: "even" }],
        providers: { groq: { ...groq, faults: [fault] } }
      })
      const [outage] = report.outages
      assert.strictEqual(report.outages.length, 1)
      assert.deepStrictEqual([outage?.fromMs, outage?.toMs, outage?.offered], [120_000, 180_000, 30])
      assert.isTrue((outage?.requests ?? 0) > 0 && (outage?.requests ?? 0) < 30)
      assert.strictEqual(report.providers["groq"]?.faulted, outage?.requests)
      assert.isTrue((outage?.recoveryMs ?? 1e9) < 30_000)
      assert.isTrue(report.timeline.states["groq/llama-3.3-70b@groq-1"]?.includes("open"))
      assert.strictEqual(report.attempts.failed["server_error"], outage?.requests)
    }))

  it.effect("streams are read to their end; one that is cut is no answer", () =>
    Effect.gen(function*() {
      const traffic = [{ ...scenario.traffic[0], calls: 0.5, stream: true }]
      const whole = yield* simulate({ ...scenario, traffic })
      assert.strictEqual(whole.calls.answeredShare, 1)
      assert.strictEqual(whole.calls.firstTokenMs.count, whole.calls.answered)
      assert.isBelow(whole.calls.firstTokenMs.p50, whole.calls.latencyMs.p50)
      const { groq } = scenario.providers
      const cut = yield* simulate({
        ...scenario,
        traffic,
        providers: { groq: { ...groq, faults: [{ rate: 0.5, fault: { kind: "cut", after: 3 } }] } }
      })
      assert.isTrue(cut.calls.answered > 0 && cut.calls.failed > 0)
      assert.strictEqual(cut.errors.byClass["transient_network"], cut.calls.failed)
    }))

  it.effect("counts by priority, tenant and traffic, and how alike tenants and sizes were treated", () =>
    Effect.gen(function*() {
      const base = scenario.traffic[0]
      const report = yield* simulate({
        ...scenario,
        traffic: [
          { ...base, name: "a", tenant: "red", priority: "high" },
          { ...base, name: "b", tenant: "blue", input: { min: 10, max: 500 } }
        ]
      })
      assert.deepStrictEqual(Object.keys(report.priorities).toSorted(), ["high", "normal"])
      assert.isAbove(report.priorities["high"]?.answeredShare ?? 0, report.priorities["normal"]?.answeredShare ?? 1)
      assert.strictEqual(
        (report.tenants["red"]?.offered ?? 0) + (report.tenants["blue"]?.offered ?? 0),
        report.calls.offered
      )
      assert.isBelow(report.fairness.tenants ?? 1, 1)
      assert.isNotNull(report.fairness.largeToSmall)
    }))

  it.effect("adds up costs where targets have prices", () =>
    Effect.gen(function*() {
      const price = { input: 1_000_000, output: 2_000_000 }
      const models = { chat: { targets: [{ ...target, price }] } }
      const report = yield* simulate({
        ...scenario,
        traffic: [{ ...scenario.traffic[0], calls: 0.2 }],
        policies: { priced: { models } }
      })
      assert.strictEqual(report.cost.usd, report.calls.answered * (50 + 2 * 40))
      assert.strictEqual(report.cost.perAnswer, 130)
    }))

  it.effect("providers that claim too much, or nothing, are believed as far as they should be", () =>
    Effect.gen(function*() {
      const { groq } = scenario.providers
      const learning = { models: { chat: { targets: [{ ...target, limits: {} }] } } }
      for (const claims of [{ quota: 2, wait: 0 }, { quota: 0, wait: 0 }]) {
        const report = yield* simulate({
          ...scenario,
          duration: "10 minutes",
          warmUp: "3 minutes",
          providers: { groq: { ...groq, claims } },
          policies: { learning }
        })
        assert.isAtLeast(report.goodput.answersShare ?? 0, 0.9)
      }
    }))

  it.effect("an unknown key is refused, and others go on", () =>
    Effect.gen(function*() {
      const { groq } = scenario.providers
      const report = yield* simulate({
        ...scenario,
        traffic: [{ ...scenario.traffic[0], calls: 0.2 }],
        providers: { groq: { ...groq, keys: ["good"] } },
        policies: {
          two: {
            providers: { groq: { keys: [{ id: "bad", value: "bad" }, { id: "good", value: "good" }] } },
            models: { chat: { targets: ["groq/llama-3.3-70b"] } }
          }
        }
      })
      assert.strictEqual(report.calls.answeredShare, 1)
      assert.strictEqual(report.attempts.failed["authentication"] ?? 0, 0, "asked before the warm-up was over")
      assert.strictEqual(report.targets["groq/llama-3.3-70b@bad"]?.attempts, 0)
    }))

  it.effect("runs a layer of one's own, with strategies that no file can express", () =>
    Effect.gen(function*() {
      const { policies: _, ...bare } = scenario
      const decoded = yield* Simulation.decode(bare)
      const layer = Resilience.layer({
        targets: [Target.make({
          ...target,
          key: { id: "own", value: Redacted.make("secret") },
          limits: { requests: { limit: 60, per: "1 minute" } }
        })]
      })
      const report = yield* Simulation.run(decoded, { policy: { name: "mine", layer } })
      assert.strictEqual(report.policy, "mine")
      assert.isAtLeast(report.goodput.answersShare ?? 0, 0.99)
      assert.strictEqual(report.refused, 0)
      const error = yield* Effect.flip(Simulation.run(decoded))
      assert.include(error.message, "policies: has no policy")
    }))

  it.live("an interruption ends it at once", () =>
    Effect.gen(function*() {
      const decoded = yield* Simulation.decode({ ...scenario, duration: "10 days" })
      const told: Array<number> = []
      const running = yield* Effect.forkChild(
        Simulation.run(decoded, { onProgress: (share) => Effect.sync(() => told.push(share)) })
      )
      while (told.length < 2) yield* Effect.yieldNow
      yield* Fiber.interrupt(running)
      assert.isBelow(told.at(-1) ?? 1, 0.5)
      assert.deepStrictEqual(told, told.toSorted((a, b) => a - b))
    }))
})

describe("Simulation.layerHttpClient", () => {
  it.effect("lets a program meet quotas and waits under TestClock", () =>
    Effect.gen(function*() {
      const { policies: _, ...bare } = scenario
      const decoded = yield* Simulation.decode({
        ...bare,
        providers: { groq: { limits: { requests: { limit: 1, per: "1 minute" } } } }
      })
      const live = Resilience.layer({ targets: [Target.make(target)], patience: "2 minutes" }).pipe(
        Layer.provide(Simulation.layerHttpClient(decoded))
      )
      const texts = yield* Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        const ask = llm.complete({ prompt: "out=3" })
        const first = yield* ask
        const fiber = yield* Effect.forkChild(ask)
        yield* TestClock.adjust("59 seconds")
        const before = fiber.pollUnsafe()
        yield* TestClock.adjust("10 seconds")
        const second = yield* Fiber.join(fiber)
        return [first.text.length, before, second.attempts.map((attempt) => attempt.outcome)]
      }).pipe(Effect.provide(live))
      assert.deepStrictEqual(texts, [12, undefined, ["failure", "success"]])
    }))
})

describe("Simulation.decode", () => {
  const { groq } = scenario.providers
  const [users] = scenario.traffic
  const cases: ReadonlyArray<readonly [unknown, path: string, message: string]> = [
    [{}, "duration", "missing"],
    [{ ...scenario, durations: 1 }, "durations", "there is no such field"],
    [{ ...scenario, duration: "soon" }, "duration", ""],
    [{ ...scenario, duration: "0 seconds" }, "duration", "longer than nothing"],
    [{ ...scenario, warmUp: "1 hour" }, "warmUp", "shorter than the duration"],
    [{ ...scenario, traffic: [] }, "traffic", ""],
    [{ ...scenario, traffic: [{ ...users, calls: -1 }] }, "traffic[0].calls", ""],
    [{ ...scenario, traffic: [{ ...users, calls: 1e9 }] }, "traffic", "at most 5000000"],
    [{ ...scenario, traffic: [users, users] }, "traffic[1].name", "the name of another"],
    [{ ...scenario, traffic: [{ ...users, model: "nope" }] }, "traffic[0].model", "no model nope in the policy right"],
    [{ ...scenario, traffic: [{ ...users, input: { min: 5, max: 1 } }] }, "traffic[0].input.max", "less than min"],
    [{ ...scenario, traffic: [{ ...users, from: "5 s", to: "1 s" }] }, "traffic[0].from", ""],
    [
      { ...scenario, traffic: [{ ...users, from: "5 seconds", to: "1 second" }] },
      "traffic[0].to",
      "later than from"
    ],
    [{ ...scenario, providers: {} }, "providers", "at least one provider"],
    [{ ...scenario, providers: { ...scenario.providers, xai: {} } }, "providers.xai", "no policy uses this provider"],
    [
      { ...scenario, providers: { groq: { ...groq, limits: { requests: { limit: 0.5, per: "1 minute" } } } } },
      "providers.groq.limits.requests.limit",
      ""
    ],
    [
      { ...scenario, providers: { groq: { ...groq, faults: [{ fault: { kind: "explodes" } }] } } },
      "providers.groq.faults[0].fault",
      ""
    ],
    [
      { ...scenario, providers: { groq: { ...groq, faults: [{ key: "k9", fault: { kind: "noAnswer" } }] } } },
      "providers.groq.faults[0].key",
      "no policy has a key k9"
    ],
    [
      { ...scenario, providers: { groq: { ...groq, overrides: [{ key: "groq-1" }] } } },
      "providers.groq.overrides[0]",
      "changes nothing"
    ],
    [
      { ...scenario, policies: { right: { models: { chat: { targets: ["groq/x"], retries: 1 } } } } },
      "policies.right.models.chat.retries",
      "there is no such field"
    ],
    [
      { ...scenario, policies: { right: { models: { chat: { targets: ["groq/x", "openai/y"] } } } } },
      "policies.right.models.chat.targets[1]",
      "no key"
    ],
    [
      {
        ...scenario,
        policies: {
          right: {
            providers: { openai: { key: "k" } },
            models: { chat: { targets: ["groq/x", "openai/y"] } }
          }
        }
      },
      "policies.right",
      "at no simulated provider"
    ],
    [{ ...scenario, policies: {} }, "policies", "at least one policy"]
  ]

  for (const [json, path, message] of cases) {
    it.effect(`names ${path}${message === "" ? "" : `: ${message}`}`, () =>
      Effect.gen(function*() {
        const { problems } = yield* Effect.flip(Simulation.decode(json))
        const found = problems.filter((problem) => problem.path === path || problem.path.startsWith(path))
        assert.isNotEmpty(found, JSON.stringify(problems))
        assert.isTrue(
          found.some((problem) => problem.message.toLowerCase().includes(message.toLowerCase())),
          JSON.stringify(problems)
        )
      }))
  }

  it.effect("names every problem at once", () =>
    Effect.gen(function*() {
      const { problems } = yield* Effect.flip(
        Simulation.decode({ ...scenario, warmUp: "1 hour", traffic: [{ ...users, maxTokens: 0 }] })
      )
      assert.deepStrictEqual(problems.map((_) => _.path), ["warmUp", "traffic[0].maxTokens"])
    }))
})

describe("the scenarios of the examples", () => {
  const folder = join(import.meta.dirname, "..", "..", "examples", "scenarios")
  const files = readdirSync(folder).filter((name) => name.endsWith(".json") && !name.endsWith(".schema.json"))

  for (const name of files) {
    it.effect(`${name} can be simulated, and says what it is about`, () =>
      Effect.gen(function*() {
        const decoded = yield* Simulation.decode(JSON.parse(readFileSync(join(folder, name), "utf8")))
        assert.isDefined(decoded.file.description)
      }))
  }

  it("the published schema is the one of the code", () => {
    const text = readFileSync(join(folder, "scenario.schema.json"), "utf8")
    assert.deepStrictEqual(JSON.parse(text), JSON.parse(JSON.stringify(Simulation.jsonSchema())))
  })
})
