/**
 * Removal of credentials and echoed prompts from text that goes into errors.
 *
 * @internal
 */
import * as Redacted from "effect/Redacted"

const mask = "[redacted]"

interface Masking {
  /** What each of the patterns needs, and most texts have not: without it none is tried. */
  readonly hint: RegExp
  readonly patterns: ReadonlyArray<readonly [RegExp, string]>
}

// A credential is masked where its shape or its place gives it away; too much is masked rather than too little.
const maskings: ReadonlyArray<Masking> = [
  {
    hint: /b(?:earer|asic)\s|headers\.|:\/\//i,
    patterns: [
      // A header value that was refused is echoed whole, line breaks included.
      [/(["'`])(?:bearer|basic)\s[^"'`]{0,4096}\1/gi, mask],
      [/(headers\.\w{1,12}: )"[^"]{0,4096}"/gi, `$1${mask}`],
      [/\b(bearer|basic)\s+[^\s"',;]{4,}/gi, `$1 ${mask}`],
      [/:\/\/[^\s/@:]{1,256}:[^\s/@]{1,256}@/g, `://${mask}@`]
    ]
  },
  {
    hint: /[-_:=]/,
    patterns: [
      [
        /([?&;](?:[\w-]{0,24}(?:key|token|secret|signature|password|credential|sig|auth|code)))=[^&\s"'#)]{1,2048}/gi,
        `$1=${mask}`
      ],
      [
        /\b((?:x-)?(?:goog-)?(?:api|subscription|access|secret|account)[ _-]?(?:key|token)(?: provided)?|x-api-key|authorization|proxy-authorization|x-amz-security-token|client[_-]secret|password|secret|set-cookie|cookie)(["']?\s{0,3}[:=]\s{0,3}["']?)[^\s"',}&)]{4,2048}/gi,
        `$1$2${mask}`
      ],
      [
        /\b(?<!-)(?=[a-z\d]{2,6}[-_])(?:sk|pk|rk|ak|gsk|xai|hf|r8|pplx|nvapi|fw|csk|ghp|gho|ghs|ghu|glpat|pat|tgp|vck|dp|xoxb|xoxp|lsv2|api|key|dsk|bce|ms|jina|voyage|org-key)[-_][\w.*-]{8,}/gi,
        mask
      ]
    ]
  },
  {
    hint: /github_pat_|AIza|A(?:KI|SI|BI|CC)A|ya29|ey[JI]/,
    patterns: [
      [/\bgithub_pat_\w{8,}/g, mask],
      [/\bAIza[\w-]{10,}/g, mask],
      [/\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}/g, mask],
      [/\bya29\.[\w.-]{8,}/g, mask],
      [/\bey[JI][\w-]{6,}\.[\w-]{2,}(?:\.[\w-]{0,4096})?/g, mask]
    ]
  }
]

const longWord = /\b(?=\w{32})(?=[A-Za-z_]{0,128}\d)(?=\d{0,128}[A-Za-z])[A-Za-z0-9_]{32,}(?:[+/=-]{0,2}\w{0,128})/g

const isWord = (code: number): boolean =>
  (code >= 0x61 && code <= 0x7a) || (code >= 0x41 && code <= 0x5a) || (code >= 0x30 && code <= 0x39) || code === 0x5f

// Whatever has 32 characters has every 32nd of the text in it, so nearly all of a text need not be looked at.
const hasLongWord = (text: string): boolean => {
  for (let at = 31; at < text.length; at += 32) {
    let start = at
    while (start > at - 32 && isWord(text.charCodeAt(start))) start--
    if (start === at) continue
    let end = at + 1
    while (end <= start + 32 && isWord(text.charCodeAt(end))) end++
    if (end - start > 32) return true
  }
  return false
}

const variants = (secret: string): ReadonlyArray<string> => {
  const escaped = JSON.stringify(secret).slice(1, -1)
  // A lone surrogate cannot be written into a URL, so such a secret has no encoded form.
  const encoded = secret.isWellFormed() ? encodeURIComponent(secret) : secret
  return [secret, escaped, encoded]
}

/**
 * Returns a text without credentials: the given secrets and everything that looks like one.
 *
 * @internal
 */
export const scrub = (text: string, secrets: ReadonlyArray<Redacted.Redacted<string>>): string => {
  let clean = text
  for (const secret of secrets) {
    const value = Redacted.value(secret)
    if (value.length < 4) continue
    for (const variant of variants(value)) clean = clean.replaceAll(variant, mask)
  }
  for (const { hint, patterns } of maskings) {
    if (!hint.test(clean)) continue
    for (const [pattern, replacement] of patterns) clean = clean.replace(pattern, replacement)
  }
  return hasLongWord(clean) ? clean.replace(longWord, mask) : clean
}

const echoes =
  /\b(?:input|inputs|messages?|prompt|contents?|failed_generation|request_body|payload|arguments)\b\\?['"]?\s{0,2}[:=]\s{0,2}(?:\\?['"]?[[{]|\\?['"](?=[^'"]{60}))|\(type_\w{1,24}\),? |invalid (?:type|value): string \\?"|['"]role['"]\s?:/i

// What every echo has, and most texts have not: a value in quotes or brackets, or one of a few words.
const echoHint = /[:=]\s{0,2}\\?['"[{]|type_|: string|role['"]/i

/**
 * Returns a text up to where it begins to repeat what the caller sent.
 *
 * @internal
 */
export const withoutEcho = (text: string): string => {
  const echo = echoHint.test(text) ? echoes.exec(text) : null
  return echo === null ? text : text.slice(0, echo.index).replace(/['"]$/, "")
}

const otherThanOneSpace = /[^\S ]\s*| \s+/g
// The apostrophe within a word opens no quote.
const longQuote = /(["`]|(?<!\w)'|'(?!\w))[^"'`]{80,}(?:\1|$)/g

/**
 * Returns the words of a provider as an error may carry them: one line, short, without credentials or prompts.
 *
 * @internal
 */
export const detail = (
  text: string,
  secrets: ReadonlyArray<Redacted.Redacted<string>>,
  length = 300
): string | undefined => {
  // Secrets go first: cutting could leave half of one, which no pattern would know.
  const clean = withoutEcho(scrub(text.slice(0, 16_384), secrets))
    .replace(longQuote, "$1…$1")
    .replace(otherThanOneSpace, " ")
    .trim()
  if (clean === "") return undefined
  return clean.length > length ? `${clean.slice(0, length - 1)}…` : clean
}
