import { LLMService, Provider, type RateLimiter, Resilience, Router, Target } from "breakwater"
import { Cause, Context, Effect, Layer, type Pull, Stream } from "effect"
import { Response } from "effect/ai"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const chunks = 10_000

const parts: ReadonlyArray<LLMService.ProviderPart> = [
  Response.makePart("response-metadata", { modelId: "model-0" }),
  Response.makePart("text-start", { id: "0" }),
  ...Array.from({ length: chunks }, () => Response.makePart("text-delta", { id: "0", delta: "word " })),
  Response.makePart("text-end", { id: "0" }),
  Response.makePart("finish", {
    reason: "stop",
    usage: new Response.Usage({
      inputTokens: { uncached: 10, total: 10, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: chunks, text: chunks, reasoning: undefined }
    }),
    response: undefined
  })
]

type Parts = readonly [LLMService.ProviderPart, ...Array<LLMService.ProviderPart>]

/** One part at a time, as they come from a connection: each ready when it is asked for, or a moment later. */
const source = (wait: (part: Parts) => Effect.Effect<Parts>): Stream.Stream<LLMService.ProviderPart> =>
  Stream.suspend(() => {
    let next = 0
    const pull: Pull.Pull<Parts> = Effect.suspend(() => {
      const part = parts[next++]
      return part === undefined ? Cause.done() : wait([part])
    })
    return Stream.fromPull(Effect.succeed(pull))
  })

const arriving = (part: Parts): Effect.Effect<Parts> =>
  Effect.callback((resume) => {
    queueMicrotask(() => resume(Effect.succeed(part)))
  })

const plenty: RateLimiter.Limits = { tokens: { limit: 1e12, per: "1 minute" }, concurrency: 1000 }

const router = (stream: Stream.Stream<LLMService.ProviderPart>, limits: RateLimiter.Limits) => {
  const adapter: Provider.Adapter = { complete: () => Effect.never, stream: () => stream }
  const layer = Router.layer({ targets: [Target.make({ provider: "bench", model: "model-0", limits })] }).pipe(
    Layer.provide([
      Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names: ["bench"] })),
      Resilience.layerMemory()
    ])
  )
  return Effect.map(Layer.build(layer), Context.get(LLMService.LLMService))
}

const perChunk = (name: string, stream: Stream.Stream<LLMService.ProviderPart>): Harness.Group => ({
  name,
  note:
    "Effect's Stream.timeout ends a stream whose next part is late, and does nothing else; no other peer has streams",
  subjects: Effect.gen(function*() {
    const unlimited = yield* router(stream, {})
    const limited = yield* router(stream, plenty)
    const request = { prompt: "Say hello to the bench", maxTokens: chunks }
    const bare = "the bare adapter"
    const effects = "Effect, Stream.timeout"
    const added = { operations: chunks, over: bare, budgets: [Harness.micros(1)], peers: [effects] }
    return [
      Subjects.fromEffect(bare, () => Stream.runDrain(stream), { operations: chunks }),
      Subjects.fromEffect("breakwater", () => Stream.runDrain(unlimited.stream(request)), added),
      Subjects.fromEffect("breakwater, limits", () => Stream.runDrain(limited.stream(request)), added),
      Subjects.fromEffect(effects, () => Stream.runDrain(Stream.timeout(stream, "30 seconds")), {
        operations: chunks,
        over: bare
      })
    ]
  })
})

export const groups: ReadonlyArray<Harness.Group> = [
  perChunk("stream of 10 000 chunks, each at once: a chunk", source(Effect.succeed)),
  perChunk("stream of 10 000 chunks, each a moment later: a chunk", source(arriving))
]
