/* Types of warmcache.js, for editors. Times are milliseconds. */

/** The fields of a list's section in /api/cache/stats that the poller reads. */
export interface WarmcacheStatus {
  cache_rebuilding: boolean;
  generation: string | null;
  state: "cold" | "partial" | "fresh" | "stale" | "failed";
  progress: { phase: string; done: number | null; total: number | null; eta_seconds: number | null } | null;
  last_error: string | null;
  poll_after_ms?: number | null;
  spread_ms?: number | null;
  [key: string]: unknown;
}

export type WarmcacheState =
  | "idle" | "cold" | "partial" | "stale" | "ready" | "fresh" | "failed" | "error" | "offline" | "stalled";

/** Waits for a list until its newest generation is shown. */
export interface WarmcacheWatcher {
  readonly name: string;
  readonly element?: Element;
  readonly state: WarmcacheState;
  readonly status: WarmcacheStatus | null;
  /** The newest known generation; null before the first answer. */
  readonly generation: string | null;
  /** Ask now. Returns false if the page is hidden, if a request is running, or at a second call before the time
   *  of Retry-After. */
  poll(): boolean;
  stop(): void;
  /** Wait again after stop(), after the end of a wait, or after a stall. */
  resume(): void;
}

/** Refreshes what the user sees; returns false if it changed nothing. A failure is retried up to five times. */
export type WarmcacheRefresh = (
  status: WarmcacheStatus, watcher: WarmcacheWatcher, signal: AbortSignal,
) => unknown;

export interface WarmcacheOptions {
  statusUrl?: string;
  interval?: number;
  maxInterval?: number;
  jitter?: number;
  timeout?: number;
  errorMax?: number;
  hidden?: "pause" | "slow" | "keep";
  hiddenInterval?: number;
  maxWait?: number;
  spread?: number;
  share?: boolean;
  refresh?: string | WarmcacheRefresh;
  watch?: number;
  auto?: boolean;
  credentials?: RequestCredentials;
}

export interface WarmcacheWatchOptions {
  /** The target of events; by default document.body. */
  element?: Element;
  /** The generation that the page shows. */
  generation?: string | null;
  state?: WarmcacheState;
  refresh?: string | WarmcacheRefresh;
  signal?: AbortSignal;
}

export interface WarmcacheError extends Error {
  code: "network" | "timeout" | "http" | "body" | "auth" | "refresh" | "stopped" | "stalled";
  fatal: boolean;
}

export interface WarmcacheApi {
  readonly version: string;
  /** Functions that tests or special environments may replace. */
  readonly env: {
    fetch: typeof fetch;
    now(): number;
    random(): number;
    setTimeout(call: () => void, delay: number): unknown;
    clearTimeout(timer: unknown): void;
    navigate(): void;
  };
  /** Strategies by name; a page may add its own. */
  readonly strategies: Record<string, WarmcacheRefresh>;
  /** Set options. An unknown name throws; a wrong value logs a warning and changes nothing. */
  configure(options: WarmcacheOptions): void;
  /** Wait for a list. */
  watch(name: string, options?: WarmcacheWatchOptions): WarmcacheWatcher;
  /** Resolves with the status at publication; rejects with a WarmcacheError on stop, stall, timeout or a fatal error. */
  ready(name: string, options?: WarmcacheWatchOptions & { timeout?: number }): Promise<WarmcacheStatus>;
  /** Fetch JSON. onData is called at once, and again with newer data until the list is no longer being rebuilt.
   *  Give the name if the answer has no X-Warmcache that the page can read; without either it is fetched once. */
  json<Data = any>(
    url: string,
    onData: (data: Data, info: { rebuilding: boolean; generation?: string }) => void,
    options?: Omit<WarmcacheWatchOptions, "refresh"> & { name?: string },
  ): { done: Promise<Data>; stop(): void };
  /** Watch the list of an answer that was fetched elsewhere; null if that list is not being rebuilt. */
  inspect(
    answer: Response | { cache_rebuilding?: boolean } | null | undefined,
    options?: WarmcacheWatchOptions & { name?: string },
  ): WarmcacheWatcher | null;
  /** Attach the regions in root, including root itself. A second call has no effect. */
  scan(root?: Document | Element): void;
  state(name: string): WarmcacheState;
}

export interface WarmcacheEventMap {
  "warmcache:state": CustomEvent<{ name: string; from: WarmcacheState; to: WarmcacheState }>;
  "warmcache:progress": CustomEvent<{
    name: string; phase: string; done: number | null; total: number | null; ratio: number | null; eta: number | null;
  }>;
  "warmcache:ready": CustomEvent<{ name: string; status: WarmcacheStatus; generation: string }>;
  "warmcache:refreshed": CustomEvent<{ name: string; strategy: string; generation: string }>;
  "warmcache:blocked": CustomEvent<{
    name: string;
    reason: "editing" | "loop" | "rate" | "post" | "storage" | "prompt";
    proceed: () => Promise<void>;
  }>;
  "warmcache:error": CustomEvent<{
    name: string; code: WarmcacheError["code"] | "rebuild"; message: string; fatal: boolean; failures: number;
  }>;
  "warmcache:stalled": CustomEvent<{ name: string; waited: number }>;
}

declare global {
  const Warmcache: WarmcacheApi;
  interface GlobalEventHandlersEventMap extends WarmcacheEventMap {}
}
