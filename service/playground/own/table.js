// A prediction as rows and columns: on the page, and as a file.

import { html } from "../dom.js";
import { percent, short } from "../numbers.js";
import { writtenInputs } from "./csv.js";

const d3 = globalThis.d3;

/** Header and rows of a prediction, numbers as they came; `lines` are those of the query in the text. */
export function tabled(card, found, prediction) {
  return card.kind === "classification" ? classes(card, found, prediction) : numbers(card, found, prediction);
}

/** The inputs as people write them: their header, and the cells of a row x. */
function inputsOf(card) {
  if (card.image) return { names: [], cells: () => [] };
  const { numbers: columns, texts } = writtenInputs(card);
  const place = new Map(card.inputs.map(({ name }, index) => [name, index]));
  const text = (x, name, values) => values.find((value) => x[place.get(`${name}=${value}`)] === 1) ?? "";
  return {
    names: [...columns.map(({ name }) => name), ...texts.keys()],
    cells: (x) => [
      ...columns.map(({ name }) => x[place.get(name)]),
      ...[...texts].map(([name, values]) => text(x, name, values)),
    ],
  };
}

function numbers(card, { query, lines }, { mean, std, variance, interval }) {
  const single = card.outputs.length === 1;
  const at = (values, row, output) => (single ? values[row] : values[row][output]);
  const level = Math.round(100 * interval.level);
  const { names, cells } = inputsOf(card);
  const header = ["line", ...names];
  for (const { name } of card.outputs) {
    header.push(`${name}_mean`, `${name}_std`, `${name}_lower_${level}`, `${name}_upper_${level}`);
    header.push(`${name}_aleatoric_std`, `${name}_epistemic_std`);
  }
  const rows = query.x.map((x, row) => [
    lines.query[row],
    ...cells(x),
    ...card.outputs.flatMap((_, output) => [
      at(mean, row, output),
      at(std, row, output),
      at(interval.lower, row, output),
      at(interval.upper, row, output),
      Math.sqrt(at(variance.aleatoric, row, output)),
      Math.sqrt(at(variance.epistemic, row, output)),
    ]),
  ]);
  return { header, rows, shares: [] };
}

/** Columns of shares are drawn as bars. */
function classes(card, { query, lines }, prediction) {
  const { classes: names, probabilities, label, entropy, median, interval } = prediction;
  const { names: inputs, cells } = inputsOf(card);
  const level = interval && Math.round(100 * interval.level);
  const ranks = median ? ["median", `lower_${level}`, `upper_${level}`] : [];
  const header = [
    ...["line", ...inputs, "label", ...names.map((name) => `p_${name}`)],
    ...[...ranks, "entropy", "mutual_information"],
  ];
  const rows = label.map((best, row) => [
    lines.query[row],
    ...(card.image ? [] : cells(query.x[row])),
    best,
    ...probabilities[row],
    ...(median ? [median[row], interval.lower[row], interval.upper[row]] : []),
    entropy.total[row],
    entropy.mutual_information[row],
  ]);
  const first = header.indexOf("label", 1 + inputs.length) + 1;
  return { header, rows, shares: names.map((_, index) => first + index) };
}

/** The table as an element; numbers rounded for reading. */
export function element({ header, rows, shares }) {
  const words = (value) => (typeof value === "number" ? short(value) : String(value));
  const cell = (value, column) => {
    if (!shares.includes(column)) return html("td", { textContent: words(value) });
    const made = html("td", { className: "share", textContent: percent(value) });
    made.style.setProperty("--share", `${100 * value}%`);
    return made;
  };
  return html(
    "table",
    {},
    html(
      "thead",
      {},
      html(
        "tr",
        {},
        ...header.map((name) => html("th", { scope: "col", textContent: name.replaceAll("_", " ") })),
      ),
    ),
    html(
      "tbody",
      {},
      ...rows.map((row) => html("tr", {}, ...row.map(cell))),
    ),
  );
}

/** Save the table as a CSV file, numbers in full. */
export function download({ header, rows }, name) {
  const url = URL.createObjectURL(
    new Blob([`${d3.csvFormatRows([header, ...rows])}\n`], { type: "text/csv" }),
  );
  html("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
