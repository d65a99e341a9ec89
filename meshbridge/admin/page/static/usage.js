// What an app uses, as plots, for as long as its page is open.

import { bytes } from "./format.js";
import { make } from "./dom.js";
import { newPlot } from "./plot.js";

const MOST = 900; // a quarter of an hour, at one a second

/** `add` takes each answer about the app; an app without a process uses nothing that could be drawn. */
export function usagePlots(signal) {
  const cpu = newPlot({ title: "CPU", format: (value) => `${value.toFixed(1)} %`, signal });
  const memory = newPlot({ title: "Memory", format: bytes, base: 1024, signal });
  const element = make("section", { "aria-labelledby": "usage" }, make("h2", { id: "usage" }, "Usage since this page was opened"), make("div", { class: "plots" }, cpu.element, memory.element));
  let seen = [];
  const add = (app) => {
    seen = [...seen.slice(1 - MOST), { at: Date.now() / 1000, cpu: app.pid ? (app.cpu ?? 0) : null, memory: app.pid ? (app.memory ?? 0) : null }];
    const times = seen.map((one) => one.at);
    cpu.show(times, [{ name: "CPU", values: seen.map((one) => one.cpu) }]);
    memory.show(times, [{ name: "Memory", values: seen.map((one) => one.memory) }]);
  };
  return { element, add };
}
