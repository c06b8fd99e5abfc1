/**
 * The simulated providers as code without Effect meets them: a promise a request, rejected as an HTTP client of a vendor
 * would reject it. The rules are those of the simulation, and so is what is written down of each request.
 */
import { Redacted } from "effect"
import type { Decision, Desk } from "../../../src/internal/providerServer/desk.ts"
import type { Observer } from "../../../src/internal/simulation/network.ts"
import { type Call, promptOf } from "../../../src/internal/simulation/traffic.ts"
import type { Target } from "../../../src/Target.ts"

/** What answers the requests of a provider, and who is told of them. */
export interface Server {
  readonly desk: Desk
  readonly observer: Observer
}

/** The answer of a provider that is no answer to the question. */
export class HttpError extends Error {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>

  constructor(status: number, headers: Readonly<Record<string, string>>) {
    super(`status ${status}`)
    this.status = status
    this.headers = headers
  }

  /** The wait that was stated, in milliseconds. */
  get retryAfterMs(): number | undefined {
    const { "retry-after": seconds, "retry-after-ms": millis } = this.headers
    const stated = millis === undefined ? Number(seconds) * 1000 : Number(millis)
    return Number.isFinite(stated) ? stated : undefined
  }
}

/** Waits, unless the signal says that nobody does any more. */
export const pause = (millis: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const leave = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", leave)
      resolve()
    }, Math.ceil(millis))
    signal.addEventListener("abort", leave, { once: true })
  })

const requestOf = (target: Target, call: Call) => {
  const secret = target.key === undefined ? undefined : Redacted.value(target.key.value)
  const isAnthropic = target.provider === "anthropic"
  const credentials = secret === undefined
    ? {}
    : isAnthropic
    ? { "x-api-key": secret }
    : { authorization: `Bearer ${secret}` }
  return {
    method: "POST",
    path: isAnthropic ? "/v1/messages" : "/v1/chat/completions",
    headers: { "anthropic-version": "2023-06-01", ...credentials },
    text: JSON.stringify({
      model: target.model,
      messages: [{ role: "user", content: promptOf(call) }],
      max_tokens: call.maxTokens
    })
  }
}

/** Sends the request of a call to a target; resolves with the status of the answer once all of it is there. */
export const exchange = async (
  { desk, observer }: Server,
  target: Target,
  call: Call,
  signal: AbortSignal
): Promise<{ readonly status: number; readonly headers: Readonly<Record<string, string>> }> => {
  const onTheWay = desk.network()
  if (onTheWay > 0) await pause(onTheWay, signal)
  const decision = desk.decide(requestOf(target, call))
  observer.arrived(decision)
  let output = decision.admitted?.leaving ?? 0
  let isOver = false
  const leave = (outcome: Decision["outcome"] | "aborted"): void => {
    if (isOver) return
    isOver = true
    decision.settle(output)
    observer.left(decision, outcome, output)
  }
  let head: { readonly status: number; readonly headers: Readonly<Record<string, string>> } | undefined
  try {
    for (const step of decision.steps) {
      switch (step._tag) {
        case "Head":
          head = step
          break
        case "Sleep":
          if (step.millis > 0) await pause(step.millis, signal)
          break
        case "Write":
          output = step.output
          break
        case "Hang":
          await pause(2 ** 31 - 1, signal)
          break
        case "Destroy":
          throw new Error("read ECONNRESET")
        case "Release":
          leave(decision.outcome)
          break
        case "End":
          break
      }
    }
  } catch (error) {
    leave(signal.aborted ? "aborted" : decision.outcome)
    throw error
  }
  leave(decision.outcome)
  if (head === undefined) throw new Error("read ECONNRESET")
  return head
}
