// Rows to start from, for any model.

import { examplesFor } from "../curves/examples.js";
import { domainOf, grid } from "../curves/space.js";
import { GLYPHS, variant } from "../draw/glyphs.js";
import { image } from "../draw/ink.js";
import { rounded } from "../numbers.js";
import { columnsOf, writtenInputs } from "./csv.js";

const d3 = globalThis.d3;
const SEED = 5;
const ASKED = 5;
const TAUGHT = ["hook", "balloon", "fork"];

/** Text in CSV that the model can answer, or its header alone where no rows can be made up. */
export async function exampleFor(card) {
  const { inputs, outputs } = columnsOf(card);
  if (card.image) return written([...inputs, ...outputs], images(card));
  const { numbers, texts } = writtenInputs(card);
  const header = [...numbers.map(({ name }) => name), ...texts.keys(), ...outputs];
  return written(header, await rowsOf(card, numbers, [...texts.values()]));
}

const written = (header, rows) => `${d3.csvFormatRows([header, ...rows])}\n`;

async function rowsOf(card, numbers, texts) {
  const example =
    card.inputs.length === 1 && card.outputs.length === 1 ? (await examplesFor(card))?.(SEED) : null;
  const spread = numbers.map((column) => grid(column, example?.xDomain ?? domainOf(column, 0), ASKED));
  const inputs =
    example?.asked?.map((x) => [x]) ??
    d3.range(ASKED).map((row) => [
      ...spread.map((column) => rounded(column[row])),
      ...texts.map((values) => values[row % values.length]),
    ]);
  const empty = columnsOf(card).outputs.map(() => "");
  const asked = inputs.map((row) => [...row, ...empty]);
  if (card.target) return [...inputs.slice(1, -1).map((row, place) => [...row, named(card, place)]), ...asked];
  return [...(example?.points ?? []).map(({ x, y }) => [x, y]), ...asked];
}

/** A label of a model's own, or a letter where any will do. */
const named = ({ target }, place) => (target.labels ?? ["A", "B"])[place % (target.labels?.length ?? 2)];

function images(card) {
  if (!card.image.drawing) return [];
  const drawn = (name, seed) => image(variant(GLYPHS[name], seed), card.image.size);
  return [
    ...TAUGHT.map((name) => [drawn(name, 1), name]),
    ...TAUGHT.slice(0, 2).map((name) => [drawn(name, 2), ""]),
  ];
}
