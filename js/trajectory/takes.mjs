/** Two takes of a shot side by side, at the same frame. */

import { shotPath, withTake } from "./shot.mjs";

/** CSS pixels of the names over the pictures. */
const FONT = 12;

export class Comparison {
  /** @param {import("./model.mjs").TrajectoryModel} model */
  constructor(model) {
    this.model = model;
    this.on = false;
    /** The take that is looked at beside the edited one; another one when that is edited. */
    this.wish = "";
    this.made = [];
    /** Called when two are looked at. */
    this.begins = () => {};
  }

  /** Name of the take beside the edited one; null while there is none. */
  get name() {
    if (!this.on) return null;
    const { takes } = this.model.shot;
    return (takes.find(({ name }) => name === this.wish) ?? takes[0])?.name ?? null;
  }

  /** Look at a take beside the edited one; at none with an empty name. */
  choose(name) {
    this.on = name !== "";
    this.wish = name || this.wish;
    if (this.on) this.begins();
    this.model.dispatchEvent(new Event("scrub"));
  }

  /** The edited take is another one now: the one before stays beside it if that was beside. */
  changed(before, now) {
    if (now === this.wish) this.wish = before;
  }

  /** @returns {import("../viewer/scene.mjs").Path | null} of the take beside the edited one */
  get path() {
    const { name } = this;
    if (name === null) return null;
    const { shot, scene, space, frames, fps } = this.model;
    const take = shot.takes.find((one) => one.name === name);
    const made = [take, scene, space, frames, fps];
    if (made.some((part, i) => part !== this.made[i])) {
      this.made = made;
      this.kept = shotPath(withTake(shot, name, scene, space), frames, scene, fps);
    }
    return this.kept;
  }

  /** On which side the edited take is: takes stand by their names. Null while there is one. */
  get side() {
    const { name } = this;
    return name === null ? null : Number(this.model.shot.take > name);
  }

  /** Write the names over the pictures, the edited one's brightly. */
  paint(context, controls, text, theme, ratio) {
    const { side, name } = this;
    if (side === null) return;
    const names = [this.model.shot.take, name];
    if (side) names.reverse();
    context.font = `${FONT * ratio}px system-ui, sans-serif`;
    context.textBaseline = "top";
    const pad = 4 * ratio;
    const tall = FONT * ratio + 2 * pad;
    controls.pictures.forEach(([left, above, , height], i) => {
      const label = text("takeName", { name: names[i] });
      // Notes are at the upper edge.
      const top = above + height - tall;
      context.fillStyle = theme.outline;
      context.fillRect(left, top, context.measureText(label).width + 2 * pad, tall);
      context.fillStyle = i === side ? theme.selected : theme.muted;
      context.fillText(label, left + pad, top + pad);
    });
  }
}
