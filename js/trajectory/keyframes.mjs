/** Keyframes: the document that the node stores, and the path through them. */

import {
  add, multiply, quaternionOf, rotate, rotationOf, scale, slerp, subtract, unitQuaternion, unrotate,
} from "../viewer/math.mjs";
import { emptyPath, setCamera } from "../viewer/scene.mjs";

/**
 * A camera at one frame, in world coordinates.
 *
 * @typedef {object} Keyframe
 * @property {number} frame
 * @property {number[]} position
 * @property {number[]} quaternion camera to world, (x, y, z, w)
 * @property {number | null} fov_x degrees; null is the lens of the picture
 * @property {string} easing timing between this keyframe and the next
 */

const MAX_KEYFRAMES = 10000;
/** Longer texts are left to the server, which refuses them without a browser having to parse. */
export const MAX_TEXT = 4 << 20;
const MAX_FRAME = 1000000;
const FORMAT = "mirage-keyframes";

/** Progress in 0..1 of time in 0..1. */
export const EASINGS = Object.freeze({
  linear: (t) => t,
  smooth: (t) => t * t * (3 - 2 * t),
  ease_in: (t) => t * t,
  ease_out: (t) => t * (2 - t),
});

/** What is wrong with a document; `code` names a text of the locale. */
export class DocumentError extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

const isNumbers = (values, count) =>
  Array.isArray(values) && values.length === count && values.every(Number.isFinite);

function readKeyframe(item) {
  const { frame, position, quaternion, fov_x = null, easing = "smooth" } = item ?? {};
  const fits =
    Number.isInteger(frame) && frame >= 0 && frame < MAX_FRAME &&
    isNumbers(position, 3) &&
    isNumbers(quaternion, 4) &&
    Math.max(...quaternion.map(Math.abs)) >= 1e-6 &&
    (fov_x === null || (Number.isFinite(fov_x) && fov_x >= 1 && fov_x <= 170)) &&
    Object.hasOwn(EASINGS, easing);
  if (!fits) throw new DocumentError("badKeyframe");
  return { frame, position: [...position], quaternion: unitQuaternion(quaternion), fov_x, easing };
}

/**
 * Read the node's text.
 *
 * @param {string} text
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {{keyframes: Keyframe[], space: string}} keyframes in world coordinates, by frame
 * @throws {DocumentError}
 */
export function parseKeyframes(text, scene) {
  if (text.length > MAX_TEXT) throw new DocumentError("tooLong");
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new DocumentError("notJson");
  }
  const { axes, matrix, space = "world" } = data?.convention ?? {};
  const ours =
    data?.format === FORMAT && data.version === 1 &&
    axes === "opencv" && matrix === "camera_to_world" &&
    (space === "world" || space === "start_camera") &&
    Array.isArray(data.keyframes);
  if (!ours) throw new DocumentError("foreign");
  if (data.keyframes.length > MAX_KEYFRAMES) throw new DocumentError("tooLong");
  const keyframes = data.keyframes.map(readKeyframe).sort((a, b) => a.frame - b.frame);
  if (!keyframes.length) throw new DocumentError("noKeyframes");
  if (keyframes.some((key, i) => i && key.frame === keyframes[i - 1].frame)) {
    throw new DocumentError("sameFrame");
  }
  const world = space === "world" ? keyframes : keyframes.map((key) => toWorld(key, scene));
  return { keyframes: world, space };
}

function toWorld(key, { start, depth }) {
  return {
    ...key,
    position: add(rotate(start.rotation, scale(key.position, depth)), start.position),
    quaternion: quaternionOf(multiply(start.rotation, rotationOf(key.quaternion))),
  };
}

function toStartCamera(key, { start, depth }) {
  const back = [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => start.rotation[i]);
  return {
    ...key,
    position: scale(unrotate(start.rotation, subtract(key.position, start.position)), 1 / depth),
    quaternion: quaternionOf(multiply(back, rotationOf(key.quaternion))),
  };
}

const short = (value) => Number(value.toPrecision(9));

/**
 * The text that the node stores.
 *
 * @param {Keyframe[]} keyframes in world coordinates
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {string} space `world`, or `start_camera` for a path that fits other pictures too
 */
export function writeKeyframes(keyframes, scene, space = "start_camera") {
  const items = keyframes.map((key) => {
    const given = space === "world" ? key : toStartCamera(key, scene);
    const { frame, position, quaternion, fov_x, easing } = given;
    const item = { frame, position: position.map(short), quaternion: quaternion.map(short), easing };
    return fov_x === null ? item : { ...item, fov_x: short(fov_x) };
  });
  return JSON.stringify({
    format: FORMAT,
    version: 1,
    convention: { axes: "opencv", matrix: "camera_to_world", space },
    keyframes: items,
  });
}

/**
 * Slopes of the monotone cubic (PCHIP, after Fritsch and Carlson) through one coordinate.
 *
 * @param {number[]} knots increasing
 * @param {number[]} values
 */
function slopes(knots, values) {
  const last = knots.length - 1;
  const step = knots.slice(1).map((knot, i) => knot - knots[i]);
  const rise = step.map((width, i) => (values[i + 1] - values[i]) / width);
  if (last === 1) return [rise[0], rise[0]];
  const found = new Array(last + 1).fill(0);
  for (let i = 1; i < last; i++) {
    if (rise[i - 1] * rise[i] <= 0) continue;
    const before = 2 * step[i] + step[i - 1];
    const after = step[i] + 2 * step[i - 1];
    found[i] = (before + after) / (before / rise[i - 1] + after / rise[i]);
  }
  found[0] = endSlope(step[0], step[1], rise[0], rise[1]);
  found[last] = endSlope(step[last - 1], step[last - 2], rise[last - 1], rise[last - 2]);
  return found;
}

function endSlope(step, nextStep, rise, nextRise) {
  const slope = ((2 * step + nextStep) * rise - step * nextRise) / (step + nextStep);
  if (Math.sign(slope) !== Math.sign(rise)) return 0;
  const turns = Math.sign(rise) !== Math.sign(nextRise);
  return turns && Math.abs(slope) > 3 * Math.abs(rise) ? 3 * rise : slope;
}

/** The factor of the focal length that a keyframe's field of view stands for. */
function focalFactor(fov, scene) {
  if (fov === null) return 1;
  return scene.width / 2 / Math.tan((fov * Math.PI) / 360) / scene.intrinsics[0];
}

/** The field of view in degrees of a factor of the focal length; null for the picture's own. */
export function fovOf(factor, scene) {
  if (Math.abs(factor - 1) < 1e-9) return null;
  return (360 / Math.PI) * Math.atan(scene.width / 2 / (scene.intrinsics[0] * factor));
}

/**
 * The path through keyframes, as the server makes it.
 *
 * Positions and the logarithm of the focal length follow a monotone cubic, rotations the shortest
 * way; an easing remaps the time until the next keyframe.
 *
 * @param {Keyframe[]} keyframes by frame
 * @param {number} frames length of the shot
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {import("../viewer/scene.mjs").Path}
 */
export function keyframePath(keyframes, frames, scene) {
  const path = emptyPath(frames);
  const knots = keyframes.map((key) => key.frame);
  const rows = keyframes.map((k) => [...k.position, Math.log(focalFactor(k.fov_x, scene))]);
  const curves = [0, 1, 2, 3].map((axis) => rows.map((row) => row[axis]));
  const tangents = knots.length > 1 ? curves.map((values) => slopes(knots, values)) : [];
  const last = knots.length - 1;
  for (let frame = 0, i = 0; frame < frames; frame++) {
    while (i < last && frame >= knots[i + 1]) i++;
    if (frame <= knots[0] || i === last) {
      const at = frame <= knots[0] ? 0 : last;
      const rotation = rotationOf(keyframes[at].quaternion);
      setCamera(path, frame, rotation, rows[at].slice(0, 3), Math.exp(rows[at][3]));
      continue;
    }
    const span = knots[i + 1] - knots[i];
    const t = EASINGS[keyframes[i].easing]((frame - knots[i]) / span);
    const value = curves.map((values, axis) =>
      hermite(t, span, values[i], values[i + 1], tangents[axis][i], tangents[axis][i + 1]),
    );
    const turned = slerp(keyframes[i].quaternion, keyframes[i + 1].quaternion, t);
    setCamera(path, frame, rotationOf(turned), value.slice(0, 3), Math.exp(value[3]));
  }
  return path;
}

function hermite(t, span, from, to, slopeFrom, slopeTo) {
  const [a, b] = [t * t * (3 - 2 * t), t * (1 - t)];
  return from + (to - from) * a + span * b * (slopeFrom * (1 - t) - slopeTo * t);
}
