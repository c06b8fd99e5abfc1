import { assert, describe, it } from "@effect/vitest"
import { Events, Hedging, type LLMError, type LLMService, Resilience, Router, Selection, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Fiber, Layer, Redacted, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { broken, complete, concurrently, limited, streamParts, target, withRouter } = Calls

const reply = TestProvider.reply("ok", { usage: { input: 1000, output: 500 } })
const price = { input: 2, output: 10 }

/** Everything that is published from now on. */
const watch = Effect.gen(function*() {
  const events = yield* Events.Events
  const seen: Array<Events.Event> = []
  const fiber = yield* Effect.forkChild(
    Stream.runForEach(events.stream, (event) => Effect.sync(() => void seen.push(event))),
    { startImmediately: true }
  )
  return { seen, stop: Fiber.interrupt(fiber) }
})

/** Runs a call to its end, however it ends, and returns what was told of it. */
const told = <A, E, R>(call: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { seen, stop } = yield* watch
    const fiber = yield* Effect.forkChild(Effect.exit(call))
    yield* TestClock.adjust("2 minutes")
    yield* Fiber.join(fiber)
    yield* stop
    return seen
  })

const words = (event: Events.Event): string =>
  event._tag === "AttemptEnded"
    ? `${event.call}: ${event.attempt.target} ${event.attempt.outcome}`
    : `${event.call}: ${event.outcome} ${event.target ?? "nowhere"}`

type Ends = ReadonlyArray<
  readonly [
    string,
    TestProvider.Step,
    Effect.Effect<unknown, unknown, LLMService.LLMService | Router.Router>,
    ReadonlyArray<string>
  ]
>

describe("Events", () => {
  const whole = (request?: Partial<LLMService.CompletionRequest>) => complete(request)
  const streamed = (request?: Partial<LLMService.CompletionRequest>) => Stream.runDrain(streamParts(request))
  const ends: Ends = [
    ["an answer", reply, whole(), ["1: acme/a success", "1: success acme/a"]],
    ["a stream to its end", reply, streamed(), ["1: acme/a success", "1: success acme/a"]],
    ["a failure", broken(), whole(), ["1: acme/a failure", "1: failure acme/a"]],
    ["a stream that fails before its content", broken(), streamed(), ["1: acme/a failure", "1: failure acme/a"]],
    [
      "a stream that breaks after its content",
      TestProvider.cut(["half"]),
      streamed(),
      ["1: acme/a failure", "1: failure acme/a"]
    ],
    ["a deadline", TestProvider.stall(), whole({ deadline: "1 second" }), ["1: acme/a failure", "1: failure acme/a"]],
    [
      "an interruption",
      TestProvider.stall(),
      Effect.timeout(whole(), "1 second"),
      ["1: acme/a interrupted", "1: interrupted nowhere"]
    ],
    [
      "a stream that is interrupted before its content",
      TestProvider.stall(),
      Effect.timeout(streamed(), "1 second"),
      ["1: acme/a interrupted", "1: interrupted nowhere"]
    ],
    [
      "a stream that is interrupted after its content",
      TestProvider.stall(["half"]),
      Effect.timeout(streamed(), "1 second"),
      ["1: acme/a interrupted", "1: interrupted nowhere"]
    ],
    [
      "a stream that is left",
      TestProvider.reply(["a", "b", "c"]),
      Stream.runDrain(Stream.take(streamParts(), 3)),
      ["1: acme/a interrupted", "1: interrupted nowhere"]
    ],
    [
      "an effect",
      reply,
      Router.execute(() => Effect.succeed(1)),
      ["1: acme/a success", "1: success acme/a"]
    ],
    [
      "a defect",
      reply,
      Router.execute(() => Effect.die("broken")),
      ["1: acme/a interrupted", "1: interrupted nowhere"]
    ]
  ]
  for (const [name, step, call, expected] of ends) {
    it.effect(`tell of ${name}: its attempt, and then once the call`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual((yield* told(call)).map(words), [...expected])
      }).pipe(Effect.provide(withRouter({ targets: [target("acme/a")], retry: Schedule.recurs(0) }, { "*": [step] }))))
  }

  it.effect("hold the record, the times, the costs and the tenant", () =>
    Effect.gen(function*() {
      const [first, second, ended] = yield* told(complete({ tenant: "math" }))
      assert(first?._tag === "AttemptEnded" && second?._tag === "AttemptEnded" && ended?._tag === "CallEnded")
      assert.deepStrictEqual(first.attempt, {
        target: "acme/a",
        provider: "acme",
        model: "a",
        chosen: "first",
        startedMs: 0,
        waitedMs: 0,
        durationMs: 2000,
        outcome: "failure",
        errorClass: "rate_limit",
        reason: "rate_limit",
        scope: "model",
        status: 429,
        retryAfterMs: 60_000,
        maybeBilled: false,
        skipped: []
      })
      assert.strictEqual(first.at, 2000)
      assert.deepStrictEqual([second.attempt.cost, second.attempt.startedMs, second.at], [0.007, 2000, 5000])
      assert.deepStrictEqual(ended, {
        _tag: "CallEnded",
        call: 1,
        at: 5000,
        outcome: "success",
        target: "acme/b",
        tenant: "math",
        errorClass: undefined,
        reason: undefined,
        attempts: [first.attempt, second.attempt],
        totalMs: 5000,
        waitedMs: 0,
        cost: 0.007,
        costAtLeast: false
      })
    }).pipe(Effect.provide(withRouter({ targets: ["acme/a", "acme/b"].map((name) => target(name, { price })) }, {
      "acme/a": [
        TestProvider.fail("rate_limit", {
          reason: "rate_limit",
          scope: "model",
          status: 429,
          retryAfter: Duration.minutes(1)
        }, { delay: "2 seconds" })
      ],
      "acme/b": [TestProvider.reply("ok", { delay: "3 seconds", usage: { input: 1000, output: 500 } })]
    }))))

  it.effect("say why a call failed, and what it waited", () =>
    Effect.gen(function*() {
      const events = yield* told(complete({ deadline: "30 seconds" }))
      const ended = events.at(-1)
      assert(ended?._tag === "CallEnded")
      assert.deepStrictEqual(
        [ended.outcome, ended.target, ended.errorClass, ended.reason, ended.attempts.length, ended.waitedMs],
        ["failure", "acme/a", "server_error", "overloaded", 2, 7000]
      )
      assert.deepStrictEqual([ended.totalMs, ended.cost, ended.costAtLeast], [7000, undefined, true])
    }).pipe(Effect.provide(withRouter({
      targets: [target("acme/a", { price })],
      retry: Schedule.spaced("7 seconds").pipe(Schedule.upTo({ times: 1 }))
    }, { "*": [broken({ reason: "overloaded", maybeBilled: true })] }))))

  type Refused = Effect.Effect<unknown, LLMError.LLMError, LLMService.LLMService | Router.Router>
  const refusals: ReadonlyArray<readonly [what: string, why: string, call: Refused, reason: LLMError.Reason]> = [
    ["an answer", "a wrong request", complete({ tenant: "math", temperature: -1 }), "invalid_request"],
    [
      "a stream",
      "a wrong request",
      Stream.runDrain(streamParts({ tenant: "math", temperature: -1 })),
      "invalid_request"
    ],
    [
      "an effect",
      "a wrong option",
      Router.execute(() => Effect.void, { tenant: "math", deadline: -1 }),
      "invalid_request"
    ],
    ["an answer", "what nobody can do", complete({ tenant: "math", tags: ["mars"] }), "unsupported_parameter"],
    [
      "a stream",
      "what nobody can do",
      Stream.runDrain(streamParts({ tenant: "math", tags: ["mars"] })),
      "unsupported_parameter"
    ],
    [
      "an effect",
      "what nobody can do",
      Router.execute(() => Effect.void, { tenant: "math", tags: ["mars"] }),
      "unsupported_parameter"
    ],
    [
      "an answer",
      "what is too long for all",
      complete({ tenant: "math", prompt: "wave ".repeat(5000) }),
      "context_length_exceeded"
    ]
  ]
  for (const [what, why, call, reason] of refusals) {
    it.effect(`tell of ${what} that is refused before it begins, for ${why}`, () =>
      Effect.gen(function*() {
        const events = yield* told(Effect.flip(call))
        assert.deepStrictEqual(events, [{
          _tag: "CallEnded",
          call: 1,
          at: 0,
          outcome: "failure",
          target: undefined,
          tenant: "math",
          errorClass: "permanent",
          reason,
          attempts: [],
          totalMs: 0,
          waitedMs: 0,
          cost: undefined,
          costAtLeast: false
        }])
      }).pipe(Effect.provide(withRouter({ targets: [target("acme/a", { contextWindow: 1000 })] }, { "*": [reply] }))))
  }

  it.effect("tell of a call that made no attempt", () =>
    Effect.gen(function*() {
      yield* Effect.flip(complete({ deadline: "1 second" }))
      const events = yield* told(complete({ deadline: "1 second" }))
      assert.deepStrictEqual(events.map(words), ["2: failure acme/a"])
    }).pipe(Effect.provide(withRouter({ targets: [target("acme/a")] }, { "*": [limited("1 hour")] }))))

  it.effect("tell of the request that was cancelled in favour of a hedge before that of the answer", () =>
    Effect.gen(function*() {
      const events = yield* told(complete())
      assert.deepStrictEqual(events.map(words), ["1: acme/b success", "1: acme/a interrupted", "1: success acme/b"])
      const ended = events.at(-1)
      assert(ended?._tag === "CallEnded")
      assert.deepStrictEqual(ended.attempts.map((_) => [_.target, _.chosen]), [["acme/a", "first"], [
        "acme/b",
        "hedge"
      ]])
    }).pipe(Effect.provide(
      Router.layer({ targets: [target("acme/a"), target("acme/b")] }).pipe(
        Layer.provide(Hedging.layerMemory({ delay: "1 second", maxExtraLoad: 1 })),
        Layer.provideMerge(Layer.merge(
          TestProvider.layer({ "acme/a": [TestProvider.stall()], "acme/b": [reply] }),
          Resilience.layerMemory()
        ))
      )
    )))

  it.effect("tell of both answers of a stream that begins anew, and once of the call", () =>
    Effect.gen(function*() {
      const events = yield* told(Stream.runDrain(streamParts({ streamPolicy: "restart" })))
      assert.deepStrictEqual(events.map(words), ["1: acme/a failure", "1: acme/b success", "1: success acme/b"])
    }).pipe(Effect.provide(withRouter({
      targets: [target("acme/a"), target("acme/b")],
      retry: Schedule.recurs(0)
    }, { "acme/a": [TestProvider.cut(["half"])], "acme/b": [reply] }))))

  it.effect("number the calls of a router, whatever they are", () =>
    Effect.gen(function*() {
      const { seen, stop } = yield* watch
      yield* concurrently(2, complete())
      yield* concurrently(1, Router.execute(() => Effect.void))
      yield* TestClock.adjust("1 minute")
      yield* stop
      assert.deepStrictEqual(new Set(seen.map((_) => _.call)), new Set([1, 2, 3]))
      assert.strictEqual(seen.length, 6)
    }).pipe(Effect.provide(withRouter({ targets: [target("acme/a")] }, { "*": [reply] }))))

  it.effect("reach all who listen, from when they begin to", () =>
    Effect.gen(function*() {
      const first = yield* watch
      yield* complete()
      const second = yield* watch
      yield* complete()
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(first.seen.map((_) => _.call), [1, 1, 2, 2])
      assert.deepStrictEqual(second.seen.map((_) => _.call), [2, 2])
      yield* first.stop
      yield* complete()
      yield* TestClock.adjust(1)
      assert.strictEqual(first.seen.length, 4)
      assert.deepStrictEqual(second.seen.map((_) => _.call), [2, 2, 3, 3])
      yield* second.stop
    }).pipe(Effect.provide(withRouter({ targets: [target("acme/a")] }, { "*": [reply] }))))

  it.effect("are not made while nobody listens, also when somebody did", () =>
    Effect.gen(function*() {
      const events = yield* Events.Events
      let made = 0
      const publish = events.publish(() => {
        made++
        return { _tag: "AttemptEnded", call: 1, at: 0, attempt }
      })
      yield* publish
      assert.strictEqual(made, 0)
      const one = yield* watch
      const two = yield* watch
      yield* publish
      assert.strictEqual(made, 1)
      yield* one.stop
      yield* publish
      assert.strictEqual(made, 2)
      yield* two.stop
      yield* publish
      assert.strictEqual(made, 2)
    }).pipe(Effect.provide(Events.layer)))

  it.effect("of the latest are kept for who is slow: the oldest ones are missed, and nobody is held up", () =>
    Effect.gen(function*() {
      const events = yield* Events.Events
      const seen: Array<number> = []
      yield* Effect.forkChild(
        Stream.runForEach(
          events.stream,
          ({ call }) => Effect.andThen(Effect.sync(() => seen.push(call)), Effect.sleep("1 second"))
        ),
        { startImmediately: true }
      )
      for (let call = 1; call <= 5000; call++) {
        yield* events.publish(() => ({ _tag: "AttemptEnded", call, at: 0, attempt }))
      }
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(seen.slice(-1024), Array.from({ length: 1024 }, (_, index) => 3977 + index))
      assert.isBelow(seen.length, 4000)
    }).pipe(Effect.provide(Events.layer)))

  it.effect("never hold a prompt, an answer or a key (T40)", () =>
    Effect.gen(function*() {
      const canary = "canary-4711"
      const request = {
        prompt: `${canary} prompt`,
        affinity: `${canary} affinity`,
        stop: `${canary} stop`,
        extra: { note: `${canary} extra` }
      }
      const answered = TestProvider.reply(`${canary} answer`)
      const failing = TestProvider.fail("server_error", {
        reason: "internal_error",
        detail: `${canary} detail`,
        cause: new Error(`${canary} cause`),
        maybeBilled: true
      })
      const provider = yield* TestProvider.TestProvider
      const seen: Array<Events.Event> = []
      for (
        const script of [[answered], [failing], [failing, answered], [TestProvider.cut([canary])], [
          TestProvider.stall([canary])
        ]]
      ) {
        for (const call of [complete(request), Stream.runDrain(streamParts(request))]) {
          yield* provider.script("acme/a@k", script)
          seen.push(...(yield* told(call)))
        }
      }
      seen.push(
        ...(yield* told(Router.execute(() => Effect.fail(new Error(`${canary} failure`))))),
        ...(yield* told(Router.execute(() => Effect.succeed(`${canary} value`))))
      )
      assert.isAtLeast(seen.length, 20)
      assert.notInclude(JSON.stringify(seen), canary)
    }).pipe(Effect.provide(withRouter(
      {
        targets: [
          Target.make({
            provider: "acme",
            model: "a",
            key: { id: "k", value: Redacted.make("canary-4711 key") },
            headers: { "x-account": "canary-4711 header" },
            baseUrl: "https://example.com/canary-4711"
          })
        ],
        recovery: { classes: { timeout: { cooldown: 0 } } },
        retry: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 }))
      },
      {},
      { circuit: { disabled: true } }
    ))))
})

const attempt: LLMError.Attempt = {
  target: "acme/a",
  provider: "acme",
  model: "a",
  chosen: "first",
  startedMs: 0,
  waitedMs: 0,
  durationMs: 0,
  outcome: "success",
  maybeBilled: true,
  skipped: []
}

describe("Router.explain", () => {
  const explained = (
    options: Router.Options,
    scripts: Calls.Scripts,
    request?: Partial<LLMService.CompletionRequest>
  ) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(Effect.result(complete(request)))
      yield* TestClock.adjust("5 minutes")
      const result = yield* Fiber.join(fiber)
      return Router.explain(result._tag === "Success" ? result.success : result.failure).split("\n")
    }).pipe(Effect.provide(withRouter(options, scripts)))

  const a = target("acme/a", { price })
  const b = target("best/b", { price })

  it.effect("says of an answer who gave it, after what, in which time and for how much", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* explained({ targets: [a] }, {
          "*": [TestProvider.reply("ok", { delay: "1500 millis", usage: { input: 1000, output: 500 } })]
        }),
        ["answered by acme/a after 1 attempt in 1.5 s, $0.0070", "1. acme/a, first: answered after 1.5 s, $0.0070"]
      )
    }))

  it.effect("says what was waited, who was passed over and why, and that more may have been billed", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* explained({
          targets: [a, b, target("acme/c", { tags: ["eu"], capabilities: { jsonSchema: false } })],
          retry: Schedule.spaced("7 seconds").pipe(Schedule.upTo({ times: 1 }))
        }, {
          "acme/a": [broken({ maybeBilled: true, status: 500 }), limited("90 seconds", { scope: "target" })],
          "best/b": [reply]
        }, { responseFormat: { type: "json_schema", name: "x", schema: {} } }),
        [
          "answered by best/b after 3 attempts in 7 s, 7 s of it waiting, at least $0.0070",
          "1. acme/a, first: server_error (internal_error, 500) after 0 ms, perhaps billed",
          "   passed over: acme/c (capability)",
          "2. acme/a, retry after a wait of 7 s: rate_limit (429) after 0 ms, asked to wait 90 s",
          "3. best/b, next: answered after 0 ms, $0.0070",
          "   passed over: acme/a (cooldown, 90 s left)"
        ]
      )
    }))

  it.effect("says of an error what it was, after what", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* explained({ targets: [a, b] }, { "*": [limited("20 minutes", { scope: "target" })] }),
        [
          "failed with rate_limit after 2 attempts: rate limited on all 2 targets; earliest capacity in 20 m " +
          "(acme 0/1, best 0/1)",
          "1. acme/a, first: rate_limit (429) after 0 ms, asked to wait 20 min",
          "2. best/b, next: rate_limit (429) after 0 ms, asked to wait 20 min",
          "   passed over: acme/a (cooldown, 20 min left)"
        ]
      )
    }))

  it.effect("names the strategy that chose", () =>
    Effect.gen(function*() {
      const [, first] = yield* explained({ targets: [a], strategy: Selection.healthiest }, { "*": [reply] })
      assert.strictEqual(first, "1. acme/a, first by healthiest: answered after 0 ms, $0.0070")
    }))

  const line = (fields: Partial<LLMError.Attempt>, outcome: Partial<Router.Explained> = {}) =>
    Router.explain({ attempts: [{ ...attempt, ...fields }], ...outcome }).split("\n")
  const table: ReadonlyArray<readonly [string, ReadonlyArray<string>, ReadonlyArray<string>]> = [
    ["a list of attempts", line({}), ["answered by acme/a after 1 attempt", "1. acme/a, first: answered after 0 ms"]],
    ["no attempt", Router.explain({ attempts: [] }).split("\n"), ["no answer after 0 attempts"]],
    [
      "an error without a message",
      Router.explain({ attempts: [], errorClass: "timeout", message: "" }).split("\n"),
      ["failed with timeout after 0 attempts"]
    ],
    [
      "an attempt that was cancelled",
      line({ outcome: "interrupted", chosen: "hedge", durationMs: 1234 }),
      ["no answer after 1 attempt", "1. acme/a, hedge: cancelled after 1.2 s, perhaps billed"]
    ],
    [
      "a failure of which the class says all",
      line({ outcome: "failure", errorClass: "rate_limit", reason: "rate_limit", maybeBilled: false }),
      ["no answer after 1 attempt", "1. acme/a, first: rate_limit after 0 ms"]
    ],
    [
      "a wait of ten minutes, and of less than a second",
      line({ waitedMs: 600_000, durationMs: 999.4 }),
      ["answered by acme/a after 1 attempt", "1. acme/a, first after a wait of 10 min: answered after 999 ms"]
    ],
    [
      "who was passed over without an end",
      line({ skipped: [{ target: "x/y", why: "context_window" }, { target: "x/z", why: "limit", remainingMs: 400 }] }),
      [
        "answered by acme/a after 1 attempt",
        "1. acme/a, first: answered after 0 ms",
        "   passed over: x/y (context window), x/z (limit, 400 ms left)"
      ]
    ],
    [
      "what cost nothing",
      line({ cost: 0 }, { cost: 0, costAtLeast: false }),
      ["answered by acme/a after 1 attempt, $0", "1. acme/a, first: answered after 0 ms, $0"]
    ],
    [
      "what cost very little, and much",
      line({ cost: 0.000_001_234 }, { cost: 12.345, costAtLeast: true }),
      ["answered by acme/a after 1 attempt, at least $12.35", "1. acme/a, first: answered after 0 ms, $0.0000012"]
    ]
  ]
  for (const [name, lines, expected] of table) {
    it(`puts into words ${name}`, () => {
      assert.deepStrictEqual([...lines], [...expected])
    })
  }
})
