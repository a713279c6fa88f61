// How a connection ends, comes back and begins anew, where no node can be made to: the WebSocket is driven by hand.
import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../../src/browser/client.js";
import { sleep, until } from "./support.js";

/** What pages have and Node has not, for one test. */
function pretend(context, globals) {
  for (const [name, value] of Object.entries(globals)) {
    const real = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    context.after(() => (real ? Object.defineProperty(globalThis, name, real) : delete globalThis[name]));
  }
}

/** A connection by sockets that say and end as the test wants; `latest` is the newest of them. */
function open(context, options) {
  const seen = { states: [], errors: [], sent: [], latest: undefined };
  class Scripted {
    readyState = 1;
    constructor(url) {
      this.url = url;
      seen.latest = this;
      setTimeout(() => this.onopen?.());
    }
    send(text) {
      seen.sent.push(JSON.parse(text));
    }
    close() {}
    say(frame) {
      this.onmessage?.({ data: JSON.stringify(frame) });
    }
    end(code, reason) {
      this.say({ type: "bye", code, reason, reconnect: code === 1012, afterMs: code === 1012 ? 150 : undefined });
      this.onclose?.({ code, reason });
    }
  }
  const scripted = { url: "ws://node", transport: "websocket", storage: null, WebSocket: Scripted, backoffMs: [1, 1] };
  const connection = connect({ ...scripted, ...options });
  connection.onState((state) => seen.states.push(state));
  connection.onError((error) => seen.errors.push(error));
  context.after(() => connection.close());
  const welcomed = async (more) => {
    await until("a socket", () => seen.latest?.onmessage);
    const { clientId } = connection;
    const usual = { userId: "42", clientId, nodeId: "solo", position: "1-0", recovered: true, replayed: 0, pingInterval: 25_000 };
    seen.latest.say({ type: "welcome", ...usual, ...more });
  };
  return Object.assign(seen, { connection, welcomed });
}

test("a bye counts once, also where the next token does not come", async (context) => {
  for (const [code, reason] of [[1012, "drain"], [4009, "replaced"]]) {
    let fails = false;
    const token = () => {
      if (fails) throw new Error("no network");
      return "t";
    };
    const seen = open(context, { token });
    await seen.welcomed();
    fails = true;
    seen.latest.end(code, reason);
    const renamed = seen.connection.clientId;
    await until("failures", () => seen.errors.length >= 3);
    const waits = seen.states.filter(({ state }) => state === "waiting");
    assert.deepEqual(waits.map((wait) => wait.reason).slice(0, 3), [reason, "no token", "no token"]);
    assert.ok(waits.slice(1).every((wait) => wait.code === 1006 && wait.afterMs <= 1), JSON.stringify(waits));
    assert.equal(seen.connection.clientId, renamed);
    seen.connection.close();
  }
});

test("a token provider that never answers is asked again", async (context) => {
  let asked = 0;
  const answers = [];
  const token = () => (++asked < 3 ? new Promise((done) => answers.push(done)) : "t");
  const seen = open(context, { token, timeoutMs: 50 });
  await until("a socket", () => seen.latest);
  assert.deepEqual(seen.errors.map((error) => error.code), ["token", "token"]);
  await seen.welcomed();
  const { latest } = seen;
  for (const answer of answers) answer("late");
  await sleep(100); // past the timeout as well
  assert.deepEqual([seen.connection.state, seen.latest, asked], ["open", latest, 3]);
});

test("a token provider may reject with anything, and is asked again", async (context) => {
  for (const why of [undefined, Symbol("no"), Object.create(null), { message: Symbol("no") }]) {
    let asked = 0;
    const token = () => (++asked < 3 ? Promise.reject(why) : "t");
    const seen = open(context, { token });
    await until("a socket", () => seen.latest, 2000);
    assert.deepEqual(seen.errors.map((error) => error.code), ["token", "token"]);
    seen.connection.close();
  }
});

test("after its time is up it comes back, unless all it has is the same token", async (context) => {
  for (const [token, comesBack] of [[undefined, true], [() => "t", true], ["t", false]]) {
    const seen = open(context, { token });
    await seen.welcomed();
    const { latest } = seen;
    latest.end(4002, "token expired");
    assert.equal(seen.connection.state, comesBack ? "waiting" : "closed");
    if (!comesBack) continue;
    await until("another socket", () => seen.latest !== latest);
    seen.latest.end(4001, "unauthorized");
    assert.equal(seen.connection.state, "closed");
  }
});

test("events of a log that began anew count, though they are older than the welcome", async (context) => {
  const seen = open(context);
  const ids = [];
  seen.connection.on("n", (data, { id }) => ids.push(id));
  await seen.welcomed();
  const say = (id) => seen.latest.say({ type: "event", id, event: "n", data: 0 });
  say("2-0");
  seen.latest.say({ type: "gap", since: "2-0", position: "0-5" }); // Redis came back without its newest
  say("0-6");
  assert.deepEqual([ids, seen.connection.position], [["2-0", "0-6"], "0-6"]);
});

test("with manual acks the position never goes back to what is kept before a gap's position", async (context) => {
  // The gap is acked as soon as it is told, or after the events.
  for (const atOnce of [true, false]) {
    const seen = open(context, { since: "1-0", ack: "manual" });
    const { connection } = seen;
    if (atOnce) connection.onGap(({ position }) => connection.ack(position));
    await seen.welcomed({ position: "9-0", recovered: false, replayed: 2 });
    seen.latest.say({ type: "gap", since: "1-0", position: "9-0" });
    const say = (id) => seen.latest.say({ type: "event", id, event: "n", data: 0 });
    for (const id of ["8-0", "9-0"]) say(id);
    for (const id of ["9-0", "8-0"]) {
      connection.ack(id);
      assert.equal(connection.position, "9-0");
    }
    say("10-0");
    connection.ack("10-0");
    assert.equal(connection.position, "10-0");
    assert.deepEqual(seen.sent.filter(({ type }) => type === "ack").map(({ id }) => id), ["9-0", "10-0"]);
  }
});

test("a gap counts as done with when it was acked, or its callbacks have returned", async (context) => {
  const ways = {
    "left alone": [{ ack: "manual" }, () => {}, "5-0"],
    acked: [{ ack: "manual" }, (connection, { position }) => connection.ack(position), "9-0"],
    closed: [{ ack: "manual" }, (connection) => connection.close(), "5-0"],
    automatic: [{}, () => {}, "9-0"],
    "automatic, and closed": [{}, (connection) => connection.close(), "9-0"],
  };
  for (const [way, [options, act, position]] of Object.entries(ways)) {
    const seen = open(context, { since: "5-0", ...options });
    const { connection } = seen;
    let told = 0;
    connection.onGap((gap) => ++told && act(connection, gap));
    await seen.welcomed({ position: "9-0", recovered: false });
    seen.latest.say({ type: "gap", since: "5-0", position: "9-0" });
    assert.deepEqual([told, connection.position], [1, position], way);
  }
});

test("who closes as it opens is told no loss, and goes on before it", async (context) => {
  const seen = open(context, { since: "5-0", clientId: "tab", identify: "query" });
  const { connection } = seen;
  connection.onState(({ state }) => state === "open" && connection.close());
  await seen.welcomed({ clientId: "hidden by a proxy", position: "9-0" });
  assert.deepEqual([connection.state, connection.position], ["closed", "5-0"]);
});

test("locks that throw, refuse or never answer keep nobody from connecting", async (context) => {
  const refuse = () => Promise.reject(new DOMException("no locks in a sandbox", "SecurityError"));
  const ways = [() => { throw new TypeError("what is this?"); }, refuse, () => new Promise(() => {})];
  const navigator = {};
  pretend(context, { navigator });
  for (const request of ways) {
    navigator.locks = { request };
    const seen = open(context, { storage: { getItem: () => null, setItem() {} } });
    await until("a socket", () => seen.latest, 3000);
    seen.connection.close();
  }
});

test("a page that sleeps while it waits for its lock wakes up as itself, and lets go of it when it is closed", async (context) => {
  // Locks as of a browser, and a page that is told to sleep and to wake.
  const [held, asked] = [new Set(), []];
  const serve = () => {
    for (const one of asked.splice(0)) {
      if (held.has(one.name)) asked.push(one);
      else {
        held.add(one.name);
        one.granted().finally(() => held.delete(one.name) && setTimeout(serve));
      }
    }
  };
  const request = (name, { signal }, granted) => new Promise((_, failed) => {
    asked.push({ name, granted });
    signal.addEventListener("abort", () => {
      const at = asked.findIndex((one) => one.granted === granted);
      if (at >= 0) failed(asked.splice(at, 1) && signal.reason);
    });
    setTimeout(serve);
  });
  pretend(context, { navigator: { locks: { request } }, document: new EventTarget() });
  held.add("switchboard tab"); // by the page before this one, which is about to end
  const seen = open(context, { storage: { getItem: () => JSON.stringify({ clientId: "tab" }), setItem() {} } });
  await until("the wait", () => asked.length === 1);
  document.dispatchEvent(new Event("freeze"));
  document.dispatchEvent(new Event("resume"));
  await sleep(50);
  held.clear();
  serve();
  await until("a socket", () => seen.latest);
  assert.deepEqual([seen.connection.clientId, [...held]], ["tab", ["switchboard tab"]]);
  seen.connection.close();
  await until("no locks", () => held.size === 0);
  await sleep(400); // longer than it waits for a lock
  assert.deepEqual([held.size, asked.length], [0, 0]);
});

test("a failure in the turn of connect is told to callbacks of that turn", async (context) => {
  const token = () => { throw new Error("no network"); };
  for (const clientId of [undefined, "device"]) {
    const seen = open(context, { token, clientId, backoffMs: [60_000, 60_000] });
    await until("the error", () => seen.errors.length === 1, 1000);
    seen.connection.close();
  }
});

test("where a WebSocket cannot even be made, server-sent events are tried next", async (context) => {
  class Forbidden {
    constructor() {
      throw new DOMException("not here", "SecurityError");
    }
  }
  const asked = [];
  const fetch = (url) => asked.push(url) && new Promise(() => {});
  const seen = open(context, { transport: "auto", WebSocket: Forbidden, fetch });
  await until("a request", () => asked.length, 1000);
  assert.equal(seen.errors[0].code, "connect");
});

test("a refusal that is not the node's is no reason to stop", async (context) => {
  const answers = [{ error: "Forbidden" }, {}, { error: { code: "unauthorized", message: "who is this?" } }];
  const fetch = async () => Response.json(answers.shift(), { status: 403 });
  const seen = open(context, { transport: "sse", fetch });
  await until("the end", () => seen.connection.state === "closed", 3000);
  assert.deepEqual([answers.length, seen.errors.map(({ code }) => code)], [0, ["unauthorized"]]);
});

test("a refusal that passes is waited for, by server-sent events as well", async (context) => {
  const refusals = [[429, "too_many_sessions"], [503, "draining"], [503, "unavailable"], [403, "origin_not_allowed"]];
  const answers = refusals.map(([status, code]) => Response.json({ error: { code, message: "not now" } }, { status }));
  const seen = open(context, { transport: "sse", fetch: async () => answers.shift() });
  await until("the end", () => seen.connection.state === "closed", 3000);
  const ends = seen.states.filter(({ code }) => code).map(({ state, code, reason }) => [state, code, reason]);
  assert.deepEqual(ends, refusals.map(([status, why]) => (status === 403 ? ["closed", 4001, why] : ["waiting", 1006, why])));
});

test("whoever is refused together does not come back together", async (context) => {
  const fetch = async () => Response.json({}, { status: 503, headers: { "retry-after": "5" } });
  const waits = new Set();
  for (let at = 0; at < 5; at++) {
    const seen = open(context, { transport: "sse", fetch });
    const { afterMs } = await until("a wait", () => seen.states.find(({ state }) => state === "waiting"));
    assert.ok(afterMs >= 5000 && afterMs <= 10_000, `${afterMs}`);
    waits.add(afterMs);
  }
  assert.ok(waits.size > 1);
});

test("where nothing but welcomes comes through, an answer is awaited for twice as long each time", async (context) => {
  const waited = [];
  const { setTimeout } = globalThis;
  // No other wait is so long.
  const quick = (act, ms, ...rest) => setTimeout(act, ms >= 5000 ? waited.push(ms / 1000) && 0 : ms, ...rest);
  pretend(context, { setTimeout: quick });
  const seen = open(context, { timeoutMs: 4000 });
  const round = async (frame) => {
    await seen.welcomed({ pingInterval: 1 });
    const { latest } = seen;
    if (frame) latest.say(frame);
    await until("another socket", () => seen.latest !== latest);
  };
  for (let at = 0; at < 8; at++) await round();
  assert.deepEqual(waited.splice(0), [5, 10, 20, 40, 80, 160, 300, 300]);
  await round({ type: "event", id: "2-0", event: "n", data: 0 });
  assert.deepEqual(waited, [5]);
});

test("a clock that is ahead by nearly a token's life asks for one token more, not for one after the other", async (context) => {
  const at = (iat) => `.${btoa(JSON.stringify({ sub: "42", iat, exp: iat + 300 }))}.`;
  const waited = [];
  const { setTimeout } = globalThis;
  pretend(context, { setTimeout: (act, ms, ...rest) => waited.push(ms) && setTimeout(act, ms, ...rest) });
  const fetch = async (url) => {
    const welcome = { type: "welcome", userId: "42", clientId: new URL(url).searchParams.get("clientId"), nodeId: "solo", position: "1-0", recovered: true, replayed: 0, pingInterval: 25_000 };
    const body = new ReadableStream({ start: (stream) => stream.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(welcome)}\n\n`)) });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
  for (const transport of ["websocket", "sse"]) {
    waited.length = 0;
    let asked = 0;
    const token = () => at(Math.floor(Date.now() / 1000) - 298 + asked++ / 10);
    const seen = open(context, { transport, token, fetch });
    if (transport === "websocket") await seen.welcomed();
    await until("the next token, good for long", () => waited.includes(270_000), 5000);
    assert.equal(asked, 2);
    seen.connection.close();
  }
});

test("a token that another got before, from a cache, is renewed in its own time", async (context) => {
  const waited = [];
  const { setTimeout } = globalThis;
  // Renewals; all other waits are less, or more.
  const renews = (ms) => ms > 10_000 && ms < 10_000_000;
  const hurried = (act, ms, ...rest) => setTimeout(act, renews(ms) ? waited.push(ms) : ms, ...rest);
  pretend(context, { setTimeout: hurried });
  const hour = [[0, 3_570_000], [3300, 270_000], [3540, 45_000]].map((both) => [3600, ...both]);
  const five = [[0, 270_000], [100, 170_000], [200, 75_000], [260, 30_000], [-100, 270_000]].map((both) => [300, ...both]);
  for (const [life, age, wait] of [...hour, ...five]) {
    waited.length = 0;
    let asked = 0;
    const token = () => {
      const iat = Date.now() / 1000 - (asked++ ? age : 0);
      return `.${btoa(JSON.stringify({ sub: "42", iat, exp: iat + life }))}.`;
    };
    const seen = open(context, { token, timeoutMs: 5000 });
    await seen.welcomed({ pingInterval: 10_000_000 });
    await until("the second renewal", () => asked > 2);
    seen.connection.close();
    assert.ok(Math.abs(waited[1] - wait) < 5000, `${age} s old of ${life}: ${waited}`);
  }
});

test("a clock that is set back hides no dead path", async (context) => {
  const seen = open(context);
  await seen.welcomed({ pingInterval: 100 });
  const { now } = Date;
  Date.now = () => now() - 3_600_000;
  context.after(() => (Date.now = now));
  await until("the end", () => seen.states.some(({ reason }) => reason === "no sign of life")).finally(() => (Date.now = now));
});

test("a WebSocket that brings a refusal works: server-sent events are tried only every fourth time", async (context) => {
  const asked = [];
  const fetch = (url) => asked.push(url) && Promise.reject(new TypeError("not now"));
  const seen = open(context, { transport: "auto", fetch });
  for (let latest, refusals = 0; refusals < 3; refusals++) {
    latest = await until("another socket", () => seen.latest !== latest && seen.latest?.onmessage && seen.latest, 1000);
    latest.say({ type: "bye", code: 1013, reason: "unavailable", reconnect: true, afterMs: 1 });
    latest.onclose({ code: 1013, reason: "unavailable" });
    assert.deepEqual(asked, []);
  }
  await until("a request", () => asked.length, 1000);
});

test("the first event of a replay is not done with before its callbacks have returned, whatever its id", async (context) => {
  for (const [id, before] of [["7-3", "7-2"], ["7-0", "6-999999999999999"]]) {
    const kept = [];
    const seen = open(context, { ack: "manual", storage: { getItem: () => null, setItem: (_, text) => kept.push(JSON.parse(text).last) } });
    await until("a socket", () => seen.latest?.onmessage);
    const { clientId } = seen.connection;
    seen.latest.say({ type: "welcome", userId: "42", clientId, position: "9-0", recovered: true, replayed: 1, pingInterval: 25_000 });
    let during;
    seen.connection.on("n", () => (during = kept.at(-1)));
    seen.latest.say({ type: "event", id, event: "n", data: 0 });
    assert.deepEqual([during, kept.at(-1)], [before, before]);
    seen.connection.ack(id);
    assert.equal(kept.at(-1), id);
  }
});

test("without a usable storage as well, users who take turns in one page each go on where they were", async (context) => {
  const full = { getItem: () => null, setItem() { throw new DOMException("full", "QuotaExceededError"); } };
  for (const storage of [null, full]) {
    const seen = open(context, { storage });
    const turn = async (userId, id) => {
      const before = seen.latest;
      before?.end(1012, "drain");
      for (let socket = before; seen.connection.state !== "open"; socket = seen.latest) {
        await until("another socket", () => seen.latest !== socket);
        await until("its hello", () => seen.sent.length);
        await seen.welcomed({ userId });
        if (seen.connection.state !== "open") seen.sent.length = 0; // this one was said as the other user
      }
      const { since } = seen.sent.shift();
      seen.latest.say({ type: "event", id, event: "n", data: 0 });
      return since;
    };
    assert.deepEqual([await turn("42", "5-0"), await turn("43", "7-0"), await turn("42", "8-0"), await turn("43", "9-0")], [undefined, undefined, "5-0", "7-0"]);
    seen.connection.close();
  }
});

test("who began with all that is kept, or by a time, does so again until something is done with", async (context) => {
  for (const since of ["0", "17"]) {
    let kept = null;
    const storage = { getItem: () => kept, setItem: (_, text) => (kept = text) };
    for (const options of [{ since }, {}]) {
      const seen = open(context, { ack: "manual", storage, ...options });
      const hello = await until("a hello", () => seen.sent[0]);
      assert.equal(hello.since, since);
      const { clientId } = hello;
      seen.latest.say({ type: "welcome", userId: "42", clientId, position: "9-0", recovered: true, replayed: 1, pingInterval: 25_000 });
      seen.latest.say({ type: "event", id: "7-0", event: "n", data: 0 });
      seen.connection.close();
    }
  }
});

test("an ack counts for the user whose event it was, and until the end", async (context) => {
  const kept = [];
  const seen = open(context, { ack: "manual", storage: { getItem: () => null, setItem: (_, text) => kept.push(JSON.parse(text)) } });
  const say = (id) => seen.latest.say({ type: "event", id, event: "n", data: 0 });
  await seen.welcomed();
  say("5-0");
  const first = seen.latest;
  first.end(1012, "drain");
  for (let socket = first; seen.connection.state !== "open"; socket = seen.latest) {
    await until("another socket", () => seen.latest !== socket);
    await seen.welcomed({ userId: "43" });
  }
  say("3-0");
  say("6-0");
  const { connection } = seen;
  const { position } = connection;
  connection.ack("5-0"); // of the user before
  assert.equal(connection.position, position);
  connection.ack("3-0");
  assert.deepEqual([connection.position, kept.at(-1).userId, kept.at(-1).last], ["3-0", "43", "3-0"]);
  connection.close();
  kept.length = 0; // the record is another connection's now
  connection.ack("6-0");
  assert.deepEqual([connection.position, kept], ["3-0", []]);
});

test("with manual acks what a gap says of the log can be acked as well", async (context) => {
  const seen = open(context, { ack: "manual" });
  await seen.welcomed();
  seen.connection.onGap(({ position }) => seen.connection.ack(position));
  seen.latest.say({ type: "event", id: "2-0", event: "n", data: 0 });
  seen.latest.say({ type: "gap", since: "2-0", position: "9-0" });
  assert.equal(seen.connection.position, "9-0");
});

test("a callback that was taken off, or whose connection was closed, is not called, not even for the same event", async (context) => {
  const seen = open(context);
  await seen.welcomed();
  const { connection } = seen;
  const called = [];
  const first = connection.on("n", () => called.push("first") && second());
  const second = connection.on("n", () => called.push("second"));
  const say = (id) => seen.latest.say({ type: "event", id, event: "n", data: 0 });
  say("2-0");
  assert.deepEqual(called.splice(0), ["first"]);
  first();
  connection.on("n", () => called.push("closing") && connection.close());
  connection.on("n", () => called.push("too late"));
  connection.on("*", () => called.push("too late"));
  connection.onState(({ state }) => called.push(state));
  say("3-0");
  assert.deepEqual([called, connection.position], [["closing", "closed"], "3-0"]);
});

test("of a name whose callbacks were all taken off nothing is kept", async (context) => {
  const maps = [];
  pretend(context, { Map: class extends Map { constructor() { maps.push(super()); } } });
  const { connection } = open(context);
  const [listeners] = maps;
  const before = listeners.size;
  const off = connection.on("job:1", () => {});
  connection.on("job:1", () => {})();
  assert.equal(listeners.size, before + 1);
  off();
  assert.equal(listeners.size, before);
  // That was its own name, not the one that another has anew.
  connection.on("job:1", () => {});
  off();
  assert.equal(listeners.size, before + 1);
});

test("whoever hears of a closed connection hears of no earlier state after it", async (context) => {
  const seen = open(context);
  const states = [];
  seen.connection.onState(({ state }) => state === "open" && seen.connection.close());
  seen.connection.onState(({ state }) => states.push(state));
  await seen.welcomed();
  assert.deepEqual(states, ["closed"]);
});

test("who has no token says none, neither in the query nor in a hello", async (context) => {
  for (const none of [null, undefined]) {
    const options = { userId: none, clientId: "tab", token: async () => none };
    const query = open(context, { ...options, identify: "query" });
    await until("a socket", () => query.latest);
    assert.equal(new URL(query.latest.url).search, "?clientId=tab");
    const hello = open(context, options);
    await until("a hello", () => hello.sent.length);
    assert.deepEqual(hello.sent, [{ clientId: "tab" }]);
  }
});

test("a message that waits is sent as the user who sent it, or not at all", async (context) => {
  const seen = open(context);
  const sent = () => seen.sent.filter(({ type }) => type === "message").map(({ event }) => event);
  const early = seen.connection.send("early"); // of whoever is welcomed first
  await seen.welcomed();
  await early;
  for (const [userId, comes] of [["42", true], ["43", false]]) {
    const { latest } = seen;
    latest.end(1012, "drain");
    const send = () => seen.connection.send(`before ${userId}`).then(() => true, ({ code }) => code);
    const waits = [send()];
    for (let socket = latest; seen.connection.state !== "open"; socket = seen.latest) {
      await until("another socket", () => seen.latest !== socket);
      await seen.welcomed({ userId });
      if (seen.connection.state === "waiting") waits.push(send()); // it has not been told who it is
    }
    assert.deepEqual(await Promise.all(waits), comes ? [true] : ["another_user", "another_user"]);
  }
  await seen.connection.send("late");
  assert.deepEqual(sent(), ["early", "before 42", "late"]);
});
