// Cards: a part of the bridge with a badge, facts, and what may be done to it.

import { path, post } from "./api.js";
import { action, allow, badge, Facts, make, setAttribute, setBadge, setText } from "./dom.js";
import { ago, count, counted, duration } from "./format.js";
import { state } from "./state.js";

export const GRADES = { up: "good", stopped: "idle", paused: "warn", gone: "bad", waiting: "bad" };

/** A card with a heading, a badge, facts, and what else is appended. */
export function card(name, ...more) {
  const state_ = badge();
  const facts = new Facts();
  const element = make("li", { class: "card", "data-name": name }, make("h3", {}, name, " ", state_), facts.element, ...more);
  return Object.assign(element, { badge: state_, facts });
}

/** A sink, with what may be done to it; `more` follows its facts. */
export function sinkCard(sink, ...more) {
  const said = make("span", { role: "status" });
  const button = action("", () => change());
  const letters = make("a", { href: `#dead-letters?${new URLSearchParams({ sink: sink.sink })}` });
  const element = card(sink.sink, make("p", { class: "actions" }, button, said), ...more);
  let shown = sink;
  let busy = false;
  const change = async () => {
    if (busy) return;
    // Of what is not up: a sink that waits, or is gone, is taken up again.
    const verb = shown.state === "up" || shown.state === "connecting" ? "pause" : "resume";
    busy = true;
    try {
      const now = await post(`bridge/sinks/${path(sink.sink)}/${verb}`);
      setText(said, verb === "pause" ? "Paused." : "Resumed.");
      element.show(now);
    } catch (error) {
      setText(said, error.message);
    }
    busy = false;
  };
  element.show = (now) => {
    shown = now;
    const failing = now.state === "gone" || now.state === "waiting" || now.breaker !== "closed";
    const rate = state.rates.get(now.sink);
    setBadge(element.badge, now.state === "waiting" ? "failing" : now.state, failing ? "bad" : (GRADES[now.state] ?? "warn"));
    setText(letters, counted(now.dead_letters, "event"));
    element.facts.show([
      ["Delivered", `${count(now.delivered)}${rate === undefined ? "" : `, ${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))}/s`}`],
      ["Waiting", now.lag_events ? `${counted(now.lag_events, "event")}, the oldest for ${duration(now.lag_seconds)}` : "nothing", failing && now.lag_events ? "bad" : undefined],
      ["Dead letters", now.dead_letters ? letters : undefined, "warn"],
      [failing ? "Failing" : "Last error", now.last_error && `${now.last_error}${now.last_error_at ? `, ${ago(now.last_error_at)}` : ""}`, failing ? "bad" : undefined],
      ["Failed attempts", now.failed ? count(now.failed) : undefined],
      ["Breaker", now.breaker === "closed" ? undefined : now.breaker, "bad"],
    ]);
    const pauses = now.state === "up" || now.state === "connecting";
    setText(button, pauses ? "Pause" : now.state === "waiting" ? "Try now" : "Resume");
    setAttribute(button, "aria-label", `${button.textContent}: ${now.sink}`);
    button.hidden = !state.scopes.has("operate");
    allow(button, state.may("operate"));
  };
  return element;
}

/** Shows the card that a link led to, by its name, once it is there. */
export function pointer(main, name) {
  let wanted = name;
  return () => {
    const found = wanted && [...main.querySelectorAll(".card")].find((element) => element.dataset.name === wanted);
    if (!found) return;
    wanted = null;
    found.tabIndex = -1;
    found.scrollIntoView({ block: "center" });
    found.focus({ preventScroll: true });
  };
}
