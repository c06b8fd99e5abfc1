import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { LLMService, Resilience, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import * as Simulation from "breakwater/testing/Simulation"
import { Effect, Layer, References } from "effect"

interface Scenario {
  readonly quota: unknown
  readonly configured: unknown
  readonly countRejected?: boolean
  /** Calls offered a second, by their input and output tokens. */
  readonly traffic: ReadonlyArray<readonly [calls: number, input: number, output: number]>
  readonly minutes: number
  readonly warmUpMinutes?: number
  readonly seed: number
}

/** One provider that says nothing of its quota but the wait after a refusal. */
const simulate = ({ configured, countRejected, minutes, quota, seed, traffic, warmUpMinutes = 1 }: Scenario) =>
  Effect.flatMap(
    Simulation.decode({
      duration: `${minutes} minutes`,
      warmUp: `${warmUpMinutes} minutes`,
      traffic: traffic.map(([calls, input, output], index) => ({
        name: String(index),
        calls,
        per: "1 second",
        input,
        output,
        maxTokens: output,
        deadline: "60 seconds"
      })),
      providers: {
        acme: {
          limits: quota,
          countRejected: countRejected ?? false,
          claims: { quota: 0 },
          latency: {
            network: { min: "5 millis", max: "40 millis" },
            firstToken: { min: "200 millis", max: "2 seconds" }
          }
        }
      },
      policies: {
        service: {
          models: {
            chat: { targets: [{ provider: "acme", model: "m", limits: configured }], patience: "0 millis" }
          }
        }
      }
    }),
    (scenario) => Simulation.run(scenario, { seed })
  )

const perMinute = (limit: number) => ({ limit, per: "1 minute" })

describe("goodput of the whole stack, in virtual time", () => {
  for (const load of [2, 5]) {
    it.effect(`${load} times the quota: at least 99 % of it is used, less than 0.1 % is refused, nobody waits too long`, () =>
      Effect.gen(function*() {
        const report = yield* simulate({
          quota: { requests: perMinute(300) },
          configured: { requests: perMinute(300) },
          traffic: [[5 * load, 100, 100]],
          minutes: 6,
          seed: load
        })
        assert.isAtLeast(report.goodput.answers / (5 * 300), 0.99)
        assert.isBelow(report.refusedShare ?? 1, 0.001)
        assert.isAtMost(report.calls.waitMs.p99, 15_000)
      }))
  }

  it.effect("large calls are served as often as small ones", () =>
    Effect.gen(function*() {
      const report = yield* simulate({
        quota: { tokens: perMinute(150_000) },
        configured: { tokens: perMinute(150_000) },
        traffic: [[3.75, 200, 100], [1.25, 4000, 2000]],
        minutes: 20,
        seed: 3
      })
      assert.isAtLeast(report.goodput.tokens / (19 * 150_000), 0.99)
      assert.isBelow(report.refusedShare ?? 1, 0.001)
      const ratio = report.fairness.largeToSmall ?? 0
      assert.isAtLeast(ratio, 0.9)
      assert.isAtMost(ratio, 1.1)
    }))

  for (
    const [name, configured] of [
      ["configured at twice the truth", { requests: perMinute(600) }],
      ["that nobody knows", {}]
    ] as const
  ) {
    for (const countRejected of [false, true]) {
      const cost = countRejected ? ", where a refusal costs quota" : ""
      it.effect(`a quota ${name}${cost}: at least 97 % of it is used`, () =>
        Effect.gen(function*() {
          const report = yield* simulate({
            quota: { requests: perMinute(300) },
            configured,
            countRejected,
            traffic: [[10, 100, 100]],
            minutes: 10,
            warmUpMinutes: 3,
            seed: 5
          })
          assert.isAtLeast(report.goodput.answers / (7 * 300), 0.97)
          assert.isBelow(report.refusedShare ?? 1, 0.02)
        }))
    }
  }
})

describe("goodput over real HTTP", () => {
  // Sockets need real time: three seconds of twice the load, against a server that keeps its quota exactly, and few enough
  // calls for a machine that has other things to do.
  it.live("twice the quota of a server: nearly all of it is used, nearly nothing is refused", () =>
    Effect.gen(function*() {
      const requests = { limit: 12, per: "1 second" } as const
      const server = yield* ProviderServer.make({ format: "openai", limits: { requests } })
      const target = Target.make({ provider: "openai", model: "m", baseUrl: server.url, limits: { requests } })
      const service = Resilience.layer({ targets: [target], queueWait: "500 millis", patience: 0 }).pipe(
        Layer.provide(NodeHttpClient.layerUndici)
      )
      const seconds = 3
      yield* Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        const call = Effect.ignore(llm.complete({ prompt: "hi", deadline: "2 seconds" }))
        yield* Effect.forEach(
          Array.from({ length: requests.limit * 2 * seconds }),
          (_, n) => Effect.andThen(Effect.sleep(n * 1000 / (requests.limit * 2)), call),
          { concurrency: "unbounded", discard: true }
        )
      }).pipe(Effect.provide(service), Effect.provideService(References.MinimumLogLevel, "None"))
      const received = yield* server.received
      assert.isAtLeast(received.answered, 0.95 * requests.limit * (seconds + 1))
      assert.isAtMost(received.refused, 2)
    }).pipe(Effect.scoped))
})
