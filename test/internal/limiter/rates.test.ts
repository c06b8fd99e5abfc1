import { assert, describe, it } from "@effect/vitest"
import * as Learning from "../../../src/internal/limiter/learning.ts"

// Ten a second: one each 100 ms.
const options: Learning.Options = {
  windowMs: 60_000,
  initial: 600,
  floor: 6,
  ceiling: Number.POSITIVE_INFINITY
}

const never = Number.NEGATIVE_INFINITY

/** A state at 100 s that sends more than its limit. */
const busy = (changes: Partial<Learning.State> = {}): Learning.State => ({
  ...Learning.initial(options, 0),
  grownAt: 100_000,
  countedAt: 100_000,
  recent: 1e6,
  ...changes
})

const step = (state: Learning.State, event: Learning.Event, now: number, own = options): Learning.State =>
  Learning.step(own, state, event, now)[0]

const succeeded = (sentAt: number): Learning.Event => ({ _tag: "Succeeded", sentAt })

type Refusal = Extract<Learning.Event, { readonly random: number }>

const refused = (changes: Partial<Refusal> = {}): Refusal => ({
  _tag: "Throttled",
  sentAt: 199_000,
  cost: 1,
  retryAfterMs: undefined,
  random: 0,
  ...changes
})

it("begins with the limit that is configured and nothing known", () => {
  assert.deepStrictEqual(Learning.initial(options, 5000), {
    limit: 600,
    stated: Number.POSITIVE_INFINITY,
    known: 0,
    refused: 0,
    startedAt: 5000,
    decreasedAt: never,
    grownAt: 5000,
    resumeAt: 5000,
    holdMs: 10_000,
    heldUntil: 5000,
    units: 0,
    requests: 0,
    pausedMs: 0,
    recent: 0,
    countedAt: 5000
  })
  assert.strictEqual(Learning.initial({ ...options, ceiling: 40 }, 0).limit, 40)
  assert.strictEqual(Learning.initial({ ...options, initial: 2 }, 0).limit, 6)
})

describe("what is sent", () => {
  it("is forgotten with a sixth of the window, ten seconds at least and a minute at most", () => {
    for (
      const [windowMs, memoryMs] of [[1000, 10_000], [60_000, 10_000], [120_000, 20_000], [3_600_000, 60_000]] as const
    ) {
      const own = { ...options, windowMs }
      const state = Learning.initial(own, 0)
      Learning.admit(own, state, 5, 0)
      Learning.admit(own, state, 7, 4000)
      const recent = 5 * Math.exp(-4000 / memoryMs) + 7
      assert.deepInclude(state, { units: 12, requests: 2, countedAt: 4000 })
      assert.closeTo(state.recent, recent, 1e-9)
      const share = 1 - Math.exp(-9000 / memoryMs)
      const measured = recent * Math.exp(-5000 / memoryMs) / (memoryMs * share) * windowMs
      assert.closeTo(Learning.measured(own, state, 9000), measured, 1e-6)
    }
  })

  it("is not taken for a flood in the first second, nor with a clock that goes back", () => {
    const state = Learning.initial(options, 50_000)
    Learning.admit(options, state, 5, 50_000)
    const first = 5 / (10_000 * (1 - Math.exp(-0.1))) * 60_000
    assert.closeTo(Learning.measured(options, state, 50_000), first, 1e-6)
    assert.closeTo(Learning.measured(options, state, 50_999), first * Math.exp(-0.0999), 1e-6)
    assert.closeTo(Learning.measured(options, state, 40_000), first, 1e-6)
    Learning.admit(options, state, 1, 40_000)
    assert.deepInclude(state, { recent: 6, countedAt: 50_000 })
    const quick = Learning.initial(options, 0)
    for (const now of [0, 1]) Learning.admit(options, quick, 5, now)
    assert.closeTo(quick.recent, 5 + 5 * Math.exp(-1e-4), 1e-9)
    assert.strictEqual(step(state, { _tag: "Admitted", cost: 2 }, 50_000).recent, 8)
    assert.strictEqual(state.recent, 6)
  })

  it("lets a limit stay when it is clearly less than three quarters of it", () => {
    // Ten seconds of memory and ten of age make twelve times what is recent of it.
    for (
      const [startedAt, recent, stays] of [
        [90_000, 37.4, true],
        [90_000, 37.5, false],
        [99_500, 6.81, true],
        [99_500, 6.82, false]
      ] as const
    ) {
      const state = busy({ startedAt, recent, grownAt: 5 })
      assert.strictEqual(Learning.stay(options, state, 100_000), stays, `${startedAt} ${recent}`)
      assert.strictEqual(state.grownAt, stays ? 100_000 : 5)
      if (stays) assert.deepInclude(step(state, succeeded(100_000), 100_000), { limit: 600, grownAt: 100_000 })
    }
    assert.isFalse(Learning.stay(options, busy({ recent: 0, limit: 400, known: 500 }), 100_000))
    assert.isTrue(Learning.stay(options, busy({ recent: 0, limit: 500, known: 500 }), 100_000))
  })
})

describe("a limit below what is known", () => {
  const cut = busy({ limit: 300, known: 600, recent: 0, resumeAt: 0 })

  const table: ReadonlyArray<
    readonly [rule: string, state: Learning.State, now: number, limit: number, own?: Partial<Learning.Options>]
  > = [
    ["returns within seconds, however little is sent", cut, 100_500, 600 - 300 * Math.exp(-0.5)],
    ["returns by no more than a second at a time", cut, 109_000, 600 - 300 / Math.E],
    ["returns no sooner than sending is resumed", { ...cut, resumeAt: 100_300 }, 100_500, 600 - 300 * Math.exp(-0.2)],
    ["does not return before that", { ...cut, resumeAt: 100_500 }, 100_500, 300],
    ["does not return while the clock goes back", cut, 90_000, 300],
    ["takes two requests' time where they are rare", { ...cut, limit: 6, known: 12 }, 110_000, 12 - 6 * Math.exp(-0.5)],
    [
      "takes two requests' time where they are large",
      { ...cut, units: 40, requests: 4 },
      100_500,
      600 - 300 * Math.exp(-0.125)
    ],
    ["counts a small request for one", { ...cut, units: 2, requests: 4 }, 100_500, 600 - 300 * Math.exp(-0.5)],
    [
      "counts a small request for one where they are rare",
      { ...cut, limit: 6, known: 12, units: 2, requests: 4 },
      110_000,
      12 - 6 * Math.exp(-0.5)
    ],
    [
      "counts a larger request for what it is where they are rare",
      { ...cut, limit: 6, known: 12, units: 6, requests: 4 },
      115_000,
      12 - 6 * Math.exp(-0.5)
    ],
    ["is there when next to nothing is missing", { ...cut, limit: 596 }, 100_500, 600],
    ["is not there when more is missing", { ...cut, limit: 594 }, 100_100, 600 - 6 * Math.exp(-0.1)],
    ["stops at what is stated", { ...cut, stated: 400 }, 100_500, 400],
    ["stops at what is configured", cut, 100_500, 400, { ceiling: 400 }],
    ["does not fall to it", { ...cut, stated: 200 }, 100_500, 300]
  ]
  for (const [rule, state, now, limit, own] of table) {
    it(rule, () => {
      const after = step(state, succeeded(0), now, { ...options, ...own })
      assert.closeTo(after.limit, limit, 1e-9)
      assert.strictEqual(after.grownAt, now)
    })
  }
})

describe("a limit that is in use", () => {
  const table: ReadonlyArray<
    readonly [rule: string, state: Learning.State, now: number, limit: number, own?: Partial<Learning.Options>]
  > = [
    ["grows by half in ten seconds while nothing is known", busy(), 105_000, 600 * 1.5 ** 0.5],
    ["grows by a twentieth once something is", busy({ known: 600, refused: 9999 }), 105_000, 600 * 1.05 ** 0.5],
    ["grows by ten seconds' worth at a time", busy(), 190_000, 900],
    ["takes five requests' time where they are rare", busy({ limit: 6 }), 125_000, 6 * 1.5 ** 0.5],
    ["takes five requests' time where they are large", busy({ units: 900, requests: 1 }), 145_000, 600 * 1.5 ** 0.1],
    ["stays while it is held", busy({ heldUntil: 105_001 }), 105_000, 600],
    ["grows from the end of that", busy({ heldUntil: 102_000 }), 105_000, 600 * 1.5 ** 0.3],
    ["grows from where sending is resumed", busy({ resumeAt: 103_000 }), 105_000, 600 * 1.5 ** 0.2],
    ["does not shrink before that", busy({ resumeAt: 107_000 }), 105_000, 600],
    ["stays at answers to what was sent before the last refusal", busy({ decreasedAt: 104_000 }), 105_000, 600],
    ["stays at answers to what was sent with it", busy({ decreasedAt: 103_000 }), 105_000, 600],
    ["grows at answers to what was sent after it", busy({ decreasedAt: 102_999 }), 105_000, 600 * 1.5 ** 0.5],
    ["grows no further than what is configured", busy(), 105_000, 610, { ceiling: 610 }],
    ["grows no further than what is stated", busy({ stated: 620 }), 105_000, 620],
    ["does not fall to either", busy({ stated: 500 }), 105_000, 600, { ceiling: 400 }]
  ]
  for (const [rule, state, now, limit, own] of table) {
    it(rule, () => {
      const after = step(state, succeeded(103_000), now, { ...options, ...own })
      assert.closeTo(after.limit, limit, 1e-9)
      assert.strictEqual(after.grownAt, now)
    })
  }

  it("that is a tenth above what was refused knows nothing any more", () => {
    const grown = (limit: number) =>
      step(busy({ limit, grownAt: 105_000, known: 500, refused: 500, holdMs: 77 }), succeeded(105_000), 105_000)
    assert.deepInclude(grown(550), { limit: 550, known: 500, holdMs: 77 })
    const growing = step(busy({ limit: 540, known: 500, refused: 500, holdMs: 77 }), succeeded(105_000), 105_000)
    assert.deepInclude(growing, { known: 0, holdMs: 10_000, grownAt: 105_000 })
    assert.closeTo(growing.limit, 540 * 1.05 ** 0.5, 1e-9)
    assert.deepInclude(grown(551), { limit: 551, known: 0, holdMs: 10_000, grownAt: 105_000 })
    assert.deepInclude(step(busy({ limit: 551, known: 0, holdMs: 77 }), succeeded(105_000), 105_000), { holdMs: 77 })
    assert.deepInclude(step(busy({ limit: 5, known: 1, refused: 1, holdMs: 77 }), succeeded(105_000), 105_000), {
      known: 0
    })
  })
})

describe("a refusal", () => {
  const now = 200_000
  /** Has sent a thousand in a hundred seconds, which is the limit it has. */
  const steady = busy({ units: 1001, requests: 501, decreasedAt: 100_000, known: 600, refused: 600, grownAt: 5 })

  it("cuts the limit by three tenths, forgets what was counted and says when to resume", () => {
    const [state, decision] = Learning.step(options, steady, refused({ retryAfterMs: 4000, random: 0.5 }), now)
    assert.deepInclude(state, {
      limit: 420,
      refused: 600,
      decreasedAt: now,
      grownAt: now,
      resumeAt: now + 4200,
      pausedMs: 4200,
      units: 0,
      requests: 0
    })
    assert.deepStrictEqual(decision, { limit: 420, resumeAt: now + 4200, drain: true })
    assert.strictEqual(step(busy({ limit: 7 }), refused(), now).limit, 6)
    assert.strictEqual(step(busy({ limit: 0.5 }), refused(), now, { ...options, floor: 0.4 }).limit, 0.4)
    assert.deepInclude(step(busy(), refused(), now), { resumeAt: now, pausedMs: 0 })
  })

  it("resumes a tenth later at most, a tenth of a second at least and ten seconds at most", () => {
    for (const [wait, random, at] of [[10, 1, 110], [4000, 0, 4000], [4000, 1, 4400], [600_000, 1, 610_000]] as const) {
      assert.closeTo(Learning.resumeAt(0, wait, random), at, 1e-9)
    }
  })

  it("of what was sent before the last one counts for its wait alone", () => {
    for (const sentAt of [99_000, 100_000]) {
      const [state, decision] = Learning.step(options, steady, refused({ sentAt, retryAfterMs: 3000 }), now)
      assert.deepStrictEqual(state, { ...steady, resumeAt: now + 3000, pausedMs: 3000 })
      assert.isFalse(decision.drain)
    }
  })

  it("within a second of the last one counts as not served, and for its wait", () => {
    const state = busy({ units: 20, requests: 4, decreasedAt: now - 999, resumeAt: now + 500, pausedMs: 500 })
    const event = refused({ sentAt: now - 10, cost: 5, retryAfterMs: 2000 })
    assert.deepStrictEqual(step(state, event, now), {
      ...state,
      units: 15,
      requests: 3,
      resumeAt: now + 2000,
      pausedMs: 2000
    })
    assert.deepInclude(step({ ...state, units: 3, requests: 0 }, event, now), { units: 0, requests: 0 })
    const shorter = step(state, { ...event, retryAfterMs: 100 }, now)
    assert.deepInclude(shorter, { resumeAt: now + 500, pausedMs: 500 })
    assert.isBelow(step({ ...state, decreasedAt: now - 1000 }, event, now).limit, 600)
  })

  const truths: ReadonlyArray<readonly [rule: string, changes: Partial<Learning.State>, known: number, cost?: number]> =
    [
      ["measures what was admitted since the last one", { units: 951, known: 0 }, 570],
      ["does not count what it refuses", { units: 1000, known: 0 }, 570, 50],
      ["does not count the time of waits", { units: 901, known: 0, pausedMs: 10_000 }, 600],
      ["counts the time of a wait that is over early", {
        units: 901,
        known: 0,
        pausedMs: 10_000,
        resumeAt: now + 10_000
      }, 540],
      ["measures nothing in less than five seconds", { units: 50, decreasedAt: now - 4999, known: 0 }, 420],
      ["measures in five seconds", { units: 46, decreasedAt: now - 5000, known: 0 }, 540],
      ["measures nothing by fewer than four", { units: 951, requests: 4, known: 0 }, 420],
      ["measures by four", { units: 951, requests: 5, known: 0 }, 570],
      ["knows no less than what is sent from now on", { units: 101, known: 0 }, 420],
      ["knows no more than what was refused", { units: 2001, known: 0 }, 600],
      ["takes what alone was refused for a bit too much", { units: 1001, known: 600 }, 582],
      ["takes what alone was refused for a bit too much, whatever was measured", { units: 1001, known: 700 }, 600],
      ["measures what was asked for beyond what was known", { units: 951, known: 500 }, 570]
    ]
  for (const [rule, changes, known, cost] of truths) {
    it(rule, () => {
      assert.closeTo(step({ ...steady, ...changes }, refused({ cost: cost ?? 1 }), now).known, known, 1e-9)
    })
  }

  it("that is the first measures from the start on, less what the provider had saved up", () => {
    const first = busy({ units: 1551, requests: 900, startedAt: 100_000 })
    assert.closeTo(step(first, refused(), now).known, 570, 1e-9)
    assert.strictEqual(step({ ...first, units: 301 }, refused(), now).known, 420)
  })

  const holds: ReadonlyArray<
    readonly [rule: string, changes: Partial<Learning.State>, retryAfterMs: number | undefined, holdMs: number]
  > = [
    ["that tells something new holds for ten seconds", { units: 501 }, undefined, 10_000],
    [
      "that tells something new holds for twenty requests' time",
      { units: 5001, requests: 501 },
      undefined,
      20 * 100 * 5001 / 501
    ],
    ["that tells something new holds for twice its wait", { units: 501 }, 40_000, 80_000],
    ["that tells something new holds for an hour at most", { units: 501 }, 9_000_000, 3_600_000],
    ["that tells nothing holds for ten seconds", { units: 11, decreasedAt: now - 2000 }, undefined, 10_000],
    ["that confirms what is known holds twice as long as the last", { holdMs: 15_000 }, undefined, 30_000],
    ["that confirms what is known holds for two minutes", { holdMs: 90_000 }, undefined, 120_000],
    [
      "that confirms what is known holds for a hundred requests' time",
      { holdMs: 900_000, units: 1001, requests: 51 },
      undefined,
      100 * 100 * 1001 / 51
    ],
    ["that confirms what is known holds for fifty waits", { holdMs: 900_000 }, 4000, 200_000],
    ["that confirms what is known holds for an hour at most", { holdMs: 9_000_000 }, 400_000, 3_600_000],
    ["that is a tenth away confirms", { known: 540, holdMs: 15_000, units: 991 }, undefined, 30_000],
    ["that is more than a tenth away does not confirm", { known: 540, holdMs: 15_000 }, undefined, 10_000]
  ]
  for (const [rule, changes, retryAfterMs, holdMs] of holds) {
    it(rule, () => {
      const state = step({ ...steady, ...changes }, refused({ retryAfterMs }), now)
      assert.closeTo(state.holdMs, holdMs, 1e-6)
      assert.strictEqual(state.heldUntil, now + state.holdMs)
    })
  }
})

describe("an overload", () => {
  const now = 200_000
  const overloaded = (state: Learning.State) => step(state, refused({ _tag: "Overloaded" }), now)

  it("cuts the limit to half of what is known, and knows as much as before", () => {
    const state = overloaded(busy({ limit: 500, known: 600, refused: 650, heldUntil: now + 50_000, holdMs: 7 }))
    assert.deepInclude(state, {
      limit: 350,
      known: 600,
      refused: 650,
      heldUntil: now + 50_000,
      holdMs: 7,
      decreasedAt: now,
      grownAt: now,
      units: 0,
      requests: 0
    })
    assert.deepInclude(overloaded(busy({ limit: 600, known: 500, refused: 500 })), {
      limit: 420,
      known: 600,
      refused: 600,
      heldUntil: now + 10_000
    })
  })

  it("after another one cuts no further than half, and never below the floor", () => {
    assert.strictEqual(overloaded(busy({ limit: 501, known: 600 })).limit, 350)
    assert.strictEqual(overloaded(busy({ limit: 310, known: 600 })).limit, 300)
    assert.strictEqual(overloaded(busy({ limit: 250, known: 600 })).limit, 250)
    assert.strictEqual(overloaded(busy({ limit: 6, known: 6 })).limit, 6)
  })
})

describe("a limit that a header states", () => {
  const stated = (limit: number): Learning.Event => ({ _tag: "Stated", limit })

  it("is the limit before anything was refused, and a bound afterwards", () => {
    assert.deepInclude(step(busy(), stated(900), 105_000), { limit: 900, stated: 900, grownAt: 105_000 })
    const taught = busy({ decreasedAt: 50_000, known: 700 })
    assert.deepInclude(step(taught, stated(900), 105_000), { limit: 600, stated: 900, known: 700 })
    assert.deepInclude(step(taught, stated(650), 105_000), { limit: 600, known: 650 })
    assert.deepInclude(step(taught, stated(500), 105_000), { limit: 500, known: 500 })
    assert.deepInclude(step(busy(), stated(900), 105_000, { ...options, ceiling: 800 }), { limit: 800 })
    assert.deepInclude(step(busy(), stated(1), 105_000), { limit: 6, stated: 1 })
  })

  it("that was stated before, or is no limit, changes nothing", () => {
    const state = busy({ stated: 900, limit: 700 })
    for (const limit of [900, 0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.strictEqual(step(state, stated(limit), 105_000), state)
    }
  })
})

describe("requests in flight", () => {
  const own: Learning.ConcurrencyOptions = {
    min: 2,
    max: 20,
    backoffRatio: 0.5,
    increase: "round",
    cooldownMs: 1000,
    timeoutMs: 5000
  }
  const state: Learning.ConcurrencyState = { limit: 10, decreasedAt: 50_000 }
  const table: ReadonlyArray<
    readonly [
      rule: string,
      sample: Partial<Learning.ConcurrencySample>,
      limit: number,
      options?: Partial<Learning.ConcurrencyOptions>
    ]
  > = [
    ["may be one more after a round of answers", {}, 10.1],
    ["may be one more after each answer", {}, 11, { increase: "success" }],
    ["may be no more than the most", {}, 10, { max: 10 }],
    ["may be no more as long as less than half are", { inflight: 4 }, 10],
    ["may be more once half are", { inflight: 5 }, 10.1],
    ["may be half as many after one that is refused", { dropped: true }, 5],
    ["may be no fewer than the least", { dropped: true }, 8, { min: 8 }],
    ["may be half as many after one that is late", { sentAt: 54_999 }, 5],
    ["may be more after one that is just in time", { sentAt: 55_000 }, 10.1],
    ["may be as many after one that was sent before the last cut", { dropped: true, sentAt: 50_000 }, 10],
    ["may be fewer after one that was sent after it", { dropped: true, sentAt: 50_001 }, 5],
    ["may be as many within the time between cuts", { dropped: true, sentAt: 59_000 }, 10, { cooldownMs: 10_001 }],
    ["may be fewer after that", { dropped: true, sentAt: 59_000 }, 5, { cooldownMs: 10_000 }]
  ]
  for (const [rule, sample, limit, changes] of table) {
    it(rule, () => {
      const after = Learning.concurrency(
        { ...own, ...changes },
        state,
        { sentAt: 58_000, inflight: 9, dropped: false, ...sample },
        60_000
      )
      assert.closeTo(after.limit, limit, 1e-9)
      assert.strictEqual(after.decreasedAt, after.limit < 10 ? 60_000 : 50_000)
    })
  }

  it("are cut to whole numbers, and begin where they are told to", () => {
    assert.deepStrictEqual(Learning.concurrencyInitial(7), { limit: 7, decreasedAt: never })
    const sample = { sentAt: 9000, inflight: 9, dropped: true }
    assert.strictEqual(Learning.concurrency(own, Learning.concurrencyInitial(7), sample, 10_000).limit, 3)
    assert.deepInclude(Learning.concurrencyDefaults, { min: 1, increase: "round", cooldownMs: 1000, backoffRatio: 0.7 })
  })

  it("justify a multiple that shrinks with their magnitude", () => {
    const multiple = { factor: 4, minFactor: 1.5, decay: 1 }
    assert.deepStrictEqual([0.1, 1, 10, 100, 1000].map((inflight) => Learning.maxLimit(inflight, multiple)), [
      0.4,
      4,
      30,
      200,
      1500
    ])
  })
})

describe("shedding", () => {
  it("refuses as many as are sent beyond a multiple of those served, from a number of them on", () => {
    const own = { multiplier: 2, minRequests: 10 }
    const table = [[9, 0, 0], [10, 0, 0.9], [10, 4, 2 / 11], [10, 5, 0], [10, 9, 0], [99, 0, 0.9], [
      99,
      10,
      0.79
    ]] as const
    for (const [requests, accepts, probability] of table) {
      assert.closeTo(Learning.throttleProbability(requests, accepts, own), probability, 1e-12)
    }
    assert.closeTo(Learning.throttleProbability(99, 0, { ...own, maxProbability: 0.95 }), 0.95, 1e-12)
    assert.closeTo(Learning.throttleProbability(0.5, 0, { multiplier: 2 }), 0.5 / 1.5, 1e-12)
  })

  it("refuses none up to the threshold of a queue, all when it is full, and evenly more between", () => {
    assert.deepStrictEqual([0, 10, 15, 20, 25].map((queued) => Learning.queueRejection(queued, 10, 20)), [
      0,
      0,
      0.5,
      1,
      1
    ])
    assert.deepStrictEqual([9, 10].map((queued) => Learning.queueRejection(queued, 10, 10)), [0, 1])
  })
})
