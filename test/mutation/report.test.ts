import { assert, describe, it } from "@effect/vitest"
import type { Equivalent } from "./equivalents.ts"
import type { Mutant } from "./mutate.ts"
import * as Plan from "./plan.ts"
import * as Report from "./report.ts"
import type { Surveyed } from "./worker.ts"

const mutant = (id: number, file = "src/a/b.ts", replacement = "true"): Mutant => ({
  id,
  file,
  line: id,
  within: "f",
  original: "x",
  replacement
})

const result = (mutant: Mutant, verdict: Report.Result["verdict"]): Report.Result => ({
  mutant,
  verdict,
  test: verdict === "killed" ? "a test" : undefined,
  millis: 1
})

const entry = (changes: Partial<Equivalent> = {}): Equivalent => ({
  file: "src/a/b.ts",
  within: "f",
  original: "x",
  replacement: "false",
  nth: undefined,
  proof: "It is the same.",
  ...changes
})

describe("a report", () => {
  const run = { node: "v24", millis: 1, tests: 2, leftOut: [] }
  const modules = { a: ["src/a/b.ts"], c: ["src/c.ts"] }
  const results = [
    result(mutant(0), "killed"),
    result(mutant(1), "stuck"),
    result(mutant(2), "survived"),
    result(mutant(3, "src/a/b.ts", "false"), "survived"),
    result(mutant(4, "src/a/b.ts", "false"), "uncovered"),
    result(mutant(5, "src/c.ts"), "spoiled")
  ]

  it("counts what was killed among what is not proven equal, by module and in all", () => {
    const report = Report.make(run, modules, results, [entry()])
    assert.deepStrictEqual(report.modules, [
      { module: "a", mutants: 5, killed: 2, survived: 1, equivalent: 2, score: 2 / 3 * 100 },
      { module: "c", mutants: 1, killed: 0, survived: 1, equivalent: 0, score: 0 }
    ])
    assert.deepStrictEqual(report.total, {
      module: "all",
      mutants: 6,
      killed: 2,
      survived: 2,
      equivalent: 2,
      score: 50
    })
    assert.deepStrictEqual(report.survivors.map(({ mutant }) => mutant.id), [2, 5])
    assert.deepStrictEqual(report.equivalents.map(({ mutant, proof }) => [mutant.id, proof]), [
      [3, "It is the same."],
      [4, "It is the same."]
    ])
    assert.deepStrictEqual(report.wrong, [])
  })

  it("means the n-th of several when that is said", () => {
    const report = Report.make(run, modules, results, [entry({ nth: 2 })])
    assert.deepStrictEqual(report.equivalents.map(({ mutant }) => mutant.id), [4])
  })

  it("finds entries of the list that are killed, or that mean nothing, of the files it is about", () => {
    const list = [
      entry({ replacement: "true", nth: 1 }),
      entry({ within: "g" }),
      entry({ nth: 3 }),
      entry({ file: "src/d.ts" })
    ]
    assert.deepStrictEqual(Report.make(run, modules, results, list).wrong, [
      "means no mutant: src/a/b.ts g: x → false",
      "means no mutant: src/a/b.ts f: x → false",
      `killed by "a test": src/a/b.ts f: x → true`
    ])
  })
})

describe("a plan", () => {
  const test = (file: string, millis: number, covers: ReadonlyArray<number>): Surveyed => ({
    file,
    name: file,
    ok: true,
    millis,
    hits: 0,
    covers
  })
  const tests = [
    test("test/A.test.ts", 1, [0]),
    test("test/a/c.test.ts", 9, [0]),
    test("test/a/b.test.ts", 3, [0, 1]),
    test("test/B.test.ts", 401, [0, 1]),
    test("test/A.test.ts", 2, [])
  ]

  it("runs near tests before others, quick ones before slow ones, and no long ones", () => {
    const plan = Plan.make([mutant(0), mutant(1), mutant(2)], tests)
    assert.deepStrictEqual([0, 1, 2].map(plan.of), [[2, 1, 0], [2], []])
    assert.deepStrictEqual(plan.leftOut.map(({ file }) => file), ["test/B.test.ts"])
  })

  it("runs no more for a mutant than takes two seconds", () => {
    const many = Array.from({ length: 9 }, (_, place) => test(`test/${place}.test.ts`, 300, [0]))
    assert.strictEqual(Plan.make([mutant(0)], many).of(0).length, 6)
  })

  it("knows what is read of what was made while loading: all of a file with a test that covers a mutant", () => {
    assert.deepStrictEqual(Plan.make([mutant(0), mutant(1)], tests).around([0]), [0, 4, 2, 1])
  })

  it("tries first what has killed last in the same file", () => {
    const plan = Plan.make([mutant(0)], tests)
    for (const test of [0, 1, 0]) plan.killed("src/a/b.ts", test)
    assert.deepStrictEqual(plan.sorted("src/a/b.ts", [2, 1, 0]), [0, 1, 2])
    assert.deepStrictEqual(plan.sorted("src/a/b.ts", [2, 1]), [1, 2])
    assert.deepStrictEqual(plan.sorted("src/c.ts", [2, 1, 0]), [2, 1, 0])
  })
})
