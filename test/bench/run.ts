/**
 * `npm run bench`: measures breakwater and its peers and prints a table, or JSON with `--json`. With `--only NAME`, which
 * may be given several times, it measures one part, or whatever has this text in its title.
 *
 * Exit codes: 0 whatever the figures are, 1 when a benchmark throws, 2 when an argument makes no sense.
 */
import { Effect, Result } from "effect"
import { parseArgs } from "node:util"
import * as Report from "./report.ts"

const usage = `usage: npm run bench -- [--json] [--only NAME]...

  --json       print JSON
  --only NAME  measure this part alone, or what has NAME in its title:
               ${Object.keys(Report.everything).join(", ")}
`

const refuse = (why: string): never => {
  process.stderr.write(`${why}\n\n${usage}`)
  process.exit(2)
}

const parsed = Result.try(() =>
  parseArgs({
    options: { json: { type: "boolean" }, only: { type: "string", multiple: true }, help: { type: "boolean" } }
  }).values
)
const { help = false, json = false, only = [] } = Result.isSuccess(parsed)
  ? parsed.success
  : refuse(parsed.failure instanceof Error ? parsed.failure.message : String(parsed.failure))
if (help) {
  process.stdout.write(usage)
  process.exit(0)
}
const unknown = only.filter((name) => Object.values(Report.select(Report.everything, [name])).flat().length === 0)
if (unknown.length > 0) refuse(`nothing is measured under the name "${unknown.join("\", \"")}"`)

const parts = only.length === 0 ? Report.everything : Report.select(Report.everything, only)
const report = await Effect.runPromise(
  Report.make(parts, { rounds: 21, sampleMs: 12, warmupMs: 150 }, (line) => process.stderr.write(`${line}\n`))
)
process.stdout.write(`${json ? JSON.stringify(report, null, 2) : Report.render(report)}\n`)
