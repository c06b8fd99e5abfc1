import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Harness from "./bench/harness.ts"
import * as Report from "./bench/report.ts"

describe("bench", () => {
  it.live("every benchmark runs and has finite figures", () =>
    Effect.gen(function*() {
      const report = yield* Report.make({ rounds: 2, sampleMs: 0.01, warmupMs: 0.01 }, Report.inProcess)
      const groups = Map.groupBy(report.rows, (row) => row.group)
      assert.deepStrictEqual(Array.from(groups, ([group, rows]) => `${rows.length} ${group}`), [
        "6 limiter, uncontended: reserve + settle over four scopes",
        "4 limiter, in a queue: enter at its end + hand on to its head",
        "5 circuit breaker, closed: execute",
        "3 circuit breaker, closed: what a call does by hand",
        "9 whole call, answered at once",
        "7 whole call, answered by a promise",
        "5 whole call, answered by a promise, 100 together",
        "3 stream of 10 000 chunks, each at once: a chunk",
        "3 stream of 10 000 chunks, each a moment later: a chunk",
        "3 timeout of an effect that succeeds a moment later",
        "3 timeout of an effect that succeeds at once",
        "3 hedge after 60 s of an effect that succeeds a moment later",
        "3 hedge after 60 s of an effect that succeeds at once",
        "3 hedging: what is asked and told for a request",
        "3 whole call that might be hedged, answered at once",
        "3 whole call that might be hedged, answered by a promise",
        "2 classifier: fromHttp",
        "5 health of 27 targets",
        "2 cooldown of 27 targets: latest",
        "14 selection among 10 targets",
        "14 selection among 100 targets",
        "14 selection among 1000 targets",
        "14 selection among 10000 targets"
      ])
      for (const { group, median, name, p10, p90, ratios } of report.rows) {
        for (const figure of [median, p10, p90, ...ratios.map((_) => _.ratio)]) {
          assert.isTrue(Number.isFinite(figure), `${group}: ${name}: ${figure}`)
        }
      }
      const table = Report.table(report)
      for (const { group, name } of report.rows) {
        assert.include(table, group)
        assert.include(table, name)
      }
    }), 60_000)

  it.effect("what is added, a ratio and a budget are taken within a round", () =>
    Effect.gen(function*() {
      let time = 0
      // In each run everything takes a millisecond longer than in the one before.
      const spend = (ms: number) => {
        let runs = 0
        return (times: number): void => {
          time += ms * times + runs++
        }
      }
      const rows = yield* Effect.promise(() =>
        Harness.measure({
          name: "spending",
          subjects: [
            { name: "one", run: spend(1), budgets: [Harness.micros(2999), Harness.micros(3000)] },
            {
              name: "two",
              run: spend(2),
              peers: ["one"],
              budgets: [Harness.ratio("one", 1.3), Harness.ratio("one", 1.4)]
            },
            { name: "one more", run: spend(2), over: "one" },
            { name: "half of two", run: spend(2), operations: 2 }
          ]
        }, { rounds: 3, sampleMs: 1, warmupMs: 0, now: () => time })
      )
      assert.deepStrictEqual(
        rows.map(({ median, p10, p90 }) => [p10, median, p90].map(Math.round)),
        [[2200, 3000, 3800], [3200, 4000, 4800], [1000, 1000, 1000], [1600, 2000, 2400]]
      )
      assert.deepStrictEqual(rows[1]?.ratios, [{ peer: "one", ratio: 4 / 3 }])
      assert.deepStrictEqual(rows.map((row) => row.budgets.map((_) => _.met)), [[false, true], [false, true], [], []])
    }))

  it("a quantile lies between the two nearest values", () => {
    assert.deepStrictEqual([0, 0.5, 0.75, 1].map((share) => Harness.quantile([4, 1, 3, 2], share)), [1, 2.5, 3.25, 4])
    assert.strictEqual(Harness.quantile([7], 0.9), 7)
  })
})
