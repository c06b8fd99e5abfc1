import { assert, describe, it } from "@effect/vitest"
import { LLMError, Recovery, Selection, Target } from "breakwater"
import { Duration, Effect, Random } from "effect"
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
