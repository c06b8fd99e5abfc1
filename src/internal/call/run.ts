/**
 * The attempt loop: asks `decide` what is next, does it, and tells it what came of it.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { Permit, Verdict } from "../../CircuitBreaker.ts"
import type { Permit as Passed } from "../../ClientThrottle.ts"
import * as ClientThrottle from "../../ClientThrottle.ts"
import * as Hedging from "../../Hedging.ts"
import * as Errors from "../../LLMError.ts"
import * as Recovery from "../../Recovery.ts"
import * as Retry from "../../Retry.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Targets from "../../Target.ts"
import { CurrentDeadline } from "../../Timeouts.ts"
import * as Ejections from "../health/ejection.ts"
import * as Admissions from "./admit.ts"
import * as Boards from "./board.ts"
import type { Attempt, Call, Engine, Fitness, Grant, Member, Need, Step } from "./call.ts"
import * as Decisions from "./decision.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"

/** Starts a call. */
export const begin = (engine: Engine, need: Need, fitness: Fitness): Effect.Effect<Call> =>
  Effect.withFiber((fiber) => {
    const clock = fiber.getRef(Clock.Clock)
    const random = fiber.getRef(Random.Random)
    const { board, limits } = engine
    const strategy = need.affinity !== undefined && engine.strategy.sticky ? engine.sticky : engine.strategy
    const draw = (): number => random.nextDoubleUnsafe()
    const startedAt = clock.currentTimeMillisUnsafe()
    const call: Call = {
      id: ++engine.calls,
      engine,
      need,
      setup: {
        candidates: engine.candidates,
        fit: fitness.fit,
        fitting: fitness.fitting,
        choose: (free, start) => {
          board.free = free
          board.start = start
          board.tokens = need.tokens
          board.affinity = need.affinity
          return strategy.pick(board, 0, board.count, draw)
        },
        maxAttempts: engine.maxAttempts,
        attemptMs: need.attemptMs,
        patienceMs: engine.patienceMs,
        stays: need.affinity !== undefined,
        replays: need.replays,
        deadlineAt: startedAt + (need.deadlineMs ?? limits.total)
      },
      unfit: fitness.skipped,
      strategy: strategy.name,
      clock,
      startedAt,
      attempts: [],
      steps: new Map(),
      state: Decisions.initial,
      waitedMs: 0,
      pendingWaitMs: 0,
      pendingCharge: undefined,
      pendingHedge: undefined,
      hedges: 0,
      hedgedAt: undefined,
      overruled: none,
      firstCause: undefined,
      over: false
    }
    return Effect.succeed(call)
  })

const none: ReadonlyArray<never> = []

/** What a call does over and over. */
export interface Loop<out A, out R = never> {
  readonly call: Call
  /** Keeps open what a successful attempt has opened; without one that is closed at once, too. */
  readonly parent: Scope.Scope | undefined
  readonly perform: (attempt: Attempt) => Effect.Effect<A, Errors.LLMError, R>
}

export interface Served<A> {
  readonly _tag: "Served"
  readonly attempt: Attempt
  readonly value: A
}

/** How an attempt ended: in an answer, or in something to be decided upon. */
type Ended<A> = Served<A> | Exclude<Decisions.Event, { readonly _tag: "Start" }>

type Chosen = Extract<Decisions.Decision, { readonly _tag: "Attempt" }>

type Failed = Extract<Decisions.Event, { readonly _tag: "Failed" }>

/**
 * Runs a call until it is served or there is nothing left to try.
 *
 * What an attempt has opened is closed before the next one begins.
 */
export const run = <A, R>(loop: Loop<A, R>): Effect.Effect<Served<A>, Errors.LLMError, R> => watched(loop, start)

const start: Decisions.Event = { _tag: "Start" }

/** Goes on with a call whose answer broke after some of it had been handed over. */
export const resume = <A, R>(
  loop: Loop<A, R>,
  attempt: Attempt,
  error: Errors.LLMError,
  options: { readonly sameTarget: boolean }
): Effect.Effect<Served<A>, Errors.LLMError, R> =>
  Effect.flatMap(
    settle(loop.call, attempt, error),
    (event) => watched(loop, options.sameTarget ? event : { ...event, retryMs: undefined })
  )

const watched = <A, R>(loop: Loop<A, R>, event: Decisions.Event): Effect.Effect<Served<A>, Errors.LLMError, R> =>
  Effect.onExitPrimitive(react(loop, event), (exit) => {
    const { call } = loop
    if (Exit.isSuccess(exit)) {
      const ended = call.need.kind === "stream" ? undefined : Records.ended(call, exit.value.attempt.member.target.id)
      return call.pendingCharge === undefined ? ended : Effect.andThen(refund(call), ended ?? Effect.void)
    }
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
    return Effect.andThen(refund(call), Records.ended(call, undefined, error) ?? Effect.void)
  })

const react = <A, R>(loop: Loop<A, R>, event: Decisions.Event): Effect.Effect<Served<A>, Errors.LLMError, R> => {
  const { call } = loop
  return Effect.flatMap(blocked(call), (cooling) => {
    const before = call.state
    const [state, decision] = Decisions.decide(call.setup, before, event, cooling, call.clock.currentTimeMillisUnsafe())
    call.state = state
    switch (decision._tag) {
      case "Attempt":
        return Effect.flatMap(
          call.engine.hedging === undefined ? attempt(loop, decision) : hedged(loop, decision, call.engine.hedging),
          (ended) => ended._tag === "Served" ? Effect.succeed(ended) : react(loop, ended)
        )
      case "Wait": {
        const waited = Effect.andThen(wait(call, decision), react(loop, { ...decision, _tag: "Waited" }))
        if (event._tag !== "Failed" || decision.stated) return waited
        // A retry that the budget refuses is decided anew, as if the schedule had ended.
        return Effect.flatMap(charge(call, decision, event.error), (granted) => {
          if (granted) return waited
          call.state = before
          return react(loop, { ...event, retryMs: undefined })
        })
      }
      case "Stop":
        return Effect.flatMap(
          asRefused(call, call.firstCause ?? decision.error),
          (error) => Effect.andThen(Records.logStop(call, error), failWith(call, error))
        )
    }
  })
}

/** What must not be asked now: what is cooling, and what an open circuit refuses. The board is read again as well. */
const blocked = (call: Call): Effect.Effect<Decisions.Cooling> => {
  const { engine } = call
  const read = Effect.flatMap(
    engine.cooldown.latest(engine.groups),
    (cooling) =>
      Effect.map(engine.circuits.checkAll(engine.circuitKeys), (verdicts) => {
        if (verdicts.length === 0) {
          call.overruled = none
          return cooling
        }
        const now = call.clock.currentTimeMillisUnsafe()
        call.overruled = overruledOf(call, cooling, verdicts, now)
        const obeyed = verdicts.map((verdict, index) =>
          call.overruled.includes(index) ? { ...verdict, admits: true } : verdict
        )
        return Decisions.withCircuits(cooling, obeyed, now)
      })
  )
  return engine.strategy.reads.length === 0 ? read : Effect.andThen(Boards.refresh(engine), read)
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

/** Where a circuit is all there is to surface, its own refusal says which class of failure has opened it. */
const asRefused = (call: Call, error: Errors.LLMError): Effect.Effect<Errors.LLMError> => {
  const member = error.origin === "circuit"
    ? call.engine.candidates.find((_) => _.target.id === error.target)
    : undefined
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
  const key = call.engine.candidates[decision.index]?.budget
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

// ---------------------------------------------------------------------------------------------------------------------
// one attempt
// ---------------------------------------------------------------------------------------------------------------------

const attempt = <A, R>(
  loop: Loop<A, R>,
  chosen: Chosen,
  keeps: (served: Served<A>) => boolean = always
): Effect.Effect<Ended<A>, never, R> =>
  Effect.suspend(() => {
    const { call, parent } = loop
    const member = call.engine.candidates[chosen.index]
    if (member === undefined) return Effect.die(new RangeError(`Router: no candidate ${chosen.index}`))
    const scope = parent === undefined ? Scope.makeUnsafe() : Scope.forkUnsafe(parent)
    const scopes = Admissions.scopesOf(call, member)
    const ended = scopes.length === 0
      ? admitted(loop, chosen, member, scope, undefined)
      : Effect.matchEffect(Admissions.admit(call, member, scopes, chosen.queue, scope), {
        onSuccess: (grant) => {
          const performed = admitted(loop, chosen, member, scope, grant)
          return chosen.queue ? unlessCooled(call, chosen, member, grant, performed) : performed
        },
        onFailure: (error): Effect.Effect<Ended<A>> => Effect.succeed(refused(chosen, "limit", error))
      })
    // A slot of a failed attempt must be free, and its socket closed, before anything else is tried.
    return Effect.onExitPrimitive(ended, (exit) =>
      parent !== undefined && Exit.isSuccess(exit) && exit.value._tag === "Served" && keeps(exit.value)
        ? undefined
        : Scope.closeUnsafe(scope, exit))
  })

const always = (): boolean => true

const refused = (chosen: Chosen, by: Decisions.Busy["by"], error: Errors.LLMError): Ended<never> => ({
  _tag: "Refused",
  index: chosen.index,
  queued: chosen.queue,
  by,
  error
})

// The circuit has the last word, after any wait for capacity: what it refuses gives the capacity back unused.
const admitted = <A, R>(
  loop: Loop<A, R>,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable,
  grant: Grant | undefined
): Effect.Effect<Ended<A>, never, R> => {
  const { call } = loop
  const { circuits, throttle } = call.engine
  const admission = call.overruled.includes(chosen.index)
    ? Effect.andThen(circuits.probe(member.circuit), circuits.admit(member.circuit))
    : circuits.admit(member.circuit)
  return Effect.matchEffect(Scope.provide(admission, scope), {
    onSuccess: (permit) => {
      const begun = throttle === undefined
        ? beginning(call, chosen, member, scope, permit, undefined, grant)
        : Effect.flatMap(
          throttle.admit(member.target.provider),
          (passed) =>
            passed === undefined
              ? Effect.undefined
              : beginning(call, chosen, member, scope, permit, passed, grant)
        )
      return Effect.flatMap(
        Effect.uninterruptible(begun),
        (attempt): Effect.Effect<Ended<A>, never, R> =>
          attempt === undefined
            ? Effect.as(cancelled(grant), refused(chosen, "throttle", shed(member)))
            : performed(loop, attempt)
      )
    },
    onFailure: (error): Effect.Effect<Ended<A>> => Effect.as(cancelled(grant), refused(chosen, "circuit", error))
  })
}

// What an attempt takes over, from the charge for a retry to the place in a throttle, is its own at once or not at all.
const beginning = (
  call: Call,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable,
  permit: Permit,
  passed: Passed | undefined,
  grant: Grant | undefined
): Effect.Effect<Attempt> =>
  Effect.suspend(() => {
    const attempt = attemptOf(call, chosen, member, scope, permit, passed, grant)
    const { board, budget, hedging } = call.engine
    Boards.count(board, chosen.index, 1)
    const over = Effect.suspend(() => {
      Boards.count(board, chosen.index, -1)
      return attempt.told ? Effect.void : Observers.interrupted(call, attempt)
    })
    const begun = Effect.as(Scope.addFinalizer(scope, over), attempt)
    if (attempt.charged !== undefined) return begun
    // What was charged for a retry elsewhere is given back before this attempt counts as a first one.
    const deposited = Effect.andThen(budget.deposit(member.budget), begun)
    const counted = hedging === undefined
      ? deposited
      : Effect.andThen(hedging.request(Observers.hedgingKey(call, member)), deposited)
    return call.pendingCharge === undefined || chosen.chosen === "hedge"
      ? counted
      : Effect.andThen(refund(call), counted)
  })

const performed = <A, R>({ call, perform }: Loop<A, R>, attempt: Attempt): Effect.Effect<Ended<A>, never, R> => {
  const ended = Effect.matchEffect(perform(attempt), {
    onSuccess: (value): Effect.Effect<Ended<A>> => Effect.succeed({ _tag: "Served", attempt, value }),
    onFailure: (raised): Effect.Effect<Ended<A>> => {
      const error = unlessHurried(attempt, raised)
      return Effect.andThen(Observers.failed(call, attempt, error), settle(call, attempt, error))
    }
  })
  if (attempt.grant !== undefined) attempt.grant.sent = true
  return call.attempts.length === 0 && attempt.skipped.length === 0
    ? ended
    : Effect.andThen(Records.logChoice(call, attempt), ended)
}

/** Less than this is too little to say that a target is slow. */
const enoughMs = 10_000

/** An attempt that was cut short for the sake of later targets says nothing about its own, unless it had time enough. */
const unlessHurried = (attempt: Attempt, error: Errors.LLMError): Errors.LLMError =>
  attempt.sliceMs < enoughMs && error.errorClass === "timeout" && error.origin === "provider" &&
    hurried.has(error.reason)
    ? Errors.update(error, {
      origin: "deadline",
      detail: `${error.detail ?? "no answer"}, the part of the deadline that leaves the other targets a start`
    })
    : error

const hurried: ReadonlySet<Errors.Reason> = new Set<Errors.Reason>(["attempt", "first_token", "connect_timeout"])

const cancelled = (grant: Grant | undefined): Effect.Effect<void> => grant?.reservation.cancel ?? Effect.void

const shed = ({ target }: Member): Errors.LLMError =>
  Errors.update(ClientThrottle.refusal(target.provider), { model: target.model, target: target.id })

/** A wait in the queue may take long enough for a cooldown to begin: what was granted is then given back unused. */
const unlessCooled = <A, R>(
  call: Call,
  { chosen, index }: Chosen,
  member: Member,
  grant: Grant,
  performed: Effect.Effect<Ended<A>, never, R>
): Effect.Effect<Ended<A>, never, R> =>
  Effect.flatMap(call.engine.cooldown.latest([member.scopeKeys]), ([entry]) =>
    entry === undefined
      ? performed
      : Effect.as(grant.reservation.cancel, { _tag: "Waited" as const, index, chosen }))

const attemptOf = (
  call: Call,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable,
  permit: Permit,
  passed: Passed | undefined,
  grant: Grant | undefined
): Attempt => {
  const isHedge = chosen.chosen === "hedge"
  const charge = isHedge
    ? { cost: hedgeCost }
    : call.pendingCharge?.key === member.budget
    ? call.pendingCharge
    : undefined
  const startedAt = call.clock.currentTimeMillisUnsafe()
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
    told: false
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// a second request beside a slow one
// ---------------------------------------------------------------------------------------------------------------------

const hedgeCost: RetryBudget.Cost = "transient"

/** An attempt that is joined by another one, at another target, when it takes longer than most do. */
const hedged = <A, R>(
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

  const primary = attempt(loop, chosen, keeps)
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
    Effect.flatMap(attempt(loop, hedge, keeps), (ended): Effect.Effect<Served<A>, Ended<A>> => {
      if (ended._tag === "Served") return Effect.succeed(ended)
      if (ended._tag !== "Failed") return Effect.andThen(giveBack(call), Effect.fail(ended))
      learn(ended)
      return Effect.fail(ended)
    })

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
      Hedging.race<Served<A>, Ended<A>, R>((index) => index > 0 && next !== undefined ? beside(next) : first, {
        maxAttempts: 1 + maxHedges,
        delay,
        onFailure: "stop",
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

  /** Whoever was kept open and is not the answer is closed, and a hedge that was granted and not sent is given back. */
  const over = (exit: Exit.Exit<Ended<A>>): Effect.Effect<void> | undefined => {
    isOver = true
    const lost = opened.filter((served) => Exit.isFailure(exit) || exit.value !== served)
    if (lost.length === 0) return call.pendingHedge === undefined ? undefined : giveBack(call)
    const closed = Effect.forEach(lost, ({ attempt }) => Scope.close(attempt.scope, Exit.interrupt()), {
      discard: true
    })
    return Effect.andThen(closed, giveBack(call))
  }

  return Effect.flatMap(
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
): Effect.Effect<Chosen | undefined> => {
  const { candidates, circuits, health, limiter } = call.engine
  const { maxUtilisation, minHealth } = hedging.policy
  if (call.state.attempts + running.length >= call.setup.maxAttempts) return Effect.undefined
  return Effect.flatMap(blocked(call), (cooling) => {
    const now = call.clock.currentTimeMillisUnsafe()
    const chosen = Decisions.beside(call.setup, call.state, running, cooling, now)
    const member = chosen === undefined ? undefined : candidates[chosen.index]
    if (chosen === undefined || member === undefined || call.overruled.includes(chosen.index)) return Effect.undefined
    const signs = Effect.all([
      health.score(member.health[0] ?? ""),
      circuits.state(member.circuit),
      limiter.headrooms([member.limits])
    ])
    return Effect.flatMap(
      signs,
      ([score, circuit, [headroom = 1]]) =>
        score < minHealth || circuit.status === "half-open" || 1 - headroom > maxUtilisation
          ? Effect.undefined
          : Effect.map(withdraw(call, hedging, key, member), (granted) => granted ? chosen : undefined)
    )
  })
}

// A hedge is paid for twice: as load beyond what is asked for, and like a retry.
const withdraw = (
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
const giveBack = (call: Call): Effect.Effect<void> => {
  const { budget, hedging } = call.engine
  const pending = call.pendingHedge
  if (pending === undefined || hedging === undefined) return Effect.void
  call.pendingHedge = undefined
  return Effect.andThen(budget.refund(pending.budget, hedgeCost), hedging.refund(pending.key))
}

// ---------------------------------------------------------------------------------------------------------------------
// after a failure
// ---------------------------------------------------------------------------------------------------------------------

/** Starts the cooldown of a failure and asks the retry schedule: everything the decision needs to know. */
const settle = (call: Call, attempt: Attempt, raised: Errors.LLMError): Effect.Effect<Failed> =>
  Effect.suspend(() => {
    const { target } = attempt.member
    const error = raised.target === undefined
      ? Errors.update(raised, { target: target.id, provider: target.provider, model: raised.model ?? target.model })
      : raised
    const rule = ruleFor(call, target, error)
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
  })

/** A target that cannot go on with a reply says so with a 400, which is about itself and not about the request. */
const ruleFor = (call: Call, target: Targets.Target, error: Errors.LLMError): Recovery.Rule =>
  error.errorClass === "permanent" && target.capabilities.prefill !== true && call.need.isPrefilled() &&
    (error.reason === "invalid_request" || error.reason === "unsupported_parameter")
    ? prefillRefused
    : Recovery.ruleFor(call.engine.recovery, error)

const prefillRefused: Recovery.Rule = {
  ...Recovery.defaults.classes.permanent,
  otherTargets: "at-once",
  cooldown: Duration.zero
}

/** Fails a call after a failure that nothing can follow any more. */
export const failAfter = (
  call: Call,
  attempt: Attempt,
  error: Errors.LLMError
): Effect.Effect<never, Errors.LLMError> =>
  Effect.flatMap(
    settle(call, attempt, error),
    (failed) =>
      Effect.andThen(Records.ended(call, undefined, failed.error) ?? Effect.void, failWith(call, failed.error))
  )

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
