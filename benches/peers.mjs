// The table: Switchboard beside what would be used instead, on one machine, in one run. `bash scripts/bench-peers`
// prepares and starts this. The candidates take turns in each scenario, so that a machine that slows down slows all of
// them down.

import { Service, candidates, machine, median, number, options, versions } from "./support.mjs";

const { rounds, seconds, only: names, scenarios: wanted } = options({
  rounds: 3,
  seconds: 6,
  only: Object.keys(candidates),
  scenarios: ["saturated", "flooded", "steady", "brisk", "away", "connect"],
});

const load = { users: 992, payload: 200, "warm-up": "2s", duration: `${seconds}s` };
const scenarios = {
  saturated: { ...load, rate: "max" },
  // What comes after a stop: sixteen times as much on its way.
  flooded: { ...load, rate: "max", window: 32768 },
  steady: { ...load, rate: 2000 },
  brisk: { ...load, rate: 20000 },
  // Redis a millisecond and more away, each way.
  away: { ...load, rate: "max", away: 1 },
  connect: { users: 10000, rate: 0, settle: "3s", duration: "1s" },
};

// Rows: scenario, words, how to read it from a report, digits, whether more is better.
const rows = [
  ["saturated", "delivered a second, saturated", (r) => r.delivered_per_second, 0, true],
  ["saturated", "CPU seconds per 100,000 delivered, nodes and Redis", (r) => r.cpu_seconds_per_100_000, 2, false],
  ["saturated", "of that, Redis", (r) => r.watched[0].cpu_seconds_per_100_000, 2, false],
  ["flooded", "flooded (33 events of each user on their way): delivered a second", (r) => r.delivered_per_second, 0, true],
  ["flooded", "flooded: CPU seconds per 100,000", (r) => r.cpu_seconds_per_100_000, 2, false],
  ["steady", "at 2,000 a second: p50, ms", (r) => r.latency_ms?.p50, 2, false],
  ["steady", "at 2,000 a second: p99, ms", (r) => r.latency_ms?.p99, 2, false],
  ["steady", "at 2,000 a second: CPU seconds per 100,000", (r) => r.cpu_seconds_per_100_000, 2, false],
  ["brisk", "at 20,000 a second: delivered a second", (r) => r.delivered_per_second, 0, true],
  ["brisk", "at 20,000 a second: p50, ms", (r) => r.latency_ms?.p50, 2, false],
  ["brisk", "at 20,000 a second: p99, ms", (r) => r.latency_ms?.p99, 2, false],
  ["brisk", "at 20,000 a second: CPU seconds per 100,000", (r) => r.cpu_seconds_per_100_000, 2, false],
  ["away", "Redis 1 ms away: delivered a second, saturated", (r) => r.delivered_per_second, 0, true],
  ["away", "Redis 1 ms away: CPU seconds per 100,000", (r) => r.cpu_seconds_per_100_000, 2, false],
  ["connect", "sockets to registered a second, 10,000 sockets", (r) => r.connect.per_second, 0, true],
  ["connect", "memory per idle session, nodes, KiB", idle, 2, false],
  ["connect", "memory of both nodes with them, MiB", held, 0, false],
];

function idle(report) {
  const nodes = report.watched.slice(1);
  const grown = nodes.reduce((sum, node) => sum + node.anonymous_kib[1] - node.anonymous_kib[0], 0);
  return grown / report.connect.sockets;
}

function held(report) {
  return report.watched.slice(1).reduce((sum, node) => sum + node.anonymous_kib[1], 0) / 1024;
}

const faults = {};
const reports = {};
for (let round = 0; round < rounds; round++) {
  for (const scenario of wanted) {
    for (const name of names) {
      // A fresh service for each: memory is measured from the start, and no scenario pays for the one before.
      const { away, ...flags } = scenarios[scenario];
      const service = await Service.start(name, { away });
      try {
        const report = await service.bench(flags);
        ((reports[name] ??= {})[scenario] ??= []).push(report);
        const { lost, duplicated, out_of_order } = report;
        const sum = (faults[name] ??= { lost: 0, duplicated: 0, out_of_order: 0 });
        sum.lost += lost;
        sum.duplicated += duplicated;
        sum.out_of_order += out_of_order;
        process.stderr.write(
          `round ${round + 1} ${name} ${scenario}: ${number(report.delivered_per_second)}/s ` +
            `p50 ${report.latency_ms?.p50} p99 ${report.latency_ms?.p99} cpu ${number(report.cpu_seconds_per_100_000, 2)} ` +
            `connects ${number(report.connect.per_second)}/s idle ${number(idle(report), 2)} KiB ` +
            `${report.trouble ?? ""}\n`,
        );
      } finally {
        await service.stop();
      }
    }
  }
}

console.log(`${machine()}, ${versions()}; median of ${rounds} rounds of ${seconds} s each.\n`);
const ratios = names[0] === "switchboard" ? names.slice(1) : [];
console.log(`| | ${names.join(" | ")} |${ratios.map((name) => ` against ${name} |`).join("")}`);
console.log(`|---|${"---|".repeat(names.length + ratios.length)}`);
for (const [scenario, words, read, digits, more] of rows) {
  if (!wanted.includes(scenario)) continue;
  const values = names.map((name) => median(reports[name][scenario].map(read)));
  const against = ratios.map((_, at) => {
    const [ours, theirs] = [values[0], values[at + 1]];
    const ratio = more ? ours / theirs : theirs / ours;
    return ` ${number(ratio, ratio < 10 ? 1 : 0)} times ${more ? "as many" : "less"} |`;
  });
  console.log(`| ${words} | ${values.map((value) => number(value, digits)).join(" | ")} |${against.join("")}`);
}
const told = (name) => Object.entries(faults[name]).map(([what, count]) => `${count} ${what.replaceAll("_", " ")}`).join(", ");
console.log(`\nFaults over all rounds: ${names.map((name) => `${name}: ${told(name)}`).join("; ")}.`);
