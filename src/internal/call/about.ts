/**
 * What an error says of the target it is about.
 *
 * @internal
 */
import type { Target } from "../../Target.ts"
import type { ErrorContext } from "../../Timeouts.ts"

export const about = (target: Target): ErrorContext => ({
  provider: target.provider,
  model: target.model,
  target: target.id
})
