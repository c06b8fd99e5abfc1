/**
 * Mutants of a source text: small changes of meaning, each of which a test should notice.
 *
 * `instrument` writes all of them into one text and asks at each place, through a global function, whether its mutant is
 * the one that is switched on, so that a module is parsed and loaded once for all of its mutants. The text is
 * TypeScript as before, on the same lines.
 *
 * **Details**
 *
 * | where | mutants |
 * |---|---|
 * | condition of `if`, `? :` and loops | always true (not for loops), always false |
 * | `a && b`, `a \|\| b` | `a`, `b` |
 * | `a ?? b` | `a` (unless `b` is a literal), `b` |
 * | `<`, `<=`, `>`, `>=` | the bound in or out; as a value also the opposite |
 * | `===`, `!==` | as a value the opposite |
 * | arithmetic, bits, `-a`, `!a`, `++`, `+=` | the opposite operation, none at all |
 * | numbers | one more, zero |
 * | booleans | the other |
 * | strings that are a result: returned, stored or chosen | empty |
 * | `Math.min`, `max`, `floor`, `ceil`, `round` | the opposite; without a constant bound |
 * | `some`, `every`, `filter`, `slice`, `sort` | the opposite, none at all |
 * | `a?.b` | `a.b` |
 * | `return a`, `=> a` | undefined |
 * | function, loop over values, `else` | empty |
 * | statement | left out |
 * | part of an object that is spread before it | left out |
 *
 * Mutants that are equal to another one by construction are not made: a statement alone in its block, for example, goes
 * with the condition of the block.
 */
import { parseSync } from "vite"

/** One change of a source text. */
export interface Mutant {
  readonly id: number
  readonly file: string
  readonly line: number
  /** Names of the definitions it is in, outermost first, with dots between. */
  readonly within: string
  /** What it replaces, on one line. */
  readonly original: string
  /** What it is replaced by, on one line. */
  readonly replacement: string
}

/** Name of the global function that tells whether a mutant is switched on. */
export const switchName = "$mutant"

interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [key: string]: unknown
}

/** What the value of an expression is used for. */
type Place = "condition" | "loop" | "operand" | "result" | "other"

const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && "type" in value && "start" in value && typeof value.type === "string"

const nodeAt = (node: Node, key: string): Node | undefined => {
  const value = node[key]
  return isNode(value) ? value : undefined
}

const nodesAt = (node: Node, key: string): ReadonlyArray<Node> => {
  const value = node[key]
  return Array.isArray(value) ? value.filter(isNode) : []
}

const oneLine = (text: string): string => text.replaceAll(/\/\/.*$/gm, "").replaceAll(/\s+/g, " ").trim()

const opposites: Readonly<Record<string, string>> = {
  "+": "-",
  "-": "+",
  "*": "/",
  "/": "*",
  "%": "*",
  "**": "*",
  "&": "|",
  "|": "&",
  "^": "&",
  "<<": ">>",
  ">>": "<<",
  ">>>": "<<",
  "+=": "-=",
  "-=": "+=",
  "*=": "/=",
  "/=": "*=",
  "??=": "=",
  "===": "!==",
  "!==": "==="
}

const bounds: Readonly<Record<string, string>> = { "<": "<=", "<=": "<", ">": ">=", ">=": ">" }

const negations: Readonly<Record<string, string>> = { "<": ">=", "<=": ">", ">": "<=", ">=": "<" }

const functions: Readonly<Record<string, string>> = {
  "Math.min": "Math.max",
  "Math.max": "Math.min",
  "Math.floor": "Math.ceil",
  "Math.ceil": "Math.floor",
  "Math.round": "Math.floor"
}

const methods: Readonly<Record<string, string>> = { some: "every", every: "some" }

const dropped: ReadonlySet<string> = new Set(["filter", "slice", "sort", "toSorted"])

// Of the nodes of types only these hold code.
const holdsCode: ReadonlySet<string> = new Set(["TSAsExpression", "TSNonNullExpression", "TSSatisfiesExpression"])

const isFunction = (node: Node | undefined): boolean =>
  node !== undefined && (node.type === "ArrowFunctionExpression" || node.type.startsWith("Function"))

const isLiteral = (node: Node | undefined): boolean => {
  const inner = bare(node)
  return inner?.type === "Literal" || (inner?.type === "UnaryExpression" && isLiteral(nodeAt(inner, "argument")))
}

/** What has no other value to be replaced by than its own mutants, or none at all. */
const isNothing = (node: Node): boolean =>
  isLiteral(node) || (node.type === "Identifier" && node["name"] === "undefined") ||
  (node.type === "BlockStatement" && nodesAt(node, "body").length === 0)

/** An expression without the parentheses around it. */
const bare = (node: Node | undefined): Node | undefined =>
  node?.type === "ParenthesizedExpression" ? bare(nodeAt(node, "expression")) : node

/** Returns the mutants of a source text, numbered from `firstId`, and the text that holds them all. */
export const instrument = (
  file: string,
  source: string,
  firstId: number
): { readonly mutants: ReadonlyArray<Mutant>; readonly code: string } => {
  const { errors, program } = parseSync(file, source)
  const [error] = errors
  if (error !== undefined) throw new Error(`${file}: ${error.message}`)

  const mutants: Array<Mutant> = []
  const names: Array<string> = []
  /** Statements that go with what they are in. */
  const alone = new Set<Node>()

  const text = (node: Node): string => source.slice(node.start, node.end)
  const cut = (from: number, to: number): string => source.slice(from, to)

  const lines = [0, ...Array.from(source.matchAll(/\n/g), ({ index }) => index + 1)]
  const lineOf = (offset: number): number => lines.findLastIndex((start) => start <= offset) + 1

  /** Registers a mutant; returns the expression that tells whether it is switched on. */
  const add = (node: Node, replacement: string): string => {
    const id = firstId + mutants.length
    mutants.push({
      id,
      file,
      line: lineOf(node.start),
      within: names.join("."),
      original: oneLine(text(node)),
      replacement: oneLine(replacement)
    })
    return `${switchName}(${id})`
  }

  // -------------------------------------------------------------------------------------------------------------------
  // the text with its mutants
  // -------------------------------------------------------------------------------------------------------------------

  const emit = (node: Node, place: Place): string => {
    if (node.type.startsWith("TS") && !holdsCode.has(node.type)) return text(node)
    switch (node.type) {
      case "ImportDeclaration":
        return text(node)
      case "ParenthesizedExpression":
      case "TSAsExpression":
      case "TSNonNullExpression":
      case "TSSatisfiesExpression":
        return copy(node, () => place)
      case "VariableDeclarator":
      case "FunctionDeclaration":
        return named(nodeAt(node, "id"), () => emitParts(node, place))
      case "Property":
        return isFunction(nodeAt(node, "value"))
          ? named(nodeAt(node, "key"), () => emitParts(node, place))
          : emitParts(node, place)
      default:
        return emitParts(node, place)
    }
  }

  const named = (name: Node | undefined, body: () => string): string => {
    if (name?.type !== "Identifier") return body()
    names.push(String(name["name"]))
    const result = body()
    names.pop()
    return result
  }

  const emitParts = (node: Node, place: Place): string => {
    // Numbers go to the outer mutants first, so that they follow the text.
    const alternatives = alternativesOf(node, place).map((replacement) =>
      [add(node, replacement), replacement] as const
    )
    const plain = emitPlain(node)
    return alternatives.length === 0
      ? plain
      : `(${alternatives.map(([isOn, replacement]) => `${isOn} ? ${replacement} : `).join("")}${plain})`
  }

  const emitPlain = (node: Node): string => {
    switch (node.type) {
      case "ArrowFunctionExpression":
      case "FunctionExpression":
      case "FunctionDeclaration": {
        const body = nodeAt(node, "body")
        if (body === undefined || isNothing(body)) return copy(node, placeOf(node))
        const isOn = add(body, body.type === "BlockStatement" ? "{}" : "undefined")
        return copy(node, placeOf(node), (child, emitted) => {
          if (child !== body) return emitted
          return body.type === "BlockStatement"
            ? `{ if (${isOn}) return; ${emitted.slice(1)}`
            : `(${isOn} ? undefined : ${emitted})`
        })
      }
      case "ReturnStatement": {
        const argument = nodeAt(node, "argument")
        if (argument === undefined || isNothing(argument) || alone.has(node)) return copy(node, placeOf(node))
        const isOn = add(argument, "undefined")
        return copy(node, placeOf(node), (_, emitted) => `(${isOn} ? undefined : ${emitted})`)
      }
      case "ForOfStatement":
      case "ForInStatement": {
        const body = nodeAt(node, "body")
        if (body === undefined) return copy(node, placeOf(node))
        const isOn = add(body, "{}")
        return copy(
          node,
          placeOf(node),
          (child, emitted) => child === body ? `{ if (${isOn}) break; ${emitted} }` : emitted
        )
      }
      case "IfStatement": {
        const other = nodeAt(node, "alternate")
        if (other === undefined || other.type === "IfStatement") return copy(node, placeOf(node))
        const isOn = add(other, "{}")
        return copy(node, placeOf(node), (child, emitted) => child === other ? `{ if (!${isOn}) ${emitted} }` : emitted)
      }
      case "BlockStatement":
        return emitStatements(node, nodesAt(node, "body"))
      case "SwitchCase":
        return emitStatements(node, nodesAt(node, "consequent"))
      case "ExpressionStatement":
        return `{ ${copy(node, () => "other")}; }`
      case "ObjectExpression":
        return emitObject(node)
      default:
        return copy(node, placeOf(node))
    }
  }

  const emitStatements = (node: Node, statements: ReadonlyArray<Node>): string => {
    if (statements.length === 1) { for (const statement of statements) alone.add(statement) }
    return copy(node, () => "other", (child, emitted) => {
      if (alone.has(child) || child.type !== "ExpressionStatement") return emitted
      const expression = bare(nodeAt(child, "expression"))
      const operator = expression?.["operator"]
      // Here the opposite operation says as much.
      if (expression?.type === "UpdateExpression" || (typeof operator === "string" && operator in opposites)) {
        return emitted
      }
      return `{ if (!${add(child, ";")}) ${emitted} }`
    })
  }

  const emitObject = (node: Node): string => {
    const [first, ...rest] = nodesAt(node, "properties")
    const isPatch = first?.type === "SpreadElement" && bare(nodeAt(first, "argument"))?.type !== "ConditionalExpression"
    return copy(node, () => "result", (child, emitted) => {
      if (!isPatch || !rest.includes(child)) return emitted
      const isOn = add(child, "nothing")
      return child.type === "SpreadElement"
        ? `...(${isOn} ? {} : (${emitted.slice(3)}))`
        : `...(${isOn} ? {} : { ${emitted} })`
    })
  }

  /** Copies the text of a node, with its parts as `emit` has them. */
  const copy = (
    node: Node,
    placeOf: (child: Node) => Place,
    around: (child: Node, emitted: string) => string = (_, emitted) => emitted
  ): string => {
    let copied = ""
    let at = node.start
    for (const child of childrenOf(node)) {
      copied += cut(at, child.start) + around(child, emit(child, placeOf(child)))
      at = child.end
    }
    return copied + cut(at, node.end)
  }

  const childrenOf = (node: Node): ReadonlyArray<Node> => {
    const children: Array<Node> = []
    for (const [key, value] of Object.entries(node)) {
      if ((key === "key" || key === "property") && node["computed"] === false) continue
      if (isNode(value)) children.push(value)
      else if (Array.isArray(value)) children.push(...value.filter(isNode))
    }
    return children.sort((a, b) => a.start - b.start)
  }

  const placeOf = (node: Node) => (child: Node): Place => {
    switch (node.type) {
      case "IfStatement":
        return child === node["test"] ? "condition" : "other"
      case "ConditionalExpression":
        return child === node["test"] ? "condition" : "result"
      case "WhileStatement":
      case "DoWhileStatement":
      case "ForStatement":
        return child === node["test"] ? "loop" : "other"
      case "LogicalExpression":
        return node["operator"] === "??" ? (child === node["right"] ? "result" : "other") : "operand"
      case "UnaryExpression":
        return node["operator"] === "!" ? "operand" : "other"
      case "ReturnStatement":
      case "ArrayExpression":
      case "AssignmentPattern":
      case "VariableDeclarator":
        return "result"
      case "AssignmentExpression":
        return child === node["right"] ? "result" : "other"
      case "Property": {
        const key = nodeAt(node, "key")
        return key !== undefined && text(key) === "_tag" ? "other" : "result"
      }
      case "ArrowFunctionExpression":
        return child === node["body"] ? "result" : "other"
      default:
        return "other"
    }
  }

  // -------------------------------------------------------------------------------------------------------------------
  // the mutants of an expression
  // -------------------------------------------------------------------------------------------------------------------

  const alternativesOf = (node: Node, place: Place): ReadonlyArray<string> => [
    ...constants(node, place),
    ...operations(node, place)
  ]

  /** What a condition may always be. */
  const constants = (node: Node, place: Place): ReadonlyArray<string> => {
    if (place !== "condition" && place !== "loop") return []
    if (node.type === "Literal") return []
    const both = node.type === "LogicalExpression"
      // Its sides stand for the other one.
      ? [node["operator"] === "&&" ? "false" : "true"]
      : ["true", "false"]
    return place === "loop" ? both.filter((constant) => constant === "false") : both
  }

  const operations = (node: Node, place: Place): ReadonlyArray<string> => {
    const left = nodeAt(node, "left")
    const right = nodeAt(node, "right")
    const argument = nodeAt(node, "argument")
    const operator = String(node["operator"])
    const isValue = place === "result" || place === "other"
    switch (node.type) {
      case "Literal":
        return literals(node, place)
      case "BinaryExpression": {
        if (left === undefined || right === undefined) return []
        const between = cut(left.end, right.start)
        const withOperator = (other: string | undefined): ReadonlyArray<string> =>
          other === undefined ? [] : [text(left) + between.replace(operator, other) + text(right)]
        if (operator in bounds) {
          return [...withOperator(bounds[operator]), ...(isValue ? withOperator(negations[operator]) : [])]
        }
        if (operator === "===" || operator === "!==") return isValue ? withOperator(opposites[operator]) : []
        return operator === "+" && [left, right].some(isText) ? [] : withOperator(opposites[operator])
      }
      case "LogicalExpression": {
        if (left === undefined || right === undefined) return []
        if (operator === "??") return isLiteral(right) ? [text(right)] : [text(left), text(right)]
        const chained = bare(left)
        return chained?.type === "LogicalExpression" && chained["operator"] === operator
          ? [text(left)]
          : [text(left), text(right)]
      }
      case "UnaryExpression":
        if (argument === undefined || isLiteral(argument)) return []
        if (operator === "-") return [text(argument)]
        return operator === "!" && isValue ? [text(argument)] : []
      case "UpdateExpression": {
        const other = operator === "++" ? "--" : "++"
        return [text(node).replace(operator, other)]
      }
      case "AssignmentExpression":
        return left !== undefined && right !== undefined && operator in opposites
          ? [`${text(left)} ${opposites[operator]} ${text(right)}`]
          : []
      case "CallExpression":
        return calls(node)
      case "ChainExpression":
        return Array.from(
          optionals(node),
          (at) => cut(node.start, at) + cut(at, node.end).replace(/\?\.(?=[[(])|\?/, "")
        )
      default:
        return []
    }
  }

  const isText = (node: Node): boolean =>
    node.type === "TemplateLiteral" || (node.type === "Literal" && typeof node["value"] === "string") ||
    (node.type === "BinaryExpression" &&
      [nodeAt(node, "left"), nodeAt(node, "right")].some((side) => side !== undefined && isText(side)))

  const literals = (node: Node, place: Place): ReadonlyArray<string> => {
    const value = node["value"]
    if (typeof value === "boolean") return [String(!value)]
    if (typeof value === "number") return value === 0 ? ["1"] : [String(value + 1), "0"]
    return typeof value === "string" && place === "result" ? [value === "" ? `"?"` : `""`] : []
  }

  const calls = (node: Node): ReadonlyArray<string> => {
    const callee = nodeAt(node, "callee")
    const given = nodesAt(node, "arguments")
    if (callee?.type !== "MemberExpression" || callee["computed"] === true) return []
    const receiver = nodeAt(callee, "object")
    const property = nodeAt(callee, "property")
    if (receiver === undefined || property === undefined || callee["optional"] === true) return []
    const tail = cut(callee.end, node.end)
    const name = text(property)
    const other = functions[text(callee)]
    if (other !== undefined) {
      const [a, b] = given
      const free = a !== undefined && b !== undefined && given.length === 2 && isConstant(a) !== isConstant(b)
        ? [`(${text(isConstant(a) ? b : a)})`]
        : []
      return [other + tail, ...free]
    }
    const method = methods[name]
    if (method !== undefined) return [cut(node.start, property.start) + method + tail]
    return dropped.has(name) ? [text(receiver)] : []
  }

  const isConstant = (node: Node): boolean => isLiteral(node) || /^-?Number\.[A-Z_]+$/.test(text(node))

  /** Where the parts of a chain begin that are left out when what is before them is undefined. */
  const optionals = (node: Node): ReadonlyArray<number> => {
    const inner = node.type === "ChainExpression" ? nodeAt(node, "expression") : node
    const before = inner === undefined ? undefined : nodeAt(inner, "object") ?? nodeAt(inner, "callee")
    if (inner === undefined || before === undefined) return []
    return [...optionals(before), ...(inner["optional"] === true ? [before.end] : [])]
  }

  const code = cut(0, program.start) + emit(program as unknown as Node, "other") + cut(program.end, source.length)
  return { code: `const ${switchName} = globalThis.${switchName};${code}`, mutants }
}
