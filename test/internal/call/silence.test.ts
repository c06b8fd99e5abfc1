import { assert, describe, it } from "@effect/vitest"
import { Target } from "breakwater"
import * as Silences from "../../../src/internal/call/silence.ts"

const keys = (count: number): ReadonlyArray<Target.Target> =>
  Array.from({ length: count }, (_, n) => Target.make({ provider: "acme", model: "m", id: `acme/m@${n}` }))

/** Requests to one target, one every so many milliseconds. */
const send = (silence: Silences.Silence, index: number, count: number, from: number, every = 1): void => {
  for (let n = 0; n < count; n++) Silences.begin(silence, index, from + n * every)
}

/** Answers of one target to requests that began at and after a time, at one time. */
const answers = (silence: Silences.Silence, index: number, count: number, startedAt: number, now: number): void => {
  for (let n = 0; n < count; n++) Silences.answer(silence, index, startedAt + n, now)
}

describe("Silence of a target whose siblings answer", () => {
  it("begins with the twentieth answer to a later request", () => {
    const silence = Silences.make(keys(2))
    send(silence, 0, 3, 1000)
    answers(silence, 1, 19, 1003, 2000)
    assert.isFalse(Silences.isFull(silence, 0, 3, 2000))
    answers(silence, 1, 1, 1100, 2000)
    assert.isTrue(Silences.isFull(silence, 0, 3, 2000))
  })

  it("counts no answer to a request that began before the third, or with it", () => {
    const silence = Silences.make(keys(2))
    send(silence, 0, 3, 1000)
    answers(silence, 1, 19, 1003, 2000)
    Silences.answer(silence, 1, 1002, 2000)
    assert.isFalse(Silences.isFull(silence, 0, 3, 2000))
    // Twenty more push that one out.
    answers(silence, 1, 20, 1100, 2000)
    assert.isTrue(Silences.isFull(silence, 0, 3, 2000))
  })

  it("needs three requests, and lets so many through at a time", () => {
    const silence = Silences.make(keys(2))
    send(silence, 0, 2, 1000)
    answers(silence, 1, 20, 1100, 2000)
    assert.isFalse(Silences.isFull(silence, 0, 3, 2000))
    send(silence, 0, 1, 1001)
    assert.isFalse(Silences.isFull(silence, 0, 2, 2000))
    assert.isTrue(Silences.isFull(silence, 0, 3, 2000))
    assert.isFalse(Silences.isFull(silence, 0, 2, 2000))
    assert.isTrue(Silences.isFull(silence, 0, 4, 2000))
  })

  it("is not ended by what the siblings do, and is ended by anything that comes back", () => {
    const silence = Silences.make(keys(2))
    const fallSilent = (at: number): void => {
      send(silence, 0, 3, at)
      answers(silence, 1, 20, at + 100, at + 200)
      assert.isTrue(Silences.isFull(silence, 0, 3, at + 200))
    }
    fallSilent(1000)
    answers(silence, 1, 20, 0, 1300)
    assert.isTrue(Silences.isFull(silence, 0, 3, 1300))
    Silences.heard(silence, 0)
    assert.isFalse(Silences.isFull(silence, 0, 9, 1300))
    fallSilent(2000)
    Silences.answer(silence, 0, 2000, 2300)
    assert.isFalse(Silences.isFull(silence, 0, 9, 2300))
  })

  it("needs three new requests after something has come back", () => {
    const silence = Silences.make(keys(2))
    send(silence, 0, 9, 1000)
    Silences.heard(silence, 0)
    answers(silence, 1, 20, 1100, 2000)
    send(silence, 0, 2, 1050)
    assert.isFalse(Silences.isFull(silence, 0, 11, 2000))
    send(silence, 0, 1, 1052)
    assert.isTrue(Silences.isFull(silence, 0, 12, 2000))
  })

  it("is not told by another model, and not without siblings", () => {
    const silence = Silences.make([
      Target.make({ provider: "acme", model: "m" }),
      Target.make({ provider: "acme", model: "n" }),
      Target.make({ provider: "other", model: "m" })
    ])
    send(silence, 0, 11, 1000)
    answers(silence, 1, 20, 1100, 2000)
    answers(silence, 2, 20, 1100, 2000)
    assert.isFalse(Silences.isFull(silence, 0, 11, 1e9))
  })

  it("is told to each family by its own answers", () => {
    const silence = Silences.make([...keys(2), Target.make({ provider: "z", model: "m" })])
    send(silence, 0, 3, 1000)
    send(silence, 2, 3, 1000)
    answers(silence, 1, 20, 1100, 2000)
    assert.isTrue(Silences.isFull(silence, 0, 3, 2000))
    assert.isFalse(Silences.isFull(silence, 2, 3, 2000))
  })
})

describe("Silence of a target that used to answer", () => {
  const alone = (longestMs: number): Silences.Silence => {
    const silence = Silences.make(keys(1))
    Silences.answer(silence, 0, 0, longestMs)
    return silence
  }

  it("begins when the twelfth request has waited longer than its longest answer", () => {
    const silence = alone(8000)
    send(silence, 0, 12, 10_000, 100)
    assert.isFalse(Silences.isFull(silence, 0, 12, 11_100 + 7999))
    assert.isTrue(Silences.isFull(silence, 0, 12, 11_100 + 8000))
  })

  it("takes at least five seconds", () => {
    const silence = alone(40)
    send(silence, 0, 12, 1000, 0)
    assert.isFalse(Silences.isFull(silence, 0, 12, 5999))
    assert.isTrue(Silences.isFull(silence, 0, 12, 6000))
  })

  it("needs a dozen requests, and an answer before them", () => {
    const few = alone(40)
    send(few, 0, 11, 1000, 0)
    assert.isFalse(Silences.isFull(few, 0, 11, 1e9))
    const unknown = Silences.make(keys(1))
    send(unknown, 0, 40, 1000, 0)
    assert.isFalse(Silences.isFull(unknown, 0, 40, 1e9))
  })

  it("forgets a long answer within minutes of shorter ones", () => {
    const silence = alone(60_000)
    for (let now = 61_000; now <= 361_000; now += 1000) Silences.answer(silence, 0, now - 1000, now)
    send(silence, 0, 12, 361_000, 0)
    assert.isFalse(Silences.isFull(silence, 0, 12, 365_999))
    assert.isTrue(Silences.isFull(silence, 0, 12, 366_000))
  })
})
