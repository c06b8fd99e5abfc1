/**
 * What the retry budget and the budget of hedges are charged for attempts to come, and get back for those that are not
 * made after all.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Hedging from "../../Hedging.ts"
import type * as Errors from "../../LLMError.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Step from "../step.ts"
import type { Call, Member } from "./call.ts"
import type * as Decisions from "./decision.ts"

/** Charges the retry budget for a retry in place. */
export const charge = (
  call: Call,
  decision: Extract<Decisions.Decision, { readonly _tag: "Wait" }>,
  error: Errors.LLMError
): Effect.Effect<boolean> => {
  const key = call.engine.candidates[decision.index]?.budget
  if (key === undefined) return Effect.succeed(false)
  const cost = RetryBudget.costOf(error)
  return Effect.uninterruptible(Effect.map(call.engine.budget.withdraw(key, cost), (granted) => {
    if (granted) call.pendingCharge = { key, cost }
    return granted
  }))
}

/** Gives back what was charged for a retry that is not sent after all. */
export const refund = (call: Call): Effect.Effect<void> =>
  call.pendingCharge === undefined ? Exit.void : Step.make((moment) => {
    const charge = call.pendingCharge
    call.pendingCharge = undefined
    return charge === undefined ? Exit.void : Step.all(moment, [call.engine.budget.refund(charge.key, charge.cost)])
  })

export const hedgeCost: RetryBudget.Cost = "transient"

// A hedge is paid for twice: as load beyond what is asked for, and like a retry.
export const withdraw = (
  call: Call,
  hedging: Hedging.Hedging["Service"],
  key: string,
  { budget }: Member
): Effect.Effect<boolean> =>
  Effect.uninterruptible(Effect.flatMap(hedging.withdraw(key), (granted) =>
    granted
      ? Effect.flatMap(call.engine.budget.withdraw(budget, hedgeCost), (charged) => {
        if (!charged) return Effect.as(hedging.refund(key), false)
        call.pendingHedge = { key, budget }
        return Effect.succeed(true)
      })
      : Effect.succeed(false)))

/** Gives back what was charged for a hedge that was not sent. */
export const giveBack = (call: Call): Effect.Effect<void> =>
  Step.make((moment) => {
    const { budget, hedging } = call.engine
    const pending = call.pendingHedge
    call.pendingHedge = undefined
    return pending === undefined || hedging === undefined
      ? Exit.void
      : Step.all(moment, [budget.refund(pending.budget, hedgeCost), hedging.refund(pending.key)])
  })
