// What the page knows: asked for while somebody looks at it, and kept while the bridge is away.

import { contact, get, path, token } from "./api.js";

const BRIDGE_MS = 2000;
const APPS_MS = 5000;
const APPS_SHARE = 20; // a list that takes a second to come is asked for each 20 s at most

/** Says "change" when there is something new, "said" with a sentence worth reading out. */
export const state = new (class extends EventTarget {
  /** The answer of `bridge`, and when it came (unix seconds). */
  bridge = null;
  at = 0;
  /** Since when there is no answer, or null. */
  awaySince = null;
  /** Why it does not say how it is, though it answers. */
  problem = null;
  scopes = new Set();
  /** Events a second to each sink, between the last two answers. */
  rates = new Map();
  /** By daemon: {apps, counts, at, error}. */
  apps = new Map();

  may(scope) {
    return this.scopes.has(scope) && this.awaySince === null;
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  say(sentence) {
    this.dispatchEvent(new CustomEvent("said", { detail: sentence }));
  }
})();

contact.addEventListener("lost", () => {
  if (state.awaySince !== null) return;
  state.awaySince = Date.now() / 1000;
  state.changed();
});

/** Asks for the bridge as a whole, again and again. */
export async function watchBridge() {
  for (;;) {
    try {
      if (!state.scopes.size) state.scopes = new Set((await get("token")).scopes);
      learn(await get("bridge"));
    } catch (error) {
      if (error.byToken && !token.get()) return; // until there is another
      state.problem = error.status === undefined ? null : error.message;
      state.changed();
    }
    await pause(BRIDGE_MS);
  }
}

function learn(bridge) {
  const now = Date.now() / 1000;
  const before = state.bridge;
  const back = state.awaySince !== null;
  if (before) {
    const was = new Map(before.sinks.map((sink) => [sink.sink, sink.delivered]));
    for (const sink of bridge.sinks) {
      const delivered = sink.delivered - (was.get(sink.sink) ?? sink.delivered);
      state.rates.set(sink.sink, Math.max(0, delivered / Math.max(0.001, now - state.at)));
    }
  }
  tellChanges(bridge);
  Object.assign(state, { bridge, at: now, awaySince: null, problem: null });
  if (back) state.say("The bridge is back.");
  state.changed();
}

/** What lasts is shown; what is passed through between two attempts is not. */
const settled = new Map();
const LASTING = { up: "up", waiting: "down", paused: "paused", gone: "ended by its destination", stopped: "stopped" };

function tellChanges(bridge) {
  const parts = [
    ...bridge.daemons.map((one) => [`Daemon ${one.daemon}`, one]),
    ...bridge.sinks.map((one) => [`Sink ${one.sink}`, one]),
  ];
  const said = [];
  for (const [name, { state: now, last_error: error }] of parts) {
    const lasting = LASTING[now];
    if (!lasting) continue;
    const before = settled.get(name);
    settled.set(name, lasting);
    if (before && before !== lasting) said.push(`${name} is ${lasting}${lasting === "down" && error ? `: ${error}` : ""}.`);
  }
  if (said.length) state.say(said.join(" "));
}

/** Asks for the apps of `daemons()` until `signal` says that the view has gone. */
export async function watchApps(daemons, signal) {
  const next = new Map();
  while (!signal.aborted) {
    const due = daemons().filter((name) => (next.get(name) ?? 0) <= Date.now());
    await Promise.all(
      due.map(async (name) => {
        const began = Date.now();
        await askForApps(name);
        next.set(name, Date.now() + Math.max(APPS_MS, APPS_SHARE * (Date.now() - began)));
      }),
    );
    if (due.length) state.changed();
    await pause(250, signal);
  }
}

export async function askForApps(name) {
  try {
    const apps = await get(`daemons/${path(name)}/apps`);
    const counts = {};
    for (const app of apps) counts[stateOf(app)] = (counts[stateOf(app)] ?? 0) + 1;
    state.apps.set(name, { apps, counts, at: Date.now() / 1000, error: null });
  } catch (error) {
    if (error.status === undefined) return; // the bridge is away, which is said elsewhere
    const known = state.apps.get(name) ?? { apps: [], counts: {}, at: 0 };
    state.apps.set(name, { ...known, error: error.message });
  }
}

/** How an app is, in the order of what should be looked at first. */
export const APP_STATES = { unhealthy: "bad", stopped: "warn", running: "good", disabled: "idle", run: "idle" };

export function stateOf(app) {
  if (app.one_off) return "run";
  return app.state === "running" && app.health ? "unhealthy" : app.state;
}

/** Waits; at least until the page is seen again. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
      signal?.removeEventListener("abort", go); // which lives as long as the view
      resolve();
    };
    const look = () => !document.hidden && late && go();
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      if (document.hidden) document.addEventListener("visibilitychange", look);
      else go();
    }, milliseconds);
    signal?.addEventListener("abort", go, { once: true });
  });
}
