/**
 * `npm run bench`: measures breakwater and its peers and prints a table, or JSON with `--json`.
 *
 * Exit codes: 0 whatever the figures are, 1 when a benchmark throws, 2 when an argument is not known.
 */
import { Effect } from "effect"
import * as Report from "./report.ts"

const [flag, ...rest] = process.argv.slice(2)
if ((flag !== undefined && flag !== "--json") || rest.length > 0) {
  process.stderr.write("usage: npm run bench [-- --json]\n")
  process.exit(2)
}
const report = await Effect.runPromise(Report.make({ rounds: 31, sampleMs: 12, warmupMs: 200 }))
process.stdout.write(`${flag === "--json" ? JSON.stringify(report, null, 2) : Report.table(report)}\n`)
