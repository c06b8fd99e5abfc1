import autocannon from "autocannon"
import { Effect, type Scope } from "effect"
import * as Children from "../../support/Children.ts"
import * as RawHttp from "../../support/RawHttp.ts"
import * as Harness from "../harness.ts"

const model = "gpt-4o-mini"
const text = "Breakwaters keep the waves out, so that ships lie still behind them. "

const question = (stream: boolean) =>
  JSON.stringify({
    model,
    messages: [{ role: "system", content: text.repeat(8) }, { role: "user", content: text }],
    max_tokens: 200,
    ...(stream ? { stream, stream_options: { include_usage: true } } : {})
  })

const usage = { prompt_tokens: 150, completion_tokens: 100, total_tokens: 250 }
const head = { id: "chatcmpl-bench", created: 1_700_000_000, model }

const completion = RawHttp.whole(JSON.stringify({
  ...head,
  object: "chat.completion",
  choices: [{
    index: 0,
    message: { role: "assistant", content: text.repeat(6) },
    finish_reason: "stop",
    logprobs: null
  }],
  usage
}))

const chunks = 100

const chunk = (delta: object, finish: string | null = null) =>
  JSON.stringify({ ...head, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }] })

const stream = RawHttp.events([
  chunk({ role: "assistant", content: "" }),
  ...Array.from({ length: chunks }, () => chunk({ content: "wave " })),
  chunk({}, "stop"),
  JSON.stringify({ ...head, object: "chat.completion.chunk", choices: [], usage }),
  "[DONE]"
])

const isStream = Buffer.from("\"stream\":true")

/** The two gateways, each in a process of its own, before one server in this one. */
const rig = Effect.gen(function*() {
  const upstream = yield* RawHttp.serve((request) => request.includes(isStream) ? stream : completion)
  const breakwater = yield* Children.breakwater({
    providers: { openai: { baseUrl: `http://127.0.0.1:${upstream}/v1`, key: "sk-bench" } },
    models: { [model]: { targets: [`openai/${model}`] } }
  })
  const portkey = yield* Children.portkey
  const headers = {
    "x-portkey-provider": "openai",
    "x-portkey-custom-host": `http://127.0.0.1:${upstream}/v1`
  }
  return [
    { name: "direct", port: upstream, headers: {} },
    { name: "breakwater", port: breakwater.port, headers: {} },
    { name: "Portkey", port: portkey.port, headers }
  ]
})

type Details = Omit<Harness.Subject, "name" | "run" | "operations">

type Server = Effect.Success<typeof rig>[number]

/** Asks so many times, over all connections, each with one request after the other. */
type Load = (requests: number) => Promise<void> | Promise<number>

const path = "/v1/chat/completions"

/** Connections that stay open, and cost next to nothing beside a gateway. */
const bare = ({ headers, port }: Server, options: { readonly connections: number; readonly stream: boolean }) =>
  Effect.map(
    Effect.replicateEffect(
      RawHttp.connect(port, { path, headers, body: question(options.stream) }),
      options.connections
    ),
    (open): Load => async (requests) => {
      await Promise.all(open.map(async ({ exchange }) => {
        for (let left = requests / open.length; left > 0; left--) await exchange()
      }))
    }
  )

/** One connection, at the pace of its median: the mean of a machine that others use says more about the others. */
const single = ({ headers, port }: Server) =>
  Effect.map(
    RawHttp.connect(port, { path, headers, body: question(false) }),
    ({ exchange }): Load => async (requests) => {
      const taken: Array<number> = []
      for (let left = requests; left > 0; left--) {
        const start = Harness.wall()
        await exchange()
        taken.push(Harness.wall() - start)
      }
      return requests * Harness.quantile(taken, 0.5)
    }
  )

/** Connections of autocannon, opened anew for each sample; it is over when the last answer is there. */
const cannon = ({ headers, port }: Server, connections: number): Load => async (amount) => {
  const run = autocannon({
    url: `http://127.0.0.1:${port}${path}`,
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-bench", ...headers },
    body: question(false),
    connections,
    amount,
    sampleInt: 10
  })
  await new Promise<void>((resolve, reject) => {
    let left = amount
    run.on("reqError", reject)
    run.on("response", (_, status) => {
      if (status !== 200) reject(new Error(`the server at port ${port} answers ${status}`))
      else if (--left === 0) resolve()
    })
  })
}

const group = (options: {
  readonly name: string
  readonly note: string
  readonly connections: number
  readonly load: (server: Server) => Effect.Effect<Load, never, Scope.Scope>
  readonly details: Readonly<Record<string, Details>>
}): Harness.Group => ({
  name: options.name,
  note: options.note,
  clock: "wall",
  subjects: Effect.gen(function*() {
    const { connections, details, load } = options
    // So many that the beginning and the end of a sample, when not all connections are busy, count for little.
    const burst = connections === 1 ? 1 : 16
    const operations = connections * burst
    const subjects: Array<Harness.Subject> = []
    for (const server of yield* rig) {
      const { name } = server
      if (details[name] === undefined) continue
      const ask = yield* load(server)
      subjects.push({
        ...details[name],
        name,
        operations,
        // Until the compiler of the other process has done its work.
        warmUps: name === "direct" ? 1 : 25,
        run: (times) => ask(times * operations)
      })
    }
    return subjects
  })
})

const note = "client and provider on bare sockets in this process, each gateway in one of its own; direct: without any"

export const groups: ReadonlyArray<Harness.Group> = [
  group({
    name: "gateway, a whole answer, 1 connection",
    note: `p50: what half of the requests of a sample do not exceed; ${note}`,
    connections: 1,
    load: single,
    details: {
      direct: {},
      breakwater: { over: "direct", peers: ["Portkey"], budgets: [Harness.micros(500)] },
      Portkey: { over: "direct" }
    }
  }),
  group({
    name: "gateway, whole answers, 64 connections",
    note:
      "microseconds between two answers, so a third of the time is three times the throughput; autocannon and the " +
      "provider in this process, each gateway in one of its own",
    connections: 64,
    load: (server) => Effect.succeed(cannon(server, 64)),
    details: {
      direct: {},
      breakwater: { peers: ["Portkey"], budgets: [Harness.ratio("Portkey", 0.333)] },
      Portkey: {}
    }
  }),
  group({
    name: `gateway, streams of ${chunks} chunks, 64 connections`,
    note:
      "microseconds between the ends of two streams, whose chunks the provider sends at once; Portkey 1.15.2 answers 500",
    connections: 64,
    load: (server) => bare(server, { connections: 64, stream: true }),
    details: { direct: {}, breakwater: {} }
  })
]
