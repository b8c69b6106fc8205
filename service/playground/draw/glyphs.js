// Ready strokes, as polylines in a unit square (y downwards), and slightly different copies of them.

import { draws, normal } from "../numbers.js";

/** Points of an ellipse's arc between two angles in turns, clockwise from the right. */
function arc(cx, cy, rx, ry, from, to) {
  const steps = Math.max(3, Math.ceil(24 * Math.abs(to - from)));
  return Array.from({ length: steps + 1 }, (_, step) => {
    const angle = 2 * Math.PI * (from + ((to - from) * step) / steps);
    return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)];
  });
}

const spiral = Array.from({ length: 41 }, (_, step) => {
  const angle = (2 * Math.PI * step) / 18;
  const radius = 0.05 + 0.0085 * step;
  return [0.5 + radius * Math.cos(angle), 0.5 + radius * Math.sin(angle)];
});

/** Name to strokes; a stroke is a list of [x, y]. */
export const GLYPHS = {
  hook: [
    [[0.35, 0.15], [0.35, 0.55], ...arc(0.53, 0.6, 0.18, 0.25, 0.5, -0.08)],
    [
      [0.2, 0.32],
      [0.62, 0.28],
    ],
  ],
  lightning: [
    [
      [0.62, 0.1],
      [0.32, 0.5],
      [0.66, 0.52],
      [0.36, 0.92],
    ],
  ],
  balloon: [
    arc(0.5, 0.34, 0.22, 0.22, 0.25, 1.25),
    [
      [0.5, 0.56],
      [0.47, 0.72],
      [0.53, 0.92],
    ],
  ],
  ladder: [
    [
      [0.32, 0.1],
      [0.3, 0.9],
    ],
    [
      [0.68, 0.1],
      [0.7, 0.9],
    ],
    [
      [0.31, 0.36],
      [0.69, 0.36],
    ],
    [
      [0.3, 0.64],
      [0.7, 0.64],
    ],
  ],
  spiral: [spiral],
  arrow: [
    [
      [0.15, 0.8],
      [0.8, 0.2],
    ],
    [
      [0.48, 0.18],
      [0.8, 0.2],
      [0.8, 0.52],
    ],
  ],
  house: [
    [
      [0.22, 0.9],
      [0.22, 0.45],
      [0.5, 0.14],
      [0.78, 0.45],
      [0.78, 0.9],
      [0.22, 0.9],
    ],
  ],
  fork: [
    [
      [0.22, 0.12],
      [0.24, 0.42],
      [0.5, 0.52],
      [0.76, 0.42],
      [0.78, 0.12],
    ],
    [
      [0.5, 0.12],
      [0.5, 0.92],
    ],
  ],
  wave: [
    [
      ...arc(0.26, 0.5, 0.12, 0.2, 0.5, 1),
      ...arc(0.5, 0.5, 0.12, 0.2, 0.5, 0),
      ...arc(0.74, 0.5, 0.12, 0.2, 0.5, 1),
    ],
  ],
  key: [
    arc(0.32, 0.3, 0.17, 0.17, 0.1, 1.1),
    [
      [0.44, 0.42],
      [0.82, 0.84],
    ],
    [
      [0.68, 0.69],
      [0.8, 0.56],
    ],
  ],
  flag: [
    [
      [0.28, 0.92],
      [0.28, 0.1],
      [0.76, 0.28],
      [0.28, 0.48],
    ],
  ],
  sail: [
    [
      [0.48, 0.1],
      [0.2, 0.66],
      [0.48, 0.66],
      [0.48, 0.1],
    ],
    [...arc(0.5, 0.72, 0.36, 0.2, 0.5, 0)],
  ],
  eight: [[...arc(0.5, 0.3, 0.18, 0.18, 0.25, 1.25), ...arc(0.5, 0.7, 0.22, 0.22, -0.25, 0.75)]],
  comb: [
    [
      [0.16, 0.25],
      [0.86, 0.25],
    ],
    [
      [0.24, 0.25],
      [0.24, 0.75],
    ],
    [
      [0.5, 0.25],
      [0.5, 0.85],
    ],
    [
      [0.78, 0.25],
      [0.78, 0.75],
    ],
  ],
  knot: [[[0.2, 0.82], [0.72, 0.24], ...arc(0.6, 0.26, 0.14, 0.12, 0, -0.5), [0.8, 0.82]]],
  eye: [
    [...arc(0.5, 0.62, 0.42, 0.32, 0.55, 0.95), ...arc(0.5, 0.38, 0.42, 0.32, 0.05, 0.45)],
    arc(0.5, 0.5, 0.09, 0.09, 0, 1),
  ],
};

/** A copy as another hand would draw it: turned, stretched, slanted, and a little unsteady. */
export function variant(strokes, seed) {
  const draw = draws(seed);
  const around = (spread) => spread * Math.max(-2, Math.min(2, normal(draw)));
  const [turn, slant] = [around(0.09), around(0.09)];
  const [wide, high] = [1 + around(0.07), 1 + around(0.07)];
  const waves = [0, 1].map(() => ({ size: 0.014 + around(0.005), pace: 7 + around(2), start: 6 * draw() }));
  const place = ([x, y]) => {
    const [u, v] = [(x - 0.5) * wide + slant * (y - 0.5), (y - 0.5) * high];
    const [p, q] = [u * Math.cos(turn) - v * Math.sin(turn), u * Math.sin(turn) + v * Math.cos(turn)];
    const wobble = ({ size, pace, start }, at) => size * Math.sin(pace * at + start);
    return [0.5 + p + wobble(waves[0], q), 0.5 + q + wobble(waves[1], p)];
  };
  return strokes.map((stroke) => dense(stroke).map(place));
}

/** The same line with a point at least every 0.06, so that it can bend. */
function dense(stroke) {
  const result = [stroke[0]];
  for (const [x, y] of stroke.slice(1)) {
    const [fromX, fromY] = result.at(-1);
    const parts = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / 0.06));
    for (let part = 1; part <= parts; part += 1) {
      result.push([fromX + ((x - fromX) * part) / parts, fromY + ((y - fromY) * part) / parts]);
    }
  }
  return result;
}
