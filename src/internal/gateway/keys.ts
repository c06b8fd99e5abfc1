/**
 * Keys of clients, compared in a time that says nothing about them.
 *
 * @internal
 */
import { createHash, timingSafeEqual } from "node:crypto"
import type { AccessKey } from "./config.ts"

/** Reads the key of a request: a bearer token, or what clients of Anthropic send. */
export const presented = (headers: Readonly<Record<string, string | undefined>>): string | undefined => {
  const bearer = /^Bearer +(\S+) *$/i.exec(headers["authorization"] ?? "")?.[1]
  return bearer ?? headers["x-api-key"]
}

/** Finds the key of a secret; all keys are looked at, whichever it is. */
export const find = (keys: ReadonlyArray<AccessKey>, secret: string): AccessKey | undefined => {
  const digest = createHash("sha256").update(secret).digest()
  let found: AccessKey | undefined
  for (const key of keys) {
    if (timingSafeEqual(digest, Buffer.from(key.sha256, "hex"))) found = key
  }
  return found
}
