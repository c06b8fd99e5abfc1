import { assert, describe, it } from "@effect/vitest"
import * as Account from "../../../src/internal/limiter/account.ts"
import * as Heap from "../../../src/internal/limiter/heap.ts"
import * as Limits from "../../../src/internal/limiter/limits.ts"
import * as Queue from "../../../src/internal/limiter/queue.ts"

const account = (key = "scope"): Account.Account =>
  Account.make(key, Limits.plan({}), {
    levels: 3,
    adaptive: false,
    lagMs: 0,
    parked: Heap.make<Queue.Lane>(Queue.laneBefore, (lane, index) => {
      lane.slot = index
    })
  }, { mono: 0, wall: 0 })

let seq = 0

const nothing = Account.amounts(0, 0, 0, 0)

/** What the lanes at an account ask for, by level. */
const queued = (of: Account.Account) => Array.from({ length: 3 }, (_, level) => of.queued[level] ?? nothing)

const waiter = (lane: Queue.Lane, level = 1, tenant = "", tokens = 1): Queue.Waiter => ({
  order: 0,
  seq: seq++,
  lane,
  tenant,
  wanted: Account.amounts(1, tokens, 0, 1),
  asked: level,
  level,
  since: 0,
  entered: 0,
  expiresAt: Number.POSITIVE_INFINITY,
  binding: undefined,
  moves: 0,
  flow: undefined,
  slot: -1,
  expirySlot: -1,
  older: undefined,
  younger: undefined
})

/** A lane at an account, with a waiter for each pair of a level and a tenant. */
const laneOf = (
  accounts: ReadonlyArray<Account.Account>,
  asked: ReadonlyArray<readonly [level: number, tenant: string]>,
  home = accounts[0]
) => {
  const lane = Queue.makeLane("lane", accounts, 3)
  const waiters = asked.map(([level, tenant]) => waiter(lane, level, tenant))
  if (home !== undefined) Queue.park(lane, home)
  for (const each of waiters) {
    Queue.add(lane, each)
    Queue.refresh(lane)
  }
  return { lane, waiters }
}

/** Lets the next one go at its home, until nobody waits; returns their places among the waiters. */
const served = (lane: Queue.Lane, waiters: ReadonlyArray<Queue.Waiter>, cost = 1): ReadonlyArray<number> => {
  const order: Array<number> = []
  for (let head = lane.head; head !== undefined; head = lane.head) {
    order.push(waiters.indexOf(head))
    if (lane.home !== undefined) Queue.serve(lane.home, head.level, head.tenant, cost)
    Queue.remove(lane, head)
    Queue.refresh(lane)
  }
  return order
}

describe("a lane", () => {
  it("lets the better level go first, then whoever came first", () => {
    const { lane, waiters } = laneOf([account()], [[2, ""], [1, ""], [0, ""], [1, ""], [0, ""]])
    assert.deepStrictEqual(served(lane, waiters), [2, 4, 1, 3, 0])
  })

  it("lets tenants of one level take turns, beginning with whoever came first", () => {
    const { lane, waiters } = laneOf([account()], [[1, "b"], [1, "b"], [1, "b"], [1, "a"], [1, "a"], [1, "c"]])
    assert.deepStrictEqual(served(lane, waiters), [0, 3, 5, 1, 4, 2])
  })

  it("lets one who costs more go less often", () => {
    const home = account()
    const { lane, waiters } = laneOf([home], [[1, "a"], [1, "b"], [1, "a"], [1, "b"], [1, "a"], [1, "b"]])
    const order: Array<number> = []
    for (let head = lane.head; head !== undefined; head = lane.head) {
      order.push(waiters.indexOf(head))
      Queue.serve(home, head.level, head.tenant, head.tenant === "a" ? 2.5 : 1)
      Queue.remove(lane, head)
      Queue.refresh(lane)
    }
    assert.deepStrictEqual(order, [0, 1, 3, 5, 2, 4])
  })

  it("keeps the order when some go away, and those who move to another level in their place in time", () => {
    const { lane, waiters } = laneOf([account()], [[1, ""], [1, ""], [1, ""], [2, ""], [2, ""], [1, "x"]])
    const [, second, , fourth] = waiters
    if (second === undefined || fourth === undefined) return assert.fail()
    Queue.remove(lane, second)
    Queue.promote(lane, fourth, 0)
    Queue.refresh(lane)
    assert.strictEqual(fourth.level, 0)
    assert.strictEqual(fourth.asked, 2)
    Queue.promote(lane, fourth, 1)
    Queue.refresh(lane)
    assert.deepStrictEqual(served(lane, waiters), [0, 5, 2, 3, 4])
  })

  it("lets tenants take turns by whoever of each is first, after one has gone or has come from another level", () => {
    const { lane, waiters } = laneOf([account()], [[1, "a"], [2, "b"], [1, "c"], [1, "a"], [1, "b"]])
    const [first, second] = waiters
    if (first === undefined || second === undefined) return assert.fail()
    Queue.remove(lane, first)
    Queue.refresh(lane)
    assert.strictEqual(lane.head, waiters[2])
    Queue.promote(lane, second, 1)
    Queue.refresh(lane)
    assert.strictEqual(lane.head, second)
    assert.deepStrictEqual(served(lane, waiters), [1, 2, 3, 4])
  })

  it("counts who waits at each of its accounts by the level they asked for, and what they want where it is parked", () => {
    const home = account()
    const other = account("other")
    const { lane, waiters } = laneOf([home, other], [[0, ""], [2, ""], [2, "x"]])
    const [first, second, third] = waiters
    if (first === undefined || second === undefined || third === undefined) return assert.fail()
    const figures = (of: Account.Account) => [of.waiting, of.waitingCount, queued(of).map(({ tokens }) => tokens)]
    assert.strictEqual(lane.waiting, 3)
    assert.deepStrictEqual(figures(home), [[1, 0, 2], 3, [1, 0, 2]])
    assert.deepStrictEqual(figures(other), [[1, 0, 2], 3, [0, 0, 0]])
    assert.deepStrictEqual(lane.queued.map(({ requests }) => requests), [1, 0, 2])
    Queue.promote(lane, third, 1)
    assert.deepStrictEqual(figures(home), [[1, 0, 2], 3, [1, 1, 1]])
    Queue.remove(lane, second)
    assert.deepStrictEqual(figures(home), [[1, 0, 1], 2, [1, 1, 0]])
    Queue.unpark(lane)
    assert.deepStrictEqual(figures(home), [[1, 0, 1], 2, [0, 0, 0]])
    assert.isUndefined(lane.home)
    Queue.park(lane, other)
    assert.deepStrictEqual(figures(other), [[1, 0, 1], 2, [1, 1, 0]])
    Queue.remove(lane, first)
    Queue.remove(lane, third)
    assert.deepStrictEqual([lane.waiting, figures(home), figures(other)], [
      0,
      [[0, 0, 0], 0, [0, 0, 0]],
      [[0, 0, 0], 0, [0, 0, 0]]
    ])
    assert.isUndefined(third.flow)
    assert.deepStrictEqual(lane.levels.map(({ flows, order }) => [flows.size, order.items.length]), [[0, 0], [0, 0], [
      0,
      0
    ]])
    // Whoever has gone is not taken out again.
    Queue.promote(lane, waiter(lane, 2), 2)
    assert.deepStrictEqual(lane.queued.map(({ requests }) => requests), [0, 0, 1])
  })

  it("leaves nothing of what it asked for at an account that no lane is parked at", () => {
    const home = account()
    const { lane } = laneOf([home], [])
    for (const tokens of [0.1, 0.2]) Queue.add(lane, waiter(lane, 1, "", tokens))
    Queue.unpark(lane)
    assert.deepStrictEqual(queued(home), [nothing, nothing, nothing])
    assert.deepStrictEqual(home.parked.items, [])
    Queue.unpark(lane)
    assert.deepStrictEqual(queued(home), [nothing, nothing, nothing])
  })

  it("leaves nothing of fractions, whatever lanes there were", () => {
    const home = account()
    const lanes = [0.1, 0.2, 0.3].map((tokens) => {
      const { lane } = laneOf([home], [])
      Queue.add(lane, waiter(lane, 1, "", tokens))
      return lane
    })
    for (const lane of lanes) Queue.unpark(lane)
    assert.deepStrictEqual(queued(home), [nothing, nothing, nothing])
  })

  it("keeps what others ask for when it leaves an account", () => {
    const home = account()
    const one = laneOf([home], [[1, ""]])
    laneOf([home], [[1, ""], [1, ""]])
    Queue.unpark(one.lane)
    assert.strictEqual(home.queued[1]?.requests, 2)
  })

  it("says whether its next one has changed", () => {
    const home = account()
    const { lane, waiters } = laneOf([home], [[1, "a"], [1, "b"]])
    const [first] = waiters
    if (first === undefined) return assert.fail()
    assert.isFalse(Queue.refresh(lane))
    Queue.add(lane, waiter(lane, 1, "b"))
    assert.isFalse(Queue.refresh(lane))
    Queue.add(lane, waiter(lane, 0, "b"))
    assert.isTrue(Queue.refresh(lane))
    assert.strictEqual(lane.head?.level, 0)
    const lifted = laneOf([home], [[2, "b"]])
    const [only] = lifted.waiters
    if (only === undefined) return assert.fail()
    Queue.promote(lifted.lane, only, 0)
    assert.isTrue(Queue.refresh(lifted.lane))
    const apart = laneOf([home], [[1, "a"]])
    // The same one, but later in virtual time.
    Queue.serve(home, 1, "a", 3)
    assert.isTrue(Queue.refresh(apart.lane))
    assert.strictEqual(apart.lane.start, 3)
    const nowhere = Queue.makeLane("nowhere", [], 3)
    assert.isFalse(Queue.refresh(nowhere))
    Queue.add(nowhere, waiter(nowhere))
    assert.isTrue(Queue.refresh(nowhere))
    assert.isDefined(nowhere.head)
  })

  it("keeps one that holds its accounts as the next one, unless a better level waits", () => {
    const { lane, waiters } = laneOf([account()], [[1, "a"], [1, "b"]])
    const [first, second] = waiters
    if (first === undefined || second === undefined) return assert.fail()
    lane.holding = second
    assert.isTrue(Queue.refresh(lane))
    assert.strictEqual(lane.head, second)
    const urgent = waiter(lane, 0)
    Queue.add(lane, urgent)
    Queue.refresh(lane)
    assert.strictEqual(lane.head, urgent)
    Queue.remove(lane, urgent)
    Queue.refresh(lane)
    assert.strictEqual(lane.head, second)
    if (lane.home !== undefined) Queue.serve(lane.home, 1, "b", 4)
    Queue.refresh(lane)
    assert.deepStrictEqual([lane.head, lane.start], [second, 4])
    for (const each of waiters) Queue.remove(lane, each)
    Queue.refresh(lane)
    assert.strictEqual(lane.head, second)
  })

  it("goes by the turns of the account where it is parked", () => {
    const home = account()
    const other = account("other")
    const { lane, waiters } = laneOf([home, other], [[1, "a"], [1, "b"], [1, "c"]])
    Queue.serve(other, 1, "a", 9)
    Queue.serve(other, 1, "c", 3)
    Queue.unpark(lane)
    Queue.park(lane, other)
    assert.deepStrictEqual([lane.head, lane.start], [waiters[1], 0])
    Queue.unpark(lane)
    Queue.park(lane, home)
    assert.deepStrictEqual([lane.head, lane.start], [waiters[0], 0])
    Queue.unpark(lane)
    Queue.park(lane, other)
    assert.deepStrictEqual(served(lane, waiters), [1, 2, 0])
  })
})

describe("lanes at an account", () => {
  const next = (home: Account.Account, lanes: ReadonlyArray<Queue.Lane>): number => {
    const [first] = home.parked.items
    return first === undefined ? -1 : lanes.indexOf(first)
  }

  it("go in the order of their next ones, and those without one last", () => {
    const home = account()
    const empty = laneOf([home], [])
    const late = laneOf([home], [[2, ""]])
    const soon = laneOf([home], [[1, ""]])
    const lanes = [empty.lane, late.lane, soon.lane]
    assert.strictEqual(next(home, lanes), 2)
    assert.deepStrictEqual(served(soon.lane, soon.waiters), [0])
    assert.strictEqual(next(home, lanes), 1)
    Queue.add(empty.lane, waiter(empty.lane, 0))
    Queue.refresh(empty.lane)
    assert.strictEqual(next(home, lanes), 0)
    assert.isFalse(Queue.laneBefore(soon.lane, late.lane))
    assert.isTrue(Queue.laneBefore(late.lane, soon.lane))
  })

  it("go first when their next one holds its accounts", () => {
    const home = account()
    const first = laneOf([home], [[1, ""]])
    const second = laneOf([home], [[1, ""]])
    assert.isFalse(Queue.laneBefore(second.lane, first.lane))
    second.lane.holding = second.lane.head
    assert.isTrue(Queue.laneBefore(second.lane, first.lane))
    // A hold of another than the next one is none.
    second.lane.holding = first.lane.head
    assert.isFalse(Queue.laneBefore(second.lane, first.lane))
  })

  const at = (level: number, seq: number) => ({ level, order: 0, seq })
  const table: ReadonlyArray<
    readonly [
      rule: string,
      first: boolean,
      a: readonly [number, number, number, boolean],
      b: readonly [number, number, number, boolean]
    ]
  > = [
    ["the better level", true, [0, 9, 9, false], [1, 1, 1, true]],
    ["not the worse level", false, [2, 1, 1, true], [1, 9, 9, false]],
    ["of one level whoever holds", true, [1, 9, 9, true], [1, 1, 1, false]],
    ["of one level not who does not hold", false, [1, 1, 1, false], [1, 9, 9, true]],
    ["of those that hold whoever came first", true, [1, 1, 9, true], [1, 2, 1, true]],
    ["of those that hold not who came later", false, [1, 2, 1, true], [1, 1, 9, true]],
    ["of others the earlier turn", true, [1, 9, 1, false], [1, 1, 2, false]],
    ["of others not the later turn", false, [1, 1, 2, false], [1, 9, 1, false]],
    ["of one turn whoever came first", true, [1, 1, 3, false], [1, 2, 3, false]],
    ["of one turn not who came later", false, [1, 2, 3, false], [1, 1, 3, false]],
    ["nobody before itself", false, [1, 1, 3, false], [1, 1, 3, false]]
  ]
  for (const [rule, first, [aLevel, aSeq, aStart, aHolds], [bLevel, bSeq, bStart, bHolds]] of table) {
    it(`let go first ${rule}`, () => {
      assert.strictEqual(Queue.goesFirst(at(aLevel, aSeq), aStart, aHolds, at(bLevel, bSeq), bStart, bHolds), first)
    })
  }
})

describe("whoever began to wait first", () => {
  it("goes first, also when it comes back from elsewhere", () => {
    assert.isTrue(Queue.isBefore({ order: 1, seq: 9 }, { order: 2, seq: 1 }))
    assert.isFalse(Queue.isBefore({ order: 2, seq: 1 }, { order: 1, seq: 9 }))
    assert.isTrue(Queue.isBefore({ order: 1, seq: 1 }, { order: 1, seq: 2 }))
    assert.isFalse(Queue.isBefore({ order: 1, seq: 2 }, { order: 1, seq: 2 }))
  })
})

describe("turns", () => {
  it("begin where a tenant's last request ended, and never before the present", () => {
    const home = account()
    assert.strictEqual(Queue.startAt(home, 1, "a"), 0)
    Queue.serve(home, 1, "a", 5)
    assert.deepStrictEqual(["a", "b"].map((tenant) => Queue.startAt(home, 1, tenant)), [5, 0])
    Queue.serve(home, 1, "a", 5)
    assert.deepStrictEqual(["a", "b"].map((tenant) => Queue.startAt(home, 1, tenant)), [10, 5])
    assert.strictEqual(Queue.startAt(home, 2, "a"), 0)
    assert.strictEqual(Queue.startAt(undefined, 1, "a"), Number.NEGATIVE_INFINITY)
  })

  it("are forgotten once nobody waits", () => {
    const home = account()
    const { lane, waiters } = laneOf([home], [[1, "a"], [1, "b"], [1, "a"]])
    assert.deepStrictEqual(served(lane, waiters, 5), [0, 1, 2])
    assert.deepStrictEqual(["a", "b"].map((tenant) => Queue.startAt(home, 1, tenant)), [0, 0])
    assert.isTrue(home.fair.every((fair) => fair.virtual === 0 && fair.next.size === 0))
  })

  it("of a thousand tenants are forgotten as far as they are past", () => {
    const home = account()
    Queue.serve(home, 1, "ahead", 900)
    const fair = home.fair[1]
    assert.isDefined(fair)
    for (let each = 0; each < 1022; each++) Queue.serve(home, 1, `past ${each}`, 5)
    Queue.serve(home, 1, "just", 10)
    assert.strictEqual(fair?.next.size, 1024)
    // One that is known makes no room.
    Queue.serve(home, 1, "past 0", 5)
    assert.strictEqual(fair?.next.size, 1024)
    assert.strictEqual(fair?.virtual, 5)
    Queue.serve(home, 1, "new", 1)
    assert.deepStrictEqual(Array.from(fair?.next ?? []), [["ahead", 900], ["past 0", 10], ["just", 10], ["new", 6]])
  })
})
