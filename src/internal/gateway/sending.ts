/**
 * Sends bodies piece by piece, as fast as the client reads, and only as long as it reads at all.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Alarms from "../alarm.ts"

/**
 * A body from its next piece. The request's fiber is interrupted, and so its connection closed, when a piece is not
 * taken for so long: a server asks for the next one only when there is room in the client's buffer.
 */
export const body = (
  next: Pull.Pull<Uint8Array>,
  slowMs: number,
  scope: Scope.Scope,
  onSlow: Effect.Effect<void>
): Stream.Stream<Uint8Array> => {
  let alarm: Alarms.Alarm | undefined
  let slow = false
  const disarm = (): void => {
    if (alarm !== undefined) Alarms.clear(alarm, "soon")
    alarm = undefined
  }
  const pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>> = Effect.withFiber((fiber) => {
    disarm()
    return Effect.map(next, (piece) => {
      if (Number.isFinite(slowMs)) {
        alarm = Alarms.set(fiber.getRef(Clock.Clock), fiber.getRef(Scheduler.Scheduler), slowMs, () => {
          slow = true
          fiber.interruptUnsafe()
        })
      }
      return Arr.of(piece)
    })
  })
  const ended = Effect.suspend(() => {
    disarm()
    return slow ? onSlow : Effect.void
  })
  return Stream.fromPull(Effect.as(Scope.addFinalizer(scope, ended), pull))
}

const slice = 64 * 1024

/** Bodies that a socket takes at once need no watching. */
export const isShort = (text: string): boolean => text.length < slice / 4

/** A body that is there, in slices. */
export const slices = (bytes: Uint8Array, done: Effect.Effect<never, Cause.Done>): Pull.Pull<Uint8Array> => {
  let at = 0
  return Effect.suspend((): Pull.Pull<Uint8Array> => {
    if (at >= bytes.length) return done
    const piece = bytes.subarray(at, at + slice)
    at += slice
    return Effect.succeed(piece)
  })
}
