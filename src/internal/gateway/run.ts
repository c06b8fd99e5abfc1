/**
 * Runs a gateway from a file as a server of its own: listens, reloads, drains.
 *
 * @internal
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FileSystem from "effect/FileSystem"
import type * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import type { ServeError } from "effect/http/HttpServerError"
import * as Layer from "effect/Layer"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import NodeProcess from "node:process"
import * as Gateway from "../../server/Gateway.ts"
import * as JsonFile from "../jsonFile.ts"

export interface Options {
  readonly file: string
  readonly port: number
  readonly host: string
  /** How often the file is looked at. */
  readonly pollEvery?: Duration.Input | undefined
}

export interface Running {
  readonly gateway: Gateway.Gateway["Service"]
  readonly url: string
  readonly port: number
}

/** Reads and checks a configuration file. */
export const load = (
  file: string
): Effect.Effect<Gateway.Config, JsonFile.FileError | Gateway.ConfigError, FileSystem.FileSystem> =>
  Effect.flatMap(JsonFile.read(file), Gateway.decode)

const loopback = /^(127\.|::1$|localhost$)/

/** Starts a gateway that lives as long as its scope, and ends with a drain. */
export const start = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<
  Running,
  JsonFile.FileError | Gateway.ConfigError | ServeError,
  FileSystem.FileSystem | HttpClient.HttpClient | Scope.Scope
> {
  const config = yield* load(options.file)
  const gateway = yield* Gateway.make(config)
  if (!loopback.test(options.host) && config.plan.access.length === 0) {
    yield* Effect.logWarning(
      `gateway: ${options.host} can be reached from elsewhere, and the configuration has no access keys`
    )
  }
  // Bodies are bounded by the gateway itself, with an answer that says so.
  const node = Http.createServer({ requestTimeout: 0, headersTimeout: 60_000, keepAliveTimeout: 75_000 })
  const server = yield* NodeHttpServer.make(() => node, {
    port: options.port,
    host: options.host,
    gracefulShutdownTimeout: Duration.millis(50)
  })
  // A connection that never says anything must not keep the process.
  yield* Effect.addFinalizer(() => Effect.sync(() => node.closeAllConnections()))
  // Nothing else is served here, so that a client whose base URL lacks the /v1 is told so.
  const everythingElse = HttpRouter.add("*", "/*", gateway.handlers.unknown)
  const app = yield* HttpRouter.toHttpEffect(
    Layer.mergeAll(Gateway.routes.pipe(Layer.provide(Layer.succeed(Gateway.Gateway, gateway))), everythingElse)
  )
  yield* server.serve(app)
  // Who is told to stop is interrupted already, and could not wait: a fiber of its own can.
  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      Effect.logInfo("gateway: draining"),
      Effect.flatMap(Effect.forkDetach(gateway.drain), Fiber.await)
    )
  )
  yield* Effect.forkScoped(reloads(options, gateway))
  const { address } = server
  const port = address._tag === "UnixPathAddress" ? options.port : address.port
  return { gateway, port, url: NetAddress.formatUrlUnsafe(address) }
})

/** Serves the file anew whenever it changes, or when the process is told to; a file that is wrong changes nothing. */
const reloads = Effect.fnUntraced(function*(options: Options, gateway: Gateway.Gateway["Service"]) {
  const fs = yield* FileSystem.FileSystem
  const hangups = Stream.callback<"hangup">((queue) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const listener = (): void => {
          Queue.offerUnsafe(queue, "hangup")
        }
        NodeProcess.on("SIGHUP", listener)
        return listener
      }),
      (listener) => Effect.sync(() => NodeProcess.off("SIGHUP", listener))
    )
  )
  // Editors and orchestrators replace files in ways that watching misses, and looking costs nothing.
  const stamp = Effect.map(
    Effect.option(fs.stat(options.file)),
    Option.match({
      onNone: () => "",
      onSome: ({ ino, mtime, size }) =>
        [Option.getOrUndefined(mtime)?.toISOString(), size, Option.getOrUndefined(ino)].map(String).join(" ")
    })
  )
  let known = yield* stamp
  const changes = Stream.tick(options.pollEvery ?? "1 second").pipe(
    Stream.mapEffect(() => stamp),
    Stream.filter((next) => {
      const changed = next !== "" && next !== known
      if (changed) known = next
      return changed
    })
  )
  yield* Stream.merge(hangups, changes).pipe(
    Stream.runForEach(() =>
      load(options.file).pipe(
        Effect.flatMap(gateway.reload),
        Effect.andThen(Effect.logInfo(`gateway: serving the new ${options.file}`)),
        Effect.catch((error) =>
          Effect.logError(`gateway: keeping the configuration, the new ${options.file} is wrong:\n${error.message}`)
        )
      )
    ),
    Effect.catchCause((cause) =>
      Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError("gateway: reload", cause)
    )
  )
})
