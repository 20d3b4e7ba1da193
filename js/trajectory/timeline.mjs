/** The shot in time: coverage, keyframes, and the frame that is shown. */

import { element } from "../page/dom.mjs";
import { follow } from "../page/gesture.mjs";
import { STRIDE } from "../viewer/scene.mjs";

/** Keyframe buttons at most; more could not be told apart. */
const MAX_BUTTONS = 120;

export class Timeline {
  /**
   * @param {import("./model.mjs").TrajectoryModel} model
   * @param {(key: string, values?: object) => string} text
   */
  constructor(model, text) {
    this.model = model;
    this.text = text;
    /** @type {import("../viewer/zbuffer.mjs").Coverage | null} */
    this.coverage = null;
    /** Whose keyframes are shown and edited: has what the model has for them. */
    this.keyed = () => model;
    /** @type {(frame: number) => number} where a dragged keyframe may go */
    this.snap = (frame) => frame;
    this.strip = element("canvas", { class: "mirage-strip", role: "img" });
    this.playhead = element("div", { class: "mirage-playhead", "aria-hidden": "true" });
    this.keys = element("div", { class: "mirage-keys" });
    this.track = element("div", {
      class: "mirage-track", role: "slider", tabindex: "0", "aria-label": text("timeline"),
      "aria-keyshortcuts": "ArrowLeft ArrowRight Home End K Delete", title: text("timelineHint"),
    });
    this.track.append(this.playhead);
    this.body = element("div", { class: "mirage-lane" }, this.track, this.keys);
    this.element = element(
      "div", { class: "mirage-timeline", role: "group", "aria-label": text("timeline") },
      this.strip, this.body,
    );
    this.track.addEventListener("pointerdown", (event) => this.#scrub(event, this.track));
    this.strip.addEventListener("pointerdown", (event) => this.#scrub(event, this.strip));
    this.track.addEventListener("keydown", (event) => this.#key(event));
    this.sizes = new ResizeObserver(() => this.paint());
    this.sizes.observe(this.strip);
  }

  get last() {
    return Math.max(1, this.model.path.length - 1);
  }

  #frameAt(event) {
    const box = this.track.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * this.last;
  }

  #scrub(event, target) {
    if (event.button !== 0) return;
    event.stopPropagation();
    event.preventDefault();
    this.track.focus({ preventScroll: true });
    const before = this.model.frame;
    const move = (moved) => this.model.scrub(this.#frameAt(moved));
    move(event);
    follow(target, event, { move, cancel: () => this.model.scrub(before) });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { model } = this;
    const step = event.shiftKey ? STRIDE : 1;
    const goes = {
      ArrowLeft: model.frame - step, ArrowRight: model.frame + step, Home: 0, End: this.last,
      PageUp: model.frame + 4 * STRIDE, PageDown: model.frame - 4 * STRIDE,
    };
    if (event.key in goes) model.scrub(goes[event.key]);
    else if (event.key === "k" || event.key === "K" || event.key === "Enter") this.keyed().addKeyframe();
    else if (event.key === "Delete" || event.key === "Backspace") {
      const keyed = this.keyed();
      const here = keyed.keyframes.findIndex((key) => key.frame === model.frame);
      if (here >= 0) keyed.removeKeyframe(here);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Show the model as it is now. */
  update() {
    const { text } = this;
    const keyed = this.keyed();
    const shown = keyed.keyframes.slice(0, MAX_BUTTONS);
    this.keys.classList.toggle("mirage-actor-keys", keyed !== this.model);
    while (this.keys.childElementCount > shown.length) this.keys.lastChild.remove();
    while (this.keys.childElementCount < shown.length) this.keys.append(this.#keyButton());
    shown.forEach((key, index) => {
      const button = this.keys.children[index];
      button.style.left = `${(100 * key.frame) / this.last}%`;
      const label = text("keyframeAt", { number: index + 1, frame: key.frame });
      button.setAttribute("aria-label", label);
      button.title = label;
    });
    this.track.setAttribute("aria-valuemin", "0");
    this.track.setAttribute("aria-valuemax", String(this.last));
    this.scrubbed();
    this.paint();
  }

  /** Show another frame. */
  scrubbed() {
    const { model, text } = this;
    const keyed = this.keyed();
    this.playhead.style.left = `${(100 * model.frame) / this.last}%`;
    this.track.setAttribute("aria-valuenow", String(model.frame));
    const [known, soft] = this.knownAt(model.frame);
    const shares = { known: Math.round(100 * known), soft: Math.round(100 * soft) };
    const values = { frame: model.frame, last: this.last, ...shares };
    const label = text(Number.isNaN(known) ? "frameOf" : "frameKnown", values);
    this.track.setAttribute("aria-valuetext", label);
    [...this.keys.children].forEach((button, index) => {
      const chosen = index === keyed.selected || keyed.beside.has(keyed.keyframes[index]);
      button.setAttribute("aria-pressed", String(chosen));
    });
  }

  #keyButton() {
    const button = element("button", { type: "button", class: "mirage-key" });
    const index = () => [...this.keys.children].indexOf(button);
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation();
      button.focus({ preventScroll: true });
      const keyed = this.keyed();
      keyed.select(index(), event.shiftKey);
      const from = this.model.frame;
      const gesture = keyed.begin();
      const finish = (how) => {
        how();
        this.#focusSelected();
      };
      follow(button, event, {
        move: (at) => keyed.retime(keyed.selected, this.snap(this.#frameAt(at)), from),
        end: () => finish(gesture.end),
        cancel: () => finish(gesture.cancel),
      });
    });
    // A click with the keyboard; one that ends a drag is on a button that may be another's by then.
    button.addEventListener("click", (event) => event.detail || this.keyed().select(index()));
    button.addEventListener("keydown", (event) => this.#retimeKey(event, index()));
    return button;
  }

  #retimeKey(event, index) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const keyed = this.keyed();
    if (step) {
      const { frame } = keyed.keyframes[index];
      keyed.retime(index, frame + step * (event.shiftKey ? STRIDE : 1));
      this.#focusSelected();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      keyed.removeKeyframe(index);
      this.#focusSelected();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #focusSelected() {
    (this.keys.children[this.keyed().selected] ?? this.track).focus({ preventScroll: true });
  }

  /** Shares of cells known at a frame, and of those known but soft; NaN while they are not. */
  knownAt(frame) {
    const { values = [], soft = [], frames = [] } = this.coverage ?? {};
    let best = 0;
    for (let i = 1; i < frames.length; i++) {
      if (Math.abs(frames[i] - frame) < Math.abs(frames[best] - frame)) best = i;
    }
    return [values[best] ?? NaN, soft[best] ?? NaN];
  }

  /** Draw the strip: of every latent frame what was seen, seen but soft, and never seen. */
  paint() {
    const { strip, coverage } = this;
    const box = strip.getBoundingClientRect();
    if (!box.width) return;
    const ratio = devicePixelRatio || 1;
    strip.width = Math.round(box.width * ratio);
    strip.height = Math.round(box.height * ratio);
    const context = strip.getContext("2d");
    const style = getComputedStyle(strip);
    const [known, soft, hole] = ["known", "soft", "hole"].map((n) => style.getPropertyValue(`--mirage-${n}`));
    const values = coverage?.values ?? [];
    const { frames = [], seen = [], soft: softs = [] } = coverage ?? {};
    const pixel = (frame) => (frame / this.last) * strip.width;
    let [sum, softSum, neverSum, count] = [0, 0, 0, 0];
    values.forEach((value, i) => {
      if (Number.isNaN(value)) return;
      sum += value;
      softSum += softs[i];
      neverSum += 1 - seen[i];
      count += 1;
      const left = i ? pixel((frames[i - 1] + frames[i]) / 2) : 0;
      const right = i + 1 < frames.length ? pixel((frames[i] + frames[i + 1]) / 2) : strip.width;
      const [width, height] = [right - left + 0.5, strip.height];
      const [never, sharp] = [(1 - seen[i]) * height, (seen[i] - softs[i]) * height];
      context.fillStyle = hole;
      context.fillRect(left, 0, width, never);
      context.fillStyle = soft;
      context.fillRect(left, never, width, softs[i] * height);
      context.fillStyle = known;
      context.fillRect(left, height - sharp, width, sharp);
    });
    const [mean, meanSoft, never] = [sum, softSum, neverSum].map((total) => Math.round((100 * total) / Math.max(1, count)));
    const label = count ? this.text("coverage", { mean, soft: meanSoft, never }) : this.text("noCoverage");
    strip.setAttribute("aria-label", label);
    strip.title = label;
  }

  dispose() {
    this.sizes.disconnect();
  }
}
