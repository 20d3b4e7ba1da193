/** Walking by keys: the language of the node's `keys`, and recording it from a keyboard. */

import { add, multiply, rotate, rotationAbout, scale } from "../viewer/math.mjs";
import { emptyPath, setFromStart, STRIDE } from "../viewer/scene.mjs";

const MAX_STEPS = 100000;
const MAX_TEXT = 1 << 20;
/** Walking distance of one step in scene depths, and one turn. */
const STEP = 0.01;
const TURN = Math.PI / 180;
const MAX_LOOK = 90;

/** Forward, right, turn right, look up. */
const KEYS = {
  w: [1, 0, 0, 0],
  s: [-1, 0, 0, 0],
  a: [0, -1, 0, 0],
  d: [0, 1, 0, 0],
  j: [0, 0, -1, 0],
  l: [0, 0, 1, 0],
  i: [0, 0, 0, 1],
  k: [0, 0, 0, -1],
  ".": [0, 0, 0, 0],
};

/** Keys of a keyboard, by `KeyboardEvent.code`, so that they lie alike on every layout. */
export const KEYBOARD = Object.freeze({
  KeyW: "w",
  KeyA: "a",
  KeyS: "s",
  KeyD: "d",
  ArrowUp: "i",
  ArrowDown: "k",
  ArrowLeft: "j",
  ArrowRight: "l",
});

/** A walker; `step` moves it. Its position is in the axes of the start camera, in scene depths. */
class Walker {
  constructor() {
    this.position = [0, 0, 0];
    this.turned = 0;
    this.looked = 0;
  }

  /** @param {string} keys that act together */
  step(keys) {
    const move = [0, 0, 0, 0];
    for (const key of keys) KEYS[key].forEach((part, i) => (move[i] += part));
    const heading = rotationAbout(1, (this.turned + move[2] / 2) * TURN);
    this.turned += move[2];
    this.looked += move[3];
    this.position = add(this.position, scale(rotate(heading, [move[1], 0, move[0]]), STEP));
  }

  get rotation() {
    const turned = rotationAbout(1, this.turned * TURN);
    return multiply(turned, rotationAbout(0, this.looked * TURN));
  }
}

/**
 * Read a text of keys such as `w*16 l*24`.
 *
 * @param {string} text
 * @returns {{keys: string, count: number}[] | null} null when the server would refuse it
 */
function parseKeys(text) {
  if (text.length > MAX_TEXT) return null;
  const tokens = [];
  let total = 0;
  for (const word of text.split(/[\s,]+/).filter(Boolean)) {
    const match = /^([wasdijkl.]+)(?:\*(\d{1,7}))?$/i.exec(word);
    if (!match) return null;
    const keys = match[1].toLowerCase();
    const count = match[2] === undefined ? 1 : Number(match[2]);
    total += count;
    if (new Set(keys).size < keys.length || count === 0 || total > MAX_STEPS) return null;
    tokens.push({ keys, count });
  }
  return tokens.length ? tokens : null;
}

/**
 * The path of a walk: 4n + 1 frames, the last pose held.
 *
 * @returns {import("../viewer/scene.mjs").Path | null} null when the text is malformed
 */
export function walkPath(text, scene) {
  const tokens = parseKeys(text);
  if (!tokens) return null;
  const steps = tokens.reduce((sum, token) => sum + token.count, 0);
  const path = emptyPath(Math.ceil(steps / STRIDE) * STRIDE + 1);
  const walker = new Walker();
  setFromStart(path, 0, scene, walker.rotation, walker.position);
  let frame = 1;
  for (const { keys, count } of tokens) {
    for (let i = 0; i < count; i++, frame++) {
      walker.step(keys);
      if (Math.abs(walker.looked) > MAX_LOOK) return null;
      setFromStart(path, frame, scene, walker.rotation, walker.position);
    }
  }
  for (; frame < path.length; frame++) {
    setFromStart(path, frame, scene, walker.rotation, walker.position);
  }
  return path;
}

const textOf = (tokens) =>
  tokens.map(({ keys, count }) => (count > 1 ? `${keys}*${count}` : keys)).join(" ");

/** Records a walk. */
export class Recorder {
  constructor() {
    this.#replay([]);
  }

  /** Goes on with a walk in the node's language; one that is malformed or empty begins anew. */
  static from(text) {
    const recorder = new Recorder();
    recorder.#replay(parseKeys(text) ?? []);
    return recorder;
  }

  #replay(tokens) {
    this.walker = new Walker();
    /** @type {{keys: string, count: number}[]} */
    this.tokens = tokens;
    this.steps = 0;
    for (const { keys, count } of tokens) {
      for (let i = 0; i < count; i++) this.walker.step(keys);
      this.steps += count;
    }
  }

  /** Take back the last keys that were held together. */
  undo() {
    this.#replay(this.tokens.slice(0, -1));
  }

  /**
   * One frame of walking; a step that would look beyond straight up or down loses that key.
   *
   * @param {Iterable<string>} held
   */
  step(held) {
    let keys = [...new Set(held)].sort().join("");
    const look = this.walker.looked + (keys.includes("i") ? 1 : 0) - (keys.includes("k") ? 1 : 0);
    if (Math.abs(look) > MAX_LOOK) keys = keys.replace(/[ik]/g, "");
    if (this.steps >= MAX_STEPS) return;
    keys ||= ".";
    this.walker.step(keys);
    this.steps += 1;
    const last = this.tokens.at(-1);
    if (last?.keys === keys) last.count += 1;
    else this.tokens.push({ keys, count: 1 });
  }

  /** The walk in the node's language. */
  get text() {
    return textOf(this.tokens);
  }

  /** The first steps of it. */
  textOf(steps) {
    const tokens = [];
    for (const { keys, count } of this.tokens) {
      if (steps > 0) tokens.push({ keys, count: Math.min(count, steps) });
      steps -= count;
    }
    return textOf(tokens);
  }
}
