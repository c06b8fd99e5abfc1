/**
 * Runs a scenario: the real policies, simulated providers, virtual time.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as CircuitBreaker from "../../CircuitBreaker.ts"
import * as Cooldown from "../../Cooldown.ts"
import type { Attempt, LLMError } from "../../LLMError.ts"
import { type Completion, type CompletionRequest, LLMService } from "../../LLMService.ts"
import { presets } from "../../providers/OpenAiCompatible.ts"
import { Router } from "../../Router.ts"
import { scopeKey, scopeKeys, type Target } from "../../Target.ts"
import * as Timeouts from "../../Timeouts.ts"
import * as Usage from "../../Usage.ts"
import { recordOf } from "../call/finish.ts"
import type * as Config from "../gateway/config.ts"
import * as Models from "../gateway/models.ts"
import { makeDesk, type Settings } from "../providerServer/desk.ts"
import * as Ledgers from "./ledger.ts"
import * as Machine from "./machine.ts"
import * as Network from "./network.ts"
import * as Oracle from "./oracle.ts"
import * as Reports from "./report.ts"
import { deskSettings, type Provider, type Scenario, targetsOf } from "./scenario.ts"
import type * as File from "./schema.ts"
import * as Traffic from "./traffic.ts"

/** A policy that handles calls: services by the names of models, and what can be seen of its state. */
interface Policy {
  readonly name: string
  readonly targets: ReadonlyArray<Target>
  /** What handles the calls of an entry of the traffic, where they may go, and how long they may take. */
  readonly of: (traffic: File.Traffic) => {
    readonly service: LLMService["Service"]
    readonly targets: ReadonlyArray<Target>
    readonly totalMs: number
  }
  readonly breakers: () => Iterable<CircuitBreaker.CircuitBreaker["Service"]>
  readonly cooldown: Cooldown.Cooldown["Service"] | undefined
}

/** A policy of one's own: a layer that needs nothing but the providers. */
export type Own<E> = Layer.Layer<LLMService | Router, E, HttpClient.HttpClient>

export interface Options<E> {
  readonly seed: string | number
  readonly policy: { readonly name: string; readonly plan: Config.Plan } | {
    readonly name: string
    readonly layer: Own<E>
  }
  readonly onProgress: ((share: number) => Effect.Effect<void>) | undefined
}

const defaultTotalMs = 600_000

/** How many stretches a timeline has. */
const bins = 60

/** How often the state of the targets is looked at in each of them. */
const looks = 20

/** Calls that have not ended so long after the last arrival are given up. */
const patienceMs = 3_600_000

export const run = <E>(scenario: Scenario, options: Options<E>): Effect.Effect<Reports.Report, E> => {
  const machine = Machine.make(scenario.start)
  const { onProgress } = options
  return machine.run(
    Effect.scoped(simulate(scenario, machine, options)).pipe(
      Effect.provideService(References.MinimumLogLevel, "None")
    ),
    onProgress === undefined
      ? undefined
      : (now) => onProgress(Math.min(1, (now - scenario.start) / scenario.durationMs))
  )
}

const chance = (name: string) => Random.withSeed(Effect.service(Random.Random), name)

const simulate = Effect.fnUntraced(function*<E>(
  scenario: Scenario,
  machine: Machine.Machine,
  options: Options<E>
): Effect.fn.Return<Reports.Report, E, Scope.Scope> {
  // Who the policy's targets are is known before the providers for a configuration, and after them for a layer.
  const planned = "plan" in options.policy ? targetsOf(options.policy.plan) : []
  const settings = new Map(scenario.providers.map((provider) => [provider.name, deskSettings(provider, planned)]))
  const now = (): number => machine.now() - scenario.start
  return yield* measure(scenario, options, {
    settings,
    now,
    connect: (ledger) => network(scenario.providers, settings, options.seed, ledger.observer)
  })
})

/** Where a scenario is played: who the providers are, how they are reached, and the milliseconds since the start. */
export interface World {
  readonly settings: ReadonlyMap<string, Settings>
  readonly now: () => number
  readonly connect: (ledger: Ledgers.Ledger) => Effect.Effect<HttpClient.HttpClient>
}

/** Makes the calls of a scenario in a world, and reports what became of them. */
export const measure = Effect.fnUntraced(function*<E>(
  scenario: Scenario,
  options: Options<E>,
  { connect, now, settings }: World
): Effect.fn.Return<Reports.Report, E, Scope.Scope> {
  const { durationMs, file, warmUpMs } = scenario
  const { seed } = options
  const calls = yield* Traffic.calls(file.traffic, durationMs, seed)
  const binMs = Math.ceil(durationMs / bins)
  const ledger = Ledgers.make({ calls: calls.length, warmUpMs, binMs, bins, now })
  const policy = yield* policyOf(options.policy, yield* connect(ledger)).pipe(
    Effect.provideService(Random.Random, yield* chance(`${seed}/policy`))
  )
  for (const target of policy.targets) ledger.watch(target.id)
  const watching = yield* Effect.forkChild(watch(policy, ledger, { everyMs: Math.ceil(binMs / looks), now }))
  yield* drive(scenario, calls, policy, ledger, now).pipe(
    Effect.provideService(Random.Random, yield* chance(`${seed}/calls`))
  )
  yield* Fiber.interrupt(watching)
  const handlers = file.traffic.map((traffic) => policy.of(traffic))
  const possible = Oracle.possible({
    calls,
    providers: settings,
    places: handlers.map(({ targets }) => targets.flatMap((target) => placeOf(target, settings))),
    deadlines: file.traffic.map((traffic, index) =>
      traffic.deadline === undefined
        ? handlers[index]?.totalMs ?? defaultTotalMs
        : Duration.toMillis(traffic.deadline)
    ),
    warmUpMs,
    durationMs
  })
  return Reports.make({
    policy: policy.name,
    seed,
    file,
    settings,
    durationMs,
    warmUpMs,
    binMs,
    bins,
    calls,
    ledger,
    possible
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// providers
// ---------------------------------------------------------------------------------------------------------------------

const anthropicHost = "api.anthropic.com"

/** Where a provider is reached: at its simulated address, and at its public one, for policies that know no other. */
const hostsOf = ({ host, name }: Provider): ReadonlyArray<string> => {
  const known: Readonly<Record<string, { readonly baseUrl: string | undefined }>> = presets
  const publicHost = name === "anthropic"
    ? anthropicHost
    : Object.hasOwn(known, name)
    ? URL.parse(known[name]?.baseUrl ?? "")?.host
    : undefined
  return publicHost === undefined ? [host] : [host, publicHost]
}

/** The client of the providers, which begin now. */
export const network = Effect.fnUntraced(function*(
  providers: ReadonlyArray<Provider>,
  settings: ReadonlyMap<string, Settings>,
  seed: string | number,
  observer: (provider: string) => Network.Observer
) {
  const clock = yield* Effect.service(Clock.Clock)
  const servers = new Map<string, Network.Server>()
  for (const provider of providers) {
    const own = settings.get(provider.name)
    if (own === undefined) continue
    const desk = makeDesk(own, yield* chance(`${seed}/provider/${provider.name}`), clock)
    const server = { desk, format: own.format, observer: observer(provider.name) }
    for (const host of hostsOf(provider)) servers.set(host, server)
  }
  return Network.make(servers)
})

/** What the desk of a provider calls the model and the key of a target; nothing for a key that it does not accept. */
const placeOf = (target: Target, settings: ReadonlyMap<string, Settings>): ReadonlyArray<Oracle.Place> => {
  const own = settings.get(target.provider)
  if (own === undefined) return []
  const model = own.format === "azure" ? target.deployment ?? target.model : target.model
  const key = target.key?.id ?? "none"
  const isAccepted = own.keys === undefined || Array.from(own.keys.values()).includes(key)
  return isAccepted ? [{ provider: target.provider, model, key }] : []
}

// ---------------------------------------------------------------------------------------------------------------------
// policies
// ---------------------------------------------------------------------------------------------------------------------

const policyOf = <E>(
  policy: Options<E>["policy"],
  client: HttpClient.HttpClient
): Effect.Effect<Policy, E, Scope.Scope> => "plan" in policy ? configured(policy, client) : layered(policy, client)

const configured = Effect.fnUntraced(function*(
  { name, plan }: { readonly name: string; readonly plan: Config.Plan },
  client: HttpClient.HttpClient
) {
  const state = yield* Models.makeState(Usage.layerMemory()).pipe(
    Effect.provideService(HttpClient.HttpClient, client)
  )
  const models = yield* Models.build(state, plan)
  const [first] = models.keys()
  const policy: Policy = {
    name,
    targets: targetsOf(plan),
    of: (traffic) => {
      const model = models.get(traffic.model ?? first ?? "")
      // The scenario was checked: every model that is named is there.
      if (model === undefined) throw new RangeError(`no model ${traffic.model}`)
      const { targets, timeouts } = model.plan.options
      return {
        service: model.service,
        targets,
        totalMs: timeouts?.total === undefined
          ? defaultTotalMs
          : Duration.toMillis(Duration.fromInputUnsafe(timeouts.total))
      }
    },
    breakers: () => state.breakers.values(),
    cooldown: Context.get(state.kept, Cooldown.Cooldown)
  }
  return policy
})

const layered = Effect.fnUntraced(function*<E>(
  { layer, name }: { readonly name: string; readonly layer: Own<E> },
  client: HttpClient.HttpClient
): Effect.fn.Return<Policy, E, Scope.Scope> {
  const services: Context.Context<LLMService | Router> = yield* Layer.build(layer).pipe(
    Effect.provideService(HttpClient.HttpClient, client)
  )
  const service = Context.get(services, LLMService)
  const { targets } = Context.get(services, Router)
  const breaker = Option.getOrUndefined(Context.getOption(services, CircuitBreaker.CircuitBreaker))
  return {
    name,
    targets,
    of: () => ({ service, targets, totalMs: defaultTotalMs }),
    breakers: () => breaker === undefined ? [] : [breaker],
    cooldown: Option.getOrUndefined(Context.getOption(services, Cooldown.Cooldown))
  }
})

/** Looks at the state of all targets, again and again. */
const watch = Effect.fnUntraced(function*(
  policy: Policy,
  ledger: Ledgers.Ledger,
  options: { readonly everyMs: number; readonly now: () => number }
) {
  const keys = policy.targets.map((target) => ({ id: target.id, scopes: scopeKeys(target) }))
  const circuits = new Map(policy.targets.map((target) => [scopeKey(target, "target"), target.id]))
  for (;;) {
    const at = options.now()
    const cooling = new Set(
      policy.cooldown === undefined ? [] : (yield* policy.cooldown.active).map((entry) => entry.scopeKey)
    )
    if (cooling.size > 0) {
      for (const { id, scopes } of keys) {
        if (scopes.some((scope) => cooling.has(scope))) ledger.sample(id, at, "cooling")
      }
    }
    for (const breaker of policy.breakers()) {
      for (const { key, status } of yield* breaker.snapshot) {
        const id = circuits.get(key)
        if (id !== undefined && (status === "open" || status === "half-open")) ledger.sample(id, at, status)
      }
    }
    yield* Effect.sleep(options.everyMs)
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// calls
// ---------------------------------------------------------------------------------------------------------------------

/** Makes all calls at their times and waits until they have ended. */
const drive = Effect.fnUntraced(function*(
  scenario: Scenario,
  calls: ReadonlyArray<Traffic.Call>,
  policy: Policy,
  ledger: Ledgers.Ledger,
  now: () => number
) {
  const { traffic } = scenario.file
  const handlers = traffic.map((entry) => ({ entry, service: policy.of(entry).service }))
  const running = new Set<Fiber.Fiber<void>>()
  const idle = Deferred.makeUnsafe<void>()
  let arriving = true
  for (const call of calls) {
    const handler = handlers[call.traffic]
    if (handler === undefined) continue
    const wait = call.at - now()
    if (wait > 0) yield* Effect.sleep(wait)
    const fiber = yield* Effect.forkChild(
      Effect.map(handle(handler.service, handler.entry, call, now), (outcome) => {
        ledger.outcomes[call.index] = outcome
      })
    )
    running.add(fiber)
    fiber.addObserver(() => {
      running.delete(fiber)
      if (running.size === 0 && !arriving) Deferred.doneUnsafe(idle, Exit.void)
    })
  }
  arriving = false
  if (running.size > 0) yield* Effect.timeoutOption(Deferred.await(idle), patienceMs)
  yield* Fiber.interruptAll(running)
})

const requestOf = (entry: File.Traffic, call: Traffic.Call): CompletionRequest => ({
  prompt: Traffic.promptOf(call),
  maxTokens: call.maxTokens,
  deadline: entry.deadline,
  priority: entry.priority,
  tenant: entry.tenant,
  tags: entry.tags
})

const handle = (
  service: LLMService["Service"],
  entry: File.Traffic,
  call: Traffic.Call,
  now: () => number
): Effect.Effect<Ledgers.Outcome> =>
  Effect.map(
    Effect.exit(
      entry.stream === true
        ? streamed(service, requestOf(entry, call), now)
        : whole(service, requestOf(entry, call))
    ),
    (exit): Ledgers.Outcome => {
      const endedAt = now()
      if (Exit.isSuccess(exit)) {
        const { attempts, cost, costAtLeast, firstTokenMs, timings } = exit.value
        return {
          isAnswered: true,
          endedAt,
          waitedMs: timings.waitedMs,
          firstTokenMs,
          attempts,
          cost,
          costAtLeast,
          errorClass: undefined,
          reason: undefined
        }
      }
      const error = Result.getOrUndefined(Cause.findError(exit.cause))
      const attempts = error?.attempts ?? []
      return {
        isAnswered: false,
        endedAt,
        waitedMs: attempts.reduce((sum, attempt) => sum + attempt.waitedMs, 0),
        firstTokenMs: undefined,
        attempts,
        cost: costOf(attempts),
        costAtLeast: attempts.some((attempt) => attempt.maybeBilled),
        errorClass: error?.errorClass ?? "unknown",
        reason: error?.reason
      }
    }
  )

interface Answered extends Pick<Completion, "attempts" | "cost" | "costAtLeast" | "timings"> {
  readonly firstTokenMs: number | undefined
}

const whole = (service: LLMService["Service"], request: CompletionRequest): Effect.Effect<Answered, LLMError> =>
  Effect.map(service.complete(request), (completion) => ({ ...completion, firstTokenMs: undefined }))

/** Reads a stream to its end. */
const streamed = (
  service: LLMService["Service"],
  request: CompletionRequest,
  now: () => number
): Effect.Effect<Answered, LLMError> =>
  Effect.suspend(() => {
    const startedAt = now()
    let firstTokenMs: number | undefined
    let record: ReturnType<typeof recordOf> | undefined
    const read = Stream.runForEach(service.stream(request), (part) =>
      Effect.sync(() => {
        if (part.type === "finish") record = recordOf(part)
        else if (firstTokenMs === undefined && Timeouts.isContentPart(part)) firstTokenMs = now() - startedAt
      }))
    return Effect.flatMap(read, () =>
      record === undefined
        ? Effect.die(new Error("a stream ended without a finish part"))
        : Effect.succeed({ ...record, cost: record.cost, firstTokenMs }))
  })

const costOf = (attempts: ReadonlyArray<Attempt>): number | undefined => {
  const costs = attempts.flatMap((attempt) => attempt.cost ?? [])
  return costs.length === 0 ? undefined : costs.reduce((sum, cost) => sum + cost, 0)
}
