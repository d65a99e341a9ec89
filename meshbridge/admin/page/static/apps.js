// The apps of every daemon, a page of them at a time.

import { path } from "./api.js";
import { action, allow, badge, Keyed, make, onceAFrame, setBadge, setChoices, setText } from "./dom.js";
import { ago, bytes, clock, count, counted } from "./format.js";
import { APP_STATES, state, stateOf, watchApps } from "./state.js";

const PAGE = 50;
const TEXT = new Intl.Collator("en", { numeric: true });

const COLUMNS = [
  { title: "App", text: (app) => app.name, of: (app) => app.name },
  { title: "Daemon", text: (app) => app.daemon, of: (app) => app.daemon, wide: true },
  { title: "State", of: (app) => Object.keys(APP_STATES).indexOf(app.state) },
  { title: "PID", text: (app) => app.pid ?? "", of: (app) => app.pid ?? 0, wide: true, number: true },
  { title: "Starts", text: (app) => count(app.starts ?? 0), of: (app) => app.starts ?? 0, wide: true, number: true },
  { title: "CPU", text: (app) => (app.pid ? `${(app.cpu ?? 0).toFixed(1)} %` : ""), of: (app) => (app.pid ? (app.cpu ?? 0) : -1), wide: true, number: true },
  { title: "Memory", text: (app) => (app.pid ? bytes(app.memory ?? 0) : ""), of: (app) => (app.pid ? (app.memory ?? 0) : -1), number: true },
  { title: "Exit code", text: (app) => app.return_code ?? "", of: (app) => app.return_code ?? -1e9, wide: true, number: true },
  { title: "Started", text: (app) => (app.last_start_time ? clock(app.last_start_time) : ""), of: (app) => app.last_start_time ?? 0, wide: true },
];

export function showApps(main, signal, options) {
  let page = 0;
  let sorted = { column: COLUMNS[0], down: false };
  let drawn = null; // of what list the rows are

  const search = make("input", { id: "search", type: "search", autocomplete: "off", spellcheck: "false", oninput: () => again() });
  const daemon = make("select", { id: "daemon", onchange: () => again() });
  const kind = make("select", { id: "state", onchange: () => again() });
  const found = make("p", { role: "status", class: "summary" });
  const problems = make("ul", { class: "problems" });
  const body = make("tbody");
  const headings = COLUMNS.map((column) =>
    make(
      "th",
      { scope: "col", class: classOf(column) },
      make("button", { type: "button", onclick: () => sortBy(column) }, column.title, make("span", { "aria-hidden": "true" })),
    ),
  );
  const before = action("Previous", () => turn(-1));
  const after = action("Next", () => turn(1));
  const where = make("span", { role: "status" });

  main.append(
    make("h1", {}, "Apps"),
    make(
      "form",
      { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      make("div", {}, make("label", { for: "search" }, "Name has"), search),
      make("div", {}, make("label", { for: "daemon" }, "Daemon"), daemon),
      make("div", {}, make("label", { for: "state" }, "State"), kind),
    ),
    problems,
    found,
    make("table", { class: "apps" }, make("caption", { class: "unseen" }, "Apps"), make("thead", {}, make("tr", {}, ...headings)), body),
    make("nav", { class: "pages", "aria-label": "Pages of apps" }, before, where, after),
  );

  const rows = new Keyed(body, newRow, updateRow);
  const daemonProblems = new Keyed(problems, () => make("li"), (item, text) => setText(item, text));

  setChoices(kind, [["", "any"], ...Object.keys(APP_STATES).map((name) => [name, name])]);
  kind.value = options.get("state") ?? "";
  const names = () => (state.bridge?.daemons ?? []).map((link) => link.daemon);
  const offerDaemons = () => setChoices(daemon, [["", "all"], ...names().map((name) => [name, name])]);
  offerDaemons();
  daemon.value = options.get("daemon") ?? "";
  let asked = names().length ? "" : (options.get("daemon") ?? ""); // not offered yet: the bridge has not answered

  const render = onceAFrame(() => {
    if (signal.aborted) return;
    offerDaemons();
    if (asked && names().includes(asked)) {
      daemon.value = asked;
      asked = "";
    }
    daemonProblems.show(
      names()
        .filter((name) => state.apps.get(name)?.error)
        .map((name) => [name, problemOf(name)]),
    );
    const fresh = names().map((name) => state.apps.get(name)?.apps);
    const wanted = JSON.stringify([search.value, daemon.value, kind.value, page, COLUMNS.indexOf(sorted.column), sorted.down]);
    if (drawn && drawn.wanted === wanted && drawn.lists.length === fresh.length && drawn.lists.every((list, at) => list === fresh[at])) return;
    drawn = { lists: fresh, wanted };
    const all = chosen();
    const pages = Math.max(1, Math.ceil(all.length / PAGE));
    page = Math.min(page, pages - 1);
    rows.show(all.slice(page * PAGE, (page + 1) * PAGE).map((app) => [`${app.daemon}/${app.name}`, app]));
    setText(found, fresh.some(Boolean) ? `${counted(all.length, "app")}.` : "DaemonCall for the apps …");
    setText(where, pages > 1 ? `Page ${page + 1} of ${pages}` : "");
    before.hidden = after.hidden = pages === 1;
    allow(before, page > 0);
    allow(after, page < pages - 1);
    for (const [at, column] of COLUMNS.entries()) {
      const here = column === sorted.column;
      headings[at].setAttribute("aria-sort", here ? (sorted.down ? "descending" : "ascending") : "none");
      setText(headings[at].firstChild.lastChild, here ? (sorted.down ? " ▾" : " ▴") : "");
    }
  });

  function problemOf(name) {
    const known = state.apps.get(name);
    return `The apps of ${name} ${known.at ? `are of ${ago(known.at)}` : "are not known"}: ${known.error}`;
  }

  function chosen() {
    const text = search.value.trim().toLowerCase();
    const all = [];
    for (const name of names()) {
      if (daemon.value && daemon.value !== name) continue;
      for (const app of state.apps.get(name)?.apps ?? []) {
        if (text && !app.name.toLowerCase().includes(text)) continue;
        const its = stateOf(app);
        if (!kind.value || kind.value === its) all.push({ ...app, daemon: name, state: its });
      }
    }
    const { of } = sorted.column;
    const order = (one, other) => (typeof of(one) === "string" ? TEXT.compare(of(one), of(other)) : of(one) - of(other));
    all.sort((one, other) => (sorted.down ? order(other, one) : order(one, other)) || TEXT.compare(one.name, other.name));
    return all;
  }

  function again() {
    page = 0;
    render();
  }

  function turn(by) {
    page += by;
    render();
  }

  function sortBy(column) {
    sorted = { column, down: sorted.column === column ? !sorted.down : Boolean(column.number) };
    again();
  }

  state.addEventListener("change", render, { signal });
  watchApps(() => names().filter((name) => !daemon.value || daemon.value === name), signal);
  render();
}

function classOf(column) {
  return [column.wide && "wide", column.number && "number"].filter(Boolean).join(" ") || undefined;
}

function newRow(app) {
  const link = make("a", { href: `#apps/${path(app.daemon, app.name)}` }, app.name);
  return make(
    "tr",
    {},
    ...COLUMNS.map((column, at) => {
      if (at === 0) return make("th", { scope: "row" }, link);
      return make("td", { class: classOf(column) }, ...(column.title === "State" ? [badge()] : []));
    }),
  );
}

function updateRow(row, app) {
  for (const [at, column] of COLUMNS.entries()) {
    if (at === 0) continue;
    if (column.title === "State") setBadge(row.cells[at].firstChild, app.state, APP_STATES[app.state]);
    else setText(row.cells[at], column.text(app));
  }
}
