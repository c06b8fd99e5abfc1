import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Cooldown,
  Events,
  Health,
  LLMError,
  Provider,
  RateLimiter,
  Resilience,
  RetryBudget,
  Router,
  Selection,
  Usage
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Context, Data, Duration, Effect, Exit, Fiber, Layer, Redacted, Schedule, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { broken, calledTargets, complete, concurrently, limited, perMinute, streamParts, target, underTime } = Calls

const ok = TestProvider.reply("ok")

/** `Resilience.layer` over scripted providers: adapters of one's own for every provider name. */
const wired = (options: Resilience.Options, scripts: Calls.Scripts) =>
  Layer.unwrap(Effect.gen(function*() {
    const context = yield* Layer.build(TestProvider.layer(scripts))
    const adapter = Context.get(context, Provider.Provider).adapter("any")
    assert(adapter !== undefined)
    const names = new Set(options.targets.map((_) => _.provider))
    const providers = Object.fromEntries(Array.from(names, (name) => [name, adapter]))
    return Layer.merge(
      Resilience.layer({ ...options, providers }).pipe(Layer.provide(FetchHttpClient.layer)),
      Layer.succeedContext(context)
    )
  }))

/** How long an effect takes, in milliseconds. */
const duration = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const startedAt = yield* Clock.currentTimeMillis
    const value = yield* effect
    return { value, took: (yield* Clock.currentTimeMillis) - startedAt }
  })

describe("Resilience.layer", () => {
  const a = target("acme/a")

  it.effect("provides the service, the router, and all that keeps their state", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* complete()).text, "ok")
      assert.deepStrictEqual((yield* Router.Router).targets, [a])
      const cooldown = yield* Cooldown.Cooldown
      const circuits = yield* CircuitBreaker.CircuitBreaker
      const health = yield* Health.Health
      const budget = yield* RetryBudget.RetryBudget
      const usage = yield* Usage.Usage
      const limiter = yield* RateLimiter.RateLimiter
      assert.deepStrictEqual(yield* cooldown.active, [])
      assert.strictEqual((yield* circuits.state("target:acme/a")).status, "closed")
      assert.strictEqual((yield* health.figures("target:acme/a"))?.successes, 1)
      assert.deepStrictEqual((yield* budget.snapshot).map((_) => [_.key, _.deposits]), [["acme/a", 1]])
      assert.isDefined(yield* usage.statistics(a))
      assert.deepStrictEqual(yield* limiter.snapshot, [])
      yield* Events.Events
    }).pipe(Effect.provide(wired({ targets: [a] }, { "*": [ok] }))))

  it.effect("does not hedge unless it is asked to", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(complete(), { startImmediately: true })
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(yield* calledTargets, ["acme/a"])
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(wired({ targets: [a, target("acme/b")] }, { "*": [TestProvider.stall()] }))))

  it.effect("hedges when it is told to", () =>
    Effect.gen(function*() {
      const completion = yield* underTime(complete(), "3 seconds")
      assert.deepStrictEqual(completion.attempts.map((_) => [_.target, _.outcome]), [
        ["acme/a", "interrupted"],
        ["acme/b", "success"]
      ])
    }).pipe(Effect.provide(wired({
      targets: [a, target("acme/b")],
      hedge: { delay: "2 seconds", maxExtraLoad: 1 }
    }, { "acme/a": [TestProvider.stall()], "acme/b": [ok] }))))

  it.effect("sheds when it is told to", () =>
    Effect.gen(function*() {
      for (let n = 0; n < 200; n++) {
        yield* Effect.exit(complete({ deadline: "1 second" }))
        yield* TestClock.adjust("50 millis")
      }
      assert.isBelow((yield* calledTargets).length, 150)
    }).pipe(Effect.provide(wired({
      targets: [a],
      retry: Schedule.recurs(0),
      circuit: { disabled: true },
      throttle: { grace: "1 millis" }
    }, { "*": [broken()] }))))

  it.effect("keeps a state of its own each time it is built", () =>
    Effect.gen(function*() {
      const live = wired({ targets: [a] }, { "*": [limited("1 hour")] })
      const refused = Effect.map(Effect.flip(complete({ deadline: "1 second" })), (_) => _.origin)
      assert.deepStrictEqual(yield* Effect.provide(Effect.all([refused, refused]), live), ["provider", "cooldown"])
      assert.deepStrictEqual(yield* Effect.provide(Effect.all([refused, refused]), live), ["provider", "cooldown"])
    }))

  describe("defaults", () => {
    it.effect("two retries on one target, with a backoff of at most 1 s and 2 s", () =>
      Effect.gen(function*() {
        const { took, value: error } = yield* underTime(duration(Effect.flip(complete())), "10 seconds", "10 millis")
        assert.strictEqual(error.attempts.length, 3)
        assert.isAtMost(took, 3010)
      }).pipe(Effect.provide(wired({ targets: [a] }, { "*": [broken()] }))))

    it.effect("ten attempts a call", () =>
      Effect.gen(function*() {
        const error = yield* underTime(Effect.flip(complete()), "5 minutes")
        assert.strictEqual(error.attempts.length, 10)
      }).pipe(
        Effect.provide(wired({ targets: Array.from({ length: 12 }, (_, n) => target(`p${n}/m`)) }, { "*": [broken()] }))
      ))

    for (
      const [name, step, seconds, reason] of [
        ["20 s to connect", TestProvider.reply("late", { connect: "1 hour" }), 20, "connect_timeout"],
        ["30 s to the first token", TestProvider.stall(), 30, "first_token"],
        ["30 s between tokens", TestProvider.stall(["some"]), 30, "idle"]
      ] as const
    ) {
      it.effect(`${name} of a stream`, () =>
        Effect.gen(function*() {
          const drained = Effect.flip(Stream.runDrain(streamParts()))
          const { took, value: error } = yield* underTime(duration(drained), "31 seconds")
          assert.deepStrictEqual([error.errorClass, error.attempts[0]?.reason, took], [
            "timeout",
            reason,
            seconds * 1000
          ])
        }).pipe(Effect.provide(wired({ targets: [a], maxAttempts: 1 }, { "*": [step] }))))
    }

    it.effect("60 s for an attempt", () =>
      Effect.gen(function*() {
        const error = yield* underTime(Effect.flip(complete()), "61 seconds", "1 second")
        assert.deepStrictEqual(error.attempts.map((_) => [_.reason, _.durationMs]), [["attempt", 60_000]])
      }).pipe(Effect.provide(wired({ targets: [a] }, { "*": [TestProvider.stall()] }))))

    it.effect("10 minutes in all, waits included", () =>
      Effect.gen(function*() {
        const { took, value } = yield* underTime(duration(complete()), "10 minutes", "1 second")
        assert.strictEqual(value.text, "ok")
        assert.isTrue(took >= 590_000 && took <= 600_000, String(took))
        const { took: refused, value: error } = yield* duration(Effect.flip(complete()))
        assert.deepStrictEqual([error._tag, refused], ["RateLimitError", 0])
      }).pipe(Effect.provide(wired({ targets: [a] }, { "*": [limited("590 seconds"), ok, limited("601 seconds")] }))))

    it.effect("15 s in the queue of a limit", () =>
      Effect.gen(function*() {
        yield* complete()
        const [near, far] = yield* concurrently(2, Effect.exit(complete()))
        assert(near !== undefined && far !== undefined)
        yield* TestClock.adjust(0)
        assert.isUndefined(near.pollUnsafe(), "15 s are waited for")
        assert.isTrue(Exit.isFailure(yield* Fiber.join(far)), "30 s are not")
        yield* TestClock.adjust("15 seconds")
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(near)))
      }).pipe(Effect.provide(wired({
        // With the 50 ms by which one request may be longer on its way than another.
        targets: [target("acme/a", { limits: { requests: { limit: 1, per: "14950 millis" } } })]
      }, { "*": [ok] }))))

    it.effect("a circuit per target that five failures in a row open for a minute", () =>
      Effect.gen(function*() {
        const circuits = yield* CircuitBreaker.CircuitBreaker
        const call = Effect.exit(complete({ deadline: "1 second", tags: ["a"] }))
        for (let n = 0; n < 4; n++) yield* call
        assert.strictEqual((yield* circuits.state("target:acme/a")).status, "closed")
        yield* call
        const state = yield* circuits.state("target:acme/a")
        assert.strictEqual(state.status, "open")
        assert.strictEqual((yield* circuits.state("target:acme/b")).status, "closed")
        const error = yield* Effect.flip(complete({ deadline: "1 second", tags: ["a"] }))
        assert.deepStrictEqual([error.origin, error.retryAfter], ["circuit", Duration.minutes(1)])
        assert.strictEqual((yield* calledTargets).length, 5)
      }).pipe(Effect.provide(wired({
        targets: [target("acme/a", { tags: ["a"] }), target("acme/b")],
        retry: Schedule.recurs(0)
      }, { "*": [broken()] }))))
  })

  describe("construction", () => {
    for (
      const [name, options, message] of [
        ["targets", { targets: [] }, /targets must not be empty/],
        ["circuit", { circuit: { open: -1 } }, /open/],
        ["health", { health: { memory: 0 } }, /Health: memory/],
        ["usage", { usage: { defaultOutput: 0 } }, /Usage: options.defaultOutput/],
        ["limiter", { limiter: { maxQueue: -1 } }, /maxQueue/],
        ["retry budget", { retryBudget: { forgetAfter: 0 } }, /forgetAfter/],
        ["hedge", { hedge: { delay: -1 } }, /delay/],
        ["throttle", { throttle: { grace: -1 } }, /grace/],
        ["recovery", { recovery: { classes: { timeout: { cooldown: -5 } } } }, /classes.timeout.cooldown/],
        ["limits", { limits: { keys: { k: {} } } }, /limits.keys.k is for no target/]
      ] as const satisfies ReadonlyArray<readonly [string, Partial<Resilience.Options>, RegExp]>
    ) {
      it(`refuses ${name} that make no sense, by name`, () => {
        assert.throws(() => Resilience.layer({ targets: [a], ...options }), RangeError, message)
        assert.throws(() => Resilience.layerExecute({ targets: [a], ...options }), RangeError, message)
      })
    }

    it.effect("a provider that is not known is taken to speak OpenAI's format, and needs an address; effects do not", () =>
      Effect.gen(function*() {
        const targets = [target("groq/a"), target("acmee/a")]
        const live = Resilience.layer({ targets }).pipe(Layer.provide(FetchHttpClient.layer))
        const defect = yield* Effect.flip(Effect.catchDefect(Layer.build(live), Effect.fail))
        assert(defect instanceof RangeError)
        assert.include(
          defect.message,
          "Router: targets[1].baseUrl is missing: provider acmee has no address of its own; known providers: azure"
        )
        yield* Layer.build(
          Resilience.layer({ targets: [target("acmee/a", { baseUrl: "http://127.0.0.1:1/v1" })] }).pipe(
            Layer.provide(FetchHttpClient.layer)
          )
        )
        const value = yield* Effect.provide(
          Router.execute(({ id }) => Effect.succeed(id)),
          Resilience.layerExecute({ targets: [target("acmee/a")] })
        )
        assert.strictEqual(value, "acmee/a")
      }))
  })
})

describe("Resilience.protect", () => {
  class Name extends Context.Service<Name, string>()("Name") {}
  class Rejected extends Data.TaggedError("Rejected")<{ readonly code: number }> {}

  const keys = ["acme/m@1", "acme/m@2"].map((name) => target(name))

  it.effect("takes an effect as it is, and returns what it returns, from services of its own", () =>
    Effect.gen(function*() {
      const call: Effect.Effect<{ readonly text: string }, LLMError.LLMError, Router.Router | Name> = Resilience
        .protect(
          "acme"
        )(Effect.map(Name, (name) => ({ text: `hello ${name}` })))
      assert.deepStrictEqual(yield* Effect.provideService(call, Name, "Ada"), { text: "hello Ada" })
    }).pipe(Effect.provide(Resilience.layerExecute({ targets: keys }))))

  it.effect("takes a function of the target, so that each key is used with its own calls", () =>
    Effect.gen(function*() {
      const used: Array<string> = []
      const call = Resilience.protect("acme/m")(({ key }) =>
        Effect.suspend(() => {
          used.push(key === undefined ? "none" : Redacted.value(key.value))
          return used.length === 1 ? Effect.fail({ status: 401, message: "invalid api key" }) : Effect.succeed("yes")
        })
      )
      assert.strictEqual(yield* call, "yes")
      assert.deepStrictEqual(used, ["secret of 1", "secret of 2"])
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    }).pipe(Effect.provide(Resilience.layerExecute({ targets: keys }))))

  it.effect("takes options of the types of the effect: its errors, and what it used", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.RateLimiter
      const guarded = Resilience.protect("acme", {
        tokens: { input: 100, output: 400 },
        usage: (answer: { readonly used: number }) => ({ input: answer.used, output: 0 }),
        classify: (error: Rejected, { provider }) =>
          LLMError.make("permanent", { provider, reason: "content_filter", detail: `code ${error.code}` })
      })
      const value = yield* guarded(Effect.succeed({ used: 120, text: "hi" }))
      assert.strictEqual(value.text, "hi")
      const [snapshot] = yield* limiter.snapshot
      assert.strictEqual(Math.round(snapshot?.limits[0]?.remaining ?? 0), 880)
      const error = yield* Effect.flip(guarded(new Rejected({ code: 7 })))
      assert.deepStrictEqual([error._tag, error.detail], ["PermanentError", "code 7"])
    }).pipe(
      Effect.provide(Resilience.layerExecute({
        targets: [target("acme/m", { limits: { tokens: perMinute(1000) } })]
      }))
    ))

  it.effect("refuses a service that nobody is, by name", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Resilience.protect("acmee")(Effect.die("not asked")))
      assert.strictEqual(error._tag, "PermanentError")
      assert.include(error.message, `service "acmee"`)
    }).pipe(Effect.provide(Resilience.layerExecute({ targets: keys }))))

  it.effect("all uses of one name share its limits, cooldowns and circuit, and no others", () =>
    Effect.gen(function*() {
      const failing = Resilience.protect("acme", { deadline: "1 second" })(Effect.fail({ status: 500 }))
      for (let n = 0; n < 5; n++) yield* Effect.flip(failing)
      const refused = yield* Effect.flip(
        Resilience.protect("acme/m", { deadline: "1 second" })(Effect.die("not asked"))
      )
      assert.deepStrictEqual([refused._tag, refused.origin], ["ServerError", "circuit"])
      assert.strictEqual(yield* Resilience.protect("other")(Effect.succeed(1)), 1)
    }).pipe(Effect.provide(Resilience.layerExecute({
      targets: [target("acme/m"), target("other/m")],
      retry: Schedule.recurs(0)
    }))))

  it.effect("is retried, timed out and moved on as requests are", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const call = Resilience.protect("acme")(({ id }) =>
        Effect.suspend(() => {
          asked.push(id)
          return id === "acme/m@1"
            ? Effect.never
            : asked.length < 4
            ? Effect.fail({ status: 503 })
            : Effect.succeed("up")
        })
      )
      assert.strictEqual(yield* underTime(call, "70 seconds"), "up")
      assert.deepStrictEqual(asked, ["acme/m@1", "acme/m@2", "acme/m@2", "acme/m@2"])
    }).pipe(Effect.provide(Resilience.layerExecute({ targets: keys }))))

  it.effect("is balanced by the strategy of the layer", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const call = Resilience.protect("acme")(({ id }) =>
        Effect.andThen(Effect.sync(() => asked.push(id)), Effect.never)
      )
      yield* concurrently(6, call)
      assert.strictEqual(asked.filter((id) => id === "acme/m@1").length, 3)
    }).pipe(Effect.provide(Resilience.layerExecute({ targets: keys, strategy: Selection.leastBusy }))))
})
