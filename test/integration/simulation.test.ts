import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import * as Simulation from "breakwater/testing/Simulation"
import { Clock, Effect, Option, References } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as Runs from "../../src/internal/simulation/run.ts"
import { deskSettings, targetsOf } from "../../src/internal/simulation/scenario.ts"

/** What a policy achieves where, in the figures that must agree. */
interface Found {
  readonly answers: number
  readonly refusedShare: number
}

/** The scenario at real servers, over real sockets, in real time. */
const reality = (scenario: Simulation.Scenario, name: string) =>
  Effect.scoped(Effect.gen(function*() {
    const plan = scenario.policies.get(name)
    if (plan === undefined) throw new Error(`no policy ${name}`)
    const settings = new Map(
      scenario.providers.map((provider) => [provider.name, deskSettings(provider, targetsOf(plan))])
    )
    const servers = yield* Effect.forEach(scenario.providers, ({ behaviour, host }) =>
      Effect.map(ProviderServer.make({ ...behaviour, seed: 1 }), (server) => ({ host, server })))
    const client = yield* HttpClient.HttpClient
    const clock = yield* Clock.Clock
    const start = clock.currentTimeMillisUnsafe()
    const report = yield* Runs.measure(scenario, { seed: 1, policy: { name, plan }, onProgress: undefined }, {
      settings,
      now: () =>
        clock.currentTimeMillisUnsafe() - start,
      connect: () =>
        Effect.succeed(HttpClient.mapRequest(client, (request) => {
          const url = Option.getOrThrow(HttpClientRequest.toUrl(request))
          const found = servers.find(({ host }) => host === url.host)
          return HttpClientRequest.setUrl(request, `http://127.0.0.1:${found?.server.port}${url.pathname}`)
        }))
    })
    const received = yield* Effect.forEach(servers, ({ server }) => server.received)
    const sum = (of: (stats: ProviderServer.Stats) => number) => received.reduce((sum, stats) => sum + of(stats), 0)
    return { answers: report.goodput.answers, refusedShare: sum((_) => _.refused) / sum((_) => _.requests) }
  })).pipe(
    Effect.provide(NodeHttpClient.layerUndici),
    Effect.provideService(References.MinimumLogLevel, "None")
  )

const simulated = (scenario: Simulation.Scenario, policy: string) =>
  Effect.map(
    Simulation.run(scenario, { policy }),
    (report): Found => ({ answers: report.goodput.answers, refusedShare: report.refusedShare ?? 0 })
  )

describe("the simulation and reality", () => {
  // Real sockets need real time: more calls than the quota has saved up, in a second of three, a third of them streamed.
  // What is saved up decides how much is answered, so a busy machine that is late changes little.
  it.live("agree within 5 % in answers and in refusals, whether the policy knows the quota or not", () =>
    Effect.gen(function*() {
      const limits = { requests: { limit: 60, per: "1 minute", burst: 60 } }
      // Each call beyond the quota is refused once, however late the machine is.
      const atOnce = {
        sameTarget: "never",
        otherTargets: "never",
        cooldown: "0 millis",
        statedWait: false
      }
      const target = { provider: "deepseek", model: "deepseek-chat" }
      const call = { per: "1 second", to: "1 second", input: 50, output: 20, deadline: "2 seconds" }
      const scenario = yield* Simulation.decode({
        duration: "3 seconds",
        traffic: [{ ...call, name: "whole", calls: 70 }, { ...call, name: "streamed", calls: 30, stream: true }],
        providers: {
          deepseek: {
            limits,
            latency: { network: { min: "1 millis", max: "5 millis" }, firstToken: "30 millis" }
          }
        },
        policies: {
          known: { models: { chat: { targets: [{ ...target, limits }] } } },
          unknown: { models: { chat: { targets: [target], recovery: { classes: { rate_limit: atOnce } } } } }
        }
      })
      const policies = ["known", "unknown"]
      const both = yield* Effect.all([
        Effect.forEach(policies, (policy) => reality(scenario, policy)),
        Effect.forEach(policies, (policy) => simulated(scenario, policy))
      ], { concurrency: "unbounded" })
      const [real, virtual] = both
      console.log(real, virtual)
      for (const [index, policy] of policies.entries()) {
        const [there, here] = [real[index], virtual[index]]
        assert.isAtLeast(here?.answers ?? 0, 60, policy)
        assert.closeTo((there?.answers ?? 0) / (here?.answers ?? 1), 1, 0.05, policy)
        assert.closeTo(there?.refusedShare ?? 1, here?.refusedShare ?? 0, 0.05, policy)
      }
      assert.isAbove(virtual[1]?.refusedShare ?? 0, 0.3)
    }))
})
