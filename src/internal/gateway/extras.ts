/**
 * Fields and headers of a request that only targets of the client's own format know.
 *
 * A call may go to targets of both formats, so they travel beside the request and join it at the adapter.
 *
 * @internal
 */
import type { CompletionRequest } from "../../LLMService.ts"
import type { Adapter } from "../../Provider.ts"
import type { Target } from "../../Target.ts"

const extras = Symbol("breakwater/gateway/extras")

type Family = "openai" | "anthropic"

interface Extras {
  readonly family: Family
  readonly fields: Readonly<Record<string, unknown>>
  readonly headers: Readonly<Record<string, string>>
}

interface WithExtras extends CompletionRequest {
  readonly [extras]?: Extras
}

/** Adds what only targets of a format are to be sent. */
export const add = (
  request: WithExtras,
  family: Family,
  { fields = {}, headers = {} }: Partial<Omit<Extras, "family">>
): CompletionRequest => {
  if (Object.keys(fields).length === 0 && Object.keys(headers).length === 0) return request
  const before = request[extras]
  const extended: WithExtras = {
    ...request,
    [extras]: { family, fields: { ...before?.fields, ...fields }, headers: { ...before?.headers, ...headers } }
  }
  return extended
}

/** An adapter that sends its format's fields and headers along. */
export const sending = (adapter: Adapter, family: Family): Adapter => {
  const own = (request: WithExtras): Extras | undefined =>
    request[extras]?.family === family ? request[extras] : undefined
  const joined = (request: CompletionRequest): CompletionRequest => {
    const extras = own(request)
    return extras === undefined ? request : { ...request, extra: { ...extras.fields, ...request.extra } }
  }
  const addressed = (target: Target, request: CompletionRequest): Target => {
    const { headers = {} } = own(request) ?? {}
    return Object.keys(headers).length === 0 ? target : { ...target, headers: { ...headers, ...target.headers } }
  }
  return {
    check: adapter.check,
    complete: (target, request) => adapter.complete(addressed(target, request), joined(request)),
    stream: (target, request) => adapter.stream(addressed(target, request), joined(request))
  }
}
