/**
 * The list of the mutants that no test can notice.
 */
import type { Group } from "./equivalents.ts"

export const groups: ReadonlyArray<Group> = []
