// The worlds that the page can act: a point walks in the plane, as in training/families/worlds.py.

const STEP_SIZE = 0.1;
const HALF = 0.5;
const DEGREE = Math.PI / 180;

const clamped = (value, most) => Math.max(-most, Math.min(most, value));
const distance = ([x, y], [u, v]) => Math.hypot(x - u, y - v);
const moved = (place, action) => place.map((value, axis) => value + STEP_SIZE * clamped(action[axis], 1));

/** A slider for one number of a goal. */
const slider = (name, min, max, step) => ({ name, min, max, step });

const navigation = {
  horizon: 100,
  /** Half the width of the plane that is shown. */
  reach: 0.95,
  about: "The goal lies in the square; every step costs the distance from it.",
  sparse: false,
  sliders: [slider("x of the goal", -HALF, HALF, 0.01), slider("y of the goal", -HALF, HALF, 0.01)],
  /** The goal that sliders say, and what they say of a goal, rounded to their steps. */
  goalOf: ([x, y]) => [x, y],
  valuesOf: (goal) => goal.map((value) => Math.round(100 * value) / 100),
  /** The goal that is nearest to a place. */
  nearest: ([x, y]) => [clamped(x, HALF), clamped(y, HALF)],
  /** A goal from two draws in [0, 1). */
  drawn: (first, second) => [first - HALF, second - HALF],
  step(place, action, goal) {
    const after = moved(place, action);
    const ended = after.every((value, axis) => Math.abs(value - goal[axis]) < 0.01);
    return { place: after, reward: -distance(after, goal), ended };
  },
};

const ring = {
  horizon: 20,
  reach: 1.45,
  about: "The goal lies on the circle; only places within 0.2 of it are paid, with 1 minus the distance.",
  sparse: true,
  radius: 1,
  paidWithin: 0.2,
  sliders: [slider("Angle of the goal, in degrees", 0, 359, 1)],
  goalOf: ([angle]) => [Math.cos(angle * DEGREE), Math.sin(angle * DEGREE)],
  valuesOf: ([x, y]) => [(Math.round(Math.atan2(y, x) / DEGREE) + 360) % 360],
  nearest([x, y]) {
    const size = Math.hypot(x, y);
    return size ? [x / size, y / size] : [1, 0];
  },
  drawn: (first) => [Math.cos(2 * Math.PI * first), Math.sin(2 * Math.PI * first)],
  step(place, action, goal) {
    const after = moved(place, action);
    const far = distance(after, goal);
    return { place: after, reward: far <= ring.paidWithin ? 1 - far : 0, ended: false };
  },
};

/** By the name that training gives them. */
export const WORLDS = { navigation, ring };
export const START = [0, 0];

/** The world of a model's training; undefined where the page does not know it. */
export function worldOf(card) {
  const family = card.training?.family;
  const plane = card.inputs.length === 2 && card.outputs.length === 2;
  return family?.kind === "world" && plane && Object.hasOwn(WORLDS, family.world)
    ? WORLDS[family.world]
    : undefined;
}
