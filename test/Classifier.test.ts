import { assert, describe, it } from "@effect/vitest"
import { Classifier, LLMError } from "breakwater"
import { Cause, Duration, Effect, Inspectable, Redacted, Schema } from "effect"
import { AiError } from "effect/ai"
import { HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import { inspect } from "node:util"
import { classifyLine } from "../src/internal/classifyLine.ts"
import { parseDate, parseDuration, textWait } from "../src/internal/retryAfter.ts"

const json = (value: unknown): string => JSON.stringify(value)

const openai = (status: number, error: Record<string, unknown>, headers: Classifier.HeaderMap = {}) =>
  Classifier.fromHttp({ provider: "openai", model: "gpt-4o", status, headers, body: json({ error }) })

const millis = (error: LLMError.LLMError): number | undefined =>
  error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)

const node = (error: unknown, sent?: boolean) => Classifier.fromUnknown(error, { provider: "openai", sent })

const thrown = (message: string, fields: Record<string, unknown> = {}, cause?: unknown): Error =>
  Object.assign(new Error(message, cause === undefined ? undefined : { cause }), fields)

describe("Classifier", () => {
  describe("totality", () => {
    const classes = new Set(LLMError.ErrorClass.literals)
    const isOne = (error: LLMError.LLMError) =>
      assert.isTrue(LLMError.isLLMError(error) && classes.has(error.errorClass))

    it.effect.prop(
      "returns one of the seven errors for any response",
      [Schema.String, Schema.Int, Schema.Record(Schema.String, Schema.String), Schema.String],
      ([provider, status, headers, body]) =>
        Effect.sync(() => {
          isOne(Classifier.fromHttp({ provider, status, headers, body }))
          isOne(Classifier.fromSse({ provider, status, headers, body }))
        })
    )

    it.effect.prop(
      "returns one of the seven errors for any JSON",
      [Schema.Json, Schema.Int],
      ([value, status]) =>
        Effect.sync(() => {
          const body = json(value)
          isOne(Classifier.fromHttp({ provider: "openai", status, headers: {}, body }))
          isOne(Classifier.fromHttp({ provider: "openai", status: 400, headers: {}, body: json({ error: value }) }))
          isOne(Classifier.fromSse({ provider: "openai", body: `data: ${body}\n\n` }))
          isOne(Classifier.fromUnknown(value, { provider: "openai" }))
          isOne(Classifier.fromUnknown({ status, error: value, cause: value }, { provider: "openai" }))
        })
    )

    it("returns one of the seven errors for values that fight back", () => {
      const cyclic: Record<string, unknown> = { message: "cyclic" }
      cyclic["cause"] = cyclic
      const throwing = new Proxy({}, {
        get: () => {
          throw new Error("get")
        },
        ownKeys: () => {
          throw new Error("ownKeys")
        },
        getPrototypeOf: () => {
          throw new Error("getPrototypeOf")
        }
      })
      const getter = {
        get message(): string {
          throw new Error("getter")
        }
      }
      const revoked = Proxy.revocable([], {})
      revoked.revoke()
      const deep = Array.from({ length: 5000 }).reduce<unknown>((cause) => ({ message: "deep", cause }), undefined)
      const values = [null, undefined, 0, Number.NaN, 1n, "", "x", Symbol("s"), () => 1, [], [[]], new Map([[1, 2]])]
      for (const value of [...values, cyclic, throwing, getter, revoked.proxy, deep, new Date(Number.NaN)]) {
        isOne(Classifier.fromUnknown(value, { provider: "openai" }))
      }
    })

    it("reads long and hostile text in a bounded time", () => {
      const units = [
        "a ",
        "{",
        "[",
        "'",
        "1",
        "model ",
        "limit: 1 ",
        "try again in 1h ",
        "data: {\n\n",
        "\\\"code\\\":\"",
        "<title>"
      ]
      for (const unit of units) {
        const body = unit.repeat(Math.ceil(1_000_000 / unit.length))
        const start = performance.now()
        isOne(Classifier.fromHttp({ provider: "openai", status: 0, headers: {}, body }))
        assert.isBelow(performance.now() - start, 500, unit)
      }
    })

    it.effect.prop("is deterministic", [Schema.String, Schema.Int], ([body, status]) =>
      Effect.sync(() => {
        const classify = () => json(Classifier.fromHttp({ provider: "groq", status, headers: {}, body }))
        assert.strictEqual(classify(), classify())
      }))

    it("leaves one of the seven errors as it is", () => {
      for (const errorClass of LLMError.ErrorClass.literals) {
        const error = LLMError.make(errorClass, { provider: "groq", reason: "unknown" })
        assert.strictEqual(Classifier.fromUnknown(error, { provider: "openai" }), error)
      }
    })
  })

  describe("whose fault it is", () => {
    const callersFault = [
      ["context_length_exceeded", "This model's maximum context length is 8192 tokens."],
      ["content_policy_violation", "Your request was rejected as a result of our safety system."],
      ["model_not_found", "The model `gpt-9` does not exist"],
      ["unsupported_parameter", "Unsupported parameter: 'stop' is not supported with this model."],
      ["unknown_parameter", "Unknown parameter: 'foo'."],
      ["invalid_prompt", "Invalid prompt"],
      ["json_validate_failed", "Failed to generate JSON"]
    ] as const
    const statuses = Array.from({ length: 100 }, (_, index) => 400 + index)

    it("T21: a request that cannot succeed is Permanent whatever 4xx or 5xx status carries it", () => {
      for (const status of [...statuses, 500, 502, 503]) {
        for (const [code, message] of callersFault) {
          const error = openai(status, { message, type: "invalid_request_error", code })
          assert.strictEqual(error.errorClass, "permanent", `${status} ${code}`)
          assert.isFalse(error.isRetryable)
        }
      }
    })

    it("T21: a plain invalid request is Permanent for every 4xx status that has no meaning of its own", () => {
      const own = new Set([401, 402, 403, 407, 408, 424, 425, 429, 451, 460, 498, 499])
      for (const status of statuses.filter((status) => !own.has(status))) {
        const error = openai(status, { message: "Invalid value for 'n'.", type: "invalid_request_error" })
        assert.strictEqual(error.errorClass, "permanent", String(status))
      }
    })

    it("a redirect is no fault of the request: whoever sends us elsewhere is not the provider", () => {
      for (const status of [301, 302, 303, 307, 308]) {
        for (const body of ["", "<html><body>Moved</body></html>"]) {
          const error = Classifier.fromHttp({
            provider: "vllm",
            status,
            headers: { location: "https://a.example/" },
            body
          })
          assert.deepStrictEqual([error.errorClass, error.status, error.isRetryable], ["server_error", status, true])
        }
      }
    })

    it("T22: the body's code wins over the status, and a spent credit is not retried", () => {
      for (const code of ["insufficient_quota", "billing_not_active", "insufficient_balance"]) {
        for (const status of statuses) {
          const error = openai(status, { message: "", type: code, code })
          assert.isFalse(error.isRetryable, `${status} ${code}`)
          assert.strictEqual(error.scope, "key")
        }
      }
      const anthropic = Classifier.fromHttp({
        provider: "anthropic",
        status: 400,
        headers: {},
        body: json({
          type: "error",
          error: { type: "invalid_request_error", message: "Your credit balance is too low" }
        })
      })
      assert.deepStrictEqual([anthropic.errorClass, anthropic.reason], ["authentication", "insufficient_quota"])
    })

    it("T22: a spent credit inside a stream is not retried either", () => {
      const error = Classifier.fromSse({
        provider: "openai",
        status: 200,
        event: "error",
        body: json({ type: "error", error: { type: "insufficient_quota", code: "insufficient_quota", message: "x" } })
      })
      assert.strictEqual(error.reason, "insufficient_quota")
      assert.isFalse(error.isRetryable)
    })

    it("T21: an abort reaches no further than the request", () => {
      const error = node(new DOMException("This operation was aborted", "AbortError"))
      assert.deepStrictEqual([error.reason, error.scope], ["client_abort", "request"])
      assert.isFalse(error.isRetryable)
    })

    it("does not believe digits that the caller sent", () => {
      const error = Classifier.fromHttp({
        provider: "openai",
        status: 400,
        headers: {},
        body: "Invalid user message={'role': 'user', 'content': 'rate limit exceeded 429 invalid api key'}"
      })
      assert.strictEqual(error.errorClass, "permanent")
    })
  })

  describe("waits", () => {
    const limited = (headers: Classifier.HeaderMap, message = "", receivedAt?: number) =>
      Classifier.fromHttp({ provider: "openai", status: 429, headers, body: json({ error: { message } }), receivedAt })

    it("T30: takes the header before the body, and rounds up", () => {
      const message = "Rate limit reached. Please try again in 20s."
      assert.strictEqual(millis(limited({ "Retry-After-Ms": "1500.2", "retry-after": "9" }, message)), 1501)
      assert.strictEqual(millis(limited({ "RETRY-AFTER": "9" }, message)), 9000)
      assert.strictEqual(millis(limited({}, message)), 20_000)
    })

    it("T30: keeps a long wait as it is stated", () => {
      assert.strictEqual(millis(limited({ "retry-after": "86400" })), 86_400_000)
    })

    it("reads the reset headers of a 429 only where nothing remains", () => {
      const reset = { "x-ratelimit-reset-requests": "3s", "x-ratelimit-reset-tokens": "6m0s" }
      assert.strictEqual(millis(limited({ ...reset, "x-ratelimit-remaining-requests": "0" })), 3000)
      assert.strictEqual(
        millis(limited({ ...reset, "x-ratelimit-remaining-requests": "5", "x-ratelimit-remaining-tokens": "7" })),
        undefined
      )
      assert.strictEqual(
        millis(openai(400, { message: "Invalid prompt" }, { "x-ratelimit-remaining-requests": "0", ...reset })),
        undefined
      )
    })

    it("ignores Azure's reset headers, whose unit nobody knows", () => {
      const headers = { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7" }
      assert.strictEqual(Classifier.retryAfterMs({ provider: "azure", status: 429, headers }), undefined)
      assert.strictEqual(Classifier.retryAfterMs({ provider: "together", status: 429, headers }), 7000)
    })

    it("measures dates against the response's own clock, or else against the time of arrival", () => {
      const date = { "retry-after": "Fri, 29 Sep 2023 16:26:57 GMT" }
      assert.strictEqual(millis(limited({ ...date, date: "Fri, 29 Sep 2023 16:26:47 GMT" }, "", 0)), 10_000)
      assert.strictEqual(millis(limited(date, "", Date.UTC(2023, 8, 29, 16, 26, 56))), 1000)
      assert.strictEqual(millis(limited(date)), undefined)
    })

    it("reads no wait from a response that did not fail", () => {
      assert.strictEqual(Classifier.retryAfterMs({ status: 200, headers: { "retry-after": "59" } }), undefined)
      const error = Classifier.fromSse({
        provider: "anthropic",
        status: 200,
        headers: { "retry-after": "59" },
        body:
          "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"
      })
      assert.strictEqual(millis(error), undefined)
    })

    it("tells a server's wait from a client's words and from times that have passed", () => {
      const none = [
        "Retrying in 4 seconds… (attempt 4/10)",
        "I will retry in 5 seconds",
        "created within the last 5 minutes",
        "it can take up to 15 minutes",
        "timeout of 5000ms exceeded",
        "Retrying after 6173ms",
        "will retry after 8s",
        "waited for 30 seconds",
        "try again in a few minutes"
      ]
      for (const text of none) assert.strictEqual(textWait(text.toLowerCase(), 0), undefined, text)
      assert.strictEqual(textWait("please try again in 1h47m17.664s.", 0), 6_437_664)
      assert.strictEqual(textWait("try again in 22 minutes", 0), 1_320_000)
      assert.strictEqual(textWait("try again in 1h 5m", 0), 3_900_000)
      assert.strictEqual(textWait("your quota will reset after 5s.. retrying after 6173ms...", 0), 5000)
      assert.strictEqual(textWait("rate limit exceeded, wait for 7 seconds", 0), 7000)
      assert.strictEqual(
        textWait("you will regain access on 2025-09-01 at 00:00 utc.", Date.UTC(2025, 7, 31, 23)),
        3_600_000
      )
    })

    it("ignores what is no date and no duration", () => {
      for (const text of ["", "soon", "2023-13-01T00:00:00Z", "Fri, 29 Foo 2023 16:26:57 GMT", "10000-01-01"]) {
        assert.strictEqual(parseDate(text), undefined, text)
      }
      for (const text of ["", "12", "s", "-1s", "1x", "1e3s"]) assert.strictEqual(parseDuration(text), undefined, text)
      assert.strictEqual(parseDate("Friday, 29-Sep-23 16:26:57 GMT"), Date.UTC(2023, 8, 29, 16, 26, 57))
      assert.strictEqual(parseDate("2023-09-29T18:26:57+02:00"), Date.UTC(2023, 8, 29, 16, 26, 57))
    })

    it("carries x-should-retry into the error", () => {
      assert.isFalse(openai(500, { message: "x" }, { "x-should-retry": "false" }).isRetryable)
      assert.isTrue(Classifier.isRetryableStatus(400, "true"))
      assert.isFalse(Classifier.isRetryableStatus(503, "false"))
    })
  })

  describe("unwrapping", () => {
    const overloaded = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}"

    it("finds the provider's error inside arrays, strings, gateways, frames and Python's notation", () => {
      const bodies = [
        `[${overloaded}]`,
        json(overloaded),
        json({ error: { message: overloaded } }),
        json({ error: { message: "Provider returned error", metadata: { raw: { data: overloaded } } } }),
        `Error from proxy: ${overloaded} (attempt 2)`,
        `event: error\r\ndata: ${overloaded}\r\n\r\n`,
        "Error code - {'type': 'error', 'error': {'type': 'overloaded_error', 'message': 'Overloaded'}}",
        overloaded.slice(0, -3)
      ]
      for (const body of bodies) {
        const error = Classifier.fromHttp({ provider: "anthropic", status: 500, headers: {}, body })
        assert.strictEqual(error.reason, "overloaded", body)
      }
    })

    it("reads JSON inside JSON that was cut off", () => {
      const inner = json({
        error: { code: 429, message: "Quota exceeded.\nPlease retry in 33.7s.", status: "RESOURCE_EXHAUSTED" }
      })
      const body = json({ error: { message: inner } }).slice(0, -20)
      const error = Classifier.fromHttp({ provider: "gemini", status: 0, headers: {}, body })
      assert.strictEqual(error.errorClass, "rate_limit")
      assert.strictEqual(millis(error), 33_700)
    })

    it("knows a page after a client's words, but not a page that a parser quotes", () => {
      const page = "<!DOCTYPE html><html><head><title>Web server is down</title></head></html>"
      const reasonOf = (body: string) =>
        Classifier.fromHttp({ provider: "openai", status: 0, headers: {}, body }).reason
      assert.strictEqual(reasonOf(`521 ${page}`), "html_error_page")
      assert.strictEqual(reasonOf(`HTTP code 522 from API (${page}`), "gateway_timeout")
      assert.strictEqual(reasonOf("Unexpected token '<', \"<html><bod\"... is not valid JSON"), "invalid_response")
    })

    it("knows from the system call what an unknown code means", () => {
      const error = node(thrown("connect ENOENT /run/llm.sock", { code: "ENOENT", syscall: "connect" }))
      assert.strictEqual(error.reason, "conn_refused")
      assert.isFalse(error.maybeBilled)
      assert.strictEqual(node(thrown("open", { code: "ENOENT", syscall: "open" })).reason, "unknown")
    })

    it("takes the status and headers of a client library's error, wherever they are", () => {
      const data = { error: { message: "Rate limit reached", type: "requests" } }
      const errors = [
        thrown("429 Rate limit reached", {
          status: 429,
          headers: new Headers({ "retry-after": "3" }),
          error: data.error
        }),
        thrown("Request failed", { response: { status: 429, headers: { "Retry-After": "3" }, data } }),
        thrown("Rate limit", { statusCode: 429, responseHeaders: { "retry-after": "3" }, responseBody: json(data) }),
        thrown("Failed after 3 attempts", {
          lastError: thrown("Rate limit", { statusCode: 429, responseHeaders: { "retry-after": "3" } })
        })
      ]
      for (const error of errors) {
        const classified = node(error)
        assert.deepStrictEqual([classified.errorClass, classified.status, millis(classified)], [
          "rate_limit",
          429,
          3000
        ])
      }
    })

    it("knows Effect's HTTP errors", () => {
      const request = HttpClientRequest.post("https://api.openai.com/v1/chat/completions")
      const refused = new HttpClientError.HttpClientError({
        reason: new HttpClientError.TransportError({
          request,
          cause: thrown("fetch failed", {}, thrown("connect ECONNREFUSED", { code: "ECONNREFUSED" }))
        })
      })
      assert.strictEqual(node(refused).reason, "conn_refused")
      const status = new HttpClientError.HttpClientError({
        reason: new HttpClientError.StatusCodeError({
          request,
          response: HttpClientResponse.fromWeb(
            request,
            new Response("", { status: 503, headers: { "retry-after": "2" } })
          )
        })
      })
      assert.deepStrictEqual([node(status).errorClass, node(status).status, millis(node(status))], [
        "server_error",
        503,
        2000
      ])
      const url = new HttpClientError.HttpClientError({ reason: new HttpClientError.InvalidUrlError({ request }) })
      assert.strictEqual(node(url).errorClass, "permanent")
      assert.strictEqual(node(new Cause.TimeoutError()).errorClass, "timeout")
    })

    it("knows the reasons of AiError", () => {
      const reasons = [
        [new AiError.RateLimitError({ retryAfter: Duration.seconds(2) }), "rate_limit"],
        [new AiError.QuotaExhaustedError({}), "authentication"],
        [new AiError.AuthenticationError({ kind: "InvalidKey" }), "authentication"],
        [new AiError.ContentPolicyError({ description: "x" }), "permanent"],
        [new AiError.InvalidRequestError({ description: "x" }), "permanent"],
        [new AiError.InternalProviderError({ description: "x" }), "server_error"],
        [new AiError.InvalidOutputError({ description: "x" }), "server_error"],
        [
          new AiError.NetworkError({ reason: "TransportError", method: "GET", url: "https://x.test" }),
          "transient_network"
        ]
      ] as const
      for (const [reason, errorClass] of reasons) {
        const error = node(new AiError.AiError({ module: "OpenAi", method: "generateText", reason }))
        assert.strictEqual(error.errorClass, errorClass, reason._tag)
      }
    })
  })

  describe("billing", () => {
    it("is certain that a request was not executed only where it cannot have been", () => {
      const connect = (code: string) => thrown("fetch failed", {}, thrown(`connect ${code}`, { code }))
      for (const code of ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT", "CERT_HAS_EXPIRED"]) {
        assert.isFalse(node(connect(code)).maybeBilled, code)
      }
      for (const code of ["ECONNRESET", "UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT", "UND_ERR_SOCKET"]) {
        assert.isTrue(node(connect(code)).maybeBilled, code)
        assert.isFalse(node(connect(code), false).maybeBilled, code)
      }
      for (const status of [400, 401, 403, 404, 413, 429, 503, 529]) {
        assert.isFalse(openai(status, { message: "x" }).maybeBilled, String(status))
      }
      for (const status of [500, 502, 504, 524]) {
        assert.isTrue(openai(status, { message: "x" }).maybeBilled, String(status))
      }
    })

    it("counts what was streamed", () => {
      const body = json({ type: "error", error: { type: "overloaded_error", message: "Overloaded" } })
      assert.isFalse(Classifier.fromSse({ provider: "anthropic", body }).maybeBilled)
      assert.isTrue(Classifier.fromSse({ provider: "anthropic", body, contentSeen: true }).maybeBilled)
    })

    it("T35: a stream without a terminal event is a network failure that may have been billed", () => {
      const error = Classifier.streamTruncated({ provider: "openai", model: "gpt-4o", requestId: "req_1" })
      assert.deepStrictEqual([error.errorClass, error.reason, error.maybeBilled], [
        "transient_network",
        "stream_truncated",
        true
      ])
      assert.isTrue(error.isRetryable)
    })
  })

  describe("secrets and prompts", () => {
    const rendered = (error: LLMError.LLMError): string =>
      [
        json(error),
        String(error),
        inspect(error, { depth: 10, showHidden: true }),
        Inspectable.toStringUnknown(error),
        Cause.pretty(Cause.fail(error)),
        json(Schema.encodeUnknownSync(LLMError.LLMError)(error))
      ].join("\n")

    const wrapped = (secret: string): ReadonlyArray<LLMError.LLMError> => {
      const secrets = [Redacted.make(secret)]
      const context = { provider: "openai", secrets }
      const text = `key ${secret} at https://x.test/v1?key=${
        encodeURIComponent(secret)
      }&a=1 (Authorization: Bearer ${secret})`
      const body = json({ error: { message: text, code: secret, param: secret }, request_id: secret })
      const cause = thrown(text, { code: secret, config: { headers: { authorization: `Bearer ${secret}` } } })
      const outer = thrown(
        "outer",
        { headers: { "x-api-key": secret }, request: { url: text } },
        thrown(text, {}, cause)
      )
      return [
        ...[200, 400, 401, 429, 500].flatMap((status) => [
          Classifier.fromHttp({ ...context, status, headers: { "x-api-key": secret, "x-request-id": secret }, body }),
          Classifier.fromHttp({ ...context, status, headers: {}, body: `Invalid header ${text}` }),
          Classifier.fromSse({ ...context, status, body: `event: error\ndata: ${body}\n\n` })
        ]),
        Classifier.fromUnknown(outer, context),
        Classifier.fromUnknown({ status: 401, error: { message: text }, response: { data: body } }, context),
        Classifier.fromUnknown(text, context)
      ]
    }

    it.effect.prop(
      "T40: a given secret is in no rendering of an error, wherever it came in",
      [Schema.String.check(Schema.isPattern(/^[A-Za-z0-9+/=_"\\ \n-]{8,40}$/))],
      ([random]) =>
        Effect.sync(() => {
          const secret = `canary${random}canary`
          for (const error of wrapped(secret)) {
            const text = rendered(error)
            for (const form of [secret, json(secret).slice(1, -1), encodeURIComponent(secret)]) {
              assert.isFalse(text.includes(form), text)
            }
          }
        })
    )

    it("T40: a credential is recognised by its shape or its place when nobody names it", () => {
      const texts = [
        "Incorrect API key provided: sk-proj-CANARY1234567890abcdef. You can find",
        "invalid key gsk_CANARY1234567890abcdef",
        "https://generativelanguage.googleapis.com/v1beta/models/x?key=CANARYvalue&alt=sse failed",
        "https://user:CANARYpass@proxy.test:8080 refused",
        "header x-api-key: CANARYvalue is invalid",
        "{'authorization': 'Basic CANARYvalue=='}",
        "Headers.append: \"Bearer CANARY\nvalue\" is an invalid header value.",
        "token AIzaCANARY1234567890abcdefghij",
        "xai-CANARY1234567890abcdef was revoked",
        "AKIACANARY1234567890 is not valid",
        "jwt eyJhbGciOiJCANARY.eyJzdWIiCANARY.CANARYsignature",
        "opaque 9CANARY0123456789abcdef0123456789abcdef"
      ]
      for (const text of texts) {
        for (
          const error of [
            node(thrown(text)),
            Classifier.fromHttp({ provider: "x", status: 401, headers: {}, body: text })
          ]
        ) {
          assert.isFalse(rendered(error).includes("CANARY"), text)
        }
      }
    })

    it("does not repeat the prompt that a provider repeats", () => {
      const bodies = [
        json({ detail: [{ type: "missing", loc: ["body"], msg: "Field required", input: { messages: "CANARY" } }] }),
        "Invalid user message={'role': 'user', 'content': 'CANARY'}",
        "Value error, bad, 'input': {'messages': [{'role': 'user', 'content': 'CANARY'}]}",
        json({ error: { message: "Failed", code: "tool_use_failed", failed_generation: "CANARY" } }),
        `Invalid value at 'contents[0].text' (TYPE_STRING), "CANARY"`,
        `Failed to deserialize: invalid type: string "CANARY", expected a map`,
        `Invalid: "${"CANARY words of a long prompt ".repeat(10)}"`
      ]
      for (const body of bodies) {
        const error = Classifier.fromHttp({ provider: "vllm", status: 422, headers: {}, body })
        assert.isFalse(rendered(error).includes("CANARY"), body)
      }
    })

    it("keeps the provider's words, short, and the name and code of what was thrown", () => {
      const error = node(
        thrown("fetch failed", {}, thrown("connect ECONNREFUSED 127.0.0.1:1", { code: "ECONNREFUSED" }))
      )
      assert.deepStrictEqual(error.cause, {
        name: "Error",
        code: "ECONNREFUSED",
        message: "fetch failed: connect ECONNREFUSED 127.0.0.1:1"
      })
      assert.isAtMost(openai(400, { message: "bad words ".repeat(100) }).detail?.length ?? 0, 300)
      assert.strictEqual(openai(400, { message: "bad\n  words" }).detail, "bad words")
      const overflow =
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
      assert.strictEqual(openai(400, { message: overflow, code: "context_length_exceeded" }).detail, overflow)
    })

    it("keeps the request id for the provider's support", () => {
      assert.strictEqual(openai(500, { message: "x" }, { "X-Request-Id": "req_1" }).requestId, "req_1")
      const error = Classifier.fromSse({ provider: "anthropic", body: json({ type: "error", request_id: "req_2" }) })
      assert.strictEqual(error.requestId, "req_2")
    })
  })

  describe("classifyLine", () => {
    const line = (fields: Record<string, unknown>) =>
      classifyLine(json({ provider: "groq", kind: "http", status: 429, headers: {}, body: "", ...fields }), 7)

    it("classifies a line", () => {
      assert.deepStrictEqual(line({ id: "a", headers: { "Retry-After": "2" }, note: "ignored" }), {
        id: "a",
        class: "RateLimit",
        reason: "rate_limit",
        scope: "model",
        retryAfterMs: 2000,
        isRetryable: true,
        maybeBilled: false
      })
    })

    it("takes receivedAt as an ISO date or as epoch milliseconds", () => {
      const headers = { "retry-after": "Fri, 29 Sep 2023 16:26:57 GMT" }
      for (const receivedAt of ["2023-09-29T16:26:47Z", Date.UTC(2023, 8, 29, 16, 26, 47)]) {
        const actual = line({ headers, receivedAt })
        assert.strictEqual(typeof actual === "string" ? actual : actual.retryAfterMs, 10_000)
      }
    })

    it("says what is wrong with a line", () => {
      assert.strictEqual(classifyLine("{", 3), "line 3: not valid JSON")
      assert.strictEqual(classifyLine("[]", 3), "line 3: must be an object, got []")
      assert.strictEqual(line({ status: "429" }), "line 7: status must be a number, got \"429\"")
      assert.strictEqual(line({ kind: "grpc" }), "line 7: kind must be \"http\", \"network\" or \"sse\", got \"grpc\"")
      assert.strictEqual(line({ provider: undefined }), "line 7: provider must be a provider name, got nothing")
      assert.strictEqual(
        line({ receivedAt: "today" }),
        "line 7: receivedAt must be an ISO date or epoch milliseconds, got \"today\""
      )
    })
  })
})
