/**
 * The formulas in which vectors write bounds, such as `min(max, base*2^k)`.
 */

const token = /\s*(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|([a-z]\w*)|([-+*/^(),]))/giy

const functions: Readonly<Record<string, (...values: ReadonlyArray<number>) => number>> = {
  min: Math.min,
  max: Math.max
}

const tokensOf = (text: string): ReadonlyArray<string> => {
  const tokens: Array<string> = []
  let end = 0
  for (const match of text.matchAll(token)) {
    if (match.index !== end) break
    tokens.push(match[0].trim())
    end = match.index + match[0].length
  }
  if (end !== text.trimEnd().length) throw new Error(`not a formula: ${text}`)
  return tokens
}

/** Returns the value of a formula; throws on a name that has no value. */
export const evaluate = (text: string, names: Readonly<Record<string, number>>): number => {
  const tokens = tokensOf(text)
  let next = 0
  const accept = (wanted: string): boolean => tokens[next] === wanted && next++ >= 0
  const expectToken = (wanted: string): void => {
    if (!accept(wanted)) throw new Error(`"${wanted}" is missing in ${text}`)
  }

  const primary = (): number => {
    if (accept("(")) {
      const value = sum()
      expectToken(")")
      return value
    }
    if (accept("-")) return -power()
    const name = tokens[next++] ?? ""
    if (/^\d/.test(name)) return Number(name)
    const call = functions[name]
    if (call !== undefined && accept("(")) {
      const values = [sum()]
      while (accept(",")) values.push(sum())
      expectToken(")")
      return call(...values)
    }
    const value = names[name]
    if (value === undefined) throw new Error(`"${name}" has no value in ${text}`)
    return value
  }
  const power = (): number => {
    const base = primary()
    return accept("^") ? base ** power() : base
  }
  const product = (): number => {
    let value = power()
    for (;;) {
      if (accept("*")) value *= power()
      else if (accept("/")) value /= power()
      else return value
    }
  }
  const sum = (): number => {
    let value = product()
    for (;;) {
      if (accept("+")) value += product()
      else if (accept("-")) value -= product()
      else return value
    }
  }

  const value = sum()
  if (next !== tokens.length) throw new Error(`not a formula: ${text}`)
  return value
}
