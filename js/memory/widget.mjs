/** The widget on Mirage Cache Info: the points of a memory, and how it grew. */

import { Chart } from "./chart.mjs";
import { Choice, element, iconButton, select } from "../page/dom.mjs";
import { fedByRollout, followNode, lastReport, recall, remember, settleIn, useStyle } from "../page/bridge.mjs";
import { sphereAround } from "../viewer/paint.mjs";
import { Ensemble } from "../viewer/ensemble.mjs";
import { extentOfPoints, loadPoints, noPoints } from "../viewer/points.mjs";
import { Viewport } from "../viewer/viewport.mjs";

const COLOURINGS = ["colour", "feature", "age"];

/** Create the widget in a container; the parameters are those of the trajectory widget. */
export function attach(container, node, bridge, text) {
  const content = element("div", { class: "mirage-widget" });
  const widget = new MemoryWidget(content, node, bridge, text);
  widget.leave = settleIn(node, bridge, container, content);
  container.mirage = widget;
  return widget;
}

class MemoryWidget {
  constructor(container, node, bridge, text) {
    Object.assign(this, { container, node, bridge, text });
    useStyle();
    this.ensemble = new Ensemble();
    this.points = noPoints();
    this.actorsShown = true;
    /** The points are new: fit the view to them when they are loaded. */
    this.unseen = false;
    this.colouring = "colour";
    this.viewport = new Viewport({
      // Points are all there is to see.
      paint: () => {},
      onView: () => this.views.show(this.viewport.controls.view),
    });
    this.chart = new Chart(text);
    this.#build();
    this.unfollow = followNode(node, bridge, {
      onOutput: (output) => this.show(output?.mirage_memory?.[0]),
      onChunk: (news) => node.graph && fedByRollout(node) && this.show(news),
      onFinished: (prompt) => this.view ?? this.#recover(prompt),
      onRemoved: () => this.dispose(),
    });
    this.views.show("orbit");
    const { view } = recall(node);
    if (view) this.show(view);
    else this.#recover();
  }

  #build() {
    const { text } = this;
    this.views = new Choice(
      text("view"), ["orbit", "top", "side"].map((v) => [v, text(`view_${v}`)]),
      (view) => this.viewport.setView(view),
    );
    this.colours = select(
      text("colouring"),
      [["colour", text("trueColours")], ["feature", text("tokenColours")], ["age", text("ageColours")]],
      (choice) => this.#recolour(choice),
    );
    this.actorsButton = iconButton(
      "actors", text("showActors"), () => this.#showActors(!this.actorsShown), { hidden: true },
    );
    const fit = iconButton("fit", text("fit"), () => this.#fit());
    const bar = element(
      "div", { class: "mirage-bar", role: "toolbar", "aria-label": text("tools") },
      this.views.element, this.colours, element("span", { class: "mirage-space" }), this.actorsButton, fit,
    );
    this.note = element("div", { class: "mirage-note", role: "status", text: text("noMemory") });
    this.viewport.canvas.setAttribute("aria-label", text("memoryViewport"));
    const stage = element("div", { class: "mirage-stage" }, this.viewport.canvas, this.note);
    this.facts = element("dl", { class: "mirage-facts" });
    this.container.append(bar, stage, this.facts, this.chart.canvas);
  }

  /** Show what the node or a running rollout reported. */
  async show(view) {
    if (!view || typeof view !== "object") return;
    this.unseen ||= !this.view;
    this.view = view;
    remember(this.node, "view", view);
    this.#describe();
    // Temporary files go when the server restarts: the next run writes them again.
    const found = await loadPoints(view, (path) => this.bridge.api.fetchApi(path)).catch(() => null);
    // A newer report has arrived meanwhile.
    if (this.view !== view) return;
    if (found) this.ensemble = new Ensemble(found.still, found.moving);
    const note = found ? "emptyMemory" : "noMemory";
    this.note.textContent = found && this.ensemble.shown.count ? "" : this.text(note);
    this.actorsButton.hidden = !this.ensemble.moving.size;
    this.#showActors(this.actorsShown);
    if (this.unseen) this.#fit();
    this.unseen = false;
  }

  #describe() {
    const { view, text } = this;
    const number = (value) => (Number.isFinite(value) ? value.toLocaleString() : "–");
    const mebibytes = Number.isFinite(view.bytes) ? (view.bytes / 2 ** 20).toFixed(1) : "–";
    const latest = Array.isArray(view.statistics) ? view.statistics.at(-1) : undefined;
    const facts = [
      ["points", number(view.points)],
      ["held", `${mebibytes} MiB`],
      ["blocks", number(view.blocks?.length)],
      ["codec", String(view.codec ?? "–")],
    ];
    const cast = new Set((Array.isArray(view.actors) ? view.actors : []).map((block) => block?.actor));
    if (cast.size) facts.push(["actors", number(cast.size)]);
    if (latest) {
      facts.push(["chunk", `${number(view.done)} / ${number(view.chunks)}`]);
      facts.push(["unknown", `${number(Math.round(1000 * latest.hole_rate) / 10)} %`]);
      facts.push(["latentMean", number(Math.round(1000 * latest.latent_mean) / 1000)]);
      facts.push(["latentSpread", number(Math.round(1000 * latest.latent_std) / 1000)]);
    }
    this.facts.replaceChildren(
      ...facts.map(([name, value]) =>
        element("div", {}, element("dt", { text: text(`fact_${name}`) }), element("dd", { text: value })),
      ),
    );
    this.chart.show(view);
  }

  #showActors(shown) {
    this.actorsShown = shown;
    this.actorsButton.setAttribute("aria-pressed", String(shown));
    this.points = shown ? this.ensemble.shown : this.ensemble.still;
    this.#recolour(this.colouring);
  }

  #recolour(choice) {
    this.colouring = COLOURINGS.includes(choice) ? choice : "colour";
    if (this.colouring === "age") this.points.age ??= ageColours(this.points);
    this.viewport.points = this.points;
    this.viewport.colours = this.points[this.colouring];
    this.viewport.invalidate();
  }

  #fit() {
    const { controls } = this.viewport;
    const { low, high } = extentOfPoints(this.points) ?? { low: [-1, -1, 0], high: [1, 1, 2] };
    const { centre, radius } = sphereAround(low, high);
    controls.frame(centre, radius);
    this.viewport.invalidate();
  }

  /** Ask the server what this node reported before the page was opened. */
  async #recover(finished) {
    const view = await lastReport(this.node, this.bridge, "mirage_memory", finished).catch(() => null);
    if (view && !this.view) this.show(view);
  }

  dispose() {
    this.viewport.dispose();
    this.chart.dispose();
    this.unfollow();
    this.leave();
  }
}

/** From blue for what was seen first to yellow for what was seen last. */
function ageColours({ count, frame }) {
  const colours = new Uint8Array(4 * count);
  const last = frame.reduce((most, value) => Math.max(most, value), 1);
  for (let i = 0; i < count; i++) {
    const t = frame[i] / last;
    colours.set([60 + 195 * t, 90 + 120 * t, 220 - 170 * t, 255], 4 * i);
  }
  return colours;
}
