/** The node's presets, drawn as the server makes them, and keyframes that stand for them. */

import {
  IDENTITY, angleBetween, clamp, distance, lookAt, quaternionOf, rotationAbout, multiply,
} from "../viewer/math.mjs";
import { EASINGS, fovOf, keyframePath } from "./keyframes.mjs";
import { cameraAt, emptyPath, setFromStart, STRIDE } from "../viewer/scene.mjs";

const TARGET = [0, 0, 1];
const turn = (degrees) => (degrees * Math.PI) / 180;

/** Upright cameras that face the target, one scene depth ahead of the start camera. */
const facing = (position) => ({ rotation: lookAt(position, TARGET), position });

/** Cameras that are turned, and moved so that the target stays where it is in the picture. */
const around = (rotation) => ({
  rotation,
  position: [-rotation[2], -rotation[5], 1 - rotation[8]],
});

/**
 * Motions in the axes of the start camera and in scene depths; `p` is amount times progress,
 * `a` the amount, `s` the progress.
 */
const MOVES = {
  static: () => ({}),
  dolly: (p) => ({ position: [0, 0, 1 - 0.65 ** p] }),
  truck: (p) => ({ position: [0.3 * p, 0, 0] }),
  pedestal: (p) => ({ position: [0, -0.2 * p, 0] }),
  pan: (p) => ({ rotation: rotationAbout(1, turn(25 * p)) }),
  tilt: (p) => ({ rotation: rotationAbout(0, turn(15 * p)) }),
  roll: (p) => ({ rotation: rotationAbout(2, turn(15 * p)) }),
  orbit: (p) => around(rotationAbout(1, turn(-30 * p))),
  arc: (p) => around(multiply(rotationAbout(1, turn(-20 * p)), rotationAbout(0, turn(-8 * p)))),
  crane: (p) => facing([0, -0.25 * p, 0]),
  spiral: (p, a, s) => {
    const angle = 4 * Math.PI * s;
    const radius = 0.08 * p;
    return facing([
      radius * Math.sin(angle), -Math.abs(radius) * Math.cos(angle), 1 - 0.8 ** p,
    ]);
  },
  lemniscate: (p, a, s) => {
    const angle = 2 * Math.PI * s;
    return facing([0.15 * a * Math.sin(angle), -0.06 * a * Math.sin(2 * angle), 0]);
  },
  zoom: (p) => ({ focal: 1.5 ** p }),
  dolly_zoom: (p) => ({ position: [0, 0, 1 - 0.65 ** p], focal: 0.65 ** p }),
};

/** Names of the presets that can be drawn. */
export const PRESETS = Object.freeze(Object.keys(MOVES));

/**
 * The path of a preset.
 *
 * @param {{preset: string, amount: number, easing: string, thereAndBack: boolean}} move
 * @param {number} frames
 * @param {import("../viewer/scene.mjs").Scene} scene
 */
export function presetPath(move, frames, scene) {
  const path = emptyPath(frames);
  const motion = Object.hasOwn(MOVES, move.preset) ? MOVES[move.preset] : MOVES.static;
  const ease = Object.hasOwn(EASINGS, move.easing) ? EASINGS[move.easing] : EASINGS.linear;
  const amount = Number.isFinite(move.amount) ? clamp(move.amount, -10, 10) : 0;
  const there = move.thereAndBack ? Math.floor(frames / 2) + 1 : frames;
  for (let frame = 0; frame < frames; frame++) {
    const index = move.thereAndBack ? Math.min(frame, frames - 1 - frame) : frame;
    const s = there > 1 ? ease(index / (there - 1)) : 0;
    const { rotation = IDENTITY, position = [0, 0, 0], focal = 1 } = motion(amount * s, amount, s);
    setFromStart(path, frame, scene, rotation, position, focal);
  }
  return path;
}

const MAX_FITTED = 40;
/** Invisible differences, tolerated for few keyframes: scene depths, radians, logarithm. */
const CLOSE = { position: 0.012, radians: 0.014, focal: 0.012 };

/**
 * Keyframes whose path follows another path, as few as it takes.
 *
 * @param {import("../viewer/scene.mjs").Path} path
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {{easing?: string, turning?: number[]}} hints the easing to try first; frames at which
 *   the path turns round
 * @returns {import("./keyframes.mjs").Keyframe[]}
 */
export function fitKeyframes(path, scene, { easing = "linear", turning = [] } = {}) {
  const frames = [...new Set([0, ...turning, path.length - 1])].sort((a, b) => a - b);
  if (frames.length === 2) {
    const two = frames.map((frame) => keyframeOn(path, frame, scene, easing));
    if (worstFrame(path, keyframePath(two, path.length, scene), scene).error <= 1) return two;
  }
  for (;;) {
    const keys = frames.map((frame) => keyframeOn(path, frame, scene, "linear"));
    const worst = worstFrame(path, keyframePath(keys, path.length, scene), scene);
    const at = nearbyLatentFrame(worst.frame, frames, path.length);
    if (worst.error <= 1 || frames.length >= MAX_FITTED || frames.includes(at)) return keys;
    frames.push(at);
    frames.sort((a, b) => a - b);
  }
}

/** A keyframe where a path is at a frame. */
export function keyframeOn(path, frame, scene, easing = "smooth") {
  const { rotation, position, focal } = cameraAt(path, frame);
  return { frame, position, quaternion: quaternionOf(rotation), fov_x: fovOf(focal, scene), easing };
}

/** The frame where two paths differ most, in units of what counts as close. */
function worstFrame(path, other, scene) {
  let worst = { frame: 0, error: 0 };
  for (let frame = 0; frame < path.length; frame++) {
    const [a, b] = [cameraAt(path, frame), cameraAt(other, frame)];
    const error = Math.max(
      distance(a.position, b.position) / scene.depth / CLOSE.position,
      angleBetween(a.rotation, b.rotation) / CLOSE.radians,
      Math.abs(Math.log(a.focal / b.focal)) / CLOSE.focal,
    );
    if (error > worst.error) worst = { frame, error };
  }
  return worst;
}

/** Prefer the frames of latent cameras, unless one has a keyframe already. */
function nearbyLatentFrame(frame, taken, length) {
  const latent = Math.min(length - 1, Math.round(frame / STRIDE) * STRIDE);
  return taken.includes(latent) ? frame : latent;
}
