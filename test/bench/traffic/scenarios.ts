/** The scenarios that breakwater and its peers are put through. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { Report, ScenarioFile } from "../../../src/testing/Simulation.ts"
import { atLeast, atMost, type Verdict } from "../table.ts"

export interface Setting {
  readonly title: string
  readonly file: ScenarioFile
  /** Policy that breakwater follows, and whose targets the peers use. */
  readonly policy: string
  /** Whether the peers take the targets in turn. */
  readonly inTurn: boolean
  /** How long the peers let a call wait in a queue. */
  readonly queueMs: number
  /** What the true quotas give back in a second, where there is more to do than they allow. */
  readonly quota?: { readonly unit: "answers" | "tokens"; readonly perSecond: number }
  /** What breakwater has to reach. */
  readonly budgets: (found: Found) => ReadonlyArray<Verdict>
}

/** What became of a scenario. */
export interface Found {
  readonly report: Report
  /** Share of what was possible that was answered: of the quota, where it gives back less than is asked for. */
  readonly goodput: number
  readonly deadRequests: number
  readonly hangingRequests: number
}

const shipped = (name: string, changes: Partial<ScenarioFile> = {}): ScenarioFile => ({
  ...JSON.parse(readFileSync(join(import.meta.dirname, `../../../examples/scenarios/${name}.json`), "utf8")),
  ...changes
})

const network = { min: "5 millis", max: "40 millis" } as const

/** One service whose quota is known exactly. */
const oneService = (options: {
  readonly traffic: ScenarioFile["traffic"]
  readonly limits: { readonly [Unit in "requests" | "tokens"]?: { readonly limit: number; readonly per: "1 minute" } }
}): ScenarioFile => ({
  duration: "8 minutes",
  warmUp: "1 minute",
  traffic: options.traffic,
  providers: {
    openai: { limits: options.limits, latency: { network, firstToken: { min: "200 millis", max: "2 seconds" } } }
  },
  policies: {
    service: {
      models: {
        chat: {
          targets: [{ provider: "openai", model: "gpt-4o", limits: { ...options.limits } }],
          patience: "0 millis"
        }
      }
    }
  }
})

const perMinute = (limit: number) => ({ limit, per: "1 minute" as const })

const users = (calls: number): ScenarioFile["traffic"] => [
  { name: "users", calls, per: "1 second", input: 100, output: 100, maxTokens: 100, deadline: "1 minute" }
]

/** Of the quota's answers, and of the attempts that were refused. */
const used = (least: number) => ({ goodput }: Found): ReadonlyArray<Verdict> => [
  atLeast(goodput * 100, least, " % of the quota")
]

const unrefused = ({ report }: Found): Verdict => atMost((report.refusedShare ?? 0) * 100, 0.1, " % refused")

const usual = { policy: "service", inTurn: false, queueMs: 15_000 }

const fiveASecond = { unit: "answers", perSecond: 5 } as const

const pool = {
  policy: "pool",
  inTurn: true,
  queueMs: 15_000
}

const outage = ({ report: { outages: [found] } }: Found): ReadonlyArray<Verdict> => [
  atMost(found?.requestsPerCall ?? Number.NaN, 0.06, " sent into it per call offered"),
  atMost(found?.lost ?? Number.NaN, 0, " lost"),
  atMost((found?.recoveryMs ?? Infinity) / 1000, 3, " s to 95 %"),
  atMost(found?.peak ?? Number.NaN, 2.4, "× steady")
]

export const settings: ReadonlyArray<Setting> = [
  {
    ...usual,
    title: "goodput: 300 requests a minute, twice the load",
    file: oneService({ traffic: users(10), limits: { requests: perMinute(300) } }),
    quota: fiveASecond,
    budgets: (found) => [...used(99)(found), unrefused(found)]
  },
  {
    ...usual,
    title: "goodput: 300 requests a minute, five times the load",
    file: oneService({ traffic: users(25), limits: { requests: perMinute(300) } }),
    quota: fiveASecond,
    budgets: (found) => [...used(99)(found), unrefused(found)]
  },
  {
    ...usual,
    title: "goodput: 150 000 tokens a minute, three small calls to a large one, 2.2 times the load",
    file: oneService({
      traffic: [
        { name: "small", calls: 2.4, per: "1 second", input: 200, output: 100, maxTokens: 100, deadline: "1 minute" },
        { name: "large", calls: 0.8, per: "1 second", input: 4000, output: 2000, maxTokens: 2000, deadline: "1 minute" }
      ],
      limits: { tokens: perMinute(150_000) }
    }),
    quota: { unit: "tokens", perSecond: 2500 },
    budgets: (found) => [
      ...used(99)(found),
      unrefused(found),
      atLeast(found.report.fairness.largeToSmall ?? 0, 0.9, "× large to small"),
      atMost(found.report.fairness.largeToSmall ?? 0, 1.1, "× large to small")
    ]
  },
  {
    ...usual,
    title: "goodput: the quota believed at twice the truth, a refusal costs a request, twice the load",
    file: shipped("twice-the-truth", { duration: "10 minutes" }),
    quota: fiveASecond,
    budgets: used(98)
  },
  {
    ...usual,
    title: "goodput: an unknown quota, a refusal costs a request, twice the load",
    file: shipped("unknown-quota", { duration: "10 minutes" }),
    quota: fiveASecond,
    budgets: () => []
  },
  {
    ...pool,
    title: "key pool: ten keys, one dead, one hanging, one slow, two with half the quota; 0.8 of the load",
    // From the first call on, which meets the dead key.
    file: shipped("key-pool-calm", { duration: "4 minutes", warmUp: "0 millis" }),
    budgets: ({ deadRequests, hangingRequests, report }) => [
      atMost(report.calls.failed, 0, " errors"),
      atMost(report.attempts.perAnswer ?? Infinity, 1.02, " attempts an answer"),
      atMost(deadRequests, 2, " to the dead key"),
      atMost(hangingRequests, 15, " to the hanging key"),
      atMost(report.calls.latencyMs.p99 / 1000, 4, " s p99")
    ]
  },
  {
    ...pool,
    title: "key pool: the same at twice the load",
    file: shipped("key-pool", { duration: "3 minutes" }),
    quota: { unit: "answers", perSecond: 35 },
    budgets: used(99)
  },
  {
    title: "outage of a minute at half the load, nowhere else to go",
    file: shipped("outage"),
    policy: "alone",
    inTurn: false,
    queueMs: 90_000,
    budgets: outage
  },
  {
    title: "outage of a minute at half the load, with another provider to go to",
    file: shipped("outage"),
    policy: "with-another",
    inTurn: false,
    queueMs: 15_000,
    budgets: outage
  }
]

/** A day of four services, for how long it takes to simulate. */
export const day: ScenarioFile = shipped("day")
