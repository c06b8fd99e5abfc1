/**
 * The vocabulary shared by the limiter, its learning core and the readers of quota headers.
 *
 * @internal
 */

/**
 * One dimension a quota limits.
 *
 * @internal
 */
export type Dimension = "requests" | "tokens" | "inputTokens" | "outputTokens" | "concurrency" | "interval"

/**
 * What one response said about one dimension: every figure is absent unless the provider stated it.
 *
 * @internal
 */
export interface Observation {
  readonly dimension: Dimension
  readonly limit?: number
  readonly remaining?: number
  /** The time until the dimension is full again. */
  readonly resetMs?: number
  /** The window the limit applies to. */
  readonly windowMs?: number
}
