// The answer about one drawing or picture: bars of probability, and how unsure they are.

import { byId, html, say } from "../dom.js";
import { percent } from "../numbers.js";

const SURE = 0.9;
const LIKELY = 0.6;

/**
 * Show a prediction of one row, its classes in the order of `names`; says in words what it is. The elements have the
 * ids "bars", "entropy" and "mutual" after `prefix`.
 */
export function showAnswer(prediction, names, { row = 0, prefix = "" } = {}) {
  const shares = names.map((name) => prediction.probabilities[row][prediction.classes.indexOf(name)]);
  const best = shares.indexOf(Math.max(...shares));
  bars(`${prefix}bars`, names, shares, best);
  meter(`${prefix}entropy`, prediction.entropy.total[row], names.length);
  meter(`${prefix}mutual`, prediction.entropy.mutual_information[row], names.length);
  return inWords(names[best], shares[best]);
}

/** Show that there is no answer. */
export function showNone(prefix = "") {
  bars(`${prefix}bars`, [], [], -1);
  meter(`${prefix}entropy`, undefined, 0);
  meter(`${prefix}mutual`, undefined, 0);
}

function bars(id, names, shares, best) {
  const host = byId(id);
  while (host.childElementCount > names.length) host.lastChild.remove();
  while (host.childElementCount < names.length) host.append(bar());
  names.forEach((name, index) => {
    const [label, track, value] = host.children[index].children;
    host.children[index].classList.toggle("first", index === best);
    label.textContent = name;
    label.title = name;
    track.firstChild.style.width = `${100 * shares[index]}%`;
    value.textContent = percent(shares[index]);
  });
}

const inWords = (name, share) => {
  if (share >= SURE) return `This is ${name}, it believes: ${percent(share)}.`;
  return share >= LIKELY
    ? `Probably ${name}: ${percent(share)}.`
    : `Not sure; ${name} comes first with ${percent(share)}.`;
};

const bar = () =>
  html(
    "div",
    { className: "bar" },
    html("span", { className: "name" }),
    html("span", { className: "track", "aria-hidden": "true" }, html("div", { className: "fill" })),
    html("span", { className: "value" }),
  );

/** An entropy against the most that so many classes can have. */
function meter(id, value, classes) {
  const most = Math.log(Math.max(2, classes));
  Object.assign(byId(id), { max: most, value: value ?? 0 });
  say(byId(`${id}-value`), value === undefined ? "" : `${value.toFixed(3)} of ${most.toFixed(2)} nats`);
}
