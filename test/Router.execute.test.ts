import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Cooldown,
  Health,
  LLMError,
  RateLimiter,
  Resilience,
  RetryBudget,
  Router,
  type Target
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Cause, Clock, Context, Data, Duration, Effect, Exit, Fiber, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { complete, concurrently, perMinute, target, underTime, withRouter } = Calls

const live = (options: Router.Options, state: Resilience.MemoryOptions = {}) =>
  Resilience.layerExecute({ ...options, ...state })

class Name extends Context.Service<Name, string>()("Name") {}

class Rejected extends Data.TaggedError("Rejected")<{ readonly code: number }> {}

const acme = target("acme/m")
const rejected = (fields: Partial<LLMError.Fields> & { readonly reason: LLMError.Reason }) =>
  Effect.fail(LLMError.make("server_error", { provider: "acme", ...fields }))

/** Names the target it is given, and notes it. */
const naming = (asked: Array<string>) => (target: Target.Target) =>
  Effect.sync(() => {
    asked.push(target.id)
    return target.id
  })

const limiterOf = (key: string) =>
  Effect.flatMap(RateLimiter.RateLimiter, (limiter) =>
    Effect.map(limiter.snapshot, (snapshots) => {
      const found = snapshots.find((_) => _.key === key)
      return { inFlight: found?.inFlight, remaining: Math.round(found?.limits[0]?.remaining ?? Number.NaN) }
    }))

describe("Router.execute", () => {
  it.effect("returns what the effect returns, from services of its own, at the target that was chosen", () =>
    Effect.gen(function*() {
      const call: Effect.Effect<readonly [string, number], LLMError.LLMError, Router.Router | Name> = Router.execute((
        { id }
      ) => Effect.map(Name, (name) => [`${name} at ${id}`, 42] as const))
      const value = yield* Effect.provideService(call, Name, "Ada")
      assert.deepStrictEqual(value, ["Ada at acme/m", 42])
    }).pipe(Effect.provide(live({ targets: [acme] }))))

  it.effect("the router tells its targets by their order", () =>
    Effect.gen(function*() {
      const router = yield* Router.Router
      assert.deepStrictEqual(router.targets.map((_) => _.id), ["acme/m", "acme/late"])
    }).pipe(Effect.provide(live({ targets: [target("acme/late", { order: 1 }), acme] }))))

  describe("failures", () => {
    it.effect("of any type become one of the seven by classify, which is told the target", () =>
      Effect.gen(function*() {
        const call: Effect.Effect<never, LLMError.LLMError, Router.Router> = Router.execute(
          () => Effect.fail(new Rejected({ code: 7 })),
          {
            classify: ({ code }, { id, provider }) =>
              LLMError.make("permanent", { provider, reason: "content_filter", detail: `${code} at ${id}` })
          }
        )
        const error = yield* Effect.flip(call)
        assert.deepStrictEqual([error._tag, error.detail, error.target, error.attempts.length], [
          "PermanentError",
          "7 at acme/m",
          "acme/m",
          1
        ])
      }).pipe(Effect.provide(live({ targets: [acme] }))))

    it.effect("that are one of the seven stay what they are", () =>
      Effect.gen(function*() {
        const failure = rejected({ reason: "overloaded", requestId: "r1", status: 529 })
        const error = yield* Effect.flip(Router.execute(() => failure))
        assert.deepStrictEqual([error._tag, error.requestId, error.status, error.target], [
          "ServerError",
          "r1",
          529,
          "acme/m"
        ])
      }).pipe(Effect.provide(live({ targets: [acme], retry: Schedule.recurs(0) }))))

    const sdk = (status: number, error: object, headers: Record<string, string> = {}) =>
      Object.assign(new Error(`${status} ${JSON.stringify(error)}`), {
        status,
        headers: new Headers(headers),
        error,
        requestID: "req_1"
      })
    const table: ReadonlyArray<readonly [string, unknown, LLMError.ErrorClass, LLMError.Reason, number | undefined]> = [
      [
        "a 429 of an SDK, with its wait",
        sdk(429, { message: "Rate limit reached", code: "rate_limit_exceeded" }, { "retry-after": "20" }),
        "rate_limit",
        "rate_limit",
        20_000
      ],
      [
        "a spent credit",
        sdk(429, { message: "You exceeded your current quota", code: "insufficient_quota" }),
        "rate_limit",
        "insufficient_quota",
        undefined
      ],
      [
        "a wrong key",
        sdk(401, { message: "Incorrect API key provided", code: "invalid_api_key" }),
        "authentication",
        "invalid_key",
        undefined
      ],
      ["an overload", sdk(503, { message: "The engine is overloaded" }), "server_error", "overloaded", undefined],
      [
        "a prompt that is too long",
        sdk(400, { message: "maximum context length is 8192", code: "context_length_exceeded" }),
        "permanent",
        "context_length_exceeded",
        undefined
      ],
      [
        "a fetch without a connection",
        Object.assign(new TypeError("fetch failed"), {
          cause: Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:443"), { code: "ECONNREFUSED" })
        }),
        "transient_network",
        "conn_refused",
        undefined
      ],
      ["a time that passed", new Cause.TimeoutError(), "timeout", "client_timeout", undefined],
      ["a text", "what is this?", "unknown", "unknown", undefined],
      ["nothing", undefined, "unknown", "unknown", undefined]
    ]
    for (const [name, thrown, errorClass, reason, waitMs] of table) {
      it.effect(`of an SDK are understood without help: ${name}`, () =>
        Effect.gen(function*() {
          for (
            const call of [
              Effect.fail(thrown),
              Effect.tryPromise(() => Promise.reject(thrown)),
              Effect.tryPromise({ try: () => Promise.reject(thrown), catch: (error) => error })
            ]
          ) {
            const error = yield* Effect.flip(Router.execute(() => call))
            assert.deepStrictEqual([error.errorClass, error.reason], [errorClass, reason])
            assert.deepStrictEqual(
              error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter),
              waitMs
            )
            assert.deepStrictEqual([error.provider, error.model, error.target], ["acme", "m", "acme/m"])
            yield* Effect.flatMap(Cooldown.Cooldown, (cooldown) => cooldown.clearAll)
          }
        }).pipe(
          Effect.provide(live({ targets: [acme], maxAttempts: 1 }, { circuit: { disabled: true } }))
        ))
    }

    it.effect("never tell the key of the target, whatever it looks like (T40)", () =>
      Effect.gen(function*() {
        const secret = "secret of k"
        const error = yield* Effect.flip(Router.execute(() =>
          Effect.fail(Object.assign(new Error(`no access with ${secret}`), {
            status: 403,
            error: { message: `the key ${secret} has no access` },
            cause: new Error(`header: ${secret}`)
          }))
        ))
        assert.strictEqual(error.errorClass, "authentication")
        assert.notInclude(JSON.stringify(error), secret)
        assert.notInclude(String(error.cause), secret)
        assert.notInclude(error.message, secret)
      }).pipe(Effect.provide(live({ targets: [target("acme/m@k")] }))))

    it.effect("move the call on as those of requests do, and are in the record", () =>
      Effect.gen(function*() {
        const asked: Array<string> = []
        const name = naming(asked)
        const value = yield* Router.execute((target) =>
          Effect.flatMap(name(target), (id) =>
            id === "acme/m" ? Effect.fail({ status: 404, message: "model not found" }) : Effect.succeed(id))
        )
        assert.strictEqual(value, "other/m")
        assert.deepStrictEqual(asked, ["acme/m", "other/m"])
        yield* Router.execute(name)
        assert.deepStrictEqual(asked.slice(2), ["other/m"])
      }).pipe(Effect.provide(live({ targets: [acme, target("other/m")] }))))
  })

  describe("defects and interruption", () => {
    const limits: RateLimiter.Limits = { tokens: perMinute(1000), concurrency: 1 }
    const one = live({ targets: [target("acme/m", { limits })] })
    const tokens = { input: 100, output: 500 }
    const nothingHeld = Effect.gen(function*() {
      const { inFlight } = yield* limiterOf("model:acme/m@none")
      assert.strictEqual(inFlight, 0)
      const circuits = yield* CircuitBreaker.CircuitBreaker
      assert.strictEqual((yield* circuits.state("target:acme/m")).status, "closed")
      const health = yield* Health.Health
      assert.isUndefined(yield* health.figures("target:acme/m"))
    })

    for (
      const [name, call] of [
        ["of the effect", () => Effect.die("broken")],
        ["thrown where the effect is made", () => {
          throw new Error("broken")
        }]
      ] as const satisfies ReadonlyArray<readonly [string, () => Effect.Effect<never>]>
    ) {
      it.effect(`a defect ${name} stays a defect, is not retried, and gives everything back`, () =>
        Effect.gen(function*() {
          let asked = 0
          const exit = yield* Effect.exit(Router.execute(() => {
            asked++
            return call()
          }, { tokens }))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && !Cause.hasFails(exit.cause))
          assert.strictEqual(asked, 1)
          yield* nothingHeld
        }).pipe(Effect.provide(one)))
    }

    const broken = (): never => {
      throw new Error("broken")
    }

    it.effect("a defect of classify is a defect, too", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Router.execute(() => Effect.fail("no"), { classify: broken }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        yield* nothingHeld
      }).pipe(Effect.provide(one)))

    it.effect("an answer whose usage nobody can read stands, and so does the estimate", () =>
      Effect.gen(function*() {
        for (const usage of [broken, () => ({ input: Number.NaN, output: 1 }), () => ({ input: 1, output: -1 })]) {
          assert.strictEqual(yield* Router.execute(() => Effect.succeed("yes"), { usage }), "yes")
          assert.strictEqual((yield* limiterOf("model:acme/m@none")).inFlight, 0)
        }
      }).pipe(Effect.provide(one)))

    it.effect("an interruption reaches the effect, is no error, and gives everything back (T38)", () =>
      Effect.gen(function*() {
        let interrupted = 0
        const call = Router.execute(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++)), {
          tokens
        })
        const [fiber] = yield* concurrently(1, call)
        assert.strictEqual((yield* limiterOf("model:acme/m@none")).inFlight, 1)
        if (fiber !== undefined) {
          yield* Fiber.interrupt(fiber)
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        }
        assert.strictEqual(interrupted, 1)
        yield* nothingHeld
      }).pipe(Effect.provide(one)))

    it.effect("an attempt that takes too long is interrupted, and the next target asked", () =>
      Effect.gen(function*() {
        let interrupted = 0
        const value = yield* underTime(
          Router.execute(({ id }) =>
            id === "acme/m"
              ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
              : Effect.succeed(id)
          ),
          "61 seconds"
        )
        assert.deepStrictEqual([value, interrupted], ["other/m", 1])
      }).pipe(Effect.provide(live({ targets: [acme, target("other/m")] }))))
  })

  describe("tokens", () => {
    const key = "model:acme/m@none"
    const one = live({
      targets: [target("acme/m", { limits: { tokens: perMinute(1000) } })],
      retry: Schedule.recurs(0)
    })
    const tokens = { input: 100, output: 500 }

    it.effect("are reserved while it runs, and settled by what it says it used", () =>
      Effect.gen(function*() {
        let during = Number.NaN
        const value = yield* Router.execute(
          () =>
            Effect.map(limiterOf(key), ({ remaining }) => {
              during = remaining
              return { used: 150 }
            }),
          { tokens, usage: ({ used }) => ({ input: 100, output: used - 100 }) }
        )
        assert.deepStrictEqual(value, { used: 150 })
        assert.deepStrictEqual([during, (yield* limiterOf(key)).remaining], [400, 850])
      }).pipe(Effect.provide(one)))

    for (
      const [name, options, remaining] of [
        ["that says nothing stand as expected", {}, 400],
        ["that was not sent come back", { usage: () => "nothing-sent" as const }, 1000],
        ["whose usage is unknown stand as expected", { usage: () => "unknown" as const }, 400]
      ] as const
    ) {
      it.effect(`of an effect ${name}`, () =>
        Effect.gen(function*() {
          yield* Router.execute(() => Effect.void, { tokens, ...options })
          assert.strictEqual((yield* limiterOf(key)).remaining, remaining)
        }).pipe(Effect.provide(one)))
    }

    it.effect("of a failure come back when it cannot have been executed, and stand when it may have been", () =>
      Effect.gen(function*() {
        yield* Effect.flip(Router.execute(() => rejected({ reason: "conn_refused" }), { tokens }))
        assert.strictEqual((yield* limiterOf(key)).remaining, 1000)
        yield* Effect.flip(Router.execute(() => rejected({ reason: "internal_error", maybeBilled: true }), { tokens }))
        assert.isBelow((yield* limiterOf(key)).remaining, 1000)
      }).pipe(Effect.provide(one)))

    it.effect("that can never fit are refused by name before the effect runs", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(
          Router.execute(() => Effect.die("not asked"), { tokens: { input: 900, output: 200 } })
        )
        assert.deepStrictEqual([error._tag, error.origin, error.reason], [
          "RateLimitError",
          "limiter",
          "request_exceeds_limit"
        ])
      }).pipe(Effect.provide(one)))
  })

  describe("a service", () => {
    const pool = [target("acme/large@1"), target("acme/small@1"), target("other/large", { id: "mine" })]
    const asked: Array<string> = []
    for (
      const [service, expected] of [
        ["acme", ["acme/large@1", "acme/small@1"]],
        ["acme/small", ["acme/small@1"]],
        ["acme/large@1", ["acme/large@1"]],
        ["other", ["mine"]],
        ["other/large", ["mine"]],
        ["mine", ["mine"]]
      ] as const
    ) {
      it.effect(`named "${service}" is ${expected.join(" or ")}`, () =>
        Effect.gen(function*() {
          asked.length = 0
          const name = naming(asked)
          const error = yield* Effect.flip(Router.execute(
            (target) => Effect.flatMap(name(target), () => rejected({ reason: "internal_error", scope: "target" })),
            { service }
          ))
          assert.deepStrictEqual(asked, [...expected])
          assert.strictEqual(error.exhaustion?.targets ?? 1, expected.length)
        }).pipe(Effect.provide(live({ targets: pool, retry: Schedule.recurs(0) }))))
    }

    it.effect("that nobody knows is refused by name, before anything runs", () =>
      Effect.gen(function*() {
        for (const service of ["opnai", "acme/largest", "large", ""]) {
          const error = yield* Effect.flip(Router.execute(() => Effect.die("not asked"), { service }))
          assert.deepStrictEqual([error._tag, error.origin, error.scope], ["PermanentError", "router", "request"])
          assert.include(error.message, `service "${service}"`)
        }
      }).pipe(Effect.provide(live({ targets: pool }))))

    it.effect("that is there, but not for these tags or this tenant, says so", () =>
      Effect.gen(function*() {
        const own = { service: "acme", tags: ["eu"] }
        const error = yield* Effect.flip(Router.execute(() => Effect.die("not asked"), own))
        assert.include(error.message, "the tags eu")
        const other = yield* Effect.flip(Router.execute(() => Effect.die("not asked"), { ...own, service: "nobody" }))
        assert.include(other.message, `service "nobody"`)
      }).pipe(Effect.provide(live({ targets: pool }))))
  })

  describe("keys", () => {
    const keys = ["acme/m@1", "acme/m@2", "acme/m@3"].map((name) => target(name))
    const unauthorised = Effect.fail({ status: 401, error: { code: "invalid_api_key", message: "no such key" } })

    it.effect("rotate when one is refused: at once, each of them once, at no cost to the retries (T34)", () =>
      Effect.gen(function*() {
        const asked: Array<string> = []
        const name = naming(asked)
        const call = Router.execute((target) =>
          Effect.flatMap(name(target), (id) => id === "acme/m@3" ? Effect.succeed(id) : unauthorised)
        )
        assert.strictEqual(yield* call, "acme/m@3")
        assert.deepStrictEqual(asked, ["acme/m@1", "acme/m@2", "acme/m@3"])
        assert.strictEqual(yield* Clock.currentTimeMillis, 0)
        const budget = yield* RetryBudget.RetryBudget
        assert.deepStrictEqual((yield* budget.snapshot).map((_) => [_.granted, _.refused]), [[0, 0]])
        yield* call
        assert.deepStrictEqual(asked.slice(3), ["acme/m@3"])
      }).pipe(Effect.provide(live({ targets: keys }))))

    it.effect("are each asked once when all are refused, however many attempts there are (T34)", () =>
      Effect.gen(function*() {
        const asked: Array<string> = []
        const name = naming(asked)
        const error = yield* Effect.flip(
          Router.execute((target) => Effect.andThen(name(target), unauthorised))
        )
        assert.deepStrictEqual([error._tag, asked.length, error.attempts.length], ["AuthenticationError", 3, 3])
        assert.deepStrictEqual(error.attempts.map((_) => _.waitedMs), [0, 0, 0])
        assert.strictEqual(
          error.message,
          "not authorised on all 3 targets; earliest capacity in 1 h (acme 0/3)"
        )
      }).pipe(Effect.provide(live({ targets: keys, maxAttempts: 25 }))))
  })

  describe("options", () => {
    for (
      const [field, options] of [
        ["tokens.input", { tokens: { input: -1, output: 0 } }],
        ["tokens.input", { tokens: { input: Number.NaN, output: 0 } }],
        ["tokens.output", { tokens: { input: 0, output: Infinity } }],
        ["deadline", { deadline: 0 }],
        ["deadline", { deadline: -5 }],
        ["tenant", { tenant: " " }],
        ["affinity", { affinity: "" }],
        ["tags", { tags: [""] }],
        ["tags", { tags: { region: "" } }],
        ["priority", { priority: "urgent" as never }]
      ] as const satisfies ReadonlyArray<readonly [string, Router.ExecuteOptions<unknown, never>]>
    ) {
      it.effect(`that make no sense are refused by name: ${field} of ${JSON.stringify(options)}`, () =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(Router.execute(() => Effect.die("not asked"), options))
          assert.deepStrictEqual([error._tag, error.origin, error.reason, error.scope], [
            "PermanentError",
            "router",
            "invalid_request",
            "request"
          ])
          assert.include(error.message, field)
        }).pipe(Effect.provide(live({ targets: [acme] }))))
    }

    it.effect("a deadline ends the call, its waits included", () =>
      Effect.gen(function*() {
        const error = yield* underTime(
          Effect.flip(Router.execute(() => Effect.never, { deadline: "3 seconds" })),
          "4 seconds"
        )
        assert.deepStrictEqual([error._tag, error.reason, error.origin], ["TimeoutError", "deadline", "deadline"])
        assert.strictEqual(yield* Clock.currentTimeMillis, 3000)
      }).pipe(Effect.provide(live({ targets: [acme] }))))

    it.effect("a tenant has its own limits, and priority decides who is next", () =>
      Effect.gen(function*() {
        yield* Router.execute(() => Effect.void, { tenant: "math" })
        const error = yield* Effect.flip(Router.execute(() => Effect.void, { tenant: "math", deadline: "1 second" }))
        assert.include(error.message, "tenant:math")
        const order: Array<string> = []
        for (const priority of ["background", "low", "high"] as const) {
          yield* Effect.forkChild(Router.execute(() => Effect.sync(() => order.push(priority)), { priority }))
          yield* TestClock.adjust(0)
        }
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(order, ["high", "low", "background"])
      }).pipe(Effect.provide(live({
        targets: [target("acme/m", { limits: { requests: { limit: 1, per: "3 seconds" } } })],
        limits: { tenants: { math: { requests: { limit: 1, per: "1 hour" } } } }
      }))))
  })

  describe("beside requests of the same layer", () => {
    it.effect("limits, cooldowns and circuits are the same", () =>
      Effect.gen(function*() {
        yield* complete()
        const limited = yield* Effect.flip(Router.execute(() => Effect.die("not asked"), { service: "acme/limited" }))
        assert.strictEqual(limited.origin, "limiter")
        yield* Effect.flip(Router.execute(
          () => Effect.fail({ status: 429, headers: { "retry-after": "60" } }),
          { service: "acme/other", deadline: "1 second" }
        ))
        const cooling = yield* Effect.flip(complete({ tags: ["other"], deadline: "1 second" }))
        assert.deepStrictEqual([cooling._tag, cooling.origin], ["RateLimitError", "cooldown"])
        yield* TestClock.adjust("61 seconds")
        for (let n = 0; n < 5; n++) {
          yield* Effect.flip(
            Router.execute(() => Effect.fail({ status: 500 }), { service: "acme/other" })
          )
        }
        const open = yield* Effect.flip(complete({ tags: ["other"], deadline: "1 second" }))
        assert.deepStrictEqual([open._tag, open.origin], ["ServerError", "circuit"])
      }).pipe(Effect.provide(withRouter({
        targets: [
          target("acme/limited", { limits: { requests: { limit: 1, per: "1 hour" } } }),
          target("acme/other", { tags: ["other"] })
        ],
        retry: Schedule.recurs(0)
      }, { "*": [TestProvider.reply("ok")] }))))
  })

  it.effect("over many failing calls, attempts stay within the calls, a fifth of them and the floor (T29)", () =>
    Effect.gen(function*() {
      const calls = 200
      let attempts = 0
      const call = Router.execute(() => Effect.andThen(Effect.sync(() => attempts++), Effect.fail({ status: 500 })), {
        deadline: "30 seconds"
      })
      const fibers = yield* concurrently(calls, Effect.exit(call))
      yield* TestClock.adjust("40 seconds")
      for (const fiber of fibers) assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.isAtMost(attempts, calls * 1.2 + 3)
      assert.isAtLeast(attempts, calls)
    }).pipe(Effect.provide(live({ targets: [acme] }, { circuit: { disabled: true } }))))

  it.effect("one failing call makes as many attempts as are configured, at this layer alone (T29)", () =>
    Effect.gen(function*() {
      let attempts = 0
      const error = yield* underTime(
        Effect.flip(Router.execute(() => Effect.andThen(Effect.sync(() => attempts++), Effect.fail({ status: 500 })))),
        "10 minutes",
        "1 second"
      )
      assert.deepStrictEqual([attempts, error.attempts.length], [3, 3])
    }).pipe(Effect.provide(live({ targets: [acme] }))))
})
