/**
 * How long things take at the test provider, and when.
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import type * as Random from "effect/Random"
import { wrong } from "./quota.ts"

/**
 * A time; a range in which each one is drawn evenly; or the median and the 95th percentile of a log-normal
 * distribution, as latencies of services mostly are.
 *
 * @category models
 * @since 0.1.0
 */
export type Delay =
  | Duration.Input
  | { readonly min: Duration.Input; readonly max: Duration.Input }
  | { readonly median: Duration.Input; readonly p95: Duration.Input }

/**
 * How long a provider takes; whatever is left out takes no time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Latencies {
  /** To the first token, once the request is there. */
  readonly firstToken?: Delay | undefined
  /** Between two content chunks. */
  readonly perChunk?: Delay | undefined
  /** For each output token: drawn once for an answer, which is a quick or a slow one. */
  readonly perToken?: Delay | undefined
}

/**
 * A stretch of time since the provider began.
 *
 * @category models
 * @since 0.1.0
 */
export interface During {
  /** @default the beginning */
  readonly from?: Duration.Input | undefined
  /** @default for ever */
  readonly to?: Duration.Input | undefined
}

/** @internal */
export type Distribution =
  | { readonly _tag: "Even"; readonly min: number; readonly max: number }
  | { readonly _tag: "LogNormal"; readonly median: number; readonly sigma: number }

/** Distributions of milliseconds. @internal */
export interface Latency {
  readonly network: Distribution | undefined
  readonly firstToken: Distribution | undefined
  readonly perChunk: Distribution | undefined
  readonly perToken: Distribution | undefined
}

/** Milliseconds since the beginning. @internal */
export interface Period {
  readonly from: number
  readonly to: number
}

const millis = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

/** How many standard deviations of a normal distribution its 95th percentile lies above its median. */
const z95 = 1.6448536269514722

/**
 * Creates the log-normal distribution of a median and a 95th percentile.
 *
 * @internal
 */
export const logNormal = (median: number, p95: number): Distribution => ({
  _tag: "LogNormal",
  median,
  sigma: median === 0 ? 0 : Math.log(p95 / median) / z95
})

/** @internal */
export const distribution = (field: string, delay: Delay | undefined): Distribution | undefined => {
  if (delay === undefined) return undefined
  if (typeof delay === "object" && "median" in delay) {
    const [median, p95] = [millis(delay.median), millis(delay.p95)]
    if (!(median > 0 && p95 >= median && Number.isFinite(p95))) {
      wrong(field, "finite with 0 < median <= p95", `${median} .. ${p95}`)
    }
    return logNormal(median, p95)
  }
  const [least, most] = typeof delay === "object" && "min" in delay ? [delay.min, delay.max] : [delay, delay]
  const [min, max] = [millis(least), millis(most)]
  if (!(min >= 0 && max >= min && Number.isFinite(max))) wrong(field, "finite with 0 <= min <= max", `${min} .. ${max}`)
  return max === 0 ? undefined : { _tag: "Even", min, max }
}

/** @internal */
export const latency = (
  field: string,
  delays: Latencies & { readonly network?: Delay | undefined }
): Latency => ({
  network: distribution(`${field}.network`, delays.network),
  firstToken: distribution(`${field}.firstToken`, delays.firstToken),
  perChunk: distribution(`${field}.perChunk`, delays.perChunk),
  perToken: distribution(`${field}.perToken`, delays.perToken)
})

/** @internal */
export const period = (field: string, during: During): Period => {
  const from = millis(during.from ?? 0)
  const to = millis(during.to ?? Infinity)
  if (!(from >= 0 && to > from)) wrong(field, "a stretch of time with 0 <= from < to", `${from} .. ${to}`)
  return { from, to }
}

/** @internal */
export const within = (period: Period, time: number): boolean => time >= period.from && time < period.to

type Chance = Context.Service.Shape<typeof Random.Random>

/** Draws a normally distributed number, by the method of Box and Muller. */
const normal = (random: Chance): number => {
  const radius = Math.sqrt(-2 * Math.log(1 - random.nextDoubleUnsafe()))
  return radius * Math.cos(2 * Math.PI * random.nextDoubleUnsafe())
}

/** @internal */
export const draw = (distribution: Distribution | undefined, random: Chance): number => {
  if (distribution === undefined) return 0
  switch (distribution._tag) {
    case "Even": {
      const { max, min } = distribution
      return min === max ? min : min + random.nextDoubleUnsafe() * (max - min)
    }
    case "LogNormal":
      return distribution.median * Math.exp(distribution.sigma * normal(random))
  }
}
