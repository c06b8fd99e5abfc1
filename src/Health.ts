/**
 * Scores how well things work, from what happened to real calls: no probe is ever sent.
 *
 * A key is any string: a target, a model, a key, a provider (see `Target.scopeKey`). Each outcome recorded for it moves
 * decaying counts, response times and a score from 0 to 100, from which follows a status: healthy, degraded or
 * critical. State lives in the service; `layerMemory` keeps it in the process and forgets keys that are not used.
 *
 * **Details**
 *
 * The score is `100 × success × latency^0.3`. `success` is the share of successes among recent outcomes, with a prior
 * of five successes and half a failure, so that a new key starts near 90 and one failure decides nothing. `latency` is
 * 1 up to a target time and falls as answers take longer. Memory is one minute while outcomes come in; without them the
 * score goes back to where a new key starts, over tens of minutes. Replace the formula with `Scorer`.
 *
 * Refusals of our own, interruptions, and errors that are the request's own fault change nothing: they say nothing
 * about whoever was called. What a circuit or a cooldown says is not in the score either; `withState` applies it.
 *
 * **Gotchas**
 *
 * A failure never looks fast: it counts as at least five slow answers in the averages. Percentiles are those of
 * successes.
 *
 * **Example** (Scoring two targets)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Health, LLMError } from "breakwater"
 *
 * const overloaded = new LLMError.ServerError({ provider: "groq", reason: "overloaded", status: 503 })
 *
 * const program = Effect.gen(function*() {
 *   const health = yield* Health.Health
 *   for (let call = 0; call < 10; call++) {
 *     yield* health.record("target:good", Health.success({ durationMs: 800 }))
 *     yield* health.record("target:bad", Health.failure(overloaded, { durationMs: 40 }))
 *   }
 *   const report = yield* health.report
 *   return report.map(({ key, score, status }) => [key, Math.round(score), status])
 * }).pipe(Effect.provide(Health.layerMemory()))
 *
 * await Effect.runPromise(program) // => [["target:bad", 24, "critical"], ["target:good", 97, "healthy"]]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import * as Average from "./internal/health/average.ts"
import { isEvidence } from "./internal/health/blame.ts"
import * as Records from "./internal/health/record.ts"
import * as IdleMap from "./internal/idleMap.ts"
import * as Step from "./internal/step.ts"
import type { ErrorClass, LLMError, Reason } from "./LLMError.ts"
import { LLMService } from "./LLMService.ts"
import { isContentPart } from "./Timeouts.ts"

/**
 * Service that records outcomes and scores keys.
 *
 * @category services
 * @since 0.1.0
 */
export class Health extends Context.Service<Health, {
  /** Records how one attempt ended. */
  readonly record: (key: string, outcome: Outcome) => Effect.Effect<void>
  /** Records how one attempt ended under all its keys at once: its target, its model, its key, its provider. */
  readonly recordAll: (keys: ReadonlyArray<string>, outcome: Outcome) => Effect.Effect<void>
  /** Returns the score of a key from 0 to 100; one that was never used has the score that every key starts with. */
  readonly score: (key: string) => Effect.Effect<number>
  /** Returns the scores of many keys at one time, in their order. */
  readonly scores: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<number>>
  /** Returns what a choice among many keys asks of each, at one time and in their order. */
  readonly readings: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Reading>>
  /** Returns all figures of a key, `undefined` when nothing is known about it. */
  readonly figures: (key: string) => Effect.Effect<Figures | undefined>
  /** Returns the figures of all keys, the worst score first. */
  readonly report: Effect.Effect<ReadonlyArray<Figures>>
  /** Forgets a key; returns whether it was known. */
  readonly reset: (key: string) => Effect.Effect<boolean>
  /** Forgets all keys; returns how many were known. */
  readonly resetAll: Effect.Effect<number>
  /** Scores that fell below the bound of warning, and statuses that changed, from now on. */
  readonly changes: Stream.Stream<Change>
}>()("breakwater/Health") {}

/**
 * How an attempt ended; see `success`, `failure` and `interrupted`.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | ({ readonly _tag: "Success" } & Times & {
    /** Tokens that were generated. */
    readonly outputTokens?: number | undefined
  })
  | ({ readonly _tag: "Failure"; readonly error: LLMError } & Times)
  | { readonly _tag: "Interrupted" }

/**
 * How long an attempt took, in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Times {
  /** From its start to its end. */
  readonly durationMs: number
  /** From its start to the first content, when it was streamed. */
  readonly firstTokenMs?: number | undefined
}

/**
 * What a score means: from 80 healthy, from 50 degraded, critical below.
 *
 * **Details**
 *
 * A status falls at these bounds and rises 5 above them, so that a score that wavers does not change it each time.
 *
 * @category models
 * @since 0.1.0
 */
export type Status = "healthy" | "degraded" | "critical"

/**
 * Something that became worse or better.
 *
 * **Details**
 *
 * `Warning` is sent when a score falls below the bound of warning, and again only after it was 5 above it.
 * `StatusChanged` is sent by the outcome that changes a status; a status that recovers by time alone is seen in
 * `report`.
 *
 * @category models
 * @since 0.1.0
 */
export type Change =
  | {
    readonly _tag: "Warning"
    readonly key: string
    readonly score: number
    readonly status: Status
    readonly lastError: LastError | undefined
    readonly at: number
  }
  | {
    readonly _tag: "StatusChanged"
    readonly key: string
    readonly score: number
    readonly status: Status
    readonly previous: Status
    readonly at: number
  }

/**
 * The latest error of a key; the provider's own words are left out.
 *
 * @category models
 * @since 0.1.0
 */
export interface LastError {
  readonly errorClass: ErrorClass
  readonly reason: Reason
  readonly status: number | undefined
  /** Milliseconds since the epoch. */
  readonly at: number
}

/**
 * What a score is made of: recent outcomes, each of which weighs less the longer ago it was.
 *
 * @category models
 * @since 0.1.0
 */
export interface Evidence {
  /** Successes that still weigh. */
  readonly successes: number
  /** Failures that still weigh, by class. */
  readonly failures: Readonly<Record<ErrorClass, number>>
  /** Average time of an attempt; failures count as at least five slow answers. */
  readonly latencyMs: number | undefined
  /** Attempts in that average that still weigh. */
  readonly latencyWeight: number
  /** Average time to the first content of a stream; failures count as above. */
  readonly firstTokenMs: number | undefined
  /** Streams in that average that still weigh. */
  readonly firstTokenWeight: number
  readonly consecutiveFailures: number
  /** Milliseconds since the latest outcome. */
  readonly idleMs: number
}

/**
 * The few figures of a key that a choice among many of them rests on.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reading {
  /** From 0 to 100; of a key that was never used, the score that every key starts with. */
  readonly score: number
  /** The latest peak of the time to an answer, fading within seconds; 0 when nothing is known. See `cost`. */
  readonly peakMs: number
  /** Average time to the first content of a stream; `undefined` before the first one. */
  readonly firstTokenMs: number | undefined
  /** Average time between two generated tokens; `undefined` before any has been counted. */
  readonly perTokenMs: number | undefined
}

/**
 * All that is known about a key.
 *
 * **Details**
 *
 * Figures named `recent` and rates weigh outcomes by age; the other counts are those since `since`. Times are
 * milliseconds, points in time milliseconds since the epoch. What has not been seen yet is `undefined`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Figures {
  readonly key: string
  readonly score: number
  readonly status: Status
  /** How many recent outcomes the score rests on. */
  readonly confidence: number
  readonly successRate: number | undefined
  readonly failureRate: number | undefined
  readonly recentSuccesses: number
  readonly recentFailures: number
  readonly recentFailuresByClass: Readonly<Record<ErrorClass, number>>
  readonly consecutiveFailures: number
  readonly consecutiveSuccesses: number
  readonly requests: number
  readonly successes: number
  readonly failures: number
  readonly failuresByClass: Readonly<Record<ErrorClass, number>>
  /** Failures with a rate limit or quota: what a provider answers 429 to. */
  readonly rateLimited: number
  readonly timeouts: number
  /** Timeouts, and answers slower than `slowAfter`. */
  readonly slow: number
  /** Outcomes that say nothing about whoever was called. */
  readonly ignored: number
  readonly latencyMs: number | undefined
  readonly latencyP50Ms: number | undefined
  readonly latencyP95Ms: number | undefined
  readonly latencyP99Ms: number | undefined
  readonly firstTokenMs: number | undefined
  readonly firstTokenP50Ms: number | undefined
  readonly firstTokenP95Ms: number | undefined
  readonly firstTokenP99Ms: number | undefined
  readonly tokensPerSecond: number | undefined
  /** The latest peak of the time to an answer, fading within seconds; 0 when nothing is known. See `cost`. */
  readonly peakMs: number
  readonly lastSuccessAt: number | undefined
  readonly lastError: LastError | undefined
  /** When the key was first used. */
  readonly since: number
  readonly idleMs: number
}

/**
 * Options of `layerMemory`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Time after which an outcome weighs a third, while others follow.
   *
   * @default "60 seconds"
   */
  readonly memory?: Duration.Input | undefined
  /**
   * The same while no others follow.
   *
   * @default "10 minutes"
   */
  readonly idleMemory?: Duration.Input | undefined
  /**
   * Time to the first content, or to an answer in one piece, beyond which an answer is marked slow.
   *
   * @default "10 seconds"
   */
  readonly slowAfter?: Duration.Input | undefined
  /**
   * Time that a failure counts as while no success tells how long an answer takes.
   *
   * @default "30 seconds"
   */
  readonly failureTime?: Duration.Input | undefined
  /**
   * Score below which a warning is sent.
   *
   * @default 70
   */
  readonly warnBelow?: number | undefined
  /**
   * Time without use after which a key is forgotten.
   *
   * @default "1 hour"
   */
  readonly forgetAfter?: Duration.Input | undefined
}

/**
 * Options of `makeScorer`.
 *
 * @category options
 * @since 0.1.0
 */
export interface ScorerOptions {
  /**
   * Successes that every key starts with.
   *
   * @default 5
   */
  readonly priorSuccesses?: number | undefined
  /**
   * Failures that every key starts with.
   *
   * @default 0.5
   */
  readonly priorFailures?: number | undefined
  /**
   * What a failure of a class counts; the default is 0.5 for `rate_limit`, which is no fault, and 1 for the others.
   */
  readonly weights?: Partial<Readonly<Record<ErrorClass, number>>> | undefined
  /**
   * Average time of an answer in one piece up to which nothing is deducted.
   *
   * @default "10 seconds"
   */
  readonly targetLatency?: Duration.Input | undefined
  /**
   * Average time to the first content up to which nothing is deducted.
   *
   * @default "3 seconds"
   */
  readonly targetFirstToken?: Duration.Input | undefined
  /**
   * How strongly slowness counts; 0 ignores it.
   *
   * @default 0.3
   */
  readonly latencyExponent?: number | undefined
}

/**
 * Creates the formula of the score with other numbers.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when a number is negative or not finite, or a time is not positive.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeScorer = (options: ScorerOptions = {}): (evidence: Evidence) => number => {
  const priorSuccesses = notNegative("priorSuccesses", options.priorSuccesses ?? 5)
  const priorFailures = notNegative("priorFailures", options.priorFailures ?? 0.5)
  if (priorSuccesses + priorFailures === 0) throw invalid("priorSuccesses", "> 0 without priorFailures", 0)
  const targetLatencyMs = positiveMillis("targetLatency", options.targetLatency ?? "10 seconds")
  const targetFirstTokenMs = positiveMillis("targetFirstToken", options.targetFirstToken ?? "3 seconds")
  const exponent = notNegative("latencyExponent", options.latencyExponent ?? 0.3)
  const weights = { ...defaultWeights, ...options.weights }
  for (const [name, weight] of Object.entries(weights)) notNegative(`weights.${name}`, weight)
  return ({ failures, firstTokenMs, firstTokenWeight, latencyMs, latencyWeight, successes }) => {
    const failed = failures.transient_network * weights.transient_network + failures.rate_limit * weights.rate_limit +
      failures.timeout * weights.timeout + failures.server_error * weights.server_error +
      failures.authentication * weights.authentication + failures.permanent * weights.permanent +
      failures.unknown * weights.unknown
    const success = (successes + priorSuccesses) / (successes + failed + priorSuccesses + priorFailures)
    // The time to the first content says more: the rest is decided by the length of the answer.
    const latency = firstTokenMs === undefined
      ? share(targetLatencyMs, latencyMs ?? 0, latencyWeight)
      : share(targetFirstTokenMs, firstTokenMs, firstTokenWeight)
    return 100 * success * (latency < 1 ? latency ** exponent : 1)
  }
}

// One answer of the target time is taken for granted, so that slowness is forgotten by time, too.
const share = (targetMs: number, millis: number, weight: number): number =>
  targetMs / ((millis * weight + targetMs) / (weight + 1))

const defaultWeights: Readonly<Record<ErrorClass, number>> = {
  transient_network: 1,
  rate_limit: 0.5,
  timeout: 1,
  server_error: 1,
  authentication: 1,
  permanent: 1,
  unknown: 1
}

/**
 * The formula that turns evidence into a score; results are kept between 0 and 100, and what is no number is 0.
 *
 * **Gotchas**
 *
 * It is read once, when the layer is built: provide it to the layer, not to the calls. The evidence is one object for
 * all scores: read it, and do not keep it.
 *
 * @category references
 * @since 0.1.0
 */
export const Scorer: Context.Reference<(evidence: Evidence) => number> = Context.Reference<
  (evidence: Evidence) => number
>("breakwater/Health/Scorer", { defaultValue: () => makeScorer() })

/**
 * Creates the outcome of an attempt that was answered.
 *
 * @category constructors
 * @since 0.1.0
 */
export const success = (times: Times & { readonly outputTokens?: number | undefined }): Outcome => ({
  _tag: "Success",
  ...times
})

/**
 * Creates the outcome of an attempt that failed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const failure = (error: LLMError, times: Times): Outcome => ({ _tag: "Failure", error, ...times })

/**
 * The outcome of an attempt that was interrupted: neither a success nor a failure.
 *
 * @category constructors
 * @since 0.1.0
 */
export const interrupted: Outcome = { _tag: "Interrupted" }

/**
 * Records how the calls of the `LLMService` below end.
 *
 * **When to use**
 *
 * Use for a single provider, such as that of `LLMService.layerProvider`. A router records its attempts by itself.
 *
 * **Details**
 *
 * A stream that its consumer leaves early counts as interrupted.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLLMService = (
  options: { readonly key: string }
): Layer.Layer<LLMService, never, LLMService | Health> =>
  Layer.effect(
    LLMService,
    Effect.map(Effect.zip(LLMService, Health), ([service, health]) => {
      const record = (outcome: Outcome) => health.record(options.key, outcome)
      return LLMService.of({
        complete: (request) =>
          watched((times) =>
            Effect.onExit(service.complete(request), (exit) =>
              record(
                Exit.isSuccess(exit)
                  ? success({ ...times(), outputTokens: exit.value.usage.outputTokens.total })
                  : failureOf(exit, times())
              ))
          ),
        stream: (request) =>
          Stream.unwrap(watched((times, first) => {
            let finished: Outcome | undefined
            const parts = Stream.map(service.stream(request), (part) => {
              if (isContentPart(part)) first()
              if (part.type === "finish") {
                finished = success({ ...times(), outputTokens: part.usage.outputTokens.total })
              }
              return part
            })
            return Effect.succeed(
              Stream.onExit(
                parts,
                (exit) => record(finished ?? (Exit.isSuccess(exit) ? interrupted : failureOf(exit, times())))
              )
            )
          }))
      })
    })
  )

/** Starts a watch: the first function reads it, the second one marks the first content. */
const watched = <A, E, R>(
  use: (times: () => Times, first: () => void) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Clock.clockWith((clock) => {
    const startedAt = clock.currentTimeMillisUnsafe()
    const elapsed = (): number => clock.currentTimeMillisUnsafe() - startedAt
    let firstTokenMs: number | undefined
    return use(
      () => ({ durationMs: elapsed(), firstTokenMs }),
      () => {
        firstTokenMs ??= elapsed()
      }
    )
  })

const failureOf = (exit: Exit.Exit<unknown, LLMError>, times: Times): Outcome =>
  Option.match(Exit.findErrorOption(exit), {
    onNone: () => interrupted,
    onSome: (error) => failure(error, times)
  })

/**
 * Provides a `Health` that lives in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when a time is not positive or `warnBelow` is not between 0 and 100.
 * Subscribers of `changes` that fall 256 behind miss the oldest ones.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<Health> => {
  const memory: Records.Memory = {
    memoryMs: positiveMillis("memory", options.memory ?? "60 seconds"),
    idleMemoryMs: positiveMillis("idleMemory", options.idleMemory ?? "10 minutes"),
    slowMs: positiveMillis("slowAfter", options.slowAfter ?? "10 seconds"),
    penaltyMs: positiveMillis("failureTime", options.failureTime ?? "30 seconds")
  }
  const forgetMs = positiveMillis("forgetAfter", options.forgetAfter ?? "1 hour")
  const { warnBelow = 70 } = options
  if (!(warnBelow >= 0 && warnBelow <= 100)) throw invalid("warnBelow", "between 0 and 100", warnBelow)
  return Layer.effect(
    Health,
    Effect.map(
      Effect.all([Scorer, Effect.acquireRelease(PubSub.sliding<Change>(256), PubSub.shutdown)]),
      ([scorer, changes]) => make(memory, forgetMs, warnBelow, scorer, changes)
    )
  )
}

/** What is kept of a key, with what was last said about it. */
interface Kept {
  readonly record: Records.State
  status: Status
  warned: boolean
}

const make = (
  memory: Records.Memory,
  forgetMs: number,
  warnBelow: number,
  scorer: (evidence: Evidence) => number,
  changes: PubSub.PubSub<Change>
): Health["Service"] => {
  const scoreOf = (evidence: Evidence): number => {
    const score = scorer(evidence)
    return score > 0 ? Math.min(100, score) : 0
  }
  const initialScore = scoreOf(Records.blank())
  const initialStatus = statusOf(initialScore)
  const keys = IdleMap.make(forgetMs, (now): Kept => ({
    record: Records.make(memory, now),
    status: initialStatus,
    warned: initialScore < warnBelow
  }))

  const sheet = Records.blank()
  const scoreAt = (kept: Kept, now: number): number => scoreOf(Records.evidence(memory, kept.record, now, sheet))

  /** Notes what an outcome has changed; returns what there is to tell of it, after what others have to tell. */
  const observe = (
    key: string,
    kept: Kept,
    now: number,
    told: Array<Change> | undefined
  ): Array<Change> | undefined => {
    const score = scoreAt(kept, now)
    const status = nextStatus(kept.status, score)
    const falls = score < warnBelow && !kept.warned
    const { status: previous } = kept
    kept.status = status
    kept.warned = score < warnBelow || (kept.warned && score < warnBelow + hysteresis)
    if (!falls && status === previous) return told
    const { lastError } = kept.record
    const events = told ?? []
    if (falls) events.push({ _tag: "Warning", key, score, status, lastError, at: now })
    if (status !== previous) events.push({ _tag: "StatusChanged", key, score, status, previous, at: now })
    return events
  }

  const recordOne = (
    key: string,
    outcome: Outcome,
    now: number,
    told: Array<Change> | undefined
  ): Array<Change> | undefined => {
    if (outcome._tag === "Interrupted" || (outcome._tag === "Failure" && !isEvidence(outcome.error))) {
      const kept = keys.peek(key, now)
      if (kept !== undefined) kept.record.totals.ignored++
      return told
    }
    const kept = keys.use(key, now)
    if (outcome._tag === "Success") Records.recordSuccess(memory, kept.record, outcome, now)
    else Records.recordFailure(memory, kept.record, outcome, now)
    return observe(key, kept, now, told)
  }

  const tell = (events: ReadonlyArray<Change> | undefined): Effect.Effect<void> =>
    events === undefined ? Exit.void : Effect.asVoid(PubSub.publishAll(changes, events))

  const view = (key: string, kept: Kept, now: number): Figures => {
    const score = scoreAt(kept, now)
    return { key, score, status: nextStatus(kept.status, score), ...Records.figures(memory, kept.record, now) }
  }

  const scoreOfKey = (key: string, now: number): number => {
    const kept = keys.peek(key, now)
    return kept === undefined ? initialScore : scoreAt(kept, now)
  }

  const unknown: Reading = { score: initialScore, peakMs: 0, firstTokenMs: undefined, perTokenMs: undefined }

  const readingOf = (key: string, now: number): Reading => {
    const kept = keys.peek(key, now)
    if (kept === undefined) return unknown
    const { record } = kept
    return {
      score: scoreAt(kept, now),
      peakMs: Records.peak(record, now),
      firstTokenMs: Records.firstTokenAverage(record),
      perTokenMs: Records.perTokenAverage(record)
    }
  }

  return Health.of({
    // A call records several outcomes, so each is a single step of its fiber.
    record: (key, outcome) => Step.make((moment) => tell(recordOne(key, outcome, Step.millis(moment), undefined))),
    recordAll: (all, outcome) =>
      Step.make((moment) => {
        const now = Step.millis(moment)
        let told: Array<Change> | undefined
        for (const key of all) told = recordOne(key, outcome, now, told)
        return tell(told)
      }),
    score: (key) => Effect.map(Clock.currentTimeMillis, (now) => scoreOfKey(key, now)),
    scores: (all) => Effect.map(Clock.currentTimeMillis, (now) => all.map((key) => scoreOfKey(key, now))),
    readings: (all) =>
      Step.sync((moment) => {
        const now = Step.millis(moment)
        return all.map((key) => readingOf(key, now))
      }),
    figures: (key) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const kept = keys.peek(key, now)
        return kept === undefined ? undefined : view(key, kept, now)
      }),
    report: Effect.map(
      Clock.currentTimeMillis,
      (now) => keys.entries(now).map(([key, kept]) => view(key, kept, now)).sort((a, b) => a.score - b.score)
    ),
    reset: (key) => Effect.map(Clock.currentTimeMillis, (now) => keys.delete(key, now)),
    resetAll: Effect.map(Clock.currentTimeMillis, keys.clear),
    changes: Stream.fromPubSub(changes)
  })
}

const hysteresis = 5
const bounds: Readonly<Record<Status, number>> = { healthy: 80, degraded: 50, critical: 0 }

const statusOf = (score: number): Status =>
  score >= bounds.healthy ? "healthy" : score >= bounds.degraded ? "degraded" : "critical"

const nextStatus = (status: Status, score: number): Status => {
  const fallen = statusOf(score)
  if (bounds[fallen] <= bounds[status]) return fallen
  const risen = statusOf(score - hysteresis)
  return bounds[risen] > bounds[status] ? risen : status
}

/**
 * What circuit and cooldown say about a key; what is absent does not lower the score.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly circuit?: "closed" | "open" | "half-open" | "isolated" | undefined
  /** Share of the traffic that is let through while it recovers, between 0 and 1. */
  readonly rampShare?: number | undefined
  readonly cooling?: boolean | undefined
}

/**
 * Returns a score as circuit and cooldown leave it: 0 when nothing is let through, at most 30 while probes decide, its
 * share while traffic grows again.
 *
 * @category accessors
 * @since 0.1.0
 */
export const withState = (score: number, state: State): number => {
  if (state.cooling === true || state.circuit === "open" || state.circuit === "isolated") return 0
  const shared = score * Math.min(1, Math.max(0, state.rampShare ?? 1))
  return state.circuit === "half-open" ? Math.min(30, shared) : shared
}

/**
 * Returns what one more request to a key costs, for a choice between two: its peak time for each request in flight and
 * for the new one.
 *
 * **Details**
 *
 * Where nothing is known, a request in flight costs 30 seconds: a key that has never answered gets one request to begin
 * with, not all of them.
 *
 * @category accessors
 * @since 0.1.0
 */
export const cost = (peakMs: number, pending: number): number => Average.cost(peakMs, pending, 30_000)

const positiveMillis = (field: string, input: Duration.Input): number => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(input))
  if (!(Number.isFinite(millis) && millis > 0)) throw invalid(field, "a finite duration > 0", input)
  return millis
}

const notNegative = (field: string, value: number): number => {
  if (!(Number.isFinite(value) && value >= 0)) throw invalid(field, "a finite number >= 0", value)
  return value
}

const invalid = (field: string, demand: string, got: unknown): RangeError =>
  new RangeError(`Health: ${field} must be ${demand}, got ${String(got)}`)
