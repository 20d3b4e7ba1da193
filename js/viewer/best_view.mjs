/**
 * Which surfels a camera shows: on a fine grid, of the front surface those that were seen best.
 *
 * The rule is that of the readout (`mirage_core/ops/best_view.py`), the grid that of the preview.
 */

/** The grid is so many times finer than the latents, so that what became small still counts. */
const FINER = 2;
/** Cells of it around the picture: surfels beside it reach into it. */
const RIM = 6;
/** How far behind the nearest the front surface reaches: facing, with its lean, at most. */
const BAND = { facing: 0.03, lean: 2.0, limit: 0.1 };
const BIN = 0.05;
const BINS = 128;
/** What it costs to have been seen coarser or finer, per factor e. */
const COARSER = 0.5;
const FINER_COST = 0.125;
/** How fast views count less with their bins, and what the worst ones count. */
const FALL = 2.5;
const LEAST_SHARE = 0.01;

/**
 * A camera on a grid.
 *
 * @param {import("./math.mjs").Pose & {focal: number}} camera
 * @param {import("./scene.mjs").Scene} scene
 * @param {number} stride pixels along each side of a cell
 */
export function gridCamera(camera, scene, stride) {
  const { rotation: r, position, focal } = camera;
  const [fx, fy, cx, cy] = scene.intrinsics.map((value) => value / stride);
  const back = [r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]];
  return { back, position, fx: fx * focal, fy: fy * focal, cx, cy };
}

/** Reused between frames, for as many surfels and cells as there ever were. */
export class Choice {
  constructor() {
    this.cell = new Int32Array(0);
    this.depth = new Float32Array(0);
    this.front = new Float32Array(0);
    this.best = new Float32Array(0);
    this.winner = new Int32Array(0);
    this.mark = new Uint32Array(0);
    this.bin = new Uint8Array(0);
    this.turn = 0;
    /** Surfels that are shown, each once. */
    this.chosen = new Uint32Array(0);
    this.count = 0;
    /** Least depth of these. */
    this.nearest = Infinity;
  }

  /** What a chosen surfel counts among others on its surface. */
  share(i) {
    return Math.max(LEAST_SHARE, Math.exp(-FALL * this.bin[i]));
  }

  /**
   * Choose what is drawn.
   *
   * @param {import("./surfel_set.mjs").SurfelSet} set
   * @param {import("./math.mjs").Pose & {focal: number}} camera
   * @param {import("./scene.mjs").Scene} scene
   */
  drawn(set, camera, scene) {
    this.compete(set, camera, scene, FINER, RIM);
    const { winner, mark, chosen } = this;
    const turn = ++this.turn;
    this.count = 0;
    for (let cell = 0; cell < winner.length; cell++) {
      const i = winner[cell];
      if (i < 0 || mark[i] === turn) continue;
      mark[i] = turn;
      chosen[this.count++] = i;
    }
  }

  /** Let surfels compete for the cells of a grid; `winner` holds -1 where there is none. */
  compete(set, camera, scene, finer, rim) {
    const columns = Math.floor(scene.width / set.stride) * finer + 2 * rim;
    const rows = Math.floor(scene.height / set.stride) * finer + 2 * rim;
    this.#reserve(set.count, rows * columns);
    const view = gridCamera(camera, scene, set.stride);
    this.#project(set, view, { finer, rim, rows, columns });
    this.#score(set, view);
  }

  #reserve(surfels, cells) {
    if (this.cell.length < surfels) {
      this.cell = new Int32Array(surfels);
      this.depth = new Float32Array(surfels);
      this.mark = new Uint32Array(surfels);
      this.bin = new Uint8Array(surfels);
      this.chosen = new Uint32Array(surfels);
    }
    if (this.winner.length !== cells) {
      this.front = new Float32Array(cells);
      this.best = new Float32Array(cells);
      this.winner = new Int32Array(cells);
    }
  }

  /** Where every surfel falls, and the nearest depth of every cell. */
  #project({ position, count, released }, view, { finer, rim, rows, columns }) {
    const { cell, depth, front } = this;
    const { back: m, position: eye } = view;
    const [fx, fy] = [view.fx * finer, view.fy * finer];
    const offset = rim + (released ? 0.5 : 0);
    const [cx, cy] = [view.cx * finer + offset, view.cy * finer + offset];
    front.fill(Infinity);
    this.nearest = Infinity;
    for (let i = 0, at = 0; i < count; i++, at += 3) {
      const [x, y, z] = [position[at] - eye[0], position[at + 1] - eye[1], position[at + 2] - eye[2]];
      const ahead = m[6] * x + m[7] * y + m[8] * z;
      cell[i] = -1;
      if (!(ahead > 0)) continue;
      const u = Math.floor(((m[0] * x + m[1] * y + m[2] * z) / ahead) * fx + cx);
      const v = Math.floor(((m[3] * x + m[4] * y + m[5] * z) / ahead) * fy + cy);
      if (!(u >= 0 && v >= 0 && u < columns && v < rows)) continue;
      const here = v * columns + u;
      cell[i] = here;
      depth[i] = ahead;
      if (depth[i] < front[here]) front[here] = depth[i];
      if (ahead < this.nearest) this.nearest = ahead;
    }
  }

  /** Of the front surface the best view wins; the nearest in a bin, the newest among equals. */
  #score({ position, source, observers, lean, count }, { position: eye, fx, fy }) {
    const { cell, depth, front, best, winner, bin } = this;
    const focal = Math.sqrt(fx * fy);
    best.fill(Infinity);
    winner.fill(-1);
    for (let i = 0, at = 0; i < count; i++, at += 3) {
      const here = cell[i];
      if (here < 0) continue;
      const behind = depth[i] / front[here] - 1;
      if (behind > BAND.limit || behind > BAND.facing + BAND.lean * lean[i]) continue;
      const who = 4 * source[i];
      const [px, py, pz] = [position[at], position[at + 1], position[at + 2]];
      const [ax, ay, az] = [px - observers[who], py - observers[who + 1], pz - observers[who + 2]];
      const [bx, by, bz] = [px - eye[0], py - eye[1], pz - eye[2]];
      const [away, near] = [ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz];
      const cosine = (ax * bx + ay * by + az * bz) / Math.sqrt(away * near);
      const size = 0.5 * Math.log(away / near) + Math.log(focal / observers[who + 3]);
      const score = Math.acos(Math.min(1, Math.max(-1, cosine)))
        + (size > 0 ? COARSER * size : -FINER_COST * size);
      // NaN compares false: a direction that does not exist is the worst.
      const step = score / BIN < BINS - 1 ? Math.floor(score / BIN) : BINS - 1;
      // The share behind the front is below 1: it decides inside of a bin.
      const key = step + behind;
      if (key <= best[here]) {
        best[here] = key;
        winner[here] = i;
        bin[i] = step;
      }
    }
  }
}
