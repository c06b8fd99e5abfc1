/**
 * Which targets have fallen silent: they are sent requests, nothing comes back, and their siblings answer meanwhile.
 *
 * A target that hangs fails only when the first of its requests has used up its time, and until then every strategy sends
 * it more. Siblings, the other keys of the same model, tell sooner: a target is silent once three requests in a row, none
 * of which has come back, have been overtaken by twenty answers to requests that siblings were sent after them. By chance
 * that befalls one healthy target in 1771, however long answers take, and only until it gives its next answer.
 *
 * A silent target is asked last and has no more than three requests at a time until anything comes back.
 *
 * @internal
 */
import type { Target } from "../../Target.ts"

/** Requests in a row that are noted, and the most that a silent target has at a time. */
const noted = 3

/** Answers of siblings that have to overtake them. */
const answers = 20

export interface Silence {
  /** When the first requests since the last sign of life began, `noted` places a target. */
  readonly begun: Float64Array
  /** How many of those places are in use. */
  readonly count: Uint8Array
  readonly silent: Uint8Array
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
    begun: new Float64Array(targets.length * noted),
    count: new Uint8Array(targets.length),
    silent: new Uint8Array(targets.length),
    family,
    answered: new Float64Array(families.size * answers).fill(Number.NEGATIVE_INFINITY),
    next: new Int32Array(families.size)
  }
}

/** Notes that a request to a target begins. */
export const begin = ({ begun, count }: Silence, index: number, now: number): void => {
  const place = count[index] ?? 0
  if (place === noted) return
  begun[index * noted + place] = now
  count[index] = place + 1
}

/** Notes that something has come back from a target, be it a refusal. */
export const heard = (silence: Silence, index: number): void => {
  silence.count[index] = 0
  silence.silent[index] = 0
}

/** Notes that a target has answered a request that began then. */
export const answer = (silence: Silence, index: number, startedAt: number): void => {
  heard(silence, index)
  const family = silence.family[index] ?? 0
  const place = silence.next[family] ?? 0
  silence.answered[family * answers + place] = startedAt
  silence.next[family] = (place + 1) % answers
}

/** Returns whether a target with so many requests in flight is silent and has as many as it may have. */
export const isFull = (silence: Silence, index: number, pending: number): boolean => {
  if (pending < noted) return false
  if (silence.silent[index] === 1) return true
  if (silence.count[index] !== noted || !isOvertaken(silence, index)) return false
  silence.silent[index] = 1
  return true
}

const isOvertaken = ({ answered, begun, family }: Silence, index: number): boolean => {
  const last = begun[index * noted + noted - 1] ?? 0
  const first = (family[index] ?? 0) * answers
  for (let place = first; place < first + answers; place++) if ((answered[place] ?? 0) <= last) return false
  return true
}
