import { Cooldown, Health, LLMError, Target } from "breakwater"
import { Context, Effect, Layer, type Scope } from "effect"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const targets = Array.from(
  { length: 27 },
  (_, index) => Target.make({ provider: `provider-${index % 3}`, model: `model-${index}` })
)

const health: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const health = Context.get(yield* Layer.build(Health.layerMemory()), Health.Health)
  const success = Health.success({ durationMs: 800, outputTokens: 200 })
  const error = new LLMError.ServerError({ provider: "bench", reason: "overloaded", status: 529 })
  const failure = Health.failure(error, { durationMs: 300 })
  const keys = targets.map((target) => target.id)
  const four = ["target:bench", "model:bench", "key:bench", "provider:bench"]
  for (const key of keys) yield* health.record(key, success)
  return [
    Subjects.fromEffect("record a success", () => health.record("bench-1", success)),
    Subjects.fromEffect("record a failure", () => health.record("bench-2", failure)),
    Subjects.fromEffect("record a success under four keys", () => health.recordAll(four, success), {
      budgets: [Harness.micros(0.8)]
    }),
    Subjects.fromEffect("scores of all", () => health.scores(keys)),
    Subjects.fromEffect("readings of all", () => health.readings(keys))
  ]
})

const cooldown: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const build = Effect.map(Layer.build(Cooldown.layerMemory), Context.get(Cooldown.Cooldown))
  const idle = yield* build
  const cooling = yield* build
  const groups = targets.map(Target.scopeKeys)
  for (const [key] of groups.slice(0, 2)) if (key !== undefined) yield* cooling.start(key, "1 hour", "rate_limit")
  return [
    Subjects.fromEffect("nothing is cooling", () => idle.latest(groups)),
    Subjects.fromEffect("two are cooling", () => cooling.latest(groups))
  ]
})

export const groups: ReadonlyArray<Harness.Group> = [
  { name: "health of 27 targets", subjects: health },
  { name: "cooldown of 27 targets: latest", subjects: cooldown }
]
