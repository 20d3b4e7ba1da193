/** Keyframes along a line that was drawn over the scene. */

import { add, distance, forwardOf, lookAt, quaternionOf, scale, subtract } from "../viewer/math.mjs";

/** Maximum number of keyframes of a drawn line. */
const MAX_DRAWN = 12;

/** Keyframes along a drawn line: the start camera, then points that keep the line's shape. */
export function drawnKeyframes(line, model) {
  const { scene, path } = model;
  const target = add(scene.start.position, scale(forwardOf(scene.start.rotation), scene.depth));
  const corners = simplify([scene.start.position, ...line], MAX_DRAWN);
  const length = [0];
  for (let i = 1; i < corners.length; i++) length.push(length[i - 1] + distance(corners[i - 1], corners[i]));
  const last = path.length - 1;
  let previous = -1;
  return corners.map((position, i) => {
    const left = corners.length - 1 - i;
    const wish = Math.round((length[i] / length.at(-1)) * last);
    const frame = Math.min(last - left, Math.max(previous + 1, wish));
    previous = frame;
    const away = distance(position, target) > 0.05 * scene.depth;
    const facing = i && away ? lookAt(position, target) : scene.start.rotation;
    const easing = i === 0 ? "ease_in" : i === corners.length - 2 ? "ease_out" : "linear";
    return { frame, position: [...position], quaternion: quaternionOf(facing), fov_x: null, easing };
  });
}

/** The corners of a line that shape it most (after Ramer, Douglas and Peucker). */
function simplify(points, most) {
  const kept = new Set([0, points.length - 1]);
  while (kept.size < Math.min(most, points.length)) {
    const order = [...kept].sort((a, b) => a - b);
    let worst = { index: -1, away: 0 };
    for (let part = 0; part + 1 < order.length; part++) {
      for (let i = order[part] + 1; i < order[part + 1]; i++) {
        const away = fromSegment(points[i], points[order[part]], points[order[part + 1]]);
        if (away > worst.away) worst = { index: i, away };
      }
    }
    const size = distance(points[0], points.at(-1)) || 1;
    if (worst.index < 0 || worst.away < 0.01 * size) break;
    kept.add(worst.index);
  }
  return [...kept].sort((a, b) => a - b).map((index) => points[index]);
}

function fromSegment(point, from, to) {
  const along = subtract(to, from);
  const squared = along[0] ** 2 + along[1] ** 2 + along[2] ** 2;
  const offset = subtract(point, from);
  const t = squared ? (offset[0] * along[0] + offset[1] * along[1] + offset[2] * along[2]) / squared : 0;
  return distance(point, add(from, scale(along, Math.min(1, Math.max(0, t)))));
}
