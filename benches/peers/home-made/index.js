// The design that most teams build first: each user's sockets as a set in Redis, a pub/sub channel for each node.
// No log, no ids, no replay, no leases: what is published while a socket is away is gone, and a node that is killed
// leaves its members behind. It stands here to be measured against.
//
// Environment: NODE_ID, CLIENT_SOCKET_PORT, WORKER_SOCKET_PORT, REDIS_URL

import { Redis } from "ioredis";
import { WebSocketServer } from "ws";

const node = process.env.NODE_ID ?? "a";
const url = process.env.REDIS_URL ?? "redis://127.0.0.1:6379";
// Commands of one turn of the event loop in one write: a setting of ioredis that is off where nobody asks for it.
const redis = new Redis(url, { enableAutoPipelining: process.argv.includes("--auto-pipelining") });
const subscriber = new Redis(url);
const users = new Map(); // user id -> Set of sockets here

function deliver(text) {
  const { userId, event, data } = JSON.parse(text);
  const sockets = users.get(userId);
  if (!sockets) return;
  const frame = JSON.stringify({ type: "event", event, data });
  for (const socket of sockets) if (socket.readyState === socket.OPEN) socket.send(frame);
}

async function publish(text) {
  const { userId } = JSON.parse(text);
  const members = await redis.smembers(`user:${userId}`);
  for (const name of new Set(members.map((member) => member.split("@")[1]))) redis.publish(`node:${name}`, text);
}

const clients = new WebSocketServer({ host: "127.0.0.1", port: Number(process.env.CLIENT_SOCKET_PORT ?? 4000) });
clients.on("connection", async (socket, request) => {
  const query = new URL(request.url, "http://node").searchParams;
  const userId = query.get("userId");
  const clientId = query.get("clientId") ?? Math.random().toString(36).slice(2);
  if (!userId) return socket.close(4000, "userId is missing");
  const member = `${clientId}@${node}`;
  socket.alive = true;
  socket.on("pong", () => (socket.alive = true));
  socket.on("error", () => socket.terminate());
  socket.on("close", () => {
    const sockets = users.get(userId);
    sockets?.delete(socket);
    if (sockets?.size === 0) users.delete(userId);
    redis.srem(`user:${userId}`, member).catch(() => {});
  });
  if (!users.has(userId)) users.set(userId, new Set());
  users.get(userId).add(socket);
  await redis.sadd(`user:${userId}`, member);
  socket.send(JSON.stringify({ type: "welcome", userId, clientId, nodeId: node }));
});

const workers = new WebSocketServer({ host: "127.0.0.1", port: Number(process.env.WORKER_SOCKET_PORT ?? 4001) });
workers.on("connection", (socket) => {
  socket.on("message", (message) => {
    publish(message.toString()).catch((error) => socket.send(JSON.stringify({ type: "error", message: error.message })));
  });
});

subscriber.on("message", (_, text) => deliver(text));
await subscriber.subscribe(`node:${node}`);

setInterval(() => {
  for (const socket of clients.clients) {
    if (!socket.alive) {
      socket.terminate();
      continue;
    }
    socket.alive = false;
    socket.ping();
  }
}, 25_000);

console.log(`listening ${node}`);
