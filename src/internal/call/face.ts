/**
 * The faces of a router: requests of a model, whole or streamed, and any effect.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Classifier from "../../Classifier.ts"
import * as Errors from "../../LLMError.ts"
import type { Completion, CompletionRequest, StreamPart } from "../../LLMService.ts"
import type { Adapter, Reply } from "../../Provider.ts"
import type { Usage as Used } from "../../RateLimiter.ts"
import type { Executed, ExecuteOptions } from "../../Router.ts"
import { tagsOf, type Target } from "../../Target.ts"
import type { Estimate } from "../../Usage.ts"
import * as Step from "../step.ts"
import { about } from "./about.ts"
import * as Attempts from "./attempt.ts"
import type { Engine, Fitness, Loop, Member, Need, Spent } from "./call.ts"
import * as Completions from "./completion.ts"
import * as Fitnesses from "./fitness.ts"
import * as Records from "./record.ts"
import * as Requests from "./request.ts"
import * as Calls from "./run.ts"
import * as Streaming from "./streaming.ts"

/** Characters of a prompt that calls have to share to be kept together by it. */
const prefixCharacters = 1024

const needOf = (engine: Engine, kind: Need["kind"], request: Requests.Prepared): Need => ({
  kind,
  hedgedAs: kind,
  attemptMs: kind === "stream" ? engine.limits.firstToken : engine.limits.attempt,
  priority: request.priority,
  tenant: request.tenant,
  deadlineMs: millisOf(request.deadline),
  affinity: request.affinity ??
    (engine.affinity === "prefix" ? Requests.prefix(request.prompt, prefixCharacters) : undefined),
  replays: request.idempotent ?? true,
  isPrefilled: () => Requests.isPrefilled(request.prompt),
  tokens: { input: Requests.size(request.prompt) / 4, output: request.maxTokens ?? expectedOutput },
  estimate: (target) => engine.usage.estimate(request, target)
})

/** What an answer is taken to have where nothing limits it, to compare the prices of targets. */
const expectedOutput = 500

const millisOf = (deadline: Duration.Input | undefined): number | undefined =>
  deadline === undefined ? undefined : Duration.toMillis(Duration.fromInputUnsafe(deadline))

// The engine of a router that serves requests has an adapter for each of its targets.
const adapterOf = ({ adapter, target }: Member): Adapter => {
  if (adapter === undefined) throw new RangeError(`Router: no adapter for target "${target.id}"`)
  return adapter
}

export const complete = (
  engine: Engine,
  request: CompletionRequest
): Effect.Effect<Completion, Errors.LLMError> =>
  Step.at((moment) => {
    const checked = Requests.prepare(request)
    if (Result.isFailure(checked)) return Records.refused(engine, request, checked.failure)
    const prepared = checked.success
    return Step.flatMap(moment, Fitnesses.ofRequest(engine, prepared), (fitness) => {
      const call = Calls.begin(moment, engine, needOf(engine, "complete", prepared), fitness)
      const loop: Loop<Reply> = {
        call,
        parent: undefined,
        perform: (attempt) => Attempts.complete(call, attempt, adapterOf(attempt.member), prepared),
        spent: reported
      }
      return Calls.run(
        moment,
        loop,
        ({ attempt, value }) => Completions.make(attempt.member.target, value, call.attempts, Records.timings(call))
      )
    })
  })

const reported = ({ usage }: Reply): Spent => ({ _tag: "Reported", usage })

export const stream = (engine: Engine, request: CompletionRequest): Stream.Stream<StreamPart, Errors.LLMError> =>
  Stream.unwrap(Step.at((moment) => {
    const checked = Requests.prepare(request)
    if (Result.isFailure(checked)) return Records.refused(engine, request, checked.failure)
    const prepared = checked.success
    const session = Streaming.makeSession(prepared.streamPolicy ?? engine.streamPolicy, prepared)
    return Step.flatMap(moment, Effect.zip(Fitnesses.ofRequest(engine, prepared), Effect.scope), ([fitness, scope]) => {
      const call = Calls.begin(moment, engine, needOfStream(engine, session, prepared), fitness)
      const loop: Loop<Streaming.Opened> = {
        call,
        parent: scope,
        perform: (attempt) => Streaming.open(call, session, attempt, adapterOf(attempt.member)),
        spent: undefined
      }
      const left = Effect.suspend(() => Records.ended(call, undefined))
      const watched = engine.events === undefined ? Effect.void : Scope.addFinalizer(scope, left)
      return Effect.andThen(
        watched,
        Calls.run(moment, loop, (served) => Streaming.handOver(loop, session, served, undefined))
      )
    })
  }))

// What is asked for may become longer on the way.
const needOfStream = (engine: Engine, session: Streaming.Session, request: Requests.Prepared): Need => ({
  ...needOf(engine, "stream", request),
  hedgedAs: session.policy === "buffer" ? "complete" : "stream",
  attemptMs: session.policy === "buffer" ? engine.limits.attempt : engine.limits.firstToken,
  estimate: (target) => engine.usage.estimate(session.request, target),
  isPrefilled: () => Requests.isPrefilled(session.request.prompt)
})

export const execute = <A, E, R>(
  engine: Engine,
  perform: (target: Target) => Effect.Effect<A, E, R>,
  options: ExecuteOptions<A, E>
): Effect.Effect<Executed<A>, Errors.LLMError, R> =>
  Step.at((moment) => {
    const invalid = Requests.check(options) ?? problem(options)
    if (invalid !== undefined) return Records.refused(engine, options, Requests.invalid(invalid))
    const { affinity, classify = classifyUnknown, priority, tenant, usage } = options
    const fitness = fitnessOf(engine, options)
    if (fitness.fitting === 0) return Records.refused(engine, options, Fitnesses.unable(engine, options))
    const tokens = options.tokens ?? noTokens
    const estimate: Exit.Exit<Estimate> = Exit.succeed({ ...tokens, text: tokens.input, attachments: 0, exact: false })
    const call = Calls.begin(moment, engine, {
      kind: "execute",
      hedgedAs: "execute",
      attemptMs: engine.limits.attempt,
      priority,
      tenant,
      deadlineMs: millisOf(options.deadline),
      affinity,
      replays: options.idempotent ?? true,
      isPrefilled: () => false,
      tokens,
      estimate: () => estimate
    }, fitness)
    const loop: Loop<A, R> = {
      call,
      parent: undefined,
      perform: (attempt) => {
        const { target } = attempt.member
        return Attempts.attempted(call, attempt, Effect.mapError(perform(target), (error) => classify(error, target)))
      },
      spent: (value) => ({ _tag: "Told", usage: usage === undefined ? "unknown" : told(usage, value) })
    }
    return Calls.run(moment, loop, ({ attempt, value }) => ({
      value,
      target: attempt.member.target.id,
      attempts: call.attempts,
      ...Completions.total(call.attempts),
      timings: Records.timings(call)
    }))
  })

// An answer that was paid for is not lost because somebody cannot read what it has used.
const told = <A>(usage: (value: A) => Used, value: A): Used => {
  const read = Result.try(() => usage(value))
  if (Result.isFailure(read)) return "unknown"
  const used = read.success
  if (typeof used !== "object") return used
  const isCount = (count: number): boolean => Number.isFinite(count) && count >= 0
  return isCount(used.input) && isCount(used.output) && isCount(used.cachedInput ?? 0) ? used : "unknown"
}

const noTokens = { input: 0, output: 0 }

const problem = ({ tokens }: Pick<ExecuteOptions<never, never>, "tokens">): string | undefined => {
  for (const field of ["input", "output"] as const) {
    const value = tokens?.[field] ?? 0
    if (!(Number.isFinite(value) && value >= 0)) return `tokens.${field} must be a number >= 0, got ${value}`
  }
  return undefined
}

const classifyUnknown = (error: unknown, target: Target): Errors.LLMError =>
  Errors.isLLMError(error) ? error : Classifier.fromUnknown(error, {
    ...about(target),
    secrets: target.key === undefined ? [] : [target.key.value]
  })

const fitnessOf = (
  engine: Engine,
  { service, tags, tenant }: Pick<ExecuteOptions<never, never>, "service" | "tags" | "tenant">
): Fitness =>
  Fitnesses.of(engine, {
    tenant,
    tags: tagsOf(tags),
    unable: service === undefined ? undefined : (target) => Fitnesses.isOf(target, service) ? undefined : "service"
  })
