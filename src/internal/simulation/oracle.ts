/**
 * What could have been answered by somebody who knows all quotas and outages: the measure of every policy.
 *
 * It takes the calls in the order in which they arrive and gives each the first place and moment at which the true quotas
 * have room for what the call will use, if the answer still meets its deadline. It never sends what is refused, wastes
 * nothing on failures, and needs no retries; errors that occur by chance cost it nothing.
 *
 * @internal
 */
import type { Settings } from "../providerServer/desk.ts"
import { type Distribution, type Latency, within } from "../providerServer/latency.ts"
import * as Quotas from "../providerServer/quota.ts"
import { type Call, used } from "./traffic.ts"

/** Where a request can be sent: a model of a provider, with a key. */
export interface Place {
  readonly provider: string
  /** Model or deployment, as the provider knows it. */
  readonly model: string
  /** Name of the key at the provider. */
  readonly key: string
}

export interface Question {
  readonly calls: ReadonlyArray<Call>
  readonly providers: ReadonlyMap<string, Settings>
  /** Where the calls of each entry of the traffic may go. */
  readonly places: ReadonlyArray<ReadonlyArray<Place>>
  /** How long the calls of each entry of the traffic may take. */
  readonly deadlines: ReadonlyArray<number>
  /** Answers before and after are not counted. */
  readonly warmUpMs: number
  readonly durationMs: number
}

export interface Possible {
  readonly answers: number
  readonly tokens: number
}

interface Bucket {
  /** Its lines alone: slots are counted here, since they end in any order. */
  readonly rules: Quotas.Rules
  readonly slots: number
  state: Quotas.State
  /** When the slots that are taken become free, in that order. */
  readonly busy: Array<number>
}

/** Computes what is possible. */
export const possible = (question: Question): Possible => {
  const buckets = new Map<string, Bucket>()
  const typical = typicalOutputs(question)
  let answers = 0
  let tokens = 0
  for (const call of question.calls) {
    const places = question.places[call.traffic] ?? []
    const due = call.at + (question.deadlines[call.traffic] ?? Infinity)
    const need = { input: call.input, output: used(call) - call.input }
    let best: { readonly at: number; readonly end: number; readonly bucket: Bucket } | undefined
    for (const place of places) {
      const settings = question.providers.get(place.provider)
      if (settings === undefined) continue
      const found = earliest(buckets, settings, place, call.at, best?.at ?? due + 1, need)
      if (found === undefined || (best !== undefined && found.at >= best.at)) continue
      // The time of a typical answer: with its own, only short answers would be served where there is too much to do.
      const end = found.at + serviceMs(settings, place, found.at, typical[call.traffic] ?? 0)
      if (end <= due) best = { ...found, end }
    }
    if (best === undefined) continue
    const { bucket } = best
    bucket.state = Quotas.admit(bucket.rules, bucket.state, need, best.at, false)[0]
    if (bucket.slots !== Infinity) occupy(bucket, best.end, call.at)
    if (best.end < question.warmUpMs || best.end >= question.durationMs) continue
    answers++
    tokens += used(call)
  }
  return { answers, tokens }
}

/** How many tokens an answer has on average, for each entry of the traffic. */
const typicalOutputs = ({ calls, places }: Question): ReadonlyArray<number> => {
  const sums = places.map(() => ({ calls: 0, tokens: 0 }))
  for (const call of calls) {
    const sum = sums[call.traffic]
    if (sum === undefined) continue
    sum.calls++
    sum.tokens += used(call) - call.input
  }
  return sums.map(({ calls, tokens }) => calls === 0 ? 0 : tokens / calls)
}

const matches = (matching: { readonly model?: string | undefined; readonly key?: string | undefined }, place: Place) =>
  (matching.model === undefined || matching.model === place.model) &&
  (matching.key === undefined || matching.key === place.key)

/** When a place that is down at a time is up again: now, later, or never (`Infinity`). */
const upAt = (settings: Settings, place: Place, at: number): number => {
  if (settings.models !== undefined && !settings.models.has(place.model)) return Infinity
  for (const { fault, period, rate, ...matching } of settings.faultRates) {
    if (rate < 1 || fault._tag === "SlowFirstToken" || !matches(matching, place) || !within(period, at)) continue
    return period.to
  }
  return at
}

const ruleAt = <A>(
  settings: Settings,
  place: Place,
  at: number,
  pick: (rule: Settings["rules"][number]) => A | undefined
): { readonly index: number; readonly from: number; readonly found: A } | undefined => {
  for (const [index, rule] of settings.rules.entries()) {
    if (!matches(rule.matching, place) || !within(rule.period, at)) continue
    const found = pick(rule)
    if (found !== undefined) return { index, from: rule.period.from, found }
  }
  return undefined
}

const bucketAt = (buckets: Map<string, Bucket>, settings: Settings, place: Place, at: number): Bucket => {
  const rule = ruleAt(settings, place, at, (rule) => rule.rules)
  const owner = {
    target: [place.model, place.key],
    model: [place.model],
    key: [place.key],
    server: []
  }[settings.limitScope]
  const name = JSON.stringify([place.provider, rule?.index, ...owner])
  const known = buckets.get(name)
  if (known !== undefined) return known
  const { concurrency, lines } = rule?.found ?? { concurrency: Infinity, lines: [] }
  const rules = { lines, concurrency: Infinity }
  const bucket = { rules, slots: concurrency, state: Quotas.initial(rules, rule?.from ?? 0), busy: [] }
  buckets.set(name, bucket)
  return bucket
}

/** How often a wait may lead to another: into an outage, or to another quota. */
const mostWaits = 100

const earliest = (
  buckets: Map<string, Bucket>,
  settings: Settings,
  place: Place,
  from: number,
  before: number,
  need: Quotas.Tokens
): { readonly at: number; readonly bucket: Bucket } | undefined => {
  let at = from
  for (let waits = 0; waits < mostWaits && at < before; waits++) {
    const up = upAt(settings, place, at)
    if (up > at) {
      at = up
      continue
    }
    const bucket = bucketAt(buckets, settings, place, at)
    const free = Math.max(at, bucket.state.at, freeAt(bucket, at))
    if (free > at) {
      at = free
      continue
    }
    const [, refusal] = Quotas.admit(bucket.rules, bucket.state, need, at, false)
    if (refusal === undefined) return { at, bucket }
    if (refusal.wait === undefined) return undefined
    at += refusal.wait
  }
  return undefined
}

/** When a slot is free, at a time or later. */
const freeAt = ({ busy, slots }: Bucket, at: number): number => {
  let first = busy.length
  while (first > 0 && (busy[first - 1] ?? 0) > at) first--
  return busy.length - first < slots ? at : busy[busy.length - slots] ?? at
}

/** Takes a slot until a time; those that were free before anybody who still comes are forgotten. */
const occupy = ({ busy }: Bucket, until: number, arrivedAt: number): void => {
  let place = busy.length
  while (place > 0 && (busy[place - 1] ?? 0) > until) place--
  busy.splice(place, 0, until)
  const over = busy.findIndex((end) => end > arrivedAt)
  if (over > 0) busy.splice(0, over)
}

const mean = (distribution: Distribution | undefined): number =>
  distribution === undefined
    ? 0
    : distribution._tag === "Even"
    ? (distribution.min + distribution.max) / 2
    : distribution.median * Math.exp(distribution.sigma ** 2 / 2)

/** How long an answer takes on average. */
const serviceMs = (settings: Settings, place: Place, at: number, output: number): number => {
  const latency: Latency | undefined = ruleAt(settings, place, at, (rule) => rule.latency)?.found
  const chunks = Math.ceil(output * 4 / settings.chunkSize)
  return mean(latency?.firstToken) + mean(latency?.perToken) * output + mean(latency?.perChunk) * chunks +
    mean(settings.rules.at(-1)?.latency?.network)
}
