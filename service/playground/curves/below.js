// The two small charts under the belief: the parts of its uncertainty, and the gain of a label.

import { svg } from "../dom.js";
import { short } from "../numbers.js";
import { Frame } from "./frame.js";

const d3 = globalThis.d3;
const HEIGHT = 150;
/** The 95 % quantile of a standard normal. */
const NORMAL_95 = 1.645;
/** So many times the deviation of a normal with the same band are heavy tails. */
const TAILS = 3;
const PLAIN = { transform: "none" };

/** The top of an axis from zero that holds these values. */
const topOf = (values) => 1.12 * Math.max(d3.max(values), 1e-12);

/** Epistemic and aleatoric standard deviations over x. */
export class Parts {
  constructor(host, resized) {
    this.frame = new Frame(host, { height: HEIGHT, role: "img", label: "", resized });
    this.paths = ["epistemic", "aleatoric"].map((part) => svg("path", { class: part }));
    this.frame.plot.append(...this.paths);
  }

  /**
   * Draw the variances of an answer as standard deviations. Returns whether they leave the chart: hypotheses
   * of little weight can have variances beside which everything else would be flat.
   */
  draw({ input, xDomain }, { grid, prediction }) {
    const { epistemic, aleatoric } = prediction.variance;
    const parts = [epistemic, aleatoric].map((variance) => Array.from(variance, Math.sqrt));
    const { lower, upper } = prediction.interval;
    const asNormal = d3.max(grid, (_, row) => (upper[row] - lower[row]) / (2 * NORMAL_95));
    const most = Math.max(...parts.map(topOf));
    const top = most > TAILS * asNormal ? 1.5 * asNormal : most;
    this.frame.scaled(input, xDomain, PLAIN, [0, top], { xTitle: input.name, yTicks: 3 });
    const { x, y } = this.frame;
    const area = d3
      .area()
      .x((_, row) => x(grid[row]))
      .y0(y(0) + 2)
      .y1((value) => y(value));
    parts.forEach((values, index) => this.paths[index].setAttribute("d", area(values)));
    const [unsure, noise] = [d3.maxIndex(parts[0]), d3.maxIndex(parts[1])];
    this.frame.root.setAttribute(
      "aria-label",
      `Over ${input.name}: epistemic standard deviation, at most ${short(parts[0][unsure])} at ${short(grid[unsure])}; ` +
        `aleatoric, at most ${short(parts[1][noise])} at ${short(grid[noise])}.`,
    );
    return top < most;
  }

  /** Show that there is no answer. */
  clear() {
    this.frame.clear();
    for (const path of this.paths) path.removeAttribute("d");
  }
}

/** The score of an acquisition over x, and its best place. */
export class Gain {
  constructor(host, resized) {
    this.frame = new Frame(host, { height: HEIGHT, role: "img", label: "", resized });
    this.path = svg("path", { class: "gain" });
    this.mark = svg("g");
    this.frame.plot.append(this.path);
    this.frame.above.append(this.mark);
  }

  /** Draw the scores of a choice. */
  draw({ input, xDomain }, { grid, choice }) {
    const scores = Array.from(choice.scores);
    const low = Math.min(0, d3.min(scores));
    const domain = [low, low + Math.max(1.15 * (d3.max(scores) - low), 1e-12)];
    this.frame.scaled(input, xDomain, PLAIN, domain, { xTitle: input.name, yTicks: 3 });
    const { x, y, inner } = this.frame;
    const area = d3
      .area()
      .x((_, row) => x(grid[row]))
      .y0(y(low) + 2)
      .y1((value) => y(value));
    this.path.setAttribute("d", area(scores));
    const best = choice.selected[0];
    const [at, height] = [x(grid[best.index]), y(best.score)];
    this.mark.replaceChildren(
      svg("line", { class: "next-line", x1: at, x2: at, y1: height, y2: inner.height }),
      svg("circle", { class: "next-dot", cx: at, cy: height, r: 6 }),
    );
    this.frame.root.setAttribute(
      "aria-label",
      `Gain of a label over ${input.name}, in ${choice.units}; highest at ${short(grid[best.index])}.`,
    );
  }

  /** Show that there is no answer. */
  clear() {
    this.frame.clear();
    this.path.removeAttribute("d");
    this.mark.replaceChildren();
  }
}
