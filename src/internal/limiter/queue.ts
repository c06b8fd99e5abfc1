/**
 * Who waits, and in which order.
 *
 * Requests with the same set of scopes wait in one lane. Within a lane the better level goes first, within a level the
 * tenant that has been served least, within a tenant whoever began to wait first; nobody overtakes otherwise. A waiting request
 * holds nothing and leaves no trace when it goes.
 *
 * @internal
 */
import { type Account, addTo, type Amounts, amounts } from "./account.ts"
import * as Heap from "./heap.ts"
import type { Dimension } from "./observation.ts"

/**
 * Whose turn it is among equals: whoever began to wait first, and of those who began together whoever came first.
 *
 * @internal
 */
export interface Turn {
  /** When it began to wait, here or before it came. */
  readonly order: number
  readonly seq: number
}

/** @internal */
export const isBefore = (a: Turn, b: Turn): boolean => a.order !== b.order ? a.order < b.order : a.seq < b.seq

/** @internal */
export interface Waiter extends Turn {
  readonly lane: Lane
  readonly tenant: string
  readonly wanted: Amounts
  /** Level it asked for. */
  readonly asked: number
  /** Level it has reached by waiting. */
  level: number
  readonly since: number
  /** When it entered its level. */
  entered: number
  readonly expiresAt: number
  /** What it waited for last. */
  binding: Dimension | undefined
  /** How often it had room in one scope and lacked it in another. */
  moves: number
  flow: Flow | undefined
  slot: number
  expirySlot: number
  older: Waiter | undefined
  younger: Waiter | undefined
}

/**
 * The waiting requests of one tenant in one level of a lane.
 *
 * @internal
 */
export interface Flow {
  readonly tenant: string
  readonly level: number
  readonly waiters: Heap.Heap<Waiter>
  /** Virtual time at which its next request begins; too small when the tenant was served elsewhere meanwhile. */
  start: number
  slot: number
}

/** @internal */
export interface Lane {
  readonly key: string
  readonly accounts: ReadonlyArray<Account>
  readonly levels: ReadonlyArray<{ readonly order: Heap.Heap<Flow>; readonly flows: Map<string, Flow> }>
  /** What its requests ask for, by level. */
  readonly queued: ReadonlyArray<Amounts>
  waiting: number
  /** When the latest of its requests began to wait. */
  latest: number
  /** The account it waits at. */
  home: Account | undefined
  /** Its next request, and where that stands among those of other lanes at `home`. */
  head: Waiter | undefined
  /** The level of that, which changes when it is lifted. */
  level: number
  start: number
  slot: number
  /** The request for which it holds its accounts. */
  holding: Waiter | undefined
}

const nowhere = Number.NEGATIVE_INFINITY

/** @internal */
export const makeLane = (key: string, accounts: ReadonlyArray<Account>, levels: number): Lane => ({
  key,
  accounts,
  levels: Array.from({ length: levels }, () => ({
    order: Heap.make<Flow>(flowBefore, (flow, index) => {
      flow.slot = index
    }),
    flows: new Map<string, Flow>()
  })),
  queued: Array.from({ length: levels }, () => amounts(0, 0, 0, 0)),
  waiting: 0,
  latest: nowhere,
  home: undefined,
  head: undefined,
  level: 0,
  start: nowhere,
  slot: -1,
  holding: undefined
})

const flowBefore = (a: Flow, b: Flow): boolean => {
  if (a.start !== b.start) return a.start < b.start
  const [first] = a.waiters.items
  const [second] = b.waiters.items
  return first !== undefined && (second === undefined || isBefore(first, second))
}

const placeWaiter = (waiter: Waiter, index: number): void => {
  waiter.slot = index
}

/**
 * The order of lanes at an account: by their next requests.
 *
 * @internal
 */
export const laneBefore = (a: Lane, b: Lane): boolean =>
  a.head !== undefined &&
  (b.head === undefined || goesFirst(a.head, a.start, isHolding(a), b.head, b.start, isHolding(b)))

const isHolding = (lane: Lane): boolean => lane.holding !== undefined && lane.holding === lane.head

/**
 * One that waits, or that has just come.
 *
 * @internal
 */
export interface Candidate extends Turn {
  readonly level: number
}

/** @internal */
export const goesFirst = (
  a: Candidate,
  aStart: number,
  aHolds: boolean,
  b: Candidate,
  bStart: number,
  bHolds: boolean
): boolean =>
  a.level !== b.level
    ? a.level < b.level
    : aHolds !== bHolds
    ? aHolds
    : aHolds || aStart === bStart
    ? isBefore(a, b)
    : aStart < bStart

/**
 * Returns the virtual time at which a tenant's next request begins at an account.
 *
 * @internal
 */
export const startAt = (account: Account | undefined, level: number, tenant: string): number => {
  if (account === undefined) return nowhere
  const fair = account.fair[level]
  return fair === undefined ? 0 : Math.max(fair.virtual, fair.next.get(tenant) ?? 0)
}

/**
 * Counts a request of a tenant as served at an account.
 *
 * @internal
 */
export const serve = (account: Account, level: number, tenant: string, cost: number): void => {
  const fair = account.fair[level] ??= { virtual: 0, next: new Map() }
  const start = startAt(account, level, tenant)
  fair.virtual = start
  // Tenants that are not ahead of the virtual time need no entry.
  if (fair.next.size >= 1024 && !fair.next.has(tenant)) {
    for (const [other, next] of fair.next) if (next <= start) fair.next.delete(other)
  }
  fair.next.set(tenant, start + cost)
}

const resetFairness = (account: Account): void => {
  account.fair.forEach((fair) => {
    fair.virtual = 0
    if (fair.next.size > 0) fair.next.clear()
  })
}

/** @internal */
export const add = (lane: Lane, waiter: Waiter): void => {
  join(lane, waiter)
  lane.waiting++
  lane.latest = Math.max(lane.latest, waiter.order)
  for (const account of lane.accounts) {
    account.waiting[waiter.asked] = (account.waiting[waiter.asked] ?? 0) + 1
    account.waitingCount++
  }
}

/** @internal */
export const remove = (lane: Lane, waiter: Waiter): void => {
  leave(lane, waiter)
  lane.waiting--
  for (const account of lane.accounts) {
    account.waiting[waiter.asked] = (account.waiting[waiter.asked] ?? 1) - 1
    account.waitingCount--
    // Without a queue nobody has a claim on the next turn.
    if (account.waitingCount === 0) resetFairness(account)
  }
}

/**
 * Moves a waiter to another level, where it keeps its place in time.
 *
 * @internal
 */
export const promote = (lane: Lane, waiter: Waiter, level: number): void => {
  leave(lane, waiter)
  waiter.level = level
  join(lane, waiter)
}

const join = (lane: Lane, waiter: Waiter): void => {
  const level = lane.levels[waiter.level]
  if (level === undefined) return
  let flow = level.flows.get(waiter.tenant)
  if (flow === undefined) {
    flow = {
      tenant: waiter.tenant,
      level: waiter.level,
      waiters: Heap.make(isBefore, placeWaiter),
      start: startAt(lane.home, waiter.level, waiter.tenant),
      slot: -1
    }
    level.flows.set(waiter.tenant, flow)
  }
  waiter.flow = flow
  Heap.push(flow.waiters, waiter)
  if (flow.slot === -1) Heap.push(level.order, flow)
  else if (waiter.slot === 0) Heap.update(level.order, flow.slot)
  count(lane, waiter, 1)
}

const leave = (lane: Lane, waiter: Waiter): void => {
  const { flow } = waiter
  const level = lane.levels[waiter.level]
  if (flow === undefined || level === undefined) return
  const first = waiter.slot === 0
  Heap.removeAt(flow.waiters, waiter.slot)
  waiter.flow = undefined
  if (flow.waiters.items.length === 0) {
    Heap.removeAt(level.order, flow.slot)
    level.flows.delete(flow.tenant)
  } else if (first) Heap.update(level.order, flow.slot)
  count(lane, waiter, -1)
}

const count = (lane: Lane, waiter: Waiter, sign: 1 | -1): void => {
  const queued = lane.queued[waiter.level]
  if (queued !== undefined) addTo(queued, waiter.wanted, sign)
  if (lane.home !== undefined) addTo(queuedAt(lane.home, waiter.level), waiter.wanted, sign)
}

const queuedAt = (account: Account, level: number): Amounts => account.queued[level] ??= amounts(0, 0, 0, 0)

/**
 * Finds a lane's next request anew; returns whether that, or its place among lanes, has changed.
 *
 * @internal
 */
export const refresh = (lane: Lane): boolean => {
  const { head, level, start } = lane
  findHead(lane)
  // One that has been lifted stands elsewhere among those of other lanes.
  if (head === lane.head && level === lane.level && start === lane.start) return false
  if (lane.home !== undefined) Heap.update(lane.home.parked, lane.slot)
  return true
}

// One that holds its accounts stays the next one wherever the lane goes, or two tenants could send it to and fro.
const findHead = (lane: Lane): void => {
  const flow = nextFlow(lane)
  const { holding } = lane
  if (holding !== undefined && (flow === undefined || holding.level <= flow.level)) {
    lane.head = holding
    lane.start = startAt(lane.home, holding.level, holding.tenant)
  } else {
    lane.head = flow?.waiters.items[0]
    lane.start = flow?.start ?? nowhere
  }
  lane.level = lane.head?.level ?? 0
}

const nextFlow = (lane: Lane): Flow | undefined => {
  for (const { order } of lane.levels) {
    for (let flow = order.items[0]; flow !== undefined; flow = order.items[0]) {
      const start = startAt(lane.home, flow.level, flow.tenant)
      if (start === flow.start) return flow
      flow.start = start
      Heap.update(order, flow.slot)
      if (order.items[0] === flow) return flow
    }
  }
  return undefined
}

/** @internal */
export const park = (lane: Lane, account: Account): void => {
  lane.home = account
  for (const { order } of lane.levels) {
    for (const flow of order.items) flow.start = startAt(account, flow.level, flow.tenant)
    // Starts of another account may have another order.
    Heap.rebuild(order)
  }
  findHead(lane)
  lane.queued.forEach((queued, level) => {
    if (queued.requests > 0) addTo(queuedAt(account, level), queued, 1)
  })
  Heap.push(account.parked, lane)
}

/** @internal */
export const unpark = (lane: Lane): void => {
  const account = lane.home
  if (account === undefined) return
  Heap.removeAt(account.parked, lane.slot)
  lane.queued.forEach((queued, level) => {
    if (queued.requests > 0) addTo(queuedAt(account, level), queued, -1)
  })
  lane.home = undefined
  if (account.parked.items.length === 0) {
    // Sums of fractions do not end at zero by themselves.
    account.queued.length = 0
  }
}
