// The named piles: one for each class that is taught.

import { html } from "../dom.js";
import { Pile } from "./pile.js";

const FEWEST = 2;

/** Piles in a host, at most `most()` of them; `changed()` follows every edit. */
export class Piles {
  constructor(host, changed, most) {
    Object.assign(this, { host, changed, most, all: [], added: 0 });
  }

  /** Whether no pile more can be added. */
  get full() {
    return this.all.length >= this.most();
  }

  /** One pile more; its name may be changed. */
  add(name = this.#freeName()) {
    const pile = new Pile(name, this.changed);
    const field = html("input", { type: "text", value: name, maxLength: 60 });
    const remove = html("button", {
      type: "button",
      className: "small",
      textContent: "Remove this pile",
      onclick: () => this.#remove(each),
    });
    const group = html("div", { className: "class", role: "group" }, field, pile.element, remove);
    const each = { pile, field, remove, group, usual: name };
    field.addEventListener("change", () => {
      this.#named(each);
      this.changed();
    });
    this.all.push(each);
    this.host.append(group);
    this.#named(each);
    this.#few();
    return pile;
  }

  /** These piles of pictures, and no others; two empty ones where there are none. */
  set(filled = []) {
    for (const { pile, group } of this.all) {
      pile.empty();
      group.remove();
    }
    this.all = [];
    for (const { name, pictures } of filled) this.add(name).put(pictures);
    while (this.all.length < FEWEST) this.add();
  }

  /** Labelled pictures: rows with their pile's name, names without a picture, and whether two piles share a name. */
  taught() {
    const rows = this.all.flatMap((each) =>
      each.pile.good.map((picture) => ({ picture, label: this.nameOf(each) })),
    );
    const names = this.all.map((each) => this.nameOf(each));
    const filled = new Set(rows.map(({ label }) => label));
    return {
      rows,
      names: [...filled],
      empty: names.filter((name) => !filled.has(name)),
      twice: names.find((name, place) => names.indexOf(name) !== place),
    };
  }

  /** The name in the field, or the one that was there at first. */
  nameOf(each) {
    return each.field.value.trim() || each.usual;
  }

  #remove(each) {
    each.pile.empty();
    each.group.remove();
    const place = this.all.indexOf(each);
    this.all.splice(place, 1);
    this.#few();
    this.changed();
    (this.all[place] ?? this.all.at(-1)).field.focus();
  }

  #named(each) {
    const name = this.nameOf(each);
    each.pile.named(name);
    each.field.setAttribute("aria-label", `Name of pile ${name}`);
    each.remove.setAttribute("aria-label", `Remove pile ${name}`);
    each.group.setAttribute("aria-label", `Pile ${name}`);
  }

  #few() {
    for (const { remove } of this.all) remove.disabled = this.all.length <= FEWEST;
  }

  #freeName() {
    const taken = new Set(this.all.map((each) => this.nameOf(each)));
    for (let number = 1; ; number += 1) if (!taken.has(`pile ${number}`)) return `pile ${number}`;
  }
}
