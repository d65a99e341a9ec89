// Delivery: of each sink its lag, its last errors, and replays of kept events.

import { get, path, post, remove } from "./api.js";
import { pointer, sinkCard } from "./cards.js";
import { action, allow, confirmed, Keyed, make, onceAFrame, setAttribute, setText } from "./dom.js";
import { figuresSection, PLOTS } from "./figures.js";
import { ago, clock, count, counted } from "./format.js";
import { pause, state } from "./state.js";

const KINDS = ["start", "exit", "stdout", "health", "status", "removed", "gap"];
const LOOK_MS = 5000;
const WATCH_MS = 1000; // while a replay is under way
const ENDED = ["done", "cancelled"];

export function showDelivery(main, signal, options) {
  const sinks = make("ul", { class: "cards" });
  const replays = { all: [], wake: new AbortController() };
  main.append(
    make("h1", {}, "Delivery"),
    make("section", { "aria-labelledby": "sinks" }, make("h2", { id: "sinks" }, "Sinks"), sinks),
    figuresSection([PLOTS.lag, PLOTS.delivered, PLOTS.letters], signal),
  );
  const cards = new Keyed(
    sinks,
    (sink) => deliveryCard(sink, () => replays.wake.abort()),
    (card, sink) => card.showAll(sink, replays.all),
  );
  const pointOut = pointer(main, options.get("sink"));
  const render = onceAFrame(() => {
    if (signal.aborted || !state.bridge) return;
    cards.show(state.bridge.sinks.map((sink) => [sink.sink, sink]));
    pointOut();
  });
  state.addEventListener("change", render, { signal });
  if (state.bridge) render();
  watchReplays(replays, render, signal);
}

async function watchReplays(replays, render, signal) {
  while (!signal.aborted) {
    try {
      replays.all = await get("bridge/replays");
      render();
    } catch {
      // That the bridge is away, the head of the page says.
    }
    const busy = replays.all.some((replay) => !ENDED.includes(replay.state));
    await pause(busy ? WATCH_MS : LOOK_MS, AbortSignal.any([signal, replays.wake.signal]));
    replays.wake = new AbortController();
  }
}

function deliveryCard(sink, began) {
  const errors = errorTable(sink.sink);
  const form = replayForm(sink.sink, began);
  const list = make("ul", { class: "replays" });
  const rows = new Keyed(list, newReplay, updateReplay);
  const element = sinkCard(sink, errors.element, form.element, list);
  element.showAll = (now, replays) => {
    element.show(now);
    errors.show(now.errors);
    form.show();
    rows.show(replays.filter((replay) => replay.sink === now.sink).toReversed().map((replay) => [replay.id, replay]));
  };
  return element;
}

function errorTable(name) {
  const body = make("tbody");
  const rows = new Keyed(body, () => make("tr", {}, make("td"), make("td"), make("td", { class: "number" })), updateError);
  const headings = ["Last", "Error", "Times"].map((title) => make("th", { scope: "col" }, title));
  const table = make("table", {}, make("caption", {}, "Last errors", make("span", { class: "unseen" }, ` of ${name}`)), make("thead", {}, make("tr", {}, ...headings)), body);
  const show = (errors) => {
    table.hidden = !errors.length;
    rows.show(errors.toReversed().map((error) => [`${error.first_at} ${error.error}`, error]));
  };
  return { element: table, show };
}

function updateError(row, error) {
  setText(row.cells[0], clock(error.last_at));
  setText(row.cells[1], error.count > 1 ? `${error.error} (first ${ago(error.first_at)})` : error.error);
  setText(row.cells[2], count(error.count));
}

// --- replays -------------------------------------------------------------------------------------------------------

function replayForm(sink, began) {
  const id = (what) => `replay-${what}-${sink}`;
  const since = make("input", { id: id("since"), type: "datetime-local", step: "1", value: local(Date.now() - 3_600_000) });
  const until = make("input", { id: id("until"), type: "datetime-local", step: "1" });
  const apps = make("input", { id: id("apps"), placeholder: "web-*", spellcheck: "false" });
  const event = make("select", { id: id("event") }, make("option", { value: "" }, "all"), ...KINDS.map((kind) => make("option", { value: kind }, kind)));
  const said = make("span", { role: "status" });
  const start = make("button", { type: "submit", class: "secondary" }, "Replay");
  const labelled = (text, field) => make("div", {}, make("label", { for: field.id }, text), field);
  const form = make(
    "form",
    { class: "filters", onsubmit: (submitted) => (submitted.preventDefault(), replay()) },
    labelled("From", since),
    labelled("To", until),
    labelled("App", apps),
    labelled("Event", event),
    make("p", { class: "actions" }, start, said),
  );
  const element = make("details", {}, make("summary", {}, "Replay kept events", make("span", { class: "unseen" }, ` to ${sink}`)), form);

  async function replay() {
    if (start.getAttribute("aria-disabled") === "true") return;
    const text = `Events that the journal keeps go to ${sink} again, beside new ones and marked as replayed.`;
    if (!(await confirmed(`Replay to ${sink}?`, text, "Replay"))) return;
    const when = { apps: apps.value.trim() ? [apps.value.trim()] : [], events: event.value ? [event.value] : [] };
    try {
      const { total } = await post(`bridge/sinks/${path(sink)}/replays`, { since: unix(since), until: unix(until), when });
      setText(said, `Started: ${counted(total, "event")} to look at.`);
      began();
    } catch (error) {
      setText(said, error.message);
    }
  }

  const show = () => {
    element.hidden = !state.scopes.has("operate");
    allow(start, state.may("operate"));
  };
  return { element, show };
}

const unix = (field) => (field.value ? new Date(field.value).getTime() / 1000 : null);

/** As a field of date and time has it, in the time zone of the browser. */
function local(milliseconds) {
  const at = new Date(milliseconds);
  return new Date(milliseconds - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function newReplay(replay) {
  const said = make("span");
  const bar = make("progress", { "aria-label": `Replay ${replay.id}` });
  const cancel = action("Cancel", async () => {
    try {
      await remove(`bridge/replays/${path(replay.id)}`);
    } catch (error) {
      setText(said, error.message);
    }
  }, { "aria-label": `Cancel replay ${replay.id}` });
  return Object.assign(make("li", {}, said, bar, cancel), { said, bar, cancel });
}

function updateReplay(row, replay) {
  const refused = replay.refused ? `, ${count(replay.refused)} refused` : "";
  setText(row.said, `Replay ${replay.id} ${replay.state}: ${count(replay.looked_at)} of ${counted(replay.total, "event")} looked at, ${count(replay.sent)} sent${refused}.`);
  setAttribute(row.bar, "max", Math.max(1, replay.total));
  row.bar.value = replay.looked_at;
  row.bar.hidden = row.cancel.hidden = ENDED.includes(replay.state);
  row.cancel.hidden ||= !state.scopes.has("operate");
  allow(row.cancel, state.may("operate"));
}
