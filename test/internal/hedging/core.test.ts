import { assert, describe, it } from "@effect/vitest"
import * as Core from "../../../src/internal/hedging/core.ts"

/** The decision in a few words. */
const words = (decision: Core.Decision): string => {
  switch (decision._tag) {
    case "Wait":
      return "wait"
    case "Start":
      return `start ${decision.index}${decision.arms ? " and wait for the next" : ""}`
    case "End":
      return `end with the ${decision.result}`
  }
}

const events: Readonly<Record<string, Core.Event>> = {
  began: { _tag: "Began" },
  "1 due": { _tag: "Due", index: 1 },
  "2 due": { _tag: "Due", index: 2 },
  refused: { _tag: "Refused" },
  failed: { _tag: "Failed" },
  decided: { _tag: "Decided" }
}

const table: ReadonlyArray<readonly [string, Core.Rules, ReadonlyArray<readonly [string, string]>]> = [
  ["a single attempt", { maxAttempts: 1, startsOnFailure: true }, [
    ["began", "start 0"],
    ["failed", "end with the first"]
  ]],
  ["attempts that start by time and one that wins", { maxAttempts: 3, startsOnFailure: true }, [
    ["began", "start 0 and wait for the next"],
    ["1 due", "start 1 and wait for the next"],
    ["2 due", "start 2"],
    ["decided", "end with the event"]
  ]],
  ["nothing after a decision", { maxAttempts: 3, startsOnFailure: true }, [
    ["began", "start 0 and wait for the next"],
    ["decided", "end with the event"],
    ["1 due", "wait"],
    ["failed", "wait"],
    ["decided", "wait"]
  ]],
  ["a failure starts the next, whose delay has then passed in vain", { maxAttempts: 3, startsOnFailure: true }, [
    ["began", "start 0 and wait for the next"],
    ["failed", "start 1 and wait for the next"],
    ["1 due", "wait"],
    ["2 due", "start 2"],
    ["failed", "wait"],
    ["failed", "end with the first"]
  ]],
  ["a failure that starts nothing", { maxAttempts: 3, startsOnFailure: false }, [
    ["began", "start 0 and wait for the next"],
    ["1 due", "start 1 and wait for the next"],
    ["failed", "wait"],
    ["2 due", "start 2"],
    ["failed", "wait"],
    ["failed", "end with the first"]
  ]],
  ["a failure with nothing beside it ends, and nothing comes after that", { maxAttempts: 3, startsOnFailure: false }, [
    ["began", "start 0 and wait for the next"],
    ["failed", "end with the first"],
    ["1 due", "wait"]
  ]],
  ["a refusal passes one over", { maxAttempts: 3, startsOnFailure: true }, [
    ["began", "start 0 and wait for the next"],
    ["1 due", "start 1 and wait for the next"],
    ["refused", "wait"],
    ["2 due", "start 2"],
    ["refused", "wait"],
    ["failed", "end with the first"]
  ]],
  ["a refusal after a failure passes on to the next at once", { maxAttempts: 3, startsOnFailure: true }, [
    ["began", "start 0 and wait for the next"],
    ["failed", "start 1 and wait for the next"],
    ["refused", "start 2"],
    ["refused", "end with the first"]
  ]],
  ["a failure while another is asked for", { maxAttempts: 2, startsOnFailure: false }, [
    ["began", "start 0 and wait for the next"],
    ["1 due", "start 1"],
    ["failed", "wait"],
    ["refused", "end with the first"]
  ]]
]

describe("step", () => {
  for (const [name, rules, steps] of table) {
    it(name, () => {
      let state = Core.initial
      for (const [event, expected] of steps) {
        const told = events[event]
        assert.isDefined(told)
        const [next, decision] = Core.step(rules, state, told)
        state = next
        assert.strictEqual(words(decision), expected, event)
      }
    })
  }
})
