/**
 * Turns the marked examples of the documentation into test files.
 *
 * Every fence that opens with "```ts import.meta.vitest", in the doc comments of `src` and in the README, becomes one
 * module under `.doctest`: its imports stay, the rest becomes the body of one test named after the fence's place. A
 * trailing `// => value` asserts that the statement before it (an expression, or a `const`) equals the value.
 */
import { globSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseSync, Visitor } from "vite"

const root = join(import.meta.dirname, "../..")
const folder = join(root, ".doctest")

interface Example {
  readonly file: string
  readonly line: number
  readonly code: string
}

/** Finds the marked fences of a file; in TypeScript each line sheds its comment prefix first. */
export const extract = (file: string, text: string): ReadonlyArray<Example> => {
  const examples: Array<Example> = []
  let open: { readonly line: number; readonly lines: Array<string> } | undefined
  for (const [index, raw] of text.split("\n").entries()) {
    const line = file.endsWith(".ts") ? raw.replace(/^\s*\* ?/, "") : raw
    if (open === undefined) {
      if (line.startsWith("```ts import.meta.vitest")) open = { line: index + 1, lines: [] }
    } else if (line.startsWith("```")) {
      examples.push({ file, line: open.line, code: open.lines.join("\n") })
      open = undefined
    } else {
      open.lines.push(line)
    }
  }
  if (open !== undefined) examples.push({ file, line: open.line, code: open.lines.join("\n") })
  return examples
}

const failing = (place: string, message: string): string =>
  [
    `import { assert, test } from "vitest"`,
    `test(${JSON.stringify(place)}, () => assert.fail(${JSON.stringify(message)}))`,
    ``
  ].join("\n")

/** Writes an example as a test module; what cannot become one becomes a test that fails and says why. */
export const toTest = ({ code, file, line }: Example): string => {
  const { comments, errors, program } = parseSync("example.ts", code)
  const place = `${file}:${line}`
  for (const { message } of errors) return failing(place, message)

  const edits: Array<{ readonly start: number; readonly end: number; readonly text: string }> = []
  const imports: Array<string> = []
  for (const node of program.body) {
    if (node.type !== "ImportDeclaration") continue
    imports.push(code.slice(node.start, node.end))
    edits.push({ start: node.start, end: node.end, text: "" })
  }

  // An assertion belongs to the statement that ends right before its comment.
  const assertions = new Map<number, string>()
  for (const comment of comments) {
    const expected = /^ => (.+)$/.exec(comment.value)?.[1]
    if (expected !== undefined) assertions.set(code.slice(0, comment.start).trimEnd().length, expected)
  }
  const claim = (end: number): string | undefined => {
    const expected = assertions.get(end)
    assertions.delete(end)
    return expected
  }
  new Visitor({
    ExpressionStatement: ({ end, expression, start }) => {
      const expected = claim(end)
      if (expected === undefined) return
      edits.push({ start, end: start, text: "__equal(" })
      edits.push({ start: expression.end, end: expression.end, text: `, ${expected})` })
    },
    VariableDeclaration: ({ declarations, end }) => {
      const id = declarations.at(-1)!.id
      const expected = id.type === "Identifier" ? claim(end) : undefined
      if (id.type !== "Identifier" || expected === undefined) return
      edits.push({ start: end, end, text: `\n__equal(${id.name}, ${expected})` })
    }
  }).visit(program)
  for (const expected of assertions.values()) return failing(place, `"// => ${expected}" follows no statement`)

  let body = code
  for (const { end, start, text } of edits.toSorted((a, b) => b.start - a.start)) {
    body = body.slice(0, start) + text + body.slice(end)
  }
  return [
    `import { assert as __assert, test as __test } from "vitest"`,
    `import { Equal as __Equal } from "effect"`,
    ...imports,
    `const __equal = (actual: unknown, expected: unknown) => {`,
    `  if (!__Equal.equals(actual, expected)) __assert.deepStrictEqual(actual, expected)`,
    `}`,
    `__test(${JSON.stringify(place)}, async () => {`,
    body.trim(),
    `})`,
    ``
  ].join("\n")
}

/** Brings `.doctest` up to date; what has not changed is not touched, so runs at the same time do not disturb each other. */
export const write = (): void => {
  mkdirSync(folder, { recursive: true })
  const stale = new Set(readdirSync(folder))
  for (const file of [...globSync("src/**/*.ts", { cwd: root }), ...globSync("README.md", { cwd: root })]) {
    for (const example of extract(file, readFileSync(join(root, file), "utf8"))) {
      const name = `${file.replaceAll(/[^A-Za-z0-9]+/g, "_")}_${example.line}.test.ts`
      const text = toTest(example)
      if (!stale.delete(name) || readFileSync(join(folder, name), "utf8") !== text) {
        writeFileSync(join(folder, name), text)
      }
    }
  }
  for (const name of stale) rmSync(join(folder, name), { force: true })
}

if (import.meta.main) write()
