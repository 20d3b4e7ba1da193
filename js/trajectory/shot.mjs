/** A shot: cameras with keyframes, cuts between them, a held subject, shake, and other takes. */

import { unrotate, subtract } from "../viewer/math.mjs";
import { cameraAt } from "../viewer/scene.mjs";
import {
  DocumentError, keyframeItems, keyframePath, pointFromStart, pointToStart, readDocument, readKeyframes,
  short, writeDocument,
} from "./keyframes.mjs";
import { shakePath } from "./shake.mjs";

/**
 * @typedef {object} Camera
 * @property {string} name
 * @property {import("./keyframes.mjs").Keyframe[]} keyframes in world coordinates, by frame
 */

/**
 * @typedef {object} Shot
 * @property {string} take its name
 * @property {Camera[]} cameras the first is shown until the first cut
 * @property {{frame: number, camera: string}[]} cuts by frame
 * @property {number[] | null} subject a point in world coordinates that keeps its size
 * @property {import("./shake.mjs").Shake | null} shake
 * @property {object[]} takes the others, as they are stored
 */

export const MAX_CAMERAS = 26;
const MAX_CUTS = 1000;
const MAX_SEED = 2 ** 32 - 1;
const MAIN = "A";

/** Ratios of distances that a lens can follow. */
const LEAST_RATIO = 1e-2;
const MOST_RATIO = 1e2;

/** @returns {Shot} with one camera */
export const plainShot = (keyframes = []) => ({
  take: MAIN, cameras: [{ name: MAIN, keyframes }], cuts: [], subject: null, shake: null, takes: [],
});

/** Whether a shot is no more than the keyframes of one camera. */
export const isPlain = ({ cameras, cuts, subject, shake, takes }) =>
  cameras.length === 1 && !cuts.length && !subject && !shake && !takes.length;

/** The first letter that none of some names is. */
export const freeName = (names) =>
  Array.from({ length: MAX_CAMERAS }, (_, i) => String.fromCharCode(65 + i)).find((n) => !names.includes(n));

/**
 * Read the node's text.
 *
 * @param {string} text
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {{shot: Shot, space: string}}
 * @throws {DocumentError}
 */
export function parseShot(text, scene) {
  const { data, space } = readDocument(text);
  const shot = { ...readPart(data, space, scene), take: nameOf(data.take ?? MAIN), takes: objects(data.takes, MAX_CAMERAS) };
  for (const take of shot.takes) {
    nameOf(take.name);
    readPart(take, space, scene);
  }
  return { shot, space };
}

/** What a take is made of. */
function readPart(data, space, scene) {
  const cameras = [{ name: MAIN, keyframes: readKeyframes(data.keyframes, space, scene) }];
  for (const item of objects(data.cameras, MAX_CAMERAS)) {
    const name = nameOf(item.name);
    if (cameras.some((camera) => camera.name === name)) throw new DocumentError("badShot");
    cameras.push({ name, keyframes: readKeyframes(item.keyframes, space, scene) });
  }
  const cuts = objects(data.cuts, MAX_CUTS).map(({ frame, camera }) => ({ frame, camera }));
  cuts.sort((a, b) => a.frame - b.frame);
  const known = ({ frame, camera }, i) =>
    Number.isInteger(frame) && frame >= 1 && frame !== cuts[i - 1]?.frame &&
    cameras.some(({ name }) => name === camera);
  if (!cuts.every(known)) throw new DocumentError("badShot");
  const subject = data.subject ?? null;
  if (subject !== null && !isPoint(subject)) throw new DocumentError("badShot");
  const at = subject && space !== "world" ? pointFromStart(subject, scene) : subject;
  return { cameras, cuts, subject: at && [...at], shake: readShake(data.shake ?? null) };
}

const isPoint = (values) => Array.isArray(values) && values.length === 3 && values.every(Number.isFinite);

function nameOf(name) {
  if (typeof name !== "string" || !name.length || name.length > 32) throw new DocumentError("badShot");
  return name;
}

function objects(items = [], most) {
  const fits = Array.isArray(items) && items.length <= most && items.every((item) => item?.constructor === Object);
  if (!fits) throw new DocumentError("badShot");
  return items;
}

function readShake(item) {
  if (item === null) return null;
  const { seed, degrees, distance, hz } = item;
  const fits =
    Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED &&
    degrees >= 0 && degrees <= 45 && distance >= 0 && distance <= 1e9 && hz >= 0.01 && hz <= 60;
  if (!fits) throw new DocumentError("badShot");
  return { seed, degrees, distance, hz };
}

/** What is stored of a take. */
function writePart(shot, space, scene) {
  const [main, ...others] = shot.cameras;
  const part = { keyframes: keyframeItems(main.keyframes, space, scene) };
  if (others.length) {
    part.cameras = others.map(({ name, keyframes }) => ({
      name, keyframes: keyframeItems(keyframes, space, scene),
    }));
  }
  if (shot.cuts.length) part.cuts = shot.cuts;
  if (shot.subject) {
    part.subject = (space === "world" ? shot.subject : pointToStart(shot.subject, scene)).map(short);
  }
  if (shot.shake) part.shake = shot.shake;
  return part;
}

/**
 * The text that the node stores.
 *
 * @param {Shot} shot
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {string} space `world`, or `start_camera` for a shot that fits other pictures too
 */
export function writeShot(shot, scene, space = "start_camera") {
  const part = writePart(shot, space, scene);
  if (shot.takes.length) Object.assign(part, { take: shot.take, takes: shot.takes });
  return writeDocument(part, space);
}

/** The shot with another take in front; the one that was is stored among the others. */
export function withTake(shot, name, scene, space) {
  const kept = { name: shot.take, ...writePart(shot, space, scene) };
  const chosen = shot.takes.find((take) => take.name === name);
  const others = shot.takes.filter((take) => take !== chosen);
  const part = readPart(chosen ?? kept, space, scene);
  return { ...part, take: name, takes: [...others, kept] };
}

/**
 * The path of what is shown, as the server makes it.
 *
 * @param {Shot} shot
 * @param {number} frames
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {number} fps
 * @returns {import("../viewer/scene.mjs").Path}
 */
export function shotPath(shot, frames, scene, fps) {
  const paths = shot.cameras.map(({ keyframes }) => keyframePath(keyframes, frames, scene));
  if (shot.subject) paths.forEach((path) => holdSubject(path, shot.subject));
  const [path] = paths;
  path.cuts = shot.cuts.map(({ frame }) => frame);
  const ends = [...shot.cuts.slice(1).map(({ frame }) => frame), frames];
  shot.cuts.forEach(({ frame, camera }, i) => {
    const from = paths[shot.cameras.findIndex(({ name }) => name === camera)];
    for (const [name, count] of [["position", 3], ["rotation", 9], ["focal", 1]]) {
      const [first, last] = [frame, Math.min(ends[i], frames)].map((at) => at * count);
      if (from !== path && first < last) path[name].set(from[name].slice(first, last), first);
    }
  });
  if (shot.shake) shakePath(path, shot.shake, scene, fps);
  return path;
}

/** Distances of a point in front of the cameras of a path, in multiples of the first. */
function ratiosOf(path, point) {
  const away = Array.from({ length: path.length }, (_, frame) => {
    const { rotation, position } = cameraAt(path, frame);
    return unrotate(rotation, subtract(point, position))[2];
  });
  return away.map((z) => (away[0] > 0 ? z / away[0] : NaN));
}

/** Whether every lens of a path can keep the size of a subject. */
export function holdsSubject(shot, frames, scene) {
  const fits = (ratio) => ratio > LEAST_RATIO && ratio < MOST_RATIO;
  return shot.cameras.every(({ keyframes }) =>
    ratiosOf(keyframePath(keyframes, frames, scene), shot.subject).every(fits),
  );
}

/** Let the lens follow the distance of a point; where it cannot, it stays. */
function holdSubject(path, point) {
  ratiosOf(path, point).forEach((ratio, frame) => {
    if (ratio > LEAST_RATIO && ratio < MOST_RATIO) path.focal[frame] *= ratio;
  });
}
