/** What a director does with a shot beyond its keyframes: lens, shake, cuts, takes, copies. */

import { add, forwardOf, multiply, rotate, rotationAbout, rotationOf, quaternionOf, scale } from "../viewer/math.mjs";
import { cameraAt, STRIDE } from "../viewer/scene.mjs";
import { ASPECTS } from "./guides.mjs";
import { fovOf } from "./keyframes.mjs";
import { resize, sizeOf, sizingNode } from "./output.mjs";
import { freeName, MAX_CAMERAS, withTake } from "./shot.mjs";
import { Comparison } from "./takes.mjs";

/** Width in millimetres of the picture whose focal lengths people know. */
const FULL_FRAME = 36;
const LEAST_FOV = 1;
const MOST_FOV = 170;
/** Side of the grid that positions snap to, in scene depths. */
const GRID = 0.05;

const turn = (degrees) => (degrees * Math.PI) / 180;
const within = (value, low, high) => Math.min(high, Math.max(low, value));

/** Focal length in millimetres of a horizontal field of view in degrees, and the way back. */
export const millimetres = (fov) => FULL_FRAME / 2 / Math.tan(turn(fov) / 2);
export const fieldOfView = (mm) => (360 / Math.PI) * Math.atan(FULL_FRAME / 2 / mm);

export class Director {
  /** @param {import("./model.mjs").TrajectoryModel} model */
  constructor(model) {
    this.model = model;
    /** What helps to look and to draw, and is no part of the shot. */
    this.aids = { guides: false, ghost: false, snap: false, aspect: "" };
    /** @type {object[]} copied keyframes, the earliest at frame 0 */
    this.copied = [];
    this.comparison = new Comparison(model);
    /** The next click picks what keeps its size. */
    this.picking = false;
  }

  /** Horizontal field of view in degrees of the shown frame. */
  get fov() {
    const { scene, path, frame } = this.model;
    const { focal } = cameraAt(path, frame);
    return fovOf(focal, scene) ?? (360 / Math.PI) * Math.atan(scene.width / 2 / scene.intrinsics[0]);
  }

  /** Go to the keyframe before or after the shown frame. @param {-1 | 1} side */
  jump(side) {
    const { model } = this;
    const frames = model.keyframes.map((key) => key.frame);
    const index = side > 0
      ? frames.findIndex((frame) => frame > model.frame)
      : frames.findLastIndex((frame) => frame < model.frame);
    if (index >= 0) model.select(index);
  }

  /** The keyframe at the shown frame, which becomes one if it is none. */
  keyHere() {
    const { model } = this;
    const here = model.keyframes.findIndex((key) => key.frame === model.frame);
    if (here >= 0) model.select(here);
    else model.addKeyframe();
    return model.keyframes[model.selected];
  }

  /** Give the camera of the shown frame a lens. @param {number} fov in degrees */
  setFov(fov) {
    if (!this.model.editable || !Number.isFinite(fov)) return;
    const key = this.keyHere();
    this.model.edit(() => (key.fov_x = within(fov, LEAST_FOV, MOST_FOV)));
  }

  /** Turn the camera of the shown frame. Radians to the right and up. */
  aim(yaw, pitch) {
    const { model } = this;
    const key = this.keyHere();
    const { rotation } = model.scene.start;
    const back = [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => rotation[i]);
    const upright = multiply(rotation, multiply(rotationAbout(1, yaw), back));
    const turned = multiply(upright, multiply(rotationOf(key.quaternion), rotationAbout(0, pitch)));
    model.edit(() => (key.quaternion = quaternionOf(turned)));
  }

  /** Move the camera of the shown frame along its view. @param {number} share of the scene's depth */
  dolly(share) {
    const { model } = this;
    const key = this.keyHere();
    const ahead = scale(forwardOf(rotationOf(key.quaternion)), share * model.scene.depth);
    model.edit(() => (key.position = add(key.position, ahead)));
  }

  /** Hold the size of what the first camera looks at, or let the lens go. */
  toggleSubject() {
    const { model } = this;
    model.edit((keyframes, shot) => {
      const [{ position, quaternion }] = shot.cameras[0].keyframes;
      const ahead = rotate(rotationOf(quaternion), [0, 0, model.scene.depth]);
      shot.subject = shot.subject ? null : add(position, ahead);
    });
  }

  /** Hold the size of what is at a point in world coordinates. */
  holdSize(point) {
    this.picking = false;
    this.model.edit((keyframes, shot) => (shot.subject = point));
  }

  /** Let the next click pick what keeps its size; again, not to. */
  pick() {
    this.picking = !this.picking && this.model.editable;
    this.model.dispatchEvent(new Event("scrub"));
  }

  /** Change numbers of the shake; one without amplitude is none. */
  setShake(part) {
    this.model.edit((keyframes, shot) => {
      const shake = { ...this.shake, ...part };
      shot.shake = shake.degrees || shake.distance ? shake : null;
      this.lastShake = shake;
    });
  }

  get shake() {
    return this.model.shot.shake ?? this.lastShake ?? { seed: 0, degrees: 0, distance: 0, hz: 1.5 };
  }

  /** Another camera, where the shot's camera is now; it is edited from here on. */
  addCamera() {
    const { model } = this;
    if (!model.editable || model.shot.cameras.length >= MAX_CAMERAS) return;
    const here = cameraAt(model.path, model.frame);
    model.edit((keyframes, shot) => {
      const { rotation, position, focal } = here;
      const key = {
        frame: 0, position, quaternion: quaternionOf(rotation), fov_x: fovOf(focal, model.scene),
        easing: "smooth", tangent: "smooth",
      };
      shot.cameras.push({ name: freeName(shot.cameras.map(({ name }) => name)), keyframes: [key] });
    });
    this.choose(model.shot.cameras.length - 1);
  }

  /** Edit the keyframes of another camera. */
  choose(index) {
    const { model } = this;
    model.camera = within(index, 0, model.shot.cameras.length - 1);
    model.selected = -1;
    model.refresh();
  }

  /** Delete the edited camera, and the cuts to it; the first one stays. */
  removeCamera() {
    const { model } = this;
    const { camera } = model;
    if (!camera) return;
    const { name } = model.shot.cameras[camera];
    model.selected = -1;
    model.edit((keyframes, shot) => {
      shot.cameras.splice(camera, 1);
      shot.cuts = shot.cuts.filter((cut) => cut.camera !== name);
      model.camera = camera - 1;
    });
  }

  /** Name of the camera that is shown at a frame. */
  shownAt(frame) {
    const { cameras, cuts } = this.model.shot;
    return cuts.findLast((cut) => cut.frame <= frame)?.camera ?? cameras[0].name;
  }

  /** Cut to the edited camera at the shown frame; where a cut is already, it goes. */
  cut() {
    const { model } = this;
    const { frame } = model;
    if (frame < 1 || model.shot.cameras.length < 2) return;
    model.edit((keyframes, shot) => {
      const others = shot.cuts.filter((cut) => cut.frame !== frame);
      const gone = others.length < shot.cuts.length;
      if (!gone) others.push({ frame, camera: shot.cameras[model.camera].name });
      shot.cuts = others.sort((a, b) => a.frame - b.frame);
    });
  }

  /** Another take, or a new one that begins as a copy. */
  useTake(name) {
    const { model } = this;
    if (!model.editable || name === model.shot.take) return;
    model.selected = -1;
    this.comparison.changed(model.shot.take, name);
    model.edit((keyframes, shot) => Object.assign(shot, withTake(shot, name, model.scene, model.space)));
  }

  /** Delete the edited take; the last one stays. */
  removeTake() {
    const { model } = this;
    const { take, takes } = model.shot;
    if (!takes.length) return;
    model.selected = -1;
    model.edit((keyframes, shot) => {
      Object.assign(shot, withTake(shot, takes.at(-1).name, model.scene, model.space));
      shot.takes = shot.takes.filter(({ name }) => name !== take);
    });
  }

  /** Look at another take beside the edited one, or at the edited one alone. */
  compare() {
    const { comparison, model } = this;
    if (comparison.on) comparison.choose("");
    else if (model.shot.takes.length) comparison.choose(comparison.wish || model.shot.takes[0].name);
  }

  /** Mask the next aspect ratio. */
  nextAspect() {
    const names = ["", ...Object.keys(ASPECTS)];
    this.mask(names[(names.indexOf(this.aids.aspect) + 1) % names.length]);
  }

  /** Mask an aspect ratio; none with an empty name. */
  mask(name) {
    this.aids.aspect = name;
    this.model.dispatchEvent(new Event("scrub"));
  }

  /** The node that sets the picture's size, and the nearest size of the masked aspect ratio. */
  get output() {
    const found = this.aids.aspect in ASPECTS ? sizingNode(this.model.node) : null;
    if (!found) return null;
    const [width, height] = found.sides.map(({ value }) => value);
    const { scene } = this.model;
    const pixels = width * height || scene.width * scene.height;
    return { ...found, size: sizeOf(ASPECTS[this.aids.aspect], pixels) };
  }

  /** Give the picture the masked aspect ratio, as one step of undo. */
  setOutput() {
    const { output, model } = this;
    if (!output) return;
    resize(output, output.size);
    model.bridge.capture();
    model.dispatchEvent(new Event("scrub"));
  }

  /** The next take; with one only, a second. */
  nextTake() {
    const { take, takes } = this.model.shot;
    const names = [take, ...takes.map(({ name }) => name)].sort();
    this.useTake(names.length < 2 ? freeName(names) : names[(names.indexOf(take) + 1) % names.length]);
  }

  copy() {
    const keys = this.model.chosen;
    const first = Math.min(...keys.map((key) => key.frame));
    this.copied = keys.map((key) => structuredClone({ ...key, frame: key.frame - first }));
    return keys.length > 0;
  }

  /** Put copied keyframes in at the shown frame, over those that are there. */
  paste() {
    const { model } = this;
    const { frame, frames } = model;
    const added = this.copied
      .map((key) => structuredClone({ ...key, frame: key.frame + frame }))
      .filter((key) => key.frame < frames);
    if (!added.length) return false;
    const taken = new Set(added.map((key) => key.frame));
    model.edit((keyframes) => {
      const kept = keyframes.filter((key) => !taken.has(key.frame));
      keyframes.splice(0, keyframes.length, ...kept, ...added);
    });
    model.choose(added);
    return true;
  }

  /** A frame, or the nearest of those that a latent frame stands for. */
  snapFrame = (frame) => (this.aids.snap ? Math.round(frame / STRIDE) * STRIDE : frame);

  /** A point, or the nearest of a grid in the axes of the start camera. */
  snapPoint(point) {
    if (!this.aids.snap) return point;
    const { start, depth } = this.model.scene;
    const back = [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => start.rotation[i]);
    const at = rotate(back, point.map((value, i) => value - start.position[i]));
    const side = GRID * depth;
    return add(rotate(start.rotation, at.map((value) => Math.round(value / side) * side)), start.position);
  }

  /** Switch one of the aids. */
  toggle(name) {
    this.aids[name] = !this.aids[name];
    this.model.dispatchEvent(new Event("scrub"));
  }
}
