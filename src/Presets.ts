/**
 * Ready-made options of `Resilience.layer` for four ways of use.
 *
 * Each preset is a function from what only you know (keys, models) to plain options, so anything in them can be changed
 * with a spread. What does not depend on your keys stands beside it as a constant. A preset keeps no state.
 *
 * **Details**
 *
 * | preset | for | attempts | circuit |
 * |---|---|---|---|
 * | `keyPool` | many keys of one provider | 10 | 5 failures, 120 s, 1 success |
 * | `sharedAgents` | many agents on one deployment | 4 | 5 failures, 60 s, 3 successes |
 * | `catalogue` | many models of many providers | 25 | that of `Resilience.layer` |
 * | `alerts` | four services within their tokens per minute | 10 | 5 failures, 300 s, 1 success |
 *
 * **Gotchas**
 *
 * Presets throw a `RangeError` that names the option when one makes no sense. Waits that a provider states replace the
 * cooldowns named here.
 *
 * **Example** (A pool of keys with one number changed)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { LLMService, Presets, Resilience } from "breakwater"
 *
 * const pool = Presets.keyPool({
 *   provider: "mistral",
 *   model: "mistral-small-latest",
 *   keys: [Redacted.make("first secret"), Redacted.make("second secret")]
 * })
 *
 * pool.targets.map((target) => target.key?.id) // => ["mistral-1", "mistral-2"]
 *
 * const live = Resilience.layer({ ...pool, maxAttempts: 4 }).pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(LLMService.LLMService, (llm) => Object.keys(llm)).pipe(Effect.provide(live))
 *
 * await Effect.runPromise(program) // => ["complete", "stream"]
 * ```
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import type { LLMError } from "./LLMError.ts"
import type { Limits } from "./RateLimiter.ts"
import * as Retry from "./Retry.ts"
import type * as Router from "./Router.ts"
import * as Selection from "./Selection.ts"
import * as Target from "./Target.ts"

/**
 * What a preset says whatever its targets are.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy extends Omit<Router.Options, "targets"> {
  /** When a target's circuit opens, for how long, and how it closes again. */
  readonly circuit?: CircuitBreaker.Options | undefined
}

/**
 * What a preset returns: options of `Resilience.layer`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Preset extends Policy {
  readonly targets: ReadonlyArray<Target.Target>
}

/**
 * A secret, or a secret with a name of your choice; without one, keys are named `groq-1`, `groq-2` and so on.
 *
 * @category models
 * @since 0.1.0
 */
export type Credential = Redacted.Redacted<string> | Target.Key

/**
 * One key or several.
 *
 * @category models
 * @since 0.1.0
 */
export type Keys = Credential | ReadonlyArray<Credential>

// -----------------------------------------------------------------------------
// Many keys of one provider
// -----------------------------------------------------------------------------

/**
 * Options of `keyPool`.
 *
 * @category options
 * @since 0.1.0
 */
export interface KeyPoolOptions extends Omit<Target.Model, "id" | "limits"> {
  /** The keys, in order of preference. */
  readonly keys: Keys
  /**
   * Limits of each key.
   *
   * @default Presets.keyPoolLimits
   */
  readonly limits?: Limits | undefined
}

/**
 * Limits of each key of a `keyPool`: a bucket of 5 requests that refills in a second.
 *
 * @category constants
 * @since 0.1.0
 */
export const keyPoolLimits: Limits = { requests: { limit: 5, per: "1 second", burst: 5 } }

/**
 * What `keyPool` says whatever its keys are.
 *
 * @category constants
 * @since 0.1.0
 */
export const keyPoolPolicy: Policy = {
  strategy: Selection.healthiest,
  maxAttempts: 10,
  patience: 0,
  timeouts: { attempt: "60 seconds" },
  recovery: {
    classes: {
      rate_limit: { cooldown: "60 seconds" },
      timeout: { cooldown: "10 seconds" },
      server_error: { cooldown: 0 },
      authentication: { cooldown: "1 hour" }
    }
  },
  circuit: {
    trip: CircuitBreaker.consecutive(5),
    open: "120 seconds",
    halfOpen: CircuitBreaker.successes({ required: 1 })
  }
}

/**
 * Creates the options for many keys of one provider: whatever one key suffers, the next one takes over.
 *
 * **Details**
 *
 * A key that is limited rests 60 s, or a second when it has used up its 5 requests of a second; one that timed out 10 s,
 * one that is refused an hour, one whose circuit has opened 120 s; server errors are retried with a backoff. A call makes 10 attempts of 60 s at most and never waits for a key
 * while another one is free.
 *
 * @category constructors
 * @since 0.1.0
 */
export const keyPool = ({ keys: given, limits = keyPoolLimits, ...model }: KeyPoolOptions): Preset => {
  const keys = keysOf("keyPool", "keys", model.provider, given)
  return {
    ...keyPoolPolicy,
    limits: { keys: Object.fromEntries(keys.map((key) => [key.id, limits])) },
    targets: keys.map((key) => Target.make({ ...model, key }))
  }
}

// -----------------------------------------------------------------------------
// Many agents, one deployment
// -----------------------------------------------------------------------------

/**
 * Options of `sharedAgents`.
 *
 * @category options
 * @since 0.1.0
 */
export interface SharedAgentsOptions {
  /** The deployment. Limits of its own apply besides those of the preset. */
  readonly target: Target.Target
  /**
   * Limits that all agents share.
   *
   * @default Presets.sharedAgentsLimits
   */
  readonly limits?: Limits | undefined
}

/**
 * Limits that the agents of `sharedAgents` share: 3 requests at the same time, 100 ms apart, and in any minute 60
 * requests and 150 000 tokens.
 *
 * @category constants
 * @since 0.1.0
 */
export const sharedAgentsLimits: Limits = {
  concurrency: 3,
  minInterval: "100 millis",
  requests: { limit: 60, per: "1 minute", window: "sliding" },
  tokens: { limit: 150_000, per: "1 minute", window: "sliding" }
}

/**
 * Backoff of `sharedAgents`: 3 retries, from 1 s doubling up to 30 s.
 *
 * @category constants
 * @since 0.1.0
 */
export const sharedAgentsRetry: Retry.StandardOptions = {
  retries: 3,
  base: "1 second",
  factor: 2,
  max: "30 seconds"
}

/**
 * What `sharedAgents` says whatever its deployment is.
 *
 * @category constants
 * @since 0.1.0
 */
export const sharedAgentsPolicy: Policy = {
  maxAttempts: 4,
  retry: Retry.standardWith(sharedAgentsRetry),
  recovery: { classes: { rate_limit: { sameTarget: "backoff", retries: 3, cooldown: 0 } } },
  circuit: {
    trip: CircuitBreaker.consecutive(5),
    open: "60 seconds",
    halfOpen: CircuitBreaker.successes({ required: 3, permitted: 1 })
  }
}

/**
 * Creates the options for many agents that share one deployment.
 *
 * **Details**
 *
 * Give each agent a name as the request's `tenant`: where capacity is short, agents get equal shares of it. A rate
 * limit is retried like a server error, after the stated wait or else after the backoff, since there is nowhere else
 * to go.
 *
 * **Example** (Limits of a larger deployment)
 *
 * ```ts import.meta.vitest
 * import { Redacted } from "effect"
 * import { Presets, Target } from "breakwater"
 *
 * const options = Presets.sharedAgents({
 *   target: Target.make({
 *     provider: "azure",
 *     model: "gpt-4o",
 *     baseUrl: "https://example.openai.azure.com",
 *     key: { id: "azure-1", value: Redacted.make("secret") }
 *   }),
 *   limits: { ...Presets.sharedAgentsLimits, concurrency: 10 }
 * })
 *
 * options.limits?.all?.concurrency // => 10
 * options.limits?.all?.minInterval // => "100 millis"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const sharedAgents = (options: SharedAgentsOptions): Preset => ({
  ...sharedAgentsPolicy,
  limits: { all: options.limits ?? sharedAgentsLimits },
  targets: [options.target]
})

// -----------------------------------------------------------------------------
// Many models, many providers
// -----------------------------------------------------------------------------

/**
 * Options of `catalogue`.
 *
 * @category options
 * @since 0.1.0
 */
export interface CatalogueOptions {
  /** Keys by provider; models of a provider without one are left out. */
  readonly keys: Readonly<Record<string, Keys>>
  /**
   * The models, in order of preference within their provider.
   *
   * @default Target.catalogue
   */
  readonly models?: ReadonlyArray<Target.Model> | undefined
  /**
   * Provider that is asked first.
   *
   * @default the provider of the first model
   */
  readonly first?: string | undefined
  /**
   * By provider, which ones come next after it; those that are not named follow last.
   *
   * @default the order in which the models name them
   */
  readonly order?: Readonly<Record<string, ReadonlyArray<string>>> | undefined
}

/**
 * What `catalogue` says whatever its models are.
 *
 * @category constants
 * @since 0.1.0
 */
export const cataloguePolicy: Policy = { maxAttempts: 25, patience: 0 }

/**
 * Creates the options for many models of many providers: by default 15 of Groq, then 7 of OpenAI, then 5 of Anthropic.
 *
 * **Details**
 *
 * A call goes through the list and around, past everything that is cooling, up to 25 attempts, and never waits for a
 * model while another one is free. A model that is limited rests as long as its provider says. With
 * `models: Target.cheapestFirst(Target.catalogue)` the cheapest models of each provider come first.
 *
 * **Gotchas**
 *
 * Vendors have retired nearly all models of `Target.catalogue`. Where real providers are called, give the `models` that
 * you use; otherwise the first calls, and one an hour for each name after that, find out what is no longer there.
 *
 * **Example** (Going from Groq to Anthropic first)
 *
 * ```ts import.meta.vitest
 * import { Redacted } from "effect"
 * import { Presets } from "breakwater"
 *
 * const { targets } = Presets.catalogue({
 *   keys: { groq: Redacted.make("a"), openai: Redacted.make("b"), anthropic: Redacted.make("c") },
 *   order: { groq: ["anthropic", "openai"] }
 * })
 *
 * targets.length // => 27
 * Array.from(new Set(targets.map((target) => target.provider))) // => ["groq", "anthropic", "openai"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const catalogue = (options: CatalogueOptions): Preset => {
  const models = options.models ?? Target.catalogue
  if (models.length === 0) throw invalid("catalogue", "models must not be empty")
  const providers = Array.from(new Set(models.map((_) => _.provider)))
  const keys = new Map(
    Object.entries(options.keys).map(([provider, keys]) => {
      known("keys", provider, providers)
      return [provider, keysOf("catalogue", `keys.${provider}`, provider, keys)] as const
    })
  )
  if (keys.size === 0) throw invalid("catalogue", "keys must not be empty")
  const targets = inOrder(providers, options).flatMap((provider) =>
    models.filter((_) => _.provider === provider).flatMap((model) =>
      (keys.get(provider) ?? []).map((key) => Target.make({ ...model, key }))
    )
  )
  return { ...cataloguePolicy, targets }
}

const inOrder = (
  providers: ReadonlyArray<string>,
  { first, order = {} }: Pick<CatalogueOptions, "first" | "order">
): ReadonlyArray<string> => {
  if (first !== undefined) known("first", first, providers)
  for (const [provider, next] of Object.entries(order)) {
    known("order", provider, providers)
    for (const other of next) known(`order.${provider}`, other, providers)
  }
  const following = new Map(Object.entries(order))
  const visited = new Set<string>()
  const visit = (provider: string): void => {
    if (visited.has(provider)) return
    visited.add(provider)
    following.get(provider)?.forEach(visit)
  }
  if (first !== undefined) visit(first)
  providers.forEach(visit)
  return Array.from(visited)
}

const known = (field: string, provider: string, providers: ReadonlyArray<string>): void => {
  if (!providers.includes(provider)) {
    throw invalid("catalogue", `${field} names "${provider}", which has no model; known are ${providers.join(", ")}`)
  }
}

// -----------------------------------------------------------------------------
// Services within their tokens per minute
// -----------------------------------------------------------------------------

/**
 * Names of the services of `alerts`.
 *
 * @category models
 * @since 0.1.0
 */
export type AlertsService = "openai" | "xai" | "deepseek" | "moonshot"

/**
 * What of a service `alerts` uses: a model, and the keys it is called with.
 *
 * @category models
 * @since 0.1.0
 */
export interface AlertsTarget extends Omit<Target.Model, "id" | "provider"> {
  readonly keys: Keys
}

/**
 * Options of `alerts`.
 *
 * @category options
 * @since 0.1.0
 */
export interface AlertsOptions {
  /** What of each service is used, in order of preference. */
  readonly services: {
    readonly [Service in AlertsService]?: AlertsTarget | undefined
  }
  /**
   * Tokens per minute by service; those of a service that is not used do not matter.
   *
   * @default Presets.alertsTokensPerMinute
   */
  readonly tokensPerMinute?: { readonly [Service in AlertsService]?: number | undefined } | undefined
}

/**
 * Tokens per minute of each service of `alerts`, whichever of its keys is used.
 *
 * @category constants
 * @since 0.1.0
 */
export const alertsTokensPerMinute: { readonly [Service in AlertsService]: number } = {
  openai: 3000,
  xai: 1500,
  deepseek: 5000,
  moonshot: 1000
}

/**
 * Backoff of each service of `alerts`.
 *
 * @category constants
 * @since 0.1.0
 */
export const alertsRetries: { readonly [Service in AlertsService]: Retry.StandardOptions } = {
  openai: { retries: 2, base: "2 seconds", max: "45 seconds" },
  xai: { retries: 3, base: "1 second", max: "60 seconds" },
  deepseek: { retries: 3, base: "1 second", max: "60 seconds" },
  moonshot: { retries: 3, base: "1 second", max: "30 seconds" }
}

const alertsSchedules = new Map(
  Object.entries(alertsRetries).map(([service, options]) => [service, Retry.standardWith(options)])
)

/**
 * Returns the retry schedule of a target of `alerts`: that of its service, `Retry.standard` for any other.
 *
 * @category accessors
 * @since 0.1.0
 */
export const alertsRetry = (target: Target.Target): Schedule.Schedule<unknown, LLMError> =>
  alertsSchedules.get(target.provider) ?? Retry.standard

/**
 * What `alerts` says whatever its services are.
 *
 * @category constants
 * @since 0.1.0
 */
export const alertsPolicy: Policy = {
  queueWait: "15 seconds",
  maxAttempts: 10,
  retry: alertsRetry,
  circuit: {
    trip: CircuitBreaker.consecutive(5),
    open: "300 seconds",
    halfOpen: CircuitBreaker.successes({ required: 1 })
  }
}

/**
 * Creates the options for 50 000 calls a day over four services, none of which may exceed its tokens per minute.
 *
 * **Details**
 *
 * A call that finds no service with capacity waits 15 s at most and then fails with a `RateLimitError`. A service whose
 * circuit has opened is passed over for 300 s.
 *
 * **Gotchas**
 *
 * A call that needs more tokens than a service has in a minute is never sent to it: keep `maxTokens` well below.
 *
 * **Example** (Two services, one with a larger account)
 *
 * ```ts import.meta.vitest
 * import { Redacted } from "effect"
 * import { Presets } from "breakwater"
 *
 * const options = Presets.alerts({
 *   services: {
 *     openai: { model: "gpt-4o-mini", keys: Redacted.make("a") },
 *     moonshot: { model: "kimi-k2.6", keys: Redacted.make("b") }
 *   },
 *   tokensPerMinute: { openai: 10_000 }
 * })
 *
 * options.targets.map((target) => target.id) // => ["openai/gpt-4o-mini@openai-1", "moonshot/kimi-k2.6@moonshot-1"]
 * Object.keys(options.limits?.providers ?? {}) // => ["openai", "moonshot"]
 * options.queueWait // => "15 seconds"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const alerts = (options: AlertsOptions): Preset => {
  const services = Object.entries(options.services).flatMap(([provider, service]) => {
    if (service === undefined) return []
    const { keys: given, ...model } = service
    const keys = keysOf("alerts", `services.${provider}.keys`, provider, given)
    return [{
      provider,
      tokens: tokensOf(provider, options),
      targets: keys.map((key) => Target.make({ ...model, provider, key }))
    }]
  })
  if (services.length === 0) throw invalid("alerts", "services must not be empty")
  const providers = services.map(({ provider, tokens }): [string, Limits] => [
    provider,
    { tokens: { limit: tokens, per: "1 minute", window: "sliding" } }
  ])
  return {
    ...alertsPolicy,
    limits: { providers: Object.fromEntries(providers) },
    targets: services.flatMap((_) => _.targets)
  }
}

const tokensOf = (provider: string, options: AlertsOptions): number => {
  switch (provider) {
    case "openai":
    case "xai":
    case "deepseek":
    case "moonshot": {
      const tokens = options.tokensPerMinute?.[provider] ?? alertsTokensPerMinute[provider]
      if (Number.isFinite(tokens) && tokens > 0) return tokens
      throw invalid("alerts", `tokensPerMinute.${provider} must be a number > 0, got ${tokens}`)
    }
    default:
      throw invalid("alerts", `services.${provider} must be one of ${Object.keys(alertsTokensPerMinute).join(", ")}`)
  }
}

// -----------------------------------------------------------------------------
// Keys
// -----------------------------------------------------------------------------

const keysOf = (preset: string, field: string, provider: string, keys: Keys): ReadonlyArray<Target.Key> => {
  const named = (isList(keys) ? keys : [keys]).map((key, index): Target.Key =>
    Redacted.isRedacted(key) ? { id: `${provider}-${index + 1}`, value: key } : key
  )
  if (named.length === 0) throw invalid(preset, `${field} must not be empty`)
  const ids = new Set<string>()
  for (const { id } of named) {
    if (ids.has(id)) throw invalid(preset, `${field} must have different ids, got "${id}" twice`)
    ids.add(id)
  }
  return named
}

// `Array.isArray` does not narrow readonly arrays.
const isList = (keys: Keys): keys is ReadonlyArray<Credential> => Array.isArray(keys)

const invalid = (preset: string, problem: string): RangeError => new RangeError(`Presets.${preset}: ${problem}`)
