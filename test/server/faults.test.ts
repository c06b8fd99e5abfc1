import { assert, describe, it } from "@effect/vitest"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Effect } from "effect"
import * as Harness from "./harness.ts"

// Every fault of a provider, as a plain HTTP client sees it through the gateway.
const { Fault } = ProviderServer
const { ask, get } = Harness

const prompt = "Say tide, say it twice, and then say it once more"
const whole = `You said: ${prompt}`

const faces = {
  openai: {
    asking: {},
    body: { model: "chat", messages: [{ role: "user", content: prompt }] },
    read: Harness.openAiStream,
    isError: (json: Harness.Json) => typeof json?.error?.message === "string" && typeof json.error.code === "string",
    text: (json: Harness.Json) => json.choices[0].message.content
  },
  anthropic: {
    asking: { path: "/v1/messages" },
    body: { model: "chat", max_tokens: 100, messages: [{ role: "user", content: prompt }] },
    read: Harness.anthropicStream,
    isError: (json: Harness.Json) => json?.type === "error" && typeof json.error?.type === "string",
    text: (json: Harness.Json) => json.content[0].text
  }
}

type FaceName = keyof typeof faces
const faceNames = ["openai", "anthropic"] as const

/** What meets a call before its first content, and the status it becomes where nobody else can answer. */
const before: ReadonlyArray<readonly [string, ProviderServer.Fault, number]> = [
  ["429", Fault.Status({ status: 429, retryAfter: "20 seconds" }), 429],
  ["500", Fault.Status({ status: 500 }), 500],
  ["503", Fault.Status({ status: 503 }), 503],
  ["401", Fault.Status({ status: 401 }), 502],
  ["403", Fault.Status({ status: 403 }), 502],
  ["402", Fault.Status({ status: 402 }), 429],
  ["302", Fault.Status({ status: 302, body: "" }), 502],
  ["reset", Fault.Reset({}), 502],
  ["reset after headers", Fault.Reset({ afterHeaders: true }), 502],
  ["no answer", Fault.NoAnswer(), 504],
  ["slow first token", Fault.SlowFirstToken({ delay: "3 seconds" }), 504],
  ["cut before content", Fault.Cut({ after: 0 }), 502],
  ["stall before content", Fault.Stall({ after: 0 }), 504],
  ["stall with keep-alives", Fault.Stall({ after: 0, keepAlive: "50 millis" }), 504],
  ["error event", Fault.ErrorEvent({ after: 0 }), 500],
  ["empty body", Fault.EmptyBody(), 502],
  ["html page", Fault.HtmlPage({}), 502]
]

/** What breaks an answer that has begun. */
const within: ReadonlyArray<readonly [string, ProviderServer.Fault]> = [
  ["cut", Fault.Cut({ after: 2 })],
  ["clean cut", Fault.Cut({ after: 2, clean: true })],
  ["stall", Fault.Stall({ after: 2 })],
  ["stall with keep-alives", Fault.Stall({ after: 2, keepAlive: "50 millis" })],
  ["malformed chunk", Fault.MalformedChunk({ after: 2 })],
  ["error event", Fault.ErrorEvent({ after: 2 })]
]

const world = Effect.fnUntraced(function*(order: readonly [FaceName, FaceName], model: object, single: boolean) {
  const servers = {
    openai: yield* ProviderServer.make({ format: "openai" }),
    anthropic: yield* ProviderServer.make({ format: "anthropic" })
  }
  const targets = order.slice(0, single ? 1 : 2).map((name) => `${name}/${name}-model`)
  const used = Object.fromEntries(order.slice(0, single ? 1 : 2).map((name) => [name, servers[name]]))
  const { port } = yield* Harness.serve({
    providers: Harness.providers(used),
    models: { chat: { ...Harness.quick, ...model, targets } }
  })
  return { port, first: servers[order[0]], second: servers[order[1]] }
})

/** The process is alive and quick afterwards: the quickest of five answers tells, as others use the machine, too. */
const alive = Effect.fnUntraced(function*(port: number) {
  let tookMs = Infinity
  for (let index = 0; index < 5 && tookMs >= 200; index++) {
    const health = yield* get(port, "/breakwater/health")
    assert.deepStrictEqual([health.status, health.json.status], [200, "ok"])
    tookMs = Math.min(tookMs, health.tookMs)
  }
  assert.isBelow(tookMs, 200)
})

const hangs: ReadonlySet<string> = new Set(["NoAnswer", "SlowFirstToken", "Stall"])

/** Runs a check for both faces before providers of both formats. */
const everyWay = <E, R>(
  model: object,
  single: boolean,
  fault: ProviderServer.Fault,
  check: (
    face: typeof faces[FaceName],
    reply: Harness.Reply,
    kind: "whole" | "stream",
    label: string
  ) => Effect.Effect<void, E, R>,
  kinds: ReadonlyArray<"whole" | "stream"> = ["whole", "stream"]
) =>
  Effect.forEach(
    faceNames.flatMap((name) => faceNames.flatMap((first) => kinds.map((kind) => [name, first, kind] as const))),
    ([name, first, kind]) =>
      Effect.gen(function*() {
        const face = faces[name]
        // Only who waits for what never comes has to be quick about it.
        const patient = hangs.has(fault._tag) ? {} : { timeouts: { total: "5 seconds" } }
        const order = [first, first === "openai" ? "anthropic" : "openai"] as const
        const built = yield* world(order, { ...patient, ...model }, single)
        yield* built.first.outage(fault)
        const reply = yield* ask(built.port, { ...face.body, stream: kind === "stream" }, face.asking)
        const label = `${name} face, ${first} first, ${kind}: ${reply.status} ${reply.body.slice(0, 300)}`
        assert.isBelow(reply.tookMs, 4000, label)
        const said = reply.body + JSON.stringify(reply.headers)
        assert.notInclude(said, Harness.canary, label)
        assert.notInclude(said, new URL(built.first.url).port, label)
        yield* check(face, reply, kind, label)
        yield* alive(built.port)
        yield* Effect.timeout(built.first.awaitIdle, "1 second")
      }).pipe(Effect.scoped),
    { concurrency: 4, discard: true }
  )

describe.concurrent("a fault where nobody else can answer", () => {
  for (const [name, fault, status] of before) {
    it.live(`${name} is an error of status ${status}, in the face's own shape`, () =>
      everyWay({}, true, fault, (face, reply, kind, label) =>
        Effect.sync(() => {
          // A provider may answer whole what it would cut while it streams.
          if (kind === "whole" && name === "stall with keep-alives") assert.strictEqual(reply.status, 504, label)
          else if (kind === "whole" && name === "error event") assert.include([500, 502, 503, 529], reply.status, label)
          else if (status === 500 && name === "error event") assert.include([500, 503, 529], reply.status, label)
          else if (name === "503") assert.include([503, 529], reply.status, label)
          else assert.strictEqual(reply.status, status, label)
          assert.isTrue(face.isError(reply.json), label)
          assert.strictEqual(reply.headers["x-should-retry"], "false", label)
          assert.isAtLeast(Number(reply.headers["x-breakwater-attempts"]), 1, label)
          assert.match(String(reply.headers["content-type"]), /^application\/json/, label)
          if (name === "429") {
            assert.isAbove(Number(reply.headers["retry-after"]), 15, label)
            assert.isAtMost(Number(reply.headers["retry-after"]), 20, label)
            assert.isAbove(Number(reply.headers["retry-after-ms"]), 15_000, label)
          }
        })))
  }

  for (const [name, fault] of within) {
    it.live(`${name} within a stream is the vendor's error event and no clean end`, () =>
      everyWay({}, true, fault, (face, reply, _, label) =>
        Effect.sync(() => {
          const seen = face.read(reply.body)
          assert.strictEqual(reply.status, 200, label)
          assert.isFalse(seen.done, label)
          assert.isUndefined(seen.reason, label)
          assert.isString(seen.error?.message, label)
          assert.isBelow(seen.text.length, whole.length, label)
          assert.isTrue(whole.startsWith(seen.text), label)
        }), ["stream"]))

    it.live(`${name} of a whole answer is an error`, () =>
      everyWay({}, true, fault, (face, reply, _, label) =>
        Effect.sync(() => {
          assert.isAtLeast(reply.status, 500, label)
          assert.isTrue(face.isError(reply.json), label)
        }), ["whole"]))
  }
})

describe.concurrent("a fault where another target can answer", () => {
  for (const [name, fault] of before) {
    it.live(`${name} is not seen at all`, () =>
      everyWay({}, false, fault, (face, reply, kind, label) =>
        Effect.sync(() => {
          assert.strictEqual(reply.status, 200, label)
          const text = kind === "whole" ? face.text(reply.json) : face.read(reply.body).text
          assert.strictEqual(text, whole, label)
          if (kind === "stream") assert.isTrue(face.read(reply.body).done, label)
          assert.isAbove(Number(reply.headers["x-breakwater-attempts"]), 1, label)
        })))
  }

  for (const [name, fault] of within) {
    it.live(`${name} within a stream is not seen with the policy buffer`, () =>
      everyWay({ streamPolicy: "buffer" }, false, fault, (face, reply, _, label) =>
        Effect.sync(() => {
          const seen = face.read(reply.body)
          assert.deepStrictEqual([seen.text, seen.done, seen.error], [whole, true, undefined], label)
        }), ["stream"]))

    it.live(`${name} within a stream begins anew only for who understands that`, () =>
      everyWay({ streamPolicy: "restart" }, false, fault, (face, reply, _, label) =>
        Effect.sync(() => {
          const seen = face.read(reply.body)
          assert.isFalse(seen.done, label)
          assert.isString(seen.error?.message, label)
          assert.isTrue(whole.startsWith(seen.text), label)
        }), ["stream"]))
  }

  it.live("a client that understands restarts is told of them", () =>
    Effect.gen(function*() {
      const { first, port } = yield* world(["openai", "anthropic"], { streamPolicy: "restart" }, false)
      yield* first.outage(Fault.Cut({ after: 2 }))
      const headers = { "x-breakwater-restart": "true" }
      const reply = yield* ask(port, { ...faces.openai.body, stream: true }, { headers })
      const all = Harness.events(reply.body)
      const at = all.findLastIndex((_) => _.data.object === "breakwater.restarted")
      assert.isAbove(at, 0)
      const text = all.slice(at).flatMap((_) => _.data.choices ?? []).map((_: Harness.Json) => _.delta.content ?? "")
      assert.strictEqual(text.join(""), whole)
      assert.strictEqual(all.at(-1)?.data, "[DONE]")
    }).pipe(Effect.scoped))
})

describe.concurrent("what a caller has to know", () => {
  it.live("a content filter and an overflow surface as themselves", () =>
    Effect.gen(function*() {
      const { first, port } = yield* world(["openai", "anthropic"], {}, true)
      const filtered = JSON.stringify({
        error: { message: "The response was filtered", type: null, param: "prompt", code: "content_filter" }
      })
      yield* first.enqueue(Fault.Status({ status: 400, body: filtered }))
      const one = yield* ask(port, faces.openai.body)
      assert.deepStrictEqual([one.status, one.json.error.code, one.json.error.type], [
        400,
        "content_filter",
        "invalid_request_error"
      ])
      const overflow = JSON.stringify({
        error: {
          message:
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
          type: "invalid_request_error",
          param: "messages",
          code: "context_length_exceeded"
        }
      })
      yield* first.enqueue(Fault.Status({ status: 400, body: overflow }))
      const two = yield* ask(port, faces.anthropic.body, faces.anthropic.asking)
      assert.deepStrictEqual([two.status, two.json.error.type], [400, "invalid_request_error"])
      assert.include(two.json.error.message, "context_length_exceeded")
      assert.strictEqual((yield* first.received).requests, 2)
    }).pipe(Effect.scoped))

  it.live("a wrong key of the gateway is no fault of the client, at the first call and as long as it is known", () =>
    Effect.gen(function*() {
      const { first, port } = yield* world(["openai", "anthropic"], {}, true)
      const organisation = { error: { message: "No such organisation: org-acme", code: "invalid_api_key" } }
      yield* first.enqueue(Fault.Status({ status: 401, body: JSON.stringify(organisation) }))
      const one = yield* ask(port, faces.openai.body)
      assert.deepStrictEqual(
        [one.status, one.json.error.code, one.json.error.type],
        [502, "upstream_authentication", "server_error"]
      )
      assert.include(one.json.error.message, "the gateway's own credentials")
      assert.notInclude(one.body, "org-acme")
      const two = yield* ask(port, faces.anthropic.body, faces.anthropic.asking)
      assert.deepStrictEqual([two.status, two.json.error.type], [502, "api_error"])
      assert.include(two.json.error.message, "the gateway's own credentials")
      assert.strictEqual(two.headers["x-breakwater-attempts"], "0")
      assert.strictEqual((yield* first.received).requests, 1)
    }).pipe(Effect.scoped))

  it.live("a limit that states no wait is told with the rest that it gave", () =>
    Effect.gen(function*() {
      for (const stream of [false, true]) {
        const { first, port, second } = yield* world(["openai", "anthropic"], {}, false)
        yield* first.enqueue(Fault.Status({ status: 429, body: "too many requests" }))
        yield* second.enqueue(Fault.Status({ status: 400, body: "" }))
        const free = yield* ask(port, { ...faces.openai.body, stream })
        assert.deepStrictEqual([free.status, free.headers["retry-after"]], [400, undefined])
        yield* second.enqueue(Fault.Status({ status: 429, body: "too many requests" }))
        const resting = yield* ask(port, { ...faces.openai.body, stream })
        assert.strictEqual(resting.status, 429)
        assert.isAbove(Number(resting.headers["retry-after"]), 50)
        assert.isAtMost(Number(resting.headers["retry-after"]), 60)
        const single = yield* world(["openai", "anthropic"], {}, true)
        yield* single.first.enqueue(Fault.Status({ status: 429, body: "too many requests" }))
        const only = yield* ask(single.port, { ...faces.openai.body, stream })
        assert.deepStrictEqual([only.status, only.headers["retry-after"]], [429, "60"])
      }
    }).pipe(Effect.scoped))

  it.live("an account without credit is a limit, at the first call and as long as it is known", () =>
    Effect.gen(function*() {
      const { first, port } = yield* world(["openai", "anthropic"], {}, true)
      const balance = { error: { message: "Insufficient Balance", code: "invalid_request_error" } }
      yield* first.enqueue(Fault.Status({ status: 402, body: JSON.stringify(balance) }))
      for (const attempts of ["1", "0"]) {
        const reply = yield* ask(port, faces.openai.body)
        assert.deepStrictEqual(
          [reply.status, reply.json.error.code, reply.headers["x-breakwater-attempts"]],
          [429, "insufficient_quota", attempts]
        )
      }
    }).pipe(Effect.scoped))

  it.live("an answer cut by the content filter says so at its end", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        format: "openai",
        reply: { text: "I had begun to", finishReason: "content_filter" }
      })
      const { port } = yield* Harness.serve({
        providers: Harness.providers({ openai: server }),
        models: { chat: { targets: ["openai/one"] } }
      })
      const one = yield* ask(port, { ...faces.openai.body, stream: true })
      assert.deepStrictEqual(Harness.openAiStream(one.body).reason, "content_filter")
      const two = yield* ask(port, { ...faces.anthropic.body, stream: true }, faces.anthropic.asking)
      assert.deepStrictEqual(Harness.anthropicStream(two.body).reason, "refusal")
    }).pipe(Effect.scoped))
})
