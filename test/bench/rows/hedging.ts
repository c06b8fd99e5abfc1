import { Hedging, LLMService, Provider, Resilience, Router, Target } from "breakwater"
import { Context, Effect, Layer, type Scope, Stream } from "effect"
import { Response } from "effect/ai"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const asynchronous = Effect.callback<number>((resume) => {
  queueMicrotask(() => resume(Effect.succeed(1)))
})

const around = (name: string, call: Effect.Effect<number>): Harness.Group => {
  const peer = "Effect.raceFirst with a delayed one"
  return {
    name,
    subjects: Effect.succeed([
      Subjects.fromEffect("the bare effect", () => call),
      Subjects.fromEffect("breakwater, Hedging.race", () => Hedging.race(() => call, { delay: "60 seconds" }), {
        peers: [peer]
      }),
      Subjects.fromEffect(peer, () => Effect.raceFirst(call, Effect.delay(call, "60 seconds")))
    ])
  }
}

const key = "openai/gpt-4.1"

const service = Effect.map(
  Effect.provide(
    Effect.gen(function*() {
      const hedging = yield* Hedging.Hedging
      for (let answer = 0; answer < 200; answer++) yield* hedging.observe(key, 400 + (answer * 37) % 101)
      return hedging
    }),
    Hedging.layerMemory()
  ),
  (hedging) => {
    let answer = 0
    return [
      Subjects.fromEffect("request", () => hedging.request(key)),
      Subjects.fromEffect("delay", () => hedging.delay(key)),
      Subjects.fromEffect("observe", () => hedging.observe(key, 400 + (answer++ * 37) % 101))
    ]
  }
)

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

const targets = ["model-0", "model-1"].map((model) => Target.make({ provider: "bench", model }))

const router = (
  answer: Effect.Effect<Provider.Reply>,
  hedging: Layer.Layer<never> | Layer.Layer<Hedging.Hedging>
): Effect.Effect<LLMService.LLMService["Service"], never, Scope.Scope> => {
  const adapter: Provider.Adapter = { complete: () => answer, stream: () => Stream.empty }
  const layer = Router.layer({ targets }).pipe(
    Layer.provide([
      Layer.succeed(Provider.Provider, Provider.Provider.of({ adapter: () => adapter, names: ["bench"] })),
      Resilience.layerMemory(),
      hedging
    ])
  )
  return Effect.map(Layer.build(layer), Context.get(LLMService.LLMService))
}

/** What it costs a call that it might be hedged: that its time is taken, and that a delay runs beside it. */
const calls = (name: string, answer: Effect.Effect<Provider.Reply>): Harness.Group => ({
  name,
  note: "two targets, no limits",
  subjects: Effect.gen(function*() {
    const request: LLMService.CompletionRequest = { prompt: "Say hello to the bench", maxTokens: 100 }
    const off = yield* router(answer, Layer.empty)
    const watching = yield* router(answer, Hedging.layerMemory({ maxHedges: 0 }))
    const on = yield* router(answer, Hedging.layerMemory({ delay: "60 seconds" }))
    const over = "hedging off"
    return [
      Subjects.fromEffect(over, () => off.complete(request)),
      Subjects.fromEffect("hedging on, none allowed: its times are taken", () => watching.complete(request), { over }),
      Subjects.fromEffect("hedging on, none sent: its delay runs beside it", () => on.complete(request), { over })
    ]
  })
})

export const groups: ReadonlyArray<Harness.Group> = [
  around("hedge after 60 s of an effect that succeeds a moment later", asynchronous),
  around("hedge after 60 s of an effect that succeeds at once", Effect.succeed(1)),
  { name: "hedging: what is asked and told for a request", subjects: service },
  calls("whole call that might be hedged, answered at once", Effect.succeed(reply)),
  calls("whole call that might be hedged, answered by a promise", Effect.promise(() => Promise.resolve(reply)))
]
