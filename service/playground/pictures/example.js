// Groceries to begin with: photographs of classes that no shipped model was trained on.

import { get } from "../service.js";
import { Picture } from "./picture.js";

const HOME = "playground/data/groceries/";

/** Piles with their names and pictures, pictures to ask about, and pictures without a label. */
export async function groceries() {
  const listed = await get(`${HOME}index.json`);
  const pictures = (names) => Promise.all(names.map(pictureOf));
  const [piles, asked, unlabelled] = await Promise.all([
    Promise.all(listed.piles.map(async ({ name, files }) => ({ name, pictures: await pictures(files) }))),
    pictures(listed.asked),
    pictures(listed.unlabelled),
  ]);
  return { piles, asked, unlabelled };
}

async function pictureOf(name) {
  const content = await get(HOME + name);
  return Picture.of(new File([content], name, { type: content.type }));
}
