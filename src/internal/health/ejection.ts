/**
 * How many members of a pool may be left out at once, for how long, and who is tried when all of them are, as pure
 * functions.
 *
 * **Details**
 *
 * Half of a pool is the most that is left out, whatever its size: here a member is left out for what it did itself, not
 * because it differs from the others, so the tenth of a pool that proxies allow would keep dead targets of a provider's
 * outage in use.
 *
 * @internal
 */

// ---------------------------------------------------------------------------------------------------------------------
// how many
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export interface Discipline {
  /** Share of the pool, in percent, at which no more members are left out. */
  readonly maxPercent: number
  /** Members that are never left out. */
  readonly keep: number
}

/** @internal */
export const discipline: Discipline = { maxPercent: 50, keep: 1 }

/**
 * Returns whether one more member of a pool may be left out.
 *
 * @internal
 */
export const mayEject = (total: number, ejected: number, options: Discipline = discipline): boolean =>
  ejected * 100 < total * options.maxPercent && total - ejected > options.keep

// ---------------------------------------------------------------------------------------------------------------------
// how long
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Returns for how many milliseconds a member is left out at its n-th ejection in a row.
 *
 * @internal
 */
export const ejectionMillis = (multiplier: number, options: { readonly baseMs: number; readonly maxMs: number }) =>
  Math.min(options.baseMs * multiplier, Math.max(options.baseMs, options.maxMs))

/**
 * Returns the multiplier after an ejection or after an interval that the member spent healthy.
 *
 * @internal
 */
export const nextMultiplier = (multiplier: number, event: "eject" | "healthy-interval"): number =>
  event === "eject" ? multiplier + 1 : Math.max(0, multiplier - 1)

// ---------------------------------------------------------------------------------------------------------------------
// last resort
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Why a member is left out, and until when.
 *
 * `circuit` and `cooldown` end by time and may be overridden. `authentication`, `isolated` and `quota` may not: another
 * request cannot be answered, whatever is at stake.
 *
 * @internal
 */
export interface Refusal {
  readonly why: "circuit" | "cooldown" | "authentication" | "isolated" | "quota"
  /** Milliseconds since the epoch at which it ends; `Infinity` when time does not end it. */
  readonly until: number
  /** Whether a call of last resort is on its way to this member: there is one at a time. */
  readonly probing: boolean
}

const isHard = (refusal: Refusal): boolean => {
  switch (refusal.why) {
    case "circuit":
    case "cooldown":
      return false
    case "authentication":
    case "isolated":
    case "quota":
      return true
  }
}

/**
 * Returns which open circuits of a pool are not to be obeyed, because obeying them would leave out too many members.
 *
 * **Details**
 *
 * Those that end first are let go first. A cooldown is always obeyed, since a provider stated it, and so is everything
 * that no request can heal; both count as left out.
 *
 * @internal
 */
export const overruled = (
  refusals: ReadonlyArray<Refusal | undefined>,
  options: Discipline = discipline
): ReadonlyArray<number> => {
  const circuits: Array<{ readonly index: number; readonly until: number }> = []
  let ejected = 0
  refusals.forEach((refusal, index) => {
    if (refusal === undefined) return
    if (refusal.why === "circuit") circuits.push({ index, until: refusal.until })
    else ejected++
  })
  circuits.sort((a, b) => b.until - a.until || b.index - a.index)
  let obeyed = 0
  while (obeyed < circuits.length && mayEject(refusals.length, ejected + obeyed, options)) obeyed++
  return circuits.slice(obeyed).map(({ index }) => index).toReversed()
}

/** @internal */
export type LastResort =
  /** Wait until then, and send the call there. */
  | { readonly _tag: "Use"; readonly index: number; readonly at: number }
  /** Fail; `recoversAt` is when the first member is free again, when one is free again by time. */
  | { readonly _tag: "Fail"; readonly recoversAt: number | undefined }

/**
 * Returns what a call does when every member of its pool is left out: it waits for the one that is free again first,
 * when that is before the deadline and nobody else waits for it, and fails at once otherwise.
 *
 * @internal
 */
export const lastResort = (refusals: ReadonlyArray<Refusal>, deadlineAt: number, now: number): LastResort => {
  let chosen: { readonly index: number; readonly at: number } | undefined
  let recoversAt: number | undefined
  refusals.forEach((refusal, index) => {
    if (!Number.isFinite(refusal.until)) return
    const at = Math.max(now, refusal.until)
    recoversAt = Math.min(recoversAt ?? at, at)
    if (isHard(refusal) || refusal.probing || at >= deadlineAt) return
    if (chosen === undefined || at < chosen.at) chosen = { index, at }
  })
  return chosen === undefined ? { _tag: "Fail", recoversAt } : { _tag: "Use", ...chosen }
}
