/** Walking through the scene with the keyboard, in camera view, and recording it. */

import { add, multiply, rotate, scale } from "../viewer/math.mjs";
import { KEYBOARD, Recorder } from "./walk.mjs";

export class WalkMode {
  /** @param {object} widget the trajectory widget */
  constructor(widget) {
    this.widget = widget;
    /** @type {Recorder | null} */
    this.recorder = null;
    /** @type {Set<string>} keys that are held now */
    this.held = new Set();
    this.timer = 0;
  }

  get active() {
    return this.recorder !== null;
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

  #start() {
    const { viewport, model, walkButton } = this.widget;
    this.recorder = new Recorder();
    this.held.clear();
    this.before = viewport.controls.view;
    viewport.setView("camera");
    viewport.canvas.focus({ preventScroll: true });
    walkButton.setAttribute("aria-pressed", "true");
    this.blur = () => this.held.clear();
    this.keyup = (event) => this.held.delete(KEYBOARD[event.code]);
    addEventListener("blur", this.blur);
    addEventListener("keyup", this.keyup, true);
    this.timer = setInterval(() => this.#step(), 1000 / model.fps);
    model.scrub(0);
  }

  /** One frame: only while a key is held, so that thinking takes no time in the shot. */
  #step() {
    if (!this.held.size) return;
    this.recorder.step(this.held);
    const { viewport, model, note, text } = this.widget;
    note.textContent = text("walking", { frame: this.recorder.steps });
    viewport.invalidate();
    if (this.recorder.steps % 4 === 0) model.dispatchEvent(new Event("scrub"));
  }

  /** End the walk; with `keep`, it becomes the node's path. */
  stop(keep) {
    if (!this.recorder) return;
    const { viewport, model, walkButton } = this.widget;
    clearInterval(this.timer);
    removeEventListener("blur", this.blur);
    removeEventListener("keyup", this.keyup, true);
    const { text } = this.recorder;
    this.recorder = null;
    walkButton.setAttribute("aria-pressed", "false");
    viewport.setView(this.before);
    if (keep && text) model.useKeys(text);
    else model.dispatchEvent(new Event("scrub"));
  }

  /**
   * Keys while walking: they walk; Enter ends the walk, Escape discards it.
   *
   * @returns {boolean} whether the key was taken
   */
  key(event) {
    if (!this.active || event.ctrlKey || event.metaKey || event.altKey) return false;
    const key = KEYBOARD[event.code];
    if (key) this.held.add(key);
    else if (event.key === "Enter") this.stop(true);
    else if (event.key === "Escape") this.stop(false);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }
}
