/** Lines over the points: floor, path, frusta, keyframes. */

import { add, forwardOf, rotate, scale } from "./math.mjs";
import { extentOfPoints } from "./points.mjs";
import { cameraAt } from "./scene.mjs";

/**
 * Colours of the theme, read from the widget's style.
 *
 * @returns {Record<string, string>}
 */
export function themeOf(element) {
  const style = getComputedStyle(element);
  const names = ["text", "muted", "grid", "path", "past", "key", "selected", "hole", "known", "outline", "actor"];
  return Object.fromEntries(names.map((n) => [n, style.getPropertyValue(`--mirage-${n}`).trim()]));
}

/** Draw a line through world points; parts behind the camera are skipped, and null is a gap. */
export function polyline(context, controls, points) {
  context.beginPath();
  let drawing = false;
  for (const point of points) {
    const [x, y, z] = point ? controls.project(point) : [0, 0, 0];
    if (!(z > 1e-4) || Math.abs(x) > 1e5 || Math.abs(y) > 1e5) drawing = false;
    else if (drawing) context.lineTo(x, y);
    else {
      context.moveTo(x, y);
      drawing = true;
    }
  }
  context.stroke();
}

/** A level grid below the start camera: the floor until there is a scene. */
export function paintFloor(context, controls, scene, theme, ratio) {
  const { position } = scene.start;
  const size = scene.depth;
  const height = position[1] + 0.35 * size;
  context.strokeStyle = theme.grid;
  context.lineWidth = ratio;
  const lines = 12;
  for (let i = -lines; i <= lines; i++) {
    const offset = (i / lines) * 3 * size;
    const [x, z] = [position[0], position[2] + size];
    const along = [];
    const across = [];
    for (let j = -lines; j <= lines; j++) {
      const other = (j / lines) * 3 * size;
      along.push([x + offset, height, z + other]);
      across.push([x + other, height, z + offset]);
    }
    polyline(context, controls, along);
    polyline(context, controls, across);
  }
}

/** Corners of a camera's picture at a distance, in world coordinates. */
function frustumCorners(camera, scene, reach) {
  const [fx, fy, cx, cy] = scene.intrinsics;
  const corner = (u, v) => {
    const ray = [(u - cx) / (fx * camera.focal), (v - cy) / (fy * camera.focal), 1];
    return add(camera.position, rotate(camera.rotation, scale(ray, reach)));
  };
  const { width, height } = scene;
  return [corner(0, 0), corner(width, 0), corner(width, height), corner(0, height)];
}

/** The view frustum of a camera, as a pyramid. */
export function paintFrustum(context, controls, camera, scene, reach) {
  const corners = frustumCorners(camera, scene, reach);
  polyline(context, controls, [...corners, corners[0]]);
  for (const corner of corners) polyline(context, controls, [camera.position, corner]);
  // A mark on the upper edge tells which way is up.
  const middle = scale(add(corners[0], corners[1]), 0.5);
  const up = rotate(camera.rotation, [0, -0.15 * reach, 0]);
  const [left, right] = [corners[0], corners[1]].map((corner) => scale(add(corner, middle), 0.5));
  polyline(context, controls, [left, add(middle, up), right]);
}

/** Points of a path up to one of its frames, with a gap where another camera takes over. */
export function wayOf(path, last = path.length - 1) {
  const every = Math.max(1, Math.floor(path.length / 2000));
  const cuts = path.cuts ?? [];
  const way = [];
  let [before, next] = [0, 0];
  for (let frame = 0; ; frame = Math.min(last, frame + every)) {
    while (cuts[next] <= before) next++;
    if (cuts[next] <= frame) way.push(null);
    way.push(path.position.subarray(3 * frame, 3 * frame + 3));
    before = frame;
    if (frame >= last) return way;
  }
}

/** The path: travelled, and still to come. */
export function paintPath(context, controls, path, frame, theme, ratio) {
  const line = wayOf(path);
  context.lineJoin = "round";
  // A dark rim keeps the line readable on points of any colour.
  for (const [style, width] of [[theme.outline, 5], [theme.path, 2.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    polyline(context, controls, line);
  }
  context.strokeStyle = theme.past;
  context.lineWidth = 2.5 * ratio;
  polyline(context, controls, wayOf(path, frame));
}

/** A handle on the screen. */
export function paintHandle(context, x, y, radius, fill, outline, ratio) {
  context.beginPath();
  context.arc(x, y, radius * ratio, 0, 2 * Math.PI);
  context.fillStyle = fill;
  context.fill();
  context.strokeStyle = outline;
  context.lineWidth = 1.5 * ratio;
  context.stroke();
}

/** Position of the handle that aims a keyframe. */
export function aimPoint(keyframe, rotation, scene) {
  return add(keyframe.position, scale(forwardOf(rotation), 0.4 * scene.depth));
}

/**
 * Centre and radius of everything in the scene: the points, or the region around the target, and
 * the path.
 */
export function extentOf(path, scene, points) {
  const ahead = add(scene.start.position, scale(forwardOf(scene.start.rotation), scene.depth));
  const box = extentOfPoints(points);
  const low = box?.low ?? ahead.map((value) => value - 0.35 * scene.depth);
  const high = box?.high ?? ahead.map((value) => value + 0.35 * scene.depth);
  const every = Math.max(1, Math.floor(path.length / 200));
  for (let i = 0; i < path.length; i += every) {
    const { position } = cameraAt(path, i);
    for (let axis = 0; axis < 3; axis++) {
      low[axis] = Math.min(low[axis], position[axis]);
      high[axis] = Math.max(high[axis], position[axis]);
    }
  }
  return sphereAround(low, high);
}

/** Sphere around the centre of a box; smaller than its circumscribed sphere, for a closer view. */
export function sphereAround(low, high) {
  const centre = low.map((value, axis) => (value + high[axis]) / 2);
  return { centre, radius: 0.34 * Math.hypot(...low.map((value, axis) => high[axis] - value)) };
}
