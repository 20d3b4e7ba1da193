/**
 * Vectors, rotations and quaternions in the pack's axes: x right, y down, z forward.
 *
 * Vectors are arrays of 3, rotations arrays of 9 in row order, quaternions (x, y, z, w).
 *
 * @typedef {number[]} Vector
 * @typedef {number[]} Rotation
 * @typedef {number[]} Quaternion
 * @typedef {{rotation: Rotation, position: Vector}} Pose camera to world
 */

export const IDENTITY = Object.freeze([1, 0, 0, 0, 1, 0, 0, 0, 1]);

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const scale = (a, factor) => [a[0] * factor, a[1] * factor, a[2] * factor];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const norm = (a) => Math.hypot(a[0], a[1], a[2]);
export const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);

/** @returns {Vector} */
export function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

/** The vector at length 1; a zero vector stays. */
function normalised(a) {
  const length = norm(a);
  return length > 0 ? scale(a, 1 / length) : [...a];
}

/** Rotation times vector. */
export function rotate(r, v) {
  return [
    r[0] * v[0] + r[1] * v[1] + r[2] * v[2],
    r[3] * v[0] + r[4] * v[1] + r[5] * v[2],
    r[6] * v[0] + r[7] * v[1] + r[8] * v[2],
  ];
}

/** Transposed rotation times vector: the way back. */
export function unrotate(r, v) {
  return [
    r[0] * v[0] + r[3] * v[1] + r[6] * v[2],
    r[1] * v[0] + r[4] * v[1] + r[7] * v[2],
    r[2] * v[0] + r[5] * v[1] + r[8] * v[2],
  ];
}

/** Product of two rotations. */
export function multiply(a, b) {
  const product = new Array(9);
  for (let row = 0; row < 3; row++) {
    for (let column = 0; column < 3; column++) {
      product[row * 3 + column] =
        a[row * 3] * b[column] + a[row * 3 + 1] * b[3 + column] + a[row * 3 + 2] * b[6 + column];
    }
  }
  return product;
}

/** Right-handed rotation about axis 0 (x), 1 (y) or 2 (z). */
export function rotationAbout(axis, radians) {
  const [j, k] = [(axis + 1) % 3, (axis + 2) % 3];
  const rotation = [0, 0, 0, 0, 0, 0, 0, 0, 0];
  rotation[axis * 4] = 1;
  rotation[j * 4] = rotation[k * 4] = Math.cos(radians);
  rotation[j * 3 + k] = -Math.sin(radians);
  rotation[k * 3 + j] = Math.sin(radians);
  return rotation;
}

/** Rotation (camera to world) of an upright camera at a position that faces a target. */
export function lookAt(position, target) {
  const forward = normalised(subtract(target, position));
  const sideways = cross([0, 1, 0], forward);
  // Straight up or down there is no upright: keep x to the right.
  const right = norm(sideways) > 1e-6 ? normalised(sideways) : [1, 0, 0];
  const down = cross(forward, right);
  return [
    right[0], down[0], forward[0],
    right[1], down[1], forward[1],
    right[2], down[2], forward[2],
  ];
}

/** The viewing direction of a camera. */
export const forwardOf = (rotation) => [rotation[2], rotation[5], rotation[8]];

/** @returns {Quaternion} of length 1 */
export function unitQuaternion(q) {
  const largest = Math.max(...q.map(Math.abs));
  const scaled = q.map((value) => value / largest);
  const length = Math.hypot(...scaled);
  return scaled.map((value) => value / length);
}

/** @returns {Rotation} of a quaternion of any length but 0 */
export function rotationOf(quaternion) {
  const [x, y, z, w] = unitQuaternion(quaternion);
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
    2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
    2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
  ];
}

/** @returns {Quaternion} of a rotation, w not negative */
export function quaternionOf(r) {
  // The largest of the four is computed first, for the sake of its accuracy.
  const squares = [
    1 + r[0] - r[4] - r[8],
    1 - r[0] + r[4] - r[8],
    1 - r[0] - r[4] + r[8],
    1 + r[0] + r[4] + r[8],
  ];
  const largest = squares.indexOf(Math.max(...squares));
  const q = [
    [squares[0], r[1] + r[3], r[2] + r[6], r[7] - r[5]],
    [r[1] + r[3], squares[1], r[5] + r[7], r[2] - r[6]],
    [r[2] + r[6], r[5] + r[7], squares[2], r[3] - r[1]],
    [r[7] - r[5], r[2] - r[6], r[3] - r[1], squares[3]],
  ][largest];
  const unit = unitQuaternion(q);
  return unit[3] < 0 ? unit.map((value) => -value) : unit;
}

/** The quaternion between a and b at t in 0..1, the shortest way. */
export function slerp(a, b, t) {
  let cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
  const sign = cosine < 0 ? -1 : 1;
  cosine = Math.min(1, cosine * sign);
  const angle = Math.acos(cosine);
  const sine = Math.sin(angle);
  const [p, q] =
    sine < 1e-9 ? [1 - t, t] : [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return unitQuaternion(a.map((value, i) => p * value + q * sign * b[i]));
}

/** Angle in radians between two rotations. */
export function angleBetween(a, b) {
  let trace = 0;
  for (let i = 0; i < 9; i++) trace += a[i] * b[i];
  return Math.acos(clamp((trace - 1) / 2, -1, 1));
}
