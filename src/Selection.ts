/**
 * Strategies by which a router chooses among its targets.
 *
 * A strategy is a pure function of what is known about the targets now (`Snapshot`), a range of them and a source of
 * random numbers; it returns the index of one that is free. It has no state: what it reads is kept by the router.
 *
 * **Details**
 *
 * - `ordered`: one after the other, in the given order
 * - `healthiest`, `mostHeadroom`, `cheapest`, `lowestLatency`, `lowestLatencyPerToken`: the best one by a single figure
 * - `leastBusy`, `weighted`: by attempts in flight, or by chance, in proportion to the weights
 * - `powerOfTwo`: the better of two drawn by chance; what to take when many processes share the targets
 * - `score`: health, headroom, latency, cost and affinity in one figure
 * - `tiers`: a strategy for each `order`, the next one only when nothing of the one before is free
 * - `sticky`: the same target for the same affinity, such as a session whose prompts a provider has cached
 * - `byScore` and `make`: your own
 *
 * Strategies that know weights (`leastBusy`, `powerOfTwo`, `sticky`, `weighted`) take a target of weight 0 only when no
 * other is free. Strategies that take the best one decide between equal ones by the attempts in flight, then by order.
 *
 * **Gotchas**
 *
 * Whoever takes the best one by a figure that moves slowly sends everything there until the figure moves. Under load,
 * prefer `powerOfTwo`, `leastBusy` or `score`, which see the attempts in flight at once.
 *
 * **Example** (Balancing the first tier, keeping the second one in reserve)
 *
 * ```ts import.meta.vitest
 * import { Selection, Target } from "breakwater"
 *
 * const main = Target.make({ provider: "openai", model: "gpt-4o" })
 * const other = Target.make({ provider: "azure", model: "gpt-4o" })
 * const reserve = Target.make({ provider: "groq", model: "llama-3.3-70b-versatile", order: 1 })
 *
 * const strategy = Selection.tiers(Selection.powerOfTwo)
 * const choose = (snapshot: Selection.Snapshot) => {
 *   const index = strategy.pick(snapshot, 0, snapshot.count, () => 0.5)
 *   return snapshot.targets[index]?.provider
 * }
 *
 * choose(Selection.snapshot([
 *   { target: main, latencyMs: 900, pending: 3 },
 *   { target: other, latencyMs: 900, pending: 1 },
 *   { target: reserve, latencyMs: 100 }
 * ])) // => "azure"
 * choose(Selection.snapshot([
 *   { target: main, free: false },
 *   { target: other, free: false },
 *   { target: reserve }
 * ])) // => "groq"
 * ```
 *
 * @since 0.1.0
 */
import * as Average from "./internal/health/average.ts"
import * as Product from "./internal/selection/product.ts"
import * as Rendezvous from "./internal/selection/rendezvous.ts"
import type { Target } from "./Target.ts"

/**
 * What a strategy reads about the candidates: one column for each figure, in which an index is a candidate.
 *
 * **Details**
 *
 * Candidates are sorted by the `order` of their targets. `targets`, `weight`, `hash` and the prices never change: a
 * router whose targets change makes new ones, because strategies remember what they derive from them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot {
  readonly count: number
  readonly targets: ReadonlyArray<Target>
  /** 1 where a candidate may be tried now, 0 where not. */
  readonly free: Uint8Array
  /** From 0 to 100. */
  readonly health: Float64Array
  /** Milliseconds to the first content (or to a whole answer), as a peak that fades; 0 when unknown. */
  readonly latency: Float64Array
  /** Milliseconds per generated token; 0 when unknown. */
  readonly perToken: Float64Array
  /** Attempts in flight. */
  readonly pending: Int32Array
  /** Share of the tightest limit that is left, from 0 to 1; 1 where nothing is limited. */
  readonly headroom: Float64Array
  readonly weight: Float64Array
  /** Dollars per token, not per million; `NaN` when unknown. */
  readonly priceInput: Float64Array
  /** Dollars per token, not per million; `NaN` when unknown. */
  readonly priceOutput: Float64Array
  /** `hash` of each target's id. */
  readonly hash: Uint32Array
  /** What the call is expected to use. */
  readonly tokens: { readonly input: number; readonly output: number }
  /** What ties the call to a target, such as a session or the beginning of the prompt. */
  readonly affinity: string | undefined
  /** Where an ordered walk stands: the candidate to look at first, one past the one that has failed last. */
  readonly start: number
}

/**
 * Columns of a snapshot that cost something to keep up to date; `latency` stands for `perToken`, too.
 *
 * @category models
 * @since 0.1.0
 */
export type Column = "health" | "latency" | "headroom"

/**
 * How to choose among targets.
 *
 * @category models
 * @since 0.1.0
 */
export interface Strategy {
  readonly name: string
  /** Columns it reads, besides those that are always up to date. */
  readonly reads: ReadonlyArray<Column>
  /** Whether the affinity of a call may decide instead of it. */
  readonly sticky: boolean
  /** Returns the index of a free candidate from `from` up to and without `to`, -1 when none is free. */
  readonly pick: (snapshot: Snapshot, from: number, to: number, random: () => number) => number
}

/**
 * What is known about a target at the moment of choosing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Candidate {
  readonly target: Target
  /** From 0 to 100. */
  readonly health: number
  /** Milliseconds to the first content, `undefined` when unknown. */
  readonly latencyMs: number | undefined
  /** Milliseconds per generated token, `undefined` when unknown. */
  readonly perTokenMs: number | undefined
  /** Attempts in flight. */
  readonly pending: number
  /** Share of the tightest limit that is left, from 0 to 1. */
  readonly headroom: number
  /** Dollars the call is expected to cost, `undefined` when the target has no price. */
  readonly expectedCost: number | undefined
}

/**
 * A candidate of `snapshot`.
 *
 * @category options
 * @since 0.1.0
 */
export interface CandidateOptions {
  readonly target: Target
  /**
   * Whether it may be tried.
   *
   * @default true
   */
  readonly free?: boolean | undefined
  /**
   * From 0 to 100.
   *
   * @default 100
   */
  readonly health?: number | undefined
  /**
   * Milliseconds to the first content.
   *
   * @default unknown
   */
  readonly latencyMs?: number | undefined
  /**
   * Milliseconds per generated token.
   *
   * @default unknown
   */
  readonly perTokenMs?: number | undefined
  /**
   * Attempts in flight.
   *
   * @default 0
   */
  readonly pending?: number | undefined
  /**
   * Share of the tightest limit that is left, from 0 to 1.
   *
   * @default 1
   */
  readonly headroom?: number | undefined
}

/**
 * What `snapshot` is told about the call.
 *
 * @category options
 * @since 0.1.0
 */
export interface SnapshotOptions {
  /**
   * What the call is expected to use.
   *
   * @default { input: 1000, output: 500 }
   */
  readonly tokens?: { readonly input: number; readonly output: number } | undefined
  /**
   * What ties the call to a target.
   *
   * @default nothing
   */
  readonly affinity?: string | undefined
  /**
   * The candidate an ordered walk looks at first.
   *
   * @default 0
   */
  readonly start?: number | undefined
}

/**
 * Creates a snapshot from plain data, to try out a strategy; candidates are sorted by the `order` of their targets.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field when a figure is out of its range.
 *
 * @category constructors
 * @since 0.1.0
 */
export const snapshot = (
  candidates: ReadonlyArray<CandidateOptions>,
  options: SnapshotOptions = {}
): Snapshot => {
  const { affinity, start = 0, tokens = { input: 1000, output: 500 } } = options
  const sorted = candidates.toSorted((a, b) => a.target.order - b.target.order)
  const targets = sorted.map(({ target }) => target)
  const field = (
    name: Exclude<keyof CandidateOptions, "target" | "free">,
    fallback: number,
    highest: number
  ): Array<number> => sorted.map((candidate) => inRange("snapshot", name, candidate[name] ?? fallback, highest))
  return {
    count: targets.length,
    targets,
    free: Uint8Array.from(sorted, ({ free = true }) => free ? 1 : 0),
    health: Float64Array.from(field("health", 100, 100)),
    latency: Float64Array.from(field("latencyMs", 0, Number.MAX_VALUE)),
    perToken: Float64Array.from(field("perTokenMs", 0, Number.MAX_VALUE)),
    pending: Int32Array.from(field("pending", 0, 2 ** 31 - 1)),
    headroom: Float64Array.from(field("headroom", 1, 1)),
    weight: Float64Array.from(targets, ({ weight }) => weight),
    priceInput: Float64Array.from(targets, ({ price }) => price === undefined ? Number.NaN : price.input / 1e6),
    priceOutput: Float64Array.from(targets, ({ price }) => price === undefined ? Number.NaN : price.output / 1e6),
    hash: Uint32Array.from(targets, ({ id }) => hash(id)),
    tokens: {
      input: inRange("snapshot", "tokens.input", tokens.input, Number.MAX_VALUE),
      output: inRange("snapshot", "tokens.output", tokens.output, Number.MAX_VALUE)
    },
    affinity,
    start: inRange("snapshot", "start", start, Number.MAX_SAFE_INTEGER)
  }
}

const inRange = (name: string, field: string, value: number, highest: number): number => {
  if (value >= 0 && value <= highest) return value
  const range = highest >= Number.MAX_SAFE_INTEGER ? "a number >= 0" : `between 0 and ${highest}`
  throw new RangeError(`Selection.${name}: ${field} must be ${range}, got ${value}`)
}

/**
 * Returns the hash of a target's id that `sticky` and `score` read: 32 bits, the same in every process.
 *
 * @category accessors
 * @since 0.1.0
 */
export const hash: (id: string) => number = Rendezvous.hash

/**
 * Options of `make`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Name, for reports. */
  readonly name: string
  /**
   * Columns it reads, besides those that are always up to date.
   *
   * @default all of them
   */
  readonly reads?: ReadonlyArray<Column> | undefined
  /**
   * Whether the affinity of a call may decide instead of it.
   *
   * @default false
   */
  readonly sticky?: boolean | undefined
  /** Returns the index of a free candidate from `from` up to and without `to`. */
  readonly pick: Strategy["pick"]
}

const allColumns: ReadonlyArray<Column> = ["health", "latency", "headroom"]

/**
 * Creates a strategy from a function of a snapshot.
 *
 * **Details**
 *
 * Where the function returns anything but the index of a free candidate, the first free one is taken.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when the name is empty. See `byScore` for a simpler form.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Strategy => {
  const { name, pick, reads = allColumns, sticky = false } = options
  if (name.trim() === "") throw new RangeError("Selection.make: name must not be empty")
  return {
    name,
    reads,
    sticky,
    pick: (snapshot, from, to, random) => {
      const index = pick(snapshot, from, to, random)
      return index >= from && index < to && snapshot.free[index] === 1 ? index : firstFree(snapshot, from, to)
    }
  }
}

/**
 * Creates a strategy that takes the candidate with the highest score.
 *
 * **Details**
 *
 * A score that is no number is lower than any other.
 *
 * **Gotchas**
 *
 * The candidate is one object for all of a choice: read it, and do not keep it (`{ ...candidate }` is a copy). The
 * affinity of a call does not decide instead of the score unless the strategy is wrapped in `sticky`.
 *
 * **Example** (Preferring a region, then the faster target)
 *
 * ```ts import.meta.vitest
 * import { Selection, Target } from "breakwater"
 *
 * const local = Selection.byScore(
 *   "local",
 *   ({ latencyMs = 1000, target }) => (target.tags.has("region:eu") ? 1 : 0.2) / latencyMs
 * )
 * const us = Target.make({ provider: "openai", model: "gpt-4o", tags: { region: "us" } })
 * const eu = Target.make({ provider: "azure", model: "gpt-4o", tags: { region: "eu" } })
 *
 * const snapshot = Selection.snapshot([{ target: us, latencyMs: 400 }, { target: eu, latencyMs: 900 }])
 * local.pick(snapshot, 0, snapshot.count, () => 0.5) // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const byScore = (name: string, score: (candidate: Candidate) => number): Strategy =>
  make({
    name,
    pick: (snapshot, from, to) => {
      let view: Mutable<Candidate> | undefined
      let chosen = -1
      let highest = Number.NEGATIVE_INFINITY
      let fewest = Number.POSITIVE_INFINITY
      for (let index = from; index < to; index++) {
        const target = snapshot.targets[index]
        if (snapshot.free[index] !== 1 || target === undefined) continue
        view ??= blank(target)
        view.target = target
        read(view, snapshot, index)
        const value = score(view)
        if (value > highest || (value === highest && view.pending < fewest)) {
          highest = value
          fewest = view.pending
          chosen = index
        }
      }
      return chosen
    }
  })

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

const blank = (target: Target): Mutable<Candidate> => ({
  target,
  health: 0,
  latencyMs: undefined,
  perTokenMs: undefined,
  pending: 0,
  headroom: 0,
  expectedCost: undefined
})

const read = (view: Mutable<Candidate>, snapshot: Snapshot, index: number): void => {
  const { priceInput, priceOutput, tokens } = snapshot
  view.health = snapshot.health[index] ?? 0
  view.latencyMs = snapshot.latency[index] || undefined
  view.perTokenMs = snapshot.perToken[index] || undefined
  view.pending = snapshot.pending[index] ?? 0
  view.headroom = snapshot.headroom[index] ?? 0
  view.expectedCost = orUnknown(
    (priceInput[index] ?? 0) * tokens.input + (priceOutput[index] ?? 0) * tokens.output
  )
}

const orUnknown = (cost: number): number | undefined => Number.isNaN(cost) ? undefined : cost

const firstFree = ({ free }: Snapshot, from: number, to: number): number => {
  if (from < to && free[from] === 1) return from
  const index = free.indexOf(1, from)
  return index < to ? index : -1
}

/**
 * Takes the targets one after the other: the first free one from where the call stands, then from the beginning.
 *
 * @category strategies
 * @since 0.1.0
 */
export const ordered: Strategy = {
  name: "ordered",
  reads: [],
  sticky: false,
  pick: (snapshot, from, to) => {
    const { start } = snapshot
    const index = start > from && start < to ? firstFree(snapshot, start, to) : -1
    return index >= 0 ? index : firstFree(snapshot, from, to)
  }
}

const highest = (column: Float64Array, { free, pending }: Snapshot, from: number, to: number): number => {
  let chosen = -1
  let best = Number.NEGATIVE_INFINITY
  let fewest = Number.POSITIVE_INFINITY
  for (let index = from; index < to; index++) {
    const value = column[index] ?? 0
    if (value < best || free[index] !== 1) continue
    const waiting = pending[index] ?? 0
    if (value > best || waiting < fewest) {
      best = value
      fewest = waiting
      chosen = index
    }
  }
  return chosen
}

/**
 * Takes the target with the highest health.
 *
 * @category strategies
 * @since 0.1.0
 */
export const healthiest: Strategy = {
  name: "healthiest",
  reads: ["health"],
  sticky: true,
  pick: (snapshot, from, to) => highest(snapshot.health, snapshot, from, to)
}

/**
 * Takes the target with the largest share of its tightest limit left.
 *
 * @category strategies
 * @since 0.1.0
 */
export const mostHeadroom: Strategy = {
  name: "mostHeadroom",
  reads: ["headroom"],
  sticky: true,
  pick: (snapshot, from, to) => highest(snapshot.headroom, snapshot, from, to)
}

/** Milliseconds that a target is taken to need while it has been asked and has not answered yet. */
const unknownMs = 30_000

const quickest = (column: Float64Array, { free, pending }: Snapshot, from: number, to: number): number => {
  let chosen = -1
  let best = Number.POSITIVE_INFINITY
  let fewest = Number.POSITIVE_INFINITY
  for (let index = from; index < to; index++) {
    const known = column[index] ?? 0
    if (known > best || free[index] !== 1) continue
    const waiting = pending[index] ?? 0
    const millis = known === 0 && waiting > 0 ? unknownMs : known
    if (millis < best || (millis === best && waiting < fewest)) {
      best = millis
      fewest = waiting
      chosen = index
    }
  }
  return chosen
}

/**
 * Takes the target with the lowest latency to the first content.
 *
 * **Details**
 *
 * A target that has never answered is tried first, once: while that attempt is in flight, its latency is taken to be 30
 * seconds.
 *
 * @category strategies
 * @since 0.1.0
 */
export const lowestLatency: Strategy = {
  name: "lowestLatency",
  reads: ["latency"],
  sticky: true,
  pick: (snapshot, from, to) => quickest(snapshot.latency, snapshot, from, to)
}

/**
 * Takes the target that generates tokens fastest, for calls whose answers are long.
 *
 * **Details**
 *
 * A target that has never answered is tried first, once, as with `lowestLatency`.
 *
 * @category strategies
 * @since 0.1.0
 */
export const lowestLatencyPerToken: Strategy = {
  name: "lowestLatencyPerToken",
  reads: ["latency"],
  sticky: true,
  pick: (snapshot, from, to) => quickest(snapshot.perToken, snapshot, from, to)
}

/**
 * Takes the target at which the call is expected to cost least; targets without prices come last.
 *
 * @category strategies
 * @since 0.1.0
 */
export const cheapest: Strategy = {
  name: "cheapest",
  reads: [],
  sticky: false,
  pick: ({ free, pending, priceInput, priceOutput, tokens }, from, to) => {
    let chosen = -1
    let best = Number.POSITIVE_INFINITY
    let fewest = Number.POSITIVE_INFINITY
    for (let index = from; index < to; index++) {
      let cost = (priceInput[index] ?? 0) * tokens.input + (priceOutput[index] ?? 0) * tokens.output
      if (cost > best || free[index] !== 1) continue
      if (Number.isNaN(cost)) cost = Number.POSITIVE_INFINITY
      const waiting = pending[index] ?? 0
      if (cost < best || (cost === best && waiting < fewest)) {
        best = cost
        fewest = waiting
        chosen = index
      }
    }
    return chosen
  }
}

/**
 * Takes a target by chance, in proportion to the weights.
 *
 * @category strategies
 * @since 0.1.0
 */
export const weighted: Strategy = {
  name: "weighted",
  reads: [],
  sticky: true,
  pick: (snapshot, from, to, random) => {
    const { free, weight } = snapshot
    let total = 0
    for (let index = from; index < to; index++) total += free[index] === 1 ? weight[index] ?? 0 : 0
    if (total === 0) return firstFree(snapshot, from, to)
    let rest = random() * total
    let chosen = -1
    for (let index = from; index < to && rest >= 0; index++) {
      const share = weight[index] ?? 0
      if (free[index] !== 1 || share === 0) continue
      rest -= share
      chosen = index
    }
    return chosen
  }
}

/**
 * Takes the target with the fewest attempts in flight in proportion to its weight, between equal ones by chance and in
 * proportion to their weights.
 *
 * @category strategies
 * @since 0.1.0
 */
export const leastBusy: Strategy = {
  name: "leastBusy",
  reads: [],
  sticky: true,
  pick: (snapshot, from, to, random) => {
    const index = leastOf(snapshot, from, to, random, false)
    return index >= 0 ? index : leastOf(snapshot, from, to, random, true)
  }
}

// One draw decides between all that are equal: a draw for each of them would cost more than all the rest.
const leastOf = (
  { free, pending, weight }: Snapshot,
  from: number,
  to: number,
  random: () => number,
  reserves: boolean
): number => {
  let chosen = -1
  let best = Number.POSITIVE_INFINITY
  let total = 0
  for (let index = from; index < to; index++) {
    const share = reserves ? 1 : weight[index] ?? 0
    const busy = (pending[index] ?? 0) / share
    if (!(busy <= best) || share === 0 || free[index] !== 1) continue
    total = busy === best ? total + share : share
    best = busy
    chosen = index
  }
  let rest = random() * total
  for (let index = from; index < chosen; index++) {
    const share = reserves ? 1 : weight[index] ?? 0
    if (free[index] !== 1 || (pending[index] ?? 0) / share !== best) continue
    rest -= share
    if (rest < 0) return index
  }
  return chosen
}

/**
 * Draws two targets by chance and takes the one at which a request costs less: its peak latency for each attempt in
 * flight and for the new one, in proportion to its weight.
 *
 * **When to use**
 *
 * Use when several processes share the targets, or when there are many: it does not send everything to one target, and
 * costs the same whatever their number.
 *
 * **Details**
 *
 * An attempt in flight costs 30 seconds where nothing is known, see `Health.cost`.
 *
 * @category strategies
 * @since 0.1.0
 */
export const powerOfTwo: Strategy = {
  name: "powerOfTwo",
  reads: ["latency"],
  sticky: true,
  pick: (snapshot, from, to, random) => {
    const first = draw(snapshot, from, to, -1, random)
    if (first < 0) return drawAmong(snapshot, from, to, -1, random, true)
    const second = draw(snapshot, from, to, first, random)
    return second >= 0 && costs(snapshot, second, first) ? second : first
  }
}

/** Returns whether a request to the first candidate costs less than one to the second. */
const costs = ({ latency, pending, weight }: Snapshot, first: number, second: number): boolean =>
  Average.cost(latency[first] ?? 0, pending[first] ?? 0, unknownMs) * (weight[second] ?? 0) <
    Average.cost(latency[second] ?? 0, pending[second] ?? 0, unknownMs) * (weight[first] ?? 0)

/** Draws a free candidate other than `except`, -1 when there is none: by trial while that may succeed, then by count. */
const draw = (snapshot: Snapshot, from: number, to: number, except: number, random: () => number): number => {
  const { free, weight } = snapshot
  const last = to - from - (except < 0 ? 1 : 2)
  const trials = last < 0 ? 0 : 16
  for (let trial = 0; trial < trials; trial++) {
    const drawn = from + Math.min(last, Math.floor(random() * (last + 1)))
    const index = except >= 0 && drawn >= except ? drawn + 1 : drawn
    if (free[index] === 1 && (weight[index] ?? 0) > 0) return index
  }
  return drawAmong(snapshot, from, to, except, random, false)
}

const drawAmong = (
  { free, weight }: Snapshot,
  from: number,
  to: number,
  except: number,
  random: () => number,
  reserves: boolean
): number => {
  let count = 0
  for (let index = from; index < to; index++) {
    if (free[index] === 1 && (reserves || (weight[index] ?? 0) > 0) && index !== except) count++
  }
  let rest = Math.floor(random() * count)
  let chosen = -1
  for (let index = from; index < to && rest >= 0; index++) {
    if (free[index] !== 1 || !(reserves || (weight[index] ?? 0) > 0) || index === except) continue
    rest--
    chosen = index
  }
  return chosen
}

/**
 * Weights of `score`: a factor is raised to its weight, and a weight of 0 leaves it out.
 *
 * @category options
 * @since 0.1.0
 */
export interface ScoreWeights {
  /**
   * Health, divided by 100.
   *
   * @default 1
   */
  readonly health?: number | undefined
  /**
   * Share of the tightest limit that is left.
   *
   * @default 0.5
   */
  readonly headroom?: number | undefined
  /**
   * Latency for each attempt in flight and for the new one: that of the fastest free target, divided by the own.
   *
   * @default 0.5
   */
  readonly latency?: number | undefined
  /**
   * Cost of the call: that at the cheapest free target, divided by the own.
   *
   * @default 0.25
   */
  readonly cost?: number | undefined
  /**
   * 1 for the target that the affinity of the call belongs to, 0.5 for all others.
   *
   * @default 1
   */
  readonly affinity?: number | undefined
}

/**
 * Creates a strategy that takes the target with the highest product of health, headroom, latency, cost and affinity.
 *
 * **Details**
 *
 * Every factor is between 0 and 1. With the default weights, half of the score is lost by a health of 50, a quarter of
 * the headroom, four times the latency, sixteen times the cost, or not being where the affinity belongs. A target that
 * has never answered counts as the fastest one, and with 30 seconds while it is asked; one without prices counts as the
 * dearest of all. A thousandth is added to health and headroom, and is the least factor of cost, so that the others still
 * decide where one is 0. Where latency has no weight, attempts in flight decide between targets that are equal.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field when a weight is negative or not finite, or when all of them are 0.
 *
 * **Example** (Weighing what matters)
 *
 * ```ts import.meta.vitest
 * import { Selection, Target } from "breakwater"
 *
 * const good = Target.make({ provider: "openai", model: "gpt-4o", price: { input: 2.5, output: 10 } })
 * const cheap = Target.make({ provider: "groq", model: "llama-3.1-8b-instant", price: { input: 0.05, output: 0.08 } })
 * const snapshot = Selection.snapshot([{ target: good, health: 95 }, { target: cheap, health: 70 }])
 * const choose = (strategy: Selection.Strategy) => strategy.pick(snapshot, 0, snapshot.count, () => 0.5)
 *
 * choose(Selection.score()) // => 1
 * choose(Selection.score({ cost: 0 })) // => 0
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const score = (weights: ScoreWeights = {}): Strategy => {
  const weight = (field: keyof ScoreWeights, fallback: number): number =>
    inRange("score", `weights.${field}`, weights[field] ?? fallback, Number.MAX_VALUE)
  const health = weight("health", 1)
  const headroom = weight("headroom", 0.5)
  const latency = weight("latency", 0.5)
  const cost = weight("cost", 0.25)
  const affinity = weight("affinity", 1)
  const largest = Math.max(health, headroom, latency, cost, affinity)
  if (largest === 0) throw new RangeError("Selection.score: weights must not all be 0")
  const scaled: Product.Weights = {
    health: health / largest,
    headroom: headroom / largest,
    latency: latency / largest,
    cost: cost / largest
  }
  const favour = 2 ** (affinity / largest)
  const reads: Array<Column> = []
  if (health > 0) reads.push("health")
  if (latency > 0) reads.push("latency")
  if (headroom > 0) reads.push("headroom")
  return {
    name: "score",
    reads,
    sticky: false,
    pick: (snapshot, from, to) => {
      const favourite = affinity > 0 && snapshot.affinity !== undefined
        ? Rendezvous.winner(snapshot, from, to, snapshot.affinity, 0)
        : -1
      return Product.highest(snapshot, from, to, scaled, favourite, favour)
    }
  }
}

/**
 * Options of `sticky`.
 *
 * @category options
 * @since 0.1.0
 */
export interface StickyOptions {
  /**
   * A target of lower health gives its affinities to others.
   *
   * @default 0
   */
  readonly minHealth?: number | undefined
}

/**
 * Creates a strategy that takes the same target for the same affinity, and another strategy's choice for a call that
 * has none.
 *
 * **When to use**
 *
 * Use where a provider answers faster or cheaper what it has cached, such as the beginning of a prompt.
 *
 * **Details**
 *
 * Affinities are spread over the free targets in proportion to their weights. They belong to a target by a hash, so all
 * processes agree without a store. When a target is not free, its affinities go to the others, each always to the same
 * one; a target that comes or goes moves no affinity but its own.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` when `minHealth` is not between 0 and 100.
 *
 * **Example** (Keeping a session where it is)
 *
 * ```ts import.meta.vitest
 * import { Selection, Target } from "breakwater"
 *
 * const [a, b, c] = ["a", "b", "c"].map((provider) => ({ target: Target.make({ provider, model: "m" }) }))
 * const strategy = Selection.sticky(Selection.leastBusy)
 * const choose = (candidates: ReadonlyArray<Selection.CandidateOptions>, affinity: string) => {
 *   const snapshot = Selection.snapshot(candidates, { affinity })
 *   return snapshot.targets[strategy.pick(snapshot, 0, snapshot.count, () => 0.5)]?.provider
 * }
 *
 * choose([a!, b!, c!], "session-1") === choose([{ ...a!, pending: 9 }, { ...b!, pending: 9 }, c!], "session-1") // => true
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const sticky = (inner: Strategy, options: StickyOptions = {}): Strategy => {
  const minHealth = inRange("sticky", "minHealth", options.minHealth ?? 0, 100)
  const reads = minHealth === 0 || inner.reads.includes("health") ? inner.reads : [...inner.reads, "health" as const]
  return {
    name: `sticky(${inner.name})`,
    reads,
    sticky: false,
    pick: (snapshot, from, to, random) => {
      const { affinity } = snapshot
      const index = affinity === undefined ? -1 : Rendezvous.winner(snapshot, from, to, affinity, minHealth)
      return index >= 0 ? index : inner.pick(snapshot, from, to, random)
    }
  }
}

/**
 * Creates a strategy that takes targets of a lower `order` first, and chooses among those of one order by another
 * strategy.
 *
 * **Details**
 *
 * A function gives each order a strategy of its own. Where the inner strategy lets an affinity decide, it decides
 * within an order.
 *
 * **Example** (Spreading the load over the own machines, paying as little as possible beyond them)
 *
 * ```ts import.meta.vitest
 * import { Selection, Target } from "breakwater"
 *
 * const strategy = Selection.tiers((order) => order === 0 ? Selection.leastBusy : Selection.cheapest)
 * const snapshot = Selection.snapshot([
 *   { target: Target.make({ provider: "ollama", model: "m" }), free: false },
 *   { target: Target.make({ provider: "openai", model: "m", order: 1, price: { input: 2, output: 8 } }) },
 *   { target: Target.make({ provider: "groq", model: "m", order: 1, price: { input: 1, output: 1 } }) }
 * ])
 * strategy.pick(snapshot, 0, snapshot.count, () => 0.5) // => 2
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const tiers = (inner: Strategy | ((order: number) => Strategy)): Strategy => {
  if (typeof inner !== "function") {
    const strategy = within(inner)
    return tiered(`tiers(${inner.name})`, strategy.reads, () => strategy)
  }
  const known = new Map<number, Strategy>()
  return tiered("tiers", allColumns, (order) => {
    const found = known.get(order)
    if (found !== undefined) return found
    const strategy = within(inner(order))
    known.set(order, strategy)
    return strategy
  })
}

const within = (strategy: Strategy): Strategy => strategy.sticky ? sticky(strategy) : strategy

const tiered = (name: string, reads: ReadonlyArray<Column>, strategyOf: (order: number) => Strategy): Strategy => ({
  name,
  reads,
  sticky: false,
  pick: (snapshot, from, to, random) => {
    for (const { end, order, start } of tiersOf(snapshot.targets)) {
      if (end <= from) continue
      if (start >= to) break
      const index = strategyOf(order).pick(snapshot, Math.max(start, from), Math.min(end, to), random)
      if (index >= 0) return index
    }
    return -1
  }
})

interface Tier {
  readonly order: number
  readonly start: number
  end: number
}

const knownTiers = new WeakMap<ReadonlyArray<Target>, ReadonlyArray<Readonly<Tier>>>()

const tiersOf = (targets: ReadonlyArray<Target>): ReadonlyArray<Readonly<Tier>> => {
  const found = knownTiers.get(targets)
  if (found !== undefined) return found
  const tiers: Array<Tier> = []
  for (const [index, { order }] of targets.entries()) {
    const last = tiers.at(-1)
    if (last?.order === order) last.end = index + 1
    else tiers.push({ order, start: index, end: index + 1 })
  }
  knownTiers.set(targets, tiers)
  return tiers
}
