/**
 * Stands in for `vitest`: files that import it register their tests here, and each can be run as often as needed.
 *
 * The assertions are vitest's own, and `@effect/vitest` builds upon this as it does upon vitest.
 */
export { assert, chai, expect } from "vitest"

type Body = (context: Context) => unknown

type Options = number | Readonly<Record<string, unknown>>

interface Context {
  readonly signal: AbortSignal
  readonly task: { readonly name: string }
  readonly onTestFinished: (cleanup: () => unknown) => void
}

/** One test of one file. */
export interface Test {
  readonly file: string
  readonly name: string
  readonly run: (signal: AbortSignal) => Promise<void>
}

/** The tests registered so far; whoever imports a file empties it before. */
export const registered: Array<Test> = []

let current = { file: "", names: [] as ReadonlyArray<string> }

/** Says which file is imported next. */
export const enter = (file: string): void => {
  current = { file, names: [] }
}

const register = (name: string, body: Body): void => {
  registered.push({
    file: current.file,
    name: [...current.names, name].join(" > "),
    run: async (signal) => {
      const cleanups: Array<() => unknown> = []
      try {
        await body({ signal, task: { name }, onTestFinished: (cleanup) => void cleanups.push(cleanup) })
      } finally {
        for (const cleanup of cleanups) await cleanup()
      }
    }
  })
}

const bodyOf = (first: Body | Options | undefined, second: Body | Options | undefined): Body => {
  const body = typeof first === "function" ? first : second
  if (typeof body !== "function") throw new Error("a test without a body")
  return body
}

const formatted = (name: string, values: ReadonlyArray<unknown>): string =>
  values.reduce<string>((text, value) => text.replace(/%[sdifjo]/, String(value)), name)

const none = (): void => {}

/** Registers a test. */
export const it = Object.assign(
  (name: string, first?: Body | Options, second?: Body | Options): void => register(name, bodyOf(first, second)),
  {
    skip: none,
    todo: none,
    only: (name: string, first?: Body | Options, second?: Body | Options): void =>
      register(name, bodyOf(first, second)),
    fails: none,
    skipIf: (condition: unknown) => condition ? none : it,
    runIf: (condition: unknown) => condition ? it : none,
    for: (cases: ReadonlyArray<unknown>) => (name: string, first: unknown, second?: unknown): void => {
      const body = typeof first === "function" ? first : second
      if (typeof body !== "function") throw new Error("a test without a body")
      for (const values of cases) {
        register(formatted(name, [values].flat()), (context) => body(values, context))
      }
    },
    each:
      (cases: ReadonlyArray<unknown>) => (name: string, body: (...values: ReadonlyArray<unknown>) => unknown): void => {
        for (const values of cases) {
          const list = Array.isArray(values) ? values : [values]
          register(formatted(name, list), () => body(...list))
        }
      }
  }
)

export const test = it

const group = (name: string, first: unknown, second?: unknown): void => {
  const body = typeof first === "function" ? first : second
  if (typeof body !== "function") throw new Error("a group without a body")
  const before = current
  current = { file: before.file, names: [...before.names, name] }
  body()
  current = before
}

/** Registers the tests of a function under a name. */
export const describe = Object.assign(group, { concurrent: group, sequential: group, skip: none, only: group })

export const TestRunner = { getCurrentSuite: () => ({ tasks: [] }) }
