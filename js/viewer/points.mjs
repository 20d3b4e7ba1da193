/** Files of points: fetched once, decoded to arrays for WebGL and the z-buffer. */

/**
 * @typedef {object} PointSet
 * @property {number} count
 * @property {Float32Array} position 3 per point, world coordinates
 * @property {Uint8Array} colour 4 per point
 * @property {Uint8Array} feature 4 per point: principal components of the tokens
 * @property {Float32Array} size width of the cell that each point stands for, in scene units
 * @property {Float32Array} frame the pixel frame that each point was seen in
 * @property {boolean} released true when the nearest cell centre takes a point
 */

const MAGIC = "MIRPTS01";
const HEADER = 72;
const CAMERA = 13;
/** Points cached for all widgets of a page; the least recently used are evicted first. */
const MAX_CACHED = 6e6;

/** @type {Map<string, Promise<PointSet>>} */
const cached = new Map();
/** @type {Map<string, number>} */
const sizes = new Map();

/** @returns {PointSet} of nothing */
export const noPoints = () => allocate(0);

function allocate(count, released = false) {
  return {
    count,
    position: new Float32Array(3 * count),
    colour: new Uint8Array(4 * count),
    feature: new Uint8Array(4 * count),
    size: new Float32Array(count),
    frame: new Float32Array(count),
    released,
  };
}

/**
 * Decode a file of points.
 *
 * @param {ArrayBuffer} buffer
 * @returns {PointSet}
 */
export function decodePoints(buffer) {
  const bytes = new Uint8Array(buffer, 0, Math.min(8, buffer.byteLength));
  if (String.fromCharCode(...bytes) !== MAGIC || buffer.byteLength < HEADER) {
    throw new Error("not a file of points");
  }
  const head = new DataView(buffer);
  const [count, cameras, released] = [8, 12, 16].map((at) => head.getUint32(at, true));
  if (buffer.byteLength !== HEADER + cameras * CAMERA * 8 + count * 12) {
    throw new Error("the file of points is truncated");
  }
  const [u0, du, v0, dv, z0, dz] = [24, 32, 40, 48, 56, 64].map((at) => head.getFloat64(at, true));
  const table = new Float64Array(buffer, HEADER, cameras * CAMERA);
  const first = HEADER + cameras * CAMERA * 8;
  const planes = [0, 1, 2, 3, 4, 5].map((i) => new Uint16Array(buffer, first + i * count * 2, count));
  const set = allocate(count, released === 1);
  for (let i = 0; i < count; i++) {
    const z = Math.exp(z0 + dz * planes[2][i]);
    const [u, v] = [(u0 + du * planes[0][i]) * z, (v0 + dv * planes[1][i]) * z];
    const row = planes[3][i] * CAMERA;
    for (let axis = 0, at = row; axis < 3; axis++, at += 3) {
      set.position[3 * i + axis] =
        table[at] * u + table[at + 1] * v + table[at + 2] * z + table[row + 9 + axis];
    }
    set.size[i] = z * Math.hypot(table[row], table[row + 3], table[row + 6]);
    set.frame[i] = table[row + 12];
  }
  unpack(planes[4], set.colour);
  unpack(planes[5], set.feature);
  return set;
}

/** 5-6-5 bits to bytes. */
function unpack(packed, bytes) {
  for (let i = 0; i < packed.length; i++) {
    const bits = packed[i];
    bytes[4 * i] = ((bits >> 11) * 255) / 31;
    bytes[4 * i + 1] = (((bits >> 5) & 63) * 255) / 63;
    bytes[4 * i + 2] = ((bits & 31) * 255) / 31;
    bytes[4 * i + 3] = 255;
  }
}

/** Concatenate several sets of points. */
function joinPoints(sets) {
  if (sets.length === 1) return sets[0];
  const count = sets.reduce((sum, set) => sum + set.count, 0);
  const joined = allocate(count, sets.some((set) => set.released));
  let at = 0;
  for (const set of sets) {
    joined.position.set(set.position, 3 * at);
    joined.colour.set(set.colour, 4 * at);
    joined.feature.set(set.feature, 4 * at);
    joined.size.set(set.size, at);
    joined.frame.set(set.frame, at);
    at += set.count;
  }
  return joined;
}

/** Share of points ignored on each side of the extent: far outliers. */
const OUTLIERS = 0.02;

/** Lower and upper corner of the box around nearly all points; null when there are none. */
export function extentOfPoints({ count, position }) {
  if (!count) return null;
  const every = Math.max(1, Math.floor(count / 5000));
  const ranges = [0, 1, 2].map((axis) => {
    const values = [];
    for (let i = 0; i < count; i += every) values.push(position[3 * i + axis]);
    values.sort((a, b) => a - b);
    const skip = Math.floor(values.length * OUTLIERS);
    return [values[skip], values[values.length - 1 - skip]];
  });
  return { low: ranges.map(([low]) => low), high: ranges.map(([, high]) => high) };
}

/** Names of the files that a node's output describes; whatever else it holds is ignored. */
function filesOf(view) {
  const blocks = Array.isArray(view?.blocks) ? view.blocks.slice(0, 10000) : [];
  return blocks
    .map((block) => block?.filename)
    .filter((name) => typeof name === "string" && /^points_\w+\.bin$/.test(name));
}

/**
 * Fetch the points of a memory; files that came before are not fetched again.
 *
 * @param {object} view what the node reported
 * @param {(path: string) => Promise<Response>} fetchFile
 * @returns {Promise<PointSet>}
 */
export async function loadPoints(view, fetchFile) {
  const names = filesOf(view);
  const sets = await Promise.all(names.map((name) => loadFile(name, fetchFile)));
  trim(new Set(names));
  return sets.length ? joinPoints(sets) : noPoints();
}

function loadFile(name, fetchFile) {
  let pending = cached.get(name);
  if (!pending) {
    pending = fetchDecoded(name, fetchFile);
    pending.catch(() => cached.delete(name));
  }
  // Deleted and set again: a Map keeps insertion order, so the most recently used is last.
  cached.delete(name);
  cached.set(name, pending);
  return pending;
}

async function fetchDecoded(name, fetchFile) {
  const query = new URLSearchParams({ filename: name, subfolder: "mirage", type: "temp" });
  const response = await fetchFile(`/view?${query}`);
  if (!response.ok) throw new Error(`${response.status}`);
  const set = decodePoints(await response.arrayBuffer());
  sizes.set(name, set.count);
  return set;
}

function trim(inUse) {
  let total = [...cached.keys()].reduce((sum, name) => sum + (sizes.get(name) ?? 0), 0);
  for (const name of [...cached.keys()]) {
    if (total <= MAX_CACHED) return;
    if (inUse.has(name)) continue;
    total -= sizes.get(name) ?? 0;
    cached.delete(name);
    sizes.delete(name);
  }
}
