/**
 * Remembers until when something must not be called.
 *
 * A cooldown starts when a provider asks for one (`Retry-After`) or when a policy decides so, under the key of what is
 * affected: a target, a deployment, a model, a key, a group of keys, a provider (see `Target.scopeKey`). It ends by
 * time alone. State lives in the service; `layerMemory` keeps it in the process.
 *
 * **Gotchas**
 *
 * A cooldown only ever grows: a shorter one never cuts a longer one. Only `clear` and `clearAll` end one early.
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
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Step from "./internal/step.ts"
import type { Reason, Scope } from "./LLMError.ts"
import { parseScopeKey, scopeKeys, type Target } from "./Target.ts"

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
  /**
   * Returns, for each group of keys, the cooldown that ends last; an empty array when nothing is cooling at all. Pass the
   * same array each time, unchanged: of a long one it is remembered which key stands where.
   */
  readonly latest: (groups: ReadonlyArray<ReadonlyArray<string>>) => Effect.Effect<ReadonlyArray<Entry | undefined>>
  /** Returns the cooldowns that run, the one that ends first first. */
  readonly active: Effect.Effect<ReadonlyArray<Entry>>
  /** Returns the cooldowns that run as a table: how many, of which providers, at which scopes, for how long. */
  readonly status: Effect.Effect<Status>
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

/**
 * The cooldowns that run, counted and listed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly total: number
  /** How many there are by provider; a cooldown whose key names no provider is in `total` only. */
  readonly byProvider: Readonly<Record<string, number>>
  /** How many there are by scope; a cooldown whose key names no scope is in `total` only. */
  readonly byScope: { readonly [S in Scope]?: number }
  /** The cooldowns themselves, the one that ends first first. */
  readonly entries: ReadonlyArray<StatusEntry>
}

/**
 * A line of the table: a cooldown that runs, and what its key names.
 *
 * @category models
 * @since 0.1.0
 */
export interface StatusEntry {
  readonly key: string
  readonly scope: Scope | undefined
  readonly provider: string | undefined
  readonly reason: Reason
  /** Milliseconds since the epoch at which it ends. */
  readonly until: number
  /** Milliseconds it still runs, at the time of reading. */
  readonly remainingMs: number
}

/**
 * What of a provider can be called.
 *
 * @category models
 * @since 0.1.0
 */
export interface Availability {
  /** Targets that are not cooling. */
  readonly available: number
  /** All targets. */
  readonly total: number
  /** Models that at least one available target serves, in the order of the targets. */
  readonly models: ReadonlyArray<string>
}

/**
 * Returns for each provider which of the targets can be called while the given cooldowns run.
 *
 * **Details**
 *
 * A target is cooling while any of its scope keys is: its own, its model's, its key's, its provider's.
 *
 * **Example** (Asking which models are left)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Cooldown, Target } from "breakwater"
 *
 * const targets = [
 *   Target.make({ provider: "groq", model: "gemma2-9b-it" }),
 *   Target.make({ provider: "groq", model: "llama3-8b-8192" }),
 *   Target.make({ provider: "openai", model: "gpt-4o" })
 * ]
 *
 * const program = Effect.gen(function*() {
 *   const cooldown = yield* Cooldown.Cooldown
 *   yield* cooldown.start("model:groq/gemma2-9b-it@none", "22 minutes", "rate_limit")
 *   yield* cooldown.start("provider:openai", "1 minute", "ip_blocked")
 *   const { byProvider } = yield* cooldown.status
 *   return [byProvider, Cooldown.available(targets, yield* cooldown.active)]
 * }).pipe(Effect.provide(Cooldown.layerMemory))
 *
 * const expected = [
 *   { openai: 1, groq: 1 },
 *   {
 *     groq: { available: 1, total: 2, models: ["llama3-8b-8192"] },
 *     openai: { available: 0, total: 1, models: [] }
 *   }
 * ]
 *
 * await Effect.runPromise(program) // => expected
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const available = (
  targets: ReadonlyArray<Target>,
  entries: ReadonlyArray<Pick<Entry, "scopeKey">>
): Readonly<Record<string, Availability>> => {
  const cooling = new Set(entries.map((_) => _.scopeKey))
  const providers = new Map<string, Availability>()
  for (const target of targets) {
    const { available, models, total } = providers.get(target.provider) ?? nothing
    const free = !scopeKeys(target).some((key) => cooling.has(key))
    providers.set(target.provider, {
      available: free ? available + 1 : available,
      total: total + 1,
      models: free && !models.includes(target.model) ? [...models, target.model] : models
    })
  }
  return Object.fromEntries(providers)
}

const nothing: Availability = { available: 0, total: 0, models: [] }

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
  let sweepSize = 64
  let sweepAt = Number.NEGATIVE_INFINITY

  const sweep = (now: number): number => {
    const before = entries.size
    for (const [key, entry] of entries) if (entry.until <= now) entries.delete(key)
    sweepSize = Math.max(64, entries.size * 2)
    sweepAt = now + sweepMs
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

  // Of many groups hardly any is cooling: it is quicker to ask each cooldown whom it concerns.
  const places = new WeakMap<ReadonlyArray<ReadonlyArray<string>>, ReadonlyMap<string, ReadonlyArray<number>>>()
  const latestOfMany = (
    groups: ReadonlyArray<ReadonlyArray<string>>,
    now: number
  ): ReadonlyArray<Entry | undefined> => {
    const known = places.get(groups) ?? placesOf(groups)
    places.set(groups, known)
    const latest = groups.map((): Entry | undefined => undefined)
    for (const [key, stored] of entries) {
      const concerned = known.get(key)
      if (concerned === undefined || stored.until <= now) continue
      const entry = view(key, stored, now)
      for (const index of concerned) {
        const current = latest[index]
        if (current === undefined || entry.until > current.until) latest[index] = entry
      }
    }
    return latest
  }

  const active: Effect.Effect<ReadonlyArray<Entry>> = Effect.map(Clock.currentTimeMillis, (now) => {
    sweep(now)
    return Array.from(entries, ([key, entry]) => view(key, entry, now)).sort((a, b) => a.until - b.until)
  })

  return Cooldown.of({
    start: (scopeKey, duration, reason) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const until = now + Duration.toMillis(Duration.fromInputUnsafe(duration))
        const current = read(scopeKey, now)
        if (until <= now || (current !== undefined && current.until >= until)) return
        if (entries.size >= sweepSize || now >= sweepAt) sweep(now)
        entries.set(scopeKey, { until, reason })
      }),
    remaining: (scopeKey) =>
      Effect.map(
        Clock.currentTimeMillis,
        (now) => Duration.millis(Math.max(0, (read(scopeKey, now)?.until ?? 0) - now))
      ),
    // Nothing is cooling most of the time, and then nobody needs to know what time it is.
    latest: (groups) =>
      Step.make((moment) => {
        if (entries.size === 0) return none
        const now = Step.millis(moment)
        return Exit.succeed(
          groups.length > few ? latestOfMany(groups, now) : groups.map((keys) => latestOf(keys, now))
        )
      }),
    active,
    status: Effect.map(active, statusOf),
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

const none: Exit.Exit<ReadonlyArray<Entry | undefined>> = Exit.succeed([])

const few = 64

/** How long what is over is kept at most while cooldowns start. */
const sweepMs = 60_000

const placesOf = (groups: ReadonlyArray<ReadonlyArray<string>>): ReadonlyMap<string, ReadonlyArray<number>> => {
  const places = new Map<string, Array<number>>()
  groups.forEach((keys, index) => {
    for (const key of keys) {
      const concerned = places.get(key)
      if (concerned === undefined) places.set(key, [index])
      else concerned.push(index)
    }
  })
  return places
}

const view = (scopeKey: string, entry: Stored, now: number): Entry => ({
  scopeKey,
  reason: entry.reason,
  until: entry.until,
  remainingMs: entry.until - now
})

const statusOf = (active: ReadonlyArray<Entry>): Status => {
  const byProvider = new Map<string, number>()
  const byScope: { [S in Scope]?: number } = {}
  const entries = active.map(({ reason, remainingMs, scopeKey, until }): StatusEntry => {
    const parsed = parseScopeKey(scopeKey)
    const { provider, scope } = parsed ?? { provider: undefined, scope: undefined }
    if (provider !== undefined) byProvider.set(provider, (byProvider.get(provider) ?? 0) + 1)
    if (scope !== undefined) byScope[scope] = (byScope[scope] ?? 0) + 1
    return { key: scopeKey, scope, provider, reason, until, remainingMs }
  })
  return { total: entries.length, byProvider: Object.fromEntries(byProvider), byScope, entries }
}
