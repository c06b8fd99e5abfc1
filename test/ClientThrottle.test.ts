import { assert, describe, it } from "@effect/vitest"
import { LLMError } from "breakwater"
import * as ClientThrottle from "breakwater/ClientThrottle"
import { Clock, Effect, Exit, Fiber, Random } from "effect"
import { TestClock } from "effect/testing"

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "groq", reason: "unknown", ...fields })

const down = error("server_error", { reason: "overloaded" })

const rule = (
  name: string,
  body: Effect.Effect<void, LLMError.LLMError, ClientThrottle.ClientThrottle>,
  options: ClientThrottle.Options = {}
) =>
  it.effect(
    name,
    () => Effect.provide(Random.withSeed(body, "throttle"), ClientThrottle.layerMemory(options))
  )

const run = Effect.fnUntraced(function*(times: number, effect: Effect.Effect<unknown, LLMError.LLMError>, everyMs = 0) {
  const throttle = yield* ClientThrottle.ClientThrottle
  let sent = 0
  for (let call = 0; call < times; call++) {
    yield* TestClock.adjust(everyMs)
    yield* Effect.exit(throttle.execute("groq", Effect.andThen(Effect.sync(() => sent++), effect)))
  }
  return sent
})

const entry = Effect.flatMap(
  ClientThrottle.ClientThrottle,
  (throttle) =>
    Effect.map(throttle.snapshot, ([found]): ClientThrottle.Entry => {
      assert.isDefined(found)
      return found
    })
)

describe("ClientThrottle", () => {
  rule(
    "refuses nothing while the provider serves more than half",
    Effect.gen(function*() {
      let call = 0
      const flaky = Effect.suspend(() => call++ % 5 < 2 ? Effect.fail(down) : Effect.void)
      assert.strictEqual(yield* run(500, flaky, 100), 500)
      assert.strictEqual((yield* entry).probability, 0)
    })
  )

  rule(
    "sends about twice as much as is served, and refuses no request before there were ten",
    Effect.gen(function*() {
      assert.strictEqual(yield* run(10, Effect.fail(down)), 10)
      let served = 0
      let busyUntil = 0
      const onePerSecond = Effect.flatMap(Clock.currentTimeMillis, (now) => {
        if (now < busyUntil) return Effect.fail(down)
        busyUntil = now + 1000
        served++
        return Effect.void
      })
      const sent = yield* run(6000, onePerSecond, 100)
      assert.isAbove(served, 300)
      assert.isAbove(sent, 1.7 * served)
      assert.isBelow(sent, 2.3 * served)
    })
  )

  rule(
    "the probability stays below 1, so that a recovery is seen and ends it",
    Effect.gen(function*() {
      const sent = yield* run(2000, Effect.fail(down), 50)
      assert.strictEqual((yield* entry).probability, 0.9)
      assert.isAbove(sent, 100)
      yield* run(4000, Effect.void, 100)
      assert.strictEqual((yield* entry).probability, 0)
      assert.strictEqual(yield* run(100, Effect.void, 100), 100)
    })
  )

  rule(
    "a refusal is a rate limit of ours that says whom it spares",
    Effect.gen(function*() {
      yield* run(100, Effect.fail(down))
      const throttle = yield* ClientThrottle.ClientThrottle
      const exits = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => Effect.flip(throttle.execute("groq", Effect.fail(down)))
      )
      const refusals = exits.filter((_) => _.origin === "limiter")
      assert.isAbove(refusals.length, 5)
      for (const refusal of refusals) {
        assert.deepInclude(refusal, {
          _tag: "RateLimitError",
          provider: "groq",
          scope: "provider",
          reason: "overloaded"
        })
        assert.strictEqual(ClientThrottle.outcomeOf(refusal), "neutral")
      }
    })
  )

  rule(
    "a provider that hangs is seen before its requests time out: what starts counts, what ends does not have to",
    Effect.gen(function*() {
      const throttle = yield* ClientThrottle.ClientThrottle
      const hanging = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 40 }), () => throttle.execute("groq", Effect.never), {
          concurrency: "unbounded"
        })
      )
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual((yield* entry).probability, 0)
      yield* TestClock.adjust("5 seconds")
      assert.isAbove((yield* entry).probability, 0.5)
      yield* Fiber.interrupt(hanging)
      assert.strictEqual((yield* entry).probability, 0)
    })
  )

  rule(
    "a burst of slow answers is no outage, whatever its size",
    Effect.gen(function*() {
      const throttle = yield* ClientThrottle.ClientThrottle
      const answer = throttle.execute("groq", Effect.sleep("20 seconds"))
      for (let round = 0; round < 5; round++) {
        const fiber = yield* Effect.forkChild(
          Effect.forEach(Array.from({ length: 300 }), () => answer, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust("25 seconds")
        yield* Fiber.join(fiber)
      }
      assert.deepInclude(yield* entry, { sent: 1500, refused: 0, probability: 0 })
    })
  )

  rule(
    "answers on purpose count as served; interruptions and refusals of ours are taken back",
    Effect.gen(function*() {
      yield* run(50, Effect.fail(error("permanent", { scope: "request" })))
      yield* run(50, Effect.fail(error("authentication")))
      yield* run(50, Effect.fail(error("server_error", { origin: "circuit", reason: "circuit_open" })))
      yield* run(50, Effect.interrupt)
      yield* run(50, Effect.die("bug"))
      assert.deepInclude(yield* entry, { sent: 250, refused: 0, probability: 0 })
    })
  )

  rule(
    "a permit that is settled twice counts once, and providers are apart",
    Effect.gen(function*() {
      const throttle = yield* ClientThrottle.ClientThrottle
      for (let call = 0; call < 30; call++) {
        const permit = yield* throttle.admit("groq")
        if (permit === undefined) continue
        yield* permit.settle("refused")
        for (let again = 0; again < 50; again++) yield* permit.settle("accepted")
      }
      const exit = yield* Effect.exit(throttle.execute("openai", Effect.void))
      assert.isTrue(Exit.isSuccess(exit))
      const [groq, openai] = yield* throttle.snapshot
      assert.isAbove(groq?.probability ?? 0, 0.8)
      assert.strictEqual(openai?.probability, 0)
    })
  )

  rule(
    "forgets by time: two minutes after the last request it refuses fewer, after an hour none",
    Effect.gen(function*() {
      yield* run(40, Effect.fail(down))
      const before = (yield* entry).probability
      yield* TestClock.adjust("2 minutes")
      assert.isBelow((yield* entry).probability, before + 1e-9)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* entry).probability, 0)
      yield* TestClock.adjust("1 hour")
      const throttle = yield* ClientThrottle.ClientThrottle
      assert.deepStrictEqual(yield* throttle.snapshot, [])
    })
  )

  it("options are rejected with the name of the field that is wrong", () => {
    const wrong: ReadonlyArray<readonly [RegExp, ClientThrottle.Options]> = [
      [/multiplier/, { multiplier: 0.5 }],
      [/maxProbability/, { maxProbability: 1 }],
      [/minRequests/, { minRequests: -1 }],
      [/window/, { window: 0 }],
      [/grace/, { grace: "Infinity" }],
      [/forgetAfter/, { forgetAfter: -1 }]
    ]
    for (const [field, options] of wrong) assert.throws(() => ClientThrottle.layerMemory(options), field)
  })
})
