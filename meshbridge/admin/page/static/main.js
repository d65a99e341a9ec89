// Puts the page together: the token, the views, and what is said when the bridge is away.

import { contact, token } from "./api.js";
import { make, onceAFrame, setText } from "./dom.js";
import { clock, duration } from "./format.js";
import { state, watchBridge } from "./state.js";
import { showApp, showRun } from "./app.js";
import { showApps } from "./apps.js";
import { showDelivery } from "./delivery.js";
import { showEvents } from "./events.js";
import { showHistory } from "./history.js";
import { showLetters } from "./letters.js";
import { showOverview } from "./overview.js";

const VIEWS = {
  overview: { title: "Overview", show: showOverview },
  apps: { title: "Apps", show: showApps },
  history: { title: "History", show: showHistory },
  events: { title: "Events", show: showEvents },
  delivery: { title: "Delivery", show: showDelivery },
  "dead-letters": { title: "Dead letters", show: showLetters },
};

const main = document.getElementById("main");
const views = document.getElementById("views");
const contactLine = document.getElementById("contact");
const announcer = document.getElementById("announcer");
let ending = null; // of the view that is shown
let watching = false;

function start() {
  takeToken();
  addEventListener("hashchange", () => takeToken() || route());
  document.getElementById("skip").addEventListener("click", () => main.focus());
  document.getElementById("forget").addEventListener("click", () => {
    token.forget();
    location.reload(); // nothing of what was shown stays
  });
  contact.addEventListener("refused", (event) => askForToken(event.detail));
  state.addEventListener("change", onceAFrame(showContact));
  state.addEventListener("said", (event) => setText(announcer, event.detail));
  setInterval(showContact, 1000);
  open();
}

/** From `#token=…`, which goes out of the address and the history at once. True where it was there. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return false;
  token.set(given);
  history.replaceState(null, "", `${location.pathname}#overview`);
  open();
  return true;
}

async function open() {
  views.hidden = false;
  document.getElementById("forget").hidden = !token.get();
  route();
  if (watching) return;
  watching = true;
  await watchBridge();
  watching = false;
}

function route() {
  const [where, query = ""] = location.hash.slice(1).split("?");
  const [name, ...parts] = partsOf(where);
  const known = Object.hasOwn(VIEWS, name) ? name : name === "runs" ? "apps" : "overview";
  ending?.abort();
  ending = new AbortController();
  for (const link of views.querySelectorAll("a")) {
    if (link.hash === `#${known}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  const options = new URLSearchParams(query);
  let title = VIEWS[known].title;
  if (parts.length === 2) {
    title = parts.join(" / ");
    (name === "runs" ? showRun : showApp)(main, ending.signal, ...parts, options);
  } else VIEWS[known].show(main, ending.signal, options);
  document.title = `${title} · meshbridge`;
  if (state.bridge) main.focus({ preventScroll: true });
}

function partsOf(where) {
  try {
    return where.split("/").map(decodeURIComponent);
  } catch {
    return ["overview"]; // an address that somebody has cut
  }
}

function askForToken(detail) {
  ending?.abort();
  const rejected = token.get() !== "";
  token.forget();
  state.scopes = new Set();
  views.hidden = true;
  document.title = "Token · meshbridge";
  const field = make("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  if (rejected) field.setAttribute("aria-describedby", "token-problem");
  main.replaceChildren(
    make("h1", {}, "A token, please"),
    make("p", {}, "This page shows what a bearer token of the bridge may see. ", make("code", {}, "meshbridge token new --scope operate"), " makes one. It is kept for this tab only."),
    make(
      "form",
      {
        class: "token",
        onsubmit: (event) => {
          event.preventDefault();
          token.set(field.value.trim());
          open();
          main.focus();
        },
      },
      make("label", { for: "token" }, "Token"),
      field,
      make("button", { type: "submit" }, "Open"),
    ),
    ...(rejected ? [make("p", { id: "token-problem", role: "alert", class: "problem" }, detail || "This token is not known here.")] : []),
  );
  field.focus();
}

function showContact() {
  setText(document.getElementById("version"), state.bridge?.version ?? "");
  document.body.toggleAttribute("data-away", state.awaySince !== null);
  const since = state.awaySince;
  if (since === null) setText(contactLine, state.problem ? `The bridge does not say how it is: ${state.problem}` : "");
  else {
    const shown = state.at ? `What is shown is of ${clock(state.at)}.` : "Nothing is known of it yet.";
    // Minutes, not seconds: each change of an alert is read out.
    const long = Date.now() / 1000 - since < 60 ? "" : ` (${duration(Math.floor((Date.now() / 1000 - since) / 60) * 60)})`;
    setText(contactLine, `The bridge has not answered since ${clock(since)}${long}. ${shown} Trying again every 2 s.`);
  }
}

start();
