/**
 * Fields of the files that people write, as schemas that say what is expected.
 *
 * @internal
 */
import * as Schema from "effect/Schema"

/** A field that may be left out. @internal */
export const optional = <S extends Schema.Top>(schema: S, description: string) =>
  Schema.optionalKey(schema).annotateKey({ description })

/** @internal */
export const required = <S extends Schema.Top>(schema: S, description: string) => schema.annotateKey({ description })

// What a transformation hides from the published schema stands on its encoded side.
/** @internal */
export const requiredTime = (description: string) =>
  Schema.DurationFromString.pipe(Schema.annotateEncoded({ description }))

/** @internal */
export const optionalTime = (description: string) => Schema.optionalKey(requiredTime(description))

/** @internal */
export const Name = Schema.NonEmptyString

/** @internal */
export const Time = requiredTime("A time, such as `500 millis`, `30 seconds`, `5 minutes` or `Infinity`.")

/** @internal */
export const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

/** @internal */
export const NotNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))

/** @internal */
export const Count = Schema.Int.check(Schema.isGreaterThan(0))

/** @internal */
export const Share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
