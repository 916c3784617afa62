// The last minutes of a stack, from its states: rates are differences of counts that only grow.
import type { Live } from "./types";

export const KEPT_S = 300;
/** Seconds over which quantiles are taken: fewer have too few answers in them. */
const WINDOW_S = 30;

/** Growth of a count; a process that was started anew begins at 0. */
const grown = (now: number, before: number): number => (now >= before ? now - before : now);

export class History {
  states: Live[] = [];

  add(state: Live): void {
    const last = this.states[this.states.length - 1];
    if (last && state.time <= last.time) return;
    this.states = [...this.states.filter((one) => one.time > state.time - KEPT_S), state];
  }

  get times(): number[] {
    return this.states.map((state) => state.time);
  }

  get last(): Live | undefined {
    return this.states[this.states.length - 1];
  }

  /** The rate of a count per second, at each state. */
  rates(of: (state: Live) => number): (number | null)[] {
    return this.states.map((state, place) => {
      const before = this.states[place - 1];
      return before ? grown(of(state), of(before)) / (state.time - before.time) : null;
    });
  }

  values(of: (state: Live) => number): number[] {
    return this.states.map(of);
  }

  /** A quantile of the time to the first token over the window before each state; null without an answer in it. */
  quantiles(share: number): (number | null)[] {
    return this.states.map((state) => {
      const before = this.states.find((one) => one.time >= state.time - WINDOW_S && one.time < state.time);
      return before ? quantile(state.first_token, before.first_token, share) : null;
    });
  }

  /** Growth of a count over the last seconds that are kept, at most `seconds`. */
  recent(of: (state: Live) => number, seconds: number): number {
    const last = this.last;
    const first = last && this.states.find((one) => one.time >= last.time - seconds);
    return first && last ? grown(of(last), of(first)) : 0;
  }
}

type Histogram = Live["first_token"];

/** A quantile of what came between two states of a histogram, by interpolation in its bucket as Prometheus does. */
export function quantile(now: Histogram, before: Histogram, share: number): number | null {
  const former = new Map(before.buckets);
  const restarted = now.count < before.count;
  const since = (bound: number, count: number) => (restarted ? count : count - (former.get(bound) ?? 0));
  const total = restarted ? now.count : now.count - before.count;
  if (total <= 0) return null;
  const wanted = share * total;
  let low = 0;
  let below = 0;
  for (const [bound, count] of now.buckets) {
    const upTo = since(bound, count);
    if (upTo >= wanted) return low + ((bound - low) * (wanted - below)) / Math.max(upTo - below, 1e-9);
    low = bound;
    below = upTo;
  }
  return low;
}
