import { assert, describe, it } from "@effect/vitest"
import { runInNewContext } from "node:vm"
import { instrument, switchName } from "./mutate.ts"

const changes = (source: string): ReadonlyArray<string> =>
  instrument("snippet.ts", source, 0).mutants.map(({ original, replacement }) => `${original} → ${replacement}`)

describe("mutants", () => {
  const table: ReadonlyArray<readonly [source: string, expected: ReadonlyArray<string>]> = [
    ["if (a) f()", ["a → true", "a → false"]],
    ["if (a) f(); else g()", ["g() → {}", "a → true", "a → false"]],
    ["while (a) f()", ["a → false"]],
    ["if (a < b) f()", ["a < b → true", "a < b → false", "a < b → a <= b"]],
    ["x = a < b", ["a < b → a <= b", "a < b → a >= b"]],
    ["x = a === b", ["a === b → a !== b"]],
    ["if (a && b) f()", ["a && b → false", "a && b → a", "a && b → b"]],
    ["if (a || b) f()", ["a || b → true", "a || b → a", "a || b → b"]],
    ["x = a && b && c", ["a && b && c → a && b", "a && b → a", "a && b → b"]],
    ["x = a ?? b", ["a ?? b → a", "a ?? b → b"]],
    ["x = a ?? 0", ["a ?? 0 → 0", "0 → 1"]],
    ["x = a + b * c", ["a + b * c → a - b * c", "b * c → b / c"]],
    ["x = 'a' + b", []],
    ["x = -a", ["-a → a"]],
    ["x = !a", ["!a → a"]],
    ["x += 1", ["x += 1 → x -= 1", "1 → 2", "1 → 0"]],
    ["x++", ["x++ → x--"]],
    ["x = true", ["true → false"]],
    ["x = ''", [`'' → "?"`]],
    [`x = { _tag: "A", name: "b" }`, [`"b" → ""`]],
    [`if (a === "b") f()`, [`a === "b" → true`, `a === "b" → false`]],
    ["x = Math.max(0, a)", ["Math.max(0, a) → Math.min(0, a)", "Math.max(0, a) → (a)", "0 → 1"]],
    ["x = Math.floor(a)", ["Math.floor(a) → Math.ceil(a)"]],
    ["x = a.some(f)", ["a.some(f) → a.every(f)"]],
    ["x = a.filter(f)", ["a.filter(f) → a"]],
    ["x = a?.b.c?.[d]", ["a?.b.c?.[d] → a.b.c?.[d]", "a?.b.c?.[d] → a?.b.c[d]"]],
    ["const f = (a: number): number => a", ["a → undefined"]],
    ["function f() { return a }", ["{ return a } → {}"]],
    ["function f() { g(); return a }", ["{ g(); return a } → {}", "g(); → ;", "a → undefined"]],
    ["for (const a of b) f(a)", ["f(a) → {}"]],
    ["x = { ...a, b, c: d }", ["b → nothing", "c: d → nothing"]],
    ["type A = 1 | 'b'", []]
  ]
  for (const [source, expected] of table) {
    it(`of ${source}`, () => {
      assert.deepStrictEqual(changes(source), expected)
    })
  }

  it("know the line and the definitions they are in, and number on", () => {
    const { mutants } = instrument("a.ts", "const f = () => {\n  const y = { g: () => { h(1) } }\n  h()\n}", 7)
    assert.deepStrictEqual(mutants.map(({ id, line, original, within }) => [id, line, original, within]), [
      [7, 1, "{ const y = { g: () => { h(1) } } h() }", "f"],
      [8, 2, "{ h(1) }", "f.y.g"],
      [9, 2, "1", "f.y.g"],
      [10, 2, "1", "f.y.g"],
      [11, 3, "h()", "f"]
    ])
  })
})

it("a text holds all of its mutants, and is what it was as long as none is switched on", () => {
  const source = `
    const f = (a, b) => {
      let sum = a?.n ?? 2
      for (const x of b) sum += x
      if (sum > 3 && b.length > 0) return { ...a, sum }
      return sum
    }
    f({ n: 1 }, [1, 2])`
  const { code, mutants } = instrument("snippet.js", source, 0)
  const run = (on: number): unknown =>
    runInNewContext(`globalThis.${switchName} = (id) => id === ${on}; ${code.replace(/^const [^;]*;/, "")}`)
  const results = new Map(mutants.map(({ id, original, replacement }) => [`${original} → ${replacement}`, run(id)]))
  assert.strictEqual(JSON.stringify(run(-1)), `{"n":1,"sum":4}`)
  assert.strictEqual(results.get("sum += x → sum -= x"), -2)
  assert.strictEqual(JSON.stringify(results.get("sum → nothing")), `{"n":1}`)
  assert.strictEqual(results.get("sum > 3 && b.length > 0 → false"), 4)
  assert.isUndefined(results.get("{ ...a, sum } → undefined"))
  assert.strictEqual(JSON.stringify(results.get("a?.n ?? 2 → 2")), `{"n":1,"sum":5}`)
})
