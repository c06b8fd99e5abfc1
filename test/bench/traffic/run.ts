/**
 * Runs the calls of a scenario through a composition of other libraries, in virtual time: their timers and clocks are
 * those of `@sinonjs/fake-timers`, the calls, the providers and the report those of the simulation.
 */
import * as FakeTimers from "@sinonjs/fake-timers"
import { Clock, Duration, Effect, Random } from "effect"
import { makeDesk } from "../../../src/internal/providerServer/desk.ts"
import * as Ledgers from "../../../src/internal/simulation/ledger.ts"
import * as Reports from "../../../src/internal/simulation/report.ts"
import { deskSettings, type Scenario, targetsOf } from "../../../src/internal/simulation/scenario.ts"
import { type Call, calls as drawCalls } from "../../../src/internal/simulation/traffic.ts"
import type { Limits } from "../../../src/RateLimiter.ts"
import type { Target } from "../../../src/Target.ts"
import { exchange, HttpError, type Server } from "./provider.ts"

/** A target as a user of a library knows it: with the limit that is configured, or as much as calls need. */
export interface Place {
  readonly index: number
  readonly id: string
  readonly target: Target
  readonly limit: Limit
}

/** So many requests or tokens in so many milliseconds, and so many at once. */
export interface Limit {
  readonly unit: "requests" | "tokens"
  readonly amount: number
  readonly perMs: number
  readonly burst: number
}

/** A call, and how it asks a target: resolved when the target has answered, rejected as an HTTP client would. */
export interface Request {
  readonly call: Call
  /** Tokens that it may use. */
  readonly tokens: number
  /** Aborts at its deadline. */
  readonly signal: AbortSignal
  /** Its deadline, in milliseconds since the epoch. */
  readonly deadlineAt: number
  readonly send: (place: Place, signal: AbortSignal) => Promise<{
    readonly status: number
    readonly headers: Readonly<Record<string, string>>
  }>
}

/** Asks a target; an answer that is none is an error. */
export const ask = async (request: Request, place: Place, signal: AbortSignal): Promise<void> => {
  const { headers, status } = await request.send(place, signal)
  if (status !== 200) throw new HttpError(status, headers)
}

/** What a composition is made for. */
export interface Setup {
  readonly places: ReadonlyArray<Place>
  /** Whether calls take the targets in turn, or the first one as long as it answers. */
  readonly inTurn: boolean
  /** How long a call may wait in a queue. */
  readonly queueMs: number
  /** How long an attempt may take. */
  readonly attemptMs: number
  /** Tokens that a call may use, on average. */
  readonly usualTokens: number
  /** What is drawn by chance, the same every time. */
  readonly random: ReturnType<typeof chance>
}

/** What handles calls: resolved when a call is answered. */
export interface Handler {
  readonly handle: (request: Request) => Promise<unknown>
  readonly close: () => void | Promise<void>
}

export interface Peer {
  readonly name: string
  readonly make: (setup: Setup) => Handler | Promise<Handler>
}

export interface Options {
  readonly seed: number
  /** Policy of the scenario whose targets are used. */
  readonly policy: string
  readonly inTurn: boolean
  readonly queueMs: number
  readonly possible: { readonly answers: number; readonly tokens: number }
}

const chance = (name: string) => Effect.runSync(Random.withSeed(Effect.service(Random.Random), name))

const millis = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

const limitOf = (limits: Limits | undefined): Limit | undefined => {
  for (const unit of ["requests", "tokens"] as const) {
    const quota = limits?.[unit]
    if (quota === undefined || !("limit" in quota) || quota.per === "month") continue
    return { unit, amount: quota.limit, perMs: millis(quota.per), burst: quota.burst ?? quota.limit }
  }
  return undefined
}

const tokensOf = (call: Call): number => call.input + (call.maxTokens ?? call.output)

const bins = 60

/** An hour after the last call nobody waits any more. */
const patienceMs = 3_600_000

export const run = async (scenario: Scenario, peer: Peer, options: Options): Promise<Reports.Report> => {
  const { durationMs, file, warmUpMs } = scenario
  const { possible, seed } = options
  const plan = scenario.policies.get(options.policy)
  if (plan === undefined) throw new RangeError(`no policy ${options.policy}`)
  const targets = targetsOf(plan)
  const calls = Effect.runSync(drawCalls(file.traffic, durationMs, seed))
  const settings = new Map(scenario.providers.map((provider) => [provider.name, deskSettings(provider, targets)]))
  const binMs = Math.ceil(durationMs / bins)
  const timers = FakeTimers.install({
    now: scenario.start,
    toFake: [
      "setTimeout",
      "clearTimeout",
      "setInterval",
      "clearInterval",
      "setImmediate",
      "clearImmediate",
      "Date",
      "performance"
    ]
  })
  try {
    const now = (): number => Date.now() - scenario.start
    const ledger = Ledgers.make({ calls: calls.length, warmUpMs, binMs, bins, now })
    const clock = Effect.runSync(Effect.service(Clock.Clock))
    const servers = new Map(Array.from(settings, ([name, own]): readonly [string, Server] => [name, {
      desk: makeDesk(own, chance(`${seed}/provider/${name}`), clock),
      observer: ledger.observer(name)
    }]))
    // The limits of a target, or those that its key has.
    const ofKeys = Object.assign({}, ...Array.from(plan.models.values(), ({ options }) => options.limits?.keys))
    const perSecond = Math.ceil(calls.length / durationMs * 1000)
    const needed: Limit = { unit: "requests", amount: perSecond, perMs: 1000, burst: perSecond }
    const places = targets.map((target, index): Place => ({
      index,
      id: target.id,
      target,
      limit: limitOf(target.limits) ?? limitOf(ofKeys[target.key?.id ?? ""]) ?? needed
    }))
    for (const { id } of places) ledger.watch(id)
    const deadlines = file.traffic.map(({ deadline }) => deadline === undefined ? 600_000 : millis(deadline))
    /** Lets time pass until something is done. */
    const until = async (done: () => boolean): Promise<void> => {
      while (!done() && now() < durationMs + patienceMs) await timers.nextAsync()
    }
    const settled = async <A>(promise: A | Promise<A>): Promise<A> => {
      let isSettled = false
      const settle = Promise.resolve(promise).finally(() => {
        isSettled = true
      })
      await Promise.all([until(() => isSettled), settle])
      return settle
    }
    const { close, handle } = await settled(peer.make({
      places,
      inTurn: options.inTurn,
      queueMs: options.queueMs,
      attemptMs: Math.min(...deadlines) / 4,
      random: chance(`${seed}/policy`),
      usualTokens: calls.reduce((sum, call) => sum + tokensOf(call), 0) / calls.length
    }))
    let left = calls.length
    const begin = async (call: Call): Promise<void> => {
      const attempts: Array<Ledgers.Outcome["attempts"][number]> = []
      const controller = new AbortController()
      const { signal } = controller
      const send: Request["send"] = async ({ target }, signal) => {
        const server = servers.get(target.provider)
        if (server === undefined) throw new Error(`getaddrinfo ENOTFOUND ${target.provider}`)
        const index = attempts.push({ target: target.id, chosen: "first", outcome: "failure" }) -
          1
        const answer = await exchange(server, target, call, signal)
        if (answer.status === 200) {
          attempts[index] = { target: target.id, chosen: "first", outcome: "success" }
        }
        return answer
      }
      const late = new Promise<never>((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason), { once: true })
      })
      const deadlineMs = deadlines[call.traffic] ?? 0
      const deadlineAt = Date.now() + deadlineMs
      const timer = setTimeout(() => controller.abort(new Error("deadline")), deadlineMs)
      const tokens = tokensOf(call)
      const isAnswered = await Promise.race([late, handle({ call, tokens, signal, deadlineAt, send })]).then(
        () => true,
        () => false
      )
      clearTimeout(timer)
      left--
      ledger.outcomes[call.index] = {
        isAnswered,
        endedAt: now(),
        waitedMs: 0,
        firstTokenMs: undefined,
        attempts,
        cost: undefined,
        costAtLeast: false,
        errorClass: isAnswered ? undefined : "unknown",
        reason: undefined
      }
    }
    const arrive = (index: number): void => {
      const call = calls[index]
      if (call === undefined) return
      setTimeout(() => {
        void begin(call)
        arrive(index + 1)
      }, call.at - now())
    }
    arrive(0)
    await until(() => left === 0)
    await settled(close())
    return Reports.make({
      policy: peer.name,
      seed,
      file,
      settings,
      durationMs,
      warmUpMs,
      binMs,
      bins,
      calls,
      ledger,
      possible
    })
  } finally {
    timers.uninstall()
  }
}
