/** The point whose size a dolly zoom holds: picked on what is remembered, and shown. */

/** CSS pixels within which a small point is hit. */
const REACH = 5;
/** CSS pixels of the mark. */
const RING = 8;

/**
 * The nearest remembered surface under the pointer.
 *
 * @param {import("../viewer/points.mjs").PointSet} points
 * @param {number} x in canvas pixels
 * @param {number} y in canvas pixels
 * @param {import("../viewer/controls.mjs").OrbitControls} controls that know the size
 * @param {number} ratio canvas pixels per CSS pixel
 * @returns {number[] | null} a point in world coordinates; null where nothing is
 */
export function surfaceUnder(points, x, y, controls, ratio) {
  const { lens, orthographic, zoom } = controls;
  let best = { z: Infinity, point: null };
  for (let i = 0; i < points.count; i++) {
    const point = points.position.subarray(3 * i, 3 * i + 3);
    const [px, py, z] = controls.project(point);
    if (!(z > 1e-6) || z >= best.z) continue;
    const half = (points.size[i] / 2) * (orthographic ? zoom : lens.fx / z);
    if (Math.max(Math.abs(px - x), Math.abs(py - y)) <= Math.max(REACH * ratio, half)) best = { z, point };
  }
  return best.point && controls.unproject(x, y, Array.from(best.point));
}

/** A ring with a cross where the subject is. */
export function paintSubject(context, controls, subject, theme, ratio) {
  if (!subject) return;
  const [x, y, z] = controls.project(subject);
  if (!(z > 0) || Math.abs(x) > 1e5 || Math.abs(y) > 1e5) return;
  const [ring, cross] = [RING * ratio, 1.6 * RING * ratio];
  for (const [style, width] of [[theme.outline, 4], [theme.past, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.beginPath();
    context.arc(x, y, ring, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + (dx * ring) / 2, y + (dy * ring) / 2);
      context.lineTo(x + dx * cross, y + dy * cross);
    }
    context.stroke();
  }
}
