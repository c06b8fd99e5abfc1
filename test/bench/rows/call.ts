import Bottleneck from "bottleneck"
import { LLMService, Provider, type RateLimiter, Resilience, Router, Target } from "breakwater"
import * as Cockatiel from "cockatiel"
import { Context, Effect, Layer, Redacted, Schedule, type Scope, Semaphore, Stream } from "effect"
import { Response } from "effect/ai"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import * as EffectLimiter from "effect/persistence/RateLimiter"
import Opossum from "opossum"
import PQueue from "p-queue"
import pRetry from "p-retry"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const reply: Provider.Reply = {
  content: [Response.makePart("text", { text: "Hello from the bench" })],
  usage: new Response.Usage({
    inputTokens: { uncached: 10, total: 10, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: 5, text: 5, reasoning: undefined }
  }),
  finishReason: "stop",
  model: "model-0",
  requestId: "request-1"
}

const request: LLMService.CompletionRequest = { prompt: "Say hello to the bench", maxTokens: 100 }

const plenty: RateLimiter.Limits = {
  requests: { limit: 1e12, per: "1 minute" },
  tokens: { limit: 1e12, per: "1 minute" },
  concurrency: 1000
}

const key = { id: "key-1", value: Redacted.make("secret") }

const router = (
  answer: Effect.Effect<Provider.Reply>,
  count: number,
  limited: boolean
): Effect.Effect<LLMService.LLMService["Service"], never, Scope.Scope> => {
  const adapter: Provider.Adapter = { complete: () => answer, stream: () => Stream.empty }
  const targets = Array.from({ length: count }, (_, index) =>
    Target.make({
      provider: "bench",
      model: `model-${index}`,
      key,
      ...(limited ? { limits: plenty } : {})
    }))
  const layer = Router.layer({
    targets,
    ...(limited ? { limits: { all: plenty, providers: { bench: plenty }, keys: { [key.id]: plenty } } } : {})
  }).pipe(
    Layer.provide([
      Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names: ["bench"] })),
      Resilience.layerMemory()
    ])
  )
  return Effect.map(Layer.build(layer), Context.get(LLMService.LLMService))
}

const cockatiel = Cockatiel.wrap(
  Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 3, backoff: new Cockatiel.ExponentialBackoff() }),
  Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 60_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  }),
  Cockatiel.bulkhead(1000, 1000),
  Cockatiel.timeout(60_000, Cockatiel.TimeoutStrategy.Aggressive)
)

/** Effect's own parts: retry over circuit breaker over limiter over semaphore over timeout. */
const composition = (answer: Effect.Effect<Provider.Reply>) =>
  Effect.gen(function*() {
    const services = yield* Layer.build(Layer.mergeAll(
      EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(5), openDuration: "60 seconds" }).pipe(
        Layer.provide(EffectBreaker.layerStoreMemory())
      ),
      Layer.provide(EffectLimiter.layer, EffectLimiter.layerStoreMemory)
    ))
    const breaker = Context.get(services, EffectBreaker.CircuitBreaker)
    const limiter = Context.get(services, EffectLimiter.RateLimiter)
    const semaphore = yield* Semaphore.make(1000)
    const backoff = Schedule.exponential("1 second")
    return () => {
      const timed = Effect.timeout(answer, "60 seconds")
      const limited = Effect.flatMap(
        limiter.consume({ key: "bench", algorithm: "token-bucket", window: "1 minute", limit: 1e12 }),
        () => Semaphore.withPermit(semaphore, timed)
      )
      return Effect.retry(breaker.execute(limited, { key: "bench" }), { times: 3, schedule: backoff })
    }
  })

const theirs = "cockatiel"
const effects = "Effect"
const scheduled = "opossum + bottleneck"
const retried = "p-retry + p-queue"
const against = {
  peers: [theirs, effects, scheduled, retried],
  budgets: [Harness.ratio(theirs, 1), Harness.ratio(effects, 0.3)]
}

/** A circuit that fails what takes too long, behind a limiter that tries again what fails. */
const opossumAndBottleneck: Effect.Effect<() => Promise<Provider.Reply>, never, Scope.Scope> = Effect.gen(function*() {
  const breaker = yield* Effect.acquireRelease(
    Effect.sync(() => new Opossum(() => Promise.resolve(reply), { timeout: 60_000, resetTimeout: 60_000 })),
    (breaker) => Effect.sync(() => breaker.shutdown())
  )
  const limiter = yield* Effect.acquireRelease(
    Effect.sync(() =>
      new Bottleneck({
        maxConcurrent: 1000,
        reservoir: 1e12,
        reservoirRefreshAmount: 1e12,
        reservoirRefreshInterval: 60_000
      })
    ),
    (limiter) => Effect.promise(() => limiter.disconnect())
  )
  limiter.on("failed", (_, { retryCount }) => retryCount < 3 ? 1000 * 2 ** retryCount : undefined)
  return () => limiter.schedule(() => breaker.fire())
})

/** Tries again what fails or takes too long in a queue that starts so many in a minute. */
const retryAndQueue = (): () => Promise<Provider.Reply> => {
  const queue = new PQueue({ concurrency: 1000, interval: 60_000, intervalCap: 1e12, timeout: 60_000 })
  const call = () => queue.add(() => Promise.resolve(reply))
  return () => pRetry(call, { retries: 3 })
}

/** How calls follow one another. */
interface Traffic {
  readonly fromEffect: typeof Subjects.fromEffect
  readonly fromPromise: typeof Subjects.fromPromise
}

const oneByOne: Traffic = { fromEffect: Subjects.fromEffect, fromPromise: Subjects.fromPromise }

const allTogether: Traffic = { fromEffect: Subjects.effectsTogether, fromPromise: Subjects.promisesTogether }

const whole = (name: string, options: {
  readonly answer: Effect.Effect<Provider.Reply>
  readonly counts: ReadonlyArray<number>
  readonly traffic: Traffic
}): Harness.Group => ({
  name,
  note: "cockatiel: retry, breaker, bulkhead, timeout; Effect: retry, breaker, limiter, semaphore, timeout; opossum: " +
    "breaker, timeout; bottleneck, p-queue: limiter, bulkhead, and the timeout of p-queue",
  subjects: Effect.gen(function*() {
    const { answer, counts, traffic } = options
    const subjects: Array<Harness.Subject> = [traffic.fromEffect("the bare adapter", () => answer)]
    for (const limited of [false, true]) {
      for (const count of counts) {
        const service = yield* router(answer, count, limited)
        const targets = `${count} ${count === 1 ? "target" : "targets"}`
        subjects.push(
          traffic.fromEffect(
            `breakwater, ${targets}${limited ? ", limits in four scopes" : ""}`,
            () => service.complete(request),
            against
          )
        )
      }
    }
    return [
      ...subjects,
      traffic.fromPromise(theirs, () => cockatiel.execute(() => Promise.resolve(reply))),
      traffic.fromEffect(effects, yield* composition(answer)),
      traffic.fromPromise(scheduled, yield* opossumAndBottleneck),
      traffic.fromPromise(retried, retryAndQueue())
    ]
  })
})

const atOnce = Effect.succeed(reply)
const later = Effect.promise(() => Promise.resolve(reply))

export const groups: ReadonlyArray<Harness.Group> = [
  whole("whole call, answered at once", { answer: atOnce, counts: [1, 27, 1000], traffic: oneByOne }),
  whole("whole call, answered by a promise", { answer: later, counts: [1, 27], traffic: oneByOne }),
  whole("whole call, answered by a promise, 100 together", { answer: later, counts: [27], traffic: allTogether })
]
