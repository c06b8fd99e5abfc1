/**
 * What a call has to do with the limiter: admission before an attempt, settlement after it, learning from both.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { LLMError } from "../../LLMError.ts"
import type * as RateLimiter from "../../RateLimiter.ts"
import { scopeKey } from "../../Target.ts"
import type { ContextChange } from "../../Timeouts.ts"
import type { Estimate } from "../../Usage.ts"
import * as Usage from "../../Usage.ts"
import { isRefusal } from "../limiter/refusal.ts"
import { observations } from "../quotaHeaders.ts"
import * as Step from "../step.ts"
import { OnResponse, type ResponseHead } from "../wire/onResponse.ts"
import type { Attempt, Call, Grant, LimitScope, Member, Spent } from "./call.ts"

/** The limits an attempt of this call at this target counts in. */
export const scopesOf = (call: Call, member: Member): ReadonlyArray<LimitScope> => {
  const { tenant } = call.need
  const own = tenant === undefined ? undefined : call.engine.tenants.get(tenant)
  if (own === undefined) return member.limits
  const known = own.scopes.get(member)
  if (known !== undefined) return known
  const scopes = [...member.limits, own.scope]
  own.scopes.set(member, scopes)
  return scopes
}

/**
 * What an attempt asks the limiter for: room at once, or a place in the queue when every target lacks room. It does not
 * wait for so long that an answer, which takes `answerMs`, would come too late: that would only cost others their quota.
 */
export const requestOf = (
  moment: Step.Moment,
  call: Call,
  member: Member,
  scopes: ReadonlyArray<LimitScope>,
  estimate: Estimate,
  answerMs = 0
): RateLimiter.Request => {
  const left = call.setup.deadlineAt - Step.millis(moment)
  return {
    scopes,
    tokens: estimate,
    priority: call.need.priority,
    tenant: call.need.tenant,
    maxWait: Math.max(0, Math.min(call.engine.queueWaitMs, left - answerMs)),
    context: member.about,
    since: call.startedAt
  }
}

export const grantOf = (reservation: RateLimiter.Reservation, estimate: Estimate): Grant => ({
  reservation,
  estimate,
  sent: false,
  emitted: 0,
  ended: false
})

/** Gives back what is held; what nobody has settled was interrupted. */
export const release = (grant: Grant, { target }: Member): Effect.Effect<void> =>
  grant.ended ? Exit.void : settle(grant, target.provider, { _tag: "Interrupted", sent: grant.sent })

const usageOf = (grant: Grant, provider: string, outcome: Usage.Outcome): RateLimiter.Usage => {
  const settled = Usage.settlement(outcome, grant.estimate, Usage.fromCharacters(grant.emitted))
  if (settled.requests === 0) return "nothing-sent"
  // What a provider counts of its cache against a limit is no cached input to the limiter.
  const cachedInput = settled.input - Usage.limitedInput(settled, provider)
  return { input: settled.input, output: settled.output, cachedInput }
}

const settle = (grant: Grant, provider: string, outcome: Usage.Outcome): Effect.Effect<void> =>
  ended(grant, usageOf(grant, provider, outcome))

// The slots go back with the settlement: whoever is told how an attempt ended has its answer, or needs no more of it.
const ended = (grant: Grant, usage: RateLimiter.Usage): Effect.Effect<void> =>
  Step.make((moment) => {
    if (grant.ended) return Exit.void
    grant.ended = true
    return Step.all(moment, [grant.reservation.end(usage)])
  })

/** Settles a success by its usage, and learns from it what the next estimate should be. */
export const succeeded = (
  moment: Step.Moment,
  call: Call,
  { grant, member }: Attempt,
  spent: Spent
): Effect.Effect<void> => {
  if (grant === undefined) return Exit.void
  if (spent._tag === "Told") return ended(grant, spent.usage)
  const { usage } = spent
  return Step.all(moment, [
    settle(grant, member.target.provider, { _tag: "Success", usage }),
    call.engine.usage.record({ target: member.target, usage, estimate: grant.estimate })
  ])
}

/** Settles a failure by what it says, and tells the limiter when the provider found the rate too high. */
export const failed = (call: Call, attempt: Attempt, error: LLMError): Effect.Effect<void> => {
  const { grant } = attempt
  if (grant === undefined) return Effect.void
  const settled = settle(grant, attempt.member.target.provider, { _tag: "Failure", error })
  const limited = attempt.member.limits
  if (!isRefusal(error) || limited.length === 0) return settled
  const hit = scopeKey(attempt.member.target, error.scope)
  const key = limited.some((_) => _.key === hit) ? hit : limited[0]?.key
  return key === undefined ? settled : Effect.andThen(
    settled,
    call.engine.limiter.observe(key, {
      refused: {
        retryAfter: error.retryAfter,
        tokens: grant.estimate.input + grant.estimate.output,
        overloaded: error.reason === "overloaded"
      },
      sentAt: grant.reservation.grantedAt
    })
  )
}

/** Tells the limiter that a target answers again that could not be asked for a while. */
export const recovered = (call: Call, { member, permit }: Attempt): Effect.Effect<void> => {
  const key = member.limits[0]?.key
  return permit.isProbe && key !== undefined ? call.engine.limiter.observe(key, { rested: true }) : Exit.void
}

/** Lets the limiter read the rate-limit headers of whatever is received in the context. */
export const observing = (call: Call, attempt: Attempt): ContextChange | undefined => {
  const key = attempt.member.limits[0]?.key
  if (attempt.grant === undefined || key === undefined) return undefined
  const sentAt = attempt.grant.reservation.grantedAt
  const observe = ({ headers, status, target }: ResponseHead): Effect.Effect<void> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const limits = observations(target.provider, status, headers, now)
      return limits.length === 0 ? Effect.void : call.engine.limiter.observe(key, { limits, sentAt })
    })
  return (context) => Context.add(context, OnResponse, observe)
}
