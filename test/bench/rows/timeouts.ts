import { Timeouts } from "breakwater"
import { Effect } from "effect"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const asynchronous = Effect.callback<number>((resume) => {
  queueMicrotask(() => resume(Effect.succeed(1)))
})

const around = (name: string, call: Effect.Effect<number>): Effect.Effect<Harness.Group> => {
  const peer = "Effect.timeout"
  return Effect.succeed({
    name,
    subjects: [
      Subjects.fromEffect("the bare effect", () => call),
      Subjects.fromEffect(
        "breakwater, Timeouts.attempt",
        () => Timeouts.attempt(call, "60 seconds", { provider: "bench" }),
        { peers: [peer] }
      ),
      Subjects.fromEffect(peer, () => Effect.timeout(call, "60 seconds"))
    ]
  })
}

export const groups = [
  around("timeout of an effect that succeeds a moment later", asynchronous),
  around("timeout of an effect that succeeds at once", Effect.succeed(1))
]
