import { assert, describe, it } from "@effect/vitest"
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import { Schema } from "effect"
import * as Core from "../../../src/internal/circuit/core.ts"
import type * as Trip from "../../../src/internal/circuit/trip.ts"

const config = (changes: Partial<Core.Config> = {}): Core.Config => ({
  rules: [CircuitBreaker.consecutive(2)],
  open: { durationMs: (attempt) => 1000 * 2 ** (attempt - 1), jitter: 0, maxHintMs: 3_600_000, forget: "after-stable" },
  halfOpen: CircuitBreaker.successes({ required: 2 }),
  probeTimeoutMs: 30_000,
  maxWaitMs: Number.POSITIVE_INFINITY,
  ramp: undefined,
  disabled: false,
  ...changes
})

const sample = (failure?: Trip.FailureClass, hintUntil = Number.NEGATIVE_INFINITY): Trip.Sample => ({
  failure,
  weight: 1,
  durationMs: 1,
  firstTokenMs: undefined,
  hintUntil
})

const ignored: Core.Outcome = { _tag: "Ignored" }
const counted = (failure?: Trip.FailureClass): Core.Outcome => ({
  _tag: "Counted",
  sample: sample(failure),
  evidence: undefined
})

const op = Schema.Literals(["admit", "success", "failure", "ignored", "content", "trip", "isolate", "release", "reset"])
const walk = {
  steps: Schema.Array(
    Schema.Struct({
      // Calls are what a circuit mostly sees.
      op: Schema.Union([op, Schema.Literals(["admit", "failure", "success"])]),
      gap: Schema.Literals([0, 0, 1, 500, 1000, 2500, 31_000]),
      pick: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 50 }))
    })
  ).check(Schema.isMaxLength(60)),
  rule: Schema.Literals([0, 1, 2, 3, 4]),
  ramp: Schema.Boolean
}

const halfOpens: ReadonlyArray<Core.HalfOpenRule> = [
  CircuitBreaker.successes({ required: 1 }),
  CircuitBreaker.successes({ required: 3, permitted: 2 }),
  CircuitBreaker.successRatio({ required: 2, outOf: 3 }),
  CircuitBreaker.failureRatio({ failures: 2, outOf: 4 }),
  CircuitBreaker.probeRate({ permitted: 4, minimumCalls: 3 })
]

type Walk = { readonly [K in keyof typeof walk]: (typeof walk)[K]["Type"] }

interface Step {
  readonly before: Core.State
  readonly after: Core.State
  readonly now: number
  readonly decision: Core.Decision | undefined
  readonly told: Core.Permit | undefined
}

/** Walks a circuit through the steps; `inspect` sees every one of them. Returns the end and the permits in flight. */
const run = (setup: Core.Config, { steps }: Pick<Walk, "steps">, inspect: (step: Step) => void) => {
  let now = 0
  let state = Core.initial(setup, 0, 1, now)
  let held: ReadonlyArray<Core.Permit> = []
  const tokens: Array<number> = []
  for (const [index, step] of steps.entries()) {
    now += step.gap
    const before = state
    let decision: Core.Decision | undefined
    const told = held[step.pick % Math.max(1, held.length)]
    const tell = (outcome: Core.Outcome) => {
      if (told === undefined) return
      state = Core.record(setup, state, told, outcome, now)
      held = held.filter((permit) => permit !== told)
    }
    switch (step.op) {
      case "admit":
        ;[state, decision] = Core.admit(setup, state, now)
        if (decision._tag === "Admitted") held = [...held, decision.permit]
        break
      case "success":
        tell(counted())
        break
      case "failure":
        tell(counted("server_error"))
        break
      case "ignored":
        tell(ignored)
        break
      case "content":
        if (told !== undefined) {
          const [after, permit] = Core.decide(setup, state, told, sample(), now)
          state = after
          held = held.map((other) => other === told ? permit : other)
        }
        break
      case "trip":
        state = Core.trip(setup, state, step.pick * 100, now)
        break
      case "isolate":
        state = Core.isolate(setup, state, { token: index, reason: "test" }, now)
        tokens.push(index)
        break
      case "release":
        state = Core.release(setup, state, tokens.shift() ?? -1, now)
        break
      case "reset":
        state = Core.reset(setup, state, now)
        tokens.length = 0
        break
    }
    inspect({ before, after: state, now, decision, told: step.op === "admit" ? undefined : told })
  }
  return { state, held, now }
}

const setupOf = ({ ramp, rule }: Pick<Walk, "ramp" | "rule">): Core.Config =>
  config({
    halfOpen: halfOpens[rule] ?? CircuitBreaker.successes({ required: 1 }),
    ramp: ramp ? { windowMs: 5000, minimumShare: 0.1, aggression: 1, admission: "even" } : undefined
  })

describe("any walk through a circuit", () => {
  it.prop("T23: never has more probes than are permitted, and gets every slot back", walk, (walk) => {
    const setup = setupOf(walk)
    const { held, now, state } = run(setup, walk, ({ after }) => {
      if (after.phase._tag === "HalfOpen") assert.isAtMost(after.phase.probes.length, setup.halfOpen.permitted)
    })
    const slots = held.flatMap((permit) => permit.generation === state.generation ? [permit.probe] : [])
    if (state.phase._tag === "HalfOpen") assert.includeMembers(slots, state.phase.probes.map((probe) => probe.id))
    const end = held.reduce((after, permit) => Core.record(setup, after, permit, ignored, now), state)
    if (end.phase._tag === "HalfOpen") assert.deepStrictEqual(end.phase.probes, [])
  })

  it.prop("makes no transition on a refusal", walk, (walk) => {
    const setup = setupOf(walk)
    run(setup, walk, ({ after, before, decision, now }) => {
      if (decision?._tag !== "Refused") return
      assert.strictEqual(after.generation, Core.advance(setup, before, now).generation)
    })
  })

  it.prop("T23: is not changed by an outcome of an older generation", walk, (walk) => {
    const setup = setupOf(walk)
    const { state, now } = run(setup, walk, ({ after, before, told }) => {
      if (told !== undefined && told.generation < before.generation && after.generation === before.generation) {
        assert.strictEqual(after.phase._tag, before.phase._tag)
      }
    })
    for (const outcome of [counted(), counted("timeout"), ignored]) {
      const old = { generation: state.generation - 1, probe: 1, counted: false }
      assert.strictEqual(Core.record(setup, state, old, outcome, now), state)
    }
  })

  it.prop("T20: never shortens the time it is open", walk, (walk) => {
    run(setupOf(walk), walk, ({ after, before, now }) => {
      if (before.phase._tag === "Open" && after.phase._tag === "Open" && before.phase.until > now) {
        assert.isAtLeast(after.phase.until, before.phase.until)
      }
    })
  })

  it.prop("never refuses when disabled", walk, (walk) => {
    run({ ...setupOf(walk), disabled: true }, walk, ({ decision }) => assert.notStrictEqual(decision?._tag, "Refused"))
  })

  it.prop("is told by a look ahead what its next admission will say", walk, (walk) => {
    const setup = setupOf(walk)
    run(setup, walk, ({ after, now }) => {
      const [advanced] = Core.admit(setup, Core.advance(setup, after, now), now)
      assert.deepStrictEqual(Core.admit(setup, after, now)[0], advanced)
    })
  })
})

/** Opens a fresh circuit at 0 and makes it half-open at the end of its time. */
const probing = (setup: Core.Config, probes: number) => {
  let state = Core.trip(setup, Core.initial(setup, 0, 1, 0), 1000, 0)
  const permits: Array<Core.Permit> = []
  for (let i = 0; i < probes; i++) {
    const [after, decision] = Core.admit(setup, state, 1000)
    state = after
    if (decision._tag === "Admitted") permits.push(decision.permit)
  }
  return { state, permits }
}

describe("a half-open circuit", () => {
  it("counts a probe that is overdue as failed, at the time at which it was", () => {
    const setup = config()
    const { state } = probing(setup, 1)
    const after = Core.advance(setup, state, 60_000)
    assert.deepStrictEqual(after.phase, { _tag: "Open", since: 31_000, until: 33_000 })
    assert.match(after.why?.text ?? "", /30000 ms/)
  })

  it("opens again after its longest wait, whatever its probes do", () => {
    const setup = config({ maxWaitMs: 5000 })
    const { permits, state } = probing(setup, 2)
    const [permit] = permits
    assert.isDefined(permit)
    const one = Core.record(setup, state, permit, counted(), 2000)
    assert.strictEqual(one.phase._tag, "HalfOpen")
    assert.deepStrictEqual(Core.advance(setup, one, 9000).phase, { _tag: "Open", since: 6000, until: 8000 })
  })

  it("says how long the earliest probe may take when it refuses", () => {
    const { state } = probing(config(), 2)
    const [, decision] = Core.admit(config(), state, 5000)
    assert.deepInclude(decision, { _tag: "Refused", status: "half-open", retryAfterMs: 26_000 })
  })

  it("takes a failure after the first content back out of the successes", () => {
    const setup = config({ halfOpen: CircuitBreaker.successRatio({ required: 2, outOf: 3 }) })
    const { permits, state } = probing(setup, 2)
    const [permit] = permits
    assert.isDefined(permit)
    const [decided, rest] = Core.decide(setup, state, permit, sample(), 1500)
    assert.deepInclude(decided.phase, { successes: 1, failures: 0 })
    assert.deepInclude(Core.record(setup, decided, rest, counted("timeout"), 1600).phase, { successes: 0, failures: 1 })
  })
})

describe("the decision of probes", () => {
  const slow: Core.Outcome = { _tag: "Counted", sample: { ...sample(), durationMs: 200 }, evidence: undefined }
  const slowRule = CircuitBreaker.slowCalls({ duration: 100, threshold: 0.5 })

  /** How a half-open circuit stands after each outcome of its probes. */
  const phases = (halfOpen: Core.HalfOpenRule, outcomes: ReadonlyArray<Core.Outcome>, rules = [slowRule]) => {
    const setup = config({ halfOpen, rules })
    const begun = probing(setup, outcomes.length)
    let state = begun.state
    return outcomes.map((outcome, index) => {
      const permit = begun.permits[index]
      assert.isDefined(permit)
      state = Core.record(setup, state, permit, outcome, 1000)
      return state.phase._tag
    })
  }

  it("takes a slow probe as no recovery", () => {
    assert.deepStrictEqual(phases(CircuitBreaker.successes({ required: 2 }), [counted(), slow]), ["HalfOpen", "Open"])
  })

  it("of a rate has a share of the slow of its own", () => {
    const rate = CircuitBreaker.probeRate({ permitted: 4 })
    const wait = ["HalfOpen", "HalfOpen", "HalfOpen"]
    assert.deepStrictEqual(phases(rate, [slow, counted(), counted(), counted("timeout")]), [...wait, "Closed"])
    assert.deepStrictEqual(phases(rate, [slow, counted(), counted(), slow]), [...wait, "Open"])
    assert.deepStrictEqual(phases(rate, [counted("timeout"), counted(), counted(), counted("timeout")]), [
      ...wait,
      "Open"
    ])
  })

  it("of a sample tolerates exactly the share it says", () => {
    const tolerant = CircuitBreaker.probeSample({ calls: 2, tolerated: 0.5 })
    assert.deepStrictEqual(phases(tolerant, [counted("timeout"), counted()]), ["HalfOpen", "Closed"])
    assert.deepStrictEqual(phases(tolerant, [counted("timeout"), counted("timeout")]), ["HalfOpen", "Open"])
  })
})

describe("open times", () => {
  it("grow with each opening in a row, and begin again after the circuit stayed closed as long as it was open", () => {
    const setup = config({
      halfOpen: CircuitBreaker.successes({ required: 1 }),
      rules: [CircuitBreaker.consecutive(1)]
    })
    const call = (state: Core.State, now: number, failure?: Trip.FailureClass): Core.State => {
      const [after, decision] = Core.admit(setup, state, now)
      assert.strictEqual(decision._tag, "Admitted")
      return decision._tag === "Admitted" ? Core.record(setup, after, decision.permit, counted(failure), now) : after
    }
    const closedAt3 = call(call(call(Core.initial(setup, 0, 1, 0), 0, "timeout"), 1000, "timeout"), 3000)
    assert.strictEqual(closedAt3.phase._tag, "Closed")
    assert.strictEqual(call(closedAt3, 4999, "timeout").openedForMs, 4000)
    assert.strictEqual(call(closedAt3, 5000, "timeout").openedForMs, 1000)
    const onClose = { ...setup, open: { ...setup.open, forget: "on-close" as const } }
    assert.strictEqual(Core.nextAttempt(onClose, closedAt3, 3001), 1)
  })

  it.prop(
    "T25: stay within their jitter, and never end before a stated wait",
    { seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 32 - 1 })), hinted: Schema.Boolean },
    ({ hinted, seed }) => {
      const base = config({ rules: [CircuitBreaker.consecutive(1)] })
      const setup = { ...base, open: { ...base.open, jitter: 0.1 } }
      const state = Core.initial(setup, 0, seed, 0)
      const permit = { generation: 0, probe: undefined, counted: false }
      const told: Core.Outcome = {
        _tag: "Counted",
        sample: sample("server_error", hinted ? 5000 : undefined),
        evidence: undefined
      }
      const { openedForMs } = Core.record(setup, state, permit, told, 0)
      assert.isAtLeast(openedForMs, hinted ? 5000 : 900)
      assert.isAtMost(openedForMs, hinted ? 5500 : 1100)
    }
  )
})

it("a clock that goes back changes nothing", () => {
  const setup = config()
  const open = Core.trip(setup, Core.initial(setup, 0, 1, 10_000), 1000, 10_000)
  const [, decision] = Core.admit(setup, open, 2000)
  assert.deepInclude(decision, { _tag: "Refused", retryAfterMs: 1000 })
})
