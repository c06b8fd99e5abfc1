/**
 * The circuits of a breaker, by key: keeps their states, their history, and forgets those that are idle.
 *
 * @internal
 */
import type { LLMError } from "../../LLMError.ts"
import * as Core from "./core.ts"
import * as Histories from "./history.ts"

/**
 * A circuit and what belongs to it.
 *
 * @internal
 */
export interface Cell {
  readonly key: string
  readonly history: Histories.History
  readonly transitions: Array<Change>
  state: Core.State
  usedAt: number
  /** The last refusal, for those that would be equal to it. */
  refusal: { readonly retryAfterMs: number; readonly why: string; readonly error: LLMError } | undefined
  /** Whether the registry has forgotten it; what its last calls report is lost. */
  forgotten: boolean
}

/** @internal */
export interface Change {
  readonly from: Core.Status
  readonly to: Core.Status
  readonly at: number
  readonly state: Core.State
}

/** @internal */
export interface Registry {
  readonly config: Core.Config
  /** The circuit of a key, made when there is none. */
  readonly use: (key: string, now: number, seed: () => number) => Cell
  readonly peek: (key: string, now: number) => Cell | undefined
  readonly cells: (now: number) => ReadonlyArray<Cell>
  /** Whether every circuit is plainly closed, so that none of them needs to be looked at. */
  readonly allClosed: () => boolean
  /** Replaces the state of a circuit, and tells of the transition if it is one. */
  readonly commit: (cell: Cell, state: Core.State, onChange: (cell: Cell, change: Change) => void) => void
}

const smallest = 64

// What is disabled refuses nobody, like what is closed.
const weightOf = (status: Core.Status): number => status === "closed" || status === "disabled" ? 0 : 1

/** @internal */
export const make = (config: Core.Config, idleMs: number, historySize: number): Registry => {
  const held = new Map<string, Cell>()
  let generation = 0
  let sweepSize = smallest
  let sweepAt = Number.NEGATIVE_INFINITY
  let notClosed = 0

  // An isolation waits for whoever began it; an open circuit is remembered for as long after it could have been probed.
  const isIdle = ({ state, usedAt }: Cell, now: number): boolean =>
    state.isolations.length === 0 &&
    now - (state.phase._tag === "Open" ? Math.max(usedAt, state.phase.until) : usedAt) >= idleMs

  const forget = (cell: Cell): void => {
    cell.forgotten = true
    if (held.delete(cell.key)) notClosed -= weightOf(Core.statusOf(config, cell.state))
  }

  const sweep = (now: number): void => {
    for (const cell of held.values()) if (isIdle(cell, now)) forget(cell)
    sweepSize = Math.max(smallest, held.size * 2)
    sweepAt = now + idleMs / 2
  }

  const peek = (key: string, now: number): Cell | undefined => {
    const cell = held.get(key)
    return cell === undefined || isIdle(cell, now) ? undefined : cell
  }

  return {
    config,
    peek,
    allClosed: () => notClosed === 0,
    use: (key, now, seed) => {
      const known = held.get(key)
      if (known !== undefined && !isIdle(known, now)) {
        known.usedAt = now
        return known
      }
      if (known !== undefined) forget(known)
      if (held.size >= sweepSize || now >= sweepAt) sweep(now)
      const cell: Cell = {
        key,
        history: Histories.make(historySize),
        transitions: [],
        state: Core.initial(config, generation++, seed(), now),
        usedAt: now,
        refusal: undefined,
        forgotten: false
      }
      held.set(key, cell)
      return cell
    },
    cells: (now) => {
      sweep(now)
      return Array.from(held.values())
    },
    commit: (cell, state, onChange) => {
      const before = cell.state
      if (state === before) return
      cell.state = state
      const from = Core.statusOf(config, before)
      const to = Core.statusOf(config, state)
      if (from === to) return
      if (!cell.forgotten) notClosed += weightOf(to) - weightOf(from)
      const change: Change = { from, to, at: state.lastAt, state }
      cell.transitions.push(change)
      if (cell.transitions.length > historySize) cell.transitions.shift()
      onChange(cell, change)
    }
  }
}
