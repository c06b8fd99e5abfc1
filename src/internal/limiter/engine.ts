/**
 * The limiter without fibers and clock: admits, queues, settles and releases in single synchronous steps.
 *
 * A request names scopes; each has an account with meters and slots. It is granted when it fits in all of them at once
 * and nobody waits there who goes first; then everything is charged. Otherwise it waits in the lane of its set of
 * scopes, and the lane waits ("parks") at one account: the one that it lacks room in for longest. So a lane is held up
 * by what it needs and by nothing else.
 *
 * **Details**
 *
 * An account looks at its parked lanes when time, a settlement or a release gives it room: the next lane's next request
 * is granted, or the lane moves on to the account that lacks room now. A request that was moved three times holds all
 * its accounts: from then on nobody of its level and nobody younger overtakes it in any of them, so a large request is
 * not starved between two accounts that have room in turns. Those that hold are ordered by age, hence never wait for
 * each other.
 *
 * The caller says what time it is before each step (`at`), runs `advance` at `wakeAt`, and hands `done` on to those who
 * wait.
 *
 * @internal
 */
import * as Account from "./account.ts"
import * as Bucket from "./bucket.ts"
import * as Heap from "./heap.ts"
import * as Learning from "./learning.ts"
import * as Limits from "./limits.ts"
import * as Meter from "./meter.ts"
import type { Dimension, Observation } from "./observation.ts"
import * as Queue from "./queue.ts"
import * as Shedding from "./shedding.ts"

/** @internal */
export interface Options {
  /** Number of levels of priority; the first passes the queue. */
  readonly levels: number
  /** Longest queue of one lane. */
  readonly maxQueue: number
  /** Milliseconds after which a waiting request goes up one level; `Infinity` for never. */
  readonly ageingMs: number
  /** Share of every limit that only the first level may use. */
  readonly reserve: number
  /** Most debt, as a multiple of the capacity. */
  readonly maxDebt: number
  /** Milliseconds after which an account at rest is forgotten. */
  readonly idleMs: number
  readonly adaptive: boolean
  /** Milliseconds by which one request may be longer on its way than another. */
  readonly lagMs: number
  /** Number of processes that share all limits. */
  readonly processes: number
  readonly weight: (tenant: string) => number
}

/** @internal */
export interface Ask {
  readonly scopes: ReadonlyArray<{ readonly key: string; readonly limits: Limits.Limits }>
  readonly input: number
  readonly output: number
  readonly slots: number
  readonly level: number
  readonly tenant: string
  /** Longest wait; 0 never queues. */
  readonly maxWaitMs: number
  /** When it began to wait, in elapsed milliseconds, if it did so before it came. */
  readonly since?: number | undefined
}

/** @internal */
export interface Grant {
  readonly accounts: ReadonlyArray<Account.Account>
  readonly wanted: Account.Amounts
  readonly meters: ReadonlyArray<Meter.Meter>
  /** Where meters were charged, by their place; nothing for those that do not remember it. */
  readonly stamps: ReadonlyArray<Meter.Stamp>
  readonly at: number
  readonly waitedMs: number
  readonly binding: Dimension | undefined
  readonly inFlight: number
  settled: boolean
  released: boolean
}

/** @internal */
export interface Refusal {
  readonly reason: Account.Denial
  readonly key: string
  readonly dimension: Dimension | undefined
  /** Milliseconds until it would pass; `Infinity` when time alone does not tell. */
  readonly waitMs: number
  /** The rule that refuses, in words. */
  readonly rule: string
  readonly asked: number
}

/** @internal */
export type Outcome =
  | { readonly _tag: "Granted"; readonly grant: Grant }
  | { readonly _tag: "Refused"; readonly refusal: Refusal }
  | { readonly _tag: "Waiting"; readonly waiter: Queue.Waiter }

/** What became of one that waited. */
export type Done = Exclude<Outcome, { readonly _tag: "Waiting" }>

/** @internal */
export interface Usage {
  readonly input: number
  readonly output: number
  readonly cachedInput?: number | undefined
}

/** @internal */
export interface Engine {
  readonly options: Options
  readonly accounts: Map<string, Account.Account>
  readonly lanes: Map<string, Queue.Lane>
  readonly wakes: Heap.Heap<Account.Account>
  readonly expiries: Heap.Heap<Queue.Waiter>
  readonly ages: ReadonlyArray<{ oldest: Queue.Waiter | undefined; youngest: Queue.Waiter | undefined }>
  readonly plans: WeakMap<Limits.Limits, Limits.Plan>
  /** Counts what makes footings out of date: accounts that come or go, meters that change. */
  version: number
  /** Those whose waiting has ended, for the caller to collect. */
  done: Array<readonly [Queue.Waiter, Done]>
  now: { mono: number; wall: number }
  seq: number
  waiting: number
  hand: Iterator<Account.Account> | undefined
  /** What `probe` found. */
  readonly found: {
    waitMs: number
    account: Account.Account | undefined
    dimension: Dimension | undefined
    rule: Limits.Rule | undefined
  }
}

// A wait shorter than a timer can tell is none.
const precisionMs = 0.001

const movesToHold = 3

/** @internal */
export const make = (options: Options): Engine => ({
  options,
  accounts: new Map(),
  lanes: new Map(),
  wakes: Heap.make<Account.Account>((a, b) => a.wakeAt < b.wakeAt, (account, index) => {
    account.wakeSlot = index
  }),
  expiries: Heap.make<Queue.Waiter>(
    (a, b) => a.expiresAt !== b.expiresAt ? a.expiresAt < b.expiresAt : a.seq < b.seq,
    (waiter, index) => {
      waiter.expirySlot = index
    }
  ),
  ages: Array.from({ length: options.levels }, () => ({ oldest: undefined, youngest: undefined })),
  plans: new WeakMap(),
  version: 0,
  done: [],
  now: { mono: Number.NEGATIVE_INFINITY, wall: Number.NEGATIVE_INFINITY },
  seq: 0,
  waiting: 0,
  hand: undefined,
  found: { waitMs: 0, account: undefined, dimension: undefined, rule: undefined }
})

/**
 * Sets the time. One that goes back stands still.
 *
 * @internal
 */
export const at = (engine: Engine, mono: number, wall: number): void => {
  engine.now.mono = Math.max(engine.now.mono, mono)
  engine.now.wall = Math.max(engine.now.wall, wall)
}

// ---------------------------------------------------------------------------------------------------------------------
// admission
// ---------------------------------------------------------------------------------------------------------------------

/** @internal */
export const reserve = (engine: Engine, ask: Ask): Outcome => {
  const { accounts, meters, most } = resolve(engine, ask.scopes)
  const wanted = Account.amounts(1, ask.input, ask.output, ask.slots)
  const oversize = Account.exceeds(wanted, most) ? findOversize(accounts, wanted) : undefined
  if (oversize !== undefined) return refuse(engine, accounts, oversize)
  sweep(engine)

  const lane = accounts.some(isContended) ? engine.lanes.get(laneKey(accounts)) : undefined
  const mayPass = lane?.head === undefined || ask.level < lane.head.level
  if (mayPass && !isBlocked(engine, accounts, wanted, newcomer(engine, ask), ask.tenant, undefined)) {
    return { _tag: "Granted", grant: grant(engine, accounts, meters, wanted, ask.level, ask.tenant, 0, undefined) }
  }
  project(engine, accounts, wanted, ask.level, lane, ask.since)
  const refusal = foundRefusal(engine, accounts, wanted)
  if (engine.options.maxQueue === 0) return refuse(engine, accounts, { ...refusal, reason: "queue_full" })
  if (ask.maxWaitMs <= 0) return refuse(engine, accounts, refusal)
  if ((lane?.waiting ?? 0) >= engine.options.maxQueue) {
    return refuse(engine, accounts, { ...refusal, reason: "queue_full" })
  }
  if (isTooLong(engine, ask, accounts, lane, refusal.waitMs)) {
    return refuse(engine, accounts, { ...refusal, reason: "queue_timeout" })
  }
  return enqueue(engine, ask, accounts, wanted, lane)
}

const newcomer = (engine: Engine, { level, since }: Ask): Queue.Candidate => ({
  level,
  order: since ?? engine.now.mono,
  seq: Number.POSITIVE_INFINITY
})

/** Whether a request would wait for too long; in an overload, whether a large one in its place would. */
const isTooLong = (
  engine: Engine,
  ask: Ask,
  accounts: ReadonlyArray<Account.Account>,
  lane: Queue.Lane | undefined,
  waitMs: number
): boolean => {
  const { account } = engine.found
  const longest = ask.maxWaitMs + precisionMs
  if (account === undefined || waitMs === Number.POSITIVE_INFINITY) return false
  const now = engine.now.mono
  const floorMs = Shedding.floorMs(account.shedding, now)
  if (waitMs <= longest && waitMs + floorMs <= longest) return false
  project(engine, accounts, Account.amounts(1, 0, 0, ask.slots), ask.level, lane, ask.since)
  const aheadMs = Math.min(waitMs, engine.found.waitMs)
  if (waitMs > longest) {
    Shedding.refused(account.shedding, waitMs - aheadMs, now)
    return true
  }
  return aheadMs + floorMs > longest
}

/**
 * Returns in how many milliseconds a request could be granted, 0 for now and `Infinity` for a release nobody can
 * foretell, and what it would wait for. Reserves nothing.
 *
 * @internal
 */
export const foresee = (engine: Engine, ask: Ask): Refusal => {
  const { accounts } = resolve(engine, ask.scopes)
  const wanted = Account.amounts(1, ask.input, ask.output, ask.slots)
  const oversize = findOversize(accounts, wanted)
  if (oversize !== undefined) return oversize
  const lane = engine.lanes.get(laneKey(accounts))
  const mayPass = lane?.head === undefined || ask.level < lane.head.level
  if (mayPass && !isBlocked(engine, accounts, wanted, newcomer(engine, ask), ask.tenant, undefined)) {
    return { reason: "rate_limit", key: "", dimension: undefined, waitMs: 0, rule: "", asked: 0 }
  }
  project(engine, accounts, wanted, ask.level, lane, ask.since)
  return foundRefusal(engine, accounts, wanted)
}

/**
 * Returns the share of the tightest limit of all these scopes that is left; nothing is used of a scope nobody has named.
 *
 * @internal
 */
export const headroom = (engine: Engine, scopes: Ask["scopes"]): number => {
  let least = 1
  for (const { key } of scopes) {
    const account = engine.accounts.get(key)
    if (account !== undefined) least = Math.min(least, Account.headroom(account, engine.now))
  }
  return least
}

/** What `found` says, as the refusal of a request that does not wait. */
const foundRefusal = (
  engine: Engine,
  accounts: ReadonlyArray<Account.Account>,
  wanted: Account.Amounts
): Refusal => {
  const { account, dimension, rule, waitMs } = engine.found
  return {
    reason: dimension === "concurrency" ? "concurrency" : "rate_limit",
    key: account?.key ?? accounts[0]?.key ?? "",
    dimension,
    waitMs,
    rule: rule?.label ?? "",
    asked: dimension === undefined ? 0 : wanted[dimension]
  }
}

/** Finds what scopes stand on; the first account remembers it for the next request with the same scopes. */
const resolve = (engine: Engine, scopes: Ask["scopes"]): Account.Footing => {
  const [first] = scopes
  const known = first === undefined ? undefined : engine.accounts.get(first.key)?.footing
  if (known !== undefined && known.scopes === scopes && known.version === engine.version) {
    for (const account of known.accounts) account.touchedAt = engine.now.mono
    return known
  }
  const accounts = accountsOf(engine, scopes)
  const { version } = engine
  const footing: Account.Footing = {
    scopes,
    accounts,
    meters: metersOf(accounts),
    most: Account.mostOf(accounts),
    version
  }
  const [home] = accounts
  if (home !== undefined) home.footing = footing
  return footing
}

const metersOf = (accounts: ReadonlyArray<Account.Account>): ReadonlyArray<Meter.Meter> => {
  const meters: Array<Meter.Meter> = []
  for (const account of accounts) for (const meter of account.meters) meters.push(meter)
  return meters
}

const accountsOf = (engine: Engine, scopes: Ask["scopes"]): ReadonlyArray<Account.Account> => {
  const accounts: Array<Account.Account> = []
  for (let index = 0; index < scopes.length; index++) {
    const scope = scopes[index]
    if (scope === undefined) continue
    let repeated = false
    for (let other = 0; other < index; other++) repeated ||= scopes[other]?.key === scope.key
    if (repeated) continue
    accounts.push(accountOf(engine, scope.key, scope.limits, scopes, index))
  }
  return accounts
}

const accountOf = (
  engine: Engine,
  key: string,
  limits: Limits.Limits,
  scopes: Ask["scopes"],
  index: number
): Account.Account => {
  const account = engine.accounts.get(key)
  let repeated = false
  for (let other = index + 1; other < scopes.length; other++) repeated ||= scopes[other]?.key === key
  if (account !== undefined) {
    account.touchedAt = engine.now.mono
    if (account.pinned || (account.limits === limits && !repeated)) return account
  }
  let plan = planOf(engine, limits)
  if (repeated) {
    for (let other = index + 1; other < scopes.length; other++) {
      const scope = scopes[other]
      if (scope?.key === key) plan = Limits.strictest(plan, planOf(engine, scope.limits))
    }
  }
  if (account === undefined) return open(engine, key, plan, repeated ? undefined : limits)
  account.limits = repeated ? undefined : limits
  if (!Limits.samePlan(account.plan, plan)) configure(engine, account, plan)
  return account
}

const planOf = (engine: Engine, limits: Limits.Limits): Limits.Plan => {
  const known = engine.plans.get(limits)
  if (known !== undefined) return known
  const plan = Limits.partOf(Limits.plan(limits), engine.options.processes)
  engine.plans.set(limits, plan)
  return plan
}

const placeLane = (lane: Queue.Lane, index: number): void => {
  lane.slot = index
}

const open = (
  engine: Engine,
  key: string,
  plan: Limits.Plan,
  limits: Limits.Limits | undefined
): Account.Account => {
  const account = Account.make(key, plan, {
    levels: engine.options.levels,
    adaptive: engine.options.adaptive,
    lagMs: engine.options.lagMs,
    parked: Heap.make<Queue.Lane>(Queue.laneBefore, placeLane)
  }, engine.now)
  account.limits = limits
  engine.accounts.set(key, account)
  engine.version++
  return account
}

const configure = (engine: Engine, account: Account.Account, plan: Limits.Plan): void => {
  Account.configure(account, plan, engine.options, engine.now)
  engine.version++
  dropOversize(engine, account)
  pump(engine, account)
}

const findOversize = (
  accounts: ReadonlyArray<Account.Account>,
  wanted: Account.Amounts
): Refusal | undefined => {
  for (const account of accounts) {
    if (wanted.concurrency > account.plan.concurrency) {
      return oversized(account, "concurrency", `${account.plan.concurrency} at the same time`, wanted)
    }
    for (const meter of account.meters) {
      if (Account.amountIn(wanted, meter.dimension) > meter.most) {
        return oversized(account, meter.dimension, `${meter.most} at once, ${meter.rule?.label ?? ""}`, wanted)
      }
    }
  }
  return undefined
}

const oversized = (account: Account.Account, dimension: Dimension, rule: string, wanted: Account.Amounts): Refusal => ({
  reason: "request_exceeds_limit",
  key: account.key,
  dimension,
  waitMs: Number.POSITIVE_INFINITY,
  rule,
  asked: wanted[dimension]
})

const refuse = (engine: Engine, accounts: ReadonlyArray<Account.Account>, refusal: Refusal): Done => {
  for (const account of accounts) Account.deny(account, refusal.reason, refusal.dimension, engine.now)
  return { _tag: "Refused", refusal }
}

/** Returns whether anything holds a request up now; `found` tells what does so for longest. */
const isBlocked = (
  engine: Engine,
  accounts: ReadonlyArray<Account.Account>,
  wanted: Account.Amounts,
  candidate: Queue.Candidate,
  tenant: string,
  waiter: Queue.Waiter | undefined
): boolean => {
  const { found } = engine
  found.waitMs = 0
  found.account = undefined
  found.dimension = undefined
  found.rule = undefined
  for (const account of accounts) {
    if (account !== waiter?.lane.home && isBehind(account, candidate, tenant, waiter) && found.account === undefined) {
      found.account = account
    }
    lookAt(engine, account, wanted, candidate.level)
  }
  return found.account !== undefined
}

/** Returns whether others go first at an account: those that wait there, and those that hold it. */
const isBehind = (
  account: Account.Account,
  candidate: Queue.Candidate,
  tenant: string,
  waiter: Queue.Waiter | undefined
): boolean => {
  if (!isContended(account)) return false
  // The first level passes everybody but those of its own who wait for room here.
  const next = account.parked.items[0]
  const holds = waiter !== undefined && waiter.lane.holding === waiter
  if (next?.head !== undefined && next !== waiter?.lane) {
    const start = Queue.startAt(account, candidate.level, tenant)
    if (!Queue.goesFirst(candidate, start, holds, next.head, next.start, next.holding === next.head)) return true
  }
  return isHeld(account, candidate, holds, waiter?.lane)
}

/** Whether anybody waits at an account, or holds it while waiting elsewhere. */
const isContended = ({ holders, parked }: Account.Account): boolean => parked.items.length > 0 || holders.length > 0

const isHeld = (
  account: Account.Account,
  candidate: Queue.Candidate,
  holds: boolean,
  lane: Queue.Lane | undefined
): boolean => {
  for (const holder of account.holders) {
    const held = holder.holding
    if (holder === lane || held === undefined || candidate.level < held.level) continue
    if (!holds || held.level < candidate.level || Queue.isBefore(held, candidate)) return true
  }
  return false
}

/** Notes in `found` what an account lacks, when that takes longer than what is noted already. */
const lookAt = (engine: Engine, account: Account.Account, wanted: Account.Amounts, level: number): boolean => {
  const { found, now, options } = engine
  const share = level === 0 ? 0 : options.reserve
  let lacking = false
  for (const meter of account.meters) {
    const kept = share === 0 ? 0 : share * Meter.capacity(meter)
    const wait = Meter.waitFor(meter, Account.amountIn(wanted, meter.dimension), 0, kept, now)
    if (wait > 0) {
      lacking = true
      note(found, wait, account, meter)
    }
  }
  if (!Account.hasSlots(account, wanted.concurrency, share)) {
    lacking = true
    if (found.waitMs !== Number.POSITIVE_INFINITY || found.account === undefined) {
      found.waitMs = Number.POSITIVE_INFINITY
      found.account = account
      found.dimension = "concurrency"
      found.rule = undefined
    }
  }
  return lacking
}

const note = (found: Engine["found"], wait: number, account: Account.Account, meter: Meter.Meter): void => {
  if (wait <= found.waitMs) return
  found.waitMs = wait
  found.account = account
  found.dimension = meter.dimension
  found.rule = meter.rule
}

/** Notes in `found` how long a request would wait behind everybody who goes before it, slots aside. */
const project = (
  engine: Engine,
  accounts: ReadonlyArray<Account.Account>,
  wanted: Account.Amounts,
  level: number,
  lane: Queue.Lane | undefined,
  since: number | undefined = undefined
): void => {
  const { found, now, options } = engine
  const part = partBefore(lane, since)
  const share = level === 0 ? 0 : options.reserve
  found.waitMs = 0
  found.account = undefined
  found.dimension = undefined
  found.rule = undefined
  for (const account of accounts) {
    for (const meter of account.meters) {
      let ahead = 0
      for (let other = 0; other <= level; other++) {
        ahead += account.queued[other]?.[meter.dimension] ?? 0
        if (lane !== undefined && lane.home !== account) ahead += lane.queued[other]?.[meter.dimension] ?? 0
      }
      const kept = share === 0 ? 0 : share * Meter.capacity(meter)
      const wait = Meter.waitFor(meter, wanted[meter.dimension], part * ahead, kept, now)
      note(found, wait * Meter.outlook(meter), account, meter)
    }
  }
  // When a slot comes back nobody knows: then the wait for the meters is the least there is to say.
  if (found.waitMs > 0) return
  for (const account of accounts) {
    if (Account.slots(account) === Number.POSITIVE_INFINITY) continue
    const slotsAhead = account.queued.some((queued, other) => other <= level && queued.concurrency > 0)
    if (slotsAhead || !Account.hasSlots(account, wanted.concurrency, share)) {
      found.waitMs = Number.POSITIVE_INFINITY
      found.account = account
      found.dimension = "concurrency"
      found.rule = undefined
    }
  }
}

/** The part of a queue that goes before whoever began to wait then, taking the others to have begun evenly. */
const partBefore = (lane: Queue.Lane | undefined, since: number | undefined): number => {
  if (lane?.head === undefined || since === undefined || since >= lane.latest) return 1
  const { latest, head: { order } } = lane
  return since <= order ? 0 : (since - order) / (latest - order)
}

const grant = (
  engine: Engine,
  accounts: ReadonlyArray<Account.Account>,
  meters: ReadonlyArray<Meter.Meter>,
  wanted: Account.Amounts,
  level: number,
  tenant: string,
  waitedMs: number,
  binding: Dimension | undefined
): Grant => {
  const { now, options } = engine
  const stamps: Array<Meter.Stamp> = []
  for (let index = 0; index < meters.length; index++) {
    const meter = meters[index]
    if (meter === undefined) continue
    const stamp = Meter.charge(meter, Account.amountIn(wanted, meter.dimension), now)
    if (stamp !== undefined) stamps[index] = stamp
  }
  let inFlight = 0
  for (const account of accounts) {
    account.inFlight += wanted.concurrency
    if (account.inFlight > inFlight) inFlight = account.inFlight
    if (account.waitingCount > 0) {
      Queue.serve(account, level, tenant, Math.max(1, wanted.tokens) / options.weight(tenant))
    }
    Account.count(account, wanted, waitedMs, now)
    if (level === 0) account.counts.emergency++
  }
  return {
    accounts,
    wanted,
    meters,
    stamps,
    at: now.mono,
    waitedMs,
    binding,
    inFlight,
    settled: false,
    released: false
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the queue
// ---------------------------------------------------------------------------------------------------------------------

const laneKey = (accounts: ReadonlyArray<Account.Account>): string =>
  accounts.length === 1 ? accounts[0]?.key ?? "" : accounts.map((account) => account.key).sort().join("\u0000")

const enqueue = (
  engine: Engine,
  ask: Ask,
  accounts: ReadonlyArray<Account.Account>,
  wanted: Account.Amounts,
  known: Queue.Lane | undefined
): Outcome => {
  const { now, options } = engine
  const key = known?.key ?? laneKey(accounts)
  const lane = known ?? Queue.makeLane(key, accounts, options.levels)
  const waiter: Queue.Waiter = {
    order: ask.since ?? now.mono,
    seq: engine.seq++,
    lane,
    tenant: ask.tenant,
    wanted,
    asked: ask.level,
    level: ask.level,
    since: now.mono,
    entered: now.mono,
    expiresAt: now.mono + ask.maxWaitMs,
    binding: engine.found.dimension,
    moves: 0,
    flow: undefined,
    slot: -1,
    expirySlot: -1,
    older: undefined,
    younger: undefined
  }
  engine.waiting++
  Queue.add(lane, waiter)
  startAgeing(engine, waiter)
  if (waiter.expiresAt !== Number.POSITIVE_INFINITY) Heap.push(engine.expiries, waiter)
  for (const account of accounts) {
    if (account.waitingCount > account.counts.peakWaiting) account.counts.peakWaiting = account.waitingCount
  }
  if (known === undefined) {
    engine.lanes.set(key, lane)
    isBlocked(engine, accounts, wanted, waiter, ask.tenant, waiter)
    const home = engine.found.account ?? accounts[0]
    if (home !== undefined) parkAt(engine, lane, home)
  } else if (Queue.refresh(lane) && lane.head === waiter && lane.home !== undefined) {
    pump(engine, lane.home)
    settleWakes(engine)
    // What was granted at once has not waited, and nobody has to be told.
    const last = engine.done.findIndex(([done]) => done === waiter)
    const ended = engine.done[last]
    if (ended !== undefined) {
      engine.done.splice(last, 1)
      return ended[1]
    }
  }
  return { _tag: "Waiting", waiter }
}

const parkAt = (engine: Engine, lane: Queue.Lane, account: Account.Account): void => {
  Queue.park(lane, account)
  if (account.parked.items[0] === lane) rearm(engine, account)
}

/** Notes when the first lane at an account can have what it needs there. */
const rearm = (engine: Engine, account: Account.Account): void => {
  const head = account.parked.items[0]?.head
  let wakeAt = Number.POSITIVE_INFINITY
  if (head !== undefined) {
    engine.found.waitMs = 0
    engine.found.account = undefined
    engine.found.dimension = undefined
    lookAt(engine, account, head.wanted, head.level)
    wakeAt = engine.now.mono + engine.found.waitMs
    head.binding = engine.found.dimension ?? head.binding
  }
  setWake(engine, account, wakeAt)
}

const setWake = (engine: Engine, account: Account.Account, wakeAt: number): void => {
  account.wakeAt = wakeAt
  if (account.wakeSlot === -1) {
    if (wakeAt !== Number.POSITIVE_INFINITY) Heap.push(engine.wakes, account)
  } else if (wakeAt === Number.POSITIVE_INFINITY) Heap.removeAt(engine.wakes, account.wakeSlot)
  else Heap.update(engine.wakes, account.wakeSlot)
}

/** Serves the lanes parked at an account, in order, for as long as it has room. */
const pump = (engine: Engine, account: Account.Account): void => {
  for (;;) {
    const lane = account.parked.items[0]
    const head = lane?.head
    if (lane === undefined || head === undefined) return setWake(engine, account, Number.POSITIVE_INFINITY)
    // Others may have been served here for the same tenant.
    if (Queue.refresh(lane)) continue
    if (isHeld(account, head, lane.holding === head, lane)) return setWake(engine, account, Number.POSITIVE_INFINITY)
    engine.found.waitMs = 0
    engine.found.account = undefined
    engine.found.dimension = undefined
    if (lookAt(engine, account, head.wanted, head.level)) {
      head.binding = engine.found.dimension ?? head.binding
      return setWake(engine, account, engine.now.mono + engine.found.waitMs)
    }
    if (isBlocked(engine, lane.accounts, head.wanted, head, head.tenant, head)) move(engine, lane, head)
    else serve(engine, lane, head)
  }
}

const serve = (engine: Engine, lane: Queue.Lane, waiter: Queue.Waiter): void => {
  const { now } = engine
  const given = grant(
    engine,
    lane.accounts,
    metersOf(lane.accounts),
    waiter.wanted,
    waiter.level,
    waiter.tenant,
    now.mono - waiter.since,
    waiter.binding
  )
  engine.done.push([waiter, { _tag: "Granted", grant: given }])
  drop(engine, waiter)
}

const move = (engine: Engine, lane: Queue.Lane, head: Queue.Waiter): void => {
  const next = engine.found.account
  if (next === undefined) return
  head.binding = engine.found.dimension ?? head.binding
  head.moves++
  Queue.unpark(lane)
  if (head.moves >= movesToHold && lane.holding !== head) {
    if (lane.holding === undefined) { for (const account of lane.accounts) account.holders.push(lane) }
    lane.holding = head
  }
  parkAt(engine, lane, next)
}

/** Takes a waiter out, and serves whom it held up. */
const drop = (engine: Engine, waiter: Queue.Waiter): void => {
  const { lane } = waiter
  engine.waiting--
  stopAgeing(engine, waiter)
  if (waiter.expirySlot !== -1) Heap.removeAt(engine.expiries, waiter.expirySlot)
  Queue.remove(lane, waiter)
  const held = lane.holding === waiter
  if (held) {
    lane.holding = undefined
    for (const account of lane.accounts) account.holders.splice(account.holders.indexOf(lane), 1)
  }
  if (lane.waiting === 0) {
    Queue.unpark(lane)
    engine.lanes.delete(lane.key)
  } else Queue.refresh(lane)
  if (held) { for (const account of lane.accounts) setWake(engine, account, engine.now.mono) }
}

/**
 * Takes a waiter out of the queue as if it had never come.
 *
 * @internal
 */
export const cancel = (engine: Engine, waiter: Queue.Waiter): void => {
  if (waiter.flow === undefined) return
  const { home, head } = waiter.lane
  for (const account of waiter.lane.accounts) account.counts.cancelled++
  drop(engine, waiter)
  if (head === waiter && home !== undefined) pump(engine, home)
  settleWakes(engine)
}

const startAgeing = (engine: Engine, waiter: Queue.Waiter): void => {
  const list = engine.ages[waiter.level]
  if (list === undefined) return
  waiter.older = list.youngest
  waiter.younger = undefined
  if (list.youngest === undefined) list.oldest = waiter
  else list.youngest.younger = waiter
  list.youngest = waiter
}

const stopAgeing = (engine: Engine, waiter: Queue.Waiter): void => {
  const list = engine.ages[waiter.level]
  if (list === undefined) return
  if (waiter.older === undefined) list.oldest = waiter.younger
  else waiter.older.younger = waiter.younger
  if (waiter.younger === undefined) list.youngest = waiter.older
  else waiter.younger.older = waiter.older
  waiter.older = undefined
  waiter.younger = undefined
}

/** Lifts those who have waited long enough by a level; nobody ages into the level that passes the queue. */
const age = (engine: Engine): void => {
  const { ages, now, options } = engine
  for (let level = 2; level < ages.length; level++) {
    const list = ages[level]
    for (
      let waiter = list?.oldest;
      waiter !== undefined && now.mono - waiter.entered >= options.ageingMs - precisionMs;
      waiter = list?.oldest
    ) {
      stopAgeing(engine, waiter)
      Queue.promote(waiter.lane, waiter, level - 1)
      waiter.entered += options.ageingMs
      startAgeing(engine, waiter)
      if (Queue.refresh(waiter.lane) && waiter.lane.home !== undefined) setWake(engine, waiter.lane.home, now.mono)
    }
  }
}

/**
 * Returns when `advance` has something to do: elapsed milliseconds, `Infinity` for never.
 *
 * @internal
 */
export const wakeAt = (engine: Engine): number => {
  if (engine.waiting === 0) return Number.POSITIVE_INFINITY
  let next = Math.min(
    engine.wakes.items[0]?.wakeAt ?? Number.POSITIVE_INFINITY,
    engine.expiries.items[0]?.expiresAt ?? Number.POSITIVE_INFINITY
  )
  for (let level = 2; level < engine.ages.length; level++) {
    const oldest = engine.ages[level]?.oldest
    if (oldest !== undefined) next = Math.min(next, oldest.entered + engine.options.ageingMs)
  }
  return next
}

/**
 * Does what is due: lifts those who waited long, grants what has room now, and then refuses those whose time is up.
 *
 * @internal
 */
export const advance = (engine: Engine): void => {
  const { expiries, now } = engine
  age(engine)
  settleWakes(engine)
  for (
    let waiter = expiries.items[0];
    waiter !== undefined && waiter.expiresAt <= now.mono + precisionMs;
    waiter = expiries.items[0]
  ) {
    expire(engine, waiter, "queue_timeout")
  }
  settleWakes(engine)
}

const settleWakes = (engine: Engine): void => {
  const { now, wakes } = engine
  for (
    let account = wakes.items[0];
    account !== undefined && account.wakeAt <= now.mono + precisionMs;
    account = wakes.items[0]
  ) {
    pump(engine, account)
    // A wake that is still due after a pump is a rounding error away, and time has to pass first.
    if (account.wakeAt <= now.mono + precisionMs) setWake(engine, account, now.mono + 10 * precisionMs)
  }
}

const expire = (engine: Engine, waiter: Queue.Waiter, reason: Account.Denial): void => {
  const { accounts, head, home } = waiter.lane
  drop(engine, waiter)
  project(engine, accounts, waiter.wanted, waiter.level, waiter.lane)
  const refusal = foundRefusal(engine, accounts, waiter.wanted)
  const dimension = refusal.dimension ?? waiter.binding
  engine.done.push([waiter, refuse(engine, accounts, { ...refusal, reason, dimension })])
  if (head === waiter && home !== undefined) pump(engine, home)
}

/** Refuses those who wait for more than lowered limits can ever give. */
const dropOversize = (engine: Engine, account: Account.Account): void => {
  if (account.waitingCount === 0) return
  for (const lane of engine.lanes.values()) {
    if (!lane.accounts.includes(account)) continue
    for (const level of lane.levels) {
      for (const flow of Array.from(level.order.items)) {
        for (const waiter of Array.from(flow.waiters.items)) {
          const refusal = findOversize(lane.accounts, waiter.wanted)
          if (refusal === undefined) continue
          engine.done.push([waiter, refuse(engine, lane.accounts, refusal)])
          const { home } = lane
          drop(engine, waiter)
          if (home !== undefined) pump(engine, home)
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// settling
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Replaces the estimate of a grant by what was used. Only the first call counts.
 *
 * @internal
 */
export const settle = (engine: Engine, given: Grant, usage: Usage | "nothing-sent" | "unknown"): void => {
  if (given.settled) return
  given.settled = true
  const { now, options } = engine
  const actual = usage === "unknown"
    ? given.wanted
    : usage === "nothing-sent"
    ? Account.amounts(0, 0, 0, 0)
    : amountsOf(usage)
  for (let index = 0; index < given.meters.length; index++) {
    const meter = given.meters[index]
    if (meter === undefined) continue
    Meter.correct(
      meter,
      given.stamps[index],
      Account.amountIn(actual, meter.dimension) - Account.amountIn(given.wanted, meter.dimension),
      options.maxDebt,
      now
    )
    if (meter.learner !== undefined && typeof usage === "object") {
      Meter.served(meter, meter.learner, given.at, now)
    }
  }
  for (const account of given.accounts) {
    const { counts } = account
    counts.reservedTokens -= given.wanted.tokens
    counts.settledTokens += actual.tokens
    counts.refundedTokens += Math.max(0, given.wanted.tokens - actual.tokens)
    counts.overusedTokens += Math.max(0, actual.tokens - given.wanted.tokens)
    if (usage === "unknown") counts.unknown++
    else if (usage === "nothing-sent") counts.notSent++
    else {
      counts.settled++
      counts.cachedTokens += usage.cachedInput ?? 0
      if (account.learnedSlots !== undefined) learnSlots(account, given.at, given.inFlight, false, now)
    }
    if (account.parked.items.length > 0) pump(engine, account)
  }
  settleWakes(engine)
}

// What a provider reads from its cache counts towards its tokens, but not towards its input tokens.
const amountsOf = (usage: Usage): Account.Amounts => {
  const used = Account.amounts(1, usage.input, usage.output, 0)
  used.inputTokens -= Math.min(usage.cachedInput ?? 0, usage.input)
  return used
}

/**
 * Gives the slots of a grant back. Only the first call counts.
 *
 * @internal
 */
export const release = (engine: Engine, given: Grant): void => {
  if (given.released) return
  given.released = true
  for (const account of given.accounts) account.inFlight -= given.wanted.concurrency
  for (const account of given.accounts) if (account.parked.items.length > 0) pump(engine, account)
  if (engine.waiting > 0) settleWakes(engine)
}

// ---------------------------------------------------------------------------------------------------------------------
// limits and observations
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Replaces the limits of a scope, for all who come and all who wait.
 *
 * @internal
 */
export const setLimits = (engine: Engine, key: string, limits: Limits.Limits): void => {
  const plan = planOf(engine, limits)
  const account = engine.accounts.get(key) ?? open(engine, key, plan, limits)
  account.pinned = true
  configure(engine, account, plan)
  settleWakes(engine)
}

/**
 * Puts what a provider said about a scope into force; limits go down by it and never above the configured ones.
 *
 * @internal
 */
export const stated = (engine: Engine, key: string, said: ReadonlyArray<Observation>, sentAt: number): void => {
  const { now } = engine
  const account = engine.accounts.get(key)
  if (account === undefined) return
  for (const observation of said) {
    if (observation.dimension === "concurrency") {
      if (observation.limit !== undefined && observation.limit >= 1) {
        account.learnedSlots = {
          limit: Math.min(account.plan.concurrency, observation.limit),
          decreasedAt: account.learnedSlots?.decreasedAt ?? Number.NEGATIVE_INFINITY
        }
      }
      continue
    }
    const meter = meterOf(account, observation) ?? guess(engine, account, observation)
    if (meter === undefined) continue
    if (observation.limit !== undefined && observation.limit > 0) Meter.state(meter, observation.limit, now)
    if (observation.remaining !== undefined) Meter.reconcile(meter, Math.max(0, observation.remaining), sentAt, now)
  }
  pump(engine, account)
  settleWakes(engine)
}

const meterOf = (account: Account.Account, said: Observation): Meter.Meter | undefined => {
  let shortest: Meter.Meter | undefined
  for (const meter of account.meters) {
    if (meter.dimension !== said.dimension || meter.rule === undefined) continue
    const windowMs = Meter.windowOf(meter.rule)
    // A month is not always as long as another, so a tenth is allowed for.
    if (said.windowMs !== undefined) {
      if (Math.abs(windowMs - said.windowMs) <= 0.1 * windowMs) return meter
    } else if (shortest?.rule === undefined || windowMs < Meter.windowOf(shortest.rule)) shortest = meter
  }
  return shortest
}

/** Starts to limit what nobody configured, once a provider has said that it does. */
const guess = (engine: Engine, account: Account.Account, said: Observation): Meter.Meter | undefined => {
  const { dimension, limit, windowMs = 60_000 } = said
  if (!engine.options.adaptive || limit === undefined || !(limit > 0)) return undefined
  if (dimension === "concurrency" || dimension === "interval") return undefined
  const meter = Meter.guessed({
    dimension,
    limit,
    window: { _tag: "Continuous", capacity: limit, windowMs },
    id: `${dimension}:learned:${windowMs}`,
    label: `learned`
  }, engine.now)
  account.meters = [...account.meters, meter]
  engine.version++
  return meter
}

/**
 * Notes that a provider refused a request for too much: its rate or its slots go down once a round trip.
 *
 * @internal
 */
export const throttled = (engine: Engine, key: string, options: {
  readonly dimension: Dimension | undefined
  /** Whether the provider had too much to do for everybody, which says nothing of a limit of ours. */
  readonly overloaded: boolean
  readonly sentAt: number
  readonly tokens: number
  readonly retryAfterMs: number | undefined
  readonly random: number
}): void => {
  const { now } = engine
  const account = engine.accounts.get(key)
  if (account === undefined) return
  account.counts.throttled++
  if (options.dimension === "concurrency" && engine.options.adaptive) {
    account.learnedSlots ??= Learning.concurrencyInitial(
      Math.min(account.plan.concurrency, Math.max(1, account.counts.peakInFlight))
    )
    learnSlots(account, options.sentAt, account.inFlight, true, now)
  } else {
    const blamed = blame(engine, account, options.dimension, options.overloaded)
    if (blamed !== undefined) {
      if (blamed.learner === undefined) {
        const until = Learning.resumeAt(now.mono, options.retryAfterMs ?? 0, options.random)
        blamed.blockedUntil = Math.max(blamed.blockedUntil, options.retryAfterMs === undefined ? 0 : until)
      } else {
        const { overloaded, random, retryAfterMs, sentAt, tokens } = options
        const _tag = overloaded ? "Overloaded" : "Throttled"
        const cost = blamed.dimension === "requests" ? 1 : tokens
        const atEdge = Meter.available(blamed, now) < cost
        Meter.learn(blamed, blamed.learner, { _tag, sentAt, cost, retryAfterMs, random, atEdge }, now)
      }
    }
  }
  if (account.parked.items.length > 0) rearm(engine, account)
}

/**
 * Voids the requests that a scope has saved up while nothing was sent, but for one.
 *
 * @internal
 */
export const rested = (engine: Engine, key: string): void => {
  const account = engine.accounts.get(key)
  if (account === undefined) return
  for (const meter of account.meters) {
    if (meter._tag === "Bucket" && meter.dimension === "requests") {
      Bucket.spill(meter.bucket, 1, engine.now.mono)
    }
  }
  if (account.parked.items.length > 0) rearm(engine, account)
}

/** The limit that was most used of late, compared with what is allowed. */
const blame = (
  engine: Engine,
  account: Account.Account,
  dimension: Dimension | undefined,
  overloaded: boolean
): Meter.Meter | undefined => {
  let blamed: Meter.Meter | undefined
  let most = -1
  for (const meter of account.meters) {
    if (meter.dimension === "interval" || meter._tag === "Calendar") continue
    if (dimension !== undefined && meter.dimension !== dimension) continue
    const used = meter.learner === undefined
      ? 1 - Meter.available(meter, engine.now) / Meter.capacity(meter)
      : Learning.measured(meter.learner.options, meter.learner.state, engine.now.mono) / meter.learner.state.limit
    if (used > most) {
      most = used
      blamed = meter
    }
  }
  if (blamed !== undefined || overloaded) return blamed
  Account.rollMinute(account, engine.now)
  const { lastRequests, minuteRequests } = account.counts
  return guess(engine, account, { dimension: "requests", limit: Math.max(1, lastRequests, minuteRequests) })
}

const learnSlots = (
  account: Account.Account,
  sentAt: number,
  inflight: number,
  dropped: boolean,
  now: Meter.Now
): void => {
  if (account.learnedSlots === undefined) return
  const max = account.plan.concurrency
  account.learnedSlots = Learning.concurrency(
    { ...Learning.concurrencyDefaults, max },
    account.learnedSlots,
    { sentAt, inflight, dropped },
    now.mono
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// housekeeping
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Looks at two accounts and forgets those that have been at rest for long: no call pays for all.
 *
 * @internal
 */
export const sweep = (engine: Engine): void => {
  for (let looked = 0; looked < 2; looked++) {
    engine.hand ??= engine.accounts.values()
    const next = engine.hand.next()
    if (next.done === true) {
      engine.hand = undefined
      return
    }
    forgetIdle(engine, next.value)
  }
}

/** @internal */
export const sweepAll = (engine: Engine): void => {
  for (const account of engine.accounts.values()) forgetIdle(engine, account)
}

const forgetIdle = (engine: Engine, account: Account.Account): void => {
  if (engine.now.mono - account.touchedAt >= engine.options.idleMs && Account.isIdle(account, engine.now)) {
    engine.accounts.delete(account.key)
    engine.version++
  }
}

/**
 * Forgets what a scope has used, learned and counted; those in flight and those who wait stay. Returns whether it was
 * known.
 *
 * @internal
 */
export const reset = (engine: Engine, key: string): boolean => {
  const account = engine.accounts.get(key)
  if (account === undefined) return false
  account.pinned = false
  account.limits = undefined
  account.learnedSlots = undefined
  account.meters = Account.make(key, account.plan, {
    levels: 0,
    adaptive: engine.options.adaptive,
    lagMs: engine.options.lagMs,
    parked: account.parked
  }, engine.now).meters
  engine.version++
  pump(engine, account)
  settleWakes(engine)
  return true
}
