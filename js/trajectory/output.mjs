/** The size of the picture that a node's shot is made from, and sizes of other shapes. */

import { setWidget } from "../page/bridge.mjs";

/** Both sides of a picture that video models take are multiples of it. */
const MULTIPLE = 32;

const multiple = (side) => Math.max(MULTIPLE, Math.round(side / MULTIPLE) * MULTIPLE);

/** Width and height of about as many pixels, of an aspect ratio, that video models take. */
export function sizeOf(aspect, pixels) {
  return [Math.sqrt(pixels * aspect), Math.sqrt(pixels / aspect)].map(multiple);
}

/** Widgets of a node by the names of both sides, unless a link sets one of them. */
function sidesOf(node) {
  const linked = (node.inputs ?? []).filter((input) => input.link != null).map((input) => input.widget?.name);
  const found = ["width", "height"].map((side) =>
    node.widgets?.find(({ name, value }) => name === side && Number.isFinite(value) && !linked.includes(name)));
  return found.every(Boolean) ? found : null;
}

/**
 * The nearest node upstream that sets a width and a height.
 *
 * @param {object} node
 * @returns {{node: object, sides: object[]} | null} it, and its two widgets
 */
export function sizingNode(node) {
  const waiting = [node];
  const seen = new Set();
  while (waiting.length) {
    const next = waiting.shift();
    if (!next || seen.has(next)) continue;
    seen.add(next);
    const sides = next === node ? null : sidesOf(next);
    if (sides) return { node: next, sides };
    (next.inputs ?? []).forEach((_, slot) => waiting.push(next.getInputNode?.(slot)));
  }
  return null;
}

/** Give a node's picture a size. */
export function resize({ node, sides }, size) {
  sides.forEach((widget, i) => setWidget(node, widget, size[i]));
}
