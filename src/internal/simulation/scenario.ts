/**
 * From the file of a scenario to what a simulation is built from: everything is decoded, named and checked here.
 *
 * @internal
 */
import type * as Arr from "effect/Array"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type { Key, Target } from "../../Target.ts"
import * as Config from "../gateway/config.ts"
import * as Environment from "../gateway/environment.ts"
import { at, decoded, type Problem } from "../gateway/problem.ts"
import { formats } from "../gateway/schema.ts"
import type { Settings } from "../providerServer/desk.ts"
import { Fault } from "../providerServer/plan.ts"
import { type Behaviour, settingsOf } from "../providerServer/settings.ts"
import type { Flavour, Format } from "../providerServer/vendor.ts"
import * as File from "./schema.ts"
import { replyOf } from "./traffic.ts"

/** A provider of a scenario: where it is, and how it behaves. */
export interface Provider {
  readonly name: string
  readonly host: string
  readonly speaks: typeof File.vendors[number]
  readonly behaviour: Behaviour
  /** Names of its keys, where the scenario gives them. */
  readonly keys: ReadonlyArray<string> | undefined
}

/** A scenario that can be simulated. */
export interface Scenario {
  readonly file: File.File
  readonly durationMs: number
  readonly warmUpMs: number
  /** Milliseconds since the epoch. */
  readonly start: number
  readonly providers: ReadonlyArray<Provider>
  /** The policies, each as a gateway's configuration; the first one is the default. */
  readonly policies: ReadonlyMap<string, Config.Plan>
}

type Path = ReadonlyArray<PropertyKey>

const defaultStart = DateTime.toEpochMillis(DateTime.makeUnsafe("2026-01-01T00:00:00Z"))

type Problems = Arr.NonEmptyReadonlyArray<Problem>

const most = 5_000_000

/** Decodes and checks a scenario; a failure lists all that is wrong. */
export const decode = (json: unknown): Result.Result<Scenario, Problems> => {
  const problems: Array<Problem> = []
  const file = decoded(File.File, json, [], problems)
  if (file === undefined) return failed(problems)
  const wrong = (path: Path, message: string): void => {
    problems.push({ path: at(path), message })
  }
  checkTimes(file, wrong)
  checkTraffic(file, wrong)
  const providers = providersOf(file, wrong)
  if (providers.length === 0) wrong(["providers"], "must name at least one provider")
  const policies = new Map<string, Config.Plan>()
  for (const [name, policy] of Object.entries(file.policies ?? {})) {
    const plan = policyOf(policy, providers, ["policies", name], problems)
    if (plan === undefined) continue
    policies.set(name, plan)
    file.traffic.forEach(({ model }, index) => {
      if (model !== undefined && !plan.models.has(model)) {
        wrong(["traffic", index, "model"], `there is no model ${model} in the policy ${name}`)
      }
    })
  }
  if (file.policies !== undefined && Object.keys(file.policies).length === 0) {
    wrong(["policies"], "must name at least one policy")
  }
  if (problems.length === 0) checkNames(file, providers, policies, wrong)
  if (problems.length > 0) return failed(problems)
  return Result.succeed({
    file,
    durationMs: Duration.toMillis(file.duration),
    warmUpMs: file.warmUp === undefined ? 0 : Duration.toMillis(file.warmUp),
    start: file.start === undefined ? defaultStart : DateTime.toEpochMillis(file.start),
    providers,
    policies
  })
}

/** Decodes a policy that comes from elsewhere, such as the configuration file of a gateway. */
export const decodePolicy = (
  json: unknown,
  scenario: Scenario
): Result.Result<Config.Plan, Problems> => {
  const problems: Array<Problem> = []
  if (!Predicate.isObject(json)) return failed([{ path: "", message: "expected an object with models" }])
  const plan = policyOf(json, scenario.providers, [], problems)
  return plan === undefined ? failed(problems) : Result.succeed(plan)
}

const failed = (problems: ReadonlyArray<Problem>): Result.Result<never, Problems> => {
  const [first = { path: "", message: "not a scenario" }, ...rest] = problems
  return Result.fail([first, ...rest])
}

type Wrong = (path: Path, message: string) => void

const millis = (time: Duration.Duration | undefined, otherwise: number): number =>
  time === undefined ? otherwise : Duration.toMillis(time)

const checkTimes = (file: File.File, wrong: Wrong): void => {
  const duration = Duration.toMillis(file.duration)
  if (!(duration > 0 && Number.isFinite(duration))) wrong(["duration"], "must be finite and longer than nothing")
  else if (millis(file.warmUp, 0) >= duration) wrong(["warmUp"], "must be shorter than the duration")
}

const checkDuring = (
  during: { readonly from?: Duration.Duration; readonly to?: Duration.Duration },
  path: Path,
  wrong: Wrong
): void => {
  if (millis(during.from, 0) >= millis(during.to, Infinity)) wrong([...path, "to"], "must be later than from")
}

const checkTraffic = (file: File.File, wrong: Wrong): void => {
  const names = new Set<string>()
  let calls = 0
  file.traffic.forEach((traffic, index) => {
    const path: Path = ["traffic", index]
    if (names.has(traffic.name)) wrong([...path, "name"], `is the name of another: ${traffic.name}`)
    names.add(traffic.name)
    checkDuring(traffic, path, wrong)
    traffic.load?.forEach((load, place) => checkDuring(load, [...path, "load", place], wrong))
    const per = Duration.toMillis(traffic.per)
    if (!(per > 0 && Number.isFinite(per))) wrong([...path, "per"], "must be finite and longer than nothing")
    else calls += traffic.calls * Duration.toMillis(file.duration) / per
    for (const field of ["input", "output", "maxTokens"] as const) checkAmount(traffic[field], [...path, field], wrong)
    if (traffic.maxTokens === 0) wrong([...path, "maxTokens"], "must be at least 1")
  })
  if (calls > most) wrong(["traffic"], `would be ${Math.round(calls)} calls; at most ${most} can be simulated`)
}

const checkAmount = (amount: File.Amount | undefined, path: Path, wrong: Wrong): void => {
  if (typeof amount !== "object") return
  if ("min" in amount && amount.min > amount.max) wrong([...path, "max"], "must not be less than min")
  if ("median" in amount && amount.median > amount.p95) wrong([...path, "p95"], "must not be less than the median")
}

// ---------------------------------------------------------------------------------------------------------------------
// providers
// ---------------------------------------------------------------------------------------------------------------------

const providersOf = (file: File.File, wrong: Wrong): ReadonlyArray<Provider> =>
  Object.entries(file.providers).flatMap(([name, provider], index) => {
    const path: Path = ["providers", name]
    provider.overrides?.forEach((override, place) => {
      checkDuring(override, [...path, "overrides", place], wrong)
      if (override.limits === undefined && override.latency === undefined) {
        wrong([...path, "overrides", place], "changes nothing: give it limits or a latency")
      }
    })
    provider.faults?.forEach((fault, place) => checkDuring(fault, [...path, "faults", place], wrong))
    const speaks = provider.speaks ?? vendorOf(name)
    const behaviour = behaviourOf(provider, speaks)
    const checked = Result.try(() => settingsOf(behaviour))
    if (Result.isFailure(checked)) {
      wrong(path, String(checked.failure).replace(/^RangeError: ProviderServer: /, ""))
      return []
    }
    return [{ name, host: `provider-${index + 1}.simulated`, speaks, behaviour, keys: provider.keys }]
  })

const vendorOf = (name: string): typeof File.vendors[number] => File.vendors.find((_) => _ === name) ?? "openai"

const formatOf = (
  vendor: typeof File.vendors[number]
): { readonly format: Format; readonly flavour: Flavour | undefined } =>
  vendor === "azure" || vendor === "anthropic"
    ? { format: vendor, flavour: undefined }
    : { format: "openai", flavour: vendor }

const behaviourOf = (provider: File.Provider, speaks: typeof File.vendors[number]): Behaviour => ({
  ...formatOf(speaks),
  models: provider.models,
  limits: provider.limits,
  limitScope: provider.limitScope,
  countRejected: provider.countRejected,
  latency: provider.latency,
  overrides: provider.overrides,
  claims: provider.claims,
  faultRates: provider.faults?.map(({ fault, rate = 1, ...where }) => ({ ...where, rate, fault: faultOf(fault) })),
  reply: replyOf,
  logSize: 0
})

const faultOf = (fault: typeof File.Fault.Type): Fault => {
  switch (fault.kind) {
    case "status":
      return Fault.Status({ status: fault.status, retryAfter: fault.retryAfter, delay: fault.delay })
    case "reset":
      return Fault.Reset({ afterHeaders: fault.afterHeaders })
    case "noAnswer":
      return Fault.NoAnswer()
    case "slowFirstToken":
      return Fault.SlowFirstToken({ delay: fault.delay })
    case "cut":
      return Fault.Cut({ after: fault.after, clean: fault.clean })
    case "stall":
      return Fault.Stall({ after: fault.after, keepAlive: fault.keepAlive })
    case "malformedChunk":
      return Fault.MalformedChunk({ after: fault.after })
    case "errorEvent":
      return Fault.ErrorEvent({ after: fault.after, status: fault.status })
    case "emptyBody":
      return Fault.EmptyBody()
    case "htmlPage":
      return Fault.HtmlPage({ status: fault.status })
  }
}

/**
 * The settings of a provider's desk: it accepts the keys of the targets, of which its own names may leave some out; where
 * no target is known, its own names are the keys.
 */
export const deskSettings = (provider: Provider, plan: ReadonlyArray<Target>): Settings => {
  const keys: Array<Key> = []
  if (plan.length === 0) keys.push(...(provider.keys ?? []).map((id) => ({ id, value: Redacted.make(id) })))
  for (const target of plan) {
    if (target.provider !== provider.name || target.key === undefined) continue
    const { id } = target.key
    if (provider.keys !== undefined && !provider.keys.includes(id)) continue
    if (!keys.some((key) => key.id === id)) keys.push(target.key)
  }
  return settingsOf(keys.length === 0 ? provider.behaviour : { ...provider.behaviour, keys })
}

// ---------------------------------------------------------------------------------------------------------------------
// policies
// ---------------------------------------------------------------------------------------------------------------------

/** The targets of all models of a policy. */
export const targetsOf = (plan: Config.Plan): ReadonlyArray<Target> => {
  const targets = new Map<string, Target>()
  for (const { options } of plan.models.values()) {
    for (const target of options.targets) targets.set(target.id, target)
  }
  return [...targets.values()]
}

/** A policy over the simulated providers: their addresses, and the keys they accept where the policy names none. */
const policyOf = (
  policy: { readonly models?: unknown; readonly providers?: unknown },
  providers: ReadonlyArray<Provider>,
  path: Path,
  problems: Array<Problem>
): Config.Plan | undefined => {
  const given = Predicate.isObject(policy.providers) ? policy.providers : {}
  const addressed: Record<string, unknown> = { ...given }
  for (const provider of providers) {
    const own = Object.hasOwn(given, provider.name) ? given[provider.name] : undefined
    addressed[provider.name] = {
      ...defaults(provider, own),
      ...(Predicate.isObject(own) ? own : {}),
      baseUrl: urlOf(provider)
    }
  }
  const json = { models: policy.models, providers: addressed }
  const environment = Object.fromEntries(Array.from(Environment.variables(json), (name) => [name, name]))
  // Another policy may use what this one does not.
  const plan = Config.decode(json, environment, { spareProviders: true })
  const prefix = at(path)
  if (Result.isFailure(plan)) {
    for (const problem of plan.failure) {
      problems.push({ ...problem, path: [prefix, problem.path].filter((_) => _ !== "").join(".") })
    }
    return undefined
  }
  const before = problems.length
  const hosts = new Set(providers.map((provider) => provider.host))
  for (const target of targetsOf(plan.success)) {
    if (target.baseUrl !== undefined && hosts.has(URL.parse(target.baseUrl)?.host ?? "")) continue
    problems.push({ path: prefix, message: `the target ${target.id} is at no simulated provider` })
  }
  return problems.length === before ? plan.success : undefined
}

const urlOf = ({ behaviour, host }: Provider): string =>
  behaviour.format === "openai" ? `http://${host}/v1` : `http://${host}`

const defaults = (provider: Provider, own: unknown): Readonly<Record<string, unknown>> => {
  const known: ReadonlyArray<string> = formats
  const hasKey = Predicate.hasProperty(own, "key") || Predicate.hasProperty(own, "keys")
  const keys = provider.keys ?? [`${provider.name}-1`]
  return {
    ...(known.includes(provider.name) && provider.name === provider.speaks ? {} : { format: provider.speaks }),
    ...(hasKey ? {} : { keys: keys.map((id) => ({ id, value: id })) })
  }
}

/** Every name must be that of something, or it would have no effect. */
const checkNames = (
  file: File.File,
  providers: ReadonlyArray<Provider>,
  policies: ReadonlyMap<string, Config.Plan>,
  wrong: Wrong
): void => {
  if (policies.size === 0) return
  const targets = Array.from(policies.values(), targetsOf).flat()
  for (const { name } of providers) {
    const own = targets.filter((target) => target.provider === name)
    const path: Path = ["providers", name]
    if (own.length === 0) {
      wrong(path, "no policy uses this provider")
      continue
    }
    const keys = new Set(own.map((target) => target.key?.id ?? "none"))
    const models = new Set(own.map((target) => target.deployment ?? target.model))
    for (const field of ["overrides", "faults"] as const) {
      file.providers[name]?.[field]?.forEach((item, index) => {
        if (item.key !== undefined && !keys.has(item.key)) {
          wrong([...path, field, index, "key"], `no policy has a key ${item.key}: there are ${[...keys].join(", ")}`)
        }
        if (item.model !== undefined && !models.has(item.model)) {
          wrong(
            [...path, field, index, "model"],
            `no policy has a model ${item.model}: there are ${[...models].join(", ")}`
          )
        }
      })
    }
  }
}
