// Switchboard in a page, a worker or Node: one connection that comes back by itself, resumes where it was, and hands
// out each event once, in order. Types: client.d.ts; handbook: src/docs/browser.md.

// Directly within a `new URL`, bundlers would take it for a file to bring along.
const HERE = import.meta.url;
/** How long a dead connection may look alive once there is reason to doubt it, ms. */
const ANSWER_IN = 5000;
/** A connection that lived so long was no failure, ms. */
const SETTLED = 5000;
/** When server-sent events first give way to a WebSocket again, ms. */
const BETTER_AFTER = 60_000;
/** Upward messages that may wait for a connection. */
const MOST_WAITING = 64;

/** A `code` for programs, a message for people. */
export class SwitchboardError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "SwitchboardError";
    this.code = code;
  }
}

export const connect = (options) => new Connection(options);

// Digits without leading zeros: the longer one is greater.
const compare = (a, b) => a.length - b.length || (a > b) - (a < b);
const isLater = (id, than) => {
  const [[a, n = "0"], [b, m = "0"]] = [id.split("-"), than.split("-")];
  return (compare(a, b) || compare(n, m)) > 0;
};

// After all that came before this one.
const before = (id) => {
  const [ms, n] = id.split("-");
  return n > 0 ? `${ms}-${n - 1}` : `${ms - 1}-999999999999999`;
};

const latest = (a, b) => (b && !(a && isLater(a, b)) ? b : a);

// crypto.randomUUID is missing without TLS.
const mint = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

// The table of README, for connections that end without a bye. No node sends 1001, 1005 or 1006: those are the network.
const comesBack = (code) => [1001, 1005, 1006].includes(code) || !((code >= 1000 && code < 1012) || (code >= 4000 && code < 4100));

const claimsOf = (token) => {
  try {
    const { iat, exp } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return { iat, exp };
  } catch {
    return {}; // no JWT: its end shows when it comes
  }
};

const sessionStore = () => {
  try {
    return globalThis.sessionStorage;
  } catch {
    // Cookies are blocked.
  }
};

/** A WebSocket. The hello goes as the first frame: no token in a URL, and a refusal can be read. */
function openSocket({ WebSocket, url, hello, identify, onText, onEnd }) {
  const { userId, token, ...rest } = hello;
  const inQuery = { query: hello, rest }[identify];
  const address = new URL(url);
  address.protocol = address.protocol.replace("http", "ws");
  for (const name in inQuery) address.searchParams.set(name, inQuery[name]);
  const socket = new WebSocket(address.href);
  if (!inQuery) socket.onopen = () => socket.send(JSON.stringify(hello));
  socket.onmessage = ({ data }) => onText(data);
  socket.onclose = ({ code, reason }) => onEnd({ code, reason });
  socket.onerror = () => setTimeout(onEnd, 100, {}); // a close says more, but Node 20 has none where nobody answers
  return {
    name: "websocket",
    send: (frame) => socket.send(JSON.stringify(frame)),
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {}; // the `ws` package throws what nobody hears
      socket.close(1000);
    },
  };
}

/** Server-sent events, read by fetch: unlike an EventSource it shows a refusal, and takes a header. */
function openEvents({ fetch, url, hello, credentials, onText, onLife, onEnd }) {
  const { token, ...named } = hello;
  const address = new URL(url);
  address.protocol = address.protocol.replace("ws", "http");
  address.pathname = address.pathname.replace(/\/(ws)?\/?$/, "") + "/events";
  for (const name in named) address.searchParams.set(name, named[name]);
  const abort = new AbortController();
  const read = async () => {
    const bearer = token?.trim();
    // fetch would throw, as where nobody answers.
    const refusal = { code: "unauthorized", message: "the token cannot be a header" };
    if (/[^\t -~\x80-\xff]/.test(bearer)) return { refusal, code: 4001 };
    const headers = { accept: "text/event-stream", ...(bearer && { authorization: `Bearer ${bearer}` }) };
    const answer = await fetch(address.href, { headers, credentials, cache: "no-store", signal: abort.signal });
    if (!answer.ok || !answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      const refusal = (await answer.json().catch(() => ({}))).error;
      const after = answer.headers.get("retry-after");
      const code = refusal?.code && { 400: 4000, 401: 4001, 403: 4001 }[answer.status]; // as of a hello
      // All who were refused are told the same.
      return { refusal, code, afterMs: after > 0 ? after * 1000 * (1 + Math.random()) : undefined };
    }
    const [reader, decoder] = [answer.body.getReader(), new TextDecoder()];
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return {};
      onLife();
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length && !abort.signal.aborted) onText(data.join("\n"));
      }
    }
  };
  read().catch(() => ({})).then((end) => abort.signal.aborted || onEnd(end));
  return { name: "sse", close: () => abort.abort() };
}

class Connection {
  state = "connecting";
  userId;
  clientId;
  nodeId;
  transport;
  #options;
  #url;
  #key;
  #store;
  #records = {}; // what is in the store, or would be if it took it
  #identify; // "rest": something in front says who the user is, the query the rest
  #own; // the client id is ours to change
  #seen; // newest id that was handed out: nothing up to it is handed out again
  #kept; // newest id that is done with: a reload goes on after it
  #handed = []; // ids that callbacks have, not done with
  #whose; // the user that both are of, where the node has said it
  #end; // where the log ended at a welcome after which nothing of it comes
  #line;
  #bye;
  #tries = 0; // failures that the next wait is reckoned from
  #misses = 0; // attempts in a row that found no node
  #welcomedAt = 0;
  #better = BETTER_AFTER;
  #betterAt; // when it is time for a WebSocket, however often the stream is made anew
  #worked = {}; // which transports have carried a frame
  #timers = {};
  #interval = 25_000; // between the node's signs of life, ms
  #heard = 0; // when the last one came
  #patience = ANSWER_IN; // doubles while nothing but welcomes come: a large event on a slow path looks like a dead one
  #token; // the newest
  #free; // gives the lock on the client id back, or waits for it no longer
  #run = 0; // counts attempts, so that what an abandoned one still has to say is not heard
  #waiting = []; // messages for the next connection
  #listeners = new Map();
  #unhook = [];

  constructor(options = {}) {
    const { WebSocket, fetch } = globalThis;
    const usual = {
      timeoutMs: 10_000, backoffMs: [1000, 30_000], ack: "auto", identify: "hello", transport: "auto", credentials: "same-origin",
      WebSocket, fetch: fetch?.bind(globalThis),
    };
    options = this.#options = { ...options };
    for (const name in usual) options[name] ??= usual[name];
    for (const name of ["userId", "clientId", "since"]) options[name] = options[name]?.toString();
    this.#identify = options.identify;
    this.#url = new URL(options.url ?? new URL(".", HERE), globalThis.location?.href);
    this.#url.hash = "";
    this.userId = options.userId;
    this.#store = options.storage === undefined ? sessionStore() : options.storage;
    this.#key = `switchboard ${options.name ?? ""} ${this.#url.host}${this.#url.pathname} ${options.userId ?? ""}`;
    this.#own = options.clientId === undefined;
    const record = this.#load();
    this.clientId = options.clientId ?? record.clientId ?? mint();
    const last = latest(record.last, this.#load(this.#recordOf(record.userId)).last);
    this.#seen = this.#kept = options.since ?? (record.clientId === this.clientId ? last : undefined);
    if (options.since === undefined) this.#whose = record.userId;
    this.#watchPage();
    this.#begin();
  }

  get position() {
    return this.#kept;
  }

  on(event, callback) {
    const callbacks = this.#listeners.get(event) ?? this.#listeners.set(event, new Set()).get(event);
    const told = callback.bind();
    callbacks.add(told);
    return () => callbacks.delete(told) && !callbacks.size && this.#listeners.delete(event);
  }

  onGap(callback) {
    return this.on("#gap", callback);
  }

  onState(callback) {
    return this.on("#state", callback);
  }

  onError(callback) {
    return this.on("#error", callback);
  }

  ack(id) {
    if (this.#done(id) && this.state === "open") this.#line.send?.({ type: "ack", id });
  }

  async send(event, data) {
    if (this.state === "closed") throw new SwitchboardError("closed", "this connection is closed");
    if (this.#waiting.length >= MOST_WAITING) throw new SwitchboardError("too_many_waiting", `${MOST_WAITING} messages wait already`);
    const frame = JSON.parse(JSON.stringify({ type: "message", event, data }));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ frame, resolve, reject });
      this.#sendWaiting();
    });
  }

  close() {
    if (this.state !== "closed") this.#closed({ code: 1000, reason: "closed by this side" });
  }

  // ---- attempts ----

  async #begin() {
    // A page that is rendered ahead takes no connection from the one that is seen.
    if (globalThis.document?.prerendering) return this.#suspend();
    const run = ++this.#run;
    this.#set("connecting");
    // A copied tab brings a copy of the session storage. Who has the id first keeps it, the copy takes another.
    if (run === this.#run && (await this.#taken()) && run === this.#run) this.#rename();
    if (run === this.#run) this.#dial();
  }

  /** Whether another tab has the client id. If not, we hold its lock. */
  async #taken() {
    try {
      return this.#own && this.#store && (await new Promise((done, fail) => {
        const abort = new AbortController(); // AbortSignal.timeout is younger than locks are
        this.#free = () => abort.abort();
        // A page that is reloaded gives its lock back, perhaps a moment later. Who is busy hears late: that takes up
        // one of three waits.
        const wait = (more) => this.#after("line", 100, () => (more ? wait(more - 1) : done(true) ?? abort.abort()));
        wait(2);
        // Chromium grants what was just withdrawn.
        const held = () => abort.signal.aborted || new Promise((free) => done(void (this.#free = free)));
        navigator.locks.request(`switchboard ${this.clientId}`, { signal: abort.signal }, held).catch(fail);
      }));
    } catch {
      return false; // no locks: close 4009 tells of copies
    }
  }

  async #dial(token = this.#options.token) {
    const run = ++this.#run;
    this.#bye = undefined; // it was said of the last connection, not of a token that does not come
    const { timeoutMs } = this.#options;
    const fail = (why) => {
      if (run !== this.#run) return;
      this.#noToken(why);
      this.#ended({ reason: "no token" });
    };
    this.#after("line", timeoutMs, () => fail(`no answer within ${timeoutMs} ms`));
    this.#set("connecting");
    try {
      token = (typeof token === "function" ? await token() : token)?.toString();
    } catch (error) {
      return fail(error);
    }
    if (run !== this.#run) return;
    this.#save();
    const hello = { userId: this.#options.userId, clientId: this.clientId, since: this.#seen, token };
    for (const name in hello) if (hello[name] == null) delete hello[name];
    this.#after("line", timeoutMs, () => this.#ended({ reason: "no welcome in time" }));
    const current = (act) => (value) => run === this.#run && act(value);
    const wanted = {
      ...this.#options,
      url: this.#url,
      hello,
      identify: this.#identify,
      onText: current((text) => this.#take(text, token)),
      onLife: current(() => (this.#heard = performance.now())),
      onEnd: current((end) => this.#ended(end)),
    };
    try {
      this.#line = this.#pick() === "sse" ? openEvents(wanted) : openSocket(wanted);
    } catch (error) {
      this.#misses++;
      this.#tellError("connect", error.message);
      this.#ended({ reason: error.message });
    }
  }

  #noToken(why) {
    let said = "no text";
    try {
      said = `${why?.message ?? why}`;
    } catch {}
    this.#tellError("token", `the token provider failed: ${said}`);
  }

  /** WebSocket first. The other way is tried every other time, or every fourth once WebSocket has worked here. */
  #pick() {
    const { transport, WebSocket } = this.#options;
    if (transport !== "auto") return transport;
    if (!WebSocket) return "sse";
    const { websocket, sse } = this.#worked;
    const due = websocket ? this.#misses % 4 === 3 : this.#misses % 2 === (sse ? 0 : 1);
    return due ? "sse" : "websocket";
  }

  #redial(misses = 0, token) {
    this.#hangUp();
    this.#misses = misses;
    this.#tries = this.#welcomedAt = 0;
    this.#dial(token);
  }

  #hangUp() {
    this.#run++;
    for (const name in this.#timers) clearTimeout(this.#timers[name]);
    this.#line?.close();
    this.#line = undefined;
  }

  /** The one place where a connection ends: for good, or until it comes back. */
  #ended({ code = 1006, reason = "", refusal, afterMs }) {
    if (this.state === "closed") return; // by a callback, just now
    if (this.#line) this.#misses++;
    this.#hangUp();
    if (this.#welcomedAt && performance.now() - this.#welcomedAt > SETTLED) this.#tries = 0;
    if (this.#welcomedAt) this.#misses = 0;
    const unnamed = !this.#welcomedAt && this.#identify === "rest"; // it may be named no longer
    if (unnamed) this.#identify = "hello";
    this.#welcomedAt = 0;
    const bye = this.#bye;
    if (bye) ({ code, reason, afterMs } = bye);
    let again = unnamed || (bye ? bye.reconnect : comesBack(code));
    if (refusal?.code) {
      this.#tellError(refusal.code, refusal.message);
      if (this.state === "closed") return;
      reason = refusal.code;
    }
    // A provider has a new token, the browser perhaps a new cookie; a text stays as old as it is.
    if (code === 4002 && typeof this.#options.token !== "string") [again, afterMs] = [true, 0];
    if (code === 4009 && this.#own) {
      // Another tab has our id, where no lock could tell: it may keep it.
      this.#rename();
      [again, afterMs] = [true, 0];
    }
    if (!again) return this.#closed({ code, reason });
    if (code >= 4200 && code < 4300) afterMs ??= 0;
    const [least, most] = this.#options.backoffMs;
    // Full jitter: whoever lost their node together does not come back together.
    const backoff = Math.random() * Math.min(most, least * 2 ** this.#tries);
    // The node's word is good for one try; who fails after that takes longer.
    const due = afterMs === undefined ? backoff : afterMs + (this.#tries ? backoff : 0);
    this.#tries++;
    const offline = globalThis.navigator?.onLine === false;
    // Perhaps wrong: a server on this very machine needs no network.
    const wait = Math.round(offline ? most : due);
    this.#after("again", wait, () => this.#dial());
    this.#set(offline ? "offline" : "waiting", { afterMs: wait, code, reason });
  }

  #closed(why) {
    this.#hangUp();
    this.#release();
    // Whoever closes it within a callback has had what that was called for.
    if (this.#options.ack === "auto") this.#done(this.#handed[0]);
    this.#handed = [];
    this.#end = undefined;
    for (const unhook of this.#unhook) unhook();
    this.#refuseWaiting("closed", `the connection is closed: ${why.reason}`);
    this.#set("closed", why);
    this.#listeners.forEach((callbacks) => callbacks.clear());
  }

  #rename() {
    this.#release();
    this.clientId = mint();
    this.#taken(); // by nobody: it is locked before a copy can know it
  }

  #release() {
    this.#free?.();
    this.#free = undefined;
  }

  // ---- frames ----

  #take(text, token) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return; // not from a node of ours
    }
    this.#heard = performance.now();
    this.#worked[this.#line.name] = true;
    if (frame.type === "event") this.#event(frame);
    else if (frame.type === "welcome") return this.#welcome(frame, token);
    else if (frame.type === "gap") this.#gap(frame);
    else if (frame.type === "bye") this.#bye = frame;
    else if (frame.type === "error") this.#tellError(frame.code, frame.message);
    this.#patience = ANSWER_IN;
  }

  #welcome(frame, token) {
    const { userId, clientId, nodeId, position, recovered, replayed, pingInterval } = frame;
    const unheard = clientId !== this.clientId;
    if (unheard && this.#line.send && this.#identify === "hello") {
      // The node knew the user before the hello, and did not wait for it.
      this.#identify = "rest";
      return this.#redial();
    }
    this.#welcomedAt = performance.now();
    if (this.#isAnother(userId)) return this.#ended({ afterMs: 0, reason: "another user" });
    // What waits was sent as whoever it was open for.
    if (this.nodeId && this.userId !== userId) this.#refuseWaiting("another_user", "the connection is another user's now");
    Object.assign(this, { userId, clientId, nodeId, transport: this.#line.name });
    this.#interval = pingInterval;
    // What is replayed moves us by its own ids: `replayed` is no more than the least that comes.
    this.#end = replayed > 0 ? undefined : position;
    // Without a replay `since` was not heard either.
    const lost = unheard && recovered && !replayed && this.#seen && isLater(position, this.#seen);
    if (recovered && !lost) this.#arrive(); // else a gap is told first
    this.#keep(this.#kept); // as this user's
    this.#listen();
    this.#renewBefore(token);
    // Was it a bad moment, or a network that breaks WebSockets? The better way is tried again, once, ever more rarely.
    if (this.transport === "websocket") {
      this.#better = BETTER_AFTER;
      this.#betterAt = undefined;
    } else if (this.#options.transport === "auto" && this.#options.WebSocket) {
      this.#betterAt ??= this.#welcomedAt + this.#better;
      this.#after("better", this.#betterAt - this.#welcomedAt, () => {
        this.#better *= 2;
        this.#betterAt = undefined;
        this.#redial(this.#worked.websocket ? 2 : 1);
      });
    }
    this.#set("open", { userId, clientId, nodeId, position, recovered: recovered && !lost, replayed, transport: this.transport });
    this.#sendWaiting();
    if (unheard) this.#tellError("client_id", "what is in front of the node must pass clientId and since on");
    if (lost && this.state === "open") this.#gap({ since: this.#seen, position });
  }

  /** Whether a token or a cookie now names another user. Each has a position, and a session that never got another's. */
  #isAnother(userId) {
    const last = this.#whose;
    const another = last && last !== userId;
    if (another) {
      // An older module kept it in the record of the latest user alone.
      const { last: own } = this.#load(this.#recordOf(last));
      if (latest(this.#kept, own) !== own) this.#save(this.#recordOf(last));
      this.#handed = [];
      this.#seen = this.#kept = this.#load(this.#recordOf(userId)).last;
      if (this.#own) this.#rename();
    }
    this.#whose = userId;
    return another;
  }

  /** Where nothing was missed, the log is known up to where it ended at the welcome. */
  #arrive() {
    if (!this.#end) return;
    if (!this.#seen || isLater(this.#end, this.#seen)) this.#seen = this.#end;
    if (!this.#handed.length) this.#keep(this.#seen); // none waits for its ack
    this.#end = undefined; // a later gap says nothing of this
  }

  #gap({ since, position }) {
    // A log that is behind what was seen has begun anew, by another Redis: its events count from here on.
    if (this.#seen && isLater(this.#seen, position)) {
      this.#handed = [];
      this.#keep((this.#seen = position));
    }
    this.#handed.push(position); // fresh state is as new as this
    this.#tell("#gap", { since, position });
    if (this.#options.ack === "auto") this.#handed = [];
    this.#arrive();
  }

  #event({ id, event, data }) {
    if (id === undefined) return this.#hand(event, data, { event });
    if (this.#seen && !isLater(id, this.#seen)) return;
    // Until something is done with, a reload begins here: the node's own position moves on with each pong.
    if (!this.#kept) this.#keep(before(id));
    this.#handed.push((this.#seen = id));
    this.#hand(event, data, { event, id });
    if (this.#options.ack === "auto") this.#done(id);
  }

  /** Whether this moves the position: to what callbacks had, for this user and before the end. */
  #done(id) {
    const at = this.#handed.lastIndexOf(id); // a gap's may be an event's too
    this.#handed.splice(0, at + 1);
    if (at < 0 || (this.#kept && !isLater(id, this.#kept))) return false; // after a gap comes what is older
    this.#keep(id);
    return true;
  }

  #hand(event, data, meta) {
    this.#tell(event, data, meta);
    this.#tell("*", data, meta);
  }

  #tell(name, ...what) {
    const callbacks = this.#listeners.get(name);
    for (const callback of [...(callbacks ?? [])]) {
      if (!callbacks.has(callback)) continue; // taken off just now
      try {
        callback(...what);
      } catch (error) {
        // Shown as uncaught, as any event handler's error.
        if (globalThis.reportError) reportError(error);
        else setTimeout(() => { throw error; });
      }
    }
  }

  #tellError(code, message) {
    this.#tell("#error", new SwitchboardError(code, message));
  }

  #sendWaiting() {
    if (this.state !== "open") return; // closed by a callback, just now
    if (!this.#line.send) return this.#refuseWaiting("no_upstream", "server-sent events carry nothing upward");
    for (const { frame, resolve } of this.#waiting.splice(0)) resolve(this.#line.send(frame));
  }

  #refuseWaiting(code, message) {
    for (const { reject } of this.#waiting.splice(0)) reject(new SwitchboardError(code, message));
  }

  // ---- time ----

  #after(name, ms, act) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(act, Math.min(ms, 2 ** 31 - 1));
  }

  /** A browser shows no WebSocket pings, and a dead path says nothing: after two silent intervals the node is asked. */
  #listen() {
    const patience = this.#line.send ? 2 * this.#interval : this.#interval + ANSWER_IN;
    const quiet = performance.now() - this.#heard;
    if (quiet < patience) return this.#after("line", patience - quiet, () => this.#listen());
    if (this.#line.send) this.#ask();
    else this.#ended({ reason: "no sign of life" });
  }

  /** There is reason for doubt. By server-sent events nothing can be asked; the node's word is awaited. */
  #ask() {
    if (!this.#line.send) return this.#listen();
    const asked = performance.now();
    this.#line.send({ type: "ping" });
    this.#after("line", this.#patience, () => {
      if (this.#heard >= asked) return this.#listen();
      this.#patience = Math.min(2 * this.#patience, 300_000);
      this.#ended({ reason: "no sign of life" });
    });
  }

  /** Brings a new token before this one expires. Where this clock is wrong, the node's close 4002 does it later. */
  #renewBefore(token) {
    const { iat, exp } = claimsOf(token);
    let [left, whole] = [exp * 1000 - Date.now(), (exp - iat) * 1000];
    // One in another's place may be from a cache, but not nearly over: then this clock is wrong.
    if (this.#token && this.#token !== token && (left < Math.min(30_000, whole / 10) || left > whole)) left = whole;
    this.#token = token;
    if (typeof this.#options.token !== "function" || !(left > 0)) return;
    this.#after("renew", Math.max(1000, left - Math.min(30_000, left / 4)), async () => {
      const run = this.#run;
      let next;
      try {
        next = (await this.#options.token())?.toString();
      } catch (error) {
        this.#noToken(error);
      }
      if (run !== this.#run) return;
      // A stream takes a new request, and stays a stream.
      if (next && !this.#line.send) return this.#redial(this.#worked.websocket ? 3 : 0, next);
      if (next) this.#line.send({ type: "token", token: next });
      this.#renewBefore(next || token);
    });
  }

  // ---- the page ----

  #load(key = this.#key) {
    try {
      const { clientId, userId, last } = JSON.parse(this.#records[key] ?? this.#store.getItem(key));
      return { clientId, userId, last: /^\d+(-\d+)?$/.test(last) ? `${last}` : undefined };
    } catch {
      return {}; // nothing is kept here
    }
  }

  #recordOf(userId) {
    return `${this.#key} ${userId}`;
  }

  /** In the user's own record as well: another connection may write the first. */
  #keep(id) {
    this.#kept = id;
    this.#save();
    if (this.#whose !== this.#options.userId) this.#save(this.#recordOf(this.#whose));
  }

  #save(key = this.#key) {
    this.#records[key] = JSON.stringify({ clientId: this.clientId, userId: this.#whose, last: this.#kept });
    try {
      this.#store.setItem(key, this.#records[key]);
    } catch {
      // Full, or blocked: a reload begins anew.
    }
  }

  #set(state, more) {
    if (state === this.state && !more) return;
    this.state = state;
    this.#tell("#state", { state, ...more });
  }

  #watchPage() {
    const hear = (target, type, act) => {
      target?.addEventListener?.(type, act);
      this.#unhook.push(() => target?.removeEventListener?.(type, act));
    };
    const { document } = globalThis;
    hear(globalThis, "online", () => this.#wake());
    hear(globalThis, "offline", () => this.state === "open" && this.#ask());
    hear(document, "visibilitychange", () => document.visibilityState === "visible" && this.#wake());
    // A page that is frozen, or kept for the back button, holds no connection; a closed one says goodbye.
    const sleep = () => this.#suspend();
    hear(document, "freeze", sleep);
    hear(globalThis, "pagehide", sleep);
    const rise = () => this.state === "suspended" && this.#begin();
    hear(document, "resume", rise);
    hear(document, "prerenderingchange", rise);
    hear(globalThis, "pageshow", rise);
  }

  #wake() {
    if (this.state === "open") return this.#ask();
    if (this.state !== "waiting" && this.state !== "offline") return;
    this.#tries = this.#misses = 0; // another network, perhaps
    this.#after("again", Math.random() * 500, () => this.#dial());
  }

  #suspend() {
    this.#hangUp();
    this.#release();
    this.#set("suspended");
  }
}
