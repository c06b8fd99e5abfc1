/**
 * Remembers until when something must not be called.
 *
 * A cooldown starts when a provider asks for one (`Retry-After`) or when a policy decides so, under the key of what is
 * affected: a target, a deployment, a model, a key, a group of keys, a provider (see `Target.scopeKey`). It ends by
 * time alone. State lives in the service; `layerMemory` keeps it in the process.
 *
 * **Gotchas**
 *
 * A cooldown only ever grows: a shorter one never cuts a longer one. `clear` is the only way to end one early.
 *
 * **Example** (A cooldown that ends by itself)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect } from "effect"
 * import { TestClock } from "effect/testing"
 * import { Cooldown } from "breakwater"
 *
 * const program = Effect.gen(function*() {
 *   const cooldown = yield* Cooldown.Cooldown
 *   yield* cooldown.start("provider:groq", "1 minute", "rate_limit")
 *   yield* TestClock.adjust("20 seconds")
 *   const during = yield* cooldown.remaining("provider:groq")
 *   yield* TestClock.adjust("40 seconds")
 *   const after = yield* cooldown.remaining("provider:groq")
 *   return [Duration.toSeconds(during), Duration.toSeconds(after)]
 * }).pipe(Effect.provide(Cooldown.layerMemory), Effect.provide(TestClock.layer()))
 *
 * await Effect.runPromise(program) // => [40, 0]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Reason } from "./LLMError.ts"

/**
 * Service that starts, reads and ends cooldowns.
 *
 * @category services
 * @since 0.1.0
 */
export class Cooldown extends Context.Service<Cooldown, {
  /** Starts a cooldown, or extends the one that runs; a shorter one changes nothing. */
  readonly start: (scopeKey: string, duration: Duration.Input, reason: Reason) => Effect.Effect<void>
  /** Returns how long a cooldown still runs, zero when none does. */
  readonly remaining: (scopeKey: string) => Effect.Effect<Duration.Duration>
  /** Returns, for each group of keys, the cooldown that ends last; an empty array when nothing is cooling at all. */
  readonly latest: (groups: ReadonlyArray<ReadonlyArray<string>>) => Effect.Effect<ReadonlyArray<Entry | undefined>>
  /** Returns the cooldowns that run, the one that ends first first. */
  readonly active: Effect.Effect<ReadonlyArray<Entry>>
  /** Ends one cooldown now; returns whether it was running. */
  readonly clear: (scopeKey: string) => Effect.Effect<boolean>
  /** Ends all cooldowns now; returns how many were running. */
  readonly clearAll: Effect.Effect<number>
  /** Forgets cooldowns that are over; returns how many. Expiry itself needs no such call. */
  readonly clearExpired: Effect.Effect<number>
}>()("breakwater/Cooldown") {}

/**
 * A cooldown that runs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly scopeKey: string
  readonly reason: Reason
  /** Milliseconds since the epoch at which it ends. */
  readonly until: number
  /** Milliseconds it still runs, at the time of reading. */
  readonly remainingMs: number
}

/** What is stored of a cooldown. */
interface Stored {
  readonly until: number
  readonly reason: Reason
}

/**
 * Provides a `Cooldown` that lives in the process.
 *
 * **Details**
 *
 * Entries that are over are dropped when they are met, and all at once whenever the number of entries has doubled, so
 * memory follows the number of cooldowns that run.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<Cooldown> = Layer.sync(Cooldown, () => {
  const entries = new Map<string, Stored>()
  let sweepAt = 64

  const sweep = (now: number): number => {
    const before = entries.size
    for (const [key, entry] of entries) if (entry.until <= now) entries.delete(key)
    sweepAt = Math.max(64, entries.size * 2)
    return before - entries.size
  }

  const read = (key: string, now: number): Stored | undefined => {
    const entry = entries.get(key)
    if (entry === undefined || entry.until > now) return entry
    entries.delete(key)
    return undefined
  }

  const latestOf = (keys: ReadonlyArray<string>, now: number): Entry | undefined => {
    let latest: Entry | undefined
    for (const key of keys) {
      const entry = read(key, now)
      if (entry !== undefined && (latest === undefined || entry.until > latest.until)) {
        latest = view(key, entry, now)
      }
    }
    return latest
  }

  return Cooldown.of({
    start: (scopeKey, duration, reason) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const until = now + Duration.toMillis(Duration.fromInputUnsafe(duration))
        const current = read(scopeKey, now)
        if (until <= now || (current !== undefined && current.until >= until)) return
        if (entries.size >= sweepAt) sweep(now)
        entries.set(scopeKey, { until, reason })
      }),
    remaining: (scopeKey) =>
      Effect.map(
        Clock.currentTimeMillis,
        (now) => Duration.millis(Math.max(0, (read(scopeKey, now)?.until ?? 0) - now))
      ),
    latest: (groups) =>
      Effect.map(
        Clock.currentTimeMillis,
        (now) => entries.size === 0 ? [] : groups.map((keys) => latestOf(keys, now))
      ),
    active: Effect.map(Clock.currentTimeMillis, (now) => {
      sweep(now)
      return Array.from(entries, ([key, entry]) => view(key, entry, now)).sort((a, b) => a.until - b.until)
    }),
    clear: (scopeKey) =>
      Effect.map(Clock.currentTimeMillis, (now) => read(scopeKey, now) !== undefined && entries.delete(scopeKey)),
    clearAll: Effect.map(Clock.currentTimeMillis, (now) => {
      sweep(now)
      const running = entries.size
      entries.clear()
      return running
    }),
    clearExpired: Effect.map(Clock.currentTimeMillis, sweep)
  })
})

const view = (scopeKey: string, entry: Stored, now: number): Entry => ({
  scopeKey,
  reason: entry.reason,
  until: entry.until,
  remainingMs: entry.until - now
})
