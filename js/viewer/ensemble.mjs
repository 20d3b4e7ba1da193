/** The still points of a memory together with its actors, each at its place. */

import { add, multiply, rotate, subtract } from "./math.mjs";
import { joinPoints, noPoints } from "./points.mjs";
import { sharedRenderer } from "./renderer.mjs";

/** Points up to which actors are moved while a shot is scrubbed: every move copies all of them. */
const MOST_MOVED = 120_000;

/**
 * @typedef {{rotation: number[], position: number[]}} Stand axes of an actor, as columns, and its place
 */

/** A set of points as it is after a turn and a shift; what does not change is shared. */
export function movedPoints(set, rotation, shift) {
  const [a, b, c, d, e, f, g, h, i] = rotation;
  const turned = (vectors, [p, q, r] = shift) => {
    const moved = new Float32Array(vectors.length);
    for (let at = 0; at < vectors.length; at += 3) {
      const [x, y, z] = [vectors[at], vectors[at + 1], vectors[at + 2]];
      moved[at] = a * x + b * y + c * z + p;
      moved[at + 1] = d * x + e * y + f * z + q;
      moved[at + 2] = g * x + h * y + i * z + r;
    }
    return moved;
  };
  const { surfels } = set;
  if (!surfels) return { ...set, position: turned(set.position) };
  const observers = surfels.observers.slice();
  for (let at = 0; at < observers.length; at += 4) {
    observers.set(add(rotate(rotation, observers.subarray(at, at + 3)), shift), at);
  }
  const position = turned(surfels.position);
  const [across, down] = [surfels.across, surfels.down].map((edges) => turned(edges, [0, 0, 0]));
  return {
    ...set,
    position: position.subarray(0, 3 * set.count),
    surfels: { ...surfels, position, across, down, observers },
  };
}

const transposed = (r) => [r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]];

/** What a memory shows; actors can be put to other places. */
export class Ensemble {
  /**
   * @param {import("./points.mjs").PointSet} still
   * @param {Map<string, import("./points.mjs").PointSet>} moving by name of the actor
   */
  constructor(still = noPoints(), moving = new Map()) {
    Object.assign(this, { still, moving });
    this.key = "";
    this.shown = joinPoints([still, ...moving.values()].filter(({ count }) => count));
  }

  /**
   * The points with actors elsewhere.
   *
   * @param {Map<string, {from: Stand, to: Stand | null}>} moves of actors, by name; those that are
   *   nowhere have no `to`, and others stay
   * @returns {import("./points.mjs").PointSet} the same object while nothing moved
   */
  at(moves) {
    const { count, surfels } = this.shown;
    if (!this.moving.size || (surfels?.count ?? count) > MOST_MOVED) return this.shown;
    const wanted = [...this.moving].map(([name, set]) => [set, moves.get(name)]);
    const key = JSON.stringify(wanted.map(([, move]) => move ?? null));
    if (key === this.key) return this.shown;
    this.key = key;
    const moved = wanted.filter(([, move]) => !move || move.to).map(([set, move]) => {
      if (!move) return set;
      const { from, to } = move;
      const rotation = multiply(to.rotation, transposed(from.rotation));
      return movedPoints(set, rotation, subtract(to.position, rotate(rotation, from.position)));
    });
    const before = this.shown;
    this.shown = joinPoints([this.still, ...moved].filter(({ count }) => count));
    if (before !== this.still) sharedRenderer()?.release(before);
    return this.shown;
  }
}
