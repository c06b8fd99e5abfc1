/**
 * `breakwater classify`: failures as JSON lines in, classes as JSON lines out.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import { type Classified, classifyLine } from "../classifyLine.ts"
import { Failed } from "./failed.ts"

const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print JSON lines on a terminal too; elsewhere they are the default"),
  Flag.withDefault(false)
)

const text = (it: Classified): string => {
  const wait = it.retryAfterMs === null ? "" : ` retry after ${it.retryAfterMs} ms,`
  const retry = it.isRetryable ? "retryable" : "not retryable"
  const billed = it.maybeBilled ? ", maybe billed" : ""
  return `${it.id ?? "-"}: ${it.class} (${it.reason}, scope ${it.scope}),${wait} ${retry}${billed}`
}

const run = Effect.fnUntraced(function*(options: { readonly json: boolean }) {
  const stdio = yield* Stdio.Stdio
  const asJson = options.json || !(yield* stdio.stdoutIsTerminal)
  let line = 0
  let wrong = 0
  yield* stdio.stdin.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((raw) => {
      line++
      if (raw.trim() === "") return Effect.void
      const result = classifyLine(raw, line)
      if (typeof result === "string") {
        wrong++
        return Console.error(result)
      }
      return Console.log(asJson ? JSON.stringify(result) : text(result))
    })
  )
  if (wrong > 0) return yield* new Failed({ code: 2 })
})

export const command = Command.make("classify", { json }, run).pipe(
  Command.withDescription(
    "Reads provider failures as JSON lines on standard input and prints the class, reason, scope and stated wait of " +
      "each. A line is {id?, provider, kind: \"http\"|\"network\"|\"sse\", status, headers, body, nodeError, receivedAt?}. " +
      "A line that is wrong is named on standard error, and the exit code is 2."
  ),
  Command.withExamples([{
    command: "breakwater classify < failures.jsonl",
    description: "Classify a file of failures"
  }])
)
