import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  type LLMError,
  LLMService,
  RateLimiter,
  Resilience,
  RetryBudget,
  Router,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Fiber, Layer, Random, References, Stream } from "effect"
import { TestClock } from "effect/testing"

const ids = ["p/a", "p/b", "q/a"]

const pick = <A>(values: readonly [A, ...ReadonlyArray<A>]) =>
  Effect.map(Random.nextIntBetween(0, values.length, { halfOpen: true }), (index) => values[index] ?? values[0])

const stated = (millis: number): Partial<LLMError.Fields> => ({ retryAfter: Duration.millis(millis) })

const anyStep = Effect.gen(function*() {
  const delay = yield* Random.nextIntBetween(0, 3000)
  return yield* pick<TestProvider.Step>([
    TestProvider.reply(["a", "b", "c"], { delay, gap: delay / 3 }),
    TestProvider.reply("ok", { delay }),
    TestProvider.fail("rate_limit", { reason: "rate_limit", scope: "model", status: 429, ...stated(delay) }, { delay }),
    TestProvider.fail("server_error", { reason: "overloaded", scope: "provider", status: 503 }, { delay }),
    TestProvider.fail("transient_network", { reason: "conn_reset", scope: "provider" }, { after: ["a"], gap: delay }),
    TestProvider.fail("permanent", { reason: "content_filter", scope: "model", status: 400 }, { delay }),
    TestProvider.cut(["a"], { delay }),
    TestProvider.stall(["a"], { delay }),
    TestProvider.stall()
  ])
})

/** Forty calls of any kind, most of them ended early by somebody, over targets of which hardly any behaves. */
const storm = Effect.gen(function*() {
  const llm = yield* LLMService.LLMService
  const provider = yield* TestProvider.TestProvider
  for (const id of ids) yield* provider.script(id, yield* Effect.all(Array.from({ length: 30 }, () => anyStep)))
  const call = Effect.gen(function*() {
    yield* Effect.sleep(yield* Random.nextIntBetween(0, 20_000))
    const deadline = yield* Random.nextIntBetween(1, 30_000)
    const request = { prompt: "hi", maxTokens: yield* Random.nextIntBetween(1, 400), deadline, tenant: "t" }
    const taken = yield* Random.nextIntBetween(1, 6)
    const work = yield* pick<Effect.Effect<unknown, LLMError.LLMError>>([
      llm.complete(request),
      Stream.runDrain(llm.stream(request)),
      Stream.runDrain(Stream.take(llm.stream(request), taken))
    ])
    const fiber = yield* Effect.forkChild(Effect.exit(work))
    if ((yield* Random.next) < 0.5) {
      yield* Effect.sleep(yield* Random.nextIntBetween(0, 10_000))
      yield* Fiber.interrupt(fiber)
    }
    yield* Fiber.await(fiber)
  })
  const fibers = yield* Effect.forEach(Array.from({ length: 40 }), () => Effect.forkChild(call))
  for (let step = 0; step < 300; step++) yield* TestClock.adjust("250 millis")
  yield* Fiber.joinAll(fibers)
})

describe("what a call holds", () => {
  it.effect(
    "is all given back, whatever happens to it and whenever it is interrupted (T16, T18, T23, T38)",
    () =>
      Effect.gen(function*() {
        let asked = 0
        for (let seed = 0; seed < 40; seed++) {
          yield* Effect.gen(function*() {
            yield* storm
            const provider = yield* TestProvider.TestProvider
            const limiter = yield* RateLimiter.RateLimiter
            const circuits = yield* CircuitBreaker.CircuitBreaker
            asked += (yield* provider.calls).length
            assert.strictEqual(yield* provider.inFlight, 0)
            for (const snapshot of yield* limiter.snapshot) {
              assert.deepStrictEqual([snapshot.key, snapshot.inFlight, snapshot.waiting], [snapshot.key, 0, 0])
            }
            const budget = yield* RetryBudget.RetryBudget
            for (const entry of yield* budget.snapshot) assert.strictEqual(entry.available, 3, entry.key)
            for (const circuit of yield* circuits.snapshot) {
              assert.deepStrictEqual([circuit.key, circuit.probes], [circuit.key, 0])
            }
          }).pipe(
            Effect.provide(
              Router.layer({
                targets: ids.map((id) => {
                  const [provider = "", model = ""] = id.split("/")
                  return Target.make({
                    provider,
                    model,
                    limits: { concurrency: 2, requests: { limit: 60, per: "1 minute" } }
                  })
                }),
                limits: { all: { concurrency: 3 }, tenants: { t: { tokens: { limit: 20_000, per: "1 minute" } } } },
                timeouts: { attempt: "4 seconds", firstToken: "3 seconds", idle: "3 seconds" }
              }).pipe(Layer.provideMerge(Layer.merge(
                TestProvider.layer(),
                Resilience.layerMemory({
                  circuit: { open: "3 seconds", ramp: { window: "5 seconds" } },
                  retryBudget: { policy: RetryBudget.concurrent() }
                })
              )))
            ),
            Random.withSeed(seed),
            Effect.provideService(References.MinimumLogLevel, "None")
          )
        }
        assert.isAbove(asked, 1000)
      }),
    30_000
  )
})
