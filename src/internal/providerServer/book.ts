/**
 * What the test provider received, and who waits for it.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Fault } from "./plan.ts"
import type { Tokens } from "./quota.ts"

/**
 * One request as it was received, for assertions.
 *
 * @category models
 * @since 0.1.0
 */
export interface Exchange {
  /** Time of arrival in epoch milliseconds. */
  readonly at: number
  readonly method: string
  readonly path: string
  /** Headers by lower-case name; credentials are replaced by `<redacted>`. */
  readonly headers: Readonly<Record<string, string>>
  /** The body: JSON where it is JSON, else text. */
  readonly body: unknown
  /** Model asked for; empty when none was. */
  readonly model: string
  /** Name of the key; `none` without credentials, `unknown` when it is not accepted. */
  readonly key: string
  /** Status sent, `undefined` as long as there is none. */
  readonly status: number | undefined
  /** Scripted fault it met. */
  readonly fault: Fault["_tag"] | undefined
  /**
   * How it ended: `answered` in full, `refused` by a quota (429), `rejected` by a check (key, model, body, path),
   * `faulted` when a scripted fault ran to its end, `aborted` when the client left first.
   */
  readonly outcome: "pending" | "answered" | "refused" | "rejected" | "faulted" | "aborted"
}

/**
 * What the server counted since it began or was reset.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Requests received in full. */
  readonly requests: number
  readonly byModel: Readonly<Record<string, number>>
  readonly byKey: Readonly<Record<string, number>>
  readonly byStatus: Readonly<Record<string, number>>
  readonly answered: number
  /** Requests a quota refused with 429 (Groq: 413 when too large). */
  readonly refused: number
  readonly rejected: number
  readonly faulted: number
  /** Requests whose client left before the answer had ended. */
  readonly aborted: number
  readonly tokens: {
    /** Input and reserved output of all admitted requests. */
    readonly admitted: number
    readonly input: number
    /** Output sent. */
    readonly output: number
  }
  /** Requests in progress, from their arrival to the end of their answer. */
  readonly concurrent: { readonly now: number; readonly max: number }
  readonly sockets: { readonly now: number; readonly opened: number }
  /** The last requests, oldest first; `Options.logSize` of them. */
  readonly log: ReadonlyArray<Exchange>
}

/** @internal */
export interface Entry extends Omit<Exchange, "status" | "fault" | "outcome"> {
  status: Exchange["status"]
  fault: Exchange["fault"]
  outcome: Exchange["outcome"]
}

const emptyCounts = () => ({
  requests: 0,
  byModel: new Map<string, number>(),
  byKey: new Map<string, number>(),
  byStatus: new Map<string, number>(),
  outcomes: { pending: 0, answered: 0, refused: 0, rejected: 0, faulted: 0, aborted: 0 },
  admitted: 0,
  input: 0,
  output: 0,
  max: 0,
  log: new Array<Entry>()
})

const count = (counts: Map<string, number>, name: string): void => {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}

/** @internal */
export const makeBook = (logSize: number) => {
  let counts = emptyCounts()
  let active = 0
  let sockets = 0
  let opened = 0
  const waiters = new Set<{ readonly holds: (stats: Stats) => boolean; readonly done: Deferred.Deferred<void> }>()

  const stats = (): Stats => ({
    requests: counts.requests,
    byModel: Object.fromEntries(counts.byModel),
    byKey: Object.fromEntries(counts.byKey),
    byStatus: Object.fromEntries(counts.byStatus),
    answered: counts.outcomes.answered,
    refused: counts.outcomes.refused,
    rejected: counts.outcomes.rejected,
    faulted: counts.outcomes.faulted,
    aborted: counts.outcomes.aborted,
    tokens: { admitted: counts.admitted, input: counts.input, output: counts.output },
    concurrent: { now: active, max: counts.max },
    sockets: { now: sockets, opened },
    log: counts.log.map((entry) => ({ ...entry }))
  })

  const changed = (): void => {
    if (waiters.size === 0) return
    const now = stats()
    for (const waiter of waiters) {
      if (!waiter.holds(now)) continue
      waiters.delete(waiter)
      Deferred.doneUnsafe(waiter.done, Exit.void)
    }
  }

  return {
    stats,
    until: (holds: (stats: Stats) => boolean): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (holds(stats())) return Effect.void
        const waiter = { holds, done: Deferred.makeUnsafe<void>() }
        waiters.add(waiter)
        return Effect.onInterrupt(Deferred.await(waiter.done), () => Effect.sync(() => waiters.delete(waiter)))
      }),
    connected: (change: 1 | -1): void => {
      sockets += change
      if (change === 1) opened++
      changed()
    },
    /** Counts a request in and returns what counts it out; a reset in between leaves the new counts alone. */
    arrived: () => {
      const mine = counts
      active++
      counts.max = Math.max(counts.max, active)
      changed()
      return {
        received: (entry: Entry): void => {
          mine.requests++
          count(mine.byModel, entry.model)
          count(mine.byKey, entry.key)
          if (logSize > 0) mine.log.push(entry)
          if (mine.log.length > logSize) mine.log.shift()
          changed()
        },
        admitted: (tokens: Tokens): void => {
          mine.admitted += tokens.input + tokens.output
          mine.input += tokens.input
        },
        output: (tokens: number): void => {
          mine.output += tokens
        },
        status: (entry: Entry, status: number): void => {
          entry.status = status
          count(mine.byStatus, String(status))
          changed()
        },
        /** Counts the request out; to be called once. */
        left: (entry: Entry | undefined, outcome: Exchange["outcome"]): void => {
          active--
          mine.outcomes[outcome]++
          if (entry !== undefined) entry.outcome = outcome
          changed()
        }
      }
    },
    reset: (): void => {
      counts = emptyCounts()
      counts.max = active
      opened = sockets
      changed()
    }
  }
}

/** @internal */
export type Book = ReturnType<typeof makeBook>
