// Returns by round: a line for each particle, and a dot on the one that was chosen after the round.

import { Frame } from "../curves/frame.js";
import { svg } from "../dom.js";
import { short } from "../numbers.js";
import { colourOf } from "./plane.js";

const d3 = globalThis.d3;
const HEIGHT = 210;
const LEAST_ROUNDS = 4;
const PLAIN = { transform: "none" };

/** The chart of the rounds of a task. */
export class Returns {
  constructor(host, resized) {
    this.frame = new Frame(host, { height: HEIGHT, role: "img", label: "", resized });
    this.lines = svg("g");
    this.frame.above.append(this.lines);
  }

  /** Draw the returns of these rounds. */
  draw(rounds, particles) {
    const values = rounds.map(({ returns }) => Array.from(returns));
    const [low, high] = d3.extent([0, ...values.flat()]);
    const air = 0.06 * (high - low || 1);
    const last = Math.max(LEAST_ROUNDS, rounds.length);
    const domain = [low - (low < 0 ? air : 0), high + air];
    this.frame.scaled(PLAIN, [1, last], PLAIN, domain, {
      xTitle: "round",
      yTitle: "mean return",
      yTicks: 4,
      whole: true,
    });
    const { x, y } = this.frame;
    const line = d3
      .line()
      .x((_, index) => x(index + 1))
      .y((value) => y(value));
    const marks = d3.range(values.length ? particles : 0).map((particle) =>
      svg("path", {
        class: "returns",
        d: line(values.map((row) => row[particle])),
        stroke: colourOf(particle, particles),
      }),
    );
    rounds.forEach(({ chosen }, index) => {
      const [cx, cy] = [x(index + 1), y(values[index][chosen])];
      marks.push(svg("circle", { class: "best", cx, cy, r: 5, fill: colourOf(chosen, particles) }));
    });
    this.lines.replaceChildren(...marks);
    this.frame.root.setAttribute("aria-label", inWords(rounds, values));
  }
}

/** The returns of the chosen particles, round by round. */
function inWords(rounds, values) {
  if (!rounds.length) return "Returns by round: none yet.";
  const each = rounds.map(({ chosen }, index) => `round ${index + 1} ${short(values[index][chosen])}`);
  return `Mean return of the best particle: ${each.join(", ")}.`;
}
