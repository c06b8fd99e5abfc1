/**
 * Targets: what one attempt of a call is sent to.
 *
 * A target is a provider × a model × a key, with what a router has to know about it: its place in the order, its
 * context window, its prices, what it can do. Targets are plain immutable data; their state (cooldowns, health) lives
 * in the policies, under the keys that `scopeKey` derives.
 *
 * **Details**
 *
 * The id is `provider/model@key`, or `provider/model` without a key. Ids name targets in decision records, logs and
 * metrics, so they hold the key's name and never its secret.
 *
 * **Example** (Naming a target)
 *
 * ```ts import.meta.vitest
 * import { Redacted } from "effect"
 * import { Target } from "breakwater"
 *
 * const target = Target.make({
 *   provider: "groq",
 *   model: "llama-3.3-70b-versatile",
 *   key: { id: "groq-1", value: Redacted.make("gsk_secret") }
 * })
 *
 * target.id // => "groq/llama-3.3-70b-versatile@groq-1"
 * ```
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import { models } from "./internal/catalogue.ts"
import { type Limits, plan } from "./internal/limiter/limits.ts"
import type { Scope } from "./LLMError.ts"

/**
 * A named credential of a provider.
 *
 * @category models
 * @since 0.1.0
 */
export interface Key {
  /** Name used in ids, logs and store keys, such as `groq-1`. */
  readonly id: string
  /** The secret. */
  readonly value: Redacted.Redacted<string>
}

/**
 * Prices in US dollars per million tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Price {
  readonly input: number
  readonly output: number
  /** Input read from the provider's prompt cache. Defaults to `input`. */
  readonly cachedInput?: number | undefined
}

/**
 * What a target can serve; an absent field means it can, except for `prefill`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Capabilities {
  readonly tools?: boolean | undefined
  readonly images?: boolean | undefined
  readonly jsonSchema?: boolean | undefined
  /**
   * Whether it goes on with a reply that the prompt begins, when the last message is the assistant's. `false` keeps such
   * prompts away; only a declared `true` lets a cut stream continue there.
   */
  readonly prefill?: boolean | undefined
}

/**
 * What a target is, in words of your own, such as `{ region: "eu" }` or `["eu"]`; a request names the tags it needs.
 *
 * **Details**
 *
 * `{ region: "eu" }` is the same as `["region:eu"]`.
 *
 * @category models
 * @since 0.1.0
 */
export type Tags = ReadonlyArray<string> | Readonly<Record<string, string>>

/**
 * What one attempt is sent to.
 *
 * @category models
 * @since 0.1.0
 */
export interface Target {
  readonly id: string
  readonly provider: string
  readonly model: string
  readonly key: Key | undefined
  readonly group: string | undefined
  readonly baseUrl: string | undefined
  readonly order: number
  readonly weight: number
  readonly tags: ReadonlySet<string>
  readonly tenants: ReadonlySet<string> | undefined
  readonly contextWindow: number | undefined
  readonly maxOutputTokens: number | undefined
  readonly price: Price | undefined
  readonly capabilities: Capabilities
  readonly limits: Limits | undefined
  readonly parameters: Readonly<Record<string, unknown>>
  readonly headers: Readonly<Record<string, string>>
  readonly deployment: string | undefined
  readonly apiVersion: string | undefined
}

/**
 * Options of `make`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Provider name: a preset (`openai`, `azure`, `groq`, `anthropic`, …) or the name of your own adapter. */
  readonly provider: string
  /** Model name, as the provider spells it. */
  readonly model: string
  /**
   * Id of the target.
   *
   * @default `provider/model@key`
   */
  readonly id?: string | undefined
  /** Credential; a provider that needs none (Ollama) may go without. */
  readonly key?: Key | undefined
  /** Keys that share one quota, such as an organisation. A limit reported for the group then covers all of them. */
  readonly group?: string | undefined
  /**
   * Where the provider is reached.
   *
   * @default the provider preset's public address
   */
  readonly baseUrl?: string | undefined
  /**
   * Place in the order of preference: lower is tried first, equal ones in the given sequence.
   *
   * @default 0
   */
  readonly order?: number | undefined
  /**
   * Share of the calls among targets of equal `order`, for the strategies that know weights; 0 is only tried when nothing
   * else is left.
   *
   * @default 1
   */
  readonly weight?: number | undefined
  /** What the target is, for requests that name the tags they need. */
  readonly tags?: Tags | undefined
  /**
   * Tenants whose requests it serves.
   *
   * @default all, and requests without a tenant
   */
  readonly tenants?: ReadonlyArray<string> | undefined
  /** Tokens that input and output may have together. */
  readonly contextWindow?: number | undefined
  /** Tokens a reply may have; caps the request's `maxTokens`, and is sent where the provider demands a limit. */
  readonly maxOutputTokens?: number | undefined
  /** Prices, for the cost on completions. */
  readonly price?: Price | undefined
  /** What the target cannot serve. */
  readonly capabilities?: Capabilities | undefined
  /**
   * Limits of the model as the account has them: keys of one group share them. `{}` learns them from what the provider
   * refuses and from its headers.
   *
   * @default none, and nothing is learned
   */
  readonly limits?: Limits | undefined
  /** Fields added to every request body, such as `{ reasoning_effort: "low" }`; the request's `extra` wins. */
  readonly parameters?: Readonly<Record<string, unknown>> | undefined
  /** Headers added to every request, such as `OpenAI-Organization`. Never put a secret here: use `key`. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /**
   * Azure: name of the deployment.
   *
   * @default the model name
   */
  readonly deployment?: string | undefined
  /**
   * Azure: API version of the deployment path; `v1` selects the v1 surface, which has none.
   *
   * @default "2024-10-21"
   */
  readonly apiVersion?: string | undefined
}

const positive = (field: string, value: number | undefined): void => {
  if (value !== undefined && !(Number.isFinite(value) && value > 0)) {
    throw new RangeError(`Target.make: ${field} must be a number > 0, got ${value}`)
  }
}

const notNegative = (field: string, value: number | undefined): void => {
  if (value !== undefined && !(Number.isFinite(value) && value >= 0)) {
    throw new RangeError(`Target.make: ${field} must be a number >= 0, got ${value}`)
  }
}

const notEmpty = (field: string, value: string | undefined): void => {
  if (value !== undefined && value.trim() === "") throw new RangeError(`Target.make: ${field} must not be empty`)
}

/**
 * Creates a target.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the field when a name is empty, a base URL is not an absolute http(s) URL, a size
 * is not positive or a price is negative.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Target => {
  notEmpty("provider", options.provider)
  notEmpty("model", options.model)
  notEmpty("id", options.id)
  notEmpty("key.id", options.key?.id)
  notEmpty("group", options.group)
  notEmpty("deployment", options.deployment)
  notEmpty("apiVersion", options.apiVersion)
  if (options.key !== undefined) {
    if (!Redacted.isRedacted(options.key.value)) throw new RangeError("Target.make: key.value must be Redacted")
    notEmpty("key.value", Redacted.value(options.key.value))
  }
  positive("contextWindow", options.contextWindow)
  positive("maxOutputTokens", options.maxOutputTokens)
  if (options.limits !== undefined) plan(options.limits, "Target.make: limits")
  notNegative("price.input", options.price?.input)
  notNegative("price.output", options.price?.output)
  notNegative("price.cachedInput", options.price?.cachedInput)
  notNegative("weight", options.weight)
  for (const tenant of options.tenants ?? []) notEmpty("tenants", tenant)
  const tags = tagsOf(options.tags)
  for (const tag of tags) notEmpty("tags", tag)
  if (options.order !== undefined && !Number.isFinite(options.order)) {
    throw new RangeError(`Target.make: order must be a finite number, got ${options.order}`)
  }
  if (options.baseUrl !== undefined && !(URL.canParse(options.baseUrl) && /^https?:/i.test(options.baseUrl))) {
    throw new RangeError(`Target.make: baseUrl must be an absolute http(s) URL, got ${JSON.stringify(options.baseUrl)}`)
  }
  const name = `${options.provider}/${options.model}`
  return {
    id: options.id ?? (options.key === undefined ? name : `${name}@${options.key.id}`),
    provider: options.provider,
    model: options.model,
    key: options.key,
    group: options.group,
    baseUrl: options.baseUrl,
    order: options.order ?? 0,
    weight: options.weight ?? 1,
    tags: tags.length === 0 ? noTags : new Set(tags),
    tenants: options.tenants === undefined ? undefined : new Set(options.tenants),
    contextWindow: options.contextWindow,
    maxOutputTokens: options.maxOutputTokens,
    price: options.price,
    capabilities: options.capabilities ?? nothing,
    limits: options.limits,
    parameters: options.parameters ?? nothing,
    headers: options.headers ?? nothing,
    deployment: options.deployment,
    apiVersion: options.apiVersion
  }
}

// What most of thousands of targets do not have they share.
const noTags: ReadonlySet<string> = new Set()
const nothing = {}

/**
 * Returns tags as a list of words: a field of a record is `name:value`.
 *
 * @category accessors
 * @since 0.1.0
 */
export const tagsOf = (tags: Tags | undefined): ReadonlyArray<string> =>
  tags === undefined
    ? []
    : isWords(tags)
    ? tags
    : Object.entries(tags).map(([name, value]) => value.trim() === "" ? "" : `${name}:${value}`)

// `Array.isArray` does not narrow readonly arrays.
const isWords = (tags: Tags): tags is ReadonlyArray<string> => Array.isArray(tags)

/**
 * Returns the key under which a policy keeps its state about a target at one scope.
 *
 * **Details**
 *
 * A model is known per account: two keys of one group share the state of a model, keys without a group do not. A
 * deployment is known per base URL. `request` has no state and returns `undefined`.
 *
 * @category accessors
 * @since 0.1.0
 */
export const scopeKey = (target: Target, scope: Scope): string | undefined => {
  switch (scope) {
    case "request":
      return undefined
    case "target":
      return `target:${target.id}`
    case "deployment":
      return `deployment:${target.provider}/${target.deployment ?? target.model}${
        target.baseUrl === undefined ? `@${account(target)}` : `@${target.baseUrl}`
      }`
    case "model":
      return `model:${target.provider}/${target.model}@${account(target)}`
    case "key":
      return `key:${target.provider}@${target.key?.id ?? "none"}`
    case "group":
      return `group:${target.provider}@${account(target)}`
    case "provider":
      return `provider:${target.provider}`
  }
}

const account = (target: Target): string => target.group ?? target.key?.id ?? "none"

/**
 * Returns every key under which state about a target may be kept, from the narrowest scope to the widest.
 *
 * @category accessors
 * @since 0.1.0
 */
export const scopeKeys = (target: Target): ReadonlyArray<string> => {
  const keys: Array<string> = []
  for (const scope of ["target", "deployment", "model", "key", "group", "provider"] as const) {
    const key = scopeKey(target, scope)
    if (key !== undefined) keys.push(key)
  }
  return keys
}

/**
 * What the name of a scope key tells.
 *
 * @category models
 * @since 0.1.0
 */
export interface ParsedScopeKey {
  readonly scope: Exclude<Scope, "request">
  /** Provider, when the key names one: a target whose id was chosen freely need not. */
  readonly provider: string | undefined
}

/**
 * Returns the scope and the provider of a key that `scopeKey` has made, `undefined` for any other string.
 *
 * **Gotchas**
 *
 * The provider is read from the name: the part before the first `/`, or before the first `@` for keys and groups. That
 * is wrong for a provider whose own name has that character, and for a target whose chosen id looks like another's.
 *
 * @category accessors
 * @since 0.1.0
 */
export const parseScopeKey = (key: string): ParsedScopeKey | undefined => {
  const colon = key.indexOf(":")
  const scope = key.slice(0, Math.max(0, colon))
  const name = key.slice(colon + 1)
  switch (scope) {
    case "target":
    case "deployment":
    case "model":
      return { scope, provider: before(name, "/") }
    case "key":
    case "group":
      return { scope, provider: before(name, "@") }
    case "provider":
      return { scope, provider: name === "" ? undefined : name }
    default:
      return undefined
  }
}

const before = (name: string, mark: string): string | undefined => {
  const end = name.indexOf(mark)
  return end > 0 ? name.slice(0, end) : undefined
}

/**
 * A model as options of `make`, before a key is chosen.
 *
 * @category models
 * @since 0.1.0
 */
export type Model = Omit<Options, "key">

/**
 * The catalogue of known models in their order: 15 of Groq, 7 of OpenAI, 5 of Anthropic.
 *
 * **Details**
 *
 * Each entry is what `make` takes, without a key: context window, longest reply, prices and capabilities. A figure on
 * which published sources disagree is left out. Prices are list prices without discounts, looked up on 2026-11-22; those
 * of a retired model are the last ones it had. They are data: replace them by what you pay.
 *
 * **Gotchas**
 *
 * Vendors have retired nearly all of these names. A retired model answers `model_not_found`, which leads a router to
 * the next one and lets the name rest for an hour; give the models you use where that is not wanted. Only OpenAI's
 * `gpt-4o` and `gpt-4o-mini` enforce a JSON schema: a request for one goes to no other model of the list.
 *
 * **Example** (Paying less for one model)
 *
 * ```ts import.meta.vitest
 * import { Target } from "breakwater"
 *
 * const models = Target.catalogue.map((entry) =>
 *   entry.model === "gpt-4o" ? { ...entry, price: { input: 2, output: 8 } } : entry
 * )
 *
 * models.find((entry) => entry.model === "gpt-4o")?.price // => { input: 2, output: 8 }
 * ```
 *
 * @category constants
 * @since 0.1.0
 */
export const catalogue: ReadonlyArray<Model> = models

/**
 * Returns models or targets by price, the cheapest first: by what a million tokens of input and a million of output cost
 * together. Equal ones keep their order, those without a price come last.
 *
 * **Gotchas**
 *
 * A router goes by `order` first: of targets with different orders, the lower one is still asked before a cheaper one.
 *
 * **Example** (Asking the cheapest model first)
 *
 * ```ts import.meta.vitest
 * import { Target } from "breakwater"
 *
 * Target.cheapestFirst(Target.catalogue).slice(0, 2).map((entry) => entry.model)
 * // => ["llama-3.2-1b-preview", "llama-3.2-3b-preview"]
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const cheapestFirst = <Priced extends { readonly price?: Price | undefined }>(
  models: ReadonlyArray<Priced>
): ReadonlyArray<Priced> => models.toSorted((a, b) => perMillion(a.price) - perMillion(b.price))

// A finite stand-in: infinity minus infinity is no order.
const perMillion = (price: Price | undefined): number =>
  price === undefined ? Number.MAX_VALUE : price.input + price.output
