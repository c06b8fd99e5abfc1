import { assert, describe, it } from "@effect/vitest"
import { Selection, Target } from "breakwater"
import { Arbitrary, Effect, Schema } from "effect"

interface Given extends Omit<Selection.CandidateOptions, "target"> {
  readonly weight?: number
  readonly order?: number
  readonly price?: number
  readonly id?: string
}

const candidates = (given: ReadonlyArray<Given>): ReadonlyArray<Selection.CandidateOptions> =>
  given.map(({ id, order, price, weight, ...rest }, index) => ({
    ...rest,
    target: Target.make({
      provider: "p",
      model: "m",
      id: id ?? `t${index}`,
      order,
      weight,
      price: price === undefined ? undefined : { input: price, output: price }
    })
  }))

const snapshot = (given: ReadonlyArray<Given>, options?: Selection.SnapshotOptions) =>
  Selection.snapshot(candidates(given), options)

/** A generator of the same numbers every time (xorshift). */
const seeded = (seed = 1): () => number => {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

const pick = (strategy: Selection.Strategy, of: Selection.Snapshot, random = seeded()): number =>
  strategy.pick(of, 0, of.count, random)

const shares = (strategy: Selection.Strategy, of: Selection.Snapshot, times = 20_000): ReadonlyArray<number> => {
  const random = seeded(7)
  const chosen = of.targets.map(() => 0)
  for (let time = 0; time < times; time++) {
    const index = pick(strategy, of, random)
    chosen[index] = (chosen[index] ?? 0) + 1
  }
  return chosen.map((count) => count / times)
}

const assertShares = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>): void => {
  assert.strictEqual(actual.length, expected.length)
  for (const [index, share] of expected.entries()) assert.closeTo(actual[index] ?? Number.NaN, share, 0.015, `${index}`)
}

const gone = { free: false }

const tables: ReadonlyArray<{
  readonly strategy: Selection.Strategy
  readonly rules: ReadonlyArray<readonly [rule: string, given: ReadonlyArray<Given>, expected: number]>
}> = [
  {
    strategy: Selection.healthiest,
    rules: [
      ["the highest health", [{ health: 50 }, { health: 90 }, { health: 80 }], 1],
      ["of equal ones the one with fewer attempts in flight", [{ pending: 2 }, { pending: 1 }, { pending: 3 }], 1],
      ["of equal ones the first", [{ health: 0 }, { health: 0 }], 0],
      ["not what is not free", [{ health: 10 }, { health: 90, free: false }], 0]
    ]
  },
  {
    strategy: Selection.mostHeadroom,
    rules: [
      ["the most headroom", [{ headroom: 0.1 }, { headroom: 0.2 }, { headroom: 0.3, free: false }], 1],
      ["without limits the one with the fewest attempts in flight", [{ pending: 2 }, { pending: 1 }], 1]
    ]
  },
  {
    strategy: Selection.lowestLatency,
    rules: [
      ["the lowest latency", [{ latencyMs: 300 }, { latencyMs: 200 }, { latencyMs: 400 }], 1],
      ["what has never answered, first", [{ latencyMs: 300 }, {}, {}], 1],
      ["what has never answered, only once", [{ latencyMs: 300 }, { pending: 1 }, { pending: 1 }], 0],
      ["of those that are being tried the one with fewer attempts", [{ pending: 2 }, { pending: 1 }], 1],
      ["what is being tried, before what is slower than 30 seconds", [{ latencyMs: 30_001 }, { pending: 1 }], 1]
    ]
  },
  {
    strategy: Selection.lowestLatencyPerToken,
    rules: [
      ["the lowest time per token", [{ perTokenMs: 9, latencyMs: 1 }, { perTokenMs: 8, latencyMs: 900 }], 1],
      ["what has never answered, first", [{ perTokenMs: 9 }, { latencyMs: 900 }], 1]
    ]
  },
  {
    strategy: Selection.cheapest,
    rules: [
      ["the lowest price", [{ price: 3 }, { price: 1 }, { price: 2 }], 1],
      ["what is free of charge", [{ price: 3 }, { price: 0 }], 1],
      ["what has no price, last", [{}, { price: 100 }], 1],
      ["of those without a price the one with fewer attempts", [{ pending: 1 }, {}, {}], 1],
      ["not what is not free", [{ price: 3 }, { price: 0, free: false }], 0]
    ]
  },
  {
    strategy: Selection.leastBusy,
    rules: [
      ["the fewest attempts in flight", [{ pending: 3 }, { pending: 1 }, { pending: 2 }], 1],
      ["the fewest for its weight", [{ pending: 3 }, { pending: 5, weight: 2 }], 1],
      ["weight 0 only when nothing else is free", [{ pending: 3, weight: 0 }, { pending: 9 }], 1],
      ["of weight 0 the least busy", [{ pending: 3, weight: 0 }, { pending: 2, weight: 0 }, gone], 1]
    ]
  },
  {
    strategy: Selection.weighted,
    rules: [
      ["weight 0 only when nothing else is free", [{ weight: 0 }, { weight: 0.1 }], 1],
      ["of weight 0 the first", [gone, { weight: 0 }, { weight: 0 }], 1]
    ]
  },
  {
    strategy: Selection.powerOfTwo,
    rules: [
      ["of two the one that costs less", [{ latencyMs: 100, pending: 4 }, { latencyMs: 200, pending: 1 }], 1],
      [
        "of two the one that costs less for its weight",
        [{ latencyMs: 10, weight: 2 }, { latencyMs: 15, weight: 4 }],
        1
      ],
      ["of two, in any order, the same", [{ latencyMs: 15, weight: 4 }, { latencyMs: 10, weight: 2 }], 0],
      ["not what is being tried for the first time", [{ pending: 1 }, { latencyMs: 9000, pending: 1 }], 1],
      ["weight 0 only when nothing else is free", [{ latencyMs: 1, weight: 0 }, { latencyMs: 900 }, gone], 1]
    ]
  },
  {
    strategy: Selection.score(),
    rules: [
      ["the healthier one", [{ health: 80 }, { health: 90 }], 1],
      ["the one with more headroom", [{ headroom: 0.4 }, { headroom: 0.5 }], 1],
      ["the faster one", [{ latencyMs: 400 }, { latencyMs: 300 }], 1],
      ["the less busy one", [{ latencyMs: 400, pending: 4 }, { latencyMs: 400, pending: 3 }], 1],
      ["the cheaper one", [{ price: 4 }, { price: 3 }], 1],
      ["what has a price, when another one has none", [{}, { price: 3 }, { price: 4 }], 1],
      [
        "double health for three times the latency",
        [{ latencyMs: 100, health: 45 }, { latencyMs: 300, health: 90 }],
        1
      ],
      ["not double health for five times", [{ latencyMs: 100, health: 45 }, { latencyMs: 500, health: 90 }], 0],
      ["what has never answered, as the fastest one", [{ latencyMs: 100 }, { latencyMs: 900 }, { health: 99 }], 0],
      ["what has never answered and is better otherwise", [{ latencyMs: 100, health: 98 }, { health: 99 }], 1],
      ["what has never answered, not while it is tried", [{ latencyMs: 100, health: 60 }, { pending: 1 }], 0],
      ["of those that are being tried the one with fewer attempts", [{ pending: 2 }, { pending: 1 }], 1],
      [
        "what is being tried, before what keeps more waiting",
        [{ latencyMs: 5000, pending: 9 }, { health: 1 }, { pending: 9 }],
        2
      ],
      ["without health the one with more headroom", [{ health: 0, headroom: 0.4 }, { health: 0, headroom: 0.5 }], 1],
      ["without headroom the healthier one", [{ headroom: 0 }, { headroom: 0, health: 50 }], 0],
      ["health before what is free of charge", [{ price: 1 }, { price: 0, health: 10 }], 0],
      ["of equal ones the first", [gone, {}, {}], 1]
    ]
  },
  {
    strategy: Selection.score({ health: 0, headroom: 0, latency: 0, cost: 0 }),
    rules: [["the one with fewer attempts in flight", [{ pending: 1 }, { health: 0, latencyMs: 9, price: 1 }], 1]]
  },
  {
    strategy: Selection.score({ health: 4, latency: 2 }),
    rules: [["weights of any size", [{ latencyMs: 100, health: 69 }, { latencyMs: 200, health: 99 }], 1]]
  },
  {
    strategy: Selection.tiers(Selection.healthiest),
    rules: [
      ["the lower order", [{ order: 2, health: 99 }, { order: 1, health: 10 }, { order: 1, health: 20 }], 1],
      ["the next order when nothing of one is free", [{ order: 1 }, { ...gone, order: -1 }, { ...gone, order: 0 }], 2]
    ]
  },
  {
    strategy: Selection.byScore("pending", ({ pending }) => -pending),
    rules: [
      ["the highest score", [{ pending: 3 }, { pending: 1 }, { pending: 2 }], 1],
      ["not what is not free", [gone, { pending: 9 }], 1]
    ]
  },
  {
    strategy: Selection.byScore("broken", ({ health }) => health < 50 ? health : Number.NaN),
    rules: [
      ["what is no number, last", [{}, { health: 10 }, { health: 20 }], 2],
      ["what is no number, when there is nothing else", [gone, {}, {}], 1]
    ]
  }
]

for (const { rules, strategy } of tables) {
  describe(strategy.name, () => {
    for (const [rule, given, expected] of rules) {
      it(`takes ${rule}`, () => {
        assert.strictEqual(pick(strategy, snapshot(given)), expected)
      })
    }
  })
}

describe("ordered", () => {
  const walk = (free: ReadonlyArray<boolean>, start: number, from = 0, to = free.length): number =>
    Selection.ordered.pick(snapshot(free.map((free) => ({ free })), { start }), from, to, seeded())

  it("walks on from where the call stands, and begins again at the end", () => {
    assert.strictEqual(walk([true, true, true], 0), 0)
    assert.strictEqual(walk([true, true, true], 1), 1)
    assert.strictEqual(walk([true, true, false], 2), 0)
    assert.strictEqual(walk([true, true, true], 3), 0)
    assert.strictEqual(walk([false, false, true, false], 3), 2)
  })

  it("stays within its range", () => {
    assert.strictEqual(walk([true, false, true, true], 3, 1, 3), 2)
    assert.strictEqual(walk([true, false, true, true], 0, 1, 3), 2)
    assert.strictEqual(walk([true, false, false, true], 2, 1, 3), -1)
    assert.strictEqual(walk([true, true], 0, 1, 1), -1)
  })

  it("walks through each tier from its beginning when the call stands in another one", () => {
    const given = [{}, gone, { order: 1 }, { order: 1 }]
    const strategy = Selection.tiers(Selection.ordered)
    assert.strictEqual(pick(strategy, snapshot(given, { start: 1 })), 0)
    assert.strictEqual(pick(strategy, snapshot([gone, ...given.slice(1)], { start: 3 })), 3)
    assert.strictEqual(pick(strategy, snapshot([gone, ...given.slice(1)], { start: 1 })), 2)
  })
})

describe("chance", () => {
  it("weighted follows the weights of what is free", () => {
    const given = [{ weight: 1 }, { weight: 2, free: false }, { weight: 3 }, { weight: 0 }, { weight: 4 }]
    assertShares(shares(Selection.weighted, snapshot(given)), [1 / 8, 0, 3 / 8, 0, 4 / 8])
  })

  it("weighted takes what has a weight when the generator draws its extremes", () => {
    const of = snapshot([{ weight: 0 }, { weight: 0.1 }, { weight: 0.2 }, { weight: 0 }])
    assert.strictEqual(pick(Selection.weighted, of, () => 0), 1)
    assert.strictEqual(pick(Selection.weighted, of, () => 1 - 2 ** -53), 2)
  })

  it("leastBusy decides between equal ones by chance and weight", () => {
    const given = [{ pending: 1 }, {}, { weight: 2 }, gone, {}, { weight: 0 }]
    assertShares(shares(Selection.leastBusy, snapshot(given)), [0, 1 / 4, 2 / 4, 0, 1 / 4, 0])
  })

  it("powerOfTwo takes the better one of every pair, never the worst (ou-p2c)", () => {
    const given = [1, 2, 3, 4].map((latencyMs) => ({ latencyMs }))
    assertShares(shares(Selection.powerOfTwo, snapshot(given)), [1 / 2, 1 / 3, 1 / 6, 0])
  })

  it("powerOfTwo draws among the few that are free", () => {
    const given = Array.from({ length: 400 }, (_, index) => ({ free: index % 100 === 99, latencyMs: 1 + index }))
    const drawn = shares(Selection.powerOfTwo, snapshot(given))
    assertShares([99, 199, 299, 399].map((index) => drawn[index] ?? 0), [1 / 2, 1 / 3, 1 / 6, 0])
  })

  it("powerOfTwo draws among targets of weight 0 when no other is free", () => {
    assertShares(shares(Selection.powerOfTwo, snapshot([{ weight: 0 }, gone, { weight: 0 }])), [0.5, 0, 0.5])
  })

  it("calls that come together are spread by every strategy that sees the attempts in flight", () => {
    const strategies = [Selection.leastBusy, Selection.powerOfTwo, Selection.score(), Selection.healthiest]
    for (const strategy of strategies) {
      const of = snapshot(Array.from({ length: 10 }, () => ({ latencyMs: 500 })))
      const random = seeded(3)
      for (let call = 0; call < 200; call++) {
        const index = pick(strategy, of, random)
        of.pending[index] = (of.pending[index] ?? 0) + 1
      }
      assert.isAtMost(Math.max(...of.pending), 25, strategy.name)
    }
  })
})

describe("affinity", () => {
  const sticky = Selection.sticky(Selection.healthiest)
  const sessions = Array.from({ length: 4000 }, (_, index) => `session-${index}`)
  const owners = (given: ReadonlyArray<Given>, strategy = sticky): ReadonlyArray<string | undefined> => {
    const of = snapshot(given)
    return sessions.map((affinity) => of.targets[pick(strategy, { ...of, affinity })]?.id)
  }
  const given: ReadonlyArray<Given> = Array.from(
    { length: 8 },
    (_, index) => ({ id: `t${index}`, weight: 1 + index % 3 })
  )

  it("affinities are spread over the targets by weight", () => {
    for (const weights of [[1, 9], [1, 1], [1, 2, 3, 1, 2, 3]]) {
      const total = weights.reduce((sum, weight) => sum + weight, 0)
      const owned = Map.groupBy(owners(weights.map((weight) => ({ weight }))), (id) => id)
      for (const [index, weight] of weights.entries()) {
        const count = owned.get(`t${index}`)?.length ?? 0
        assert.closeTo(count / sessions.length, weight / total, 0.02, `${weight} of ${total}`)
      }
    }
  })

  it("affinities that look alike are spread, too", () => {
    const of = snapshot(Array.from({ length: 100 }, (_, index) => ({ id: `openai/gpt-4o@key-${index}` })))
    const counts = of.targets.map(() => 0)
    for (let index = 0; index < 10_000; index++) {
      const chosen = pick(sticky, { ...of, affinity: String(index) })
      counts[chosen] = (counts[chosen] ?? 0) + 1
    }
    // Chi square with 99 degrees of freedom: 0.1 % of what chance makes is above 148.
    assert.isBelow(counts.reduce((sum, count) => sum + (count - 100) ** 2 / 100, 0), 148)
  })

  it("what is not free leaves its affinities to others, and moves no other", () => {
    const before = owners(given)
    const after = owners(given.map((one) => one.id === "t5" ? { ...one, free: false } : one))
    for (const [index, owner] of before.entries()) {
      if (owner === "t5") assert.notStrictEqual(after[index], "t5")
      else assert.strictEqual(after[index], owner)
    }
    assert.isAtLeast(new Set(after.filter((_, index) => before[index] === "t5")).size, 7)
  })

  it("without an affinity the inner strategy decides", () => {
    assert.strictEqual(pick(sticky, snapshot([{ health: 1 }, { health: 2 }])), 1)
  })

  it("weight 0 owns an affinity only when nothing else is free", () => {
    assert.deepStrictEqual(new Set(owners([{ weight: 0 }, { weight: 0.01 }])), new Set(["t1"]))
    assert.deepStrictEqual(new Set(owners([{ weight: 0 }, gone, { weight: 0 }])), new Set(["t0", "t2"]))
  })

  it("what is not healthy enough is left, and to the inner strategy when nothing is", () => {
    const strategy = Selection.sticky(Selection.healthiest, { minHealth: 50 })
    assert.deepStrictEqual(
      new Set(owners([{ health: 49 }, { health: 50 }, { health: 99 }], strategy)),
      new Set(["t1", "t2"])
    )
    assert.deepStrictEqual(new Set(owners([{ health: 48 }, { health: 49 }], strategy)), new Set(["t1"]))
    assert.deepStrictEqual(strategy.reads, ["health"])
    assert.deepStrictEqual(Selection.sticky(Selection.leastBusy).reads, [])
    assert.deepStrictEqual(Selection.sticky(Selection.leastBusy, { minHealth: 1 }).reads, ["health"])
  })

  it("score keeps an affinity where it is, unless another target is twice as good", () => {
    const names = ["t0", "t1", "t2"]
    const home = owners(names.map((id) => ({ id })), Selection.score())
    assert.deepStrictEqual(home, owners(names.map((id) => ({ id }))))
    const worse = (health: number) =>
      sessions.slice(0, 100).map((affinity, index) => {
        const of = snapshot(names.map((id) => ({ id, health: id === home[index] ? health : 100 })), { affinity })
        return of.targets[pick(Selection.score(), of)]?.id === home[index]
      })
    assert.isTrue(worse(51).every((stays) => stays))
    assert.isFalse(worse(49).some((stays) => stays))
  })

  it("decides within a tier, and only where the strategy allows it", () => {
    const tiered = given.map((one, index) => ({ ...one, order: index < 4 ? 0 : 1 }))
    const first = new Set(["t0", "t1", "t2", "t3"])
    assert.deepStrictEqual(new Set(owners(tiered, Selection.tiers(Selection.leastBusy))), first)
    assert.deepStrictEqual(new Set(owners(tiered, Selection.tiers(Selection.ordered))), new Set(["t0"]))
  })

  it("a hash is the same everywhere", () => {
    assert.deepStrictEqual(["", "a", "openai/gpt-4o@k1"].map(Selection.hash), [2872998923, 444641715, 4230080217])
  })
})

describe("tiers", () => {
  it("asks for the strategy of each order once", () => {
    const asked: Array<number> = []
    const strategy = Selection.tiers((order) => {
      asked.push(order)
      return order === 1 ? Selection.cheapest : Selection.ordered
    })
    const given = [gone, { order: 1, price: 2 }, { order: 1, price: 1 }]
    for (let time = 0; time < 3; time++) assert.strictEqual(pick(strategy, snapshot(given)), 2)
    assert.deepStrictEqual(asked, [0, 1])
    assert.deepStrictEqual(strategy.reads, ["health", "latency", "headroom"])
    assert.deepStrictEqual(Selection.tiers(Selection.healthiest).reads, ["health"])
  })

  it("stays within its range, which may cut a tier", () => {
    const of = snapshot([{}, { health: 50 }, { health: 60 }, { order: 1 }, { order: 1 }])
    const strategy = Selection.tiers(Selection.healthiest)
    assert.strictEqual(strategy.pick(of, 1, 5, seeded()), 2)
    assert.strictEqual(strategy.pick(of, 4, 5, seeded()), 4)
    assert.strictEqual(strategy.pick(of, 3, 3, seeded()), -1)
  })
})

describe("make", () => {
  it("takes the first free candidate for what is none", () => {
    for (const wrong of [-1, 0, 3, 9, 1.5, Number.NaN]) {
      const strategy = Selection.make({ name: "wrong", pick: () => wrong })
      assert.strictEqual(pick(strategy, snapshot([gone, {}, {}])), 1, String(wrong))
      assert.strictEqual(pick(strategy, snapshot([gone, gone])), -1, String(wrong))
    }
    assert.strictEqual(pick(Selection.make({ name: "last", pick: (_, __, to) => to - 1 }), snapshot([{}, {}])), 1)
  })

  it("reads everything and obeys no affinity unless it says otherwise", () => {
    const strategy = Selection.make({ name: "first", pick: (_, from) => from })
    assert.deepStrictEqual([strategy.name, strategy.reads, strategy.sticky], [
      "first",
      ["health", "latency", "headroom"],
      false
    ])
    const other = Selection.make({ name: "first", reads: ["health"], sticky: true, pick: (_, from) => from })
    assert.deepStrictEqual([other.reads, other.sticky], [["health"], true])
  })

  it("byScore sees each candidate as it is", () => {
    const seen: Array<Selection.Candidate> = []
    const strategy = Selection.byScore("look", (candidate) => {
      seen.push({ ...candidate })
      return 0
    })
    const [known, unknown] = candidates([
      { health: 50, latencyMs: 100, perTokenMs: 5, pending: 2, headroom: 0.5, price: 4 },
      {}
    ])
    pick(strategy, Selection.snapshot([known!, unknown!], { tokens: { input: 100, output: 25 } }))
    const [first, second] = seen
    assert.strictEqual(first?.target, known?.target)
    assert.deepInclude(first, {
      health: 50,
      latencyMs: 100,
      perTokenMs: 5,
      pending: 2,
      headroom: 0.5,
      expectedCost: 0.0005
    })
    assert.deepInclude(second, {
      health: 100,
      latencyMs: undefined,
      perTokenMs: undefined,
      pending: 0,
      headroom: 1,
      expectedCost: undefined
    })
  })
})

describe("constants", () => {
  const target = Target.make({ provider: "p", model: "m" })
  const cases: ReadonlyArray<readonly [field: string, make: () => unknown]> = [
    ["weights.health", () => Selection.score({ health: -1 })],
    ["weights.affinity", () => Selection.score({ affinity: Number.POSITIVE_INFINITY })],
    ["weights.cost", () => Selection.score({ cost: Number.NaN })],
    ["weights", () => Selection.score({ health: 0, headroom: 0, latency: 0, cost: 0, affinity: 0 })],
    ["minHealth", () => Selection.sticky(Selection.ordered, { minHealth: 101 })],
    ["name", () => Selection.make({ name: " ", pick: () => 0 })],
    ["health", () => Selection.snapshot([{ target, health: 101 }])],
    ["headroom", () => Selection.snapshot([{ target, headroom: -0.1 }])],
    ["latencyMs", () => Selection.snapshot([{ target, latencyMs: Number.NaN }])],
    ["pending", () => Selection.snapshot([{ target, pending: 2 ** 31 }])],
    ["tokens.output", () => Selection.snapshot([], { tokens: { input: 1, output: -1 } })],
    ["start", () => Selection.snapshot([], { start: -1 })]
  ]
  for (const [field, make] of cases) {
    it(`a wrong ${field} is named`, () => {
      assert.throws(make, RangeError, `${field} must`)
    })
  }

  it("what score leaves out it does not read", () => {
    assert.deepStrictEqual(Selection.score().reads, ["health", "latency", "headroom"])
    assert.deepStrictEqual(Selection.score({ health: 0, latency: 0 }).reads, ["headroom"])
    const of = snapshot([{ headroom: 0.1, pending: 1 }, { headroom: 0.3 }, { headroom: 0.2 }])
    for (const column of [of.health, of.latency]) column.fill(Number.NaN)
    assert.strictEqual(pick(Selection.score({ health: 0, latency: 0 }), of), 1)
  })

  it("a snapshot is sorted by order, and keeps what is equal in place", () => {
    const of = snapshot([{ order: 1, id: "c" }, { id: "a", health: 5 }, { order: 1, id: "d" }, { id: "b" }])
    assert.deepStrictEqual(of.targets.map(({ id }) => id), ["a", "b", "c", "d"])
    assert.deepStrictEqual(Array.from(of.health), [5, 100, 100, 100])
  })
})

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const Candidates = Schema.Array(Schema.Struct({
  free: Schema.Boolean,
  health: between(0, 100),
  latencyMs: between(0, 5),
  perTokenMs: between(0, 5),
  pending: between(0, 5),
  headroom: Schema.Literals([0, 0.25, 0.5, 1]),
  weight: between(0, 3),
  order: between(0, 3),
  price: between(0, 4)
})).check(Schema.isMaxLength(12))

const Weights = Schema.Struct({
  health: Schema.Literals([0, 0.25, 1, 2]),
  headroom: Schema.Literals([0, 0.5, 1.5]),
  latency: Schema.Literals([0, 0.3, 1, 3]),
  cost: Schema.Literals([0, 0.25, 2]),
  affinity: Schema.Literals([0.5, 1])
})

const Affinity = Schema.UndefinedOr(Schema.String)

// Price 4 stands for none.
const play = (
  given: ReadonlyArray<Given & { readonly price: number }>,
  options?: Selection.SnapshotOptions
): Selection.Snapshot => snapshot(given.map(({ price, ...rest }) => price === 4 ? rest : { ...rest, price }), options)

const strategies: ReadonlyArray<Selection.Strategy> = [
  Selection.ordered,
  Selection.healthiest,
  Selection.mostHeadroom,
  Selection.lowestLatency,
  Selection.lowestLatencyPerToken,
  Selection.cheapest,
  Selection.weighted,
  Selection.leastBusy,
  Selection.powerOfTwo,
  Selection.score(),
  Selection.score({ latency: 0, cost: 3 }),
  Selection.byScore("random", ({ health, pending }) => (health * 7919 + pending) % 13),
  Selection.make({ name: "reckless", pick: ({ health }) => health[0] ?? 0 })
]

const everyStrategy = [
  ...strategies,
  ...strategies.map((strategy) => Selection.tiers(strategy)),
  ...strategies.map((strategy) => Selection.sticky(strategy, { minHealth: 50 }))
]

describe("laws", () => {
  it.effect.prop(
    "every strategy returns a free index in its range, -1 if and only if there is none",
    [Candidates, Affinity, between(0, 13), between(0, 13), between(0, 13), between(1, 1000)],
    ([given, affinity, a, b, start, seed]) =>
      Effect.sync(() => {
        const of = play(given, { affinity, start })
        const from = Math.min(a, b, of.count)
        const to = Math.min(Math.max(a, b), of.count)
        const isFree = of.free.subarray(from, to).includes(1)
        for (const strategy of everyStrategy) {
          const index = strategy.pick(of, from, to, seeded(seed))
          if (!isFree) assert.strictEqual(index, -1, strategy.name)
          else {
            assert.isTrue(index >= from && index < to, `${strategy.name}: ${index} from ${from} to ${to}`)
            assert.strictEqual(of.free[index], 1, strategy.name)
          }
        }
      })
  )

  it.effect.prop("tiers take nothing as long as something of a lower order is free", [
    Candidates,
    Affinity,
    between(1, 1000)
  ], ([given, affinity, seed]) =>
    Effect.sync(() => {
      const of = play(given, { affinity })
      const lowest = Math.min(...of.targets.filter((_, index) => of.free[index] === 1).map(({ order }) => order))
      for (const strategy of strategies) {
        const index = pick(Selection.tiers(strategy), of, seeded(seed))
        if (index >= 0) assert.strictEqual(of.targets[index]?.order, lowest, strategy.name)
      }
    }))

  it.effect.prop(
    "powerOfTwo takes none that every other free one is better than",
    [Candidates, between(1, 1000)],
    ([given, seed]) =>
      Effect.sync(() => {
        const of = snapshot(
          given.map(({ free, latencyMs }, index) => ({ free, latencyMs: 10 * latencyMs + index + 1 }))
        )
        const free = Array.from(of.latency).filter((_, index) => of.free[index] === 1)
        const index = pick(Selection.powerOfTwo, of, seeded(seed))
        if (free.length > 1) assert.isBelow(of.latency[index] ?? Number.NaN, Math.max(...free))
      })
  )

  it.effect.prop(
    "an affinity moves only to a candidate that is new, or from one that is gone",
    [Arbitrary.array(Arbitrary.schema(between(0, 3)), { maxLength: 12 }), Schema.String, between(0, 11)],
    ([weights, affinity, removed]) =>
      Effect.sync(() => {
        const given = weights.map((weight, index) => ({ id: `t${index}`, weight: weight + 0.5 }))
        const owner = (given: ReadonlyArray<Given>) => {
          const of = snapshot(given, { affinity })
          return of.targets[pick(Selection.sticky(Selection.ordered), of)]?.id
        }
        const all = owner(given)
        const rest = owner(given.filter((_, index) => index !== removed))
        if (all !== `t${removed}`) assert.strictEqual(rest, all)
      })
  )

  it.effect.prop("score takes a candidate whose score no other one exceeds", [Candidates, Weights, Affinity], (
    [given, weights, affinity]
  ) =>
    Effect.sync(() => {
      const of = play(given, { affinity })
      const index = pick(Selection.score(weights), of)
      if (index < 0) return
      const own = scoreOf(of, weights, index)
      for (let other = 0; other < of.count; other++) {
        if (of.free[other] === 1) assert.isAtMost(scoreOf(of, weights, other), own * (1 + 1e-6), `${index} ${other}`)
      }
    }))
})

it("score passes over nothing that is better, however many there are", () => {
  const random = seeded(11)
  const below = (limit: number) => Math.floor(limit * random())
  for (let round = 0; round < 400; round++) {
    // Coarse figures make ties and zeros, fine ones near misses.
    const grain = 2 + below(40)
    const coarse = () => below(grain + 1) / grain
    const of = play(
      Array.from({ length: 1 + below(60) }, () => ({
        free: random() < 0.9,
        health: 100 * coarse(),
        latencyMs: 1000 * coarse(),
        perTokenMs: 0,
        pending: below(3),
        headroom: coarse(),
        weight: 1,
        order: 0,
        price: below(5)
      })),
      { affinity: round % 2 === 0 ? `session-${round}` : undefined }
    )
    const weights = { health: coarse(), headroom: coarse(), latency: 2 * coarse(), cost: coarse(), affinity: 0.5 }
    const index = pick(Selection.score(weights), of)
    const all = Array.from(of.free.keys()).filter((other) => of.free[other] === 1)
    const best = Math.max(...all.map((other) => scoreOf(of, weights, other)))
    if (index >= 0) assert.isAtLeast(scoreOf(of, weights, index), best * (1 - 1e-6), `round ${round}`)
  }
})

/** The score as the documentation describes it. */
const scoreOf = (
  of: Selection.Snapshot,
  weights: Readonly<Record<keyof typeof Weights.Type, number>>,
  index: number
): number => {
  const free = Array.from(of.free.keys()).filter((_) => of.free[_] === 1)
  const known = free.map((_) => of.latency[_] ?? 0).filter((millis) => millis > 0)
  const fastest = known.length === 0 ? 1 : Math.min(...known)
  const millis = of.latency[index] ?? 0
  const waiting = of.pending[index] ?? 0
  const load = millis > 0 ? millis * (waiting + 1) : waiting > 0 ? 30_000 + waiting : fastest
  const costAt = (_: number) => (of.priceInput[_] ?? 0) * of.tokens.input + (of.priceOutput[_] ?? 0) * of.tokens.output
  const costs = Array.from(of.free.keys(), costAt).filter((cost) => !Number.isNaN(cost))
  const dearest = Math.max(0, ...costs)
  const cost = dearest === 0
    ? 1
    : Number.isNaN(costAt(index))
    ? dearest
    : Math.max(costAt(index), dearest / 1000)
  const owner = of.affinity === undefined ? index : pick(Selection.sticky(Selection.ordered), of)
  return ((of.health[index] ?? 0) / 100 + 0.001) ** weights.health *
    ((of.headroom[index] ?? 0) + 0.001) ** weights.headroom *
    (weights.latency === 0 ? 1 : load ** -weights.latency) *
    cost ** -weights.cost *
    (owner === index ? 1 : 0.5) ** weights.affinity *
    // Between equal ones attempts in flight decide, as a factor that is close to 1.
    (weights.latency === 0 ? (waiting + 1) ** (-1e-4 * largest(weights)) : 1)
}

const largest = (weights: Readonly<Record<keyof typeof Weights.Type, number>>): number =>
  Math.max(...Object.values(weights))
