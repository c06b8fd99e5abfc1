import { assert, describe, it } from "@effect/vitest"
import * as CircuitBreaker from "breakwater/CircuitBreaker"
import * as Core from "../../../src/internal/circuit/core.ts"
import type * as Trip from "../../../src/internal/circuit/trip.ts"

const config = (changes: Partial<Core.Config> = {}): Core.Config => ({
  rules: [CircuitBreaker.consecutive(2)],
  open: { durationMs: (attempt) => 1000 * attempt, jitter: 0, maxHintMs: 10_000, forget: "after-stable" },
  halfOpen: CircuitBreaker.successes({ required: 2 }),
  probeTimeoutMs: 30_000,
  maxWaitMs: Number.POSITIVE_INFINITY,
  ramp: undefined,
  disabled: false,
  ...changes
})

const even: Core.Ramp = { windowMs: 10_000, minimumShare: 0.1, aggression: 1, admission: "even" }

const sample = (changes: Partial<Trip.Sample> = {}): Trip.Sample => ({
  failure: undefined,
  weight: 1,
  durationMs: 1,
  firstTokenMs: undefined,
  hintUntil: Number.NEGATIVE_INFINITY,
  ...changes
})

const evidence = (failure: Trip.FailureClass, text = `${failure} of acme`): Core.Evidence => ({
  failure,
  text,
  provider: "acme",
  model: undefined,
  target: undefined
})

const counted = (changes: Partial<Trip.Sample> = {}): Core.Outcome => ({
  _tag: "Counted",
  sample: sample(changes),
  evidence: changes.failure === undefined ? undefined : evidence(changes.failure)
})

// -----------------------------------------------------------------------------
// Scripts
// -----------------------------------------------------------------------------

const phaseText = (phase: Core.Phase): string => {
  switch (phase._tag) {
    case "Closed":
      return phase.credit === undefined ? `closed ${phase.since}` : `ramp ${phase.since} (${phase.credit})`
    case "Open":
      return `open ${phase.since}-${phase.until}`
    case "HalfOpen": {
      const probes = phase.probes.map(({ deadline, id }) => `${id}@${deadline}`).join(" ")
      return `half-open ${phase.since} [${probes}] next ${phase.nextProbe} +${phase.successes} -${phase.failures} ~${phase.slow}`
    }
  }
}

/** Generation and phase, isolations, openings in a row and the time of the last one, the last event. */
const text = ({ attempt, generation, isolations, lastAt, openedForMs, phase }: Core.State): string => {
  const isolated = isolations.map(({ token }) => ` isolated ${token}`).join("")
  return `#${generation} ${phaseText(phase)}${isolated} | ${attempt} x ${openedForMs} | ${lastAt}`
}

const decisionText = (decision: Core.Decision): string =>
  decision._tag === "Admitted" ? "admitted" : `${decision.status}, ${decision.retryAfterMs} ms: ${decision.why}`

type Event =
  /** Asks for a permit, kept under a letter. */
  | { readonly ask: string }
  /** Says what became of a permit. */
  | { readonly tell: string; readonly outcome: Core.Outcome }
  /** The first content of a permit. */
  | { readonly content: string; readonly sample?: Trip.Sample }
  | { readonly trip: number | undefined }
  | { readonly isolate: number }
  | { readonly release: number }
  | { readonly also: "probe" | "reset" | "advance" }

type Step = readonly [at: number, event: Event, expected: string]

const ok = (permit: string): Event => ({ tell: permit, outcome: counted() })
const fails = (permit: string, failure: Trip.FailureClass = "server_error", hintUntil?: number): Event => ({
  tell: permit,
  outcome: counted(hintUntil === undefined ? { failure } : { failure, hintUntil })
})
const ignored = (permit: string): Event => ({ tell: permit, outcome: { _tag: "Ignored" } })
const slow = (permit: string): Event => ({ tell: permit, outcome: counted({ durationMs: 500 }) })

/** Runs a script; each line is what the circuit is after the step, or what a call is told that is refused. */
const play = (setup: Core.Config, steps: ReadonlyArray<Step>): Core.State => {
  let state = Core.initial(setup, 0, 7, 0)
  const permits = new Map<string, Core.Permit>()
  const permit = (name: string): Core.Permit => {
    const found = permits.get(name)
    assert.isDefined(found, name)
    return found
  }
  for (const [index, [at, event, expected]] of steps.entries()) {
    let said: string | undefined
    if ("ask" in event) {
      const [after, decision] = Core.admit(setup, state, at)
      state = after
      if (decision._tag === "Admitted") permits.set(event.ask, decision.permit)
      else said = decisionText(decision)
    } else if ("tell" in event) state = Core.record(setup, state, permit(event.tell), event.outcome, at)
    else if ("content" in event) {
      const [after, rest] = Core.decide(setup, state, permit(event.content), event.sample ?? sample(), at)
      state = after
      permits.set(event.content, rest)
    } else if ("trip" in event) state = Core.trip(setup, state, event.trip, at)
    else if ("isolate" in event) state = Core.isolate(setup, state, { token: event.isolate, reason: "repair" }, at)
    else if ("release" in event) state = Core.release(setup, state, event.release, at)
    else if (event.also === "probe") state = Core.probe(state, at)
    else if (event.also === "reset") state = Core.reset(setup, state, at)
    else state = Core.advance(setup, state, at)
    assert.strictEqual(said ?? text(state), expected, `step ${index}`)
  }
  return state
}

const slowRule = CircuitBreaker.slowCalls({ duration: 100, minimumCalls: 2, threshold: 0.5 })
const slowFirst = sample({ firstTokenMs: 900 })

const scripts: ReadonlyArray<readonly [rule: string, setup: Core.Config, steps: ReadonlyArray<Step>]> = [
  ["opens at the last failure of a row, half-opens by a call, closes by its probes", config(), [
    [5, { ask: "a" }, "#0 closed 0 | 0 x 0 | 0"],
    [10, fails("a"), "#0 closed 0 | 0 x 0 | 10"],
    [20, { ask: "b" }, "#0 closed 0 | 0 x 0 | 10"],
    [30, fails("b"), "#1 open 30-1030 | 1 x 1000 | 30"],
    [1029, { ask: "c" }, "open, 1 ms: opened after 2 consecutive failures, the last: server_error of acme"],
    [1030, { ask: "c" }, "#2 half-open 1030 [1@31030] next 2 +0 -0 ~0 | 1 x 1000 | 1030"],
    [1100, { ask: "d" }, "#2 half-open 1030 [1@31030 2@31100] next 3 +0 -0 ~0 | 1 x 1000 | 1100"],
    [1200, ok("c"), "#2 half-open 1030 [2@31100] next 3 +1 -0 ~0 | 1 x 1000 | 1200"],
    [1300, ok("d"), "#3 closed 1300 | 1 x 1000 | 1300"]
  ]],
  ["a failed probe opens it again for longer", config(), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1500, fails("a"), "#3 open 1500-3500 | 2 x 2000 | 1500"],
    [2000, { ask: "b" }, "open, 1500 ms: opened after a failed probe: server_error of acme"]
  ]],
  ["a stated wait is a lower bound of the time it is open, up to the longest that is honoured", config(), [
    [0, { ask: "a" }, "#0 closed 0 | 0 x 0 | 0"],
    [0, fails("a", "rate_limit", 4000), "#0 closed 0 | 0 x 0 | 0"],
    [0, { ask: "b" }, "#0 closed 0 | 0 x 0 | 0"],
    [500, fails("b"), "#1 open 500-4000 | 1 x 3500 | 500"],
    [4000, { ask: "c" }, "#2 half-open 4000 [1@34000] next 2 +0 -0 ~0 | 1 x 3500 | 4000"],
    [4000, fails("c", "rate_limit", 90_000), "#3 open 4000-14000 | 2 x 10000 | 4000"]
  ]],
  ["by hand it opens for the time that is said, and is never shortened", config(), [
    [10, { trip: 300 }, "#1 open 10-310 | 1 x 300 | 10"],
    [20, { ask: "a" }, "open, 290 ms: opened after being tripped by hand"],
    [20, { trip: undefined }, "#1 open 10-310 | 1 x 300 | 20"],
    [30, { trip: 200 }, "#1 open 10-310 | 1 x 300 | 30"],
    [40, { trip: 500 }, "#1 open 10-540 | 1 x 530 | 40"],
    [540, { trip: undefined }, "#2 open 540-2540 | 2 x 2000 | 540"]
  ]],
  ["by hand it half-opens at once, and is reset", config(), [
    [10, { trip: undefined }, "#1 open 10-1010 | 1 x 1000 | 10"],
    [20, { also: "probe" }, "#2 half-open 20 [] next 1 +0 -0 ~0 | 1 x 1000 | 20"],
    [5, { also: "probe" }, "#3 half-open 20 [] next 1 +0 -0 ~0 | 1 x 1000 | 20"],
    [5, { also: "reset" }, "#4 closed 20 | 0 x 0 | 20"],
    [30, { isolate: 1 }, "#5 closed 20 isolated 1 | 0 x 0 | 30"],
    [40, { also: "reset" }, "#6 closed 40 | 0 x 0 | 40"]
  ]],
  ["an isolation refuses everything, is not ended by time, and leaves nothing of what was in flight", config(), [
    [0, { ask: "a" }, "#0 closed 0 | 0 x 0 | 0"],
    [10, { isolate: 1 }, "#1 closed 0 isolated 1 | 0 x 0 | 10"],
    [20, { ask: "b" }, "isolated, Infinity ms: isolated: repair"],
    [5, { isolate: 2 }, "#1 closed 0 isolated 1 isolated 2 | 0 x 0 | 10"],
    [15, { isolate: 4 }, "#1 closed 0 isolated 1 isolated 2 isolated 4 | 0 x 0 | 15"],
    [15, { release: 4 }, "#1 closed 0 isolated 1 isolated 2 | 0 x 0 | 15"],
    [30, { release: 3 }, "#1 closed 0 isolated 1 isolated 2 | 0 x 0 | 15"],
    [30, { release: 1 }, "#1 closed 0 isolated 2 | 0 x 0 | 30"],
    [20, { release: 2 }, "#2 closed 30 | 0 x 0 | 30"],
    [40, fails("a"), "#2 closed 30 | 0 x 0 | 30"],
    [50, { ask: "c" }, "#2 closed 30 | 0 x 0 | 30"],
    [60, fails("c"), "#2 closed 30 | 0 x 0 | 60"]
  ]],
  ["an isolation leaves an open circuit open, and puts off the probes of a half-open one", config(), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [10, { isolate: 1 }, "#2 open 0-1000 isolated 1 | 1 x 1000 | 10"],
    [20, { release: 1 }, "#3 open 0-1000 | 1 x 1000 | 20"],
    [1000, { ask: "a" }, "#4 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1010, { isolate: 2 }, "#5 open 1000-1010 isolated 2 | 1 x 1000 | 1010"],
    [1020, ok("a"), "#5 open 1000-1010 isolated 2 | 1 x 1000 | 1010"],
    [1030, { release: 2 }, "#6 open 1000-1010 | 1 x 1000 | 1030"],
    [1040, { ask: "b" }, "#7 half-open 1040 [1@31040] next 2 +0 -0 ~0 | 1 x 1000 | 1040"]
  ]],
  ["after an isolation the share of traffic grows as after a close", config({ ramp: even }), [
    [0, { isolate: 1 }, "#1 closed 0 isolated 1 | 0 x 0 | 0"],
    [10, { release: 1 }, "#2 ramp 10 (0) | 0 x 0 | 10"],
    [20, { ask: "a" }, "ramp, 9990 ms: recovering, 10 % of calls admitted, after an isolation"]
  ]],
  ["after a close it admits an even share, and all again at the end", config({ ramp: even }), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1000, { ask: "b" }, "#2 half-open 1000 [1@31000 2@31000] next 3 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1000, ok("a"), "#2 half-open 1000 [2@31000] next 3 +1 -0 ~0 | 1 x 1000 | 1000"],
    [1000, ok("b"), "#3 ramp 1000 (0) | 1 x 1000 | 1000"],
    [5375, { ask: "c" }, "ramp, 5625 ms: recovering, 44 % of calls admitted, after being tripped by hand"],
    [6000, { ask: "c" }, "ramp, 5000 ms: recovering, 50 % of calls admitted, after being tripped by hand"],
    [6000, { ask: "c" }, "#3 ramp 1000 (0.4375) | 1 x 1000 | 1000"],
    [6100, ok("c"), "#3 ramp 1000 (0.4375) | 1 x 1000 | 1000"],
    [10_999, { also: "advance" }, "#3 ramp 1000 (0.4375) | 1 x 1000 | 1000"],
    [11_000, { also: "advance" }, "#3 closed 1000 | 1 x 1000 | 11000"]
  ]],
  ["sums of fractions lose no admission and make no debt", config({ ramp: even }), [
    [0, { isolate: 1 }, "#1 closed 0 isolated 1 | 0 x 0 | 0"],
    [0, { release: 1 }, "#2 ramp 0 (0) | 0 x 0 | 0"],
    ...Array.from({ length: 9 }, (): Step => [
      0,
      { ask: "a" },
      "ramp, 10000 ms: recovering, 10 % of calls admitted, after an isolation"
    ]),
    [0, { ask: "a" }, "#2 ramp 0 (0) | 0 x 0 | 0"]
  ]],
  ["a failure while the share grows opens it again", config({ ramp: even, rules: [CircuitBreaker.consecutive(9)] }), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [1000, { also: "probe" }, "#2 half-open 1000 [] next 1 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1000, { ask: "b" }, "#2 half-open 1000 [1@31000 2@31000] next 3 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1000, ok("a"), "#2 half-open 1000 [2@31000] next 3 +1 -0 ~0 | 1 x 1000 | 1000"],
    [1000, ok("b"), "#3 ramp 1000 (0) | 1 x 1000 | 1000"],
    [8500, { ask: "c" }, "ramp, 2500 ms: recovering, 75 % of calls admitted, after being tripped by hand"],
    [8500, { ask: "c" }, "#3 ramp 1000 (0.5) | 1 x 1000 | 1000"],
    [9500, fails("c"), "#4 open 9500-11500 | 2 x 2000 | 9500"],
    [9500, { ask: "d" }, "open, 2000 ms: opened after a failure while recovering: server_error of acme"]
  ]],
  [
    "an overdue probe counts as failed when it was due, the others go on",
    config({
      halfOpen: CircuitBreaker.failureRatio({ failures: 2, outOf: 4 })
    }),
    [
      [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
      [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
      [9000, { ask: "b" }, "#2 half-open 1000 [1@31000 2@39000] next 3 +0 -0 ~0 | 1 x 1000 | 9000"],
      [9000, { ask: "c" }, "#2 half-open 1000 [1@31000 2@39000 3@39000] next 4 +0 -0 ~0 | 1 x 1000 | 9000"],
      [30_999, { also: "advance" }, "#2 half-open 1000 [1@31000 2@39000 3@39000] next 4 +0 -0 ~0 | 1 x 1000 | 9000"],
      [31_000, { also: "advance" }, "#2 half-open 1000 [2@39000 3@39000] next 4 +0 -1 ~0 | 1 x 1000 | 9000"],
      [32_000, ok("a"), "#2 half-open 1000 [2@39000 3@39000] next 4 +0 -1 ~0 | 1 x 1000 | 9000"],
      [33_000, ignored("b"), "#2 half-open 1000 [3@39000] next 4 +0 -1 ~0 | 1 x 1000 | 33000"],
      [40_000, { also: "advance" }, "#3 open 39000-41000 | 2 x 2000 | 39000"],
      [40_000, { ask: "d" }, "open, 1000 ms: opened after a probe that had no result within 30000 ms"]
    ]
  ],
  [
    "a sample that an overdue probe completes may close it, and what comes later does not count",
    config({
      rules: [CircuitBreaker.consecutive(1)],
      halfOpen: CircuitBreaker.probeSample({ calls: 2, tolerated: 0.5 })
    }),
    [
      [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
      [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
      [1000, { ask: "b" }, "#2 half-open 1000 [1@31000 2@31000] next 3 +0 -0 ~0 | 1 x 1000 | 1000"],
      [1500, ok("a"), "#2 half-open 1000 [2@31000] next 3 +1 -0 ~0 | 1 x 1000 | 1500"],
      [40_000, fails("b"), "#3 closed 31000 | 1 x 1000 | 31000"]
    ]
  ],
  ["half-open lasts no longer than its longest wait, to the millisecond", config({ maxWaitMs: 500 }), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1499, { also: "advance" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [1500, { also: "advance" }, "#3 open 1500-3500 | 2 x 2000 | 1500"],
    [1600, { ask: "b" }, "open, 1900 ms: opened after probes that decided nothing within 500 ms"]
  ]],
  ["the longest wait comes before a probe that is overdue at the same time", config({ maxWaitMs: 30_000 }), [
    [0, { trip: undefined }, "#1 open 0-1000 | 1 x 1000 | 0"],
    [1000, { ask: "a" }, "#2 half-open 1000 [1@31000] next 2 +0 -0 ~0 | 1 x 1000 | 1000"],
    [31_000, { ask: "b" }, "open, 2000 ms: opened after probes that decided nothing within 30000 ms"]
  ]],
  [
    "of a ratio of successes, those that are missing decide",
    config({
      halfOpen: CircuitBreaker.successRatio({ required: 2, outOf: 3 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "b" }, "#1 half-open 0 [1@30000 2@30000] next 3 +0 -0 ~0 | 0 x 0 | 0"],
      [0, fails("a"), "#1 half-open 0 [2@30000] next 3 +0 -1 ~0 | 0 x 0 | 0"],
      [0, fails("b"), "#2 open 0-1000 | 1 x 1000 | 0"]
    ]
  ],
  [
    "of a ratio of failures, those that are missing decide",
    config({
      halfOpen: CircuitBreaker.failureRatio({ failures: 2, outOf: 3 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "b" }, "#1 half-open 0 [1@30000 2@30000] next 3 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "c" }, "#1 half-open 0 [1@30000 2@30000 3@30000] next 4 +0 -0 ~0 | 0 x 0 | 0"],
      [0, fails("a"), "#1 half-open 0 [2@30000 3@30000] next 4 +0 -1 ~0 | 0 x 0 | 0"],
      [0, ok("b"), "#1 half-open 0 [3@30000] next 4 +1 -1 ~0 | 0 x 0 | 0"],
      [0, ok("c"), "#2 closed 0 | 0 x 0 | 0"]
    ]
  ],
  [
    "of a rate it takes no more probes than the sample is large, those that ended included",
    config({
      halfOpen: CircuitBreaker.probeRate({ permitted: 3, minimumCalls: 3, threshold: 0.5 }),
      rules: [CircuitBreaker.countWindow({ size: 10, threshold: 0.2 }), slowRule]
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, fails("a"), "#1 half-open 0 [] next 2 +0 -1 ~0 | 0 x 0 | 0"],
      [0, { ask: "b" }, "#1 half-open 0 [2@30000] next 3 +0 -1 ~0 | 0 x 0 | 0"],
      [0, slow("b"), "#1 half-open 0 [] next 3 +1 -1 ~1 | 0 x 0 | 0"],
      [0, { ask: "c" }, "#1 half-open 0 [3@30000] next 4 +1 -1 ~1 | 0 x 0 | 0"],
      [0, { ask: "d" }, "half-open, 30000 ms: probing after being opened"],
      [0, ok("c"), "#2 closed 0 | 0 x 0 | 0"]
    ]
  ],
  [
    "of a sample it takes no more probes than the sample is large",
    config({
      halfOpen: CircuitBreaker.probeSample({ calls: 2 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, ok("a"), "#1 half-open 0 [] next 2 +1 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "b" }, "#1 half-open 0 [2@30000] next 3 +1 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "c" }, "half-open, 30000 ms: probing after being opened"]
    ]
  ],
  ["a slow probe is named as what it is", config({ rules: [slowRule] }), [
    [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
    [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
    [0, slow("a"), "#2 open 0-1000 | 1 x 1000 | 0"],
    [0, { ask: "b" }, "open, 1000 ms: opened after a slow probe"]
  ]],
  [
    "the first content of a probe counts once, its end does not, a failure after it takes it back",
    config({
      rules: [CircuitBreaker.slowCalls({ duration: 100 })],
      halfOpen: CircuitBreaker.successRatio({ required: 3, outOf: 5 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "b" }, "#1 half-open 0 [1@30000 2@30000] next 3 +0 -0 ~0 | 0 x 0 | 0"],
      [10, { content: "a" }, "#1 half-open 0 [2@30000] next 3 +1 -0 ~0 | 0 x 0 | 10"],
      [20, { content: "a" }, "#1 half-open 0 [2@30000] next 3 +1 -0 ~0 | 0 x 0 | 10"],
      [30, slow("a"), "#1 half-open 0 [2@30000] next 3 +1 -0 ~0 | 0 x 0 | 30"],
      [40, { content: "b" }, "#1 half-open 0 [] next 3 +2 -0 ~0 | 0 x 0 | 40"],
      [50, fails("b", "timeout"), "#1 half-open 0 [] next 3 +1 -1 ~0 | 0 x 0 | 50"]
    ]
  ],
  [
    "a first content that comes too late is a failure, and counts as that once",
    config({
      rules: [CircuitBreaker.slowCalls({ firstToken: 100 })],
      halfOpen: CircuitBreaker.successRatio({ required: 2, outOf: 4 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { content: "a", sample: slowFirst }, "#1 half-open 0 [] next 2 +0 -1 ~1 | 0 x 0 | 0"],
      [0, fails("a"), "#1 half-open 0 [] next 2 +0 -1 ~1 | 0 x 0 | 0"]
    ]
  ],
  [
    "a first content that closes it does not count again at the end, a failure does",
    config({
      rules: [CircuitBreaker.consecutive(1)],
      halfOpen: CircuitBreaker.successes({ required: 1 })
    }),
    [
      [0, { also: "probe" }, "#1 half-open 0 [] next 1 +0 -0 ~0 | 0 x 0 | 0"],
      [0, { ask: "a" }, "#1 half-open 0 [1@30000] next 2 +0 -0 ~0 | 0 x 0 | 0"],
      [10, { content: "a" }, "#2 closed 10 | 0 x 0 | 10"],
      [20, fails("a"), "#3 open 20-1020 | 1 x 1000 | 20"]
    ]
  ],
  ["what is disabled stays closed, even by hand", config({ disabled: true, rules: [CircuitBreaker.consecutive(1)] }), [
    [0, { trip: undefined }, "#0 closed 0 | 0 x 0 | 0"],
    [0, { trip: 500 }, "#0 closed 0 | 0 x 0 | 0"],
    [0, { ask: "a" }, "#0 closed 0 | 0 x 0 | 0"],
    [10, fails("a"), "#0 closed 0 | 0 x 0 | 10"]
  ]]
]

describe("a circuit", () => {
  for (const [rule, setup, steps] of scripts) {
    it(rule, () => {
      // Without jitter and with an even ramp nothing is left to chance.
      assert.strictEqual(play(setup, steps).seed, 7)
    })
  }
})

// -----------------------------------------------------------------------------
// Single steps
// -----------------------------------------------------------------------------

/** Mulberry32, as its author wrote it: numbers between 0 and 1. */
const mulberry = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
}

describe("chance", () => {
  it("spreads the time it is open as the numbers of its seed say, a stated wait upwards only", () => {
    for (const [jitter, hint] of [[0.2, 0], [1, 0], [0.2, 5000]] as const) {
      const setup = config({ rules: [CircuitBreaker.consecutive(1)], open: { ...config().open, jitter } })
      const random = mulberry(99)
      let state = Core.initial(setup, 0, 99, 0)
      for (let opening = 0; opening < 20; opening++) {
        state = Core.reset(setup, state, 0)
        const permit = { generation: state.generation, probe: undefined, counted: false }
        state = Core.record(setup, state, permit, counted({ failure: "timeout", hintUntil: hint }), 0)
        const drawn = random()
        const expected = Math.max(1000 * (1 + jitter * (2 * drawn - 1)), hint * (1 + jitter * drawn))
        assert.closeTo(state.openedForMs, expected, 1e-6)
        assert.isAtLeast(state.seed, 0)
      }
    }
  })

  it("admits a call while the share grows when its number is below the share", () => {
    const setup = config({ ramp: { ...even, admission: "random" } })
    const random = mulberry(5)
    let state = Core.release(
      setup,
      Core.isolate(setup, Core.initial(setup, 0, 5, 0), { token: 1, reason: "" }, 0),
      1,
      0
    )
    for (let call = 0; call < 60; call++) {
      const [after, decision] = Core.admit(setup, state, 3000)
      const permit = { generation: state.generation, probe: undefined, counted: false }
      if (random() < 0.3) assert.deepStrictEqual(decision, { _tag: "Admitted", permit })
      else assert.strictEqual(decision._tag, "Refused")
      assert.deepInclude(after.phase, { credit: 0 })
      state = after
    }
  })
})

describe("the share that is admitted after a close", () => {
  const ramp = { windowMs: 16_000, minimumShare: 0.1, aggression: 2 }

  it("grows by a root of the time, from the first second and no less than the minimum, to all", () => {
    assert.deepStrictEqual([0, 999, 1000, 4000, 16_000, 64_000].map((elapsed) => Core.share(ramp, elapsed)), [
      0.25,
      0.25,
      0.25,
      0.5,
      1,
      1
    ])
    assert.isAbove(Core.share(ramp, 1001), 0.25)
    assert.strictEqual(Core.share({ ...ramp, minimumShare: 0.4 }, 1000), 0.4)
    assert.strictEqual(Core.share({ ...ramp, aggression: 0.5 }, 8000), 0.25)
  })
})

describe("what changes nothing", () => {
  const setup = config({ ramp: even })
  const start = Core.initial(setup, 0, 1, 0)
  const permit: Core.Permit = { generation: 0, probe: undefined, counted: false }

  it("leaves the very same state: time, a success after successes, an outcome that is ignored", () => {
    assert.strictEqual(Core.advance(setup, start, 60_000), start)
    assert.strictEqual(Core.record(setup, start, permit, counted(), 10), start)
    assert.strictEqual(Core.record(setup, start, permit, { _tag: "Ignored" }, 10), start)
    const [, decision] = Core.admit(setup, start, 5)
    assert.deepStrictEqual(decision, { _tag: "Admitted", permit })
    assert.deepStrictEqual(Core.admit({ ...setup, disabled: true }, start, 5)[1], { _tag: "Admitted", permit })
  })

  it("an outcome of an older generation, even when something is overdue", () => {
    const [half] = Core.admit(setup, Core.trip(setup, start, 10, 0), 10)
    assert.strictEqual(half.phase._tag, "HalfOpen")
    assert.strictEqual(Core.record(setup, half, permit, counted(), 90_000), half)
    const older = { generation: half.generation - 1, probe: 1, counted: false }
    assert.deepStrictEqual(Core.decide(setup, half, older, sample(), 20), [half, older])
  })

  it("a success of a call that counted at its first content", () => {
    const setup = config({ rules: [CircuitBreaker.countWindow({ size: 10 })] })
    const start = Core.initial(setup, 0, 1, 0)
    assert.strictEqual(Core.record(setup, start, { ...permit, counted: true }, counted(), 10), start)
    assert.notStrictEqual(Core.record(setup, start, permit, counted(), 10), start)
  })

  it("later events, in the states before them", () => {
    const setup = config({ rules: [CircuitBreaker.consecutive(3), CircuitBreaker.ratio({ failures: 3, outOf: 5 })] })
    const first = Core.record(setup, Core.initial(setup, 0, 1, 0), permit, counted({ failure: "timeout" }), 0)
    const again = Core.record(setup, Core.initial(setup, 0, 1, 0), permit, counted({ failure: "timeout" }), 0)
    Core.record(setup, first, permit, counted({ failure: "timeout" }), 1)
    assert.deepStrictEqual(first, again)
  })

  it("the permit of a first content that failed never counts again", () => {
    const setup = config({ rules: [CircuitBreaker.slowCalls({ firstToken: 100 })] })
    const [half, decision] = Core.admit(setup, Core.probe(start, 0), 0)
    assert.isTrue(decision._tag === "Admitted")
    if (decision._tag !== "Admitted") return
    const [opened, rest] = Core.decide(setup, half, decision.permit, slowFirst, 0)
    assert.strictEqual(opened.phase._tag, "Open")
    assert.deepInclude(rest, { probe: undefined, counted: true })
    assert.isBelow(rest.generation, 0)
  })
})

// -----------------------------------------------------------------------------
// Why
// -----------------------------------------------------------------------------

describe("why it opened", () => {
  it("a failure that no rule counts is remembered as the last one", () => {
    const setup = config({ rules: [CircuitBreaker.consecutive(2, { classes: ["timeout"] })] })
    const permit = { generation: 0, probe: undefined, counted: false }
    const { phase } = Core.record(setup, Core.initial(setup, 0, 1, 0), permit, counted({ failure: "unknown" }), 0)
    assert.deepInclude(phase, { failure: evidence("unknown") })
  })

  const calls = (setup: Core.Config, outcomes: ReadonlyArray<Core.Outcome>): Core.Why | undefined => {
    let state = Core.initial(setup, 0, 1, 0)
    for (const [index, outcome] of outcomes.entries()) {
      const permit = { generation: 0, probe: undefined, counted: false }
      state = Core.record(setup, state, permit, outcome, index)
    }
    assert.strictEqual(state.phase._tag, "Open")
    return state.why
  }
  const timeout = counted({ failure: "timeout" })
  const overload = counted({ failure: "server_error" })
  const bare: Core.Outcome = { _tag: "Counted", sample: sample({ failure: "unknown" }), evidence: undefined }
  const late = counted({ durationMs: 500 })

  const table: ReadonlyArray<readonly [rule: string, Trip.Rule, ReadonlyArray<Core.Outcome>, Core.Why]> = [
    ["names the last failure", CircuitBreaker.consecutive(2), [timeout, overload], {
      text: "2 consecutive failures, the last: server_error of acme",
      failure: "server_error",
      evidence: evidence("server_error")
    }],
    [
      "names the failure before when a success completes the sample",
      CircuitBreaker.countWindow({ size: 4, minimumCalls: 3, threshold: 0.6 }),
      [timeout, overload, counted()],
      {
        text: "67 % of 3 calls failed, the last: server_error of acme",
        failure: "server_error",
        evidence: evidence("server_error")
      }
    ],
    ["keeps the last evidence there is", CircuitBreaker.consecutive(2), [timeout, bare], {
      text: "2 consecutive failures, the last: timeout of acme",
      failure: "unknown",
      evidence: evidence("timeout")
    }],
    [
      "knows no failure when a success completes a sample of which nobody knows more",
      CircuitBreaker.countWindow({ size: 4, minimumCalls: 3, threshold: 0.6 }),
      [bare, bare, counted()],
      { text: "67 % of 3 calls failed", failure: "timeout", evidence: undefined }
    ],
    ["says no more than it knows", CircuitBreaker.consecutive(1), [bare], {
      text: "1 consecutive failure",
      failure: "unknown",
      evidence: undefined
    }],
    ["of slow calls is time, whatever failed", slowRule, [overload, counted({ failure: "unknown", durationMs: 500 })], {
      text: "50 % of 2 calls were slow",
      failure: "timeout",
      evidence: undefined
    }],
    ["of slow calls is time, where nothing failed", slowRule, [late, late], {
      text: "100 % of 2 calls were slow",
      failure: "timeout",
      evidence: undefined
    }]
  ]
  for (const [rule, tripRule, outcomes, why] of table) {
    it(rule, () => {
      assert.deepStrictEqual(calls(config({ rules: [tripRule] }), outcomes), why)
    })
  }

  it("of a trend is the failure, and time where nothing failed", () => {
    const rising = (failure: Trip.FailureClass | undefined, first = failure): Core.Why | undefined => {
      const setup = config({
        rules: [CircuitBreaker.trend({ of: "duration", bound: 1000, window: "1 second", minimumCalls: 1 })]
      })
      let state = Core.initial(setup, 0, 1, 0)
      for (let at = 0; state.phase._tag === "Closed" && at < 1000; at += 100) {
        const permit = { generation: 0, probe: undefined, counted: false }
        state = Core.record(setup, state, permit, counted({ failure: at === 0 ? first : failure, durationMs: at }), at)
      }
      return state.why
    }
    assert.deepInclude(rising("server_error"), { failure: "server_error", evidence: evidence("server_error") })
    assert.deepInclude(rising(undefined), { failure: "timeout", evidence: undefined })
    assert.deepInclude(rising(undefined, "server_error"), { failure: "timeout", evidence: undefined })
  })

  it("of probes that gave no answer is time", () => {
    const setup = config({ maxWaitMs: 40_000 })
    const [half] = Core.admit(setup, Core.probe(Core.initial(setup, 0, 1, 0), 0), 0)
    assert.deepInclude(Core.advance(setup, half, 30_000).why, { failure: "timeout", evidence: undefined })
    const empty = Core.probe(Core.initial(setup, 0, 1, 0), 0)
    assert.deepInclude(Core.advance(setup, empty, 40_000).why, { failure: "timeout", evidence: undefined })
  })

  it("of a failed probe is its class", () => {
    const setup = config()
    for (const [outcome, failure] of [[overload, "server_error"], [bare, "unknown"]] as const) {
      const [half, decision] = Core.admit(setup, Core.probe(Core.initial(setup, 0, 1, 0), 0), 0)
      assert.isTrue(decision._tag === "Admitted")
      if (decision._tag !== "Admitted") return
      assert.strictEqual(Core.record(setup, half, decision.permit, outcome, 0).why?.failure, failure)
    }
    const setupSlow = config({ rules: [slowRule] })
    const [half, decision] = Core.admit(setupSlow, Core.probe(Core.initial(setupSlow, 0, 1, 0), 0), 0)
    if (decision._tag !== "Admitted") return assert.fail("no probe")
    assert.strictEqual(Core.record(setupSlow, half, decision.permit, late, 0).why?.failure, "timeout")
  })
})
