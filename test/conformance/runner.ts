/**
 * Loads vectors and runs them one after another in virtual time.
 */
import { Cause, Data, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Skip, type Vector } from "./kind.ts"
import { reasons, runners } from "./kinds/index.ts"

/** What became of one vector. */
export type Outcome = Data.TaggedEnum<{
  Passed: {}
  Failed: { readonly why: string }
  Skipped: { readonly name: string; readonly reason: string }
}>

export const Outcome = Data.taggedEnum<Outcome>()

/** What is printed; `reasons` says for each name of `skipped` why, and which vectors it were. */
export interface Report {
  readonly passed: number
  readonly failed: ReadonlyArray<{ readonly id: string; readonly why: string }>
  readonly skipped: Readonly<Record<string, number>>
  readonly reasons: Readonly<Record<string, string>>
}

/** A folder or a file that cannot be read as vectors. */
export class UnreadableError extends Data.TaggedError("UnreadableError")<{ readonly message: string }> {}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const isVector = (value: unknown): value is Vector =>
  isRecord(value) && typeof value["id"] === "string" && typeof value["kind"] === "string"

const attempt = <A>(path: string, read: () => A) =>
  Effect.try({
    try: read,
    catch: (error) => new UnreadableError({ message: `${path}: ${error instanceof Error ? error.message : error}` })
  })

const parse = (text: string): unknown =>
  JSON.parse(text, (_, value) => value === "Infinity" ? Infinity : value === "-Infinity" ? -Infinity : value)

const loadFile = Effect.fnUntraced(function*(path: string) {
  const content = yield* attempt(path, () => parse(readFileSync(path, "utf8")))
  const vectors = isRecord(content) ? content["vectors"] : content
  if (!Array.isArray(vectors)) return yield* new UnreadableError({ message: `${path}: has no array "vectors"` })
  return yield* Effect.forEach(vectors, (vector: unknown, index) =>
    isVector(vector)
      ? Effect.succeed(vector)
      : Effect.fail(new UnreadableError({ message: `${path}: vector ${index} has no string "id" and "kind"` })))
})

/** Reads the vectors of every `*.json` file of a folder, in the order of the file names. */
export const load = Effect.fnUntraced(function*(folder: string) {
  const files = (yield* attempt(folder, () => readdirSync(folder))).filter((name) => name.endsWith(".json")).sort()
  if (files.length === 0) return yield* new UnreadableError({ message: `${folder}: has no *.json file` })
  return (yield* Effect.forEach(files, (name) => loadFile(join(folder, name)))).flat()
})

// In virtual time nothing takes long: what does waits for something that never happens.
const stuck = Effect.andThen(
  TestClock.withLive(Effect.sleep("20 seconds")),
  Effect.die(new Error("did not end within 20 seconds of real time"))
)

const skipped = (kind: string, variant: string | undefined, reason: string): Outcome =>
  Outcome.Skipped({ name: variant === undefined ? kind : `${kind} (${variant})`, reason })

/** Runs one vector on a clock of its own. */
export const runVector = (vector: Vector): Effect.Effect<Outcome> => {
  const { kind } = vector
  const runner = Object.hasOwn(runners, kind) ? runners[kind] : undefined
  if (runner === undefined) {
    return Effect.succeed(skipped(kind, undefined, reasons[kind] ?? "a kind that this runner does not know"))
  }
  return Effect.suspend(() => runner(vector)).pipe(
    Effect.raceFirst(stuck),
    Effect.provide(TestClock.layer()),
    Effect.exit,
    Effect.map((exit) => {
      if (Exit.isFailure(exit)) {
        const error: unknown = Cause.squash(exit.cause)
        if (error instanceof Skip) return skipped(kind, error.variant, error.reason)
        return Outcome.Failed({ why: error instanceof Error ? `${error.name}: ${error.message}` : String(error) })
      }
      if (exit.value.length === 0) return skipped(kind, "nothing to compare", "no expectation that this runner knows")
      const wrong = exit.value.filter((check) => !check.ok).map((check) => check.why)
      if (wrong.length === 0) return Outcome.Passed()
      const more = wrong.length > 3 ? [`and ${wrong.length - 3} more`] : []
      return Outcome.Failed({ why: [...wrong.slice(0, 3), ...more].join("; ") })
    })
  )
}

/** Runs vectors and adds up what became of them: passed, failed and skipped are all. */
export const run = Effect.fnUntraced(function*(vectors: ReadonlyArray<Vector>) {
  const failed: Array<{ readonly id: string; readonly why: string }> = []
  const left = new Map<string, { readonly reason: string; readonly ids: Array<string> }>()
  let passed = 0
  for (const vector of vectors) {
    Outcome.$match(yield* runVector(vector), {
      Passed: () => passed++,
      Failed: ({ why }) => failed.push({ id: vector.id, why }),
      Skipped: ({ name, reason }) => {
        const entry = left.get(name) ?? { reason, ids: [] }
        left.set(name, entry)
        return entry.ids.push(vector.id)
      }
    })
  }
  const report: Report = {
    passed,
    failed,
    skipped: Object.fromEntries([...left].map(([name, { ids }]) => [name, ids.length])),
    reasons: Object.fromEntries([...left].map(([name, { ids, reason }]) => [name, `${reason}: ${ids.join(", ")}`]))
  }
  return report
})
