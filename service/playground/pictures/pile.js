// A place to drop pictures on, and the pictures that lie there.

import { html, say } from "../dom.js";
import { Picture } from "./picture.js";

let made = 0;

/**
 * A drop zone called `name`; `changed(added)` follows pictures that come (true) or go, `chosen(picture)` a press on one.
 */
export class Pile {
  constructor(name, changed, chosen = null) {
    Object.assign(this, { changed, chosen, pictures: [], emptied: 0 });
    made += 1;
    const id = `pictures-files-${made}`;
    this.field = html("input", { type: "file", id, className: "unseen", multiple: true, accept: "image/*" });
    this.tiles = html("ul", { className: "tiles" });
    this.label = html("label", { for: id, className: "button small" });
    this.problems = html("div", { className: "picture-problems", role: "alert" });
    const hint = html("span", { className: "hint", textContent: "or drop them here" });
    this.element = html(
      "div",
      { className: "drop", role: "group" },
      this.tiles,
      html("div", { className: "row" }, this.label, hint),
      this.problems,
    );
    this.named(name);
    this.field.addEventListener("change", async () => {
      const files = [...this.field.files];
      this.field.value = "";
      await this.add(files);
    });
    this.#zone();
  }

  /** The name that readers of the screen hear. */
  named(name) {
    this.name = name;
    this.element.setAttribute("aria-label", name);
    this.label.replaceChildren(
      "Choose pictures",
      html("span", { className: "unseen", textContent: ` for ${name}` }),
      this.field,
    );
    this.show();
  }

  /** The pictures with which nothing is wrong, as far as is known. */
  get good() {
    return this.pictures.filter(({ problem }) => !problem);
  }

  /** Take files in, one after the other: large photographs take memory while they are read. */
  async add(files) {
    const { emptied } = this;
    for (const file of files) {
      const picture = await Picture.of(file);
      if (emptied !== this.emptied) {
        picture.forget();
        return;
      }
      this.put([picture]);
    }
    this.changed(true);
  }

  /** Take in pictures that lay elsewhere; tells nobody. */
  put(pictures) {
    this.pictures.push(...pictures);
    this.show();
  }

  /** Let a picture go, to another pile or for good; tells nobody. */
  take(picture) {
    this.pictures = this.pictures.filter((each) => each !== picture);
    this.show();
  }

  /** Remove all pictures; files that are still being read are dropped. */
  empty() {
    this.emptied += 1;
    for (const picture of this.pictures) picture.forget();
    this.pictures = [];
    this.show();
  }

  /** Draw the tiles anew. `note(picture)` is a word under it, `marked` the picture that is looked at. */
  show(note = this.note, marked = this.marked) {
    Object.assign(this, { note, marked });
    const focused = [...this.tiles.querySelectorAll("button")].indexOf(document.activeElement);
    this.tiles.replaceChildren(...this.pictures.map((picture) => this.#tile(picture)));
    if (focused >= 0) {
      const buttons = [...this.tiles.querySelectorAll("button")];
      (buttons[Math.min(focused, buttons.length - 1)] ?? this.field).focus();
    }
    const broken = this.pictures.filter(({ problem }) => problem);
    const words = broken.map(({ name, problem }) => `${name}: ${problem}`).join("\n");
    if (words !== this.told) {
      this.told = words;
      this.problems.replaceChildren(
        ...broken.map(({ name, problem }) => html("p", { className: "problem", textContent: `${name}: ${problem}.` })),
      );
    }
  }

  #tile(picture) {
    const { name, problem } = picture;
    const shown = face(picture);
    const press = this.chosen && !problem;
    const inside = press
      ? html(
          "button",
          {
            type: "button",
            className: "face",
            "aria-pressed": String(picture === this.marked),
            onclick: () => this.chosen(picture),
          },
          shown,
        )
      : shown;
    const remove = html("button", {
      type: "button",
      className: "remove",
      textContent: "×",
      title: "Remove",
      "aria-label": `Remove ${name} from ${this.name}`,
      onclick: () => {
        picture.forget();
        this.take(picture);
        this.changed(false);
      },
    });
    const tile = html("li", { title: name, className: problem ? "broken" : "" }, inside, remove);
    const words = problem ? "" : this.note?.(picture);
    if (words) tile.append(html("span", { className: "note", textContent: words }));
    return tile;
  }

  /** Files may be dropped on the whole element. */
  #zone() {
    const over = (on) => this.element.classList.toggle("over", on);
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(true);
    });
    this.element.addEventListener("dragleave", (event) => {
      if (!this.element.contains(event.relatedTarget)) over(false);
    });
    this.element.addEventListener("drop", async (event) => {
      event.preventDefault();
      over(false);
      await this.add([...event.dataTransfer.files]);
    });
  }
}

/** A picture as it is shown: its preview, or its name where the browser has none. */
export function face({ name, preview }) {
  if (preview) return html("img", { src: preview, alt: name });
  return html("span", { className: "blank", textContent: name });
}
