/**
 * Puts environment variables in place of `${NAME}` in the texts of a configuration.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import type { Problem } from "./problem.ts"
import { at } from "./problem.ts"

export type Environment = Readonly<Record<string, string | undefined>>

// `$${NAME}` stands for itself.
const placeholder = /\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}/g

/** Returns the value with all placeholders replaced; each variable that is missing or empty is a problem. */
export const substitute = (
  value: unknown,
  environment: Environment,
  path: ReadonlyArray<PropertyKey>,
  problems: Array<Problem>
): unknown => {
  if (typeof value === "string") {
    return value.replace(placeholder, (all, escape: string, name: string) => {
      if (escape !== "") return all.slice(1)
      const found = environment[name]
      if (found !== undefined && found !== "") return found
      problems.push({
        path: at(path),
        message: `the environment variable ${name} is not set, or empty`
      })
      return "?"
    })
  }
  if (Array.isArray(value)) return value.map((item, index) => substitute(item, environment, [...path, index], problems))
  if (!Predicate.isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, substitute(item, environment, [...path, name], problems)])
  )
}

/** The names of all variables that a value asks for. */
export const variables = (value: unknown): ReadonlySet<string> => {
  const names = new Set<string>()
  const visit = (value: unknown): void => {
    if (typeof value === "string") {
      for (const [, escape, name] of value.matchAll(placeholder)) {
        if (escape === "" && name !== undefined) names.add(name)
      }
    } else if (Array.isArray(value)) value.forEach(visit)
    else if (Predicate.isObject(value)) Object.values(value).forEach(visit)
  }
  visit(value)
  return names
}
