/**
 * Mirage in ComfyUI's interface: a container for a widget on two nodes.
 *
 * ComfyUI imports every .js file below this folder when the page opens. What draws is loaded when
 * the first node needs it.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** By node class: the module of the widget, its minimum height, and the size of a new node. */
const WIDGETS = {
  MirageTrajectory: { module: "./trajectory/widget.mjs", minHeight: 400, size: [480, 760] },
  MirageCacheInfo: { module: "./memory/widget.mjs", minHeight: 320, size: [420, 420] },
};

/** Remember the graph for undo, after an edit that ComfyUI did not make itself. */
function capture() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.();
}

/** @type {{app: object, api: object, capture: () => void}} */
const bridge = { app, api, capture };

async function fill(container, node, path) {
  let gone = false;
  const { onRemoved } = node;
  node.onRemoved = function (...values) {
    gone = true;
    return onRemoved?.apply(this, values);
  };
  const [{ attach }, { loadTexts }] = await Promise.all([import(path), import("./page/text.mjs")]);
  const text = await loadTexts(bridge);
  // Loading may create a node and remove it before the modules are loaded.
  if (!gone) attach(container, node, bridge, text);
}

app.registerExtension({
  name: "Mirage",

  async beforeConfigureGraph(workflow) {
    const { markOpened } = await import("./page/bridge.mjs");
    markOpened(workflow, bridge);
  },

  nodeCreated(node) {
    const wanted = WIDGETS[node.comfyClass];
    if (!wanted || !node.addDOMWidget) return;
    const container = document.createElement("div");
    container.className = "mirage-container";
    container.style.minHeight = `${wanted.minHeight}px`;
    const widget = node.addDOMWidget("mirage_view", "MIRAGE_VIEW", container, {
      serialize: false,
      hideOnZoom: false,
      // ComfyUI draws what its panel of parameters shows there, and no longer on the node.
      hideInPanel: true,
      getMinHeight: () => wanted.minHeight,
    });
    // Everything it does is in the node's other inputs: no value of its own is saved or queued.
    widget.serialize = false;
    node.setSize([Math.max(node.size[0], wanted.size[0]), Math.max(node.size[1], wanted.size[1])]);
    fill(container, node, wanted.module).catch((error) => console.error("Mirage:", error));
  },
});
