/**
 * From a configuration file to what a gateway is built from: everything is decoded, named and checked here.
 *
 * @internal
 */
import type * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as CircuitBreaker from "../../CircuitBreaker.ts"
import * as Hedging from "../../Hedging.ts"
import * as Presets from "../../Presets.ts"
import { presets } from "../../providers/OpenAiCompatible.ts"
import * as Recovery from "../../Recovery.ts"
import * as Retry from "../../Retry.ts"
import type * as Router from "../../Router.ts"
import * as Selection from "../../Selection.ts"
import * as Target from "../../Target.ts"
import * as Engines from "../call/engine.ts"
import * as Json from "../wire/json.ts"
import { type Environment, substitute } from "./environment.ts"
import { at, decoded, type Problem } from "./problem.ts"
import * as File from "./schema.ts"

/** A virtual model: what its router is made of. */
export interface Model {
  readonly name: string
  readonly options: Router.Options
  /** The breaker it uses: models with the same name of a breaker share its circuits. */
  readonly circuit: { readonly name: string; readonly make: Effect.Effect<CircuitBreaker.CircuitBreaker["Service"]> }
  readonly hedge: { readonly name: string; readonly options: Hedging.Options } | undefined
}

/** A key of a client, known by its hash alone. */
export interface AccessKey {
  readonly name: string
  readonly sha256: string
  readonly tenant: string | undefined
  readonly models: ReadonlySet<string> | undefined
}

export interface Settings {
  readonly maxBodyBytes: number
  readonly bodyTimeoutMs: number
  readonly slowClientMs: number
  readonly heartbeatMs: number
  readonly drainMs: number
}

/** A configuration that can be served. */
export interface Plan {
  readonly settings: Settings
  readonly access: ReadonlyArray<AccessKey>
  /** What each provider that is used speaks. */
  readonly formats: ReadonlyMap<string, File.Format>
  readonly models: ReadonlyMap<string, Model>
}

/**
 * Decodes and checks a configuration; a failure lists all that is wrong. A provider that no model uses is wrong, too,
 * unless `spareProviders` are welcome.
 */
export const decode = (
  json: unknown,
  environment: Environment,
  options: { readonly spareProviders?: boolean } = {}
): Result.Result<Plan, Arr.NonEmptyReadonlyArray<Problem>> => {
  const problems: Array<Problem> = []
  const frame = decoded(File.Frame, substitute(json, environment, [], problems), [], problems)
  if (frame === undefined || problems.length > 0) return failed(problems)
  const plan = planOf(frame, problems, options.spareProviders ?? false)
  return problems.length > 0 ? failed(problems) : Result.succeed(plan)
}

const failed = (problems: ReadonlyArray<Problem>): Result.Result<never, Arr.NonEmptyReadonlyArray<Problem>> => {
  const [first = { path: "", message: "not a configuration" }, ...rest] = problems
  return Result.fail([first, ...rest])
}

const millis = (time: Duration.Duration | undefined, otherwise: number): number =>
  time === undefined ? otherwise : Duration.toMillis(time)

/** Open times short enough that a provider is asked again soon after its recovery, however long it was away. */
const defaultOpen = CircuitBreaker.exponential({ base: "5 seconds", max: "10 seconds" })

/** One probe at a time: what is asked that often should cost little while it is away. */
const defaultCircuit: CircuitBreaker.Options = {
  open: defaultOpen,
  halfOpen: CircuitBreaker.successes({ required: 2, permitted: 1 })
}

const weighing: ReadonlySet<string> = new Set(["weighted", "leastBusy", "powerOfTwo"])

type Forms =
  | typeof File.Own.Type
  | typeof File.KeyPool.Type
  | typeof File.SharedAgents.Type
  | typeof File.Catalogue.Type
  | typeof File.Alerts.Type

interface Made {
  readonly form: Forms
  readonly preset: Presets.Preset
  /** Name of the preset whose circuit applies where the model names none. */
  readonly kind: string | undefined
}

type Path = ReadonlyArray<PropertyKey>

/** Builds a plan; each problem is noted, and whatever it concerns is left out. */
const planOf = (frame: File.Frame, problems: Array<Problem>, spareProviders: boolean): Plan => {
  const used = new Set<string>()
  const formats = new Map<string, File.Format>()
  const read = new Map<string, Made>()
  const targetsById = new Map<string, { readonly path: string; readonly target: Target.Target }>()
  const limitsByScope = new Map<string, { readonly path: string; readonly limits: string }>()

  const plan = (): Plan => {
    const names = Object.keys(frame.models)
    if (names.length === 0) wrong(["models"], "must name at least one model")
    for (const name of names) readModel(name)
    const models = new Map<string, Model>()
    for (const name of names) {
      const model = completed(name)
      if (model !== undefined) models.set(name, model)
    }
    // What only a wrong model would have used is not also unused.
    if (problems.length === 0 && !spareProviders) {
      for (const name of Object.keys(frame.providers ?? {})) {
        if (!used.has(name)) wrong(["providers", name], "no model uses this provider")
      }
    }
    return { settings: settingsOf(frame.server), access: accessKeys(), formats, models }
  }

  const wrong = (path: Path, message: string): void => {
    problems.push({ path: at(path), message })
  }

  /** Notes what a constructor throws as a problem. */
  const attempt = <A>(path: Path, make: () => A): A | undefined => {
    const result = Result.try(make)
    if (Result.isSuccess(result)) return result.success
    const cause: unknown = result.failure
    wrong(path, (cause instanceof Error ? cause.message : String(cause)).replace(/^[A-Z][\w.]*: /, ""))
    return undefined
  }

  const accessKeys = (): ReadonlyArray<AccessKey> => {
    return (frame.access ?? []).map((key, index) => {
      key.models?.forEach((name, place) => {
        if (!Object.hasOwn(frame.models, name)) wrong(["access", index, "models", place], `no model ${name}`)
      })
      return {
        name: key.name,
        sha256: key.sha256,
        tenant: key.tenant,
        models: key.models === undefined ? undefined : new Set(key.models)
      }
    })
  }

  // -------------------------------------------------------------------------------------------------------------------
  // providers and targets
  // -------------------------------------------------------------------------------------------------------------------

  const providerOf = (name: string, path: Path): File.Provider => {
    const { providers = {} } = frame
    const given = Object.hasOwn(providers, name) ? providers[name] ?? {} : {}
    if (!used.has(name)) {
      used.add(name)
      formats.set(name, given.format ?? known(name) ?? "generic")
      if (given.key !== undefined && given.keys !== undefined) {
        wrong(["providers", name, "key"], "stands beside keys: give one of the two")
      }
      const spoken = formats.get(name)
      const needed = spoken !== "generic" && spoken !== "ollama"
      if (needed && given.baseUrl === undefined && keysOf(name, given).length === 0) {
        wrong(path, `provider ${name} has no key: give providers.${name}.key`)
      }
    }
    return given
  }

  const keysOf = (
    name: string,
    provider: File.Provider
  ): ReadonlyArray<Target.Key & { readonly group?: string | undefined }> => {
    const given = provider.keys ?? (provider.key === undefined ? [] : [provider.key])
    return given.map((key, index) => {
      const id = `${name}-${index + 1}`
      return Redacted.isRedacted(key) ? { id, value: key } : { id: key.id ?? id, value: key.value, group: key.group }
    })
  }

  /** The targets of one entry: one for each key of its provider, unless it names one. */
  const targetsOf = (entry: string | File.Target, path: Path): ReadonlyArray<Target.Target> => {
    const named = typeof entry === "string" ? fromShort(entry, path) : entry
    if (named === undefined) return []
    const { key: wanted, ...options } = named
    const provider = providerOf(options.provider, path)
    const keys = keysOf(options.provider, provider)
    const chosen = wanted === undefined ? keys : keys.filter((_) => _.id === wanted)
    if (wanted !== undefined && chosen.length === 0) {
      wrong([...path, "key"], `provider ${options.provider} has no key ${wanted}`)
      return []
    }
    if (options.id !== undefined && chosen.length > 1) {
      wrong([...path, "id"], `provider ${options.provider} has ${chosen.length} keys: name one as "key"`)
      return []
    }
    return (chosen.length === 0 ? [undefined] : chosen).flatMap((key) => {
      const target = targetOf(options, key, provider, path)
      return target === undefined ? [] : [target]
    })
  }

  const fromShort = (
    entry: string,
    path: Path
  ): { readonly provider: string; readonly model: string; readonly key?: string; readonly id?: string } | undefined => {
    const slash = entry.indexOf("/")
    if (slash > 0 && slash < entry.length - 1) return { provider: entry.slice(0, slash), model: entry.slice(slash + 1) }
    wrong(path, "must be `provider/model`")
    return undefined
  }

  const targetOf = (
    options: Target.Options,
    key: (Target.Key & { readonly group?: string | undefined }) | undefined,
    provider: File.Provider,
    path: Path
  ): Target.Target | undefined => {
    const spoken = formats.get(options.provider)
    if (spoken !== "azure") {
      for (const field of ["deployment", "apiVersion"] as const) {
        if (options[field] !== undefined) wrong([...path, field], "has a meaning for Azure only")
      }
    }
    const baseUrl = options.baseUrl ?? provider.baseUrl
    if (baseUrl === undefined && (spoken === "generic" || spoken === "azure")) {
      wrong(
        path,
        `provider ${options.provider} has no address of its own: give providers.${options.provider}.baseUrl`
      )
      return undefined
    }
    const target = attempt(path, () =>
      Target.make({
        ...options,
        key: key === undefined ? undefined : { id: key.id, value: key.value },
        group: options.group ?? key?.group,
        baseUrl,
        headers: { ...provider.headers, ...options.headers }
      }))
    return target === undefined ? undefined : unlike(target, path)
  }

  /** State is kept by id and by account, so what shares these must be the same thing. */
  const unlike = (target: Target.Target, path: Path): Target.Target => {
    const before = targetsById.get(target.id)
    if (before === undefined) targetsById.set(target.id, { path: at(path), target })
    else if (before.target.baseUrl !== target.baseUrl || before.target.deployment !== target.deployment) {
      wrong(
        path,
        `has the id ${target.id} of ${before.path}, which is another address: give one an "id" of its own`
      )
    }
    const scope = Target.scopeKey(target, "model")
    if (scope === undefined || target.limits === undefined) return target
    const limits = JSON.stringify(target.limits)
    const known = limitsByScope.get(scope)
    if (known === undefined) limitsByScope.set(scope, { path: at(path), limits })
    else if (known.limits !== limits) {
      wrong(
        [...path, "limits"],
        `are not those of ${known.path}, and both are limits of the same model and account`
      )
    }
    return target
  }

  // -------------------------------------------------------------------------------------------------------------------
  // models
  // -------------------------------------------------------------------------------------------------------------------

  /** Reads one model in the form it has. */
  const readModel = (name: string): void => {
    const path: Path = ["models", name]
    const raw = frame.models[name]
    const before = problems.length
    if (name.trim() === "") wrong(path, "a model must have a name")
    const made = formOf(raw, path)
    if (made !== undefined && problems.length === before) read.set(name, made)
  }

  const formOf = (raw: unknown, path: Path): Made | undefined => {
    const preset = Json.field(raw, "preset")
    switch (preset) {
      case undefined: {
        const form = decoded(File.Own, raw, path, problems)
        return form === undefined ? undefined : {
          form,
          kind: undefined,
          preset: {
            targets: form.targets.flatMap((entry, index) => targetsOf(entry, [...path, "targets", index])),
            limits: form.limits
          }
        }
      }
      case "keyPool": {
        const form = decoded(File.KeyPool, raw, path, problems)
        return form === undefined ? undefined : keyPool(form, path)
      }
      case "sharedAgents": {
        const form = decoded(File.SharedAgents, raw, path, problems)
        return form === undefined ? undefined : sharedAgents(form, path)
      }
      case "catalogue": {
        const form = decoded(File.Catalogue, raw, path, problems)
        return form === undefined ? undefined : catalogue(form, path)
      }
      case "alerts": {
        const form = decoded(File.Alerts, raw, path, problems)
        return form === undefined ? undefined : alerts(form, path)
      }
      default:
        wrong([...path, "preset"], `must be one of keyPool, sharedAgents, catalogue, alerts`)
        return undefined
    }
  }

  /** What a target of a preset takes from its provider, besides its keys. */
  const located = <M extends Target.Model>(model: M, path: Path): M | undefined => {
    const provider = providerOf(model.provider, path)
    const spoken = formats.get(model.provider)
    const baseUrl = model.baseUrl ?? provider.baseUrl
    if (baseUrl === undefined && (spoken === "generic" || spoken === "azure")) {
      wrong(path, `provider ${model.provider} has no address of its own: give providers.${model.provider}.baseUrl`)
      return undefined
    }
    return { ...model, baseUrl, headers: { ...provider.headers, ...model.headers } }
  }

  const keyPool = (form: typeof File.KeyPool.Type, path: Path): Made | undefined => {
    const { preset: _, limits, ...rest } = form
    const model = located(modelOf(rest), path)
    const keys = keysOf(form.provider, providerOf(form.provider, path))
    if (model === undefined) return undefined
    const preset = attempt(path, () => Presets.keyPool({ ...model, keys, limits }))
    return preset === undefined ? undefined : { form, preset, kind: "keyPool" }
  }

  const sharedAgents = (form: typeof File.SharedAgents.Type, path: Path): Made | undefined => {
    const [target, ...others] = targetsOf(form.target, [...path, "target"])
    if (target === undefined) return undefined
    if (others.length > 0) {
      wrong([...path, "target"], `provider ${target.provider} has several keys: name one as "key"`)
      return undefined
    }
    const preset = attempt(path, () => Presets.sharedAgents({ target, limits: form.limits }))
    return preset === undefined ? undefined : { form, preset, kind: "sharedAgents" }
  }

  const catalogue = (form: typeof File.Catalogue.Type, path: Path): Made | undefined => {
    const models = (form.models ?? Target.catalogue).map((model) => modelOf(model))
    const available = new Set(models.map((_) => _.provider))
    const names = form.providers ?? Object.keys(frame.providers ?? {}).filter((name) => available.has(name))
    const keys: Record<string, ReadonlyArray<Target.Key>> = {}
    names.forEach((name, index) => {
      const found = keysOf(name, providerOf(name, [...path, "providers", index]))
      if (found.length > 0) keys[name] = found
    })
    const placed = models.flatMap((model, index) => {
      const found = keys[model.provider] === undefined ? model : located(model, [...path, "models", index])
      return found === undefined ? [] : [found]
    })
    const preset = attempt(
      path,
      () => Presets.catalogue({ keys, models: placed, first: form.first, order: form.providerOrder })
    )
    return preset === undefined ? undefined : { form, preset, kind: "catalogue" }
  }

  const alerts = (form: typeof File.Alerts.Type, path: Path): Made | undefined => {
    const services: Partial<Record<Presets.AlertsService, Presets.AlertsTarget>> = {}
    for (const service of ["openai", "xai", "deepseek", "moonshot"] as const) {
      const given = form.services[service]
      if (given === undefined) {
        if (form.tokensPerMinute?.[service] !== undefined) {
          wrong([...path, "tokensPerMinute", service], "the service is not used")
        }
        continue
      }
      const place: Path = [...path, "services", service]
      const { provider: __, ...model } = located({ provider: service, ...given }, place) ??
        { provider: service, ...given }
      services[service] = { ...model, keys: keysOf(service, providerOf(service, place)) }
    }
    const preset = attempt(path, () => Presets.alerts({ services, tokensPerMinute: form.tokensPerMinute }))
    return preset === undefined ? undefined : { form, preset, kind: "alerts" }
  }

  /** Completes a model: its fallbacks behind its own targets, its policy over that of its preset. */
  const completed = (name: string): Model | undefined => {
    const made = read.get(name)
    if (made === undefined) return undefined
    const path: Path = ["models", name]
    const { form, kind, preset: { circuit: presetCircuit, ...preset } } = made
    const targets = withFallbacks(name, made)
    inert(form, targets, path)
    for (const target of targets) unlike(target, path)
    const options = attempt(path, (): Router.Options => {
      const options: Router.Options = { ...preset, ...routing(form), name, targets }
      Engines.check(options)
      return options
    })
    const circuit = form.circuit
    const breaker = attempt(
      [...path, "circuit"],
      () => CircuitBreaker.make(circuit === undefined ? presetCircuit ?? defaultCircuit : circuitOf(circuit))
    )
    const { hedge } = form
    const hedging = hedge === undefined ? undefined : attempt([...path, "hedge"], () => {
      Hedging.makePolicy(hedge)
      return { name: JSON.stringify(hedge), options: hedge }
    })
    if (options === undefined || breaker === undefined) return undefined
    const circuitName = circuit === undefined ? kind ?? "default" : JSON.stringify(circuit)
    return { name, options, circuit: { name: circuitName, make: breaker }, hedge: hedging }
  }

  const withFallbacks = (name: string, made: Made): ReadonlyArray<Target.Target> => {
    const targets = [...made.preset.targets]
    const seen = new Set([name])
    const ids = new Set(targets.map((_) => _.id))
    const add = (of: Made, owner: string): void => {
      of.form.fallbacks?.forEach((next, index) => {
        const path: Path = ["models", owner, "fallbacks", index]
        if (!Object.hasOwn(frame.models, next)) return wrong(path, `there is no model ${next}`)
        if (next === owner) return wrong(path, "a model cannot be its own fallback")
        const found = read.get(next)
        if (found === undefined || seen.has(next)) return
        seen.add(next)
        const last = Math.max(...targets.map((_) => _.order))
        const first = Math.min(...found.preset.targets.map((_) => _.order))
        for (const target of found.preset.targets) {
          if (ids.has(target.id)) continue
          ids.add(target.id)
          targets.push({ ...target, order: target.order - first + last + 1 })
        }
        add(found, next)
      })
    }
    add(made, name)
    return targets
  }

  /** Notes the fields that would change nothing. */
  const inert = (form: Forms, targets: ReadonlyArray<Target.Target>, path: Path): void => {
    const strategy = form.strategy ?? "ordered"
    if (form.scoreWeights !== undefined && strategy !== "score") {
      wrong([...path, "scoreWeights"], `have a meaning for the strategy score only, and it is ${strategy}`)
    }
    if (form.affinity !== undefined && !strategyOf(strategy, undefined).sticky) {
      wrong([...path, "affinity"], `has no effect on the strategy ${strategy}, which does not balance`)
    }
    if (form.streamPolicy === "continue" && !targets.some((_) => _.capabilities.prefill === true)) {
      wrong([...path, "streamPolicy"], "continue has no effect: no target has the capability prefill")
    }
    if (targets.length < 2) {
      for (const field of ["hedge", "maxEjected"] as const) {
        if (form[field] !== undefined) wrong([...path, field], "has no effect with a single target")
      }
    }
    if ("targets" in form && !weighing.has(strategy)) {
      form.targets.forEach((entry, index) => {
        if (typeof entry === "object" && entry.weight !== undefined) {
          wrong([...path, "targets", index, "weight"], `has no effect on the strategy ${strategy}`)
        }
      })
    }
  }

  return plan()
}

const known = (name: string): File.Format | undefined => {
  const formats: ReadonlyArray<string> = File.formats
  return name !== "generic" && formats.includes(name) ? File.formats.find((_) => _ === name) : undefined
}

const modelOf = (options: Target.Model): Target.Model => {
  const {
    apiVersion,
    baseUrl,
    capabilities,
    contextWindow,
    deployment,
    group,
    headers,
    limits,
    maxOutputTokens,
    model,
    order,
    parameters,
    price,
    provider,
    tags,
    tenants,
    weight
  } = options
  return {
    provider,
    model,
    apiVersion,
    baseUrl,
    capabilities,
    contextWindow,
    deployment,
    group,
    headers,
    limits,
    maxOutputTokens,
    order,
    parameters,
    price,
    tags,
    tenants,
    weight
  }
}

const settingsOf = (server: File.Frame["server"] = {}): Settings => ({
  maxBodyBytes: server.maxBodyBytes ?? 32 * 1024 * 1024,
  bodyTimeoutMs: millis(server.bodyTimeout, 30_000),
  slowClientMs: millis(server.slowClient, 30_000),
  heartbeatMs: millis(server.heartbeat, 15_000),
  drainMs: millis(server.drain, 30_000)
})

/** The settings of a gateway whose configuration says nothing of them. */
export const defaultSettings: Settings = settingsOf()

const strategyOf = (
  name: typeof File.strategies[number],
  weights: Selection.ScoreWeights | undefined
): Selection.Strategy => {
  switch (name) {
    case "ordered":
      return Selection.ordered
    case "healthiest":
      return Selection.healthiest
    case "mostHeadroom":
      return Selection.mostHeadroom
    case "lowestLatency":
      return Selection.lowestLatency
    case "lowestLatencyPerToken":
      return Selection.lowestLatencyPerToken
    case "cheapest":
      return Selection.cheapest
    case "weighted":
      return Selection.weighted
    case "leastBusy":
      return Selection.leastBusy
    case "powerOfTwo":
      return Selection.powerOfTwo
    case "score":
      return Selection.score(weights)
  }
}

/** What a model says over its preset; a field that it leaves out changes nothing. */
const routing = (form: Forms): Partial<Router.Options> => ({
  ...(form.strategy === undefined ? {} : { strategy: strategyOf(form.strategy, form.scoreWeights) }),
  ...(form.affinity === undefined ? {} : { affinity: form.affinity }),
  ...(form.streamPolicy === undefined ? {} : { streamPolicy: form.streamPolicy }),
  ...(form.timeouts === undefined ? {} : { timeouts: form.timeouts }),
  ...(form.maxAttempts === undefined ? {} : { maxAttempts: form.maxAttempts }),
  ...(form.patience === undefined ? {} : { patience: form.patience }),
  ...(form.queueWait === undefined ? {} : { queueWait: form.queueWait }),
  ...(form.maxEjected === undefined ? {} : { maxEjected: form.maxEjected }),
  ...(form.retry === undefined ? {} : { retry: Retry.standardWith(form.retry) }),
  ...(form.recovery === undefined ? {} : { recovery: recoveryOf(form.recovery) })
})

const recoveryOf = (recovery: NonNullable<Forms["recovery"]>): Recovery.Options => {
  Recovery.make(recovery)
  return recovery
}

const circuitOf = (circuit: File.Circuit): CircuitBreaker.Options => {
  const { failureRate, failures, open, ramp, successes } = circuit
  const trip: Array<CircuitBreaker.TripRule> = []
  if (failures !== undefined || failureRate === undefined) trip.push(CircuitBreaker.consecutive(failures ?? 5))
  if (failureRate !== undefined) trip.push(CircuitBreaker.timeWindow(failureRate))
  return {
    trip,
    open: open === undefined
      ? defaultOpen
      : Duration.isDuration(open)
      ? open
      : CircuitBreaker.exponential({ base: open.from, max: open.to, factor: open.factor }),
    ...(successes === undefined ? {} : { halfOpen: CircuitBreaker.successes({ required: successes }) }),
    ...(ramp === undefined ? {} : { ramp: { window: ramp } })
  }
}

/** The deviations of what a provider speaks, where that is the chat completions format. */
export const presetOf = (spoken: Exclude<File.Format, "azure" | "anthropic" | "generic">) => presets[spoken]
