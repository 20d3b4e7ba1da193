/** The nodes that place actors, upstream of a node. */

const PLACES = "MiragePlaceActor";
/** Modes of nodes that do not run: muted, and bypassed. */
const SWITCHED_OFF = [2, 4];
/** Nodes that pass a link on, one after the other, at most. */
const MOST_PASSED = 100;

/** A node's widget by its name. */
export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** The value of a node's widget. */
export const valueOf = (node, name) => widgetOf(node, name)?.value;

/** True when links feed some of a node's widgets. */
export const linked = (node, names) =>
  (node.inputs ?? []).some((input) => names.includes(input.widget?.name) && input.link != null);

/** Frames per second of keyframes in seconds. */
export function fpsOf(node) {
  const fps = Number(valueOf(node, "fps"));
  return fps > 0 ? fps : 24;
}

/** The node at an input of a name, past nodes that only pass it on. */
function nodeAt(node, name) {
  const slot = (node.inputs ?? []).findIndex((input) => input.name === name);
  let found = slot < 0 ? null : node.getInputNode?.(slot);
  for (let steps = 0; found?.inputs?.length === 1 && !found.widgets?.length && steps < MOST_PASSED; steps++) {
    found = found.getInputNode?.(0);
  }
  return found;
}

/** What an actor is called where it was made; null where that cannot be seen. */
export function nameOf(node) {
  const maker = nodeAt(node, "actor");
  const name = maker && !linked(maker, ["name"]) ? valueOf(maker, "name") : null;
  return typeof name === "string" && name ? name : null;
}

/** All nodes upstream that place an actor, the first placed first; those that are switched off do not. */
export function placingNodes(node) {
  const waiting = [node];
  const seen = new Set();
  const found = [];
  while (waiting.length) {
    const next = waiting.shift();
    if (!next || seen.has(next)) continue;
    seen.add(next);
    const places = next.comfyClass === PLACES;
    if (places && !SWITCHED_OFF.includes(next.mode)) found.unshift(next);
    if (next.subgraph) waiting.push(...next.subgraph.nodes);
    // A node that is being made is in no graph yet.
    if (!next.graph) continue;
    (next.inputs ?? []).forEach(({ name }, slot) => {
      // A picture may come from another shot, which has actors of its own.
      if (name === "cache" || (next !== node && !places)) waiting.push(next.getInputNode?.(slot));
    });
  }
  return found;
}
