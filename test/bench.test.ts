import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Harness from "./bench/harness.ts"
import * as Report from "./bench/report.ts"
import * as Memory from "./bench/rows/memory.ts"
import * as Traffic from "./bench/rows/traffic.ts"
import * as Tables from "./bench/table.ts"
import type { Setting } from "./bench/traffic/scenarios.ts"

const settings = { rounds: 2, sampleMs: 0.01, warmupMs: 0.01, now: Harness.wall }

describe("bench", () => {
  it.live("every benchmark in this process runs and has finite figures", () =>
    Effect.gen(function*() {
      const said: Array<string> = []
      const report = yield* Report.make(Report.inProcess, settings, (line) => said.push(line))
      assert.deepStrictEqual(report.tables.map(({ part, rows, title }) => `${part}: ${rows.length} ${title}`), [
        "limiter: 6 limiter, uncontended: one scope",
        "limiter: 8 limiter, uncontended: reserve + settle over four scopes",
        "limiter: 8 limiter, in a queue: enter at its end + hand on to its head",
        "breaker: 5 circuit breaker, closed: execute",
        "breaker: 3 circuit breaker, closed: what a call does by hand",
        "retry: 6 retry: a failure, 1 ms, an answer; 100 together",
        "call: 11 whole call, answered at once",
        "call: 9 whole call, answered by a promise",
        "call: 7 whole call, answered by a promise, 100 together",
        "stream: 4 stream of 10 000 chunks, each at once: a chunk",
        "stream: 4 stream of 10 000 chunks, each a moment later: a chunk",
        "timeouts: 4 timeout of an effect that succeeds a moment later",
        "timeouts: 4 timeout of an effect that succeeds at once",
        "hedging: 3 hedge after 60 s of an effect that succeeds a moment later",
        "hedging: 3 hedge after 60 s of an effect that succeeds at once",
        "hedging: 3 hedging: what is asked and told for a request",
        "hedging: 3 whole call that might be hedged, answered at once",
        "hedging: 3 whole call that might be hedged, answered by a promise",
        "classifier: 2 classifier: fromHttp",
        "state: 5 health of 27 targets",
        "state: 2 cooldown of 27 targets: latest",
        "selection: 14 selection among 10 targets",
        "selection: 14 selection among 100 targets",
        "selection: 14 selection among 1000 targets",
        "selection: 14 selection among 10000 targets"
      ])
      assert.strictEqual(said.length, report.tables.length)
      assert.strictEqual(said.at(-1), `[${said.length}/${said.length}] selection: selection among 10000 targets`)
      for (const { columns, rows, title } of report.tables) {
        for (const { figures, name, ratios } of rows) {
          assert.strictEqual(figures.length, columns.length)
          for (const figure of [...figures, ...ratios.map((_) => _.ratio)]) {
            assert.isTrue(Number.isFinite(figure), `${title}: ${name}: ${figure}`)
          }
        }
      }
      const lines = Report.render(report).split("\n")
      for (const line of lines) assert.isAtMost(line.length, 120, line)
      for (const { rows, title } of report.tables) {
        const at = lines.findIndex((line) => line.startsWith(title.slice(0, 60)))
        assert.isAtLeast(at, 0, title)
        for (const { name } of rows) {
          assert.isTrue(lines.slice(at).some((line) => line.startsWith(`  ${name.slice(0, 60)}`)), name)
        }
      }
      const verdicts = report.tables.flatMap(({ rows }) => rows.flatMap((_) => _.budgets))
      const met = verdicts.filter((_) => _.met).length
      assert.include(lines, `budgets: ${met} of ${verdicts.length} met`)
    }), 60_000)

  it.live("breakwater and its peers answer all that a quota allows, the same every time", () =>
    Effect.gen(function*() {
      const timers = [setTimeout, setInterval, setImmediate, Date, Math.random]
      const limits = { requests: { limit: 60, per: "1 minute" } } as const
      const setting: Setting = {
        title: "half the load",
        file: {
          duration: "2 minutes",
          traffic: [{ name: "users", calls: 30, per: "1 minute", input: 50, output: 50, deadline: "30 seconds" }],
          providers: {
            openai: {
              limits,
              latency: { network: "10 millis", firstToken: { min: "200 millis", max: "2 seconds" } },
              faults: [{ rate: 0.1, fault: { kind: "status", status: 503 } }]
            }
          },
          policies: { service: { models: { chat: { targets: [{ provider: "openai", model: "gpt-4o", limits }] } } } }
        },
        policy: "service",
        inTurn: false,
        queueMs: 15_000,
        budgets: ({ report }) => [Tables.atMost(report.calls.failed, 0, " errors")]
      }
      const table = yield* Traffic.compare(setting)
      assert.deepStrictEqual(
        table.rows.map(({ budgets, figures, name }) => [name, budgets.length, ...figures.slice(0, 3)]),
        [
          ["breakwater", 1, 100, 100, 0],
          ["cockatiel", 0, 100, 100, 0],
          ["opossum + bottleneck + p-retry", 0, 100, 100, 0],
          ["p-queue + p-retry", 0, 100, 100, 0],
          ["rate-limiter-flexible + p-retry", 0, 100, 100, 0],
          ["Effect", 0, 100, 100, 0]
        ]
      )
      for (const { figures: [, , , attempts = 0], name } of table.rows) {
        assert.isAbove(attempts, 1, name)
        assert.isBelow(attempts, 1.5, name)
      }
      assert.deepStrictEqual(yield* Traffic.compare(setting), table)
      assert.deepStrictEqual([setTimeout, setInterval, setImmediate, Date, Math.random], timers)
    }), 60_000)

  it.live("an outage and a dead key are seen in the figures of a peer as in ours", () =>
    Effect.gen(function*() {
      const setting: Setting = {
        title: "faults",
        file: {
          duration: "3 minutes",
          traffic: [{ name: "users", calls: 2, per: "1 second", input: 50, output: 50, deadline: "90 seconds" }],
          providers: {
            openai: {
              keys: ["one", "two"],
              latency: { firstToken: "500 millis" },
              faults: [
                { key: "two", fault: { kind: "status", status: 401 } },
                { from: "1 minute", to: "90 seconds", fault: { kind: "status", status: 503 } }
              ]
            }
          },
          policies: { service: { models: { chat: { targets: ["openai/gpt-4o"] } } } }
        },
        policy: "service",
        inTurn: true,
        queueMs: 90_000,
        budgets: () => []
      }
      const { columns, rows } = yield* Traffic.compare(setting)
      assert.deepStrictEqual(
        columns,
        [
          "answered",
          "goodput",
          "429s",
          "attempts",
          "p50 s",
          "p99 s",
          "dead",
          "hanging",
          "into",
          "lost",
          "back s",
          "peak"
        ]
      )
      for (const { figures, name } of rows) {
        const [dead = 0, hanging = 0, into = 0, lost = 0, back = 0] = figures.slice(6)
        assert.isAtLeast(dead, 1, name)
        assert.strictEqual(hanging, 0, name)
        assert.isAbove(into, 0, name)
        assert.isBelow(lost, 2, name)
        assert.isBelow(back, 15, name)
      }
    }), 60_000)

  it.live("every probe of memory runs, and what is idle is forgotten", () =>
    Effect.gen(function*() {
      const [targets, calls, keys] = yield* Effect.forEach(Memory.items(0.2), ({ run }) => run(), { concurrency: 2 })
      assert.deepStrictEqual([targets, calls, keys].map((table) => table?.rows.length), [3, 10, 11])
      for (const { figures, name, ratios } of [targets, calls, keys].flatMap((table) => table?.rows ?? [])) {
        for (const figure of [...figures.slice(0, 2), ...ratios.map((_) => _.ratio)]) assert.isAbove(figure, 0, name)
      }
      const ours = (keys?.rows ?? []).filter(({ name }) => name.startsWith("breakwater"))
      assert.strictEqual(ours.length, 4)
      for (const { figures: [, , left = Number.NaN], name } of ours) assert.isBelow(left, 30, name)
    }), 120_000)

  it("a part is chosen by its name, and other things by what is in their titles", () => {
    const count = (...names: ReadonlyArray<string>) =>
      Object.entries(Report.select(Report.everything, names)).flatMap(([part, items]) =>
        items.length === 0 ? [] : [`${part} ${items.length}`]
      )
    assert.deepStrictEqual(count("call"), ["call 3"])
    assert.deepStrictEqual(count("Whole call"), ["call 3", "hedging 2"])
    assert.deepStrictEqual(count("breaker", "27 targets"), ["breaker 2", "state 2"])
    assert.deepStrictEqual(count("nothing of that kind"), [])
  })

  it("a table says what it has, within 120 columns", () => {
    const long = "a name that goes on and on ".repeat(6).trim()
    const lines = Tables.render({
      title: "things",
      note: "that are there",
      unit: "µs",
      columns: ["median", "p10"],
      rows: [
        {
          name: "short",
          figures: [1.234, Number.NaN],
          ratios: [{ peer: "other", ratio: 0.123 }],
          budgets: [Tables.atMost(2, 1, " µs"), Tables.atLeast(2, 1, "×")]
        },
        { name: long, figures: [12.34, 1234.5], ratios: [], budgets: [] }
      ]
    })
    assert.deepStrictEqual(lines, [
      "things, µs".padEnd(104) + "  median     p10",
      "  (that are there)",
      "  short".padEnd(104) + "    1.23       –",
      "      0.12× other · ≤ 1 µs MISSED · ≥ 1× met",
      "  a name that goes on and on a name that goes on and on a name that goes on and on a name that goes on",
      "    and on a name that goes on and on a name that goes on and on".padEnd(104) + "    12.3    1235"
    ])
  })

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
      const { rows } = yield* Effect.promise(() =>
        Harness.measure(
          { name: "spending" },
          [
            { name: "one", run: spend(1), budgets: [Harness.micros(2999), Harness.micros(3000)] },
            {
              name: "two",
              run: spend(2),
              peers: ["one"],
              budgets: [Harness.ratio("one", 1.3), Harness.ratio("one", 1.4)]
            },
            { name: "one more", run: spend(2), over: "one" },
            { name: "half of two", run: spend(2), operations: 2 }
          ],
          { rounds: 3, sampleMs: 1, warmupMs: 0, now: () => time }
        )
      )
      assert.deepStrictEqual(
        rows.map(({ figures: [median = 0, p10 = 0, p90 = 0] }) => [p10, median, p90].map(Math.round)),
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
