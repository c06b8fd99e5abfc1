/**
 * How much load do my keys carry? The answer in virtual time, before anybody has to wait for it.
 *
 * Run it with `node examples/simulation.ts`. The same scenario as a file is simulated by `npx breakwater simulate`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Resilience, Selection, Target } from "breakwater"
import * as Simulation from "breakwater/testing/Simulation"
import { Console, Effect, Redacted } from "effect"
import assert from "node:assert/strict"

const limits = { tokens: { limit: 30_000, per: "1 minute" } } as const
const keys = ["key-1", "key-2", "key-3"] as const

/** Five minutes of so many calls a minute; one of three keys stops answering for a minute. */
const scenario = (calls: number) =>
  Simulation.decode(
    {
      duration: "6 minutes",
      warmUp: "1 minute",
      traffic: [{
        name: "questions",
        calls,
        per: "1 minute",
        input: { min: 100, max: 500 },
        output: { median: 150, p95: 400 },
        maxTokens: 500,
        deadline: "30 seconds"
      }],
      providers: {
        mistral: {
          keys,
          limits,
          latency: { firstToken: { median: "400 millis", p95: "1 second" }, perToken: "8 millis" },
          faults: [{ key: "key-2", from: "3 minutes", to: "4 minutes", fault: { kind: "noAnswer" } }]
        }
      }
    } satisfies Simulation.ScenarioFile
  )

// The layer of the program itself, with a strategy that no file could express.
const layer = Resilience.layer({
  targets: keys.map((id) =>
    Target.make({ provider: "mistral", model: "mistral-small-latest", key: { id, value: Redacted.make(id) }, limits })
  ),
  strategy: Selection.byScore("quota and health", ({ headroom, health }) => headroom * health),
  timeouts: { attempt: "10 seconds" }
})

const carries = Effect.fnUntraced(function*(calls: number) {
  const report = yield* Simulation.run(yield* scenario(calls), { policy: { name: "pool", layer } })
  const { answeredShare, latencyMs } = report.calls
  const share = `${((answeredShare ?? 0) * 100).toFixed(1)} % answered`
  yield* Console.log(`${calls} calls a minute: ${share}, p99 ${latencyMs.p99} ms, ${report.refused} refused`)
  return answeredShare ?? 0
})

const program = Effect.gen(function*() {
  const shares = [yield* carries(60), yield* carries(120), yield* carries(240)]
  const [calm = 0, busy = 0, tooMuch = 0] = shares
  assert.ok(calm > 0.99, "60 calls a minute are carried, with one key down as well")
  assert.ok(busy > tooMuch && tooMuch < 0.9, "240 are more than three keys have tokens for")
})

NodeRuntime.runMain(program)
