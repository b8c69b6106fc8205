// The points in the chart: click adds, drag moves, double click or Delete removes, arrow keys move.

import { put, svg } from "../dom.js";
import { short } from "../numbers.js";
import { inside, possible, valueAt } from "./space.js";

const STEP = 0.01;
const STRIDE = 0.05;
const SLOP = 6;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let made = 0;
/** A point with an identity of its own. */
export const newPoint = ({ x, y }) => ({ id: (made += 1), x, y });

/** Edits `points` ({id, x, y}) inside a belief chart; `changed()` follows every edit. */
export class PointEditor {
  constructor(chart, points, changed) {
    this.chart = chart;
    this.points = points;
    this.changed = changed;
    this.handles = new Map();
    this.group = svg("g");
    chart.frame.above.append(this.group);
    this.#clicks(chart.surface);
  }

  /** Put the handles where the points are; those outside what is shown, at its edge. */
  draw() {
    const { x, y } = this.chart.frame;
    for (const [id, handle] of this.handles) {
      if (!this.points.some((point) => point.id === id)) {
        handle.remove();
        this.handles.delete(id);
      }
    }
    this.points.forEach((point, index) => {
      if (!this.handles.has(point.id)) this.#handle(point);
      const words = `Point ${index + 1} of ${this.points.length}: ${short(point.x)}, ${short(point.y)}`;
      const handle = put(this.handles.get(point.id), {
        transform: `translate(${x(inside(point.x, x.domain()))} ${y(inside(point.y, y.domain()))})`,
        "aria-label": words,
      });
      this.group.append(...(this.group.children[index] === handle ? [] : [handle]));
    });
  }

  #clicks(surface) {
    let pressed = null;
    surface.addEventListener("pointerdown", (event) => {
      pressed = event.isPrimary && event.button === 0 ? event : null;
    });
    surface.addEventListener("pointerup", (event) => {
      if (!pressed) return;
      const moved = Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY);
      pressed = null;
      if (moved <= SLOP) this.add(this.#place(event));
    });
    surface.addEventListener("pointercancel", () => {
      pressed = null;
    });
  }

  /** Add a point and tell. */
  add(place) {
    this.points.push(newPoint(place));
    this.changed();
  }

  /** Remove a point and tell; the keyboard goes on at its neighbour. */
  remove(point) {
    const index = this.points.indexOf(point);
    if (index < 0) return;
    const focused = this.handles.get(point.id)?.matches(":focus");
    this.points.splice(index, 1);
    this.changed();
    const neighbour = this.points[Math.min(index, this.points.length - 1)];
    if (focused && neighbour) this.handles.get(neighbour.id).focus();
  }

  #handle(point) {
    const handle = svg(
      "g",
      {
        class: "handle",
        tabindex: 0,
        role: "button",
        "aria-roledescription": "point",
        "aria-describedby": "hint",
      },
      svg("circle", { class: "reach", r: 18 }),
      svg("circle", { class: "ring", r: 10 }),
      svg("circle", { class: "point", r: 6.5 }),
    );
    this.handles.set(point.id, handle);
    this.group.append(handle);
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      handle.setPointerCapture(event.pointerId);
      handle.classList.add("held");
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.#move(point, this.#place(event));
    });
    handle.addEventListener("lostpointercapture", () => handle.classList.remove("held"));
    handle.addEventListener("dblclick", () => this.remove(point));
    handle.addEventListener("keydown", (event) => this.#key(event, point));
  }

  #key(event, point) {
    const { x, y, inner } = this.chart.frame;
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.remove(point);
    } else if (event.key in ARROWS) {
      event.preventDefault();
      const [across, down] = ARROWS[event.key];
      const share = event.shiftKey ? STRIDE : STEP;
      if (across) {
        this.#move(point, { x: valueAt(x, x(point.x) + across * share * inner.width), y: point.y });
        return;
      }
      const moved = valueAt(y, y(point.y) + down * share * inner.height);
      const stays = possible(this.chart.output, moved) === point.y;
      this.#move(point, { x: point.x, y: stays ? point.y - down : moved });
    }
  }

  #move(point, { x, y }) {
    const { frame } = this.chart;
    point.x = inside(x, frame.x.domain());
    point.y = possible(this.chart.output, inside(y, frame.y.domain()));
    this.changed();
  }

  #place(event) {
    const box = this.chart.surface.getBoundingClientRect();
    const { x, y } = this.chart.frame;
    return {
      x: valueAt(x, event.clientX - box.left),
      y: possible(this.chart.output, valueAt(y, event.clientY - box.top)),
    };
  }
}
