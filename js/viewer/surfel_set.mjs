/** Points as pieces of surface: where each lies, how it leans, who saw it, and what it shows. */

/**
 * @typedef {object} SurfelSet
 * @property {number} count
 * @property {Float32Array} position 3 for each, world coordinates; the middle of its part of a cell
 * @property {Float32Array} across 3 for each: from there half a cell to the right, on the surface
 * @property {Float32Array} down 3 for each: half a cell downwards
 * @property {Float32Array} lean sum of both slopes, without sign: relative change of inverse depth
 * @property {Uint16Array} mask the squares of its cell that it stands for, of 4 x 4
 * @property {Uint32Array} source who saw it: its number among the observers
 * @property {Float32Array} observers 4 for each camera: place, and focal length in cells
 * @property {Uint8Array} colour 4 for each
 * @property {Uint8Array} feature 4 for each
 * @property {Uint32Array} tile its square in its picture
 * @property {Uint16Array} atlas its picture's number from 1 on; 0 for those of one colour
 * @property {import("./atlas.mjs").Atlas[]} atlases
 * @property {boolean} released
 * @property {number} stride
 */

const LEAN_UNIT = 1 << 14;
export const WHOLE = 0xffff;
/** Squares along each side of a mask. */
const SIDE = 4;

/** @returns {SurfelSet} of which arrays are still to be filled */
export function allocateSurfels(count, shared) {
  return {
    ...shared,
    count,
    across: new Float32Array(3 * count),
    down: new Float32Array(3 * count),
    lean: new Float32Array(count),
    mask: new Uint16Array(count),
    source: new Uint32Array(count),
    observers: new Float32Array(0),
    tile: new Uint32Array(count),
    atlas: new Uint16Array(count),
    atlases: [],
  };
}

/**
 * Fill a set from the planes of a file.
 *
 * @param {SurfelSet} set whose positions are known
 * @param {{u: Float64Array, v: Float64Array, z: Float64Array}} seen places in the camera that saw
 * @param {Uint16Array[]} planes of the file
 * @param {Float64Array} table of cameras
 * @param {number} columns of that table
 * @param {import("./atlas.mjs").Atlas | null} atlas
 */
export function decodeSurfels(set, seen, planes, table, columns, atlas) {
  const leans = [planes[6], planes[7]].map((plane) => new Int16Array(plane.buffer, plane.byteOffset, plane.length));
  set.source.set(planes[3]);
  set.mask.set(planes[8]);
  set.observers = observersOf(table, columns);
  if (atlas) {
    const squares = atlas.columns * (atlas.image.height / atlas.side);
    set.atlases = [atlas];
    set.atlas.fill(1, 0, squares);
  }
  for (let i = 0; i < set.count; i++) {
    const row = set.source[i] * columns;
    const [right, below] = [leans[0][i] / LEAN_UNIT, leans[1][i] / LEAN_UNIT];
    set.tile[i] = i;
    set.lean[i] = Math.abs(right) + Math.abs(below);
    edge(set.across, set.position, i, table, row, seen.u[i] + 0.5, seen.v[i], seen.z[i] / (1 + 0.5 * right));
    edge(set.down, set.position, i, table, row, seen.u[i], seen.v[i] + 0.5, seen.z[i] / (1 + 0.5 * below));
  }
}

/** From a point to the middle of an edge of its cell, given where the camera sees that. */
function edge(into, position, i, table, row, u, v, z) {
  for (let axis = 0, at = row; axis < 3; axis++, at += 3) {
    const place = (table[at] * u + table[at + 1] * v + table[at + 2]) * z + table[row + 9 + axis];
    into[3 * i + axis] = place - position[3 * i + axis];
  }
}

/** Place and focal length of every camera of the table, from its inverse matrix. */
function observersOf(table, columns) {
  const count = table.length / columns;
  const observers = new Float32Array(4 * count);
  for (let i = 0; i < count; i++) {
    const row = i * columns;
    const [x, y] = [0, 1].map((axis) => Math.hypot(table[row + axis], table[row + 3 + axis], table[row + 6 + axis]));
    observers.set([table[row + 9], table[row + 10], table[row + 11], 1 / Math.sqrt(x * y)], 4 * i);
  }
  return observers;
}

/**
 * Copy a set into a larger one.
 *
 * @param {SurfelSet} into
 * @param {SurfelSet} from
 * @param {number} whole how many stand for whole cells or larger parts
 * @param {number} at where those go
 * @param {number} partAt where the smaller parts go
 */
export function copySurfels(into, from, whole, at, partAt) {
  const cameras = into.observers.length / 4;
  const pictures = into.atlases.length;
  const observers = new Float32Array(into.observers.length + from.observers.length);
  observers.set(into.observers);
  observers.set(from.observers, into.observers.length);
  into.observers = observers;
  into.atlases = [...into.atlases, ...from.atlases];
  for (const [begin, end, to] of [[0, whole, at], [whole, from.count, partAt]]) {
    for (const name of ["position", "across", "down"]) into[name].set(from[name].subarray(3 * begin, 3 * end), 3 * to);
    for (const name of ["colour", "feature"]) into[name].set(from[name].subarray(4 * begin, 4 * end), 4 * to);
    for (const name of ["lean", "mask", "tile"]) into[name].set(from[name].subarray(begin, end), to);
    for (let i = begin; i < end; i++) {
      into.source[to + i - begin] = from.source[i] + cameras;
      into.atlas[to + i - begin] = from.atlas[i] && from.atlas[i] + pictures;
    }
  }
}

/** The middle of a mask, x then y, from -1 to 1 across the cell. */
export function maskCentre(mask) {
  if (mask === WHOLE || !mask) return [0, 0];
  let [x, y, count] = [0, 0, 0];
  for (let bit = 0; bit < SIDE * SIDE; bit++) {
    if (!((mask >> bit) & 1)) continue;
    x += ((bit % SIDE) + 0.5) * (2 / SIDE) - 1;
    y += (Math.floor(bit / SIDE) + 0.5) * (2 / SIDE) - 1;
    count++;
  }
  return [x / count, y / count];
}
