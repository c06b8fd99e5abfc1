/**
 * What is known of a running gateway, as plain data without secrets.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Cooldown from "../../Cooldown.ts"
import * as Health from "../../Health.ts"
import * as RateLimiter from "../../RateLimiter.ts"
import type { Desk } from "./visit.ts"

export const status = Effect.fnUntraced(function*(desk: Desk, startedAt: number) {
  const { breakers, kept } = desk.state
  const circuits = yield* Effect.forEach(
    breakers,
    ([, breaker]) => breaker.snapshot
  )
  return {
    status: desk.draining ? "draining" as const : "ok" as const,
    uptimeMs: (yield* Clock.currentTimeMillis) - startedAt,
    inFlight: desk.inFlight,
    ...desk.counts,
    models: Array.from(desk.current.models.values(), ({ name, plan: { options } }) => ({
      name,
      inFlight: desk.byModel.get(name) ?? 0,
      streamPolicy: options.streamPolicy ?? "fail",
      targets: options.targets.map((_) => _.id)
    })),
    cooldowns: (yield* Context.get(kept, Cooldown.Cooldown).status).entries,
    circuits: circuits.flat(),
    health: yield* Context.get(kept, Health.Health).report,
    limits: yield* Context.get(kept, RateLimiter.RateLimiter).snapshot
  }
})

export type Status = Effect.Success<ReturnType<typeof status>>
