// The module in Node, against real nodes. `--experimental-websocket` gives Node 20 a WebSocket.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { connect, SwitchboardError } from "../../src/browser/client.js";
import { count, numbers, publish, secret, sleep, startNode, startRedis, startWire, tokenOf, until } from "./support.js";

/** Connects, and notes all that happens. */
function open(context, options) {
  const seen = { events: [], gaps: [], states: [], errors: [] };
  const connection = connect({ backoffMs: [50, 500], ...options });
  connection.on("*", (data, meta) => seen.events.push({ data, ...meta }));
  connection.onGap((gap) => seen.gaps.push(gap));
  connection.onState((state) => seen.states.push(state));
  connection.onError((error) => seen.errors.push(error));
  context.after(() => connection.close());
  const data = () => seen.events.map((event) => event.data);
  return Object.assign(seen, { connection, data, opened: () => until("open", () => connection.state === "open") });
}

const memory = () => {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value), kept };
};

test("README's React hook tells the state of its newest connection", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const [, hook] = readme.match(/export (function useSwitchboard.*?\n})/s);
  const connections = [];
  const connect = () => {
    const callbacks = [];
    const connection = { state: "connecting", on() {}, onGap() {}, onState: (callback) => callbacks.push(callback) };
    connection.close = () => callbacks.forEach((callback) => callback({ state: (connection.state = "closed") }));
    connections.push(connection);
    return connection;
  };
  // As React runs it: effects after each rendering, those with a list where the list is another one.
  let [shown, ran, cleanUp, effects] = [undefined, undefined, undefined, []];
  const useState = (first) => [(shown ??= first), (state) => (shown = state)];
  const useEffect = (act, list) => effects.push([act, list]);
  const use = new Function("connect", "useState", "useRef", "useEffect", `return ${hook}`)(connect, useState, (current) => ({ current }), useEffect);
  for (const userId of ["42", "43"]) {
    use(userId, {});
    for (const [act, list] of effects.splice(0)) {
      if (!list) act();
      else if (String(list) !== ran) [ran] = [String(list), cleanUp?.(), (cleanUp = act())];
    }
    assert.equal(shown, "connecting");
  }
  assert.deepEqual(connections.map(({ state }) => state), ["closed", "connecting"]);
});

test("it is small", () => {
  const text = readFileSync(new URL("../../src/browser/client.js", import.meta.url));
  assert.ok(text.length < 26_900, `${text.length} bytes`);
  assert.ok(gzipSync(text).length < 9_000, `${gzipSync(text).length} bytes gzipped`);
});

test("bundlers find nothing in it that they would bring along", () => {
  const text = readFileSync(new URL("../../src/browser/client.js", import.meta.url), "utf8");
  assert.doesNotMatch(text, /new URL\([^;]*import\.meta|\bimport\b(?!\.meta)/);
});

test("its types name nothing that a project without those of browsers lacks", () => {
  const text = readFileSync(new URL("../../src/browser/client.d.ts", import.meta.url), "utf8");
  const types = text.replace(/\/\*\*.*?\*\//gs, "").replace(/"[^"]*"/g, "").match(/\b[A-Z]\w+\b(?!\?:)/g);
  const own = Array.from(text.matchAll(/^export (?:declare )?(?:class|interface|type) (\w+)/gm), ([, name]) => name);
  // Those of the language, and of Node.
  assert.deepEqual([...new Set(types)].filter((name) => !own.includes(name)).sort(), ["Data", "Error", "Promise", "URL"]);
});

test("a function that two registered is called for each, until that one is taken off", async (context) => {
  const node = await startNode(context);
  const seen = open(context, { url: node.client.ws, userId: "42" });
  const named = [];
  const note = (data) => named.push(data);
  const off = seen.connection.on("a", note);
  seen.connection.on("a", note);
  await seen.opened();
  await publish(node, { userId: "42", event: "a", data: 1 });
  await until("the first", () => seen.events.length === 1);
  off();
  off();
  await publish(node, { userId: "42", event: "a", data: 2 });
  await until("the second", () => seen.events.length === 2);
  assert.deepEqual(named, [1, 1, 2]);
});

test("events come by name, once, in order, with their ids", async (context) => {
  const node = await startNode(context);
  const seen = open(context, { url: node.client.ws, userId: "42" });
  const named = [];
  const off = seen.connection.on("a", (data, meta) => named.push([data, meta.event]));
  await seen.opened();
  await publish(node, { userId: "42", event: "a", data: { x: 1 } });
  await publish(node, { userId: "42", event: "b", data: [2] });
  await until("both", () => seen.events.length === 2);
  assert.deepEqual(named, [[{ x: 1 }, "a"]]);
  assert.deepEqual(seen.events.map((event) => event.event), ["a", "b"]);
  assert.match(seen.events[0].id, /^\d+-\d+$/);
  assert.equal(seen.connection.position, seen.events[1].id);
  assert.equal(seen.connection.transport, "websocket");
  off();
  await publish(node, { userId: "42", event: "a", data: 3 });
  await publish(node, { userId: "42", event: "a", data: "transient", transient: true });
  await until("all four", () => seen.events.length === 4);
  assert.equal(named.length, 1);
  assert.equal(seen.events[3].id, undefined);
});

test("a callback that throws takes nothing from the others", async (context) => {
  const node = await startNode(context);
  const thrown = [];
  globalThis.reportError = (error) => thrown.push(error.message);
  context.after(() => delete globalThis.reportError);
  const seen = open(context, { url: node.client.ws, userId: "42" });
  seen.connection.on("n", (data) => { throw new Error(`no ${data}`); });
  await seen.opened();
  await count(node, "42", 1, 2);
  await until("both", () => seen.events.length === 2 && thrown.length === 2);
  assert.deepEqual(thrown, ["no 1", "no 2"]);
});

test("an option that is null is none, but for the storage", async (context) => {
  const node = await startNode(context);
  const none = Object.fromEntries(["clientId", "token", "since", "ack", "identify", "transport", "name", "backoffMs", "timeoutMs", "credentials", "WebSocket", "fetch"].map((name) => [name, null]));
  const options = { url: node.client.ws, userId: "42", ...none, storage: memory() };
  const first = open(context, { ...options, backoffMs: [50, 500] });
  await first.opened();
  await count(node, "42", 1, 1);
  await until("the event", () => first.events.length === 1);
  // The client id is ours to change, and so kept: with one of the page's own, 4009 ends it.
  const { clientId } = first.connection;
  const other = open(context, { ...options, clientId, storage: null });
  await other.opened();
  await until("another id", () => first.connection.state === "open" && first.connection.clientId !== clientId);
  first.connection.close();
  await count(node, "42", 2, 2);
  const second = open(context, options);
  await until("the next event", () => second.events.length === 1);
  assert.deepEqual([second.data(), second.connection.clientId], [[2], first.connection.clientId]);
});

test("an option that is undefined is none", async (context) => {
  const node = await startNode(context);
  const none = Object.fromEntries(["clientId", "token", "since", "ack", "identify", "transport", "name", "backoffMs", "timeoutMs", "credentials", "WebSocket", "fetch"].map((name) => [name, undefined]));
  const wire = await startWire(context, node.client.port);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42", ...none });
  await seen.opened();
  await count(node, "42", 1, 1);
  await until("the event", () => seen.events.length === 1);
  assert.deepEqual([seen.connection.position, seen.connection.transport], [seen.events[0].id, "websocket"]);
  wire.break();
  const { afterMs } = await until("a wait", () => seen.states.find(({ state }) => state === "waiting"));
  assert.ok(afterMs <= 1000, `${afterMs}`);
});

test("numbers are taken for the texts that the node wants", async (context) => {
  const node = await startNode(context);
  const options = { url: node.client.ws, userId: 42, clientId: 7, since: 0 };
  await count(node, "42", 1, 1);
  const seen = open(context, Object.freeze(options));
  await until("the event", () => seen.events.length === 1);
  const { userId, clientId } = seen.connection;
  assert.deepEqual([userId, clientId, options.userId], ["42", "7", 42]);
});

test("it comes back by itself and misses nothing", async (context) => {
  const node = await startNode(context);
  const wire = await startWire(context, node.client.port);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  await seen.opened();
  for (let round = 0; round < 4; round++) {
    await count(node, "42", round * 10 + 1, round * 10 + 5);
    wire.break();
    await count(node, "42", round * 10 + 6, round * 10 + 10);
    await until("this round's events", () => seen.events.length === round * 10 + 10);
  }
  assert.deepEqual(seen.data(), numbers(1, 40));
  assert.ok(seen.states.some((state) => state.state === "waiting" && state.afterMs <= 500));
  assert.deepEqual([seen.gaps, seen.errors], [[], []]);
});

test("a path that dies in silence is noticed", async (context) => {
  const node = await startNode(context, { flags: ["--ping-interval", "300ms"] });
  const wire = await startWire(context, node.client.port);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  await seen.opened();
  wire.hung = true;
  await count(node, "42", 1, 3);
  await until("the end", () => seen.connection.state !== "open");
  assert.equal(seen.states.find((state) => state.state === "waiting").reason, "no sign of life");
  wire.hung = false;
  await until("the events", () => seen.events.length === 3);
  assert.deepEqual(seen.data(), [1, 2, 3]);
});

test("a drained node's clients wait as they are told, and go on at another", async (context) => {
  const redis = await startRedis(context);
  const a = await startNode(context, { id: "a", redis, flags: ["--drain-timeout", "1s"] });
  const b = await startNode(context, { id: "b", redis });
  const wire = await startWire(context, a.client.port);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  await seen.opened();
  await count(b, "42", 1, 3);
  await until("three", () => seen.events.length === 3);
  wire.to = b.client.port;
  a.child.kill("SIGTERM");
  await count(b, "42", 4, 6);
  await until("all", () => seen.events.length === 6);
  assert.deepEqual(seen.data(), numbers(1, 6));
  const waited = seen.states.find((state) => state.state === "waiting");
  assert.deepEqual([waited.code, waited.reason], [1012, "drain"]);
  assert.equal(seen.connection.nodeId, "b");
});

test("what is kept lets the next page go on where the last one ended", async (context) => {
  const node = await startNode(context);
  const storage = memory();
  const options = { url: node.client.ws, userId: "42", storage };
  const first = open(context, options);
  await first.opened();
  await count(node, "42", 1, 3);
  await until("three", () => first.events.length === 3);
  first.connection.close();
  assert.equal(first.states.at(-1).state, "closed");
  await count(node, "42", 4, 6);
  const second = open(context, options);
  await until("the rest", () => second.events.length === 3);
  assert.deepEqual(second.data(), [4, 5, 6]);
  assert.equal(second.connection.clientId, first.connection.clientId);
  // Before its first event as well: the position of the welcome is kept.
  const quiet = open(context, { ...options, userId: "43" });
  await quiet.opened();
  quiet.connection.close();
  await count(node, "43", 1, 2);
  const again = open(context, { ...options, userId: "43" });
  await until("both", () => again.events.length === 2);
});

test("with manual acks a reload gets again what was not done with", async (context) => {
  const node = await startNode(context);
  const options = { url: node.client.ws, userId: "42", storage: memory(), ack: "manual" };
  const first = open(context, options);
  await first.opened();
  await count(node, "42", 1, 4);
  await until("four", () => first.events.length === 4);
  first.connection.ack(first.events[1].id);
  first.connection.ack(first.events[0].id); // never backwards
  first.connection.ack(undefined); // a transient event's
  assert.equal(first.connection.position, first.events[1].id);
  first.connection.close();
  const second = open(context, options);
  await until("two again", () => second.events.length === 2);
  assert.deepEqual(second.data(), [3, 4]);
});

test("who closes and connects anew within a callback gets that event, and is told that gap, once", async (context) => {
  const node = await startNode(context);
  const most = 10; // a loop ends, and fails
  for (const since of [undefined, "5-0"]) {
    const options = { url: node.client.ws, userId: `${since}`, storage: memory() };
    const [ids, gaps] = [[], []];
    const told = () => ids.length + gaps.length;
    let latest;
    const start = (more) => {
      latest = open(context, { ...options, ...more });
      const { connection } = latest;
      const again = () => {
        connection.close();
        if (told() < most) start();
      };
      connection.on("restart", (_, { id }) => ids.push(id) && again());
      connection.onGap((gap) => gaps.push(gap) && again());
    };
    if (since) await count(node, options.userId, 1, 1);
    start({ since });
    if (!since) await latest.opened().then(() => publish(node, { userId: options.userId, event: "restart" }));
    await until("another connection", () => told() === most || (told() && latest.connection.state === "open"));
    await count(node, options.userId, 2, 2);
    await until("the next event", () => latest.data().includes(2) || told() === most);
    assert.deepEqual([ids.length, gaps.length], since ? [0, 1] : [1, 0]);
  }
});

test("with manual acks a reload gets all again, also where a new tab began with a replay and the node counts pongs", async (context) => {
  const node = await startNode(context, { flags: ["--ping-interval", "100ms"] });
  const options = { url: node.client.ws, userId: "42", clientId: "device", transport: "websocket", ack: "manual" };
  const before = open(context, { ...options, storage: null });
  await before.opened();
  before.connection.close();
  await count(node, "42", 1, 4);
  const storage = memory(); // of a new tab
  const first = open(context, { ...options, storage });
  await until("four", () => first.events.length === 4);
  await sleep(500); // several pings and pongs
  first.connection.close();
  const second = open(context, { ...options, storage });
  await until("four again", () => second.events.length === 4, 3000);
  assert.deepEqual([second.data(), second.gaps], [numbers(1, 4), []]);
  second.connection.ack(second.events[0].id);
  assert.equal(second.connection.position, second.events[0].id);
});

test("users who take turns in one tab, by their tokens alone, each go on where they were", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  for (const transport of ["websocket", "sse"]) {
    const [alice, bob, carol] = ["alice", "bob", "carol"].map((name) => `${name}-${transport}`);
    const storage = memory();
    const turn = async (user, wanted) => {
      const seen = open(context, { url: node.client.ws, transport, storage, token: tokenOf(user) });
      await seen.opened();
      await count(node, user, wanted.at(-1), wanted.at(-1));
      await until("the newest", () => seen.data().includes(wanted.at(-1)));
      assert.deepEqual([seen.connection.userId, seen.data(), seen.gaps], [user, wanted, []]);
      seen.connection.close();
    };
    await turn(bob, [1]);
    await count(node, bob, 2, 4);
    await turn(alice, [1]);
    await turn(bob, [2, 3, 4, 5]);
    await count(node, carol, 1, 3); // who was never here
    await count(node, alice, 2, 3);
    await turn(alice, [2, 3, 4]);
    await turn(carol, [4]);
    // Who is named by the option has a place of their own, whoever had turns without it.
    const named = open(context, { url: node.client.ws, transport, storage, userId: bob, token: tokenOf(bob) });
    await named.opened();
    assert.ok(!named.states.some(({ state }) => state === "waiting"));
  }
});

test("two connections of one tab, told apart by their tokens alone, each go on where they were, load after load", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const [storage, users] = [memory(), ["ann", "team"]];
  for (const load of numbers(0, 3)) {
    const page = users.map((user) => open(context, { url: node.client.ws, storage, token: tokenOf(user) }));
    for (const [at, seen] of page.entries()) {
      await until("its own user", () => seen.connection.state === "open" && seen.connection.userId === users[at]);
      const upto = 2 * load + 1; // the one before came between the loads
      await count(node, users[at], upto, upto);
      await until("the newest", () => seen.data().includes(upto));
      assert.deepEqual([seen.data(), seen.gaps], [numbers(Math.max(1, upto - 1), upto), []]);
    }
    for (const { connection } of page) connection.close();
    for (const user of users) await count(node, user, 2 * load + 2, 2 * load + 2);
  }
});

test("connections to one user on one storage, each with a name, each go on where they were", async (context) => {
  const node = await startNode(context);
  const options = { url: node.client.ws, userId: "42", storage: memory() };
  const stays = open(context, { ...options, name: "list" });
  const goes = open(context, { ...options, name: "badge" });
  await Promise.all([stays.opened(), goes.opened()]);
  await count(node, "42", 1, 1);
  await until("the first", () => stays.events.length === 1 && goes.events.length === 1);
  goes.connection.close();
  await count(node, "42", 2, 2);
  await until("the second", () => stays.events.length === 2);
  const back = open(context, { ...options, name: "badge" });
  await until("what came meanwhile", () => back.events.length === 1);
  assert.deepEqual([back.data(), back.gaps], [[2], []]);
});

test("what an older module kept of users who took turns is found, and not lost to the next one", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const ids = [];
  for (const data of numbers(1, 4)) ids.push((await publish(node, { userId: "bob", event: "n", data })).id);
  const key = `switchboard  ${new URL(node.client.ws).host}/ `;
  // Its record of bob's own is of the last time that he was switched away from, or there is none yet.
  for (const own of [ids[0], undefined]) {
    const storage = memory();
    const keep = (key, last) => storage.setItem(key, JSON.stringify({ clientId: "tab", userId: "bob", last }));
    keep(key, ids[1]);
    if (own) keep(`${key} bob`, own);
    for (const [user, wanted] of [["ann", []], ["bob", [3, 4]]]) {
      const seen = open(context, { url: node.client.ws, storage, token: tokenOf(user) });
      await until("its user", () => seen.connection.state === "open" && seen.connection.userId === user);
      await until("what is due", () => seen.events.length >= wanted.length);
      assert.deepEqual([seen.data(), seen.gaps], [wanted, []]);
      seen.connection.close();
    }
  }
});

test("a gap is told, and what is kept comes after it", async (context) => {
  const node = await startNode(context, { flags: ["--log-length", "5"] });
  const { id } = await publish(node, { userId: "42", event: "n", data: 0 });
  await count(node, "42", 1, 10);
  const seen = open(context, { url: node.client.ws, userId: "42", since: id });
  await until("what is kept", () => seen.events.length === 5);
  assert.deepEqual(seen.data(), numbers(6, 10));
  assert.deepEqual(seen.gaps.map((gap) => gap.since), [id]);
  assert.equal(seen.states.find((state) => state.state === "open").recovered, false);
});

test("a replay of more than the node counts comes whole, and what is for another session is no gap", async (context) => {
  const node = await startNode(context);
  const p = "x".repeat(20_000);
  for (let n = 1; n <= 120; n++) await publish(node, { userId: "42", event: "n", data: { n, p } });
  await publish(node, { userId: "42", event: "n", data: { n: "not for them" }, clientId: "other" });
  for (const transport of ["websocket", "sse"]) {
    const options = { url: node.client.ws, userId: "42", clientId: transport, storage: memory(), transport };
    const first = open(context, { ...options, since: "0" });
    await until("the last one", () => first.events.at(-1)?.data.n === 120);
    assert.deepEqual(first.events.map(({ data }) => data.n), numbers(1, 120));
    const { replayed } = first.states.find(({ state }) => state === "open");
    assert.ok(replayed > 0 && replayed < 120, `${replayed} were counted: the log is too small for this test`);
    assert.equal(first.connection.position, first.events.at(-1).id);
    first.connection.close();
    const second = open(context, options);
    await second.opened();
    await publish(node, { userId: "42", event: "n", data: 121, clientId: transport });
    await until("the next one", () => second.events.length === 1);
    assert.deepEqual([second.data(), first.gaps, second.gaps], [[121], [], []]);
  }
});

test("messages go up, and wait for a connection", async (context) => {
  const redis = await startRedis(context);
  const node = await startNode(context, { redis });
  const seen = open(context, { url: node.client.ws, userId: "42" });
  const job = { job: 7 };
  const sent = seen.connection.send("cancel", job);
  job.job = 8;
  await sent;
  assert.equal(seen.connection.state, "open");
  await seen.connection.send("bare");
  seen.connection.close();
  await assert.rejects(seen.connection.send("late"), { name: "SwitchboardError", code: "closed" });
  const { spawnSync } = await import("node:child_process");
  const port = new URL(redis.url).port;
  await until("both on the uplink", () => {
    const { stdout } = spawnSync("redis-cli", ["-p", port, "XRANGE", "uplink", "-", "+"], { encoding: "utf8" });
    return stdout.includes('{"job":7}') && stdout.includes("bare") && stdout.includes(seen.connection.clientId);
  });
});

test("a refusal says why, and is final where coming back would not help", async (context) => {
  const node = await startNode(context);
  const strict = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  for (const transport of ["websocket", "sse"]) {
    for (const [{ client }, options, code, why] of [
      [node, { userId: "not allowed" }, 4000, "invalid_user_id"],
      [strict, { token: () => tokenOf("42", -120) }, 4001, "unauthorized"],
      // What can be no header.
      [strict, { token: () => "<!doctype html>\n<title>Sign in</title>\n" }, 4001, "unauthorized"],
      [strict, { token: () => "ключ" }, 4001, "unauthorized"],
      [strict, { token: 10n }, 4001, "unauthorized"],
    ]) {
      const seen = open(context, { url: client.ws, transport, ...options });
      await until("the end", () => seen.connection.state === "closed");
      assert.equal(seen.states.at(-1).code, code);
      assert.deepEqual(seen.errors.map(({ code }) => code), [why]);
      assert.ok(seen.errors[0] instanceof SwitchboardError);
    }
  }
});

test("signed out is final; replaced is final for a name of its own, and a new name else", async (context) => {
  const node = await startNode(context);
  const named = open(context, { url: node.client.ws, userId: "42", clientId: "tab" });
  const minted = open(context, { url: node.client.ws, userId: "43" });
  await Promise.all([named.opened(), minted.opened()]);
  const before = minted.connection.clientId;
  open(context, { url: node.client.ws, userId: "42", clientId: "tab" });
  open(context, { url: node.client.ws, userId: "43", clientId: before });
  await until("the named one's end", () => named.connection.state === "closed");
  assert.equal(named.states.at(-1).code, 4009);
  await until("another name", () => minted.connection.state === "open" && minted.connection.clientId !== before);
  await count(node, "43", 1, 2);
  await until("both", () => minted.events.length === 2);
  await fetch(`${node.worker.http}/users/43/sessions`, { method: "DELETE" });
  await until("the end", () => minted.connection.state === "closed");
  assert.equal(minted.states.at(-1).code, 4010);
});

test("the token provider is asked each time; its failure is told and tried again", async (context) => {
  const node = await startNode(context);
  let asked = 0;
  const token = async () => {
    if (++asked === 1) throw new Error("no network");
    return "t";
  };
  const seen = open(context, { url: node.client.ws, userId: "42", token });
  await seen.opened();
  assert.equal(asked, 2);
  assert.equal(seen.errors[0].code, "token");
});

test("a line break after a token does no harm", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  for (const transport of ["websocket", "sse"]) {
    await open(context, { url: node.client.ws, transport, token: () => `${tokenOf("42")}\r\n` }).opened();
  }
});

test("identity can go in the query", async (context) => {
  const node = await startNode(context);
  await count(node, "42", 1, 2);
  const seen = open(context, { url: `${node.client.ws}/ws?x=y`, userId: "42", clientId: "q", since: "0", identify: "query" });
  await until("both", () => seen.events.length === 2);
  assert.equal(seen.connection.clientId, "q");
});

test("where a proxy says who the user is, it is known again and misses nothing", async (context) => {
  const ways = [
    [["--auth", "none"], (text) => text.replace(/^GET \/(\?)?/, (_, more) => `GET /?userId=42${more ? "&" : ""}`)],
    [["--auth", "jwt", "--jwt-secret", secret], (text) => text.replace(/^GET .*\r\n/, `$&authorization: Bearer ${tokenOf("42")}\r\n`)],
  ];
  for (const [flags, edit] of ways) {
    const node = await startNode(context, { flags });
    const wire = await startWire(context, node.client.port);
    const asked = [];
    wire.edit = (text) => {
      if (text.startsWith("GET ")) asked.push(text.split("\r\n")[0]);
      return edit(text);
    };
    const url = `ws://127.0.0.1:${wire.port}`;
    const seen = open(context, { url, userId: "42", clientId: "tab", token: () => "not for a URL", transport: "websocket" });
    await seen.opened();
    assert.equal(seen.connection.clientId, "tab");
    await count(node, "42", 1, 2);
    await until("both", () => seen.events.length === 2);
    wire.break();
    await count(node, "42", 3, 4);
    await until("what came meanwhile", () => seen.events.length === 4);
    assert.deepEqual([seen.data(), seen.gaps, seen.errors], [numbers(1, 4), [], []]);
    // The first time by a hello that was not awaited.
    const [hello, place, since, ...more] = asked;
    assert.deepEqual([hello, place, more], ["GET / HTTP/1.1", "GET /?clientId=tab HTTP/1.1", []]);
    assert.match(since, /^GET \/\?clientId=tab&since=\d+-\d+ HTTP/);
  }
});

test("where a proxy names the user no longer, a hello does again", async (context) => {
  // Whoever gives up first: the page, or the node.
  for (const [timeoutMs, flags] of [[1000, []], [10_000, ["--hello-timeout", "2s"]]]) {
    const node = await startNode(context, { flags });
    const wire = await startWire(context, node.client.port);
    wire.edit = (text) => text.replace(/^GET \/(\?)?/, (_, more) => `GET /?userId=42${more ? "&" : ""}`);
    const url = `ws://127.0.0.1:${wire.port}`;
    const seen = open(context, { url, userId: "42", clientId: "tab", transport: "websocket", timeoutMs, backoffMs: [10, 50] });
    await seen.opened();
    await count(node, "42", 1, 1);
    await until("the first", () => seen.events.length === 1);
    wire.edit = undefined;
    wire.break();
    await count(node, "42", 2, 2);
    await until("what came meanwhile", () => seen.events.length === 2);
    assert.deepEqual([seen.data(), seen.gaps, seen.errors], [[1, 2], [], []]);
  }
});

test("where a proxy keeps the client id and the position to itself, that is told, and so is a loss", async (context) => {
  const node = await startNode(context);
  const wire = await startWire(context, node.client.port);
  wire.edit = (text) => text.replace(/^GET \S+/, (text) => text.replace(/\?.*|$/, "?userId=42"));
  for (const transport of ["websocket", "sse"]) {
    const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, transport, backoffMs: [10, 50] });
    await seen.opened();
    assert.deepEqual([seen.gaps, seen.errors.map(({ code }) => code)], [[], ["client_id"]]);
    const { id } = await publish(node, { userId: "42", event: "n", data: 1 });
    await until("the event", () => seen.events.length === 1);
    wire.cut = true;
    wire.break();
    await publish(node, { userId: "42", event: "n", data: 2 });
    wire.cut = false;
    await until("a gap", () => seen.gaps.length === 1);
    assert.equal(seen.gaps[0].since, id);
    assert.equal(seen.states.at(-1).recovered, false);
    await publish(node, { userId: "42", event: "n", data: 3 });
    await until("the next event", () => seen.events.length === 2);
    assert.deepEqual(seen.data(), [1, 3]);
    seen.connection.close();
  }
});

test("a handshake that was given up does not come back to replace its successor", async (context) => {
  const node = await startNode(context);
  const wire = await startWire(context, node.client.port);
  const held = (wire.held = []);
  const named = { url: `ws://127.0.0.1:${wire.port}`, userId: "42", clientId: "tab", identify: "query", transport: "websocket" };
  const seen = open(context, { ...named, timeoutMs: 1000 });
  seen.connection.onState(() => (wire.held = undefined)); // at the timeout: the next one gets through
  await seen.opened();
  for (const pass of held) pass();
  await sleep(500); // a handshake takes a few of these
  assert.equal(seen.connection.state, "open");
});

test("where WebSockets do not get through it falls back to server-sent events", async (context) => {
  const redis = await startRedis(context);
  const a = await startNode(context, { id: "a", redis, flags: ["--node-ttl", "1500ms"] });
  const b = await startNode(context, { id: "b", redis });
  const wire = await startWire(context, a.client.port);
  class Blocked extends EventTarget {
    readyState = 0;
    constructor() {
      super();
      setTimeout(() => this.onclose({ code: 1006, reason: "" }), 5);
    }
    close() {}
  }
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}/ws`, userId: "42", WebSocket: Blocked });
  await seen.opened();
  assert.equal(seen.connection.transport, "sse");
  await count(b, "42", 1, 20);
  await until("twenty", () => seen.events.length === 20);
  await assert.rejects(seen.connection.send("cancel"), { code: "no_upstream" });
  wire.to = b.client.port;
  await Promise.all([a.kill(), count(b, "42", 21, 40)]);
  await until("all", () => seen.events.length === 40);
  assert.deepEqual(seen.data(), numbers(1, 40));
  assert.equal(seen.connection.nodeId, "b");
  assert.deepEqual([seen.gaps, seen.errors], [[], []]);
  // What has worked is tried first.
  const tries = seen.states.filter((state) => state.state === "connecting").length;
  wire.break();
  await until("back", () => seen.states.at(-1).state === "open" && seen.states.filter((state) => state.state === "connecting").length === tries + 1);
});

test("without any WebSocket, as in Node 20, it uses server-sent events at once, and reads their refusals", async (context) => {
  const node = await startNode(context);
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  context.after(() => (globalThis.WebSocket = WebSocket));
  const seen = open(context, { url: node.client.http, userId: "42" });
  await seen.opened();
  await publish(node, { userId: "42", event: "n", data: "ü\n" });
  await publish(node, { userId: "42", event: "n", data: "x".repeat(500_000) });
  await until("both", () => seen.events.length === 2);
  assert.deepEqual([seen.events[0].data, seen.events[1].data.length], ["ü\n", 500_000]);
  const refused = open(context, { url: node.client.http, userId: "not allowed" });
  await until("the end", () => refused.connection.state === "closed");
  assert.equal(refused.errors[0].code, "invalid_user_id");
  await fetch(`${node.worker.http}/users/42/sessions`, { method: "DELETE" });
  await until("the end", () => seen.connection.state === "closed");
  assert.equal(seen.states.at(-1).code, 4010);
});

test("a stream that falls silent is noticed", async (context) => {
  const node = await startNode(context, { flags: ["--ping-interval", "300ms"] });
  const wire = await startWire(context, node.client.port);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42", transport: "sse" });
  await seen.opened();
  wire.hung = true;
  await count(node, "42", 1, 3);
  await until("the end", () => seen.connection.state !== "open");
  wire.hung = false;
  await until("the events", () => seen.events.length === 3);
  assert.deepEqual(seen.data(), [1, 2, 3]);
});

test("a gap after which nothing is kept is told once", async (context) => {
  const node = await startNode(context);
  for (const transport of ["websocket", "sse"]) {
    const options = { url: node.client.ws, userId: transport, storage: memory(), transport };
    const first = open(context, { ...options, since: "99999999999999-0" });
    await until("a gap", () => first.gaps.length === 1);
    first.connection.close();
    const second = open(context, options);
    await second.opened();
    assert.equal(second.states.at(-1).recovered, true);
    await count(node, transport, 1, 2);
    await until("both", () => second.events.length === 2);
    assert.deepEqual(second.gaps, []);
  }
});

/** The minute after which it first tries a WebSocket again is over sooner, and so are as many as `times` says of the waits after it, each twice as long; no other wait. */
function shortenMinute(context, times = 1) {
  const { setTimeout } = globalThis;
  const short = (ms) => Array.from({ length: times }, (_, at) => 60_000 * 2 ** at).includes(ms);
  globalThis.setTimeout = (act, ms, ...rest) => setTimeout(act, short(Math.round(ms)) ? 200 : ms, ...rest);
  context.after(() => (globalThis.setTimeout = setTimeout));
}

test("after a bad moment by server-sent events it goes back to a WebSocket", async (context) => {
  const node = await startNode(context);
  const wire = await startWire(context, node.client.port);
  shortenMinute(context, 10); // a busy machine publishes for longer than the first
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42", backoffMs: [10, 50] });
  await seen.opened();
  wire.blocks = /upgrade: websocket/i;
  wire.break();
  const by = (transport) => until(transport, () => seen.connection.state === "open" && seen.connection.transport === transport);
  await by("sse");
  await count(node, "42", 1, 5);
  wire.blocks = undefined;
  await by("websocket");
  await count(node, "42", 6, 10);
  await until("all", () => seen.events.length === 10);
  assert.deepEqual(seen.data(), numbers(1, 10));
  assert.deepEqual(seen.gaps, []);
});

test("where tokens are renewed all the time it goes back to a WebSocket as well, and asks for each token once", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const wire = await startWire(context, node.client.port);
  // Of the minute there are four seconds, in which a token of three seconds is renewed.
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (act, ms, ...rest) => setTimeout(act, ms > 40_000 ? ms - 56_000 : ms, ...rest);
  context.after(() => (globalThis.setTimeout = setTimeout));
  let [attempts, asked] = [0, 0];
  wire.blocks = { test: (text) => /upgrade: websocket/i.test(text) && ++attempts === 1 };
  const token = () => ++asked && tokenOf("42", 3);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, token, backoffMs: [10, 50] });
  let askedBy;
  seen.connection.onState(({ transport }) => transport === "websocket" && (askedBy ??= asked));
  await until("a WebSocket", () => askedBy);
  const opened = seen.states.filter(({ state }) => state === "open").length;
  assert.ok(opened > 2, "it was renewed on the way");
  // Each that opened has its own, and so has the WebSocket that failed.
  assert.equal(askedBy, opened + 1);
  assert.deepEqual(seen.errors, []);
});

test("a token renewed by server-sent events tries no WebSocket, also where one has worked", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const wire = await startWire(context, node.client.port);
  // Tokens of five minutes are renewed after moments; all other waits are less.
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (act, ms, ...rest) => setTimeout(act, ms > 200_000 ? 200 : ms, ...rest);
  context.after(() => (globalThis.setTimeout = setTimeout));
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, token: () => tokenOf("42", 300), backoffMs: [10, 50] });
  await seen.opened();
  assert.equal(seen.connection.transport, "websocket");
  let attempts = 0;
  wire.blocks = { test: (text) => /upgrade: websocket/i.test(text) && ++attempts };
  wire.break();
  const opened = () => seen.states.filter(({ state, transport }) => state === "open" && transport === "sse").length;
  await until("server-sent events", () => opened());
  const before = attempts;
  await until("renewed streams", () => opened() > 3);
  assert.equal(attempts, before);
  await publish(node, { userId: "42", event: "n", data: 1 });
  await until("the event", () => seen.events.length === 1);
  assert.deepEqual([seen.gaps, seen.errors], [[], []]);
});

test("where WebSockets fail from now on, one attempt at a time interrupts server-sent events", async (context) => {
  const node = await startNode(context);
  const wire = await startWire(context, node.client.port);
  shortenMinute(context);
  const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: "42", backoffMs: [10, 50] });
  await seen.opened();
  let attempts = 0;
  wire.blocks = { test: (text) => /upgrade: websocket/i.test(text) && ++attempts };
  wire.break();
  const opened = () => seen.states.filter(({ state, transport }) => state === "open" && transport === "sse").length;
  await until("server-sent events", () => opened() === 1);
  const before = attempts;
  await until("server-sent events again", () => opened() === 2);
  assert.equal(attempts, before + 1);
});

test("where the page's very first WebSocket failed, another one is tried, ever more rarely", async (context) => {
  const node = await startNode(context);
  shortenMinute(context, 2);
  for (const working of [2, Infinity]) {
    const wire = await startWire(context, node.client.port);
    let attempts = 0;
    wire.blocks = { test: (text) => /upgrade: websocket/i.test(text) && ++attempts < working };
    const seen = open(context, { url: `ws://127.0.0.1:${wire.port}`, userId: `${working}`, backoffMs: [10, 50] });
    await seen.opened();
    assert.equal(seen.connection.transport, "sse");
    await count(node, `${working}`, 1, 5);
    if (working === 2) {
      await until("a WebSocket", () => seen.connection.state === "open" && seen.connection.transport === "websocket");
      await seen.connection.send("cancel");
    } else {
      const opened = () => seen.states.filter(({ state, transport }) => state === "open" && transport === "sse").length;
      await until("two more attempts", () => opened() === 3);
      assert.equal(attempts, 3);
    }
    await count(node, `${working}`, 6, 10);
    await until("all", () => seen.events.length === 10);
    assert.deepEqual([seen.data(), seen.gaps, seen.errors], [numbers(1, 10), [], []]);
  }
});

test("closing within a callback is final, and a broken record is as none", async (context) => {
  const node = await startNode(context);
  const token = () => { throw new Error("never"); };
  const failing = open(context, { url: node.client.ws, userId: "42", token });
  failing.connection.onError(() => failing.connection.close());
  await until("the end", () => failing.connection.state === "closed");
  await sleep(200); // several backoffs
  assert.deepEqual([failing.connection.state, failing.errors.length], ["closed", 1]);
  for (const last of ["yesterday", "1-", 5]) {
    const storage = memory();
    storage.getItem = () => JSON.stringify({ clientId: "tab", last });
    const seen = open(context, { url: node.client.ws, userId: "42", storage });
    await seen.opened();
    assert.equal(seen.connection.clientId, "tab");
    await count(node, "42", 1, 1);
    await until("an event", () => seen.events.length);
    seen.connection.close();
  }
});
