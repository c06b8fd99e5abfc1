/**
 * Mutants that no test can notice, each with the proof.
 */
import type { Mutant } from "./mutate.ts"

/** Names mutants by what they change, wherever the line is; every mutant that fits is meant. */
export interface Equivalent {
  readonly file: string
  readonly within: string
  readonly original: string
  readonly replacement: string
  readonly proof: string
}

export const equivalents: ReadonlyArray<Equivalent> = []

/** Whether an entry of the list means a mutant. */
export const means = (entry: Equivalent, mutant: Mutant): boolean =>
  entry.file === mutant.file && entry.within === mutant.within && entry.original === mutant.original &&
  entry.replacement === mutant.replacement
