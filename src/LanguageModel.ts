/**
 * The bridge to `effect/ai`, in both directions: a service of ours as its `LanguageModel`, and its models as targets.
 *
 * `layer` puts an `LLMService`, with all its targets and policies, behind `LanguageModel.generateText`, `streamText` and
 * `generateObject`: a program written against `effect/ai` is protected by one Layer and stays as it is. The other way,
 * `fromLanguageModel` and `layerProvider` make targets of models that somebody else talks to.
 *
 * **Details**
 *
 * The service is called where `effect/ai` calls a provider. Tool handlers run after its attempt loop: once, whatever
 * failed before, and what they do never counts against a provider. The same holds for the decoding of structured output:
 * an object that does not match its schema is a `StructuredOutputError` and no failure of a target.
 *
 * `CallOptions` says what `effect/ai` has no words for: priority, tenant, deadline, tags, tokens of the reply. The
 * `finish` part's `metadata.breakwater` holds the target that answered, the attempts and the cost.
 *
 * Errors become an `AiError` whose reason names the kind and carries our error whole: `fromAiError` gives it back.
 *
 * **Gotchas**
 *
 * A prompt is always sent whole. Ids of responses are never remembered, since the next target does not know them; a
 * `ResponseIdTracker` in the context has no effect on calls through this module.
 *
 * Tools that a provider defines and runs itself do not go through an `LLMService`.
 *
 * **Example** (A program of effect/ai that survives an outage)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel as Ai } from "effect/ai"
 * import { LanguageModel, Resilience, Router, Target } from "breakwater"
 * import * as TestProvider from "breakwater/testing/TestProvider"
 *
 * const targets = ["first", "second"].map((model) => Target.make({ provider: "acme", model }))
 * const providers = TestProvider.layer({
 *   "acme/first": [TestProvider.fail("authentication", { reason: "invalid_key", status: 401 })],
 *   "acme/second": [TestProvider.reply("Still here")]
 * })
 *
 * const live = LanguageModel.layer.pipe(
 *   Layer.provide(Router.layer({ targets })),
 *   Layer.provide([providers, Resilience.layerMemory()])
 * )
 *
 * const program = Ai.generateText({ prompt: "Are you there?" }).pipe(Effect.provide(live))
 *
 * await Effect.runPromise(Effect.map(program, ({ text }) => text)) // => "Still here"
 * ```
 *
 * @since 0.1.0
 */
import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import { ResponseIdTracker } from "effect/ai/ResponseIdTracker"
import * as Telemetry from "effect/ai/Telemetry"
import type * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { constVoid } from "effect/Function"
import * as JsonSchema from "effect/JsonSchema"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import * as SchemaRepresentation from "effect/SchemaRepresentation"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import * as Classifier from "./Classifier.ts"
import { build, type Providing } from "./internal/ai/build.ts"
import * as Errors from "./internal/ai/error.ts"
import * as Parts from "./internal/ai/parts.ts"
import { portable } from "./internal/ai/schema.ts"
import { about } from "./internal/call/about.ts"
import * as Requests from "./internal/call/request.ts"
import { OnResponse } from "./internal/wire/onResponse.ts"
import * as Wire from "./internal/wire/parts.ts"
import { type LLMError, make as makeError, PermanentError, ServerError } from "./LLMError.ts"
import { type CompletionRequest, LLMService, type ProviderPart, type StreamPart } from "./LLMService.ts"
import { type Adapter, Provider, type Reply } from "./Provider.ts"
import type { Target } from "./Target.ts"
import { isContentPart } from "./Timeouts.ts"

// ---------------------------------------------------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What a request has beyond what `effect/ai` can say: how urgent it is, for whom, how long it may take, what the model is
 * to be told.
 *
 * @category options
 * @since 0.1.0
 */
export interface CallOptions extends Omit<CompletionRequest, "prompt" | "tools" | "toolChoice" | "responseFormat"> {}

/**
 * Options of the calls that an effect makes through `layer`, or through the layers of `EmbeddingModel`.
 *
 * **Gotchas**
 *
 * A stream with `streamPolicy: "restart"` announces that all parts before it are void by a `response-metadata` part with
 * `metadata.breakwater.restarted`. Without this option, a router that restarts its streams fails those of this bridge.
 *
 * **Example** (A deadline for one call)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { LanguageModel as Ai } from "effect/ai"
 * import { LanguageModel } from "breakwater"
 *
 * const program = Ai.generateText({ prompt: "Are you there?" }).pipe(
 *   Effect.provideService(LanguageModel.CallOptions, { deadline: "10 seconds", priority: "high", tenant: "billing" })
 * )
 * ```
 *
 * @category references
 * @since 0.1.0
 */
export const CallOptions: Context.Reference<CallOptions> = Context.Reference<CallOptions>(
  "breakwater/LanguageModel/CallOptions",
  { defaultValue: () => ({}) }
)

/**
 * Options of `layerWith`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * How schemas of `generateObject` are put to providers.
   *
   * @default the subset of JSON Schema that OpenAI and Anthropic both enforce
   */
  readonly codecTransformer?: LanguageModel.CodecTransformer | undefined
  /**
   * Whether providers must enforce those schemas.
   *
   * @default true
   */
  readonly strict?: boolean | undefined
}

/**
 * Options of the adapters of models.
 *
 * @category options
 * @since 0.1.0
 */
export interface AdapterOptions {
  /**
   * Services around each call, such as a vendor package's own configuration.
   *
   * `effect/ai` has no words for a request's `maxTokens`, `temperature`, `topP`, `stop` and `extra`, nor for a target's
   * `parameters`: this is where they can be handed on. Only a model of `layer` knows the former by itself.
   */
  readonly context?: ((target: Target, request: CompletionRequest) => Context.Context<never>) | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// an LLMService as a model
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Creates a `LanguageModel` of `effect/ai` that asks the `LLMService` of the context.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<LanguageModel.LanguageModel, never, LLMService> =>
  Effect.flatMap(LLMService, (service) => {
    const codecTransformer = options.codecTransformer ?? portable
    const requestOf = makeRequestOf({ ...options, codecTransformer })

    // What upstream takes for a refusal of an incremental prompt was one of the whole prompt: nothing is sent again.
    const refused = new WeakMap<object, AiError.AiError>()
    const failure =
      ({ incrementalPrompt, span }: LanguageModel.ProviderOptions, method: string) =>
      (error: LLMError): AiError.AiError => {
        const mapped = toAiError(error, method)
        if (incrementalPrompt !== undefined) refused.set(span, mapped)
        return mapped
      }
    const known = ({ incrementalFallback, span }: LanguageModel.ProviderOptions): AiError.AiError | undefined =>
      incrementalFallback === true ? refused.get(span) : undefined

    return LanguageModel.make({
      codecTransformer,
      generateText: Effect.fnUntraced(function*(asked) {
        const before = known(asked)
        if (before !== undefined) return yield* before
        const request = yield* requestOf(asked, yield* CallOptions)
        const completion = yield* Effect.mapError(service.complete(request), failure(asked, "generateText"))
        annotate(asked.span, request, completion)
        return Parts.ofCompletion(completion)
      }),
      streamText: Effect.fnUntraced(function*(asked) {
        const before = known(asked)
        if (before !== undefined) return yield* before
        const call = yield* CallOptions
        const request = yield* requestOf(asked, call)
        return service.stream(request).pipe(
          Stream.mapArrayEffect((parts) => {
            const last = parts[parts.length - 1]
            if (last?.type === "finish") annotate(asked.span, request, Parts.outcomeOf(last))
            return encoded(parts, call.streamPolicy === "restart")
          }),
          Stream.mapError(failure(asked, "streamText"))
        )
      }, Stream.unwrap)
    })
  })

/**
 * Provides a `LanguageModel` of `effect/ai` that asks the `LLMService` of the context.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<LanguageModel.LanguageModel, never, LLMService> =>
  Layer.effect(LanguageModel.LanguageModel, make(options))

/**
 * Provides a `LanguageModel` of `effect/ai` that asks the `LLMService` of the context, with default options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<LanguageModel.LanguageModel, never, LLMService> = layerWith({})

/** Puts on the span of a call what the conventions for generative models have attributes for; no text of anybody. */
const annotate = (span: Tracer.Span, request: CompletionRequest, outcome: Parts.Outcome): void => {
  const { maxTokens, temperature, topP } = request
  Telemetry.addGenAIAnnotations(span, {
    operation: { name: "chat" },
    provider: { name: outcome.provider },
    request: { maxTokens, temperature, topP },
    response: { id: outcome.requestId, model: outcome.model, finishReasons: [outcome.finishReason] },
    usage: { inputTokens: outcome.usage.inputTokens.total, outputTokens: outcome.usage.outputTokens.total }
  })
}

const makeRequestOf = (
  { codecTransformer, strict }: Options & { readonly codecTransformer: LanguageModel.CodecTransformer }
) => {
  const known = new WeakMap<Schema.Top, JsonSchema.JsonSchema>()

  const jsonSchema = (schema: Schema.Top): Effect.Effect<JsonSchema.JsonSchema, AiError.AiError> => {
    const before = known.get(schema)
    if (before !== undefined) return Effect.succeed(before)
    return Effect.map(
      Effect.try({ try: () => codecTransformer(schema), catch: unsupported }),
      ({ jsonSchema }) => {
        known.set(schema, jsonSchema)
        return jsonSchema
      }
    )
  }

  return (
    { prompt, responseFormat, toolChoice, tools }: LanguageModel.ProviderOptions,
    call: CallOptions
  ): Effect.Effect<CompletionRequest, AiError.AiError> => {
    const request = { ...call, prompt, ...(tools.length === 0 ? undefined : { tools, toolChoice: choice(toolChoice) }) }
    return responseFormat.type === "text"
      ? Effect.succeed(request)
      : Effect.map(jsonSchema(responseFormat.schema), (schema) => ({
        ...request,
        responseFormat: { type: "json_schema", name: nameOf(responseFormat.objectName), schema, strict: strict ?? true }
      }))
  }
}

const unsupported = (error: unknown): AiError.AiError =>
  AiError.make({
    module: "breakwater",
    method: "generateObject",
    reason: new AiError.UnsupportedSchemaError({ description: error instanceof Error ? error.message : String(error) })
  })

// Providers take no other characters, and no more of them.
const nameOf = (objectName: string): string => objectName.replaceAll(/[^A-Za-z0-9_-]/g, "_").slice(0, 64) || "object"

// Tools that a choice leaves out are not among the tools of the request.
const choice = (toolChoice: LanguageModel.ToolChoice<string>): CompletionRequest["toolChoice"] =>
  typeof toolChoice === "object" && "oneOf" in toolChoice ? toolChoice.mode ?? "auto" : toolChoice

const encoded = (
  parts: readonly [StreamPart, ...Array<StreamPart>],
  restarts: boolean
): Effect.Effect<readonly [Response.StreamPartEncoded, ...Array<Response.StreamPartEncoded>], LLMError> => {
  const [first, ...rest] = parts
  const voided = restarts ? undefined : parts.find((part) => part.type === "restarted")
  if (voided?.type !== "restarted") return Effect.succeed([encodePart(first), ...rest.map(encodePart)])
  // Whoever did not ask for restarts would join the void text and what follows it.
  return Effect.fail(makeError(voided.errorClass, {
    provider: voided.from.split("/")[0] ?? voided.from,
    target: voided.from,
    reason: voided.reason,
    maybeBilled: true,
    detail: "the stream broke after its first content"
  }))
}

const encodePart = (part: StreamPart): Response.StreamPartEncoded =>
  part.type === "restarted" ? Parts.restart(part) : Parts.encode(part)

// ---------------------------------------------------------------------------------------------------------------------
// models as targets
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Creates an adapter that asks a model of `effect/ai`, or the one that a function returns for a target.
 *
 * **When to use**
 *
 * Use to put models of vendor packages, or models of your own, under the policies of a router.
 *
 * **Details**
 *
 * Tools are described to the model and never run here. A JSON schema is asked for by `generateObject`; what the model
 * answered is returned also when it does not match, as that is for the caller to judge. `effect/ai` cannot stream
 * objects: a streamed request with a schema gets its answer in one piece.
 *
 * A stream succeeds only after a `finish` part, and fails at an `error` part.
 *
 * **Gotchas**
 *
 * Give the model a bare client: retries of its own would stack under ours. Parts of tools that a provider runs itself
 * are left out. A stream's limit on `connect` runs to the first part, whatever it is, as nothing tells of the headers.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromLanguageModel = (
  model: LanguageModel.LanguageModel | ((target: Target) => LanguageModel.LanguageModel),
  options: AdapterOptions = {}
): Adapter => {
  const candidateFor = (target: Target): Candidate => candidateOf(typeof model === "function" ? model(target) : model)
  const around = (target: Target, request: CompletionRequest): Context.Context<ResponseIdTracker> => {
    const own = Context.add(untracked, CallOptions, inherited(request))
    return options.context === undefined ? own : Context.merge(options.context(target, request), own)
  }

  const complete: Adapter["complete"] = (target, request) =>
    Effect.suspend(() =>
      Effect.flatMap(Effect.fromResult(Requests.prepare(request)), (prepared) => {
        const candidate = candidateFor(target)
        const format = request.responseFormat
        const answer = format?.type === "json_schema"
          ? generateObject(candidate, target, prepared, format)
          : Effect.map(candidate.generateText(asked(prepared)), ({ content }) => content)
        return answer.pipe(
          Effect.provideContext(around(target, request)),
          Effect.catch((error) => refused(target, error)),
          Effect.flatMap((parts) => replyOf(target, parts))
        )
      })
    )

  return {
    complete,
    stream: (target, request) =>
      request.responseFormat?.type === "json_schema"
        ? Stream.fromIterableEffect(Effect.map(complete(target, request), (reply) => [
          Wire.metadata(reply.model, reply.requestId),
          ...Wire.ofReply(reply)
        ]))
        : Stream.unwrap(Effect.map(Effect.fromResult(Requests.prepare(request)), (prepared) =>
          received(
            target,
            Stream.provideContext(candidateFor(target).streamText(asked(prepared)), around(target, request))
          )))
  }
}

/**
 * Creates the adapter of a model that is given as a Layer, such as a `Model` of a vendor package.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromLayer = <L extends Providing<LanguageModel.LanguageModel>>(
  model: L,
  options?: AdapterOptions
): Effect.Effect<Adapter, Layer.Error<L>, Layer.Services<L> | Scope.Scope> =>
  Effect.map(build(LanguageModel.LanguageModel, model), (service) => fromLanguageModel(service, options))

/**
 * Provides a registry of adapters whose models are given as Layers, by `provider/model` or by provider.
 *
 * **When to use**
 *
 * Use below `Router.layer` when all targets are models of `effect/ai`: no HTTP client is needed. Where some are not,
 * give the adapters of `fromLayer` to `Provider.layerWith`.
 *
 * **Example** (Two models, one of which is down)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Stream } from "effect"
 * import { AiError, LanguageModel as Ai } from "effect/ai"
 * import { LanguageModel, LLMService, Resilience, Router, Target } from "breakwater"
 *
 * const down = Layer.effect(Ai.LanguageModel, Ai.make({
 *   generateText: () =>
 *     Effect.fail(AiError.make({
 *       module: "Acme",
 *       method: "generateText",
 *       reason: new AiError.AuthenticationError({ kind: "InvalidKey" })
 *     })),
 *   streamText: () => Stream.empty
 * }))
 * const up = Layer.effect(Ai.LanguageModel, Ai.make({
 *   generateText: () => Effect.succeed([{ type: "text", text: "Hello" }]),
 *   streamText: () => Stream.empty
 * }))
 *
 * const targets = ["acme/large", "zenith/large"].map((id) => {
 *   const [provider = "", model = ""] = id.split("/")
 *   return Target.make({ provider, model })
 * })
 *
 * const live = Router.layer({ targets }).pipe(
 *   Layer.provide([LanguageModel.layerProvider({ "acme/large": down, zenith: up }), Resilience.layerMemory()])
 * )
 *
 * const program = Effect.gen(function*() {
 *   const llm = yield* LLMService.LLMService
 *   const { attempts, text } = yield* llm.complete({ prompt: "Say hello" })
 *   return [text, ...attempts.map((attempt) => attempt.target)]
 * }).pipe(Effect.provide(live))
 *
 * await Effect.runPromise(program) // => ["Hello", "acme/large", "zenith/large"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerProvider = <L extends Providing<LanguageModel.LanguageModel>>(
  models: Readonly<Record<string, L>>,
  options?: AdapterOptions
): Layer.Layer<Provider, Layer.Error<L>, Exclude<Layer.Services<L>, Scope.Scope>> =>
  Layer.effect(
    Provider,
    Effect.map(
      Effect.forEach(Object.entries(models), ([name, model]) =>
        Effect.map(fromLayer(model, options), (adapter) => [name, adapter] as const)),
      (built) => {
        const adapters = new Map(built)
        const names = Array.from(
          new Set(Array.from(adapters.keys(), (name) =>
            name.split("/", 1)[0] ?? name))
        )
        const adapter: Adapter = {
          complete: (target, request) =>
            pick(adapters, target)?.complete(target, request) ?? Effect.fail(missing(target)),
          stream: (target, request) => pick(adapters, target)?.stream(target, request) ?? Stream.fail(missing(target))
        }
        return Provider.of({ adapter: (provider) => names.includes(provider) ? adapter : undefined, names })
      }
    )
  )

const pick = (adapters: ReadonlyMap<string, Adapter>, { model, provider }: Target): Adapter | undefined =>
  adapters.get(`${provider}/${model}`) ?? adapters.get(provider)

const missing = (target: Target): LLMError =>
  new PermanentError({
    ...about(target),
    reason: "model_not_found",
    scope: "model",
    detail: `LanguageModel.layerProvider has no model "${target.provider}/${target.model}"`
  })

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Returns one of the seven errors as an `AiError`.
 *
 * **Details**
 *
 * Limits become `RateLimitError`, a spent credit `QuotaExhaustedError`, refused credentials `AuthenticationError`, a
 * content filter `ContentPolicyError`, other refusals of the request `InvalidRequestError`, failures of the network
 * `NetworkError`, failures and timeouts of the provider `InternalProviderError`, a passed deadline and all that is
 * unknown `UnknownError`. The wait, the status and the request id are where `effect/ai` has them; the whole error is in
 * `metadata.breakwater`, or, for a `NetworkError`, in `cause`.
 *
 * @category converters
 * @since 0.1.0
 */
export const toAiError = (error: LLMError, method = "generateText"): AiError.AiError => Errors.toAiError(error, method)

/**
 * Returns an `AiError` as one of the seven errors: the one it was made of, or the one that its reason and the provider's
 * words say it is.
 *
 * **Details**
 *
 * The context says whom the error is about; without one, an error of ours keeps its own.
 *
 * **Example** (There and back)
 *
 * ```ts import.meta.vitest
 * import { LanguageModel, LLMError } from "breakwater"
 *
 * const error = new LLMError.TimeoutError({ provider: "groq", reason: "first_token", scope: "model" })
 * const { _tag, reason, scope } = LanguageModel.fromAiError(LanguageModel.toAiError(error))
 *
 * const back = [_tag, reason, scope]
 * back // => ["TimeoutError", "first_token", "model"]
 * ```
 *
 * @category converters
 * @since 0.1.0
 */
export const fromAiError = (error: AiError.AiError, context?: Classifier.Context): LLMError =>
  Errors.fromAiError(error, context)

// ---------------------------------------------------------------------------------------------------------------------
// internals
// ---------------------------------------------------------------------------------------------------------------------

interface Asked {
  readonly prompt: Prompt.Prompt
  readonly toolkit?: Toolkit.WithHandler<Parts.Tools>
  readonly toolChoice?: LanguageModel.ToolChoice<string>
  readonly disableToolCallResolution: true
  readonly toolCallValidation: "deferred"
}

/** A model as it is asked here: it runs no tool and looks at no tool call. */
interface Candidate {
  readonly generateText: (
    options: Asked
  ) => Effect.Effect<LanguageModel.GenerateTextResponse<Parts.Tools, "deferred">, AiError.AiError>
  readonly generateObject: (
    options: Asked & { readonly objectName: string; readonly schema: Schema.Top }
  ) => Effect.Effect<LanguageModel.GenerateObjectResponse<Parts.Tools, unknown, "deferred">, AiError.AiError>
  readonly streamText: (options: Asked) => Stream.Stream<Response.StreamPart<Parts.Tools, "deferred">, AiError.AiError>
}

const candidateOf = (model: unknown): Candidate =>
  // Upstream's signatures compute what tools and schemas require, which is nothing here: no call of a tool is resolved or
  // validated, and a schema imported from JSON decodes without services.
  model as Candidate

/** What one target has answered is nothing the next one can refer to. */
const untracked = Context.make(ResponseIdTracker, {
  clearUnsafe: constVoid,
  markParts: constVoid,
  prepareUnsafe: Option.none
})

/** What a model that is a service of ours is told; tags and stream policy are between the caller and its own router. */
const inherited = (request: CompletionRequest): CallOptions => {
  const { affinity, deadline, extra, idempotent, maxTokens, priority, stop, temperature, tenant, topP } = request
  return { affinity, deadline, extra, idempotent, maxTokens, priority, stop, temperature, tenant, topP }
}

const asked = (request: Requests.Prepared): Asked => {
  const { prompt, responseFormat, toolChoice, tools = [] } = request
  return {
    prompt: responseFormat?.type === "json_object" ? Prompt.concat(jsonOnly, prompt) : prompt,
    disableToolCallResolution: true,
    toolCallValidation: "deferred",
    ...(tools.length === 0 ? undefined : { toolkit: toolkitOf(tools) }),
    ...(tools.length === 0 || toolChoice === undefined ? undefined : { toolChoice })
  }
}

const jsonOnly = Prompt.make([{ role: "system", content: "Answer with one JSON object and nothing else." }])

const toolkitOf = (tools: ReadonlyArray<Tool.Any>): Toolkit.WithHandler<Parts.Tools> => ({
  tools: Toolkit.make(...tools).tools,
  handle: () => Effect.die(new Error("LanguageModel: a tool was run although its calls are not resolved here"))
})

const generateObject = (
  candidate: Candidate,
  target: Target,
  request: Requests.Prepared,
  format: { readonly name: string; readonly schema: JsonSchema.JsonSchema }
): Effect.Effect<ReadonlyArray<Parts.Received>, AiError.AiError | LLMError> => {
  const schema = schemaOf(format.schema)
  if (Result.isFailure(schema)) {
    return Effect.fail(
      new PermanentError({
        ...about(target),
        reason: "unsupported_parameter",
        scope: "target",
        detail: "responseFormat.schema cannot be put to a model of effect/ai"
      })
    )
  }
  return candidate.generateObject({ ...asked(request), objectName: format.name, schema: schema.success }).pipe(
    // The text is in the form that the model was asked for, which need not be the one of the request.
    Effect.map(({ content, value }) => [
      Wire.text(JSON.stringify(value)),
      ...content.filter((part) => part.type !== "text")
    ]),
    Effect.catch((error) =>
      error.reason._tag === "StructuredOutputError" && error.reason.responseText !== ""
        ? Effect.succeed([Wire.text(error.reason.responseText)])
        : Effect.fail(error)
    )
  )
}

const schemas = new WeakMap<JsonSchema.JsonSchema, Result.Result<Schema.Top, unknown>>()

const schemaOf = (json: JsonSchema.JsonSchema): Result.Result<Schema.Top, unknown> => {
  const known = schemas.get(json)
  if (known !== undefined) return known
  const document = JsonSchema.fromSchemaDraft2020_12(json)
  const schema = Result.try(() => SchemaRepresentation.fromJsonSchemaDocument(document, { patterns: "ignore" }))
  schemas.set(json, schema)
  return schema
}

const replyOf = (target: Target, parts: ReadonlyArray<Parts.Received>): Effect.Effect<Reply, LLMError> => {
  const metadata = parts.find((part) => part.type === "response-metadata")
  const finish = parts.find((part) => part.type === "finish")
  if (finish?.reason === "error") return Effect.fail(stopped(target))
  const reply: Reply = {
    content: Parts.content(parts),
    usage: finish?.usage ?? Parts.unknownUsage,
    finishReason: finish?.reason ?? "unknown",
    model: metadata?.modelId ?? target.model,
    requestId: metadata === undefined ? undefined : Parts.requestIdOf(metadata)
  }
  return Effect.as(observed(target, finish?.response), reply)
}

const stopped = (target: Target): LLMError =>
  new ServerError({
    ...about(target),
    reason: "internal_error",
    maybeBilled: true,
    detail: "the model stopped with an error"
  })

const refused = (target: Target, error: AiError.AiError | LLMError, contentSeen = false) => {
  const http = AiError.isAiError(error) && "http" in error.reason ? error.reason.http : undefined
  return Effect.andThen(observed(target, http?.response), Errors.failed(target, error, contentSeen))
}

/** Tells about the head of a response, where the model tells it. */
const observed = (
  target: Target,
  response: typeof Response.HttpResponseDetails.Type | undefined
): Effect.Effect<void> =>
  response === undefined
    ? Effect.void
    : Effect.flatMap(OnResponse, (observe) => {
      if (observe === undefined) return Effect.void
      const headers: Record<string, string> = {}
      for (const [name, value] of Object.entries(response.headers)) {
        if (typeof value === "string") headers[name.toLowerCase()] = value
      }
      return observe({ target, status: response.status, headers })
    })

type Chunk<A> = readonly [A, ...Array<A>]

/** The parts of a model's stream up to the one that ends it. */
const received = (
  target: Target,
  parts: Stream.Stream<Response.StreamPart<Parts.Tools, "deferred">, AiError.AiError>
): Stream.Stream<ProviderPart, LLMError> =>
  Stream.transformPull(parts, (pull) =>
    Effect.sync(() => {
      const receive = Parts.makeReceiver()
      let contentSeen = false
      let last: Response.FinishPart | Response.ErrorPart | undefined

      const take = (
        chunk: Chunk<Response.StreamPart<Parts.Tools, "deferred">>
      ): Pull.Pull<Chunk<ProviderPart>, LLMError> => {
        const taken: Array<ProviderPart> = []
        for (const part of chunk) {
          if (part.type === "finish" || part.type === "error") last = part
          const own = part.type === "error" || (part.type === "finish" && part.reason === "error")
            ? undefined
            : receive(part)
          if (own !== undefined) {
            contentSeen ||= isContentPart(own)
            taken.push(own)
          }
          // What comes after the end of an answer belongs to nothing.
          if (last !== undefined) break
        }
        const [first, ...rest] = taken
        return first === undefined ? next : Effect.succeed([first, ...rest])
      }

      const ended = (end: Response.FinishPart | Response.ErrorPart): Pull.Pull<never, LLMError> =>
        end.type === "error"
          ? Errors.failed(target, Errors.ofPart(end), contentSeen)
          : end.reason === "error"
          ? Effect.fail(stopped(target))
          : Effect.andThen(observed(target, end.response), Cause.done())

      const next: Pull.Pull<Chunk<ProviderPart>, LLMError> = Effect.suspend(() =>
        last === undefined
          ? Pull.matchEffect(pull, {
            onSuccess: take,
            onFailure: (cause) => {
              const error = Cause.findError(cause)
              return Result.isSuccess(error)
                ? refused(target, error.success, contentSeen)
                : Effect.failCause(error.failure)
            },
            onDone: () => Effect.fail(Classifier.streamTruncated(about(target)))
          })
          : ended(last)
      )
      return next
    }))
