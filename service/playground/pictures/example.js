// Groceries to begin with: photographs of classes that no shipped model was trained on.

const HOME = "playground/data/groceries/";

/** Piles with their names and files, files to ask about, and files without a label. */
export async function groceries() {
  const listed = await (await fetched("index.json")).json();
  const files = (names) => Promise.all(names.map(fileOf));
  const [piles, asked, unlabelled] = await Promise.all([
    Promise.all(listed.piles.map(async ({ name, files: names }) => ({ name, files: await files(names) }))),
    files(listed.asked),
    files(listed.unlabelled),
  ]);
  return { piles, asked, unlabelled };
}

const fetched = (name) => fetch(new URL(HOME + name, document.baseURI));

async function fileOf(name) {
  const content = await (await fetched(name)).blob();
  return new File([content], name, { type: content.type });
}
