// A real Chromium, and a page of another origin that uses the module as an application would.
import http from "node:http";

import { chromium } from "playwright-core";

const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];

export async function startBrowser(context) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: QUIET, ignoreDefaultArgs: ["--disable-back-forward-cache"] });
  context.after(() => browser.close());
  return browser;
}

/** Serves an application: it imports the module from a node, and notes all that happens in `window.seen`. */
export async function startApp(context) {
  const page = `<!doctype html><title>app</title><script type="module" nonce="app">
    const options = JSON.parse(new URLSearchParams(location.search).get("options"));
    const { connect } = await import(options.module);
    if (options.tokens) options.token = async () => (await fetch("/token")).text();
    const kept = JSON.parse(sessionStorage.seen ?? "[]");
    window.seen = { events: [], before: kept, gaps: [], states: [], errors: [] };
    if (options.twice) connect(options).close(); // as React's StrictMode does with each effect
    window.connection = connect({ backoffMs: [100, 1000], ...options });
    connection.on("n", (data, { id }) => {
      seen.events.push(data);
      sessionStorage.seen = JSON.stringify(kept.concat(seen.events)); // what the application has done with them
    });
    connection.onGap((gap) => seen.gaps.push(gap));
    connection.onState((state) => seen.states.push(state));
    connection.onError((error) => seen.errors.push({ code: error.code, message: error.message }));
  </script>`;
  const app = { token: () => "" };
  const server = http.createServer((request, answer) => {
    answer.setHeader("cache-control", "no-cache");
    if (request.url === "/token") return answer.end(app.token());
    answer.setHeader("content-type", "text/html; charset=utf-8");
    if (app.policy) answer.setHeader("content-security-policy", app.policy);
    if (!request.url.startsWith("/?")) return answer.end("<!doctype html><title>elsewhere</title>");
    answer.end(page);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  context.after(() => server.closeAllConnections() ?? server.close());
  app.origin = `http://127.0.0.1:${server.address().port}`;
  app.url = (options) => `${app.origin}/?options=${encodeURIComponent(JSON.stringify(options))}`;
  return app;
}

/** Opens the application in a tab of its own. */
export async function openApp(tabs, app, options) {
  const page = await tabs.newPage();
  await page.goto(app.url(options));
  return page;
}

/** What a page has seen. */
export const seen = (page) => page.evaluate(() => window.seen && { ...window.seen, all: seen.before.concat(seen.events), state: connection.state, clientId: connection.clientId, nodeId: connection.nodeId, transport: connection.transport });
