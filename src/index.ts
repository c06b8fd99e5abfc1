/**
 * Resilience for calls to language models: limits, retries, cooldowns and fallback as Effect Layers.
 *
 * @since 0.1.0
 */
export * as CircuitBreaker from "./CircuitBreaker.ts"
export * as Classifier from "./Classifier.ts"
export * as ClientThrottle from "./ClientThrottle.ts"
export * as Cooldown from "./Cooldown.ts"
export * as Health from "./Health.ts"
export * as LLMError from "./LLMError.ts"
export * as LLMService from "./LLMService.ts"
export * as Presets from "./Presets.ts"
export * as Provider from "./Provider.ts"
export * as Anthropic from "./providers/Anthropic.ts"
export * as AzureOpenAi from "./providers/AzureOpenAi.ts"
export * as OpenAiCompatible from "./providers/OpenAiCompatible.ts"
export * as RateLimiter from "./RateLimiter.ts"
export * as Recovery from "./Recovery.ts"
export * as Resilience from "./Resilience.ts"
export * as Retry from "./Retry.ts"
export * as RetryBudget from "./RetryBudget.ts"
export * as Router from "./Router.ts"
export * as Selection from "./Selection.ts"
export * as Target from "./Target.ts"
export * as Timeouts from "./Timeouts.ts"
export * as Usage from "./Usage.ts"
