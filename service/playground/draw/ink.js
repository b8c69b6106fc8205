// Strokes as pixels: on a pad for people, and as the small image that a model takes.

import { html, svg } from "../dom.js";

/** Pixels along a side of the image that is sent, per pixel of the model's. */
const FINER = 4;
/** The width of a pen and the longest side of a character, as shares of the image. */
const PEN = 1.5 / 28;
const EXTENT = 20 / 28;
/** A drawing is made larger at most so much: a dot stays a dot. */
const MOST_LARGER = 2.5;

/** Trace strokes of the unit square into a square canvas of `side` pixels. */
export function trace(context, strokes, side, width) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(side * stroke[0][0], side * stroke[0][1]);
    if (stroke.length === 1) context.lineTo(side * stroke[0][0] + 0.01, side * stroke[0][1]);
    for (const [x, y] of stroke.slice(1)) context.lineTo(side * x, side * y);
    context.stroke();
  }
}

/** Strokes in the middle of the square, as large as the characters a model was trained on. */
export function centred(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min(MOST_LARGER, EXTENT / Math.max(right - left, bottom - top, 1e-6));
  return strokes.map((stroke) =>
    stroke.map(([x, y]) => [0.5 + scale * (x - (left + right) / 2), 0.5 + scale * (y - (top + bottom) / 2)]),
  );
}

const painted = new WeakMap();

/** Black ink on white paper as a base64 PNG for a model of images of `size` pixels a side; painted once. */
export function image(strokes, size) {
  const key = `${size} ${strokes.flat().length}`;
  if (painted.get(strokes)?.key !== key) painted.set(strokes, { key, png: paint(strokes, size) });
  return painted.get(strokes).png;
}

function paint(strokes, size) {
  const side = FINER * size;
  const canvas = html("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.strokeStyle = "black";
  trace(context, centred(strokes), side, PEN * side);
  return canvas.toDataURL("image/png").split(",")[1];
}

/** A small drawing for buttons and lists. */
export function thumb(strokes) {
  const d = strokes.map(
    (stroke) => `M${stroke.map(([x, y]) => `${(100 * x).toFixed(1)} ${(100 * y).toFixed(1)}`).join("L")}`,
  );
  return svg(
    "svg",
    { class: "thumb", viewBox: "0 0 100 100", "aria-hidden": "true" },
    svg("path", { d: d.join("") }),
  );
}
