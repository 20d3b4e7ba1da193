/** Through the lens: the readout at the shown frame, one pixel per latent cell, holes marked. */

import { element } from "../page/dom.mjs";
import { Grid, readGrid } from "../viewer/zbuffer.mjs";
import { gridOf } from "../viewer/scene.mjs";

/** Two shades of stripes that mark a hole, unlike anything in a picture. */
const HOLE = [
  [96, 30, 84, 255],
  [168, 60, 140, 255],
];

export class Lens {
  /** @param {(key: string, values?: object) => string} text */
  constructor(text) {
    this.text = text;
    this.picture = element("canvas", { class: "mirage-lens-picture", role: "img" });
    this.caption = element("figcaption", { class: "mirage-lens-caption" });
    this.element = element("figure", { class: "mirage-lens" }, this.picture, this.caption);
    this.grid = new Grid(0, 0);
    this.context = this.picture.getContext("2d");
  }

  /**
   * @param {import("../viewer/points.mjs").PointSet} points
   * @param {Uint8Array} colours 4 per point
   * @param {import("../viewer/math.mjs").Pose & {focal: number}} camera
   * @param {import("../viewer/scene.mjs").Scene} scene
   */
  show(points, colours, camera, scene) {
    this.element.hidden = !points.count;
    if (!points.count) return;
    const { rows, columns } = gridOf(scene);
    if (this.grid.rows !== rows || this.grid.columns !== columns) {
      this.grid = new Grid(rows, columns);
      this.picture.width = columns;
      this.picture.height = rows;
      this.pixels = this.context.createImageData(columns, rows);
    }
    readGrid(points, camera, scene, this.grid);
    this.#paint(colours);
    const label = this.text("lensKnown", { known: Math.round(100 * this.grid.coverage) });
    this.caption.textContent = label;
    this.picture.setAttribute("aria-label", `${this.text("lens")}. ${label}`);
  }

  #paint(colours) {
    const { winner, columns } = this.grid;
    const { data } = this.pixels;
    for (let cell = 0; cell < winner.length; cell++) {
      const point = winner[cell];
      if (point >= 0) {
        data.set(colours.subarray(4 * point, 4 * point + 4), 4 * cell);
      } else {
        const stripe = (((cell % columns) + Math.floor(cell / columns)) >> 1) % 2;
        data.set(HOLE[stripe], 4 * cell);
      }
    }
    this.context.putImageData(this.pixels, 0, 0);
  }
}
