/**
 * Fields of a request that only targets of the client's own format know.
 *
 * A call may go to targets of both formats, so these fields travel beside the request and join it at the adapter.
 *
 * @internal
 */
import type { CompletionRequest } from "../../LLMService.ts"
import type { Adapter } from "../../Provider.ts"

const extras = Symbol("breakwater/gateway/extras")

type Family = "openai" | "anthropic"

interface WithExtras extends CompletionRequest {
  readonly [extras]?: { readonly family: Family; readonly fields: Readonly<Record<string, unknown>> }
}

/** Adds the fields that only targets of a format are to be sent. */
export const add = (
  request: CompletionRequest,
  family: Family,
  fields: Readonly<Record<string, unknown>>
): CompletionRequest => {
  if (Object.keys(fields).length === 0) return request
  const extended: WithExtras = { ...request, [extras]: { family, fields } }
  return extended
}

/** An adapter that sends its format's fields along. */
export const sending = (adapter: Adapter, family: Family): Adapter => {
  const joined = (request: WithExtras): CompletionRequest => {
    const own = request[extras]
    return own === undefined || own.family !== family
      ? request
      : { ...request, extra: { ...own.fields, ...request.extra } }
  }
  return {
    check: adapter.check,
    complete: (target, request) => adapter.complete(target, joined(request)),
    stream: (target, request) => adapter.stream(target, joined(request))
  }
}
