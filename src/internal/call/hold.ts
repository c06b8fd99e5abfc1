/**
 * One attempt from its admission to its end: what it holds, in which order it is given it, and how all of it goes back.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { Permit } from "../../CircuitBreaker.ts"
import type { Permit as Passed } from "../../ClientThrottle.ts"
import * as ClientThrottle from "../../ClientThrottle.ts"
import type { RateLimitError } from "../../LLMError.ts"
import * as Errors from "../../LLMError.ts"
import type { Reservation } from "../../RateLimiter.ts"
import * as Step from "../step.ts"
import * as Admissions from "./admit.ts"
import * as Boards from "./board.ts"
import type { Attempt, Chosen, Ended, Grant, Loop, Member, Served } from "./call.ts"
import { hedgeCost, refund } from "./charge.ts"
import type * as Decisions from "./decision.ts"
import { judged } from "./judge.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"
import { settle } from "./settle.ts"

/** An attempt on its way in, and what it holds from the moment it is given it. */
interface Entry<A, R> {
  readonly moment: Step.Moment
  readonly loop: Loop<A, R>
  readonly chosen: Chosen
  readonly member: Member
  readonly scope: Scope.Closeable | undefined
  grant: Grant | undefined
  permit: Permit | undefined
  passed: Passed | undefined
  attempt: Attempt | undefined
  released: boolean
}

/** Makes an attempt; what one opens that is served stays open in the `parent`, if `keeps` says so. */
export const attempt = <A, R>(
  moment: Step.Moment,
  loop: Loop<A, R>,
  chosen: Chosen,
  keeps: (served: Served<A>) => boolean = always
): Effect.Effect<Ended<A>, never, R> => {
  const { call, parent } = loop
  const member = call.engine.candidates[chosen.index]
  if (member === undefined) return Effect.die(new RangeError(`Router: no candidate ${chosen.index}`))
  const isWhole = parent === undefined && !chosen.queue
  const scope = isWhole ? undefined : parent === undefined ? Scope.makeUnsafe() : Scope.forkUnsafe(parent)
  const entry: Entry<A, R> = {
    moment,
    loop,
    chosen,
    member,
    scope,
    grant: undefined,
    permit: undefined,
    passed: undefined,
    attempt: undefined,
    released: false
  }
  const entered = Effect.suspend(() => {
    Step.passed(moment)
    return limited(entry)
  })
  if (scope === undefined) return Effect.onExitPrimitive(entered, () => Step.rest(released(entry)))
  // A slot of a failed attempt must be free, and its socket closed, before anything else is tried.
  return Effect.onExitPrimitive(
    Effect.andThen(Scope.addFinalizer(scope, letGo(entry)), entered),
    (exit) =>
      parent !== undefined && Exit.isSuccess(exit) && exit.value._tag === "Served" && keeps(exit.value)
        ? undefined
        : Scope.closeUnsafe(scope, exit)
  )
}

const always = (): boolean => true

const letGo = <A, R>(entry: Entry<A, R>): Effect.Effect<void> => Effect.suspend(() => released(entry))

/** Gives back all that is held, whatever it was held for. */
const released = <A, R>(entry: Entry<A, R>): Effect.Effect<void> => {
  if (entry.released) return Exit.void
  entry.released = true
  Step.passed(entry.moment)
  const { attempt, chosen, moment, grant, loop: { call }, member, passed, permit } = entry
  const slots = grant === undefined ? Exit.void : Admissions.release(grant, member)
  if (attempt === undefined) {
    return Step.all(moment, [permit?.ignored ?? Exit.void, passed?.settle("neutral") ?? Exit.void, slots])
  }
  Boards.end(call.engine.board, chosen.index)
  return Step.all(moment, [
    attempt.told ? Observers.untold(attempt) : Observers.interrupted(moment, call, attempt),
    slots
  ])
}

const refused = (chosen: Chosen, by: Decisions.Busy["by"], error: Errors.LLMError): Exit.Exit<Ended<never>> =>
  Exit.succeed({ _tag: "Refused", index: chosen.index, queued: chosen.queue, by, error })

/** First the limits, of all scopes at once: room now, or a place in the queue. */
const limited = <A, R>(entry: Entry<A, R>): Effect.Effect<Ended<A>, never, R> => {
  const { chosen, moment, loop: { call }, member, scope } = entry
  const { limiter } = call.engine
  const scopes = Admissions.scopesOf(call, member)
  if (scopes.length === 0) return admitted(entry)
  // The request was checked when the call began, so an estimate cannot fail.
  return Step.orDie(moment, call.need.estimate(member.target), (estimate) => {
    const keep = (reservation: Reservation): void => {
      entry.grant = Admissions.grantOf(reservation, estimate)
    }
    const onFailure = (error: RateLimitError): Effect.Effect<Ended<A>, never, R> => refused(chosen, "limit", error)
    if (scope === undefined || !chosen.queue) {
      const request = Admissions.requestOf(moment, call, member, scopes, estimate)
      return Step.acquire(moment, limiter.take(request), keep, { onSuccess: () => admitted(entry), onFailure })
    }
    // While it waits the scope holds its place; what it was granted is given back by us, who know what came of it.
    const queued = Step.flatMap(moment, call.engine.health.figures(member.health[0] ?? ""), (figures) => {
      const request = Admissions.requestOf(moment, call, member, scopes, estimate, figures?.latencyP95Ms)
      return Effect.flatMap(Scope.provide(limiter.reserve(request), scope), (reservation) => {
        keep(reservation)
        return Scope.addFinalizer(scope, letGo(entry))
      })
    })
    return Effect.matchEffect(queued, { onSuccess: () => unlessCooled(entry), onFailure })
  })
}

/** A wait in the queue may take long enough for a cooldown to begin: what was granted is then given back unused. */
const unlessCooled = <A, R>(entry: Entry<A, R>): Effect.Effect<Ended<A>, never, R> => {
  const { chosen: { chosen, index }, loop: { call }, member } = entry
  return Effect.flatMap(
    call.engine.cooldown.latest([member.scopeKeys]),
    ([cooling]) => {
      Step.passed(entry.moment)
      return cooling === undefined ? admitted(entry) : Effect.succeed({ _tag: "Waited" as const, index, chosen })
    }
  )
}

// The circuit has the last word, after any wait for capacity: what it refuses gives the capacity back unused.
const admitted = <A, R>(entry: Entry<A, R>): Effect.Effect<Ended<A>, never, R> => {
  const { chosen, moment, loop: { call }, member } = entry
  const { circuits } = call.engine
  const admission = call.overruled.includes(chosen.index)
    ? Effect.andThen(circuits.probe(member.circuit), circuits.take(member.circuit))
    : circuits.take(member.circuit)
  const keep = (permit: Permit): void => {
    entry.permit = permit
  }
  return Step.acquire(moment, admission, keep, {
    onSuccess: () => passed(entry),
    onFailure: (error): Effect.Effect<Ended<A>, never, R> => refused(chosen, "circuit", error)
  })
}

const passed = <A, R>(entry: Entry<A, R>): Effect.Effect<Ended<A>, never, R> => {
  const { chosen, moment, loop: { call }, member } = entry
  const { throttle } = call.engine
  if (throttle === undefined) return begun(entry)
  const keep = (passed: Passed | undefined): void => {
    entry.passed = passed
  }
  return Step.acquire(moment, throttle.admit(member.target.provider), keep, {
    onSuccess: () => entry.passed === undefined ? refused(chosen, "throttle", shed(member)) : begun(entry),
    onFailure: (never) => never
  })
}

const shed = ({ target }: Member): Errors.LLMError =>
  Errors.update(ClientThrottle.refusal(target.provider), { model: target.model, target: target.id })

// What an attempt takes over, from the charge for a retry to the place in a throttle, is its own at once or not at all.
const begun = <A, R>(entry: Entry<A, R>): Effect.Effect<Ended<A>, never, R> => {
  const { chosen, moment, loop, member, permit } = entry
  const { call } = loop
  if (permit === undefined) return Effect.die(new RangeError(`Router: no permit for ${member.target.id}`))
  const { board, budget, hedging } = call.engine
  const attempt = attemptOf(entry, permit)
  entry.attempt = attempt
  Boards.begin(board, chosen.index, attempt.startedAt)
  if (attempt.charged !== undefined) return performed(moment, loop, attempt)
  // What was charged for a retry elsewhere is given back before this attempt counts as a first one.
  const counted = Step.all(moment, [
    call.pendingCharge === undefined || chosen.chosen === "hedge" ? Exit.void : refund(call),
    budget.deposit(member.budget),
    hedging === undefined ? Exit.void : hedging.request(Observers.hedgingKey(call, member))
  ])
  return Step.flatMap(moment, counted, () => performed(moment, loop, attempt))
}

const performed = <A, R>(
  moment: Step.Moment,
  { call, perform, spent }: Loop<A, R>,
  attempt: Attempt
): Effect.Effect<Ended<A>, never, R> => {
  const ended = Effect.matchEffect(perform(attempt), {
    onSuccess: (value): Effect.Effect<Ended<A>> => {
      Step.passed(moment)
      const served = Exit.succeed<Served<A>>({ _tag: "Served", attempt, value })
      return spent === undefined
        ? served
        : Step.flatMap(moment, Observers.succeeded(moment, call, attempt, spent(value)), () => served)
    },
    onFailure: (raised): Effect.Effect<Ended<A>> =>
      Effect.flatMap(judged(call, attempt, raised), ({ error, evidence, restMs }) =>
        Effect.andThen(
          Step.at((moment) => Observers.failed(moment, call, attempt, evidence, error)),
          settle(call, attempt, error, evidence, restMs)
        ))
  })
  if (attempt.grant !== undefined) attempt.grant.sent = true
  return call.attempts.length === 0 && attempt.skipped.length === 0
    ? ended
    : Effect.andThen(Records.logChoice(call, attempt), ended)
}

const attemptOf = <A, R>(
  { chosen, grant, loop: { call }, member, moment, passed, scope }: Entry<A, R>,
  permit: Permit
): Attempt => {
  const isHedge = chosen.chosen === "hedge"
  const charge = isHedge
    ? { cost: hedgeCost }
    : call.pendingCharge?.key === member.budget
    ? call.pendingCharge
    : undefined
  const startedAt = Step.millis(moment)
  if (isHedge) {
    call.pendingHedge = undefined
    call.hedges++
    call.hedgedAt = startedAt
  } else if (charge !== undefined) call.pendingCharge = undefined
  const queuedMs = grant === undefined ? 0 : Math.round(Duration.toMillis(grant.reservation.waited))
  const pendingMs = isHedge ? 0 : call.pendingWaitMs
  call.waitedMs += queuedMs
  if (!isHedge) call.pendingWaitMs = 0
  return {
    member,
    index: chosen.index,
    chosen: chosen.chosen,
    skipped: call.attempts.length === 0 && call.unfit.length > 0 ? [...call.unfit, ...chosen.skipped] : chosen.skipped,
    startedAt,
    waitedMs: pendingMs + queuedMs,
    // Limits of time must be positive; what is over by now ends at once.
    remainingMs: Math.max(1, call.setup.deadlineAt - startedAt),
    sliceMs: Math.max(1, chosen.sliceMs),
    scope,
    grant,
    permit,
    passed,
    charged: charge?.cost,
    firstContentAt: undefined,
    told: false,
    untold: undefined
  }
}
