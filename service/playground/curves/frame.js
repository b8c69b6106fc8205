// A chart's frame: size, scales, grid and ticks, and a clipped plot to draw in.

import { html, put, svg } from "../dom.js";
import { scaleOf, tickWords, ticksOf } from "./space.js";

export const MARGIN = { top: 22, right: 14, bottom: 36, left: 56 };

/** One chart in a host element; `resized` is called when there is another width to draw for. */
export class Frame {
  constructor(host, { height, role, label, resized }) {
    this.host = host;
    this.height = height;
    this.width = 0;
    this.axes = svg("g", { "aria-hidden": "true" });
    this.plot = svg("svg", { overflow: "hidden", "aria-hidden": "true" });
    this.above = svg("g");
    this.root = svg("svg", { role, "aria-label": label, height }, this.axes, this.plot, this.above);
    this.tip = html("div", { className: "tip", hidden: true, "aria-hidden": "true" });
    host.append(this.root, this.tip);
    new ResizeObserver(() => {
      if (host.clientWidth && host.clientWidth !== this.width) {
        this.width = host.clientWidth;
        resized();
      }
    }).observe(host);
  }

  /** Set the scales for these columns and domains; draws grid and ticks, `whole` ones alone along x. */
  scaled(xColumn, xDomain, yColumn, yDomain, { xTitle = "", yTitle = "", yTicks = 5, whole = false } = {}) {
    const { top, right, bottom, left } = MARGIN;
    const [width, height] = [Math.max(40, this.width - left - right), this.height - top - bottom];
    put(this.root, { viewBox: `0 0 ${Math.max(1, this.width)} ${this.height}` });
    put(this.plot, { x: left, y: top, width, height });
    put(this.above, { transform: `translate(${left} ${top})` });
    this.x = scaleOf(xColumn, xDomain, [0, width]);
    this.y = scaleOf(yColumn, yDomain, [height, 0]);
    this.inner = { width, height };
    const marks = [];
    for (const value of ticksOf(yColumn, this.y, yTicks)) {
      const y = top + this.y(value);
      marks.push(svg("line", { class: "grid", x1: left, x2: left + width, y1: y, y2: y }));
      marks.push(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, tickWords(value)));
    }
    for (const value of ticksOf(xColumn, this.x, width / 75)) {
      if (whole && !Number.isInteger(value)) continue;
      const x = left + this.x(value);
      marks.push(svg("text", { x, y: top + height + 17, "text-anchor": "middle" }, tickWords(value)));
    }
    const base = top + height;
    marks.push(svg("line", { class: "zero", x1: left, x2: left + width, y1: base, y2: base }));
    if (xTitle) {
      marks.push(svg("text", { x: left + width / 2, y: top + height + 32, "text-anchor": "middle" }, xTitle));
    }
    if (yTitle) marks.push(svg("text", { x: 2, y: 11 }, yTitle));
    this.axes.replaceChildren(...marks);
  }

  /** Show no grid and no ticks. */
  clear() {
    this.axes.replaceChildren();
    this.root.setAttribute("aria-label", "");
  }

  /** Show a tip beside a place in the plot, on the side that has room; no words hide it. */
  tell(words, x = 0, y = 0) {
    this.tip.hidden = !words;
    if (!words) return;
    this.tip.textContent = words;
    const left = MARGIN.left + x;
    const room = this.host.clientWidth - left - this.tip.offsetWidth - 14;
    this.tip.style.left = `${room > 0 ? left + 14 : Math.max(0, left - this.tip.offsetWidth - 14)}px`;
    this.tip.style.top = `${MARGIN.top + y}px`;
  }
}
