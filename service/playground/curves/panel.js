// The tab of curves: its controls, its state, and the round from a change to what is drawn.

import { byId, offer, say } from "../dom.js";
import { latest } from "../latest.js";
import { acquisitionWords } from "../models.js";
import { short } from "../numbers.js";
import { post } from "../service.js";
import { Gain, Parts } from "./below.js";
import { Belief } from "./belief.js";
import { examplesFor } from "./examples.js";
import { PointEditor, newPoint } from "./points.js";
import { domainOf, grid } from "./space.js";
import { PointTable } from "./table.js";
import { BEYOND, about, reading } from "./words.js";

/** The ends of the inner band; the outer one is the interval. */
const LEVELS = [0.25, 0.75];
const INTERVAL = 0.9;
const FIRST_SEED = 34;
const QUIET_MS = 500;
/** What acts on the points, or asks about them. */
const ACTING = ["belief", "points-table", "random", "clear-points", "label-next", "particles", "steps", "acquisition"];
const NO_EXAMPLES = "There are no ready examples for this model: add points of your own.";

export class CurvesPanel {
  constructor({ cards, limits }) {
    this.cards = cards.filter(
      (card) => card.kind === "regression" && card.inputs.length === 1 && card.outputs.length === 1,
    );
    this.acquisitions = limits.acquisitions.regression;
    this.defaultAcquisition = limits.default_acquisitions.regression;
    this.points = [];
    this.answer = null;
    this.example = null;
    this.seed = FIRST_SEED;
    this.turn = 0; // how often a model was chosen
  }

  /** Wire the controls and show a first example. */
  async start() {
    if (!this.cards.length) {
      say(byId("curves-problem"), "This service has no model of one input and one output to draw.");
      return;
    }
    const changed = () => this.#changed();
    this.belief = new Belief(byId("belief"), () => this.#draw());
    this.parts = new Parts(byId("parts"), () => this.#draw());
    this.gain = new Gain(byId("gain"), () => this.#draw());
    this.editor = new PointEditor(this.belief, this.points, changed);
    this.table = new PointTable(byId("points-table"), this.points, this.editor, changed);
    this.ask = latest(
      (wish) => this.#asked(wish),
      (answer, wish) => this.#answered(answer, wish),
      (error) => this.#refused(error),
    );
    const first = this.cards.find((card) => card.training.family?.kind === "sinusoid") ?? this.cards[0];
    offer(
      byId("curves-model"),
      this.cards.map((card) => [card.name, card.name]),
      first.name,
    );
    offer(
      byId("acquisition"),
      this.acquisitions.map((name) => [name, acquisitionWords(name)]),
      this.defaultAcquisition,
    );
    byId("curves-model").addEventListener("change", () => this.#model());
    byId("random").addEventListener("click", () => this.#example(Math.floor(1e9 * Math.random())));
    byId("clear-points").addEventListener("click", () => this.#clear());
    byId("truth").addEventListener("change", () => this.#draw());
    byId("particles").addEventListener("change", changed);
    byId("steps").addEventListener("input", changed);
    byId("acquisition").addEventListener("change", changed);
    byId("label-next").addEventListener("click", () => this.editor.add(this.#nextLabel()));
    await this.#model();
  }

  /** Show the chosen model. Until its examples are here the controls wait: an edit would be lost. */
  async #model() {
    const card = this.cards.find(({ name }) => name === byId("curves-model").value);
    const turn = ++this.turn;
    for (const each of ACTING) byId(each).inert = true;
    let [examples, lacking] = [null, NO_EXAMPLES];
    try {
      examples = await examplesFor(card);
    } catch (error) {
      const why = error.sentences?.() ?? error.message;
      lacking = `The ready examples cannot be loaded: add points of your own. ${why}`;
    }
    if (turn !== this.turn) return; // another model has been chosen meanwhile
    for (const each of ACTING) byId(each).inert = false;
    const [input] = card.inputs;
    const [output] = card.outputs;
    const stays = this.points.length > 0 && input.name === this.input.name && output.name === this.output.name;
    Object.assign(this, { card, examples, lacking, input, output });
    this.#none();
    say(byId("curves-about"), about(this.card));
    const slider = byId("steps");
    slider.disabled = this.card.steps === 0;
    slider.value = this.card.steps;
    say(
      byId("steps-about"),
      slider.disabled
        ? "This model adapts exactly, in closed form: there is nothing to iterate."
        : `Gradient steps on your points; it was trained with ${this.card.steps}.`,
    );
    byId("random").disabled = !this.examples;
    if (this.examples && !stays) {
      this.#example(this.seed);
      return;
    }
    if (!stays) {
      this.example = null;
      this.points.splice(0);
    }
    this.#space();
    this.#changed();
  }

  #example(seed) {
    this.seed = seed;
    this.example = this.examples(seed);
    byId("truth").checked = false;
    this.points.splice(0);
    this.#space();
    this.points.push(...this.example.points.map(newPoint));
    this.#changed();
  }

  #clear() {
    this.points.splice(0);
    this.#changed();
  }

  #space() {
    this.space = {
      input: this.input,
      output: this.output,
      xDomain: this.example?.xDomain ?? domainOf(this.input, 0),
      yDomain: this.example?.yDomain ?? domainOf(this.output, 0.08),
    };
    this.grid = grid(this.input, this.space.xDomain);
  }

  /** Something is another: show it at once, and ask what follows. */
  #changed() {
    say(byId("steps-value"), byId("steps").value);
    this.#accepted();
    this.#draw();
    const steps = byId("steps").disabled ? null : Number(byId("steps").value);
    this.ask({
      card: this.card,
      grid: this.grid,
      points: this.points.map(({ x, y }) => ({ x, y })),
      acquisition: byId("acquisition").value,
      adapt: { steps },
      particles: byId("particles").checked,
    });
  }

  async #asked({ card, grid: rows, points, acquisition, adapt, particles }) {
    const x = rows.map((value) => [value]);
    const support = { x: points.map((point) => [point.x]), y: points.map((point) => point.y) };
    const common = { model: card.name, version: card.version, support, adapt };
    const started = performance.now();
    const predicted = await post(
      "adapt-predict",
      { ...common, query: { x }, quantiles: LEVELS, interval: INTERVAL, particles },
      { tensors: true },
    );
    const choice = await post("uncertainty", { ...common, pool: { x }, acquisition }, { tensors: true });
    const { prediction, diagnostics, timing_ms: timing } = predicted;
    const device = timing.total + choice.timing_ms.total;
    return { card, grid: rows, prediction, diagnostics, choice, device, taken: performance.now() - started };
  }

  #answered(answer, { points }) {
    if (answer.card !== this.card) return;
    this.answer = answer;
    this.#accepted();
    say(
      byId("timing"),
      `Two answers in ${Math.round(answer.taken)} ms, ${Math.round(answer.device)} of them in the service.`,
    );
    this.#draw();
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => say(byId("reading"), reading(answer, points.length)), QUIET_MS);
  }

  /** There is no answer. */
  #none() {
    this.answer = null;
    clearTimeout(this.quiet);
    for (const part of ["reading", "timing", "parts-about"]) say(byId(part), "");
  }

  #draw() {
    if (!this.space) return;
    this.belief.setSpace(this.space);
    const { answer, example } = this;
    const revealed = byId("truth").checked && example !== null;
    byId("truth").disabled = example === null;
    byId("legend-truth").hidden = !revealed;
    const words = example?.words ?? (this.examples ? "" : this.lacking);
    say(byId("example-about"), revealed ? `${words} ${example.secret}` : words);
    const next = answer === null ? null : answer.grid[answer.choice.selected[0].index];
    this.#offerLabel();
    if (answer) {
      const truth = revealed ? example.truth : null;
      this.belief.draw({ ...answer, truth, next });
      const beyond = this.parts.draw(this.space, answer);
      say(byId("parts-about"), beyond ? BEYOND : "");
      this.gain.draw(this.space, answer);
    } else {
      for (const chart of [this.belief, this.parts, this.gain]) chart.clear();
    }
    this.editor.draw();
    this.table.draw(this.input, this.output);
  }

  #offerLabel() {
    const label = this.#nextLabel();
    byId("label-next").disabled = label === null;
    const nowhere = this.example
      ? "Everything that was measured is labelled."
      : "You know the truth, not this page: click in the chart at the marker.";
    const there = label && `at ${this.input.name} = ${short(label.x)}, ${this.example.place}`;
    say(byId("label-next-hint"), this.answer ? (there ?? nowhere) : "");
  }

  #nextLabel() {
    return this.answer && this.example && this.example.label(this.answer, this.points);
  }

  #refused(error) {
    this.#none();
    this.#draw();
    say(byId("curves-problem"), error.sentences?.((pointer) => this.#place(pointer)) ?? error.message);
    const places = (error.errors ?? []).map(({ pointer }) => pointer.split("/"));
    this.table.mark(
      places.filter(([, part]) => part === "support").map(([, , axis, row]) => ({ axis, row })),
    );
  }

  #accepted() {
    say(byId("curves-problem"), "");
    this.table.mark([]);
  }

  /** The place of a JSON pointer in words: "point 3". */
  #place(pointer) {
    const [, part, , row] = pointer.split("/");
    if (part === "support" && row !== undefined) return `point ${Number(row) + 1}`;
    return part === "adapt" ? "steps" : pointer;
  }
}
