// Socket.IO with its Redis Streams adapter, set up as its documentation says: a room for each user, and a worker port
// that takes the frames of the other candidates. Recovery is on, so that a short break loses nothing.
//
// Environment: NODE_ID, CLIENT_SOCKET_PORT, WORKER_SOCKET_PORT, REDIS_URL

import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { WebSocketServer } from "ws";

const node = process.env.NODE_ID ?? "a";
const redis = createClient({ url: process.env.REDIS_URL ?? "redis://127.0.0.1:6379" });
await redis.connect();

const io = new Server({
  // There is only text to send, which spares a look for binary data in each event. And as many entries as a flood puts on
  // their way: with the 10,000 that are kept by default, those that were not read yet are cut off, and lost.
  adapter: createAdapter(redis, { onlyPlaintext: true, maxLen: 100_000 }),
  connectionStateRecovery: {},
  transports: ["websocket"],
  serveClient: false,
});
io.on("connection", async (socket) => {
  const { userId } = socket.handshake.auth;
  if (!userId) return socket.disconnect(true);
  await socket.join(`user:${userId}`);
  socket.emit("welcome", { userId, nodeId: node });
});
io.listen(Number(process.env.CLIENT_SOCKET_PORT ?? 4000));

const workers = new WebSocketServer({ host: "127.0.0.1", port: Number(process.env.WORKER_SOCKET_PORT ?? 4001) });
workers.on("connection", (socket) => {
  socket.on("message", (message) => {
    const { userId, event, data } = JSON.parse(message.toString());
    io.to(`user:${userId}`).emit("event", { event, data });
  });
});

console.log(`listening ${node}`);
