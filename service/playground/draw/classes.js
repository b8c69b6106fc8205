// The classes that are taught: a name, a pad, and further drawings each.

import { html } from "../dom.js";
import { thumb } from "./ink.js";
import { Pad } from "./pad.js";

const FEWEST = 2;
const MOST = 5;
const LETTERS = "ABCDE";

/** Two to five classes in a host; `changed()` follows every edit. */
export class Classes {
  constructor(host, changed) {
    Object.assign(this, { host, changed, all: [] });
  }

  get full() {
    return this.all.length === MOST;
  }

  get few() {
    return this.all.length === FEWEST;
  }

  /** One class more, with these strokes on its pad. */
  add(strokes = []) {
    const name = LETTERS[this.all.length];
    const field = html("input", {
      type: "text",
      value: name,
      maxLength: 24,
      "aria-label": `Name of class ${name}`,
    });
    const thumbs = html("div", { className: "thumbs" });
    const pad = new Pad(`Class ${name}`, this.changed);
    const each = { field, thumbs, pad, kept: [] };
    const another = html("button", {
      type: "button",
      className: "small",
      textContent: "One more drawing",
      onclick: () => {
        if (!pad.strokes.length) return;
        this.keep(each, pad.strokes);
        pad.set([]);
      },
    });
    field.addEventListener("input", this.changed);
    each.element = html(
      "div",
      { className: "class", role: "group", "aria-label": `Class ${name}` },
      field,
      pad.element,
      another,
      thumbs,
    );
    this.all.push(each);
    this.host.append(each.element);
    pad.set(strokes);
  }

  /** One class less. */
  drop() {
    this.all.pop().element.remove();
    this.changed();
  }

  /** A further drawing of a class, beside what is on its pad. */
  keep(each, strokes) {
    each.kept.push(strokes);
    this.#thumbs(each);
    this.changed();
  }

  /** What is taught: rows of strokes with their class, and the names of classes without a drawing. */
  taught() {
    const rows = this.all.flatMap((each) => {
      const drawings = each.pad.strokes.length ? [...each.kept, each.pad.strokes] : each.kept;
      return drawings.map((strokes) => ({ strokes, label: this.nameOf(each) }));
    });
    const named = new Set(rows.map((row) => row.label));
    return { rows, empty: this.names.filter((name) => !named.has(name)) };
  }

  /** The names of all classes. */
  get names() {
    return this.all.map((each) => this.nameOf(each));
  }

  /** Whether these very strokes are among the further drawings. */
  has(strokes) {
    return this.all.some(({ kept }) => kept.includes(strokes));
  }

  /** The name in the field, or the letter that was there. */
  nameOf(each) {
    return each.field.value.trim() || LETTERS[this.all.indexOf(each)];
  }

  #thumbs(each) {
    const buttons = each.kept.map((strokes, index) =>
      html(
        "button",
        {
          type: "button",
          title: "Remove this drawing",
          "aria-label": `Remove drawing ${index + 1} of ${this.nameOf(each)}`,
          onclick: () => {
            each.kept.splice(index, 1);
            this.#thumbs(each);
            (each.thumbs.children[Math.min(index, each.kept.length - 1)] ?? each.field).focus();
            this.changed();
          },
        },
        thumb(strokes),
      ),
    );
    each.thumbs.replaceChildren(...buttons);
  }
}
