// Events: the last kept ones, then live; asked for with filters, in pages back, kept in bounds, drawn once a frame.

import { download, get, lines, path, streamed } from "./api.js";
import { action, make, onceAFrame, setChoices, setText } from "./dom.js";
import { clock, count, counted } from "./format.js";
import { pause, state } from "./state.js";

const KINDS = ["start", "exit", "stdout", "health", "status", "removed", "gap"];
const SHOWN = 200; // rows, while no older ones are asked for
const MOST = 2000; // rows, however far back it goes
const PAGE = 100;
const TEXT = 400; // characters of one event's output
const RETRY_MS = 1000;

export function showEvents(main, signal, options) {
  if (options.get("id")) return showEvent(main, signal, options);
  let ending = null; // of the stream
  let older = null; // where the next page back begins
  let most = SHOWN;
  let last = ""; // the id to resume after
  let fresh = []; // not drawn yet, oldest first
  let seen = 0;
  let lost = 0;
  let paused = false;
  let perSecond = 0;
  let seenBefore = 0;

  const daemon = make("select", { id: "daemon", onchange: () => begin() });
  const app = make("input", { id: "app", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "web-*", value: options.get("app") ?? "", onchange: () => begin() });
  const text = make("input", { id: "text", type: "search", autocomplete: "off", spellcheck: "false", value: options.get("text") ?? "", onchange: () => begin() });
  const since = make("input", { id: "since", type: "datetime-local", step: "1", value: local(options.get("since")), onchange: () => begin() });
  const until = make("input", { id: "until", type: "datetime-local", step: "1", value: local(options.get("until")), onchange: () => begin() });
  const kinds = KINDS.map((name) => make("input", { type: "checkbox", value: name, checked: true, onchange: () => begin() }));
  const hold = action("Pause", toggle, { "aria-pressed": "false" });
  const back = action("Older", pageBack);
  const figures = make("p", { class: "summary", "aria-live": "off" });
  const said = make("p", { role: "status", class: "summary" });
  const list = make("ol", { class: "events", tabindex: "0", "aria-label": "Events, the newest first" });

  main.append(
    make("h1", {}, "Events"),
    make(
      "form",
      { class: "filters", onsubmit: (event) => (event.preventDefault(), begin()) },
      make("div", {}, make("label", { for: "daemon" }, "Daemon"), daemon),
      make("div", {}, make("label", { for: "app" }, "App (* for any)"), app),
      make("div", {}, make("label", { for: "text" }, "Output has"), text),
      make("div", {}, make("label", { for: "since" }, "From"), since),
      make("div", {}, make("label", { for: "until" }, "Until"), until),
      make("fieldset", {}, make("legend", {}, "Event"), ...kinds.map((box) => make("label", {}, box, ` ${box.value}`))),
      make("div", { class: "actions" }, hold, action("Clear", clear), action("Download", save)),
    ),
    figures,
    said,
    list,
    make("p", { class: "actions" }, back),
  );

  const render = onceAFrame(() => {
    if (signal.aborted) return;
    if (!paused && fresh.length) {
      const rows = fresh.slice(-SHOWN).map(row).reverse();
      fresh = [];
      // By whole rows at the top: what is below is not touched, and what falls out at the end is out of sight.
      list.prepend(...rows);
      while (list.childElementCount > most) {
        list.lastElementChild.remove();
        older = Number(list.lastElementChild.dataset.offset);
      }
    }
    const gone = lost ? ` ${counted(lost, "event")} were deleted before they could be sent.` : "";
    setText(figures, `${counted(seen, "event")} seen, ${count(perSecond)} a second${paused ? ", paused" : ""}.${gone}`);
  });

  function toggle() {
    paused = !paused;
    hold.setAttribute("aria-pressed", paused);
    render();
  }

  function clear() {
    fresh = [];
    seen = seenBefore = lost = 0;
    list.replaceChildren();
    render();
  }

  /** With the filters as they are now, from where it was: what the old ones let through is taken away. */
  function begin() {
    ending?.abort();
    ending = new AbortController();
    const chosen = kinds.filter((box) => box.checked).map((box) => box.value);
    clear();
    if (!chosen.length) {
      setText(said, "No event is chosen.");
      return;
    }
    older = null;
    most = SHOWN;
    last = "";
    follow(wanted(), AbortSignal.any([signal, ending.signal]));
  }

  function wanted() {
    const chosen = kinds.filter((box) => box.checked).map((box) => box.value);
    return {
      daemon: daemon.value,
      app: app.value.split(/[\s,]+/).filter(Boolean),
      event: chosen.length === KINDS.length ? [] : chosen,
      text: text.value,
    };
  }

  /** The range of time, in unix seconds. */
  const times = () => ({ since: unix(since.value), until: unix(until.value) });

  /** A page of kept events, and of those that follow where a page has none: each looks through a part of the journal. */
  async function kept(query, before, stop) {
    const found = { events: [], before, last: null };
    do {
      const page = await get("events/kept", { ...query, ...times(), before: found.before ?? undefined, limit: PAGE });
      found.events.push(...page.events);
      found.before = page.before;
      found.last ??= page.last;
      if (!found.events.length && page.before !== null) setText(said, `Looking through older events: ${count(page.before)} left …`);
    } while (!stop.aborted && !found.events.length && found.before !== null);
    return found;
  }

  function append(found) {
    list.append(...found.events.map(({ offset, event }) => row({ id: offset, kind: kindOf(event), data: event })));
    older = found.before;
    back.hidden = older === null;
  }

  async function pageBack() {
    if (older === null || list.childElementCount >= MOST) return setText(said, "There are no older events here; narrow the time to see more.");
    most = MOST;
    try {
      append(await kept(wanted(), older, ending.signal));
      setText(said, "");
    } catch (error) {
      setText(said, error.message);
    }
  }

  async function save() {
    setText(said, "Downloading …");
    try {
      await download("events/download", { ...wanted(), ...times() });
      setText(said, "Downloaded.");
    } catch (error) {
      setText(said, error.message);
    }
  }

  async function follow(query, until) {
    setText(said, "DaemonCall for events …");
    while (!until.aborted) {
      try {
        if (!last) {
          const found = await kept(query, null, until);
          if (until.aborted) return;
          append(found);
          last = String(found.last);
          setText(said, "");
        }
        if (times().until) return setText(said, "Kept events of the time that was chosen; clear Until to go on live.");
        const headers = last ? { "Last-Event-ID": last } : {};
        for await (const event of messages(streamed("events", { query, headers, signal: until }))) {
          if (event.id) last = event.id;
          setText(said, seen || event.data ? "" : "Waiting for events …");
          if (!event.data) continue; // where it is, which it also tells without an event
          if (event.kind === "lost") lost += JSON.parse(event.data).events ?? 1; // unknown for a new journal
          else take(event);
          render();
        }
      } catch (error) {
        if (until.aborted) return;
        setText(said, `${error.message}; this goes on from the last event when it is back.`);
      }
      await pause(RETRY_MS, until);
    }
  }

  function take(event) {
    back.hidden = older === null;
    seen += 1;
    fresh.push(event);
    if (fresh.length > 2 * SHOWN) fresh = fresh.slice(-SHOWN); // nothing is drawn in a hidden tab, or while paused
  }

  const names = () => setChoices(daemon, [["", "all"], ...(state.bridge?.daemons ?? []).map((link) => [link.daemon, link.daemon])]);
  names();
  state.addEventListener("change", names, { signal });
  const timer = setInterval(() => {
    perSecond = seen - seenBefore;
    seenBefore = seen;
    render();
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  begin();
}

/** Server-sent events (HTML Living Standard, 9.2.6) of a stream of text. */
async function* messages(parts) {
  let event = { id: "", kind: "", data: "" };
  for await (const found of lines(parts)) {
    for (const raw of found) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (event.id || event.data) yield event;
        event = { id: "", kind: "", data: "" };
        continue;
      }
      const colon = line.indexOf(":");
      const value = line.slice(colon + 1).replace(/^ /, "");
      switch (colon < 0 ? line : line.slice(0, colon)) {
        case "id":
          event.id = value;
          break;
        case "event":
          event.kind = value;
          break;
        case "data":
          event.data += event.data ? `\n${value}` : value;
      }
    }
  }
}

/** One event by its id, whole. */
async function showEvent(main, signal, options) {
  const said = make("p", { role: "status", class: "summary" }, "Looking for it …");
  const box = make("pre", { class: "tail", tabindex: "0", "aria-label": "Event" });
  box.hidden = true;
  main.append(make("h1", {}, "Event"), make("p", { class: "summary" }, options.get("id")), said, box, make("p", {}, make("a", { href: "#events" }, "All events")));
  try {
    const found = await get("events/one", { id: options.get("id"), offset: options.get("offset") ?? undefined });
    if (signal.aborted) return;
    const daemon = found.event.source.replace(/^appmesh:\/\//, "");
    setText(said, `${kindOf(found.event)}, at offset ${count(found.offset)} of the journal`);
    setText(box, JSON.stringify(found.event, null, 2));
    box.hidden = false;
    if (found.event.subject) main.append(make("p", {}, make("a", { href: `#apps/${path(daemon, found.event.subject)}` }, `${daemon}/${found.event.subject}`)));
  } catch (error) {
    setText(said, error.message);
  }
}

const kindOf = (event) => event.type.split(".").at(-1);

/** Unix seconds as a field for a time wants them, and back. */
function local(seconds) {
  if (!seconds) return "";
  const at = new Date(Number(seconds) * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

const unix = (text) => (text ? new Date(text).getTime() / 1000 : undefined);

function row({ id, kind, data }) {
  const event = typeof data === "string" ? JSON.parse(data) : data;
  const daemon = event.source.replace(/^appmesh:\/\//, "");
  const at = Date.parse(event.time) / 1000;
  const from = event.subject ? make("a", { href: `#apps/${path(daemon, event.subject)}` }, `${daemon}/${event.subject}`) : make("span", {}, daemon);
  return make(
    "li",
    { "data-kind": kind, "data-offset": id },
    make("a", { href: `#events?${new URLSearchParams({ id: event.id, offset: id })}`, title: `Event ${event.id}` }, make("time", { datetime: event.time }, clock(at))),
    from,
    make("span", { class: "kind" }, kind),
    make("span", { class: "said" }, summaryOf(kind, event.data ?? {}) + (event.reconciled ? " (reconciled)" : "")),
  );
}

function summaryOf(kind, data) {
  switch (kind) {
    case "stdout":
      return String(data.output).slice(0, TEXT).trimEnd().replaceAll("\n", " ⏎ ");
    case "start":
      return `pid ${data.pid}`;
    case "exit":
      return `exit code ${data.exit_code}${data.last_error ? `: ${data.last_error}` : ""}`;
    case "health":
      return data.health === 0 ? "healthy" : "unhealthy";
    case "status":
      return typeof data.enabled === "boolean" ? (data.enabled ? "enabled" : "disabled") : String(data.status);
    case "gap":
      return data.missed === null ? "events were missed; how many is unknown" : `${counted(data.missed, "event")} missed, ${count(data.reconciled)} repaired`;
    default:
      return "";
  }
}
