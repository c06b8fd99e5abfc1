import { assert, describe, it } from "@effect/vitest"
import { LLMError, LLMService, Target } from "breakwater"
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Exit, Fiber, Layer, Random, Schedule, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"

const errorOf = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", ...fields })

const down = errorOf("server_error", { reason: "overloaded", status: 529 })
const up = Effect.succeed("up")

type Breaker = CircuitBreaker.CircuitBreaker["Service"]

/** A call that is refused or fails; returns its error. */
const fails = (breaker: Breaker, error: LLMError.LLMError = down, key = "k") =>
  Effect.flip(breaker.execute(key, Effect.fail(error)))

const statusOf = (breaker: Breaker, key = "k") => Effect.map(breaker.state(key), (circuit) => circuit.status)

/** A permit, and the scope that holds it. */
const hold = Effect.fnUntraced(function*(breaker: Breaker, key = "k") {
  const scope = yield* Scope.make()
  return { permit: yield* Scope.provide(breaker.admit(key), scope), scope }
})

const single = { trip: CircuitBreaker.consecutive(1), halfOpen: CircuitBreaker.successes({ required: 1 }) }

describe("classification", () => {
  const cases: ReadonlyArray<readonly [LLMError.LLMError, string]> = [
    [errorOf("transient_network"), "Failure"],
    [errorOf("timeout", { reason: "attempt" }), "Failure"],
    [errorOf("server_error"), "Failure"],
    [errorOf("unknown"), "Failure"],
    [errorOf("rate_limit"), "Ignored"],
    [errorOf("authentication"), "Ignored"],
    [errorOf("permanent"), "Ignored"],
    [errorOf("timeout", { reason: "deadline", origin: "deadline" }), "Ignored"],
    [errorOf("server_error", { reason: "circuit_open", origin: "circuit" }), "Ignored"],
    [errorOf("rate_limit", { reason: "queue_full", origin: "limiter" }), "Ignored"],
    [errorOf("unknown", { reason: "client_abort" }), "Ignored"]
  ]
  for (const [error, expected] of cases) {
    it(`takes ${error.errorClass} (${error.reason}) of the ${error.origin} as ${expected}`, () => {
      assert.strictEqual(CircuitBreaker.classify(Exit.fail(error))._tag, expected)
    })
  }

  it("T21: takes no failure of the request itself as evidence, whatever its class", () => {
    for (const errorClass of LLMError.ErrorClass.literals) {
      assert.strictEqual(CircuitBreaker.classify(Exit.fail(errorOf(errorClass, { scope: "request" })))._tag, "Ignored")
    }
  })

  it("takes interruptions as nothing, defects as a class of their own and other failures as unknown", () => {
    assert.strictEqual(CircuitBreaker.classify(Exit.interrupt(1))._tag, "Ignored")
    assert.deepInclude(CircuitBreaker.classify(Exit.die("bug")), { errorClass: "defect" })
    assert.deepInclude(CircuitBreaker.classify(Exit.fail("text")), { errorClass: "unknown" })
    assert.strictEqual(CircuitBreaker.classify(Exit.succeed(1))._tag, "Success")
  })

  it.effect("T21: fifty poison requests and fifty interrupted calls leave a circuit closed", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      for (let i = 0; i < 50; i++) {
        yield* fails(breaker, errorOf("permanent", { scope: "request" }))
        const fiber = yield* Effect.forkChild(breaker.execute("k", Effect.never))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
      }
      assert.strictEqual(yield* statusOf(breaker), "closed")
      assert.deepStrictEqual((yield* breaker.history("k")).counts, { ignored: 100 })
    }))

  it.effect("can be replaced, and sees results too", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        ...single,
        classify: (exit) =>
          Exit.isSuccess(exit) && exit.value === "" ? CircuitBreaker.failure("unknown") : CircuitBreaker.classify(exit)
      })
      yield* breaker.execute("k", Effect.succeed(""))
      assert.strictEqual(yield* statusOf(breaker), "open")
    }))
})

describe("an open circuit", () => {
  it.effect("by default opens after 5 failures in a row, for 60 seconds, and closes after 2 probes", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      for (let i = 0; i < 4; i++) yield* fails(breaker)
      assert.strictEqual(yield* statusOf(breaker), "closed")
      yield* fails(breaker)
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 60_000, openings: 1 })
      yield* TestClock.adjust("60 seconds")
      yield* breaker.execute("k", up)
      assert.strictEqual(yield* statusOf(breaker), "half-open")
      yield* breaker.execute("k", up)
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))

  it.effect("refuses with the class that opened it, says why and when to come back, and runs nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(2), open: "30 seconds" })
      const slow = errorOf("timeout", { reason: "attempt", model: "m", target: "groq/m" })
      yield* fails(breaker)
      yield* fails(breaker, slow)
      yield* TestClock.adjust("10 seconds")
      let ran = false
      const refused = yield* Effect.flip(breaker.execute("k", Effect.sync(() => (ran = true))))
      assert.isFalse(ran)
      assert.deepStrictEqual(
        [refused._tag, refused.origin, refused.reason, refused.target, refused.detail],
        [
          "TimeoutError",
          "circuit",
          "circuit_open",
          "groq/m",
          "opened after 2 consecutive failures, the last: timeout (attempt)"
        ]
      )
      assert.deepStrictEqual(refused.retryAfter, Duration.seconds(20))
    }))

  it.effect("refuses those of one millisecond with one error", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      yield* fails(breaker)
      const first = yield* fails(breaker)
      assert.strictEqual(yield* fails(breaker), first)
      yield* TestClock.adjust(1)
      assert.notStrictEqual(yield* fails(breaker), first)
    }))

  it.effect("stays open for the longest stated wait of the failures that opened it, up to an hour", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(2), open: "1 second" })
      yield* fails(breaker, errorOf("server_error", { retryAfter: Duration.seconds(30) }))
      yield* TestClock.adjust(10)
      yield* fails(breaker)
      assert.strictEqual((yield* breaker.state("k")).remainingMs, 29_990)
      yield* fails(breaker, errorOf("server_error", { retryAfter: Duration.hours(10) }), "other")
      yield* fails(breaker, down, "other")
      assert.strictEqual((yield* breaker.state("other")).remainingMs, 3_600_000)
    }))

  it.effect("T20: a trip by hand and late failures never shorten its time", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, open: "1 minute" })
      const late = yield* hold(breaker)
      yield* fails(breaker)
      yield* TestClock.adjust("10 seconds")
      yield* breaker.trip("k", "1 second")
      yield* late.permit.failure("server_error", "1 second")
      assert.strictEqual((yield* breaker.state("k")).remainingMs, 50_000)
      yield* breaker.trip("k", "2 minutes")
      assert.strictEqual((yield* breaker.state("k")).remainingMs, 120_000)
    }))

  it.effect("T27: in an outage of 60 s costs 20 calls no more attempts than threshold and probes", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ open: "20 seconds" })
      let attempts = 0
      const call = Effect.suspend(() => {
        attempts++
        return Effect.fail(down)
      })
      for (let i = 0; i < 20; i++) {
        yield* Effect.flip(breaker.execute("k", call))
        yield* TestClock.adjust("3 seconds")
      }
      const { outcomes } = yield* breaker.history("k")
      assert.strictEqual(outcomes.length, attempts)
      assert.strictEqual(attempts, 5 + 2)
    }))

  it.effect("lasts as a schedule says, whose last delay repeats", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        ...single,
        jitter: 0,
        open: Schedule.exponential("1 second").pipe(Schedule.upTo({ times: 3 }))
      })
      const waits: Array<number> = []
      for (let i = 0; i < 5; i++) {
        yield* fails(breaker)
        waits.push((yield* breaker.state("k")).remainingMs)
        yield* TestClock.adjust(waits[i] ?? 0)
      }
      assert.deepStrictEqual(waits, [1000, 2000, 4000, 4000, 4000])
    }))

  it.effect("T25: circuits that open together come back spread over the jitter", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, open: CircuitBreaker.exponential() })
      const waits: Array<number> = []
      for (let i = 0; i < 50; i++) {
        yield* fails(breaker, down, `k${i}`)
        waits.push((yield* breaker.state(`k${i}`)).remainingMs)
      }
      assert.isTrue(waits.every((wait) => wait >= 4500 && wait <= 5500))
      assert.isAbove(Math.max(...waits) - Math.min(...waits), 500)
    }).pipe(Random.withSeed("circuits")))
})

describe("a half-open circuit", () => {
  const halfOpen = Effect.fnUntraced(function*(options: CircuitBreaker.Options = single) {
    const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(1), ...options })
    yield* fails(breaker)
    yield* TestClock.adjust("60 seconds")
    return breaker
  })

  it.effect("T23: one of fifty callers probes, the others are refused until it has decided", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      let running = 0
      const call = Effect.andThen(Effect.sync(() => running++), Effect.sleep("5 seconds"))
      const fibers = yield* Effect.forEach(
        Array.from({ length: 50 }),
        () => Effect.forkChild(Effect.exit(breaker.execute("k", call)))
      )
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(running, 1)
      const refused = yield* fails(breaker)
      assert.deepStrictEqual(refused.retryAfter, Duration.seconds(26))
      assert.include(refused.detail ?? "", "probing after 1 consecutive failure")
      yield* TestClock.adjust("1 second")
      const exits = yield* Fiber.joinAll(fibers)
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))

  it.effect("T23: a neutral end, an interruption and a closed scope free the slot without a transition", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      const neutral = errorOf("permanent", { reason: "context_length_exceeded", scope: "request" })
      assert.strictEqual((yield* fails(breaker, neutral)).origin, "provider")
      const fiber = yield* Effect.forkChild(breaker.execute("k", Effect.never))
      yield* Effect.yieldNow
      assert.strictEqual((yield* breaker.state("k")).probes, 1)
      yield* Fiber.interrupt(fiber)
      const { permit, scope } = yield* hold(breaker)
      assert.isTrue(permit.isProbe)
      yield* Scope.close(scope, Exit.void)
      assert.deepInclude(yield* breaker.state("k"), { status: "half-open", probes: 0 })
      yield* breaker.execute("k", up)
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))

  it.effect("T23: a probe that never ends frees its slot in time, and its late success changes nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      const { permit } = yield* hold(breaker)
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(yield* statusOf(breaker), "half-open")
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 60_000, openings: 2 })
      yield* permit.success
      assert.strictEqual(yield* statusOf(breaker), "open")
    }))

  it.effect("T23: the outcome of a call admitted before it opened changes nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      const old = yield* hold(breaker)
      yield* fails(breaker)
      yield* TestClock.adjust("60 seconds")
      const probe = yield* hold(breaker)
      yield* old.permit.success
      assert.deepInclude(yield* breaker.state("k"), { status: "half-open", probes: 1 })
      yield* probe.permit.success
      yield* fails(breaker)
      assert.strictEqual(yield* statusOf(breaker), "open")
    }))

  it.effect("a permit taken without a scope is told of like any other, and holds its slot until then", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, open: "10 seconds" })
      const first = yield* breaker.take("k")
      assert.isFalse(first.isProbe)
      yield* first.failure("server_error")
      assert.strictEqual((yield* Effect.flip(breaker.take("k"))).reason, "circuit_open")
      yield* TestClock.adjust("10 seconds")
      const probe = yield* breaker.take("k")
      assert.isTrue(probe.isProbe)
      assert.strictEqual(
        (yield* Effect.flip(breaker.take("k"))).detail,
        "probing after 1 consecutive failure, the last: server_error"
      )
      yield* probe.ignored
      yield* (yield* breaker.take("k")).success
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))

  it.effect("lets only the first word of a permit count", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      const { permit, scope } = yield* hold(breaker)
      yield* permit.success
      yield* permit.failure("server_error")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* statusOf(breaker), "closed")
      assert.deepStrictEqual((yield* breaker.history("k")).counts, { server_error: 1, success: 1 })
    }))

  it.effect("opens again for longer when a probe fails", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ ...single, open: CircuitBreaker.sequence(["60 seconds", "2 minutes"]) })
      yield* fails(breaker)
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 120_000, openings: 2 })
      assert.include((yield* fails(breaker)).detail ?? "", "a failed probe: server_error (overloaded, 529)")
    }))

  it.effect.prop(
    "T23: gets every slot back from calls that end, fail or are interrupted at any time",
    {
      calls: Schema.Array(
        Schema.Struct({
          end: Schema.Literals(["success", "ignored", "never"]),
          takes: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 })),
          interruptedAt: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 60 }))
        })
      ).check(Schema.isMinLength(1), Schema.isMaxLength(12))
    },
    ({ calls }) =>
      Effect.gen(function*() {
        const breaker = yield* halfOpen({ halfOpen: CircuitBreaker.successes({ required: 100, permitted: 3 }) })
        let running = 0
        const fibers = yield* Effect.forEach(calls, ({ end, takes }) => {
          const body = end === "never" ? Effect.never : Effect.andThen(
            Effect.sleep(takes),
            end === "success" ? Effect.void : Effect.fail(errorOf("permanent"))
          )
          const counted = Effect.suspend(() => {
            running++
            assert.isAtMost(running, 3)
            return Effect.ensuring(body, Effect.sync(() => running--))
          })
          return Effect.forkChild(Effect.exit(breaker.execute("k", counted)))
        })
        for (let now = 0; now <= 60; now++) {
          const due = fibers.filter((_, index) => calls[index]?.interruptedAt === now)
          yield* Fiber.interruptAll(due)
          assert.strictEqual((yield* breaker.state("k")).probes, running)
          yield* TestClock.adjust(1)
        }
        // A call that is interrupted before it starts has not even made the circuit half-open.
        for (let i = 0; i < 3; i++) yield* hold(breaker)
        assert.deepInclude(yield* breaker.state("k"), { status: "half-open", probes: 3 })
      }),
    { arbitrary: { runs: 40 } }
  )
})

describe("a stream", () => {
  const target = Target.make({ provider: "groq", model: "m" })
  const layer = (script: ReadonlyArray<TestProvider.Step>) =>
    CircuitBreaker.layerLLMService({ key: "groq" }).pipe(
      Layer.provide(LLMService.layerProvider(target)),
      Layer.provide(TestProvider.layer({ "groq/m": script })),
      Layer.provideMerge(CircuitBreaker.layerMemory({ ...single, open: "1 second" }))
    )

  const open = Effect.gen(function*() {
    const breaker = yield* CircuitBreaker.CircuitBreaker
    yield* breaker.trip("groq")
    yield* TestClock.adjust("1 second")
    return breaker
  })

  it.effect("that probes has decided at its first content", () =>
    Effect.gen(function*() {
      const breaker = yield* open
      const llm = yield* LLMService.LLMService
      const fiber = yield* Effect.forkChild(Stream.runCollect(llm.stream({ prompt: "hi" })))
      yield* Effect.repeat(Effect.yieldNow, { times: 50 })
      assert.strictEqual(yield* statusOf(breaker, "groq"), "closed")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* statusOf(breaker, "groq"), "closed")
    }).pipe(Effect.provide(layer([TestProvider.stall(["Hello"])]))))

  it.effect("that breaks after its first content still counts as a failure", () =>
    Effect.gen(function*() {
      const breaker = yield* open
      const llm = yield* LLMService.LLMService
      const error = yield* Effect.flip(Stream.runCollect(llm.stream({ prompt: "hi" })))
      assert.strictEqual(error.reason, "stream_truncated")
      assert.deepInclude(yield* breaker.state("groq"), { status: "open", openings: 2 })
      const refused = yield* Effect.flip(Stream.runCollect(llm.stream({ prompt: "hi" })))
      assert.strictEqual(refused.origin, "circuit")
    }).pipe(Effect.provide(layer([TestProvider.cut(["Hello"])]))))

  it.effect("that ends well counts once", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.CircuitBreaker
      const llm = yield* LLMService.LLMService
      yield* Stream.runDrain(llm.stream({ prompt: "hi" }))
      yield* llm.complete({ prompt: "hi" })
      assert.deepStrictEqual((yield* breaker.history("groq")).counts, { success: 2 })
    }).pipe(Effect.provide(layer([TestProvider.reply("Hello")]))))

  it.effect("that waits for its first token too long opens a circuit by its slow calls", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        trip: CircuitBreaker.slowCalls({ firstToken: "5 seconds", minimumCalls: 2 })
      })
      for (let i = 0; i < 2; i++) {
        const { permit } = yield* hold(breaker)
        yield* TestClock.adjust("6 seconds")
        yield* permit.firstContent
        yield* permit.success
      }
      assert.deepInclude(yield* breaker.state("k"), { status: "open", why: "100 % of 2 calls were slow" })
      assert.strictEqual((yield* fails(breaker))._tag, "TimeoutError")
    }))
})

describe("a ramp", () => {
  const recovering = Effect.fnUntraced(function*(ramp: CircuitBreaker.RampOptions) {
    const breaker = yield* CircuitBreaker.make({
      ...single,
      open: CircuitBreaker.sequence(["1 second", "9 seconds"]),
      ramp
    })
    yield* fails(breaker)
    yield* TestClock.adjust("1 second")
    yield* breaker.execute("k", up)
    return breaker
  })

  const admitted = (breaker: Breaker, calls: number) =>
    Effect.map(
      Effect.forEach(Array.from({ length: calls }), () => Effect.exit(breaker.execute("k", up))),
      (exits) => exits.filter(Exit.isSuccess).length
    )

  it.effect("T24: admits no more than its growing share of the calls", () =>
    Effect.gen(function*() {
      const breaker = yield* recovering({ window: "20 seconds" })
      const counts: Array<number> = []
      for (let step = 0; step < 5; step++) {
        counts.push(yield* admitted(breaker, 100))
        yield* TestClock.adjust("5 seconds")
      }
      assert.deepStrictEqual(counts, [10, 25, 50, 75, 100])
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))

  it.effect("T24: opens again at the first failure in it, for longer", () =>
    Effect.gen(function*() {
      const breaker = yield* recovering({ window: "20 seconds", minimumShare: 1 })
      yield* TestClock.adjust("10 seconds")
      yield* fails(breaker)
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 9000, openings: 2 })
    }))

  it.effect("says in its refusals how far it has come, and when it is over", () =>
    Effect.gen(function*() {
      const breaker = yield* recovering({ window: "20 seconds" })
      yield* TestClock.adjust("5 seconds")
      const refused = yield* fails(breaker)
      assert.match(refused.detail ?? "", /^recovering, 25 % of calls admitted, after 1 consecutive failure/)
      assert.deepStrictEqual(refused.retryAfter, Duration.seconds(15))
      assert.deepInclude(yield* breaker.state("k"), { status: "ramp", share: 0.25 })
    }))

  it.effect("can draw who is admitted, the same ones for the same seed", () =>
    Effect.gen(function*() {
      const draw = Effect.gen(function*() {
        const breaker = yield* recovering({ window: "20 seconds", admission: "random" })
        yield* TestClock.adjust("10 seconds")
        return yield* admitted(breaker, 400)
      }).pipe(Random.withSeed("ramp"))
      const first = yield* draw
      assert.strictEqual(yield* draw, first)
      assert.isTrue(first > 150 && first < 250)
    }))

  it.effect("reads what it says to one who only checks, without using the admission up", () =>
    Effect.gen(function*() {
      const breaker = yield* recovering({ window: "20 seconds", minimumShare: 0.5 })
      for (let i = 0; i < 3; i++) assert.isFalse((yield* breaker.check("k")).admits)
      yield* fails(breaker)
      for (let i = 0; i < 3; i++) assert.isTrue((yield* breaker.check("k")).admits)
    }))
})

describe("by hand", () => {
  it.effect("an isolation lasts until everybody has released it", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      const first = yield* breaker.isolate("k", "maintenance")
      const second = yield* breaker.isolate("k", "invoice")
      const refused = yield* fails(breaker)
      assert.deepStrictEqual([refused.detail, refused.retryAfter], ["isolated: maintenance", undefined])
      yield* first
      yield* first
      assert.deepInclude(yield* breaker.state("k"), { status: "isolated", isolations: ["invoice"] })
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* statusOf(breaker), "isolated")
      yield* second
      assert.strictEqual(yield* breaker.execute("k", up), "up")
    }))

  it.effect("an isolation does not shorten the time a circuit is open", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      yield* fails(breaker)
      const release = yield* breaker.isolate("k", "maintenance")
      yield* TestClock.adjust("10 seconds")
      yield* release
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 50_000 })
    }))

  it.effect("a reset closes a circuit and forgets failures, openings and isolations", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(2) })
      yield* fails(breaker)
      yield* breaker.reset("k")
      yield* fails(breaker)
      assert.strictEqual(yield* statusOf(breaker), "closed")
      yield* breaker.trip("k")
      const release = yield* breaker.isolate("other", "maintenance")
      yield* breaker.resetAll
      assert.deepStrictEqual(
        (yield* breaker.snapshot).map(({ key, openings, status }) => [key, openings, status]),
        [["k", 0, "closed"], ["other", 0, "closed"]]
      )
      yield* release
      assert.deepStrictEqual((yield* breaker.history("k")).outcomes, [])
    }))

  it.effect("a probe can be asked for before its time", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      yield* fails(breaker)
      yield* breaker.probe("k")
      yield* breaker.execute("k", up)
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))
})

describe("reading", () => {
  it.effect("never moves a circuit: not even when its open time is over", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      yield* fails(breaker)
      assert.deepStrictEqual(yield* breaker.check("k"), {
        admits: false,
        status: "open",
        retryAfterMs: 60_000,
        why: "opened after 1 consecutive failure, the last: server_error (overloaded, 529)"
      })
      yield* TestClock.adjust("60 seconds")
      assert.deepInclude(yield* breaker.check("k"), { admits: true, retryAfterMs: 0 })
      assert.deepInclude(yield* breaker.state("k"), { status: "open", remainingMs: 0 })
      assert.strictEqual((yield* breaker.history("k")).transitions.length, 1)
    }))

  it.effect("of many keys is empty while nothing is refused", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(single)
      assert.deepStrictEqual(yield* breaker.checkAll(["k", "other"]), [])
      yield* fails(breaker)
      assert.deepStrictEqual((yield* breaker.checkAll(["k", "other"])).map(({ admits }) => admits), [false, true])
    }))

  it.effect("transitions come in order, to all who listen, and stay in the history", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, ramp: { window: "2 seconds" } })
      const listening = yield* Effect.forkChild(Stream.runCollect(Stream.take(breaker.transitions, 4)))
      yield* Effect.repeat(Effect.yieldNow, { times: 10 })
      yield* fails(breaker)
      yield* TestClock.adjust("60 seconds")
      yield* breaker.execute("k", up)
      yield* TestClock.adjust("2 seconds")
      yield* breaker.execute("k", up)
      const seen = yield* Fiber.join(listening)
      assert.deepStrictEqual(
        seen.map(({ at, from, to }) => [at, from, to]),
        [
          [0, "closed", "open"],
          [60_000, "open", "half-open"],
          [60_000, "half-open", "ramp"],
          [62_000, "ramp", "closed"]
        ]
      )
      assert.deepInclude(seen[0], { openMs: 60_000, openings: 1 })
      assert.deepStrictEqual((yield* breaker.history("k")).transitions, seen)
    }))

  it.effect("history keeps the last hundred outcomes and counts them by class", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ disabled: true })
      for (let i = 0; i < 30; i++) yield* fails(breaker)
      yield* fails(breaker, errorOf("rate_limit"))
      for (let i = 0; i < 79; i++) {
        yield* TestClock.adjust(1)
        yield* breaker.execute("k", up)
      }
      const { counts, outcomes } = yield* breaker.history("k")
      assert.deepStrictEqual(counts, { server_error: 20, ignored: 1, success: 79 })
      assert.deepStrictEqual(outcomes.at(-1), { at: 79, result: "success", durationMs: 0 })
    }))

  it.effect("history tells how long each call took", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      const { permit } = yield* hold(breaker)
      yield* TestClock.adjust(1500)
      yield* permit.failure("defect")
      assert.deepStrictEqual((yield* breaker.history("k")).outcomes, [{ at: 1500, result: "defect", durationMs: 1500 }])
    }))

  it.effect("a circuit shows what its rules have seen", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        trip: [CircuitBreaker.consecutive(9), CircuitBreaker.countWindow()]
      })
      yield* breaker.execute("k", up)
      yield* fails(breaker)
      assert.deepStrictEqual((yield* breaker.state("k")).readings, [
        { rule: "Consecutive", calls: 1, minimumCalls: 0, value: 1, bound: 9 },
        { rule: "Rate", calls: 2, minimumCalls: 20, value: 0.5, bound: 0.5 }
      ])
    }))
})

describe("memory", () => {
  it.effect("T40: follows the keys in use: idle ones are forgotten, open and isolated ones are not", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, idleTimeToLive: "1 minute" })
      for (let i = 0; i < 1000; i++) yield* breaker.execute(`key${i}`, up)
      yield* breaker.trip("open", "1 hour")
      yield* breaker.isolate("isolated", "maintenance")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual((yield* breaker.snapshot).map(({ key }) => key), ["open", "isolated"])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual((yield* breaker.snapshot).map(({ key }) => key), ["isolated"])
    }))

  it.effect("a call that outlives its circuit changes nothing in the next one of its key", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, idleTimeToLive: "1 minute" })
      const { permit } = yield* hold(breaker)
      yield* TestClock.adjust("1 hour")
      yield* breaker.execute("k", up)
      yield* permit.failure("server_error")
      assert.strictEqual(yield* statusOf(breaker), "closed")
    }))
})

describe("disabled", () => {
  it.effect("records and never refuses", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ ...single, disabled: true })
      for (let i = 0; i < 20; i++) assert.strictEqual(yield* fails(breaker), down)
      yield* breaker.isolate("k", "maintenance")
      assert.strictEqual(yield* breaker.execute("k", up), "up")
      assert.deepInclude(yield* breaker.state("k"), { status: "disabled", share: 1 })
      assert.deepStrictEqual((yield* breaker.history("k")).counts, { server_error: 20, success: 1 })
    }))
})

it.effect("protect guards an effect with the breaker of the context", () =>
  Effect.gen(function*() {
    const guarded = CircuitBreaker.protect(Effect.fail(down), { key: "k" })
    assert.strictEqual((yield* Effect.flip(guarded)).origin, "provider")
    assert.strictEqual((yield* Effect.flip(guarded)).origin, "circuit")
  }).pipe(Effect.provide(CircuitBreaker.layerMemory(single))))

describe("options", () => {
  const { consecutive, countWindow, exponential, failureRatio, make, probeRate, probeSample, ratio } = CircuitBreaker
  const { sequence, slowCalls, successRatio, successes, timeWindow, trend } = CircuitBreaker
  const wrong: ReadonlyArray<readonly [RegExp, () => unknown]> = [
    [/failures/, () => consecutive(0)],
    [/failures/, () => consecutive(1.5)],
    [/classes/, () => consecutive(1, { classes: [] })],
    [/weights.timeout/, () => consecutive(1, { weights: { timeout: -1 } })],
    [/size/, () => countWindow({ size: 0.5 })],
    [/minimumCalls must be <= size \(100\)/, () => countWindow({ minimumCalls: 101 })],
    [/minimumCalls/, () => countWindow({ minimumCalls: 0 })],
    [/threshold/, () => countWindow({ threshold: 0 })],
    [/threshold/, () => countWindow({ threshold: 1.1 })],
    [/threshold/, () => timeWindow({ threshold: Number.NaN })],
    [/window/, () => timeWindow({ window: 0 })],
    [/window/, () => timeWindow({ window: "Infinity" })],
    [/failures must be <= outOf \(3\)/, () => ratio({ failures: 4, outOf: 3 })],
    [/firstToken/, () => slowCalls({ firstToken: 0 })],
    [/minimumCalls must be <= size/, () => slowCalls({ duration: 1, size: 5, minimumCalls: 6 })],
    [/bound/, () => trend({ of: "failures", bound: 2 })],
    [/durations\[1\]/, () => sequence([1, -1])],
    [/durations/, () => sequence([])],
    [/factor/, () => exponential({ factor: 0.5 })],
    [/base must be <= max/, () => exponential({ base: "1 hour" })],
    [/required/, () => successes({ required: 0 })],
    [/permitted/, () => successes({ required: 1, permitted: 0 })],
    [/required must be <= outOf/, () => successRatio({ required: 4, outOf: 3 })],
    [/permitted must be <= outOf/, () => failureRatio({ failures: 1, outOf: 3, permitted: 4 })],
    [/threshold/, () => probeRate({ permitted: 1, threshold: 0 })],
    [/tolerated/, () => probeSample({ calls: 1, tolerated: 1 })],
    [/trip/, () => make({ trip: [] })],
    [/open/, () => Effect.runSync(make({ open: 0 }))],
    [/jitter/, () => make({ jitter: 1 })],
    [/maxRetryAfter/, () => make({ maxRetryAfter: -1 })],
    [/probeTimeout/, () => make({ probeTimeout: 0 })],
    [/halfOpenTimeout/, () => make({ halfOpenTimeout: 0 })],
    [/ramp.window/, () => make({ ramp: { window: 999 } })],
    [/ramp.minimumShare/, () => make({ ramp: { minimumShare: 0 } })],
    [/ramp.aggression/, () => make({ ramp: { aggression: 0 } })],
    [/idleTimeToLive/, () => make({ idleTimeToLive: 0 })],
    [/weight/, () => CircuitBreaker.failure("timeout", { weight: -1 })],
    [/unknown/, () => CircuitBreaker.classifyBy({ unknown: Number.NaN })]
  ]
  for (const [field, construct] of wrong) {
    it(`reject ${construct.toString().slice(6).replaceAll(/\s+/g, " ")}`, () =>
      assert.throws(construct, RangeError, field))
  }
})
