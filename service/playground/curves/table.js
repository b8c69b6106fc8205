// The points as a table of number fields: the same edits for whoever would rather type.

import { html } from "../dom.js";

/** A number in full, without the last bits of arithmetic. */
const written = (value) => Number(value.toPrecision(12));

/** Shows `points` in a host; every edit goes through `editor` or tells `changed()`. */
export class PointTable {
  constructor(host, points, editor, changed) {
    Object.assign(this, { host, points, editor, changed, shown: null, fields: [] });
  }

  /** The table for these column names. */
  draw(input, output) {
    const now = JSON.stringify([input.name, output.name, this.points.map((point) => point.id)]);
    if (now !== this.shown) this.#build(input, output);
    this.shown = now;
    this.points.forEach((point, index) => {
      for (const axis of ["x", "y"]) {
        const field = this.fields[index][axis];
        if (field !== document.activeElement) field.value = written(point[axis]);
      }
    });
  }

  /** Mark the fields of these {axis, row} as wrong, and no others. */
  mark(places) {
    for (const fields of this.fields)
      for (const field of Object.values(fields)) field.removeAttribute("aria-invalid");
    for (const { axis, row } of places) this.fields[row]?.[axis]?.setAttribute("aria-invalid", "true");
  }

  #build(input, output) {
    this.fields = [];
    const rows = this.points.map((point, index) => {
      const cells = ["x", "y"].map((axis) =>
        this.#field(point, axis, `${(axis === "x" ? input : output).name} of point ${index + 1}`),
      );
      this.fields.push({ x: cells[0], y: cells[1] });
      const remove = html("button", {
        type: "button",
        className: "small",
        textContent: "Remove",
        "aria-label": `Remove point ${index + 1}`,
        onclick: () => this.editor.remove(point),
      });
      return html("tr", {}, ...[...cells, remove].map((cell) => html("td", {}, cell)));
    });
    const fresh = ["x", "y"].map((axis) =>
      html("input", {
        type: "number",
        step: "any",
        "aria-label": `${(axis === "x" ? input : output).name} of a new point`,
      }),
    );
    const add = () => {
      const [x, y] = fresh.map((field) => field.valueAsNumber);
      const wrong = fresh.find((field) => !Number.isFinite(field.valueAsNumber));
      if (wrong) wrong.focus();
      else {
        this.editor.add({ x, y });
        this.host.querySelector("tr:last-child input").focus();
      }
    };
    for (const field of fresh) field.addEventListener("keydown", (event) => event.key === "Enter" && add());
    const button = html("button", { type: "button", className: "small", textContent: "Add", onclick: add });
    rows.push(html("tr", {}, ...[...fresh, button].map((cell) => html("td", {}, cell))));
    const head = html(
      "tr",
      {},
      ...[input.name, output.name].map((name) => html("th", { scope: "col", textContent: name })),
      html("td"),
    );
    const buttons = () => [...this.host.querySelectorAll("button")];
    const focused = buttons().indexOf(document.activeElement);
    this.host.replaceChildren(html("table", {}, html("thead", {}, head), html("tbody", {}, ...rows)));
    if (focused >= 0) buttons()[Math.min(focused, this.points.length)].focus(); // after Remove the next, or Add
  }

  #field(point, axis, label) {
    const field = html("input", { type: "number", step: "any", "aria-label": label });
    field.addEventListener("input", () => {
      if (!Number.isFinite(field.valueAsNumber)) return;
      point[axis] = field.valueAsNumber;
      this.changed();
    });
    field.addEventListener("blur", () => {
      field.value = written(point[axis]);
    });
    return field;
  }
}
