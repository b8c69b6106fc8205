// The page: what the service offers, then a panel per tab, each started when it is first seen.

import { CurvesPanel } from "./curves/panel.js";
import { byId, say } from "./dom.js";
import { DrawPanel } from "./draw/panel.js";
import { limits, models, newestCard } from "./models.js";
import { OwnPanel } from "./own/panel.js";
import { PicturesPanel } from "./pictures/panel.js";
import { PoliciesPanel } from "./policies/panel.js";
import { keyDialog, serverLine, themeButton } from "./status.js";
import { tabs } from "./tabs.js";

const PANELS = {
  curves: CurvesPanel,
  draw: DrawPanel,
  pictures: PicturesPanel,
  policies: PoliciesPanel,
  own: OwnPanel,
};

themeButton();
serverLine();
keyDialog();

const offers = Promise.all([models(), limits()]).then(async ([listed, bounds]) => {
  const all = await Promise.all(listed.map(newestCard));
  const [policies, cards] = [true, false].map((acts) => all.filter(({ kind }) => (kind === "policy") === acts));
  return { cards, policies, limits: bounds };
});
const started = new Set();

/** Until its panel has started, the page leaves a tab inert: a click could not be answered and would be lost. */
function answers(panel) {
  panel.inert = false;
  panel.removeAttribute("aria-busy");
}

tabs(document.querySelector("[role=tablist]"), async (id) => {
  if (started.has(id)) return;
  started.add(id);
  try {
    await new PANELS[id](await offers).start();
  } catch (error) {
    say(byId(`${id}-problem`), `This panel could not start: ${error.message}`);
    throw error;
  } finally {
    answers(byId(id));
  }
});
