import { Effect, Schema } from "effect"
import { execFile } from "node:child_process"
import { join } from "node:path"
import { quantile } from "../harness.ts"
import type { Name } from "../memory/probes.ts"
import * as Tables from "../table.ts"

/** What a probe found, in bytes of one. */
interface Found {
  readonly samples: ReadonlyArray<number>
  /** What is left of each when they are idle; `NaN` where nothing is ever forgotten. */
  readonly left: number
}

/** A line of a table: what is measured, how many of it and how often, and beside which other lines. */
interface Line {
  readonly name: string
  readonly probe: Name
  readonly count: number
  readonly runs: number
  readonly peers?: ReadonlyArray<string>
  readonly budget?: number
}

const Output = Schema.fromJsonString(
  Schema.Struct({ probe: Schema.String, bytes: Schema.Finite, left: Schema.optional(Schema.Finite) })
)

const child = join(import.meta.dirname, "../memory/child.ts")

/** Measures in a process of its own, where nothing else is in memory. */
const measure = (lines: ReadonlyArray<Line>): Effect.Effect<(line: Line) => Found> =>
  Effect.gen(function*() {
    const args = ["--expose-gc", "--max-old-space-size=8192", "--conditions=breakwater-source", child]
    const stdout = yield* Effect.callback<string>((resume) => {
      execFile(
        process.execPath,
        [...args, JSON.stringify(lines)],
        (error, stdout) => resume(error === null ? Effect.succeed(stdout) : Effect.die(error))
      )
    })
    const outputs = yield* Effect.orDie(
      Effect.forEach(stdout.trim().split("\n"), (line) => Schema.decodeEffect(Output)(line))
    )
    return ({ count, probe }) => {
      const own = outputs.filter((_) => _.probe === probe)
      return {
        samples: own.map(({ bytes }) => bytes / count),
        left: quantile(own.map(({ left = Number.NaN }) => left / count), 0.5)
      }
    }
  })

interface Group {
  readonly title: string
  readonly note: string
  readonly columns: ReadonlyArray<string>
  readonly figures: (found: Found) => ReadonlyArray<number>
  readonly lines: ReadonlyArray<Line>
}

const whole = (value: number): number => Math.round(value)

/** The figures of a group; with a share, of so many fewer of everything, once. */
const table = ({ columns, figures, lines, note, title }: Group, share: number): Effect.Effect<Tables.Table> =>
  Effect.gen(function*() {
    const all = share === 1 ? lines : lines.map((line) => ({ ...line, count: Math.ceil(line.count * share), runs: 1 }))
    const found = yield* measure(all)
    const medians = new Map(all.map((line) => [line.name, quantile(found(line).samples, 0.5)]))
    const median = (name: string): number => medians.get(name) ?? Number.NaN
    return {
      title,
      note,
      columns,
      rows: all.map((line): Tables.Row => {
        const { budget, name, peers = [] } = line
        return {
          name,
          figures: figures(found(line)),
          ratios: peers.map((peer) => ({ peer, ratio: median(name) / median(peer) })),
          budgets: budget === undefined ? [] : [Tables.atMost(whole(median(name)), budget, " B")]
        }
      })
    }
  })

const spread = ({ samples }: Found): ReadonlyArray<number> =>
  [0.5, 0, 1].map((share) => whole(quantile(samples, share)))

const oneOf = { count: 2000, runs: 3 }

const targets: Group = {
  title: "memory of a target, bytes",
  note:
    "of a router over 2000 targets with three limits, ten keys and three providers, and of all that is known of each",
  columns: ["median", "least", "most"],
  figures: spread,
  lines: [
    { ...oneOf, name: "never asked", probe: "targetMade", budget: 2048 },
    { ...oneOf, name: "asked once", probe: "targetAsked", budget: 2048 },
    { ...oneOf, name: "asked 100 times: its history is full", probe: "targetFull", count: 500 }
  ]
}

const many = { count: 1000, runs: 3 }
const theirCalls = ["cockatiel", "Effect", "opossum + bottleneck", "p-retry + p-queue"] as const
const ours = { ...many, peers: theirCalls, budget: 4096 }

const calls: Group = {
  title: "memory of a call in flight, bytes",
  note: "beyond its request: its fiber or promise, and all that waits with it",
  columns: ["median", "least", "most"],
  figures: spread,
  lines: [
    { ...ours, name: "breakwater, 1 target", probe: "call" },
    { ...ours, name: "breakwater, 27 targets", probe: "callOfMany" },
    { ...ours, name: "breakwater, 27 targets, limits in four scopes", probe: "callWithLimits" },
    { ...many, name: "breakwater, waiting in the queue of a limit", probe: "callWaiting" },
    { ...many, name: "breakwater, a stream", probe: "stream" },
    { ...many, name: "a fiber that waits, and nothing else", probe: "fiber" },
    { ...many, name: theirCalls[0], probe: "callCockatiel" },
    { ...many, name: theirCalls[1], probe: "callEffect" },
    { ...many, name: theirCalls[2], probe: "callBottleneck" },
    { ...many, name: theirCalls[3], probe: "callQueue" }
  ]
}

const mebibyte = 2 ** 20

const keyed = { count: 20_000, runs: 3 }
const objects = { count: 1000, runs: 3 }
const limiters = ["Effect RateLimiter", "rate-limiter-flexible", "bottleneck", "p-queue"] as const
const circuits = ["Effect CircuitBreaker", "cockatiel", "opossum"] as const

const keys: Group = {
  title: "memory of 1 000 000 keys",
  note:
    "from 20 000, and from 1000 where each key needs an object of its own; left: after they were idle and a few others " +
    "were used",
  columns: ["MiB", "bytes/key", "left, %"],
  figures: ({ left, samples }) => {
    const bytes = quantile(samples, 0.5)
    return [whole(bytes * 1_000_000 / mebibyte), whole(bytes), Math.max(0, Math.round(left / bytes * 1000) / 10)]
  },
  lines: [
    { ...keyed, name: "breakwater, limiter with three limits", probe: "limiter", peers: limiters },
    { ...keyed, name: limiters[0], probe: "limiterEffect" },
    { ...keyed, name: limiters[1], probe: "limiterFlexible" },
    { ...objects, name: limiters[2], probe: "limiterBottleneck" },
    { ...objects, name: limiters[3], probe: "limiterQueue" },
    { ...keyed, name: "breakwater, circuit", probe: "circuit", peers: circuits },
    { ...keyed, name: circuits[0], probe: "circuitEffect" },
    { ...objects, name: circuits[1], probe: "circuitCockatiel" },
    { ...objects, name: circuits[2], probe: "circuitOpossum" },
    { ...keyed, name: "breakwater, health", probe: "health" },
    { ...keyed, name: "breakwater, cooldown", probe: "cooldown" }
  ]
}

/** What is measured of memory; with a share, of so many fewer of everything, to see that it runs. */
export const items = (
  share = 1
): ReadonlyArray<{ readonly title: string; readonly run: () => Effect.Effect<Tables.Table> }> =>
  [targets, calls, keys].map((group) => ({ title: group.title, run: () => table(group, share) }))
