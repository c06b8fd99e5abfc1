import { LLMService, Provider, type RateLimiter, Resilience, Router, Target } from "breakwater"
import * as Cockatiel from "cockatiel"
import { Context, Effect, Layer, Redacted, Stream } from "effect"
import { Response } from "effect/ai"
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
const request = { prompt: "Say hello to the bench", maxTokens: 100 }
const plenty: RateLimiter.Limits = {
  requests: { limit: 1e12, per: "1 minute" },
  tokens: { limit: 1e12, per: "1 minute" },
  concurrency: 1000
}
const key = { id: "key-1", value: Redacted.make("secret") }
const make = (answer: Effect.Effect<Provider.Reply>, count: number, limited: boolean) => {
  const adapter: Provider.Adapter = { complete: () => answer, stream: () => Stream.empty }
  const targets = Array.from(
    { length: count },
    (_, i) => Target.make({ provider: "bench", model: `model-${i}`, key, ...(limited ? { limits: plenty } : {}) })
  )
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
const ck = Cockatiel.wrap(
  Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 3, backoff: new Cockatiel.ExponentialBackoff() }),
  Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 60_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  }),
  Cockatiel.bulkhead(1000, 1000),
  Cockatiel.timeout(60_000, Cockatiel.TimeoutStrategy.Aggressive)
)
const later = process.argv.includes("later")
const limited = process.argv.includes("limited")
const answer = later ? Effect.promise(() => Promise.resolve(reply)) : Effect.succeed(reply)
await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const service = yield* make(answer, 27, limited)
  const loop = (n: number) =>
    Effect.gen(function*() {
      for (let i = 0; i < n; i++) yield* service.complete(request)
    })
  yield* loop(20000)
  const best: number[] = [], bestC: number[] = []
  for (let r = 0; r < (process.argv.includes("prof") ? 60 : 15); r++) {
    let t = process.hrtime.bigint()
    yield* loop(5000)
    best.push(Number(process.hrtime.bigint() - t) / 5000 / 1000)
    t = process.hrtime.bigint()
    if (!process.argv.includes("prof")) {
      yield* Effect.promise(async () => {
        for (let i = 0; i < 5000; i++) await ck.execute(() => Promise.resolve(reply))
      })
    }
    bestC.push(Number(process.hrtime.bigint() - t) / 5000 / 1000)
  }
  const med = (a: number[]) => a.sort((x, y) => x - y)[a.length >> 1]
  console.log(
    later ? "later" : "at once",
    limited ? "limited" : "",
    "ours",
    med(best).toFixed(2),
    "cockatiel",
    med(bestC).toFixed(2)
  )
})))
