import { assert, describe, it } from "@effect/vitest"
import * as Product from "../../../src/internal/selection/product.ts"

interface Given {
  readonly free?: boolean
  readonly health?: number
  readonly latency?: number
  readonly pending?: number
  readonly headroom?: number
  readonly price?: readonly [input: number, output: number]
}

const candidatesOf = (
  given: ReadonlyArray<Given>,
  tokens: Product.Candidates["tokens"] = { input: 1, output: 1 }
): Product.Candidates => {
  const column = (of: (each: Given) => number): Float64Array => Float64Array.from(given, of)
  return {
    free: Uint8Array.from(given, ({ free }) => free === false ? 0 : 1),
    health: column(({ health }) => health ?? 100),
    latency: column(({ latency }) => latency ?? 0),
    pending: Int32Array.from(given, ({ pending }) => pending ?? 0),
    headroom: column(({ headroom }) => headroom ?? 1),
    priceInput: column(({ price }) => price?.[0] ?? Number.NaN),
    priceOutput: column(({ price }) => price?.[1] ?? Number.NaN),
    tokens
  }
}

const weights = (some: Partial<Product.Weights>): Product.Weights => ({
  health: 0,
  headroom: 0,
  latency: 0,
  cost: 0,
  ...some
})

const best = (
  given: ReadonlyArray<Given>,
  some: Partial<Product.Weights>,
  tokens?: Product.Candidates["tokens"]
): number => Product.highest(candidatesOf(given, tokens), 0, given.length, weights(some), -1, 1)

describe("the highest product", () => {
  const table: ReadonlyArray<
    readonly [rule: string, given: ReadonlyArray<Given>, weights: Partial<Product.Weights>, expected: number]
  > = [
    ["is the first one's of equals", [{}, {}, {}], { health: 1, headroom: 1, latency: 1, cost: 1 }, 0],
    ["takes all that is left into account", [{ headroom: 0.999 }, { headroom: 1 }], { headroom: 1 }, 1],
    [
      "takes the better one of what costs the same, however much that is",
      [{ price: [900, 900], headroom: 0.5 }, { price: [900, 900] }],
      { headroom: 1, cost: 0.5 },
      1
    ],
    ["is of none where none is free", [{ free: false }, { free: false }], { health: 1 }, -1],
    // 1.001 / 0.001 is 1001.
    ["takes health in hundredths, and a thousandth more", [{ health: 0, latency: 1 }, { latency: 996 }], {
      health: 1,
      latency: 1
    }, 1],
    ["takes health in hundredths, and no more than a thousandth more", [{ health: 0, latency: 1 }, { latency: 1006 }], {
      health: 1,
      latency: 1
    }, 0],
    ["goes by times below a millisecond too", [{ latency: 0.01 }, { latency: 0.001 }], { latency: 1 }, 1],
    ["takes a time for each that is ahead", [{ latency: 100, pending: 2 }, { latency: 290 }], { latency: 1 }, 1],
    [
      "takes 30 seconds and a bit for what nobody knows and is in use",
      [
        { latency: 15_000.75, pending: 1 },
        { pending: 1 }
      ],
      { latency: 1 },
      1
    ],
    [
      "takes the shortest time for what nobody knows and is idle",
      [
        { latency: 100, health: 99.9 },
        { latency: 200 },
        {}
      ],
      { latency: 1, health: 1 },
      2
    ],
    [
      "takes no shorter time for it, whoever is not free has answered in one",
      [
        { latency: 100 },
        { health: 99.9 },
        { latency: 1, free: false }
      ],
      { latency: 1, health: 1 },
      0
    ],
    ["prefers what is idle where nobody has answered yet", [{ pending: 1 }, {}], { latency: 1 }, 1],
    // The first has a load of 30 001, and 20 times as much of the rest.
    [
      "takes a millisecond for what is idle where nobody has answered yet",
      [
        { pending: 1 },
        { health: 0, headroom: 0.049_05 }
      ],
      { health: 1, headroom: 1, latency: 1 },
      1
    ],
    // 2 ** 1e-4 is 1.000069.
    ["without a weight of time goes a little by what is in flight", [{ health: 50.0025, pending: 1 }, { health: 50 }], {
      health: 1
    }, 1],
    [
      "without a weight of time goes no more than a little by what is in flight",
      [
        { health: 50.005, pending: 1 },
        { health: 50 }
      ],
      { health: 1 },
      0
    ],
    ["takes what has no price for the dearest", [{}, { price: [3, 3] }, { price: [4, 4] }], { cost: 1 }, 1],
    ["has half a price for none", [{ price: [1, Number.NaN] }, { price: [2, 2] }, { price: [3, 3] }], { cost: 1 }, 1],
    ["has half a price for none, whichever half", [{ price: [Number.NaN, 1] }, { price: [2, 2] }, { price: [3, 3] }], {
      cost: 1
    }, 1],
    [
      "takes what costs nothing for a thousandth of the dearest",
      [
        { price: [0, 0], health: 0 },
        { price: [500, 500], health: 100 }
      ],
      { cost: 1, health: 1 },
      1
    ],
    [
      "takes what costs nothing for no more than a thousandth of the dearest",
      [
        { price: [0, 0], health: 0.01 },
        { price: [500, 500], health: 100 }
      ],
      { cost: 1, health: 1 },
      0
    ],
    ["goes on without prices where nothing costs anything", [{ price: [0, 0], health: 50 }, { price: [0, 0] }], {
      cost: 1,
      health: 1
    }, 1]
  ]
  for (const [rule, given, some, expected] of table) {
    it(rule, () => {
      assert.strictEqual(best(given, some), expected)
    })
  }

  it("goes by what the tokens of a call cost, of one kind or of both", () => {
    const given = [{ price: [1, 9] }, { price: [6, 2] }] as const
    assert.strictEqual(best(given, { cost: 1 }, { input: 100, output: 0 }), 0)
    assert.strictEqual(best(given, { cost: 1 }, { input: 0, output: 100 }), 1)
    assert.strictEqual(best(given, { cost: 1 }, { input: 100, output: 100 }), 1)
    assert.strictEqual(best(given, { cost: 1 }, { input: 200, output: 100 }), 0)
  })

  it("goes by those within its bounds alone", () => {
    const candidates = candidatesOf([{ latency: 1 }, { latency: 100 }, { health: 99.99 }, { latency: 1 }])
    const highest = (from: number, to: number): number =>
      Product.highest(candidates, from, to, weights({ latency: 1, health: 1 }), -1, 1)
    assert.deepStrictEqual([highest(0, 4), highest(1, 4), highest(1, 3), highest(2, 3), highest(2, 2)], [
      0,
      3,
      1,
      2,
      -1
    ])
  })

  it("has a favourite count for more, and no further than that", () => {
    const highest = (first: number, second: number): number =>
      Product.highest(candidatesOf([{ latency: first }, { latency: second }]), 0, 2, weights({ latency: 1 }), 1, 2)
    assert.deepStrictEqual([highest(100, 199), highest(100, 201), highest(100, 50)], [1, 0, 1])
    const three = candidatesOf([{ latency: 100 }, { latency: 190 }, { latency: 60 }])
    assert.strictEqual(Product.highest(three, 0, 3, weights({ latency: 1 }), 1, 2), 2)
    const four = candidatesOf([{ latency: 100 }, { latency: 190 }, { latency: 60 }, { latency: 50 }])
    assert.strictEqual(Product.highest(four, 0, 4, weights({ latency: 1 }), 1, 2), 3)
  })
})

it("is that of the formula, whatever the figures and the weights", () => {
  let seed = 9
  const random = (): number => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648
  const below = (limit: number): number => Math.floor(limit * random())
  const pick = <A>(...values: ReadonlyArray<A>): A | undefined => values[below(values.length)]
  for (let round = 0; round < 300; round++) {
    const given = Array.from({ length: 1 + below(12) }, (): Given => ({
      free: random() < 0.8,
      health: pick(0, 100, 100 * random()) ?? 0,
      latency: pick(0, random(), 1000 * random()) ?? 0,
      pending: below(3),
      headroom: pick(0, 1, random()) ?? 0,
      ...(random() < 0.3 ? undefined : { price: [below(5) * random(), below(5) * random()] as const })
    }))
    const some = weights({
      health: pick(0, 0.25, 0.5, 1, random()) ?? 0,
      headroom: pick(0, 0.25, 0.5, 1, random()) ?? 0,
      latency: pick(0, 0.25, 0.5, 1, random()) ?? 0,
      cost: pick(0, 0.25, 0.5, 1, random()) ?? 0
    })
    const tokens = { input: pick(0, 1, 3000) ?? 0, output: pick(0, 1, 500) ?? 0 }
    const free = given.filter((each) => each.free === true)
    const known = free.flatMap(({ latency = 0 }) => latency > 0 ? [latency] : [])
    const quickest = known.length === 0 ? 1 : Math.min(...known)
    const costOf = ({ price }: Given): number =>
      price === undefined ? Number.NaN : price[0] * tokens.input + price[1] * tokens.output
    const prices = given.flatMap(({ price }) => price === undefined ? [] : [price])
    const dearest = prices.length === 0
      ? 0
      : Math.max(...prices.map(([input]) => input)) * tokens.input +
        Math.max(...prices.map(([, output]) => output)) * tokens.output
    const score = (each: Given): number => {
      const { headroom = 1, health = 100, latency = 0, pending = 0 } = each
      const time = latency > 0 ? latency * (pending + 1) : pending > 0 ? 30_000 + pending : quickest
      const cost = costOf(each)
      return (health / 100 + 0.001) ** some.health * (headroom + 0.001) ** some.headroom /
        (some.latency === 0 ? (pending + 1) ** 1e-4 : time ** some.latency) /
        (dearest === 0 ? 1 : (Number.isNaN(cost) ? dearest : Math.max(cost, dearest / 1000)) ** some.cost)
    }
    const index = Product.highest(candidatesOf(given, tokens), 0, given.length, some, -1, 1)
    const chosen = given[index]
    if (chosen === undefined) assert.strictEqual(free.length, 0)
    else {
      assert.isTrue(chosen.free)
      assert.isAtLeast(score(chosen), Math.max(...free.map(score)) * (1 - 1e-8), `round ${round}`)
    }
  }
})
