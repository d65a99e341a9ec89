// Dead letters: events that a sink refused for good, to be offered again or dropped.

import { get, post } from "./api.js";
import { action, allow, confirmed, Facts, Keyed, make, setChoices, setText, showDialog } from "./dom.js";
import { clock, counted } from "./format.js";
import { pause, state } from "./state.js";

const PAGE = 50;
const LOOK_MS = 5000;

export function showLetters(main, signal, options) {
  const chosen = new Set(); // ids
  const firsts = [0]; // after which id each page begins, up to the one that is shown
  let letters = [];
  let more = false;

  const sink = make("select", { id: "sink", onchange: () => (chosen.clear(), firsts.splice(1), look()) });
  const found = make("p", { role: "status", class: "summary" });
  const said = make("span", { role: "status" });
  const all = make("input", { type: "checkbox", onchange: () => chooseAll(all.checked) });
  const retry = action("Retry", () => change("retry"));
  const drop = action("Drop", () => change("drop"), { class: "danger" });
  const body = make("tbody");
  const before = action("Previous", () => (firsts.pop(), look()));
  const after = action("Next", () => (firsts.push(letters.at(-1).id), look()));
  const headings = ["Event", "Sink", "Refused", "Why", "Message"].map((title) => make("th", { scope: "col" }, title));
  const table = make(
    "table",
    { class: "letters" },
    make("caption", { class: "unseen" }, "Dead letters"),
    make("thead", {}, make("tr", {}, make("td", {}, make("label", {}, all, make("span", {}, " All here"))), ...headings)),
    body,
  );

  main.append(
    make("h1", {}, "Dead letters"),
    make("p", {}, "Events that a sink's destination refused for good. They wait here until they are offered again, or dropped."),
    make("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, make("div", {}, make("label", { for: "sink" }, "Sink"), sink)),
    make("p", { class: "actions" }, retry, drop, said),
    found,
    table,
    make("nav", { class: "pages", "aria-label": "Pages of dead letters" }, before, after),
  );
  const rows = new Keyed(body, newRow, updateRow);

  function newRow(letter) {
    const box = make("input", {
      type: "checkbox",
      "aria-label": `Choose ${letter.event}`,
      onchange: () => (box.checked ? chosen.add(letter.id) : chosen.delete(letter.id), offer()),
    });
    return make(
      "tr",
      {},
      make("td", {}, box),
      make("th", { scope: "row" }, `${letter.app} ${letter.type}`, make("small", {}, letter.event)),
      make("td", {}, letter.sink),
      make("td", {}, make("time", {}, clock(letter.refused_at))),
      make("td"),
      make("td", {}, action("Message", () => showMessage(letter), { "aria-label": `Message of ${letter.event}` })),
    );
  }

  function updateRow(row, letter) {
    row.cells[0].firstChild.checked = chosen.has(letter.id);
    setText(row.cells[4], `${letter.reason}${letter.error ? `: ${letter.error}` : ""}${letter.retry ? " (to be offered again)" : ""}`);
  }

  function chooseAll(yes) {
    for (const letter of letters) (yes ? chosen.add : chosen.delete).call(chosen, letter.id);
    draw();
  }

  function offer() {
    all.checked = letters.length > 0 && letters.every((letter) => chosen.has(letter.id));
    all.indeterminate = !all.checked && chosen.size > 0;
    for (const [button, verb] of [[retry, "Retry"], [drop, "Drop"]]) {
      button.hidden = !state.scopes.has("operate");
      allow(button, state.may("operate") && chosen.size > 0);
      setText(button, chosen.size ? `${verb} ${counted(chosen.size, "letter")}` : verb);
    }
  }

  function draw() {
    rows.show(letters.map((letter) => [letter.id, letter]));
    table.hidden = !letters.length;
    const where = firsts.length > 1 || more ? `, page ${firsts.length}` : "";
    setText(found, letters.length ? `${counted(letters.length, "dead letter")} here${where}.` : "There are none.");
    before.hidden = after.hidden = firsts.length === 1 && !more;
    allow(before, firsts.length > 1);
    allow(after, more);
    offer();
  }

  async function look() {
    try {
      const query = { sink: sink.value, after: firsts.at(-1), limit: PAGE + 1 };
      const answer = await get("bridge/dead-letters", query);
      if (signal.aborted) return;
      more = answer.length > PAGE;
      letters = answer.slice(0, PAGE);
      const here = new Set(letters.map((letter) => letter.id));
      for (const id of chosen) if (!here.has(id)) chosen.delete(id); // what is chosen is what is seen
      draw();
    } catch (error) {
      if (!signal.aborted && error.status !== undefined) setText(said, error.message);
    }
  }

  /** What the sink would send now: the rules and the format of today, not of then. */
  async function showMessage(letter) {
    try {
      const [found] = await post("bridge/explain", { letter: letter.id });
      if (!signal.aborted) await showDialog(`Message to ${letter.sink}`, ...messageOf(found));
    } catch (error) {
      setText(said, error.message);
    }
  }

  async function change(verb) {
    const ids = [...chosen];
    if (verb === "drop" && !(await confirmed(`Drop ${counted(ids.length, "letter")}?`, "The sink will never get these events.", "Drop"))) return;
    try {
      const { changed } = await post(`bridge/dead-letters/${verb}`, { ids });
      setText(said, verb === "retry" ? `${counted(changed, "letter")} to be offered again.` : `${counted(changed, "letter")} dropped.`);
      chosen.clear();
    } catch (error) {
      setText(said, error.message);
    }
    await look();
  }

  const names = () => {
    setChoices(sink, [["", "all"], ...(state.bridge?.sinks ?? []).map((one) => [one.sink, one.sink])]);
    if (wanted && [...sink.options].some((option) => option.value === wanted)) {
      sink.value = wanted;
      wanted = "";
      look();
    }
    offer();
  };
  let wanted = options.get("sink") ?? "";
  names();
  state.addEventListener("change", names, { signal });
  (async () => {
    while (!signal.aborted) {
      await look();
      await pause(LOOK_MS, signal);
    }
  })();
}

/** The elements of one sink's part of an explanation. */
function messageOf(found) {
  if (!found) return [make("p", {}, "The sink is no longer in the configuration.")];
  if (!found.wanted) return [make("p", {}, `The sink would leave it out, by ${found.rule}.`)];
  if (found.refused) return [make("p", {}, `No destination would accept it: ${found.refused}`)];
  return found.messages.flatMap((message) => {
    const facts = new Facts();
    facts.show([["To", message.to], ...Object.entries(message.headers)]);
    const body = message.body ?? `${message.body_base64} (base64)`;
    return [facts.element, make("pre", { class: "message", tabindex: "0", "aria-label": "Body" }, body)];
  });
}
