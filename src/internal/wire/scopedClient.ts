/**
 * Knows the clients whose exchanges end with their scope by themselves; it stands alone so that the wire formats, which
 * run anywhere, need nothing of Node.
 *
 * @internal
 */
import type { HttpClient } from "effect/http/HttpClient"

const clients = new WeakSet<HttpClient>()

/** @internal */
export const add = (client: HttpClient): HttpClient => {
  clients.add(client)
  return client
}

/** @internal */
export const has = (client: HttpClient): boolean => clients.has(client)
