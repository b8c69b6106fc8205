// Tasks that a model has never seen, with their truth: sine curves drawn anew, learning curves measured.

import { draws, normal, rounded, short } from "../numbers.js";
import { get } from "../service.js";

const d3 = globalThis.d3;
/** The family of Yoon et al. 2018, which the sine models were trained on. */
const SINE = { amplitude: [0.1, 5], frequency: [0.5, 2], phase: [0, 2 * Math.PI], x: [-5, 5], noise: 0.01 };
const SHOTS = [3, 7];
const FIRST_ANCHORS = 5;

/**
 * A drawer of examples for this model, from a seed, or null if there are none. An example has the points it shows,
 * the truth to be revealed, and `label(answer, taken)`: the point that the truth has where a label would help most.
 */
export async function examplesFor(card) {
  if (card.training.family?.kind === "sinusoid") return sine;
  const measured = await get("playground/data/learning-curves.json");
  const fits = card.inputs[0].name === measured.input && card.outputs[0].name === measured.output;
  return fits ? (seed) => learningCurve(measured, seed) : null;
}

function sine(seed) {
  const draw = draws(seed);
  const between = ([low, high]) => low + (high - low) * draw();
  const [amplitude, frequency, phase] = [SINE.amplitude, SINE.frequency, SINE.phase].map(between);
  const curve = (x) => amplitude * Math.sin(frequency * x - phase);
  const noisy = (x) => curve(x) + SINE.noise * amplitude * normal(draw);
  const shots = Math.floor(between([SHOTS[0], SHOTS[1] + 1]));
  const measured = (x) => ({ x: rounded(x), y: rounded(noisy(x)) });
  const points = Array.from({ length: shots }, () => between(SINE.x)).map(measured);
  return {
    points,
    truth: { curve },
    label: ({ grid, choice }) => measured(grid[choice.selected[0].index]),
    place: "from the curve itself",
    words: `A sine curve drawn just now, ${shots} noisy points of it.`,
    secret: `y = ${short(amplitude)} · sin(${short(frequency)} x − ${short(phase)}).`,
  };
}

function learningCurve(measured, seed) {
  const each = measured.curves[seed % measured.curves.length];
  const all = each[measured.input].map((x, index) => ({ x, y: each[measured.output][index] }));
  const [points, later] = [all.slice(0, FIRST_ANCHORS), all.slice(FIRST_ANCHORS)];
  const low = Math.min(...all.map((point) => point.y));
  return {
    points: points.map((point) => ({ ...point })),
    truth: { points: later },
    label: (answer, taken) => best(later, answer, taken),
    place: "of the sizes measured the one it would learn most from",
    words: `Measured: ${each.classifier} on ${each.data}, accuracy after training on up to ${points.at(-1).x} rows.`,
    secret: `Measured later: ${all.at(-1).y} at ${all.at(-1).x} rows.`,
    asked: later.filter((_, index) => index % 2 === 1).map((point) => point.x),
    xDomain: [all[0].x, 4 * all.at(-1).x],
    yDomain: [Math.max(0, low - 0.15), 1.02],
  };
}

/** Of the measured points that are not yet taken the one whose label would help most; null if none is left. */
function best(measured, { grid, choice }, taken) {
  const left = measured.filter((point) => !taken.some((other) => other.x === point.x));
  return d3.greatest(left, (point) => choice.scores[d3.bisectCenter(grid, point.x)]) ?? null;
}
