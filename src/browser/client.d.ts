/** Ids are Redis stream ids, `<ms>-<n>`; they only ever grow for one user. */
export type EventId = string;

export interface Options {
  /** Where the node is: `wss://` or `https://`. Default: where this module came from. */
  url?: string | URL | undefined;
  /** Whose events. May be left out where the token, a cookie or a proxy says it. */
  userId?: string | undefined;
  /** A name for this session. Default: one is made up, and kept for the tab. */
  clientId?: string | undefined;
  /**
   * A credential, or whoever fetches one: it is asked before each connection, and again before a JWT expires,
   * so that the connection can stay.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>) | undefined;
  /** Begin after this event; `"0"`: with all that is kept. Default: where this tab was, else now. */
  since?: EventId | undefined;
  /** `"auto"`: an event is done with when its callbacks have returned. `"manual"`: when `ack(id)` says so. */
  ack?: "auto" | "manual" | undefined;
  /** `"hello"`: say who this is in the first frame. `"query"`: in the URL, for proxies that look there. */
  identify?: "hello" | "query" | undefined;
  /** `"auto"`: WebSocket, and server-sent events where that does not get through. */
  transport?: "auto" | "websocket" | "sse" | undefined;
  /** Tells apart several connections to one user on one storage, as in one tab: without it they share a position, and one may miss events. */
  name?: string | undefined;
  /** Where the client id and the position are kept. Default: `sessionStorage`, where there is one; `null`: in the connection alone. */
  storage?: { getItem(key: string): string | null; setItem(key: string, value: string): void } | null | undefined;
  /** The least and the most that the waiting time after a failure may reach, in ms: doubled each time, at random below it. Default: `[1000, 30000]`. */
  backoffMs?: [number, number] | undefined;
  /** How long the token provider may take, and after it the connection until it is welcome, in ms. Default: 10000. */
  timeoutMs?: number | undefined;
  /** `"include"`: server-sent events bring cookies to another origin, as WebSockets always do. Default: `"same-origin"`. */
  credentials?: "omit" | "same-origin" | "include" | undefined;
  /** Where the platform has none: Node 20 without `--experimental-websocket`, say. Default: the global one. */
  WebSocket?: (new (url: string) => unknown) | undefined;
  /** Default: the global one. */
  fetch?: typeof fetch | undefined;
}

export interface Meta {
  /** The event's name. */
  event: string;
  /** Missing where the event is transient. */
  id?: EventId;
}

export type State =
  | { state: "connecting" }
  | {
      state: "open";
      userId: string;
      clientId: string;
      nodeId: string;
      /** The user's newest event at that moment. */
      position: EventId;
      /** Nothing is missing since the last connection. */
      recovered: boolean;
      /** So many events come from the log; at least, where the log holds more than 1 MiB after your position. */
      replayed: number;
      transport: "websocket" | "sse";
    }
  /** It comes back by itself after `afterMs`. `"offline"`: the browser says that there is no network. */
  | { state: "waiting" | "offline"; afterMs: number; code: number; reason: string }
  /** The page is frozen, kept for the back button, or prerendered. */
  | { state: "suspended" }
  /** For good. */
  | { state: "closed"; code: number; reason: string };

export declare class SwitchboardError extends Error {
  /** A code of the node's (`unauthorized`, `rate_limited`, …), or `closed`, `too_many_waiting`, `no_upstream`, `another_user`, `token`, `connect`, `client_id`. */
  readonly code: string;
  constructor(code: string, message: string);
}

export interface Connection {
  readonly state: State["state"];
  /** As the node confirmed it; before that, as it was given. */
  readonly userId: string | undefined;
  readonly clientId: string;
  /** The node of the latest connection. */
  readonly nodeId: string | undefined;
  readonly transport: "websocket" | "sse" | undefined;
  /** Id of the newest event that is done with: what a reload goes on after. */
  readonly position: EventId | undefined;
  /** Calls back for each event of this name, or for every one (`"*"`): once, in order. Returns how to stop that. */
  on<Data = any>(event: string, callback: (data: Data, meta: Meta) => void): () => void;
  /** Some events after `since` are gone: load fresh state. */
  onGap(callback: (gap: { since: EventId; position: EventId }) => void): () => void;
  onState(callback: (state: State) => void): () => void;
  /** What went wrong, and did not end the connection by itself. */
  onError(callback: (error: SwitchboardError) => void): () => void;
  /**
   * Everything up to this event, or the `position` of a gap, is done with. Only needed with `ack: "manual"`.
   * Counts until `close()`, for what was handed out for the present user.
   */
  ack(id: EventId): void;
  /**
   * Sends a message to the back end. Resolves when it was handed to the connection, waiting for one where there is none;
   * rejects over server-sent events, after `close()`, and where the next connection is another user's (`another_user`).
   */
  send(event: string, data?: unknown): Promise<void>;
  /** Ends it for good, and frees everything. */
  close(): void;
}

/** Opens a connection, and keeps it open until `close()`. Register callbacks in the same turn: events come after it. */
export declare function connect(options?: Options): Connection;
