/**
 * A gateway on loopback in front of test providers, and a plain HTTP client that believes nothing.
 */
import { NodeHttpServer } from "@effect/platform-node"
import * as Gateway from "breakwater/server/Gateway"
import type * as ProviderServer from "breakwater/testing/ProviderServer"
import { ConfigProvider, Effect, Layer, References, Scope } from "effect"
import { HttpRouter } from "effect/http"
import * as Http from "node:http"
import * as NodeClient from "../../src/internal/wire/nodeClient.ts"

export type Server = ProviderServer.ProviderServer["Service"]

/** The secret of every target, which no answer may hold. */
export const canary = "sk-canary-0123456789abcdef"

export const environment = (variables: Record<string, string>) =>
  Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(variables))

export const decode = (config: unknown, variables: Record<string, string> = { KEY: canary }) =>
  Gateway.decode(config).pipe(environment(variables))

/** Serves a configuration on a free port, as long as the scope lives. */
export const serve = Effect.fnUntraced(function*(config: unknown) {
  const gateway = yield* Gateway.make(yield* decode(config))
  const node = Http.createServer({ requestTimeout: 0 })
  let sockets = 0
  node.on("connection", (socket) => {
    sockets++
    socket.on("close", () => sockets--)
  })
  const server = yield* NodeHttpServer.make(() => node, { port: 0, host: "127.0.0.1", gracefulShutdownTimeout: 50 })
  yield* Effect.addFinalizer(() => Effect.sync(() => node.closeAllConnections()))
  const app = yield* HttpRouter.toHttpEffect(
    Gateway.routes.pipe(Layer.provide(Layer.succeed(Gateway.Gateway, gateway)))
  )
  yield* server.serve(app)
  const port = server.address._tag === "UnixPathAddress" ? 0 : server.address.port
  return { gateway, port, sockets: () => sockets }
}, (effect) =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const client = yield* Layer.build(NodeClient.layer)
    return yield* effect.pipe(Scope.provide(scope), Effect.provideContext(client))
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))

/** Targets at servers, as a configuration names them. */
export const providers = (servers: Readonly<Record<string, Server>>) =>
  Object.fromEntries(
    Object.entries(servers).map(([name, server]) => [name, { baseUrl: server.url, key: "${KEY}" }])
  )

/** Waits that a test can wait for. */
export const quick = {
  retry: { retries: 1, base: "2 millis", max: "10 millis" },
  timeouts: {
    total: "5 seconds",
    attempt: "400 millis",
    connect: "400 millis",
    firstToken: "400 millis",
    idle: "300 millis"
  }
}

/** Whatever was parsed: tests look into it as they like. */
export type Json = ReturnType<typeof JSON.parse>

export interface Reply {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
  /** Whether the connection was cut before the body had ended. */
  readonly cut: boolean
  readonly json: Json
  readonly tookMs: number
}

export interface Asking {
  readonly path?: string
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly raw?: string
}

const agent = new Http.Agent({ keepAlive: false })

/** Sends one request and reads whatever comes, to its end or its cut. */
export const ask = (port: number, body: unknown, options: Asking = {}) =>
  Effect.callback<Reply>((resume) => {
    const startedAt = performance.now()
    const method = options.method ?? "POST"
    const request = Http.request({
      port,
      host: "127.0.0.1",
      agent,
      path: options.path ?? "/v1/chat/completions",
      method,
      headers: { "content-type": "application/json", ...options.headers }
    }, (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (chunk) => text += chunk)
      const done = (cut: boolean) => () => {
        let json: unknown
        try {
          json = JSON.parse(text)
        } catch {
          json = undefined
        }
        resume(Effect.succeed({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: text,
          cut,
          json,
          tookMs: performance.now() - startedAt
        }))
      }
      response.on("end", done(false))
      response.on("error", done(true))
      response.on("aborted", done(true))
    })
    request.on("error", (error) =>
      resume(Effect.succeed({
        status: 0,
        headers: {},
        body: String(error),
        cut: true,
        json: undefined,
        tookMs: performance.now() - startedAt
      })))
    if (method === "GET") request.end()
    else request.end(options.raw ?? JSON.stringify(body))
    return Effect.sync(() => request.destroy())
  })

export const get = (port: number, path: string, headers: Readonly<Record<string, string>> = {}) =>
  ask(port, undefined, { path, method: "GET", headers })

/** Opens a stream and gives its socket away: what the client does next is the test's business. */
export const open = (port: number, body: unknown, options: Asking = {}) =>
  Effect.callback<{ readonly response: Http.IncomingMessage; readonly destroy: () => void }>((resume) => {
    const request = Http.request({
      port,
      host: "127.0.0.1",
      agent,
      path: options.path ?? "/v1/chat/completions",
      method: "POST",
      headers: { "content-type": "application/json", ...options.headers }
    }, (response) => resume(Effect.succeed({ response, destroy: () => request.destroy() })))
    request.on("error", () => {})
    request.end(JSON.stringify(body))
  })

/** The events of a stream: their name and what they hold. */
export const events = (body: string): ReadonlyArray<{ readonly event: string | undefined; readonly data: Json }> =>
  body.split("\n\n").flatMap((block) => {
    const lines = block.split("\n")
    const data = lines.find((line) => line.startsWith("data: "))?.slice(6)
    if (data === undefined) return []
    return [{
      event: lines.find((line) => line.startsWith("event: "))?.slice(7),
      data: data === "[DONE]" ? data : JSON.parse(data)
    }]
  })

/** What a client of OpenAI would take a stream for. */
export const openAiStream = (body: string) => {
  const all = events(body)
  const choices = all.flatMap((_) => _.data?.choices ?? [])
  return {
    text: choices.map((_: Json) => _.delta?.content ?? "").join(""),
    reason: choices.map((_: Json) => _.finish_reason).findLast((_: unknown) => typeof _ === "string"),
    done: all.some((_) => _.data === "[DONE]"),
    error: all.find((_) => _.data?.error !== undefined)?.data.error,
    usage: all.findLast((_) => _.data?.usage != null)?.data.usage,
    model: all.find((_) => _.data?.model !== undefined)?.data.model
  }
}

/** What a client of Anthropic would take a stream for. */
export const anthropicStream = (body: string) => {
  const all = events(body)
  return {
    names: all.map((_) => _.event),
    text: all.map((_) => _.data?.delta?.text ?? "").join(""),
    reason: all.find((_) => _.event === "message_delta")?.data.delta.stop_reason,
    done: all.some((_) => _.event === "message_stop"),
    error: all.find((_) => _.event === "error")?.data.error,
    usage: all.find((_) => _.event === "message_delta")?.data.usage,
    model: all.find((_) => _.event === "message_start")?.data.message.model
  }
}
