/**
 * Who can serve a call at all: by tenant, tags, capabilities and context window.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Errors from "../../LLMError.ts"
import { tagsOf, type Target } from "../../Target.ts"
import type { Engine, Fitness } from "./call.ts"
import * as Records from "./record.ts"
import * as Requests from "./request.ts"

type Why = Errors.Skipped["why"]

/** What a call demands of whoever serves it. */
export interface Demand {
  readonly tenant: string | undefined
  readonly tags: ReadonlyArray<string>
  /** Why a target cannot serve the call for another reason. */
  readonly unable: ((target: Target) => Why | undefined) | undefined
}

const whyNot = (demand: Demand, target: Target): Why | undefined => {
  if (target.tenants !== undefined && (demand.tenant === undefined || !target.tenants.has(demand.tenant))) {
    return "tenant"
  }
  for (const tag of demand.tags) if (!target.tags.has(tag)) return "tags"
  return demand.unable?.(target)
}

/** Finds out who meets a demand; `fitting` is 0 when nobody does. */
export const of = (engine: Engine, demand: Demand): Fitness => {
  if (!engine.selective && demand.tags.length === 0 && demand.unable === undefined) return engine.everyone
  const fit = new Uint8Array(engine.candidates.length)
  const skipped: Array<Errors.Skipped> = []
  engine.candidates.forEach(({ target }, index) => {
    const why = whyNot(demand, target)
    if (why === undefined) fit[index] = 1
    else skipped.push({ target: target.id, why })
  })
  return { fit, fitting: fit.length - skipped.length, skipped }
}

/** Finds out who can serve a request of a model. */
export const ofRequest = (
  engine: Engine,
  request: Requests.Prepared
): Effect.Effect<Fitness, Errors.LLMError> => {
  const fitness = of(engine, {
    tenant: request.tenant,
    tags: request.tags === undefined ? none : tagsOf(request.tags),
    unable: engine.selective
      ? ({ capabilities }) => Requests.missing(capabilities, request) === undefined ? undefined : "capability"
      : undefined
  })
  if (fitness.fitting === 0) return Records.refused(engine, request, unable(engine, request))
  const isShort = engine.smallestWindow === Infinity ||
    2 * Requests.size(request.prompt) + (request.maxTokens ?? 0) <= engine.smallestWindow
  return isShort ? Exit.succeed(fitness) : withinWindows(engine, request, fitness)
}

const none: ReadonlyArray<string> = []

// An estimate may be wrong by so much; what exceeds all windows by more is not worth a request.
const tolerance = 1.25

const withinWindows = (
  engine: Engine,
  request: Requests.Prepared,
  fitness: Fitness
): Effect.Effect<Fitness, Errors.LLMError> => {
  const example = engine.candidates.find(({ target }, index) =>
    fitness.fit[index] === 1 && target.contextWindow !== undefined
  )
  if (example === undefined) return Effect.succeed(fitness)
  // The request was checked when the call began, so an estimate cannot fail.
  return Effect.flatMap(Effect.orDie(engine.usage.estimate(request, example.target)), ({ input }) => {
    const needed = (target: Target): number =>
      input + Math.min(request.maxTokens ?? 0, target.maxOutputTokens ?? Number.POSITIVE_INFINITY)
    const roomy = limitedTo(engine, fitness, (target) => needed(target) <= (target.contextWindow ?? Infinity))
    if (roomy.fitting > 0) return Effect.succeed(roomy)
    let largest = 0
    for (const { target } of fitting(engine, fitness)) largest = Math.max(largest, target.contextWindow ?? 0)
    const nearly = limitedTo(
      engine,
      fitness,
      (target) => target.contextWindow === largest && needed(target) <= tolerance * largest
    )
    return nearly.fitting > 0
      ? Effect.succeed(nearly)
      : Records.refused(engine, request, tooLong(engine, input, largest))
  })
}

const fitting = (engine: Engine, fitness: Fitness) => engine.candidates.filter((_, index) => fitness.fit[index] === 1)

const limitedTo = (engine: Engine, fitness: Fitness, fits: (target: Target) => boolean): Fitness => {
  const fit = new Uint8Array(fitness.fit)
  const skipped = Array.from(fitness.skipped)
  let count = 0
  engine.candidates.forEach(({ target }, index) => {
    if (fit[index] !== 1) return
    if (fits(target)) count++
    else {
      fit[index] = 0
      skipped.push({ target: target.id, why: "context_window" })
    }
  })
  return { fit, fitting: count, skipped }
}

const refusal = (
  engine: Engine,
  reason: "unsupported_parameter" | "context_length_exceeded",
  detail: string
): Errors.LLMError =>
  new Errors.PermanentError({
    provider: engine.candidates[0]?.target.provider ?? "none",
    origin: "router",
    reason,
    scope: "request",
    detail
  })

const tooLong = (engine: Engine, input: number, largest: number): Errors.LLMError =>
  refusal(
    engine,
    "context_length_exceeded",
    `the prompt has about ${Math.round(input)} tokens; the largest context window is ${largest}`
  )

/** Whether a target is what a caller names a service: all of a provider, of a model, or itself. */
export const isOf = ({ id, model, provider }: Target, service: string): boolean =>
  service === provider || service === id || service === `${provider}/${model}`

/** Says what it is that nobody has. */
export const unable = (
  engine: Engine,
  request: Partial<Pick<Requests.Prepared, "tenant" | "tags" | "prompt" | "tools" | "responseFormat">> & {
    readonly service?: string | undefined
  }
): Errors.LLMError => {
  const { prompt, service, tenant } = request
  const tags = tagsOf(request.tags)
  const needs = new Set<string>()
  const named = service === undefined ? engine.candidates : engine.candidates.filter((_) => isOf(_.target, service))
  if (named.length === 0) needs.add(`the service "${service}"`)
  for (const { target } of named) {
    const why = whyNot({ tenant, tags, unable: undefined }, target)
    const capability = prompt === undefined ? undefined : Requests.missing(target.capabilities, { ...request, prompt })
    if (why === "tenant") {
      needs.add(tenant === undefined ? "a target without tenants" : `a target of tenant "${tenant}"`)
    } else if (why === "tags") needs.add(`the tags ${tags.join(", ")}`)
    else if (capability !== undefined) needs.add(capability)
  }
  const known = service === undefined || named.length > 0
    ? ""
    : `; known are ${Array.from(new Set(engine.candidates.map((_) => _.target.provider))).join(", ")}`
  return refusal(
    engine,
    "unsupported_parameter",
    `no target can serve a request that needs ${Array.from(needs).join(" and ")}${known}`
  )
}
