/**
 * Runs the tests against one mutant after the other, in a thread that whoever started it may end.
 *
 * The modules are loaded once, with all of their mutants, and the tests once; a mutant is a number that changes.
 *
 * **Details**
 *
 * A test fails when it throws, when it never ends (its thread has been idle for long) and when it asks for mutants far
 * more often than it does without one: a loop that lost its end. What only runs while modules are loaded needs them
 * loaded anew, which a query behind their address does.
 *
 * A failure counts when the same test passes right afterwards without the mutant; otherwise something has been left
 * behind, and the thread says so.
 */
import { Arbitrary } from "effect"
import { readFileSync } from "node:fs"
import { registerHooks, stripTypeScriptTypes } from "node:module"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parentPort, workerData } from "node:worker_threads"
import { instrument, type Mutant, switchName } from "./mutate.ts"
import * as Suite from "./suite.ts"

/** What the thread is started with; paths are relative to the root. */
export interface Setup {
  readonly root: string
  readonly sources: ReadonlyArray<string>
  readonly tests: ReadonlyArray<string>
  /** What another thread has found out, to be trusted. */
  readonly surveyed: ReadonlyArray<Surveyed> | undefined
}

/** What the thread is asked for. */
export type Request =
  /** Runs every test without a mutant. */
  | { readonly _tag: "Survey" }
  /** Runs tests, by their numbers, until one fails. */
  | { readonly _tag: "Try"; readonly mutant: number; readonly tests: ReadonlyArray<number>; readonly anew: boolean }

/** One test without a mutant. */
export interface Surveyed {
  readonly file: string
  readonly name: string
  /** Whether it passes, and does so again. */
  readonly ok: boolean
  readonly millis: number
  readonly hits: number
  /** The mutants it asks for. */
  readonly covers: ReadonlyArray<number>
}

/** What the thread answers. */
export type Answer =
  | { readonly _tag: "Ready"; readonly mutants: ReadonlyArray<Mutant> }
  | { readonly _tag: "Beat" }
  | {
    readonly _tag: "Surveyed"
    readonly tests: ReadonlyArray<Surveyed>
    /** The mutants that loading asks for. */
    readonly onLoad: ReadonlyArray<number>
  }
  | { readonly _tag: "Tried"; readonly verdict: Verdict; readonly test: number | undefined }

export type Verdict = "killed" | "stuck" | "survived" | "spoiled"

const { root, sources, surveyed, tests }: Setup = workerData
const say = (answer: Answer): void => parentPort?.postMessage(answer, [])

// ---------------------------------------------------------------------------------------------------------------------
// the mutants
// ---------------------------------------------------------------------------------------------------------------------

const nothing = -1
let active = nothing
let hits = 0
let mostHits = Number.POSITIVE_INFINITY
let covered: Uint8Array | undefined

const isOn = (id: number): boolean => {
  if (++hits > mostHits) throw new Error("a loop without an end")
  if (covered !== undefined) covered[id] = 1
  return id === active
}
Object.defineProperty(globalThis, switchName, { value: isOn })

const mutants: Array<Mutant> = []
const code = new Map<string, string>()
for (const file of sources) {
  const path = join(root, file)
  const instrumented = instrument(file, readFileSync(path, "utf8"), mutants.length)
  mutants.push(...instrumented.mutants)
  code.set(path, stripTypeScriptTypes(instrumented.code))
}

const record = async (work: () => Promise<unknown>): Promise<ReadonlyArray<number>> => {
  const marks = new Uint8Array(mutants.length)
  covered = marks
  await work()
  covered = undefined
  return mutants.flatMap(({ id }) => marks[id] === 1 ? [id] : [])
}

// ---------------------------------------------------------------------------------------------------------------------
// the modules
// ---------------------------------------------------------------------------------------------------------------------

const here = import.meta.url
const suite = new URL("suite.ts", here).href
const own = new Set([suite, here])
const isOurs = (url: string): boolean =>
  url.startsWith(pathToFileURL(root).href) && !url.includes("/node_modules/") && !own.has(url)

registerHooks({
  resolve: (specifier, context, next) => {
    if (specifier === "vitest" && context.parentURL !== suite) return { url: suite, shortCircuit: true }
    const resolved = next(specifier, context)
    const query = context.parentURL === undefined ? "" : new URL(context.parentURL).search
    return query === "" || !isOurs(resolved.url) ? resolved : { ...resolved, url: resolved.url + query }
  },
  load: (url, context, next) => {
    const source = url.startsWith("file:") ? code.get(fileURLToPath(url)) : undefined
    return source === undefined ? next(url, context) : { format: "module", source, shortCircuit: true }
  }
})

const load = async (files: ReadonlyArray<string>, query: string): Promise<ReadonlyArray<Suite.Test>> => {
  Suite.registered.length = 0
  for (const file of files) {
    Suite.enter(file)
    await import(pathToFileURL(join(root, file)).href + query)
  }
  return Suite.registered.slice()
}

// ---------------------------------------------------------------------------------------------------------------------
// the tests
// ---------------------------------------------------------------------------------------------------------------------

let stray: unknown
process.on("uncaughtException", (error) => {
  stray = error
})
process.on("unhandledRejection", (reason) => {
  stray = reason
})

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

const surveyIdleMs = 5000

type End = "passed" | "failed" | "stuck"

const run = async (test: Suite.Test, idleMs: number): Promise<End> => {
  say({ _tag: "Beat" })
  stray = undefined
  hits = 0
  const controller = new AbortController()
  const start = performance.eventLoopUtilization()
  let timer: NodeJS.Timeout | undefined
  const stuck = new Promise<End>((resolve) => {
    timer = setInterval(() => {
      if (performance.eventLoopUtilization(start).idle >= idleMs) resolve("stuck")
    }, idleMs / 4)
  })
  const ended = test.run(controller.signal).then((): End => "passed", (): End => "failed")
  const end = await Promise.race([ended, stuck])
  clearInterval(timer)
  if (end === "stuck") controller.abort()
  await tick()
  return end === "passed" && stray !== undefined ? "failed" : end
}

/** Runs a test twice: the first time notes what it covers, the second time how long it takes. */
const survey = async (test: Suite.Test): Promise<Surveyed> => {
  const ends: Array<End> = []
  const covers = await record(async () => {
    ends.push(await run(test, surveyIdleMs))
  })
  const startedAt = performance.now()
  ends.push(await run(test, surveyIdleMs))
  const millis = performance.now() - startedAt
  return { file: test.file, name: test.name, ok: ends.every((end) => end === "passed"), millis, hits, covers }
}

const attempt = async (mutant: number, numbers: ReadonlyArray<number>, anew: boolean): Promise<void> => {
  active = mutant
  const tried = anew ? await reloaded(numbers) : new Map(numbers.map((number) => [number, loaded[number]]))
  for (const [number, test] of tried) {
    const before = surveys[number]
    mostHits = 1_000_000 + 20 * (before?.hits ?? 0)
    const idleMs = 1000 + 3 * (before?.millis ?? 0)
    const end = test === undefined ? "failed" : await run(test, idleMs)
    if (end === "passed") continue
    active = nothing
    mostHits = Number.POSITIVE_INFINITY
    const clean = loaded[number]
    const again = clean === undefined ? "failed" : await run(clean, idleMs)
    const verdict = again !== "passed" ? "spoiled" : end === "stuck" ? "stuck" : "killed"
    return say({ _tag: "Tried", verdict, test: number })
  }
  active = nothing
  mostHits = Number.POSITIVE_INFINITY
  say({ _tag: "Tried", verdict: "survived", test: undefined })
}

/** The tests from modules that have been loaded anew; none under a number whose module does not load. */
const reloaded = async (numbers: ReadonlyArray<number>): Promise<ReadonlyMap<number, Suite.Test | undefined>> => {
  const files = new Set(numbers.flatMap((number) => loaded[number]?.file ?? []))
  const again = await load([...files], `?mutant=${active}`).catch((): ReadonlyArray<Suite.Test> => [])
  const byName = new Map(again.map((test) => [`${test.file} ${test.name}`, test]))
  return new Map(numbers.map((number) => {
    const test = loaded[number]
    return [number, test === undefined ? undefined : byName.get(`${test.file} ${test.name}`)]
  }))
}

// ---------------------------------------------------------------------------------------------------------------------
// the thread
// ---------------------------------------------------------------------------------------------------------------------

Arbitrary.configureGlobal({ check: { seed: 1, maxShrinks: 0 } })

let loaded: ReadonlyArray<Suite.Test> = []
const onLoad = await record(async () => {
  loaded = await load(tests, "")
})
let surveys: ReadonlyArray<Surveyed> = surveyed ?? []
if (surveyed?.some(({ name }, number) => loaded[number]?.name !== name) === true) {
  throw new Error("the tests have changed meanwhile")
}

const answer = async (request: Request): Promise<void> => {
  switch (request._tag) {
    case "Survey": {
      const found: Array<Surveyed> = []
      for (const test of loaded) found.push(await survey(test))
      surveys = found
      return say({ _tag: "Surveyed", tests: found, onLoad })
    }
    case "Try":
      return attempt(request.mutant, request.tests, request.anew)
  }
}

parentPort?.on("message", (request: Request) => void answer(request))
say({ _tag: "Ready", mutants })
