import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, Fiber } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Harness from "../server/harness.ts"

const cli = join(import.meta.dirname, "..", "..", "src", "cli.ts")

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "breakwater-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

interface Ran {
  readonly code: number | null
  readonly signal: string | null
}

interface Process {
  readonly child: ChildProcess
  readonly ended: Effect.Effect<Ran>
  readonly output: { stdout: string; stderr: string }
}

const start = (args: ReadonlyArray<string>, env: Record<string, string> = {}): Process => {
  const child = spawn(process.execPath, [cli, ...args], {
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", "pipe", "pipe"]
  })
  const output = { stdout: "", stderr: "" }
  child.stdout.on("data", (data) => output.stdout += data)
  child.stderr.on("data", (data) => output.stderr += data)
  const ended = new Promise<Ran>((resolve) => child.on("close", (code, signal) => resolve({ code, signal })))
  return { child, output, ended: Effect.promise(() => ended) }
}

const run = (args: ReadonlyArray<string>, env: Record<string, string> = {}) => {
  const { ended, output } = start(args, env)
  return Effect.map(ended, ({ code }) => ({ code, ...output }))
}

const until = (predicate: () => boolean) =>
  Effect.gen(function*() {
    while (!predicate()) yield* Effect.sleep(20)
  }).pipe(Effect.timeout("15 seconds"))

const hello = { model: "chat", messages: [{ role: "user", content: "Say tide" }] }

describe("breakwater check-config", { timeout: 30_000 }, () => {
  it.live("exits with 0, 1 or 2, for people and for programs", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const good = join(path, "good.json")
      const bad = join(path, "bad.json")
      const broken = join(path, "broken.json")
      writeFileSync(
        good,
        JSON.stringify({ providers: { openai: { key: "${K}" } }, models: { chat: { targets: ["openai/a"] } } })
      )
      writeFileSync(bad, JSON.stringify({ providers: { openai: { key: "${K}" } }, models: { chat: { target: [] } } }))
      writeFileSync(broken, "{")
      const [valid, json, missing, wrong, wrongJson, unreadable, notJson, schema] = yield* Effect.all([
        run(["check-config", good], { K: "k" }),
        run(["check-config", "--json", good], { K: "k" }),
        run(["check-config", good]),
        run(["check-config", bad], { K: "k" }),
        run(["check-config", "--json", bad], { K: "k" }),
        run(["check-config", join(path, "none.json")]),
        run(["check-config", broken]),
        run(["check-config", "--schema"])
      ], { concurrency: 2 })
      assert.deepStrictEqual([valid.code, valid.stderr], [0, ""])
      assert.include(valid.stdout, "chat: openai/a@openai-1")
      assert.deepStrictEqual(JSON.parse(json.stdout), {
        valid: true,
        models: [{ name: "chat", targets: ["openai/a@openai-1"] }],
        problems: []
      })
      assert.strictEqual(missing.code, 1)
      assert.include(missing.stderr, "providers.openai.key: the environment variable K is not set")
      assert.strictEqual(wrong.code, 1)
      assert.include(wrong.stderr, "models.chat.target: there is no such field")
      assert.deepStrictEqual(
        [wrongJson.code, JSON.parse(wrongJson.stdout).problems.map((_: Harness.Json) => _.path).toSorted()],
        [1, ["models.chat.target", "models.chat.targets"]]
      )
      assert.deepStrictEqual([unreadable.code, notJson.code], [2, 2])
      assert.strictEqual(JSON.parse(schema.stdout).type, "object")
    }).pipe(Effect.scoped))
})

describe("breakwater gateway", { timeout: 30_000 }, () => {
  it.live("serves a file, follows its changes, and lets calls end when it is told to stop", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const file = join(path, "gateway.json")
      const server = yield* ProviderServer.make({
        format: "openai",
        latency: { perChunk: "50 millis" },
        reply: "x".repeat(320)
      })
      const config = (name: string) =>
        JSON.stringify({
          providers: { openai: { baseUrl: server.url, key: "${K}" } },
          models: { [name]: { targets: ["openai/a"] } }
        })
      writeFileSync(file, config("chat"))
      const { child, ended, output } = start(["gateway", "--config", file, "--port", "0", "--json"], {
        K: Harness.canary
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
      yield* until(() => output.stdout.includes("\n"))
      const { host, models, port, url } = JSON.parse(output.stdout)
      assert.deepStrictEqual([host, models, url], ["127.0.0.1", ["chat"], `http://127.0.0.1:${port}`])
      assert.strictEqual((yield* Harness.ask(port, hello)).status, 200)
      const lost = yield* Harness.ask(port, hello, { path: "/chat/completions" })
      assert.deepStrictEqual([lost.status, lost.json.error.code], [404, "unknown_url"])
      assert.include(lost.json.error.message, "paths begin with /v1")

      // Whoever has the id of a call finds it in the log.
      yield* server.enqueue(ProviderServer.Fault.Status({ status: 400 }))
      const { headers } = yield* Harness.ask(port, hello)
      yield* until(() => output.stderr.includes(`{ request: '${headers["x-breakwater-request-id"]}' }`))

      // An editor replaces the file; then the file is wrong for a while; then the process is told.
      writeFileSync(`${file}.new`, config("other"))
      renameSync(`${file}.new`, file)
      yield* until(() => output.stderr.includes("serving the new"))
      assert.strictEqual((yield* Harness.ask(port, hello)).status, 404)
      writeFileSync(file, "{ wrong")
      yield* until(() => output.stderr.includes("keeping the configuration"))
      assert.strictEqual((yield* Harness.ask(port, { ...hello, model: "other" })).status, 200)
      writeFileSync(file, config("third"))
      child.kill("SIGHUP")
      yield* until(() => output.stderr.split("serving the new").length > 2)
      assert.strictEqual((yield* Harness.ask(port, { ...hello, model: "third" })).status, 200)

      const streaming = yield* Effect.forkChild(Harness.ask(port, { ...hello, model: "third", stream: true }))
      yield* Effect.sleep(250)
      child.kill("SIGTERM")
      yield* Effect.sleep(100)
      const refused = yield* Harness.ask(port, hello)
      assert.strictEqual(refused.status, 503)
      assert.isTrue(Harness.openAiStream((yield* Fiber.join(streaming)).body).done)
      const { code, signal } = yield* Effect.timeout(ended, "3 seconds")
      assert.deepStrictEqual([code, signal], [0, null])
      assert.notInclude(output.stdout + output.stderr, Harness.canary)
    }).pipe(Effect.scoped))

  it.live("says why it cannot start", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const file = join(path, "gateway.json")
      writeFileSync(file, JSON.stringify({ models: { chat: { targets: ["openai/a"] } } }))
      const ran = yield* run(["gateway", "--config", file, "--port", "0"])
      assert.deepStrictEqual([ran.code, ran.stdout], [2, ""])
      assert.include(ran.stderr, "provider openai has no key")
    }).pipe(Effect.scoped))
})
