// The tab of policies: a goal that no particle is told, rounds of episodes, and what came of them.

import { byId, html, offer, say } from "../dom.js";
import { count, draws, percent, short } from "../numbers.js";
import { ServiceError } from "../service.js";
import { Plane, colourOf } from "./plane.js";
import { Returns } from "./returns.js";
import { Task } from "./task.js";
import { before, found, reading, scene, unknownWorld } from "./words.js";
import { worldOf } from "./worlds.js";

const FIRST_SEED = 8;

export class PoliciesPanel {
  constructor({ policies, limits }) {
    this.cards = policies;
    this.limits = limits;
    this.seed = FIRST_SEED;
    this.task = null;
    this.acting = null;
  }

  /** Wire the controls and show a first task. */
  async start() {
    if (!this.cards.length) {
      this.#playable(false);
      say(byId("policies-problem"), "This service has no policy.");
      return;
    }
    const first = this.cards.find((card) => card.training.family?.world === "ring") ?? this.cards[0];
    offer(
      byId("policies-model"),
      this.cards.map((card) => [card.name, card.name]),
      first.name,
    );
    const redraw = () => this.#draw();
    this.plane = new Plane(byId("policies-plane"), redraw, (place) => this.#placed(place));
    this.returns = new Returns(byId("policies-returns"), redraw);
    byId("policies-model").addEventListener("change", () => this.#model());
    byId("policies-shown").addEventListener("change", redraw);
    byId("policies-round").addEventListener("click", () => this.#round());
    byId("policies-again").addEventListener("click", () => this.#drawn());
    this.#model();
  }

  #model() {
    this.card = this.cards.find(({ name }) => name === byId("policies-model").value);
    this.world = worldOf(this.card);
    say(byId("policies-about"), [this.card.description, this.world?.about].filter(Boolean).join(" "));
    this.#playable(this.world !== undefined);
    if (!this.world) {
      this.#close();
      say(byId("policies-problem"), unknownWorld(this.card));
      return;
    }
    this.#sliders();
    this.#drawn();
  }

  /** Show, or hide, all that needs a world. */
  #playable(shown) {
    for (const part of ["task", "goal", "state", "history"]) byId(`policies-${part}`).hidden = !shown;
  }

  /** A range input for each number of a goal: all that the plane does, by keyboard. */
  #sliders() {
    this.fields = this.world.sliders.map(({ name, ...range }, index) => {
      const id = `policies-goal-${index}`;
      const field = html("input", { type: "range", id, ...range });
      const value = html("output", { for: id });
      field.addEventListener("input", () => {
        const values = this.fields.map((each) => each.field.valueAsNumber);
        this.#begin(this.world.goalOf(values));
      });
      return { field, value, row: html("label", { for: id }, `${name}: `, value) };
    });
    byId("policies-sliders").replaceChildren(...this.fields.flatMap(({ row, field }) => [row, field]));
  }

  #drawn() {
    const draw = draws(this.seed);
    this.#begin(this.#onSliders(this.world.drawn(draw(), draw())));
  }

  #onSliders(goal) {
    return this.world.goalOf(this.world.valuesOf(goal));
  }

  #placed(place) {
    const goal = this.#onSliders(this.world.nearest(place));
    if (goal.some((value, axis) => value !== this.task.goal[axis])) this.#begin(goal);
  }

  /** A new task: whatever the particles learned about another goal is left behind. */
  #begin(goal) {
    this.#close();
    this.seed += 1;
    this.task = new Task(this.card, this.world, goal, draws(1000 * this.seed));
    this.world.valuesOf(goal).forEach((value, index) => {
      const { field, value: words } = this.fields[index];
      if (field !== document.activeElement) field.value = value;
      say(words, short(value));
    });
    say(byId("policies-problem"), "");
    say(byId("policies-reading"), before(this.task));
    say(byId("policies-found"), "");
    this.#offerRounds();
    this.#busy(false);
    this.#draw();
  }

  #close() {
    if (this.task) this.task.closed = true;
    this.acting = null;
  }

  async #round() {
    const { task } = this;
    if (byId("policies-round").getAttribute("aria-disabled") === "true") return;
    say(byId("policies-problem"), "");
    this.#busy(true);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    try {
      const done = await task.round((episodes) => {
        this.acting = episodes;
        if (!still && !task.closed) this.#draw();
      });
      if (!done) return;
      this.#offerRounds();
      say(byId("policies-reading"), reading(task));
      say(byId("policies-found"), found(task));
    } catch (error) {
      if (task.closed) return;
      say(byId("policies-problem"), error.sentences?.() ?? `The round could not be acted: ${error.message}`);
      if (!(error instanceof ServiceError)) reportError(error);
    } finally {
      if (!task.closed) {
        this.#busy(false);
        this.#draw();
      }
    }
  }

  #busy(busy) {
    const button = byId("policies-round");
    const full = busy ? "" : this.#full();
    button.setAttribute("aria-disabled", String(busy || full !== ""));
    say(button, busy ? "Acting …" : "One more round");
    say(byId("policies-full"), full);
    this.acting = busy ? [] : null;
  }

  /** Why the task has no further round; no words where it has one. */
  #full() {
    const { episode_steps: most, rounds } = this.limits;
    if (this.task.rounds.length >= rounds) return `A task has at most ${count(rounds, "round")} here.`;
    if (this.task.steps <= most) return "";
    return `One more round could exceed the ${most.toLocaleString("en")} steps that this service takes of a task.`;
  }

  #offerRounds() {
    const { rounds } = this.task;
    const pairs = rounds.map((_, index) => [String(index), `round ${index + 1}`]);
    offer(byId("policies-shown"), pairs.length ? pairs : [["", "none yet"]], String(rounds.length - 1));
    byId("policies-shown").disabled = !rounds.length;
  }

  #draw() {
    const { task, acting } = this;
    if (!task || task.closed) return;
    const shown = acting?.length ? null : task.rounds[Number(byId("policies-shown").value || -1)];
    const episodes = acting?.length ? acting : (shown?.episodes ?? []);
    const chosen = shown?.chosen ?? null;
    const { world, goal, card } = task;
    this.plane.draw({
      world,
      goal,
      episodes,
      particles: card.particles,
      chosen,
      words: scene(task, episodes, chosen),
    });
    this.returns.draw(task.rounds, card.particles);
    this.#particles();
  }

  /** The particles with their colours, and what the latest round says of them. */
  #particles() {
    const { card, rounds } = this.task;
    const latest = rounds.at(-1);
    const rows = Array.from({ length: card.particles }, (_, particle) => {
      const swatch = html("span", { className: "swatch", "aria-hidden": "true" });
      swatch.style.background = colourOf(particle, card.particles);
      const chosen = latest?.chosen === particle;
      const name = html("th", { scope: "row" }, swatch, `${particle + 1}${chosen ? " – chosen" : ""}`);
      const share = latest ? latest.weights[particle] : 1 / card.particles;
      const weight = html("td", { className: "share", textContent: percent(share) });
      weight.style.setProperty("--share", `${100 * share}%`);
      const value = html("td", { textContent: latest ? short(latest.returns[particle]) : "–" });
      return html("tr", { className: chosen ? "chosen" : "" }, name, value, weight);
    });
    const head = ["particle", "return", "weight"].map((name) =>
      html("th", { scope: "col", textContent: name }),
    );
    byId("policies-particles").replaceChildren(
      html("table", {}, html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows)),
    );
  }
}
