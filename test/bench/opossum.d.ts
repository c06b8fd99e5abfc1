/** What is used of opossum, which has no types of its own. */
declare module "opossum" {
  export default class CircuitBreaker<A, Args extends ReadonlyArray<unknown> = []> {
    constructor(action: (...args: Args) => Promise<A>, options: {
      readonly timeout: number | false
      readonly resetTimeout?: number
      readonly errorThresholdPercentage?: number
      readonly volumeThreshold?: number
      readonly errorFilter?: (error: unknown) => boolean
    })
    readonly opened: boolean
    fire(...args: Args): Promise<A>
    shutdown(): void
  }
}
