/**
 * What the strategies read of a router's targets, column by column, kept from call to call.
 *
 * Attempts in flight are counted as they come and go. Scores, times and headroom belong to the services that know them
 * and change by time alone, so they are read again before a choice: all of a small pool, and of a large one, once it has
 * been read as a whole, those that something happened to and a few others in turn, so that a choice costs the same however
 * many there are.
 *
 * @internal
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { hash as hashOf, type Snapshot } from "../../Selection.ts"
import * as Step from "../step.ts"
import type { Engine, Member } from "./call.ts"
import * as Silences from "./silence.ts"

type Chosen = "free" | "tokens" | "affinity" | "start"

/** The columns, and what is set before each choice. */
export interface Board extends Omit<Snapshot, Chosen> {
  free: Snapshot["free"]
  tokens: Snapshot["tokens"]
  affinity: Snapshot["affinity"]
  start: number
  /** Candidates that something has happened to since they were read. */
  readonly touched: Set<number>
  /** Where the reading in turn goes on; -1 before all have been read once. */
  cursor: number
  readonly silence: Silences.Silence
}

/** Most candidates that are read before one choice. */
const most = 32

export const make = (members: ReadonlyArray<Member>): Board => {
  const count = members.length
  const perToken = (price: number | undefined): number => (price ?? Number.NaN) / 1_000_000
  return {
    count,
    targets: members.map((_) => _.target),
    health: new Float64Array(count).fill(100),
    latency: new Float64Array(count),
    perToken: new Float64Array(count),
    pending: new Int32Array(count),
    headroom: new Float64Array(count).fill(1),
    weight: Float64Array.from(members, (_) => _.target.weight),
    priceInput: Float64Array.from(members, (_) => perToken(_.target.price?.input)),
    priceOutput: Float64Array.from(members, (_) => perToken(_.target.price?.output)),
    hash: Uint32Array.from(members, (_) => hashOf(_.target.id)),
    free: new Uint8Array(count),
    tokens: { input: 0, output: 0 },
    affinity: undefined,
    start: 0,
    touched: new Set(),
    cursor: -1,
    silence: Silences.make(members.map((_) => _.target))
  }
}

/** Notes that an attempt at a candidate has begun. */
export const begin = (board: Board, index: number, now: number): void => {
  count(board, index, 1)
  Silences.begin(board.silence, index, now)
}

/** Notes that an attempt at a candidate has ended. */
export const end = (board: Board, index: number): void => count(board, index, -1)

const count = (board: Board, index: number, change: 1 | -1): void => {
  board.pending[index] = (board.pending[index] ?? 0) + change
  if (board.count > most) board.touched.add(index)
}

/** Whether a candidate is silent and has as many attempts in flight as it may have. */
export const isSilent = ({ pending, silence }: Board, index: number, now: number): boolean =>
  Silences.isFull(silence, index, pending[index] ?? 0, now)

/** Reads again what the strategy is going to look at. */
export const refresh = (moment: Step.Moment, engine: Engine): Effect.Effect<void> => {
  const { reads } = engine.strategy
  const indices = due(engine.board)
  const known = reads.includes("health") || reads.includes("latency") ? readHealth(moment, engine, indices) : Exit.void
  return reads.includes("headroom")
    ? Step.flatMap(moment, known, () => readHeadroom(moment, engine, indices))
    : known
}

const due = (board: Board): ReadonlyArray<number> => {
  const { count, touched } = board
  if (count <= most || board.cursor < 0) {
    board.cursor = 0
    touched.clear()
    return board.targets.map((_, index) => index)
  }
  const indices: Array<number> = []
  for (const index of touched) {
    if (indices.length === most) return indices
    indices.push(index)
    touched.delete(index)
  }
  while (indices.length < most) {
    indices.push(board.cursor)
    board.cursor = (board.cursor + 1) % count
  }
  return indices
}

const readHealth = (
  moment: Step.Moment,
  { board, candidates, health }: Engine,
  indices: ReadonlyArray<number>
): Effect.Effect<void> =>
  Step.flatMap(moment, health.readings(indices.map((index) => candidates[index]?.health[0] ?? "")), (readings) => {
    indices.forEach((index, at) => {
      const reading = readings[at]
      if (reading === undefined) return
      board.health[index] = reading.score
      board.latency[index] = reading.peakMs
      board.perToken[index] = reading.perTokenMs ?? 0
    })
    return Exit.void
  })

const readHeadroom = (
  moment: Step.Moment,
  { board, candidates, limiter }: Engine,
  indices: ReadonlyArray<number>
): Effect.Effect<void> =>
  Step.flatMap(moment, limiter.headrooms(indices.map((index) => candidates[index]?.limits ?? [])), (shares) => {
    indices.forEach((index, at) => {
      board.headroom[index] = shares[at] ?? 1
    })
    return Exit.void
  })
