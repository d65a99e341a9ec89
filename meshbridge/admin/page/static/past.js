// The past of one app: its lane over the last day, its last runs with what they wrote, and where its events go.

import { get, post } from "./api.js";
import { action, Keyed, make, setText } from "./dom.js";
import { clock, count, duration } from "./format.js";
import { codeOf, details, Lane, restartsOf } from "./lane.js";
import { pause, state } from "./state.js";

const RUNS = 10;
const LOOK_MS = 10_000;
const PARTS = 200;
// One of each kind, of which the bridge says where it would go. Nothing is sent.
const SAMPLES = {
  start: { pid: 1, process_uuid: "sample" },
  exit: { exit_code: 0, last_error: "", pid: 1 },
  stdout: { finished: false, output: "", position: 0 },
};

export class AppPast {
  element = make("div", { class: "past" });
  #daemon;
  #name;
  #signal;
  #timeline = null;
  #opened = make("div", { class: "opened" });
  #lane = new Lane((lane, bar) => this.#open(lane, bar));
  #said = make("p", { class: "summary" });
  #body = make("tbody");
  #rows = new Keyed(this.#body, (run) => this.#newRow(run), showRun);
  #sinks = make("ul", { class: "sinks" });

  constructor(daemon, name, signal) {
    this.#daemon = daemon;
    this.#name = name;
    this.#signal = signal;
    const headings = ["Start", "End", "Ran", "Exit code", "Restarts", "Output"].map((title) => make("th", { scope: "col" }, title));
    const section = (title, id, ...content) => make("section", { "aria-labelledby": id }, make("h2", { id }, title), ...content);
    this.element.append(
      section("Last day", "last-day", this.#said, this.#lane.element, this.#opened),
      section("Last runs", "last-runs", make("table", { class: "runs" }, make("caption", { class: "unseen" }, "Last runs"), make("thead", {}, make("tr", {}, ...headings)), this.#body)),
      section("Its events go to", "goes-to", this.#sinks),
    );
    this.#watch();
    this.#showSinks();
  }

  async #watch() {
    const query = { daemon: this.#daemon, app: literal(this.#name) };
    while (!this.#signal.aborted) {
      try {
        const [timeline, history] = await Promise.all([
          get("bridge/timeline", { ...query, since: "24h", segments: PARTS }),
          get("bridge/history", { ...query, since: "7d", limit: RUNS }),
        ]);
        if (this.#signal.aborted) return;
        this.#learn(timeline, history.runs);
      } catch (error) {
        if (error.status !== undefined) setText(this.#said, error.message);
      }
      await pause(LOOK_MS, this.#signal);
    }
  }

  #learn(timeline, runs) {
    this.#timeline = timeline;
    const [lane] = timeline.lanes;
    this.#lane.element.hidden = !lane;
    if (lane) this.#lane.show(lane, timeline.gaps, timeline);
    setText(this.#said, !lane ? "Nothing is known of it yet." : lane.restarts_last_hour ? `${restartsOf(lane.restarts_last_hour)}.` : "");
    this.#rows.show(runs.map((run) => [`${run.offset} ${run.start}`, run]));
  }

  #open(lane, bar) {
    this.#opened.replaceChildren(details(lane, bar, this.#timeline.gaps, this.#signal));
    state.say(`${bar.state}${bar.run ? `, ${codeOf(bar.run)}` : ""}.`);
  }

  #newRow(run) {
    const cells = ["", "", "number", "number", "number"].map((kind) => make("td", { class: kind || undefined }));
    const cell = make("td");
    const show = action("Show", () => {
      const place = { daemon: this.#daemon, app: this.#name };
      const bar = { state: run.end === null ? "running" : "ended", start: run.start, end: run.end, runs: 1, run: row.run };
      const open = row.nextSibling?.classList.contains("output-row");
      if (open) row.nextSibling.remove();
      else row.after(make("tr", { class: "output-row" }, make("td", { colspan: "6" }, details(place, bar, [], this.#signal))));
      setText(show, open ? "Show" : "Hide");
      name();
    });
    const name = () => show.setAttribute("aria-label", `${show.textContent} output of the run that started ${run.start === null ? "earlier" : clock(run.start)}`);
    name();
    cell.append(show);
    const row = make("tr", {}, ...cells, cell);
    return row;
  }

  async #showSinks() {
    try {
      const found = new Map();
      for (const [kind, data] of Object.entries(SAMPLES)) {
        const event = { app_name: this.#name, data, event_type: kind.toUpperCase(), sequence: 0, timestamp: Math.floor(Date.now() / 1000) };
        for (const one of await post("bridge/explain", { event, daemon: this.#daemon })) {
          const kinds = found.get(one.sink) ?? { taken: [], rules: new Set() };
          if (one.wanted) kinds.taken.push(kind);
          else kinds.rules.add(one.rule);
          found.set(one.sink, kinds);
        }
      }
      if (this.#signal.aborted) return;
      const items = [...found].map(([sink, { taken, rules }]) => make("li", {}, make("strong", {}, sink), `: ${taken.join(", ") || "nothing"}${rules.size ? ` (${[...rules].join("; ")})` : ""}`));
      this.#sinks.replaceChildren(...(items.length ? items : [make("li", {}, "There are no sinks.")]));
    } catch (error) {
      if (!this.#signal.aborted) this.#sinks.replaceChildren(make("li", {}, error.message));
    }
  }
}

/** A name as a shell pattern for itself alone. */
const literal = (name) => name.replace(/[*?[]/g, "[$&]");

function showRun(row, run) {
  row.run = run;
  const texts = [
    run.start === null ? "before what is kept" : clock(run.start),
    run.end === null ? "still runs" : clock(run.end),
    run.duration === null ? "" : duration(run.duration),
    run.end === null ? "" : (run.exit_code ?? "?"),
    count(run.restarts),
  ];
  for (const [at, text] of texts.entries()) setText(row.cells[at], text);
}
