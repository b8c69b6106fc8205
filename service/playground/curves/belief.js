// The chart of what the model believes: bands, particles, mean, truth, and the place to label next.

import { put, svg } from "../dom.js";
import { short } from "../numbers.js";
import { Frame } from "./frame.js";

const d3 = globalThis.d3;
const HEIGHT = 380;
const MOST_LINES = 48;

/** Draws one answer; `points` are another's. */
export class Belief {
  constructor(host, resized) {
    this.frame = new Frame(host, {
      height: HEIGHT,
      role: "group",
      label: "Chart of the belief and your points",
      resized,
    });
    this.layers = {
      outer: svg("path", { class: "band-90" }),
      inner: svg("path", { class: "band-50" }),
      particles: svg("g"),
      truth: svg("g"),
      mean: svg("path", { class: "mean" }),
      cross: svg("line", { class: "cross", visibility: "hidden" }),
      next: svg("g"),
    };
    this.surface = svg("rect", { class: "surface" });
    this.frame.plot.append(...Object.values(this.layers), this.surface);
    this.surface.addEventListener("pointermove", (event) => this.#hover(event));
    this.surface.addEventListener("pointerleave", () => this.#leave());
  }

  /** The space to draw in: a card's columns and the domains that are shown. */
  setSpace({ input, output, xDomain, yDomain }) {
    this.output = output;
    this.frame.scaled(input, xDomain, output, yDomain, {
      xTitle: input.name,
      yTitle: output.name,
      yTicks: 7,
    });
    const { width, height } = this.frame.inner;
    put(this.surface, { width, height });
    put(this.layers.cross, { y1: 0, y2: height });
  }

  /** Draw an answer: `grid` of x, the prediction there, the truth if it is to be seen, the x to label next. */
  draw({ grid, prediction, truth, next }) {
    this.shown = { grid, prediction };
    const { x, y } = this.frame;
    const at = (row) => x(grid[row]);
    const area = (low, high) =>
      d3
        .area()
        .x((_, row) => at(row))
        .y0((_, row) => y(low[row]))
        .y1((_, row) => y(high[row]))(grid);
    const line = d3
      .line()
      .x((_, row) => at(row))
      .y((value) => y(value));
    const { interval, quantiles } = prediction;
    this.layers.outer.setAttribute("d", area(interval.lower, interval.upper));
    this.layers.inner.setAttribute("d", area(quantiles.values[0], quantiles.values[1]));
    this.layers.mean.setAttribute("d", line(prediction.mean));
    this.#particles(prediction.particles, line);
    this.#truth(truth, grid);
    this.#next(next);
  }

  /** Show that there is no answer. */
  clear() {
    const { outer, inner, mean, particles, truth, next } = this.layers;
    this.shown = null;
    for (const path of [outer, inner, mean]) path.removeAttribute("d");
    for (const group of [particles, truth, next]) group.replaceChildren();
    this.#leave();
  }

  #particles(particles, line) {
    const count = particles ? Math.min(MOST_LINES, particles.weight.length) : 0;
    const group = this.layers.particles;
    while (group.childElementCount > count) group.lastChild.remove();
    while (group.childElementCount < count) group.append(svg("path", { class: "particle" }));
    for (let index = 0; index < count; index += 1) {
      const share = particles.weight[index] / particles.weight[0];
      const opacity = (0.06 + 0.54 * Math.sqrt(share)).toFixed(3);
      put(group.children[index], { d: line(particles.mean[index]), "stroke-opacity": opacity });
    }
  }

  #truth(truth, grid) {
    const { x, y } = this.frame;
    const parts = [];
    if (truth?.curve) {
      const line = d3
        .line()
        .x((value) => x(value))
        .y((value) => y(truth.curve(value)));
      parts.push(svg("path", { class: "truth", d: line(grid) }));
    }
    for (const point of truth?.points ?? []) {
      parts.push(svg("circle", { class: "truth", cx: x(point.x), cy: y(point.y), r: 4 }));
    }
    this.layers.truth.replaceChildren(...parts);
  }

  #next(next) {
    if (next === null) return this.layers.next.replaceChildren();
    const at = this.frame.x(next);
    const right = at < this.frame.inner.width - 120;
    return this.layers.next.replaceChildren(
      svg("line", { class: "next-line", x1: at, x2: at, y1: 0, y2: this.frame.inner.height }),
      svg(
        "text",
        { class: "next-word", x: at + (right ? 6 : -6), y: 12, "text-anchor": right ? "start" : "end" },
        "label here next",
      ),
    );
  }

  #hover(event) {
    if (!this.shown || event.pointerType === "touch") return;
    const { grid, prediction } = this.shown;
    const box = this.surface.getBoundingClientRect();
    const row = d3.bisectCenter(grid, this.frame.x.invert(event.clientX - box.left));
    const at = this.frame.x(grid[row]);
    put(this.layers.cross, { x1: at, x2: at, visibility: "visible" });
    const { interval, quantiles } = prediction;
    const words = [
      `at ${short(grid[row])}`,
      `mean  ${short(prediction.mean[row])}`,
      `50 %  ${short(quantiles.values[0][row])} … ${short(quantiles.values[1][row])}`,
      `90 %  ${short(interval.lower[row])} … ${short(interval.upper[row])}`,
    ];
    this.frame.tell(words.join("\n"), at, event.clientY - box.top);
  }

  #leave() {
    put(this.layers.cross, { visibility: "hidden" });
    this.frame.tell("");
  }
}
