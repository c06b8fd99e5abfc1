/**
 * What must not be asked now.
 *
 * @internal
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Verdict } from "../../CircuitBreaker.ts"
import * as Ejections from "../health/ejection.ts"
import * as Step from "../step.ts"
import * as Boards from "./board.ts"
import type { Call } from "./call.ts"
import * as Decisions from "./decision.ts"

/** What must not be asked now: what is cooling, and what an open circuit refuses. The board is read again as well. */
export const blocked = (moment: Step.Moment, call: Call): Effect.Effect<Decisions.Cooling> => {
  const { engine } = call
  return engine.strategy.reads.length === 0
    ? asked(moment, call)
    : Step.flatMap(moment, Boards.refresh(moment, engine), () => asked(moment, call))
}

const asked = (moment: Step.Moment, call: Call): Effect.Effect<Decisions.Cooling> => {
  const { circuitKeys, circuits, cooldown, groups } = call.engine
  return Step.flatMap(
    moment,
    cooldown.latest(groups),
    (cooling) =>
      Step.flatMap(moment, circuits.checkAll(circuitKeys), (verdicts) => {
        if (verdicts.length === 0) {
          call.overruled = noOne
          return Exit.succeed(cooling)
        }
        const now = Step.millis(moment)
        call.overruled = overruledOf(call, cooling, verdicts, now)
        const obeyed = verdicts.map((verdict, index) =>
          call.overruled.includes(index) ? { ...verdict, admits: true } : verdict
        )
        return Exit.succeed(Decisions.withCircuits(cooling, obeyed, now))
      })
  )
}

/** Open circuits must not take most of a pool out of use: among what is not out for other reasons, half stays in. */
const overruledOf = (
  call: Call,
  cooling: Decisions.Cooling,
  verdicts: ReadonlyArray<Verdict>,
  now: number
): ReadonlyArray<number> => {
  const pool = verdicts.flatMap((verdict, index) =>
    call.setup.fit[index] === 1 && cooling[index] === undefined && Number.isFinite(verdict.retryAfterMs)
      ? [{ index, verdict }]
      : []
  )
  if (pool.length < 2) return []
  const refusals = pool.map(({ verdict }) =>
    verdict.status === "open"
      ? { why: "circuit" as const, until: now + verdict.retryAfterMs, probing: false }
      : undefined
  )
  return Ejections.overruled(refusals, call.engine.ejection).flatMap((at) => {
    const member = pool[at]
    // A call tries a target against its circuit once: what failed has proved the circuit right.
    return member === undefined || call.state.errors.has(member.index) ? [] : [member.index]
  })
}

const noOne: ReadonlyArray<number> = []
