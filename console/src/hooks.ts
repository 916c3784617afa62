import { useCallback, useContext, useEffect, useRef, useState } from "preact/hooks";
import { createContext } from "preact";
import { get } from "./api";
import type { Session } from "./types";

export const SessionContext = createContext<Session>(null as unknown as Session);
export const useSession = (): Session => useContext(SessionContext);

export interface Fetched<T> {
  value: T | null;
  error: unknown;
  again: () => void;
}

/** What a path answers; anew when the path changes or `again` is called. The former answer stays until then. */
export function useFetched<T>(path: string | null): Fetched<T> {
  const [state, set] = useState<{ path: string | null; value: T | null; error: unknown }>({
    path,
    value: null,
    error: null,
  });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    get<T>(path, stop.signal).then(
      (value) => set({ path, value, error: null }),
      (error) => stop.signal.aborted || set((before) => ({ ...before, path, error })),
    );
    return () => stop.abort();
  }, [path, turn]);
  return { value: state.value, error: state.error, again: useCallback(() => setTurn((one) => one + 1), []) };
}

/** Calls `work` every `period` milliseconds while the tab is seen, never twice at a time. */
export function usePolling(work: () => Promise<void>, period: number): void {
  const newest = useRef(work);
  newest.current = work;
  useEffect(() => {
    let timer = 0;
    let running = false;
    let ended = false;
    const turn = async () => {
      if (running || ended || document.hidden) return;
      running = true;
      await newest.current();
      running = false;
      if (!ended) timer = window.setTimeout(turn, period);
    };
    const seen = () => {
      window.clearTimeout(timer);
      void turn();
    };
    document.addEventListener("visibilitychange", seen);
    void turn();
    return () => {
      ended = true;
      window.clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [period]);
}

/** A value that follows another one after it has rested for `ms` milliseconds. */
export function useRested<T>(value: T, ms: number): T {
  const [rested, set] = useState(value);
  useEffect(() => {
    const timer = window.setTimeout(() => set(value), ms);
    return () => window.clearTimeout(timer);
  }, [value, ms]);
  return rested;
}
