/**
 * `npm run conformance -- DIR`: runs every vector file of a folder and prints the report as JSON.
 *
 * Exit codes: 0 when nothing failed, 1 when a vector failed, 2 when the folder or a file cannot be read.
 */
import { Effect, Result } from "effect"
import { load, run } from "./runner.ts"

const main = Effect.gen(function*() {
  const [folder, ...rest] = process.argv.slice(2)
  if (folder === undefined || rest.length > 0) {
    process.stderr.write("usage: npm run conformance -- DIR\n")
    return 2
  }
  const report = yield* Effect.result(Effect.flatMap(load(folder), run))
  if (Result.isFailure(report)) {
    process.stderr.write(`${report.failure.message}\n`)
    return 2
  }
  process.stdout.write(`${JSON.stringify(report.success, null, 2)}\n`)
  return report.success.failed.length === 0 ? 0 : 1
})

process.exitCode = await Effect.runPromise(main)
