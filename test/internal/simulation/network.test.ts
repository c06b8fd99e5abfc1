import { assert, describe, it } from "@effect/vitest"
import type * as ProviderServer from "breakwater/testing/ProviderServer"
import * as Simulation from "breakwater/testing/Simulation"
import { Clock, Effect, Fiber, Random, type Scope, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { TestClock } from "effect/testing"
import { type Decision, makeDesk } from "../../../src/internal/providerServer/desk.ts"
import { settingsOf } from "../../../src/internal/providerServer/settings.ts"
import * as Network from "../../../src/internal/simulation/network.ts"
import * as Transport from "../../../src/internal/wire/transport.ts"

const url = "http://acme.test/v1/chat/completions"

const body = (fields: Readonly<Record<string, unknown>> = {}) =>
  JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }], ...fields })

/** A provider at `acme.test`, and what its observer was told. */
const network = (behaviour: Partial<ProviderServer.Behaviour> = {}) =>
  Effect.gen(function*() {
    const told: Array<string> = []
    const desk = makeDesk(
      settingsOf({ format: "openai", reply: "a reply of some words", ...behaviour }),
      yield* Effect.service(Random.Random),
      yield* Effect.service(Clock.Clock)
    )
    const observer: Network.Observer = {
      arrived: (decision: Decision) => void told.push(`arrived: ${decision.outcome}`),
      left: (_, outcome, output) => void told.push(`left: ${outcome}, ${output} tokens`)
    }
    const client = Network.make(new Map([["acme.test", { desk, format: "openai", observer }]]))
    return { client, transport: Transport.of(client), told, desk }
  })

const send = (transport: Transport.Transport, fields?: Readonly<Record<string, unknown>>) =>
  transport.open({ url, headers: {}, body: body(fields) })

describe("the network of a simulation", () => {
  it.effect("answers after its latencies, and is told when a request comes and goes", () =>
    Effect.gen(function*() {
      const { told, transport } = yield* network({ latency: { network: "20 millis", firstToken: "80 millis" } })
      const asking = yield* Effect.forkChild(
        Effect.scoped(Effect.flatMap(send(transport), ({ status, text }) => Effect.map(text, (text) => [status, text])))
      )
      yield* TestClock.adjust(19)
      assert.deepStrictEqual(told, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(told, ["arrived: answered"])
      assert.isUndefined(asking.pollUnsafe())
      yield* TestClock.adjust(80)
      const [status, text] = yield* Fiber.join(asking)
      assert.strictEqual(status, 200)
      assert.include(String(text), "a reply of some words")
      assert.deepStrictEqual(told, ["arrived: answered", "left: answered, 6 tokens"])
    }))

  it.effect("a client that leaves a stream is charged what was sent, and its slot is free", () =>
    Effect.gen(function*() {
      const { told, transport } = yield* network({ limits: { concurrency: 1 } })
      const refused = (scope: Effect.Effect<Transport.Response, unknown, Scope.Scope>) =>
        Effect.map(Effect.scoped(scope), ({ status }) => status)
      yield* Effect.scoped(Effect.gen(function*() {
        const { bytes } = yield* send(transport, { stream: true })
        assert.strictEqual(yield* refused(send(transport)), 429)
        yield* Stream.runDrain(Stream.take(bytes, 2))
      }))
      assert.deepStrictEqual(told.at(-1), "left: aborted, 4 tokens")
      assert.strictEqual(yield* refused(send(transport)), 200)
    }))

  it.effect("interrupts a request wherever it is: on the way, before the head, within the body", () =>
    Effect.gen(function*() {
      for (const after of [10, 30, 130]) {
        const { told, transport } = yield* network({
          latency: { network: "20 millis", firstToken: "80 millis", perChunk: "50 millis" }
        })
        const reading = yield* Effect.forkChild(
          Effect.scoped(Effect.flatMap(send(transport, { stream: true }), ({ bytes }) => Stream.runDrain(bytes)))
        )
        yield* TestClock.adjust(after)
        yield* Fiber.interrupt(reading)
        assert.deepStrictEqual(
          told.map((line) => line.split(",")[0]),
          after < 20 ? [] : ["arrived: answered", "left: aborted"]
        )
      }
    }))

  it.effect("breaks connections as Node's client would see it", () =>
    Effect.gen(function*() {
      const { desk, told, transport } = yield* network()
      desk.enqueue({ _tag: "Reset" })
      const reset = yield* Effect.flip(Effect.scoped(send(transport)))
      assert.include(String(reset.reason.cause), "read ECONNRESET")
      desk.enqueue({ _tag: "Cut" })
      const cut = yield* Effect.flip(Effect.scoped(Effect.flatMap(send(transport), ({ text }) => text)))
      assert.include(String(cut.reason.cause), "other side closed")
      assert.strictEqual(told.at(-1)?.split(",")[0], "left: faulted")
      const lost = yield* Effect.flip(
        Effect.scoped(transport.open({ url: "http://nowhere.test/v1", headers: {}, body: "" }))
      )
      assert.include(String(lost.reason.cause), "ENOTFOUND nowhere.test")
    }))

  it.effect("`use` lets go of a request when what is done with it has ended", () =>
    Effect.gen(function*() {
      const { told, transport } = yield* network()
      const status = yield* transport.use({ url, headers: {}, body: body({ stream: true }) }, {
        onSuccess: ({ status }) => Effect.succeed(status),
        onFailure: () => Effect.succeed(0)
      })
      assert.strictEqual(status, 200)
      assert.deepStrictEqual(told, ["arrived: answered", "left: aborted, 0 tokens"])
    }))

  it.live("serves any HTTP client of Effect as well", () =>
    Effect.gen(function*() {
      const { client, told } = yield* network()
      const response = yield* client.execute(
        HttpClientRequest.post(url).pipe(HttpClientRequest.bodyText(body(), "application/json"))
      )
      assert.include(yield* response.text, "a reply of some words")
      assert.deepStrictEqual(told, ["arrived: answered", "left: answered, 6 tokens"])
      const models = yield* client.execute(HttpClientRequest.get("http://acme.test/v1/models"))
      assert.deepStrictEqual(yield* models.json, { object: "list", data: [] })
    }))

  it.live("`Simulation.layerHttpClient` reaches a provider at its public address", () =>
    Effect.gen(function*() {
      const scenario = yield* Simulation.decode({
        duration: "1 minute",
        traffic: [{ name: "a", calls: 1, per: "1 second", input: 1, output: 1 }],
        providers: { deepseek: {} }
      })
      const ask = HttpClientRequest.post("https://api.deepseek.com/chat/completions").pipe(
        HttpClientRequest.bodyText(body({ messages: [{ role: "user", content: "out=4" }] }), "application/json")
      )
      const text = yield* Effect.flatMap(HttpClient.execute(ask), (response) => response.text).pipe(
        Effect.provide(Simulation.layerHttpClient(scenario))
      )
      assert.include(text, "sea sea sea sea")
    }))
})
