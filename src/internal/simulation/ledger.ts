/**
 * Writes down what happens in a simulation: what becomes of each call, what each provider receives, and what state the
 * targets are in.
 *
 * @internal
 */
import type { Attempt, ErrorClass, Reason } from "../../LLMError.ts"
import type { Decision } from "../providerServer/desk.ts"
import type { Observer } from "./network.ts"

/** What became of a call. */
export interface Outcome {
  readonly isAnswered: boolean
  /** Milliseconds since the start at which it ended. */
  readonly endedAt: number
  readonly waitedMs: number
  /** Milliseconds from the call to its first content, of a streamed answer. */
  readonly firstTokenMs: number | undefined
  readonly attempts: ReadonlyArray<Pick<Attempt, "target" | "chosen" | "outcome" | "errorClass">>
  readonly cost: number | undefined
  readonly costAtLeast: boolean
  readonly errorClass: ErrorClass | undefined
  readonly reason: Reason | undefined
}

/** A request as a provider saw it. */
export interface Sighting {
  /** Milliseconds since the start. */
  readonly at: number
  readonly model: string
  readonly key: string
  readonly outcome: Decision["outcome"]
  readonly isAdmitted: boolean
}

/** What a provider counted besides its sightings, of requests since the end of the warm-up. */
export interface Counts {
  aborted: number
  inputTokens: number
  outputTokens: number
}

/** States a target can be in, the one that hides others last. */
export const states = ["ready", "cooling", "half-open", "open"] as const

export type State = typeof states[number]

export interface Ledger {
  /** By the index of the call; calls without one have not ended. */
  readonly outcomes: Array<Outcome | undefined>
  readonly sightings: ReadonlyMap<string, ReadonlyArray<Sighting>>
  readonly counts: ReadonlyMap<string, Counts>
  /** By target, the worst state in each stretch of the timeline. */
  readonly states: ReadonlyMap<string, ReadonlyArray<State>>
  /** Begins the row of a target. */
  readonly watch: (target: string) => void
  readonly observer: (provider: string) => Observer
  readonly sample: (target: string, at: number, state: State) => void
}

/** Creates an empty ledger; `now` says the milliseconds since the start. */
export const make = (options: {
  readonly calls: number
  readonly warmUpMs: number
  readonly binMs: number
  readonly bins: number
  readonly now: () => number
}): Ledger => {
  const sightings = new Map<string, Array<Sighting>>()
  const counts = new Map<string, Counts>()
  const seen = new Map<string, Array<State>>()
  return {
    outcomes: Array.from({ length: options.calls }),
    sightings,
    counts,
    states: seen,
    watch: (target) => void seen.set(target, Array.from({ length: options.bins }, (): State => "ready")),
    observer: (provider) => {
      const list: Array<Sighting> = []
      const count: Counts = { aborted: 0, inputTokens: 0, outputTokens: 0 }
      sightings.set(provider, list)
      counts.set(provider, count)
      return {
        arrived: ({ admitted, entry, outcome }) => {
          list.push({
            at: options.now(),
            model: entry.model,
            key: entry.key,
            outcome,
            isAdmitted: admitted !== undefined
          })
        },
        left: ({ admitted }, outcome, output) => {
          if (options.now() < options.warmUpMs) return
          if (outcome === "aborted") count.aborted++
          if (admitted === undefined) return
          count.inputTokens += admitted.tokens.input
          count.outputTokens += output
        }
      }
    },
    sample: (target, at, state) => {
      const list = seen.get(target)
      const bin = Math.min(options.bins - 1, Math.floor(at / options.binMs))
      if (list !== undefined && states.indexOf(state) > states.indexOf(list[bin] ?? "ready")) list[bin] = state
    }
  }
}
