/**
 * A map whose idle entries are forgotten, for state that is kept per key.
 *
 * Entries that have not been used for `idleMs` are dropped whenever the number of entries has doubled or half of
 * `idleMs` has passed, so memory follows the number of keys in use and a use costs no more than a look-up.
 *
 * @internal
 */

/** @internal */
export interface IdleMap<A> {
  /** The value of a key, created when there is none; counts as a use. */
  readonly use: (key: string, now: number) => A
  /** The value of a key that is not idle; counts as no use. */
  readonly peek: (key: string, now: number) => A | undefined
  /** The values that are not idle. */
  readonly entries: (now: number) => ReadonlyArray<readonly [string, A]>
  /** Forgets a key; returns whether it was known. */
  readonly delete: (key: string, now: number) => boolean
  /** Forgets all keys; returns how many were known. */
  readonly clear: (now: number) => number
  /** How many entries are held, idle ones included. */
  readonly size: () => number
}

interface Entry<A> {
  readonly value: A
  usedAt: number
}

const smallest = 64

/** @internal */
export const make = <A>(idleMs: number, create: (now: number) => A): IdleMap<A> => {
  const held = new Map<string, Entry<A>>()
  let sweepSize = smallest
  let sweepAt = Number.NEGATIVE_INFINITY

  const isIdle = (entry: Entry<A>, now: number): boolean => now - entry.usedAt >= idleMs

  const sweep = (now: number): void => {
    for (const [key, entry] of held) if (isIdle(entry, now)) held.delete(key)
    sweepSize = Math.max(smallest, held.size * 2)
    sweepAt = now + idleMs / 2
  }

  return {
    use: (key, now) => {
      const known = held.get(key)
      if (known !== undefined && !isIdle(known, now)) {
        known.usedAt = Math.max(known.usedAt, now)
        return known.value
      }
      if (held.size >= sweepSize || now >= sweepAt) sweep(now)
      const value = create(now)
      held.set(key, { value, usedAt: now })
      return value
    },
    peek: (key, now) => {
      const known = held.get(key)
      return known === undefined || isIdle(known, now) ? undefined : known.value
    },
    entries: (now) => {
      sweep(now)
      return Array.from(held, ([key, entry]) => [key, entry.value] as const)
    },
    delete: (key, now) => {
      const known = held.get(key)
      return held.delete(key) && known !== undefined && !isIdle(known, now)
    },
    clear: (now) => {
      sweep(now)
      const { size } = held
      held.clear()
      return size
    },
    size: () => held.size
  }
}
