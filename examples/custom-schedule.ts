/**
 * A retry schedule of your own, from the blocks of `Retry` and `Schedule`, on any effect.
 *
 * Run it with `node examples/custom-schedule.ts`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Classifier, LLMError, Retry } from "breakwater"
import { Console, Duration, Effect, Schedule } from "effect"

// Rate limits are waited for patiently, broken connections are retried fast, everything else is not retried.
const policy = Retry.perClass({
  rate_limit: Retry.exponential({ base: "50 millis", factor: 3, max: "1 second", jitter: "equal" }).pipe(
    Schedule.upTo({ times: 5 })
  ),
  transient_network: Retry.exponential({ base: "5 millis", jitter: "full" }).pipe(Schedule.upTo({ times: 2 }))
}).pipe(
  Retry.whileRetryable,
  Retry.respectRetryAfter({ maxHint: "2 seconds" })
)

// Any promise will do, a vendor's SDK for one: `fromUnknown` turns what it throws into one of the seven errors.
let calls = 0
const callVendor = (): Promise<string> => {
  calls++
  if (calls === 1) return Promise.reject(Object.assign(new Error("socket hang up"), { code: "ECONNRESET" }))
  if (calls === 2) {
    return Promise.reject(
      Object.assign(new Error("Rate limit reached"), { status: 429, headers: { "retry-after-ms": "120" } })
    )
  }
  return Promise.resolve("the tide is high")
}

const protectedCall = Effect.tryPromise({
  try: callVendor,
  catch: (error) => Classifier.fromUnknown(error, { provider: "openai", model: "gpt-4o-mini" })
}).pipe(
  Effect.tapError((error) => Console.log(`call ${calls}: ${error.message}`)),
  Effect.retry(policy)
)

const main = Effect.gen(function*() {
  const [elapsed, answer] = yield* Effect.timed(protectedCall)
  yield* Console.log(
    `call ${calls}: ${answer}, after ${Duration.toMillis(elapsed) >= 120 ? "at least" : "less than"} 120 ms`
  )

  const refused = Effect.fail<LLMError.LLMError>(
    new LLMError.AuthenticationError({ provider: "openai", reason: "invalid_key", scope: "key" })
  )
  const error = yield* Effect.flip(Effect.retry(refused, policy))
  yield* Console.log(`not retried: ${error.message}`)
})

NodeRuntime.runMain(main)
