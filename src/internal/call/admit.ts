/**
 * What a call has to do with the limiter: admission before an attempt, settlement after it, learning from both.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { LLMError, RateLimitError } from "../../LLMError.ts"
import type * as RateLimiter from "../../RateLimiter.ts"
import { scopeKey } from "../../Target.ts"
import * as Usage from "../../Usage.ts"
import { isRefusal } from "../limiter/refusal.ts"
import { observations } from "../quotaHeaders.ts"
import { OnResponse } from "../wire/onResponse.ts"
import { about } from "./about.ts"
import type { Attempt, Call, Grant, LimitScope, Member, Spent } from "./call.ts"

/** The limits an attempt of this call at this target counts in. */
export const scopesOf = (call: Call, member: Member): ReadonlyArray<LimitScope> => {
  const { tenant } = call.need
  const own = tenant === undefined ? undefined : call.engine.tenants.get(tenant)
  return own === undefined ? member.limits : [...member.limits, own]
}

/** Reserves what the attempt may use: at once or not at all, or in the queue when every target lacks capacity. */
export const admit = (
  call: Call,
  member: Member,
  scopes: ReadonlyArray<LimitScope>,
  queue: boolean,
  scope: Scope.Scope
): Effect.Effect<Grant, RateLimitError> => {
  const { limiter, queueWaitMs } = call.engine
  const { target } = member
  return Effect.flatMap(call.need.estimate(target), (estimate) => {
    const left = call.setup.deadlineAt - call.clock.currentTimeMillisUnsafe()
    const request: RateLimiter.Request = {
      scopes,
      tokens: estimate,
      priority: call.need.priority,
      tenant: call.need.tenant,
      maxWait: Math.max(0, Math.min(queueWaitMs, left)),
      context: about(target)
    }
    const reserve = queue ? limiter.reserve(request) : limiter.tryReserve(request)
    return Effect.flatMap(Scope.provide(reserve, scope), (reservation) => {
      const grant: Grant = { reservation, estimate, sent: false, emitted: 0 }
      // Whatever ends the attempt without settling it is an interruption.
      return Effect.as(
        Scope.addFinalizer(
          scope,
          Effect.suspend(() => settle(grant, target.provider, { _tag: "Interrupted", sent: grant.sent }))
        ),
        grant
      )
    })
  })
}

const settle = (grant: Grant, provider: string, outcome: Usage.Outcome): Effect.Effect<void> => {
  const settled = Usage.settlement(outcome, grant.estimate, Usage.fromCharacters(grant.emitted))
  if (settled.requests === 0) return grant.reservation.settle("nothing-sent")
  // What a provider counts of its cache against a limit is no cached input to the limiter.
  const cachedInput = settled.input - Usage.limitedInput(settled, provider)
  return grant.reservation.settle({ input: settled.input, output: settled.output, cachedInput })
}

/** Settles a success by its usage, and learns from it what the next estimate should be. */
export const succeeded = (call: Call, attempt: Attempt, spent: Spent): Effect.Effect<void> => {
  const { grant, member } = attempt
  if (grant === undefined) return Effect.void
  switch (spent._tag) {
    case "Reported":
      return Effect.andThen(
        settle(grant, member.target.provider, { _tag: "Success", usage: spent.usage }),
        call.engine.usage.record({ target: member.target, usage: spent.usage, estimate: grant.estimate })
      )
    case "Told":
      return grant.reservation.settle(spent.usage)
  }
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
      refused: { retryAfter: error.retryAfter, tokens: grant.estimate.input + grant.estimate.output },
      sentAt: grant.reservation.grantedAt
    })
  )
}

/** Lets the limiter read the rate-limit headers of whatever the attempt receives. */
export const observing = <A, E, R>(
  call: Call,
  attempt: Attempt,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const key = attempt.member.limits[0]?.key
  if (attempt.grant === undefined || key === undefined) return effect
  const sentAt = attempt.grant.reservation.grantedAt
  return Effect.provideService(
    effect,
    OnResponse,
    ({ headers, status, target }) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const limits = observations(target.provider, status, headers, now)
        return limits.length === 0 ? Effect.void : call.engine.limiter.observe(key, { limits, sentAt })
      })
  )
}
