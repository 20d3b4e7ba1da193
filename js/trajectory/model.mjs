/** The camera move of one node: read from the node's own inputs, and written back to them. */

import { setWidget } from "../page/bridge.mjs";
import { DocumentError, freeFrame, keyframePath } from "./keyframes.mjs";
import { fitKeyframes, hintsOf, keyframeOn, presetKeyframes, presetPath, withKeyframe } from "./presets.mjs";
import { holdsSubject, isPlain, parseShot, plainShot, shotPath, writeShot } from "./shot.mjs";
import { guessedScene, MAX_FRAMES, MIN_FRAMES, sceneOf } from "../viewer/scene.mjs";
import { walkPath } from "./walk.mjs";

const INPUTS = ["preset", "frames", "amount", "there_and_back", "easing", "fps", "keys", "keyframes"];
/** Keyframes that are shown as handles; a longer path is drawn but cannot be edited. */
const MAX_HANDLES = 400;

/**
 * @typedef {object} Bridge access to the page
 * @property {() => void} capture remember the graph for undo
 */

export class TrajectoryModel extends EventTarget {
  /**
   * @param {object} node the ComfyUI node
   * @param {Bridge} bridge
   */
  constructor(node, bridge) {
    super();
    this.node = node;
    this.bridge = bridge;
    /** @type {import("../viewer/scene.mjs").Scene} */
    this.scene = guessedScene();
    /** @type {"preset" | "keys" | "keyframes"} what the path comes from */
    this.source = "preset";
    /** @type {import("./shot.mjs").Shot} */
    this.shot = plainShot();
    /** Index of the camera whose keyframes are edited. */
    this.camera = 0;
    /** @type {import("../viewer/scene.mjs").Path | null} the path before the last edit */
    this.ghost = null;
    /** Name of a locale text that says what is wrong with the node's value; null when nothing. */
    this.problem = null;
    this.space = "start_camera";
    this.selected = -1;
    /** @type {Set<object>} keyframes that are chosen beside the selected one */
    this.beside = new Set();
    this.frame = 0;
    /** @type {{scene: import("../viewer/scene.mjs").Scene, changed: boolean, stale: boolean,
     *   finish: () => void} | null}
     *   while keyframes are dragged: what is to be written, and then read, when that ends */
    this.held = null;
    this.read();
  }

  /** The selected keyframe and those that were chosen with it. */
  get chosen() {
    return this.keyframes.filter((key, i) => i === this.selected || this.beside.has(key));
  }

  /** Choose several keyframes; the last of them is selected. */
  choose(keyframes) {
    this.beside = new Set(keyframes);
    this.selected = this.keyframes.indexOf(keyframes.at(-1));
    this.refresh();
  }

  /** @returns {import("./keyframes.mjs").Keyframe[]} of the camera that is edited */
  get keyframes() {
    const { cameras } = this.shot;
    return cameras[Math.min(this.camera, cameras.length - 1)].keyframes;
  }

  /** The node's input of a name, whatever a shared workflow put into it. */
  value(name) {
    return this.#widget(name)?.value;
  }

  #widget(name) {
    return this.node.widgets?.find((widget) => widget.name === name);
  }

  /** True when a link feeds one of the inputs, whose value then is not known here. */
  get linked() {
    return (this.node.inputs ?? []).some(
      (input) => INPUTS.includes(input.widget?.name) && input.link != null,
    );
  }

  get fps() {
    const fps = Number(this.value("fps"));
    return fps >= 1 && fps <= 120 ? fps : 24;
  }

  /** Frames that the node's input asks for, brought to 4n + 1. */
  get frames() {
    const wish = Number(this.value("frames"));
    const frames = Number.isFinite(wish) ? Math.min(MAX_FRAMES, Math.max(MIN_FRAMES, wish)) : 97;
    return Math.floor((frames - 1) / 4) * 4 + 1;
  }

  /** True when keyframes can be edited here. */
  get editable() {
    return !this.linked && this.problem !== "tooLong" && this.keyframes.length <= MAX_HANDLES;
  }

  /** True when the selected keyframe can be deleted: the last one stays. */
  get removable() {
    return this.selected >= 0 && this.keyframes.length > 1;
  }

  /** Use what the node last reported about its picture. */
  describe(view) {
    const scene = sceneOf(view);
    if (!scene) return;
    if (this.held) this.held.scene = scene;
    else this.scene = scene;
    this.read();
  }

  /** Read the node's inputs, at the end of a gesture if there is one. */
  read() {
    if (this.held) {
      this.held.stale = true;
      return;
    }
    const text = String(this.value("keyframes") ?? "").trim();
    const keys = String(this.value("keys") ?? "").trim();
    this.problem = null;
    this.shot = plainShot();
    this.source = text ? "keyframes" : keys ? "keys" : "preset";
    if (text) this.#readKeyframes(text);
    if (this.source === "keys") this.path = walkPath(keys, this.scene) ?? this.#failed("badKeys");
    if (this.source === "preset") this.path = presetPath(this.move, this.frames, this.scene);
    this.#changed();
  }

  #readKeyframes(text) {
    try {
      const { shot, space } = parseShot(text, this.scene);
      this.shot = shot;
      this.space = space;
      this.#follow();
    } catch (error) {
      if (!(error instanceof DocumentError)) throw error;
      this.path = this.#failed(error.code);
    }
  }

  /** Make the path of the shot, and say what the server would refuse. */
  #follow() {
    const { shot, frames, scene } = this;
    this.camera = Math.min(this.camera, shot.cameras.length - 1);
    this.path = shotPath(shot, frames, scene, this.fps);
    const late = shot.cameras.some(({ keyframes }) => keyframes.at(-1).frame >= frames);
    const lost = shot.subject && !holdsSubject(shot, frames, scene);
    this.problem = late || shot.cuts.at(-1)?.frame >= frames ? "afterEnd" : lost ? "lostSubject" : null;
  }

  #failed(problem) {
    this.problem = problem;
    this.camera = 0;
    return presetPath({ ...this.move, preset: "static" }, this.frames, this.scene);
  }

  /** The preset's inputs. */
  get move() {
    return {
      preset: String(this.value("preset")),
      amount: Number(this.value("amount")),
      easing: String(this.value("easing")),
      thereAndBack: this.value("there_and_back") === true,
    };
  }

  /** Tell that something else is chosen or edited now. */
  refresh() {
    this.#changed();
  }

  #changed() {
    this.frame = Math.min(this.frame, this.path.length - 1);
    if (this.selected >= this.keyframes.length) this.selected = -1;
    for (const key of this.beside) if (!this.keyframes.includes(key)) this.beside.delete(key);
    this.dispatchEvent(new Event("change"));
  }

  /** Show another frame. */
  scrub(frame) {
    this.frame = Math.min(this.path.length - 1, Math.max(0, Math.round(frame)));
    this.dispatchEvent(new Event("scrub"));
  }

  /** Select a keyframe; with `also`, beside those that are chosen, or no more if it is one. */
  select(index, also = false) {
    const key = this.keyframes[index];
    if (also && this.beside.has(key)) {
      this.beside.delete(key);
      this.dispatchEvent(new Event("scrub"));
      return;
    }
    if (also) for (const each of [...this.chosen, key]) this.beside.add(each);
    else if (!this.beside.has(key)) this.beside.clear();
    this.selected = index;
    if (index >= 0) this.scrub(this.keyframes[index].frame);
    else this.dispatchEvent(new Event("scrub"));
  }

  /** Convert a preset or a walk to keyframes, so that it can be edited. */
  bake() {
    if (this.source === "keyframes" && this.keyframes.length) return;
    const hints = this.source === "preset" ? hintsOf(this.move, this.path.length) : {};
    this.frame = Math.min(this.frame, this.path.length - 1);
    this.#set("frames", this.path.length);
    this.camera = 0;
    this.shot = plainShot(fitKeyframes(this.path, this.scene, hints));
    this.space = "start_camera";
    this.source = "keyframes";
    this.problem = null;
  }

  /**
   * Change keyframes. The path follows at once; the node's value, and undo, at the end of a
   * gesture if there is one.
   *
   * @param {(keyframes: import("./keyframes.mjs").Keyframe[], shot: import("./shot.mjs").Shot) => void}
   *   change edits the list, a keyframe in it, or the shot
   */
  edit(change) {
    if (!this.editable) return;
    if (!this.held?.changed) this.ghost = this.path;
    this.bake();
    const chosen = this.keyframes[this.selected];
    change(this.keyframes, this.shot);
    this.keyframes.sort((a, b) => a.frame - b.frame);
    if (chosen) this.selected = this.keyframes.indexOf(chosen);
    this.#follow();
    this.#changed();
    if (this.held) this.held.changed = true;
    else this.commit();
  }

  /**
   * Begin a gesture that edits keyframes. Until it ends, reports of a rollout and other inputs
   * wait: reading them would replace the keyframes that are held.
   *
   * @returns {{end: () => void, cancel: () => void}} one of them is to be called
   */
  begin() {
    // Turns of the wheel are a gesture whose end is only known by what comes next.
    this.held?.finish();
    const { frame, selected } = this;
    const held = { scene: this.scene, changed: false, stale: false };
    this.held = held;
    const finish = () => {
      if (this.held !== held) return;
      this.held = null;
      // Keyframes in the world belong to the scene that they were dragged in.
      if (held.changed) this.commit();
      this.scene = held.scene;
      if (held.stale) this.read();
    };
    held.finish = finish;
    const cancel = () => {
      held.stale ||= held.changed;
      held.changed = false;
      this.selected = selected;
      finish();
      this.scrub(frame);
    };
    return { end: finish, cancel };
  }

  /** Write keyframes to the node's value. */
  commit() {
    if (this.source !== "keyframes") return;
    this.#set("keyframes", writeShot(this.shot, this.scene, this.space));
    this.bridge.capture();
  }

  /** A keyframe where the path is at a frame; the one that is there already is selected. */
  addKeyframe(frame = this.frame) {
    if (!this.editable) return;
    // Its own path: what is shown may be shaken, or of another camera.
    const own = this.keyframes.length ? keyframePath(this.keyframes, this.frames, this.scene) : this.path;
    const camera = keyframeOn(own, frame, this.scene);
    this.bake();
    const there = this.keyframes.findIndex((key) => key.frame === frame);
    if (there >= 0) {
      // The path may just have become keyframes.
      this.edit(() => {});
      this.select(there);
      return;
    }
    const path = keyframePath(this.keyframes, this.frames, this.scene);
    this.edit((keys) => keys.splice(0, keys.length, ...withKeyframe(keys, camera, path, this.scene)));
    this.select(this.keyframes.indexOf(camera));
  }

  /** Delete a keyframe, and those that are chosen with it; the last one stays. */
  removeKeyframe(index = this.selected) {
    const key = this.keyframes[index];
    const gone = new Set(this.beside.has(key) ? this.chosen : [key]);
    if (!key || this.keyframes.length <= gone.size) return;
    this.edit((keyframes) => {
      const kept = keyframes.filter((each) => !gone.has(each));
      keyframes.splice(0, keyframes.length, ...kept);
    });
    this.select(Math.min(index, this.keyframes.length - 1));
  }

  /**
   * Move a keyframe in time, past its neighbours too; it is selected, since its index changes.
   *
   * @param {number} index
   * @param {number} frame
   * @param {number} [from] where it was: a frame that another keyframe has is passed on this way
   */
  retime(index, frame, from = this.keyframes[index].frame) {
    if (!this.editable) return;
    this.selected = index;
    const key = this.keyframes[index];
    const wish = Math.min(this.frames - 1, Math.max(0, Math.round(frame)));
    if (this.beside.has(key)) {
      this.#retimeAll(wish - key.frame);
      return;
    }
    const to = freeFrame(this.keyframes, key, wish, wish < from ? -1 : 1, this.frames);
    this.edit(() => (key.frame = to));
    this.scrub(to);
  }

  /** Move all chosen keyframes in time, if they find frames that no other has. */
  #retimeAll(by) {
    const { chosen } = this;
    const taken = new Set(this.keyframes.filter((k) => !chosen.includes(k)).map(({ frame }) => frame));
    const fits = ({ frame }) => frame + by >= 0 && frame + by < this.frames && !taken.has(frame + by);
    if (!by || !chosen.every(fits)) return;
    this.edit(() => chosen.forEach((each) => (each.frame += by)));
    this.scrub(this.keyframes[this.selected].frame);
  }

  /**
   * Use a preset in the place of the edited camera's path. A shot that is more than that path
   * keeps what it has: the preset then becomes keyframes. Others than the first camera begin where
   * they are.
   */
  usePreset(preset) {
    this.held?.finish();
    this.#set("preset", preset);
    this.selected = -1;
    if (isPlain(this.shot)) {
      this.#set("keyframes", "");
      this.#set("keys", "");
      this.read();
      this.bridge.capture();
      return;
    }
    const edited = this.shot.cameras[this.camera];
    const begin = this.camera ? edited.keyframes[0] : null;
    this.ghost = this.path;
    edited.keyframes = presetKeyframes(this.move, this.frames, this.scene, begin);
    this.#follow();
    this.#changed();
    this.commit();
  }

  /** Use a recorded walk. */
  useKeys(text, { capture = true } = {}) {
    this.#set("keyframes", "");
    this.#set("keys", text);
    this.selected = -1;
    this.read();
    if (capture) this.bridge.capture();
  }

  /** Use keyframes that were drawn. */
  useKeyframes(keyframes, { commit = true } = {}) {
    if (this.linked) return;
    this.#set("frames", this.path.length);
    this.ghost = this.path;
    this.camera = 0;
    Object.assign(this, { shot: plainShot(keyframes), source: "keyframes", space: "start_camera" });
    this.selected = -1;
    this.#follow();
    this.#changed();
    if (commit) this.commit();
  }

  #set(name, value) {
    this.writing = true;
    try {
      setWidget(this.node, this.#widget(name), value);
    } finally {
      this.writing = false;
    }
  }
}
