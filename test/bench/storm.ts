/**
 * A storm by hand: many concurrent streams through `breakwater gateway` in a process of its own, with clients that leave
 * at random and providers that fail at random, and what is left of all that afterwards.
 *
 * Run it with `node --conditions=breakwater-source test/bench/storm.ts [streams] [seconds]`, by default 200 and 60.
 *
 * Exit codes: 0 when nothing is left and no answer was short, else 1.
 */
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, References, Schema } from "effect"
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import * as Children from "../support/Children.ts"
import * as Storm from "../support/Storm.ts"
import { quantile } from "./harness.ts"

const [streams = 200, seconds = 60] = process.argv.slice(2).map(Number)
const { Fault } = ProviderServer

/** Memory and sockets of a process, as Linux knows them. */
const vitals = (pid: number) => {
  const rss = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
  const sockets = readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith("socket:")
    } catch {
      return false
    }
  })
  return { rssMiB: Math.round(Number(rss) / 1024), sockets: sockets.length }
}

const Status = Schema.Struct({
  inFlight: Schema.Finite,
  limits: Schema.Array(Schema.Struct({ key: Schema.String, inFlight: Schema.Finite, waiting: Schema.Finite })),
  circuits: Schema.Array(Schema.Struct({ probes: Schema.Finite }))
})

const statusOf = (port: number) =>
  Effect.flatMap(
    Effect.promise(() => fetch(`http://127.0.0.1:${port}/breakwater/status`, { headers: { connection: "close" } })),
    (response) => Effect.flatMap(Effect.promise(() => response.json()), Schema.decodeUnknownEffect(Status))
  )

const faultRates = [
  { rate: 0.08, fault: Fault.Cut({ after: 5 }) },
  { rate: 0.03, fault: Fault.Cut({ after: 5, clean: true }) },
  { rate: 0.03, fault: Fault.ErrorEvent({ after: 5 }) },
  { rate: 0.03, fault: Fault.Stall({ after: 5 }) },
  { rate: 0.03, fault: Fault.MalformedChunk({ after: 5 }) },
  { rate: 0.03, fault: Fault.NoAnswer() },
  { rate: 0.03, fault: Fault.Reset({}) },
  { rate: 0.05, fault: Fault.Status({ status: 500 }) }
]

const main = Effect.gen(function*() {
  const shape = {
    latency: { firstToken: { min: "5 millis", max: "50 millis" }, perChunk: { min: "1 millis", max: "20 millis" } },
    reply: "The tide turns twice a day. ".repeat(20),
    faultRates
  } as const
  const openai = yield* ProviderServer.make({ ...shape, format: "openai", seed: 1 })
  const anthropic = yield* ProviderServer.make({ ...shape, format: "anthropic", seed: 2 })
  const { pid, port } = yield* Children.breakwater({
    providers: {
      openai: { baseUrl: openai.url, key: "sk-storm" },
      anthropic: { baseUrl: anthropic.url, key: "sk-storm" }
    },
    models: {
      storm: {
        strategy: "leastBusy",
        targets: [
          { provider: "openai", model: "one", limits: { concurrency: streams } },
          { provider: "anthropic", model: "two", limits: { concurrency: streams } }
        ],
        timeouts: { total: "10 seconds", connect: "500 millis", firstToken: "500 millis", idle: "500 millis" },
        retry: { retries: 1, base: "5 millis", max: "20 millis" },
        circuit: { failures: 100_000 },
        recovery: {
          classes: { timeout: { cooldown: "0 millis" }, server_error: { cooldown: "0 millis" } }
        }
      }
    }
  })
  const cold = vitals(pid)
  const options = { port, model: "storm", streams, leaving: 0.3, leaveWithin: 500, seed: "storm" }
  yield* Storm.run({ ...options, millis: 3000 })
  const warm = vitals(pid)
  console.log(`cold: ${JSON.stringify(cold)}`)
  console.log(`warm: ${JSON.stringify(warm)}`)
  const watch = Effect.sync(() => console.log(`      ${JSON.stringify(vitals(pid))}`)).pipe(
    Effect.delay("5 seconds"),
    Effect.forever
  )
  const tally = yield* Effect.raceFirst(Storm.run({ ...options, seed: "again", millis: seconds * 1000 }), watch)
  console.log(`ended: ${JSON.stringify(tally)}`)
  const idleSince = performance.now()
  yield* Effect.all([openai.awaitIdle, anthropic.awaitIdle])
  console.log(`providers idle ${Math.round(performance.now() - idleSince)} ms after the last stream`)

  // How soon a provider sees that the client of its stream has left.
  const times: Array<number> = []
  yield* openai.heal
  yield* anthropic.heal
  for (let visit = 0; visit < 100; visit++) {
    const before = [yield* openai.received, yield* anthropic.received].reduce((sum, _) => sum + _.aborted, 0)
    const leftAt = yield* Storm.leave(options)
    if (leftAt === undefined) continue
    const gone = [openai, anthropic].map((server) => server.awaitStats((_) => _.concurrent.now === 0))
    yield* Effect.all(gone)
    const after = [yield* openai.received, yield* anthropic.received].reduce((sum, _) => sum + _.aborted, 0)
    if (after > before) times.push(performance.now() - leftAt)
  }
  console.log(
    `left alone after ${quantile(times, 0.5).toFixed(1)} ms (median), ${
      quantile(times, 1).toFixed(1)
    } ms at most, of ${times.length}`
  )

  // Undici keeps idle connections to providers for 4 s.
  yield* Effect.sleep("6 seconds")
  const rest = vitals(pid)
  const status = yield* statusOf(port)
  console.log(`rest: ${JSON.stringify(rest)} ${JSON.stringify(status)}`)
  const held = status.limits.reduce((sum, limit) => sum + limit.inFlight + limit.waiting, 0)
  const probes = status.circuits.reduce((sum, circuit) => sum + circuit.probes, 0)
  const failures = [
    ...(tally.short > 0 ? ["short answers"] : []),
    ...(status.inFlight > 0 ? ["calls in flight"] : []),
    ...(held > 0 ? ["permits"] : []),
    ...(probes > 0 ? ["probes"] : []),
    ...(rest.sockets > cold.sockets ? [`${rest.sockets - cold.sockets} sockets`] : [])
  ]
  console.log(failures.length === 0 ? "nothing is left" : `left: ${failures.join(", ")}`)
  return failures.length === 0 ? 0 : 1
})

process.exitCode = await Effect.runPromise(
  Effect.scoped(main).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
)
