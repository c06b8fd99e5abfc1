import type { Reporter, SerializedError, TestModule } from "vitest/node"

/**
 * Ends a test run with its real totals: `12 passed, 0 failed`, alone on the line.
 *
 * A file that could not run and an error outside any test count as failures: a run that exits with an error never
 * reports none.
 */
export default class CountReporter implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: ReadonlyArray<SerializedError>): void {
    let passed = 0
    let failed = unhandledErrors.length
    let skipped = 0
    for (const { children } of modules) {
      for (const test of children.allTests()) {
        const { state } = test.result()
        if (state === "passed") passed++
        else if (state === "failed") failed++
        else skipped++
      }
      for (const suite of children.allSuites()) failed += suite.errors().length
    }
    for (const module of modules) failed += module.errors().length
    if (skipped > 0) process.stdout.write(`${skipped} skipped\n`)
    process.stdout.write(`${passed} passed, ${failed} failed\n`)
  }
}
