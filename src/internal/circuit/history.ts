/**
 * The last outcomes of a circuit, in a ring of plain numbers: a breaker that guards thousands of targets keeps one each.
 *
 * @internal
 */
import type { FailureClass } from "./trip.ts"

/** @internal */
export type Result = "success" | "ignored" | FailureClass

/** @internal */
export interface Entry {
  readonly at: number
  readonly result: Result
  readonly durationMs: number
}

/** @internal */
export interface History {
  readonly add: (at: number, result: Result, durationMs: number) => void
  /** The outcomes that are kept, oldest first. */
  readonly entries: () => ReadonlyArray<Entry>
  readonly clear: () => void
}

const results: ReadonlyArray<Result> = [
  "success",
  "ignored",
  "transient_network",
  "rate_limit",
  "timeout",
  "server_error",
  "authentication",
  "permanent",
  "unknown",
  "defect"
]

const codes: ReadonlyMap<Result, number> = new Map(results.map((result, code) => [result, code]))

// Whole milliseconds and the code share a number: two numbers an outcome.
const codeRange = 16

/** @internal */
export const make = (size: number): History => {
  let numbers: Array<number> = []
  let recorded = 0
  return {
    add: (at, result, durationMs) => {
      const start = (recorded % size) * 2
      numbers[start] = at
      numbers[start + 1] = Math.round(durationMs) * codeRange + (codes.get(result) ?? 0)
      recorded++
    },
    entries: () =>
      Array.from({ length: Math.min(recorded, size) }, (_, index) => {
        const start = ((Math.max(0, recorded - size) + index) % size) * 2
        const packed = numbers[start + 1] ?? 0
        return {
          at: numbers[start] ?? 0,
          result: results[packed % codeRange] ?? "success",
          durationMs: Math.floor(packed / codeRange)
        }
      }),
    clear: () => {
      numbers = []
      recorded = 0
    }
  }
}
