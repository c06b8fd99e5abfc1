/**
 * What is wrong with a configuration, and where.
 *
 * @internal
 */

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
