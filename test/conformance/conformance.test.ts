import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { evaluate } from "./expression.ts"
import type { Vector } from "./kind.ts"
import { load, run, runVector } from "./runner.ts"

const pathOf = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

const vectors = await Effect.runPromise(load(pathOf("../fixtures/vectors")))

const vector = (id: string): Vector => {
  const found = vectors.find((candidate) => candidate.id === id)
  assert.isDefined(found)
  return found
}

const folderOf = (files: Readonly<Record<string, string>>): string => {
  const folder = mkdtempSync(join(tmpdir(), "vectors-"))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  return folder
}

const shell = (...args: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    ["--conditions=breakwater-source", pathOf("run.ts"), ...args],
    { encoding: "utf8" }
  )
  return { status, stderr, stdout }
}

const outcomes = await Effect.runPromise(
  Effect.forEach(vectors, (vector) => Effect.map(runVector(vector), (outcome) => ({ vector, outcome })))
)

describe("vectors", () => {
  for (const { outcome, vector } of outcomes) {
    if (outcome._tag === "Skipped") continue
    it(`${vector.id} (${vector.kind}, ${vector.adopt}): ${vector.title}`, () => {
      if (outcome._tag === "Failed") assert.fail(outcome.why)
    })
  }
})

describe("run", () => {
  it.effect("passes every vector that must pass, of the kinds that it does not leave out", () =>
    Effect.gen(function*() {
      const report = yield* run(vectors.filter((vector) => vector.adopt === "must"))
      assert.deepStrictEqual(report.failed, [])
    }))

  it.effect("counts every vector once, and gives a reason for every name that it leaves out", () =>
    Effect.gen(function*() {
      const report = yield* run(vectors)
      const skipped = Object.values(report.skipped).reduce((sum, count) => sum + count, 0)
      assert.strictEqual(report.passed + report.failed.length + skipped, vectors.length)
      assert.deepStrictEqual(Object.keys(report.reasons), Object.keys(report.skipped))
      assert.isAbove(report.passed, 0)
    }))

  it.effect("leaves out a kind that it does not know by its name", () =>
    Effect.gen(function*() {
      const strange = { id: "x-1", kind: "tea-leaves", title: "", adopt: "must" }
      const inherited = { ...strange, id: "x-2", kind: "constructor" }
      const report = yield* run([strange, inherited])
      assert.deepStrictEqual(report.skipped, { "tea-leaves": 1, constructor: 1 })
      assert.include(report.reasons["tea-leaves"], "x-1")
    }))

  it.effect("leaves out a variant that we do not offer, and a vector that states nothing, by name", () =>
    Effect.gen(function*() {
      const base = { id: "x", kind: "backoff", title: "", adopt: "must" }
      const report = yield* run([
        { ...base, policy: { type: "linear", baseMs: 100 }, expect: { delays: [100] } },
        { ...base, policy: { type: "exponential", baseMs: 100 }, expect: {} },
        { ...base, policy: "fast", expect: {} }
      ])
      assert.deepStrictEqual(report.skipped, {
        "backoff (linear)": 1,
        "backoff (nothing to compare)": 1,
        "backoff (shape)": 1
      })
    }))

  it.effect("fails a vector whose expectation is another than what we do, with both values", () =>
    Effect.gen(function*() {
      const report = yield* run([
        { ...vector("bo-polly-03"), expect: { delays: [1000, 2000, 4001] } },
        { ...vector("ra-04"), expect: { decision: "backoff", hintMs: 60_000 } },
        { ...vector("to-fs-05"), expect: { outcome: "timeout:total", at: 499 } }
      ])
      assert.deepStrictEqual(report.failed, [
        { id: "bo-polly-03", why: "delay of attempt 2: expected 4001, got 4000" },
        { id: "ra-04", why: "decision: expected \"backoff\", got \"wait\"" },
        { id: "to-fs-05", why: "at: expected 499, got 500" }
      ])
    }))

  it.effect("runs races of any shape: all at once, one after the other, fatal, of streams, and within a limit", () =>
    Effect.gen(function*() {
      const base = { title: "", adopt: "must" }
      const hedge = { ...base, kind: "hedge" }
      const slow = { ms: 1000, outcome: "success" }
      const failure = { ms: 50, outcome: "failure" }
      const report = yield* run([
        {
          ...hedge,
          id: "all at once",
          config: { maxAttempts: 3, delayMs: 0 },
          attempts: [slow, { ...slow, ms: 50 }, slow],
          expect: { starts: [0, 0, 0], winner: 1, at: 50, cancelled: [0, 2] }
        },
        {
          ...hedge,
          id: "one after the other",
          config: { maxAttempts: 3, delayMs: -1 },
          attempts: [failure, failure, slow],
          expect: { starts: [0, 50, 100], winner: 2, at: 1100, cancelled: [] }
        },
        {
          ...hedge,
          id: "fatal",
          config: { maxAttempts: 4, delayMs: 500 },
          attempts: [slow, { ms: 200, outcome: "fatal" }],
          expect: { starts: [0, 500], failedAt: 700, cancelled: [0] }
        },
        {
          ...base,
          id: "streams",
          kind: "hedge-stream",
          config: { maxAttempts: 2, delayMs: 1000 },
          attempts: [
            { headersMs: 100, firstTokenMs: 5000, doneMs: 8000 },
            { headersMs: 300, firstTokenMs: 800, doneMs: 3000 }
          ],
          expect: { starts: [0, 1000], winner: 1, at: 1800, doneAt: 4000, cancelled: [0] }
        },
        {
          ...base,
          id: "within a limit",
          kind: "timeout-hedge",
          config: { totalMs: 100, maxAttempts: 3, delayMs: 10 },
          attempts: [slow],
          expect: { outcome: "timeout:total", at: 100, starts: [0, 10, 20], cancelled: [0, 1, 2] }
        },
        {
          ...base,
          id: "within a limit, in order",
          kind: "timeout-hedge",
          config: { order: ["timeout:100", "hedge:10"] },
          input: { taskMs: 1000 },
          expect: { result: "timeout", hedges: 1, cancelled: 2 }
        }
      ])
      assert.deepStrictEqual([report.passed, report.failed], [6, []])
    }))

  it.effect("checks every variant of a policy, not only the first", () =>
    Effect.gen(function*() {
      const report = yield* run([{
        ...vector("bo-polly-06"),
        policy: { type: ["constant", "exponential"], baseMs: 100, maxMs: 1000 },
        expect: { delay: 100 }
      }])
      assert.deepStrictEqual(report.failed, [{
        id: "bo-polly-06",
        why: "delay of attempt 2: expected 100, got 400"
      }])
    }))
})

describe("evaluate", () => {
  it("computes formulas with names, precedence and functions", () => {
    const names = { base: 100, max: 1000, k: 3 }
    assert.strictEqual(evaluate("base*2^k*4", names), 3200)
    assert.strictEqual(evaluate("min(max, base*2^k)", names), 800)
    assert.strictEqual(evaluate("-(base - 1) / 3 + 2^2^1", names), -29)
    assert.strictEqual(evaluate("max(1e3, max + 0.5)", names), 1000.5)
  })

  it("rejects what it cannot compute", () => {
    for (const wrong of ["base +", "base $ 2", "height", "min(1, 2", "1 2", ""]) {
      assert.throws(() => evaluate(wrong, { base: 1 }), wrong === "" ? /no value/ : wrong)
    }
  })
})

describe("shell", () => {
  const good = JSON.stringify({ vectors: [{ ...vector("ra-04"), id: "good" }] })
  const bad = JSON.stringify({ vectors: [{ ...vector("ra-04"), id: "bad", expect: { decision: "backoff" } }] })

  it("prints the report as JSON and exits with 0 when nothing failed", () => {
    const { status, stdout } = shell(folderOf({ "a.json": good, "README.md": "not a vector" }))
    assert.strictEqual(status, 0)
    assert.deepStrictEqual(JSON.parse(stdout), { passed: 1, failed: [], skipped: {}, reasons: {} })
  })

  it("exits with 1 when a vector of any file failed", () => {
    const { status, stdout } = shell(folderOf({ "a.json": good, "b.json": bad }))
    assert.strictEqual(status, 1)
    assert.deepStrictEqual(JSON.parse(stdout).failed, [
      { id: "bad", why: "decision: expected \"backoff\", got \"wait\"" }
    ])
  })

  it("exits with 2, says why on stderr and prints nothing else when a file cannot be read", () => {
    const { status, stderr, stdout } = shell(folderOf({ "a.json": good, "b.json": "{ half" }))
    assert.deepStrictEqual([status, stdout], [2, ""])
    assert.include(stderr, "b.json")
  })

  it("exits with 2 without a folder", () => {
    const { status, stderr } = shell()
    assert.strictEqual(status, 2)
    assert.include(stderr, "DIR")
  })
})

describe("load", () => {
  it.effect("names the folder or the file that it cannot read, and what is wrong with it", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [string, string]> = [
        [join(tmpdir(), "no-such-folder"), "no-such-folder"],
        [folderOf({ "README.md": "" }), "no *.json file"],
        [folderOf({ "a.json": "{ half" }), "a.json: "],
        [folderOf({ "a.json": "{}" }), "a.json: has no array \"vectors\""],
        [folderOf({ "a.json": "{ \"vectors\": [{ \"id\": \"x\" }] }" }), "a.json: vector 0"]
      ]
      for (const [folder, message] of wrong) {
        assert.include((yield* Effect.flip(load(folder))).message, message)
      }
    }))

  it.effect("reads every file of a folder, with infinity as a number", () =>
    Effect.gen(function*() {
      const file = (id: string) =>
        JSON.stringify({ vectors: [{ id, kind: "x", title: "", adopt: "must", n: "Infinity" }] })
      const loaded = yield* load(folderOf({ "b.json": file("b"), "a.json": file("a") }))
      assert.deepStrictEqual(loaded.map(({ id, n }) => [id, n]), [["a", Infinity], ["b", Infinity]])
    }))
})
