/**
 * `breakwater demo`: the main job with nothing configured.
 *
 * Three real HTTP servers on loopback play Groq, OpenAI and Anthropic, with quotas, retired models, scripted faults and
 * an outage in the middle. Every call goes through the whole stack of the library. Calls run one after the other, and
 * quotas refill over an hour, so that the same seed leads to the same decisions whatever the speed of the machine.
 *
 * @internal
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import type { ServeError } from "effect/http/HttpServerError"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { Attempt, LLMError } from "../../LLMError.ts"
import { LLMService } from "../../LLMService.ts"
import * as Resilience from "../../Resilience.ts"
import * as Retry from "../../Retry.ts"
import * as Target from "../../Target.ts"
import * as ProviderServer from "../../testing/ProviderServer.ts"
import { recordOf } from "../call/finish.ts"
import * as Report from "./demoReport.ts"
import { Failed } from "./failed.ts"

const flags = {
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print the report as JSON; progress stays on standard error"),
    Flag.withDefault(false)
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("Seed of prompts, faults and jitter: the same seed leads to the same decisions"),
    Flag.withDefault(1)
  ),
  calls: Flag.Int("calls").pipe(
    Flag.withDescription("Calls to make: 300 by default, 3 with --live"),
    Flag.optional
  ),
  live: Flag.Boolean("live").pipe(
    Flag.withDescription(
      "Call the real providers with GROQ_API_KEY, OPENAI_API_KEY and ANTHROPIC_API_KEY; this costs money"
    ),
    Flag.withDefault(false)
  )
}

type Driven = Omit<Report.Outcome, "seed" | "live">

interface Options {
  readonly json: boolean
  readonly seed: number
  readonly calls: Option.Option<number>
  readonly live: boolean
}

const run = Effect.fnUntraced(function*(options: Options) {
  const calls = Option.getOrElse(options.calls, () => options.live ? 3 : 300)
  if (calls < 1) {
    yield* Console.error(`--calls must be at least 1, got ${calls}`)
    return yield* new Failed({ code: 2 })
  }
  const drive: Effect.Effect<Driven, Failed | ServeError> = options.live
    ? driveLive(calls)
    : Effect.scoped(driveLoopback(calls))
  const outcome = yield* Random.withSeed(drive, options.seed).pipe(
    // The report says it all; the log of a few hundred deliberate failures would only bury it.
    Effect.provideService(References.MinimumLogLevel, "None")
  )
  const report = Report.make({ ...outcome, seed: options.seed, live: options.live })
  yield* Console.log(options.json ? JSON.stringify(report, null, 2) : Report.text(report))
  if (report.answered < report.calls) return yield* new Failed({ code: 1 })
})

export const command = Command.make("demo", flags, run).pipe(
  Command.withDescription(
    "Sends a few hundred calls through the whole stack: real HTTP providers on loopback with quotas, faults and an " +
      "outage in the middle. Needs no keys and no setup."
  ),
  Command.withExamples([
    { command: "breakwater demo", description: "300 calls over 27 models of three providers" },
    { command: "breakwater demo --json --seed 7", description: "The same as JSON, reproducible" }
  ])
)

// -----------------------------------------------------------------------------
// On loopback
// -----------------------------------------------------------------------------

const retired: ReadonlySet<string> = new Set(["llama-3.3-70b-specdec", "gemma-7b-it"])

const vendors = [
  { provider: "groq", format: "openai", flavour: "groq", requests: 10 },
  { provider: "openai", format: "openai", flavour: "openai", requests: 14 },
  { provider: "anthropic", format: "anthropic", flavour: undefined, requests: 60 }
] as const

const { Fault } = ProviderServer

/** Faults that a call can meet; all happen before the first content, so that another target can still answer. */
const faultsOf = (provider: string): ReadonlyArray<ProviderServer.Fault> => [
  Fault.Reset({}),
  // After the last provider there is nowhere to go: the call waits, and the demo shows that it does.
  Fault.Status({ status: 429, retryAfter: provider === "anthropic" ? "1 second" : "30 seconds" }),
  Fault.Status({ status: 500 }),
  Fault.EmptyBody(),
  Fault.HtmlPage({}),
  Fault.ErrorEvent({ after: 0 }),
  Fault.NoAnswer(),
  Fault.SlowFirstToken({ delay: "5 seconds" })
]

const driveLoopback = Effect.fnUntraced(function*(calls: number) {
  const servers = yield* Effect.forEach(vendors, (vendor) =>
    Effect.map(
      ProviderServer.make({
        format: vendor.format,
        flavour: vendor.flavour,
        models: Target.catalogue.flatMap((_) =>
          _.provider === vendor.provider && !retired.has(_.model) ? [_.model] : []
        ),
        limits: { requests: { limit: vendor.requests, per: "1 hour" } },
        limitScope: "model"
      }),
      (server) => ({ provider: vendor.provider, server })
    ))
  const targets = Target.catalogue.map((entry) =>
    Target.make({ ...entry, baseUrl: servers.find((_) => _.provider === entry.provider)?.server.url })
  )
  const outage = { from: Math.floor(calls * 0.45), to: Math.floor(calls * 0.55) }
  const down = servers.find((_) => _.provider === "openai")?.server

  const prepare = Effect.fnUntraced(function*(call: number, lastAnsweredBy: string) {
    const inOutage = call >= outage.from && call < outage.to
    for (const { server } of servers) yield* server.heal
    if (down !== undefined && inOutage) yield* down.outage(Fault.Status({ status: 503 }))
    // The provider that answered last is the one that will be asked; the outage is fault enough by itself.
    const next = servers.find((_) => lastAnsweredBy.startsWith(`${_.provider}/`)) ?? servers[0]
    const faults = faultsOf(next.provider)
    const draw = yield* Random.next
    const fault = faults[yield* Random.nextIntBetween(0, faults.length, { halfOpen: true })]
    if (fault !== undefined && !inOutage && draw < 0.05) yield* next.server.enqueue(fault)
  })

  const made = yield* make(calls, prepare).pipe(
    Effect.provide(
      Resilience.layer({
        targets,
        maxAttempts: 25,
        patience: 0,
        retry: Retry.standardWith({ retries: 1, base: "5 millis", max: "20 millis" }),
        timeouts: { attempt: "400 millis", connect: "400 millis", firstToken: "400 millis", idle: "2 seconds" }
      }).pipe(Layer.provide(NodeHttpClient.layerUndici))
    )
  )
  const received = yield* Effect.forEach(
    servers,
    ({ provider, server }) =>
      Effect.map(server.received, (stats) => ({ provider, requests: stats.requests, byStatus: stats.byStatus }))
  )
  return { ...made, targets: targets.length, received, outage }
})

// -----------------------------------------------------------------------------
// Live
// -----------------------------------------------------------------------------

const driveLive = Effect.fnUntraced(function*(calls: number) {
  const targets: Array<Target.Target> = []
  for (const { provider } of vendors) {
    const name = provider.toUpperCase()
    const key = yield* Effect.orDie(Config.option(Config.Redacted(`${name}_API_KEY`)))
    const baseUrl = yield* Effect.orDie(Config.option(Config.String(`${name}_BASE_URL`)))
    if (Option.isNone(key)) continue
    for (const entry of Target.catalogue) {
      if (entry.provider !== provider) continue
      targets.push(Target.make({
        ...entry,
        key: { id: `${provider}-1`, value: key.value },
        baseUrl: Option.getOrUndefined(baseUrl)
      }))
    }
  }
  if (targets.length === 0) {
    yield* Console.error("--live needs at least one of GROQ_API_KEY, OPENAI_API_KEY, ANTHROPIC_API_KEY")
    return yield* new Failed({ code: 2 })
  }
  const made = yield* make(calls, () => Effect.void).pipe(
    Effect.provide(
      Resilience.layer({ targets, maxAttempts: 25, timeouts: { total: "2 minutes" } }).pipe(
        Layer.provide(NodeHttpClient.layerUndici)
      )
    )
  )
  return { ...made, targets: targets.length, received: [], outage: undefined }
})

// -----------------------------------------------------------------------------
// Calls
// -----------------------------------------------------------------------------

const topics = ["tides", "harbours", "lighthouses", "currents", "sand bars", "moorings", "swell", "pilot boats"]

const make = Effect.fnUntraced(function*(
  calls: number,
  prepare: (call: number, lastAnsweredBy: string) => Effect.Effect<void>
) {
  const results: Array<Report.Call> = []
  const startedAt = yield* Clock.currentTimeMillis
  for (let call = 0; call < calls; call++) {
    yield* prepare(call, results.at(-1)?.target ?? "")
    const topic = topics[yield* Random.nextIntBetween(0, topics.length, { halfOpen: true })] ?? "waves"
    const streamed = (yield* Random.next) < 0.5
    const at = yield* Clock.currentTimeMillis
    const result = yield* Effect.result(ask(`Tell me one thing about ${topic}.`, streamed))
    const durationMs = (yield* Clock.currentTimeMillis) - at
    results.push(toCall(call, streamed, durationMs, result))
    if ((call + 1) % 25 === 0 || call + 1 === calls) yield* Console.error(Report.progress(results, calls))
  }
  return { results, durationMs: (yield* Clock.currentTimeMillis) - startedAt }
})

interface Answer {
  readonly text: string
  readonly target: string
  readonly attempts: ReadonlyArray<Attempt>
}

const ask = (prompt: string, streamed: boolean): Effect.Effect<Answer, LLMError, LLMService> =>
  Effect.flatMap(LLMService, (llm) =>
    streamed
      ? Stream.runFold(llm.stream({ prompt, maxTokens: 64 }), () => noAnswer, (answer, part) => {
        if (part.type === "text-delta") return { ...answer, text: answer.text + part.delta }
        return part.type === "finish" ? { ...answer, ...recordOf(part) } : answer
      })
      : llm.complete({ prompt, maxTokens: 64 }))

const noAnswer: Answer = { text: "", target: "", attempts: [] }

const toCall = (
  call: number,
  streamed: boolean,
  durationMs: number,
  result: Result.Result<Answer, LLMError>
): Report.Call => {
  const base = { call: call + 1, streamed, durationMs }
  if (Result.isFailure(result)) {
    const { attempts, message } = result.failure
    return { ...base, answered: false, target: undefined, attempts, error: message }
  }
  const { attempts, target, text } = result.success
  return { ...base, answered: text !== "", target, attempts, error: text === "" ? "an empty answer" : undefined }
}
