// The answer about the query drawing: bars of probability, and how unsure they are.

import { byId, html, say } from "../dom.js";
import { percent } from "../numbers.js";

const SURE = 0.9;
const LIKELY = 0.6;

/** Show a prediction of one row, its classes in the order of `names`; says in words what it is. */
export function showAnswer(prediction, names) {
  const shares = names.map((name) => prediction.probabilities[0][prediction.classes.indexOf(name)]);
  const best = shares.indexOf(Math.max(...shares));
  bars(names, shares, best);
  meter("entropy", prediction.entropy.total[0], names.length);
  meter("mutual", prediction.entropy.mutual_information[0], names.length);
  return inWords(names[best], shares[best]);
}

/** Show that there is no answer. */
export function showNone() {
  bars([], [], -1);
  meter("entropy", undefined, 0);
  meter("mutual", undefined, 0);
}

function bars(names, shares, best) {
  const host = byId("bars");
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
