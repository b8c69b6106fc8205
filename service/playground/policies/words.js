// What the tab of policies says in sentences.

import { count, short } from "../numbers.js";
import { WORLDS } from "./worlds.js";
import { returnOf } from "./task.js";

/** A particle as people count: from one. */
export const named = (particle) => `particle ${particle + 1}`;

/** Why the page cannot act the tasks of a model. */
export function unknownWorld(card) {
  const family = card.training?.family;
  const world = family?.kind === "world" ? `“${family.world}”` : "its own";
  return (
    `The tasks of ${card.name} are of a world that this page cannot act, ${world}: it knows ` +
    `${Object.keys(WORLDS).join(" and ")}. Act yours beside the API, as examples/navigate.py does.`
  );
}

/** What comes before the first round. */
export function before(task) {
  const { card, each } = task;
  const all = `${count(card.particles, "particle")} will act ${count(each, "episode")} each`;
  return `No episode yet: ${all}, and none of them is told where the goal is.`;
}

/** The latest round in words. */
export function reading(task) {
  const { rounds, world } = task;
  const { episodes, returns, chosen } = rounds.at(-1);
  const met = world.sparse
    ? episodes.filter(({ rewards }) => rewards.some((reward) => reward > 0)).length
    : episodes.filter(({ ended }) => ended).length;
  const goal = world.sparse ? "met a reward" : "ended at the goal";
  return [
    `Round ${rounds.length}: ${named(chosen)} returned most, ${short(returns[chosen])} on average, and is chosen.`,
    `${met} of ${count(episodes.length, "episode")} ${goal}.`,
    ...rounds.at(-1).warnings.map((warning) => `Note: ${warning}.`),
  ].join(" ");
}

/** The best episode of all rounds, and on a sparse world the first reward. */
export function found({ rounds, world }) {
  const all = rounds.flatMap(({ episodes }) => episodes);
  const values = all.map(returnOf);
  const best = all[values.indexOf(Math.max(...values))];
  const place = ({ round, particle }) => `round ${round + 1}, by ${named(particle)}`;
  const most = `The best episode so far returned ${short(returnOf(best))} (${place(best)}).`;
  if (!world.sparse) return most;
  const first = all.find(({ rewards }) => rewards.some((reward) => reward > 0));
  if (!first) return "No reward has been found yet: until then no particle can learn.";
  return `The first reward was found in ${place(first)}. ${most}`;
}

/** The plane in words, for those who do not see it. */
export function scene({ goal, world }, episodes, chosen) {
  const where = `goal at ${short(goal[0])}, ${short(goal[1])}`;
  if (!episodes.length) return `The plane with the ${where}; no paths yet.`;
  const who = chosen === null ? "" : ` ${named(chosen)} is chosen.`;
  const lasts = episodes.map(({ places }) => places.at(-1));
  const far = lasts.map(([x, y]) => Math.hypot(x - goal[0], y - goal[1]));
  const near = `the nearest ends ${short(Math.min(...far))} from it`;
  return `The plane with the ${where} and the paths of ${count(episodes.length, "episode")}; ${near}.${
    who && ` ${who.trim().replace(/^p/, "P")}`
  }`;
}
