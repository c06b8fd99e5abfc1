import { CircuitBreaker } from "breakwater"
import * as Cockatiel from "cockatiel"
import { Context, Effect, Layer, type Scope } from "effect"
import * as Persistence from "effect/persistence/CircuitBreaker"
import Opossum from "opossum"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const uncontended: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make()
  const windowed = yield* CircuitBreaker.make({ trip: CircuitBreaker.timeWindow() })
  const effects = Context.get(
    yield* Layer.build(
      Persistence.layer({ tripPolicy: Persistence.consecutive(5), openDuration: "60 seconds" }).pipe(
        Layer.provide(Persistence.layerStoreMemory())
      )
    ),
    Persistence.CircuitBreaker
  )
  const cockatiel = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 60_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const opossum = yield* Effect.acquireRelease(
    Effect.sync(() => new Opossum(() => Promise.resolve(1), { timeout: false })),
    (opossum) => Effect.sync(() => opossum.shutdown())
  )
  const call = Effect.succeed(1)
  const peers = ["Effect CircuitBreaker", "cockatiel", "opossum"]
  return [
    Subjects.fromEffect("breakwater, consecutive failures", () => breaker.execute("bench", call), {
      peers,
      budgets: [Harness.micros(3)]
    }),
    Subjects.fromEffect("breakwater, time window", () => windowed.execute("bench", call), {
      peers,
      budgets: [Harness.micros(3)]
    }),
    Subjects.fromEffect("Effect CircuitBreaker", () => effects.execute(call, { key: "bench" })),
    Subjects.fromPromise("cockatiel", () => cockatiel.execute(() => Promise.resolve(1))),
    Subjects.fromPromise("opossum", () => opossum.fire())
  ]
})

const byHand: Effect.Effect<ReadonlyArray<Harness.Subject>> = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make()
  const keys = Array.from({ length: 27 }, (_, index) => `target-${index}`)
  return [
    Subjects.fromEffect("take + success", () => Effect.flatMap(breaker.take("bench"), (permit) => permit.success), {
      budgets: [Harness.micros(0.6)]
    }),
    Subjects.fromEffect(
      "admit + success, in a scope",
      () => Effect.scoped(Effect.flatMap(breaker.admit("bench"), (permit) => permit.success))
    ),
    Subjects.fromEffect("check of 27 circuits", () => breaker.checkAll(keys))
  ]
})

export const groups: ReadonlyArray<Harness.Group> = [
  { name: "circuit breaker, closed: execute", subjects: uncontended },
  { name: "circuit breaker, closed: what a call does by hand", subjects: byHand }
]
