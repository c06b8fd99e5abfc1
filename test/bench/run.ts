/**
 * `npm run bench`: measures breakwater and its peers and prints a table, or JSON with `--json`. With `--only NAME`, which
 * may be given several times, it measures what is in these files of `rows` alone.
 *
 * Exit codes: 0 whatever the figures are, 1 when a benchmark throws, 2 when an argument is not known.
 */
import { Effect, Result } from "effect"
import { parseArgs } from "node:util"
import * as Report from "./report.ts"

const names = Object.keys(Report.everything)
const parsed = Result.try(() =>
  parseArgs({ options: { json: { type: "boolean" }, only: { type: "string", multiple: true } } })
)
const { json = false, only = names } = Result.isSuccess(parsed) ? parsed.success.values : { only: [""] }
if (only.some((name) => !names.includes(name))) {
  process.stderr.write(`usage: npm run bench [-- [--json] [--only ${names.join("|")}]...]\n`)
  process.exit(2)
}
const groups = only.flatMap((name) => Report.everything[name] ?? [])
const report = await Effect.runPromise(Report.make({ rounds: 31, sampleMs: 12, warmupMs: 200 }, groups))
process.stdout.write(`${json ? JSON.stringify(report, null, 2) : Report.table(report)}\n`)
