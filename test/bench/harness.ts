/**
 * Measures what operations cost, side by side: all subjects of a group take turns, round by round, so that whatever
 * slows the machine for a while slows all of them. Figures are medians over the rounds; ratios and differences are taken
 * within a round, and then their median.
 *
 * Time is the CPU time of this thread, where a group does not say otherwise: what else runs on the machine, and on the
 * threads of the compiler and the collector, is not in it. On a quiet machine it is the time that passes.
 */
import type { Effect, Scope } from "effect"
import * as Tables from "./table.ts"

/** One thing to measure. */
export interface Subject {
  readonly name: string
  /**
   * Does something so many times; what it does once counts as `operations` operations. Where it is the median of a sample
   * that counts and not its mean, it returns the milliseconds that all of them take at the pace of the median.
   */
  readonly run: (times: number) => void | Promise<void> | Promise<number>
  /** @default 1 */
  readonly operations?: number
  /**
   * Longer warm-up, as a multiple: another process is cold when it starts.
   *
   * @default 1
   */
  readonly warmUps?: number
  /** Subject whose time is subtracted: what is measured is what comes on top of it. */
  readonly over?: string
  /** Subjects to compare it with. */
  readonly peers?: ReadonlyArray<string>
  readonly budgets?: ReadonlyArray<Budget>
}

/** What an operation may cost, in microseconds or as a multiple of what a peer costs. */
export type Budget =
  | { readonly _tag: "Micros"; readonly limit: number }
  | { readonly _tag: "Ratio"; readonly peer: string; readonly limit: number }

/** Subjects that are measured side by side. */
export interface Group {
  readonly name: string
  /** What has to be known to read the figures. */
  readonly note?: string
  /**
   * The time that is measured: of this thread, or the one that passes, where other processes take part.
   *
   * @default "thread"
   */
  readonly clock?: "thread" | "wall"
  readonly subjects: Effect.Effect<ReadonlyArray<Subject>, never, Scope.Scope>
}

/** How long to measure. */
export interface Settings {
  /** Samples of each subject. */
  readonly rounds: number
  /** Length of a sample. */
  readonly sampleMs: number
  /** Time each subject runs before the first round. */
  readonly warmupMs: number
  /**
   * Reads the time in milliseconds.
   *
   * @default the clock of the group
   */
  readonly now?: () => number
}

export const micros = (limit: number): Budget => ({ _tag: "Micros", limit })

export const ratio = (peer: string, limit: number): Budget => ({ _tag: "Ratio", peer, limit })

/** Measures the subjects of a group: a row for each. */
export const measure = async (
  group: Pick<Group, "name" | "note" | "clock">,
  subjects: ReadonlyArray<Subject>,
  settings: Settings
): Promise<Tables.Table> => {
  const { now = group.clock === "wall" ? wall : thread, rounds } = settings
  const clocked = { ...settings, now }
  const tracks: Array<Track> = []
  for (const subject of subjects) tracks.push(await warmUp(subject, clocked))
  for (let round = 0; round < rounds; round++) {
    for (const track of tracks) track.samples.push(await sample(track.subject, track.times, now))
  }
  const samplesOf = (name: string): ReadonlyArray<number> => {
    const track = tracks.find((_) => _.subject.name === name)
    if (track === undefined) throw new RangeError(`${group.name}: no subject "${name}"`)
    const { over } = track.subject
    if (over === undefined) return track.samples
    const base = samplesOf(over)
    return track.samples.map((value, round) => value - at(base, round))
  }
  return {
    title: group.name,
    note: group.note,
    unit: group.clock === "wall" ? "µs, as time passes" : "µs",
    columns: ["median", "p10", "p90"],
    rows: tracks.map(({ subject }) => rowOf(subject, samplesOf))
  }
}

interface Track {
  readonly subject: Subject
  /** How often a sample runs it. */
  readonly times: number
  readonly samples: Array<number>
}

/** The time that passes, to the nanosecond. */
export const wall = (): number => Number(process.hrtime.bigint()) / 1e6

const never = new Int32Array(new SharedArrayBuffer(4))

/** What this thread has worked. Linux counts up to when a thread was last switched out, so it is, for a moment. */
export const thread = (): number => {
  Atomics.wait(never, 0, 0, 0.01)
  const { system, user } = process.threadCpuUsage()
  return (system + user) / 1000
}

const elapsedMs = async (subject: Subject, times: number, now: () => number): Promise<number> => {
  const start = now()
  const atMedian = await subject.run(times)
  return atMedian ?? now() - start
}

const sample = async (subject: Subject, times: number, now: () => number): Promise<number> =>
  await elapsedMs(subject, times, now) * 1000 / (times * (subject.operations ?? 1))

// The last run of the warm-up tells how often the operation fits in a sample.
const warmUp = async (subject: Subject, settings: Settings & { readonly now: () => number }): Promise<Track> => {
  const warmupMs = settings.warmupMs * (subject.warmUps ?? 1)
  let times = 1
  let total = 0
  for (;;) {
    const ms = await elapsedMs(subject, times, settings.now)
    total += ms
    if (total >= warmupMs && (ms >= settings.sampleMs / 2 || total >= 2 * warmupMs)) {
      return { subject, times: Math.max(1, Math.round(times * settings.sampleMs / ms)), samples: [] }
    }
    if (ms < settings.sampleMs) times *= 2
  }
}

const rowOf = (subject: Subject, samplesOf: (name: string) => ReadonlyArray<number>): Tables.Row => {
  const samples = samplesOf(subject.name)
  const ratioTo = (peer: string): number => {
    const others = samplesOf(peer)
    return quantile(samples.map((value, round) => value / at(others, round)), 0.5)
  }
  const median = quantile(samples, 0.5)
  return {
    name: `${subject.name}${subject.over === undefined ? "" : " (added)"}`,
    figures: [median, quantile(samples, 0.1), quantile(samples, 0.9)],
    ratios: (subject.peers ?? []).map((peer) => ({ peer, ratio: ratioTo(peer) })),
    budgets: (subject.budgets ?? []).map((budget) =>
      budget._tag === "Micros"
        ? Tables.atMost(median, budget.limit, " µs")
        : Tables.atMost(ratioTo(budget.peer), budget.limit, `× ${budget.peer}`)
    )
  }
}

const at = (values: ReadonlyArray<number>, index: number): number => values[index] ?? Number.NaN

/** Value below which a share of the values lies, between the two nearest ones in proportion. */
export const quantile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const position = share * (sorted.length - 1)
  const below = at(sorted, Math.floor(position))
  return below + (at(sorted, Math.ceil(position)) - below) * (position - Math.floor(position))
}
