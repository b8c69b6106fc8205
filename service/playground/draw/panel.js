// The tab of drawing: teach classes, ask about a drawing, and hear what to draw next.

import { byId, html, offer, say } from "../dom.js";
import { latest } from "../latest.js";
import { acquisitionWords } from "../models.js";
import { post } from "../service.js";
import { showAnswer, showNone } from "./answer.js";
import { Classes } from "./classes.js";
import { GLYPHS, variant } from "./glyphs.js";
import { image, thumb } from "./ink.js";
import { Pad } from "./pad.js";

const FIRST = ["balloon", "key", "eight"];
/** A balloon whose ring is not drawn to its end. */
const FIRST_QUERY = variant([GLYPHS.balloon[0].slice(0, 10), GLYPHS.balloon[1]], 7);
const QUIET_MS = 500;
const KEEP = { ttl_s: 300 };
const VARIANTS = 2;
const SUGGESTED = 6;
const ALONE = 1.05;
const UNRANKED = { selected: [] };
/** The ready drawings of which the model picks. */
const POOL = Object.entries(GLYPHS).flatMap(([name, strokes], glyph) =>
  Array.from({ length: VARIANTS }, (_, copy) => ({
    id: `${name} ${copy + 1}`,
    strokes: variant(strokes, 100 + VARIANTS * glyph + copy),
  })),
);

export class DrawPanel {
  constructor({ cards, limits }) {
    this.cards = cards.filter((card) => card.image?.drawing);
    this.acquisitions = limits.acquisitions.classification.filter((name) => name !== "epig");
    this.defaultAcquisition = limits.default_acquisitions.classification;
    this.ranked = UNRANKED;
  }

  /** Wire the controls; a first example is drawn already. */
  async start() {
    if (!this.cards.length) {
      say(byId("draw-problem"), "This service has no model of drawings.");
      return;
    }
    const refused = (error) => say(byId("draw-problem"), error.sentences?.() ?? error.message);
    this.ask = latest(
      (wish) => this.#asked(wish),
      (answer, wish) => this.#answered(answer, wish),
      (error) => {
        this.#none("");
        refused(error);
      },
    );
    this.rank = latest(
      (wish) => this.#ranked(wish),
      (answer) => this.#suggest(answer),
      refused,
    );
    offer(
      byId("draw-model"),
      this.cards.map((card) => [card.name, card.name]),
    );
    offer(
      byId("draw-acquisition"),
      this.acquisitions.map((name) => [name, acquisitionWords(name)]),
      this.defaultAcquisition,
    );
    const changed = () => this.#changed();
    this.query = new Pad("Question", changed);
    this.classes = new Classes(byId("classes"), changed);
    byId("query-pad").append(this.query.element);
    FIRST.forEach((name, index) => this.classes.add(variant(GLYPHS[name], index + 1)));
    this.query.set(FIRST_QUERY);
    byId("add-class").addEventListener("click", () => this.classes.add());
    byId("remove-class").addEventListener("click", () => this.classes.drop());
    byId("draw-model").addEventListener("change", () => {
      this.#none("");
      this.rank(null);
      this.#suggest(UNRANKED);
      changed();
    });
    byId("suggest").addEventListener("click", () => this.#wantSuggestions());
    byId("draw-acquisition").addEventListener("change", () => this.#wantSuggestions());
  }

  get card() {
    return this.cards.find((card) => card.name === byId("draw-model").value);
  }

  #changed() {
    byId("add-class").disabled = this.classes.full;
    byId("remove-class").disabled = this.classes.few;
    say(byId("draw-problem"), "");
    if (this.classes.names.join("\n") !== this.offered) this.#suggest(this.ranked);
    const support = this.#support();
    const { strokes } = this.query;
    if (!support) this.#nothing(this.missing);
    else if (!strokes.length) this.#nothing("Draw something to ask about it.");
    else {
      this.ask({
        card: this.card,
        support,
        names: [...new Set(support.y)],
        strokes: strokes.map((stroke) => [...stroke]),
      });
    }
  }

  #nothing(words) {
    this.ask(null);
    this.#none(words);
  }

  /** Show words instead of an answer. */
  #none(words) {
    showNone();
    for (const part of ["draw-timing", "mutual-about"]) say(byId(part), "");
    this.#read(words);
  }

  /** The support rows, or null with `missing` saying what there is too little of. */
  #support() {
    const { rows, empty } = this.classes.taught();
    this.missing = empty.length ? `Draw an example of ${empty.join(" and of ")} first.` : "";
    const labels = new Set(rows.map((row) => row.label));
    if (!empty.length && labels.size < 2)
      this.missing = "Two classes have the same name: give them different ones.";
    if (this.missing) return null;
    const images = rows.map((row) => image(row.strokes, this.card.image.size));
    return { x: { images }, y: rows.map((row) => row.label) };
  }

  async #asked({ card, support, strokes }) {
    const started = performance.now();
    const query = { x: { images: [image(strokes, card.image.size)] } };
    // Kept: while the pen moves only the query is embedded anew.
    const reply = await post("adapt-predict", {
      model: card.name,
      version: card.version,
      support,
      query,
      keep: KEEP,
    });
    return { ...reply, taken: performance.now() - started };
  }

  #answered({ prediction, diagnostics, taken }, { card, names }) {
    if (card !== this.card) return;
    say(byId("draw-problem"), "");
    say(byId("draw-timing"), `Answered in ${Math.round(taken)} ms.`);
    const alone = diagnostics.effective_particles < ALONE;
    say(
      byId("mutual-about"),
      alone ? "One particle carries all the weight here: there is no other to disagree with." : "",
    );
    this.#read(showAnswer(prediction, names));
  }

  #read(words) {
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => say(byId("draw-reading"), words), QUIET_MS);
  }

  #wantSuggestions() {
    const support = this.#support();
    if (support) this.rank({ card: this.card, support, acquisition: byId("draw-acquisition").value });
    else say(byId("draw-problem"), this.missing);
  }

  #ranked({ card, support, acquisition }) {
    return post("uncertainty", {
      model: card.name,
      version: card.version,
      support,
      pool: {
        ids: POOL.map((each) => each.id),
        x: { images: POOL.map((each) => image(each.strokes, card.image.size)) },
      },
      acquisition,
      batch: { size: SUGGESTED, strategy: "top_k" },
      exclude: POOL.filter(({ strokes }) => this.classes.has(strokes)).map((each) => each.id),
      keep: KEEP,
    });
  }

  /** The drawings that the model picked, with a button for each class as it is named now. */
  #suggest(ranked) {
    const { selected, units } = ranked;
    this.ranked = ranked;
    this.offered = this.classes.names.join("\n");
    const items = selected.map(({ rank, id, index, score }) => {
      const { strokes } = POOL[index];
      const ask = html(
        "button",
        {
          type: "button",
          className: "image",
          title: "Ask about it",
          "aria-label": `Ask about ${id}`,
          onclick: () => this.query.set(strokes),
        },
        thumb(strokes),
      );
      const labels = this.classes.all.map((each) => {
        const name = this.classes.nameOf(each);
        return html("button", {
          type: "button",
          className: "small",
          textContent: name,
          "aria-label": `${id} is ${name}`,
          onclick: () => this.#learn(each, strokes),
        });
      });
      return html(
        "li",
        {},
        ask,
        html("strong", { textContent: `${rank}. ${id}` }),
        html("span", { textContent: `${score.toFixed(3)} ${units}` }),
        html("div", { className: "row" }, html("span", { textContent: "is" }), ...labels),
      );
    });
    byId("suggestions").replaceChildren(...items);
  }

  #learn(each, strokes) {
    this.classes.keep(each, strokes);
    this.#wantSuggestions();
    byId("suggest").focus();
  }
}
