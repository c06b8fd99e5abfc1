/**
 * Reads what a client sent: total functions over JSON, with the path of what is wrong.
 *
 * @internal
 */
import * as Tool from "effect/ai/Tool"
import * as Result from "effect/Result"
import * as Json from "../wire/json.ts"
import { invalid, type Refusal } from "./refusal.ts"

/** Thrown on the way out of a nested message, and turned into a refusal where reading began. */
class Wrong {
  readonly refusal: Refusal
  constructor(refusal: Refusal) {
    this.refusal = refusal
  }
}

/** Ends the reading: the field at `path` is wrong. */
export const wrong = (path: string, message: string): never => {
  throw new Wrong(invalid(`${path}: ${message}`, path))
}

/** Runs a reader; what it finds wrong is a refusal, and nothing else is caught. */
export const reading = <A>(read: () => A): Result.Result<A, Refusal> =>
  Result.try({
    try: read,
    catch: (cause) => {
      if (cause instanceof Wrong) return cause.refusal
      throw cause
    }
  })

export type Fields = Readonly<Record<string, unknown>>

export const object = (value: unknown, path: string): Fields =>
  Json.isObject(value) ? value : wrong(path, "must be an object")

/** What was sent, as a whole. */
export const body = (json: unknown): Fields => {
  if (Json.isObject(json)) return json
  throw new Wrong(invalid("the body must be a JSON object"))
}

export const list = (value: unknown, path: string): ReadonlyArray<unknown> =>
  Array.isArray(value) ? value : wrong(path, "must be an array")

/** A text that must be there. */
export const text = (value: unknown, path: string): string =>
  typeof value === "string" ? value : wrong(path, "must be a string")

export const name = (value: unknown, path: string): string =>
  typeof value === "string" && value !== "" ? value : wrong(path, "must be a string that is not empty")

/** `null` is as good as absent to both vendors. */
const optional =
  <A>(is: (value: unknown) => value is A, what: string) => (fields: Fields, field: string): A | undefined => {
    const value = fields[field] ?? undefined
    return value === undefined || is(value) ? value : wrong(field, `must be ${what}`)
  }

export const number = optional((_): _ is number => typeof _ === "number", "a number")

/** A number that is not below 0, nor above a limit. */
export const upTo = (fields: Fields, field: string, limit: number): number | undefined => {
  const value = number(fields, field)
  if (value === undefined || (value >= 0 && value <= limit)) return value
  return wrong(field, limit === Infinity ? "must be a number >= 0" : `must be between 0 and ${limit}`)
}

export const boolean = optional((_): _ is boolean => typeof _ === "boolean", "a boolean")

export const integer = optional(
  (_): _ is number => typeof _ === "number" && Number.isInteger(_) && _ > 0,
  "an integer > 0"
)

/** Stops: one text or several. */
export const stops = (fields: Fields, field: string): ReadonlyArray<string> | undefined => {
  const value = fields[field] ?? undefined
  if (value === undefined) return undefined
  const given = typeof value === "string" ? [value] : list(value, field)
  const texts = given.map((stop, index) => text(stop, `${field}[${index}]`))
  return texts.length === 0 ? undefined : texts
}

/** A tool as the client described it: its schema goes to the provider as it is. */
export const tool = (
  described: {
    readonly name: string
    readonly description: string | undefined
    readonly schema: unknown
    readonly strict: boolean | undefined
  },
  path: string
): Tool.Any => {
  const schema = described.schema ?? { type: "object", properties: {} }
  const made = Tool.dynamic(described.name, {
    ...(described.description === undefined ? {} : { description: described.description }),
    parameters: object(schema, path)
  })
  return described.strict === undefined ? made : made.annotate(Tool.Strict, described.strict)
}

/** The fields that are not among the known ones, and hold something. */
export const others = (fields: Fields, known: ReadonlySet<string>): Fields => {
  for (const name in fields) {
    if (!known.has(name)) {
      return Object.fromEntries(Object.entries(fields).filter(([name, value]) => !known.has(name) && value !== null))
    }
  }
  return nothing
}

const nothing: Fields = {}
