import { assert, describe, it } from "@effect/vitest"
import { LLMError, LLMService, Target } from "breakwater"
import * as Health from "breakwater/Health"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Fiber, Layer, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import { classifyLine } from "../src/internal/classifyLine.ts"
import * as IdleMap from "../src/internal/idleMap.ts"

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", ...fields })

const down = error("server_error", { reason: "overloaded", status: 503 })
const good = Health.success({ durationMs: 1000 })
const bad = Health.failure(down, { durationMs: 50 })
const key = "target:a"

const initialScore = 100 * 5 / 5.5

const rule = (name: string, body: Effect.Effect<void, never, Health.Health>, layer = Health.layerMemory()) =>
  it.effect(name, () => Effect.provide(body, layer))

const repeat = Effect.fnUntraced(function*(outcome: Health.Outcome, times: number, everyMs = 0) {
  const health = yield* Health.Health
  for (let call = 0; call < times; call++) {
    yield* TestClock.adjust(everyMs)
    yield* health.record(key, outcome)
  }
})

const score = Effect.flatMap(Health.Health, (health) => health.score(key))

const figures = Effect.flatMap(Health.Health, (health) =>
  Effect.map(health.figures(key), (found): Health.Figures => {
    assert.isDefined(found)
    return found
  }))

describe("score", () => {
  rule(
    "a new key starts near 90 and one failure decides nothing",
    Effect.gen(function*() {
      assert.closeTo(yield* score, initialScore, 1e-9)
      yield* repeat(bad, 1)
      assert.isAbove(yield* score, 50)
      yield* repeat(bad, 9)
      assert.isBelow(yield* score, 30)
    })
  )

  rule(
    "successes bring it close to 100, steadily and never to it",
    Effect.gen(function*() {
      yield* repeat(good, 5, 1000)
      const some = yield* score
      yield* repeat(good, 55, 1000)
      assert.isAbove(yield* score, some)
      assert.isAbove(yield* score, 98)
      assert.isBelow(yield* score, 100)
    })
  )

  rule(
    "old failures do not hold it down: after five minutes of success it is back where it started (T26)",
    Effect.gen(function*() {
      yield* repeat(bad, 200)
      assert.isBelow(yield* score, 5)
      yield* repeat(good, 75, 4000)
      assert.isAtLeast(yield* score, initialScore)
      assert.isAbove((yield* figures).successRate ?? 0, 0.9)
    })
  )

  rule(
    "without calls it goes back to the start over tens of minutes, without a probe and never at once (T28)",
    Effect.gen(function*() {
      yield* repeat(bad, 20)
      const seen: Array<number> = []
      for (let minutes = 0; minutes <= 50; minutes += 10) {
        seen.push(yield* score)
        yield* TestClock.adjust("10 minutes")
      }
      for (const [index, later] of seen.slice(1).entries()) assert.isAbove(later, seen[index] ?? 0)
      const [first = 0, , twenty = 0, , , fifty = 0] = seen
      assert.isBelow(first, 20)
      assert.isBelow(twenty, 75)
      assert.isAbove(fifty, 85)
      assert.isBelow(fifty, initialScore)
    }),
    Health.layerMemory({ forgetAfter: "1 day" })
  )

  rule(
    "one success after a pause does not make up for an outage",
    Effect.gen(function*() {
      yield* repeat(bad, 50)
      yield* TestClock.adjust("5 minutes")
      yield* repeat(good, 1)
      assert.isBelow(yield* score, 50)
    })
  )

  rule(
    "a rate limit counts half, every other class fully",
    Effect.gen(function*() {
      const health = yield* Health.Health
      for (const name of ["rate_limit", "server_error", "timeout", "unknown"] as const) {
        for (let call = 0; call < 10; call++) {
          yield* health.record(name, good)
          yield* health.record(name, Health.failure(error(name), { durationMs: 1000 }))
        }
      }
      const [limited = 0, failed = 0, ...others] = yield* health.scores([
        "rate_limit",
        "server_error",
        "timeout",
        "unknown"
      ])
      assert.isAbove(limited, failed + 10)
      for (const other of others) assert.closeTo(other, failed, 1e-9)
    })
  )

  rule(
    "slow answers lower it a little, and by the first token where there is one",
    Effect.gen(function*() {
      const health = yield* Health.Health
      for (let call = 0; call < 30; call++) {
        yield* health.record("fast", good)
        yield* health.record("slow", Health.success({ durationMs: 40_000 }))
        yield* health.record("long", Health.success({ durationMs: 40_000, firstTokenMs: 500 }))
        yield* health.record("hanging", Health.success({ durationMs: 40_000, firstTokenMs: 20_000 }))
      }
      const [fast = 0, slow = 0, long = 0, hanging = 0] = yield* health.scores(["fast", "slow", "long", "hanging"])
      assert.strictEqual(long, fast)
      assert.isBelow(slow, 75)
      assert.isAbove(slow, 50)
      assert.isBelow(hanging, slow)
    })
  )

  rule(
    "the formula can be replaced, and what it returns is kept between 0 and 100",
    Effect.gen(function*() {
      const health = yield* Health.Health
      assert.strictEqual(yield* health.score("new"), 100)
      yield* repeat(bad, 1)
      assert.strictEqual(yield* score, 40)
      yield* repeat(bad, 1)
      assert.strictEqual(yield* score, 0)
      yield* repeat(bad, 1)
      assert.strictEqual(yield* score, 0)
    }),
    Layer.provide(
      Health.layerMemory(),
      Layer.succeed(Health.Scorer, ({ consecutiveFailures }) => [400, 40, Number.NaN, -7][consecutiveFailures] ?? 0)
    )
  )
})

const Step = Schema.Struct({
  pauseMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 600_000 })),
  kind: Schema.Literals(["success", "stream", ...LLMError.ErrorClass.literals]),
  durationMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 120_000 }))
})

const outcomeOf = ({ durationMs, kind }: (typeof Step)["Type"]): Health.Outcome =>
  kind === "success"
    ? Health.success({ durationMs })
    : kind === "stream"
    ? Health.success({ durationMs, firstTokenMs: durationMs / 3, outputTokens: 100 })
    : Health.failure(error(kind), { durationMs })

const play = Effect.fnUntraced(function*(steps: ReadonlyArray<(typeof Step)["Type"]>) {
  const health = yield* Health.Health
  for (const step of steps) {
    yield* TestClock.adjust(step.pauseMs)
    yield* health.record(key, outcomeOf(step))
  }
})

const Steps = Schema.Array(Step).check(Schema.isMaxLength(40))

const world = <A, E>(effect: Effect.Effect<A, E, Health.Health>) =>
  Effect.provide(effect, [Health.layerMemory({ forgetAfter: "365 days" }), TestClock.layer()])

describe("laws", () => {
  it.effect.prop("a score is between 0 and 100 after any outcomes", [Steps], ([steps]) =>
    world(Effect.gen(function*() {
      yield* play(steps)
      const now = yield* score
      assert.isAtLeast(now, 0)
      assert.isAtMost(now, 100)
      yield* TestClock.adjust("3 hours")
      assert.isAtMost(yield* score, 100)
    })))

  it.effect.prop(
    "a failure never raises a score, whatever came before and however long it took",
    [Steps, Step],
    ([steps, last]) =>
      world(Effect.gen(function*() {
        yield* play(steps)
        const before = yield* score
        const kind = last.kind === "success" || last.kind === "stream" ? "timeout" : last.kind
        const streamed = { durationMs: last.durationMs, firstTokenMs: last.durationMs / 2 }
        const health = yield* Health.Health
        yield* health.record(key, outcomeOf({ ...last, kind }))
        assert.isAtMost(yield* score, before + 1e-9)
        yield* health.record(key, Health.failure(error(kind), streamed))
        assert.isAtMost(yield* score, before + 1e-9)
      }))
  )

  it.effect.prop(
    "time alone brings a score to the start from any side, without passing it",
    [Steps],
    ([steps]) =>
      world(Effect.gen(function*() {
        yield* play(steps)
        let last = yield* score
        for (let hour = 0; hour < 4; hour++) {
          yield* TestClock.adjust("1 hour")
          const next = yield* score
          assert.isAtMost(Math.abs(next - initialScore), Math.abs(last - initialScore) + 1e-9)
          last = next
        }
        assert.closeTo(last, initialScore, 0.01)
      }))
  )

  it.effect.prop(
    "a refusal of ours, an interruption and a request's own fault change no figure but the number ignored (T21)",
    [Steps, Schema.Literals(LLMError.ErrorClass.literals), Schema.Literals(LLMError.Origin.literals)],
    ([steps, errorClass, origin]) =>
      world(Effect.gen(function*() {
        yield* play([...steps, { pauseMs: 0, kind: "stream", durationMs: 900 }])
        yield* TestClock.adjust("10 seconds")
        const health = yield* Health.Health
        const before = yield* figures
        const ignored = [
          Health.interrupted,
          Health.failure(error(errorClass, { origin, scope: origin === "provider" ? "request" : "target" }), {
            durationMs: 90_000
          }),
          Health.failure(error("permanent", { scope: "model", reason: "context_length_exceeded" }), { durationMs: 1 })
        ]
        for (const outcome of ignored) yield* health.record(key, outcome)
        assert.deepStrictEqual(yield* figures, { ...before, ignored: before.ignored + 3 })
      }))
  )
})

describe("corpus", () => {
  const lines = readFileSync(new URL("./fixtures/corpus/errors.jsonl", import.meta.url), "utf8").trim().split("\n")
  const classNames: Readonly<Record<string, LLMError.ErrorClass>> = {
    TransientNetwork: "transient_network",
    RateLimit: "rate_limit",
    Timeout: "timeout",
    ServerError: "server_error",
    Authentication: "authentication",
    Permanent: "permanent",
    Unknown: "unknown"
  }

  rule(
    "no failure seen in the wild that is the request's own changes a target's health (T21)",
    Effect.gen(function*() {
      const health = yield* Health.Health
      let own = 0
      for (const line of lines) {
        const found = classifyLine(line, 1)
        if (typeof found === "string") return assert.fail(found)
        const errorClass = classNames[found.class]
        if (errorClass === undefined) return assert.fail(found.class)
        const raised = error(errorClass, {
          reason: Schema.decodeUnknownSync(LLMError.Reason)(found.reason),
          scope: Schema.decodeUnknownSync(LLMError.Scope)(found.scope)
        })
        if (raised.scope !== "request" && errorClass !== "permanent") continue
        own++
        yield* health.record(key, Health.failure(raised, { durationMs: 10 }))
      }
      assert.isAbove(own, 20)
      assert.strictEqual(yield* score, initialScore)
      assert.deepStrictEqual(yield* health.report, [])
    })
  )
})

describe("figures", () => {
  rule(
    "count what happened, by class, and remember the last error without the provider's words",
    Effect.gen(function*() {
      const health = yield* Health.Health
      yield* TestClock.adjust("1 minute")
      yield* repeat(Health.success({ durationMs: 3000, firstTokenMs: 1000, outputTokens: 100 }), 4)
      yield* health.record(key, Health.failure(error("rate_limit", { status: 429 }), { durationMs: 10 }))
      yield* health.record(key, Health.failure(error("timeout", { reason: "attempt" }), { durationMs: 60_000 }))
      yield* health.record(key, Health.success({ durationMs: 20_000 }))
      yield* health.record(key, Health.failure(error("server_error", { detail: "secret" }), { durationMs: 10 }))
      yield* health.record(key, Health.failure(error("server_error", { detail: "secret" }), { durationMs: 10 }))
      const seen = yield* figures
      assert.deepInclude(seen, {
        requests: 9,
        successes: 5,
        failures: 4,
        rateLimited: 1,
        timeouts: 1,
        slow: 2,
        ignored: 0,
        consecutiveFailures: 2,
        consecutiveSuccesses: 0,
        since: 60_000,
        lastSuccessAt: 60_000,
        idleMs: 0
      })
      assert.deepStrictEqual(seen.lastError, {
        errorClass: "server_error",
        reason: "unknown",
        status: undefined,
        at: 60_000
      })
      assert.closeTo(seen.successRate ?? 0, 5 / 9, 1e-9)
      assert.closeTo(seen.tokensPerSecond ?? 0, 50, 1e-9)
      assert.strictEqual(seen.recentFailuresByClass.server_error, 2)
      assert.isFalse(JSON.stringify(seen).includes("secret"))
      assert.isAtLeast(Object.keys(seen).length, 25)
    })
  )

  rule(
    "quantiles are within 10 % of the truth and forget by time",
    Effect.gen(function*() {
      const health = yield* Health.Health
      for (let millis = 1; millis <= 1000; millis++) {
        yield* health.record(key, Health.success({ durationMs: millis * 10 }))
      }
      const seen = yield* figures
      for (
        const [actual, expected] of [[seen.latencyP50Ms, 5000], [seen.latencyP95Ms, 9500], [seen.latencyP99Ms, 9900]]
      ) {
        assert.closeTo(actual ?? 0, expected ?? 0, (expected ?? 0) * 0.1)
      }
      yield* repeat(Health.success({ durationMs: 100 }), 400, 10_000)
      assert.closeTo((yield* figures).latencyP99Ms ?? 0, 100, 10)
    })
  )

  rule(
    "quantiles stay right over hours of samples",
    Effect.gen(function*() {
      yield* repeat(Health.success({ durationMs: 200, firstTokenMs: 50 }), 500, 60_000)
      const seen = yield* figures
      assert.closeTo(seen.latencyP50Ms ?? 0, 200, 20)
      assert.closeTo(seen.firstTokenP95Ms ?? 0, 50, 5)
    })
  )

  rule(
    "averages weigh by time: a burst of old samples does not outweigh what is new",
    Effect.gen(function*() {
      yield* repeat(Health.success({ durationMs: 5000 }), 50)
      yield* repeat(Health.success({ durationMs: 1000 }), 72, 5000)
      assert.closeTo((yield* figures).latencyMs ?? 0, 1000, 100)
    })
  )

  rule(
    "a failure never looks fast: neither in the averages nor in the cost of one more request",
    Effect.gen(function*() {
      yield* repeat(Health.success({ durationMs: 1000, firstTokenMs: 200 }), 20)
      const before = yield* figures
      yield* repeat(Health.failure(down, { durationMs: 5 }), 5)
      const after = yield* figures
      assert.isAbove(after.latencyMs ?? 0, before.latencyMs ?? 0)
      assert.isAbove(after.firstTokenMs ?? 0, before.firstTokenMs ?? 0)
      assert.isAtLeast(after.peakMs, 900)
      assert.isAbove(Health.cost(after.peakMs, 1), 4 * Health.cost(before.peakMs, 1))
      assert.strictEqual(after.latencyP50Ms, before.latencyP50Ms)
    })
  )

  rule(
    "a peak fades within seconds, so that whoever was slow is tried again",
    Effect.gen(function*() {
      yield* repeat(Health.success({ durationMs: 8000 }), 1)
      assert.strictEqual((yield* figures).peakMs, 8000)
      yield* TestClock.adjust("10 seconds")
      assert.closeTo((yield* figures).peakMs, 8000 / Math.E, 1e-6)
      yield* repeat(Health.success({ durationMs: 500 }), 1)
      assert.closeTo((yield* figures).peakMs, 8000 / Math.E + 500 * (1 - 1 / Math.E), 1e-6)
    })
  )

  it("a key that has never answered costs little until it has a request in flight", () => {
    assert.strictEqual(Health.cost(0, 0), 0)
    assert.isAbove(Health.cost(0, 1), Health.cost(1000, 20))
    assert.strictEqual(Health.cost(200, 3), 800)
  })
})

describe("status", () => {
  const seen = Effect.map(figures, (_) => _.status)
  // The score is what the scorer reads from the last duration, so that every value can be chosen.
  const scripted = Layer.provide(
    Health.layerMemory({ memory: 1, idleMemory: 1 }),
    Layer.succeed(Health.Scorer, ({ latencyMs }) => latencyMs ?? 90)
  )
  const reach = (value: number) => repeat(Health.success({ durationMs: value }), 1, 60_000)

  rule(
    "falls at 80 and 50 and rises 5 above, so that a wavering score does not change it",
    Effect.gen(function*() {
      for (
        const [value, expected] of [
          [80, "healthy"],
          [79.5, "degraded"],
          [84, "degraded"],
          [79, "degraded"],
          [85.5, "healthy"],
          [49, "critical"],
          [54, "critical"],
          [55.5, "degraded"],
          [20, "critical"],
          [84, "degraded"],
          [20, "critical"],
          [99, "healthy"]
        ] as const
      ) {
        yield* reach(value)
        assert.strictEqual(yield* seen, expected, String(value))
      }
    }),
    scripted
  )

  rule(
    "a warning is sent when a score falls below 70, again only after it recovered, and a change with each new status",
    Effect.gen(function*() {
      const health = yield* Health.Health
      const fiber = yield* Effect.forkChild(Stream.runCollect(Stream.take(health.changes, 5)))
      yield* Effect.yieldNow
      for (const value of [90, 69, 72, 68, 76, 60, 40, 90]) yield* reach(value)
      const events = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        events.map((event) => [event._tag, Math.round(event.score), event.status]),
        [
          ["Warning", 69, "degraded"],
          ["StatusChanged", 69, "degraded"],
          ["Warning", 60, "degraded"],
          ["StatusChanged", 40, "critical"],
          ["StatusChanged", 90, "healthy"]
        ]
      )
    }),
    scripted
  )
})

describe("state of others", () => {
  it("an open circuit and a cooldown leave 0, half-open at most 30, a ramp its share", () => {
    assert.strictEqual(Health.withState(90, {}), 90)
    assert.strictEqual(Health.withState(90, { circuit: "closed", cooling: false }), 90)
    assert.strictEqual(Health.withState(90, { circuit: "open" }), 0)
    assert.strictEqual(Health.withState(90, { circuit: "isolated" }), 0)
    assert.strictEqual(Health.withState(90, { cooling: true }), 0)
    assert.strictEqual(Health.withState(90, { circuit: "half-open" }), 30)
    assert.strictEqual(Health.withState(20, { circuit: "half-open" }), 20)
    assert.strictEqual(Health.withState(80, { circuit: "closed", rampShare: 0.25 }), 20)
    assert.strictEqual(Health.withState(80, { rampShare: 7 }), 80)
  })
})

describe("keys", () => {
  rule(
    "are independent, reported worst first, and forgotten one by one or all at once",
    Effect.gen(function*() {
      const health = yield* Health.Health
      yield* health.record("good", good)
      yield* health.record("bad", bad)
      yield* health.record("worse", bad)
      yield* health.record("worse", bad)
      assert.deepStrictEqual((yield* health.report).map((_) => _.key), ["worse", "bad", "good"])
      assert.isTrue(yield* health.reset("worse"))
      assert.isFalse(yield* health.reset("worse"))
      assert.closeTo(yield* health.score("worse"), initialScore, 1e-9)
      assert.strictEqual(yield* health.resetAll, 2)
      assert.deepStrictEqual(yield* health.report, [])
      assert.isUndefined(yield* health.figures("bad"))
    })
  )

  rule(
    "of one attempt are recorded at once, as one by one",
    Effect.gen(function*() {
      const health = yield* Health.Health
      const streamed = Health.success({ durationMs: 3000, firstTokenMs: 1000, outputTokens: 100 })
      const mine = Health.failure(error("permanent"), { durationMs: 5 })
      for (const outcome of [streamed, bad, mine, Health.interrupted]) {
        yield* TestClock.adjust("1 second")
        yield* health.recordAll(["a", "b"], outcome)
        yield* health.record("c", outcome)
      }
      const [a, b, c] = yield* Effect.forEach(["a", "b", "c"], (key) => health.figures(key))
      assert.deepStrictEqual({ ...a, key: "" }, { ...c, key: "" })
      assert.deepStrictEqual({ ...b, key: "" }, { ...c, key: "" })
      assert.deepInclude(a, { requests: 2, ignored: 2 })
      yield* health.recordAll([], streamed)
      assert.strictEqual(yield* health.resetAll, 3)
    })
  )

  rule(
    "of one attempt that become worse together are all told of",
    Effect.gen(function*() {
      const health = yield* Health.Health
      const fiber = yield* Effect.forkChild(Stream.runCollect(Stream.take(health.changes, 6)))
      yield* Effect.yieldNow
      for (let call = 0; call < 20; call++) yield* health.recordAll(["a", "b"], bad)
      const events = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        events.map((event) => [event.key, event._tag, event.status]),
        [
          ["a", "Warning", "degraded"],
          ["a", "StatusChanged", "degraded"],
          ["b", "Warning", "degraded"],
          ["b", "StatusChanged", "degraded"],
          ["a", "StatusChanged", "critical"],
          ["b", "StatusChanged", "critical"]
        ]
      )
    })
  )

  rule(
    "are read together, and those that are not known read as new ones",
    Effect.gen(function*() {
      const health = yield* Health.Health
      yield* health.record("streams", Health.success({ durationMs: 3000, firstTokenMs: 1000, outputTokens: 100 }))
      yield* health.record("streams", Health.success({ durationMs: 5000, firstTokenMs: 2000, outputTokens: 100 }))
      yield* health.record("fails", bad)
      yield* TestClock.adjust("10 seconds")
      const readings = yield* health.readings(["fails", "new", "streams"])
      assert.deepStrictEqual(readings.map((_) => _.score), yield* health.scores(["fails", "new", "streams"]))
      const [fails, unknown, streams] = readings
      assert.deepStrictEqual(unknown, {
        score: initialScore,
        peakMs: 0,
        firstTokenMs: undefined,
        perTokenMs: undefined
      })
      assert.deepInclude(streams, { firstTokenMs: 1500, perTokenMs: 25 })
      assert.closeTo(streams?.peakMs ?? 0, 2000 / Math.E, 1e-6)
      assert.deepInclude(fails, { firstTokenMs: undefined, perTokenMs: undefined })
      assert.strictEqual(fails?.peakMs, (yield* health.figures("fails"))?.peakMs)
    })
  )

  rule(
    "that are not used for an hour are forgotten",
    Effect.gen(function*() {
      const health = yield* Health.Health
      yield* repeat(bad, 5)
      yield* TestClock.adjust("59 minutes")
      assert.strictEqual((yield* health.report).length, 1)
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(yield* health.figures(key))
      assert.deepStrictEqual(yield* health.report, [])
    })
  )

  it("idle ones are dropped while others are used, so a stream of new names takes bounded memory (T40)", () => {
    const keys = IdleMap.make(1000, () => ({}))
    for (let now = 0; now < 200_000; now++) keys.use(`key-${now}`, now)
    assert.isAtMost(keys.size(), 2000)
    keys.use("last", 1_000_000)
    assert.strictEqual(keys.size(), 1)
  })
})

describe("options", () => {
  it("are rejected with the name of the field that is wrong", () => {
    const wrong: ReadonlyArray<readonly [RegExp, () => unknown]> = [
      [/: memory/, () => Health.layerMemory({ memory: 0 })],
      [/idleMemory/, () => Health.layerMemory({ idleMemory: "Infinity" })],
      [/slowAfter/, () => Health.layerMemory({ slowAfter: -1 })],
      [/failureTime/, () => Health.layerMemory({ failureTime: 0 })],
      [/forgetAfter/, () => Health.layerMemory({ forgetAfter: 0 })],
      [/warnBelow/, () => Health.layerMemory({ warnBelow: 101 })],
      [/priorSuccesses/, () => Health.makeScorer({ priorSuccesses: -1 })],
      [/priorSuccesses/, () => Health.makeScorer({ priorSuccesses: 0, priorFailures: 0 })],
      [/priorFailures/, () => Health.makeScorer({ priorFailures: Number.NaN })],
      [/weights.timeout/, () => Health.makeScorer({ weights: { timeout: -1 } })],
      [/targetLatency/, () => Health.makeScorer({ targetLatency: 0 })],
      [/targetFirstToken/, () => Health.makeScorer({ targetFirstToken: 0 })],
      [/latencyExponent/, () => Health.makeScorer({ latencyExponent: Infinity })]
    ]
    for (const [field, construct] of wrong) assert.throws(construct, field)
  })
})

describe("the layer in front of a single provider", () => {
  const target = Target.make({ provider: "p", model: "m" })
  const service = (...steps: ReadonlyArray<TestProvider.Step>) =>
    Health.layerLLMService({ key }).pipe(
      Layer.provide(LLMService.layerProvider(target)),
      Layer.provideMerge(Layer.merge(TestProvider.layer({ "p/m": steps }), Health.layerMemory()))
    )
  const figures = Effect.flatMap(Health.Health, (health) => health.figures(key))

  it.effect("records successes with their times, failures and early ends", () =>
    Effect.gen(function*() {
      const llm = yield* LLMService.LLMService
      const whole = yield* Effect.forkChild(llm.complete({ prompt: "hi" }))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(whole)
      const streamed = yield* Effect.forkChild(Stream.runDrain(llm.stream({ prompt: "hi" })))
      yield* TestClock.adjust("4 seconds")
      yield* Fiber.join(streamed)
      assert.strictEqual((yield* figures)?.firstTokenMs, 3000)
      yield* Effect.flip(llm.complete({ prompt: "hi" }))
      assert.strictEqual((yield* figures)?.consecutiveFailures, 1)
      const stalled = yield* Effect.forkChild(llm.complete({ prompt: "hi" }))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(stalled)
      assert.strictEqual((yield* figures)?.consecutiveFailures, 1)
    }).pipe(Effect.provide(service(
      TestProvider.reply("whole", { delay: "2 seconds" }),
      TestProvider.reply(["a", "b"], { delay: "3 seconds", gap: "1 second" }),
      TestProvider.fail("server_error", { reason: "overloaded", status: 503 }),
      TestProvider.stall()
    ))))
})
