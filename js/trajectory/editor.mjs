/** Keyframes under the pointer: move, aim, add, and draw a whole path. */

import {
  add, distance, lookAt, quaternionOf, rotate, rotationOf, scale, subtract,
} from "../viewer/math.mjs";
import { aimPoint, paintFloor, paintFrustum, paintHandle, paintPath, polyline } from "../viewer/paint.mjs";
import { cameraAt } from "../viewer/scene.mjs";
import { noPoints } from "../viewer/points.mjs";
import { Director, fieldOfView, millimetres } from "./director.mjs";
import { drawnKeyframes } from "./drawing.mjs";
import { paintGhost, paintGuides } from "./guides.mjs";
import { paintSubject, surfaceUnder } from "./subject.mjs";

/** CSS pixels within which the pointer hits a handle. */
const REACH = 11;
const FRUSTUM = 0.16;
const NUDGE = 0.02;
/** CSS pixels of a drag that make the focal length e times as long. */
const ZOOM = 200;
/** Milliseconds after which another turn of the wheel is another edit. */
const WHEEL_MS = 400;

const AIDS = { g: "guides", b: "ghost", n: "snap" };
/** Keys of what is done with the whole shot. */
const COMMANDS = {
  z: "toggleSubject", x: "cut", v: "nextTake", c: "compare", a: "nextAspect", o: "setOutput", t: "pick",
};

export class Editor {
  /** @param {import("./model.mjs").TrajectoryModel} model */
  constructor(model) {
    this.model = model;
    this.director = new Director(model);
    /** True while the key is held with which a drag sets the focal length. */
    this.zooming = false;
    /** True while something else than the camera is edited. */
    this.resting = false;
    /** What is held while the wheel is turned. */
    this.wheeled = null;
    this.drawing = false;
    /** @type {number[][] | null} the line that is being drawn */
    this.line = null;
    /** What is remembered, of which a subject may be picked. */
    this.points = noPoints();
  }

  /** Hear the wheel before the view does. */
  listen({ canvas, controls }) {
    const wheel = (event) => {
      if (!this.wheel(event, controls)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    canvas.addEventListener("wheel", wheel, { capture: true, passive: false });
  }

  /** A drag sets the focal length until the key is let go, wherever the focus is then. */
  #zoomWhileHeld() {
    if (this.zooming) return;
    this.zooming = true;
    const held = new AbortController();
    const listen = (name, heard) =>
      window.addEventListener(name, heard, { capture: true, signal: held.signal });
    const ends = () => {
      this.zooming = false;
      held.abort();
    };
    listen("keyup", (event) => event.key.toLowerCase() === "f" && ends());
    listen("blur", (event) => event.target === window && ends());
  }

  /** What is under the pointer. @returns {import("../viewer/viewport.mjs").Gesture | null} */
  grab(event, x, y, controls, ratio) {
    const { model } = this;
    if (this.drawing) return this.#draw(x, y, controls);
    if (this.director.picking) return this.#pick(x, y, controls, ratio);
    if (!model.editable || event.shiftKey) return null;
    if (this.zooming) return this.#zoom(ratio);
    if (controls.view === "camera") return this.#aimThrough(controls);
    const near = (point) => {
      const [px, py, z] = controls.project(point);
      return z > 0 ? Math.hypot(px - x, py - y) / ratio : Infinity;
    };
    const chosen = model.keyframes[model.selected];
    if (chosen && near(this.#aim(chosen)) < REACH) return this.#turn(model.selected, controls);
    const away = model.keyframes.map((key) => near(key.position));
    const nearest = away.indexOf(Math.min(...away));
    if (away[nearest] < REACH) {
      model.select(nearest);
      return this.#move(nearest, controls);
    }
    const frame = this.#frameUnder(near);
    if (frame === null) return null;
    if (event.detail > 1) {
      model.addKeyframe(frame);
      return this.#move(model.selected, controls);
    }
    const before = model.frame;
    model.scrub(frame);
    return {
      move: (mx, my) => this.#scrubTo(mx, my, controls),
      cancel: () => model.scrub(before),
    };
  }

  #aim(key) {
    return aimPoint(key, rotationOf(key.quaternion), this.model.scene);
  }

  /** The frame of the path under the pointer. */
  #frameUnder(near) {
    const { path } = this.model;
    const every = Math.max(1, Math.floor(path.length / 1000));
    let best = { frame: null, away: REACH * 0.8 };
    for (let frame = 0; frame < path.length; frame += every) {
      const away = near(path.position.subarray(3 * frame, 3 * frame + 3));
      if (away < best.away) best = { frame, away };
    }
    return best.frame;
  }

  #scrubTo(x, y, controls) {
    const { path } = this.model;
    const every = Math.max(1, Math.floor(path.length / 1000));
    let best = { frame: this.model.frame, away: Infinity };
    for (let frame = 0; frame < path.length; frame += every) {
      const [px, py, z] = controls.project(path.position.subarray(3 * frame, 3 * frame + 3));
      const away = z > 0 ? Math.hypot(px - x, py - y) : Infinity;
      if (away < best.away) best = { frame, away };
    }
    this.model.scrub(best.frame);
  }

  #move(index, controls) {
    const { model } = this;
    const key = model.keyframes[index];
    const origins = model.keyframes.map((each) => [...each.position]);
    const origin = origins[index];
    const weights = softWeights(model.keyframes, index, model.path.length);
    const together = model.keyframes.map((each) => model.beside.has(key) && model.beside.has(each));
    const [fromX, fromY] = controls.project(origin);
    let [dx, dy] = [0, 0];
    return {
      ...model.begin(),
      move: (x, y, sx, sy, event) => {
        dx += sx;
        dy += sy;
        const to = controls.unproject(fromX + dx, fromY + dy, origin);
        const by = subtract(this.director.snapPoint(to), origin);
        model.edit((keyframes) => keyframes.forEach((each, i) => {
          const share = i === index || together[i] ? 1 : event?.altKey ? weights[i] : 0;
          each.position = share ? add(origins[i], scale(by, share)) : origins[i];
        }));
        model.scrub(key.frame);
      },
    };
  }

  /** Hold the size of the surface under the pointer. */
  #pick(x, y, controls, ratio) {
    const point = surfaceUnder(this.points, x, y, controls, ratio);
    if (point) this.director.holdSize(point);
    return { move: () => {} };
  }

  /** Set the focal length by a drag: to the right for a longer lens. */
  #zoom(ratio) {
    const { director, model } = this;
    const mm = millimetres(director.fov);
    let moved = 0;
    return {
      ...model.begin(),
      move: (x, y, dx) => {
        moved += dx;
        director.setFov(fieldOfView(mm * Math.exp(moved / ratio / ZOOM)));
      },
    };
  }

  /** Aim the camera that is looked through, in the direction of the drag. */
  #aimThrough(controls) {
    const { director, model } = this;
    return {
      ...model.begin(),
      move: (x, y, dx, dy) => {
        const { fx, fy } = controls.lens;
        director.aim(dx / fx, -dy / fy);
      },
    };
  }

  /**
   * The wheel while the camera is looked through: it dollies. Turns that follow quickly are one
   * edit.
   *
   * @returns {boolean} whether it was taken
   */
  wheel(event, controls) {
    const { model } = this;
    if (controls.view !== "camera" || this.resting || !model.editable || (model.held && model.held !== this.wheeled)) {
      return false;
    }
    if (!model.held) {
      model.begin();
      this.wheeled = model.held;
    }
    clearTimeout(this.wheelEnds);
    this.wheelEnds = setTimeout(this.wheeled.finish, WHEEL_MS);
    this.director.dolly(-Math.sign(event.deltaY) * Math.min(0.1, Math.abs(event.deltaY) / 2000));
    return true;
  }

  #turn(index, controls) {
    const { model } = this;
    const key = model.keyframes[index];
    return {
      ...model.begin(),
      move: (x, y) => {
        const target = controls.unproject(x, y, this.#aim(key));
        if (distance(target, key.position) < 1e-6) return;
        model.edit(() => (key.quaternion = quaternionOf(lookAt(key.position, target))));
        model.scrub(key.frame);
      },
    };
  }

  /** Draw a path at the height of the start camera; it begins at the start camera. */
  #draw(x, y, controls) {
    const { model } = this;
    const level = model.scene.start.position[1];
    const at = (px, py) => controls.onLevel(px, py, level) ?? controls.unproject(px, py, controls.target);
    this.line = [at(x, y)];
    return {
      move: (px, py) => {
        const point = at(px, py);
        if (distance(point, this.line.at(-1)) > 0.01 * model.scene.depth) this.line.push(point);
      },
      end: () => {
        const line = this.line;
        this.line = null;
        this.drawing = false;
        if (line.length > 1) model.useKeyframes(drawnKeyframes(line, model));
      },
      cancel: () => {
        this.line = null;
      },
    };
  }

  /**
   * Keys on the scene: the table below, and on the selected keyframe arrows, which move it, and
   * Page Up and Down, which raise and lower it.
   *
   * @returns {boolean} whether the key was one of these
   */
  key(event) {
    const { model } = this;
    const key = model.keyframes[model.selected];
    if (model.held === this.wheeled) this.wheeled?.finish();
    if (this.#command(event)) return true;
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === "Delete" || event.key === "Backspace") {
      model.removeKeyframe();
      return true;
    }
    const steps = {
      ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
      PageUp: [0, -1, 0], PageDown: [0, 1, 0],
    };
    const step = steps[event.key];
    if (!step || !key || !model.editable) return false;
    const size = NUDGE * model.scene.depth * (event.shiftKey ? 5 : 1);
    const { rotation } = model.scene.start;
    const to = add(key.position, rotate(rotation, scale(step, size)));
    model.edit(() => (key.position = to));
    model.scrub(key.frame);
    return true;
  }

  #command(event) {
    const { model, director } = this;
    const name = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      return (name === "c" && director.copy()) || (name === "v" && model.editable && director.paste());
    }
    const jumps = { "[": -1, "]": 1 };
    // Some keyboards have brackets on a third level, which counts as Ctrl and Alt.
    if (name in jumps) director.jump(jumps[name]);
    else if (event.altKey || event.shiftKey) return false;
    else if (name === "k") model.addKeyframe();
    else if (name === "f") this.#zoomWhileHeld();
    else if (name in COMMANDS) director[COMMANDS[name]]();
    else if (name in AIDS) director.toggle(AIDS[name]);
    else return false;
    return true;
  }

  /** Draw everything that can be edited. */
  paint(context, controls, theme, ratio, floor) {
    const { model } = this;
    const { path, scene, frame } = model;
    const { aids, comparison } = this.director;
    if (floor) paintFloor(context, controls, scene, theme, ratio);
    if (aids.ghost && model.ghost) paintGhost(context, controls, model.ghost, frame, scene, theme, ratio);
    if (controls.view === "camera") {
      for (const picture of controls.pictures) {
        paintGuides(context, picture, aids, theme, ratio);
        context.strokeStyle = theme.muted;
        context.lineWidth = ratio;
        context.strokeRect(...picture);
      }
      paintSubject(context, controls, model.shot.subject, theme, ratio);
      return;
    }
    const { path: other } = comparison;
    if (other) paintGhost(context, controls, other, frame, scene, theme, ratio);
    paintPath(context, controls, path, frame, theme, ratio);
    const reach = FRUSTUM * scene.depth;
    model.keyframes.forEach((key, index) => {
      const { focal } = cameraAt(path, key.frame);
      const camera = { position: key.position, rotation: rotationOf(key.quaternion), focal };
      const colour = index === model.selected ? theme.selected : theme.key;
      for (const [style, width] of [[theme.outline, 2.5], [colour, 1.25]]) {
        context.strokeStyle = style;
        context.lineWidth = width * ratio;
        paintFrustum(context, controls, camera, scene, reach * 0.45);
      }
    });
    context.strokeStyle = theme.past;
    context.lineWidth = 2 * ratio;
    paintFrustum(context, controls, cameraAt(path, frame), scene, reach);
    this.#paintHandles(context, controls, theme, ratio);
    paintSubject(context, controls, model.shot.subject, theme, ratio);
    if (this.line) {
      context.strokeStyle = theme.selected;
      context.lineWidth = 3 * ratio;
      polyline(context, controls, this.line);
    }
  }

  #paintHandles(context, controls, theme, ratio) {
    const { model } = this;
    model.keyframes.forEach((key, index) => {
      const [x, y, z] = controls.project(key.position);
      const selected = index === model.selected;
      if (selected) this.#paintAim(context, controls, key, theme, ratio);
      if (z > 0) {
        const fill = selected ? theme.selected : theme.key;
        paintHandle(context, x, y, selected ? 7 : 5, fill, theme.outline, ratio);
      }
    });
    const [x, y, z] = controls.project(cameraAt(model.path, model.frame).position);
    if (z > 0) paintHandle(context, x, y, 4, theme.past, theme.outline, ratio);
  }

  #paintAim(context, controls, key, theme, ratio) {
    const aim = this.#aim(key);
    for (const [style, width, dash] of [[theme.outline, 3, []], [theme.selected, 1.5, [4, 4]]]) {
      context.setLineDash(dash.map((length) => length * ratio));
      context.strokeStyle = style;
      context.lineWidth = width * ratio;
      polyline(context, controls, [key.position, aim]);
    }
    context.setLineDash([]);
    const [x, y, z] = controls.project(aim);
    if (z > 0) paintHandle(context, x, y, 5, theme.outline, theme.selected, ratio);
  }
}

/**
 * How much of one keyframe's move its neighbours in time make with it: less the further they are,
 * and nothing beyond a quarter of the shot, or beyond the second neighbour where keys are few.
 */
function softWeights(keyframes, index, frames) {
  const { frame } = keyframes[index];
  const away = keyframes.map((key) => Math.abs(key.frame - frame));
  const second = [...away].sort((a, b) => a - b)[Math.min(3, away.length - 1)];
  const reach = Math.max(frames / 4, 1.25 * second);
  return away.map((distance) => Math.max(0, 1 - (distance / reach) ** 2) ** 2);
}
