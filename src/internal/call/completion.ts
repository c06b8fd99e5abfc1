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

/** US dollars of an answer; unknown without prices or usage. */
export const cost = (target: Target, usage: Response.Usage): number | undefined => {
  const { price } = target
  const input = usage.inputTokens.total
  const output = usage.outputTokens.total
  if (price === undefined || input === undefined || output === undefined) return undefined
  const cached = Math.min(usage.inputTokens.cacheRead ?? 0, input)
  const dollars = (input - cached) * price.input + cached * (price.cachedInput ?? price.input) + output * price.output
  return dollars / 1_000_000
}

export const make = (
  target: Target,
  reply: Reply,
  attempts: ReadonlyArray<Attempt>,
  timings: Timings
): Completion => ({
  content: reply.content,
  text: text(reply),
  usage: reply.usage,
  finishReason: reply.finishReason,
  target: target.id,
  provider: target.provider,
  model: reply.model,
  requestId: reply.requestId,
  attempts,
  cost: cost(target, reply.usage),
  timings
})

const text = (reply: Reply): string => {
  let joined = ""
  for (const part of reply.content) if (part.type === "text") joined += part.text
  return joined
}

/** The decision record as the `breakwater` metadata of a stream's finish part. */
export const annotateFinish = (
  part: Response.FinishPart,
  target: Target,
  attempts: ReadonlyArray<Attempt>,
  timings: Timings
): Response.FinishPart => {
  const dollars = cost(target, part.usage)
  const known = part.metadata["breakwater"]
  return {
    ...part,
    metadata: {
      ...part.metadata,
      breakwater: {
        ...(typeof known === "object" && known !== null && !Array.isArray(known) ? known : undefined),
        target: target.id,
        attempts: attempts.map((attempt) => ({ ...attempt, skipped: attempt.skipped.map((_) => ({ ..._ })) })),
        timings: { ...timings },
        ...(dollars === undefined ? undefined : { cost: dollars })
      }
    }
  }
}
