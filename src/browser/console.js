// The console of development mode: the worker's form, the tables, and what the parts share.
import { showConversion } from "./console-convert.js";
import { addSession, sessions } from "./console-session.js";

const byId = (id) => document.getElementById(id);
const form = byId("publish");
const worker = form.elements;

// This page came from the client port. Where the node names another host than the one that the browser reached (a mapped
// port, a container), the browser's own way in is right; the worker port is then a guess, and the field can be edited.
const told = (url, otherwise) => (URL.canParse(url) ? new URL(url) : new URL(otherwise));
const clientUrl = told(document.body.dataset.clientUrl, location.href);
const workerUrl = told(document.body.dataset.workerUrl, "ws://127.0.0.1:4001");
if (clientUrl.hostname !== location.hostname) workerUrl.hostname = location.hostname;
workerUrl.protocol = workerUrl.protocol.replace("ws", "http");
worker.workerUrl.value = workerUrl.origin;

/** Everything that was published here and is kept: what each session is measured by. */
const ledger = [];

/** Asks the worker port. */
async function ask(path, options = {}) {
  const headers = { ...(worker.token.value && { authorization: `Bearer ${worker.token.value}` }), ...options.headers };
  let answer;
  try {
    answer = await fetch(worker.workerUrl.value.replace(/\/+$/, "") + path, { ...options, headers });
  } catch {
    throw new Error("The worker port cannot be reached, or does not let this page in (CLIENT_ORIGIN).");
  }
  if (answer.status === 204) return undefined;
  const text = await answer.text();
  if (!answer.ok) throw new Error(JSON.parse(text).error?.message ?? text);
  return answer.headers.get("content-type").includes("ndjson") ? text.trim().split("\n").map((line) => JSON.parse(line)) : JSON.parse(text);
}

/** Publishes frames, given as JSON text, in one request; gives the answers, and enters what is kept. */
export async function publish(frames) {
  const answers = await ask("/publish", { method: "POST", headers: { "content-type": "application/x-ndjson" }, body: frames.join("\n") });
  answers.forEach((answer, at) => {
    const { userId, userIds, clientId, exceptClientId, collapseKey } = JSON.parse(frames[at]);
    const ids = answer.ids ?? (answer.id ? [answer.id] : []);
    (userIds ?? [userId]).forEach((user, one) => {
      const known = ledger.some((entry) => entry.id === ids[one] && entry.user === user);
      if (ids[one] && !known) ledger.push({ user, id: ids[one], clientId, exceptClientId, collapseKey });
    });
  });
  if (ledger.length > 5000) ledger.splice(0, ledger.length - 5000);
  for (const session of sessions) session.refresh();
  return answers;
}

/** What is expected of a session of this user: each with whether a newer one has taken its place. */
export function published(user, clientId) {
  const newest = new Map();
  const mine = ledger.filter((entry) => entry.user === user && (!entry.clientId || entry.clientId === clientId) && entry.exceptClientId !== clientId);
  const place = (entry) => JSON.stringify([entry.collapseKey, entry.clientId, entry.exceptClientId]);
  for (const entry of mine) if (entry.collapseKey) newest.set(place(entry), entry);
  return mine.map((entry) => ({ id: entry.id, replaced: entry.collapseKey !== undefined && newest.get(place(entry)) !== entry }));
}

/** What is wrong with a JSON text, or nothing. The text itself is what gets sent. */
export function jsonProblem(text) {
  try {
    if (text.trim()) JSON.parse(text);
    return "";
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
}

// ---- the form ----

function frame(data = worker.data.value) {
  const fields = [];
  const add = (name, value) => fields.push(`${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const to = worker.to.value;
  if (to === "user") add("userId", worker.user.value);
  if (to === "users") add("userIds", worker.user.value.split(/[\s,]+/).filter(Boolean));
  if (to === "broadcast") add("broadcast", true);
  add("event", worker.event.value);
  for (const name of to === "user" ? ["clientId", "exceptClientId", "collapseKey", "key"] : ["collapseKey", "key"]) {
    if (worker[name].value) add(name, worker[name].value);
  }
  if (worker.transient.checked) add("transient", true);
  // As it is written; a line end would end the line of NDJSON, and is white space to JSON.
  if (data.trim()) fields.push(`"data":${data.replace(/[\r\n]+/g, " ")}`);
  return `{${fields.join(",")}}`;
}

function check() {
  const problem = jsonProblem(worker.data.value);
  byId("data-problem").textContent = problem;
  worker.data.setAttribute("aria-invalid", String(Boolean(problem)));
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(worker.to.value);
  worker.user.previousElementSibling.textContent = worker.to.value === "users" ? "User ids, with commas" : "User id";
  byId("convert-user").textContent = worker.to.value === "user" ? worker.user.value : "42";
  const quoted = frame().replace(/'/g, `'\\''`);
  const token = worker.token.value ? " -H 'authorization: Bearer …'" : "";
  byId("shell").textContent = `curl ${worker.workerUrl.value}/publish${token} \\\n  -H 'content-type: application/json' \\\n  -d '${quoted}'`;
  return !problem;
}

/** Says what came of it. */
export function say(place, text, bad = false) {
  place.textContent = text;
  place.classList.toggle("bad", bad);
}

async function publishAndSay(frames) {
  try {
    const answers = await publish(frames);
    const refused = answers.find((answer) => answer.type === "error");
    const last = answers.at(-1);
    const kept = last.id || last.ids ? "it waits in the log" : "it is gone";
    const nodes = last.nodes?.length ? `on its way by ${last.nodes.join(", ")}` : `nobody is connected: ${kept}`;
    if (refused) say(byId("answer"), `Refused: ${refused.message}`, true);
    else say(byId("answer"), `${answers.length === 1 ? "Published" : `Published ${answers.length}`}${last.id ? ` as ${last.id}` : ""}; ${nodes}.`);
    return !refused;
  } catch (error) {
    say(byId("answer"), error.message, true);
    return false;
  }
}

form.addEventListener("input", check);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!check()) return worker.data.focus();
  const times = Math.min(1000, Math.max(1, Math.floor(Number(worker.times.value)) || 1));
  publishAndSay(Array.from({ length: times }, () => frame()));
});

let flow = 0;
let number = 0;
byId("flow").addEventListener("click", async () => {
  const button = byId("flow");
  if (flow) flow = clearInterval(flow) ?? 0;
  else flow = setInterval(async () => {
    if (!(await publishAndSay([frame(`{"number": ${++number}}`)])) && flow) button.click();
  }, 250);
  button.setAttribute("aria-pressed", String(Boolean(flow)));
  button.textContent = flow ? "Stop publishing" : "Keep publishing";
});

// ---- nodes and users ----

const cell = (text, className = "") => Object.assign(document.createElement("td"), { textContent: text, className });

function fill(table, rows, empty) {
  const body = table.tBodies[0];
  const wanted = rows.length ? rows : [{ key: [], cells: () => [Object.assign(cell(empty), { colSpan: 4 })] }];
  const keys = wanted.map((row) => JSON.stringify(row.key));
  const focused = body.contains(document.activeElement);
  // Lines that stay are not touched: a button that has the focus keeps it.
  for (const line of [...body.rows]) if (!keys.includes(line.dataset.key)) line.remove();
  wanted.forEach(({ cells }, at) => {
    let line = [...body.rows].find((other) => other.dataset.key === keys[at]);
    if (line && line === body.rows[at]) return;
    if (!line) {
      line = document.createElement("tr");
      line.dataset.key = keys[at];
      line.append(...cells());
    }
    body.insertBefore(line, body.rows[at] ?? null);
  });
  if (focused && !body.contains(document.activeElement)) table.parentElement.focus(); // its line is gone
}

const since = (ms) => {
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 60) return "less than a minute";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
};

/** The address of a node's client port as this browser reaches it; the node itself may know another. */
const reachable = (url) => (told(url, location.href).host === clientUrl.host ? location.origin : url);

async function overview() {
  if (document.visibilityState !== "visible") return;
  const state = byId("overview-state");
  try {
    const { nodes } = await ask("/nodes");
    const users = [...new Set([...sessions].map((session) => session.user()).concat(worker.to.value === "user" ? worker.user.value : []))].filter(Boolean);
    const online = await Promise.all(users.map((user) => ask(`/users/${encodeURIComponent(user)}`).catch(() => ({ userId: user, sessions: [] }))));
    fill(byId("nodes"), nodes.map((node) => ({
      key: [node.nodeId, node.sessions, since(node.started)],
      cells: () => [cell(node.nodeId), cell(String(node.sessions), "number"), cell(since(node.started)), cell(node.clientUrl, "mono")],
    })), "None answers.");
    fill(byId("users"), online.flatMap(({ userId, sessions: all }) => all.map(({ clientId, nodeId }) => ({
      key: [userId, clientId, nodeId],
      cells: () => {
        const out = Object.assign(document.createElement("button"), { type: "button", textContent: "Sign out" });
        out.setAttribute("aria-label", `Sign out ${clientId} of user ${userId}`);
        out.addEventListener("click", () => ask(`/users/${encodeURIComponent(userId)}/sessions/${encodeURIComponent(clientId)}`, { method: "DELETE" }).catch(() => {}));
        const last = cell("");
        last.append(out);
        return [cell(userId), cell(clientId, "mono"), cell(nodeId), last];
      },
    }))), "Nobody.");
    for (const session of sessions) session.offer(nodes.map((node) => ({ name: node.nodeId, url: reachable(node.clientUrl) })));
    state.textContent = "live";
    state.className = "state good";
  } catch (error) {
    state.textContent = error.message;
    state.className = "state bad";
  }
}

byId("add").addEventListener("click", () => addSession().focus());
showConversion(() => (worker.to.value === "user" ? worker.user.value : "42"));
check();
for (let at = 0; at < 2; at++) addSession().connect();
overview();
setInterval(overview, 1500);
