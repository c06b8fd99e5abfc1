import { Classifier } from "breakwater"
import { Effect } from "effect"
import type * as Harness from "../harness.ts"
import * as Subjects from "../subject.ts"

const rateLimited: Classifier.HttpFailure = {
  provider: "groq",
  model: "llama-3.3-70b-versatile",
  target: "groq/llama-3.3-70b-versatile@groq-1",
  status: 429,
  headers: {
    "content-type": "application/json",
    "date": "Sat, 21 Nov 2026 12:00:00 GMT",
    "retry-after": "12",
    "x-ratelimit-limit-requests": "14400",
    "x-ratelimit-limit-tokens": "6000",
    "x-ratelimit-remaining-requests": "14370",
    "x-ratelimit-remaining-tokens": "23",
    "x-ratelimit-reset-requests": "2m59.56s",
    "x-ratelimit-reset-tokens": "11.455s",
    "x-request-id": "req_01bench"
  },
  body: JSON.stringify({
    error: {
      message: "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_bench` service tier " +
        "`on_demand` on tokens per minute (TPM): Limit 6000, Used 5977, Requested 1168. Please try again in 11.455s.",
      type: "tokens",
      code: "rate_limit_exceeded"
    }
  })
}

const badRequest: Classifier.HttpFailure = {
  provider: "openai",
  model: "gpt-4o-mini",
  target: "openai/gpt-4o-mini@openai-1",
  status: 400,
  headers: {
    "content-type": "application/json",
    "date": "Sat, 21 Nov 2026 12:00:00 GMT",
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "x-request-id": "req_02bench"
  },
  body: JSON.stringify({
    error: {
      message: "This model's maximum context length is 128000 tokens. However, your messages resulted in 130512 " +
        "tokens. Please reduce the length of the messages.",
      type: "invalid_request_error",
      param: "messages",
      code: "context_length_exceeded"
    }
  })
}

export const groups: ReadonlyArray<Harness.Group> = [
  {
    name: "classifier: fromHttp",
    subjects: Effect.succeed([
      Subjects.fromFunction("a 429 of Groq", () => Classifier.fromHttp(rateLimited)),
      Subjects.fromFunction("a 400 of OpenAI", () => Classifier.fromHttp(badRequest))
    ])
  }
]
