import { assert, describe, it } from "@effect/vitest"
import { LLMError, Recovery, Selection, Target } from "breakwater"
import { Duration, Effect, Random, Schema } from "effect"
import * as Decisions from "../../../src/internal/call/decision.ts"

const candidate = (id: string, contextWindow?: number): Decisions.Candidate => {
  const [provider = "", model = ""] = id.split("/")
  const target = Target.make({ provider, model, contextWindow })
  return { target, scopeKeys: Target.scopeKeys(target) }
}

const setup = (ids: ReadonlyArray<string>, options: Partial<Decisions.Setup> = {}): Decisions.Setup => {
  const candidates = options.candidates ?? ids.map((id) => candidate(id))
  return {
    candidates,
    fit: new Uint8Array(candidates.length).fill(1),
    fitting: candidates.length,
    choose: (free, start) => {
      const snapshot = Selection.snapshot(
        candidates.map(({ target }, index) => ({ target, free: free[index] === 1 })),
        {
          start
        }
      )
      return Selection.ordered.pick(snapshot, 0, candidates.length, () => 0)
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

const cooled = (remainingMs: number) => ({
  scopeKey: "k",
  reason: "rate_limit" as const,
  until: remainingMs,
  remainingMs
})

const failed = (
  index: number,
  errorClass: LLMError.ErrorClass,
  fields: Partial<LLMError.Fields> = {},
  retryMs?: number
): Decisions.Event => {
  const error = LLMError.make(errorClass, { provider: "p", reason: "unknown", ...fields })
  return { _tag: "Failed", index, error, rule: Recovery.ruleFor(Recovery.defaults, error), retryMs }
}

/** The decision in a few words. */
const words = (decision: Decisions.Decision): string => {
  switch (decision._tag) {
    case "Attempt":
      return `${decision.chosen} ${decision.index}`
    case "Wait":
      return `wait ${decision.delayMs} for ${decision.chosen} ${decision.index}`
    case "Stop":
      return `stop with ${decision.error._tag}`
  }
}

const probing = (remainingMs: number) => ({
  ...cooled(remainingMs),
  scopeKey: "circuit",
  reason: "circuit_open" as const,
  atMost: true
})

describe("decide, with targets that are silent", () => {
  const busy = (index: number, retryAfter: Duration.Duration | undefined, queued = false): Decisions.Event => ({
    _tag: "Refused",
    index,
    by: "limit",
    queued,
    error: LLMError.make("rate_limit", { provider: "p", reason: "rate_limit", origin: "limiter", retryAfter })
  })
  const silent = (indices: ReadonlyArray<number>, options: Partial<Decisions.Setup> = {}): Decisions.Setup =>
    setup(["a/1", "a/1", "a/1"], { isSilent: (index) => indices.includes(index), ...options })
  /** What is decided after a number of events, all at one time. */
  const after = (setup: Decisions.Setup, ...events: ReadonlyArray<Decisions.Event>): Decisions.Decision | undefined => {
    let state = Decisions.initial
    let decision: Decisions.Decision | undefined
    for (const event of events) [state, decision] = Decisions.decide(setup, state, event, [], 0)
    return decision
  }
  const start = { _tag: "Start" } as const
  const table: ReadonlyArray<readonly [string, Decisions.Setup, ReadonlyArray<Decisions.Event>, string]> = [
    ["starts with one that answers", silent([0]), [start], "first 1"],
    ["asks them where all are silent", silent([0, 1, 2]), [start], "first 0"],
    ["asks the only target, silent or not", setup(["a/1"], { isSilent: () => true }), [start], "first 0"],
    ["passes them by after a failure", silent([1]), [failed(0, "authentication")], "next 2"],
    ["passes them by on the way to another key", silent([1]), [failed(0, "rate_limit")], "next 2"],
    [
      "asks one that shares the key of a failure rather than one that is silent",
      silent([2], { candidates: ["a/1", "a/2", "b/1"].map((id) => candidate(id)) }),
      [failed(0, "server_error", { scope: "provider" })],
      "next 1"
    ],
    [
      "waits for room at one that answers",
      silent([2]),
      [start, busy(0, Duration.seconds(1)), busy(1, Duration.millis(500))],
      "earliest 1, in the queue"
    ],
    [
      "waits for room there also when nobody knows for how long",
      silent([2]),
      [start, busy(0, undefined), busy(1, undefined)],
      "earliest 0, in the queue"
    ],
    [
      "asks them when others have room only after half of the time left",
      silent([2], { deadlineAt: 10_000 }),
      [start, busy(0, Duration.millis(5001)), busy(1, Duration.seconds(9))],
      "next 2"
    ],
    [
      "asks them when the others are given up",
      silent([2]),
      [failed(0, "authentication"), failed(1, "authentication")],
      "next 2"
    ]
  ]
  for (const [name, setup, events, expected] of table) {
    it(name, () => {
      const decision = after(setup, ...events)
      const queue = decision?._tag === "Attempt" && decision.queue ? ", in the queue" : ""
      assert.strictEqual(`${decision === undefined ? "nothing" : words(decision)}${queue}`, expected)
    })
  }

  it("waits for the end of a cooldown rather than ask them", () => {
    const [, decision] = Decisions.decide(silent([2]), Decisions.initial, start, [cooled(2000), cooled(3000)], 0)
    assert.strictEqual(words(decision), "wait 2000 for earliest 0")
  })

  it("sends none beside an attempt that is slow", () => {
    const beside = (indices: ReadonlyArray<number>) =>
      Decisions.beside(silent(indices), Decisions.initial, [0], [], 0)?.index
    assert.strictEqual(beside([1]), 2)
    assert.isUndefined(beside([1, 2]))
  })

  it("leaves time for targets that only lack room for a moment", () => {
    const slices = (retryAfter: Duration.Duration | undefined): number | undefined => {
      const decision = after(
        setup(["a/1", "a/1"], { deadlineAt: 20_000 }),
        start,
        busy(0, retryAfter)
      )
      return decision?._tag === "Attempt" ? decision.sliceMs : undefined
    }
    assert.strictEqual(slices(Duration.seconds(1)), 10_000)
    assert.strictEqual(slices(Duration.seconds(10)), 10_000)
    assert.strictEqual(slices(Duration.seconds(11)), Number.POSITIVE_INFINITY)
    assert.strictEqual(slices(undefined), Number.POSITIVE_INFINITY)
  })
})

describe("decide", () => {
  const three = setup(["a/1", "a/2", "b/1"])
  const table: ReadonlyArray<readonly [string, Decisions.Setup, Decisions.Event, Decisions.Cooling, string]> = [
    ["starts with the first target", three, { _tag: "Start" }, [], "first 0"],
    ["starts past what is cooling", three, { _tag: "Start" }, [cooled(5), cooled(9)], "first 2"],
    [
      "waits for the earliest when all are cooling",
      three,
      { _tag: "Start" },
      [cooled(50), cooled(20), cooled(90)],
      "wait 20 for earliest 1"
    ],
    [
      "looks again soon at a circuit that is probing, whose probes may take long",
      setup(["a/1"]),
      { _tag: "Start" },
      [probing(30_000)],
      "wait 1000 for earliest 0"
    ],
    [
      "does so although the probes may take longer than the deadline",
      setup(["a/1"], { deadlineAt: 5000 }),
      { _tag: "Start" },
      [probing(30_000)],
      "wait 1000 for earliest 0"
    ],
    [
      "stops when there is no time to look again",
      setup(["a/1"], { deadlineAt: 1000 }),
      { _tag: "Start" },
      [probing(30_000)],
      "stop with ServerError"
    ],
    [
      "waits for a circuit that is probing rather than for a long cooldown",
      setup(["a/1", "a/2"]),
      { _tag: "Start" },
      [cooled(5000), probing(30_000)],
      "wait 1000 for earliest 1"
    ],
    [
      "stops when the earliest is past the deadline",
      setup(["a/1"], { deadlineAt: 1000 }),
      { _tag: "Start" },
      [cooled(1000)],
      "stop with RateLimitError"
    ],
    ["walks on in a circle", three, failed(2, "timeout"), [undefined, undefined, cooled(9)], "next 0"],
    [
      "walks past what is cooling",
      three,
      failed(2, "rate_limit"),
      [cooled(9), undefined, cooled(9)],
      "next 1"
    ],
    [
      "leaves the provider that failed as a whole",
      three,
      failed(0, "server_error", { scope: "provider" }),
      [],
      "next 2"
    ],
    [
      "stays with the neighbours of what failed alone",
      three,
      failed(0, "server_error", { scope: "target" }),
      [],
      "next 1"
    ],
    [
      "retries in place while the schedule allows",
      three,
      failed(0, "server_error", {}, 700),
      [],
      "wait 700 for retry 0"
    ],
    [
      "does not wait in place for longer than its patience while others are free",
      three,
      failed(0, "server_error", { retryAfter: Duration.seconds(40) }, 40_000),
      [cooled(40_000)],
      "next 1"
    ],
    [
      "waits as long as stated where there is nowhere else to go",
      setup(["a/1"]),
      failed(0, "server_error", { retryAfter: Duration.seconds(40) }, 40_000),
      [cooled(40_000)],
      "wait 40000 for retry 0"
    ],
    [
      "does not retry past the deadline",
      setup(["a/1"], { deadlineAt: 500 }),
      failed(0, "server_error", {}, 700),
      [],
      "stop with ServerError"
    ],
    [
      "prefers another key of the same model to waiting",
      setup(["a/1", "b/1", "a/1"]),
      failed(0, "rate_limit", { retryAfter: Duration.seconds(1) }),
      [cooled(1000)],
      "next 2"
    ],
    [
      "waits a short stated time in place",
      three,
      failed(0, "rate_limit", { retryAfter: Duration.seconds(2) }),
      [cooled(2000)],
      "wait 2000 for retry 0"
    ],
    [
      "stops when what may have been executed must not be sent again",
      setup(["a/1", "b/1"], { replays: false }),
      failed(0, "server_error", { maybeBilled: true }, 700),
      [],
      "stop with ServerError"
    ],
    [
      "sends again what cannot have been executed",
      setup(["a/1", "b/1"], { replays: false }),
      failed(0, "server_error", {}, 700),
      [],
      "wait 700 for retry 0"
    ],
    [
      "stays for a short stated wait where the cache is warm",
      setup(["a/1", "b/1", "a/1"], { stays: true }),
      failed(0, "rate_limit", { retryAfter: Duration.seconds(1) }),
      [cooled(1000)],
      "wait 1000 for retry 0"
    ],
    [
      "does not stay for a longer one",
      setup(["a/1", "b/1", "a/1"], { stays: true }),
      failed(0, "rate_limit", { retryAfter: Duration.seconds(4) }),
      [cooled(4000)],
      "next 2"
    ],
    ["surfaces what is wrong everywhere", three, failed(0, "permanent"), [], "stop with PermanentError"],
    [
      "stops when the attempts are used up",
      setup(["a/1", "b/1"], { maxAttempts: 1 }),
      failed(0, "timeout"),
      [],
      "stop with TimeoutError"
    ],
    ["takes the target it waited for", three, { _tag: "Waited", index: 1, chosen: "earliest" }, [], "earliest 1"],
    [
      "looks again when what it waited for is cooling once more",
      three,
      { _tag: "Waited", index: 1, chosen: "earliest" },
      [undefined, cooled(7)],
      "earliest 2"
    ],
    [
      "stops when it wakes after the deadline",
      setup(["a/1"], { deadlineAt: -1 }),
      { _tag: "Waited", index: 0, chosen: "retry" },
      [],
      "stop with UnknownError"
    ]
  ]
  for (const [rule, options, event, cooling, expected] of table) {
    it(rule, () => {
      const [, decision] = Decisions.decide(options, Decisions.initial, event, cooling, 0)
      assert.strictEqual(words(decision), expected)
    })
  }

  it("a wait is never shorter than a cooldown that was clamped up", () => {
    const [, decision] = Decisions.decide(
      setup(["a/1"]),
      Decisions.initial,
      failed(0, "rate_limit", { retryAfter: Duration.millis(6) }),
      [cooled(1000)],
      0
    )
    assert.strictEqual(words(decision), "wait 1000 for retry 0")
  })

  it("an overflow rules out every window that is known to be as small", () => {
    const windows = setup([], {
      candidates: [candidate("p/a", 8), candidate("p/b", 8), candidate("p/c"), candidate("p/d", 16)]
    })
    const [state, decision] = Decisions.decide(
      windows,
      Decisions.initial,
      failed(0, "permanent", { reason: "context_length_exceeded" }),
      [],
      0
    )
    assert.strictEqual(words(decision), "next 3")
    assert.deepStrictEqual(Array.from(state.givenUp), [[0, "failed"], [1, "context_window"]])
  })

  // A call as the router drives it, with random failures and random cooldowns of its neighbours.
  const walk = Effect.gen(function*() {
    const count = yield* Random.nextIntBetween(1, 8)
    const options = setup(
      Array.from({ length: count }, (_, n) => `${"abc"[n % 3]}/${n % 4}`).filter((id, n, all) => all.indexOf(id) === n),
      { maxAttempts: yield* Random.nextIntBetween(1, 25), deadlineAt: yield* Random.nextIntBetween(1, 200_000) }
    )
    const until = options.candidates.map(() => 0)
    const cooling = (now: number): Decisions.Cooling =>
      until.map((at) => at > now ? { ...cooled(at - now), until: at } : undefined)
    let now = 0
    let attempts = 0
    let state = Decisions.initial
    let event: Decisions.Event = { _tag: "Start" }
    for (let step = 0; step < 1000; step++) {
      const [next, decision] = Decisions.decide(options, state, event, cooling(now), now)
      state = next
      if (decision._tag === "Stop") return { attempts, steps: step }
      if (decision._tag === "Wait") {
        assert.isAtLeast(decision.delayMs, 0)
        assert.isBelow(now + decision.delayMs, options.deadlineAt)
        now += decision.delayMs
        event = { _tag: "Waited", index: decision.index, chosen: decision.chosen }
        continue
      }
      attempts++
      assert.isAtMost(attempts, options.maxAttempts)
      assert.isBelow(now, options.deadlineAt)
      assert.isUndefined(cooling(now)[decision.index], "no attempt on what is cooling")
      assert.isFalse(state.givenUp.has(decision.index), "no attempt on what was given up")
      now += yield* Random.nextIntBetween(0, 5000)
      const classes = LLMError.ErrorClass.literals
      const errorClass = classes[yield* Random.nextIntBetween(0, classes.length - 1)] ?? "unknown"
      const statedMs = (yield* Random.next) < 0.5 ? yield* Random.nextIntBetween(0, 60_000) : undefined
      const reason = (yield* Random.next) < 0.3 ? "context_length_exceeded" as const : "unknown" as const
      const error = LLMError.make(errorClass, {
        provider: "p",
        reason,
        retryAfter: statedMs === undefined ? undefined : Duration.millis(statedMs)
      })
      const rule = Recovery.ruleFor(Recovery.defaults, error)
      until[decision.index] = Math.max(until[decision.index] ?? 0, now + Recovery.cooldownMillis(rule, error))
      const retryMs = rule.sameTarget === "backoff" && (yield* Random.next) < 0.5
        ? Math.max(yield* Random.nextIntBetween(0, 30_000), statedMs ?? 0)
        : undefined
      event = { _tag: "Failed", index: decision.index, error, rule, retryMs }
    }
    return assert.fail("the walk does not end")
  })

  it.effect("every walk ends, within its attempts and its deadline, and never asks what is cooling (T39)", () =>
    Effect.gen(function*() {
      let attempts = 0
      for (let seed = 0; seed < 2000; seed++) attempts += (yield* Random.withSeed(walk, seed)).attempts
      assert.isAbove(attempts, 2000)
    }))
})

describe("slice", () => {
  const table: ReadonlyArray<readonly [string, number, number, number]> = [
    ["the last target gets all there is", 10_000, 0, 10_000],
    ["one of two gets half", 10_000, 1, 5000],
    ["it is half with more targets, too", 10_000, 9, 5000],
    ["less when there are too many for a start of half a second each", 10_000, 15, 2500],
    ["never less than an equal part", 10_000, 24, 400],
    ["an equal part of very little", 100, 1, 50],
    ["nothing of nothing", 0, 3, 0]
  ]
  for (const [rule, remaining, targets, expected] of table) {
    it(rule, () => {
      assert.strictEqual(Decisions.slice(remaining, targets), expected)
    })
  }

  it.effect.prop("all targets get a start, and together no more than there is", {
    deadline: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 })),
    targets: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 }))
  }, ({ deadline, targets }) =>
    Effect.sync(() => {
      let remaining = deadline
      for (let later = targets - 1; later >= 0; later--) {
        const slice = Decisions.slice(remaining, later)
        assert.isAbove(slice, 0)
        assert.isAtMost(slice, later === 0 ? remaining : Math.max(remaining / 2, remaining / (later + 1)))
        remaining -= slice
        // What is left gives each of the later ones half a second, or an equal part of all there was.
        assert.isAtLeast(remaining + 1e-6, Math.min(later * 500, (remaining + slice) * later / (later + 1)))
      }
      assert.isBelow(Math.abs(remaining), 1e-6)
    }))
})

describe("the time of an attempt", () => {
  const sliceOf = (options: Partial<Decisions.Setup>, cooling: Decisions.Cooling = []) => {
    const [, decision] = Decisions.decide(
      setup(["a/1", "b/1", "c/1"], { deadlineAt: 8000, ...options }),
      Decisions.initial,
      { _tag: "Start" },
      cooling,
      0
    )
    return decision._tag === "Attempt" ? decision.sliceMs : undefined
  }
  const table: ReadonlyArray<
    readonly [string, Partial<Decisions.Setup>, Decisions.Cooling, number]
  > = [
    ["is half of what is left", {}, [], 4000],
    ["is all of it when there are no more attempts", { maxAttempts: 1 }, [], Infinity],
    ["is all of it when nobody else is free", {}, [undefined, cooled(9), cooled(9)], Infinity],
    ["is all of it when it must not be sent again", { replays: false }, [], Infinity],
    ["is the limit of an attempt when that is shorter", { attemptMs: 3000 }, [], Infinity],
    ["is the limit of an attempt when there is plenty", { deadlineAt: 600_000 }, [], Infinity],
    ["is half also when that is not much shorter than the limit of an attempt", { attemptMs: 4001 }, [], 4000]
  ]
  for (const [rule, options, cooling, expected] of table) {
    it(rule, () => {
      assert.strictEqual(sliceOf(options, cooling), expected)
    })
  }
})
