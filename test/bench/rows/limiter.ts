import { RateLimiter } from "breakwater"
import { Context, Duration, Effect, Layer, type Scope } from "effect"
import * as Persistence from "effect/persistence/RateLimiter"
import * as Engine from "../../../src/internal/limiter/engine.ts"
import * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const plenty = { limit: 1e12, per: "1 minute" } as const

const scopes = ["model", "key", "group", "provider"].map((scope) => ({
  key: `${scope}:bench`,
  limits: { requests: plenty, tokens: plenty, concurrency: 1000 }
}))

const tokens = { input: 1000, output: 500 }
const usage = { input: 1000, output: 300 }

const uncontended: Effect.Effect<Harness.Group, never, Scope.Scope> = Effect.gen(function*() {
  const build = (options: RateLimiter.Options) =>
    Effect.map(Layer.build(RateLimiter.layerMemory(options)), Context.get(RateLimiter.RateLimiter))
  const adaptive = yield* build({})
  const fixed = yield* build({ adaptive: false })
  const effects = Context.get(
    yield* Layer.build(Layer.provide(Persistence.layer, Persistence.layerStoreMemory)),
    Persistence.RateLimiter
  )

  const reserve = (limiter: RateLimiter.RateLimiter["Service"]) => () =>
    Effect.scoped(
      Effect.flatMap(limiter.reserve({ scopes, tokens }), (reservation) => reservation.settle(usage))
    )
  const consume = (key: string) =>
    effects.consume({ key, algorithm: "token-bucket", window: "1 minute", limit: 1e12, tokens: 1500 })
  const peer = "Effect RateLimiter.consume ×4"
  const sets = Array.from({ length: 32 }, () => scopes)
  return {
    name: "limiter, uncontended: reserve + settle over four scopes",
    subjects: [
      Subjects.fromEffect("breakwater, adaptive", reserve(adaptive), {
        peers: [peer],
        budgets: [Harness.micros(6)]
      }),
      Subjects.fromEffect("breakwater, not adaptive", reserve(fixed), {
        peers: [peer],
        budgets: [Harness.micros(6)]
      }),
      Subjects.fromEffect(
        "breakwater, take + end, without a scope",
        () => Effect.flatMap(adaptive.take({ scopes, tokens }), (reservation) => reservation.end(usage)),
        {
          peers: [peer],
          budgets: [Harness.micros(6)]
        }
      ),
      Subjects.fromEffect("breakwater, headrooms of 32 sets", () => adaptive.headrooms(sets)),
      Subjects.fromEffect("breakwater, RateLimiter.limit around an effect", () =>
        Effect.provideService(
          RateLimiter.limit(Effect.void, { scopes, tokens, usage: () => usage }),
          RateLimiter.RateLimiter,
          adaptive
        ), { peers: [peer] }),
      Subjects.fromEffect(
        peer,
        () =>
          Effect.flatMap(
            consume("a"),
            () => Effect.flatMap(consume("b"), () => Effect.flatMap(consume("c"), () => consume("d")))
          )
      )
    ]
  }
})

// One slot, and so many who wait for it: what is measured is one more who comes, and the slot handed on to the first.
const oneSlot = [{ key: "model:bench", limits: { tokens: plenty, concurrency: 1 } }]

const throughEngine = (waiting: number, details: Partial<Harness.Subject>): Harness.Subject => {
  const engine = Engine.make({
    levels: 5,
    maxQueue: 100_000,
    ageingMs: 10_000,
    reserve: 0,
    maxDebt: 1,
    idleMs: 600_000,
    adaptive: true,
    lagMs: 0,
    processes: 1,
    weight: () => 1
  })
  let now = 0
  const enter = (): Engine.Outcome => {
    now += 0.001
    Engine.at(engine, now, now)
    return Engine.reserve(engine, { scopes: oneSlot, ...tokens, slots: 1, level: 2, tenant: "", maxWaitMs: 1e9 })
  }
  const first = enter()
  if (first._tag !== "Granted") throw new Error("the slot is not free")
  let holder = first.grant
  for (let index = 0; index < waiting; index++) enter()
  return Subjects.fromFunction(`engine, behind ${waiting}`, () => {
    enter()
    Engine.settle(engine, holder, usage)
    Engine.release(engine, holder)
    const [granted] = engine.done
    engine.done = []
    if (granted?.[1]._tag !== "Granted") throw new Error("the slot was not handed on")
    holder = granted[1].grant
  }, details)
}

const throughService = (
  waiting: number,
  details: Partial<Harness.Subject>
): Effect.Effect<Harness.Subject, never, Scope.Scope> =>
  Effect.gen(function*() {
    const limiter = Context.get(
      yield* Layer.build(RateLimiter.layerMemory({ maxQueue: 100_000 })),
      RateLimiter.RateLimiter
    )
    let left = 0
    let go = (): void => undefined
    let done = (): void => undefined
    // Who has the slot settles and gives it back at once, to queue up again; the last of a run keeps it until the next.
    const paused = Effect.callback<void>((resume) => {
      go = () => resume(Effect.void)
      done()
    })
    const held = Effect.scoped(
      Effect.flatMap(limiter.reserve({ scopes: oneSlot, tokens, maxWait: Duration.hours(1) }), (reservation) =>
        left-- > 0 ? reservation.settle(usage) : Effect.andThen(paused, reservation.settle(usage)))
    )
    // Closing the limiter interrupts all who wait.
    yield* Effect.promise(() =>
      new Promise<void>((resolve) => {
        done = resolve
        for (let index = 0; index <= waiting; index++) {
          Effect.runFork(Effect.forever(held, { disableYield: true }))
        }
      })
    )
    return {
      ...details,
      name: `service, behind ${waiting}`,
      run: (times: number) =>
        new Promise<void>((resolve) => {
          done = resolve
          left = times - 1
          go()
        })
    }
  })

const queued: Effect.Effect<Harness.Group, never, Scope.Scope> = Effect.gen(function*() {
  const behind = (name: string) => ({
    peers: [name],
    budgets: [Harness.micros(10), Harness.ratio(name, 1)]
  })
  const few = { budgets: [Harness.micros(10)] }
  return {
    name: "limiter, in a queue: enter at its end + hand on to its head",
    subjects: [
      throughEngine(100, few),
      throughEngine(50_000, behind("engine, behind 100")),
      yield* throughService(100, few),
      yield* throughService(50_000, behind("service, behind 100"))
    ]
  }
})

export const groups = [uncontended, queued]
