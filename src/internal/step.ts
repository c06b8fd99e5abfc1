/**
 * Effects that take one step of a fiber and no time, made so that another step can take them along.
 *
 * A call asks a dozen services, and a step of its fiber costs as much as what most of them do. What keeps its state in
 * the process answers with effects of `make`, and a router does all that comes between two waits in one step; a service
 * that has to wait, such as one on Redis, answers with any other effect, and nothing else changes.
 *
 * What is taken in one step cannot be interrupted halfway, and happens at one moment: its clock is read once for all.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"

/**
 * The present of a step, for whoever takes part in it.
 *
 * @internal
 */
export interface Moment {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly clock: Clock.Clock
  /** What the clocks said, once somebody has asked. */
  wall: number | undefined
  mono: number | undefined
}

/**
 * The moment at which a fiber is.
 *
 * @internal
 */
export const now = (fiber: Fiber.Fiber<unknown, unknown>): Moment => ({
  fiber,
  clock: fiber.getRef(Clock.Clock),
  wall: undefined,
  mono: undefined
})

/**
 * Returns the milliseconds since the epoch.
 *
 * @internal
 */
export const millis = (moment: Moment): number => moment.wall ??= moment.clock.currentTimeMillisUnsafe()

/**
 * Returns elapsed milliseconds, which no change of the machine's clock moves.
 *
 * @internal
 */
export const elapsed = (moment: Moment): number => moment.mono ??= Number(moment.clock.monotonicTimeNanosUnsafe()) / 1e6

/**
 * Says that time may have passed, so that clocks are read again.
 *
 * @internal
 */
export const passed = (moment: Moment): void => {
  moment.wall = undefined
  moment.mono = undefined
}

type Take<A, E, R> = (moment: Moment) => Effect.Effect<A, E, R>

// A class, because every call makes dozens of them: an effect with a property added takes three times the memory.
class Step<A, E, R> extends Effectable.Class<A, E, R> {
  readonly take: Take<A, E, R>
  constructor(take: Take<A, E, R>) {
    super()
    this.take = take
  }
  override asEffect(): Effect.Effect<A, E, R> {
    return at(this.take)
  }
}

/**
 * Creates an effect from what its step does; returning an exit ends it at once.
 *
 * @internal
 */
export const make = <A, E = never, R = never>(take: Take<A, E, R>): Effect.Effect<A, E, R> => new Step(take)

// Whoever takes it along needs no exit to know how it ends.
class Sync<A> extends Effectable.Class<A> {
  readonly read: (moment: Moment) => A
  constructor(read: (moment: Moment) => A) {
    super()
    this.read = read
  }
  override asEffect(): Effect.Effect<A> {
    return at((moment) => Exit.succeed(this.read(moment)))
  }
}

/**
 * Creates the effect of a function.
 *
 * @internal
 */
export const sync = <A>(read: (moment: Moment) => A): Effect.Effect<A> => new Sync(read)

/**
 * Creates an effect of a step that is never taken along, such as one that goes on waiting.
 *
 * @internal
 */
export const at = <A, E, R>(take: Take<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => take(now(fiber)))

const taken = <A, E, R>(moment: Moment, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  isStep(effect) ? effect.take(moment) : effect

const isStep = <A, E, R>(effect: Effect.Effect<A, E, R>): effect is Step<A, E, R> => effect instanceof Step

/**
 * Goes on with the result of an effect, in the same step where that is possible.
 *
 * @internal
 */
export const flatMap = <A, E, R, B, E2, R2>(
  moment: Moment,
  effect: Effect.Effect<A, E, R>,
  f: (value: A) => Effect.Effect<B, E2, R2>
): Effect.Effect<B, E | E2, R | R2> => {
  if (effect instanceof Sync) return f(effect.read(moment))
  const next = taken(moment, effect)
  if (isExit(next)) return next._tag === "Success" ? f(next.value) : Exit.failCause(next.cause)
  return Effect.flatMap(next, (value) => {
    passed(moment)
    return f(value)
  })
}

/**
 * Goes on with the result of an effect of which a failure would be a mistake in the program.
 *
 * @internal
 */
export const orDie = <A, E, R, B, E2, R2>(
  moment: Moment,
  effect: Effect.Effect<A, E, R>,
  f: (value: A) => Effect.Effect<B, E2, R2>
): Effect.Effect<B, E2, R | R2> => {
  const next = taken(moment, effect)
  return isExit(next) && next._tag === "Success" ? f(next.value) : flatMap(moment, Effect.orDie(next), f)
}

/**
 * Goes on with what an effect has given, of which `keep` takes note before anything can interrupt, or with its failure.
 *
 * @internal
 */
export const acquire = <A, E, R, B, E2, R2>(
  moment: Moment,
  effect: Effect.Effect<A, E, R>,
  keep: (value: A) => void,
  options: {
    readonly onSuccess: () => Effect.Effect<B, E2, R2>
    readonly onFailure: (error: E) => Effect.Effect<B, E2, R2>
  }
): Effect.Effect<B, E2, R | R2> => {
  if (effect instanceof Sync) {
    keep(effect.read(moment))
    return options.onSuccess()
  }
  const next = taken(moment, effect)
  if (isExit(next)) {
    if (next._tag === "Success") {
      keep(next.value)
      return options.onSuccess()
    }
    return Effect.matchEffect(next, options)
  }
  const kept = Effect.map(next, (value) => {
    passed(moment)
    keep(value)
  })
  return Effect.matchEffect(Effect.uninterruptible(kept), {
    onSuccess: options.onSuccess,
    onFailure: (error) => {
      passed(moment)
      return options.onFailure(error)
    }
  })
}

/**
 * Does one effect after the other, in the same step where that is possible.
 *
 * @internal
 */
export const all = (moment: Moment, effects: ReadonlyArray<Effect.Effect<void>>): Effect.Effect<void> => {
  for (let index = 0; index < effects.length; index++) {
    const effect = effects[index]
    if (effect === undefined || effect === Exit.void) continue
    if (effect instanceof Sync) {
      effect.read(moment)
      continue
    }
    const next = taken(moment, effect)
    if (!isExit(next) || next._tag === "Failure") {
      const rest = effects.slice(index + 1)
      return rest.length === 0 ? next : Effect.andThen(next, at((moment) => all(moment, rest)))
    }
  }
  return Exit.void
}

/**
 * Returns what is left to do of an effect, `undefined` when it was done in one step: a finalizer of nothing costs three
 * steps of a fiber.
 *
 * @internal
 */
export const rest = (effect: Effect.Effect<void>): Effect.Effect<void> | undefined =>
  effect === Exit.void ? undefined : effect

/** What an exit has and no other effect: finding it takes a tenth of the time of `Exit.isExit`. */
interface Marked<A, E, R> extends Effect.Effect<A, E, R> {
  readonly "~effect/Exit"?: unknown
}

const isExit = <A, E, R>(effect: Marked<A, E, R>): effect is Exit.Exit<A, E> => effect["~effect/Exit"] !== undefined
