/**
 * Mirage in ComfyUI's interface: a place for a widget on two nodes.
 *
 * ComfyUI imports every .js file below this folder when the page opens. What draws is loaded when
 * the first node needs it.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** Node classes, the module that fills their widget, its least height, and a new node's size. */
const WIDGETS = {
  MirageTrajectory: { module: "./trajectory/widget.mjs", least: 400, size: [480, 760] },
  MirageCacheInfo: { module: "./memory/widget.mjs", least: 320, size: [420, 420] },
};

/** Remember the graph for undo, after an edit that ComfyUI did not make itself. */
function capture() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.();
}

/** @type {{app: object, api: object, capture: () => void}} */
const bridge = { app, api, capture };

async function fill(place, node, path) {
  let gone = false;
  const { onRemoved } = node;
  node.onRemoved = function (...values) {
    gone = true;
    return onRemoved?.apply(this, values);
  };
  const [{ attach }, { loadTexts }] = await Promise.all([import(path), import("./page/text.mjs")]);
  const text = await loadTexts(bridge);
  // Loading may make a node and take it out again before this is here.
  if (!gone) attach(place, node, bridge, text);
}

app.registerExtension({
  name: "Mirage",

  nodeCreated(node) {
    const wanted = WIDGETS[node.comfyClass];
    if (!wanted || !node.addDOMWidget) return;
    const place = document.createElement("div");
    place.className = "mirage-place";
    place.style.minHeight = `${wanted.least}px`;
    const widget = node.addDOMWidget("mirage_view", "MIRAGE_VIEW", place, {
      serialize: false,
      hideOnZoom: false,
      // ComfyUI draws what its panel of parameters shows there, and no longer on the node.
      hideInPanel: true,
      getMinHeight: () => wanted.least,
    });
    // Everything it does is in the node's other inputs: no value of its own is saved or queued.
    widget.serialize = false;
    node.setSize([Math.max(node.size[0], wanted.size[0]), Math.max(node.size[1], wanted.size[1])]);
    fill(place, node, wanted.module).catch((error) => console.error("Mirage:", error));
  },
});
