import { Timeouts } from "breakwater"
import * as Cockatiel from "cockatiel"
import { Effect } from "effect"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const asynchronous = Effect.callback<number>((resume) => {
  queueMicrotask(() => resume(Effect.succeed(1)))
})

const cockatiel = Cockatiel.timeout(60_000, Cockatiel.TimeoutStrategy.Aggressive)

const around = (
  name: string,
  call: Effect.Effect<number>,
  promise: () => Promise<number>
): Harness.Group => {
  const peers = ["Effect.timeout", "cockatiel"] as const
  const [effect, other] = peers
  return {
    name,
    subjects: Effect.succeed([
      Subjects.fromEffect("the bare effect", () => call),
      Subjects.fromEffect(
        "breakwater, Timeouts.attempt",
        () => Timeouts.attempt(call, "60 seconds", { provider: "bench" }),
        { peers }
      ),
      Subjects.fromEffect(effect, () => Effect.timeout(call, "60 seconds")),
      Subjects.fromPromise(other, () => cockatiel.execute(promise))
    ])
  }
}

const later = () =>
  new Promise<number>((resolve) => {
    queueMicrotask(() => resolve(1))
  })

export const groups: ReadonlyArray<Harness.Group> = [
  around("timeout of an effect that succeeds a moment later", asynchronous, later),
  around("timeout of an effect that succeeds at once", Effect.succeed(1), () => Promise.resolve(1))
]
