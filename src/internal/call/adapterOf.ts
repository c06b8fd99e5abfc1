/** @internal */
import type { Adapter, Provider } from "../../Provider.ts"
import type { Target } from "../../Target.ts"

/**
 * The adapter of a target. A provider nobody registered, or a target that its adapter cannot reach, is a mistake in the
 * program, and throws; `path` says where it is.
 */
export const adapterOf = (provider: Provider["Service"], target: Target, path: string): Adapter => {
  const adapter = provider.adapter(target.provider)
  if (adapter === undefined) {
    throw new RangeError(
      `no adapter for provider "${target.provider}" of target "${target.id}"; registered: ${provider.names.join(", ")}`
    )
  }
  const problem = adapter.check?.(target)
  if (problem !== undefined) {
    throw new RangeError(`${path}.${problem}; known providers: ${provider.names.join(", ")}`)
  }
  return adapter
}
