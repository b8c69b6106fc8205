// One task of a policy: its episodes, round by round, and the posterior that the service keeps of them.

import { normal } from "../numbers.js";
import { ServiceError, post } from "../service.js";
import { START } from "./worlds.js";

const GONE = [404, 410];

/** Acts a world with a model; `draw` gives uniform numbers in [0, 1). */
export class Task {
  constructor(card, world, goal, draw) {
    Object.assign(this, { card, world, goal, draw });
    this.rounds = [];
    this.posterior = null;
    this.closed = false;
  }

  /** The number of episodes of each particle in a round: as in training. */
  get each() {
    return this.card.training.family.episodes;
  }

  /** The most steps that one more round can take, beside those so far. */
  get steps() {
    const known = this.rounds.flatMap(({ episodes }) => episodes);
    const so = known.reduce((sum, episode) => sum + episode.rewards.length, 0);
    return so + this.card.particles * this.each * this.world.horizon;
  }

  /**
   * One more round: every particle acts, then the service adapts to the round, which is returned with what it
   * says of the particles. `walked(episodes)` follows each step. Null where the task was closed meanwhile.
   */
  async round(walked) {
    const number = this.rounds.length;
    const episodes = Array.from({ length: this.card.particles * this.each }, (_, index) => ({
      round: number,
      particle: Math.floor(index / this.each),
      places: [START],
      actions: [],
      rewards: [],
      ended: false,
    }));
    for (let time = 0; time < this.world.horizon; time += 1) {
      const going = episodes.filter((episode) => !episode.ended);
      if (!going.length) break;
      const actions = await this.#actions(going);
      if (this.closed) return null;
      going.forEach((episode, row) => this.#step(episode, actions[row]));
      walked(episodes);
    }
    const reply = await this.#adapt(number, episodes);
    if (this.closed) return null;
    this.posterior = reply.posterior.id;
    const { returns, weights, warnings } = reply.diagnostics;
    const found = { episodes, returns, weights, warnings, chosen: reply.prediction.particle };
    this.rounds.push(found);
    return found;
  }

  #step(episode, action) {
    const { place, reward, ended } = this.world.step(episode.places.at(-1), action, this.goal);
    episode.actions.push(action);
    episode.rewards.push(reward);
    episode.places.push(place);
    episode.ended = ended;
  }

  /** An action for each episode, drawn from the Gaussian of its own particle. */
  async #actions(going) {
    const x = going.map(({ places }) => places.at(-1));
    const { prediction } = await this.#kept((start) =>
      post("adapt-predict", { ...start, query: { x }, particles: true }, { tensors: true }),
    );
    const { mean, std } = prediction.particles;
    return going.map(({ particle }, row) =>
      [0, 1].map((axis) => {
        const at = 2 * row + axis;
        return mean[particle][at] + std[particle][at] * normal(this.draw);
      }),
    );
  }

  /** The posterior after this round and the choice of a particle; all episodes again where the service lost it. */
  #adapt(number, episodes) {
    const body = { query: { x: [START] }, act: { how: "best" }, keep: {} };
    const ask = (start, known) =>
      post("adapt-predict", { ...start, ...body, support: { episodes: known.map(sent) } });
    if (!number) return ask(this.#start(), episodes);
    return this.#kept((start) => ask(start, episodes));
  }

  /** What `ask` answers about the kept posterior, or about the start before the first round. */
  async #kept(ask) {
    try {
      return await ask(this.#start());
    } catch (error) {
      if (!(error instanceof ServiceError && GONE.includes(error.status) && this.posterior)) throw error;
      const episodes = this.rounds.flatMap((round) => round.episodes);
      const { name: model, version } = this.card;
      const again = await post("posteriors", { model, version, support: { episodes: episodes.map(sent) } });
      this.posterior = again.posterior.id;
      return ask(this.#start());
    }
  }

  #start() {
    const { name: model, version } = this.card;
    return this.posterior
      ? { model, version, posterior: this.posterior }
      : { model, version, support: { episodes: [] } };
  }
}

/** An episode as the service takes it: the last place is left out. */
const sent = ({ round, particle, places, actions, rewards, ended }) => ({
  round,
  particle,
  observations: places.slice(0, -1),
  actions,
  rewards,
  ended,
});

/** The sum of an episode's rewards. */
export const returnOf = ({ rewards }) => rewards.reduce((sum, reward) => sum + reward, 0);
