/** What is known of the picture that a path belongs to, and paths as arrays of cameras. */

import { IDENTITY, rotate, multiply, scale, add } from "./math.mjs";

/**
 * @typedef {object} Scene
 * @property {number} width picture width in pixels
 * @property {number} height picture height in pixels
 * @property {number[]} intrinsics fx, fy, cx, cy in pixels
 * @property {number} depth typical distance of what the picture shows, in scene units
 * @property {import("./math.mjs").Pose} start camera of the first frame
 * @property {boolean} known false while these are guesses
 */

/**
 * Cameras of a shot.
 *
 * @typedef {object} Path
 * @property {number} length number of frames
 * @property {Float64Array} position 3 per frame, world coordinates
 * @property {Float64Array} rotation 9 per frame, camera to world
 * @property {Float64Array} focal factor of the focal lengths, 1 per frame
 * @property {number[]} [cuts] frames, in order, from which another camera is shown
 */

export const MIN_FRAMES = 5;
export const MAX_FRAMES = 100001;
/** Pixel frames that one latent frame stands for. */
export const STRIDE = 4;
/** Pixels of a latent cell on each side. */
const CELL = 16;

const GUESSED_FOV = 60;

/** @returns {Scene} a stand-in until the node has run: lens and distance of an ordinary picture */
export function guessedScene(width = 1280, height = 704) {
  const focal = width / 2 / Math.tan((GUESSED_FOV * Math.PI) / 360);
  return {
    width,
    height,
    intrinsics: [focal, focal, width / 2, height / 2],
    depth: 1,
    start: { rotation: [...IDENTITY], position: [0, 0, 0] },
    known: false,
  };
}

const isSize = (value) => Number.isInteger(value) && value >= 32 && value <= 65536;
const areFinite = (values, count) =>
  Array.isArray(values) && values.length === count && values.every(Number.isFinite);

/** @returns {Scene | null} the scene that the node's output describes; null if it does not */
export function sceneOf(view) {
  const rows = view?.start;
  const complete =
    isSize(view?.width) &&
    isSize(view?.height) &&
    areFinite(view.intrinsics, 4) &&
    view.intrinsics[0] > 0 &&
    view.intrinsics[1] > 0 &&
    Number.isFinite(view.depth) &&
    view.depth > 0 &&
    Array.isArray(rows) &&
    rows.length === 4 &&
    rows.every((row) => areFinite(row, 4));
  if (!complete) return null;
  return {
    width: view.width,
    height: view.height,
    intrinsics: [...view.intrinsics],
    depth: view.depth,
    start: {
      rotation: rows.slice(0, 3).flatMap((row) => row.slice(0, 3)),
      position: rows.slice(0, 3).map((row) => row[3]),
    },
    known: true,
  };
}

/** Rows and columns of the latent grid. */
export function gridOf(scene) {
  return { rows: Math.floor(scene.height / CELL), columns: Math.floor(scene.width / CELL) };
}

/** @returns {Path} of `length` cameras that are still to be set */
export function emptyPath(length) {
  return {
    length,
    position: new Float64Array(3 * length),
    rotation: new Float64Array(9 * length),
    focal: new Float64Array(length).fill(1),
  };
}

/** Set one camera of a path, given in world coordinates. */
export function setCamera(path, frame, rotation, position, focal = 1) {
  path.rotation.set(rotation, 9 * frame);
  path.position.set(position, 3 * frame);
  path.focal[frame] = focal;
}

/** Set one camera of a path, given in the axes of the start camera and in scene depths. */
export function setFromStart(path, frame, scene, rotation, position, focal = 1) {
  const { start, depth } = scene;
  const moved = add(rotate(start.rotation, scale(position, depth)), start.position);
  setCamera(path, frame, multiply(start.rotation, rotation), moved, focal);
}

/**
 * One camera of a path.
 *
 * @param {Path} path
 * @param {number} frame
 * @returns {import("./math.mjs").Pose & {focal: number}}
 */
export function cameraAt(path, frame) {
  const index = Math.min(path.length - 1, Math.max(0, Math.round(frame)));
  return {
    rotation: Array.from(path.rotation.subarray(9 * index, 9 * index + 9)),
    position: Array.from(path.position.subarray(3 * index, 3 * index + 3)),
    focal: path.focal[index],
  };
}
