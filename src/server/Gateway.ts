/**
 * Serves virtual models over HTTP, in the formats of OpenAI and Anthropic, with everything the library does behind it.
 *
 * A virtual model is a name that clients give as `model`; behind it is a router with its targets, strategy, limits and
 * policies. Clients keep their SDK and change its base URL. The state of all models (cooldowns, circuits, limits, health,
 * the retry budget) lives in the gateway and survives a new configuration; a router is built anew.
 *
 * **Details**
 *
 * `routes` adds to a router of yours: `POST /v1/chat/completions`, `POST /v1/embeddings`, `GET /v1/models` and
 * `POST /v1/messages`, each whole or as events, and `GET /breakwater/health` and `GET /breakwater/status`. What is in the
 * format of OpenAI is under `/openai/v1` too, where Groq's SDK looks for it.
 *
 * A failure has the status and the shape that clients of the format expect, `retry-after` where a wait is known, and
 * `x-should-retry: false`, since what can be retried has been. Every answer names its target, the attempts and what they
 * waited in `x-breakwater-*` headers, and carries the model name and usage of the target that answered.
 *
 * A stream is opened by its first content: whatever fails before has a status of its own. When that takes longer than
 * `heartbeat`, the stream is opened with a comment, and failures are events from then on. After a failure there is never
 * a `[DONE]` or `message_stop`. A client that leaves ends the call at its provider at once, and one that stops reading is
 * cut off after `slowClient`.
 *
 * A client learns of its own mistakes as such. What is wrong with the gateway's keys at a provider is a 502, and messages
 * hold the words of providers, but none of the runtime's, which name addresses of the network.
 *
 * Fields that the format has and this library has no word for go to targets of the client's own format as they are.
 * Several choices (`n`) are as many calls side by side, each with its own failover; a stream of them ends with the first
 * error. What an answer could not hold is refused: log probabilities, audio, tools that a provider executes.
 *
 * **Gotchas**
 *
 * With `streamPolicy: "restart"` a stream begins anew only for clients that send `x-breakwater-restart: true`, because
 * neither format can tell that what was sent is void; for all others it is `fail`. Use `buffer` for callers who prefer
 * late to cut.
 *
 * **Example** (A gateway in a server of your own)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { FetchHttpClient, HttpRouter } from "effect/http"
 * import * as Gateway from "breakwater/server/Gateway"
 *
 * const config = await Effect.runPromise(Gateway.decode({
 *   providers: { ollama: {} },
 *   models: { chat: { targets: ["ollama/qwen3"] } }
 * }))
 *
 * const gateway = Gateway.layer(config).pipe(Layer.provide(FetchHttpClient.layer))
 * const { dispose, handler } = HttpRouter.toWebHandler(
 *   Gateway.routes.pipe(Layer.provide(gateway)),
 *   { disableLogger: true }
 * )
 *
 * const response = await handler(new Request("http://localhost/v1/models"))
 * const text = await response.text()
 * await dispose()
 *
 * response.status // => 200
 * text.includes("chat") // => true
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Settings from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Alarms from "../internal/alarm.ts"
import * as Anthropic from "../internal/gateway/anthropic.ts"
import * as Configs from "../internal/gateway/config.ts"
import * as Environment from "../internal/gateway/environment.ts"
import * as Keys from "../internal/gateway/keys.ts"
import * as Models from "../internal/gateway/models.ts"
import * as OpenAi from "../internal/gateway/openai.ts"
import { File } from "../internal/gateway/schema.ts"
import * as Serving from "../internal/gateway/serve.ts"
import * as Statuses from "../internal/gateway/status.ts"
import * as Visits from "../internal/gateway/visit.ts"
import * as Usage from "../Usage.ts"

/**
 * Service that holds the virtual models and handles the calls of clients.
 *
 * @category services
 * @since 0.1.0
 */
export class Gateway extends Context.Service<Gateway, {
  /** Serves another configuration from the next call on; what is in flight ends as it began. State is kept. */
  readonly reload: (config: Config) => Effect.Effect<void>
  /** What is served, what is cooling, open or limited, and how everything fares; never a secret. */
  readonly status: Effect.Effect<Status>
  /** Refuses new calls, and waits until those in flight have ended, for the configured time at most. */
  readonly drain: Effect.Effect<void>
  /** The handlers of `routes`, for a server with paths of its own. */
  readonly handlers: {
    readonly chatCompletions: Handler
    readonly embeddings: Handler
    readonly messages: Handler
    readonly models: Handler
    readonly unknown: Handler
    readonly health: Handler
    readonly statusPage: Handler
  }
}>()("breakwater/server/Gateway") {}

/**
 * Handles one request.
 *
 * @category models
 * @since 0.1.0
 */
export type Handler = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  never,
  HttpServerRequest.HttpServerRequest | Scope.Scope
>

/**
 * A configuration that was decoded and checked; see `decode`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Config {
  readonly plan: Configs.Plan
}

/**
 * The state of a gateway as plain data.
 *
 * @category models
 * @since 0.1.0
 */
export type Status = Statuses.Status

/**
 * What is wrong with a configuration, and where.
 *
 * @category models
 * @since 0.1.0
 */
export const Problem = Schema.Struct({
  /** Path of the field, such as `models.chat.targets[0].key`; empty for the file itself. */
  path: Schema.String,
  message: Schema.String
})

/**
 * Error for a configuration that cannot be served; it lists everything that is wrong.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConfigError
  extends Schema.TaggedError<ConfigError>("breakwater/server/Gateway/ConfigError")("ConfigError", {
    problems: Schema.Array(Problem)
  })
{
  override get message(): string {
    return this.problems.map(({ message, path }) => path === "" ? message : `${path}: ${message}`).join("\n")
  }
}

/**
 * The JSON Schema of a configuration file.
 *
 * @category constants
 * @since 0.1.0
 */
export const jsonSchema = (): Readonly<Record<string, unknown>> => {
  const { definitions, schema } = Schema.toJsonSchemaDocument(File, { onExcessProperty: "error" })
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Configuration of a breakwater gateway",
    ...schema,
    $defs: definitions
  }
}

/**
 * Decodes and checks a configuration: `${NAME}` in any text becomes the variable's value, and unknown or inert fields are
 * errors.
 *
 * **Details**
 *
 * Variables are read from the `ConfigProvider`, by default the environment. `$${NAME}` stands for `${NAME}` itself.
 *
 * @category constructors
 * @since 0.1.0
 */
export const decode = (json: unknown): Effect.Effect<Config, ConfigError> =>
  Effect.flatMap(environmentOf(json), (environment) => {
    const plan = Configs.decode(json, environment)
    return Result.isSuccess(plan)
      ? Effect.succeed({ plan: plan.success })
      : Effect.fail(new ConfigError({ problems: plan.failure }))
  })

/** A variable that cannot be read is as good as none, and is named where it stands. */
const environmentOf = (json: unknown): Effect.Effect<Environment.Environment> =>
  Effect.map(
    Effect.forEach(Environment.variables(json), (name) =>
      Effect.map(
        Effect.option(Settings.String(name)),
        (value) => [name, Option.getOrUndefined(value)] as const
      )),
    (entries) => Object.fromEntries(entries)
  )

/**
 * Creates a gateway that lives as long as its scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  config: Config
) => Effect.Effect<Gateway["Service"], never, HttpClient.HttpClient | Scope.Scope> = Effect.fnUntraced(
  function*({ plan }: Config) {
    yield* Alarms.keep
    const startedAt = yield* Clock.currentTimeMillis
    const state = yield* Models.makeState(Usage.layer())
    const desk = Visits.makeDesk(state, { plan, models: yield* Models.build(state, plan) })
    const status = Statuses.status(desk, startedAt)

    const idle = Effect.callback<void>((resume) => {
      const done = (): void => resume(Effect.void)
      if (desk.inFlight === 0) return done()
      desk.idle.add(done)
      return Effect.sync(() => desk.idle.delete(done))
    })

    return Gateway.of({
      reload: ({ plan }) =>
        Effect.map(Models.build(state, plan), (models) => {
          desk.current = { plan, models }
        }),
      status,
      drain: Effect.suspend(() => {
        desk.draining = true
        return Effect.asVoid(Effect.timeoutOption(idle, desk.current.plan.settings.drainMs))
      }),
      handlers: {
        chatCompletions: Serving.completions(desk, OpenAi.face),
        embeddings: Serving.embeddings(desk, OpenAi.face),
        messages: Serving.completions(desk, Anthropic.face),
        models: Serving.models(desk, OpenAi.face, Anthropic.face),
        unknown: Serving.unknown(desk, OpenAi.face, Anthropic.face),
        health: Effect.sync(() =>
          HttpServerResponse.jsonUnsafe(
            { status: desk.draining ? "draining" : "ok", inFlight: desk.inFlight },
            { status: desk.draining ? 503 : 200 }
          )
        ),
        statusPage: Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) => {
          const { access } = desk.current.plan
          const secret = Keys.presented(headers)
          return access.length > 0 && (secret === undefined || Keys.find(access, secret) === undefined)
            ? Effect.succeed(HttpServerResponse.jsonUnsafe({ error: "the status needs a key" }, { status: 401 }))
            : Effect.map(status, (value) => HttpServerResponse.jsonUnsafe(value))
        })
      }
    })
  }
)

/**
 * Provides a gateway.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (config: Config): Layer.Layer<Gateway, never, HttpClient.HttpClient> =>
  Layer.effect(Gateway, make(config))

/**
 * Adds the routes of the gateway to an `HttpRouter`.
 *
 * **Gotchas**
 *
 * Everything else under `/v1` is answered with the 404 that clients of these formats understand.
 *
 * @category layers
 * @since 0.1.0
 */
export const routes: Layer.Layer<never, never, HttpRouter.HttpRouter | Gateway> = HttpRouter.use((router) =>
  Effect.flatMap(Gateway, ({ handlers }) =>
    router.addAll([
      // Groq's SDK puts the second one before its paths itself.
      ...(["/v1", "/openai/v1"] as const).flatMap((base) => [
        HttpRouter.route("POST", `${base}/chat/completions`, handlers.chatCompletions),
        HttpRouter.route("POST", `${base}/embeddings`, handlers.embeddings),
        HttpRouter.route("GET", `${base}/models`, handlers.models),
        HttpRouter.route("GET", `${base}/models/:model`, handlers.models),
        HttpRouter.route("*", `${base}/*`, handlers.unknown)
      ]),
      HttpRouter.route("POST", "/v1/messages", handlers.messages),
      HttpRouter.route("GET", "/breakwater/health", handlers.health),
      HttpRouter.route("GET", "/breakwater/status", handlers.statusPage)
    ]))
)
