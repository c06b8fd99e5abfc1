/** @internal */
import * as Data from "effect/Data"
import * as Runtime from "effect/Runtime"

/** Ends the command with an exit code; what there is to say has been said. */
export class Failed extends Data.TaggedError("Failed")<{ readonly code: 1 | 2 }> {
  override readonly [Runtime.errorExitCode] = this.code
  override readonly [Runtime.errorReported] = false
}
