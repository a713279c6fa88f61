// What grows with what: users, sessions, nodes, leases; 20,000 events through the death of a node; and 17,000 sockets of one.
// `bash scripts/bench-growth` prepares and starts this. Prints tables, and draws src/docs/growth.svg with --draw.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Service, machine, number, options, root, sleep } from "./support.mjs";

const { seconds, only, draw: draws } = options({
  seconds: 5,
  only: ["users", "sessions", "nodes", "leases", "kill", "storm"],
  draw: false,
});
const load = { payload: 200, "warm-up": "2s", duration: `${seconds}s` };

async function measure(words, nodes, flags) {
  const service = await Service.start("switchboard", { nodes });
  try {
    const report = await service.bench({ ...load, ...flags });
    process.stderr.write(`${words}: ${JSON.stringify(report.latency_ms)} ${report.trouble ?? ""}\n`);
    return { words, report };
  } finally {
    await service.stop();
  }
}

function table(title, results) {
  console.log(`\n| ${title} | delivered a second | p50 / p99 / p99.9, ms | CPU seconds per 100,000 | of that, Redis | lost, doubled, disordered |`);
  console.log("|---|---|---|---|---|---|");
  for (const { words, report } of results) {
    const { p50, p99, p999 } = report.latency_ms;
    const faults = [report.lost, report.duplicated, report.out_of_order].join(", ");
    console.log(
      `| ${words} | ${number(report.delivered_per_second)} | ${number(p50, 2)} / ${number(p99, 2)} / ${number(p999, 2)} ` +
        `| ${number(report.cpu_seconds_per_100_000, 2)} | ${number(report.watched[0].cpu_seconds_per_100_000, 2)} | ${faults} |`,
    );
  }
}

console.log(`${machine()}; ${seconds} s each.`);

if (only.includes("users")) {
  const results = [];
  for (const users of [1, 10, 100, 1000, 10_000, 34_000, 50_000, 100_000]) {
    // A node holds fewer than 20,000 sockets where that is the limit on open files.
    const nodes = Math.max(2, Math.ceil(users / 17_000));
    results.push(await measure(`${number(users)} user${users === 1 ? "" : "s"}, ${nodes} nodes`, nodes, { users, rate: 5000, connecting: 128 }));
  }
  table("5,000 events a second to", results);
  if (draws) draw(results);
}

if (only.includes("sessions")) {
  const results = [];
  for (const sessions of [1, 4, 32]) {
    const flags = { users: 1, sessions, rate: 500 };
    results.push(await measure(`1 user, ${sessions} sessions, 500 events a second`, 2, flags));
  }
  results.push(await measure("one node with 17,000 sockets, 5,000 events a second", 1, { users: 17_000, rate: 5000, connecting: 128 }));
  table("sessions", results);
}

if (only.includes("nodes")) {
  const results = [];
  for (const nodes of [1, 2, 4]) results.push(await measure(`${nodes}`, nodes, { users: 1000, rate: 5000 }));
  for (const nodes of [1, 2, 4]) results.push(await measure(`${nodes}, saturated`, nodes, { users: 1000, rate: "max" }));
  table("nodes, 1,000 users", results);
}

if (only.includes("leases")) await leases();
if (only.includes("kill")) await kill();
if (only.includes("storm")) await storm();

/// Delivery beside 50,000 others, whose leases are renewed within a third of --session-ttl: in the second case all of them
/// while it is measured, in the first nearly none. Nobody is pinged meanwhile, which costs the load as much as the nodes.
async function leases() {
  const results = [];
  for (const [ttl, words] of [["1h", "nearly none of their leases renewed meanwhile"], ["60s", "all of their leases renewed meanwhile"]]) {
    const service = await Service.start("switchboard", { nodes: 3, env: { SESSION_TTL: ttl, PING_INTERVAL: "10m" } });
    try {
      const held = service.bench({ users: 50_000, rate: 0, duration: "42s", connecting: 128, "user-prefix": "held-" });
      await sleep(20_000);
      results.push({ words, report: await service.bench({ ...load, users: 1000, rate: 2000, duration: "20s" }) });
      await held;
    } finally {
      await service.stop();
    }
  }
  table("2,000 events a second to 1,000 users, 50,000 others there", results);
}

/// 20,000 events for 992 users, half of them on a node that dies meanwhile and stays away. Everything is published at the
/// other; sockets come back there with the last id that they got.
async function kill() {
  const service = await Service.start("switchboard", { nodes: 2 });
  try {
    const [, b] = service.workers;
    const spread = Object.assign(Object.create(service), { workers: [b, b], nodes: service.nodes.slice(1) });
    const flags = { users: 992, rate: 2000, payload: 200, "warm-up": "1s", duration: "9s", reconnect: true };
    const run = spread.bench(flags);
    await sleep(6_000);
    service.nodes[0].kill("SIGKILL");
    const report = await run;
    console.log("\n| 20,000 events through `kill -9` | published | lost | doubled | disordered | gaps | back after p50 / max, ms |\n|---|---|---|---|---|---|---|");
    const counts = [report.published, report.lost, report.duplicated, report.out_of_order, report.gaps];
    console.log(`| 992 users, 2 nodes | ${counts.map((count) => number(count)).join(" | ")} | ${number(report.away_ms?.p50, 1)} / ${number(report.away_ms?.max, 1)} |`);
  } finally {
    await service.stop();
  }
}

/// Half of all sockets are on the first node, which dies. They go to the two others, which hold the other half, and to
/// whose other users events are published all the while. At the end they all leave at once.
async function storm() {
  const service = await Service.start("switchboard", { nodes: 3 });
  try {
    const [, b, c] = service.workers;
    const spread = Object.assign(Object.create(service), {
      clients: [0, 1, 0, 2].map((node) => service.clients[node]),
      workers: [b, c, b, c],
      nodes: service.nodes.slice(1), // the first will not be there to be looked at
    });
    const others = Object.assign(Object.create(service), {
      clients: service.clients.slice(1),
      workers: service.workers.slice(1),
      nodes: service.nodes.slice(1),
    });
    const quiet = { users: 200, rate: 500, payload: 200, "user-prefix": "other-" };
    const calm = await others.bench({ ...quiet, duration: "8s" });
    const held = spread.bench({ users: 34_000, rate: 0, reconnect: true, duration: "36s", connecting: 128 });
    await sleep(20_000);
    const busy = others.bench({ ...quiet, duration: "10s", "user-prefix": "another-" });
    await sleep(4_000);
    service.nodes[0].kill("SIGKILL");
    const during = await busy;
    const leaving = others.bench({ ...quiet, duration: "14s", "user-prefix": "third-" });
    const [away, left] = [await held, await leaving];
    console.log("\n| a node with 17,000 sockets is killed | p50 / p99 / max, ms |\n|---|---|");
    const row = (words, l) => console.log(`| ${words} | ${number(l.p50, 1)} / ${number(l.p99, 1)} / ${number(l.max, 1)} |`);
    row(`its ${number(away.away_ms.count)} clients are registered again after`, away.away_ms);
    row("delivery to others before", calm.latency_ms);
    row("delivery to others meanwhile", during.latency_ms);
    row("delivery to others while all 34,000 leave at once", left.latency_ms);
    console.log(`\nSockets at the end: ${number(away.connect.sockets)}; lost by others: ${during.lost + left.lost}.`);
  } finally {
    await service.stop();
  }
}

/// Two lines over the number of users, on a scale of powers of ten.
function draw(results) {
  const [width, height, left, bottom, top, right] = [640, 300, 60, 50, 30, 60];
  const users = results.map(({ words }) => Number(words.replaceAll(",", "").split(" ")[0]));
  const x = (count) => left + ((width - left - right) * Math.log10(count)) / 5;
  const lines = [
    ["CPU seconds per 100,000 delivered", "#1f77b4", results.map(({ report }) => report.cpu_seconds_per_100_000)],
    ["p99, ms", "#d62728", results.map(({ report }) => report.latency_ms.p99)],
  ];
  const most = Math.ceil(1.15 * Math.max(...lines.flatMap(([, , values]) => values)));
  const y = (value) => height - bottom - ((height - bottom - top) * value) / most;
  const text = (at, to, words, more = "") => `<text x="${at}" y="${to}" ${more}>${words}</text>`;
  const out = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`];
  out.push(`<rect width="${width}" height="${height}" fill="white"/>`);
  for (let step = 0; step <= 4; step++) {
    const value = (most * step) / 4;
    out.push(`<path d="M${left} ${y(value)}H${width - right}" stroke="#ddd"/>`);
    out.push(text(left - 8, y(value) + 4, number(value, 1), 'text-anchor="end"'));
  }
  for (let power = 0; power <= 5; power++) {
    out.push(text(x(10 ** power), height - bottom + 18, number(10 ** power), 'text-anchor="middle"'));
  }
  out.push(text(width / 2, height - 12, "users, one session each; 5,000 events a second of 200 bytes", 'text-anchor="middle"'));
  lines.forEach(([words, colour, values], at) => {
    const points = values.map((value, index) => `${x(users[index]).toFixed(1)},${y(value).toFixed(1)}`);
    out.push(`<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const point of points) out.push(`<circle cx="${point.split(",")[0]}" cy="${point.split(",")[1]}" r="3" fill="${colour}"/>`);
    out.push(text(left + 10 + 260 * at, 18, words, `fill="${colour}"`));
  });
  out.push("</svg>\n");
  writeFileSync(join(root, "src/docs/growth.svg"), out.join("\n"));
}
