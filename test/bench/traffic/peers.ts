/**
 * Compositions of other libraries, each as somebody would write it who knows them well: every limit as configured, every
 * stated wait kept, attempts that take too long given up, queues no longer than a call may wait, another target when one
 * fails.
 */
import Bottleneck from "bottleneck"
import * as Cockatiel from "cockatiel"
import { Context, Effect, Exit, Layer, Random, Result, Schedule, Scope, Semaphore } from "effect"
import { HttpClient, HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import * as EffectLimiter from "effect/persistence/RateLimiter"
import Opossum from "opossum"
import PQueue from "p-queue"
import pRetry, { AbortError } from "p-retry"
import { RateLimiterMemory, RateLimiterQueue } from "rate-limiter-flexible"
import { HttpError, pause } from "./provider.ts"
import { ask, type Limit, type Peer, type Place, type Request, type Setup } from "./run.ts"

/** What nobody but the caller can mend, or what is of no use any more. */
class Hopeless extends Error {}

const isRateLimit = (error: unknown): boolean => error instanceof HttpError && error.status === 429

const isAuthentication = (error: unknown): boolean =>
  error instanceof HttpError && (error.status === 401 || error.status === 403)

/** What may be gone in a while, at the same target. */
const mayHeal = (error: unknown): boolean => !(error instanceof Hopeless) && !isAuthentication(error)

const firstMs = 1000
const longestMs = 10_000

/** The stated wait, or twice as long each time, spread by chance. */
const waitMs = ({ random }: Setup, error: unknown, failures: number): number => {
  const stated = error instanceof HttpError ? error.retryAfterMs : undefined
  const spread = random.nextDoubleUnsafe()
  return stated === undefined
    ? Math.min(longestMs, firstMs * 2 ** failures) * (0.5 + spread / 2)
    : stated * (1 + spread / 10)
}

/** Stops a queue for as long as the provider asks, however many calls are told so. */
const holding = (setup: Setup, stop: () => unknown, start: () => unknown) => {
  let until = 0
  const look = (): void => {
    const left = until - Date.now()
    if (left > 0) setTimeout(look, left)
    else start()
  }
  return (error: unknown): void => {
    if (!(error instanceof HttpError) || error.status !== 429) return
    const now = Date.now()
    const isHeld = until > now
    until = Math.max(until, now + waitMs(setup, error, 0))
    if (isHeld) return
    stop()
    setTimeout(look, until - now)
  }
}

/** How many calls of the usual size the limit of a target serves in so many milliseconds. */
const callsWithin = ({ amount, perMs, unit }: Limit, { usualTokens }: Setup, millis: number): number =>
  Math.max(1, Math.floor((unit === "tokens" ? amount / usualTokens : amount) / perMs * millis))

/** A slice of a limit that is at most its burst, and at least a second: calls are spread rather than sent at once. */
const sliceOf = ({ amount, burst, perMs }: Limit): { readonly cap: number; readonly perMs: number } => {
  const sliceMs = Math.min(perMs, Math.max(1000, Math.ceil(perMs / amount)))
  const cap = Math.max(1, Math.floor(Math.min(burst, amount * sliceMs / perMs)))
  return { cap, perMs: Math.ceil(cap * perMs / amount) }
}

const weightOf = (place: Place, request: Request): number => place.limit.unit === "tokens" ? request.tokens : 1

/** How often a call tries one target again before it goes to another. */
const retriesOf = ({ places }: Setup): number => places.length === 1 ? 3 : 1

/** What is worth another attempt at the same target: not a refusal where there are others. */
const mayRetry = ({ places }: Setup, error: unknown): boolean =>
  mayHeal(error) && (places.length === 1 || !isRateLimit(error))

/**
 * Asks one target after the other until one answers, beginning with the first, or in turn; when none does, all of them
 * again after a while, until the deadline. A key that is wrong is not used again, and a target that refuses is left alone
 * for as long as it asks, by all calls.
 */
const failover = (setup: Setup, attempt: (place: Place, request: Request) => Promise<unknown>) => {
  const { inTurn, places } = setup
  let turn = 0
  const coolUntil = places.map(() => 0)
  return async (request: Request): Promise<void> => {
    const begin = inTurn ? turn++ : 0
    for (let round = 0;; round++) {
      let last: unknown = new Hopeless("no key is any good")
      let isHopeless = true
      for (let step = 0; step < places.length; step++) {
        const index = (begin + step) % places.length
        const place = places[index]
        if (place === undefined || (coolUntil[index] ?? 0) > Date.now()) continue
        try {
          await attempt(place, request)
          return
        } catch (error) {
          request.signal.throwIfAborted()
          last = error
          if (isAuthentication(error)) coolUntil[index] = Infinity
          if (isRateLimit(error)) coolUntil[index] = Date.now() + waitMs(setup, error, 0)
          if (mayHeal(error)) isHopeless = false
        }
      }
      const earliest = Math.min(...coolUntil)
      if (earliest > Date.now() && earliest < Infinity) {
        await pause(earliest - Date.now(), request.signal)
        continue
      }
      if (isHopeless) throw last
      await pause(waitMs(setup, last, round), request.signal)
    }
  }
}

/** Ends an attempt that takes too long. */
const withTimeout = async (
  place: Place,
  request: Request,
  attemptMs: number,
  signal: AbortSignal = request.signal
): Promise<void> => {
  const controller = new AbortController()
  const leave = (): void => controller.abort(signal.reason)
  const timer = setTimeout(() => controller.abort(new Error("attempt timed out")), attemptMs)
  signal.addEventListener("abort", leave, { once: true })
  try {
    signal.throwIfAborted()
    await ask(request, place, controller.signal)
  } finally {
    clearTimeout(timer)
    signal.removeEventListener("abort", leave)
  }
}

/** Retry, circuit, bulkhead and timeout of a target; it has no limiter, so the bulkhead has to do. */
const cockatiel: Peer = {
  name: "cockatiel",
  make: (setup) => {
    const policies = setup.places.map(({ limit }) =>
      Cockatiel.wrap(
        Cockatiel.retry(Cockatiel.handleWhen((error) => mayRetry(setup, error)), {
          maxAttempts: retriesOf(setup),
          backoff: new Cockatiel.DelegateBackoff<Cockatiel.IRetryBackoffContext<unknown>>(({ attempt, result }) =>
            waitMs(setup, "error" in result ? result.error : undefined, attempt - 1)
          )
        }),
        Cockatiel.circuitBreaker(Cockatiel.handleWhen((error) => !isRateLimit(error)), {
          halfOpenAfter: 10_000,
          breaker: new Cockatiel.ConsecutiveBreaker(5)
        }),
        Cockatiel.bulkhead(
          callsWithin(limit, setup, 1000),
          callsWithin(limit, setup, setup.queueMs)
        ),
        Cockatiel.timeout(setup.attemptMs, Cockatiel.TimeoutStrategy.Aggressive)
      )
    )
    return {
      handle: failover(
        setup,
        async (place, request) =>
          policies[place.index]?.execute(({ signal }) => ask(request, place, signal), request.signal)
      ),
      close: () => undefined
    }
  }
}

/** Tries again by p-retry, which knows stated waits by what is done between two attempts. */
const retried = (setup: Setup, request: Request, attempt: () => Promise<void>): Promise<void> =>
  pRetry(
    async () => {
      try {
        await attempt()
      } catch (error) {
        if (mayRetry(setup, error)) throw error
        throw new AbortError(error instanceof Error ? error : String(error))
      }
    },
    {
      retries: retriesOf(setup),
      minTimeout: firstMs * (0.5 + setup.random.nextDoubleUnsafe() / 2),
      maxTimeout: longestMs,
      signal: request.signal,
      onFailedAttempt: async ({ error, retriesLeft, retryDelay }) => {
        const stated = error instanceof HttpError ? error.retryAfterMs ?? 0 : 0
        if (retriesLeft > 0 && stated > retryDelay) await pause(stated - retryDelay, request.signal)
      }
    }
  )

/** A circuit with a timeout for each target, behind a bucket that refills every second. */
const opossumAndBottleneck: Peer = {
  name: "opossum + bottleneck + p-retry",
  make: (setup) => {
    const guarded = setup.places.map((place) => {
      const { limit } = place
      const breaker = new Opossum((request: Request) => withTimeout(place, request, setup.attemptMs), {
        timeout: setup.attemptMs,
        resetTimeout: 10_000,
        volumeThreshold: 5,
        errorFilter: isRateLimit
      })
      const limiter = new Bottleneck({
        reservoir: limit.burst,
        reservoirIncreaseAmount: limit.amount / limit.perMs * 1000,
        reservoirIncreaseInterval: 1000,
        reservoirIncreaseMaximum: limit.burst
      })
      return { breaker, limiter, most: callsWithin(limit, setup, setup.queueMs) }
    })
    return {
      handle: failover(setup, (place, request) =>
        retried(setup, request, async () => {
          const own = guarded[place.index]
          if (own === undefined) return
          // Its own `highWater` lets a light job into a full queue, and with it all that follow.
          if (own.limiter.queued() >= own.most) throw new Hopeless("the queue is full")
          await own.limiter.schedule({ weight: weightOf(place, request) }, () => {
            request.signal.throwIfAborted()
            return own.breaker.fire(request)
          })
        })),
      close: async () => {
        for (const { breaker, limiter } of guarded) {
          breaker.shutdown()
          await limiter.disconnect()
        }
      }
    }
  }
}

/** A queue for each target that starts so many in an interval. */
const queueAndRetry: Peer = {
  name: "p-queue + p-retry",
  make: (setup) => {
    const guarded = (queue: PQueue, most: number) => ({
      queue,
      most,
      hold: holding(setup, () => queue.pause(), () => queue.start())
    })
    const queues = setup.places.map(({ limit }) => {
      const most = callsWithin(limit, setup, setup.queueMs)
      // It counts calls, so a limit of tokens is one of calls of the usual size.
      const size = limit.unit === "tokens" ? setup.usualTokens : 1
      const { cap, perMs } = sliceOf({ ...limit, amount: limit.amount / size, burst: limit.burst / size })
      return guarded(new PQueue({ interval: perMs, intervalCap: cap }), most)
    })
    return {
      handle: failover(setup, (place, request) =>
        retried(setup, request, async () => {
          const own = queues[place.index]
          if (own === undefined) return
          if (own.queue.size >= own.most) throw new Hopeless("the queue is full")
          try {
            await own.queue.add(() => withTimeout(place, request, setup.attemptMs), { signal: request.signal })
          } catch (error) {
            own.hold(error)
            throw error
          }
        })),
      close: () => {
        for (const { queue } of queues) queue.clear()
      }
    }
  }
}

/** A queue for each target that waits for points. */
const flexibleAndRetry: Peer = {
  name: "rate-limiter-flexible + p-retry",
  make: (setup) => {
    const queues = setup.places.map(({ limit }) => {
      const { cap, perMs } = limit.unit === "tokens" ? { cap: limit.amount, perMs: limit.perMs } : sliceOf(limit)
      const limiter = new RateLimiterMemory({ points: cap, duration: perMs / 1000 })
      const queue = new RateLimiterQueue(limiter, { maxQueueSize: callsWithin(limit, setup, setup.queueMs) })
      return { limiter, queue }
    })
    return {
      handle: failover(setup, (place, request) =>
        retried(setup, request, async () => {
          const own = queues[place.index]
          if (own === undefined) return
          const expires = Math.floor(request.deadlineAt / 1000)
          await own.queue.removeTokens(weightOf(place, request), "limiter", expires).catch((error: unknown) => {
            throw new Hopeless(String(error))
          })
          try {
            await withTimeout(place, request, setup.attemptMs)
          } catch (error) {
            if (isRateLimit(error)) await own.limiter.block("limiter", waitMs(setup, error, 0) / 1000)
            throw error
          }
        })),
      close: () => undefined
    }
  }
}

/** Effect's HTTP client with its limiter, its retries and its circuit, in the order its documentation recommends. */
const effect: Peer = {
  name: "Effect",
  make: async (setup) => {
    const scope = Scope.makeUnsafe()
    const services = await Effect.runPromise(
      Layer.buildWithScope(
        Layer.mergeAll(
          EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(5), openDuration: "10 seconds" }).pipe(
            Layer.provide(EffectBreaker.layerStoreMemory())
          ),
          Layer.provide(EffectLimiter.layer, EffectLimiter.layerStoreMemory)
        ),
        scope
      )
    )
    const limiter = Context.get(services, EffectLimiter.RateLimiter)
    const breaker = Context.get(services, EffectBreaker.CircuitBreaker)
    const backoff = Schedule.jittered(Schedule.min([Schedule.exponential(firstMs), Schedule.spaced(longestMs)]))
    const running = new Map<string, Request>()
    const guarded = setup.places.map((place) => {
      const { id, limit } = place
      const base = HttpClient.make((http, _, signal) =>
        Effect.flatMap(
          Effect.tryPromise({
            try: async () => {
              const request = running.get(http.headers["x-call"] ?? "")
              if (request === undefined) throw new Error("its deadline has passed")
              return request.send(place, signal)
            },
            catch: (cause) =>
              new HttpClientError.HttpClientError({
                reason: new HttpClientError.TransportError({ request: http, cause })
              })
          }),
          ({ headers, status }) =>
            Effect.succeed(HttpClientResponse.fromWeb(http, new Response(null, { status, headers })))
        )
      )
      const timed = HttpClient.transformResponse(base, Effect.timeout(setup.attemptMs))
      const limited = HttpClient.withRateLimiter(timed, {
        limiter,
        key: id,
        algorithm: "token-bucket",
        limit: limit.burst,
        window: limit.burst * limit.perMs / limit.amount,
        tokens: (http) => {
          const request = running.get(http.headers["x-call"] ?? "")
          return request === undefined ? 1 : weightOf(place, request)
        },
        times: retriesOf(setup)
      })
      const client = limited.pipe(
        HttpClient.retryTransient({ times: retriesOf(setup), schedule: backoff }),
        HttpClient.withCircuitBreaker({ breaker, key: id })
      )
      // Its limiter lets calls wait without an end: no more may be inside than can be served in time.
      return { client, room: Semaphore.makeUnsafe(callsWithin(limit, setup, setup.queueMs)) }
    })
    return {
      handle: failover(setup, async (place, request) => {
        const own = guarded[place.index]
        if (own === undefined) return
        const id = String(request.call.index)
        running.set(id, request)
        const http = HttpClientRequest.post(`http://${place.target.provider}/`, { headers: { "x-call": id } })
        const exit = await Effect.runPromiseExit(
          Effect.result(own.room.withPermitsIfAvailable(1)(own.client.execute(http))).pipe(
            Effect.provideService(Random.Random, setup.random)
          ),
          { signal: request.signal }
        )
        running.delete(id)
        if (Exit.isFailure(exit)) throw request.signal.reason
        if (Result.isFailure(exit.value)) throw exit.value.failure
        const response = exit.value.success
        if (response._tag === "None") throw new Hopeless("the queue is full")
        if (response.value.status !== 200) throw new HttpError(response.value.status, response.value.headers)
      }),
      close: () => Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}

export const peers: ReadonlyArray<Peer> = [cockatiel, opossumAndBottleneck, queueAndRetry, flexibleAndRetry, effect]
