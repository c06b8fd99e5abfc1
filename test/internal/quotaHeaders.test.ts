import { assert, describe, it } from "@effect/vitest"
import type { Observation } from "../../src/internal/limiter/observation.ts"
import { observations } from "../../src/internal/quotaHeaders.ts"

const date = "Mon, 23 Jun 2025 10:26:50 GMT"
const now = Date.UTC(2025, 5, 23, 10, 26, 50)
const minute = 60_000
const day = 86_400_000
const month = 31 * day

const cases: ReadonlyArray<{
  readonly rule: string
  readonly provider: string
  readonly status?: number
  readonly headers: Record<string, string | ReadonlyArray<string>>
  readonly expected: ReadonlyArray<Observation>
}> = [
  {
    rule: "openai: figures that fill up in a minute are limits of a minute",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-requests": "30000",
      "x-ratelimit-remaining-requests": "29999",
      "x-ratelimit-reset-requests": "2ms",
      "x-ratelimit-limit-tokens": "150000",
      "x-ratelimit-remaining-tokens": "147808",
      "x-ratelimit-reset-tokens": "877ms"
    },
    expected: [
      { dimension: "requests", limit: 30_000, remaining: 29_999, resetMs: 2, windowMs: minute },
      { dimension: "tokens", limit: 150_000, remaining: 147_808, resetMs: 877, windowMs: minute }
    ]
  },
  {
    rule: "openai: 8.64 s for one of 10 000 requests proves a limit of the day",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-requests": "10000",
      "x-ratelimit-remaining-requests": "9999",
      "x-ratelimit-reset-requests": "8.64s"
    },
    expected: [{ dimension: "requests", limit: 10_000, remaining: 9999, resetMs: 8640, windowMs: day }]
  },
  {
    rule: "openai: a full bucket of requests tells no window, one of tokens counts a minute",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-requests": "200",
      "x-ratelimit-remaining-requests": "200",
      "x-ratelimit-reset-requests": "0s",
      "x-ratelimit-limit-tokens": "40000",
      "x-ratelimit-remaining-tokens": "40000",
      "x-ratelimit-reset-tokens": "0s"
    },
    expected: [
      { dimension: "requests", limit: 200, remaining: 200, resetMs: 0 },
      { dimension: "tokens", limit: 40_000, remaining: 40_000, resetMs: 0, windowMs: minute }
    ]
  },
  {
    rule: "openai: the project's limits stand beside the organisation's",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-tokens": "150000",
      "x-ratelimit-remaining-tokens": "149000",
      "x-ratelimit-limit-project-tokens": "50000",
      "x-ratelimit-remaining-project-tokens": "49000",
      "x-ratelimit-reset-project-tokens": "1.2s",
      "x-ratelimit-limit-project-requests": "500",
      "x-ratelimit-remaining-project-requests": "499",
      "x-ratelimit-reset-project-requests": "120ms"
    },
    expected: [
      { dimension: "tokens", limit: 150_000, remaining: 149_000, windowMs: minute },
      { dimension: "requests", limit: 500, remaining: 499, resetMs: 120, windowMs: minute },
      { dimension: "tokens", limit: 50_000, remaining: 49_000, resetMs: 1200, windowMs: minute }
    ]
  },
  {
    rule: "openai: the old usage based tier and images are told apart from tokens",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-tokens_usage_based": "90000",
      "x-ratelimit-remaining-tokens_usage_based": "89000",
      "x-ratelimit-limit-input-images": "5",
      "x-ratelimit-remaining-input-images": "4"
    },
    expected: [{ dimension: "tokens", limit: 90_000, remaining: 89_000, windowMs: minute }]
  },
  {
    rule: "openai: a billing 429 carries no headers and states nothing",
    provider: "openai",
    status: 429,
    headers: { "x-request-id": "req_1", date },
    expected: []
  },
  {
    rule: "azure: the unit of a bare reset is unknown, the period is in seconds",
    provider: "azure",
    headers: {
      "x-ratelimit-limit-requests": "60",
      "x-ratelimit-remaining-requests": "59",
      "x-ratelimit-reset-requests": "500",
      "x-ratelimit-renewalperiod-requests": "10",
      "x-ratelimit-limit-tokens": "10000",
      "x-ratelimit-remaining-tokens": "9900",
      "x-ratelimit-reset-tokens": "0",
      "x-ratelimit-abusepenalty-active": "False"
    },
    expected: [
      { dimension: "requests", limit: 60, remaining: 59, windowMs: 10_000 },
      { dimension: "tokens", limit: 10_000, remaining: 9900, windowMs: minute }
    ]
  },
  {
    rule: "anthropic: dates are relative to the response's own date",
    provider: "anthropic",
    headers: {
      "Date": date,
      "Anthropic-RateLimit-Requests-Limit": "50",
      "anthropic-ratelimit-requests-remaining": "49",
      "anthropic-ratelimit-requests-reset": "2025-06-23T10:26:53Z",
      "anthropic-ratelimit-input-tokens-limit": "40000",
      "anthropic-ratelimit-input-tokens-remaining": "40000",
      "anthropic-ratelimit-input-tokens-reset": "2025-06-23T10:26:49Z",
      "anthropic-ratelimit-output-tokens-limit": "8000",
      "anthropic-ratelimit-output-tokens-remaining": "7000",
      "anthropic-ratelimit-output-tokens-reset": "2025-06-23T10:26:57.500Z",
      "anthropic-ratelimit-tokens-limit": "48000",
      "anthropic-ratelimit-tokens-remaining": "47000",
      "retry-after": "59"
    },
    expected: [
      { dimension: "requests", limit: 50, remaining: 49, resetMs: 3000, windowMs: minute },
      { dimension: "tokens", limit: 48_000, remaining: 47_000, windowMs: minute },
      { dimension: "inputTokens", limit: 40_000, remaining: 40_000, resetMs: 0, windowMs: minute },
      { dimension: "outputTokens", limit: 8000, remaining: 7000, resetMs: 7500, windowMs: minute }
    ]
  },
  {
    rule: "groq: requests count a day and tokens a minute",
    provider: "groq",
    headers: {
      "x-ratelimit-limit-requests": "14400",
      "x-ratelimit-remaining-requests": "14370",
      "x-ratelimit-reset-requests": "2m59.56s",
      "x-ratelimit-limit-tokens": "18000",
      "x-ratelimit-remaining-tokens": "17997",
      "x-ratelimit-reset-tokens": "7.66s"
    },
    expected: [
      { dimension: "requests", limit: 14_400, remaining: 14_370, resetMs: 179_560, windowMs: day },
      { dimension: "tokens", limit: 18_000, remaining: 17_997, resetMs: 7660, windowMs: minute }
    ]
  },
  {
    rule: "mistral: requests count ten seconds, tokens a minute and a month",
    provider: "mistral",
    headers: {
      "x-ratelimit-limit-req-10-second": "60",
      "x-ratelimit-remaining-req-10-second": "59",
      "x-ratelimit-limit-tokens-minute": "500000",
      "x-ratelimit-remaining-tokens-minute": "499890",
      "x-ratelimit-limit-tokens-month": "1000000000",
      "x-ratelimit-remaining-tokens-month": "999000000",
      "x-ratelimit-tokens-query-cost": "110"
    },
    expected: [
      { dimension: "requests", limit: 60, remaining: 59, windowMs: 10_000 },
      { dimension: "tokens", limit: 500_000, remaining: 499_890, windowMs: minute },
      { dimension: "tokens", limit: 1_000_000_000, remaining: 999_000_000, windowMs: month }
    ]
  },
  {
    rule: "mistral: the older by-size headers count a minute and a month once each",
    provider: "mistral",
    headers: {
      "ratelimitbysize-limit": "500000",
      "ratelimitbysize-remaining": "499968",
      "ratelimitbysize-reset": "33",
      "ratelimitbysize-query-cost": "32",
      "x-ratelimitbysize-limit-minute": "500000",
      "x-ratelimitbysize-remaining-minute": "499968",
      "x-ratelimitbysize-limit-month": "1000000000",
      "x-ratelimitbysize-remaining-month": "999999968"
    },
    expected: [
      { dimension: "tokens", limit: 500_000, remaining: 499_968, resetMs: 33_000, windowMs: minute },
      { dimension: "tokens", limit: 1_000_000_000, remaining: 999_999_968, windowMs: month }
    ]
  },
  {
    rule: "mistral: equal figures of two windows are two observations",
    provider: "mistral",
    headers: { "x-ratelimit-limit-tokens-minute": "500", "x-ratelimit-limit-tokens-month": "500" },
    expected: [
      { dimension: "tokens", limit: 500, windowMs: minute },
      { dimension: "tokens", limit: 500, windowMs: month }
    ]
  },
  {
    rule: "together: the plain headers count a second",
    provider: "together",
    headers: { "x-ratelimit-limit": "2", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "1" },
    expected: [{ dimension: "requests", limit: 2, remaining: 1, resetMs: 1000, windowMs: 1000 }]
  },
  {
    rule: "cohere: the trial counts calls a minute, the endpoint calls a month",
    provider: "cohere",
    headers: {
      "x-trial-endpoint-call-limit": "40",
      "x-trial-endpoint-call-remaining": "39",
      "x-endpoint-monthly-call-limit": "1000",
      "x-api-warning": "deprecated"
    },
    expected: [
      { dimension: "requests", limit: 40, remaining: 39, windowMs: minute },
      { dimension: "requests", limit: 1000, windowMs: month }
    ]
  },
  {
    rule: "xai: tokens count a minute, the window of requests is not documented",
    provider: "xai",
    headers: {
      "x-ratelimit-limit-requests": "480",
      "x-ratelimit-remaining-requests": "479",
      "x-ratelimit-limit-tokens": "4000000",
      "x-ratelimit-remaining-tokens": "3999000"
    },
    expected: [
      { dimension: "requests", limit: 480, remaining: 479 },
      { dimension: "tokens", limit: 4_000_000, remaining: 3_999_000, windowMs: minute }
    ]
  },
  {
    rule: "openrouter: a reset in epoch milliseconds is relative to the response",
    provider: "openrouter",
    headers: {
      date,
      "X-RateLimit-Limit": "20",
      "X-RateLimit-Remaining": "0",
      "X-RateLimit-Reset": String(now + minute)
    },
    expected: [{ dimension: "requests", limit: 20, remaining: 0, resetMs: minute }]
  },
  {
    rule: "litellm: the headers of the provider behind the proxy are read as well",
    provider: "litellm",
    headers: {
      date,
      "llm_provider-x-ratelimit-limit-requests": "500",
      "llm_provider-x-ratelimit-remaining-requests": "499",
      "llm_provider-x-ratelimit-reset-requests": "120ms",
      "llm_provider-anthropic-ratelimit-output-tokens-limit": "8000",
      "llm_provider-anthropic-ratelimit-output-tokens-remaining": "6000",
      "llm_provider-anthropic-ratelimit-output-tokens-reset": "2025-06-23T10:27:05Z"
    },
    expected: [
      { dimension: "outputTokens", limit: 8000, remaining: 6000, resetMs: 15_000, windowMs: minute },
      { dimension: "requests", limit: 500, remaining: 499, resetMs: 120 }
    ]
  },
  {
    rule: "litellm: the same figures under both names are one observation",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-tokens": "1000",
      "x-ratelimit-remaining-tokens": "900",
      "x-ratelimit-reset-tokens": "6s",
      "llm_provider-x-ratelimit-limit-tokens": "1000",
      "llm_provider-x-ratelimit-remaining-tokens": "900",
      "llm_provider-x-ratelimit-reset-tokens": "6s"
    },
    expected: [{ dimension: "tokens", limit: 1000, remaining: 900, resetMs: 6000, windowMs: minute }]
  },
  {
    rule: "an unknown provider: no window is assumed",
    provider: "my-vllm",
    headers: { "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "900" },
    expected: [{ dimension: "tokens", limit: 1000, remaining: 900 }]
  },
  {
    rule: "an unknown provider: epoch seconds are a date, other bare numbers are seconds",
    provider: "my-server",
    headers: {
      date,
      "x-ratelimit-limit": "100",
      "x-ratelimit-remaining": "99",
      "x-ratelimit-reset": String(now / 1000 + 30),
      "x-ratelimit-limit-requests": "10",
      "x-ratelimit-remaining-requests": "5",
      "x-ratelimit-reset-requests": "30"
    },
    expected: [
      { dimension: "requests", limit: 10, remaining: 5, resetMs: 30_000 },
      { dimension: "requests", limit: 100, remaining: 99, resetMs: 30_000 }
    ]
  },
  {
    rule: "deepseek and moonshot send none",
    provider: "deepseek",
    headers: { "x-ds-trace-id": "1", date },
    expected: []
  },
  {
    rule: "figures that are not whole numbers are no figures",
    provider: "openai",
    headers: {
      "x-ratelimit-limit-requests": "many",
      "x-ratelimit-remaining-requests": "-1",
      "x-ratelimit-limit-tokens": "0",
      "x-ratelimit-remaining-tokens": "1e3",
      "x-ratelimit-reset-tokens": "soon"
    },
    expected: []
  },
  {
    rule: "of a repeated header the smallest figure counts",
    provider: "openai",
    headers: { "x-ratelimit-limit-tokens": ["5000", "3000"], "x-ratelimit-remaining-tokens": "10, 20" },
    expected: [{ dimension: "tokens", limit: 3000, remaining: 10, windowMs: minute }]
  },
  {
    rule: "a 429 is read, as its remainders are the most telling",
    provider: "openai",
    status: 429,
    headers: {
      "x-ratelimit-limit-tokens": "40000",
      "x-ratelimit-remaining-tokens": "0",
      "x-ratelimit-reset-tokens": "1m0s"
    },
    expected: [{ dimension: "tokens", limit: 40_000, remaining: 0, resetMs: minute, windowMs: minute }]
  },
  {
    rule: "a gateway's 502 says nothing about a quota",
    provider: "openai",
    status: 502,
    headers: { "x-ratelimit-limit-tokens": "40000", "x-ratelimit-remaining-tokens": "0" },
    expected: []
  },
  {
    rule: "a refused credential has no bucket",
    provider: "openai",
    status: 401,
    headers: { "x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0" },
    expected: []
  }
]

describe("quotaHeaders", () => {
  for (const { expected, headers, provider, rule, status } of cases) {
    it(rule, () => assert.deepStrictEqual(observations(provider, status ?? 200, headers, now), expected))
  }

  it("without a date of the response, local time is what dates are relative to", () =>
    assert.deepStrictEqual(
      observations("anthropic", 200, {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-reset": "2025-06-23T10:26:53Z"
      }, now - 7000),
      [{ dimension: "requests", limit: 50, resetMs: 10_000, windowMs: minute }]
    ))

  it("an observation holds only what was stated, never a field without a value", () => {
    for (const { headers, provider } of cases) {
      for (const observation of observations(provider, 200, headers, now)) {
        for (const value of Object.values(observation)) assert.isDefined(value)
      }
    }
  })
})
