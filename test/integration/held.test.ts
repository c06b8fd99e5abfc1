import { assert, describe, it } from "@effect/vitest"
import {
  ClientThrottle,
  Hedging,
  type LLMError,
  LLMService,
  Provider,
  Resilience,
  Retry,
  RetryBudget,
  Router,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Random, References, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Held from "../support/Held.ts"

const { cut, fail, reply, stall } = TestProvider

const ids = ["p/a", "p/b", "q/a"]

const pick = <A>(values: readonly [A, ...ReadonlyArray<A>]) =>
  Effect.map(Random.nextIntBetween(0, values.length, { halfOpen: true }), (index) => values[index] ?? values[0])

const stated = (millis: number): Partial<LLMError.Fields> => ({ retryAfter: Duration.millis(millis) })

const anyStep = Effect.gen(function*() {
  const delay = yield* Random.nextIntBetween(0, 3000)
  return yield* pick<TestProvider.Step>([
    reply(["a", "b", "c"], { delay, gap: delay / 3 }),
    reply("ok", { delay }),
    fail("rate_limit", { reason: "rate_limit", scope: "model", status: 429, ...stated(delay) }, { delay }),
    fail("server_error", { reason: "overloaded", scope: "provider", status: 503 }, { delay }),
    fail("transient_network", { reason: "conn_reset", scope: "provider" }, { after: ["a"], gap: delay }),
    fail("permanent", { reason: "content_filter", scope: "model", status: 400 }, { delay }),
    cut(["a"], { delay }),
    stall(["a"], { delay }),
    stall()
  ])
})

type Work = Effect.Effect<
  unknown,
  LLMError.LLMError,
  LLMService.LLMService | Provider.Provider | Router.Router
>

const complete = (request: LLMService.CompletionRequest): Work =>
  Effect.flatMap(LLMService.LLMService, (llm) => llm.complete(request))

const stream = (request: LLMService.CompletionRequest, most = Number.POSITIVE_INFINITY): Work =>
  Effect.flatMap(LLMService.LLMService, (llm) => Stream.runDrain(Stream.take(llm.stream(request), most)))

/** An effect that asks the provider itself, and for some time cannot be interrupted. */
const execute = (request: LLMService.CompletionRequest, stubborn: Duration.Input = 0): Work => {
  const { deadline, prompt, tenant } = request
  return Effect.flatMap(Provider.Provider, (providers) =>
    Router.execute(
      (target) =>
        Effect.andThen(
          Effect.uninterruptible(Effect.sleep(stubborn)),
          providers.adapter(target.provider)?.complete(target, { prompt }) ?? Effect.die("there is no adapter")
        ),
      { deadline, tenant, tokens: { input: 1, output: request.maxTokens ?? 10 } }
    ))
}

/** Forty calls of any kind, most of them ended early by somebody, over targets of which hardly any behaves. */
const storm = (count: ReturnType<typeof Held.make>["count"]) =>
  Effect.gen(function*() {
    const provider = yield* TestProvider.TestProvider
    for (const id of ids) yield* provider.script(id, yield* Effect.all(Array.from({ length: 30 }, () => anyStep)))
    const call = Effect.gen(function*() {
      yield* Effect.sleep(yield* Random.nextIntBetween(0, 20_000))
      const deadline = yield* Random.nextIntBetween(1, 30_000)
      const maxTokens = yield* Random.nextIntBetween(1, 400)
      const streamPolicy = yield* pick<LLMService.StreamPolicy>(["fail", "restart", "continue", "buffer"])
      const request = { prompt: "hi", maxTokens, deadline, tenant: "t", streamPolicy }
      const taken = yield* Random.nextIntBetween(1, 6)
      const work = yield* pick([
        complete(request),
        stream(request),
        stream(request, taken),
        execute(request, yield* pick([0, 0, 50, 500]))
      ])
      const fiber = yield* Effect.forkChild(Effect.exit(count(work)))
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

/** Hedges whatever is slow, as far as the budgets go. */
const eager = (delay: Duration.Input): Hedging.Options => ({
  delay,
  maxHedges: 2,
  maxExtraLoad: 1,
  minHealth: 0,
  maxUtilisation: 1
})

const hedging = (options: Hedging.Options | undefined): Layer.Layer<never> | Layer.Layer<Hedging.Hedging> =>
  options === undefined ? Layer.empty : Hedging.layerMemory(options)

const stormWith = (hedge: Hedging.Options | undefined) =>
  Effect.gen(function*() {
    const total = { asked: 0, hedges: 0 }
    for (let seed = 0; seed < 40; seed++) {
      const held = Held.make()
      yield* Effect.gen(function*() {
        yield* held.watching
        yield* storm(held.count)
        const provider = yield* TestProvider.TestProvider
        total.asked += (yield* provider.calls).length
        total.hedges += held.counts.hedges
        yield* held.nothingHeld(`seed ${seed}`)
      }).pipe(
        Effect.provide(
          Router.layer({
            targets: ids.map((id) => {
              const [provider = "", model = ""] = id.split("/")
              return Target.make({
                provider,
                model,
                capabilities: { prefill: provider === "p" },
                limits: { concurrency: 2, requests: { limit: 60, per: "1 minute" } }
              })
            }),
            strategy: held.strategy,
            limits: { all: { concurrency: 3 }, tenants: { t: { tokens: { limit: 20_000, per: "1 minute" } } } },
            timeouts: { attempt: "4 seconds", firstToken: "3 seconds", idle: "3 seconds" }
          }).pipe(Layer.provideMerge(Layer.mergeAll(
            TestProvider.layer(),
            hedging(hedge),
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
    return total
  })

/** What is asked, and of whom. */
interface Case {
  readonly work: Work
  readonly scripts: Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>
  readonly targets: ReadonlyArray<string>
  readonly hedge: Hedging.Options | undefined
  /** Most requests that a provider refuses. */
  readonly refusals: 0 | 1
  /** A seed by which the throttle sends what is retried. */
  readonly seed: number
}

/** What the throttle sheds after so many refusals of as many requests; one more would be one that nobody settled. */
const shed = [0, 0.4, 0.55]

/** Whether the call had ended by then; what it held must be free either way. */
const interruptedAfter = (turns: number, name: string, { hedge, refusals, scripts, seed, targets, work }: Case) => {
  const held = Held.make()
  return Effect.gen(function*() {
    const throttle = yield* ClientThrottle.ClientThrottle
    const provider = yield* TestProvider.TestProvider
    const clock = yield* Effect.service(Clock.Clock)
    yield* held.watching
    // A backoff is over at the fiber's next turn; the limits of time never are.
    const hasty: Clock.Clock = Object.create(clock, {
      sleep: {
        value: (duration: Duration.Duration) =>
          Duration.toMillis(duration) < 100 ? Effect.yieldNow : clock.sleep(duration)
      }
    })
    const fiber = yield* Effect.forkChild(
      held.count(work).pipe(
        Effect.provideService(References.MaxOpsBeforeYield, 3),
        Effect.provideService(Clock.Clock, hasty)
      )
    )
    for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
    const ended = fiber.pollUnsafe()
    yield* Fiber.interrupt(fiber)
    const where = `${name}, turn ${turns}`
    assert.strictEqual(Exit.isSuccess(yield* Fiber.await(fiber)), ended !== undefined, where)
    yield* TestClock.adjust("1 minute")
    const seen = (yield* provider.calls).length === 0 ? 0 : refusals
    for (const { probability, refused } of yield* throttle.snapshot) {
      assert.isAtMost(probability, shed[seen + refused] ?? 0, where)
    }
    yield* held.nothingHeld(where)
    return { ended: ended !== undefined, hedges: held.counts.hedges }
  }).pipe(
    Effect.provide(
      Router.layer({
        targets: targets.map((id) => {
          const [provider = "", model = ""] = id.split("/")
          return Target.make({ provider, model, limits: { concurrency: 1 }, capabilities: { prefill: true } })
        }),
        strategy: held.strategy,
        retry: Retry.exponential({ base: "10 millis", jitter: "none" })
      }).pipe(Layer.provideMerge(Layer.mergeAll(
        TestProvider.layer(scripts),
        hedging(hedge),
        Resilience.layerMemory({ retryBudget: { policy: RetryBudget.concurrent() } }),
        ClientThrottle.layerMemory({ minRequests: 0 })
      )))
    ),
    Random.withSeed(seed),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
}

/** Interrupts after each of the first turns and then after every fifth one; returns how many there are, and the most hedges that one call made. */
const afterEachTurn = (name: string, of: Case) =>
  Effect.gen(function*() {
    let hedges = 0
    for (let turns = 0;; turns += turns < 120 ? 1 : 5) {
      const run = yield* interruptedAfter(turns, name, of)
      hedges = Math.max(hedges, run.hedges)
      if (run.ended) return { turns, hedges }
      if (turns > 2000) return yield* Effect.die(`${name} does not end`)
    }
  })

const request: LLMService.CompletionRequest = { prompt: "hi", maxTokens: 10 }

const goesOn = (streamPolicy: LLMService.StreamPolicy): Work => stream({ ...request, streamPolicy })

const reset = fail("transient_network", { reason: "conn_reset", scope: "target" })

const races = {
  "the hedge wins": { scripts: { "p/a": [stall()], "q/b": [reply("ok")] }, refusals: 0 },
  "both answer at once": { scripts: { "*": [reply("ok", { delay: 20 })] }, refusals: 0 },
  "the hedge fails": { scripts: { "p/a": [reply("ok", { delay: 20, gap: 20 })], "*": [reset] }, refusals: 1 },
  "both fail": { scripts: { "p/a": [reset, reply("ok")], "*": [reset] }, refusals: 1 },
  "the hedge wins and breaks": {
    scripts: { "p/a": [stall()], "q/b": [cut(["a "]), reply("ok")] },
    refusals: 1
  }
} as const

/** Kinds of calls, and the races that say something about each. */
const works: ReadonlyArray<readonly [string, Work, ReadonlyArray<"none" | keyof typeof races>]> = [
  ["complete", complete(request), ["none", "the hedge wins", "both answer at once", "the hedge fails", "both fail"]],
  ["execute", execute(request), ["none", "the hedge wins", "both answer at once", "the hedge fails", "both fail"]],
  ["stream", stream(request), ["none", "the hedge wins", "both answer at once", "the hedge fails", "both fail"]],
  ["stream, buffer", goesOn("buffer"), ["the hedge wins", "both answer at once"]],
  ["stream, restart", goesOn("restart"), ["the hedge wins and breaks"]],
  ["stream, continue", goesOn("continue"), ["the hedge wins and breaks"]]
]

describe("what a call holds", () => {
  it.effect(
    "is all given back, whatever happens to it and whenever it is interrupted (T16, T18, T23, T38)",
    () => Effect.map(stormWith(undefined), ({ asked }) => assert.isAbove(asked, 1000)),
    60_000
  )

  it.effect(
    "is all given back when calls are hedged, the hedges not least",
    () =>
      Effect.map(stormWith(eager("100 millis")), ({ asked, hedges }) => {
        assert.isAbove(asked, 1000)
        assert.isAbove(hedges, 80)
      }),
    60_000
  )

  for (const [name, work, itsRaces] of works) {
    for (const race of itsRaces) {
      const what = race === "none" ? "a call that retries" : `a race: ${race}`
      it.effect(
        `is given back wherever an interruption falls: after any turn of ${what} (T18, T23): ${name}`,
        () =>
          Effect.gen(function*() {
            const { hedges, turns } = yield* afterEachTurn(
              `${name}, ${race}`,
              race === "none"
                ? {
                  work,
                  scripts: { "p/a": [reset, reply("ok")] },
                  targets: ["p/a"],
                  hedge: undefined,
                  refusals: 1,
                  seed: 1
                }
                : { work, targets: ["p/a", "q/b", "r/c"], hedge: eager("10 millis"), seed: 3, ...races[race] }
            )
            assert.isAbove(turns, 50)
            assert.strictEqual(hedges > 0, race !== "none")
          }),
        60_000
      )
    }
  }

  it.effect(
    "is not held for the whole of a stream by another one whose content came at the same time",
    () =>
      Effect.gen(function*() {
        for (let operations = 3; operations < 60; operations++) {
          for (let lead = -6; lead <= 6; lead++) {
            yield* Effect.gen(function*() {
              const provider = yield* TestProvider.TestProvider
              const llm = yield* LLMService.LLMService
              const clock = yield* Effect.service(Clock.Clock)
              const begin = yield* Clock.currentTimeMillis
              /** What is to last for some milliseconds lasts for so many turns. */
              const turning: Clock.Clock = Object.create(clock, {
                sleep: {
                  value: (duration: Duration.Duration) => {
                    const turns = Duration.toMillis(duration)
                    return turns < 1000 ? Effect.repeat(Effect.yieldNow, { times: turns }) : clock.sleep(duration)
                  }
                }
              })
              const content = llm.stream(request).pipe(Stream.filter((part) => part.type === "text-delta"))
              const taken: Array<LLMService.StreamPart> = []
              const fiber = yield* Effect.forkChild(
                Stream.runForEach(content, (part) => Effect.sync(() => taken.push(part))).pipe(
                  Effect.provideService(References.MaxOpsBeforeYield, operations),
                  Effect.provideService(Clock.Clock, turning)
                )
              )
              for (let turn = 0; turn < 2000 && taken.length === 0; turn++) yield* Effect.yieldNow
              for (let turn = 0; turn < 200; turn++) yield* Effect.yieldNow
              const where = `${operations} operations a turn, ${lead} turns ahead`
              assert.strictEqual(taken.length, 1, where)
              assert.strictEqual(yield* provider.inFlight, 1, where)
              yield* Fiber.interrupt(fiber)
              assert.strictEqual(yield* provider.inFlight, 0, where)
              assert.strictEqual(yield* Clock.currentTimeMillis, begin)
            }).pipe(Effect.provide(
              Router.layer({ targets: ["p/a", "q/b"].map((id) => Target.make({ provider: id, model: id })) }).pipe(
                Layer.provideMerge(Layer.mergeAll(
                  TestProvider.layer({
                    "p/a/p/a": [stall(["a"], { delay: 40 })],
                    "q/b/q/b": [stall(["b"], { delay: 30 + lead })]
                  }),
                  hedging(eager(10)),
                  Resilience.layerMemory()
                ))
              )
            ))
          }
        }
      }),
    60_000
  )
})
