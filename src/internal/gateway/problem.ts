/**
 * What is wrong with a configuration, and where.
 *
 * @internal
 */

import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

export interface Problem {
  /** Path of the field, such as `models.chat.targets[0].key`; empty for the file itself. */
  readonly path: string
  readonly message: string
}

const simple = /^[A-Za-z_$][A-Za-z0-9_$-]*$/

/** A path as people write it. */
export const at = (path: ReadonlyArray<PropertyKey>): string => {
  let text = ""
  for (const step of path) {
    if (typeof step === "number" || (typeof step === "string" && /^\d+$/.test(step))) text += `[${String(step)}]`
    else if (typeof step === "string" && simple.test(step)) text += text === "" ? step : `.${step}`
    else text += `[${JSON.stringify(String(step))}]`
  }
  return text
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** Decodes a part of a file; whatever is wrong is noted with its path, fields that do not exist included. */
export const decoded = <S extends Schema.ConstraintDecoder<unknown>>(
  schema: S,
  value: unknown,
  path: ReadonlyArray<PropertyKey>,
  problems: Array<Problem>
): S["Type"] | undefined => {
  const result = Schema.decodeUnknownResult(schema)(value, { errors: "all", onExcessProperty: "error" })
  if (Result.isSuccess(result)) return result.success
  for (const issue of format(result.failure.issue).issues) {
    const steps = (issue.path ?? []).map((step) => typeof step === "object" ? step.key : step)
    problems.push({
      path: at([...path, ...steps]),
      message: issue.message === "Expected no excess property" ? "there is no such field" : lowerFirst(issue.message)
    })
  }
  return undefined
}

const lowerFirst = (text: string): string => text.slice(0, 1).toLowerCase() + text.slice(1)
