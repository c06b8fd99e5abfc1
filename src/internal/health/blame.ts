/**
 * What an error says about whom.
 *
 * @internal
 */
import type { LLMError } from "../../LLMError.ts"

/**
 * Returns whether an error is evidence against the provider: not when one of our own policies refused, and not when
 * the request itself or its caller is at fault.
 *
 * @internal
 */
export const isEvidence = (error: LLMError): boolean =>
  error.origin === "provider" && error.scope !== "request" && error.errorClass !== "permanent" &&
  error.reason !== "client_abort" && error.reason !== "deadline"

/**
 * Returns whether an error is one that another attempt may heal, whether or not the provider wants to see that attempt.
 *
 * @internal
 */
export const mayHeal = (error: LLMError): boolean =>
  isEvidence(error) && error.errorClass !== "authentication" &&
  error.reason !== "insufficient_quota" && error.reason !== "billing_disabled"
