import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, Redacted } from "effect"
import { spawn } from "node:child_process"
import { join } from "node:path"

const cli = join(import.meta.dirname, "..", "..", "src", "cli.ts")

interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the real command as a process: its exit code and its streams are what is tested. */
const run = (args: ReadonlyArray<string>, options: {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
} = {}) =>
  Effect.callback<Ran>((resume) => {
    const child = spawn(process.execPath, [cli, ...args], { env: { PATH: process.env["PATH"], ...options.env } })
    let stdout = ""
    let stderr = ""
    child.stdout.on("data", (data) => stdout += data)
    child.stderr.on("data", (data) => stderr += data)
    child.on("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
    child.stdin.end(options.input ?? "")
    return Effect.sync(() => void child.kill("SIGKILL"))
  })

const lines = (text: string): ReadonlyArray<string> => text.split("\n").filter((line) => line !== "")
const json = (text: string): unknown => JSON.parse(text)

describe("breakwater classify", () => {
  const limited = JSON.stringify({
    id: "one",
    provider: "groq",
    kind: "http",
    status: 429,
    headers: { "retry-after": "7" },
    body: JSON.stringify({ error: { message: "Rate limit reached", type: "tokens", code: "rate_limit_exceeded" } })
  })
  const refused = JSON.stringify({
    provider: "node",
    kind: "network",
    status: null,
    headers: {},
    body: null,
    nodeError: { name: "Error", code: "ECONNREFUSED", message: "connect ECONNREFUSED 127.0.0.1:1" }
  })

  it.live("prints one JSON line for each failure, in order", () =>
    Effect.gen(function*() {
      const ran = yield* run(["classify"], { input: `${limited}\n\n${refused}\n` })
      assert.deepStrictEqual(lines(ran.stdout).map(json), [
        {
          id: "one",
          class: "RateLimit",
          reason: "rate_limit",
          scope: "model",
          retryAfterMs: 7000,
          isRetryable: true,
          maybeBilled: false
        },
        {
          id: null,
          class: "TransientNetwork",
          reason: "conn_refused",
          scope: "provider",
          retryAfterMs: null,
          isRetryable: true,
          maybeBilled: false
        }
      ])
      assert.deepStrictEqual([ran.code, ran.stderr], [0, ""])
    }))

  it.live("names each wrong line, exits with 2 and loses no other line", () =>
    Effect.gen(function*() {
      const input = [limited, "garbage", JSON.stringify({ provider: "groq", kind: "smoke" }), refused, "[]"].join("\n")
      const ran = yield* run(["classify"], { input })
      assert.strictEqual(ran.code, 2)
      assert.strictEqual(lines(ran.stdout).length, 2)
      assert.deepStrictEqual(lines(ran.stderr).map((line) => line.split(":")[0]), ["line 2", "line 3", "line 5"])
    }))

  it.live("takes empty input for no failures", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* run(["classify"]), { code: 0, stdout: "", stderr: "" })
    }))
})

describe("breakwater demo", { timeout: 60_000 }, () => {
  it.live(
    "answers every call, and the same seed leads to the same decisions",
    () =>
      Effect.gen(function*() {
        const args = ["demo", "--json", "--seed", "7", "--calls", "60"]
        const [first, second] = yield* Effect.all([run(args), run(args)], { concurrency: 2 })
        assert.deepStrictEqual([first.code, second.code], [0, 0])
        const report = JSON.parse(first.stdout)
        assert.deepStrictEqual([report.calls, report.answered, report.targets], [60, 60, 27])
        assert.isAbove(report.attempts, 60)
        assert.isAbove(report.errorsByClass.server_error, 0)
        const again = JSON.parse(second.stdout)
        for (const field of report.mayDiffer) {
          assert.property(report, field)
          delete report[field]
          delete again[field]
        }
        assert.deepStrictEqual(report, again)
        assert.include(first.stderr, "25/60 calls")
      })
  )

  it.live("prints a report for people", () =>
    Effect.gen(function*() {
      const ran = yield* run(["demo", "--calls", "5"])
      assert.strictEqual(ran.code, 0)
      assert.match(ran.stdout, /^5 of 5 calls answered over 27 targets/)
      assert.include(ran.stdout, "What the servers received")
    }))

  it.live("--live names the variables it needs", () =>
    Effect.gen(function*() {
      const ran = yield* run(["demo", "--live"])
      assert.strictEqual(ran.code, 2)
      assert.include(ran.stderr, "GROQ_API_KEY, OPENAI_API_KEY, ANTHROPIC_API_KEY")
    }))

  it.live(
    "--live calls the provider whose key is in the environment",
    () =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({
          format: "anthropic",
          keys: [{ id: "mine", value: Redacted.make("sk-mine") }]
        })
        const ran = yield* run(["demo", "--live", "--json"], {
          env: { ANTHROPIC_API_KEY: "sk-mine", ANTHROPIC_BASE_URL: server.url }
        })
        assert.deepStrictEqual([ran.code, JSON.parse(ran.stdout).answered], [0, 3])
        assert.deepStrictEqual((yield* server.received).byKey, { mine: 3 })
        assert.notInclude(ran.stdout + ran.stderr, "sk-mine")
      }).pipe(Effect.scoped)
  )

  it.live("wrong arguments exit with 2 and say what is wrong", () =>
    Effect.gen(function*() {
      const calls = yield* run(["demo", "--calls", "0"])
      assert.deepStrictEqual([calls.code, calls.stderr.trim()], [2, "--calls must be at least 1, got 0"])
      const flag = yield* run(["demo", "--sead", "7"])
      assert.strictEqual(flag.code, 2)
      assert.include(flag.stderr, "--sead")
      const command = yield* run(["demmo"])
      assert.strictEqual(command.code, 2)
    }))

  it.live("--help exits with 0 and shows the commands", () =>
    Effect.gen(function*() {
      const ran = yield* run(["--help"])
      assert.strictEqual(ran.code, 0)
      assert.include(ran.stdout, "classify")
      assert.include(ran.stdout, "demo")
    }))
})
