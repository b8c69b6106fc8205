// What the service offers: its models, their cards and its limits; each asked once.

import { get } from "./service.js";

const cards = new Map();

/** Every model's summary, newest versions last. */
export const models = async () => (await get("models")).models;

/** The card of a model's newest version. */
export async function newestCard(summary) {
  const version = summary.versions.at(-1);
  const path = `models/${encodeURIComponent(summary.name)}/versions/${version}`;
  if (!cards.has(path)) cards.set(path, get(path));
  return cards.get(path);
}

let known = null;
/** What the service takes at most, and which acquisitions it has. */
export const limits = () => (known ??= get("limits"));

const WORDS = {
  epistemic_variance: "reducible uncertainty (epistemic variance)",
  total_variance: "all uncertainty (total variance)",
  entropy: "most uncertain (entropy)",
  epig: "helps everywhere (EPIG)",
  expected_improvement: "likely to be a new maximum (expected improvement)",
  ucb: "could be high (upper confidence bound)",
  random: "at random",
  bald: "particles disagree (BALD)",
  margin: "first two classes close (margin)",
  least_confidence: "least believed (least confidence)",
  variation_ratio: "most votes against (variation ratio)",
};

/** The values of an output in words; null where they are plain real numbers. */
export function valuesOf({ target }) {
  if (target?.kind === "positive") return "positive numbers";
  if (target?.kind === "bounded") return `numbers from ${target.low} to ${target.high}`;
  if (target?.kind !== "integer") return null;
  return target.low === null ? "whole numbers" : `whole numbers from ${target.low}`;
}

/** An acquisition in words. */
export const acquisitionWords = (name) => WORDS[name] ?? name;
