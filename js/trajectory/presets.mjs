/** The node's presets, drawn as the server makes them, and keyframes that stand for them. */

import {
  IDENTITY, angleBetween, clamp, distance, lookAt, quaternionOf, rotationAbout, rotationOf, multiply,
} from "../viewer/math.mjs";
import { HANDLES, splitSpeed } from "./curves.mjs";
import { EASINGS, focalFactor, fovOf, keyframePath } from "./keyframes.mjs";
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
const PRESETS = Object.freeze(Object.keys(MOVES));

/** Names of the presets that a node offers. */
export function offeredPresets(node) {
  const offered = node.widgets?.find((widget) => widget.name === "preset")?.options?.values;
  return Array.isArray(offered) ? offered.filter((name) => typeof name === "string") : PRESETS;
}

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

/** Keyframes at most, evenly spread and at corners, and frames that may be computed to find them. */
const MAX_EVEN = 80;
const MAX_FITTED = 40;
const MAX_COMPUTED = 500000;
/** What keyframes may differ from the path that they stand for: scene depths, radians, logarithm. */
const CLOSE = 0.005;
/** How much further off, in units of `CLOSE`, a smooth keyframe may be than one of another kind. */
const SOFTER = 4;
/** Timing of the way back, of what was timed like this on the way there. */
const BACKWARDS = { linear: "linear", smooth: "smooth", ease_in: "ease_out", ease_out: "ease_in" };

/**
 * Keyframes whose path follows another path, as few as it takes: evenly spread where that is
 * enough, for the path then bends softly when one is moved.
 *
 * @param {import("../viewer/scene.mjs").Path} path
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {{easing?: string, turning?: number[]}} hints the easing to try first; frames at which
 *   the path turns round
 * @returns {import("./keyframes.mjs").Keyframe[]}
 */
export function fitKeyframes(path, scene, { easing = "linear", turning = [] } = {}) {
  const ends = [...new Set([0, ...turning, path.length - 1])].sort((a, b) => a - b);
  const fits = (keys) => worstFrame(path, keyframePath(keys, path.length, scene), scene).error <= 1;
  const eased = ends.map((frame, i) => ({
    ...keyframeOn(path, frame, scene, i % 2 ? BACKWARDS[easing] : easing), tangent: "corner",
  }));
  if (fits(eased)) return eased;
  const most = Math.min(MAX_EVEN / (ends.length - 1), MAX_COMPUTED / path.length);
  for (let parts = 1; parts <= most; parts++) {
    const keys = evenKeys(path, scene, ends, parts);
    if (fits(keys)) return keys;
  }
  return cornerKeys(path, scene, ends);
}

/** What the fit of a preset's path may know of it. */
export const hintsOf = ({ easing, thereAndBack }, frames) =>
  thereAndBack ? { turning: [(frames - 1) / 2] } : { easing };

/**
 * Keyframes of a preset.
 *
 * @param {{preset: string, amount: number, easing: string, thereAndBack: boolean}} move
 * @param {number} frames
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {import("./keyframes.mjs").Keyframe | null} begin where it begins, and with which lens;
 *   null for the start camera
 */
export function presetKeyframes(move, frames, scene, begin = null) {
  const start = begin
    ? { rotation: rotationOf(begin.quaternion), position: begin.position } : scene.start;
  const path = presetPath(move, frames, { ...scene, start });
  const lens = focalFactor(begin?.fov_x ?? null, scene);
  path.focal.forEach((focal, frame) => (path.focal[frame] = focal * lens));
  return fitKeyframes(path, scene, hintsOf(move, frames));
}

/** Keyframes evenly spread between frames at which a path begins, turns or ends. */
function evenKeys(path, scene, ends, parts) {
  const frames = new Map([[ends[0], endTangent(path, scene, ends[0], 1)]]);
  for (let i = 1; i < ends.length; i++) {
    const [from, to] = [ends[i - 1], ends[i]];
    for (let part = 1; part < parts; part++) {
      frames.set(from + Math.round((part / parts) * (to - from)), "smooth");
    }
    frames.set(to, endTangent(path, scene, to, -1));
  }
  return [...frames].map(([frame, tangent]) => ({ ...keyframeOn(path, frame, scene, "linear"), tangent }));
}

/** Whether a path rests at a frame, seen from one side: its speed then grows from nothing. */
function endTangent(path, scene, frame, side) {
  const at = [0, 1, 2].map((steps) => cameraAt(path, frame + side * steps));
  const [first, second] = [apart(at[0], at[1], scene), apart(at[1], at[2], scene)];
  return second >= 2 * first ? "rest" : "corner";
}

/** Keyframes where a path with many corners needs them most. */
function cornerKeys(path, scene, ends) {
  const frames = [...ends];
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

/** How far two cameras are apart, in units of what counts as close. */
function apart(a, b, scene) {
  return Math.max(
    distance(a.position, b.position) / scene.depth,
    angleBetween(a.rotation, b.rotation),
    Math.abs(Math.log(a.focal / b.focal)),
  ) / CLOSE;
}

/**
 * Keyframes with one more between two of them, of the kind that changes their path least.
 *
 * @param {import("./keyframes.mjs").Keyframe[]} keyframes by frame
 * @param {import("./keyframes.mjs").Keyframe} added
 * @param {import("../viewer/scene.mjs").Path} path through the keyframes as they are
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @returns {import("./keyframes.mjs").Keyframe[]} other objects for its neighbours, and `added` itself
 */
export function withKeyframe(keyframes, added, path, scene) {
  const after = keyframes.findIndex((key) => key.frame > added.frame);
  if (after < 1) return [...keyframes, added].sort((a, b) => a.frame - b.frame);
  const [before, next] = [keyframes[after - 1], keyframes[after]];
  const share = (added.frame - before.frame) / (next.frame - before.frame);
  const handles = before.speed ?? HANDLES[before.easing];
  const [first, second] = splitSpeed(handles, share);
  const plain = { easing: "linear", speed: undefined };
  const rests = [handles[1] === 0, handles[3] === 1].map((rest) => (rest ? { tangent: "rest" } : {}));
  const ways = [
    [plain, plain, {}],
    [{ ...plain, ...rests[0] }, plain, rests[1]],
    [{ ...plain, speed: first }, { ...plain, speed: second }, {}],
  ];
  let best = { error: Infinity };
  for (const [early, late, end] of ways) {
    for (const tangent of ["smooth", "monotone", "corner"]) {
      const change = { ...late, tangent };
      const three = [{ ...before, ...early }, { ...added, ...change }, { ...next, ...end }];
      const keys = keyframes.toSpliced(after - 1, 2, ...three);
      const worst = worstFrame(path, keyframePath(keys, path.length, scene), scene).error;
      // A smooth one bends softly when it is moved.
      const error = tangent === "smooth" ? worst - SOFTER : worst;
      if (error < best.error - 1e-6) best = { error, keys, change };
    }
  }
  best.keys[after] = Object.assign(added, best.change);
  return best.keys;
}

/** The frame where two paths differ most. */
function worstFrame(path, other, scene) {
  let worst = { frame: 0, error: 0 };
  for (let frame = 0; frame < path.length; frame++) {
    const error = apart(cameraAt(path, frame), cameraAt(other, frame), scene);
    if (error > worst.error) worst = { frame, error };
  }
  return worst;
}

/** Prefer the frames of latent cameras, unless one has a keyframe already. */
function nearbyLatentFrame(frame, taken, length) {
  const latent = Math.min(length - 1, Math.round(frame / STRIDE) * STRIDE);
  return taken.includes(latent) ? frame : latent;
}
