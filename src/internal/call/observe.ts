/**
 * Who is told how an attempt ended: the limiter, the circuit, the health of the target and the retry budget.
 *
 * All are told, once: an interruption on the way waits until they are. An interrupted attempt is neither a success nor a
 * failure; the limiter learns of it when what the attempt holds is released.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as ClientThrottle from "../../ClientThrottle.ts"
import * as Health from "../../Health.ts"
import type { LLMError } from "../../LLMError.ts"
import { type Rule, ruleFor } from "../../Recovery.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Step from "../step.ts"
import * as Admissions from "./admit.ts"
import type { Attempt, Call, Member, Spent } from "./call.ts"
import * as Records from "./record.ts"
import * as Silences from "./silence.ts"

const durationOf = (moment: Step.Moment, attempt: Attempt): number => Step.millis(moment) - attempt.startedAt

const firstTokenOf = ({ firstContentAt, startedAt }: Attempt): number | undefined =>
  firstContentAt === undefined ? undefined : firstContentAt - startedAt

const recordHealth = (call: Call, attempt: Attempt, outcome: Health.Outcome): Effect.Effect<void> =>
  call.engine.health.recordAll(attempt.member.health, outcome)

const settleBudget = (call: Call, attempt: Attempt, outcome: RetryBudget.Outcome): Effect.Effect<void> =>
  call.engine.budget.settle(attempt.member.budget, {
    retry: attempt.charged !== undefined,
    outcome,
    cost: attempt.charged
  })

/** Content has begun to arrive: a probe has proved what it was sent for. */
export const firstContent = (call: Call, attempt: Attempt): Effect.Effect<void> =>
  Effect.suspend(() => {
    attempt.firstContentAt = call.clock.currentTimeMillisUnsafe()
    Silences.answer(call.engine.board.silence, attempt.index, attempt.startedAt, attempt.firstContentAt)
    return attempt.permit.firstContent
  })

const settleThrottle = (attempt: Attempt, outcome: ClientThrottle.Outcome): Effect.Effect<void> =>
  attempt.passed === undefined ? Exit.void : attempt.passed.settle(outcome)

// Once, and all or nothing: what cannot be told in one step is kept until it has been told.
const telling = (
  moment: Step.Moment,
  attempt: Attempt,
  observers: () => ReadonlyArray<Effect.Effect<void>>
): Effect.Effect<void> => {
  if (attempt.told) return Exit.void
  attempt.told = true
  const rest = Step.all(moment, observers())
  if (Exit.isExit(rest)) return rest
  attempt.untold = rest
  return untold(attempt)
}

/** What an interruption has left untold. */
export const untold = (attempt: Attempt): Effect.Effect<void> =>
  attempt.untold === undefined ? Exit.void : Effect.uninterruptible(Effect.suspend(() => {
    const rest = attempt.untold ?? Exit.void
    attempt.untold = undefined
    return rest
  }))

/** Tells of a success, and writes it into the record. */
export const succeeded = (
  moment: Step.Moment,
  call: Call,
  attempt: Attempt,
  spent: Spent
): Effect.Effect<void> =>
  telling(moment, attempt, () => [
    hear(moment, call, attempt, undefined),
    Records.success(moment, call, attempt, spent),
    attempt.permit.success,
    Admissions.recovered(call, attempt),
    Admissions.succeeded(moment, call, attempt, spent),
    recordHealth(call, attempt, {
      _tag: "Success",
      durationMs: durationOf(moment, attempt),
      firstTokenMs: firstTokenOf(attempt),
      outputTokens: outputOf(spent)
    }),
    observeHedging(moment, call, attempt),
    settleBudget(call, attempt, "success"),
    settleThrottle(attempt, "accepted")
  ])

// What our own limits of time cut short has told nothing; everything else has come from somewhere.
const hear = (
  moment: Step.Moment,
  call: Call,
  { firstContentAt, index, startedAt }: Attempt,
  error: LLMError | undefined
): Effect.Effect<void> => {
  const { silence } = call.engine.board
  if (error === undefined) {
    if (firstContentAt === undefined) Silences.answer(silence, index, startedAt, Step.millis(moment))
  } else if (error.errorClass !== "timeout" || error.status !== undefined) Silences.heard(silence, index)
  return Exit.void
}

const outputOf = (spent: Spent): number | undefined =>
  spent._tag === "Reported"
    ? spent.usage.outputTokens.total
    : typeof spent.usage === "string"
    ? undefined
    : spent.usage.output

// When to hedge is learned from how long a success takes to its first content, or to its end where that is awaited.
const observeHedging = (moment: Step.Moment, call: Call, attempt: Attempt): Effect.Effect<void> =>
  call.engine.hedging === undefined ? Exit.void : call.engine.hedging.observe(
    hedgingKey(call, attempt.member),
    (contentAt(call, attempt) ?? Step.millis(moment)) - attempt.startedAt
  )

const contentAt = (call: Call, { firstContentAt }: Attempt): number | undefined =>
  call.need.hedgedAs === "stream" ? firstContentAt : undefined

// Whoever was joined would have taken at least as long: without it slow answers would never be learned. The hedge that
// is interrupted may have had no time at all.
const observeLoser = (moment: Step.Moment, call: Call, attempt: Attempt): Effect.Effect<void> =>
  call.hedgedAt !== undefined && attempt.startedAt <= call.hedgedAt && attempt.chosen !== "hedge" &&
    contentAt(call, attempt) === undefined
    ? observeHedging(moment, call, attempt)
    : Exit.void

/** Streams are hedged by their first content, all else by the whole answer. */
export const hedgingKey = (call: Call, member: Member): string => member.hedging[call.need.hedgedAs]

/** Tells of a failure, and writes into the record what it is to the caller. */
export const failed = (
  moment: Step.Moment,
  call: Call,
  attempt: Attempt,
  error: LLMError,
  recorded: LLMError = error
): Effect.Effect<void> =>
  telling(moment, attempt, () => [
    hear(moment, call, attempt, error),
    Records.failure(moment, call, attempt, recorded),
    counts(error, ruleFor(call.engine.recovery, error))
      ? attempt.permit.failure(error.errorClass, error.retryAfter)
      : attempt.permit.ignored,
    Admissions.failed(call, attempt, error),
    recordHealth(call, attempt, {
      _tag: "Failure",
      error,
      durationMs: durationOf(moment, attempt),
      firstTokenMs: firstTokenOf(attempt)
    }),
    settleBudget(call, attempt, RetryBudget.outcomeOf(error)),
    settleThrottle(attempt, ClientThrottle.outcomeOf(error))
  ])

/** Runs, as a finalizer, when an attempt is over, however it ended; only what nobody was told of was interrupted. */
export const interrupted = (moment: Step.Moment, call: Call, attempt: Attempt): Effect.Effect<void> =>
  telling(moment, attempt, () => [
    attempt.permit.ignored,
    recordHealth(call, attempt, Health.interrupted),
    observeLoser(moment, call, attempt),
    Records.interrupted(moment, call, attempt),
    settleBudget(call, attempt, "neutral"),
    settleThrottle(attempt, "neutral")
  ])

// A refusal of ours and a caller's deadline prove nothing, whatever their class.
const counts = (error: LLMError, rule: Rule): boolean =>
  rule.circuit === "failure" && error.origin === "provider" && error.scope !== "request"
