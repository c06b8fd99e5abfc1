/**
 * The configuration file of a gateway as a schema: what may stand in it, and what each field means.
 *
 * @internal
 */
import * as Schema from "effect/Schema"
import { ErrorClass, Reason, Scope } from "../../LLMError.ts"
import {
  Count,
  Name,
  NotNegative,
  optional,
  optionalTime,
  Positive,
  required,
  requiredTime,
  Share,
  Time
} from "../fields.ts"

const Texts = Schema.Record(Schema.String, Schema.String)

// ---------------------------------------------------------------------------------------------------------------------
// limits
// ---------------------------------------------------------------------------------------------------------------------

const Quota = Schema.Struct({
  limit: required(Positive, "Requests or tokens in one `per`."),
  per: requiredTime("Length of the window, such as `1 minute`."),
  burst: optional(Positive, "What may be used at once after idling; the limit by default."),
  window: optional(
    Schema.Literals(["continuous", "sliding", "calendar"]),
    "How the quota comes back: little by little (default), each use one `per` after it, or all at the start of a period."
  ),
  timeZone: optional(Name, "Time zone of calendar windows; UTC by default.")
}).annotate({ identifier: "Quota" })

const Quotas = Schema.Union([Quota, Schema.Array(Quota)])

export const Limits = Schema.Struct({
  requests: optional(Quotas, "Requests per window."),
  tokens: optional(Quotas, "Input and output tokens together."),
  inputTokens: optional(Quotas, "Input tokens."),
  outputTokens: optional(Quotas, "Output tokens."),
  concurrency: optional(Count, "Requests in flight at the same time."),
  minInterval: optionalTime("Shortest time from the start of one request to the start of the next.")
}).annotate({ identifier: "Limits" })

const LimitsByName = Schema.Record(Schema.String, Limits)

// ---------------------------------------------------------------------------------------------------------------------
// providers and targets
// ---------------------------------------------------------------------------------------------------------------------

const Secret = Schema.RedactedFromValue(Schema.NonEmptyString)

const Key = Schema.Union([
  Secret,
  Schema.Struct({
    id: optional(Name, "Name of the key in reports; `provider-1`, `provider-2`, … by default."),
    value: required(Secret, "The secret, as `${VARIABLE}`."),
    group: optional(Name, "Keys of one group share the limits of an account.")
  })
])

/** What a provider may speak: the names of the known ones, and `generic`. */
export const formats = [
  "generic",
  "openai",
  "azure",
  "anthropic",
  "groq",
  "mistral",
  "deepseek",
  "xai",
  "moonshot",
  "openrouter",
  "ollama"
] as const

const Provider = Schema.Struct({
  format: optional(
    Schema.Literals(formats),
    "What it speaks: Anthropic's format, Azure's, or the chat completions format as a known provider does; by default what " +
      "the provider of this name speaks, and `generic` chat completions for a name that is not known."
  ),
  baseUrl: optional(Schema.NonEmptyString, "Where it is reached; the provider's public address by default."),
  key: optional(Key, "Its only key."),
  keys: optional(Schema.NonEmptyArray(Key), "Its keys, in order of preference."),
  headers: optional(Texts, "Headers of every request to it. Never a secret: use `key`.")
}).annotate({ identifier: "Provider" })

const model = {
  baseUrl: optional(Schema.NonEmptyString, "Address, instead of the provider's."),
  group: optional(Name, "Keys that share one quota, instead of the key's own group."),
  order: optional(
    Schema.Finite,
    "Place in the order of preference: lower first, equal ones in sequence; 0 by default."
  ),
  weight: optional(NotNegative, "Share of the calls, for the strategies that know weights; 1 by default."),
  tags: optional(Schema.Union([Schema.Array(Name), Texts]), "What it is, for requests that name the tags they need."),
  tenants: optional(Schema.NonEmptyArray(Name), "Tenants whose requests it serves; all by default."),
  contextWindow: optional(Count, "Tokens that input and output may have together."),
  maxOutputTokens: optional(Count, "Tokens a reply may have."),
  price: optional(
    Schema.Struct({
      input: NotNegative,
      output: NotNegative,
      cachedInput: Schema.optionalKey(NotNegative)
    }),
    "US dollars per million tokens."
  ),
  capabilities: optional(
    Schema.Struct({
      tools: Schema.optionalKey(Schema.Boolean),
      images: Schema.optionalKey(Schema.Boolean),
      jsonSchema: Schema.optionalKey(Schema.Boolean),
      prefill: Schema.optionalKey(Schema.Boolean)
    }),
    "What it cannot serve (`false`), and whether a cut stream can go on there (`prefill: true`)."
  ),
  limits: optional(Limits, "Limits of the model as the account has them; `{}` learns them."),
  parameters: optional(Schema.Record(Schema.String, Schema.Json), "Fields added to every request body."),
  headers: optional(Texts, "Headers of every request, besides the provider's."),
  deployment: optional(Name, "Azure: name of the deployment; the model's by default."),
  apiVersion: optional(Name, "Azure: API version; `v1` selects the v1 surface.")
}

export const Target = Schema.Struct({
  provider: required(Name, "Name of the provider."),
  model: required(Name, "Model, as the provider spells it."),
  id: optional(Name, "Id in reports; `provider/model@key` by default."),
  key: optional(Name, "Id of one of the provider's keys; by default there is a target for each of them."),
  ...model
}).annotate({ identifier: "Target" })

const TargetOrName = Schema.Union([Name, Target]).annotate({
  description: "A target, or its short form `provider/model`."
})

const { limits: _, ...unlimited } = model

// ---------------------------------------------------------------------------------------------------------------------
// policies
// ---------------------------------------------------------------------------------------------------------------------

const Timeouts = Schema.Struct({
  total: optionalTime("The whole call; 10 minutes by default."),
  attempt: optionalTime("One attempt at a whole answer; 60 seconds by default."),
  connect: optionalTime("To the response headers of a stream; 20 seconds by default."),
  firstToken: optionalTime("To the first content of a stream; 30 seconds by default."),
  idle: optionalTime("Between two content parts of a stream; 30 seconds by default.")
}).annotate({ identifier: "Timeouts" })

const Retry = Schema.Struct({
  retries: optional(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)), "Retries on one target; 2 by default."),
  base: optionalTime("Wait before the first retry; 1 second by default."),
  factor: optional(Positive, "Growth of the wait; 2 by default."),
  max: optionalTime("Longest wait; 30 seconds by default."),
  jitter: optional(
    Schema.Literals(["none", "full", "equal", "additive", "decorrelated"]),
    "How waits are spread; `full` by default."
  )
}).annotate({ identifier: "Retry" })

const Circuit = Schema.Struct({
  failures: optional(Count, "Failures in a row that open a circuit; 5 by default, unless there is a `failureRate`."),
  failureRate: optional(
    Schema.Struct({
      threshold: required(Share, "Share of failures that opens a circuit."),
      window: optionalTime("Over which time; 1 minute by default."),
      minimumCalls: optional(Count, "Calls below which nothing opens; 20 by default.")
    }),
    "Share of failures that opens a circuit."
  ),
  open: optional(
    Schema.Union([
      Time,
      Schema.Struct({
        from: requiredTime("The first time."),
        to: requiredTime("The longest time."),
        factor: optional(Positive, "Growth with each opening in a row; 2 by default.")
      })
    ]),
    "How long a circuit stays open; from 5 seconds doubling to 10 seconds by default."
  ),
  successes: optional(Count, "Probes that have to succeed before it closes; 2 by default."),
  ramp: optionalTime("Time over which traffic returns after a close; at once by default.")
}).annotate({ identifier: "Circuit" })

const Rule = Schema.Struct({
  sameTarget: Schema.optionalKey(Schema.Literals(["never", "backoff", "stated-wait"])),
  retries: Schema.optionalKey(NotNegative),
  otherTargets: Schema.optionalKey(Schema.Literals(["never", "at-once", "after-retries", "larger-window"])),
  siblingsFirst: Schema.optionalKey(Schema.Boolean),
  cooldown: Schema.optionalKey(Time),
  statedWait: Schema.optionalKey(Schema.Boolean),
  scope: Schema.optionalKey(Schema.Union([Schema.Literal("failure"), Scope])),
  circuit: Schema.optionalKey(Schema.Literals(["failure", "ignored"]))
}).annotate({ identifier: "Rule" })

const Recovery = Schema.Struct({
  classes: optional(Schema.Record(ErrorClass, Schema.optionalKey(Rule)), "By class of error."),
  reasons: optional(
    Schema.Record(Reason, Schema.optionalKey(Rule)),
    "By reason; a reason's rule goes before its class's."
  )
}).annotate({ identifier: "Recovery" })

const Hedge = Schema.Struct({
  delay: optionalTime("A fixed time after which a slow request is joined by a second one; observed by default."),
  quantile: optional(Share, "Share of recent answers that came faster; 0.95 by default."),
  min: optionalTime("Shortest observed delay; 1 second by default."),
  max: optionalTime("Longest observed delay; 30 seconds by default."),
  maxExtraLoad: optional(Share, "Largest share of additional requests.")
}).annotate({ identifier: "Hedge" })

export const strategies = [
  "ordered",
  "healthiest",
  "mostHeadroom",
  "lowestLatency",
  "lowestLatencyPerToken",
  "cheapest",
  "weighted",
  "leastBusy",
  "powerOfTwo",
  "score"
] as const

const policy = {
  strategy: optional(
    Schema.Literals(strategies),
    "Which target is tried first, among those of equal `order` that can serve a call; `ordered` by default."
  ),
  scoreWeights: optional(
    Schema.Struct({
      health: Schema.optionalKey(NotNegative),
      headroom: Schema.optionalKey(NotNegative),
      latency: Schema.optionalKey(NotNegative),
      cost: Schema.optionalKey(NotNegative)
    }),
    "What counts how much for the strategy `score`."
  ),
  affinity: optional(
    Schema.Literals(["request", "prefix"]),
    "What keeps calls together where a strategy balances: the header `x-breakwater-affinity`, or the prompt's beginning."
  ),
  streamPolicy: optional(
    Schema.Literals(["fail", "restart", "continue", "buffer"]),
    "What happens to a stream that breaks after its first content: it ends with an error (`fail`, the default); it begins " +
      "anew for clients that said they understand that (`restart`); it goes on where it was cut, on targets with " +
      "`prefill` (`continue`); or nothing is sent before the whole answer is there (`buffer`)."
  ),
  fallbacks: optional(Schema.Array(Name), "Models of this file whose targets are tried after the own ones."),
  timeouts: optional(Timeouts, "Limits of time."),
  maxAttempts: optional(Count, "Attempts of one call over all targets; 10 by default."),
  patience: optionalTime("Longest stated wait for which a call stays with its target; 3 seconds by default."),
  queueWait: optionalTime("Longest wait in the queue of a limit; 15 seconds by default."),
  maxEjected: optional(Share, "Share of the targets that open circuits may take out of use; 0.5 by default."),
  retry: optional(Retry, "Backoff on one target."),
  recovery: optional(Recovery, "What to do after which failure."),
  circuit: optional(Circuit, "When a target's circuit opens, for how long, and how it closes again."),
  hedge: optional(Hedge, "Whether slow requests are joined by a second one at another target.")
}

const SharedLimits = Schema.Struct({
  all: optional(Limits, "All calls of the model."),
  providers: optional(LimitsByName, "By provider."),
  groups: optional(LimitsByName, "By group of keys."),
  keys: optional(LimitsByName, "By id of the key."),
  tenants: optional(LimitsByName, "By tenant.")
}).annotate({ identifier: "SharedLimits" })

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

export const Own = Schema.Struct({
  targets: required(Schema.NonEmptyArray(TargetOrName), "Where calls may go, in order of preference."),
  limits: optional(SharedLimits, "Limits that targets share, besides the limits of each."),
  ...policy
}).annotate({ identifier: "Targets" })

export const KeyPool = Schema.Struct({
  preset: required(Schema.Literal("keyPool"), "Many keys of one provider."),
  provider: required(Name, "The provider, with its keys."),
  model: required(Name, "Model, as the provider spells it."),
  ...unlimited,
  limits: optional(Limits, "Limits of each key; 5 requests a second by default."),
  ...policy
}).annotate({ identifier: "KeyPool" })

export const SharedAgents = Schema.Struct({
  preset: required(Schema.Literal("sharedAgents"), "Many agents on one deployment."),
  target: required(TargetOrName, "The deployment."),
  limits: optional(
    Limits,
    "Limits all agents share; 3 at a time, 100 ms apart, 60 requests and 150 000 tokens a minute by default."
  ),
  ...policy
}).annotate({ identifier: "SharedAgents" })

const CatalogueModel = Schema.Struct({
  provider: required(Name, "Name of the provider."),
  model: required(Name, "Model, as the provider spells it."),
  ...model
}).annotate({ identifier: "CatalogueModel" })

export const Catalogue = Schema.Struct({
  preset: required(Schema.Literal("catalogue"), "Many models of many providers."),
  providers: optional(Schema.NonEmptyArray(Name), "The providers; by default all of this file that have a model."),
  models: optional(
    Schema.NonEmptyArray(CatalogueModel),
    "The models, in order of preference; the built-in catalogue by default, most of which vendors have retired."
  ),
  first: optional(Name, "Provider that is asked first."),
  providerOrder: optional(Schema.Record(Schema.String, Schema.Array(Name)), "By provider, which ones come next."),
  ...policy
}).annotate({ identifier: "Catalogue" })

const AlertsService = Schema.Struct({ model: required(Name, "Model, as the provider spells it."), ...model }).annotate({
  identifier: "AlertsService"
})

export const Alerts = Schema.Struct({
  preset: required(Schema.Literal("alerts"), "Four services within their tokens per minute."),
  services: required(
    Schema.Struct({
      openai: Schema.optionalKey(AlertsService),
      xai: Schema.optionalKey(AlertsService),
      deepseek: Schema.optionalKey(AlertsService),
      moonshot: Schema.optionalKey(AlertsService)
    }),
    "What of each service is used, in order of preference."
  ),
  tokensPerMinute: optional(
    Schema.Struct({
      openai: Schema.optionalKey(Positive),
      xai: Schema.optionalKey(Positive),
      deepseek: Schema.optionalKey(Positive),
      moonshot: Schema.optionalKey(Positive)
    }),
    "Tokens per minute; 3000, 1500, 5000 and 1000 by default."
  ),
  ...policy
}).annotate({ identifier: "Alerts" })

/** A virtual model: its own targets, or a preset. */
const Model = Schema.Union([Own, KeyPool, SharedAgents, Catalogue, Alerts])

// ---------------------------------------------------------------------------------------------------------------------
// the file
// ---------------------------------------------------------------------------------------------------------------------

const AccessKey = Schema.Struct({
  name: required(Name, "Name in logs."),
  sha256: required(
    Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/)),
    "SHA-256 of the key in lower-case hexadecimal, as of `printf %s KEY | sha256sum`."
  ),
  tenant: optional(Name, "Whom its calls are for."),
  models: optional(Schema.NonEmptyArray(Name), "Models it may use; all by default.")
}).annotate({ identifier: "AccessKey" })

const Server = Schema.Struct({
  maxBodyBytes: optional(Count, "Largest request body; 32 MiB by default."),
  bodyTimeout: optionalTime("Time a client has to send its request; 30 seconds by default."),
  slowClient: optionalTime("Time after which a client that reads nothing is cut off; 30 seconds by default."),
  heartbeat: optionalTime(
    "Wait for the first content after which a stream is opened and kept alive by comments, and their interval; 15 " +
      "seconds by default, `Infinity` for never."
  ),
  drain: optionalTime("Longest time that calls in flight are given to end at a shutdown; 30 seconds by default.")
}).annotate({ identifier: "Server" })

/** The file without its models, which are decoded one by one so that an error names the field of the right form. */
export const Frame = Schema.Struct({
  $schema: Schema.optionalKey(Schema.String),
  server: optional(Server, "The HTTP server."),
  access: optional(
    Schema.NonEmptyArray(AccessKey),
    "Keys of clients; without any, whoever reaches the server may call."
  ),
  providers: optional(Schema.Record(Schema.String, Provider), "Addresses and keys, by name of the provider."),
  models: required(Schema.Record(Schema.String, Schema.Unknown), "What clients may name as `model`.")
})

/** The whole file, for its JSON Schema. */
export const File = Schema.Struct({
  ...Frame.fields,
  models: required(Schema.Record(Schema.String, Model), "What clients may name as `model`.")
})

export type Format = typeof formats[number]
export type Frame = typeof Frame.Type
export type Model = typeof Model.Type
export type Target = typeof Target.Type
export type Policy = Omit<typeof Own.Type, "targets" | "limits">
export type Provider = typeof Provider.Type
export type Key = typeof Key.Type
export type Circuit = typeof Circuit.Type
