/** Makes subjects of effects and of promises. */
import { Effect } from "effect"
import type { Subject } from "./harness.ts"

type Details = Omit<Subject, "name" | "run">

/** An effect that is made and run anew each time, in one fiber. */
export const fromEffect = <A, E>(name: string, make: () => Effect.Effect<A, E>, details: Details = {}): Subject => ({
  ...details,
  name,
  run: (times) => {
    let left = times
    return Effect.runPromise(Effect.whileLoop({ while: () => left-- > 0, body: make, step: () => undefined }))
  }
})

/** A promise that is made and awaited anew each time. */
export const fromPromise = (name: string, make: () => Promise<unknown>, details: Details = {}): Subject => ({
  ...details,
  name,
  run: async (times) => {
    for (let left = times; left > 0; left--) await make()
  }
})

const together = 100

/** A hundred effects at the same time. */
export const effectsTogether: typeof fromEffect = (name, make, details) => {
  const calls = Array.from({ length: together }, () => Effect.suspend(make))
  const all = Effect.all(calls, { concurrency: "unbounded", discard: true })
  return fromEffect(name, () => all, { ...details, operations: together })
}

/** A hundred promises at the same time. */
export const promisesTogether: typeof fromPromise = (name, make, details) =>
  fromPromise(name, () => Promise.all(Array.from({ length: together }, make)), { ...details, operations: together })

/** A plain function. */
export const fromFunction = (name: string, call: () => unknown, details: Details = {}): Subject => ({
  ...details,
  name,
  run: (times) => {
    for (let left = times; left > 0; left--) sink = call()
  }
})

/** Keeps results alive, so that nothing is optimised away. */
export let sink: unknown
