import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as Provider from "breakwater/Provider"
import { Deferred, Effect, Fiber, Layer, Stream, Tracer } from "effect"
import { FetchHttpClient } from "effect/http"
import * as Http from "node:http"
import type { AddressInfo, Socket } from "node:net"
import * as NodeClient from "../../src/internal/wire/nodeClient.ts"
import { canary, chunk, data, targetOf } from "./harness.ts"

/**
 * A loopback server that says when the first request came and when that request's socket was closed.
 *
 * Node's own `fetch` may open an idle connection in place of one that it had to close, so sockets are told apart.
 */
const serve = (handle: (request: Http.IncomingMessage, response: Http.ServerResponse) => void) =>
  Effect.acquireRelease(
    Effect.gen(function*() {
      const arrived = yield* Deferred.make<Http.IncomingMessage>()
      const closed = yield* Deferred.make<void>()
      const sockets = new Set<Socket>()
      let connections = 0
      const server = Http.createServer((request, response) => {
        Deferred.doneUnsafe(arrived, Effect.succeed(request))
        request.socket.once("close", () => Deferred.doneUnsafe(closed, Effect.void))
        request.resume().on("end", () => handle(request, response))
      })
      server.on("connection", (socket) => {
        sockets.add(socket)
        connections++
        socket.on("error", () => undefined)
        socket.on("close", () => sockets.delete(socket))
      })
      yield* Effect.callback<void>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.void))
      })
      const { port } = server.address() as AddressInfo
      return {
        server,
        connections: () => connections,
        arrived: Deferred.await(arrived),
        closed: Deferred.await(closed),
        target: targetOf("openai", { baseUrl: `http://127.0.0.1:${port}/v1` }),
        release: () => {
          for (const socket of sockets) socket.destroy()
        }
      }
    }),
    ({ release, server }) =>
      Effect.callback<void>((resume) => {
        release()
        server.close(() => resume(Effect.void))
      })
  )

const openai = Effect.map(Provider.Provider, (_) => _.adapter("openai")!)

const never = () => undefined

/** Lets what was written on the loopback be read. */
const turns = Effect.repeat(
  Effect.callback<void>((resume) => {
    setImmediate(() => resume(Effect.void))
  }),
  { times: 50 }
)

const half = (_: Http.IncomingMessage, response: Http.ServerResponse) => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.write(chunk({ content: "half" }))
}

const halfBody = (_: Http.IncomingMessage, response: Http.ServerResponse) => {
  response.writeHead(200, { "content-type": "application/json" })
  response.write("{\"choices\":")
}

const completion = JSON.stringify({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] })

const clients = {
  fetch: FetchHttpClient.layer,
  undici: NodeHttpClient.layerUndici,
  "that of the gateway": NodeClient.layer
}

for (const [name, client] of Object.entries(clients)) {
  const layer = Provider.layer.pipe(Layer.provide(client))

  // A socket that stays open makes the awaited close never come, and the test time out.
  describe(`sockets with ${name}`, () => {
    it.live("T38 an interrupted call closes its socket before there are headers", () =>
      Effect.gen(function*() {
        const { arrived, closed, target } = yield* serve(never)
        const fiber = yield* Effect.forkChild((yield* openai).complete(target, { prompt: "Hello" }))
        yield* arrived
        yield* Fiber.interrupt(fiber)
        yield* closed
        assert.isTrue((yield* arrived).socket.destroyed)
      }).pipe(Effect.provide(layer)))

    it.live("T38 an interrupted call closes its socket in the middle of the body", () =>
      Effect.gen(function*() {
        const { arrived, closed, target } = yield* serve(halfBody)
        const fiber = yield* Effect.forkChild((yield* openai).complete(target, { prompt: "Hello" }))
        yield* arrived
        yield* turns
        yield* Fiber.interrupt(fiber)
        yield* closed
        assert.isTrue((yield* arrived).socket.destroyed)
      }).pipe(Effect.provide(layer)))

    it.live("T38 an interrupted stream closes its socket before there are headers", () =>
      Effect.gen(function*() {
        const { arrived, closed, target } = yield* serve(never)
        const fiber = yield* Effect.forkChild(
          Stream.runDrain((yield* openai).stream(target, { prompt: "Hello" }))
        )
        yield* arrived
        yield* Fiber.interrupt(fiber)
        yield* closed
        assert.isTrue((yield* arrived).socket.destroyed)
      }).pipe(Effect.provide(layer)))

    it.live("T38 an interrupted stream closes its socket in the middle of the body", () =>
      Effect.gen(function*() {
        const { arrived, closed, target } = yield* serve(half)
        const content = yield* Deferred.make<void>()
        const parts = (yield* openai).stream(target, { prompt: "Hello" })
        const fiber = yield* Effect.forkChild(
          Stream.runForEach(parts, (part) =>
            part.type === "text-delta" ? Deferred.succeed(content, undefined) : Effect.void)
        )
        yield* Deferred.await(content)
        assert.isFalse((yield* arrived).socket.destroyed)
        yield* Fiber.interrupt(fiber)
        yield* closed
        assert.isTrue((yield* arrived).socket.destroyed)
      }).pipe(Effect.provide(layer)))

    for (const [kind, handle] of Object.entries({ events: half, "a whole reply": halfBody })) {
      it.live(`T38 a stream of ${kind} that is left after its first part closes its socket`, () =>
        Effect.gen(function*() {
          const { arrived, closed, target } = yield* serve(handle)
          const parts = (yield* openai).stream(target, { prompt: "Hello" })
          const [head] = yield* Stream.runCollect(Stream.take(parts, 1))
          assert.strictEqual(head?.type, "response-metadata")
          yield* closed
          assert.isTrue((yield* arrived).socket.destroyed)
        }).pipe(Effect.provide(layer)))
    }

    it.live("finished calls and streams leave their connection to the next ones", () =>
      Effect.gen(function*() {
        const { connections, target } = yield* serve((request, response) => {
          if (request.headers.accept === "text/event-stream") {
            half(request, response)
            response.write(chunk({}, "stop") + data("[DONE]"))
            // The end of the body is a packet of its own.
            setImmediate(() => setImmediate(() => response.end()))
          } else {
            response.writeHead(200, { "content-type": "application/json" })
            response.end(completion)
          }
        })
        const adapter = yield* openai
        for (let round = 0; round < 5; round++) {
          yield* adapter.complete(target, { prompt: "Hello" })
          yield* Stream.runDrain(adapter.stream(target, { prompt: "Hello" }))
        }
        // A call that follows at once may find the connection not yet free and open a second one.
        assert.isAtMost(connections(), 2)
      }).pipe(Effect.provide(layer)))

    it.live("a stream ends soon after [DONE] although the server keeps the connection open", () =>
      Effect.gen(function*() {
        const { closed, target } = yield* serve((request, response) => {
          half(request, response)
          response.write(chunk({}, "stop") + data("[DONE]"))
        })
        const parts = yield* Stream.runCollect((yield* openai).stream(target, { prompt: "Hello" }))
        assert.strictEqual(parts.at(-1)?.type, "finish")
        yield* closed
      }).pipe(Effect.provide(layer)))

    it.live("no trace header and no cookie goes to a provider, and no span is opened for it", () =>
      Effect.gen(function*() {
        const spans: Array<string> = []
        const tracer = Tracer.make({
          span: (options) => {
            spans.push(options.name)
            return new Tracer.NativeSpan(options)
          }
        })
        const { arrived, target } = yield* serve((_, response) => {
          response.writeHead(200, { "content-type": "application/json", "set-cookie": "id=1" })
          response.end(completion)
        })
        const adapter = yield* openai
        const call = Effect.andThen(
          adapter.complete(target, { prompt: "Hello" }),
          Effect.exit(Stream.runDrain(adapter.stream(target, { prompt: "Hello" })))
        ).pipe(Effect.withSpan("parent"), Effect.withTracer(tracer))
        yield* call
        assert.deepStrictEqual(spans, ["parent"])
        const { headers } = yield* arrived
        for (const header of ["traceparent", "tracestate", "b3", "x-b3-traceid", "cookie", "baggage"]) {
          assert.notProperty(headers, header)
        }
        assert.strictEqual(headers.authorization, `Bearer ${canary}`)
      }).pipe(Effect.provide(layer)))

    it.live("a connection that breaks is a network error, and T40 holds nothing of the key", () =>
      Effect.gen(function*() {
        const { target } = yield* serve((_, response) => response.socket?.destroy())
        const adapter = yield* openai
        for (
          const run of [
            Effect.asVoid(adapter.complete(target, { prompt: "Hello" })),
            Stream.runDrain(adapter.stream(target, { prompt: "Hello" }))
          ]
        ) {
          const error = yield* Effect.flip(run)
          assert.strictEqual(error._tag, "TransientNetworkError")
          assert.strictEqual(error.target, target.id)
          assert.notInclude(JSON.stringify(error) + String(error.stack) + String(error.cause), canary)
        }
      }).pipe(Effect.provide(layer)))

    it.live("T35 a body that breaks after content is a network error that may have been billed", () =>
      Effect.gen(function*() {
        const { target } = yield* serve((request, response) => {
          half(request, response)
          setImmediate(() => response.socket?.destroy())
        })
        const error = yield* Effect.flip(Stream.runDrain((yield* openai).stream(target, { prompt: "Hello" })))
        assert.strictEqual(error._tag, "TransientNetworkError")
        assert.isTrue(error.maybeBilled)
      }).pipe(Effect.provide(layer)))
  })
}
