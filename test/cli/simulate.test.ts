import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { spawn } from "node:child_process"
import { join } from "node:path"

const cli = join(import.meta.dirname, "..", "..", "src", "cli.ts")

const run = (args: ReadonlyArray<string>) =>
  Effect.callback<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>((resume) => {
    const child = spawn(process.execPath, [cli, "simulate", ...args], { env: { PATH: process.env["PATH"] } })
    let stdout = ""
    let stderr = ""
    child.stdout.on("data", (data) => stdout += data)
    child.stderr.on("data", (data) => stderr += data)
    child.on("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
    return Effect.sync(() => void child.kill("SIGKILL"))
  })

const models = (limits: unknown) => ({ chat: { targets: [{ provider: "xai", model: "grok-3", limits }] } })

const scenario = {
  description: "a small quota",
  duration: "2 minutes",
  traffic: [{ name: "users", calls: 1, per: "1 second", input: 20, output: 20, deadline: "30 seconds" }],
  providers: { xai: { limits: { requests: { limit: 30, per: "1 minute" } } } },
  policies: {
    known: { models: models({ requests: { limit: 30, per: "1 minute" } }) },
    unknown: { models: models({}) }
  }
}

/** Writes files into a folder of their own and returns their paths. */
const files = (contents: Readonly<Record<string, unknown>>) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* fs.makeTempDirectoryScoped()
    const paths: Record<string, string> = {}
    for (const [name, content] of Object.entries(contents)) {
      const path = paths[name] = join(folder, `${name}.json`)
      yield* fs.writeFileString(path, typeof content === "string" ? content : JSON.stringify(content))
    }
    return paths
  }).pipe(Effect.provide(NodeFileSystem.layer))

describe("breakwater simulate", () => {
  it.live("prints the same bytes for the same file and seed, and others for another seed", () =>
    Effect.scoped(Effect.gen(function*() {
      const { file = "" } = yield* files({ file: scenario })
      const [a, b, c] = yield* Effect.all([
        run([file, "--seed", "3", "--json"]),
        run([file, "--seed", "3", "--json"]),
        run([file, "--seed", "4", "--json"])
      ], { concurrency: 2 })
      assert.deepStrictEqual([a.code, a.stderr], [0, ""])
      assert.strictEqual(a.stdout, b.stdout)
      assert.notStrictEqual(a.stdout, c.stdout)
      const report = JSON.parse(a.stdout)
      assert.deepStrictEqual([report.policy, report.seed, report.refused], ["known", 3, 0])
    })))

  it.live("compares two policies, of the scenario or of a gateway's file, in either order of arguments", () =>
    Effect.scoped(Effect.gen(function*() {
      const gateway = { models: models({ requests: { limit: 300, per: "1 minute" } }), server: { drain: "1 second" } }
      const { file = "", other = "" } = yield* files({ file: scenario, other: gateway })
      const [text, json] = yield* Effect.all([
        run([file, "--compare", "known", other]),
        run(["--compare", "unknown", other, file, "--json"])
      ], { concurrency: 2 })
      assert.strictEqual(text.code, 0, text.stderr)
      assert.match(text.stdout, /calls\s+\d+\s+\d+/)
      const { compared } = JSON.parse(json.stdout)
      assert.deepStrictEqual(compared.map((report: { policy: string }) => report.policy), ["unknown", other])
    })))

  it.live("names what is wrong by its path, and exits with 2", () =>
    Effect.scoped(Effect.gen(function*() {
      const { file = "", typo = "", worse = "" } = yield* files({
        file: scenario,
        typo: { ...scenario, traffic: [{ ...scenario.traffic[0], imput: 1 }] },
        worse: { models: { chat: { targets: [] } } }
      })
      const table: ReadonlyArray<readonly [ReadonlyArray<string>, string]> = [
        [["/nowhere.json"], "cannot read /nowhere.json"],
        [[typo], "traffic[0].imput: there is no such field"],
        [[file, "--policy", worse], "models.chat.targets"],
        [[file, "--compare", "known"], "--compare needs two policies"]
      ]
      const ran = yield* Effect.forEach(table, ([args]) => run(args), { concurrency: 2 })
      for (const [index, [args, message]] of table.entries()) {
        assert.include(ran[index]?.stderr, message, args.join(" "))
        assert.deepStrictEqual([ran[index]?.code, ran[index]?.stdout], [2, ""], args.join(" "))
      }
      const json = yield* run([typo, "--json"])
      assert.strictEqual(json.code, 2)
      assert.deepStrictEqual(JSON.parse(json.stdout), {
        valid: false,
        problems: [{ path: "traffic[0].imput", message: "there is no such field" }]
      })
    })))
})
