/**
 * Delays between attempts: `Retry.delayMillis`, and `Retry.waitMillis` where a stated wait or a deadline is given.
 */
import * as Retry from "breakwater/Retry"
import { Schema } from "effect"
import { evaluate } from "../expression.ts"
import {
  type Check,
  type Checks,
  listOf,
  oneOrMore,
  optionalBoolean,
  optionalNumber,
  peers,
  pureKind,
  same,
  Skip,
  type Vector,
  within
} from "../kind.ts"

const Policy = Schema.Struct({
  type: Schema.optionalKey(oneOrMore(Schema.String)),
  delays: Schema.optionalKey(Schema.Array(Schema.Number)),
  baseMs: optionalNumber,
  factor: optionalNumber,
  maxMs: optionalNumber,
  jitter: Schema.optionalKey(oneOrMore(Schema.String)),
  ratio: optionalNumber,
  capBeforeJitter: optionalBoolean
})

type Policy = (typeof Policy)["Type"]

const bound = Schema.optionalKey(Schema.Union([Schema.Number, Schema.String]))

const Backoff = Schema.Struct({
  policy: oneOrMore(Policy),
  attempt: optionalNumber,
  attempts: Schema.optionalKey(Schema.Union([Schema.String, Schema.Array(Schema.Number)])),
  random: Schema.optionalKey(Schema.Union([Schema.Number, Schema.String, Schema.Array(Schema.Number)])),
  hintMs: optionalNumber,
  generatorReturns: optionalNumber,
  elapsedMs: optionalNumber,
  maxDurationMs: optionalNumber,
  remainingMs: optionalNumber,
  toleranceMs: optionalNumber,
  expect: Schema.Struct({
    delays: Schema.optionalKey(Schema.Array(Schema.Union([Schema.Number, Schema.Array(Schema.Number)]))),
    ranges: Schema.optionalKey(Schema.Array(Schema.Tuple([Schema.Number, Schema.Number]))),
    bounds: Schema.optionalKey(
      Schema.Struct({ gte: bound, gt: bound, lte: bound, lt: bound, neverNaN: optionalBoolean })
    ),
    at: Schema.optionalKey(Schema.Record(Schema.String, Schema.Number)),
    delay: Schema.optionalKey(Schema.NullOr(Schema.Number))
  })
})

type Backoff = (typeof Backoff)["Type"]

const jitters: Readonly<Record<string, Retry.Jitter>> = {
  none: "none",
  full: "full",
  equal: "equal",
  additive: "additive",
  decorrelated: "decorrelated",
  "decorrelated-v2": "decorrelated"
}

/** What our constructors do not offer, and what a user takes instead. */
const notOffered: Readonly<Record<string, string>> = {
  linear: "Schedule.fixed and Schedule.spaced cover what does not grow exponentially",
  symmetric: "jitter around the delay may come earlier than it; Schedule.jittered does so",
  negative: "equal jitter is the same with a wider spread",
  "constant decorrelated": "the decorrelated curve is made for a factor of 2",
  "decorrelated factor": "the decorrelated curve is made for a factor of 2"
}

type Rule = Retry.Backoff | Retry.Delays

/** The backoff of one type and one jitter, or the name of what is not offered. */
const variantOf = (policy: Policy, type: string, jitterName: string): Rule | string => {
  if (type === "list" && jitterName === "none") return Retry.makeDelays(policy.delays ?? [])
  if (type !== "constant" && type !== "exponential") return type
  const jitter = jitters[jitterName]
  if (jitter === undefined) return jitterName
  if (jitter === "decorrelated" && type === "constant") return "constant decorrelated"
  if (jitter === "decorrelated" && (policy.factor ?? 2) !== 2) return "decorrelated factor"
  return Retry.makeBackoff({
    base: policy.baseMs ?? 1000,
    // A constant delay is an exponential one of factor 1.
    factor: type === "constant" ? 1 : policy.factor ?? 2,
    max: policy.maxMs ?? "365 days",
    jitter,
    ...(jitter === "additive" && policy.ratio !== undefined ? { ratio: policy.ratio } : {})
  })
}

/** The variants of a policy that we offer; without any, the vector is left out by the names of what we do not. */
const variantsOf = (policy: Policy): ReadonlyArray<Rule> => {
  const variants = listOf(policy.type, ["exponential"]).flatMap((type) =>
    listOf(policy.jitter, ["none"]).map((jitter) => variantOf(policy, type, jitter))
  )
  const offered = variants.filter((variant) => typeof variant !== "string")
  if (offered.length > 0) return offered
  const variant = variants.find((variant) => typeof variant === "string") ?? "no type"
  throw new Skip({ variant, reason: `not offered: ${notOffered[variant] ?? "unknown to us"}` })
}

const grid = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]

/** The injected numbers: one for all attempts, one for each, or none given. */
const drawsOf = ({ random }: Backoff): ReadonlyArray<number> | undefined => {
  if (typeof random === "number") return [random]
  if (typeof random !== "string") return random
  const stated = /\d+(?:\.\d+)?/.exec(random)
  if (stated === null) throw new Skip({ variant: `random ${random}`, reason: "a source of chance that we do not know" })
  return [Number(stated[0])]
}

const attemptsOf = ({ attempt, attempts }: Backoff, otherwise: number): ReadonlyArray<number> => {
  if (attempt !== undefined) return [attempt]
  if (attempts === undefined) return Array.from({ length: otherwise }, (_, index) => index)
  if (typeof attempts !== "string") return attempts
  const range = /(\d+)\.\.(\d+)/.exec(attempts)
  if (range === null) throw new Skip({ variant: `attempts ${attempts}`, reason: "a range that we do not know" })
  const first = Number(range[1])
  return Array.from({ length: Number(range[2]) - first + 1 }, (_, index) => first + index)
}

/** The delays that an attempt can have: the one of the injected number, or those over a grid of numbers. */
const delaysAt = (backoff: Rule, attempt: number, draws: ReadonlyArray<number> | undefined) => {
  if ("millis" in backoff) return [Retry.delayMillis(backoff, attempt)]
  if (draws !== undefined) {
    const at = (index: number) => draws[Math.min(Math.max(index, 0), draws.length - 1)] ?? 0.5
    return [Retry.delayMillis(backoff, attempt, at(attempt), at(attempt - 1))]
  }
  return grid.flatMap((draw) =>
    backoff.jitter === "decorrelated"
      ? grid.map((previous) => Retry.delayMillis(backoff, attempt, draw, previous))
      : [Retry.delayMillis(backoff, attempt, draw)]
  )
}

const exactly = (fields: Backoff, backoff: Rule, expected: Backoff["expect"]): Checks => {
  const draws = drawsOf(fields) ?? [0.5]
  const check = (attempt: number, delay: number): Checks => {
    const [actual] = delaysAt(backoff, attempt, draws)
    // Our delays are whole milliseconds.
    const tolerance = fields.toleranceMs ?? (Number.isInteger(delay) ? 0 : 0.5)
    return same(`delay of attempt ${attempt}`, actual, delay, tolerance)
  }
  return [
    ...(expected.delays ?? []).flatMap((delay, index) => typeof delay === "number" ? check(index, delay) : []),
    ...Object.entries(expected.at ?? {}).flatMap(([attempt, delay]) => check(Number(attempt), delay)),
    ...(typeof expected.delay === "number" ? check(fields.attempt ?? 0, expected.delay) : [])
  ]
}

const inRanges = (fields: Backoff, backoff: Rule): Checks => {
  const ranges = fields.expect.ranges ?? []
  const attempts = attemptsOf(fields, ranges.length)
  return ranges.flatMap(([gte, lte], index) => {
    const attempt = attempts[index] ?? index
    return delaysAt(backoff, attempt, drawsOf(fields)).flatMap((delay) =>
      within(`delay of attempt ${attempt}`, delay, { gte, lte })
    )
  })
}

/** What a formula may name. */
const namesOf = (backoff: Rule): Readonly<Record<string, number>> =>
  "millis" in backoff
    ? { max: Math.max(...backoff.millis) }
    : { base: backoff.baseMillis, factor: backoff.factor, max: backoff.maxMillis, ratio: backoff.ratio }

const inBounds = (fields: Backoff, backoff: Rule): Checks => {
  const { bounds } = fields.expect
  if (bounds === undefined) return []
  // "k from 1" counts the first delay as 1.
  const first = Object.values(bounds).some((formula) => String(formula).includes("k from 1")) ? 1 : 0
  const attempts = attemptsOf(fields, 20)
  return attempts.flatMap((k) => {
    const attempt = k - first
    const names = { ...namesOf(backoff), attempt, k, n: k }
    const value = (formula: number | string | undefined) =>
      typeof formula === "string" ? evaluate(formula.replace(/,\s*k from 1/, ""), names) : formula
    const limits = {
      gte: value(bounds.gte),
      gt: value(bounds.gt),
      lte: value(bounds.lte),
      lt: value(bounds.lt)
    }
    // Thousands of attempts are checked with one number each.
    const draws = drawsOf(fields) ?? (attempts.length > 100 ? [(attempt * 0.618) % 1] : undefined)
    return delaysAt(backoff, attempt, draws).flatMap((delay) => within(`delay of attempt ${attempt}`, delay, limits))
  })
}

/** Our rule for a stated wait: never earlier than it or the backoff, and little later. */
const hinted = (fields: Backoff, backoff: Rule, hint: number, isPeers: boolean): Checks => {
  const [delay = 0] = delaysAt(backoff, fields.attempt ?? 0, drawsOf(fields) ?? [1])
  const rule = Retry.makeRetryAfter()
  const waits = [0, 1].map((random) => Retry.waitMillis(rule, { delay, hint, remaining: Infinity, random }))
  if (hint > rule.maxHintMillis) return same("wait", waits[0] ?? null, isPeers ? null : fields.expect.delay)
  const least = Math.max(hint, delay)
  const spread = hint > 0 ? Math.min(hint * rule.jitter, rule.maxJitterMillis) : 0
  const expected = isPeers ? least : fields.expect.delay
  if (typeof expected !== "number") return same("wait", waits[0] ?? null, expected)
  return waits.flatMap((wait) => within("wait", wait ?? Number.NaN, { gte: expected, lte: expected + spread }))
}

/** Our rule for a deadline: a wait that would take all that is left is not begun. */
const beforeDeadline = (fields: Backoff, backoff: Rule, remaining: number, isPeers: boolean): Checks => {
  const [delay = 0] = delaysAt(backoff, fields.attempt ?? 0, drawsOf(fields) ?? [1])
  const rule = Retry.makeRetryAfter()
  const wait = Retry.waitMillis(rule, { delay, hint: fields.hintMs, remaining, random: 1 }) ?? null
  return same("wait", wait, isPeers ? delay < remaining ? delay : null : fields.expect.delay)
}

const run = (fields: Backoff, { adopt }: Vector): Checks => {
  const isPeers = adopt === "no"
  const policies = Array.isArray(fields.policy) ? fields.policy : [fields.policy]
  const { elapsedMs = 0, expect, generatorReturns, hintMs, maxDurationMs, remainingMs } = fields
  const remaining = remainingMs ?? (maxDurationMs === undefined ? undefined : maxDurationMs - elapsedMs)
  if (isPeers && remaining === undefined && hintMs === undefined && policies[0]?.capBeforeJitter !== true) {
    throw peers
  }
  return policies.flatMap((policy: Policy, index): ReadonlyArray<Check> => {
    if (isPeers && policy.capBeforeJitter === true) {
      // The peer's jitter may exceed the longest delay; none of ours does.
      return variantsOf({ ...policy, jitter: ["none", "full", "equal", "additive"] }).flatMap((backoff) =>
        attemptsOf(fields, 10).flatMap((attempt) =>
          delaysAt(backoff, attempt, undefined).flatMap((delay) =>
            within(`delay of attempt ${attempt}`, delay, { lte: policy.maxMs })
          )
        )
      )
    }
    return variantsOf(policy).flatMap((backoff) => {
      if (remaining !== undefined) return beforeDeadline(fields, backoff, remaining, isPeers)
      const hint = hintMs ?? generatorReturns
      if (hint !== undefined) return hinted(fields, backoff, hint, isPeers)
      const delays = expect.delays?.[index]
      const expected = typeof delays === "object" ? { ...expect, delays } : expect
      return [...exactly(fields, backoff, expected), ...inRanges(fields, backoff), ...inBounds(fields, backoff)]
    })
  })
}

export const backoff = pureKind(Backoff, run)
