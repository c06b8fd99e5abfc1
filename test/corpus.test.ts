import { assert, describe, it } from "@effect/vitest"
import { Classifier } from "breakwater"
import { readFileSync } from "node:fs"
import { classifyLine } from "../src/internal/classifyLine.ts"
import { parseDuration } from "../src/internal/retryAfter.ts"

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

interface Vector {
  readonly id: string
  readonly kind: string
  readonly adopt: string
  readonly input: {
    readonly status: number
    readonly nowMs: number
    readonly headers: Record<string, string>
    readonly value: string
  }
  readonly expect: {
    readonly decision: string
    readonly hintMs: number | "huge" | null
    readonly retry: boolean
    readonly ms: number | null
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

  it("gives ambiguous failures the labelled class too", () => {
    const other = entriesOf("corpus/errors.jsonl").filter(([entry, line]) => {
      const actual = classifyLine(line, 1)
      return typeof actual === "string" || actual.class !== entry.expected.class
    })
    assert.deepStrictEqual(other.map(([entry]) => entry.id), [])
  })
})

describe("vectors", () => {
  const vectors =
    (JSON.parse(fixture("vectors/retry-after.json")) as { readonly vectors: ReadonlyArray<Vector> }).vectors
  const adopted = vectors.filter((vector) => vector.adopt !== "no")

  for (const { expect, id, input, kind } of adopted) {
    switch (kind) {
      case "retry-after": {
        it(`states the wait of ${id}`, () => {
          const hint = Classifier.retryAfterMs({ status: input.status, headers: input.headers }, input.nowMs)
          if (expect.hintMs === "huge") return assert.isAbove(hint ?? 0, 1e12)
          assert.strictEqual(hint ?? null, expect.hintMs)
        })
        break
      }
      case "retry-status": {
        it(`knows whether to retry ${id}`, () => {
          const header = input.headers["x-should-retry"]
          assert.strictEqual(Classifier.isRetryableStatus(input.status, header), expect.retry)
        })
        break
      }
      case "reset-duration": {
        it(`reads the reset of ${id}`, () => assert.strictEqual(parseDuration(input.value) ?? null, expect.ms))
        break
      }
      default: {
        it(`knows the kind of ${id}`, () => assert.fail(kind))
      }
    }
  }
})
