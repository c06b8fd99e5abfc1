import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { LLMError, LLMService, Provider, type RateLimiter, Resilience, Router, Target } from "breakwater"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Clock, Duration, Effect, Fiber, Layer, Random, References, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import * as Quotas from "../../src/internal/providerServer/quota.ts"

/** What a provider with a quota saw, after the warm-up. */
interface Seen {
  served: number
  tokens: number
  refused: number
}

interface Scenario {
  readonly quota: Quotas.Limits
  readonly configured: RateLimiter.Limits
  readonly countRejected?: boolean
  /** Calls offered a second. */
  readonly rate: number
  readonly minutes: number
  readonly warmUpMinutes?: number
  /** Input and output tokens of a call. */
  readonly sizes: ReadonlyArray<readonly [input: number, output: number]>
  readonly latencyMs?: readonly [number, number]
  readonly seed: number
}

interface Outcome {
  readonly size: number
  readonly answered: boolean
  readonly waitedMs: number
  readonly measured: boolean
}

/** A provider in virtual time whose quota is kept by the rules of `ProviderServer`. */
const quotaProvider = (scenario: Scenario, seen: Seen, measuredFrom: number): Provider.Adapter => {
  const rules = Quotas.decode(scenario.quota)
  let state = Quotas.initial(rules, 0)
  const [least, most] = scenario.latencyMs ?? [200, 2000]
  return {
    stream: () => Stream.die("not asked"),
    complete: (target, request) =>
      Effect.gen(function*() {
        // The way there takes a while, and not always the same.
        yield* Effect.sleep(yield* Random.nextIntBetween(5, 40))
        const now = yield* Clock.currentTimeMillis
        const input = Math.ceil(JSON.stringify(request.prompt).length / 4)
        const tokens = { input, output: request.maxTokens ?? 0 }
        const [next, refusal] = Quotas.admit(rules, state, tokens, now, scenario.countRejected ?? false)
        state = next
        if (refusal !== undefined) {
          if (now >= measuredFrom) seen.refused++
          return yield* new LLMError.RateLimitError({
            provider: target.provider,
            model: target.model,
            target: target.id,
            reason: "rate_limit",
            scope: "model",
            status: 429,
            retryAfter: refusal.wait === undefined ? undefined : Duration.millis(refusal.wait)
          })
        }
        if (now >= measuredFrom) {
          seen.served++
          seen.tokens += tokens.input + tokens.output
        }
        yield* Effect.sleep(yield* Random.nextIntBetween(least, most))
        state = Quotas.settle(rules, state, tokens, tokens, yield* Clock.currentTimeMillis)
        return {
          content: [Response.makePart("text", { text: "ok" })],
          usage: new Response.Usage({
            inputTokens: { uncached: input, total: input, cacheRead: undefined, cacheWrite: undefined },
            outputTokens: { total: tokens.output, text: tokens.output, reasoning: undefined }
          }),
          finishReason: "stop" as const,
          model: target.model,
          requestId: undefined
        }
      })
  }
}

const simulate = (scenario: Scenario) =>
  Effect.gen(function*() {
    const seen: Seen = { served: 0, tokens: 0, refused: 0 }
    const warmUp = (scenario.warmUpMinutes ?? 1) * 60_000
    const end = scenario.minutes * 60_000
    const adapter = quotaProvider(scenario, seen, warmUp)
    const target = Target.make({ provider: "p", model: "m", limits: scenario.configured })
    const service = Router.layer({ targets: [target], patience: 0 }).pipe(
      Layer.provide(Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names: ["p"] }))),
      Layer.provide(Resilience.layerMemory())
    )
    const outcomes: Array<Outcome> = []
    const call = Effect.fnUntraced(function*(llm: LLMService.LLMService["Service"], size: number) {
      const [input, output] = scenario.sizes[size] ?? [10, 10]
      const prompt = "x".repeat(Math.max(4, input * 4 - 200))
      const at = yield* Clock.currentTimeMillis
      const result = yield* Effect.result(llm.complete({ prompt, maxTokens: output, deadline: "60 seconds" }))
      outcomes.push({
        size,
        answered: result._tag === "Success",
        waitedMs: result._tag === "Success" ? result.success.timings.waitedMs : 0,
        measured: at >= warmUp
      })
    })
    yield* Effect.gen(function*() {
      const llm = yield* LLMService.LLMService
      const fibers = new Set<Fiber.Fiber<unknown>>()
      const step = 100
      let next = 0
      for (let now = 0; now < end; now += step) {
        // Arrivals and sizes are random and independent, as those of many callers are.
        while (next < now + step) {
          const size = yield* Random.nextIntBetween(0, scenario.sizes.length, { halfOpen: true })
          fibers.add(yield* Effect.forkChild(call(llm, size)))
          next += -Math.log(1 - (yield* Random.next)) * 1000 / scenario.rate
        }
        yield* TestClock.adjust(step)
      }
      yield* TestClock.adjust("2 minutes")
      yield* Fiber.joinAll(fibers)
    }).pipe(Effect.provide(service), Effect.provideService(References.MinimumLogLevel, "None"))
    const measuredMs = end - warmUp
    const quota = scenario.quota.requests?.limit ?? Number.POSITIVE_INFINITY
    const tokenQuota = scenario.quota.tokens?.limit ?? Number.POSITIVE_INFINITY
    const measured = outcomes.filter((_) => _.measured)
    const waits = measured.filter((_) => _.answered).map((_) => _.waitedMs).sort((a, b) => a - b)
    return {
      // The dimension that binds says how much of the quota was used.
      goodput: Math.max(seen.served / (quota * measuredMs / 60_000), seen.tokens / (tokenQuota * measuredMs / 60_000)),
      refused: seen.refused / (seen.served + seen.refused),
      p99WaitMs: waits[Math.floor(waits.length * 0.99)] ?? 0,
      answeredBySize: scenario.sizes.map((_, size) => {
        const of = measured.filter((_) => _.size === size)
        return of.filter((_) => _.answered).length / of.length
      })
    }
  }).pipe(Random.withSeed(scenario.seed))

const perMinute = (limit: number) => ({ limit, per: "1 minute" as const })

describe("goodput of the whole stack, in virtual time", () => {
  for (const load of [2, 5]) {
    it.effect(`${load} times the quota: at least 99 % of it is used, less than 0.1 % is refused, nobody waits too long`, () =>
      Effect.gen(function*() {
        const report = yield* simulate({
          quota: { requests: perMinute(300) },
          configured: { requests: perMinute(300) },
          rate: 5 * load,
          minutes: 10,
          sizes: [[100, 100]],
          seed: load
        })
        assert.isAtLeast(report.goodput, 0.99)
        assert.isBelow(report.refused, 0.001)
        assert.isAtMost(report.p99WaitMs, 15_000)
      }))
  }

  it.effect("large calls are served as often as small ones", () =>
    Effect.gen(function*() {
      const report = yield* simulate({
        quota: { tokens: perMinute(150_000) },
        configured: { tokens: perMinute(150_000) },
        rate: 5,
        minutes: 30,
        sizes: [[200, 100], [200, 100], [200, 100], [4000, 2000]],
        seed: 3
      })
      assert.isAtLeast(report.goodput, 0.99)
      assert.isBelow(report.refused, 0.001)
      const [a = 0, b = 0, c = 0, large = 0] = report.answeredBySize
      const ratio = large / ((a + b + c) / 3)
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
            rate: 10,
            minutes: 15,
            warmUpMinutes: 3,
            sizes: [[100, 100]],
            seed: 5
          })
          assert.isAtLeast(report.goodput, 0.97)
          assert.isBelow(report.refused, 0.02)
        }))
    }
  }
})

describe("goodput over real HTTP", () => {
  // Sockets need real time: three seconds of twice the load, against a server that keeps its quota exactly.
  it.live("twice the quota of a server: nearly all of it is used, nearly nothing is refused", () =>
    Effect.gen(function*() {
      const requests = { limit: 40, per: "1 second" } as const
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
