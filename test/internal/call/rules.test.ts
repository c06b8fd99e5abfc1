import { assert, describe, it } from "@effect/vitest"
import { LLMError, Recovery, Selection, Target } from "breakwater"
import { Duration, Redacted } from "effect"
import * as Decisions from "../../../src/internal/call/decision.ts"

interface Given {
  readonly ids: ReadonlyArray<string>
  /** Windows by candidate. */
  readonly windows?: ReadonlyArray<number | undefined>
  /** Which candidates can serve the call; all when absent. */
  readonly fit?: ReadonlyArray<number>
}

const setup = (
  { fit, ids, windows = [] }: Given,
  options: Partial<Decisions.Setup> = {}
): Decisions.Setup => {
  const candidates = ids.map((id, index): Decisions.Candidate => {
    const [provider = "", rest = ""] = id.split("/")
    const [model = "", key = ""] = rest.split("@")
    const target = Target.make({
      provider,
      model,
      contextWindow: windows[index],
      ...(key === "" ? undefined : { key: { id: key, value: Redacted.make("secret") } })
    })
    return { target, scopeKeys: Target.scopeKeys(target) }
  })
  return {
    candidates,
    fit: Uint8Array.from(fit ?? ids.map(() => 1)),
    fitting: fit === undefined ? ids.length : fit.filter((each) => each === 1).length,
    choose: (free, start) => {
      const all = candidates.map(({ target }, index) => ({ target, free: free[index] === 1 }))
      return Selection.ordered.pick(Selection.snapshot(all, { start }), 0, candidates.length, () => 0)
    },
    maxAttempts: 10,
    attemptMs: 60_000,
    patienceMs: 3000,
    stays: false,
    replays: true,
    deadlineAt: 600_000,
    ...options
  }
}

const three = setup({ ids: ["a/1", "a/2", "b/1"] })

const cooled = (remainingMs: number, changes: Partial<Decisions.Blocked> = {}): Decisions.Blocked => ({
  scopeKey: "k",
  reason: "rate_limit",
  until: remainingMs,
  remainingMs,
  ...changes
})

const error = (errorClass: LLMError.ErrorClass, fields: Partial<LLMError.Fields> = {}): LLMError.LLMError =>
  LLMError.make(errorClass, { provider: "p", reason: "unknown", ...fields })

const failed = (
  index: number,
  raised: LLMError.LLMError,
  retryMs?: number,
  changes: Partial<Recovery.Rule> = {}
): Decisions.Event => ({
  _tag: "Failed",
  index,
  error: raised,
  rule: { ...Recovery.ruleFor(Recovery.defaults, raised), ...changes },
  retryMs
})

const stating = (millis: number) => ({ retryAfter: Duration.millis(millis) })

const refused = (
  index: number,
  by: Decisions.Busy["by"],
  fields: Partial<LLMError.Fields> = {},
  queued = false
): Decisions.Event => ({ _tag: "Refused", index, by, queued, error: error("rate_limit", fields) })

/** The decision in a few words. */
const words = (decision: Decisions.Decision): string => {
  switch (decision._tag) {
    case "Attempt":
      return `${decision.queue ? "queue for" : "attempt"} ${decision.chosen} ${decision.index}`
    case "Wait":
      return `wait ${decision.delayMs}${decision.stated ? " as stated" : ""} for ${decision.chosen} ${decision.index}`
    case "Stop":
      return `stop with ${decision.error._tag}`
  }
}

const decide = (
  options: Decisions.Setup,
  event: Decisions.Event,
  cooling: Decisions.Cooling = [],
  now = 0,
  state = Decisions.initial
) => {
  const [after, decision] = Decisions.decide(options, state, event, cooling, now)
  return { decision, said: words(decision), state: after }
}

describe("a refusal of ours", () => {
  const table: ReadonlyArray<
    readonly [rule: string, event: Decisions.Event, expected: string, until: number | undefined]
  > = [
    ["by a limit leads on, and ends when it says", refused(1, "limit", stating(700)), "attempt next 2", 700],
    ["goes round in a circle", refused(2, "limit", stating(700)), "attempt next 0", 700],
    ["without a time ends nobody knows when", refused(1, "limit"), "attempt next 2", Infinity],
    ["without a wait ends a millisecond later", refused(1, "limit", stating(0)), "attempt next 2", 1],
    ["by a circuit is forgotten after a second", refused(1, "circuit", stating(30_000)), "attempt next 2", 1000],
    ["by a circuit ends when it says, if that is sooner", refused(1, "circuit", stating(200)), "attempt next 2", 200],
    ["by a circuit after a wait leads on", refused(1, "circuit", stating(200), true), "attempt next 2", 200],
    ["by the queue is that of all", refused(1, "limit", stating(200), true), "stop with RateLimitError", 200]
  ]
  for (const [rule, event, expected, until] of table) {
    it(rule, () => {
      const { said, state } = decide(three, event)
      assert.strictEqual(said, expected)
      assert.strictEqual(state.busy.values().next().value?.until, until)
      assert.strictEqual(state.attempts, 0)
    })
  }

  it("that has no end gives the target up", () => {
    const shed = decide(three, refused(1, "throttle", stating(5)))
    assert.deepStrictEqual([shed.said, Array.from(shed.state.givenUp), shed.state.busy.size], [
      "attempt next 2",
      [[1, "throttle"]],
      0
    ])
    const large = decide(three, refused(1, "limit", { reason: "request_exceeds_limit", ...stating(5) }))
    assert.deepStrictEqual([large.said, Array.from(large.state.givenUp), large.state.busy.size], [
      "attempt next 2",
      [[1, "limit"]],
      0
    ])
  })

  it("at the deadline is the end", () => {
    const late = setup({ ids: ["a/1", "a/2"] }, { deadlineAt: 50 })
    assert.strictEqual(decide(late, refused(0, "limit", stating(5)), [], 49).said, "attempt next 1")
    assert.strictEqual(decide(late, refused(0, "limit", stating(5)), [], 50).said, "stop with RateLimitError")
  })

  it("of all is waited out: in the queue of a limit, beside it otherwise", () => {
    const alone = setup({ ids: ["a/1"] })
    const limited = decide(alone, refused(0, "limit", stating(700)), [], 100)
    assert.strictEqual(limited.said, "queue for earliest 0")
    assert.strictEqual(decide(alone, refused(0, "limit")).said, "queue for earliest 0")
    assert.strictEqual(
      decide(alone, refused(0, "circuit", stating(700)), [], 100).said,
      "wait 700 as stated for earliest 0"
    )
    const waited: Decisions.Event = { _tag: "Waited", index: 0, chosen: "earliest" }
    assert.strictEqual(decide(alone, waited, [], 799, limited.state).said, "queue for earliest 0")
    assert.strictEqual(decide(alone, waited, [], 800, limited.state).said, "attempt earliest 0")
    // What blocks without it comes first.
    assert.strictEqual(
      decide(alone, waited, [cooled(5000)], 200, limited.state).said,
      "wait 5000 as stated for earliest 0"
    )
  })
})

describe("a target that was waited for", () => {
  it("is taken, whatever the strategy would choose now, unless the time is over", () => {
    const last = setup({ ids: ["a/1", "a/2"] }, { choose: (free) => free.lastIndexOf(1), deadlineAt: 100 })
    const waited: Decisions.Event = { _tag: "Waited", index: 0, chosen: "retry" }
    assert.strictEqual(decide(last, waited, [], 99).said, "attempt retry 0")
    assert.strictEqual(decide(last, waited, [cooled(5)], 99).said, "attempt retry 1")
    assert.strictEqual(decide(last, waited, [], 100).said, "stop with UnknownError")
  })
})

describe("circuits that refuse", () => {
  it("are waited for like cooldowns, the longer of the two", () => {
    const circuits = [
      { admits: true, status: "closed", retryAfterMs: 0 },
      { admits: false, status: "open", retryAfterMs: 700 },
      { admits: false, status: "half-open", retryAfterMs: 700 },
      { admits: false, status: "ramp", retryAfterMs: 700 },
      { admits: false, status: "open", retryAfterMs: 700 },
      { admits: true, status: "closed", retryAfterMs: 0 }
    ] as const
    const cooling = [undefined, cooled(699), cooled(700), cooled(5), undefined, cooled(9)]
    const circuit = { scopeKey: "circuit", reason: "circuit_open", until: 800, remainingMs: 700 } as const
    assert.deepStrictEqual(Decisions.withCircuits(cooling, circuits, 100), [
      undefined,
      { ...circuit, atMost: false },
      cooled(700),
      { ...circuit, atMost: true },
      { ...circuit, atMost: false },
      cooled(9)
    ])
    const [halfOpen] = Decisions.withCircuits([], circuits.slice(2, 3), 100)
    assert.deepStrictEqual(halfOpen, { ...circuit, atMost: true })
    assert.strictEqual(Decisions.withCircuits(cooling, [], 100), cooling)
  })
})

describe("after a failure", () => {
  const never: Partial<Recovery.Rule> = { otherTargets: "never" }
  const keys = setup({ ids: ["a/1@1", "b/1", "a/1@2"] })
  const server = error("server_error")
  const table: ReadonlyArray<
    readonly [
      rule: string,
      options: Decisions.Setup,
      event: Decisions.Event,
      expected: string,
      givenUp: ReadonlyArray<readonly [number, string]>
    ]
  > = [
    ["a retry needs a rule that allows one", three, failed(0, error("timeout"), 700), "attempt next 1", [[
      0,
      "failed"
    ]]],
    ["what has no retry left is spent", three, failed(0, server), "attempt next 1", [[0, "spent"]]],
    [
      "a retry goes on where nobody else may be asked",
      three,
      failed(0, server, 700, never),
      "wait 700 for retry 0",
      []
    ],
    [
      "without a retry it ends where nobody else may be asked",
      three,
      failed(0, server, undefined, never),
      "stop with ServerError",
      [
        [0, "spent"]
      ]
    ],
    [
      "it ends at once where neither may be, whatever other keys there are",
      keys,
      failed(0, error("authentication"), undefined, never),
      "stop with AuthenticationError",
      []
    ],
    [
      "another key is asked first where the key was refused",
      keys,
      failed(0, error("authentication")),
      "attempt next 2",
      [
        [0, "failed"]
      ]
    ],
    [
      "a key that only has to wait is not given up",
      keys,
      failed(0, error("rate_limit", stating(1000))),
      "attempt next 2",
      []
    ],
    ["another key is not asked first otherwise", keys, failed(0, error("timeout")), "attempt next 1", [[0, "failed"]]],
    [
      "the next key is the next one in the circle",
      setup({ ids: ["a/1@1", "a/1@2", "a/1@3"] }),
      failed(1, error("authentication")),
      "attempt next 2",
      [
        [1, "failed"]
      ]
    ],
    [
      "a stated wait is waited out by a rule that says so alone",
      three,
      failed(0, error("server_error", stating(1000))),
      "attempt next 1",
      [
        [0, "spent"]
      ]
    ],
    [
      "a wait is as long as the patience at most",
      three,
      failed(0, error("rate_limit", stating(3000))),
      "wait 3000 as stated for retry 0",
      []
    ],
    [
      "a wait is not longer than the patience",
      three,
      failed(0, error("rate_limit", stating(3001))),
      "attempt next 1",
      []
    ],
    [
      "a wait of a millisecond is one",
      three,
      failed(0, error("rate_limit", stating(1))),
      "wait 1 as stated for retry 0",
      []
    ],
    ["no wait is none", three, failed(0, error("rate_limit", stating(0))), "attempt next 1", []],
    [
      "a wait does not reach the deadline",
      setup({ ids: ["a/1", "a/2"] }, { deadlineAt: 2000 }),
      failed(0, error("rate_limit", stating(2000))),
      "attempt next 1",
      []
    ],
    [
      "a wait may end before the deadline",
      setup({ ids: ["a/1", "a/2"] }, { deadlineAt: 2001 }),
      failed(0, error("rate_limit", stating(2000))),
      "wait 2000 as stated for retry 0",
      []
    ],
    [
      "a retry waits for a stated wait within the patience",
      three,
      failed(0, error("server_error", stating(3000)), 3000),
      "wait 3000 for retry 0",
      []
    ],
    [
      "a retry does not wait for a longer one while others are free",
      three,
      failed(0, error("server_error", stating(3001)), 3001),
      "attempt next 1",
      [
        [0, "spent"]
      ]
    ],
    [
      "a retry waits for a longer one where there is nobody else",
      setup({ ids: ["a/1"] }),
      failed(0, error("server_error", stating(40_000)), 40_000),
      "wait 40000 for retry 0",
      []
    ],
    [
      "the time being over, it ends with what failed",
      setup({ ids: ["a/1", "a/2"] }, { deadlineAt: 0 }),
      failed(0, error("timeout")),
      "stop with TimeoutError",
      []
    ]
  ]
  for (const [rule, options, event, expected, givenUp] of table) {
    it(rule, () => {
      const { said, state } = decide(options, event)
      assert.deepStrictEqual([said, Array.from(state.givenUp), state.attempts], [expected, givenUp, 1])
    })
  }

  it("a retry leaves time to start each later target: half a second, or an equal part", () => {
    const says = (options: Partial<Decisions.Setup>, retryMs: number, cooling: Decisions.Cooling = []): string =>
      decide(setup({ ids: ["a/1", "b/1", "c/1"] }, options), failed(0, server, retryMs), cooling, 1000).said
    const waits = (retryMs: number): string => `wait ${retryMs} for retry 0`
    assert.deepStrictEqual([says({ deadlineAt: 11_000 }, 8999), says({ deadlineAt: 11_000 }, 9000)], [
      waits(8999),
      "attempt next 1"
    ])
    // A third of 900 ms.
    assert.deepStrictEqual([says({ deadlineAt: 1900 }, 299), says({ deadlineAt: 1900 }, 300)], [
      waits(299),
      "attempt next 1"
    ])
    // There is no later target without another attempt, nor when others cool down.
    const one = { deadlineAt: 1900, maxAttempts: 2 }
    assert.deepStrictEqual([says(one, 899), says(one, 900)], [waits(899), "attempt next 1"])
    const cooling = [undefined, cooled(9), cooled(9)]
    assert.deepStrictEqual([says({ deadlineAt: 1900 }, 899, cooling), says({ deadlineAt: 1900 }, 900, cooling)], [
      waits(899),
      "wait 9 as stated for earliest 1"
    ])
  })

  it("a scope that reaches further than the target is asked last", () => {
    const { said, state } = decide(
      three,
      failed(0, error("timeout", { scope: "provider" }), undefined, { scope: "failure" })
    )
    assert.strictEqual(said, "attempt next 2")
    assert.strictEqual(state.suspects.size, 1)
    assert.strictEqual(decide(three, failed(2, error("timeout")), [], 0, state).said, "attempt next 1")
  })
})

describe("an overflow of the window", () => {
  const overflow = error("permanent", { reason: "context_length_exceeded" })

  it("moves to a larger window, or to one that nobody knows", () => {
    const sizes = setup({ ids: ["p/a", "p/b", "p/c", "p/d"], windows: [8, 8, undefined, 16] })
    const { said, state } = decide(sizes, failed(0, overflow))
    assert.strictEqual(said, "attempt next 3")
    assert.deepStrictEqual(Array.from(state.givenUp), [[0, "failed"], [1, "context_window"]])
    const unknown = setup({ ids: ["p/a", "p/b", "p/c"], windows: [8, 8, undefined] })
    assert.strictEqual(decide(unknown, failed(0, overflow)).said, "attempt next 2")
  })

  it("prefers the next window that is known, and not the one that was too small", () => {
    const sizes = setup({ ids: ["p/a", "p/b", "p/c", "p/d"], windows: [32, 64, 16, undefined] })
    assert.strictEqual(decide(sizes, failed(2, overflow)).said, "attempt next 0")
    const middle = setup({ ids: ["p/a", "p/b", "p/c"], windows: [32, 16, 64] })
    assert.strictEqual(decide(middle, failed(1, overflow)).said, "attempt next 2")
    const last = setup({ ids: ["p/a", "p/b", "p/c"], windows: [undefined, 16, 16] })
    assert.strictEqual(decide(last, failed(2, overflow)).said, "attempt next 0")
  })

  it("of a window that nobody knows rules out the same model alone", () => {
    const keys = setup({ ids: ["p/a@1", "q/a@1", "p/b@1", "p/a@2"], windows: [undefined, undefined, 16, undefined] })
    const { state } = decide(keys, failed(0, overflow))
    assert.deepStrictEqual(Array.from(state.givenUp), [[0, "failed"], [3, "context_window"]])
  })

  it("rules out the same model where a window is known of one alone", () => {
    for (const windows of [[8, undefined, 16], [undefined, 8, 16]]) {
      const keys = setup({ ids: ["p/a@1", "p/a@2", "p/b"], windows })
      assert.deepStrictEqual(Array.from(decide(keys, failed(0, overflow)).state.givenUp.keys()), [0, 1])
    }
  })

  it("says nothing about who cannot serve the call anyway", () => {
    const some = setup({ ids: ["p/a", "p/b", "p/c"], windows: [8, 8, 16], fit: [1, 0, 1] })
    const { said, state } = decide(some, failed(0, overflow))
    assert.strictEqual(said, "attempt next 2")
    assert.deepStrictEqual(Array.from(state.givenUp), [[0, "failed"]])
  })
})

describe("where all are busy", () => {
  const says = (cooling: Decisions.Cooling, given: Given = { ids: ["a/1", "a/2", "b/1"] }): string =>
    decide(setup(given), { _tag: "Start" }, cooling).said

  it("the first of those that end first is waited for, if it can serve the call", () => {
    assert.strictEqual(says([cooled(20), cooled(9), cooled(9)]), "wait 9 as stated for earliest 1")
    assert.strictEqual(
      says([cooled(20), cooled(9), cooled(30)], { ids: ["a/1", "a/2", "b/1"], fit: [1, 0, 1] }),
      "wait 20 as stated for earliest 0"
    )
  })

  it("what never ends is not waited for, but in the queue of a limit", () => {
    const isolated = cooled(Infinity, { scopeKey: "circuit", reason: "circuit_open" })
    assert.strictEqual(says([isolated, isolated, isolated]), "stop with ServerError")
    const full = cooled(Infinity, { scopeKey: "limit" })
    assert.strictEqual(says([isolated, full, isolated]), "stop with ServerError")
    assert.strictEqual(says([full, isolated, isolated]), "queue for earliest 0")
  })
})

describe("an attempt beside others", () => {
  const beside = (
    options: Decisions.Setup,
    running: ReadonlyArray<number>,
    cooling: Decisions.Cooling = [],
    state = Decisions.initial
  ) => Decisions.beside(options, state, running, cooling, 0)

  it("goes to the next one that is free, trusted and not asked already", () => {
    const four = setup({ ids: ["a/1", "b/1", "c/1", "d/1"] })
    assert.deepInclude(beside(four, [0]), { index: 1, chosen: "hedge", queue: false })
    assert.strictEqual(beside(four, [2])?.index, 3)
    assert.strictEqual(beside(four, [3])?.index, 0)
    assert.strictEqual(beside(four, [1, 2])?.index, 3)
    assert.strictEqual(beside(four, [0], [undefined, cooled(9)])?.index, 2)
    const { state } = decide(four, failed(1, error("timeout", { scope: "provider" })))
    assert.strictEqual(beside(four, [0], [], { ...state, givenUp: new Map() })?.index, 2)
    assert.isUndefined(beside(setup({ ids: ["a/1"] }), [0]))
  })

  it("takes so much time that later targets get a start, those that run not among them", () => {
    const sixteen = Array.from({ length: 16 }, (_, index) => `p${index}/m`)
    const slice = (running: ReadonlyArray<number>, maxAttempts: number): number | undefined =>
      beside(setup({ ids: sixteen }, { deadlineAt: 8000, maxAttempts }), running)?.sliceMs
    // 8 s less half a second for each of 14 and of 13 targets.
    assert.strictEqual(slice([0], 30), 1000)
    assert.strictEqual(slice([0, 1], 30), 1500)
    // Of 13 attempts 2 run and 1 is this one.
    assert.strictEqual(slice([0, 1], 13), 3000)
  })
})

describe("the time of an attempt among many targets", () => {
  const ids = Array.from({ length: 15 }, (_, index) => `p${index}/m`)
  const sliceOf = (options: Partial<Decisions.Setup>, cooling: Decisions.Cooling = [], given: Given = { ids }) => {
    const many = setup(given, { deadlineAt: 8000, maxAttempts: 30, ...options })
    const { decision } = decide(many, { _tag: "Waited", index: 3, chosen: "earliest" }, cooling)
    return decision._tag === "Attempt" ? decision.sliceMs : undefined
  }

  it("leaves half a second for each that is free", () => {
    assert.strictEqual(sliceOf({}), 1000)
    assert.strictEqual(sliceOf({}, [undefined, cooled(9)]), 1500)
    assert.strictEqual(sliceOf({}, [cooled(9)]), 1500)
    assert.strictEqual(sliceOf({ maxAttempts: 12 }), 2500)
    assert.strictEqual(sliceOf({ maxAttempts: 12 }, [undefined, cooled(9)]), 2500)
    assert.strictEqual(sliceOf({ maxAttempts: 14 }, [undefined, cooled(9)]), 1500)
    assert.strictEqual(sliceOf({ attemptMs: 1001 }), 1000)
  })

  it("is the limit of an attempt where that is as short", () => {
    assert.strictEqual(sliceOf({ attemptMs: 1000 }), Infinity)
    assert.strictEqual(sliceOf({ attemptMs: 999 }), Infinity)
    const two = { ids: ["a/1", "b/1", "c/1", "d/1"] }
    assert.strictEqual(sliceOf({ maxAttempts: 10, attemptMs: 3500 }, [], two), Infinity)
    assert.strictEqual(sliceOf({ maxAttempts: 10, attemptMs: 4000 }, [], two), Infinity)
    assert.strictEqual(sliceOf({ maxAttempts: 10, attemptMs: 4001 }, [], two), 4000)
  })

  it("is all of it where nobody else may be asked", () => {
    assert.strictEqual(sliceOf({ maxAttempts: 1 }), Infinity)
    assert.strictEqual(sliceOf({}, [], { ids: ids.slice(0, 4), fit: [0, 0, 0, 1] }), Infinity)
    assert.strictEqual(sliceOf({}, [cooled(9), cooled(9), cooled(9)], { ids: ids.slice(0, 4) }), Infinity)
  })
})

describe("what is skipped", () => {
  const options = setup({ ids: ["a/1", "b/1", "c/1", "d/1", "e/1", "f/1"], fit: [1, 1, 1, 1, 0, 1] })
  const state: Decisions.State = { ...Decisions.initial, givenUp: new Map([[1, "spent"]]) }
  const cooling = [
    cooled(5),
    cooled(6),
    cooled(7, { scopeKey: "limit" }),
    cooled(Infinity, { scopeKey: "circuit" }),
    cooled(8)
  ]

  it("is told with why and for how long, of those that can serve the call", () => {
    assert.deepStrictEqual(Decisions.skippedFor(options, state, 5, cooling), [
      { target: "a/1", why: "cooldown", remainingMs: 5 },
      { target: "b/1", why: "spent" },
      { target: "c/1", why: "limit", remainingMs: 7 },
      { target: "d/1", why: "circuit" }
    ])
    assert.deepStrictEqual(Decisions.skippedFor(options, Decisions.initial, 0, [undefined, cooled(6)]), [
      { target: "b/1", why: "cooldown", remainingMs: 6 }
    ])
    assert.deepStrictEqual(Decisions.skippedFor(options, state, 1, []), [])
    assert.deepStrictEqual(Decisions.skippedFor(options, Decisions.initial, 1, []), [])
  })
})

describe("when nothing is left", () => {
  const stop = (options: Decisions.Setup, cooling: Decisions.Cooling, changes: Partial<Decisions.State> = {}) => {
    const decision = Decisions.exhausted(options, { ...Decisions.initial, ...changes }, cooling)
    return decision._tag === "Stop" ? decision.error : assert.fail("no end")
  }
  const four = setup({ ids: ["a/1", "a/2", "b/1", "c/1"], fit: [1, 1, 1, 0] })
  const timeout = error("timeout", { reason: "attempt" })

  it("the one that recovers first is told, with the counts by provider", () => {
    const told = stop(four, [cooled(50), cooled(20), cooled(90, { reason: "invalid_key" }), cooled(1)])
    assert.deepInclude(told, {
      _tag: "RateLimitError",
      provider: "a",
      model: "2",
      target: "a/2",
      origin: "cooldown",
      reason: "rate_limit",
      retryAfter: Duration.millis(20)
    })
    assert.deepStrictEqual(told.exhaustion, {
      targets: 3,
      providers: [{ provider: "a", available: 0, total: 2 }, { provider: "b", available: 0, total: 1 }],
      earliestMs: 20
    })
  })

  it("an error comes before a cooldown, and keeps its words with the counts", () => {
    const errors = new Map([[2, timeout]])
    const told = stop(four, [cooled(50), cooled(0.5)], { errors, givenUp: new Map([[2, "failed"]]) })
    assert.deepInclude(told, { _tag: "TimeoutError", reason: "attempt", retryAfter: Duration.millis(0.5) })
    assert.deepStrictEqual(told.exhaustion?.providers, [
      { provider: "a", available: 0, total: 2 },
      { provider: "b", available: 0, total: 1 }
    ])
    const later = stop(four, [cooled(50), cooled(20), cooled(90)], { errors })
    assert.deepInclude(later, { _tag: "RateLimitError", target: "a/2" })
    assert.deepInclude(stop(four, [cooled(50)], { errors }).exhaustion?.providers?.[0], { available: 1, total: 2 })
  })

  it("what no time heals is told only when there is nothing else", () => {
    const wrong = error("permanent", { reason: "invalid_request", scope: "request" })
    assert.strictEqual(stop(four, [cooled(50)], { errors: new Map([[2, wrong]]) })._tag, "RateLimitError")
    assert.strictEqual(stop(four, [], { errors: new Map([[2, wrong]]) }), wrong)
    assert.strictEqual(stop(four, [], { errors: new Map([[0, wrong], [2, timeout]]) })._tag, "TimeoutError")
    const missing = error("permanent", { reason: "model_not_found", scope: "model" })
    assert.isDefined(stop(four, [], { errors: new Map([[2, missing]]) }).exhaustion)
    const request = error("timeout", { reason: "deadline", scope: "request" })
    assert.isDefined(stop(four, [], { errors: new Map([[2, request]]) }).exhaustion)
  })

  it("of a single target it is its own error, as it was", () => {
    assert.strictEqual(stop(setup({ ids: ["a/1"] }), [cooled(5)], { errors: new Map([[0, timeout]]) }), timeout)
  })

  it("no time to retry is stated where nobody knows one", () => {
    const isolated = cooled(Infinity, { scopeKey: "circuit", reason: "circuit_open" })
    const told = stop(setup({ ids: ["a/1", "a/2"] }), [isolated, isolated])
    assert.deepStrictEqual(told.exhaustion, {
      targets: 2,
      providers: [{ provider: "a", available: 0, total: 2 }]
    })
    assert.isUndefined(told.retryAfter)
    assert.deepInclude(told, { _tag: "ServerError", target: "a/1", reason: "circuit_open", origin: "circuit" })
    const one = stop(setup({ ids: ["a/1", "a/2"] }), [
      isolated,
      cooled(7, { scopeKey: "circuit", reason: "circuit_open" })
    ])
    assert.deepInclude(one, {
      target: "a/2",
      origin: "circuit",
      reason: "circuit_open",
      retryAfter: Duration.millis(7)
    })
    assert.deepInclude(stop(setup({ ids: ["a/1"], fit: [0] }), []), { provider: "none", reason: "cooldown" })
  })

  it("the class of a cooldown follows from its reason", () => {
    const classes: Readonly<Record<string, ReadonlyArray<LLMError.Reason>>> = {
      authentication: ["invalid_key", "expired_credential", "permission_denied", "ip_blocked", "region_blocked"],
      timeout: [
        "connect_timeout",
        "headers_timeout",
        "body_timeout",
        "client_timeout",
        "gateway_timeout",
        "first_token",
        "idle",
        "attempt"
      ],
      permanent: ["model_not_found"],
      server_error: ["overloaded", "capacity", "internal_error", "circuit_open"],
      rate_limit: ["rate_limit", "insufficient_quota", "billing_disabled", "unknown"]
    }
    for (const [errorClass, reasons] of Object.entries(classes)) {
      for (const reason of reasons) {
        const told = stop(setup({ ids: ["a/1"] }), [cooled(5, { reason })])
        assert.deepStrictEqual([told.errorClass, told.reason], [errorClass, reason])
      }
    }
  })
})
