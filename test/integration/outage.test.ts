import { assert, describe, it } from "@effect/vitest"
import { type CircuitBreaker, type LLMService, type Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { type Cause, Effect, Exit, Fiber, Random, References } from "effect"
import { TestClock } from "effect/testing"
import { broken, complete, target, withRouter } from "../support/Calls.ts"

const perSecond = 5
const from = 60_000
const to = 120_000
const end = 240_000

const answer = TestProvider.reply("ok", { delay: "1 second" })

/** Twice the load, of which a third may be saved up. */
const limits = { requests: { limit: 600, per: "1 minute", burst: 200 } } as const

interface Report {
  /** Requests sent into the outage for each call that began in it. */
  readonly into: number
  /** Calls that failed and had not used up their retries. */
  readonly lost: number
  readonly answered: number
  /** Milliseconds from the end of the outage until four seconds of nearly the usual load begin. */
  readonly backMs: number
  /** Most requests in four seconds after it, as a multiple of the usual load. */
  readonly peak: number
}

/** An outage of a minute at half the load that a target can serve. */
const outage = (step: TestProvider.Step) =>
  Effect.gen(function*() {
    const provider = yield* TestProvider.TestProvider
    const fibers: Array<Fiber.Fiber<LLMService.Completion, unknown>> = []
    let next = 0
    for (let now = 0; now < end; now += 100) {
      if (now === from) yield* provider.script("acme/m", [step])
      if (now === to) yield* provider.script("acme/m", [answer])
      for (; next < now + 100; next += -Math.log(1 - (yield* Random.next)) * 1000 / perSecond) {
        fibers.push(yield* Effect.forkChild(complete({ deadline: "90 seconds" }), { startImmediately: true }))
      }
      yield* TestClock.adjust(100)
    }
    yield* TestClock.adjust("2 minutes")
    const exits = yield* Effect.forEach(fibers, Fiber.await)
    const calls = (yield* provider.calls).filter((_) => _.target === "acme/m").map((_) => _.at)
    const after = calls.filter((at) => at >= to)
    const within4s = after.map((at) => after.filter((other) => other >= at && other < at + 4000).length)
    const back = within4s.findIndex((count) => count >= 0.95 * 4 * perSecond)
    return {
      into: calls.filter((at) => at >= from && at < to).length / (perSecond * (to - from) / 1000),
      lost: exits.filter((exit) => Exit.isFailure(exit) && !isSpent(exit.cause)).length,
      answered: exits.filter(Exit.isSuccess).length / exits.length,
      backMs: (after[back] ?? Number.POSITIVE_INFINITY) - to,
      peak: Math.max(...within4s) / (4 * perSecond)
    } satisfies Report
  }).pipe(Random.withSeed(11), Effect.provideService(References.MinimumLogLevel, "None"))

// Three attempts, or a probe that the budget of retries gives no second one.
const isSpent = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.some((reason) =>
    reason._tag === "Fail" && typeof reason.error === "object" && reason.error !== null && "origin" in reason.error &&
    reason.error.origin === "provider"
  )

const policy = (circuit: CircuitBreaker.Options, targets: Router.Options["targets"]) =>
  withRouter({ targets, queueWait: "90 seconds" }, { "*": [answer] }, { circuit })

const failures: ReadonlyArray<readonly [string, TestProvider.Step]> = [
  ["500", broken({ status: 500 })],
  ["503", broken({ status: 503, reason: "overloaded" })],
  ["a reset connection", TestProvider.fail("transient_network", { reason: "conn_reset", scope: "target" })]
]

describe("an outage of a minute, at half the load", () => {
  for (const [name, step] of failures) {
    it.effect(`${name}, alone: hardly a call is sent into it, all are answered after it, and none in a burst`, () =>
      Effect.gen(function*() {
        const report = yield* outage(step)
        assert.isAtMost(report.into, 0.06)
        assert.strictEqual(report.lost, 0)
        assert.isAtLeast(report.answered, 0.99)
        assert.isAtMost(report.backMs, 4000)
        assert.isAtMost(report.peak, 2.4)
      }).pipe(Effect.provide(policy({}, [target("acme/m", { limits })]))))

    it.effect(`${name}, with another target: every call is answered`, () =>
      Effect.gen(function*() {
        const report = yield* outage(step)
        assert.isAtMost(report.into, 0.06)
        assert.strictEqual(report.answered, 1)
        assert.isAtMost(report.peak, 2.4)
      }).pipe(Effect.provide(policy({}, [target("acme/m", { limits }), target("other/n", { limits })]))))
  }
})
