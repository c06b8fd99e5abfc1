/**
 * Which attempt of a race starts when, and when the race is over.
 *
 * Attempts are numbered from 0. A number that is refused is passed over and not asked for again. Time is none of the
 * core's business: the shell waits for the delay of the next number wherever it is told to, and says when it is over.
 *
 * @internal
 */

/** @internal */
export interface Rules {
  readonly maxAttempts: number
  /** Whether a failure starts the next attempt at once. */
  readonly startsOnFailure: boolean
}

/** @internal */
export interface State {
  /** Number of the next attempt. */
  readonly next: number
  /** Attempts that run, and those that are asked for. */
  readonly running: number
  readonly isOver: boolean
}

/** @internal */
export type Event =
  | { readonly _tag: "Began" }
  /** The delay before an attempt has passed. */
  | { readonly _tag: "Due"; readonly index: number }
  /** An attempt that was asked for must not start. */
  | { readonly _tag: "Refused" }
  /** An attempt failed with an error that another attempt may heal. */
  | { readonly _tag: "Failed" }
  /** An attempt ended such that no other matters. */
  | { readonly _tag: "Decided" }

/** @internal */
export type Decision =
  /** Goes on as before. */
  | { readonly _tag: "Wait" }
  /** Starts an attempt, and the delay of the one after it anew when `arms`. */
  | { readonly _tag: "Start"; readonly index: number; readonly arms: boolean }
  /** Ends with what the event brought, or with the failure of the first attempt. */
  | { readonly _tag: "End"; readonly result: "event" | "first" }

/** @internal */
export const initial: State = { next: 0, running: 0, isOver: false }

/** @internal */
export const step = (rules: Rules, state: State, event: Event): readonly [State, Decision] => {
  if (state.isOver) return [state, wait]
  switch (event._tag) {
    case "Began":
      return start(rules, state)
    case "Due":
      // An attempt that a failure has started meanwhile is no longer due.
      return event.index === state.next ? start(rules, state) : [state, wait]
    case "Refused": {
      const left = ended(state)
      return left.running > 0 ? [left, wait] : startOrEnd(rules, left)
    }
    case "Failed":
      return startOrEnd(rules, ended(state))
    case "Decided":
      return [{ ...state, isOver: true }, { _tag: "End", result: "event" }]
  }
}

const wait: Decision = { _tag: "Wait" }

const ended = (state: State): State => ({ ...state, running: state.running - 1 })

const start = ({ maxAttempts }: Rules, { next, running }: State): readonly [State, Decision] => [
  { next: next + 1, running: running + 1, isOver: false },
  { _tag: "Start", index: next, arms: next + 1 < maxAttempts }
]

const startOrEnd = (rules: Rules, state: State): readonly [State, Decision] => {
  if (rules.startsOnFailure && state.next < rules.maxAttempts) return start(rules, state)
  return state.running > 0 ? [state, wait] : [{ ...state, isOver: true }, { _tag: "End", result: "first" }]
}
