/** The widget on Mirage Trajectory: the scene, the path, the timeline and the lens. */

import { ActorsMode } from "./actorsmode.mjs";
import { Choice, element, iconButton, select } from "../page/dom.mjs";
import { Editor } from "./editor.mjs";
import { EASINGS } from "./keyframes.mjs";
import { Lens } from "./lens.mjs";
import { lookAgain, lookOf } from "./look.mjs";
import { setTiming } from "./curves.mjs";
import { TrajectoryModel } from "./model.mjs";
import { Nearness } from "./nearness.mjs";
import { noteOf } from "./note.mjs";
import { Panel } from "./panel.mjs";
import { Playblast } from "./playblast.mjs";
import { Player } from "./player.mjs";
import { extentOf, themeOf } from "../viewer/paint.mjs";
import { Ensemble } from "../viewer/ensemble.mjs";
import { keepPatches, loadPoints, noPoints } from "../viewer/points.mjs";
import { onGraphics } from "../viewer/renderer.mjs";
import { offeredPresets } from "./presets.mjs";
import { Coverage } from "../viewer/zbuffer.mjs";
import { cameraAt } from "../viewer/scene.mjs";
import { followNode, lastReport, recall, remember, settleIn, useStyle } from "../page/bridge.mjs";
import { Timeline } from "./timeline.mjs";
import { DotLayer, Viewport } from "../viewer/viewport.mjs";
import { OrbitControls, VIEWS } from "../viewer/controls.mjs";
import { WalkMode } from "./walkmode.mjs";

/**
 * Create the widget in a container.
 *
 * @param {HTMLElement} container
 * @param {object} node
 * @param {{app: object, api: object, capture: () => void}} bridge
 * @param {(key: string, values?: object) => string} text
 */
export function attach(container, node, bridge, text) {
  const content = element("div", { class: "mirage-widget" });
  const widget = new TrajectoryWidget(content, node, bridge, text);
  widget.leave = settleIn(node, bridge, container, content);
  container.mirage = widget;
  return widget;
}

/** Texts of what the points show: colours with and without marks, components of the tokens. */
const COLOURINGS = { colour: "trueColours", plain: "plainColours", feature: "tokenColours" };

class TrajectoryWidget {
  constructor(container, node, bridge, text) {
    Object.assign(this, { container, node, bridge, text });
    useStyle();
    this.model = new TrajectoryModel(node, bridge);
    this.editor = new Editor(this.model);
    this.ensemble = new Ensemble();
    this.points = noPoints();
    this.colouring = "colour";
    /** The scene is new: fit the view to it when its points are loaded. */
    this.unseen = false;
    this.lensShown = true;
    this.nearness = new Nearness(() => this.#updateNote());
    this.viewport = new Viewport({
      aim: (controls) => this.#aim(controls),
      paint: (context, controls, ratio) => this.#paint(context, controls, ratio),
      grab: (event, x, y) => this.walk.grab()
        ?? this.hand.grab(event, x, y, this.viewport.controls, this.viewport.ratio),
      onView: () => this.#viewChanged(),
      shot: () => this.#shot(),
      beside: () => this.#shot(cameraAt(this.comparison.path, this.model.frame)),
    });
    /** The view from outside that the shot's camera takes turns with. */
    this.outsideView = "orbit";
    this.outside = new OrbitControls();
    this.dots = new DotLayer();
    this.comparison.begins = () => this.viewport.setView("camera");
    this.lens = new Lens(text, (context, ratio) => this.#overview(context, ratio));
    this.timeline = new Timeline(this.model, text);
    this.coverage = new Coverage((coverage) => {
      this.timeline.coverage = coverage;
      this.timeline.paint();
      this.timeline.scrubbed();
    });
    this.walk = new WalkMode(this);
    this.directing = new ActorsMode(this);
    this.playblast = new Playblast(this);
    this.panel = new Panel(this.editor.director, text, () => this.playblast.toggle());
    this.#build();
    this.editor.listen(this.viewport);
    this.timeline.keyed = () => this.directing.keyed;
    this.timeline.snap = (frame) => this.editor.director.snapFrame(frame);
    this.model.addEventListener("change", () => this.#changed());
    this.model.addEventListener("scrub", () => this.#scrubbed());
    this.container.addEventListener("keydown", (event) => this.#key(event));
    this.unfollow = followNode(node, bridge, {
      onInput: () => !this.model.writing && this.model.read(),
      onOutput: (output) => this.show(output?.mirage_view?.[0]),
      onChunk: (news) => this.#onChunk(news),
      onFinished: (prompt) => this.view ?? this.#recover(prompt),
      onRemoved: () => this.dispose(),
    });
    this.ungraphics = onGraphics(() => this.#scrubbed());
    this.#restore();
    this.model.read();
  }

  #build() {
    const { text } = this;
    const presets = [["", text("edited")], ...offeredPresets(this.node).map((name) => [name, name])];
    this.preset = select(text("preset"), presets, (name) => {
      if (name) this.model.usePreset(name);
    });
    this.views = new Choice(text("view"), VIEWS.map((v) => [v, text(`view_${v}`)]), (view) => {
      this.viewport.setView(view);
      if (this.viewport.controls.orthographic) this.fit();
    });
    this.colours = select(
      text("colouring"), ["colour", "plain", "feature"].map((name) => [name, text(COLOURINGS[name])]),
      (choice) => this.#recolour(choice),
    );
    this.drawButton = iconButton("draw", text("draw"), () => this.#draw());
    this.walkButton = iconButton("walk", text("walk"), () => this.walk.toggle());
    this.lensButton = iconButton("lens", text("lens"), () => this.#toggleLens());
    const top = element(
      "div", { class: "mirage-bar", role: "toolbar", "aria-label": text("tools") },
      this.preset, this.views.element, this.colours, this.walk.choice,
      element("span", { class: "mirage-space" }),
      element(
        "div", { class: "mirage-group" }, this.drawButton, this.walkButton, this.lensButton,
        iconButton("fit", text("fit"), () => this.fit()),
      ),
    );
    this.note = element("div", { class: "mirage-note", role: "status" });
    const stage = element(
      "div", { class: "mirage-stage" }, this.viewport.canvas, this.lens.element, this.note,
    );
    this.viewport.canvas.setAttribute("aria-label", text("viewport"));
    this.container.append(top, stage, this.timeline.element, this.#transport(), this.directing.panel, this.panel.element);
  }

  #transport() {
    const { text, model } = this;
    const play = iconButton("play", text("play"), () => this.player.toggle());
    this.player = new Player(model, play, text);
    this.addButton = iconButton("add", text("addKeyframe"), () => this.directing.keyed.addKeyframe());
    this.removeButton = iconButton("remove", text("removeKeyframe"), () => this.directing.keyed.removeKeyframe());
    this.ease = select(
      text("easing"), [...Object.keys(EASINGS), "custom"].map((name) => [name, text(`easing_${name}`)]),
      (name) => model.edit(() => model.chosen.forEach((key) => setTiming(key, name))),
    );
    this.shotButton = iconButton("shot", text("shot"), () => this.#togglePanel());
    this.clock = element("span", { class: "mirage-clock" });
    return element(
      "div", { class: "mirage-bar", role: "toolbar", "aria-label": text("transport") },
      iconButton("start", text("toStart"), () => model.scrub(0)),
      play, this.clock, element("span", { class: "mirage-space" }),
      this.addButton, this.removeButton, this.ease, this.directing.button, this.shotButton,
    );
  }

  /** Show what the node reported: intrinsics, distance, and files of points. */
  async show(view, { fit = true } = {}) {
    if (!view || typeof view !== "object") return;
    this.unseen ||= fit && !this.model.scene.known;
    this.view = view;
    remember(this.node, "view", view);
    this.model.describe(view);
    this.directing.actors.describe(view);
    // Temporary files go when the server restarts: the next run writes them again.
    const found = await loadPoints(view, (path) => this.bridge.api.fetchApi(path)).catch(() => null);
    // A newer report has arrived meanwhile.
    if (this.view !== view) return;
    this.ensemble = new Ensemble(found?.still, found?.moving);
    this.#changed();
    if (!this.unseen || this.walk.active) return;
    this.unseen = false;
    this.fit();
    if (this.points.count && this.viewport.controls.view === "orbit" && !this.editor.drawing) this.#swap();
  }

  /** Points with the actors where they are at the shown frame. */
  #placeActors() {
    const points = this.ensemble.at(this.directing.moves);
    if (points !== this.points) for (const one of [this, this.viewport, this.editor]) one.points = points;
    this.viewport.colours = this.colouring === "feature" ? points.feature : points.colour;
  }

  /** A rollout along this node's path has finished a chunk. */
  #onChunk(news) {
    const ours = this.view?.trajectory && this.view.trajectory === news?.trajectory;
    if (ours) this.show({ ...this.view, ...keepPatches(news, this.view) }, { fit: false });
  }

  #recolour(choice) {
    this.colouring = choice;
    this.#scrubbed();
  }

  get near() {
    return this.nearness.found;
  }

  /** Who takes what is under the pointer. */
  get hand() {
    const camera = this.editor.drawing || this.editor.director.picking;
    return this.directing.on && !camera ? this.directing : this.editor;
  }

  get comparison() {
    return this.editor.director.comparison;
  }

  #changed() {
    const { model } = this;
    this.nearness.watch(this.ensemble.still, model.path, model.scene);
    this.coverage.start(this.ensemble.still, model.path, model.scene);
    this.preset.value = model.source === "preset" ? model.move.preset : "";
    for (const button of [this.drawButton, this.walkButton]) button.disabled = !model.editable;
    this.preset.disabled = model.linked;
    this.refresh();
  }

  /** Show keyframes that have changed, of the camera or of an actor. */
  refresh() {
    this.directing.update();
    this.timeline.update();
    this.#scrubbed();
  }

  #scrubbed() {
    const { model } = this;
    const key = model.keyframes[model.selected];
    this.ease.disabled = !key || !model.editable || this.directing.on;
    this.ease.value = key?.speed ? "custom" : (key?.easing ?? "smooth");
    this.panel.update();
    this.directing.update();
    const { keyed } = this.directing;
    this.addButton.disabled = !keyed.editable;
    this.removeButton.disabled = !keyed.editable || !keyed.removable;
    this.clock.textContent = this.text("clock", {
      frame: model.frame, last: model.path.length - 1, seconds: (model.frame / model.fps).toFixed(2),
    });
    this.timeline.scrubbed();
    this.#placeActors();
    this.#updateNote();
    this.#showLens();
    this.viewport.invalidate();
    this.#keep();
  }

  #updateNote() {
    const note = noteOf(this);
    if (this.note.textContent !== note) this.note.textContent = note;
    this.note.classList.toggle("mirage-warning", Boolean(this.model.problem || this.near));
  }

  #showLens() {
    const camera = this.viewport.controls.view === "camera";
    // It would lie over the picture at the right.
    const compared = camera && this.comparison.side !== null && !this.walk.active;
    this.lens.element.classList.toggle("mirage-off", !this.lensShown || compared);
    this.lensButton.setAttribute("aria-pressed", String(this.lensShown));
    if (!this.lensShown) return;
    this.lens.show(this.#shot(), camera);
  }

  /** What the shot's camera looks at, and how. */
  #shot(camera = this.#camera()) {
    const { points, colouring, model, ensemble } = this;
    return { points, colouring, camera, scene: model.scene, still: ensemble.still };
  }

  /** The scene from outside, as it was last looked at. */
  #overview(context, ratio) {
    const { yaw, pitch, target, distance } = this.viewport.controls;
    Object.assign(this.outside, { yaw, pitch, target, distance, view: this.outsideView });
    this.outside.resize(context.canvas.width, context.canvas.height);
    this.dots.draw(context, this.points, this.viewport.colours, this.outside, ratio);
    this.editor.paint(context, this.outside, themeOf(this.container), ratio, !this.points.count);
  }

  /** Let the shot's camera and the view from outside change places. */
  #swap() {
    const { view } = this.viewport.controls;
    this.viewport.setView(view === "camera" ? this.outsideView : "camera");
  }

  #toggleLens() {
    this.lensShown = !this.lensShown;
    this.#showLens();
    this.#keep();
  }

  #togglePanel(shown = this.panel.element.hidden) {
    this.panel.element.hidden = !shown;
    this.shotButton.setAttribute("aria-pressed", String(shown));
    this.panel.update();
    this.#keep();
  }

  #viewChanged() {
    const { view } = this.viewport.controls;
    if (view !== "camera") this.outsideView = view;
    this.views.show(view);
    this.#showLens();
    this.#keep();
  }

  /** Show everything. */
  fit() {
    const { controls } = this.viewport;
    const { centre, radius } = extentOf(this.model.path, this.model.scene, this.points);
    if (controls.view === "camera") controls.view = "orbit";
    controls.frame(centre, radius);
    this.#viewChanged();
    this.viewport.invalidate();
  }

  #draw() {
    this.editor.drawing = !this.editor.drawing;
    if (this.editor.drawing) {
      this.viewport.setView("top");
      this.fit();
    }
    this.#updateNote();
    this.viewport.invalidate();
  }

  #paint(context, controls, ratio) {
    this.drawButton.setAttribute("aria-pressed", String(this.editor.drawing));
    const theme = themeOf(this.container);
    this.editor.paint(context, controls, theme, ratio, !this.points.count);
    this.directing.paint(context, controls, theme, ratio);
    if (controls.view === "camera" && controls.side !== null) {
      this.comparison.paint(context, controls, this.text, theme, ratio);
    }
  }

  #aim(controls) {
    const alone = this.walk.active || this.playblast.recording;
    const side = alone ? null : this.comparison.side;
    Object.assign(controls, { camera: this.#camera(), scene: this.model.scene, side });
  }

  #camera() {
    return this.walk.camera ?? cameraAt(this.model.path, this.model.frame);
  }

  #key(event) {
    if (this.walk.key(event)) return;
    const inView = event.target === this.viewport.canvas;
    if (event.key === " " && (inView || event.target === this.timeline.track)) this.player.toggle();
    else if (event.key === "Escape" && this.editor.drawing) this.#draw();
    else if (event.key === "Escape" && this.editor.director.picking) this.editor.director.pick();
    // Who came with Tab goes on with it.
    else if (event.key === "Tab" && inView && this.viewport.pressed && !event.shiftKey) this.#swap();
    else if (inView && event.key.toLowerCase() === "r" && !event.ctrlKey) this.playblast.toggle();
    else if (!(inView && !this.walk.active && (this.directing.key(event) || this.editor.key(event)))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Undo creates the node again: keep the view state apart from the node's values. */
  #keep() {
    remember(this.node, "look", lookOf(this));
  }

  #restore() {
    const { look, view } = recall(this.node);
    if (look) {
      lookAgain(this, look);
      this.#togglePanel(look.panel);
    } else {
      this.fit();
    }
    this.views.show(this.viewport.controls.view);
    // A report may be known whose points were still on their way when the node was left.
    if (view) this.show(view, { fit: !look || look.unseen });
    else this.#recover();
  }

  /** Ask the server what this node reported before the page was opened. */
  async #recover(finished) {
    const view = await lastReport(this.node, this.bridge, "mirage_view", finished).catch(() => null);
    if (view && !this.view) this.show(view);
  }

  dispose() {
    this.player.pause();
    this.playblast.stop();
    this.nearness.stop();
    this.walk.dispose();
    this.directing.dispose();
    this.coverage.stop();
    this.timeline.dispose();
    this.lens.dispose();
    this.viewport.dispose();
    this.ungraphics();
    this.unfollow();
    this.leave();
  }
}
