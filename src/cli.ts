#!/usr/bin/env node
import "./internal/requireNode.ts"

/**
 * The `breakwater` command.
 *
 * Exit codes: 0 when all went well, 1 when the work was done and failed, 2 when the input or the arguments are wrong.
 *
 * @since 0.1.0
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Runtime from "effect/Runtime"
import * as NodeProcess from "node:process"
import * as CheckConfig from "./internal/cli/checkConfig.ts"
import * as Classify from "./internal/cli/classify.ts"
import * as Demo from "./internal/cli/demo.ts"
import * as Gateway from "./internal/cli/gateway.ts"
import * as Simulate from "./internal/cli/simulate.ts"

const breakwater = Command.make("breakwater").pipe(
  Command.withDescription("Resilience for calls to language models"),
  Command.withSubcommands([Demo.command, Gateway.command, CheckConfig.command, Classify.command, Simulate.command])
)

// Wrong arguments are wrong input: 2, like a wrong line.
const teardown: Runtime.Teardown = (exit, onExit) => {
  if (Exit.isFailure(exit)) {
    if (Gateway.isServing() && Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
    const error: unknown = Cause.squash(exit.cause)
    if (typeof error === "object" && error !== null && "_tag" in error && error._tag === "ShowHelp") {
      return onExit(Runtime.getErrorExitCode(error) === 0 ? 0 : 2)
    }
  }
  return Runtime.defaultTeardown(exit, onExit)
}

// A reader that has seen enough (`| head`) closes the pipe; that is no failure of ours.
NodeProcess.stdout.on("error", (error: NodeJS.ErrnoException) => NodeProcess.exit(error.code === "EPIPE" ? 0 : 1))

breakwater.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({ teardown })
)
