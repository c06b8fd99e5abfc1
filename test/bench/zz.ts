import { Effect } from "effect"
import * as Harness from "./harness.ts"
import * as Limiter from "./rows/limiter.ts"
const which = process.argv[2] ?? ""
const out = await Effect.runPromise(Effect.scoped(Effect.flatMap(Limiter.groups[1]!, (group) => Effect.promise(() => Harness.measure({name: group.name, subjects: group.subjects.filter((_) => _.name.includes(which)).map(({ peers, budgets, ...s }) => s)}, {rounds: 31, sampleMs: 12, warmupMs: 300})))))
for (const row of out) console.log(row.name, row.median.toFixed(2), row.p10.toFixed(2), row.p90.toFixed(2))
