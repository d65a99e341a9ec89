// The bridge at a glance: what is wrong, each daemon, each sink, the journal, and their figures.

import { card, GRADES, pointer, sinkCard } from "./cards.js";
import { Keyed, make, onceAFrame, setAttribute, setBadge, setText } from "./dom.js";
import { figuresSection, PLOTS } from "./figures.js";
import { ago, bytes, count, counted, duration } from "./format.js";
import { APP_STATES, state, watchApps } from "./state.js";
import { problemList } from "./wrong.js";

export function showOverview(main, signal, options) {
  const wrong = problemList();
  const summary = make("p", { class: "summary" });
  const daemons = make("ul", { class: "cards" });
  const sinks = make("ul", { class: "cards" });
  const journal = journalCard();
  const section = (title, id, content) => make("section", { "aria-labelledby": id }, make("h2", { id }, title), content);
  main.append(
    make("h1", {}, "Overview"),
    summary,
    wrong.element,
    section("Daemons", "daemons", daemons),
    section("Sinks", "sinks", sinks),
    section("Journal", "journal", journal.element),
    figuresSection(Object.values(PLOTS), signal),
  );
  const daemonCards = new Keyed(daemons, daemonCard, (card, link) => card.show(link));
  const sinkCards = new Keyed(sinks, sinkCard, (card, sink) => card.show(sink));
  const render = onceAFrame(() => {
    if (signal.aborted || !state.bridge) return;
    const { daemons: links, sinks: couriers, journal: log } = state.bridge;
    setText(summary, summaryOf(links, couriers));
    wrong.show(state.bridge.problems ?? []);
    daemonCards.show(links.map((link) => [link.daemon, link]));
    sinkCards.show(couriers.map((sink) => [sink.sink, sink]));
    journal.show(log);
    pointOut();
  });
  const pointOut = pointer(main, options.get("daemon") ?? options.get("part"));
  state.addEventListener("change", render, { signal });
  watchApps(() => (state.bridge?.daemons ?? []).map((link) => link.daemon), signal);
  if (state.bridge) render();
  else setText(summary, "DaemonCall the bridge …");
}

function summaryOf(links, sinks) {
  const up = (parts) => parts.filter((part) => part.state === "up").length;
  const waiting = Math.max(0, ...sinks.map((sink) => sink.lag_events));
  return `${up(links)} of ${counted(links.length, "daemon")} up, ${up(sinks)} of ${counted(sinks.length, "sink")} up, ${counted(waiting, "event")} waiting.`;
}

function daemonCard(link) {
  const apps = make("span");
  const appLinks = new Keyed(apps, stateLink, (element, [text]) => setText(element, text));
  const element = card(link.daemon);
  element.show = (now) => {
    const up = now.state === "up";
    setBadge(element.badge, now.state === "waiting" ? "down" : now.state, GRADES[now.state] ?? "warn");
    const known = state.apps.get(now.daemon);
    const counts = known?.counts ?? {};
    appLinks.show(
      Object.keys(APP_STATES)
        .filter((name) => counts[name])
        .map((name) => [name, [`${count(counts[name])} ${name}`, now.daemon, name]]),
    );
    element.facts.show([
      ["Address", now.url],
      ["Up since", ago(now.connected_since)],
      ["Down since", ago(now.down_since), "bad"],
      ["Last event", ago(now.last_event_at)],
      ["Last error", now.last_error && `${now.last_error}${now.last_error_at ? `, ${ago(now.last_error_at)}` : ""}`, up ? undefined : "bad"],
      ["Apps", known?.at ? (known.apps.length ? apps : "none") : undefined],
      // Why, the error above says of one that is down.
      ["Apps known", known?.error && known.at ? [ago(known.at), ...(up ? [known.error] : [])].join(": ") : undefined, "warn"],
      ["Apps not known", up && !known?.at ? known?.error : undefined, "bad"],
      ["Permissions lacking", now.missing_permissions.join(", "), "warn"],
      ["Token ends", ago(now.token_expires_at)],
      ["Connected", now.connects > 1 ? `${counted(now.connects, "time")} since the bridge started` : undefined],
    ]);
  };
  return element;
}

function stateLink([text, daemon, name]) {
  return make("a", { class: "count", href: `#apps?${new URLSearchParams({ daemon, state: name })}`, "data-grade": APP_STATES[name] }, text);
}

function journalCard() {
  const meter = make("meter", { min: "0", max: "1", high: "0.9", low: "0.75", optimum: "0", "aria-label": "Share of the journal's limit" });
  const element = card("journal", meter);
  element.firstChild.firstChild.remove(); // its section says the name
  const list = make("ul", { class: "cards" }, element);
  const show = (journal) => {
    const fault = journal.last_error || journal.held_events > 0;
    setBadge(element.badge, !journal.open ? "closed" : fault ? "not writing" : "writing", !journal.open || fault ? "bad" : "good");
    element.facts.show([
      ["Path", journal.path],
      ["Size", journal.max_bytes ? `${bytes(journal.bytes)} of ${bytes(journal.max_bytes)}` : bytes(journal.bytes)],
      ["Events", journal.events ? `${count(journal.events)} (${count(journal.first_offset)} to ${count(journal.last_offset)})` : "none"],
      ["Held in memory", journal.held_events ? `${counted(journal.held_events, "event")} that the disk does not take` : undefined, "bad"],
      ["Error", journal.last_error, "bad"],
    ]);
    const share = journal.max_bytes ? Math.min(1, journal.bytes / journal.max_bytes) : 0;
    meter.value = share;
    meter.hidden = !journal.max_bytes;
    setAttribute(meter, "aria-valuetext", `${Math.round(share * 100)} %`);
  };
  return { element: list, show };
}
