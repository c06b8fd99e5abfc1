/**
 * Errors without the frames of a stack.
 *
 * @internal
 */
import * as Result from "effect/Result"

// Where the built-in objects are frozen, the limit stays what it is.
const isWritable = (): boolean => Object.getOwnPropertyDescriptor(Error, "stackTraceLimit")?.writable === true

/**
 * Returns the error that a function makes, without frames: those of an error that says what a provider or a policy has
 * answered name our own modules and nothing else, and cost more than the rest of it.
 *
 * @internal
 */
export const withoutStack = <A>(make: () => A): A => {
  if (!isWritable()) return make()
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  const made = Result.try(make)
  Error.stackTraceLimit = stackTraceLimit
  return Result.getOrThrowWith(made, (defect) => defect)
}
