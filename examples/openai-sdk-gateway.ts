/**
 * The OpenAI SDK through the gateway: nothing of it changes but its base URL. One virtual model, two vendors behind it.
 *
 * Run it with `node examples/openai-sdk-gateway.ts`. Both vendors are servers on loopback, so it needs no keys; with real
 * ones, leave out each `baseUrl`, and put `"${OPENAI_API_KEY}"` and `"${ANTHROPIC_API_KEY}"` in. The same configuration
 * as a JSON file is served by `breakwater gateway --config gateway.json --port 4141`, for clients in any language.
 */
import { NodeHttpClient, NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import * as Gateway from "breakwater/server/Gateway"
import * as ProviderServer from "breakwater/testing/ProviderServer"
import { Console, Effect, Layer, References } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import * as Http from "node:http"
import OpenAI, { NotFoundError } from "openai"

type Vendor = ProviderServer.ProviderServer["Service"]

const configuration = (openai: Vendor, anthropic: Vendor) => ({
  providers: {
    openai: { baseUrl: openai.url, key: "sk-openai" },
    anthropic: { baseUrl: anthropic.url, key: "sk-anthropic" }
  },
  models: {
    assistant: {
      targets: ["openai/gpt-4o-mini", "anthropic/claude-3-5-haiku-20241022"],
      retry: { retries: 0 }
    }
  }
})

/** A gateway in a server of your own, on a free port. */
const serve = (config: Gateway.Config) =>
  HttpRouter.serve(Gateway.routes, { disableListenLog: true, disableLogger: true }).pipe(
    Layer.provide(Gateway.layer(config)),
    Layer.provideMerge(NodeHttpServer.layer(() => Http.createServer(), { port: 0, host: "127.0.0.1" })),
    Layer.provide(NodeHttpClient.layerUndici)
  )

const program = Effect.fnUntraced(function*(openai: Vendor) {
  const { address } = yield* HttpServer.HttpServer
  const port = address._tag === "UnixPathAddress" ? 0 : address.port
  const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: "none is needed here" })
  const ask = (content: string) => ({ model: "assistant", messages: [{ role: "user" as const, content }] })

  const answer = yield* Effect.promise(() =>
    client.chat.completions.create(ask("Why do harbours have breakwaters?")).withResponse()
  )
  yield* Console.log(`${answer.data.model}: ${answer.data.choices[0]?.message.content}`)
  yield* Console.log(`  from ${answer.response.headers.get("x-breakwater-target")}`)

  // OpenAI is gone for a while. The SDK asks once, and does not notice.
  yield* openai.outage(ProviderServer.Fault.Status({ status: 503 }))
  const streamed = yield* Effect.promise(async () => {
    const stream = await client.chat.completions.create({ ...ask("And lighthouses?"), stream: true })
    let model = ""
    let text = ""
    for await (const chunk of stream) {
      model = chunk.model
      text += chunk.choices[0]?.delta.content ?? ""
    }
    return `${model}: ${text}`
  })
  yield* Console.log(streamed)

  // What nobody can answer is the error that the SDK has for it.
  const error = yield* Effect.flip(
    Effect.tryPromise({
      try: () => client.chat.completions.create({ ...ask("Who are you?"), model: "nobody" }),
      catch: (error) => error
    })
  )
  yield* Console.log(error instanceof NotFoundError ? `${error.status} ${error.code}` : String(error))
})

const main = Effect.gen(function*() {
  const openai = yield* ProviderServer.make({ format: "openai", reply: "To keep the waves out." })
  const anthropic = yield* ProviderServer.make({ format: "anthropic", reply: "To show the way in." })
  const config = yield* Gateway.decode(configuration(openai, anthropic))
  yield* Effect.provide(program(openai), serve(config))
})

NodeRuntime.runMain(Effect.scoped(main).pipe(Effect.provideService(References.MinimumLogLevel, "None")))
