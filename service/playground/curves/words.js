// What the tab of curves says in sentences.

import { valuesOf } from "../models.js";
import { count, percent, short } from "../numbers.js";

export const BEYOND =
  "Some of it leaves the chart: hypotheses of little weight can be very noisy; they move a variance, not the bands.";

/** A model in words, with what its bands were measured to hold on tasks it had never seen. */
export function about(card) {
  const held = card.metrics.coverage_90;
  const measured =
    held === undefined ? "" : ` On unseen tasks its 90 % band held ${percent(held)} of the truths.`;
  const values = valuesOf(card.outputs[0]);
  const kind = values === null ? "" : ` Labels and answers are ${values}.`;
  return `${card.description}${kind}${measured}`;
}

/** An answer about so many points in words. */
export function reading({ card, grid, prediction, diagnostics, choice }, points) {
  const { index } = choice.selected[0];
  const { lower, upper } = prediction.interval;
  const [still, place] = [short(diagnostics.effective_particles), short(grid[index])];
  return [
    `${count(points, "point")}; about ${still} of ${card.particles} particles still count.`,
    `A label at ${card.inputs[0].name} = ${place} would help most: there nine tenths of the belief lie`,
    `between ${short(lower[index])} and ${short(upper[index])}.`,
    ...diagnostics.warnings.map((warning) => `Note: ${warning}.`),
  ].join(" ");
}
