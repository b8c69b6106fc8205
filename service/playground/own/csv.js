// Rows of text to a support and a query: columns by name, rows without a label are the question.

const d3 = globalThis.d3;
const DELIMITERS = [",", ";", "\t"];
const MOST_TOLD = 5;

/** What is wrong with the text, in sentences. */
export class CsvError extends Error {}

/** The names of the columns that a model reads and writes. */
export function columnsOf(card) {
  if (card.image) return { inputs: ["image"], outputs: ["label"] };
  const outputs = card.target ? [card.target.name] : card.outputs.map(({ name }) => name);
  return { inputs: card.inputs.map(({ name }) => name), outputs };
}

/**
 * The inputs as people write them: columns of numbers, and columns of texts, of which training made an input for
 * each value, with those values by the column's name.
 */
export function writtenInputs(card) {
  const made = ({ name, lower, upper }) => /.=/.test(name) && lower === 0 && upper === 1;
  const cut = ({ name }) => name.indexOf("=", 1);
  const values = (columns) => columns.map((column) => column.name.slice(cut(column) + 1));
  const inputs = card.inputs ?? [];
  return {
    numbers: inputs.filter((column) => !made(column)),
    texts: d3.rollup(inputs.filter(made), values, (column) => column.name.slice(0, cut(column))),
  };
}

/**
 * The support and the query in the text, with the line of each row: {support, query, lines, unused}.
 * Throws a CsvError that names the lines.
 */
export function parsed(text, card) {
  const { rows, comma } = split(text);
  if (!rows.length) throw new CsvError("Paste rows, or press Example.");
  if (rows.length === 1)
    throw new CsvError("There are no rows under the first line, which names the columns.");
  const { inputs, outputs } = columnsOf(card);
  const header = rows[0].cells.map((name) => name.trim());
  const place = (name) => {
    const exact = header.indexOf(name);
    return exact >= 0 ? exact : header.findIndex((given) => alike(given, name));
  };
  const others = header.map((given) => ([...inputs, ...outputs].some((name) => alike(given, name)) ? "" : given));
  const sources = inputs.map((name) => sourceOf(name, others, place(name)));
  const missing = inputs.filter((_, index) => sources[index].at < 0);
  if (missing.length) {
    const columns = [...writtenInputs(card).texts.keys()];
    const written = missing.map((name) => columns.find((column) => name.startsWith(`${column}=`)) ?? name);
    const names = quoted([...new Set(written)]);
    throw new CsvError(`There is no column ${names} in the first line; it has ${quoted(header)}.`);
  }
  const write = outputs.map(place);
  const texts = d3.group(
    sources.filter(({ text }) => text !== null),
    ({ at }) => at,
  );
  const found = { support: { x: [], y: [] }, query: { x: [] }, lines: { support: [], query: [] } };
  const problems = [];
  for (const row of rows.slice(1)) sort(row, { card, header, sources, texts, write, comma }, found, problems);
  if (problems.length) throw new CsvError(told(problems));
  if (!found.query.x.length) {
    throw new CsvError(`Every row has a label: leave ${quoted(outputs)} empty in the rows you ask about.`);
  }
  if (card.image) {
    found.support.x = { images: found.support.x };
    found.query.x = { images: found.query.x };
  }
  const used = new Set([...sources.map(({ at }) => at), ...write]);
  const unused = header.filter((name, index) => name !== "" && !used.has(index));
  return { ...found, unused };
}

/** The column of an input: its own, or for “material=steel” that of the materials, where it is one for steel. */
function sourceOf(name, others, own) {
  if (own >= 0) return { at: own, text: null };
  const starts = (given) => given !== "" && alike(name.slice(0, given.length + 1), `${given}=`);
  const at = d3.maxIndex(others, (given) => (starts(given) ? given.length : Number.NaN));
  return at < 0 ? { at, text: null } : { at, text: name.slice(others[at].length + 1) };
}

/** The text of several that a cell says: itself, or what differs from it in case alone (`true` for “True”). */
function saidBy(words, texts) {
  return texts.includes(words) ? words : texts.find((text) => alike(text, words));
}

/** The label that a cell names: by its text, or as a number; truth values in any case. */
function labelSaid(words, labels) {
  const exact = labels.find((label) => String(label) === words);
  if (exact !== undefined) return exact;
  return labels.find((label) => typeof label === "boolean" && alike(String(label), words))
    ?? labels.find((label) => typeof label === "number" && label === Number(words));
}

/** One row to where it belongs, or a problem. */
function sort({ cells, line }, { card, header, sources, texts, write, comma }, found, problems) {
  const cell = (at) => (at < 0 ? "" : (cells[at] ?? "").trim());
  const labels = write.map(cell);
  const some = labels.filter((label) => label !== "").length;
  if (some > 0 && some < labels.length) {
    problems.push(`Line ${line} has a label in some columns and not in others.`);
    return;
  }
  const number = (at) => {
    const words = comma ? cell(at).replace(",", ".") : cell(at);
    const value = words === "" ? NaN : Number(words);
    if (!Number.isFinite(value)) {
      const given = words === "" ? "nothing" : `“${cell(at).slice(0, 20)}”`;
      problems.push(`Line ${line}: ${given} in column “${header[at]}” is not a number.`);
    }
    return value;
  };
  const said = new Map();
  for (const [at, known] of texts) {
    const names = known.map(({ text }) => text);
    said.set(at, saidBy(cell(at), names));
    if (said.get(at) !== undefined) continue;
    const told = `“${cell(at).slice(0, 20)}” in column “${header[at]}” is none of ${quoted(names)}.`;
    problems.push(`Line ${line}: ${told}`);
  }
  const value = ({ at, text }) => (text === null ? number(at) : Number(text === said.get(at)));
  const x = card.image ? cell(sources[0].at) : sources.map(value);
  const part = some ? "support" : "query";
  found[part].x.push(x);
  found.lines[part].push(line);
  if (!some) return;
  const label = (at) => {
    const known = card.target?.labels;
    const named = known ? labelSaid(cell(at), known) : cell(at);
    if (named === undefined) {
      const given = `“${cell(at).slice(0, 20)}” in column “${header[at]}”`;
      problems.push(`Line ${line}: ${given} is none of ${quoted(known.map(String))}.`);
    }
    return named;
  };
  const y = write.map(card.kind === "classification" ? label : number);
  found.support.y.push(y.length === 1 ? y[0] : y);
}

/** Rows of cells with their line numbers, without blank ones; whether a comma is the decimal point. */
function split(text) {
  const first = text.trimStart().split("\n", 1)[0];
  const often = (mark) => first.split(mark).length;
  const delimiter = DELIMITERS.reduce((best, mark) => (often(mark) > often(best) ? mark : best));
  const rows = d3.dsvFormat(delimiter).parseRows(text.replace(/^\ufeff/, ""));
  const numbered = rows.map((cells, index) => ({ cells, line: index + 1 }));
  return {
    rows: numbered.filter(({ cells }) => cells.some((cell) => cell.trim() !== "")),
    comma: delimiter === ";",
  };
}

const alike = (one, other) => one.toLowerCase() === other.toLowerCase();
const quoted = (names) => names.map((name) => `“${name}”`).join(", ");

function told(problems) {
  const more = problems.length - MOST_TOLD;
  return [...problems.slice(0, MOST_TOLD), ...(more > 0 ? [`And ${more} more like these.`] : [])].join("\n");
}
