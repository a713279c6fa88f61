// What these tests stand on: private Redis servers, real nodes, a network that can be cut, bounded waits.
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = process.env.SWITCHBOARD_BIN ?? join(root, "target/debug/switchboard");
/** How long a test waits for what normally takes milliseconds: other suites may share the two cores. */
export const BOUND = 20_000;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Looks again and again until `probe` gives something truthy, and gives that. */
export async function until(what, probe, bound = BOUND) {
  const end = Date.now() + bound;
  for (let last; ; await sleep(20)) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited ${bound} ms for ${what}; last: ${last?.stack ?? JSON.stringify(last)}`);
  }
}

const freePort = () => new Promise((done) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});

/** A child that does not outlive its test. */
function start(context, command, args, options) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  const output = [];
  let rest = "";
  for (const pipe of [child.stdout, child.stderr]) {
    pipe.setEncoding("utf8").on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      output.push(...lines);
    });
  }
  const ended = new Promise((done) => child.on("exit", done).on("error", done));
  const kill = async (signal = "SIGKILL") => {
    child.kill(signal);
    await ended;
  };
  context.after(() => kill());
  return { child, output, ended, kill };
}

export async function startRedis(context) {
  const dir = mkdtempSync(join(tmpdir(), "switchboard-redis-"));
  // Whatever connects anywhere may be given the port before Redis has it: then another one.
  const server = await until("redis", async () => {
    const port = await freePort();
    const redis = start(context, "redis-server", ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir]);
    const ready = () => redis.output.some((line) => line.includes("Ready to accept connections"));
    await until("redis, or its end", () => ready() || redis.child.exitCode !== null);
    if (!ready()) throw new Error(redis.output.join("\n"));
    return { ...redis, url: `redis://127.0.0.1:${port}` };
  });
  context.after(() => rmSync(dir, { recursive: true, force: true }));
  return server;
}

/** A node: in memory, or with a Redis. `flags` go to the command line. */
export async function startNode(context, { id = "solo", redis, ports = [0, 0], flags = [] } = {}) {
  const mode = redis ? ["--mode", "redis", "--redis-url", redis.url] : ["--mode", "local"];
  const args = ["--node-id", id, "--client-port", ports[0], "--worker-port", ports[1], "--bind", "127.0.0.1", "--log-format", "json"];
  const cwd = mkdtempSync(join(tmpdir(), "switchboard-node-")); // no stray .env
  const env = { PATH: process.env.PATH };
  const node = start(context, program, [...args, ...mode, ...flags].map(String), { cwd, env });
  context.after(() => rmSync(cwd, { recursive: true, force: true }));
  const urlOf = (port) => {
    for (const line of node.output) {
      const { fields } = JSON.parse(line);
      if (fields.message === "listening" && fields.port === port) return fields.url;
    }
  };
  const urls = await until(`${id} to listen`, () => urlOf("worker") && [urlOf("client"), urlOf("worker")]);
  const [client, worker] = urls.map((url) => ({ ws: url, http: url.replace("ws:", "http:"), port: new URL(url).port }));
  await until(`${id} to be ready`, async () => (await fetch(`${client.http}/readyz`)).ok);
  return { ...node, id, client, worker };
}

/** Publishes, and gives the answer. */
export async function publish(node, event) {
  const answer = await fetch(`${node.worker.http}/publish`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(event),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** Publishes the numbers `first..last` to a user, one after the other. */
export async function count(node, userId, first, last) {
  for (let data = first; data <= last; data++) await publish(node, { userId, event: "n", data });
}

/** For nodes with `--auth jwt`, and a token that they take for so many seconds. */
export const secret = "a secret of more than thirty-two bytes";
export function tokenOf(sub, lives = 300) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, exp: Math.floor(Date.now() / 1000) + lives })}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

export const numbers = (first, last) => Array.from({ length: last - first + 1 }, (_, at) => first + at);

/** A way to a port that can be cut: what passes is broken off, and nothing new gets through. */
export async function startWire(context, port) {
  const wire = { cut: false, hung: false, passed: 0 };
  const sockets = new Set();
  const server = net.createServer((here) => {
    wire.passed++;
    if (wire.cut) return here.destroy();
    const there = net.connect(wire.to ?? port, "127.0.0.1");
    for (const [from, to] of [[here, there], [there, here]]) {
      sockets.add(from);
      // Hung: bytes get lost in silence, as on a path that died.
      // Blocked: a middlebox that knows no WebSockets.
      // Held: bytes stay on their way until the test passes them on.
      // Edited: a proxy that puts something into the head of a request.
      from.on("data", (bytes) => {
        if (from === here && wire.edit) bytes = Buffer.from(wire.edit(bytes.toString("latin1")), "latin1");
        if (from === here && wire.blocks?.test(bytes.toString("latin1"))) here.destroy();
        else if (wire.held) wire.held.push(() => to.write(bytes));
        else if (!wire.hung) to.write(bytes);
      });
      from.on("error", () => {}).on("close", () => { sockets.delete(from); to.destroy(); });
    }
  });
  wire.break = () => sockets.forEach((socket) => socket.destroy());
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  context.after(() => { wire.break(); server.close(); });
  return Object.assign(wire, { port: server.address().port });
}
