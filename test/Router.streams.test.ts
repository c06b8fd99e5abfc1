import { assert, describe, it } from "@effect/vitest"
import { LLMError, type LLMService, Provider, Resilience, Router } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Layer, Schedule, Stream } from "effect"
import { Prompt, Response } from "effect/ai"
import * as Calls from "./support/Calls.ts"

const { broken, calledTargets, streamParts, target, underTime, withRouter } = Calls

const prefill = { capabilities: { prefill: true } }
const [a, b, c] = ["p/a", "q/b", "r/c"].map((name) => target(name))
const [pa, pb] = ["p/a", "q/b"].map((name) => target(name, prefill))
assert(a !== undefined && b !== undefined && c !== undefined && pa !== undefined && pb !== undefined)

const retry = Schedule.recurs(0)

/** All parts that were handed over, and how the stream ended. */
const collect = (request: Partial<LLMService.CompletionRequest>) =>
  Effect.gen(function*() {
    const parts: Array<LLMService.StreamPart> = []
    const result = yield* underTime(
      Effect.result(Stream.runForEach(streamParts(request), (part) => Effect.sync(() => void parts.push(part)))),
      "2 minutes"
    )
    return { parts, error: result._tag === "Failure" ? result.failure : undefined }
  })

const text = (parts: ReadonlyArray<LLMService.StreamPart>): string =>
  parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")

const blocks = (parts: ReadonlyArray<LLMService.StreamPart>) =>
  parts.filter((part) => part.type === "text-start" || part.type === "text-end").map((part) => part.type)

const record = (parts: ReadonlyArray<LLMService.StreamPart>): ReadonlyArray<LLMError.Attempt> => {
  const finish = parts.at(-1)
  const metadata = finish?.type === "finish" ? finish.metadata["breakwater"] : undefined
  return (metadata as { readonly attempts?: ReadonlyArray<LLMError.Attempt> } | undefined)?.attempts ?? []
}

const prompts = Effect.flatMap(
  TestProvider.TestProvider,
  (provider) =>
    Effect.map(
      provider.calls,
      (calls) =>
        calls.map(({ request }) =>
          Prompt.make(request.prompt).content.map((message) =>
            `${message.role}: ${
              typeof message.content === "string"
                ? message.content
                : message.content.map((part) => part.type === "text" ? part.text : part.type).join("|")
            }`
          )
        )
    )
)

/** Targets whose streams break after they have called a tool, or have begun to. */
const calling = (kind: "tool-call" | "tool-params-start", asked: Array<string>) => {
  const part = kind === "tool-call"
    ? Response.toolCallPart({ id: "1", name: "Add", params: {}, providerExecuted: false })
    : Response.makePart("tool-params-start", { id: "1", name: "Add", providerExecuted: false })
  const adapter: Provider.Adapter = {
    complete: () => Effect.die("not asked"),
    stream: ({ id, provider }) =>
      Stream.suspend(() => {
        asked.push(id)
        return Stream.concat(
          Stream.make(
            Response.makePart("text-start", { id: "0" }),
            Response.makePart("text-delta", { id: "0", delta: "let me see" }),
            part
          ),
          Stream.fail(LLMError.make("transient_network", { provider, reason: "conn_reset", maybeBilled: true }))
        )
      })
  }
  return Router.layer({ targets: [pa, pb], retry }).pipe(
    Layer.provide(Layer.succeed(Provider.Provider, { adapter: () => adapter, names: ["any"] })),
    Layer.provide(Resilience.layerMemory())
  )
}

describe("Router streams", () => {
  describe("restart", () => {
    const streamPolicy = "restart"

    it.effect("a marker says what is void, and the answer that follows is whole (T36)", () =>
      Effect.gen(function*() {
        const { error, parts } = yield* collect({ streamPolicy })
        assert.isUndefined(error)
        const at = parts.findIndex((part) => part.type === "restarted")
        assert.deepStrictEqual(parts[at], {
          type: "restarted",
          from: "p/a",
          target: "q/b",
          errorClass: "transient_network",
          reason: "stream_truncated",
          discarded: 9
        })
        assert.strictEqual(text(parts.slice(at)), "the whole answer")
        assert.deepStrictEqual(record(parts).map((_) => [_.target, _.outcome]), [["p/a", "failure"], [
          "q/b",
          "success"
        ]])
      }).pipe(Effect.provide(withRouter({ targets: [a, b], retry }, {
        "p/a": [TestProvider.cut(["half ", "of i"])],
        "q/b": [TestProvider.reply("the whole answer")]
      }))))

    it.effect("the same target may answer anew, and what breaks twice begins three times", () =>
      Effect.gen(function*() {
        const { parts } = yield* collect({ streamPolicy })
        const markers = parts.flatMap((part) =>
          part.type === "restarted" ? [[part.from, part.target, part.discarded]] : []
        )
        assert.deepStrictEqual(markers, [["p/a", "p/a", 3], ["p/a", "q/b", 5]])
        assert.strictEqual(text(parts.slice(parts.findLastIndex((part) => part.type === "restarted"))), "whole")
      }).pipe(Effect.provide(withRouter({
        targets: [a, b],
        retry: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 }))
      }, {
        "p/a": [TestProvider.cut(["one"]), TestProvider.cut(["three"])],
        "q/b": [TestProvider.reply("whole")]
      }))))

    it.effect("when nobody can, the caller sees what broke it first, with all attempts", () =>
      Effect.gen(function*() {
        const { error, parts } = yield* collect({ streamPolicy })
        assert.strictEqual(text(parts), "half")
        assert.isFalse(parts.some((part) => part.type === "restarted"))
        assert.strictEqual(error?.reason, "stream_truncated")
        assert.deepStrictEqual(error?.attempts.map((_) => _.target), ["p/a", "q/b"])
      }).pipe(Effect.provide(withRouter({ targets: [a, b], retry }, {
        "p/a": [TestProvider.cut(["half"])],
        "q/b": [broken()]
      }))))

    for (const policy of ["restart", "continue"] as const) {
      for (const kind of ["tool-call", "tool-params-start"] as const) {
        it.effect(`a tool is called once: after a ${kind} nothing is asked for again by ${policy} (T36)`, () =>
          Effect.gen(function*() {
            const asked: Array<string> = []
            const { error, parts } = yield* collect({ streamPolicy: policy }).pipe(Effect.provide(calling(kind, asked)))
            assert.strictEqual(parts.filter((part) => part.type === kind).length, 1)
            assert.strictEqual(error?.reason, "conn_reset")
            assert.deepStrictEqual(asked, ["p/a"])
          }))
      }
    }
  })

  describe("continue", () => {
    const streamPolicy = "continue"

    it.effect("goes on where it was cut: one text, one block, the beginning as the assistant's last words (T36)", () =>
      Effect.gen(function*() {
        const { error, parts } = yield* collect({ streamPolicy, maxTokens: 100 })
        assert.isUndefined(error)
        assert.strictEqual(text(parts), "one two three four")
        assert.deepStrictEqual(blocks(parts), ["text-start", "text-end"])
        assert.strictEqual(new Set(parts.flatMap((part) => part.type === "text-delta" ? [part.id] : [])).size, 1)
        assert.strictEqual(parts.filter((part) => part.type === "response-metadata").length, 1)
        assert.deepStrictEqual(yield* prompts, [["user: hi"], ["user: hi", "assistant: one two"]])
        const provider = yield* TestProvider.TestProvider
        assert.isBelow((yield* provider.calls)[1]?.request.maxTokens ?? 100, 100)
      }).pipe(Effect.provide(withRouter({ targets: [pa, pb], retry }, {
        "p/a": [TestProvider.cut(["one ", "two "])],
        "q/b": [TestProvider.reply([" three", " four"])]
      }))))

    it.effect("only goes on at targets that declare it (T37)", () =>
      Effect.gen(function*() {
        const { parts } = yield* collect({ streamPolicy })
        assert.strictEqual(text(parts), "one two")
        assert.deepStrictEqual(yield* calledTargets, ["p/a", "q/b"])
        const [, second] = record(parts)
        assert.deepInclude(second?.skipped ?? [], { target: "r/c", why: "prefill" })
      }).pipe(Effect.provide(withRouter({ targets: [a, c, pb], retry }, {
        "p/a": [TestProvider.cut(["one "])],
        "q/b": [TestProvider.reply("two")]
      }))))

    it.effect("the first cause is what surfaces, whatever follows it (T37)", () =>
      Effect.gen(function*() {
        for (
          const then of [
            broken(),
            TestProvider.fail("permanent", { reason: "invalid_request", scope: "request", status: 400 })
          ]
        ) {
          const provider = yield* TestProvider.TestProvider
          yield* provider.script("q/b", [then])
          const { error, parts } = yield* collect({ streamPolicy })
          assert.strictEqual(text(parts), "half")
          assert.deepStrictEqual([error?.errorClass, error?.reason, error?.target], [
            "transient_network",
            "stream_truncated",
            "p/a"
          ])
          assert.deepStrictEqual(error?.attempts.map((_) => _.target), ["p/a", "q/b"])
        }
      }).pipe(Effect.provide(withRouter({ targets: [pa, pb], retry }, { "p/a": [TestProvider.cut(["half"])] }))))

    it.effect("nobody who declares it: the failure is the caller's, and nobody else is asked", () =>
      Effect.gen(function*() {
        const { error } = yield* collect({ streamPolicy })
        assert.strictEqual(error?.reason, "stream_truncated")
        assert.deepStrictEqual(yield* calledTargets, ["p/a"])
      }).pipe(Effect.provide(withRouter({ targets: [a, b], retry }, { "p/a": [TestProvider.cut(["half"])] }))))
  })

  describe("buffer", () => {
    const streamPolicy = "buffer"

    it.effect("hands nothing over before the whole answer is there, so that a cut is never seen", () =>
      Effect.gen(function*() {
        const { error, parts } = yield* collect({ streamPolicy })
        assert.isUndefined(error)
        assert.strictEqual(text(parts), "whole answer")
        assert.deepStrictEqual(record(parts).map((_) => _.target), ["p/a", "q/b"])
      }).pipe(Effect.provide(withRouter({ targets: [a, b], retry }, {
        "p/a": [TestProvider.cut(["half"])],
        "q/b": [TestProvider.reply("whole answer")]
      }))))

    it.effect("has the time of an attempt, not that of a first token", () =>
      Effect.gen(function*() {
        const { parts } = yield* collect({ streamPolicy })
        assert.strictEqual(text(parts), "whole answer")
        const [first] = record(parts)
        assert.deepStrictEqual([first?.target, first?.reason, first?.durationMs], ["p/a", "attempt", 60_000])
      }).pipe(Effect.provide(withRouter({ targets: [a, b], retry }, {
        "p/a": [TestProvider.reply(Array.from({ length: 20 }, () => "x"), { gap: "10 seconds" })],
        "q/b": [TestProvider.reply("whole answer")]
      }))))
  })

  it.effect("the router's policy is that of requests that bring none", () =>
    Effect.gen(function*() {
      const { parts } = yield* collect({})
      assert.strictEqual(text(parts), "whole")
      const own = yield* collect({ streamPolicy: "fail" })
      assert.strictEqual(own.error?.reason, "stream_truncated")
    }).pipe(Effect.provide(withRouter({ targets: [a, b], retry, streamPolicy: "buffer" }, {
      "p/a": [TestProvider.cut(["half"])],
      "q/b": [TestProvider.reply("whole")]
    }))))
})
