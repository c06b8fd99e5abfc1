/**
 * What is mutated, and which tests have to notice.
 */
import { globSync } from "node:fs"

/** The pure cores, by the name under which the command knows them. */
export const modules: Readonly<Record<string, ReadonlyArray<string>>> = {
  circuit: ["core", "history", "trip", "window"].map((name) => `src/internal/circuit/${name}.ts`),
  limiter: [
    "account",
    "bucket",
    "calendar",
    "heap",
    "learning",
    "limits",
    "meter",
    "queue",
    "shedding",
    "slidingLog"
  ].map((name) => `src/internal/limiter/${name}.ts`),
  engine: ["src/internal/limiter/engine.ts"],
  decision: ["src/internal/call/decision.ts"],
  health: globSync("src/internal/health/*.ts").sort(),
  hedging: ["src/internal/hedging/core.ts", "src/internal/hedging/samples.ts"],
  budget: globSync("src/internal/budget/*.ts").sort(),
  selection: globSync("src/internal/selection/*.ts").sort(),
  retryAfter: ["src/internal/retryAfter.ts"],
  recovery: ["src/Recovery.ts"],
  quota: ["src/internal/providerServer/quota.ts"]
}

/** Those in virtual time, without sockets and processes. */
export const tests: ReadonlyArray<string> = [
  ...globSync("test/internal/**/*.test.ts").sort(),
  ...globSync("test/*.test.ts", { exclude: ["test/bench.test.ts", "test/examples.test.ts", "test/Usage.test.ts"] })
    .sort(),
  "test/testing/TestProvider.test.ts",
  "test/testing/ProviderServer.test.ts",
  "test/mutation/vectors.ts"
]
