// The scales of a model's columns, and rows spread evenly on them.

const d3 = globalThis.d3;
const FINE = 101;

/** Whether the column is shown on a logarithmic scale. */
const isLog = (column) => column.transform === "log" || column.transform === "log2";

/** A d3 scale for a column: logarithmic where the model reads it so. */
export function scaleOf(column, domain, range) {
  if (column.transform === "log2") return d3.scaleLog().base(2).domain(domain).range(range);
  if (column.transform === "log") return d3.scaleLog().domain(domain).range(range);
  return d3.scaleLinear().domain(domain).range(range);
}

/** Ticks for about `wanted` labels; powers of two that keep their distance on a log2 column. */
export function ticksOf(column, scale, wanted) {
  if (column.transform !== "log2") return scale.ticks(wanted);
  const [low, high] = scale.domain().map(Math.log2);
  const every = Math.max(1, Math.ceil((high - low) / wanted));
  return d3.range(Math.ceil(low), Math.floor(high) + 1, every).map((power) => 2 ** power);
}

/** A tick in words. */
export function tickWords(value) {
  const size = Math.abs(value);
  if (size >= 10_000) return d3.format("~s")(Number(value.toPrecision(3)));
  return d3.format(size >= 1000 ? ",~r" : "~g")(value);
}

/** Rows between the ends of a domain, evenly spaced on the column's scale. */
export function grid(column, domain, rows = FINE) {
  const scale = scaleOf(column, domain, [0, rows - 1]);
  return d3.range(rows).map((row) => {
    if (row === 0) return domain[0];
    return row === rows - 1 ? domain[1] : scale.invert(row);
  });
}

/** A column's training range with some air, inside what its scale can show and its target can be. */
export function domainOf(column, air) {
  const { lower, upper } = column;
  if (isLog(column)) return [lower, upper];
  return [lower - air * (upper - lower), upper + air * (upper - lower)].map((end) => bounded(column, end));
}

/** The value that a column's target can have and is nearest: inside its bounds, and whole where it is. */
export const possible = (column, value) =>
  bounded(column, column.target?.kind === "integer" ? Math.round(value) : value);

const bounded = ({ target }, value) =>
  inside(value, [target?.low ?? Number.NEGATIVE_INFINITY, target?.high ?? Number.POSITIVE_INFINITY]);

/** The value at a place on a scale, with no more digits than the place has. */
export function valueAt(scale, place) {
  const value = scale.invert(place);
  return Number(value.toFixed(d3.precisionFixed(Math.abs(scale.invert(place + 1) - value))));
}

/** The value inside the domain that is nearest. */
export const inside = (value, [low, high]) => Math.min(high, Math.max(low, value));
