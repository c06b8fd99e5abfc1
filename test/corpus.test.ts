import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { classifyLine } from "../src/internal/classifyLine.ts"

interface Entry {
  readonly id: string
  readonly ambiguous: boolean
  readonly expected: {
    readonly class: string
    readonly reason?: string | null
    readonly retryAfterMs: number | null
    readonly scope?: string | null
    readonly accept?: ReadonlyArray<string>
  }
}

const fixture = (name: string): string => readFileSync(new URL(`./fixtures/${name}`, import.meta.url), "utf8")

const entriesOf = (name: string): ReadonlyArray<readonly [Entry, string]> =>
  fixture(name).split("\n").filter((line) => line.trim() !== "").map((line) => [JSON.parse(line) as Entry, line])

const check = (entry: Entry, line: string): void => {
  const { expected } = entry
  const actual = classifyLine(line, 1)
  if (typeof actual === "string") return assert.fail(actual)
  assert.strictEqual(actual.id, entry.id)
  assert.strictEqual(actual.retryAfterMs, expected.retryAfterMs, "retryAfterMs")
  if (entry.ambiguous) return assert.include([expected.class, ...expected.accept ?? []], actual.class)
  assert.strictEqual(actual.class, expected.class)
  if (typeof expected.reason === "string") assert.strictEqual(actual.reason, expected.reason, "reason")
  if (typeof expected.scope === "string") assert.strictEqual(actual.scope, expected.scope, "scope")
}

describe("corpus", () => {
  describe("classifies failures seen in the wild as they are labelled", () => {
    for (const [entry, line] of entriesOf("corpus/errors.jsonl")) it(entry.id, () => check(entry, line))
  })

  describe("classifies further failures of the same families", () => {
    for (const [entry, line] of entriesOf("corpus/families.jsonl")) it(entry.id, () => check(entry, line))
  })

  describe("classifies failures that were collected and labelled after the rules were written", () => {
    for (const [entry, line] of entriesOf("corpus/field.jsonl")) it(entry.id, () => check(entry, line))
  })

  it("gives ambiguous failures the labelled class too", () => {
    const other = entriesOf("corpus/errors.jsonl").filter(([entry, line]) => {
      const actual = classifyLine(line, 1)
      return typeof actual === "string" || actual.class !== entry.expected.class
    })
    assert.deepStrictEqual(other.map(([entry]) => entry.id), [])
  })
})
