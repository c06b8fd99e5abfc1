/**
 * Which targets have fallen silent: they are sent requests, and nothing comes back.
 *
 * A target that hangs fails only when the first of its requests has used up its time, and until then every strategy sends
 * it more. What is in flight tells sooner, by either of two signs:
 *
 * - Three requests in a row, none of which has come back, have been overtaken by twenty answers to requests that siblings,
 *   the other keys of the same model, were sent after them. By chance that befalls one healthy target in 1771, however
 *   long answers take.
 * - A dozen requests in a row, none of which has come back, have each waited longer than the longest answer of the target
 *   in the last minute or so, and at least five seconds.
 *
 * A silent target is asked last and has no more than three requests at a time until anything comes back.
 *
 * @internal
 */
import type { Target } from "../../Target.ts"
import * as Average from "../health/average.ts"

/** Requests in a row that siblings have to overtake, and the most that a silent target has at a time. */
const few = 3

/** Answers of siblings that have to overtake them. */
const answers = 20

/** Requests in a row that have to wait for too long. */
const dozen = 12

/** Less than this is never too long. */
const leastMs = 5000

/** How long the longest answer is remembered. */
const memoryMs = 60_000

export interface Silence {
  /** Requests since the last sign of life, up to a dozen. */
  readonly unanswered: Uint8Array
  /** When the last of the first few of them began. */
  readonly fewAt: Float64Array
  /** When the last of the first dozen of them began. */
  readonly dozenAt: Float64Array
  readonly silent: Uint8Array
  /** The longest answer lately. */
  readonly longest: Array<Average.Peak>
  /** The siblings that each target belongs to. */
  readonly family: Int32Array
  /** When the requests began that a family answered last, `answers` places each. */
  readonly answered: Float64Array
  /** The place of each family that is written next. */
  readonly next: Int32Array
}

export const make = (targets: ReadonlyArray<Target>): Silence => {
  const families = new Map<string, number>()
  const family = Int32Array.from(targets, ({ model, provider }) => {
    const name = `${provider}/${model}`
    const known = families.get(name) ?? families.size
    families.set(name, known)
    return known
  })
  return {
    unanswered: new Uint8Array(targets.length),
    fewAt: new Float64Array(targets.length),
    dozenAt: new Float64Array(targets.length),
    silent: new Uint8Array(targets.length),
    longest: targets.map(() => Average.noPeak),
    family,
    answered: new Float64Array(families.size * answers).fill(Number.NEGATIVE_INFINITY),
    next: new Int32Array(families.size)
  }
}

/** Notes that a request to a target begins. */
export const begin = ({ dozenAt, fewAt, unanswered }: Silence, index: number, now: number): void => {
  const count = (unanswered[index] ?? 0) + 1
  if (count > dozen) return
  unanswered[index] = count
  if (count === few) fewAt[index] = now
  if (count === dozen) dozenAt[index] = now
}

/** Notes that something has come back from a target, be it a refusal. */
export const heard = (silence: Silence, index: number): void => {
  silence.unanswered[index] = 0
  silence.silent[index] = 0
}

/** Notes that a target has answered a request that began then. */
export const answer = (silence: Silence, index: number, startedAt: number, now: number): void => {
  heard(silence, index)
  const { answered, longest, next } = silence
  const family = silence.family[index] ?? 0
  const place = next[family] ?? 0
  answered[family * answers + place] = startedAt
  next[family] = (place + 1) % answers
  longest[index] = Average.observePeak(longest[index] ?? Average.noPeak, now - startedAt, memoryMs, now)
}

/** Returns whether a target with so many requests in flight is silent and has as many as it may have. */
export const isFull = (silence: Silence, index: number, pending: number, now: number): boolean => {
  if (pending < few) return false
  if (silence.silent[index] === 1) return true
  if (!isOvertaken(silence, index) && !isTooLong(silence, index, now)) return false
  silence.silent[index] = 1
  return true
}

const isOvertaken = ({ answered, family, fewAt, unanswered }: Silence, index: number): boolean => {
  if ((unanswered[index] ?? 0) < few) return false
  const begun = fewAt[index] ?? 0
  const first = (family[index] ?? 0) * answers
  for (let place = first; place < first + answers; place++) if ((answered[place] ?? 0) <= begun) return false
  return true
}

// Of a target that has never answered nobody knows how long it takes.
const isTooLong = ({ dozenAt, longest, unanswered }: Silence, index: number, now: number): boolean => {
  const { millis } = longest[index] ?? Average.noPeak
  return (unanswered[index] ?? 0) === dozen && millis > 0 &&
    now - (dozenAt[index] ?? 0) >= Math.max(leastMs, millis)
}
