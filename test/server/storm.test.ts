import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, Metric } from "effect"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import * as Storm from "../support/Storm.ts"
import * as Harness from "./harness.ts"

// `test/bench/storm.ts` is the same for a minute and with 200 streams, against a process of its own.
const { Fault } = ProviderServer

V8.setFlagsFromString("--expose-gc")
const gc: () => void = Vm.runInNewContext("gc")

const heapMiB = (): number => {
  gc()
  return process.memoryUsage().heapUsed / 2 ** 20
}

const timers = (): number => process.getActiveResourcesInfo().filter((_) => _ === "Timeout").length

/** Counts the fibers of what is provided with it. */
const census = () => {
  let alive = 0
  let most = 0
  const metrics: Metric.FiberRuntimeMetricsService = {
    recordFiberStart: () => {
      alive++
      most = Math.max(most, alive)
    },
    recordFiberEnd: () => {
      alive--
    }
  }
  return { alive: () => alive, most: () => most, metrics }
}

describe("a storm of both faces", () => {
  it.live("leaves no socket, fiber, permit or timer behind, and the memory as it was", () =>
    Effect.gen(function*() {
      const shape = {
        latency: { firstToken: { min: "1 millis", max: "20 millis" }, perChunk: { min: "0 millis", max: "4 millis" } },
        reply: "The tide turns twice a day. ".repeat(8),
        faultRates: [
          { rate: 0.1, fault: Fault.Cut({ after: 3 }) },
          { rate: 0.04, fault: Fault.Cut({ after: 3, clean: true }) },
          { rate: 0.04, fault: Fault.ErrorEvent({ after: 3 }) },
          { rate: 0.04, fault: Fault.MalformedChunk({ after: 3 }) },
          { rate: 0.03, fault: Fault.Stall({ after: 3 }) },
          { rate: 0.03, fault: Fault.NoAnswer() },
          { rate: 0.04, fault: Fault.Reset({}) },
          { rate: 0.04, fault: Fault.Status({ status: 500 }) }
        ]
      } as const
      const openai = yield* ProviderServer.make({ ...shape, format: "openai", seed: 1 })
      const anthropic = yield* ProviderServer.make({ ...shape, format: "anthropic", seed: 2 })
      const { alive, metrics, most } = census()
      const { gateway, port, sockets } = yield* Harness.serve({
        providers: Harness.providers({ openai, anthropic }),
        models: {
          storm: {
            ...Harness.quick,
            strategy: "leastBusy",
            targets: [
              { provider: "openai", model: "one", limits: { concurrency: 100 } },
              { provider: "anthropic", model: "two", limits: { concurrency: 100 } }
            ],
            circuit: { failures: 100_000 },
            recovery: { classes: { timeout: { cooldown: "0 millis" }, server_error: { cooldown: "0 millis" } } }
          }
        }
      }).pipe(Effect.provideService(Metric.FiberRuntimeMetrics, metrics))
      const options = { port, model: "storm", streams: 30, leaving: 0.3, leaveWithin: 120, seed: "storm" }

      yield* Storm.run({ ...options, millis: 1000 })
      const quiet = Effect.gen(function*() {
        yield* Effect.timeout(Effect.all([openai.awaitIdle, anthropic.awaitIdle]), "1 second")
        while (sockets() > 0) yield* Effect.sleep("5 millis")
        // What is cleared soon, is.
        yield* Effect.sleep("200 millis")
        return { fibers: alive(), timers: timers(), heap: heapMiB() }
      })
      const before = yield* quiet
      const tally = yield* Storm.run({ ...options, seed: "again", millis: 6000, least: 400 })
      const after = yield* quiet

      assert.deepStrictEqual([tally.short, tally.lost], [0, 0])
      assert.isAbove(tally.complete, 100)
      assert.isAbove(tally.failed, 10)
      assert.isAbove(tally.left, 100)
      assert.isBelow(tally.longest, 5000)
      assert.isAbove(most(), 50)
      assert.deepStrictEqual([after.fibers, sockets()], [before.fibers, 0])
      assert.isAtMost(after.timers, before.timers)
      assert.isBelow(after.heap - before.heap, 10)
      const status = yield* gateway.status
      assert.strictEqual(status.inFlight, 0)
      for (const { inFlight, key, waiting } of status.limits) {
        assert.deepStrictEqual([key, inFlight, waiting], [key, 0, 0])
      }
      for (const { probes } of status.circuits) {
        assert.strictEqual(probes, 0)
      }
    }), 30_000)
})
