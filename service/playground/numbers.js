// Numbers as people read them.

const MINUS = "−";

/** Three significant digits, without an exponent where there is room. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("-", MINUS);
  if (size >= 1000) return Math.round(value).toLocaleString("en").replace("-", MINUS);
  return String(Number(value.toPrecision(3))).replace("-", MINUS);
}

/** Four significant digits: of numbers that are made up. */
export const rounded = (value) => Number(value.toPrecision(4));

/** A share as a percentage; what is nearly certain does not become certain by rounding. */
export function percent(share) {
  if (share > 0.999) return "> 99.9 %";
  if (share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(share > 0.99 || share < 0.01 ? 1 : 0)} %`;
}

/** "1 point", "3 points". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Draws in [0, 1) from a seed (mulberry32), so that an example can be shown again. */
export function draws(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** A standard normal draw (Box–Muller) from uniform ones. */
export function normal(draw) {
  return Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
}
