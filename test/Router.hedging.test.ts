import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Cooldown,
  Events,
  Health,
  Hedging,
  LLMError,
  LLMService,
  Provider,
  RateLimiter,
  Resilience,
  Retry,
  RetryBudget,
  Router,
  Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, type Duration, Effect, Exit, Fiber, Layer, Option, Stream } from "effect"
import { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"

const target = (id: string, options: Partial<Target.Options> = {}): Target.Target => {
  const [provider = "", model = ""] = id.split("/")
  return Target.make({ provider, model, price: { input: 1, output: 2 }, ...options })
}

const a = target("p/a")
const b = target("q/b")
const c = target("r/c")

const { cut, fail, reply, stall } = TestProvider

/** Answers long after any hedge. */
const slow = reply("slow", { delay: "20 seconds" })
const quick = reply("quick", { delay: "100 millis" })

const wrongKey = (delay: Duration.Input) =>
  fail("authentication", { reason: "invalid_key", scope: "key", status: 401 }, { delay })
const poison = (delay: Duration.Input) =>
  fail("permanent", { reason: "content_filter", scope: "model", status: 400 }, { delay })
const down = (delay: Duration.Input) =>
  fail("server_error", { reason: "internal_error", scope: "target", status: 500 }, { delay })

type Kind = "complete" | "stream" | "execute"
const kinds: ReadonlyArray<Kind> = ["complete", "stream", "execute"]

/** Hedges every call after a second, as far as nothing else is against it. */
const eager: Hedging.Options = { delay: "1 second", maxExtraLoad: 1 }

interface Options extends Partial<Router.Options>, Resilience.MemoryOptions {
  readonly hedge?: Hedging.Options | undefined
}

const withRouter = (
  scripts: Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>,
  { hedge = eager, targets = [a, b], ...options }: Options = {}
) =>
  Router.layer({ targets, ...options }).pipe(Layer.provideMerge(
    Layer.mergeAll(TestProvider.layer(scripts), Resilience.layerMemory(options), Hedging.layerMemory(hedge))
  ))

const execute = (options: Router.ExecuteOptions<Provider.Reply, LLMError.LLMError> = {}) =>
  Effect.flatMap(Provider.Provider, (providers) =>
    Router.execute(
      (target) =>
        providers.adapter(target.provider)?.complete(target, { prompt: "hi" }) ?? Effect.die("there is no adapter"),
      { tokens: { input: 10, output: 100 }, ...options }
    ))

type Request = Pick<LLMService.CompletionRequest, "deadline" | "idempotent" | "streamPolicy" | "tags" | "tenant">

const request = (options: Request): LLMService.CompletionRequest => ({ prompt: "hi", maxTokens: 100, ...options })

/** The text of an answer. */
const ask = (
  kind: Kind,
  options: Request = {}
): Effect.Effect<string, LLMError.LLMError, LLMService.LLMService | Provider.Provider | Router.Router> => {
  switch (kind) {
    case "complete":
      return Effect.flatMap(
        LLMService.LLMService,
        (llm) => Effect.map(llm.complete(request(options)), (completion) => completion.text)
      )
    case "stream":
      return Effect.flatMap(
        LLMService.LLMService,
        (llm) => Effect.map(Stream.runCollect(llm.stream(request(options))), textOf)
      )
    case "execute": {
      const { streamPolicy: _, ...shared } = options
      return Effect.map(
        execute(shared),
        ({ content }) => content.map((part) => part.type === "text" ? part.text : "").join("")
      )
    }
  }
}

const textOf = (parts: Iterable<LLMService.StreamPart>): string =>
  Array.from(parts, (part) => part.type === "text-delta" ? part.delta : "").join("")

/** Runs an effect while the virtual time goes on, until it has ended; returns how and after how many milliseconds. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>, step: Duration.Input = "50 millis") =>
  Effect.gen(function*() {
    const begin = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(Effect.exit(effect))
    for (let steps = 0; fiber.pollUnsafe() === undefined; steps++) {
      if (steps > 10_000) return yield* Effect.die("it does not end")
      yield* TestClock.adjust(step)
    }
    const now = yield* Clock.currentTimeMillis
    return { exit: yield* Fiber.join(fiber), ms: now - begin }
  })

/** The same with the event that tells of the end of the call. */
const told = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const events = yield* Events.Events
    const seen: Array<Events.CallEnded> = []
    const watching = yield* Effect.forkChild(
      Stream.runForEach(events.stream, (event) =>
        Effect.sync(() => {
          if (event._tag === "CallEnded") seen.push(event)
        })),
      { startImmediately: true }
    )
    const ended = yield* timed(effect)
    yield* TestClock.adjust(0)
    yield* Fiber.interrupt(watching)
    const [call] = seen
    if (call === undefined || seen.length > 1) return yield* Effect.die("a call ends once")
    return { ...ended, call, lines: call.attempts.map(({ chosen, outcome, target }) => [target, chosen, outcome]) }
  })

const calls = Effect.flatMap(TestProvider.TestProvider, (provider) => provider.calls)
const targetsCalled = Effect.map(calls, (all) => all.map((call) => call.target))
const inFlight = Effect.flatMap(TestProvider.TestProvider, (provider) => provider.inFlight)

/** What the two budgets of a hedge have granted and got back. */
const budgets = Effect.gen(function*() {
  const sum = (entries: ReadonlyArray<Pick<Hedging.Entry, "granted" | "refunded">>) => ({
    granted: entries.reduce((total, entry) => total + entry.granted, 0),
    refunded: entries.reduce((total, entry) => total + entry.refunded, 0)
  })
  const hedging = yield* Hedging.Hedging
  const retries = yield* RetryBudget.RetryBudget
  return { hedges: sum(yield* hedging.snapshot), retries: sum(yield* retries.snapshot) }
})

const once = { granted: 1, refunded: 0 }
const givenBack = { granted: 1, refunded: 1 }
const nothing = { granted: 0, refunded: 0 }

const scopeKey = (target: Target.Target, scope: "target" | "model"): string => Target.scopeKey(target, scope) ?? ""

const errorOf = <A>(exit: Exit.Exit<A, LLMError.LLMError>) => Option.getOrUndefined(Exit.findErrorOption(exit))

describe("Router, hedging", () => {
  describe("whether and when", () => {
    it.effect("a slow call waits for its answer where there is no Hedging", () =>
      Effect.gen(function*() {
        for (const kind of ["complete", "stream"] as const) {
          const { exit, ms } = yield* timed(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("slow"), 20_000])
        }
        assert.deepStrictEqual(yield* targetsCalled, ["p/a", "p/a"])
      }).pipe(Effect.provide(
        Router.layer({ targets: [a, b] }).pipe(
          Layer.provideMerge(Layer.merge(TestProvider.layer({ "*": [slow] }), Resilience.layerMemory()))
        )
      )))

    it.effect("the option hedge turns it on, and its absence leaves it off", () =>
      Effect.gen(function*() {
        const scripts = { "p/a": [slow], "q/b": [quick] }
        for (const [hedge, answer] of [[undefined, "slow"], [eager, "quick"]] as const) {
          const alone = Resilience.layerExecute({ targets: [a, b], hedge })
          const whole = Layer.unwrap(Effect.map(Provider.Provider, (providers) => {
            const adapter = providers.adapter("any")
            return Resilience.layer({
              targets: [a, b],
              hedge,
              providers: adapter === undefined ? {} : { p: adapter, q: adapter }
            })
          })).pipe(Layer.provide(
            Layer.succeed(HttpClient.HttpClient, HttpClient.make(() => Effect.die("no request is sent")))
          ))
          const executed = timed(ask("execute")).pipe(
            Effect.provide(Layer.merge(alone, Layer.mock(LLMService.LLMService, {})))
          )
          const completed = timed(ask("complete")).pipe(Effect.provide(whole))
          for (const run of [executed, completed]) {
            const { exit } = yield* Effect.provide(run, TestProvider.layer(scripts))
            assert.deepStrictEqual(exit, Exit.succeed(answer))
          }
        }
      }))

    for (const kind of kinds) {
      it.effect(`${kind}: after enough calls a slow one is joined by another target at the observed p95`, () =>
        Effect.gen(function*() {
          const provider = yield* TestProvider.TestProvider
          // In no order: 100 ms to 2 s, of which 19 of 20 are at most 1.9 s.
          const delays = Array.from({ length: 20 }, (_, index) => 100 * ((index * 7) % 20 + 1))
          yield* provider.script("p/a", delays.map((delay) => reply("ok", { delay })))
          for (let call = 0; call < 19; call++) {
            assert.deepStrictEqual((yield* timed(ask(kind))).exit, Exit.succeed("ok"))
          }
          yield* provider.script("p/a", [reply("ok", { delay: delays.at(-1) ?? 0 }), slow])
          assert.strictEqual((yield* timed(ask(kind))).ms, delays.at(-1))
          assert.deepStrictEqual(new Set(yield* targetsCalled), new Set(["p/a"]))
          const { call, exit, lines, ms } = yield* told(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("quick"), 2000])
          assert.deepStrictEqual(lines, [["p/a", "first", "interrupted"], ["q/b", "hedge", "success"]])
          assert.deepStrictEqual(call.attempts.map((_) => [_.startedMs, _.durationMs]), [[0, 2000], [1900, 100]])
        }).pipe(Effect.provide(withRouter({ "q/b": [quick] }, { hedge: { maxExtraLoad: 1 } }))))

      it.effect(`${kind}: too few calls hedge nothing`, () =>
        Effect.gen(function*() {
          const provider = yield* TestProvider.TestProvider
          yield* provider.script("p/a", [...Array.from({ length: 19 }, () => quick), slow])
          for (let call = 0; call < 19; call++) yield* timed(ask(kind))
          assert.deepStrictEqual((yield* timed(ask(kind))).exit, Exit.succeed("slow"))
          assert.strictEqual((yield* calls).length, 20)
        }).pipe(Effect.provide(withRouter({ "q/b": [quick] }, { hedge: { maxExtraLoad: 1 } }))))
    }

    it.effect("the observed delay is a second at least and 30 s at most", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        for (const [delay, hedgeAt] of [["10 millis", 1000], ["45 seconds", 30_000]] as const) {
          yield* provider.script("p/a", [...Array.from({ length: 128 }, () => reply("ok", { delay })), stall()])
          // Nothing is hedged meanwhile: the window of the budget is shorter than an answer takes, or it is not slow.
          for (let call = 0; call < 128; call++) yield* timed(ask("complete", { idempotent: false }), "5 seconds")
          const { exit, ms } = yield* timed(ask("complete"))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("quick"), hedgeAt + 100])
        }
      }).pipe(Effect.provide(withRouter({ "q/b": [quick] }, { hedge: { maxExtraLoad: 1, window: "1 minute" } }))))

    it.effect("each kind of call and each model has its own delay", () =>
      Effect.gen(function*() {
        for (let call = 0; call < 20; call++) yield* timed(ask("stream"))
        const hedging = yield* Hedging.Hedging
        assert.deepStrictEqual((yield* hedging.snapshot).map((_) => [_.key, _.delayMillis]), [["stream:p/a", 2000]])
        assert.deepStrictEqual((yield* timed(ask("complete"))).exit, Exit.succeed("ab"))
        assert.deepStrictEqual(new Set(yield* targetsCalled), new Set(["p/a"]))
      }).pipe(Effect.provide(withRouter({
        "p/a": [reply(["a", "b"], { connect: "1 second", delay: "1 second", gap: "3 seconds" })]
      }, { hedge: { maxExtraLoad: 1 } }))))
  })

  describe("who wins", () => {
    it.effect("of two streams the one whose content comes first, whichever had its headers first (he-llm-01)", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const headersFirst = reply(["a1 ", "a2"], { connect: 0, delay: "5 seconds", gap: "2 seconds" })
        yield* provider.script("p/a", [headersFirst])
        yield* provider.script("q/b", [reply(["b1 ", "b2 ", "b3"], { connect: "2 seconds", gap: "4 seconds" })])
        const { call, exit, lines, ms } = yield* told(ask("stream"))
        assert.deepStrictEqual([exit, ms], [Exit.succeed("b1 b2 b3"), 11_000])
        assert.deepStrictEqual(lines, [["p/a", "first", "interrupted"], ["q/b", "hedge", "success"]])
        // The loser is gone with the first content of the other one, long before that one's end.
        assert.strictEqual(call.attempts[0]?.durationMs, 3000)
        yield* provider.script("q/b", [reply(["b1"], { connect: 0, delay: "9 seconds" })])
        const other = yield* told(ask("stream"))
        assert.deepStrictEqual([other.exit, other.ms], [Exit.succeed("a1 a2"), 7000])
        assert.deepStrictEqual(other.lines, [["q/b", "hedge", "interrupted"], ["p/a", "first", "success"]])
      }).pipe(Effect.provide(withRouter({}))))

    it.effect("a stream whose content comes in time is not hedged, however long it is", () =>
      Effect.gen(function*() {
        const { exit, ms } = yield* timed(ask("stream"))
        assert.deepStrictEqual([exit, ms], [Exit.succeed("abc"), 20_900])
        assert.deepStrictEqual(yield* targetsCalled, ["p/a"])
      }).pipe(Effect.provide(withRouter({
        "p/a": [reply(["a", "b", "c"], { delay: "900 millis", gap: "10 seconds" })]
      }))))

    it.effect("a hedged stream hands over one answer with one finish part that has the record", () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        const { exit } = yield* timed(Stream.runCollect(llm.stream(request({}))))
        const parts = Exit.isSuccess(exit) ? Array.from(exit.value) : []
        assert.deepStrictEqual(parts.map((part) => part.type), [
          "response-metadata",
          "text-start",
          "text-delta",
          "text-delta",
          "text-end",
          "finish"
        ])
        const finish = parts.at(-1)
        const record = finish?.type === "finish" ? finish.metadata["breakwater"] : undefined
        assert.deepInclude(record, { target: "q/b", costAtLeast: true })
        assert.nestedPropertyVal(record, "attempts[0].outcome", "interrupted")
        assert.nestedPropertyVal(record, "attempts[1].chosen", "hedge")
      }).pipe(Effect.provide(withRouter({ "p/a": [stall()], "q/b": [reply("two words", { gap: "5 seconds" })] }))))

    for (const kind of ["complete", "execute"] as const) {
      it.effect(`${kind}: the one whose whole answer is there first`, () =>
        Effect.gen(function*() {
          const provider = yield* TestProvider.TestProvider
          yield* provider.script("p/a", [reply("a", { delay: "5 seconds" })])
          for (const [delay, answer, ms] of [[3900, "b", 4900], [4100, "a", 5000]] as const) {
            yield* provider.script("q/b", [reply("b", { delay })])
            const ended = yield* timed(ask(kind))
            assert.deepStrictEqual([ended.exit, ended.ms], [Exit.succeed(answer), ms])
            assert.strictEqual(yield* inFlight, 0)
          }
        }).pipe(Effect.provide(withRouter({}))))
    }
  })

  describe("the loser", () => {
    for (const kind of kinds) {
      it.effect(`${kind}: is interrupted at once and is no evidence; its line comes before the answer's`, () =>
        Effect.gen(function*() {
          const circuits = yield* CircuitBreaker.CircuitBreaker
          const health = yield* Health.Health
          const before = yield* health.score(scopeKey(a, "target"))
          const { call, exit, lines, ms } = yield* told(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("quick"), 1100])
          assert.deepStrictEqual((yield* calls).map((_) => _.outcome), ["interrupted", "success"])
          assert.strictEqual(yield* inFlight, 0)
          const [ofA, ofB] = [yield* circuits.history("target:p/a"), yield* circuits.history("target:q/b")]
          assert.deepStrictEqual(ofA.outcomes.filter((_) => _.result !== "ignored"), [])
          assert.deepStrictEqual(ofB.outcomes.map((_) => _.result), ["success"])
          assert.isUndefined(yield* health.figures(scopeKey(a, "target")))
          assert.strictEqual(yield* health.score(scopeKey(a, "target")), before)
          assert.deepInclude(yield* health.figures(scopeKey(b, "target")), { requests: 1, successes: 1, ignored: 0 })
          assert.deepStrictEqual(lines, [["p/a", "first", "interrupted"], ["q/b", "hedge", "success"]])
          assert.isTrue(call.costAtLeast)
          assert.deepStrictEqual(call.attempts.map((_) => _.maybeBilled), [true, true])
          assert.strictEqual(call.cost === undefined, kind === "execute")
          assert.deepStrictEqual(call.attempts[0]?.cost, undefined)
          assert.deepStrictEqual(yield* budgets, { hedges: once, retries: once })
        }).pipe(Effect.provide(withRouter({ "p/a": [stall()], "q/b": [quick] }))))

      it.effect(`${kind}: has its reservation settled by what it may have used, and its slot freed (he-llm-02)`, () =>
        Effect.gen(function*() {
          const limiter = yield* RateLimiter.RateLimiter
          yield* timed(ask(kind))
          const used = (entry: RateLimiter.Snapshot) =>
            entry.limits.map((_) => [_.dimension, Math.round(_.limit - _.remaining)])
          const [ofA, ofB] = yield* Effect.all([
            limiter.snapshotOf(scopeKey(a, "model")),
            limiter.snapshotOf(scopeKey(b, "model"))
          ])
          const { inFlight, limits } = Option.getOrThrow(ofA)
          assert.strictEqual(inFlight, 0)
          const tokens = limits.find((_) => _.dimension === "tokens")
          // All that was reserved: the prompt, and an answer as long as it may have been.
          assert.isAbove((tokens?.limit ?? 0) - (tokens?.remaining ?? 0), 100)
          assert.deepInclude(used(Option.getOrThrow(ofA)), ["requests", 1])
          const winner = Option.getOrThrow(ofB)
          assert.strictEqual(winner.inFlight, 0)
          const spent = winner.limits.find((_) => _.dimension === "tokens")
          assert.isBelow((spent?.limit ?? 0) - (spent?.remaining ?? 0), kind === "execute" ? 111 : 50)
        }).pipe(Effect.provide(withRouter({ "p/a": [stall()], "q/b": [quick] }, {
          targets: [a, b].map((_) =>
            target(_.id, {
              limits: {
                concurrency: 2,
                requests: { limit: 10, per: "1 day", window: "sliding" },
                tokens: { limit: 10_000, per: "1 day", window: "sliding" }
              }
            })
          )
        }))))
    }

    it.effect("is interrupted with the first content of the other stream, not with its end", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(ask("stream"))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* inFlight, 2)
        yield* TestClock.adjust("100 millis")
        assert.strictEqual(yield* inFlight, 1)
        assert.deepStrictEqual((yield* calls).map((_) => _.outcome), ["interrupted", "running"])
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), "ab")
        assert.strictEqual(yield* inFlight, 0)
      }).pipe(Effect.provide(withRouter({
        "p/a": [stall()],
        "q/b": [reply(["a", "b"], { delay: "100 millis", gap: "10 seconds" })]
      }))))

    it.effect("that was the first request teaches that answers are slow, and a hedge that lost teaches nothing", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const hedging = yield* Hedging.Hedging
        yield* provider.script("p/a", [stall(), reply("a", { delay: "1010 millis" })])
        yield* provider.script("q/b", [quick, stall()])
        yield* timed(ask("complete"))
        const known = Effect.map(
          hedging.snapshot,
          (entries) => Object.fromEntries(entries.map((_) => [_.key, _.samples]))
        )
        assert.deepStrictEqual(yield* known, { "complete:p/a": 1, "complete:q/b": 1 })
        yield* timed(ask("complete"), "10 millis")
        assert.deepStrictEqual((yield* targetsCalled).slice(2), ["p/a", "q/b"])
        assert.deepStrictEqual(yield* known, { "complete:p/a": 2, "complete:q/b": 1 })
      }).pipe(Effect.provide(withRouter({}))))

    it.effect("a target that is tried after a hedge and given up by the caller teaches nothing", () =>
      Effect.gen(function*() {
        const hedging = yield* Hedging.Hedging
        const fiber = yield* Effect.forkChild(ask("complete"))
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b", "r/c"])
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual((yield* hedging.snapshot).map((_) => _.samples), [0, 0])
      }).pipe(Effect.provide(withRouter(
        { "p/a": [wrongKey("2 seconds")], "q/b": [wrongKey("500 millis")], "r/c": [stall()] },
        { targets: [a, b, c] }
      ))))
  })

  describe("budgets", () => {
    it.effect("hedges are at most the given share of the requests of the window", () =>
      Effect.gen(function*() {
        let hedged = 0
        for (let call = 1; call <= 100; call++) {
          const { exit } = yield* timed(ask("complete"))
          if (Exit.isSuccess(exit) && exit.value === "quick") hedged++
          assert.isAtMost(hedged, Math.floor(call / 10))
        }
        assert.strictEqual(hedged, 10)
        assert.strictEqual((yield* calls).length, 110)
      }).pipe(Effect.provide(withRouter(
        { "p/a": [reply("late", { delay: "2 seconds" })], "q/b": [quick] },
        {
          hedge: { delay: "1 second", maxExtraLoad: 0.1, window: "1 hour" },
          retryBudget: { policy: RetryBudget.windowed({ minimum: 100 }) }
        }
      ))))

    it.effect("no hedge is free", () =>
      Effect.gen(function*() {
        for (let call = 0; call < 49; call++) yield* timed(ask("complete"), "500 millis")
        assert.strictEqual((yield* calls).length, 49)
        yield* timed(ask("complete"), "500 millis")
        assert.strictEqual((yield* calls).length, 51)
      }).pipe(Effect.provide(withRouter(
        { "p/a": [reply("late", { delay: "2 seconds" })], "q/b": [quick] },
        { hedge: { delay: "1 second", window: "10 minutes" } }
      ))))

    it.effect("what was refused before it was sent is no request that a hedge could come on top of", () =>
      Effect.gen(function*() {
        const holding = yield* Effect.forkChild(
          Router.execute(() => Effect.never, { service: "p/a", idempotent: false }),
          { startImmediately: true }
        )
        for (let call = 0; call < 5; call++) yield* timed(ask("complete"))
        yield* Fiber.interrupt(holding)
        const hedging = yield* Hedging.Hedging
        assert.deepStrictEqual(
          (yield* hedging.snapshot).map((_) => [_.key, _.available]).sort(),
          [["complete:q/b", 5], ["execute:p/a", 1]]
        )
      }).pipe(Effect.provide(withRouter({ "q/b": [quick] }, {
        targets: [target("p/a", { limits: { concurrency: 1 } }), b],
        hedge: { delay: "1 second", maxExtraLoad: 1, window: "1 hour" }
      }))))

    it.effect("a hedge is charged like a retry, and none is sent where the retry budget has nothing left", () =>
      Effect.gen(function*() {
        yield* timed(ask("complete"))
        assert.deepStrictEqual(yield* budgets, { hedges: once, retries: once })
        const { exit } = yield* timed(ask("complete"))
        assert.deepStrictEqual(exit, Exit.succeed("slow"))
        assert.deepStrictEqual(yield* budgets, { hedges: { granted: 2, refunded: 1 }, retries: once })
        assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b", "p/a"])
      }).pipe(Effect.provide(withRouter(
        { "p/a": [slow], "q/b": [quick] },
        { retryBudget: { policy: RetryBudget.windowed({ ratio: 0, minimum: 1 }) } }
      ))))

    it.effect("where a retry budget counts what is in flight, a hedge comes back whoever wins", () =>
      Effect.gen(function*() {
        const retries = yield* RetryBudget.RetryBudget
        for (let call = 0; call < 6; call++) {
          yield* timed(ask("complete"))
          for (const entry of yield* retries.snapshot) assert.strictEqual(entry.available, 1)
        }
        assert.deepStrictEqual((yield* budgets).retries, { granted: 6, refunded: 0 })
      }).pipe(Effect.provide(withRouter(
        { "p/a": [reply("late", { delay: "2 seconds" })], "q/b": [quick, stall(), poison(10), wrongKey(10)] },
        {
          recovery: { classes: { authentication: { cooldown: 0 } } },
          retryBudget: { policy: RetryBudget.concurrent({ minimum: 1 }) }
        }
      ))))

    it.effect("a hedge that the limits refuse is given back, and the first request answers", () =>
      Effect.gen(function*() {
        const { exit, lines, ms } = yield* told(ask("complete", { tenant: "t" }))
        assert.deepStrictEqual([exit, ms], [Exit.succeed("slow"), 20_000])
        assert.deepStrictEqual(lines, [["p/a", "first", "success"]])
        assert.deepStrictEqual(yield* budgets, { hedges: givenBack, retries: givenBack })
        assert.deepStrictEqual(yield* targetsCalled, ["p/a"])
      }).pipe(Effect.provide(withRouter({ "p/a": [slow], "q/b": [quick] }, {
        limits: { tenants: { t: { concurrency: 1 } } }
      }))))

    it.effect("a call has as many hedges as it may have in all, not at each of its attempts", () =>
      Effect.gen(function*() {
        const { exit, lines } = yield* told(ask("complete"))
        assert.deepStrictEqual(exit, Exit.succeed("c"))
        assert.deepStrictEqual(lines, [
          ["q/b", "hedge", "failure"],
          ["p/a", "first", "failure"],
          ["r/c", "next", "success"]
        ])
      }).pipe(Effect.provide(withRouter(
        {
          "p/a": [wrongKey("2 seconds")],
          "q/b": [wrongKey("500 millis")],
          "r/c": [reply("c", { delay: "5 seconds" })],
          "s/d": [quick]
        },
        { targets: [a, b, c, target("s/d")] }
      ))))

    it.effect("more hedges than one are sent one after the other, each to another target", () =>
      Effect.gen(function*() {
        // Each request allows one.
        yield* timed(ask("complete"))
        const { call, exit, lines } = yield* told(ask("complete"))
        assert.deepStrictEqual(exit, Exit.succeed("quick"))
        assert.deepStrictEqual(lines, [
          ["p/a", "first", "interrupted"],
          ["q/b", "hedge", "interrupted"],
          ["r/c", "hedge", "success"]
        ])
        assert.deepStrictEqual(call.attempts.map((_) => _.startedMs), [0, 1000, 2000])
        assert.strictEqual(yield* inFlight, 0)
      }).pipe(Effect.provide(withRouter(
        { "p/a": [quick, stall()], "q/b": [stall()], "r/c": [quick] },
        { targets: [a, b, c], hedge: { ...eager, maxHedges: 2, window: "1 minute" } }
      ))))
  })

  describe("what is not hedged", () => {
    /** Asks, and finds that nobody was asked besides. */
    const isAlone = (options: Request = {}) =>
      Effect.gen(function*() {
        const before = (yield* calls).length
        const { exit, ms } = yield* timed(ask("complete", options))
        assert.deepStrictEqual([exit, ms], [Exit.succeed("slow"), 20_000])
        assert.deepStrictEqual((yield* targetsCalled).slice(before), ["p/a"])
        assert.deepStrictEqual(yield* budgets, { hedges: nothing, retries: nothing })
      })

    const scripts = { "p/a": [slow], "q/b": [quick] }
    const cases: ReadonlyArray<readonly [string, Request, Options]> = [
      ["what must not be sent twice", { idempotent: false }, {}],
      ["a call with one target", {}, { targets: [a] }],
      ["a call that only one target can serve", { tags: ["x"] }, { targets: [target("p/a", { tags: ["x"] }), b] }],
      ["a call whose attempts are used up", {}, { maxAttempts: 1 }],
      ["a call where the budget is zero", {}, { hedge: { ...eager, maxExtraLoad: 0 } }],
      ["a call where no hedge is allowed", {}, { hedge: { ...eager, maxHedges: 0 } }]
    ]
    for (const [name, options, router] of cases) {
      it.effect(name, () => Effect.provide(isAlone(options), withRouter(scripts, router)))
    }

    it.effect("a call whose other target is not healthy, until it is", () =>
      Effect.gen(function*() {
        const health = yield* Health.Health
        const key = scopeKey(b, "target")
        const error = new LLMError.ServerError({ provider: "q", reason: "internal_error" })
        while ((yield* health.score(key)) >= 50) yield* health.record(key, Health.failure(error, { durationMs: 100 }))
        yield* isAlone()
        while ((yield* health.score(key)) < 50) yield* health.record(key, Health.success({ durationMs: 100 }))
        assert.deepStrictEqual((yield* timed(ask("complete"))).exit, Exit.succeed("quick"))
      }).pipe(Effect.provide(withRouter(scripts))))

    it.effect("a call whose other target is open, half-open or cooling, until it is not", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        const cooldown = yield* Cooldown.Cooldown
        yield* circuits.trip("target:q/b", "1 hour")
        yield* isAlone()
        yield* circuits.probe("target:q/b")
        assert.strictEqual((yield* circuits.state("target:q/b")).status, "half-open")
        yield* isAlone()
        yield* circuits.reset("target:q/b")
        yield* cooldown.start(scopeKey(b, "target"), "1 hour", "rate_limit")
        yield* isAlone()
        yield* cooldown.clearAll
        assert.deepStrictEqual((yield* timed(ask("complete"))).exit, Exit.succeed("quick"))
      }).pipe(Effect.provide(withRouter(scripts))))

    it.effect("a call whose other target has more than 80 % of a limit in use", () =>
      Effect.gen(function*() {
        const hold = Effect.forkChild(Router.execute(() => Effect.never, { service: "q/b", idempotent: false }), {
          startImmediately: true
        })
        const held = yield* Effect.forEach(Array.from({ length: 9 }), () => hold)
        yield* isAlone()
        yield* Effect.forEach(held.slice(0, 1), Fiber.interrupt)
        assert.deepStrictEqual((yield* timed(ask("complete"))).exit, Exit.succeed("quick"))
        yield* Effect.forEach(held, Fiber.interrupt)
      }).pipe(Effect.provide(withRouter(scripts, { targets: [a, target("q/b", { limits: { concurrency: 10 } })] }))))
  })

  describe("failures", () => {
    for (const kind of kinds) {
      it.effect(`${kind}: one that comes before the delay is recovered from as ever`, () =>
        Effect.gen(function*() {
          const { exit, lines, ms } = yield* told(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("quick"), 600])
          assert.deepStrictEqual(lines, [["p/a", "first", "failure"], ["q/b", "next", "success"]])
          assert.deepStrictEqual(yield* budgets, { hedges: nothing, retries: nothing })
        }).pipe(Effect.provide(withRouter({ "p/a": [wrongKey("500 millis")], "q/b": [quick] }))))

      it.effect(`${kind}: while the hedge runs, its answer is the answer`, () =>
        Effect.gen(function*() {
          const { exit, lines, ms } = yield* told(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("b"), 6000])
          assert.deepStrictEqual(lines, [["p/a", "first", "failure"], ["q/b", "hedge", "success"]])
        }).pipe(Effect.provide(withRouter({
          "p/a": [down("2 seconds")],
          "q/b": [reply("b", { delay: "5 seconds" })]
        }))))

      it.effect(`${kind}: of the hedge leaves the first request to answer`, () =>
        Effect.gen(function*() {
          const { exit, lines, ms } = yield* told(ask(kind))
          assert.deepStrictEqual([exit, ms], [Exit.succeed("slow"), 20_000])
          assert.deepStrictEqual(lines, [["q/b", "hedge", "failure"], ["p/a", "first", "success"]])
        }).pipe(Effect.provide(withRouter({ "p/a": [slow], "q/b": [down("2 seconds")] }))))

      for (
        const [name, ofA, ofB] of [["first", "4 seconds", "1 second"], ["last", "2 seconds", "4 seconds"]] as const
      ) {
        it.effect(`${kind}: of both, the hedge's ${name}, is recovered from with both known, and neither is new`, () =>
          Effect.gen(function*() {
            const { exit, lines } = yield* told(ask(kind))
            assert.deepStrictEqual(exit, Exit.succeed("c"))
            const failures = [["p/a", "first", "failure"], ["q/b", "hedge", "failure"]]
            assert.deepStrictEqual(lines, [
              ...(name === "first" ? failures.toReversed() : failures),
              ["r/c", "next", "success"]
            ])
            assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b", "r/c"])
          }).pipe(Effect.provide(withRouter(
            { "p/a": [wrongKey(ofA)], "q/b": [wrongKey(ofB)], "r/c": [reply("c", { delay: "100 millis" })] },
            // Nothing but what the call itself knows keeps it away from them.
            { targets: [a, b, c], recovery: { classes: { authentication: { cooldown: 0 } } } }
          ))))

        it.effect(`${kind}: of both, the hedge's ${name}, are all there is when nobody is left`, () =>
          Effect.gen(function*() {
            const { exit } = yield* told(ask(kind))
            const error = errorOf(exit)
            assert.strictEqual(error?._tag, "AuthenticationError")
            assert.strictEqual(error?.exhaustion?.targets, 2)
            assert.sameMembers((error?.attempts ?? []).map((_) => _.target), ["p/a", "q/b"])
            assert.strictEqual((yield* calls).length, 2)
          }).pipe(Effect.provide(withRouter(
            { "p/a": [wrongKey(ofA)], "q/b": [wrongKey(ofB)] },
            { recovery: { classes: { authentication: { cooldown: 0 } } } }
          ))))
      }

      for (const [name, ofA, ofB] of [["hedge", stall(), poison(500)], ["first", poison(1500), stall()]] as const) {
        it.effect(`${kind}: one that is final ends the call: of the ${name}`, () =>
          Effect.gen(function*() {
            const { exit, lines, ms } = yield* told(ask(kind))
            assert.strictEqual(errorOf(exit)?.reason, "content_filter")
            assert.strictEqual(ms, 1500)
            assert.deepStrictEqual(lines, [
              [name === "hedge" ? "q/b" : "p/a", name, "failure"],
              [name === "hedge" ? "p/a" : "q/b", name === "hedge" ? "first" : "hedge", "interrupted"]
            ])
            assert.strictEqual(yield* inFlight, 0)
            assert.deepStrictEqual(yield* budgets, { hedges: once, retries: once })
          }).pipe(Effect.provide(withRouter({ "p/a": [ofA], "q/b": [ofB] }))))
      }

      it.effect(`${kind}: the deadline ends both`, () =>
        Effect.gen(function*() {
          const { exit, ms } = yield* told(ask(kind, { deadline: "3 seconds" }))
          const error = errorOf(exit)
          assert.deepStrictEqual([error?.errorClass, error?.origin], ["timeout", "deadline"])
          assert.strictEqual(ms, 3000)
          assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b"])
          assert.strictEqual(yield* inFlight, 0)
        }).pipe(Effect.provide(withRouter({ "*": [stall()] }))))
    }

    it.effect("a retry in place follows when both have failed, and the hedge's target stays out", () =>
      Effect.gen(function*() {
        const { exit, lines } = yield* told(ask("complete"))
        assert.deepStrictEqual(exit, Exit.succeed("quick"))
        assert.deepStrictEqual(lines, [
          ["q/b", "hedge", "failure"],
          ["p/a", "first", "failure"],
          ["p/a", "retry", "success"]
        ])
      }).pipe(Effect.provide(withRouter(
        { "p/a": [down("3 seconds"), quick], "q/b": [down(10)] },
        { retry: Retry.exponential({ base: "1 second", jitter: "none" }) }
      ))))

    it.effect("a cooldown that a hedge's failure starts is obeyed by the next call", () =>
      Effect.gen(function*() {
        yield* timed(ask("complete"))
        const cooldown = yield* Cooldown.Cooldown
        assert.deepStrictEqual((yield* cooldown.active).map((_) => _.scopeKey), ["model:q/b@none"])
        const { exit } = yield* timed(ask("complete"))
        assert.deepStrictEqual(exit, Exit.succeed("slow"))
        assert.strictEqual((yield* calls).length, 3)
      }).pipe(Effect.provide(withRouter({
        "p/a": [slow],
        "q/b": [fail("rate_limit", { reason: "rate_limit", scope: "model", status: 429 })]
      }))))
  })

  describe("streams that break after they were hedged", () => {
    it.effect("a restart knows whom the call has asked by then, and how often", () =>
      Effect.gen(function*() {
        const llm = yield* LLMService.LLMService
        const parts: Array<LLMService.StreamPart> = []
        const stream = llm.stream(request({ streamPolicy: "restart" }))
        const { exit } = yield* timed(Stream.runForEach(stream, (part) => Effect.sync(() => parts.push(part))))
        assert.strictEqual(errorOf(exit)?.exhaustion?.targets, 3)
        assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b"])
      }).pipe(Effect.provide(withRouter(
        { "p/a": [stall()], "q/b": [cut(["b"])], "r/c": [quick] },
        { targets: [a, b, c], maxAttempts: 2 }
      ))))

    it.effect("a restart does not ask a target again that has failed beside the hedge", () =>
      Effect.gen(function*() {
        const { exit } = yield* told(ask("stream", { streamPolicy: "restart" }))
        assert.deepStrictEqual(errorOf(exit)?.attempts.map((_) => [_.target, _.chosen, _.outcome]), [
          ["p/a", "first", "failure"],
          ["q/b", "hedge", "failure"]
        ])
        assert.deepStrictEqual(yield* targetsCalled, ["p/a", "q/b"])
      }).pipe(Effect.provide(withRouter(
        {
          "p/a": [wrongKey("1500 millis"), reply("again")],
          "q/b": [fail("timeout", { reason: "idle", scope: "target" }, { after: ["b"], delay: "2 seconds" })]
        },
        { recovery: { classes: { authentication: { cooldown: 0 } } } }
      ))))

    it.effect("an answer that is continued may be hedged as well, and goes on where it was", () =>
      Effect.gen(function*() {
        const { exit, lines } = yield* told(ask("stream", { streamPolicy: "continue" }))
        assert.deepStrictEqual(exit, Exit.succeed("one two three"))
        assert.deepStrictEqual(lines, [
          ["p/a", "first", "failure"],
          ["q/b", "next", "interrupted"],
          ["r/c", "hedge", "success"]
        ])
      }).pipe(Effect.provide(withRouter(
        { "p/a": [cut(["one ", "two "])], "q/b": [stall()], "r/c": [reply("three")] },
        {
          targets: [a, b, c].map((_) => target(_.id, { capabilities: { prefill: _ !== a } })),
          hedge: { ...eager, window: "1 minute" }
        }
      ))))

    it.effect("where an answer is kept until it is whole, the wait for the whole of it is what is slow", () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const steady = reply(["a", "b"], { delay: "100 millis", gap: "4 seconds" })
        yield* provider.script("p/a", [
          ...Array.from({ length: 20 }, () => steady),
          stall(["a"], { delay: "100 millis" })
        ])
        for (let call = 0; call < 20; call++) {
          const { exit } = yield* timed(ask("stream", { streamPolicy: "buffer" }))
          assert.deepStrictEqual(exit, Exit.succeed("ab"))
        }
        assert.deepStrictEqual(new Set(yield* targetsCalled), new Set(["p/a"]))
        const { exit, ms } = yield* timed(ask("stream", { streamPolicy: "buffer" }))
        assert.deepStrictEqual([exit, ms], [Exit.succeed("quick"), 4200])
      }).pipe(Effect.provide(withRouter({ "q/b": [quick] }, { hedge: { maxExtraLoad: 1 } }))))
  })
})
