import Bottleneck from "bottleneck"
import { LLMError, Retry, RetryBudget } from "breakwater"
import * as Cockatiel from "cockatiel"
import { Context, Effect, Layer, Schedule, type Scope } from "effect"
import pRetry from "p-retry"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const error = new LLMError.ServerError({ provider: "bench", reason: "overloaded", status: 529 })
const thrown = new Error("overloaded")

/** What fails the first time it runs; each call has its own. */
const flaky = (): Effect.Effect<number, LLMError.LLMError> => {
  let asked = false
  return Effect.suspend(() => {
    if (asked) return Effect.succeed(1)
    asked = true
    return Effect.fail(error)
  })
}

const flakyPromise = (): () => Promise<number> => {
  let asked = false
  return () => {
    if (asked) return Promise.resolve(1)
    asked = true
    return Promise.reject(thrown)
  }
}

const subjects: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const schedule = Retry.standardWith({ base: "1 millis", factor: 1, jitter: "none" })
  const budget = Context.get(
    yield* Layer.build(RetryBudget.layerMemory({ policy: RetryBudget.windowed({ ratio: 1 }) })),
    RetryBudget.RetryBudget
  )
  const spaced = Schedule.spaced("1 millis")
  const cockatiel = Cockatiel.retry(Cockatiel.handleAll, {
    maxAttempts: 3,
    backoff: new Cockatiel.ConstantBackoff(1)
  })
  const bottleneck = yield* Effect.acquireRelease(
    Effect.sync(() => new Bottleneck()),
    (limiter) => Effect.promise(() => limiter.disconnect())
  )
  bottleneck.on("failed", (_, { retryCount }) => retryCount < 3 ? 1 : undefined)
  const peers = ["Effect.retry", "p-retry", "cockatiel", "bottleneck"] as const
  const [effect, retry, other, scheduled] = peers
  return [
    Subjects.effectsTogether("breakwater, Retry.standardWith", () => Effect.retry(flaky(), schedule), { peers }),
    Subjects.effectsTogether(
      "breakwater, RetryBudget.retry",
      () =>
        Effect.provideService(
          RetryBudget.retry(flaky(), { schedule, key: "bench" }),
          RetryBudget.RetryBudget,
          budget
        ),
      { peers }
    ),
    Subjects.effectsTogether(effect, () => Effect.retry(flaky(), { times: 3, schedule: spaced })),
    Subjects.promisesTogether(retry, () => pRetry(flakyPromise(), { retries: 3, minTimeout: 1, factor: 1 })),
    Subjects.promisesTogether(other, () => cockatiel.execute(flakyPromise())),
    Subjects.promisesTogether(scheduled, () => bottleneck.schedule(flakyPromise()))
  ]
})

export const groups: ReadonlyArray<Harness.Group> = [
  { name: "retry: a failure, 1 ms, an answer; 100 together", subjects }
]
