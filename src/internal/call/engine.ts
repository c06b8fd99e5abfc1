/**
 * Builds what all calls of a router go through from its options and services, and checks the options.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import type { Adapter } from "../../Provider.ts"
import type { Limits } from "../../RateLimiter.ts"
import * as Recovery from "../../Recovery.ts"
import * as Retry from "../../Retry.ts"
import type { Options, SharedLimits, TimeoutOptions } from "../../Router.ts"
import * as Selection from "../../Selection.ts"
import * as Targets from "../../Target.ts"
import * as Timeouts from "../../Timeouts.ts"
import { plan } from "../limiter/limits.ts"
import { about } from "./about.ts"
import * as Boards from "./board.ts"
import type { Engine, LimitScope, Member } from "./call.ts"

/** The services a router goes through. */
export type Parts = Pick<
  Engine,
  "cooldown" | "limiter" | "usage" | "circuits" | "health" | "budget" | "throttle" | "hedging" | "events"
>

type Checked = Pick<
  Engine,
  | "recovery"
  | "maxAttempts"
  | "patienceMs"
  | "queueWaitMs"
  | "limits"
  | "tenants"
  | "ejection"
  | "strategy"
  | "sticky"
  | "affinity"
  | "streamPolicy"
>

export const make = (
  options: Options,
  checked: Checked,
  parts: Parts,
  adapterOf: (target: Targets.Target, index: number) => Adapter | undefined
): Engine => {
  // Targets have most names in common, with each other and among their own: thousands of them share one string each.
  const names = new Map<string, string>()
  const once = (name: string): string => {
    const known = names.get(name)
    if (known === undefined) names.set(name, name)
    return known ?? name
  }
  const candidates = options.targets.map((target, index): Member => ({
    target,
    about: about(target),
    adapter: adapterOf(target, index),
    scopeKeys: Targets.scopeKeys(target).map(once),
    limits: limitScopes(target, options.limits ?? {}, options.name).map(({ key, limits }) => ({
      key: once(key),
      limits
    })),
    retry: typeof options.retry === "function" ? options.retry(target) : options.retry ?? Retry.standard,
    circuit: once(`target:${target.id}`),
    health: healthKeys(target).map(once),
    budget: once(`${target.provider}/${target.model}`),
    hedging: {
      complete: once(`complete:${target.provider}/${target.model}`),
      stream: once(`stream:${target.provider}/${target.model}`),
      execute: once(`execute:${target.provider}/${target.model}`)
    }
  })).sort((a, b) => a.target.order - b.target.order)
  const board = Boards.make(candidates)
  return {
    ...checked,
    ...parts,
    candidates,
    groups: candidates.map((_) => _.scopeKeys),
    circuitKeys: candidates.map((_) => _.circuit),
    board,
    isSilent: (index, now) => Boards.isSilent(board, index, now),
    everyone: { fit: new Uint8Array(candidates.length).fill(1), fitting: candidates.length, skipped: [] },
    selective: candidates.some(({ target }) =>
      target.tenants !== undefined || Object.values(target.capabilities).includes(false)
    ),
    smallestWindow: Math.min(...candidates.map((_) => _.target.contextWindow ?? Number.POSITIVE_INFINITY)),
    calls: 0,
    hung: new Map()
  }
}

/** Throws a `RangeError` that names the option that makes no sense. */
export const check = (options: Options): Checked => {
  const maxAttempts = options.maxAttempts ?? 10
  const patienceMs = Duration.toMillis(Duration.fromInputUnsafe(options.patience ?? "3 seconds"))
  if (options.targets.length === 0) throw new RangeError("Router: targets must not be empty")
  if (!Number.isInteger(maxAttempts) || maxAttempts < 1) {
    throw new RangeError(`Router: maxAttempts must be an integer >= 1, got ${maxAttempts}`)
  }
  if (!(patienceMs >= 0)) throw new RangeError(`Router: patience must be >= 0, got ${String(options.patience)}`)
  const queueWaitMs = Duration.toMillis(Duration.fromInputUnsafe(options.queueWait ?? "15 seconds"))
  if (!(queueWaitMs >= 0)) throw new RangeError(`Router: queueWait must be >= 0, got ${String(options.queueWait)}`)
  const maxEjected = options.maxEjected ?? 0.5
  if (!(maxEjected >= 0 && maxEjected <= 1)) {
    throw new RangeError(`Router: maxEjected must be between 0 and 1, got ${maxEjected}`)
  }
  checkLimits(options.limits ?? {}, options.targets)
  const ids = new Set<string>()
  for (const target of options.targets) {
    if (ids.has(target.id)) {
      throw new RangeError(`Router: two targets have the id "${target.id}"; give one an "id" of its own`)
    }
    ids.add(target.id)
  }
  const { strategy = Selection.ordered } = options
  const tiered = new Set(options.targets.map((_) => _.order)).size > 1
  const within = (strategy: Selection.Strategy): Selection.Strategy =>
    tiered && strategy !== Selection.ordered ? Selection.tiers(strategy) : strategy
  const chosen = typeof strategy === "function" ? Selection.tiers(strategy) : within(strategy)
  return {
    recovery: Recovery.make(options.recovery),
    maxAttempts,
    patienceMs,
    limits: limitsOf(options.timeouts ?? {}),
    queueWaitMs,
    ejection: { maxPercent: maxEjected * 100, keep: maxEjected === 1 ? 0 : 1 },
    strategy: chosen,
    sticky: typeof strategy === "function" || !strategy.sticky ? chosen : within(Selection.sticky(strategy)),
    affinity: options.affinity ?? "request",
    streamPolicy: options.streamPolicy ?? "fail",
    tenants: new Map(
      Object.entries(options.limits?.tenants ?? {}).map(([tenant, limits]) => [
        tenant,
        { scope: { key: named(`tenant:${tenant}`, options.name), limits }, scopes: new Map() }
      ])
    )
  }
}

const checkLimits = (limits: SharedLimits, targets: ReadonlyArray<Targets.Target>): void => {
  const known = {
    providers: new Set(targets.map((_) => _.provider)),
    groups: new Set(targets.map((_) => _.group)),
    keys: new Set(targets.map((_) => _.key?.id))
  }
  if (limits.all !== undefined) plan(limits.all, "Router: limits.all")
  for (const field of ["providers", "groups", "keys", "tenants"] as const) {
    for (const [name, of] of Object.entries(limits[field] ?? {})) {
      plan(of, `Router: limits.${field}.${name}`)
      if (field !== "tenants" && !known[field].has(name)) {
        throw new RangeError(`Router: limits.${field}.${name} is for no target`)
      }
    }
  }
}

const limitsOf = (options: TimeoutOptions): Engine["limits"] => {
  const millis = (field: keyof TimeoutOptions): number => {
    const value = Duration.toMillis(Duration.fromInputUnsafe(options[field] ?? Timeouts.defaults[field]))
    if (!(value > 0)) throw new RangeError(`Router: timeouts.${field} must be > 0, got ${String(options[field])}`)
    return value
  }
  return {
    total: millis("total"),
    attempt: millis("attempt"),
    connect: millis("connect"),
    firstToken: millis("firstToken"),
    idle: millis("idle")
  }
}

/** The limits an attempt at a target counts in, by the scope keys under which failures are known as well. */
const limitScopes = (
  target: Targets.Target,
  shared: SharedLimits,
  name: string | undefined
): ReadonlyArray<LimitScope> => {
  const scopes: Array<LimitScope> = []
  const add = (key: string | undefined, limits: Limits | undefined): void => {
    if (key !== undefined && limits !== undefined) scopes.push({ key, limits })
  }
  add(Targets.scopeKey(target, "model"), target.limits)
  if (target.key !== undefined) add(Targets.scopeKey(target, "key"), shared.keys?.[target.key.id])
  if (target.group !== undefined) add(Targets.scopeKey(target, "group"), shared.groups?.[target.group])
  add(Targets.scopeKey(target, "provider"), shared.providers?.[target.provider])
  add(named("all", name), shared.all)
  return scopes
}

/** Routers over one limiter share what providers count; what only a router counts is its own when it has a name. */
const named = (key: string, name: string | undefined): string => name === undefined ? key : `${key}#${name}`

/** Health is known of a target, of its model, of its key and of its provider. */
const healthKeys = (target: Targets.Target): ReadonlyArray<string> =>
  (["target", "model", "key", "provider"] as const).flatMap((scope) => {
    const key = scope === "key" && target.key === undefined ? undefined : Targets.scopeKey(target, scope)
    return key === undefined ? [] : [key]
  })
