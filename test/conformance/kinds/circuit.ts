/**
 * Circuit breakers: whole sequences through the public service, windows and rules through the pure core.
 */
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import { Duration, Effect, Exit, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Core from "../../../src/internal/circuit/core.ts"
import * as Trip from "../../../src/internal/circuit/trip.ts"
import * as Windows from "../../../src/internal/circuit/window.ts"
import {
  type Checks,
  kind,
  optionalBoolean,
  optionalNumber,
  optionalString,
  pureKind,
  same,
  Skip,
  type Vector
} from "../kind.ts"

const peers = new Skip({ variant: "peer's behaviour", reason: "a peer's behaviour that we reject" })

const Trips = Schema.Struct({
  kind: Schema.String,
  failures: optionalNumber,
  outOf: optionalNumber,
  size: optionalNumber,
  windowMs: optionalNumber,
  minimumCalls: optionalNumber,
  threshold: optionalNumber
})

const Config = Schema.Struct({
  trip: Trips,
  slow: Schema.optionalKey(
    Schema.Struct({ durationMs: Schema.Number, cmp: optionalString, threshold: Schema.Number })
  ),
  open: Schema.Struct({
    kind: Schema.String,
    ms: Schema.Union([Schema.Number, Schema.Array(Schema.Number)])
  }),
  halfOpen: Schema.Struct({
    kind: Schema.String,
    required: optionalNumber,
    failures: optionalNumber,
    outOf: optionalNumber,
    permitted: optionalNumber,
    calls: optionalNumber,
    minimumCalls: optionalNumber,
    threshold: optionalNumber,
    maxWaitMs: optionalNumber,
    probeTimeoutMs: optionalNumber
  }),
  maxWaitMs: optionalNumber,
  probeTimeoutMs: optionalNumber,
  disabled: optionalBoolean
})

type Config = (typeof Config)["Type"]

const notOffered = (variant: string, reason: string): never => {
  throw new Skip({ variant, reason })
}

const needed = (name: string, value: number | undefined): number =>
  value ?? notOffered("shape", `a circuit without ${name}`)

const tripOf = ({ failures, kind, minimumCalls, outOf, size, threshold, windowMs }: Config["trip"]) => {
  switch (kind) {
    case "consecutive":
      return CircuitBreaker.consecutive(needed("failures", failures))
    case "count":
      return CircuitBreaker.countWindow({ size, minimumCalls, threshold })
    case "time":
      return CircuitBreaker.timeWindow({ window: windowMs, minimumCalls, threshold })
    case "ratio":
      return CircuitBreaker.ratio({ failures: needed("failures", failures), outOf: needed("outOf", outOf) })
    case "interval":
      return notOffered(kind, "by design: counters that are cleared at fixed times forget a failure one call later")
    default:
      return notOffered(kind, "a trip rule that we do not have")
  }
}

// Where a vector has slow calls, it means those of the window of its trip rule.
const slowOf = ({ slow, trip }: Config): ReadonlyArray<CircuitBreaker.TripRule> => {
  if (slow === undefined) return []
  if (slow.cmp === ">=") notOffered("slow at the limit", "by design: a call at exactly the limit is not slow")
  const { minimumCalls, size, windowMs } = trip
  const share = { duration: slow.durationMs, threshold: slow.threshold, minimumCalls }
  return [CircuitBreaker.slowCalls(size === undefined ? { ...share, window: windowMs } : { ...share, size })]
}

const halfOpenOf = (config: Config["halfOpen"]): CircuitBreaker.HalfOpenRule => {
  const { calls, failures, kind, minimumCalls, outOf, permitted, required, threshold } = config
  switch (kind) {
    case "single":
      return CircuitBreaker.successes({ required: 1 })
    case "successes":
      return CircuitBreaker.successes({ required: needed("required", required), permitted })
    case "success-ratio":
      return CircuitBreaker.successRatio({
        required: needed("required", required),
        outOf: needed("outOf", outOf),
        permitted
      })
    case "failure-ratio":
      return CircuitBreaker.failureRatio({
        failures: needed("failures", failures),
        outOf: needed("outOf", outOf),
        permitted
      })
    case "rate":
      return CircuitBreaker.probeRate({ permitted: needed("permitted", permitted), minimumCalls, threshold })
    case "sampling":
      return CircuitBreaker.probeSample({ calls: needed("calls", calls ?? permitted), tolerated: threshold })
    default:
      return notOffered(kind, "a half-open rule that we do not have")
  }
}

const Source = Schema.Struct({ repo: optionalString })

// All peers but Effect forget the openings before a close at the close; we offer both.
const forgetOf = (source: (typeof Source)["Type"] | undefined): "after-stable" | "on-close" =>
  source?.repo === undefined || source.repo.startsWith("Effect-TS/") ? "after-stable" : "on-close"

const optionsOf = (config: Config, source: (typeof Source)["Type"] | undefined): CircuitBreaker.Options => ({
  trip: [tripOf(config.trip), ...slowOf(config)],
  open: typeof config.open.ms === "number" ? config.open.ms : CircuitBreaker.sequence(config.open.ms),
  forget: forgetOf(source),
  halfOpen: halfOpenOf(config.halfOpen),
  halfOpenTimeout: config.maxWaitMs ?? config.halfOpen.maxWaitMs,
  probeTimeout: config.probeTimeoutMs ?? config.halfOpen.probeTimeoutMs,
  disabled: config.disabled
})

const Step = Schema.Struct({
  t: Schema.Number,
  op: Schema.String,
  id: Schema.optionalKey(Schema.Union([Schema.String, Schema.Number])),
  outcome: optionalString,
  durationMs: optionalNumber,
  forMs: optionalNumber,
  times: optionalNumber,
  expect: optionalString,
  retryAfterMs: optionalNumber,
  state: optionalString
})

type Step = (typeof Step)["Type"]

interface Held {
  readonly permit: CircuitBreaker.Permit
  readonly scope: Scope.Closeable
}

const key = "vector"

const tell = ({ permit, scope }: Held, outcome: string | undefined): Effect.Effect<void> => {
  const told = outcome === "success"
    ? permit.success
    : outcome === "failure"
    ? permit.failure("server_error")
    : permit.ignored
  return Effect.andThen(told, Scope.close(scope, Exit.void))
}

const circuit = Effect.fnUntraced(function*(options: CircuitBreaker.Options, steps: ReadonlyArray<Step>) {
  const breaker = yield* CircuitBreaker.make(options)
  const held = new Map<Step["id"], Held>()
  const checks: Array<Checks> = []
  for (const [index, step] of steps.entries()) {
    const what = `step ${index + 1} (${step.op} at ${step.t})`
    for (let time = step.times ?? 1; time > 0; time--) {
      const compared = yield* Effect.map(perform(breaker, held, step), (answer) => [
        ...same(what, answer.admission, answer.admission === undefined ? undefined : step.expect),
        ...same(`${what} retryAfter`, answer.retryAfterMs, step.retryAfterMs)
      ])
      const { status } = yield* breaker.state(key)
      // A circuit that is disabled says so, where a vector may have it closed.
      const state = status === "disabled" && step.state === "closed" ? "closed" : status
      if (time === 1) checks.push(compared, same(`${what} state`, state, step.state))
    }
  }
  return checks.flat()
})

interface Answer {
  readonly admission: string | undefined
  readonly retryAfterMs: number | undefined
}

const silent: Answer = { admission: undefined, retryAfterMs: undefined }

const perform = Effect.fnUntraced(
  function*(breaker: CircuitBreaker.CircuitBreaker["Service"], held: Map<Step["id"], Held>, step: Step) {
    yield* TestClock.setTime(step.t)
    switch (step.op) {
      case "call":
      case "begin": {
        const scope = yield* Scope.make()
        const { status } = yield* breaker.check(key)
        const admitted = yield* Effect.result(Scope.provide(breaker.admit(key), scope))
        if (admitted._tag === "Failure") {
          const { retryAfter } = admitted.failure
          const retryAfterMs = retryAfter === undefined ? undefined : Duration.toMillis(retryAfter)
          return { admission: `rejected:${status}`, retryAfterMs }
        }
        const call = { permit: admitted.success, scope }
        if (step.op === "begin") held.set(step.id, call)
        else {
          yield* TestClock.setTime(step.t + (step.durationMs ?? 0))
          yield* tell(call, step.outcome)
        }
        return { admission: "admitted", retryAfterMs: undefined }
      }
      case "end":
      case "release": {
        const call = held.get(step.id)
        if (call !== undefined) yield* tell(call, step.op === "end" ? step.outcome : "ignored")
        return silent
      }
      case "trip":
        yield* breaker.trip(key, step.forMs)
        return silent
      case "isolate":
        yield* breaker.isolate(key, "vector")
        return silent
      case "reset":
        yield* breaker.reset(key)
        return silent
      case "half-open":
        yield* breaker.probe(key)
        return silent
      case "check": {
        const { admits, retryAfterMs, status } = yield* breaker.check(key)
        return { admission: admits ? "admitted" : `rejected:${status}`, retryAfterMs }
      }
      default:
        return notOffered(step.op, "an operation that we do not have")
    }
  }
)

/** A `Skip` that is thrown inside an effect is the answer, not a defect. */
const skipping = (run: Effect.Effect<Checks>): Effect.Effect<Checks, Skip> =>
  Effect.catchDefect(run, (defect) => defect instanceof Skip ? Effect.fail(defect) : Effect.die(defect))

// What a peer does differently shows as a difference; a vector without any has nothing to reject.
const rejecting = (vector: Vector, run: Effect.Effect<Checks, Skip>): Effect.Effect<Checks, Skip> =>
  vector.adopt !== "no" ?
    run :
    Effect.flatMap(run, (checks) =>
      checks.every(({ ok }) => ok)
        ? Effect.fail(peers)
        : Effect.succeed([{ ok: true, why: "differs from the peer" }]))

export const breaker = kind(
  Schema.Struct({ config: Config, source: Schema.optionalKey(Source), steps: Schema.Array(Step) }),
  ({ config, source, steps }, vector) =>
    rejecting(vector, skipping(Effect.suspend(() => circuit(optionsOf(config, source), steps))))
)

export const window = pureKind(
  Schema.Struct({
    config: Schema.Struct({ windowMs: Schema.Number, buckets: optionalNumber }),
    steps: Schema.Array(
      Schema.Struct({
        t: Schema.Number,
        op: Schema.Literals(["record", "read"]),
        successes: optionalNumber,
        failures: optionalNumber,
        expect: Schema.optionalKey(Schema.Struct({ total: optionalNumber, failures: optionalNumber }))
      })
    )
  }),
  ({ config, steps }) => {
    let held: Windows.Window = Windows.time(config.windowMs, config.buckets)
    return steps.flatMap(({ expect, failures = 0, successes = 0, t }) => {
      for (let i = 0; i < successes; i++) held = Windows.record(held, 0, Windows.none.hintUntil, t)
      for (let i = 0; i < failures; i++) held = Windows.record(held, 1, Windows.none.hintUntil, t)
      const { calls, sum } = Windows.read(held, t)
      return [
        ...same(`calls at ${t}`, calls, expect?.total),
        ...same(`failures at ${t}`, sum, expect?.failures)
      ]
    })
  }
)

export const tripPredicate = pureKind(
  Schema.Struct({
    input: Schema.Struct({
      total: Schema.Number,
      minimumCalls: Schema.Number,
      failureRate: Schema.Number,
      threshold: Schema.Number,
      cmp: optionalString
    }),
    expect: Schema.Struct({ trips: Schema.Boolean })
  }),
  ({ expect, input }) => {
    const { cmp, failureRate, minimumCalls, threshold, total } = input
    if (cmp === ">" && failureRate === threshold) {
      throw new Skip({ variant: "strict", reason: "by design: a share that reaches its threshold trips" })
    }
    const trips = Trip.trips({ calls: total, minimumCalls, value: failureRate, bound: threshold })
    return same("trips", trips, expect.trips)
  }
)

export const retryAfterHint = kind(
  Schema.Struct({
    input: Schema.Struct({
      trip: Trips,
      openMs: Schema.Number,
      maxOpenMs: optionalNumber,
      failures: Schema.Array(Schema.Struct({ t: Schema.Number, retryAfterMs: Schema.NullOr(Schema.Number) }))
    }),
    expect: Schema.Struct({ recommendedOpenUntil: Schema.Number })
  }),
  ({ expect, input }) =>
    skipping(Effect.suspend(() =>
      Effect.gen(function*() {
        const { failures, maxOpenMs, openMs, trip } = input
        const breaker = yield* CircuitBreaker.make({ trip: tripOf(trip), open: openMs, maxRetryAfter: maxOpenMs })
        for (const { retryAfterMs, t } of failures) {
          yield* TestClock.setTime(t)
          yield* Effect.scoped(
            Effect.flatMap(breaker.admit(key), (permit) => permit.failure("server_error", retryAfterMs ?? undefined))
          ).pipe(Effect.orDie)
        }
        const { remainingMs } = yield* breaker.state(key)
        const now = failures.reduce((latest, { t }) => Math.max(latest, t), 0)
        return same("open until", now + remainingMs, expect.recommendedOpenUntil)
      })
    ))
)

export const gradualRecovery = pureKind(
  Schema.Struct({
    input: Schema.Struct({
      windowMs: Schema.Number,
      minWeight: Schema.Number,
      aggression: Schema.Number,
      at: Schema.Array(Schema.Number)
    }),
    expect: Schema.Struct({ weights: Schema.Array(Schema.Number) })
  }),
  ({ expect, input: { aggression, at, minWeight, windowMs } }) => {
    const ramp = { windowMs, minimumShare: minWeight, aggression }
    return at.flatMap((elapsed, index) =>
      same(`weight after ${elapsed} ms`, Core.share(ramp, elapsed), expect.weights[index], 1e-4)
    )
  }
)

/** Options of circuits, for the vectors of wrong ones. */
export const fields = [
  "threshold",
  "size",
  "minimumCalls",
  "halfOpenCalls",
  "halfOpenThreshold",
  "failures",
  "outOf",
  "required",
  "failureRatio",
  "minimumThroughput",
  "samplingDurationMs",
  "breakDurationMs"
]

const day = 86_400_000

/**
 * Whether the options are among those that peers reject and we take: a circuit may look at a single call, at less than
 * half a second or more than a day, and open for a moment.
 */
export const allows = (
  { breakDurationMs = 0, minimumThroughput = 0, samplingDurationMs = 0 }: Readonly<Record<string, number>>
): boolean => breakDurationMs > 0 || minimumThroughput >= 1 || (samplingDurationMs > 0 && samplingDurationMs !== day)

export const construct = (options: Readonly<Record<string, number>>): unknown => {
  const { breakDurationMs: open, failureRatio, failures, halfOpenCalls = 1, halfOpenThreshold, outOf } = options
  const { minimumCalls, minimumThroughput = minimumCalls, required, samplingDurationMs: window, size } = options
  const threshold = options["threshold"] ?? failureRatio
  return Effect.runSync(CircuitBreaker.make({
    open,
    trip: failures !== undefined && outOf !== undefined
      ? CircuitBreaker.ratio({ failures, outOf })
      : failures !== undefined
      ? CircuitBreaker.consecutive(failures)
      : size === undefined
      ? CircuitBreaker.timeWindow({ window, minimumCalls: minimumThroughput, threshold })
      : CircuitBreaker.countWindow({ size, minimumCalls, threshold }),
    halfOpen: required === undefined
      ? CircuitBreaker.probeSample({ calls: halfOpenCalls, tolerated: halfOpenThreshold })
      : CircuitBreaker.successRatio({ required, outOf: outOf ?? required })
  }))
}
