/**
 * HTTP/1.1 over bare sockets, for what has to cost next to nothing beside the thing that is measured: a server that
 * gives every request the same answer, and a client that sends one request over and over.
 */
import { Effect, type Scope } from "effect"
import * as Net from "node:net"

/** An answer as it goes over the wire, head and all. */
export const whole = (body: string): Buffer =>
  Buffer.from(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  )

/** A stream of events, each in a chunk of its own. */
export const events = (data: ReadonlyArray<string>): Buffer => {
  const chunks = data.map((data) => `data: ${data}\n\n`).map((text) =>
    `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
  )
  return Buffer.from(
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" +
      `${chunks.join("")}0\r\n\r\n`
  )
}

const headEnd = "\r\n\r\n"

/** Length of the message at the start of a buffer, `undefined` as long as it is not whole. */
const lengthOf = (buffer: Buffer): number | undefined => {
  const head = buffer.indexOf(headEnd)
  if (head < 0) return undefined
  const text = buffer.toString("latin1", 0, head).toLowerCase()
  const start = head + headEnd.length
  if (text.includes("\r\ntransfer-encoding: chunked")) {
    // Nobody here sends two messages at once, and no data holds such a line.
    const end = buffer.indexOf("0\r\n\r\n", start)
    const last = end === start || buffer.toString("latin1", end - 2, end) === "\r\n"
      ? end
      : buffer.lastIndexOf("\r\n0\r\n\r\n") + 2
    return last < start ? undefined : last + 5
  }
  const length = Number(/\r\ncontent-length: (\d+)/.exec(text)?.[1] ?? 0)
  return buffer.length < start + length ? undefined : start + length
}

/** Calls back with each message that a socket brings. */
const onMessage = (socket: Net.Socket, f: (message: Buffer) => void): void => {
  let buffer: Buffer = Buffer.alloc(0)
  socket.on("data", (data: Buffer) => {
    buffer = buffer.length === 0 ? data : Buffer.concat([buffer, data])
    for (let length = lengthOf(buffer); length !== undefined; length = lengthOf(buffer)) {
      const message = buffer.subarray(0, length)
      buffer = buffer.subarray(length)
      f(message)
    }
  })
}

/** Starts a server that answers at once; returns its port. */
export const serve = (answer: (request: Buffer) => Buffer): Effect.Effect<number, never, Scope.Scope> =>
  Effect.gen(function*() {
    const sockets = new Set<Net.Socket>()
    const server = Net.createServer({ noDelay: true }, (socket) => {
      sockets.add(socket)
      socket.on("close", () => sockets.delete(socket))
      socket.on("error", () => {})
      onMessage(socket, (request) => socket.write(answer(request)))
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    const address = server.address()
    return typeof address === "object" && address !== null ? address.port : 0
  })

/** One connection that is kept open. */
export interface Connection {
  /** Sends the request and waits for its answer. */
  readonly exchange: () => Promise<Buffer>
}

/** Connects, for one request that is sent again and again. */
export const connect = (
  port: number,
  options: {
    readonly path: string
    readonly headers?: Readonly<Record<string, string>>
    readonly body: string
  }
): Effect.Effect<Connection, never, Scope.Scope> =>
  Effect.gen(function*() {
    const headers = Object.entries({
      host: `127.0.0.1:${port}`,
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(options.body)),
      authorization: "Bearer sk-bench",
      ...options.headers
    }).map(([name, value]) => `${name}: ${value}\r\n`)
    const bytes = Buffer.from(`POST ${options.path} HTTP/1.1\r\n${headers.join("")}\r\n${options.body}`)
    let socket: Net.Socket | undefined
    let waiting: { readonly resolve: (message: Buffer) => void; readonly reject: (error: Error) => void } | undefined
    // A server may close what it takes for idle, so each request looks for itself.
    const opened = (): Net.Socket => {
      if (socket !== undefined && socket.writable) return socket
      const mine = Net.connect({ port, host: "127.0.0.1", noDelay: true })
      const lost = (): void => {
        if (socket === mine) waiting?.reject(new Error(`the server at port ${port} closed the connection`))
      }
      mine.on("error", lost)
      mine.on("close", lost)
      onMessage(mine, (message) => {
        if (message.toString("latin1", 9, 12) === "200") waiting?.resolve(message)
        else waiting?.reject(new Error(message.toString()))
      })
      socket = mine
      return mine
    }
    yield* Effect.addFinalizer(() => Effect.sync(() => socket?.destroy()))
    return {
      exchange: () =>
        new Promise<Buffer>((resolve, reject) => {
          waiting = { resolve, reject }
          opened().write(bytes)
        }).finally(() => {
          waiting = undefined
        })
    }
  })
