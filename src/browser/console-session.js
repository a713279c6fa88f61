// One session of the console: the module's connection on a line that can be broken, its log, and what has arrived.
import { connect } from "./client.js";
import { jsonProblem, published } from "./console.js";

const LOG_LINES = 300; // a page that is left open for days stays small

/** All sessions of the page. */
export const sessions = new Set();

let made = 0;

const element = (name, className, textContent = "") => Object.assign(document.createElement(name), { className, textContent });

/** A WebSocket and a fetch that do as they are told: drop, stay away, hold back. */
class Line {
  cut = false;
  paused = false;
  held = [];
  #drop = () => {};

  get WebSocket() {
    const line = this;
    return class extends WebSocket {
      constructor(url) {
        super(url);
        line.held = [];
        line.#drop = () => {
          const tell = super.onclose;
          super.onclose = super.onmessage = null;
          this.close();
          tell?.({ code: 1006, reason: "" });
        };
        if (line.cut) setTimeout(() => line.drop());
      }

      set onmessage(take) {
        super.onmessage = take && ((event) => (line.paused ? line.hold(() => take(event)) : take(event)));
      }
    };
  }

  get fetch() {
    return async (url, options) => {
      if (this.cut) throw new TypeError("the line is cut");
      const abort = new AbortController();
      this.#drop = () => abort.abort();
      const answer = await fetch(url, { ...options, signal: AbortSignal.any([abort.signal, options.signal]) });
      // Nothing is taken from the network meanwhile: the node feels it.
      const held = new TransformStream({ transform: async (bytes, out) => {
        while (this.paused && !abort.signal.aborted) await new Promise((done) => this.hold(done));
        out.enqueue(bytes);
      } });
      return new Response(answer.body?.pipeThrough(held), answer);
    };
  }

  hold(act) {
    this.held.push(act);
    this.onheld?.();
  }

  drop() {
    this.held = [];
    this.#drop();
  }

  resume() {
    this.paused = false;
    for (const act of this.held.splice(0)) act();
  }
}

/** Puts a session on the page. */
export function addSession() {
  const form = document.getElementById("session").content.cloneNode(true).firstElementChild;
  const field = form.elements;
  const part = (selector) => form.querySelector(selector);
  const button = (name) => part(`[data-do=${name}]`);
  const [log, state, ledger, job] = [".log", ".state", ".ledger", ".job"].map(part);
  const title = `Session ${++made}`;
  part("h3").textContent = title;
  form.setAttribute("aria-label", title);
  log.setAttribute("aria-label", `${title}: what came`);

  const line = new Line();
  let connection;
  let arrived = new Set();
  let [start, twice, disordered, gaps, last] = [undefined, 0, 0, 0, undefined];
  const written = []; // lines of the log that are not shown yet
  let due = false;

  const later = (id, than) => {
    const [a, b] = [id.split("-").map(Number), than.split("-").map(Number)];
    return a[0] - b[0] || (a[1] ?? 0) - (b[1] ?? 0);
  };

  function write(kind, text, id, className = kind) {
    const now = new Date();
    const row = element("li", className);
    const body = element("span", "body");
    body.append(element("span", "kind", kind), " ", text);
    row.append(element("time", "", now.toTimeString().slice(0, 8)), body);
    if (id) {
      const use = Object.assign(element("button", "id", id), { type: "button", title: "Use this id for a replay" });
      use.addEventListener("click", () => (field.since.value = id));
      row.append(use);
    }
    written.push(row);
    if (written.length > LOG_LINES) written.shift();
    refresh();
  }

  /** Shows what is new once for each picture on the screen: a flood of events does not block the page. */
  function refresh() {
    if (!due) requestAnimationFrame(() => {
      due = false;
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      log.append(...written.splice(0));
      while (log.childElementCount > LOG_LINES) log.firstElementChild.remove();
      if (atEnd) log.scrollTop = log.scrollHeight;
      measure();
    });
    due = true;
  }

  function show(text, className = "") {
    state.textContent = text;
    state.className = `state ${className}`;
    const on = Boolean(connection);
    button("connect").textContent = on ? "Close" : "Connect";
    for (const name of ["drop", "replay", "send"]) button(name).disabled = !on;
    for (const name of ["user", "client", "node", "transport"]) field[name].disabled = on;
  }

  /** What was published here since this session began, against what has come. */
  function measure() {
    if (start === undefined) return;
    const expected = published(field.user.value, field.client.value).filter((entry) => later(entry.id, start) > 0);
    const absent = expected.filter((entry) => !arrived.has(entry.id));
    const [missing, replaced] = [absent.filter((entry) => !entry.replaced).length, absent.filter((entry) => entry.replaced).length];
    const faults = [twice && `${twice} twice`, disordered && `${disordered} out of order`, gaps && `${gaps} gap${gaps > 1 ? "s" : ""}`].filter(Boolean);
    const came = absent.length ? `${expected.length - absent.length} of ${expected.length}` : `All ${expected.length}`;
    const rest = [
      missing && `${missing} ${line.paused ? "are held back, or wait in the log" : "wait in the log"}`,
      replaced && `${replaced} ${line.paused ? "are held back, or were" : "were"} replaced by newer ones`,
    ].filter(Boolean);
    const text = expected.length
      ? `${came} published here have arrived, each once, in order${rest.length ? `; ${rest.join(", ")}` : ""}.`
      : "Nothing published here yet.";
    ledger.textContent = faults.length ? `${text} But ${faults.join(", ")}.` : text;
    ledger.className = `ledger ${twice || disordered ? "bad" : missing || gaps ? "warn" : expected.length ? "good" : ""}`;
  }

  function take(data, { event, id }) {
    // Anyone may publish events of these names.
    const picture = event === "convert.done" && typeof data?.image === "string";
    const progress = event === "convert.progress" && Number.isFinite(data?.percent);
    const text = picture ? `{"job": "${data.job}", "image": … ${Math.ceil(data.image.length / 1024)} KB}` : JSON.stringify(data);
    write(event, text.length > 400 ? `${text.slice(0, 400)}…` : text, id, "event");
    if (id) {
      if (arrived.has(id)) twice++;
      else if (last && later(id, last) < 0) disordered++;
      arrived.add(id);
      last = id;
    }
    if (progress || picture) {
      job.hidden = false;
      const [bar, image] = [part("progress"), part(".job img")];
      part(".job span").textContent = `Conversion ${data.job}`;
      bar.value = picture ? 100 : data.percent;
      image.hidden = !picture;
      if (picture) Object.assign(image, { src: data.image, alt: `The result of ${data.job}` });
    }
  }

  function changed(now) {
    const what = now.state;
    if (what === "open") {
      field.client.value = now.clientId;
      start ??= now.replayed ? undefined : now.position;
      const replayed = now.replayed ? `, ${now.replayed} replayed` : "";
      write("open", `by ${now.nodeId}${replayed}${now.recovered ? "" : ", something is missing"}`);
      show(`open · ${now.nodeId} · ${now.transport === "sse" ? "server-sent events" : "WebSocket"}`, "good");
    } else if (what === "waiting" || what === "offline") {
      write(what, `${now.reason || "the connection broke"} (${now.code}); back in ${now.afterMs} ms`);
      show(line.cut ? "the line is cut" : "waiting to come back", "warn");
    } else if (what === "closed") {
      write("closed", `${now.reason} (${now.code})`);
      if (connection?.state === "closed") connection = undefined;
      show("closed", now.code === 1000 ? "" : "bad");
    } else show(line.cut ? "the line is cut" : what, "warn");
    refresh();
  }

  function open(since) {
    connection?.close();
    part(".job").hidden = true;
    arrived = new Set();
    [start, twice, disordered, gaps, last] = [since, 0, 0, 0, undefined];
    const url = field.node.value || location.origin;
    try {
      connection = connect({
        url, since, userId: field.user.value, clientId: field.client.value || undefined, transport: field.transport.value,
        name: title, storage: null, WebSocket: line.WebSocket, fetch: line.fetch,
      });
    } catch (error) {
      write("error", error.message);
      return show("not connected", "bad");
    }
    const mine = connection;
    const only = (act) => (...what) => mine === connection && act(...what);
    connection.on("*", only(take));
    connection.onState(only(changed));
    connection.onGap(only((gap) => {
      gaps++;
      write("gap", `some events after ${gap.since} are gone`);
    }));
    connection.onError(only((error) => write("error", `${error.code}: ${error.message}`)));
    show("connecting", "warn");
    refresh();
  }

  const press = (name, on) => button(name).setAttribute("aria-pressed", String(on));
  line.onheld = () => {
    button("pause").textContent = `Read on (${line.held.length} held)`;
    refresh();
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (connection) connection.close();
    else open();
  });
  form.addEventListener("input", (event) => {
    if (event.target === field.user) field.client.value = ""; // another user: another session
  });
  button("drop").addEventListener("click", () => line.drop());
  button("cut").addEventListener("click", () => {
    line.cut = !line.cut;
    press("cut", line.cut);
    button("cut").textContent = line.cut ? "Mend the line" : "Cut the line";
    if (line.cut) line.drop();
    else window.dispatchEvent(new Event("online")); // the module need not wait
  });
  button("pause").addEventListener("click", () => {
    if (line.paused) line.resume();
    else line.paused = true;
    press("pause", line.paused);
    button("pause").textContent = line.paused ? "Read on" : "Pause reading";
    refresh();
  });
  button("replay").addEventListener("click", () => open(field.since.value.trim() || "0"));
  button("clear").addEventListener("click", () => {
    written.length = 0;
    log.replaceChildren();
  });
  button("send").addEventListener("click", async () => {
    const problem = jsonProblem(field.data.value);
    if (problem) return write("error", problem);
    try {
      await connection.send(field.event.value, field.data.value.trim() ? JSON.parse(field.data.value) : undefined);
      write("sent", `${field.event.value} ${field.data.value}`);
    } catch (error) {
      write("error", error.message);
    }
  });
  const session = {
    refresh,
    user: () => field.user.value,
    focus: () => field.user.focus(),
    connect: () => open(),
    /** The nodes that can be chosen. */
    offer(nodes) {
      const key = JSON.stringify(nodes);
      if (field.node.dataset.key === key || field.node === document.activeElement) return;
      field.node.dataset.key = key;
      const chosen = field.node.value;
      const options = nodes.map(({ name, url }) => new Option(name, url === location.origin ? "" : url));
      if (!options.some((option) => option.value === "")) options.unshift(new Option("this one", ""));
      field.node.replaceChildren(...options);
      field.node.value = chosen;
      if (field.node.selectedIndex < 0) field.node.value = "";
    },
  };
  button("remove").addEventListener("click", () => {
    connection?.close();
    sessions.delete(session);
    form.remove();
    document.getElementById("add").focus();
  });
  sessions.add(session);
  document.getElementById("sessions").append(form);
  show("not connected");
  refresh();
  return session;
}
