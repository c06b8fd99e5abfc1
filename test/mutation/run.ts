/**
 * `npm run mutation`: changes the pure cores in thousands of small ways, and tells which change no test notices.
 *
 * With names of modules, such as `limiter` or `limiter/bucket`, only those. The report is written to `coverage/mutation`
 * as `report.json` and `report.txt`.
 *
 * Exit codes: 0 when enough mutants are killed, 1 when not or when the list of equivalents is wrong, 2 when an argument
 * is not known.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import { Worker } from "node:worker_threads"
import { equivalents } from "./equivalents.ts"
import { modules, tests } from "./modules.ts"
import type { Mutant } from "./mutate.ts"
import * as Plan from "./plan.ts"
import * as Report from "./report.ts"
import type { Answer, Request, Setup, Surveyed } from "./worker.ts"

/** Percent of the mutants that have to be killed. */
const threshold = 90

/** A thread that is silent for as long does not come back. */
const silenceMs = 30_000

/** Modules loaded anew stay in memory: a thread serves this many mutants of loading. */
const mostLoads = 40

const root = join(import.meta.dirname, "../..")

// ---------------------------------------------------------------------------------------------------------------------
// a thread
// ---------------------------------------------------------------------------------------------------------------------

interface Thread {
  /** The answer; `undefined` when the thread has died or keeps silent. */
  readonly ask: (request: Request) => Promise<Answer | undefined>
  readonly mutants: ReadonlyArray<Mutant>
  readonly end: () => Promise<unknown>
}

const start = async (setup: Setup): Promise<Thread> => {
  // What tests print says nothing here.
  const worker = new Worker(new URL("worker.ts", import.meta.url), {
    workerData: setup,
    stdout: true,
    stderr: true,
    resourceLimits: { maxOldGenerationSizeMb: 2048 }
  })
  worker.stdout.resume()
  let said = ""
  worker.stderr.on("data", (chunk: Buffer) => {
    said += chunk.toString()
  })
  const next = (): Promise<Answer | undefined> =>
    new Promise((resolve) => {
      const settle = (answer: Answer | undefined): void => {
        clearTimeout(timer)
        worker.removeAllListeners()
        worker.on("error", () => {})
        resolve(answer)
      }
      const timer = setTimeout(() => settle(undefined), silenceMs)
      worker.removeAllListeners()
      worker.on("message", (answer: Answer) => {
        if (answer._tag === "Beat") timer.refresh()
        else settle(answer)
      })
      worker.once("error", () => settle(undefined))
      worker.once("exit", () => settle(undefined))
    })
  const ready = await next()
  if (ready?._tag !== "Ready") throw new Error(`the tests do not load\n${said}`)
  return {
    ask: (request) => {
      const answer = next()
      worker.postMessage(request, [])
      return answer
    },
    mutants: ready.mutants,
    end: () => worker.terminate()
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// all mutants
// ---------------------------------------------------------------------------------------------------------------------

const chosen = (names: ReadonlyArray<string>): Readonly<Record<string, ReadonlyArray<string>>> => {
  if (names.length === 0) return modules
  const entries = names.map((name) => {
    const [module = "", file] = name.split("/")
    const files = modules[module]?.filter((path) => file === undefined || path.endsWith(`/${file}.ts`)) ?? []
    if (files.length > 0) return [name, files] as const
    process.stderr.write(`usage: npm run mutation [-- MODULE[/FILE] ...], with ${Object.keys(modules).join(", ")}\n`)
    return process.exit(2)
  })
  return Object.fromEntries(entries)
}

const titleOf = ({ file, name }: Surveyed): string => `${file} ${name}`

const main = async (): Promise<number> => {
  const startedAt = performance.now()
  const wanted = chosen(process.argv.slice(2))
  const setup: Setup = { root, sources: Object.values(wanted).flat(), tests, surveyed: undefined }
  let thread = await start(setup)
  const { mutants } = thread
  process.stdout.write(`${mutants.length} mutants; running the tests without one\n`)
  const survey = await thread.ask({ _tag: "Survey" })
  if (survey?._tag !== "Surveyed") throw new Error("the tests do not end")
  const failing = survey.tests.filter(({ ok }) => !ok)
  if (failing.length > 0) {
    throw new Error(`fails without a mutant, or when it is repeated:\n${failing.map(titleOf).join("\n")}`)
  }
  const onLoad = new Set(survey.onLoad)
  const plan = Plan.make(mutants, survey.tests)

  const restart = async (): Promise<void> => {
    await thread.end()
    thread = await start({ ...setup, surveyed: survey.tests })
  }

  const attempt = async (mutant: Mutant, numbers: ReadonlyArray<number>, anew: boolean): Promise<Report.Result> => {
    const startedAt = performance.now()
    const millis = (): number => Math.round(performance.now() - startedAt)
    const request: Request = { _tag: "Try", mutant: mutant.id, tests: plan.sorted(mutant.file, numbers), anew }
    let answer = await thread.ask(request)
    if (answer?._tag !== "Tried" || answer.verdict === "spoiled") {
      // Perhaps what others have left behind was too much.
      await restart()
      answer = await thread.ask(request)
    }
    if (answer?._tag !== "Tried") {
      await restart()
      return { mutant, verdict: "stuck", test: undefined, millis: millis() }
    }
    const { test, verdict } = answer
    if (test !== undefined) plan.killed(mutant.file, test)
    const killer = test === undefined ? undefined : survey.tests[test]
    return { mutant, verdict, test: killer === undefined ? undefined : titleOf(killer), millis: millis() }
  }

  const results: Array<Report.Result> = []
  const byFile = Map.groupBy(mutants, ({ file }) => file)
  for (const [file, own] of byFile) {
    const ids = own.map(({ id }) => id)
    const fileStartedAt = performance.now()
    let loads = 0
    for (const [index, mutant] of own.entries()) {
      if (process.stdout.isTTY) process.stdout.write(`\r${file}: ${index} of ${own.length}`)
      const numbers = plan.of(mutant.id)
      let result: Report.Result = numbers.length === 0
        ? { mutant, verdict: "uncovered", test: undefined, millis: 0 }
        : await attempt(mutant, numbers, false)
      if (onLoad.has(mutant.id) && (result.verdict === "survived" || result.verdict === "uncovered")) {
        if (++loads % mostLoads === 0) await restart()
        result = await attempt(mutant, plan.around(ids), true)
      }
      results.push(result)
    }
    const left = results.filter(({ mutant, verdict }) => mutant.file === file && !/killed|stuck/.test(verdict)).length
    const seconds = Math.round((performance.now() - fileStartedAt) / 1000)
    process.stdout.write(
      `${process.stdout.isTTY ? "\r" : ""}${file}: ${left} of ${own.length} not killed, ${seconds} s\n`
    )
  }
  await thread.end()

  const report = Report.make(
    {
      node: process.version,
      millis: Math.round(performance.now() - startedAt),
      tests: survey.tests.length,
      leftOut: plan.leftOut.map(titleOf)
    },
    wanted,
    results,
    equivalents
  )
  const folder = join(root, "coverage/mutation")
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "report.json"), `${JSON.stringify(report, null, 2)}\n`)
  writeFileSync(join(folder, "report.txt"), Report.text(report))
  process.stdout.write(`\n${Report.table(report)}\n`)
  for (const why of report.wrong) process.stdout.write(`wrong in the list of equivalents: ${why}\n`)
  process.stdout.write(`coverage/mutation/report.txt has the survivors\n`)
  return report.total.score >= threshold && report.wrong.length === 0 ? 0 : 1
}

process.exitCode = await main()
