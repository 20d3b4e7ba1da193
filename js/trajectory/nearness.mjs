/** Where a path comes too near to what is remembered, or goes through it. */

import { subtract, unrotate } from "../viewer/math.mjs";
import { cameraAt, gridOf, STRIDE } from "../viewer/scene.mjs";

/** Cameras and points that are looked at, at most. */
const MAX_CAMERAS = 64;
const MAX_POINTS = 20000;
/** Cells that a remembered one may be drawn across, and how many more it takes to be told. */
const STRETCHED = 4;
const MANY = 8;
/** Part of the width of its cell within which a path goes through a point. */
const THROUGH = 0.75;
/** Milliseconds that a path stands still before it is looked at closely. */
const WATCH_MS = 200;

/** Distance of a point from the way between two others, squared. */
function fromWay([px, py, pz], [ax, ay, az], [bx, by, bz]) {
  const [dx, dy, dz] = [bx - ax, by - ay, bz - az];
  const length = dx * dx + dy * dy + dz * dz;
  const along = length ? ((px - ax) * dx + (py - ay) * dy + (pz - az) * dz) / length : 0;
  const t = Math.min(1, Math.max(0, along));
  return (px - ax - t * dx) ** 2 + (py - ay - t * dy) ** 2 + (pz - az - t * dz) ** 2;
}

/** Looks again, once a path stands still, whether it comes too near to what is remembered. */
export class Nearness {
  /** @param {() => void} tell called when it is known */
  constructor(tell) {
    this.tell = tell;
    /** @type {{frame: number, kind: "through" | "near"} | null} */
    this.found = null;
  }

  watch(points, path, scene) {
    this.stop();
    this.found = null;
    this.timer = setTimeout(() => {
      this.found = nearness(points, path, scene);
      this.tell();
    }, WATCH_MS);
  }

  stop() {
    clearTimeout(this.timer);
  }
}

/**
 * The first camera of a path that is too near to the memory.
 *
 * @param {import("../viewer/points.mjs").PointSet} points
 * @param {import("../viewer/scene.mjs").Path} path
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {{frame: number, kind: "through" | "near"} | null} `through` a remembered surface, or
 *   `near`: so that remembered cells are drawn much larger than they were seen
 */
function nearness(points, path, scene) {
  const cuts = path.cuts ?? [];
  const every = Math.max(STRIDE, Math.ceil(path.length / MAX_CAMERAS));
  const stride = Math.max(1, Math.ceil(points.count / MAX_POINTS));
  const { columns } = gridOf(scene);
  let before = cameraAt(path, 0).position;
  for (let frame = 0; frame < path.length; frame += every) {
    const camera = cameraAt(path, frame);
    if (cuts.some((cut) => cut > frame - every && cut <= frame)) before = camera.position;
    const focal = (scene.intrinsics[0] / scene.width) * columns * camera.focal;
    let stretched = 0;
    for (let i = 0; i < points.count; i += stride) {
      const point = points.position.subarray(3 * i, 3 * i + 3);
      const size = points.size[i];
      if (fromWay(point, before, camera.position) < (THROUGH * size) ** 2) return { frame, kind: "through" };
      const [x, y, z] = unrotate(camera.rotation, subtract(point, camera.position));
      const seen = z > 0 && Math.abs(x) * focal < (z * columns) / 2 && Math.abs(y) * focal < (z * columns) / 2;
      if (seen && size * focal > STRETCHED * z) stretched += 1;
    }
    if (stretched * stride >= MANY) return { frame, kind: "near" };
    before = camera.position;
  }
  return null;
}
