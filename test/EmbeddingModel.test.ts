import { assert, describe, it } from "@effect/vitest"
import {
  Cooldown,
  EmbeddingModel,
  LanguageModel,
  LLMError,
  RateLimiter,
  Resilience,
  type Router,
  Target
} from "breakwater"
import { Cause, Context, Duration, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { AiError, EmbeddingModel as Ai, Model } from "effect/ai"
import { TestClock } from "effect/testing"

const target = (id: string, options: Partial<Target.Options> = {}): Target.Target => {
  const [provider = "", model = ""] = id.split("/")
  return Target.make({ provider, model, ...options })
}

const a = target("openai/embed", { limits: { tokens: { limit: 1000, per: "1 minute" } } })
const b = target("azure/embed")

type Answer = AiError.AiErrorReason | "stall" | number | undefined

/** An embedding model that answers or fails in turn, and what it was asked; a number is the tokens it reports. */
const model = (...answers: ReadonlyArray<Answer>) => {
  const asked: Array<ReadonlyArray<string>> = []
  const layer = Layer.effect(
    Ai.EmbeddingModel,
    Ai.make({
      embedMany: ({ inputs }) => {
        const answer = answers[Math.min(asked.push(inputs), answers.length) - 1]
        if (answer === "stall") return Effect.never
        return AiError.isAiErrorReason(answer)
          ? Effect.fail(AiError.make({ module: "Acme", method: "embedMany", reason: answer }))
          : Effect.succeed({ results: inputs.map((input) => [input.length]), usage: { inputTokens: answer } })
      }
    })
  )
  return { asked, layer }
}

const revoked = new AiError.AuthenticationError({ kind: "InvalidKey" })

const live = (
  first: Layer.Layer<Ai.EmbeddingModel>,
  second: Layer.Layer<Ai.EmbeddingModel>,
  options: Partial<Router.Options> = {}
) =>
  EmbeddingModel.layer({ ...options, models: [{ target: a, model: first }, { target: b, model: second }] }).pipe(
    Layer.provideMerge(Resilience.layerMemory())
  )

describe("EmbeddingModel", () => {
  it.effect("moves to the next target when one refuses", () => {
    const first = model(revoked)
    const second = model(7)
    return Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const { embeddings, usage } = yield* embedding.embedMany(["one", "three"])
      assert.deepStrictEqual(embeddings.map(({ vector }) => vector), [[3], [5]])
      assert.strictEqual(usage.inputTokens, 7)
      // The key that was refused rests: the next call does not try it.
      yield* embedding.embed("two")
      assert.deepStrictEqual([first.asked.length, second.asked], [1, [["one", "three"], ["two"]]])
    }).pipe(Effect.provide(live(first.layer, Model.make("azure", "embed", second.layer))))
  })

  it.effect("reserves tokens by length, and settles them to what was used", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.RateLimiter
      const embedding = yield* Ai.EmbeddingModel
      yield* embedding.embedMany(["x".repeat(400), "y".repeat(400)])
      const line = (yield* limiter.snapshot).find(({ key }) => key.includes(a.id))
      assert.deepStrictEqual([line?.grantedTokens, line?.settledTokens, line?.refundedTokens], [200, 50, 150])
    }).pipe(Effect.provide(live(model(50).layer, model(1).layer))))

  it.effect("an answer without usage keeps its reservation", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.RateLimiter
      yield* Effect.flatMap(Ai.EmbeddingModel, (embedding) => embedding.embedMany(["x".repeat(400)]))
      const line = (yield* limiter.snapshot).find(({ key }) => key.includes(a.id))
      assert.deepStrictEqual([line?.grantedTokens, line?.refundedTokens], [100, 0])
    }).pipe(Effect.provide(live(model(undefined).layer, model(1).layer))))

  it.effect("waits out a limit that ends soon, and retries what heals", () =>
    Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const fiber = yield* Effect.forkChild(embedding.embedMany(["one"]))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual((yield* Fiber.join(fiber)).embeddings.length, 1)
    }).pipe(
      Effect.provide(
        EmbeddingModel.layer({
          models: [{
            target: b,
            model: model(
              new AiError.RateLimitError({ retryAfter: Duration.seconds(2) }),
              new AiError.InternalProviderError({ description: "oops" }),
              3
            ).layer
          }]
        }).pipe(Layer.provide(Resilience.layerMemory()))
      )
    ))

  it.effect("single texts under equal options are one call, under other options another", () => {
    const first = model(1)
    return Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const urgent = Effect.provideService(LanguageModel.CallOptions, { priority: "high" })
      yield* Effect.all([
        urgent(embedding.embed("one")),
        urgent(embedding.embed("two")),
        embedding.embed("three")
      ], { concurrency: "unbounded" })
      assert.deepStrictEqual(first.asked.map((texts) => texts.join()).toSorted(), ["one,two", "three"])
    }).pipe(Effect.provide(live(first.layer, model(1).layer)))
  })

  it.effect("obeys the options of a call", () => {
    const first = model("stall")
    const second = model("stall")
    return Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const asked = (options: LanguageModel.CallOptions) =>
        embedding.embedMany(["one"]).pipe(
          Effect.provideService(LanguageModel.CallOptions, options),
          Effect.flip,
          Effect.map(LanguageModel.fromAiError)
        )
      const fiber = yield* Effect.forkChild(asked({ deadline: "1 second" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* Fiber.join(fiber)).errorClass, "timeout")
      const nobody = yield* asked({ tags: ["eu"] })
      assert.deepStrictEqual([nobody.errorClass, nobody.origin], ["permanent", "router"])
    }).pipe(Effect.provide(live(first.layer, second.layer)))
  })

  it.effect("an error says what became of all targets", () =>
    Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const error = yield* Effect.flip(embedding.embedMany(["one"]))
      assert.strictEqual(error.reason._tag, "AuthenticationError")
      assert.strictEqual(error.method, "embedMany")
      const ours = LanguageModel.fromAiError(error)
      assert.isTrue(Schema.is(LLMError.AuthenticationError)(ours))
      assert.deepStrictEqual(ours.attempts.map(({ target }) => target), [a.id, b.id])
    }).pipe(Effect.provide(live(model(revoked).layer, model(revoked).layer))))

  it.effect("an interrupted call is interrupted at the target, and is nobody's failure", () => {
    let interrupted = 0
    const hanging = Layer.effect(
      Ai.EmbeddingModel,
      Ai.make({ embedMany: () => Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++)) })
    )
    return Effect.gen(function*() {
      const embedding = yield* Ai.EmbeddingModel
      const fiber = yield* Effect.forkChild(embedding.embedMany(["one"]))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(interrupted, 1)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.deepStrictEqual(yield* Effect.flatMap(Cooldown.Cooldown, (cooldown) => cooldown.active), [])
    }).pipe(Effect.provide(live(hanging, model(1).layer)))
  })

  it.effect("models need services of their own", () =>
    Effect.gen(function*() {
      class First extends Context.Service<First, number>()("test/First") {}
      class Second extends Context.Service<Second, number>()("test/Second") {}
      const using = <R>(tokens: Effect.Effect<number, never, R>) =>
        Layer.unwrap(Effect.map(tokens, (tokens) => model(tokens).layer))
      const layer: Layer.Layer<Ai.EmbeddingModel, never, First | Second | Router.State> = EmbeddingModel.layer({
        models: [{ target: a, model: using(First) }, { target: b, model: Model.make("azure", "embed", using(Second)) }]
      })
      const { usage } = yield* Effect.flatMap(Ai.EmbeddingModel, (embedding) => embedding.embedMany(["one"])).pipe(
        Effect.provide(Layer.provide(layer, Resilience.layerMemory())),
        Effect.provideService(First, 5),
        Effect.provideService(Second, 6)
      )
      assert.strictEqual(usage.inputTokens, 5)
    }))

  it.effect("a router has a model for each of its targets, or the layer dies", () =>
    Effect.gen(function*() {
      const service = yield* Effect.provide(Ai.EmbeddingModel, model(1).layer)
      const made = EmbeddingModel.make([{ target: a, model: service }]).pipe(
        Effect.provide(Resilience.layerExecute({ targets: [a, b] }))
      )
      const exit = yield* Effect.exit(made)
      assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", `no model for target "azure/embed"`)
    }))
})
