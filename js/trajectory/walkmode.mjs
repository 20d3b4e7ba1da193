/** Walking through the scene with keyboard and mouse, in camera view, and recording it. */

import { select } from "../page/dom.mjs";
import { add, multiply, rotate, scale } from "../viewer/math.mjs";
import { LiveWalk, SHARES } from "./livewalk.mjs";
import { KEYBOARD, Recorder } from "./walk.mjs";

/** Degrees that the mouse may be ahead of the walker, who turns by one a frame. */
const MAX_AHEAD = 45;

export class WalkMode {
  /** @param {object} widget the trajectory widget */
  constructor(widget) {
    this.widget = widget;
    /** @type {Recorder | null} */
    this.recorder = null;
    /** @type {Set<string>} keys that are held now */
    this.held = new Set();
    /** Degrees to the right and up that the mouse asked for. */
    this.look = [0, 0];
    this.timer = 0;
    this.live = new LiveWalk(widget);
    const { text } = widget;
    const option = (share) => {
      if (!share) return text("paintNever");
      return share > 100 ? text("paintAlways") : text("paintBelow", { share });
    };
    this.choice = select(text("paint"), SHARES.map((one) => [String(one), option(one)]), (share) => {
      this.live.share = Number(share);
      widget.viewport.canvas.focus({ preventScroll: true });
      this.tell();
    });
    this.choice.hidden = true;
  }

  get active() {
    return this.recorder !== null;
  }

  get steps() {
    return this.recorder?.steps ?? 0;
  }

  /** The walker's camera; null when nobody walks. */
  get camera() {
    if (!this.recorder) return null;
    const { start, depth } = this.widget.model.scene;
    const { position, rotation } = this.recorder.walker;
    return {
      rotation: multiply(start.rotation, rotation),
      position: add(rotate(start.rotation, scale(position, depth)), start.position),
      focal: 1,
    };
  }

  toggle() {
    if (this.active) this.stop(true);
    else this.#start();
  }

  /** Begin a walk, or go on with the one that the node holds. */
  #start() {
    const { viewport, model, walkButton } = this.widget;
    const walked = model.source === "keys" && !model.problem ? String(model.value("keys")) : "";
    this.recorder = Recorder.from(walked);
    this.before = { keys: model.value("keys"), keyframes: model.value("keyframes") };
    this.held.clear();
    this.look = [0, 0];
    this.view = viewport.controls.view;
    this.live.begin(this.steps);
    this.choice.hidden = false;
    viewport.setView("camera");
    viewport.canvas.focus({ preventScroll: true });
    walkButton.setAttribute("aria-pressed", "true");
    this.blur = () => this.held.clear();
    this.keyup = (event) => this.held.delete(KEYBOARD[event.code]);
    addEventListener("blur", this.blur);
    addEventListener("keyup", this.keyup, true);
    this.timer = setInterval(() => this.#step(), 1000 / model.fps);
    model.scrub(this.steps);
  }

  /** One frame: only while a key is held or the mouse looks, so that thinking takes no time. */
  #step() {
    const keys = new Set(this.held);
    const wished = this.look.map((degrees) => Math.sign(Math.trunc(degrees)));
    if (wished[0]) keys.add(wished[0] > 0 ? "l" : "j");
    if (wished[1]) keys.add(wished[1] > 0 ? "i" : "k");
    if (!keys.size) return;
    if (this.live.full) {
      this.tell();
      return;
    }
    this.look = this.look.map((degrees, axis) => degrees - wished[axis]);
    this.recorder.step(keys);
    this.#moved();
  }

  #moved() {
    const { viewport, model } = this.widget;
    this.tell();
    viewport.invalidate();
    if (this.steps % 4 === 0) {
      this.live.moved();
      model.scrub(this.steps);
    }
  }

  /** What the view says while somebody walks. */
  get note() {
    return this.live.note ?? this.widget.text("walking", { frame: this.steps });
  }

  /** Show the note, and whether a chunk is being made. */
  tell() {
    const { note, viewport } = this.widget;
    viewport.canvas.parentElement.classList.toggle("mirage-painting", this.live.painting);
    if (this.active && note.textContent !== this.note) note.textContent = this.note;
  }

  /** Make a walk the node's path, without a step of undo: the end of the walk is one. */
  write(text) {
    this.widget.model.useKeys(text, { capture: false });
  }

  /** Take back the last keys that were held together. */
  #undo() {
    this.recorder.undo();
    this.look = [0, 0];
    this.live.undone(this.steps);
    this.#moved();
    this.widget.model.scrub(this.steps);
  }

  /** Mouse look: a pointer that goes down in the view turns the walker. */
  grab() {
    if (!this.active) return null;
    const { viewport, model } = this.widget;
    const { width, intrinsics } = model.scene;
    const view = (360 / Math.PI) * Math.atan(width / 2 / intrinsics[0]);
    const degrees = () => view / Math.max(1, viewport.canvas.width);
    const bound = (value) => Math.min(MAX_AHEAD, Math.max(-MAX_AHEAD, value));
    return {
      move: (x, y, dx, dy) => {
        this.look = [bound(this.look[0] + dx * degrees()), bound(this.look[1] - dy * degrees())];
      },
      cancel: () => (this.look = [0, 0]),
    };
  }

  /** End the walk; with `keep`, it becomes the node's path, else what is painted of it. */
  stop(keep) {
    if (!this.recorder) return;
    const { viewport, model, walkButton } = this.widget;
    clearInterval(this.timer);
    removeEventListener("blur", this.blur);
    removeEventListener("keyup", this.keyup, true);
    const { text } = this.recorder;
    this.recorder = null;
    this.choice.hidden = true;
    walkButton.setAttribute("aria-pressed", "false");
    viewport.setView(this.view);
    const { keys, keyframes } = this.before;
    const painted = model.value("keys") !== keys || model.value("keyframes") !== keyframes;
    if (keep && text) model.useKeys(text);
    else if (painted) model.useKeys(String(model.value("keys")));
    else model.dispatchEvent(new Event("scrub"));
  }

  /**
   * Keys while walking: they walk; Enter ends the walk, Escape discards it, Backspace takes back
   * the last step, P pauses painting.
   *
   * @returns {boolean} whether the key was taken
   */
  key(event) {
    if (!this.active || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.target === this.choice) return false;
    const key = KEYBOARD[event.code];
    if (key) this.held.add(key);
    else if (event.key === "Enter") this.stop(true);
    else if (event.key === "Escape") this.stop(false);
    else if (event.key === "Backspace") this.#undo();
    else if (event.code === "KeyP" && !event.repeat) this.live.pause();
    else return false;
    if (this.active) this.tell();
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  /** The node is gone, and its value with it. */
  dispose() {
    const { model } = this.widget;
    this.before = { keys: model.value("keys"), keyframes: model.value("keyframes") };
    this.stop(false);
    this.live.dispose();
  }
}
