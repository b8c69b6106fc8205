// Elements in one line each; attributes never go through markup, so no text can become code.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new HTML element: properties by name (`aria-…`, `for` and `role` as attributes), then children. */
export function html(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "for" || name === "role" || name === "scope")
      made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** A new SVG element with these attributes. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  put(made, attributes);
  made.append(...children);
  return made;
}

/** Set attributes of an element. */
export function put(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Show text in a status or alert, without announcing the same words again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fill a select with [value, words] pairs; keeps the choice where it is still offered. */
export function offer(select, pairs, wanted = select.value) {
  select.replaceChildren(...pairs.map(([value, words]) => html("option", { value, textContent: words })));
  if (pairs.some(([value]) => value === wanted)) select.value = wanted;
}
