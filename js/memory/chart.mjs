/** How a memory grew: points per block as bars, and how much of each frame was known. */

import { element } from "../page/dom.mjs";
import { themeOf } from "../viewer/paint.mjs";

/** Maximum number of bars; the blocks of a longer rollout are grouped. */
const MAX_BARS = 60;
const STRIP = 10;

export class Chart {
  /** @param {(key: string, values?: object) => string} text */
  constructor(text) {
    this.text = text;
    this.canvas = element("canvas", { class: "mirage-chart", role: "img" });
    this.coverage = [];
    this.run = null;
    this.sizes = new ResizeObserver(() => this.#paint());
    this.sizes.observe(this.canvas);
  }

  /**
   * @param {object} view what a node or a rollout reported
   */
  show(view) {
    const blocks = Array.isArray(view.blocks) ? view.blocks : [];
    this.growth = grouped(blocks.map((block) => (block?.points >= 0 ? Number(block.points) : 0)));
    // The node's own report, after a rollout, says nothing about frames.
    if (view.run && (view.run !== this.run || view.done === 1)) this.coverage = [];
    this.run = view.run ?? this.run;
    if (Array.isArray(view.coverage)) this.coverage.push(...view.coverage.filter(Number.isFinite));
    const most = Math.max(0, ...this.growth).toLocaleString();
    const label = this.text("growth", { blocks: blocks.length, most });
    this.canvas.setAttribute("aria-label", label);
    this.canvas.title = label;
    this.#paint();
  }

  #paint() {
    const { canvas, growth, coverage } = this;
    const box = canvas.getBoundingClientRect();
    if (!growth || !box.width) return;
    const theme = themeOf(canvas);
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    const context = canvas.getContext("2d");
    const strip = coverage.length ? STRIP * ratio * (box.height / canvas.clientHeight) : 0;
    const height = canvas.height - strip - (strip && 4 * ratio);
    const most = Math.max(1, ...growth);
    const width = canvas.width / Math.max(24, growth.length);
    context.fillStyle = theme.key;
    growth.forEach((points, i) => {
      const tall = Math.max(1, (points / most) * height);
      context.fillRect(i * width + 1, height - tall, Math.max(1, width - 2), tall);
    });
    coverage.forEach((value, i) => {
      const [left, right] = [i, i + 1].map((n) => (n / coverage.length) * canvas.width);
      context.fillStyle = theme.hole;
      context.fillRect(left, canvas.height - strip, right - left + 0.5, strip);
      context.fillStyle = theme.known;
      context.fillRect(left, canvas.height - strip * value, right - left + 0.5, strip * value);
    });
  }

  dispose() {
    this.sizes.disconnect();
  }
}

/** At most MAX_BARS sums of neighbours. */
function grouped(values) {
  const size = Math.ceil(values.length / MAX_BARS) || 1;
  const sums = [];
  for (let i = 0; i < values.length; i += size) {
    sums.push(values.slice(i, i + size).reduce((sum, value) => sum + value, 0));
  }
  return sums;
}
