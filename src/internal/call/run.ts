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
import type { RateLimitError } from "../../LLMError.ts"
import * as Errors from "../../LLMError.ts"
import type { Reservation } from "../../RateLimiter.ts"
import * as Recovery from "../../Recovery.ts"
import * as Retry from "../../Retry.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Targets from "../../Target.ts"
import { CurrentDeadline } from "../../Timeouts.ts"
import * as Ejections from "../health/ejection.ts"
import * as Step from "../step.ts"
import * as Admissions from "./admit.ts"
import * as Boards from "./board.ts"
import type { Attempt, Call, Chosen, Engine, Fitness, Grant, Member, Need, RetryStep, Spent } from "./call.ts"
import * as Decisions from "./decision.ts"
import * as Observers from "./observe.ts"
import * as Records from "./record.ts"

/** Starts a call. */
export const begin = (fiber: Step.AnyFiber, engine: Engine, need: Need, fitness: Fitness): Call => {
  const clock = fiber.getRef(Clock.Clock)
  const random = fiber.getRef(Random.Random)
  const { board, limits } = engine
  const strategy = need.affinity !== undefined && engine.strategy.sticky ? engine.sticky : engine.strategy
  const draw = (): number => random.nextDoubleUnsafe()
  const startedAt = clock.currentTimeMillisUnsafe()
  return {
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
}

const none: ReadonlyArray<never> = []

/** What a call does over and over. */
export interface Loop<A, R = never> {
  readonly call: Call
  /** Keeps open what a successful attempt has opened; without one that is closed at once, too. */
  readonly parent: Scope.Scope | undefined
  readonly perform: (attempt: Attempt) => Effect.Effect<A, Errors.LLMError, R>
  /** What a whole answer has used; without it the attempt goes on after its success. */
  readonly spent: ((value: A) => Spent) | undefined
}

export interface Served<A> {
  readonly _tag: "Served"
  readonly attempt: Attempt
  readonly value: A
}

/** How an attempt ended: in an answer, or in something to be decided upon. */
type Ended<A> = Served<A> | Exclude<Decisions.Event, { readonly _tag: "Start" }>

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
  return Effect.withFiber((fiber) =>
    Step.flatMap(fiber, blocked(fiber, call), (cooling) => {
      const before = call.state
      const [state, decision] = Decisions.decide(
        call.setup,
        before,
        event,
        cooling,
        call.clock.currentTimeMillisUnsafe()
      )
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
  )
}

/** What must not be asked now: what is cooling, and what an open circuit refuses. The board is read again as well. */
const blocked = (fiber: Step.AnyFiber, call: Call): Effect.Effect<Decisions.Cooling> => {
  const { engine } = call
  const read = engine.strategy.reads.length === 0 ? Exit.void : Boards.refresh(fiber, engine)
  return Step.flatMap(
    fiber,
    read,
    () =>
      Step.flatMap(
        fiber,
        engine.cooldown.latest(engine.groups),
        (cooling) =>
          Step.flatMap(fiber, engine.circuits.checkAll(engine.circuitKeys), (verdicts) => {
            if (verdicts.length === 0) {
              call.overruled = none
              return Exit.succeed(cooling)
            }
            const now = call.clock.currentTimeMillisUnsafe()
            call.overruled = overruledOf(call, cooling, verdicts, now)
            const obeyed = verdicts.map((verdict, index) =>
              call.overruled.includes(index) ? { ...verdict, admits: true } : verdict
            )
            return Exit.succeed(Decisions.withCircuits(cooling, obeyed, now))
          })
      )
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
const refund = (call: Call): Effect.Effect<void> =>
  Step.make((fiber) => {
    const charge = call.pendingCharge
    call.pendingCharge = undefined
    return charge === undefined ? Exit.void : Step.all(fiber, [call.engine.budget.refund(charge.key, charge.cost)])
  })

// ---------------------------------------------------------------------------------------------------------------------
// one attempt
// ---------------------------------------------------------------------------------------------------------------------

/** What an attempt holds from the moment it is given it. */
interface Held {
  grant: Grant | undefined
  permit: Permit | undefined
  passed: Passed | undefined
  attempt: Attempt | undefined
  released: boolean
}

const attempt = <A, R>(loop: Loop<A, R>, chosen: Chosen): Effect.Effect<Ended<A>, never, R> =>
  Effect.suspend(() => {
    const { call, parent } = loop
    const held: Held = { grant: undefined, permit: undefined, passed: undefined, attempt: undefined, released: false }
    const letGo = Step.make((fiber) => released(fiber, call, chosen, held))
    if (parent === undefined && !chosen.queue) {
      const ended = Effect.withFiber((fiber) => limited(fiber, loop, chosen, undefined, held))
      return Effect.onExitPrimitive(ended, () => letGo)
    }
    const scope = parent === undefined ? Scope.makeUnsafe() : Scope.forkUnsafe(parent)
    const ended = Effect.andThen(
      Scope.addFinalizer(scope, letGo),
      Effect.withFiber((fiber) => limited(fiber, loop, chosen, scope, held))
    )
    // A slot of a failed attempt must be free, and its socket closed, before anything else is tried.
    return Effect.onExitPrimitive(ended, (exit) =>
      parent !== undefined && Exit.isSuccess(exit) && exit.value._tag === "Served"
        ? undefined
        : Scope.closeUnsafe(scope, exit))
  })

/** Gives back all that is held, whatever it was held for. */
const released = (fiber: Step.AnyFiber, call: Call, chosen: Chosen, held: Held): Effect.Effect<void> => {
  if (held.released) return Exit.void
  held.released = true
  const { attempt, grant, passed, permit } = held
  const slots = grant === undefined ? Exit.void : Admissions.release(call, chosen, grant)
  if (attempt !== undefined) {
    Boards.count(call.engine.board, chosen.index, -1)
    return Step.all(fiber, [
      attempt.told ? Observers.untold(attempt) : Observers.interrupted(fiber, call, attempt),
      slots
    ])
  }
  return Step.all(fiber, [permit?.ignored ?? Exit.void, passed?.settle("neutral") ?? Exit.void, slots])
}

const refused = (chosen: Chosen, by: Decisions.Busy["by"], error: Errors.LLMError): Ended<never> => ({
  _tag: "Refused",
  index: chosen.index,
  queued: chosen.queue,
  by,
  error
})

/** First the limits, of all scopes at once: room now, or a place in the queue. */
const limited = <A, R>(
  fiber: Step.AnyFiber,
  loop: Loop<A, R>,
  chosen: Chosen,
  scope: Scope.Closeable | undefined,
  held: Held
): Effect.Effect<Ended<A>, never, R> => {
  const { call } = loop
  const { candidates, limiter } = call.engine
  const member = candidates[chosen.index]
  if (member === undefined) return Effect.die(new RangeError(`Router: no candidate ${chosen.index}`))
  const scopes = Admissions.scopesOf(call, member)
  if (scopes.length === 0) return admitted(fiber, loop, chosen, member, scope, held)
  // The request was checked when the call began, so an estimate cannot fail.
  return Step.orDie(fiber, call.need.estimate(member.target), (estimate) => {
    const request = Admissions.requestOf(call, member, scopes, estimate)
    const keep = (reservation: Reservation): void => {
      held.grant = Admissions.grantOf(reservation, estimate)
    }
    const onFailure = (error: RateLimitError): Effect.Effect<Ended<A>, never, R> =>
      Exit.succeed(refused(chosen, "limit", error))
    if (scope === undefined || !chosen.queue) {
      return Step.acquire(fiber, limiter.take(request), keep, {
        onSuccess: () => admitted(fiber, loop, chosen, member, scope, held),
        onFailure
      })
    }
    // While it waits the scope holds its place; what it was granted is given back by us, who know what came of it.
    const queued = Effect.flatMap(Scope.provide(limiter.reserve(request), scope), (reservation) => {
      keep(reservation)
      return Scope.addFinalizer(scope, Step.make((fiber) => released(fiber, call, chosen, held)))
    })
    return Effect.matchEffect(queued, {
      onSuccess: () =>
        unlessCooled(
          call,
          chosen,
          member,
          Effect.withFiber((fiber) => admitted(fiber, loop, chosen, member, scope, held))
        ),
      onFailure
    })
  })
}

// The circuit has the last word, after any wait for capacity: what it refuses gives the capacity back unused.
const admitted = <A, R>(
  fiber: Step.AnyFiber,
  loop: Loop<A, R>,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable | undefined,
  held: Held
): Effect.Effect<Ended<A>, never, R> => {
  const { circuits } = loop.call.engine
  const admission = loop.call.overruled.includes(chosen.index)
    ? Effect.andThen(circuits.probe(member.circuit), circuits.take(member.circuit))
    : circuits.take(member.circuit)
  const keep = (permit: Permit): void => {
    held.permit = permit
  }
  return Step.acquire(fiber, admission, keep, {
    onSuccess: () => passed(fiber, loop, chosen, member, scope, held),
    onFailure: (error): Effect.Effect<Ended<A>, never, R> => Exit.succeed(refused(chosen, "circuit", error))
  })
}

const passed = <A, R>(
  fiber: Step.AnyFiber,
  loop: Loop<A, R>,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable | undefined,
  held: Held
): Effect.Effect<Ended<A>, never, R> => {
  const { throttle } = loop.call.engine
  if (throttle === undefined) return begun(fiber, loop, chosen, member, scope, held)
  const keep = (passed: Passed | undefined): void => {
    held.passed = passed
  }
  return Step.acquire(fiber, throttle.admit(member.target.provider), keep, {
    onSuccess: () =>
      held.passed === undefined
        ? Exit.succeed(refused(chosen, "throttle", shed(member)))
        : begun(fiber, loop, chosen, member, scope, held),
    onFailure: (never) => never
  })
}

// What an attempt takes over, from the charge for a retry to the place in a throttle, is its own at once or not at all.
const begun = <A, R>(
  fiber: Step.AnyFiber,
  loop: Loop<A, R>,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable | undefined,
  held: Held
): Effect.Effect<Ended<A>, never, R> => {
  const { call } = loop
  const { permit } = held
  if (permit === undefined) return Effect.die(new RangeError(`Router: no permit for ${member.target.id}`))
  const { board, budget, hedging } = call.engine
  const attempt = attemptOf(call, chosen, member, scope, permit, held)
  held.attempt = attempt
  Boards.count(board, chosen.index, 1)
  if (attempt.charged !== undefined) return performed(fiber, loop, attempt)
  // What was charged for a retry elsewhere is given back before this attempt counts as a first one.
  const counted = Step.all(fiber, [
    call.pendingCharge === undefined || chosen.chosen === "hedge" ? Exit.void : refund(call),
    budget.deposit(member.budget),
    hedging === undefined ? Exit.void : hedging.request(Observers.hedgingKey(call, member))
  ])
  return Step.flatMap(fiber, counted, () => performed(fiber, loop, attempt))
}

const performed = <A, R>(
  fiber: Step.AnyFiber,
  { call, perform, spent }: Loop<A, R>,
  attempt: Attempt
): Effect.Effect<Ended<A>, never, R> => {
  const ended = Effect.matchEffect(perform(attempt), {
    onSuccess: (value): Effect.Effect<Ended<A>> => {
      const served = Exit.succeed<Served<A>>({ _tag: "Served", attempt, value })
      return spent === undefined
        ? served
        : Step.flatMap(fiber, Observers.succeeded(fiber, call, attempt, spent(value)), () => served)
    },
    onFailure: (raised): Effect.Effect<Ended<A>> =>
      Effect.flatMap(judged(call, attempt, raised), ({ error, evidence }) =>
        Effect.andThen(
          Effect.suspend(() => Observers.failed(fiber, call, attempt, evidence)),
          settle(call, attempt, error, evidence)
        ))
  })
  if (attempt.grant !== undefined) attempt.grant.sent = true
  return call.attempts.length === 0 && attempt.skipped.length === 0
    ? ended
    : Effect.andThen(Records.logChoice(call, attempt), ended)
}

/** Less than this is too little to say that a target is slow of which nothing is known. */
const enoughMs = 5000

/** What a failure is to the caller, and what it says about the target. */
interface Judgement {
  readonly error: Errors.LLMError
  readonly evidence: Errors.LLMError
}

/**
 * An attempt that was cut short by the deadline, its own part of it or all that was left, says nothing about its target,
 * unless it had twice the time that answers take there: then the target is as slow as one that used up its limit.
 */
const judged = (call: Call, attempt: Attempt, error: Errors.LLMError): Effect.Effect<Judgement> => {
  const tookMs = call.clock.currentTimeMillisUnsafe() - attempt.startedAt
  // A timer may be early by a millisecond; what gave up sooner had a shorter limit of its own.
  const isSlice = hurried.has(error.reason) && tookMs >= attempt.sliceMs - 1
  const isDeadline = error.reason === "deadline" && attempt.firstContentAt === undefined
  if (error.errorClass !== "timeout" || !(isSlice || isDeadline)) return Exit.succeed({ error, evidence: error })
  return Effect.map(call.engine.health.figures(attempt.member.health[0] ?? ""), (figures) => {
    const usualMs = call.need.kind === "stream" ? figures?.firstTokenP95Ms : figures?.latencyP95Ms
    const isSlow = tookMs >= (usualMs === undefined ? enoughMs : 2 * usualMs)
    if (isDeadline) {
      const evidence = isSlow
        ? Errors.update(error, { origin: "provider", reason: "attempt", scope: "target" })
        : error
      return { error, evidence }
    }
    const hasty = isSlow ? error : Errors.update(error, {
      origin: "deadline",
      detail: `${error.detail ?? "no answer"}, the part of the deadline that leaves the other targets a start`
    })
    return { error: hasty, evidence: hasty }
  })
}

const hurried: ReadonlySet<Errors.Reason> = new Set<Errors.Reason>(["attempt", "first_token", "connect_timeout"])

const shed = ({ target }: Member): Errors.LLMError =>
  Errors.update(ClientThrottle.refusal(target.provider), { model: target.model, target: target.id })

/** A wait in the queue may take long enough for a cooldown to begin: what was granted is then given back unused. */
const unlessCooled = <A, R>(
  call: Call,
  { chosen, index }: Chosen,
  member: Member,
  performed: Effect.Effect<Ended<A>, never, R>
): Effect.Effect<Ended<A>, never, R> =>
  Effect.flatMap(
    call.engine.cooldown.latest([member.scopeKeys]),
    ([entry]) => entry === undefined ? performed : Effect.succeed({ _tag: "Waited" as const, index, chosen })
  )

const attemptOf = (
  call: Call,
  chosen: Chosen,
  member: Member,
  scope: Scope.Closeable | undefined,
  permit: Permit,
  { grant, passed }: Held
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
    told: false,
    untold: undefined
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
  const primary = attempt(loop, chosen)
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
    Effect.flatMap(attempt(loop, hedge), (ended): Effect.Effect<Served<A>, Ended<A>> => {
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

  return Effect.flatMap(hedging.delay(key), (delay) =>
    delay === undefined
      ? primary
      : Effect.onExitPrimitive(raced(delay), () => call.pendingHedge === undefined ? undefined : giveBack(call)))
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
  return Effect.flatMap(Effect.withFiber((fiber) => blocked(fiber, call)), (cooling) => {
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
const giveBack = (call: Call): Effect.Effect<void> =>
  Step.make((fiber) => {
    const { budget, hedging } = call.engine
    const pending = call.pendingHedge
    call.pendingHedge = undefined
    return pending === undefined || hedging === undefined
      ? Exit.void
      : Step.all(fiber, [budget.refund(pending.budget, hedgeCost), hedging.refund(pending.key)])
  })

// ---------------------------------------------------------------------------------------------------------------------
// after a failure
// ---------------------------------------------------------------------------------------------------------------------

/** Records a failure, starts its cooldown and asks the retry schedule: everything the decision needs to know. */
const settle = (
  call: Call,
  attempt: Attempt,
  raised: Errors.LLMError,
  evidence: Errors.LLMError = raised
): Effect.Effect<Failed> => {
  const { target } = attempt.member
  const error = raised.target === undefined
    ? Errors.update(raised, { target: target.id, provider: target.provider, model: raised.model ?? target.model })
    : raised
  const rule = ruleFor(call, target, error)
  return Effect.andThen(
    Effect.andThen(
      Records.failure(call, attempt, error),
      evidence === raised
        ? cool(call, attempt, error, rule)
        : cool(call, attempt, evidence, ruleFor(call, target, evidence))
    ),
    Effect.map(retryDelay(call, attempt, error, rule), (retryMs) => ({
      _tag: "Failed" as const,
      index: attempt.index,
      error,
      rule,
      retryMs
    }))
  )
}

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
  // Who was not given the time to answer has done nothing to rest from.
  const millis = error.origin === "deadline" ? 0 : Recovery.cooldownMillis(rule, error)
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

const stepOf = (call: Call, index: number, member: Member): Effect.Effect<RetryStep> => {
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
