import * as Engine from "../../../src/internal/limiter/engine.ts"
import type { Limits } from "../../../src/internal/limiter/limits.ts"
import type { Waiter } from "../../../src/internal/limiter/queue.ts"

export interface Asked {
  readonly scopes?: Engine.Ask["scopes"]
  readonly input?: number
  readonly output?: number
  readonly slots?: number
  readonly level?: number
  readonly tenant?: string
  readonly maxWaitMs?: number
  readonly since?: number
}

export type Result = Engine.Done & { readonly at: number }

/** Drives an engine in virtual time and notes what became of whom, and when. */
export const make = (limits: Limits, options: Partial<Engine.Options> = {}) => {
  const engine = Engine.make({
    levels: 5,
    maxQueue: 100_000,
    ageingMs: 10_000,
    reserve: 0,
    maxDebt: 1,
    idleMs: 600_000,
    lagMs: 0,
    adaptive: false,
    processes: 1,
    weight: () => 1,
    ...options
  })
  let now = 0
  Engine.at(engine, 0, 0)
  const results = new Map<string, Result>()
  const order: Array<string> = []
  const waiters = new Map<string, Waiter>()
  const names = new Map<Waiter, string>()

  const end = (id: string, done: Engine.Done): void => {
    results.set(id, { ...done, at: now })
    if (done._tag === "Granted") order.push(id)
  }
  const collect = (): void => {
    const { done } = engine
    engine.done = []
    for (const [waiter, outcome] of done) {
      const id = names.get(waiter)
      if (id !== undefined) end(id, outcome)
    }
  }
  const advance = (time: number): void => {
    for (let next = Engine.wakeAt(engine); next <= time; next = Engine.wakeAt(engine)) {
      now = Math.max(now, next)
      Engine.at(engine, now, now)
      Engine.advance(engine)
      collect()
    }
    now = Math.max(now, time)
    Engine.at(engine, now, now)
  }
  const step = <A>(f: () => A): A => {
    const value = f()
    collect()
    return value
  }
  const acquire = (id: string, asked: Asked & { readonly since?: number } = {}): Engine.Outcome => {
    const outcome = Engine.reserve(engine, {
      scopes: asked.scopes ?? [{ key: "scope", limits }],
      input: asked.input ?? 0,
      output: asked.output ?? 0,
      slots: asked.slots ?? 1,
      level: asked.level ?? 2,
      tenant: asked.tenant ?? "",
      maxWaitMs: asked.maxWaitMs ?? Number.POSITIVE_INFINITY,
      since: asked.since
    })
    if (outcome._tag === "Waiting") {
      waiters.set(id, outcome.waiter)
      names.set(outcome.waiter, id)
    } else end(id, outcome)
    collect()
    return outcome
  }
  const grantOf = (id: string): Engine.Grant => {
    const result = results.get(id)
    if (result?._tag !== "Granted") throw new Error(`${id} has not been granted`)
    return result.grant
  }
  return {
    engine,
    results,
    order,
    advance,
    acquire,
    grantOf,
    grantedAt: (id: string): number | undefined => {
      const result = results.get(id)
      return result?._tag === "Granted" ? Math.round(result.at * 1e6) / 1e6 : undefined
    },
    refusalOf: (id: string): Engine.Refusal | undefined => {
      const result = results.get(id)
      return result?._tag === "Refused" ? result.refusal : undefined
    },
    cancel: (id: string): void => {
      const waiter = waiters.get(id)
      if (waiter !== undefined) step(() => Engine.cancel(engine, waiter))
    },
    settle: (id: string, usage: Parameters<typeof Engine.settle>[2]): void =>
      step(() => Engine.settle(engine, grantOf(id), usage)),
    release: (id: string): void => step(() => Engine.release(engine, grantOf(id))),
    rested: (key: string): void => step(() => Engine.rested(engine, key)),
    setLimits: (key: string, limits: Limits): void => step(() => Engine.setLimits(engine, key, limits))
  }
}
