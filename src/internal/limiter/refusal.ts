/**
 * Which failures tell a limiter that the provider found the rate too high.
 *
 * @internal
 */
import type { LLMError } from "../../LLMError.ts"

/** A spent credit or a daily quota says nothing about the rate, and neither does a refusal of our own. */
export const isRefusal = (error: LLMError): boolean =>
  error.origin === "provider" &&
  (error.reason === "rate_limit" || error.reason === "concurrency" || error.reason === "overloaded")
