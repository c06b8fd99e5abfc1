import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  ClientThrottle,
  type LLMError,
  LLMService,
  RateLimiter,
  Resilience,
  Retry,
  RetryBudget,
  Router,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Random, References, Stream } from "effect"
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

/** Whether the call had ended by then; what it held must be free either way. */
const interruptedAfter = (turns: number, kind: "complete" | "stream") =>
  Effect.gen(function*() {
    const llm = yield* LLMService.LLMService
    const provider = yield* TestProvider.TestProvider
    const limiter = yield* RateLimiter.RateLimiter
    const circuits = yield* CircuitBreaker.CircuitBreaker
    const budget = yield* RetryBudget.RetryBudget
    const throttle = yield* ClientThrottle.ClientThrottle
    const clock = yield* Effect.service(Clock.Clock)
    // A backoff is over at the fiber's next turn; the limits of time never are.
    const hasty: Clock.Clock = Object.create(clock, {
      sleep: {
        value: (duration: Duration.Duration) =>
          Duration.toMillis(duration) < 100 ? Effect.yieldNow : clock.sleep(duration)
      }
    })
    yield* provider.script("p/a", [
      TestProvider.fail("transient_network", { reason: "conn_reset", scope: "target" }),
      TestProvider.reply("ok")
    ])
    const request = { prompt: "hi", maxTokens: 10 }
    const call = kind === "complete" ? Effect.asVoid(llm.complete(request)) : Stream.runDrain(llm.stream(request))
    const fiber = yield* Effect.forkChild(call.pipe(
      Effect.provideService(References.MaxOpsBeforeYield, 3),
      Effect.provideService(Clock.Clock, hasty)
    ))
    for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
    const ended = fiber.pollUnsafe() !== undefined
    yield* Fiber.interrupt(fiber)
    const where = `${kind}, turn ${turns}`
    assert.strictEqual(Exit.isSuccess(yield* Fiber.await(fiber)), ended, where)
    yield* TestClock.adjust("1 minute")
    assert.strictEqual(yield* provider.inFlight, 0, where)
    for (const entry of yield* limiter.snapshot) assert.strictEqual(entry.inFlight, 0, where)
    for (const entry of yield* circuits.snapshot) assert.strictEqual(entry.probes, 0, where)
    for (const entry of yield* budget.snapshot) assert.strictEqual(entry.available, 3, where)
    // The provider has refused one request of one at most; two of two would be one that nobody settled.
    const most = (yield* provider.calls).length === 0 ? 0 : 0.4
    for (const entry of yield* throttle.snapshot) assert.isAtMost(entry.probability, most, where)
    return ended
  }).pipe(
    Effect.provide(
      Router.layer({
        targets: [Target.make({ provider: "p", model: "a", limits: { concurrency: 1 } })],
        retry: Retry.exponential({ base: "10 millis", jitter: "none" })
      }).pipe(Layer.provideMerge(Layer.mergeAll(
        TestProvider.layer(),
        Resilience.layerMemory({ retryBudget: { policy: RetryBudget.concurrent() } }),
        ClientThrottle.layerMemory({ minRequests: 0 })
      )))
    ),
    // A seed by which the throttle sends the retry.
    Random.withSeed(1),
    Effect.provideService(References.MinimumLogLevel, "None")
  )

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

  it.effect(
    "is given back wherever an interruption falls: after any turn of a call that retries (T18, T23)",
    () =>
      Effect.gen(function*() {
        for (const kind of ["complete", "stream"] as const) {
          let turns = 0
          while (!(yield* interruptedAfter(turns, kind))) turns++
          assert.isAbove(turns, 50)
        }
      }),
    30_000
  )
})
