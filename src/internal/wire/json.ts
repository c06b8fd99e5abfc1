/**
 * Total reading of JSON that a provider sent.
 *
 * Replies differ by vendor and change without notice, so nothing here fails: what is absent or of another type reads
 * as `undefined`. A decoded schema per stream chunk would also cost more than the chunk may.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** JSON never decodes to `undefined`, so that stands for text that is not JSON. */
export const parse = (text: string): unknown => Result.getOrUndefined(Result.try((): unknown => JSON.parse(text)))

export const field = (value: unknown, key: string): unknown => Predicate.isObject(value) ? value[key] : undefined

export const string = (value: unknown): string | undefined => typeof value === "string" ? value : undefined

/** An empty text says as much as an absent one. */
export const text = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined

export const array = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []

/** A count of tokens; anything but a whole number >= 0 is not one. */
export const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

export const isObject = Predicate.isObject

export const isJson = Schema.is(Schema.Json)
