import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Learning from "../../../src/internal/limiter/learning.ts"
import { type Report, type Scenario, simulate } from "./simulation.ts"

const options: Learning.Options = { windowMs: 60_000, initial: 1200, floor: 1, ceiling: 1200 }
const unknown: Learning.Options = { ...options, ceiling: Number.POSITIVE_INFINITY }

const throttled = (sentAt: number, fields: { readonly retryAfterMs?: number; readonly random?: number } = {}) =>
  ({ _tag: "Throttled", sentAt, cost: 1, retryAfterMs: fields.retryAfterMs, random: fields.random ?? 0 }) as const

const after = (
  options: Learning.Options,
  state: Learning.State,
  events: ReadonlyArray<readonly [number, Learning.Event]>
): Learning.State =>
  events.reduce<Learning.State>((state, [now, event]) => Learning.step(options, state, event, now)[0], state)

/** Sends and serves a request every so often, from one time to another. */
const traffic = (
  options: Learning.Options,
  state: Learning.State,
  from: number,
  to: number,
  everyMs: number
): Learning.State => {
  for (let now = from; now < to; now += everyMs) {
    state = after(options, state, [[now, { _tag: "Admitted", cost: 1 }], [now, { _tag: "Succeeded", sentAt: now }]])
  }
  return state
}

const whole = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

describe("Learning.step", () => {
  it("forty refusals of one storm are one decrease", () => {
    let state = after(options, Learning.initial(options, -1000), [[0, throttled(-500)]])
    assert.strictEqual(state.limit, 840)
    for (let index = 1; index < 40; index++) state = after(options, state, [[index, throttled(-500 + index)]])
    assert.strictEqual(state.limit, 840)
    // Late answers to requests of before the decrease belong to the same round, however late.
    state = after(options, state, [[30_000, throttled(-1)]])
    assert.strictEqual(state.limit, 840)
    state = after(options, state, [[31_000, throttled(30_500)]])
    assert.strictEqual(state.limit, 588)
  })

  it("a cut voids what the bucket has saved up, a refusal of the same round does not", () => {
    const [state, first] = Learning.step(options, Learning.initial(options, 0), throttled(10), 100)
    assert.isTrue(first.drain)
    assert.isFalse(Learning.step(options, state, throttled(20), 110)[1].drain)
  })

  it("a storm without end stops at the floor", () => {
    let state = Learning.initial(options, 0)
    for (let now = 2000; now < 200_000; now += 2000) state = after(options, state, [[now, throttled(now - 100)]])
    assert.strictEqual(state.limit, 1)
  })

  it("an overload never leaves less than half of what was known, and the first answers lead back there in seconds", () => {
    const overloaded = (sentAt: number) => ({ ...throttled(sentAt), _tag: "Overloaded" }) as const
    let state = traffic(options, Learning.initial(options, 0), 0, 60_000, 50)
    for (let now = 60_000; now < 120_000; now += 2000) state = after(options, state, [[now, overloaded(now - 100)]])
    assert.strictEqual(state.limit, 600)
    assert.strictEqual(state.known, 1200)
    state = traffic(options, state, 120_000, 126_000, 60)
    assert.isAbove(state.limit, 1190)
  })

  it("a quota that is refused after an overload is learned as ever", () => {
    let state = after(options, Learning.initial(options, 0), [[2000, { ...throttled(1900), _tag: "Overloaded" }]])
    state = traffic(options, state, 3000, 33_000, 50)
    state = after(options, state, [[33_000, throttled(32_990)]])
    assert.isBelow(state.limit, 1000)
  })

  it("a limit that is not used does not grow, one that is used does, by 5 % in ten seconds", () => {
    const cut = after(options, Learning.initial(options, 0), [[1000, throttled(500)]])
    // 840 a minute are one in 71 ms.
    assert.strictEqual(traffic(options, cut, 2000, 60_000, 200).limit, 840)
    const used = traffic(options, cut, 2000, 21_000, 71)
    assert.closeTo(used.limit, 840 * 1.05, 840 * 0.006)
  })

  it("a refusal of what had used up the limit, before anything was measured, leads back to nearly all of it in seconds", () => {
    const edge = (sentAt: number) => ({ ...throttled(sentAt), atEdge: true }) as const
    const cut = after(options, Learning.initial(options, 0), [[1000, edge(500)]])
    assert.deepStrictEqual([cut.limit, cut.known], [840, 0.97 * 1200])
    const back = traffic(options, cut, 2000, 10_000, 100)
    assert.strictEqual(back.limit, 0.97 * 1200)
    // What has been measured says more: 600 a minute, of which the first minute gave what was saved up.
    const measured = traffic(options, Learning.initial(options, 0), 0, 180_000, 100)
    const told = after(options, measured, [[180_000, edge(179_990)]])
    assert.deepStrictEqual(told, after(options, measured, [[180_000, throttled(179_990)]]))
  })

  it("an unknown quota starts from the guess and grows by half in ten seconds while nothing refuses", () => {
    const guess: Learning.Options = { ...unknown, initial: 60 }
    const state = traffic(guess, Learning.initial(guess, 0), 0, 10_000, 800)
    assert.isAbove(state.limit, 80)
    assert.isAtMost(state.limit, 90)
  })

  it("a grown limit never exceeds twice what is sent", () => {
    assert.strictEqual(Learning.boundByMeasured(50, 3), 6)
    const guess: Learning.Options = { ...unknown, initial: 60 }
    const state = traffic(guess, Learning.initial(guess, 0), 0, 300_000, 1000)
    assert.isAtMost(state.limit, 2 * Learning.measured(guess, state, 300_000) + 1)
    assert.isAtMost(state.limit, 2 * 60)
  })

  it("what a header states sets a guess, lowers a limit and never raises what is configured", () => {
    const stated = (limit: number): Learning.Event => ({ _tag: "Stated", limit })
    const guess: Learning.Options = { ...unknown, initial: 60 }
    assert.strictEqual(after(guess, Learning.initial(guess, 0), [[1, stated(500)]]).limit, 500)
    assert.strictEqual(after(options, Learning.initial(options, 0), [[1, stated(500)]]).limit, 500)
    assert.strictEqual(after(options, Learning.initial(options, 0), [[1, stated(9000)]]).limit, 1200)
    assert.strictEqual(after(options, Learning.initial(options, 0), [[1, stated(500)], [2, stated(800)]]).limit, 800)
    // Others may share the quota: what refusals taught is not undone by the statement of the whole.
    const cut = after(guess, Learning.initial(guess, 0), [[1, stated(500)], [2000, throttled(1900)]])
    assert.strictEqual(after(guess, cut, [[2001, stated(501)]]).limit, 350)
    for (const nonsense of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.strictEqual(after(options, Learning.initial(options, 0), [[1, stated(nonsense)]]).limit, 1200)
    }
  })

  it("clients that were told the same wait wake within it and a tenth more, spread evenly (T25)", () => {
    const buckets = Array.from({ length: 10 }, () => 0)
    for (let client = 0; client < 1000; client++) {
      const [, { resumeAt }] = Learning.step(
        options,
        Learning.initial(options, 0),
        throttled(900, { retryAfterMs: 600_000, random: (client * 0.618_033_988_749) % 1 }),
        1000
      )
      assert.isAtLeast(resumeAt, 601_000)
      assert.isBelow(resumeAt, 611_000)
      const bucket = Math.floor((resumeAt - 601_000) / 1000)
      buckets[bucket] = (buckets[bucket] ?? 0) + 1
    }
    for (const count of buckets) assert.isBelow(count, 200)
    // A short wait is spread as well.
    assert.strictEqual(Learning.resumeAt(0, 10, 0.5), 60)
  })

  it("what was admitted between two refusals is the quota, refused requests not counted", () => {
    const known: Learning.State = {
      ...Learning.initial(unknown, 0),
      limit: 1050,
      known: 1000,
      decreasedAt: 0,
      units: 2000,
      requests: 2000
    }
    const refusedAt = (limit: number, cost: number, waitMs = 0) =>
      after(unknown, { ...known, limit, pausedMs: waitMs }, [[120_000, { ...throttled(119_000), cost }]]).known
    assert.strictEqual(refusedAt(1050, 0), 1000)
    assert.strictEqual(refusedAt(1050, 200), 900)
    // A wait is no time in which the provider could have admitted more.
    assert.strictEqual(refusedAt(1050, 200, 12_000), 1000)
    // Never below what is sent from now on, nor above what was refused.
    assert.strictEqual(refusedAt(1050, 1800), 735)
    assert.strictEqual(refusedAt(1050, 0, 60_000), 1050)
    // Refused without asking for more than was known: it was too much.
    assert.strictEqual(refusedAt(1000, 0), 970)
  })

  it("a later refusal with a shorter wait never shortens the wait", () => {
    const state = after(options, Learning.initial(options, 0), [
      [100, throttled(0, { retryAfterMs: 30_000 })],
      [200, throttled(0, { retryAfterMs: 1000 })]
    ])
    assert.strictEqual(state.resumeAt, 30_100)
  })

  it.prop(
    "whatever happens, the limit stays between the floor and the ceiling and is cut once a round at most",
    {
      configured: whole(1, 5000),
      events: Schema.Array(Schema.Tuple([whole(0, 4), whole(-20, 3000), whole(0, 4000), whole(1, 8000)]))
    },
    ({ configured, events }) => {
      const own: Learning.Options = { ...options, initial: configured, ceiling: configured }
      let state = Learning.initial(own, 0)
      let now = 0
      let cutAt = Number.NEGATIVE_INFINITY
      let stated = Number.POSITIVE_INFINITY
      for (const [kind, elapsed, age, size] of events) {
        now += elapsed
        const before = state.limit
        const event: Learning.Event = kind === 0
          ? { _tag: "Succeeded", sentAt: now - age }
          : kind === 1
          ? throttled(now - age, { retryAfterMs: size })
          : kind === 2
          ? { _tag: "Stated", limit: size }
          : { _tag: "Admitted", cost: 1 }
        const [next, decision] = Learning.step(own, state, event, now)
        if (kind === 2) stated = size
        assert.strictEqual(decision.limit, next.limit)
        assert.isTrue(next.limit >= 1 && next.limit <= Math.max(1, Math.min(configured, stated)))
        assert.isAtLeast(next.resumeAt, state.resumeAt)
        if (decision.drain) {
          assert.isTrue(now - age > cutAt && now - cutAt >= 1000)
          cutAt = now
        } else if (kind !== 2) {
          assert.isAtLeast(next.limit, before)
        }
        state = next
      }
    }
  )
})

describe("Learning in a closed loop", () => {
  const perSecond = (initial: number, ceiling = Number.POSITIVE_INFINITY): Learning.Options => ({
    windowMs: 60_000,
    initial: initial * 60,
    floor: 1,
    ceiling: ceiling * 60
  })
  const base = { seconds: 720, warmUpSeconds: 120, burst: 20, quota: () => 20 }
  const cases: ReadonlyArray<readonly [string, Scenario, { readonly goodput: number; readonly refused: number }]> = [
    ["20/s are found from a guess of 1/s", { ...base, options: perSecond(1) }, { goodput: 0.99, refused: 0.001 }],
    ["20/s are found from a guess of 100/s", { ...base, options: perSecond(100) }, { goodput: 0.99, refused: 0.001 }],
    [
      "20/s are found from a guess of 10 000/s",
      { ...base, options: perSecond(10_000) },
      { goodput: 0.98, refused: 0.001 }
    ],
    ["a quota configured twice as high", { ...base, options: perSecond(40, 40) }, { goodput: 0.99, refused: 0.001 }],
    [
      "a quota configured twice as high, whose bucket saves up a minute",
      { ...base, burst: 1200, options: perSecond(40, 40) },
      { goodput: 0.99, refused: 0.001 }
    ],
    [
      "a quota configured twice as high, where a refusal costs as much as a request",
      { ...base, refusalCost: 1, options: perSecond(40, 40) },
      { goodput: 0.98, refused: 0.0015 }
    ],
    [
      "a quota configured twice as high, whose refusals ask for a second",
      { ...base, retryAfterMs: 1000, options: perSecond(40, 40) },
      { goodput: 0.98, refused: 0.001 }
    ],
    [
      "a quota configured twice as high, whose refusals ask for five seconds",
      { ...base, retryAfterMs: 5000, options: perSecond(40, 40) },
      { goodput: 0.95, refused: 0.001 }
    ],
    [
      "a quota configured twice as high, whose bucket saves up next to nothing",
      { ...base, burst: 2, options: perSecond(40, 40) },
      { goodput: 0.96, refused: 0.001 }
    ],
    [
      "60 a minute configured as 120",
      { ...base, quota: () => 1, burst: 6, options: perSecond(2, 2) },
      { goodput: 0.98, refused: 0.01 }
    ],
    [
      "60 a minute configured as 120, where a refusal costs as much as a request",
      { ...base, quota: () => 1, burst: 6, refusalCost: 1, options: perSecond(2, 2) },
      { goodput: 0.97, refused: 0.01 }
    ],
    [
      "60 a minute configured as 120, with answers of 5 to 40 seconds",
      { ...base, quota: () => 1, burst: 6, answerMs: [5000, 40_000], options: perSecond(2, 2) },
      { goodput: 0.98, refused: 0.01 }
    ],
    [
      "6 a minute configured as 12",
      {
        ...base,
        seconds: 4200,
        warmUpSeconds: 600,
        quota: () => 0.1,
        burst: 2,
        answerMs: [2000, 10_000],
        options: perSecond(0.2, 0.2)
      },
      { goodput: 0.93, refused: 0.02 }
    ],
    [
      "150 000 tokens a minute configured as 300 000, with requests of 500 to 4000",
      {
        ...base,
        quota: () => 2500,
        burst: 25_000,
        cost: [500, 4000],
        options: { windowMs: 60_000, initial: 300_000, floor: 4000, ceiling: 300_000 }
      },
      { goodput: 0.97, refused: 0.02 }
    ],
    [
      "a quota configured rightly",
      { ...base, burst: 120, options: perSecond(20, 20) },
      { goodput: 0.999, refused: 0 }
    ],
    [
      "a quota that the headers state",
      { ...base, burst: 120, stated: 1200, options: perSecond(1) },
      { goodput: 0.999, refused: 0 }
    ],
    [
      "a quota that doubles is found within five minutes",
      { ...base, seconds: 900, warmUpSeconds: 600, quota: (s) => s < 300 ? 10 : 20, options: perSecond(1) },
      { goodput: 0.98, refused: 0.001 }
    ],
    [
      "a quota that is halved is found within a minute",
      { ...base, seconds: 900, warmUpSeconds: 360, quota: (s) => s < 300 ? 20 : 10, options: perSecond(20) },
      { goodput: 0.97, refused: 0.003 }
    ]
  ]
  for (const [rule, scenario, expected] of cases) {
    it(`${rule}: goodput >= ${expected.goodput * 100} %, refused <= ${expected.refused * 100} %`, () => {
      for (const seed of [1, 2, 3]) {
        const report = simulate(scenario, seed)
        assert.isAtLeast(report.goodput, expected.goodput)
        assert.isAtMost(report.refused, expected.refused)
      }
    })
  }

  it("the rate stays within half of 20/s after the warm-up", () => {
    const settled = (report: Report) => report.limits.slice(12)
    for (const limit of settled(simulate({ ...base, options: perSecond(100) }))) {
      assert.isAbove(limit, 10)
      assert.isBelow(limit, 30)
    }
  })

  it("an application that sends little learns no limit that it never tried", () => {
    const report = simulate({ ...base, offered: 5, options: perSecond(1) })
    assert.isAbove(report.limits.at(-1) ?? 0, 5)
    assert.isBelow(report.limits.at(-1) ?? 0, 10.5)
    assert.strictEqual(report.refused, 0)
  })
})

describe("Learning.concurrency", () => {
  const netflix: Learning.ConcurrencyOptions = {
    min: 20,
    max: 200,
    backoffRatio: 0.9,
    increase: "success",
    cooldownMs: 0,
    timeoutMs: 5000
  }
  const rows: ReadonlyArray<readonly [string, number, number, number, boolean, number]> = [
    ["grows when at least half of it is in use", 20, 1, 10, false, 21],
    ["does not grow when less is in use", 30, 1, 14, false, 30],
    ["shrinks by its ratio when a request is dropped", 30, 0, 0, true, 27],
    ["shrinks when an answer took too long", 100, 5001, 90, false, 90],
    ["never shrinks below its least", 21, 0, 0, true, 20],
    ["never grows beyond its most", 200, 1, 150, false, 200]
  ]
  for (const [rule, limit, rttMs, inflight, dropped, expected] of rows) {
    it(`a limit of requests in flight ${rule}`, () =>
      assert.strictEqual(
        Learning.concurrency(
          netflix,
          Learning.concurrencyInitial(limit),
          { sentAt: 0, inflight, dropped },
          rttMs
        ).limit,
        expected
      ))
  }

  it("a storm is one decrease, and by default a round of successes adds one", () => {
    const { concurrency, concurrencyDefaults: defaults, concurrencyInitial } = Learning
    let state = concurrencyInitial(40)
    const limits = [[0, -500], [1, -499], [2, -498], [1500, 1200]].map(([now = 0, sentAt = 0]) => {
      state = concurrency(defaults, state, { sentAt, inflight: 40, dropped: true }, now)
      return state.limit
    })
    assert.deepStrictEqual(limits, [28, 28, 28, 19])
    for (let index = 0; index < 19; index++) {
      state = concurrency(defaults, state, { sentAt: 2000, inflight: 19, dropped: false }, 3000)
    }
    assert.closeTo(state.limit, 20, 0.05)
    // Answers of models take as long as they are: a slow one is no refusal.
    const slow = concurrency(defaults, state, { sentAt: 3000, inflight: 19, dropped: false }, 600_000)
    assert.isAbove(slow.limit, state.limit)
  })

  it("the most that requests in flight justify is a multiple that shrinks with their magnitude", () => {
    const factors = { factor: 5, minFactor: 1.2, decay: 1 }
    assert.closeTo(Learning.maxLimit(1, factors), 5, 1e-9)
    assert.closeTo(Learning.maxLimit(10, factors), 40, 1e-9)
    assert.closeTo(Learning.maxLimit(100, factors), 300, 1e-9)
    assert.closeTo(Learning.maxLimit(1_000_000, factors), 1_200_000, 1e-3)
    assert.closeTo(Learning.maxLimit(200, { ...factors, decay: 0 }), 1000, 1e-9)
  })
})

describe("Learning.throttleProbability", () => {
  const rows: ReadonlyArray<
    readonly [number, number, Parameters<typeof Learning.throttleProbability>[2], number]
  > = [
    [100, 90, { multiplier: 1 / 0.9 }, 0],
    [120, 90, { multiplier: 1 / 0.9 }, 20 / 121],
    [200, 50, { multiplier: 1 / 0.9 }, 0.718_629_076_838],
    [1000, 10, { multiplier: 1 / 0.9, maxProbability: 0.8 }, 0.8],
    [1, 0, { multiplier: 1 / 0.9 }, 0.5],
    [9, 0, { multiplier: 2, minRequests: 10 }, 0],
    [100, 50, { multiplier: 2 }, 0],
    [100, 40, { multiplier: 2 }, 20 / 101],
    [200, 60, { multiplier: 1.1 }, 2 / 3]
  ]
  for (const [requests, accepts, given, expected] of rows) {
    it(`${accepts} of ${requests} served, ${JSON.stringify(given)}: ${expected.toFixed(3)}`, () =>
      assert.closeTo(Learning.throttleProbability(requests, accepts, given), expected, 1e-9))
  }

  it.prop(
    "is a probability below 1, and more served requests never raise it",
    { requests: whole(0, 10_000), accepts: whole(0, 10_000) },
    ({ accepts, requests }) => {
      const probability = Learning.throttleProbability(requests, accepts, { multiplier: 2 })
      assert.isTrue(probability >= 0 && probability <= 0.9)
      assert.isAtMost(Learning.throttleProbability(requests, accepts + 1, { multiplier: 2 }), probability)
    }
  )
})

describe("Learning.queueRejection", () => {
  it("rises from 0 at the threshold to 1 in a full queue", () => {
    const rows = [
      [50, 60, 100, 0],
      [60, 60, 100, 0],
      [80, 60, 100, 0.5],
      [100, 60, 100, 1],
      [120, 60, 100, 1],
      [
        11,
        10,
        20,
        0.1
      ],
      [2, 3, 3, 0],
      [3, 3, 3, 1]
    ]
    for (const [queued = 0, threshold = 0, maxQueue = 0, expected] of rows) {
      assert.strictEqual(Learning.queueRejection(queued, threshold, maxQueue), expected)
    }
  })
})
