/**
 * How adapters tell about responses; public as `Provider.OnResponse`, apart so that the adapters can import it.
 *
 * @internal
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { Target } from "../../Target.ts"

/**
 * What an adapter tells about a response, as soon as its status and headers are there.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResponseHead {
  readonly target: Target
  readonly status: number
  /** Headers by lower-case name. */
  readonly headers: Readonly<Record<string, string>>
}

export const OnResponse: Context.Reference<((head: ResponseHead) => Effect.Effect<void>) | undefined> = Context
  .Reference<((head: ResponseHead) => Effect.Effect<void>) | undefined>("breakwater/Provider/OnResponse", {
    defaultValue: () => undefined
  })
