import { assert, describe, it } from "@effect/vitest"
import { Hedging, LLMError, Provider, Resilience, Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Exit, Fiber, Layer, Schedule, Stream } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import * as Calls from "./support/Calls.ts"

const { broken, calledTargets, complete, limited, streamParts, target, underTime, withRouter } = Calls

const price = { input: 2, output: 10 }
/** 1000 tokens of input and 500 of output are $0.007. */
const reply = TestProvider.reply("ok", { usage: { input: 1000, output: 500 } })
const priced = ["acme/a", "best/b"].map((name) => target(name, { price }))
const billed = { maybeBilled: true } as const

type Total = { readonly cost?: number | undefined; readonly costAtLeast: boolean }

/** What a completion and the finish part of a stream say of the costs: both the same. */
const totals = (options: Router.Options, scripts: Calls.Scripts) =>
  Effect.gen(function*() {
    const completion = yield* underTime(complete(), "10 seconds").pipe(Effect.provide(withRouter(options, scripts)))
    const parts = yield* underTime(Stream.runCollect(streamParts()), "10 seconds").pipe(
      Effect.provide(withRouter(options, scripts))
    )
    const finish = parts.at(-1)
    const record = finish?.type === "finish" ? finish.metadata["breakwater"] : undefined
    const streamed = record as unknown as Total & { readonly attempts: ReadonlyArray<LLMError.Attempt> }
    assert.deepStrictEqual([streamed.cost, streamed.costAtLeast], [completion.cost, completion.costAtLeast])
    assert.deepStrictEqual(streamed.attempts.map((_) => _.cost), completion.attempts.map((_) => _.cost))
    return completion
  })

describe("Router costs", () => {
  it.effect("are what the tokens that were reported cost", () =>
    Effect.gen(function*() {
      const completion = yield* totals({ targets: priced }, { "*": [reply] })
      assert.deepStrictEqual([completion.cost, completion.costAtLeast], [0.007, false])
      assert.deepStrictEqual(completion.attempts.map((_) => _.cost), [0.007])
    }))

  it.effect("are exact after failures that cannot have been executed, and at least that after others (T33)", () =>
    Effect.gen(function*() {
      for (
        const [step, costAtLeast] of [
          [limited("1 hour"), false],
          [broken(), false],
          [broken(billed), true],
          [TestProvider.fail("transient_network", { reason: "conn_reset", ...billed }), true]
        ] as const
      ) {
        const completion = yield* totals({ targets: priced, retry: Schedule.recurs(0) }, {
          "acme/a": [step],
          "best/b": [reply]
        })
        assert.deepStrictEqual([completion.target, completion.cost, completion.costAtLeast], [
          "best/b",
          0.007,
          costAtLeast
        ])
        assert.deepStrictEqual(completion.attempts.map((_) => [_.outcome, _.cost, _.maybeBilled]), [
          ["failure", undefined, costAtLeast],
          ["success", 0.007, true]
        ])
      }
    }))

  it.effect("are unknown, and so at least anything, where the target that answered has no price", () =>
    Effect.gen(function*() {
      const completion = yield* totals({ targets: [target("acme/a")] }, { "*": [reply] })
      assert.deepStrictEqual([completion.cost, completion.costAtLeast], [undefined, true])
      assert.isFalse("cost" in (completion.attempts[0] ?? {}))
    }))

  it.effect("count what comes from the provider's cache at its own price, and are unknown without usage", () =>
    Effect.gen(function*() {
      const used = (input: number | undefined): Response.Usage =>
        new Response.Usage({
          inputTokens: { total: input, uncached: 200, cacheRead: 800, cacheWrite: undefined },
          outputTokens: { total: 100, text: 100, reasoning: undefined }
        })
      const adapter = (usage: Response.Usage): Provider.Adapter => ({
        stream: () => Stream.die("not asked"),
        complete: ({ model }) =>
          Effect.succeed({ content: [], usage, finishReason: "stop", model, requestId: undefined })
      })
      for (
        const [usage, cachedInput, expected] of [
          [used(1000), 0.5, 0.0018],
          [used(1000), undefined, 0.003],
          [used(undefined), 0.5, undefined]
        ] as const
      ) {
        const live = Router.layer({ targets: [target("acme/a", { price: { ...price, cachedInput } })] }).pipe(
          Layer.provide(
            Layer.succeed(Provider.Provider, { adapter: () => adapter(usage), names: ["any"] })
          ),
          Layer.provide(Resilience.layerMemory())
        )
        const completion = yield* Effect.provide(complete(), live)
        assert.deepStrictEqual([completion.cost, completion.costAtLeast], [expected, expected === undefined])
      }
    }))

  it.effect("are at least those of the answer when a hedge was cancelled", () =>
    Effect.gen(function*() {
      const completion = yield* underTime(complete(), "10 seconds")
      assert.deepStrictEqual(completion.attempts.map((_) => [_.target, _.outcome, _.maybeBilled]), [
        ["acme/a", "interrupted", true],
        ["best/b", "success", true]
      ])
      assert.deepStrictEqual([completion.cost, completion.costAtLeast], [0.007, true])
      assert.match(Router.explain(completion), /answered by best\/b after 2 attempts in 1 s, at least \$0\.0070/)
      assert.include(Router.explain(completion), "1. acme/a, first: cancelled after 1 s, perhaps billed")
    }).pipe(Effect.provide(
      Router.layer({ targets: priced }).pipe(
        Layer.provide(Hedging.layerMemory({ delay: "1 second", maxExtraLoad: 1 })),
        Layer.provideMerge(Layer.merge(
          TestProvider.layer({ "acme/a": [TestProvider.stall()], "best/b": [reply] }),
          Resilience.layerMemory()
        ))
      )
    )))

  it.effect("of a stream that began anew are at least those of the answer that stands", () =>
    Effect.gen(function*() {
      const parts = yield* Stream.runCollect(streamParts({ streamPolicy: "restart" }))
      const finish = parts.at(-1)
      assert(finish?.type === "finish")
      const record = finish.metadata["breakwater"] as unknown as Total
      assert.deepStrictEqual([record.cost, record.costAtLeast], [0.007, true])
    }).pipe(Effect.provide(withRouter({ targets: priced, retry: Schedule.recurs(0) }, {
      "acme/a": [TestProvider.cut(["half"])],
      "best/b": [reply]
    }))))
})

describe("Router calls that must not be sent twice", () => {
  const once = { idempotent: false } as const
  const two = { targets: priced, retry: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 })) }

  for (
    const [name, step] of [
      ["a server error", broken(billed)],
      ["a lost connection", TestProvider.cut([])],
      ["an answer nobody waited for", TestProvider.stall()],
      ["an unknown failure", TestProvider.fail("unknown", { reason: "unknown", ...billed })]
    ] as const
  ) {
    it.effect(`end with ${name} that may have been executed, with consent they go on (T33)`, () =>
      Effect.gen(function*() {
        const provider = yield* TestProvider.TestProvider
        const error = yield* underTime(Effect.flip(complete(once)), "90 seconds", "1 second")
        assert.isTrue(error.maybeBilled)
        assert.isUndefined(error.exhaustion)
        assert.deepStrictEqual(error.attempts.map((_) => [_.target, _.maybeBilled]), [["acme/a", true]])
        assert.deepStrictEqual(yield* calledTargets, ["acme/a"])
        yield* provider.script("acme/a", [step, step, step])
        yield* TestClock.adjust("1 minute")
        for (const consent of [{}, { idempotent: true }]) {
          assert.strictEqual((yield* underTime(complete(consent), "3 minutes", "1 second")).target, "best/b")
        }
      }).pipe(Effect.provide(withRouter(two, { "acme/a": [step], "best/b": [reply] }))))
  }

  for (
    const [name, step] of [
      ["a server error", broken()],
      ["a limit", limited("1 hour")],
      ["a refused connection", TestProvider.fail("transient_network", { reason: "conn_refused" })],
      ["a wrong key", TestProvider.fail("authentication", { reason: "invalid_key", scope: "key" })]
    ] as const
  ) {
    it.effect(`go on after ${name} that was not executed`, () =>
      Effect.gen(function*() {
        const completion = yield* underTime(complete(once), "10 seconds")
        assert.deepStrictEqual([completion.target, completion.costAtLeast], ["best/b", false])
        const parts = yield* underTime(Stream.runCollect(streamParts(once)), "10 seconds")
        assert.strictEqual(parts.at(-1)?.type, "finish")
      }).pipe(Effect.provide(withRouter(two, { "acme/a": [step], "best/b": [reply] }))))
  }

  it.effect("are not begun anew when their stream breaks", () =>
    Effect.gen(function*() {
      for (const streamPolicy of ["restart", "continue", "buffer"] as const) {
        const exit = yield* Effect.exit(Stream.runDrain(streamParts({ ...once, streamPolicy })))
        const error = Exit.findErrorOption(exit)
        assert.isTrue(error._tag === "Some" && error.value.reason === "stream_truncated" && error.value.maybeBilled)
      }
      assert.deepStrictEqual(yield* calledTargets, ["acme/a", "acme/a", "acme/a"])
    }).pipe(
      Effect.provide(withRouter({
        targets: ["acme/a", "best/b"].map((name) => target(name, { capabilities: { prefill: true } }))
      }, { "acme/a": [TestProvider.cut(["half"])] }))
    ))

  it.effect("are not joined by a hedge", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(complete(once), { startImmediately: true })
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* calledTargets, ["acme/a"])
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(
      Router.layer({ targets: priced }).pipe(
        Layer.provide(Hedging.layerMemory({ delay: "1 second", maxExtraLoad: 1 })),
        Layer.provideMerge(Layer.merge(TestProvider.layer({ "*": [TestProvider.stall()] }), Resilience.layerMemory()))
      )
    )))

  it.effect("the same holds for any effect", () =>
    Effect.gen(function*() {
      for (const maybeBilled of [true, false]) {
        let asked = 0
        const call = Router.execute(() => Effect.sync(() => asked++).pipe(Effect.andThen(Effect.fail("broken"))), {
          ...once,
          classify: (_, { provider }) =>
            LLMError.make("server_error", { provider, reason: "internal_error", maybeBilled })
        })
        const error = yield* underTime(Effect.flip(call), "10 seconds")
        assert.deepStrictEqual([error._tag, error.attempts.length, asked], [
          "ServerError",
          ...(maybeBilled ? [1, 1] : [4, 4])
        ])
      }
    }).pipe(Effect.provide(withRouter(two, {}))))
})
