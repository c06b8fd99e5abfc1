/**
 * The file of a scenario as a schema: what may stand in it, and what each field means.
 *
 * @internal
 */
import * as Schema from "effect/Schema"
import { Count, Name, NotNegative, optional, optionalTime, Positive, required, requiredTime, Share } from "../fields.ts"

const Whole = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const Time = requiredTime("A time, such as `200 millis`.")

/** A time, a range of times, or a log-normal distribution of them. */
const Delay = Schema.Union([
  Time,
  Schema.Struct({ min: requiredTime("The shortest time."), max: requiredTime("The longest time.") }),
  Schema.Struct({
    median: requiredTime("Half of the times are shorter."),
    p95: requiredTime("Nineteen of twenty times are shorter.")
  })
]).annotate({
  identifier: "Delay",
  description: "A time, `{min, max}` drawn evenly, or `{median, p95}` of a log-normal distribution."
})

/** A number of tokens, a range, or a log-normal distribution. */
const Amount = Schema.Union([
  Whole,
  Schema.Struct({ min: required(Whole, "The smallest number."), max: required(Whole, "The largest number.") }),
  Schema.Struct({
    median: required(Count, "Half of the numbers are smaller."),
    p95: required(Count, "Nineteen of twenty numbers are smaller.")
  })
]).annotate({
  identifier: "Amount",
  description: "A number, `{min, max}` drawn evenly, or `{median, p95}` of a log-normal distribution."
})

const during = {
  from: optionalTime("When it begins, counted from the start; at once by default."),
  to: optionalTime("When it is over; never by default.")
}

const matching = {
  model: optional(Name, "The model it is for, as the provider spells it; all by default."),
  key: optional(Name, "The key it is for; all by default.")
}

// ---------------------------------------------------------------------------------------------------------------------
// traffic
// ---------------------------------------------------------------------------------------------------------------------

const Traffic = Schema.Struct({
  name: required(Name, "Name in the report."),
  model: optional(Name, "Model of the policy that is called; its first one by default."),
  calls: required(Positive, "Calls that arrive in one `per`, on average."),
  per: requiredTime("A time, such as `1 second` or `1 day`."),
  arrivals: optional(
    Schema.Literals(["poisson", "even"]),
    "How calls follow each other: independently (`poisson`, the default) or at equal distances (`even`)."
  ),
  together: optional(Count, "Calls that arrive at the same moment each time; 1 by default."),
  ...during,
  load: optional(
    Schema.Array(Schema.Struct({
      ...during,
      factor: required(NotNegative, "Multiple of the usual number of calls.")
    })),
    "Times of more or fewer calls; factors of overlapping times are multiplied."
  ),
  input: required(Amount, "Input tokens of a call."),
  output: required(Amount, "Output tokens that the model would write."),
  maxTokens: optional(Amount, "Output tokens that the call allows; it names no limit by default."),
  stream: optional(Schema.Boolean, "Whether answers are streamed; false by default."),
  deadline: optionalTime("How long a call may take in all; that of the policy by default."),
  priority: optional(
    Schema.Literals(["emergency", "high", "normal", "low", "background"]),
    "How urgent its calls are; `normal` by default."
  ),
  tenant: optional(Name, "Whom its calls are for."),
  tags: optional(Schema.Record(Schema.String, Schema.String), "Tags a target must have.")
}).annotate({ identifier: "Traffic" })

// ---------------------------------------------------------------------------------------------------------------------
// providers
// ---------------------------------------------------------------------------------------------------------------------

const Quota = Schema.Struct({
  limit: required(Count, "Requests or tokens that come back in one `per`."),
  per: requiredTime("Length of the window, such as `1 minute`."),
  burst: optional(Count, "What may be used at once after idling; the limit by default.")
}).annotate({ identifier: "TrueQuota" })

const Limits = Schema.Struct({
  requests: optional(Quota, "Requests."),
  tokens: optional(Quota, "Input and output tokens together."),
  inputTokens: optional(Quota, "Input tokens."),
  outputTokens: optional(Quota, "Output tokens."),
  concurrency: optional(Count, "Requests in progress at the same time.")
}).annotate({ identifier: "TrueLimits" })

const latencies = {
  firstToken: optional(Delay, "To the first token, once the request is there."),
  perChunk: optional(Delay, "Between two chunks of a stream."),
  perToken: optional(Delay, "For each output token: drawn once for an answer, which is a quick or a slow one.")
}

const Latency = Schema.Struct({
  network: optional(Delay, "From the caller to the provider."),
  ...latencies
}).annotate({ identifier: "Latency" })

const After = optional(Whole, "Content chunks before it happens; 1 by default.")
const Wait = optionalTime("The wait that is stated; none by default.")

/** What goes wrong, by `kind`. */
export const Fault = Schema.Union([
  Schema.Struct({
    kind: Schema.Literal("status"),
    status: required(
      Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 599 })),
      "Status, with the vendor's own words."
    ),
    retryAfter: Wait,
    delay: optionalTime("Time until the answer.")
  }),
  Schema.Struct({
    kind: Schema.Literal("reset"),
    afterHeaders: optional(Schema.Boolean, "Whether the response had begun.")
  }),
  Schema.Struct({ kind: Schema.Literal("noAnswer") }),
  Schema.Struct({ kind: Schema.Literal("slowFirstToken"), delay: requiredTime("Time until the first token.") }),
  Schema.Struct({
    kind: Schema.Literal("cut"),
    after: After,
    clean: optional(Schema.Boolean, "Whether the body ends properly all the same.")
  }),
  Schema.Struct({ kind: Schema.Literal("stall"), after: After, keepAlive: optionalTime("Interval of keep-alives.") }),
  Schema.Struct({ kind: Schema.Literal("malformedChunk"), after: After }),
  Schema.Struct({
    kind: Schema.Literal("errorEvent"),
    after: After,
    status: optional(Schema.Int.check(Schema.isBetween({ minimum: 400, maximum: 599 })), "Status inside the event.")
  }),
  Schema.Struct({ kind: Schema.Literal("emptyBody") }),
  Schema.Struct({
    kind: Schema.Literal("htmlPage"),
    status: optional(Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 599 })), "Status of the page.")
  })
]).annotate({ identifier: "Fault" })

/** Vendors whose words and headers a provider can have. */
export const vendors = [
  "openai",
  "groq",
  "mistral",
  "deepseek",
  "xai",
  "moonshot",
  "azure",
  "anthropic"
] as const

const Provider = Schema.Struct({
  speaks: optional(
    Schema.Literals(vendors),
    "Vendor whose format, words and headers it has; that of its name by default, and `openai` for a name not known."
  ),
  models: optional(Schema.NonEmptyArray(Name), "Models it knows; every model by default."),
  keys: optional(Schema.NonEmptyArray(Name), "Keys it accepts; those of the policy by default, or one."),
  limits: optional(Limits, "Its true quotas, whatever the policy believes; none by default."),
  limitScope: optional(
    Schema.Literals(["target", "model", "key", "server"]),
    "Who shares a quota: a model with one key (`target`, the default), a model, a key, or all."
  ),
  countRejected: optional(
    Schema.Boolean,
    "Whether a refused request costs one request of the quota; false by default."
  ),
  latency: optional(Latency, "How long it takes; no time by default."),
  overrides: optional(
    Schema.Array(Schema.Struct({
      ...matching,
      ...during,
      limits: optional(Limits, "Quotas instead of the usual ones."),
      latency: optional(Schema.Struct(latencies), "Latency instead of the usual one: a slow-down, for some time.")
    })),
    "What is different for a model, a key or some time; the first match counts."
  ),
  faults: optional(
    Schema.Array(Schema.Struct({
      ...matching,
      ...during,
      rate: optional(Share, "Share of the requests that meet it; 1 by default, which for some time is an outage."),
      fault: required(Fault, "What goes wrong.")
    })),
    "What goes wrong, how often and when; the first match counts."
  ),
  claims: optional(
    Schema.Struct({
      quota: optional(NotNegative, "Quota headers as a multiple of the truth; 0 is silence."),
      wait: optional(NotNegative, "Stated waits as a multiple of the truth; 0 is silence.")
    }),
    "What it says of its quotas; the truth by default."
  )
}).annotate({ identifier: "SimulatedProvider" })

// ---------------------------------------------------------------------------------------------------------------------
// the file
// ---------------------------------------------------------------------------------------------------------------------

const Policy = Schema.Struct({
  models: required(Schema.Record(Schema.String, Schema.Json), "The `models` of a gateway's configuration."),
  providers: optional(
    Schema.Record(Schema.String, Schema.Json),
    "The `providers` of a gateway's configuration; addresses and keys of the simulated ones by default."
  ),
  server: optional(Schema.Json, "The `server` of a gateway's configuration; nothing here."),
  access: optional(Schema.Json, "The `access` of a gateway's configuration; nothing here."),
  $schema: Schema.optionalKey(Schema.String)
}).annotate({ identifier: "Policy" })

export const File = Schema.Struct({
  $schema: Schema.optionalKey(Schema.String),
  description: optional(Schema.String, "What the scenario is about."),
  duration: requiredTime("How long calls arrive."),
  warmUp: optionalTime("Calls that arrive before are not counted; 0 by default."),
  start: optional(
    Schema.DateTimeUtcFromString,
    "The time of the clock at the start, for calendar windows; `2026-01-01T00:00:00Z` by default."
  ),
  traffic: required(Schema.NonEmptyArray(Traffic), "The calls that arrive."),
  providers: required(Schema.Record(Schema.String, Provider), "The providers as they really are, by name."),
  policies: optional(
    Schema.Record(Schema.String, Policy),
    "What handles the calls, by name: each is (a part of) a gateway's configuration. The first one by default."
  )
})

export type File = typeof File.Type
export type Encoded = typeof File.Encoded
export type Traffic = typeof Traffic.Type
export type Provider = typeof Provider.Type
export type Amount = typeof Amount.Type
export type Policy = typeof Policy.Encoded
