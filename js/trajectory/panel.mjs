/** The row of the shot: speed curve, lens, shake, cameras, takes, aids. */

import { element, iconButton, select } from "../page/dom.mjs";
import { TANGENTS } from "./curves.mjs";
import { fieldOfView, millimetres } from "./director.mjs";
import { ASPECTS } from "./guides.mjs";
import { freeName } from "./shot.mjs";
import { SpeedBox } from "./speed.mjs";

/** Numbers of the shake: least, most, step, and stored units in a shown one. */
const SHAKE = {
  degrees: [0, 45, 0.1, 1], distance: [0, 100, 0.1, 0.01], hz: [0.01, 60, 0.1, 1], seed: [0, 2 ** 32 - 1, 1, 1],
};
const AIDS = { guides: "guidesHint", ghost: "ghostHint", snap: "snapHint" };

export class Panel {
  /**
   * @param {import("./director.mjs").Director} director
   * @param {(key: string, values?: object) => string} text
   * @param {() => void} record makes a film of the shot
   */
  constructor(director, text, record) {
    Object.assign(this, { director, text, model: director.model });
    this.speed = new SpeedBox(this.model, text);
    this.tangent = select(
      text("tangent"), TANGENTS.map((name) => [name, text(`tangent_${name}`)]),
      (name) => this.model.edit(() => this.model.chosen.forEach((key) => (key.tangent = name))),
    );
    this.element = element(
      "div", { class: "mirage-panel", role: "group", "aria-label": text("shot"), hidden: true },
      this.speed.element, this.#lens(), this.#shake(), this.#cameras(), this.#aids(record),
    );
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
  }

  #number(label, [min, max, step], onchange) {
    const input = element("input", {
      type: "number", class: "mirage-number", "aria-label": label, title: label, min, max, step,
    });
    input.addEventListener("change", () => {
      const value = input.valueAsNumber;
      if (Number.isFinite(value)) onchange(Math.min(max, Math.max(min, value)));
    });
    return input;
  }

  #button(key, hint, onclick) {
    const { text } = this;
    return element("button", {
      type: "button", class: "mirage-text-button", text: text(key), "aria-label": text(key),
      title: text(hint), onclick,
    });
  }

  #lens() {
    const { text, director } = this;
    const limits = [millimetres(170), millimetres(1), 0.1];
    this.mm = this.#number(text("focalLength"), limits, (mm) => director.setFov(fieldOfView(mm)));
    this.degrees = element("span", { class: "mirage-clock" });
    this.subject = this.#button("subject", "subjectHint", () => director.toggleSubject());
    this.pick = this.#button("pick", "pickHint", () => director.pick());
    return element(
      "div", { class: "mirage-group" }, this.tangent, this.mm, this.degrees, this.subject, this.pick,
    );
  }

  #shake() {
    const { text, director } = this;
    this.shake = Object.fromEntries(
      Object.entries(SHAKE).map(([name, limits]) => [
        name, this.#number(text(`shake_${name}`), limits, (value) => {
          director.setShake({ [name]: name === "seed" ? Math.round(value) : value * limits[3] });
        }),
      ]),
    );
    return element("div", { class: "mirage-group" }, text("shake"), ...Object.values(this.shake));
  }

  #cameras() {
    const { text, director } = this;
    this.camera = select(text("camera"), [], (index) => director.choose(Number(index)));
    this.addCamera = iconButton("add", text("addCamera"), () => director.addCamera());
    this.removeCamera = iconButton("remove", text("removeCamera"), () => director.removeCamera());
    this.cut = this.#button("cut", "cutHint", () => director.cut());
    this.take = select(text("take"), [], (name) => director.useTake(name));
    this.removeTake = iconButton("remove", text("removeTake"), () => director.removeTake());
    this.beside = select(text("beside"), [], (name) => director.comparison.choose(name));
    return element(
      "div", { class: "mirage-group" },
      this.camera, this.addCamera, this.removeCamera, this.cut, this.take, this.removeTake, this.beside,
    );
  }

  #aids(record) {
    const { text, director } = this;
    this.aids = Object.fromEntries(
      Object.entries(AIDS).map(([name, hint]) => [
        name, this.#button(name, hint, () => director.toggle(name)),
      ]),
    );
    const aspects = Object.keys(ASPECTS).map((name) => [name, name]);
    this.aspect = select(text("aspect"), [["", text("aspect_picture")], ...aspects], (name) => director.mask(name));
    this.output = element("button", {
      type: "button", class: "mirage-text-button", onclick: () => director.setOutput(),
      text: text("output"), "aria-label": text("outputNone"),
    });
    this.record = iconButton("record", text("playblast"), record);
    return element(
      "div", { class: "mirage-group" }, ...Object.values(this.aids), this.aspect, this.output, this.record,
    );
  }

  /** Show the shot as it is now. */
  update() {
    if (this.element.hidden) return;
    const { model, director, text } = this;
    const { shot } = model;
    const key = model.keyframes[model.selected];
    this.speed.update();
    this.tangent.value = key?.tangent ?? "monotone";
    this.tangent.disabled = !key || !model.editable;
    const { fov } = director;
    show(this.mm, millimetres(fov).toFixed(1));
    this.degrees.textContent = text("degrees", { degrees: fov.toFixed(1) });
    this.subject.setAttribute("aria-pressed", String(Boolean(shot.subject)));
    this.pick.setAttribute("aria-pressed", String(director.picking));
    for (const [name, input] of Object.entries(this.shake)) {
      show(input, String(Number((director.shake[name] / SHAKE[name][3]).toPrecision(6))));
    }
    offer(this.camera, shot.cameras.map(({ name }, i) => [String(i), text("cameraName", { name })]));
    this.camera.value = String(model.camera);
    const names = [shot.take, ...shot.takes.map(({ name }) => name)].sort();
    const free = freeName(names);
    const takes = names.map((name) => [name, text("takeName", { name })]);
    offer(this.take, free ? [...takes, [free, text("newTake", { name: free })]] : takes);
    this.take.value = shot.take;
    this.#updateBeside();
    this.#updateOutput();
    this.removeCamera.disabled = !model.editable || !model.camera;
    this.removeTake.disabled = !model.editable || !shot.takes.length;
    this.cut.disabled = !model.editable || shot.cameras.length < 2 || model.frame < 1;
    this.cut.setAttribute("aria-pressed", String(shot.cuts.some(({ frame }) => frame === model.frame)));
    for (const [name, button] of Object.entries(this.aids)) {
      button.setAttribute("aria-pressed", String(director.aids[name]));
    }
    const inputs = [this.mm, this.subject, this.pick, ...Object.values(this.shake), this.addCamera, this.take];
    for (const input of inputs) input.disabled = !model.editable;
  }

  #updateBeside() {
    const { director, text } = this;
    const names = this.model.shot.takes.map(({ name }) => name).sort();
    offer(this.beside, [["", text("besideNone")], ...names.map((name) => [name, text("besideTake", { name })])]);
    this.beside.value = director.comparison.name ?? "";
    this.beside.disabled = !names.length;
  }

  /** Offer the size of the masked aspect ratio. */
  #updateOutput() {
    const { director, text, output } = this;
    const { aids, output: found } = director;
    this.aspect.value = aids.aspect;
    const [width, height] = found?.size ?? [];
    const label = found ? text("outputSize", { width, height }) : text("output");
    const hint = found ? text("outputHint", { width, height, node: found.node.title }) : text("outputNone");
    if (output.textContent !== label) output.textContent = label;
    output.title = hint;
    output.setAttribute("aria-label", hint);
    output.disabled = !found || found.sides.every(({ value }, i) => value === found.size[i]);
  }
}

/** Show a number, unless it is being typed. */
export function show(input, value) {
  if (document.activeElement !== input && input.value !== value) input.value = value;
}

/** Offer other options, if they are others. */
export function offer(list, options) {
  const known = [...list.options].map((option) => [option.value, option.text]);
  if (JSON.stringify(known) === JSON.stringify(options)) return;
  list.replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
}
