// The tab of pictures: photographs in named piles, pictures in question, and pictures to be labelled next.

import { byId, html, offer, say } from "../dom.js";
import { showAnswer, showNone } from "../draw/answer.js";
import { latest } from "../latest.js";
import { acquisitionWords } from "../models.js";
import { count, percent } from "../numbers.js";
import { Asker } from "./ask.js";
import { groceries } from "./example.js";
import { Pile, face } from "./pile.js";
import { Piles } from "./piles.js";

const PREFIX = "pictures-";
const SUGGESTED = 6;
const NOTHING = "Drop a picture to ask about it.";
const UNREADABLE = "Two piles need a picture that can be read.";

export class PicturesPanel {
  constructor({ cards, limits }) {
    this.cards = cards.filter((card) => card.image);
    this.limits = limits;
    this.asker = new Asker(limits);
    this.looked = null;
    this.ranking = false;
  }

  /** Wire the controls; the groceries lie there where a model of photographs does. */
  async start() {
    if (!this.cards.length) {
      say(byId("pictures-problem"), "This service has no model of images.");
      return;
    }
    const then = (answered) => (reply, wish) => {
      if (wish.at === this.at) answered(reply, wish);
    };
    this.ask = latest(
      (wish) => this.#asked(wish),
      then((reply, wish) => this.#answered(reply, wish)),
      (error) => this.#failed(error),
    );
    this.rank = latest(
      ({ card, rows, pool, acquisition }) => this.asker.rank(card, rows, pool, acquisition, SUGGESTED),
      then((reply) => this.#suggest(reply)),
      (error) => this.#unranked(inWords(error)),
    );
    this.load = latest(
      groceries,
      (found) => this.#begin(found),
      (error) => say(byId("pictures-problem"), inWords(error)),
    );
    const first = this.cards.find(({ image }) => image.channels === 3) ?? this.cards[0];
    offer(
      byId("pictures-model"),
      this.cards.map(({ name }) => [name, name]),
      first.name,
    );
    const { classification } = this.limits.acquisitions;
    offer(
      byId("pictures-acquisition"),
      classification.filter((name) => name !== "epig").map((name) => [name, acquisitionWords(name)]),
      this.limits.default_acquisitions.classification,
    );
    const changed = () => this.#changed();
    this.piles = new Piles(byId("piles"), changed, () => Math.min(this.card.classes, this.limits.classes));
    const asked = (added) => {
      if (added) this.looked = this.asking.good.at(-1) ?? null;
      changed();
    };
    this.asking = new Pile("the question", asked, (picture) => this.#look(picture));
    this.pool = new Pile("the pictures without a label", changed);
    byId("pictures-asked").append(this.asking.element);
    byId("pictures-pool").append(this.pool.element);
    byId("pictures").addEventListener("dragover", (event) => event.preventDefault());
    byId("pictures").addEventListener("drop", (event) => event.preventDefault());
    byId("add-pile").addEventListener("click", () => {
      this.piles.add();
      changed();
    });
    byId("pictures-clear").addEventListener("click", () => this.#begin());
    byId("pictures-example").addEventListener("click", () => this.load({}));
    byId("pictures-model").addEventListener("change", changed);
    byId("pictures-rank").addEventListener("click", () => this.#wantRanks());
    byId("pictures-acquisition").addEventListener("change", () => this.#wantRanks());
    this.#begin();
    if (first.image.channels === 3) await this.load({});
  }

  get card() {
    return this.cards.find(({ name }) => name === byId("pictures-model").value);
  }

  /** These pictures and no others; an example that is still loading is not wanted any more. */
  #begin({ piles = [], asked = [], unlabelled = [] } = {}) {
    this.load(null);
    this.piles.set(piles);
    this.asking.empty();
    this.asking.put(asked);
    this.pool.empty();
    this.pool.put(unlabelled);
    this.ranking = false;
    this.#changed();
  }

  /** Whatever was asked before is out of date. */
  #changed() {
    this.at = {};
    const { card, piles } = this;
    say(byId("pictures-about"), card.description ?? "");
    say(byId("pictures-problem"), "");
    byId("add-pile").disabled = piles.full;
    if (!this.asking.good.includes(this.looked)) this.looked = this.asking.good.at(-1) ?? null;
    const lacking = this.#lacking();
    if (lacking || !this.looked) this.#nothing(lacking || NOTHING);
    else this.ask({ at: this.at, card, rows: piles.taught().rows, pictures: [...this.asking.good] });
    if (this.ranking) this.#wantRanks();
    else this.#unranked("");
  }

  /** What there is too little of before anything can be asked; no words where there is enough. */
  #lacking() {
    const { names, twice } = this.piles.taught();
    if (twice) return `Two piles are named “${twice}”: give them different names.`;
    return names.length < 2 ? "Two piles need a picture each." : "";
  }

  #nothing(words) {
    this.answer = null;
    this.ask(null);
    showNone(PREFIX);
    say(byId("pictures-reading"), words);
    say(byId("pictures-timing"), "");
    this.#warn([]);
    this.#draw();
  }

  async #asked({ card, rows, pictures }) {
    const started = performance.now();
    const reply = await this.asker.predict(card, rows, pictures);
    return reply && { ...reply, taken: performance.now() - started };
  }

  #answered(reply, { rows }) {
    if (!this.asking.good.includes(this.looked)) this.looked = this.asking.good.at(-1) ?? null;
    if (!reply || !this.looked) {
      this.#nothing(reply || !this.asking.good.length ? NOTHING : UNREADABLE);
      return;
    }
    const taught = new Set(rows.map(({ label }) => label));
    this.answer = { ...reply, names: [...taught].filter((name) => reply.prediction.classes.includes(name)) };
    say(byId("pictures-timing"), `Answered in ${Math.round(reply.taken)} ms.`);
    this.#warn(reply.warnings);
    this.#draw();
  }

  #look(picture) {
    this.looked = picture;
    this.#draw();
  }

  /** Tiles with their notes, and the answer about the picture that is looked at. */
  #draw() {
    const scaled = (picture) => (picture.isScaled ? "scaled down" : "");
    for (const { pile } of this.piles.all) pile.show(scaled);
    this.pool.show(scaled);
    const rowOf = (picture) => this.answer?.pictures.indexOf(picture) ?? -1;
    this.asking.show((picture) => {
      const row = rowOf(picture);
      const words = row < 0 ? "" : believed(this.answer.prediction, row);
      return [words, scaled(picture)].filter(Boolean).join(", ");
    }, this.looked);
    this.#sent();
    const row = rowOf(this.looked);
    if (row < 0) return;
    const { prediction, names } = this.answer;
    const words = showAnswer(prediction, names, { row, prefix: PREFIX });
    say(byId("pictures-reading"), `${this.looked.name}: ${words}`);
  }

  /** How many pictures are not sent as their files are. */
  #sent() {
    const all = [...this.piles.all.map(({ pile }) => pile), this.asking, this.pool].flatMap((pile) => pile.good);
    const scaled = all.filter((picture) => picture.isScaled).length;
    const words =
      `${count(scaled, "picture")} of ${all.length} did not fit into a request as the file is, and ` +
      `${scaled === 1 ? "is" : "are"} scaled down in this page: the answer may differ a little from the file's.`;
    say(byId("pictures-sent"), scaled ? words : "");
  }

  #warn(warnings) {
    byId("pictures-warnings").replaceChildren(
      ...warnings.map((words) => html("li", { textContent: words })),
    );
  }

  #failed(error) {
    this.#nothing("");
    say(byId("pictures-problem"), inWords(error));
  }

  #wantRanks() {
    const { card } = this;
    const pool = [...this.pool.good];
    const lacking = this.#lacking() || (pool.length ? "" : "Drop pictures without a label first.");
    if (lacking) {
      this.#unranked(lacking);
      return;
    }
    this.ranking = true;
    const acquisition = byId("pictures-acquisition").value;
    this.rank({ at: this.at, card, rows: this.piles.taught().rows, pool, acquisition });
  }

  /** Show words instead of an order. */
  #unranked(words) {
    this.ranking = false;
    this.rank(null);
    say(byId("pictures-ranked"), words);
    byId("pictures-suggestions").replaceChildren();
  }

  #suggest(reply) {
    this.#draw();
    if (!reply) {
      this.#unranked("None of these pictures can be read.");
      return;
    }
    const { selected, pictures, units } = reply;
    say(byId("pictures-ranked"), `Label ${pictures[selected[0].index].name} first.`);
    const items = selected.map(({ rank, index, score, epistemic }) => {
      const picture = pictures[index];
      const labels = this.piles.all.map((each) => {
        const name = this.piles.nameOf(each);
        return html("button", {
          type: "button",
          className: "small",
          textContent: name,
          "aria-label": `${picture.name} is ${name}`,
          onclick: () => this.#learn(picture, each),
        });
      });
      return html(
        "li",
        {},
        face(picture),
        html("strong", { textContent: `${rank}. ${picture.name}` }),
        html("span", { textContent: `${score.toFixed(3)} ${units}` }),
        html("span", { className: "hint", textContent: `epistemic ${epistemic.toFixed(3)} nats` }),
        html("div", { className: "row" }, html("span", { textContent: "is" }), ...labels),
      );
    });
    byId("pictures-suggestions").replaceChildren(...items);
  }

  #learn(picture, { pile }) {
    this.pool.take(picture);
    pile.put([picture]);
    this.#changed();
    byId("pictures-rank").focus();
  }
}

const inWords = (error) => error.sentences?.() ?? error.message;

/** The first class of a row and its share. */
function believed({ classes, probabilities }, row) {
  const shares = probabilities[row];
  const most = Math.max(...shares);
  return `${classes[shares.indexOf(most)]} ${percent(most)}`;
}
