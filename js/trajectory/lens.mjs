/** The inset: through the lens beside a view from outside, or the view from outside beside the lens. */

import { element } from "../page/dom.mjs";
import { CameraPicture } from "../viewer/picture.mjs";
import { gridOf } from "../viewer/scene.mjs";
import { Grid, readGrid } from "../viewer/zbuffer.mjs";

/** Canvas pixels across at most. */
const MAX_PIXELS = 1600;

export class Lens {
  /**
   * @param {(key: string, values?: object) => string} text
   * @param {(context: CanvasRenderingContext2D, ratio: number) => void} overview draws the scene
   *   from outside
   */
  constructor(text, overview) {
    this.text = text;
    this.overview = overview;
    this.canvas = element("canvas", { class: "mirage-lens-picture", role: "img" });
    this.caption = element("figcaption", { class: "mirage-lens-caption" });
    this.element = element("figure", { class: "mirage-lens" }, this.canvas, this.caption);
    this.grid = new Grid(0, 0);
    this.context = this.canvas.getContext("2d");
    this.picture = new CameraPicture();
    this.pending = 0;
  }

  /**
   * @param {import("../viewer/picture.mjs").Shot} shot
   * @param {boolean} outside show the scene from outside
   */
  show(shot, outside) {
    const { points, camera, scene, still } = shot;
    this.element.hidden = !points.count;
    if (!points.count) return;
    const { rows, columns } = gridOf(scene);
    if (this.grid.rows !== rows || this.grid.columns !== columns) this.grid = new Grid(rows, columns);
    readGrid(still, camera, scene, this.grid);
    this.canvas.style.aspectRatio = `${scene.width} / ${scene.height}`;
    [this.shot, this.outside] = [shot, outside];
    this.element.classList.toggle("mirage-outside", outside);
    this.#describe();
    this.invalidate();
  }

  /** Draw in the next animation frame; several calls draw once. */
  invalidate() {
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0;
      this.render();
    });
  }

  /** Draw now. */
  render() {
    const { canvas, context, shot } = this;
    const box = canvas.getBoundingClientRect();
    if (!shot || !box.width || !box.height) return;
    const dense = Math.min(devicePixelRatio || 1, MAX_PIXELS / box.width);
    const [width, height] = [box.width, box.height].map((side) => Math.max(1, Math.round(side * dense)));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const ratio = width / Math.max(1, canvas.clientWidth);
    if (this.outside) this.overview(context, ratio);
    else this.picture.draw(context, [0, 0, width, height], shot, ratio);
  }

  #describe() {
    const label = this.text("lensKnown", { known: Math.round(100 * this.grid.coverage) });
    this.caption.textContent = label;
    this.canvas.setAttribute("aria-label", `${this.text(this.outside ? "overview" : "lens")}. ${label}`);
  }

  dispose() {
    cancelAnimationFrame(this.pending);
  }
}
