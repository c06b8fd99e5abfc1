import { Effect } from "effect"
import * as Harness from "./harness.ts"
import * as Calls from "./rows/call.ts"
const index = Number(process.argv[2] ?? 0); const which = process.argv[3] ?? ""
const rounds = Number(process.argv[4] ?? 21)
const out = await Effect.runPromise(Effect.scoped(Effect.flatMap(Calls.groups[index]!, (group) => Effect.promise(() => Harness.measure({name: group.name, subjects: group.subjects.filter((_) => which === "" || _.name === which).map(({ peers, budgets, ...s }) => s)}, {rounds, sampleMs: 12, warmupMs: 300})))))
for (const row of out) console.log(row.name, row.median.toFixed(2), row.p10.toFixed(2), row.p90.toFixed(2))
