/**
 * The vectors of the conformance suite, a test each.
 */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { join } from "node:path"
import { load, runVector } from "../conformance/runner.ts"

for (const vector of await Effect.runPromise(load(join(import.meta.dirname, "../fixtures/vectors")))) {
  it.live(`${vector.id}: ${vector.title}`, () =>
    Effect.map(runVector(vector), (outcome) => {
      if (outcome._tag === "Failed") assert.fail(outcome.why)
    }))
}
