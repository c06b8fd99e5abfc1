/**
 * Estimates the tokens of a call before it is sent, learns from what calls really used, and says what an attempt that
 * ended somehow should be settled to.
 *
 * A limiter has to reserve tokens before anybody knows how many there will be. The input is counted: exactly for models
 * of OpenAI when `gpt-tokenizer` is installed and `layer` is used, otherwise as characters ÷ 4, corrected by the ratio
 * that was observed for the model. The output is reserved by a strategy: `mirror` reserves all tokens the reply may
 * have, `observed` the 95th percentile of recent replies with a margin. What was learnt lives in the service, for the
 * 1000 models used last.
 *
 * **Details**
 *
 * Every message adds 4 tokens and every prompt 3 for the framing, a tool 12 besides its name, description and schema,
 * an image 1600 (what a full-size one costs), a text file its own text, any other file one token for 40 bytes and at
 * least 2000 (about a page).
 *
 * **Gotchas**
 *
 * An estimate is no bill: it errs on the high side where it has to guess, and settling gives back what was too much.
 *
 * **Example** (Reserving, then settling)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Target, Usage } from "breakwater"
 *
 * const target = Target.make({ provider: "groq", model: "llama-3.3-70b-versatile" })
 *
 * const program = Effect.gen(function*() {
 *   const usage = yield* Usage.Usage
 *   const estimate = yield* usage.estimate({ prompt: "What is the capital of France?", maxTokens: 200 }, target)
 *   const settled = Usage.settlement({ _tag: "Interrupted", sent: true }, estimate, 12)
 *   return [estimate.input, estimate.output, settled.output]
 * }).pipe(Effect.provide(Usage.layerMemory()))
 *
 * await Effect.runPromise(program) // => [15, 200, 12]
 * ```
 *
 * @since 0.1.0
 */
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Tool from "effect/ai/Tool"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Requests from "./internal/call/request.ts"
import * as Step from "./internal/step.ts"
import * as Wire from "./internal/wire/prompt.ts"
import type { LLMError, PermanentError } from "./LLMError.ts"
import type { CompletionRequest } from "./LLMService.ts"
import type { Target } from "./Target.ts"

/**
 * Service that estimates the tokens of calls and learns from their usage.
 *
 * @category services
 * @since 0.1.0
 */
export class Usage extends Context.Service<Usage, {
  /** Returns the tokens to reserve for a request to a target; fails on an invalid request as the call itself would. */
  readonly estimate: (request: CompletionRequest, target: Target) => Effect.Effect<Estimate, PermanentError>
  /** Learns from what a successful call reported. */
  readonly record: (sample: Sample) => Effect.Effect<void>
  /** Returns what was learnt of a target's model. */
  readonly statistics: (target: Target) => Effect.Effect<Statistics>
}>()("breakwater/Usage") {}

/**
 * Tokens to reserve for one attempt.
 *
 * @category models
 * @since 0.1.0
 */
export interface Estimate {
  readonly input: number
  readonly output: number
  /** Tokens of the text before calibration. */
  readonly text: number
  /** Tokens of images and files, which no tokenizer counts. */
  readonly attachments: number
  /** Whether the text was counted with the model's own tokenizer. */
  readonly exact: boolean
}

/**
 * What a call used, beside what was estimated for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sample {
  readonly target: Target
  readonly usage: Response.Usage
  /** Without it only the output is learnt. */
  readonly estimate?: Estimate | undefined
}

/**
 * How the output of a call is reserved: `mirror` reserves what the reply may have, as providers do that count
 * `max_tokens` up front; `observed` what replies of the model had, for providers that count what was generated.
 *
 * @category models
 * @since 0.1.0
 */
export type Strategy = "mirror" | "observed"

/**
 * Counts the tokens of texts for the models it knows.
 *
 * @category models
 * @since 0.1.0
 */
export interface Tokenizer {
  /** Returns how texts for a target are counted, the same function for the same encoding; `undefined` when unknown. */
  readonly counter: (target: Target) => ((text: string) => number) | undefined
}

/**
 * Options of `layerMemory` and `layer`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * How the output is reserved, for all targets or target by target.
   *
   * @default "mirror"
   */
  readonly strategy?: Strategy | ((target: Target) => Strategy) | undefined
  /**
   * Output tokens reserved by `mirror` when neither the request nor the target limits the reply.
   *
   * @default 1024
   */
  readonly defaultOutput?: number | undefined
  /**
   * Replies that `observed` has to know of a model; it mirrors until then.
   *
   * @default 20
   */
  readonly minSamples?: number | undefined
  /**
   * Share of the known replies that `observed` covers.
   *
   * @default 0.95
   */
  readonly quantile?: number | undefined
  /**
   * What `observed` multiplies that by.
   *
   * @default 1.15
   */
  readonly margin?: number | undefined
  /** Tokenizer of your own, asked before anything else. */
  readonly tokenizer?: Tokenizer | undefined
}

interface Decoded {
  readonly strategy: (target: Target) => Strategy
  readonly defaultOutput: number
  readonly minSamples: number
  readonly quantile: number
  readonly margin: number
  readonly tokenizer: Tokenizer | undefined
}

const check = (field: string, valid: boolean, rule: string, value: unknown): void => {
  if (!valid) throw new RangeError(`Usage: options.${field} must be ${rule}, got ${String(value)}`)
}

const decode = (options: Options): Decoded => {
  const { defaultOutput = 1024, margin = 1.15, minSamples = 20, quantile = 0.95, strategy = "mirror" } = options
  check("defaultOutput", Number.isInteger(defaultOutput) && defaultOutput > 0, "an integer > 0", defaultOutput)
  check("minSamples", Number.isInteger(minSamples) && minSamples > 0, "an integer > 0", minSamples)
  check("minSamples", minSamples <= remembered, `at most ${remembered}`, minSamples)
  check("quantile", quantile > 0 && quantile <= 1, "in (0, 1]", quantile)
  check("margin", Number.isFinite(margin) && margin >= 1, "a number >= 1", margin)
  if (typeof strategy === "string") {
    check("strategy", strategy === "mirror" || strategy === "observed", `"mirror" or "observed"`, strategy)
  }
  return {
    strategy: typeof strategy === "string" ? () => strategy : strategy,
    defaultOutput,
    minSamples,
    quantile,
    margin,
    tokenizer: options.tokenizer
  }
}

/** Returns what a function says about a target, which never changes, and asks it once. */
const once = <A>(of: (target: Target) => A): (target: Target) => A => {
  const known = new WeakMap<Target, { readonly value: A }>()
  return (target) => {
    const found = known.get(target)
    if (found !== undefined) return found.value
    const value = of(target)
    known.set(target, { value })
    return value
  }
}

const keyOf = once((target) => `${target.provider}/${target.model}`)

const make = (options: Decoded): Usage["Service"] => {
  const models = new Map<string, Model>()
  let latest: Model | undefined

  const use = (target: Target): Model => {
    const key = keyOf(target)
    const known = models.get(key)
    if (known !== undefined && known === latest) return known
    const model = known ?? modelOf(empty)
    // Deleting first makes this the model used last; the one used longest ago is the first of the map.
    models.delete(key)
    models.set(key, model)
    if (models.size > maxModels) { for (const oldest of models.keys()) if (models.delete(oldest)) break }
    latest = model
    return model
  }

  return Usage.of({
    estimate: (request, target) =>
      Step.make(() => {
        const prepared = Requests.prepare(request)
        return Result.isSuccess(prepared)
          ? Exit.succeed(estimateWith(options, prepared.success, target, models.get(keyOf(target)) ?? empty))
          : Exit.fail(prepared.failure)
      }),
    record: ({ estimate, target, usage }) => Step.sync(() => learn(use(target), usage, estimate)),
    statistics: (target) =>
      Effect.sync(() => {
        const model = models.get(keyOf(target))
        return model === undefined ? empty : statisticsOf(model)
      })
  })
}

/**
 * Provides a `Usage` that counts characters and keeps what it learns in the process.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one is out of range.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: Options = {}): Layer.Layer<Usage> => {
  const decoded = decode(options)
  return Layer.sync(Usage, () => make(decoded))
}

/**
 * Provides a `Usage` that counts tokens of OpenAI's models exactly when `gpt-tokenizer` is installed.
 *
 * **Details**
 *
 * Without the package it is `layerMemory`. Building the layer loads the tables, which takes about 0.2 s and 30 MB an
 * encoding: `o200k_base` is that of all models since GPT-4o, `cl100k_base` of GPT-4 and GPT-3.5. Models of an encoding
 * that was not loaded, and all of other vendors, are counted in characters.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` that names the option when one is out of range.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options & {
    /** Encodings to load. */
    readonly encodings?: ReadonlyArray<Encoding> | undefined
  } = {}
): Layer.Layer<Usage> => {
  const decoded = decode(options)
  const encodings: ReadonlyArray<Encoding> = options.encodings ?? ["o200k_base"]
  const load = Effect.map(
    Effect.forEach(
      encodings,
      (encoding) => Effect.map(loadEncoding(encoding), (counter) => [encoding, counter] as const)
    ),
    (loaded) => new Map(loaded)
  )
  return Layer.effect(
    Usage,
    Effect.map(load, (counters) =>
      make({
        ...decoded,
        tokenizer: {
          counter: (target) => {
            const own = decoded.tokenizer?.counter(target)
            if (own !== undefined) return own
            const encoding = encodingOf(target)
            return encoding === undefined ? undefined : counters.get(encoding)
          }
        }
      }))
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Estimating
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Returns the estimate of a request whose model nothing is known of: characters ÷ 4 and all the reply may have.
 *
 * **When to use**
 *
 * Use where no `Usage` service is at hand.
 *
 * @category constructors
 * @since 0.1.0
 */
export const mirror = (request: CompletionRequest, target: Target): Effect.Effect<Estimate, PermanentError> =>
  Effect.map(
    Effect.fromResult(Requests.prepare(request)),
    (prepared) => estimateWith(defaults, prepared, target, empty)
  )

const estimateWith = (
  options: Decoded,
  request: Requests.Prepared,
  target: Target,
  statistics: Known
): Estimate => {
  const counter = options.tokenizer?.counter(target)
  const weight = weigh(request, counter)
  const input = counter === undefined ? weight.text * ratio(statistics) : weight.text
  return {
    input: Math.ceil(input - 1e-9) + weight.attachments,
    output: output(options, replyLimit(request, target), target, statistics),
    text: weight.text,
    attachments: weight.attachments,
    exact: counter !== undefined
  }
}

const output = (
  options: Decoded,
  limit: number | undefined,
  target: Target,
  statistics: Known
): number => {
  const most = limit ?? target.maxOutputTokens ?? Number.POSITIVE_INFINITY
  if (options.strategy(target) === "observed" && statistics.sorted.length >= options.minSamples) {
    return Math.max(1, Math.min(most, Math.ceil(quantile(statistics, options.quantile) * options.margin)))
  }
  return limit ?? Math.min(most, options.defaultOutput)
}

/** What our adapter for Anthropic, whose API demands a limit, sends when neither the request nor the target has one. */
const anthropicDefault = 4096

const limitFields = ["max_completion_tokens", "max_tokens", "max_output_tokens"]

const limitIn = (fields: Readonly<Record<string, unknown>>): number | undefined => {
  for (const name of limitFields) {
    const value = fields[name]
    if (typeof value === "number" && value > 0) return Math.ceil(value)
  }
  return undefined
}

const limitOf = once(({ parameters }) => limitIn(parameters))

/** Tokens the reply may have, as it will be sent. */
const replyLimit = (request: CompletionRequest, target: Target): number | undefined => {
  const asked = (request.extra === undefined ? undefined : limitIn(request.extra)) ?? limitOf(target)
  if (asked !== undefined) return asked
  const limit = Wire.maxTokens(target, request)
  return limit === undefined && target.provider === "anthropic" ? target.maxOutputTokens ?? anthropicDefault : limit
}

// ---------------------------------------------------------------------------------------------------------------------
// Counting
// ---------------------------------------------------------------------------------------------------------------------

const messageTokens = 4
const promptTokens = 3
const toolTokens = 12
const imageTokens = 1600
const fileTokens = 2000
const bytesPerFileToken = 40
const charactersPerToken = 4

interface Weight {
  readonly text: number
  readonly attachments: number
}

/**
 * Returns the tokens of a text of so many characters, before calibration.
 *
 * **When to use**
 *
 * Use to turn what a stream has emitted so far into the tokens that `settlement` asks for.
 *
 * @category combinators
 * @since 0.1.0
 */
export const fromCharacters = (characters: number): number => Math.ceil(characters / charactersPerToken)

const byCharacters = (text: string): number => text.length / charactersPerToken

// A prompt is immutable and tokenizing it can cost milliseconds, while a call may weigh it once a target.
const weighed = new WeakMap<(text: string) => number, WeakMap<Prompt.Prompt, Weight>>()

const weigh = (request: Requests.Prepared, counter: ((text: string) => number) | undefined): Weight => {
  const prompt = counter === undefined ? weighPrompt(request.prompt, byCharacters) : weighOnce(request.prompt, counter)
  const count = counter ?? byCharacters
  let text = prompt.text + promptTokens
  for (const tool of request.tools ?? []) text += toolTokens + count(toolText(tool))
  if (request.responseFormat?.type === "json_schema") text += count(jsonText(request.responseFormat.schema))
  return { text, attachments: prompt.attachments }
}

const weighOnce = (prompt: Prompt.Prompt, counter: (text: string) => number): Weight => {
  const known = weighed.get(counter) ?? new WeakMap<Prompt.Prompt, Weight>()
  weighed.set(counter, known)
  const weight = known.get(prompt) ?? weighPrompt(prompt, counter)
  known.set(prompt, weight)
  return weight
}

const weighPrompt = (prompt: Prompt.Prompt, count: (text: string) => number): Weight => {
  let text = 0
  let attachments = 0
  for (const message of prompt.content) {
    text += messageTokens
    if (message.role === "system") {
      text += count(message.content)
      continue
    }
    for (const part of message.content) {
      switch (part.type) {
        case "text":
        case "reasoning":
          text += count(part.text)
          break
        case "tool-call":
          text += count(part.name) + count(Wire.json(part.params, "params", []))
          break
        case "tool-result":
          text += count(Wire.toolResultText(part, []))
          break
        case "file":
          attachments += fileWeight(part)
          break
        // Approvals stay with the application.
        case "tool-approval-request":
        case "tool-approval-response":
          break
      }
    }
  }
  return { text, attachments }
}

const fileWeight = (part: Prompt.FilePart): number => {
  if (part.mediaType.startsWith("image/")) return imageTokens
  const address = part.data instanceof URL || (typeof part.data === "string" && /^https?:/i.test(part.data))
  if (address) return fileTokens
  // Text in a string is base64, which holds three bytes in four characters.
  const bytes = part.data instanceof Uint8Array ? part.data.byteLength : String(part.data).length * 0.75
  return /^text\/|[/+](?:json|xml)$/.test(part.mediaType)
    ? fromCharacters(bytes)
    : Math.max(fileTokens, Math.ceil(bytes / bytesPerFileToken))
}

// Tools and schemas are immutable and shared by many requests.
const texts = new WeakMap<object, string>()

const textOf = (value: object, describe: () => string): string => {
  const known = texts.get(value)
  if (known !== undefined) return known
  const text = describe()
  texts.set(value, text)
  return text
}

const jsonText = (value: object): string => textOf(value, () => Wire.json(value, "schema", []))

const toolText = (tool: Tool.Any): string =>
  textOf(tool, () => {
    const schema = Tool.isProviderDefined(tool) ? undefined : Result.try(() => Tool.getJsonSchema(tool))
    const json = schema !== undefined && Result.isSuccess(schema) ? Wire.json(schema.success, "schema", []) : ""
    return `${tool.name} ${Tool.getDescription(tool) ?? ""} ${json}`
  })

// ---------------------------------------------------------------------------------------------------------------------
// Learning
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What is known of a model.
 *
 * @category models
 * @since 0.1.0
 */
export interface Statistics {
  /** Output tokens of the last 256 replies, the oldest first. */
  readonly outputs: ReadonlyArray<number>
  /** The same in ascending order. */
  readonly sorted: ReadonlyArray<number>
  /** Input tokens we counted, forgotten exponentially. */
  readonly counted: number
  /** Input tokens the provider reported for the same prompts, cached ones included. */
  readonly reported: number
}

const remembered = 256
const maxModels = 1000
/** Weight of the assumption that characters ÷ 4 is right, in tokens: about one short prompt. */
const prior = 200
/** What a new sample leaves of the older ones. */
const memory = 0.9

/**
 * Statistics of a model that nothing is known of.
 *
 * @category constructors
 * @since 0.1.0
 */
export const empty: Statistics = { outputs: [], sorted: [], counted: prior, reported: prior }

const defaults: Decoded = decode({})

/**
 * Returns the statistics after one more call.
 *
 * **Details**
 *
 * The input calibrates only where the whole prompt was text counted in characters. The total that the provider reports
 * is compared, of which cached tokens are a part: a cache makes input cheaper, not shorter.
 *
 * @category combinators
 * @since 0.1.0
 */
export const update = (statistics: Statistics, usage: Response.Usage, estimate?: Estimate): Statistics => {
  const model = modelOf(statistics)
  learn(model, usage, estimate)
  return statisticsOf(model)
}

type Known = Pick<Statistics, "sorted" | "counted" | "reported">

/** Statistics that are updated in place, because every call does so. */
interface Model {
  /** The last outputs: in order until there are `remembered` of them, and then the oldest at `next`. */
  readonly outputs: Array<number>
  readonly sorted: Array<number>
  next: number
  counted: number
  reported: number
}

const modelOf = ({ counted, outputs, reported, sorted }: Statistics): Model => ({
  outputs: outputs.slice(),
  sorted: sorted.slice(),
  next: 0,
  counted,
  reported
})

const statisticsOf = ({ counted, next, outputs, reported, sorted }: Model): Statistics => ({
  outputs: [...outputs.slice(next), ...outputs.slice(0, next)],
  sorted: sorted.slice(),
  counted,
  reported
})

const learn = (model: Model, usage: Response.Usage, estimate: Estimate | undefined): void => {
  remember(model, usage.outputTokens.total)
  calibrate(model, usage.inputTokens.total, estimate)
}

const remember = (model: Model, output: number | undefined): void => {
  if (output === undefined || !(output >= 0)) return
  const { outputs, sorted } = model
  let gap = outputs.length
  if (gap < remembered) outputs.push(output)
  else {
    gap = rank(sorted, outputs[model.next] ?? 0)
    outputs[model.next] = output
    model.next = (model.next + 1) % remembered
  }
  // The gap moves to where the new value belongs.
  for (; gap > 0 && (sorted[gap - 1] ?? 0) > output; gap--) sorted[gap] = sorted[gap - 1] ?? 0
  for (; gap + 1 < sorted.length && (sorted[gap + 1] ?? 0) < output; gap++) sorted[gap] = sorted[gap + 1] ?? 0
  sorted[gap] = output
}

/** Index of the first value that is not smaller. */
const rank = (sorted: ReadonlyArray<number>, value: number): number => {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] ?? 0) < value) low = middle + 1
    else high = middle
  }
  return low
}

const calibrate = (model: Model, reported: number | undefined, estimate: Estimate | undefined): void => {
  if (estimate === undefined || estimate.exact || estimate.attachments > 0 || !(estimate.text > 0)) return
  if (reported === undefined || !(reported > 0)) return
  model.counted = model.counted * memory + estimate.text
  // One absurd figure must not undo what hundreds taught.
  model.reported = model.reported * memory + clamp(reported, estimate.text / 10, estimate.text * 10)
}

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value))

/**
 * Returns how many tokens the provider reports for one that we count: 1 until something is known, between ¼ and 8.
 *
 * @category combinators
 * @since 0.1.0
 */
export const ratio = (statistics: Pick<Statistics, "counted" | "reported">): number =>
  clamp(statistics.reported / statistics.counted, 0.25, 8)

/**
 * Returns the output that a share of the remembered replies did not exceed; 0 when there is none.
 *
 * @category combinators
 * @since 0.1.0
 */
export const quantile = (statistics: Pick<Statistics, "sorted">, share: number): number =>
  statistics.sorted[Math.max(0, Math.ceil(share * statistics.sorted.length - 1e-9) - 1)] ?? 0

// ---------------------------------------------------------------------------------------------------------------------
// Settling
// ---------------------------------------------------------------------------------------------------------------------

/**
 * How an attempt ended.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "Success"; readonly usage?: Response.Usage | undefined }
  | { readonly _tag: "Failure"; readonly error: LLMError; readonly usage?: Response.Usage | undefined }
  | {
    readonly _tag: "Interrupted"
    /** Whether the request may have left this process. */
    readonly sent: boolean
    readonly usage?: Response.Usage | undefined
  }

/**
 * What a reservation is settled to.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settlement {
  /** 1 when the provider counted the request, 0 when it is given back. */
  readonly requests: 0 | 1
  /** All input, cached or not. */
  readonly input: number
  /** The part of the input that came from the provider's cache. */
  readonly cachedInput: number
  readonly output: number
}

const nothing: Settlement = { requests: 0, input: 0, cachedInput: 0, output: 0 }
const requestOnly: Settlement = { ...nothing, requests: 1 }

/**
 * Returns what an attempt should be settled to, on the safe side of what is known.
 *
 * **Details**
 *
 * Reported usage wins. Without it a success keeps its estimate, or what was emitted when that is more. A stream that
 * ended early keeps its input and what it had emitted (`emitted`, in tokens). A 429 counts as a request without tokens.
 * What was refused by us, never reached the provider or was rejected with another 4xx gives everything back. Where
 * nothing is known the estimate stays.
 *
 * @category combinators
 * @since 0.1.0
 */
export const settlement = (outcome: Outcome, estimate: Estimate, emitted: number): Settlement => {
  const { inputTokens, outputTokens } = outcome.usage ?? unreported
  // Some servers report zeros instead of nothing; no prompt has zero tokens.
  const reported = inputTokens.total !== undefined && inputTokens.total > 0 ? inputTokens.total : undefined
  const input = reported ?? estimate.input
  const cachedInput = reported === undefined ? 0 : Math.min(reported, inputTokens.cacheRead ?? 0)
  const used = (output: number): Settlement => ({ requests: 1, input, cachedInput, output })
  if (outcome._tag === "Success") {
    const output = outputTokens.total
    return used(output === undefined ? Math.max(estimate.output, emitted) : output === 0 ? emitted : output)
  }
  // The usage of a stream that was cut may be that of its start.
  if (reported !== undefined || (outputTokens.total ?? 0) > 0) return used(Math.max(outputTokens.total ?? 0, emitted))
  if (emitted > 0) return used(emitted)
  const whole = used(estimate.output)
  if (outcome._tag === "Interrupted") return outcome.sent ? whole : nothing
  switch (counts(outcome.error)) {
    case "everything":
      return whole
    case "request":
      return requestOnly
    case "nothing":
      return nothing
  }
}

const unreported: Pick<Response.Usage, "inputTokens" | "outputTokens"> = { inputTokens: {}, outputTokens: {} }

/** What a provider has counted of an attempt that failed before its first token. */
const counts = (error: LLMError): "nothing" | "request" | "everything" => {
  if (error.maybeBilled) return "everything"
  if (error.origin !== "provider") return "nothing"
  // A limit may be reported without a status; anything else without one never reached a server.
  if (error.status === undefined) return error._tag === "RateLimitError" ? "request" : "nothing"
  return isRejection(error.status) ? "nothing" : "request"
}

const isRejection = (status: number): boolean => status >= 400 && status < 500 && status !== 429

/**
 * Returns the input that counts against a limit of a provider: without what was read from its cache where that is free.
 *
 * @category combinators
 * @since 0.1.0
 */
export const limitedInput = (settlement: Settlement, provider: string): number =>
  // Anthropic's limits of input tokens leave cache reads out; the others count them like any input.
  provider === "anthropic" ? settlement.input - settlement.cachedInput : settlement.input

// ---------------------------------------------------------------------------------------------------------------------
// gpt-tokenizer
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A table of OpenAI's tokens.
 *
 * @category models
 * @since 0.1.0
 */
export type Encoding = "o200k_base" | "cl100k_base"

const newModels = /^(?:gpt-(?:4o|4\.\d|[5-9]|oss|audio|realtime)|chatgpt|o\d|codex)/
const oldModels = /^gpt-(?:4|3\.?5)/

const encodingOf = once((target): Encoding | undefined => {
  const model = target.model.toLowerCase().replace(/^(?:ft:|openai\/)+/, "")
  if (target.provider !== "openai" && target.provider !== "azure" && !/^openai\//i.test(target.model)) return undefined
  return newModels.test(model) ? "o200k_base" : oldModels.test(model) ? "cl100k_base" : undefined
})

type Count = (text: string, options: { readonly disallowedSpecial: Set<string> }) => number

const loadEncoding = (encoding: Encoding): Effect.Effect<((text: string) => number) | undefined> =>
  Effect.tryPromise((): Promise<{ readonly countTokens: Count }> =>
    encoding === "o200k_base"
      ? import("gpt-tokenizer/encoding/o200k_base")
      : import("gpt-tokenizer/encoding/cl100k_base")
  ).pipe(
    Effect.map(({ countTokens }) => counterOf(countTokens)),
    // The package is optional: without it, characters are counted.
    Effect.orElseSucceed(() => undefined)
  )

const longestExact = 100_000
const longRun = /\S{2000}/
const slice = 512

const counterOf = (countTokens: Count) => {
  // A prompt may quote a special token; it is then text like any other.
  const options = { disallowedSpecial: new Set<string>() }
  const count = (text: string): number => {
    if (!longRun.test(text)) return countTokens(text, options)
    // Merging takes time with the square of an unbroken run (base64, say); slices add less than a token each.
    let total = 0
    for (let start = 0; start < text.length; start += slice) {
      total += countTokens(text.slice(start, start + slice), options)
    }
    return total
  }
  return (text: string): number =>
    text.length <= longestExact
      ? count(text)
      : Math.ceil(count(text.slice(0, longestExact)) * text.length / longestExact)
}
