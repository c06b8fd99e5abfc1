/** What is used of autocannon, which has no types of its own. */
declare module "autocannon" {
  interface Run extends PromiseLike<unknown> {
    on(event: "response", f: (client: unknown, statusCode: number) => void): void
    on(event: "reqError", f: (error: Error) => void): void
  }
  export default function autocannon(options: {
    readonly url: string
    readonly method: "POST"
    readonly headers: Readonly<Record<string, string>>
    readonly body: string
    readonly connections: number
    /** Requests, over all connections. */
    readonly amount: number
    /** Milliseconds between two looks at whether all is done. */
    readonly sampleInt: number
  }): Run
}
