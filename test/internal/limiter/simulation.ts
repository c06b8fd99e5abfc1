/**
 * A provider with a quota and a client that is always behind, in virtual time: the closed loop around the learner.
 */
import * as Learning from "../../../src/internal/limiter/learning.ts"

export interface Scenario {
  readonly seconds: number
  readonly warmUpSeconds: number
  readonly options: Learning.Options
  /** Units a second the provider gives back, at a time in seconds. */
  readonly quota: (seconds: number) => number
  /** Units the provider saves up. */
  readonly burst: number
  /** Units a refused request costs. */
  readonly refusalCost?: number | undefined
  readonly retryAfterMs?: number | undefined
  readonly answerMs?: readonly [number, number] | undefined
  readonly refusalMs?: number | undefined
  readonly cost?: readonly [number, number] | undefined
  /** Requests a second that are offered; as many as possible unless it is given. */
  readonly offered?: number | undefined
  /** What the provider's headers say about a window. */
  readonly stated?: number | undefined
}

export interface Report {
  /** Served share of the quota after the warm-up. */
  readonly goodput: number
  /** Refused share of all requests after the warm-up. */
  readonly refused: number
  /** Refusals during the warm-up. */
  readonly warmUpRefusals: number
  /** Mean limit, in units a second, per 10 seconds. */
  readonly limits: ReadonlyArray<number>
  readonly final: Learning.State
}

const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
}

interface Answer {
  readonly at: number
  readonly sentAt: number
  readonly cost: number
  readonly served: boolean
}

export const simulate = (scenario: Scenario, seed = 1): Report => {
  const chance = random(seed)
  const between = (range: readonly [number, number]) => range[0] + (range[1] - range[0]) * chance()
  const { options } = scenario
  const end = scenario.seconds * 1000
  const warm = scenario.warmUpSeconds * 1000
  let state = Learning.initial(options, 0)
  let tokens = Math.max(1, state.limit / 10)
  let level = scenario.burst
  let quota = 0
  let served = 0
  let sent = 0
  let refusals = 0
  let warmUpRefusals = 0
  let backlog = 0
  const answers = new Map<number, Array<Answer>>()
  const limits: Array<number> = []
  let sum = 0
  const step = (event: Learning.Event, now: number) => {
    const [next, decision] = Learning.step(options, state, event, now)
    state = next
    if (decision.drain) tokens = Math.min(tokens, 0)
  }
  const tick = 5
  let cost = between(scenario.cost ?? [1, 1])
  for (let now = 0; now < end; now += tick) {
    const rate = scenario.quota(now / 1000)
    level = Math.min(scenario.burst, level + rate * tick / 1000)
    if (now >= warm) quota += rate * tick / 1000
    for (const answer of answers.get(now) ?? []) {
      if (answer.served) {
        step({ _tag: "Succeeded", sentAt: answer.sentAt }, now)
        if (scenario.stated !== undefined) step({ _tag: "Stated", limit: scenario.stated }, now)
      } else {
        const { cost, sentAt } = answer
        step({ _tag: "Throttled", sentAt, cost, retryAfterMs: scenario.retryAfterMs, random: chance() }, now)
      }
    }
    answers.delete(now)
    // The bucket saves up a tenth of a window, but at least one request, and nothing during a wait.
    tokens = now < state.resumeAt
      ? Math.min(tokens, 0)
      : Math.min(
        Math.max(scenario.cost?.[1] ?? 1, state.limit / 10),
        tokens + state.limit / options.windowMs * tick
      )
    backlog = scenario.offered === undefined ? 1 : Math.min(50, backlog + scenario.offered * tick / 1000)
    while (tokens >= cost && backlog >= 1 && now >= state.resumeAt) {
      tokens -= cost
      if (scenario.offered !== undefined) backlog -= 1
      step({ _tag: "Admitted", cost }, now)
      const fits = level >= cost
      level -= fits ? cost : Math.min(level, scenario.refusalCost ?? 0)
      if (now >= warm) {
        sent += 1
        if (fits) served += cost
        else refusals += 1
      } else if (!fits) warmUpRefusals += 1
      const delay = fits ? between(scenario.answerMs ?? [500, 3000]) : scenario.refusalMs ?? 100
      const at = now + Math.max(tick, Math.round(delay / tick) * tick)
      const list = answers.get(at)
      const answer = { at, sentAt: now, cost, served: fits }
      if (list === undefined) answers.set(at, [answer])
      else list.push(answer)
      cost = between(scenario.cost ?? [1, 1])
    }
    sum += state.limit / options.windowMs * 1000
    if (now % 10_000 === 10_000 - tick) {
      limits.push(sum / (10_000 / tick))
      sum = 0
    }
  }
  return { goodput: served / quota, refused: sent === 0 ? 0 : refusals / sent, warmUpRefusals, limits, final: state }
}
