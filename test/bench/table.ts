/** Tables of figures, of whatever kind, and how they read on a terminal. */

/** Rows that belong together, with the same columns. */
export interface Table {
  readonly title: string
  /** What has to be known to read the figures. */
  readonly note?: string | undefined
  /** What the figures are, where the columns do not say it. */
  readonly unit?: string | undefined
  readonly columns: ReadonlyArray<string>
  readonly rows: ReadonlyArray<Row>
}

export interface Row {
  readonly name: string
  /** One for each column; `NaN` where there is none. */
  readonly figures: ReadonlyArray<number>
  readonly ratios: ReadonlyArray<{ readonly peer: string; readonly ratio: number }>
  readonly budgets: ReadonlyArray<Verdict>
}

/** Whether a budget is met. */
export interface Verdict {
  readonly budget: string
  readonly measured: string
  readonly met: boolean
}

/** Whether a figure is no more than it may be. */
export const atMost = (value: number, limit: number, unit: string): Verdict => ({
  budget: `≤ ${limit}${unit}`,
  measured: figure(value),
  met: value <= limit
})

/** Whether a figure is no less than it should be. */
export const atLeast = (value: number, limit: number, unit: string): Verdict => ({
  budget: `≥ ${limit}${unit}`,
  measured: figure(value),
  met: value >= limit
})

/** A figure with as many digits as are of interest. */
export const figure = (value: number): string => {
  if (Number.isNaN(value)) return "–"
  if (Number.isInteger(value)) return String(value)
  const size = Math.abs(value)
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0)
}

const width = 120

/** Renders a table: a row and, under it, how it stands to its peers and budgets. */
export const render = ({ columns, note, rows, title, unit }: Table): ReadonlyArray<string> => {
  const widths = columns.map((column) => Math.max(8, column.length + 2))
  const cells = (texts: ReadonlyArray<string>): string =>
    texts.map((text, index) => text.padStart(widths[index] ?? 0)).join("")
  const most = width - widths.reduce((sum, width) => sum + width, 0)
  const room = Math.min(most, Math.max(...rows.map((row) => row.name.length + 3), 44))
  const line = (name: string, figures: ReadonlyArray<string>, room: number): ReadonlyArray<string> => {
    const names = wrap(name, "    ", room)
    return [...names.slice(0, -1), (names.at(-1) ?? "").padEnd(room) + cells(figures)]
  }
  const heading = `${title}${unit === undefined ? "" : `, ${unit}`}`
  return [
    ...(heading.length < room ? line(heading, columns, room) : [...wrap(heading, "  "), ...line("", columns, room)]),
    ...(note === undefined ? [] : wrap(`  (${note})`, "   ")),
    ...rows.flatMap(({ budgets, figures, name, ratios }) => {
      const beside = [
        ...ratios.map(({ peer, ratio }) => `${ratio.toPrecision(2)}× ${peer}`),
        ...budgets.map(({ budget, met }) => `${budget} ${met ? "met" : "MISSED"}`)
      ]
      return [
        ...line(`  ${name}`, figures.map(figure), room),
        ...(beside.length === 0 ? [] : wrap(`      ${beside.join(" · ")}`, "      "))
      ]
    })
  ]
}

/** Breaks a text into lines that are shorter; all but the first one begin with the indent. */
export const wrap = (text: string, indent: string, room = width): ReadonlyArray<string> => {
  if (text.length < room) return [text]
  const space = text.lastIndexOf(" ", room - 1)
  // A word that does not fit by itself stands out.
  const end = space > indent.length ? space : text.indexOf(" ", room)
  return end < 0 ? [text] : [text.slice(0, end), ...wrap(indent + text.slice(end + 1), indent, room)]
}
