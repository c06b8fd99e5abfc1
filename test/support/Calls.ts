/**
 * Routers over scripted providers, and calls to them, in virtual time.
 */
import { type LLMError, LLMService, type RateLimiter, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Duration, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { TestClock } from "effect/testing"

/** A target by its name, `provider/model` or `provider/model@key`. */
export const target = (name: string, options: Partial<Target.Options> = {}): Target.Target => {
  const [path = "", key] = name.split("@")
  const [provider = "", model = ""] = path.split("/")
  return Target.make({
    provider,
    model,
    ...(key === undefined ? undefined : { key: { id: key, value: Redacted.make(`secret of ${key}`) } }),
    ...options
  })
}

export const perMinute = (limit: number): RateLimiter.Quota => ({ limit, per: "1 minute" })

export const limited = (retryAfter?: Duration.Input, fields: Partial<LLMError.Fields> = {}): TestProvider.Step =>
  TestProvider.fail("rate_limit", {
    reason: "rate_limit",
    scope: "model",
    status: 429,
    retryAfter: retryAfter === undefined ? undefined : Duration.fromInputUnsafe(retryAfter),
    ...fields
  })

export const broken = (
  fields: Partial<LLMError.Fields> = {},
  timing: TestProvider.Timing = {}
): TestProvider.Step =>
  TestProvider.fail(
    "server_error",
    { reason: "internal_error", scope: "target", status: 503, ...fields },
    timing
  )

export type Scripts = Readonly<Record<string, ReadonlyArray<TestProvider.Step>>>

export const withRouter = (options: Router.Options, scripts: Scripts, state: Resilience.MemoryOptions = {}) => {
  const below = Layer.merge(TestProvider.layer(scripts), Resilience.layerMemory(state))
  return Layer.provideMerge(Router.layer(options), below)
}

export const complete = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "hi", ...request }))

export const streamParts = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Stream.unwrap(Effect.map(LLMService.LLMService, (llm) => llm.stream({ prompt: "hi", ...request })))

/** Ids of the targets that were called, in order. */
export const calledTargets = Effect.flatMap(
  TestProvider.TestProvider,
  (provider) => Effect.map(provider.calls, (calls) => calls.map((call) => call.target))
)

/** How often each target was called. */
export const callCounts = Effect.map(calledTargets, (targets) => {
  const counts: Record<string, number> = {}
  for (const name of targets) counts[name] = (counts[name] ?? 0) + 1
  return counts
})

/** Runs an effect while the virtual time goes on, in steps. */
export const underTime = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  total: Duration.Input,
  step: Duration.Input = "100 millis"
) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    const steps = Math.ceil(
      Duration.toMillis(Duration.fromInputUnsafe(total)) / Duration.toMillis(Duration.fromInputUnsafe(step))
    )
    for (let index = 0; index < steps && fiber.pollUnsafe() === undefined; index++) yield* TestClock.adjust(step)
    return yield* Fiber.join(fiber)
  })

/** Starts an effect so many times at once. */
export const concurrently = <A, E, R>(times: number, effect: Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: times }), () => Effect.forkChild(effect, { startImmediately: true }))
