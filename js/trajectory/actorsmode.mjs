/** Directing actors: their tracks from above, cards on the ground in the Camera view, a row of values. */

import { element, iconButton, select } from "../page/dom.mjs";
import { add, distance, dot, forwardOf, norm, rotate, scale, subtract } from "../viewer/math.mjs";
import { paintHandle, polyline } from "../viewer/paint.mjs";
import { degrees, headingOf, wayOfHeading } from "./actor_path.mjs";
import { Actors } from "./actors.mjs";
import { offer, show } from "./panel.mjs";

/** CSS pixels within which the pointer hits a handle. */
const REACH = 11;
/** Points of a track that are drawn. */
const DRAWN = 300;
/** How far a drag reaches on the ground, in scene depths. */
const FAR = 40;
const NUDGE = 0.02;
/** Length of the mark of where an actor faces, in widths of its card. */
const NOSE = 1.2;
const LABEL_PX = 12;
/** What arrow keys do: quarter turns from heading 0, and which way. */
const STEPS = { ArrowLeft: [1, -1], ArrowRight: [1, 1], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** The point of the ground under a place of the view; null above the horizon. */
export function groundUnder(x, y, controls, up, height, reach) {
  const { fx, fy, cx, cy } = controls.lens;
  const { rotation, orthographic } = controls;
  const from = orthographic ? controls.unproject(x, y, controls.target) : controls.position;
  const ray = orthographic ? forwardOf(rotation) : rotate(rotation, [(x - cx) / fx, (y - cy) / fy, 1]);
  const along = (height - dot(from, up)) / dot(ray, up);
  if (!Number.isFinite(along) || (!orthographic && (along <= 0 || along * norm(ray) > reach))) return null;
  return add(from, scale(ray, along));
}

export class ActorsMode {
  /** @param {object} widget the trajectory widget */
  constructor(widget) {
    const { text, model } = widget;
    this.widget = widget;
    this.text = text;
    this.on = false;
    this.actors = new Actors(model);
    this.actors.onEdit = () => widget.refresh();
    this.button = iconButton("actors", text("actors"), () => this.toggle());
    this.choice = select(text("actor"), [], (name) => this.actors.choose(name));
    this.behaviour = select(text("behaviour"), [], (name) => this.actors.behave(name));
    this.heading = element("input", {
      type: "number", class: "mirage-number", "aria-label": text("heading"), title: text("heading"),
      min: -360, max: 360, step: 1,
    });
    this.heading.addEventListener("change", () => this.#turnTo(this.heading.valueAsNumber));
    this.ahead = element("button", {
      type: "button", class: "mirage-text-button", text: text("ahead"), "aria-label": text("ahead"),
      title: text("aheadHint"), onclick: () => this.#faceAhead(),
    });
    this.panel = element(
      "div", { class: "mirage-panel", role: "group", "aria-label": text("actors"), hidden: true },
      element("div", { class: "mirage-group" }, this.choice, this.behaviour, this.heading, this.ahead),
    );
    this.panel.addEventListener("keydown", (event) => event.stopPropagation());
  }

  /** Keyframes that the timeline and its buttons work on. */
  get keyed() {
    return this.on ? this.actors : this.widget.model;
  }

  /** Where actors are, see `Actors`. */
  get moves() {
    return this.actors.moves;
  }

  /** What there is to say; empty when nothing. */
  get note() {
    const { current } = this.actors;
    if (!current) return this.text("noActors");
    if (!current.node) return this.text("actorNotPlaced", { name: current.name });
    if (!current.stops) return this.text("actorBadPath", { name: current.name });
    if (!this.actors.editable) return this.text("actorLinked", { name: current.name });
    return this.actors.floor ? "" : this.text("noScene");
  }

  /** Direct actors, from above unless through the camera; or the camera again. */
  toggle() {
    const { viewport } = this.widget;
    if (!this.on && viewport.controls.view !== "camera") {
      viewport.setView("top");
      this.widget.fit();
    }
    this.show(!this.on);
  }

  show(on) {
    this.on = this.widget.editor.resting = on;
    this.panel.hidden = !on;
    this.button.setAttribute("aria-pressed", String(on));
    this.widget.refresh();
  }

  /** Show the actors as they are now. */
  update() {
    const { actors } = this;
    actors.read();
    if (!this.on) return;
    const { current, editable } = actors;
    offer(this.choice, actors.all.map(({ name }) => [name, name]));
    this.choice.value = current?.name ?? "";
    this.choice.disabled = actors.all.length < 2;
    const offered = current?.node?.widgets?.find(({ name }) => name === "behaviour")?.options?.values;
    const behaviours = Array.isArray(offered) ? offered : [];
    offer(this.behaviour, behaviours.map((name) => [name, this.text(`behaviour_${name}`)]));
    this.behaviour.value = actors.behaviour;
    this.behaviour.disabled = !editable;
    const stop = actors.keyframes[actors.selected];
    const shown = current && actors.trackOf(current)(stop?.frame ?? actors.frame);
    show(this.heading, shown ? String(Math.round(degrees(shown.heading))) : "");
    this.ahead.setAttribute("aria-pressed", String(Boolean(stop) && stop.heading === null));
    for (const input of [this.heading, this.ahead]) input.disabled = !editable || !stop;
  }

  #turnTo(value) {
    const stop = this.actors.keyframes[this.actors.selected];
    if (stop && Number.isFinite(value)) this.actors.turn(stop, Math.min(360, Math.max(-360, value)));
  }

  /** Let the selected keyframe face the way ahead, or as it does now. */
  #faceAhead() {
    const { actors } = this;
    const stop = actors.keyframes[actors.selected];
    if (!stop) return;
    const now = actors.trackOf(actors.current)(stop.frame);
    actors.turn(stop, stop.heading === null && now ? degrees(now.heading) : null);
  }

  /** What is under the pointer. @returns {import("../viewer/viewport.mjs").Gesture | null} */
  grab(event, x, y, controls, ratio) {
    if (!this.on) return null;
    const nothing = controls.view === "camera" ? { move: () => {} } : null;
    if (event.shiftKey || event.button !== 0) return nothing;
    const under = this.#actorUnder(x, y, controls, ratio);
    if (under && under.name !== this.actors.current.name) this.actors.choose(under.name);
    if (!this.actors.editable) return nothing;
    const near = (point) => {
      const [px, py, z] = controls.project(point);
      return z > 0 ? Math.hypot(px - x, py - y) / ratio : Infinity;
    };
    return this.#grabHandle(event, controls, near) ?? (under ? this.#grabCard(x, y, controls) : nothing);
  }

  #grabHandle(event, controls, near) {
    const { actors } = this;
    if (controls.view === "camera") return null;
    const stop = actors.keyframes[actors.selected];
    if (stop && near(this.#nose(actors.current, stop.frame)) < REACH) return this.#turn(stop, controls);
    const away = actors.keyframes.map((each) => near(actors.pointOf(each)));
    const nearest = away.indexOf(Math.min(...away));
    if (!(away[nearest] < REACH)) return event.detail > 1 ? this.#insert(controls, near) : null;
    actors.select(nearest);
    return this.#move(() => actors.keyframes[nearest], controls, actors.pointOf(actors.keyframes[nearest]));
  }

  /** A keyframe where the track is under the pointer. */
  #insert(controls, near) {
    const { actors } = this;
    const at = actors.trackOf(actors.current);
    let best = { frame: null, away: REACH };
    for (let frame = 0; frame < actors.path.length; frame += Math.max(1, Math.floor(actors.path.length / DRAWN))) {
      const point = at(frame)?.point;
      const away = point ? near(point) : Infinity;
      if (away < best.away) best = { frame, away };
    }
    if (best.frame === null) return null;
    actors.addKeyframe(best.frame);
    const stop = actors.keyframes[actors.selected];
    return this.#move(() => stop, controls, actors.pointOf(stop));
  }

  /** Drag the actor as it stands at the shown frame: that becomes a keyframe when it is moved. */
  #grabCard(x, y, controls) {
    const { actors } = this;
    const here = () => {
      actors.addKeyframe();
      return actors.keyframes[actors.selected];
    };
    return this.#move(here, controls, actors.at(actors.frame).point);
  }

  /** Drag a keyframe along the ground. @param {() => object} grabbed makes it where there is none */
  #move(grabbed, controls, from) {
    const { actors, widget } = this;
    const { up } = actors.ground;
    const height = dot(from, up);
    const [fromX, fromY] = controls.project(from);
    const gesture = actors.begin();
    let [dx, dy] = [0, 0];
    let stop = null;
    return {
      ...gesture,
      move: (x, y, sx, sy) => {
        dx += sx;
        dy += sy;
        const reach = FAR * widget.model.scene.depth;
        const to = groundUnder(fromX + dx, fromY + dy, controls, up, height, reach);
        if (!to) return;
        stop ??= grabbed();
        actors.move(stop, widget.editor.director.snapPoint(to));
      },
    };
  }

  #turn(stop, controls) {
    const { actors, widget } = this;
    const { up } = actors.ground;
    const from = actors.pointOf(stop);
    return {
      ...actors.begin(),
      move: (x, y) => {
        const to = groundUnder(x, y, controls, up, dot(from, up), FAR * widget.model.scene.depth);
        if (!to || distance(to, from) < 1e-6) return;
        actors.turn(stop, Math.round(degrees(headingOf(subtract(to, from), up))));
      },
    };
  }

  #actorUnder(x, y, controls, ratio) {
    const { actors } = this;
    const inside = actors.all.filter((actor) => {
      const card = this.#card(actor, controls);
      const at = card?.map((point) => controls.project(point));
      if (!at || at.some(([, , z]) => !(z > 0))) return false;
      const [xs, ys] = [0, 1].map((axis) => at.map((point) => point[axis]));
      const near = (values, value) =>
        value > Math.min(...values) - 4 * ratio && value < Math.max(...values) + 4 * ratio;
      return near(xs, x) && near(ys, y);
    });
    return inside.find(({ name }) => name === actors.current.name) ?? inside[0] ?? null;
  }

  /** Corners of an upright card that faces the view, at the shown frame; null where it is nowhere. */
  #card(actor, controls) {
    const { actors } = this;
    const now = actors.trackOf(actor)(actors.frame);
    if (!now) return null;
    const { up } = actors.ground;
    const [width, height, length] = actors.sizeOf(actor);
    if (controls.view === "top") return this.#footprint(now, width, length, up);
    const right = rotate(controls.rotation, [1, 0, 0]);
    const level = subtract(right, scale(up, dot(right, up)));
    const across = scale(level, width / 2 / Math.max(norm(level), 1e-6));
    const rise = scale(up, height);
    const [left, other] = [subtract(now.point, across), add(now.point, across)];
    return [left, other, add(other, rise), add(left, rise)];
  }

  #footprint({ point, heading }, width, length, up) {
    const front = scale(wayOfHeading(heading, up), length / 2);
    const side = scale(wayOfHeading(heading + Math.PI / 2, up), width / 2);
    return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([a, b]) => add(point, add(scale(side, a), scale(front, b))));
  }

  /** The end of the mark of where an actor faces. */
  #nose(actor, frame) {
    const { actors } = this;
    const now = actors.trackOf(actor)(frame) ?? actors.at(frame);
    const [width, , length] = actors.sizeOf(actor);
    return add(now.point, scale(wayOfHeading(now.heading, actors.ground.up), NOSE * Math.max(width, length)));
  }

  /**
   * Keys on keyframes of the actor: add, delete, go to the next, and arrows, which move the selected
   * one along the axes of the ground. Others that move the camera's do nothing meanwhile.
   *
   * @returns {boolean} whether the key was one of these
   */
  key(event) {
    if (!this.on || event.ctrlKey || event.metaKey || event.altKey) return false;
    const { actors } = this;
    const jumps = { "[": -1, "]": 1 };
    if (event.key === "Delete" || event.key === "Backspace") actors.removeKeyframe();
    else if (event.key.toLowerCase() === "k" && !event.shiftKey) actors.addKeyframe();
    else if (event.key in jumps) actors.jump(jumps[event.key]);
    else if (event.key in STEPS) this.#nudge(...STEPS[event.key], event.shiftKey ? 5 : 1);
    else return event.key === "PageUp" || event.key === "PageDown";
    return true;
  }

  #nudge(turned, sign, times) {
    const { actors } = this;
    const stop = actors.keyframes[actors.selected];
    if (!stop || !actors.editable) return;
    const size = sign * NUDGE * this.widget.model.scene.depth * times;
    const way = wayOfHeading(turned * Math.PI / 2, actors.ground.up);
    actors.move(stop, add(actors.pointOf(stop), scale(way, size)));
  }

  /** Hear no more of nodes that outlive the widget. */
  dispose() {
    this.actors.onEdit = () => {};
  }

  /** Draw tracks, keyframes and cards. */
  paint(context, controls, theme, ratio) {
    if (!this.on) return;
    for (const actor of this.actors.all) {
      const chosen = actor === this.actors.current;
      if (controls.view !== "camera") this.#paintTrack(context, controls, actor, chosen, theme, ratio);
      this.#paintCard(context, controls, actor, chosen, theme, ratio);
    }
    if (controls.view !== "camera") this.#paintKeys(context, controls, theme, ratio);
  }

  #paintTrack(context, controls, actor, chosen, theme, ratio) {
    const { actors } = this;
    const at = actors.trackOf(actor);
    const last = actors.path.length - 1;
    const every = Math.max(1, last / DRAWN);
    const way = [];
    for (let frame = 0; frame <= last; frame += every) way.push(at(frame)?.point ?? null);
    for (const [style, width] of [[theme.outline, 4], [chosen ? theme.actor : theme.muted, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width * ratio;
      polyline(context, controls, way);
    }
  }

  #paintCard(context, controls, actor, chosen, theme, ratio) {
    const { actors } = this;
    const card = this.#card(actor, controls);
    if (!card) return;
    const now = actors.trackOf(actor)(actors.frame);
    const nose = [now.point, this.#nose(actor, actors.frame)];
    for (const [style, width] of [[theme.outline, 3.5], [chosen ? theme.actor : theme.muted, 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width * ratio;
      polyline(context, controls, [...card, card[0]]);
      polyline(context, controls, nose);
    }
    const top = card.map((point) => controls.project(point)).filter(([, , z]) => z > 0);
    if (top.length < card.length) return;
    const x = (Math.min(...top.map(([px]) => px)) + Math.max(...top.map(([px]) => px))) / 2;
    const y = Math.min(...top.map(([, py]) => py)) - 4 * ratio;
    context.font = `${LABEL_PX * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = theme.outline;
    context.strokeText(actor.name, x, y);
    context.fillStyle = chosen ? theme.actor : theme.muted;
    context.fillText(actor.name, x, y);
  }

  #paintKeys(context, controls, theme, ratio) {
    const { actors } = this;
    actors.keyframes.forEach((stop, index) => {
      const selected = index === actors.selected;
      const [x, y, z] = controls.project(actors.pointOf(stop));
      if (z > 0) paintHandle(context, x, y, selected ? 7 : 5, selected ? theme.selected : theme.actor, theme.outline, ratio);
      if (!selected) return;
      const nose = this.#nose(actors.current, stop.frame);
      const [nx, ny, nz] = controls.project(nose);
      context.strokeStyle = theme.selected;
      context.lineWidth = 1.5 * ratio;
      polyline(context, controls, [actors.pointOf(stop), nose]);
      if (nz > 0) paintHandle(context, nx, ny, 5, theme.outline, theme.selected, ratio);
    });
  }
}
