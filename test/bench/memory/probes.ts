/**
 * What is measured in a process of its own: each probe makes so many of a thing, and says how to let time pass.
 */
import Bottleneck from "bottleneck"
import {
  CircuitBreaker,
  Cooldown,
  Health,
  LLMError,
  LLMService,
  Provider,
  RateLimiter,
  Resilience,
  Router,
  Selection,
  Target
} from "breakwater"
import * as Cockatiel from "cockatiel"
import {
  Context,
  type Duration,
  Effect,
  type Fiber,
  Layer,
  Redacted,
  Schedule,
  type Scope,
  Semaphore,
  Stream
} from "effect"
import { Response } from "effect/ai"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import * as EffectLimiter from "effect/persistence/RateLimiter"
import { TestClock } from "effect/testing"
import Opossum from "opossum"
import PQueue from "p-queue"
import pRetry from "p-retry"
import { RateLimiterMemory } from "rate-limiter-flexible"

/** Things that are in memory, as long as this is. */
export interface Made {
  /** Lets them become idle, and one more use find that out; absent where nothing is ever forgotten. */
  readonly forget?: Effect.Effect<void>
  /** Everything that holds them. */
  readonly held: unknown
}

export interface Probe {
  /** Whether time is that of the test, so that it can be made to pass. */
  readonly clock: "live" | "test"
  readonly make: (count: number) => Effect.Effect<Made, never, Scope.Scope>
}

const live = (make: Probe["make"]): Probe => ({ clock: "live", make })

type Make = Probe["make"]

/** More than is used, and no more than a provider may allow: large numbers take more memory. */
const plenty: RateLimiter.Limits = {
  requests: { limit: 1_000_000, per: "1 minute" },
  tokens: { limit: 1_000_000_000, per: "1 minute" },
  concurrency: 1_000_000
}

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

const targets = (count: number, limited: boolean): ReadonlyArray<Target.Target> =>
  Array.from({ length: count }, (_, index) =>
    Target.make({
      provider: `provider-${index % 3}`,
      model: `model-${index}`,
      key: { id: `key-${index % 10}`, value: Redacted.make("secret") },
      ...(limited ? { limits: plenty } : {})
    }))

const router = (
  all: ReadonlyArray<Target.Target>,
  answer: Effect.Effect<Provider.Reply>,
  options: Partial<Router.Options> & Resilience.MemoryOptions = {}
): Effect.Effect<LLMService.LLMService["Service"], never, Scope.Scope> => {
  const adapter: Provider.Adapter = { complete: () => answer, stream: () => Stream.empty }
  const names = Array.from({ length: 3 }, (_, index) => `provider-${index}`)
  const layer = Router.layer({ targets: all, ...options }).pipe(
    Layer.provide([
      Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names })),
      Resilience.layerMemory(options)
    ])
  )
  return Effect.map(Layer.build(layer), Context.get(LLMService.LLMService))
}

/** One target after the other. */
const inTurn = (): Selection.Strategy => {
  let turn = -1
  return Selection.make({ name: "in turn", reads: [], pick: ({ count }) => ++turn % count })
}

/** Targets of a router, each asked so many times. */
const askedTargets = (calls: number): Make => (count) =>
  Effect.gen(function*() {
    const all = targets(count, true)
    const service = yield* router(all, Effect.succeed(reply), { strategy: inTurn() })
    yield* Effect.orDie(Effect.replicateEffect(service.complete(request), calls * count, { discard: true }))
    return { held: [all, service] }
  })

/** Effects that have been begun and do not end before the scope does. */
const running = (count: number, effect: Effect.Effect<unknown, unknown>): Effect.Effect<Made, never, Scope.Scope> =>
  Effect.gen(function*() {
    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    for (let index = 0; index < count; index++) {
      fibers.push(yield* Effect.forkScoped(effect, { startImmediately: true }))
    }
    return { held: fibers }
  })

const callsOf = (options: { readonly limited: boolean; readonly count: number }): Make => (count) =>
  Effect.gen(function*() {
    const { limited } = options
    const limits = { all: plenty, providers: { "provider-0": plenty }, keys: { "key-0": plenty } }
    const service = yield* router(targets(options.count, limited), Effect.never, limited ? { limits } : {})
    return yield* running(count, service.complete(request))
  })

const waitingCalls: Make = (count) =>
  Effect.gen(function*() {
    const limits: RateLimiter.Limits = { requests: { limit: 1, per: "1 minute" } }
    const all = [Target.make({ provider: "provider-0", model: "model-0", limits })]
    const service = yield* router(all, Effect.succeed(reply), { queueWait: "10 days", timeouts: { total: "20 days" } })
      .pipe(
        Effect.provide(RateLimiter.layerMemory({ maxQueue: 1_000_000 }))
      )
    return yield* running(count, service.complete({ ...request, deadline: "20 days" }))
  })

const streamsOf: Make = (count) =>
  Effect.gen(function*() {
    const adapter: Provider.Adapter = {
      complete: () => Effect.never,
      stream: () => Stream.concat(Stream.make(Response.makePart("text-start", { id: "0" })), Stream.never)
    }
    const layer = Router.layer({ targets: targets(1, true) }).pipe(
      Layer.provide([
        Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names: ["provider-0"] })),
        Resilience.layerMemory()
      ])
    )
    const service = Context.get(yield* Layer.build(layer), LLMService.LLMService)
    return yield* running(count, Effect.suspend(() => Stream.runDrain(service.stream(request))))
  })

const bareFibers: Make = (count) => running(count, Effect.never)

/** Milliseconds: nothing times out while it is measured. */
const day = 86_400_000

const never = () => new Promise<never>(() => undefined)

/** Promises that have been begun and never end. */
const promises = (count: number, make: () => Promise<unknown>): Made => ({
  held: Array.from({ length: count }, make)
})

const effectsCalls: Make = (count) =>
  Effect.gen(function*() {
    const services = yield* Layer.build(Layer.mergeAll(
      EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(5), openDuration: "60 seconds" }).pipe(
        Layer.provide(EffectBreaker.layerStoreMemory())
      ),
      Layer.provide(EffectLimiter.layer, EffectLimiter.layerStoreMemory)
    ))
    const breaker = Context.get(services, EffectBreaker.CircuitBreaker)
    const limiter = Context.get(services, EffectLimiter.RateLimiter)
    const semaphore = yield* Semaphore.make(1_000_000)
    const limited = Effect.flatMap(
      limiter.consume({ key: "bench", algorithm: "token-bucket", window: "1 minute", limit: 1e12 }),
      () => Semaphore.withPermit(semaphore, Effect.timeout(Effect.never, day))
    )
    const call = Effect.suspend(() =>
      Effect.retry(breaker.execute(limited, { key: "bench" }), { times: 3, schedule: Schedule.exponential("1 second") })
    )
    return yield* running(count, call)
  })

const cockatielCalls: Make = (count) =>
  Effect.sync(() => {
    const policy = Cockatiel.wrap(
      Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 3, backoff: new Cockatiel.ExponentialBackoff() }),
      Cockatiel.circuitBreaker(Cockatiel.handleAll, {
        halfOpenAfter: 60_000,
        breaker: new Cockatiel.ConsecutiveBreaker(5)
      }),
      Cockatiel.bulkhead(1_000_000, 1000),
      Cockatiel.timeout(day, Cockatiel.TimeoutStrategy.Aggressive)
    )
    return promises(count, () => policy.execute(never))
  })

const bottleneckCalls: Make = (count) =>
  Effect.promise(async () => {
    const breaker = new Opossum(never, { timeout: day, resetTimeout: 60_000 })
    const limiter = new Bottleneck({ maxConcurrent: 1_000_000 })
    const made = promises(count, () => limiter.schedule(() => breaker.fire()))
    while (limiter.counts().EXECUTING < count) await new Promise((resolve) => setTimeout(resolve, 10))
    return { held: [made, limiter, breaker] }
  })

const queueCalls: Make = (count) =>
  Effect.promise(async () => {
    const queue = new PQueue({ concurrency: 1_000_000, interval: 60_000, intervalCap: 1e12, timeout: day })
    const made = promises(count, () => pRetry(() => queue.add(never), { retries: 3 }))
    await new Promise((resolve) => setTimeout(resolve, 50))
    return { held: [made, queue] }
  })

const keyOf = (index: number): string => `target:provider/model-${index}@key`

/** As many keys as asked for, one use each; idle after so long, and noticed with the uses after that. */
const keyed = (
  use: (key: string) => Effect.Effect<unknown, unknown>,
  idle: Duration.Input
): Make =>
(count) =>
  Effect.gen(function*() {
    for (let index = 0; index < count; index++) yield* Effect.orDie(use(keyOf(index)))
    return {
      held: use,
      // Some mechanisms look at a few keys with each use.
      forget: Effect.andThen(
        TestClock.adjust(idle),
        Effect.forEach(Array.from({ length: count + 100 }, (_, index) => index % 100), (index) =>
          Effect.orDie(use(`other-${index}`)), { discard: true })
      )
    }
  })

const service = <I, S>(tag: Context.Service<I, S>, layer: Layer.Layer<I>): Effect.Effect<S, never, Scope.Scope> =>
  Effect.map(Layer.build(layer), Context.get(tag))

const tokens = { input: 1000, output: 500 }
const error = new LLMError.RateLimitError({ provider: "bench", reason: "rate_limit", status: 429 })

const limiterKeys: Make = (count) =>
  Effect.flatMap(service(RateLimiter.RateLimiter, RateLimiter.layerMemory()), (limiter) =>
    keyed(
      (key) =>
        Effect.flatMap(
          limiter.take({ scopes: [{ key, limits: plenty }], tokens }),
          (reservation) => reservation.end({ input: 1000, output: 300 })
        ),
      "11 minutes"
    )(count))

const circuitKeys: Make = (count) =>
  Effect.flatMap(
    CircuitBreaker.make(),
    (breaker) => keyed((key) => Effect.flatMap(breaker.take(key), (permit) => permit.success), "2 hours")(count)
  )

const healthKeys: Make = (count) =>
  Effect.flatMap(
    service(Health.Health, Health.layerMemory()),
    (health) =>
      keyed((key) => health.record(key, Health.success({ durationMs: 800, outputTokens: 200 })), "2 hours")(count)
  )

const cooldownKeys: Make = (count) =>
  Effect.flatMap(
    service(Cooldown.Cooldown, Cooldown.layerMemory),
    (cooldown) => keyed((key) => cooldown.start(key, "1 minute", error.reason), "2 minutes")(count)
  )

const effectLimiterKeys: Make = (count) =>
  Effect.flatMap(
    service(EffectLimiter.RateLimiter, Layer.provide(EffectLimiter.layer, EffectLimiter.layerStoreMemory)),
    (limiter) =>
      keyed(
        (key) => limiter.consume({ key, algorithm: "token-bucket", window: "1 minute", limit: 1e12, tokens: 1500 }),
        "2 hours"
      )(count)
  )

const effectCircuitKeys: Make = (count) =>
  Effect.flatMap(
    service(
      EffectBreaker.CircuitBreaker,
      EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(5), openDuration: "60 seconds" }).pipe(
        Layer.provide(EffectBreaker.layerStoreMemory())
      )
    ),
    (breaker) => keyed((key) => breaker.execute(Effect.void, { key }), "2 hours")(count)
  )

const flexibleKeys: Make = (count) =>
  Effect.promise(async () => {
    const limiter = new RateLimiterMemory({ points: 1e12, duration: 60 })
    for (let index = 0; index < count; index++) await limiter.consume(keyOf(index), 1500)
    return { held: limiter }
  })

/** One object for each key, as the libraries that know no keys need it. */
const objects = (make: (key: string) => unknown): Make => (count) =>
  Effect.sync(() => ({
    held: new Map(Array.from({ length: count }, (_, index) => [keyOf(index), make(keyOf(index))]))
  }))

export const probes = {
  targetMade: live(askedTargets(0)),
  targetAsked: live(askedTargets(1)),
  targetFull: live(askedTargets(100)),
  fiber: live(bareFibers),
  call: live(callsOf({ limited: false, count: 1 })),
  callOfMany: live(callsOf({ limited: false, count: 27 })),
  callWithLimits: live(callsOf({ limited: true, count: 27 })),
  callWaiting: live(waitingCalls),
  stream: live(streamsOf),
  callEffect: live(effectsCalls),
  callCockatiel: live(cockatielCalls),
  callBottleneck: live(bottleneckCalls),
  callQueue: live(queueCalls),
  limiter: { clock: "test", make: limiterKeys },
  circuit: { clock: "test", make: circuitKeys },
  health: { clock: "test", make: healthKeys },
  cooldown: { clock: "test", make: cooldownKeys },
  limiterEffect: { clock: "test", make: effectLimiterKeys },
  limiterFlexible: live(flexibleKeys),
  limiterBottleneck: live(objects(() => new Bottleneck({ maxConcurrent: 1000, reservoir: 1e12 }))),
  limiterQueue: live(objects(() => new PQueue({ concurrency: 1000, interval: 60_000, intervalCap: 1e12 }))),
  circuitEffect: { clock: "test", make: effectCircuitKeys },
  circuitCockatiel: live(objects(() =>
    Cockatiel.circuitBreaker(Cockatiel.handleAll, {
      halfOpenAfter: 60_000,
      breaker: new Cockatiel.ConsecutiveBreaker(5)
    })
  )),
  circuitOpossum: live(objects(() => new Opossum(() => Promise.resolve(1), { timeout: false })))
} satisfies Record<string, Probe>

export type Name = keyof typeof probes
