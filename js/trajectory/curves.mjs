/** Values between keyframes: slopes at the keys, and timing between them. */

/**
 * How a path goes through a keyframe.
 *
 * - `monotone`: never beyond the two neighbours along any axis
 * - `smooth`: in the direction of a parabola through it and its neighbours
 * - `corner`: each side by itself
 * - `rest`: it stops there
 */
export const TANGENTS = Object.freeze(["monotone", "smooth", "corner", "rest"]);

/**
 * Slopes of the monotone cubic (PCHIP, after Fritsch and Carlson) through one coordinate.
 *
 * @param {number[]} step between the knots
 * @param {number[]} rise slope of every straight segment
 */
function monotoneSlopes(step, rise) {
  const last = step.length;
  if (last === 1) return [rise[0], rise[0]];
  const found = new Array(last + 1).fill(0);
  for (let i = 1; i < last; i++) {
    if (rise[i - 1] * rise[i] <= 0) continue;
    const before = 2 * step[i] + step[i - 1];
    const after = step[i] + 2 * step[i - 1];
    found[i] = (before + after) / (before / rise[i - 1] + after / rise[i]);
  }
  found[0] = endSlope(step[0], step[1], rise[0], rise[1]);
  found[last] = endSlope(step[last - 1], step[last - 2], rise[last - 1], rise[last - 2]);
  return found;
}

/** Slope of the parabola through three points at the outer one of them. */
const outerSlope = (step, nextStep, rise, nextRise) =>
  ((2 * step + nextStep) * rise - step * nextRise) / (step + nextStep);

function endSlope(step, nextStep, rise, nextRise) {
  const slope = outerSlope(step, nextStep, rise, nextRise);
  if (Math.sign(slope) !== Math.sign(rise)) return 0;
  const turns = Math.sign(rise) !== Math.sign(nextRise);
  return turns && Math.abs(slope) > 3 * Math.abs(rise) ? 3 * rise : slope;
}

/** Slope on one side of a key, from the segments on that side alone. */
function sideSlope(step, rise, tangents, i, side) {
  const [near, far] = side < 0 ? [i - 1, i - 2] : [i, i + 1];
  if (rise[near] === undefined) return 0;
  if (rise[far] === undefined || tangents[i + side] === "corner") return rise[near];
  return outerSlope(step[near], step[far], rise[near], rise[far]);
}

/**
 * Slopes of one coordinate where it comes to each key, and where it leaves it.
 *
 * @param {number[]} knots frames of the keys
 * @param {number[]} values
 * @param {string[]} tangents of `TANGENTS`
 * @returns {{into: number[], from: number[]}}
 */
export function slopesOf(knots, values, tangents) {
  const step = knots.slice(1).map((knot, i) => knot - knots[i]);
  const rise = step.map((width, i) => (values[i + 1] - values[i]) / width);
  const monotone = tangents.includes("monotone") ? monotoneSlopes(step, rise) : [];
  const last = step.length;
  const pairs = tangents.map((tangent, i) => {
    if (tangent === "rest") return [0, 0];
    if (tangent === "monotone") return [monotone[i], monotone[i]];
    if (tangent === "corner" || i === 0 || i === last) {
      return [-1, 1].map((side) => sideSlope(step, rise, tangents, i, side));
    }
    const slope = (rise[i - 1] * step[i] + rise[i] * step[i - 1]) / (step[i - 1] + step[i]);
    return [slope, slope];
  });
  return { into: pairs.map(([into]) => into), from: pairs.map(([, from]) => from) };
}

/** A cubic between two values, at t in 0..1, with its slopes at both. */
export function hermite(t, span, from, to, slopeFrom, slopeTo) {
  const [a, b] = [t * t * (3 - 2 * t), t * (1 - t)];
  return from + (to - from) * a + span * b * (slopeFrom * (1 - t) - slopeTo * t);
}

/** Quaternions of one path, each of the two signs that is nearer to the one before. */
export function aligned(quaternions) {
  const found = [];
  for (const q of quaternions) {
    const before = found.at(-1) ?? q;
    const cosine = q.reduce((sum, value, i) => sum + value * before[i], 0);
    found.push(cosine < 0 ? q.map((value) => -value) : q);
  }
  return found;
}

/**
 * Handles of the named timings: x is time, y is progress, of a curve from (0, 0) to (1, 1).
 *
 * @type {Readonly<Record<string, number[]>>}
 */
export const HANDLES = Object.freeze({
  linear: [1 / 3, 1 / 3, 2 / 3, 2 / 3],
  smooth: [1 / 3, 0, 2 / 3, 1],
  ease_in: [1 / 3, 0, 2 / 3, 1 / 3],
  ease_out: [1 / 3, 2 / 3, 2 / 3, 1],
});

/** Halvings that leave nothing of an interval of length 1 in double precision. */
const HALVINGS = 54;

const bezier = (s, a, b) => s * (3 * (1 - s) * ((1 - s) * a + s * b) + s * s);

/** The parameter at which a curve's handles reach time t. */
function parameterAt(x1, x2, t) {
  let [low, high] = [0, 1];
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2;
    if (bezier(middle, x1, x2) <= t) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * Progress in 0..1 at time t in 0..1 along a curve with handles (x1, y1) and (x2, y2).
 *
 * @param {number[]} handles x1, y1, x2, y2, all in 0..1
 * @param {number} t
 */
export function progressOf([x1, y1, x2, y2], t) {
  if (t <= 0 || t >= 1) return t <= 0 ? 0 : 1;
  return bezier(parameterAt(x1, x2, t), y1, y2);
}

/** The curves of both parts of a curve that is cut at time t (after de Casteljau). */
export function splitSpeed([x1, y1, x2, y2], t) {
  const s = parameterAt(x1, x2, t);
  const cut = (a, b) => {
    const [left, middle, right] = [s * a, a + s * (b - a), b + s * (1 - b)];
    const [early, late] = [left + s * (middle - left), middle + s * (right - middle)];
    const at = early + s * (late - early);
    const within = (value, from, to) => (to > from ? Math.min(1, Math.max(0, (value - from) / (to - from))) : 0);
    return [[left, early].map((v) => within(v, 0, at)), [late, right].map((v) => within(v, at, 1))];
  };
  const [xs, ys] = [cut(x1, x2), cut(y1, y2)];
  return [0, 1].map((part) => [xs[part][0], ys[part][0], xs[part][1], ys[part][1]]);
}

/** Give a keyframe a timing by its name, or the curve that it has, to be bent. */
export function setTiming(key, name) {
  if (name === "custom") key.speed ??= [...HANDLES[key.easing]];
  else Object.assign(key, { easing: name, speed: undefined });
}
