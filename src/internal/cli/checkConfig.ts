/**
 * `breakwater check-config`: says what is wrong with the configuration of a gateway.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Gateway from "../../server/Gateway.ts"
import * as Run from "../gateway/run.ts"
import { Failed } from "./failed.ts"

const flags = {
  file: Argument.String("file").pipe(Argument.withDescription("The configuration file"), Argument.optional),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print the result as JSON: {valid, models?, problems}"),
    Flag.withDefault(false)
  ),
  schema: Flag.Boolean("schema").pipe(
    Flag.withDescription("Print the JSON Schema of the file, and check nothing"),
    Flag.withDefault(false)
  )
}

interface Options {
  readonly file: Option.Option<string>
  readonly json: boolean
  readonly schema: boolean
}

const run = Effect.fnUntraced(function*({ file, json, schema }: Options) {
  if (schema) return yield* Console.log(JSON.stringify(Gateway.jsonSchema(), null, 2))
  if (Option.isNone(file)) {
    yield* Console.error("name a file, or ask for the --schema")
    return yield* new Failed({ code: 2 })
  }
  const loaded = yield* Effect.result(Run.load(file.value))
  if (Result.isSuccess(loaded)) {
    const models = Array.from(loaded.success.plan.models.values(), ({ name, options }) => ({
      name,
      targets: options.targets.map((_) => _.id)
    }))
    const text = models.map(({ name, targets }) => `  ${name}: ${targets.join(", ")}`).join("\n")
    return yield* Console.log(
      json ? JSON.stringify({ valid: true, models, problems: [] }) : `${file.value} is valid\n${text}`
    )
  }
  const error = loaded.failure
  const problems = error._tag === "FileError" ? [{ path: "", message: error.message }] : error.problems
  yield* json
    ? Console.log(JSON.stringify({ valid: false, problems }))
    : Console.error(error.message)
  return yield* new Failed({ code: error._tag === "FileError" ? 2 : 1 })
})

export const command = Command.make("check-config", flags, run).pipe(
  Command.withDescription(
    "Checks the configuration file of a gateway. Exit code 0 when it can be served, 1 when it cannot, 2 when it cannot " +
      "be read or is not JSON."
  ),
  Command.withExamples([
    { command: "breakwater check-config gateway.json", description: "Name all that is wrong, by its path" },
    {
      command: "breakwater check-config --schema > gateway.schema.json",
      description: "Get the JSON Schema for an editor"
    }
  ])
)
