// The tab for the reader's own rows: CSV in, predictions out, and the same request as code.

import { byId, offer, say } from "../dom.js";
import { latest } from "../latest.js";
import { valuesOf } from "../models.js";
import { count } from "../numbers.js";
import { post } from "../service.js";
import { Along } from "./along.js";
import { curl, python } from "./code.js";
import { CsvError, columnsOf, parsed, writtenInputs } from "./csv.js";
import { exampleFor } from "./example.js";
import { download, element, tabled } from "./table.js";

export class OwnPanel {
  constructor({ cards }) {
    this.cards = cards;
    this.table = null;
    this.example = "";
  }

  /** Wire the controls and show an example. */
  async start() {
    if (!this.cards.length) {
      say(byId("own-problem"), "This service has no model.");
      return;
    }
    this.ask = latest(
      (wish) => this.#asked(wish),
      (answer) => this.#answered(answer),
      (error) => this.#wrong(error.sentences?.((pointer) => this.#place(pointer)) ?? error.message),
    );
    this.along = new Along(() => this.#changed());
    const regression = this.cards.find((card) => card.kind === "regression") ?? this.cards[0];
    offer(
      byId("own-model"),
      this.cards.map((card) => [card.name, card.name]),
      regression.name,
    );
    byId("own-model").addEventListener("change", () => this.#model());
    byId("own-example").addEventListener("click", () => this.#example());
    byId("own-interval").addEventListener("change", () => this.#changed());
    byId("own-download").addEventListener("click", () =>
      download(this.table, `${this.card.name}-predictions.csv`),
    );
    byId("csv").addEventListener("input", () => this.#changed());
    byId("own-file").addEventListener("change", ({ target }) => {
      this.#file(target.files[0]);
      target.value = ""; // else the same file, mended, could not be opened again
    });
    this.#drop(byId("csv"));
    for (const language of ["curl", "python"])
      byId(`copy-${language}`).addEventListener("click", () => this.#copy(language));
    await this.#model();
  }

  get card() {
    return this.cards.find((card) => card.name === byId("own-model").value);
  }

  async #model() {
    const { inputs, outputs } = columnsOf(this.card);
    const values = new Map(this.card.outputs.map((column) => [column.name, valuesOf(column)]));
    const labels = this.card.target?.labels?.join(", ");
    const targets = outputs.map((name) => {
      const told = labels ?? values.get(name);
      return told ? `${name} (${told})` : name;
    });
    const { numbers, texts } = writtenInputs(this.card);
    const named = [...texts].map(([name, values]) => `${name} (${values.join(", ")})`);
    const asked = texts.size ? [...numbers.map(({ name }) => name), ...named] : inputs;
    const imageHint = this.card.image ? " An image is a file in base64, PNG or JPEG for example." : "";
    say(
      byId("own-columns"),
      `Columns: ${asked.join(", ")}; ${targets.join(", ")}, empty in the rows you ask about.${imageHint}`,
    );
    byId("own-interval").disabled = !this.#hasInterval();
    this.along.setCard(this.card);
    if (["", this.example].includes(byId("csv").value)) await this.#example();
    else this.#changed();
  }

  /** Show an example, unless the reader has chosen another model or written something meanwhile. */
  async #example() {
    const { card } = this;
    const before = byId("csv").value;
    const text = await exampleFor(card);
    if (card !== this.card || byId("csv").value !== before) return;
    byId("csv").value = text;
    this.example = text;
    this.#changed();
  }

  #changed() {
    const { card } = this;
    try {
      this.found = parsed(byId("csv").value, card);
    } catch (error) {
      if (!(error instanceof CsvError)) throw error;
      this.found = null;
      this.ask(null);
      this.#wrong(error.message);
      return;
    }
    const body = {
      model: card.name,
      version: card.version,
      support: this.found.support,
      query: this.found.query,
    };
    if (this.#hasInterval()) body.interval = Number(byId("own-interval").value);
    const url = new URL("adapt-predict", document.baseURI).href;
    say(byId("curl"), curl(url, body));
    say(
      byId("python"),
      python(url, body, card.kind === "regression" ? ["mean", "interval"] : ["label", "probabilities"]),
    );
    this.ask({ card, body, found: this.found });
  }

  /** Whether answers have an interval: of numbers, or of ordered classes. */
  #hasInterval() {
    return this.card.kind === "regression" || Boolean(this.card.target?.ordered);
  }

  async #asked({ card, body, found }) {
    const reply = await post("adapt-predict", body);
    const rows = this.along.rows(card, body.query);
    const along = rows && (await post("adapt-predict", { ...body, query: { x: rows.x } }));
    return { card, found, reply, rows, along };
  }

  #answered({ card, found, reply, rows, along }) {
    if (found !== this.found) return;
    this.#right();
    if (along) this.along.show(card, rows, along.prediction);
    this.table = tabled(card, found, reply.prediction);
    byId("own-table").replaceChildren(element(this.table));
    byId("own-download").disabled = false;
    const unused = found.unused.length ? ` Not used: ${found.unused.join(", ")}.` : "";
    const notes = reply.diagnostics.warnings.map((warning) => ` Note: ${warning}.`).join("");
    const { support, query } = found.lines;
    say(
      byId("own-reading"),
      `${count(query.length, "row")} predicted from ${count(support.length, "labelled row")}.${unused}${notes}`,
    );
  }

  #right() {
    say(byId("own-problem"), "");
    byId("csv").removeAttribute("aria-invalid");
  }

  #wrong(words) {
    say(byId("own-problem"), words);
    byId("csv").setAttribute("aria-invalid", "true");
    this.along.hide();
    byId("own-table").replaceChildren();
    byId("own-download").disabled = true;
    say(byId("own-reading"), "They appear here as soon as the rows can be read.");
  }

  /** A JSON pointer as the line it came from. */
  #place(pointer) {
    const parts = pointer.split("/");
    const row = parts.slice(2).find((part) => /^\d+$/.test(part));
    const line = row === undefined ? undefined : this.found?.lines[parts[1]]?.[Number(row)];
    return line === undefined ? pointer : `line ${line}`;
  }

  async #file(file) {
    if (!file) return;
    byId("csv").value = await file.text();
    this.#changed();
  }

  #drop(area) {
    const over = (is) => (event) => {
      if (!event.dataTransfer.types.includes("Files")) return; // text goes where the browser puts it
      event.preventDefault();
      area.classList.toggle("over", is);
    };
    area.addEventListener("dragover", over(true));
    area.addEventListener("dragleave", over(false));
    area.addEventListener("drop", over(false));
    area.addEventListener("drop", (event) => this.#file(event.dataTransfer.files[0]));
  }

  async #copy(language) {
    const code = byId(language);
    try {
      await navigator.clipboard.writeText(code.textContent);
      say(
        byId("copied"),
        `The ${language === "curl" ? "curl command" : "Python program"} is in the clipboard.`,
      );
    } catch {
      getSelection().selectAllChildren(code);
      say(byId("copied"), "The browser lets no page copy here; the text is selected instead.");
    }
  }
}
