/**
 * Reads JSON files that people name.
 *
 * @internal
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Result from "effect/Result"
import * as Json from "./wire/json.ts"

/** Error for a file that cannot be read, or is not JSON. */
export class FileError extends Data.TaggedError("FileError")<{ readonly message: string }> {}

/** Reads a file as JSON. */
export const read = (file: string): Effect.Effect<unknown, FileError, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (fs) =>
    Effect.flatMap(
      Effect.mapError(fs.readFileString(file), (error) =>
        new FileError({ message: `cannot read ${file}: ${error.message}` })),
      (text): Effect.Effect<unknown, FileError> => {
        const json = Result.try((): unknown =>
          JSON.parse(text)
        )
        return Result.isFailure(json)
          ? Effect.fail(
            new FileError({ message: `${file} is not JSON: ${String(Json.field(json.failure, "message"))}` })
          )
          : Effect.succeed(json.success)
      }
    ))
