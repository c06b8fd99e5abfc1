import { assert, describe, it } from "@effect/vitest"
import { LLMError, type LLMService, Target } from "breakwater"
import * as Usage from "breakwater/Usage"
import { Effect, Schema } from "effect"
import { Response, Tool } from "effect/ai"
import { countTokens } from "gpt-tokenizer/encoding/o200k_base"
import { vi } from "vitest"

vi.mock("gpt-tokenizer/encoding/cl100k_base", () => {
  throw new Error("Cannot find package 'gpt-tokenizer'")
})

const groq = Target.make({ provider: "groq", model: "llama-3.3-70b-versatile" })
const openai = Target.make({ provider: "openai", model: "gpt-4o-mini" })
const anthropic = Target.make({ provider: "anthropic", model: "claude-sonnet-4-5" })

const usage = (tokens: {
  readonly input?: number | undefined
  readonly output?: number | undefined
  readonly cacheRead?: number | undefined
}) =>
  new Response.Usage({
    inputTokens: { total: tokens.input, cacheRead: tokens.cacheRead },
    outputTokens: { total: tokens.output }
  })

const words = (count: number): string => "lorem ".repeat(count)
const whole = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const estimated = (request: LLMService.CompletionRequest, target: Target.Target = groq) =>
  Effect.flatMap(Usage.Usage, (service) => service.estimate(request, target))

const memory = <A, E>(body: Effect.Effect<A, E, Usage.Usage>, options?: Usage.Options) =>
  Effect.provide(body, Usage.layerMemory(options))

/** Records replies of these sizes. */
const replies = (sizes: ReadonlyArray<number>, target: Target.Target = groq) =>
  Effect.flatMap(
    Usage.Usage,
    (service) =>
      Effect.forEach(sizes, (output) => service.record({ target, usage: usage({ output }) }), { discard: true })
  )

describe("Usage.estimate", () => {
  it.effect("counts four characters as a token, and adds the framing of messages", () =>
    memory(Effect.gen(function*() {
      const one = yield* estimated({ prompt: "12345678" })
      assert.deepStrictEqual([one.input, one.text, one.attachments, one.exact], [4 + 2 + 3, 9, 0, false])
      const two = yield* estimated({
        prompt: [
          { role: "system", content: "12345678" },
          { role: "user", content: [{ type: "text", text: "1234" }, { type: "text", text: "1234" }] }
        ]
      })
      assert.strictEqual(two.input, 2 * 4 + 4 + 3)
    })))

  it.effect("counts calls and results of tools, and the tools and the schema the model has to read", () =>
    memory(Effect.gen(function*() {
      const plain = yield* estimated({ prompt: "hi" })
      const conversation = yield* estimated({
        prompt: [
          { role: "user", content: "hi" },
          {
            role: "assistant",
            content: [{ type: "tool-call", id: "1", name: "find", params: { city: "Paris" }, providerExecuted: false }]
          },
          {
            role: "tool",
            content: [{ type: "tool-result", id: "1", name: "find", isFailure: false, result: words(100) }]
          }
        ]
      })
      assert.isAbove(conversation.input, plain.input + 150)
      const find = Tool.make("find", { description: words(50), parameters: Schema.Struct({ city: Schema.String }) })
      const equipped = yield* estimated({ prompt: "hi", tools: [find] })
      assert.isAbove(equipped.input, plain.input + 12 + 75)
      const shaped = yield* estimated({
        prompt: "hi",
        responseFormat: { type: "json_schema", name: "x", schema: { type: "object", description: words(20) } }
      })
      assert.isAbove(shaped.input, plain.input + 30)
    })))

  it.effect("counts images and files by constants, and a text file by its text", () =>
    memory(Effect.gen(function*() {
      const file = (mediaType: string, data: string | Uint8Array | URL) =>
        Effect.map(
          estimated({ prompt: [{ role: "user", content: [{ type: "file", mediaType, data }] }] }),
          (estimate) => estimate.attachments
        )
      assert.strictEqual(yield* file("image/png", new Uint8Array(5_000_000)), 1600)
      assert.strictEqual(yield* file("application/pdf", new URL("https://example.com/a.pdf")), 2000)
      assert.strictEqual(yield* file("application/pdf", new Uint8Array(400_000)), 10_000)
      assert.strictEqual(yield* file("application/pdf", "A".repeat(400)), 2000)
      assert.strictEqual(yield* file("text/plain", new Uint8Array(4000)), 1000)
      assert.strictEqual(yield* file("application/json", "A".repeat(1600)), 300)
    })))

  it.effect("mirrors what the reply may have, as it will be sent", () =>
    memory(Effect.gen(function*() {
      const small = Target.make({ provider: "groq", model: "m", maxOutputTokens: 500 })
      const output = (request: Partial<LLMService.CompletionRequest>, target: Target.Target = groq) =>
        Effect.map(estimated({ prompt: "hi", ...request }, target), (estimate) => estimate.output)
      assert.strictEqual(yield* output({ maxTokens: 800 }), 800)
      assert.strictEqual(yield* output({ maxTokens: 800 }, small), 500)
      assert.strictEqual(yield* output({}), 1024)
      assert.strictEqual(yield* output({}, small), 500)
      assert.strictEqual(yield* output({}, anthropic), 4096)
      assert.strictEqual(yield* output({ maxTokens: 10, extra: { max_completion_tokens: 3000 } }), 3000)
      const standing = Target.make({ provider: "groq", model: "m", parameters: { max_tokens: 77 } })
      assert.strictEqual(yield* output({}, standing), 77)
    })))

  it.effect("needs no service and no limits to give an estimate (T11)", () =>
    Effect.gen(function*() {
      const estimate = yield* Usage.mirror({ prompt: "hello" }, groq)
      assert.isAbove(estimate.input, 0)
      assert.isAbove(estimate.output, 0)
    }))

  it.effect("fails on an invalid request as the call itself would", () =>
    memory(Effect.gen(function*() {
      const error = yield* Effect.flip(estimated({ prompt: "hi", maxTokens: -1 }))
      assert.deepStrictEqual([error._tag, error.reason], ["PermanentError", "invalid_request"])
      assert.include(error.detail ?? "", "request.maxTokens")
    })))

  it.effect.prop(
    "never shrinks when a prompt gets longer",
    { lengths: Schema.Tuple([whole(1, 2000), whole(0, 2000)]), reported: whole(1, 5000) },
    ({ lengths: [length, more], reported }) =>
      memory(Effect.gen(function*() {
        const service = yield* Usage.Usage
        const first = yield* estimated({ prompt: "x".repeat(length) })
        yield* service.record({ target: groq, usage: usage({ input: reported }), estimate: first })
        const short = yield* estimated({ prompt: "x".repeat(length) })
        const long = yield* estimated({ prompt: "x".repeat(length + more) })
        assert.isAtLeast(long.input, short.input)
      }))
  )
})

describe("Usage with observed output", () => {
  const observed: Usage.Options = { strategy: "observed" }

  it.effect("mirrors until 20 replies of the model are known, then reserves their p95 and 15 %", () =>
    memory(
      Effect.gen(function*() {
        yield* replies(Array.from({ length: 19 }, () => 100))
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 4000 })).output, 4000)
        yield* replies([100])
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 4000 })).output, 115)
        assert.strictEqual((yield* estimated({ prompt: "hi" })).output, 115)
      }),
      observed
    ))

  it.effect("never reserves more than the reply may have", () =>
    memory(
      Effect.gen(function*() {
        yield* replies(Array.from({ length: 20 }, () => 1000))
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 300 })).output, 300)
      }),
      observed
    ))

  it.effect("learns each model of each provider apart, and the strategy may differ by target", () =>
    memory(
      Effect.gen(function*() {
        yield* replies(Array.from({ length: 20 }, () => 10))
        yield* replies(Array.from({ length: 20 }, () => 10), openai)
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 50 })).output, 12)
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 50 }, openai)).output, 50)
        assert.strictEqual((yield* estimated({ prompt: "hi", maxTokens: 50 }, anthropic)).output, 50)
      }),
      { strategy: (target) => target.provider === "openai" ? "mirror" : "observed" }
    ))

  it.effect("forgets what is older than 256 replies", () =>
    memory(
      Effect.gen(function*() {
        yield* replies(Array.from({ length: 256 }, () => 4000))
        yield* replies(Array.from({ length: 256 }, () => 100))
        assert.strictEqual((yield* estimated({ prompt: "hi" })).output, 115)
        const service = yield* Usage.Usage
        assert.strictEqual((yield* service.statistics(groq)).outputs.length, 256)
      }),
      observed
    ))

  it.effect("remembers the 1000 models used last and no more", () =>
    memory(Effect.gen(function*() {
      const service = yield* Usage.Usage
      const model = (index: number) => Target.make({ provider: "p", model: `m${index}` })
      for (let index = 0; index < 1001; index++) yield* replies([5], model(index))
      assert.strictEqual((yield* service.statistics(model(0))).outputs.length, 0)
      assert.strictEqual((yield* service.statistics(model(1))).outputs.length, 1)
    })))

  it.effect("what a service has learnt is what its samples teach one by one", () =>
    memory(Effect.gen(function*() {
      const service = yield* Usage.Usage
      const outputs = Array.from({ length: 600 }, (_, index) => (index * 7919) % 257)
      yield* replies(outputs)
      const statistics = yield* service.statistics(groq)
      assert.deepStrictEqual(statistics.outputs, outputs.slice(-256))
      assert.deepStrictEqual(statistics.sorted, outputs.slice(-256).toSorted((a, b) => a - b))
      const expected = outputs.reduce((before, output) => Usage.update(before, usage({ output })), Usage.empty)
      assert.deepStrictEqual({ ...statistics, reported: 0, counted: 0 }, { ...expected, reported: 0, counted: 0 })
    })))

  it.prop(
    "at least 95 % of the remembered replies fit the 95th percentile, and no smaller reply would do",
    { sizes: Schema.NonEmptyArray(whole(0, 10_000)) },
    ({ sizes }) => {
      const statistics = sizes.reduce(
        (statistics, output) => Usage.update(statistics, usage({ output })),
        Usage.empty
      )
      const p95 = Usage.quantile(statistics, 0.95)
      const remembered = sizes.slice(-256)
      const below = (limit: number) => remembered.filter((size) => size <= limit).length
      assert.include(remembered, p95)
      assert.isAtLeast(below(p95), 0.95 * remembered.length)
      assert.isBelow(below(p95 - 1), 0.95 * remembered.length)
      assert.deepStrictEqual(statistics.sorted, statistics.outputs.toSorted((a, b) => a - b))
      assert.deepStrictEqual(statistics.outputs, remembered)
    }
  )
})

describe("Usage calibration", () => {
  it.effect.prop(
    "converges within 5 % of any tokenizer",
    { percent: whole(30, 700), lengths: Schema.NonEmptyArray(whole(200, 20_000)) },
    ({ lengths, percent }) =>
      memory(Effect.gen(function*() {
        const service = yield* Usage.Usage
        const bias = percent / 100
        for (let round = 0; round < 40; round++) {
          const prompt = "x".repeat(lengths[round % lengths.length] ?? 200)
          const estimate = yield* estimated({ prompt })
          yield* service.record({ target: groq, usage: usage({ input: Math.round(estimate.text * bias) }), estimate })
        }
        const last = yield* estimated({ prompt: "x".repeat(4000) })
        assert.closeTo(last.input / last.text, bias, 0.05 * bias)
      }))
  )

  it.effect("cached input is input: a cache does not make a prompt look shorter", () =>
    memory(Effect.gen(function*() {
      const service = yield* Usage.Usage
      const estimate = yield* estimated({ prompt: words(1000) })
      for (let round = 0; round < 20; round++) {
        yield* service.record({
          target: groq,
          usage: usage({ input: estimate.text, cacheRead: estimate.text - 10 }),
          estimate
        })
      }
      assert.closeTo((yield* estimated({ prompt: words(1000) })).input, estimate.text, 1)
    })))

  it.effect("one absurd figure does not undo what was learnt", () =>
    memory(Effect.gen(function*() {
      const service = yield* Usage.Usage
      const estimate = yield* estimated({ prompt: words(1000) })
      const report = (input: number) => service.record({ target: groq, usage: usage({ input }), estimate })
      for (let round = 0; round < 50; round++) yield* report(estimate.text)
      yield* report(1_000_000_000)
      assert.isBelow(Usage.ratio(yield* service.statistics(groq)), 2)
      yield* report(0)
      assert.isBelow(Usage.ratio(yield* service.statistics(groq)), 2)
    })))

  it.effect("attachments teach nothing about text, and output nothing about input", () =>
    memory(Effect.gen(function*() {
      const service = yield* Usage.Usage
      const estimate = yield* estimated({
        prompt: [{ role: "user", content: [{ type: "file", mediaType: "image/png", data: new Uint8Array(9) }] }]
      })
      yield* service.record({ target: groq, usage: usage({ input: 9000 }), estimate })
      yield* service.record({ target: groq, usage: usage({ output: 9000 }) })
      assert.strictEqual(Usage.ratio(yield* service.statistics(groq)), 1)
    })))
})

describe("Usage.layer", () => {
  it.effect("counts OpenAI's models exactly when gpt-tokenizer is installed", () =>
    Effect.gen(function*() {
      const prompt = "Wie viele Tokens hat dieser Satz? 東京タワー 🗼 <|endoftext|>"
      const exact = yield* estimated({ prompt }, openai)
      const tokens = countTokens(prompt, { disallowedSpecial: new Set() })
      assert.deepStrictEqual([exact.input, exact.exact], [tokens + 7, true])
      const routed = Target.make({ provider: "openrouter", model: "openai/gpt-5-mini" })
      assert.strictEqual((yield* estimated({ prompt }, routed)).input, tokens + 7)
      assert.isFalse((yield* estimated({ prompt }, groq)).exact)
      // Its table was not asked for.
      const old = Target.make({ provider: "azure", model: "gpt-35-turbo" })
      assert.isFalse((yield* estimated({ prompt }, old)).exact)
    }).pipe(Effect.provide(Usage.layer())))

  it.effect("counts characters when gpt-tokenizer is not installed", () =>
    Effect.gen(function*() {
      const old = Target.make({ provider: "openai", model: "gpt-4-turbo" })
      const estimate = yield* estimated({ prompt: "12345678" }, old)
      assert.deepStrictEqual([estimate.input, estimate.exact], [9, false])
    }).pipe(Effect.provide(Usage.layer({ encodings: ["cl100k_base"] }))))

  it.effect("an exact count is not calibrated", () =>
    Effect.gen(function*() {
      const service = yield* Usage.Usage
      const estimate = yield* estimated({ prompt: words(100) }, openai)
      yield* service.record({ target: openai, usage: usage({ input: 5000 }), estimate })
      assert.deepStrictEqual(yield* estimated({ prompt: words(100) }, openai), estimate)
    }).pipe(Effect.provide(Usage.layer())))

  it.effect("long and unbroken texts are counted in slices, never less than whole and at most 1 % more", () =>
    Effect.gen(function*() {
      const unbroken = "QmFzZTY0IGlzIG5vdCBwcm9zZS4".repeat(150)
      const sliced = (yield* estimated({ prompt: unbroken }, openai)).input - 7
      assert.isAtLeast(sliced, countTokens(unbroken))
      assert.isAtMost(sliced, countTokens(unbroken) * 1.01)
      const long = yield* estimated({ prompt: words(40_000) }, openai)
      assert.closeTo(long.input, countTokens(words(40_000)), 0.01 * long.input)
    }).pipe(Effect.provide(Usage.layer())))

  it.effect("a tokenizer of one's own comes first", () =>
    Effect.gen(function*() {
      const estimate = yield* estimated({ prompt: "hello" }, openai)
      assert.deepStrictEqual([estimate.input, estimate.exact], [42 + 7, true])
      assert.isFalse((yield* estimated({ prompt: "hello" }, groq)).exact)
    }).pipe(
      Effect.provide(
        Usage.layer({ tokenizer: { counter: (target) => target === openai ? () => 42 : undefined }, encodings: [] })
      )
    ))
})

describe("Usage options", () => {
  const cases: ReadonlyArray<readonly [Usage.Options, string]> = [
    [{ defaultOutput: 0 }, "defaultOutput"],
    [{ defaultOutput: 1.5 }, "defaultOutput"],
    [{ minSamples: 0 }, "minSamples"],
    [{ minSamples: 257 }, "minSamples"],
    [{ quantile: 0 }, "quantile"],
    [{ quantile: 1.1 }, "quantile"],
    [{ quantile: Number.NaN }, "quantile"],
    [{ margin: 0.9 }, "margin"],
    [{ margin: Number.POSITIVE_INFINITY }, "margin"]
  ]
  for (const [options, field] of cases) {
    it(`out of range: ${JSON.stringify(options)} is refused by name`, () => {
      assert.throws(() => Usage.layerMemory(options), new RegExp(`options\\.${field}`))
      assert.throws(() => Usage.layer(options), new RegExp(`options\\.${field}`))
    })
  }
})

describe("Usage.settlement", () => {
  const estimate: Usage.Estimate = { input: 100, output: 1000, text: 100, attachments: 0, exact: false }
  const settle = (outcome: Usage.Outcome, emitted = 0) => {
    const { cachedInput: _, ...settled } = Usage.settlement(outcome, estimate, emitted)
    return settled
  }
  const failed = (
    errorClass: LLMError.ErrorClass,
    reason: LLMError.Reason,
    fields: Partial<LLMError.Fields> = {},
    emitted = 0
  ) =>
    settle(
      { _tag: "Failure", error: LLMError.make(errorClass, { provider: "p", reason, ...fields }) },
      emitted
    )
  const everything = { requests: 1, input: 100, output: 1000 }
  const nothing = { requests: 0, input: 0, output: 0 }
  const requestOnly = { requests: 1, input: 0, output: 0 }

  it("reported usage wins over every estimate (T2)", () =>
    assert.deepStrictEqual(settle({ _tag: "Success", usage: usage({ input: 90, output: 33 }) }, 40), {
      requests: 1,
      input: 90,
      output: 33
    }))

  it("a success without usage settles its estimate or what was emitted, never nothing (T2)", () => {
    assert.deepStrictEqual(settle({ _tag: "Success" }), everything)
    assert.deepStrictEqual(settle({ _tag: "Success", usage: usage({}) }, 20), everything)
    assert.deepStrictEqual(settle({ _tag: "Success", usage: usage({}) }, 3000), { ...everything, output: 3000 })
    assert.deepStrictEqual(settle({ _tag: "Success", usage: usage({ input: 0, output: 0 }) }, 20), {
      requests: 1,
      input: 100,
      output: 20
    })
  })

  it("an abort after content keeps the input and what was emitted (T3)", () => {
    const kept = { requests: 1, input: 100, output: 7 }
    assert.deepStrictEqual(settle({ _tag: "Interrupted", sent: true }, 7), kept)
    assert.deepStrictEqual(failed("timeout", "idle", { maybeBilled: true }, 7), kept)
    assert.deepStrictEqual(failed("transient_network", "stream_truncated", { maybeBilled: true }, 7), kept)
    assert.deepStrictEqual(failed("rate_limit", "rate_limit", { status: 429 }, 7), kept)
    assert.deepStrictEqual(settle({ _tag: "Interrupted", sent: true, usage: usage({ input: 80, output: 1 }) }, 7), {
      requests: 1,
      input: 80,
      output: 7
    })
  })

  it("an abort before anything was sent gives everything back (T3)", () =>
    assert.deepStrictEqual(settle({ _tag: "Interrupted", sent: false }), nothing))

  it("an abort whose fate is unknown keeps the estimate (T3)", () => {
    assert.deepStrictEqual(settle({ _tag: "Interrupted", sent: true }), everything)
    assert.deepStrictEqual(failed("timeout", "attempt", { maybeBilled: true }), everything)
    assert.deepStrictEqual(failed("transient_network", "conn_reset", { maybeBilled: true }), everything)
    assert.deepStrictEqual(failed("server_error", "internal_error", { status: 500, maybeBilled: true }), everything)
    assert.deepStrictEqual(failed("timeout", "deadline", { origin: "deadline", maybeBilled: true }), everything)
  })

  it("a 429 keeps the request and gives the tokens back", () => {
    assert.deepStrictEqual(failed("rate_limit", "rate_limit", { status: 429 }), requestOnly)
    assert.deepStrictEqual(failed("rate_limit", "rate_limit"), requestOnly)
    assert.deepStrictEqual(failed("server_error", "overloaded", { status: 529 }), requestOnly)
  })

  it("what the provider never counted is given back whole", () => {
    assert.deepStrictEqual(failed("transient_network", "conn_refused"), nothing)
    assert.deepStrictEqual(failed("timeout", "connect_timeout"), nothing)
    for (const status of [400, 401, 403, 404, 413, 422]) {
      assert.deepStrictEqual(failed("permanent", "invalid_request", { status }), nothing)
    }
    assert.deepStrictEqual(failed("authentication", "invalid_key", { status: 401 }), nothing)
    assert.deepStrictEqual(failed("rate_limit", "request_exceeds_limit", { status: 413 }), nothing)
  })

  it("our own refusals cost nothing, whatever their class", () => {
    for (const origin of ["router", "limiter", "circuit", "cooldown", "deadline", "budget"] as const) {
      assert.deepStrictEqual(failed("rate_limit", "queue_full", { origin, status: 429 }), nothing)
      assert.deepStrictEqual(failed("server_error", "circuit_open", { origin, status: 500 }), nothing)
    }
  })

  it("cached input is told apart, and free where the provider's limit leaves it out", () => {
    const settled = Usage.settlement(
      { _tag: "Success", usage: usage({ input: 1000, cacheRead: 900, output: 5 }) },
      estimate,
      0
    )
    assert.deepStrictEqual(settled, { requests: 1, input: 1000, cachedInput: 900, output: 5 })
    assert.strictEqual(Usage.limitedInput(settled, "anthropic"), 100)
    assert.strictEqual(Usage.limitedInput(settled, "openai"), 1000)
  })

  it.prop(
    "no outcome settles to a negative or unknown number, and cached input is part of the input",
    {
      input: Schema.Option(whole(0, 5000)),
      output: Schema.Option(whole(0, 5000)),
      cacheRead: Schema.Option(whole(0, 9000)),
      emitted: whole(0, 5000),
      success: Schema.Boolean
    },
    ({ cacheRead, emitted, input, output, success }) => {
      const value = (option: { readonly _tag: string; readonly value?: number }) => option.value
      const reported = usage({ input: value(input), output: value(output), cacheRead: value(cacheRead) })
      const settled = Usage.settlement(
        success ? { _tag: "Success", usage: reported } : { _tag: "Interrupted", sent: true, usage: reported },
        estimate,
        emitted
      )
      for (const figure of Object.values(settled)) assert.isTrue(Number.isFinite(figure) && figure >= 0)
      assert.isAtMost(settled.cachedInput, settled.input)
      assert.isAbove(settled.input, 0)
    }
  )
})
