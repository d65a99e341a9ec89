// What a process writes, followed: the end of it, in a box of bounded size.

import { onceAFrame, make } from "./dom.js";

const MOST = 400_000; // characters: about what a person scrolls through, and cheap to lay out
const PIECE = 20_000; // per text node, so that the oldest can go by whole nodes
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g; // of terminals: colours, titles

/** Text without what steers a terminal. */
export const plain = (text) => text.replace(ESCAPES, "");

export class OutputBox {
  element = make("pre", { class: "output", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" });
  #waiting = [];
  #waitingLength = 0;
  #length = 0;
  #render = onceAFrame(() => this.#draw());

  /** Adds text; drawn in the next frame. */
  add(text) {
    text = plain(text);
    if (!text) return;
    this.#waiting.push(text);
    this.#waitingLength += text.length;
    // While nothing is drawn (the tab is hidden) no more is kept than would be shown.
    while (this.#waiting.length > 1 && this.#waitingLength - this.#waiting[0].length > MOST) this.#waitingLength -= this.#waiting.shift().length;
    this.#render();
  }

  /** A line of the page's own among what the process says. */
  note(text) {
    this.#draw();
    this.element.append(make("span", { class: "note" }, `— ${text} —\n`));
    this.#render();
  }

  #draw() {
    const box = this.element;
    const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 40;
    let text = this.#waiting.join("").slice(-MOST);
    this.#waiting = [];
    this.#waitingLength = 0;
    this.#length += text.length;
    const last = box.lastChild;
    if (text && last?.nodeType === Node.TEXT_NODE && last.length + text.length < PIECE) last.appendData(text);
    else for (; text; text = text.slice(PIECE)) box.append(text.slice(0, PIECE));
    while (this.#length > MOST && box.firstChild !== box.lastChild) {
      if (box.firstChild.nodeType === Node.TEXT_NODE) this.#length -= box.firstChild.length;
      box.firstChild.remove();
    }
    if (atEnd) box.scrollTop = box.scrollHeight; // else the reader has scrolled up
  }
}
