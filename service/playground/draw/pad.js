// A square to draw in with mouse, finger or pen; undo, clear, and ready strokes for the keyboard.

import { html } from "../dom.js";
import { count } from "../numbers.js";
import { pickGlyph } from "./picker.js";
import { trace } from "./ink.js";

const PEN = 0.045;

/** A pad called `name`; `changed()` follows every stroke as it grows. */
export class Pad {
  constructor(name, changed) {
    this.changed = changed;
    this.strokes = [];
    this.canvas = html("canvas", { role: "img", "aria-label": `${name}: empty` });
    this.name = name;
    const button = (textContent, words, onclick) =>
      html("button", {
        type: "button",
        className: "small",
        textContent,
        "aria-label": `${words} (${name})`,
        onclick,
      });
    this.element = html(
      "div",
      { className: "pad" },
      this.canvas,
      html(
        "div",
        { className: "row" },
        button("Undo", "Undo the last stroke", () => this.set(this.strokes.slice(0, -1))),
        button("Clear", "Clear", () => this.set([])),
        button("Ready…", "Pick ready strokes", async () => {
          const strokes = await pickGlyph();
          if (strokes) this.set(strokes);
        }),
      ),
    );
    this.#pointer();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    document.addEventListener("theme", () => this.draw());
  }

  /** Replace what is drawn, and tell. */
  set(strokes) {
    this.strokes = strokes;
    this.draw();
    this.changed();
  }

  /** Draw the strokes in the colour of the theme. */
  draw() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    const words = this.strokes.length ? count(this.strokes.length, "stroke") : "empty";
    this.canvas.setAttribute("aria-label", `${this.name}: ${words}`);
    if (!side) return;
    if (this.canvas.width !== side) Object.assign(this.canvas, { width: side, height: side });
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.strokeStyle = getComputedStyle(this.canvas).color;
    trace(context, this.strokes, side, PEN * side);
  }

  #pointer() {
    let stroke = null;
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return;
      event.preventDefault();
      this.canvas.setPointerCapture(event.pointerId);
      stroke = [at(event)];
      this.set([...this.strokes, stroke]);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!stroke || !event.isPrimary) return;
      const coalesced = event.getCoalescedEvents?.() ?? [];
      stroke.push(...(coalesced.length ? coalesced : [event]).map(at));
      this.draw();
      this.changed();
    });
    const end = () => {
      stroke = null;
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }
}
