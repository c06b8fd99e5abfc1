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
  readonly size: number
  /** Two numbers an outcome. */
  numbers: Array<number>
  recorded: number
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
export const make = (size: number): History => ({ size, numbers: [], recorded: 0 })

/** @internal */
export const add = (history: History, at: number, result: Result, durationMs: number): void => {
  const start = (history.recorded % history.size) * 2
  history.numbers[start] = at
  history.numbers[start + 1] = Math.round(durationMs) * codeRange + (codes.get(result) ?? 0)
  history.recorded++
}

/**
 * The outcomes that are kept, oldest first.
 *
 * @internal
 */
export const entries = ({ numbers, recorded, size }: History): ReadonlyArray<Entry> =>
  Array.from({ length: Math.min(recorded, size) }, (_, index) => {
    const start = ((Math.max(0, recorded - size) + index) % size) * 2
    const packed = numbers[start + 1] ?? 0
    return {
      at: numbers[start] ?? 0,
      result: results[packed % codeRange] ?? "success",
      durationMs: Math.floor(packed / codeRange)
    }
  })

/** @internal */
export const clear = (history: History): void => {
  history.numbers = []
  history.recorded = 0
}
