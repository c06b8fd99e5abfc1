/**
 * The attempt loop: asks `decide` what is next, does it, and tells it what came of it.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { Permit, Verdict } from "../../CircuitBreaker.ts"
import type { Permit as Passed } from "../../ClientThrottle.ts"
import * as ClientThrottle from "../../ClientThrottle.ts"
import * as Errors from "../../LLMError.ts"
import type { CompletionRequest } from "../../LLMService.ts"
import * as Recovery from "../../Recovery.ts"
import * as Retry from "../../Retry.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Targets from "../../Target.ts"
import { CurrentDeadline } from "../../Timeouts.ts"
import * as Ejections from "../health/ejection.ts"
import * as Admissions from "./admit.ts"
import type { Attempt, Call, Engine, Grant, Member, Step } from "./call.ts"
import * as Decisions from "./decision.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"
import * as Requests from "./request.ts"

/** Checks a request and finds out who can serve it. */
export const begin = (engine: Engine, request: CompletionRequest): Effect.Effect<Call, Errors.LLMError> =>
  Effect.flatMap(Requests.prepare(request), (prepared) =>
    Clock.clockWith((clock) => {
      const able = engine.selective
        ? engine.candidates.filter((_) => Requests.missing(_.target.capabilities, prepared) === undefined)
        : engine.candidates
      if (able.length === 0) return Effect.fail(unable(engine, prepared))
      const startedAt = clock.currentTimeMillisUnsafe()
      const totalMs = prepared.deadline === undefined
        ? engine.limits.total
        : Duration.toMillis(Duration.fromInputUnsafe(prepared.deadline))
      const call: Call = {
        engine,
        request: prepared,
        setup: {
          candidates: able,
          maxAttempts: engine.maxAttempts,
          patienceMs: engine.patienceMs,
          deadlineAt: startedAt + totalMs
        },
        members: able,
        groups: able === engine.candidates ? engine.groups : able.map((_) => _.scopeKeys),
        circuits: able === engine.candidates ? engine.circuitKeys : able.map((_) => _.circuit),
        clock,
        startedAt,
        attempts: [],
        steps: new Map(),
        state: Decisions.initial,
        waitedMs: 0,
        pendingWaitMs: 0,
        pendingCharge: undefined,
        overruled: []
      }
      return Effect.succeed(call)
    }))

const unable = (engine: Engine, request: Requests.Prepared): Errors.LLMError => {
  const needs = new Set(engine.candidates.map((_) => Requests.missing(_.target.capabilities, request)))
  return new Errors.PermanentError({
    provider: engine.candidates[0]?.target.provider ?? "none",
    origin: "router",
    reason: "unsupported_parameter",
    scope: "request",
    detail: `no target can serve a request that needs ${Array.from(needs).join(" and ")}`
  })
}

interface Served<A> {
  readonly _tag: "Served"
  readonly attempt: Attempt
  readonly value: A
}

/** How an attempt ended, or why there was none. */
type Ended<A> =
  | Served<A>
  | { readonly _tag: "Failed"; readonly attempt: Attempt; readonly error: Errors.LLMError }
  | { readonly _tag: "Refused"; readonly by: Decisions.Busy["by"]; readonly error: Errors.LLMError }
  /** While it waited in the queue, a cooldown began that covers the target. */
  | { readonly _tag: "Overtaken" }

type Chosen = Extract<Decisions.Decision, { readonly _tag: "Attempt" }>

/**
 * Runs a call until it is served or there is nothing left to try.
 *
 * With a `parent`, what an attempt has opened stays open in it after a success; a failed one is closed before the next
 * one begins.
 */
export const run = <A>(
  call: Call,
  parent: Scope.Scope | undefined,
  perform: (attempt: Attempt, scope: Scope.Scope) => Effect.Effect<A, Errors.LLMError>
): Effect.Effect<Served<A>, Errors.LLMError> => {
  const react = (event: Decisions.Event): Effect.Effect<Served<A>, Errors.LLMError> =>
    Effect.flatMap(blocked(call), (cooling) => {
      const now = call.clock.currentTimeMillisUnsafe()
      const before = call.state
      const [state, decision] = Decisions.decide(call.setup, before, event, cooling, now)
      call.state = state
      switch (decision._tag) {
        case "Attempt":
          return Effect.flatMap(attempt(call, parent, perform, decision), (ended) => {
            switch (ended._tag) {
              case "Served":
                return Effect.succeed(ended)
              case "Failed":
                return Effect.flatMap(settle(call, ended.attempt, ended.error), react)
              case "Refused":
                return react({ ...ended, index: decision.index, queued: decision.queue })
              case "Overtaken":
                return react({ _tag: "Waited", index: decision.index, chosen: decision.chosen })
            }
          })
        case "Wait": {
          const waited = Effect.andThen(wait(call, decision), react({ ...decision, _tag: "Waited" }))
          if (event._tag !== "Failed" || decision.stated) return waited
          // A retry that the budget refuses is decided anew, as if the schedule had ended.
          return Effect.flatMap(charge(call, decision, event.error), (granted) => {
            if (granted) return waited
            call.state = before
            return react({ ...event, retryMs: undefined })
          })
        }
        case "Stop":
          return Effect.flatMap(
            asRefused(call, decision.error),
            (error) => Effect.andThen(Records.logStop(call, error), failWith(call, error))
          )
      }
    })
  return Effect.onExit(react({ _tag: "Start" }), () => refund(call))
}

/** What must not be asked now: what is cooling, and what an open circuit refuses. */
const blocked = (call: Call): Effect.Effect<Decisions.Cooling> =>
  Effect.zipWith(
    call.engine.cooldown.latest(call.groups),
    call.engine.circuits.checkAll(call.circuits),
    (cooling, verdicts) => {
      if (verdicts.length === 0) {
        call.overruled = []
        return cooling
      }
      const now = call.clock.currentTimeMillisUnsafe()
      call.overruled = overruledOf(call, cooling, verdicts, now)
      const obeyed = verdicts.map((verdict, index) =>
        call.overruled.includes(index) ? { ...verdict, admits: true } : verdict
      )
      return Decisions.withCircuits(cooling, obeyed, now)
    }
  )

/** Open circuits must not take most of a pool out of use: among what is not out for other reasons, half stays in. */
const overruledOf = (
  call: Call,
  cooling: Decisions.Cooling,
  verdicts: ReadonlyArray<Verdict>,
  now: number
): ReadonlyArray<number> => {
  const pool = verdicts.flatMap((verdict, index) =>
    cooling[index] === undefined && Number.isFinite(verdict.retryAfterMs) ? [{ index, verdict }] : []
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

/** Where a circuit is all there is to surface, its own refusal says which class of failure has opened it. */
const asRefused = (call: Call, error: Errors.LLMError): Effect.Effect<Errors.LLMError> => {
  const member = error.origin === "circuit" ? call.members.find((_) => _.target.id === error.target) : undefined
  if (member === undefined) return Effect.succeed(error)
  const { exhaustion, model, provider, retryAfter, target } = error
  return Effect.scopedWith((scope) =>
    Effect.match(Scope.provide(call.engine.circuits.admit(member.circuit), scope), {
      onSuccess: () => error,
      onFailure: (refusal) => Errors.update(refusal, { exhaustion, model, provider, retryAfter, target })
    })
  )
}

/** Charges the retry budget for a retry in place. */
const charge = (
  call: Call,
  decision: Extract<Decisions.Decision, { readonly _tag: "Wait" }>,
  error: Errors.LLMError
): Effect.Effect<boolean> => {
  const key = call.members[decision.index]?.budget
  if (key === undefined) return Effect.succeed(false)
  const cost = RetryBudget.costOf(error)
  return Effect.uninterruptible(Effect.map(call.engine.budget.withdraw(key, cost), (granted) => {
    if (granted) call.pendingCharge = { key, cost }
    return granted
  }))
}

/** Gives back what was charged for a retry that is not sent after all. */
const refund = (call: Call): Effect.Effect<void> => {
  const charge = call.pendingCharge
  if (charge === undefined) return Effect.void
  call.pendingCharge = undefined
  return call.engine.budget.refund(charge.key, charge.cost)
}

const attempt = <A>(
  call: Call,
  parent: Scope.Scope | undefined,
  perform: (attempt: Attempt, scope: Scope.Scope) => Effect.Effect<A, Errors.LLMError>,
  chosen: Chosen
): Effect.Effect<Ended<A>> => {
  const member = call.members[chosen.index]
  if (member === undefined) return Effect.die(new RangeError(`Router: no candidate ${chosen.index}`))
  const scopes = Admissions.scopesOf(call, member)

  // What an attempt takes over, from the charge for a retry to the place in a throttle, is its own at once or not at all.
  const begin = (
    scope: Scope.Scope,
    permit: Permit,
    passed: Passed | undefined,
    grant: Grant | undefined
  ): Effect.Effect<Attempt> =>
    Effect.suspend(() => {
      const attempt = attemptOf(call, member, chosen, permit, passed, grant)
      const begun = Effect.as(Scope.addFinalizer(scope, Observers.interrupted(call, attempt)), attempt)
      // What was charged for a retry elsewhere is given back before this attempt counts as a first one.
      return attempt.charged === undefined
        ? Effect.andThen(Effect.andThen(refund(call), call.engine.budget.deposit(member.budget)), begun)
        : begun
    })

  const performed = (scope: Scope.Scope, attempt: Attempt): Effect.Effect<Ended<A>> => {
    const ended = Effect.matchEffect(perform(attempt, scope), {
      onSuccess: (value): Effect.Effect<Ended<A>> => Effect.succeed({ _tag: "Served", attempt, value }),
      onFailure: (error) =>
        Effect.as(Observers.failed(call, attempt, error), { _tag: "Failed" as const, attempt, error })
    })
    if (attempt.grant !== undefined) attempt.grant.sent = true
    return call.attempts.length === 0 && chosen.skipped.length === 0
      ? ended
      : Effect.andThen(Records.logChoice(call, attempt), ended)
  }

  const { circuits, throttle } = call.engine
  const admission = call.overruled.includes(chosen.index)
    ? Effect.andThen(circuits.probe(member.circuit), circuits.admit(member.circuit))
    : circuits.admit(member.circuit)

  // The circuit has the last word, after any wait for capacity: what it refuses gives the capacity back unused.
  const admitted = (scope: Scope.Scope, grant: Grant | undefined): Effect.Effect<Ended<A>> =>
    Effect.matchEffect(Scope.provide(admission, scope), {
      onSuccess: (permit) => {
        const begun = throttle === undefined
          ? begin(scope, permit, undefined, grant)
          : Effect.flatMap(
            throttle.admit(member.target.provider),
            (passed) => passed === undefined ? Effect.undefined : begin(scope, permit, passed, grant)
          )
        return Effect.flatMap(Effect.uninterruptible(begun), (attempt) =>
          attempt === undefined
            ? Effect.as(cancelled(grant), { _tag: "Refused" as const, by: "throttle" as const, error: shed(member) })
            : performed(scope, attempt))
      },
      onFailure: (error): Effect.Effect<Ended<A>> =>
        Effect.as(cancelled(grant), { _tag: "Refused", by: "circuit", error })
    })

  const opened = parent === undefined ? Scope.make() : Scope.fork(parent)
  return Effect.flatMap(opened, (scope) => {
    const ended = scopes.length === 0
      ? admitted(scope, undefined)
      : Effect.matchEffect(Admissions.admit(call, member, scopes, chosen.queue, scope), {
        onSuccess: (grant) =>
          chosen.queue ? unlessCooled(call, member, grant, admitted(scope, grant)) : admitted(scope, grant),
        onFailure: (error): Effect.Effect<Ended<A>> => Effect.succeed({ _tag: "Refused", by: "limit", error })
      })
    // A slot of a failed attempt must be free, and its socket closed, before anything else is tried.
    return Effect.onExit(ended, (exit) =>
      parent !== undefined && Exit.isSuccess(exit) && exit.value._tag === "Served"
        ? Effect.void
        : Scope.close(scope, exit))
  })
}

const cancelled = (grant: Grant | undefined): Effect.Effect<void> => grant?.reservation.cancel ?? Effect.void

const shed = ({ target }: Member): Errors.LLMError =>
  Errors.update(ClientThrottle.refusal(target.provider), { model: target.model, target: target.id })

/** A wait in the queue may take long enough for a cooldown to begin: what was granted is then given back unused. */
const unlessCooled = <A>(
  call: Call,
  member: Member,
  grant: Grant,
  performed: Effect.Effect<Ended<A>>
): Effect.Effect<Ended<A>> =>
  Effect.flatMap(call.engine.cooldown.latest([member.scopeKeys]), ([entry]) =>
    entry === undefined
      ? performed
      : Effect.as(grant.reservation.cancel, { _tag: "Overtaken" as const }))

const attemptOf = (
  call: Call,
  member: Member,
  chosen: Chosen,
  permit: Permit,
  passed: Passed | undefined,
  grant: Grant | undefined
): Attempt => {
  const charge = call.pendingCharge?.key === member.budget ? call.pendingCharge : undefined
  if (charge !== undefined) call.pendingCharge = undefined
  const startedAt = call.clock.currentTimeMillisUnsafe()
  const queuedMs = grant === undefined ? 0 : Math.round(Duration.toMillis(grant.reservation.waited))
  const waitedMs = call.pendingWaitMs + queuedMs
  call.waitedMs += queuedMs
  call.pendingWaitMs = 0
  return {
    member,
    index: chosen.index,
    chosen: chosen.chosen,
    skipped: chosen.skipped,
    startedAt,
    waitedMs,
    // Limits of time must be positive; what is over by now ends at once.
    remainingMs: Math.max(1, call.setup.deadlineAt - startedAt),
    grant,
    permit,
    passed,
    charged: charge?.cost,
    firstContentAt: undefined,
    told: false
  }
}

/** Records a failure, starts its cooldown and asks the retry schedule: everything the decision needs to know. */
const settle = (
  call: Call,
  attempt: Attempt,
  raised: Errors.LLMError
): Effect.Effect<Extract<Decisions.Event, { readonly _tag: "Failed" }>> => {
  const { target } = attempt.member
  const error = raised.target === undefined
    ? Errors.update(raised, { target: target.id, provider: target.provider, model: raised.model ?? target.model })
    : raised
  const rule = Recovery.ruleFor(call.engine.recovery, error)
  Records.failure(call, attempt, error)
  return Effect.andThen(
    cool(call, attempt, error, rule),
    Effect.map(retryDelay(call, attempt, error, rule), (retryMs) => ({
      _tag: "Failed" as const,
      index: attempt.index,
      error,
      rule,
      retryMs
    }))
  )
}

/** Fails a call after a failure that nothing can follow any more. */
export const failAfter = (
  call: Call,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<never, Errors.LLMError> =>
  Effect.flatMap(settle(call, attempt, error), (failed) => failWith(call, failed.error))

const failWith = (call: Call, error: Errors.LLMError): Effect.Effect<never, Errors.LLMError> =>
  Effect.fail(Errors.update(error, { attempts: call.attempts.slice() }))

const cool = (call: Call, attempt: Attempt, error: Errors.LLMError, rule: Recovery.Rule): Effect.Effect<void> => {
  const millis = Recovery.cooldownMillis(rule, error)
  const scopeKey = Targets.scopeKey(attempt.member.target, Recovery.cooldownScope(rule, error))
  return Effect.andThen(
    Records.logFailure(call, error),
    millis === 0 || scopeKey === undefined
      ? Effect.void
      : Effect.andThen(
        call.engine.cooldown.start(scopeKey, millis, error.reason),
        Records.logCooldown(scopeKey, millis, error.reason)
      )
  )
}

const retryDelay = (
  call: Call,
  { index, member }: Attempt,
  error: Errors.LLMError,
  rule: Recovery.Rule
): Effect.Effect<number | undefined> => {
  if (rule.sameTarget !== "backoff" || !error.isRetryable) return Effect.succeed(undefined)
  if (retriesOn(call, member) >= rule.retries) return Effect.succeed(undefined)
  return Effect.flatMap(
    stepOf(call, index, member),
    (step) =>
      Pull.matchEffect(step(call.clock.currentTimeMillisUnsafe(), error), {
        onSuccess: ([, delay]) => Effect.succeed(Duration.toMillis(delay)),
        onFailure: Effect.failCause,
        onDone: () => Effect.succeed(undefined)
      })
  ).pipe(Effect.provideService(CurrentDeadline, call.setup.deadlineAt))
}

const retriesOn = (call: Call, member: Member): number =>
  call.attempts.filter((_) => _.target === member.target.id).length - 1

const stepOf = (call: Call, index: number, member: Member): Effect.Effect<Step> => {
  const running = call.steps.get(index)
  if (running !== undefined) return Effect.succeed(running)
  return Effect.map(Schedule.toStep(member.retry), (step) => {
    call.steps.set(index, step)
    return step
  })
}

// Which waits are worth it has been decided by now; the rule only spreads them.
const statedWait = Retry.makeRetryAfter({ maxHint: "1 day" })

// A stated wait is a lower bound, and all who heard it must not come back in the same instant.
const wait = (
  call: Call,
  decision: Extract<Decisions.Decision, { readonly _tag: "Wait" }>
): Effect.Effect<void> =>
  Effect.flatMap(decision.stated ? Random.next : Effect.succeed(0), (random) => {
    const remaining = call.setup.deadlineAt - call.clock.currentTimeMillisUnsafe()
    const delayMs = decision.stated
      ? Retry.waitMillis(statedWait, { delay: 0, hint: decision.delayMs, remaining, random }) ?? decision.delayMs
      : decision.delayMs
    call.waitedMs += delayMs
    call.pendingWaitMs += delayMs
    return Effect.sleep(delayMs)
  })
