/**
 * A binary heap that knows where its items are, so that any of them is moved or removed in O(log n).
 *
 * @internal
 */

/** @internal */
export interface Heap<A> {
  readonly items: Array<A>
  /** Whether the first comes out before the second; a strict total order. */
  readonly before: (a: A, b: A) => boolean
  /** Notes the place of an item in the item; -1 when it is out. */
  readonly place: (item: A, index: number) => void
}

/** @internal */
export const make = <A>(before: (a: A, b: A) => boolean, place: (item: A, index: number) => void): Heap<A> => ({
  items: [],
  before,
  place
})

/** @internal */
export const push = <A>(heap: Heap<A>, item: A): void => {
  heap.items.push(item)
  rise(heap, item, heap.items.length - 1)
}

/** @internal */
export const removeAt = <A>(heap: Heap<A>, index: number): void => {
  const { items } = heap
  const removed = items[index]
  if (removed === undefined) return
  const last = items.pop()
  heap.place(removed, -1)
  if (last !== undefined && last !== removed) settle(heap, last, index)
}

/**
 * Restores the order after the item at a place has changed.
 *
 * @internal
 */
export const update = <A>(heap: Heap<A>, index: number): void => {
  const item = heap.items[index]
  if (item !== undefined) settle(heap, item, index)
}

/**
 * Restores the order after all items may have changed.
 *
 * @internal
 */
export const rebuild = <A>(heap: Heap<A>): void => {
  for (let index = (heap.items.length >> 1) - 1; index >= 0; index--) {
    const item = heap.items[index]
    if (item !== undefined) sink(heap, item, index)
  }
}

const settle = <A>(heap: Heap<A>, item: A, index: number): void => {
  const above = heap.items[(index - 1) >> 1]
  if (index > 0 && above !== undefined && heap.before(item, above)) rise(heap, item, index)
  else sink(heap, item, index)
}

const rise = <A>(heap: Heap<A>, item: A, start: number): void => {
  const { before, items, place } = heap
  let index = start
  while (index > 0) {
    const parent = (index - 1) >> 1
    const above = items[parent]
    if (above === undefined || !before(item, above)) break
    items[index] = above
    place(above, index)
    index = parent
  }
  items[index] = item
  place(item, index)
}

const sink = <A>(heap: Heap<A>, item: A, start: number): void => {
  const { before, items, place } = heap
  let index = start
  for (;;) {
    let child = 2 * index + 1
    let below = items[child]
    if (below === undefined) break
    const right = items[child + 1]
    if (right !== undefined && before(right, below)) {
      child++
      below = right
    }
    if (!before(below, item)) break
    items[index] = below
    place(below, index)
    index = child
  }
  items[index] = item
  place(item, index)
}
