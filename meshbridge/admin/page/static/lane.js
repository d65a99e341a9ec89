// A lane: what an app did over a time, as bars of one picture that the keyboard goes along like a slider.

import { get } from "./api.js";
import { Facts, make, setAttribute, setText } from "./dom.js";
import { clock, count, counted, duration } from "./format.js";
import { plain } from "./output.js";

const WIDTH = 1000; // of the picture, in its own units
const HEIGHT = 20;
const LEAST = 2; // of a bar, so that a short run is seen
const LINES = 20; // of output
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };

/** The states of a lane, in the order of the legend. */
export const LANE_STATES = ["running", "unhealthy", "stopped", "disabled", "unknown"];

/** Says a bar in words: for screen readers, titles and tables. */
export function saidOf(bar, now) {
  const times = `${clock(bar.start)} to ${bar.end >= now - 1 ? "now" : clock(bar.end)}`;
  const runs = bar.runs > 1 ? `, ${counted(bar.runs, "run")}` : "";
  const code = bar.run && bar.run.end !== null ? `, ${codeOf(bar.run)}` : "";
  return `${bar.state}, ${times}${runs}${code}${bar.run?.reconciled ? ", from a comparison" : ""}`;
}

export function codeOf(run) {
  if (run.end === null) return "still runs";
  return run.exit_code === null ? "exit code not known" : `exit code ${run.exit_code}`;
}

export const restartsOf = (number) => `${counted(number, "restart")} in the last hour`;

/** One lane; `chosen(lane, bar)` receives the bar that is opened. */
export class Lane {
  element;
  #picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #chosen;
  #shown = null;
  #at = 0;
  #drawn = "";

  constructor(chosen) {
    this.#chosen = chosen;
    this.element = make("div", {
      class: "lane",
      role: "slider",
      tabindex: "0",
      onclick: (event) => this.#click(event),
      onkeydown: (event) => this.#press(event),
    });
    this.element.append(this.#picture);
  }

  /** `lane` and `gaps` as the bridge answers, over the time of `range`. */
  show(lane, gaps, range) {
    const bars = lane.segments;
    const before = this.#shown;
    this.#shown = { lane, bars, range };
    if (!before) this.#at = bars.length - 1;
    this.#at = Math.max(0, Math.min(this.#at, bars.length - 1));
    const wanted = JSON.stringify([bars, gaps, range.since, range.until]);
    if (wanted !== this.#drawn) {
      this.#drawn = wanted;
      this.#picture.replaceChildren(...bars.map((bar) => this.#bar(bar)), ...gaps.map((gap) => this.#box("gap", gap.start, gap.end)));
    }
    this.#tell();
  }

  #bar(bar) {
    const kind = `${bar.state}${bar.run?.reconciled ? " reconciled" : ""}${bar.runs > 2 ? " looping" : ""}`;
    return this.#box(kind, bar.start, bar.end);
  }

  #box(kind, start, end) {
    const { since, until } = this.#shown.range;
    const scale = WIDTH / (until - since);
    const left = Math.max(0, Math.min(WIDTH - LEAST, (start - since) * scale));
    const width = Math.max(LEAST, Math.min(WIDTH, (end - since) * scale) - left);
    return draw("rect", { class: kind, x: left.toFixed(1), width: width.toFixed(1), y: 0, height: HEIGHT });
  }

  #tell() {
    const { lane, bars, range } = this.#shown;
    const bar = bars[this.#at];
    setAttribute(this.element, "aria-label", `${lane.app} at ${lane.daemon}`);
    setAttribute(this.element, "aria-valuemin", 1);
    setAttribute(this.element, "aria-valuemax", Math.max(1, bars.length));
    setAttribute(this.element, "aria-valuenow", this.#at + 1);
    setAttribute(this.element, "aria-valuetext", bar ? saidOf(bar, range.until) : "nothing is known");
    this.#picture.querySelector(".at")?.classList.remove("at");
    this.#picture.children[this.#at]?.classList.add("at");
  }

  #press(event) {
    const by = KEYS[event.key];
    if (by !== undefined) {
      this.#at = Math.max(0, Math.min(this.#shown.bars.length - 1, this.#at + by));
      this.#tell();
    } else if (event.key === "Enter" || event.key === " ") this.#open();
    else return;
    event.preventDefault();
  }

  #click(event) {
    const box = this.#picture.getBoundingClientRect();
    const { bars, range } = this.#shown;
    const moment = range.since + ((event.clientX - box.left) / box.width) * (range.until - range.since);
    const least = (LEAST / WIDTH) * (range.until - range.since);
    // A short run is drawn wider than it was, over what follows.
    const hit = (bar) => bar.start <= moment && moment <= Math.max(bar.end, bar.run ? bar.start + least : bar.end);
    const found = bars.findLastIndex(hit);
    this.#at = found < 0 ? bars.length - 1 : found;
    this.#tell();
    this.#open();
  }

  #open() {
    const bar = this.#shown.bars[this.#at];
    if (bar) this.#chosen(this.#shown.lane, bar);
  }
}

/** What is known of a bar, with the end of what its process wrote. */
export function details(lane, bar, gaps, signal) {
  const facts = new Facts();
  const { run } = bar;
  const missing = gaps.filter((gap) => gap.start <= bar.end && gap.end >= bar.start);
  facts.show([
    ["State", bar.state, run?.end !== null && run?.exit_code ? "warn" : undefined],
    ["Runs", bar.runs > 1 ? `${count(bar.runs)}; below is the last of them` : undefined],
    ["Start", run ? (run.start === null ? "before what is kept" : clock(run.start)) : clock(bar.start)],
    ["End", run ? (run.end === null ? "still runs" : clock(run.end)) : clock(bar.end)],
    ["Duration", run ? run.start !== null && duration((run.end ?? bar.end) - run.start) : duration(bar.end - bar.start)],
    ["Exit code", run && run.end !== null ? (run.exit_code ?? "not known") : undefined, run?.exit_code ? "bad" : undefined],
    ["Restarts", run ? `${count(run.restarts)} in the hour up to its start` : undefined, run?.restarts > 2 ? "bad" : undefined],
    ["Known", run?.reconciled ? "from a comparison with the daemon, not from an event" : undefined, "warn"],
    ["Missing", missing.map(gapText).join("; "), "warn"],
  ].filter(([, said]) => said !== false));
  const output = make("pre", { class: "tail", tabindex: "0", "aria-label": "Last lines of output" });
  if (run?.offset) showOutput(output, lane, run, signal);
  else output.hidden = true;
  return make("div", { class: "bar" }, facts.element, output);
}

export const gapText = (gap) => `${gap.missed === null ? "an unknown number of events" : counted(gap.missed, "event")}, ${clock(gap.start)} to ${clock(gap.end)}`;

async function showOutput(box, lane, run, signal) {
  setText(box, "…");
  try {
    const found = await get("bridge/history/output", { daemon: lane.daemon, app: lane.app, offset: run.offset, lines: LINES });
    if (signal.aborted) return;
    const none = found.kept ? "It wrote nothing." : "The journal no longer keeps what it wrote.";
    setText(box, found.output ? `${found.whole ? "" : "…\n"}${plain(found.output)}` : none);
  } catch (error) {
    setText(box, error.message);
  }
}

function draw(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
