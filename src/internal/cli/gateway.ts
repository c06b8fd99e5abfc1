/**
 * `breakwater gateway`: serves virtual models in the formats of OpenAI and Anthropic.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Run from "../gateway/run.ts"
import * as NodeClient from "../wire/nodeClient.ts"
import { Failed } from "./failed.ts"

const flags = {
  config: Flag.String("config").pipe(Flag.withDescription("The configuration file; see check-config --schema")),
  port: Flag.Int("port").pipe(
    Flag.withDescription("Port to listen on; 0 picks a free one"),
    Flag.withDefault(4141)
  ),
  host: Flag.String("host").pipe(
    Flag.withDescription("Address to listen on; the loopback address unless you say otherwise"),
    Flag.withDefault("127.0.0.1")
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print the address as a JSON line; logs are on standard error in any case"),
    Flag.withDefault(false)
  )
}

interface Options {
  readonly config: string
  readonly port: number
  readonly host: string
  readonly json: boolean
}

let serving = false

/** Whether the process serves: it is stopped by a signal, and has then done what it was asked to do. */
export const isServing = (): boolean => serving

const run = Effect.fnUntraced(
  function*(options: Options) {
    const { gateway, port, url } = yield* Run.start({ file: options.config, port: options.port, host: options.host })
      .pipe(
        Effect.catch((error) =>
          Effect.andThen(
            Console.error(
              error._tag === "ServeError"
                ? `cannot listen on ${options.host}:${options.port}: ${String(error.cause)}`
                : `${options.config}: ${error.message}`
            ),
            Effect.fail(new Failed({ code: error._tag === "ServeError" ? 1 : 2 }))
          )
        )
      )
    serving = true
    const { models } = yield* gateway.status
    const names = models.map((_) => _.name)
    yield* Console.log(
      options.json
        ? JSON.stringify({ url, host: options.host, port, models: names })
        : `breakwater gateway on ${url}, serving ${names.join(", ")}`
    )
    return yield* Effect.never
  },
  Effect.scoped,
  Effect.provide(NodeClient.layer),
  Effect.provideService(Logger.LogToStderr, true)
)

export const command = Command.make("gateway", flags, run).pipe(
  Command.withDescription(
    "Serves the models of a configuration file to clients of OpenAI (/v1/chat/completions, /v1/embeddings, /v1/models) " +
      "and Anthropic (/v1/messages). A change of the file, or SIGHUP, is served from the next call on; SIGTERM lets the " +
      "calls in flight end."
  ),
  Command.withExamples([
    { command: "breakwater gateway --config gateway.json --port 4141", description: "Serve on http://127.0.0.1:4141" },
    { command: "breakwater gateway --config gateway.json --port 0 --json", description: "Serve on a free port" }
  ])
)
