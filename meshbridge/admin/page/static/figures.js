// The bridge's figures of the last hour or day as plots.

import { get } from "./api.js";
import { action, make, setAttribute, setText } from "./dom.js";
import { bytes, count, duration } from "./format.js";
import { newPlot } from "./plot.js";
import { pause } from "./state.js";

const LOOK_MS = { "1h": 10_000, "1d": 60_000 }; // as often as there is something new, or nearly
const RANGES = { "1h": "Last hour", "1d": "Last day" };

const rate = (value) => `${value < 10 ? Number(value.toFixed(1)) : count(Math.round(value))}/s`;
const whole = (value) => count(Math.round(value));

const of = (parts, figure) => Object.entries(parts).map(([name, figures]) => ({ name, values: figures[figure] }));

/** What can be drawn: the options of its plot, and its lines out of an answer. */
export const PLOTS = {
  received: { title: "Events received, by daemon", format: rate, lines: (answer) => of(answer.daemons, "events_per_second") },
  delivered: { title: "Events delivered, by sink", format: rate, lines: (answer) => of(answer.sinks, "events_per_second") },
  lag: { title: "Lag, by sink", format: duration, lines: (answer) => of(answer.sinks, "lag_seconds") },
  letters: { title: "Dead letters, by sink", format: whole, lines: (answer) => of(answer.sinks, "dead_letters") },
  journal: { title: "Size of the journal", format: bytes, base: 1024, lines: (answer) => [{ name: "journal", values: answer.journal.bytes }] },
};

/** A section with plots and the choice of their range. `plots` gives `{title, format, lines}`; asked for until `signal`. */
export function figuresSection(plots, signal) {
  let range = "1h";
  let wake = new AbortController();
  const said = make("p", { role: "status", class: "summary" });
  const buttons = Object.entries(RANGES).map(([value, text]) => action(text, () => choose(value), { "data-range": value }));
  const shown = plots.map((plot) => ({ ...plot, ...newPlot({ ...plot, signal }) }));
  const element = make(
    "section",
    { "aria-labelledby": "figures" },
    make("h2", { id: "figures" }, "Figures"),
    make("p", { class: "actions" }, ...buttons),
    said,
    make("div", { class: "plots" }, ...shown.map((plot) => plot.element)),
  );

  function choose(value) {
    range = value;
    mark();
    wake.abort();
  }

  function mark() {
    for (const button of buttons) setAttribute(button, "aria-pressed", button.dataset.range === range ? "true" : "false");
  }

  async function look() {
    const asked = range;
    try {
      const answer = await get("bridge/figures", { range: asked });
      if (signal.aborted || asked !== range) return;
      setText(said, answer.times.length > 1 ? "" : "The first figures come some seconds after the start of the bridge.");
      for (const plot of shown) plot.show(answer.times, plot.lines(answer));
    } catch (error) {
      if (!signal.aborted && error.status !== undefined) setText(said, error.message);
    }
  }

  mark();
  (async () => {
    while (!signal.aborted) {
      await look();
      await pause(LOOK_MS[range], AbortSignal.any([signal, wake.signal]));
      wake = new AbortController();
    }
  })();
  return element;
}
