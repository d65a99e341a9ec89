// Elements, made and kept. Text is only ever set as text.

/** A new element. `on…` listens; `value` and `checked` are properties; true and false set and leave out an attribute. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked") element[key] = value;
    else if (typeof value === "boolean") element.toggleAttribute(key, value);
    else if (value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Sets what has changed alone: a screen reader, a selection and the layout are left in peace otherwise. */
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/**
 * A button for `work`. While it may not be used it is marked disabled and does nothing, but stays where it is for the keyboard:
 * `disabled` would take the focus away.
 */
export function action(title, work, attributes = {}) {
  const click = () => button.getAttribute("aria-disabled") !== "true" && work();
  const button = make("button", { type: "button", ...attributes, onclick: click }, title);
  return button;
}

export function allow(button, yes) {
  setAttribute(button, "aria-disabled", !yes && "true");
}

/** Runs `work` once in the next frame, however often it is asked for until then. */
export function onceAFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

/** Children of `parent` by key: those that stay are updated in their places, so focus stays where it is. */
export class Keyed {
  #parent;
  #create;
  #update;
  #nodes = new Map();

  constructor(parent, create, update) {
    this.#parent = parent;
    this.#create = create;
    this.#update = update;
  }

  /** Shows `[key, item]` pairs, in this order. */
  show(pairs) {
    const before = this.#nodes;
    this.#nodes = new Map();
    for (const [key, item] of pairs) {
      const node = before.get(key) ?? this.#create(item);
      before.delete(key);
      this.#nodes.set(key, node);
      this.#update(node, item);
    }
    for (const node of before.values()) node.remove();
    let place = this.#parent.firstChild;
    for (const node of this.#nodes.values()) {
      if (node === place) place = place.nextSibling;
      // moveBefore, where there is one, leaves the focus on what is moved.
      else if (node.isConnected && this.#parent.moveBefore) this.#parent.moveBefore(node, place);
      else this.#parent.insertBefore(node, place);
    }
  }
}

/** A list of terms and what is to be said of each; a term with nothing to say is left out. */
export class Facts {
  element = make("dl", { class: "facts" });
  #rows = new Keyed(
    this.element,
    ([term]) => make("div", {}, make("dt", {}, term), make("dd")),
    (row, [, said, grade]) => {
      if (said instanceof Node) {
        if (row.lastChild.firstChild !== said) row.lastChild.replaceChildren(said);
      } else setText(row.lastChild, said);
      setAttribute(row, "data-grade", grade);
    },
  );

  /** `[term, text or element, grade]`. An element that is handed over again is left as it is. */
  show(facts) {
    this.#rows.show(facts.filter(([, said]) => said !== undefined && said !== null && said !== "").map((fact) => [fact[0], fact]));
  }
}

/** A state in words, with a colour and a sign: good, warn, bad or idle. */
export function badge() {
  return make("span", { class: "badge" }, make("span", { "aria-hidden": "true" }), make("span"));
}

const SIGNS = { good: "✓", warn: "!", bad: "✕", idle: "–" };

export function setBadge(element, text, grade) {
  setAttribute(element, "data-grade", grade);
  setText(element.firstChild, SIGNS[grade]);
  setText(element.lastChild, text);
}

/** A choice among `[value, text]` pairs, which may change; what is chosen stays while it is among them. */
export function setChoices(select, pairs) {
  const wanted = JSON.stringify(pairs);
  if (select.dataset.choices === wanted) return;
  const chosen = select.value;
  select.dataset.choices = wanted;
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : pairs[0][0];
}

/** Shows something until it is closed, by Escape too. */
export function showDialog(title, ...content) {
  const { promise, resolve } = Promise.withResolvers();
  const dialog = make(
    "dialog",
    { class: "large", "aria-labelledby": "dialog-title", onclose: () => (dialog.remove(), resolve()) },
    make("h2", { id: "dialog-title" }, title),
    ...content,
    make("p", { class: "actions" }, make("button", { type: "button", onclick: () => dialog.close() }, "Close")),
  );
  document.querySelector("main").append(dialog);
  dialog.showModal();
  return promise;
}

/** Asks before what can't be undone; true if it is to be done. Escape is no. */
export function confirmed(title, text, verb) {
  const { promise, resolve } = Promise.withResolvers();
  const heading = make("h2", { id: "dialog-title" }, title);
  const dialog = make(
    "dialog",
    { "aria-labelledby": "dialog-title", onclose: () => (dialog.remove(), resolve(dialog.returnValue === "yes")) },
    heading,
    make("p", {}, text),
    make(
      "p",
      { class: "actions" },
      make("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel"),
      make("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, verb),
    ),
  );
  document.querySelector("main").append(dialog);
  dialog.showModal();
  return promise;
}
