// What happened: a lane for each app over the last hour, day or week.

import { get, path } from "./api.js";
import { action, allow, badge, Keyed, make, setAttribute, setBadge, setChoices, setText } from "./dom.js";
import { clock, count, counted } from "./format.js";
import { codeOf, details, Lane, LANE_STATES, restartsOf } from "./lane.js";
import { pause, state } from "./state.js";

const PAGE = 50;
const PARTS = 200; // of a lane
const LOOK_MS = 10_000;
const RANGES = { "1h": "Last hour", "24h": "Last day", "7d": "Last week" };
const TICKS = 5;
const WIDE = new Set(["To", "Runs", "Restarts"]); // columns of the table that a phone has no room for

export function showHistory(main, signal, options) {
  let range = options.get("range") in RANGES ? options.get("range") : "24h";
  let pages = [""]; // where each page up to this one begins
  let shown = null;
  let look = new AbortController();

  const app = make("input", { id: "app", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "web-*", value: options.get("app") ?? "", onchange: () => begin() });
  const daemon = make("select", { id: "daemon", onchange: () => begin() });
  const ranges = Object.entries(RANGES).map(([value, title]) => action(title, () => choose(value), { value }));
  const summary = make("p", { role: "status", class: "summary" });
  const loops = make("ul", { class: "problems" });
  const ticks = make("p", { class: "ticks", "aria-hidden": "true" });
  const lanes = make("ul", { class: "lanes" });
  const before = action("Previous", () => turn(-1));
  const after = action("Next", () => turn(1));
  const where = make("span", { role: "status" });
  const table = make("details", { ontoggle: () => fill() }, make("summary", {}, "As a table"));

  main.append(
    make("h1", {}, "History"),
    make(
      "form",
      { class: "filters", role: "search", onsubmit: (event) => (event.preventDefault(), begin()) },
      make("div", { class: "actions", role: "group", "aria-label": "Time" }, ...ranges),
      make("div", {}, make("label", { for: "app" }, "App (* for any)"), app),
      make("div", {}, make("label", { for: "daemon" }, "Daemon"), daemon),
    ),
    loops,
    summary,
    legend(),
    ticks,
    lanes,
    make("nav", { class: "pages", "aria-label": "Pages of apps" }, before, where, after),
    table,
  );

  const loopItems = new Keyed(loops, loopItem, (item, one) => setText(item.lastChild, ` ${restartsOf(one.restarts_last_hour)}`));
  const rows = new Keyed(lanes, newRow, (row, lane) => row.show(lane, shown));
  const offerDaemons = () => setChoices(daemon, [["", "all"], ...(state.bridge?.daemons ?? []).map((link) => [link.daemon, link.daemon])]);
  offerDaemons();
  state.addEventListener("change", offerDaemons, { signal });

  function choose(value) {
    range = value;
    begin();
  }

  function begin() {
    pages = [""];
    history.replaceState(null, "", `#history?${new URLSearchParams({ range, app: app.value })}`);
    again();
  }

  function turn(by) {
    if (by > 0) pages.push(shown.next);
    else pages.pop();
    again();
  }

  function again() {
    for (const button of ranges) setAttribute(button, "aria-pressed", button.value === range);
    look.abort();
    look = new AbortController();
    watch(AbortSignal.any([signal, look.signal]));
  }

  async function watch(until) {
    while (!until.aborted) {
      try {
        const query = { since: range, app: app.value.split(/[\s,]+/).filter(Boolean), daemon: daemon.value, after: pages.at(-1), limit: PAGE, segments: PARTS };
        const [timeline, restarts] = await Promise.all([get("bridge/timeline", query), get("bridge/restarts")]);
        if (until.aborted) return;
        learn(timeline, restarts);
      } catch (error) {
        if (!until.aborted) setText(summary, error.message);
      }
      await pause(LOOK_MS, until);
    }
  }

  function learn(timeline, restarts) {
    shown = timeline;
    loopItems.show(restarts.filter((one) => one.crash_loop).map((one) => [`${one.daemon}/${one.app}`, one]));
    rows.show(timeline.lanes.map((lane) => [`${lane.daemon}/${lane.app}`, lane]));
    const gaps = timeline.gaps.length ? ` ${counted(timeline.gaps.length, "gap")} in the events.` : "";
    const cut = timeline.cut ? " More happened than is looked at here: only the end is shown." : "";
    const partly = timeline.complete ? "" : " Events of an older version are still being read.";
    setText(summary, `${counted(timeline.total, "app")}, ${clock(timeline.since)} to ${clock(timeline.until)}.${gaps}${cut}${partly}`);
    const step = (timeline.until - timeline.since) / (TICKS - 1);
    ticks.replaceChildren(...Array.from({ length: TICKS }, (_, at) => make("span", {}, tick(timeline.since + at * step, range))));
    const of = Math.max(1, Math.ceil(timeline.total / PAGE));
    setText(where, of > 1 ? `Page ${count(pages.length)} of ${count(of)}` : "");
    before.hidden = after.hidden = of === 1;
    allow(before, pages.length > 1);
    allow(after, timeline.next !== null);
    fill();
  }

  function newRow(lane) {
    const box = make("div", { class: "opened" });
    let opened = null;
    const picture = new Lane((its, bar) => {
      opened?.abort();
      opened = new AbortController();
      const close = action("Close", () => (box.replaceChildren(), picture.element.focus()), { "aria-label": `Close: ${its.app}` });
      const times = new URLSearchParams({ app: its.app, since: Math.floor(bar.start), until: Math.ceil(bar.end) + 1 });
      const events = make("a", { href: `#events?${times}` }, "Events of that time");
      const gaps = shown.gaps.filter((gap) => gap.daemon === its.daemon);
      box.replaceChildren(details(its, bar, gaps, AbortSignal.any([signal, opened.signal])), make("p", { class: "actions" }, events, close));
      state.say(`${its.app}: ${bar.state}${bar.run ? `, ${codeOf(bar.run)}` : ""}.`);
    });
    const loop = badge();
    const name = make("p", { class: "name" }, make("a", { href: `#apps/${path(lane.daemon, lane.app)}` }, lane.app), ` ${lane.daemon} `, loop);
    const row = make("li", {}, name, picture.element, box);
    row.show = (its, timeline) => {
      loop.hidden = !its.crash_loop && !its.removed;
      if (!loop.hidden) setBadge(loop, its.crash_loop ? restartsOf(its.restarts_last_hour) : "removed", its.crash_loop ? "bad" : "idle");
      picture.show(its, timeline.gaps.filter((gap) => gap.daemon === its.daemon), timeline);
    };
    return row;
  }

  /** Only while it is open: it has as many rows as the picture has bars. */
  function fill() {
    table.querySelector("table")?.remove();
    if (table.open && shown) table.append(asTable(shown));
  }

  begin();
}

function tick(moment, range) {
  const at = new Date(moment * 1000);
  const hours = { hour: "2-digit", minute: "2-digit", hour12: false };
  return at.toLocaleString("en-GB", range === "7d" ? { month: "short", day: "numeric", ...hours } : hours);
}

function loopItem(one) {
  return make("li", {}, make("a", { href: `#apps/${path(one.daemon, one.app)}` }, `${one.daemon}/${one.app}`), ":", make("span", {}));
}

function legend() {
  const item = (kind, text) => make("li", {}, make("span", { class: `sample ${kind}`, "aria-hidden": "true" }), text);
  return make(
    "ul",
    { class: "legend", "aria-label": "Legend" },
    ...LANE_STATES.map((name) => item(name, name)),
    item("reconciled", "from a comparison"),
    item("gap", "events missing"),
  );
}

function asTable(timeline) {
  const cell = (text, kind) => make("td", { class: kind }, String(text ?? ""));
  const rows = timeline.lanes.flatMap((lane) =>
    lane.segments.map((bar) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, `${lane.daemon}/${lane.app}`),
        cell(bar.state + (bar.run?.reconciled ? " (from a comparison)" : "")),
        cell(clock(bar.start)),
        cell(clock(bar.end), "wide"),
        cell(bar.runs, "number wide"),
        cell(bar.run && bar.run.end !== null ? (bar.run.exit_code ?? "?") : "", "number"),
        cell(bar.run?.restarts, "number wide"),
      ),
    ),
  );
  const headings = ["App", "State", "From", "To", "Runs", "Exit code", "Restarts"].map((title) => make("th", { scope: "col", class: WIDE.has(title) ? "wide" : undefined }, title));
  return make("table", {}, make("caption", { class: "unseen" }, "History"), make("thead", {}, make("tr", {}, ...headings)), make("tbody", {}, ...rows));
}
