// The dialog of ready strokes.

import { byId, html } from "../dom.js";
import { GLYPHS, variant } from "./glyphs.js";
import { thumb } from "./ink.js";

let picked = 0;

/** The strokes that are picked, each time in a slightly different hand; null when nothing is. */
export function pickGlyph() {
  const dialog = byId("glyphs");
  return new Promise((done) => {
    let strokes = null;
    const buttons = Object.entries(GLYPHS).map(([name, drawn]) =>
      html(
        "button",
        {
          type: "button",
          onclick: () => {
            picked += 1;
            strokes = variant(drawn, 1000 + picked);
            dialog.close();
          },
        },
        thumb(drawn),
        name,
      ),
    );
    byId("glyph-grid").replaceChildren(...buttons);
    dialog.addEventListener("close", () => done(strokes), { once: true });
    dialog.showModal();
  });
}
