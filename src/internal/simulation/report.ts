/**
 * Sums up a ledger: pure, and the same for the same ledger.
 *
 * @internal
 */
import type { ErrorClass, Reason } from "../../LLMError.ts"
import type { Settings } from "../providerServer/desk.ts"
import { within } from "../providerServer/latency.ts"
import type { Ledger, Outcome, Sighting, State } from "./ledger.ts"
import type { Possible } from "./oracle.ts"
import type * as File from "./schema.ts"
import { type Call, used } from "./traffic.ts"

/**
 * Times in whole milliseconds: how many, their mean, and the times that a share of them does not exceed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Times {
  readonly count: number
  readonly mean: number
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

/**
 * What became of some calls.
 *
 * @category models
 * @since 0.1.0
 */
export interface Group {
  readonly offered: number
  readonly answered: number
  readonly failed: number
  /** Calls that had not ended an hour after the last arrival. */
  readonly unfinished: number
  /** Share of the offered calls that were answered; `null` when none was offered. */
  readonly answeredShare: number | null
  /** What answered calls waited in queues and between attempts. */
  readonly waitMs: Times
  /** From the call to the whole answer. */
  readonly latencyMs: Times
  /** From the call to the first content, of streamed answers. */
  readonly firstTokenMs: Times
}

/**
 * What a provider saw, after the warm-up.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProviderReport {
  readonly requests: number
  /** Requests within its quotas. */
  readonly admitted: number
  /** Requests that a quota refused with 429. */
  readonly refused: number
  /** Requests with a wrong key, model or body. */
  readonly rejected: number
  /** Requests that met a fault. */
  readonly faulted: number
  /** Requests whose caller left before the end. */
  readonly aborted: number
  readonly inputTokens: number
  readonly outputTokens: number
  /** By model and key: what it received, and what it refused. */
  readonly places: ReadonlyArray<
    { readonly model: string; readonly key: string; readonly requests: number; readonly refused: number }
  >
}

/**
 * A time in which a provider, a model or a key answered nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface OutageReport {
  readonly provider: string
  readonly model: string | undefined
  readonly key: string | undefined
  readonly fromMs: number
  readonly toMs: number
  /** Calls that arrived meanwhile. */
  readonly offered: number
  /** Of these, how many failed. */
  readonly lost: number
  /** Requests that were sent into the outage. */
  readonly requests: number
  readonly requestsPerCall: number | null
  /** Requests a second in the time before, without the warm-up. */
  readonly steadyPerSecond: number
  /** Time from the end of the outage until it gets 95 % of the requests it had before; `null` when it never does. */
  readonly recoveryMs: number | null
  /** The most requests in a stretch as long after the outage as it was, as a multiple of those before. */
  readonly peak: number | null
  /** Length of the stretches over which requests are counted. */
  readonly windowMs: number
}

/**
 * What a simulation found.
 *
 * **Details**
 *
 * Everything but the timeline counts calls that arrived, and requests that were received, after the warm-up. Shares are
 * from 0 to 1. Nothing in it depends on the machine or on how long the simulation took.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly policy: string
  readonly seed: string | number
  readonly description: string | undefined
  readonly durationMs: number
  readonly warmUpMs: number
  readonly calls: Group
  /**
   * What was answered between the end of the warm-up and that of the duration, of what somebody who knew all quotas and
   * outages could have answered in that time.
   */
  readonly goodput: {
    readonly answers: number
    readonly possibleAnswers: number
    readonly answersShare: number | null
    readonly tokens: number
    readonly possibleTokens: number
    readonly tokensShare: number | null
  }
  readonly attempts: {
    readonly total: number
    readonly perAnswer: number | null
    /** Why each was made: `first`, `retry` on the same target, `next` target, `earliest` capacity, `hedge`. */
    readonly chosen: Readonly<Record<string, number>>
    readonly answered: number
    readonly interrupted: number
    readonly failed: { readonly [Class in ErrorClass]?: number }
  }
  /** Requests that quotas refused with 429, and their share of all requests. */
  readonly refused: number
  readonly refusedShare: number | null
  readonly priorities: Readonly<Record<string, Group>>
  readonly tenants: Readonly<Record<string, Group>>
  readonly traffic: Readonly<Record<string, Group>>
  readonly fairness: {
    /** Index of Jain over the answered shares of the tenants: 1 when all are treated alike; `null` without tenants. */
    readonly tenants: number | null
    /** Answered share of the calls above the median size, as a multiple of that of the others. */
    readonly largeToSmall: number | null
  }
  readonly cost: {
    /** US dollars, as far as targets have prices; `null` where none has. */
    readonly usd: number | null
    readonly perAnswer: number | null
    /** Whether providers may have billed more. */
    readonly atLeast: boolean
  }
  readonly errors: {
    readonly byClass: { readonly [Class in ErrorClass]?: number }
    readonly byReason: { readonly [Name in Reason]?: number }
  }
  readonly providers: Readonly<Record<string, ProviderReport>>
  readonly targets: Readonly<
    Record<string, { readonly attempts: number; readonly answered: number; readonly failed: number }>
  >
  readonly outages: ReadonlyArray<OutageReport>
  readonly timeline: {
    readonly binMs: number
    readonly offered: ReadonlyArray<number>
    readonly answered: ReadonlyArray<number>
    readonly failed: ReadonlyArray<number>
    readonly requests: ReadonlyArray<number>
    readonly refused: ReadonlyArray<number>
    /** By target, the worst state in each stretch. */
    readonly states: Readonly<Record<string, ReadonlyArray<State>>>
  }
}

/** Makes the report of a simulation. */
export const make = (options: {
  readonly policy: string
  readonly seed: string | number
  readonly file: File.File
  readonly settings: ReadonlyMap<string, Settings>
  readonly durationMs: number
  readonly warmUpMs: number
  readonly binMs: number
  readonly bins: number
  readonly calls: ReadonlyArray<Call>
  readonly ledger: Ledger
  readonly possible: Possible
}): Report => {
  const { calls, file, ledger, possible, warmUpMs } = options
  const measured = calls.filter((call) => call.at >= warmUpMs)
  const outcomeOf = (call: Call): Outcome | undefined => ledger.outcomes[call.index]
  const groupOf = (calls: ReadonlyArray<Call>): Group => group(calls.map((call) => [call, outcomeOf(call)]))
  const groupsBy = (nameOf: (traffic: File.Traffic) => string | undefined): Readonly<Record<string, Group>> => {
    const groups = new Map<string, Array<Call>>()
    for (const call of measured) {
      const traffic = file.traffic[call.traffic]
      const name = traffic === undefined ? undefined : nameOf(traffic)
      if (name === undefined) continue
      const known = groups.get(name)
      if (known === undefined) groups.set(name, [call])
      else known.push(call)
    }
    return Object.fromEntries(Array.from(groups, ([name, calls]) => [name, groupOf(calls)]))
  }
  const all = groupOf(measured)
  const tenants = groupsBy((traffic) => traffic.tenant)
  const outcomes = measured.flatMap((call) => outcomeOf(call) ?? [])
  const answered = outcomes.filter((outcome) => outcome.isAnswered)
  const inTime = calls.filter((call) => {
    const outcome = outcomeOf(call)
    return outcome?.isAnswered === true && outcome.endedAt >= warmUpMs && outcome.endedAt < options.durationMs
  })
  const tokens = inTime.reduce((sum, call) => sum + used(call), 0)
  const sightings = new Map(
    Array.from(ledger.sightings, ([name, list]) => [name, list.filter((sighting) => sighting.at >= warmUpMs)])
  )
  const requests = [...sightings.values()].flat()
  const refused = requests.filter((sighting) => sighting.outcome === "refused").length
  const costs = outcomes.flatMap((outcome) => outcome.cost ?? [])
  const usd = costs.length === 0 ? null : round(costs.reduce((sum, cost) => sum + cost, 0))
  return {
    policy: options.policy,
    seed: options.seed,
    description: file.description,
    durationMs: options.durationMs,
    warmUpMs,
    calls: all,
    goodput: {
      answers: inTime.length,
      possibleAnswers: possible.answers,
      answersShare: share(inTime.length, possible.answers),
      tokens,
      possibleTokens: possible.tokens,
      tokensShare: share(tokens, possible.tokens)
    },
    attempts: attemptsOf(outcomes, answered.length),
    refused,
    refusedShare: share(refused, requests.length),
    priorities: groupsBy((traffic) => traffic.priority ?? "normal"),
    tenants,
    traffic: groupsBy((traffic) => traffic.name),
    fairness: {
      tenants: jain(Object.values(tenants).flatMap((group) => group.answeredShare ?? [])),
      largeToSmall: largeToSmall(measured, outcomeOf)
    },
    cost: {
      usd,
      perAnswer: usd === null ? null : share(usd, answered.length),
      atLeast: usd !== null && outcomes.some((outcome) => outcome.costAtLeast)
    },
    errors: {
      byClass: count(outcomes.map((outcome) => outcome.errorClass)),
      byReason: count(outcomes.map((outcome) => outcome.reason))
    },
    providers: Object.fromEntries(
      Array.from(sightings, ([name, list]) => [name, providerOf(list, ledger.counts.get(name))])
    ),
    targets: targetsOf(outcomes, ledger),
    outages: Array.from(
      options.settings,
      ([name, settings]) =>
        outagesOf(name, settings, { calls, outcomeOf, sightings: ledger.sightings.get(name) ?? [], options })
    ).flat(),
    timeline: timelineOf(options)
  }
}

/** Six digits behind the point are more than any of these figures means. */
const round = (value: number): number => Math.round(value * 1e6) / 1e6

const share = (part: number, whole: number): number | null => whole === 0 ? null : round(part / whole)

const count = <Name extends string>(
  names: ReadonlyArray<Name | undefined>
): { readonly [Key in Name]?: number } => {
  const counts: { [Key in Name]?: number } = {}
  for (const name of names) {
    if (name !== undefined) counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

const timesOf = (values: ReadonlyArray<number>): Times => {
  const sorted = values.toSorted((a, b) => a - b)
  // The smallest value that so many of all do not exceed.
  const at = (share: number): number => Math.round(sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0)
  const sum = sorted.reduce((sum, value) => sum + value, 0)
  return {
    count: sorted.length,
    mean: sorted.length === 0 ? 0 : Math.round(sum / sorted.length),
    p50: at(0.5),
    p95: at(0.95),
    p99: at(0.99),
    max: at(1)
  }
}

const group = (calls: ReadonlyArray<readonly [Call, Outcome | undefined]>): Group => {
  const answered = calls.flatMap(([call, outcome]) => outcome?.isAnswered === true ? [{ call, outcome }] : [])
  const unfinished = calls.filter(([, outcome]) => outcome === undefined).length
  return {
    offered: calls.length,
    answered: answered.length,
    failed: calls.length - answered.length - unfinished,
    unfinished,
    answeredShare: share(answered.length, calls.length),
    waitMs: timesOf(answered.map(({ outcome }) => outcome.waitedMs)),
    latencyMs: timesOf(answered.map(({ call, outcome }) => outcome.endedAt - call.at)),
    firstTokenMs: timesOf(answered.flatMap(({ outcome }) => outcome.firstTokenMs ?? []))
  }
}

const attemptsOf = (outcomes: ReadonlyArray<Outcome>, answers: number): Report["attempts"] => {
  const all = outcomes.flatMap((outcome) => outcome.attempts)
  return {
    total: all.length,
    perAnswer: share(all.length, answers),
    chosen: count(all.map((attempt) => attempt.chosen)),
    answered: all.filter((attempt) => attempt.outcome === "success").length,
    interrupted: all.filter((attempt) => attempt.outcome === "interrupted").length,
    failed: count(all.map((attempt) => attempt.outcome === "failure" ? attempt.errorClass ?? "unknown" : undefined))
  }
}

/** The index of Jain: the square of the mean over the mean of the squares. */
const jain = (shares: ReadonlyArray<number>): number | null => {
  if (shares.length < 2) return null
  const sum = shares.reduce((sum, value) => sum + value, 0)
  const squares = shares.reduce((sum, value) => sum + value * value, 0)
  return squares === 0 ? null : round(sum * sum / (shares.length * squares))
}

const largeToSmall = (
  calls: ReadonlyArray<Call>,
  outcomeOf: (call: Call) => Outcome | undefined
): number | null => {
  const sizes = calls.map(used).sort((a, b) => a - b)
  const median = sizes[sizes.length >> 1] ?? 0
  const shareOf = (calls: ReadonlyArray<Call>): number | null =>
    share(calls.filter((call) => outcomeOf(call)?.isAnswered === true).length, calls.length)
  const large = shareOf(calls.filter((call) => used(call) > median))
  const small = shareOf(calls.filter((call) => used(call) <= median))
  return large === null || small === null ? null : share(large, small)
}

const providerOf = (
  sightings: ReadonlyArray<Sighting>,
  counts: { readonly aborted: number; readonly inputTokens: number; readonly outputTokens: number } | undefined
): ProviderReport => {
  const places = new Map<string, { model: string; key: string; requests: number; refused: number }>()
  for (const { key, model, outcome } of sightings) {
    const name = JSON.stringify([model, key])
    const place = places.get(name) ?? { model, key, requests: 0, refused: 0 }
    places.set(name, place)
    place.requests++
    if (outcome === "refused") place.refused++
  }
  const of = (outcome: Sighting["outcome"]): number => sightings.filter((_) => _.outcome === outcome).length
  return {
    requests: sightings.length,
    admitted: sightings.filter((sighting) => sighting.isAdmitted).length,
    refused: of("refused"),
    rejected: of("rejected"),
    faulted: of("faulted"),
    aborted: counts?.aborted ?? 0,
    inputTokens: counts?.inputTokens ?? 0,
    outputTokens: counts?.outputTokens ?? 0,
    places: [...places.values()].sort((a, b) => `${a.model} ${a.key}` < `${b.model} ${b.key}` ? -1 : 1)
  }
}

const targetsOf = (outcomes: ReadonlyArray<Outcome>, ledger: Ledger): Report["targets"] => {
  const targets = new Map(
    Array.from(ledger.states.keys(), (target) => [target, { attempts: 0, answered: 0, failed: 0 }])
  )
  for (const { attempts } of outcomes) {
    for (const { outcome, target } of attempts) {
      const counts = targets.get(target)
      if (counts === undefined) continue
      counts.attempts++
      if (outcome === "success") counts.answered++
      if (outcome === "failure") counts.failed++
    }
  }
  return Object.fromEntries(targets)
}

// ---------------------------------------------------------------------------------------------------------------------
// outages
// ---------------------------------------------------------------------------------------------------------------------

const outagesOf = (provider: string, settings: Settings, { calls, options, outcomeOf, sightings }: {
  readonly calls: ReadonlyArray<Call>
  readonly outcomeOf: (call: Call) => Outcome | undefined
  readonly sightings: ReadonlyArray<Sighting>
  readonly options: { readonly durationMs: number; readonly warmUpMs: number }
}): ReadonlyArray<OutageReport> =>
  settings.faultRates.flatMap(({ fault, key, model, period, rate }) => {
    if (rate < 1 || fault._tag === "SlowFirstToken" || period.to >= options.durationMs) return []
    const own = sightings.filter((_) => (model ?? _.model) === _.model && (key ?? _.key) === _.key)
    const offered = calls.filter((call) => within(period, call.at))
    const requests = own.filter((sighting) => within(period, sighting.at)).length
    const before = own.filter((_) => _.isAdmitted && _.at >= options.warmUpMs && _.at < period.from).length
    const steady = before / Math.max(1, period.from - options.warmUpMs)
    // Twenty requests are enough to tell a rate from chance.
    const windowMs = Math.max(1000, steady === 0 ? 0 : Math.ceil(20 / steady))
    const after = own.flatMap(({ at, isAdmitted }) => isAdmitted && at >= period.to ? [at] : [])
    const recovered = steady === 0 ?
      undefined :
      after.find((from, index) =>
        countWithin(after, index, windowMs) >= 0.95 * steady * windowMs &&
        from + windowMs <= options.durationMs
      )
    const peak = after.reduce(
      (most, at, index) =>
        at > 2 * period.to - period.from ? most : Math.max(most, countWithin(after, index, windowMs)),
      0
    )
    return [{
      provider,
      model,
      key,
      fromMs: period.from,
      toMs: period.to,
      offered: offered.length,
      lost: offered.filter((call) => outcomeOf(call)?.isAnswered === false).length,
      requests,
      requestsPerCall: share(requests, offered.length),
      steadyPerSecond: round(steady * 1000),
      recoveryMs: recovered === undefined ? null : recovered - period.to,
      peak: share(peak, steady * windowMs),
      windowMs
    }]
  })

/** How many times follow one of a sorted list within a window, itself included. */
const countWithin = (times: ReadonlyArray<number>, from: number, windowMs: number): number => {
  const end = (times[from] ?? 0) + windowMs
  let to = from
  while (to < times.length && (times[to] ?? 0) < end) to++
  return to - from
}

// ---------------------------------------------------------------------------------------------------------------------
// timeline
// ---------------------------------------------------------------------------------------------------------------------

const timelineOf = (options: {
  readonly binMs: number
  readonly bins: number
  readonly calls: ReadonlyArray<Call>
  readonly ledger: Ledger
}): Report["timeline"] => {
  const { binMs, bins, calls, ledger } = options
  const histogram = (times: Iterable<number>): ReadonlyArray<number> => {
    const counts = Array.from({ length: bins }, () => 0)
    for (const at of times) {
      const bin = Math.floor(at / binMs)
      // What ends after the last arrival is not on the timeline.
      if (bin < bins) counts[bin] = (counts[bin] ?? 0) + 1
    }
    return counts
  }
  const ended = (isAnswered: boolean): ReadonlyArray<number> =>
    ledger.outcomes.flatMap((outcome) => outcome?.isAnswered === isAnswered ? [outcome.endedAt] : [])
  const sightings = [...ledger.sightings.values()].flat()
  return {
    binMs,
    offered: histogram(calls.map((call) => call.at)),
    answered: histogram(ended(true)),
    failed: histogram(ended(false)),
    requests: histogram(sightings.map((sighting) => sighting.at)),
    refused: histogram(sightings.filter((_) => _.outcome === "refused").map((sighting) => sighting.at)),
    states: Object.fromEntries(ledger.states)
  }
}
