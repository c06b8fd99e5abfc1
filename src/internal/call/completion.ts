/**
 * Builds what a caller gets from what an adapter returned.
 *
 * @internal
 */
import type * as Response from "effect/ai/Response"
import type { Attempt } from "../../LLMError.ts"
import type { Completion, Timings } from "../../LLMService.ts"
import type { Reply } from "../../Provider.ts"
import type { Target } from "../../Target.ts"
import type { Spent } from "./call.ts"

/** US dollars of an attempt; unknown without prices or usage. */
export const cost = (target: Target, spent: Spent): number | undefined => {
  const { price } = target
  if (price === undefined) return undefined
  const used = spent._tag === "Reported" ? fromReport(spent.usage) : spent.usage
  switch (used) {
    case undefined:
    case "unknown":
      return undefined
    case "nothing-sent":
      return 0
    default: {
      const cached = Math.min(used.cachedInput ?? 0, used.input)
      const dollars = (used.input - cached) * price.input + cached * (price.cachedInput ?? price.input) +
        used.output * price.output
      return dollars / 1_000_000
    }
  }
}

const fromReport = ({ inputTokens, outputTokens }: Response.Usage) =>
  inputTokens.total === undefined || outputTokens.total === undefined
    ? undefined
    : { input: inputTokens.total, output: outputTokens.total, cachedInput: inputTokens.cacheRead ?? 0 }

/** What all attempts of a call have cost, as far as it is known. */
export interface Total {
  readonly cost: number | undefined
  readonly costAtLeast: boolean
}

export const total = (attempts: ReadonlyArray<Attempt>): Total => {
  let cost: number | undefined
  let costAtLeast = false
  for (const attempt of attempts) {
    if (attempt.cost !== undefined) cost = (cost ?? 0) + attempt.cost
    else if (attempt.outcome === "success") return { cost: undefined, costAtLeast: true }
    else costAtLeast ||= attempt.maybeBilled
  }
  return { cost, costAtLeast }
}

export const make = (
  target: Target,
  reply: Reply,
  attempts: ReadonlyArray<Attempt>,
  timings: Timings
): Completion => {
  const { cost, costAtLeast } = total(attempts)
  return {
    content: reply.content,
    text: text(reply),
    usage: reply.usage,
    finishReason: reply.finishReason,
    target: target.id,
    provider: target.provider,
    model: reply.model,
    requestId: reply.requestId,
    attempts,
    cost,
    costAtLeast,
    timings
  }
}

const text = (reply: Reply): string => {
  let joined = ""
  for (const part of reply.content) if (part.type === "text") joined += part.text
  return joined
}

/** What an adapter has said in the metadata that is ours. */
const knownOf = ({ metadata: { breakwater: known } }: Response.ResponseMetadataPart | Response.FinishPart) =>
  typeof known === "object" && known !== null && !Array.isArray(known) ? known : undefined

/** The decision record as far as it goes when content begins, as the `breakwater` metadata of the part that comes first. */
export const annotateStart = (
  part: Response.ResponseMetadataPart,
  target: Target,
  attempts: ReadonlyArray<Attempt>,
  waitedMs: number
): Response.ResponseMetadataPart => {
  return {
    ...part,
    metadata: {
      ...part.metadata,
      breakwater: {
        ...knownOf(part),
        target: target.id,
        // The attempt that answers is not over, so it is in no record yet.
        attempts: attempts.length + 1,
        waitedMs
      }
    }
  }
}

/** The decision record as the `breakwater` metadata of a stream's finish part. */
export const annotateFinish = (
  part: Response.FinishPart,
  target: Target,
  attempts: ReadonlyArray<Attempt>,
  timings: Timings
): Response.FinishPart => {
  const { cost, costAtLeast } = total(attempts)
  return {
    ...part,
    metadata: {
      ...part.metadata,
      breakwater: {
        ...knownOf(part),
        target: target.id,
        attempts: attempts.map((attempt) => ({ ...attempt, skipped: attempt.skipped.map((_) => ({ ..._ })) })),
        timings: { ...timings },
        costAtLeast,
        ...(cost === undefined ? undefined : { cost })
      }
    }
  }
}
