// Starts what is measured, runs `switchboard bench` against it, and stops it again. Everything is on loopback, with a
// Redis of its own without persistence for each candidate.

import { execFile, spawn, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const program = process.env.SWITCHBOARD ?? join(root, "target/release/switchboard");

const started = new Set();
function stopAll() {
  for (const child of started) child.kill("SIGKILL");
}
process.on("exit", stopAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Below the range from which the system takes ports for outgoing connections, of which there are thousands here.
function freePort() {
  const port = 10_000 + Math.floor(22_000 * Math.random());
  return new Promise((resolve) => {
    const server = createServer().once("error", () => resolve(freePort()));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(port)));
  });
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = createConnection(port, "127.0.0.1");
    socket.once("connect", () => (socket.destroy(), resolve(true)));
    socket.once("error", () => resolve(false));
  });
}

async function start(name, command, args, env, ports) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "ignore", "inherit"] });
  started.add(child);
  child.once("exit", () => started.delete(child));
  for (const port of ports) {
    for (let tries = 0; !(await answers(port)); tries++) {
      if (tries > 300 || child.exitCode !== null) throw new Error(`${name} does not listen on ${port}`);
      await sleep(50);
    }
  }
  return child;
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await gone;
}

// The candidates: how a node of each is started.
export const candidates = {
  switchboard: { command: program, args: [], protocol: "switchboard" },
  "home-made": { command: "node", args: [join(root, "benches/peers/home-made/index.js")], protocol: "switchboard" },
  "home-made-pipelined": {
    command: "node",
    args: [join(root, "benches/peers/home-made/index.js"), "--auto-pipelining"],
    protocol: "switchboard",
  },
  "socket.io": { command: "node", args: [join(root, "benches/peers/socket-io/index.js")], protocol: "socket.io" },
};

/// A Redis and some nodes of one candidate.
export class Service {
  static async start(name, { nodes = 2, env = {}, redis = [], away = 0 } = {}) {
    const { command, args, protocol } = candidates[name];
    const service = new Service();
    Object.assign(service, { name, protocol, nodes: [], clients: [], workers: [] });
    service.directory = mkdtempSync(join(tmpdir(), "switchboard-bench-"));
    service.redisPort = await freePort();
    const settings = ["--port", `${service.redisPort}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    settings.push("--dir", service.directory, "--logfile", join(service.directory, "log"), ...redis);
    service.redis = await start("redis-server", "redis-server", settings, {}, [service.redisPort]);
    let reached = service.redisPort;
    if (away > 0) {
      reached = await freePort();
      const between = [join(root, "benches/away.mjs"), `${reached}`, `${service.redisPort}`, `${away}`];
      service.between = await start("away.mjs", "node", between, {}, [reached]);
    }
    for (let at = 0; at < nodes; at++) {
      const [client, worker] = [await freePort(), await freePort()];
      const settings = {
        NODE_ID: `node-${at}`,
        CLIENT_SOCKET_PORT: `${client}`,
        WORKER_SOCKET_PORT: `${worker}`,
        REDIS_URL: `redis://127.0.0.1:${reached}`,
        ...env,
      };
      service.nodes.push(await start(name, command, args, settings, [client, worker]));
      service.clients.push(`ws://127.0.0.1:${client}`);
      service.workers.push(`ws://127.0.0.1:${worker}`);
    }
    await sleep(1000); // the first lease, the first subscription
    return service;
  }

  /// One run of the load generator; what it reports.
  bench(flags) {
    const args = ["bench", "--json", "--protocol", this.protocol, "--client-url", this.clients.join()];
    args.push("--worker-url", this.workers.join(), "--redis-url", `redis://127.0.0.1:${this.redisPort}`);
    args.push("--watch-pid", [this.redis, ...this.nodes].map((child) => child.pid).join());
    for (const [flag, value] of Object.entries(flags)) args.push(...(value === true ? [`--${flag}`] : [`--${flag}`, `${value}`]));
    return new Promise((resolve, reject) => {
      execFile(program, args, { cwd: tmpdir(), maxBuffer: 1 << 24 }, (error, out, said) => {
        if (error) reject(new Error(`${this.name}: switchboard ${args.join(" ")}: ${said || error.message}`));
        else resolve(JSON.parse(out));
      });
    });
  }

  async stop() {
    for (const child of [...this.nodes, this.between, this.redis]) if (child) await stop(child);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export function median(numbers) {
  const sorted = numbers.filter((number) => number !== null && number !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function machine() {
  const said = (command, ...args) => execFileSync(command, args, { encoding: "utf8" }).trim();
  const kernel = said("uname", "-sr");
  const redis = said("redis-server", "--version").match(/v=(\S+)/)?.[1];
  const memory = readFileSync("/proc/meminfo", "utf8").match(/MemTotal:\s+(\d+)/)?.[1];
  return (
    `${cpus().length} cores (${cpus()[0].model}), ${Math.round(memory / 1024 / 1024)} GiB, ${kernel}, ` +
    `Redis ${redis}, Node.js ${process.version}, ${said(program, "--version")}`
  );
}

/// What the peers are made of, as it is installed.
export function versions() {
  const peers = { "home-made": ["ws", "ioredis"], "socket-io": ["socket.io", "@socket.io/redis-streams-adapter", "redis"] };
  const version = (peer, name) =>
    JSON.parse(readFileSync(join(root, "benches/peers", peer, "node_modules", name, "package.json"), "utf8")).version;
  return Object.entries(peers).flatMap(([peer, names]) => names.map((name) => `${name} ${version(peer, name)}`)).join(", ");
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/// What the command line says, by `known`: of each flag what it is unless it is given, and for a list what may be in it.
/// A number is taken as one, and `false` is a flag without a value. Anything else is a mistake.
export function options(known) {
  const flags = Object.entries(known).map(([name, standard]) => [name, { type: standard === false ? "boolean" : "string" }]);
  try {
    const { values } = parseArgs({ options: Object.fromEntries(flags) });
    for (const [name, value] of Object.entries(values)) {
      if (Array.isArray(known[name])) {
        values[name] = value.split(",");
        const stray = values[name].find((word) => !known[name].includes(word));
        if (stray !== undefined) throw new Error(`--${name}: there is no ${stray}; there are ${known[name].join(", ")}`);
      } else if (typeof known[name] === "number") {
        values[name] = Number(value);
        if (!(values[name] > 0)) throw new Error(`--${name}: ${value} is not a number above 0`);
      }
    }
    return { ...known, ...values };
  } catch (error) {
    console.error(`${error.message}\nflags, and what they are by default: ${flags.map(([name]) => said(name, known[name])).join(" ")}`);
    process.exit(2);
  }
}

function said(name, standard) {
  return standard === false ? `[--${name}]` : `--${name} ${standard}`;
}
