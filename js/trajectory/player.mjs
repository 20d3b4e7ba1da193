/** Plays the shot in the view, in real time and over again. */

import { relabel } from "../page/dom.mjs";

export class Player {
  /**
   * @param {import("./model.mjs").TrajectoryModel} model
   * @param {HTMLButtonElement} button which plays and pauses
   * @param {(key: string, values?: object) => string} text
   */
  constructor(model, button, text) {
    Object.assign(this, { model, button, text });
    /** Number of the animation frame that is asked for; 0 while nothing plays. */
    this.playing = 0;
  }

  /** Play from the shown frame, or from the first at the end of the shot; again, to pause. */
  toggle() {
    if (this.playing) {
      this.pause();
      return;
    }
    const { model } = this;
    const [begin, from] = [performance.now(), model.frame >= model.path.length - 1 ? 0 : model.frame];
    const tick = (now) => {
      const frame = from + Math.floor(((now - begin) / 1000) * model.fps);
      model.scrub(frame % model.path.length);
      this.playing = requestAnimationFrame(tick);
    };
    this.playing = requestAnimationFrame(tick);
    relabel(this.button, "pause", this.text("pause"));
  }

  pause() {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    relabel(this.button, "play", this.text("play"));
  }
}
