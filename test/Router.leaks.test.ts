import { assert, describe, it } from "@effect/vitest"
import {
  Events,
  Hedging,
  LLMError,
  type LLMService,
  RateLimiter,
  Resilience,
  RetryBudget,
  Router,
  Selection
} from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Fiber, Layer, Random, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { broken, complete, limited, perMinute, streamParts, target } = Calls

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const steps: ReadonlyArray<TestProvider.Step> = [
  TestProvider.reply("at once"),
  TestProvider.reply(["a", "b", "c"], { connect: "100 millis", delay: "700 millis", gap: "300 millis" }),
  TestProvider.reply("late", { delay: "20 seconds" }),
  TestProvider.stall(),
  TestProvider.stall(["a"], { delay: "200 millis" }),
  TestProvider.cut(["a", "b"], { gap: "400 millis" }),
  TestProvider.cut([], { delay: "400 millis" }),
  broken({ maybeBilled: true }, { delay: "300 millis" }),
  broken({ scope: "provider" }),
  limited("2 seconds", { scope: "key" }),
  limited(),
  TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 }),
  TestProvider.fail("permanent", { reason: "content_filter", scope: "request", status: 400 })
]

const kinds = ["complete", "stream", "take", "execute"] as const
const policies = ["fail", "restart", "continue", "buffer"] as const

describe("Router", () => {
  it.effect.prop(
    "whatever is called, fails and is interrupted, nothing is left behind, and everything is told once",
    {
      seed: between(0, 1_000_000),
      scripts: Schema.NonEmptyArray(Schema.NonEmptyArray(between(0, steps.length - 1))),
      calls: Schema.NonEmptyArray(Schema.Struct({
        kind: Schema.Literals(kinds),
        policy: Schema.Literals(policies),
        startMs: between(0, 3000),
        interruptMs: Schema.NullOr(between(0, 15_000)),
        deadlineMs: between(1, 60_000),
        affinity: Schema.Boolean,
        idempotent: Schema.Boolean
      })),
      concurrency: Schema.NullOr(between(1, 2)),
      hedge: Schema.Boolean
    },
    ({ calls, concurrency, hedge, scripts, seed }) => {
      const pending: Array<ReadonlyArray<number>> = []
      const strategy: Selection.Strategy = {
        ...Selection.powerOfTwo,
        pick: (snapshot, from, to, random) => {
          pending.push(Array.from(snapshot.pending))
          return Selection.powerOfTwo.pick(snapshot, from, to, random)
        }
      }
      const targets = scripts.slice(0, 5).map((_, n) =>
        target(`p${n % 2}/m@k${n}`, {
          capabilities: { prefill: n % 2 === 0 },
          ...(concurrency === null ? undefined : { limits: { concurrency, tokens: perMinute(100_000) } })
        })
      )
      const scripted = Object.fromEntries(
        scripts.slice(0, 5).map((script, n) => [`p${n % 2}/m@k${n}`, script.flatMap((at) => steps[at] ?? [])])
      )
      const live = Router.layer({ targets, strategy, timeouts: { attempt: "8 seconds", firstToken: "8 seconds" } })
        .pipe(
          hedge ? Layer.provide(Hedging.layerMemory({ delay: "500 millis", maxExtraLoad: 1 })) : (self) => self,
          Layer.provideMerge(Layer.merge(TestProvider.layer(scripted), Resilience.layerMemory()))
        )
      return Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const limiter = yield* RateLimiter.RateLimiter
        const budget = yield* RetryBudget.RetryBudget
        const events: Array<Events.Event> = []
        const watching = yield* Effect.forkChild(
          Effect.flatMap(
            Events.Events,
            (service) => Stream.runForEach(service.stream, (event) => Effect.sync(() => void events.push(event)))
          ),
          { startImmediately: true }
        )
        let executed = 0
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        for (const { affinity, deadlineMs, idempotent, interruptMs, kind, policy, startMs } of calls) {
          const request = { deadline: deadlineMs, idempotent, ...(affinity ? { affinity: "one" } : undefined) }
          const streamed = streamParts({ ...request, streamPolicy: policy })
          const call: Effect.Effect<unknown, unknown, LLMService.LLMService | Router.Router> = kind === "complete"
            ? complete(request)
            : kind === "stream"
            ? Stream.runDrain(streamed)
            : kind === "take"
            ? Stream.runDrain(Stream.take(streamed, 2))
            : Router.execute(() =>
              Effect.gen(function*() {
                executed++
                yield* Effect.sleep("600 millis")
                return yield* LLMError.make("server_error", { provider: "p", reason: "overloaded" })
              }), request)
          const limitedCall = interruptMs === null ? call : Effect.timeout(call, interruptMs)
          fibers.push(yield* Effect.forkChild(Effect.exit(Effect.andThen(Effect.sleep(startMs), limitedCall))))
        }
        yield* TestClock.adjust("2 minutes")
        for (const fiber of fibers) {
          assert.isDefined(fiber.pollUnsafe(), "every call has ended")
          yield* Fiber.join(fiber)
        }
        yield* Fiber.interrupt(watching)

        assert.strictEqual(yield* provider.inFlight, 0)
        for (const snapshot of yield* limiter.snapshot) assert.strictEqual(snapshot.inFlight, 0, snapshot.key)
        let charged = 0
        for (const { granted, refunded } of yield* budget.snapshot) charged += granted - refunded

        // Whatever was cooling or open is over by then: each target takes a call at once.
        yield* TestClock.adjust("2 hours")
        for (const one of targets) {
          pending.length = 0
          assert.strictEqual(yield* Router.execute(({ id }) => Effect.succeed(id), { service: one.id }), one.id)
          assert.isTrue(pending[0]?.every((count) => count === 0), `in flight: ${pending[0]}`)
        }

        const sent = (yield* provider.calls).length + executed
        const attempts = events.flatMap((event) => event._tag === "AttemptEnded" ? [event] : [])
        const ended = events.flatMap((event) => event._tag === "CallEnded" ? [event] : [])
        assert.strictEqual(attempts.length, sent, "every request that was sent is told of")
        assert.strictEqual(new Set(ended.map((_) => _.call)).size, ended.length, "a call ends once")
        for (const { attempts: record, call } of ended) {
          assert.strictEqual(attempts.filter((_) => _.call === call).length, record.length, "attempts of the record")
        }
        // A retry that has to queue is sent as the earliest, or by another key of its model.
        const repeated = attempts.length - new Set(attempts.map((_) => _.call)).size
        assert.isAtMost(charged, repeated, "what was charged for retries that were not sent is given back")
        const known = new Set(ended.map((_) => _.call))
        assert.isTrue(attempts.every((_) => known.has(_.call)), "every attempt is of a call that has ended")
      }).pipe(Effect.provide(live), Random.withSeed(seed))
    }
  )
})
