/**
 * A second request beside a slow one.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type * as Hedging from "../../Hedging.ts"
import * as Races from "../hedging/run.ts"
import * as Step from "../step.ts"
import { blocked } from "./blocked.ts"
import type { Call, Chosen, Ended, Failed, Loop, Served } from "./call.ts"
import { giveBack, withdraw } from "./charge.ts"
import * as Decisions from "./decision.ts"
import { attempt } from "./hold.ts"
import * as Observers from "./observe.ts"

/** An attempt that is joined by another one, at another target, when it takes longer than most do. */
export const hedged = <A, R>(
  moment: Step.Moment,
  loop: Loop<A, R>,
  chosen: Chosen,
  hedging: Hedging.Hedging["Service"]
): Effect.Effect<Ended<A>, never, R> => {
  const { call } = loop
  const opened: Array<Served<A>> = []
  let isOver = false

  // Who is served and does not win may not even come to say so: it is remembered in the step in which it is kept open.
  const keeps = (served: Served<A>): boolean => {
    if (!isOver) opened.push(served)
    return !isOver
  }

  const primary = attempt(moment, loop, chosen, keeps)
  const member = call.engine.candidates[chosen.index]
  const maxHedges = hedging.policy.maxHedges - call.hedges
  if (member === undefined || chosen.queue || !call.need.replays || maxHedges <= 0) return primary
  const key = Observers.hedgingKey(call, member)
  const running = [chosen.index]
  const { hedges, state } = call
  let next: Chosen | undefined
  let failed: Failed | undefined

  const first = Effect.flatMap(primary, (ended): Effect.Effect<Served<A>, Ended<A>> => {
    if (ended._tag === "Served") return Effect.succeed(ended)
    if (ended._tag === "Failed") failed = ended
    return Effect.fail(ended)
  })

  const beside = (hedge: Chosen): Effect.Effect<Served<A>, Ended<A>, R> =>
    Effect.flatMap(
      Step.at((moment) => attempt(moment, loop, hedge, keeps)),
      (ended): Effect.Effect<Served<A>, Ended<A>> => {
        if (ended._tag === "Served") return Effect.succeed(ended)
        if (ended._tag !== "Failed") return Effect.andThen(giveBack(call), Effect.fail(ended))
        learn(ended)
        return Effect.fail(ended)
      }
    )

  // Whoever fails beside another one changes what the call knows, but decides nothing while that one may still answer.
  const learn = (failed: Failed): void => {
    const now = call.clock.currentTimeMillisUnsafe()
    call.state = Decisions.decide(call.setup, call.state, { ...failed, retryMs: undefined }, [], now)[0]
  }

  // The answer may still break, and what was sent beside it has to count by then, whether it has failed or not.
  const won = (served: Served<A>): Served<A> => {
    if (failed !== undefined) learn(failed)
    if (call.hedges > hedges) call.state = { ...call.state, attempts: state.attempts + call.hedges - hedges }
    return served
  }

  const raced = (delay: Duration.Duration): Effect.Effect<Ended<A>, never, R> =>
    Effect.match(
      Races.run<Served<A>, Ended<A>, R>({
        start: (index) => index > 0 && next !== undefined ? beside(next) : first,
        maxAttempts: 1 + maxHedges,
        delay: Duration.toMillis(delay),
        startsOnFailure: false,
        graceMs: 100,
        sharesTimer: true,
        isFatal: (ended) =>
          ended._tag === "Failed" && ended.rule.otherTargets === "never" && ended.rule.sameTarget === "never",
        mayStart: () =>
          Effect.map(hedgeOf(call, hedging, key, running), (hedge) => {
            next = hedge
            if (hedge !== undefined) running.push(hedge.index)
            return hedge !== undefined
          })
      }),
      { onSuccess: won, onFailure: (ended): Ended<A> => ended }
    )

  // Whoever was kept open and is not the answer is closed, and a hedge that was granted and not sent is given back.
  const over = (exit: Exit.Exit<Ended<A>>): Effect.Effect<void> | undefined => {
    isOver = true
    const lost = opened.filter((served) => Exit.isFailure(exit) || exit.value !== served)
    if (lost.length === 0) return call.pendingHedge === undefined ? undefined : giveBack(call)
    const closed = Effect.forEach(
      lost,
      ({ attempt: { scope } }) => scope === undefined ? Effect.void : Scope.close(scope, Exit.interrupt()),
      { discard: true }
    )
    return Effect.andThen(closed, giveBack(call))
  }

  return Step.flatMap(
    moment,
    hedging.delay(key),
    (delay) => delay === undefined ? primary : Effect.onExitPrimitive(raced(delay), over)
  )
}

/** The attempt to be made beside those that run, when there is a good target and a budget for it. */
const hedgeOf = (
  call: Call,
  hedging: Hedging.Hedging["Service"],
  key: string,
  running: ReadonlyArray<number>
): Effect.Effect<Chosen | undefined> =>
  call.state.attempts + running.length >= call.setup.maxAttempts
    ? Effect.undefined
    : Effect.flatMap(
      Step.at((moment) => blocked(moment, call)),
      (cooling) => besideOneOf(call, hedging, key, running, cooling)
    )

const besideOneOf = (
  call: Call,
  hedging: Hedging.Hedging["Service"],
  key: string,
  others: ReadonlyArray<number>,
  cooling: Decisions.Cooling
): Effect.Effect<Chosen | undefined> => {
  const { candidates, circuits, health, limiter } = call.engine
  const { maxUtilisation, minHealth } = hedging.policy
  const chosen = Decisions.beside(call.setup, call.state, others, cooling, call.clock.currentTimeMillisUnsafe())
  const member = chosen === undefined ? undefined : candidates[chosen.index]
  if (chosen === undefined || member === undefined) return Effect.undefined
  const signs = Effect.all([
    health.score(member.health[0] ?? ""),
    circuits.state(member.circuit),
    limiter.headrooms([member.limits])
  ])
  return Effect.flatMap(signs, ([score, circuit, [headroom = 1]]) =>
    // Who is ill, on probation or nearly at a limit is not sent what may be in vain; somebody else may do.
    score < minHealth || circuit.status === "half-open" || 1 - headroom > maxUtilisation
      ? besideOneOf(call, hedging, key, [...others, chosen.index], cooling)
      : Effect.map(withdraw(call, hedging, key, member), (granted) => granted ? chosen : undefined))
}
