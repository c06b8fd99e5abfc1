import { Hedging } from "breakwater"
import { Effect } from "effect"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const asynchronous = Effect.callback<number>((resume) => {
  queueMicrotask(() => resume(Effect.succeed(1)))
})

const around = (name: string, call: Effect.Effect<number>): Effect.Effect<Harness.Group> => {
  const peer = "Effect.raceFirst with a delayed one"
  return Effect.succeed({
    name,
    subjects: [
      Subjects.fromEffect("the bare effect", () => call),
      Subjects.fromEffect("breakwater, Hedging.race", () => Hedging.race(() => call, { delay: "60 seconds" }), {
        peers: [peer]
      }),
      Subjects.fromEffect(peer, () => Effect.raceFirst(call, Effect.delay(call, "60 seconds")))
    ]
  })
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
  (hedging): Harness.Group => {
    let answer = 0
    return {
      name: "hedging: what is asked and told for a request",
      subjects: [
        Subjects.fromEffect("request", () => hedging.request(key)),
        Subjects.fromEffect("delay", () => hedging.delay(key)),
        Subjects.fromEffect("observe", () => hedging.observe(key, 400 + (answer++ * 37) % 101))
      ]
    }
  }
)

export const groups = [
  around("hedge after 60 s of an effect that succeeds a moment later", asynchronous),
  around("hedge after 60 s of an effect that succeeds at once", Effect.succeed(1)),
  service
]
