// The probabilities of the classes of a table as one input varies: stacked, with a legend.

import { Frame } from "../curves/frame.js";
import { domainOf, grid } from "../curves/space.js";
import { byId, html, offer, svg } from "../dom.js";
import { percent, short } from "../numbers.js";
import { writtenInputs } from "./csv.js";

const d3 = globalThis.d3;
const HEIGHT = 240;
const SHARE = { transform: "none" };
/** The hues of two classes next to each other differ by so much of a circle. */
const TURN = 0.382;

/** The chart of one model at a time; `changed()` follows the choice of another input. */
export class Along {
  constructor(changed) {
    this.frame = new Frame(byId("own-along"), {
      height: HEIGHT,
      role: "img",
      label: "",
      resized: () => this.#draw(),
    });
    this.layers = svg("g");
    this.frame.plot.append(this.layers);
    this.shown = null;
    byId("own-along-input").addEventListener("change", changed);
  }

  /** Offer the inputs of this card; none where it has no classes of a table. */
  setCard(card) {
    this.inputs = card.target ? writtenInputs(card).numbers : [];
    this.hide();
    offer(
      byId("own-along-input"),
      this.inputs.map(({ name }) => [name, name]),
    );
  }

  /** Show that there is no answer. */
  hide() {
    this.shown = null;
    byId("own-along-card").hidden = true;
  }

  /** Rows like the first of the query, along the chosen input: {column, values, x}; null where there is none. */
  rows(card, query) {
    const column = this.inputs.find(({ name }) => name === byId("own-along-input").value);
    if (!column) return null;
    const place = card.inputs.indexOf(column);
    const values = grid(column, domainOf(column, 0));
    return { column, values, x: values.map((value) => query.x[0].with(place, value)) };
  }

  /** Draw a prediction of these rows. */
  show(card, { column, values }, prediction) {
    const { classes, probabilities } = prediction;
    const ends = probabilities.map((row) => [0, ...d3.cumsum(row)]);
    this.shown = { column, values, classes, ends, ordered: card.target.ordered };
    byId("own-along-card").hidden = false;
    byId("own-along-legend").replaceChildren(
      ...classes.map((name, index) =>
        html("li", {}, svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, this.#swatch(index)), `${name}`),
      ),
    );
    this.frame.root.setAttribute("aria-label", inWords(column, values, classes, probabilities));
    this.#draw();
  }

  #draw() {
    if (!this.shown) return;
    const { column, values, classes, ends } = this.shown;
    this.frame.scaled(column, domainOf(column, 0), SHARE, [0, 1], { xTitle: column.name, yTicks: 4 });
    const { x, y } = this.frame;
    const layer = (index) =>
      d3
        .area()
        .x((_, row) => x(values[row]))
        .y0((row) => y(row[index]))
        .y1((row) => y(row[index + 1]))(ends);
    this.layers.replaceChildren(
      ...classes.map((_, index) => svg("path", { class: "class-share", d: layer(index), fill: this.#colour(index) })),
    );
  }

  #swatch(index) {
    return svg("rect", { x: 1, y: 1, width: 14, height: 14, rx: 3, fill: this.#colour(index) });
  }

  /** Steps of one hue for classes in an order, hues for others. */
  #colour(index) {
    const { classes, ordered } = this.shown;
    if (ordered) return d3.interpolateHcl("#cfe3f1", "#0d3f66")(index / Math.max(1, classes.length - 1));
    return `${d3.hcl(360 * ((0.62 + index * TURN) % 1), 48, 62)}`;
  }
}

/** Which class comes first at both ends. */
function inWords(column, values, classes, probabilities) {
  const first = (row) => {
    const best = d3.maxIndex(probabilities[row]);
    return `${classes[best]} with ${percent(probabilities[row][best])} at ${short(values[row])}`;
  };
  return `Probabilities along ${column.name}: most probable are ${first(0)} and ${first(values.length - 1)}.`;
}
