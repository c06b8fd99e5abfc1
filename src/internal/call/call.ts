/**
 * The nouns of a call on its way: what it goes through, what it has learned, what an attempt works with.
 *
 * @internal
 */
import type * as Response from "effect/ai/Response"
import type * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import type * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { CircuitBreaker, Permit } from "../../CircuitBreaker.ts"
import type { ClientThrottle, Permit as Passed } from "../../ClientThrottle.ts"
import type { Cooldown } from "../../Cooldown.ts"
import type { Events } from "../../Events.ts"
import type { Health } from "../../Health.ts"
import type { Hedging } from "../../Hedging.ts"
import type * as Errors from "../../LLMError.ts"
import type { StreamPolicy } from "../../LLMService.ts"
import type { Adapter } from "../../Provider.ts"
import type { RateLimiter, Request, Reservation, Usage as Used } from "../../RateLimiter.ts"
import type { Recovery } from "../../Recovery.ts"
import type { Cost, RetryBudget } from "../../RetryBudget.ts"
import type { Strategy } from "../../Selection.ts"
import type { Target } from "../../Target.ts"
import type { ErrorContext } from "../../Timeouts.ts"
import type { Estimate, Usage } from "../../Usage.ts"
import type { Discipline } from "../health/ejection.ts"
import type { Board } from "./board.ts"
import type * as Decisions from "./decision.ts"

/** Everything a router is made of, prepared once. */
export interface Engine {
  readonly candidates: ReadonlyArray<Member>
  readonly groups: ReadonlyArray<ReadonlyArray<string>>
  readonly circuitKeys: ReadonlyArray<string>
  /** What the strategies read of the candidates. */
  readonly board: Board
  /** Whether a candidate is silent and has as many attempts in flight as it may have. */
  readonly isSilent: (index: number, now: number) => boolean
  /** Which candidate is tried first, of those that are free. */
  readonly strategy: Strategy
  /** The same for a call with an affinity. */
  readonly sticky: Strategy
  /** What stands for the affinity of a call that brings none. */
  readonly affinity: "request" | "prefix"
  /** All candidates. */
  readonly everyone: Fitness
  /** Whether some candidate does not serve every request. */
  readonly selective: boolean
  /** Tokens of the smallest context window; `Infinity` where none is known. */
  readonly smallestWindow: number
  readonly recovery: Recovery
  readonly maxAttempts: number
  readonly patienceMs: number
  readonly queueWaitMs: number
  /** How many targets open circuits may take out of use. */
  readonly ejection: Discipline
  readonly limits: Readonly<Record<"total" | "attempt" | "connect" | "firstToken" | "idle", number>>
  readonly streamPolicy: StreamPolicy
  readonly tenants: ReadonlyMap<string, Tenant>
  readonly cooldown: Cooldown["Service"]
  readonly limiter: RateLimiter["Service"]
  readonly usage: Usage["Service"]
  readonly circuits: CircuitBreaker["Service"]
  readonly health: Health["Service"]
  readonly budget: RetryBudget["Service"]
  readonly throttle: ClientThrottle["Service"] | undefined
  readonly hedging: Hedging["Service"] | undefined
  readonly events: Events["Service"] | undefined
  /** Calls that have begun. */
  calls: number
  /** When the last cooldown after a timeout began, by its scope. */
  readonly hung: Map<string, number>
}

export type LimitScope = Request["scopes"][number]

/** A tenant with limits of its own. */
export interface Tenant {
  readonly scope: LimitScope
  /** The scopes of its attempts, by candidate. */
  readonly scopes: Map<Member, ReadonlyArray<LimitScope>>
}

export interface Member extends Decisions.Candidate {
  /** What errors say of the target. */
  readonly about: ErrorContext
  readonly adapter: Adapter | undefined
  /** Scopes an attempt counts in, the narrowest first. */
  readonly limits: ReadonlyArray<LimitScope>
  /** Backoff on the target. */
  readonly retry: Schedule.Schedule<unknown, Errors.LLMError>
  /** Key of the target's circuit. */
  readonly circuit: string
  /** Keys under which health is recorded, that of the target first. */
  readonly health: ReadonlyArray<string>
  /** Key of the retry budget that retries on the target are charged to. */
  readonly budget: string
  /** Keys under which it is known how long calls of a kind take. */
  readonly hedging: Readonly<Record<Need["kind"], string>>
}

/** What a call asks for, whatever is sent: a request of a model, or any effect. */
export interface Need {
  readonly kind: "complete" | "stream" | "execute"
  /** The kind of calls by whose times it is slow: a stream that is kept until it is whole waits for a whole answer. */
  readonly hedgedAs: Need["kind"]
  /** Longest time of an attempt, or of a stream to its first content. */
  readonly attemptMs: number
  readonly priority: Request["priority"]
  readonly tenant: string | undefined
  readonly deadlineMs: number | undefined
  readonly affinity: string | undefined
  /** Whether what may have been executed may be sent again. */
  readonly replays: boolean
  /** Whether the reply begins in the prompt: a target that refuses that says nothing about the request. */
  readonly isPrefilled: () => boolean
  /** What it is expected to use, for the choice of a target. */
  readonly tokens: { readonly input: number; readonly output: number }
  /** What it is expected to use at a target, for its limits. */
  readonly estimate: (target: Target) => Effect.Effect<Estimate, Errors.LLMError>
}

/** What an attempt has used: as the provider reported it, or as the caller tells. */
export type Spent =
  | { readonly _tag: "Reported"; readonly usage: Response.Usage }
  | { readonly _tag: "Told"; readonly usage: Used }

/** Who can serve a call, and why others cannot. */
export interface Fitness {
  /** 1 for each candidate that can. */
  readonly fit: Uint8Array
  readonly fitting: number
  readonly skipped: ReadonlyArray<Errors.Skipped>
}

/** One call on its way. */
export interface Call {
  readonly id: number
  readonly engine: Engine
  readonly need: Need
  readonly setup: Decisions.Setup
  /** Candidates that cannot serve it, for the record. */
  readonly unfit: ReadonlyArray<Errors.Skipped>
  /** Name of the strategy that chooses. */
  readonly strategy: string
  readonly clock: Clock.Clock
  readonly startedAt: number
  readonly attempts: Array<Errors.Attempt>
  /** Where the retry schedules of the candidates stand, once one has been asked. */
  steps: Map<number, RetryStep> | undefined
  state: Decisions.State
  waitedMs: number
  /** What has been waited since the last attempt. */
  pendingWaitMs: number
  /** What the retry budget was charged for the attempt to come, and under which key. */
  pendingCharge: Charge | undefined
  /** What was charged for a hedge that has not begun yet. */
  pendingHedge: { readonly key: string; readonly budget: string } | undefined
  /** Hedges that have begun. */
  hedges: number
  /** When the last of them has. */
  hedgedAt: number | undefined
  /** Candidates whose open circuit is not to be obeyed now. */
  overruled: ReadonlyArray<number>
  /** The failure that every later one is a consequence of, once content has been handed over. */
  firstCause: Errors.LLMError | undefined
  /** Whether its end has been told. */
  over: boolean
}

/** What was taken from a retry budget. */
export interface Charge {
  readonly key: string
  readonly cost: Cost
}

export type RetryStep = (now: number, error: Errors.LLMError) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/** The decision that an attempt carries out. */
export type Chosen = Extract<Decisions.Decision, { readonly _tag: "Attempt" }>

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
  /** Milliseconds it may take so that later targets get a start; `Infinity` where nothing is held back for them. */
  readonly sliceMs: number
  /** What the attempt opens is open in it; a whole answer opens nothing. */
  readonly scope: Scope.Closeable | undefined
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
  /** What of that is still to be done. */
  untold: Effect.Effect<void> | undefined
}

/** A reservation, and what its settlement depends on. */
export interface Grant {
  readonly reservation: Reservation
  readonly estimate: Estimate
  /** Whether the request may have left this process. */
  sent: boolean
  /** Characters of content that have been handed over. */
  emitted: number
  /** Whether it has been settled and given back. */
  ended: boolean
}

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
export type Ended<A> = Served<A> | Exclude<Decisions.Event, { readonly _tag: "Start" }>

export type Failed = Extract<Decisions.Event, { readonly _tag: "Failed" }>
