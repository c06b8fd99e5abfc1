import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Classifier, Cooldown, Health, LLMService, Resilience, Router, Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Layer, References } from "effect"
import { readFileSync } from "node:fs"

interface Entry {
  readonly id: string
  readonly provider: string
  readonly kind: string
  readonly status: number | null
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
}

const entries: ReadonlyArray<Entry> = ["errors", "families", "field"].flatMap((name) =>
  readFileSync(new URL(`../fixtures/corpus/${name}.jsonl`, import.meta.url), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))
)

const target = Target.make({ provider: "p", model: "m" })

describe("who is blamed", () => {
  it.effect("a failure that is the request's own changes the health, circuit and cooldown of nobody (T21)", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const llm = yield* LLMService.LLMService
      const health = yield* Health.Health
      const circuits = yield* CircuitBreaker.CircuitBreaker
      const cooldown = yield* Cooldown.Cooldown
      const untouched = yield* health.score("target:p/m")
      let asked = 0
      for (const entry of entries) {
        if (entry.kind !== "http" || entry.status === null) continue
        const error = Classifier.fromHttp({ ...entry, status: entry.status, body: entry.body ?? "", provider: "p" })
        const ownFault = error.errorClass === "permanent" && error.reason !== "model_not_found" &&
          error.reason !== "region_blocked" && error.reason !== "billing_disabled" &&
          error.reason !== "insufficient_quota"
        if (!ownFault) continue
        asked++
        yield* provider.script("p/m", [TestProvider.fail(error.errorClass, { ...error, target: "p/m" })])
        yield* Effect.flip(llm.complete({ prompt: "hi" }))
        assert.strictEqual(yield* health.score("target:p/m"), untouched, entry.id)
        assert.strictEqual((yield* circuits.state("target:p/m")).status, "closed", entry.id)
        assert.deepStrictEqual(yield* cooldown.active, [], entry.id)
      }
      assert.isAbove(asked, 100)
    }).pipe(
      Effect.provide(
        Router.layer({ targets: [target] }).pipe(
          Layer.provideMerge(Layer.merge(TestProvider.layer(), Resilience.layerMemory()))
        )
      ),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))
})
