/**
 * The routers of a configuration over services that outlive it.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as CircuitBreaker from "../../CircuitBreaker.ts"
import * as Cooldown from "../../Cooldown.ts"
import * as Health from "../../Health.ts"
import * as Hedging from "../../Hedging.ts"
import type { LLMService } from "../../LLMService.ts"
import { type Adapter, Provider } from "../../Provider.ts"
import * as Anthropic from "../../providers/Anthropic.ts"
import * as AzureOpenAi from "../../providers/AzureOpenAi.ts"
import * as OpenAiCompatible from "../../providers/OpenAiCompatible.ts"
import * as RateLimiter from "../../RateLimiter.ts"
import * as RetryBudget from "../../RetryBudget.ts"
import * as Router from "../../Router.ts"
import * as Target from "../../Target.ts"
import type * as Usage from "../../Usage.ts"
import * as Config from "./config.ts"
import * as Extras from "./extras.ts"
import type { Format } from "./schema.ts"

type Kept = Cooldown.Cooldown | RateLimiter.RateLimiter | Usage.Usage | Health.Health | RetryBudget.RetryBudget

/** What outlives a configuration: all that was learned about targets. */
export interface State {
  readonly client: HttpClient.HttpClient
  readonly kept: Context.Context<Kept>
  /** Breakers and hedgings by what they were configured with: the same words find the same circuits again. */
  readonly breakers: Map<string, CircuitBreaker.CircuitBreaker["Service"]>
  readonly hedgings: Map<string, Hedging.Hedging["Service"]>
  readonly scope: Scope.Scope
}

export const makeState: (
  usage: Layer.Layer<Usage.Usage>
) => Effect.Effect<State, never, HttpClient.HttpClient | Scope.Scope> = Effect.fnUntraced(function*(usage) {
  const client = yield* HttpClient.HttpClient
  const scope = yield* Effect.scope
  const kept = yield* Layer.build(Layer.mergeAll(
    Cooldown.layerMemory,
    RateLimiter.layerMemory({ transit: RateLimiter.defaultTransit }),
    usage,
    Health.layerMemory(),
    RetryBudget.layerMemory()
  ))
  return { client, kept, breakers: new Map(), hedgings: new Map(), scope }
})

/** A virtual model that can be asked. */
export interface Model {
  readonly name: string
  readonly plan: Config.Model
  readonly service: LLMService["Service"]
  /** For each target, the keys under which it may be cooling. */
  readonly scopeKeys: ReadonlyArray<ReadonlyArray<string>>
  /** The router of embeddings: `undefined` where no target has any. */
  readonly embeddings: Router.Router["Service"] | undefined
}

/** Builds the routers of a configuration. */
export const build = Effect.fnUntraced(function*(state: State, plan: Config.Plan) {
  const provider = Provider.of({
    adapter: adaptersOf(state.client, plan.formats),
    names: Array.from(plan.formats.keys())
  })
  const models = new Map<string, Model>()
  for (const [name, model] of plan.models) {
    const context = Context.add(
      Context.add(yield* policies(state, model), Provider, provider),
      CircuitBreaker.CircuitBreaker,
      yield* breakerOf(state, model)
    )
    const { router, service } = yield* Effect.provideContext(Router.make(model.options), context)
    const { targets } = model.options
    const able = targets.filter((target) => plan.formats.get(target.provider) !== "anthropic")
    const embeddings = able.length === 0
      ? undefined
      : able.length === targets.length
      ? router
      : (yield* Effect.provideContext(Router.make({ ...model.options, targets: able }), context)).router
    models.set(name, { name, plan: model, service, scopeKeys: targets.map(Target.scopeKeys), embeddings })
  }
  return models
})

const policies = Effect.fnUntraced(function*(state: State, { hedge }: Config.Model) {
  if (hedge === undefined) return state.kept
  const known = state.hedgings.get(hedge.name)
  if (known !== undefined) return Context.add(state.kept, Hedging.Hedging, known)
  const built = yield* Scope.provide(Layer.build(Hedging.layerMemory(hedge.options)), state.scope)
  state.hedgings.set(hedge.name, Context.get(built, Hedging.Hedging))
  return Context.merge(state.kept, built)
})

const breakerOf = Effect.fnUntraced(function*(state: State, { circuit }: Config.Model) {
  const known = state.breakers.get(circuit.name)
  if (known !== undefined) return known
  const made = yield* circuit.make
  state.breakers.set(circuit.name, made)
  return made
})

const adaptersOf = (
  client: HttpClient.HttpClient,
  formats: ReadonlyMap<string, Format>
): (provider: string) => Adapter | undefined => {
  const adapters = new Map<string, Adapter>()
  for (const [name, spoken] of formats) adapters.set(name, adapterOf(client, spoken))
  return (provider) => adapters.get(provider)
}

const adapterOf = (client: HttpClient.HttpClient, spoken: Format): Adapter => {
  switch (spoken) {
    case "anthropic":
      return Extras.sending(Anthropic.fromClient(client), "anthropic")
    case "azure":
      return Extras.sending(AzureOpenAi.fromClient(client), "openai")
    case "generic":
      return Extras.sending(OpenAiCompatible.fromClient(client, OpenAiCompatible.generic), "openai")
    default:
      return Extras.sending(OpenAiCompatible.fromClient(client, Config.presetOf(spoken)), "openai")
  }
}
