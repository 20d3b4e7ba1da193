/** The curve of the speed between a keyframe and the next: time to the right, progress upwards. */

import { follow } from "../page/gesture.mjs";
import { HANDLES } from "./curves.mjs";

const SVG = "http://www.w3.org/2000/svg";
const SIDE = 64;
const EDGE = 6;
const NUDGE = 0.05;
/** Handles that are this close to those of a named timing are meant to be these. */
const SAME = 0.02;

const shape = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
};

/** What a keyframe holds of a curve: a name if there is one for it. */
export function timingOf(handles) {
  const named = Object.entries(HANDLES).find(([, known]) =>
    known.every((value, i) => Math.abs(value - handles[i]) < SAME),
  );
  return named ? { easing: named[0], speed: undefined } : { speed: handles };
}

export class SpeedBox {
  /**
   * @param {import("./model.mjs").TrajectoryModel} model
   * @param {(key: string, values?: object) => string} text
   */
  constructor(model, text) {
    this.model = model;
    this.text = text;
    const size = SIDE + 2 * EDGE;
    this.element = shape("svg", {
      class: "mirage-speed", viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": text("speedCurve"),
    });
    this.curve = shape("path", { class: "mirage-speed-curve" });
    this.arms = shape("path", { class: "mirage-speed-arms" });
    this.dots = [0, 1].map((number) => this.#dot(number));
    const ground = shape("rect", { x: EDGE, y: EDGE, width: SIDE, height: SIDE });
    this.element.append(ground, this.arms, this.curve, ...this.dots);
  }

  get #key() {
    return this.model.keyframes[this.model.selected];
  }

  get #handles() {
    const key = this.#key;
    return key?.speed ?? HANDLES[key?.easing ?? "smooth"];
  }

  #dot(number) {
    const dot = shape("circle", {
      r: 5, tabindex: 0, role: "slider", "aria-label": this.text(`speedHandle_${number}`),
      "aria-valuemin": 0, "aria-valuemax": 1,
    });
    dot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.#key || !this.model.editable) return;
      event.stopPropagation();
      event.preventDefault();
      dot.focus({ preventScroll: true });
      const { end, cancel } = this.model.begin();
      const move = (at) => this.#set(number, this.#pointAt(at));
      follow(dot, event, { move, end, cancel });
    });
    dot.addEventListener("keydown", (event) => {
      const step = {
        ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
      }[event.key];
      if (!step || !this.#key || !this.model.editable) return;
      event.preventDefault();
      event.stopPropagation();
      const from = this.#handles.slice(2 * number, 2 * number + 2);
      this.#set(number, from.map((value, i) => value + NUDGE * step[i]), false);
    });
    return dot;
  }

  #pointAt(event) {
    const box = this.element.getBoundingClientRect();
    const size = SIDE + 2 * EDGE;
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [(x * size - EDGE) / SIDE, 1 - (y * size - EDGE) / SIDE];
  }

  #set(number, point, named = true) {
    const handles = [...this.#handles];
    point.forEach((value, i) => (handles[2 * number + i] = Math.min(1, Math.max(0, value))));
    const timing = named ? timingOf(handles) : { speed: handles };
    this.model.edit(() => this.model.chosen.forEach((key) => Object.assign(key, structuredClone(timing))));
  }

  /** Show the timing of the selected keyframe. */
  update() {
    const { model } = this;
    const off = !this.#key || !model.editable || model.selected === model.keyframes.length - 1;
    this.element.classList.toggle("mirage-off", off);
    const [x1, y1, x2, y2] = this.#handles;
    const at = (x, y) => [EDGE + x * SIDE, EDGE + (1 - y) * SIDE];
    const [from, first, second, to] = [at(0, 0), at(x1, y1), at(x2, y2), at(1, 1)];
    this.curve.setAttribute("d", `M${from} C${first} ${second} ${to}`);
    this.arms.setAttribute("d", `M${from} L${first} M${to} L${second}`);
    [first, second].forEach(([x, y], number) => {
      const dot = this.dots[number];
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
      const [time, progress] = [[x1, y1], [x2, y2]][number];
      dot.setAttribute("aria-valuenow", time.toFixed(2));
      dot.setAttribute("aria-valuetext", `${time.toFixed(2)}, ${progress.toFixed(2)}`);
    });
  }
}
