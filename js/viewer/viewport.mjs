/** A canvas of points with lines over them, and orbit controls. */

import { follow } from "../page/gesture.mjs";
import { OrbitControls } from "./controls.mjs";
import { noPoints } from "./points.mjs";
import { CameraPicture } from "./picture.mjs";
import { onGraphics, sharedRenderer } from "./renderer.mjs";

/** Canvas pixels on each side at most; the rest is scaled up by the browser. */
const MAX_PIXELS = 1600;
const KEY_STEP = 24;

/**
 * What a pointer does after it went down on something.
 *
 * @typedef {object} Gesture
 * @property {(x: number, y: number, dx: number, dy: number, event: PointerEvent) => void} move
 * @property {() => void} [end]
 * @property {() => void} [cancel] put everything back to where it was
 */

export class Viewport {
  /**
   * @param {object} options
   * @param {(context: CanvasRenderingContext2D, controls: OrbitControls, ratio: number) => void} options.paint
   *   draws over the points; `ratio` is canvas pixels per CSS pixel
   * @param {(controls: OrbitControls) => void} [options.aim] gives the controls the shot's camera
   * @param {(event: PointerEvent, x: number, y: number) => Gesture | null} [options.grab] what is
   *   under the pointer
   * @param {() => void} [options.onView] called when the view changed
   * @param {() => import("./picture.mjs").Shot} [options.shot] what the shot's camera sees
   * @param {() => import("./picture.mjs").Shot} [options.beside] what is seen on the other side
   */
  constructor({
    paint, aim = () => {}, grab = () => null, onView = () => {}, shot = () => null, beside = () => null,
  }) {
    Object.assign(this, { paint, aim, grab, onView, shot, beside });
    this.picture = new CameraPicture();
    this.other = new CameraPicture();
    this.dots = new DotLayer();
    this.controls = new OrbitControls();
    this.points = noPoints();
    /** @type {Uint8Array} */
    this.colours = this.points.colour;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "mirage-canvas";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    // Nodes 2.0 zooms the graph on every wheel event, except over a focused element with this mark.
    this.canvas.dataset.captureWheel = "true";
    this.context = this.canvas.getContext("2d");
    this.pending = 0;
    /** The focus came with the pointer: keys may mean more than to those who go by keys alone. */
    this.pressed = false;
    this.#listen();
    this.sizes = new ResizeObserver(() => this.invalidate());
    this.sizes.observe(this.canvas);
    this.unfollow = onGraphics(() => this.invalidate());
  }

  /** Draw in the next animation frame; several calls draw once. */
  invalidate() {
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0;
      this.render();
    });
  }

  /** Draw now. */
  render() {
    const { canvas, context, controls } = this;
    if (!this.#fit()) return;
    controls.resize(canvas.width, canvas.height);
    this.aim(controls);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const shot = controls.view === "camera" ? this.shot() : null;
    if (shot?.points.count) {
      const { picture, pictures, side } = controls;
      this.picture.draw(context, picture, shot, this.ratio);
      if (side !== null) this.other.draw(context, pictures[1 - side], this.beside(), this.ratio);
    } else this.dots.draw(context, this.points, this.colours, controls, this.ratio);
    this.paint(context, controls, this.ratio);
  }

  /** Canvas pixels per CSS pixel of the widget, zoom of the graph included. */
  get ratio() {
    return this.canvas.width / Math.max(1, this.canvas.clientWidth);
  }

  #fit() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return false;
    const dense = Math.min(devicePixelRatio || 1, MAX_PIXELS / Math.max(box.width, box.height));
    const [width, height] = [box.width, box.height].map((side) => Math.max(1, Math.round(side * dense)));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    return true;
  }

  /** Position of a pointer in canvas pixels. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  setView(view) {
    this.controls.view = view;
    this.onView();
    this.invalidate();
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("blur", () => (this.pressed = false));
    canvas.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        event.stopPropagation();
        this.controls.dolly(Math.exp(Math.sign(event.deltaY) * Math.min(0.3, Math.abs(event.deltaY) / 500)));
        this.invalidate();
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #press(event) {
    event.stopPropagation();
    this.canvas.focus({ preventScroll: true });
    this.pressed = true;
    let [x, y] = this.at(event);
    const gesture = (event.button === 0 && this.grab(event, x, y)) || this.#navigate(event);
    const finish = (how) => {
      how?.();
      this.invalidate();
    };
    follow(this.canvas, event, {
      move: (moved) => {
        const [nx, ny] = this.at(moved);
        gesture.move(nx, ny, nx - x, ny - y, moved);
        [x, y] = [nx, ny];
        this.invalidate();
      },
      end: () => finish(gesture.end),
      cancel: () => finish(gesture.cancel),
    });
  }

  /** @returns {Gesture} orbit, or pan with another button or Shift */
  #navigate(event) {
    const { controls } = this;
    const pans = event.button !== 0 || event.shiftKey || controls.orthographic;
    const { view, yaw, pitch, target } = controls;
    return {
      move: (x, y, dx, dy) => {
        const before = controls.view;
        if (pans) controls.pan(dx, dy);
        else controls.orbit(dx, dy);
        if (controls.view !== before) this.onView();
      },
      cancel: () => {
        Object.assign(controls, { view, yaw, pitch, target });
        this.onView();
      },
    };
  }

  /** Navigation with the keyboard: Alt and arrows, plus and minus. */
  #key(event) {
    if (event.ctrlKey || event.metaKey) return;
    const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const turn = turns[event.key];
    const zoom = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 }[event.key];
    if (turn && event.altKey) {
      const before = this.controls.view;
      if (this.controls.orthographic) this.controls.pan(-turn[0] * KEY_STEP, -turn[1] * KEY_STEP);
      else this.controls.orbit(turn[0] * KEY_STEP, turn[1] * KEY_STEP);
      if (this.controls.view !== before) this.onView();
    } else if (zoom) this.controls.dolly(zoom);
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.invalidate();
  }

  dispose() {
    cancelAnimationFrame(this.pending);
    this.sizes.disconnect();
    this.unfollow();
  }
}

/** Points seen from outside; drawn again only when the view of them changed. */
export class DotLayer {
  constructor() {
    this.layer = document.createElement("canvas");
    this.context = this.layer.getContext("2d");
    this.key = "";
    this.colours = null;
    /** How often something was drawn. */
    this.drawings = 0;
  }

  /**
   * @param {CanvasRenderingContext2D} context where to, over all of it
   * @param {import("./points.mjs").PointSet} points
   * @param {Uint8Array} colours 4 per point
   * @param {OrbitControls} controls that know the size
   * @param {number} ratio canvas pixels per CSS pixel
   */
  draw(context, points, colours, controls, ratio) {
    const renderer = sharedRenderer();
    if (!points.count || !renderer) return;
    const { layer } = this;
    const { width, height } = context.canvas;
    const { matrix, size } = controls.matrix();
    const key = [renderer.age, width, height, size, ratio, ...matrix].join();
    if (key !== this.key || colours !== this.colours) {
      [this.key, this.colours] = [key, colours];
      this.drawings += 1;
      if (layer.width !== width) layer.width = width;
      if (layer.height !== height) layer.height = height;
      this.context.clearRect(0, 0, width, height);
      renderer.draw(this.context, points, colours, { matrix, size, least: ratio });
    }
    context.drawImage(layer, 0, 0);
  }
}
