/**
 * From evidence to verdict: which of the seven classes, why, how far it reaches and whether it may have been billed.
 *
 * @internal
 */
import type { ErrorClass, Reason, Scope } from "../LLMError.ts"
import type { Evidence, Link } from "./evidence.ts"
import { normalise } from "./evidence.ts"
import {
  classes,
  concurrencyWords,
  dailyWords,
  decisiveCodes,
  familyCodes,
  lastResort,
  limitWords,
  memoryWords,
  monthlyWords,
  networkCodes,
  networkPhrases,
  overloadWords,
  phrases,
  vagueCodes,
  vagueNetworkCodes
} from "./failureRules.ts"
import { withoutEcho } from "./redact.ts"

/** @internal */
export interface Symptoms {
  readonly provider: string
  /** Status of the response, or 0 without an error status. */
  readonly status: number
  readonly evidence: Evidence
  /** The thrown error and its causes, outermost first; empty for a response. */
  readonly links: ReadonlyArray<Link>
  /** What a failure means that says nothing. */
  readonly otherwise: Reason
}

/** @internal */
export interface Verdict {
  readonly errorClass: ErrorClass
  readonly reason: Reason
  readonly scope: Scope
  /** Status that the failure states, or 0. */
  readonly status: number
  /** What the provider said, lower-cased and without echoes. */
  readonly text: string
}

// ---------------------------------------------------------------------------------------------------------------------
// status
// ---------------------------------------------------------------------------------------------------------------------

const statusTexts: ReadonlyArray<RegExp> = [
  /^\W{0,4}(?:api |http )?(?:error|http)?:?\W{0,3}([45]\d\d)(?!\d|\.\d)\b/,
  /\b(?:status|http|https?\/\d(?:\.\d)?|error|code|statuscode)(?:[ _-]?(?:code|error|status))?['"]?(?: of)?[\s:=(/[]{1,4}(?:http[\s:]{1,2})?([45]\d\d)(?!\d)/,
  /\[([45]\d\d)\b/,
  /\b([45]\d\d) (?:too many|internal|bad|service|gateway|unauthorized|forbidden|not found|client error|server error|payment|request|error|status code|\w{3,20}_\w{3,20})/,
  /too many ([45]\d\d) error/
]

const statusInText = (text: string): number => {
  for (const pattern of statusTexts) {
    const match = pattern.exec(text)
    if (match !== null) return Number(match[1])
  }
  return 0
}

const statusOf = (symptoms: Symptoms): number => {
  const inner = symptoms.evidence.statuses.at(-1) ?? 0
  if (symptoms.status === 0) return inner
  // A gateway that hides the provider's refusal behind its own 500 still quotes it.
  const hidden = symptoms.status === 500 || symptoms.status === 502 || symptoms.status === 503
  return hidden && inner >= 400 && inner < 500 ? inner : symptoms.status
}

const statusReasons: Readonly<Record<number, Reason>> = {
  401: "invalid_key",
  402: "insufficient_quota",
  403: "permission_denied",
  407: "invalid_key",
  408: "gateway_timeout",
  409: "internal_error",
  410: "model_not_found",
  413: "payload_too_large",
  424: "internal_error",
  425: "internal_error",
  429: "rate_limit",
  451: "region_blocked",
  460: "client_abort",
  498: "overloaded",
  499: "client_abort",
  504: "gateway_timeout",
  522: "gateway_timeout",
  524: "gateway_timeout",
  529: "overloaded",
  598: "gateway_timeout",
  599: "gateway_timeout"
}

// ---------------------------------------------------------------------------------------------------------------------
// reason
// ---------------------------------------------------------------------------------------------------------------------

const firstOf = (table: ReadonlyMap<string, Reason>, codes: ReadonlyArray<string>): Reason | undefined => {
  for (const code of codes) {
    const reason = table.get(code)
    if (reason !== undefined) return reason
  }
  return undefined
}

const window = /\bper[- ]?(?:min|sec|hour|day|month)|\b[rti]p[mhds]\b/
const shortWindow = /\bper[- ]?(?:min|sec|hour)|\b[rti]p[ms]\b/

const ownLimit = /rate limit (?:exceeded|reached|hit)|exceed(?:ed|s)? (?:your |the |our )?rate limit/

const limitReason = (text: string, evidence: Evidence, families: ReadonlySet<Reason>): Reason => {
  // The longest window decides, as it is the one that is still closed after the shorter ones have opened.
  const names = evidence.quotas.concat(evidence.codes)
  if (names.some((name) => /perday|daily/.test(name))) return "daily_quota"
  if (names.some((name) => /permonth|monthly/.test(name))) return "monthly_quota"
  if (evidence.quotas.length > 0) return "rate_limit"
  if (dailyWords.test(text)) return "daily_quota"
  if (monthlyWords.test(text)) return "monthly_quota"
  if (families.has("concurrency") || concurrencyWords.test(text)) return "concurrency"
  if (shortWindow.test(text) || ownLimit.test(text)) return "rate_limit"
  return families.has("overloaded") || overloadWords.test(text) ? "overloaded" : "rate_limit"
}

const isGoogle = (provider: string): boolean => /gemini|google|vertex/.test(provider)

const limitAndRequest =
  /limit:? ([\d,]{1,15})[,;.]? (?:used:? [\d,]{1,15}[,;.]? )?(?:requested|request):? ~?([\d,]{1,15})/

const asksForTooMuch = (text: string): boolean => {
  const match = limitAndRequest.exec(text)
  if (match === null) return false
  return Number((match[2] ?? "").replaceAll(",", "")) > Number((match[1] ?? "").replaceAll(",", ""))
}

const phraseReason = (text: string, status: number, provider: string, codes: ReadonlyArray<string>) => {
  if (text === "") return undefined
  const limited = status === 429 || status === 413 || status === 0
  if (limited && asksForTooMuch(text)) return "request_exceeds_limit"
  if ((status === 0 || status >= 500) && memoryWords.test(text)) return "capacity"
  // The words of Google and Alibaba for any quota are OpenAI's words for a spent credit.
  const anyQuota = isGoogle(provider) || codes.includes("resourceexhausted") ||
    /quota exceeded for metric|help\.aliyun\.com/.test(text)
  if (!anyQuota && /exceeded (?:your |its |the )?current (?:token )?quota/.test(text)) return "insufficient_quota"
  for (const phrase of phrases) {
    if (!phrase.when(status) || !phrase.pattern.test(text)) continue
    // A context has no window of time: this is a quota.
    if (phrase.reason === "context_length_exceeded" && window.test(text)) continue
    return phrase.reason
  }
  return undefined
}

const limitPhrase =
  /rate limit (?:exceeded|reached|hit)|rate limited|exceeded (?:your )?rate limit|quota exceeded|too many requests|请求过于频繁/

const familyReason = (
  families: ReadonlySet<Reason>,
  text: string,
  status: number,
  evidence: Evidence
): Reason | undefined => {
  const open = status === 0
  const server = status >= 500
  const ambiguous = status === 400 || status === 403 || status === 409 || status === 424 || status === 498 ||
    status === 499
  if (status === 429) {
    return limitReason(text, evidence, families)
  }
  if ((open || server || ambiguous) && status !== 504 && status !== 524) {
    if (families.has("rate_limit") || families.has("concurrency")) return limitReason(text, evidence, families)
    if (families.has("overloaded")) return "overloaded"
    if ((status === 400 || status === 403) && limitPhrase.test(text)) return limitReason(text, evidence, families)
  }
  if (open || server || status === 400 || status === 401 || status === 403) {
    if (families.has("expired_credential")) return "expired_credential"
    if (families.has("permission_denied")) return "permission_denied"
    if (families.has("invalid_key")) return "invalid_key"
  }
  if (families.has("gateway_timeout") && (open || server || status === 408 || status === 409 || status === 424)) {
    return "gateway_timeout"
  }
  if (families.has("client_abort") && open) return "client_abort"
  if (families.has("payload_too_large") && (open || status === 400 || status === 413)) return "payload_too_large"
  if (open || server || status === 409 || status === 424) {
    for (const reason of ["empty_response", "invalid_response"] as const) if (families.has(reason)) return reason
    if (families.has("internal_error") && (open || status === 409 || status === 424)) {
      return overloadWords.test(text) ? "overloaded" : "internal_error"
    }
  }
  return undefined
}

const htmlReason = (status: number, text: string): Reason => {
  const stated = status === 0 ? statusInText(text) : status
  if (stated === 403) return "ip_blocked"
  if (stated === 503 || stated === 502 || stated === 500) return "html_error_page"
  if (stated >= 400 && stated < 500) return statusReasons[stated] ?? "invalid_request"
  return statusReasons[stated] ?? "html_error_page"
}

const serverReason = (status: number, text: string, evidence: Evidence, families: ReadonlySet<Reason>): Reason => {
  const fixed = statusReasons[status]
  if (fixed !== undefined) return fixed
  if (/cloudflare|web server is returning/.test(text) && status >= 502) return "html_error_page"
  if (limitWords.test(text)) return limitReason(text, evidence, families)
  if (overloadWords.test(text)) return "overloaded"
  return status === 503 && /unavailable/.test(text) ? "overloaded" : "internal_error"
}

const statusReason = (
  status: number,
  text: string,
  evidence: Evidence,
  families: ReadonlySet<Reason>
): Reason | undefined => {
  if (status >= 500) return serverReason(status, text, evidence, families)
  if (status === 404) return /\b(?:models?|deployments?|engines?)\b/.test(text) ? "model_not_found" : "invalid_request"
  if (status === 409 && firstOf(vagueCodes, evidence.codes) !== undefined) return "invalid_request"
  // Whoever asks for payment may still name a limit that heals.
  if (status === 402 && limitWords.test(text)) return limitReason(text, evidence, families)
  if (status >= 400) return statusReasons[status] ?? "invalid_request"
  return undefined
}

const isLoopbackReset = (link: Link): boolean => link.bytesRead !== undefined && link.bytesRead > 0

// What a system call says whose error has no code of its own here, such as a missing socket file.
const syscalls: Readonly<Record<string, Reason>> = { connect: "conn_refused", getaddrinfo: "dns" }

const linkReason = (link: Link): Reason | undefined => {
  for (const name of [link.code, link.name, link.constructorName, link.type]) {
    if (name === "") continue
    if (name.startsWith("HPE_")) return "protocol"
    if (/^(?:ERR_(?:SSL|TLS)_|CERT_)/.test(name)) return "tls"
    const reason = networkCodes.get(normalise(name))
    if (reason !== undefined) return reason
  }
  return syscalls[link.syscall]
}

const timeouts: ReadonlySet<Reason> = new Set(["connect_timeout", "headers_timeout", "body_timeout", "client_timeout"])

const connecting = /connection timed out|connect timeout|awaiting 'connect'/

/** The reason that the codes of a thrown error give, refined by the little that its sentences add. */
const networkReason = (links: ReadonlyArray<Link>): Reason | undefined => {
  let found: Reason | undefined
  let at: Link | undefined
  for (const link of links) {
    const reason = /^ETIMEDOUT$/.test(link.code)
      ? (link.connecting || link.syscall === "connect" || /connect etimedout/i.test(link.message)
        ? "connect_timeout"
        : "client_timeout")
      : linkReason(link)
    if (reason === undefined) continue
    // An abort below a timeout is how the timeout was done; otherwise the innermost cause is the most exact.
    if (reason === "client_abort" && found !== undefined) continue
    if (found !== undefined && timeouts.has(found) && reason === "client_timeout") continue
    found = reason
    at = link
  }
  if (found === undefined || at === undefined) return found
  const messages = links.map((link) => link.message.toLowerCase())
  if (found === "client_abort" && messages.some((message) => /time(?:d )?-?out|deadline/.test(message))) {
    return "client_timeout"
  }
  if (found === "client_timeout" && messages.some((message) => connecting.test(message))) return "connect_timeout"
  if (found !== "conn_reset") return found
  if (messages.some((message) => message.includes("before secure tls connection"))) return "tls"
  if (at.code === "ECONNABORTED" && messages.some((message) => /timeout/.test(message))) return "client_timeout"
  const cut = messages.includes("terminated") || messages.includes("aborted") || isLoopbackReset(at)
  return cut ? "premature_close" : found
}

const networkPhrase = (text: string, links: ReadonlyArray<Link>): Reason | undefined => {
  const texts = links.length === 0 ? [text] : links.map((link) => link.message.toLowerCase()).toReversed()
  for (const [reason, pattern] of networkPhrases) {
    if (texts.some((one) => pattern.test(one))) return reason
  }
  return undefined
}

const namesOf = (links: ReadonlyArray<Link>): ReadonlyArray<string> =>
  links.flatMap((link) => [normalise(link.code), normalise(link.name), normalise(link.constructorName)])

/** What is left when no status is known: names that were mentioned, then words. */
const openReason = (symptoms: Symptoms, text: string, families: ReadonlySet<Reason>): Reason => {
  const { evidence, links } = symptoms
  const mentioned = firstOf(familyCodes, evidence.mentioned)
  if (mentioned !== undefined) {
    return mentioned === "rate_limit" ? limitReason(text, evidence, families) : mentioned
  }
  if (limitWords.test(text)) return limitReason(text, evidence, families)
  if (overloadWords.test(text)) return "overloaded"
  const network = networkPhrase(text, links)
  if (network !== undefined) return network
  const vague = firstOf(vagueCodes, evidence.codes) ?? firstOf(vagueCodes, evidence.mentioned)
  if (vague !== undefined) return vague
  for (const [reason, pattern] of lastResort) if (pattern.test(text)) return reason
  return firstOf(vagueNetworkCodes, namesOf(links)) ?? firstOf(vagueNetworkCodes, evidence.codes) ?? symptoms.otherwise
}

const reasonOf = (symptoms: Symptoms, text: string, known: number): readonly [Reason, number] => {
  const { evidence, links, provider } = symptoms
  if (evidence.html) return [htmlReason(known, text), known]
  const decisive = firstOf(decisiveCodes, evidence.codes) ?? firstOf(decisiveCodes, evidence.mentioned)
  if (decisive !== undefined) {
    const expired = decisive === "invalid_key" && /\bexpired\b/.test(text)
    return [expired ? "expired_credential" : decisive, known]
  }
  const network = known === 0 ? networkReason(links) : undefined
  if (network !== undefined) return [network, 0]
  const status = known === 0 ? statusInText(text) : known
  const families = new Set<Reason>()
  // Without a code of its own, the exception that a sentence names is the code.
  for (const code of evidence.codes.length === 0 ? evidence.mentioned : evidence.codes) {
    const family = familyCodes.get(code)
    if (family !== undefined) families.add(family)
  }
  // The empty 413 of Cerebras is its word for a context that is too long.
  if (status === 413 && provider.includes("cerebras")) return ["context_length_exceeded", status]
  const reason = phraseReason(text, status, provider, evidence.codes)
    ?? familyReason(families, text, status, evidence)
    ?? statusReason(status, text, evidence, families)
    ?? openReason(symptoms, text, families)
  return [reason, status]
}

const classOf = (reason: Reason, status: number, text: string, codes: ReadonlyArray<string>): ErrorClass => {
  switch (reason) {
    case "insufficient_quota": {
      if (status === 429) return "rate_limit"
      // Inside a stream there is no status; these are the words that OpenAI sends with a 429.
      const quota = codes.includes("insufficientquota") || text.includes("exceeded your current quota")
      return status === 0 && quota ? "rate_limit" : "authentication"
    }
    case "overloaded":
    case "capacity":
      return status === 429 ? "rate_limit" : "server_error"
    case "permission_denied":
      return status === 404 ? "permanent" : "authentication"
    case "region_blocked":
      return status === 400 || status === 404 || status === 422 ? "permanent" : "authentication"
    case "client_abort":
      return status === 499 || status === 460 ? "timeout" : "unknown"
    default:
      return classes[reason]
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// scope
// ---------------------------------------------------------------------------------------------------------------------

const isAzure = (provider: string): boolean => provider.includes("azure")
const ownHost =
  /^(?:ollama|vllm|llama[-_.]?cpp|lm[-_ ]?studio|localai|tgi|sglang|koboldcpp|xinference|tabbyapi|jan|llamafile|text-generation|triton|openai-compatible|local|self-?hosted|mlx)/
const gateway = /proxy|gateway|compatible|one-?api|new-?api/
const limitsPerModel =
  /^(?:openai|codex|anthropic|claude|groq|gemini|google|vertex|xai|grok|bedrock|amazon|aws|cerebras|sambanova)/

const limitScope = (provider: string, reason: Reason, text: string, evidence: Evidence): Scope => {
  if (isAzure(provider)) return text.includes("onhandshake") ? "key" : "deployment"
  if (ownHost.test(provider)) return "deployment"
  if (!limitsPerModel.test(provider)) return "key"
  if (evidence.quotas.length > 0) return evidence.quotas.some((quota) => quota.includes("permodel")) ? "model" : "key"
  if (/\b(?:account|workspace)(?:'s)? (?:rate|request|token|usage) limit/.test(text)) return "key"
  // Anthropic throttles everybody with these two words alone.
  if (/^rate limited\.?$/.test(text)) return "provider"
  if (text.includes("not your usage limit") && /^.*$/.test(text)) return "provider"
  const openai = provider.startsWith("openai")
  return openai && reason === "rate_limit" && !/limit|quota|\bmodel\b|tokens|\btpm\b/.test(text) ? "key" : "model"
}

const scopeOf = (symptoms: Symptoms, reason: Reason, errorClass: ErrorClass, text: string): Scope => {
  const { evidence, provider } = symptoms
  const deployed = isAzure(provider) || ownHost.test(provider)
  const host = deployed ? "deployment" : "provider"
  switch (reason) {
    case "rate_limit":
    case "daily_quota":
    case "concurrency":
      return limitScope(provider, reason, text, evidence)
    case "monthly_quota":
    case "insufficient_quota":
    case "billing_disabled":
    case "invalid_key":
    case "expired_credential":
    case "permission_denied":
      return "key"
    case "region_blocked":
      return /model[^.]{0,40}(?:not available|not supported|unavailable)/.test(text) ? "model" : "provider"
    case "ip_blocked":
      return host
    case "overloaded":
      if (deployed) return "deployment"
      if (/\bmodels?\b/.test(text)) return "model"
      return errorClass === "rate_limit" && limitsPerModel.test(provider) ? "model" : "provider"
    case "context_length_exceeded":
      return ownHost.test(provider) ? "deployment" : "model"
    case "content_filter":
    case "tool_use_failed":
      return "model"
    case "model_not_found":
    case "payload_too_large":
    case "request_exceeds_limit":
      return deployed ? "deployment" : "model"
    case "unsupported_parameter":
    case "invalid_request":
      if (symptoms.links.length > 0 && symptoms.status === 0) return /header|bytestring/.test(text) ? "key" : "request"
      if (deployed || gateway.test(provider)) return "deployment"
      return /deserialize|json body|parse (?:the )?(?:request )?body/.test(text) ? "provider" : "model"
    case "client_abort":
      return "request"
    case "unknown":
      return "target"
    default:
      return host
  }
}

const bareProvider = (provider: string): string => provider.toLowerCase().replace(/^other:/, "")

/**
 * Returns the verdict on a failure.
 *
 * @internal
 */
export const diagnose = (input: Symptoms): Verdict => {
  const symptoms = { ...input, provider: bareProvider(input.provider) }
  const text = symptoms.evidence.texts.map(withoutEcho).join("\n").toLowerCase()
  const [reason, status] = reasonOf(symptoms, text, statusOf(symptoms))
  const errorClass = classOf(reason, status, text, symptoms.evidence.codes)
  return { errorClass, reason, status, text, scope: scopeOf(symptoms, reason, errorClass, text) }
}

// ---------------------------------------------------------------------------------------------------------------------
// billing
// ---------------------------------------------------------------------------------------------------------------------

const notReached: ReadonlySet<Reason> = new Set(["conn_refused", "dns", "tls", "connect_timeout"])
const generated: ReadonlySet<Reason> = new Set([
  "empty_response",
  "invalid_response",
  "premature_close",
  "stream_truncated",
  "headers_timeout",
  "body_timeout",
  "client_timeout",
  "gateway_timeout",
  "client_abort",
  "conn_reset",
  "protocol",
  "tool_use_failed"
])
// Statuses with which an edge says that it did not reach the server behind it, or that server refuses work.
const refusedStatuses: ReadonlySet<number> = new Set([503, 521, 522, 523, 525, 526, 529, 530])
const unreachable =
  /ehostunreach|enetunreach|enetdown|ehostdown|eaddrnotavail|emfile|no route to host|network is unreachable|refused_stream|cannot connect to api$|could not connect|unable to connect/

/**
 * Returns whether the provider may have executed, and so billed, the request.
 *
 * @internal
 */
export const maybeBilled = (verdict: Verdict, links: ReadonlyArray<Link>, sent: boolean | undefined): boolean => {
  if (sent === false || notReached.has(verdict.reason)) return false
  if (refusedStatuses.has(verdict.status)) return false
  if (generated.has(verdict.reason)) {
    const nothingWritten = links.some((link) => link.bytesWritten === 0)
    return !nothingWritten && !unreachable.test(verdict.text)
  }
  switch (verdict.errorClass) {
    case "server_error":
      return verdict.reason !== "overloaded" && verdict.reason !== "capacity"
    case "transient_network":
      return !unreachable.test(`${verdict.text} ${links.map((link) => link.code.toLowerCase()).join(" ")}`)
    case "timeout":
    case "unknown":
      return true
    case "rate_limit":
    case "authentication":
    case "permanent":
      return false
  }
}
