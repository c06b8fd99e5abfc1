/**
 * Runs traffic against providers that are described, through the real policies, in virtual time.
 *
 * A scenario says which calls arrive, how the providers really are (quotas of every dimension, latencies, errors,
 * outages, what they claim) and which policies handle the calls. Nothing of a policy is modelled: routers, limits,
 * circuits and wire formats are those of production; only the clock, the chance and the network are not. A day of 50 000
 * calls takes seconds, and the same scenario and seed make the same report, byte for byte.
 *
 * **Details**
 *
 * A policy is a part of a gateway's configuration (`models`, and `providers` where their addresses and keys matter), so
 * what was tried here can be served, and what is served can be tried here. `run` also takes a layer of yours.
 *
 * All calls are drawn before anything runs: every policy meets the same ones. `goodput` compares what was answered with
 * what somebody could have answered who knows all quotas and outages, sends nothing that is refused, and takes calls in
 * the order in which they arrive. A policy that prefers small calls can answer more of them, and fewer tokens.
 *
 * Input tokens are characters ÷ 4, at the providers and in the estimates. An answer has the tokens that the traffic says,
 * or as many as the call allows.
 *
 * **Gotchas**
 *
 * A layer of your own must not wait for anything but the clock once it is built: a socket or a promise would never be
 * waited for. Its targets are reached at the public addresses of their providers, and `keys` of a simulated provider are
 * secrets and names alike.
 *
 * **Example** (What a quota that is half of what was believed does)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Simulation from "breakwater/testing/Simulation"
 *
 * const program = Effect.gen(function*() {
 *   const scenario = yield* Simulation.decode({
 *     duration: "10 minutes",
 *     warmUp: "2 minutes",
 *     traffic: [{ name: "users", calls: 2, per: "1 second", input: 50, output: 100, deadline: "1 minute" }],
 *     providers: {
 *       groq: {
 *         limits: { requests: { limit: 60, per: "1 minute" } },
 *         latency: { firstToken: { median: "300 millis", p95: "900 millis" }, perToken: "3 millis" }
 *       }
 *     },
 *     policies: {
 *       believed: {
 *         models: {
 *           chat: {
 *             targets: [{
 *               provider: "groq",
 *               model: "llama-3.3-70b",
 *               limits: { requests: { limit: 120, per: "1 minute" } }
 *             }]
 *           }
 *         }
 *       }
 *     }
 *   })
 *   const report = yield* Simulation.run(scenario, { seed: 1 })
 *   return [report.calls.offered > 900, (report.goodput.answersShare ?? 0) > 0.95, (report.refusedShare ?? 1) < 0.1]
 * })
 *
 * await Effect.runPromise(program) // => [true, true, true]
 * ```
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Config from "../internal/gateway/config.ts"
import type * as Reports from "../internal/simulation/report.ts"
import * as Runs from "../internal/simulation/run.ts"
import * as Scenarios from "../internal/simulation/scenario.ts"
import { type Encoded, File } from "../internal/simulation/schema.ts"
import type { LLMService } from "../LLMService.ts"
import type { Router } from "../Router.ts"

/**
 * A scenario as a file has it: what `decode` takes, for type checks.
 *
 * @category models
 * @since 0.1.0
 */
export type ScenarioFile = Encoded

export type {
  /**
   * A scenario that was checked, as `decode` returns it.
   *
   * @category models
   * @since 0.1.0
   */
  Scenario
} from "../internal/simulation/scenario.ts"

export type { Group, OutageReport, ProviderReport, Report, Times } from "../internal/simulation/report.ts"

/**
 * Error for a scenario or a policy that makes no sense; `problems` names every field and what is wrong with it.
 *
 * @category errors
 * @since 0.1.0
 */
export class ScenarioError extends Schema.TaggedError<ScenarioError>()("ScenarioError", {
  problems: Schema.NonEmptyArray(Schema.Struct({
    /** Path of the field, such as `providers.groq.limits.requests.per`; empty for the scenario itself. */
    path: Schema.String,
    message: Schema.String
  }))
}) {
  override get message(): string {
    return this.problems.map(({ message, path }) => path === "" ? message : `${path}: ${message}`).join("\n")
  }
}

/**
 * Checks a scenario; fails with all that is wrong.
 *
 * @category constructors
 * @since 0.1.0
 */
export const decode = (json: unknown): Effect.Effect<Scenarios.Scenario, ScenarioError> =>
  fromResult(Scenarios.decode(json))

const fromResult = <A>(
  result: Result.Result<A, ScenarioError["problems"]>
): Effect.Effect<A, ScenarioError> =>
  Result.isSuccess(result)
    ? Effect.succeed(result.success)
    : Effect.fail(new ScenarioError({ problems: result.failure }))

/**
 * Returns the JSON Schema of a scenario, for editors.
 *
 * @category models
 * @since 0.1.0
 */
export const jsonSchema = (): unknown => {
  const { definitions, schema } = Schema.toJsonSchemaDocument(File)
  return { $schema: "https://json-schema.org/draft/2020-12/schema", ...schema, $defs: definitions }
}

/**
 * A policy that a scenario can be run with: the name of one of its own, a gateway's configuration, or a layer.
 *
 * @category models
 * @since 0.1.0
 */
export type Policy<E = never> =
  | string
  | { readonly name: string; readonly config: unknown }
  | { readonly name: string; readonly layer: Layer.Layer<LLMService | Router, E, HttpClient.HttpClient> }

/**
 * Options of `run`.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options<E = never> {
  /**
   * Seed of everything that happens by chance.
   *
   * @default 1
   */
  readonly seed?: string | number | undefined
  /**
   * What handles the calls.
   *
   * @default the first policy of the scenario
   */
  readonly policy?: Policy<E> | undefined
  /** Is told now and then which share of the time has been simulated. */
  readonly onProgress?: ((share: number) => Effect.Effect<void>) | undefined
}

/**
 * Simulates a scenario and reports what became of its calls.
 *
 * **Details**
 *
 * It brings its own clock and chance, so it does the same under any, `TestClock` included. Interrupting it ends all that
 * it simulates.
 *
 * @category constructors
 * @since 0.1.0
 */
export const run = <E = never>(
  scenario: Scenarios.Scenario,
  options: Options<E> = {}
): Effect.Effect<Reports.Report, ScenarioError | E> =>
  Effect.flatMap(
    policyOf(scenario, options.policy),
    (policy) => Runs.run(scenario, { seed: options.seed ?? 1, policy, onProgress: options.onProgress })
  )

/**
 * Checks that a scenario can be run with a policy; fails with all that is wrong.
 *
 * @category constructors
 * @since 0.1.0
 */
export const check = <E>(scenario: Scenarios.Scenario, policy: Policy<E>): Effect.Effect<void, ScenarioError> =>
  Effect.asVoid(policyOf(scenario, policy))

const policyOf = <E>(
  scenario: Scenarios.Scenario,
  policy: Policy<E> | undefined
): Effect.Effect<Runs.Options<E>["policy"], ScenarioError> => {
  if (policy === undefined || typeof policy === "string") {
    const names = [...scenario.policies.keys()]
    const name = policy ?? names[0]
    const plan: Config.Plan | undefined = name === undefined ? undefined : scenario.policies.get(name)
    if (name !== undefined && plan !== undefined) return Effect.succeed({ name, plan })
    const message = names.length === 0
      ? "has no policy: name one, or run it with a policy of your own"
      : `there is no policy ${String(name)}: there are ${names.join(", ")}`
    return Effect.fail(new ScenarioError({ problems: [{ path: "policies", message }] }))
  }
  if ("layer" in policy) return Effect.succeed(policy)
  return Effect.map(
    fromResult(Scenarios.decodePolicy(policy.config, scenario)),
    (plan) => ({ name: policy.name, plan })
  )
}

/**
 * Provides the simulated providers as an `HttpClient`, for programs and tests that bring calls of their own.
 *
 * **When to use**
 *
 * Use below `Resilience.layer`, to have a program of yours meet quotas, faults and outages under `TestClock`.
 *
 * **Details**
 *
 * The providers begin when the layer is built; their time is that of the `Clock` then. They are reached at the public
 * addresses of providers of their names.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerHttpClient = (
  scenario: Scenarios.Scenario,
  options: { readonly seed?: string | number | undefined } = {}
): Layer.Layer<HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Runs.network(
      scenario.providers,
      new Map(scenario.providers.map((provider) => [provider.name, Scenarios.deskSettings(provider, [])])),
      options.seed ?? 1,
      () => ({ arrived: () => {}, left: () => {} })
    )
  )
