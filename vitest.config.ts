import { defaultServerConditions } from "vite"
import { defineConfig } from "vitest/config"
import * as Doctest from "./test/support/Doctest.ts"

Doctest.write()

export default defineConfig({
  ssr: { resolve: { conditions: ["breakwater-source", ...defaultServerConditions] } },
  test: {
    // Many tests wait for sockets and processes; the default leaves one of two cores idle.
    maxWorkers: 2,
    // A test that has to end by itself says so; this is for machines that have other things to do.
    testTimeout: 30_000,
    reporters: ["default", "./test/support/CountReporter.ts"],
    projects: [
      { extends: true, test: { name: "unit", include: ["test/**/*.test.ts"], isolate: false } },
      { extends: true, test: { name: "docs", include: [".doctest/*.test.ts"], isolate: false } }
    ]
  }
})
