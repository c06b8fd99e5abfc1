/**
 * The attempt loop: asks `decide` what is next, does it, and tells it what came of it.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Errors from "../../LLMError.ts"
import * as Retry from "../../Retry.ts"
import * as Step from "../step.ts"
import { blocked } from "./blocked.ts"
import type { Attempt, Call, Engine, Fitness, Loop, Need, Served } from "./call.ts"
import { charge, refund } from "./charge.ts"
import * as Decisions from "./decision.ts"
import { hedged } from "./hedge.ts"
import { attempt } from "./hold.ts"
import * as Records from "./record.ts"
import { failWith, settle } from "./settle.ts"

/** Starts a call. */
export const begin = (moment: Step.Moment, engine: Engine, need: Need, fitness: Fitness): Call => {
  const { clock } = moment
  const random = moment.fiber.getRef(Random.Random)
  const { board, limits } = engine
  const strategy = need.affinity !== undefined && engine.strategy.sticky ? engine.sticky : engine.strategy
  const draw = (): number => random.nextDoubleUnsafe()
  const startedAt = Step.millis(moment)
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
      isSilent: engine.isSilent,
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
    steps: undefined,
    state: Decisions.initial,
    waitedMs: 0,
    pendingWaitMs: 0,
    pendingCharge: undefined,
    pendingHedge: undefined,
    hedges: 0,
    hedgedAt: undefined,
    overruled: noOne,
    firstCause: undefined,
    over: false
  }
}

const noOne: ReadonlyArray<number> = []

/**
 * Runs a call until it is served or there is nothing left to try.
 *
 * What an attempt has opened is closed before the next one begins.
 */
export const run = <A, B, R>(
  moment: Step.Moment,
  loop: Loop<A, R>,
  answer: (served: Served<A>) => B
): Effect.Effect<B, Errors.LLMError, R> => watched(moment, loop, start, answer)

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
    (event) =>
      Step.at((moment) =>
        watched(moment, loop, options.sameTarget ? event : { ...event, retryMs: undefined }, identity)
      )
  )

const watched = <A, B, R>(
  moment: Step.Moment,
  loop: Loop<A, R>,
  event: Decisions.Event,
  answer: (served: Served<A>) => B
): Effect.Effect<B, Errors.LLMError, R> =>
  Effect.onExitPrimitive(react(moment, loop, event, answer), (exit) => {
    Step.passed(moment)
    return Step.rest(Step.all(moment, [refund(loop.call), endedBy(loop.call, exit)]))
  })

// A stream that is served has not ended.
const endedBy = (call: Call, exit: Exit.Exit<unknown, Errors.LLMError>): Effect.Effect<void> =>
  Exit.isFailure(exit)
    ? Records.ended(call, undefined, Option.getOrUndefined(Cause.findErrorOption(exit.cause)))
    : call.need.kind === "stream"
    ? Exit.void
    : Records.ended(call, call.attempts[call.attempts.length - 1]?.target)

const react = <A, B, R>(
  moment: Step.Moment,
  loop: Loop<A, R>,
  event: Decisions.Event,
  answer: (served: Served<A>) => B
): Effect.Effect<B, Errors.LLMError, R> =>
  Effect.suspend(() => {
    const { call } = loop
    Step.passed(moment)
    return Step.flatMap(moment, blocked(moment, call), (cooling) => {
      const before = call.state
      const [state, decision] = Decisions.decide(
        call.setup,
        before,
        event,
        cooling,
        Step.millis(moment)
      )
      call.state = state
      switch (decision._tag) {
        case "Attempt":
          return Effect.flatMap(
            call.engine.hedging === undefined
              ? attempt(moment, loop, decision)
              : hedged(moment, loop, decision, call.engine.hedging),
            (ended) => ended._tag === "Served" ? Effect.succeed(answer(ended)) : react(moment, loop, ended, answer)
          )
        case "Wait": {
          const waiting = Effect.andThen(Records.logWait(call, decision), wait(call, decision))
          const waited = Effect.andThen(waiting, react(moment, loop, { ...decision, _tag: "Waited" }, answer))
          if (event._tag !== "Failed" || decision.stated) return waited
          // A retry that the budget refuses is decided anew, as if the schedule had ended.
          return Effect.flatMap(charge(call, decision, event.error), (granted) => {
            if (granted) return waited
            call.state = before
            return react(moment, loop, { ...event, retryMs: undefined }, answer)
          })
        }
        case "Stop":
          return Effect.flatMap(
            asRefused(call, call.firstCause ?? decision.error),
            (error) => Effect.andThen(Records.logStop(call, error), failWith(call, error))
          )
      }
    })
  })

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
