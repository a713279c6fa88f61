// The module in a real Chromium: tabs, reloads, lost networks, dead nodes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { openApp, seen, startApp, startBrowser } from "./browser.js";
import { count, numbers, secret, sleep, startNode, startRedis, startWire, tokenOf, until } from "./support.js";

const open = (page) => until("an open connection", async () => (await seen(page))?.state === "open");
const events = (page, wanted) => until(`${wanted} events`, async () => {
  const { all } = await seen(page);
  return all.length >= wanted && all;
});

async function keepsItsClientId(page) {
  const { clientId } = await seen(page);
  for (let load = 0; load < 3; load++) {
    await page.reload();
    await open(page);
    assert.equal((await seen(page)).clientId, clientId);
  }
}

async function pair(context, flags = []) {
  const redis = await startRedis(context);
  const a = await startNode(context, { id: "a", redis, flags: ["--node-ttl", "1500ms", ...flags] });
  const b = await startNode(context, { id: "b", redis, flags: ["--node-ttl", "1500ms", ...flags] });
  return { redis, a, b };
}

test("two tabs of one user on two nodes; one node is killed under them", async (context) => {
  const { a, b } = await pair(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const wire = await startWire(context, a.client.port);
  const tabs = await browser.newContext();
  const module = `${b.client.http}/client.js`;
  const first = await openApp(tabs, app, { module, url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  const second = await openApp(tabs, app, { module, url: b.client.ws, userId: "42" });
  await Promise.all([open(first), open(second)]);
  assert.notEqual((await seen(first)).clientId, (await seen(second)).clientId);
  await count(b, "42", 1, 20);
  await Promise.all([events(first, 20), events(second, 20)]);
  wire.to = b.client.port;
  await Promise.all([a.kill(), count(b, "42", 21, 60)]);
  for (const page of [first, second]) {
    assert.deepEqual(await events(page, 60), numbers(1, 60));
    const { gaps, errors, nodeId } = await seen(page);
    assert.deepEqual([gaps, errors, nodeId], [[], [], "b"]);
  }
});

test("a reload in the middle of a stream loses nothing and doubles nothing", async (context) => {
  const { a, b } = await pair(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const page = await openApp(await browser.newContext(), app, { module: `${a.client.http}/client.js`, url: a.client.ws, userId: "42" });
  await open(page);
  const { clientId } = await seen(page);
  const publishing = count(b, "42", 1, 300);
  for (const reached of [20, 80, 150]) {
    await events(page, reached);
    await page.reload();
    await open(page);
  }
  await publishing;
  assert.deepEqual(await events(page, 300), numbers(1, 300));
  const after = await seen(page);
  assert.deepEqual([after.gaps, after.errors, after.clientId], [[], [], clientId]);
  assert.ok(after.before.length >= 150 && after.events.length < 300, "it was reloaded on the way");
});

test("a copied tab takes a client id of its own, and the first one keeps its", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const tabs = await browser.newContext();
  const first = await openApp(tabs, app, { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42" });
  await open(first);
  await count(node, "42", 1, 3);
  await events(first, 3);
  const { clientId } = await seen(first);
  // A window that a page opens begins with a copy of its session storage, as a duplicated tab does.
  const [copy] = await Promise.all([tabs.waitForEvent("page"), first.evaluate(() => void window.open(location.href))]);
  await open(copy);
  assert.notEqual((await seen(copy)).clientId, clientId);
  await count(node, "42", 4, 6);
  for (const page of [first, copy]) assert.deepEqual(await events(page, 6), numbers(1, 6));
  const { states, clientId: still } = await seen(first);
  assert.equal(still, clientId);
  assert.ok(!states.some((state) => state.state === "waiting"), "the first one was not disturbed");
  // Both go on as themselves when they are reloaded.
  const own = (await seen(copy)).clientId;
  await Promise.all([first.reload(), copy.reload()]);
  await Promise.all([open(first), open(copy)]);
  assert.deepEqual([(await seen(first)).clientId, (await seen(copy)).clientId], [clientId, own]);
});

test("a browser that has locks, but not AbortSignal.timeout, connects, and keeps copies apart", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const tabs = await browser.newContext();
  await tabs.addInitScript(() => delete AbortSignal.timeout);
  const first = await openApp(tabs, app, { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42" });
  await open(first);
  const [copy] = await Promise.all([tabs.waitForEvent("page"), first.evaluate(() => void window.open(location.href))]);
  await open(copy);
  assert.notEqual((await seen(copy)).clientId, (await seen(first)).clientId);
  assert.ok(!(await seen(first)).states.some(({ state }) => state === "waiting"), "the first one was not disturbed");
});

test("a page that is busy as it loads keeps its client id", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const tabs = await browser.newContext();
  // Busy before it can hear that it has its lock.
  await tabs.addInitScript(() => {
    const { request } = LockManager.prototype;
    LockManager.prototype.request = function (...about) {
      const answer = request.apply(this, about);
      for (const end = performance.now() + 600; performance.now() < end; );
      return answer;
    };
  });
  const page = await openApp(tabs, app, { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42" });
  await open(page);
  await keepsItsClientId(page);
});

test("who connects, closes and connects again keeps its client id", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const module = `${node.client.http}/client.js`;
  const page = await openApp(await browser.newContext(), app, { module, url: `${node.client.ws}/#top`, userId: "42", twice: true });
  await open(page);
  await keepsItsClientId(page);
});

test("offline for ten seconds", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const wire = await startWire(context, node.client.port);
  const tabs = await browser.newContext();
  const page = await openApp(tabs, app, { module: `${node.client.http}/client.js`, url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  await open(page);
  await count(node, "42", 1, 5);
  await events(page, 5);
  wire.cut = true;
  wire.break();
  await tabs.setOffline(true);
  await until("offline", async () => (await seen(page)).state === "offline");
  const tries = wire.passed;
  await count(node, "42", 6, 15);
  await sleep(10_000); // the ten seconds that the test is about
  assert.ok(wire.passed - tries < 30, "it does not hammer a network that is not there");
  wire.cut = false;
  const back = Date.now();
  await tabs.setOffline(false);
  assert.deepEqual(await events(page, 15), numbers(1, 15));
  assert.ok(Date.now() - back < 5000, "it comes back when the network does, not after a long backoff");
  assert.deepEqual((await seen(page)).gaps, []);
});

test("a page that is frozen, or kept for the back button, lets go, and misses nothing when it is back", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const page = await openApp(await browser.newContext(), app, { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42" });
  await open(page);
  const gone = async () => !(await (await fetch(`${node.worker.http}/users/42`)).json()).online;
  // A headless page is never hidden, and so never frozen: it is told what a frozen one would be.
  await page.evaluate(() => document.dispatchEvent(new Event("freeze")));
  await until("its end", gone);
  await count(node, "42", 1, 5);
  await page.evaluate(() => document.dispatchEvent(new Event("resume")));
  assert.deepEqual(await events(page, 5), numbers(1, 5));
  await page.evaluate(() => (window.mark = "the same page"));
  await page.goto(`${app.origin}/elsewhere`);
  await until("its end", gone);
  await count(node, "42", 6, 8);
  await page.goBack({ waitUntil: "commit" }); // such a page does not load again
  assert.deepEqual(await events(page, 8), numbers(1, 8));
  assert.equal(await page.evaluate(() => window.mark), "the same page", "it came out of the back/forward cache");
  assert.deepEqual((await seen(page)).states.map(({ state }) => state).filter((state) => state === "suspended").length, 2);
});

test("a page that comes back out of the cache as another user goes on where that one was", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const options = { module: `${node.client.http}/client.js`, url: node.client.ws, tokens: true };
  app.token = () => tokenOf("ann");
  const page = await openApp(await browser.newContext(), app, options);
  await open(page);
  await count(node, "ann", 1, 1);
  await events(page, 1);
  await page.evaluate(() => (window.mark = "the same page"));
  app.token = () => tokenOf("bob");
  await page.goto(app.url({ ...options, second: true }));
  await until("the other user", () => page.evaluate(() => connection.state === "open" && connection.userId === "bob"));
  await count(node, "bob", 2, 2);
  await events(page, 2);
  await page.evaluate(() => connection.close());
  await count(node, "bob", 3, 3);
  await page.goBack({ waitUntil: "commit" }); // such a page does not load again
  await until("the other user", () => page.evaluate(() => connection.state === "open" && connection.userId === "bob"));
  await count(node, "bob", 4, 4);
  assert.deepEqual(await until("the newest", async () => {
    const { events } = await seen(page);
    return events.includes(4) && events;
  }), [1, 3, 4]);
  assert.deepEqual(await page.evaluate(() => [window.mark, seen.gaps]), ["the same page", []]);
});

test("a page that is rendered ahead connects when it is visited, and disturbs nobody before", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const tabs = await browser.newContext();
  const options = { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42", clientId: "device", transport: "sse" };
  const visited = await openApp(tabs, app, options);
  await open(visited);
  // A browser under test renders nothing ahead: the page is told that it is, as a real one would be.
  await tabs.addInitScript(() => Object.defineProperty(document, "prerendering", { value: true, configurable: true }));
  const ahead = await openApp(tabs, app, options);
  await until("the module", () => seen(ahead));
  await sleep(500); // a connection takes a few of these
  assert.deepEqual([(await seen(visited)).state, (await seen(ahead)).state], ["open", "suspended"]);
  await visited.close();
  await ahead.evaluate(() => {
    delete document.prerendering;
    document.dispatchEvent(new Event("prerenderingchange"));
  });
  await open(ahead);
});

test("after another user signed in, a copied tab leaves the new client id alone as well", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  app.token = () => tokenOf("ann", 300);
  const tabs = await browser.newContext();
  const first = await openApp(tabs, app, { module: `${node.client.http}/client.js`, url: node.client.ws, tokens: true });
  await open(first);
  const { clientId: of } = await seen(first);
  app.token = () => tokenOf("bob", 300);
  await first.evaluate(() => ["freeze", "resume"].forEach((type) => document.dispatchEvent(new Event(type))));
  await until("the other user", () => first.evaluate(() => connection.state === "open" && connection.userId === "bob"));
  const { clientId, states } = await seen(first);
  assert.notEqual(clientId, of);
  const held = () => first.evaluate(async () => (await navigator.locks.query()).held.map(({ name }) => name));
  await until("its lock alone", async () => String(await held()) === `switchboard ${clientId}`);
  const [copy] = await Promise.all([tabs.waitForEvent("page"), first.evaluate(() => void window.open(location.href))]);
  await open(copy);
  assert.notEqual((await seen(copy)).clientId, clientId);
  const after = await seen(first);
  assert.deepEqual([after.clientId, after.states.length], [clientId, states.length], "the first one was not disturbed");
});

test("tokens are renewed before they expire, and the connection stays", async (context) => {
  const node = await startNode(context, { flags: ["--auth", "jwt", "--jwt-secret", secret] });
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  let lives = 8;
  let given = 0;
  app.token = () => {
    given++;
    return tokenOf("42", lives);
  };
  const tabs = await browser.newContext();
  const options = { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "42", tokens: true };
  for (const transport of ["websocket", "sse"]) {
    given = 0;
    const page = await openApp(tabs, app, { ...options, transport, name: transport });
    await open(page);
    await until("two renewals", () => given >= 3);
    await open(page);
    const { states, errors } = await seen(page);
    assert.deepEqual(errors, []);
    assert.ok(!states.some((each) => each.state === "waiting"), JSON.stringify(states));
    // The stream takes a new request for a new token; the socket takes it as it is.
    if (transport === "websocket") assert.equal(states.filter((each) => each.state === "open").length, 1);
    await page.close();
  }
  // A token that is over already is refused for good; the reason can be read.
  lives = -120;
  const late = await openApp(tabs, app, { ...options, name: "late" });
  await until("the end", async () => (await seen(late))?.state === "closed");
  assert.equal((await seen(late)).errors[0].code, "unauthorized");
});

test("where WebSockets do not get through, server-sent events do", async (context) => {
  const { a, b } = await pair(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const wire = await startWire(context, a.client.port);
  wire.blocks = /upgrade: websocket/i;
  const page = await openApp(await browser.newContext(), app, { module: `${b.client.http}/client.js`, url: `ws://127.0.0.1:${wire.port}`, userId: "42" });
  await open(page);
  assert.equal((await seen(page)).transport, "sse");
  await count(b, "42", 1, 20);
  await events(page, 20);
  wire.to = b.client.port;
  await Promise.all([a.kill(), count(b, "42", 21, 40)]);
  assert.deepEqual(await events(page, 40), numbers(1, 40));
  await page.reload();
  await count(b, "42", 41, 45);
  assert.deepEqual(await events(page, 45), numbers(1, 45));
  const { gaps, errors } = await seen(page);
  assert.deepEqual([gaps, errors], [[], []]);
});

test("a handshake that is never answered does not hold up the next one", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const wire = await startWire(context, node.client.port);
  wire.hung = true;
  const options = { module: `${node.client.http}/client.js`, url: `ws://127.0.0.1:${wire.port}`, userId: "42", transport: "websocket", timeoutMs: 1000 };
  const page = await openApp(await browser.newContext(), app, options);
  const { reason } = await until("the timeout", async () => (await seen(page))?.states.find(({ state }) => state === "waiting"));
  assert.equal(reason, "no welcome in time");
  wire.hung = false;
  await until("an open connection", async () => (await seen(page)).state === "open"); // browsers give a handshake minutes
});

test("a browser's own EventSource needs nothing but the address", async (context) => {
  const { a, b } = await pair(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const wire = await startWire(context, a.client.port);
  const page = await openApp(await browser.newContext(), app, { module: `${b.client.http}/client.js`, url: b.client.ws, userId: "43" });
  await page.evaluate((url) => {
    window.got = [];
    window.source = new EventSource(url);
    source.onmessage = ({ data }) => got.push(JSON.parse(data));
  }, `http://127.0.0.1:${wire.port}/events?userId=42`);
  const got = (wanted) => until(`${wanted} events`, async () => {
    const data = await page.evaluate(() => got.filter((frame) => frame.type === "event").map((frame) => frame.data));
    return data.length >= wanted && data;
  });
  await until("the welcome", () => page.evaluate(() => got.length === 1));
  await count(b, "42", 1, 10);
  await got(10);
  wire.to = b.client.port;
  await Promise.all([a.kill(), count(b, "42", 11, 20)]);
  assert.deepEqual(await got(20), numbers(1, 20));
  await fetch(`${b.worker.http}/users/42/sessions`, { method: "DELETE" });
  await until("the bye", () => page.evaluate(() => got.at(-1).type === "bye"));
  const sessions = async () => (await (await fetch(`${b.worker.http}/users/42`)).json()).sessions.length;
  await sleep(1500); // longer than an EventSource waits by itself would be too long for a test; shorter shows nothing
  assert.equal(await sessions(), 0, "signed out, it stays away");
});

test("without the module, as the handbook has it: a reload goes on where the page was, and a gap is told once", async (context) => {
  const node = await startNode(context, { flags: ["--log-length", "10"] });
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const page = await (await browser.newContext()).newPage();
  const handbook = readFileSync(new URL("../../src/docs/browser.md", import.meta.url), "utf8");
  const [, example] = handbook.split("## Server-sent events without the module")[1].match(/```js\n(.*?)```/s);
  let told = [];
  page.on("console", (message) => told.push(message.text()));
  const upto = (last) => until(`event ${last}`, () => told.includes(`n ${last}`) && told);
  const load = async () => {
    await page.goto(`${app.origin}/elsewhere`);
    told = [];
    await page.addScriptTag({ content: example.replace("https://relay.example.com", node.client.http) });
    await until("an open stream", () => page.evaluate(() => source.readyState === 1));
  };
  await load();
  await count(node, "42", 1, 30);
  assert.deepEqual(await upto(30), numbers(1, 30).map((n) => `n ${n}`));
  await load();
  await count(node, "42", 31, 31);
  assert.deepEqual(await upto(31), ["n 31"], "it has all that came before");
  await page.goto("about:blank");
  await count(node, "42", 32, 60);
  await load();
  const gap = "some events are gone: load fresh state";
  assert.deepEqual(await upto(60), [gap, ...numbers(51, 60).map((n) => `n ${n}`)]);
  await load();
  await count(node, "42", 61, 61);
  assert.deepEqual(await upto(61), ["n 61"], "it was told");
});

test("it works in a worker", async (context) => {
  const node = await startNode(context);
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const page = await openApp(await browser.newContext(), app, { module: `${node.client.http}/client.js`, url: node.client.ws, userId: "43" });
  await page.evaluate(({ module, url }) => {
    window.got = [];
    const text = `import { connect } from ${JSON.stringify(module)};
      const connection = connect({ url: ${JSON.stringify(url)}, userId: "42" });
      connection.on("n", (data) => postMessage(data));
      connection.onState(({ state }) => postMessage(state));`;
    const worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })), { type: "module" });
    worker.onmessage = ({ data }) => got.push(data);
  }, { module: `${node.client.http}/client.js`, url: node.client.ws });
  await until("open", () => page.evaluate(() => got.includes("open")));
  await count(node, "42", 1, 3);
  await until("three", () => page.evaluate(() => got.length === 4));
  assert.deepEqual(await page.evaluate(() => got), ["open", 1, 2, 3]);
});

test("the origins and the policy that the handbook names are enough, and needed", async (context) => {
  const [browser, app] = await Promise.all([startBrowser(context), startApp(context)]);
  const node = await startNode(context, { flags: ["--client-origin", app.origin] });
  const tabs = await browser.newContext();
  app.policy = `default-src 'none'; script-src 'nonce-app' ${node.client.http}; connect-src ${node.client.ws} ${node.client.http}`;
  const options = { module: `${node.client.http}/client.js`, userId: "42" };
  for (const more of [{ transport: "websocket" }, { transport: "sse", credentials: "include" }]) {
    const page = await openApp(tabs, app, { ...options, ...more, name: more.transport });
    await open(page);
    assert.equal((await seen(page)).transport, more.transport);
  }
  const stranger = await startApp(context);
  stranger.policy = app.policy;
  const page = await tabs.newPage();
  const faults = [];
  page.on("console", (message) => faults.push(message.text()));
  await page.goto(stranger.url(options));
  await until("a refused import", () => faults.some((text) => /CORS/.test(text)));
  assert.equal(await seen(page), undefined);
});
