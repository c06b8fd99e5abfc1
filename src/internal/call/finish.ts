/**
 * Reads the decision record that a router leaves in the metadata of a stream's finish part.
 *
 * @internal
 */
import type * as Response from "effect/ai/Response"
import * as Schema from "effect/Schema"
import { Attempt } from "../../LLMError.ts"

const Record = Schema.Struct({
  target: Schema.String,
  attempts: Schema.Array(Attempt),
  timings: Schema.Struct({ totalMs: Schema.Number, waitedMs: Schema.Number, attemptMs: Schema.Number }),
  cost: Schema.optionalKey(Schema.Number),
  costAtLeast: Schema.Boolean
})

const isRecord = Schema.is(Record)

const none: typeof Record.Type = {
  target: "",
  attempts: [],
  timings: { totalMs: 0, waitedMs: 0, attemptMs: 0 },
  costAtLeast: false
}

/** The decision record of a streamed answer; an empty one where no router has answered. */
export const recordOf = (part: Response.FinishPart): typeof Record.Type => {
  const known = part.metadata["breakwater"]
  return isRecord(known) ? known : none
}
