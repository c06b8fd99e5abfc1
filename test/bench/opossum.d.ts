/** What is used of opossum, which has no types of its own. */
declare module "opossum" {
  export default class CircuitBreaker<A> {
    constructor(action: () => Promise<A>, options: { readonly timeout: number | false })
    fire(): Promise<A>
    shutdown(): void
  }
}
