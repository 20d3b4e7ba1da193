/** Files of points: fetched once, decoded to arrays for WebGL and the z-buffer. */

import { AtlasStore } from "./atlas.mjs";
import { allocateSurfels, copySurfels, decodeSurfels } from "./surfel_set.mjs";

/**
 * @typedef {object} PointSet
 * @property {number} count whole cells, and the larger parts of split ones
 * @property {Float32Array} position 3 per point, world coordinates
 * @property {Uint8Array} colour 4 per point
 * @property {Uint8Array} feature 4 per point: principal components of the tokens
 * @property {Float32Array} size width of the cell that each point stands for, in scene units
 * @property {Float32Array} frame the pixel frame that each point was seen in
 * @property {boolean} released true when the nearest cell centre takes a point
 * @property {number} stride pixels along each side of what a point stands for
 * @property {import("./surfel_set.mjs").SurfelSet | null} surfels the points as pieces of surface,
 *   and the smaller parts of split cells after them; null where points are pixels
 */

const MAGIC = "MIRPTS02";
const HEADER = 80;
const PLANES = 9;
/** Points that stand for fewer pixels are drawn as dots: there is nothing to see inside of them. */
const LEAST_STRIDE = 4;
const CAMERA = 13;
/** Points cached for all widgets of a page; the least recently used are evicted first. */
const MAX_CACHED = 6e6;

/** @type {Map<string, Promise<PointSet>>} */
const cached = new Map();
/** @type {Map<string, number>} */
const sizes = new Map();
const atlases = new AtlasStore();

/** @returns {PointSet} of nothing */
export const noPoints = () => allocate(0);

function allocate(count, parts = 0, { released = false, stride = 16 } = {}) {
  const all = count + parts;
  const position = new Float32Array(3 * all);
  const colour = new Uint8Array(4 * all);
  const feature = new Uint8Array(4 * all);
  const filled = stride >= LEAST_STRIDE;
  return {
    count,
    position: position.subarray(0, 3 * count),
    colour: colour.subarray(0, 4 * count),
    feature: feature.subarray(0, 4 * count),
    size: new Float32Array(count),
    frame: new Float32Array(count),
    released,
    stride,
    surfels: filled ? allocateSurfels(all, { position, colour, feature, released, stride }) : null,
  };
}

/**
 * Decode a file of points.
 *
 * @param {ArrayBuffer} buffer
 * @param {import("./atlas.mjs").Atlas | null} [atlas] what the points show
 * @returns {PointSet}
 */
export function decodePoints(buffer, atlas = null) {
  const bytes = new Uint8Array(buffer, 0, Math.min(8, buffer.byteLength));
  if (String.fromCharCode(...bytes) !== MAGIC || buffer.byteLength < HEADER) {
    throw new Error("not a file of points");
  }
  const head = new DataView(buffer);
  const [count, cameras, released, parts, stride] = [8, 12, 16, 20, 24].map((at) => head.getUint32(at, true));
  const all = count + parts;
  if (buffer.byteLength !== HEADER + cameras * CAMERA * 8 + all * PLANES * 2) {
    throw new Error("the file of points is truncated");
  }
  const [u0, du, v0, dv, z0, dz] = [32, 40, 48, 56, 64, 72].map((at) => head.getFloat64(at, true));
  const table = new Float64Array(buffer, HEADER, cameras * CAMERA);
  const first = HEADER + cameras * CAMERA * 8;
  const planes = Array.from({ length: PLANES }, (_, i) => new Uint16Array(buffer, first + i * all * 2, all));
  const seen = { u: new Float64Array(all), v: new Float64Array(all), z: new Float64Array(all) };
  for (let i = 0; i < all; i++) {
    seen.z[i] = Math.exp(z0 + dz * planes[2][i]);
    seen.u[i] = u0 + du * planes[0][i];
    seen.v[i] = v0 + dv * planes[1][i];
  }
  const set = allocate(count, parts, { released: released === 1, stride });
  const position = set.surfels?.position ?? set.position;
  for (let i = 0; i < all; i++) {
    const z = seen.z[i];
    const [u, v, row] = [seen.u[i] * z, seen.v[i] * z, planes[3][i] * CAMERA];
    for (let axis = 0, at = row; axis < 3; axis++, at += 3) {
      const value = table[at] * u + table[at + 1] * v + table[at + 2] * z + table[row + 9 + axis];
      if (3 * i + axis < position.length) position[3 * i + axis] = value;
    }
    if (i >= count) continue;
    set.size[i] = z * Math.hypot(table[row], table[row + 3], table[row + 6]);
    set.frame[i] = table[row + 12];
  }
  unpack(planes[4], set.surfels?.colour ?? set.colour);
  unpack(planes[5], set.surfels?.feature ?? set.feature);
  if (set.surfels) decodeSurfels(set.surfels, seen, planes, table, CAMERA, atlas);
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

/** Concatenate several sets of points: whole cells first, then all smaller parts. */
export function joinPoints(sets) {
  if (!sets.length) return noPoints();
  if (sets.length === 1) return sets[0];
  const count = sets.reduce((sum, set) => sum + set.count, 0);
  const parts = sets.reduce((sum, set) => sum + (set.surfels ? set.surfels.count - set.count : 0), 0);
  const { stride } = sets[0];
  const joined = allocate(count, parts, { released: sets.some((set) => set.released), stride });
  let at = 0;
  let partAt = count;
  for (const set of sets) {
    joined.position.set(set.position, 3 * at);
    joined.colour.set(set.colour, 4 * at);
    joined.feature.set(set.feature, 4 * at);
    joined.size.set(set.size, at);
    joined.frame.set(set.frame, at);
    if (joined.surfels && set.surfels) {
      copySurfels(joined.surfels, set.surfels, set.count, at, partAt);
      partAt += set.surfels.count - set.count;
    }
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

/** The files that a node's output describes; whatever else it holds is ignored. */
function filesOf(view) {
  const [still, moving] = [view?.blocks, view?.actors].map((blocks) => (Array.isArray(blocks) ? blocks : []));
  return [...still, ...moving]
    .slice(0, 10000)
    .map((block) => ({
      name: block?.filename, patches: block?.patches, points: block?.points,
      actor: moving.includes(block) ? String(block?.actor) : null,
    }))
    .filter(({ name }) => typeof name === "string" && /^points_\w+\.bin$/.test(name));
}

/** News of a memory in which blocks that were described before still have their pictures. */
export function keepPatches(news, before) {
  const known = new Map(filesOf(before).map(({ name, patches }) => [name, patches]));
  const blocks = Array.isArray(news?.blocks)
    ? news.blocks.map((block) => (known.get(block?.filename) ? { patches: known.get(block.filename), ...block } : block))
    : news?.blocks;
  return { ...news, blocks };
}

/**
 * Fetch the points of a memory; files that came before are not fetched again.
 *
 * @param {object} view what the node reported
 * @param {(path: string) => Promise<Response>} fetchFile
 * @returns {Promise<{still: PointSet, moving: Map<string, PointSet>}>} those of actors by name
 */
export async function loadPoints(view, fetchFile) {
  const files = filesOf(view);
  const used = await atlases.load(files, fetchFile);
  const sets = await Promise.all(files.map(({ name }, i) => loadFile(name, used[i], fetchFile)));
  trim(new Set(files.map(({ name }, i) => keyOf(name, used[i]))));
  const of = (wanted) => joinPoints(sets.filter((_, i) => files[i].actor === wanted));
  const names = new Set(files.map(({ actor }) => actor).filter((actor) => actor !== null));
  return { still: of(null), moving: new Map([...names].map((name) => [name, of(name)])) };
}

/** A block whose picture came later is another set of points. */
const keyOf = (name, atlas) => `${name} ${atlas?.name ?? ""}`;

function loadFile(name, atlas, fetchFile) {
  const key = keyOf(name, atlas);
  let pending = cached.get(key);
  if (!pending) {
    pending = fetchDecoded(name, atlas, fetchFile);
    pending.catch(() => cached.delete(key));
  }
  // Deleted and set again: a Map keeps insertion order, so the most recently used is last.
  cached.delete(key);
  cached.set(key, pending);
  return pending;
}

async function fetchDecoded(name, atlas, fetchFile) {
  const query = new URLSearchParams({ filename: name, subfolder: "mirage", type: "temp" });
  const response = await fetchFile(`/view?${query}`);
  if (!response.ok) throw new Error(`${response.status}`);
  const set = decodePoints(await response.arrayBuffer(), atlas);
  sizes.set(keyOf(name, atlas), set.count);
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
