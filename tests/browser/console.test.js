// The console page's whole tour, as a newcomer would take it. Screenshots go to target/browser/.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { startBrowser } from "./browser.js";
import { startNode, startRedis, until } from "./support.js";

const shots = fileURLToPath(new URL("../../target/browser/", import.meta.url));
const shoot = (page, name) => page.screenshot({ path: `${shots}${name}.png`, fullPage: true });

async function openConsole(context) {
  const redis = await startRedis(context);
  const a = await startNode(context, { id: "a", redis });
  const b = await startNode(context, { id: "b", redis });
  const browser = await startBrowser(context);
  const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
  page.setDefaultTimeout(20_000);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  // A line that is cut shows as failed WebSockets, as it should.
  page.on("console", (message) => message.type() === "error" && !/WebSocket/.test(message.text()) && faults.push(message.text()));
  page.on("request", (request) => /^(http|ws)s?:\/\/(?!127\.0\.0\.1:)/.test(request.url()) && faults.push(request.url()));
  await page.goto(a.client.http);
  const session = (number) => {
    const form = page.getByRole("form", { name: `Session ${number}`, exact: true });
    const button = (name) => form.getByRole("button", { name });
    const says = (selector, pattern) => until(`${pattern} in session ${number}`, async () => pattern.test(await form.locator(selector).innerText()) || Promise.reject(await form.innerText()));
    return { form, button, ledger: (pattern) => says(".ledger", pattern), state: (pattern) => says(".state", pattern), log: (pattern) => says(".log", pattern) };
  };
  const publish = page.getByRole("button", { name: "Publish", exact: true });
  const worker = page.locator("#publish");
  return { a, b, page, faults, session, publish, worker };
}

test("the whole tour", async (context) => {
  const { b, page, faults, session, publish, worker } = await openConsole(context);
  const [one, two, three] = [1, 2, 3].map(session);
  await one.state(/open · a · WebSocket/);
  await two.state(/open · a · WebSocket/);

  // Publish; it arrives at both.
  await publish.click();
  for (const each of [one, two]) {
    await each.log(/news {"text":"hello"}/);
    await each.ledger(/^All 1 published here have arrived, each once, in order\.$/);
  }
  await worker.getByText(/Published as \d+-\d+; on its way by a\./).waitFor();

  // What is not JSON is not sent.
  await worker.getByLabel("Data").fill("{");
  await publish.click();
  await worker.getByText(/^Not JSON/).waitFor();
  assert.equal(await worker.getByLabel("Data").getAttribute("aria-invalid"), "true");
  await worker.getByLabel("Data").fill('{"text": "hello again"}');

  // Cut a line; what is published waits, and comes when it is mended.
  await two.button("Cut the line").click();
  await two.state(/the line is cut/);
  await worker.getByLabel("How often").fill("5");
  await publish.click();
  await one.ledger(/^All 6 /);
  await two.ledger(/^1 of 6 .* 5 wait in the log/);
  await shoot(page, "cut");
  await two.button("Mend the line").click();
  await two.ledger(/^All 6 /);

  // Drop a socket while events flow.
  await worker.getByRole("button", { name: "Keep publishing" }).click();
  await one.button("Drop the socket").click();
  await one.log(/waiting/);
  await one.state(/open/);
  // Hold one back.
  await two.button("Pause reading").click();
  await until("some held back", async () => /held\)/.test(await two.form.innerText()));
  await two.button("Read on").click();
  await worker.getByRole("button", { name: "Stop publishing" }).click();
  for (const each of [one, two]) await each.ledger(/^All \d+ .* in order\.$/);

  // Another user on another node, by server-sent events.
  await page.getByRole("button", { name: "Add a session" }).click();
  await three.form.getByLabel("User id").fill("43");
  await until("both nodes", async () => (await three.form.getByLabel("Node").innerText()).includes("b"));
  await three.form.getByLabel("Node").selectOption({ label: "b" });
  await three.form.getByLabel("Transport").selectOption({ label: "server-sent events" });
  await three.button("Connect").click();
  await three.state(/open · b · server-sent events/);
  await worker.locator("[name=to]").selectOption({ label: "several users" });
  await worker.getByLabel("User ids, with commas").fill("42, 43");
  await worker.getByLabel("How often").fill("2");
  await publish.click();
  await three.ledger(/^All 2 /);
  await three.button("Cut the line").click();
  await publish.click();
  await three.ledger(/^2 of 4 .* 2 wait in the log/);
  await three.button("Mend the line").click();
  await three.ledger(/^All 4 /);
  await three.button("Pause reading").click();
  await publish.click();
  await three.ledger(/^4 of 6 /);
  await three.button("Read on").click();
  await three.ledger(/^All 6 /);

  // Replay from an id.
  await three.form.locator(".log button").nth(3).click();
  await three.button("Replay", { exact: true }).click();
  await three.log(/2 replayed/);
  await three.ledger(/^All 2 /);

  // Up to the back end; by WebSocket only.
  await one.form.getByText("Send something up").click();
  await one.button("Send", { exact: true }).click();
  await one.log(/sent cancel {}/);
  await three.form.getByText("Send something up").click();
  await three.button("Send", { exact: true }).click();
  await three.log(/server-sent events carry nothing upward/);

  // Nodes and users.
  const rows = (table) => page.locator(`#${table} tbody tr`);
  await until("both nodes", async () => (await rows("nodes").count()) === 2);
  await until("three sessions", async () => (await rows("users").count()) === 3);
  await shoot(page, "tour");
  await page.getByRole("button", { name: /^Sign out .* of user 43$/ }).click();
  await three.state(/closed/);
  await three.log(/signed out \(4010\)/);
  await until("two sessions", async () => (await rows("users").count()) === 2);
  await three.button("Remove").click();

  // A node goes away: its sessions move, the table says so.
  await b.kill();
  await until("one node", async () => (await rows("nodes").count()) === 1, 30_000);
  assert.deepEqual(faults, []);
});

test("what is published to nobody waits in the log, if it is kept", async (context) => {
  const { worker, publish } = await openConsole(context);
  await worker.getByLabel("User id").fill("nobody");
  await publish.click();
  await worker.getByText(/^Published as .*; nobody is connected: it waits in the log\.$/).waitFor();
  await worker.getByText("More fields").click();
  await worker.getByLabel("Transient").check();
  await publish.click();
  await worker.getByText("Published; nobody is connected: it is gone.").waitFor();
});

test("a flood of events does not block the page", async (context) => {
  const { page, session, worker, publish } = await openConsole(context);
  const [one, two] = [1, 2].map(session);
  await one.state(/open/);
  await two.state(/open/);
  // Each look at a log's height makes the browser lay the page out.
  await page.evaluate(() => {
    window.looks = 0;
    const { get } = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
    Object.defineProperty(Element.prototype, "scrollHeight", { get() {
      window.looks += this.className === "log";
      return get.call(this);
    } });
  });
  await worker.getByLabel("How often").fill("1000");
  await publish.click();
  for (const each of [one, two]) await each.ledger(/^All 1000 /);
  assert.equal(await one.form.locator(".log li").count(), 300);
  const looks = await page.evaluate(() => window.looks);
  assert.ok(looks < 1000, `${looks} for 2000 events`);
});

test("a conversion: a picture goes in, the bar moves, the result appears", async (context) => {
  const { page, faults, session, publish, worker } = await openConsole(context);
  const [one, two] = [1, 2].map(session);
  await one.state(/open/);
  await two.state(/open/);
  const picture = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(64, 48);
    canvas.getContext("2d").fillRect(8, 8, 30, 30);
    return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
  });
  await page.locator("#drop input").setInputFiles({ name: "picture.png", mimeType: "image/png", buffer: Buffer.from(picture) });
  const bar = one.form.getByRole("progressbar", { name: /Conversion job-1/ });
  await until("a bar that has moved", async () => (await bar.count()) && (await bar.evaluate((it) => it.value > 0 && it.value < 100)));
  await two.button("Cut the line").click();
  await one.form.getByRole("img", { name: "The result of job-1" }).waitFor();
  assert.equal(await bar.evaluate((it) => it.value), 100);
  await two.button("Mend the line").click();
  // Who was away gets the newest progress alone, and the result.
  const image = two.form.getByRole("img", { name: "The result of job-1" });
  await image.waitFor();
  assert.ok(await image.evaluate((it) => it.decode().then(() => it.naturalWidth > 0)));
  await two.ledger(/were replaced by newer ones\.$/);
  // Events that are called so, and are none.
  for (const [event, data] of [["convert.done", '{"text":"no picture"}'], ["convert.done", "null"], ["convert.progress", "null"]]) {
    await worker.getByLabel("Event name").fill(event);
    await worker.getByLabel("Data").fill(data);
    await publish.click();
    await one.log(new RegExp(`${event} ${data}`));
  }
  assert.equal(await bar.evaluate((it) => it.value), 100);
  await page.locator("#drop input").setInputFiles({ name: "text.png", mimeType: "image/png", buffer: Buffer.from("text") });
  await page.getByText("That is no picture that this browser can read.").waitFor();
  await page.emulateMedia({ colorScheme: "dark" });
  await shoot(page, "conversion");
  assert.deepEqual(faults, []);
});

test("the keyboard is enough, and everything has a name", async (context) => {
  const { page, session } = await openConsole(context);
  const one = session(1);
  await one.state(/open/);
  await page.locator("#publish").getByLabel("Data").focus();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await one.ledger(/^All 1 /);
  await one.button("Cut the line").focus();
  await page.keyboard.press("Space");
  assert.equal(await one.button("Mend the line").getAttribute("aria-pressed"), "true");
  // What scrolls can be reached, and the page itself scrolls in one direction alone, also on a small screen.
  for (const name of ["Live nodes", "Who is connected"]) {
    const region = page.getByRole("region", { name, exact: true });
    await region.focus();
    assert.ok(await region.evaluate((it) => it === document.activeElement), name);
  }
  await page.setViewportSize({ width: 320, height: 640 });
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320);
  await page.setViewportSize({ width: 1440, height: 1000 });
  await page.locator("#drop input").focus();
  assert.notEqual(await page.locator("#drop").evaluate((it) => getComputedStyle(it).outlineStyle), "none", "focus shows");
  const nameless = await page.evaluate(() => [...document.querySelectorAll("input, select, textarea, button, progress")]
    .filter((it) => !(it.labels?.[0]?.innerText ?? it.getAttribute("aria-label") ?? it.innerText).trim() && it.checkVisibility())
    .map((it) => it.outerHTML));
  assert.deepEqual(nameless, []);
  // Text has a contrast of 4.5 to 1 at least, in both schemes.
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    const poor = await page.evaluate(() => {
      const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
      const light = (colour) => channels(colour).slice(0, 3).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
      const behind = (it) => {
        for (; it; it = it.parentElement) if ((channels(getComputedStyle(it).backgroundColor)[3] ?? 1) > 0) return getComputedStyle(it).backgroundColor;
      };
      return [...document.querySelectorAll("body *")].filter((it) => it.checkVisibility() && !it.disabled && [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((it) => {
        const [a, b] = [light(getComputedStyle(it).color), light(behind(it))].sort((x, y) => y - x);
        return { text: it.textContent.trim().slice(0, 30), contrast: (a + 0.05) / (b + 0.05) };
      }).filter(({ contrast }) => contrast < 4.5);
    });
    assert.deepEqual(poor, [], colorScheme);
  }
});

test("who comes or goes takes the focus from nobody else's button; whose button is gone finds the table", async (context) => {
  const { page, session } = await openConsole(context);
  await page.getByRole("button", { name: "Add a session" }).click();
  const out = page.getByRole("button", { name: /^Sign out/ });
  const sessions = (wanted) => until(`${wanted} sessions`, async () => (await out.count()) === wanted);
  await sessions(2);
  const name = await out.first().getAttribute("aria-label");
  await out.first().focus();
  const focus = () => page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  for (const wanted of [3, 2]) {
    await session(3).form.locator("[data-do=connect]").evaluate((it) => it.click());
    await sessions(wanted);
    assert.equal(await focus(), name);
  }
  await page.keyboard.press("Enter");
  await sessions(1);
  assert.equal(await focus(), "Who is connected");
});
