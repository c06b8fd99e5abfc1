/**
 * Building layers that differ in their errors and requirements.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"

/** Any Layer that provides a service. */
export interface Providing<in I> extends Layer.Any {
  readonly "~effect/Layer": Layer.Any["~effect/Layer"] & { readonly _ROut: Types.Contravariant<I> }
}

// Inference would take the errors of many layers for those of their constraint; the overload reads them off each layer.
/** Builds a Layer for the one service that is wanted of it. */
export function build<L extends Providing<I>, I, S>(
  key: Context.Key<I, S>,
  layer: L
): Effect.Effect<S, Layer.Error<L>, Layer.Services<L> | Scope.Scope>
export function build<I, S, E, R>(
  key: Context.Key<I, S>,
  layer: Layer.Layer<I, E, R>
): Effect.Effect<S, E, R | Scope.Scope> {
  return Effect.map(Layer.build(layer), (context) => Context.get(context, key))
}
