/** Keyframes: the document that the node stores, and the path through them. */

import { TANGENTS, aligned, hermite, progressOf, slopesOf } from "./curves.mjs";
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
 * @property {number[]} [speed] handles of a curve of one's own in its place: x1, y1, x2, y2
 * @property {string} [tangent] how the path goes through it, `monotone` if none
 */

const MAX_KEYFRAMES = 10000;
/** Longer texts are left to the server, which refuses them without a browser having to parse. */
export const MAX_TEXT = 4 << 20;
const MAX_FRAME = 1000000;
const FORMAT = "mirage-keyframes";
/** 2 where anything is used that the first did not have. */
const VERSIONS = [1, 2];

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
  const { speed = null, tangent = "monotone" } = item ?? {};
  const fits =
    Number.isInteger(frame) && frame >= 0 && frame < MAX_FRAME &&
    isNumbers(position, 3) &&
    isNumbers(quaternion, 4) &&
    Math.max(...quaternion.map(Math.abs)) >= 1e-6 &&
    (fov_x === null || (Number.isFinite(fov_x) && fov_x >= 1 && fov_x <= 170)) &&
    Object.hasOwn(EASINGS, easing) &&
    (speed === null || (isNumbers(speed, 4) && speed.every((part) => part >= 0 && part <= 1))) &&
    TANGENTS.includes(tangent);
  if (!fits) throw new DocumentError("badKeyframe");
  const key = { frame, position: [...position], quaternion: unitQuaternion(quaternion), fov_x, easing };
  if (speed) key.speed = [...speed];
  if (tangent !== "monotone") key.tangent = tangent;
  return key;
}

/**
 * Read the frame of a document.
 *
 * @param {string} text
 * @returns {{data: object, space: string}} what is in it, and what its positions are relative to
 * @throws {DocumentError}
 */
export function readDocument(text) {
  if (text.length > MAX_TEXT) throw new DocumentError("tooLong");
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new DocumentError("notJson");
  }
  const { axes, matrix, space = "world" } = data?.convention ?? {};
  const ours =
    data?.format === FORMAT && VERSIONS.includes(data.version) &&
    axes === "opencv" && matrix === "camera_to_world" &&
    (space === "world" || space === "start_camera");
  if (!ours) throw new DocumentError("foreign");
  return { data, space };
}

/**
 * Read the keyframes of a document.
 *
 * @param {unknown} items
 * @param {string} space what their positions are relative to
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {Keyframe[]} in world coordinates, by frame
 * @throws {DocumentError}
 */
export function readKeyframes(items, space, scene) {
  if (!Array.isArray(items)) throw new DocumentError("foreign");
  if (items.length > MAX_KEYFRAMES) throw new DocumentError("tooLong");
  const keyframes = items.map(readKeyframe).sort((a, b) => a.frame - b.frame);
  if (!keyframes.length) throw new DocumentError("noKeyframes");
  if (keyframes.some((key, i) => i && key.frame === keyframes[i - 1].frame)) {
    throw new DocumentError("sameFrame");
  }
  return space === "world" ? keyframes : keyframes.map((key) => toWorld(key, scene));
}

/** A point in world coordinates, of one in scene depths and in the axes of the start camera. */
export const pointFromStart = (point, { start, depth }) =>
  add(rotate(start.rotation, scale(point, depth)), start.position);

/** The way back. */
export const pointToStart = (point, { start, depth }) =>
  scale(unrotate(start.rotation, subtract(point, start.position)), 1 / depth);

function toWorld(key, scene) {
  return {
    ...key,
    position: pointFromStart(key.position, scene),
    quaternion: quaternionOf(multiply(scene.start.rotation, rotationOf(key.quaternion))),
  };
}

function toStartCamera(key, scene) {
  const back = [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => scene.start.rotation[i]);
  return {
    ...key,
    position: pointToStart(key.position, scene),
    quaternion: quaternionOf(multiply(back, rotationOf(key.quaternion))),
  };
}

export const short = (value) => Number(value.toPrecision(9));

/**
 * Keyframes as a document holds them.
 *
 * @param {Keyframe[]} keyframes in world coordinates
 * @param {string} space `world`, or `start_camera` for a path that fits other pictures too
 * @param {import("../viewer/scene.mjs").Scene} scene
 */
export function keyframeItems(keyframes, space, scene) {
  return keyframes.map((key) => {
    const given = space === "world" ? key : toStartCamera(key, scene);
    const { frame, position, quaternion, fov_x, easing, speed, tangent } = given;
    const item = { frame, position: position.map(short), quaternion: quaternion.map(short), easing };
    if (fov_x !== null) item.fov_x = short(fov_x);
    if (speed) item.speed = speed.map(short);
    if ((tangent ?? "monotone") !== "monotone") item.tangent = tangent;
    return item;
  });
}

/** The text of a document, of the first version if it holds what that has. */
export function writeDocument(part, space) {
  const plain =
    Object.keys(part).length === 1 && !part.keyframes.some((item) => item.speed || item.tangent);
  return JSON.stringify({
    format: FORMAT,
    version: plain ? 1 : 2,
    convention: { axes: "opencv", matrix: "camera_to_world", space },
    ...part,
  });
}

/** The factor of the focal length that a keyframe's field of view stands for. */
export function focalFactor(fov, scene) {
  if (fov === null) return 1;
  return scene.width / 2 / Math.tan((fov * Math.PI) / 360) / scene.intrinsics[0];
}

/** The field of view in degrees of a factor of the focal length; null for the picture's own. */
export function fovOf(factor, scene) {
  if (Math.abs(factor - 1) < 1e-9) return null;
  return (360 / Math.PI) * Math.atan(scene.width / 2 / (scene.intrinsics[0] * factor));
}

/** Progress between a keyframe and the next at time t in 0..1. */
export const progressAt = (key, t) => (key.speed ? progressOf(key.speed, t) : EASINGS[key.easing](t));

/**
 * The path through keyframes, as the server makes it.
 *
 * Positions and the logarithm of the focal length follow a cubic with the slopes of the keys'
 * tangents; rotations the shortest way where both keys are `monotone`, else the same cubic. An
 * easing or a speed curve remaps the time until the next keyframe.
 *
 * @param {Keyframe[]} keyframes by frame
 * @param {number} frames length of the shot
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {import("../viewer/scene.mjs").Path}
 */
export function keyframePath(keyframes, frames, scene) {
  const path = emptyPath(frames);
  const knots = keyframes.map((key) => key.frame);
  const tangents = keyframes.map((key) => key.tangent ?? "monotone");
  const turns = aligned(keyframes.map((key) => unitQuaternion(key.quaternion)));
  const rows = keyframes.map((k, i) => [...k.position, Math.log(focalFactor(k.fov_x, scene)), ...turns[i]]);
  const last = knots.length - 1;
  const slopes = rows[0].map((_, axis) =>
    last ? slopesOf(knots, rows.map((row) => row[axis]), tangents) : null,
  );
  for (let frame = 0, i = 0; frame < frames; frame++) {
    while (i < last && frame >= knots[i + 1]) i++;
    if (frame <= knots[0] || i === last) {
      const at = frame <= knots[0] ? 0 : last;
      const rotation = rotationOf(keyframes[at].quaternion);
      setCamera(path, frame, rotation, rows[at].slice(0, 3), Math.exp(rows[at][3]));
      continue;
    }
    const span = knots[i + 1] - knots[i];
    const t = progressAt(keyframes[i], (frame - knots[i]) / span);
    const plain = tangents[i] === "monotone" && tangents[i + 1] === "monotone";
    const value = slopes.slice(0, plain ? 4 : 8).map(({ from, into }, axis) =>
      hermite(t, span, rows[i][axis], rows[i + 1][axis], from[i], into[i + 1]),
    );
    const turned = plain ? slerp(turns[i], turns[i + 1], t) : value.slice(4);
    setCamera(path, frame, rotationOf(turned), value.slice(0, 3), Math.exp(value[3]));
  }
  return path;
}

/**
 * The frame nearest to a wish that no other keyframe has, on one side of it if on both.
 *
 * @param {Keyframe[]} keyframes
 * @param {Keyframe} key
 * @param {number} wish
 * @param {-1 | 1} side
 * @param {number} frames length of the shot
 */
export function freeFrame(keyframes, key, wish, side, frames) {
  const taken = new Set(keyframes.filter((other) => other !== key).map(({ frame }) => frame));
  for (let away = 0; away < frames; away++) {
    for (const frame of [wish + side * away, wish - side * away]) {
      if (frame >= 0 && frame < frames && !taken.has(frame)) return frame;
    }
  }
  return key.frame;
}
