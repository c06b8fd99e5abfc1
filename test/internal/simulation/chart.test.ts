import { assert, describe, it } from "@effect/vitest"
import * as Simulation from "breakwater/testing/Simulation"
import { Effect } from "effect"
import * as Chart from "../../../src/internal/simulation/chart.ts"

describe("chart", () => {
  const times: ReadonlyArray<readonly [ms: number, text: string]> = [
    [0, "0 ms"],
    [999, "999 ms"],
    [1000, "1 s"],
    [4230, "4.2 s"],
    [42_300, "42 s"],
    [60_000, "1 min"],
    [90_000, "1 min 30 s"],
    [4_800_000, "1 h 20 min"],
    [86_400_000, "1 d"],
    [90_000_000, "1 d 1 h"],
    // What rounds up to a whole unit is one.
    [59_700, "1 min"],
    [119_800, "2 min"],
    [3_599_900, "1 h"],
    [86_399_000, "1 d"]
  ]
  for (const [ms, text] of times) it(`writes ${ms} ms as ${text}`, () => assert.strictEqual(Chart.time(ms), text))

  const outage = {
    description: "an outage",
    duration: "10 minutes",
    traffic: [
      { name: "a", calls: 1, per: "1 second", arrivals: "even", input: 10, output: 10, deadline: "20 seconds" },
      { name: "b", calls: 1, per: "1 minute", arrivals: "even", input: 10, output: 10, priority: "high", stream: true }
    ],
    providers: {
      xai: {
        latency: { firstToken: "100 millis" },
        faults: [{ from: "4 minutes", to: "6 minutes", fault: { kind: "status", status: 500 } }]
      }
    },
    policies: {
      one: { models: { chat: { targets: ["xai/grok-3"] } } },
      two: { models: { chat: { targets: ["xai/grok-3"], circuit: { open: "1 minute" } } } }
    }
  }

  it.effect("says what became of the calls, and draws when", () =>
    Effect.gen(function*() {
      const scenario = yield* Simulation.decode(outage)
      const report = yield* Simulation.run(scenario)
      const text = Chart.text(report)
      const lines = text.split("\n")
      assert.strictEqual(lines[0], "an outage")
      assert.include(text, `answered                 ${report.calls.answered} (`)
      assert.include(text, "outage of xai            4 min to 6 min")
      assert.include(text, "by priority")
      assert.include(text, "first token")
      const rows = lines.filter((line) => /\|.*\|$/.test(line))
      assert.isTrue(rows.every((line) => line.split("|")[1]?.length === 60))
      assert.isTrue(new Set(rows.map((line) => line.length)).size === 1)
      // The outage is from column 24 to 36.
      const target = rows.find((line) => line.includes("xai/grok-3"))?.split("|")[1] ?? ""
      assert.match(target, /^·{24}[x?]{12,16}·+$/)
      const answered = rows.find((line) => line.includes("answered"))?.split("|")[1] ?? ""
      assert.match(answered, /^\S{24} {10,16}\S+$/)
    }))

  it.effect("puts two policies beside each other", () =>
    Effect.gen(function*() {
      const scenario = yield* Simulation.decode(outage)
      const [one, two] = [yield* Simulation.run(scenario), yield* Simulation.run(scenario, { policy: "two" })]
      const text = Chart.comparison(one, two)
      const row = text.split("\n").find((line) => line.trim().startsWith("answered  "))
      assert.include(row, String(one.calls.answered))
      assert.include(row, String(two.calls.answered))
      assert.notStrictEqual(one.calls.answered, two.calls.answered)
    }))
})
