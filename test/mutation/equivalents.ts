/**
 * Mutants that no test can notice, each with the proof.
 */
import type { Mutant } from "./mutate.ts"
import { groups } from "./proofs.ts"

/** Several mutants of a file with one proof. */
export interface Group {
  readonly file: string
  readonly proof: string
  /**
   * The definitions it is in, what is changed, and into what; all that fit are meant, or the n-th of them, from 1, where
   * the others can be noticed. Lines may move.
   */
  readonly mutants: ReadonlyArray<readonly [within: string, original: string, replacement: string, nth?: number]>
}

/** One entry of the list. */
export interface Equivalent {
  readonly file: string
  readonly within: string
  readonly original: string
  readonly replacement: string
  readonly nth: number | undefined
  readonly proof: string
}

export const equivalents: ReadonlyArray<Equivalent> = groups.flatMap(({ file, mutants, proof }) =>
  mutants.map(([within, original, replacement, nth]) => ({ file, within, original, replacement, nth, proof }))
)

/** Returns those mutants that an entry of the list means. */
export const meant = <A extends { readonly mutant: Mutant }>(
  { file, nth, original, replacement, within }: Equivalent,
  results: ReadonlyArray<A>
): ReadonlyArray<A> => {
  const fitting = results.filter(({ mutant }) =>
    mutant.file === file && mutant.within === within && mutant.original === original &&
    mutant.replacement === replacement
  )
  return nth === undefined ? fitting : fitting.slice(nth - 1, nth)
}
