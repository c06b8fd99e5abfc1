/**
 * An embedding model of `effect/ai` that has many targets, under the policies of a router.
 *
 * Every batch of texts is one call of `Router.execute`: it goes to the target that can take it, under its limits,
 * circuit and timeouts, and moves to the next one when that is better. Tokens are reserved by the length of the texts and
 * settled to what the response says. State lives where the router's does; give chat models and embedding models the same
 * `Resilience.layerMemory` and they share what they know of their keys and providers.
 *
 * **Details**
 *
 * Failures are `AiError`s, as those of `LanguageModel.toAiError`. `LanguageModel.CallOptions` applies: priority, tenant,
 * deadline, tags, affinity and idempotence. Single texts that are embedded at the same time under equal options become
 * one call.
 *
 * **Gotchas**
 *
 * Vectors of different models cannot be compared, not even when they are equally long. All targets have to be the same
 * model, on several keys, regions or hosts.
 *
 * **Example** (One model on two hosts)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { AiError, EmbeddingModel as Ai } from "effect/ai"
 * import { EmbeddingModel, Resilience, Target } from "breakwater"
 *
 * const first = Layer.effect(Ai.EmbeddingModel, Ai.make({
 *   embedMany: () =>
 *     Effect.fail(AiError.make({ module: "Acme", method: "embedMany", reason: new AiError.RateLimitError({}) }))
 * }))
 * const second = Layer.effect(Ai.EmbeddingModel, Ai.make({
 *   embedMany: ({ inputs }) => Effect.succeed({ results: inputs.map(() => [1, 0]), usage: { inputTokens: 3 } })
 * }))
 *
 * const live = EmbeddingModel.layer({
 *   models: [
 *     { target: Target.make({ provider: "acme", model: "embedding-3-small" }), model: first },
 *     { target: Target.make({ provider: "zenith", model: "embedding-3-small" }), model: second }
 *   ]
 * })
 *
 * const program = Effect.gen(function*() {
 *   const model = yield* Ai.EmbeddingModel
 *   const { embeddings, usage } = yield* model.embedMany(["harbour", "breakwater"])
 *   return [embeddings.length, usage.inputTokens]
 * }).pipe(Effect.provide(Layer.provide(live, Resilience.layerMemory())))
 *
 * await Effect.runPromise(program) // => [2, 3]
 * ```
 *
 * @since 0.1.0
 */
import * as EmbeddingModel from "effect/ai/EmbeddingModel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { build, type Providing } from "./internal/ai/build.ts"
import * as Errors from "./internal/ai/error.ts"
import { CallOptions } from "./LanguageModel.ts"
import type { LLMError } from "./LLMError.ts"
import type { Usage as Used } from "./RateLimiter.ts"
import * as Router from "./Router.ts"
import type { Target } from "./Target.ts"
import { fromCharacters } from "./Usage.ts"

/**
 * A target and the embedding model that is asked for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Candidate<out Model> {
  readonly target: Target
  readonly model: Model
}

/**
 * Options of `layer`: those of a router, with a model for each target.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options<out Models> extends Omit<Router.Options, "targets" | "streamPolicy"> {
  /** Where calls may go, in order of preference; a model is a Layer, such as a `Model` of a vendor package. */
  readonly models: Models
}

/**
 * Creates an embedding model over the targets of the router in the context.
 *
 * **When to use**
 *
 * Use to embed through a router that exists, such as that of `Resilience.layerExecute`.
 *
 * **Gotchas**
 *
 * Dies with a `RangeError` that names the target when the router has one without a model: calls would go to it too.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  models: ReadonlyArray<Candidate<EmbeddingModel.EmbeddingModel>>
): Effect.Effect<EmbeddingModel.EmbeddingModel, never, Router.Router> =>
  Effect.flatMap(Router.Router, (router) => {
    const byTarget = new Map(models.map(({ model, target }) => [target.id, model]))
    for (const { id } of router.targets) {
      if (!byTarget.has(id)) return Effect.die(new RangeError(`EmbeddingModel: no model for target "${id}"`))
    }
    return EmbeddingModel.make({
      batchKey: (context) => Context.get(context, CallOptions),
      embedMany: Effect.fnUntraced(function*({ inputs }) {
        const { affinity, deadline, idempotent, priority, tags, tenant } = yield* CallOptions
        const { embeddings, usage } = yield* Effect.mapError(
          router.execute((target) => embed(byTarget, target, inputs), {
            affinity,
            deadline,
            idempotent,
            priority,
            tags,
            tenant,
            tokens: { input: inputs.reduce((sum, input) => sum + fromCharacters(input.length), 0), output: 0 },
            usage: tokensOf
          }),
          (error) => Errors.toAiError(error, "embedMany")
        )
        return {
          results: embeddings.map(({ vector }) => Array.from(vector)),
          usage: { inputTokens: usage.inputTokens }
        }
      })
    })
  })

const tokensOf = ({ usage }: EmbeddingModel.EmbedManyResponse): Used =>
  usage.inputTokens === undefined ? "unknown" : { input: usage.inputTokens, output: 0 }

const embed = (
  models: ReadonlyMap<string, EmbeddingModel.EmbeddingModel>,
  target: Target,
  inputs: ReadonlyArray<string>
): Effect.Effect<EmbeddingModel.EmbedManyResponse, LLMError> => {
  const model = models.get(target.id)
  return model === undefined
    ? Effect.die(new RangeError(`EmbeddingModel: no model for target "${target.id}"`))
    : Effect.catch(model.embedMany(inputs), (error) => Errors.failed(target, error))
}

/**
 * Provides an embedding model with a router of its own.
 *
 * **Gotchas**
 *
 * Throws a `RangeError` as `Router.layerExecute` does, when the layer is created.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <Models extends ReadonlyArray<Candidate<Providing<EmbeddingModel.EmbeddingModel>>>>(
  { models, ...options }: Options<Models>
): Layer.Layer<
  EmbeddingModel.EmbeddingModel,
  Layer.Error<Models[number]["model"]>,
  Exclude<Layer.Services<Models[number]["model"]>, Scope.Scope> | Router.State
> => {
  const built = Effect.forEach(models, ({ model, target }) =>
    Effect.map(
      build<Models[number]["model"], EmbeddingModel.EmbeddingModel, EmbeddingModel.EmbeddingModel>(
        EmbeddingModel.EmbeddingModel,
        model
      ),
      (service) => ({ target, model: service })
    ))
  return Layer.effect(EmbeddingModel.EmbeddingModel, Effect.flatMap(built, make)).pipe(
    Layer.provide(Router.layerExecute({ ...options, targets: models.map(({ target }) => target) }))
  )
}
