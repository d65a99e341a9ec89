// Plots over time by uPlot, which is loaded with the first of them: axes, a legend with the values, and a table behind each.

import { make, onceAFrame, setAttribute, setText } from "./dom.js";
import { clock, timeOfDay } from "./format.js";

const HEIGHT = 190;
const MOST_LINES = 8; // of which each has a colour and a dash of its own
const TABLE_ROWS = 60;
const COLOURS = 4; // in style.css; each again with the next dash
const DASHES = [[], [7, 4], [2, 3]];
const STEPS = { 1000: undefined, 1024: Array.from({ length: 50 }, (_, power) => 2 ** power) };

let loading = null;

/** The library and its style, once. */
function library() {
  if (!loading) {
    document.head.append(make("link", { rel: "stylesheet", href: "page/uPlot.min.css" }));
    loading = import("./uPlot.esm.js").then((loaded) => loaded.default);
  }
  return loading;
}

/**
 * A plot: `{element, show}`. `show(times, lines)` draws lines `{name, values}` over unix seconds; a value may be null.
 * `format` makes the text of a value, `base` is 1024 where its steps are powers of two. It ends with `signal`.
 */
export function newPlot({ title, format, base = 1000, signal }) {
  const frame = make("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `${title}: no figures yet` });
  const legend = make("ul", { class: "legend" });
  const moment = make("span", { class: "moment" });
  const note = make("p", { class: "summary" });
  const table = make("table", {});
  const details = make("details", {}, make("summary", {}, "Table", make("span", { class: "unseen" }, `: ${title}`)), table);
  const element = make("figure", {}, make("figcaption", {}, title, " ", moment), frame, legend, note, details);
  let chart = null;
  let data = { times: [], lines: [] };
  let drawn = ""; // the names of the lines in the chart

  const draw = onceAFrame(async () => {
    const { times, lines } = data;
    const names = JSON.stringify(lines.map((line) => line.name));
    const columns = [times, ...lines.map((line) => line.values)];
    if (chart && drawn === names) chart.setData(columns);
    else {
      const uPlot = await library();
      if (signal.aborted || data.times !== times || drawn === names) return;
      chart?.destroy();
      drawn = names;
      chart = new uPlot(optionsOf(lines, format, base, frame.clientWidth, showLegend), columns, frame);
      drawLegend(legend, lines);
    }
    showLegend();
    if (details.open) fillTable(table, title, times, lines, format);
  });

  /** The values at the cursor; without one, the last. */
  function showLegend() {
    const { times, lines } = data;
    const at = chart?.cursor.idx ?? times.length - 1;
    setText(moment, times.length ? clock(times[at]) : "");
    lines.forEach((line, place) => setText(legend.children[place].lastChild, said(line.values[at], format)));
    setAttribute(frame, "aria-label", describe(title, times, lines, format));
  }

  function move(event) {
    const last = data.times.length - 1;
    const at = chart?.cursor.idx ?? last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (!chart || to === undefined) return;
    event.preventDefault();
    const left = chart.valToPos(data.times[Math.max(0, Math.min(last, to))], "x");
    chart.setCursor({ left, top: chart.over.clientHeight / 2 });
  }

  frame.addEventListener("keydown", move);
  frame.addEventListener("blur", () => chart?.setCursor({ left: -10, top: -10 }));
  details.addEventListener("toggle", draw);
  const resized = new ResizeObserver(() => chart?.setSize({ width: frame.clientWidth, height: HEIGHT }));
  resized.observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => chart?.redraw(), { signal });
  signal.addEventListener("abort", () => (resized.disconnect(), chart?.destroy()));

  const show = (times, lines) => {
    const shown = largest(lines);
    data = { times, lines: shown };
    setText(note, shown.length < lines.length ? `The ${MOST_LINES} largest of ${lines.length}.` : "");
    draw();
  };
  return { element, show };
}

function optionsOf(lines, format, base, width, onCursor) {
  const axis = { stroke: () => styled("--dim"), grid: { stroke: () => styled("--line"), width: 1 }, ticks: { stroke: () => styled("--line") } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false }, // ours is text that stays
    cursor: { drag: { x: false, y: false }, y: false },
    scales: { y: { range: (_chart, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, space: 70, values: (_chart, moments) => moments.map(timeOfDay) },
      { ...axis, size: 76, incrs: STEPS[base], values: (_chart, values) => values.map(format) },
    ],
    series: [
      {},
      ...lines.map((_line, place) => ({ stroke: () => colourOf(place), width: 1.75, dash: dashOf(place), points: { show: false } })),
    ],
    hooks: { setCursor: [onCursor] },
  };
}

const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const colourOf = (place) => styled(`--plot-${place % COLOURS}`);
const dashOf = (place) => DASHES[Math.floor(place / COLOURS) % DASHES.length];
const peakOf = (line) => line.values.reduce((most, value) => Math.max(most, value ?? 0), 0);
const said = (value, format) => (value === null || value === undefined ? "–" : format(value));

/** The lines with the highest peaks, in the order in which they came. */
function largest(lines) {
  if (lines.length <= MOST_LINES) return lines;
  const chosen = new Set([...lines].sort((one, other) => peakOf(other) - peakOf(one)).slice(0, MOST_LINES));
  return lines.filter((line) => chosen.has(line));
}

function drawLegend(legend, lines) {
  legend.replaceChildren(
    ...lines.map((line, place) =>
      make("li", {}, make("span", { class: "swatch", "data-colour": place % COLOURS, "data-dash": Math.floor(place / COLOURS) % DASHES.length }), `${line.name} `, make("span", { class: "value" })),
    ),
  );
}

/** For those who hear it. */
function describe(title, times, lines, format) {
  if (!times.length) return `${title}: no figures yet`;
  const parts = lines.map((line) => `${line.name} now ${said(line.values.at(-1), format)}, at most ${format(peakOf(line))}`);
  return `${title}, ${clock(times[0])} to ${clock(times.at(-1))}. ${parts.join("; ")}. Arrow keys move the cursor; the table has all values.`;
}

/** The latest first, at most so many rows, evenly spaced. */
function fillTable(table, title, times, lines, format) {
  const step = Math.ceil(times.length / TABLE_ROWS);
  const rows = [];
  for (let at = times.length - 1; at >= 0; at -= step)
    rows.push(make("tr", {}, make("th", { scope: "row" }, clock(times[at])), ...lines.map((line) => make("td", {}, said(line.values[at], format)))));
  table.replaceChildren(
    make("caption", { class: "unseen" }, title),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Time"), ...lines.map((line) => make("th", { scope: "col" }, line.name)))),
    make("tbody", {}, ...rows),
  );
}
