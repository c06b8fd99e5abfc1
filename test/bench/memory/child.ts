/**
 * Measures what probes keep in memory, in a process started with `--expose-gc`. Its argument is a list of probes as JSON;
 * it prints a line of JSON for each run: the bytes of all, and those that are left when all of them are idle.
 */
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { type Probe, probes } from "./probes.ts"

interface Task {
  readonly probe: keyof typeof probes
  readonly count: number
  readonly runs: number
}

const tasks: ReadonlyArray<Task> = JSON.parse(process.argv[2] ?? "[]")
const { gc } = globalThis
if (gc === undefined) throw new Error("not started with --expose-gc")

/** What is alive, outside of the heap as well. */
const used = async (): Promise<number> => {
  // What finishes in a later turn has to finish, and what only a finaliser holds has to go.
  for (let turn = 0; turn < 2; turn++) {
    await new Promise((resolve) => setImmediate(resolve))
    await gc({ type: "major", execution: "async" })
  }
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
}

const run = ({ clock, make }: Probe, count: number) => {
  const measured = Effect.gen(function*() {
    const before = yield* Effect.promise(used)
    const made = yield* make(count)
    const bytes = (yield* Effect.promise(used)) - before
    if (made.forget === undefined) return { bytes, left: undefined, held: made.held }
    yield* made.forget
    return { bytes, left: (yield* Effect.promise(used)) - before, held: made.held }
  }).pipe(Effect.scoped)
  return Effect.runPromise(clock === "live" ? measured : Effect.provide(measured, TestClock.layer()))
}

for (const { count, probe, runs } of tasks) {
  // What is made once, however many follow; who runs once wants to know no more than that it does.
  if (runs > 1) await run(probes[probe], Math.min(count, 500))
  for (let index = 0; index < runs; index++) {
    const { bytes, left } = await run(probes[probe], count)
    process.stdout.write(`${JSON.stringify({ probe, bytes, left })}\n`)
  }
}
process.exit(0)
