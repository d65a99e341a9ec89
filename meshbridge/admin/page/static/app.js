// One app, or one run: how it is, what may be done to it, and what it writes.

import { get, lines, path, post, streamed } from "./api.js";
import { action, allow, badge, confirmed, Facts, make, setBadge, setText } from "./dom.js";
import { ago, bytes, clock, count } from "./format.js";
import { AppPast } from "./past.js";
import { OutputBox } from "./output.js";
import { APP_STATES, pause, state, stateOf } from "./state.js";
import { usagePlots } from "./usage.js";

const LOOK_MS = 1000;
const CHUNK_BYTES = 1 << 20;

export function showApp(main, signal, daemon, name) {
  const place = `daemons/${path(daemon)}/apps/${path(name)}`;
  const page = frame(main, daemon, name);
  const buttons = [
    action("Enable", () => act(() => post(`${place}/enable`), "Enabled.")),
    action("Disable", disable),
    action("Restart", restart),
    action("Run once", runOnce),
  ];
  page.actions.prepend(...buttons);
  let app = null;
  const usage = usagePlots(signal);

  async function disable() {
    if (await confirmed(`Disable ${name}?`, `Its process at ${daemon} is ended, and it is not started again until it is enabled.`, "Disable"))
      await act(() => post(`${place}/disable`), "Disabled.");
  }

  async function restart() {
    if (await confirmed(`Restart ${name}?`, `Its process at ${daemon} is ended, and it is started again.`, "Restart"))
      await act(() => post(`${place}/restart`), "Restarted.");
  }

  async function runOnce() {
    await act(async () => {
      const run = await post(`${place}/runs`, {});
      location.hash = `#runs/${path(daemon, run.name)}?${new URLSearchParams({ process_uuid: run.process_uuid, app: name })}`;
    }, "Started.");
  }

  async function act(work, done) {
    setText(page.said, "…");
    try {
      await work();
      setText(page.said, done);
      if (!signal.aborted) learn(await get(place));
    } catch (error) {
      setText(page.said, error.message);
    }
  }

  function learn(now) {
    app = now;
    showFacts(page, app);
    usage.add(app);
    offer();
  }

  function offer() {
    const isRun = app?.one_off;
    const enabled = !isRun && app?.enabled === true;
    const shown = [!isRun && app?.enabled === false, enabled, enabled, !isRun && app !== null];
    buttons.forEach((button, at) => {
      button.hidden = !shown[at] || !state.scopes.has("operate");
      allow(button, state.may("operate"));
    });
  }

  offer();
  state.addEventListener("change", offer, { signal });
  main.append(usage.element, new AppPast(daemon, name, signal).element);
  followApp(place, page, learn, signal);
}

/** A run that this page has started: its output streams, and its end shows how it ended. */
export async function showRun(main, signal, daemon, name, options) {
  const page = frame(main, daemon, name);
  const app = options.get("app");
  if (app) page.actions.prepend(make("a", { href: `#apps/${path(daemon, app)}` }, `Back to ${app}`));
  setBadge(page.badge, "running", "good");
  let last = { position: 0, output: "" }; // a piece tells where it begins, not where it ends: it comes once more
  while (!signal.aborted) {
    try {
      let again = last.output;
      const query = { process_uuid: options.get("process_uuid"), position: last.position };
      for await (const found of lines(streamed(`daemons/${path(daemon)}/runs/${path(name)}/output`, { query, signal }))) {
        for (const line of found) {
          const piece = JSON.parse(line);
          if (piece.error) throw new Error(piece.error.detail);
          if (piece.finished) {
            setBadge(page.badge, `ended, exit code ${piece.exit_code}`, piece.exit_code ? "bad" : "good");
            state.say(`${name} has ended with exit code ${piece.exit_code}.`);
            return;
          }
          if (!piece.output) continue;
          const shown = [again, piece.output].find((text) => again.startsWith(text) && piece.output.startsWith(text)) ?? "";
          again = again.slice(shown.length || again.length);
          if (piece.output.length === shown.length) continue;
          page.box.add(piece.output.slice(shown.length));
          last = piece;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      setText(page.said, error.message);
      if (error.status !== undefined && error.status < 500) return setBadge(page.badge, "not known", "warn");
    }
    await pause(LOOK_MS * 2, signal);
  }
}

function frame(main, daemon, name) {
  const page = { badge: badge(), facts: new Facts(), said: make("span", { role: "status" }), box: new OutputBox() };
  page.actions = make("p", { class: "actions" }, page.said);
  main.append(
    make("h1", {}, make("a", { href: `#apps?${new URLSearchParams({ daemon })}` }, daemon), " / ", name, " ", page.badge),
    page.actions,
    page.facts.element,
    make("section", { "aria-labelledby": "output" }, make("h2", { id: "output" }, "Output"), page.box.element),
  );
  return page;
}

function showFacts(page, app) {
  const its = stateOf(app);
  setBadge(page.badge, its, APP_STATES[its]);
  page.facts.show([
    ["Description", app.description],
    ["Command", app.command],
    ["Process", app.pid && `${app.pid}, since ${ago(app.last_start_time)}`],
    ["Uses", app.pid && `${bytes(app.memory ?? 0)}, ${(app.cpu ?? 0).toFixed(1)} % CPU, ${count(app.fd ?? 0)} open files`],
    ["Starts", app.starts && count(app.starts)],
    ["Last exit", app.return_code === undefined ? undefined : `code ${app.return_code}, ${ago(app.last_exit_time) ?? ""}`, app.return_code ? "warn" : undefined],
    ["Last error", app.last_error, "bad"],
    ["Next start", ago(app.next_start_time)],
    ["Owner", app.owner],
  ]);
}

/**
 * Reads on where the last read ended. A read counts only if the process was the same before and after it: positions
 * start at 0 with each process, and nothing in an answer says which process it is of.
 */
async function followApp(place, page, learn, signal) {
  const processOf = (app) => `${app.starts} ${app.last_start_time}`;
  let process = null;
  let position = 0;
  while (!signal.aborted) {
    try {
      process ??= processOf(await get(place));
      const answer = await get(`${place}/output`, { position, max_size: CHUNK_BYTES }).catch((error) => {
        if (error.status === 404) return null; // nothing is kept there, or the app is gone: which the next answer tells
        throw error;
      });
      const app = await get(place);
      if (signal.aborted) return;
      learn(app);
      if (page.said.textContent.startsWith("Output: ")) setText(page.said, "");
      if (processOf(app) !== process) {
        await readRest(place, page, position);
        page.box.note(`restarted${app.last_start_time ? ` at ${clock(app.last_start_time)}` : ""}`);
        process = processOf(app);
        position = 0;
        continue;
      }
      if (answer) {
        page.box.add(answer.output);
        const more = answer.position !== null && answer.position - position >= CHUNK_BYTES;
        position = answer.position ?? position;
        if (more) continue;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) setBadge(page.badge, "removed", "idle");
      setText(page.said, `Output: ${error.message}`);
    }
    await pause(LOOK_MS, signal);
  }
}

/** What the process before wrote last, where the daemon keeps it. */
async function readRest(place, page, position) {
  try {
    page.box.add((await get(`${place}/output`, { position, index: 1, max_size: CHUNK_BYTES })).output);
  } catch {
    // Most daemons keep the output of one process only.
  }
}
