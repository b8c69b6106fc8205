// The plane: where a goal may lie, the goal, and the paths of a round in a colour for each particle.

import { MARGIN, Frame } from "../curves/frame.js";
import { put, svg } from "../dom.js";
import { START } from "./worlds.js";

const d3 = globalThis.d3;
const HIGHEST = 470;
const PLAIN = { transform: "none" };

/** The colour of a particle; all of them lie around one circle of hues. */
export const colourOf = (particle, particles) => `${d3.hcl((360 * particle) / particles + 20, 62, 58)}`;

/** The chart; `placed(place)` follows a click or a drag in it. */
export class Plane {
  constructor(host, resized, placed) {
    this.frame = new Frame(host, { height: HIGHEST, role: "img", label: "", resized });
    this.area = svg("g");
    this.paths = svg("g");
    this.chosen = svg("g");
    this.paid = svg("circle", { class: "paid" });
    this.goal = svg(
      "g",
      { class: "handle" },
      svg("circle", { class: "reach", r: 20 }),
      svg("path", { class: "goal", d: d3.symbol(d3.symbolStar, 190)() }),
    );
    this.surface = svg("rect", { class: "surface" });
    this.frame.plot.append(this.surface, this.area, this.paid, this.paths, this.chosen, this.goal);
    const place = (event) => {
      const box = this.surface.getBoundingClientRect();
      const { x, y } = this.frame;
      placed([x.invert(event.clientX - box.left), y.invert(event.clientY - box.top)]);
    };
    this.surface.addEventListener("click", place);
    this.goal.addEventListener("pointerdown", (event) => {
      if (event.button === 0) this.goal.setPointerCapture(event.pointerId);
    });
    this.goal.addEventListener("pointermove", (event) => {
      if (this.goal.hasPointerCapture(event.pointerId)) place(event);
    });
  }

  /** Draw a world with its goal, episodes, and the particle that is chosen; null for none. */
  draw({ world, goal, episodes, particles, chosen, words }) {
    const inner = Math.max(40, this.frame.width - MARGIN.left - MARGIN.right);
    const height = Math.min(HIGHEST - MARGIN.top - MARGIN.bottom, inner);
    this.frame.height = height + MARGIN.top + MARGIN.bottom;
    put(this.frame.root, { height: this.frame.height });
    const unit = Math.min(inner, height) / (2 * world.reach);
    const [across, up] = [inner / (2 * unit), height / (2 * unit)];
    this.frame.scaled(PLAIN, [-across, across], PLAIN, [-up, up], { xTitle: "x", yTitle: "y" });
    const { x, y } = this.frame;
    put(this.surface, this.frame.inner);
    this.area.replaceChildren(...allowed(world, x, y, unit));
    const line = d3
      .line()
      .x(([across]) => x(across))
      .y(([, up]) => y(up));
    const path = (episode) =>
      svg("path", {
        class: episode.particle === chosen ? "walk chosen" : "walk",
        d: line(episode.places),
        stroke: colourOf(episode.particle, particles),
      });
    this.paths.replaceChildren(...episodes.filter(({ particle }) => particle !== chosen).map(path));
    this.chosen.replaceChildren(
      ...episodes.filter(({ particle }) => particle === chosen).map(path),
      svg("circle", { class: "start", cx: x(START[0]), cy: y(START[1]), r: 4 }),
    );
    const [cx, cy] = [x(goal[0]), y(goal[1])];
    put(this.paid, { cx, cy, r: unit * (world.paidWithin ?? 0) });
    put(this.goal, { transform: `translate(${cx} ${cy})` });
    this.frame.root.setAttribute("aria-label", words);
  }
}

/** Where goals may lie: the ring, or the square. */
function allowed(world, x, y, unit) {
  if (world.radius) {
    return [svg("circle", { class: "allowed", cx: x(0), cy: y(0), r: unit * world.radius })];
  }
  const [left, top] = world.nearest([-9, 9]);
  const size = 2 * unit * top;
  return [svg("rect", { class: "allowed", x: x(left), y: y(top), width: size, height: size })];
}
