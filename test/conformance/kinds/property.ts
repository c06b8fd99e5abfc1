/**
 * Laws, told apart by the fields of their input.
 */
import { Effect, Result, Schema } from "effect"
import * as Bucket from "../../../src/internal/limiter/bucket.ts"
import * as Learning from "../../../src/internal/limiter/learning.ts"
import { type Checks, same, Skip, type Vector, within } from "../kind.ts"

/** A law: the fields it takes, and the checks that it makes of them. */
const law = <A>(schema: Schema.Codec<A, unknown>, check: (fields: A) => Checks) => {
  const decode = Schema.decodeUnknownResult(schema)
  return (vector: Vector): Checks | undefined => {
    const fields = decode(vector)
    return Result.isSuccess(fields) ? check(fields.success) : undefined
  }
}

/** In the long run a bucket grants what it held plus what came back. */
const longRun = law(
  Schema.Struct({
    input: Schema.Struct({
      ratePerSec: Schema.Number,
      burst: Schema.Number,
      offerEveryMs: Schema.Number,
      durationMs: Schema.Number
    }),
    expect: Schema.Struct({ atMost: Schema.Number, atLeast: Schema.Number })
  }),
  ({ expect, input }) => {
    const bucket = Bucket.make({ capacity: input.burst, perMs: input.ratePerSec / 1000 }, 0)
    let granted = 0
    for (let now = 0; now <= input.durationMs; now += input.offerEveryMs) {
      if (Bucket.waitFor(bucket, 1, now) > 0) continue
      Bucket.take(bucket, 1, now)
      granted++
    }
    return within("granted", granted, { gte: expect.atLeast, lte: expect.atMost })
  }
)

/** An amount waits as long as the last of as many single ones. */
const equalWaits = law(
  Schema.Struct({
    input: Schema.Struct({ anyLimiter: Schema.Boolean, n: Schema.Array(Schema.Number) }),
    expect: Schema.Literal("equal waits")
  }),
  ({ input }) =>
    input.n.flatMap((amount) =>
      [0, 1000].flatMap((stepMs) => {
        const make = () => Bucket.make({ capacity: 2, perMs: 0.002, stepMs }, 0)
        const at = 250
        const singles = make()
        let last = 0
        for (let index = 0; index < amount; index++) {
          last = Bucket.waitFor(singles, 1, at)
          Bucket.take(singles, 1, at)
        }
        return same(`wait for ${amount}`, Bucket.waitFor(make(), amount, at), last, 1e-6)
      })
    )
)

/** A grown rate stays within twice what was measured. */
const boundByMeasured = law(
  Schema.Struct({
    input: Schema.Struct({ measuredTxRate: Schema.Number, cubicRate: Schema.Number }),
    expect: Schema.Struct({ newRate: Schema.Number })
  }),
  ({ expect, input }) =>
    same("newRate", Learning.boundByMeasured(input.cubicRate, input.measuredTxRate), expect.newRate, 1e-9)
)

const laws = [longRun, equalWaits, boundByMeasured]

export const property = (vector: Vector): Effect.Effect<Checks, Skip> => {
  const found = laws.map((check) => check(vector)).find((checks) => checks !== undefined)
  const input = vector["input"]
  const fields = typeof input === "object" && input !== null ? Object.keys(input).join(", ") : "no input"
  return found === undefined
    ? Effect.fail(new Skip({ variant: fields, reason: "a law about a mechanism that we do not have" }))
    : Effect.succeed(found)
}
