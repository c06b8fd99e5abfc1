/**
 * The nouns of a call on its way: what it goes through, what it has learned, what an attempt works with.
 *
 * @internal
 */
import type * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import type * as Pull from "effect/Pull"
import type * as Schedule from "effect/Schedule"
import type { CircuitBreaker, Permit } from "../../CircuitBreaker.ts"
import type { ClientThrottle, Permit as Passed } from "../../ClientThrottle.ts"
import type { Cooldown } from "../../Cooldown.ts"
import type { Health } from "../../Health.ts"
import type * as Errors from "../../LLMError.ts"
import type { Adapter } from "../../Provider.ts"
import type { RateLimiter, Request, Reservation } from "../../RateLimiter.ts"
import type { Recovery } from "../../Recovery.ts"
import type { Cost, RetryBudget } from "../../RetryBudget.ts"
import type { Estimate, Usage } from "../../Usage.ts"
import type { Discipline } from "../health/ejection.ts"
import type * as Decisions from "./decision.ts"
import type * as Requests from "./request.ts"

/** Everything a router is made of, prepared once. */
export interface Engine {
  readonly candidates: ReadonlyArray<Member>
  readonly groups: ReadonlyArray<ReadonlyArray<string>>
  readonly circuitKeys: ReadonlyArray<string>
  /** Whether some target has declared that it cannot do something. */
  readonly selective: boolean
  readonly recovery: Recovery
  readonly maxAttempts: number
  readonly patienceMs: number
  readonly queueWaitMs: number
  /** How many targets open circuits may take out of use. */
  readonly ejection: Discipline
  readonly limits: Readonly<Record<"total" | "attempt" | "connect" | "firstToken" | "idle", number>>
  readonly tenants: ReadonlyMap<string, LimitScope>
  readonly cooldown: Cooldown["Service"]
  readonly limiter: RateLimiter["Service"]
  readonly usage: Usage["Service"]
  readonly circuits: CircuitBreaker["Service"]
  readonly health: Health["Service"]
  readonly budget: RetryBudget["Service"]
  readonly throttle: ClientThrottle["Service"] | undefined
}

export type LimitScope = Request["scopes"][number]

export interface Member extends Decisions.Candidate {
  readonly adapter: Adapter
  /** Scopes an attempt counts in, the narrowest first. */
  readonly limits: ReadonlyArray<LimitScope>
  /** Backoff on the target. */
  readonly retry: Schedule.Schedule<unknown, Errors.LLMError>
  /** Key of the target's circuit. */
  readonly circuit: string
  /** Keys under which health is recorded. */
  readonly health: ReadonlyArray<string>
  /** Key of the retry budget that retries on the target are charged to. */
  readonly budget: string
}

/** One call on its way. */
export interface Call {
  readonly engine: Engine
  readonly request: Requests.Prepared
  readonly setup: Decisions.Setup
  readonly members: ReadonlyArray<Member>
  readonly groups: ReadonlyArray<ReadonlyArray<string>>
  readonly circuits: ReadonlyArray<string>
  readonly clock: Clock.Clock
  readonly startedAt: number
  readonly attempts: Array<Errors.Attempt>
  readonly steps: Map<number, Step>
  state: Decisions.State
  waitedMs: number
  /** What has been waited since the last attempt. */
  pendingWaitMs: number
  /** What the retry budget was charged for the attempt to come, and under which key. */
  pendingCharge: Charge | undefined
  /** Candidates whose open circuit is not to be obeyed now. */
  overruled: ReadonlyArray<number>
}

/** What was taken from a retry budget. */
export interface Charge {
  readonly key: string
  readonly cost: Cost
}

export type Step = (now: number, error: Errors.LLMError) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/** What an attempt works with. */
export interface Attempt {
  readonly member: Member
  readonly index: number
  readonly chosen: Errors.Attempt["chosen"]
  readonly skipped: ReadonlyArray<Errors.Skipped>
  readonly startedAt: number
  readonly waitedMs: number
  /** Milliseconds the call has left. */
  readonly remainingMs: number
  /** What the limiter has granted; `undefined` where nothing is limited. */
  readonly grant: Grant | undefined
  readonly permit: Permit
  readonly passed: Passed | undefined
  /** What the retry budget was charged, for a retry. */
  readonly charged: Cost | undefined
  /** When content began to arrive. */
  firstContentAt: number | undefined
  /** Whether those who want to know have been told how it ended. */
  told: boolean
}

/** A reservation, and what its settlement depends on. */
export interface Grant {
  readonly reservation: Reservation
  readonly estimate: Estimate
  /** Whether the request may have left this process. */
  sent: boolean
  /** Characters of content that have been handed over. */
  emitted: number
}
