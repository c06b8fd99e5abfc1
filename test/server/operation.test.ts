import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect, Fiber, Random } from "effect"
import { createHash } from "node:crypto"
import * as Net from "node:net"
import * as Harness from "./harness.ts"

// What a gateway does to stay up: who leaves, who does not read, what is too large, and how it is stopped and changed.
const { Fault } = ProviderServer
const { ask, get, open } = Harness

const hello = { model: "chat", messages: [{ role: "user", content: "Say tide" }] }

const world = Effect.fnUntraced(function*(options: {
  readonly server?: Partial<ProviderServer.Options>
  readonly model?: object
  readonly config?: object
} = {}) {
  const openai = yield* ProviderServer.make({ format: "openai", ...options.server })
  const config = {
    providers: Harness.providers({ openai }),
    models: { chat: { ...Harness.quick, targets: ["openai/one"], ...options.model } },
    ...options.config
  }
  const served = yield* Harness.serve(config)
  return { ...served, openai, config }
})

const sleep = (millis: number) => Effect.sleep(millis)

const until = (predicate: () => boolean, millis: number) =>
  Effect.gen(function*() {
    const startedAt = performance.now()
    while (!predicate() && performance.now() - startedAt < millis) yield* sleep(2)
    return performance.now() - startedAt
  })

describe("a client that leaves", () => {
  it.live("takes its upstream socket along within 50 ms, whole or streamed, waiting or reading", () =>
    Effect.gen(function*() {
      const slow = { perChunk: "100 millis" } as const
      const { gateway, openai, port } = yield* world({ server: { latency: slow, reply: "x".repeat(2000) } })
      const sockets = () => Effect.map(openai.received, (_) => _.concurrent.now)
      // The quickest of a few: a machine that is busy may be late for one of them, for reasons of its own.
      const quickest = <E, R>(leaving: Effect.Effect<number, E, R>) =>
        Effect.map(Effect.replicateEffect(leaving, 5), (times) => Math.min(...times))

      // While it reads.
      const reading = Effect.gen(function*() {
        const stream = yield* open(port, { ...hello, stream: true })
        yield* Effect.promise(() => new Promise((resolve) => stream.response.once("data", resolve)))
        assert.strictEqual(yield* sockets(), 1)
        const at = performance.now()
        stream.destroy()
        yield* openai.awaitIdle
        return performance.now() - at
      })
      assert.isBelow(yield* quickest(reading), 50)

      // While it waits: for a whole answer, and for the first content.
      for (const streaming of [false, true]) {
        const waiting = Effect.gen(function*() {
          yield* openai.enqueue(Fault.NoAnswer())
          const before = (yield* openai.received).requests
          const asking = yield* Effect.forkChild(ask(port, { ...hello, stream: streaming }))
          yield* openai.awaitRequests(before + 1)
          yield* sleep(20)
          const at = performance.now()
          yield* Fiber.interrupt(asking)
          yield* openai.awaitIdle
          return performance.now() - at
        })
        assert.isBelow(yield* quickest(waiting), 50)
      }
      const status = yield* gateway.status
      assert.deepStrictEqual([status.inFlight, status.models[0]?.inFlight], [0, 0])
    }).pipe(Effect.scoped))

  it.live("that reads nothing holds its provider back, and is cut off", () =>
    Effect.gen(function*() {
      const { gateway, openai, port } = yield* world({
        server: { reply: "y".repeat(20_000_000), chunkSize: 4000 },
        model: { timeouts: {} },
        config: {
          server: { slowClient: "2 seconds" }
        }
      })
      const socket = Net.connect(port, "127.0.0.1")
      yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
      socket.pause()
      const body = JSON.stringify({ ...hello, stream: true })
      socket.write(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
      )
      yield* openai.awaitRequests(1)
      yield* sleep(200)
      // Twenty megabytes do not pass through somebody who reads none of them.
      const { log: _, ...stats } = yield* openai.received
      assert.strictEqual(stats.concurrent.now, 1)
      yield* Effect.timeout(openai.awaitIdle, "10 seconds")
      const status = yield* gateway.status
      assert.deepStrictEqual([status.inFlight, status.slowClients], [0, 1])
    }).pipe(Effect.scoped))

  it.live("that reads slowly gets all of it", () =>
    Effect.gen(function*() {
      const text = "z".repeat(300_000)
      const { port } = yield* world({
        server: { reply: text, chunkSize: 3000 },
        model: { timeouts: {} },
        config: { server: { slowClient: "1 second" } }
      })
      const { response } = yield* open(port, { ...hello, stream: true })
      let body = ""
      response.setEncoding("utf8")
      yield* Effect.callback<void>((resume) => {
        response.on("data", (chunk: string) => {
          body += chunk
          response.pause()
          setTimeout(() => response.resume(), 2)
        })
        response.on("end", () => resume(Effect.void))
      })
      assert.strictEqual(Harness.openAiStream(body).text, text)
      const whole = yield* ask(port, hello)
      assert.strictEqual(whole.json.choices[0].message.content.length, text.length)
    }).pipe(Effect.scoped))
})

describe("a long wait", () => {
  it.live("is bridged by comments, and what fails after them is an event", () =>
    Effect.gen(function*() {
      const { openai, port } = yield* world({
        model: { timeouts: { ...Harness.quick.timeouts, firstToken: "700 millis" } },
        config: { server: { heartbeat: "100 millis" } }
      })
      yield* openai.enqueue(Fault.SlowFirstToken({ delay: "350 millis" }))
      const slow = yield* ask(port, { ...hello, stream: true })
      assert.isAtLeast(slow.body.split(": waiting").length, 3)
      assert.deepStrictEqual(
        [Harness.openAiStream(slow.body).text, Harness.openAiStream(slow.body).done],
        ["You said: Say tide", true]
      )
      yield* openai.outage(Fault.NoAnswer())
      const none = yield* ask(port, { ...hello, stream: true })
      const seen = Harness.openAiStream(none.body)
      assert.deepStrictEqual([none.status, seen.done, seen.error.type], [200, false, "timeout_error"])
    }).pipe(Effect.scoped))
})

describe("what is refused", () => {
  it.live("wrong bodies, by the field that is wrong", () =>
    Effect.gen(function*() {
      const { openai, port } = yield* world()
      const cases: ReadonlyArray<readonly [object, string]> = [
        [{ ...hello, n: 0 }, "n"],
        [{ ...hello, n: 129 }, "n"],
        [{ ...hello, top_p: 1.1 }, "top_p"],
        [{ ...hello, temperature: -1 }, "temperature"],
        [{ ...hello, logprobs: true }, "logprobs"],
        [{ ...hello, messages: [] }, "messages"],
        [{ ...hello, messages: "hi" }, "messages"],
        [{ ...hello, messages: [{ role: "robot", content: "" }] }, "messages[0].role"],
        [{ ...hello, messages: [{ role: "user", content: [{ type: "video" }] }] }, "messages[0].content[0].type"],
        [{ ...hello, tools: [{ type: "custom" }] }, "tools[0].type"],
        [{ ...hello, response_format: { type: "yaml" } }, "response_format.type"],
        [{ ...hello, max_tokens: -1 }, "max_tokens"],
        [{ messages: hello.messages }, "model"]
      ]
      for (const [body, param] of cases) {
        const reply = yield* ask(port, body)
        assert.deepStrictEqual([reply.status, reply.json.error.param], [400, param], JSON.stringify(body))
        assert.strictEqual(reply.json.error.type, "invalid_request_error")
      }
      const unknown = yield* ask(port, { ...hello, model: "other" })
      assert.deepStrictEqual([unknown.status, unknown.json.error.code], [404, "model_not_found"])
      const broken = yield* ask(port, undefined, { raw: "{\"model\":" })
      assert.strictEqual(broken.status, 400)
      const claude = yield* ask(port, hello, { path: "/v1/messages" })
      assert.deepStrictEqual([claude.status, claude.json.type], [400, "error"])
      assert.include(claude.json.error.message, "max_tokens")
      const list = yield* ask(port, [hello])
      assert.deepStrictEqual([list.status, list.json.error.param], [400, null])
      const packed = yield* ask(port, hello, { headers: { "content-encoding": "gzip" } })
      assert.deepStrictEqual([packed.status, packed.json.error.code], [415, "unsupported_media_type"])
      const counting = yield* ask(port, {}, { path: "/v1/messages/count_tokens" })
      assert.deepStrictEqual([counting.status, counting.json.error.type], [404, "not_found_error"])
      const nowhere = yield* ask(port, {}, { path: "/v1/responses" })
      assert.deepStrictEqual([nowhere.status, nowhere.json.error.code], [404, "unknown_url"])
      assert.strictEqual((yield* openai.received).requests, 0)
    }).pipe(Effect.scoped))

  it.live("nothing of a client that asks whether it may send its body", () =>
    Effect.gen(function*() {
      const { port } = yield* world()
      const body = JSON.stringify(hello)
      const head =
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: ${body.length}`
      const text = yield* Effect.callback<string>((resume) => {
        const socket = Net.connect(port, "127.0.0.1")
        let said = ""
        socket.on("data", (data) => {
          const before = said
          said += String(data)
          if (before === "" && said.startsWith("HTTP/1.1 100 ")) socket.write(body)
          if (said.includes("chat.completion")) resume(Effect.succeed(said))
        })
        socket.write(`${head}\r\n\r\n`)
        return Effect.sync(() => socket.destroy())
      })
      assert.match(text, /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 /)
    }).pipe(Effect.scoped))

  it.live("bodies that are too large, announced or not, and those that never come", () =>
    Effect.gen(function*() {
      const { port } = yield* world({ config: { server: { maxBodyBytes: 10_000, bodyTimeout: "200 millis" } } })
      const large = JSON.stringify({ ...hello, user: "x".repeat(20_000) })
      const announced = yield* ask(port, undefined, { raw: large, headers: { "content-length": String(large.length) } })
      assert.deepStrictEqual([announced.status, announced.json.error.code], [413, "payload_too_large"])
      const chunked = yield* ask(port, undefined, { raw: large, headers: { "transfer-encoding": "chunked" } })
      assert.strictEqual(chunked.status, 413)
      const socket = Net.connect(port, "127.0.0.1")
      const text = yield* Effect.callback<string>((resume) => {
        socket.write("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        socket.once("data", (data) => resume(Effect.succeed(String(data))))
        return Effect.sync(() => socket.destroy())
      })
      assert.match(text, /^HTTP\/1.1 408 /)
      socket.destroy()
      assert.strictEqual((yield* ask(port, hello)).status, 200)
    }).pipe(Effect.scoped))

  it.live("calls without a key, where there are keys", () =>
    Effect.gen(function*() {
      const sha256 = (text: string) => createHash("sha256").update(text).digest("hex")
      const { port } = yield* world({
        config: {
          access: [
            { name: "all", sha256: sha256("open sesame") },
            { name: "some", sha256: sha256("little"), models: ["chat"] }
          ],
          models: { chat: { targets: ["openai/one"] }, secret: { targets: ["openai/two"] } }
        }
      })
      const none = yield* ask(port, hello)
      assert.deepStrictEqual([none.status, none.json.error.code, none.json.error.type], [
        401,
        "invalid_api_key",
        "authentication_error"
      ])
      const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } })
      assert.strictEqual((yield* ask(port, hello, bearer("wrong"))).status, 401)
      assert.strictEqual((yield* ask(port, hello, bearer("open sesame"))).status, 401)
      assert.strictEqual((yield* ask(port, hello, { headers: { "x-api-key": "open sesame" } })).status, 200)
      assert.strictEqual((yield* ask(port, hello, bearer("little"))).status, 200)
      assert.strictEqual((yield* ask(port, { ...hello, model: "secret" }, bearer("little"))).status, 404)
      const list = yield* get(port, "/v1/models", { "x-api-key": "little" })
      assert.deepStrictEqual(list.json.data.map((_: Harness.Json) => _.id), ["chat"])
      assert.strictEqual((yield* get(port, "/breakwater/health")).status, 200)
      assert.strictEqual((yield* get(port, "/breakwater/status")).status, 401)
      const status = yield* get(port, "/breakwater/status", { "x-api-key": "little" })
      assert.strictEqual(status.status, 200)
      assert.notInclude(status.body, Harness.canary)
      assert.notInclude(status.body, "little")
    }).pipe(Effect.scoped))
})

describe("a shutdown", () => {
  it.live("lets streams in flight end, and sends new calls away", () =>
    Effect.gen(function*() {
      const { gateway, port } = yield* world({
        server: { latency: { perChunk: "40 millis" }, reply: "a".repeat(160) }
      })
      const streaming = yield* Effect.forkChild(ask(port, { ...hello, stream: true }))
      yield* sleep(120)
      const draining = yield* Effect.forkChild(gateway.drain)
      yield* sleep(10)
      const refused = yield* ask(port, hello)
      assert.deepStrictEqual([refused.status, refused.json.error.code], [503, "shutting_down"])
      assert.isAbove(Number(refused.headers["retry-after"]), 0)
      assert.isUndefined(refused.headers["x-should-retry"])
      assert.strictEqual((yield* get(port, "/breakwater/health")).status, 503)
      const ended = yield* Fiber.join(streaming)
      assert.isTrue(Harness.openAiStream(ended.body).done)
      yield* Fiber.join(draining)
    }).pipe(Effect.scoped))

  it.live("waits no longer than it may", () =>
    Effect.gen(function*() {
      const { gateway, openai, port } = yield* world({ config: { server: { drain: "150 millis" } } })
      yield* openai.enqueue(Fault.NoAnswer())
      const asking = yield* Effect.forkChild(ask(port, hello))
      yield* openai.awaitRequests(1)
      const at = performance.now()
      yield* gateway.drain
      assert.isBelow(performance.now() - at, 350)
      assert.isAtLeast(performance.now() - at, 140)
      yield* Fiber.interrupt(asking)
    }).pipe(Effect.scoped))
})

describe("a new configuration", () => {
  it.live("is served from the next call on, keeps what was learned, and leaves calls in flight alone", () =>
    Effect.gen(function*() {
      const openai = yield* ProviderServer.make({
        format: "openai",
        latency: { perChunk: "30 millis" },
        reply: "b".repeat(96)
      })
      const other = yield* ProviderServer.make({ format: "openai" })
      const config = {
        providers: Harness.providers({ openai, other }),
        models: { chat: { ...Harness.quick, targets: ["openai/one", "other/two"] } }
      }
      const { gateway, port } = yield* Harness.serve(config)
      yield* other.enqueue(Fault.Status({ status: 429, retryAfter: "30 seconds" }))
      // The cooldown is started through a model that is gone afterwards.
      yield* gateway.reload(
        yield* Harness.decode({ ...config, models: { old: { targets: ["other/two", "openai/one"] } } })
      )
      assert.strictEqual((yield* ask(port, { ...hello, model: "old" })).json.model, "one")
      const streaming = yield* Effect.forkChild(ask(port, { ...hello, model: "old", stream: true }))
      yield* sleep(60)
      yield* gateway.reload(
        yield* Harness.decode({
          ...config,
          models: { fresh: { ...Harness.quick, targets: ["other/two", "openai/one"] } }
        })
      )
      assert.strictEqual((yield* ask(port, { ...hello, model: "old" })).status, 404)
      const asked = yield* ask(port, { ...hello, model: "fresh" })
      assert.strictEqual(asked.headers["x-breakwater-target"], "openai/one@openai-1")
      assert.strictEqual((yield* other.received).requests, 1)
      const { cooldowns } = yield* gateway.status
      assert.isTrue(cooldowns.some((_) => _.provider === "other"))
      assert.isTrue(Harness.openAiStream((yield* Fiber.join(streaming)).body).done)
    }).pipe(Effect.scoped))
})

describe("embeddings", () => {
  it.live("fail over like everything else, and are refused where nobody has any", () =>
    Effect.gen(function*() {
      const { createServer } = yield* Effect.promise(() => import("node:http"))
      const seen: Array<Harness.Json> = []
      let failures = 1
      const server = createServer((request, response) => {
        let text = ""
        request.on("data", (chunk) => text += chunk)
        request.on("end", () => {
          seen.push({ path: request.url, authorization: request.headers.authorization, body: JSON.parse(text) })
          response.setHeader("content-type", "application/json")
          if (failures-- > 0) {
            response.statusCode = 404
            return response.end(JSON.stringify({ error: { message: "gone", code: "model_not_found" } }))
          }
          return response.end(JSON.stringify({
            object: "list",
            data: [{ object: "embedding", index: 0, embedding: [0.5, 0.25] }],
            model: "embed-2",
            usage: { prompt_tokens: 3, total_tokens: 3 }
          }))
        })
      })
      yield* Effect.acquireRelease(
        Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
        () => Effect.sync(() => server.close())
      )
      const address = server.address()
      const baseUrl = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}/v1`
      const { port } = yield* Harness.serve({
        providers: { own: { baseUrl, key: "${KEY}" }, anthropic: { key: "${KEY}" } },
        models: {
          embed: { targets: ["own/embed-1", "own/embed-2", "anthropic/claude"] },
          none: { targets: ["anthropic/claude"] }
        }
      })
      const asked = { path: "/v1/embeddings" }
      const reply = yield* ask(port, { model: "embed", input: "tide", dimensions: 2 }, asked)
      assert.strictEqual(reply.status, 200)
      assert.deepStrictEqual(reply.json.data[0].embedding, [0.5, 0.25])
      assert.deepStrictEqual(seen.map((_) => [_.path, _.body.model, _.body.dimensions]), [
        ["/v1/embeddings", "embed-1", 2],
        ["/v1/embeddings", "embed-2", 2]
      ])
      assert.strictEqual(reply.headers["x-breakwater-attempts"], "2")
      const none = yield* ask(port, { model: "none", input: "tide" }, asked)
      assert.deepStrictEqual([none.status, none.json.error.param], [400, "model"])
    }).pipe(Effect.scoped))
})

describe("an outage", () => {
  it.live("is answered from the next target, with few probes, and the primary is back soon after it", () =>
    Effect.gen(function*() {
      const first = yield* ProviderServer.make({ format: "openai" })
      const second = yield* ProviderServer.make({ format: "openai" })
      const { port } = yield* Harness.serve({
        providers: Harness.providers({ openai: first, other: second }),
        models: {
          chat: {
            ...Harness.quick,
            targets: ["openai/one", "other/two"],
            circuit: { open: { from: "100 millis", to: "400 millis" } }
          }
        }
      })
      yield* ask(port, hello)
      yield* first.outage(Fault.Status({ status: 503 }))
      const before = (yield* first.received).requests
      // A minute with a call every four seconds, sixty times as fast.
      for (let call = 0; call < 20; call++) {
        const reply = yield* ask(port, hello)
        assert.deepStrictEqual([reply.status, reply.json.model], [200, "two"])
        yield* sleep(66)
      }
      assert.isBelow((yield* first.received).requests - before, 20)
      yield* first.heal
      let back = false
      const took = yield* Effect.gen(function*() {
        const startedAt = performance.now()
        while (!back && performance.now() - startedAt < 2000) {
          back = (yield* ask(port, hello)).json.model === "one"
          yield* sleep(66)
        }
        return performance.now() - startedAt
      })
      assert.isBelow(took, 800)
    }).pipe(Effect.scoped))
})

describe("a storm", { timeout: 30_000 }, () => {
  it.live(
    "of streams, faults and clients that leave at random leaves nothing behind",
    () =>
      Effect.gen(function*() {
        const latency = { firstToken: { min: "1 millis", max: "20 millis" }, perChunk: "2 millis" } as const
        const reply = "c".repeat(400)
        const servers = {
          openai: yield* ProviderServer.make({
            format: "openai",
            latency,
            reply,
            seed: 1,
            faultRates: [
              { rate: 0.1, fault: Fault.Cut({ after: 3 }) },
              { rate: 0.05, fault: Fault.Status({ status: 500 }) },
              { rate: 0.05, fault: Fault.Stall({ after: 3 }) },
              { rate: 0.05, fault: Fault.NoAnswer() }
            ]
          }),
          anthropic: yield* ProviderServer.make({ format: "anthropic", latency, reply })
        }
        const { gateway, port, sockets } = yield* Harness.serve({
          providers: Harness.providers(servers),
          models: {
            chat: {
              ...Harness.quick,
              targets: [
                { provider: "openai", model: "one", limits: { concurrency: 100 } },
                { provider: "anthropic", model: "two", maxOutputTokens: 4000, limits: { concurrency: 100 } }
              ],
              circuit: { failures: 1000 },
              recovery: { classes: { timeout: { cooldown: "0 millis" } } }
            }
          }
        })
        const counts = { done: 0, failed: 0, left: 0, wrong: 0 }
        const one = (index: number) =>
          Effect.gen(function*() {
            const asking = ask(port, { ...hello, stream: true })
            const leaves = (yield* Random.next) < 0.3
            if (leaves) {
              const fiber = yield* Effect.forkChild(asking)
              yield* sleep(5 + (index * 7) % 60)
              yield* Fiber.interrupt(fiber)
              counts.left++
              return
            }
            const answer = yield* asking
            const seen = Harness.openAiStream(answer.body)
            if (seen.done) {
              counts.done++
              if (seen.text !== reply) counts.wrong++
            } else if (seen.error !== undefined || answer.status >= 400) counts.failed++
            else counts.wrong++
          })
        yield* Effect.forEach(Array.from({ length: 800 }, (_, index) => index), one, {
          concurrency: 100,
          discard: true
        })
        assert.strictEqual(counts.wrong, 0)
        assert.isAbove(counts.done, 300)
        yield* until(() => sockets() === 0, 1000)
        yield* Effect.timeout(servers.openai.awaitIdle, "1 second")
        yield* Effect.timeout(servers.anthropic.awaitIdle, "1 second")
        const status = yield* gateway.status
        assert.deepStrictEqual([status.inFlight, sockets()], [0, 0])
        for (const limit of status.limits) {
          assert.deepStrictEqual([limit.key, limit.inFlight, limit.waiting], [limit.key, 0, 0])
        }
        for (const circuit of status.circuits) {
          assert.strictEqual(circuit.probes, 0)
        }
        assert.strictEqual((yield* ask(port, hello)).status, 200)
      }).pipe(Effect.scoped)
  )
})
