/**
 * The calls of a scenario: when they arrive, how large they are, and what they say.
 *
 * All calls are drawn before anything runs, so every policy meets the same ones.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { type Distribution, draw, logNormal } from "../providerServer/latency.ts"
import type { Reply } from "../providerServer/reply.ts"
import type { ChatRequest } from "../providerServer/request.ts"
import type * as File from "./schema.ts"

/** One call. */
export interface Call {
  readonly index: number
  /** Milliseconds since the start. */
  readonly at: number
  /** Its entry in the scenario's `traffic`. */
  readonly traffic: number
  readonly input: number
  readonly output: number
  readonly maxTokens: number | undefined
}

/** Tokens that a call uses when it is answered. */
export const used = (call: Call): number => call.input + Math.min(call.output, call.maxTokens ?? Infinity)

type Chance = Parameters<typeof draw>[1]

/** Draws all calls, in the order of their arrival. */
export const calls = (
  traffic: ReadonlyArray<File.Traffic>,
  durationMs: number,
  seed: string | number
): Effect.Effect<ReadonlyArray<Call>> =>
  Effect.map(
    Effect.forEach(traffic, (entry) => Random.withSeed(Effect.service(Random.Random), `${seed}/traffic/${entry.name}`)),
    (chances) => {
      const all = traffic.flatMap((entry, index) => {
        const chance = chances[index]
        return chance === undefined ? [] : callsOf(entry, index, durationMs, chance)
      })
      return all.sort((a, b) => a.at - b.at || a.traffic - b.traffic).map((call, index) => ({ ...call, index }))
    }
  )

const callsOf = (
  traffic: File.Traffic,
  index: number,
  durationMs: number,
  chance: Chance
): ReadonlyArray<Call> => {
  const [input, output] = [amount(traffic.input), amount(traffic.output)]
  const maxTokens = traffic.maxTokens === undefined ? undefined : amount(traffic.maxTokens)
  const size = (distribution: Distribution): number => Math.round(draw(distribution, chance))
  const calls: Array<Call> = []
  for (const at of arrivals(traffic, durationMs, chance)) {
    for (let n = 0; n < (traffic.together ?? 1); n++) {
      calls.push({
        index: 0,
        at,
        traffic: index,
        input: size(input),
        output: Math.max(1, size(output)),
        maxTokens: maxTokens === undefined ? undefined : Math.max(1, size(maxTokens))
      })
    }
  }
  return calls
}

const amount = (amount: File.Amount): Distribution =>
  typeof amount === "number"
    ? { _tag: "Even", min: amount, max: amount }
    : "min" in amount
    // Rounding gives the two ends half a share each otherwise.
    ? amount.min === amount.max
      ? { _tag: "Even", ...amount }
      : { _tag: "Even", min: amount.min - 0.499, max: amount.max + 0.499 }
    : logNormal(amount.median, amount.p95)

const bounds = (
  during: { readonly from?: Duration.Duration; readonly to?: Duration.Duration },
  end: number
): readonly [from: number, to: number] => [
  during.from === undefined ? 0 : Duration.toMillis(during.from),
  during.to === undefined ? end : Math.min(end, Duration.toMillis(during.to))
]

/** Stretches of time with the multiple of the usual load in each, in order. */
const stretches = (
  traffic: File.Traffic,
  durationMs: number
): ReadonlyArray<{ readonly from: number; readonly to: number; readonly factor: number }> => {
  const [begin, end] = bounds(traffic, durationMs)
  const loads = (traffic.load ?? []).map((load) => {
    const [from, to] = bounds(load, durationMs)
    return { from, to, factor: load.factor }
  })
  const edges = new Set([begin, end])
  for (const { from, to } of loads) {
    for (const edge of [from, to]) if (edge > begin && edge < end) edges.add(edge)
  }
  const sorted = [...edges].sort((a, b) => a - b)
  return sorted.slice(0, -1).map((from, index) => ({
    from,
    to: sorted[index + 1] ?? end,
    factor: loads.reduce((factor, load) => from >= load.from && from < load.to ? factor * load.factor : factor, 1)
  }))
}

/**
 * Draws arrivals by the work that is left until the next one: a call arrives whenever one unit (`even`) or an
 * exponentially distributed amount (`poisson`) of expected calls has gone by, however the load changes meanwhile.
 */
const arrivals = (traffic: File.Traffic, durationMs: number, chance: Chance): ReadonlyArray<number> => {
  const perMs = traffic.calls / Duration.toMillis(traffic.per) / (traffic.together ?? 1)
  const next = traffic.arrivals === "even" ? () => 1 : () => -Math.log(1 - chance.nextDoubleUnsafe())
  const times: Array<number> = []
  // Even arrivals begin with half a distance, so that as many of them are before the first as behind the last.
  let left = traffic.arrivals === "even" ? 0.5 : next()
  for (const { factor, from, to } of stretches(traffic, durationMs)) {
    const rate = perMs * factor
    let at = from
    while (left < (to - at) * rate) {
      at += left / rate
      times.push(Math.floor(at))
      left = next()
    }
    left -= (to - at) * rate
  }
  return times
}

// ---------------------------------------------------------------------------------------------------------------------
// what is said
// ---------------------------------------------------------------------------------------------------------------------

const fill = (length: number): string => "sea ".repeat(Math.ceil(Math.max(0, length) / 4)).slice(0, Math.max(0, length))

/** The prompt of a call: as many characters as its input tokens are worth, and how long the answer is to be. */
export const promptOf = (call: Call): string => {
  const head = `${call.index} out=${call.output} `
  return head + fill(call.input * 4 - head.length)
}

/** What a provider answers: as much text as the prompt asks for. */
export const replyOf = (request: ChatRequest): Reply => {
  const asked = /out=(\d+)/.exec(request.messages.at(-1)?.text ?? "")?.[1]
  return { text: fill(4 * Number(asked ?? 1)) }
}
