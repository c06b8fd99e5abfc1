import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Cooldown, LLMError, LLMService, Resilience, Router, Selection, Target } from "breakwater"
import * as Presets from "breakwater/Presets"
import * as TestProvider from "breakwater/testing/TestProvider"
import { Clock, Duration, Effect, Fiber, Layer, Random, Redacted, type Schedule } from "effect"
import { TestClock } from "effect/testing"

const secret = (name = "secret") => Redacted.make(name)
const secrets = (count: number) => Array.from({ length: count }, (_, index) => secret(`secret-${index}`))

const ids = (targets: ReadonlyArray<Target.Target>) => targets.map((_) => _.id)

const limited = (retryAfter?: Duration.Input, fields: Partial<LLMError.Fields> = {}) =>
  TestProvider.fail("rate_limit", {
    reason: "rate_limit",
    scope: "model",
    status: 429,
    retryAfter: retryAfter === undefined ? undefined : Duration.fromInputUnsafe(retryAfter),
    ...fields
  })
const broken = TestProvider.fail("server_error", { reason: "internal_error", scope: "provider", status: 500 })
const refused = TestProvider.fail("authentication", { reason: "invalid_key", scope: "key", status: 401 })

type Scripts = Parameters<typeof TestProvider.layer>[0]

const withPreset = (preset: Presets.Preset, scripts: Scripts) =>
  Layer.provideMerge(Router.layer(preset), Layer.merge(TestProvider.layer(scripts), Resilience.layerMemory(preset)))

const complete = (request: Partial<LLMService.CompletionRequest> = {}) =>
  Effect.flatMap(LLMService.LLMService, (llm) => llm.complete({ prompt: "hi", ...request }))

const calls = Effect.flatMap(TestProvider.TestProvider, (provider) => provider.calls)

const cooling = Effect.flatMap(
  Cooldown.Cooldown,
  (cooldown) => Effect.map(cooldown.active, (entries) => entries.map((_) => [_.scopeKey, _.remainingMs]))
)

/** Runs an effect while the virtual time goes on. */
const underTime = <A, E, R>(effect: Effect.Effect<A, E, R>, seconds: number) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    for (let second = 0; second < seconds && fiber.pollUnsafe() === undefined; second++) {
      yield* TestClock.adjust("1 second")
    }
    return yield* Fiber.join(fiber)
  })

const largestDraw = Effect.provideService(Random.Random, {
  nextDoubleUnsafe: () => 1,
  nextIntUnsafe: () => 0
})

/** Seconds at which an effect that always fails is tried under a schedule, when every draw is the largest. */
const triedAt = (schedule: Schedule.Schedule<unknown, LLMError.LLMError>) =>
  Effect.gen(function*() {
    const starts: Array<number> = []
    const failing = Effect.flatMap(Clock.currentTimeMillis, (now) => {
      starts.push(now / 1000)
      return Effect.fail<LLMError.LLMError>(new LLMError.ServerError({ provider: "p", reason: "internal_error" }))
    })
    const fiber = yield* Effect.forkChild(Effect.exit(Effect.retry(failing, schedule)))
    yield* TestClock.adjust("1 hour")
    yield* Fiber.join(fiber)
    return starts
  }).pipe(largestDraw)

/** The circuit opens at the given failure in a row, probes after the given time, and closes after so many successes. */
const circuitRule = (
  name: string,
  options: CircuitBreaker.Options | undefined,
  expected: { readonly failures: number; readonly seconds: number; readonly successes: number }
) =>
  it.effect(`${name}: ${expected.failures} failures, ${expected.seconds} s, ${expected.successes} to close`, () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(options)
      const status = Effect.map(breaker.state("p"), (_) => _.status)
      const fail = Effect.flip(
        breaker.execute("p", Effect.fail(new LLMError.ServerError({ provider: "p", reason: "internal_error" })))
      )
      for (let failure = 1; failure < expected.failures; failure++) yield* fail
      assert.strictEqual(yield* status, "closed")
      yield* fail
      assert.strictEqual(yield* status, "open")
      yield* TestClock.adjust(Duration.millis(expected.seconds * 1000 - 1))
      assert.strictEqual((yield* Effect.flip(breaker.execute("p", Effect.void))).reason, "circuit_open")
      yield* TestClock.adjust("1 millis")
      for (let success = 1; success <= expected.successes; success++) {
        assert.notStrictEqual(yield* status, "closed")
        yield* breaker.execute("p", Effect.void)
      }
      assert.strictEqual(yield* status, "closed")
    }))

describe("Presets.keyPool", () => {
  const pool = (count: number) => Presets.keyPool({ provider: "mistral", model: "m", keys: secrets(count) })

  it("has 10 attempts of 60 s, no patience, 5 requests a key, and cooldowns of 60 s, 10 s, none and 1 h", () => {
    const { circuit, targets, ...rest } = pool(2)
    assert.deepStrictEqual(ids(targets), ["mistral/m@mistral-1", "mistral/m@mistral-2"])
    assert.isDefined(circuit)
    assert.deepStrictEqual(rest, {
      strategy: Selection.healthiest,
      maxAttempts: 10,
      patience: 0,
      timeouts: { attempt: "60 seconds" },
      recovery: {
        classes: {
          rate_limit: { cooldown: "60 seconds" },
          timeout: { cooldown: "10 seconds" },
          server_error: { cooldown: 0 },
          authentication: { cooldown: "1 hour" }
        }
      },
      limits: {
        keys: {
          "mistral-1": { requests: { limit: 5, per: "1 second", burst: 5 } },
          "mistral-2": { requests: { limit: 5, per: "1 second", burst: 5 } }
        }
      }
    })
  })

  circuitRule("its circuit", pool(1).circuit, { failures: 5, seconds: 120, successes: 1 })

  it("takes one key, named keys, an address and other limits", () => {
    const limits = { requests: { limit: 1, per: "1 minute" } } as const
    const { limits: shared, targets } = Presets.keyPool({
      provider: "mistral",
      model: "m",
      keys: { id: "mine", value: secret() },
      baseUrl: "https://eu.test/v1",
      limits
    })
    assert.deepStrictEqual(ids(targets), ["mistral/m@mine"])
    assert.strictEqual(targets[0]?.baseUrl, "https://eu.test/v1")
    assert.deepStrictEqual(shared, { keys: { mine: limits } })
  })

  it("every key has what is said of the model: prices, window, group, tags", () => {
    const model = {
      provider: "mistral",
      model: "m",
      group: "org",
      tags: { region: "eu" },
      contextWindow: 32_000,
      price: { input: 0.1, output: 0.3 }
    } as const
    const { targets } = Presets.keyPool({ ...model, keys: secrets(2) })
    assert.deepStrictEqual(
      targets.map((_) => ({ ..._, key: _.key?.id })),
      ["mistral-1", "mistral-2"].map((key) => ({ ...Target.make({ ...model, id: `mistral/m@${key}` }), key }))
    )
  })

  it.effect("a limited key rests 60 s and the next one answers at once", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* complete()).target, "mistral/m@mistral-2")
      assert.deepStrictEqual(yield* cooling, [["model:mistral/m@mistral-1", 60_000]])
    }).pipe(Effect.provide(withPreset(pool(2), {
      "mistral/m@mistral-1": [limited()],
      "mistral/m@mistral-2": [TestProvider.reply("ok")]
    }))))

  it.effect("a key that has used up its 5 a second rests a second instead, and serves on at nearly that rate", () =>
    Effect.gen(function*() {
      for (let call = 0; call < 4; call++) yield* complete()
      yield* Effect.flip(complete({ deadline: "500 millis" }))
      assert.deepStrictEqual(yield* cooling, [["model:mistral/m@mistral-1", 1000]])
      const served = (yield* calls).length
      for (let tenth = 0; tenth < 200; tenth++) {
        yield* Effect.forkChild(Effect.ignore(complete({ deadline: "2 seconds" })))
        yield* TestClock.adjust("100 millis")
      }
      assert.isAtLeast((yield* calls).length - served, 0.85 * 5 * 20)
    }).pipe(Effect.provide(withPreset(pool(1), {
      "mistral/m@mistral-1": [
        ...Array.from({ length: 4 }, () => TestProvider.reply("ok")),
        limited(),
        TestProvider.reply("ok")
      ]
    }))))

  it.effect("a short stated wait is not waited for while another key is free", () =>
    Effect.gen(function*() {
      const completion = yield* complete()
      assert.deepStrictEqual([completion.target, completion.timings.waitedMs], ["mistral/m@mistral-2", 0])
    }).pipe(Effect.provide(withPreset(pool(2), {
      "mistral/m@mistral-1": [limited("1 second")],
      "mistral/m@mistral-2": [TestProvider.reply("ok")]
    }))))

  it.effect("a key that does not answer for 60 s rests 10 s", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(complete())
      yield* TestClock.adjust("59999 millis")
      assert.strictEqual((yield* calls).length, 1)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(fiber)).target, "mistral/m@mistral-2")
      assert.deepStrictEqual(yield* cooling, [["target:mistral/m@mistral-1", 10_000]])
    }).pipe(Effect.provide(withPreset(pool(2), {
      "mistral/m@mistral-1": [TestProvider.stall()],
      "mistral/m@mistral-2": [TestProvider.reply("ok")]
    }))))

  it.effect("a refused key rests an hour, and a call makes 10 attempts", () =>
    Effect.gen(function*() {
      yield* Effect.flip(complete())
      assert.strictEqual((yield* calls).length, 10)
      const cooled = yield* cooling
      assert.strictEqual(cooled.length, 10)
      assert.deepStrictEqual(cooled[0], ["key:mistral@mistral-1", 3_600_000])
    }).pipe(Effect.provide(withPreset(pool(12), { "*": [refused] }))))

  it.effect("a key serves 5 calls at once, and the next key the sixth", () =>
    Effect.gen(function*() {
      for (let call = 0; call < 6; call++) yield* complete()
      assert.deepStrictEqual((yield* calls).map((_) => _.target), [
        ...Array.from({ length: 5 }, () => "mistral/m@mistral-1"),
        "mistral/m@mistral-2"
      ])
    }).pipe(Effect.provide(withPreset(pool(2), { "*": [TestProvider.reply("ok")] }))))

  it("no key, and a key given twice, are refused by name", () => {
    assert.throws(() => pool(0), RangeError, "Presets.keyPool: keys must not be empty")
    const twice = [{ id: "a", value: secret() }, { id: "a", value: secret() }]
    assert.throws(
      () => Presets.keyPool({ provider: "mistral", model: "m", keys: twice }),
      "Presets.keyPool: keys must have different ids, got \"a\" twice"
    )
  })

  it("a secret is in no string that can be made of the options", () => {
    assert.notInclude(JSON.stringify(pool(2)), "secret-")
  })
})

describe("Presets.sharedAgents", () => {
  const target = Target.make({ provider: "azure", model: "gpt-4o" })
  const preset = Presets.sharedAgents({ target })

  it("has 3 at a time, 100 ms apart, 60 requests and 150 000 tokens a minute, 4 attempts", () => {
    const { circuit, retry, ...rest } = preset
    assert.isDefined(circuit)
    assert.isDefined(retry)
    assert.deepStrictEqual(rest, {
      maxAttempts: 4,
      recovery: { classes: { rate_limit: { sameTarget: "backoff", retries: 3, cooldown: 0 } } },
      limits: {
        all: {
          concurrency: 3,
          minInterval: "100 millis",
          requests: { limit: 60, per: "1 minute", window: "sliding" },
          tokens: { limit: 150_000, per: "1 minute", window: "sliding" }
        }
      },
      targets: [target]
    })
  })

  it("has 3 retries from 1 s doubling up to 30 s", () => {
    assert.deepStrictEqual(Presets.sharedAgentsRetry, {
      retries: 3,
      base: "1 second",
      factor: 2,
      max: "30 seconds"
    })
  })

  circuitRule("its circuit", preset.circuit, { failures: 5, seconds: 60, successes: 3 })

  for (const [name, step] of [["server errors", broken], ["rate limits", limited()]] as const) {
    it.effect(`${name} are tried again after 1, 2 and 4 s`, () =>
      Effect.gen(function*() {
        yield* largestDraw(underTime(complete(), 10))
        assert.deepStrictEqual((yield* calls).map((_) => _.at), [0, 1000, 3000, 7000])
      }).pipe(Effect.provide(withPreset(preset, { "*": [step, step, step, TestProvider.reply("ok")] }))))
  }

  it.effect("a stated wait takes the place of the backoff", () =>
    Effect.gen(function*() {
      yield* Effect.provideService(underTime(complete(), 60), Random.Random, {
        nextDoubleUnsafe: () => 0,
        nextIntUnsafe: () => 0
      })
      assert.deepStrictEqual((yield* calls).map((_) => _.at), [0, 20_000])
    }).pipe(Effect.provide(withPreset(preset, { "*": [limited("20 seconds"), TestProvider.reply("ok")] }))))

  it.effect("a call ends after 4 attempts", () =>
    Effect.gen(function*() {
      yield* underTime(Effect.flip(complete()), 60)
      assert.strictEqual((yield* calls).length, 4)
    }).pipe(Effect.provide(withPreset(preset, { "*": [broken] }))))

  it.effect("agents have 3 calls in flight, 100 ms apart", () =>
    Effect.gen(function*() {
      const provider = yield* TestProvider.TestProvider
      const agents = yield* Effect.forEach(
        ["math", "adx", "coordinator", "clerk"],
        (tenant) => Effect.forkChild(complete({ tenant }))
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* provider.inFlight, 3)
      assert.deepStrictEqual((yield* calls).map((_) => _.at), [0, 100, 200])
      yield* TestClock.adjust("5 seconds")
      for (const agent of agents) yield* Fiber.join(agent)
    }).pipe(Effect.provide(withPreset(preset, { "*": [TestProvider.reply("ok", { delay: "2 seconds" })] }))))

  it("takes other limits, and leaves those of the target in place", () => {
    const own = Target.make({ provider: "azure", model: "gpt-4o", limits: { concurrency: 2 } })
    const options = Presets.sharedAgents({ target: own, limits: { concurrency: 10 } })
    assert.deepStrictEqual(options.limits, { all: { concurrency: 10 } })
    assert.deepStrictEqual(options.targets[0]?.limits, { concurrency: 2 })
  })
})

describe("Presets.catalogue", () => {
  const keys = { groq: secret("g"), openai: secret("o"), anthropic: secret("a") }
  const all = Presets.catalogue({ keys })
  const providersOf = (options: Omit<Presets.CatalogueOptions, "keys">) =>
    Array.from(new Set(Presets.catalogue({ keys, ...options }).targets.map((_) => _.provider)))
  const idOf = (index: number) => all.targets[index]?.id ?? ""

  it("has the 27 models in their order, 25 attempts and no patience", () => {
    const { targets, ...rest } = all
    assert.deepStrictEqual(rest, { maxAttempts: 25, patience: 0 })
    assert.deepStrictEqual(
      targets.map((_) => ({ ..._, key: undefined, id: `${_.provider}/${_.model}` })),
      Target.catalogue.map(Target.make)
    )
    assert.strictEqual(targets.length, 27)
    assert.deepStrictEqual(providersOf({}), ["groq", "openai", "anthropic"])
  })

  for (
    const [expected, options] of [
      [["groq", "anthropic", "openai"], { order: { groq: ["anthropic", "openai"] } }],
      [["groq", "anthropic", "openai"], { order: { groq: ["anthropic"] } }],
      [["openai", "groq", "anthropic"], { first: "openai" }],
      [["openai", "anthropic", "groq"], { first: "openai", order: { openai: ["anthropic"] } }],
      [["groq", "anthropic", "openai"], { order: { groq: ["anthropic", "openai"], anthropic: ["groq"] } }],
      [["anthropic", "openai", "groq"], { first: "anthropic", order: { anthropic: ["openai"], openai: ["groq"] } }]
    ] as const
  ) {
    it(`${JSON.stringify(options)} goes ${expected.join(" → ")}`, () => {
      assert.deepStrictEqual(providersOf(options), [...expected])
    })
  }

  it("a provider without a key is left out, and each of several keys serves every model", () => {
    const { targets } = Presets.catalogue({ keys: { openai: secrets(2), anthropic: secret() } })
    assert.strictEqual(targets.length, 7 * 2 + 5)
    assert.deepStrictEqual(ids(targets.slice(0, 3)), [
      "openai/gpt-4o@openai-1",
      "openai/gpt-4o@openai-2",
      "openai/gpt-4o-mini@openai-1"
    ])
  })

  it("takes models of your own, cheaper ones first", () => {
    const models = [{ provider: "p", model: "cheap", contextWindow: 8000 }, { provider: "p", model: "dear" }]
    const { targets } = Presets.catalogue({ keys: { p: secret() }, models })
    assert.deepStrictEqual(targets.map((_) => [_.model, _.contextWindow]), [["cheap", 8000], ["dear", undefined]])
  })

  it("what your models say of a model of the catalogue wins, figure by figure", () => {
    const own = { contextWindow: 64_000, price: { input: 2, output: 8 } }
    const models = Target.catalogue.map((_) => _.model === "gpt-4o" ? { ..._, ...own } : _)
    const target = Presets.catalogue({ keys: { openai: secret() }, models }).targets[0]
    assert.strictEqual(target?.id, "openai/gpt-4o@openai-1")
    assert.deepStrictEqual([target?.contextWindow, target?.price], [own.contextWindow, own.price])
    assert.strictEqual(target?.maxOutputTokens, 16_384)
    const { openai } = keys
    assert.deepStrictEqual(Presets.catalogue({ keys: { openai } }).targets[0]?.price?.input, 2.5)
  })

  it("goes by price within each provider, and over all of them", () => {
    const { targets } = Presets.catalogue({ keys, models: Target.cheapestFirst(Target.catalogue) })
    const firstOf = (provider: string) => targets.find((_) => _.provider === provider)?.model
    assert.deepStrictEqual(
      [firstOf("groq"), firstOf("openai"), firstOf("anthropic")],
      ["llama-3.2-1b-preview", "gpt-4o-mini", "claude-3-haiku-20240307"]
    )
    assert.strictEqual(targets.findIndex((_) => _.provider === "openai"), 15)
    const cheapest = Target.cheapestFirst(targets)
    assert.deepStrictEqual(cheapest.slice(-2).map((_) => _.model), ["claude-3-opus-20240229", "gemma-7b-it"])
  })

  for (
    const [problem, options] of [
      ["keys must not be empty", { keys: {} }],
      ["keys.groq must not be empty", { keys: { groq: [] } }],
      ["keys names \"mistral\", which has no model", { keys: { mistral: secret() } }],
      ["models must not be empty", { keys, models: [] }],
      ["first names \"x\"", { keys, first: "x" }],
      ["order names \"x\"", { keys, order: { x: ["groq"] } }],
      ["order.groq names \"x\"", { keys, order: { groq: ["x"] } }]
    ] as const
  ) {
    it(`is refused by name: ${problem}`, () => {
      assert.throws(() => Presets.catalogue(options), `Presets.catalogue: ${problem}`)
    })
  }

  it.effect("one limit, then success: 2 calls", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* complete()).target, idOf(1))
      assert.deepStrictEqual((yield* calls).map((_) => _.target), [idOf(0), idOf(1)])
    }).pipe(Effect.provide(withPreset(all, {
      [idOf(0)]: [limited("22 minutes")],
      "*": [TestProvider.reply("ok")]
    }))))

  it.effect("all models of Groq limited: the next attempt goes to OpenAI", () =>
    Effect.gen(function*() {
      const completion = yield* complete()
      assert.strictEqual(completion.target, "openai/gpt-4o@openai-1")
      assert.strictEqual(completion.attempts.length, 16)
    }).pipe(Effect.provide(withPreset(all, {
      ...Object.fromEntries(ids(all.targets.slice(0, 15)).map((id) => [id, [limited("22 minutes")]])),
      "*": [TestProvider.reply("ok")]
    }))))

  it.effect("a second call skips the cooling model, and once the wait is over the first one is asked again", () =>
    Effect.gen(function*() {
      yield* complete()
      assert.strictEqual((yield* complete()).target, idOf(1))
      yield* TestClock.adjust("22 minutes")
      assert.strictEqual((yield* complete()).target, idOf(0))
      assert.deepStrictEqual((yield* calls).map((_) => _.target), [idOf(0), idOf(1), idOf(1), idOf(0)])
    }).pipe(Effect.provide(withPreset(all, {
      [idOf(0)]: [limited("22 minutes"), TestProvider.reply("back")],
      "*": [TestProvider.reply("ok")]
    }))))

  it.effect("a call makes 25 attempts, and its error names them", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(complete({ deadline: "1 minute" }))
      assert.strictEqual(error._tag, "RateLimitError")
      assert.strictEqual(error.attempts?.length, 25)
      const cooldown = yield* Cooldown.Cooldown
      assert.strictEqual((yield* cooldown.status).total, 25)
      const { anthropic, groq } = Cooldown.available(all.targets, yield* cooldown.active)
      assert.deepStrictEqual([groq?.available, anthropic?.models], [0, Target.catalogue.slice(25).map((_) => _.model)])
    }).pipe(Effect.provide(withPreset(all, { "*": [limited("22 minutes")] }))))
})

describe("Presets.alerts", () => {
  const services = {
    openai: { model: "gpt-4o-mini", keys: secret("o") },
    xai: { model: "grok", keys: secret("x") },
    deepseek: { model: "deepseek", keys: secret("d") },
    moonshot: { model: "kimi", keys: secret("m") }
  } as const
  const preset = Presets.alerts({ services })
  const perMinute = (limit: number) => ({ tokens: { limit, per: "1 minute", window: "sliding" } }) as const

  it("has 3000, 1500, 5000 and 1000 tokens a minute, a queue of 15 s and 10 attempts", () => {
    const { circuit, retry, targets, ...rest } = preset
    assert.isDefined(circuit)
    assert.strictEqual(retry, Presets.alertsRetry)
    assert.deepStrictEqual(ids(targets), [
      "openai/gpt-4o-mini@openai-1",
      "xai/grok@xai-1",
      "deepseek/deepseek@deepseek-1",
      "moonshot/kimi@moonshot-1"
    ])
    assert.deepStrictEqual(rest, {
      queueWait: "15 seconds",
      maxAttempts: 10,
      limits: {
        providers: {
          openai: perMinute(3000),
          xai: perMinute(1500),
          deepseek: perMinute(5000),
          moonshot: perMinute(1000)
        }
      }
    })
  })

  circuitRule("its circuit", preset.circuit, { failures: 5, seconds: 300, successes: 1 })

  it("retries OpenAI 2 times from 2 s up to 45 s, Moonshot 3 times from 1 s up to 30 s, others up to 60 s", () => {
    const others = { retries: 3, base: "1 second", max: "60 seconds" } as const
    assert.deepStrictEqual(Presets.alertsRetries, {
      openai: { retries: 2, base: "2 seconds", max: "45 seconds" },
      moonshot: { retries: 3, base: "1 second", max: "30 seconds" },
      xai: others,
      deepseek: others
    })
  })

  it.effect("its schedules are those of the services", () =>
    Effect.gen(function*() {
      const tried: Record<string, ReadonlyArray<number>> = {}
      for (const target of preset.targets) tried[target.provider] = yield* triedAt(Presets.alertsRetry(target))
      const offsets = Object.entries(tried).map(([name, at]) => [name, at.map((_) => _ - (at[0] ?? 0))])
      assert.deepStrictEqual(Object.fromEntries(offsets), {
        openai: [0, 2, 6],
        xai: [0, 1, 3, 7],
        deepseek: [0, 1, 3, 7],
        moonshot: [0, 1, 3, 7]
      })
    }))

  it.effect("a service without tokens left is passed over; with none left a call waits 15 s and is refused", () =>
    Effect.gen(function*() {
      const request = { maxTokens: 900, prompt: "hi" }
      for (let call = 0; call < 4; call++) yield* complete(request)
      assert.deepStrictEqual((yield* calls).map((_) => _.target), [
        "openai/gpt-4o-mini@openai-1",
        "openai/gpt-4o-mini@openai-1",
        "openai/gpt-4o-mini@openai-1",
        "moonshot/kimi@moonshot-1"
      ])
      const refused = yield* underTime(Effect.flip(complete(request)), 20)
      assert.strictEqual(refused._tag, "RateLimitError")
      assert.strictEqual(refused.origin, "limiter")
      assert.strictEqual((yield* calls).length, 4)
    }).pipe(Effect.provide(withPreset(
      Presets.alerts({ services: { openai: services.openai, moonshot: services.moonshot } }),
      { "*": [TestProvider.reply("ok", { usage: { input: 10, output: 900 } })] }
    ))))

  it.effect("a router retries each service by its own schedule", () =>
    Effect.gen(function*() {
      yield* largestDraw(underTime(complete({ maxTokens: 10 }), 20))
      const called = yield* calls
      const at = (provider: string) => called.filter((_) => _.target.startsWith(provider)).map((_) => _.at)
      assert.deepStrictEqual(at("openai"), [0, 2000, 6000])
      assert.deepStrictEqual(at("moonshot"), [6000, 7000])
    }).pipe(Effect.provide(withPreset(
      Presets.alerts({ services: { openai: services.openai, moonshot: services.moonshot } }),
      { "openai/gpt-4o-mini@openai-1": [broken], "*": [broken, TestProvider.reply("ok")] }
    ))))

  it("takes what is said of a service's model", () => {
    const price = { input: 0.15, output: 0.6 }
    const { targets } = Presets.alerts({ services: { openai: { ...services.openai, price, contextWindow: 128_000 } } })
    assert.deepStrictEqual(targets.map((_) => [_.id, _.price, _.contextWindow]), [
      ["openai/gpt-4o-mini@openai-1", price, 128_000]
    ])
  })

  it("takes other limits for the services that are used", () => {
    const { limits } = Presets.alerts({
      services: { openai: services.openai },
      tokensPerMinute: { openai: 10_000, xai: 1 }
    })
    assert.deepStrictEqual(limits, { providers: { openai: perMinute(10_000) } })
  })

  it("a limit, a service and keys that make no sense are refused by name", () => {
    const { openai } = services
    assert.throws(() => Presets.alerts({ services: {} }), "Presets.alerts: services must not be empty")
    assert.throws(
      () => Presets.alerts({ services: { openai: { ...openai, keys: [] } } }),
      "Presets.alerts: services.openai.keys must not be empty"
    )
    assert.throws(
      () => Presets.alerts({ services: { openai }, tokensPerMinute: { openai: 0 } }),
      "Presets.alerts: tokensPerMinute.openai must be a number > 0, got 0"
    )
    const unknown = { openai, mistral: openai }
    assert.throws(
      () => Presets.alerts({ services: unknown }),
      "Presets.alerts: services.mistral must be one of openai, xai, deepseek, moonshot"
    )
  })
})
