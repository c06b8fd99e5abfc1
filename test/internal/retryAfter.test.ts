import { assert, describe, it } from "@effect/vitest"
import {
  explicitWait,
  type Headers,
  lowerCased,
  parseDate,
  parseDuration,
  resetWait,
  responseTime,
  roundUp,
  textWait
} from "../../src/internal/retryAfter.ts"

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

const at = (iso: string): number => Date.parse(iso)

describe("parseDate", () => {
  it("knows the months of HTTP dates by their names, whatever the case", () => {
    const names = ["Jan", "feb", "MAR", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    for (const [month, name] of names.entries()) {
      assert.strictEqual(parseDate(`Sun, 06 ${name} 2026 08:49:37 GMT`), Date.UTC(2026, month, 6, 8, 49, 37), name)
    }
  })

  it("reads all three forms of HTTP", () => {
    for (
      const text of ["Fri, 06 Nov 2026 08:49:37 GMT", "Friday, 06-Nov-26 08:49:37 GMT", "Fri Nov  6 08:49:37 2026"]
    ) {
      assert.strictEqual(parseDate(text), at("2026-11-06T08:49:37Z"), text)
    }
  })

  const dates: ReadonlyArray<readonly [text: string, iso: string | undefined]> = [
    ["2026-01-31", "2026-01-31T00:00:00Z"],
    ["2026-12-01", "2026-12-01T00:00:00Z"],
    ["2026-11-06 08:49", "2026-11-06T08:49:00Z"],
    ["2026-11-06T08:49:37", "2026-11-06T08:49:37Z"],
    ["2026-11-06T08:49:37.25Z", "2026-11-06T08:49:37.250Z"],
    ["2026-11-06 08:49:37 UTC", "2026-11-06T08:49:37Z"],
    ["2026-11-06T08:49:37+05:30", "2026-11-06T03:19:37Z"],
    ["2026-11-06T08:49:37-0530", "2026-11-06T14:19:37Z"],
    ["2026-11-06T08:49:37-08:00", "2026-11-06T16:49:37Z"],
    ["2026-11-06T08:49:37+13:45", "2026-11-05T19:04:37Z"],
    ["2026-11-06T24:00:00Z", "2026-11-07T00:00:00Z"],
    ["2026-12-31T23:59:60Z", "2027-01-01T00:00:00Z"],
    ["2026-00-06", undefined],
    ["2026-13-06", undefined],
    ["2026-11-00", undefined],
    ["2026-11-32", undefined],
    ["2026-11-06T25:00:00Z", undefined],
    ["2026-11-06T08:60:00Z", undefined],
    ["2026-11-06T08:49:61Z", undefined],
    ["Fri, 06 Foo 2026 08:49:37 GMT", undefined],
    ["soon", undefined]
  ]
  for (const [text, iso] of dates) {
    it(`reads ${text} as ${iso ?? "no date"}`, () => {
      assert.strictEqual(parseDate(text), iso === undefined ? undefined : at(iso))
    })
  }
})

describe("parseDuration", () => {
  const units: ReadonlyArray<readonly [names: ReadonlyArray<string>, millis: number]> = [
    [["ns"], 1e-6],
    [["us", "µs"], 1e-3],
    [["ms", "msec", "msecs", "millisecond", "milliseconds"], 1],
    [["s", "sec", "secs", "second", "seconds"], second],
    [["m", "min", "mins", "minute", "minutes"], minute],
    [["h", "hr", "hrs", "hour", "hours"], hour],
    [["d", "day", "days"], day],
    [["week", "weeks"], 7 * day]
  ]

  it("knows every unit by its names", () => {
    for (const [names, millis] of units) {
      for (const name of names) {
        assert.strictEqual(parseDuration(`3${name}`), 3 * millis, name)
        assert.strictEqual(parseDuration(`1.5 ${name}`), 1.5 * millis, name)
      }
    }
  })

  it("adds up what a text consists of", () => {
    assert.strictEqual(parseDuration("1h47m17.664s"), hour + 47 * minute + 17_664)
    assert.strictEqual(parseDuration("1 hour and 5 minutes"), hour + 5 * minute)
  })

  it("has no use for more than 64 characters, and none for a number without a unit", () => {
    const long = "0".repeat(11)
    const text = `${long}1.${long}0h${long}1.${long}0h000000001.0s`
    assert.strictEqual(text.length, 64)
    assert.strictEqual(parseDuration(text), 2 * hour + second)
    const longer = text.replace("1.0s", "1.00s")
    assert.strictEqual(longer.length, 65)
    assert.isUndefined(parseDuration(longer))
    assert.isUndefined(parseDuration("12"))
  })
})

it("rounding up leaves out the dust of binary fractions, and zero has no sign", () => {
  assert.deepStrictEqual([1.1, 1.000_000_1, 2, 0.5].map(roundUp), [2, 1, 2, 1])
  assert.isTrue(Object.is(roundUp(0), 0))
  assert.strictEqual(roundUp(Number.POSITIVE_INFINITY), Number.MAX_SAFE_INTEGER)
})

describe("headers", () => {
  it("are read under lower-case names, repeated ones as a list, absent ones not at all", () => {
    const headers = lowerCased({ "Retry-After": ["5", "10"], Date: "today", "X-Absent": undefined })
    assert.deepStrictEqual(headers, { "retry-after": "5, 10", date: "today" })
  })

  const now = at("2026-11-06T08:00:00Z")
  const date = "Fri, 06 Nov 2026 07:00:00 GMT"

  it("dates are relative to the response's own, or else to the local time", () => {
    assert.strictEqual(responseTime({ date }, now), at("2026-11-06T07:00:00Z"))
    assert.strictEqual(responseTime({ date: "never" }, now), now)
    assert.strictEqual(responseTime({}, now), now)
  })

  const explicit: ReadonlyArray<readonly [headers: Headers, wait: number | undefined]> = [
    [{}, undefined],
    [{ "retry-after": "7" }, 7000],
    [{ "retry-after": " 1.5 " }, 1500],
    [{ "retry-after": "5, 10" }, 10_000],
    [{ "retry-after": "10, 5" }, 10_000],
    [{ "retry-after": "soon, 5" }, 5000],
    [{ "retry-after": "5, soon" }, 5000],
    [{ "retry-after": "soon, later" }, undefined],
    [{ "retry-after": "Fri, 06 Nov 2026 08:00:30 GMT" }, 30_000],
    [{ "retry-after": "Fri, 06 Nov 2026 08:00:30 GMT", date }, 3_630_000],
    [{ "retry-after": "Fri, 06 Nov 2026 07:00:30 GMT" }, 0],
    [{ "retry-after-ms": "250", "retry-after": "7" }, 250],
    [{ "x-ms-retry-after-ms": "300", "retry-after": "7" }, 300],
    [{ "retry-after-ms": "soon", "retry-after": "7" }, 7000],
    [{ "retry-after-ms": "Fri, 06 Nov 2026 08:00:30 GMT" }, undefined]
  ]
  for (const [headers, wait] of explicit) {
    it(`${JSON.stringify(headers)} asks for ${wait === undefined ? "no wait" : `${wait} ms`}`, () => {
      assert.strictEqual(explicitWait(headers, now), wait)
    })
  }

  const reset = (value: string, bareNumbers = true): number | undefined =>
    resetWait({ "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": value }, now, { bareNumbers })

  it("a reset is a duration, a date, seconds, or an epoch in seconds or milliseconds", () => {
    assert.strictEqual(reset("6m0s"), 6 * minute)
    assert.strictEqual(reset("2026-11-06T08:00:09Z"), 9000)
    assert.strictEqual(reset("2.5"), 2500)
    assert.strictEqual(reset(String(now / 1000 + 12)), 12_000)
    assert.strictEqual(reset(String(now + 12)), 12)
    assert.strictEqual(reset("1000000000"), 1e12)
    assert.isUndefined(reset("1000000001"))
    assert.strictEqual(reset("1000000000000"), 1e15 - now)
    assert.isUndefined(reset("1000000000001"))
    assert.strictEqual(reset("100000000000000"), 1e14 - now)
    assert.isUndefined(reset("100000000000001"))
    assert.isUndefined(reset("soon"))
    assert.isUndefined(reset("1e3"))
  })

  it("bare numbers are left alone where nobody knows their unit", () => {
    assert.isUndefined(reset("2.5", false))
    assert.strictEqual(reset("2s", false), 2000)
  })

  const headers = { "anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "1s" }
  const resets: ReadonlyArray<readonly [rule: string, headers: Headers, wait: number | undefined]> = [
    ["of a limit that is used up counts", headers, 1000],
    ["of a limit that is not used up does not", { ...headers, "anthropic-ratelimit-tokens-remaining": "1" }, undefined],
    ["without a balance does not", { "x-ratelimit-reset": "1s" }, undefined],
    [
      "with a balance that is no number does not",
      { ...headers, "anthropic-ratelimit-tokens-remaining": "" },
      undefined
    ],
    ["without a value does not", { ...headers, "anthropic-ratelimit-tokens-reset": undefined }, undefined],
    ["of zero says nothing", { ...headers, "anthropic-ratelimit-tokens-reset": "0s" }, undefined],
    ["of half a millisecond is one", { ...headers, "anthropic-ratelimit-tokens-reset": "0.5ms" }, 0.5],
    ["that cannot be read says nothing", { ...headers, "anthropic-ratelimit-tokens-reset": "soon" }, undefined],
    [
      "is the longest of several",
      { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s", ...headers },
      3000
    ],
    [
      "is the longest of several, in any order",
      { ...headers, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s" },
      3000
    ],
    ["of another header is none", { "x-remaining": "0", "x-reset": "3s" }, undefined]
  ]
  for (const [rule, headers, wait] of resets) {
    it(`a reset ${rule}`, () => {
      assert.strictEqual(resetWait(headers, now, { bareNumbers: true }), wait)
    })
  }
})

describe("textWait", () => {
  const now = at("2026-11-06T08:00:00Z")
  const texts: ReadonlyArray<readonly [text: string, wait: number | undefined]> = [
    ["rate limit reached, please try again in 1m30s.", 90_000],
    ["retry after 20 seconds", 20_000],
    ["retry-after: 12", 12_000],
    ["retrydelay: \"34s\"", 34_000],
    ["the client will retry in 4 seconds", undefined],
    ["the client will retry in 4 seconds. try again in 9 seconds", 9000],
    ["resets at 2026-11-06 at 08:00:05 utc", 5000],
    ["limit reached|" + String(now / 1000 + 30), 30_000],
    ["limit reached, no number", undefined],
    ["error 20: a message without any word about time", undefined],
    ["请在 20 秒后重试", 20_000],
    ["请等待 3 分钟后再试", 180_000],
    ["于 2 小时之后恢复", 7_200_000],
    ["错误 20：时间不对", undefined]
  ]
  for (const [text, wait] of texts) {
    it(`"${text}" asks for ${wait === undefined ? "no wait" : `${wait} ms`}`, () => {
      assert.strictEqual(textWait(text, now), wait)
    })
  }
})
