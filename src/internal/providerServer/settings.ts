/**
 * How a test provider behaves, as its users say it and as its desk needs it.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import type { Key } from "../../Target.ts"
import type { Matching, Settings } from "./desk.ts"
import type { Delay, During, Latencies } from "./latency.ts"
import { latency, period } from "./latency.ts"
import { check, type Fault } from "./plan.ts"
import { decode, type Limits, wrong } from "./quota.ts"
import { type Reply, standard } from "./reply.ts"
import type { ChatRequest } from "./request.ts"
import type { Flavour, Format } from "./vendor.ts"

/**
 * How a test provider behaves.
 *
 * @category options
 * @since 0.1.0
 */
export interface Behaviour {
  readonly format: Format
  /**
   * Vendor of the OpenAI format whose envelopes and headers are sent.
   *
   * @default "openai"
   */
  readonly flavour?: Flavour | undefined
  /**
   * Known models (Azure: deployments); others get the vendor's answer to an unknown model.
   *
   * @default every model is known
   */
  readonly models?: ReadonlyArray<string> | undefined
  /**
   * Accepted keys; others get the vendor's answer to a wrong key.
   *
   * @default every key is accepted, named `key-1`, `key-2`, … in order of appearance
   */
  readonly keys?: ReadonlyArray<Key> | undefined
  /**
   * Quotas.
   *
   * @default none
   */
  readonly limits?: Limits | undefined
  /**
   * Quotas or latencies of some models or keys, or for some time, instead of `limits` and `latency`; the first match
   * that has the one in question counts. A quota that begins later begins full.
   */
  readonly overrides?:
    | ReadonlyArray<
      Matching & During & { readonly limits?: Limits | undefined; readonly latency?: Latencies | undefined }
    >
    | undefined
  /**
   * Who shares one quota: the requests of a model with one key, of a model with any key (keys of one organisation),
   * of a key with any model, or all.
   *
   * @default "target"
   */
  readonly limitScope?: "target" | "model" | "key" | "server" | undefined
  /**
   * Whether a refused request takes one request from the quota, as it does at OpenAI.
   *
   * @default false
   */
  readonly countRejected?: boolean | undefined
  /**
   * Time on the way to the provider, to the first token, between two content chunks and for each token; a whole answer
   * takes the sum.
   *
   * @default no latency
   */
  readonly latency?: (Latencies & { readonly network?: Delay | undefined }) | undefined
  /**
   * What headers and texts say of quotas and of the wait after a refusal, as a multiple of the truth: 2 exaggerates, 0.5
   * plays down, 0 is silence.
   *
   * @default the truth
   */
  readonly claims?: { readonly quota?: number | undefined; readonly wait?: number | undefined } | undefined
  /**
   * What is answered, as text or in parts. A function that throws makes a 500 that says so.
   *
   * @default the tool demanded, JSON that follows the schema demanded, or `You said: ` and the last message
   */
  readonly reply?: string | Reply | ((request: ChatRequest) => string | Reply) | undefined
  /**
   * Characters of one content chunk.
   *
   * @default 16
   */
  readonly chunkSize?: number | undefined
  /** Faults that requests meet by chance, always or for some time; a rate of 1 for some time is an outage. */
  readonly faultRates?:
    | ReadonlyArray<Matching & During & { readonly rate: number; readonly fault: Fault }>
    | undefined
  /**
   * Requests kept in `Stats.log`.
   *
   * @default 100
   */
  readonly logSize?: number | undefined
}

/** @internal */
export const settingsOf = (options: Behaviour): Settings => {
  const { chunkSize = 16, claims, faultRates = [], format, logSize = 100, overrides = [], reply } = options
  if (options.flavour !== undefined && format !== "openai") {
    wrong("flavour", "absent unless the format is openai", options.flavour)
  }
  if (!(Number.isSafeInteger(chunkSize) && chunkSize > 0)) wrong("chunkSize", "a whole number > 0", chunkSize)
  if (!(Number.isSafeInteger(logSize) && logSize >= 0)) wrong("logSize", "a whole number >= 0", logSize)
  for (const { fault, rate } of faultRates) {
    if (!(rate >= 0 && rate <= 1)) wrong("faultRates.rate", "from 0 to 1", rate)
    check(fault)
  }
  return {
    format,
    vendor: format === "openai" ? options.flavour ?? "openai" : format,
    models: options.models === undefined ? undefined : new Set(options.models),
    modelNames: options.models ?? [],
    keys: options.keys === undefined
      ? undefined
      : new Map(options.keys.map((key) => [Redacted.value(key.value), key.id])),
    rules: [
      ...overrides.map((override) => ({
        matching: override,
        period: period("overrides", override),
        rules: override.limits === undefined ? undefined : decode(override.limits),
        latency: override.latency === undefined ? undefined : latency("overrides.latency", override.latency)
      })),
      {
        matching: {},
        period: { from: 0, to: Infinity },
        rules: decode(options.limits ?? {}),
        latency: latency("latency", options.latency ?? {})
      }
    ],
    limitScope: options.limitScope ?? "target",
    countRejected: options.countRejected ?? false,
    claims: { quota: claim("quota", claims?.quota), wait: claim("wait", claims?.wait) },
    reply: typeof reply === "function" ? reply : reply === undefined ? standard : () => reply,
    chunkSize,
    faultRates: faultRates.map((item) => ({ ...item, period: period("faultRates", item) })),
    logSize
  }
}

const claim = (field: string, factor = 1): number => {
  if (!(factor >= 0 && Number.isFinite(factor))) wrong(`claims.${field}`, "a number >= 0", factor)
  return factor
}
