/** @internal */
import type { Adapter, Provider } from "../../Provider.ts"
import type { Target } from "../../Target.ts"

/** The adapter of a target; a provider nobody registered is a mistake in the program, and throws. */
export const adapterOf = (provider: Provider["Service"], target: Target): Adapter => {
  const adapter = provider.adapter(target.provider)
  if (adapter === undefined) {
    throw new RangeError(
      `no adapter for provider "${target.provider}" of target "${target.id}"; registered: ${provider.names.join(", ")}`
    )
  }
  return adapter
}
