// Stands between nodes and Redis and lets each byte wait, as it does where Redis is in another rack or zone: everything
// else in these benchmarks is on loopback, where an answer takes no time.
//
//   node away.mjs PORT REDIS_PORT MILLISECONDS     (each way, at least)

import { connect, createServer } from "node:net";

const [port, to, wait] = process.argv.slice(2).map(Number);

/// What comes from one goes to the other later, in its order: timers of one length end in the order of their start.
function pass(from, on) {
  from.setNoDelay(true);
  from.on("data", (bytes) => setTimeout(() => on.write(bytes), wait));
  from.on("close", () => setTimeout(() => on.destroy(), wait));
  from.on("error", () => {});
}

createServer((node) => {
  const redis = connect(to, "127.0.0.1");
  pass(node, redis);
  pass(redis, node);
}).listen(port, "127.0.0.1");
