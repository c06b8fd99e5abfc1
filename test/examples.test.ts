import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { globSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"

const root = join(import.meta.dirname, "..")

// The condition makes `breakwater` mean src, as in the other tests; without it Node takes dist. Exit code 0, or why not.
const run = (file: string): Promise<ReadonlyArray<string>> =>
  promisify(execFile)(process.execPath, ["--conditions=breakwater-source", file], {
    cwd: root,
    env: { PATH: process.env["PATH"] },
    timeout: 50_000
  }).then(
    () => [],
    (error: { message: string; stdout: string; stderr: string }) => [
      `${file}: ${error.message}\n${error.stdout}${error.stderr}`
    ]
  )

describe("examples", () => {
  it("each one finishes by itself, with no keys in the environment", { timeout: 60_000 }, async () => {
    const failures = await Promise.all(globSync("examples/*.ts", { cwd: root }).map(run))
    assert.deepStrictEqual(failures.flat(), [])
  })
})
