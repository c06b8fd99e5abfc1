import Bottleneck from "bottleneck"
import { RateLimiter } from "breakwater"
import { Context, Duration, Effect, Layer, type Scope } from "effect"
import * as Persistence from "effect/persistence/RateLimiter"
import PQueue from "p-queue"
import { RateLimiterMemory } from "rate-limiter-flexible"
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

const build = (options: RateLimiter.Options) =>
  Effect.map(Layer.build(RateLimiter.layerMemory(options)), Context.get(RateLimiter.RateLimiter))

const effectsLimiter = Effect.map(
  Layer.build(Layer.provide(Persistence.layer, Persistence.layerStoreMemory)),
  Context.get(Persistence.RateLimiter)
)

/** What a minute allows in tokens, and in calls at the same time. */
const bottleneck = Effect.acquireRelease(
  Effect.sync(() =>
    new Bottleneck({
      maxConcurrent: 1000,
      reservoir: plenty.limit,
      reservoirRefreshAmount: plenty.limit,
      reservoirRefreshInterval: 60_000
    })
  ),
  (limiter) => Effect.promise(() => limiter.disconnect())
)

const flexible = () => new RateLimiterMemory({ points: plenty.limit, duration: 60 })

const theirs = {
  effect: "Effect RateLimiter.consume",
  bottleneck: "bottleneck",
  flexible: "rate-limiter-flexible",
  queue: "p-queue"
}

const oneScope: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const ours = yield* build({})
  const effects = yield* effectsLimiter
  const scheduled = yield* bottleneck
  const points = flexible()
  const queue = new PQueue({ concurrency: 1000, interval: 60_000, intervalCap: plenty.limit })
  const one = scopes.slice(0, 1)
  const peers = Object.values(theirs)
  return [
    Subjects.fromEffect(
      "breakwater, take + end",
      () => Effect.flatMap(ours.take({ scopes: one, tokens }), (reservation) => reservation.end(usage)),
      { peers }
    ),
    Subjects.fromEffect(
      "breakwater, RateLimiter.limit around an effect",
      () =>
        Effect.provideService(
          RateLimiter.limit(Effect.void, { scopes: one, tokens, usage: () => usage }),
          RateLimiter.RateLimiter,
          ours
        ),
      { peers }
    ),
    Subjects.fromEffect(
      theirs.effect,
      () => effects.consume({ key: "a", algorithm: "token-bucket", window: "1 minute", limit: 1e12, tokens: 1500 })
    ),
    Subjects.fromPromise(theirs.bottleneck, () => scheduled.schedule({ weight: 1 }, () => Promise.resolve())),
    Subjects.fromPromise(theirs.flexible, () => points.consume("a", 1500)),
    Subjects.fromPromise(theirs.queue, () => queue.add(() => Promise.resolve()))
  ]
})

const fourScopes: Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> = Effect.gen(function*() {
  const adaptive = yield* build({})
  const fixed = yield* build({ adaptive: false })
  const effects = yield* effectsLimiter
  const chained = yield* Effect.replicateEffect(bottleneck, 4)
  chained.reduce((first, next) => first.chain(next))
  const [first] = chained
  if (first === undefined) throw new Error("no limiter")
  const points = flexible()

  const reserve = (limiter: RateLimiter.RateLimiter["Service"]) => () =>
    Effect.scoped(
      Effect.flatMap(limiter.reserve({ scopes, tokens }), (reservation) => reservation.settle(usage))
    )
  const consume = (key: string) =>
    effects.consume({ key, algorithm: "token-bucket", window: "1 minute", limit: 1e12, tokens: 1500 })
  const times4 = {
    effect: `${theirs.effect} ×4`,
    bottleneck: `${theirs.bottleneck} ×4, chained`,
    flexible: `${theirs.flexible} ×4`
  }
  const peers = Object.values(times4)
  const budgets = [Harness.micros(6)]
  const sets = Array.from({ length: 32 }, () => scopes)
  return [
    Subjects.fromEffect("breakwater, adaptive", reserve(adaptive), { peers, budgets }),
    Subjects.fromEffect("breakwater, not adaptive", reserve(fixed), { peers, budgets }),
    Subjects.fromEffect(
      "breakwater, take + end, without a scope",
      () => Effect.flatMap(adaptive.take({ scopes, tokens }), (reservation) => reservation.end(usage)),
      { peers, budgets }
    ),
    Subjects.fromEffect("breakwater, headrooms of 32 sets", () => adaptive.headrooms(sets)),
    Subjects.fromEffect("breakwater, RateLimiter.limit around an effect", () =>
      Effect.provideService(
        RateLimiter.limit(Effect.void, { scopes, tokens, usage: () => usage }),
        RateLimiter.RateLimiter,
        adaptive
      ), { peers }),
    Subjects.fromEffect(
      times4.effect,
      () =>
        Effect.flatMap(
          consume("a"),
          () => Effect.flatMap(consume("b"), () => Effect.flatMap(consume("c"), () => consume("d")))
        )
    ),
    Subjects.fromPromise(times4.bottleneck, () => first.schedule(() => Promise.resolve())),
    Subjects.fromPromise(times4.flexible, async () => {
      for (const { key } of scopes) await points.consume(key, 1500)
    })
  ]
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

/** One slot of a peer, and so many who wait for it. */
const throughPromises = (
  name: string,
  waiting: number,
  enter: (task: () => Promise<void>) => Promise<unknown>
): Effect.Effect<Harness.Subject> =>
  Effect.promise(async () => {
    let release = (): void => undefined
    let started = (): void => undefined
    const task = () =>
      new Promise<void>((resolve) => {
        release = resolve
        started()
      })
    const first = new Promise<void>((resolve) => {
      started = resolve
    })
    for (let index = 0; index <= waiting; index++) void enter(task)
    await first
    return Subjects.fromPromise(`${name}, behind ${waiting}`, () =>
      new Promise<void>((resolve) => {
        started = resolve
        void enter(task)
        release()
      }))
  })

const many = 50_000

const behind = (waiting: number): Effect.Effect<ReadonlyArray<Harness.Subject>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const scheduled = yield* Effect.acquireRelease(
      Effect.sync(() => new Bottleneck({ maxConcurrent: 1 })),
      (limiter) => Effect.promise(() => limiter.disconnect())
    )
    const queue = new PQueue({ concurrency: 1 })
    const peers = [
      yield* throughPromises("bottleneck", waiting, (task) => scheduled.schedule(task)),
      yield* throughPromises("p-queue", waiting, (task) => queue.add(task))
    ]
    const beside = (name: string) => ({
      peers: [
        ...(waiting === many ? [`${name}, behind 100`] : []),
        ...(name === "service" ? peers.map((_) => _.name) : [])
      ],
      budgets: [Harness.micros(10), ...(waiting === many ? [Harness.ratio(`${name}, behind 100`, 1)] : [])]
    })
    return [throughEngine(waiting, beside("engine")), yield* throughService(waiting, beside("service")), ...peers]
  })

export const groups: ReadonlyArray<Harness.Group> = [
  { name: "limiter, uncontended: one scope", subjects: oneScope },
  { name: "limiter, uncontended: reserve + settle over four scopes", subjects: fourScopes },
  {
    name: "limiter, in a queue: enter at its end + hand on to its head",
    note: "bottleneck, p-queue: one at a time",
    subjects: Effect.map(Effect.all([behind(100), behind(many)]), (_) => _.flat())
  }
]
