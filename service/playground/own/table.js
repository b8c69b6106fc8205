// A prediction as rows and columns: on the page, and as a file.

import { html } from "../dom.js";
import { short } from "../numbers.js";
import { writtenInputs } from "./csv.js";

const d3 = globalThis.d3;

/** Header and rows of a prediction, numbers as they came; `lines` are those of the query in the text. */
export function tabled(card, found, prediction) {
  return card.kind === "classification" ? classes(found, prediction) : numbers(card, found, prediction);
}

function numbers(card, { query, lines }, { mean, std, variance, interval }) {
  const single = card.outputs.length === 1;
  const at = (values, row, output) => (single ? values[row] : values[row][output]);
  const level = Math.round(100 * interval.level);
  const { numbers: columns, texts } = writtenInputs(card);
  const place = new Map(card.inputs.map(({ name }, index) => [name, index]));
  const text = (x, name, values) => values.find((value) => x[place.get(`${name}=${value}`)] === 1) ?? "";
  const header = ["line", ...columns.map(({ name }) => name), ...texts.keys()];
  for (const { name } of card.outputs) {
    header.push(`${name}_mean`, `${name}_std`, `${name}_lower_${level}`, `${name}_upper_${level}`);
    header.push(`${name}_aleatoric_std`, `${name}_epistemic_std`);
  }
  const rows = query.x.map((x, row) => [
    lines.query[row],
    ...columns.map(({ name }) => x[place.get(name)]),
    ...[...texts].map(([name, values]) => text(x, name, values)),
    ...card.outputs.flatMap((_, output) => [
      at(mean, row, output),
      at(std, row, output),
      at(interval.lower, row, output),
      at(interval.upper, row, output),
      Math.sqrt(at(variance.aleatoric, row, output)),
      Math.sqrt(at(variance.epistemic, row, output)),
    ]),
  ]);
  return { header, rows };
}

function classes({ lines }, { classes: names, probabilities, label, entropy }) {
  const header = ["line", "label", ...names.map((name) => `p_${name}`), "entropy", "mutual_information"];
  const rows = label.map((best, row) => [
    lines.query[row],
    best,
    ...probabilities[row],
    entropy.total[row],
    entropy.mutual_information[row],
  ]);
  return { header, rows };
}

/** The table as an element; numbers rounded for reading. */
export function element({ header, rows }) {
  const cell = (value) => (typeof value === "number" ? short(value) : String(value));
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
      ...rows.map((row) => html("tr", {}, ...row.map((value) => html("td", { textContent: cell(value) })))),
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
