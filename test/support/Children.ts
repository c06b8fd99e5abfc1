/**
 * Gateways as processes of their own, as their users start them; they end with the scope.
 */
import { Effect, type Scope } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import * as Net from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"

const root = join(import.meta.dirname, "../..")

/** A process that listens. */
export interface Child {
  readonly port: number
  readonly pid: number
}

const configFile = (config: object): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const file = join(mkdtempSync(join(tmpdir(), "breakwater-")), "gateway.json")
      writeFileSync(file, JSON.stringify(config))
      return file
    }),
    (file) => Effect.sync(() => rmSync(dirname(file), { recursive: true }))
  )

/** A port that nobody has at the moment. */
const freePort = Effect.callback<number>((resume) => {
  const server = Net.createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

/** Starts Node and waits until it says that it listens. */
const start = (
  args: ReadonlyArray<string>,
  ready: RegExp
): Effect.Effect<{ readonly found: RegExpExecArray; readonly pid: number }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, args, { cwd: root, env: { ...process.env, NODE_ENV: "production" } })),
      (child) =>
        Effect.callback<void>((resume) => {
          if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
          child.once("exit", () => resume(Effect.void))
          child.kill("SIGKILL")
        })
    )
    const found = yield* Effect.callback<RegExpExecArray>((resume) => {
      let said = ""
      const hear = (data: Buffer): void => {
        said += data.toString()
        const found = ready.exec(said)
        if (found !== null) resume(Effect.succeed(found))
      }
      child.stdout.on("data", hear)
      child.stderr.on("data", hear)
      child.once("exit", (code) => resume(Effect.die(new Error(`${args.join(" ")} ended with ${code}: ${said}`))))
    })
    return { found, pid: child.pid ?? 0 }
  })

/** Starts Portkey's gateway; it has no option for the address it listens on. */
export const portkey: Effect.Effect<Child, never, Scope.Scope> = Effect.gen(function*() {
  const script = join(
    createRequire(import.meta.url).resolve("@portkey-ai/gateway/package.json"),
    "../build/start-server.js"
  )
  const port = yield* freePort
  const { pid } = yield* start([script, "--headless", `--port=${port}`], /Ready for connections/)
  return { port, pid }
})
/** Starts the gateway of this package from its command, with a configuration; returns its port and process id. */
export const breakwater = (config: object): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.gen(function*() {
    const file = yield* configFile(config)
    const args = ["--conditions=breakwater-source", "src/cli.ts", "gateway", "--config", file, "--port", "0", "--json"]
    const { found, pid } = yield* start(args, /"port":(\d+)/)
    return { port: Number(found[1]), pid }
  })
