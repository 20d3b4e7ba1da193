/** How much of a camera's picture was ever seen, and how much of that only softly, cell by cell. */

import { Choice, gridCamera } from "./best_view.mjs";

/** Pixels of the picture from which on a texel of one pixel counts as soft. */
export const SOFT = 2;
/** Cells around the picture: surfels beside it reach into it. */
const RIM = 3;
/** Half-width of a surfel in its own half-widths, as it is drawn. */
const SUPPORT = 1.15;
/** Area in cells below which a surfel only covers the cell in which it lies. */
const LEAST_AREA = 1e-3;

/** Measures one camera after another; holds what it needs between them. */
export class SeenShares {
  constructor() {
    this.choice = new Choice();
    this.inverse = new Float32Array(0);
    this.soft = new Uint8Array(0);
  }

  /**
   * @param {import("./points.mjs").PointSet} points
   * @param {import("./math.mjs").Pose & {focal: number}} camera
   * @param {import("./scene.mjs").Scene} scene
   * @param {import("./zbuffer.mjs").Grid} grid what the readout shows there
   * @returns {{seen: number, soft: number}} shares of the cells; what is soft is among the seen
   */
  measure(points, camera, scene, grid) {
    const view = gridCamera(camera, scene, points.stride);
    if (!points.surfels) return ofDots(points, view, grid);
    const { surfels } = points;
    const columns = Math.floor(scene.width / surfels.stride) + 2 * RIM;
    const rows = Math.floor(scene.height / surfels.stride) + 2 * RIM;
    if (this.soft.length !== rows * columns) {
      this.inverse = new Float32Array(rows * columns);
      this.soft = new Uint8Array(rows * columns);
    }
    this.inverse.fill(0);
    this.choice.compete(surfels, camera, scene, 1, RIM);
    const { winner } = this.choice;
    for (let cell = 0; cell < winner.length; cell++) {
      if (winner[cell] >= 0) this.#cover(surfels, winner[cell], view, cell, rows, columns);
    }
    return this.#count(rows, columns);
  }

  /** Put a surfel over the cells that it covers, where nothing is nearer. */
  #cover({ position, across, down, released }, i, view, own, rows, columns) {
    const { back: m, position: eye, fx, fy } = view;
    const offset = RIM + (released ? 0.5 : 0);
    const at = 3 * i;
    const place = (x, y, z) => {
      const ahead = m[6] * x + m[7] * y + m[8] * z;
      return [((m[0] * x + m[1] * y + m[2] * z) / ahead) * fx, ((m[3] * x + m[4] * y + m[5] * z) / ahead) * fy, 1 / ahead];
    };
    const [x, y, z] = [position[at] - eye[0], position[at + 1] - eye[1], position[at + 2] - eye[2]];
    const [u, v, inverse] = place(x, y, z);
    const [au, av, ai] = place(x + across[at], y + across[at + 1], z + across[at + 2]);
    const [bu, bv, bi] = place(x + down[at], y + down[at + 1], z + down[at + 2]);
    if (!(inverse > 0 && ai > 0 && bi > 0)) return;
    const [ax, ay, bx, by] = [au - u, av - v, bu - u, bv - v];
    const soft = 2 * Math.max(Math.hypot(ax, ay), Math.hypot(bx, by)) > SOFT ? 1 : 0;
    this.#take(own, inverse, soft);
    const area = ax * by - ay * bx;
    if (Math.abs(area) < LEAST_AREA) return;
    const [cx, cy] = [u + view.cx + offset, v + view.cy + offset];
    const [wide, high] = [SUPPORT * (Math.abs(ax) + Math.abs(bx)), SUPPORT * (Math.abs(ay) + Math.abs(by))];
    const last = Math.min(rows - 1, Math.floor(cy + high - 0.5));
    const right = Math.min(columns - 1, Math.floor(cx + wide - 0.5));
    for (let row = Math.max(0, Math.ceil(cy - high - 0.5)); row <= last; row++) {
      for (let column = Math.max(0, Math.ceil(cx - wide - 0.5)); column <= right; column++) {
        const [dx, dy] = [column + 0.5 - cx, row + 0.5 - cy];
        const [p, q] = [(by * dx - bx * dy) / area, (ax * dy - ay * dx) / area];
        if (Math.abs(p) > SUPPORT || Math.abs(q) > SUPPORT) continue;
        this.#take(row * columns + column, inverse + p * (ai - inverse) + q * (bi - inverse), soft);
      }
    }
  }

  #take(cell, inverse, soft) {
    if (inverse <= this.inverse[cell]) return;
    this.inverse[cell] = inverse;
    this.soft[cell] = soft;
  }

  #count(rows, columns) {
    let [seen, soft] = [0, 0];
    for (let row = RIM; row < rows - RIM; row++) {
      for (let column = RIM; column < columns - RIM; column++) {
        const cell = row * columns + column;
        if (!this.inverse[cell]) continue;
        seen += 1;
        soft += this.soft[cell];
      }
    }
    const cells = Math.max(1, (rows - 2 * RIM) * (columns - 2 * RIM));
    return { seen: seen / cells, soft: soft / cells };
  }
}

/** Points of pixels: what the readout shows of them, and how large their pixels are here. */
function ofDots({ size }, view, { winner, depth }) {
  let [seen, soft] = [0, 0];
  for (let cell = 0; cell < winner.length; cell++) {
    const i = winner[cell];
    if (i < 0) continue;
    seen += 1;
    if ((size[i] * view.fx) / depth[cell] > SOFT) soft += 1;
  }
  const cells = Math.max(1, winner.length);
  return { seen: seen / cells, soft: soft / cells };
}
