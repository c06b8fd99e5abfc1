/**
 * `breakwater simulate`: traffic against described providers in virtual time.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Simulation from "../../testing/Simulation.ts"
import * as JsonFile from "../jsonFile.ts"
import * as Chart from "../simulation/chart.ts"
import * as Json from "../wire/json.ts"
import { Failed } from "./failed.ts"

const flags = {
  file: Argument.String("file").pipe(Argument.withDescription("The scenario"), Argument.optional),
  other: Argument.String("other").pipe(
    Argument.withDescription("The second policy of --compare"),
    Argument.optional
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("Seed of all that happens by chance: the same file and seed lead to the same bytes"),
    Flag.withDefault(1)
  ),
  policy: Flag.String("policy").pipe(
    Flag.withDescription("Policy of the scenario, or the configuration file of a gateway; the first policy by default"),
    Flag.optional
  ),
  compare: Flag.String("compare").pipe(
    Flag.withDescription("Two policies to run the same calls through: --compare A B"),
    Flag.between(0, 2)
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print the report as JSON; progress stays on standard error"),
    Flag.withDefault(false)
  ),
  schema: Flag.Boolean("schema").pipe(
    Flag.withDescription("Print the JSON Schema of a scenario, and simulate nothing"),
    Flag.withDefault(false)
  )
}

interface Options {
  readonly file: Option.Option<string>
  readonly other: Option.Option<string>
  readonly seed: number
  readonly policy: Option.Option<string>
  readonly compare: ReadonlyArray<string>
  readonly json: boolean
  readonly schema: boolean
}

type Problem = Simulation.ScenarioError["problems"][number]

const run = Effect.fnUntraced(function*(options: Options) {
  if (options.schema) return yield* Console.log(JSON.stringify(Simulation.jsonSchema(), null, 2))
  const names = [...options.compare, ...Option.toArray(options.other)]
  const wrong = wrongArguments(options, names)
  if (wrong !== undefined || Option.isNone(options.file)) {
    yield* Console.error(wrong ?? "name a scenario, or ask for the --schema")
    return yield* new Failed({ code: 2 })
  }
  const rejected = (problems: ReadonlyArray<Problem>, where: string) =>
    Effect.andThen(
      options.json
        ? Console.log(JSON.stringify({ valid: false, problems }))
        : Console.error(
          problems.map(({ message, path }) => path === "" ? `${where}: ${message}` : `${where}: ${path}: ${message}`)
            .join("\n")
        ),
      Effect.fail(new Failed({ code: 2 }))
    )
  const read = (file: string) =>
    Effect.catch(JsonFile.read(file), (error) => rejected([{ path: "", message: error.message }], file))
  const [file, compared] = yield* inOrder(options.file.value, names)
  const scenario = yield* Simulation.decode(yield* read(file)).pipe(
    Effect.catch((error) => rejected(error.problems, file))
  )
  const policyOf = Effect.fnUntraced(function*(name: string) {
    if (scenario.policies.has(name)) return name
    const policy = { name, config: yield* read(name) }
    yield* Effect.catch(Simulation.check(scenario, policy), (error) => rejected(error.problems, name))
    return policy
  })
  const simulate = Effect.fnUntraced(function*(policy: Simulation.Policy | undefined) {
    const { onProgress } = yield* progress(typeof policy === "object" ? policy.name : policy)
    return yield* Simulation.run(scenario, { seed: options.seed, policy, onProgress }).pipe(
      Effect.catch((error) => rejected(error.problems, file))
    )
  })
  const [first, second] = compared
  if (first === undefined || second === undefined) {
    const policy = Option.getOrUndefined(options.policy)
    const report = yield* simulate(policy === undefined ? undefined : yield* policyOf(policy))
    return yield* Console.log(options.json ? JSON.stringify(report, null, 2) : Chart.text(report))
  }
  const policies = [yield* policyOf(first), yield* policyOf(second)] as const
  const [a, b] = [yield* simulate(policies[0]), yield* simulate(policies[1])]
  yield* Console.log(options.json ? JSON.stringify({ compared: [a, b] }, null, 2) : Chart.comparison(a, b))
})

/** `--compare A B FILE` puts the scenario last: it is the one with `traffic`. */
const inOrder = (file: string, names: ReadonlyArray<string>) => {
  const [first, second] = names
  if (first === undefined || second === undefined) return Effect.succeed([file, names] as const)
  const isScenario = (file: string) =>
    Effect.map(Effect.option(JsonFile.read(file)), Option.exists((json) => Json.field(json, "traffic") !== undefined))
  return Effect.map(
    Effect.zip(isScenario(file), isScenario(second)),
    ([isFirst, isLast]) => !isFirst && isLast ? [second, [first, file]] as const : [file, names] as const
  )
}

const wrongArguments = (options: Options, names: ReadonlyArray<string>): string | undefined => {
  if (names.length === 1) {
    return options.compare.length === 0
      ? `what is ${names[0]}? Two policies are compared with --compare A B`
      : "--compare needs two policies: --compare A B"
  }
  if (names.length > 2) return `--compare takes two policies, got ${names.length}: ${names.join(", ")}`
  if (names.length === 2 && options.compare.length === 0) return "two policies are compared with --compare A B"
  if (names.length === 2 && Option.isSome(options.policy)) {
    return "--policy stands beside --compare: give one of the two"
  }
  return undefined
}

/** Says how far it is, every second at most: most simulations are over before. */
const progress = Effect.fnUntraced(function*(name: string | undefined) {
  let last = yield* Clock.currentTimeMillis
  const prefix = name === undefined ? "" : `${name}: `
  const onProgress = (share: number) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (now - last < 1000) return Effect.void
      last = now
      return Console.error(`${prefix}${Math.floor(share * 100)} % simulated`)
    })
  return { onProgress }
})

export const command = Command.make("simulate", flags, run).pipe(
  Command.withDescription(
    "Runs the calls of a scenario through the real policies, against providers that are described, in virtual time. " +
      "Needs no keys and no network. Exit code 0 when it was simulated, 2 when the scenario or the arguments are wrong."
  ),
  Command.withExamples([
    { command: "breakwater simulate scenario.json", description: "The first policy, as text with a timeline" },
    { command: "breakwater simulate scenario.json --seed 7 --json", description: "As JSON, reproducible" },
    {
      command: "breakwater simulate scenario.json --compare today gateway.json",
      description: "A policy of the scenario beside the configuration of a gateway"
    },
    {
      command: "breakwater simulate --schema > scenario.schema.json",
      description: "Get the JSON Schema for an editor"
    }
  ])
)
