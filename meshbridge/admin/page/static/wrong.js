// What is wrong with the bridge, the worst first: where, since when, what to do, and where to see more.

import { badge, Keyed, make, setAttribute, setBadge, setText } from "./dom.js";
import { ago } from "./format.js";

const GRADES = { critical: "bad", warning: "warn" };

export function problemList() {
  const none = make("p", { class: "summary" });
  const list = make("ul", { class: "wrong" });
  const element = make("section", { "aria-labelledby": "wrong" }, make("h2", { id: "wrong" }, "What is wrong"), none, list);
  const rows = new Keyed(list, newRow, updateRow);
  const show = (problems) => {
    setText(none, problems.length ? "" : "✓ Nothing is wrong.");
    list.hidden = !problems.length;
    rows.show(problems.map((problem) => [`${problem.kind} ${problem.where}`, problem]));
  };
  return { element, show };
}

function newRow(problem) {
  const row = make("li", {});
  row.badge = badge();
  row.since = make("span", { class: "since" });
  row.said = make("p", {});
  row.remedy = make("p", { class: "remedy" });
  row.more = make("a", {});
  row.append(make("h3", {}, row.badge, " ", problem.where, " ", row.since), row.said, row.remedy, row.more);
  return row;
}

function updateRow(row, problem) {
  setBadge(row.badge, problem.severity, GRADES[problem.severity]);
  setText(row.since, problem.since ? `since ${ago(problem.since)}` : "");
  setText(row.said, problem.text);
  showRemedy(row.remedy, problem);
  setText(row.more, `Show ${problem.where}`);
  setAttribute(row.more, "href", problem.link && `#${problem.link}`);
  row.more.hidden = !problem.link;
}

/** Commands stand between backticks. */
function showRemedy(element, { remedy, runbook }) {
  const text = `${remedy} (${runbook})`;
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  const parts = remedy.split("`").map((part, place) => (place % 2 ? make("code", {}, part) : part));
  element.replaceChildren(...parts, " ", make("small", {}, runbook));
}
