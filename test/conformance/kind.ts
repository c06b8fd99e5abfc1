/**
 * What a runner of one kind of vector is made of: it reads the fields it knows, drives our code in virtual time and
 * returns what it compared.
 */
import { Data, Effect, Result, Schema } from "effect"
import { isDeepStrictEqual } from "node:util"

/** A vector as it stands in its file; the fields beyond these belong to its kind. */
export interface Vector {
  readonly id: string
  readonly kind: string
  readonly title: string
  readonly adopt: string
  readonly [field: string]: unknown
}

/** One comparison; `why` is only read when it is not `ok`. */
export interface Check {
  readonly ok: boolean
  readonly why: string
}

export type Checks = ReadonlyArray<Check>

/**
 * A vector that is left out: the variant of its kind that we do not offer (none for the whole kind), and why not.
 * A runner fails with it or throws it.
 */
export class Skip extends Data.TaggedError("Skip")<{ readonly variant: string | undefined; readonly reason: string }> {}

/** Why a vector is left out that shows only a peer's value. */
export const peers = new Skip({
  variant: "adopt: no",
  reason: "a peer's behaviour that we reject, without a value of ours"
})

/** Runs one vector; what it throws fails the vector. */
export type Runner = (vector: Vector) => Effect.Effect<Checks, Skip>

/** Creates a runner from the fields it knows. */
export const kind = <A>(
  schema: Schema.Codec<A, unknown>,
  run: (fields: A, vector: Vector) => Effect.Effect<Checks, Skip>
): Runner => {
  const decode = Schema.decodeUnknownResult(schema)
  return (vector) => {
    const fields = decode(vector)
    return Result.isSuccess(fields)
      ? run(fields.success, vector)
      : Effect.fail(new Skip({ variant: "shape", reason: `fields that this runner does not know: ${fields.failure}` }))
  }
}

/** Creates a runner of a pure computation. */
export const pureKind = <A>(schema: Schema.Codec<A, unknown>, run: (fields: A, vector: Vector) => Checks): Runner =>
  kind(schema, (fields, vector) => Effect.sync(() => run(fields, vector)))

const show = (value: unknown): string =>
  typeof value === "number" || value === undefined ? String(value) : JSON.stringify(value)

/** Compares with what is expected, numbers within a tolerance; nothing expected is nothing compared. */
export const same = (what: string, actual: unknown, expected: unknown, tolerance = 0): Checks => {
  if (expected === undefined) return []
  const ok = typeof actual === "number" && typeof expected === "number"
    ? actual === expected || Math.abs(actual - expected) <= tolerance
    : isDeepStrictEqual(actual, expected)
  return [{ ok, why: `${what}: expected ${show(expected)}, got ${show(actual)}` }]
}

export interface Bounds {
  readonly gte?: number | undefined
  readonly gt?: number | undefined
  readonly lte?: number | undefined
  readonly lt?: number | undefined
}

/** Compares with bounds; a number that is none is outside any. */
export const within = (what: string, actual: number, bounds: Bounds): Checks => {
  const { gt, gte, lt, lte } = bounds
  const ok = !Number.isNaN(actual) && (gte === undefined || actual >= gte) && (gt === undefined || actual > gt) &&
    (lte === undefined || actual <= lte) && (lt === undefined || actual < lt)
  return [{ ok, why: `${what}: expected ${show(bounds)}, got ${actual}` }]
}

/** Whether a function throws a `RangeError`. */
export const isRejected = (construct: () => unknown): boolean => {
  try {
    construct()
    return false
  } catch (error) {
    if (error instanceof RangeError) return true
    throw error
  }
}

/** A schema of one value or a list of values. */
export const oneOrMore = <A>(schema: Schema.Codec<A, unknown>) => Schema.Union([schema, Schema.Array(schema)])

// `Array.isArray` does not narrow a readonly array away, so what is left is A by the branches before.
export const listOf = <A>(value: A | ReadonlyArray<A> | undefined, otherwise: ReadonlyArray<A>): ReadonlyArray<A> =>
  value === undefined ? otherwise : Array.isArray(value) ? value : [value as A]

export const optionalNumber = Schema.optionalKey(Schema.Number)
export const optionalString = Schema.optionalKey(Schema.String)
export const optionalBoolean = Schema.optionalKey(Schema.Boolean)
