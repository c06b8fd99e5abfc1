import { Effect } from "effect"
import * as Simulation from "../../../src/testing/Simulation.ts"
import * as Harness from "../harness.ts"
import * as Tables from "../table.ts"
import { peers } from "../traffic/peers.ts"
import { type Peer, run } from "../traffic/run.ts"
import { day, type Found, type Setting, settings } from "../traffic/scenarios.ts"

const seed = 1

/** What a provider answers nothing to, or refuses all of: a key of a scenario, by its fault. */
const faultyKeys = ({ file }: Setting, kind: string): ReadonlyArray<string | undefined> =>
  Object.values(file.providers).flatMap((provider) =>
    (provider.faults ?? []).flatMap(({ fault, key }) => fault.kind === kind && key !== undefined ? [key] : [])
  )

const requestsTo = (report: Simulation.Report, keys: ReadonlyArray<string | undefined>): number =>
  Object.values(report.providers)
    .flatMap(({ places }) => places)
    .reduce((sum, { key, requests }) => keys.includes(key) ? sum + requests : sum, 0)

/** Answers that came while calls arrived, of what the quota gave back in that time. */
const ofQuota = (
  { goodput, timeline: { answered, binMs }, warmUpMs }: Simulation.Report,
  { perSecond, unit }: NonNullable<Setting["quota"]>
): number => {
  const first = Math.ceil(warmUpMs / binMs)
  const counted = answered.slice(first)
  const answers = counted.reduce((sum, count) => sum + count, 0)
  const each = unit === "tokens" ? goodput.tokens / Math.max(1, goodput.answers) : 1
  return answers * each / (perSecond * counted.length * binMs / 1000)
}

const foundOf = (setting: Setting, report: Simulation.Report): Found => ({
  report,
  goodput: setting.quota === undefined ? report.goodput.tokensShare ?? 0 : ofQuota(report, setting.quota),
  deadRequests: requestsTo(report, faultyKeys(setting, "status")),
  hangingRequests: requestsTo(report, faultyKeys(setting, "noAnswer"))
})

const percent = (share: number | null): number => Math.round((share ?? 0) * 1000) / 10

const hasOutage = ({ file }: Setting): boolean =>
  Object.values(file.providers).some(({ faults = [] }) =>
    faults.some(({ key, rate = 1 }) => key === undefined && rate === 1)
  )

const columnsOf = (setting: Setting): ReadonlyArray<string> => [
  "answered",
  "goodput",
  "429s",
  "attempts",
  "p50 s",
  "p99 s",
  ...(faultyKeys(setting, "status").length > 0 ? ["dead", "hanging"] : []),
  ...(hasOutage(setting) ? ["into", "lost", "back s", "peak"] : [])
]

const figuresOf = (setting: Setting, found: Found): ReadonlyArray<number> => {
  const { deadRequests, goodput, hangingRequests, report } = found
  const [outage] = report.outages
  return [
    percent(report.calls.answeredShare),
    percent(goodput),
    report.refused,
    report.attempts.perAnswer ?? Number.NaN,
    report.calls.latencyMs.p50 / 1000,
    report.calls.latencyMs.p99 / 1000,
    ...(faultyKeys(setting, "status").length > 0 ? [deadRequests, hangingRequests] : []),
    ...(hasOutage(setting)
      ? [
        outage?.requestsPerCall ?? Number.NaN,
        outage?.lost ?? Number.NaN,
        outage?.recoveryMs === null || outage === undefined ? Number.NaN : outage.recoveryMs / 1000,
        outage?.peak ?? Number.NaN
      ]
      : [])
  ]
}

const noteOf = (setting: Setting): string =>
  [
    setting.quota === undefined
      ? "answered, %; goodput, % of the tokens that somebody could have answered who knows all quotas and outages"
      : "answered, %; goodput, % of what the quota gives back while calls arrive",
    "attempts for each answer",
    ...(faultyKeys(setting, "status").length > 0 ? ["dead, hanging: requests to these keys"] : []),
    ...(hasOutage(setting)
      ? [
        "into: requests sent into the outage, for each call offered in it; back: until 95 % of the usual throughput; " +
        "peak: after the outage, as a multiple of the usual"
      ]
      : [])
  ].join("; ")

/** Puts breakwater and its peers through a scenario. */
export const compare = (setting: Setting, others: ReadonlyArray<Peer> = peers): Effect.Effect<Tables.Table> =>
  Effect.gen(function*() {
    const scenario = yield* Effect.orDie(Simulation.decode(setting.file))
    const own = yield* Effect.orDie(Simulation.run(scenario, { seed, policy: setting.policy }))
    const { possibleAnswers: answers, possibleTokens: tokens } = own.goodput
    const ours = foundOf(setting, own)
    const rows: Array<Tables.Row> = [
      { name: "breakwater", figures: figuresOf(setting, ours), ratios: [], budgets: setting.budgets(ours) }
    ]
    for (const peer of others) {
      const report = yield* Effect.promise(() =>
        run(scenario, peer, { ...setting, seed, possible: { answers, tokens } })
      )
      rows.push({ name: peer.name, figures: figuresOf(setting, foundOf(setting, report)), ratios: [], budgets: [] })
    }
    return { title: setting.title, note: noteOf(setting), columns: columnsOf(setting), rows }
  })

const simulatedDay: Effect.Effect<Tables.Table> = Effect.gen(function*() {
  const scenario = yield* Effect.orDie(Simulation.decode(day))
  const start = Harness.thread()
  const report = yield* Effect.orDie(Simulation.run(scenario, { seed }))
  const seconds = (Harness.thread() - start) / 1000
  return {
    title: "a day of 50 000 calls over four services, simulated",
    note: "seconds of the thread's own time; answered, %; attempts for each answer",
    columns: ["seconds", "answered", "429s", "attempts"],
    rows: [{
      name: "breakwater",
      figures: [seconds, percent(report.calls.answeredShare), report.refused, report.attempts.perAnswer ?? Number.NaN],
      ratios: [],
      budgets: [
        Tables.atMost(seconds, 10, " s"),
        Tables.atLeast(percent(report.calls.answeredShare), 100, " % answered"),
        Tables.atMost(report.refused, 0, " 429s")
      ]
    }]
  }
})

export const items: ReadonlyArray<{ readonly title: string; readonly run: () => Effect.Effect<Tables.Table> }> = [
  ...settings.map((setting) => ({ title: setting.title, run: () => compare(setting) })),
  { title: "a day of 50 000 calls over four services, simulated", run: () => simulatedDay }
]
