import { assert, describe, it } from "@effect/vitest"
import { type LLMService, Router, type Target } from "breakwater"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Effect, Schedule, Stream } from "effect"
import { Prompt, Tool } from "effect/ai"
import * as Calls from "./support/Calls.ts"

const { broken, calledTargets, complete, streamParts, target, withRouter } = Calls

const ok = TestProvider.reply("ok")
const tool = Tool.make("Add")

type Request = Partial<LLMService.CompletionRequest>

/** What a router says of a request that none of its targets can serve, before any of them is asked. */
const refusal = (targets: ReadonlyArray<Target.Target>, request: Request) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(complete(request))
    const streamed = yield* Effect.flip(Stream.runDrain(streamParts(request)))
    assert.strictEqual(streamed.message, error.message)
    assert.deepStrictEqual([error._tag, error.origin, error.scope, error.attempts], [
      "PermanentError",
      "router",
      "request",
      []
    ])
    assert.deepStrictEqual(yield* calledTargets, [])
    return error
  }).pipe(Effect.provide(withRouter({ targets }, {})))

describe("Router candidates", () => {
  describe("tags", () => {
    for (
      const [form, tags] of [["words", ["region:eu", "fast"]], ["record", { region: "eu", speed: "high" }]] as const
    ) {
      for (const [asked, wanted] of [["words", ["region:eu"]], ["record", { region: "eu" }]] as const) {
        it.effect(`${asked} of a request are found in the ${form} of a target`, () =>
          Effect.gen(function*() {
            const completion = yield* complete({ tags: wanted })
            assert.strictEqual(completion.target, "acme/eu")
            assert.deepStrictEqual(completion.attempts[0]?.skipped, [
              { target: "acme/us", why: "tags" },
              { target: "acme/any", why: "tags" }
            ])
          }).pipe(Effect.provide(withRouter({
            targets: [target("acme/us", { tags: { region: "us" } }), target("acme/any"), target("acme/eu", { tags })]
          }, { "*": [ok] }))))
      }
    }

    it.effect("all of a request's tags are needed, and without any every target will do", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ tags: ["eu", "fast"] })).target, "acme/both")
        for (const none of [{}, { tags: [] }, { tags: {} }]) {
          assert.strictEqual((yield* complete(none)).target, "acme/eu")
        }
        assert.strictEqual(
          yield* Router.execute(({ id }) => Effect.succeed(id), { tags: ["fast", "eu"] }),
          "acme/both"
        )
      }).pipe(Effect.provide(withRouter({
        targets: [target("acme/eu", { tags: ["eu"] }), target("acme/both", { tags: ["eu", "fast"] })]
      }, { "*": [ok] }))))

    it.effect("a failure never moves a call to a target without its tags", () =>
      Effect.gen(function*() {
        yield* Effect.flip(complete({ tags: ["eu"] }))
        assert.deepStrictEqual(yield* calledTargets, ["acme/eu", "other/eu"])
      }).pipe(
        Effect.provide(withRouter({
          targets: [target("acme/eu", { tags: ["eu"] }), target("acme/us"), target("other/eu", { tags: ["eu"] })],
          retry: Schedule.recurs(0)
        }, { "*": [broken()] }))
      ))

    it.effect("a tag that nobody has is named", () =>
      Effect.map(
        refusal([target("acme/us", { tags: { region: "us" } })], { tags: { region: "eu" } }),
        (error) => assert.include(error.message, "no target can serve a request that needs the tags region:eu")
      ))
  })

  describe("tenants", () => {
    const targets = [target("acme/own", { tenants: ["math", "physics"] }), target("acme/all")]

    it.effect("a target with tenants serves only theirs", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ tenant: "math" })).target, "acme/own")
        for (const request of [{}, { tenant: "art" }]) {
          const completion = yield* complete(request)
          assert.strictEqual(completion.target, "acme/all")
          assert.deepStrictEqual(completion.attempts[0]?.skipped, [{ target: "acme/own", why: "tenant" }])
        }
        const executed = yield* Router.execute(({ id }) => Effect.succeed(id), { tenant: "art" })
        assert.strictEqual(executed, "acme/all")
      }).pipe(Effect.provide(withRouter({ targets }, { "*": [ok] }))))

    it.effect("what is missing is named: the tenant's own target, or one without tenants", () =>
      Effect.gen(function*() {
        const own = targets.slice(0, 1)
        assert.include((yield* refusal(own, { tenant: "art" })).message, `needs a target of tenant "art"`)
        assert.include((yield* refusal(own, {})).message, "needs a target without tenants")
      }))
  })

  describe("capabilities", () => {
    const image = [
      Prompt.makeMessage("user", {
        content: [
          Prompt.makePart("text", { text: "what is this?" }),
          Prompt.makePart("file", { mediaType: "image/png", data: new Uint8Array([1, 2, 3]) })
        ]
      })
    ]
    const prefilled = [
      { role: "user" as const, content: "count to ten" },
      { role: "assistant" as const, content: "one, two" }
    ]
    const schema: LLMService.ResponseFormat = { type: "json_schema", name: "answer", schema: { type: "object" } }

    for (
      const [capability, request] of [
        ["tools", { tools: [tool] }],
        ["images", { prompt: image }],
        ["jsonSchema", { responseFormat: schema }],
        ["prefill", { prompt: prefilled }]
      ] as const satisfies ReadonlyArray<readonly [keyof Target.Capabilities, Request]>
    ) {
      it.effect(`a request that needs ${capability} goes where nobody has declared that it cannot be done`, () =>
        Effect.gen(function*() {
          for (const [asked, expected] of [[request, "acme/able"], [{}, "acme/unable"]] as const) {
            const completion = yield* complete(asked)
            assert.strictEqual(completion.target, expected)
            const streamed = yield* Stream.runCollect(streamParts(asked))
            assert.strictEqual(streamed.length > 0, true)
          }
          const [first] = (yield* complete(request)).attempts
          assert.deepStrictEqual(first?.skipped, [{ target: "acme/unable", why: "capability" }])
          assert.deepStrictEqual((yield* calledTargets).slice(0, 4), [
            "acme/able",
            "acme/able",
            "acme/unable",
            "acme/unable"
          ])
        }).pipe(Effect.provide(withRouter({
          targets: [target("acme/unable", { capabilities: { [capability]: false } }), target("acme/able")]
        }, { "*": [ok] }))))

      it.effect(`that nobody has ${capability} is said`, () =>
        Effect.map(
          refusal([target("acme/unable", { capabilities: { [capability]: false } })], request),
          (error) => assert.include(error.message, `needs ${capability}`)
        ))
    }

    it.effect("all that is missing is named, once each", () =>
      Effect.map(
        refusal([
          target("acme/a", { capabilities: { tools: false } }),
          target("acme/b", { capabilities: { tools: false } }),
          target("acme/c", { tags: ["eu"], capabilities: { jsonSchema: false } }),
          target("acme/d", { tags: ["eu"], tenants: ["math"] })
        ], { tags: ["eu"], tools: [tool], responseFormat: schema }),
        (error) =>
          assert.include(
            error.message,
            "needs the tags eu and jsonSchema and a target without tenants"
          )
      ))

    it.effect("an effect has no prompt: capabilities do not matter to it", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* Router.execute(({ id }) => Effect.succeed(id)), "acme/a")
      }).pipe(Effect.provide(withRouter({ targets: [target("acme/a", { capabilities: { tools: false } })] }, {}))))
  })

  describe("context windows", () => {
    /** A prompt of about so many tokens, by the estimate of four characters each. */
    const prompt = (tokens: number) => "word".repeat(tokens)
    const small = target("acme/small", { contextWindow: 1000 })
    const middle = target("acme/middle", { contextWindow: 2000 })
    const large = target("acme/large", { contextWindow: 8000 })

    it.effect("a prompt that is too long for a window is not sent there, and the record says why", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ prompt: prompt(900) })).target, "acme/small")
        const completion = yield* complete({ prompt: prompt(2500) })
        assert.strictEqual(completion.target, "acme/large")
        assert.deepStrictEqual(completion.attempts[0]?.skipped, [
          { target: "acme/small", why: "context_window" },
          { target: "acme/middle", why: "context_window" }
        ])
        yield* Stream.runDrain(streamParts({ prompt: prompt(2500) }))
        assert.deepStrictEqual(yield* calledTargets, ["acme/small", "acme/large", "acme/large"])
      }).pipe(Effect.provide(withRouter({ targets: [small, middle, large] }, { "*": [ok] }))))

    it.effect("the reply counts, as far as a target gives one", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ prompt: prompt(900), maxTokens: 500 })).target, "acme/middle")
        const capped = yield* complete({ prompt: prompt(1800), maxTokens: 5000 })
        assert.strictEqual(capped.target, "acme/capped")
      }).pipe(
        Effect.provide(withRouter({
          targets: [small, middle, target("acme/capped", { contextWindow: 2000, maxOutputTokens: 100 })]
        }, { "*": [ok] }))
      ))

    it.effect("an unknown window is kept", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* complete({ prompt: prompt(50_000) })).target, "acme/unknown")
        assert.strictEqual((yield* complete({ prompt: prompt(10) })).target, "acme/small")
      }).pipe(Effect.provide(withRouter({ targets: [small, target("acme/unknown")] }, { "*": [ok] }))))

    it.effect("when it is too long for all, nobody is asked and the largest window is named", () =>
      Effect.gen(function*() {
        const error = yield* refusal([small, middle], { prompt: prompt(3000) })
        assert.strictEqual(error.reason, "context_length_exceeded")
        assert.match(error.message, /the prompt has about 30\d\d tokens; the largest context window is 2000/)
      }))

    it.effect("an estimate may be wrong by a quarter: the largest window is asked all the same, and no other", () =>
      Effect.gen(function*() {
        const completion = yield* complete({ prompt: prompt(2400) })
        assert.strictEqual(completion.target, "acme/middle")
        assert.deepStrictEqual(completion.attempts[0]?.skipped, [{ target: "acme/small", why: "context_window" }])
        const error = yield* Effect.flip(complete({ prompt: prompt(2600) }))
        assert.deepStrictEqual([error.origin, error.reason], ["router", "context_length_exceeded"])
        assert.strictEqual((yield* calledTargets).length, 1)
      }).pipe(Effect.provide(withRouter({ targets: [small, middle] }, { "*": [ok] }))))

    it.effect("only the windows of those that can serve it count", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ prompt: prompt(2600), tags: ["eu"] }))
        assert.strictEqual(error.reason, "context_length_exceeded")
        assert.include(error.message, "largest context window is 1000")
        assert.deepStrictEqual(yield* calledTargets, [])
      }).pipe(
        Effect.provide(withRouter({ targets: [target("acme/small", { contextWindow: 1000, tags: ["eu"] }), large] }, {
          "*": [ok]
        }))
      ))

    it.effect("a known overflow is not tried, an unforeseen one moves to larger windows only (T39)", () =>
      Effect.gen(function*() {
        const completion = yield* complete({ prompt: prompt(900) })
        assert.deepStrictEqual(completion.attempts.map((_) => _.target), ["acme/small", "acme/large"])
      }).pipe(Effect.provide(withRouter({
        targets: [small, target("acme/other", { contextWindow: 1000 }), large]
      }, {
        "acme/small": [
          TestProvider.fail("permanent", { reason: "context_length_exceeded", scope: "model", status: 400 })
        ],
        "*": [ok]
      }))))
  })

  describe("prefill", () => {
    const prompt = [
      { role: "user" as const, content: "count to ten" },
      { role: "assistant" as const, content: "one, two" }
    ]
    const refused = TestProvider.fail("permanent", { reason: "invalid_request", scope: "request", status: 400 })
    const targets = ["a/1", "b/2", "c/3"].map((name) => target(name))
    const retry = Schedule.recurs(0)

    it.effect("a 400 of a target that cannot go on with a reply does not hide the first cause (T37)", () =>
      Effect.gen(function*() {
        for (const reason of ["invalid_request", "unsupported_parameter"] as const) {
          const provider = yield* TestProvider.TestProvider
          yield* provider.script("b/2", [TestProvider.fail("permanent", { reason, scope: "request", status: 400 })])
          const error = yield* Effect.flip(complete({ prompt }))
          assert.deepStrictEqual([error._tag, error.status, error.target], ["ServerError", 503, "a/1"])
          assert.deepStrictEqual(error.attempts.map((_) => [_.target, _.status]), [["a/1", 503], ["b/2", 400]])
        }
        const streamed = yield* Effect.flip(Stream.runDrain(streamParts({ prompt })))
        assert.strictEqual(streamed._tag, "ServerError")
      }).pipe(Effect.provide(withRouter({ targets: targets.slice(0, 2), retry }, {
        "a/1": [broken()],
        "b/2": [refused]
      }))))

    it.effect("a third target may be able to", () =>
      Effect.gen(function*() {
        const completion = yield* complete({ prompt })
        assert.deepStrictEqual([completion.target, completion.attempts.length], ["c/3", 3])
      }).pipe(Effect.provide(withRouter({ targets, retry }, { "a/1": [broken()], "b/2": [refused], "c/3": [ok] }))))

    it.effect("a target that declares prefill means the request, and so does every other 400", () =>
      Effect.gen(function*() {
        const [first = target("a/1"), ...rest] = targets
        const declared = withRouter({
          targets: [target(first.id, { capabilities: { prefill: true } }), ...rest],
          retry
        }, { "a/1": [refused], "*": [ok] })
        const error = yield* Effect.provide(Effect.flip(complete({ prompt })), declared)
        assert.deepStrictEqual([error._tag, error.attempts.length], ["PermanentError", 1])
        const plain = withRouter({ targets, retry }, { "a/1": [refused], "*": [ok] })
        const other = yield* Effect.provide(Effect.flip(complete()), plain)
        assert.deepStrictEqual([other._tag, other.attempts.length], ["PermanentError", 1])
      }))

    it.effect("when nobody can, the 400 itself is the caller's, and nothing has cooled", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(complete({ prompt }))
        assert.deepStrictEqual([error._tag, error.status, error.attempts.length], ["PermanentError", 400, 3])
        const again = yield* complete()
        assert.strictEqual(again.target, "a/1")
      }).pipe(Effect.provide(withRouter({ targets, retry }, { "a/1": [refused, ok], "*": [refused] }))))
  })
})
