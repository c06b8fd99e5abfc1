/**
 * Who is healthy, who is left out and who is chosen: `Health`, `Cooldown` and the rules of ejection behind a router.
 */
import { Cooldown, LLMError, Selection, Target } from "breakwater"
import * as Health from "breakwater/Health"
import { Duration, Effect, Schema } from "effect"
import * as Average from "../../../src/internal/health/average.ts"
import * as Ejection from "../../../src/internal/health/ejection.ts"
import { type Check, type Checks, kind, optionalNumber, optionalString, pureKind, same, Skip, within } from "../kind.ts"

export const ejectionTime = pureKind(
  Schema.Struct({
    config: Schema.Struct({ baseMs: Schema.Number, maxMs: Schema.Number }),
    input: Schema.Struct({ multipliers: Schema.Array(Schema.Number) }),
    expect: Schema.Struct({ ejectionMs: Schema.Array(Schema.Number) })
  }),
  ({ config, expect, input }) =>
    same("ejection", input.multipliers.map((_) => Ejection.ejectionMillis(_, config)), expect.ejectionMs)
)

export const ejectionMultiplier = pureKind(
  Schema.Struct({
    input: Schema.Struct({
      start: Schema.Number,
      events: Schema.Array(Schema.Literals(["eject", "healthy-interval"]))
    }),
    expect: Schema.Struct({ multipliers: Schema.Array(Schema.Number) })
  }),
  ({ expect, input }) => {
    let multiplier = input.start
    const multipliers = input.events.map((event) => multiplier = Ejection.nextMultiplier(multiplier, event))
    return same("multipliers", multipliers, expect.multipliers)
  }
)

export const maxEjection = pureKind(
  Schema.Struct({
    input: Schema.Struct({ hosts: Schema.Number, ejected: Schema.Number, maxEjectionPercent: optionalNumber }),
    expect: Schema.Struct({ mayEject: Schema.Boolean })
  }),
  ({ expect, input }) => {
    const { maxEjectionPercent: maxPercent = Ejection.discipline.maxPercent } = input
    const mayEject = Ejection.mayEject(input.hosts, input.ejected, { ...Ejection.discipline, maxPercent })
    return same("may eject", mayEject, expect.mayEject)
  }
)

export const policyCombination = kind(
  Schema.Struct({
    input: Schema.Struct({ durationsMs: Schema.Array(Schema.Number) }),
    expect: Schema.Struct({ durationMs: Schema.Number })
  }),
  ({ expect, input }) =>
    Effect.gen(function*() {
      const cooldown = yield* Cooldown.Cooldown
      for (const duration of input.durationsMs) {
        yield* cooldown.start("as given", duration, "overloaded")
      }
      for (const duration of input.durationsMs.toReversed()) {
        yield* cooldown.start("reversed", duration, "overloaded")
      }
      return [
        ...same("as given", Duration.toMillis(yield* cooldown.remaining("as given")), expect.durationMs),
        ...same("reversed", Duration.toMillis(yield* cooldown.remaining("reversed")), expect.durationMs)
      ]
    }).pipe(Effect.provide(Cooldown.layerMemory))
)

const down = LLMError.make("server_error", { provider: "p", reason: "overloaded" })

export const failureAccrual = kind(
  Schema.Struct({
    policy: Schema.Struct({ consecutive: Schema.Number }),
    events: Schema.String.check(Schema.isPattern(/^[FS]*$/)),
    expect: Schema.Struct({ deadAt: Schema.Array(Schema.Number) })
  }),
  ({ events, expect, policy }) =>
    Effect.gen(function*() {
      const health = yield* Health.Health
      const deadAt: Array<number> = []
      for (const [index, event] of [...events].entries()) {
        const times = { durationMs: 1 }
        yield* health.record("host", event === "S" ? Health.success(times) : Health.failure(down, times))
        const failures = (yield* health.figures("host"))?.consecutiveFailures ?? 0
        if (failures >= policy.consecutive) deadAt.push(index)
      }
      return same("dead at", deadAt, expect.deadAt)
    }).pipe(Effect.provide(Health.layerMemory()))
)

export const timeEwma = pureKind(
  Schema.Struct({
    input: Schema.Struct({
      previous: Schema.Number,
      sample: Schema.Number,
      elapsedMs: Schema.Number,
      tauMs: Schema.Number
    }),
    expect: Schema.Struct({ value: Schema.Number })
  }),
  ({ expect, input }) =>
    same(
      "average",
      Average.timeWeighted(input.previous, input.sample, input.elapsedMs, input.tauMs),
      expect.value,
      1e-6 * Math.max(1, Math.abs(expect.value))
    )
)

export const p2c = pureKind(
  Schema.Struct({
    input: Schema.Struct({ costs: Schema.Array(Schema.Number) }),
    expect: Schema.Struct({
      neverChosen: Schema.optionalKey(Schema.Array(Schema.Number)),
      probabilities: Schema.optionalKey(Schema.Array(Schema.Number))
    })
  }),
  ({ expect, input: { costs } }) => {
    const count = costs.length
    const others = Math.max(1, count - 1)
    const chosen = costs.map(() => 0)
    const target = Target.make({ provider: "p", model: "m" })
    const snapshot = Selection.snapshot(costs.map((latencyMs) => ({ target, latencyMs })))
    // One draw from each of the equally likely pairs.
    for (let first = 0; first < count; first++) {
      for (let second = 0; second < others; second++) {
        const draws = [(first + 0.5) / count, (second + 0.5) / others]
        const index = Selection.powerOfTwo.pick(snapshot, 0, count, () => draws.shift() ?? Number.NaN)
        chosen[index] = (chosen[index] ?? 0) + 1
      }
    }
    const probabilities = chosen.map((times) => times / (count * others))
    return [
      ...(expect.neverChosen ?? []).flatMap((index) => same(`chosen ${index}`, probabilities[index], 0)),
      ...(expect.probabilities ?? []).flatMap((expected, index) =>
        same(`probability of ${index}`, probabilities[index], expected, 1e-9)
      )
    ]
  }
)

const Load = Schema.Struct({ eq: optionalNumber, gt: optionalNumber, lt: optionalNumber })

export const peakEwma = pureKind(
  Schema.Struct({
    config: Schema.Struct({
      decayMs: optionalNumber,
      tauMs: optionalNumber,
      defaultRttMs: optionalNumber,
      penaltyMs: optionalNumber
    }),
    steps: Schema.Array(Schema.Struct({
      t: Schema.Number,
      op: Schema.Literals(["load", "start", "end"]),
      id: optionalString,
      rttMs: optionalNumber,
      expect: Schema.optionalKey(Schema.Union([Schema.Number, Load]))
    }))
  }),
  ({ config, steps }) => {
    const tauMs = config.decayMs ?? config.tauMs
    if (tauMs === undefined) throw new Skip({ variant: "no decay", reason: "a configuration that we do not know" })
    let peak: Average.Peak = config.defaultRttMs === undefined
      ? Average.noPeak
      : { millis: config.defaultRttMs, at: steps[0]?.t ?? 0 }
    const started: Array<{ readonly id: string | undefined; readonly at: number }> = []
    const checks: Array<Check> = []
    for (const [index, { expect, id, op, rttMs, t }] of steps.entries()) {
      if (op === "start") started.push({ id, at: t })
      if (op === "end") {
        const place = Math.max(0, started.findIndex((_) => _.id === id))
        const [ended] = started.splice(place, 1)
        peak = Average.observePeak(peak, rttMs ?? t - (ended?.at ?? t), tauMs, t)
      }
      if (op === "load" && expect !== undefined) {
        const load = Average.cost(Average.readPeak(peak, tauMs, t), started.length, config.penaltyMs ?? 0)
        const { eq, ...bounds } = typeof expect === "number" ? { eq: expect } : expect
        const comparisons: ReadonlyArray<Checks> = [
          same(`load at step ${index}`, load, eq, 1e-3 * Math.max(1, eq ?? 0)),
          within(`load at step ${index}`, load, bounds)
        ]
        checks.push(...comparisons.flat())
      }
    }
    return checks
  }
)
