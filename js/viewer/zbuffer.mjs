/** What the memory shows to a camera, on the latent grid: the same z-buffer as the server's. */

import { rotate } from "./math.mjs";
import { cameraAt, gridOf, STRIDE } from "./scene.mjs";
import { SeenShares } from "./seen.mjs";

/** Latent frames that a strip of coverage holds at most; longer shots are sampled evenly. */
const MAX_FRAMES = 600;

/** A reusable z-buffer. */
export class Grid {
  constructor(rows, columns) {
    this.rows = rows;
    this.columns = columns;
    this.depth = new Float32Array(rows * columns);
    this.winner = new Int32Array(rows * columns);
    /** Cells that show something. */
    this.known = 0;
  }

  get coverage() {
    return this.known / Math.max(1, this.depth.length);
  }
}

/** 3 x 4 matrix from world coordinates to cells, rounded once to single precision. */
function projection(camera, scene, grid) {
  const { rotation: r, position, focal } = camera;
  const [fx, fy, cx, cy] = scene.intrinsics;
  const [sx, sy] = [grid.columns / scene.width, grid.rows / scene.height];
  const back = [r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]];
  const moved = rotate(back, position).map((value) => -value);
  const rows = [0, 1, 2].map((i) => [...back.slice(3 * i, 3 * i + 3), moved[i]]);
  const mix = (a, p, b, q) => a.map((value, i) => Math.fround(value * p + b[i] * q));
  return [
    ...mix(rows[0], fx * focal * sx, rows[2], cx * sx),
    ...mix(rows[1], fy * focal * sy, rows[2], cy * sy),
    ...rows[2].map(Math.fround),
  ];
}

/** Round half to even, as the released pixel convention does. */
function roundEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * Let points compete for the cells of a grid; the nearest wins, the newest among equals.
 *
 * @param {import("./points.mjs").PointSet} points
 * @param {import("./math.mjs").Pose & {focal: number}} camera
 * @param {import("./scene.mjs").Scene} scene
 * @param {Grid} grid
 */
export function readGrid(points, camera, scene, grid) {
  const { fround } = Math;
  const { rows, columns, depth, winner } = grid;
  const { position, count, released } = points;
  const [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = projection(camera, scene, grid);
  depth.fill(Infinity);
  winner.fill(-1);
  for (let i = 0, at = 0; i < count; i++, at += 3) {
    const [px, py, pz] = [position[at], position[at + 1], position[at + 2]];
    const z = fround(fround(fround(fround(px * c0) + fround(py * c1)) + fround(pz * c2)) + c3);
    if (!(z > 0)) continue;
    const x = fround(fround(fround(fround(px * a0) + fround(py * a1)) + fround(pz * a2)) + a3);
    let u = fround(x / z);
    if (!(u > -1 && u < columns)) continue;
    const y = fround(fround(fround(fround(px * b0) + fround(py * b1)) + fround(pz * b2)) + b3);
    let v = fround(y / z);
    if (!(v > -1 && v < rows)) continue;
    u = released ? roundEven(u) : Math.floor(u);
    v = released ? roundEven(v) : Math.floor(v);
    if (u < 0 || v < 0 || u >= columns || v >= rows) continue;
    const cell = v * columns + u;
    if (z <= depth[cell]) {
      depth[cell] = z;
      winner[cell] = i;
    }
  }
  grid.known = 0;
  for (let cell = 0; cell < winner.length; cell++) if (winner[cell] >= 0) grid.known++;
  return grid;
}

/**
 * Coverage of the latent frames of a path, a few milliseconds at a time.
 *
 * `values` holds the shares that a readout shows, `seen` those that were ever seen, and `soft` those
 * of these that are soft; all NaN where nothing is known yet. Frames far apart come first, so that a strip
 * has its shape early.
 */
export class Coverage {
  /** @param {(coverage: Coverage) => void} onChange called whenever values arrived */
  constructor(onChange) {
    this.onChange = onChange;
    this.values = new Float32Array(0);
    this.seen = new Float32Array(0);
    this.soft = new Float32Array(0);
    this.shares = new SeenShares();
    this.frames = [];
    this.job = 0;
  }

  /** Measure another path or memory; a running measurement stops. */
  start(points, path, scene) {
    const latent = Math.floor((path.length - 1) / STRIDE) + 1;
    const count = Math.min(latent, MAX_FRAMES);
    const every = count > 1 ? (latent - 1) / (count - 1) : 0;
    this.frames = Array.from({ length: count }, (_, i) => Math.round(i * every) * STRIDE);
    const job = ++this.job;
    for (const name of ["values", "seen", "soft"]) {
      const old = this[name];
      this[name] = new Float32Array(count).fill(NaN);
      // Until the new values are there, the old ones are a better guess than nothing.
      if (old.length === count && points.count) this[name].set(old);
    }
    if (!points.count) {
      this.onChange(this);
      return;
    }
    const { rows, columns } = gridOf(scene);
    this.#run(job, farApart(count), new Grid(rows, columns), points, path, scene);
  }

  stop() {
    this.job++;
  }

  #run(job, order, grid, points, path, scene, done = 0) {
    const begin = performance.now();
    while (done < order.length && performance.now() - begin < 5) {
      const index = order[done++];
      const camera = cameraAt(path, this.frames[index]);
      readGrid(points, camera, scene, grid);
      this.values[index] = grid.coverage;
      const { seen, soft } = this.shares.measure(points, camera, scene, grid);
      this.seen[index] = seen;
      this.soft[index] = soft;
    }
    this.onChange(this);
    if (done < order.length) {
      setTimeout(() => {
        if (job === this.job) this.#run(job, order, grid, points, path, scene, done);
      }, 12);
    }
  }
}

/** 0..count - 1 with halves first, then quarters and so on. */
function farApart(count) {
  const order = [];
  let step = 1;
  while (step < count) step *= 2;
  const taken = new Uint8Array(count);
  for (; step >= 1; step /= 2) {
    for (let i = 0; i < count; i += step) {
      if (!taken[i]) order.push(i);
      taken[i] = 1;
    }
  }
  return order;
}
